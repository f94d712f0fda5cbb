//! Pages by the engine's public face: followed while a process writes them, and given to it while it runs. What needs a process of the
//! operating system of its own (another user, a death) runs this test binary again.

mod machine;

use engine::pages::{Content, Fetch, Missing, NotThere, PAGE, PagesError, Piece, Span, Tracker, UNIT};
use engine::{Engine, Process, Program, RunError, SaveError, Stop, Stopper, Target};
use machine::{engine, load, nothing, resume, setup};
use std::collections::{BTreeSet, VecDeque};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// For what must come some day.
const SOON: Duration = Duration::from_secs(60);

/// Fills its memory with numbers of a series for ever, in an order of its own; grows now and then up to `most` pages of wasm, and now and
/// then copies and fills with the engine's own code.
fn writing(pages: u32, most: u32) -> String {
    format!(
        r#"(module
      (memory (export "memory") {pages} {most})
      (data (i32.const 100) "what a new instance has and a continued one has not")
      (func (export "_start") (local $s i32) (local $at i32) (local $n i32)
        (loop $l
          (local.set $s (i32.add (i32.mul (local.get $s) (i32.const 1664525)) (i32.const 1013904223)))
          (local.set $at (i32.shl (i32.rem_u (i32.shr_u (local.get $s) (i32.const 2))
            (i32.sub (i32.shl (memory.size) (i32.const 14)) (i32.const 4096))) (i32.const 2)))
          (i32.store (local.get $at) (i32.add (i32.load (local.get $at)) (local.get $s)))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (if (i32.eqz (i32.rem_u (local.get $n) (i32.const 1000))) (then
            (memory.fill (local.get $at) (i32.const 0) (i32.const 9000))
            (memory.copy (i32.const 4000) (local.get $at) (i32.const 3000))))
          (if (i32.eqz (i32.rem_u (local.get $n) (i32.const 50000))) (then
            (drop (memory.grow (i32.const 1)))))
          (br $l))))"#
    )
}

/// Adds up its memory, a word of each `step` bytes, and prints the sum; then it ends.
fn summing(pages: u32, step: u32) -> String {
    format!(
        r#"(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") {pages})
      (func $fill (local $at i32) (local $s i32)
        (loop $l
          (local.set $s (i32.add (i32.mul (local.get $s) (i32.const 1664525)) (i32.const 1013904223)))
          (i32.store (local.get $at) (local.get $s))
          (br_if $l (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const {step}))) (i32.const {bytes})))))
      (func (export "_start") (local $at i32) (local $sum i32) (local $n i32)
        (call $fill)
        (i32.store (i32.const 64) (i32.const 1))
        ;; Until it is told to go on, by a word that only a freeze can change.
        (loop $wait (br_if $wait (i32.load (i32.const 64))))
        (loop $l
          (local.set $sum (i32.add (i32.rotl (local.get $sum) (i32.const 5)) (i32.load (local.get $at))))
          (br_if $l (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const {step}))) (i32.const {bytes}))))
        (i32.store (i32.const 64) (local.get $sum))
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 4))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
        bytes = pages as u64 * 65536
    )
}

/// What [`summing`] prints, computed here.
fn sum_of(memory: &[u8], step: usize) -> u32 {
    memory
        .chunks(step)
        .fold(0u32, |sum, word| sum.rotate_left(5).wrapping_add(u32::from_le_bytes(word[..4].try_into().unwrap())))
}

/// Runs a process on a thread of its own until it is stopped.
struct Running {
    stopper: Stopper,
    thread: std::thread::JoinHandle<(Process, Result<Stop, RunError>)>,
}

fn run(mut process: Process) -> Running {
    let stopper = process.stopper();
    let thread = std::thread::spawn(move || {
        let stop = process.run();
        (process, stop)
    });
    Running { stopper, thread }
}

impl Running {
    fn stop(self) -> Process {
        self.stopper.freeze().unwrap();
        let (process, stop) = self.thread.join().unwrap();
        assert_eq!(stop.unwrap(), Stop::Frozen);
        process
    }
}

/// All of the process's memory, by its image.
fn memory_of(process: &mut Process) -> Vec<u8> {
    let mut bytes = vec![];
    process.save(&mut bytes, false).unwrap();
    let mut image = freeze::image::Reader::open(&bytes[..]).unwrap();
    let mut memory = vec![0; image.state().memories[0] as usize];
    while let Some(piece) = image.piece().unwrap() {
        memory[piece.offset as usize..][..piece.bytes.len()].copy_from_slice(&piece.bytes);
    }
    memory
}

fn put(memory: &mut Vec<u8>, piece: Piece) {
    let (start, length) = (
        piece.offset as usize,
        match piece.content {
            Content::Bytes(bytes) => bytes.len(),
            Content::Zeros(bytes) => bytes as usize,
        },
    );
    if memory.len() < start + length {
        memory.resize(start + length, 0);
    }
    match piece.content {
        Content::Bytes(bytes) => memory[start..start + length].copy_from_slice(bytes),
        Content::Zeros(_) => memory[start..start + length].fill(0),
    }
}

fn without_zeros(mut memory: Vec<u8>) -> Vec<u8> {
    memory.truncate(memory.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    memory
}

/// What is followed while the process runs is, at the end, what it has.
fn follow(target: Target, rounds: usize) {
    let engine = engine(target);
    let program = load(&engine, &writing(100, 4000));
    let mut process = engine.start(&program, "x", setup(nothing(), nothing())).unwrap();
    let memories = process.memories();
    let running = run(process);
    // Twice, since what was written before one began to look is to be found too.
    let (mut copy, mut tracker) = (vec![], None);
    for _ in 0..2 {
        drop(tracker.take());
        copy.clear();
        let tracker = tracker.insert(Tracker::begin(&memories).unwrap());
        assert!(matches!(Tracker::begin(&memories), Err(PagesError::InUse)));
        let (grown, end) = (tracker.sizes()[0] + 3 * 65536, Instant::now() + SOON);
        for round in 0.. {
            tracker.take(|piece| Ok::<(), PagesError>(put(&mut copy, piece))).unwrap();
            if round >= rounds && tracker.sizes()[0] >= grown {
                break;
            }
            assert!(Instant::now() < end, "it has grown to {:?}", tracker.sizes());
        }
    }
    let mut tracker = tracker.unwrap();
    let mut process = running.stop();
    tracker.take(|piece| Ok::<(), PagesError>(put(&mut copy, piece))).unwrap();
    let memory = memory_of(&mut process);
    assert!(memory.iter().any(|byte| *byte != 0));
    assert!(without_zeros(copy) == without_zeros(memory), "what was followed is not what the process has");
    // Nothing runs: nothing is written.
    let rest = tracker.take(|_| Ok::<(), PagesError>(())).unwrap();
    assert_eq!(rest.bytes, 0, "{rest:?}");
    drop(process);
    assert!(matches!(Tracker::begin(&memories), Err(PagesError::Ended)));
    // What it left can still be read.
    tracker.read(0, 0, &mut vec![0; PAGE]).unwrap();
}

#[test]
fn pages_are_followed_while_a_process_writes_them() {
    follow(Target::Native, 30);
}

#[test]
fn and_in_the_interpreter() {
    follow(Target::Pulley, 10);
}

#[test]
fn a_page_is_told_once() {
    let engine = engine(Target::Native);
    let program = load(&engine, &summing(16, 4096));
    let mut process = engine.start(&program, "x", setup(nothing(), nothing())).unwrap();
    let mut tracker = Tracker::begin(&process.memories()).unwrap();
    let running = run(process);
    let (mut told, end) = (BTreeSet::new(), Instant::now() + SOON);
    // By comparing, only what was read is not told again.
    let read = |tracker: &mut Tracker, spans: &[Span]| {
        for span in spans {
            let mut bytes = vec![0; (span.range.end - span.range.start) as usize];
            tracker.read(span.memory, span.range.start, &mut bytes).unwrap();
        }
    };
    while told.len() < 256 {
        assert!(Instant::now() < end, "{} of 256 pages were told", told.len());
        let spans = tracker.written().unwrap();
        read(&mut tracker, &spans);
        told.extend(spans.into_iter().flat_map(|span| span.range.step_by(PAGE)));
    }
    // The program may have written to one of them meanwhile, but not for ever.
    let again = loop {
        let again = tracker.written().unwrap();
        if again.is_empty() {
            break again;
        }
        assert!(Instant::now() < end);
        read(&mut tracker, &again);
    };
    assert_eq!(again, []);
    running.stop();
    for (memory, offset, bytes) in [(1, 0, PAGE), (0, 16 * 65536, PAGE), (0, 1, PAGE), (0, 0, 1), (0, u64::MAX, PAGE)] {
        let read = tracker.read(memory, offset, &mut vec![0; bytes]);
        assert!(matches!(read, Err(PagesError::NoPages { .. })), "{memory} {offset} {bytes}");
    }
}

/// A process that stopped in [`summing`] before it added up, as an image without pages, and its memory with the word changed that lets it
/// go on.
fn stopped(engine: &Engine, program: &Program) -> (Vec<u8>, Vec<u8>) {
    let mut process = engine.start(program, "sum", setup(nothing(), nothing())).unwrap();
    let mut tracker = Tracker::begin(&process.memories()).unwrap();
    let running = run(process);
    let (mut first, end) = (vec![0; PAGE], Instant::now() + SOON);
    while first[64] != 1 {
        assert!(Instant::now() < end);
        tracker.read(0, 0, &mut first).unwrap();
    }
    let mut process = running.stop();
    drop(tracker);
    let mut memory = memory_of(&mut process);
    memory[64] = 0;
    let mut image = vec![];
    process.save_without_pages(&mut image, false).unwrap();
    (image, memory)
}

/// Remembers what is wanted.
#[derive(Default)]
struct Wanted {
    units: Mutex<VecDeque<(u32, u64)>>,
    changed: Condvar,
}

impl Fetch for Wanted {
    fn want(&self, memory: u32, unit: u64) {
        self.units.lock().unwrap().push_back((memory, unit));
        self.changed.notify_all();
    }
}

impl Wanted {
    fn next(&self) -> (u32, u64) {
        let end = Instant::now() + SOON;
        let mut units = self.units.lock().unwrap();
        loop {
            if let Some(unit) = units.pop_front() {
                return unit;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing is wanted");
            units = self.changed.wait_timeout(units, left).unwrap().0;
        }
    }
}

fn all_of(memory: &[u8]) -> Vec<Span> {
    vec![Span { memory: 0, range: 0..memory.len() as u64 }]
}

/// What the process prints: four bytes.
fn printed(mut output: impl Read) -> u32 {
    let mut bytes = [0; 4];
    output.read_exact(&mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn thawed(engine: &Engine, program: &Program, image: &[u8]) -> (Process, std::io::PipeReader) {
    let (output, input) = std::io::pipe().unwrap();
    (engine.thaw(program, image, resume(nothing(), input)).unwrap(), output)
}

fn unit_of(memory: &[u8], unit: u64) -> &[u8] {
    let start = (unit * UNIT) as usize;
    &memory[start..(start + UNIT as usize).min(memory.len())]
}

#[test]
fn a_process_runs_before_its_pages_are_there() {
    for target in [Target::Native, Target::Pulley] {
        let engine = engine(target);
        let program = load(&engine, &summing(40, 4096));
        let (image, memory) = stopped(&engine, &program);
        let (mut process, output) = thawed(&engine, &program, &image);
        let wanted = Arc::new(Wanted::default());
        let missing = Missing::begin(&process.memories(), &all_of(&memory), wanted.clone()).unwrap();
        assert_eq!(missing.left(), memory.len() as u64);
        assert!(matches!(process.save(vec![], false), Err(SaveError::PagesMissing)));
        assert!(matches!(Tracker::begin(&process.memories()), Err(PagesError::InUse)));
        let running = run(process);
        for expected in 0..40 {
            let (index, unit) = wanted.next();
            assert_eq!((index, unit), (0, expected));
            assert!(wanted.units.lock().unwrap().is_empty(), "it waits for one at a time");
            assert_eq!(missing.fill(0, unit * UNIT, unit_of(&memory, unit)).unwrap(), UNIT);
            // What is there stays as it is.
            assert_eq!(missing.fill(0, unit * UNIT, &vec![7; UNIT as usize]).unwrap(), 0);
        }
        missing.wait(SOON).unwrap();
        assert_eq!((missing.left(), missing.left_spans(9)), (0, vec![]));
        assert_eq!(printed(output), sum_of(&memory, 4096));
        let (process, stop) = running.thread.join().unwrap();
        assert_eq!(stop.unwrap(), Stop::Exited(0));
        drop(process);
        // After the end, and beyond it.
        assert_eq!(missing.fill(0, 0, &[0; PAGE]).unwrap(), 0);
        assert!(missing.fill(0, 40 * UNIT, &[0; PAGE]).is_err());
        assert!(missing.fill(1, 0, &[0; PAGE]).is_err());
        assert!(missing.fill(0, 5, &[0; PAGE]).is_err());
        missing.lost("too late to matter");
    }
}

/// Pages of a series, so that each run is the same.
struct Series(u64);

impl Series {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }
}

#[test]
fn pages_come_in_any_order_and_size() {
    let engine = engine(Target::Native);
    let program = load(&engine, &summing(30, 256));
    let (image, memory) = stopped(&engine, &program);
    for seed in 0..20 {
        let mut series = Series(seed);
        let (mut process, output) = thawed(&engine, &program, &image);
        // Some are there: staged, in random pieces.
        let mut staging = engine.stage(memory.len() as u64);
        let mut absent = vec![];
        let pages = memory.len() / PAGE;
        for page in 0..pages {
            let range = (page * PAGE) as u64..((page + 1) * PAGE) as u64;
            let bytes = &memory[page * PAGE..(page + 1) * PAGE];
            match series.below(3) {
                0 => absent.push(Span { memory: 0, range }),
                1 => staging.put(Piece { memory: 0, offset: range.start, content: Content::Bytes(bytes) }).unwrap(),
                _ => {
                    // An older version of it first.
                    let old = vec![0x55; PAGE];
                    staging.put(Piece { memory: 0, offset: range.start, content: Content::Bytes(&old) }).unwrap();
                    staging.put(Piece { memory: 0, offset: range.start, content: Content::Bytes(bytes) }).unwrap();
                }
            }
        }
        process.adopt(staging).unwrap();
        let wanted = Arc::new(Wanted::default());
        let missing = Missing::begin(&process.memories(), &absent, wanted.clone()).unwrap();
        assert_eq!(missing.left(), (absent.len() * PAGE) as u64);
        let running = run(process);
        // From two threads at once, regardless of what is wanted.
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let (missing, memory) = (missing.clone(), &memory);
                scope.spawn(move || {
                    let mut series = Series(seed * 2 + worker + 1000);
                    while missing.left() > 0 {
                        let start = series.below(pages);
                        let end = (start + 1 + series.below(40)).min(pages);
                        missing.fill(0, (start * PAGE) as u64, &memory[start * PAGE..end * PAGE]).unwrap();
                    }
                });
            }
        });
        assert_eq!(printed(output), sum_of(&memory, 256), "seed {seed}");
        assert_eq!(running.thread.join().unwrap().1.unwrap(), Stop::Exited(0));
    }
}

#[test]
fn what_is_not_missing_is_zero() {
    let engine = engine(Target::Native);
    let program = load(&engine, &summing(20, 4096));
    let (image, mut memory) = stopped(&engine, &program);
    let (mut process, output) = thawed(&engine, &program, &image);
    let (first, rest) = memory.split_at_mut(65536);
    rest.fill(0);
    process.adopt(engine.stage(1 << 30)).unwrap();
    let wanted = Arc::new(Wanted::default());
    let absent = [Span { memory: 0, range: 0..65536 }];
    let missing = Missing::begin(&process.memories(), &absent, wanted.clone()).unwrap();
    let running = run(process);
    assert_eq!(wanted.next(), (0, 0));
    missing.fill_zero(Span { memory: 0, range: 0x8000..0x10000 }).unwrap();
    missing.fill(0, 0, &first[..0x8000]).unwrap();
    first[0x8000..].fill(0);
    assert_eq!(printed(output), sum_of(&memory, 4096));
    assert_eq!(running.thread.join().unwrap().1.unwrap(), Stop::Exited(0));
}

#[test]
fn a_process_whose_pages_are_lost_ends_and_says_why() {
    let engine = engine(Target::Native);
    let program = load(&engine, &summing(20, 4096));
    let (image, memory) = stopped(&engine, &program);
    let (mut process, mut output) = thawed(&engine, &program, &image);
    let wanted = Arc::new(Wanted::default());
    let missing = Missing::begin(&process.memories(), &all_of(&memory), wanted.clone()).unwrap();
    let running = run(process);
    // While it waits; then it would have printed.
    for unit in 0..7 {
        assert_eq!(wanted.next(), (0, unit));
        missing.fill(0, unit * UNIT, unit_of(&memory, unit)).unwrap();
    }
    assert_eq!(wanted.next(), (0, 7));
    assert!(matches!(missing.wait(Duration::ZERO), Err(NotThere::Late { left_bytes }) if left_bytes == 13 * UNIT));
    missing.lost("it was on node 3, which is gone");
    let (mut process, stop) = running.thread.join().unwrap();
    let error = stop.unwrap_err();
    assert!(matches!(error, RunError::Lost { .. }));
    assert!(error.to_string().contains("node 3"), "{error}");
    assert!(matches!(process.run(), Err(RunError::Ended)));
    assert!(matches!(missing.wait(SOON), Err(NotThere::Lost(_))));
    drop(process);
    let mut rest = vec![];
    output.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "nothing that was made of lost pages gets out");
}

/// Waits in a call of its host whose buffer is missing; the call has it.
#[test]
fn system_calls_find_missing_pages() {
    let engine = engine(Target::Native);
    let text = r#"(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 4)
      (func (export "_start")
        (i32.store (i32.const 0) (i32.const 131000)) (i32.store (i32.const 4) (i32.const 5000))
        (i32.store (i32.const 64) (i32.const 1))
        (loop $wait (br_if $wait (i32.load (i32.const 64))))
        (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
        (if (i32.ne (i32.load (i32.const 8)) (i32.const 5000)) (then unreachable))))"#;
    let program = load(&engine, text);
    let (image, mut memory) = stopped(&engine, &program);
    memory[131000..136000].fill(9);
    for is_lost in [false, true] {
        let (mut process, mut output) = thawed(&engine, &program, &image);
        let wanted = Arc::new(Wanted::default());
        let missing = Missing::begin(&process.memories(), &all_of(&memory), wanted.clone()).unwrap();
        let running = run(process);
        assert_eq!(wanted.next(), (0, 0));
        missing.fill(0, 0, unit_of(&memory, 0)).unwrap();
        assert_eq!(wanted.next(), (0, 1));
        missing.fill(0, UNIT, unit_of(&memory, 1)).unwrap();
        assert_eq!(wanted.next(), (0, 2));
        match is_lost {
            false => drop(missing.fill(0, 2 * UNIT, unit_of(&memory, 2)).unwrap()),
            true => missing.lost("gone"),
        }
        let (process, stop) = running.thread.join().unwrap();
        drop(process);
        let mut bytes = vec![];
        output.read_to_end(&mut bytes).unwrap();
        match is_lost {
            false => assert_eq!((stop.unwrap(), bytes), (Stop::Exited(0), vec![9; 5000])),
            true => assert!(matches!(stop, Err(RunError::Lost { .. })) && bytes.is_empty()),
        }
    }
}

#[test]
fn whoever_drops_what_is_missing_loses_it() {
    let engine = engine(Target::Native);
    let program = load(&engine, &summing(4, 4096));
    let (image, memory) = stopped(&engine, &program);
    let (mut process, _output) = thawed(&engine, &program, &image);
    let wanted = Arc::new(Wanted::default());
    let missing = Missing::begin(&process.memories(), &all_of(&memory), wanted.clone()).unwrap();
    let running = run(process);
    wanted.next();
    drop(missing);
    assert!(matches!(running.thread.join().unwrap().1, Err(RunError::Lost { .. })));
}

#[test]
fn a_frozen_process_is_waited_for_until_it_is_whole() {
    let engine = engine(Target::Native);
    let program = load(&engine, &summing(6, 4096));
    let (image, memory) = stopped(&engine, &program);
    let (mut process, _output) = thawed(&engine, &program, &image);
    let missing = Missing::begin(&process.memories(), &all_of(&memory), Arc::new(Wanted::default())).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| missing.wait(SOON));
        // It is canceled when it waits, or is about to.
        while !waiting.is_finished() {
            missing.cancel();
            std::thread::yield_now();
        }
        assert_eq!(waiting.join().unwrap(), Err(NotThere::Canceled));
        scope.spawn(|| {
            for span in missing.left_spans(100) {
                missing.fill(0, span.range.start, &memory[span.range.start as usize..span.range.end as usize]).unwrap();
            }
        });
        missing.wait(SOON).unwrap();
    });
    assert!(memory_of(&mut process) == memory);
}

#[test]
fn many_processes_miss_pages_at_once() {
    let engine = engine(Target::Native);
    let program = load(&engine, &summing(3, 4096));
    let (image, memory) = stopped(&engine, &program);
    // Each is answered by whoever hears of it, on one thread.
    struct Answering {
        missing: OnceLock<Missing>,
        memory: Arc<Vec<u8>>,
        asked: AtomicU32,
    }
    impl Fetch for Answering {
        fn want(&self, memory: u32, unit: u64) {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.missing.get().unwrap().fill(memory, unit * UNIT, unit_of(&self.memory, unit)).unwrap();
        }
    }
    let memory = Arc::new(memory);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let (mut process, output) = thawed(&engine, &program, &image);
                    let answering = Arc::new(Answering {
                        missing: OnceLock::new(),
                        memory: memory.clone(),
                        asked: AtomicU32::new(0),
                    });
                    let missing = Missing::begin(&process.memories(), &all_of(&memory), answering.clone()).unwrap();
                    let _ = answering.missing.set(missing);
                    assert_eq!(process.run().unwrap(), Stop::Exited(0));
                    assert_eq!(printed(output), sum_of(&memory, 4096));
                    assert_eq!(answering.asked.load(Ordering::Relaxed), 3);
                }
            });
        }
    });
}

#[test]
fn a_gibibyte_arrives_while_it_is_added_up() {
    let engine = engine(Target::Native);
    let program = load(&engine, &summing(16384, 8192));
    let (image, memory) = stopped(&engine, &program);
    let (mut process, output) = thawed(&engine, &program, &image);
    let half = memory.len() / 2;
    let mut staging = engine.stage(memory.len() as u64);
    for (index, bytes) in memory[..half].chunks(1 << 20).enumerate() {
        staging.put(Piece { memory: 0, offset: (index << 20) as u64, content: Content::Bytes(bytes) }).unwrap();
    }
    let too_much = Piece { memory: 0, offset: memory.len() as u64, content: Content::Bytes(&[1; PAGE]) };
    assert!(matches!(staging.put(too_much), Err(PagesError::TooLarge { .. })));
    process.adopt(staging).unwrap();
    let absent = [Span { memory: 0, range: half as u64..memory.len() as u64 }];
    let wanted = Arc::new(Wanted::default());
    let missing = Missing::begin(&process.memories(), &absent, wanted.clone()).unwrap();
    let running = run(process);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Pushed from the end, while what it touches is given first.
            for (index, bytes) in memory[half..].chunks(1 << 18).enumerate().rev() {
                for (memory_index, unit) in wanted.units.lock().unwrap().drain(..) {
                    missing.fill(memory_index, unit * UNIT, unit_of(&memory, unit)).unwrap();
                }
                missing.fill(0, (half + (index << 18)) as u64, bytes).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
    });
    missing.wait(SOON).unwrap();
    assert!(done.load(Ordering::Relaxed));
    assert_eq!(printed(output), sum_of(&memory, 8192));
    assert_eq!(running.thread.join().unwrap().1.unwrap(), Stop::Exited(0));
}

#[test]
fn memories_are_used_again_and_are_zero() {
    let engine = engine(Target::Native);
    // Ends with 1 if its memory is not zero at the beginning, or one byte behind it can be read; then it writes everywhere.
    let text = |pages: u32, step: u32| {
        format!(
            r#"(module
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") {pages} 100)
          (func (export "_start") (local $at i32)
            (loop $l
              (if (i32.load (local.get $at)) (then (call $exit (i32.const 1))))
              (i32.store (local.get $at) (i32.const -1))
              (br_if $l (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const {step})))
                (i32.shl (memory.size) (i32.const 16)))))
            (if (i32.lt_s (memory.grow (i32.const 3)) (i32.const 0)) (then (call $exit (i32.const 2))))
            (if (i32.load (local.get $at)) (then (call $exit (i32.const 3))))
            (i32.store (local.get $at) (i32.const -1))
            (drop (i32.load (i32.shl (memory.size) (i32.const 16))))))"#
        )
    };
    // All pages, and a few.
    let programs = [(1, 1024), (7, 1024), (20, 1024), (2, 1024), (1, 65536), (2, 32768), (1, 1024)];
    let programs = programs.map(|(pages, step)| load(&engine, &text(pages, step)));
    for round in 0..40 {
        for program in &programs[round % 2..] {
            let mut process = engine.start(program, "x", setup(nothing(), nothing())).unwrap();
            let stop = process.run();
            let is_right = matches!(&stop, Err(RunError::Trap { reason, .. }) if reason.contains("out of bounds"));
            assert!(is_right, "{stop:?}");
        }
    }
}

// What needs an operating system's process of its own.

/// The name of a test in the environment: the binary was started again for it.
const AGAIN: &str = "UNA_TEST_AGAIN";

fn again(binary: &Path, test: &str) -> Command {
    let mut command = Command::new(binary);
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(AGAIN, test);
    command
}

fn is_again(test: &str) -> bool {
    std::env::var(AGAIN).is_ok_and(|name| name == test)
}

fn output_of(mut command: Command) -> (std::process::ExitStatus, String) {
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status, text)
}

#[test]
fn without_rights() {
    const NAME: &str = "without_rights";
    if is_again(NAME) {
        // SAFETY: asks who this is.
        assert_eq!(unsafe { libc::geteuid() }, 65534);
        let support = engine::pages::support();
        assert!(support.tracking.is_ok() && support.missing.is_ok(), "{support:?}");
        pages_are_followed_while_a_process_writes_them();
        a_process_runs_before_its_pages_are_there();
        system_calls_find_missing_pages();
        println!("all done");
        return;
    }
    // SAFETY: asks who this is.
    if unsafe { libc::geteuid() } != 0 {
        // Then all of the other tests run without rights.
        return;
    }
    use std::os::unix::process::CommandExt;
    // A copy, since whoever has no rights need not reach the directory that this binary was built in.
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let copy = directory.path().join("pages");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut command = again(&copy, NAME);
    command.uid(65534).gid(65534).current_dir("/");
    let (status, text) = output_of(command);
    assert!(status.success() && text.contains("all done"), "{text}");
}

#[test]
fn where_linux_refuses() {
    const NAME: &str = "where_linux_refuses";
    if is_again(NAME) {
        let support = engine::pages::support();
        assert!(support.tracking.is_err() && support.missing.is_err());
        follow(Target::Native, 3);
        a_page_is_told_once();
        let engine = engine(Target::Native);
        let program = load(&engine, &summing(2, 4096));
        let (image, memory) = stopped(&engine, &program);
        let (mut process, _output) = thawed(&engine, &program, &image);
        let refused = Missing::begin(&process.memories(), &all_of(&memory), Arc::new(Wanted::default()));
        assert!(matches!(refused, Err(PagesError::Unsupported(_))));
        println!("all done");
        return;
    }
    let mut command = again(&std::env::current_exe().unwrap(), NAME);
    command.env("UNA_PAGES", "plain");
    let (status, text) = output_of(command);
    assert!(status.success() && text.contains("all done"), "{text}");
}

#[test]
fn the_node_stops_if_nobody_hears_of_missing_pages() {
    const NAME: &str = "the_node_stops_if_nobody_hears_of_missing_pages";
    struct Broken;
    impl Fetch for Broken {
        fn want(&self, _memory: u32, _unit: u64) {
            panic!("whoever fetches has a bug");
        }
    }
    if is_again(NAME) {
        let engine = engine(Target::Native);
        let program = load(&engine, &summing(2, 4096));
        let (image, memory) = stopped(&engine, &program);
        let (mut process, _output) = thawed(&engine, &program, &image);
        let _missing = Missing::begin(&process.memories(), &all_of(&memory), Arc::new(Broken)).unwrap();
        println!("it ended: {:?}", process.run());
        return;
    }
    let (status, text) = output_of(again(&std::env::current_exe().unwrap(), NAME));
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{text}");
    assert!(text.contains("the node stops") && !text.contains("it ended"), "{text}");
}
