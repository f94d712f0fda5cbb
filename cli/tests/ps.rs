//! `una ps`, and the socket behind it.

mod house;

use house::{House, programs};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

fn socket(house: &House, pid: &str) -> PathBuf {
    house.path("run/una").join(format!("{pid}.sock"))
}

#[test]
fn running_programs_are_listed() {
    let house = House::new();
    let none = house.done(&["ps"]);
    assert!(none.status == 0 && none.out.contains("una run PROG"), "{}", none.out);
    house.program("cat.wasm", &programs::cat());
    std::fs::create_dir(house.path("d")).unwrap();
    let mut first = house.start(&["run", "--mount", "d=/d:ro", "cat.wasm", "a b"]);
    let mut second = house.start(&["run", "--name", "mine", "--engine", "pulley", "--unfreezable", "cat.wasm"]);
    for running in [&mut first, &mut second] {
        running.say("x\n");
        running.expect_line("x");
    }
    let table = house.done(&["ps"]);
    let lines: Vec<&str> = table.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", table.out);
    let row = |pid: &str| lines.iter().find(|line| line.split_whitespace().next() == Some(pid)).unwrap().to_string();
    assert!(row(&first.pid()).contains("cat.wasm 'a b'"));
    assert!(row(&second.pid()).contains("mine") && row(&second.pid()).contains("pulley"));

    let json: serde_json::Value = serde_json::from_str(&house.done(&["ps", "--json"]).out).unwrap();
    assert_eq!(json["schema"], "una.ps/1");
    let process = |pid: &str| {
        json["processes"].as_array().unwrap().iter().find(|p| p["pid"].as_u64() == pid.parse().ok()).unwrap()
    };
    let found = process(&first.pid());
    assert_eq!(found["state"], "running");
    assert_eq!(found["arguments"], serde_json::json!(["cat.wasm", "a b"]));
    assert_eq!(found["mounts"][0]["guest"], "/d");
    assert_eq!(found["mounts"][0]["read_only"], true);
    assert_eq!((&found["freezable"], &process(&second.pid())["freezable"]), (&true.into(), &false.into()));
    first.end().expect(0, "");
    second.end().expect(0, "");
    assert_eq!(house.list("run/una"), [""; 0]);
}

/// What a program calls itself is shown, not obeyed.
#[test]
fn names_cannot_play_with_the_terminal() {
    let house = House::new();
    house.program("cat.wasm", &programs::cat());
    let mut running = house.start(&["run", "--name", "\x1b[31mred", "cat.wasm", "\x1b]0;title\x07", "two\nlines"]);
    running.say("x\n");
    running.expect_line("x");
    let listed = house.done(&["ps"]).out;
    house.done(&["freeze", &running.pid(), "image"]);
    assert_eq!(running.end().status, 148);
    for text in [listed, house.done(&["inspect", "image"]).out] {
        assert!(!text.contains(['\x1b', '\x07']) && !text.contains("two\nlines"), "{text:?}");
        assert!(text.contains(r"\u{1b}[31mred") && text.contains(r"two\nlines"), "{text}");
    }
    house.done(&["run", "\x1b[2J.wasm"]).expect_error(127, &[r"cannot run \u{1b}[2J.wasm"]);
}

#[test]
fn the_socket_of_a_dead_process_is_removed() {
    let house = House::new();
    house.program("cat.wasm", &programs::cat());
    let mut running = house.start(&["run", "cat.wasm"]);
    running.say("x\n");
    running.expect_line("x");
    let socket = socket(&house, &running.pid());
    let pid = running.pid();
    running.child.kill().unwrap();
    running.end();
    assert!(socket.exists());
    house.done(&["freeze", &pid, "image"]).expect_error(1, &["una ps"]);
    assert!(!socket.exists());
    let none = house.done(&["ps"]);
    assert!(none.out.contains("no programs are running"), "{}", none.out);
}

/// Whatever arrives on the socket, the program runs on undisturbed and others are answered.
#[test]
fn hostile_bytes() {
    let house = House::new();
    house.program("cat.wasm", &programs::cat());
    let mut running = house.start(&["run", "cat.wasm"]);
    running.say("x\n");
    running.expect_line("x");
    let path = socket(&house, &running.pid());
    let message = |json: &str| [&(json.len() as u32).to_le_bytes(), json.as_bytes()].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (u32::MAX.to_le_bytes().to_vec(), "a message of 4294967295 bytes"),
        (message("not json"), "not a request"),
        (message("{}"), "missing field `version`"),
        (message(r#"{"version":99,"request":"describe"}"#), "protocol version 99; this is version 1"),
        (message(r#"{"version":1,"request":"destroy"}"#), "unknown variant `destroy`"),
        (message(r#"{"version":1,"request":"freeze"}"#), "missing field"),
        (
            message(&format!("{{\"version\":1,\"request\":{}", "[".repeat(30_000) + &"]".repeat(30_000) + "}")),
            "recursion limit exceeded",
        ),
        (
            message(
                r#"{"version":1,"request":"freeze","image":"/proc/self/mem","with_program":false,"afterwards":"end"}"#,
            ),
            "cannot freeze into /proc/self/mem",
        ),
        (
            message(r#"{"version":1,"request":"freeze","image":"","with_program":false,"afterwards":"end"}"#),
            "cannot freeze into",
        ),
    ];
    for (bytes, expected) in cases {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut reply = vec![];
        stream.read_to_end(&mut reply).unwrap();
        let text = String::from_utf8_lossy(reply.get(4..).unwrap_or_default()).to_string();
        assert!(text.contains(expected) && text.contains("refused"), "{expected}: {text}");
    }
    // Ones that say nothing, or stop in the middle, take nobody's place for long.
    let mut silent: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for stream in &mut silent {
        let _ = stream.write_all(&[9, 0]);
    }
    running.say("y\n");
    running.expect_line("y");
    house::until("an answer", || {
        let listed = house.done(&["ps"]);
        listed.out.contains("cat.wasm").then_some(())
    });
    drop(silent);
    // Half a message, then the end.
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(&message("{\"version\":1")[..8]).unwrap();
    drop(stream);
    let frozen = house.done(&["freeze", &running.pid(), "image"]);
    assert_eq!(frozen.status, 0, "{}", frozen.err);
    assert_eq!(running.end().status, 148);
}

#[test]
fn a_directory_of_somebody_else_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let house = House::new();
    house.program("hello.wasm", &programs::hello());
    std::fs::create_dir_all(house.path("run/una")).unwrap();
    std::fs::set_permissions(house.path("run/una"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let done = house.done(&["run", "hello.wasm"]);
    done.expect(0, "hello\n");
    assert!(done.err.contains("others can write to it (mode 777)"), "{}", done.err);
    house.done(&["ps"]).expect_error(125, &["others can write to it", "chmod 700"]);
}
