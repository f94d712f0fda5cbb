//! Processes that somebody wants to run whatever happens: begun again when they end, here, or elsewhere when their node is lost. Knows the
//! coordinator, and what a checkpoint is for; the policy itself is `services::restarts`.
//!
//! The one idea: a node looks after its processes under a *lease*. If it cannot renew it, it stops them before the lease ends; whoever sees
//! the lease gone may therefore begin them elsewhere. And whoever begins one, anywhere, first writes its next incarnation in the place of
//! the last, in one transaction that fails if somebody else has: so at most one incarnation lives.
//!
//! ```text
//!   k/n/NODE    the life of a node that looks after processes; under a lease
//!   k/p/PID     incarnation, place, policy                                             (keep::record)
//!
//!   its node    ended ──► policy ──► k/p/PID: one incarnation on ──► begun again here, or over
//!               no renewal within three quarters of the lease ──► none of them runs until it is known whose they are
//!   another     k/p/PID says NODE, and k/n/NODE is not there ──► a third one is asked to take it up          (lost)
//! ```
//! A *durable* process goes on from its last checkpoint instead of the beginning. What it prints is shown only when a checkpoint that
//! covers it is safe: so whatever anybody has seen of it is in its past, wherever it goes on.

use super::keep::{KeepRefused, Made, Which};
use super::moving::ChosenBy;
use super::tape::Taping;
use super::view::{Occasion, WhyView};
use super::{FACT_TIMEOUT, Inner, System, SystemError, ears};
use crate::files::Lasting;
use crate::keep::record::{self, Begin, Claim, Place, Restart, Supervision};
use crate::node::{Console, End, Node, Order, Outward, Pid, SnapshotRefused};
use abi::ids::NodeId;
use abi::process::Again;
use drivers::coordinator::{Action, Compare, Coordinator, Failure, LeaseId, Range, Record, Revision, Transaction};
use serde::{Deserialize, Serialize};
use services::durable::claims::{self, Fence, Home, LeaseFact, Needs, Whose};
use services::events::Kind;
use services::location::Input;
use services::restarts::{self, Ending, Policy, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// After the death of a node its processes are nobody's for so long.
const LEASE: Duration = Duration::from_millis(claims::LEASE_MS);
/// How often the lease is renewed, and looked after.
const RENEW_EVERY: Duration = Duration::from_millis(claims::RENEW_EVERY_MS);
/// Whoever is handed a process may have to compile its program before.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(20);
/// Processes that one node looks after. Then: refused.
const CHARGES_MAX: usize = 1024;
/// A durable process is kept at least so often.
pub const EVERY_MAX: Duration = Duration::from_secs(60);
pub const EVERY_MIN: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(20);
/// A durable process is kept so seldom that this costs it at most 1 in so many of its time: 5 %.
const COST_SHARE: u32 = 20;
/// How long somebody who looks for a process that nobody knows waits for the coordinator.
const LOCATE_TIMEOUT: Duration = Duration::from_secs(1);
/// After a checkpoint that failed.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Where leases of nodes are.
pub(super) const NODES: &[u8] = b"k/n/";

pub(super) fn node_key(node: NodeId) -> Vec<u8> {
    [NODES, format!("{:05}", node.0).as_bytes()].concat()
}

/// What this node looks after.
pub struct Supervise {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    charges: BTreeMap<Pid, Charge>,
    /// Processes that are about to be charges of this node.
    taking: BTreeSet<Pid>,
    lease: Option<Lease>,
    /// So many are about to begin a process that needs the lease.
    wanting: usize,
    /// The lease could not be renewed in time: nothing that is looked after runs before it is known whose it is.
    in_doubt: bool,
    /// There may be processes of this node that nobody looks after.
    look_own: bool,
}

struct Charge {
    claim: Claim,
    revision: Revision,
    began: Instant,
    phase: Phase,
    /// It is kept from running because of the doubt, and by nobody else.
    is_held: bool,
    /// Somebody has killed it: whatever it does at that moment, it is not begun again.
    is_killed: bool,
    /// What it printed, until its end is written down.
    console: Option<Console>,
    /// What it was told, if it is durable.
    taping: Option<Taping>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It is being begun: what the node says of it is of an earlier incarnation.
    Beginning,
    Living,
    /// It is being begun on another node: its end here is no end.
    HandedOver,
    /// It is begun again then. `from_start`: it ended, and so begins from its beginning; else it could not be begun.
    Again {
        at: Instant,
        in_a_row: u32,
        from_start: bool,
    },
}

/// What became of an attempt to kill a process that its node looks after.
#[derive(PartialEq, Eq, Debug)]
pub enum Killed {
    /// It ends as soon as it lives, and is not begun again.
    Done,
    /// It is on its way to another node, and can be killed there in a moment.
    NotYet,
    /// It is nothing that this node looks after.
    NotHere,
}

#[derive(Clone, Copy)]
struct Lease {
    id: LeaseId,
    /// Until then it runs for certain.
    until: Instant,
}

/// A process is about to be a charge of this node as long as this lives.
struct Taking<'a>(&'a Supervise, Pid);

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.0.state().taking.remove(&self.1);
    }
}

impl State {
    /// Does somebody wait for the lease?
    fn is_awaited(&self) -> bool {
        self.wanting > 0 && self.lease.is_none()
    }
}

impl Supervise {
    pub fn new() -> Supervise {
        // At the start there may be processes of an earlier life.
        let state = State { look_own: true, ..State::default() };
        Supervise { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The lease is kept as long as this lives.
    fn want(&self) -> Wanting<'_> {
        self.state().wanting += 1;
        Wanting(self)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds what is looked after")
    }

    /// A process has ended: called on the thread on which that happened.
    pub fn over(&self, pid: Pid) {
        if self.state().charges.contains_key(&pid) {
            self.changed.notify_all();
        }
    }

    /// Has its end yet to be written down? Until then nobody is told of it.
    pub fn is_unsettled(&self, pid: Pid) -> bool {
        self.state().charges.contains_key(&pid)
    }

    /// Does it go on from checkpoints, and is looked after here?
    pub fn is_durable(&self, pid: Pid) -> bool {
        let durable =
            |charge: &Charge| charge.claim.supervision.as_ref().is_some_and(|one| one.durable_every_ms.is_some());
        self.state().charges.get(&pid).is_some_and(durable)
    }

    /// Since when the claim is as it is under which a process is looked after here.
    pub fn revision_of(&self, pid: Pid) -> Option<Revision> {
        self.state().charges.get(&pid).map(|charge| charge.revision)
    }

    pub fn taping_of(&self, pid: Pid) -> Option<Taping> {
        self.state().charges.get(&pid)?.taping.clone()
    }

    pub fn set_taping(&self, pid: Pid, taping: Taping) {
        if let Some(charge) = self.state().charges.get_mut(&pid) {
            charge.taping = Some(taping);
        }
    }

    /// Has a process end, and not begun again.
    pub fn kill(&self, pid: Pid) -> Killed {
        match self.state().charges.get_mut(&pid) {
            None => return Killed::NotHere,
            Some(Charge { phase: Phase::HandedOver, .. }) => return Killed::NotYet,
            Some(charge) => charge.is_killed = true,
        }
        self.changed.notify_all();
        Killed::Done
    }

    /// Its end here is none from now on. False: somebody else has seen to that.
    fn begins_to_end(&self, pid: Pid) -> bool {
        let mut state = self.state();
        let living = state.charges.get_mut(&pid).filter(|charge| charge.phase == Phase::Living);
        living.map(|charge| charge.phase = Phase::Beginning).is_some()
    }

    fn set_phase(&self, pid: Pid, phase: Phase) {
        if let Some(charge) = self.state().charges.get_mut(&pid) {
            charge.phase = phase;
        }
    }

    /// From looking whose it is until it is a charge, one at a time takes a process up; nothing: somebody does. Else the second would see
    /// the claim that the first has written, and no charge yet, and take it from under the process.
    fn take(&self, pid: Pid) -> Option<Taking<'_>> {
        let is_first = self.state().taking.insert(pid);
        is_first.then(|| Taking(self, pid))
    }

    pub fn has(&self, pid: Pid) -> bool {
        self.state().charges.contains_key(&pid)
    }

    /// There may be processes of this node that nobody looks after.
    pub fn look_own(&self) {
        self.state().look_own = true;
        self.changed.notify_all();
    }
}

/// Why a process may go on here that another node had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Because {
    /// It has no lease.
    LeaseOver,
    /// It hands it over, whose claim has this revision. `is_named`: somebody named the node to which it does.
    Handed { claim: u64, is_named: bool },
    /// Nobody hears it. Enough for a durable one, whose claim is all the fence that it needs, if that has this revision.
    Silent { claim: u64 },
}

impl From<Because> for claims::Because {
    fn from(because: Because) -> claims::Because {
        match because {
            Because::LeaseOver => claims::Because::LeaseOver,
            Because::Handed { claim, .. } => claims::Because::Handed { claim: claims::Revision(claim) },
            Because::Silent { claim } => claims::Because::Silent { claim: claims::Revision(claim) },
        }
    }
}

/// As decisions take it.
pub(super) fn revision_of(revision: Revision) -> claims::Revision {
    claims::Revision(revision.0)
}

/// What the coordinator has of a node's lease.
pub(super) fn lease_fact(record: Option<&Record>) -> LeaseFact {
    let Some(record) = record else { return LeaseFact::Missing };
    // What is no number is no node's life.
    LeaseFact::Of { life: life_of(record).unwrap_or_default(), revision: revision_of(record.modified) }
}

struct Wanting<'a>(&'a Supervise);

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.state().wanting -= 1;
    }
}

fn policy(restart: Restart) -> Policy {
    match restart {
        Restart::No => Policy::No,
        Restart::OnFailure => Policy::OnFailure,
        Restart::Always => Policy::Always,
    }
}

fn ending(end: &End) -> Ending {
    match end {
        End::Exited(code) => Ending::Exited(*code),
        End::Killed | End::Frozen => Ending::Killed,
        End::Orphaned | End::Failed { .. } | End::NotStarted(_) | End::CpuLimit => Ending::Failed,
    }
}

impl System {
    /// From now on this process, which has just been started here, is looked after.
    pub fn supervise(&self, pid: Pid, console: &Console, supervision: Supervision) -> Result<(), KeepRefused> {
        let inner = &self.0;
        let is_durable = supervision.durable_every_ms.is_some();
        let tape = inner.node.get().and_then(|node| node.tape(pid));
        let taping = tape.map(|tape| Taping::new(tape, supervision.since, None, vec![]));
        let place = Place::At { node: inner.me.0, life: inner.record().life };
        let claim = Claim { incarnation: 0, place, supervision: Some(supervision) };
        if inner.supervise.state().charges.len() >= CHARGES_MAX {
            return Err(SystemError::Refused(format!("this node looks after {CHARGES_MAX} processes already")).into());
        }
        let _wanting = inner.supervise.want();
        self.lease(Instant::now() + FACT_TIMEOUT)?;
        // Before it is written down, so that it ends with the lease from the first moment on.
        let charge = Charge {
            claim: claim.clone(),
            revision: Revision(0),
            began: Instant::now(),
            phase: Phase::Beginning,
            is_held: false,
            is_killed: false,
            console: is_durable.then(|| console.clone()),
            taping,
        };
        inner.supervise.state().charges.insert(pid, charge);
        let written = inner.write_claim(pid, None, &claim);
        let kept = written.and_then(|revision| {
            inner.begun(pid, revision)?;
            // So that its program is on another node too, and a durable one has something to go on from.
            match self.checkpoint(pid, None) {
                Ok(_) => Ok(()),
                // It is over already, or began something that is not kept: then there is its program here, and elsewhere if it ran.
                Err(KeepRefused::Snapshot(_)) => Ok(()),
                Err(refused) => Err(refused),
            }
        });
        if let Err(refused) = kept {
            inner.supervise.state().charges.remove(&pid);
            return Err(refused);
        }
        if inner.node.get().is_some_and(|node| !node.is_alive(pid)) {
            inner.supervise.changed.notify_all();
        }
        if is_durable {
            self.keep_durable(pid);
        }
        inner.supervise.changed.notify_all();
        Ok(())
    }

    /// Has this process ended without anybody being told of it yet? Its end is written down first, or it is begun again.
    pub fn is_unsettled(&self, pid: Pid) -> bool {
        self.0.supervise.is_unsettled(pid)
    }

    /// Has a process that this node looks after end and not begun again, whether or not it lives at this moment.
    pub fn kill_for_good(&self, pid: Pid) -> Killed {
        self.0.supervise.kill(pid)
    }

    /// Waits until this node's lease runs.
    fn lease(&self, deadline: Instant) -> Result<(), KeepRefused> {
        let supervise = &self.0.supervise;
        let mut state = supervise.state();
        loop {
            if state.lease.is_some_and(|lease| Instant::now() + LEASE / 4 < lease.until) {
                return Ok(());
            }
            supervise.changed.notify_all();
            let Some(rest) = deadline.checked_duration_since(Instant::now()) else {
                let why = "the lease of this node's processes could not be had in time";
                return Err(SystemError::NoQuorum(why.into()).into());
            };
            let waited = supervise.changed.wait_timeout(state, rest.min(RENEW_EVERY));
            state = waited.expect("nothing panics while it holds what is looked after").0;
        }
    }

    /// Keeps a durable process again and again, and writes down what it is told.
    fn keep_durable(&self, pid: Pid) {
        let charge = {
            let state = self.0.supervise.state();
            state.charges.get(&pid).map(|charge| (charge.taping.clone(), charge.console.clone()))
        };
        let Some((Some(taping), Some(console))) = charge else { return };
        let (system, tells) = (self.clone(), taping.clone());
        let writes = move || {
            if !system.0.write_tape(pid, &tells, &console) {
                system.0.is_superseded(pid);
            }
        };
        // Without a thread nothing of it is shown but what a checkpoint covers.
        let _ = std::thread::Builder::new().name(format!("una-tape {pid}")).spawn(writes);
        let system = self.clone();
        let keeps = move || {
            let inner = &system.0;
            loop {
                let (console, every, since) = {
                    let state = inner.supervise.state();
                    let Some(charge) = state.charges.get(&pid) else { return };
                    let every = charge.claim.supervision.as_ref().and_then(|one| one.durable_every_ms);
                    let (Some(console), Some(every)) = (charge.console.clone(), every) else { return };
                    (console, Duration::from_millis(every), Instant::now())
                };
                let over = inner.node.get().is_none_or(|node| node.end_of(pid).is_some()) || inner.is_stopping();
                if over {
                    return;
                }
                let pause = match system.checkpoint(pid, None) {
                    Ok(Made { checkpoint, cost }) => {
                        console.release(checkpoint.process.output_bytes);
                        let took = since.elapsed();
                        // Whatever people say, it shall be the process that takes up the time, and not its checkpoints.
                        every.max(cost * COST_SHARE).max(took * 2).saturating_sub(took)
                    }
                    // It lives elsewhere: what runs here is not it any more.
                    Err(KeepRefused::Superseded(_)) => return inner.is_superseded(pid),
                    // It is tried again, and nothing is shown meanwhile.
                    Err(_) => AGAIN_AFTER,
                };
                let until = Instant::now() + pause;
                while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                    if inner.supervise.taping_of(pid).is_none_or(|taping| taping.is_long()) {
                        break;
                    }
                    if console.wait_full_or_closed(left.min(PAUSE * 5)) {
                        break;
                    }
                }
            }
        };
        // Without a thread nothing of it is ever shown, and whoever waits for it sees that it does not go on.
        let _ = std::thread::Builder::new().name(format!("una-durable {pid}")).spawn(keeps);
    }

    /// Lets a durable process of this node go on on another one: it is kept once more and begun there from that, and what is left of it
    /// here ends. The other node writes its claim in the place of this node's, so that whatever fails it is one of the two's. Gives how
    /// much was new in the checkpoint, and for how long it stood still.
    pub(super) fn hand_over(
        &self, pid: Pid, to: NodeId, (by, why): (ChosenBy, WhyView),
    ) -> Result<(u64, Duration), KeepRefused> {
        let inner = &self.0;
        let node = self.node()?;
        let charge =
            inner.supervise.state().charges.get(&pid).map(|charge| (charge.revision, charge.claim.incarnation));
        let Some((revision, incarnation)) = charge else { return Err(KeepRefused::None(pid)) };
        let stopped_at = Instant::now();
        let was_stopped = node.is_stopped(pid);
        let refused = |why: &dyn std::fmt::Display| KeepRefused::System(SystemError::Refused(why.to_string()));
        if !was_stopped {
            node.stop(pid).map_err(|error| refused(&error))?;
        }
        let handed = (|| {
            let checkpoint = self.checkpoint(pid, None)?.checkpoint;
            // From here on its end here is no end.
            inner.supervise.set_phase(pid, Phase::HandedOver);
            let because = Because::Handed { claim: revision.0, is_named: by == ChosenBy::Person };
            let question = ears::Question::TakeUp { pid, because, why: Some(why.within_bounds()) };
            inner.ask(to, &question).map_err(|why| refused(&why))?;
            let until = Instant::now() + HAND_OVER_PATIENCE;
            loop {
                match inner.claim(pid)? {
                    Some((_, now)) if now == revision && Instant::now() < until => std::thread::sleep(PAUSE),
                    Some((_, now)) if now == revision => return Err(refused(&"it was not taken up there in time")),
                    _ => return Ok(checkpoint.new_bytes),
                }
            }
        })();
        match handed {
            Ok(bytes) => {
                inner.supervise.state().charges.remove(&pid);
                let moves = Again { id: pid.id(), incarnation: incarnation + 1 }.moves();
                self.moved_away(pid, to, moves);
                inner.whys.forget(pid);
                node.gone_to(pid, to);
                let (process, from) = (pid.id(), inner.me);
                inner.chronicle.record(Kind::ProcessMoved { process, from, to });
                Ok((bytes, stopped_at.elapsed()))
            }
            Err(error) => {
                // If it is taken up there after all, nothing that it does here from now on is shown.
                inner.supervise.set_phase(pid, Phase::Living);
                if !was_stopped {
                    let _ = node.cont(pid);
                }
                Err(error)
            }
        }
    }

    /// Makes a process of another node go on here.
    pub fn take_up(&self, pid: Pid, because: Because) -> Result<(), KeepRefused> {
        let inner = &self.0;
        let Some(_taking) = inner.supervise.take(pid) else {
            return Err(KeepRefused::Living { pid, node: inner.name_of(inner.me) });
        };
        let _wanting = inner.supervise.want();
        self.lease(Instant::now() + FACT_TIMEOUT)?;
        let Some((claim, revision)) = inner.claim(pid)? else { return Err(KeepRefused::None(pid)) };
        let (Place::At { node, .. }, Some(supervision)) = (claim.place.clone(), claim.supervision.clone()) else {
            return Err(KeepRefused::Superseded(pid));
        };
        let living = |node: NodeId| KeepRefused::Living { pid, node: inner.name_of(node) };
        let needs = claims::take_up(
            &claim.outline(),
            revision_of(revision),
            because.into(),
            inner.home(),
            inner.supervise.has(pid),
        );
        let needs = needs.map_err(|refused| match refused {
            claims::Refused::Superseded => KeepRefused::Superseded(pid),
            claims::Refused::Living => living(NodeId(node)),
        })?;
        let before = match needs {
            Needs::Nothing => None,
            Needs::OldOneOut => {
                // It was killed when the lease was lost, and may still be on its way out.
                let until = Instant::now() + FACT_TIMEOUT;
                while self.node()?.is_alive(pid) {
                    if Instant::now() >= until {
                        return Err(living(inner.me));
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                None
            }
            // In the transaction too: it must not have come back meanwhile.
            Needs::LeaseOver(home) => Some(inner.lease_is_over(home)?.ok_or_else(|| living(home.node))?),
        };
        let in_a_row = supervision.in_a_row;
        let why = match because {
            Because::Handed { .. } => "it moves",
            Because::Silent { .. } => "nobody hears its node",
            Because::LeaseOver => "its node was lost",
        };
        inner.begin(self, pid, (claim, revision), before, in_a_row, why, None)
    }
}

impl Inner {
    /// A comparison that holds as long as this life of a node has no lease; nothing if it has one.
    fn lease_is_over(&self, home: Home) -> Result<Option<Compare>, KeepRefused> {
        let key = node_key(home.node);
        let found = self.facts.range(Range::key(&key), Instant::now() + FACT_TIMEOUT).map_err(SystemError::from)?;
        Ok(lease_fact(found.records.first()).over(home.life).map(|fence| match fence {
            Fence::LeaseUnchanged(revision) => Compare::unchanged(&key, Revision(revision.0)),
            Fence::LeaseMissing => Compare::missing(&key),
            Fence::ClaimAlone => unreachable!("a lease that is over is compared"),
        }))
    }

    /// This node in this life.
    pub(super) fn home(&self) -> Home {
        Home { node: self.me, life: self.record().life }
    }

    /// Begins the next incarnation of a process here.
    #[expect(clippy::too_many_arguments, reason = "what is known of the last incarnation, one by one")]
    fn begin(
        &self, system: &System, pid: Pid, (claim, revision): (Claim, Revision), before: Option<Compare>, in_a_row: u32,
        why: &str, console: Option<Console>,
    ) -> Result<(), KeepRefused> {
        let Some(supervision) = claim.supervision.clone() else { return Err(KeepRefused::Superseded(pid)) };
        // A process that ended and begins from its beginning has no past: it never goes on from what was kept before.
        let claims::Claim { incarnation, since, .. } = match console.is_some() {
            true => claim.outline().begun_anew(self.home()),
            false => claim.outline().gone_on_with(self.home()),
        };
        let supervision = Supervision { in_a_row, since, ..supervision };
        let place = Place::At { node: self.me.0, life: self.record().life };
        let claim = Claim { incarnation, place, supervision: Some(supervision.clone()) };
        let replaced = self.replace_claim(pid, revision, &claim, before);
        // If it was written and that is not known, it is this node's, and nobody looks after it.
        let revision = replaced.inspect_err(|_| self.supervise.look_own())?;
        if let Some(console) = &console {
            // Its end is written down by that.
            console.release_all();
            if let Some(node) = self.node.get() {
                node.release_answers(pid);
            }
        }
        let phase = Phase::Beginning;
        let began = Instant::now();
        let mut charge = Charge {
            claim: claim.clone(),
            revision,
            began,
            phase,
            is_held: false,
            is_killed: false,
            console: None,
            taping: None,
        };
        {
            let mut state = self.supervise.state();
            // Perhaps a moment ago.
            charge.is_killed = state.charges.get(&pid).is_some_and(|before| before.is_killed);
            state.charges.insert(pid, charge);
        }
        let again = Again { id: pid.id(), incarnation };
        let begun = match supervision.durable_every_ms.is_some() && console.is_none() {
            true => match system.go_on_again(pid, again, since) {
                // Nothing of it was ever safe, so nobody has seen anything of it.
                Err(KeepRefused::None(_)) => system.begin_anew(pid, &supervision.begin, (again, since), None),
                begun => begun,
            },
            false => system.begin_anew(pid, &supervision.begin, (again, since), console.as_ref()),
        };
        match begun {
            Ok(new) => {
                self.begun(pid, revision)?;
                let on = self.me;
                let (process, incarnation) = (pid.id(), u64::from(incarnation));
                self.chronicle.record(Kind::ProcessRestarted { process, on, incarnation, why: why.into() });
                if supervision.durable_every_ms.is_some() {
                    let tape = self.node.get().and_then(|node| node.tape(pid));
                    if let Some(charge) = self.supervise.state().charges.get_mut(&pid) {
                        charge.console = Some(new);
                        // Of one that goes on from a checkpoint it is known already.
                        if charge.taping.is_none() {
                            charge.taping = tape.map(|tape| Taping::new(tape, since, None, vec![]));
                        }
                    }
                    system.keep_durable(pid);
                }
                self.supervise.changed.notify_all();
                Ok(())
            }
            Err(refused) => {
                self.not_begun(pid, in_a_row);
                Err(refused)
            }
        }
    }

    /// Somebody else has this process: what runs here is not it any more.
    fn is_superseded(&self, pid: Pid) {
        // If it is being handed over, whoever does that ends it; and one of those who notice is enough.
        if !self.supervise.begins_to_end(pid) {
            return;
        }
        // Until it is known where it is nobody is told of its end here, which is none.
        let claim = loop {
            match self.claim(pid) {
                Ok(claim) => break claim,
                Err(_) if self.is_stopping() => return,
                Err(_) => std::thread::sleep(AGAIN_AFTER),
            }
        };
        self.supervise.state().charges.remove(&pid);
        if let Some(node) = self.node.get() {
            self.fence(node, pid, claim.map(|(claim, _)| claim));
        }
    }

    /// A process that is looked after runs. If the lease was lost meanwhile it must not.
    fn begun(&self, pid: Pid, revision: Revision) -> Result<(), KeepRefused> {
        let mut state = self.supervise.state();
        match state.charges.get_mut(&pid) {
            Some(charge) => {
                charge.phase = Phase::Living;
                charge.revision = revision;
                if state.in_doubt {
                    drop(state);
                    let _ = self.node.get().map(|node| self.doubt(node));
                }
                Ok(())
            }
            None => {
                drop(state);
                if let Some(node) = self.node.get() {
                    // It may have ended by itself.
                    let _ = node.kill(pid);
                }
                Err(KeepRefused::Superseded(pid))
            }
        }
    }

    /// It could not be begun: that is tried again, more and more seldom, and not for ever.
    fn not_begun(&self, pid: Pid, in_a_row: u32) {
        match restarts::after(Policy::OnFailure, Ending::Failed, 0, in_a_row.max(1)) {
            Verdict::Again { after_ms, in_a_row } => {
                if let Some(charge) = self.supervise.state().charges.get_mut(&pid) {
                    let at = Instant::now() + Duration::from_millis(after_ms);
                    charge.phase = Phase::Again { at, in_a_row, from_start: false };
                }
            }
            Verdict::Over | Verdict::GivenUp => {
                self.is_over(pid, &End::NotStarted("it could not be begun".into()), true)
            }
        }
    }

    /// What was to be begun again was not, perhaps since its claim is another one by now: then it is somebody else's, or of an attempt of
    /// this node whose answer was lost, which is found by whoever looks after all nodes.
    fn look_at_claim(&self, pid: Pid, revision: Revision) {
        let now = self.claim(pid);
        let mut state = self.supervise.state();
        let Some(charge) = state.charges.get_mut(&pid).filter(|charge| charge.revision == revision) else { return };
        let Phase::Again { at, .. } = &mut charge.phase else { return };
        match now {
            Ok(now) if now.as_ref().is_none_or(|(_, now)| *now != revision) => {
                state.charges.remove(&pid);
                state.look_own = true;
            }
            _ => *at = Instant::now() + AGAIN_AFTER,
        }
    }

    fn replace_claim(
        &self, pid: Pid, revision: Revision, claim: &Claim, before: Option<Compare>,
    ) -> Result<Revision, KeepRefused> {
        let Some(before) = before else { return self.write_claim(pid, Some(revision), claim) };
        let key = record::claim_key(pid);
        let transaction = Transaction::new()
            .when(Compare::unchanged(&key, revision))
            .when(before)
            .then(Action::put(&key, claim.write(pid)));
        let committed = self.facts.transact(transaction, Instant::now() + FACT_TIMEOUT).map_err(SystemError::from)?;
        match committed.succeeded {
            true => Ok(committed.revision),
            false => Err(KeepRefused::Superseded(pid)),
        }
    }

    /// A process that is looked after here has ended: says what becomes of it.
    fn ended(&self, pid: Pid, end: &End) {
        let (claim, ran) = {
            let state = self.supervise.state();
            let Some(charge) = state.charges.get(&pid).filter(|charge| charge.phase == Phase::Living) else { return };
            (charge.claim.clone(), charge.began.elapsed())
        };
        let Some(supervision) = &claim.supervision else { return };
        let verdict =
            restarts::after(policy(supervision.restart), ending(end), ran.as_millis() as u64, supervision.in_a_row);
        match verdict {
            Verdict::Again { after_ms, in_a_row } => {
                if let Some(charge) = self.supervise.state().charges.get_mut(&pid) {
                    let at = Instant::now() + Duration::from_millis(after_ms);
                    charge.phase = Phase::Again { at, in_a_row, from_start: true };
                }
                self.supervise.changed.notify_all();
            }
            Verdict::Over => self.is_over(pid, end, false),
            Verdict::GivenUp => self.is_over(pid, end, true),
        }
    }

    /// It is not begun again. That is written down, and then told.
    fn is_over(&self, pid: Pid, end: &End, is_given_up: bool) {
        let (claim, revision, console) = {
            let state = self.supervise.state();
            let Some(charge) = state.charges.get(&pid) else { return };
            (charge.claim.clone(), charge.revision, charge.console.clone())
        };
        let over = Claim { place: Place::Ended { node: self.me.0, end: Some(end.clone()) }, ..claim };
        // If it cannot be written now it is tried again; if somebody else has taken it up, nobody is told of this end.
        match self.write_claim(pid, Some(revision), &over) {
            Ok(_) => {
                if let Some(console) = console {
                    console.release_all();
                }
                if let Some(node) = self.node.get() {
                    node.release_answers(pid);
                }
                if is_given_up {
                    self.chronicle.record(Kind::ProcessGivenUp { process: pid.id() });
                }
                self.supervise.state().charges.remove(&pid);
                self.forget(pid, &over);
            }
            Err(KeepRefused::System(SystemError::NoQuorum(_))) => {}
            Err(_) => drop(self.supervise.state().charges.remove(&pid)),
        }
    }

    /// Forgets what is kept of a process only while it may go on.
    pub(super) fn forget(&self, pid: Pid, over: &Claim) {
        let Some(supervision) = over.supervision.as_ref().filter(|one| one.durable_every_ms.is_some()) else { return };
        let (name, since) = (supervision.begin.process.stdio.session, supervision.since);
        let session = Lasting { name, since, incarnation: over.incarnation };
        self.forget_tapes(pid);
        let (files, names) = (self.files.clone(), self.names.clone());
        // It may have to wait for whoever holds the files. Without a thread 48 bytes stay.
        let forget = move || {
            names.forget(pid.id());
            files.end_session(session);
        };
        let _ = std::thread::Builder::new().name("una-forget".into()).spawn(forget);
    }

    /// Keeps all that is looked after here from running: the lease is about to be over, and others may take it up.
    fn doubt(&self, node: &Node) {
        let all: Vec<Pid> = {
            let mut state = self.supervise.state();
            state.in_doubt = true;
            let free = state.charges.iter().filter(|(_, charge)| !charge.is_held);
            free.map(|(pid, _)| *pid).collect()
        };
        for pid in all {
            // Who has stopped it by hand lets it go on by hand; who has ended has no effects.
            if node.is_stopped(pid) || node.stop(pid).is_err() {
                continue;
            }
            match self.supervise.state().charges.get_mut(&pid) {
                Some(charge) => charge.is_held = true,
                None => drop(node.cont(pid)),
            }
        }
    }

    /// The lease runs again: what nobody has taken up meanwhile goes on, the rest is ended.
    fn decide(&self, node: &Node) {
        let all: Vec<(Pid, Revision)> = {
            let state = self.supervise.state();
            state.charges.iter().map(|(pid, charge)| (*pid, charge.revision)).collect()
        };
        for (pid, revision) in all {
            // Somebody who is beginning it here says its claim in a moment.
            let is_beginning = |charge: &Charge| matches!(charge.phase, Phase::Beginning | Phase::HandedOver);
            match self.claim(pid) {
                Ok(now) => {
                    let is_beginning = self.supervise.state().charges.get(&pid).is_some_and(is_beginning);
                    let revision_now = now.as_ref().map(|(_, now)| revision_of(*now));
                    match claims::whose(revision_of(revision), revision_now, is_beginning) {
                        Whose::Ours => {
                            let mut state = self.supervise.state();
                            let charge = state.charges.get_mut(&pid);
                            let is_held = charge.is_some_and(|charge| std::mem::take(&mut charge.is_held));
                            drop(state);
                            if is_held {
                                // It may have ended by itself.
                                let _ = node.cont(pid);
                            }
                        }
                        Whose::BeingDecided => {}
                        Whose::Theirs => {
                            self.supervise.state().charges.remove(&pid);
                            self.fence(node, pid, now.map(|(claim, _)| claim));
                        }
                    }
                }
                // The doubt lasts.
                Err(_) => return,
            }
        }
        self.supervise.state().in_doubt = false;
    }

    /// The node on which a process lives for certain or nearly so, if somebody looks after it; or where it ended, which is known there.
    pub(super) fn claimed_on(&self, pid: Pid) -> Option<NodeId> {
        let found = self.facts.range(Range::key(record::claim_key(pid)), Instant::now() + LOCATE_TIMEOUT).ok()?;
        let record = found.records.first()?;
        match Claim::read(&record.key, &record.value)?.1.place {
            Place::At { node, .. } | Place::Ended { node, .. } => Some(NodeId(node)),
        }
    }

    /// Somebody else has this process, as `claim` says: what runs here is not it any more, and who looks for it here goes where it is.
    fn fence(&self, node: &Node, pid: Pid, claim: Option<Claim>) {
        let to = claim.and_then(|claim| match claim.place {
            Place::At { node, .. } | Place::Ended { node, .. } if NodeId(node) != self.me => {
                Some((NodeId(node), Again { id: pid.id(), incarnation: claim.incarnation }.moves()))
            }
            _ => None,
        });
        match to {
            Some((to, moves)) => {
                // Else this node would go on saying that it is here, to all who ask where it is.
                self.whereabouts(Input::MovedAway { process: pid.id(), to, moves });
                self.whys.forget(pid);
                node.gone_to(pid, to);
            }
            None => node.end_for_certain(pid),
        }
        self.chronicle.record(Kind::ProcessFenced { process: pid.id() });
    }

    /// Renews the lease, if there is anything to look after.
    fn renew(&self) {
        let (lease, wanted) = {
            let state = self.supervise.state();
            (state.lease, state.wanting > 0 || !state.charges.is_empty())
        };
        let asked_at = Instant::now();
        let renewed = match lease {
            None if !wanted => return,
            Some(lease) if !wanted => {
                // Nobody is looked after any more. If that does not arrive it ends by itself.
                let _ = self.facts.revoke(lease.id, asked_at + LEASE / 3);
                self.supervise.state().lease = None;
                return;
            }
            // So that what must stop if this fails stops in time.
            Some(lease) => {
                match self.facts.keep_alive(lease.id, (asked_at + LEASE / 3).min(lease.until.max(asked_at + PAUSE))) {
                    Ok(_) => Ok(lease.id),
                    Err(Failure::NoLease { .. }) => self.grant(asked_at),
                    Err(error) => Err(error),
                }
            }
            None => self.grant(asked_at),
        };
        if let Ok(id) = renewed {
            let mut state = self.supervise.state();
            if state.lease.is_none_or(|lease| lease.id != id) {
                state.look_own = true;
            }
            let runs_for = claims::runs_until(0, asked_at.elapsed().as_millis() as u64);
            state.lease = Some(Lease { id, until: asked_at + Duration::from_millis(runs_for) });
            self.supervise.changed.notify_all();
        }
    }

    /// Others need not wait for the end of the lease.
    pub(super) fn let_go_of_processes(&self) {
        let lease = {
            let mut state = self.supervise.state();
            state.charges.clear();
            state.lease.take()
        };
        if let Some(lease) = lease {
            let _ = self.facts.revoke(lease.id, Instant::now() + LEASE / 3);
        }
    }

    fn grant(&self, asked_at: Instant) -> Result<LeaseId, Failure> {
        let deadline = asked_at + LEASE / 3;
        let id = self.facts.grant(LEASE, deadline)?;
        let life = self.record().life.to_be_bytes();
        let put = Transaction::of(vec![Action::put_leased(node_key(self.me), life, id)]);
        self.facts.transact(put, deadline)?;
        Ok(id)
    }

    /// All that is looked after, anywhere.
    pub(super) fn supervised(&self) -> Result<Vec<(Pid, Claim, Revision)>, Failure> {
        self.supervised_in(Range::prefix(record::PROCESSES))
    }

    /// The same, as it is known here at once.
    pub(super) fn supervised_as_heard(&self) -> Result<Vec<(Pid, Claim, Revision)>, Failure> {
        self.supervised_in(Range::prefix(record::PROCESSES).stale())
    }

    fn supervised_in(&self, mut range: Range) -> Result<Vec<(Pid, Claim, Revision)>, Failure> {
        let mut all = vec![];
        loop {
            let found = self.facts.range(range.clone(), Instant::now() + FACT_TIMEOUT)?;
            let claims = found.records.iter().filter_map(|record| {
                let (pid, claim) = Claim::read(&record.key, &record.value)?;
                claim.supervision.is_some().then_some((pid, claim, record.modified))
            });
            all.extend(claims);
            match found.records.last() {
                Some(last) if found.more => range.keys.from = [&last.key, &[0][..]].concat().into(),
                _ => return Ok(all),
            }
        }
    }

    /// Takes up processes of this node that nobody looks after: of an earlier life, or after the lease was lost for a while.
    fn look_after_own(self: &Arc<Inner>) {
        let Ok(all) = self.supervised() else {
            self.supervise.state().look_own = true;
            return;
        };
        for (pid, claim, _) in all {
            let is_own = matches!(claim.place, Place::At { node, .. } if node == self.me.0);
            // What cannot be taken up now is a matter for whoever looks after all nodes.
            if is_own && !self.supervise.has(pid) && System(self.clone()).take_up(pid, Because::LeaseOver).is_ok() {
                let reason = "had lost it, and took it up again itself";
                self.whys.keep(pid, self.why_there(self.me, reason, Occasion::TakenUp { from: self.me.0 }));
            }
        }
    }
}

fn said(end: &End) -> String {
    match end {
        End::Exited(code) => format!("exit {code}"),
        End::Failed { reason, .. } => reason.clone(),
        End::NotStarted(why) => why.clone(),
        other => format!("{other:?}").to_lowercase(),
    }
}

pub(super) fn life_of(record: &Record) -> Option<u64> {
    Some(u64::from_be_bytes((*record.value).try_into().ok()?))
}

/// The thread that holds the lease.
pub(super) fn run_lease(inner: &Arc<Inner>) {
    while !inner.is_stopping() {
        inner.renew();
        let (is_late, in_doubt) = {
            let state = inner.supervise.state();
            let is_late = state.lease.is_none_or(|lease| Instant::now() >= lease.until);
            (!state.charges.is_empty() && is_late, state.in_doubt)
        };
        if let Some(node) = inner.node.get() {
            if is_late {
                inner.doubt(node);
            } else if in_doubt {
                inner.decide(node);
            }
        }
        // Whoever waits for the lease has it at once; else it is renewed when it is due, whoever rouses this thread.
        let due = Instant::now() + if inner.supervise.state().is_awaited() { PAUSE } else { RENEW_EVERY };
        let mut state = inner.supervise.state();
        while let Some(rest) = due.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
            let was_awaited = state.is_awaited();
            let waited = inner.supervise.changed.wait_timeout(state, rest);
            state = waited.expect("nothing panics while it holds what is looked after").0;
            if state.is_awaited() && !was_awaited {
                break;
            }
        }
    }
}

/// The thread that begins this node's processes again.
pub(super) fn run(inner: &Arc<Inner>) {
    while !inner.is_stopping() {
        let Some(node) = inner.node.get() else {
            std::thread::sleep(RENEW_EVERY);
            continue;
        };
        let now = Instant::now();
        let (over, due, killed, look_own) = {
            let mut state = inner.supervise.state();
            let (mut over, mut due, mut killed) = (vec![], vec![], vec![]);
            for (pid, charge) in &state.charges {
                match charge.phase {
                    Phase::Living | Phase::Again { .. } if charge.is_killed => {
                        killed.push((*pid, charge.phase == Phase::Living))
                    }
                    Phase::Living => over.push(*pid),
                    Phase::Again { at, .. } if at <= now => due.push(*pid),
                    Phase::Beginning | Phase::HandedOver | Phase::Again { .. } => {}
                }
            }
            (over, due, killed, std::mem::take(&mut state.look_own))
        };
        if look_own {
            inner.look_after_own();
        }
        for pid in over {
            if let Some(end) = node.end_of(pid)
                && !inner.is_going_down()
            {
                inner.ended(pid, &end);
            }
        }
        for (pid, lives) in killed {
            match node.end_of(pid) {
                // It may end by itself meanwhile.
                None if lives => drop(node.kill(pid)),
                end => inner.is_over(pid, &end.unwrap_or(End::Killed), false),
            }
        }
        for pid in due {
            let last = {
                let state = inner.supervise.state();
                let Some(charge) = state.charges.get(&pid) else { continue };
                let Phase::Again { in_a_row, from_start, .. } = charge.phase else { continue };
                (charge.claim.clone(), charge.revision, in_a_row, from_start)
            };
            let (claim, revision, in_a_row, from_start) = last;
            let why = match node.end_of(pid).filter(|_| from_start) {
                Some(end) => format!("it had ended: {}", said(&end)),
                None => "it could not be begun before".into(),
            };
            let console = node.console(pid).ok().filter(|_| from_start);
            let begun = inner.begin(&System(inner.clone()), pid, (claim, revision), None, in_a_row, &why, console);
            if begun.is_err() {
                inner.look_at_claim(pid, revision);
            }
        }
        let state = inner.supervise.state();
        let at = |charge: &Charge| match charge.phase {
            Phase::Again { at, .. } => Some(at),
            Phase::Beginning | Phase::Living | Phase::HandedOver => None,
        };
        let next = state.charges.values().filter_map(at).min();
        let pause = next.map_or(RENEW_EVERY, |at| at.saturating_duration_since(Instant::now()).min(RENEW_EVERY));
        let waited = inner.supervise.changed.wait_timeout(state, pause);
        drop(waited.expect("nothing panics while it holds what is looked after"));
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Inner {
    /// On a thread of its own, since its program may have to be compiled.
    pub(super) fn take_up_soon(
        self: &Arc<Inner>, pid: Pid, because: Because, why: Option<WhyView>,
    ) -> Result<(), String> {
        let system = System(self.clone());
        let take = move || {
            let whys = &system.0.whys;
            // Known as soon as it is here.
            let before = whys.of(pid);
            if let Some(why) = why {
                whys.keep(pid, why);
            }
            match system.take_up(pid, because) {
                Ok(()) => {
                    let is_named = matches!(because, Because::Handed { is_named: true, .. });
                    let node = system.0.node.get().filter(|_| !is_named);
                    let _ = node.map(|node| node.set_guest(pid));
                }
                Err(refused) => {
                    match before {
                        Some(before) => whys.keep(pid, before),
                        None => whys.forget(pid),
                    }
                    let (process, by, why) = (pid.id(), system.0.me, refused.to_string());
                    system.0.chronicle.record(Kind::ProcessNotTakenUp { process, by, why: why.into() });
                }
            }
        };
        let begun = std::thread::Builder::new().name("una-take-up".into()).spawn(take);
        begun.map(drop).map_err(|error| error.to_string())
    }
}

/// Making processes of what is known of them.
impl System {
    fn go_on_again(&self, pid: Pid, again: Again, since: u32) -> Result<Console, KeepRefused> {
        let node = self.node()?;
        let mut candidates = self.0.candidates(pid, &Which::Latest)?;
        candidates.retain(|found| found.checkpoint.as_ref().is_none_or(|(_, one)| one.incarnation >= since));
        if candidates.iter().all(|found| found.checkpoint.is_none()) {
            return Err(KeepRefused::None(pid));
        }
        self.go_on(node, pid, &candidates, Some(again))?;
        node.console(pid).map_err(|refused| KeepRefused::Snapshot(SnapshotRefused::Freeze(refused.into())))
    }

    fn begin_anew(
        &self, pid: Pid, begin: &Begin, (again, since): (Again, u32), before: Option<&Console>,
    ) -> Result<Console, KeepRefused> {
        let node = self.node()?;
        let program = self.program_anywhere(pid, &begin.process.program)?;
        let Begin { env, process } = begin.clone();
        let Outward { name, args, mounts, limits, stdio, .. } = process;
        let order = Order { program, name, args, env, mounts, limits, stdio };
        let started = node.run_again(order, again, since, before.map(Console::save).as_deref())?;
        self.moved_here(pid, again.moves());
        started.console.give_up_first();
        Ok(started.console)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two threads may find the same process at the same time: by a node that is silent, and among what this node left behind.
    #[test]
    fn a_process_is_taken_up_once_at_a_time() {
        let supervise = Supervise::new();
        let (one, other) =
            (Pid::from(abi::ids::ProcessId::from_bits(24)), Pid::from(abi::ids::ProcessId::from_bits(25)));
        let taking = supervise.take(one);
        assert!(taking.is_some() && supervise.take(one).is_none() && supervise.take(other).is_some());
        drop(taking);
        assert!(supervise.take(one).is_some() && supervise.take(one).is_some());
    }
}
