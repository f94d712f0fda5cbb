//! What must be true of membership, held against what the network knows.
//!
//! ```text
//!   no false death       while the seed's faults are of a kind that must not cause one, nobody is told down who is on
//!   every death is seen  in time, by everyone who can hear the others
//!   lives only grow      what is over never comes back, at any observer
//!   agreement            some time after the last fault, all that are on see exactly those that are on
//!   facts                then, all know the latest facts of all that are on
//!   memory               is bounded by the number of members
//! ```

use crate::checkers::{Violation, ensure};
use crate::members::world::{MILLISECOND, World};
use abi::ids::{NodeId, Time};
use services::members::{Change, FACTS_BYTES_MAX, Intake, Standing};
use std::collections::{BTreeMap, BTreeSet};

/// Within this time a `kill -9` is told everywhere: links break at once.
pub const KILL_SEEN_NS: u64 = 1000 * MILLISECOND;
/// Without power nobody says anything: silence has to be noticed first, by whoever asks that machine next. If others die in the same second
/// they may be those who were to ask, or to be asked to.
pub const SILENCE_SEEN_NS: u64 = 1000 * MILLISECOND;
pub const SILENCE_AMONG_OTHERS_SEEN_NS: u64 = 1500 * MILLISECOND;

#[derive(Default)]
pub struct Checkers {
    /// Machines that are on and may be called down all the same: they are cut off, or stood still for long.
    pub excused: BTreeSet<NodeId>,
    /// Third members hear everyone: nobody may even be suspected.
    pub nobody_is_suspected: bool,
    /// Must deaths be seen in time now?
    pub deaths_are_timed: bool,
    /// By observer and node: the latest life that was told up, and the latest that is over.
    lives: BTreeMap<(NodeId, NodeId), (u64, u64)>,
    /// By observer and node: the number of the facts that it knows.
    facts: BTreeMap<(NodeId, NodeId), u32>,
    ended: Vec<Ended>,
    /// How long it took until a death was told, per observer.
    pub seen_after: Vec<u64>,
    /// The same of deaths of which links told nothing.
    pub silence_seen_after: Vec<u64>,
}

struct Ended {
    node: NodeId,
    life: u64,
    at: Time,
    silent: bool,
    seen: Vec<NodeId>,
}

impl Checkers {
    /// What it knew is gone.
    pub fn started(&mut self, node: NodeId) {
        self.lives.retain(|(observer, _), _| *observer != node);
        self.facts.retain(|(observer, _), _| *observer != node);
    }

    pub fn ended(&mut self, node: NodeId, life: u64, at: Time, silent: bool) {
        self.ended.push(Ended { node, life, at, silent, seen: Vec::new() });
    }

    pub fn told(&mut self, world: &World, by: NodeId, change: Change) -> Result<(), Violation> {
        let now = world.now;
        let mut gone = |node: NodeId, life: u64| {
            for ended in self.ended.iter_mut().filter(|ended| ended.node == node && ended.life <= life) {
                // Who was off or stood still then could not see it.
                let here = world.node(by);
                let watched = here.begun.max(here.resumed) < ended.at;
                if watched && !ended.seen.contains(&by) {
                    ended.seen.push(by);
                    let after = if ended.silent { &mut self.silence_seen_after } else { &mut self.seen_after };
                    after.push(now.since(ended.at));
                }
            }
        };
        match change {
            Change::Up { node, life } => {
                let (up, over) = self.lives.entry((by, node)).or_default();
                ensure!(life > *over, "{by} says that life {life} of {node} is up, which it said was over");
                ensure!(life >= *up, "{by} says that life {life} of {node} is up after life {up}");
                *up = life;
                let now = world.node(node).life;
                ensure!(life <= now, "{by} says that life {life} of {node} is up, which is in its life {now}");
            }
            Change::Down { node, life } | Change::Left { node, life } => {
                gone(node, life);
                let is_on = world.is_on(node) && world.node(node).life == life;
                let may = self.excused.contains(&node) || !world.belongs(node);
                ensure!(!is_on || may, "{by} says that {node} is down, which is on and could be heard");
            }
            Change::Over { node, life } => {
                gone(node, life);
                let (_, over) = self.lives.entry((by, node)).or_default();
                ensure!(life > *over, "{by} says a second time that life {life} of {node} is over");
                *over = life;
                let is_on = world.is_on(node) && world.node(node).life == life && world.belongs(node);
                ensure!(!is_on, "{by} says that life {life} of {node} is over, which is on");
            }
            Change::Usurped { life } => return Err(Violation(format!("{by} is told of its later life {life}"))),
            Change::Suspected { node, .. } => {
                ensure!(!self.nobody_is_suspected, "{by} suspects {node}, which third members hear");
            }
            Change::Facts { node } => {
                let members = world.node(by).members.as_ref();
                let facts = members.and_then(|members| members.facts(node)).map(|(_, facts)| facts);
                let said = facts.as_ref().is_none_or(|facts| facts.memory_bytes > 0 || facts.intake == Intake::Leaving);
                ensure!(said, "{by} is told what {node} has before {node} has looked");
                let known = facts.map_or(0, |facts| facts.processes);
                // Whatever a node says of itself, it counts.
                let before = self.facts.insert((by, node), known).unwrap_or_default();
                ensure!(known >= before, "{by} goes back to older facts of {node}: number {known} after {before}");
            }
            Change::Cleared { .. } | Change::Returned => {}
        }
        Ok(())
    }

    /// Has everyone who could be asked told every death in time? Asked again and again while time passes.
    pub fn deaths_are_seen(&mut self, world: &World) -> Result<(), Violation> {
        if !self.deaths_are_timed {
            self.ended.retain(|ended| world.now.since(ended.at) < SILENCE_AMONG_OTHERS_SEEN_NS);
            return Ok(());
        }
        for ended in &self.ended {
            let is_near = |other: &Ended| {
                let apart = other.at.since(ended.at).max(ended.at.since(other.at));
                other.node != ended.node && apart < SILENCE_SEEN_NS
            };
            let bound = match ended.silent {
                true if self.ended.iter().any(is_near) => SILENCE_AMONG_OTHERS_SEEN_NS,
                true => SILENCE_SEEN_NS,
                false => KILL_SEEN_NS,
            };
            let late = |at: Time| world.now.since(at) > bound;
            if !late(ended.at) {
                continue;
            }
            for node in world.nodes.values() {
                let Some(members) = &node.members else { continue };
                if !late(node.begun) || !late(node.resumed) || node.paused_until > world.now {
                    continue;
                }
                let Some(view) = members.get(ended.node) else { continue };
                let sees = view.standing.is_up() && view.life == Some(ended.life);
                let (number, life, who) = (node.number, ended.life, ended.node);
                ensure!(
                    !sees,
                    "{number} has not noticed after {} ms that life {life} of {who} ended",
                    bound / MILLISECOND
                );
            }
        }
        self.ended.retain(|ended| world.now.since(ended.at) < 2 * SILENCE_AMONG_OTHERS_SEEN_NS);
        Ok(())
    }

    /// All that are on see the same, which is the truth.
    pub fn all_agree(world: &World) -> Result<(), Violation> {
        for node in world.nodes.values().filter(|node| world.belongs(node.number)) {
            let Some(members) = &node.members else { continue };
            for other in world.nodes.values().filter(|other| other.number != node.number) {
                let (number, who) = (node.number, other.number);
                let view = members.get(who);
                ensure!(
                    view.is_some() == world.belongs(who),
                    "{number} and the coordinator differ in whether {who} belongs"
                );
                let Some(view) = view else { continue };
                let is_up = view.standing == Standing::Alive && view.life == Some(other.life);
                ensure!(
                    is_up == world.is_on(who) && (is_up || !view.standing.is_up()),
                    "{number} sees life {:?} of {who} as {:?}; it is {} in its life {}",
                    view.life,
                    view.standing,
                    if world.is_on(who) { "on" } else { "off" },
                    other.life
                );
            }
        }
        Ok(())
    }

    /// All that are on know the latest facts of all that are on.
    pub fn facts_agree(world: &World) -> Result<(), Violation> {
        for node in world.nodes.values().filter(|node| world.belongs(node.number)) {
            let Some(members) = &node.members else { continue };
            for other in world.nodes.values().filter(|other| world.is_on(other.number) && world.belongs(other.number)) {
                let known = members.facts(other.number);
                let expected = Some((other.life, other.facts.clone()));
                ensure!(known == expected, "{} knows {known:?} of {}, not {expected:?}", node.number, other.number);
            }
        }
        Ok(())
    }

    /// What one node keeps is bounded by the number of those that belong.
    pub fn memory_is_bounded(world: &World) -> Result<(), Violation> {
        let members = world.lists.last().map_or(0, Vec::len) + 1;
        let bound = 8192 + members * (FACTS_BYTES_MAX + 512);
        for node in world.nodes.values() {
            let Some(here) = &node.members else { continue };
            let footprint = here.footprint();
            ensure!(footprint <= bound, "{} keeps {footprint} bytes for {members} members", node.number);
        }
        Ok(())
    }
}
