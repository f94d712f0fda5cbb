//! Processes that have to leave a node: each moves to where placement would put it now. All of them leave a node that is drained; the
//! guests leave one whose owner has returned. Knows what a move is to ask for; not how it is done, nor who decides that they have to.
//!
//! A node that is drained is empty when no process is left that could go and nothing that others have to do with one another goes through
//! it any more ([`kernel::Kernel::ways_through`]): it can leave then, and nobody notices.
//!
//! What cannot move stays, with the reason, and is tried again now and then: its directories may be unmounted, or a node may come that can
//! take it. If it is a guest, it is stopped meanwhile, until the owner has gone.

use super::moving::ChosenBy;
use super::place::Recent;
use super::view::Occasion;
use super::{Inner, System, SystemError, ears};
use crate::node::{DepartRefused, Kind, Pid, ProcessView, Stay};
use crate::protocol::Stage;
use serde::{Deserialize, Serialize};
use services::events;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often it is looked whether there is something to move.
const INTERVAL: Duration = Duration::from_millis(200);
/// Rounds between two tries with what could not move.
const RETRY_ROUNDS: u32 = 25;
/// So many are moved at once.
const MOVERS: usize = 3;

/// How far a node is with it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Emptying {
    /// Since it was asked to.
    pub moved: u64,
    /// They are still to be tried, or on their way.
    pub left: u64,
    /// What processes of other nodes have to do with one another and still goes through this one. It gets less by itself, as long as they
    /// hear one another.
    #[serde(default)]
    pub through: u64,
    pub stuck: BTreeMap<Pid, String>,
}

/// Who has to leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    All,
    Guests,
}

#[derive(Default)]
pub struct Drainer {
    emptying: Mutex<Emptying>,
    /// A thread is at it.
    at_work: AtomicBool,
    /// Where processes were sent a moment ago.
    recent: Recent,
}

impl Drainer {
    pub fn view(&self) -> Emptying {
        self.emptying.lock().expect("nothing panics while it holds this lock").clone()
    }

    fn change(&self, change: impl FnOnce(&mut Emptying)) {
        change(&mut self.emptying.lock().expect("nothing panics while it holds this lock"));
    }
}

fn who(inner: &Inner) -> Option<Who> {
    let is_draining = inner.directory.members().get(&inner.me).is_some_and(|member| member.draining);
    match (is_draining, inner.lending.is_owner_here()) {
        (true, _) => Some(Who::All),
        (false, true) => Some(Who::Guests),
        (false, false) => None,
    }
}

/// Looks whether somebody has to leave this node, and begins. Called now and then.
pub fn see_to(inner: &Arc<Inner>) {
    if who(inner).is_none() || inner.drainer.at_work.swap(true, Ordering::AcqRel) {
        return;
    }
    let of_thread = inner.clone();
    let work = move || {
        empty(&of_thread);
        of_thread.drainer.at_work.store(false, Ordering::Release);
    };
    if std::thread::Builder::new().name("una-drain".into()).spawn(work).is_err() {
        inner.drainer.at_work.store(false, Ordering::Release);
    }
}

fn empty(inner: &Arc<Inner>) {
    let mut rounds: u32 = 0;
    let mut last = None;
    // Guests are told of as gone once for each time that the owner returns.
    let mut is_told = false;
    while let Some(now) = who(inner)
        && !inner.is_stopping()
    {
        if last.replace(now).is_some_and(|last| last != now) {
            (rounds, is_told) = (0, false);
            inner.drainer.change(|emptying| *emptying = Emptying::default());
        }
        rounds += 1;
        if rounds.is_multiple_of(RETRY_ROUNDS) {
            inner.drainer.change(|emptying| emptying.stuck.clear());
        }
        round(inner, now);
        if !is_told && inner.lending.is_owner_here() && movable(inner, now).is_empty() {
            is_told = true;
            tell_gone(inner);
        }
        std::thread::sleep(INTERVAL);
    }
    inner.drainer.change(|emptying| *emptying = Emptying::default());
}

fn guests(inner: &Inner) -> impl Iterator<Item = ProcessView> {
    let views = inner.node.get().map(|node| super::own_processes(node, false)).unwrap_or_default();
    views.into_iter().filter(|view| view.kind == Kind::Program && view.stay != Stay::Wanted)
}

/// The owner has the machine for themself: says so, if there was somebody.
fn tell_gone(inner: &Inner) {
    let (moved, paused) = (inner.drainer.view().moved, guests(inner).count() as u64);
    if moved + paused > 0 {
        let after_ms = inner.lending.since().as_millis() as u64;
        inner.chronicle.record(events::Kind::GuestsGone { node: inner.me, moved, paused, after_ms });
    }
}

/// The programs that have to leave and are not stuck.
fn movable(inner: &Inner, who: Who) -> Vec<ProcessView> {
    let Some(node) = inner.node.get() else { return vec![] };
    let mut views = super::own_processes(node, false);
    views.retain(|view| view.kind == Kind::Program && (who == Who::All || view.stay != Stay::Wanted));
    // Those that have ended need not go anywhere.
    let live: BTreeSet<Pid> = views.iter().map(|view| view.pid).collect();
    inner.drainer.change(|emptying| emptying.stuck.retain(|pid, _| live.contains(pid)));
    let stuck = inner.drainer.view().stuck;
    views.retain(|view| !stuck.contains_key(&view.pid));
    // Who goes where another one goes follows it; if that stays, so does this one, and says so.
    views.retain(|view| node.stays_with(view.pid).is_none_or(|with| stuck.contains_key(&with)));
    views
}

fn round(inner: &Arc<Inner>, who: Who) {
    let queue = movable(inner, who);
    inner.drainer.change(|emptying| emptying.left = queue.len() as u64);
    if !queue.is_empty() {
        move_all(inner, queue);
    }
    if !inner.lending.is_owner_here() {
        return;
    }
    // Also one that was stopped for a moment and came back runs again.
    for view in guests(inner) {
        if let Some(why) = inner.drainer.view().stuck.get(&view.pid)
            && view.stay == Stay::Guest
        {
            pause(inner, view.pid, why);
        }
    }
}

fn move_all(inner: &Arc<Inner>, queue: Vec<ProcessView>) {
    let queue = Mutex::new(queue);
    let system = System(inner.clone());
    let work = || {
        loop {
            let next = queue.lock().expect("nothing panics while it holds this lock").pop();
            let Some(view) = next else { return };
            if inner.is_stopping() {
                return;
            }
            let moved = move_one(&system, &view);
            inner.drainer.change(|emptying| {
                emptying.left = emptying.left.saturating_sub(1);
                match moved {
                    Ok(()) => emptying.moved += 1,
                    Err(why) => drop(emptying.stuck.insert(view.pid, why)),
                }
            });
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..MOVERS {
            let named = std::thread::Builder::new().name("una-drain".into()).stack_size(1 << 20);
            if named.spawn_scoped(scope, work).is_err() {
                return work();
            }
        }
    });
}

fn move_one(system: &System, view: &ProcessView) -> Result<(), String> {
    let inner = &system.0;
    let node = inner.node.get().ok_or("the node is starting")?;
    // What keeps it here is a better reason than that no node is left. Whoever is durable is handed over, and needs nothing of this.
    if !inner.supervise.is_durable(view.pid) {
        node.baggage(view.pid).map_err(|refused| refused.to_string())?;
        if inner.supervise.has(view.pid) {
            return Err(DepartRefused::LookedAfter(view.pid).to_string());
        }
    }
    let from = inner.me.0;
    let with = node.shares_with(view.pid).and_then(|with| Some((with, system.locate(with)?)));
    let (chosen, why) = match with {
        Some((with, node)) => {
            let reason = format!("has process {with}, whose streams it has");
            (node, inner.why_there(node, &reason, Occasion::Followed { with, from }))
        }
        None => {
            let (chosen, why) = system.place_moved(view, &inner.drainer.recent).map_err(|why| {
                let reasons = why.nodes.iter().map(|node| format!("{}: {}", node.name, node.reason));
                format!("no node can take it ({})", reasons.collect::<Vec<_>>().join("; "))
            })?;
            let occasion = match who(inner) {
                Some(Who::Guests) => Occasion::OwnerReturned { from },
                _ => Occasion::Drained { from },
            };
            (chosen, why.because(occasion))
        }
    };
    if chosen == inner.me {
        return Err("no other node is heard".into());
    }
    // It arrives running.
    let was_paused = node.unpause(view.pid).unwrap_or(false);
    if was_paused {
        inner.chronicle.record(events::Kind::ProcessUnpaused { process: view.pid.id(), on: inner.me });
    }
    let done = system.move_chosen(view.pid, chosen, (ChosenBy::System, why), &mut |_: Stage| true);
    done.map(|_| ()).map_err(|refused| refused.to_string())
}

/// Stops a guest that cannot leave, as long as the owner is there.
fn pause(inner: &Inner, pid: Pid, why: &str) {
    let Some(node) = inner.node.get() else { return };
    if !inner.lending.is_owner_here() || node.pause(pid) != Ok(true) {
        return;
    }
    let (process, on) = (pid.id(), inner.me);
    inner.chronicle.record(events::Kind::ProcessPaused { process, on, why: why.into() });
}

impl System {
    /// How far a node that is drained is with it; as far as it says.
    pub fn emptying(&self, named: &str) -> Result<Emptying, SystemError> {
        let node = self.0.find(named)?;
        if node == self.0.me {
            let left = movable(&self.0, Who::All).len() as u64;
            // A name that is still bound here would be gone with this node.
            let through = self.0.node.get().map_or(0, |node| node.leads_through()) + self.0.names_to_hand_over();
            return Ok(Emptying { left, through, ..self.0.drainer.view() });
        }
        let said = self.0.ask(node, &ears::Question::Emptying);
        let said = said.and_then(|body| serde_json::from_slice(&body).map_err(|error| error.to_string()));
        said.map_err(|why| SystemError::Refused(self.0.not_heard(node, &why).to_string()))
    }
}
