//! A terminal for tests, with a program in it that believes in it.

use super::{PATIENCE, code};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};

/// A terminal of its own, with a program in it.
pub struct Terminal {
    master: File,
    child: Child,
    pub output: Receiver<u8>,
    seen: String,
}

impl Terminal {
    pub fn start(mut command: Command) -> Terminal {
        // SAFETY: plain calls on descriptors that this function owns; the name's buffer is as long as it says.
        let (master, name) = unsafe {
            let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
            assert!(master >= 0 && libc::grantpt(master) == 0 && libc::unlockpt(master) == 0);
            let mut name = [0; 64];
            assert_eq!(libc::ptsname_r(master, name.as_mut_ptr(), name.len()), 0);
            let name = std::ffi::CStr::from_ptr(name.as_ptr()).to_str().unwrap().to_string();
            (OwnedFd::from_raw_fd(master), name)
        };
        // Programs that draw ask how large it is.
        let size = rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).unwrap();
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

    pub fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this has appeared since the last time.
    #[track_caller]
    pub fn see(&mut self, text: &str) {
        while !self.seen.contains(text) {
            match self.output.recv_timeout(PATIENCE) {
                Ok(byte) => self.seen.push(byte as char),
                Err(error) => panic!("no {text:?} ({error}) in {:?}", self.seen),
            }
        }
        self.seen.clear();
    }

    pub fn end(&mut self) -> i32 {
        code(self.child.wait().unwrap())
    }
}
