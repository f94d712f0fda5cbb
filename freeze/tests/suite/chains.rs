//! Small programs, each for one corner of the language, stopped at every n-th poll and continued in fresh stores: what they say
//! and return must be what they say and return uninterrupted.

use freeze::{Entry, Exit, Options, Pages, Poll, Process, Program};
use std::collections::BTreeMap;
use wasmtime::{Caller, Config, Engine, Linker, Module, Store, Val};

pub const COUNTDOWN: Options = Options { poll: Poll::Countdown, entry: Entry::Every };

pub fn engine(target: Option<&str>) -> Engine {
    let mut config = Config::new();
    freeze::configure(&mut config).max_wasm_stack(8 << 20);
    config.async_stack_size(16 << 20);
    if let Some(target) = target {
        // Pulley has no shared memories, and thus no flag: only a countdown stops a program there.
        config.target(target).unwrap().wasm_threads(false);
    }
    Engine::new(&config).unwrap()
}

/// The engines that chains run on: native, and native beside Pulley.
pub struct Engines {
    native: [Engine; 1],
    both: [Engine; 2],
}

impl Engines {
    pub fn new() -> Engines {
        Engines { native: [engine(None)], both: [engine(None), engine(Some("pulley64"))] }
    }

    /// Ones that end a program that does not end by itself. Their code is not quite what runs elsewhere.
    pub fn watched() -> Engines {
        let watched = |target: Option<&str>| {
            let mut config = Config::new();
            freeze::configure(&mut config).consume_fuel(true);
            if let Some(target) = target {
                config.target(target).unwrap().wasm_threads(false);
            }
            Engine::new(&config).unwrap()
        };
        Engines { native: [watched(None)], both: [watched(None), watched(Some("pulley64"))] }
    }
}

fn new_store(engine: &Engine, said: Vec<i32>) -> Store<Vec<i32>> {
    let mut store = Store::new(engine, said);
    // Only engines that watch have fuel.
    let _ = store.set_fuel(20_000_000);
    store
}

pub fn program(engine: &Engine, wat: &str, options: &Options) -> Program {
    Program::new(engine, &wat::parse_str(wat).unwrap(), options).unwrap()
}

pub fn freeze_image(process: &Process, store: &mut Store<Vec<i32>>) -> Vec<u8> {
    process.capture(store, vec![], Pages::Included, BTreeMap::new()).unwrap()
}

/// What the program says through `host.say`, and what it returns.
#[derive(Debug, PartialEq, Clone)]
pub struct Outcome {
    said: Vec<i32>,
    result: Result<Vec<String>, String>,
}

pub fn linker(engine: &Engine) -> Linker<Vec<i32>> {
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

fn plain(engine: &Engine, wat: &str) -> Outcome {
    let module = Module::new(engine, wat::parse_str(wat).unwrap()).unwrap();
    let mut store = new_store(engine, vec![]);
    let instance = match linker(engine).instantiate(&mut store, &module) {
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
    let mut store = new_store(&engines[0], vec![]);
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
                assert!(hops < 3000, "the program makes no progress");
                let image = freeze_image(&process, &mut store);
                let next = hops % engines.len();
                store = new_store(&engines[next], store.into_data());
                process = programs[next].thaw(&mut store, &linker(&engines[next]), &image[..]).unwrap().process;
                // The first poll may be the one it stopped at.
                process.set_countdown(&mut store, every + 1).unwrap();
                exit = process.resume(&mut store, &mut results);
            }
        }
    }
}

/// Compares all ways of running a program. An error says which one differs.
pub fn check(engines: &Engines, wat: &str) -> Result<(), String> {
    let expected = plain(&engines.native[0], wat);
    // Some programs end in a trap, but none before it has said something.
    if expected.result.is_err() && expected.said.is_empty() {
        return Err(format!("the program itself is at fault: {expected:?}"));
    }
    let same = |found: Outcome, how: &str| {
        if found == expected { Ok(()) } else { Err(format!("{how}: {found:?} instead of {expected:?}")) }
    };
    let mut most = 0;
    for every in [1, 2, 3, 7, 50] {
        let (found, hops) = hopping(wat, every, &engines.native);
        same(found, &format!("stopped at every poll {every}"))?;
        most = most.max(hops);
    }
    if most == 0 {
        return Err("it never stopped".into());
    }
    same(hopping(wat, 5, &engines.both).0, "native, Pulley, native")
}

/// All programs, by name.
pub fn programs() -> Vec<(&'static str, String)> {
    let mut all: Vec<(&'static str, String)> = PROGRAMS.iter().map(|(name, wat)| (*name, wat.to_string())).collect();
    all.push(("large loops", large_loops()));
    all.push(("large loops in large loops", large_loops_in_large_loops()));
    all.push(("data segments that were overwritten by zeros", CLEARED.to_string()));
    all
}

/// Memory that is zero is not in an image, and a new instance has its data segments' content there.
const CLEARED: &str = r#"(module
  (import "host" "say" (func $say (param i32)))
  (memory 1)
  (memory $second 1)
  (global $place i32 (i32.const 4096))
  (data (i32.const 8) "\01\02\03\04")
  (data (i32.const 65532) "\05\06\07\08")
  (data (memory $second) (global.get $place) "\09\0a\0b\0c")
  (func (export "run") (result i32) (local $i i32)
    (i32.store (i32.const 8) (i32.const 0))
    (i32.store (i32.const 65532) (i32.const 0))
    (i32.store $second (i32.const 4096) (i32.const 0))
    (loop $again
      (call $say (i32.load (i32.const 8)))
      (call $say (i32.load (i32.const 65532)))
      (call $say (i32.load $second (i32.const 4096)))
      (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 5))))
    (local.get $i)))"#;

/// A loop of more code than fits a continuation is continued in its loop function; nested ones too.
fn large_loops() -> String {
    let filler: String = (0..1500)
        .map(|i| {
            format!("(local.set $a (i32.xor (i32.mul (local.get $a) (i32.const {})) (local.get $j)))\n", i * 2 + 3)
        })
        .collect();
    format!(
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
    )
}

/// Nothing but blocks and one another is around these three, so that the function can begin with each. Some values are live in
/// the inner ones alone, some in front of the outer ones alone, and one is another in each round.
fn large_loops_in_large_loops() -> String {
    let filler: String = (0..1500)
        .map(|i| {
            format!("(local.set $a (i32.xor (i32.mul (local.get $a) (i32.const {})) (local.get $j)))\n", i * 2 + 3)
        })
        .collect();
    format!(
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (func $id (param i32) (result i32) (loop) (local.get 0))
          (func (export "run") (result i32)
            (local $i i32) (local $j i32) (local $k i32) (local $a i32) (local $middle i64) (local $inner f64)
            (local $before i32)
            (local.set $before (call $id (i32.const 5)))
            (block $out
            (loop $first
              (local.set $j (call $id (i32.const 0)))
              (local.set $middle (i64.extend_i32_u (local.get $a)))
              (block $behind
              (loop $second
                (local.set $k (i32.const 0))
                (local.set $inner (f64.convert_i64_u (local.get $middle)))
                (loop $third
                  {filler}
                  (local.set $a (i32.add (local.get $a) (call $id (local.get $k))))
                  (br_if $behind (i32.eq (local.get $j) (local.get $before)))
                  (br_if $third (i32.lt_u (local.tee $k (i32.add (local.get $k) (i32.const 1))) (i32.const 2))))
                (call $say (i32.add (local.get $a) (i32.trunc_sat_f64_s (local.get $inner))))
                (br_if $second (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 1))) (i32.const 2)))))
              (call $say (i32.add (local.get $a) (i32.wrap_i64 (local.get $middle))))
              (br_if $out (i32.gt_u (local.get $i) (i32.const 2)))
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br $first)))
            (call $say (call $id (local.get $i)))
            (i32.add (local.get $a) (local.get $before))))"#
    )
}

const PROGRAMS: &[(&str, &str)] = &[
    (
        "loops and recursion",
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
    ),
    (
        "operand stack and blocks",
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
    ),
    (
        "tables segments and references",
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
    ),
    (
        "vectors floats and globals",
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
    ),
    (
        "exceptions",
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
    ),
    (
        "tail calls and elided frames",
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
    ),
    (
        "a start function is frozen too",
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (global $n (mut i32) (i32.const 0))
          (func $start (loop $l (global.set $n (i32.add (global.get $n) (i32.const 1)))
            (call $say (global.get $n)) (br_if $l (i32.lt_u (global.get $n) (i32.const 5)))))
          (start $start)
          (func (export "run") (result i32) (loop) (global.get $n)))"#,
    ),
    (
        "tables grown, filled, copied and initialised after a drop",
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (type $f (func (param i32) (result i32)))
          (table $a 3 40 funcref) (table $b 6 40 funcref)
          (elem $e func $one $two $three)
          (elem $late func $three $one)
          (func $one (type $f) (loop) (i32.const 1))
          (func $two (type $f) (loop) (i32.const 2))
          (func $three (type $f) (loop) (i32.const 3))
          (func $sum (result i32) (local $i i32) (local $s i32)
            (loop $l
              (if (i32.eqz (ref.is_null (table.get $b (local.get $i))))
                (then (local.set $s (i32.add (i32.mul (local.get $s) (i32.const 4))
                  (call_indirect $b (type $f) (i32.const 0) (local.get $i))))))
              (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (table.size $b))))
            (local.get $s))
          (func (export "run") (result i32)
            (table.init $a $e (i32.const 0) (i32.const 0) (i32.const 3)) (loop)
            (table.copy $b $a (i32.const 1) (i32.const 0) (i32.const 3)) (loop)
            (call $say (call $sum))
            (table.fill $b (i32.const 0) (ref.func $two) (i32.const 2)) (loop)
            (call $say (call $sum))
            (drop (table.grow $b (table.get $a (i32.const 2)) (i32.const 3))) (loop)
            (table.copy $b $b (i32.const 3) (i32.const 1) (i32.const 3)) (loop)
            (call $say (call $sum)) (call $say (table.size $b))
            (elem.drop $e) (loop)
            (table.init $b $late (i32.const 0) (i32.const 0) (i32.const 2)) (loop)
            (call $say (call $sum))
            (table.init $b $e (i32.const 0) (i32.const 0) (i32.const 0))
            (call $say (i32.const 99)) (loop)
            ;; the dropped segment has nothing left: this traps
            (table.init $b $e (i32.const 0) (i32.const 0) (i32.const 1))
            (call $sum)))"#,
    ),
    (
        "several memories, one of them of 64 bits",
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (memory $a 1 3) (memory $b i64 1 4) (memory $c 1)
          (data $d "0123456789") (data (memory $c) (i32.const 100) "xyz")
          (func (export "run") (result i64) (local $i i64)
            (loop $l
              (i64.store $b (i64.add (i64.const 65520) (i64.mul (local.get $i) (i64.const 8))) (local.get $i))
              (if (i64.eq (local.get $i) (i64.const 1)) (then (drop (memory.grow $b (i64.const 2)))))
              (memory.copy $a $c (i32.const 7) (i32.const 100) (i32.const 3))
              (br_if $l (i64.lt_u (local.tee $i (i64.add (local.get $i) (i64.const 1))) (i64.const 6))))
            (memory.init $c $d (i32.const 0) (i32.const 2) (i32.const 4)) (loop)
            (memory.fill $a (i32.const 9) (i32.const 65) (i32.const 2)) (loop)
            (call $say (i32.load $a (i32.const 7))) (call $say (i32.load $c (i32.const 0)))
            (call $say (i32.wrap_i64 (memory.size $b)))
            (memory.init $b $d (i64.const 200) (i32.const 0) (i32.const 8)) (loop)
            (data.drop $d) (loop)
            (i64.add (i64.load $b (i64.const 65560)) (i64.load $b (i64.const 200)))))"#,
    ),
    (
        "a table of 64 bits and references below calls",
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (type $f (func (param i32) (result i32)))
          (table $t i64 4 8 funcref)
          (elem declare func $inc $dbl)
          (func $inc (type $f) (loop) (i32.add (local.get 0) (i32.const 1)))
          (func $dbl (type $f) (loop) (i32.mul (local.get 0) (i32.const 2)))
          (func $pick (param i32) (result funcref) (loop)
            (if (result funcref) (local.get 0) (then (ref.func $inc)) (else (ref.func $dbl))))
          (func $put (param funcref funcref i32) (loop)
            (table.set $t (i64.const 0) (local.get 0)) (table.set $t (i64.const 1) (local.get 1))
            (call $say (call_indirect $t (type $f) (local.get 2) (i64.const 0)))
            (call $say (call_indirect $t (type $f) (local.get 2) (i64.const 1))))
          (func (export "run") (result i32) (local $a funcref) (local $b funcref) (local $i i32)
            (loop $l
              ;; the first reference waits below the second call, a null one in a local
              (call $put (call $pick (i32.and (local.get $i) (i32.const 1)))
                (call $pick (i32.const 1)) (local.get $i))
              (call $say (ref.is_null (local.get $b)))
              (local.set $a (call $pick (i32.and (local.get $i) (i32.const 1))))
              (loop)
              (call $put (local.get $a) (local.get $a) (i32.const 10))
              (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 5))))
            (drop (table.grow $t (local.get $a) (i64.const 3)))
            (loop) (call_indirect $t (type $f) (i32.const 7) (i64.const 6))))"#,
    ),
    (
        "setjmp and longjmp by exceptions",
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (tag $jump (param i32 i64 v128 f64))
          (func $deep (param $n i32)
            (if (i32.eqz (local.get $n))
              (then (throw $jump (i32.const 17) (i64.const -5) (v128.const i32x4 1 2 3 4) (f64.const 2.5))))
            (call $deep (i32.sub (local.get $n) (i32.const 1))))
          (func $set (param $n i32) (result i32) (local $kept exnref) (local $x i32)
            (local.set $x (i32.const 40))
            (block $over
              (block $caught (result exnref)
                (try_table (catch_all_ref $caught)
                  (local.set $x (i32.add (local.get $x) (local.get $n)))
                  (call $deep (local.get $n))
                  (br $over))
                (unreachable))
              (local.set $kept)
              (loop)
              (local.set $x (i32.add (local.get $x) (i32.const 100))))
            (block $again (result i32 i64 v128 f64)
              (try_table (catch $jump $again)
                (loop)
                (throw_ref (local.get $kept)))
              (unreachable))
            (loop (param i32 i64 v128 f64) (result i32 i64 v128 f64))
            (call $say (i32.trunc_f64_s)) (call $say (i32x4.extract_lane 2)) (call $say (i32.wrap_i64)) (call $say)
            (local.get $x))
          (func (export "run") (result i32) (local $i i32) (local $s i32)
            (loop $l
              (local.set $s (i32.add (local.get $s) (call $set (local.get $i))))
              (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4))))
            (local.get $s)))"#,
    ),
    (
        "many values of all kinds below a call",
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (func $id (param i32) (result i32) (loop) (local.get 0))
          (func $fold (param i32 i64 f32 f64 v128 i32 i64 f32 f64 v128) (result i32)
            (loop)
            (i32.add (i32.add (i32.add (local.get 0) (i32.wrap_i64 (local.get 1)))
                (i32.add (i32.trunc_f32_s (local.get 2)) (i32.trunc_f64_s (local.get 3))))
              (i32.add (i32.add (i32.mul (local.get 5) (i32.const 3)) (i32.mul (i32.wrap_i64 (local.get 6)) (i32.const 5)))
                (i32.add (i32.add (i32.trunc_f32_s (local.get 7)) (i32.trunc_f64_s (local.get 8)))
                  (i32.add (i32x4.extract_lane 3 (local.get 4)) (i32x4.extract_lane 1 (local.get 9)))))))
          (func (export "run") (result i32) (local $i i32) (local $s i32)
            (loop $l
              (call $fold
                (call $id (local.get $i)) (i64.extend_i32_u (call $id (i32.const 20))) (f32.convert_i32_s (call $id (i32.const 300)))
                (f64.convert_i32_s (call $id (i32.const 4000))) (i32x4.splat (call $id (i32.const 50000)))
                (call $id (i32.const 7)) (i64.extend_i32_u (call $id (local.get $i))) (f32.convert_i32_s (call $id (i32.const 11)))
                (f64.convert_i32_s (call $id (i32.const 13))) (i32x4.replace_lane 1 (i32x4.splat (i32.const 9)) (call $id (i32.const 17))))
              (local.set $s (i32.add (local.get $s)))
              (call $say (local.get $s))
              (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3))))
            (local.get $s)))"#,
    ),
    (
        "a copy of a local below a loop that changes the local",
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (func $id (param i32) (result i32) (loop) (local.get 0))
          (func (export "run") (result i32) (local $x i32) (local $i i32)
            (local.set $x (i32.const 5))
            (local.get $x) (i32.const 70) (local.get $x)
            (loop $l
              (local.set $x (i32.mul (local.get $x) (i32.const 3)))
              (call $say (call $id (local.get $x)))
              (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4))))
            (call $say) (call $say) (local.set $i)
            (i32.add (local.get $i) (local.get $x))))"#,
    ),
    (
        "loops in loops with ways out of the middle",
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (func $id (param i32) (result i32) (loop) (local.get 0))
          (func (export "run") (result i32) (local $i i32) (local $j i32) (local $k i32)
            (block $done
              (loop $a
                (local.set $j (i32.const 0))
                (block $next
                  (loop $b
                    (local.set $k (i32.const 0))
                    (loop $c
                      (call $say (i32.add (i32.mul (call $id (local.get $i)) (i32.const 100))
                        (i32.add (i32.mul (local.get $j) (i32.const 10)) (local.get $k))))
                      (br_if $b (i32.and (i32.eq (local.get $k) (i32.const 1))
                        (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 1))) (i32.const 3))))
                      (br_if $next (i32.gt_u (local.get $j) (i32.const 3)))
                      (br_if $done (i32.gt_u (local.get $i) (i32.const 2)))
                      (br_if $c (i32.lt_u (local.tee $k (i32.add (local.get $k) (i32.const 1))) (i32.const 3)))))
                  (local.set $j (i32.add (local.get $j) (i32.const 1)))
                  (br_if $a (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 5))))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br $a)))
            (i32.add (local.get $i) (local.get $j))))"#,
    ),
    (
        "a dropped data segment is still dropped",
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (memory 1) (data $d "abc") (data $kept "xyz")
          (func (export "run") (result i32)
            (data.drop $d) (loop)
            (memory.init $kept (i32.const 0) (i32.const 0) (i32.const 3))
            (call $say (i32.load (i32.const 0)))
            (memory.init $d (i32.const 0) (i32.const 0) (i32.const 1))
            (i32.const 5)))"#,
    ),
    (
        "calls through a table that changes while it is called",
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (type $f (func (param i32) (result i32)))
          (table $t 2 funcref) (elem (i32.const 0) $even $odd)
          (elem declare func $even $odd $stop)
          (func $stop (type $f) (loop) (i32.add (local.get 0) (i32.const 1000)))
          (func $even (type $f)
            (table.set $t (i32.const 1)
              (if (result funcref) (i32.gt_u (local.get 0) (i32.const 6)) (then (ref.func $stop)) (else (ref.func $odd))))
            (i32.add (i32.const 1) (call_indirect $t (type $f) (i32.add (local.get 0) (i32.const 1)) (i32.const 1))))
          (func $odd (type $f)
            (table.set $t (i32.const 0) (ref.func $even))
            (i32.add (i32.const 10) (call_indirect $t (type $f) (i32.add (local.get 0) (i32.const 1)) (i32.const 0))))
          (func (export "run") (result i32)
            (call $say (call_indirect $t (type $f) (i32.const 0) (i32.const 0)))
            (call_indirect $t (type $f) (i32.const 1) (i32.const 1))))"#,
    ),
    (
        "a dropped element segment is still dropped",
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (table $t 2 funcref) (elem $d func $f) (elem $kept func $f)
          (func $f (call $say (i32.const 1)))
          (func (export "run") (result i32)
            (elem.drop $d) (loop)
            (table.init $t $kept (i32.const 0) (i32.const 0) (i32.const 1))
            (call $say (ref.is_null (table.get $t (i32.const 0))))
            (table.init $t $d (i32.const 0) (i32.const 0) (i32.const 1))
            (i32.const 5)))"#,
    ),
    (
        "handlers that alone use a local, around a last call",
        r#"(module
          (import "host" "say" (func $say (param i32)))
          (tag $t)
          (func $throws (param i32) (result i32) (loop)
            (if (i32.and (local.get 0) (i32.const 1)) (then (throw $t)))
            (local.get 0))
          (func $guard (param i32) (result i32) (local $k i32)
            (local.set $k (i32.mul (local.get 0) (i32.const 100)))
            (block $h
              (try_table (result i32) (catch_all $h) (call $throws (local.get 0)))
              (return))
            (i32.add (local.get $k) (i32.const 7)))
          (func (export "run") (result i32) (local $i i32)
            (loop $l
              (call $say (call $guard (local.get $i)))
              (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 5))))
            (call $guard (i32.const 3))))"#,
    ),
];
