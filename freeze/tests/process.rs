//! Programs stopped at every place they can be, captured, thawed in a fresh store and continued.

mod suite;

use freeze::{CaptureError, Exit, ImageError, Options, Pages, Poll, Program, ProgramError};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use suite::chains::{self, COUNTDOWN, engine, freeze_image, linker, program};
use suite::stops;
use wasmtime::{Caller, Linker, Store, Val};

#[test]
fn stopped_everywhere() {
    let engines = chains::Engines::new();
    let failed: Vec<String> = chains::programs()
        .into_iter()
        .filter_map(|(name, wat)| chains::check(&engines, &wat).err().map(|difference| format!("{name}: {difference}")))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn endless_programs_stop_when_asked() {
    let engine = stops::engine();
    let mut failed = vec![];
    for (name, wat) in stops::PROGRAMS {
        for entry in [freeze::Entry::Cycles, freeze::Entry::Every] {
            if let Err(reason) = stops::check(&engine, wat, entry, 7) {
                failed.push(format!("{name}, {entry:?}: {reason}"));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Runs on a thread whose stack has room for what the engine allows a program.
fn on_a_deep_stack(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(scope, test).unwrap();
    });
}

#[test]
fn a_deep_stack() {
    on_a_deep_stack(a_deep_stack_is_stopped);
}

fn a_deep_stack_is_stopped() {
    let wat = r#"(module
      (func $down (param $n i32) (result i32)
        (if (result i32) (local.get $n)
          (then (i32.add (i32.const 1) (call $down (i32.sub (local.get $n) (i32.const 1)))))
          (else (loop $spin (br_if $spin (i32.const 0))) (i32.const 0))))
      (func (export "run") (result i32) (call $down (i32.const 60000))))"#;
    let engine = engine(None);
    let program = program(&engine, wat, &Options { poll: Poll::Countdown, entry: freeze::Entry::Cycles });
    let mut store = Store::new(&engine, vec![]);
    let mut process = program.instantiate(&mut store, &linker(&engine)).unwrap();
    // 60,001 entries, then the loop at the bottom.
    process.set_countdown(&mut store, 60_002).unwrap();
    let mut results = [Val::I32(0)];
    assert_eq!(process.call(&mut store, "run", &[], &mut results).unwrap(), Exit::Frozen);
    assert_eq!(process.frames(&mut store).unwrap().len(), 60_001);
    let image = freeze_image(&process, &mut store);
    let mut store = Store::new(&engine, vec![]);
    let mut process = program.thaw(&mut store, &linker(&engine), &image[..]).unwrap().process;
    assert_eq!(process.resume(&mut store, &mut results).unwrap(), Exit::Returned);
    assert_eq!(results[0].unwrap_i32(), 60_000);
}

#[test]
fn an_endless_loop_is_stopped_from_another_thread() {
    for body in
        ["(loop $l (br $l))", "(loop $l (loop $m (br_if $m (i32.const 0))) (br $l))", "(loop $l (call $f) (br $l))"]
    {
        let wat = format!(r#"(module (func $f (loop $l (br_if $l (i32.const 0)))) (func (export "run") {body}))"#);
        let engine = engine(None);
        let program = program(&engine, &wat, &Options::default());
        let mut store = Store::new(&engine, vec![]);
        let mut process = program.instantiate(&mut store, &linker(&engine)).unwrap();
        for _ in 0..3 {
            let request = process.freeze_request();
            let thread = std::thread::spawn(move || request.set());
            let exit = if process.is_frozen() {
                process.resume(&mut store, &mut [])
            } else {
                process.call(&mut store, "run", &[], &mut [])
            };
            assert_eq!(exit.unwrap(), Exit::Frozen);
            thread.join().unwrap();
            process.freeze_request().clear();
        }
    }
}

#[test]
fn a_host_call_is_issued_again_or_completed() {
    let wat = r#"(module
      (import "host" "wait" (func $wait (param i32 i64) (result i64)))
      (func (export "run") (result i64)
        (i64.add (i64.const 1000) (call $wait (i32.const 7) (i64.const 8)))))"#;
    let engine = engine(None);
    let program = program(&engine, wat, &Options::default());
    let calls = Arc::new(Mutex::new(vec![]));
    let interrupts = Arc::new(AtomicU32::new(1));
    let linker = {
        let mut linker: Linker<Vec<i32>> = Linker::new(&engine);
        let (calls, interrupts) = (calls.clone(), interrupts.clone());
        let wait = move |mut caller: Caller<'_, Vec<i32>>, a: i32, b: i64| {
            calls.lock().unwrap().push((a, b));
            if interrupts.load(Ordering::SeqCst) > 0 {
                interrupts.fetch_sub(1, Ordering::SeqCst);
                freeze::interrupt(&mut caller)?;
            }
            Ok(b * 2)
        };
        linker.func_wrap("host", "wait", wait).unwrap();
        linker
    };
    let mut results = [Val::I64(0)];
    let mut store = Store::new(&engine, vec![]);
    let mut process = program.instantiate(&mut store, &linker).unwrap();
    assert_eq!(process.call(&mut store, "run", &[], &mut results).unwrap(), Exit::Frozen);
    let image = freeze_image(&process, &mut store);
    assert!(process.frames(&mut store).unwrap().last().unwrap().host_call.is_some());

    // In place, again with the same arguments.
    assert_eq!(process.resume(&mut store, &mut results).unwrap(), Exit::Returned);
    assert_eq!(results[0].unwrap_i64(), 1016);
    assert_eq!(*calls.lock().unwrap(), [(7, 8), (7, 8)]);

    // Elsewhere, with a result that had arrived.
    let mut store = Store::new(&engine, vec![]);
    let mut process = program.thaw(&mut store, &linker, &image[..]).unwrap().process;
    assert!(process.complete_host_call(&mut store, &[]).is_err());
    process.complete_host_call(&mut store, &[Val::I64(5)]).unwrap();
    assert_eq!(process.resume(&mut store, &mut results).unwrap(), Exit::Returned);
    assert_eq!(results[0].unwrap_i64(), 1005);
    assert_eq!(calls.lock().unwrap().len(), 2);
}

const COUNTER: &str = r#"(module (memory (export "memory") 2) (global $i (mut i32) (i32.const 0))
  (func (export "run") (result i32)
    (loop $l (global.set $i (i32.add (global.get $i) (i32.const 1)))
      (i32.store (i32.mul (global.get $i) (i32.const 4)) (global.get $i))
      (br_if $l (i32.lt_u (global.get $i) (i32.const 30000))))
    (i32.load (i32.const 4000))))"#;

#[test]
fn checkpoints_in_place_and_several_thaws_of_one_image() {
    let engine = engine(None);
    let program = program(&engine, COUNTER, &COUNTDOWN);
    let mut store = Store::new(&engine, vec![]);
    let mut process = program.instantiate(&mut store, &linker(&engine)).unwrap();
    let mut results = [Val::I32(0)];
    process.set_countdown(&mut store, 100).unwrap();
    let mut exit = process.call(&mut store, "run", &[], &mut results).unwrap();
    let mut images = vec![];
    while exit == Exit::Frozen {
        images.push(freeze_image(&process, &mut store));
        assert_eq!(images.last().unwrap(), &freeze_image(&process, &mut store), "capturing changes nothing");
        process.set_countdown(&mut store, 5000).unwrap();
        exit = process.resume(&mut store, &mut results).unwrap();
    }
    assert_eq!(results[0].unwrap_i32(), 1000);
    assert!(images.len() > 5);
    for image in images {
        for _ in 0..2 {
            let mut store = Store::new(&engine, vec![]);
            let mut process = program.thaw(&mut store, &linker(&engine), &image[..]).unwrap().process;
            results = [Val::I32(0)];
            assert_eq!(process.resume(&mut store, &mut results).unwrap(), Exit::Returned);
            assert_eq!(results[0].unwrap_i32(), 1000);
        }
    }
}

#[test]
fn pages_supplied_later() {
    let engine = engine(None);
    let program = program(&engine, COUNTER, &COUNTDOWN);
    let mut store = Store::new(&engine, vec![]);
    let mut process = program.instantiate(&mut store, &linker(&engine)).unwrap();
    process.set_countdown(&mut store, 15_000).unwrap();
    assert_eq!(process.call(&mut store, "run", &[], &mut [Val::I32(0)]).unwrap(), Exit::Frozen);
    let image = process.capture(&mut store, vec![], Pages::LeftOut, BTreeMap::new()).unwrap();
    assert!(image.len() < 2000, "{} bytes", image.len());
    let pages = process.memory(&mut store, 0).unwrap().data(&store).to_vec();

    let mut store = Store::new(&engine, vec![]);
    let mut process = program.thaw(&mut store, &linker(&engine), &image[..]).unwrap().process;
    process.memory(&mut store, 0).unwrap().data_mut(&mut store).copy_from_slice(&pages);
    let mut results = [Val::I32(0)];
    assert_eq!(process.resume(&mut store, &mut results).unwrap(), Exit::Returned);
    assert_eq!(results[0].unwrap_i32(), 1000);
}

/// What the program made zero is not in the image, and a new instance has something else there.
#[test]
fn what_was_cleared_stays_cleared() {
    let engine = engine(None);
    let wat = format!(
        r#"(module
      (memory (export "memory") 3)
      (data (i32.const 100) "first")
      (data (i32.const 8190) "second, across the border of a unit")
      (data (i32.const 65536) "third")
      (data (i32.const 131072) "{}")
      (func (export "run") (result i32)
        (memory.fill (i32.const 8192) (i32.const 0) (i32.const 100000))
        (memory.fill (i32.const 135168) (i32.const 0) (i32.const 4096))
        (i32.store8 (i32.const 20000) (i32.const 7))
        (loop $spin (br_if $spin (i32.const 0)))
        (i32.const 0)))"#,
        "fourth".repeat(2000)
    );
    let program = program(&engine, &wat, &COUNTDOWN);
    let mut store = Store::new(&engine, vec![]);
    let mut process = program.instantiate(&mut store, &linker(&engine)).unwrap();
    // The entry polls first.
    process.set_countdown(&mut store, 2).unwrap();
    assert_eq!(process.call(&mut store, "run", &[], &mut [Val::I32(0)]).unwrap(), Exit::Frozen);
    let content = process.memory(&mut store, 0).unwrap().data(&store).to_vec();
    assert_eq!((content[100], content[8191], content[8192], content[65536]), (b'f', b'e', 0, 0));

    for (pages, expected) in [(Pages::Included, [b'e', 0, 0, 7]), (Pages::LeftOut, [b'e', b'c', b't', 0])] {
        let image = process.capture(&mut store, vec![], pages, BTreeMap::new()).unwrap();
        let mut store = Store::new(&engine, vec![]);
        let process = program.thaw(&mut store, &linker(&engine), &image[..]).unwrap().process;
        let data = process.memory(&mut store, 0).unwrap().data(&store);
        assert_eq!([data[8191], data[8192], data[65536], data[20000]], expected, "{pages:?}");
        assert!(pages == Pages::LeftOut || data == content);
    }
}

#[test]
fn the_continuation_store_is_used_and_its_damage_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(None);
    let first = program(&engine, COUNTER, &COUNTDOWN);
    let mut store = Store::new(&engine, vec![]);
    let mut process = first.instantiate(&mut store, &linker(&engine)).unwrap();
    process.set_countdown(&mut store, 10).unwrap();
    process.call(&mut store, "run", &[], &mut [Val::I32(0)]).unwrap();
    let image = freeze_image(&process, &mut store);
    let finish = || {
        let program = program(&engine, COUNTER, &COUNTDOWN).with_continuation_store(directory.path());
        let mut store = Store::new(&engine, vec![]);
        let mut process = program.thaw(&mut store, &linker(&engine), &image[..]).unwrap().process;
        let mut results = [Val::I32(0)];
        assert_eq!(process.resume(&mut store, &mut results).unwrap(), Exit::Returned);
        assert_eq!(results[0].unwrap_i32(), 1000);
    };
    finish();
    let files = || std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let [file] = &files()[..] else { panic!("one continuation, one file: {:?}", files()) };
    let whole = std::fs::read(file).unwrap();
    finish();
    for bytes in [&whole[..whole.len() / 2], &[], &[&whole[..40], &[0xff; 40], &whole[80..]].concat()] {
        std::fs::write(file, bytes).unwrap();
        finish();
        assert!(std::fs::read(file).unwrap().len() == whole.len(), "it was made anew");
    }
    std::fs::remove_dir_all(directory.path()).unwrap();
    finish();
}

#[test]
fn images_of_other_programs_and_states_that_make_no_sense() {
    let engine = engine(None);
    let counter = program(&engine, COUNTER, &COUNTDOWN);
    let mut store = Store::new(&engine, vec![]);
    let mut process = counter.instantiate(&mut store, &linker(&engine)).unwrap();
    assert!(matches!(
        process.capture(&mut store, vec![], Pages::Included, BTreeMap::new()),
        Err(CaptureError::NotStopped)
    ));
    assert!(process.resume(&mut store, &mut []).is_err());
    process.set_countdown(&mut store, 10).unwrap();
    process.call(&mut store, "run", &[], &mut [Val::I32(0)]).unwrap();
    assert!(process.call(&mut store, "run", &[], &mut [Val::I32(0)]).is_err(), "a frozen process is not called");
    let image = freeze_image(&process, &mut store);
    let state = process.state(&mut store, BTreeMap::new()).unwrap();

    let thaw = |program: &Program, image: &[u8]| {
        let mut store = Store::new(&engine, vec![]);
        let mut process = program.thaw(&mut store, &linker(&engine), image)?.process;
        Ok::<_, ProgramError>(process.resume(&mut store, &mut [Val::I32(0)]).map_err(|error| format!("{error:?}")))
    };
    let other = program(&engine, "(module (func (export \"run\") (loop)))", &COUNTDOWN);
    assert!(matches!(thaw(&other, &image), Err(ProgramError::Image(ImageError::OtherProgram))));
    let options = program(&engine, COUNTER, &Options::default());
    assert!(matches!(thaw(&options, &image), Err(ProgramError::Image(ImageError::OtherProgram))));

    // Whole images, rightly checksummed, that lie.
    let broken = |change: &dyn Fn(&mut freeze::image::State)| {
        let mut lie = state.clone();
        change(&mut lie);
        let image = freeze::image::Writer::new(vec![], &lie).unwrap().finish().unwrap();
        match thaw(&counter, &image) {
            Err(ProgramError::Image(ImageError::Inconsistent { .. })) | Ok(Err(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    broken(&|state| state.memories.push(65536));
    broken(&|state| state.memories[0] = 1);
    broken(&|state| state.memories[0] = 1 << 50);
    broken(&|state| state.globals.clear());
    broken(&|state| state.globals[0].1 = freeze::image::Value::I64(1));
    broken(&|state| state.tables.push((0, vec![])));
    broken(&|state| state.references.push(Some(77)));
    broken(&|state| state.dropped_data.push(0));
    broken(&|state| state.frames.clear());
    broken(&|state| state.frames.truncate(3));
    broken(&|state| state.frames.insert(0, 0));
    broken(&|state| {
        let end = state.frames.len();
        state.frames[end - 4..].copy_from_slice(&12345u32.to_le_bytes());
    });
}
