//! What is known of processes that no node has: what their claims say. Knows the coordinator; not how such a process is begun again
//! (`supervise`), nor who does it (`lost`).
//!
//! The one idea: how a process ended that somebody looked after is written down before anybody is told. So it is known when the node where
//! that was has gone or has begun anew; and one that nobody could take up yet is seen to be lost, and not to be nothing.

use super::keep::KeepRefused;
use super::place::Recent;
use super::view::{Occasion, WhyView};
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

    /// Is it begun from its beginning if its node is lost?
    pub fn begins_anew(&self, pid: Pid) -> bool {
        let Ok(Some((claim, _))) = self.0.claim(pid) else { return false };
        claim.supervision.is_some_and(|one| one.durable_every_ms.is_none())
    }

    /// Kills a process that is looked after and on no node: nobody takes it up any more. False: there is no such.
    pub fn kill_lost(&self, pid: Pid) -> Result<bool, KeepRefused> {
        let Some((claim, revision)) = self.0.claim(pid)? else { return Ok(false) };
        if claim.supervision.is_none() || !self.0.is_lost(&claim) {
            return Ok(false);
        }
        let place = Place::Ended { node: self.0.me.0, end: Some(End::Killed) };
        let over = Claim { place, ..claim };
        self.0.write_claim(pid, Some(revision), &over)?;
        self.0.forget(pid, &over);
        Ok(true)
    }

    /// The processes that are looked after and are on no node, beside those that are `known`: their node is lost, and nobody has taken
    /// them up yet, or can.
    pub fn lost(&self, known: &BTreeSet<Pid>) -> Vec<ProcessView> {
        let Ok(all) = self.0.supervised_as_heard() else { return vec![] };
        let unknown = all.into_iter().filter(|(pid, ..)| !known.contains(pid));
        unknown.filter_map(|(pid, claim, _)| self.0.lost_view(pid, claim)).collect()
    }

    /// Why a process that is looked after is on no node: what each node would say to it now.
    pub(super) fn why_on_no_node(&self, pid: Pid) -> Option<WhyView> {
        let all = self.0.supervised_as_heard().ok()?;
        let (_, claim, _) = all.into_iter().find(|(other, claim, _)| *other == pid && self.0.is_lost(claim))?;
        let Place::At { node, .. } = claim.place else { return None };
        let decided = self.place_lost(&claim, NodeId(node), &BTreeSet::new(), &Recent::default());
        let (Ok(why) | Err(why)) = decided;
        Some(why.because(Occasion::OnNoNode { from: node }))
    }
}

impl Inner {
    /// Is it of a node, or of a life of it, that is not there? One that is will say it in a moment if it is not known of now: it is on its
    /// way from one place to another.
    fn is_lost(&self, claim: &Claim) -> bool {
        let Place::At { node, life } = claim.place else { return false };
        let lives = match NodeId(node) {
            me if me == self.me => Some(self.record().life),
            other => self.health.life_if_up(other),
        };
        lives != Some(life)
    }

    fn lost_view(&self, pid: Pid, claim: Claim) -> Option<ProcessView> {
        let Place::At { node, .. } = claim.place else { return None };
        if !self.is_lost(&claim) {
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
