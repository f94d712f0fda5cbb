//! The wire between two nodes, beside plain TCP with nothing on it, which is the floor, and Erlang's distribution, which is not secret.

use super::far::{Far, SINK, SIZED, key_of, start};
use crate::Outcome;
use crate::bench::local::compare::{Better, Row, Side, compare};
use crate::step::output;
use abi::ids::NodeKey;
use drivers::wire::{Ask, AskError, Class, LinkState, Wire};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
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
    let erlang = match Erlang::start() {
        Ok(erlang) => Some(RefCell::new(erlang)),
        Err(error) => {
            eprintln!("wire: without Erlang: {error}");
            None
        }
    };
    let mut rows = vec![];
    for (what, bytes) in [("64 bytes there and back", 64), ("4 KiB page", 4 << 10), ("64 KiB page", 64 << 10)] {
        for (rank, share) in [("p50", 0.5), ("p99", 0.99)] {
            let class = if bytes > 64 { Class::Page } else { Class::Call };
            let mut sides = vec![
                Side::new("una", || una.chained(class, bytes, share)),
                Side::new("una, a thread that waits", || una.waited(class, bytes, share)),
                Side::new("plain TCP", || tcp.borrow_mut().pings(bytes, share)),
            ];
            if let Some(erlang) = &erlang {
                sides.push(Side::new("Erlang, not secret", move || erlang.borrow_mut().pings(bytes, share)));
            }
            rows.push(compare(&format!("{what}, {rank}"), "us", Better::Less, rounds, sides)?);
        }
    }
    for in_flight in [64, 1000] {
        let mut sides = vec![Side::new("una", || una.many(in_flight))];
        if let Some(erlang) = &erlang {
            sides.push(Side::new("Erlang, not secret", move || erlang.borrow_mut().many(in_flight)));
        }
        rows.push(compare(&format!("requests, {in_flight} in flight"), "1000/s", Better::More, rounds, sides)?);
    }
    let sides = vec![Side::new("una", || una.bulk()), Side::new("plain TCP", || tcp.borrow_mut().bulk())];
    rows.push(compare("a stream of 128 MiB", "MB/s", Better::More, rounds, sides)?);
    let sides = vec![Side::new("una", || una.under_bulk())];
    rows.push(compare("64 bytes while a stream runs, p99", "us", Better::Less, rounds, sides)?);
    Ok(rows)
}

/// The figure at this share of all, in microseconds.
fn ranked(mut nanoseconds: Vec<u64>, share: f64) -> f64 {
    nanoseconds.sort_unstable();
    let place = ((nanoseconds.len() as f64 * share) as usize).min(nanoseconds.len().saturating_sub(1));
    nanoseconds.get(place).map_or(f64::NAN, |value| *value as f64 / 1000.0)
}

fn request(bytes: usize) -> [u8; 64] {
    let mut request = [0; 64];
    request[..4].copy_from_slice(&(bytes as u32).to_le_bytes());
    request
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

fn expect_length(found: usize, wanted: usize) -> Outcome {
    if found != wanted {
        return Err(format!("{found} bytes instead of {wanted}").into());
    }
    Ok(())
}

struct Tcp {
    far: Far,
    socket: TcpStream,
}

impl Tcp {
    fn start() -> Outcome<Tcp> {
        let far = Far::start(&["tcp"])?;
        let socket = TcpStream::connect(&far.line)?;
        socket.set_nodelay(true)?;
        Ok(Tcp { far, socket })
    }

    fn pings(&mut self, bytes: usize, share: f64) -> Outcome<f64> {
        let (request, mut answer) = (request(bytes), vec![0; bytes]);
        let mut times = Vec::with_capacity(PINGS as usize);
        for _ in 0..PINGS {
            let start = Instant::now();
            self.socket.write_all(&request)?;
            self.socket.read_exact(&mut answer)?;
            times.push(start.elapsed().as_nanos() as u64);
        }
        Ok(ranked(times, share))
    }

    fn bulk(&mut self) -> Outcome<f64> {
        let mut socket = TcpStream::connect(&self.far.line)?;
        let (piece, start) = (vec![5; 256 << 10], Instant::now());
        socket.write_all(&request(0))?;
        for _ in 0..BULK_BYTES / piece.len() {
            socket.write_all(&piece)?;
        }
        socket.shutdown(Shutdown::Write)?;
        let mut counted = [0; 8];
        socket.read_exact(&mut counted)?;
        expect_length(u64::from_le_bytes(counted) as usize, BULK_BYTES)?;
        Ok(BULK_BYTES as f64 / start.elapsed().as_secs_f64() / 1e6)
    }
}

/// Two Erlang systems on this machine that know each other by a port of their own, so that no registry is left running.
struct Erlang {
    near: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    _far: Far,
}

const ADVICE: &str = "Debian's package erlang-base has it";

impl Erlang {
    fn start() -> Outcome<Erlang> {
        let directory = crate::root().join("target/bench/cluster");
        std::fs::create_dir_all(&directory)?;
        let source = crate::root().join("bench/cluster/far.erl");
        output(Command::new("erlc").arg("-o").arg(&directory).arg(source), ADVICE)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let erl = |name: &str, more: &[&str]| {
            let mut command = Command::new("erl");
            command.args(["-noshell", "-pa"]).arg(&directory).args(["-setcookie", "una", "-name", name]);
            command.args(["-start_epmd", "false", "-erl_epmd_port", &port]).args(more);
            command
        };
        let far = Far::of(&mut erl("far@127.0.0.1", &["-s", "far", "serve"]))?;
        let mut near = erl("near@127.0.0.1", &["-dist_listen", "false", "-s", "far", "main"]);
        let mut near = near.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let questions = near.stdin.take().ok_or("a pipe was asked for")?;
        let answers = BufReader::new(near.stdout.take().ok_or("a pipe was asked for")?);
        let mut erlang = Erlang { near, questions, answers, _far: far };
        match erlang.ask("ready 0 0")?.as_str() {
            "1" => Ok(erlang),
            _ => Err("its nodes do not find each other".into()),
        }
    }

    fn ask(&mut self, line: &str) -> Outcome<String> {
        writeln!(self.questions, "{line}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(answer.trim_end().into())
    }

    fn pings(&mut self, bytes: usize, share: f64) -> Outcome<f64> {
        let answer = self.ask(&format!("pings {PINGS} {bytes}"))?;
        let times: Result<Vec<u64>, _> = answer.split(' ').map(str::parse).collect();
        Ok(ranked(times.map_err(|_| format!("`{answer}` instead of times"))?, share))
    }

    fn many(&mut self, in_flight: u32) -> Outcome<f64> {
        let each = MANY / in_flight;
        let answer = self.ask(&format!("many {each} {in_flight}"))?;
        let nanoseconds: f64 = answer.parse().map_err(|_| format!("`{answer}` instead of a time"))?;
        Ok(f64::from(each * in_flight) / nanoseconds * 1e6)
    }
}

impl Drop for Erlang {
    fn drop(&mut self) {
        // It only answers questions: nothing is lost.
        let _ = self.near.kill();
        let _ = self.near.wait();
    }
}
