//! Messages of 16 bytes between two processes, or from a process to itself, against Erlang's.

use super::compare::{Better, Goal, Row, compare};
use super::erlang::Erlang;
use super::house::{Guest, House, Library};
use super::{Asked, Side};
use crate::Outcome;
use std::cell::RefCell;

const CASES: [(&str, &str, u32); 5] = [
    ("call", "call and reply", 20_000),
    ("deadline", "call and reply, 5 s deadline", 20_000),
    ("ping", "send and answer by a send", 20_000),
    ("stream", "send, received by another", 50_000),
    ("self", "send to itself and receive", 50_000),
];

pub fn measure(house: &House, asked: Asked) -> Outcome<Vec<Row>> {
    let wasm = house.program("pair", Library::C)?;
    let mut rows = vec![];
    for (workers, of) in [(1, "1 worker"), (2, "2 workers")] {
        let node = house.node(&format!("messages-{workers}"), workers)?;
        let program = node.load(wasm.clone(), &mut |_| {})?;
        let guest = RefCell::new(Guest::start(&node, &program, &["pair"])?);
        let erlang = RefCell::new(Erlang::start(house, workers)?);
        for (word, what, count) in CASES {
            // Nothing of that one depends on how many others there are.
            if !asked.wants(&format!("{word}-{workers}")) || (word == "self" && workers > 1) {
                continue;
            }
            let sides = vec![
                Side::new("una", || guest.borrow_mut().time(word, count)),
                Side::new("Erlang", || erlang.borrow_mut().time(word, count)),
            ];
            let row = compare(&format!("{what}, {of}"), "ns", Better::Less, asked.rounds, sides)?;
            rows.push(row.wanted(Goal::RatioAtMost(1.0)));
        }
        // What it held is thrown away.
        let _ = node.shutdown();
    }
    Ok(rows)
}
