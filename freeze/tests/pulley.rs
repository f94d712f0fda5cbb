//! Programs asked to stop from another thread, going to and fro between native code and Pulley, wasmtime's portable interpreter.

use freeze::{Exit, Options, Pages, Process, Program};
use std::collections::BTreeMap;
use wasmtime::{Caller, Config, Engine, Linker, Store};

/// Says numbers that depend on each other; `next` tells the test how far it is.
const PROGRAM: &str = r#"(module
  (import "host" "next" (func $next (param i64)))
  (memory 1)
  (data (i32.const 0) "set up")
  (table 1 funcref)
  (elem (i32.const 0) $mix)
  (func $mix (param $state i64) (result i64) (local $rounds i32)
    (local.set $rounds (i32.const 1000))
    (loop $again
      (local.set $state (i64.add (i64.mul (local.get $state) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
      (br_if $again (local.tee $rounds (i32.sub (local.get $rounds) (i32.const 1)))))
    (local.get $state))
  (func (export "run") (local $number i32) (local $state i64)
    (loop $again
      (local.set $state (call $mix (local.get $state)))
      (call $next (local.get $state))
      (br_if $again (i32.lt_u (local.tee $number (i32.add (local.get $number) (i32.const 1))) (i32.const 200))))))"#;

/// What the program said, and after how much of that somebody is to be told.
struct Host {
    said: Vec<i64>,
    stop_at: usize,
    stopper: Option<freeze::FreezeRequest>,
}

fn engines() -> [Engine; 2] {
    let mut native = Config::new();
    let mut pulley = Config::new();
    freeze::configure_pulley(&mut pulley).unwrap();
    [Engine::new(freeze::configure(&mut native)).unwrap(), Engine::new(&pulley).unwrap()]
}

fn linker(engine: &Engine) -> Linker<Host> {
    let mut linker = Linker::new(engine);
    let next = |mut caller: Caller<'_, Host>, state: i64| {
        let host = caller.data_mut();
        host.said.push(state);
        if host.said.len() == host.stop_at
            && let Some(stopper) = host.stopper.clone()
        {
            // From another thread, but so that this one has surely been asked before it goes on.
            std::thread::spawn(move || stopper.set()).join().unwrap();
        }
    };
    linker.func_wrap("host", "next", next).unwrap();
    linker
}

fn aim(process: &Process, store: &mut Store<Host>) {
    process.listen(store);
    store.data_mut().stopper = Some(process.freeze_request());
    let said = store.data().said.len();
    store.data_mut().stop_at = said + 7;
}

#[test]
fn asked_from_another_thread_on_both_engines_in_turn() {
    let engines = engines();
    let wasm = wat::parse_str(PROGRAM).unwrap();
    let programs = engines.each_ref().map(|engine| Program::new(engine, &wasm, &Options::for_engine(engine)).unwrap());
    let host = || Host { said: vec![], stop_at: 0, stopper: None };

    let mut store = Store::new(&engines[0], host());
    let mut process = programs[0].instantiate(&mut store, &linker(&engines[0])).unwrap();
    assert_eq!(process.call(&mut store, "run", &[], &mut []).unwrap(), Exit::Returned);
    let expected = store.into_data().said;
    assert_eq!(expected.len(), 200);

    let mut store = Store::new(&engines[1], host());
    let mut process = programs[1].instantiate(&mut store, &linker(&engines[1])).unwrap();
    aim(&process, &mut store);
    let mut exit = process.call(&mut store, "run", &[], &mut []).unwrap();
    let mut hops = 0;
    while exit == Exit::Frozen {
        hops += 1;
        let image = process.capture(&mut store, vec![], Pages::Included, BTreeMap::new()).unwrap();
        let next = hops % 2;
        store = Store::new(&engines[next], store.into_data());
        process = programs[next].thaw(&mut store, &linker(&engines[next]), &image[..]).unwrap().process;
        aim(&process, &mut store);
        exit = process.resume(&mut store, &mut []).unwrap();
    }
    assert_eq!(store.data().said, expected);
    assert!(hops >= 25, "{hops} stops");
}

#[test]
fn asked_before_it_runs_and_cleared() {
    for engine in engines() {
        let wasm = wat::parse_str(PROGRAM).unwrap();
        let program = Program::new(&engine, &wasm, &Options::for_engine(&engine)).unwrap();
        let mut store = Store::new(&engine, Host { said: vec![], stop_at: 0, stopper: None });
        let mut process = program.instantiate(&mut store, &linker(&engine)).unwrap();
        process.listen(&mut store);
        let request = process.freeze_request();
        request.set();
        assert!(request.is_set());
        assert_eq!(process.call(&mut store, "run", &[], &mut []).unwrap(), Exit::Frozen);
        assert_eq!(store.data().said.len(), 0);
        request.clear();
        assert!(!request.is_set());
        assert_eq!(process.resume(&mut store, &mut []).unwrap(), Exit::Returned);
        assert_eq!(store.data().said.len(), 200);
    }
}
