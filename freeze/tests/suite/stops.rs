//! Programs that never end by themselves: whoever asks them to stop must be heard, also after they have been continued.
//!
//! Fuel of the engine is the watchdog, so that a poll that is missing is a failure and not a test that hangs.

use freeze::{Entry, Exit, Options, Pages, Poll, Program};
use std::collections::BTreeMap;
use wasmtime::{Config, Engine, Linker, Store};

/// Far more than any of the programs needs to reach its next poll.
const FUEL: u64 = 2_000_000;

pub const PROGRAMS: &[(&str, &str)] = &[
    ("a loop", r#"(module (func (export "run") (loop $l (br $l))))"#),
    ("a loop in a loop", r#"(module (func (export "run") (loop $l (loop $m (br_if $m (i32.const 0))) (br $l))))"#),
    ("the inner loop", r#"(module (func (export "run") (loop $l (loop $m (br $m)) (br $l))))"#),
    (
        "both loops in turn",
        r#"(module (func (export "run") (local $i i32)
        (loop $l (local.set $i (i32.const 0))
          (loop $m (br_if $m (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3)))) (br $l))))"#,
    ),
    (
        "a loop with a parameter",
        r#"(module (func (export "run") (i32.const 1) (loop $l (param i32) (br $l)) (unreachable)))"#,
    ),
    (
        "a loop that calls",
        r#"(module (func $f (loop $l (br_if $l (i32.const 0)))) (func (export "run") (loop $l (call $f) (br $l))))"#,
    ),
    (
        "a loop that calls what cannot stop",
        r#"(module (func $f (nop)) (func (export "run") (loop $l (call $f) (br $l))))"#,
    ),
    (
        "in a try_table",
        r#"(module (tag $t) (func $f (throw $t)) (func (export "run")
        (loop $l (block $h (try_table (catch_all $h) (call $f))) (br $l))))"#,
    ),
    (
        "by throwing",
        r#"(module (tag $t) (func (export "run")
        (loop $l (block $h (try_table (catch $t $h) (throw $t))) (br $l))))"#,
    ),
    (
        "by a table of branches",
        r#"(module (func (export "run") (local $i i32)
        (loop $l (block $a (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_table $l $a $l (i32.and (local.get $i) (i32.const 3)))) (br $l))))"#,
    ),
    ("a tail call to itself", r#"(module (func $f (export "run") (return_call $f)))"#),
    (
        "tail calls in turn",
        r#"(module (func $f (export "run") (return_call $g)) (func $g (return_call $h)) (func $h (return_call $f)))"#,
    ),
    (
        "a tail call through a table",
        r#"(module (type $t (func)) (table funcref (elem $f))
        (func $f (export "run") (return_call_indirect (type $t) (i32.const 0))))"#,
    ),
    (
        "a tail call by reference",
        r#"(module (type $t (func (param i32))) (elem declare func $f)
        (func $f (type $t) (return_call_ref $t (local.get 0) (ref.func $f)))
        (func (export "run") (return_call $f (i32.const 3))))"#,
    ),
    (
        "deep recursion again and again",
        r#"(module
        (func $down (param i32) (if (local.get 0) (then (call $down (i32.sub (local.get 0) (i32.const 1))) (nop))))
        (func (export "run") (loop $l (call $down (i32.const 50)) (br $l))))"#,
    ),
    (
        "functions that call each other",
        r#"(module (type $t (func (param i32))) (table funcref (elem $a $b))
        (func $a (param i32) (if (local.get 0) (then (call $b (i32.sub (local.get 0) (i32.const 1))) (nop))))
        (func $b (param i32) (if (local.get 0) (then (call_indirect (type $t) (i32.sub (local.get 0) (i32.const 1)) (i32.const 0)) (nop))))
        (func $go (return_call $go2)) (func $go2 (call $a (i32.const 9)) (return_call $go))
        (func (export "run") (call $go)))"#,
    ),
];

pub fn engine() -> Engine {
    let mut config = Config::new();
    freeze::configure(&mut config).consume_fuel(true);
    Engine::new(&config).unwrap()
}

/// Asks the program to stop `times` times, continuing it in fresh stores. An error says that it was not heard.
pub fn check(engine: &Engine, wat: &str, entry: Entry, times: u32) -> Result<(), String> {
    let wasm = wat::parse_str(wat).unwrap();
    let error = |error: wasmtime::Error| format!("{error:#}");
    let options = Options { poll: Poll::Countdown, entry };
    let program = Program::new(engine, &wasm, &options).map_err(|error| error.to_string())?;
    let mut store = Store::new(engine, ());
    store.set_fuel(FUEL).map_err(error)?;
    let mut process = program.instantiate(&mut store, &Linker::new(engine)).map_err(error)?;
    process.set_countdown(&mut store, 1).map_err(error)?;
    let mut exit = process.call(&mut store, "run", &[], &mut []).map_err(error)?;
    for time in 0..times {
        if exit != Exit::Frozen {
            return Err(format!("it ended, after {time} stops"));
        }
        let image = process.capture(&mut store, vec![], Pages::Included, BTreeMap::new()).map_err(|e| e.to_string())?;
        store = Store::new(engine, ());
        store.set_fuel(FUEL).map_err(error)?;
        process =
            program.thaw(&mut store, &Linker::new(engine), &image[..]).map_err(|error| error.to_string())?.process;
        // The poll that it stopped at is the first again; the second is one farther on.
        process.set_countdown(&mut store, 1 + (time % 3) as i64).map_err(error)?;
        exit = process.resume(&mut store, &mut []).map_err(error)?;
    }

    // The same with the flag, which is set before it starts.
    let program =
        Program::new(engine, &wasm, &Options { poll: Poll::Flag, entry }).map_err(|error| error.to_string())?;
    let mut store = Store::new(engine, ());
    store.set_fuel(FUEL).map_err(error)?;
    let mut process = program.instantiate(&mut store, &Linker::new(engine)).map_err(error)?;
    process.freeze_request().set();
    let exit = process.call(&mut store, "run", &[], &mut []).map_err(error)?;
    if exit == Exit::Frozen { Ok(()) } else { Err("it did not hear the flag".into()) }
}
