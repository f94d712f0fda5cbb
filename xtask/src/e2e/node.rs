//! Machines with una on them: the daemon as a process, and its commands. It knows their words and what `--json` shows.
//!
//! The one idea: each machine has directories of its own for everything that una keeps, and loses them only with the scenario; so a daemon
//! that is killed and started again is the same node.

use super::network::Network;
use super::until;
use crate::Outcome;
use daemon::steps::{self, Step};
use drivers::presence::PLAYED;
use serde_json::Value;
use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What all scenarios of a run share.
pub struct Setting {
    pub una: PathBuf,
    pub keep: bool,
}

/// Machines on a network, and the daemons that run on them.
pub struct Machines {
    pub network: Network,
    una: PathBuf,
    directory: PathBuf,
    keep: bool,
    daemons: RefCell<Vec<Option<Child>>>,
    /// Those that interpret programs, whatever their processors are.
    interpreters: Vec<usize>,
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Done {
    /// What it printed, if it did it.
    pub fn ok(self) -> Outcome<String> {
        match self.status {
            Some(0) => Ok(self.out),
            status => Err(format!("status {status:?}\n{}{}", self.out, self.err).into()),
        }
    }

    /// What it said, if it refused.
    pub fn refused(self) -> Outcome<String> {
        match self.status {
            Some(0) => Err(format!("it should have been refused, and printed: {}", self.out).into()),
            _ => Ok(self.err),
        }
    }
}

/// Every daemon listens there, so that its connections are known by their port.
pub const PORT: u16 = 7000;
const LISTEN: &str = "0.0.0.0:7000";

/// Longer than any command should take that does not wait for something.
const COMMAND_MAX: Duration = Duration::from_secs(45);

impl Machines {
    pub fn new(setting: &Setting, count: usize) -> Outcome<Machines> {
        Machines::with_interpreters(setting, count, &[])
    }

    /// As [`Machines::joined`]; some of them run programs as a machine with another processor would.
    pub fn joined_with_interpreters(setting: &Setting, count: usize, interpreters: &[usize]) -> Outcome<Machines> {
        let machines = Machines::with_interpreters(setting, count, interpreters)?;
        machines.begin(count)?;
        Ok(machines)
    }

    fn with_interpreters(setting: &Setting, count: usize, interpreters: &[usize]) -> Outcome<Machines> {
        let network = Network::new(count)?;
        let directory = std::env::temp_dir().join(network.prefix().trim_end_matches('-'));
        std::fs::create_dir_all(&directory)?;
        let machines = Machines {
            network,
            una: setting.una.clone(),
            directory,
            keep: setting.keep,
            daemons: RefCell::new((0..=count).map(|_| None).collect()),
            interpreters: interpreters.to_vec(),
        };
        for machine in 1..=count {
            let run = machines.home(machine).join("run");
            std::fs::create_dir_all(&run)?;
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o700))?;
            std::fs::create_dir_all(machines.steps(machine))?;
        }
        Ok(machines)
    }

    /// `count` nodes of one system. The first begins it.
    pub fn joined(setting: &Setting, count: usize) -> Outcome<Machines> {
        let machines = Machines::new(setting, count)?;
        machines.begin(count)?;
        Ok(machines)
    }

    /// The first machine begins a system, and the others join it.
    pub fn begin(&self, count: usize) -> Outcome {
        self.up(1)?;
        for machine in 2..=count {
            self.join(machine)?;
        }
        self.agree(&(1..=count).collect::<Vec<_>>())?;
        // Of three nodes any may be lost, but not in the moment before the newest votes too.
        let survives = (count.saturating_sub(1) / 2).min(2);
        until(&format!("a system that survives {survives} losses"), || {
            let view = self.system(1)?;
            match view["survives"].as_u64() {
                Some(now) if now as usize >= survives => Ok(()),
                _ => Err(format!("{}", view["coordinator"])),
            }
        })
    }

    /// The machine's own directory.
    pub fn home(&self, machine: usize) -> PathBuf {
        self.directory.join(format!("n{machine}"))
    }

    /// Where it is said at which steps its daemon waits.
    fn steps(&self, machine: usize) -> PathBuf {
        self.home(machine).join("steps")
    }

    /// The next time that the daemon comes to this step it waits there.
    pub fn hold_at(&self, machine: usize, step: Step) -> Outcome<Held> {
        let wish = self.steps(machine).join(step.name());
        let held = Held { reached: self.steps(machine).join(format!("{}.reached", step.name())), wish };
        std::fs::write(&held.wish, [])?;
        Ok(held)
    }

    fn command(&self, machine: usize, arguments: &[&str]) -> Command {
        let home = self.home(machine);
        let mut command = self.network.on(machine, &self.una);
        command.args(arguments).current_dir(&home).env_clear().env("RUST_BACKTRACE", "1");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", home.join("home")).env("XDG_RUNTIME_DIR", home.join("run"));
        command.env(steps::VARIABLE, self.steps(machine));
        // Who has lent none does not look for its owner.
        command.env(PLAYED, home.join("owner"));
        let clock = self.clock(machine);
        if clock.exists() {
            command.env("LD_PRELOAD", FAKETIME).env("FAKETIME_TIMESTAMP_FILE", clock);
            command.env("FAKETIME_CACHE_DURATION", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command on a machine to its end.
    pub fn una(&self, machine: usize, arguments: &[&str]) -> Outcome<Done> {
        self.una_within(machine, arguments, COMMAND_MAX)
    }

    /// The same; a command that is not done by then is ended, and has failed.
    pub fn una_within(&self, machine: usize, arguments: &[&str], most: Duration) -> Outcome<Done> {
        let mut child = self.command(machine, arguments).spawn()?;
        let begun = Instant::now();
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let reading = |pipe: Option<Box<dyn std::io::Read + Send>>| {
            std::thread::spawn(move || {
                let mut all = String::new();
                if let Some(mut pipe) = pipe {
                    let _ = pipe.read_to_string(&mut all);
                }
                all
            })
        };
        let out = reading(out.take().map(|pipe| Box::new(pipe) as _));
        let err = reading(err.take().map(|pipe| Box::new(pipe) as _));
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status.code();
            }
            if begun.elapsed() > most {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
        let (out, mut err) = (text(out), text(err));
        if status.is_none() {
            err += &format!("`una {}` on n{machine} had not ended after {} s", arguments.join(" "), most.as_secs());
        }
        Ok(Done { status, out, err })
    }

    /// Begins a command on a machine, which goes on while other things happen.
    pub fn begin_una(&self, machine: usize, arguments: &[&str]) -> Outcome<Child> {
        Ok(self.command(machine, arguments).spawn()?)
    }

    /// The same; what it prints goes into a file.
    pub fn begin_una_into(&self, machine: usize, arguments: &[&str], out: &Path) -> Outcome<Child> {
        let log = File::options().create(true).append(true).open(out.with_extension("err"))?;
        Ok(self.command(machine, arguments).stdout(File::create(out)?).stderr(log).spawn()?)
    }

    /// A file on the machine, beside its directories.
    pub fn write(&self, machine: usize, name: &str, content: &[u8]) -> Outcome<String> {
        let path = self.home(machine).join(name);
        std::fs::write(&path, content)?;
        Ok(path.to_string_lossy().into_owned())
    }

    // Daemons.

    /// Starts the daemon and waits until it answers.
    pub fn up(&self, machine: usize) -> Outcome {
        let name = format!("node{machine}");
        self.start(machine, &["up", "--name", &name, "--listen", LISTEN])
    }

    fn start(&self, machine: usize, arguments: &[&str]) -> Outcome {
        let engine = if self.interpreters.contains(&machine) { "pulley" } else { "native" };
        let (verb, rest) = arguments.split_first().ok_or("a daemon is started by a command")?;
        let arguments: Vec<&str> = [*verb, "--engine", engine].iter().chain(rest).copied().collect();
        let log = File::options().create(true).append(true).open(self.home(machine).join("daemon.log"))?;
        let mut command = self.command(machine, &arguments);
        command.stdout(log.try_clone()?).stderr(log);
        self.daemons.borrow_mut()[machine] = Some(command.spawn()?);
        until(&format!("the daemon of n{machine} to answer"), || {
            let ended = self.daemons.borrow_mut()[machine].as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Err(format!("it has ended ({status}): {}", self.log(machine)));
            }
            self.system(machine).map(drop)
        })
    }

    fn log(&self, machine: usize) -> String {
        std::fs::read_to_string(self.home(machine).join("daemon.log")).unwrap_or_default()
    }

    /// The machine becomes a node of the first one's system.
    pub fn join(&self, machine: usize) -> Outcome {
        let ticket = self.ticket(1)?;
        self.join_with(machine, &ticket)
    }

    pub fn ticket(&self, machine: usize) -> Outcome<String> {
        Ok(self.una(machine, &["ticket", "--quiet"])?.ok()?.trim().to_string())
    }

    pub fn join_with(&self, machine: usize, ticket: &str) -> Outcome {
        let name = format!("node{machine}");
        self.start(machine, &["join", "--foreground", "--name", &name, "--listen", LISTEN, ticket])
    }

    pub fn signal(&self, machine: usize, signal: &str) -> Outcome {
        let daemons = self.daemons.borrow();
        let child = daemons[machine].as_ref().ok_or_else(|| format!("no daemon runs on n{machine}"))?;
        let status = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err(format!("n{machine} could not be sent {signal}").into()) }
    }

    /// As if the machine had lost power, but for what the disk holds.
    pub fn kill(&self, machine: usize) -> Outcome {
        self.signal(machine, "KILL")?;
        self.ended(machine)
    }

    /// Waits until the daemon has ended.
    pub fn ended(&self, machine: usize) -> Outcome {
        let child = self.daemons.borrow_mut()[machine].take();
        if let Some(mut child) = child {
            until(&format!("the daemon of n{machine} to end"), || match child.try_wait() {
                Ok(Some(_)) => Ok(()),
                other => Err(format!("{other:?}")),
            })?;
        }
        Ok(())
    }

    fn clock(&self, machine: usize) -> PathBuf {
        self.home(machine).join("clock")
    }

    /// The clock of the machine is off, from the daemon's next start on; if it was off before, within a second.
    pub fn set_clock(&self, machine: usize, off: &str) -> Outcome {
        Ok(std::fs::write(self.clock(machine), off)?)
    }

    /// From now on every connection between two daemons goes through a relay that takes its time. Ends with what is returned.
    pub fn slow_down(&self, least: Duration, most: Duration) -> Outcome<Vec<Relaying>> {
        let program = std::env::current_exe()?;
        let mut relays = vec![];
        for machine in 1..self.daemons.borrow().len() {
            let (listen, target) = self.network.through_hub(machine, PORT)?;
            let mut command = self.network.on_hub(&program);
            command.args(["e2e", "relay", &listen, &target]);
            command.args([least.as_millis().to_string(), most.as_millis().to_string()]);
            relays.push(Relaying(command.stdin(Stdio::null()).spawn()?));
        }
        Ok(relays)
    }

    // What is seen.

    /// The system as a machine sees it.
    pub fn system(&self, machine: usize) -> Result<Value, String> {
        self.json(machine, &["nodes", "--json"])
    }

    pub fn json(&self, machine: usize, arguments: &[&str]) -> Result<Value, String> {
        let done = self.una_within(machine, arguments, Duration::from_secs(10)).map_err(|error| error.to_string())?;
        let text = done.ok().map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| format!("not JSON: {error}: {text}"))
    }

    /// How `by` sees `machine`, by its name: up, suspect, down, left, or not at all.
    pub fn state(&self, by: usize, machine: usize) -> Result<Option<String>, String> {
        let view = self.system(by)?;
        let name = format!("node{machine}");
        let lines = view["nodes"].as_array().cloned().unwrap_or_default();
        let line = lines.iter().find(|line| line["name"] == name.as_str());
        Ok(line.and_then(|line| line["state"].as_str()).map(String::from))
    }

    /// Whether `by` has a link to `machine` now.
    pub fn is_linked(&self, by: usize, machine: usize) -> Result<bool, String> {
        let view = self.system(by)?;
        let name = format!("node{machine}");
        let lines = view["nodes"].as_array().cloned().unwrap_or_default();
        let line = lines.iter().find(|line| line["name"] == name.as_str());
        Ok(line.is_some_and(|line| line["round_trip_us"].is_number()))
    }

    /// Waits until `by` sees `machine` so.
    pub fn sees(&self, by: usize, machine: usize, state: &str) -> Outcome {
        until(&format!("n{by} to see n{machine} {state}"), || match self.state(by, machine)? {
            Some(seen) if seen == state => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
    }

    /// Waits until all of these see exactly these up, and facts can be changed.
    pub fn agree(&self, machines: &[usize]) -> Outcome {
        for by in machines {
            until(&format!("n{by} to see exactly {machines:?} up, and facts that can be changed"), || {
                let view = self.system(*by)?;
                let lines = view["nodes"].as_array().cloned().unwrap_or_default();
                let up = lines.iter().filter(|line| line["state"] == "up");
                let mut up: Vec<String> = up.filter_map(|line| line["name"].as_str()).map(String::from).collect();
                up.sort();
                let mut expected: Vec<String> = machines.iter().map(|machine| format!("node{machine}")).collect();
                expected.sort();
                let writable = view["coordinator"]["writable"] == true;
                if up == expected && writable {
                    Ok(())
                } else {
                    Err(format!("up: {up:?}, coordinator: {}", view["coordinator"]))
                }
            })?;
        }
        Ok(())
    }

    /// Which machine leads the coordinator, and which decides about files, as `by` sees it.
    pub fn leader(&self, by: usize) -> Outcome<usize> {
        until("a leader", || {
            let view = self.system(by)?;
            self.machine_of(&view, &view["coordinator"]["leader"])
        })
    }

    pub fn holder(&self, by: usize) -> Outcome<usize> {
        until("a holder of the tree of files", || {
            let view = self.system(by)?;
            self.machine_of(&view, &view["files"]["holder"])
        })
    }

    /// Nodes have numbers of their own; a machine is known by the name that it was given.
    fn machine_of(&self, view: &Value, number: &Value) -> Result<usize, String> {
        let lines = view["nodes"].as_array().cloned().unwrap_or_default();
        let line = lines.iter().find(|line| !number.is_null() && line["number"] == *number);
        let name = line.and_then(|line| line["name"].as_str()).unwrap_or_default().to_string();
        let machine = name.strip_prefix("node").and_then(|rest| rest.parse().ok());
        machine.ok_or_else(|| format!("no node has number {number}: {view}"))
    }

    /// The node on which each living copy of a process is, as `by` sees it.
    pub fn copies(&self, by: usize, pid: &str) -> Result<Vec<u64>, String> {
        let listed = self.json(by, &["ps", "--json"])?;
        let processes = listed["processes"].as_array().cloned().unwrap_or_default();
        let same = processes.iter().filter(|process| shown(&process["pid"]) == pid && process["state"] != "lost");
        Ok(same.filter_map(|process| process["node"].as_u64()).collect())
    }

    /// The number of the one process of this name, if there is one.
    pub fn named(&self, by: usize, name: &str) -> Result<Option<String>, String> {
        let listed = self.json(by, &["ps", "--json"])?;
        let processes = listed["processes"].as_array().cloned().unwrap_or_default();
        let found = processes.iter().find(|process| process["name"] == name);
        Ok(found.map(|process| shown(&process["pid"])))
    }

    // Files and programs.

    /// Stores content under a name in una's tree, from a machine; done when it is acknowledged.
    pub fn store(&self, machine: usize, path: &str, content: &str) -> Outcome<Done> {
        let file = self.write(machine, "content", content.as_bytes())?;
        self.una(machine, &["cp", &file, &format!("una:{path}")])
    }

    /// Waits until a machine reads this content there.
    pub fn reads(&self, machine: usize, path: &str, content: &str) -> Outcome {
        until(&format!("n{machine} to read {path}"), || {
            let done = self.una(machine, &["cat", path]).map_err(|error| error.to_string())?;
            let text = done.ok().map_err(|error| error.to_string())?;
            if text == content { Ok(()) } else { Err(format!("{text:?}")) }
        })
    }
}

/// A process's number as people write it.
fn shown(pid: &Value) -> String {
    pid.as_str().map_or_else(|| pid.to_string(), String::from)
}

/// A daemon that waits at a step, or will.
pub struct Held {
    wish: PathBuf,
    reached: PathBuf,
}

impl Held {
    pub fn is_reached(&self) -> bool {
        self.reached.exists()
    }

    /// It goes on, or does not wait there any more.
    pub fn let_go(&self) {
        let _ = std::fs::remove_file(&self.wish);
        let _ = std::fs::remove_file(&self.reached);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// A relay that runs as a process of its own, in the namespace of the bridge.
pub struct Relaying(Child);

impl Drop for Relaying {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for child in self.daemons.borrow_mut().iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.keep || std::thread::panicking() {
            println!("what the nodes wrote is in {}", self.directory.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// For machines of this architecture on Debian; a scenario that needs it says so if it is not there.
pub const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
