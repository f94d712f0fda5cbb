//! A node that is drained empties itself: each of its processes moves to where placement would put it now. Knows what a move is to ask for;
//! not how it is done.
//!
//! It is empty when no process is left that could go and nothing that others have to do with one another goes through it any more
//! ([`kernel::Kernel::ways_through`]): it can leave then, and nobody notices.
//!
//! What cannot move stays, with the reason, and is tried again now and then: its directories may be unmounted, or a node may come that can
//! take it.

use super::{Inner, NodeId, System, SystemError, ears};
use crate::node::{Kind, Pid, ProcessView};
use crate::protocol::{Placement, Stage};
use serde::{Deserialize, Serialize};
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

#[derive(Default)]
pub struct Drainer {
    emptying: Mutex<Emptying>,
    /// A thread is at it.
    at_work: AtomicBool,
}

impl Drainer {
    pub fn view(&self) -> Emptying {
        self.emptying.lock().expect("nothing panics while it holds this lock").clone()
    }

    fn change(&self, change: impl FnOnce(&mut Emptying)) {
        change(&mut self.emptying.lock().expect("nothing panics while it holds this lock"));
    }
}

fn is_draining(inner: &Inner) -> bool {
    inner.directory.members().get(&inner.me).is_some_and(|member| member.draining)
}

/// Looks whether this node is to empty itself, and begins. Called now and then.
pub fn see_to(inner: &Arc<Inner>) {
    if !is_draining(inner) || inner.drainer.at_work.swap(true, Ordering::AcqRel) {
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
    while is_draining(inner) && !inner.is_stopping() {
        rounds += 1;
        if rounds.is_multiple_of(RETRY_ROUNDS) {
            inner.drainer.change(|emptying| emptying.stuck.clear());
        }
        round(inner);
        std::thread::sleep(INTERVAL);
    }
    inner.drainer.change(|emptying| *emptying = Emptying::default());
}

/// The programs that are here and not stuck.
fn movable(inner: &Inner) -> Vec<ProcessView> {
    let Some(node) = inner.node.get() else { return vec![] };
    let mut views = super::own_processes(node, false);
    views.retain(|view| view.kind == Kind::Program);
    // Those that have ended need not go anywhere.
    let live: BTreeSet<Pid> = views.iter().map(|view| view.pid).collect();
    inner.drainer.change(|emptying| emptying.stuck.retain(|pid, _| live.contains(pid)));
    let stuck = inner.drainer.view().stuck;
    views.retain(|view| !stuck.contains_key(&view.pid));
    views
}

fn round(inner: &Arc<Inner>) {
    let queue = movable(inner);
    inner.drainer.change(|emptying| emptying.left = queue.len() as u64);
    if queue.is_empty() {
        return;
    }
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
    let place = Placement {
        mounts: vec![],
        limits: Default::default(),
        stdio: Default::default(),
        follow: None,
        wish: Default::default(),
        decided: None,
    };
    // What keeps it here is a better reason than that no node is left.
    if let Some(node) = system.0.node.get() {
        node.baggage(view.pid).map_err(|refused| refused.to_string())?;
    }
    let decided = system.place(&view.name, &view.program, &place).map_err(|why| {
        let reasons = why.nodes.iter().map(|node| format!("{}: {}", node.name, node.reason));
        format!("no node can take it ({})", reasons.collect::<Vec<_>>().join("; "))
    })?;
    let chosen = NodeId(decided.chosen.ok_or("no node can take it")?);
    if chosen == system.0.me {
        return Err("no other node is heard".into());
    }
    let done = system.move_process(view.pid, &chosen.to_string(), &mut |_: Stage| true);
    done.map(|_| ()).map_err(|refused| refused.to_string())
}

impl System {
    /// How far a node that is drained is with it; as far as it says.
    pub fn emptying(&self, named: &str) -> Result<Emptying, SystemError> {
        let node = self.0.find(named)?;
        if node == self.0.me {
            let left = movable(&self.0).len() as u64;
            let through = self.0.node.get().map_or(0, |node| node.leads_through());
            return Ok(Emptying { left, through, ..self.0.drainer.view() });
        }
        let said = self.0.ask(node, &ears::Question::Emptying);
        let said = said.and_then(|body| serde_json::from_slice(&body).map_err(|error| error.to_string()));
        said.map_err(|why| SystemError::Refused(self.0.not_heard(node, &why).to_string()))
    }
}
