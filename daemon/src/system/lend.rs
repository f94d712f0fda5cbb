//! A machine that is lent while its owner does not use it. Knows who can tell that somebody is there, and tells who must act on it; what is
//! moved away, `drain` knows, and what a sign is worth, `services::owner`.
//!
//! ```text
//!   drivers::presence ── look ──►  Owner (services)  ── returned ──►  facts: nothing new here;  drain: guests leave
//!    four times a second                             ── left     ──►  facts: open again;        what was paused goes on
//! ```
//! Guests are the processes that the system put on this machine. Those that somebody wanted here are not: they sat at it when they started
//! them, or named it (docs/decisions/0027).

use super::view::{LendingView, OwnerView};
use super::{Inner, RecordError, System, drain};
use crate::node::{Pid, Stay};
use abi::ids::Time;
use drivers::presence::{self, Signs, Touch};
use serde::{Deserialize, Serialize};
use services::events::Kind;
use services::members::{Intake, Profile};
use services::owner::{Change, Input, Look, Owner, Terms};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often it is looked whether somebody is there.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long the thread sleeps on a machine that is not lent, if nobody wakes it.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// So long without a sign is away, if nothing else was said.
pub const AFTER_USUAL: Duration = Duration::from_secs(300);

/// To others' processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Lend {
    /// It takes them at all times.
    #[default]
    Always,
    /// It takes them while its owner has been away for so long.
    Idle { after_ms: u64 },
}

pub struct Lending {
    state: Mutex<State>,
    /// What is wanted has changed, or the node ends.
    changed: Condvar,
    began: Instant,
}

/// Invariant: there is an owner exactly if it is lent while idle.
struct State {
    lend: Lend,
    owner: Option<Owner>,
}

impl Lending {
    pub fn new(lend: Lend) -> Lending {
        let began = Instant::now();
        let lending =
            Lending { state: Mutex::new(State { lend: Lend::Always, owner: None }), changed: Condvar::new(), began };
        lending.set(lend);
        lending
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    fn now(&self) -> Time {
        Time(self.began.elapsed().as_nanos() as u64 + 1)
    }

    fn set(&self, lend: Lend) {
        let mut state = self.state();
        state.lend = lend;
        state.owner = match (lend, state.owner.take()) {
            (Lend::Always, _) => None,
            (Lend::Idle { .. }, Some(owner)) => Some(owner),
            (Lend::Idle { .. }, None) => Some(Owner::new(self.now())),
        };
        self.changed.notify_all();
    }

    pub fn lend(&self) -> Lend {
        self.state().lend
    }

    /// Somebody uses the machine, and did not lend it for that time.
    pub fn is_owner_here(&self) -> bool {
        self.state().owner.as_ref().is_some_and(Owner::is_here)
    }

    /// For how long it has been so.
    pub fn since(&self) -> Duration {
        let now = self.now();
        self.state().owner.as_ref().map_or(Duration::ZERO, |owner| Duration::from_nanos(now.since(owner.since())))
    }

    pub fn profile(&self) -> Profile {
        match self.lend() {
            Lend::Always => Profile::Server,
            Lend::Idle { .. } => Profile::Workstation,
        }
    }

    /// As far as its owner has a say in it.
    pub fn intake(&self) -> Intake {
        if self.is_owner_here() { Intake::OwnerPresent } else { Intake::Open }
    }

    fn view(&self) -> Option<OwnerView> {
        let now = self.now();
        let state = self.state();
        let owner = state.owner.as_ref()?;
        let ms = |time: Time| now.since(time) / 1_000_000;
        let (sign, sign_ago_ms) = match owner.sign() {
            Some((sign, at)) => (Some(sign.to_string()), Some(ms(at))),
            None => (None, None),
        };
        Some(OwnerView { here: owner.is_here(), for_ms: ms(owner.since()), sign, sign_ago_ms })
    }
}

/// The thread that looks.
pub(super) fn run(inner: &Arc<Inner>) {
    let lending = &inner.lending;
    let mut signs: Option<Box<dyn Signs>> = None;
    while !inner.is_stopping() {
        let is_lent = lending.lend() != Lend::Always;
        match is_lent {
            true => look(inner, signs.get_or_insert_with(presence::of_machine).look()),
            false => signs = None,
        }
        if !lending.is_owner_here() {
            let_go_on(inner);
        }
        let interval = if is_lent { LOOK_INTERVAL } else { IDLE_INTERVAL };
        let state = lending.state();
        let slept =
            lending.changed.wait_timeout_while(state, interval, |state| (state.lend != Lend::Always) == is_lent);
        drop(slept.expect("nothing panics while it holds this lock"));
    }
}

fn look(inner: &Arc<Inner>, seen: presence::Look) {
    let lending = &inner.lending;
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    let input = seen.touch.map(|touch| match touch {
        Touch::Terminal => Input::Terminal,
        Touch::Hand => Input::Hand,
    });
    let now = lending.now();
    let change = {
        let mut state = lending.state();
        let Lend::Idle { after_ms } = state.lend else { return };
        let terms = Terms { quiet_ns: after_ms.saturating_mul(1_000_000), processors };
        let look = Look { input, load_hundredths: seen.others_hundredths };
        state.owner.as_mut().and_then(|owner| owner.look(now, look, terms))
    };
    let node = inner.me;
    match change {
        Some(Change::Returned(sign)) => {
            inner.health.tell_facts();
            inner.chronicle.record(Kind::OwnerReturned { node, why: sign.to_string().into() });
            drain::see_to(inner);
        }
        Some(Change::Left) => {
            inner.health.tell_facts();
            inner.chronicle.record(Kind::OwnerLeft { node });
        }
        None => {}
    }
}

/// Lets all go on that were stopped for the owner, who is not there.
fn let_go_on(inner: &Inner) {
    let Some(node) = inner.node.get() else { return };
    for view in node.processes().into_iter().filter(|view| view.stay == Stay::Paused) {
        if node.unpause(view.pid) == Ok(true) {
            inner.chronicle.record(Kind::ProcessUnpaused { process: view.pid.id(), on: inner.me });
        }
    }
}

impl System {
    /// Says for whom this machine is there from now on, and after its next start.
    pub fn lend(&self, lend: Lend) -> Result<(), RecordError> {
        let inner = &self.0;
        let mut record = inner.record();
        record.lend = lend;
        record.write(&inner.data)?;
        drop(record);
        inner.lending.set(lend);
        inner.health.tell_facts();
        Ok(())
    }

    /// For whom this machine is there, and how that is with those who are on it.
    pub fn lending(&self) -> LendingView {
        self.0.lending_view()
    }
}

impl Inner {
    pub(super) fn lending_view(&self) -> LendingView {
        let processes = self.node.get().map(|node| super::own_processes(node, false)).unwrap_or_default();
        let reasons = self.drainer.view().stuck;
        let reason = |pid: Pid| reasons.get(&pid).cloned().unwrap_or_default();
        let paused = processes.iter().filter(|view| view.stay == Stay::Paused).map(|view| (view.pid, reason(view.pid)));
        LendingView {
            lend: self.lending.lend(),
            owner: self.lending.view(),
            guests: processes.iter().filter(|view| view.stay == Stay::Guest).count() as u64,
            paused: paused.collect(),
        }
    }
}
