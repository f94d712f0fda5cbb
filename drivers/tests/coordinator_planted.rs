//! Each bug that is planted on purpose is found by what looks for bugs, within a few seeds. One test, because what is planted is
//! planted in the whole process.
//!
//! `cargo test --release -p una-drivers --features planted --test coordinator_planted`
#![cfg(feature = "planted")]

#[path = "coordinator/disk.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod disk;
#[path = "../../sim/src/checkers/linear.rs"]
mod linear;
#[path = "coordinator/moves.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
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

use drivers::coordinator::planted::{Bug, plant};
use nemesis::Found;

/// Who should find it, and within how many seeds.
fn finder(bug: Bug) -> (fn(u64) -> Found, u64) {
    match bug {
        Bug::AnswerBeforeSync => (nemesis::what_was_answered_survives_power_loss, 4),
        Bug::StaleRead => (nemesis::a_cut_leader_reads_nothing_old, 2),
        Bug::RetryDoneTwice | Bug::LostTakenForNotDone => (nemesis::all_is_told_once_and_done_once, 10),
        Bug::WatchSkipsBacklog => (nemesis::all_is_told_once_and_done_once, 3),
        Bug::FollowerEndsLeases | Bug::NewLeaderEndsLeases | Bug::KeepAliveForgotten => {
            (nemesis::locks_have_one_holder, 6)
        }
        Bug::SnapshotForgetsSessions => (nemesis::who_was_away_gets_all, 2),
        Bug::VoteNotSynced => (nemesis::a_vote_survives_power_loss, 3),
        Bug::LeftOneRenews | Bug::FillingIsRead => (|seed| between_two(seed, moves::what_was_left_is_not_believed), 1),
        Bug::MoveForgetsLeases => (|seed| between_two(seed, moves::leases_outlast_a_move), 2),
    }
}

fn between_two(seed: u64, look: fn(&moves::Store, &moves::Store) -> Found) -> Found {
    let (first, second) = (network::Cluster::of_voters(seed, 1), network::Cluster::of_voters(seed + 50, 1));
    let (a, b): (moves::Store, moves::Store) = (first.node(1), second.node(1));
    look(&a, &b)
}

#[test]
fn every_planted_bug_is_found() {
    let chosen = std::env::var("UNA_BUG").ok();
    let mut missed = vec![];
    for bug in Bug::ALL {
        if chosen.as_ref().is_some_and(|chosen| *chosen != format!("{bug:?}")) {
            continue;
        }
        let (find, seeds) = finder(bug);
        plant(Some(bug));
        // A panic is a finding too.
        let found = (1..=seeds).find_map(|seed| match std::panic::catch_unwind(|| find(seed)) {
            Ok(Ok(())) => None,
            Ok(Err(what)) => Some((seed, what)),
            Err(_) => Some((seed, "a panic".to_string())),
        });
        plant(None);
        match found {
            Some((seed, what)) => println!("{bug:?}: seed {seed}: {}", what.lines().next().unwrap_or("")),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "nobody finds {missed:?}");
}
