//! The targets of the fuzzer (`daemon/fuzz`) with bytes from seeds: a small share of what `cargo fuzz` tries, where there is no fuzzer.
//!
//! `UNA_FUZZ_INPUTS=N` tries N times as many.

#[path = "fuzz/targets.rs"]
mod targets;

use std::collections::BTreeMap;
use targets::{Fate, Numbers};

/// Calls a target with inputs of many lengths; says how often which fate was met.
fn sample(inputs: u64, length_max: u64, target: fn(&[u8]) -> Fate) -> BTreeMap<Fate, usize> {
    let more: u64 =
        std::env::var("UNA_FUZZ_INPUTS").ok().map_or(1, |n| n.parse().expect("UNA_FUZZ_INPUTS is a number"));
    let mut fates = BTreeMap::new();
    for seed in 0..inputs * more {
        let seed_bytes = seed.to_le_bytes();
        let mut numbers = Numbers::new(&seed_bytes);
        let length = numbers.next() % length_max;
        let bytes: Vec<u8> = (0..length).map(|_| numbers.next() as u8).collect();
        let fate = std::panic::catch_unwind(|| target(&bytes)).unwrap_or_else(|_| panic!("seed {seed}: {bytes:?}"));
        *fates.entry(fate).or_default() += 1;
    }
    println!("{fates:?}");
    fates
}

#[test]
fn programs() {
    let fates = sample(150, 2000, targets::program);
    assert!(fates[&Fate::Refused] > 20 && fates[&Fate::Ended] > 10, "{fates:?}");
    targets::the_node_goes_on();
}

#[test]
fn calls() {
    let fates = sample(120, 4000, targets::calls);
    assert!(!fates.contains_key(&Fate::Refused), "{fates:?}");
    // Not all of them trip over the first stone.
    assert!(fates.get(&Fate::Ended).is_some_and(|ended| *ended > 20), "{fates:?}");
    targets::the_node_goes_on();
}

#[test]
fn protocol() {
    let fates = sample(20_000, 200, targets::protocol);
    assert!(fates[&Fate::Refused] > 1000 && fates[&Fate::Accepted] > 300, "{fates:?}");
}
