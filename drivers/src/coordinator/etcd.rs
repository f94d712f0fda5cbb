//! The facts kept by an etcd (v3) that somebody runs already, through its JSON gateway. It does not know who keeps that one alive.
//!
//! The one idea: every question is one HTTP request to one of several endpoints, and what it means that there was no answer depends
//! on how far the request came: not sent, another endpoint is asked; sent, only reads are asked again.
//!
//! ```text
//!   submit, find, lease ──► a few threads that ask and wait                 http    requests, and which of them were sent
//!   watch               ──► a thread for each, that reads a stream          json    etcd's words for ours
//! ```
//! All keys lie below a prefix, so that an etcd can be shared. Every question looks at the fence too ([`moved`](super::moved)).

mod http;
mod json;

use super::moved::{FENCE, FILLED, Fence};
use super::planted::{Bug, planted};
use super::state::cut;
use super::{
    Action, Answer, Change, Committed, Compare, Coordinator, Done, FOUND_RECORDS_MAX, Failure, Found, KeyRange, Kind,
    LeaseAct, LeaseId, Leased, Member, Order, Quorum, Range, Record, Revision, Sink, Status, Transaction, Watch,
    WatchEvent, With, check_range, check_ttl,
};
use http::{Http, Missed};
use json::{bytes_of, int_of, text};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Questions under way at once; as many again and more may wait.
const ASKING_MAX: usize = 16;
const WAITING_MAX: usize = 4096;
/// Watches at once: each is a thread and a connection.
const WATCHES_MAX: usize = 256;
/// How long after a failure another endpoint is asked.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a status waits for each member.
const STATUS_WAIT: Duration = Duration::from_millis(700);
/// A watch that heard nothing for so long asks whether the endpoint is still there.
const QUIET_MAX: Duration = Duration::from_secs(5);

/// An etcd.
pub struct Etcd {
    inside: Arc<Inside>,
    jobs: SyncSender<Job>,
    closed: Arc<AtomicBool>,
}

struct Inside {
    http: Http,
    prefix: Vec<u8>,
    /// An etcd has one space of numbers of leases for all who share it. Each who shares it is in a place of its own in there.
    leases: u64,
    watches: AtomicUsize,
}

enum Job {
    Transact { transaction: Transaction, deadline: Instant, done: Done<Committed> },
    Find { range: Range, deadline: Instant, done: Done<Found> },
    Lease { act: LeaseAct, deadline: Instant, done: Done<Leased> },
}

impl Etcd {
    /// Uses the etcd at these addresses (`http://host:2379`), below a prefix of its keys. Nothing is asked yet.
    pub fn connect(endpoints: &[String], prefix: &str) -> Result<Etcd, Failure> {
        let inside = Arc::new(Inside {
            http: Http::new(endpoints)?,
            prefix: prefix.as_bytes().into(),
            leases: place_of_leases(prefix),
            watches: AtomicUsize::new(0),
        });
        let (jobs, waiting) = sync_channel(WAITING_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        let closed = Arc::new(AtomicBool::new(false));
        for number in 0..ASKING_MAX {
            let (inside, waiting) = (inside.clone(), waiting.clone());
            let thread = std::thread::Builder::new().name(format!("etcd {number}"));
            thread
                .spawn(move || work(&inside, &waiting))
                .map_err(|error| Failure::unavailable(format!("no thread: {error}")))?;
        }
        Ok(Etcd { inside, jobs, closed })
    }

    fn give(&self, job: Job) {
        let refused = match self.jobs.try_send(job) {
            Ok(()) => return,
            Err(std::sync::mpsc::TrySendError::Full(job) | std::sync::mpsc::TrySendError::Disconnected(job)) => job,
        };
        let failure = Failure::unavailable("too much is asked at once");
        match refused {
            Job::Transact { done, .. } => done(Err(failure)),
            Job::Find { done, .. } => done(Err(failure)),
            Job::Lease { done, .. } => done(Err(failure)),
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // Threads that ask end when the channel does.
        self.closed.store(true, Ordering::Relaxed);
    }
}

fn work(inside: &Inside, waiting: &Mutex<Receiver<Job>>) {
    loop {
        let job = waiting.lock().expect("nothing panics while it waits").recv();
        match job {
            Ok(Job::Transact { transaction, deadline, done }) => done(inside.transact(&transaction, deadline)),
            Ok(Job::Find { range, deadline, done }) => done(inside.find(&range, deadline)),
            Ok(Job::Lease { act, deadline, done }) => done(inside.lease(&act, deadline)),
            Err(_) => return,
        }
    }
}

impl Coordinator for Etcd {
    fn submit(&self, transaction: Transaction, deadline: Instant, done: Done<Committed>) {
        match transaction.check() {
            Ok(()) => self.give(Job::Transact { transaction, deadline, done }),
            Err(failure) => done(Err(failure)),
        }
    }

    fn find(&self, range: Range, deadline: Instant, done: Done<Found>) {
        match check_range(&range.keys) {
            Ok(_) => self.give(Job::Find { range, deadline, done }),
            Err(failure) => done(Err(failure)),
        }
    }

    fn lease(&self, act: LeaseAct, deadline: Instant, done: Done<Leased>) {
        match &act {
            LeaseAct::Grant { ttl, .. } if check_ttl(*ttl).is_err() => done(Err(Failure::BadTtl { ttl: *ttl })),
            _ => self.give(Job::Lease { act, deadline, done }),
        }
    }

    fn watch(&self, keys: KeyRange, from: Revision, sink: Sink) -> Result<Watch, Failure> {
        check_range(&keys)?;
        if self.inside.watches.fetch_add(1, Ordering::Relaxed) >= WATCHES_MAX {
            self.inside.watches.fetch_sub(1, Ordering::Relaxed);
            return Err(Failure::Refused { why: format!("{WATCHES_MAX} watches at once are the most: drop one") });
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        let watching = Watching {
            inside: self.inside.clone(),
            keys,
            next: from.max(Revision(1)),
            sink,
            closed: self.closed.clone(),
            cancelled: cancelled.clone(),
        };
        let thread = std::thread::Builder::new().name("etcd watch".into()).spawn(move || watching.run());
        thread.map_err(|error| Failure::unavailable(format!("no thread: {error}")))?;
        Ok(Watch::new(move || cancelled.store(true, Ordering::Relaxed)))
    }

    fn status(&self) -> Status {
        self.inside.status().unwrap_or_else(|failure| Status::silent(Kind::Etcd, &failure))
    }
}

/// What etcd says when it did not do something, in words that have not changed since its version 3.
fn failure_of(message: &str, lease: Option<LeaseId>) -> Option<Failure> {
    let has = |part: &str| message.contains(part);
    Some(match () {
        () if has("requested lease not found") => Failure::NoLease { lease: lease.unwrap_or(LeaseId(0)) },
        () if has("lease already exists") => Failure::LeaseTaken { lease: lease.unwrap_or(LeaseId(0)) },
        () if has("database space exceeded") => Failure::Full { what: "etcd's quota".into() },
        () if has("duplicate key given") => Failure::Repeated { key: vec![] },
        () if has("key is not provided") => Failure::EmptyKey,
        () if has("request is too large") => Failure::Refused { why: format!("{message}: raise --max-request-bytes") },
        () if has("too many operations in txn") => Failure::Refused { why: format!("{message}: raise --max-txn-ops") },
        () if has("permission denied") || has("user name") || has("invalid auth token") => {
            Failure::Refused { why: message.into() }
        }
        () if has("corrupt") => Failure::Damaged { what: message.into() },
        () => return None,
    })
}

/// Whether etcd says that it did not even begin.
fn was_not_begun(message: &str) -> bool {
    message.contains("too many requests") || message.contains("etcdserver: no leader")
}

impl Inside {
    fn key(&self, key: &[u8]) -> String {
        text(&[&self.prefix, key].concat())
    }

    /// The end of a range, in etcd's words: there, too, one zero byte means all that follow.
    fn end(&self, keys: &KeyRange) -> String {
        match &keys.to {
            Some(to) => self.key(to),
            None => {
                let all = KeyRange::prefix(&self.prefix);
                text(all.to.as_deref().unwrap_or(&[0]))
            }
        }
    }

    fn record(&self, kv: &Value) -> Option<Record> {
        let key = bytes_of(kv, "key")?;
        let lease = int_of(kv, "lease");
        Some(Record {
            key: key.strip_prefix(&*self.prefix)?.into(),
            value: bytes_of(kv, "value").unwrap_or_default().into(),
            created: Revision(int_of(kv, "create_revision")),
            modified: Revision(int_of(kv, "mod_revision")),
            version: int_of(kv, "version"),
            lease: (lease != 0).then_some(self.own_lease(lease)),
        })
    }

    /// The number in etcd of one of our leases, and the other way about: each undoes the other.
    fn etcd_lease(&self, lease: LeaseId) -> u64 {
        lease.0 ^ self.leases
    }

    fn own_lease(&self, number: u64) -> LeaseId {
        LeaseId(number ^ self.leases)
    }

    fn found(&self, answer: &Value, limit: usize, revision: Revision) -> Option<Found> {
        let records = json::list(answer, "kvs").iter().map(|kv| self.record(kv)).collect::<Option<Vec<Record>>>()?;
        let mut found = cut(records.into_iter(), limit, revision);
        found.more |= json::field(answer, "more").and_then(Value::as_bool).unwrap_or(false);
        Some(found)
    }

    /// Asks until there is an answer. Only what is `repeatable` is asked again if it may have been done.
    fn ask(
        &self, path: &str, body: &Value, deadline: Instant, is_repeatable: bool, lease: Option<LeaseId>,
    ) -> Result<Value, Failure> {
        let mut why = "the time is over".to_string();
        loop {
            if Instant::now() >= deadline {
                return Err(Failure::Unavailable { why });
            }
            match self.http.post(path, body, deadline) {
                Ok(answer) => return Ok(answer),
                Err(Missed::Said(message)) => {
                    if let Some(failure) = failure_of(&message, lease) {
                        return Err(failure);
                    }
                    if !is_repeatable && !was_not_begun(&message) {
                        return Err(Failure::Unknown { why: message });
                    }
                    why = message;
                }
                Err(Missed::NotSent(reason)) => why = reason,
                Err(Missed::Lost(reason)) if is_repeatable => why = reason,
                Err(Missed::Lost(reason)) => return Err(Failure::Unknown { why: reason }),
                Err(Missed::TooLong) => {
                    return Err(Failure::TooLarge {
                        what: "bytes of an answer".into(),
                        size: http::ANSWER_BYTES_MAX,
                        size_max: http::ANSWER_BYTES_MAX,
                    });
                }
            }
            self.http.turn();
            std::thread::sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now())));
        }
    }

    fn compare(&self, compare: &Compare) -> Value {
        let result = match compare.order {
            Order::Equal => "EQUAL",
            Order::NotEqual => "NOT_EQUAL",
            Order::Less => "LESS",
            Order::Greater => "GREATER",
        };
        let (target, field, with) = match &compare.with {
            With::Value(value) => ("VALUE", "value", text(value)),
            With::Version(version) => ("VERSION", "version", version.to_string()),
            With::Created(revision) => ("CREATE", "create_revision", revision.0.to_string()),
            With::Modified(revision) => ("MOD", "mod_revision", revision.0.to_string()),
            With::Lease(lease) => ("LEASE", "lease", lease.map_or(0, |lease| self.etcd_lease(lease)).to_string()),
        };
        json!({ "key": self.key(&compare.key), "target": target, "result": result, field: with })
    }

    fn range(&self, range: &Range) -> Value {
        let limit = if range.limit == 0 { FOUND_RECORDS_MAX } else { range.limit.min(FOUND_RECORDS_MAX) };
        json!({ "key": self.key(&range.keys.from), "range_end": self.end(&range.keys), "limit": limit.to_string() })
    }

    fn action(&self, action: &Action) -> Value {
        match action {
            Action::Put { key, value, lease } => {
                let lease = lease.map_or(0, |lease| self.etcd_lease(lease)).to_string();
                json!({ "request_put": { "key": self.key(key), "value": text(value), "lease": lease } })
            }
            // etcd takes an empty range for a mistake.
            Action::Delete(keys) if is_empty(keys) => {
                json!({ "request_range": { "key": self.key(&keys.from), "limit": "1" } })
            }
            Action::Delete(keys) => {
                json!({ "request_delete_range": { "key": self.key(&keys.from), "range_end": self.end(keys) } })
            }
            Action::Get(range) if is_empty(&range.keys) => {
                json!({ "request_range": { "key": self.key(&range.keys.from), "limit": "1" } })
            }
            Action::Get(range) => json!({ "request_range": self.range(range) }),
        }
    }

    fn answer(&self, action: &Action, answer: &Value, revision: Revision) -> Option<Answer> {
        Some(match action {
            Action::Put { .. } => Answer::Put,
            Action::Delete(keys) if is_empty(keys) => Answer::Deleted { keys: 0 },
            Action::Delete(_) => {
                Answer::Deleted { keys: int_of(json::field(answer, "response_delete_range")?, "deleted") }
            }
            Action::Get(range) if is_empty(&range.keys) => Answer::Found(Found { revision, ..Found::default() }),
            Action::Get(range) => {
                Answer::Found(self.found(json::field(answer, "response_range")?, range.limit, revision)?)
            }
        })
    }

    fn fence_is_open(&self) -> Value {
        self.compare(&Compare::missing(FENCE))
    }

    /// What the fence says, if it was found.
    fn fence(&self, answer: &Value) -> Option<Fence> {
        let kvs = json::list(json::field(answer, "response_range")?, "kvs");
        Some(Fence::of(&self.record(kvs.first()?)?))
    }

    fn transact(&self, transaction: &Transaction, deadline: Instant) -> Result<Committed, Failure> {
        // Who asks for the fence itself is moving the facts; all others stop at it.
        let stops = !transaction.compare.iter().any(|compare| *compare.key == *FENCE);
        let mut compare: Vec<Value> = transaction.compare.iter().map(|compare| self.compare(compare)).collect();
        let mut failure: Vec<Value> = vec![];
        let has_else = !transaction.otherwise.is_empty();
        if stops {
            compare.push(self.fence_is_open());
            failure.push(json!({ "request_range": { "key": self.key(FENCE) } }));
        }
        if has_else && stops {
            // Only if the fence is open, too.
            let inner: Vec<Value> = transaction.otherwise.iter().map(|action| self.action(action)).collect();
            failure
                .push(json!({ "request_txn": { "compare": [self.fence_is_open()], "success": inner, "failure": [] } }));
        } else {
            failure.extend(transaction.otherwise.iter().map(|action| self.action(action)));
        }
        let success: Vec<Value> = transaction.then.iter().map(|action| self.action(action)).collect();
        let lease = transaction.then.iter().chain(&transaction.otherwise).find_map(|action| match action {
            Action::Put { lease, .. } => *lease,
            _ => None,
        });
        let is_read = |actions: &[Action]| actions.iter().all(|action| matches!(action, Action::Get(_)));
        let is_repeatable = is_read(&transaction.then) && is_read(&transaction.otherwise);
        let body = json!({ "compare": compare, "success": success, "failure": failure });
        let answer = self.ask("kv/txn", &body, deadline, is_repeatable, lease)?;
        let strange = || Failure::unknown("etcd's answer is not to what was asked");
        let revision = json::header_revision(&answer).ok_or_else(strange)?;
        let succeeded = json::field(&answer, "succeeded").and_then(Value::as_bool).unwrap_or(false);
        let mut responses = json::list(&answer, "responses");
        let branch = if succeeded { &transaction.then } else { &transaction.otherwise };
        if stops && !succeeded {
            let (first, rest) = responses.split_first().ok_or_else(strange)?;
            if let Some(fence) = self.fence(first) {
                return Err(fence.refusal());
            }
            responses = match has_else {
                true => json::list(
                    json::field(rest.first().ok_or_else(strange)?, "response_txn").ok_or_else(strange)?,
                    "responses",
                ),
                false => rest,
            };
        }
        if responses.len() != branch.len() {
            return Err(strange());
        }
        let answers = branch.iter().zip(responses).map(|(action, response)| self.answer(action, response, revision));
        Ok(Committed { revision, succeeded, answers: answers.collect::<Option<_>>().ok_or_else(strange)? })
    }

    fn find(&self, range: &Range, deadline: Instant) -> Result<Found, Failure> {
        let strange = || Failure::unavailable("etcd's answer is not to what was asked");
        let mut asked = range.clone();
        loop {
            let get = match is_empty(&range.keys) {
                true => json!({ "key": self.key(&range.keys.from), "limit": "1" }),
                false => self.range(&asked),
            };
            // All of it is read at one moment; an etcd that is asked for what it knows says that at once, and asks nobody.
            let (mut get, mut fence) = (get, json!({ "key": self.key(FENCE) }));
            if range.stale {
                get["serializable"] = json!(true);
                fence["serializable"] = json!(true);
            }
            let body = json!({
                "compare": [self.fence_is_open()],
                "success": [{ "request_range": get }],
                "failure": [{ "request_range": fence }, { "request_range": get }],
            });
            let answer = match self.ask("kv/txn", &body, deadline, true, None) {
                // Fewer records, then.
                Err(Failure::TooLarge { .. }) if asked.limit != 1 => {
                    let limit = if asked.limit == 0 { FOUND_RECORDS_MAX } else { asked.limit };
                    asked.limit = (limit / 4).max(1);
                    continue;
                }
                other => other?,
            };
            let revision = json::header_revision(&answer).ok_or_else(strange)?;
            let responses = json::list(&answer, "responses");
            let first = responses.first().ok_or_else(strange)?;
            let is_open = json::field(&answer, "succeeded").and_then(Value::as_bool).unwrap_or(false);
            if !is_open
                && let Some(fence) = self.fence(first).filter(Fence::hides)
                && !planted(Bug::FillingIsRead)
            {
                return Err(fence.refusal());
            }
            let found = if is_open { first } else { responses.get(1).ok_or_else(strange)? };
            let found = json::field(found, "response_range").ok_or_else(strange)?;
            if is_empty(&range.keys) {
                return Ok(Found { revision, ..Found::default() });
            }
            return self.found(found, asked.limit, revision).ok_or_else(strange);
        }
    }

    fn lease(&self, act: &LeaseAct, deadline: Instant) -> Result<Leased, Failure> {
        let strange = || Failure::unknown("etcd's answer is not to what was asked");
        match *act {
            LeaseAct::Grant { ttl, id } => {
                // Who fills this one brings leases, by their numbers.
                match self.fence_now(deadline)? {
                    Some(Fence::Filling { .. }) if id.is_some() => {}
                    Some(fence) => return Err(fence.refusal()),
                    None => {}
                }
                let seconds = ttl.as_millis().div_ceil(1000) as u64;
                let number = id.map_or(0, |id| self.etcd_lease(id));
                let body = json!({ "TTL": seconds.to_string(), "ID": number.to_string() });
                let answer = self.ask("lease/grant", &body, deadline, false, id)?;
                let lease = int_of(&answer, "ID");
                if lease == 0 {
                    return Err(strange());
                }
                Ok(Leased {
                    lease: self.own_lease(lease),
                    ttl: Duration::from_secs(int_of(&answer, "TTL").max(seconds)),
                })
            }
            LeaseAct::KeepAlive(lease) => self.keep_alive(lease, None, deadline),
            LeaseAct::Carry { lease, id } => self.keep_alive(lease, Some(id), deadline),
            LeaseAct::Revoke(lease) => {
                if let Some(fence) = self.fence_now(deadline)? {
                    return Err(fence.refusal());
                }
                let body = json!({ "ID": self.etcd_lease(lease).to_string() });
                self.ask("lease/revoke", &body, deadline, false, Some(lease))?;
                // If the facts are on their way now, the lease may have been copied before it went.
                match self.fence_now(deadline) {
                    Ok(None) => Ok(Leased { lease, ttl: Duration::ZERO }),
                    Ok(Some(_)) => Err(Failure::unknown("the facts began to move meanwhile")),
                    Err(failure) => Err(Failure::unknown(failure)),
                }
            }
        }
    }

    /// Whether a renewal counts is known afterwards: if the fence does not say then that the facts have moved, they had not when it was
    /// asked for, and that is the moment from which its holder counts.
    fn keep_alive(&self, lease: LeaseId, carried: Option<u64>, deadline: Instant) -> Result<Leased, Failure> {
        let body = json!({ "ID": self.etcd_lease(lease).to_string() });
        let answer = self.ask("lease/keepalive", &body, deadline, true, Some(lease))?;
        match self.fence_now(deadline)? {
            None | Some(Fence::Moving { .. }) => {}
            Some(Fence::Filling { id, .. }) if carried == Some(id) => {}
            Some(_) if planted(Bug::LeftOneRenews) => {}
            Some(fence) => return Err(fence.refusal()),
        }
        let strange = || Failure::unknown("etcd's answer is not to what was asked");
        match int_of(json::field(&answer, "result").ok_or_else(strange)?, "TTL") {
            0 => Err(Failure::NoLease { lease }),
            seconds => Ok(Leased { lease, ttl: Duration::from_secs(seconds) }),
        }
    }

    /// etcd does leases outside of transactions, so the fence is looked at a moment earlier or later: a lease that comes too late has no
    /// keys.
    fn fence_now(&self, deadline: Instant) -> Result<Option<Fence>, Failure> {
        let body = json!({ "key": self.key(FENCE) });
        let answer = self.ask("kv/range", &body, deadline, true, None)?;
        Ok(json::list(&answer, "kvs").first().and_then(|kv| self.record(kv)).map(|record| Fence::of(&record)))
    }

    /// Up to which revision changes are no history for who watches these keys: what was filled in behind a fence came from elsewhere.
    /// `None`: none is, as the fence is up, and whoever watches reads again.
    fn hidden_until(&self, keys: &KeyRange, deadline: Instant) -> Result<Option<Revision>, Failure> {
        if *keys == KeyRange::one(FENCE) || planted(Bug::FillingIsRead) {
            return Ok(Some(Revision(0)));
        }
        let get = |key: &[u8]| json!({ "request_range": { "key": self.key(key) } });
        let body = json!({ "compare": [], "success": [get(FENCE), get(FILLED)], "failure": [] });
        let answer = self.ask("kv/txn", &body, deadline, true, None)?;
        let first = |answer: &Value| {
            let found = json::field(answer, "response_range").map(|found| json::list(found, "kvs"));
            found.and_then(|kvs| self.record(kvs.first()?))
        };
        let responses = json::list(&answer, "responses");
        let (fence, filled) = (responses.first().and_then(first), responses.get(1).and_then(first));
        if fence.is_some_and(|fence| Fence::of(&fence).hides()) {
            return Ok(None);
        }
        Ok(Some(filled.map_or(Revision(0), |filled| filled.modified)))
    }

    fn status(&self) -> Result<Status, Failure> {
        let nothing = json!({});
        let deadline = Instant::now() + STATUS_WAIT * 2;
        let here = self.ask("maintenance/status", &nothing, deadline, true, None)?;
        let list = self.ask("cluster/member/list", &nothing, deadline, true, None)?;
        let members = json::list(&list, "members").iter().map(|member| {
            let is_learner = json::field(member, "isLearner").and_then(Value::as_bool).unwrap_or(false);
            let name = json::field(member, "name").and_then(Value::as_str).unwrap_or("").to_string();
            let urls =
                json::list(member, "clientURLs").iter().filter_map(|url| url.as_str().map(String::from)).collect();
            (Member { name, id: int_of(member, "ID") }, is_learner, urls)
        });
        let members: Vec<(Member, bool, Vec<String>)> = members.collect();
        let leader = int_of(&here, "leader");
        let voters: Vec<&(Member, bool, Vec<String>)> =
            members.iter().filter(|(_, is_learner, _)| !is_learner).collect();
        let alive = voters.iter().filter(|(_, _, urls)| self.http.is_there(urls, STATUS_WAIT)).count();
        // What says that a majority is there is that it answers; who else could be lost, that the others do.
        let confirmed =
            self.ask("kv/range", &json!({ "key": self.key(FENCE) }), Instant::now() + STATUS_WAIT * 2, true, None);
        let quorum = match &confirmed {
            Ok(_) => Quorum::Answers { losses_left: alive.saturating_sub(voters.len() / 2 + 1) },
            Err(failure) => Quorum::Lost { why: failure.to_string() },
        };
        let revision = json::header_revision(confirmed.as_ref().unwrap_or(&here)).unwrap_or_default();
        Ok(Status {
            kind: Kind::Etcd,
            leader: members
                .iter()
                .find(|(member, ..)| member.id == leader && leader != 0)
                .map(|(member, ..)| member.clone()),
            voters: voters.iter().map(|(member, ..)| member.clone()).collect(),
            standbys: members
                .iter()
                .filter(|(_, is_learner, _)| *is_learner)
                .map(|(member, ..)| member.clone())
                .collect(),
            term: int_of(&here, "raftTerm"),
            revision,
            quorum,
        })
    }
}

/// Where the leases of who uses this prefix are among all numbers: FNV-1a, of which one bit is left out, since etcd's numbers have a sign.
fn place_of_leases(prefix: &str) -> u64 {
    let hash = prefix
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash >> 1
}

fn is_empty(keys: &KeyRange) -> bool {
    keys.to.as_ref().is_some_and(|to| *to <= keys.from)
}

/// One watch, on its own thread.
struct Watching {
    inside: Arc<Inside>,
    keys: KeyRange,
    next: Revision,
    sink: Sink,
    closed: Arc<AtomicBool>,
    cancelled: Arc<AtomicBool>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.inside.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watching {
    fn is_over(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.closed.load(Ordering::Relaxed)
    }

    fn run(mut self) {
        while !self.is_over() {
            if let Err(failure) = self.follow() {
                if !self.is_over() {
                    (self.sink)(WatchEvent::Ended(failure));
                }
                return;
            }
            if !self.is_over() {
                self.inside.http.turn();
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Reads one stream until it breaks. An error is the watch's end.
    fn follow(&mut self) -> Result<(), Failure> {
        let body = json!({ "create_request": {
            "key": self.inside.key(&self.keys.from),
            "range_end": self.inside.end(&self.keys),
            "start_revision": self.next.0.to_string(),
        }});
        let inside = self.inside.clone();
        let Ok(mut stream) = inside.http.stream("watch", &body) else {
            return Ok(());
        };
        let mut quiet_since = Instant::now();
        while !self.is_over() {
            let message = match stream.next() {
                Ok(Some(message)) => message,
                Ok(None) if quiet_since.elapsed() < QUIET_MAX => continue,
                Ok(None) if stream.is_there(STATUS_WAIT) => {
                    quiet_since = Instant::now();
                    continue;
                }
                _ => return Ok(()),
            };
            quiet_since = Instant::now();
            let Some(result) = json::field(&message, "result") else {
                return Ok(());
            };
            let compacted = int_of(result, "compact_revision");
            if compacted > 0 {
                return Err(Failure::Compacted { revision: Revision(compacted.saturating_sub(1)) });
            }
            if json::field(result, "canceled").and_then(Value::as_bool) == Some(true) {
                let why = json::field(result, "cancel_reason").and_then(Value::as_str).unwrap_or("for no reason");
                return failure_of(why, None).map_or(Ok(()), Err);
            }
            if !self.tell(json::list(result, "events"))? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Says whether to go on with this stream: if not, it begins anew where it was.
    fn tell(&mut self, events: &[Value]) -> Result<bool, Failure> {
        let mut told: Vec<(Revision, Vec<Change>)> = vec![];
        for event in events {
            let Some(record) = json::field(event, "kv").and_then(|kv| self.inside.record(kv)) else {
                continue;
            };
            let revision = record.modified;
            if revision < self.next {
                continue;
            }
            let is_deletion = json::field(event, "type").and_then(Value::as_str) == Some("DELETE");
            let change = if is_deletion { Change::Deleted(record.key) } else { Change::Put(record) };
            match told.last_mut() {
                Some((last, changes)) if *last == revision => changes.push(change),
                _ => told.push((revision, vec![change])),
            }
        }
        let Some((first, _)) = told.first() else {
            return Ok(true);
        };
        // They have happened, so what is looked at now is not older than they are.
        match self.inside.hidden_until(&self.keys, Instant::now() + QUIET_MAX) {
            Ok(Some(hidden)) if hidden < *first => {}
            Ok(Some(hidden)) => return Err(Failure::Compacted { revision: hidden }),
            Ok(None) => return Err(Failure::Compacted { revision: *first }),
            Err(_) => return Ok(false),
        }
        for (revision, changes) in told {
            self.next = revision.next();
            (self.sink)(WatchEvent::Changed { revision, changes });
        }
        Ok(true)
    }
}
