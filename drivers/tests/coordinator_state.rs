//! The state that commands lead to, beside a model that keeps a plain list of records and looks through all of it every time.

#[path = "../../sim/src/random.rs"]
mod random;

use drivers::coordinator::state::{Act, Command, Deed, Limits, Reply, SessionId, State};
use drivers::coordinator::{
    Action, Answer, Change, Compare, Failure, KeyRange, LeaseAct, LeaseId, Order, Range, Record, Revision, Transaction,
    With,
};
use random::Random;
use std::time::Duration;

#[derive(Clone, Default)]
struct Model {
    records: Vec<Record>,
    leases: Vec<LeaseId>,
    revision: u64,
    next_lease: u64,
    /// All changes there ever were.
    changes: Vec<(u64, String)>,
}

impl Model {
    fn find(&self, key: &[u8]) -> Option<&Record> {
        self.records.iter().find(|record| *record.key == *key)
    }

    fn holds(&self, compare: &Compare) -> bool {
        let record = self.find(&compare.key);
        let (ours, theirs): (Vec<u8>, Vec<u8>) = match (&compare.with, record) {
            (With::Value(_), None) => return false,
            (With::Value(value), Some(record)) => (record.value.to_vec(), value.to_vec()),
            (with, record) => {
                let number = match with {
                    With::Version(_) => record.map_or(0, |record| record.version),
                    With::Created(_) => record.map_or(0, |record| record.created.0),
                    With::Modified(_) => record.map_or(0, |record| record.modified.0),
                    _ => record.and_then(|record| record.lease).map_or(0, |lease| lease.0),
                };
                let wanted = match with {
                    With::Version(version) => *version,
                    With::Created(revision) | With::Modified(revision) => revision.0,
                    With::Lease(lease) => lease.map_or(0, |lease| lease.0),
                    With::Value(_) => unreachable!(),
                };
                (number.to_be_bytes().to_vec(), wanted.to_be_bytes().to_vec())
            }
        };
        match compare.order {
            Order::Equal => ours == theirs,
            Order::NotEqual => ours != theirs,
            Order::Less => ours < theirs,
            Order::Greater => ours > theirs,
        }
    }

    /// Deletes these keys, as a part of the next revision.
    fn delete(&mut self, mut gone: impl FnMut(&Record) -> bool) -> u64 {
        let next = self.revision + 1;
        let mut count = 0;
        self.records.sort_by(|a, b| a.key.cmp(&b.key));
        self.records.retain(|record| {
            let goes = gone(record);
            if goes {
                count += 1;
                self.changes.push((next, format!("-{}", String::from_utf8_lossy(&record.key))));
            }
            !goes
        });
        count
    }

    fn transact(&mut self, transaction: &Transaction) -> Result<(u64, bool, Vec<String>), Failure> {
        let succeeded = transaction.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &transaction.then } else { &transaction.otherwise };
        for action in branch {
            if let Action::Put { lease: Some(lease), .. } = action
                && !self.leases.contains(lease)
            {
                return Err(Failure::NoLease { lease: *lease });
            }
        }
        let next = self.revision + 1;
        let before = self.changes.len();
        let mut answers = vec![];
        for action in branch {
            answers.push(match action {
                Action::Put { key, value, lease } => {
                    let old = self.find(key).cloned();
                    self.records.retain(|record| record.key != *key);
                    let record = Record {
                        key: key.clone(),
                        value: value.clone(),
                        created: old.as_ref().map_or(Revision(next), |old| old.created),
                        modified: Revision(next),
                        version: old.map_or(1, |old| old.version + 1),
                        lease: *lease,
                    };
                    self.changes.push((next, format!("+{record:?}")));
                    self.records.push(record);
                    "put".to_string()
                }
                Action::Delete(keys) => {
                    format!("deleted {}", self.delete(|record| keys.has(&record.key)))
                }
                Action::Get(range) => {
                    let mut found: Vec<&Record> =
                        self.records.iter().filter(|record| range.keys.has(&record.key)).collect();
                    found.sort_by(|a, b| a.key.cmp(&b.key));
                    let more = range.limit > 0 && found.len() > range.limit;
                    found.truncate(if range.limit > 0 { range.limit } else { usize::MAX });
                    format!("{found:?} {more}")
                }
            });
        }
        if self.changes.len() > before {
            self.revision = next;
        }
        Ok((self.revision, succeeded, answers))
    }

    fn end(&mut self, lease: LeaseId) -> bool {
        if !self.leases.contains(&lease) {
            return false;
        }
        self.leases.retain(|other| *other != lease);
        if self.delete(|record| record.lease == Some(lease)) > 0 {
            self.revision += 1;
        }
        true
    }
}

fn key(random: &mut Random) -> Vec<u8> {
    let names: [&[u8]; 7] = [b"a", b"ab", b"b", b"b\0", b"c", b"\xff", b"\xff\xff"];
    random.pick(&names).unwrap().to_vec()
}

fn keys(random: &mut Random) -> KeyRange {
    match random.below(4) {
        0 => KeyRange::one(key(random)),
        1 => KeyRange::prefix(key(random)),
        2 => KeyRange::between(key(random), key(random)),
        _ => KeyRange { from: key(random).into(), to: None },
    }
}

fn action(random: &mut Random, leases: &[LeaseId]) -> Action {
    match random.below(6) {
        0..=2 => {
            let lease = if random.once_in(3) { random.pick(leases).copied() } else { None };
            let lease = if random.once_in(40) { Some(LeaseId(999)) } else { lease };
            Action::Put { key: key(random).into(), value: vec![random.below(4) as u8].into(), lease }
        }
        3 => Action::Delete(keys(random)),
        _ => Action::Get(Range::of(keys(random)).limit(random.below(4) as usize)),
    }
}

fn compare(random: &mut Random, model: &Model) -> Compare {
    let order = *random.pick(&[Order::Equal, Order::NotEqual, Order::Less, Order::Greater]).unwrap();
    let with = match random.below(5) {
        0 => With::Value(vec![random.below(4) as u8].into()),
        1 => With::Version(random.below(4)),
        2 => With::Created(Revision(random.below(model.revision + 2))),
        3 => With::Modified(Revision(random.below(model.revision + 2))),
        _ => With::Lease(if random.once_in(2) { random.pick(&model.leases).copied() } else { None }),
    };
    Compare::new(key(random), order, with)
}

fn shown(answer: &Answer) -> String {
    match answer {
        Answer::Put => "put".into(),
        Answer::Deleted { keys } => format!("deleted {keys}"),
        Answer::Found(found) => format!("{:?} {}", found.records.iter().collect::<Vec<_>>(), found.more),
    }
}

const LIMITS: Limits = Limits { history_changes_max: 40, answers_max: 64, sessions_max: 3, ..Limits::NORMAL };

#[test]
fn it_does_what_the_model_does() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut state = State::new(LIMITS);
        let mut model = Model { revision: 1, next_lease: 1, ..Model::default() };
        let Reply::Opened(session) = state.apply(&Command::Open) else { panic!() };
        // What was put on the disk, row by row.
        let mut rows = std::collections::BTreeMap::new();
        for sequence in 1..=400 {
            let deed = |act| Command::Do(Deed { session, sequence, settled: sequence, act });
            match random.below(10) {
                0 => {
                    let act = LeaseAct::Grant { ttl: Duration::from_secs(9), id: None };
                    let reply = state.apply(&deed(Act::Lease(act)));
                    let lease = LeaseId(model.next_lease);
                    model.next_lease += 1;
                    model.leases.push(lease);
                    assert!(matches!(reply, Reply::Leased(leased) if leased.lease == lease), "{reply:?}");
                }
                1 => {
                    let lease = random.pick(&model.leases).copied().unwrap_or(LeaseId(77));
                    if random.once_in(2) {
                        model.end(lease);
                        assert_eq!(state.apply(&Command::Expire(vec![lease])), Reply::Expired);
                    } else {
                        let reply = state.apply(&deed(Act::Lease(LeaseAct::Revoke(lease))));
                        assert_eq!(matches!(reply, Reply::Leased(_)), model.end(lease), "{reply:?}");
                    }
                }
                _ => {
                    let mut transaction = Transaction::new();
                    for _ in 0..random.below(3) {
                        transaction.compare.push(compare(&mut random, &model));
                    }
                    for _ in 0..random.below(5) {
                        transaction.then.push(action(&mut random, &model.leases));
                        transaction.otherwise.push(action(&mut random, &model.leases));
                    }
                    let reply = state.apply(&deed(Act::Transact(transaction.clone())));
                    if transaction.check().is_err() {
                        assert!(matches!(reply, Reply::Failed(Failure::Repeated { .. })), "{reply:?}");
                        continue;
                    }
                    match (model.transact(&transaction), reply) {
                        (Ok((revision, succeeded, answers)), Reply::Committed(committed)) => {
                            assert_eq!((committed.revision.0, committed.succeeded), (revision, succeeded));
                            assert_eq!(
                                committed.answers.iter().map(shown).collect::<Vec<_>>(),
                                answers,
                                "{transaction:?}"
                            );
                        }
                        (Err(expected), Reply::Failed(failure)) => assert_eq!(failure, expected),
                        (expected, reply) => {
                            panic!("{reply:?}, and not {expected:?}, of {transaction:?}")
                        }
                    }
                }
            }
            state.check().unwrap();
            assert_eq!(state.revision(), Revision(model.revision));
            let all = state.find(&Range::of(KeyRange::all()));
            model.records.sort_by(|a, b| a.key.cmp(&b.key));
            assert_eq!(all.records, model.records);
            told_is_what_happened(&state, &model);
            if random.once_in(30) {
                for (name, content) in state.take_touched() {
                    match content {
                        Some(content) => drop(rows.insert(name, content)),
                        None => drop(rows.remove(&name)),
                    }
                }
                let all: std::collections::BTreeMap<_, _> = state.rows().collect();
                assert_eq!(rows, all);
                let again = State::of_rows(LIMITS, rows.clone()).unwrap();
                again.check().unwrap();
                assert_eq!(format!("{again:?}"), format!("{state:?}"));
            }
        }
        // Without any one of its rows, it is none.
        for (name, _) in state.rows() {
            let without = state.rows().filter(|(other, _)| *other != name);
            assert!(State::of_rows(LIMITS, without).is_err(), "{}", name.escape_ascii());
        }
    }
}

fn told_is_what_happened(state: &State, model: &Model) {
    let from = state.compacted().next();
    let told = state.history(from).unwrap().flat_map(|changes| {
        changes.changes.iter().map(|change| {
            let shown = match change {
                Change::Put(record) => format!("+{record:?}"),
                Change::Deleted(key) => format!("-{}", String::from_utf8_lossy(key)),
            };
            (changes.revision.0, shown)
        })
    });
    let told: Vec<(u64, String)> = told.collect();
    let happened: Vec<(u64, String)> =
        model.changes.iter().filter(|(revision, _)| *revision >= from.0).cloned().collect();
    assert_eq!(told, happened);
    assert!(told.len() <= LIMITS.history_changes_max);
    if state.compacted() > Revision(0) {
        assert_eq!(state.history(Revision(1)).err(), Some(Failure::Compacted { revision: state.compacted() }));
    }
}

fn put(session: SessionId, sequence: u64, settled: u64) -> Command {
    let act = Act::Transact(Transaction::of(vec![Action::put("k", sequence.to_string())]));
    Command::Do(Deed { session, sequence, settled, act })
}

#[test]
fn a_deed_is_done_once_until_it_is_settled() {
    let mut state = State::new(LIMITS);
    let Reply::Opened(session) = state.apply(&Command::Open) else { panic!() };
    let first = state.apply(&put(session, 1, 1));
    let third = state.apply(&put(session, 3, 1));
    assert_ne!(first, third);
    // In any order, and as often as it likes.
    assert_eq!(state.apply(&put(session, 1, 1)), first);
    assert_eq!(state.apply(&put(session, 3, 1)), third);
    let second = state.apply(&put(session, 2, 1));
    assert!(matches!(&second, Reply::Committed(committed) if committed.revision == Revision(4)), "{second:?}");
    // What nobody will ask for is forgotten, and not done.
    state.apply(&put(session, 4, 3));
    assert_eq!(state.apply(&put(session, 2, 1)), Reply::Settled);
    assert_eq!(state.apply(&put(session, 3, 1)), third);
    assert_eq!(state.revision(), Revision(5));
    // Failures are remembered too.
    let lost = |sequence| {
        let act = Act::Lease(LeaseAct::Revoke(LeaseId(5)));
        Command::Do(Deed { session, sequence, settled: 3, act })
    };
    assert_eq!(state.apply(&lost(9)), Reply::Failed(Failure::NoLease { lease: LeaseId(5) }));
    let grant = Act::Lease(LeaseAct::Grant { ttl: Duration::from_secs(5), id: Some(LeaseId(5)) });
    state.apply(&Command::Do(Deed { session, sequence: 10, settled: 3, act: grant }));
    assert_eq!(state.apply(&lost(9)), Reply::Failed(Failure::NoLease { lease: LeaseId(5) }));
    // Who lets too many answers lie is refused, and nothing is done.
    for sequence in 11..100 {
        state.apply(&put(session, sequence, 3));
    }
    let revision = state.revision();
    assert!(matches!(state.apply(&put(session, 100, 3)), Reply::Failed(Failure::Unavailable { .. })));
    assert_eq!(state.revision(), revision);
    assert!(matches!(state.apply(&put(session, 100, 100)), Reply::Committed(_)));
}

#[test]
fn the_client_that_was_silent_longest_is_forgotten() {
    let mut state = State::new(LIMITS);
    let mut open = || match state.apply(&Command::Open) {
        Reply::Opened(session) => session,
        other => panic!("{other:?}"),
    };
    let (first, second, third) = (open(), open(), open());
    state.apply(&put(first, 1, 1));
    let Reply::Opened(fourth) = state.apply(&Command::Open) else { panic!() };
    assert_eq!(state.apply(&put(second, 1, 1)), Reply::NoSession);
    for session in [first, third, fourth] {
        assert!(matches!(state.apply(&put(session, 1, 1)), Reply::Committed(_)));
    }
    state.check().unwrap();
}

#[test]
fn a_full_store_takes_deletions_only() {
    let mut state = State::new(Limits { store_bytes_max: 1000, ..LIMITS });
    let Reply::Opened(session) = state.apply(&Command::Open) else { panic!() };
    let mut sequence = 0;
    let mut apply = |action: Action| {
        sequence += 1;
        state.apply(&Command::Do(Deed {
            session,
            sequence,
            settled: sequence,
            act: Act::Transact(Transaction::of(vec![action])),
        }))
    };
    assert!(matches!(apply(Action::put("a", [0; 600])), Reply::Committed(_)));
    assert!(matches!(apply(Action::put("b", [0; 600])), Reply::Failed(Failure::Full { .. })));
    assert!(matches!(apply(Action::delete("a")), Reply::Committed(_)));
    assert!(matches!(apply(Action::put("b", [0; 600])), Reply::Committed(_)));
}
