//! `cargo xtask bench keep`: what it costs to keep a process that runs, and to have it durable. Between daemons on one machine, by the
//! commands that people use.
//!
//! The one idea: the same program, told to do the same, durable and not, in turn; and what the records of its checkpoints say.

use super::moving::{SOON, compiled, directory, line};
use super::report::Table;
use super::{chosen, show};
use crate::Outcome;
use crate::cluster;
use crate::step::output;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Arguments {
    /// How often each figure is taken
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these: checkpoints, calls, answers, deaths
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

type Part = fn(&House, u32, &mut Table) -> Outcome;

const PARTS: [(&str, Part); 4] =
    [("checkpoints", checkpoints), ("calls", calls), ("answers", answers), ("deaths", deaths)];

/// How long a client calls.
const HAMMER_MS: &str = "6000";

/// Pages of a process that are written anew between two checkpoints: 1 % of 256 MiB.
const MIB: u32 = 256;
const PAGES: u32 = 655;

struct House {
    place: PathBuf,
    wasm: String,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let chosen = chosen(&PARTS, arguments.only.as_deref())?;
    let una = cluster::build()?;
    let wasm = compiled("calm")?.to_str().ok_or("the path of the program is not text")?.to_string();
    let house = House { place: directory().join("keep"), wasm };
    cluster::end(&house.place)?;
    cluster::start(&house.place, 3, &una, &[])?;
    let mut table = Table::new(&["what", "memory", "unit", "median (least-most)"]);
    let measured = chosen.into_iter().try_for_each(|(name, measure)| {
        eprintln!("{name}: measuring");
        measure(&house, arguments.rounds, &mut table)
    });
    cluster::end(&house.place)?;
    measured?;
    show(&table.to_string())
}

impl House {
    fn speak(&self, words: &[&str]) -> Outcome<String> {
        cluster::speak(&self.place, 1, words)
    }

    /// Starts the program, and gives its number.
    fn start(&self, how: &[&str], arguments: [u32; 3]) -> Outcome<String> {
        let arguments = arguments.map(|argument| argument.to_string());
        let program = [self.wasm.as_str()].into_iter().chain(arguments.iter().map(String::as_str));
        cluster::begin(&self.place, &how.iter().copied().chain(program).collect::<Vec<_>>())
    }

    /// What the process has printed: the number of each pass, and when it was.
    fn printed(&self, pid: &str) -> Outcome<Vec<(u64, u64)>> {
        let said = self.speak(&["logs", pid])?;
        let pair = |line: &str| {
            let (pass, time) = line.split_once(' ')?;
            Some((pass.parse().ok()?, time.parse().ok()?))
        };
        // The first may be cut off, and the last.
        let lines: Vec<&str> = said.lines().collect();
        let whole = lines.get(1..lines.len().saturating_sub(1)).unwrap_or(&[]);
        Ok(whole.iter().copied().filter_map(pair).collect())
    }

    /// The last pass that is seen, as soon as it is a later one than that.
    fn wait_pass(&self, pid: &str, after: u64) -> Outcome<(u64, u64)> {
        let until = Instant::now() + SOON;
        loop {
            if let Some(last) =
                self.printed(pid).ok().and_then(|all| all.last().copied()).filter(|(pass, _)| *pass > after)
            {
                return Ok(last);
            }
            if Instant::now() > until {
                return Err(format!("process {pid} does not go on").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it has printed something.
    fn wait_printed(&self, pid: &str) -> Outcome {
        let until = Instant::now() + SOON;
        while self.speak(&["logs", pid]).map_or(true, |said| said.is_empty()) {
            if Instant::now() > until {
                return Err(format!("process {pid} does not begin").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn made(&self, pid: &str) -> Outcome<Vec<Value>> {
        let all: Value = serde_json::from_str(&self.speak(&["checkpoints", "--json", pid])?)?;
        let all = all["checkpoints"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().map(|one| one["made"].clone()).collect())
    }
}

fn number(made: &Value, name: &str) -> Outcome<f64> {
    made[name].as_f64().ok_or_else(|| format!("una checkpoints said no {name}: {made}").into())
}

/// The first checkpoint of a process that has not been kept, and later ones of one that is durable.
fn checkpoints(house: &House, rounds: u32, table: &mut Table) -> Outcome {
    let bytes = (MIB as usize) << 20;
    for (way, how) in [
        ("not followed before", &["--on", "n1-box"][..]),
        ("followed", &["--on", "n1-box", "--durable", "--every", "60"][..]),
    ] {
        let pid = house.start(how, [MIB, PAGES, 1000])?;
        house.wait_pass(&pid, 2)?;
        let (mut pause_ms, mut total_ms, mut new_mib) = (vec![], vec![], vec![]);
        // The first of a process that is not followed is what the others are compared with.
        for round in 0..=rounds {
            let (pass, _) = house.wait_pass(&pid, 0)?;
            house.wait_pass(&pid, pass)?;
            let began = Instant::now();
            house.speak(&["checkpoint", &pid])?;
            let took_ms = began.elapsed().as_secs_f64() * 1e3;
            let made = house.made(&pid)?.pop().ok_or("no checkpoint is there")?;
            let (pause, new) = (number(&made, "pause_us")? / 1e3, number(&made, "new_bytes")? / f64::from(1 << 20));
            if round == 0 {
                line(table, &format!("the first checkpoint, {way}: standing still"), bytes, "ms", &[pause]);
                line(table, &format!("the first checkpoint, {way}: in all"), bytes, "ms", &[took_ms]);
                continue;
            }
            pause_ms.push(pause);
            total_ms.push(took_ms);
            new_mib.push(new);
        }
        line(table, &format!("later ones, {way}: standing still"), bytes, "ms", &pause_ms);
        line(table, &format!("later ones, {way}: in all"), bytes, "ms", &total_ms);
        line(table, &format!("later ones, {way}: new"), bytes, "MiB", &new_mib);
        house.speak(&["kill", &pid])?;
    }
    Ok(())
}

/// A look at the clock and a line, again and again: how often in a second, and when a line is seen.
fn calls(house: &House, rounds: u32, table: &mut Table) -> Outcome {
    for (way, how) in [("not durable", &["--on", "n1-box"][..]), ("durable", &["--on", "n1-box", "--durable"][..])] {
        let pid = house.start(how, [1, 1, 0])?;
        house.wait_pass(&pid, 1000)?;
        let mut rates = vec![];
        for _ in 0..rounds {
            let (first, began) = house.wait_pass(&pid, 0)?;
            std::thread::sleep(Duration::from_secs(2));
            let (last, ended) = house.wait_pass(&pid, first)?;
            rates.push((last - first) as f64 / ((ended - began) as f64 / 1e9));
        }
        line(table, &format!("a look at the clock and a line, {way}"), 1 << 20, "1/s", &rates);
        house.speak(&["kill", &pid])?;
    }
    // Told by the program's own clock, which is this machine's.
    let pid = house.start(&["--on", "n1-box", "--durable", "--every", "60"], [1, 1, 300])?;
    house.wait_pass(&pid, 3)?;
    let mut late_ms = vec![];
    for _ in 0..rounds * 3 {
        let (pass, _) = house.wait_pass(&pid, 0)?;
        let (_, at_ns) = house.wait_pass(&pid, pass)?;
        let now_ns = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as f64;
        late_ms.push((now_ns - at_ns as f64) / 1e6);
    }
    line(table, "from a line to whoever looks with una logs every 20 ms, durable", 1 << 20, "ms", &late_ms);
    house.speak(&["kill", &pid])?;
    Ok(())
}

/// Clients that call a server on another node as fast as they can: how often it answers in a second.
fn answers(house: &House, rounds: u32, table: &mut Table) -> Outcome {
    let wasm = directory().join("durable.wasm");
    let mut compile = Command::new(crate::root().join("programs/compile"));
    compile.arg(crate::root().join("programs/durable/durable.c")).arg(&wasm);
    output(&mut compile, "cargo xtask setup installs what compiles C to WebAssembly")?;
    let wasm = wasm.to_str().ok_or("the path of the program is not text")?;
    for (way, how) in [("not durable", &["--on", "n2-box"][..]), ("durable", &["--on", "n2-box", "--durable"][..])] {
        let name = if how.contains(&"--durable") { "kept" } else { "plain" };
        let server = cluster::begin(&house.place, &[how, &[wasm, "count", name]].concat())?;
        house.wait_printed(&server)?;
        for clients in [1, 64] {
            let mut rates = vec![];
            for _ in 0..rounds {
                let client = || cluster::begin(&house.place, &["--on", "n1-box", wasm, "hammer", name, HAMMER_MS]);
                let all: Vec<String> = (0..clients).map(|_| client()).collect::<Outcome<_>>()?;
                let mut rate = 0.0;
                for pid in all {
                    house.speak(&["wait", &pid])?;
                    // They do not begin at the same moment; each says how often it called in its time.
                    rate += house.speak(&["logs", &pid])?.trim().parse::<f64>()? / (HAMMER_MS.parse::<f64>()? / 1e3);
                }
                rates.push(rate);
            }
            line(table, &format!("calls of a server, {way}, by {clients} at once"), 64 << 10, "1/s", &rates);
        }
        house.speak(&["kill", &server])?;
    }
    Ok(())
}

/// From the death of its node to the first line that a durable process prints elsewhere.
fn deaths(house: &House, rounds: u32, table: &mut Table) -> Outcome {
    let mut gaps_ms = vec![];
    for round in 0..rounds {
        let victim = 2 + (round % 2) as u16;
        let on = format!("n{victim}-box");
        let pid = house.start(&["--on", &on, "--durable"], [16, 10, 20])?;
        let (seen, _) = house.wait_pass(&pid, 100)?;
        cluster::kill(&house.place, victim)?;
        let died_ns = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64;
        let until = Instant::now() + SOON;
        let first = loop {
            let printed = house.printed(&pid).unwrap_or_default();
            if let Some((_, at)) = printed.iter().find(|(pass, at)| *pass > seen && *at > died_ns) {
                break *at;
            }
            if Instant::now() > until {
                return Err(format!("process {pid} does not go on elsewhere").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        gaps_ms.push((first - died_ns) as f64 / 1e6);
        house.speak(&["kill", &pid])?;
        cluster::speak(&house.place, victim, &["up", "-d"])?;
        wait_up(&house.place, Instant::now() + SOON)?;
    }
    line(table, "from the death of its node to its next line", 16 << 20, "ms", &gaps_ms);
    Ok(())
}

fn wait_up(place: &Path, until: Instant) -> Outcome {
    while cluster::speak(place, 1, &["nodes"]).map_or(0, |said| said.matches(" up ").count()) < 3 {
        if Instant::now() > until {
            return Err("a node that was started again is not up".into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
