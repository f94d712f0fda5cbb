//! What scripts get: each command that reports something says it as JSON, whose form has a name.

mod house;

use house::{House, programs};
use serde_json::Value;

/// In this order, with the number of a process of `cat.wasm` in the place of PID: a command line, its status, and of what it prints the
/// form and the fields.
const COMMANDS: [(&str, i32, &str, &[&str]); 20] = [
    ("up -d --alone --json", 0, "una.up/1", &["status", "data"]),
    ("run -d -i --json cat.wasm", 0, "una.run/1", &["pid"]),
    ("ps --json", 0, "una.ps/1", &["processes", "missing"]),
    ("stop --json PID", 0, "una.stop/1", &["pids"]),
    ("cont --json PID", 0, "una.cont/1", &["pids"]),
    ("freeze --keep-running --json PID image", 0, "una.freeze/1", &["pid", "image", "bytes", "runs_on"]),
    ("inspect --json image", 0, "una.inspect/1", &["name", "mounts"]),
    ("thaw -d --json image", 0, "una.thaw/1", &["pid"]),
    ("checkpoint --json PID", 0, "una.checkpoint/1", &["pid", "checkpoint"]),
    ("checkpoints --json", 0, "una.checkpoints/1", &["checkpoints"]),
    ("undo --json PID", 0, "una.restore/1", &["pid", "from", "passed_over"]),
    ("fork --json PID", 0, "una.fork/1", &["fork"]),
    ("kill --json PID", 0, "una.kill/1", &["pids"]),
    ("wait --json PID", 137, "una.wait/1", &["pid", "end", "status"]),
    // What was not done is told in words as ever.
    ("kill --json PID", 1, "una.kill/1", &["pids"]),
    ("restore --json PID", 0, "una.restore/1", &["pid", "from", "passed_over"]),
    ("ls --json", 0, "una.ls/1", &["path", "entries"]),
    ("doctor --json", 0, "una.doctor/1", &["checks"]),
    ("down --json", 0, "una.down/1", &["ended"]),
    ("down --json", 0, "una.down/1", &["ended"]),
];

/// The object that a command printed, of this form and with these fields.
#[track_caller]
fn object(out: &str, schema: &str, fields: &[&str]) -> Value {
    let value: Value = serde_json::from_str(out).unwrap_or_else(|error| panic!("{schema}: {error} in {out:?}"));
    assert_eq!(value["schema"], schema, "{out}");
    for field in fields {
        assert!(value.get(field).is_some(), "no {field} in {out}");
    }
    value
}

#[test]
fn each_command_that_reports_something_has_a_form_for_scripts() {
    let house = House::new();
    house.program("cat.wasm", &programs::cat());
    let mut pid = Value::Null;
    for (line, status, schema, fields) in COMMANDS {
        let line = line.replace("PID", &pid.to_string());
        let done = house.done(&line.split(' ').collect::<Vec<_>>());
        assert!(done.status == status || schema == "una.doctor/1", "{line}: {} {}{}", done.status, done.out, done.err);
        assert_eq!(done.err.is_empty(), status != 1, "{line}: {}", done.err);
        let told = object(&done.out, schema, fields);
        if schema == "una.run/1" {
            pid = told["pid"].clone();
        }
        match fields {
            ["pid", ..] if schema != "una.thaw/1" => assert_eq!(told["pid"], pid, "{line}"),
            ["pids"] => assert_eq!(told["pids"], Value::from_iter((status == 0).then_some(pid.clone())), "{line}"),
            _ => {}
        }
    }
}

#[test]
fn messages_logs_and_tickets_are_told_to_scripts() {
    let house = House::new();
    house.done(&["up", "-d"]);
    object(&house.done(&["ticket", "--json"]).out, "una.ticket/1", &["ticket", "expires_ms"]);
    let mut receiver = house.start(&["recv", "-n", "2", "--json", "box"]);
    // The port is there whenever somebody receives from it.
    house::until("the port to be there", || {
        let sent = house.done(&["send", "--json", "box", "a \"word\""]);
        (sent.status == 0).then(|| assert_eq!(object(&sent.out, "una.send/1", &["port"])["bytes"], 8))
    });
    assert_eq!(object(&receiver.line(), "una.recv/1", &["port"])["text"], "a \"word\"");
    let bytes = house.write("bytes", b"\xff\x01");
    house::until("it to be there again", || {
        let sent = house.una(&["send", "box"]).stdin(std::fs::File::open(&bytes).unwrap()).status();
        sent.unwrap().success().then_some(())
    });
    assert_eq!(object(&receiver.line(), "una.recv/1", &["port"])["hex"], "ff01");
    receiver.end().expect(0, "");

    // Two lines and a begun one, and one on standard error.
    let text = r#"(data (i32.const 1024) "one\ntwo\nthr") (data (i32.const 1048) "no\n")
      (func (export "_start") (call $write (i32.const 1) (i32.const 1024) (i32.const 11))
        (call $write (i32.const 2) (i32.const 1048) (i32.const 3)))"#;
    house.program("lines.wasm", &programs::program(text));
    let pid = house.done(&["run", "-d", "lines.wasm"]).out.trim().to_string();
    let ended = object(&house.done(&["wait", "--json", &pid]).out, "una.wait/1", &["pid"]);
    assert_eq!((&ended["end"]["exited"], &ended["status"]), (&0.into(), &0.into()));
    for logs in [&["logs", "--json", &pid] as &[&str], &["logs", "--json", "-f", &pid]] {
        let told = house.done(logs).out;
        let lines: Vec<Value> = told.lines().map(|line| object(line, "una.logs/1", &["stream", "line"])).collect();
        let of = |stream: &str| {
            let lines = lines.iter().filter(|line| line["stream"] == stream);
            lines.map(|line| line["line"].as_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!((of("out"), of("err")), (vec!["one", "two", "thr"], vec!["no"]), "{told}");
    }
    house.done(&["down"]).expect(0, "una is down\n");
}
