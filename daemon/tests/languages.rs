//! Programs in Rust and Go on a node: their standard libraries over WASI, what they print, how they end, and that they can be frozen and go
//! on. Knows what they print when nothing comes between; `cli/tests/chains.rs` freezes them at random times.

use daemon::node::{
    Afterwards, Console, End, Freeze, Node, NodeOptions, Order, Pid, Piece, ProcessLimits, State, Stdio, ThawOrder,
};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(120);

struct House {
    node: Node,
    directory: tempfile::TempDir,
    compiling: Mutex<()>,
}

/// One for all tests, so that each program is compiled once.
fn house() -> &'static House {
    static HOUSE: OnceLock<House> = OnceLock::new();
    HOUSE.get_or_init(new_house)
}

fn new_house() -> House {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&NodeOptions {
        data: directory.path().join("data"),
        cache: Some(directory.path().join("cache")),
        workers: Some(2),
        target: engine::Target::Native,
        ..NodeOptions::default()
    })
    .unwrap();
    House { node, directory, compiling: Mutex::new(()) }
}

impl House {
    fn order(&self, source: &str, args: &[&str]) -> Order {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../programs");
        let wasm = self.directory.path().join(source).with_extension("wasm");
        let _one_at_a_time = self.compiling.lock().unwrap();
        if !wasm.exists() {
            let mut compile = Command::new(root.join("compile"));
            let said =
                compile.arg(root.join("tests").join(source)).arg(&wasm).output().expect("it is in the repository");
            assert!(
                said.status.success(),
                "`cargo xtask setup` installs compilers\n{}",
                String::from_utf8_lossy(&said.stderr)
            );
        }
        Order {
            program: self.node.load(std::fs::read(wasm).unwrap(), &mut |_| {}).unwrap(),
            name: source.into(),
            args: std::iter::once(source).chain(args.iter().copied()).map(String::from).collect(),
            env: vec![("A".into(), "b".into())],
            mounts: vec![],
            limits: ProcessLimits::default(),
            stdio: Stdio { input: true, ..Stdio::default() },
        }
    }

    #[track_caller]
    fn run(&self, order: Order, input: &str) -> (End, String) {
        let started = self.node.run(order).unwrap();
        let mut rest = input.as_bytes();
        while !rest.is_empty() {
            match started.console.write(rest, SOON) {
                0 => break,
                written => rest = &rest[written..],
            }
        }
        started.console.close_input();
        let end = self.node.wait(started.pid, SOON).unwrap().expect("it ends");
        (end, all(&started.console))
    }

    #[track_caller]
    fn until_it_waits(&self, pid: Pid) {
        let late = Instant::now() + SOON;
        while !matches!(self.node.process(pid).unwrap().state, State::Waiting(_)) {
            assert!(Instant::now() < late, "it does not come to its input");
            std::thread::yield_now();
        }
    }
}

fn all(console: &Console) -> String {
    let (mut output, mut at) = (String::new(), 0);
    while let Piece::Bytes { bytes, next, .. } = console.read(at, 1 << 20, Duration::ZERO) {
        output.push_str(&String::from_utf8_lossy(&bytes));
        at = next;
    }
    output
}

fn lines(count: usize) -> String {
    (1..=count).map(|number| format!("line {number} {}\n", "lorem ".repeat(number % 7))).collect()
}

#[test]
fn rust_has_its_collections() {
    let house = house();
    let (end, output) = house.run(house.order("collections.rs", &[]), "");
    assert_eq!(end, End::Exited(0), "{output}");
    // The console keeps the newest of it.
    assert!(output.ends_with("(1323, 64394)\n"), "{output}");
    assert!(output.contains("\n399: -8360173283514780030 ") && output.contains("ESSARTS"), "{output}");
}

#[test]
fn rust_has_lines_files_and_an_environment() {
    let house = house();
    let (end, output) = house.run(house.order("notes.rs", &["/lines"]), &lines(120));
    assert_eq!(end, End::Exited(0), "{output}");
    assert!(output.contains(r#"environment: {"A": "b"}"#), "{output}");
    assert!(output.contains("\n120: ") && output.ends_with("copy 100\n"), "{output}");
}

#[test]
fn rust_ends_with_its_code_or_its_panic() {
    let house = house();
    assert_eq!(house.run(house.order("notes.rs", &["exit"]), ""), (End::Exited(41), String::new()));
    let (end, output) = house.run(house.order("notes.rs", &["panic"]), "");
    assert!(matches!(end, End::Failed { ref reason, .. } if reason.contains("unreachable")), "{end:?}");
    assert!(output.contains("there are no ninety-nine arguments") && output.contains("notes.rs"), "{output}");
}

#[test]
fn go_has_goroutines_and_timers() {
    let house = house();
    let (end, output) = house.run(house.order("channels.go", &[]), "");
    assert_eq!(end, End::Exited(0), "{output}");
    assert_eq!(output.matches("woken [1 2 3 4] true true").count(), 12, "{output}");
    assert!(output.contains("depth 8: 21: too deep true"), "{output}");
}

#[test]
fn go_has_lines_files_and_an_environment() {
    let house = house();
    let (end, output) = house.run(house.order("letters.go", &["/lines"]), &lines(120));
    assert_eq!(end, End::Exited(0), "{output}");
    assert!(output.contains("environment: A=b\n"), "{output}");
    assert!(
        output.contains("\n120 letters, ") && output.contains("/sent/120 false") && output.ends_with("100 true\n"),
        "{output}"
    );
}

#[test]
fn go_ends_with_its_code_or_its_panic() {
    let house = house();
    assert_eq!(house.run(house.order("letters.go", &["exit"]), ""), (End::Exited(41), String::new()));
    let (end, output) = house.run(house.order("letters.go", &["panic"]), "");
    assert_eq!(end, End::Exited(2), "{output}");
    assert!(output.contains("index out of range [2] with length 0") && output.contains("letters.go"), "{output}");
}

/// In the middle of its input, with a file open, into an image, and from there on.
#[test]
fn both_are_frozen_between_two_lines() {
    for source in ["notes.rs", "letters.go"] {
        let house = house();
        let expected = house.run(house.order(source, &["/first"]), &lines(60)).1;
        let again = house.order(source, &[]);
        let started =
            house.node.run(Order { args: vec![source.into(), "/second".into()], ..house.order(source, &[]) }).unwrap();
        let input = lines(60);
        let (first, second) = input.split_at(input.len() / 2);
        assert_eq!(started.console.write(first.as_bytes(), SOON), first.len());
        house.until_it_waits(started.pid);
        let mut image = vec![];
        house
            .node
            .freeze(started.pid, Freeze { with_program: false, afterwards: Afterwards::End }, &mut image)
            .unwrap();
        let before = all(&started.console);
        let order = ThawOrder {
            program: again.program,
            name: "again".into(),
            mounts: vec![],
            limits: ProcessLimits::default(),
            stdio: Stdio { input: true, ..Stdio::default() },
        };
        let thawed = house.node.thaw(engine::Image::open(&image[..]).unwrap(), order).unwrap();
        thawed.console.write(second.as_bytes(), SOON);
        thawed.console.close_input();
        assert_eq!(house.node.wait(thawed.pid, SOON), Ok(Some(End::Exited(0))));
        assert!(!before.is_empty());
        assert_eq!(before + &all(&thawed.console), expected, "{source}");
    }
}
