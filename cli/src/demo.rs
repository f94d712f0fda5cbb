//! `una demo`: shows in a minute, on one machine, what una is for. Knows what to show; everything that is shown is done by other commands
//! of this very program, in directories of its own.

use crate::failure::{Failure, Result, status};
use clap::Args;
use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Show in a minute what una does: three nodes, a program that counts, moved while it runs, and its machine killed
///
/// The three nodes run on this machine, in a directory that is removed in the end; nothing of yours is touched.
#[derive(Args)]
pub struct Demo {
    /// Where the nodes keep what they have, instead of in a directory that is removed in the end
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

/// What the nodes are called.
const NAMES: [&str; 3] = ["kitchen", "attic", "cellar"];
/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long people look at numbers.
const LOOK: Duration = Duration::from_secs(3);

/// Prints a number five times a second, and sleeps between two: the source is `programs/counter.c`.
const COUNTER: &[u8] = include_bytes!("../../programs/counter.wasm");

impl Demo {
    pub fn execute(self) -> Result<u8> {
        let temporary;
        let directory = match &self.directory {
            Some(directory) => directory.clone(),
            None => {
                temporary = Temporary::new()?;
                temporary.0.clone()
            }
        };
        let stage = Stage::new(&directory)?;
        let played = stage.play();
        stage.end();
        played.map(|()| 0)
    }
}

/// A directory that goes with this.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Temporary> {
        let path = std::env::temp_dir().join(format!("una-demo-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| {
            Failure::new(status::FAILED, format!("cannot make {}", path.display()))
                .because(error)
                .help("say where: una demo --directory DIRECTORY")
        })?;
        Ok(Temporary(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed is in the directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Stage {
    program: PathBuf,
    una: PathBuf,
    homes: Vec<PathBuf>,
    colour: bool,
}

impl Stage {
    fn new(directory: &Path) -> Result<Stage> {
        use std::os::unix::fs::DirBuilderExt;
        let failure = |error: std::io::Error| {
            Failure::new(status::FAILED, format!("cannot use {}", directory.display())).because(error)
        };
        // Each node is told where it lives, from wherever it is started.
        let directory = &std::path::absolute(directory).map_err(failure)?;
        let homes: Vec<PathBuf> = NAMES.iter().map(|name| directory.join(name)).collect();
        for home in &homes {
            for part in ["data", "run", "cache"] {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(home.join(part)).map_err(failure)?;
            }
        }
        let program = directory.join("counter.wasm");
        std::fs::write(&program, COUNTER).map_err(failure)?;
        let una = std::env::current_exe().map_err(failure)?;
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Ok(Stage { program, una, homes, colour })
    }

    fn command(&self, node: usize, words: &[&str]) -> Command {
        let mut command = Command::new(&self.una);
        let home = &self.homes[node];
        command.args(words).stdin(Stdio::null()).env("HOME", home).env("NO_COLOR", "1");
        for (name, part) in [("XDG_DATA_HOME", "data"), ("XDG_RUNTIME_DIR", "run"), ("XDG_CACHE_HOME", "cache")] {
            command.env(name, home.join(part));
        }
        command
    }

    fn ask(&self, node: usize, words: &[&str]) -> Result<Output> {
        let asked = self.command(node, words).output();
        asked.map_err(|error| Failure::new(status::FAILED, "cannot run una itself").because(error))
    }

    /// What the command prints, if it does what it is asked.
    fn done(&self, node: usize, words: &[&str]) -> Result<String> {
        let output = self.ask(node, words)?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_string()),
            false => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_string();
                Err(Failure::new(status::FAILED, format!("una {} failed on {}", words.join(" "), NAMES[node]))
                    .because(why))
            }
        }
    }

    fn say(&self, text: &str) -> Result<()> {
        let line = match self.colour {
            true => format!("\n\x1b[1m{text}\x1b[0m\n"),
            false => format!("\n{text}\n"),
        };
        crate::print(&line)
    }

    /// Shows a command, as one would type it, and what it prints.
    fn show(&self, node: usize, words: &[&str]) -> Result<String> {
        let prompt = format!("{}$", NAMES[node]);
        let typed = format!("una {}", words.join(" ")).replace(&*self.program.to_string_lossy(), "counter.wasm");
        let line = match self.colour {
            true => format!("\x1b[36m{prompt}\x1b[0m {typed}\n"),
            false => format!("{prompt} {typed}\n"),
        };
        crate::print(&line)?;
        let said = self.done(node, words)?;
        if !said.is_empty() {
            crate::print(&format!("{said}\n"))?;
        }
        Ok(said)
    }

    /// What the program has counted to, as seen from a node.
    fn counted(&self, node: usize, pid: &str) -> Vec<u64> {
        let Ok(output) = self.ask(node, &["logs", pid]) else { return vec![] };
        String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.trim().parse().ok()).collect()
    }

    /// Lets people look at the numbers for a while.
    fn watch(&self, node: usize, pid: &str) -> Result<()> {
        let until = Instant::now() + LOOK;
        let mut shown = self.counted(node, pid).last().copied().unwrap_or(0);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
            if let Some(last) = self.counted(node, pid).last().copied().filter(|last| *last != shown) {
                shown = last;
                crate::print(&format!("\r  {last} "))?;
                let _ = std::io::stdout().flush();
            }
        }
        crate::print("\n")
    }

    fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if Instant::now() > until {
                return Err(Failure::new(status::FAILED, format!("waited in vain for {what}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn json(&self, node: usize, words: &[&str]) -> Option<Value> {
        serde_json::from_slice(&self.ask(node, words).ok()?.stdout).ok()
    }

    /// Where the process runs, by the name of the node.
    fn place_of(&self, node: usize, pid: &str) -> Option<usize> {
        let listed = self.json(node, &["ps", "--json"])?;
        let processes = listed["processes"].as_array()?;
        let found = processes.iter().find(|process| process["pid"].to_string().trim_matches('"') == pid)?;
        let running = !found["state"].is_object();
        let number = found["node"].as_u64()? as usize;
        (running && (1..=NAMES.len()).contains(&number)).then(|| number - 1)
    }

    fn play(&self) -> Result<()> {
        self.say("Three machines become one computer.")?;
        self.done(0, &["up", "-d", "--listen", "127.0.0.1", "--name", NAMES[0]])?;
        for (node, name) in NAMES.iter().enumerate().skip(1) {
            let ticket = self.done(0, &["ticket", "-q"])?;
            self.done(node, &["join", &ticket, "--listen", "127.0.0.1", "--name", name])?;
        }
        self.until("the three to be one", || {
            let status = self.json(0, &["status", "--json"])?;
            (status["survives"] == 1 && status["files"]["holder"].is_number()).then_some(())
        })?;
        self.show(1, &["nodes"])?;

        self.say("A program that counts: ordinary C, compiled to WebAssembly. It knows nothing of una.")?;
        let program = self.program.to_string_lossy().into_owned();
        let pid = self.show(0, &["run", "-d", "--durable", "--on", NAMES[0], "--name", "counter", &program])?;
        self.until("it to count", || (self.counted(0, &pid).len() > 3).then_some(()))?;
        self.watch(0, &pid)?;

        self.say("It moves to another machine, in the middle of what it does, and on to the third.")?;
        self.show(0, &["move", &pid, NAMES[1]])?;
        self.watch(0, &pid)?;
        self.show(0, &["move", &pid, NAMES[2]])?;
        self.watch(0, &pid)?;

        self.say("The machine that it is on dies: kill -9, no goodbye.")?;
        let began = Instant::now();
        self.kill(2)?;
        let place = self.until("the program to go on", || self.place_of(0, &pid).filter(|place| *place != 2))?;
        let before = self.counted(0, &pid).last().copied().unwrap_or(0);
        self.until("it to count on", || self.counted(0, &pid).last().filter(|last| **last > before).map(|_| ()))?;
        let seconds = began.elapsed().as_secs_f64();
        crate::print(&format!("  it counts on, on {}, {seconds:.1} s later\n", NAMES[place]))?;
        self.show(0, &["ps"])?;
        self.watch(0, &pid)?;

        let all = self.counted(0, &pid);
        let whole = all.windows(2).all(|two| two[1] == two[0] + 1);
        match whole {
            true => self.say(&format!(
                "{} numbers on three machines, one of them dead: none is missing, none came twice.",
                all.len()
            )),
            false => Err(Failure::new(status::FAILED, "a number is missing or came twice")
                .because(format!("{all:?}"))
                .help("this is a bug of una: please report it, with una events of what remained")),
        }
    }

    fn kill(&self, node: usize) -> Result<()> {
        let lock = self.homes[node].join("data/una/node/node.lock");
        let pid = std::fs::read(&lock).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        let pid = pid.and_then(|lock| rustix::process::Pid::from_raw(lock["pid"].as_i64()? as i32));
        let killed = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        match killed {
            Some(Ok(())) => Ok(()),
            _ => Err(Failure::new(status::FAILED, format!("cannot find the daemon of {}", NAMES[node]))),
        }
    }

    fn end(&self) {
        for node in 0..NAMES.len() {
            let _ = self.ask(node, &["down"]);
        }
    }
}
