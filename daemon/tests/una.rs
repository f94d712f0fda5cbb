//! What programs have of una beside WASI, by programs on a node: the import module `una` (all of `sdk/una.h` in C, all of `sdk/rust` in
//! Rust), and the system as files.

use daemon::node::{End, MountOrder, Node, NodeOptions, Order, Piece, ProcessLimits, Stdio};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);

/// What the tests share: programs that were compiled to WebAssembly, and the engine's cache of their code.
struct Compiled {
    directory: tempfile::TempDir,
    compiling: Mutex<()>,
}

fn compiled() -> &'static Compiled {
    static COMPILED: OnceLock<Compiled> = OnceLock::new();
    COMPILED.get_or_init(|| Compiled { directory: tempfile::tempdir().unwrap(), compiling: Mutex::new(()) })
}

impl Compiled {
    fn program(&self, source: &str) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let out = self.directory.path().join(source).with_extension("wasm");
        let _one_at_a_time = self.compiling.lock().unwrap();
        if !out.exists() {
            let mut compile = Command::new(root.join("../programs/compile"));
            let said = compile
                .arg(root.join("tests/guests").join(source))
                .arg(&out)
                .output()
                .expect("it is in the repository");
            assert!(
                said.status.success(),
                "`cargo xtask setup` installs compilers\n{}",
                String::from_utf8_lossy(&said.stderr)
            );
        }
        out
    }
}

#[track_caller]
fn check(source: &str, case: &str) {
    let program = Path::new(source).file_stem().unwrap().to_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&NodeOptions {
        data: directory.path().join("data"),
        cache: Some(compiled().directory.path().join("cache")),
        workers: Some(2),
        target: engine::Target::Native,
        ..NodeOptions::default()
    })
    .unwrap();
    let programs = directory.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    std::fs::write(programs.join("not.wasm"), "not a program").unwrap();
    let wasm = std::fs::read(compiled().program(source)).unwrap();
    std::fs::write(programs.join(program).with_extension("wasm"), &wasm).unwrap();
    let started = node
        .run(Order {
            program: node.load(wasm, &mut |_| {}).unwrap(),
            name: program.into(),
            args: vec![program.into(), case.into()],
            env: vec![],
            mounts: vec![MountOrder { host: programs, guest: "/programs".into(), read_only: true }],
            limits: ProcessLimits::default(),
            stdio: Stdio::default(),
        })
        .unwrap();
    let end = node.wait(started.pid, SOON).unwrap();
    let mut output = String::new();
    let mut at = 0;
    while let Piece::Bytes { bytes, next, .. } = started.console.read(at, 1 << 16, Duration::ZERO) {
        output.push_str(&String::from_utf8_lossy(&bytes));
        at = next;
    }
    assert_eq!(end, Some(End::Exited(0)), "{output}");
    node.shutdown().unwrap();
}

#[test]
fn calls_and_answers() {
    check("una.c", "calls");
}

#[test]
fn ports_badges_timers_and_rights() {
    check("una.c", "ports");
}

#[test]
fn pipes_between_processes() {
    check("una.c", "pipes");
}

#[test]
fn names_of_ports() {
    check("una.c", "names");
}

#[test]
fn processes_that_are_spawned_watched_and_ended() {
    check("una.c", "processes");
}

#[test]
fn processes_as_files() {
    check("files.c", "proc");
}

#[test]
fn ports_as_files() {
    check("files.c", "port");
}

#[test]
fn in_rust_calls_and_answers() {
    check("sdk.rs", "calls");
}

#[test]
fn in_rust_ports_badges_timers_and_rights() {
    check("sdk.rs", "ports");
}

#[test]
fn in_rust_pipes_between_processes() {
    check("sdk.rs", "pipes");
}

#[test]
fn in_rust_names_of_ports() {
    check("sdk.rs", "names");
}

#[test]
fn in_rust_processes_that_are_spawned_watched_and_ended() {
    check("sdk.rs", "processes");
}
