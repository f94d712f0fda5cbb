//! What a process costs that waits: resident memory of the node's process for each, and what the operating system keeps for it.
//!
//! The one idea: nothing is given back between rounds, each adds more processes; else memory that the last round freed would hide
//! what the next one takes.

use super::compare::{Better, Goal, Row, compare};
use super::erlang::Erlang;
use super::house::{House, Library, SOON, order};
use super::{Asked, Side};
use crate::Outcome;
use daemon::node::{Kind, Node, State};
use std::cell::RefCell;
use std::time::{Duration, Instant};

const PROCESSES: u32 = 1000;
/// Each round leaves its processes, so there are few.
const ROUNDS_MAX: u32 = 5;

/// The program touches its stack, which is in one page of its memory, and nothing else of it.
const OWN_KIB: f64 = 4.0;

pub fn measure(house: &House, asked: Asked) -> Outcome<Vec<Row>> {
    let node = house.node("idle", 2)?;
    let program = node.load(house.program("idle", Library::None)?, &mut |_| {})?;
    let erlang = RefCell::new(Erlang::start(house, 2)?);
    let tables = RefCell::new(vec![]);
    let sides = vec![
        Side::new("una", || {
            let (resident, of_tables) = (resident_kib()?, tables_kib()?);
            for _ in 0..PROCESSES {
                node.run(order(&program, &["idle"]))?;
            }
            wait_for_all(&node)?;
            tables.borrow_mut().push((tables_kib()? - of_tables) / f64::from(PROCESSES));
            Ok((resident_kib()? - resident) / f64::from(PROCESSES) - OWN_KIB)
        }),
        Side::new("Erlang", || Ok(erlang.borrow_mut().time("idle", PROCESSES)? / 1024.0)),
    ];
    let row = compare("memory of a process that waits", "KiB", Better::Less, asked.rounds.min(ROUNDS_MAX), sides)?;
    // What it held is thrown away.
    let _ = node.shutdown();
    // The round that does not count does not count here.
    let tables = RefCell::new(tables.into_inner().into_iter());
    let next = || tables.borrow_mut().next().ok_or_else(|| "a figure was taken each round".into());
    let sides = vec![Side::new("una", next)];
    let of_tables =
        compare("page tables of the system for it", "KiB", Better::Less, asked.rounds.min(ROUNDS_MAX), sides)?;
    Ok(vec![row.wanted(Goal::AtMost(16.0)), of_tables])
}

fn wait_for_all(node: &Node) -> Outcome {
    let late = Instant::now() + SOON;
    let waits = |state: &State| matches!(state, State::Waiting(_));
    while node.processes().iter().any(|view| view.kind == Kind::Program && !waits(&view.state)) {
        if Instant::now() > late {
            return Err("the processes do not come to wait".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Exactly, not as in `statm`.
fn resident_kib() -> Outcome<f64> {
    kib("/proc/self/smaps_rollup", "Rss:")
}

fn tables_kib() -> Outcome<f64> {
    kib("/proc/self/status", "VmPTE:")
}

fn kib(file: &str, name: &str) -> Outcome<f64> {
    let text = std::fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("{file} has no {name}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
