//! ctrl-Z, and what a terminal's user sees.

mod house;

use house::{House, PATIENCE, code, programs, until};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};

/// A terminal of its own, with a program in it.
struct Terminal {
    master: File,
    child: Child,
    output: Receiver<u8>,
    seen: String,
}

impl Terminal {
    fn start(mut command: Command) -> Terminal {
        // SAFETY: plain calls on descriptors that this function owns; the name's buffer is as long as it says.
        let (master, name) = unsafe {
            let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
            assert!(master >= 0 && libc::grantpt(master) == 0 && libc::unlockpt(master) == 0);
            let mut name = [0; 64];
            assert_eq!(libc::ptsname_r(master, name.as_mut_ptr(), name.len()), 0);
            let name = std::ffi::CStr::from_ptr(name.as_ptr()).to_str().unwrap().to_string();
            (OwnedFd::from_raw_fd(master), name)
        };
        let slave = || File::options().read(true).write(true).open(&name).unwrap();
        command.stdin(slave()).stdout(slave()).stderr(slave());
        // SAFETY: both are system calls, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // A session of its own, whose terminal this is: then ctrl-Z reaches it.
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        drop(command);
        let master = File::from(master);
        let mut reader = master.try_clone().unwrap();
        let (byte, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 1];
            // At the end of the last program in it, a terminal gives an error.
            while reader.read(&mut buffer).is_ok_and(|length| length == 1) {
                if byte.send(buffer[0]).is_err() {
                    break;
                }
            }
        });
        Terminal { master, child, output, seen: String::new() }
    }

    fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this has appeared since the last time.
    #[track_caller]
    fn see(&mut self, text: &str) {
        while !self.seen.contains(text) {
            match self.output.recv_timeout(PATIENCE) {
                Ok(byte) => self.seen.push(byte as char),
                Err(error) => panic!("no {text:?} ({error}) in {:?}", self.seen),
            }
        }
        self.seen.clear();
    }

    fn end(&mut self) -> i32 {
        code(self.child.wait().unwrap())
    }
}

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
