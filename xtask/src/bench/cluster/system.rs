//! A system of several nodes on this machine, for as long as something is measured on it. Knows una's commands, and not what is measured.

use crate::Outcome;
use crate::cluster;
use crate::step::output;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// For what must come, on a machine however busy.
const SOON: Duration = Duration::from_secs(120);

pub struct System {
    place: PathBuf,
    pub nodes: u16,
}

impl System {
    pub fn start(name: &str, nodes: u16) -> Outcome<System> {
        let una = cluster::build()?;
        let place = crate::root().join("target/bench/cluster").join(name);
        cluster::end(&place)?;
        // From here on it is ended, however far it came.
        let system = System { place, nodes };
        cluster::start(&system.place, nodes, &una, &[])?;
        system.settled()?;
        Ok(system)
    }

    /// `bench/cluster/NAME.c` as wasm.
    pub fn program(&self, name: &str) -> Outcome<String> {
        let wasm = self.place.join(format!("{name}.wasm"));
        let mut command = Command::new(crate::root().join("programs/compile"));
        command.arg(crate::root().join(format!("bench/cluster/{name}.c"))).arg(&wasm);
        output(&mut command, "cargo xtask setup installs what compiles C to WebAssembly")?;
        Ok(wasm.display().to_string())
    }

    /// una at one of the nodes; its words are still to be said.
    pub fn command(&self, node: u16) -> Command {
        Command::new(self.place.join(format!("n{node}")))
    }

    pub fn speak(&self, node: u16, words: &[&str]) -> Outcome<String> {
        cluster::speak(&self.place, node, words)
    }

    pub fn status(&self, node: u16) -> Outcome<Value> {
        Ok(serde_json::from_str(&self.speak(node, &["status", "--json"])?)?)
    }

    /// Waits until every node is up, votes are where they should be, and somebody holds the files.
    pub fn settled(&self) -> Outcome {
        let until = Instant::now() + SOON;
        loop {
            let is_settled =
                (1..=self.nodes).all(|node| self.status(node).is_ok_and(|status| self.is_settled(&status)));
            if is_settled {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("the system does not come to rest: {}", self.status(1)?).into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn is_settled(&self, status: &Value) -> bool {
        let up = |nodes: &Vec<Value>| nodes.iter().filter(|node| node["state"] == "up").count();
        // Two can decide no more than one.
        let voters_wanted = if self.nodes < 3 { 1 } else { 3 };
        status["nodes"].as_array().is_some_and(|nodes| up(nodes) == usize::from(self.nodes))
            && status["coordinator"]["voters"].as_array().is_some_and(|voters| voters.len() == voters_wanted)
            && !status["coordinator"]["leader"].is_null()
            && !status["files"]["holder"].is_null()
    }

    /// What a node that has left still knew; its compiled code too, if it is to be cold.
    pub fn forget(&self, node: u16, is_cold: bool) -> Outcome {
        let home = self.place.join(format!("homes/{node}"));
        for directory in [".local/share/una", ".cache/una"].iter().take(1 + usize::from(is_cold)) {
            match std::fs::remove_dir_all(home.join(directory)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// The process of Linux that a node is.
    pub fn daemon(&self, node: u16) -> Outcome<u32> {
        cluster::daemon(&self.place, node)
    }

    pub fn kill(&self, node: u16) -> Outcome {
        cluster::kill(&self.place, node)
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let Err(error) = cluster::end(&self.place) {
            eprintln!("bench: {error}");
        }
    }
}
