//! Calls between programs on two nodes, beside the same by other systems and beside plain TCP, which is the floor.

use super::far::Tcp;
use super::peers::{self, Peer};
use super::system::System;
use super::{or_without, ranked};
use crate::Outcome;
use crate::bench::local::compare::{Better, Row, Side, compare};
use std::cell::RefCell;

/// Calls of one figure, and of one with many under way.
const CALLS: u32 = 1000;
const MANY: u32 = 20_000;
const NAMES: u32 = 200;

pub fn measure(rounds: u32) -> Outcome<Vec<Row>> {
    let system = System::start("calls", 3)?;
    let program = system.program("calls")?;
    // The one is first in the system and has most of its offices, the other has none of its own.
    system.speak(1, &["run", "-d", "--on", "n3-box", &program, "serve", "/port/far"])?;
    system.speak(1, &["run", "-d", "--on", "n2-box", &program, "serve", "/port/near"])?;
    let ask = |name: &'static str, port: &str| -> Outcome<Peer> {
        Peer::of(name, system.command(1).args(["run", "--on", "n2-box", &program, "ask", port]), vec![])
    };
    let mut all = vec![ask("una", "/port/far")?, ask("una, within one node", "/port/near")?];
    let others: [fn() -> Outcome<Peer>; 5] =
        [|| peers::erlang(false), || peers::erlang(true), peers::grpc, peers::nats, peers::ray];
    all.extend(others.into_iter().filter_map(|other| or_without("calls", other())));
    let all: Vec<RefCell<Peer>> = all.into_iter().map(RefCell::new).collect();
    let tcp = RefCell::new(Tcp::start()?);
    let mut rows = vec![];
    for (what, bytes) in [("call and reply, 64 bytes", 64), ("call, 4 KiB come back", 4 << 10)] {
        for (rank, share) in [("p50", 0.5), ("p99", 0.99)] {
            let mut sides = sides(&all, |peer| Ok(ranked(peer.pings(CALLS, bytes)?, share)));
            sides.insert(1, Side::new("plain TCP", || tcp.borrow_mut().pings(CALLS, bytes, share)));
            rows.push(compare(&format!("{what}, {rank}"), "us", Better::Less, rounds, sides)?);
        }
    }
    for in_flight in [8, 64] {
        let sides = sides(&all, |peer| peer.many(MANY, in_flight));
        rows.push(compare(&format!("calls, {in_flight} under way"), "1000/s", Better::More, rounds, sides)?);
    }
    for (what, cold, count) in [("look a name up, new to this node", 1, NAMES), ("the same again", 0, MANY)] {
        let asker = &all[0];
        let take = || Ok(asker.borrow_mut().number(&format!("names {count} {cold}"))? / f64::from(count) / 1000.0);
        rows.push(compare(what, "us", Better::Less, rounds, vec![Side::new("una", take)])?);
    }
    Ok(rows)
}

fn sides<'a>(all: &'a [RefCell<Peer>], take: impl Fn(&mut Peer) -> Outcome<f64> + Copy + 'a) -> Vec<Side<'a>> {
    all.iter().map(|peer| Side::new(peer.borrow().name, move || take(&mut peer.borrow_mut()))).collect()
}
