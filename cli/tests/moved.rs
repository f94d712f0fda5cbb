//! Programs that look at themselves before and after they were moved: `programs/moved`, one kind of state in each case. Two real daemons.

mod house;

use house::computer::Computer;
use house::{Running, until};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A case that says nothing for longer has failed: no child waits for more than half of it.
const CASE_PATIENCE: Duration = Duration::from_secs(40);

/// The program of all cases, and their names.
fn compiled(house: &house::House) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../programs");
    let source = |name: &str| root.join("moved").join(name);
    let said = Command::new(root.join("compile"))
        .args([source("moved.c"), house.path("moved.wasm")])
        .args(["files.c", "memory.c", "time.c", "calls.c"].map(source))
        .output()
        .expect("it is in the repository");
    assert!(said.status.success(), "`cargo xtask setup` installs compilers\n{}", String::from_utf8_lossy(&said.stderr));
    let listed = house.done(&["run", "moved.wasm", "list"]);
    assert_eq!(listed.status, 0, "{}", listed.err);
    listed.out.lines().map(String::from).collect()
}

fn pid_of(computer: &Computer, name: &str) -> String {
    until("the process to be listed", || {
        let listed: Value = serde_json::from_str(&computer.on(0, &["ps", "--json"]).out).ok()?;
        let found = listed["processes"].as_array()?.iter().find(|process| process["name"] == name)?;
        Some(found["pid"].to_string().trim_matches('"').to_string())
    })
}

/// Runs one case, and moves it whenever it says that it is ready. Says what went wrong.
fn run(computer: &Computer, case: &str) -> Result<u32, String> {
    let name = format!("case-{case}");
    let arguments =
        ["run", "--on", "a", "--name", &name, "--env", "MOVED_GIVEN=given at the start", "moved.wasm", case];
    let mut running: Running = computer.nodes[0].start(&arguments);
    let mut pid: Option<String> = None;
    let mut moves = 0;
    let mut last = String::new();
    loop {
        let Some(line) = running.line_within(CASE_PATIENCE) else {
            if let Some(pid) = &pid {
                computer.on(0, &["kill", pid]);
            }
            return Err(format!("nothing came after {last:?} and {moves} moves"));
        };
        last = line.clone();
        match line.trim_start_matches("half of  a line") {
            line if line.ends_with("ready") => {
                let pid = pid.get_or_insert_with(|| pid_of(computer, &name));
                let to = if moves % 2 == 0 { "b" } else { "a" };
                let moved = computer.on(moves as usize % 2, &["move", pid, to]);
                if moved.status != 0 {
                    return Err(format!("move {moves}: {}", moved.err));
                }
                moves += 1;
                running.say("x");
            }
            line if line.ends_with("done") => break,
            line if line.is_empty() || line.ends_with(" a line") => {}
            line => return Err(line.into()),
        }
    }
    let end = running.end();
    match (end.status, moves) {
        (0, 1..) => Ok(moves),
        (0, 0) => Err("it was never moved".into()),
        (status, _) => Err(format!("it ended with {status}: {}{}", end.out, end.err)),
    }
}

#[test]
fn programs_find_all_as_it_was() {
    let computer = Computer::of(2);
    let cases = compiled(&computer.nodes[0]);
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    let mut failed = vec![];
    let mut moves = 0;
    for case in &cases {
        match run(&computer, case) {
            Ok(more) => moves += more,
            Err(why) => failed.push(format!("{case}: {why}")),
        }
    }
    println!("{} cases, {moves} moves", cases.len());
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
    let left: Value = serde_json::from_str(&computer.on(0, &["ps", "--json"]).out).unwrap();
    let running = left["processes"].as_array().unwrap().iter().filter(|process| process["kind"] == "program");
    assert_eq!(running.count(), 0, "{left}");
}
