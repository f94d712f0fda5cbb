//! Clients that work, while somebody cuts, delays, doubles and crashes; and whether what they saw can have been.
//!
//! The one idea: each of these says in words what was wrong, so that it serves twice: nothing may be wrong, and with a bug planted
//! something must be.

use super::linear::{self, End, Operation, Sequential, Verdict};
use super::network::{Cluster, Faults};
use super::random::Random;
use abi::ids::NodeId;
use drivers::coordinator::{
    Action, Change, Compare, Coordinator, Failure, KeyRange, Range, Revision, Transaction, Watch, WatchEvent,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is wrong, or nothing.
pub type Found = Result<(), String>;

fn after(wait: Duration) -> Instant {
    Instant::now() + wait
}

fn soon() -> Instant {
    after(Duration::from_secs(30))
}

/// One key, as the clients see it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Register(Option<u32>);

#[derive(Clone, Debug)]
enum Act {
    Read,
    Write(u32),
    /// If it holds the first, put the second.
    Swap(u32, u32),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Value(Option<u32>),
    Done(bool),
}

impl Sequential for Register {
    type Request = Act;
    type Answer = Seen;

    fn apply(&mut self, act: &Act) -> Seen {
        match *act {
            Act::Read => Seen::Value(self.0),
            Act::Write(value) => {
                self.0 = Some(value);
                Seen::Done(true)
            }
            Act::Swap(old, new) => {
                let fits = self.0 == Some(old);
                if fits {
                    self.0 = Some(new);
                }
                Seen::Done(fits)
            }
        }
    }
}

fn value_of(record: &drivers::coordinator::Record) -> u32 {
    std::str::from_utf8(&record.value).unwrap().parse().unwrap()
}

fn attempt(it: &dyn Coordinator, key: &str, act: &Act, deadline: Instant) -> Result<Seen, Failure> {
    match act {
        Act::Read => {
            let found = it.range(Range::key(key), deadline)?;
            Ok(Seen::Value(found.records.first().map(value_of)))
        }
        Act::Write(value) => {
            it.transact(Transaction::of(vec![Action::put(key, value.to_string())]), deadline)?;
            Ok(Seen::Done(true))
        }
        Act::Swap(old, new) => {
            let swap =
                Transaction::new().when(Compare::value(key, old.to_string())).then(Action::put(key, new.to_string()));
            Ok(Seen::Done(it.transact(swap, deadline)?.succeeded))
        }
    }
}

/// Does something bad to a cluster every now and then, until the clients are done; then all is well again.
pub fn torment(cluster: &Mutex<Cluster>, seed: u64, voters: u16, done: &AtomicBool, crashes: bool) {
    let mut random = Random::new(seed);
    let network = cluster.lock().unwrap().network.clone();
    while !done.load(Ordering::Relaxed) {
        // The one that leads is the one to hurt.
        let all = cluster.lock().unwrap().all();
        let leader = all.iter().find_map(|node| node.status().leader).map(|leader| leader.id as u16);
        let victim = leader.filter(|_| random.once_in(2)).unwrap_or(1 + random.below(u64::from(voters)) as u16);
        match random.below(if crashes { 6 } else { 4 }) {
            0 => network.isolate(victim),
            1 => {
                let other = 1 + random.below(u64::from(voters)) as u16;
                network.cut(victim, other);
            }
            2 => network.set_faults(Faults { drops: 8, doubles: 6, delay_max: Duration::from_millis(30) }),
            3 => network.set_faults(Faults { drops: 0, doubles: 3, delay_max: Duration::from_millis(80) }),
            // All at once, or one.
            4 if random.once_in(3) => {
                let mut cluster = cluster.lock().unwrap();
                (1..=voters).for_each(|node| cluster.crash(node));
                for node in 1..=voters {
                    cluster.start(node).unwrap();
                }
            }
            _ => {
                let mut cluster = cluster.lock().unwrap();
                cluster.crash(victim);
                cluster.start(victim).unwrap();
            }
        }
        let pause = after(Duration::from_millis(100 + random.below(500)));
        while Instant::now() < pause && !done.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if random.once_in(2) {
            network.heal();
            network.set_faults(Faults::default());
        }
    }
    network.heal();
    network.set_faults(Faults::default());
}

/// Clients that read, write and swap a few keys, and what they saw.
pub struct Work {
    seed: u64,
    clock: AtomicU64,
    histories: Vec<Mutex<Vec<Operation<Act, Seen>>>>,
}

impl Work {
    pub fn new(seed: u64, keys: u64) -> Work {
        Work { seed, clock: AtomicU64::new(1), histories: (0..keys).map(|_| Mutex::default()).collect() }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// One client's work, each act at whomever `any` finds.
    pub fn client(&self, client: u64, rounds: u32, any: &dyn Fn(&mut Random) -> Option<Arc<dyn Coordinator>>) {
        let mut random = Random::new(self.seed * 100 + client);
        let mut seen: Vec<u32> = vec![0; self.histories.len()];
        for round in 0..rounds {
            let key = random.below(self.histories.len() as u64) as usize;
            let value = client as u32 * 1000 + round + 1;
            let act = match random.below(5) {
                0 | 1 => Act::Read,
                2 => Act::Write(value),
                _ => Act::Swap(seen[key], value),
            };
            // A node that crashed is not there for a moment.
            let Some(it) = any(&mut random) else { continue };
            let wait = Duration::from_millis(300 + random.below(1500));
            let asked = self.tick();
            let result = attempt(&*it, &format!("k{key}"), &act, after(wait));
            let at = self.tick();
            let end = match result {
                Ok(answer) => {
                    if let (Seen::Value(Some(value)), _) | (Seen::Done(true), Some(value)) = (&answer, &written(&act)) {
                        seen[key] = *value;
                    }
                    End::Answered { at, answer }
                }
                Err(Failure::Unavailable { .. } | Failure::Moved { .. }) => continue,
                // The node was closed in the middle of it, or says that it does not know.
                Err(_) if matches!(act, Act::Read) => continue,
                Err(_) => End::Unknown { limit: u64::MAX },
            };
            self.histories[key].lock().unwrap().push(Operation { request: act, asked, end });
        }
    }

    /// Whether one order explains all, and what is there now.
    pub fn judge(&self, it: &dyn Coordinator) -> Found {
        let seed = self.seed;
        for (key, history) in self.histories.iter().enumerate() {
            let mut history = history.lock().unwrap();
            let asked = self.tick();
            let answer = attempt(it, &format!("k{key}"), &Act::Read, soon()).map_err(|failure| failure.to_string())?;
            history.push(Operation { request: Act::Read, asked, end: End::Answered { at: self.tick(), answer } });
            let answered = history.iter().filter(|operation| matches!(operation.end, End::Answered { .. })).count();
            println!("seed {seed} k{key}: {} operations, {answered} answered", history.len());
            // Too many orders to try show nothing, and are no error.
            if linear::check(Register(None), &history) == Verdict::NotLinearizable {
                history.sort_by_key(|operation| operation.asked);
                let shown: Vec<String> = history.iter().map(|operation| format!("{operation:?}")).collect();
                return Err(format!("seed {seed}: no order explains k{key}:\n{}", shown.join("\n")));
            }
        }
        Ok(())
    }
}

/// Clients read, write and swap a few keys at any node; one order must explain all answers.
pub fn answers_fit_one_order(seed: u64) -> Found {
    let (voters, clients, rounds, keys) = (3u16, 5u64, 36u32, 3u64);
    let cluster = Mutex::new(Cluster::of_voters(seed, voters));
    cluster.lock().unwrap().start(4).unwrap();
    let (done, work) = (AtomicBool::new(false), Work::new(seed, keys));
    std::thread::scope(|scope| {
        let nemesis = scope.spawn(|| torment(&cluster, seed ^ 1, voters, &done, true));
        let working: Vec<_> = (0..clients)
            .map(|client| {
                let (cluster, work) = (&cluster, &work);
                scope.spawn(move || {
                    // A stranger is asked too.
                    work.client(client, rounds, &|random| {
                        let node = cluster.lock().unwrap().running(1 + random.below(4) as u16)?;
                        Some(node as Arc<dyn Coordinator>)
                    });
                })
            })
            .collect();
        working.into_iter().for_each(|client| client.join().unwrap());
        done.store(true, Ordering::Relaxed);
        nemesis.join().unwrap();
    });
    let cluster = cluster.into_inner().unwrap();
    let leader = cluster.node(cluster.leader());
    work.judge(&*leader)
}

fn written(act: &Act) -> Option<u32> {
    match act {
        Act::Read => None,
        Act::Write(value) | Act::Swap(_, value) => Some(*value),
    }
}

/// Each change is told to each watch once, in order, whoever tells it; and each transaction is done once, however often its
/// answer is lost.
pub fn all_is_told_once_and_done_once(seed: u64) -> Found {
    let voters = 3u16;
    let mut cluster = Cluster::new(seed);
    // Soon enough that who was away is sent the whole state.
    cluster.options.entries_per_snapshot = 40;
    cluster.options.entries_kept = 10;
    cluster.start_voters(voters);
    let stranger = cluster.start(4).unwrap();
    let cluster = Mutex::new(cluster);
    let told: Arc<Mutex<Vec<(u64, Vec<Change>)>>> = Arc::default();
    let sink = told.clone();
    let watch = |from: Revision, sink: Arc<Mutex<Vec<(u64, Vec<Change>)>>>| -> Watch {
        stranger
            .watch(
                KeyRange::prefix("u/"),
                from,
                Box::new(move |event| match event {
                    WatchEvent::Changed { revision, changes } => sink.lock().unwrap().push((revision.0, changes)),
                    WatchEvent::Ended(failure) => panic!("the watch ended: {failure}"),
                }),
            )
            .unwrap()
    };
    let _early = watch(Revision(1), sink);
    let (done, ended) = (AtomicBool::new(false), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        let nemesis = scope.spawn(|| torment(&cluster, seed ^ 2, voters, &done, true));
        let working: Vec<_> = (0..4)
            .map(|client| {
                let (cluster, ended) = (&cluster, &ended);
                scope.spawn(move || {
                    let mut random = Random::new(seed * 77 + client);
                    for round in 0..50 {
                        let node = 1 + random.below(4) as u16;
                        let Some(it) = cluster.lock().unwrap().running(node) else {
                            continue;
                        };
                        let key = format!("u/{client}/{round}");
                        let transaction = Transaction::of(vec![Action::put(&key, "")]);
                        let result = it.transact(transaction, after(Duration::from_millis(1500)));
                        ended.lock().unwrap().push((key, result.map(|committed| committed.revision)));
                    }
                })
            })
            .collect();
        working.into_iter().for_each(|client| client.join().unwrap());
        done.store(true, Ordering::Relaxed);
        nemesis.join().unwrap();
    });
    let cluster = cluster.into_inner().unwrap();
    let leader = cluster.node(cluster.leader());
    let last = Transaction::of(vec![Action::put("u/last", "")]);
    let last = leader.transact(last, soon()).map_err(|failure| failure.to_string())?.revision;
    let found = leader.range(Range::prefix("u/"), soon()).map_err(|failure| failure.to_string())?;
    for record in &found.records {
        if record.version != 1 {
            return Err(format!("seed {seed}: a transaction was done {} times: {record:?}", record.version));
        }
    }
    let there = |key: &str| found.records.iter().find(|record| *record.key == *key.as_bytes());
    for (key, result) in ended.into_inner().unwrap() {
        match (result, there(&key)) {
            (Ok(revision), Some(record)) if record.modified == revision => {}
            (Ok(revision), record) => {
                return Err(format!("seed {seed}: {key} was answered {revision}, and is {record:?}"));
            }
            (Err(Failure::Unavailable { why }), Some(record)) => {
                return Err(format!("seed {seed}: {record:?} was said not to be done: {why}"));
            }
            _ => {}
        }
    }
    // A second watch, from the middle of what is still kept, is told the same.
    let again: Arc<Mutex<Vec<(u64, Vec<Change>)>>> = Arc::default();
    let _late = watch(Revision(found.records[found.records.len() / 2].modified.0), again.clone());
    for events in [&told, &again] {
        let until = soon();
        while events.lock().unwrap().last().is_none_or(|(revision, _)| *revision < last.0) {
            if Instant::now() > until {
                return Err(format!("seed {seed}: a watch is not told of {last}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let mut expected: Vec<(u64, Vec<u8>)> =
        found.records.iter().map(|record| (record.modified.0, record.key.to_vec())).collect();
    expected.sort();
    for events in [told, again] {
        let events = events.lock().unwrap();
        let first = events[0].0;
        let flat = events
            .iter()
            .flat_map(|(revision, changes)| changes.iter().map(|change| (*revision, change.key().to_vec())));
        let flat: Vec<(u64, Vec<u8>)> = flat.collect();
        let wanted: Vec<(u64, Vec<u8>)> = expected.iter().filter(|(revision, _)| *revision >= first).cloned().collect();
        if flat != wanted {
            return Err(format!("seed {seed}: a watch was told {} changes, of {}", flat.len(), wanted.len()));
        }
    }
    Ok(())
}

/// Clients take a lock with a lease; while one may believe that it has it, no other gets it.
pub fn locks_have_one_holder(seed: u64) -> Found {
    let voters = 3u16;
    let cluster = Mutex::new(Cluster::of_voters(seed, voters));
    let (done, held) = (AtomicBool::new(false), Mutex::new(vec![]));
    let ttl = Duration::from_secs(1);
    let started = Instant::now();
    std::thread::scope(|scope| {
        // Crashes would take the clients' nodes away too; cuts are worse for leases.
        let nemesis = scope.spawn(|| torment(&cluster, seed ^ 3, voters, &done, false));
        for client in 0..3u64 {
            let (cluster, held, done) = (&cluster, &held, &done);
            scope.spawn(move || {
                let mut random = Random::new(seed * 33 + client);
                while !done.load(Ordering::Relaxed) {
                    let Some(it) = cluster.lock().unwrap().running(1 + random.below(3) as u16) else {
                        continue;
                    };
                    let asked = Instant::now();
                    let Ok(lease) = it.grant(ttl, after(Duration::from_millis(700))) else {
                        continue;
                    };
                    let take = Transaction::new().when(Compare::missing("lock")).then(Action::put_leased(
                        "lock",
                        client.to_string(),
                        lease,
                    ));
                    let taken = it.transact(take, after(Duration::from_millis(700)));
                    if !taken.is_ok_and(|committed| committed.succeeded) {
                        continue;
                    }
                    let taken = Instant::now();
                    let mut until = asked + ttl;
                    // Kept for a while, longer than it lasts by itself.
                    let keep = taken + Duration::from_millis(500 + random.below(2000));
                    while Instant::now() < keep.min(until) && !done.load(Ordering::Relaxed) {
                        let asked = Instant::now();
                        if let Ok(ttl) = it.keep_alive(lease, after(Duration::from_millis(300))) {
                            until = asked + ttl;
                        }
                        std::thread::sleep(Duration::from_millis(100));
                    }
                    // It says nothing: others find out by themselves.
                    held.lock().unwrap().push((taken, until, client));
                    while Instant::now() < until && !done.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_secs(8));
        done.store(true, Ordering::Relaxed);
        nemesis.join().unwrap();
    });
    let mut held = held.into_inner().unwrap();
    held.sort();
    println!("seed {seed}: the lock was held {} times", held.len());
    for pair in held.windows(2) {
        let ((_, until, first), (taken, _, second)) = (pair[0], pair[1]);
        // What was taken was asked for earlier, so a moment before it was given nobody else had it.
        if taken < until {
            return Err(format!(
                "seed {seed}: client {first} holds the lock until {:?}, and client {second} has it at {:?}",
                until - started,
                taken - started
            ));
        }
    }
    if held.is_empty() { Err(format!("seed {seed}: nobody ever held the lock")) } else { Ok(()) }
}

/// A leader that is cut off answers no reader with what is old by now.
pub fn a_cut_leader_reads_nothing_old(seed: u64) -> Found {
    let cluster = Cluster::of_voters(seed, 3);
    let old = cluster.leader();
    let put = |it: &dyn Coordinator, value: &str| it.transact(Transaction::of(vec![Action::put("k", value)]), soon());
    put(&*cluster.node(old), "1").map_err(|failure| failure.to_string())?;
    cluster.network.isolate(old);
    let new = cluster.leader_other_than(old);
    put(&*cluster.node(new), "2").map_err(|failure| failure.to_string())?;
    match cluster.node(old).range(Range::key("k"), after(Duration::from_millis(500))) {
        Ok(found) => {
            return Err(format!("seed {seed}: a leader that was replaced reads {:?}", found.records));
        }
        Err(Failure::Unavailable { .. }) => {}
        Err(failure) => return Err(format!("seed {seed}: {failure}")),
    }
    // What is known here it may say, if that is what is asked for.
    let stale = cluster.node(old).range(Range::key("k").stale(), soon()).map_err(|failure| failure.to_string())?;
    assert_eq!(&*stale.records[0].value, b"1");
    cluster.network.heal();
    let found = cluster.node(old).range(Range::key("k"), soon()).map_err(|failure| failure.to_string())?;
    assert_eq!(&*found.records[0].value, b"2");
    Ok(())
}

/// Who was away for long is sent the whole state, and then has it all.
pub fn who_was_away_gets_all(seed: u64) -> Found {
    let mut cluster = Cluster::new(seed);
    cluster.options.entries_per_snapshot = 30;
    cluster.options.entries_kept = 5;
    cluster.start_voters(3);
    let leader = cluster.leader();
    let away = leader % 3 + 1;
    cluster.network.isolate(away);
    let node = cluster.node(leader);
    for number in 0..200 {
        let transaction = Transaction::of(vec![Action::put(format!("s/{number}"), "v")]);
        node.transact(transaction, soon()).map_err(|failure| failure.to_string())?;
    }
    cluster.network.heal();
    let until = after(Duration::from_secs(20));
    loop {
        let found =
            cluster.node(away).range(Range::prefix("s/").stale(), soon()).map_err(|failure| failure.to_string())?;
        if found.records.len() == 200 {
            break;
        }
        if Instant::now() > until {
            return Err(format!("seed {seed}: who was away has {} records of 200", found.records.len()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // And it can lead.
    let other = (1..=3).find(|node| *node != leader && *node != away).unwrap();
    let voters = [NodeId(away), NodeId(other)];
    cluster.node(leader).set_voters(&voters, soon()).map_err(|failure| failure.to_string())?;
    Ok(())
}

/// A lone voter whose computer loses power has all that it answered.
pub fn what_was_answered_survives_power_loss(seed: u64) -> Found {
    let mut cluster = Cluster::new(seed);
    cluster.options.entries_per_snapshot = 25;
    cluster.start_voters(1);
    let mut random = Random::new(seed);
    let mut expected = 0;
    for _ in 0..12 {
        for _ in 0..random.below(20) {
            let transaction =
                Transaction::of(vec![Action::put(format!("p/{expected:05}"), vec![3; 1 + random.below(900) as usize])]);
            cluster.node(1).transact(transaction, soon()).map_err(|failure| failure.to_string())?;
            expected += 1;
        }
        cluster.crash(1);
        let node = cluster.start(1).map_err(|failure| format!("seed {seed}: {failure}"))?;
        let found = node.range(Range::prefix("p/"), soon()).map_err(|failure| failure.to_string())?;
        if found.records.len() != expected {
            return Err(format!("seed {seed}: {} of {expected} records are left", found.records.len()));
        }
    }
    Ok(())
}

/// A vote that was given is still given after the voter's computer lost power: else one term could have two leaders.
pub fn a_vote_survives_power_loss(seed: u64) -> Found {
    let mut cluster = Cluster::of_voters(seed, 3);
    for _ in 0..3 {
        let leader = cluster.leader();
        cluster.network.isolate(leader);
        let next = cluster.leader_other_than(leader);
        let term = cluster.node(next).status().term;
        // Whoever voted for it loses power, and hears from nobody for a while, nor asks.
        let voter = (1..=3).find(|node| *node != leader && *node != next).unwrap();
        cluster.crash(next);
        cluster.crash(voter);
        let heartbeat = std::mem::replace(&mut cluster.options.heartbeat, Duration::from_secs(5));
        let known = cluster.start(voter).map_err(|failure| failure.to_string())?.status().term;
        if known < term {
            return Err(format!("seed {seed}: n{voter} voted in term {term}, and knows only of term {known}"));
        }
        cluster.options.heartbeat = heartbeat;
        cluster.crash(voter);
        cluster.start(voter).map_err(|failure| failure.to_string())?;
        cluster.start(next).map_err(|failure| failure.to_string())?;
        cluster.network.heal();
    }
    Ok(())
}
