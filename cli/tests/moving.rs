//! Processes that move between nodes while they run, by real daemons: whoever waits for one, reads what it prints or writes to it must not
//! notice.

mod house;

use house::computer::Computer;
use house::{Running, Terminal, programs, until};
use serde_json::Value;

fn ps(computer: &Computer, from: usize, pid: &str) -> Value {
    let listed: Value = serde_json::from_str(&computer.on(from, &["ps", "--json"]).out).unwrap();
    let shown = |process: &&Value| process["pid"].to_string().trim_matches('"') == pid;
    listed["processes"].as_array().unwrap().iter().find(shown).cloned().unwrap_or_default()
}

fn node_of(computer: &Computer, from: usize, pid: &str) -> u64 {
    ps(computer, from, pid)["node"].as_u64().unwrap_or(0)
}

/// The number of the process of this name.
fn pid_of(computer: &Computer, name: &str) -> String {
    until("the process to be listed", || {
        let listed: Value = serde_json::from_str(&computer.on(0, &["ps", "--json"]).out).ok()?;
        let found = listed["processes"].as_array()?.iter().find(|process| process["name"] == name)?;
        Some(found["pid"].to_string().trim_matches('"').to_string())
    })
}

fn numbers(from: &str) -> Vec<u32> {
    from.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{line:?} is no number"))).collect()
}

#[test]
fn a_process_that_moves_again_and_again_prints_what_it_would_have_printed() {
    let computer = Computer::of(3);
    for node in &computer.nodes {
        node.program("count.wasm", &programs::counting(3000, 200_000));
    }
    // Its terminal is on the first node, whose command reads all that it prints.
    let running = computer.nodes[0].start(&["run", "--on", "a", "--name", "counter", "count.wasm"]);
    let pid = pid_of(&computer, "counter");
    let mut moves = 0;
    for to in ["b", "c", "a", "c", "b", "a", "b", "a", "c"] {
        let from = computer.nodes.len().min(moves % 3);
        let moved = computer.on(from, &["mv", &pid, to]);
        if moved.status != 0 {
            // It may have come to its end.
            assert!(moved.err.contains("has ended") || moved.err.contains("no process"), "{}", moved.err);
            break;
        }
        assert!(moved.out.contains(&format!("process {pid} runs on {to}: it stood still for")), "{}", moved.out);
        let number = u64::from(to.as_bytes()[0] - b'a') + 1;
        assert_eq!(node_of(&computer, 1, &pid), number);
        moves += 1;
    }
    assert!(moves >= 3, "it ended after {moves} moves: the test shows nothing");
    let end = running.end();
    assert_eq!((end.status, end.err.as_str()), (0, ""));
    assert_eq!(numbers(&end.out), (0..3000).collect::<Vec<u32>>());
}

/// Whoever is asked says what it was moved for last, also when the node where it began is gone.
#[test]
fn the_reason_for_its_place_goes_along_with_a_process() {
    let computer = Computer::of(3);
    for node in &computer.nodes {
        node.program("rests.wasm", &programs::resting(5));
    }
    let pid = computer.run(0, "a", &["-d", "rests.wasm"]).out.trim().to_string();
    let why = |from: usize| -> Value {
        serde_json::from_str(&computer.on(from, &["why", "--json", &pid]).out).unwrap_or_default()
    };
    let is = |why: &Value, chosen: u64, occasion: &str, from: u64| {
        why["chosen"] == chosen && why["occasion"]["is"] == occasion && why["occasion"]["from"] == from
    };
    assert_eq!(why(1)["occasion"]["is"], "begun");
    computer.on(0, &["mv", &pid, "b"]).expect_out(0, &["runs on b"]);
    for from in 0..3 {
        let why = why(from);
        assert!(is(&why, 2, "moved", 1), "{why}");
    }
    let told = format!("process {pid}: on b, since somebody moved it there from a");
    computer.on(2, &["why", &pid]).expect_out(0, &[&told, "was named by who moved it"]);
    computer.on(0, &["drain", "b"]).expect_out(0, &["b is empty"]);
    let home = node_of(&computer, 0, &pid);
    let drained = why(2);
    assert!(home != 2 && is(&drained, home, "drained", 2), "{drained}");
    computer.on(2, &["why", &pid]).expect_out(0, &["since b was emptied", "is being emptied", "a processor with it"]);
    computer.on(0, &["drain", "--undo", "b"]).expect(0, "");
    until("the node to take processes", || (computer.on(0, &["mv", &pid, "b"]).status == 0).then_some(()));
    computer.kill(0);
    until("the reason without the node where it began", || is(&why(2), 2, "moved", home).then_some(()));
    computer.on(1, &["kill", &pid]).expect(0, "");
}

/// A process comes back to a node that it had left for the one from which it comes: until others are told that it is there, each of the two
/// nodes knows only that it went to the other one.
#[test]
fn a_process_that_has_just_come_is_found_before_others_are_told_that_it_is_there() {
    let computer = Computer::of(3);
    computer.kill(1);
    let steps = computer.up_with_steps(1);
    until("all nodes to hear it", || (0..3).all(|node| computer.is_heard(node, 3)).then_some(()));
    for node in &computer.nodes {
        node.program("count.wasm", &programs::counting(100_000_000, 10));
    }
    let started = computer.on(0, &["run", "-d", "--on", "a", "count.wasm"]);
    let pid = started.out.trim().to_string();
    for to in ["b", "c"] {
        computer.on(0, &["mv", &pid, to]).expect_out(0, &["runs on"]);
    }
    std::fs::write(steps.join("arriving-runs"), []).unwrap();
    let moving = computer.nodes[0].start(&["mv", &pid, "b"]);
    let reached = steps.join("arriving-runs.reached");
    until("it to run there, and nobody to be told", || reached.exists().then_some(()));
    for from in 0..3 {
        computer.on(from, &["stop", &pid]).expect(0, "");
        computer.on(from, &["cont", &pid]).expect(0, "");
    }
    std::fs::remove_file(reached).unwrap();
    let moved = moving.end();
    assert_eq!(moved.status, 0, "{}", moved.err);
    computer.on(0, &["kill", &pid]).expect(0, "");
}

/// A node sleeps for longer than a link lives, and one dies under a durable process: whoever reads what they print on another node misses
/// nothing, and reads nothing twice.
#[test]
fn who_reads_what_a_process_prints_goes_on_when_the_way_to_it_breaks() {
    let computer = Computer::of(3);
    for node in &computer.nodes {
        node.program("count.wasm", &programs::counting(4000, 1_000_000));
    }
    let count = ["--name", "count", "--on", "b", "count.wasm"];
    let mut running = computer.nodes[0].start(&[&["run"], &count[..]].concat());
    running.expect_line("0");
    let links = |of: usize| computer.status(of)["nodes"][1]["round_trip_us"].is_number();
    computer.stop(1);
    until("the link to break", || (!links(0)).then_some(()));
    computer.cont(1);
    let end = running.end();
    assert_eq!((end.status, end.err.as_str()), (0, ""));
    assert_eq!(numbers(&end.out), (1..4000).collect::<Vec<u32>>());

    let mut running = computer.nodes[0].start(&[&["run", "--durable", "--every", "0.3"], &count[..]].concat());
    let mut printed: Vec<u32> = (0..100).map(|_| running.line().parse().unwrap()).collect();
    computer.kill(1);
    let end = running.end();
    assert_eq!((end.status, end.err.as_str()), (0, ""));
    printed.extend(numbers(&end.out));
    assert_eq!(printed, (0..4000).collect::<Vec<u32>>());
}

#[test]
fn input_waits_and_ends_follow_a_process() {
    let computer = Computer::of(2);
    for node in &computer.nodes {
        node.program("cat.wasm", &programs::cat());
        node.program("exit7.wasm", &programs::counting(100_000_000, 10));
    }
    // A command on the other node writes to it and reads from it.
    let mut running: Running = computer.nodes[1].start(&["run", "--on", "a", "--name", "echo", "cat.wasm"]);
    let pid = pid_of(&computer, "echo");
    let waiting = computer.nodes[0].start(&["wait", &pid]);
    for (round, to) in ["b", "a", "b", "a"].iter().enumerate() {
        running.say(&format!("before {round}\n"));
        running.expect_line(&format!("before {round}"));
        computer.on(round % 2, &["move", &pid, to]).expect_out(0, &["runs on"]);
        running.say(&format!("after {round}\n"));
        running.expect_line(&format!("after {round}"));
    }
    let end = running.end();
    assert_eq!((end.status, end.err.as_str()), (0, ""));
    assert_eq!(waiting.end().status, 0);

    // One that is stopped arrives stopped, and can be killed from anywhere.
    let started = computer.on(0, &["run", "-d", "--on", "a", "exit7.wasm"]);
    let pid = started.out.trim().to_string();
    computer.on(1, &["stop", &pid]).expect(0, "");
    let waiting = computer.nodes[1].start(&["wait", &pid]);
    computer.on(1, &["move", &pid, "b"]).expect_out(0, &["runs on b"]);
    assert_eq!((node_of(&computer, 0, &pid), &ps(&computer, 0, &pid)["state"]), (2, &"stopped".into()));
    computer.on(0, &["cont", &pid]).expect(0, "");
    computer.on(0, &["kill", &pid]).expect(0, "");
    assert_eq!(waiting.end().status, 137);
}

/// Whoever sits at a process of another node sits at it wherever it goes.
#[test]
fn a_terminal_follows_a_process() {
    let computer = Computer::of(2);
    computer.nodes[0].program("cat.wasm", &programs::cat());
    let mut terminal = Terminal::start(computer.nodes[0].una(&["run", "--on", "b", "--name", "echo", "cat.wasm"]));
    let pid = pid_of(&computer, "echo");
    for (round, to) in ["a", "b", "a", "b"].iter().enumerate() {
        terminal.type_in(&format!("before {round}\n"));
        // Once as an echo, once from the program.
        terminal.see(&format!("before {round}\r\nbefore {round}\r\n"));
        computer.on(round % 2, &["mv", &pid, to]).expect_out(0, &["runs on"]);
        terminal.type_in(&format!("after {round}\n"));
        terminal.see(&format!("after {round}\r\nafter {round}\r\n"));
    }
    terminal.type_in("\x03");
    assert_eq!(terminal.end(), 130);
    assert_eq!(computer.on(0, &["wait", &pid]).status, 137);
}

#[test]
fn limits_go_along() {
    let computer = Computer::of(2);
    computer.nodes[0].program("greedy.wasm", &programs::greedy());
    let limits = ["--output", "1K", "--handles", "12", "--mailbox", "64K"];
    let run = [&["run", "--on", "a", "--name", "greedy"], &limits[..], &["greedy.wasm"]].concat();
    let mut running = computer.nodes[0].start(&run);
    let pid = pid_of(&computer, "greedy");
    computer.on(0, &["move", &pid, "b"]).expect_out(0, &["runs on b"]);
    running.say("x\n");
    let end = running.end();
    assert_eq!((end.status, end.out.len()), (19, 1024), "{:.40}{}", end.out, end.err);
    assert!(end.out.starts_with("5\n33\n4\n14\n"), "{:.40}", end.out);
}

/// What they print is one log, in which nothing is lost or doubled: each waits, when it writes, until it is where its parent is.
#[test]
fn children_go_where_their_parent_goes_and_write_where_it_writes() {
    const CHILD: u32 = 1_000_000;
    let computer = Computer::of(3);
    for node in &computer.nodes {
        node.program("family.wasm", &programs::family());
    }
    let mut running = computer.nodes[0].start(&["run", "--on", "a", "--name", "parent", "family.wasm"]);
    let mut printed = vec![];
    let mut more_of_both = |running: &mut Running| {
        let (mut parent, mut child) = (0, 0);
        while parent < 20 || child < 20 {
            let number: u32 = running.line().parse().unwrap();
            if number < CHILD {
                parent += 1
            } else {
                child += 1
            }
            printed.push(number);
        }
    };
    more_of_both(&mut running);
    let (parent, child) = (pid_of(&computer, "parent"), pid_of(&computer, "child"));
    computer.on(1, &["move", &child, "b"]).expect_error(1, &["goes where that goes", &format!("una move {parent}")]);
    for (round, to) in ["b", "c", "a", "c"].into_iter().enumerate() {
        computer.on(round % 3, &["move", &parent, to]).expect_out(0, &["runs on"]);
        let number = u64::from(to.as_bytes()[0] - b'a') + 1;
        for pid in [&parent, &child] {
            until("both to be there", || (node_of(&computer, 1, pid) == number).then_some(()));
        }
        more_of_both(&mut running);
    }
    computer.on(0, &["drain", "c"]).expect_out(0, &["c is empty"]);
    assert_ne!(node_of(&computer, 0, &parent), 3);
    assert_eq!(node_of(&computer, 0, &parent), node_of(&computer, 0, &child));
    more_of_both(&mut running);
    computer.on(0, &["kill", &parent]).expect(0, "");
    let end = running.end();
    assert_eq!(end.status, 137, "{}", end.err);
    // The last line may have been cut off with its process.
    let whole = end.out.rsplit_once('\n').map_or("", |(whole, _)| whole);
    printed.extend(numbers(whole));
    let (child, parent): (Vec<u32>, Vec<u32>) = printed.into_iter().partition(|number| *number >= CHILD);
    assert_eq!(parent, (0..parent.len() as u32).collect::<Vec<u32>>());
    assert_eq!(child, (CHILD..CHILD + child.len() as u32).collect::<Vec<u32>>());
}

#[test]
fn what_cannot_move_is_refused_with_the_reason_and_runs_on() {
    let computer = Computer::of(2);
    for node in &computer.nodes {
        node.program("count.wasm", &programs::counting(100_000_000, 1000));
    }
    let started = computer.on(0, &["run", "-d", "--on", "a", "count.wasm"]);
    let pid = started.out.trim().to_string();
    computer.on(0, &["move", &pid, "nowhere"]).expect_error(1, &["no node `nowhere`", "una nodes"]);
    computer.on(0, &["move", &pid, "a"]).expect_error(1, &["is on a already"]);
    computer.on(0, &["move", "1.99999", "b"]).expect_error(1, &["no process 99999"]);
    let mounted = computer.on(0, &["run", "-d", "--mount", ".=/host", "count.wasm"]);
    computer.on(0, &["move", mounted.out.trim(), "b"]).expect_error(1, &["of this machine", "--mount"]);
    let looked_after = computer.on(0, &["run", "-d", "--on", "a", "--restart", "always", "count.wasm"]);
    let looked_after = looked_after.out.trim();
    computer.on(0, &["mv", looked_after, "b"]).expect_error(1, &["looked after by its node", "--restart"]);
    assert_eq!(node_of(&computer, 1, looked_after), 1);
    computer.on(0, &["kill", looked_after]).expect(0, "");
    assert_eq!(node_of(&computer, 1, &pid), 1);

    // A node that is drained takes nothing, and gives what it has.
    let drained = computer.on(1, &["drain", "a"]);
    assert_eq!(drained.status, 1, "{}", drained.out);
    assert!(drained.err.contains("cannot") && drained.err.contains("of this machine"), "{}", drained.err);
    assert_eq!(node_of(&computer, 1, &pid), 2);
    computer.on(0, &["move", &pid, "a"]).expect_error(1, &["a is being emptied", "una drain --undo a"]);
    computer.on(0, &["kill", mounted.out.trim()]).expect(0, "");
    computer.on(1, &["drain", "a"]).expect_out(0, &["a is empty"]);
    computer.on(1, &["drain", "--undo", "a"]).expect(0, "");
    computer.on(0, &["move", &pid, "a"]).expect_out(0, &["runs on a"]);
    computer.on(1, &["kill", &pid]).expect(0, "");
}

#[test]
fn a_node_that_was_drained_leaves_and_nobody_who_went_through_it_notices() {
    let computer = Computer::of(3);
    for node in &computer.nodes {
        node.program("answers.wasm", &programs::answering("/asked"));
        node.program("asks.wasm", &programs::asking_on("/asked"));
        node.program("asks-once.wasm", &programs::asking("/asked"));
    }
    let started = computer.on(0, &["run", "-d", "--on", "a", "--name", "server", "answers.wasm"]);
    assert_eq!((started.status, started.err.as_str()), (0, ""));
    let server = started.out.trim().to_string();
    for node in 1..3 {
        until("the name to be found", || (computer.on(node, &["run", "asks-once.wasm"]).out == "ping\n").then_some(()));
    }
    // Each found the port on the node that is to go, and keeps that one handle. One of them is at home where the server goes.
    let mut clients: Vec<Running> = (1..3)
        .map(|node| {
            let on = ["b", "c"][node - 1];
            computer.nodes[node].start(&["run", "--on", on, "--name", &format!("client-{on}"), "asks.wasm"])
        })
        .collect();
    let mut go_on = |answers: u32| {
        for client in &mut clients {
            (0..answers).for_each(|_| client.expect_line("ping"));
        }
    };
    go_on(5);
    computer.on(1, &["drain", "a"]).expect_out(0, &["a is empty", "1 processes moved"]);
    assert_ne!(node_of(&computer, 1, &server), 1);
    go_on(20);
    let left = computer.on(0, &["leave"]);
    assert_eq!(left.status, 0, "{}", left.err);
    until("a to be gone", || (!computer.status(1)["nodes"].to_string().contains("\"a\"")).then_some(()));
    go_on(100);
    assert_ne!(node_of(&computer, 1, &server), 0);
    // They end by nothing but this.
    computer.on(1, &["kill", &server]).expect(0, "");
    for client in clients {
        let end = client.end();
        assert_ne!(end.status, 0, "a client ended well: {}", end.err);
    }
}
