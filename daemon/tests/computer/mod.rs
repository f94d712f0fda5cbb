//! Some nodes in one process that share their files: a coordinator and a network in memory, both of which can be cut, delayed and
//! made to lose answers. Knows nothing of the insides of `daemon::files`.
#![allow(dead_code)]

pub mod kept;
pub mod scenarios;

use abi::errno::Errno;
use abi::file::*;
use abi::ids::NodeId;
use daemon::files::{FilesNetwork, Service, Shared, SharedFiles, SharedOptions, Unanswered};
use drivers::coordinator::{
    Action, Answer, Committed, Compare, Coordinator, Done, Failure, Found, KeyRange, Kind as CoordinatorKind, LeaseAct,
    LeaseId, Leased, Member, Order, Quorum, Range, Record, Revision, Sink, Status, Transaction, Watch, With,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

/// What takes longer has failed.
pub const LONG: Duration = Duration::from_secs(60);

pub const OPTIONS: SharedOptions = SharedOptions {
    lease: Duration::from_millis(400),
    patience: Duration::from_secs(20),
    grace: Duration::from_millis(1500),
    scan_every: Duration::from_millis(300),
    ..SharedOptions::NORMAL
};

pub const READ: Open = Open {
    last_link: LastLink::Target,
    existence: Existence::Required,
    kind: Kind::Any,
    access: Access::Read,
    truncate: false,
};
pub const WRITE: Open = Open { access: Access::ReadWrite, ..READ };
pub const CREATE: Open = Open { existence: Existence::Created, ..WRITE };
pub const NEW: Open = Open { existence: Existence::CreatedNew, ..WRITE };

/// Waits until it is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} has not come to be so");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// splitmix64 by Vigna.
pub struct Random(AtomicU64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(AtomicU64::new(seed))
    }

    pub fn below(&self, bound: u64) -> u64 {
        let mut mixed = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}

/// The facts of the whole computer.
#[derive(Default)]
pub struct Memory {
    state: Mutex<State>,
    /// Something about who may do what was changed.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    records: BTreeMap<Vec<u8>, Record>,
    revision: u64,
    leases: BTreeMap<u64, (Instant, Duration)>,
    next_lease: u64,
    cut: BTreeSet<NodeId>,
    /// Changes of the tree by these nodes are delayed until they are let through.
    held_back: BTreeSet<NodeId>,
    waiting: usize,
    /// One in so many answers is lost.
    loses: Option<(Random, u64)>,
}

impl State {
    fn expire(&mut self) {
        let now = Instant::now();
        let over: Vec<u64> = self.leases.iter().filter(|(_, (until, _))| *until < now).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.end_lease(id));
    }

    fn end_lease(&mut self, id: u64) {
        self.leases.remove(&id);
        self.revision += 1;
        self.records.retain(|_, record| record.lease != Some(LeaseId(id)));
    }

    fn holds(&self, compare: &Compare) -> bool {
        let record = self.records.get(&compare.key[..]);
        assert_eq!(compare.order, Order::Equal);
        match &compare.with {
            With::Value(value) => record.is_some_and(|record| record.value == *value),
            With::Version(version) => record.map_or(0, |record| record.version) == *version,
            With::Modified(revision) => record.map_or(Revision(0), |record| record.modified) == *revision,
            other => panic!("{other:?} is not compared here"),
        }
    }

    fn find(&self, range: &Range) -> Found {
        let mut records: Vec<Record> =
            self.records.values().filter(|record| range.keys.has(&record.key)).cloned().collect();
        // Little at once, so that whoever reads has to go on.
        let most = if range.limit == 0 { 50 } else { range.limit.min(50) };
        let more = records.len() > most;
        records.truncate(most);
        Found { records, more, revision: Revision(self.revision) }
    }

    fn transact(&mut self, transaction: &Transaction) -> Committed {
        transaction.check().expect("a transaction is within the limits");
        let succeeded = transaction.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &transaction.then } else { &transaction.otherwise };
        if branch.iter().any(|action| !matches!(action, Action::Get(_))) {
            self.revision += 1;
        }
        let revision = Revision(self.revision);
        let mut answers = vec![];
        for action in branch {
            answers.push(match action {
                Action::Put { key, value, lease } => {
                    let before = self.records.get(&key[..]);
                    let record = Record {
                        key: key.clone(),
                        value: value.clone(),
                        created: before.map_or(revision, |before| before.created),
                        modified: revision,
                        version: before.map_or(0, |before| before.version) + 1,
                        lease: *lease,
                    };
                    self.records.insert(key.to_vec(), record);
                    Answer::Put
                }
                Action::Delete(keys) => {
                    let count = self.records.len();
                    self.records.retain(|key, _| !keys.has(key));
                    Answer::Deleted { keys: (count - self.records.len()) as u64 }
                }
                Action::Get(range) => Answer::Found(self.find(range)),
            });
        }
        Committed { revision, succeeded, answers }
    }
}

impl Memory {
    pub fn new() -> Arc<Memory> {
        Arc::new(Memory::default())
    }

    fn change(&self, act: impl FnOnce(&mut State)) {
        act(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    pub fn lose_answers(&self, seed: u64, one_in: Option<u64>) {
        self.change(|state| state.loses = one_in.map(|one_in| (Random::new(seed), one_in)));
    }

    /// Delays the changes that this node makes to the tree.
    pub fn hold_back(&self, node: NodeId) {
        self.change(|state| {
            state.held_back.insert(node);
        });
    }

    pub fn let_through(&self, node: NodeId) {
        self.change(|state| {
            state.held_back.remove(&node);
        });
    }

    /// How many changes are being held back.
    pub fn waiting(&self) -> usize {
        self.state.lock().unwrap().waiting
    }

    /// The records of the tree.
    pub fn tree(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let state = self.state.lock().unwrap();
        let records = state.records.iter().filter(|(key, _)| key.starts_with(b"f/r/"));
        records.map(|(key, record)| (key.clone(), record.value.to_vec())).collect()
    }
}

/// The way of one node to the facts.
pub struct Way {
    memory: Arc<Memory>,
    node: NodeId,
}

impl Way {
    fn ask<T>(&self, act: impl FnOnce(&mut State) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut state = self.memory.state.lock().unwrap();
        if state.cut.contains(&self.node) {
            return Err(Failure::unavailable("no majority can be reached"));
        }
        state.expire();
        let result = act(&mut state);
        let is_lost = state.loses.as_ref().is_some_and(|(random, one_in)| random.below(*one_in) == 0);
        if is_lost { Err(Failure::unknown("the answer was lost")) } else { result }
    }
}

impl Coordinator for Way {
    fn submit(&self, transaction: Transaction, _: Instant, done: Done<Committed>) {
        if transaction.then.iter().any(|action| matches!(action, Action::Put { key, .. } if key.starts_with(b"f/r/"))) {
            let mut state = self.memory.state.lock().unwrap();
            if state.held_back.contains(&self.node) {
                // The answer is not waited for: a message that is long under way is only let through later.
                state.waiting += 1;
                let deadline = Instant::now() + Duration::from_millis(200);
                let memory = self.memory.clone();
                let node = self.node;
                let late = transaction.clone();
                drop(state);
                std::thread::spawn(move || {
                    let mut state = memory.state.lock().unwrap();
                    while state.held_back.contains(&node) {
                        state = memory.changed.wait(state).unwrap();
                    }
                    state.waiting -= 1;
                    state.transact(&late);
                });
                std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
                return done(Err(Failure::unknown("no answer in time")));
            }
        }
        done(self.ask(|state| Ok(state.transact(&transaction))))
    }

    fn find(&self, range: Range, _: Instant, done: Done<Found>) {
        let found = self.ask(|state| Ok(state.find(&range)));
        done(match found {
            Err(Failure::Unknown { why }) => Err(Failure::Unavailable { why }),
            found => found,
        })
    }

    fn lease(&self, act: LeaseAct, _: Instant, done: Done<Leased>) {
        done(self.ask(|state| match act {
            LeaseAct::Grant { ttl, .. } => {
                state.next_lease += 1;
                let lease = state.next_lease;
                state.leases.insert(lease, (Instant::now() + ttl, ttl));
                Ok(Leased { lease: LeaseId(lease), ttl })
            }
            LeaseAct::KeepAlive(lease) | LeaseAct::Carry { lease, .. } => match state.leases.get_mut(&lease.0) {
                Some((until, ttl)) => {
                    *until = Instant::now() + *ttl;
                    Ok(Leased { lease, ttl: *ttl })
                }
                None => Err(Failure::NoLease { lease }),
            },
            LeaseAct::Revoke(lease) => {
                state.end_lease(lease.0);
                Ok(Leased { lease, ttl: Duration::ZERO })
            }
        }))
    }

    fn watch(&self, _: KeyRange, _: Revision, _: Sink) -> Result<Watch, Failure> {
        // Nobody tells: everybody has to look.
        Err(Failure::unavailable("nothing is watched here"))
    }

    fn status(&self) -> Status {
        let voter = |id: u16| Member { name: format!("n{id}"), id: id.into() };
        Status {
            kind: CoordinatorKind::Raft,
            leader: None,
            voters: (1..=9).map(voter).collect(),
            standbys: vec![],
            term: 1,
            revision: Revision(0),
            quorum: Quorum::Answers { losses_left: 1 },
        }
    }
}

#[derive(Default)]
pub struct Network {
    state: Mutex<Nodes>,
    /// Something is let through.
    changed: Condvar,
}

#[derive(Default)]
struct Nodes {
    nodes: BTreeMap<NodeId, Shared>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// What this node says should be removed arrives late, whatever is cut by then.
    removes_late: Option<NodeId>,
    late: usize,
    loses: Option<(Random, u64)>,
}

struct Link {
    network: Arc<Network>,
    me: NodeId,
}

impl FilesNetwork for Link {
    fn ask(&self, to: NodeId, service: Service, body: &[u8], deadline: Instant) -> Result<Vec<u8>, Unanswered> {
        assert!(body.len() <= daemon::files::BODY_BYTES_MAX);
        // What begins so asks for the removal of chunks.
        if service == Service::Chunks && body[0] == 3 {
            let mut state = self.network.state.lock().unwrap();
            if state.removes_late == Some(self.me) {
                state.late += 1;
                let (network, me, body) = (self.network.clone(), self.me, body.to_vec());
                std::thread::spawn(move || {
                    let mut state = network.state.lock().unwrap();
                    while state.removes_late == Some(me) {
                        state = network.changed.wait(state).unwrap();
                    }
                    let there = state.nodes.get(&to).cloned();
                    drop(state);
                    let (give, get) = mpsc::sync_channel(1);
                    if let Some(there) = there {
                        there.asked(me, service, body, Box::new(move |answer| drop(give.send(answer))));
                        let _ = get.recv_timeout(LONG);
                    }
                    network.state.lock().unwrap().late -= 1;
                });
                return Err(Unanswered::Lost("no answer in time".into()));
            }
        }
        let (there, loses) = {
            let state = self.network.state.lock().unwrap();
            if state.cut.contains(&(self.me, to)) || state.cut.contains(&(to, self.me)) {
                return Err(Unanswered::NotSent(format!("{to} cannot be reached")));
            }
            let loses = state.loses.as_ref().map_or(1, |(random, one_in)| random.below(*one_in));
            let there = state.nodes.get(&to).cloned();
            (there.ok_or(Unanswered::NotSent(format!("{to} is not there")))?, loses)
        };
        let (give, get) = mpsc::sync_channel(1);
        there.asked(self.me, service, body.to_vec(), Box::new(move |answer| drop(give.send(answer))));
        drop(there);
        let answer = get.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let state = self.network.state.lock().unwrap();
        let is_cut = state.cut.contains(&(self.me, to)) || state.cut.contains(&(to, self.me));
        if loses == 0 || is_cut {
            return Err(Unanswered::Lost("the link went".into()));
        }
        match answer {
            Ok(Ok(answer)) => {
                assert!(answer.len() <= daemon::files::BODY_BYTES_MAX);
                Ok(answer)
            }
            Ok(Err(why)) => Err(Unanswered::Refused(why)),
            Err(_) => Err(Unanswered::Lost("no answer in time".into())),
        }
    }
}

/// All of it.
pub struct Computer {
    pub memory: Arc<Memory>,
    pub network: Arc<Network>,
    pub options: SharedOptions,
    top: tempfile::TempDir,
}

impl Computer {
    pub fn of(count: u16) -> Computer {
        Computer::with(count, OPTIONS)
    }

    pub fn with(count: u16, options: SharedOptions) -> Computer {
        let computer = Computer {
            memory: Memory::new(),
            network: Arc::new(Network::default()),
            options,
            top: tempfile::tempdir().unwrap(),
        };
        (1..=count).for_each(|node| computer.start(NodeId(node)));
        computer
    }

    pub fn directory(&self, node: NodeId) -> PathBuf {
        self.top.path().join(node.to_string())
    }

    pub fn start(&self, node: NodeId) {
        self.memory.change(|state| {
            state.cut.remove(&node);
        });
        self.network.state.lock().unwrap().cut.retain(|(one, other)| *one != node && *other != node);
        let way = Arc::new(Way { memory: self.memory.clone(), node });
        let link = Arc::new(Link { network: self.network.clone(), me: node });
        let shared = Shared::start_with(&self.directory(node), node, way, link, self.options).unwrap();
        self.network.state.lock().unwrap().nodes.insert(node, shared);
        self.tell_members();
    }

    /// What this node says should be removed arrives when somebody else, or nobody, is named.
    pub fn remove_late(&self, node: Option<NodeId>) {
        self.network.state.lock().unwrap().removes_late = node;
        self.network.changed.notify_all();
    }

    /// How many removals are under way.
    pub fn late(&self) -> usize {
        self.network.state.lock().unwrap().late
    }

    /// Everybody learns who is there.
    pub fn tell_members(&self) {
        let all = self.all();
        let living: Vec<NodeId> = all.iter().map(|(node, _)| *node).collect();
        all.iter().for_each(|(_, shared)| shared.members(&living));
    }

    pub fn all(&self) -> Vec<(NodeId, Shared)> {
        self.network.state.lock().unwrap().nodes.iter().map(|(node, shared)| (*node, shared.clone())).collect()
    }

    pub fn node(&self, node: NodeId) -> Shared {
        self.network.state.lock().unwrap().nodes[&node].clone()
    }

    pub fn session(&self, node: NodeId) -> SharedFiles {
        self.node(node).session()
    }

    /// Who holds the tree, and has it.
    pub fn holder(&self) -> NodeId {
        let mut holder = None;
        until("somebody holds the tree", || {
            holder = self.all().iter().find(|(_, shared)| shared.view().tree.is_some()).map(|(node, _)| *node);
            holder.is_some()
        });
        holder.unwrap()
    }

    pub fn others(&self) -> Vec<NodeId> {
        let holder = self.holder();
        self.all().into_iter().map(|(node, _)| node).filter(|node| *node != holder).collect()
    }

    /// Nothing that this node says arrives anywhere, and it hears nothing.
    pub fn cut_off(&self, node: NodeId) {
        self.memory.change(|state| {
            state.cut.insert(node);
        });
        self.network.state.lock().unwrap().cut.extend((1..20).map(|other| (node, NodeId(other))));
    }

    pub fn join_again(&self, node: NodeId) {
        self.memory.change(|state| {
            state.cut.remove(&node);
        });
        self.network.state.lock().unwrap().cut.retain(|(one, other)| *one != node && *other != node);
        self.tell_members();
    }

    pub fn cut_coordinator(&self, nodes: &[NodeId]) {
        self.memory.change(|state| state.cut = nodes.iter().copied().collect());
    }

    pub fn lose_answers(&self, seed: u64, one_in: Option<u64>) {
        self.memory.lose_answers(seed, one_in);
        self.network.state.lock().unwrap().loses = one_in.map(|one_in| (Random::new(seed), one_in));
    }

    /// The node is gone from one moment to the next; its disk is left.
    pub fn kill(&self, node: NodeId) {
        self.cut_off(node);
        let shared = self.network.state.lock().unwrap().nodes.remove(&node);
        self.tell_members();
        // Whatever it still does reaches nobody.
        std::thread::spawn(move || drop(shared));
    }

    pub fn wipe(&self, node: NodeId) {
        let new = self.top.path().join(format!("old-{node}-{}", self.memory.tree().len()));
        std::fs::rename(self.directory(node), new).unwrap();
    }

    /// Chunks on the disk of a node.
    pub fn chunks(&self, node: NodeId) -> usize {
        count_files(&self.directory(node).join("chunks"))
    }
}

impl Drop for Computer {
    fn drop(&mut self) {
        let nodes = std::mem::take(&mut self.network.state.lock().unwrap().nodes);
        drop(nodes);
    }
}

fn count_files(directory: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

pub fn pattern(count: usize, salt: u64) -> Vec<u8> {
    (0..count as u64)
        .map(|index| (index.wrapping_mul(0x9e37_79b9).wrapping_add(salt * 0x77_7777) >> 15) as u8)
        .collect()
}

/// Writes a whole file and syncs it.
pub fn put(files: &mut dyn FileSystem, path: &str, content: &[u8]) -> Result<(), Errno> {
    let file = files.open(files.root(), path, &Open { truncate: true, ..CREATE })?.id;
    let mut result = Ok(());
    let mut at = 0;
    while at < content.len() && result.is_ok() {
        match files.write_at(file, &content[at..], at as u64) {
            Ok(count) => at += count,
            Err(errno) => result = Err(errno),
        }
    }
    let result = result.and_then(|()| files.sync(file, Durable::Everything));
    files.close(file);
    result
}

pub fn get(files: &mut dyn FileSystem, path: &str) -> Result<Vec<u8>, Errno> {
    let file = files.open(files.root(), path, &READ)?.id;
    let content = files.content(file, u64::MAX);
    files.close(file);
    content
}
