//! A house for tests: directories of its own for everything that una keeps, so that no test sees another or the user's.
#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]

pub mod computer;
pub mod programs;
mod terminal;

pub use terminal::Terminal;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// No event that a test waits for takes longer, on the slowest machine: this ends a test that would wait for ever.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct House {
    pub directory: tempfile::TempDir,
    /// How far the clock of everything that runs in it is off, as libfaketime takes it.
    clock: Option<String>,
}

/// Where Debian has it. A test of clocks that are wrong needs it, and fails without it.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

impl House {
    pub fn new() -> House {
        House { directory: tempfile::tempdir().unwrap(), clock: None }
    }

    /// One whose clock is off, by `+30s` say.
    pub fn with_clock(off: &str) -> House {
        assert!(exists(Path::new(FAKETIME)), "clocks are set by libfaketime (Debian: libfaketime): cargo xtask setup");
        House { clock: Some(off.into()), ..House::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// A program from its text.
    pub fn program(&self, name: &str, text: &str) -> PathBuf {
        self.write(name, wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}")))
    }

    /// `una`, in this house's directory, with nothing of the user's environment.
    pub fn una(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_una"));
        command.args(arguments).current_dir(self.directory.path()).env_clear();
        command.env("HOME", self.path("home")).env("XDG_RUNTIME_DIR", self.path("run"));
        std::fs::create_dir_all(self.path("run")).unwrap();
        if let Some(off) = &self.clock {
            command.env("LD_PRELOAD", FAKETIME).env("FAKETIME", off).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs to the end.
    pub fn done(&self, arguments: &[&str]) -> Done {
        self.una(arguments).output().unwrap().into()
    }

    /// Runs to the end with this input.
    pub fn done_with(&self, arguments: &[&str], input: &str) -> Done {
        let mut child = self.una(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_string();
        let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let done = child.wait_with_output().unwrap().into();
        let _ = writing.join().unwrap();
        done
    }

    /// Starts; the test reads its lines and writes its input.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::new(self.una(arguments).stdin(Stdio::piped()).spawn().unwrap())
    }

    /// The files directly in a directory of the house.
    pub fn list(&self, name: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(name)) else { return vec![] };
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A command that has ended.
pub struct Done {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Done { status: code(output.status), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// As a shell counts it.
pub fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

impl Done {
    #[track_caller]
    pub fn expect(&self, status: i32, out: &str) {
        assert_eq!((self.status, self.out.as_str()), (status, out), "stderr: {}", self.err);
    }

    /// Its output has all of these in it.
    #[track_caller]
    pub fn expect_out(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, status, "stdout: {}\nstderr: {}", self.out, self.err);
        for part in parts {
            assert!(self.out.contains(part), "no {part:?} in:\n{}", self.out);
        }
    }

    /// An error with this status, whose text has all of these in it. It must be one for people: never a panic.
    #[track_caller]
    pub fn expect_error(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, status, "stdout: {}\nstderr: {}", self.out, self.err);
        assert!(!self.err.contains("panicked") && !self.err.contains("RUST_BACKTRACE"), "{}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "no {part:?} in:\n{}", self.err);
        }
    }
}

/// A command that is running.
pub struct Running {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<std::thread::JoinHandle<String>>,
}

impl Running {
    pub fn new(mut child: Child) -> Running {
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let (line, lines) = channel();
        std::thread::spawn(move || {
            // With its end, since a program may be frozen within a line.
            let mut text = String::new();
            while stdout.read_line(&mut text).unwrap() > 0 && line.send(std::mem::take(&mut text)).is_ok() {}
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        Running { stdin: child.stdin.take(), child, lines, errors: Some(errors) }
    }

    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// The next line of its output.
    #[track_caller]
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line.trim_end_matches('\n').to_string(),
            Err(error) => {
                let _ = self.child.kill();
                panic!("no further line ({error}); stderr: {}", self.errors.take().unwrap().join().unwrap());
            }
        }
    }

    /// The next line, if it comes within the time.
    pub fn line_within(&mut self, timeout: Duration) -> Option<String> {
        Some(self.lines.recv_timeout(timeout).ok()?.trim_end_matches('\n').to_string())
    }

    #[track_caller]
    pub fn expect_line(&mut self, expected: &str) {
        assert_eq!(self.line(), expected);
    }

    pub fn say(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Waits for its end; `out` is what it printed since the last line that was read. Its input is closed.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn end(mut self) -> Done {
        drop(self.stdin.take());
        let status = code(self.child.wait().unwrap());
        let out = self.lines.iter().collect();
        Done { status, out, err: self.errors.take().unwrap().join().unwrap() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that failed leaves nothing running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so. Only for what no event tells: a file that appears.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}
