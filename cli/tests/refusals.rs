//! What cannot run, and what is said about it: the message and what to do, for every kind.

mod house;

use house::{House, programs};

/// All that is printed, as it is.
#[track_caller]
fn check(content: &[u8], status: i32, expected: &str) {
    let house = House::new();
    house.write("x.wasm", content);
    let done = house.done(&["run", "x.wasm"]);
    assert_eq!(done.err.trim_end(), expected.trim_matches('\n'));
    done.expect(status, "");
}

#[track_caller]
fn check_text(text: &str, expected: &str) {
    check(&wat::parse_str(text).unwrap(), 126, expected);
}

#[test]
fn files_that_are_not_programs() {
    check(
        b"",
        126,
        "
  × cannot run x.wasm
  ╰─▶ the file is empty
  help: get the file again; it may not have been copied to its end
",
    );
    check(
        b"\x7fELF\x02\x01\x01",
        126,
        "
  × cannot run x.wasm
  ╰─▶ not a WebAssembly program: the file looks like a Linux program (ELF)
  help: compile it for WebAssembly, for example: clang --target=wasm32-wasi
",
    );
    check(
        b"hello",
        126,
        "
  × cannot run x.wasm
  ╰─▶ not a WebAssembly program: it starts with [68, 65, 6c, 6c], WebAssembly with [00, 61, 73, 6d]
  help: una runs WebAssembly programs (.wasm) made for WASI preview 1
",
    );
    check(
        b"(module)",
        126,
        "
  × cannot run x.wasm
  ╰─▶ this is the text of a WebAssembly program, not a program
  help: make a program of it: wat2wasm x.wasm
",
    );
    check(
        b"\0asm\x0d\0\x01\0",
        126,
        "
  × cannot run x.wasm
  ╰─▶ a WebAssembly component, which needs WASI 0.2 or later; una runs core modules with WASI preview 1
  help: build a core module for wasm32-wasip1, or take the module out of it: wasm-tools component unbundle
",
    );
    check(
        b"\0asm\x07\0\0\0",
        126,
        "
  × cannot run x.wasm
  ╰─▶ WebAssembly of an unknown version (bytes 4 to 8 are [07, 00, 00, 00])
  help: make it with a compiler for WebAssembly 1.0 to 3.0
",
    );
    check(
        b"\x89unaimg\n",
        126,
        "
  × cannot run x.wasm
  ╰─▶ this is the image of a frozen process, not a program
  help: continue it: una thaw x.wasm
",
    );
}

#[test]
fn programs_that_are_not_whole() {
    let whole = wat::parse_str(programs::hello()).unwrap();
    let code = wasmparser_free_code_offset(&whole);
    check(
        &whole[..code + 20],
        126,
        &format!(
            "
  × cannot run x.wasm
  ╰─▶ the file is cut short: it ends at byte {}, in the middle of the code
  help: get the file again; it may not have been copied to its end
",
            code + 20
        ),
    );
    let mut broken = whole.clone();
    broken[code + 60] = 0xff;
    let house = House::new();
    house.write("x.wasm", &broken);
    house.done(&["run", "x.wasm"]).expect_error(126, &["not valid WebAssembly", "(at byte ", "wasm-tools validate"]);
}

/// Where the code section begins: its id, after the header and the sections before it.
fn wasmparser_free_code_offset(wasm: &[u8]) -> usize {
    let mut at = 8;
    loop {
        let (mut length, mut shift, mut next) = (0usize, 0, at + 1);
        loop {
            let byte = wasm[next];
            length |= ((byte & 0x7f) as usize) << shift;
            (shift, next) = (shift + 7, next + 1);
            if byte < 0x80 {
                break;
            }
        }
        if wasm[at] == 10 {
            return at;
        }
        at = next + length;
    }
}

#[test]
fn programs_for_other_hosts() {
    check_text(
        r#"(module (import "./x_bg.js" "__wbg_alert" (func)) (func (export "_start")))"#,
        "
  × cannot run x.wasm
  ╰─▶ the program needs a JavaScript host (wasm-bindgen): it imports `./x_bg.js __wbg_alert`
  help: build it for WASI instead of the web (wasm32-wasip1)
",
    );
    check_text(
        r#"(module (import "env" "emscripten_memcpy_js" (func)) (func (export "_start")))"#,
        "
  × cannot run x.wasm
  ╰─▶ the program needs a JavaScript host (Emscripten): it imports `env emscripten_memcpy_js`
  help: build it for WASI instead of the web (wasm32-wasip1)
",
    );
    check_text(
        r#"(module (import "wasi" "thread-spawn" (func (param i32) (result i32))) (func (export "_start")))"#,
        "
  × cannot run x.wasm
  ╰─▶ the program uses threads (import `wasi thread-spawn`), which una does not provide yet
  help: build it without threads (wasm32-wasip1, not wasm32-wasip1-threads)
",
    );
    check_text(
        r#"(module (memory 1 2 shared) (func (export "_start")))"#,
        "
  × cannot run x.wasm
  ╰─▶ the program uses threads (a shared memory), which una does not provide yet
  help: build it without threads (wasm32-wasip1, not wasm32-wasip1-threads)
",
    );
    check_text(
        r#"(module (import "host" "call" (func)) (func (export "_start")))"#,
        "
  × cannot run x.wasm
  ╰─▶ the program imports `host` `call` (a function), which una does not provide
  help: una provides WASI preview 1, module `wasi_snapshot_preview1`
",
    );
    check_text(
        r#"(module (import "wasi_unstable" "fd_write" (func)) (func (export "_start")))"#,
        "
  × cannot run x.wasm
  ╰─▶ the program was made for WASI preview 0 (`wasi_unstable`); una provides preview 1
  help: build it again with a compiler made after 2020
",
    );
    check_text(
        r#"(module (import "env" "memory" (memory 1)) (func (export "_start")))"#,
        "
  × cannot run x.wasm
  ╰─▶ the program expects its memory from its host (import `env memory`), which only a JavaScript page gives
  help: build it so that it exports a memory of its own: ld without --import-memory
",
    );
    // The right name with another type is found out when the program is put together.
    let house = House::new();
    house.program(
        "x.wasm",
        r#"(module (import "wasi_snapshot_preview1" "fd_close" (func (param i64))) (func (export "_start")))"#,
    );
    house.done(&["run", "x.wasm"]).expect_error(126, &["fd_close", "incompatible import type"]);
}

#[test]
fn programs_without_a_start() {
    check_text(
        r#"(module (func (export "add")) (func (export "sub")))"#,
        "
  × cannot run x.wasm
  ╰─▶ the program has no `_start` to run: it is a library that exports `add`, `sub`
  help: build it as a command, with a main function (for clang, without -mexec-model=reactor)
",
    );
    check_text(
        r#"(module (func (export "_initialize")))"#,
        "
  × cannot run x.wasm
  ╰─▶ a reactor: a library with `_initialize` that is called from outside; it has no `_start` to run
  help: build it as a command, with a main function (for clang, without -mexec-model=reactor)
",
    );
    check_text(
        r#"(module (func (export "_start") (param i32) (result i64) (i64.const 0)))"#,
        "
  × cannot run x.wasm
  ╰─▶ `_start` has the wrong type: (i32) -> (i64); a program's takes and returns nothing
  help: build it as a command, with a main function (for clang, without -mexec-model=reactor)
",
    );
}

#[test]
fn a_program_that_cannot_be_frozen_can_run() {
    let house = House::new();
    house.program(
        "x.wasm",
        r#"(module (func $keep (param externref) (result externref) (loop) (local.get 0))
          (func $main (export "_start") (drop (call $keep (ref.null extern)))))"#,
    );
    let refused = house.done(&["run", "x.wasm"]);
    refused.expect_error(126, &["cannot be frozen", "externref", "keep", "una run --unfreezable x.wasm"]);
    house.done(&["run", "--unfreezable", "x.wasm"]).expect(0, "");
}

#[test]
fn files_that_cannot_be_read() {
    let house = House::new();
    house
        .done(&["run", "absent.wasm"])
        .expect_error(127, &["cannot run absent.wasm", "No such file", "una run ./hello.wasm"]);
    house.write("directory/x", "");
    house.done(&["run", "directory"]).expect_error(126, &["cannot run directory", "name the .wasm file in it"]);
    if !house::is_root() {
        use std::os::unix::fs::PermissionsExt;
        let path = house.program("x.wasm", &programs::hello());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).unwrap();
        house.done(&["run", "x.wasm"]).expect_error(126, &["Permission denied", "chmod +r x.wasm"]);
    }
}
