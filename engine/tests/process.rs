//! Processes by the engine's public face: run, stopped, saved, thawed, and asked for what they cannot do.

mod machine;

use drivers::HostClock;
use engine::process::{NotFreezable, Stage};
use engine::{Engine, Image, Process, RunError, SaveError, Stop, Target, ThawError};
use machine::{engine, load, nothing, resume, setup};
use std::io::{Read, Write};

fn image_of(process: &mut Process) -> Vec<u8> {
    let mut image = vec![];
    process.save(&mut image, false).unwrap();
    image
}

/// Never ends by itself, and never calls anything.
const SPINNING: &str = r#"(module (func $spin (export "_start") (loop $l (br $l))))"#;

/// Copies its input to its output.
const CAT: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $next
      (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1000))
      (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
      (if (i32.eqz (i32.load (i32.const 8))) (then (return)))
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
      (br $next))))"#;

#[test]
fn a_request_from_before_the_run_stops_it_once() {
    for target in [Target::Native, Target::Pulley] {
        let engine = engine(target);
        let program = load(&engine, SPINNING);
        let mut process = engine.start(&program, "x", setup(nothing(), nothing())).unwrap();
        let stopper = process.stopper();
        stopper.freeze().unwrap();
        assert_eq!(process.run().unwrap(), Stop::Frozen);
        // Once: it now runs until it is asked again, by another thread that waits until it has run for a while.
        let asking = std::thread::spawn(move || {
            let start = process_time();
            while process_time() - start < 20 {
                std::thread::yield_now();
            }
            stopper.freeze().unwrap();
        });
        let before = process_time();
        assert_eq!(process.run().unwrap(), Stop::Frozen);
        assert!(process_time() - before >= 20);
        asking.join().unwrap();
    }
}

/// Of this operating-system process, in milliseconds of processor time.
fn process_time() -> u64 {
    use abi::file::Clock;
    HostClock.cputime_ns() / 1_000_000
}

#[test]
fn a_read_that_waits_is_stopped_and_goes_on_elsewhere() {
    let engines = [engine(Target::Native), engine(Target::Pulley)];
    let programs = engines.each_ref().map(|engine| load(engine, CAT));
    let (mut outputs, mut inputs) = (vec![], vec![]);
    let (input, mut typed) = std::io::pipe().unwrap();
    let (mut printed, output) = std::io::pipe().unwrap();
    let mut process = engines[0].start(&programs[0], "cat", setup(input, output)).unwrap();
    for hop in 0..4usize {
        let stopper = process.stopper();
        let line = format!("line {hop}\n");
        typed.write_all(line.as_bytes()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // When it has answered, it waits again, or is about to.
                let mut answer = vec![0; line.len()];
                printed.read_exact(&mut answer).unwrap();
                outputs.extend_from_slice(&answer);
                stopper.freeze().unwrap();
            });
            assert_eq!(process.run().unwrap(), Stop::Frozen);
        });
        inputs.extend_from_slice(line.as_bytes());
        let image = image_of(&mut process);
        let next = (hop + 1) % 2;
        let (input, next_typed) = std::io::pipe().unwrap();
        let (next_printed, output) = std::io::pipe().unwrap();
        (typed, printed) = (next_typed, next_printed);
        process = engines[next].thaw(&programs[next], &image[..], resume(input, output)).unwrap();
        assert_eq!(process.facts().name, "cat");
    }
    assert_eq!(outputs, inputs);
    drop(typed);
    assert_eq!(process.run().unwrap(), Stop::Exited(0));
}

#[test]
fn a_process_that_has_ended() {
    let engine = engine(Target::Native);
    let program = load(&engine, r#"(module (func (export "_start")))"#);
    let mut process = engine.start(&program, "x", setup(nothing(), nothing())).unwrap();
    assert!(matches!(process.save(vec![], false), Err(SaveError::NotStopped)), "it has not run");
    let stopper = process.stopper();
    assert_eq!(process.run().unwrap(), Stop::Exited(0));
    assert!(matches!(process.run(), Err(RunError::Ended)));
    assert!(matches!(process.save(vec![], false), Err(SaveError::NotStopped)), "it has ended");
    drop(process);
    stopper.freeze().unwrap();
}

/// A module's start function runs before `_start`, and is a place to be frozen in like any other.
#[test]
fn frozen_in_the_start_function() {
    let text = r#"(module
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (global $started (mut i32) (i32.const 0))
      (func $begin
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (global.set $started (i32.add (global.get $started) (i32.load8_u (i32.const 64)))))
      (start $begin)
      (func (export "_start") (call $exit (global.get $started))))"#;
    let engine = engine(Target::Native);
    let program = load(&engine, text);
    let (input, _typed) = std::io::pipe().unwrap();
    let mut process = engine.start(&program, "x", setup(input, nothing())).unwrap();
    process.stopper().freeze().unwrap();
    assert_eq!(process.run().unwrap(), Stop::Frozen);
    let image = image_of(&mut process);
    assert_eq!(Image::open(&image[..]).unwrap().facts().unwrap().stage, Stage::Initializing);
    let (input, mut typed) = std::io::pipe().unwrap();
    typed.write_all(b"A").unwrap();
    let mut process = engine.thaw(&program, &image[..], resume(input, nothing())).unwrap();
    assert_eq!(process.run().unwrap(), Stop::Exited(u32::from(b'A')));
}

/// Whatever goes wrong with the writing, the process is as it was.
#[test]
fn a_save_that_fails_changes_nothing() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let room = bytes.len().min(self.0);
            if room == 0 && !bytes.is_empty() {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.0 -= room;
            Ok(room)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let engine = engine(Target::Native);
    let program = load(&engine, CAT);
    let (input, mut typed) = std::io::pipe().unwrap();
    let (mut printed, output) = std::io::pipe().unwrap();
    let mut process = engine.start(&program, "x", setup(input, output)).unwrap();
    process.stopper().freeze().unwrap();
    assert_eq!(process.run().unwrap(), Stop::Frozen);
    let whole = image_of(&mut process).len();
    for room in (0..whole).step_by(97) {
        match process.save(Full(room), false) {
            Err(SaveError::Write(error)) => assert_eq!(error.kind(), std::io::ErrorKind::StorageFull),
            other => panic!("{other:?} with room for {room}"),
        }
    }
    typed.write_all(b"still here").unwrap();
    drop(typed);
    assert_eq!(process.run().unwrap(), Stop::Exited(0));
    drop(process);
    let mut text = String::new();
    printed.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here");
}

#[test]
fn programs_loaded_as_not_freezable() {
    let engine = engine(Target::Native);
    let wasm = wat::parse_str(CAT).unwrap();
    let plain = engine.load_unfreezable(wasm.clone(), &mut |_| {}).unwrap();
    assert!(!plain.is_freezable());
    let mut process = engine.start(&plain, "x", setup(nothing(), nothing())).unwrap();
    assert_eq!(process.stopper().freeze(), Err(NotFreezable));
    assert_eq!(process.run().unwrap(), Stop::Exited(0));

    let program = engine.load(wasm, &mut |_| {}).unwrap();
    let mut process = engine.start(&program, "x", setup(nothing(), nothing())).unwrap();
    process.stopper().freeze().unwrap();
    assert_eq!(process.run().unwrap(), Stop::Frozen);
    let image = image_of(&mut process);
    let refused = engine.thaw(&plain, &image[..], resume(nothing(), nothing()));
    assert!(matches!(refused, Err(ThawError::NotFreezable)));
    let other = load(&engine, SPINNING);
    let refused = engine.thaw(&other, &image[..], resume(nothing(), nothing()));
    assert!(matches!(refused, Err(ThawError::Image(freeze::ImageError::OtherProgram))));
}

/// An image can be well formed and come from another host than una's.
#[test]
fn an_image_that_is_not_ours() {
    let engine = engine(Target::Native);
    let program = load(&engine, SPINNING);
    let mut process = engine.start(&program, "x", setup(nothing(), nothing())).unwrap();
    process.stopper().freeze().unwrap();
    assert_eq!(process.run().unwrap(), Stop::Frozen);
    let image = image_of(&mut process);
    let mut state = Image::open(&image[..]).unwrap().state().clone();
    let mut refused = |attachments: &[(&str, Vec<u8>)]| {
        state.attachments = attachments.iter().map(|(name, content)| (name.to_string(), content.clone())).collect();
        let bytes = freeze::image::Writer::new(vec![], &state).unwrap().finish().unwrap();
        engine.thaw(&program, &bytes[..], resume(nothing(), nothing())).err().expect("it is refused")
    };
    assert!(matches!(refused(&[]), ThawError::NotOurs { attachment: "una" }));
    assert!(matches!(refused(&[("una", vec![1, 1, 0])]), ThawError::NotOurs { attachment: "wasi" }));
    for facts in [vec![], vec![2, 1, 0], vec![1, 2, 0], vec![1, 1, 7], vec![1, 1, 0, 0xff]] {
        let error = refused(&[("una", facts.clone()), ("wasi", vec![])]);
        assert!(matches!(error, ThawError::Image(freeze::ImageError::Inconsistent { .. })), "{facts:?}: {error}");
    }
    assert!(matches!(refused(&[("una", vec![1, 1, 0]), ("wasi", b"nonsense".to_vec())]), ThawError::System(_)));
}

#[test]
fn where_a_process_stopped() {
    let engine = engine(Target::Native);
    let text = r#"(module
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func $ask
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))))
      ;; What has nothing left to do after a call leaves no frame.
      (global $after (mut i32) (i32.const 0))
      (func $last (call $ask))
      (func $middle (call $last) (global.set $after (i32.const 1)))
      (func (export "_start") (call $middle) (global.set $after (i32.const 2))))"#;
    let program = load(&engine, text);
    let (input, _typed) = std::io::pipe().unwrap();
    let mut process = engine.start(&program, "x", setup(input, nothing())).unwrap();
    process.stopper().freeze().unwrap();
    assert_eq!(process.run().unwrap(), Stop::Frozen);
    let image = image_of(&mut process);
    let frames = engine.backtrace(program.wasm(), Image::open(&image[..]).unwrap().state()).unwrap();
    let names: Vec<_> = frames.iter().map(|frame| frame.name.as_deref().unwrap_or("-")).collect();
    assert_eq!(names, ["read", "ask", "middle", "-"]);
    assert!(
        engine.backtrace(b"another program", Image::open(&image_of_spinning(&engine)[..]).unwrap().state()).is_err()
    );
}

fn image_of_spinning(engine: &Engine) -> Vec<u8> {
    let program = load(engine, SPINNING);
    let mut process = engine.start(&program, "x", setup(nothing(), nothing())).unwrap();
    process.stopper().freeze().unwrap();
    assert_eq!(process.run().unwrap(), Stop::Frozen);
    image_of(&mut process)
}
