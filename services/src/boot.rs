//! The service `boot`, the first process of a node: it makes a port for each part of the system, starts the parts, gives each
//! exactly what the manifest says, and starts what dies again. This file knows nothing of what the parts do.
//!
//! The one idea: boot keeps the receiving end of every port, so a port outlives its service: requests that were not taken
//! wait for the next life, callers whose request was taken are told, and nobody has to look anything up again.
//!
//! Who may send to whom is a graph without circles, checked before anything starts: two services that call each other would
//! one day wait for each other.

use crate::{Input, Service};
use abi::call::{CreateError, Outcome, PortOptions, SpawnError, SystemCall};
use abi::ids::{DeviceId, HandleId, Time};
use abi::limits::Limits;
use abi::message::{Bytes, Notice, NoticeEvent, Notify, Received, Transfer, TransferMode};
use abi::process::{Exit, Orphan, Program, Spawn};
use abi::rights::{Kind, Rights};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

/// The most parts of one manifest: what one process can be given at its start bounds what each may send to.
pub const PARTS_MAX: usize = 1000;
/// A part that died this often within [`RESTARTS_WINDOW_NS`] is given up, and the node with it.
pub const RESTARTS_MAX: usize = 20;
pub const RESTARTS_WINDOW_NS: u64 = 10_000_000_000;

/// Everything that runs on a node from its start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// Started in an order in which each comes after those it may send to.
    pub parts: Vec<Part>,
}

/// One part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    pub name: String,
    pub program: Program,
    pub arguments: Bytes,
    /// Its port. A part that nobody sends to has one all the same, for its notices.
    pub port: PortOptions,
    pub devices: Vec<DeviceId>,
    /// The names of the parts whose ports it gets.
    pub sends_to: Vec<String>,
    pub limits: Limits,
    pub weight: u32,
    pub restart: Restart,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Restart {
    /// Whatever it ended with, but for a damaged journal: the node stops then.
    Always,
    Never,
}

/// Why a manifest is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManifestError {
    TooManyParts,
    /// Two parts have this name.
    Twice(String),
    /// A part sends to what is not there.
    Unknown {
        part: String,
        sends_to: String,
    },
    /// A part is given more than fits into one spawn.
    TooManyGrants(String),
    /// Each of these sends to the next, and the last to the first.
    Circle(Vec<String>),
}

/// A manifest that was checked, and the order to start its parts in.
#[derive(Clone, Debug)]
pub struct Plan {
    parts: Vec<Part>,
    /// Where each part's grants are in `parts`.
    grants: Vec<Vec<usize>>,
    order: Vec<usize>,
}

impl Manifest {
    pub fn check(self) -> Result<Plan, ManifestError> {
        let parts = self.parts;
        if parts.len() > PARTS_MAX {
            return Err(ManifestError::TooManyParts);
        }
        let find = |name: &String| parts.iter().position(|part| part.name == *name);
        let mut grants = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            if find(&part.name) != Some(index) {
                return Err(ManifestError::Twice(part.name.clone()));
            }
            if 1 + part.devices.len() + part.sends_to.len() > abi::message::MESSAGE_HANDLES_MAX {
                return Err(ManifestError::TooManyGrants(part.name.clone()));
            }
            let unknown = |name: &String| ManifestError::Unknown { part: part.name.clone(), sends_to: name.clone() };
            let found: Result<Vec<usize>, _> =
                part.sends_to.iter().map(|name| find(name).ok_or_else(|| unknown(name))).collect();
            grants.push(found?);
        }
        let order = order(&grants)
            .map_err(|circle| ManifestError::Circle(circle.iter().map(|index| parts[*index].name.clone()).collect()))?;
        Ok(Plan { parts, grants, order })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Untouched,
    /// On the path from where the search began.
    Open,
    Placed,
}

/// Each number after those it points to; or a circle.
fn order(edges: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut marks = alloc::vec![Mark::Untouched; edges.len()];
    let mut order = Vec::new();
    for start in 0..edges.len() {
        // The path, and how many edges of each were followed.
        let mut path: Vec<(usize, usize)> = Vec::new();
        if marks[start] == Mark::Untouched {
            marks[start] = Mark::Open;
            path.push((start, 0));
        }
        while let Some((number, followed)) = path.last_mut() {
            let Some(next) = edges[*number].get(*followed).copied() else {
                marks[*number] = Mark::Placed;
                order.push(*number);
                path.pop();
                continue;
            };
            *followed += 1;
            match marks[next] {
                Mark::Placed => {}
                Mark::Untouched => {
                    marks[next] = Mark::Open;
                    path.push((next, 0));
                }
                Mark::Open => {
                    let from =
                        path.iter().position(|(number, _)| *number == next).expect("what is open is on the path");
                    return Err(path[from..].iter().map(|(number, _)| *number).collect());
                }
            }
        }
    }
    Ok(order)
}

/// The service.
///
/// Invariants: `ports` holds the port of each part that has one yet, in the order of the plan's parts; `stage` says which
/// system call's outcome comes next.
pub struct Boot {
    plan: Plan,
    own_port: HandleId,
    ports: Vec<HandleId>,
    stage: Stage,
    /// What each part that is running is held by, and when it was started lately.
    lives: Vec<Life>,
    /// By which it holds the network, if there is one.
    network: HandleId,
}

#[derive(Clone, Default)]
struct Life {
    process: Option<HandleId>,
    starts: Vec<Time>,
}

enum Stage {
    OwnPort,
    Ports,
    /// Outcomes of spawns come in this order.
    Running {
        spawning: Vec<usize>,
    },
}

impl Boot {
    pub fn new(plan: Plan) -> Boot {
        let lives = alloc::vec![Life::default(); plan.parts.len()];
        Boot {
            plan,
            own_port: HandleId::NONE,
            ports: Vec::new(),
            stage: Stage::OwnPort,
            lives,
            network: HandleId::NONE,
        }
    }

    /// On a node with others: the network is its first handle behind so many devices.
    pub fn with_network(plan: Plan, devices: u16) -> Boot {
        Boot { network: HandleId(u32::from(devices) + 1), ..Boot::new(plan) }
    }

    fn create_next(&mut self, now: Time, calls: &mut Vec<SystemCall>) {
        match self.plan.parts.get(self.ports.len()) {
            Some(part) => calls.push(SystemCall::CreatePort(part.port)),
            None => {
                self.stage = Stage::Running { spawning: Vec::new() };
                for index in self.plan.order.clone() {
                    self.start(now, index, calls);
                }
            }
        }
    }

    fn start(&mut self, now: Time, index: usize, calls: &mut Vec<SystemCall>) {
        let part = &self.plan.parts[index];
        let copy = |handle, rights| Transfer { handle, rights, mode: TransferMode::Copy };
        let own = copy(self.ports[index], Rights::all_of(Kind::Port));
        // Boot's own devices are its first handles.
        let device = |device: &DeviceId| {
            let handle = match *device {
                DeviceId::NETWORK => self.network,
                DeviceId(number) => HandleId(u32::from(number) + 1),
            };
            copy(handle, Rights::all_of(Kind::Device))
        };
        let port = |index: &usize| copy(self.ports[*index], Rights::SENDER);
        let handles = core::iter::once(own)
            .chain(part.devices.iter().map(device))
            .chain(self.plan.grants[index].iter().map(port))
            .collect();
        calls.push(SystemCall::Spawn(Box::new(Spawn {
            program: part.program,
            arguments: part.arguments.clone(),
            handles,
            limits: part.limits,
            weight: part.weight,
            orphan: Orphan::Dies,
            supervisor: Some(Notify { port: self.own_port, token: index as u64 }),
            again: None,
        })));
        let Stage::Running { spawning } = &mut self.stage else { unreachable!("parts start after all ports are made") };
        spawning.push(index);
        let starts = &mut self.lives[index].starts;
        starts.retain(|start| now.since(*start) < RESTARTS_WINDOW_NS);
        starts.push(now);
    }

    fn ended(&mut self, now: Time, index: usize, exit: Exit, calls: &mut Vec<SystemCall>) {
        if let Some(process) = self.lives[index].process.take() {
            calls.push(SystemCall::Close { handle: process });
        }
        let lately = self.lives[index].starts.iter().filter(|start| now.since(**start) < RESTARTS_WINDOW_NS).count();
        match (self.plan.parts[index].restart, exit) {
            (Restart::Never, _) => {}
            (Restart::Always, Exit::Code(crate::exit::JOURNAL_DAMAGED)) => {
                calls.push(SystemCall::Exit { code: crate::exit::JOURNAL_DAMAGED })
            }
            (Restart::Always, _) if lately > RESTARTS_MAX => {
                calls.push(SystemCall::Exit { code: crate::exit::GAVE_UP })
            }
            (Restart::Always, _) => self.start(now, index, calls),
        }
    }
}

impl Service for Boot {
    fn port(&self) -> HandleId {
        self.own_port
    }

    fn step(&mut self, now: Time, input: Input, calls: &mut Vec<SystemCall>) {
        match input {
            Input::Begun => calls.push(SystemCall::CreatePort(PortOptions::buffered(1))),
            Input::Outcome(Outcome::PortCreated(Ok(port))) => {
                match self.stage {
                    Stage::OwnPort => (self.own_port, self.stage) = (port, Stage::Ports),
                    Stage::Ports => self.ports.push(port),
                    Stage::Running { .. } => unreachable!("no port is made later"),
                }
                self.create_next(now, calls);
            }
            Input::Outcome(Outcome::Spawned(Ok(spawned))) => {
                let Stage::Running { spawning } = &mut self.stage else {
                    unreachable!("parts start after their ports")
                };
                let index = spawning.remove(0);
                self.lives[index].process = Some(spawned.process);
            }
            Input::Outcome(
                Outcome::PortCreated(Err(CreateError::Options | CreateError::Limit(_)))
                | Outcome::Spawned(Err(
                    SpawnError::Transfer(_)
                    | SpawnError::Supervisor(_)
                    | SpawnError::Weight
                    | SpawnError::Limit(_)
                    | SpawnError::Unreachable
                    | SpawnError::NodeLost
                    | SpawnError::Unknown,
                )),
            ) => calls.push(SystemCall::Exit { code: crate::exit::MISPLACED }),
            Input::Received(Received::Notice(Notice { token, event: NoticeEvent::Exited { exit, .. } })) => {
                self.ended(now, token as usize, exit, calls)
            }
            Input::Received(_) | Input::Outcome(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn part(name: &str, sends_to: &[&str]) -> Part {
        Part {
            name: name.to_string(),
            program: Program::Service(0),
            arguments: Bytes::EMPTY,
            port: PortOptions::buffered(8),
            devices: Vec::new(),
            sends_to: sends_to.iter().map(|name| name.to_string()).collect(),
            limits: Limits::NORMAL,
            weight: 100,
            restart: Restart::Always,
        }
    }

    #[track_caller]
    fn check(parts: &[(&str, &[&str])], expect: Result<&[&str], ManifestError>) {
        let manifest = Manifest { parts: parts.iter().map(|(name, sends_to)| part(name, sends_to)).collect() };
        let order = manifest
            .check()
            .map(|plan| plan.order.iter().map(|index| plan.parts[*index].name.clone()).collect::<Vec<_>>());
        assert_eq!(order, expect.map(|names| names.iter().map(|name| name.to_string()).collect()));
    }

    #[test]
    fn parts_start_after_those_they_send_to() {
        check(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])], Ok(&["c", "b", "a"]));
        check(&[], Ok(&[]));
    }

    #[test]
    fn what_cannot_be_started_is_refused_and_named() {
        let circle = |names: &[&str]| ManifestError::Circle(names.iter().map(|name| name.to_string()).collect());
        check(&[("x", &["a"]), ("a", &["b"]), ("b", &["c"]), ("c", &["a"])], Err(circle(&["a", "b", "c"])));
        check(&[("a", &["a"])], Err(circle(&["a"])));
        check(&[("a", &[]), ("a", &[])], Err(ManifestError::Twice("a".into())));
        check(&[("a", &["z"])], Err(ManifestError::Unknown { part: "a".into(), sends_to: "z".into() }));
        check(&[("a", &["b"; 8]), ("b", &[])], Err(ManifestError::TooManyGrants("a".into())));
    }
}
