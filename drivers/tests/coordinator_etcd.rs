//! The same with a real etcd, which is the oracle; and moving between it and una's own voters.

#[path = "coordinator/conform.rs"]
mod conform;
#[path = "coordinator/disk.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod disk;
#[path = "../../sim/src/checkers/linear.rs"]
mod linear;
#[path = "coordinator/moves.rs"]
mod moves;
#[path = "coordinator/nemesis.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod nemesis;
#[path = "coordinator/network.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod network;
#[path = "../../sim/src/random.rs"]
#[allow(dead_code, reason = "the simulator uses the rest")]
mod random;
#[path = "coordinator/real.rs"]
mod real;

use conform::soon;
use drivers::coordinator::current::Current;
use drivers::coordinator::etcd::Etcd;
use drivers::coordinator::moved::{Move, Step, follow, move_to};
use drivers::coordinator::{
    Action, Compare, Coordinator, Failure, KeyRange, Quorum, Range, Revision, Transaction, WatchEvent,
};
use network::Cluster;
use real::Real;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn put(it: &dyn Coordinator, key: &str, value: &str) -> Result<Revision, Failure> {
    it.transact(Transaction::of(vec![Action::put(key, value)]), soon()).map(|committed| committed.revision)
}

fn ready(real: &mut Real, prefix: &str) -> Etcd {
    let etcd = Etcd::connect(&real.urls(), prefix).unwrap();
    real.wait(|| put(&etcd, "ready", "").is_ok() && matches!(etcd.status().quorum, Quorum::Answers { .. }));
    etcd
}

#[test]
fn a_real_etcd_conforms() {
    if !real::is_here() {
        return;
    }
    let mut real = Real::start(1);
    let etcd = ready(&mut real, "una/one/");
    conform::all(&etcd);
    // Two systems in one etcd know nothing of one another.
    let other = Etcd::connect(&real.urls(), "una/other/").unwrap();
    assert_eq!(other.range(Range::of(KeyRange::all()), soon()).unwrap().records, vec![]);
    put(&other, "mine", "").unwrap();
    other.transact(Transaction::of(vec![Action::Delete(KeyRange::all())]), soon()).unwrap();
    assert_eq!(etcd.range(Range::key("ready"), soon()).unwrap().records.len(), 1);
    // What somebody has compacted is told.
    let first = put(&etcd, "c", "1").unwrap();
    let second = put(&etcd, "c", "2").unwrap();
    real.post("/v3/kv/compaction", &format!("{{\"revision\":\"{}\"}}", second.0));
    for (from, compacted) in [(first, true), (second, false)] {
        let (give, get) = channel();
        let _watch = etcd.watch(KeyRange::one("c"), from, Box::new(move |event| drop(give.send(event)))).unwrap();
        match get.recv_timeout(Duration::from_secs(20)).unwrap() {
            WatchEvent::Ended(Failure::Compacted { revision }) => {
                assert!(compacted && revision < second)
            }
            WatchEvent::Changed { revision, .. } => assert!(!compacted && revision == second),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn three_etcds_are_asked_one_after_the_other() {
    if !real::is_here() {
        return;
    }
    let mut real = Real::start(3);
    let etcd = ready(&mut real, "una/");
    let status = etcd.status();
    assert_eq!((status.voters.len(), status.quorum), (3, Quorum::Answers { losses_left: 1 }));
    let start = put(&etcd, "w", "0").unwrap();
    let (give, get) = channel();
    let _watch = etcd.watch(KeyRange::one("w"), start, Box::new(move |event| drop(give.send(event)))).unwrap();
    let mut told = 0;
    // Whichever is lost, the others answer, and the watch goes on.
    for lost in 0..3 {
        real.kill(lost);
        let until = Instant::now() + Duration::from_secs(40);
        loop {
            match etcd.transact(Transaction::of(vec![Action::put("w", (lost + 1).to_string())]), soon()) {
                Ok(_) => break,
                // Its leader was lost in the middle of it.
                Err(Failure::Unknown { .. } | Failure::Unavailable { .. }) => {
                    assert!(Instant::now() < until)
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        let wanted = (lost + 1).to_string();
        loop {
            let WatchEvent::Changed { changes, .. } = get.recv_timeout(Duration::from_secs(40)).unwrap() else {
                panic!()
            };
            let drivers::coordinator::Change::Put(record) = &changes[0] else { panic!("{changes:?}") };
            told += 1;
            if *record.value == *wanted.as_bytes() {
                break;
            }
        }
        real.run(lost);
        real.wait(|| matches!(etcd.status().quorum, Quorum::Answers { losses_left: 1 }));
    }
    assert!(told >= 4);
    // Of one alone, nothing is accepted.
    real.kill(0);
    real.kill(1);
    let refused = etcd.transact(Transaction::of(vec![Action::put("w", "x")]), Instant::now() + Duration::from_secs(3));
    assert!(matches!(refused, Err(Failure::Unavailable { .. } | Failure::Unknown { .. })), "{refused:?}");
    assert!(matches!(etcd.status().quorum, Quorum::Lost { .. }));
}

#[test]
fn what_is_no_etcd_is_refused() {
    for bad in ["", "127.0.0.1:2379", "https://127.0.0.1:2379", "http://127.0.0.1", "http://127.0.0.1:2379/v3"] {
        assert!(matches!(Etcd::connect(&[bad.into()], "una/"), Err(Failure::Refused { .. })), "{bad}");
    }
    assert!(matches!(Etcd::connect(&[], "una/"), Err(Failure::Refused { .. })));
    let nobody = Etcd::connect(&["http://127.0.0.1:1".into()], "una/").unwrap();
    let deadline = Instant::now() + Duration::from_millis(300);
    let refused = nobody.transact(Transaction::of(vec![Action::put("k", "")]), deadline);
    assert!(matches!(refused, Err(Failure::Unavailable { .. })), "{refused:?}");
    assert!(matches!(nobody.status().quorum, Quorum::Lost { .. }));
}

fn filled(it: &dyn Coordinator) {
    for number in 0..300 {
        put(it, &format!("f/{number:04}"), &number.to_string()).unwrap();
    }
    let lease = it.grant(Duration::from_secs(600), soon()).unwrap();
    for number in 0..5 {
        let leased = Action::put_leased(format!("h/{number}"), "", lease);
        it.transact(Transaction::of(vec![leased]), soon()).unwrap();
    }
}

fn content(it: &dyn Coordinator) -> Vec<(Vec<u8>, Vec<u8>, bool)> {
    let found = it.range(Range::of(KeyRange::all()), soon()).unwrap();
    // What moving itself keeps begins so.
    let records = found.records.iter().filter(|record| !record.key.starts_with(b"\0"));
    records.map(|record| (record.key.to_vec(), record.value.to_vec(), record.lease.is_some())).collect()
}

/// Whether it takes changes now.
fn takes(it: &dyn Coordinator) -> bool {
    it.transact(Transaction::of(vec![Action::put("probe", "")]), soon()).is_ok()
}

/// Moves with a stop after each step: at every one of them, one and only one takes changes in the end.
fn moves(make: &dyn Fn() -> (Box<dyn Coordinator>, Box<dyn Coordinator>)) {
    type Stop = fn(Step) -> bool;
    let stops: [(&str, Stop); 7] = [
        ("never", |_| false),
        ("fenced", |step| step == Step::Fenced),
        ("emptied", |step| step == Step::Emptied),
        ("copied", |step| matches!(step, Step::Copied { .. })),
        ("compared", |step| matches!(step, Step::Compared { .. })),
        ("switched", |step| step == Step::Switched),
        ("opened", |step| step == Step::Opened),
    ];
    for (name, stop) in stops {
        let (from, to) = make();
        filled(&*from);
        let before = content(&*from);
        let stopped = Failure::unavailable("the one who moves died");
        let result = move_to(&*from, &*to, "new", &mut |step| {
            // While it goes on, neither of them takes changes; after the switch, the old one does not for ever.
            if !matches!(step, Step::Opened) {
                assert!(!takes(&*from), "{name} {step:?}");
                assert!(matches!(step, Step::Fenced) || !takes(&*to), "{name} {step:?}");
            }
            if stop(step) { Err(stopped.clone()) } else { Ok(()) }
        });
        let moved = match from.range(Range::key("f/0000"), soon()) {
            Err(Failure::Moved { to: told, id }) => {
                assert_eq!(told, "new");
                Some(id)
            }
            Ok(_) => None,
            Err(other) => panic!("{name}: {other:?}"),
        };
        match (name, &result) {
            ("never", Ok(Move { keys, .. })) => assert_eq!(*keys, Some(before.len() as u64)),
            ("switched" | "opened", Err(failure)) => {
                assert_eq!((failure, moved.is_some()), (&stopped, true))
            }
            (_, Err(failure)) => assert_eq!((failure, moved), (&stopped, None)),
            other => panic!("{other:?}"),
        }
        if let Some(id) = moved {
            // Whoever is told follows.
            follow(&*to, id).unwrap();
            assert!(matches!(put(&*from, "x", ""), Err(Failure::Moved { .. })));
            assert!(matches!(from.grant(Duration::from_secs(9), soon()), Err(Failure::Moved { .. })));
            assert_eq!(content(&*to), before, "{name}");
            assert!(takes(&*to) && !takes(&*from), "{name}");
            // Again, it says that it is done.
            assert_eq!(move_to(&*from, &*to, "new", &mut |_| Ok(())).unwrap(), Move { id, keys: None });
        } else {
            assert_eq!(content(&*from), before, "{name}");
            assert!(takes(&*from), "{name}");
            assert!(name == "fenced" || !takes(&*to), "{name}");
            // And it can be tried again.
            move_to(&*from, &*to, "new", &mut |_| Ok(())).unwrap();
            assert!(takes(&*to) && !takes(&*from), "{name}");
        }
        // Whoever asks again where the facts are already, asks where they are: nothing moves.
        assert_eq!(move_to(&*to, &*to, "new", &mut |_| Ok(())).unwrap().keys, None, "{name}");
        assert!(takes(&*to), "{name}");
    }
}

/// Stores between which the facts have been before: they come back, to where old ones are left.
fn returning(
    make: &dyn Fn() -> (Box<dyn Coordinator>, Box<dyn Coordinator>),
) -> (Box<dyn Coordinator>, Box<dyn Coordinator>) {
    let (first, second) = make();
    put(&*first, "old", "old").unwrap();
    let lease = first.grant(Duration::from_secs(600), soon()).unwrap();
    first.transact(Transaction::of(vec![Action::put_leased("old lease", "", lease)]), soon()).unwrap();
    move_to(&*first, &*second, "before", &mut |_| Ok(())).unwrap();
    second.transact(Transaction::of(vec![Action::delete("old")]), soon()).unwrap();
    (second, first)
}

/// Rafts of one node each, every one under a seed of its own; they live as long as this does.
struct Rafts {
    seed: AtomicU64,
    clusters: Mutex<Vec<Cluster>>,
}

impl Rafts {
    fn from(seed: u64) -> Rafts {
        Rafts { seed: AtomicU64::new(seed), clusters: Mutex::default() }
    }

    fn one(&self) -> Box<dyn Coordinator> {
        let cluster = Cluster::of_voters(self.seed.fetch_add(1, Ordering::Relaxed), 1);
        let node = cluster.node(1);
        self.clusters.lock().unwrap().push(cluster);
        Box::new(Shared(node))
    }
}

/// A real etcd that answers, if there is one on this machine.
fn answering() -> Option<Real> {
    if !real::is_here() {
        return None;
    }
    let mut real = Real::start(1);
    ready(&mut real, "una/ready/");
    Some(real)
}

fn etcd(real: &Real, prefix: &str) -> moves::Store {
    Arc::new(Etcd::connect(&real.urls(), prefix).unwrap())
}

#[test]
fn facts_move_from_one_raft_to_another() {
    let rafts = Rafts::from(100);
    moves(&|| (rafts.one(), rafts.one()));
    moves(&|| returning(&|| (rafts.one(), rafts.one())));
}

#[test]
fn facts_move_from_raft_to_etcd_and_back() {
    let Some(real) = answering() else { return };
    let rafts = Rafts::from(200);
    let prefixes = AtomicU64::new(1);
    let etcd = || -> Box<dyn Coordinator> {
        let number = prefixes.fetch_add(1, Ordering::Relaxed);
        Box::new(Etcd::connect(&real.urls(), &format!("una/{number}/")).unwrap())
    };
    moves(&|| (rafts.one(), etcd()));
    moves(&|| (etcd(), rafts.one()));
    moves(&|| returning(&|| (rafts.one(), etcd())));
    moves(&|| returning(&|| (etcd(), rafts.one())));
}

/// Two stores of each kind, to be told apart by what each of them does with what is left in it.
fn in_pairs(look: fn(&moves::Store, &moves::Store) -> nemesis::Found) {
    let (first, second) = (Cluster::of_voters(500, 1), Cluster::of_voters(501, 3));
    let right = |found: nemesis::Found| found.unwrap_or_else(|what| panic!("{what}"));
    let (a, b): (moves::Store, moves::Store) = (first.node(1), second.node(second.leader() % 3 + 1));
    right(look(&a, &b));
    let Some(real) = answering() else { return };
    let third = Cluster::of_voters(502, 1);
    let fourth = Cluster::of_voters(503, 1);
    let (c, d): (moves::Store, moves::Store) = (third.node(1), fourth.node(1));
    right(look(&c, &etcd(&real, "una/1/")));
    right(look(&etcd(&real, "una/2/"), &d));
}

#[test]
fn what_was_left_is_not_believed() {
    in_pairs(moves::what_was_left_is_not_believed);
}

#[test]
fn leases_outlast_a_move() {
    in_pairs(moves::leases_outlast_a_move);
}

#[test]
fn leases_come_back() {
    in_pairs(moves::leases_come_back);
}

#[test]
fn systems_that_share_an_etcd_share_no_leases() {
    let Some(real) = answering() else { return };
    moves::leases_of_others_are_not_ours(&etcd(&real, "una/1/"), &etcd(&real, "una/2/"))
        .unwrap_or_else(|what| panic!("{what}"));
}

#[test]
fn who_was_away_finds_the_facts() {
    let home = Cluster::of_voters(510, 1);
    let last = Cluster::of_voters(512, 1);
    let middle = Mutex::new(Some(Cluster::of_voters(511, 1)));
    let in_middle: moves::Store = middle.lock().unwrap().as_ref().unwrap().node(1);
    let (a, c): (moves::Store, moves::Store) = (home.node(1), last.node(1));
    let mut lose = || {
        middle.lock().unwrap().as_mut().unwrap().crash(1);
    };
    moves::who_was_away_finds_the_facts(&a, &in_middle, &c, &mut lose).unwrap_or_else(|what| panic!("{what}"));
}

/// More with `UNA_SEEDS`.
#[test]
fn answers_fit_one_order_while_facts_move_back_and_forth_and_all_are_killed() {
    let seeds = std::env::var("UNA_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2);
    for seed in 1..=seeds {
        let other = Cluster::of_voters(600 + seed, 1);
        let store: moves::Store = other.node(1);
        let found = moves::answers_fit_one_order_across_moves(seed, &store, &|| {
            std::thread::sleep(Duration::from_millis(200));
        });
        found.unwrap_or_else(|what| panic!("{what}"));
        let Some(real) = answering() else { continue };
        let etcd = etcd(&real, "una/1/");
        let random = Mutex::new(random::Random::new(seed));
        let real = Mutex::new(real);
        let found = moves::answers_fit_one_order_across_moves(seed + 100, &etcd, &|| {
            let (wait, away) = {
                let mut random = random.lock().unwrap();
                (random.below(3000), random.below(700))
            };
            std::thread::sleep(Duration::from_millis(wait));
            let mut real = real.lock().unwrap();
            real.kill(0);
            std::thread::sleep(Duration::from_millis(away));
            real.run(0);
        });
        found.unwrap_or_else(|what| panic!("{what}"));
    }
}

#[test]
fn a_move_is_refused_where_something_is_already() {
    let (first, second) = (Cluster::of_voters(300, 1), Cluster::of_voters(301, 1));
    let (from, to) = (first.node(1), second.node(1));
    filled(&*from);
    put(&*to, "there", "").unwrap();
    let refused = move_to(&*from, &*to, "new", &mut |_| Ok(())).unwrap_err();
    assert!(matches!(&refused, Failure::Refused { why } if why.contains("already")), "{refused:?}");
    assert!(takes(&*from) && takes(&*to));
    // Two who move at once: one of them does.
    to.transact(Transaction::of(vec![Action::Delete(KeyRange::all())]), soon()).unwrap();
    let mut second_result = None;
    move_to(&*from, &*to, "new", &mut |step| {
        if step == Step::Emptied {
            second_result = Some(move_to(&*from, &*to, "other", &mut |_| Ok(())));
        }
        Ok(())
    })
    .unwrap();
    assert!(matches!(second_result, Some(Err(Failure::Unavailable { .. }))), "{second_result:?}");
    let still = Transaction::new().when(Compare::exists("f/0000"));
    assert!(to.transact(still, soon()).unwrap().succeeded);
}

#[test]
fn who_asks_the_current_one_notices_no_move() {
    let (first, second) = (Cluster::of_voters(400, 1), Cluster::of_voters(401, 1));
    let (from, to) = (first.node(1), second.node(1));
    filled(&*from);
    let new: std::sync::Arc<dyn Coordinator> = to.clone();
    let current = Current::new(
        from.clone(),
        Box::new(move |name| {
            assert_eq!(name, "new");
            Ok(new.clone())
        }),
    );
    let (give, get) = channel();
    let watch = |from: Revision| {
        let give = give.clone();
        current.watch(KeyRange::prefix("w"), from, Box::new(move |event| drop(give.send(event)))).unwrap()
    };
    let _old = watch(current.status().revision.next());
    put(&current, "w1", "").unwrap();
    assert!(matches!(get.recv_timeout(Duration::from_secs(20)), Ok(WatchEvent::Changed { .. })));
    move_to(&*from, &*to, "new", &mut |_| Ok(())).unwrap();
    // The watch ends, though nobody asked anything; what is asked goes to the new one.
    let ended = get.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(matches!(ended, WatchEvent::Ended(Failure::Compacted { .. })), "{ended:?}");
    let revision = put(&current, "w2", "").unwrap();
    assert_eq!(to.range(Range::prefix("w"), soon()).unwrap().records.len(), 2);
    let _new = watch(revision);
    assert!(matches!(get.recv_timeout(Duration::from_secs(20)), Ok(WatchEvent::Changed { .. })));
    assert_eq!(current.moves(), 1);
    // One who begins with the old one, a day later.
    let new: std::sync::Arc<dyn Coordinator> = to.clone();
    let late = Current::new(from.clone(), Box::new(move |_| Ok(new.clone())));
    assert_eq!(late.range(Range::prefix("w"), soon()).unwrap().records.len(), 2);
    assert!(late.grant(Duration::from_secs(9), soon()).is_ok());
}

/// A node of a cluster, in a box.
struct Shared(std::sync::Arc<drivers::coordinator::raft::Raft>);

impl Coordinator for Shared {
    fn submit(
        &self, transaction: Transaction, deadline: Instant,
        done: drivers::coordinator::Done<drivers::coordinator::Committed>,
    ) {
        self.0.submit(transaction, deadline, done);
    }

    fn find(&self, range: Range, deadline: Instant, done: drivers::coordinator::Done<drivers::coordinator::Found>) {
        self.0.find(range, deadline, done);
    }

    fn lease(
        &self, act: drivers::coordinator::LeaseAct, deadline: Instant,
        done: drivers::coordinator::Done<drivers::coordinator::Leased>,
    ) {
        self.0.lease(act, deadline, done);
    }

    fn watch(
        &self, keys: KeyRange, from: Revision, sink: drivers::coordinator::Sink,
    ) -> Result<drivers::coordinator::Watch, Failure> {
        self.0.watch(keys, from, sink)
    }

    fn status(&self) -> drivers::coordinator::Status {
        self.0.status()
    }
}
