//! Who runs next, on which worker, and who waits until when. This file knows nothing of what processes wait for.
//!
//! The one idea: start-time fair queueing (Goyal, Guo, Vin 1996). Each process has a tag that grows by the time it used,
//! divided by its weight; the lowest tag runs next; who slept begins a little before the present, however long it slept.
//! Processes that always want to run get shares by weight, in turn; one that sleeps a lot runs as soon as it wakes: the
//! little is what puts it before others that stand at the present too, and all that it can ever gain.

use crate::Kernel;
use crate::agenda::{Agenda, Ticket};
use crate::call::Call;
use crate::limits::{SLICE_NS, TURN_NS_MIN, WAKING_CREDIT_NS};
use crate::planted::{Bug, planted};
use crate::process::{Process, State, Waiting};
use crate::table::Key;
use crate::watch::Watch;
use crate::world::{Effect, WorkerId};
use abi::call::{Outcome, Wait};
use abi::ids::{NodeId, Time};
use abi::limits::WEIGHT_NORMAL;
use alloc::vec::Vec;

/// What a process does after its system call.
pub(crate) enum Next {
    /// Goes on at once.
    Return(Outcome),
    /// Goes on, after others had a turn.
    Yield(Outcome),
    /// Waits; its state says for what.
    Block,
    /// It has ended.
    Ended,
    /// It broke a rule.
    Fault(abi::process::Fault),
}

/// The processes that are ready.
///
/// Invariants: the agenda holds exactly the processes in `State::Ready`, each under the ticket that it keeps, by their tags;
/// no tag in it is lower than `present` by more than the credit; `present` never falls.
pub(crate) struct Ready {
    agenda: Agenda<Key<Process>>,
    /// The highest tag of a process that began to run.
    present: u64,
}

impl Ready {
    pub fn new() -> Ready {
        Ready { agenda: Agenda::new(), present: 0 }
    }

    pub fn len(&self) -> usize {
        self.agenda.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Ticket, u64, Key<Process>)> {
        self.agenda.iter()
    }

    pub fn take(&mut self, ticket: Ticket) -> Key<Process> {
        self.agenda.take(ticket)
    }

    fn add(&mut self, key: Key<Process>, tag: &mut u64) -> Ticket {
        *tag = self.present.saturating_sub(WAKING_CREDIT_NS).max(*tag);
        self.agenda.add(*tag, key)
    }

    fn take_first(&mut self) -> Option<Key<Process>> {
        let (tag, key) = self.agenda.take_first()?;
        self.present = self.present.max(tag);
        Some(key)
    }

    pub fn check(&self) {
        self.agenda.check();
        let earliest = self.present.saturating_sub(WAKING_CREDIT_NS);
        assert!(self.agenda.first().is_none_or(|first| first >= earliest), "a process waits in the past");
    }
}

/// What comes due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Due {
    Process(Key<Process>),
    Call(Key<Call>),
    Watch(Key<Watch>),
    Session(NodeId),
}

/// What will come due, and the alarm that the world was asked for.
///
/// Invariants: while anything is on the agenda, `armed` is no later than the first of it, at the end of each step.
pub(crate) struct Alarms {
    agenda: Agenda<Due>,
    armed: Option<u64>,
}

impl Alarms {
    pub fn new() -> Alarms {
        Alarms { agenda: Agenda::new(), armed: None }
    }

    pub fn add(&mut self, at: Time, due: Due) -> Ticket {
        let at = if planted(Bug::EarlyDeadline) { at.0.saturating_sub(5_000) } else { at.0 };
        self.agenda.add(at, due)
    }

    pub fn time_of(&self, ticket: Ticket) -> Time {
        Time(self.agenda.number_of(ticket))
    }

    pub fn take(&mut self, ticket: Ticket) -> Due {
        self.agenda.take(ticket)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Ticket, u64, Due)> {
        self.agenda.iter()
    }

    pub fn rang(&mut self) {
        self.armed = None;
    }

    pub fn take_due(&mut self, now: Time) -> Option<Due> {
        match self.agenda.first() {
            Some(first) if first <= now.0 => self.agenda.take_first().map(|(_, due)| due),
            _ => None,
        }
    }

    pub fn arm(&mut self, effects: &mut Vec<Effect>) {
        if let Some(first) = self.agenda.first()
            && self.armed.is_none_or(|armed| first < armed)
        {
            self.armed = Some(first);
            effects.push(Effect::Alarm { at: Time(first) });
        }
    }

    pub fn check(&self) {
        self.agenda.check();
        if let Some(first) = self.agenda.first() {
            assert!(self.armed.is_some_and(|armed| armed <= first), "a deadline has no alarm");
        }
    }
}

/// What a worker does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Worker {
    /// It sleeps, or has not begun.
    Parked,
    /// It was told to wake and has not said yet that it did.
    Waking,
    Running(Key<Process>),
}

impl Kernel {
    /// Gives a worker that has nothing to run something, or nothing.
    pub(crate) fn dispatch(&mut self, worker: WorkerId, effects: &mut Vec<Effect>) {
        let Some(key) = self.ready.take_first() else {
            self.workers[usize::from(worker.0)] = Worker::Parked;
            self.parked.push(worker);
            effects.push(Effect::Park { worker });
            return;
        };
        self.workers[usize::from(worker.0)] = Worker::Running(key);
        let running = State::Running { worker, since: self.now };
        self.processes[key].state = running;
        effects.push(Effect::Run { worker, process: key });
    }

    /// Carries out what a system call decided about its process.
    pub(crate) fn proceed(&mut self, worker: WorkerId, key: Key<Process>, next: Next, effects: &mut Vec<Effect>) {
        match next {
            Next::Return(outcome) => {
                let process = &mut self.processes[key];
                process.outcome = outcome;
                let State::Running { since, .. } = process.state else {
                    unreachable!("a process whose call returns at once still runs")
                };
                if process.held || (self.now.since(since) >= SLICE_NS && self.ready.len() > 0) {
                    self.set_aside(key);
                    self.dispatch(worker, effects);
                } else {
                    effects.push(Effect::Run { worker, process: key });
                }
            }
            Next::Yield(outcome) => {
                self.processes[key].outcome = outcome;
                self.set_aside(key);
                self.dispatch(worker, effects);
            }
            Next::Block | Next::Ended => self.dispatch(worker, effects),
            Next::Fault(fault) => {
                self.end(key, abi::process::Exit::Faulted(fault), effects);
                self.dispatch(worker, effects);
            }
        }
    }

    /// Adds the time that a process just used to its tag.
    fn charge(&mut self, key: Key<Process>) {
        let process = &mut self.processes[key];
        let State::Running { since, .. } = process.state else { unreachable!("only a running process uses time") };
        let used = self.now.since(since);
        process.used_ns = process.used_ns.saturating_add(used);
        let cost = used.max(TURN_NS_MIN).saturating_mul(u64::from(WEIGHT_NORMAL)) / u64::from(process.weight);
        process.tag = process.tag.saturating_add(cost);
    }

    /// A running process stops running and could go on.
    pub(crate) fn set_aside(&mut self, key: Key<Process>) {
        self.charge(key);
        self.make_ready(key);
    }

    /// Puts a process where it can be chosen to run, or keeps it back if it is held.
    pub(crate) fn make_ready(&mut self, key: Key<Process>) {
        let process = &mut self.processes[key];
        process.state = if process.held {
            State::Held
        } else {
            let ticket = self.ready.add(key, &mut process.tag);
            State::Ready { ticket }
        };
    }

    /// A running process waits from now on. Its waiting is registered by the caller, who has seen that the wait may block.
    pub(crate) fn block(&mut self, key: Key<Process>, waiting: Waiting, wait: Wait) -> Next {
        self.charge(key);
        let alarm = match wait {
            Wait::No => unreachable!("an act that may not wait was told to"),
            Wait::Until(_) if planted(Bug::DeadlineLost) && matches!(waiting, Waiting::Send { .. }) => None,
            // The one for whom it stands in has a patience of its own.
            Wait::Until(_) if self.processes[key].abroad.is_some() => None,
            Wait::Until(at) => Some(self.alarms.add(at, Due::Process(key))),
            Wait::Forever => None,
        };
        self.processes[key].state = State::Waiting { waiting, alarm };
        Next::Block
    }

    /// What a process waited for has come. Whoever calls this has taken it out of the queue it waited in.
    pub(crate) fn wake(&mut self, key: Key<Process>, outcome: Outcome) {
        let process = &mut self.processes[key];
        let State::Waiting { alarm, .. } = process.state else { unreachable!("only a process that waits is woken") };
        process.outcome = outcome;
        if planted(Bug::SleeperStarves) {
            process.tag = process.tag.max(self.ready.present).saturating_add(30_000_000);
        }
        let stands_in = process.abroad.is_some();
        if let Some(ticket) = alarm {
            self.alarms.take(ticket);
        }
        if stands_in {
            self.processes[key].state = State::Starting;
            return self.homeward.push_back((key, None));
        }
        self.make_ready(key);
    }

    /// Wakes workers for ready processes that nobody else will take soon.
    pub(crate) fn wake_workers(&mut self, effects: &mut Vec<Effect>) {
        if self.ready.len() == 0 || self.parked.is_empty() {
            return;
        }
        let waking = self.workers.iter().filter(|worker| **worker == Worker::Waking).count();
        for _ in waking..self.ready.len() {
            let Some(worker) = self.parked.pop() else {
                break;
            };
            self.workers[usize::from(worker.0)] = Worker::Waking;
            effects.push(Effect::Wake { worker });
        }
    }
}
