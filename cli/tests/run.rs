//! `una run`: what a program is given, and what comes back of it.

mod house;

use house::{Done, House, code, programs};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

#[test]
fn the_exit_status_is_the_programs() {
    let house = House::new();
    house.program("hello.wasm", &programs::hello());
    house.done(&["run", "hello.wasm"]).expect(0, "hello\n");
    for status in [1, 7, 124, 255] {
        house.program("exit.wasm", &programs::exiting(status));
        house.done(&["run", "exit.wasm"]).expect(status as i32, "");
        house.done(&["run", "--unfreezable", "exit.wasm"]).expect(status as i32, "");
    }
    house.done(&["run", "--engine", "pulley", "hello.wasm"]).expect(0, "hello\n");
}

#[test]
fn arguments_and_environment() {
    let house = House::new();
    house.program("words.wasm", &programs::words());
    // What follows the program is the program's, even if it looks like una's.
    let done = house.done(&["run", "--env", "A=1", "--env", "B=x=y", "words.wasm", "--env", "C=2", "", "ä b"]);
    done.expect(0, "words.wasm\n--env\nC=2\n\nä b\nA=1\nB=x=y\n");
    let mut command = house.una(&["run", "--env", "FROM_OUTSIDE", "words.wasm"]);
    let output = command.env("FROM_OUTSIDE", "yes").env("NOT_HANDED_ON", "no").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "words.wasm\nFROM_OUTSIDE=yes\n");
    house.done(&["run", "--env", "ABSENT", "words.wasm"]).expect_error(125, &["ABSENT", "--env ABSENT=VALUE"]);
}

#[test]
fn what_is_not_utf_8_is_refused() {
    let house = House::new();
    house.program("words.wasm", &programs::words());
    let bad = OsStr::from_bytes(b"caf\xe9");
    let run = |command: &mut std::process::Command| Done::from(command.output().unwrap());
    // The program's own path may be any.
    std::fs::copy(house.path("words.wasm"), house.directory.path().join(bad)).unwrap();
    run(house.una(&["run"]).arg(bad)).expect(0, "caf\u{fffd}\n");
    let refused = [r#""caf\xE9" is not UTF-8"#, "take text only", "give it in UTF-8"];
    run(house.una(&["run", "words.wasm"]).arg(bad)).expect_error(125, &refused);
    run(house.una(&["run", "--env", "BAD", "words.wasm"]).env("BAD", bad)).expect_error(125, &refused);
    // Una's own words are text.
    run(house.una(&["run", "--env"]).arg(bad).arg("words.wasm")).expect_error(125, &["UTF-8"]);
    run(house.una(&["ls"]).arg(bad)).expect_error(2, &["UTF-8"]);
}

#[test]
fn streams_of_any_kind_pass_through() {
    let house = House::new();
    house.program("cat.wasm", &programs::cat());
    // More than pipes hold.
    let much: String = (0..60_000).map(|i| format!("{i}\n")).collect();
    house.done_with(&["run", "cat.wasm"], &much).expect(0, &much);
    house.done(&["run", "cat.wasm"]).expect(0, "");

    house.write("in", &much);
    let file = |name: &str| std::fs::File::create(house.path(name)).unwrap();
    let status = house
        .una(&["run", "cat.wasm"])
        .stdin(std::fs::File::open(house.path("in")).unwrap())
        .stdout(file("out"))
        .status();
    assert!(status.unwrap().success());
    assert_eq!(house.read("out"), much);
}

#[test]
fn a_line_comes_as_soon_as_it_is_written() {
    let house = House::new();
    house.program("cat.wasm", &programs::cat());
    let mut running = house.start(&["run", "cat.wasm"]);
    for line in ["one", "two"] {
        running.say(&format!("{line}\n"));
        running.expect_line(line);
    }
    running.end().expect(0, "");
}

#[test]
fn a_closed_output_is_an_error_to_the_program_alone() {
    let house = House::new();
    house.program("counting.wasm", &programs::counting(0, 1));
    let mut child = house.una(&["run", "counting.wasm"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 2]).unwrap();
    drop(stdout);
    // The program ends itself with 100 + EPIPE (64).
    assert_eq!(code(child.wait().unwrap()), 164);
}

#[test]
fn directories_with_rights_and_without_escape() {
    let house = House::new();
    house.write("d/in", "content");
    house.write("secret", "not yours");
    std::os::unix::fs::symlink("../secret", house.path("d/link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", house.path("d/absolute")).unwrap();
    house.program("print.wasm", &programs::printing("in"));
    house.done(&["run", "--mount", "d=/d", "print.wasm"]).expect(0, "content");
    house.done(&["run", "--mount", "d=/d:ro", "print.wasm"]).expect(0, "content");
    // Without a mount there is no descriptor 3: EBADF (8).
    house.done(&["run", "print.wasm"]).expect(108, "");

    const NOTCAPABLE: i32 = 176;
    for outside in ["../secret", "link", "absolute", "/etc/passwd", "x/../../secret"] {
        house.program("print.wasm", &programs::printing(outside));
        let done = house.done(&["run", "--mount", "d=/d", "print.wasm"]);
        assert_eq!(done.out, "");
        // The last goes through what is not there, which may be said first (ENOENT, 44).
        assert!(
            done.status == NOTCAPABLE || (outside.starts_with('x') && done.status == 144),
            "{outside}: {}",
            done.status
        );
    }

    house.program("create.wasm", &programs::creating("new"));
    const ROFS: i32 = 169;
    let refused = house.done(&["run", "--mount", "d=/d:ro", "create.wasm"]).status;
    assert!(refused == ROFS || refused == NOTCAPABLE, "{refused}");
    assert!(!house.path("d/new").exists());
    house.done(&["run", "--mount", "d=/d", "create.wasm"]).expect(0, "");
    assert!(house.path("d/new").exists());
}

#[test]
fn mounts_that_cannot_be() {
    let house = House::new();
    house.program("hello.wasm", &programs::hello());
    house.write("file", "");
    let run = |mount: &str| house.done(&["run", "--mount", mount, "hello.wasm"]);
    run("absent=/d").expect_error(125, &["cannot mount absent at /d", "help: make it: mkdir -p absent"]);
    run("file=/d").expect_error(125, &["cannot mount file at /d", "--mount .=/d"]);
    run("nothing").expect_error(125, &["expected HOST=/path", "--mount"]);
    run(".=/a/../b").expect_error(125, &["must be a plain one"]);
    house
        .done(&["run", "--mount", ".=/d", "--mount", "file=/d", "hello.wasm"])
        .expect_error(125, &["another directory is mounted there"]);
}

#[test]
fn a_trap_names_the_functions() {
    let house = House::new();
    house.program(
        "trap.wasm",
        r#"(module (func $deep unreachable) (func $middle (call $deep)) (func $start (export "_start") (call $middle)))"#,
    );
    for engine in ["native", "pulley"] {
        let done = house.done(&["run", "--engine", engine, "trap.wasm"]);
        done.expect_error(
            134,
            &["`unreachable` instruction executed", "in deep", "called from middle", "called from start"],
        );
    }
    house.program(
        "deep.wasm",
        r#"(module (func $f (param i32) (result i32) (i32.add (i32.const 1) (call $f (local.get 0))))
          (func (export "_start") (drop (call $f (i32.const 0)))))"#,
    );
    for engine in ["native", "pulley"] {
        house.done(&["run", "--engine", engine, "deep.wasm"]).expect_error(134, &["stack overflowed", "in f"]);
    }
    house.program("throw.wasm", r#"(module (tag $t) (func $f (export "_start") (throw $t)))"#);
    house.done(&["run", "throw.wasm"]).expect_error(134, &["exception"]);
}

/// Programs recurse deep: a hundred thousand frames are no reason to fail.
#[test]
fn recursion_is_deep() {
    let house = House::new();
    house.program(
        "deep.wasm",
        r#"(module (func $f (param i32) (result i32)
            (if (result i32) (local.get 0)
              (then (i32.add (i32.const 1) (call $f (i32.sub (local.get 0) (i32.const 1)))))
              (else (i32.const 0))))
          (func (export "_start") (if (i32.ne (call $f (i32.const 100000)) (i32.const 100000)) (then unreachable))))"#,
    );
    house.done(&["run", "deep.wasm"]).expect(0, "");
    house.done(&["run", "--engine", "pulley", "deep.wasm"]).expect(0, "");
}

#[test]
fn a_program_from_a_pipe() {
    let house = House::new();
    let wasm = std::fs::read(house.program("hello.wasm", &programs::hello())).unwrap();
    let mut child = house.una(&["run", "/dev/stdin"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&wasm).unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"hello\n");
}

#[test]
fn help_tells_the_exit_statuses() {
    let house = House::new();
    for words in [&["--help"][..], &["run", "--help"], &["thaw", "--help"]] {
        let done = house.done(words);
        assert_eq!(done.status, 0);
        for status in ["125", "126", "127", "134", "148"] {
            assert!(done.out.contains(status), "{words:?}");
        }
    }
    house.done(&["run"]).expect_error(125, &["PROG"]);
    house.done(&["frozen"]).expect_error(2, &["unrecognized subcommand"]);
}
