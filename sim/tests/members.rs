//! Membership under many seeds, and the same seed twice.

use sim::members::{flat, runs};

/// What deaths took, in milliseconds, is printed.
fn are_in_order(seeds: std::ops::Range<u64>) {
    let halves = std::thread::scope(|scope| {
        let half = |half| {
            let seeds = seeds.clone();
            scope.spawn(move || {
                let mut all = runs::Seen::default();
                for seed in seeds.skip(half).step_by(2) {
                    match runs::play(seed) {
                        Ok((_, seen)) => {
                            all.killed_ns.extend(seen.killed_ns);
                            all.silent_ns.extend(seen.silent_ns);
                        }
                        Err(failure) => panic!("{failure}"),
                    }
                }
                all
            })
        };
        [half(0), half(1)].map(|half| half.join().expect("no seed fails"))
    });
    let show = |what: &str, of: fn(&runs::Seen) -> &Vec<u64>| {
        let mut all: Vec<u64> = halves.iter().flat_map(of).copied().collect();
        all.sort_unstable();
        let at = |part: usize| {
            all.get((all.len() * part / 1000).min(all.len().saturating_sub(1))).map_or(0, |ns| ns / 1_000_000)
        };
        println!("{what}: {} times told, p50 {} p99 {} p99.9 {} ms", all.len(), at(500), at(990), at(999));
    };
    show("killed", |seen| &seen.killed_ns);
    show("without power", |seen| &seen.silent_ns);
}

#[test]
fn all_seeds_are_in_order() {
    are_in_order(0..180);
}

#[test]
#[ignore = "ten thousand seeds take minutes; for the night"]
fn ten_thousand_seeds_are_in_order() {
    are_in_order(0..10_000);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..16 {
        let [one, other] = [(), ()].map(|()| runs::play(seed).expect("these seeds are in order").0);
        assert_eq!(one, other, "seed {seed}");
    }
}

/// What a node pays does not depend on how many there are. Ten thousand are played at night.
fn is_flat(sizes: &[usize]) {
    println!("{}", flat::HEADER);
    let rows: Vec<flat::Row> =
        sizes.iter().map(|nodes| flat::measure(*nodes, 1).expect("nothing goes wrong")).collect();
    rows.iter().for_each(|row| println!("{row}"));
    // Of nine, each tells all; from there on nothing may grow.
    let few = rows.iter().find(|row| row.nodes >= 9).expect("some are many");
    for row in rows.iter().filter(|row| row.nodes > few.nodes) {
        assert!(row.packets <= 1.3 * few.packets, "packets grow: {few} and then {row}");
        assert!(row.bytes <= 2.0 * few.bytes, "bytes grow: {few} and then {row}");
        assert!(row.packets_max <= 3.0 * few.packets, "one node sends much more than others: {row}");
    }
}

#[test]
fn the_cost_of_a_node_is_flat() {
    is_flat(&[3, 9, 100, 1000]);
}

#[test]
#[ignore = "takes minutes and gigabytes; for the night"]
fn the_cost_of_a_node_is_flat_in_huge_systems() {
    is_flat(&[3, 9, 30, 100, 300, 1000, 3000]);
}
