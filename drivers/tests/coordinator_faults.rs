//! Several voters under cuts, delays, doubles, crashes and lost power: what clients see can have been, whatever happens.

#[path = "coordinator/disk.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod disk;
#[path = "../../sim/src/checkers/linear.rs"]
mod linear;
#[path = "coordinator/nemesis.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod nemesis;
#[path = "coordinator/network.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod network;
#[path = "../../sim/src/random.rs"]
#[allow(dead_code, reason = "the simulator uses the rest")]
mod random;

use abi::ids::NodeId;
use drivers::coordinator::raft::Options;
use drivers::coordinator::{Action, Coordinator, Failure, Quorum, Range, Transaction};
use nemesis::Found;
use network::Cluster;
use std::time::{Duration, Instant};

/// More with `UNA_SEEDS`.
fn seeds(few: u64) -> u64 {
    std::env::var("UNA_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(few)
}

#[track_caller]
fn nothing_is_wrong(few: u64, look: fn(u64) -> Found) {
    for seed in 1..=seeds(few) {
        if let Err(what) = look(seed) {
            panic!("{what}");
        }
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn put(it: &dyn Coordinator, key: &str) -> Result<(), Failure> {
    it.transact(Transaction::of(vec![Action::put(key, "")]), soon()).map(drop)
}

#[test]
fn answers_fit_one_order() {
    nothing_is_wrong(4, nemesis::answers_fit_one_order);
}

#[test]
fn all_is_told_once_and_done_once() {
    nothing_is_wrong(3, nemesis::all_is_told_once_and_done_once);
}

#[test]
fn locks_have_one_holder() {
    nothing_is_wrong(2, nemesis::locks_have_one_holder);
}

#[test]
fn a_cut_leader_reads_nothing_old() {
    nothing_is_wrong(2, nemesis::a_cut_leader_reads_nothing_old);
}

#[test]
fn who_was_away_gets_all() {
    nothing_is_wrong(2, nemesis::who_was_away_gets_all);
}

#[test]
fn what_was_answered_survives_power_loss() {
    nothing_is_wrong(10, nemesis::what_was_answered_survives_power_loss);
}

#[test]
fn a_minority_refuses_and_says_why() {
    let cluster = Cluster::of_voters(1, 3);
    let leader = cluster.leader();
    put(&*cluster.node(leader), "before").unwrap();
    let (second, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.network.isolate(second);
    put(&*cluster.node(leader), "with two").unwrap();
    assert_eq!(wait_for(&cluster, leader, |quorum| matches!(quorum, Quorum::Answers { losses_left: 0 })), true);
    cluster.network.isolate(third);
    assert!(wait_for(&cluster, leader, |quorum| matches!(quorum, Quorum::Lost { .. })));
    let status = cluster.node(leader).status();
    let Quorum::Lost { why } = &status.quorum else { panic!("{status:?}") };
    assert!(why.contains("2 of 3 voters do not answer"), "{why}");
    let deadline = Instant::now() + Duration::from_millis(700);
    let refused = cluster.node(leader).transact(Transaction::of(vec![Action::put("lost", "")]), deadline);
    // It was known before that nothing could come of it, so nothing was begun.
    assert!(matches!(&refused, Err(Failure::Unavailable { why }) if why.contains("do not answer")), "{refused:?}");
    assert!(matches!(
        cluster.node(second).range(Range::key("before"), Instant::now() + Duration::from_millis(500)),
        Err(Failure::Unavailable { .. })
    ));
    // It heals by itself.
    cluster.network.heal();
    put(&*cluster.node(second), "after").unwrap();
    let found = cluster.node(third).range(Range::key("lost"), soon()).unwrap();
    assert_eq!(found.records, vec![]);
}

fn wait_for(cluster: &Cluster, node: u16, holds: impl Fn(&Quorum) -> bool) -> bool {
    let until = soon();
    while Instant::now() < until {
        if holds(&cluster.node(node).status().quorum) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn short_stalls_change_no_leader_and_a_lost_leader_is_replaced_in_time() {
    let mut cluster = Cluster::new(7);
    cluster.options = Options::normal();
    cluster.start_voters(3);
    let leader = cluster.leader();
    let term = cluster.node(leader).status().term;
    for _ in 0..3 {
        cluster.network.isolate(leader);
        std::thread::sleep(Duration::from_millis(300));
        cluster.network.heal();
        put(&*cluster.node(leader % 3 + 1), "k").unwrap();
    }
    let status = cluster.node(leader).status();
    assert_eq!((status.term, status.leader.map(|leader| leader.id as u16)), (term, Some(leader)));
    let mut times = vec![];
    for round in 0..3 {
        let leader = cluster.leader();
        let client = cluster.node(leader % 3 + 1);
        put(&*client, "k").unwrap();
        cluster.network.isolate(leader);
        let lost = Instant::now();
        put(&*client, &format!("r{round}")).unwrap();
        times.push(lost.elapsed());
        cluster.network.heal();
        cluster.leader();
    }
    println!("a lost leader's work went on after {times:?}");
    // Two seconds are promised on a machine that does nothing else; here, others run beside it.
    assert!(times.iter().all(|time| *time < Duration::from_secs(10)), "{times:?}");
}

#[test]
fn a_leader_that_has_ended_is_not_waited_for_as_one_that_is_silent() {
    let mut cluster = Cluster::new(11);
    // Long, so that what is told from the two is certain on any machine.
    cluster.options = Options { heartbeat: Duration::from_millis(2000), ..Options::normal() };
    cluster.start_voters(3);
    let leader = cluster.leader();
    let (second, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    put(&*cluster.node(second), "k").unwrap();
    // Who is heard is not replaced, whatever is said of it.
    let term = cluster.node(leader).status().term;
    cluster.node(second).ended(NodeId(leader));
    cluster.node(third).ended(NodeId(leader));
    let until = Instant::now() + cluster.options.promise() + cluster.options.heartbeat;
    while Instant::now() < until {
        put(&*cluster.node(third), "k").unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(cluster.node(leader).status().term, term);
    // Those that have lost it do not choose another before their promise to it is over, and then at once.
    let ended = Instant::now();
    cluster.crash(leader);
    cluster.node(second).ended(NodeId(leader));
    cluster.node(third).ended(NodeId(leader));
    put(&*cluster.node(second), "k").unwrap();
    let took = ended.elapsed();
    println!("a new leader after {took:?}");
    let promised = cluster.options.promise() - cluster.options.heartbeat;
    assert!(took > promised && took < cluster.options.silence() - cluster.options.heartbeat, "{took:?}");
}

#[test]
fn voters_come_and_go_while_work_goes_on() {
    let mut cluster = Cluster::of_voters(8, 1);
    let client = cluster.start(9).unwrap();
    let mut count = 0;
    let mut work = || {
        for _ in 0..20 {
            put(&*client, &format!("m/{count:04}")).unwrap();
            count += 1;
        }
    };
    work();
    for node in 2..=5 {
        cluster.start(node).unwrap();
    }
    let ids = |nodes: &[u16]| nodes.iter().copied().map(NodeId).collect::<Vec<_>>();
    client.set_voters(&ids(&[1, 2, 3]), soon()).unwrap();
    work();
    client.set_voters(&ids(&[1, 2, 3, 4, 5]), soon()).unwrap();
    work();
    // The first one leaves, whoever leads.
    client.remove(NodeId(1), soon()).unwrap();
    cluster.crash(1);
    work();
    client.set_voters(&ids(&[3, 4, 5]), soon()).unwrap();
    work();
    let names =
        |members: &[drivers::coordinator::Member]| members.iter().map(|member| member.name.clone()).collect::<Vec<_>>();
    // Whoever is no voter knows of them what a leader says, and there may be none at the moment.
    let deadline = soon();
    loop {
        let status = client.status();
        let found = (names(&status.voters), names(&status.standbys));
        if found == (ids_names(&[3, 4, 5]), ids_names(&[2])) {
            break;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    client.remove(NodeId(2), soon()).unwrap();
    // The same again changes nothing.
    client.remove(NodeId(2), soon()).unwrap();
    client.set_voters(&ids(&[3, 4, 5]), soon()).unwrap();
    let found = client.range(Range::prefix("m/"), soon()).unwrap();
    assert_eq!(found.records.len(), count);
    client.set_voters(&ids(&[4]), soon()).unwrap();
    client.remove(NodeId(3), soon()).unwrap();
    client.remove(NodeId(5), soon()).unwrap();
    let refused = client.remove(NodeId(4), soon());
    assert!(matches!(&refused, Err(Failure::Refused { why }) if why.contains("last voter")), "{refused:?}");
    put(&*client, "end").unwrap();
}

fn ids_names(nodes: &[u16]) -> Vec<String> {
    nodes.iter().map(|node| format!("n{node}")).collect()
}

#[test]
fn one_way_cuts_and_half_reached_leaders_are_worked_around() {
    let cluster = Cluster::of_voters(9, 3);
    let leader = cluster.leader();
    let (second, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    // The second does not reach the leader, but the third does, and passes on what it is asked.
    cluster.network.cut(second, leader);
    cluster.network.cut(leader, second);
    for number in 0..5 {
        put(&*cluster.node(second), &format!("k{number}")).unwrap();
    }
    cluster.network.heal();
    // The leader is heard by all and hears nobody: it must not be believed for ever.
    let leader = cluster.leader();
    for other in [leader % 3 + 1, (leader + 1) % 3 + 1] {
        cluster.network.cut(other, leader);
    }
    let _ = third;
    let refused = cluster.node(leader).range(Range::key("k0"), Instant::now() + Duration::from_millis(500));
    assert!(matches!(refused, Err(Failure::Unavailable { .. })), "{refused:?}");
    cluster.network.heal();
    put(&*cluster.node(leader), "end").unwrap();
}

#[test]
fn damage_is_found_or_does_no_harm() {
    let mut whole = Cluster::new(10);
    whole.options.entries_per_snapshot = 40;
    whole.options.entries_kept = 10;
    whole.start_voters(1);
    for number in 0..150 {
        let transaction = Transaction::of(vec![Action::put(format!("d/{number:03}"), format!("value {number}"))]);
        whole.node(1).transact(transaction, soon()).unwrap();
    }
    // What was written last could be taken for what a crash cut: it is nothing that matters here.
    put(&*whole.node(1), "last").unwrap();
    put(&*whole.node(1), "last").unwrap();
    let mut random = random::Random::new(10);
    let (mut found, mut harmless) = (0, 0);
    for _ in 0..120 {
        whole.crash(1);
        let files = whole.files(1);
        let saved: Vec<_> = files.iter().map(|(_, file)| file.copy()).collect();
        // The second file of the log has had no turn yet.
        let used: Vec<_> = files.iter().filter(|(_, file)| !file.copy().is_empty()).collect();
        let (_, file) = used[random.below(used.len() as u64) as usize];
        file.rot(random.below(file.used()));
        match whole.start(1) {
            Err(Failure::Damaged { .. }) => found += 1,
            Err(other) => panic!("{other:?}"),
            Ok(node) => match node.range(Range::prefix("d/"), soon()) {
                Ok(records) => {
                    assert_eq!(records.records.len(), 150);
                    for (number, record) in records.records.iter().enumerate() {
                        assert_eq!(*record.value, *format!("value {number}").as_bytes());
                    }
                    harmless += 1;
                }
                Err(failure) => panic!("{failure:?}"),
            },
        }
        whole.crash(1);
        for ((_, file), content) in files.iter().zip(saved) {
            file.restore(content);
        }
        whole.start(1).unwrap();
    }
    println!("{found} times damage was found, {harmless} times it did no harm");
    assert!(found > 20, "{found}");
}
