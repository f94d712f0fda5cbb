//! The example that is told in the documents does what they say.

use std::path::Path;
use std::process::Command;

/// It counts in one process of the operating system, and goes on in another one.
#[test]
fn a_program_counts_on_in_another_process() {
    // Examples are built with the tests, into the directory beside theirs.
    let test = std::env::current_exe().expect("this test runs");
    let example = test.parent().and_then(Path::parent).expect("tests have a directory").join("examples/count");
    assert!(example.exists(), "{} is not there: cargo test --release -p freeze", example.display());
    let done = Command::new(example).output().expect("it was built");
    let out = String::from_utf8(done.stdout).expect("it prints text");
    assert!(done.status.success(), "{out}{}", String::from_utf8_lossy(&done.stderr));
    for said in ["starting the program", "frozen into", "going on", "the program has ended"] {
        assert!(out.contains(said), "no {said:?} in:\n{out}");
    }
    let counted = out.lines().filter_map(|line| line.trim().split_once(" counts "));
    let (mut processes, numbers): (Vec<&str>, Vec<u32>) =
        counted.map(|(process, number)| (process, number.parse::<u32>().expect("a number"))).unzip();
    processes.dedup();
    assert_eq!((processes.len(), numbers), (2, (1..=30).collect()), "{out}");
}
