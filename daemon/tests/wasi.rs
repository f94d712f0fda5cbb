//! WASI preview 1 by its specification (programs/wasi), on a node, over its tree of files. `cli/tests/wasi.rs` does the same over a
//! directory of the host.

use daemon::node::{End, Node, NodeOptions, Order, Piece, ProcessLimits, Stdio};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);

fn compile(wasm: &Path) {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../programs");
    let sources = ["descriptors.c", "paths.c", "program.c"].map(|source| programs.join("wasi").join(source));
    let mut compile = Command::new(programs.join("compile"));
    let compile = compile.arg(programs.join("wasi/conformance.c")).arg(wasm).args(sources);
    let said = compile.output().expect("it is in the repository");
    assert!(said.status.success(), "`cargo xtask setup` installs compilers\n{}", String::from_utf8_lossy(&said.stderr));
}

/// What a case is given, and the code that it is to end with.
fn given(case: &str) -> (&'static [&'static str], &'static [(&'static str, &'static str)], u32) {
    let args: &[&str] = if case.contains("multiple-arguments") { &["first", "the \"second\" arg", "3"] } else { &[] };
    let env: &[(&str, &str)] = if case.contains("multiple-variables") {
        &[("a", "text"), ("b", "escap \" ing"), ("c", "new\nline")]
    } else {
        &[]
    };
    (args, env, if case == "proc_exit-failure" { 33 } else { 0 })
}

#[test]
fn every_case_holds_on_the_tree_of_files() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&NodeOptions {
        data: directory.path().join("data"),
        cache: None,
        workers: Some(2),
        target: engine::Target::Native,
        ..NodeOptions::default()
    })
    .unwrap();
    let wasm = directory.path().join("conformance.wasm");
    compile(&wasm);
    let program = node.load(std::fs::read(wasm).unwrap(), &mut |_| {}).unwrap();
    let run = |case: &str| {
        let (args, env, code) = given(case);
        let started = node
            .run(Order {
                program: program.clone(),
                name: case.into(),
                args: std::iter::once(case).chain(args.iter().copied()).map(String::from).collect(),
                env: env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
                mounts: vec![],
                limits: ProcessLimits::default(),
                stdio: Stdio::default(),
            })
            .unwrap();
        let end = node.wait(started.pid, SOON).unwrap();
        let (mut output, mut at) = (String::new(), 0);
        while let Piece::Bytes { bytes, next, .. } = started.console.read(at, 1 << 16, Duration::ZERO) {
            output.push_str(&String::from_utf8_lossy(&bytes));
            at = next;
        }
        if end == Some(End::Exited(code)) { Ok(output) } else { Err(format!("{case}: {end:?} {output}")) }
    };
    let list = run("list").unwrap();
    let cases: Vec<&str> = list.lines().collect();
    assert!(cases.len() > 70, "{cases:?}");
    let failed: Vec<String> = cases.iter().filter_map(|case| run(case).err()).collect();
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
    assert_eq!(run("fd_write-to-stdout").as_deref(), Ok("hello from wasi\n"));
}
