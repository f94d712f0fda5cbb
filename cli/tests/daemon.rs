//! The daemon by the real binary: each test has a house and a daemon of its own in it.

mod house;

use house::{Done, House, Running, Terminal, programs, until};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// A house in which una is up.
struct Inhabited {
    house: House,
    daemon: Option<Running>,
}

impl Inhabited {
    fn new() -> Inhabited {
        let mut inhabited = Inhabited { house: House::new(), daemon: None };
        inhabited.up();
        inhabited
    }

    fn up(&mut self) {
        let mut daemon = self.house.start(&["up"]);
        // What it says when it is ready is the last of its banner.
        while !daemon.line().contains("end ") {}
        self.daemon = Some(daemon);
    }

    fn daemon_pid(&self) -> i32 {
        self.daemon.as_ref().unwrap().child.id() as i32
    }

    fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.child.kill().unwrap();
        daemon.child.wait().unwrap();
    }

    #[track_caller]
    fn una(&self, arguments: &[&str]) -> Done {
        self.house.done(arguments)
    }

    /// Starts a program in the background; gives its number.
    #[track_caller]
    fn start(&self, arguments: &[&str]) -> String {
        let done = self.una(&[&["run", "-d"], arguments].concat());
        assert_eq!((done.status, done.err.as_str()), (0, ""), "{}", done.out);
        let pid = done.out.trim_end().to_string();
        assert!(pid.parse::<u64>().is_ok() && done.out.ends_with('\n'), "the number alone: {:?}", done.out);
        pid
    }

    fn process(&self, pid: &str) -> serde_json::Value {
        let listed = self.una(&["ps", "--all", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&listed.out).unwrap();
        assert_eq!(json["schema"], "una.ps/1");
        let processes = json["processes"].as_array().unwrap();
        processes.iter().find(|process| process["pid"].as_u64() == pid.parse().ok()).cloned().unwrap_or_default()
    }

    #[track_caller]
    fn until_state(&self, pid: &str, state: &str) {
        until(state, || (self.process(pid)["state"] == state).then_some(()));
    }

    fn socket(&self) -> PathBuf {
        self.house.path("run/una/node.sock")
    }
}

#[test]
fn a_program_runs_in_the_daemon_with_its_streams_and_status() {
    let at = Inhabited::new();
    at.house.program("cat.wasm", &programs::cat());
    at.house.program("words.wasm", &programs::words());
    at.house.program("seven.wasm", &programs::exiting(7));
    at.house.done_with(&["run", "cat.wasm"], "in and out\n").expect(0, "in and out\n");
    at.una(&["run", "--env", "A=b", "words.wasm", "-x", "y z"]).expect(0, "words.wasm\n-x\ny z\nA=b\n");
    at.una(&["run", "seven.wasm"]).expect(7, "");
    let ended = at.una(&["ps", "-a"]).out;
    assert!(ended.contains("exited 7") && ended.contains("words.wasm -x 'y z'"), "{ended}");
    assert!(at.una(&["ps"]).out.contains("no programs are running"));
    // More than any buffer on the way holds.
    let long = "0123456789abcde\n".repeat(200_000);
    let done = at.house.done_with(&["run", "cat.wasm"], &long);
    assert!(done.status == 0 && done.out == long, "{} of {} bytes; {}", done.out.len(), long.len(), done.err);
}

#[test]
fn programs_are_joined_by_pipes_of_the_shell_in_every_way() {
    let at = Inhabited::new();
    at.house.program("count.wasm", &programs::counting(20_000, 1));
    at.house.program("cat.wasm", &programs::cat());
    let una = env!("CARGO_BIN_EXE_una");
    let expected: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    for (first, second) in [("", ""), ("--private", ""), ("", "--private"), ("--private", "--private")] {
        let mut shell = at.house.una(&[]);
        let line = format!("{una} run {first} count.wasm </dev/null | {una} run {second} cat.wasm");
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", &line]).current_dir(at.house.directory.path()).env_clear();
        for (name, value) in shell.get_envs() {
            command.env(name, value.unwrap());
        }
        shell.stdin(std::process::Stdio::null());
        let done: Done = command.output().unwrap().into();
        assert!(done.status == 0 && done.out == expected, "{first}|{second}: {} {}", done.out.len(), done.err);
    }
}

/// As `yes | head` ends.
#[test]
fn who_reads_no_more_ends_the_program() {
    let at = Inhabited::new();
    at.house.program("count.wasm", &programs::counting(0, 1));
    let mut running = at.house.una(&["run", "--name", "endless", "count.wasm"]).spawn().unwrap();
    let mut some = [0; 100];
    let mut out = running.stdout.take().unwrap();
    out.read_exact(&mut some).unwrap();
    drop(out);
    assert_eq!(house::code(running.wait().unwrap()), 141);
    until("its end", || at.una(&["ps"]).out.contains("no programs").then_some(()));
}

#[test]
fn a_process_survives_its_client_and_is_controlled_by_others() {
    let at = Inhabited::new();
    at.house.program("cat.wasm", &programs::cat());
    let mut client = at.house.start(&["run", "--name", "kept", "cat.wasm"]);
    client.say("one\n");
    client.expect_line("one");
    let pid = until("it in the list", || {
        let json: serde_json::Value = serde_json::from_str(&at.una(&["ps", "--json"]).out).unwrap();
        json["processes"].as_array().unwrap().iter().find(|p| p["name"] == "kept").map(|p| p["pid"].to_string())
    });
    client.child.kill().unwrap();
    client.end();
    at.until_state(&pid, "waiting");
    // It can be talked to again.
    let mut again = at.house.start(&["attach", &pid]);
    again.expect_line("one");
    again.say("two\n");
    again.expect_line("two");
    at.una(&["stop", &pid]).expect(0, "");
    at.until_state(&pid, "stopped");
    again.say("three\n");
    at.una(&["cont", &pid]).expect(0, "");
    again.expect_line("three");
    // Its end of input is its end.
    again.end().expect(0, "");
    at.una(&["wait", &pid]).expect(0, "");
    at.una(&["kill", &pid]).expect_error(1, &["has ended", "una ps"]);
    at.una(&["kill", "99999"]).expect_error(1, &["there is no process 99999", "una ps"]);
}

#[test]
fn a_leash_takes_the_program_along() {
    let at = Inhabited::new();
    at.house.program("cat.wasm", &programs::cat());
    let mut client = at.house.start(&["run", "--leash", "cat.wasm"]);
    client.say("one\n");
    client.expect_line("one");
    client.child.kill().unwrap();
    client.end();
    until("its end", || at.una(&["ps"]).out.contains("no programs").then_some(()));
}

#[test]
fn signals_at_the_client_kill_the_program() {
    let at = Inhabited::new();
    at.house.program("count.wasm", &programs::counting(0, 100_000));
    for (signal, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let mut client = at.house.start(&["run", "count.wasm"]);
        client.line();
        // SAFETY: a signal to a child that has not been waited for, so the number is its own.
        assert_eq!(unsafe { libc::kill(client.child.id() as i32, signal) }, 0);
        let done = client.end();
        assert_eq!(done.status, status, "{}", done.err);
        assert!(at.una(&["ps"]).out.contains("no programs"));
    }
}

#[test]
fn logs_and_waiting() {
    let at = Inhabited::new();
    at.house.program("count.wasm", &programs::counting(30, 1));
    at.house.program("cat.wasm", &programs::cat());
    at.house.program("seven.wasm", &programs::exiting(7));
    let pid = at.start(&["count.wasm"]);
    at.una(&["wait", &pid]).expect(0, "");
    let all: String = (0..30).map(|n| format!("{n}\n")).collect();
    at.una(&["logs", &pid]).expect(0, &all);
    at.una(&["logs", "-n", "2", &pid]).expect(0, "28\n29\n");
    at.una(&["logs", "-n", "0", &pid]).expect(0, "");
    at.una(&["logs", "-f", "-n", "1", &pid]).expect(0, "29\n");
    let seven = at.start(&["seven.wasm"]);
    at.una(&["wait", &seven]).expect(7, "");
    // It is followed while it goes on, by several.
    let pid = at.start(&["-i", "cat.wasm"]);
    let mut followers = [at.house.start(&["logs", "-f", &pid]), at.house.start(&["logs", "-f", &pid])];
    let mut waiter = at.house.start(&["wait", &pid]);
    let mut talker = at.house.start(&["attach", &pid]);
    talker.say("hello\n");
    talker.expect_line("hello");
    followers.iter_mut().for_each(|follower| follower.expect_line("hello"));
    assert!(waiter.child.try_wait().unwrap().is_none());
    at.una(&["kill", &pid]).expect(0, "");
    talker.end().expect(137, "");
    waiter.end().expect(137, "");
    followers.into_iter().for_each(|follower| follower.end().expect(0, ""));
}

#[test]
fn traps_and_bad_programs_are_told_as_without_a_daemon() {
    let at = Inhabited::new();
    at.house
        .program("trap.wasm", &programs::program(r#"(func $deep unreachable) (func (export "_start") (call $deep))"#));
    at.una(&["run", "trap.wasm"]).expect_error(134, &["trapped", "deep"]);
    at.house.write("text.wasm", "hello");
    at.house.write("cut.wasm", &std::fs::read(at.house.path("trap.wasm")).unwrap()[..60]);
    for name in ["text.wasm", "cut.wasm", "absent.wasm"] {
        let (here, there) = (at.una(&["run", "--private", name]), at.una(&["run", name]));
        assert!(there.status >= 126);
        assert_eq!((here.status, here.err), (there.status, there.err));
    }
    at.una(&["run", "--mount", "nowhere=/x", "trap.wasm"]).expect_error(125, &["cannot mount nowhere at /x", "mkdir"]);
}

#[test]
fn limits_are_kept() {
    let at = Inhabited::new();
    at.house.program("count.wasm", &programs::counting(0, 1));
    at.una(&["run", "--cpu", "0.2", "count.wasm"]).expect_error(152, &["all the processor time", "--cpu"]);
    at.house.program(
        "grow.wasm",
        &programs::program(
            r#"(func (export "_start")
                 (call $number (i32.ne (memory.grow (i32.const 100)) (i32.const -1)))
                 (call $number (i32.ne (memory.grow (i32.const 10000)) (i32.const -1))))"#,
        ),
    );
    at.una(&["run", "--mem", "32M", "grow.wasm"]).expect(0, "1\n0\n");
    at.una(&["run", "--mem", "1G", "grow.wasm"]).expect(0, "1\n1\n");
    at.una(&["run", "--mem", "x", "grow.wasm"]).expect_error(125, &["512M"]);
    at.una(&["run", "--handles", "0", "grow.wasm"]).expect_error(125, &["--handles", "1..=65535"]);
    at.una(&["run", "--mailbox", "5G", "grow.wasm"]).expect_error(125, &["at most 4G"]);
    at.una(&["run", "--private", "--output", "1", "grow.wasm"]).expect_error(125, &["--private", "--output"]);
}

/// It has three streams and four directories from the beginning, and one handle.
const GREEDY: [(&[&str], &str); 2] = [
    (&["--output", "1K", "--handles", "10", "--mailbox", "1M"], "3\n33\n9\n14\n"),
    (&["--output", "1K", "--handles", "12", "--mailbox", "64K"], "5\n33\n4\n14\n"),
];

/// What is refused to a program it is told, and there is as much of it as was said: also for its children.
#[test]
fn output_handles_and_mailboxes_have_bounds() {
    let at = Inhabited::new();
    at.house.program("greedy.wasm", &programs::greedy());
    for (limits, expected) in GREEDY {
        for with in [&[] as &[&str], &["by-a-child"]] {
            let done = at.house.done_with(&[&["run"], limits, &["greedy.wasm"], with].concat(), "x");
            assert_eq!((done.status, done.out.len()), (19, 1024), "{limits:?} {with:?} {:.40}{}", done.out, done.err);
            assert!(done.out.starts_with(expected), "{limits:?} {with:?} {:.40}", done.out);
        }
        // One that is begun by the file `/proc/new` has the bounds of whoever began it.
        let first = at.start(&["-i", "greedy.wasm"]);
        let program = at.process(&first)["program"].as_str().unwrap().to_string();
        at.una(&["kill", &first]).expect(0, "");
        at.house.program("begins.wasm", &programs::telling(programs::PROC, "new", &program));
        at.una(&[&["run"], limits, &["begins.wasm"]].concat()).expect(0, "");
        let begun = until("it to be begun", || {
            let listed: serde_json::Value = serde_json::from_str(&at.una(&["ps", "--all", "--json"]).out).ok()?;
            let all = listed["processes"].as_array()?.iter();
            all.rev().find(|one| one["name"] == program[..12]).map(|one| one["pid"].to_string())
        });
        assert_eq!(at.una(&["wait", &begun]).status, 19);
        let log = at.una(&["logs", &begun]).out;
        assert!(log.starts_with(expected) && log.len() == 1024, "{limits:?} {log:.40}");
    }
    // What a durable process holds lies elsewhere.
    at.una(&["run", "--durable", "--handles", "10", "greedy.wasm"])
        .expect_error(125, &["cannot be durable", "--handles and --mailbox"]);
}

#[test]
fn limits_go_along_in_an_image() {
    let mut at = Inhabited::new();
    at.house.program("greedy.wasm", &programs::greedy());
    for (number, (limits, expected)) in GREEDY.into_iter().enumerate() {
        let pid = at.start(&[&["-i"], limits, &["greedy.wasm"]].concat());
        at.until_state(&pid, "waiting");
        let image = format!("image{number}");
        let frozen = at.una(&["freeze", &pid, &image]);
        assert_eq!(frozen.status, 0, "{}", frozen.err);
        let done = at.house.done_with(&["thaw", &image], "x");
        assert_eq!((done.status, done.out.len()), (19, 1024), "{limits:?} {:.40}{}", done.out, done.err);
        assert!(done.out.starts_with(expected), "{limits:?} {:.40}", done.out);
    }
    // Said anew, each for itself.
    let done = at.house.done_with(&["thaw", "--mailbox", "32K", "image0"], "x");
    assert!(done.status == 19 && done.out.starts_with("3\n33\n2\n14\n"), "{:.40}{}", done.out, done.err);
    at.kill_daemon();
    at.una(&["thaw", "image0"]).expect_error(125, &["only the daemon", "una up -d", "--private"]);
}

/// With a file open, in the middle of their input, over an end of the daemon.
#[test]
fn programs_of_each_language_go_on_after_a_restart() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let input: String = (1..=60).map(|number| format!("line {number} {}\n", "lorem ".repeat(number % 7))).collect();
    let half = input.match_indices('\n').nth(29).unwrap().0 + 1;
    let mut at = Inhabited::new();
    let sources = ["tests/guests/lines.c", "../programs/tests/notes.rs", "../programs/tests/letters.go"];
    for (number, source) in sources.into_iter().enumerate() {
        let name = format!("program{number}.wasm");
        let mut compile = std::process::Command::new(root.join("../programs/compile"));
        let said = compile.arg(root.join(source)).arg(at.house.path(&name)).output().unwrap();
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{source}: `cargo xtask setup` installs compilers\n{error}");
        let [whole, cut] = ["whole", "cut"].map(|kind| format!("/{kind}{number}"));
        for directory in [&whole, &cut] {
            at.una(&["mkdir", directory]).expect(0, "");
        }
        let expected = at.house.done_with(&["run", &name, &whole], &input);
        assert_eq!((expected.status, expected.err.as_str()), (0, ""), "{source}");
        let mut running = at.house.start(&["run", "--name", &name, &name, &cut]);
        running.say(&input[..half]);
        let mut out = String::new();
        while !out.contains("\n30: ") {
            out += &(running.line() + "\n");
        }
        let listed: serde_json::Value = serde_json::from_str(&at.una(&["ps", "--json"]).out).unwrap();
        let pid = listed["processes"][0]["pid"].to_string();
        let frozen = at.una(&["freeze", &pid, "image"]);
        assert_eq!(frozen.status, 0, "{source}: {}", frozen.err);
        let end = running.end();
        assert_eq!(end.status, 148, "{source}: {}", end.err);
        at.una(&["down"]).expect(0, "una is down\n");
        at.up();
        let rest = at.house.done_with(&["thaw", "image"], &input[half..]);
        assert_eq!((rest.status, rest.err.as_str()), (0, ""), "{source}: {}", rest.out);
        assert_eq!(out + &end.out + &rest.out, expected.out, "{source}");
    }
}

/// Ports, pipes and children are in no image.
#[test]
fn who_holds_something_is_not_frozen_and_runs_on() {
    let at = Inhabited::new();
    at.house.program("port.wasm", &programs::answering("/port/answers"));
    at.house.program("pipe.wasm", &programs::piping());
    at.house.program("child.wasm", &programs::family());
    for holder in ["port.wasm", "pipe.wasm", "child.wasm"] {
        let pid = at.start(&[holder]);
        until("it to hold something", || (at.process(&pid)["handles"].as_u64()? > 1).then_some(()));
        for command in [&["freeze", &pid, "image"] as &[&str], &["checkpoint", &pid], &["fork", &pid]] {
            at.una(command).expect_error(1, &[&format!("process {pid} has ports, pipes or processes in its hands")]);
        }
        assert!(!at.house.path("image").exists());
        assert_ne!(at.process(&pid)["state"], "ended", "{holder}");
        at.una(&["kill", &pid]).expect(0, "");
    }
}

#[test]
fn a_process_is_frozen_and_goes_on_in_the_daemon_and_without_it() {
    let mut at = Inhabited::new();
    at.house.program("files.wasm", &programs::files());
    std::fs::create_dir(at.house.path("d")).unwrap();
    at.house.write("d/in", "aaabbbcccddd");
    let mut client = at.house.start(&["run", "--mount", "d=/", "files.wasm"]);
    client.expect_line("ready");
    client.say("x");
    client.expect_line("aaa");
    client.line();
    let json: serde_json::Value = serde_json::from_str(&at.una(&["ps", "--json"]).out).unwrap();
    let pid = json["processes"][0]["pid"].to_string();
    // A checkpoint, and it runs on.
    let saved = at.una(&["freeze", "--keep-running", &pid, "checkpoint"]);
    assert!(saved.status == 0 && saved.out.contains("runs on"), "{}{}", saved.out, saved.err);
    client.say("x");
    client.expect_line("bbb");
    client.line();
    let frozen = at.una(&["freeze", &pid, "image"]);
    assert!(frozen.status == 0 && frozen.out.contains("una thaw image"), "{}{}", frozen.out, frozen.err);
    assert_eq!(client.end().status, 148);
    at.una(&["freeze", &pid, "image"]).expect_error(1, &["has ended"]);
    // In the daemon again, after a restart of it.
    at.kill_daemon();
    at.up();
    let mut thawed = at.house.start(&["thaw", "image"]);
    thawed.say("x");
    thawed.expect_line("ccc");
    drop(thawed);
    // And without a daemon, from the earlier moment.
    let mut private = at.house.start(&["thaw", "--private", "checkpoint"]);
    private.say("x");
    private.expect_line("bbb");
    private.line();
    private.end().expect(0, "");
}

/// An image that cannot be kept leaves the process as it was.
#[test]
fn a_freeze_that_fails_at_the_client_is_none() {
    let at = Inhabited::new();
    at.house.program("cat.wasm", &programs::cat());
    let pid = at.start(&["-i", "cat.wasm"]);
    let mut stream = UnixStream::connect(at.socket()).unwrap();
    daemon::protocol::write_hello(&mut stream).unwrap();
    let request = daemon::protocol::Request::Freeze {
        pid: pid.parse().unwrap(),
        with_program: false,
        afterwards: daemon::protocol::Afterwards::End,
    };
    daemon::protocol::write_message(&mut stream, &request).unwrap();
    // Some of it arrives; then whoever asked is gone.
    stream.read_exact(&mut [0; 200]).unwrap();
    drop(stream);
    at.until_state(&pid, "waiting");
    let mut talker = at.house.start(&["attach", &pid]);
    talker.say("still here\n");
    talker.expect_line("still here");
    talker.end().expect(0, "");
    at.una(&["freeze", &pid, "no/such/image"]).expect_error(1, &["cannot freeze into"]);
}

#[test]
fn attaching_by_a_terminal_and_leaving() {
    let at = Inhabited::new();
    at.house.program("cat.wasm", &programs::cat());
    let pid = at.start(&["-i", "cat.wasm"]);
    let mut terminal = Terminal::start(at.house.una(&["attach", &pid]));
    terminal.type_in("hello\n");
    terminal.see("hello\r\nhello\r\n");
    // Only both keys, one after the other, mean it.
    terminal.type_in("a\x10b\n");
    terminal.see("a\x10b\r\n");
    terminal.type_in("\x10\x11");
    terminal.see(&format!("process {pid} runs on: una attach {pid}"));
    assert_eq!(terminal.end(), 0);
    at.until_state(&pid, "waiting");
    let mut terminal = Terminal::start(at.house.una(&["attach", "-n", "0", &pid]));
    terminal.type_in("again\n");
    terminal.see("again\r\nagain\r\n");
    terminal.type_in("\x03");
    assert_eq!(terminal.end(), 130);
    assert_eq!(at.process(&pid)["end"], "killed");
    // The same keys at the terminal that started it.
    let mut terminal = Terminal::start(at.house.una(&["run", "cat.wasm"]));
    terminal.type_in("x\n");
    terminal.see("x\r\nx\r\n");
    terminal.type_in("\x10\x11");
    terminal.see("detached");
    assert_eq!(terminal.end(), 0);
    assert!(at.una(&["ps"]).out.contains("cat.wasm"));
}

#[test]
fn top_is_driven_by_keys() {
    let at = Inhabited::new();
    at.house.program("cat.wasm", &programs::cat());
    let pid = at.start(&["-i", "--name", "quiet", "cat.wasm"]);
    let other = at.start(&["-i", "--name", "other", "cat.wasm"]);
    let mut command = at.house.una(&["top", "--delay", "0.1"]);
    command.env("TERM", "xterm-256color").env("NO_COLOR", "1");
    let mut terminal = Terminal::start(command);
    terminal.see("quiet");
    // The screen is drawn in pieces, so what keys did is seen at the processes.
    terminal.type_in("/quiet\rs");
    at.until_state(&pid, "stopped");
    terminal.type_in("s");
    at.until_state(&pid, "waiting");
    // The question is answered with no: the next key finds the process alive.
    terminal.type_in("kns");
    at.until_state(&pid, "stopped");
    terminal.type_in("ky");
    at.until_state(&pid, "ended");
    terminal.type_in("q");
    assert_eq!(terminal.end(), 0);
    assert_eq!(at.process(&other)["state"], "waiting");
    let snapshot = at.una(&["top"]);
    assert!(
        snapshot.status == 0 && snapshot.out.contains("other") && !snapshot.out.contains('\x1b'),
        "{}",
        snapshot.out
    );
}

#[test]
fn one_daemon_at_a_time() {
    let mut at = Inhabited::new();
    let pid = at.daemon_pid().to_string();
    at.una(&["up"]).expect_error(1, &["una is up already", &format!("process {pid} "), "una down"]);
    at.una(&["up", "-d"]).expect_error(1, &["una is up already", &pid]);
    at.house.program("hello.wasm", &programs::hello());
    // Killed, it leaves its socket: nobody takes that for a daemon, and the next one takes its place.
    at.kill_daemon();
    assert!(at.socket().exists());
    at.una(&["kill", "1"]).expect_error(1, &["no daemon of una is running", "una up -d"]);
    at.una(&["run", "hello.wasm"]).expect(0, "hello\n");
    at.una(&["run", "-d", "hello.wasm"]).expect_error(125, &["no daemon", "una up -d"]);
    at.una(&["down"]).expect(0, "una is not up\n");
    at.up();
    at.una(&["run", "hello.wasm"]).expect(0, "hello\n");
    // An orderly end.
    at.una(&["down"]).expect(0, "una is down\n");
    let done = at.daemon.take().unwrap().end();
    assert_eq!((done.status, done.out.as_str()), (0, "una is going down\n"), "{}", done.err);
    assert!(!at.socket().exists());
}

#[test]
fn in_the_background() {
    let house = House::new();
    let up = house.done(&["up", "-d"]);
    assert!(up.status == 0 && up.out.contains("is up") && up.err.is_empty(), "{}{}", up.out, up.err);
    house.program("hello.wasm", &programs::hello());
    house.done(&["run", "hello.wasm"]).expect(0, "hello\n");
    let doctor: serde_json::Value = serde_json::from_str(&house.done(&["doctor", "--json"]).out).unwrap();
    let checks = doctor["checks"].as_array().unwrap();
    let daemon = checks.iter().find(|check| check["name"] == "daemon").unwrap();
    assert_eq!((&doctor["schema"], &daemon["verdict"]), (&"una.doctor/1".into(), &"ok".into()), "{daemon}");
    house.done(&["down"]).expect(0, "una is down\n");
    house.done(&["down"]).expect(0, "una is not up\n");
}

/// What an acknowledged write of a file was, is there after the daemon was killed at any moment.
#[test]
fn files_of_the_tree_survive() {
    let mut at = Inhabited::new();
    at.una(&["mkdir", "-p", "/a/b"]).expect(0, "");
    at.house.done_with(&["cp", "-", "una:/a/b/x"], "content\n").expect(0, "");
    at.kill_daemon();
    at.up();
    at.una(&["cat", "/a/b/x"]).expect(0, "content\n");
    at.una(&["ls", "/a"]).expect(0, "b/\n");
    at.una(&["mv", "/a/b/x", "/a/y"]).expect(0, "");
    at.una(&["cp", "una:/a/y", "back"]).expect(0, "");
    assert_eq!(at.house.read("back"), "content\n");
    at.una(&["cp", "-r", "una:/a", "una:/c"]).expect(0, "");
    at.una(&["cat", "/c/y"]).expect(0, "content\n");
    at.una(&["rm", "/a"]).expect_error(1, &["/a: directory not empty", "una rm -r /a"]);
    at.una(&["rm", "-r", "/a"]).expect(0, "");
    at.una(&["ls", "/a"]).expect_error(1, &["/a: no such file"]);
    at.una(&["cat", "/../../etc/passwd"]).expect_error(1, &["/../../etc/passwd"]);
    let bad = std::os::unix::ffi::OsStrExt::from_bytes(b"caf\xe9");
    let bad = at.house.path("names").join::<&std::ffi::OsStr>(bad);
    at.house.write("names/fine", "");
    std::fs::write(bad, "").unwrap();
    at.una(&["cp", "-r", "names", "una:/names"])
        .expect_error(1, &["cannot copy names/caf", "not UTF-8", "another name"]);
    at.una(&["cp", "back", "other"]).expect_error(1, &["both are on this machine", "una:"]);
    let list: serde_json::Value = serde_json::from_str(&at.una(&["ls", "--json", "/c"]).out).unwrap();
    assert_eq!((&list["schema"], &list["entries"].as_array().unwrap().len()), (&"una.ls/1".into(), &2));
}

#[test]
fn messages_by_name() {
    let at = Inhabited::new();
    at.una(&["send", "nowhere", "x"]).expect_error(1, &["there is no port `nowhere`"]);
    let receiver = at.house.start(&["recv", "mail"]);
    let sent = until("the port", || {
        let done = at.una(&["send", "/port/mail", "hello"]);
        (done.status == 0).then_some(done)
    });
    sent.expect(0, "");
    receiver.end().expect(0, "hello");
    at.una(&["recv", "--timeout", "0.05", "mail"]).expect_error(1, &["the time is up", "--timeout"]);
}

/// Whatever arrives on the socket, the daemon goes on and answers others.
#[test]
fn hostile_bytes() {
    use daemon::protocol::{Request, write_bytes, write_hello, write_message};
    let at = Inhabited::new();
    let hello = || {
        let mut bytes = vec![];
        write_hello(&mut bytes).unwrap();
        bytes
    };
    let with = |more: &[u8]| [hello(), more.to_vec()].concat();
    let request = |request: &Request| {
        let mut bytes = vec![];
        write_message(&mut bytes, request).unwrap();
        bytes
    };
    let mut out_of_order = vec![];
    write_bytes(&mut out_of_order, daemon::node::Output::Out, b"x").unwrap();
    let mut other_version = hello();
    other_version[4] = 9;
    let send = request(&Request::Send { port: "p".into(), timeout_ms: 10 });
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), ""),
        (other_version, ""),
        (with(&[1, 255, 255, 255, 255]), "a frame of 4294967295 bytes"),
        (with(&[77, 0, 0, 0, 0]), "unknown kind 77"),
        (with(&[1, 2, 0, 0, 0, b'{', b'}']), "missing field"),
        (with(&out_of_order), "bytes came where a control message was due"),
        (with(&[send.clone(), send].concat()), "a control message came where bytes"),
        (with(&request(&Request::Read { path: "x\0y".into() })), "zero byte"),
        (with(&request(&Request::Remove { path: "relative".into(), recursive: true })), "begin with /"),
        (with(&request(&Request::Receive { port: "../x".into(), timeout_ms: 1 })), "is not the name of a port"),
    ];
    for (bytes, expected) in cases {
        let mut stream = UnixStream::connect(at.socket()).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut reply = vec![];
        stream.read_to_end(&mut reply).unwrap();
        let text = String::from_utf8_lossy(&reply).to_string();
        assert!(text.contains(expected), "{expected}: {text}");
        assert_eq!(expected.is_empty(), !text.contains("refused"), "{expected}: {text}");
    }
    // A write that is cut short keeps nothing from going on.
    let mut stream = UnixStream::connect(at.socket()).unwrap();
    stream.write_all(&with(&request(&Request::Write { path: "/half".into() }))).unwrap();
    let mut half = vec![];
    write_bytes(&mut half, daemon::node::Output::Out, &[7; 1000]).unwrap();
    stream.write_all(&half[..500]).unwrap();
    drop(stream);
    // As many as are served, which say hello and nothing more: the next one is told.
    let mut idle = vec![];
    for _ in 0..daemon::server::CONNECTIONS_MAX {
        let mut stream = UnixStream::connect(at.socket()).unwrap();
        // Who is one too many may have been refused already.
        let _ = stream.write_all(&hello());
        idle.push(stream);
    }
    let refused = until("a word to who is one too many", || Some(at.una(&["ps"])).filter(|done| done.status != 0));
    refused.expect_error(1, &["serves 512 clients already", "una ps"]);
    drop(idle);
    until("room", || (at.una(&["ps"]).status == 0).then_some(()));
}

#[test]
fn another_version_is_refused_with_what_to_do() {
    let house = House::new();
    std::fs::create_dir_all(house.path("home/.local/share/una/node")).unwrap();
    let socket = house.path("node.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let holder = serde_json::json!({"pid": std::process::id(), "version": "9.9", "socket": socket});
    house.write("home/.local/share/una/node/node.lock", holder.to_string());
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"una\0\x09\0\0\0\x039.9").unwrap();
        let _ = stream.read(&mut [0; 1000]);
    });
    house.done(&["kill", "3"]).expect_error(1, &["una 9.9 with protocol 9", "una down && una up -d"]);
    serving.join().unwrap();
}

/// Their places, memories and consoles are bounded one by one; together they are many.
#[test]
fn a_thousand_processes_echo_at_once() {
    const COUNT: usize = 1000;
    let at = Inhabited::new();
    at.house.program("cat.wasm", &programs::cat());
    let first = at.start(&["-i", "cat.wasm"]);
    let program = {
        let wasm = std::fs::read(at.house.path("cat.wasm")).unwrap();
        daemon::protocol::ProgramId {
            hash: at.process(&first)["program"].as_str().unwrap().into(),
            bytes: wasm.len() as u64,
        }
    };
    let data = at.house.path("home/.local/share/una/node");
    let connect = || daemon::protocol::client::Connection::open(&data).unwrap();
    let mut connection = connect();
    let pids: Vec<daemon::node::Pid> = (0..COUNT)
        .map(|number| {
            let stdio = daemon::node::Stdio { input: true, ..Default::default() };
            let place = daemon::protocol::Placement {
                mounts: vec![],
                limits: Default::default(),
                stdio,
                follow: None,
                wish: Default::default(),
                decided: None,
            };
            let (name, arguments) = (format!("echo {number}"), vec!["cat".into()]);
            let (program, environment, lasting) = (program.clone(), vec![], Default::default());
            let run = daemon::protocol::Run { program, name, arguments, environment, place, lasting };
            match connection.ask(&daemon::protocol::Request::Run(run)).unwrap() {
                daemon::protocol::Reply::Started { pid, .. } => pid,
                other => panic!("{other:?}"),
            }
        })
        .collect();
    let follow = daemon::protocol::Follow {
        from: daemon::protocol::Origin::Start,
        until: daemon::protocol::Until::End,
        input: true,
        lossless: true,
        when_gone: daemon::protocol::WhenGone::RunOn,
    };
    // In turns, since a process is asked by one connection: while one echoes, all others wait in the middle of their reading.
    for (number, pid) in pids.iter().enumerate() {
        let mut connection = connect();
        connection.ask(&daemon::protocol::Request::Attach { pid: *pid, follow }).unwrap();
        let said = format!("I am {number}\n");
        let mut writer = connection.writer().unwrap();
        daemon::protocol::write_bytes(&mut writer, daemon::node::Output::Out, said.as_bytes()).unwrap();
        let mut heard = vec![];
        while heard.len() < said.len() {
            if let daemon::protocol::Frame::Bytes(bytes) = connection.frame().unwrap() {
                heard.extend_from_slice(&bytes);
            }
        }
        assert_eq!(String::from_utf8_lossy(&heard), said);
    }
    let json: serde_json::Value = serde_json::from_str(&at.una(&["ps", "--json"]).out).unwrap();
    let waiting = json["processes"].as_array().unwrap().iter().filter(|process| process["state"] == "waiting").count();
    assert_eq!(waiting, COUNT + 1);
    for pid in &pids {
        connection.ask(&daemon::protocol::Request::Kill { pid: *pid }).unwrap();
    }
    at.una(&["down"]).expect(0, "una is down\n");
}

/// As long as another one computes.
#[test]
fn a_process_that_waits_for_a_message_uses_no_processor() {
    let inhabited = Inhabited::new();
    inhabited.house.program("waits.wasm", &programs::showing(programs::PORT, "quiet"));
    inhabited.house.program("works.wasm", &programs::counting(1000, 1_000_000));
    let cpu_ns = |pid: &str| inhabited.process(pid)["cpu_ns"].as_u64().unwrap();
    let waiting = inhabited.start(&["waits.wasm"]);
    until("it to begin", || (inhabited.process(&waiting)["state"] != "starting").then_some(()));
    let before = cpu_ns(&waiting);
    let working = inhabited.start(&["works.wasm"]);
    inhabited.una(&["wait", &working]).expect(0, "");
    let (waited, worked) = (cpu_ns(&waiting) - before, cpu_ns(&working));
    assert!(waited * 20 < worked, "it used {waited} ns of the processor while another one used {worked} ns");
    inhabited.una(&["send", "quiet", "now"]).expect(0, "");
    until("the message", || (inhabited.una(&["logs", &waiting]).out == "now").then_some(()));
}
