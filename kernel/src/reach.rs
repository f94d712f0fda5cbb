//! Ports that nobody can reach any more. This file knows only who holds which right.
//!
//! The one idea: a port lives while somebody can receive from it. If its receiving end lies in a message that only a port
//! in the same position could deliver, nobody ever will; counting cannot see that (the known case of sockets sent through
//! sockets). So, when receiving ends lie in queues and a process ended or the bound on such ends is hit, ports are marked
//! from the tables of living processes through the queues, and the unmarked ones are closed.

use crate::Kernel;
use crate::call::CallerSide;
use crate::handles::{Object, Right};
use crate::limits::RECEIVERS_IN_TRANSIT_MAX;
use crate::port::{Cargo, Envelope, Port};
use crate::table::Key;
use abi::rights::Rights;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

impl Kernel {
    /// Whether so many more receiving ends may lie in queues.
    pub(crate) fn receivers_may_travel(&mut self, more: u32) -> bool {
        if self.receivers_in_transit + more > RECEIVERS_IN_TRANSIT_MAX {
            self.close_unreachable();
            self.release_dropped();
        }
        self.receivers_in_transit + more <= RECEIVERS_IN_TRANSIT_MAX
    }

    /// At the end of a step in which a process ended.
    pub(crate) fn sweep(&mut self) {
        self.sweep_wanted = false;
        if self.receivers_in_transit > 0 {
            self.close_unreachable();
            self.release_dropped();
        }
    }

    fn close_unreachable(&mut self) {
        let reached = self.reachable_ports();
        let lost: Vec<Key<Port>> = self.ports.iter().map(|(key, _)| key).filter(|key| !reached.contains(key)).collect();
        for key in lost {
            // Closing one drops the rights in its queue, which may have closed another already.
            if self.ports.get(key).is_some() {
                self.ports[key].receive_rights = 0;
                self.close_port(key);
            }
        }
    }

    /// The ports that some process could receive from, now or after receiving from others.
    pub(crate) fn reachable_ports(&self) -> BTreeSet<Key<Port>> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<Key<Port>> = Vec::new();
        let mut reach = |right: &Right, open: &mut Vec<Key<Port>>| {
            if let (Object::Port(key), true) = (right.object, right.rights.contains(Rights::RECEIVE))
                && self.ports.get(key).is_some()
                && reached.insert(key)
            {
                open.push(key);
            }
        };
        for (_, process) in self.processes.iter() {
            process.handles.iter().for_each(|(_, right)| reach(right, &mut open));
        }
        for (_, call) in self.calls.iter() {
            if let CallerSide::Over(Ok(answering)) = &call.caller_side {
                answering.rights.iter().for_each(|right| reach(right, &mut open));
            }
        }
        while let Some(key) = open.pop() {
            for envelope in &self.ports[key].queue {
                if let Envelope::Letter(letter) = envelope
                    && let Cargo::Taken(rights) = &letter.cargo
                {
                    rights.iter().for_each(|right| reach(right, &mut open));
                }
            }
        }
        reached
    }
}
