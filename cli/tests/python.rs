//! CPython, as others publish it, does on several nodes what programs do here: files, processes and messages without a binding, and it
//! moves, is forked, frozen and durable with nothing in its scripts that knows of it.
//!
//! One test, since each house compiles the interpreter once: `cargo xtask fetch python` brings it.

mod house;

use house::computer::Computer;
use house::until;
use std::path::{Path, PathBuf};

/// Where it is; none on a machine where nobody fetched it, unless that is a machine that must try everything.
fn python() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/programs/python.wasm");
    if path.exists() {
        return Some(path.canonicalize().unwrap());
    }
    assert!(std::env::var_os("CI").is_none(), "there is no {}: cargo xtask fetch python", path.display());
    eprintln!("not run: cargo xtask fetch python brings what this test runs");
    None
}

/// Files, its own status, a child that it begins on whichever node, and questions and answers between the two.
const FAMILY: &str = r#"
import os, time
os.makedirs("/data", exist_ok=True)
with open("/data/words", "w") as words:
    words.write("one\ntwo\n")
with open("/data/words", "a+") as words:
    words.write("three\n")
    words.seek(0)
    print(len(words.readlines()), "lines")
os.rename("/data/words", "/data/kept")
print(os.listdir("/data"), os.stat("/data/kept").st_size)
status = dict(line.rstrip("\n").split(": ", 1) for line in open("/proc/self/status"))
print(status["name"])
child = (
    'import os; jobs = os.open("/port/jobs", os.O_RDONLY); answers = os.open("/port/answers", os.O_WRONLY); '
    '[os.write(answers, str(sum(range(int(os.read(jobs, 100))))).encode()) for _ in range(3)]'
)
answers = os.open("/port/answers", os.O_RDONLY)
with open("/proc/new", "r+") as new:
    new.write(f"--spread\nself\n-c\n{child}\n")
    new.seek(0)
    pid = new.read().strip()
jobs = None
while jobs is None:
    try:
        jobs = os.open("/port/jobs", os.O_WRONLY)
    except FileNotFoundError:
        time.sleep(0.01)
print(pid in os.listdir("/proc"))
for number in (10, 1000, 100000):
    os.write(jobs, str(number).encode())
    print(os.read(answers, 100).decode())
"#;

/// So many lines, each of which depends on all before: words, floating point, a dictionary, hashes.
const COUNTING: &str = r#"
import hashlib, sys, time
state, seen = b"", {}
for number in range(int(sys.argv[1])):
    for _ in range(300):
        state = hashlib.sha256(state + str(number).encode()).digest()
        seen[state[0]] = seen.get(state[0], 1.0) * 1.01 + state[1]
    print(number, state.hex()[:16], "%.6f" % sum(seen.values()), flush=True)
    time.sleep(float(sys.argv[2]))
"#;

/// What took long is there already when it is forked; then each clone works at its part.
const WARM: &str = r#"
import json, os, time
table = json.loads(json.dumps({str(n): n * n for n in range(20000)}))
print("warm", flush=True)
while not os.path.exists("/go"):
    time.sleep(0.05)
number = int(open("/proc/self/fork").read())
print(number, sum(table[str(n)] for n in range(number, 20000, 9)))
"#;

#[test]
fn a_script_does_what_programs_do_here() {
    let Some(python) = python() else { return };
    let python = python.to_str().unwrap();
    let computer = Computer::of(3);
    let said = computer.on(0, &["run", "--name", "family", python, "-c", FAMILY]);
    said.expect(0, "3 lines\n['kept'] 14\nfamily\nTrue\n45\n499500\n4999950000\n");
    computer.on(2, &["cat", "/data/kept"]).expect(0, "one\ntwo\nthree\n");

    // Moved in the middle of it.
    let unmoved = computer.on(0, &["run", "--on", "a", python, "-c", COUNTING, "60", "0"]);
    assert_eq!((unmoved.status, unmoved.err.as_str()), (0, ""));
    let count = ["--name", "counting", "--on", "a", python, "-c", COUNTING, "60", "0.02"];
    let mut running = computer.nodes[0].start(&[&["run"], &count[..]].concat());
    let mut printed = running.line() + "\n";
    let pid = pid_of(&computer, "counting");
    for to in ["b", "c", "a", "b"] {
        computer.on(1, &["mv", &pid, to]).expect_out(0, &["runs on"]);
        printed += &(running.line() + "\n");
    }
    let end = running.end();
    assert_eq!((end.status, end.err.as_str()), (0, ""));
    assert_eq!(printed + &end.out, unmoved.out);

    // Eight warm workers out of one.
    let warm = computer.on(0, &["run", "-d", python, "-c", WARM]).out.trim().to_string();
    until("it to be warm", || (computer.on(0, &["logs", &warm]).out == "warm\n").then_some(()));
    let forked = computer.on(0, &["fork", "--json", "-n", "8", &warm]);
    assert_eq!((forked.status, forked.err.as_str()), (0, ""));
    let forked: serde_json::Value = serde_json::from_str(&forked.out).unwrap();
    let clones = forked["fork"]["clones"].as_array().unwrap();
    assert_eq!(clones.len(), 8, "{forked}");
    assert_eq!(computer.nodes[0].done_with(&["cp", "-", "una:/go"], "").status, 0);
    for number in 0..=8_u64 {
        let pid = match number {
            0 => warm.clone(),
            _ => text(&clones.iter().find(|clone| clone["number"] == number).expect("each has its number")["pid"]),
        };
        assert_eq!(computer.on(1, &["wait", &pid]).status, 0, "{pid}");
        let sum: u64 = (number..20000).step_by(9).map(|n| n * n).sum();
        let log = computer.on(1, &["logs", &pid]).out;
        assert_eq!(log.lines().last(), Some(format!("{number} {sum}").as_str()), "{log}");
    }

    // Frozen into a file, and thawed when the node has ended and begun again.
    let frozen = computer.on(0, &["run", "-d", "--on", "a", python, "-c", COUNTING, "60", "0.05"]).out;
    let frozen = frozen.trim().to_string();
    until("it to count", || (computer.on(0, &["logs", &frozen]).out.lines().count() > 5).then_some(()));
    computer.on(0, &["freeze", &frozen, "counting.image"]).expect_out(0, &["frozen", "una thaw"]);
    let before = computer.on(0, &["logs", &frozen]).out;
    computer.on(0, &["down"]).expect(0, "una is down\n");
    computer.up(0);
    let thawed = computer.on(0, &["thaw", "counting.image"]);
    assert_eq!((thawed.status, thawed.err.as_str()), (0, ""));
    assert_eq!(before + &thawed.out, unmoved.out);

    // Its node dies under it.
    let durable = ["run", "--name", "lasting", "--durable", "--every", "0.5", "--on", "b", python, "-c", COUNTING];
    let mut running = computer.nodes[0].start(&[&durable[..], &["60", "0.05"]].concat());
    let mut printed = String::new();
    for _ in 0..10 {
        printed += &(running.line() + "\n");
    }
    computer.kill(1);
    let end = running.end();
    assert_eq!((end.status, end.err.as_str()), (0, ""));
    assert_eq!(printed + &end.out, unmoved.out);
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

/// The number of the only process of this name.
fn pid_of(computer: &Computer, name: &str) -> String {
    until("the process to be listed", || {
        let listed: serde_json::Value = serde_json::from_str(&computer.on(0, &["ps", "--json"]).out).ok()?;
        let found = listed["processes"].as_array()?.iter().find(|process| process["name"] == name)?;
        Some(text(&found["pid"]))
    })
}
