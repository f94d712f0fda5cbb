//! The facts kept by una's own nodes: openraft over redb. It does not know how nodes are reached, nor what keys mean.
//!
//! The one idea: every node of a system has one of these, whether it keeps the facts or not, and all of them can be asked the same.
//! **Voters** decide by majority, **standbys** follow, and whoever is neither asks them; only the leader does anything, and what is
//! asked elsewhere is passed on to it.
//!
//! ```text
//!   submit ─► client: session + number ─► the leader ─► batch ─► log, synced here and at a majority ─► State ─► done
//!             again, until the deadline   (a peer, or   all that waits
//!             or an answer                 this node)   is one entry
//!
//!   node      the asynchronous inside        client   what is asked here          disk, log, store   what openraft keeps
//!   network   what nodes say to one another  leases   time, as the leader has it  watchers           telling changes
//!   succession  after a leader that has ended
//! ```
//! One thread does it all, syncs included: while it waits for the disk, what comes meanwhile gathers for the next entry.

mod client;
mod disk;
mod leases;
mod log;
mod network;
mod node;
mod store;
mod succession;
mod watchers;

use super::state::{Command, Limits, Reply};
use super::{
    Committed, Coordinator, Done, Failure, Found, KeyRange, Kind, LeaseAct, Leased, Member, Range, Revision, Sink,
    Status, Transaction, Watch, waited,
};
use abi::ids::NodeId;
use node::{Inside, Job};
use redb::StorageBackend;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

type LogId = openraft::LogId<u64>;
type Vote = openraft::Vote<u64>;
type Entry = openraft::Entry<Types>;
type Membership = openraft::StoredMembership<u64, openraft::EmptyNode>;

openraft::declare_raft_types!(
    /// What openraft is about here.
    pub(crate) Types:
        D = Batch,
        R = Replies,
        NodeId = u64,
        Node = openraft::EmptyNode,
);

/// What is agreed on at once.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    commands: Arc<Vec<Command>>,
    bytes: usize,
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.bytes as u64, &*self.commands).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Batch, D::Error> {
        let (bytes, commands) = <(u64, Vec<Command>)>::deserialize(deserializer)?;
        Ok(Batch { commands: Arc::new(commands), bytes: bytes as usize })
    }
}

/// One for each command of a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Replies(Vec<Reply>);

/// How other nodes are reached. In the daemon this is the wire, in tests a network with faults.
pub trait Peers: Send + Sync {
    /// Asks a node, whose [`Raft::asked`] gets the body. By the deadline `done` is called, exactly once, on any thread.
    fn ask(
        &self, to: NodeId, body: Vec<u8>, deadline: Instant, done: Box<dyn FnOnce(Result<Vec<u8>, Unanswered>) + Send>,
    );
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unanswered {
    /// The other node has not got it, and will not.
    #[error("{0}")]
    NotSent(String),
    /// It may have got it.
    #[error("{0}")]
    Lost(String),
}

/// What may be chosen. All nodes of a system choose the same.
#[derive(Clone)]
pub struct Options {
    pub limits: Limits,
    /// A leader that is silent for longer than [`Options::silence`] is replaced.
    pub heartbeat: Duration,
    /// Entries between two times that the disk follows the state, and as many rows. How much a restart does again.
    pub entries_per_snapshot: u64,
    /// Entries that stay in the log for nodes that are a little behind: others are sent the whole state.
    pub entries_kept: u64,
    /// Opens a file of the disk, in tests: something that can lose what was not synced.
    pub disk: Option<Arc<dyn Fn(&Path) -> Box<dyn StorageBackend> + Send + Sync>>,
}

impl Options {
    /// Of a quarter of a second, heartbeats are at most four a second for each node that follows; a leader is missed after 1.1 to
    /// 1.3 seconds, so a stall of 300 ms, or of twice that, changes nothing.
    pub fn normal() -> Options {
        Options {
            limits: Limits::NORMAL,
            heartbeat: Duration::from_millis(250),
            entries_per_snapshot: 2048,
            entries_kept: 512,
            disk: None,
        }
    }

    /// How long a leader may be silent, at least.
    pub fn silence(&self) -> Duration {
        // openraft waits for a leader's lease, then for an election timeout: see `config`.
        self.heartbeat * 22 / 5
    }

    /// For so long after it heard from a leader, or began, a node chooses no other one. A little less than what openraft keeps to, which is
    /// its longest election timeout, since clocks run at different speeds.
    pub fn faith(&self) -> Duration {
        self.heartbeat * 2
    }

    /// For so long after a node heard from a leader it gives no other one its vote: openraft's longest election timeout.
    pub fn promise(&self) -> Duration {
        self.heartbeat * 12 / 5
    }

    fn config(&self) -> openraft::Config {
        let heartbeat = self.heartbeat.as_millis() as u64;
        openraft::Config {
            cluster_name: "una".into(),
            heartbeat_interval: heartbeat,
            election_timeout_min: heartbeat * 2,
            election_timeout_max: self.promise().as_millis() as u64,
            // A part of the state travels and is written in this time.
            install_snapshot_timeout: 10_000,
            max_payload_entries: 64,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.entries_per_snapshot),
            replication_lag_threshold: self.entries_per_snapshot + self.entries_kept,
            max_in_snapshot_log_to_keep: self.entries_kept,
            purge_batch_size: 64,
            snapshot_max_chunk_size: 1 << 20,
            ..openraft::Config::default()
        }
    }
}

/// One node's part in keeping the facts, or its way to those who keep them.
pub struct Raft {
    me: NodeId,
    inside: Inside,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Answers a node that asked. Dropped, the other one is told nothing, and asks again.
pub type Respond = Box<dyn FnOnce(Vec<u8>) + Send>;

impl Raft {
    /// Opens what this node keeps, in a directory that is made if it is not there. It takes part once it is a member: by
    /// [`Raft::bootstrap`], or because the others [`Raft::add`] it. Until then it asks those it [`Raft::know`]s.
    pub fn open(directory: &Path, me: NodeId, peers: Arc<dyn Peers>) -> Result<Raft, Failure> {
        Raft::open_with(directory, me, peers, Options::normal())
    }

    pub fn open_with(directory: &Path, me: NodeId, peers: Arc<dyn Peers>, options: Options) -> Result<Raft, Failure> {
        let (disk, loaded) = match &options.disk {
            Some(open) => disk::Disk::open_over(directory, &**open)?,
            None => disk::Disk::open(directory)?,
        };
        let (log, machine, facts, started) = store::open(disk, loaded, options.limits)?;
        let (give, get) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("coordinator".into()).spawn(move || {
            node::run(u64::from(me.0), peers, options, log, machine, facts, started, move |inside| {
                let _ = give.send(inside);
            });
        });
        let thread = thread.map_err(|error| Failure::unavailable(format!("no thread: {error}")))?;
        let inside = get.recv().map_err(|_| Failure::Closed)??;
        Ok(Raft { me, inside, thread: Mutex::new(Some(thread)) })
    }

    pub fn me(&self) -> NodeId {
        self.me
    }

    /// Begins a system whose facts this node keeps alone. If it is a member of one already, nothing happens. Waits until it leads,
    /// if it is the only voter.
    pub fn bootstrap(&self) -> Result<(), Failure> {
        self.waited(Job::Bootstrap)
    }

    /// Nodes that can be asked, while this one is no member or hears from none.
    pub fn know(&self, nodes: &[NodeId]) {
        self.inside.know(nodes.iter().map(|node| u64::from(node.0)).collect());
    }

    /// Another node asks. May be called from any thread, and does not block.
    pub fn asked(&self, from: NodeId, body: Vec<u8>, respond: Respond) {
        self.inside.asked(u64::from(from.0), body, respond);
    }

    /// This node has ended, and somebody knows it for certain or nearly so: if it led, and is not heard, another one is chosen sooner than
    /// after a silence. To be wrong costs an election.
    pub fn ended(&self, node: NodeId) {
        self.inside.ended(u64::from(node.0));
    }

    /// Makes a node follow, as a standby. Returns when it has all that was agreed on before.
    pub fn add(&self, node: NodeId, deadline: Instant) -> Result<(), Failure> {
        self.change(network::Admin::Add(u64::from(node.0)), deadline)
    }

    /// Makes these the voters; those that are voters no more are standbys. Nodes that do not yet follow do so first.
    pub fn set_voters(&self, nodes: &[NodeId], deadline: Instant) -> Result<(), Failure> {
        self.change(network::Admin::SetVoters(nodes.iter().map(|node| u64::from(node.0)).collect()), deadline)
    }

    /// Makes a node no member at all. The last voter cannot be removed.
    pub fn remove(&self, node: NodeId, deadline: Instant) -> Result<(), Failure> {
        self.change(network::Admin::Remove(u64::from(node.0)), deadline)
    }

    fn change(&self, admin: network::Admin, deadline: Instant) -> Result<(), Failure> {
        self.waited(|done| Job::Admin { admin, deadline, done })
    }

    fn waited<T: Send + 'static>(&self, job: impl FnOnce(Done<T>) -> Job) -> Result<T, Failure> {
        waited(|done| self.inside.give(job(done)))
    }

    /// Stops taking part, as if the node had been killed: nothing is written any more when it returns.
    pub fn close(&self) {
        self.inside.close();
        let thread = self.thread.lock().expect("nothing panics while it holds the thread").take();
        if let Some(thread) = thread {
            // The thread does not end before all that it began is answered or dropped.
            let _ = thread.join();
        }
    }
}

impl Drop for Raft {
    fn drop(&mut self) {
        self.close();
    }
}

impl Coordinator for Raft {
    fn submit(&self, transaction: Transaction, deadline: Instant, done: Done<Committed>) {
        match transaction.check() {
            Ok(()) => self.inside.give(Job::Transact { transaction, deadline, done }),
            Err(failure) => done(Err(failure)),
        }
    }

    fn find(&self, range: Range, deadline: Instant, done: Done<Found>) {
        if let Err(failure) = super::check_range(&range.keys) {
            return done(Err(failure));
        }
        if range.stale
            && let Some(found) = self.inside.known(&range)
        {
            return done(found);
        }
        self.inside.give(Job::Find { range, deadline, done });
    }

    fn lease(&self, act: LeaseAct, deadline: Instant, done: Done<Leased>) {
        match &act {
            LeaseAct::Grant { ttl, .. } if super::check_ttl(*ttl).is_err() => done(Err(Failure::BadTtl { ttl: *ttl })),
            _ => self.inside.give(Job::Lease { act, deadline, done }),
        }
    }

    fn watch(&self, keys: KeyRange, from: Revision, sink: Sink) -> Result<Watch, Failure> {
        super::check_range(&keys)?;
        let (cancel, cancelled) = oneshot::channel::<()>();
        self.inside.give(Job::Watch { keys, from, sink, cancelled });
        Ok(Watch::new(move || drop(cancel)))
    }

    fn status(&self) -> Status {
        let status = self.waited(|done| Job::Status { done });
        status.unwrap_or_else(|failure| Status::silent(Kind::Raft, &failure))
    }
}

fn member(id: u64) -> Member {
    Member { name: format!("n{id}"), id }
}

fn node_id(id: u64) -> Option<NodeId> {
    u16::try_from(id).ok().map(NodeId)
}
