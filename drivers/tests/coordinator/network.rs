//! Nodes in one process, and a network between them that drops, delays, doubles, reorders and cuts.
//!
//! The one idea: one thread delivers everything when its time has come; faults only decide whether and when.

use super::disk::LossyFile;
use super::random::Random;
use abi::ids::NodeId;
use drivers::coordinator::raft::{Options, Peers, Raft, Unanswered};
use drivers::coordinator::{Coordinator, Failure, Quorum};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

type Done = Box<dyn FnOnce(Result<Vec<u8>, Unanswered>) + Send>;

/// How bad it is. One in so many; zero is never.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    pub drops: u64,
    pub doubles: u64,
    /// Everything takes up to so long.
    pub delay_max: Duration,
}

pub struct Network {
    inner: Mutex<Inner>,
    woken: Condvar,
}

struct Inner {
    nodes: BTreeMap<u16, Weak<Raft>>,
    random: Random,
    faults: Faults,
    /// Of these, nothing arrives: from, to.
    cut: BTreeSet<(u16, u16)>,
    queue: BinaryHeap<Due>,
    next: u64,
    ended: bool,
}

struct Due {
    at: Instant,
    number: u64,
    act: Box<dyn FnOnce() + Send>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.number == other.number
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl Network {
    pub fn new(seed: u64) -> Arc<Network> {
        let network = Arc::new(Network {
            inner: Mutex::new(Inner {
                nodes: BTreeMap::new(),
                random: Random::new(seed),
                faults: Faults::default(),
                cut: BTreeSet::new(),
                queue: BinaryHeap::new(),
                next: 0,
                ended: false,
            }),
            woken: Condvar::new(),
        });
        let delivering = Arc::downgrade(&network);
        std::thread::spawn(move || deliver(delivering));
        network
    }

    pub fn set_faults(&self, faults: Faults) {
        self.inner.lock().unwrap().faults = faults;
    }

    /// Nothing of this node arrives anywhere, nor anything at it.
    pub fn isolate(&self, node: u16) {
        let mut inner = self.inner.lock().unwrap();
        for other in 0..64 {
            inner.cut.insert((node, other));
            inner.cut.insert((other, node));
        }
    }

    /// Nothing arrives this way.
    pub fn cut(&self, from: u16, to: u16) {
        self.inner.lock().unwrap().cut.insert((from, to));
    }

    pub fn heal(&self) {
        self.inner.lock().unwrap().cut.clear();
    }

    fn after(&self, inner: &mut Inner, delay: Duration, act: Box<dyn FnOnce() + Send>) {
        inner.next += 1;
        let number = inner.next;
        inner.queue.push(Due { at: Instant::now() + delay, number, act });
        self.woken.notify_all();
    }

    /// Whether something arrives, how often and when.
    fn fate(inner: &mut Inner, from: u16, to: u16) -> Vec<Duration> {
        let faults = inner.faults;
        if inner.cut.contains(&(from, to)) || (faults.drops > 0 && inner.random.once_in(faults.drops)) {
            return vec![];
        }
        let times = if faults.doubles > 0 && inner.random.once_in(faults.doubles) { 2 } else { 1 };
        let delay_max = faults.delay_max.as_micros() as u64 + 1;
        (0..times).map(|_| Duration::from_micros(inner.random.below(delay_max))).collect()
    }
}

fn deliver(network: Weak<Network>) {
    loop {
        let Some(strong) = network.upgrade() else {
            return;
        };
        let mut inner = strong.inner.lock().unwrap();
        if inner.ended {
            return;
        }
        let now = Instant::now();
        let mut due = vec![];
        while inner.queue.peek().is_some_and(|first| first.at <= now) {
            due.push(inner.queue.pop().unwrap());
        }
        if due.is_empty() {
            let wait = inner.queue.peek().map_or(Duration::from_millis(50), |first| first.at - now);
            drop(strong.woken.wait_timeout(inner, wait.min(Duration::from_millis(50))).unwrap());
            continue;
        }
        drop(inner);
        for due in due {
            (due.act)();
        }
    }
}

/// One node's way out.
struct Way {
    network: Weak<Network>,
    me: u16,
}

impl Peers for Way {
    fn ask(&self, to: NodeId, body: Vec<u8>, deadline: Instant, done: Done) {
        let Some(network) = self.network.upgrade() else {
            return done(Err(Unanswered::NotSent("the network is gone".into())));
        };
        let (from, to) = (self.me, to.0);
        let done = Arc::new(Mutex::new(Some(done)));
        let mut inner = network.inner.lock().unwrap();
        let late = done.clone();
        let patience = deadline.saturating_duration_since(Instant::now());
        network.after(&mut inner, patience, Box::new(move || finish(&late, Err(Unanswered::Lost("no answer".into())))));
        for delay in Network::fate(&mut inner, from, to) {
            let (weak, done, body) = (self.network.clone(), done.clone(), body.clone());
            network.after(&mut inner, delay, Box::new(move || arrive(weak, from, to, body, done)));
        }
    }
}

type Waiting = Arc<Mutex<Option<Done>>>;

fn finish(done: &Waiting, answer: Result<Vec<u8>, Unanswered>) {
    let done = done.lock().unwrap().take();
    if let Some(done) = done {
        done(answer);
    }
}

fn arrive(network: Weak<Network>, from: u16, to: u16, body: Vec<u8>, done: Waiting) {
    let Some(strong) = network.upgrade() else {
        return;
    };
    let node = strong.inner.lock().unwrap().nodes.get(&to).and_then(Weak::upgrade);
    let Some(node) = node else { return };
    let back = network.clone();
    node.asked(
        NodeId(from),
        body,
        Box::new(move |answer| {
            let Some(network) = back.upgrade() else {
                return;
            };
            let mut inner = network.inner.lock().unwrap();
            for delay in Network::fate(&mut inner, to, from) {
                let (done, answer) = (done.clone(), answer.clone());
                network.after(&mut inner, delay, Box::new(move || finish(&done, Ok(answer))));
            }
        }),
    );
}

/// Several nodes on such a network, each with a disk that can lose things.
pub struct Cluster {
    pub network: Arc<Network>,
    pub options: Options,
    nodes: BTreeMap<u16, Arc<Raft>>,
    disks: BTreeMap<u16, Arc<Mutex<BTreeMap<PathBuf, LossyFile>>>>,
    random: Random,
}

impl Cluster {
    /// Nobody yet. Time runs some two to three times as fast as in earnest.
    pub fn new(seed: u64) -> Cluster {
        Cluster {
            network: Network::new(seed),
            options: Options { heartbeat: Duration::from_millis(100), ..Options::normal() },
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            random: Random::new(seed ^ 0x5eed),
        }
    }

    /// So many voters, the first of which began.
    pub fn of_voters(seed: u64, voters: u16) -> Cluster {
        let mut cluster = Cluster::new(seed);
        cluster.start_voters(voters);
        cluster
    }

    pub fn start_voters(&mut self, voters: u16) {
        for node in 1..=voters {
            self.start(node).unwrap();
        }
        let first = self.node(1);
        first.bootstrap().unwrap();
        if voters > 1 {
            let all: Vec<NodeId> = (1..=voters).map(NodeId).collect();
            first.set_voters(&all, Instant::now() + Duration::from_secs(30)).unwrap();
        }
    }

    /// Starts a node, with the disk it had.
    pub fn start(&mut self, node: u16) -> Result<Arc<Raft>, Failure> {
        let files = self.disks.entry(node).or_default().clone();
        let mut options = self.options.clone();
        options.disk =
            Some(Arc::new(move |path: &Path| files.lock().unwrap().entry(path.to_path_buf()).or_default().open()));
        let way = Arc::new(Way { network: Arc::downgrade(&self.network), me: node });
        let raft = Arc::new(Raft::open_with(Path::new("lossy"), NodeId(node), way, options)?);
        raft.know(&(1..=9).map(NodeId).filter(|other| other.0 != node).collect::<Vec<_>>());
        self.network.inner.lock().unwrap().nodes.insert(node, Arc::downgrade(&raft));
        self.nodes.insert(node, raft.clone());
        Ok(raft)
    }

    pub fn node(&self, node: u16) -> Arc<Raft> {
        self.nodes[&node].clone()
    }

    pub fn running(&self, node: u16) -> Option<Arc<Raft>> {
        self.nodes.get(&node).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Raft>> {
        self.nodes.values().cloned().collect()
    }

    /// The power of this node's computer fails.
    pub fn crash(&mut self, node: u16) {
        let Some(raft) = self.nodes.remove(&node) else {
            return;
        };
        self.network.inner.lock().unwrap().nodes.remove(&node);
        for file in self.disks[&node].lock().unwrap().values() {
            file.crash(&mut self.random);
        }
        raft.close();
    }

    pub fn files(&self, node: u16) -> Vec<(PathBuf, LossyFile)> {
        self.disks[&node].lock().unwrap().iter().map(|(path, file)| (path.clone(), file.clone())).collect()
    }

    /// Who leads, as soon as a majority has somebody.
    pub fn leader(&self) -> u16 {
        self.leader_other_than(0)
    }

    pub fn leader_other_than(&self, not: u16) -> u16 {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            for (_, node) in self.nodes.iter().filter(|(id, _)| **id != not) {
                let status = node.status();
                if let (Some(leader), Quorum::Answers { .. }) = (status.leader, status.quorum)
                    && leader.id != u64::from(not)
                    && self.nodes.contains_key(&(leader.id as u16))
                {
                    return leader.id as u16;
                }
            }
            assert!(Instant::now() < until, "there is no leader");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.network.inner.lock().unwrap().ended = true;
        for raft in self.nodes.values() {
            raft.close();
        }
    }
}
