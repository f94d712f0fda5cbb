//! Every coordinator does the same: one voter, three voters asked by the leader, by another voter, by a standby and by a node that
//! is no member, and a real etcd.

#[path = "coordinator/conform.rs"]
mod conform;
#[path = "coordinator/disk.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod disk;
#[path = "coordinator/network.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod network;
#[path = "../../sim/src/random.rs"]
#[allow(dead_code, reason = "the simulator uses the rest")]
mod random;

use abi::ids::NodeId;
use conform::soon;
use drivers::coordinator::state::Limits;
use drivers::coordinator::{Action, Coordinator, Failure, KeyRange, Quorum, Range, Revision, Transaction, WatchEvent};
use network::Cluster;
use std::sync::mpsc::channel;
use std::time::Duration;

#[test]
fn one_voter_conforms() {
    let cluster = Cluster::of_voters(1, 1);
    conform::all(&*cluster.node(1));
}

#[test]
fn three_voters_conform_at_the_leader_and_beside_it() {
    let cluster = Cluster::of_voters(2, 3);
    let leader = cluster.leader();
    conform::all(&*cluster.node(leader));
    conform::all(&*cluster.node(leader % 3 + 1));
}

#[test]
fn standbys_and_strangers_conform() {
    let mut cluster = Cluster::of_voters(3, 1);
    let standby = cluster.start(2).unwrap();
    cluster.node(1).add(NodeId(2), soon()).unwrap();
    conform::all(&*standby);
    // No member: it asks those it knows.
    let stranger = cluster.start(3).unwrap();
    conform::all(&*stranger);
    let status = stranger.status();
    assert_eq!((status.voters.len(), status.standbys.len()), (1, 1), "{status:?}");
}

#[test]
fn what_is_compacted_is_told() {
    let mut cluster = Cluster::new(4);
    cluster.options.limits = Limits { history_changes_max: 20, ..Limits::NORMAL };
    cluster.start_voters(1);
    let stranger = cluster.start(2).unwrap();
    let node = cluster.node(1);
    for number in 0..50 {
        node.transact(Transaction::of(vec![Action::put("k", number.to_string())]), soon()).unwrap();
    }
    for asked in [&node, &stranger] {
        let (give, get) = channel();
        let _watch = asked.watch(KeyRange::all(), Revision(5), Box::new(move |event| drop(give.send(event)))).unwrap();
        match get.recv_timeout(Duration::from_secs(20)).unwrap() {
            WatchEvent::Ended(Failure::Compacted { revision }) => {
                assert_eq!(revision, Revision(31))
            }
            other => panic!("{other:?}"),
        }
    }
    // From what is still kept on, nothing is missing.
    let (give, get) = channel();
    let _watch = node.watch(KeyRange::all(), Revision(32), Box::new(move |event| drop(give.send(event)))).unwrap();
    for revision in 32..=51 {
        match get.recv_timeout(Duration::from_secs(20)).unwrap() {
            WatchEvent::Changed { revision: told, .. } => assert_eq!(told, Revision(revision)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_was_answered_is_there_after_a_restart() {
    let mut cluster = Cluster::new(5);
    cluster.options.entries_per_snapshot = 50;
    cluster.options.entries_kept = 10;
    cluster.start_voters(1);
    for round in 0..6 {
        let node = cluster.node(1);
        let lease = node.grant(Duration::from_secs(60), soon()).unwrap();
        for number in 0..40 {
            let key = format!("r{round}/{number:03}");
            node.transact(Transaction::of(vec![Action::put_leased(key, "v", lease)]), soon()).unwrap();
        }
        cluster.crash(1);
        let node = cluster.start(1).unwrap();
        let found = node.range(Range::prefix("r"), soon()).unwrap();
        assert_eq!(found.records.len(), (round + 1) * 40);
        assert!(node.keep_alive(lease, soon()).is_ok());
    }
}

#[test]
fn a_closed_one_says_so() {
    let cluster = Cluster::of_voters(6, 1);
    let node = cluster.node(1);
    node.transact(Transaction::of(vec![Action::put("k", "v")]), soon()).unwrap();
    node.close();
    let failure = node.range(Range::key("k"), soon()).unwrap_err();
    assert_eq!(failure, Failure::Closed);
    assert!(matches!(node.status().quorum, Quorum::Lost { .. }));
}
