//! What the files `/proc` and `/node` of this node show of others: asked of those nodes, one question for each. Knows the questions; not
//! the files.

use super::ears::Question;
use super::supervise::Killed;
use super::{Inner, System, fork, health};
use crate::node::{Asker, ForkOrder, Forked, Node, OtherNode, Others, Pid, PlaceHint, ProcessView};
use abi::errno::Errno;
use abi::ids::NodeId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use services::members::Standing;

/// What is asked about one process.
#[derive(Serialize, Deserialize, Debug)]
#[serde(tag = "about", rename_all = "kebab-case")]
pub enum About {
    /// Answer: its view.
    View,
    /// What is written into its `ctl`.
    Command { bytes: Vec<u8> },
    /// Answer: what it wrote, from there on.
    Log { offset: u64, bytes_max: usize },
}

/// The most of a log that is given at once.
const LOG_BYTES_MAX: usize = 64 << 10;

/// The answer to a question about a process: JSON of what was asked for, or the number of an error.
pub fn answer(node: &Node, pid: Pid, about: About) -> Vec<u8> {
    fn written<T: Serialize>(result: Result<T, Errno>) -> Vec<u8> {
        serde_json::to_vec(&result.map_err(|errno| errno.raw())).expect("plain data")
    }
    match about {
        About::View => written(node.process(pid).map_err(|_| Errno::Srch)),
        About::Command { bytes } => written(node.command(pid, &bytes)),
        About::Log { offset, bytes_max } => written(node.log(pid, offset, bytes_max.min(LOG_BYTES_MAX))),
    }
}

impl Inner {
    fn ask_about<T: DeserializeOwned>(&self, node: NodeId, pid: Pid, about: About) -> Result<T, Errno> {
        let body = self.ask(node, &Question::Process { pid, about }).map_err(|_| Errno::HostUnreach)?;
        let answer: Result<T, u16> = serde_json::from_slice(&body).map_err(|_| Errno::Io)?;
        answer.map_err(|number| Errno::from_raw(number).unwrap_or(Errno::Io))
    }
}

impl Others for System {
    fn locate(&self, pid: Pid) -> Option<NodeId> {
        System::locate(self, pid).filter(|node| *node != self.me())
    }

    fn process(&self, node: NodeId, pid: Pid) -> Result<ProcessView, Errno> {
        self.0.ask_about(node, pid, About::View)
    }

    fn processes(&self) -> Vec<ProcessView> {
        let parts = System::processes(self, true).into_iter().skip(1);
        parts.flatten().flatten().collect()
    }

    fn command(&self, node: NodeId, pid: Pid, bytes: &[u8]) -> Result<(), Errno> {
        self.0.ask_about(node, pid, About::Command { bytes: bytes.into() })
    }

    fn kill_for_good(&self, pid: Pid) -> Result<bool, Errno> {
        match System::kill_for_good(self, pid) {
            Killed::Done => Ok(true),
            Killed::NotHere => Ok(false),
            Killed::NotYet => Err(Errno::Busy),
        }
    }

    fn send_away(&self, pid: Pid, to: &str) -> Result<(), Errno> {
        self.0.find(to).map_err(|_| Errno::NoEnt)?;
        let (system, to) = (self.clone(), to.to_string());
        let go = move || {
            if let Err(refused) = system.move_process(pid, &to, &mut |_| true)
                && let Some(node) = system.0.node.get()
            {
                node.note(pid, &format!("una: process {pid} stays: {refused}\n"));
            }
        };
        let started = std::thread::Builder::new().name("una-move".into()).stack_size(1 << 20).spawn(go);
        started.map(drop).map_err(|_| Errno::Again)
    }

    fn fork(&self, pid: Pid, order: ForkOrder, asker: Asker, forked: Forked) -> Result<(), Errno> {
        let system = self.clone();
        let fork = move || {
            let done = system.fork(pid, &order, asker);
            let note = |text: String| {
                if let Some(node) = system.0.node.get() {
                    node.note(pid, &text);
                }
            };
            forked(match done {
                Ok(view) => {
                    for (number, why) in view.failed {
                        note(format!("una: clone {number} of process {pid} did not begin: {why}\n"));
                    }
                    Ok(view.clones.into_iter().map(|clone| clone.pid).collect())
                }
                Err(refused) => {
                    note(format!("una: process {pid} is not forked: {refused}\n"));
                    Err(fork::errno_of(&refused))
                }
            });
        };
        let started = std::thread::Builder::new().name("una-fork".into()).stack_size(1 << 20).spawn(fork);
        started.map(drop).map_err(|_| Errno::Again)
    }

    fn can_be(&self, hint: &PlaceHint) -> Result<(), Errno> {
        match hint {
            PlaceHint::On(named) => self.0.find(named).map(drop).map_err(|_| Errno::NoEnt),
            PlaceHint::Near(_) | PlaceHint::Spread => Ok(()),
        }
    }

    fn place(&self, pid: Pid, hint: PlaceHint) {
        let system = self.clone();
        let go = move || {
            if let Err(why) = system.take_to(pid, hint)
                && let Some(node) = system.0.node.get()
            {
                node.note(pid, &format!("una: process {pid} stays: {why}\n"));
            }
        };
        // Without a thread it stays where it is.
        drop(std::thread::Builder::new().name("una-place".into()).stack_size(1 << 20).spawn(go));
    }

    fn log(&self, node: NodeId, pid: Pid, offset: u64, bytes_max: usize) -> Result<Vec<u8>, Errno> {
        self.0.ask_about(node, pid, About::Log { offset, bytes_max })
    }

    fn nodes(&self) -> Vec<OtherNode> {
        let inner = &self.0;
        let members = inner.directory.members().clone();
        let line = |(node, member): (NodeId, super::member::Member)| {
            let is_here = node == inner.me;
            let state = match if is_here { Standing::Alive } else { inner.health.standing(node) } {
                Standing::Alive => "up",
                Standing::Suspect => "suspect",
                Standing::Left => "left",
                Standing::Unknown | Standing::Down => "down",
            };
            let facts = match is_here {
                true => Some(health::shown(inner.record().life, health::soft_facts(inner))),
                false => inner.health.soft(node).map(|(life, facts)| health::shown(life, facts)),
            };
            let status = format!(
                "name: {}\nnumber: {}\nstate: {state}\ndraining: {}\nlife: {}\naddresses: {}\n",
                member.name,
                node.0,
                member.draining,
                member.life,
                member.addresses.join(" ")
            );
            let load = facts.filter(|_| matches!(state, "up" | "suspect")).map(|facts| {
                format!(
                    "load: {:.2}\nprocessors: {}\nmemory_bytes: {}\nmemory_free_bytes: {}\nprocesses: {}\narchitecture: {}\nlends: {}\n",
                    facts.load,
                    facts.processors,
                    facts.memory_bytes,
                    facts.memory_free_bytes,
                    facts.processes,
                    facts.architecture,
                    facts.lends.name()
                )
            });
            OtherNode { node, name: member.name, status, load }
        };
        members.into_iter().map(line).collect()
    }

    fn drain(&self, node: NodeId, drain: bool) -> Result<(), Errno> {
        System::drain(self, &node.to_string(), drain).map_err(|error| match error {
            super::SystemError::NoNode(_) => Errno::NoEnt,
            super::SystemError::NoQuorum(_) => Errno::TimedOut,
            super::SystemError::Refused(_) => Errno::Perm,
        })
    }
}
