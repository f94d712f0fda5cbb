//! What people and programs do with several nodes: run something elsewhere, join, lose a node; and what nodes do that have nothing to do.

use super::system::System;
use crate::Outcome;
use crate::bench::local::compare::{Better, Goal, Row, Side, compare};
use crate::bench::report::Spread;
use std::cell::RefCell;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long idle nodes are looked at.
const IDLE: Duration = Duration::from_secs(20);
/// For what must come, on a machine however busy.
const SOON: Duration = Duration::from_secs(60);
/// Linux counts processor time in so many pieces of a second.
const TICKS: f64 = 100.0;

/// Running a small program elsewhere, beside running it here.
pub fn spawns(rounds: u32) -> Outcome<Vec<Row>> {
    let system = System::start("spawns", 3)?;
    let program = system.program("nothing")?;
    let run = |node: &str| -> Outcome<f64> {
        let start = Instant::now();
        system.speak(1, &["run", "--on", node, &program])?;
        Ok(start.elapsed().as_secs_f64() * 1000.0)
    };
    let plain = || -> Outcome<f64> {
        let start = Instant::now();
        system.speak(1, &["--version"])?;
        Ok(start.elapsed().as_secs_f64() * 1000.0)
    };
    let sides = vec![
        Side::new("una, on another node", || run("n3-box")),
        Side::new("una, on this one", || run("n1-box")),
        Side::new("the command alone", plain),
    ];
    Ok(vec![compare("run a small program, the whole command", "ms", Better::Less, rounds, sides)?])
}

/// From `una join` to the end of the first program there; with what it knew thrown away each time.
pub fn joins(rounds: u32) -> Outcome<Vec<Row>> {
    let system = RefCell::new(System::start("joins", 2)?);
    let program = system.borrow().program("nothing")?;
    system.borrow().speak(1, &["run", "--on", "n2-box", &program])?;
    let join = |is_cold: bool| -> Outcome<f64> {
        let system = system.borrow();
        // What one leaves is nobody's any more, and the next one is another node.
        system.speak(2, &["leave"])?;
        system.forget(2, is_cold)?;
        let ticket = system.speak(1, &["ticket", "-q"])?;
        let start = Instant::now();
        system.speak(2, &["join", ticket.trim(), "--listen", "127.0.0.1", "--name", "n2-box"])?;
        system.speak(2, &["run", "--on", "n2-box", &program])?;
        let taken = start.elapsed().as_secs_f64() * 1000.0;
        system.settled()?;
        Ok(taken)
    };
    let (mut warm, mut cold) = (|| join(false), || join(true));
    let row = |what: &str, take: &mut dyn FnMut() -> Outcome<f64>, most| -> Outcome<Row> {
        let row = compare(what, "ms", Better::Less, rounds.min(5), vec![Side::new("una", take)])?;
        Ok(row.wanted(Goal::AtMost(most)))
    };
    Ok(vec![
        row("join, until a first program has ended there, nothing compiled", &mut cold, 1000.0)?,
        row("the same, compiled code still there", &mut warm, 200.0)?,
    ])
}

/// Kills the node that holds the files, most times the leader too, and asks another for a change until it is made.
pub fn failover(rounds: u32) -> Outcome<Vec<Row>> {
    let system = System::start("failover", 3)?;
    let mut gaps = vec![];
    for round in 0..rounds.max(10) {
        system.settled()?;
        let status = system.status(1)?;
        let number = |value: &serde_json::Value| value.as_u64().and_then(|node| u16::try_from(node).ok());
        let holder = number(&status["files"]["holder"]).ok_or("somebody holds the files")?;
        let leader = number(&status["coordinator"]["leader"]).ok_or("somebody leads")?;
        let other = (1..=3).find(|node| *node != holder && *node != leader).ok_or("there are three")?;
        let start = Instant::now();
        system.kill(holder)?;
        while !copied(&system, other, round)? {
            if start.elapsed() > SOON {
                return Err(format!("n{other} cannot write since n{holder} is gone").into());
            }
        }
        gaps.push(start.elapsed().as_secs_f64());
        system.speak(holder, &["up", "-d", "--listen", "127.0.0.1"])?;
    }
    let mut ordered = gaps.clone();
    ordered.sort_by(f64::total_cmp);
    let most = *ordered.last().ok_or("there were rounds")?;
    let alone = |what: &str, spread| Row {
        what: what.into(),
        unit: "s",
        sides: vec![("una", spread)],
        ratios: vec![],
        goal: None,
    };
    Ok(vec![
        alone("kill -9 of who holds the files, until another's change is made", Spread::of(&gaps)),
        alone("the same, the most", Spread::of(&[most])).wanted(Goal::AtMost(2.0)),
    ])
}

fn copied(system: &System, node: u16, round: u32) -> Outcome<bool> {
    let mut copy =
        system.command(node).args(["cp", "-", "una:/failover"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let written =
        std::io::Write::write_all(&mut copy.stdin.take().ok_or("a pipe was asked for")?, round.to_string().as_bytes());
    // One that refused at once did not read.
    drop(written);
    Ok(copy.wait()?.success())
}

/// Nodes that have nothing to do.
pub fn idle(_: u32) -> Outcome<Vec<Row>> {
    let system = System::start("idle", 3)?;
    // What it does when nodes have just come is over soon.
    std::thread::sleep(Duration::from_secs(5));
    let before: Vec<f64> = (1..=3).map(|node| used(system.daemon(node)?)).collect::<Outcome<_>>()?;
    let start = Instant::now();
    std::thread::sleep(IDLE);
    let seconds = start.elapsed().as_secs_f64();
    let leader = system.status(1)?["coordinator"]["leader"].as_u64();
    let (mut shares, mut sizes, mut of_leader) = (vec![], vec![], None);
    for (node, before) in (1..=3).zip(before) {
        let daemon = system.daemon(node)?;
        let share = (used(daemon)? - before) / seconds * 100.0;
        match leader == Some(u64::from(node)) {
            true => of_leader = Some(share),
            false => shares.push(share),
        }
        sizes.push(resident(daemon)?);
    }
    let alone = |what: &str, unit, spread, most| {
        Row { what: what.into(), unit, sides: vec![("una", spread)], ratios: vec![], goal: None }
            .wanted(Goal::AtMost(most))
    };
    let of_leader = of_leader.ok_or("somebody leads")?;
    Ok(vec![
        alone("an idle node of three, of one processor", "%", Spread::of(&shares), 1.0),
        alone("the same, the leader", "%", Spread::of(&[of_leader]), 1.0),
        alone("an idle node of three, resident", "MB", Spread::of(&sizes), 60.0),
    ])
}

/// Seconds of processor that a process has used.
fn used(process: u32) -> Outcome<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may hold anything; of what follows it the 12th and 13th are meant.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let ticks =
        |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok()).ok_or("Linux says it otherwise");
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// Megabytes.
fn resident(process: u32) -> Outcome<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("Linux says it otherwise")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().map_err(|_| "Linux says it otherwise")?;
    Ok(kib * 1024.0 / 1e6)
}
