//! Several daemons on one machine as one computer, by the real binary: each node has a house of its own. Networks that are cut and machines
//! that stop are tried by `cargo xtask e2e`, which needs root.

mod house;

use abi::ids::NodeKey;
use drivers::wire::ticket::Ticket;
use drivers::wire::{
    Answer, Class, Hello, Identity, NoClock, PROTOCOL, Receiver, Service, Stream, Unlinked, Versions, Wire,
};
use house::computer::Computer;
use house::{House, programs, until};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

#[test]
fn three_machines_are_one_computer() {
    let computer = Computer::of(3);
    assert_eq!(computer.status(2)["survives"], 1);
    for node in &computer.nodes {
        node.program("hello.wasm", &programs::hello());
        node.program("cat.wasm", &programs::cat());
        node.program("exit7.wasm", &programs::exiting(7));
        node.program("count.wasm", &programs::counting(0, 1000));
    }
    // A program runs anywhere, with its streams and status here.
    for on in ["a", "b", "c", "n2", "3"] {
        computer.on(0, &["run", "--on", on, "hello.wasm"]).expect(0, "hello\n");
    }
    computer.run(1, "c", &["exit7.wasm"]).expect(7, "");
    computer.nodes[2].done_with(&["run", "--on", "a", "cat.wasm"], "some words\n").expect(0, "some words\n");
    computer
        .on(0, &["run", "--on", "d", "hello.wasm"])
        .expect_error(125, &["no node can take the process", "no node `d`"]);

    // One process table, whichever node one sits at.
    let started = computer.on(0, &["run", "-d", "--on", "b", "--name", "far", "count.wasm"]);
    let pid = started.out.trim().to_string();
    assert!(pid.starts_with("2."), "{pid} {}", started.err);
    for node in 0..3 {
        let listed = computer.on(node, &["ps", "--json"]);
        let json: Value = serde_json::from_str(&listed.out).unwrap();
        let processes = json["processes"].as_array().unwrap();
        let seen = processes.iter().find(|process| process["pid"] == pid.as_str());
        assert_eq!(seen.map(|process| &process["node"]), Some(&2.into()), "{listed}", listed = listed.out);
        assert_eq!(json["missing"].as_array().map(Vec::len), Some(0));
    }
    until("output seen from afar", || computer.on(2, &["logs", &pid]).out.lines().nth(2).map(|_| ()));
    let why = computer.on(2, &["why", &pid]);
    assert!(why.status == 0 && why.out.contains("--on n2") && why.out.contains("chosen"), "{}", why.out);
    computer.on(2, &["stop", &pid]).expect(0, "");
    assert!(computer.on(0, &["ps"]).out.contains("stopped"));
    computer.on(0, &["cont", &pid]).expect(0, "");
    let waiting = computer.nodes[2].start(&["wait", &pid]);
    computer.on(0, &["kill", &pid]).expect(0, "");
    assert_eq!(waiting.end().status, 137);
    computer.on(2, &["kill", &pid]).expect_error(1, &["has ended"]);
    computer.on(2, &["kill", "2.999999"]).expect_error(1, &["no process 2.999999"]);
    computer.on(2, &["kill", "9.1"]).expect_error(1, &["no node n9", "una nodes"]);

    // One tree.
    computer.nodes[0].done_with(&["cp", "-", "una:/x"], "from a\n").expect(0, "");
    computer.on(2, &["cat", "/x"]).expect(0, "from a\n");
    computer.on(1, &["mv", "/x", "/y"]).expect(0, "");
    computer.on(0, &["cat", "/x"]).expect_error(1, &["/x"]);
    computer.on(2, &["cat", "/y"]).expect(0, "from a\n");

    // Messages by name, from one machine to another.
    let receiving = computer.nodes[1].start(&["recv", "bell", "--timeout", "100"]);
    until("the port to be found", || {
        let sent = computer.on(2, &["send", "bell", "ding"]);
        (sent.status == 0).then_some(())
    });
    assert_eq!(receiving.end().out, "ding");
    let receive = || computer.nodes[1].start(&["recv", "bell", "--timeout", "100"]);
    let mut receiving = receive();
    until("the name to be taken", || {
        let is_taken = computer.on(2, &["recv", "bell", "--timeout", "1"]).err.contains("already");
        // If that one came first, it was the other that heard so.
        if !is_taken && receiving.has_ended() {
            receiving = receive();
        }
        is_taken.then_some(())
    });
    computer.on(0, &["send", "bell", "dong"]).expect(0, "");
    assert_eq!(receiving.end().out, "dong");

    // One order of events.
    let events: Vec<String> = (0..3).map(|node| computer.on(node, &["events"]).out).collect();
    for events in &events {
        for said in [format!("{pid} starts"), format!("{pid} ended: killed")] {
            assert!(events.contains(&said), "no {said:?} in {events}");
        }
    }
}

/// The first node's clock is ahead, so whatever follows elsewhere from what happened there would be shown before it, if that were not heard
/// of with what it follows from: a command that is handed on, a file, a process that moved.
#[test]
fn what_follows_from_something_is_shown_after_it_whatever_the_clocks_say() {
    let computer = Computer::from(House::with_clock("+30s"), 3);
    for node in &computer.nodes {
        node.program("hello.wasm", &programs::hello());
        node.program("count.wasm", &programs::counting(0, 1000));
    }
    let here = |node: usize, arguments: &[&str]| {
        let done = computer.on(node, arguments);
        assert_eq!((done.status, done.err.as_str()), (0, ""), "{arguments:?}");
        done.out.trim().to_string()
    };
    let begin = |from: usize, on: &str| here(from, &["run", "-d", "--on", on, "hello.wasm"]);
    // Compiled and known everywhere: what follows is quick, so that little else is said between the nodes meanwhile.
    for on in ["a", "b", "c"] {
        begin(0, on);
    }
    let mut chains: Vec<[(String, &str); 2]> = vec![];
    let started = |pid: String| (pid, "process-started");
    for round in 0..8 {
        // The command goes from the first node to the others.
        chains.push([started(begin(0, "a")), started(begin(0, "b"))]);
        chains.push([started(begin(0, "a")), started(begin(0, "c"))]);
        // The second node reads what the first one wrote, and then something happens there.
        let cause = begin(0, "a");
        let path = format!("/{round}");
        computer.nodes[0].done_with(&["cp", "-", &format!("una:{path}")], "go on").expect(0, "");
        assert_eq!(here(1, &["cat", &path]), "go on");
        chains.push([started(cause), started(begin(1, "b"))]);
        // A process begins on the first node, moves and ends on another.
        let moving = here(0, &["run", "-d", "--on", "a", "count.wasm"]);
        here(0, &["move", &moving, "c"]);
        here(2, &["kill", &moving]);
        chains.push([started(moving.clone()), (moving, "process-ended")]);
    }
    for node in 0..3 {
        let told = here(node, &["events", "--json"]);
        let events: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let place = |(pid, kind): &(String, &str)| {
            let is_it = |event: &Value| event["kind"] == *kind && event["pid"].to_string().trim_matches('"') == pid;
            events.iter().position(is_it).unwrap_or_else(|| panic!("no {kind} of {pid} in {told}"))
        };
        for [cause, effect] in &chains {
            assert!(place(cause) < place(effect), "{effect:?} is shown before {cause:?} on n{}", node + 1);
        }
    }
}

/// Codes of `una.h` that programs here end with.
const NOT_FOUND: i32 = 17;
const EXISTS: i32 = 18;
const FULL: i32 = 6;
const CLOSED: i32 = 9;
const ABANDONED: i32 = 13;
const OPTIONS: i32 = 22;
/// WASI's number of the same.
const NOENT: i32 = 44;

#[test]
fn a_name_of_a_port_means_the_same_on_every_machine() {
    let computer = Computer::of(3);
    for node in &computer.nodes {
        node.program("answer.wasm", &programs::answering("/port/echo"));
        node.program("ask.wasm", &programs::asking("/port/echo"));
        node.program("free.wasm", &programs::unbinding("/port/echo"));
    }
    let asked = |on: &str| computer.run(0, on, &["ask.wasm"]);
    let answers_on = |on: &str| computer.run(0, on, &["-d", "answer.wasm"]).out.trim().to_string();
    asked("c").expect(NOT_FOUND, "");
    let first = answers_on("b");
    until("the name to be bound", || (asked("a").status == 0).then_some(()));
    for on in ["a", "b", "c", "a", "b", "c"] {
        asked(on).expect(0, "ping\n");
    }
    // Once, on all machines together.
    for on in ["a", "b", "c"] {
        computer.run(2, on, &["answer.wasm"]).expect(EXISTS, "");
    }
    // Its end makes it free, and what had been found is forgotten.
    computer.on(2, &["kill", &first]).expect(0, "");
    until("the name to be free", || (asked("a").status == NOT_FOUND).then_some(()));
    answers_on("c");
    until("it to be bound elsewhere", || (asked("b").status == 0).then_some(()));
    // A machine that is gone keeps no names. Of those that try one gets it.
    computer.kill(2);
    until("the name of a dead machine to be bound again", || {
        answers_on("a");
        (asked("b").status == 0).then_some(())
    });
    asked("a").expect(
        0, "ping
",
    );
    // Whoever may is free to unbind what others bound.
    computer.run(1, "b", &["free.wasm"]).expect(0, "");
    until("it to be unbound", || (asked("a").status == NOT_FOUND).then_some(()));
    computer.run(1, "b", &["free.wasm"]).expect(NOT_FOUND, "");
    let up = computer.on(2, &["up", "-d"]);
    assert_eq!((up.status, up.err.as_str()), (0, ""), "{}", up.out);
    let receiving = computer.nodes[2].start(&["recv", "bell", "--timeout", "100"]);
    until("a message to arrive", || (computer.on(0, &["send", "bell", "ding"]).status == 0).then_some(()));
    assert_eq!(receiving.end().out, "ding");
}

/// At no moment it is free, wherever it is bound.
#[test]
fn a_name_goes_on_leading_to_a_port_that_moved_with_its_process() {
    let computer = Computer::of(3);
    for node in &computer.nodes {
        node.program("answer.wasm", &programs::answering("/port/echo"));
        node.program("ask.wasm", &programs::asking("/port/echo"));
    }
    let asked = |on: &str| computer.run(0, on, &["ask.wasm"]);
    let pid = computer.run(0, "b", &["-d", "answer.wasm"]).out.trim().to_string();
    until("the name to be bound", || (asked("a").status == 0).then_some(()));
    for to in ["c", "a", "b"] {
        computer.on(1, &["move", &pid, to]).expect_out(0, &[&format!("runs on {to}")]);
        for on in ["a", "b", "c"] {
            asked(on).expect(0, "ping\n");
        }
    }
    computer.on(2, &["kill", &pid]).expect(0, "");
    until("the name to be free", || (asked("a").status == NOT_FOUND).then_some(()));
}

/// The node that bound it is emptied and gone, and nobody could take the name meanwhile.
#[test]
fn a_name_follows_its_port_and_outlives_the_node_that_bound_it() {
    let computer = Computer::of(4);
    for node in &computer.nodes {
        node.program("answer.wasm", &programs::answering("/port/echo"));
        node.program("again.wasm", &programs::answering("/port/deep/echo"));
        node.program("ask.wasm", &programs::asking("/port/echo"));
    }
    let asked = |on: &str| computer.run(0, on, &["ask.wasm"]);
    let pid = computer.run(0, "b", &["-d", "answer.wasm"]).out.trim().to_string();
    until("the name to be bound", || (asked("a").status == 0).then_some(()));
    asked("c").expect(0, "ping\n");
    let done = std::sync::atomic::AtomicBool::new(false);
    /// Whatever happens, the other thread ends.
    struct Done<'a>(&'a std::sync::atomic::AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let done_in_any_case = Done(&done);
        let taking = scope.spawn(|| {
            let mut tries = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // It would go on if it got the name.
                let tried = computer.run(0, "d", &["answer.wasm"]);
                // While a voter leaves, who may have the name cannot always be said.
                assert!([EXISTS, FULL].contains(&tried.status), "{}: {}{}", tried.status, tried.out, tried.err);
                tries += 1;
            }
            tries
        });
        // It is empty when its names are bound elsewhere.
        computer.on(0, &["drain", "b"]).expect_out(0, &["b is empty"]);
        // It leaves at once: what it has bound is bound elsewhere first.
        computer.on(1, &["leave"]).expect(0, "this machine is no node of the system any more\n");
        for on in ["a", "c", "d"] {
            asked(on).expect(0, "ping\n");
        }
        drop(done_in_any_case);
        assert!(taking.join().unwrap() > 0, "nobody tried to take the name");
    });
    // After longer than a lease, too.
    let until_over = std::time::Instant::now() + std::time::Duration::from_secs(8);
    while std::time::Instant::now() < until_over {
        asked("d").expect(0, "ping\n");
    }
    computer.on(2, &["kill", &pid]).expect(0, "");
    until("the name to be free", || (asked("a").status == NOT_FOUND).then_some(()));
}

/// What waits for it ends, and the machine, which lives, begins anew when it is heard again.
#[test]
fn a_machine_that_wants_it_is_given_up_on_when_nobody_hears_it() {
    let computer = Computer::of(3);
    computer.on(2, &["down"]).expect_out(0, &[]);
    let up = computer.on(2, &["up", "-d", "--listen", "127.0.0.1", "--lost-after", "2"]);
    assert_eq!((up.status, up.err.as_str()), (0, ""), "{}", up.out);
    until("it to be there", || computer.is_whole(0, 3).then_some(()));
    for node in &computer.nodes {
        node.program("answer.wasm", &programs::answering("/port/echo"));
        node.program("on.wasm", &programs::asking_on("/port/echo"));
    }
    let mut pids = vec![];
    let ask = || computer.nodes[0].start(&["run", "--on", "a", "on.wasm"]);
    let asking = until("the name to be bound", || {
        // If it is bound already this one ends.
        pids.push(computer.run(0, "c", &["-d", "answer.wasm"]).out.trim().to_string());
        let mut asking = ask();
        asking.line_within(std::time::Duration::from_secs(2)).map(|_| asking)
    });
    let life = |from: usize| {
        let status = computer.status(from);
        let line = status["nodes"].as_array().unwrap().iter().find(|line| line["name"] == "c").cloned();
        line.unwrap()["facts"]["life"].clone()
    };
    let before = life(2);
    assert!(before.is_u64(), "{before}");
    computer.stop(2);
    // It would wait for half a minute, and then say that the time is over.
    let ended = asking.end();
    assert!([CLOSED, ABANDONED].contains(&ended.status), "{}: {}", ended.status, ended.err);
    until("the name to be bound elsewhere", || {
        computer.run(0, "b", &["-d", "answer.wasm"]);
        ask().line_within(std::time::Duration::from_secs(2)).map(drop)
    });
    assert!(computer.on(1, &["events"]).out.contains("is over: nobody heard it"));
    computer.cont(2);
    until("it to begin anew", || (computer.state_of(0, "c") == "up" && life(0) != before).then_some(()));
    until("all to be whole", || computer.is_whole(2, 3).then_some(()));
    assert!(pids.iter().all(|pid| computer.living(0, pid).is_empty()), "what ran in a life that is over is over");
    // It has its options still, and can be given up on again.
    computer.stop(2);
    until("it to be given up on again", || {
        let told = computer.on(1, &["events"]).out;
        (told.matches("is over: nobody heard it").count() == 2).then_some(())
    });
    computer.cont(2);
    until("all to be whole again", || computer.is_whole(2, 3).then_some(()));
}

/// Children and processes that programs begin are where they were told to be, and it is said why.
#[test]
fn what_a_program_begins_can_be_told_where_to_be() {
    let computer = Computer::of(3);
    for (name, text) in [
        ("on.wasm", programs::placing("on c")),
        ("spread.wasm", programs::placing("spread")),
        ("nowhere.wasm", programs::placing("on nowhere")),
        ("strange.wasm", programs::placing("beside b")),
        ("new.wasm", programs::beginning("--on c")),
        ("newly.wasm", programs::beginning("--on nowhere")),
    ] {
        computer.nodes[0].program(name, &text);
    }
    let kids = |name: &str| -> Vec<(String, u64)> {
        let listed: Value = serde_json::from_str(&computer.on(1, &["ps", "--json"]).out).unwrap_or_default();
        let all = listed["processes"].as_array().cloned().unwrap_or_default();
        let all = all.into_iter().filter(|one| one["name"] == name);
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
        all.map(|one| (text(&one["pid"]), one["node"].as_u64().unwrap())).collect()
    };
    let parent = computer.run(0, "a", &["-d", "on.wasm"]).out.trim().to_string();
    let kid = until("the child to be there", || kids("kid").into_iter().find(|(_, node)| *node == 3)).0;
    for node in 0..3 {
        let why = computer.on(node, &["why", &kid]);
        assert!(why.status == 0 && why.out.contains("--on n3") && why.out.contains("chosen"), "{}{}", why.out, why.err);
    }
    until("its own log", || (computer.on(1, &["logs", &kid]).out == "kid\n").then_some(()));
    // It is a child: it ends with its parent, wherever it is.
    computer.on(1, &["kill", &parent]).expect(0, "");
    until("the child to end with its parent", || kids("kid").is_empty().then_some(()));
    computer.run(0, "a", &["nowhere.wasm"]).expect(NOT_FOUND, "");
    computer.run(0, "a", &["strange.wasm"]).expect(OPTIONS, "");
    let parent = computer.run(0, "a", &["-d", "spread.wasm"]).out.trim().to_string();
    until("the child to be elsewhere", || kids("kid").into_iter().find(|(_, node)| *node != 1));
    computer.on(1, &["kill", &parent]).expect(0, "");
    // What is begun by a file is no child.
    computer.run(0, "a", &["new.wasm"]).expect(0, "");
    let begun = until("the process to be there", || kids("new").into_iter().find(|(_, node)| *node == 3)).0;
    let why = computer.on(1, &["why", &begun]);
    assert!(why.status == 0 && why.out.contains("--on n3"), "{}{}", why.out, why.err);
    computer.run(0, "a", &["newly.wasm"]).expect(100 + NOENT, "");
    computer.on(1, &["kill", &begun]).expect(0, "");
}

/// Whichever node is asked, and by the words that it was refused with.
#[test]
fn what_could_be_placed_nowhere_can_be_asked_for_afterwards() {
    let computer = Computer::of(2);
    computer.nodes[0].program("hello.wasm", &programs::hello());
    let refused = ["run", "--mem", "900000G", "--name", "large", "hello.wasm"];
    computer.on(0, &refused).expect_error(125, &["no node can take the process", "has no room"]);
    for node in 0..2 {
        let told =
            ["large could be placed nowhere", "n1", "n2", "has no room", "no machine of this system is large enough"];
        computer.on(node, &["why", "large"]).expect_out(0, &told);
    }
    computer
        .on(0, &["run", "--on", "nowhere", "--name", "large", "hello.wasm"])
        .expect_error(125, &["no node `nowhere`"]);
    computer.on(1, &["why", "large"]).expect_out(0, &["no node `nowhere`"]);
    computer.on(1, &["why", "small"]).expect_error(1, &["nothing that is called small was refused a place lately"]);
    computer.on(1, &["why", "2.999999"]).expect_error(1, &["no node that is heard knows of process 2.999999"]);
    let pid = computer.run(0, "b", &["-d", "hello.wasm"]).out.trim().to_string();
    // It may have ended.
    computer
        .on(0, &["why", &pid])
        .expect_out(0, &[&format!("process {pid}: on b, since it began"), "was not asked for"]);
}

/// Whoever is to be away from the others of its name is told where those are.
#[test]
fn processes_of_one_name_are_spread() {
    let computer = Computer::of(3);
    for node in &computer.nodes {
        node.program("rests.wasm", &programs::resting(600_000));
    }
    let mut on = [0; 3];
    for _ in 0..4 {
        let pid = computer.on(0, &["run", "-d", "--spread", "rests.wasm"]).out.trim().to_string();
        let home = until("it to be there", || computer.home_of(0, &pid));
        let why: Value = serde_json::from_str(&computer.on(1, &["why", "--json", &pid]).out).unwrap();
        assert_eq!(why["chosen"], home as u64 + 1, "{why}");
        for node in why["nodes"].as_array().unwrap() {
            let there = on[node["number"].as_u64().unwrap() as usize - 1];
            let reason = node["reason"].as_str().unwrap();
            match there {
                0 => assert!(!reason.contains(", others of its group"), "{why}"),
                count => assert!(reason.contains(&format!(", others of its group {} ms", count * 5000)), "{why}"),
            }
        }
        on[home] += 1;
    }
}

/// Of two copies one is where the files are decided about; the other nodes would have to fetch some of it.
#[test]
fn files_that_a_process_is_told_to_read_pull_it() {
    let computer = Computer::of(3);
    computer.nodes[2].program("hello.wasm", &programs::hello());
    let lines: String = (0..4_000_000).map(|number| format!("{number:07}\n")).collect();
    computer.nodes[0].done_with(&["cp", "-", "una:/large"], &lines).expect(0, "");
    let holder = computer.status(0)["files"]["holder"].as_u64().unwrap();
    let reasons = |word: &str| -> Vec<(u64, String)> {
        let pid = computer.on(2, &["run", "-d", "hello.wasm", word]).out.trim().to_string();
        let why: Value = serde_json::from_str(&computer.on(2, &["why", "--json", &pid]).out).unwrap_or_default();
        let nodes = why["nodes"].as_array().cloned().unwrap_or_default();
        let reason = |node: &Value| Some((node["number"].as_u64()?, node["reason"].as_str()?.to_string()));
        nodes.iter().filter_map(reason).collect()
    };
    for word in ["/large", "large", "--in=/large"] {
        until(&format!("{word} to count"), || {
            let reasons = reasons(word);
            let fetches = |(_, reason): &&(u64, String)| {
                let share =
                    reason.split_once("fetching data ").map(|(_, rest)| rest.contains("MiB are on other nodes)"));
                share == Some(true)
            };
            let fetching: Vec<u64> = reasons.iter().filter(fetches).map(|(node, _)| *node).collect();
            (reasons.len() == 3 && fetching.len() == 2 && !fetching.contains(&holder)).then_some(())
        });
    }
    for word in ["/small", "-large", "7"] {
        let reasons = reasons(word);
        assert!(
            reasons.len() == 3 && reasons.iter().all(|(_, reason)| !reason.contains("data")),
            "{word}: {reasons:?}"
        );
    }
}

/// As a program sees it that knows files and nothing else.
#[test]
fn processes_and_machines_are_files_whichever_machine_they_are() {
    let computer = Computer::of(2);
    for node in &computer.nodes {
        node.program("count.wasm", &programs::counting(0, 1_000_000));
        node.program("load.wasm", &programs::showing(programs::NODE, "b/load"));
        node.program("node.wasm", &programs::showing(programs::NODE, "b/status"));
        node.program("drain.wasm", &programs::telling(programs::NODE, "b/ctl", "drain"));
        node.program("undrain.wasm", &programs::telling(programs::NODE, "b/ctl", "undrain"));
    }
    let pid = computer.on(0, &["run", "-d", "--on", "b", "--name", "far", "count.wasm"]).out.trim().to_string();
    for node in &computer.nodes {
        node.program("status.wasm", &programs::showing(programs::PROC, &format!("{pid}/status")));
        node.program("log.wasm", &programs::showing(programs::PROC, &format!("{pid}/log")));
        node.program("stop.wasm", &programs::telling(programs::PROC, &format!("{pid}/ctl"), "stop"));
        node.program("kill.wasm", &programs::telling(programs::PROC, &format!("{pid}/ctl"), "kill"));
        node.program("nobody.wasm", &programs::showing(programs::PROC, "2.999999/status"));
    }
    let here = |program: &str| computer.on(0, &["run", "--on", "a", program]);
    let status = here("status.wasm");
    for said in [format!("pid: {pid}"), "node: 2".into(), "name: far".into()] {
        assert!(status.out.contains(&said), "{said} in {}{}", status.out, status.err);
    }
    here("stop.wasm").expect(0, "");
    until("it to be stopped", || here("status.wasm").out.contains("state: stopped").then_some(()));
    let log = here("log.wasm");
    assert!(log.status == 0 && log.out.starts_with("0\n1\n2\n"), "{:.100}{}", log.out, log.err);
    // ENOENT of WASI.
    here("nobody.wasm").expect(144, "");
    here("kill.wasm").expect(0, "");
    assert_eq!(computer.on(1, &["wait", &pid]).status, 137);
    let node = here("node.wasm");
    assert!(node.out.contains("name: b\nnumber: 2\nstate: up\ndraining: false"), "{}{}", node.out, node.err);
    until("the other machine's load", || here("load.wasm").out.contains("memory_free_bytes: ").then_some(()));
    here("drain.wasm").expect(0, "");
    until("the draining to be seen", || here("node.wasm").out.contains("draining: true").then_some(()));
    here("undrain.wasm").expect(0, "");
    until("it to be over", || here("node.wasm").out.contains("draining: false").then_some(()));
}

/// The first one leads the coordinator and holds the tree.
#[test]
fn any_machine_may_die_and_comes_back_as_itself() {
    let computer = Computer::of(3);
    computer.nodes[0].done_with(&["cp", "-", "una:/kept"], "kept\n").expect(0, "");
    for node in &computer.nodes {
        node.program("count.wasm", &programs::counting(0, 1000));
    }
    let pid = computer.run(0, "b", &["-d", "count.wasm"]).out.trim().to_string();
    let mut attached = computer.nodes[2].start(&["attach", &pid]);
    computer.kill(0);
    computer.in_the_end(2, &["cat", "/kept"]).expect(0, "kept\n");
    computer.nodes[1].done_with(&["cp", "-", "una:/new"], "new\n").expect(0, "");
    for node in [1, 2] {
        until("the dead node to be called down", || (computer.state_of(node, "a") == "down").then_some(()));
    }
    let status = computer.status(2);
    assert_eq!((&status["survives"], &status["coordinator"]["writable"]), (&0.into(), &true.into()), "{status}");
    let listed = computer.on(2, &["ps"]);
    assert!(listed.out.contains(&pid) && listed.err.contains("a does not say"), "{}{}", listed.out, listed.err);
    // Started from the node that died, it goes on, and whoever looks at it does not notice.
    let last = |out: &str| out.lines().last().and_then(|line| line.parse::<u64>().ok());
    let printed = last(&computer.on(2, &["logs", &pid]).out).expect("it counts");
    until("more to be shown", || (last(&attached.line())? > printed).then_some(()));
    let waiting = computer.nodes[2].start(&["wait", &pid]);
    computer.on(2, &["kill", &pid]).expect(0, "");
    assert_eq!(waiting.end().status, 137);

    let up = computer.on(0, &["up", "-d"]);
    assert_eq!((up.status, up.err.as_str()), (0, ""), "{}", up.out);
    until("it to be there again", || computer.is_whole(2, 3).then_some(()));
    computer.in_the_end(0, &["cat", "/new"]).expect(0, "new\n");
    assert_eq!(computer.status(0)["me"], 1);
}

#[test]
fn without_a_majority_nothing_is_changed_and_it_is_said() {
    let computer = Computer::of(3);
    computer.on(0, &["mkdir", "/before"]).expect(0, "");
    computer.kill(1);
    computer.kill(2);
    until("the loss to be noticed", || {
        let status = computer.status(0);
        (status["coordinator"]["writable"] == false).then_some(())
    });
    let shown = computer.on(0, &["status"]);
    assert!(shown.out.contains("too few nodes are up to decide anything"), "{}", shown.out);
    computer.on(0, &["ticket"]).expect_error(1, &["cannot decide anything now", "una status"]);
    computer.on(0, &["drain", "b"]).expect_error(1, &["cannot decide anything now"]);
    computer.on(0, &["recv", "bell", "--timeout", "10"]).expect_error(1, &["cannot decide anything now", "una status"]);
    let up = computer.on(1, &["up", "-d"]);
    assert_eq!((up.status, up.err.as_str()), (0, ""), "{}", up.out);
    until("a majority", || (computer.status(0)["coordinator"]["writable"] == true).then_some(()));
    computer.in_the_end(1, &["ls", "/"]).expect(0, "before/\n");
}

#[test]
fn tickets_are_good_once_and_for_a_while() {
    let computer = Computer::of(1);
    computer.on(0, &["leave"]).expect_error(1, &["the only node"]);
    let ticket = computer.ticket();
    let (one, other) = (House::new(), House::new());
    let join = |house: &House, ticket: &str| house.done(&["join", ticket, "--listen", "127.0.0.1"]);
    // Cut, changed, or something else.
    join(&one, &ticket[..ticket.len() - 3]).expect_error(1, &["did not join", "copy"]);
    let swapped = if ticket.ends_with('a') { "b" } else { "a" };
    let forged = format!("{}{swapped}", &ticket[..ticket.len() - 1]);
    join(&one, &forged).expect_error(1, &["did not join"]);
    join(&one, "hello").expect_error(1, &["no ticket", "una1"]);
    assert!(one.list("home/.local/share/una").is_empty(), "a bad ticket leaves nothing behind");
    // Good, then used.
    let joined = join(&one, &ticket);
    assert_eq!((joined.status, joined.err.as_str()), (0, ""), "{}", joined.out);
    join(&other, &ticket).expect_error(1, &["was used already", "una ticket"]);
    // Of a member that is one already.
    join(&one, &computer.ticket()).expect_error(1, &["a node already", "una leave"]);
    // In good form, but with a secret that nobody gave out.
    let given: Ticket = computer.ticket().parse().unwrap();
    let invented = Ticket { secret: [7; 16], ..given.clone() }.to_string();
    join(&other, &invented).expect_error(1, &["not one of this system", "una ticket"]);
    // Of another system: this one is asked with it.
    let elsewhere = Computer::of(1);
    let theirs: Ticket = elsewhere.ticket().parse().unwrap();
    let astray = Ticket { secret: theirs.secret, ..given }.to_string();
    join(&other, &astray).expect_error(1, &["not one of this system", "una ticket"]);
    assert_eq!(computer.status(0)["nodes"].as_array().map(Vec::len), Some(2));
    assert_eq!(elsewhere.status(0)["nodes"].as_array().map(Vec::len), Some(1));
    // Too old.
    let short = computer.on(0, &["ticket", "-q", "--lasts", "1s"]).out.trim().to_string();
    let issued = SystemTime::now();
    until("the ticket to expire", || issued.elapsed().ok().filter(|since| since.as_secs() >= 2));
    join(&other, &short).expect_error(1, &["expired", "una ticket"]);
    one.done(&["down"]);
}

/// The newcomer's clock is not asked: whether it is ahead or behind.
#[test]
fn whether_a_ticket_has_expired_is_said_by_the_issuers_clock() {
    let computer = Computer::of(1);
    let (ahead, behind) = (House::with_clock("+2h"), House::with_clock("-2h"));
    let join = |house: &House, ticket: &str| house.done(&["join", ticket, "--listen", "127.0.0.1"]);
    let short = computer.on(0, &["ticket", "-q", "--lasts", "1s"]).out.trim().to_string();
    let issued = SystemTime::now();
    until("the ticket to expire", || issued.elapsed().ok().filter(|since| since.as_secs() >= 2));
    join(&behind, &short).expect_error(1, &["expired", "una ticket"]);
    let joined = join(&ahead, &computer.ticket());
    assert_eq!((joined.status, joined.err.as_str()), (0, ""), "{}", joined.out);
    ahead.done(&["down"]);
    // Nobody is left to ask.
    computer.on(0, &["down"]);
    join(&behind, &short).expect_error(1, &["no node of that system was reached", "una is up there"]);
    let late = House::new();
    join(&late, &short).expect_error(1, &["no node of that system was reached", "the ticket expired", "una ticket"]);
}

/// What a node says when it begins is what another one has to be told.
#[test]
fn a_node_that_begins_prints_the_line_that_another_joins_with() {
    let (first, second) = (House::new(), House::new());
    let up = first.done(&["up", "-d", "--listen", "127.0.0.1"]);
    assert_eq!((up.status, up.err.as_str()), (0, ""), "{}", up.out);
    let computer = Computer { nodes: vec![first] };
    let line = up.out.lines().find(|line| line.contains("una join una1")).expect("it says how to join").to_string();
    let words: Vec<&str> = line.split_whitespace().skip_while(|word| *word != "una").take(3).collect();
    let joined = second.done(&[&words[1..], &["--listen", "127.0.0.1"]].concat());
    assert!(joined.status == 0 && joined.out.contains("(n2)"), "{line}: {}{}", joined.out, joined.err);
    second.done(&["down"]);
    drop(computer);
}

/// Speaks to nobody.
struct Silent;

impl Receiver for Silent {
    fn linked(&self, _: NodeKey, _: &Hello) {}
    fn unlinked(&self, _: NodeKey, _: &Unlinked) {}
    fn arrived(&self, _: NodeKey, _: Class, _: &[u8]) {}
    fn asked(&self, _: NodeKey, _: Service, _: Vec<u8>, _: Answer) {}
    fn opened(&self, _: NodeKey, _: Service, _: Vec<u8>, _: Stream) {}
    fn visited(&self, _: NodeKey, _: &Hello, _: SocketAddr, _: Vec<u8>, _: Stream) {}
    fn room(&self, _: NodeKey, _: Class) {}
}

/// A node of an una that speaks the next version of the protocol.
fn newer(identity: Identity, hello: Hello) -> Wire {
    let versions = Versions { first: PROTOCOL + 1, last: PROTOCOL + 1 };
    let listen = ["127.0.0.1:0".parse().unwrap()];
    Wire::speaking(versions, identity, hello, &listen, Arc::new(Silent), Arc::new(NoClock)).unwrap()
}

/// Bytes as two digits each.
fn hex<const N: usize>(text: &Value) -> [u8; N] {
    let digits = text.as_str().unwrap();
    std::array::from_fn(|place| u8::from_str_radix(&digits[2 * place..2 * place + 2], 16).unwrap())
}

/// It is up, and cannot be linked with: that is said, and why, until it can.
#[test]
fn a_member_with_another_version_is_named_as_such() {
    let computer = Computer::of(2);
    let status = computer.status(0);
    let (first, second) = (&status["nodes"][0], &status["nodes"][1]);
    let complaint = |text: &str| text.contains("no link to b (n2)") && text.contains("bring both to the same una");
    let complaints = || computer.on(0, &["status"]).out;
    computer.on(1, &["down"]).expect_out(0, &[]);
    let file = computer.nodes[1].path("home/.local/share/una/node/identity");
    let hello = Hello {
        system: Some(hex(&status["system"])),
        node: None,
        life: 1000,
        name: "b".into(),
        version: "newer".into(),
        addresses: vec![],
    };
    let wire = newer(Identity::load_or_make(&file).unwrap(), hello.clone());
    assert_eq!(wire.me(), NodeKey(hex(&second["key"])));
    let at: SocketAddr = first["addresses"][0].as_str().unwrap().parse().unwrap();
    wire.admit(NodeKey(hex(&first["key"])), &[at]);
    let shown = until("the reason to be said", || Some(complaints()).filter(|text| complaint(text)));
    let said = format!("versions {} of the protocol and this one {PROTOCOL}", PROTOCOL + 1);
    assert!(shown.contains(&said), "{shown}");
    assert_eq!(shown.matches("no link to b").count(), 1, "{shown}");
    wire.stop();
    computer.up(1);
    until("both to be linked", || computer.is_heard(0, 2).then_some(()));
    until("nothing to be said any more", || (!complaint(&complaints())).then_some(()));

    // Who would join such a system is told the same.
    let issuer = newer(Identity::make().unwrap(), hello);
    let ticket =
        Ticket { issuer: issuer.me(), secret: [7; 16], expires: u64::MAX >> 20, addresses: issuer.addresses() };
    let joining = House::new().done(&["join", &ticket.to_string(), "--listen", "127.0.0.1"]);
    joining.expect_error(1, &["did not join", "bring both to the same una"]);
}

#[test]
fn a_node_leaves_and_another_is_taken_out() {
    let computer = Computer::of(3);
    computer.on(0, &["drain", "b"]).expect_out(0, &["b is empty"]);
    until("the draining to be seen", || computer.on(2, &["nodes"]).out.contains("draining").then_some(()));
    computer.nodes[0].program("hello.wasm", &programs::hello());
    computer.run(0, "b", &["hello.wasm"]).expect_error(125, &["is being emptied"]);
    computer.on(0, &["drain", "b", "--undo"]).expect(0, "");

    computer.in_the_end(2, &["leave"]).expect(0, "this machine is no node of the system any more\n");
    until("it to be gone", || (computer.state_of(0, "c") == "gone").then_some(()));
    // It begins anew, alone; what it knew is put aside.
    until("its daemon's end", || {
        (computer.on(2, &["ps"]).err.contains("no daemon") || computer.on(2, &["status"]).status == 1).then_some(())
    });
    let up = until("a new beginning", || {
        Some(computer.on(2, &["up", "-d", "--listen", "127.0.0.1"])).filter(|done| done.status == 0)
    });
    assert!(up.out.contains("is in"), "{}", up.out);
    assert_eq!(computer.status(2)["nodes"].as_array().map(Vec::len), Some(1));
    // A node of its own, with nothing running, makes room for joining again: as another member.
    let again = computer.on(2, &["join", &computer.ticket(), "--listen", "127.0.0.1", "--name", "c"]);
    assert!(again.status == 0 && again.out.contains("this is c (n4)"), "{}{}", again.out, again.err);

    computer.kill(1);
    computer.in_the_end(0, &["remove", "b"]).expect(0, "");
    until("it to be gone", || (computer.state_of(0, "b") == "gone").then_some(()));
    computer.on(0, &["remove", "b"]).expect_error(1, &["no node `b`", "una nodes"]);
}
