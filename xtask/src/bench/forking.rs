//! `cargo xtask bench fork`: clones of a process by real daemons of this machine: how long the process stands still, how long it takes
//! until a clone runs on the same node and on another, and what eight clones take up beside the one.
//!
//! The one idea: the program looks at the clock on the wall all the time and prints the longest pause that it saw. What a clone prints
//! first began before it was there: so it is the time from the last thing that the process did before it was forked to the first that the
//! clone did.

use super::moving::{SOON, compiled, line, wait_lines};
use super::report::Table;
use super::show;
use crate::cluster;
use crate::{Outcome, target};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Arguments {
    /// How often each figure is taken
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Mebibytes that the program has written, each a figure of its own
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256])]
    mib: Vec<u32>,
    /// CPython in the place of a program in C: `cargo xtask fetch` brings it, and it takes a while to compile
    #[arg(long)]
    python: bool,
}

const NODES: u16 = 3;
const WORKERS: usize = 8;

/// Like `bench/move/hot.c`.
const SCRIPT: &str = "
import sys, time
block = bytearray(int(sys.argv[1]) << 20)
for at in range(0, len(block), 4096): block[at] = 1
print(0, flush=True)
last = told = time.time()
most = 0
while True:
    for at in range(0, min(len(block), 64 << 12), 4096): block[at] ^= 1
    now = time.time()
    most = max(most, now - last)
    last = now
    if now - told > 0.2:
        print(int(most * 1e6), flush=True)
        told, most = now, 0
";

pub fn run(arguments: &Arguments) -> Outcome {
    let una = cluster::build()?;
    let program = match arguments.python {
        true => target().join("programs/python.wasm"),
        false => compiled("hot")?,
    };
    if !program.exists() {
        return Err(format!("{} is not there: cargo xtask fetch", program.display()).into());
    }
    let place = crate::root().join("target/bench/fork");
    cluster::end(&place)?;
    cluster::start(&place, NODES, &una, &[])?;
    let mut table = Table::new(&["what", "memory", "unit", "median (least-most)"]);
    let measured = arguments.mib.iter().try_for_each(|mib| {
        let process = Process::start(&place, &program, *mib, arguments.python)?;
        process.measure(arguments.rounds, &mut table)
    });
    cluster::end(&place)?;
    measured?;
    show(&table.to_string())
}

struct Process<'a> {
    place: &'a Path,
    pid: String,
    bytes: usize,
}

/// What one fork told, in milliseconds.
struct Fork {
    pause: f64,
    /// Until the last of the clones was begun.
    begun: f64,
    clones: Vec<String>,
}

impl Process<'_> {
    fn start<'a>(place: &'a Path, program: &Path, mib: u32, python: bool) -> Outcome<Process<'a>> {
        let program = program.to_str().ok_or("the path of the program is not text")?;
        let amount = mib.to_string();
        let arguments: &[&str] = if python { &["-c", SCRIPT, &amount] } else { &[&amount, "64"] };
        let pid = cluster::begin(place, &[&["--on", "n1-box", program], arguments].concat())?;
        wait_lines(place, &pid, 2)?;
        Ok(Process { place, pid, bytes: (mib as usize) << 20 })
    }

    /// The memory of the fork before has come to its place by then, which is no part of this one.
    fn fork(&self, arguments: &[&str]) -> Outcome<Fork> {
        self.settled()?;
        let words: Vec<&str> = ["fork", "--json", &self.pid].iter().chain(arguments).copied().collect();
        let said: Value = serde_json::from_str(&cluster::speak(self.place, 1, &words)?)?;
        let fork = &said["fork"];
        let number = |value: &Value| value.as_f64().ok_or_else(|| format!("una fork said {said}"));
        let (mut begun, mut clones) = (0.0f64, vec![]);
        for clone in fork["clones"].as_array().ok_or_else(|| format!("una fork said {said}"))? {
            begun = begun.max(number(&clone["after_us"])? / 1e3);
            clones.push(clone["pid"].as_str().map_or_else(|| clone["pid"].to_string(), String::from));
        }
        Ok(Fork { pause: number(&fork["pause_us"])? / 1e3, begun, clones })
    }

    /// From the process's last look at the clock to the clone's first, in milliseconds.
    fn first_look(&self, clone: &str) -> Outcome<f64> {
        Ok(wait_lines(self.place, clone, 1)?.first().copied().unwrap_or_default() / 1e3)
    }

    fn kill(&self, clones: &[String]) -> Outcome {
        clones.iter().try_for_each(|clone| cluster::speak(self.place, 1, &["kill", clone]).map(drop))
    }

    fn measure(&self, rounds: u32, table: &mut Table) -> Outcome {
        for (what, node) in [("on the same node", "n1-box"), ("on another node", "n2-box")] {
            let (mut pauses, mut begun, mut first) = (vec![], vec![], vec![]);
            // One that does not count comes first: it has the program compiled.
            for round in 0..=rounds {
                let fork = self.fork(&["--on", node])?;
                let looked = self.first_look(&fork.clones[0])?;
                self.kill(&fork.clones)?;
                if round > 0 {
                    pauses.push(fork.pause);
                    begun.push(fork.begun);
                    first.push(looked);
                }
            }
            line(table, &format!("one clone {what}: the process stands still"), self.bytes, "ms", &pauses);
            line(table, &format!("one clone {what}: begun, as its node tells it"), self.bytes, "ms", &begun);
            line(table, &format!("one clone {what}: its first look at the clock"), self.bytes, "ms", &first);
        }
        let (mut begun, mut first, mut here, mut more) = (vec![], vec![], vec![], vec![]);
        let count = WORKERS.to_string();
        for _ in 0..rounds {
            let fork = self.fork(&["-n", &count])?;
            begun.push(fork.begun);
            for clone in &fork.clones {
                first.push(self.first_look(clone)?);
            }
            self.kill(&fork.clones)?;
            let before = self.settled()?;
            let fork = self.fork(&["-n", &count, "--on", "n1-box"])?;
            here.push(fork.begun);
            for clone in &fork.clones {
                self.first_look(clone)?;
            }
            more.push((self.settled()? - before) / f64::from(1 << 20));
            self.kill(&fork.clones)?;
        }
        line(table, "eight clones over three nodes: all begun", self.bytes, "ms", &begun);
        line(table, "eight clones over three nodes: first look at the clock, each", self.bytes, "ms", &first);
        line(table, "eight clones on the same node: all begun", self.bytes, "ms", &here);
        line(table, "eight clones on the same node: memory beside that of the process", self.bytes, "MiB", &more);
        cluster::speak(self.place, 1, &["kill", &self.pid])?;
        Ok(())
    }

    /// What the first node's daemon has of memory of its own, and what all share that belongs to files in memory.
    fn memory(&self) -> Outcome<f64> {
        let rollup = PathBuf::from(format!("/proc/{}/smaps_rollup", cluster::daemon(self.place, 1)?));
        Ok(kilobytes(&rollup, "Pss_Anon:")? + kilobytes(Path::new("/proc/meminfo"), "Shmem:")?)
    }

    /// The same, as soon as it has been the same for a while: what is brought to clones has come then.
    fn settled(&self) -> Outcome<f64> {
        let until = Instant::now() + SOON;
        let mut last = self.memory()?;
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let now = self.memory()?;
            if (now - last).abs() < f64::from(1 << 20) || Instant::now() > until {
                return Ok(now);
            }
            last = now;
        }
    }
}

/// A line of a file of Linux's, in bytes.
fn kilobytes(path: &Path, name: &str) -> Outcome<f64> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse::<f64>().ok());
    Ok(number.ok_or_else(|| format!("{} has no {name}", path.display()))? * 1024.0)
}
