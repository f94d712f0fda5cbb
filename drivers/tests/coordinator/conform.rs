//! What every coordinator must do: each operation, each comparison, each error. It is given one, and knows nothing of how it keeps
//! the facts.
//!
//! The one idea: etcd is the oracle. A case that etcd does not pass is wrong, whatever we think of it.

use drivers::coordinator::{
    ACTIONS_MAX, Action, Answer, Change, Compare, Coordinator, FOUND_BYTES_MAX, FOUND_RECORDS_MAX, Failure,
    KEY_BYTES_MAX, KeyRange, LeaseAct, LeaseId, Leased, Order, Quorum, Range, Revision, TRANSACTION_BYTES_MAX, TTL_MAX,
    Transaction, VALUE_BYTES_MAX, WatchEvent, With,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A coordinator, and a part of its keys that no other case uses.
struct Case<'a> {
    it: &'a dyn Coordinator,
    prefix: String,
}

impl Case<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    #[track_caller]
    fn done(&self, transaction: Transaction) -> drivers::coordinator::Committed {
        self.it.transact(transaction, soon()).unwrap()
    }

    #[track_caller]
    fn put(&self, name: &str, value: &str) -> Revision {
        self.done(Transaction::of(vec![Action::put(self.key(name), value)])).revision
    }

    #[track_caller]
    fn delete(&self, name: &str) -> Revision {
        self.done(Transaction::of(vec![Action::delete(self.key(name))])).revision
    }

    /// Name=value of all that is there.
    #[track_caller]
    fn all(&self) -> Vec<String> {
        self.found(Range::prefix(&self.prefix)).0
    }

    #[track_caller]
    fn found(&self, range: Range) -> (Vec<String>, bool) {
        let found = self.it.range(range, soon()).unwrap();
        let shown = found.records.iter().map(|record| {
            let name = String::from_utf8_lossy(&record.key[self.prefix.len()..]).into_owned();
            format!("{name}={}", String::from_utf8_lossy(&record.value))
        });
        (shown.collect(), found.more)
    }

    #[track_caller]
    fn fails(&self, transaction: Transaction) -> Failure {
        self.it.transact(transaction, soon()).unwrap_err()
    }
}

/// Runs every case.
pub fn all(it: &dyn Coordinator) {
    type Test = fn(&Case);
    let cases: &[(&str, Test)] = &[
        ("revisions", revisions),
        ("comparisons", comparisons),
        ("branches", branches),
        ("ranges", ranges),
        ("long ranges", long_ranges),
        ("limits", limits),
        ("leases", leases),
        ("leases end", leases_end),
        ("watching", watching),
        ("watching long", watching_long),
        ("counting together", counting_together),
        ("late", late),
        ("status", status),
    ];
    for (name, case) in cases {
        let prefix = format!("t{}/", NEXT.fetch_add(1, Ordering::Relaxed));
        let started = Instant::now();
        case(&Case { it, prefix });
        println!("{name}: {:?}", started.elapsed());
    }
}

fn revisions(case: &Case) {
    let before = case.it.range(Range::key(case.key("a")), soon()).unwrap();
    assert_eq!(before.records, vec![]);
    assert!(before.revision >= Revision(1));
    let first = case.put("a", "1");
    assert!(first > before.revision);
    let second = case.put("a", "2");
    assert!(second > first);
    let found = case.it.range(Range::key(case.key("a")), soon()).unwrap();
    assert!(found.revision >= second);
    let record = &found.records[0];
    assert_eq!((&*record.key, &*record.value), (case.key("a").as_bytes(), &b"2"[..]));
    assert_eq!((record.created, record.modified, record.version, record.lease), (first, second, 2, None));
    // What is made again begins anew.
    let gone = case.delete("a");
    assert!(gone > second);
    let again = case.put("a", "");
    let found = case.it.range(Range::key(case.key("a")), soon()).unwrap();
    let record = &found.records[0];
    assert_eq!((record.created, record.modified, record.version, record.value.len()), (again, again, 1, 0));
    // What changes nothing has no revision.
    let nothing = case.done(Transaction::of(vec![Action::delete(case.key("none"))]));
    assert_eq!(nothing.answers, vec![Answer::Deleted { keys: 0 }]);
    let empty = case.done(Transaction::new());
    assert!(empty.succeeded && empty.answers.is_empty());
    let after = case.put("b", "");
    assert!(after > again);
    // Any byte can be in keys and values.
    let bytes: Vec<u8> = (0..=255).collect();
    let key = [case.key("z").as_bytes(), &bytes].concat();
    case.done(Transaction::of(vec![Action::put(&key, &bytes)]));
    let found = case.it.range(Range::key(&key), soon()).unwrap();
    assert_eq!((&*found.records[0].key, &*found.records[0].value), (&*key, &*bytes));
}

fn comparisons(case: &Case) {
    use Order::*;
    case.put("k", "b");
    let modified = case.put("k", "m");
    let lease = case.it.grant(Duration::from_secs(60), soon()).unwrap();
    let leased = Transaction::of(vec![Action::put_leased(case.key("l"), "", lease)]);
    let leased_at = case.done(leased).revision;
    let created = case.it.range(Range::key(case.key("k")), soon()).unwrap().records[0].created;
    let other = LeaseId(lease.0 + 1);
    let value = |value: &str| With::Value(value.as_bytes().into());
    let table: Vec<(&str, Order, With, bool)> = vec![
        ("k", Equal, value("m"), true),
        ("k", Equal, value("b"), false),
        ("k", NotEqual, value("b"), true),
        ("k", NotEqual, value("m"), false),
        ("k", Less, value("n"), true),
        ("k", Less, value("m"), false),
        ("k", Greater, value("l"), true),
        ("k", Greater, value("mm"), false),
        ("k", Equal, With::Version(2), true),
        ("k", Equal, With::Version(1), false),
        ("k", Greater, With::Version(1), true),
        ("k", Less, With::Version(2), false),
        ("k", NotEqual, With::Version(7), true),
        ("k", Equal, With::Created(created), true),
        ("k", Greater, With::Created(created), false),
        ("k", Equal, With::Modified(modified), true),
        ("k", Less, With::Modified(modified.next()), true),
        ("k", NotEqual, With::Modified(modified), false),
        ("k", Equal, With::Lease(None), true),
        ("k", Equal, With::Lease(Some(lease)), false),
        ("l", Equal, With::Lease(Some(lease)), true),
        ("l", NotEqual, With::Lease(Some(other)), true),
        ("l", Equal, With::Lease(None), false),
        ("l", Equal, With::Modified(leased_at), true),
        // What is not there.
        ("none", Equal, With::Version(0), true),
        ("none", Greater, With::Version(0), false),
        ("none", Equal, With::Created(Revision(0)), true),
        ("none", Equal, With::Modified(Revision(0)), true),
        ("none", Less, With::Modified(Revision(1)), true),
        ("none", Equal, With::Lease(None), true),
        ("none", Equal, value(""), false),
        ("none", NotEqual, value("x"), false),
        ("none", Less, value("x"), false),
    ];
    for (name, order, with, holds) in table {
        let transaction = Transaction::new().when(Compare::new(case.key(name), order, with.clone()));
        assert_eq!(case.done(transaction).succeeded, holds, "{name} {order:?} {with:?}");
    }
    // All have to hold.
    let both = |last: Compare| case.done(Transaction::new().when(Compare::exists(case.key("k"))).when(last)).succeeded;
    assert!(both(Compare::value(case.key("k"), "m")));
    assert!(!both(Compare::missing(case.key("l"))));
    assert!(both(Compare::unchanged(case.key("k"), modified)));
    assert!(both(Compare::unchanged(case.key("none"), Revision(0))));
    case.it.revoke(lease, soon()).unwrap();
}

fn branches(case: &Case) {
    case.put("a", "1");
    let transaction = |value: &str| {
        Transaction::new()
            .when(Compare::value(case.key("a"), value))
            .then(Action::get(case.key("a")))
            .then(Action::put(case.key("a"), "2"))
            .then(Action::put(case.key("b"), "2"))
            .then(Action::get(case.key("a")))
            .then(Action::Delete(KeyRange::prefix(case.key("c"))))
            .otherwise(Action::get(case.key("b")))
            .otherwise(Action::put(case.key("d"), "else"))
    };
    case.put("c1", "");
    case.put("c2", "");
    let done = case.done(transaction("1"));
    assert!(done.succeeded);
    assert_eq!(done.answers.len(), 5);
    assert_eq!((&done.answers[1], &done.answers[4]), (&Answer::Put, &Answer::Deleted { keys: 2 }));
    // A later action sees what an earlier one did, and all have one revision.
    assert_eq!(&*done.found(0).unwrap().records[0].value, b"1");
    let after = &done.found(3).unwrap().records[0];
    assert_eq!((&*after.value, after.modified), (&b"2"[..], done.revision));
    assert_eq!(case.all(), ["a=2", "b=2"]);
    let other = case.it.range(Range::key(case.key("b")), soon()).unwrap();
    assert_eq!((other.records[0].created, other.records[0].modified), (done.revision, done.revision));
    let done = case.done(transaction("1"));
    assert!(!done.succeeded);
    assert_eq!(&*done.found(0).unwrap().records[0].value, b"2");
    assert_eq!(done.answers[1], Answer::Put);
    assert_eq!(case.all(), ["a=2", "b=2", "d=else"]);
}

fn ranges(case: &Case) {
    for name in ["a", "b", "ba", "c", "d"] {
        case.put(name, name);
    }
    let between = |from: &str, to: &str| Range::of(KeyRange::between(case.key(from), case.key(to)));
    assert_eq!(case.found(between("b", "d")).0, ["b=b", "ba=ba", "c=c"]);
    assert_eq!(case.found(between("b", "b")).0, [""; 0]);
    assert_eq!(case.found(between("d", "a")).0, [""; 0]);
    assert_eq!(case.found(Range::prefix(case.key("b"))).0, ["b=b", "ba=ba"]);
    assert_eq!(case.found(Range::key(case.key("b"))).0, ["b=b"]);
    assert_eq!(case.found(Range::prefix(&case.prefix).limit(2)), (vec!["a=a".into(), "b=b".into()], true));
    assert_eq!(case.found(Range::prefix(&case.prefix).limit(5)).1, false);
    let everything = case.it.range(Range::of(KeyRange::all()), soon()).unwrap();
    assert!(everything.records.is_sorted_by(|a, b| a.key < b.key));
    assert!(everything.records.iter().any(|record| *record.key == *case.key("ba").as_bytes()));
    // What is known here may be old, but it is well formed.
    let stale = case.it.range(Range::prefix(&case.prefix).stale(), soon()).unwrap();
    assert!(stale.records.len() <= 5);
    let count = |range: KeyRange| case.done(Transaction::of(vec![Action::Delete(range)])).answers[0].clone();
    assert_eq!(count(KeyRange::between(case.key("b"), case.key("b"))), Answer::Deleted { keys: 0 });
    assert_eq!(count(KeyRange::between(case.key("a"), case.key("ba"))), Answer::Deleted { keys: 2 });
    assert_eq!(case.all(), ["ba=ba", "c=c", "d=d"]);
}

fn long_ranges(case: &Case) {
    // More records than one answer has.
    let count = FOUND_RECORDS_MAX + 10;
    let names: Vec<String> = (0..count).map(|number| case.key(&format!("n{number:06}"))).collect();
    for names in names.chunks(ACTIONS_MAX) {
        case.done(Transaction::of(names.iter().map(|name| Action::put(name, "")).collect()));
    }
    let mut seen = 0;
    let mut from = case.key("n").into_bytes();
    loop {
        let to = KeyRange::prefix(case.key("n")).to.unwrap();
        let found = case.it.range(Range::of(KeyRange::between(&from, &to)), soon()).unwrap();
        seen += found.records.len();
        assert!(found.records.len() <= FOUND_RECORDS_MAX);
        if !found.more {
            break;
        }
        from = [found.records.last().unwrap().key.as_ref(), &[0]].concat();
    }
    assert_eq!(seen, count);
    // More bytes than one answer has.
    let big = vec![7; VALUE_BYTES_MAX];
    for number in 0..4 {
        case.done(Transaction::of(vec![Action::put(case.key(&format!("b{number}")), &big)]));
    }
    let found = case.it.range(Range::prefix(case.key("b")), soon()).unwrap();
    assert!(found.more && !found.records.is_empty());
    let bytes: usize = found.records.iter().map(|record| record.key.len() + record.value.len()).sum();
    assert!(bytes <= FOUND_BYTES_MAX);
    let everything = Transaction::of(vec![Action::Delete(KeyRange::prefix(&case.prefix))]);
    assert_eq!(case.done(everything).answers, vec![Answer::Deleted { keys: count as u64 + 4 }]);
}

fn limits(case: &Case) {
    let put = |key: &[u8], value: &[u8]| Transaction::of(vec![Action::put(key, value)]);
    assert_eq!(case.fails(put(b"", b"")), Failure::EmptyKey);
    assert_eq!(case.fails(Transaction::new().when(Compare::exists(""))), Failure::EmptyKey);
    assert_eq!(case.fails(Transaction::of(vec![Action::get("")])), Failure::EmptyKey);
    let empty = Range::of(KeyRange { from: (*b"").into(), to: None });
    assert_eq!(case.it.range(empty, soon()), Err(Failure::EmptyKey));
    let long = [case.key("long").as_bytes(), &[b'x'; KEY_BYTES_MAX]].concat();
    case.done(put(&long[..KEY_BYTES_MAX], b""));
    assert_eq!(case.it.range(Range::key(&long[..KEY_BYTES_MAX]), soon()).unwrap().records.len(), 1);
    assert!(matches!(case.fails(put(&long[..KEY_BYTES_MAX + 1], b"")), Failure::TooLarge { .. }));
    case.done(put(case.key("big").as_bytes(), &[1; VALUE_BYTES_MAX]));
    assert!(matches!(case.fails(put(case.key("big").as_bytes(), &[1; VALUE_BYTES_MAX + 1])), Failure::TooLarge { .. }));
    let many =
        |count: usize| Transaction::of((0..count).map(|n| Action::put(case.key(&format!("m{n}")), "")).collect());
    case.done(many(ACTIONS_MAX));
    assert!(matches!(case.fails(many(ACTIONS_MAX + 1)), Failure::TooLarge { .. }));
    let heavy =
        (0..3).map(|n| Action::put(case.key(&format!("h{n}")), vec![0; TRANSACTION_BYTES_MAX / 3 + 1])).collect();
    assert!(matches!(case.fails(Transaction::of(heavy)), Failure::TooLarge { .. }));
    let twice = Transaction::of(vec![Action::put(case.key("t"), "1"), Action::put(case.key("t"), "2")]);
    assert_eq!(case.fails(twice), Failure::Repeated { key: case.key("t").into() });
    let put_and_delete =
        Transaction::of(vec![Action::put(case.key("t"), "1"), Action::Delete(KeyRange::prefix(&case.prefix))]);
    assert_eq!(case.fails(put_and_delete), Failure::Repeated { key: case.key("t").into() });
    // In the branch that is not taken, too.
    let hidden = Transaction::new().otherwise(Action::put(case.key("t"), "")).otherwise(Action::put(case.key("t"), ""));
    assert_eq!(case.fails(hidden), Failure::Repeated { key: case.key("t").into() });
    // Two deletions of one key are none too many.
    case.done(Transaction::of(vec![Action::delete(case.key("m0")), Action::delete(case.key("m0"))]));
    assert_eq!(case.found(Range::key(case.key("t"))).0, [""; 0]);
    case.done(Transaction::of(vec![Action::Delete(KeyRange::prefix(&case.prefix))]));
}

fn leases(case: &Case) {
    let lease = case.it.grant(Duration::from_secs(60), soon()).unwrap();
    assert!(case.it.keep_alive(lease, soon()).unwrap() >= Duration::from_secs(59));
    for name in ["a", "b", "c"] {
        case.done(Transaction::of(vec![Action::put_leased(case.key(name), name, lease)]));
    }
    let found = case.it.range(Range::key(case.key("a")), soon()).unwrap();
    assert_eq!(found.records[0].lease, Some(lease));
    // Put without it, a key stays.
    case.put("c", "kept");
    let watch = Watching::begin(case, found.revision.next());
    case.it.revoke(lease, soon()).unwrap();
    assert_eq!(case.all(), ["c=kept"]);
    assert_eq!(case.it.revoke(lease, soon()), Err(Failure::NoLease { lease }));
    assert_eq!(case.it.keep_alive(lease, soon()), Err(Failure::NoLease { lease }));
    // The keys go at once, in one revision.
    let mut deleted = 0;
    while deleted == 0 {
        let (_, changes) = watch.next();
        deleted = changes.iter().filter(|change| change.starts_with('-')).count();
    }
    assert_eq!(deleted, 2);
    // With a lease that is not, nothing is done.
    let transaction =
        Transaction::of(vec![Action::put(case.key("x"), ""), Action::put_leased(case.key("y"), "", lease)]);
    assert_eq!(case.fails(transaction), Failure::NoLease { lease });
    // Not even looked at, in the branch that is not taken.
    let other = Transaction::new().otherwise(Action::put_leased(case.key("y"), "", lease));
    assert!(case.done(other).succeeded);
    assert_eq!(case.all(), ["c=kept"]);
    for ttl in [Duration::ZERO, Duration::from_millis(999), TTL_MAX + Duration::from_secs(1)] {
        assert_eq!(case.it.grant(ttl, soon()), Err(Failure::BadTtl { ttl }));
    }
    // A number can be asked for.
    let wanted = LeaseId(0x7a00_0000 + NEXT.fetch_add(1, Ordering::Relaxed));
    let (give, get) = channel();
    for _ in 0..2 {
        let give = give.clone();
        let act = LeaseAct::Grant { ttl: Duration::from_secs(60), id: Some(wanted) };
        case.it.lease(act, soon(), Box::new(move |result| give.send(result).unwrap()));
    }
    let results = [get.recv().unwrap(), get.recv().unwrap()];
    assert!(results.iter().any(|result| matches!(result, Ok(Leased { lease, .. }) if *lease == wanted)), "{results:?}");
    assert!(results.contains(&Err(Failure::LeaseTaken { lease: wanted })), "{results:?}");
    case.it.revoke(wanted, soon()).unwrap();
}

fn leases_end(case: &Case) {
    let ttl = Duration::from_secs(2);
    let asked = Instant::now();
    let kept = case.it.grant(ttl, soon()).unwrap();
    let left = case.it.grant(ttl, soon()).unwrap();
    case.done(Transaction::of(vec![Action::put_leased(case.key("kept"), "", kept)]));
    case.done(Transaction::of(vec![Action::put_leased(case.key("left"), "", left)]));
    // One is kept alive, the other is not; that one goes by itself, and not before its time.
    let until = Instant::now() + Duration::from_secs(30);
    let mut renewed = Instant::now();
    while case.all() == ["kept=", "left="] {
        assert!(Instant::now() < until, "a lease does not end");
        if renewed.elapsed() > Duration::from_millis(400) {
            case.it.keep_alive(kept, soon()).unwrap();
            renewed = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(asked.elapsed() >= ttl, "{:?}", asked.elapsed());
    assert_eq!(case.all(), ["kept="]);
    assert_eq!(case.it.keep_alive(left, soon()), Err(Failure::NoLease { lease: left }));
    case.it.revoke(kept, soon()).unwrap();
}

/// A watch of a case's keys.
struct Watching {
    _watch: drivers::coordinator::Watch,
    events: Receiver<WatchEvent>,
    prefix: usize,
}

impl Watching {
    fn begin(case: &Case, from: Revision) -> Watching {
        let (give, events) = channel();
        let sink = Box::new(move |event| drop(give.send(event)));
        let watch = case.it.watch(KeyRange::prefix(&case.prefix), from, sink).unwrap();
        Watching { _watch: watch, events, prefix: case.prefix.len() }
    }

    /// The next revision and what it changed: `+key=value`, `-key`.
    #[track_caller]
    fn next(&self) -> (Revision, Vec<String>) {
        match self.events.recv_timeout(Duration::from_secs(30)) {
            Ok(WatchEvent::Changed { revision, changes }) => {
                let shown = changes.iter().map(|change| {
                    let name = String::from_utf8_lossy(&change.key()[self.prefix..]).into_owned();
                    match change {
                        Change::Put(record) => {
                            assert_eq!(record.modified, revision);
                            format!("+{name}={}", String::from_utf8_lossy(&record.value))
                        }
                        Change::Deleted(_) => format!("-{name}"),
                    }
                });
                (revision, shown.collect())
            }
            other => panic!("no event, but {other:?}"),
        }
    }
}

fn watching(case: &Case) {
    let first = case.put("a", "1");
    let second = case.put("b", "1");
    let early = Watching::begin(case, first);
    let late = Watching::begin(case, second);
    let future = Watching::begin(case, Revision(second.0 + 1));
    assert_eq!(early.next(), (first, vec!["+a=1".into()]));
    assert_eq!(early.next(), (second, vec!["+b=1".into()]));
    assert_eq!(late.next(), (second, vec!["+b=1".into()]));
    // Other keys are not told of, and what one revision changes is told at once.
    case.it.transact(Transaction::of(vec![Action::put(format!("u{}", case.prefix), "")]), soon()).unwrap();
    let actions = vec![Action::put(case.key("a"), "2"), Action::delete(case.key("b")), Action::put(case.key("c"), "2")];
    let both = case.done(Transaction::of(actions)).revision;
    for watch in [&early, &late, &future] {
        let (revision, mut changes) = watch.next();
        changes.sort();
        assert_eq!((revision, changes), (both, vec!["+a=2".into(), "+c=2".into(), "-b".into()]));
    }
    // What has a revision but no change among these keys is not told of; what is watched no more, neither.
    drop(late);
    let last = case.delete("a");
    assert_eq!(early.next(), (last, vec!["-a".into()]));
    assert_eq!(future.next(), (last, vec!["-a".into()]));
}

fn watching_long(case: &Case) {
    let start = case.put("start", "");
    let from_start = Watching::begin(case, start.next());
    let count = 300;
    let revisions: Vec<Revision> = (0..count).map(|number| case.put("k", &number.to_string())).collect();
    let from_middle = Watching::begin(case, revisions[150]);
    for number in 0..count {
        assert_eq!(from_start.next(), (revisions[number], vec![format!("+k={number}")]));
        if number >= 150 {
            assert_eq!(from_middle.next(), (revisions[number], vec![format!("+k={number}")]));
        }
    }
}

fn counting_together(case: &Case) {
    case.put("n", "0");
    let (threads, rounds) = (8, 25);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..rounds {
                    loop {
                        let found = case.it.range(Range::key(case.key("n")), soon()).unwrap();
                        let record = &found.records[0];
                        let number: u64 = std::str::from_utf8(&record.value).unwrap().parse().unwrap();
                        let transaction = Transaction::new()
                            .when(Compare::unchanged(case.key("n"), record.modified))
                            .then(Action::put(case.key("n"), (number + 1).to_string()));
                        if case.done(transaction).succeeded {
                            break;
                        }
                    }
                }
            });
        }
    });
    assert_eq!(case.all(), [format!("n={}", threads * rounds)]);
    let record = case.it.range(Range::key(case.key("n")), soon()).unwrap().records.remove(0);
    assert_eq!(record.version, threads * rounds + 1);
}

fn late(case: &Case) {
    let past = Instant::now();
    let transaction = Transaction::of(vec![Action::put(case.key("late"), "")]);
    assert!(matches!(case.it.transact(transaction, past), Err(Failure::Unavailable { .. })));
    assert!(matches!(case.it.range(Range::key(case.key("late")), past), Err(Failure::Unavailable { .. })));
    assert!(matches!(case.it.grant(Duration::from_secs(5), past), Err(Failure::Unavailable { .. })));
    assert_eq!(case.all(), [""; 0]);
}

fn status(case: &Case) {
    let revision = case.put("s", "");
    let status = case.it.status();
    assert!(status.leader.is_some(), "{status:?}");
    assert!(status.voters.contains(status.leader.as_ref().unwrap()), "{status:?}");
    assert!(status.term > 0 && status.revision >= revision, "{status:?}");
    let spare = (status.voters.len() - 1) / 2;
    assert_eq!(status.quorum, Quorum::Answers { losses_left: spare });
}
