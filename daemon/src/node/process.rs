//! What the node knows of a process beside the kernel's record: its name, its streams, its end. Knows nothing of how it runs.

use super::console::Console;
use super::guest::{Loan, ProcessClock};
use super::harbour::Harbour;
use super::machine::{Used, time_since};
use super::view::{End, Kind, Lineage, MountOrder, Pid, ProcessLimits, Stay, Stdio};
use abi::ids::{HandleId, NodeId, Time};
use abi::process::Exit;
use engine::pages::{Memories, Missing, Whole};
use engine::tape::Tape;
use engine::{Stopper, Usage};
use kernel::{Key, Process};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// How many processes that have ended are remembered.
const ENDED_MAX: usize = 1000;

pub(crate) struct Info {
    pub pid: OnceLock<Pid>,
    pub name: String,
    pub args: Vec<String>,
    pub program: String,
    pub kind: Kind,
    pub started_ms: u64,
    /// How often it has moved.
    pub moves: u32,
    pub limits: ProcessLimits,
    pub stdio: Stdio,
    pub console: Option<Console>,
    /// The console is that one's: this one is a child of it, or of such a child.
    pub shares: Option<Pid>,
    /// It has a console of its own, and stays its parent's child wherever it is.
    pub stays_child: bool,
    usage: Mutex<Option<Arc<Usage>>>,
    pub time: Arc<Used>,
    pub mounts: Vec<MountOrder>,
    pub incarnation: u32,
    /// Of a program: for whoever follows its pages. Taken away at the end, as they keep memory of the process.
    memories: Mutex<Option<Memories>>,
    /// What of its memory is still where it came from.
    pub missing: OnceLock<Missing>,
    /// What of its memory is still to be shared with others.
    coming: Mutex<Option<Whole>>,
    lineage: Mutex<Lineage>,
    /// It is a clone, and begins in the call that asked for it.
    pub answers_fork: AtomicBool,
    pub key: Arc<OnceLock<Key<Process>>>,
    /// By which the node's own process holds it.
    pub handle: OnceLock<HandleId>,
    /// Taken away at the end: it holds memory of the process.
    stopper: Mutex<Option<Stopper>>,
    /// What it was told, of a durable one.
    pub tape: Option<Tape>,
    /// Its ports, of a durable one that may have some.
    pub harbour: Option<Harbour>,
    pub began: Instant,
    stopped: AtomicBool,
    /// The system stopped it, until the owner of the machine has gone.
    paused: AtomicBool,
    /// The system put it on this machine, and not somebody who wanted it here. Shared with those who can only be where it is.
    pub guest: Arc<AtomicBool>,
    /// It was stopped, and is lent: when it comes back it is to be stopped again, unless somebody lets it go on meanwhile.
    stops_again: Mutex<bool>,
    fate: Mutex<Fate>,
    ended: Condvar,
}

/// What becomes of a process.
#[derive(Default)]
pub(crate) struct Fate {
    /// Why it ends, if the kernel's word for it does not say all.
    pub cause: Option<End>,
    pub end: Option<End>,
    /// It is to be stopped, and given to somebody.
    pub loan: Option<Loan>,
    moved: Option<NodeId>,
}

/// What a new [`Info`] is made of.
pub(crate) struct Facts {
    pub name: String,
    pub args: Vec<String>,
    pub program: String,
    pub kind: Kind,
    pub console: Option<Console>,
    pub shares: Option<Pid>,
    pub stays_child: bool,
    pub usage: Option<Arc<Usage>>,
    pub time: Arc<Used>,
    pub mounts: Vec<MountOrder>,
    pub limits: ProcessLimits,
    pub stdio: Stdio,
    pub started_ms: u64,
    pub moves: u32,
    pub incarnation: u32,
    pub memories: Option<Memories>,
    pub key: Arc<OnceLock<Key<Process>>>,
    pub stopper: Option<Stopper>,
    pub tape: Option<Tape>,
    pub harbour: Option<Harbour>,
    pub guest: Arc<AtomicBool>,
    pub began: Instant,
}

impl Info {
    pub fn new(facts: Facts) -> Arc<Info> {
        let Facts { name, args, program, kind, console, shares, stays_child, usage, time, mounts, .. } = facts;
        let Facts { limits, stdio, started_ms, moves, incarnation, memories, key, stopper, .. } = facts;
        let Facts { tape, harbour, guest, began, .. } = facts;
        Arc::new(Info {
            pid: OnceLock::new(),
            name,
            args,
            program,
            kind,
            started_ms,
            moves,
            limits,
            stdio,
            console,
            shares,
            stays_child,
            usage: Mutex::new(usage),
            time,
            mounts,
            incarnation,
            memories: Mutex::new(memories),
            missing: OnceLock::new(),
            coming: Mutex::default(),
            lineage: Mutex::default(),
            answers_fork: AtomicBool::new(false),
            key,
            handle: OnceLock::new(),
            stopper: Mutex::new(stopper),
            tape,
            harbour,
            began,
            stopped: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            guest,
            stops_again: Mutex::new(false),
            fate: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    pub fn fate(&self) -> MutexGuard<'_, Fate> {
        self.fate.lock().expect("no code panics while it holds this lock")
    }

    /// Whether somebody keeps it from running.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Whether it is stopped only until the owner of the machine has gone.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// What it is to the owner of this machine.
    pub fn stay(&self) -> Stay {
        match (self.guest.load(Ordering::Relaxed), self.is_paused()) {
            (_, true) => Stay::Paused,
            (true, false) => Stay::Guest,
            (false, false) => Stay::Wanted,
        }
    }

    /// Whoever stops it, or lets it go on, does so while this is held.
    pub fn stops_again(&self) -> MutexGuard<'_, bool> {
        self.stops_again.lock().expect("no code panics while it holds this lock")
    }

    pub fn set_stopped(&self, stopped: bool) {
        self.stopped.store(stopped, Ordering::Relaxed);
    }

    fn usage(&self) -> Option<Arc<Usage>> {
        self.usage.lock().expect("no code panics while it holds this lock").clone()
    }

    /// Of a program that has not ended: for whoever follows its pages.
    pub fn memories(&self) -> Option<Memories> {
        self.memories.lock().expect("no code panics while it holds this lock").clone()
    }

    /// It shares a memory that is not all there yet.
    pub fn set_coming(&self, whole: Whole) {
        *self.coming.lock().expect("no code panics while it holds this lock") = Some(whole);
    }

    pub fn coming(&self) -> Option<Whole> {
        self.coming.lock().expect("no code panics while it holds this lock").clone()
    }

    pub fn lineage(&self) -> MutexGuard<'_, Lineage> {
        self.lineage.lock().expect("no code panics while it holds this lock")
    }

    /// All of its memories and tables.
    pub fn memory_bytes(&self) -> u64 {
        self.usage().map_or(0, |usage| usage.bytes())
    }

    pub fn was_refused_memory(&self) -> bool {
        self.usage().is_some_and(|usage| usage.was_refused())
    }

    /// Another program body takes the place of the one that it had.
    pub fn set_body(&self, stopper: Stopper, usage: Arc<Usage>, memories: Memories) {
        *self.memories.lock().expect("no code panics while it holds this lock") = Some(memories);
        *self.stopper.lock().expect("no code panics while it holds this lock") = Some(stopper);
        *self.usage.lock().expect("no code panics while it holds this lock") = Some(usage);
    }

    pub fn clock(&self) -> Box<dyn abi::file::Clock> {
        Box::new(ProcessClock { time: self.time.clone(), began: self.began })
    }

    pub fn node_now(&self) -> Time {
        time_since(self.began)
    }

    /// Has the program stop at its next poll, if it is one and has not ended.
    pub fn stop_soon(&self) {
        let stopper = self.stopper.lock().expect("no code panics while it holds this lock");
        if let Some(stopper) = &*stopper {
            stopper.freeze().expect("only what can be frozen is run by a node");
        }
    }

    /// What its memory is held by is let go, though it is remembered.
    fn release(&self) {
        let poisoned = "no code panics while it holds this lock";
        self.stopper.lock().expect(poisoned).take();
        self.memories.lock().expect(poisoned).take();
        self.coming.lock().expect(poisoned).take();
    }

    /// The process has ended, as the kernel says.
    pub fn end(&self, exit: Exit) {
        self.release();
        let mut fate = self.fate();
        if let Some(harbour) = &self.harbour {
            harbour.end();
        }
        // Nobody is lent what has ended.
        fate.loan = None;
        let cause = fate.cause.take();
        fate.end = Some(match (exit, cause) {
            (Exit::Faulted(_) | Exit::NotStarted(_), Some(cause)) => cause,
            (Exit::Code(code), _) => End::Exited(code),
            (Exit::Killed, _) => End::Killed,
            (Exit::Orphaned, _) => End::Orphaned,
            (Exit::NodeLost, _) => End::failed("its node was lost", &[]),
            (Exit::Faulted(fault), None) => End::failed(format!("it broke a rule of the system: {fault:?}"), &[]),
            (Exit::NotStarted(failure), None) => End::NotStarted(format!("{failure:?}")),
        });
        drop(fate);
        if let Some(console) = &self.console
            && self.shares.is_none()
        {
            console.close();
        }
        self.ended.notify_all();
    }

    /// How it ended, if it does within the time and here.
    pub fn wait(&self, timeout: Duration) -> Option<End> {
        let is_open = |fate: &mut Fate| fate.end.is_none() && fate.moved.is_none();
        let waited = self.ended.wait_timeout_while(self.fate(), timeout, is_open);
        waited.expect("no code panics while it holds this lock").0.end.clone()
    }

    /// Where it has moved to, if it has.
    pub fn moved(&self) -> Option<NodeId> {
        self.fate().moved
    }

    /// It goes on there.
    pub fn set_moved(&self, to: NodeId) {
        self.release();
        self.fate().moved = Some(to);
        if let Some(console) = &self.console
            && self.shares.is_none()
        {
            console.moved(to);
        }
        self.ended.notify_all();
    }
}

/// All processes that run, and the last that ended.
#[derive(Default)]
pub(crate) struct Processes {
    live: BTreeMap<Pid, Arc<Info>>,
    ended: BTreeMap<Pid, Arc<Info>>,
    /// The same, in the order in which they ended.
    ended_order: VecDeque<Pid>,
    /// Those that moved from here last.
    moved: VecDeque<(Pid, NodeId)>,
}

impl Processes {
    pub fn add(&mut self, pid: Pid, info: Arc<Info>) {
        let set = info.pid.set(pid);
        assert!(set.is_ok(), "a process has one pid");
        // It goes on; how it ended before is past.
        if self.ended.remove(&pid).is_some() {
            self.ended_order.retain(|ended| *ended != pid);
        }
        self.live.insert(pid, info);
    }

    pub fn find(&self, pid: Pid) -> Option<&Arc<Info>> {
        self.live.get(&pid).or_else(|| self.ended.get(&pid))
    }

    pub fn find_live(&self, pid: Pid) -> Option<&Arc<Info>> {
        self.live.get(&pid)
    }

    /// Where a process went that was here.
    pub fn moved(&self, pid: Pid) -> Option<NodeId> {
        self.moved.iter().rev().find(|(moved, _)| *moved == pid).map(|(_, to)| *to)
    }

    pub fn add_moved(&mut self, pid: Pid, to: NodeId) {
        if self.moved.len() == ENDED_MAX {
            self.moved.pop_front();
        }
        self.moved.push_back((pid, to));
    }

    pub fn live(&self) -> impl Iterator<Item = &Arc<Info>> {
        self.live.values()
    }

    pub fn ended(&self) -> impl Iterator<Item = &Arc<Info>> {
        self.ended_order.iter().filter_map(|pid| self.ended.get(pid))
    }

    pub fn remove(&mut self, pid: Pid) -> Option<Arc<Info>> {
        self.live.remove(&pid)
    }

    /// Keeps it among those that ended, and says which is forgotten for it.
    pub fn retire(&mut self, pid: Pid) -> Option<(Arc<Info>, Option<Pid>)> {
        let info = self.live.remove(&pid)?;
        let oldest = if self.ended_order.len() == ENDED_MAX { self.ended_order.pop_front() } else { None };
        if let Some(oldest) = oldest {
            self.ended.remove(&oldest);
        }
        self.ended.insert(pid, info.clone());
        self.ended_order.push_back(pid);
        Some((info, oldest))
    }
}
