//! The scenarios of `cargo xtask e2e move`: processes that go from machine to machine while they run, and machines that die meanwhile. They
//! know una by what a user sees of it.
//!
//! The one idea: what a program prints follows from its arguments alone. So wherever it ran, the output is that of a run that stayed where
//! it was, or the process is lost and everybody is told so.

use super::enduring::{ENDLESS, Program, compiled};
use super::node::{Done, Machines, Setting};
use super::{Scenario, When, kills, lending, steps, thousand, until};
use crate::Outcome;
use daemon::steps::Step;
use serde_json::Value;
use std::time::{Duration, Instant};

pub const ALL: &[Scenario] = &[
    Scenario { name: "there_and_back", when: When::Always, play: there_and_back },
    Scenario { name: "move_source_dies", when: When::Always, play: source_dies },
    Scenario { name: "move_destination_dies", when: When::Nightly, play: destination_dies },
    Scenario { name: "move_bystander_dies", when: When::Nightly, play: bystander_dies },
    Scenario { name: "move_cut_off", when: When::Nightly, play: cut_off },
    Scenario { name: "many_at_random", when: When::Nightly, play: many_at_random },
    Scenario { name: "gibibyte", when: When::Nightly, play: gibibyte },
    Scenario { name: "drained", when: When::Nightly, play: drained },
    Scenario { name: "owner_returns", when: When::Always, play: lending::owner_returns },
    Scenario {
        name: "owner_returns_and_another_dies",
        when: When::Nightly,
        play: lending::owner_returns_and_another_dies,
    },
    Scenario { name: "slow_there", when: When::Nightly, play: slow_there },
    Scenario { name: "way_lost_meanwhile", when: When::Always, play: way_lost_meanwhile },
    Scenario { name: "some_dozens", when: When::Always, play: thousand::some_dozens },
    Scenario { name: "thousand", when: When::Nightly, play: thousand::thousand },
    Scenario { name: "some_steps", when: When::Always, play: steps::some_steps },
    Scenario { name: "every_step", when: When::Nightly, play: steps::every_step },
    Scenario { name: "every_step_asleep", when: When::Nightly, play: steps::every_step_asleep },
    Scenario { name: "few_kills", when: When::Always, play: kills::some },
    Scenario { name: "two_hundred_kills", when: When::Nightly, play: kills::two_hundred },
    Scenario { name: "asleep_past_its_lease", when: When::Always, play: kills::asleep_past_its_lease },
];

/// A program runs to its end, on a machine however busy.
pub const RUN_MAX: Duration = Duration::from_secs(300);

pub fn must(is_so: bool, what: impl Into<String>) -> Outcome {
    if is_so { Ok(()) } else { Err(format!("not true: {}", what.into()).into()) }
}

/// A choice that is the same in each run.
pub struct Series(pub u64);

impl Series {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

/// A process that counts, and what it has to print.
struct Counter {
    pid: String,
    expected: String,
    at: usize,
}

/// Starts it on a machine. The same is run before it to its end, where it stays, to know what it prints.
fn start(machines: &Machines, at: usize, arguments: &[&str]) -> Outcome<Counter> {
    let program = compiled(machines, "counting.c")?;
    let node = format!("node{at}");
    let run = |words: &[&str]| -> Outcome<String> {
        let all: Vec<&str> = words.iter().copied().chain(["--on", &node, &program]).chain(arguments.to_vec()).collect();
        machines.una_within(1, &all, RUN_MAX)?.ok()
    };
    let expected = run(&["run"])?;
    let pid = run(&["run", "-d"])?.trim().to_string();
    Ok(Counter { pid, expected, at })
}

impl Counter {
    /// Moves it; asked for on any machine.
    fn go(&mut self, machines: &Machines, by: usize, to: usize) -> Outcome<Done> {
        let done = machines.una_within(by, &["move", &self.pid, &format!("node{to}")], RUN_MAX)?;
        if done.status == Some(0) {
            self.at = to;
        }
        Ok(done)
    }

    /// It ends as if it had never moved.
    fn ends_well(&self, machines: &Machines, by: usize) -> Outcome {
        let waited = machines.una_within(by, &["wait", &self.pid], RUN_MAX)?;
        must(waited.status == Some(0), format!("process {} ends as it should: {waited:?}", self.pid))?;
        let printed = machines.una(by, &["logs", &self.pid])?.ok()?;
        must(
            printed == self.expected,
            format!("it prints what it does elsewhere: {printed}\nand not {}", self.expected),
        )
    }

    /// How many lines it has printed; it does not move meanwhile.
    fn lines(&self, machines: &Machines, by: usize) -> Result<usize, String> {
        let done = machines.una(by, &["logs", &self.pid]).map_err(|error| error.to_string())?;
        done.ok().map(|printed| printed.lines().count()).map_err(|error| error.to_string())
    }

    /// Waits until it has printed so many lines.
    fn has_printed(&self, machines: &Machines, by: usize, lines: usize) -> Outcome {
        until(&format!("process {} to print {lines} lines", self.pid), || match self.lines(machines, by)? {
            printed if printed >= lines => Ok(()),
            printed => Err(format!("{printed} lines")),
        })
    }
}

/// A process with an open file goes to and fro between three machines.
fn there_and_back(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let mut counter = start(&machines, 1, &["8", "150000", "/counted"])?;
    let (mut series, mut moved) = (Series(1), 0);
    for round in 0..8 {
        let to = 1 + (counter.at + series.below(2) as usize) % 3;
        let done = counter.go(&machines, 1 + round % 3, to)?;
        match done.status {
            Some(0) => moved += 1,
            // It has come to its end.
            _ if done.err.contains("ended") => break,
            _ => return Err(format!("a move failed: {done:?}").into()),
        }
    }
    must(moved >= 4, format!("it was moved {moved} times before it ended"))?;
    counter.ends_well(&machines, 2)?;
    let file = machines.una(3, &["cat", "/counted"])?.ok()?;
    must(counter.expected.starts_with(&file) && !file.is_empty(), format!("its file holds what it wrote: {file}"))
}

/// It was born on one machine, moved to a second and a third; then the second dies, and nothing of it was left there.
fn source_dies(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let mut counter = start(&machines, 1, &["32", "150000"])?;
    counter.go(&machines, 1, 2)?.ok()?;
    counter.go(&machines, 1, 3)?.ok()?;
    machines.kill(2)?;
    counter.ends_well(&machines, 1)
}

/// The machine dies to which it is about to go, at some moment. Either it stays, or it was there and is lost, and everybody is told so.
fn destination_dies(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let mut series = Series(7);
    let (mut stayed, mut lost) = (0, 0);
    for _ in 0..6 {
        let counter = start(&machines, 1, &["16", "60000"])?;
        let moving = machines.begin_una(1, &["move", &counter.pid, "node3"])?;
        std::thread::sleep(Duration::from_millis(series.below(700)));
        machines.kill(3)?;
        let moved = moving.wait_with_output()?;
        let said = String::from_utf8_lossy(&moved.stderr).into_owned();
        let waited = machines.una_within(2, &["wait", &counter.pid], RUN_MAX)?;
        match (moved.status.success(), waited.status) {
            // Its output was there too, up to what it had printed before; that is for whoever followed it.
            (_, Some(0)) => {
                counter.ends_well(&machines, 2)?;
                stayed += 1;
            }
            (false, _) if said.contains("runs on where it was") => {
                return Err(format!("it was said that it runs on, but {waited:?}: {said}").into());
            }
            (_, status) => {
                must(status.is_some(), format!("whoever waits for what was lost is told so: {waited:?}; {said}"))?;
                lost += 1;
            }
        }
        machines.up(3)?;
        machines.agree(&[1, 2, 3])?;
    }
    println!("        {stayed} stayed, {lost} were lost with the machine");
    Ok(())
}

/// A machine dies that has nothing to do with it.
fn bystander_dies(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 4)?;
    let mut counter = start(&machines, 1, &["64", "150000"])?;
    let mut moving = machines.begin_una(1, &["move", &counter.pid, "node2"])?;
    machines.kill(4)?;
    must(moving.wait()?.success(), "a move goes on while another machine dies")?;
    counter.at = 2;
    counter.go(&machines, 3, 3)?.ok()?;
    counter.ends_well(&machines, 1)
}

/// The cable breaks while it moves, and is mended. It is on one of the machines, whole.
fn cut_off(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let mut series = Series(3);
    for _ in 0..5 {
        let counter = start(&machines, 1, &["64", "60000"])?;
        let mut moving = machines.begin_una(1, &["move", &counter.pid, "node2"])?;
        std::thread::sleep(Duration::from_millis(series.below(900)));
        machines.network.cut_both(1, 2)?;
        std::thread::sleep(Duration::from_millis(series.below(1500)));
        machines.network.heal()?;
        moving.wait()?;
        counter.ends_well(&machines, 3)?;
    }
    Ok(())
}

/// Several at once, each moved again and again by whoever.
fn many_at_random(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let mut series = Series(11);
    let mut counters = vec![];
    for number in 0..6usize {
        counters.push(start(&machines, 1 + number % 3, &["8", "150000", &format!("/many{number}")])?);
    }
    let until = Instant::now() + Duration::from_secs(40);
    while Instant::now() < until {
        let counter = &mut counters[series.below(6) as usize];
        let to = 1 + (counter.at + series.below(2) as usize) % 3;
        let done = counter.go(&machines, 1 + series.below(3) as usize, to)?;
        must(
            done.status == Some(0) || done.err.contains("ended") || done.err.contains("no process"),
            format!("it moves or has ended: {done:?}"),
        )?;
    }
    for counter in &counters {
        counter.ends_well(&machines, 1 + series.below(3) as usize)?;
    }
    Ok(())
}

/// A gibibyte of touched memory, there and back.
fn gibibyte(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let mut counter = start(&machines, 1, &["1024", "200000"])?;
    counter.has_printed(&machines, 2, 2)?;
    counter.go(&machines, 1, 2)?.ok()?;
    counter.go(&machines, 1, 3)?.ok()?;
    counter.ends_well(&machines, 1)
}

/// The other machine takes longer to have the program ready than anything else may take. It is waited for.
fn slow_there(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let pid = Program::C.ready(&machines)?.start_detached(&machines, 1, &["1", ENDLESS, "/slow", "/stop"])?;
    let held = machines.hold_at(2, Step::ArrivingLoaded)?;
    let moving = machines.begin_una(1, &["move", "--json", &pid, "node2"])?;
    until("n2 to have the program", || if held.is_reached() { Ok(()) } else { Err("not yet".into()) })?;
    // There is nothing to wait for but the time itself: longer than a piece of memory may be on its way.
    std::thread::sleep(Duration::from_secs(13));
    held.let_go();
    let said = Done::from(moving.wait_with_output()?).ok()?;
    let said: Value = serde_json::from_str(&said)?;
    must(said["move"]["lost"] == serde_json::json!([]), format!("it is moved at the first try: {said}"))?;
    must(machines.copies(3, &pid)? == [2], "it is there")?;
    machines.store(1, "/stop", "")?.ok()?;
    must(machines.una_within(3, &["wait", &pid], RUN_MAX)?.status == Some(0), "it ends well")
}

/// The way is lost in the middle, and found again: it is tried again, and whoever asked is told so.
fn way_lost_meanwhile(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let pid = Program::C.ready(&machines)?.start_detached(&machines, 1, &["1", ENDLESS, "/lost", "/stop"])?;
    let held = machines.hold_at(1, Step::LeavingPrepared)?;
    let moving = machines.begin_una(1, &["move", "--json", &pid, "node2"])?;
    let reached = |held: &super::node::Held| if held.is_reached() { Ok(()) } else { Err("not yet".into()) };
    until("n2 to have the program", || reached(&held))?;
    let again = machines.hold_at(1, Step::LeavingAsked)?;
    machines.network.cut_both(1, 2)?;
    until("n1 not to be heard by n2", || match machines.is_linked(2, 1)? {
        false => Ok(()),
        true => Err("they are linked".into()),
    })?;
    held.let_go();
    until("it to be tried again", || reached(&again))?;
    machines.network.heal()?;
    until("n2 to hear n1 again", || match machines.is_linked(2, 1)? {
        true => Ok(()),
        false => Err("they are not linked".into()),
    })?;
    machines.agree(&[1, 2, 3])?;
    again.let_go();
    let said = Done::from(moving.wait_with_output()?).ok()?;
    let said: Value = serde_json::from_str(&said)?;
    must(said["move"]["lost"].as_array().is_some_and(|lost| lost.len() == 1), format!("it says why: {said}"))?;
    must(machines.copies(3, &pid)? == [2], "it is there")?;
    machines.store(1, "/stop", "")?.ok()?;
    must(machines.una_within(3, &["wait", &pid], RUN_MAX)?.status == Some(0), "it ends well")
}

/// A machine with many processes is emptied; all of them run on elsewhere.
fn drained(setting: &Setting) -> Outcome {
    const PROCESSES: usize = 200;
    let machines = Machines::joined(setting, 3)?;
    let ready = Program::Waking.ready(&machines)?;
    let mut pids = vec![];
    for _ in 0..PROCESSES {
        pids.push(ready.start_detached(&machines, 2, &["/stop"])?);
    }
    let begun = Instant::now();
    machines.una_within(1, &["drain", "node2"], RUN_MAX)?.ok()?;
    let took = begun.elapsed();
    until("nothing to be left on node2, and all to be elsewhere", || {
        let listed = machines.json(1, &["ps", "--json"])?;
        let processes = listed["processes"].as_array().cloned().unwrap_or_default();
        let on = |process: &Value| process["node"].as_u64();
        let left = processes.iter().filter(|process| on(process) == Some(2)).count();
        let there = pids.iter().filter(|pid| processes.iter().any(|process| process["pid"] == pid.as_str())).count();
        if left == 0 && there == PROCESSES { Ok(()) } else { Err(format!("{left} left there, {there} in all")) }
    })?;
    machines.store(3, "/stop", "")?.ok()?;
    let mut late_us = vec![];
    for pid in &pids {
        let waited = machines.una_within(3, &["wait", pid], RUN_MAX)?;
        must(waited.status == Some(0), format!("process {pid} ends as it should: {waited:?}"))?;
        late_us.push(machines.una(1, &["logs", pid])?.ok()?.trim().parse::<u64>()?);
    }
    late_us.sort_unstable();
    let at = |percent: usize| late_us[(PROCESSES * percent / 100).min(PROCESSES - 1)] as f64 / 1e3;
    println!(
        "        {PROCESSES} processes moved in {:.2} s; each once slept too long by p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
        took.as_secs_f64(),
        at(50),
        at(99),
        at(100)
    );
    Ok(())
}
