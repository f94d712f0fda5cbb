//! `cargo xtask bench move`: what it costs to follow the pages of a process, to let it run before they are there, and to stop it here and
//! continue it there. Within one operating-system process: what is measured is una's own work, not a network.
//!
//! The one idea: a program that touches pages as it is told, so that how much was written is known and not guessed.

use super::report::{Spread, Table};
use super::{chosen, show};
use crate::Outcome;
use crate::cluster;
use crate::step::output;
use drivers::{HostClock, HostEntropy, HostStream, HostWaiter};
use engine::pages::{Content, Fetch, Missing, PagesError, Piece, Span, Tracker, UNIT};
use engine::{Engine, Options, Process, Program, RunError, Stop, Stopper, wasi};
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Arguments {
    /// How often each figure is taken
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these: follow, missing, pause, nodes, criu
    ///
    /// The nodes are daemons, for which una is compiled first.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// For what must come some day, on a machine however busy.
pub(super) const SOON: Duration = Duration::from_secs(120);

const PAGE: usize = engine::pages::PAGE;

type Part = fn(&House, u32, &mut Table) -> Outcome;

const PARTS: [(&str, Part); 5] = [
    ("follow", follow),
    ("missing", missing),
    ("pause", pause),
    ("nodes", between_nodes),
    ("criu", super::criu::beside),
];

pub fn run(arguments: &Arguments) -> Outcome {
    let chosen = chosen(&PARTS, arguments.only.as_deref())?;
    let house = House::new()?;
    let mut table = Table::new(&["what", "memory", "unit", "median (least-most)"]);
    for (name, measure) in chosen {
        eprintln!("{name}: measuring");
        measure(&house, arguments.rounds, &mut table)?;
    }
    show(&table.to_string())
}

pub(super) fn directory() -> PathBuf {
    crate::root().join("target/bench/move")
}

/// `bench/move/NAME.c` as wasm.
pub(super) fn compiled(name: &str) -> Outcome<PathBuf> {
    std::fs::create_dir_all(directory())?;
    let wasm = directory().join(format!("{name}.wasm"));
    let mut command = Command::new("clang");
    command.args(["--target=wasm32-wasi", "-O2", "-nostdlib", "-Wl,-z,stack-size=8192", "-o"]).arg(&wasm);
    command.arg(crate::root().join(format!("bench/move/{name}.c")));
    output(&mut command, "cargo xtask setup installs what compiles C to WebAssembly")?;
    Ok(wasm)
}

pub struct House {
    engine: Engine,
    program: Program,
}

impl House {
    fn new() -> Outcome<House> {
        let wasm = compiled("touch")?;
        let engine = Engine::new(&Options::default())?;
        let program = engine.load(std::fs::read(wasm)?, &mut |_| {})?;
        Ok(House { engine, program })
    }

    /// A process with so much memory, none of it zero.
    fn process(&self, bytes: usize) -> Outcome<Guest> {
        let (input, commands) = std::io::pipe()?;
        let (answers, output) = std::io::pipe()?;
        let ends = Ends { input, output };
        let wasi::Resume { stdin, stdout, stderr, clock, entropy, waiter, .. } = ends.resume()?;
        let (args, env, mounts) = (vec!["touch".into()], vec![], vec![]);
        let setup = wasi::Setup { args, env, mounts, stdin, stdout, stderr, clock, entropy, waiter };
        let mut guest = Guest { commands, answers, ends, pages: bytes / PAGE, running: None };
        guest.run(self.engine.start(&self.program, "touch", setup)?);
        guest.ask(Act::Grow, guest.pages, 0)?;
        Ok(guest)
    }
}

/// The process's ends of its pipes, for whoever continues it.
struct Ends {
    input: PipeReader,
    output: PipeWriter,
}

impl Ends {
    fn resume(&self) -> Outcome<wasi::Resume> {
        let nothing = File::options().read(true).write(true).open("/dev/null")?;
        Ok(wasi::Resume {
            mounts: vec![],
            stdin: Box::new(HostStream::new(self.input.try_clone()?.into())?),
            stdout: Box::new(HostStream::new(self.output.try_clone()?.into())?),
            stderr: Box::new(HostStream::new(nothing.into())?),
            clock: Box::new(HostClock),
            entropy: Box::new(HostEntropy),
            waiter: Box::new(HostWaiter::new()?),
        })
    }
}

#[derive(Clone, Copy)]
enum Act {
    Grow = 0,
    Touch = 1,
    AddUp = 2,
}

/// A process that runs on a thread of its own.
struct Guest {
    commands: PipeWriter,
    answers: PipeReader,
    ends: Ends,
    pages: usize,
    running: Option<(Stopper, JoinHandle<(Process, Result<Stop, RunError>)>)>,
}

impl Guest {
    fn run(&mut self, mut process: Process) {
        let stopper = process.stopper();
        let thread = std::thread::spawn(move || {
            let stop = process.run();
            (process, stop)
        });
        self.running = Some((stopper, thread));
    }

    fn stop(&mut self) -> Outcome<Process> {
        let (stopper, thread) = self.running.take().ok_or("it does not run")?;
        stopper.freeze()?;
        let (process, stop) = thread.join().map_err(|_| "the thread of the program failed")?;
        match stop? {
            Stop::Frozen => Ok(process),
            stop => Err(format!("the program ended: {stop:?}").into()),
        }
    }

    fn tell(&mut self, act: Act, pages: usize, stride: usize) -> Outcome {
        let words = [act as u32, pages as u32, stride as u32, 1].map(u32::to_le_bytes);
        Ok(self.commands.write_all(words.as_flattened())?)
    }

    fn answer(&mut self) -> Outcome<u32> {
        let mut answer = [0; 4];
        self.answers.read_exact(&mut answer)?;
        Ok(u32::from_le_bytes(answer))
    }

    fn ask(&mut self, act: Act, pages: usize, stride: usize) -> Outcome<u32> {
        self.tell(act, pages, stride)?;
        self.answer()
    }

    /// Writes to so many pages of a thousand, far from one another; how long that took.
    fn touch(&mut self, per_mille: usize) -> Outcome<Duration> {
        let count = self.pages * per_mille / 1000;
        // Without a common divisor with the number of pages, which is a power of two: no page comes twice.
        let stride = if per_mille == 1000 { 1 } else { self.pages / 3 | 1 };
        let start = Instant::now();
        self.ask(Act::Touch, count, stride)?;
        Ok(start.elapsed())
    }
}

pub fn shown(bytes: usize) -> String {
    format!("{} MiB", bytes >> 20)
}

pub(super) fn line(table: &mut Table, what: &str, bytes: usize, unit: &str, figures: &[f64]) {
    let Spread { median, min, max } = Spread::of(figures);
    let spread = format!("{median:.3} ({min:.3}-{max:.3})");
    table.0.push(vec![what.into(), shown(bytes), unit.into(), spread]);
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Looking for what was written, and what being followed costs the program.
fn follow(house: &House, rounds: u32, table: &mut Table) -> Outcome {
    for bytes in [64 << 20, 1 << 30] {
        let mut guest = house.process(bytes)?;
        let mut plain = vec![];
        for _ in 0..rounds {
            plain.push(ms(guest.touch(1000)?) * 1e6 / guest.pages as f64);
        }
        let mut process = guest.stop()?;
        let memories = process.memories();
        guest.run(process);
        let start = Instant::now();
        let mut tracker = Tracker::begin(&memories)?;
        line(table, "begin to follow", bytes, "ms", &[ms(start.elapsed())]);
        let start = Instant::now();
        tracker.written()?;
        line(table, "the first look", bytes, "ms", &[ms(start.elapsed())]);
        let mut followed = vec![];
        for per_mille in [0, 10, 100, 1000] {
            let mut looks = vec![];
            for _ in 0..rounds {
                let took = guest.touch(per_mille)?;
                if per_mille == 1000 {
                    followed.push(ms(took) * 1e6 / guest.pages as f64);
                }
                let start = Instant::now();
                let found: u64 = tracker.written()?.iter().map(|span| span.range.end - span.range.start).sum();
                looks.push(ms(start.elapsed()));
                if (found as usize) < guest.pages * PAGE * per_mille / 1000 {
                    return Err("a look has missed pages".into());
                }
            }
            let percent = per_mille as f64 / 10.0;
            line(table, &format!("a look after {percent} % were written"), bytes, "ms", &looks);
        }
        line(table, "a page written by the program, not followed", bytes, "ns", &plain);
        line(table, "the same for the first time after a look", bytes, "ns", &followed);
        let start = Instant::now();
        guest.touch(1000)?;
        let mut read = 0;
        tracker.take(|piece| {
            if let Content::Bytes(bytes) = piece.content {
                read += bytes.len();
            }
            Ok::<(), PagesError>(())
        })?;
        if read < bytes {
            return Err("not all was read".into());
        }
        line(table, "write all of it, look and read all of it", bytes, "ms", &[ms(start.elapsed())]);
    }
    Ok(())
}

/// What is wanted goes to a thread that has the pages.
struct ToThread(Sender<(u32, u64)>);

impl Fetch for ToThread {
    fn want(&self, memory: u32, unit: u64) {
        // Who has the pages is gone: then the process is told so by whoever noticed.
        let _ = self.0.send((memory, unit));
    }
}

/// Gives what is wanted until all is there, and when nothing is wanted for a while, more.
fn serve(wanted: &Receiver<(u32, u64)>, missing: &Missing, tracker: &mut Tracker) -> Result<(), PagesError> {
    let mut bytes = vec![0; UNIT as usize];
    while missing.left() > 0 {
        let (memory, unit) = match wanted.recv_timeout(Duration::from_millis(20)) {
            Ok(wanted) => wanted,
            Err(_) => match missing.left_spans(1).first() {
                Some(span) => (span.memory, span.range.start / UNIT),
                None => break,
            },
        };
        tracker.read(memory, unit * UNIT, &mut bytes)?;
        missing.fill(memory, unit * UNIT, &bytes)?;
    }
    Ok(())
}

/// A process that was stopped, as whoever continues it gets it: an image without pages, and the tracker that has them.
fn leave(guest: &mut Guest) -> Outcome<(Vec<u8>, Tracker)> {
    let mut process = guest.stop()?;
    let tracker = Tracker::begin(&process.memories())?;
    let mut image = vec![];
    process.save_without_pages(&mut image, false)?;
    Ok((image, tracker))
}

fn all_of(tracker: &Tracker) -> Vec<Span> {
    let sizes = tracker.sizes();
    sizes.iter().enumerate().map(|(memory, bytes)| Span { memory: memory as u32, range: 0..*bytes }).collect()
}

/// A page that is touched before it is there.
fn missing(house: &House, rounds: u32, table: &mut Table) -> Outcome {
    let bytes = 64 << 20;
    let mut each = vec![];
    for _ in 0..rounds {
        let mut guest = house.process(bytes)?;
        let (image, mut tracker) = leave(&mut guest)?;
        let mut process = house.engine.thaw(&house.program, &image[..], guest.ends.resume()?)?;
        let (to, wanted) = std::sync::mpsc::channel();
        let missing = Missing::begin(&process.memories(), &all_of(&tracker), std::sync::Arc::new(ToThread(to)))?;
        let units = bytes / UNIT as usize;
        let took = std::thread::scope(|scope| -> Outcome<f64> {
            let (missing, tracker) = (&missing, &mut tracker);
            let serving = scope.spawn(move || serve(&wanted, missing, tracker));
            guest.run(process);
            // What it stands in, its stack and what it begins with.
            guest.ask(Act::AddUp, 1, 1)?;
            let start = Instant::now();
            guest.ask(Act::AddUp, units - 1, UNIT as usize / PAGE)?;
            let took = start.elapsed();
            serving.join().map_err(|_| "the thread that has the pages failed")??;
            Ok(took.as_secs_f64() * 1e6 / (units - 1) as f64)
        });
        each.push(took?);
    }
    line(table, "64 KiB touched before they are there, from a thread that has them", bytes, "us", &each);
    Ok(())
}

/// From the wish to stop it until it has answered elsewhere.
fn pause(house: &House, rounds: u32, table: &mut Table) -> Outcome {
    for bytes in [1 << 20, 64 << 20, 1 << 30] {
        let (mut late, mut copied) = (vec![], vec![]);
        for _ in 0..rounds {
            late.push(move_late(house, bytes)?);
            copied.push(move_whole(house, bytes)?);
        }
        line(table, "pause: pages before and after, 1 % written since the last look", bytes, "ms", &late);
        line(table, "pause: an image with all pages", bytes, "ms", &copied);
    }
    Ok(())
}

/// One round of pages while it runs; then it stops, and what was written meanwhile comes as it is touched.
fn move_late(house: &House, bytes: usize) -> Outcome<f64> {
    let mut guest = house.process(bytes)?;
    let mut process = guest.stop()?;
    let memories = process.memories();
    guest.run(process);
    let mut tracker = Tracker::begin(&memories)?;
    let mut staging = house.engine.stage(bytes as u64 + (1 << 20));
    tracker.take(|piece: Piece| staging.put(piece))?;
    guest.touch(10)?;
    let right = guest.ask(Act::AddUp, guest.pages, 1)?;
    let start = Instant::now();
    let mut process = guest.stop()?;
    let mut image = vec![];
    process.save_without_pages(&mut image, false)?;
    let absent = tracker.written()?;
    let mut continued = house.engine.thaw(&house.program, &image[..], guest.ends.resume()?)?;
    continued.adopt(staging)?;
    let (to, wanted) = std::sync::mpsc::channel();
    let missing = Missing::begin(&continued.memories(), &absent, std::sync::Arc::new(ToThread(to)))?;
    let paused = std::thread::scope(|scope| -> Outcome<f64> {
        let (missing, tracker) = (&missing, &mut tracker);
        let serving = scope.spawn(move || serve(&wanted, missing, tracker));
        guest.run(continued);
        guest.ask(Act::AddUp, 1, 1)?;
        let paused = ms(start.elapsed());
        if guest.ask(Act::AddUp, guest.pages, 1)? != right {
            return Err("what arrived is not what left".into());
        }
        missing.wait(SOON)?;
        serving.join().map_err(|_| "the thread that has the pages failed")??;
        Ok(paused)
    });
    drop(process);
    paused
}

fn move_whole(house: &House, bytes: usize) -> Outcome<f64> {
    let mut guest = house.process(bytes)?;
    let right = guest.ask(Act::AddUp, guest.pages, 1)?;
    let start = Instant::now();
    let mut process = guest.stop()?;
    let mut image = vec![];
    process.save(&mut image, false)?;
    let continued = house.engine.thaw(&house.program, &image[..], guest.ends.resume()?)?;
    guest.run(continued);
    guest.ask(Act::AddUp, 1, 1)?;
    let paused = ms(start.elapsed());
    if guest.ask(Act::AddUp, guest.pages, 1)? != right {
        return Err("what arrived is not what left".into());
    }
    Ok(paused)
}

/// How much memory the program has, and how many pages of it are its hot set.
pub const HOT: [(u32, u32); 4] = [(1, 64), (64, 256), (1024, 256), (1024, 4096)];

/// Moves a process that writes its hot set between two daemons on the loopback, and beside it, in turns, one between two daemons that are
/// refused what pages need: these find what was written by comparing, and send the rest while the process stands still.
fn between_nodes(_: &House, rounds: u32, table: &mut Table) -> Outcome {
    let una = cluster::build()?;
    let wasm = compiled("hot")?;
    let ways = [("pages before and after", vec![]), ("found by comparing, none after", vec![("UNA_PAGES", "plain")])];
    let mut pairs = vec![];
    for (place, (way, environment)) in ways.iter().enumerate() {
        let place = directory().join(format!("nodes{place}"));
        cluster::end(&place)?;
        cluster::start(&place, 2, &una, environment)?;
        pairs.push((*way, place));
    }
    let measured = (|| {
        for (mib, hot) in HOT {
            moves(&pairs, &wasm, mib, hot, rounds, table)?;
        }
        Ok(())
    })();
    for (_, place) in &pairs {
        cluster::end(place)?;
    }
    measured
}

/// What was found out by moving one program there and back.
#[derive(Default)]
struct Moves {
    pid: String,
    at: u16,
    pause_ms: Vec<f64>,
    total_ms: Vec<f64>,
    late_mib: Vec<f64>,
    still_ms: Vec<f64>,
    quiet_ms: Vec<f64>,
}

fn moves(pairs: &[(&str, PathBuf)], wasm: &Path, mib: u32, hot: u32, rounds: u32, table: &mut Table) -> Outcome {
    let mut all = vec![];
    for (_, place) in pairs {
        let wasm = wasm.to_str().ok_or("the path of the program is not text")?;
        let pid = cluster::begin(place, &["--on", "n1-box", wasm, &mib.to_string(), &hot.to_string()])?;
        all.push(Moves { pid, at: 1, ..Moves::default() });
    }
    for ((_, place), moved) in pairs.iter().zip(&mut all) {
        wait_lines(place, &moved.pid, 3)?;
        cluster::speak(place, 1, &["stop", &moved.pid])?;
    }
    // One that does not count comes first: it has the program compiled.
    for round in 0..=rounds {
        for ((way, place), moved) in pairs.iter().zip(&mut all) {
            // One computes at a time: the machine may have two processors, and what is moved wants both.
            cluster::speak(place, 1, &["cont", &moved.pid])?;
            // A look at a program that is left alone, to compare with.
            let before = wait_lines(place, &moved.pid, 0)?;
            let lines = wait_lines(place, &moved.pid, before.len() + 2)?;
            let quiet = most(&lines[before.len()..]);
            let to = if moved.at == 1 { 2 } else { 1 };
            let said = cluster::speak(place, 1, &["move", "--json", &moved.pid, &format!("n{to}-box")])?;
            moved.at = to;
            let said: serde_json::Value = serde_json::from_str(&said)?;
            let number = |name: &str| {
                said["move"][name].as_f64().ok_or_else(|| format!("{way}: una move said no {name}: {said}"))
            };
            let after = wait_lines(place, &moved.pid, 0)?.len();
            let still = most(&wait_lines(place, &moved.pid, after + 2)?[lines.len()..]);
            cluster::speak(place, 1, &["stop", &moved.pid])?;
            if round == 0 {
                continue;
            }
            moved.pause_ms.push(number("pause_us")? / 1e3);
            moved.total_ms.push(number("total_us")? / 1e3);
            moved.late_mib.push(number("late_bytes")? / f64::from(1 << 20));
            moved.still_ms.push(still);
            moved.quiet_ms.push(quiet);
        }
    }
    let bytes = (mib as usize) << 20;
    for ((way, place), moved) in pairs.iter().zip(&all) {
        let what = |what: &str| format!("{what}: {way}, {hot} hot pages");
        line(table, &what("pause, as the nodes tell it"), bytes, "ms", &moved.pause_ms);
        line(table, &what("standing still, by the program's own look at the clock"), bytes, "ms", &moved.still_ms);
        line(table, &what("the same while it is not moved"), bytes, "ms", &moved.quiet_ms);
        line(table, &what("the whole move"), bytes, "ms", &moved.total_ms);
        line(table, &what("followed after it ran there"), bytes, "MiB", &moved.late_mib);
        let mut pauses = moved.pause_ms.clone();
        pauses.sort_by(f64::total_cmp);
        let worst = pauses[(pauses.len() * 99).div_ceil(100).saturating_sub(1)];
        line(table, &what("pause, p99 of all rounds"), bytes, "ms", &[worst]);
        cluster::speak(place, 1, &["kill", &moved.pid])?;
    }
    Ok(())
}

/// What the program has printed, as soon as that is so many lines.
pub fn wait_lines(place: &Path, pid: &str, lines: usize) -> Outcome<Vec<f64>> {
    let until = Instant::now() + SOON;
    loop {
        let said = cluster::speak(place, 1, &["logs", pid])?;
        let told: Vec<f64> = said.lines().filter_map(|line| line.parse().ok()).collect();
        if told.len() >= lines {
            return Ok(told);
        }
        if Instant::now() > until {
            return Err(format!("process {pid} has not printed {lines} lines").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Milliseconds, of lines in microseconds.
pub fn most(lines: &[f64]) -> f64 {
    lines.iter().copied().fold(0.0, f64::max) / 1e3
}
