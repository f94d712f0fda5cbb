//! ctrl-Z, and what a terminal's user sees.

mod house;

use house::{House, Terminal, programs, until};
use std::os::unix::process::CommandExt;

#[test]
fn ctrl_z_freezes_into_the_image() {
    let house = House::new();
    house.program("cat.wasm", &programs::cat());
    let image = house.path("my image");
    let mut terminal = Terminal::start(house.una(&["run", "--image", "my image", "cat.wasm"]));
    terminal.type_in("hello\n");
    // Once as an echo, once from the program.
    terminal.see("hello\r\nhello\r\n");
    terminal.type_in("\x1a");
    terminal.see(&format!("go on with: una thaw '{}'", image.display()));
    assert_eq!(terminal.end(), 148);
    // And again, from what was thawed.
    let mut terminal = Terminal::start(house.una(&["thaw", "--image", "my image", "my image"]));
    terminal.type_in("again\n");
    terminal.see("again\r\nagain\r\n");
    terminal.type_in("\x1a");
    assert_eq!(terminal.end(), 148);
    house.done_with(&["thaw", "my image"], "from a pipe\n").expect(0, "from a pipe\n");
}

#[test]
fn ctrl_z_that_fails_leaves_the_program_running() {
    let house = House::new();
    house.program("cat.wasm", &programs::cat());
    std::fs::create_dir(house.path("d")).unwrap();
    let mut terminal = Terminal::start(house.una(&["run", "--image", "d/image", "cat.wasm"]));
    terminal.type_in("one\n");
    terminal.see("one\r\none\r\n");
    std::fs::remove_dir(house.path("d")).unwrap();
    terminal.type_in("\x1a");
    terminal.see("help: make the directory, or choose another\r\n");
    terminal.type_in("two\n");
    terminal.see("two\r\ntwo\r\n");
    terminal.type_in("\x04");
    assert_eq!(terminal.end(), 0);
}

/// Without --image it means what it means for every program: the shell's job control.
#[test]
fn the_signal_stops_as_ever_without_an_image() {
    let house = House::new();
    house.program("cat.wasm", &programs::cat());
    let mut command = house.una(&["run", "cat.wasm"]);
    // A process group whose parent is outside of it: others are never stopped.
    command.process_group(0).stdin(std::process::Stdio::piped());
    let mut running = house::Running::new(command.spawn().unwrap());
    running.say("one\n");
    running.expect_line("one");
    let pid = running.child.id() as i32;
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().chars().next().unwrap()
    };
    let send = |signal| {
        // SAFETY: a signal to a child that has not been waited for, so the number is its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    };
    send(libc::SIGTSTP);
    until("it to stop", || (state() == 'T').then_some(()));
    let listed = house.done(&["ps"]);
    assert!(listed.out.contains(&pid.to_string()) && listed.out.contains("it is stopped"), "{}", listed.out);
    let resume = format!("kill -CONT {pid}");
    house.done(&["freeze", &pid.to_string(), "image"]).expect_error(1, &["it is stopped", &resume]);
    send(libc::SIGCONT);
    running.say("two\n");
    running.expect_line("two");
    running.end().expect(0, "");
}

/// Errors are coloured for people, unless they do not want that.
#[test]
fn colours_only_where_they_are_wanted() {
    let house = House::new();
    for (variable, coloured) in [(None, true), (Some("NO_COLOR"), false)] {
        let mut command = house.una(&["run", "absent.wasm"]);
        command.env("TERM", "xterm-256color");
        variable.map(|variable| command.env(variable, "1"));
        let mut terminal = Terminal::start(command);
        assert_eq!(terminal.end(), 127);
        let text: Vec<u8> = terminal.output.iter().collect();
        assert!(String::from_utf8_lossy(&text).contains("cannot run absent.wasm"));
        assert_eq!(text.contains(&0x1b), coloured);
    }
    assert!(!house.done(&["run", "absent.wasm"]).err.contains('\x1b'));
}
