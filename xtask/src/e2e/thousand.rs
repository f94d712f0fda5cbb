//! Many moves of many kinds of programs at random, among machines of which one interprets what the others compile, while clients read all
//! that is printed and ask a server that moves too.
//!
//! The one idea: see [`super::enduring`]. What a process has printed is what it prints where it stays, and each answer is the one that
//! is due.

use super::enduring::{ENDLESS, Program, Ready, Running, as_unmoved};
use super::moving::{RUN_MAX, Series, must};
use super::node::{Machines, Setting};
use crate::Outcome;
use serde_json::Value;
use std::collections::BTreeMap;

const STOP: &str = "/stop";

/// How much of it there is.
struct Size {
    machines: usize,
    interpreters: &'static [usize],
    moves: usize,
    /// Touched by the largest one.
    large_mib: &'static str,
    /// What takes long to compile, or is fetched.
    all_languages: bool,
}

pub fn thousand(setting: &Setting) -> Outcome {
    let size = Size { machines: 5, interpreters: &[5], moves: 1000, large_mib: "1024", all_languages: true };
    at_random(setting, &size)
}

pub fn some_dozens(setting: &Setting) -> Outcome {
    let size = Size { machines: 3, interpreters: &[3], moves: 40, large_mib: "64", all_languages: false };
    at_random(setting, &size)
}

/// One that computes by itself, with the words that run it for a number of lines.
struct Alone {
    running: Running,
    program: Program,
    words: Vec<String>,
}

fn at_random(setting: &Setting, size: &Size) -> Outcome {
    let machines = Machines::joined_with_interpreters(setting, size.machines, size.interpreters)?;
    let mut programs = BTreeMap::new();
    let languages = [Program::Go, Program::Python];
    let used = [Program::C, Program::Together].into_iter().chain(languages.into_iter().filter(|_| size.all_languages));
    for program in used {
        programs.insert(program, program.ready(&machines)?);
    }
    let mut alone = start_alone(&machines, &programs, size)?;
    let mut together = start_together(&machines, &programs[&Program::Together], size)?;
    let moved = {
        let all = alone.iter_mut().map(|one| &mut one.running).chain(&mut together);
        move_about(&machines, &mut all.collect::<Vec<_>>(), size)?
    };
    machines.store(1, STOP, "")?.ok()?;
    let mut lines = 0;
    for one in &mut together {
        if one.name == SERVER {
            continue;
        }
        lines += one.ends_well()?.lines().count();
    }
    for one in &mut alone {
        let printed = one.running.ends_well()?;
        lines += printed.lines().count();
        let words: Vec<&str> = one.words.iter().map(String::as_str).collect();
        as_unmoved(&machines, &one.running, &programs[&one.program], &words, &printed)?;
    }
    let all: Vec<&Running> = alone.iter().map(|one| &one.running).chain(&together).collect();
    println!("        {} {lines} lines, each once and in order", moved.told());
    for one in &all {
        println!("        {:>5} moves of {}", one.moves, one.name);
        must(one.moves > 0, format!("{} was moved", one.name))?;
    }
    let server = together.iter().find(|one| one.name == SERVER).ok_or("there is a server")?;
    machines.una(1, &["kill", &server.pid])?.ok().map(drop)
}

fn start_alone(machines: &Machines, programs: &BTreeMap<Program, Ready>, size: &Size) -> Outcome<Vec<Alone>> {
    let of_c = |mib: &str, name: &str| {
        let words = [mib, "{lines}", &format!("/{name}{{run}}"), "{stop}"].map(String::from);
        (Program::C, name.to_string(), words.to_vec())
    };
    let of_words =
        |program: Program, name: &str| (program, name.to_string(), ["{lines}", "{stop}"].map(String::from).to_vec());
    let mut wanted = vec![of_c("1", "small"), of_c("8", "medium"), of_c(size.large_mib, "large")];
    if size.all_languages {
        wanted.push(of_words(Program::Go, "hashing"));
        wanted.push(of_words(Program::Python, "scripted"));
    }
    let mut alone = vec![];
    for (number, (program, name, words)) in wanted.into_iter().enumerate() {
        // The run that stays where it is writes another file, and nothing stops it but its lines.
        let fill = |lines: &str, run: &str, stop: &str| -> Vec<String> {
            let filled = |word: &String| word.replace("{lines}", lines).replace("{run}", run).replace("{stop}", stop);
            words.iter().map(filled).collect()
        };
        let moved = fill(ENDLESS, "-moved", STOP);
        let moved: Vec<&str> = moved.iter().map(String::as_str).collect();
        let at = 1 + number % 2;
        let running = Running::start(machines, at, &name, &programs[&program], &moved)?;
        running.has_printed(1)?;
        alone.push(Alone { running, program, words: fill("{lines}", "-unmoved", "/never") });
    }
    Ok(alone)
}

const SERVER: &str = "server";

fn start_together(machines: &Machines, ready: &Ready, size: &Size) -> Outcome<Vec<Running>> {
    let start = |at: usize, name: &str, words: &[&str]| Running::start(machines, at, name, ready, words);
    let last = size.machines;
    let all = vec![
        start(1, "sink", &["sink", "line"])?,
        start(2, "middle", &["middle", "line"])?,
        start(last, "source", &["source", "line", STOP])?,
        start(2, SERVER, &["server", "answers"])?,
        start(1, "client1", &["client", "answers", "1", STOP])?,
        start(last, "client2", &["client", "answers", "2", STOP])?,
    ];
    for one in all.iter().filter(|one| ["sink", "client1", "client2"].contains(&one.name.as_str())) {
        one.has_printed(1)?;
    }
    Ok(all)
}

#[derive(Default)]
struct Moved {
    /// None: the link over which it would have been told broke.
    pauses_us: Vec<Option<u64>>,
    bytes: u64,
    tried_again: u64,
}

impl Moved {
    fn told(&self) -> String {
        let mut sorted: Vec<u64> = self.pauses_us.iter().copied().flatten().collect();
        sorted.sort_unstable();
        let at =
            |percent: usize| sorted.get((sorted.len() * percent / 100).min(sorted.len() - 1)).copied().unwrap_or(0);
        format!(
            "{} moves, {} MiB; pauses p50 {:.1} ms, p99 {:.1} ms; {} tried again;",
            self.pauses_us.len(),
            self.bytes >> 20,
            at(50) as f64 / 1e3,
            at(99) as f64 / 1e3,
            self.tried_again
        )
    }
}

fn move_about(machines: &Machines, all: &mut [&mut Running], size: &Size) -> Outcome<Moved> {
    let (mut series, mut moved) = (Series(17), Moved::default());
    while moved.pauses_us.len() < size.moves {
        let which = series.below(all.len() as u64) as usize;
        let one = &mut *all[which];
        let to = 1 + (one.at + series.below(size.machines as u64 - 1) as usize) % size.machines;
        let by = 1 + series.below(size.machines as u64) as usize;
        let done = machines.una_within(by, &["move", "--json", &one.pid, &format!("node{to}")], RUN_MAX)?;
        let number = moved.pauses_us.len();
        let failed = |what: String| format!("move {number}, {} from n{} to n{to}: {what}", one.name, one.at);
        let said: Value = serde_json::from_str(&done.ok().map_err(|error| failed(error.to_string()))?)?;
        let figure = |name: &str| said["move"][name].as_u64().ok_or_else(|| failed(format!("no {name}: {said}")));
        moved.pauses_us.push(said["move"]["pause_us"].as_u64());
        moved.bytes += figure("bytes")?;
        moved.tried_again += said["move"]["lost"].as_array().map_or(0, Vec::len) as u64;
        one.at = to;
        one.moves += 1;
        if moved.pauses_us.len().is_multiple_of(100) {
            println!("        {}", moved.told());
        }
    }
    Ok(moved)
}
