//! What must be true of the kernel after each step, seen from outside through `kernel::inspect`.

use super::{Violation, ensure};
use crate::history::{Record, Seen};
use crate::machine::Machine;
use abi::call::{SendMode, SystemCall, Wait};
use abi::ids::{ProcessId, Time};
use kernel::inspect::Activity;
use std::collections::BTreeMap;

/// A step that a deadline is due in may itself come later.
const LATE_NS: u64 = 50_000_000;

/// Follows a machine.
#[derive(Default)]
pub struct Watcher {
    /// Until when each process may wait for what it asked.
    deadlines: BTreeMap<ProcessId, Time>,
}

impl Watcher {
    pub fn note(&mut self, record: &Record) {
        let until = |wait: &Wait| match wait {
            Wait::Until(at) => Some(*at),
            _ => None,
        };
        let deadline = match &record.seen {
            Seen::Asked(call) => match call {
                SystemCall::Sleep { until } => Some(*until),
                SystemCall::Send { mode: SendMode::Reliable(wait), .. }
                | SystemCall::Receive { wait, .. }
                | SystemCall::Select { wait, .. }
                | SystemCall::EndCall { wait, .. }
                | SystemCall::Wait { wait, .. }
                | SystemCall::Read { wait, .. }
                | SystemCall::Write { wait, .. } => until(wait),
                SystemCall::Call { deadline, .. } => deadline.at,
                _ => None,
            },
            _ => None,
        };
        match deadline {
            Some(deadline) => self.deadlines.insert(record.process, deadline),
            None => self.deadlines.remove(&record.process),
        };
    }

    pub fn check(&self, machine: &Machine) -> Result<(), Violation> {
        for port in machine.kernel.ports() {
            let (status, options) = (port.status, port.options);
            ensure!(
                status.messages <= options.messages_max && status.bytes <= options.bytes_max,
                "{:?} holds {} messages and {} bytes, and may hold {} and {}",
                port.id,
                status.messages,
                status.bytes,
                options.messages_max,
                options.bytes_max
            );
            ensure!(
                status.receivers_waiting == 0
                    || (status.messages == 0 && port.notices == 0 && status.senders_waiting == 0),
                "a receiver sleeps at {:?}, which has {status:?}",
                port.id
            );
            ensure!(
                status.senders_waiting == 0 || status.messages > 0 || options.messages_max == 0,
                "a sender sleeps at {:?}, which is empty",
                port.id
            );
        }
        // The kernel has been told this time.
        let now = machine.kernel.now();
        for view in machine.kernel.processes() {
            let waits = matches!(
                view.activity,
                Activity::Receiving
                    | Activity::Sending
                    | Activity::Calling
                    | Activity::WaitingForExit
                    | Activity::Sleeping
                    | Activity::Reading
                    | Activity::Writing
            );
            if let (Activity::Away, Some(deadline)) = (view.activity, self.deadlines.get(&view.id)) {
                let end = deadline.after(kernel::limits::VERDICT_NS + LATE_NS);
                ensure!(now <= end, "{:?} still waits at {now:?} for word of what ended at {deadline:?}", view.id);
            }
            if let (true, Some(deadline)) = (waits, self.deadlines.get(&view.id)) {
                ensure!(now < *deadline, "{:?} still waits at {now:?} for what ended at {deadline:?}", view.id);
            }
        }
        Ok(())
    }
}
