//! The sound system over many seeds, and the same seed twice.

use sim::runs;

#[test]
fn all_seeds_are_in_order() {
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                for seed in (half..300).step_by(2) {
                    for run in runs::ALL {
                        if let Err(failure) = runs::play(run, seed) {
                            panic!("{failure}");
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn all_seeds_of_ways_are_in_order() {
    for seed in 0..150 {
        if let Err(failure) = runs::play(runs::Run::Ways, seed) {
            panic!("{failure}");
        }
    }
}

/// Seeds of one run, on both halves of a small machine.
fn are_in_order(run: runs::Run, seeds: u64) {
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                for seed in (half..seeds).step_by(2) {
                    if let Err(failure) = runs::play(run, seed) {
                        panic!("{failure}");
                    }
                }
            });
        }
    });
}

#[test]
fn all_seeds_of_many_nodes_are_in_order() {
    are_in_order(runs::Run::Wide, 28);
}

#[test]
fn all_seeds_of_many_nodes_with_journals_are_in_order() {
    are_in_order(runs::Run::Stored, 42);
}

#[test]
fn all_seeds_of_durable_processes_are_in_order() {
    are_in_order(runs::Run::Durable, 300);
}

#[test]
#[ignore = "ten thousand seeds of many nodes take most of an hour; for the night"]
fn ten_thousand_seeds_of_many_nodes_are_in_order() {
    for run in [runs::Run::Wide, runs::Run::Stored] {
        are_in_order(run, 10_000);
    }
}

#[test]
#[ignore = "ten thousand seeds take minutes; for the night"]
fn ten_thousand_seeds_of_disks_and_durable_processes_are_in_order() {
    for run in [runs::Run::Torn, runs::Run::Names, runs::Run::Durable] {
        are_in_order(run, 10_000);
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..10 {
        for run in runs::ALL.into_iter().chain([runs::Run::Stored, runs::Run::Durable]) {
            let [one, other] = [(), ()].map(|()| runs::play(run, seed).expect("these seeds are in order"));
            assert_eq!(one, other, "seed {seed}, {run:?}");
            hashes.insert(one.hash);
        }
    }
    assert_eq!(hashes.len(), 10 * (runs::ALL.len() + 2), "two seeds gave one history");
}
