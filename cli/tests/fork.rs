//! Processes that are forked, by real daemons: on one node and on several, from outside and by themselves. What they are alike in and apart
//! in they look at themselves: `programs/forked`, one kind of state in each case.

mod house;

use house::computer::Computer;
use house::{Running, programs, until};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A case that says nothing for longer has failed: no clone is waited for longer than half of it.
const CASE_PATIENCE: Duration = Duration::from_secs(120);

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

fn processes(computer: &Computer, from: usize) -> Vec<Value> {
    let listed: Value = serde_json::from_str(&computer.on(from, &["ps", "--json"]).out).unwrap_or_default();
    listed["processes"].as_array().cloned().unwrap_or_default()
}

/// The number of the only process of this name.
fn pid_of(computer: &Computer, name: &str) -> String {
    until("the process to be listed", || {
        Some(text(&processes(computer, 0).into_iter().find(|process| process["name"] == name)?["pid"]))
    })
}

/// The clones of a fork: number, pid, node.
fn fork(computer: &Computer, from: usize, arguments: &[&str]) -> Vec<(u64, String, u64)> {
    let arguments: Vec<&str> = ["fork", "--json"].iter().chain(arguments).copied().collect();
    let done = computer.on(from, &arguments);
    assert_eq!((done.status, done.err.as_str()), (0, ""), "{arguments:?}");
    let forked: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(forked["schema"], "una.fork/1");
    assert_eq!(forked["fork"]["failed"].as_array().map(Vec::len), Some(0));
    let clone =
        |clone: &Value| (clone["number"].as_u64().unwrap(), text(&clone["pid"]), clone["node"].as_u64().unwrap());
    forked["fork"]["clones"].as_array().unwrap().iter().map(clone).collect()
}

/// A clone prints what the original prints, from where it began on: it may have begun within a line.
#[track_caller]
fn expect_rest(printed: &str, end: u32) {
    let lines: Vec<&str> = printed.lines().collect();
    let numbers: Vec<u32> = lines[1..].iter().map(|line| line.parse().unwrap_or_else(|_| panic!("{line:?}"))).collect();
    assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1), "{numbers:?}");
    assert_eq!(lines.last().map(|line| line.parse()), Some(Ok(end - 1)), "{lines:?}");
}

/// The program of all cases, and their names.
fn compiled(house: &house::House) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../programs");
    let said = Command::new(root.join("compile"))
        .args([root.join("forked/forked.c"), house.path("forked.wasm")])
        .args(["memory.c", "time.c"].map(|name| root.join("moved").join(name)))
        .output()
        .expect("it is in the repository");
    assert!(said.status.success(), "`cargo xtask setup` installs compilers\n{}", String::from_utf8_lossy(&said.stderr));
    let listed = house.done(&["run", "forked.wasm", "list"]);
    assert_eq!(listed.status, 0, "{}", listed.err);
    listed.out.lines().map(String::from).collect()
}

/// Runs one case, and forks it from outside whenever it says that it is ready. Says what went wrong.
fn run(computer: &Computer, case: &str) -> Result<(), String> {
    let name = format!("case-{case}");
    let given = "MOVED_GIVEN=given at the start";
    let mut running: Running =
        computer.nodes[0].start(&["run", "--on", "a", "--name", &name, "--env", given, "forked.wasm", case]);
    let mut last = String::new();
    loop {
        let Some(line) = running.line_within(CASE_PATIENCE) else {
            let _ = computer.on(0, &["kill", &pid_of(computer, &name)]);
            return Err(format!("nothing came after {last:?}"));
        };
        match line.as_str() {
            "ready" => {
                // Its clones have its name: it is the one that is none.
                let is_it = |one: &Value| one["name"] == name.as_str() && one["forked_from"].is_null();
                let found = until("the process to be listed", || processes(computer, 0).into_iter().find(is_it));
                let forked = computer.on(1 % computer.nodes.len(), &["fork", &text(&found["pid"]), "-n", "2"]);
                if forked.status != 0 {
                    return Err(format!("fork: {}", forked.err));
                }
            }
            "done" => break,
            "before" => {}
            line => return Err(line.into()),
        }
        last = line;
    }
    let end = running.end();
    match end.status {
        0 => Ok(()),
        status => Err(format!("it ended with {status}: {}{}", end.out, end.err)),
    }
}

fn all_cases(nodes: usize) {
    let computer = Computer::of(nodes);
    let cases = compiled(&computer.nodes[0]);
    assert!(cases.len() >= 30, "only {} cases", cases.len());
    let failed: Vec<String> =
        cases.iter().filter_map(|case| run(&computer, case).err().map(|why| format!("{case}: {why}"))).collect();
    println!("{} cases over {nodes} nodes", cases.len());
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
    let left: Vec<Value> = processes(&computer, 0).into_iter().filter(|one| one["kind"] == "program").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn programs_and_their_clones_on_one_node() {
    all_cases(1);
}

#[test]
fn programs_and_their_clones_on_three_nodes() {
    all_cases(3);
}

#[test]
fn clones_are_spread_and_go_on_where_the_process_was() {
    const END: u32 = 3000;
    let computer = Computer::of(3);
    computer.nodes[0].program("count.wasm", &programs::counting(END, 1_500_000));
    let running = computer.nodes[0].start(&["run", "--on", "a", "--name", "counter", "count.wasm"]);
    let pid = pid_of(&computer, "counter");
    // Asked for on a node that has nothing to do with it.
    let clones = fork(&computer, 2, &[&pid, "-n", "8"]);
    assert_eq!(clones.iter().map(|(number, ..)| *number).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    let on = |node: u64| clones.iter().filter(|(_, _, on)| *on == node).count();
    assert_eq!((on(1) + on(2) + on(3), on(2) > 0, on(3) > 0), (8, true, true), "{clones:?}");
    for (number, clone, node) in &clones {
        let why = computer.on(1, &["why", clone]);
        assert!(why.status == 0 && why.out.contains(["a", "b", "c"][*node as usize - 1]), "{}{}", why.out, why.err);
        let events = until("the event", || {
            let events = computer.on(1, &["events"]);
            events.out.contains(&format!("is clone {number} of")).then_some(events)
        });
        assert_eq!(events.status, 0);
        let listed = processes(&computer, 2).into_iter().find(|one| text(&one["pid"]) == *clone);
        // It may have come to its end.
        if let Some(listed) = listed {
            assert_eq!((text(&listed["forked_from"]), listed["node"].as_u64()), (pid.clone(), Some(*node)));
        }
    }
    let all = computer.on(0, &["fork", "-q", "-n", "2", "--on", "b", &pid]);
    assert_eq!((all.status, all.out.lines().count()), (0, 2), "{}{}", all.out, all.err);
    for (_, clone, _) in &clones {
        computer.on(0, &["wait", clone]).expect(0, "");
        expect_rest(&computer.on(1, &["logs", clone]).out, END);
    }
    let end = running.end();
    assert_eq!((end.status, end.err.as_str()), (0, ""));
    assert_eq!(end.out, (0..END).map(|number| format!("{number}\n")).collect::<String>());
}

#[test]
fn what_moved_is_forked_and_clones_move() {
    // Long enough that all is asked for before it ends, on a busy machine too: its own time passes as slowly then.
    const END: u32 = 3000;
    let computer = Computer::of(2);
    computer.nodes[0].program("count.wasm", &programs::counting(END, 3_000_000));
    let running = computer.nodes[0].start(&["run", "--on", "a", "--name", "counter", "count.wasm"]);
    let pid = pid_of(&computer, "counter");
    computer.on(0, &["move", &pid, "b"]).expect_out(0, &["runs on b"]);
    let first = fork(&computer, 0, &["--on", "a", &pid]);
    let (_, clone, node) = &first[0];
    assert_eq!(*node, 1);
    computer.on(1, &["move", clone, "b"]).expect_out(0, &["runs on b"]);
    // A clone of a clone that moved, beside the one that it is of.
    let second = fork(&computer, 0, &["--on", "b", clone]);
    computer.on(0, &["move", &pid, "a"]).expect_out(0, &["runs on a"]);
    computer.on(0, &["move", clone, "a"]).expect_out(0, &["runs on a"]);
    computer.on(0, &["checkpoint", &second[0].1]).expect_out(0, &["checkpoint"]);
    for (_, clone, _) in first.iter().chain(&second) {
        computer.on(0, &["wait", clone]).expect(0, "");
        expect_rest(&computer.on(1, &["logs", clone]).out, END);
    }
    let end = running.end();
    assert_eq!((end.status, end.err.as_str()), (0, ""));
    assert_eq!(end.out, (0..END).map(|number| format!("{number}\n")).collect::<String>());
}

/// Fills so many pages of 64 KiB, says so, and adds them up for ever.
fn adding_up(pages: u32) -> String {
    programs::program(&format!(
        r#"(data (i32.const 1024) "ready\n")
           (func (export "_start") (local $at i32) (local $sum i64)
             (drop (memory.grow (i32.const {pages})))
             (local.set $at (i32.const 131072))
             (loop $fill
               (i64.store (local.get $at) (i64.extend_i32_u (local.get $at)))
               (br_if $fill (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 4096))) (i32.const {end}))))
             (call $write (i32.const 1) (i32.const 1024) (i32.const 6))
             (loop $again
               (local.set $at (i32.const 131072))
               (local.set $sum (i64.const 0))
               (loop $add
                 (local.set $sum (i64.add (local.get $sum) (i64.load (local.get $at))))
                 (br_if $add (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 4096))) (i32.const {end}))))
               (call $number (i32.wrap_i64 (i64.rem_u (local.get $sum) (i64.const 1000000007))))
               (br $again)))"#,
        end = (pages - 1) * 65536
    ))
}

#[test]
fn a_clone_whose_memory_is_lost_with_its_node_ends_and_says_why() {
    const PAGES: u32 = 8000;
    let computer = Computer::of(2);
    computer.nodes[0].program("sum.wasm", &adding_up(PAGES));
    let mut running = computer.nodes[0].start(&["run", "--on", "a", "--name", "adder", "sum.wasm"]);
    running.expect_line("ready");
    let clones = fork(&computer, 1, &["--on", "b", &pid_of(&computer, "adder")]);
    computer.kill(0);
    let clone = &clones[0].1;
    let sum =
        (131072 / 4096..u64::from((PAGES - 1) * 65536) / 4096).map(|page| page * 4096).sum::<u64>() % 1_000_000_007;
    let logs = until("its end, or a sum over all of its memory", || {
        let logs = computer.on(1, &["logs", clone]);
        let ended = computer.living(1, clone).first().is_none_or(|one| one["state"] == "ended");
        (ended || logs.out.lines().count() > 3).then_some((ended, logs))
    });
    match logs {
        (true, _) => {
            computer.on(1, &["wait", clone]).expect_error(134, &["its memory was lost", "was on a, which is gone"])
        }
        // All of it came before: then it depends on nothing there.
        (false, logs) => {
            let wrong: Vec<&str> = logs.out.lines().skip(1).filter(|line| **line != sum.to_string()).collect();
            assert!(wrong.is_empty(), "{wrong:?} are not {sum}");
            computer.on(1, &["kill", clone]).expect(0, "");
        }
    }
}

#[test]
fn what_cannot_be_forked_is_refused_with_the_reason_and_runs_on() {
    let computer = Computer::of(2);
    computer.nodes[0].program("count.wasm", &programs::counting(100_000_000, 1000));
    computer.nodes[0].program("answer.wasm", &programs::answering("/port/answers"));
    let started = computer.on(0, &["run", "-d", "--on", "a", "count.wasm"]);
    let pid = started.out.trim().to_string();
    computer.on(0, &["fork", &pid, "--on", "nowhere"]).expect_error(1, &["no node `nowhere`", "una nodes"]);
    computer.on(0, &["fork", &pid, "-n", "0"]).expect_error(2, &["0", "1..=64"]);
    computer.on(0, &["fork", &pid, "-n", "65"]).expect_error(2, &["65", "1..=64"]);
    computer.on(0, &["fork", "1.99999"]).expect_error(1, &["no process 99999"]);

    let mounted = computer.on(0, &["run", "-d", "--mount", ".=/host", "count.wasm"]);
    let mounted = mounted.out.trim();
    computer.on(1, &["fork", mounted, "--on", "b"]).expect_error(1, &["of this machine", "leave out --on"]);
    let here = fork(&computer, 1, &[mounted, "-n", "2"]);
    assert!(here.iter().all(|(_, _, node)| *node == 1), "{here:?}");

    let holder = computer.on(0, &["run", "-d", "--on", "a", "answer.wasm"]);
    let holder = holder.out.trim();
    until("the port", || computer.living(0, holder).first().filter(|one| one["handles"] != 1).map(drop));
    computer.on(1, &["fork", holder]).expect_error(1, &["ports, pipes or processes"]);
    let durable = computer.on(0, &["run", "-d", "--durable", "--on", "a", "count.wasm"]);
    computer.on(1, &["fork", durable.out.trim()]).expect_error(1, &["is durable"]);
    for running in [pid.as_str(), mounted, holder, durable.out.trim()]
        .into_iter()
        .chain(here.iter().map(|(_, pid, _)| pid.as_str()))
    {
        assert_ne!(computer.living(0, running)[0]["state"], "ended");
        computer.on(0, &["kill", running]).expect(0, "");
    }
    computer.on(0, &["fork", &pid]).expect_error(1, &["has ended"]);
}
