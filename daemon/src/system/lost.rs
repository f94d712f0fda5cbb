//! Processes whose node is lost: found by one of those that are left, which has another one take them up. Knows the coordinator, and who is
//! heard; not how a process is begun again (`supervise`).
//!
//! The one idea: how long one has to wait depends on what would be wrong if the other node lived after all. A process that has effects
//! at once is nobody's only when its node's *lease* is over, which takes as long as a lease. A *durable* one has no effect but behind a
//! comparison with its claim (`tape`): whoever writes the next claim has fenced it, so to be mistaken is a pause and never two of it. For
//! that one it is enough that nobody hears its node; and of a daemon that was killed the machine says so itself, at once.
//!
//! ```text
//!   its link breaks ──► its port is closed ──► still nobody has heard it, a moment later ──► its durable processes
//!                  └──► no answer ──────────► it is down for the members ──────────────────►      "
//!                                                     its lease is over ───────────────────► all others
//! ```
//! Who takes it up is decided as for a process that begins (`place`), by what is known where it is found.
//!
//! Leases are looked after by the holder of the files, of whom there is one. Silences by the first of those that are heard: if two take
//! themselves for that, one of them comes too late for the claim.

use super::place::Recent;
use super::supervise::{Because, NODES, lease_fact, node_key, revision_of};
use super::view::{Occasion, WhyView};
use super::{FACT_TIMEOUT, Inner, System, ears};
use crate::keep::record::{Claim, Place};
use crate::node::Pid;
use abi::ids::NodeId;
use drivers::coordinator::{Coordinator, Range, Revision};
use services::durable::claims;
use services::events::Kind;
use services::members::Standing;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often it is looked whether a node has lost its processes; and if there are none to be lost.
const LOOK_EVERY: Duration = Duration::from_millis(300);
const LOOK_SELDOM: Duration = Duration::from_millis(1500);
/// So long after its port was found closed a node that lives after all is heard of by others: they clear it in a round trip or two.
const QUIET: Duration = Duration::from_millis(100);
/// Whoever was asked to take a process up is given so long before another is.
const TAKE_UP_PATIENCE: Duration = Duration::from_secs(3);

/// What this node has noticed of others that may be lost.
#[derive(Default)]
pub struct Noticed {
    state: Mutex<State>,
    roused: Condvar,
}

#[derive(Default)]
struct State {
    closed: BTreeMap<NodeId, Closed>,
    /// Something has changed: it is looked at once.
    look: bool,
}

/// A node whose machine says that nobody listens there.
struct Closed {
    /// In which there was somebody.
    life: u64,
    since: Instant,
    /// It was looked at when its moment was over.
    is_seen: bool,
}

impl Noticed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds what was noticed")
    }

    /// Its machine says that nobody listens where it did in this life. Is that new?
    pub fn closed(&self, node: NodeId, life: u64) -> bool {
        let mut state = self.state();
        let is_new = state.closed.get(&node).is_none_or(|known| known.life < life);
        if is_new {
            state.closed.insert(node, Closed { life, since: Instant::now(), is_seen: false });
            self.roused.notify_one();
        }
        is_new
    }

    /// It is there.
    pub fn linked(&self, node: NodeId) {
        self.state().closed.remove(&node);
    }

    /// Somebody is not heard any more.
    pub fn rouse(&self) {
        self.state().look = true;
        self.roused.notify_one();
    }

    /// The life that it had when its port was open, if that is closed now.
    fn closed_life(&self, node: NodeId) -> Option<u64> {
        self.state().closed.get(&node).map(|closed| closed.life)
    }

    /// The same, of those whose moment is over.
    fn quiet_life(&self, node: NodeId) -> Option<u64> {
        self.state().closed.get(&node).filter(|closed| closed.since.elapsed() >= QUIET).map(|closed| closed.life)
    }

    /// Waits so long, or until there is something to look at.
    fn wait(&self, most: Duration) {
        let until = Instant::now() + most;
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let moments = state.closed.values().filter(|closed| !closed.is_seen).map(|closed| closed.since + QUIET);
            let next = moments.min().map_or(until, |at| at.min(until));
            if state.look || next <= now {
                state.look = false;
                for closed in state.closed.values_mut().filter(|closed| closed.since + QUIET <= now) {
                    closed.is_seen = true;
                }
                return;
            }
            let waited = self.roused.wait_timeout(state, next - now);
            state = waited.expect("nothing panics while it holds what was noticed").0;
        }
    }
}

/// Who was asked to take a process up.
struct Asked {
    /// The claim that it was asked about.
    claim: Revision,
    at: Instant,
    to: NodeId,
    /// It has the question.
    has_it: bool,
    /// All that were asked about this claim, since all had been.
    tried: BTreeSet<NodeId>,
}

/// The thread that finds processes whose node is lost.
pub(super) fn run(inner: &Arc<Inner>) {
    let mut asked: BTreeMap<Pid, Asked> = BTreeMap::new();
    // Of which it was told that nobody can take them up.
    let mut told: BTreeMap<Pid, Revision> = BTreeMap::new();
    let recent = Recent::default();
    let mut pause = LOOK_SELDOM;
    while !inner.is_stopping() {
        inner.noticed.wait(pause);
        pause = LOOK_SELDOM;
        let looks_after_leases = inner.files.is_holder();
        let silent = inner.silent();
        if !looks_after_leases && silent.is_empty() {
            asked.clear();
            told.clear();
            continue;
        }
        let Ok(all) = inner.supervised() else { continue };
        let living: Vec<(Pid, Claim, Revision)> =
            all.into_iter().filter(|(_, claim, _)| matches!(claim.place, Place::At { .. })).collect();
        asked.retain(|pid, _| living.iter().any(|(other, ..)| other == pid));
        told.retain(|pid, _| living.iter().any(|(other, ..)| other == pid));
        if living.is_empty() {
            continue;
        }
        pause = LOOK_EVERY;
        let leases = match looks_after_leases {
            true => inner.facts.range(Range::prefix(NODES), Instant::now() + FACT_TIMEOUT).ok(),
            false => None,
        };
        for (pid, claim, revision) in living {
            let Place::At { node, life } = claim.place else { continue };
            let node = NodeId(node);
            let lease = leases.as_ref().map(|leases| {
                let key = node_key(node);
                lease_fact(leases.records.iter().find(|record| record.key[..] == key[..]))
            });
            let is_silent = silent.contains(&(node, life));
            let because = match claims::lost(&claim.outline(), revision_of(revision), is_silent, lease) {
                Some(claims::Because::Silent { claim }) => Because::Silent { claim: claim.0 },
                Some(claims::Because::LeaseOver) => Because::LeaseOver,
                Some(claims::Because::Handed { .. }) => unreachable!("who hands a process over says so itself"),
                None => {
                    asked.remove(&pid);
                    continue;
                }
            };
            let before = asked.get(&pid).filter(|asked| asked.claim == revision);
            let is_at_it =
                |asked: &Asked| asked.has_it && asked.at.elapsed() < TAKE_UP_PATIENCE && inner.may_be_asked(asked.to);
            if before.is_some_and(is_at_it) {
                continue;
            }
            let mut tried = before.map(|asked| asked.tried.clone()).unwrap_or_default();
            match inner.have_taken_up(pid, &claim, node, because, &mut tried, &recent) {
                Some(Ok((to, has_it))) => {
                    tried.insert(to);
                    asked.insert(pid, Asked { claim: revision, at: Instant::now(), to, has_it, tried });
                }
                Some(Err(why)) if told.insert(pid, revision) != Some(revision) => {
                    let why = why.nodes.last().map_or("", |all| &all.reason).into();
                    inner.chronicle.record(Kind::ProcessNotTakenUp { process: pid.id(), by: inner.me, why });
                }
                Some(Err(_)) | None => {}
            }
        }
    }
}

impl Inner {
    /// The lives of nodes that are not heard, if it is this node that looks after that.
    fn silent(&self) -> Vec<(NodeId, u64)> {
        let members: Vec<NodeId> = self.directory.members().keys().copied().collect();
        let first = members.iter().find(|node| self.may_be_asked(**node));
        if first != Some(&self.me) {
            return vec![];
        }
        let others = members.into_iter().filter(|node| *node != self.me);
        others.filter_map(|node| Some((node, self.silent_life(node)?))).collect()
    }

    /// The life of a node that nobody hears.
    fn silent_life(&self, node: NodeId) -> Option<u64> {
        match self.health.standing(node) {
            Standing::Down => self.health.last_life(node),
            Standing::Suspect => self.noticed.quiet_life(node),
            Standing::Alive | Standing::Left | Standing::Unknown => None,
        }
    }

    /// Is it heard, as far as is known?
    pub(super) fn may_be_asked(&self, node: NodeId) -> bool {
        node == self.me || (self.health.is_up(node) && self.noticed.closed_life(node).is_none())
    }

    /// Asks the node that suits it best to take a process up, and says which, and whether it has the question; or why there is none.
    /// `tried`: they have not done it; when that is so of all, they are asked again.
    fn have_taken_up(
        self: &Arc<Inner>, pid: Pid, claim: &Claim, lost: NodeId, because: Because, tried: &mut BTreeSet<NodeId>,
        recent: &Recent,
    ) -> Option<Result<(NodeId, bool), WhyView>> {
        let supervision = claim.supervision.as_ref()?;
        // Directories of a machine are on that machine alone.
        if !supervision.begin.process.mounts.is_empty() {
            if lost == self.me {
                self.supervise.look_own();
            }
            return None;
        }
        let system = System(self.clone());
        let decided = system.place_lost(claim, lost, tried, recent).or_else(|why| {
            if tried.is_empty() {
                return Err(why);
            }
            tried.clear();
            system.place_lost(claim, lost, tried, recent)
        });
        let why = match decided {
            Ok(why) => why.because(Occasion::TakenUp { from: lost.0 }).within_bounds(),
            Err(why) => return Some(Err(why)),
        };
        let to = NodeId(why.chosen.expect("a decision that chose no node is an error"));
        let asked = match to == self.me {
            true => self.take_up_soon(pid, because, Some(why)),
            false => self.ask(to, &ears::Question::TakeUp { pid, because, why: Some(why) }).map(drop),
        };
        // Another one is asked if it does not live there in a while.
        if let Err(why) = &asked {
            let process = pid.id();
            self.chronicle.record(Kind::ProcessNotTakenUp { process, by: to, why: why.as_str().into() });
        }
        Some(Ok((to, asked.is_ok())))
    }
}
