//! The targets of the fuzzer with bytes from seeds: a small share of what `cargo fuzz` tries, where there is no fuzzer.
//!
//! `UNA_FUZZ_INPUTS=N` tries N times as many.

mod suite;

use std::collections::BTreeMap;
use suite::fuzz::{self, Fate};
use suite::random::Numbers;

/// Calls a target with inputs of many lengths; says how often which fate was met.
fn sample(inputs: u64, length_max: u64, target: fn(&[u8]) -> Fate) -> BTreeMap<Fate, usize> {
    let more: u64 =
        std::env::var("UNA_FUZZ_INPUTS").ok().map_or(1, |n| n.parse().expect("UNA_FUZZ_INPUTS is a number"));
    let mut fates = BTreeMap::new();
    for seed in 0..inputs * more {
        let mut numbers = Numbers(seed);
        let length = numbers.below(length_max);
        let bytes = numbers.bytes(length as usize);
        let fate = std::panic::catch_unwind(|| target(&bytes)).unwrap_or_else(|_| panic!("seed {seed}: {bytes:?}"));
        *fates.entry(fate).or_default() += 1;
    }
    println!("{fates:?}");
    fates
}

#[test]
fn rewrite() {
    let fates = sample(2500, 3000, fuzz::rewrite);
    assert!(fates[&Fate::Accepted] > 100 && fates[&Fate::Refused] > 100, "{fates:?}");
}

#[test]
fn hops() {
    let fates = sample(120, 4000, fuzz::hops);
    assert!(fates[&Fate::Ran] > 30, "{fates:?}");
}

#[test]
fn image() {
    let fates = sample(4000, 40, fuzz::image);
    assert!(fates[&Fate::Ran] > 100 && fates[&Fate::Refused] > 1000, "{fates:?}");
}
