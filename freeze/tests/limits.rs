//! The edges: what cannot be frozen is named at load, stacks at their limit unwind and continue, and what a host does wrong is
//! told to it and never turns into a wrong run.

mod suite;

use freeze::{
    CaptureError, Entry, Exit, LostError, Options, Pages, Poll, Process, Program, ProgramError, RewriteError,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use suite::chains::{COUNTDOWN, engine, freeze_image, linker, program};
use wasmtime::{Caller, Extern, Func, Linker, Ref, Store, Trap, Val};

/// What is said of a program that cannot be frozen: the function, if it is one function's fault, and the construct.
fn refusal(wat: &str) -> (Option<String>, String) {
    refusal_of_bytes(&wat::parse_str(wat).unwrap_or_else(|error| panic!("{error}: {wat}")))
}

fn refusal_of_bytes(wasm: &[u8]) -> (Option<String>, String) {
    match freeze::rewrite(wasm, &Options::default()) {
        Err(RewriteError::Unsupported { function, construct }) => (Some(function.to_string()), construct),
        Err(RewriteError::UnsupportedModule { construct }) => (None, construct),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was accepted"),
    }
}

#[test]
fn what_cannot_be_frozen_is_named() {
    let wait = r#"(import "host" "wait" (func $wait)) (import "host" "take" (func $take (param externref)))"#;
    let cases = [
        (
            format!("(module {wait} (func $keeper (param externref) (call $wait) (call $take (local.get 0))))"),
            Some("2 (`keeper`)"),
            "a reference of type externref is live across the call at byte",
        ),
        (
            format!("(module {wait} (func $on_stack (param externref) (local.get 0) (call $wait) (call $take)))"),
            Some("2 (`on_stack`)"),
            "a reference of type externref is live across the call at byte",
        ),
        (
            format!("(module {wait} (func $spin (param externref) (loop $l (call $take (local.get 0)) (br $l))))"),
            Some("2 (`spin`)"),
            "a reference of type externref is live across the loop at byte",
        ),
        (
            format!(
                "(module {wait} (type $s (struct (field i32))) (func $gc (struct.new $s (i32.const 1)) (call $wait) (drop)))"
            ),
            Some("2 (`gc`)"),
            "live across the call at byte",
        ),
        ("(module (memory 1) (memory 1 2 shared))".into(), None, "memory 1 is shared between threads"),
        (
            "(module (global i32 (i32.const 1)) (global (mut externref) (ref.null extern)))".into(),
            None,
            "global 1 is a variable of type externref",
        ),
        ("(module (global (mut exnref) (ref.null exn)))".into(), None, "global 0 is a variable of type exnref"),
        (
            "(module (table 1 externref) (func (param externref) (table.set (i32.const 0) (local.get 0))))".into(),
            None,
            "table 0, of type externref, is changed by the program",
        ),
        (
            "(module (type $a (array (mut i32))) (global (ref $a) (array.new_default $a (i32.const 3))))".into(),
            None,
            "global 0 refers to a struct or array, whose contents an image cannot hold",
        ),
        (
            "(module (type $a (array (mut i32))) (table 1 (ref null $a)))".into(),
            None,
            "table 0 refers to structs or arrays, whose contents an image cannot hold",
        ),
        (
            r#"(module (type $a (array i8)) (data $d "abcdef")
                (func $fill (drop (array.new_data $a $d (i32.const 0) (i32.const 1))) (loop $l (br $l))))"#
                .into(),
            Some("0 (`fill`)"),
            "it fills an array from a segment",
        ),
        (
            format!(
                "(module {wait} (tag (param funcref)) (func $caught (local $e exnref) (call $wait)
                (block $h (try_table (loop (throw_ref (local.get $e)))))))"
            ),
            Some("2 (`caught`)"),
            "an exception that may hold a reference is live",
        ),
        ("(module (func (export \"freeze:top\")))".into(), None, "it exports `freeze:top` already"),
    ];
    for (wat, function, construct) in cases {
        let (found_function, found_construct) = refusal(&wat);
        assert_eq!(found_function.as_deref(), function, "{wat}");
        assert!(found_construct.contains(construct), "{found_construct} instead of {construct}: {wat}");
    }
}

/// The text format has forgotten these instructions.
#[test]
fn legacy_exceptions_are_named() {
    // try, catch_all, end; end of the function.
    let body = [0x00, 0x06, 0x40, 0x19, 0x0b, 0x0b];
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    wasm.extend([1, 4, 1, 0x60, 0, 0]);
    wasm.extend([3, 2, 1, 0]);
    wasm.extend([10, body.len() as u8 + 2, 1, body.len() as u8]);
    wasm.extend(body);
    let (function, construct) = refusal_of_bytes(&wasm);
    assert_eq!((function.as_deref(), construct.as_str()), (Some("0"), "it uses the legacy exception instructions"));
}

#[test]
fn what_is_not_a_program_is_said_so() {
    let cases: [(&[u8], &str); 5] = [
        (b"", "unexpected end"),
        (b"\x7fELF\x02\x01\x01\0", "magic header not detected"),
        (b"\0asm\x01\0\0\0\x01", "unexpected end"),
        (b"\0asm\x0d\0\x01\0", "this is a component, not a core module"),
        (b"\0asm\x02\0\0\0", "unknown binary version"),
    ];
    for (bytes, message) in cases {
        match freeze::rewrite(bytes, &Options::default()) {
            Err(RewriteError::Invalid { message: found, .. }) => assert!(found.contains(message), "{found}"),
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
}

#[test]
fn references_that_are_not_used_again_do_no_harm() {
    let wat = r#"(module (import "host" "wait" (func $wait)) (import "host" "take" (func $take (param externref)))
        (func (export "run") (param externref) (call $take (local.get 0)) (call $wait)))"#;
    freeze::rewrite(&wat::parse_str(wat).unwrap(), &Options::default()).unwrap();
}

// Stacks.

/// Runs on a thread whose stack has room for what the engine allows a program.
fn on_a_deep_stack(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(scope, test).unwrap();
    });
}

/// Recursion whose frames hold values of every kind; at the bottom a loop that can stop. Argument: how deep.
const DEEP: &str = r#"(module
  (func $id (param i32) (result i32) (local.get 0))
  (elem declare func $id)
  (type $f (func (param i32) (result i32)))
  (table $t 1 funcref)
  (func $down (param $n i32) (result i32) (local $v v128) (local $l i64) (local $d f64) (local $f funcref)
    (if (i32.eqz (local.get $n)) (then (loop $spin (br_if $spin (i32.const 0))) (return (i32.const 0))))
    (local.set $v (i32x4.splat (local.get $n)))
    (local.set $l (i64.extend_i32_u (i32.mul (local.get $n) (i32.const 3))))
    (local.set $d (f64.convert_i32_u (local.get $n)))
    (local.set $f (ref.func $id))
    (i32.rotl (call $down (i32.sub (local.get $n) (i32.const 1))) (i32.const 1))
    (i32.add (i32x4.extract_lane 2 (local.get $v)))
    (i32.add (i32.wrap_i64 (local.get $l)))
    (i32.add (i32.trunc_f64_u (local.get $d)))
    (table.set $t (i32.const 0) (local.get $f))
    (call_indirect $t (type $f) (i32.const 0)))
  (func (export "run") (param i32) (result i32) (call $down (local.get 0))))"#;

fn deep_result(depth: i32) -> i32 {
    (1..=depth).fold(0i32, |sum, n| sum.rotate_left(1).wrapping_add(n).wrapping_add(n.wrapping_mul(3)).wrapping_add(n))
}

#[test]
fn twenty_thousand_frames_of_all_kinds_of_values() {
    on_a_deep_stack(|| {
        let engine = engine(None);
        let program = program(&engine, DEEP, &Options { poll: Poll::Countdown, entry: Entry::Cycles });
        let depth = 20_000;
        let mut store = Store::new(&engine, vec![]);
        let mut process = program.instantiate(&mut store, &linker(&engine)).unwrap();
        process.set_countdown(&mut store, depth as i64 + 2).unwrap();
        let mut results = [Val::I32(0)];
        assert_eq!(process.call(&mut store, "run", &[Val::I32(depth)], &mut results).unwrap(), Exit::Frozen);
        // More than the frame memory has at first, so it has grown while the stack was unwound.
        let state = process.state(&mut store, BTreeMap::new()).unwrap();
        assert!(state.frames.len() > 800_000 && state.references.len() == depth as usize);
        for _ in 0..3 {
            let image = freeze_image(&process, &mut store);
            store = Store::new(&engine, vec![]);
            process = program.thaw(&mut store, &linker(&engine), &image[..]).unwrap().process;
            process.set_countdown(&mut store, 1).unwrap();
            // The same poll again, with the whole stack rebuilt above it.
            assert_eq!(process.resume(&mut store, &mut results).unwrap(), Exit::Frozen);
            assert_eq!(process.frames(&mut store).unwrap().len(), depth as usize + 1);
        }
        process.set_countdown(&mut store, 0).unwrap();
        assert_eq!(process.resume(&mut store, &mut results).unwrap(), Exit::Returned);
        assert_eq!(results[0].unwrap_i32(), deep_result(depth));
    });
}

/// However little stack is left below the innermost frame, unwinding never traps. A continuation may need more stack than the
/// call that it stands for, up to many times more (a value that the call could compute again is held in its continuation): an
/// image of a stack that is nearly full may need an engine that allows more of it.
#[test]
fn a_stack_at_its_edge_unwinds() {
    on_a_deep_stack(|| {
        let mut config = wasmtime::Config::new();
        freeze::configure(&mut config).max_wasm_stack(256 << 10);
        let engine = wasmtime::Engine::new(&config).unwrap();
        let roomy = wasmtime::Engine::new(config.async_stack_size(48 << 20).max_wasm_stack(24 << 20)).unwrap();
        type Expect = fn(i32) -> i32;
        let cases: [(&str, Expect, String); 4] = [
            (
                "exceptions",
                |depth| depth,
                r#"(module (tag $x (param i32))
                (func $down (param $n i32) (result i32) (local $e exnref)
                  (block $h (result exnref) (try_table (catch_all_ref $h) (throw $x (local.get $n))) (unreachable))
                  (local.set $e)
                  (if (i32.eqz (local.get $n))
                    (then (loop $spin (br_if $spin (i32.const 0))) (return (ref.is_null (local.get $e)))))
                  (i32.add (i32.const 1) (call $down (i32.sub (local.get $n) (i32.const 1))))
                  (i32.add (ref.is_null (local.get $e))))
              (func (export "run") (param i32) (result i32) (call $down (local.get 0))))"#
                    .to_string(),
            ),
            ("values of all kinds", deep_result, DEEP.to_string()),
            (
                "one value",
                |depth| depth,
                r#"(module (func $down (param $n i32) (result i32)
                (if (i32.eqz (local.get $n)) (then (loop $spin (br_if $spin (i32.const 0))) (return (i32.const 0))))
                (i32.add (i32.const 1) (call $down (i32.sub (local.get $n) (i32.const 1)))))
              (func (export "run") (param i32) (result i32) (call $down (local.get 0))))"#
                    .to_string(),
            ),
            ("many values", |depth| depth, {
                let locals: String = (0..40).map(|i| format!("(local $x{i} i64)")).collect();
                let set: String = (0..40)
                    .map(|i| format!("(local.set $x{i} (i64.add (i64.extend_i32_u (local.get $n)) (i64.const {i})))"))
                    .collect();
                let sum: String = (0..40).map(|i| format!("(i64.xor (local.get $x{i}))")).collect();
                format!(
                    r#"(module (func $down (param $n i32) (result i32) {locals}
                    (if (i32.eqz (local.get $n)) (then (loop $spin (br_if $spin (i32.const 0))) (return (i32.const 0))))
                    {set}
                    (i32.add (i32.const 1) (call $down (i32.sub (local.get $n) (i32.const 1))))
                    (i64.const 0) {sum} (i64.const 63) (i64.shr_u) (i32.wrap_i64) (i32.add))
                  (func (export "run") (param i32) (result i32) (call $down (local.get 0))))"#
                )
            }),
        ];
        for (name, expect, wat) in cases {
            let options = Options { poll: Poll::Countdown, entry: Entry::Cycles };
            let (program, roomy_program) = (program(&engine, &wat, &options), program(&roomy, &wat, &options));
            let run = |depth: i32, countdown: i64| {
                let mut store = Store::new(&engine, vec![]);
                let mut process = program.instantiate(&mut store, &linker(&engine)).unwrap();
                process.set_countdown(&mut store, countdown).unwrap();
                let mut results = [Val::I32(0)];
                let exit = process.call(&mut store, "run", &[Val::I32(depth)], &mut results);
                (exit, store, process)
            };
            let overflows = |depth: i32| match run(depth, 0).0 {
                Ok(_) => false,
                Err(error) if error.downcast_ref::<Trap>() == Some(&Trap::StackOverflow) => true,
                Err(error) => panic!("{error:#}"),
            };
            // The greatest depth that does not overflow.
            let (mut fits, mut too_deep) = (1, 1 << 20);
            while too_deep - fits > 1 {
                let middle = (fits + too_deep) / 2;
                if overflows(middle) { too_deep = middle } else { fits = middle }
            }
            assert!(fits > 200, "{name}: {fits}");
            for depth in fits - 12..=fits {
                let (exit, mut store, process) = run(depth, depth as i64 + 2);
                assert_eq!(exit.unwrap(), Exit::Frozen, "{name}: {depth} of {fits} frames");
                assert_eq!(process.frames(&mut store).unwrap().len(), depth as usize + 2 - 1, "{name}");
                let image = freeze_image(&process, &mut store);

                // If it overflows, that is a trap that says so, and the process can be called again.
                let mut store = Store::new(&engine, vec![]);
                let mut process = program.thaw(&mut store, &linker(&engine), &image[..]).unwrap().process;
                let mut results = [Val::I32(0)];
                match process.resume(&mut store, &mut results) {
                    Ok(exit) => assert_eq!(exit, Exit::Returned),
                    Err(error) => {
                        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow), "{name}: {error:#}");
                        stops_cleanly(&program, store, process, 5, name);
                    }
                }
                let mut store = Store::new(&roomy, vec![]);
                let mut process = roomy_program.thaw(&mut store, &linker(&roomy), &image[..]).unwrap().process;
                assert_eq!(process.resume(&mut store, &mut results).unwrap(), Exit::Returned, "{name}");
                assert_eq!(results[0].unwrap_i32(), expect(depth), "{name}");
            }
        }
    });
}

/// After a call of it has failed, a process that still lives can be called, stopped and continued as if new.
fn stops_cleanly(program: &Program, mut store: Store<Vec<i32>>, mut process: Process, depth: i32, name: &str) {
    process.set_countdown(&mut store, depth as i64 + 2).unwrap();
    let mut results = [Val::I32(0)];
    let exit = process.call(&mut store, "run", &[Val::I32(depth)], &mut results).unwrap();
    assert_eq!(exit, Exit::Frozen, "{name}");
    assert_eq!(
        process.frames(&mut store).unwrap().len(),
        depth as usize + 1,
        "{name}: frames of the failed call are left"
    );
    let image = freeze_image(&process, &mut store);
    let engine = store.engine().clone();
    let mut store = Store::new(&engine, vec![]);
    let mut process = program.thaw(&mut store, &linker(&engine), &image[..]).unwrap().process;
    assert_eq!(process.resume(&mut store, &mut results).unwrap(), Exit::Returned, "{name}");
}

// Hosts.

#[test]
fn a_host_call_that_fails_after_it_was_interrupted() {
    let wat = r#"(module (import "host" "call" (func $call))
        (func $down (param $n i32) (result i32)
          (if (i32.eqz (local.get $n)) (then (loop $spin (br_if $spin (i32.const 0))) (return (i32.const 0))))
          (i32.add (i32.const 1) (call $down (i32.sub (local.get $n) (i32.const 1)))))
        (func (export "run") (param i32) (result i32) (call $down (local.get 0)))
        (func (export "fail") (call $call)))"#;
    let engine = engine(None);
    let program = program(&engine, wat, &Options { poll: Poll::Countdown, entry: Entry::Cycles });
    let mut linker = linker(&engine);
    let fail = |mut caller: Caller<'_, Vec<i32>>| -> Result<(), wasmtime::Error> {
        freeze::interrupt(&mut caller)?;
        Err(wasmtime::Error::msg("the device is gone"))
    };
    linker.func_wrap("host", "call", fail).unwrap();
    let mut store = Store::new(&engine, vec![]);
    let mut process = program.instantiate(&mut store, &linker).unwrap();
    let error = process.call(&mut store, "fail", &[], &mut []).unwrap_err();
    assert!(format!("{error:?}").contains("the device is gone"), "{error:?}");
    assert!(!process.is_frozen());
    process.set_countdown(&mut store, 0).unwrap();
    let mut results = [Val::I32(0)];
    assert_eq!(process.call(&mut store, "run", &[Val::I32(3)], &mut results).unwrap(), Exit::Returned);
    assert_eq!(results[0].unwrap_i32(), 3);
}

#[test]
fn a_host_call_that_cannot_be_issued_again() {
    let wat = r#"(module (import "host" "call" (func $call (param externref)))
        (func (export "run") (result i32) (call $call (ref.null extern)) (i32.const 8)))"#;
    let engine = engine(None);
    let program = program(&engine, wat, &Options::default());
    let mut linker = linker(&engine);
    let interrupts = Arc::new(AtomicU32::new(1));
    let call = {
        let interrupts = interrupts.clone();
        move |mut caller: Caller<'_, Vec<i32>>, _: Option<wasmtime::Rooted<wasmtime::ExternRef>>| {
            if interrupts.load(Ordering::SeqCst) > 0 {
                interrupts.fetch_sub(1, Ordering::SeqCst);
                freeze::interrupt(&mut caller)?;
            }
            Ok(())
        }
    };
    linker.func_wrap("host", "call", call).unwrap();
    let mut store = Store::new(&engine, vec![]);
    let mut process = program.instantiate(&mut store, &linker).unwrap();
    let mut results = [Val::I32(0)];
    let error = process.call(&mut store, "run", &[], &mut results).unwrap_err();
    let not_interruptible = LostError::NotInterruptible { function: "host.call".into() };
    assert_eq!(error.downcast_ref::<LostError>(), Some(&not_interruptible), "{error:?}");
    assert!(!process.is_frozen());
    // The next call is not taken for one that was unwound.
    assert_eq!(process.call(&mut store, "run", &[], &mut results).unwrap(), Exit::Returned);
    assert_eq!(results[0].unwrap_i32(), 8);
}

/// A host function that calls back into the program, which stops there: the host's own frame cannot be saved.
#[test]
fn a_host_function_that_calls_the_program_which_stops() {
    let wat = r#"(module (import "host" "back" (func $back (param i32) (result i32)))
        (global $n (mut i32) (i32.const 0))
        (func (export "inner") (param i32) (result i32) (local $i i32)
          (loop $l (global.set $n (i32.add (global.get $n) (i32.const 1)))
            (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4))))
          (i32.add (local.get 0) (global.get $n)))
        (func $middle (param i32) (result i32) (i32.add (call $back (local.get 0)) (i32.const 1000)))
        (func (export "run") (result i32) (i32.add (call $middle (i32.const 7)) (i32.const 100))))"#;
    let engine = engine(None);
    let program = program(&engine, wat, &COUNTDOWN);
    let mut linker = linker(&engine);
    let back = |mut caller: Caller<'_, Vec<i32>>, value: i32| -> Result<i32, wasmtime::Error> {
        let inner = caller.get_export("inner").and_then(Extern::into_func).unwrap();
        let mut results = [Val::I32(0)];
        inner.call(&mut caller, &[Val::I32(value)], &mut results)?;
        Ok(results[0].unwrap_i32() * 2)
    };
    linker.func_wrap("host", "back", back).unwrap();
    let start = |countdown: i64| {
        let mut store = Store::new(&engine, vec![]);
        let mut process = program.instantiate(&mut store, &linker).unwrap();
        process.set_countdown(&mut store, countdown).unwrap();
        let mut results = [Val::I32(0)];
        let exit = process.call(&mut store, "run", &[], &mut results);
        (exit, results[0].unwrap_i32(), store, process)
    };
    // Nobody asks: calling back is allowed.
    let (exit, result, ..) = start(0);
    assert_eq!((exit.unwrap(), result), (Exit::Returned, 1122));
    // Polls: run, middle, inner, then four rounds of the loop.
    for countdown in 1..=2 {
        let (exit, _, mut store, mut process) = start(countdown);
        assert_eq!(exit.unwrap(), Exit::Frozen);
        process.set_countdown(&mut store, 0).unwrap();
        let mut results = [Val::I32(0)];
        assert_eq!(process.resume(&mut store, &mut results).unwrap(), Exit::Returned);
        assert_eq!(results[0].unwrap_i32(), 1122);
    }
    for countdown in 3..=7 {
        let (exit, _, mut store, mut process) = start(countdown);
        let error = exit.expect_err("a stack with the host in the middle is not a frozen process");
        let host_inside = LostError::HostInside { function: "host.back".into() };
        assert_eq!(error.downcast_ref::<LostError>(), Some(&host_inside), "{error:?}");
        assert!(!process.is_frozen());
        assert!(matches!(
            process.capture(&mut store, vec![], Pages::Included, BTreeMap::new()),
            Err(CaptureError::NotStopped)
        ));
        // The process can be called again, and stopped.
        process.set_countdown(&mut store, 1).unwrap();
        let mut results = [Val::I32(0)];
        assert_eq!(process.call(&mut store, "run", &[], &mut results).unwrap(), Exit::Frozen);
        assert_eq!(process.frames(&mut store).unwrap().len(), 1);
    }
}

#[test]
fn a_function_of_the_host_in_a_table() {
    let wat = r#"(module (table (export "t") 2 funcref)
        (func (export "put") (param funcref) (table.set (i32.const 1) (local.get 0)))
        (func (export "run") (loop) (table.set (i32.const 0) (ref.null func)) (loop)))"#;
    let engine = engine(None);
    let program = program(&engine, wat, &Options { poll: Poll::Countdown, entry: Entry::Cycles });
    let mut store = Store::new(&engine, vec![]);
    let mut process = program.instantiate(&mut store, &linker(&engine)).unwrap();
    let foreign = Func::wrap(&mut store, || ());
    process.instance().get_table(&mut store, "t").unwrap().set(&mut store, 1, Ref::Func(Some(foreign))).unwrap();
    process.set_countdown(&mut store, 2).unwrap();
    assert_eq!(process.call(&mut store, "run", &[], &mut []).unwrap(), Exit::Frozen);
    match process.capture(&mut store, vec![], Pages::Included, BTreeMap::new()) {
        Err(CaptureError::ForeignReference { place }) => assert_eq!(place, "table 0, entry 1"),
        other => panic!("{other:?}"),
    }
    // It can still go on where it is.
    process.set_countdown(&mut store, 0).unwrap();
    assert_eq!(process.resume(&mut store, &mut []).unwrap(), Exit::Returned);
}

#[test]
fn a_module_that_was_not_rewritten() {
    let engine = engine(None);
    let wasm = wat::parse_str("(module (func (export \"run\")))").unwrap();
    let rewritten = freeze::rewrite(&wasm, &Options::default()).unwrap();
    let module = wasmtime::Module::new(&engine, &wasm).unwrap();
    let program = Program::from_parts(wasm.into(), rewritten.map, module);
    let mut store = Store::new(&engine, vec![]);
    let error = program.instantiate(&mut store, &linker(&engine)).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("it was not rewritten by this version"), "{error}");
}

/// An engine that lacks what a rewritten program needs says so when the program is loaded.
#[test]
fn an_engine_that_was_not_configured() {
    let engine = wasmtime::Engine::default();
    let wasm = wat::parse_str("(module (func (export \"run\") (loop $l (br $l))))").unwrap();
    match Program::new(&engine, &wasm, &Options::default()) {
        Err(ProgramError::Engine(_)) => {}
        Err(error) => panic!("{error:?}"),
        Ok(program) => {
            let mut store = Store::new(&engine, ());
            program.instantiate(&mut store, &Linker::new(&engine)).map(|_| ()).unwrap_err();
        }
    }
}
