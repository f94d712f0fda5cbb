//! What is known of processes that no node has: what their claims say. Knows the coordinator; not how such a process is begun again
//! (`supervise`), nor who does it (`lost`).
//!
//! The one idea: how a process ended that somebody looked after is written down before anybody is told. So it is known when the node where
//! that was has gone or has begun anew; and one that nobody could take up yet is seen to be lost, and not to be nothing.

use super::{Inner, System};
use crate::keep::record::{Claim, Place};
use crate::node::{End, Kind, Lineage, Outward, Pid, ProcessView, State, Stay};
use abi::ids::NodeId;
use std::collections::BTreeSet;

impl System {
    /// How a process ended that was looked after, if it did.
    pub fn written_end(&self, pid: Pid) -> Option<End> {
        match self.0.claim(pid).ok()??.0.place {
            Place::Ended { end, .. } => end,
            Place::At { .. } => None,
        }
    }

    /// The processes that are looked after and are on no node, beside those that are `known`: their node is lost, and nobody has taken
    /// them up yet, or can.
    pub fn lost(&self, known: &BTreeSet<Pid>) -> Vec<ProcessView> {
        let Ok(all) = self.0.supervised_as_heard() else { return vec![] };
        let unknown = all.into_iter().filter(|(pid, ..)| !known.contains(pid));
        unknown.filter_map(|(pid, claim, _)| self.0.lost_view(pid, claim)).collect()
    }
}

impl Inner {
    fn lost_view(&self, pid: Pid, claim: Claim) -> Option<ProcessView> {
        let Place::At { node, life } = claim.place else { return None };
        let lives = match NodeId(node) {
            me if me == self.me => Some(self.record().life),
            other => self.health.life_if_up(other),
        };
        // That node is there and will say it in a moment: it is on its way from one place to another.
        if lives == Some(life) {
            return None;
        }
        let Outward { name, args, program, mounts, cpu_ns, output_bytes, .. } = claim.supervision?.begin.process;
        Some(ProcessView {
            pid,
            node,
            parent: None,
            name,
            args,
            program,
            kind: Kind::Program,
            state: State::Lost,
            started_ms: 0,
            cpu_ns,
            memory_bytes: 0,
            handles: 0,
            output_bytes,
            mounts,
            incarnation: claim.incarnation,
            lineage: Lineage::default(),
            stay: Stay::default(),
        })
    }
}
