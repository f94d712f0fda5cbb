//! Durable processes that serve and call: whatever becomes of the nodes, each call counts once, and its client notices nothing but time.
//! `programs/durable` looks at itself; here its nodes are killed, put to sleep, and it is moved. Real daemons.

mod house;

use house::computer::Computer;
use house::{Running, until};
use std::path::Path;
use std::process::Command;

/// Three nodes, and the program on each.
fn computer() -> Computer {
    let computer = Computer::of(3);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../programs");
    let first = computer.nodes[0].path("durable.wasm");
    let said = Command::new(root.join("compile"))
        .args([root.join("durable/durable.c"), first.clone()])
        .output()
        .expect("it is in the repository");
    assert!(said.status.success(), "`cargo xtask setup` installs compilers\n{}", String::from_utf8_lossy(&said.stderr));
    for node in &computer.nodes[1..] {
        std::fs::copy(&first, node.path("durable.wasm")).unwrap();
    }
    computer
}

/// Begins a durable process on a node, and waits until it has printed this.
fn durable(computer: &Computer, on: &str, words: &[&str], first: &str) -> String {
    let options = ["-d", "--durable", "--every", "1", "durable.wasm"];
    let pid = computer.run(0, on, &[&options[..], words].concat());
    assert_eq!((pid.status, pid.err.as_str()), (0, ""), "{words:?}");
    let pid = pid.out.trim().to_string();
    until("it to begin", || printed(computer, 0, &pid).filter(|out| out.starts_with(first)));
    pid
}

/// What is seen of a process, as soon as its node says it.
fn printed(computer: &Computer, from: usize, pid: &str) -> Option<String> {
    let done = computer.on(from, &["logs", pid]);
    (done.status == 0).then_some(done.out)
}

/// A client in a terminal of the first node.
struct Client {
    running: Running,
    answers: Vec<u32>,
}

impl Client {
    fn start(computer: &Computer, words: &[&str]) -> Client {
        let running = computer.nodes[0].start(&[&["run", "--on", "a", "durable.wasm"], words].concat());
        Client { running, answers: vec![] }
    }

    /// The next answer: its number comes next, and the server's count is greater than with the last.
    #[track_caller]
    fn next(&mut self) -> bool {
        let line = self.running.line();
        if line == "done" {
            return false;
        }
        let (number, total) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let number: usize = number.parse().unwrap_or_else(|_| panic!("{line:?}"));
        let total: u32 = total.parse().unwrap();
        assert_eq!(number, self.answers.len() + 1, "{line:?}");
        assert!(self.answers.last().is_none_or(|last| *last < total || total == 0), "{line:?}");
        self.answers.push(total);
        true
    }

    #[track_caller]
    fn advance(&mut self, by: usize) {
        (0..by).for_each(|_| assert!(self.next(), "it is done too early"));
    }

    #[track_caller]
    fn finish(mut self, count: usize) -> Vec<u32> {
        while self.next() {}
        assert_eq!(self.answers.len(), count);
        let ended = self.running.end();
        assert_eq!((ended.status, ended.err.as_str()), (0, ""));
        self.answers
    }
}

/// Has the server end, and looks at all that it printed: each call once, in the order of each client, and counted through.
#[track_caller]
fn end(computer: &Computer, server: &str, name: &str, clients: &[(u32, u32)]) {
    let total: u32 = clients.iter().map(|(_, count)| count).sum();
    let done = computer.on(0, &["run", "--on", "a", "durable.wasm", "end", name]);
    assert_eq!((done.status, done.out.trim(), done.err.as_str()), (0, total.to_string().as_str(), ""));
    assert_eq!(computer.in_the_end(0, &["wait", server]).status, 0);
    let out = computer.in_the_end(0, &["logs", server]).out;
    let mut last = [0; 8];
    let lines: Vec<&str> = out.lines().skip(1).collect();
    assert_eq!(lines.len(), total as usize, "{out}");
    for (at, line) in lines.iter().enumerate() {
        let [client, number, count]: [u32; 3] =
            line.split(' ').map(|word| word.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap();
        last[client as usize] += 1;
        assert_eq!((number, count), (last[client as usize], at as u32 + 1), "{line}");
    }
    for (client, count) in clients {
        assert_eq!(last[*client as usize], *count);
    }
}

fn kill_and_wait(computer: &Computer, pid: &str, home: usize) -> usize {
    computer.kill(home);
    let from = (home + 1) % 3;
    let now = until("it to go on elsewhere", || computer.home_of(from, pid).filter(|now| *now != home));
    computer.up(home);
    until("the node to be there again", || (0..3).all(|node| computer.is_whole(node, 3)).then_some(()));
    now
}

/// Its node dies again and again, and it is moved; two clients call it all the time and one sends.
#[test]
fn each_call_of_a_durable_server_counts_once() {
    let computer = computer();
    let server = durable(&computer, "b", &["serve", "box"], "ready\n");
    let mut one = Client::start(&computer, &["call", "box", "1", "600", "15"]);
    let mut two = Client::start(&computer, &["call", "box", "2", "250", "35"]);
    let mut three = Client::start(&computer, &["send", "box", "3", "250", "35"]);
    let mut home = 1;
    for round in 0..6 {
        one.advance(20 + 7 * round);
        two.advance(5);
        three.advance(5);
        if round % 2 == 1 || home == 0 {
            let to = if home == 1 { 2 } else { 1 };
            let moved = computer.on(0, &["move", &server, ["a", "b", "c"][to]]);
            assert_eq!(moved.status, 0, "{}{}", moved.out, moved.err);
            home = until("it to be there", || computer.home_of(0, &server).filter(|now| *now == to));
        } else {
            home = kill_and_wait(&computer, &server, home);
        }
    }
    one.finish(600);
    two.finish(250);
    three.finish(250);
    end(&computer, &server, "box", &[(1, 600), (2, 250), (3, 250)]);
    // Its name is free again, for anybody.
    let mut other = computer.nodes[0].start(&["run", "--on", "a", "durable.wasm", "serve", "box"]);
    other.expect_line("ready");
    computer.on(0, &["run", "--on", "a", "durable.wasm", "end", "box"]).expect(0, "0\n");
    assert_eq!(other.end().status, 0);
}

/// A node that slept past its lease counts for nothing when it wakes.
#[test]
fn a_server_whose_node_wakes_late_has_answered_nobody() {
    let computer = computer();
    let server = durable(&computer, "c", &["serve", "late"], "ready\n");
    let mut client = Client::start(&computer, &["call", "late", "1", "300", "10"]);
    client.advance(30);
    computer.stop(2);
    until("it to go on elsewhere", || computer.home_of(0, &server).filter(|home| *home != 2));
    client.advance(30);
    computer.cont(2);
    client.finish(300);
    until("the late one to be ended", || computer.on(2, &["events"]).out.contains("is ended here").then_some(()));
    end(&computer, &server, "late", &[(1, 300)]);
}

/// A durable client of a durable server: whichever of the two loses its node, no call counts twice.
#[test]
fn a_durable_client_calls_once_too() {
    let computer = computer();
    let server = durable(&computer, "b", &["serve", "both"], "ready\n");
    let client = durable(&computer, "c", &["call", "both", "1", "500", "10"], "1 1\n");
    let mut seen = 0;
    for round in 0..3 {
        let out = until("more to be answered", || {
            printed(&computer, 0, &client).filter(|out| out.lines().count() > seen + 20 || out.ends_with("done\n"))
        });
        seen = out.lines().count();
        let victim = if round % 2 == 0 { &client } else { &server };
        let home = until("it to be somewhere", || computer.home_of(0, victim));
        // Whoever asks here stays.
        if home != 0 && !out.ends_with("done\n") {
            kill_and_wait(&computer, victim, home);
        }
    }
    assert_eq!(computer.in_the_end(0, &["wait", &client]).status, 0);
    let out = computer.in_the_end(0, &["logs", &client]).out;
    let expected: String = (1..=500).map(|number| format!("{number} {number}\n")).collect();
    assert_eq!(out, expected + "done\n");
    end(&computer, &server, "both", &[(1, 500)]);
}

/// Timers and messages of people; and what is refused says so.
#[test]
fn a_durable_process_waits_for_timers_and_is_sent_to() {
    let computer = computer();
    let done = computer.on(0, &["run", "--durable", "durable.wasm", "refused"]);
    done.expect(0, "31 31 31 31 31 31 22 10 1\n");
    let pid = durable(&computer, "b", &["wake", "clock", "6000"], "ready\n");
    let home = kill_and_wait(&computer, &pid, 1);
    computer.on(0, &["send", "clock", "hello"]).expect(0, "");
    assert_eq!(computer.in_the_end(home, &["wait", &pid]).status, 0);
    let out = computer.in_the_end(home, &["logs", &pid]).out;
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["message hello", "ready", "timer 7 4"]);
}
