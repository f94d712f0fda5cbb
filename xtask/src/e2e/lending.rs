//! A machine that is lent while its owner is away, among the scenarios of `cargo xtask e2e move`: the owner, who is played, returns to many
//! guests, and another machine dies while they leave.

use super::enduring::Program;
use super::moving::{RUN_MAX, must};
use super::node::{Machines, Setting};
use super::until;
use crate::Outcome;
use serde_json::Value;

/// Guests are put there by nobody's wish: they had to leave the machine where they were started.
fn with_guests(machines: &Machines, processes: usize) -> Outcome<Vec<String>> {
    let ready = Program::Waking.ready(machines)?;
    machines.una(2, &["lend", "idle:1s"])?.ok()?;
    is_lent(machines, "owner-away")?;
    let mut pids = vec![];
    for _ in 0..processes {
        pids.push(ready.start_detached(machines, 3, &["/stop"])?);
    }
    machines.una_within(1, &["drain", "node3"], RUN_MAX)?.ok()?;
    let there = on(machines, 2, &pids)?;
    must(there * 5 > processes, format!("some of them are on the machine that is lent: {there}"))?;
    Ok(pids)
}

fn is_lent(machines: &Machines, how: &str) -> Outcome {
    until(&format!("node2 to be {how}"), || {
        let lends = machines.system(1)?["nodes"][1]["facts"]["lends"].clone();
        if lends == how { Ok(()) } else { Err(format!("it is {lends}")) }
    })
}

/// What a machine says of these.
fn listed(machines: &Machines, by: usize, pids: &[String]) -> Result<Vec<Value>, String> {
    let listed = machines.json(by, &["ps", "--json"])?;
    let all = listed["processes"].as_array().cloned().unwrap_or_default();
    Ok(all.into_iter().filter(|one| pids.iter().any(|pid| one["pid"] == pid.as_str())).collect())
}

/// How many of these are on that machine.
fn on(machines: &Machines, machine: u64, pids: &[String]) -> Result<usize, String> {
    Ok(listed(machines, 1, pids)?.iter().filter(|one| one["node"] == machine).count())
}

/// They all leave, and run on.
pub fn owner_returns(setting: &Setting) -> Outcome {
    const PROCESSES: usize = 60;
    let machines = Machines::joined(setting, 3)?;
    let pids = with_guests(&machines, PROCESSES)?;
    let guests = on(&machines, 2, &pids)?;
    machines.write(2, "owner", b"touch 1\nbusy 20000\n")?;
    let said = until("the machine to be its owner's", || {
        let events = machines.una(1, &["events"]).map_err(|error| error.to_string())?.out;
        let said = events.lines().find(|line| line.contains("ms after they returned")).map(String::from);
        said.ok_or_else(|| "nothing is said".to_string())
    })?;
    println!("        {guests} guests: {}", said.trim());
    must(on(&machines, 2, &pids)? == 0, "none is left there")?;
    machines.store(1, "/stop", "")?.ok()?;
    for pid in &pids {
        let waited = machines.una_within(1, &["wait", pid], RUN_MAX)?;
        must(waited.status == Some(0), format!("process {pid} ends as it should: {waited:?}"))?;
    }
    Ok(())
}

/// Their only other machine is lost while they leave: those that had not left are paused, and go on when the owner has gone.
pub fn owner_returns_and_another_dies(setting: &Setting) -> Outcome {
    const PROCESSES: usize = 40;
    let machines = Machines::joined(setting, 3)?;
    let pids = with_guests(&machines, PROCESSES)?;
    let guests = on(&machines, 2, &pids)?;
    machines.write(2, "owner", b"touch 1\nbusy 20000\n")?;
    machines.kill(1)?;
    let left = until("all that are left to be paused", || {
        let left = listed(&machines, 2, &pids)?;
        let paused = left.iter().filter(|one| one["stay"] == "paused").count();
        if paused == left.len() { Ok(left) } else { Err(format!("{paused} of {}", left.len())) }
    })?;
    println!("        of {guests} guests {} had not left", left.len());
    machines.write(2, "owner", b"")?;
    until("them to go on", || {
        let on = listed(&machines, 2, &pids)?;
        let running = on.iter().filter(|one| one["stay"] == "guest" && one["state"] != "stopped").count();
        if running == left.len() { Ok(()) } else { Err(format!("{running} of {}", left.len())) }
    })?;
    machines.up(1)?;
    machines.agree(&[1, 2, 3])?;
    machines.store(1, "/stop", "")?.ok()?;
    for one in &left {
        let pid = one["pid"].as_str().ok_or("a process of another machine has a number with a dot")?;
        let waited = machines.una_within(3, &["wait", pid], RUN_MAX)?;
        must(waited.status == Some(0), format!("process {pid} ends as it should: {waited:?}"))?;
    }
    Ok(())
}
