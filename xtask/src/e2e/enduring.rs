//! Programs that go on until they are told to stop, for scenarios in which much happens to them. Knows their words and what they print; not
//! what happens to them.
//!
//! The one idea: each prints lines that are numbered from 1 and follow from its arguments alone. So a line that was lost, came twice or in
//! another order is seen in what one has printed, and the rest by running the same program again, unmoved, for as many lines.

use super::moving::{RUN_MAX, must};
use super::node::Machines;
use super::until;
use crate::Outcome;
use crate::step::output;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Sources beside this file, and what `cargo xtask fetch` brings.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Program {
    C,
    /// Prints, and has no other effect.
    Showing,
    /// Sleeps, and says how punctual it was.
    Waking,
    Go,
    Python,
    Together,
}

/// A program that is on the machines.
pub struct Ready {
    wasm: String,
    /// The words before a program's own.
    first: Vec<String>,
}

fn sources() -> PathBuf {
    crate::root().join("xtask/src/e2e/programs")
}

/// Compiles a program, for whoever starts it on the first machine. Gives where it is.
pub fn compiled(machines: &Machines, source: &str) -> Outcome<String> {
    let wasm = machines.home(1).join(format!("{source}.wasm"));
    let mut command = Command::new(crate::root().join("programs/compile"));
    let advice = "cargo xtask setup installs what compiles to WebAssembly";
    output(command.arg(sources().join(source)).arg(&wasm), advice)?;
    text(&wasm)
}

impl Program {
    /// Compiles it, or brings it, for whoever starts it on the first machine.
    pub fn ready(self, machines: &Machines) -> Outcome<Ready> {
        let compile =
            |source: &str| -> Outcome<Ready> { Ok(Ready { wasm: compiled(machines, source)?, first: vec![] }) };
        match self {
            Program::C => compile("enduring.c"),
            Program::Showing => compile("showing.c"),
            Program::Waking => compile("waking.c"),
            Program::Go => compile("enduring.go"),
            Program::Together => compile("together.c"),
            Program::Python => {
                let wasm = crate::fetch::one("python")?;
                let script = std::fs::read_to_string(sources().join("enduring.py"))?;
                Ok(Ready { wasm: text(&wasm)?, first: vec!["-c".into(), script] })
            }
        }
    }
}

fn text(path: &Path) -> Outcome<String> {
    path.to_str().map(String::from).ok_or_else(|| format!("{} is not text", path.display()).into())
}

impl Ready {
    /// The words that run it on a machine.
    fn run(&self, options: &[&str], words: &[String]) -> Vec<String> {
        let options = ["run"].iter().chain(options).map(|word| word.to_string());
        options.chain([self.wasm.clone()]).chain(self.first.clone()).chain(words.to_vec()).collect()
    }

    /// Starts it without anybody who follows what it prints. Gives its number.
    pub fn start_detached(&self, machines: &Machines, at: usize, words: &[&str]) -> Outcome<String> {
        self.start_with(machines, &["-d", "--on", &format!("node{at}")], words)
    }

    /// The same, with options of its own.
    pub fn start_with(&self, machines: &Machines, options: &[&str], words: &[&str]) -> Outcome<String> {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        let arguments = self.run(options, &words);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Ok(machines.una(1, &arguments)?.ok()?.trim().to_string())
    }
}

/// One that runs, with a command on the first machine that reads all that it prints.
pub struct Running {
    pub name: String,
    pub pid: String,
    pub at: usize,
    pub moves: usize,
    began: Instant,
    child: Child,
    out: PathBuf,
}

/// More lines than it ever prints.
pub const ENDLESS: &str = "4000000000";

impl Running {
    pub fn start(machines: &Machines, at: usize, name: &str, ready: &Ready, words: &[&str]) -> Outcome<Running> {
        let out = machines.home(1).join(format!("{name}.out"));
        let node = format!("node{at}");
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        let arguments = ready.run(&["--name", name, "--on", &node], &words);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut child = machines.begin_una_into(1, &arguments, &out)?;
        let begun = Instant::now();
        // It may have to be compiled first, which takes longer than anything else.
        let pid = loop {
            let found = machines.named(1, name);
            if let Ok(Some(pid)) = found {
                break pid;
            }
            if let Some(status) = child.try_wait()? {
                let said = std::fs::read_to_string(out.with_extension("err")).unwrap_or_default();
                return Err(
                    format!("{name} is not listed ({found:?}), and its command has ended: {status}; {said}").into()
                );
            }
            if begun.elapsed() > RUN_MAX {
                child.kill()?;
                return Err(format!("{name} does not begin: {found:?}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        Ok(Running { name: name.into(), pid, at, moves: 0, began: begun, child, out })
    }

    pub fn printed(&self) -> Result<String, String> {
        std::fs::read_to_string(&self.out).map_err(|error| format!("{}: {error}", self.out.display()))
    }

    /// Waits until it has printed so many lines.
    pub fn has_printed(&self, lines: usize) -> Outcome {
        until(&format!("{} to print {lines} lines", self.name), || match self.printed()?.lines().count() {
            printed if printed >= lines => Ok(()),
            printed => Err(format!("{printed} lines, and said {}", self.said())),
        })
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.out.with_extension("err")).unwrap_or_default()
    }

    /// It ends by itself, and has printed each line once. Gives all that it printed.
    pub fn ends_well(&mut self) -> Outcome<String> {
        let begun = Instant::now();
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if begun.elapsed() > RUN_MAX => return Err(format!("{} does not end", self.name).into()),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let printed = self.printed()?;
        let last = printed.lines().next_back().unwrap_or_default();
        must(status.success(), format!("{} ends well: {status}; {}; its last line is {last}", self.name, self.said()))?;
        each_once(&self.name, &printed)?;
        Ok(printed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines 1, 2, 3 ... Gives how many.
pub fn each_once(name: &str, printed: &str) -> Outcome<usize> {
    let mut due = 0;
    for line in printed.lines() {
        due += 1;
        let number = line.split(' ').next().and_then(|word| word.parse::<usize>().ok());
        must(number == Some(due), format!("{name} prints line {due} where it prints {line:?}"))?;
    }
    Ok(due)
}

/// The same run where it stays, for as many lines: `words` has `{lines}` where their number stands. It takes no longer than `moved` did.
pub fn as_unmoved(machines: &Machines, moved: &Running, ready: &Ready, words: &[&str], printed: &str) -> Outcome {
    let name = &moved.name;
    let lines = printed.lines().count().to_string();
    let words: Vec<String> = words.iter().map(|word| word.replace("{lines}", &lines)).collect();
    let all = ready.run(&["--on", "node1"], &words);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let done = machines.una_within(1, &all, moved.began.elapsed() + RUN_MAX)?;
    let expected = done.ok()?;
    if expected == *printed {
        return Ok(());
    }
    let differing = expected.lines().zip(printed.lines()).find(|(one, other)| one != other);
    Err(format!("{name} printed {lines} lines, and not those of a run that stays where it is: {differing:?}").into())
}
