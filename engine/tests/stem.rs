//! Stems by the engine's public face: a process that is forked, its clones, and theirs. Each adds up its memory, changes all of it in a way
//! of its own, and adds it up again; what it prints is compared with what this file computes.

mod machine;

use engine::pages::{Content, Fetch, NotThere, PAGE, PagesError, Piece, Span, Stem, Tracker, UNIT};
use engine::{Engine, Process, Program, RunError, Stop, Stopper, Target};
use machine::{engine, load, resume, setup};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

/// Fills its memory. Then, whenever a byte comes: grows by so many pages as its upper half says, adds up a word of each `step` bytes and
/// one between each two, which nobody has written, multiplies each by the byte, adds them up again, and prints both sums. Ends at the end
/// of its input, by the code 7.
fn changing(pages: u32, step: u32) -> String {
    format!(
        r#"(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") {pages} 1000)
      (data (i32.const 3000) "what a new instance has and a continued one has not")
      (func $end (result i32) (i32.shl (memory.size) (i32.const 16)))
      (func $fill (local $at i32) (local $s i32)
        (local.set $at (i32.const 4096))
        (loop $l
          (local.set $s (i32.add (i32.mul (local.get $s) (i32.const 1664525)) (i32.const 1013904223)))
          (i32.store (local.get $at) (local.get $s))
          (br_if $l (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const {step}))) (call $end)))))
      (func $sum (result i32) (local $at i32) (local $sum i32)
        (local.set $at (i32.const 4096))
        (loop $l
          (local.set $sum (i32.add (i32.rotl (local.get $sum) (i32.const 5)) (i32.load (local.get $at))))
          (local.set $sum (i32.add (i32.rotl (local.get $sum) (i32.const 5)) (i32.load (select
            (i32.add (local.get $at) (i32.const {half})) (i32.const 4000)
            (i32.lt_u (i32.add (local.get $at) (i32.const {half})) (call $end))))))
          (br_if $l (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const {step}))) (call $end))))
        (local.get $sum))
      (func $change (param $by i32) (local $at i32)
        (local.set $at (i32.const 4096))
        (loop $l
          (i32.store (local.get $at) (i32.mul (i32.load (local.get $at)) (local.get $by)))
          (br_if $l (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const {step}))) (call $end)))))
      (func $print (param $count i32)
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (local.get $count))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
      (func (export "_start") (local $byte i32)
        (call $fill)
        (i32.store8 (i32.const 64) (i32.const 82))
        (call $print (i32.const 1))
        (loop $again
          (i32.store (i32.const 0) (i32.const 32)) (i32.store (i32.const 4) (i32.const 1))
          (if (i32.or (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (i32.eqz (i32.load (i32.const 8))))
            (then (call $exit (i32.const 7))))
          (local.set $byte (i32.load8_u (i32.const 32)))
          (drop (memory.grow (i32.shr_u (local.get $byte) (i32.const 4))))
          (i32.store (i32.const 64) (call $sum))
          (call $change (i32.and (local.get $byte) (i32.const 15)))
          (i32.store (i32.const 68) (call $sum))
          (call $print (i32.const 8))
          (br $again))))"#,
        half = step / 2
    )
}

/// The same, computed here.
#[derive(Clone)]
struct Expected {
    memory: Vec<u32>,
    step: u32,
}

impl Expected {
    fn new(pages: u32, step: u32) -> Expected {
        let words = (pages * 65536 - 4096).div_ceil(step);
        let mut s = 0u32;
        let next = || {
            s = s.wrapping_mul(1664525).wrapping_add(1013904223);
            s
        };
        Expected { memory: std::iter::repeat_with(next).take(words as usize).collect(), step }
    }

    fn sum(&self) -> u32 {
        self.memory.iter().fold(0, |sum: u32, word| sum.rotate_left(5).wrapping_add(*word).rotate_left(5))
    }

    fn told(&mut self, byte: u8) -> (u32, u32) {
        self.memory.extend(std::iter::repeat_n(0, ((byte >> 4) as u32 * 65536 / self.step) as usize));
        let before = self.sum();
        self.memory.iter_mut().for_each(|word| *word = word.wrapping_mul(u32::from(byte & 15)));
        (before, self.sum())
    }
}

/// A process and the other ends of its streams.
struct Running {
    stopper: Stopper,
    thread: std::thread::JoinHandle<(Process, Result<Stop, RunError>)>,
    input: PipeWriter,
    output: PipeReader,
}

struct Still {
    process: Process,
    input: PipeWriter,
    output: PipeReader,
}

impl Still {
    fn run(self) -> Running {
        let Still { mut process, input, output } = self;
        let stopper = process.stopper();
        let thread = std::thread::spawn(move || {
            let stop = process.run();
            (process, stop)
        });
        Running { stopper, thread, input, output }
    }

    /// A process like this one without its memory.
    fn empty_clone(&mut self, engine: &Engine, program: &Program) -> Still {
        let mut image = vec![];
        self.process.save_without_pages(&mut image, false).unwrap();
        continued(engine, program, &image)
    }

    fn fork(&mut self, engine: &Engine, program: &Program, count: usize) -> (Stem, Vec<Still>) {
        let mut clones: Vec<Still> = (0..count).map(|_| self.empty_clone(engine, program)).collect();
        let stem = Stem::of(&self.process.memories()).unwrap();
        clones.iter_mut().for_each(|clone| stem.share(&clone.process.memories()).unwrap());
        (stem, clones)
    }
}

fn continued(engine: &Engine, program: &Program, image: &[u8]) -> Still {
    let ((from, input), (output, to)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    Still { process: engine.thaw(program, image, resume(from, to)).unwrap(), input, output }
}

impl Running {
    /// Has filled its memory.
    fn begun(engine: &Engine, program: &Program) -> Running {
        let ((from, input), (output, to)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let process = engine.start(program, "x", setup(from, to)).unwrap();
        let mut running = Still { process, input, output }.run();
        let mut ready = [0];
        running.output.read_exact(&mut ready).unwrap();
        assert_eq!(ready, *b"R");
        running
    }

    fn tell(&mut self, byte: u8) -> (u32, u32) {
        self.input.write_all(&[byte]).unwrap();
        let mut said = [0; 8];
        self.output.read_exact(&mut said).unwrap();
        let word = |at: usize| u32::from_le_bytes(said[at..at + 4].try_into().unwrap());
        (word(0), word(4))
    }

    fn stop(self) -> Still {
        let Running { stopper, thread, input, output } = self;
        stopper.freeze().unwrap();
        let (process, stop) = thread.join().unwrap();
        assert_eq!(stop.unwrap(), Stop::Frozen);
        Still { process, input, output }
    }

    fn end(self) {
        drop(self.input);
        assert_eq!(self.thread.join().unwrap().1.unwrap(), Stop::Exited(7));
    }
}

/// Brings all of it, as whoever forks must have it done.
fn settle(stem: &Stem) {
    while stem.settle().unwrap() {}
    stem.whole().wait(SOON).unwrap();
    assert_eq!(stem.left(), 0);
}

fn clones_are_alike_and_apart(target: Target) {
    let engine = engine(target);
    let (pages, step) = (40, 1024);
    let program = load(&engine, &changing(pages, step));
    let mut original = Running::begun(&engine, &program).stop();
    let (stem, clones) = original.fork(&engine, &program, 3);
    if engine::pages::support().missing.is_ok() {
        assert_eq!(stem.left(), u64::from(pages) * 65536);
        assert!(matches!(original.process.save(vec![], false), Err(engine::SaveError::PagesMissing)));
        assert!(matches!(Stem::of(&original.process.memories()), Err(PagesError::InUse)));
        assert!(matches!(Tracker::begin(&original.process.memories()), Err(PagesError::InUse)));
    }
    // All run before anything but what they touch is there, and change all that they have.
    let mut running: Vec<Running> = std::iter::once(original).chain(clones).map(Still::run).collect();
    let mut expected = vec![Expected::new(pages, step); 4];
    for round in 0..2 {
        for (index, (running, expected)) in running.iter_mut().zip(&mut expected).enumerate() {
            let byte = 3 + 2 * index as u8;
            assert_eq!(running.tell(byte), expected.told(byte), "process {index} in round {round}");
        }
        settle(&stem);
    }
    drop(stem);
    running.into_iter().for_each(Running::end);
}

#[test]
fn a_process_and_its_clones_are_alike_and_apart() {
    clones_are_alike_and_apart(Target::Native);
}

#[test]
fn and_in_the_interpreter() {
    clones_are_alike_and_apart(Target::Pulley);
}

#[test]
fn clones_have_clones_and_grow() {
    let engine = engine(Target::Native);
    let (pages, step) = (33, 4096);
    let program = load(&engine, &changing(pages, step));
    let mut living = vec![(Running::begun(&engine, &program), Expected::new(pages, step))];
    // Each time the last one is forked, having grown: its memory then consists of many mappings.
    for round in 0..5u8 {
        let (mut last, mut expected) = living.pop().unwrap();
        let byte = 0x10 * (round % 3) + 5;
        assert_eq!(last.tell(byte), expected.told(byte), "round {round}");
        let mut still = last.stop();
        let (stem, clones) = still.fork(&engine, &program, 2);
        for one in clones.into_iter().chain([still]) {
            living.push((one.run(), expected.clone()));
        }
        for (index, (one, expected)) in living.iter_mut().enumerate() {
            let byte = 0x10 * (index as u8 % 2) + 2 * index as u8 % 15 + 1;
            assert_eq!(one.tell(byte), expected.told(byte), "process {index} in round {round}");
        }
        settle(&stem);
    }
    assert_eq!(living.len(), 11);
    living.into_iter().for_each(|(one, _)| one.end());
}

/// What it stands on is all that it has.
#[test]
fn a_clone_that_has_touched_nothing_has_clones() {
    let engine = engine(Target::Native);
    let (pages, step) = (20, 16384);
    let program = load(&engine, &changing(pages, step));
    let mut first = Running::begun(&engine, &program).stop();
    let (stem, mut clones) = first.fork(&engine, &program, 1);
    settle(&stem);
    drop(stem);
    let mut second = clones.pop().unwrap();
    let (stem, mut clones) = second.fork(&engine, &program, 1);
    for one in [first, second, clones.pop().unwrap()] {
        let (mut one, mut expected) = (one.run(), Expected::new(pages, step));
        // None of its memory has been asked for yet, and the pages between those that were written are nowhere.
        assert_eq!(one.tell(5), expected.told(5));
        assert_eq!(one.tell(3), expected.told(3));
        one.end();
    }
    settle(&stem);
}

/// A clone is followed as any process is: all of it, and then what it writes.
#[test]
fn clones_are_followed() {
    let engine = engine(Target::Native);
    let (pages, step) = (20, 4096);
    let program = load(&engine, &changing(pages, step));
    let mut original = Running::begun(&engine, &program).stop();
    let (stem, mut clones) = original.fork(&engine, &program, 1);
    settle(&stem);
    drop(stem);
    let mut clone = clones.pop().unwrap();
    let mut tracker = Tracker::begin(&clone.process.memories()).unwrap();
    let mut memory = vec![0; pages as usize * 65536];
    let take = |tracker: &mut Tracker, memory: &mut Vec<u8>| {
        let mut count = 0;
        let taken = tracker.take::<PagesError>(|Piece { offset, content, .. }| {
            match content {
                Content::Bytes(bytes) => {
                    memory[offset as usize..][..bytes.len()].copy_from_slice(bytes);
                    count += bytes.len() / PAGE;
                }
                Content::Zeros(length) => memory[offset as usize..][..length as usize].fill(0),
            }
            Ok(())
        });
        taken.unwrap();
        count
    };
    let words = |memory: &[u8]| -> Vec<u32> {
        memory[4096..].chunks(step as usize).map(|word| u32::from_le_bytes(word[..4].try_into().unwrap())).collect()
    };
    let mut expected = Expected::new(pages, step);
    // It has touched nothing yet.
    take(&mut tracker, &mut memory);
    assert_eq!(words(&memory), expected.memory);
    assert_eq!(take(&mut tracker, &mut memory), 0, "nothing was written");
    let mut running = clone.run();
    assert_eq!(running.tell(9), expected.told(9));
    let written = take(&mut tracker, &mut memory);
    assert!(written >= expected.memory.len(), "{written} pages");
    assert_eq!(words(&memory), expected.memory);
    running.end();
    original.run().end();
}

/// Remembers what is wanted.
#[derive(Default)]
struct Wanted(Mutex<Vec<(u32, u64)>>);

impl Fetch for Wanted {
    fn want(&self, memory: u32, unit: u64) {
        self.0.lock().unwrap().push((memory, unit));
    }
}

/// As on another node: what one clone has asked for, all have.
#[test]
fn clones_elsewhere_get_each_page_once() {
    let engine = engine(Target::Native);
    let (pages, step) = (24, 4096);
    let program = load(&engine, &changing(pages, step));
    let mut original = Running::begun(&engine, &program).stop();
    let mut clones: Vec<Still> = (0..3).map(|_| original.empty_clone(&engine, &program)).collect();
    let here = Stem::of(&original.process.memories()).unwrap();
    // It changes what it has before anybody has read it.
    let (mut original, mut first) = (original.run(), Expected::new(pages, step));
    assert_eq!(original.tell(11), first.told(11));
    let wanted = Arc::new(Wanted::default());
    let there = Stem::expected(&here.sizes(), wanted.clone()).unwrap();
    clones.iter_mut().for_each(|clone| there.share(&clone.process.memories()).unwrap());
    assert!(there.read(0, 0, &mut [0; PAGE]).is_err(), "it is not there");
    let other = Span { memory: 0, range: 0..u64::from(pages + 1) * UNIT };
    assert!(
        there.fill_zero(other).is_err()
            && there.fill(1, 0, &[0; PAGE]).is_err()
            && there.fill(0, 5, &[0; PAGE]).is_err()
    );
    let mut asked = vec![];
    std::thread::scope(|scope| {
        let (here, there) = (&here, &there);
        let running: Vec<_> = clones.into_iter().map(Still::run).collect();
        let telling: Vec<_> = running
            .into_iter()
            .map(|mut one| {
                scope.spawn(move || {
                    let mut expected = Expected::new(pages, step);
                    assert_eq!(one.tell(7), expected.told(7));
                    one
                })
            })
            .collect();
        let end = Instant::now() + SOON;
        while there.left() > 0 {
            let next = wanted.0.lock().unwrap().pop();
            let Some((memory, unit)) = next else {
                assert!(Instant::now() < end, "{} bytes are left", there.left());
                std::thread::yield_now();
                continue;
            };
            asked.push(unit);
            let mut bytes = vec![0; UNIT as usize];
            here.read(memory, unit * UNIT, &mut bytes).unwrap();
            // In two parts, the second one first.
            let half = UNIT as usize / 2;
            assert_eq!(there.fill(memory, unit * UNIT + half as u64, &bytes[half..]).unwrap(), half as u64);
            assert_eq!(there.fill(memory, unit * UNIT, &bytes).unwrap(), half as u64);
            assert_eq!(there.fill(memory, unit * UNIT, &vec![7; UNIT as usize]).unwrap(), 0);
        }
        telling.into_iter().for_each(|telling| telling.join().unwrap().end());
    });
    asked.sort_unstable();
    assert_eq!(asked, (0..u64::from(pages)).collect::<Vec<_>>(), "each unit was asked for once");
    there.whole().wait(SOON).unwrap();
    settle(&here);
    original.end();
}

#[test]
fn clones_whose_memory_is_lost_end_and_say_why() {
    let engine = engine(Target::Native);
    let program = load(&engine, &changing(10, 4096));
    let mut original = Running::begun(&engine, &program).stop();
    let mut clone = original.empty_clone(&engine, &program);
    let stem = Stem::expected(&[10 * UNIT], Arc::new(Wanted::default())).unwrap();
    stem.share(&clone.process.memories()).unwrap();
    let whole = stem.whole();
    assert!(matches!(whole.wait(Duration::ZERO), Err(NotThere::Late { left_bytes }) if left_bytes == 10 * UNIT));
    let mut running = clone.run();
    running.input.write_all(&[3]).unwrap();
    stem.lost("its node is gone");
    assert!(matches!(whole.wait(SOON), Err(NotThere::Lost(_))));
    let (_, stop) = running.thread.join().unwrap();
    assert!(stop.unwrap_err().to_string().contains("its node is gone"));
    // Whoever comes later is told, and nobody else notices.
    let mut late = original.empty_clone(&engine, &program);
    assert!(matches!(stem.share(&late.process.memories()), Err(PagesError::Lost(_))));
    let mut original = original.run();
    assert_eq!(original.tell(3), Expected::new(10, 4096).told(3));
    original.end();
}

/// The one that was forked may end first, and so may all others.
#[test]
fn whoever_ends_early_takes_nothing_from_the_others() {
    let engine = engine(Target::Native);
    let program = load(&engine, &changing(30, 1024));
    let mut original = Running::begun(&engine, &program).stop();
    let (stem, mut clones) = original.fork(&engine, &program, 2);
    let wrong = load(&engine, &changing(31, 1024));
    let mut other = Running::begun(&engine, &wrong).stop();
    assert!(matches!(stem.share(&other.process.memories()), Err(PagesError::OtherSizes)));
    drop(original);
    drop(clones.pop());
    let mut last = clones.pop().unwrap().run();
    assert_eq!(last.tell(13), Expected::new(30, 1024).told(13));
    settle(&stem);
    assert_eq!(last.tell(1).0, Expected::new(30, 1024).told(13).1);
    last.end();
    other.run().end();
}

/// Without the right to wait for pages all is copied at once, and is the same.
#[test]
fn where_linux_refuses() {
    const AGAIN: &str = "UNA_TEST_AGAIN";
    if std::env::var_os(AGAIN).is_some() {
        assert!(engine::pages::support().missing.is_err());
        return clones_are_alike_and_apart(Target::Native);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["where_linux_refuses", "--exact", "--nocapture", "--test-threads=1"]);
    let output = command.env(AGAIN, "1").env("UNA_PAGES", "plain").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
