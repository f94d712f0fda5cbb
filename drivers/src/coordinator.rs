//! The small store of hard facts that all nodes of a system agree on: names, members, holders, configuration. It does not know
//! what its keys mean, nor how many machines keep them.
//!
//! The one idea: etcd's semantics behind one trait, and two implementations that one suite of tests holds to it. A change is a
//! **transaction** (compare, then do; else do other things), it is durable before it is answered, and each one that changes
//! something has its own **revision**: all that was seen, and all that happens, has its place in that one order.
//!
//! ```text
//!   Raft    kept by una's own nodes: openraft over redb          raft, raft/*    state   what transactions do, as pure code
//!   Etcd    kept by an etcd that somebody runs already           etcd            moved   from one to the other, behind a fence
//! ```
//! Every wait has a deadline. What a failure says about a transaction is exact: [`Failure::Unknown`] is the only one after which
//! it may have been done.

pub mod current;
pub mod etcd;
pub mod moved;
pub mod planted;
pub mod raft;
pub mod state;

mod encoding;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Bytes of the longest key. There is no empty key.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// Bytes of the longest value.
pub const VALUE_BYTES_MAX: usize = 512 << 10;
/// Comparisons of one transaction, and actions of each of its branches: an etcd that nobody configured takes 128 of each, and the
/// fence is one of them.
pub const ACTIONS_MAX: usize = 120;
/// Bytes of keys and values in one transaction.
pub const TRANSACTION_BYTES_MAX: usize = 1 << 20;
/// Records in one answer to a range; what is left out is said by [`Found::more`].
pub const FOUND_RECORDS_MAX: usize = 4096;
/// Bytes of keys and values in one answer to a range, beyond its first record.
pub const FOUND_BYTES_MAX: usize = 1 << 20;
/// Leases end between these.
pub const TTL_MIN: Duration = Duration::from_secs(1);
pub const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A place in the order of changes. The empty store has a revision below that of every change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Revision(pub u64);

impl Revision {
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// A promise that keys stay until somebody has failed to renew it. Zero is no lease.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "lease {:x}", self.0)
    }
}

/// What a key holds.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    #[serde(with = "encoding::bytes")]
    pub key: Arc<[u8]>,
    #[serde(with = "encoding::bytes")]
    pub value: Arc<[u8]>,
    /// The change that made the key, since it was last not there.
    pub created: Revision,
    /// The change that last put the key.
    pub modified: Revision,
    /// How often it was put since it was made: 1, 2, ...
    pub version: u64,
    /// The key goes when this does.
    pub lease: Option<LeaseId>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let shown = &self.value[..self.value.len().min(48)];
        write!(f, "{}={}", self.key.escape_ascii(), shown.escape_ascii())?;
        write!(f, " {}..{} v{}", self.created, self.modified, self.version)?;
        self.lease.map_or(Ok(()), |lease| write!(f, " {lease}"))
    }
}

/// Keys from one on, to another that is not among them; or from one on.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyRange {
    #[serde(with = "encoding::bytes")]
    pub from: Arc<[u8]>,
    /// `None`: all that follow.
    #[serde(with = "encoding::optional_bytes")]
    pub to: Option<Arc<[u8]>>,
}

impl KeyRange {
    pub fn one(key: impl AsRef<[u8]>) -> KeyRange {
        let key = key.as_ref();
        KeyRange { from: key.into(), to: Some([key, &[0]].concat().into()) }
    }

    /// All keys that begin so. Of the empty prefix: all keys.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> KeyRange {
        let prefix = prefix.as_ref();
        if prefix.is_empty() {
            return KeyRange::all();
        }
        let mut to = prefix.to_vec();
        while to.last() == Some(&0xff) {
            to.pop();
        }
        let to = to.last().is_some().then(|| {
            *to.last_mut().expect("it was just looked at") += 1;
            to.into()
        });
        KeyRange { from: prefix.into(), to }
    }

    pub fn all() -> KeyRange {
        KeyRange { from: Arc::new([0]), to: None }
    }

    pub fn between(from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> KeyRange {
        KeyRange { from: from.as_ref().into(), to: Some(to.as_ref().into()) }
    }

    pub fn has(&self, key: &[u8]) -> bool {
        *self.from <= *key && self.to.as_ref().is_none_or(|to| *key < **to)
    }
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}..", self.from.escape_ascii())?;
        self.to.as_ref().map_or(Ok(()), |to| write!(f, "{}", to.escape_ascii()))
    }
}

/// What must be true of a key. A key that is not there has version 0, revisions 0 and no lease; no value fits it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Compare {
    #[serde(with = "encoding::bytes")]
    pub key: Arc<[u8]>,
    pub order: Order,
    /// What the key's is compared with: `Less` asks whether the key's is less than this.
    pub with: With,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Order {
    Equal,
    NotEqual,
    Less,
    Greater,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum With {
    Value(#[serde(with = "encoding::bytes")] Arc<[u8]>),
    Version(u64),
    Created(Revision),
    Modified(Revision),
    Lease(Option<LeaseId>),
}

impl Compare {
    pub fn new(key: impl AsRef<[u8]>, order: Order, with: With) -> Compare {
        Compare { key: key.as_ref().into(), order, with }
    }

    pub fn exists(key: impl AsRef<[u8]>) -> Compare {
        Compare::new(key, Order::Greater, With::Version(0))
    }

    pub fn missing(key: impl AsRef<[u8]>) -> Compare {
        Compare::new(key, Order::Equal, With::Version(0))
    }

    pub fn value(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Compare {
        Compare::new(key, Order::Equal, With::Value(value.as_ref().into()))
    }

    /// It is as it was when this revision put it. Of `Revision(0)`: it is not there.
    pub fn unchanged(key: impl AsRef<[u8]>, modified: Revision) -> Compare {
        Compare::new(key, Order::Equal, With::Modified(modified))
    }
}

/// A part of a transaction. All parts of one branch have one revision; a later one sees what the earlier did.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Action {
    Put {
        #[serde(with = "encoding::bytes")]
        key: Arc<[u8]>,
        #[serde(with = "encoding::bytes")]
        value: Arc<[u8]>,
        lease: Option<LeaseId>,
    },
    Delete(KeyRange),
    Get(Range),
}

impl Action {
    pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Action {
        Action::Put { key: key.as_ref().into(), value: value.as_ref().into(), lease: None }
    }

    pub fn put_leased(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, lease: LeaseId) -> Action {
        Action::Put { key: key.as_ref().into(), value: value.as_ref().into(), lease: Some(lease) }
    }

    pub fn delete(key: impl AsRef<[u8]>) -> Action {
        Action::Delete(KeyRange::one(key))
    }

    pub fn get(key: impl AsRef<[u8]>) -> Action {
        Action::Get(Range::of(KeyRange::one(key)))
    }
}

/// If all comparisons hold, do one list of actions, else the other: at one moment, all or nothing.
///
/// No branch may put a key twice, nor put a key that it deletes ([`Failure::Repeated`]).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Transaction {
    pub compare: Vec<Compare>,
    pub then: Vec<Action>,
    pub otherwise: Vec<Action>,
}

impl Transaction {
    pub fn new() -> Transaction {
        Transaction::default()
    }

    /// Without condition.
    pub fn of(then: Vec<Action>) -> Transaction {
        Transaction { then, ..Transaction::default() }
    }

    pub fn when(mut self, compare: Compare) -> Transaction {
        self.compare.push(compare);
        self
    }

    pub fn then(mut self, action: Action) -> Transaction {
        self.then.push(action);
        self
    }

    pub fn otherwise(mut self, action: Action) -> Transaction {
        self.otherwise.push(action);
        self
    }

    /// Whether it is within the limits and makes sense, so that it fails for nothing but the state it meets.
    pub fn check(&self) -> Result<(), Failure> {
        for (what, count) in [
            ("comparisons", self.compare.len()),
            ("actions", self.then.len()),
            ("actions of the other branch", self.otherwise.len()),
        ] {
            if count > ACTIONS_MAX {
                return Err(Failure::TooLarge { what: what.into(), size: count, size_max: ACTIONS_MAX });
            }
        }
        let mut bytes = 0;
        for compare in &self.compare {
            bytes += check_key(&compare.key)?;
            if let With::Value(value) = &compare.with {
                bytes += check_value(value)?;
            }
        }
        for branch in [&self.then, &self.otherwise] {
            for action in branch {
                bytes += match action {
                    Action::Put { key, value, .. } => check_key(key)? + check_value(value)?,
                    Action::Delete(keys) => check_range(keys)?,
                    Action::Get(range) => check_range(&range.keys)?,
                };
            }
            let mut put: Vec<&[u8]> = vec![];
            put.extend(branch.iter().filter_map(|action| match action {
                Action::Put { key, .. } => Some(&**key),
                _ => None,
            }));
            put.sort_unstable();
            if let Some(pair) = put.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(Failure::Repeated { key: pair[0].into() });
            }
            for action in branch {
                if let Action::Delete(keys) = action {
                    let first = put.partition_point(|key| **key < *keys.from);
                    if let Some(key) = put.get(first).filter(|key| keys.has(key)) {
                        return Err(Failure::Repeated { key: (*key).into() });
                    }
                }
            }
        }
        if bytes > TRANSACTION_BYTES_MAX {
            return Err(Failure::TooLarge {
                what: "bytes of a transaction".into(),
                size: bytes,
                size_max: TRANSACTION_BYTES_MAX,
            });
        }
        Ok(())
    }
}

fn check_key(key: &[u8]) -> Result<usize, Failure> {
    match key.len() {
        0 => Err(Failure::EmptyKey),
        size if size > KEY_BYTES_MAX => {
            Err(Failure::TooLarge { what: "bytes of a key".into(), size, size_max: KEY_BYTES_MAX })
        }
        size => Ok(size),
    }
}

fn check_value(value: &[u8]) -> Result<usize, Failure> {
    if value.len() > VALUE_BYTES_MAX {
        let (size, size_max) = (value.len(), VALUE_BYTES_MAX);
        return Err(Failure::TooLarge { what: "bytes of a value".into(), size, size_max });
    }
    Ok(value.len())
}

/// The end of a range may be one byte longer than a key: it is how one key is said.
fn check_range(keys: &KeyRange) -> Result<usize, Failure> {
    let end = keys.to.as_ref().map_or(0, |to| to.len());
    if end > KEY_BYTES_MAX + 1 {
        return Err(Failure::TooLarge { what: "bytes of a key".into(), size: end, size_max: KEY_BYTES_MAX });
    }
    Ok(check_key(&keys.from)? + end)
}

/// What a transaction did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Committed {
    /// The store's revision after it: its own, if it changed anything.
    pub revision: Revision,
    /// Whether the comparisons held.
    pub succeeded: bool,
    /// One for each action of the branch that was taken.
    pub answers: Vec<Answer>,
}

impl Committed {
    /// What the action of that number found, if it was a [`Action::Get`].
    pub fn found(&self, action: usize) -> Option<&Found> {
        match self.answers.get(action) {
            Some(Answer::Found(found)) => Some(found),
            _ => None,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    Put,
    Deleted { keys: u64 },
    Found(Found),
}

/// Records to look for.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Range {
    pub keys: KeyRange,
    /// At most this many, and never more than [`FOUND_RECORDS_MAX`]. Zero: that many.
    pub limit: usize,
    /// What is known here at once, perhaps of yesterday, rather than what is true now. In a transaction it means nothing.
    pub stale: bool,
}

impl Range {
    pub fn of(keys: KeyRange) -> Range {
        Range { keys, limit: 0, stale: false }
    }

    pub fn key(key: impl AsRef<[u8]>) -> Range {
        Range::of(KeyRange::one(key))
    }

    pub fn prefix(prefix: impl AsRef<[u8]>) -> Range {
        Range::of(KeyRange::prefix(prefix))
    }

    pub fn limit(mut self, limit: usize) -> Range {
        self.limit = limit;
        self
    }

    pub fn stale(mut self) -> Range {
        self.stale = true;
        self
    }
}

/// Records in the order of their keys.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Found {
    pub records: Vec<Record>,
    /// There are more behind the last one.
    pub more: bool,
    /// The store's revision when it was looked: a watch from the next one on misses nothing.
    pub revision: Revision,
}

/// What one revision changed among the keys that are watched, or the end of the watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchEvent {
    Changed {
        revision: Revision,
        changes: Vec<Change>,
    },
    /// The last event. [`Failure::Compacted`]: read the range again, and watch from behind what it found.
    Ended(Failure),
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    Put(Record),
    Deleted(#[serde(with = "encoding::bytes")] Arc<[u8]>),
}

impl Change {
    pub fn key(&self) -> &Arc<[u8]> {
        match self {
            Change::Put(record) => &record.key,
            Change::Deleted(key) => key,
        }
    }
}

/// Is called on the coordinator's thread, with one event at a time, and must not block.
pub type Sink = Box<dyn FnMut(WatchEvent) + Send>;

/// Is called on the coordinator's thread, exactly once, and must not block; perhaps before the call it was given to returns.
pub type Done<T> = Box<dyn FnOnce(Result<T, Failure>) + Send>;

/// A watch that goes on. Dropped, it ends: an event may still be under way.
pub struct Watch {
    cancel: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Watch {
    /// Of an implementation: what ends it.
    pub fn new(cancel: impl FnOnce() + Send + Sync + 'static) -> Watch {
        Watch { cancel: Some(Box::new(cancel)) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel();
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// What can be done with leases. A lease's time is counted by whoever leads the store: never by the clocks of who follow, and
/// anew by a new leader. So it may live longer than its time, never shorter.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum LeaseAct {
    /// A new lease; with the number that is asked for, if there is one and no other lease has it.
    Grant { ttl: Duration, id: Option<LeaseId> },
    /// Its time begins anew. A holder counts from when it *asked*, not from when it was answered.
    KeepAlive(LeaseId),
    /// The lease goes, and its keys with it.
    Revoke(LeaseId),
    /// As `KeepAlive`, for who brings the lease along in this move ([`moved`]): behind the fence of a store that is being filled nobody
    /// else renews anything.
    Carry { lease: LeaseId, id: u64 },
}

/// A lease after something was done with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Leased {
    pub lease: LeaseId,
    pub ttl: Duration,
}

/// Why something was not done. After all but [`Failure::Unknown`] nothing was done, and nothing will be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// Try again later, or elsewhere.
    #[error("the coordinator cannot be reached, nothing was done: {why}")]
    Unavailable { why: String },
    /// It may have been done, or may still be. Look before trying again.
    #[error("whether it was done is not known: {why}")]
    Unknown { why: String },
    /// Changes up to and with this revision are not kept any more.
    #[error("changes up to {revision} are no longer kept: read the keys again and watch from there")]
    Compacted { revision: Revision },
    #[error("{size} {what} are too much: {size_max} are the most")]
    TooLarge { what: String, size: usize, size_max: usize },
    #[error("a key has no bytes: name one")]
    EmptyKey,
    #[error("the key {} is changed twice in one transaction: change it once", key.escape_ascii())]
    Repeated { key: Vec<u8> },
    #[error("{lease} is over or never was: grant a new one")]
    NoLease { lease: LeaseId },
    #[error("{lease} is in use: let another number be chosen")]
    LeaseTaken { lease: LeaseId },
    #[error("a lease cannot last {ttl:?}: from {TTL_MIN:?} to {TTL_MAX:?} are possible")]
    BadTtl { ttl: Duration },
    /// Delete something, or compact and defragment.
    #[error("the store is full ({what}): delete keys")]
    Full { what: String },
    /// The facts are kept elsewhere now; `id` says which move it was.
    #[error("the facts have moved to {to}: ask there")]
    Moved { to: String, id: u64 },
    /// The store does not let us.
    #[error("the coordinator refuses: {why}")]
    Refused { why: String },
    #[error("the coordinator's store is damaged ({what}): remove this node and let it join again, or restore a copy")]
    Damaged { what: String },
    /// This one was closed.
    #[error("the coordinator was closed")]
    Closed,
}

impl Failure {
    pub fn unavailable(why: impl fmt::Display) -> Failure {
        Failure::Unavailable { why: why.to_string() }
    }

    pub fn unknown(why: impl fmt::Display) -> Failure {
        Failure::Unknown { why: why.to_string() }
    }
}

/// Who takes part, and how well it goes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// `raft` or `etcd`.
    pub kind: Kind,
    pub leader: Option<Member>,
    /// A majority of these decides.
    pub voters: Vec<Member>,
    /// They follow, and can become voters.
    pub standbys: Vec<Member>,
    pub term: u64,
    /// The last change known here.
    pub revision: Revision,
    pub quorum: Quorum,
}

impl Status {
    /// Of a store that does not even say how it is.
    pub(crate) fn silent(kind: Kind, failure: &Failure) -> Status {
        Status {
            kind,
            leader: None,
            voters: vec![],
            standbys: vec![],
            term: 0,
            revision: Revision::default(),
            quorum: Quorum::Lost { why: failure.to_string() },
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    Raft,
    Etcd,
}

/// One of those who keep the facts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Of una's own: `n1`. Of an etcd: what it calls itself.
    pub name: String,
    /// The number of a node, of an etcd's member.
    pub id: u64,
}

/// Whether facts can be changed now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Quorum {
    /// Yes, and so many more voters may be lost.
    Answers {
        losses_left: usize,
    },
    Lost {
        why: String,
    },
}

/// The store of hard facts. May be asked from any thread.
///
/// All reads but stale ones are linearizable, as are transactions: each takes effect at one moment between being asked and being
/// answered. What was answered survives the loss of any minority of voters, and of all of them at once if their disks are there.
pub trait Coordinator: Send + Sync {
    /// Does a transaction. By the deadline `done` is called, exactly once.
    fn submit(&self, transaction: Transaction, deadline: Instant, done: Done<Committed>);

    /// Looks for records. By the deadline `done` is called, exactly once; never with [`Failure::Unknown`].
    fn find(&self, range: Range, deadline: Instant, done: Done<Found>);

    /// Does something with a lease. By the deadline `done` is called, exactly once.
    fn lease(&self, act: LeaseAct, deadline: Instant, done: Done<Leased>);

    /// Tells every change of these keys with this revision or a later one, each once, in order. It goes on through losses of
    /// connections and leaders. `Revision(0)`: from the first change on.
    fn watch(&self, keys: KeyRange, from: Revision, sink: Sink) -> Result<Watch, Failure>;

    /// Who takes part, and whether it works. May ask others, for a moment.
    fn status(&self) -> Status;

    /// Does a transaction, and waits.
    fn transact(&self, transaction: Transaction, deadline: Instant) -> Result<Committed, Failure> {
        waited(|done| self.submit(transaction, deadline, done))
    }

    /// Looks for records, and waits.
    fn range(&self, range: Range, deadline: Instant) -> Result<Found, Failure> {
        waited(|done| self.find(range, deadline, done))
    }

    /// Grants a lease, and waits.
    fn grant(&self, ttl: Duration, deadline: Instant) -> Result<LeaseId, Failure> {
        waited(|done| self.lease(LeaseAct::Grant { ttl, id: None }, deadline, done)).map(|leased| leased.lease)
    }

    /// Begins a lease's time anew, and waits; gives that time. It counts from when this was called.
    fn keep_alive(&self, lease: LeaseId, deadline: Instant) -> Result<Duration, Failure> {
        waited(|done| self.lease(LeaseAct::KeepAlive(lease), deadline, done)).map(|leased| leased.ttl)
    }

    /// Ends a lease, and waits.
    fn revoke(&self, lease: LeaseId, deadline: Instant) -> Result<(), Failure> {
        waited(|done| self.lease(LeaseAct::Revoke(lease), deadline, done)).map(drop)
    }
}

/// Waits for what a callback is given. An implementation keeps deadlines itself; one that was dropped closed.
fn waited<T: Send + 'static>(ask: impl FnOnce(Done<T>)) -> Result<T, Failure> {
    let (give, get) = mpsc::sync_channel(1);
    ask(Box::new(move |result| {
        // Nobody waits any more only if the waiting thread is gone.
        let _ = give.send(result);
    }));
    get.recv().unwrap_or(Err(Failure::Closed))
}

/// Checks what a lease is asked for.
pub(crate) fn check_ttl(ttl: Duration) -> Result<(), Failure> {
    if (TTL_MIN..=TTL_MAX).contains(&ttl) { Ok(()) } else { Err(Failure::BadTtl { ttl }) }
}
