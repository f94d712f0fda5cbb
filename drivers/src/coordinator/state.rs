//! What commands do to the facts, as pure code: no clock, no disk, no thread, no other node. The same commands in the same order
//! give the same state everywhere, and the same answers.
//!
//! The one idea: all that must be the same on every node that keeps the facts is in here and nothing else is: records, leases,
//! the changes that watchers may still ask for, and what each client was answered, so that a command that comes twice is done once.
//!
//! ```text
//!   Command ──► State::apply ──► Reply                     rows: the state as keys and values, to be put on a disk or sent:
//!                 │                                          r KEY       a record          l ID    a lease
//!                 ├─ records, leases                         h REVISION  its changes       s ID    a client's answers
//!                 ├─ history: what watchers are told         m           the rest, and how many rows there are
//!                 └─ touched: rows that are not on the disk as they are here
//! ```
//! Time enters as a command: that a lease is over is decided by the leader, and then it is so everywhere.

use super::moved::{FENCE, Fence};
use super::planted::{Bug, planted};
use super::{
    Action, Answer, Change, Committed, Compare, FOUND_BYTES_MAX, FOUND_RECORDS_MAX, Failure, Found, KeyRange, LeaseAct,
    LeaseId, Leased, Order, Range, Record, Revision, Transaction, With, check_ttl,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// Bounds that all who keep the same facts must share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Changes that watchers may still ask for, and their bytes. Older ones are told to be compacted.
    pub history_changes_max: usize,
    pub history_bytes_max: usize,
    /// Bytes of all keys and values. A transaction that would go beyond is refused with [`Failure::Full`].
    pub store_bytes_max: u64,
    /// Clients whose answers are remembered. The one that was silent the longest is forgotten, and has to begin a new session.
    pub sessions_max: usize,
    /// Answers remembered for one client: more commands at once are refused.
    pub answers_max: usize,
}

impl Limits {
    pub const NORMAL: Limits = Limits {
        history_changes_max: 16 << 10,
        history_bytes_max: 16 << 20,
        store_bytes_max: 1 << 30,
        sessions_max: 4096,
        answers_max: 4096,
    };
}

/// A client, from when it began to when it is forgotten. Never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// What is agreed on, one after the other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// A client begins.
    Open,
    Do(Deed),
    /// These leases are over: the leader says so.
    Expire(Vec<LeaseId>),
}

/// What a client wants done once, however often it asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Deed {
    pub session: SessionId,
    /// Counts a client's deeds from 1.
    pub sequence: u64,
    /// The client will never again ask for a deed before this one: their answers can be forgotten.
    pub settled: u64,
    pub act: Act,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Act {
    Transact(Transaction),
    Lease(LeaseAct),
}

/// What came of a command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    Opened(SessionId),
    Committed(Committed),
    Leased(Leased),
    Expired,
    Failed(Failure),
    /// The client was forgotten. Whether the deed was done before is not known; it was not done now.
    NoSession,
    /// The client has said that it will not ask for this again.
    Settled,
}

/// Leases are numbered by counting below this.
const CHOSEN_LEASE_MIN: u64 = 1 << 62;

/// Longer answers are not remembered: of a deed that is asked for again, only that it was done.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What clients were answered.
///
/// Invariants: all remembered sequences are `settled` or later.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Session {
    /// The place of its last command.
    used: u64,
    settled: u64,
    answers: BTreeMap<u64, Reply>,
}

/// Invariants: each key belongs to the record of that name, which names the lease.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Lease {
    ttl: Duration,
    keys: BTreeSet<Arc<[u8]>>,
}

/// What one revision changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Changes {
    pub revision: Revision,
    pub changes: Arc<[Change]>,
}

/// The facts.
///
/// Invariants: `revision` is that of the last change, at least 1; records and history name no later one. `history` has rising
/// revisions, all above `compacted`. `bytes` is what keys and values of records come to. Leases name exactly the keys whose
/// records name them.
#[derive(Clone, Debug)]
pub struct State {
    limits: Limits,
    revision: Revision,
    compacted: Revision,
    /// Commands that were applied. Numbers sessions, and says which client was silent the longest.
    applied: u64,
    next_lease: u64,
    bytes: u64,
    records: BTreeMap<Arc<[u8]>, Record>,
    leases: BTreeMap<LeaseId, Lease>,
    sessions: BTreeMap<SessionId, Session>,
    history: VecDeque<Changes>,
    history_changes: usize,
    history_bytes: usize,
    touched: BTreeSet<Row>,
}

/// A part of the state with a name of its own on the disk.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Row {
    Record(Arc<[u8]>),
    Lease(LeaseId),
    History(Revision),
    Session(SessionId),
    Rest,
}

/// What is not in another row. The counts tell whether rows are missing.
#[derive(Serialize, Deserialize)]
struct Rest {
    revision: Revision,
    compacted: Revision,
    applied: u64,
    next_lease: u64,
    records: u64,
    leases: u64,
    history: u64,
    sessions: u64,
}

/// Why rows are no state.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadRows(pub String);

impl State {
    pub fn new(limits: Limits) -> State {
        State {
            limits,
            revision: Revision(1),
            compacted: Revision(0),
            applied: 0,
            next_lease: 1,
            bytes: 0,
            records: BTreeMap::new(),
            leases: BTreeMap::new(),
            sessions: BTreeMap::new(),
            history: VecDeque::new(),
            history_changes: 0,
            history_bytes: 0,
            touched: BTreeSet::from([Row::Rest]),
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Changes up to and with this one cannot be told any more.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, Duration)> {
        self.leases.iter().map(|(id, lease)| (*id, lease.ttl))
    }

    pub fn ttl(&self, lease: LeaseId) -> Option<Duration> {
        self.leases.get(&lease).map(|lease| lease.ttl)
    }

    /// Does one command.
    pub fn apply(&mut self, command: &Command) -> Reply {
        self.applied += 1;
        self.touched.insert(Row::Rest);
        match command {
            Command::Open => self.open(),
            Command::Do(deed) => self.do_once(deed),
            Command::Expire(leases) => {
                for lease in leases {
                    // It may have been revoked meanwhile.
                    let _ = self.end(*lease);
                }
                Reply::Expired
            }
        }
    }

    fn open(&mut self) -> Reply {
        if self.sessions.len() >= self.limits.sessions_max {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.sessions.remove(&oldest);
                self.touched.insert(Row::Session(oldest));
            }
        }
        let id = SessionId(self.applied);
        self.sessions.insert(id, Session { used: self.applied, settled: 1, answers: BTreeMap::new() });
        self.touched.insert(Row::Session(id));
        Reply::Opened(id)
    }

    fn do_once(&mut self, deed: &Deed) -> Reply {
        let answers_max = self.limits.answers_max;
        let Some(session) = self.sessions.get_mut(&deed.session) else {
            return Reply::NoSession;
        };
        session.used = self.applied;
        if deed.settled > session.settled {
            session.settled = deed.settled;
            session.answers = session.answers.split_off(&deed.settled);
        }
        self.touched.insert(Row::Session(deed.session));
        if deed.sequence < session.settled {
            return Reply::Settled;
        }
        if let Some(reply) = session.answers.get(&deed.sequence)
            && !planted(Bug::RetryDoneTwice)
        {
            return reply.clone();
        }
        if session.answers.len() >= answers_max {
            return Reply::Failed(Failure::unavailable("too many transactions at once, of which no answer was taken"));
        }
        let done = match &deed.act {
            Act::Transact(transaction) => self.transact(transaction).map(Reply::Committed),
            Act::Lease(act) => self.lease(act).map(Reply::Leased),
        };
        let reply = done.unwrap_or_else(Reply::Failed);
        let remembered = match &reply {
            Reply::Committed(committed) if answer_bytes(committed) > ANSWER_BYTES_MAX => {
                let why = format!("it was done as {}, but its answer was too long to be kept", committed.revision);
                Reply::Failed(Failure::Unknown { why })
            }
            other => other.clone(),
        };
        let session = self.sessions.get_mut(&deed.session).expect("it was there a moment ago");
        session.answers.insert(deed.sequence, remembered);
        reply
    }

    fn lease(&mut self, act: &LeaseAct) -> Result<Leased, Failure> {
        // Who fills this one brings leases, by their numbers; from where all moves away, none comes or goes.
        if let Some(fence) = self.fence()
            && !matches!((&fence, act), (Fence::Filling { .. }, LeaseAct::Grant { id: Some(_), .. }))
        {
            return Err(fence.refusal());
        }
        match *act {
            LeaseAct::Grant { ttl, id } => {
                check_ttl(ttl)?;
                let lease = id.unwrap_or(LeaseId(self.next_lease));
                if lease.0 == 0 || lease.0 > i64::MAX as u64 || self.leases.contains_key(&lease) {
                    return Err(Failure::LeaseTaken { lease });
                }
                // Others choose numbers at random. One of the upper half is none that counting comes to.
                if lease.0 < CHOSEN_LEASE_MIN {
                    self.next_lease = self.next_lease.max(lease.0 + 1);
                }
                self.leases.insert(lease, Lease { ttl, keys: BTreeSet::new() });
                self.touched.insert(Row::Lease(lease));
                Ok(Leased { lease, ttl })
            }
            // The leader answers this by itself; that the lease is there can be asked here too.
            LeaseAct::KeepAlive(lease) | LeaseAct::Carry { lease, .. } => {
                self.ttl(lease).map(|ttl| Leased { lease, ttl }).ok_or(Failure::NoLease { lease })
            }
            LeaseAct::Revoke(lease) => self.end(lease),
        }
    }

    /// Ends a lease, and its keys with it, in one revision.
    fn end(&mut self, lease: LeaseId) -> Result<Leased, Failure> {
        let Some(Lease { ttl, keys }) = self.leases.remove(&lease) else {
            return Err(Failure::NoLease { lease });
        };
        self.touched.insert(Row::Lease(lease));
        let mut changes = vec![];
        for key in keys {
            let record = self.records.remove(&key).expect("a lease names keys that are there");
            self.bytes -= size(&record);
            self.touched.insert(Row::Record(key.clone()));
            changes.push(Change::Deleted(key));
        }
        self.commit(changes);
        Ok(Leased { lease, ttl })
    }

    /// What whoever renews a lease is told, if it may not: after a move that would be a promise of yesterday, and while facts are filled in
    /// only who does that may, which names its move.
    pub fn refuses_renewal(&self, carried: Option<u64>) -> Option<Failure> {
        match self.fence()? {
            Fence::Moving { .. } => None,
            Fence::Filling { id, .. } if carried == Some(id) => None,
            fence => Some(fence.refusal()).filter(|_| !planted(Bug::LeftOneRenews)),
        }
    }

    fn fence(&self) -> Option<Fence> {
        self.records.get(FENCE).map(|record| Fence::of(record))
    }

    fn transact(&mut self, transaction: &Transaction) -> Result<Committed, Failure> {
        transaction.check()?;
        // Who asks for the fence itself is moving the facts; all others stop at it.
        if let Some(fence) = self.fence()
            && !transaction.compare.iter().any(|compare| *compare.key == *FENCE)
        {
            return Err(fence.refusal());
        }
        let was_filled = matches!(self.fence(), Some(Fence::Filling { .. }));
        let succeeded = transaction.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &transaction.then } else { &transaction.otherwise };
        let mut more = 0;
        for action in branch {
            if let Action::Put { key, value, lease } = action {
                if let Some(lease) = lease
                    && !self.leases.contains_key(lease)
                {
                    return Err(Failure::NoLease { lease: *lease });
                }
                more += (key.len() + value.len()) as u64;
            }
        }
        if more > 0 && self.bytes + more > self.limits.store_bytes_max {
            return Err(Failure::Full { what: format!("{} bytes of keys and values", self.bytes) });
        }
        let revision = self.revision.next();
        let mut changes = vec![];
        let mut answers = Vec::with_capacity(branch.len());
        for action in branch {
            answers.push(match action {
                Action::Put { key, value, lease } => {
                    changes.push(Change::Put(self.put(key, value, *lease, revision)));
                    Answer::Put
                }
                Action::Delete(keys) => {
                    let gone: Vec<Arc<[u8]>> = self.within(keys).map(|record| record.key.clone()).collect();
                    for key in &gone {
                        self.delete(key);
                    }
                    let keys = gone.len() as u64;
                    changes.extend(gone.into_iter().map(Change::Deleted));
                    Answer::Deleted { keys }
                }
                Action::Get(range) => Answer::Found(self.find(range)),
            });
        }
        self.commit(changes);
        match self.fence() {
            // Watchers of what was here before have missed how it became what it is.
            None if was_filled => self.compact(),
            // Leases of facts that were here before.
            Some(Fence::Filling { .. }) if branch.iter().any(puts_fence) => {
                for lease in self.leases.keys().copied().collect::<Vec<_>>() {
                    self.end(lease).expect("it was there a moment ago");
                }
            }
            _ => {}
        }
        for answer in &mut answers {
            if let Answer::Found(found) = answer {
                found.revision = self.revision;
            }
        }
        Ok(Committed { revision: self.revision, succeeded, answers })
    }

    fn put(&mut self, key: &Arc<[u8]>, value: &Arc<[u8]>, lease: Option<LeaseId>, revision: Revision) -> Record {
        let before = self.records.get(key);
        if let Some(before) = before {
            self.bytes -= size(before);
            if before.lease != lease
                && let Some(lease) = before.lease
            {
                self.leases.get_mut(&lease).expect("a record's lease is there").keys.remove(key);
            }
        }
        let (created, version) = before.map_or((revision, 1), |before| (before.created, before.version + 1));
        let key = before.map_or(key, |before| &before.key).clone();
        let record = Record { key: key.clone(), value: value.clone(), created, modified: revision, version, lease };
        if let Some(lease) = lease {
            self.leases.get_mut(&lease).expect("it was just looked at").keys.insert(key.clone());
        }
        self.bytes += size(&record);
        self.touched.insert(Row::Record(key.clone()));
        self.records.insert(key, record.clone());
        record
    }

    fn delete(&mut self, key: &Arc<[u8]>) {
        let record = self.records.remove(key).expect("what is deleted was found");
        self.bytes -= size(&record);
        if let Some(lease) = record.lease {
            self.leases.get_mut(&lease).expect("a record's lease is there").keys.remove(key);
        }
        self.touched.insert(Row::Record(key.clone()));
    }

    /// Gives changes their revision, if there are any, and remembers them for watchers.
    fn commit(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        self.revision = self.revision.next();
        self.history_changes += changes.len();
        self.history_bytes += changes.iter().map(change_bytes).sum::<usize>();
        self.history.push_back(Changes { revision: self.revision, changes: changes.into() });
        self.touched.insert(Row::History(self.revision));
        while self.history_changes > self.limits.history_changes_max
            || self.history_bytes > self.limits.history_bytes_max
        {
            if !self.forget_oldest() {
                break;
            }
        }
    }

    /// Forgets all changes so far: whoever watches reads again.
    fn compact(&mut self) {
        while self.forget_oldest() {}
        self.compacted = self.revision;
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(oldest) = self.history.pop_front() else {
            return false;
        };
        self.history_changes -= oldest.changes.len();
        self.history_bytes -= oldest.changes.iter().map(change_bytes).sum::<usize>();
        self.compacted = oldest.revision;
        self.touched.insert(Row::History(oldest.revision));
        true
    }

    fn holds(&self, compare: &Compare) -> bool {
        let record = self.records.get(&compare.key);
        let order = match &compare.with {
            With::Value(value) => match record {
                Some(record) => record.value.cmp(value),
                None => return false,
            },
            With::Version(version) => record.map_or(0, |record| record.version).cmp(version),
            With::Created(revision) => record.map_or(Revision(0), |record| record.created).cmp(revision),
            With::Modified(revision) => record.map_or(Revision(0), |record| record.modified).cmp(revision),
            With::Lease(lease) => record.and_then(|record| record.lease).cmp(lease),
        };
        match compare.order {
            Order::Equal => order.is_eq(),
            Order::NotEqual => order.is_ne(),
            Order::Less => order.is_lt(),
            Order::Greater => order.is_gt(),
        }
    }

    fn within(&self, keys: &KeyRange) -> impl Iterator<Item = &Record> {
        let end = keys.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        // An empty range is no range of a map's keys.
        let is_empty = keys.to.as_ref().is_some_and(|to| *to <= keys.from);
        let records = (!is_empty).then(|| self.records.range::<[u8], _>((Bound::Included(&*keys.from), end)));
        records.into_iter().flatten().map(|(_, record)| record)
    }

    /// Looks for records, as they are now.
    pub fn find(&self, range: &Range) -> Found {
        let keys = &range.keys;
        if keys.to.as_ref().is_some_and(|to| *to <= keys.from) {
            return Found { records: vec![], more: false, revision: self.revision };
        }
        cut(self.within(keys).cloned(), range.limit, self.revision)
    }

    /// What a reader is told, if what is here is not what is true now.
    pub fn hidden(&self) -> Option<Failure> {
        self.fence().filter(Fence::hides).map(|fence| fence.refusal()).filter(|_| !planted(Bug::FillingIsRead))
    }

    /// The same for who watches these keys: it reads again, and is then told where. Whoever watches the fence alone is told what becomes
    /// of it.
    pub fn is_hidden_from(&self, keys: &KeyRange) -> bool {
        *keys != KeyRange::one(FENCE) && self.hidden().is_some()
    }

    /// What was changed, from a revision on.
    pub fn history(&self, from: Revision) -> Result<impl Iterator<Item = &Changes>, Failure> {
        let from = from.max(Revision(1));
        if from <= self.compacted {
            return Err(Failure::Compacted { revision: self.compacted });
        }
        let first = self.history.partition_point(|changes| changes.revision < from);
        Ok(self.history.range(first..))
    }

    /// How many rows are not on the disk as they are here.
    pub fn touched(&self) -> usize {
        self.touched.len()
    }

    /// The rows that changed since this was last called: their names, and what is in them, if they are still there.
    pub fn take_touched(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let touched = std::mem::take(&mut self.touched);
        touched.iter().map(|row| (row_name(row), self.row(row))).collect()
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let records = self.records.keys().cloned().map(Row::Record);
        let leases = self.leases.keys().copied().map(Row::Lease);
        let sessions = self.sessions.keys().copied().map(Row::Session);
        let history = self.history.iter().map(|changes| Row::History(changes.revision));
        let all = records.chain(leases).chain(sessions).chain(history).chain([Row::Rest]);
        all.map(|row| (row_name(&row), self.row(&row).expect("all these rows are there")))
    }

    fn row(&self, row: &Row) -> Option<Vec<u8>> {
        match row {
            Row::Record(key) => self.records.get(key).map(encoded),
            Row::Lease(id) => self.leases.get(id).map(|lease| encoded(&lease.ttl)),
            Row::Session(id) => self.sessions.get(id).map(encoded),
            Row::History(revision) => {
                let place = self.history.binary_search_by_key(revision, |changes| changes.revision).ok()?;
                Some(encoded(&self.history[place].changes.to_vec()))
            }
            Row::Rest => Some(encoded(&Rest {
                revision: self.revision,
                compacted: self.compacted,
                applied: self.applied,
                next_lease: self.next_lease,
                records: self.records.len() as u64,
                leases: self.leases.len() as u64,
                history: self.history.len() as u64,
                sessions: self.sessions.len() as u64,
            })),
        }
    }

    /// The state whose rows these are. All rows have to be there and nothing else.
    pub fn of_rows(limits: Limits, rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<State, BadRows> {
        let mut state = State::new(limits);
        let mut rest = None;
        let bad = |name: &[u8]| BadRows(format!("the row {} cannot be read", name.escape_ascii()));
        for (name, content) in rows {
            let id = || Some(u64::from_be_bytes(name.get(1..)?.try_into().ok()?));
            match name.first() {
                Some(b'r') => {
                    let record: Record = postcard::from_bytes(&content).map_err(|_| bad(&name))?;
                    if *record.key != name[1..] {
                        return Err(bad(&name));
                    }
                    state.bytes += size(&record);
                    state.records.insert(record.key.clone(), record);
                }
                Some(b'l') => {
                    let ttl: Duration = postcard::from_bytes(&content).map_err(|_| bad(&name))?;
                    let id = id().ok_or_else(|| bad(&name))?;
                    state.leases.insert(LeaseId(id), Lease { ttl, keys: BTreeSet::new() });
                }
                Some(b's') => {
                    let session: Session = postcard::from_bytes(&content).map_err(|_| bad(&name))?;
                    state.sessions.insert(SessionId(id().ok_or_else(|| bad(&name))?), session);
                }
                Some(b'h') => {
                    let changes: Vec<Change> = postcard::from_bytes(&content).map_err(|_| bad(&name))?;
                    let revision = Revision(id().ok_or_else(|| bad(&name))?);
                    state.history_changes += changes.len();
                    state.history_bytes += changes.iter().map(change_bytes).sum::<usize>();
                    state.history.push_back(Changes { revision, changes: changes.into() });
                }
                Some(b'm') => rest = Some(postcard::from_bytes::<Rest>(&content).map_err(|_| bad(&name))?),
                _ => return Err(bad(&name)),
            }
        }
        let rest = rest.ok_or_else(|| BadRows("its first row is missing".into()))?;
        for (what, found, expected) in [
            ("records", state.records.len(), rest.records),
            ("leases", state.leases.len(), rest.leases),
            ("sessions", state.sessions.len(), rest.sessions),
            ("changes", state.history.len(), rest.history),
        ] {
            if found as u64 != expected {
                return Err(BadRows(format!("it has {found} {what}, and should have {expected}")));
            }
        }
        state.history.make_contiguous().sort_by_key(|changes| changes.revision);
        for record in state.records.values() {
            if let Some(lease) = record.lease {
                let lease = state.leases.get_mut(&lease).ok_or_else(|| BadRows(format!("{lease} is missing")))?;
                lease.keys.insert(record.key.clone());
            }
        }
        state.revision = rest.revision;
        state.compacted = rest.compacted;
        state.applied = rest.applied;
        state.next_lease = rest.next_lease;
        state.touched.clear();
        Ok(state)
    }

    /// Whether the invariants hold, and if not, which one does not.
    pub fn check(&self) -> Result<(), String> {
        let bytes: u64 = self.records.values().map(size).sum();
        if bytes != self.bytes {
            return Err(format!("there are {bytes} bytes, {} are counted", self.bytes));
        }
        let mut leased = 0;
        for (key, record) in &self.records {
            if *key != record.key || record.modified > self.revision || record.created > record.modified {
                return Err(format!("{record:?} cannot be at {}", self.revision));
            }
            if let Some(lease) = record.lease {
                leased += 1;
                if !self.leases.get(&lease).is_some_and(|lease| lease.keys.contains(key)) {
                    return Err(format!("{lease} does not know {record:?}"));
                }
            }
        }
        if leased != self.leases.values().map(|lease| lease.keys.len()).sum::<usize>() {
            return Err("a lease names a key that does not name it".into());
        }
        let mut last = self.compacted;
        for changes in &self.history {
            if changes.revision <= last || changes.changes.is_empty() {
                return Err(format!("the history has {} behind {last}", changes.revision));
            }
            last = changes.revision;
        }
        if self.history_changes != self.history.iter().map(|changes| changes.changes.len()).sum::<usize>() {
            return Err("the changes are counted wrongly".into());
        }
        let forgotten = |session: &Session| session.answers.keys().next().is_some_and(|first| *first < session.settled);
        if self.sessions.values().any(forgotten) {
            return Err("an answer is kept that nobody will ask for".into());
        }
        Ok(())
    }
}

fn puts_fence(action: &Action) -> bool {
    matches!(action, Action::Put { key, .. } if **key == *FENCE)
}

/// The first of these records that fit into one answer.
pub fn cut(records: impl Iterator<Item = Record>, limit: usize, revision: Revision) -> Found {
    let limit = if limit == 0 { FOUND_RECORDS_MAX } else { limit.min(FOUND_RECORDS_MAX) };
    let mut found = Found { records: vec![], more: false, revision };
    let mut bytes = 0;
    for record in records {
        bytes += size(&record) as usize;
        if found.records.len() == limit || (bytes > FOUND_BYTES_MAX && !found.records.is_empty()) {
            found.more = true;
            break;
        }
        found.records.push(record);
    }
    found
}

fn size(record: &Record) -> u64 {
    (record.key.len() + record.value.len()) as u64
}

fn change_bytes(change: &Change) -> usize {
    match change {
        Change::Put(record) => size(record) as usize,
        Change::Deleted(key) => key.len(),
    }
}

fn answer_bytes(committed: &Committed) -> usize {
    let found = committed.answers.iter().filter_map(|answer| match answer {
        Answer::Found(found) => Some(found.records.iter().map(|record| size(record) as usize).sum::<usize>()),
        _ => None,
    });
    found.sum()
}

fn row_name(row: &Row) -> Vec<u8> {
    let numbered = |kind: u8, id: u64| [&[kind][..], &id.to_be_bytes()].concat();
    match row {
        Row::Record(key) => [&b"r"[..], key].concat(),
        Row::Lease(id) => numbered(b'l', id.0),
        Row::History(revision) => numbered(b'h', revision.0),
        Row::Session(id) => numbered(b's', id.0),
        Row::Rest => b"m".to_vec(),
    }
}

fn encoded(content: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(content).expect("memory takes all that can be encoded")
}
