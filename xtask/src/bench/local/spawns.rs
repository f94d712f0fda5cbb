//! Processes that are made and end: by a process that runs already, against Erlang; from outside, against plain wasmtime.

use super::compare::{Better, Goal, Row, compare};
use super::erlang::Erlang;
use super::house::{Guest, House, Library, SOON, order};
use super::plain::Plain;
use super::{Asked, Side};
use crate::Outcome;
use daemon::node::{End, Node, Pid};
use std::cell::RefCell;
use std::time::Instant;

const CASES: [(&str, &str, u32); 3] = [
    ("first", "spawn to first message", 500),
    ("each", "spawn, end and wait, one by one", 1000),
    ("many", "spawn, end and wait, 500 at a time", 2000),
];

const RUNS: [(&str, &str, usize); 2] = [
    ("run", "run from outside to its end, one by one", 1),
    ("runs", "run from outside to its end, 500 at a time", 500),
];

/// 100,000 spawns in a second by one processor.
const SPAWN_NS: f64 = 10_000.0;

pub fn measure(house: &House, asked: Asked) -> Outcome<Vec<Row>> {
    let wasm = house.program("spawn", Library::None)?;
    let node = house.node("spawns", 1)?;
    let program = node.load(wasm.clone(), &mut |_| {})?;
    let guest = RefCell::new(Guest::start(&node, &program, &["spawn", "and", "answer"])?);
    let erlang = RefCell::new(Erlang::start(house, 1)?);
    let mut rows = vec![];
    for (word, what, count) in CASES.into_iter().filter(|(word, ..)| asked.wants(word)) {
        let sides = vec![
            Side::new("una", || guest.borrow_mut().time(word, count)),
            Side::new("Erlang", || erlang.borrow_mut().time(word, count)),
        ];
        let row = compare(&format!("{what}, 1 worker"), "ns", Better::Less, asked.rounds, sides)?;
        rows.push(match word {
            "many" => row.wanted(Goal::AtMost(SPAWN_NS)),
            _ => row,
        });
    }
    let plain = Plain::new(&wasm)?;
    for (word, what, batch) in RUNS {
        if !asked.wants(word) {
            continue;
        }
        let sides = vec![
            Side::new("una", || run(&node, &program, batch)),
            Side::new("plain wasmtime", || repeated(|| plain.run())),
            Side::new("plain wasmtime on a fiber", || repeated(|| plain.run_on_fiber())),
        ];
        rows.push(compare(&format!("{what}, 1 worker"), "ns", Better::Less, asked.rounds, sides)?);
    }
    // What it held is thrown away.
    let _ = node.shutdown();
    Ok(rows)
}

const TIMES: usize = 1000;

/// Nanoseconds for one process, with so many at a time.
fn run(node: &Node, program: &engine::Program, batch: usize) -> Outcome<f64> {
    let start = Instant::now();
    for _ in 0..TIMES / batch {
        let mut pids: Vec<Pid> = vec![];
        for _ in 0..batch {
            pids.push(node.run(order(program, &["spawn"]))?.pid);
        }
        for pid in pids {
            match node.wait(pid, SOON)? {
                Some(End::Exited(0)) => {}
                end => return Err(format!("a process ended so: {end:?}").into()),
            }
        }
    }
    Ok(start.elapsed().as_nanos() as f64 / TIMES as f64)
}

fn repeated(run: impl Fn() -> Outcome) -> Outcome<f64> {
    let start = Instant::now();
    for _ in 0..TIMES {
        run()?;
    }
    Ok(start.elapsed().as_nanos() as f64 / TIMES as f64)
}
