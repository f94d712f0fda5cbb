//! Programs stopped at every place they can be, captured, thawed in a fresh store and continued.

use freeze::{CaptureError, Exit, ImageError, Options, Pages, Poll, Process, Program, ProgramError};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use wasmtime::{Caller, Config, Engine, Linker, Module, Store, Val};

fn engine(target: Option<&str>) -> Engine {
    let mut config = Config::new();
    freeze::configure(&mut config).max_wasm_stack(8 << 20);
    config.async_stack_size(16 << 20);
    if let Some(target) = target {
        // Pulley has no shared memories, and thus no flag: only a countdown stops a program there.
        config.target(target).unwrap().wasm_threads(false);
    }
    Engine::new(&config).unwrap()
}

const COUNTDOWN: Options = Options { poll: Poll::Countdown, entry: freeze::Entry::Every };

fn program(engine: &Engine, wat: &str, options: &Options) -> Program {
    Program::new(engine, &wat::parse_str(wat).unwrap(), options).unwrap()
}

fn freeze_image(process: &Process, store: &mut Store<Vec<i32>>) -> Vec<u8> {
    process.capture(store, vec![], Pages::Included, BTreeMap::new()).unwrap()
}

/// What the program says through `host.say`, and what it returns.
#[derive(Debug, PartialEq, Clone)]
struct Outcome {
    said: Vec<i32>,
    result: Result<Vec<String>, String>,
}

fn linker(engine: &Engine) -> Linker<Vec<i32>> {
    let mut linker: Linker<Vec<i32>> = Linker::new(engine);
    linker
        .func_wrap("host", "say", |mut caller: Caller<'_, Vec<i32>>, value: i32| caller.data_mut().push(value))
        .unwrap();
    linker
}

fn outcome(store: Store<Vec<i32>>, result: Result<Vec<Val>, wasmtime::Error>) -> Outcome {
    let result = match result {
        Ok(values) => Ok(values.iter().map(|value| format!("{value:?}")).collect()),
        Err(error) => Err(error.downcast_ref::<wasmtime::Trap>().map_or_else(|| error.to_string(), |t| t.to_string())),
    };
    Outcome { said: store.into_data(), result }
}

fn plain(wat: &str) -> Outcome {
    let engine = engine(None);
    let module = Module::new(&engine, wat::parse_str(wat).unwrap()).unwrap();
    let mut store = Store::new(&engine, vec![]);
    let instance = match linker(&engine).instantiate(&mut store, &module) {
        Ok(instance) => instance,
        Err(error) => return outcome(store, Err(error)),
    };
    let run = instance.get_func(&mut store, "run").unwrap();
    let mut results = vec![Val::I32(0); run.ty(&store).results().len()];
    let result = run.call(&mut store, &[], &mut results);
    outcome(store, result.map(|()| results))
}

/// Runs `run` to its end, stopping at every `every`-th poll; each time goes on in a fresh store of the next engine.
fn hopping(wat: &str, every: i64, engines: &[Engine]) -> (Outcome, usize) {
    let programs: Vec<Program> = engines.iter().map(|engine| program(engine, wat, &COUNTDOWN)).collect();
    let mut hops = 0;
    let mut store = Store::new(&engines[0], vec![]);
    let mut process = programs[0].instantiate(&mut store, &linker(&engines[0])).unwrap();
    process.set_countdown(&mut store, every).unwrap();
    let mut exit = process.start(&mut store);
    let mut starting = true;
    let mut results = vec![];
    loop {
        if starting && matches!(exit, Ok(Exit::Returned)) {
            starting = false;
            let run = process.instance().get_func(&mut store, "run").unwrap();
            results = vec![Val::I32(0); run.ty(&store).results().len()];
            exit = process.call(&mut store, "run", &[], &mut results);
        }
        match exit {
            Err(error) => return (outcome(store, Err(error)), hops),
            Ok(Exit::Returned) => return (outcome(store, Ok(results)), hops),
            Ok(Exit::Frozen) => {
                hops += 1;
                assert!(hops < 20_000, "the program makes no progress");
                let image = freeze_image(&process, &mut store);
                let next = hops % engines.len();
                store = Store::new(&engines[next], store.into_data());
                process = programs[next].thaw(&mut store, &linker(&engines[next]), &image[..]).unwrap().process;
                // The first poll may be the one it stopped at.
                process.set_countdown(&mut store, every + 1).unwrap();
                exit = process.resume(&mut store, &mut results);
            }
        }
    }
}

#[track_caller]
fn check(wat: &str) {
    let expected = plain(wat);
    let native = [engine(None)];
    let mut most = 0;
    for every in [1, 2, 3, 7, 50] {
        let (found, hops) = hopping(wat, every, &native);
        assert_eq!(found, expected, "stopping at every poll {every}");
        most = most.max(hops);
    }
    assert!(most > 0, "the program never stopped");
    let both = [engine(None), engine(Some("pulley64"))];
    assert_eq!(hopping(wat, 5, &both).0, expected, "native, Pulley, native");
}

#[test]
fn loops_and_recursion() {
    check(
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (func $sum (param $n i32) (result i32)
            (if (result i32) (local.get $n)
              (then (i32.add (local.get $n) (call $sum (i32.sub (local.get $n) (i32.const 1)))))
              (else (i32.const 0))))
          (func (export "run") (result i32) (local $i i32) (local $a i32)
            (loop $l
              (local.set $a (i32.mul (i32.const 3) (i32.add (local.get $a) (call $sum (local.get $i)))))
              (call $say (local.get $a))
              (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 9))))
            (local.get $a)))"#,
    );
}

#[test]
fn operand_stack_and_blocks() {
    check(
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (global $g (mut i64) (i64.const 5))
          (func $id (param i32) (result i32) (loop) (local.get 0))
          (func $pair (param i32) (result i32 i64) (loop) (local.get 0) (i64.const 7))
          (func (export "run") (result i32 i64 f64) (local $x i32) (local $y i64)
            (i32.const 100) (f64.const 2.5) (local.get $x)
            (block (param i32) (result i32)
              (call $id) (local.set $x (i32.const 4))
              (i32.add (call $id (local.get $x)))
              (if (result i32) (call $id (i32.const 1))
                (then (i32.const 11) (i32.const 22) (call $id (i32.const 33)) (i32.add) (i32.add))
                (else (i32.const 5)))
              (i32.add))
            (loop $l (param i32) (result i32)
              (call $id) (local.tee $x) (i32.const 1) (i32.add) (call $id)
              (call $say (local.get $x))
              (br_if $l (i32.lt_s (local.get $x) (i32.const 80))))
            (local.set $x) (drop) (local.get $x) (i32.add)
            (call $pair (local.get $x)) (global.set $g (i64.add (global.get $g)))
            (drop)
            (global.get $g) (f64.const -0.0)))"#,
    );
}

#[test]
fn tables_segments_and_references() {
    check(
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (type $f (func (param i32) (result i32)))
          (table $t 4 funcref) (table $u 2 10 funcref)
          (memory 1) (memory $two 1 4)
          (data $d "hello, world") (data (memory $two) (i32.const 8) "abc")
          (elem $e func $inc $dbl)
          (elem declare func $inc $dbl $sq)
          (global $r (mut funcref) (ref.func $sq))
          (func $inc (type $f) (loop) (i32.add (local.get 0) (i32.const 1)))
          (func $dbl (type $f) (loop) (i32.mul (local.get 0) (i32.const 2)))
          (func $sq (type $f) (loop) (i32.mul (local.get 0) (local.get 0)))
          (func $via (param $r funcref) (param $x i32) (result i32) (local $k funcref)
            (local.set $k (local.get $r))
            (loop)
            (table.set $t (i32.const 3) (local.get $k))
            (call_indirect $t (type $f) (local.get $x) (i32.const 3))
            (loop)
            (table.set $t (i32.const 2) (local.get $k))
            (i32.add (call_indirect $t (type $f) (local.get $x) (i32.const 2))))
          (func (export "run") (result i32) (local $i i32) (local $a i32)
            (table.init $t $e (i32.const 0) (i32.const 0) (i32.const 2))
            (loop) (elem.drop $e)
            (memory.init $d (i32.const 16) (i32.const 7) (i32.const 5))
            (loop) (data.drop $d)
            (drop (memory.grow $two (i32.const 2)))
            (i32.store8 $two (i32.const 190000) (i32.const 77))
            (drop (table.grow $u (ref.func $dbl) (i32.const 3)))
            (loop $l
              (local.set $a (i32.add (local.get $a) (call $via (table.get $t (i32.rem_u (local.get $i) (i32.const 2))) (local.get $i))))
              (local.set $a (i32.add (local.get $a) (call $via (global.get $r) (i32.const 3))))
              (global.set $r (table.get $u (i32.const 4)))
              (call $say (local.get $a))
              (call $say (i32.load8_u (i32.const 17)))
              (call $say (i32.load8_u $two (i32.const 190000)))
              (call $say (table.size $u))
              (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 6))))
            ;; dropped segments stay dropped: this traps
            (memory.init $d (i32.const 0) (i32.const 0) (i32.const 1))
            (local.get $a)))"#,
    );
}

#[test]
fn vectors_floats_and_globals() {
    check(
        r#"(module
          (global $v (mut v128) (v128.const i32x4 1 2 3 4))
          (global $f (mut f32) (f32.const nan:0x200001))
          (func $step (param v128 f64) (result v128 f64)
            (loop) (i32x4.add (local.get 0) (v128.const i32x4 1 1 1 1)) (f64.mul (local.get 1) (f64.const 1.5)))
          (func (export "run") (result i32 i32 f64 f32) (local $v v128) (local $f f64) (local $i i32)
            (local.set $f (f64.const 0.1))
            (loop $l
              (call $step (global.get $v) (local.get $f)) (local.set $f) (local.tee $v) (global.set $v)
              (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 20))))
            (i32x4.extract_lane 0 (local.get $v)) (i32x4.extract_lane 3 (global.get $v)) (local.get $f) (global.get $f)))"#,
    );
}

#[test]
fn exceptions() {
    check(
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (tag $a (param i32)) (tag $b (param i64 f32)) (tag $c)
          (func $throw (param i32) (loop)
            (block $2 (block $1 (block $0 (br_table $0 $1 $2 (i32.rem_u (local.get 0) (i32.const 3))))
              (throw $a (local.get 0))) (throw $b (i64.const 9) (f32.const 1.5))) (throw $c))
          (func $catch (param $n i32) (result i32) (local $e exnref)
            (block $any (result exnref)
              (block $gotb (result i64 f32)
                (block $gota (result i32)
                  (try_table (catch $a $gota) (catch $b $gotb) (catch_all_ref $any)
                    (call $throw (local.get $n)))
                  (unreachable))
                (loop) (return))
              (loop) (drop) (drop) (return (i32.const -2)))
            (local.set $e)
            (loop)
            (call $say (ref.is_null (local.get $e)))
            (block $again (result exnref)
              (try_table (catch_all_ref $again) (loop) (throw_ref (local.get $e)))
              (unreachable))
            (loop (param exnref) (result exnref)) (drop)
            (i32.const -3))
          (func (export "run") (result i32) (local $i i32)
            (loop $l
              (call $say (call $catch (local.get $i)))
              (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 7))))
            (local.get $i)))"#,
    );
}

#[test]
fn tail_calls_and_elided_frames() {
    check(
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (type $f (func (param i32 i32) (result i32)))
          (table funcref (elem $even $odd))
          (func $even (type $f) (loop)
            (if (i32.eqz (local.get 0)) (then (return (local.get 1))))
            (return_call $odd (i32.sub (local.get 0) (i32.const 1)) (i32.add (local.get 1) (i32.const 2))))
          (func $odd (type $f)
            (if (i32.eqz (local.get 0)) (then (return (i32.const -1))))
            (return_call_indirect (type $f) (i32.sub (local.get 0) (i32.const 1)) (local.get 1) (i32.const 0)))
          (func $wrap (param i32) (result i32)
            (if (result i32) (i32.and (local.get 0) (i32.const 1))
              (then (block (result i32) (call $even (local.get 0) (i32.const 5))))
              (else (return (call $even (local.get 0) (i32.const 9))))))
          (func (export "run") (result i32) (local $i i32)
            (loop $l
              (call $say (call $wrap (local.get $i)))
              (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 6))))
            (call $wrap (i32.const 12))))"#,
    );
}

#[test]
fn a_start_function_is_frozen_too() {
    check(
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (global $n (mut i32) (i32.const 0))
          (func $start (loop $l (global.set $n (i32.add (global.get $n) (i32.const 1)))
            (call $say (global.get $n)) (br_if $l (i32.lt_u (global.get $n) (i32.const 5)))))
          (start $start)
          (func (export "run") (result i32) (loop) (global.get $n)))"#,
    );
}

/// A loop of more code than fits a continuation is continued in its loop function; nested ones too.
#[test]
fn large_loops() {
    let filler: String = (0..1500)
        .map(|i| format!("(local.set $a (i32.xor (i32.mul (local.get $a) (i32.const {})) (local.get $j)))\n", i * 2 + 3))
        .collect();
    check(&format!(
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (func $id (param i32) (result i32) (loop) (local.get 0))
          (func (export "run") (result i32) (local $i i32) (local $j i32) (local $a i32)
            (i32.const 1000)
            (block $out
            (loop $outer
              (local.set $j (i32.const 0))
              (loop $inner
                {filler}
                (local.set $a (i32.add (local.get $a) (call $id (local.get $j))))
                (br_if $out (i32.gt_u (local.get $i) (i32.const 4)))
                (br_if $inner (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 1))) (i32.const 3))))
              (call $say (local.get $a))
              {filler}
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br $outer)))
            (call $say (call $id (local.get $i)))
            (i32.add (local.get $a))))"#
    ));
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
    for body in ["(loop $l (br $l))", "(loop $l (loop $m (br_if $m (i32.const 0))) (br $l))", "(loop $l (call $f) (br $l))"] {
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
