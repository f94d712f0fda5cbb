//! Which name of a port is bound on which node, as all nodes agree about it. Knows the coordinator; not ports, nor how they are fetched.
//!
//! ```text
//!   n/PATH   node, life, serial of the claim; under the lease of that node
//!   n/PATH   the same, and the durable process that has it; under no lease
//! ```
//! The one idea: a name is a fact that lives as long as its node renews its lease, so the names of a node that is gone become free by
//! themselves; one that has started again, or is no member any more, is over at once. Each node follows all these facts. So it can say
//! without asking what it has heard, and it tells its registrar when what that was told is true no more. Nothing of this is asked of
//! anybody while a name is bound and known: the cost does not depend on the number of nodes.
//!
//! A name of a *durable* process lasts as long as the process does: it has no lease, nobody else may bind it, and the next incarnation puts
//! its own claim in the place of the last. Only the node that the process's own claim names (`k/p/PID`) may do so, which is compared in the
//! same transaction: so an incarnation that was replaced binds nothing, whenever it wakes (docs/decisions/0026).
//!
//! A node that is cut off goes on knowing what it knew. It binds nothing then, and what others bound meanwhile it has lost when it is back.

use super::Directory;
use crate::keep::record::{self, Claim, Place};
use crate::node::{Fetched, Home, Registry, Tide};
use abi::ids::{NodeId, PortId, ProcessId};
use abi::interface::names::{Existing, Failure as NameFailure};
use abi::interface::registrar::Told;
use drivers::coordinator::current::Current;
use drivers::coordinator::{
    Action, Change, Compare, Coordinator, Failure, KeyRange, LeaseId, Range, Record, Revision, Transaction, WatchEvent,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

const PREFIX: &str = "n/";
/// The names of a node that is gone are free after about this.
const LEASE: Duration = Duration::from_secs(6);
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// How long the nodes may take to agree. Who binds a port waits so long at most.
const AGREE_TIMEOUT: Duration = Duration::from_secs(5);
/// A thread without work looks so often whether the node ends.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before what failed is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a transaction is tried that others got in the way of.
const ATTEMPTS_MAX: usize = 16;
/// How often somebody is asked for a port that has just moved elsewhere.
const FETCHES_MAX: usize = 4;

/// What is kept under a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Fact {
    node: u16,
    life: u64,
    serial: u64,
    /// The durable process that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lasting: Option<u64>,
}

impl Fact {
    fn read(value: &[u8]) -> Option<Fact> {
        serde_json::from_slice(value).ok()
    }

    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data")
    }

    fn home(&self) -> Home {
        Home { node: NodeId(self.node), serial: self.serial }
    }
}

fn key(path: &str) -> Vec<u8> {
    format!("{PREFIX}{path}").into_bytes()
}

fn path_of(key: &[u8]) -> Option<String> {
    std::str::from_utf8(key.strip_prefix(PREFIX.as_bytes())?).ok().map(String::from)
}

fn undecided(_: Failure) -> NameFailure {
    NameFailure::Undecided
}

/// All clones are the same.
#[derive(Clone)]
pub struct Names(Arc<Shared>);

struct Shared {
    me: NodeId,
    life: u64,
    facts: Current,
    directory: Arc<Directory>,
    state: Mutex<State>,
    roused: Condvar,
    tell: OnceLock<Box<dyn Fn(Told) + Send + Sync>>,
    stopping: AtomicBool,
}

#[derive(Default)]
struct State {
    lease: Option<LeaseId>,
    renewed: Option<Instant>,
    /// What this node has bound, or is about to.
    held: BTreeMap<String, Held>,
    /// Names that durable processes of this node are about to bind.
    intended: BTreeMap<String, ProcessId>,
    /// Which of the claims of this node are of durable processes.
    lasting: BTreeMap<(String, u64), Lasting>,
    /// Facts of claims that are over and could not be taken back yet.
    owed: BTreeSet<(String, u64)>,
    /// Names of this node that are said to be gone, while it held them.
    missed: BTreeSet<String>,
    /// What was heard of all names.
    known: BTreeMap<String, Known>,
    /// Up to where that is.
    heard: Revision,
}

/// A claim of this node.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Held {
    serial: u64,
    port: PortId,
    /// The nodes have agreed about it.
    is_bound: bool,
}

impl State {
    /// The claim by which this node has a name.
    fn bound(&self, path: &str) -> Option<u64> {
        self.held.get(path).filter(|held| held.is_bound).map(|held| held.serial)
    }
}

/// A name that this node has bound, and to which port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bound {
    pub path: String,
    pub life: u64,
    pub serial: u64,
    pub port: PortId,
}

/// A claim of a durable process.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Lasting {
    process: ProcessId,
    /// It was given up: with the claim the fact is over.
    is_given_up: bool,
}

#[derive(Clone)]
struct Known {
    fact: Fact,
    modified: Revision,
}

impl Names {
    pub fn start(me: NodeId, life: u64, facts: Current, directory: Arc<Directory>) -> std::io::Result<Names> {
        let names = Names(Arc::new(Shared {
            me,
            life,
            facts,
            directory,
            state: Mutex::default(),
            roused: Condvar::new(),
            tell: OnceLock::new(),
            stopping: AtomicBool::new(false),
        }));
        for (name, act) in [("una-names", Shared::follow as fn(&Shared)), ("una-lease", Shared::keep as fn(&Shared))] {
            let shared = names.0.clone();
            std::thread::Builder::new().name(name.into()).spawn(move || act(&shared))?;
        }
        Ok(names)
    }

    /// What this node has bound.
    pub fn bound(&self) -> Vec<Bound> {
        let state = self.0.state();
        // What a durable process has bound goes where its claim goes.
        let bound = state
            .held
            .iter()
            .filter(|(path, held)| held.is_bound && !state.lasting.contains_key(&((*path).clone(), held.serial)));
        bound
            .map(|(path, held)| Bound { path: path.clone(), life: self.0.life, serial: held.serial, port: held.port })
            .collect()
    }

    /// Takes back what this node bound, so that others need not wait for the lease.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
        let lease = {
            let mut state = self.0.state();
            let lease = state.lease.take();
            lease.filter(|_| !state.held.is_empty())
        };
        if let Some(lease) = lease {
            // If it fails it ends by itself.
            let _ = self.0.facts.revoke(lease, Instant::now() + PAUSE);
        }
        self.0.roused.notify_all();
    }
}

impl Names {
    /// A durable process has ended, which is written down: its names are free. What cannot be removed now gives way to whoever binds it.
    pub fn forget(&self, process: ProcessId) {
        let bits = process.to_bits();
        let all: Vec<(String, Revision)> = {
            let mut state = self.0.state();
            state.lasting.retain(|_, lasting| lasting.process != process);
            let of_it = state.known.iter().filter(|(_, known)| known.fact.lasting == Some(bits));
            of_it.map(|(path, known)| (path.clone(), known.modified)).collect()
        };
        for (path, modified) in all {
            let key = key(&path);
            let remove = Transaction::new().when(Compare::unchanged(&key, modified)).then(Action::delete(&key));
            let _ = self.0.facts.transact(remove, Instant::now() + AGREE_TIMEOUT);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn tell(&self, told: Told) {
        if let Some(tell) = self.tell.get() {
            tell(told);
        }
    }

    fn own(&self, serial: u64, lasting: Option<ProcessId>) -> Fact {
        Fact { node: self.me.0, life: self.life, serial, lasting: lasting.map(ProcessId::to_bits) }
    }

    /// The durable process for which this was claimed.
    fn lasting(&self, path: &str, serial: u64) -> Option<ProcessId> {
        self.state().lasting.get(&(path.into(), serial)).map(|lasting| lasting.process)
    }

    /// A comparison that holds as long as a process lives on this node, in this life of it; nothing if it does not.
    fn lives_here(&self, process: ProcessId, deadline: Instant) -> Result<Option<Compare>, Failure> {
        let key = record::claim_key(process.into());
        let found = self.facts.range(Range::key(&key), deadline)?;
        let here = Place::At { node: self.me.0, life: self.life };
        let record = found
            .records
            .first()
            .filter(|record| Claim::read(&record.key, &record.value).is_some_and(|(_, claim)| claim.place == here));
        Ok(record.map(|record| Compare::unchanged(&key, record.modified)))
    }

    /// Nobody goes on as this durable process.
    fn has_ended(&self, process: u64, deadline: Instant) -> Result<bool, Failure> {
        let key = record::claim_key(ProcessId::from_bits(process).into());
        let found = self.facts.range(Range::key(&key), deadline)?;
        Ok(found.records.first().is_none_or(|record| {
            Claim::read(&record.key, &record.value).is_some_and(|(_, claim)| matches!(claim.place, Place::Ended { .. }))
        }))
    }

    /// Whoever bound it can have it no more, for certain. Of a name that lasts the node alone does not say.
    fn is_over(&self, fact: &Fact) -> bool {
        if fact.lasting.is_some() {
            return false;
        }
        let members = self.directory.members();
        match members.get(&NodeId(fact.node)) {
            Some(member) => member.life > fact.life,
            None => !members.is_empty(),
        }
    }

    fn lease(&self, deadline: Instant) -> Result<LeaseId, Failure> {
        if let Some(lease) = self.state().lease {
            return Ok(lease);
        }
        let asked = Instant::now();
        let lease = self.facts.grant(LEASE, deadline)?;
        let mut state = self.state();
        // Two that asked at once use one; the other ends by itself.
        let lease = *state.lease.get_or_insert(lease);
        state.renewed.get_or_insert(asked);
        self.roused.notify_all();
        Ok(lease)
    }

    fn drop_lease(&self, lease: LeaseId) {
        let mut state = self.state();
        if state.lease == Some(lease) {
            (state.lease, state.renewed) = (None, None);
        }
    }

    /// Has the others agree that a name means this claim. `lasting`: the durable process that claims it.
    fn agree(
        &self, path: &str, serial: u64, lasting: Option<ProcessId>, existing: Existing, deadline: Instant,
    ) -> Result<(), NameFailure> {
        let (key, own) = (key(path), self.own(serial, lasting));
        for _ in 0..ATTEMPTS_MAX {
            let (lease, mut whens) = (self.lease(deadline).map_err(undecided)?, vec![]);
            let put = match lasting {
                None => Action::put_leased(&key, own.to_bytes(), lease),
                Some(process) => {
                    // Whoever goes on as this process elsewhere has the name.
                    let lives = self.lives_here(process, deadline).map_err(undecided)?;
                    whens.push(lives.ok_or(NameFailure::Undecided)?);
                    Action::put(&key, own.to_bytes())
                }
            };
            // Ports of durable processes do not follow: they are made anew wherever those live.
            if let Existing::Follow { node, life, serial } = existing {
                // One transaction: at no moment the name is free, and whoever took or freed it meanwhile has done so.
                let was = Fact { node: node.0, life, serial, lasting: None };
                let follow = Transaction::new()
                    .when(Compare::value(&key, was.to_bytes()))
                    .then(put)
                    .otherwise(Action::get(&key));
                match self.facts.transact(follow, deadline) {
                    Ok(committed) if committed.succeeded => {
                        self.hear(path, &own, committed.revision);
                        return Ok(());
                    }
                    Ok(committed) => {
                        let there = committed.found(0).and_then(|found| found.records.first());
                        let is_own = |there: &&Record| Fact::read(&there.value).as_ref() == Some(&own);
                        let there = there.filter(is_own).ok_or(NameFailure::Exists)?;
                        self.hear(path, &own, there.modified);
                        return Ok(());
                    }
                    Err(Failure::NoLease { .. }) => self.drop_lease(lease),
                    Err(Failure::Unknown { .. }) => {}
                    Err(failure) => return Err(undecided(failure)),
                }
                continue;
            }
            let conditions = |first: Compare| {
                let transaction = Transaction::new().when(first);
                whens.iter().cloned().fold(transaction, Transaction::when)
            };
            let first = conditions(Compare::missing(&key)).then(put.clone()).otherwise(Action::get(&key));
            let committed = match self.facts.transact(first, deadline) {
                Ok(committed) => committed,
                Err(Failure::NoLease { .. }) => {
                    self.drop_lease(lease);
                    continue;
                }
                // It is seen at the next attempt whether it was done.
                Err(Failure::Unknown { .. }) => continue,
                Err(failure) => return Err(undecided(failure)),
            };
            if committed.succeeded {
                self.hear(path, &own, committed.revision);
                return Ok(());
            }
            let Some(record) = committed.found(0).and_then(|found| found.records.first()) else { continue };
            let fact = Fact::read(&record.value);
            if fact.as_ref() == Some(&own) && (lasting.is_some() || record.lease == Some(lease)) {
                self.hear(path, &own, record.modified);
                return Ok(());
            }
            let gives_way = match &fact {
                // It is its own, of an earlier incarnation perhaps; else it must have ended.
                Some(Fact { lasting: Some(other), .. }) => {
                    lasting.is_some_and(|process| process.to_bits() == *other)
                        || self.has_ended(*other, deadline).map_err(undecided)?
                }
                // Of what this node bound itself, its own service `names` has decided already.
                Some(fact) => fact.node == self.me.0 || existing == Existing::Replace || self.is_over(fact),
                None => true,
            };
            if !gives_way {
                return Err(NameFailure::Exists);
            }
            let second = conditions(Compare::unchanged(&key, record.modified)).then(put);
            match self.facts.transact(second, deadline) {
                Ok(committed) if committed.succeeded => {
                    self.hear(path, &own, committed.revision);
                    return Ok(());
                }
                Ok(_) | Err(Failure::Unknown { .. }) => {}
                Err(Failure::NoLease { .. }) => self.drop_lease(lease),
                Err(failure) => return Err(undecided(failure)),
            }
        }
        Err(NameFailure::Undecided)
    }

    /// What was read or written need not be heard first.
    fn hear(&self, path: &str, fact: &Fact, modified: Revision) {
        let mut state = self.state();
        if state.heard < modified && state.known.get(path).is_none_or(|known| known.modified < modified) {
            state.known.insert(path.into(), Known { fact: fact.clone(), modified });
        }
    }

    /// Takes a claim that is over back, if the fact is still of it.
    fn take_back(&self, path: &str, serial: u64, deadline: Instant) -> Result<(), Failure> {
        let key = key(path);
        let lasting = self.lasting(path, serial);
        let is_own = Compare::value(&key, self.own(serial, lasting).to_bytes());
        self.facts.transact(Transaction::new().when(is_own).then(Action::delete(&key)), deadline)?;
        self.state().lasting.remove(&(path.into(), serial));
        Ok(())
    }

    /// Does the name last although the claim is over here, since the process goes on elsewhere?
    fn outlives(&self, path: &str, serial: u64) -> bool {
        let mut state = self.state();
        let claim = (path.to_string(), serial);
        match state.lasting.get(&claim) {
            Some(lasting) if !lasting.is_given_up => {
                state.lasting.remove(&claim);
                true
            }
            _ => false,
        }
    }

    fn read(&self, path: &str, deadline: Instant) -> Result<Option<Record>, Failure> {
        Ok(self.facts.range(Range::key(key(path)), deadline)?.records.into_iter().next())
    }

    /// The name means something else by now: this node's registrar must know, unless it knows already.
    fn lose(&self, path: &str, serial: u64) {
        {
            let mut state = self.state();
            if state.bound(path) != Some(serial) {
                return;
            }
            state.held.remove(path);
            state.lasting.remove(&(path.into(), serial));
        }
        self.tell(Told::Lost { serial });
    }
}

/// Following what is agreed.
impl Shared {
    /// A thread's work until the node ends.
    fn follow(&self) {
        while !self.is_stopping() {
            let (give, take) = channel();
            // Unbounded, but as many wait as there are changes while one of them is told.
            let sink = move |event: WatchEvent| drop(give.send(event));
            let watch =
                self.catch_up().and_then(|from| self.facts.watch(KeyRange::prefix(PREFIX), from, Box::new(sink)));
            if watch.is_ok() {
                loop {
                    match take.recv_timeout(PATIENCE) {
                        Ok(WatchEvent::Changed { revision, changes }) => {
                            changes.into_iter().for_each(|change| self.changed(revision, change));
                        }
                        Err(RecvTimeoutError::Timeout) if !self.is_stopping() => {}
                        Ok(WatchEvent::Ended(_)) | Err(_) => break,
                    }
                }
            }
            // What happens now is not heard.
            self.tell(Told::AllChanged);
            if !self.is_stopping() {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// All names as they are known here at once; gives from where on changes are to be heard.
    fn catch_up(&self) -> Result<Revision, Failure> {
        let mut known = BTreeMap::new();
        let mut keys = KeyRange::prefix(PREFIX);
        let mut from = None;
        loop {
            let found = self.facts.range(Range::of(keys.clone()).stale(), Instant::now() + AGREE_TIMEOUT)?;
            from.get_or_insert(found.revision);
            for record in &found.records {
                if let (Some(path), Some(fact)) = (path_of(&record.key), Fact::read(&record.value)) {
                    known.insert(path, Known { fact, modified: record.modified });
                }
            }
            match found.records.last().filter(|_| found.more) {
                Some(last) => keys.from = [&*last.key, &[0]].concat().into(),
                None => break,
            }
        }
        let from = from.expect("there was an answer");
        let mut state = self.state();
        (state.known, state.heard) = (known, from);
        Ok(from.next())
    }

    fn changed(&self, revision: Revision, change: Change) {
        let (path, lost) = {
            let mut state = self.state();
            let path = match &change {
                Change::Put(record) => path_of(&record.key),
                Change::Deleted(key) => path_of(key),
            };
            let Some(path) = path else { return };
            let bound = state.bound(&path);
            state.heard = state.heard.max(revision);
            let mut lost = None;
            match change {
                Change::Put(record) => {
                    let Some(fact) = Fact::read(&record.value) else { return };
                    if fact.node != self.me.0 {
                        lost = bound;
                    }
                    state.known.insert(path.clone(), Known { fact, modified: record.modified });
                }
                Change::Deleted(_) => {
                    state.known.remove(&path);
                    if bound.is_some() {
                        // By others, or because the lease was over: who renews it finds out.
                        state.missed.insert(path.clone());
                        self.roused.notify_all();
                    }
                }
            }
            (path, lost)
        };
        if let Some(serial) = lost {
            self.lose(&path, serial);
        }
        self.tell(Told::Changed { path });
    }
}

/// Keeping what this node bound.
impl Shared {
    /// A thread's work until the node ends.
    fn keep(&self) {
        loop {
            {
                let state = self.state();
                let wait = match (state.held.is_empty() && state.owed.is_empty(), state.renewed) {
                    (true, _) => PATIENCE,
                    (false, _) if !state.missed.is_empty() => Duration::ZERO,
                    (false, None) => PAUSE,
                    (false, Some(renewed)) => (renewed + RENEW_EVERY).saturating_duration_since(Instant::now()),
                };
                if !wait.is_zero() {
                    drop(self.roused.wait_timeout(state, wait).expect("nothing panics while it holds this lock"));
                }
            }
            if self.is_stopping() {
                return;
            }
            let (is_idle, lease, is_due, missed, owed) = {
                let mut state = self.state();
                let is_due = state.renewed.is_none_or(|renewed| renewed.elapsed() >= RENEW_EVERY);
                let missed = std::mem::take(&mut state.missed);
                let owed: Vec<(String, u64)> = state.owed.iter().cloned().collect();
                (state.held.is_empty(), state.lease, is_due, missed, owed)
            };
            for (path, serial) in owed {
                if self.take_back(&path, serial, Instant::now() + AGREE_TIMEOUT).is_ok() {
                    self.state().owed.remove(&(path, serial));
                }
            }
            if is_idle {
                // Without names it may end; the next claim begins another.
                if let Some(lease) = lease.filter(|_| is_due) {
                    self.drop_lease(lease);
                }
            } else if is_due || !missed.is_empty() {
                self.renew(lease, missed);
            }
        }
    }

    fn renew(&self, lease: Option<LeaseId>, missed: BTreeSet<String>) {
        let asked = Instant::now();
        let deadline = asked + RENEW_EVERY;
        let kept = match lease {
            Some(lease) => self.facts.keep_alive(lease, deadline).map(drop),
            None => Err(Failure::NoLease { lease: LeaseId(0) }),
        };
        match kept {
            Ok(()) => {
                self.state().renewed = Some(asked);
                for path in missed {
                    self.look_after(&path, deadline);
                }
            }
            Err(Failure::NoLease { .. }) => {
                lease.into_iter().for_each(|lease| self.drop_lease(lease));
                self.claim_again();
            }
            // As long as nobody decides anything no lease ends, as far as this node can know.
            Err(_) => {
                self.state().missed.extend(missed);
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// A name was taken away while the lease held: others unbound it, if it is still so.
    fn look_after(&self, path: &str, deadline: Instant) {
        let Some(serial) = self.state().bound(path) else { return };
        match self.read(path, deadline) {
            Ok(Some(record)) if Fact::read(&record.value) == Some(self.own(serial, self.lasting(path, serial))) => {}
            Ok(_) => self.lose(path, serial),
            Err(_) => drop(self.state().missed.insert(path.into())),
        }
    }

    /// The lease was over: names that nobody else took are bound again.
    fn claim_again(&self) {
        let held: Vec<(String, Held)> = self.state().held.iter().map(|(path, held)| (path.clone(), *held)).collect();
        for (path, held) in held {
            let Held { serial, is_bound: true, .. } = held else { continue };
            let lasting = self.lasting(&path, serial);
            match self.agree(&path, serial, lasting, Existing::Refuse, Instant::now() + AGREE_TIMEOUT) {
                Ok(()) => {
                    // It may have been given up meanwhile.
                    if self.state().bound(&path) != Some(serial) {
                        self.state().owed.insert((path, serial));
                    }
                }
                Err(NameFailure::Exists) => self.lose(&path, serial),
                Err(_) => return std::thread::sleep(PAUSE),
            }
        }
    }
}

impl Registry for Names {
    fn begin(&self) {
        let mut state = self.0.state();
        let held = std::mem::take(&mut state.held);
        let over = held.into_iter().map(|(path, held)| (path, held.serial));
        let over: Vec<(String, u64)> = over.filter(|claim| state.lasting.remove(claim).is_none()).collect();
        state.owed.extend(over);
        self.0.roused.notify_all();
    }

    fn claim(&self, path: &str, serial: u64, existing: Existing, port: PortId) -> Result<(), NameFailure> {
        let claiming = Held { serial, port, is_bound: false };
        let lasting = {
            let mut state = self.0.state();
            state.held.insert(path.into(), claiming);
            let lasting = state.intended.get(path).copied();
            if let Some(process) = lasting {
                state.lasting.insert((path.into(), serial), Lasting { process, is_given_up: false });
            }
            lasting
        };
        // The lease may have been left alone while nothing was bound.
        self.0.roused.notify_all();
        let agreed = self.0.agree(path, serial, lasting, existing, Instant::now() + AGREE_TIMEOUT);
        let mut state = self.0.state();
        if state.held.get(path) != Some(&claiming) {
            // Given up meanwhile.
            if agreed.is_ok() && lasting.is_none() {
                state.owed.insert((path.into(), serial));
                self.0.roused.notify_all();
            }
            return agreed;
        }
        match &agreed {
            Ok(()) => drop(state.held.insert(path.into(), Held { is_bound: true, ..claiming })),
            Err(failure) => {
                state.held.remove(path);
                state.lasting.remove(&(path.into(), serial));
                // Of a name that lasts the process itself asks again.
                if *failure == NameFailure::Undecided && lasting.is_none() {
                    // It may have been done all the same.
                    state.owed.insert((path.into(), serial));
                }
            }
        }
        agreed
    }

    fn release(&self, path: &str, serial: u64) -> Result<(), NameFailure> {
        {
            let mut state = self.0.state();
            if state.held.get(path).is_some_and(|held| held.serial == serial) {
                state.held.remove(path);
            }
        }
        if self.0.outlives(path, serial) {
            return Ok(());
        }
        let taken_back = self.0.take_back(path, serial, Instant::now() + AGREE_TIMEOUT);
        taken_back.map_err(|failure| {
            self.0.state().owed.insert((path.into(), serial));
            self.0.roused.notify_all();
            undecided(failure)
        })
    }

    fn unbind(&self, path: &str) -> Result<(), NameFailure> {
        let key = key(path);
        let transaction = Transaction::new().when(Compare::exists(&key)).then(Action::delete(&key));
        match self.0.facts.transact(transaction, Instant::now() + AGREE_TIMEOUT) {
            Ok(committed) if committed.succeeded => Ok(()),
            Ok(_) => Err(NameFailure::NotFound),
            Err(failure) => Err(undecided(failure)),
        }
    }

    fn find(&self, path: &str, fetch: &mut dyn FnMut(Home) -> Fetched) -> Result<u64, NameFailure> {
        let heard = self.0.state().known.get(path).map(|known| (known.fact.clone(), known.modified));
        let mut tried = None;
        let mut outcome = NameFailure::NotFound;
        for attempt in 0..=FETCHES_MAX {
            // What was heard need not be asked for, and whoever has the port knows whether it is still so.
            let found = match (attempt, &heard) {
                (0, Some(heard)) => Some(heard.clone()),
                (0, None) => continue,
                _ => match self.0.read(path, Instant::now() + AGREE_TIMEOUT) {
                    Ok(record) => record.and_then(|record| {
                        let fact = Fact::read(&record.value)?;
                        self.0.hear(path, &fact, record.modified);
                        Some((fact, record.modified))
                    }),
                    Err(failure) if outcome == NameFailure::NotFound => return Err(undecided(failure)),
                    Err(_) => return Err(outcome),
                },
            };
            let Some((fact, modified)) = found else { return Err(NameFailure::NotFound) };
            // Of this node's own names its service `names` knows itself.
            if fact.node == self.0.me.0 || self.0.is_over(&fact) {
                return Err(NameFailure::NotFound);
            }
            if tried.as_ref() == Some(&fact) {
                return Err(outcome);
            }
            match fetch(fact.home()) {
                Fetched::Port => return Ok(modified.0),
                Fetched::NotThere => outcome = NameFailure::NotFound,
                Fetched::NotHeard => outcome = NameFailure::Unreachable,
            }
            tried = Some(fact);
        }
        Err(outcome)
    }

    fn has_changed(&self, path: &str, found: u64) -> bool {
        let state = self.0.state();
        match state.known.get(path) {
            Some(known) => known.modified.0 > found,
            None => state.heard.0 >= found,
        }
    }

    fn list(&self, path: &str, after: &str, names_max: usize) -> (Vec<String>, bool) {
        let directory = if path.ends_with('/') { path.to_string() } else { format!("{path}/") };
        let state = self.0.state();
        let from = std::ops::Bound::Excluded(format!("{directory}{after}"));
        let below = state.known.range((from, std::ops::Bound::Unbounded));
        let mut names = below
            .map_while(|(path, known)| Some((path.strip_prefix(&directory)?, known)))
            .filter(|(name, known)| !name.is_empty() && !name.contains('/') && !self.0.is_over(&known.fact))
            .map(|(name, _)| name.to_string());
        let listed: Vec<String> = names.by_ref().take(names_max).collect();
        let more = names.next().is_some();
        (listed, more)
    }

    fn intend(&self, path: &str, process: Option<ProcessId>) {
        let mut state = self.0.state();
        match process {
            Some(process) => drop(state.intended.insert(path.into(), process)),
            None => drop(state.intended.remove(path)),
        }
    }

    fn give_up(&self, path: &str, process: ProcessId) {
        let mut state = self.0.state();
        for ((other, _), lasting) in &mut state.lasting {
            lasting.is_given_up |= other == path && lasting.process == process;
        }
    }

    fn tide(&self, path: &str) -> Option<Tide> {
        let state = self.0.state();
        let known = state.known.get(path)?;
        Some(Tide { process: ProcessId::from_bits(known.fact.lasting?), since: known.modified.0 })
    }

    fn tell_changes(&self, tell: Box<dyn Fn(Told) + Send + Sync>) {
        // Of one node there is one registrar.
        let _ = self.0.tell.set(tell);
    }
}
