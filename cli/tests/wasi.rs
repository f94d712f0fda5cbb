//! WASI preview 1 by its specification (programs/wasi), by `una run` in its own process, over a directory of the host.
//! `daemon/tests/wasi.rs` does the same over a node's tree of files.

use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn every_case_holds_on_a_host_directory() {
    let place = tempfile::tempdir().unwrap();
    let (root, starts) = (place.path().join("root"), place.path().join("starts"));
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(&starts).unwrap();
    let wasm = starts.join("list.wasm");
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../programs");
    let sources = ["descriptors.c", "paths.c", "program.c"].map(|source| programs.join("wasi").join(source));
    let mut compile = Command::new(programs.join("compile"));
    let compile = compile.arg(programs.join("wasi/conformance.c")).arg(&wasm).args(sources);
    let said = compile.output().expect("it is in the repository");
    assert!(said.status.success(), "`cargo xtask setup` installs compilers\n{}", String::from_utf8_lossy(&said.stderr));

    let run = |case: &str| {
        let mut una = Command::new(env!("CARGO_BIN_EXE_una"));
        una.env_clear().env("HOME", place.path()).env("XDG_RUNTIME_DIR", place.path());
        una.args(["run", "--mount"]).arg(format!("{}=/", root.display()));
        if case.contains("multiple-variables") {
            una.args(["--env", "a=text", "--env", "b=escap \" ing", "--env", "c=new\nline"]);
        }
        // A program's name is its file's.
        let start = starts.join(case).with_extension("wasm");
        if !start.exists() {
            std::fs::hard_link(&wasm, &start).unwrap();
        }
        una.arg(start);
        if case.contains("multiple-arguments") {
            una.args(["first", "the \"second\" arg", "3"]);
        }
        let output = una.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = if case == "proc_exit-failure" { 33 } else { 0 };
        match output.status.code() {
            Some(found) if found == code => Ok(said),
            _ => Err(format!("{case}: {} {said}{}", output.status, String::from_utf8_lossy(&output.stderr))),
        }
    };
    let list = run("list").unwrap();
    let cases: Vec<&str> = list.lines().collect();
    assert!(cases.len() > 70, "{cases:?}");
    let failed: Vec<String> = cases.iter().filter_map(|case| run(case).err()).collect();
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
    assert_eq!(run("fd_write-to-stdout").as_deref(), Ok("hello from wasi\n"));
    // What was made for a case is gone with it, but where the standard streams went.
    let left: Vec<_> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}
