//! The kernel as it can be seen from outside: by `ps`, by `/proc`, by the simulator's checkers. Nothing here changes anything.

use crate::Kernel;
use crate::port::{Cargo, Envelope};
use crate::process::{Process, State, Waiting};
use crate::table::Key;
use abi::call::{Description, PortOptions, PortStatus};
use abi::ids::{HandleId, PortId, ProcessId, Time};
use abi::process::{Exit, Program};
use alloc::vec::Vec;

/// One process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProcessView {
    pub key: Key<Process>,
    pub id: ProcessId,
    pub parent: Option<ProcessId>,
    pub program: Program,
    pub activity: Activity,
    pub used_ns: u64,
    pub handles: u32,
}

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Activity {
    Starting,
    Ready,
    Held,
    Running,
    Ending,
    Receiving,
    Sending,
    Calling,
    WaitingForExit,
    Sleeping,
    Reading,
    Writing,
    /// Waits for what another node does.
    Away,
    Exited(Exit),
}

/// One port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortView {
    pub id: PortId,
    pub options: PortOptions,
    pub status: PortStatus,
    /// Notices in the queue.
    pub notices: u32,
    /// Rights that lie in its messages.
    pub in_transit: Vec<Description>,
}

impl Kernel {
    /// All that run, and all that ended and to which somebody holds a handle.
    pub fn processes(&self) -> impl Iterator<Item = ProcessView> {
        let own = self.processes.iter().filter(|(_, process)| process.abroad.is_none());
        own.map(|(key, process)| ProcessView {
            key,
            id: process.id,
            parent: process.parent.map(|parent| self.processes[parent].id),
            program: process.program,
            activity: self.activity(process),
            used_ns: process.used_ns,
            handles: process.handles.len(),
        })
    }

    pub fn ports(&self) -> impl Iterator<Item = PortView> {
        self.ports.iter().map(|(_, port)| PortView {
            id: port.id,
            options: port.options,
            status: PortStatus {
                messages: port.messages,
                bytes: port.bytes,
                senders_waiting: port.senders_waiting.len() as u32,
                receivers_waiting: port.receivers_waiting.len() as u32,
                dropped: port.dropped,
            },
            notices: port.queue.len() as u32 - port.messages,
            in_transit: port
                .queue
                .iter()
                .filter_map(|envelope| match envelope {
                    Envelope::Letter(letter) => Some(&letter.cargo),
                    Envelope::Notice(..) => None,
                })
                .flat_map(|cargo| match cargo {
                    Cargo::Taken(rights) => &rights[..],
                    Cargo::AtCaller(..) => &[][..],
                })
                .filter_map(|right| self.describe_right(right))
                .collect(),
        })
    }

    /// What a process holds. Handles whose object is no more are left out.
    pub fn handles(&self, process: Key<Process>) -> Vec<(HandleId, Description)> {
        let Some(process) = self.processes.get(process) else {
            return Vec::new();
        };
        let described = |(handle, right)| Some((handle, self.describe_right(right)?));
        process.handles.iter().filter_map(described).collect()
    }

    pub fn now(&self) -> Time {
        self.now
    }

    pub fn ready_count(&self) -> usize {
        self.ready.len()
    }
}

impl Kernel {
    fn activity(&self, process: &Process) -> Activity {
        match &process.state {
            State::Starting => Activity::Starting,
            State::Ready { .. } => Activity::Ready,
            State::Held => Activity::Held,
            State::Running { .. } => Activity::Running,
            State::Doomed { .. } => Activity::Ending,
            State::Exited { exit } => Activity::Exited(*exit),
            State::Waiting { waiting, .. } => match waiting {
                Waiting::Receive { .. } | Waiting::Select { .. } => Activity::Receiving,
                Waiting::Send { pending, .. } if pending.call.is_none() => Activity::Sending,
                Waiting::Call { call } if self.calls[*call].is_away() => Activity::Away,
                Waiting::Send { .. } | Waiting::Call { .. } | Waiting::EndCall { .. } => Activity::Calling,
                Waiting::Exit { .. } => Activity::WaitingForExit,
                Waiting::Sleep => Activity::Sleeping,
                Waiting::Read { .. } => Activity::Reading,
                Waiting::Write { .. } => Activity::Writing,
                Waiting::Away { .. } | Waiting::Notice { .. } | Waiting::Post => Activity::Away,
            },
        }
    }
}
