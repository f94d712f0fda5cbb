//! Programs that make the calls: signatures, exits, and being frozen inside of them.

use super::*;
use crate::{Engine, Options, Process, RunError, Stop, Target};

fn engine() -> Engine {
    Engine::new(&Options { target: Target::Native, canonical_nans: false, cache: None }).unwrap()
}

fn start(engine: &Engine, world: &World, text: &str) -> Process {
    let program = engine.load(wat::parse_str(text).unwrap(), &mut |_| {}).unwrap();
    engine.start(&program, "prog", world.setup()).unwrap()
}

/// Every function with the type that the specification gives it.
const IMPORTS: &str = r#"
    (import "wasi_snapshot_preview1" "args_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_sizes_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_res_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_time_get" (func (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_advise" (func (param i32 i64 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_allocate" (func (param i32 i64 i64) (result i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_datasync" (func (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_fdstat_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_fdstat_set_flags" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_fdstat_set_rights" (func (param i32 i64 i64) (result i32)))
    (import "wasi_snapshot_preview1" "fd_filestat_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func (param i32 i64) (result i32)))
    (import "wasi_snapshot_preview1" "fd_filestat_set_times" (func (param i32 i64 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_pread" (func (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_dir_name" (func (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_pwrite" (func (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_readdir" (func (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_renumber" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_seek" (func (param i32 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_sync" (func (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_tell" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_create_directory" (func (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_filestat_get" (func (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_filestat_set_times" (func (param i32 i32 i32 i32 i64 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_link" (func (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open" (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_readlink" (func (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_remove_directory" (func (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_rename" (func (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_symlink" (func (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_unlink_file" (func (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
    (import "wasi_snapshot_preview1" "proc_raise" (func (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
    (import "wasi_snapshot_preview1" "sock_accept" (func (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_recv" (func (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_send" (func (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_shutdown" (func (param i32 i32) (result i32)))
"#;

#[test]
fn every_function_has_the_type_of_the_specification() {
    assert_eq!(IMPORTS.matches("(import").count(), 46);
    let text = format!(r#"(module {IMPORTS} (memory (export "memory") 1) (func (export "_start")))"#);
    assert_eq!(start(&engine(), &World::new(), &text).run().unwrap(), Stop::Exited(0));
}

/// Programs of one function, which is given the calls it may need.
fn program(body: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "proc_raise" (func $raise (param i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start") (local $x i32) {body}))"#
    )
}

#[test]
fn an_exit_is_an_exit() {
    let engine = engine();
    let world = World::new();
    for (body, expected) in [
        ("(call $exit (i32.const 0)) unreachable", 0),
        ("(call $exit (i32.const 42)) unreachable", 42),
        ("(call $exit (i32.const -1)) unreachable", u32::MAX),
        ("(call $exit (call $raise (i32.const 0)))", 0),
        ("(call $exit (call $raise (i32.const 18)))", Errno::NotSup.raw().into()),
        ("(drop (call $raise (i32.const 6)))", 134),
        // No answer is more than 16 bits, and a bad address is an answer.
        (
            "(call $exit (call $write (i32.const 1) (i32.const -8) (i32.const 2) (i32.const 0)))",
            Errno::Fault.raw().into(),
        ),
    ] {
        assert_eq!(start(&engine, &world, &program(body)).run().unwrap(), Stop::Exited(expected), "{body}");
    }
    let trap = start(&engine, &world, &program("unreachable")).run();
    assert!(matches!(trap, Err(RunError::Trap { .. })), "{trap:?}");
}

#[test]
fn a_program_without_memory_can_still_exit() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
        (func (export "_start") (call $exit (call $sizes (i32.const 0) (i32.const 4)))))"#;
    let stop = start(&engine(), &World::new(), text).run().unwrap();
    assert_eq!(stop, Stop::Exited(Errno::Fault.raw().into()));
}

/// Copies input to output until it ends, and exits with the number of reads.
const COPY: &str = r#"
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 100))
    (loop $again
        (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)) (then unreachable))
        (if (i32.load (i32.const 16)) (then
            (i32.store (i32.const 8) (i32.const 64)) (i32.store (i32.const 12) (i32.load (i32.const 16)))
            (if (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 20)) (then unreachable))
            (if (i32.ne (i32.load (i32.const 16)) (i32.load (i32.const 20))) (then unreachable))
            (local.set $x (i32.add (local.get $x) (i32.const 1)))
            (br $again))))
    (call $exit (local.get $x))"#;

/// Runs to the end, through as many images as it is frozen, each continued by another process. Gives the exit code and the
/// number of images.
fn run_through_images(engine: &Engine, world: &World, text: &str) -> (u32, usize) {
    let mut process = start(engine, world, text);
    for images in 0.. {
        *world.script.stopper.lock().unwrap() = Some(process.stopper());
        if let Stop::Exited(code) = process.run().unwrap() {
            return (code, images);
        }
        let mut image = vec![];
        process.save(&mut image, false).unwrap();
        process = engine.thaw(process.program(), &image[..], world.resume()).unwrap();
    }
    unreachable!("it runs until it exits")
}

#[test]
fn a_program_that_waits_is_frozen_and_goes_on() {
    let engine = engine();
    let world = World::new();
    world.output.lock().unwrap().room = 5;
    world.then(&[
        Event::Interrupt,
        Event::Input(b"hello world"),
        // Six bytes too many are to be written.
        Event::Interrupt,
        Event::Room(2),
        Event::Interrupt,
        Event::Room(100),
        Event::Interrupt,
        Event::Interrupt,
        Event::Input(b", good bye"),
        Event::InputEnds,
    ]);
    assert_eq!(run_through_images(&engine, &world, &program(COPY)), (2, 5));
    assert_eq!(world.output(), b"hello world, good bye");
}

#[test]
fn a_sleeping_program_is_frozen_and_sleeps_only_the_rest() {
    let engine = engine();
    let world = World::new();
    // Sleeps for 1000 and exits with how long that was.
    let body = r#"
        (drop (call $time (i32.const 1) (i64.const 0) (i32.const 0)))
        (i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 1000))
        (if (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)) (then unreachable))
        (drop (call $time (i32.const 1) (i64.const 0) (i32.const 8)))
        (call $exit (i32.wrap_i64 (i64.sub (i64.load (i32.const 8)) (i64.load (i32.const 0)))))"#;
    world.then(&[Event::Time(300), Event::Interrupt, Event::Interrupt, Event::Time(500), Event::Interrupt]);
    assert_eq!(run_through_images(&engine, &world, &program(body)), (1000, 3));
    let timeouts: Vec<_> = world.waited().into_iter().map(|waited| waited.timeout_ns.unwrap()).collect();
    assert_eq!(timeouts, [1000, 700, 700, 700, 200, 200]);
}

/// The same over Pulley, and hopping between the two.
#[test]
fn a_program_hops_between_processors_while_it_waits() {
    let world = World::new();
    let pulley = Engine::new(&Options { target: Target::Pulley, canonical_nans: false, cache: None }).unwrap();
    let wasm = wat::parse_str(program(COPY)).unwrap();
    let engines = [engine(), pulley];
    let programs = engines.each_ref().map(|engine| engine.load(wasm.clone(), &mut |_| {}).unwrap());
    let mut process = engines[0].start(&programs[0], "prog", world.setup()).unwrap();
    world.then(&[Event::Interrupt, Event::Input(b"one "), Event::Interrupt, Event::Input(b"two "), Event::Interrupt]);
    for hop in 1.. {
        *world.script.stopper.lock().unwrap() = Some(process.stopper());
        if hop == 4 {
            world.then(&[Event::InputEnds]);
        }
        if let Stop::Exited(code) = process.run().unwrap() {
            assert_eq!((code, hop), (2, 4));
            break;
        }
        let mut image = vec![];
        process.save(&mut image, false).unwrap();
        process = engines[hop % 2].thaw(&programs[hop % 2], &image[..], world.resume()).unwrap();
    }
    assert_eq!(world.output(), b"one two ");
}
