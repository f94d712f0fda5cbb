//! `una checkpoint` and `una checkpoints`: keeping a process as it is, and what is kept. Knows what is asked; the daemon does it.

use crate::failure::{Result, printable};
use crate::node;
use crate::{freeze, json, nodes, print, ps};
use clap::Args;
use daemon::node::Pid;
use daemon::protocol::{Reply, Request};
use daemon::system::view::{CheckpointState, CheckpointView, MadeView};
use drivers::clock::now_ms;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// Keep a running program as it is now
///
/// The program is stopped for a moment and runs on. What is kept is on two nodes, if there are so many, and goes on with una restore
/// when the program has ended, on any node; una undo takes the program itself back to it. The files that the program uses are not
/// kept with it: they stay what they are. Of each process the last eight are kept.
#[derive(Args)]
pub struct Checkpoint {
    /// What to call it; such ones are removed last
    #[arg(long)]
    name: Option<String>,

    /// Print JSON for scripts
    #[arg(long)]
    json: bool,

    /// The process, as `una ps` shows it
    #[arg(value_name = "PID")]
    pid: Pid,
}

/// List what is kept of processes
#[derive(Args)]
pub struct Checkpoints {
    /// Read all that they consist of, to see whether it is whole; what is damaged on one disk is replaced from another
    #[arg(long)]
    verify: bool,

    /// Remove this one, by its number or name
    #[arg(long, value_name = "CHECKPOINT", requires = "pid")]
    remove: Option<String>,

    /// Remove all of the process
    #[arg(long, requires = "pid", conflicts_with = "remove")]
    remove_all: bool,

    /// Print JSON for scripts
    #[arg(long)]
    json: bool,

    /// Of this process alone; it need not be living
    #[arg(value_name = "PID")]
    pid: Option<Pid>,
}

/// A process, and which of its checkpoints: `57`, `57@3` or `57@before`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    pub pid: Pid,
    /// The latest if it is not said.
    pub which: Option<String>,
}

impl FromStr for Chosen {
    type Err = daemon::node::NotPid;

    fn from_str(text: &str) -> std::result::Result<Chosen, Self::Err> {
        match text.split_once('@') {
            Some((pid, which)) => Ok(Chosen { pid: pid.parse()?, which: Some(which.into()) }),
            None => Ok(Chosen { pid: text.parse()?, which: None }),
        }
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.which {
            Some(which) => write!(f, "{}@{which}", self.pid),
            None => write!(f, "{}", self.pid),
        }
    }
}

#[derive(Serialize)]
struct List {
    checkpoints: Vec<CheckpointView>,
}

impl Checkpoint {
    pub fn execute(self) -> Result<u8> {
        let request = Request::Checkpoint { pid: self.pid, name: self.name };
        match node::connect()?.ask(&request).map_err(node::failed)? {
            Reply::Checkpoint(checkpoint) if self.json => {
                let told = serde_json::json!({ "pid": self.pid, "checkpoint": checkpoint });
                print(&json::text("una.checkpoint/1", &told))?;
                Ok(0)
            }
            Reply::Checkpoint(CheckpointView { sequence, made: Some(made), .. }) => {
                let (size, new) = (freeze::size(made.bytes), freeze::size(made.new_bytes));
                print(&format!("checkpoint {sequence} of process {}: {size}, {new} of it new\n", self.pid))?;
                Ok(0)
            }
            other => Err(node::unexpected(&other)),
        }
    }
}

impl Checkpoints {
    pub fn execute(self) -> Result<u8> {
        if let (Some(pid), true) = (self.pid, self.remove.is_some() || self.remove_all) {
            node::order(&Request::RemoveCheckpoints { pid, which: self.remove })?;
            return Ok(0);
        }
        let mut connection = node::connect()?;
        let request = Request::Checkpoints { pid: self.pid, verify: self.verify };
        connection.send(&request).map_err(node::failed)?;
        let mut checkpoints = vec![];
        loop {
            match connection.reply().map_err(node::failed)? {
                Reply::Checkpoint(view) => checkpoints.push(view),
                Reply::Done => break,
                other => return Err(node::unexpected(&other)),
            }
        }
        let is_bad = |view: &CheckpointView| matches!(view.state, CheckpointState::Damaged { .. });
        let status = u8::from(self.verify && checkpoints.iter().any(is_bad));
        let text = match self.json {
            true => json::text("una.checkpoints/1", &List { checkpoints }),
            false if checkpoints.is_empty() => "nothing is kept; keep a process: una checkpoint PID\n".into(),
            false => table(&checkpoints),
        };
        print(&text)?;
        Ok(status)
    }
}

fn table(checkpoints: &[CheckpointView]) -> String {
    let titles = ["CHECKPOINT", "NAME", "PROGRAM", "AGE", "MADE ON", "SIZE", "NEW", "COPIES", "STATE"];
    nodes::table(&titles, checkpoints.iter().map(row).collect())
}

fn row(view: &CheckpointView) -> Vec<String> {
    let pid = view.pid.map_or_else(|| "?".into(), |pid| pid.to_string());
    let (copies, state) = match &view.state {
        CheckpointState::Whole { chunks, at } => {
            let all: Vec<String> = at
                .iter()
                .map(|(node, count)| if count == chunks { format!("n{node}") } else { format!("n{node} in part") })
                .collect();
            (all.join(", "), "whole".into())
        }
        CheckpointState::Damaged { why } => ("-".into(), format!("damaged: {why}")),
        CheckpointState::Unknown { why } => ("?".into(), format!("not known now: {why}")),
    };
    let unknown = || "?".to_string();
    let (name, program, age, on, size, new) = match &view.made {
        Some(MadeView { name, made_ms, made_on, bytes, new_bytes, process, .. }) => (
            name.clone().unwrap_or_else(|| "-".into()),
            process.name.clone(),
            ps::duration(now_ms().saturating_sub(*made_ms)),
            format!("n{made_on}"),
            freeze::size(*bytes),
            freeze::size(*new_bytes),
        ),
        None => (unknown(), unknown(), unknown(), unknown(), unknown(), unknown()),
    };
    let cells = [format!("{pid}@{}", view.sequence), name, program, age, on, size, new, copies, state];
    cells.iter().map(|cell| printable(cell)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_named_by_process_and_number_or_name() {
        let chosen =
            |pid: &str, which: Option<&str>| Chosen { pid: pid.parse().unwrap(), which: which.map(String::from) };
        for (text, expected) in [
            ("57", chosen("57", None)),
            ("57@3", chosen("57", Some("3"))),
            ("2.57@before", chosen("2.57", Some("before"))),
        ] {
            assert_eq!(text.parse::<Chosen>().unwrap(), expected);
            assert_eq!(expected.to_string(), text);
        }
        assert!("x@3".parse::<Chosen>().is_err() && "@3".parse::<Chosen>().is_err());
    }
}
