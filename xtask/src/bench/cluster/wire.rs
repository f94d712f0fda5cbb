//! The wire between two nodes, beside plain TCP with nothing on it, which is the floor, and Erlang's distribution, which is not secret.

use super::far::{Far, SINK, SIZED, Tcp, expect_length, key_of, request, start};
use super::peers;
use super::ranked;
use crate::Outcome;
use crate::bench::local::compare::{Better, Row, Side, compare};
use abi::ids::NodeKey;
use drivers::wire::{Ask, AskError, Class, LinkState, Wire};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// For an answer, on a machine however busy.
const SOON: Duration = Duration::from_secs(60);

/// Round trips of one figure.
const PINGS: u32 = 2000;
/// Requests of one figure with many in flight.
const MANY: u32 = 50_000;
const BULK_BYTES: usize = 128 << 20;

pub fn measure(rounds: u32) -> Outcome<Vec<Row>> {
    let una = Una::start()?;
    let tcp = RefCell::new(Tcp::start()?);
    let erlang = super::or_without("wire", peers::erlang(false)).map(RefCell::new);
    let mut rows = vec![];
    for (what, bytes) in [("64 bytes there and back", 64), ("4 KiB page", 4 << 10), ("64 KiB page", 64 << 10)] {
        for (rank, share) in [("p50", 0.5), ("p99", 0.99)] {
            let class = if bytes > 64 { Class::Page } else { Class::Call };
            let mut sides = vec![
                Side::new("una", || una.chained(class, bytes, share)),
                Side::new("una, a thread that waits", || una.waited(class, bytes, share)),
                Side::new("plain TCP", || tcp.borrow_mut().pings(PINGS, bytes, share)),
            ];
            if let Some(erlang) = &erlang {
                let take = move || Ok(ranked(erlang.borrow_mut().pings(PINGS, bytes)?, share));
                sides.push(Side::new("Erlang, not secret", take));
            }
            rows.push(compare(&format!("{what}, {rank}"), "us", Better::Less, rounds, sides)?);
        }
    }
    for in_flight in [64, 1000] {
        let mut sides = vec![Side::new("una", || una.many(in_flight))];
        if let Some(erlang) = &erlang {
            sides.push(Side::new("Erlang, not secret", move || erlang.borrow_mut().many(MANY, in_flight)));
        }
        rows.push(compare(&format!("requests, {in_flight} in flight"), "1000/s", Better::More, rounds, sides)?);
    }
    let sides = vec![Side::new("una", || una.bulk()), Side::new("plain TCP", || tcp.borrow_mut().bulk(BULK_BYTES))];
    rows.push(compare("a stream of 128 MiB", "MB/s", Better::More, rounds, sides)?);
    let sides = vec![Side::new("una", || una.under_bulk())];
    rows.push(compare("64 bytes while a stream runs, p99", "us", Better::Less, rounds, sides)?);
    Ok(rows)
}

struct Una {
    wire: Wire,
    peer: NodeKey,
    _far: Far,
}

impl Una {
    fn start() -> Outcome<Una> {
        let wire = start("near", &[])?;
        let far = Far::start(&["wire", &wire.me().to_string()])?;
        let (key, at) = far.line.split_once(' ').ok_or("the other end did not start")?;
        let peer = key_of(key).ok_or("the other end has no key")?;
        wire.admit(peer, &[at.parse()?]);
        let deadline = Instant::now() + SOON;
        while !wire.links().iter().any(|view| matches!(view.state, LinkState::Linked { .. })) {
            if Instant::now() > deadline {
                return Err(format!("no link: {:?}", wire.links()).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Una { wire, peer, _far: far })
    }

    /// One request after the other, each made where the answer arrives.
    fn chained(&self, class: Class, bytes: usize, share: f64) -> Outcome<f64> {
        let (done, all) = channel();
        let times = Vec::with_capacity(PINGS as usize);
        next(Chain { wire: self.wire.clone(), peer: self.peer, class, bytes, left: PINGS, times, done });
        Ok(ranked(all.recv_timeout(SOON)??, share))
    }

    /// One request after the other, by a thread that sleeps until the answer is there.
    fn waited(&self, class: Class, bytes: usize, share: f64) -> Outcome<f64> {
        let mut times = Vec::with_capacity(PINGS as usize);
        for _ in 0..PINGS {
            let start = Instant::now();
            let body = request(bytes);
            let ask = Ask { service: SIZED, class, body: &body, deadline: start + SOON };
            let answer = self.wire.ask_and_wait(self.peer, ask)?;
            times.push(start.elapsed().as_nanos() as u64);
            expect_length(answer.len(), bytes)?;
        }
        Ok(ranked(times, share))
    }

    /// Thousands of requests a second.
    fn many(&self, in_flight: u32) -> Outcome<f64> {
        let (done, all) = channel();
        let start = Instant::now();
        for _ in 0..in_flight {
            let left = MANY / in_flight;
            let times = Vec::with_capacity(left as usize);
            let chain = Chain {
                wire: self.wire.clone(),
                peer: self.peer,
                class: Class::Call,
                bytes: 64,
                left,
                times,
                done: done.clone(),
            };
            next(chain);
        }
        for _ in 0..in_flight {
            all.recv_timeout(SOON)??;
        }
        Ok(f64::from(MANY / in_flight * in_flight) / start.elapsed().as_secs_f64() / 1000.0)
    }

    fn bulk(&self) -> Outcome<f64> {
        let mut stream = self.wire.open(self.peer, SINK, b"", Instant::now() + SOON)?;
        stream.set_deadline(Some(Instant::now() + SOON));
        let (piece, start) = (vec![5; 256 << 10], Instant::now());
        for _ in 0..BULK_BYTES / piece.len() {
            stream.write_all(&piece)?;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut counted = [0; 8];
        stream.read_exact(&mut counted)?;
        expect_length(u64::from_le_bytes(counted) as usize, BULK_BYTES)?;
        Ok(BULK_BYTES as f64 / start.elapsed().as_secs_f64() / 1e6)
    }

    fn under_bulk(&self) -> Outcome<f64> {
        std::thread::scope(|scope| {
            let bulk = scope.spawn(|| self.bulk().map_err(|error| error.to_string()));
            let mut times = vec![];
            while !bulk.is_finished() {
                let start = Instant::now();
                let ask = Ask { service: SIZED, class: Class::Call, body: &request(64), deadline: start + SOON };
                self.wire.ask_and_wait(self.peer, ask)?;
                times.push(start.elapsed().as_nanos() as u64);
                std::thread::sleep(Duration::from_millis(1));
            }
            bulk.join().map_err(|_| "the stream failed")??;
            Ok(ranked(times, 0.99))
        })
    }
}

/// Requests one after the other, and how long each took.
struct Chain {
    wire: Wire,
    peer: NodeKey,
    class: Class,
    bytes: usize,
    left: u32,
    times: Vec<u64>,
    done: Sender<Result<Vec<u64>, AskError>>,
}

fn next(mut chain: Chain) {
    if chain.left == 0 {
        // Whoever waited may have given up.
        let _ = chain.done.send(Ok(chain.times));
        return;
    }
    chain.left -= 1;
    let (wire, peer) = (chain.wire.clone(), chain.peer);
    let start = Instant::now();
    let ask = Ask { service: SIZED, class: chain.class, body: &request(chain.bytes), deadline: start + SOON };
    let arrived = move |answer: Result<Vec<u8>, AskError>| match answer {
        Ok(answer) if answer.len() == chain.bytes => {
            chain.times.push(start.elapsed().as_nanos() as u64);
            next(chain);
        }
        Ok(answer) => drop(chain.done.send(Err(AskError::Failed(format!("{} bytes", answer.len()))))),
        Err(error) => drop(chain.done.send(Err(error))),
    };
    wire.ask(peer, ask, Box::new(arrived));
}
