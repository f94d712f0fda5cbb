//! Each bug that is planted in membership on purpose is found within a few seeds. One test, because what is planted is planted in the
//! whole process.

use services::members::planted::{Bug, plant};
use sim::members::runs::{self, Trouble};

/// More than any bug needs; what needs more is hardly looked for.
const SEEDS_MAX: u64 = 900;

/// Under which trouble the bug shows, where that is only one: the rest need not be played.
fn showing(bug: Bug) -> Option<Trouble> {
    match bug {
        Bug::LatenessIgnored | Bug::AccusedNotTold | Bug::DownNotReached => Some(Trouble::LongPauses),
        Bug::NoIndirectProbes => Some(Trouble::Cuts),
        _ => None,
    }
}

#[test]
fn every_planted_bug_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = vec![];
    for bug in Bug::ALL {
        plant(Some(bug));
        let likely = |seed: &u64| showing(bug).is_none_or(|trouble| trouble == runs::trouble(*seed));
        match (0..SEEDS_MAX).filter(likely).find_map(|seed| runs::play(seed).err()) {
            Some(failure) => println!("{bug:?}: seed {} {:?}: {}", failure.seed, failure.trouble, failure.what.0),
            None => missed.push(bug),
        }
    }
    plant(None);
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not found within {SEEDS_MAX} seeds: {missed:?}");
}
