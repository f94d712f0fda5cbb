//! Each bug that is planted in names of ports on purpose is found within a few seeds. One test, because what is planted is planted in the
//! whole process.

#[expect(dead_code, reason = "only whole seeds are played")]
#[path = "bound/world.rs"]
mod world;

use services::registrar::planted::{Bug, plant};

/// More than any bug needs; what needs more is hardly looked for.
const SEEDS_MAX: u64 = 400;

#[test]
fn every_planted_bug_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = vec![];
    for bug in Bug::ALL {
        plant(Some(bug));
        match (0..SEEDS_MAX).find_map(|seed| world::play(seed).err().map(|what| (seed, what))) {
            Some((seed, what)) => println!("{bug:?}: seed {seed}: {}", what.lines().next().unwrap_or_default()),
            None => missed.push(bug),
        }
    }
    plant(None);
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not found within {SEEDS_MAX} seeds: {missed:?}");
}
