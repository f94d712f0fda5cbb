//! Each bug that is planted on purpose is found by some checker within a few seeds. One test, because what is planted is
//! planted in the whole process.

use sim::runs::{self, Run};

/// More than any bug needs; what needs more is hardly looked for.
const SEEDS_MAX: u64 = 300;

/// The same of runs that take a moment each.
const SHORT_SEEDS_MAX: u64 = 2000;

/// The first seed that finds what is planted, and what it says.
fn hunt(runs: &[Run]) -> Option<(u64, Run, String)> {
    let seeds_max = if *runs == [Run::Durable] { SHORT_SEEDS_MAX } else { SEEDS_MAX };
    (0..seeds_max).find_map(|seed| {
        runs.iter().find_map(|run| runs::play(*run, seed).err().map(|failure| (seed, *run, failure.what.0)))
    })
}

#[test]
fn every_planted_bug_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    let mut report = |name: String, found: Option<(u64, Run, String)>| match found {
        Some((seed, run, what)) => {
            let what: String = what.chars().take(100).collect();
            println!("{name:<24} seed {seed:>3} {run:?}: {}", what.lines().next().unwrap_or_default())
        }
        None => missed.push(name),
    };
    // `UNA_BUG=Moved` looks only for those whose names begin so.
    let wanted = std::env::var("UNA_BUG").unwrap_or_default();
    for bug in kernel::planted::Bug::ALL {
        let name = format!("{bug:?}");
        if !name.starts_with(&wanted) {
            continue;
        }
        kernel::planted::plant(Some(bug));
        // What moves does so in the cluster alone.
        let moves = ["Moved", "Way", "Handed", "Over", "Departs", "Grant"].iter().any(|kind| name.starts_with(kind));
        report(format!("kernel {name}"), if moves { hunt(&[Run::Ways, Run::Cluster]) } else { hunt(&runs::ALL) });
    }
    kernel::planted::plant(None);
    for bug in services::planted::Bug::ALL.into_iter().filter(|_| wanted.is_empty()) {
        services::planted::plant(Some(bug));
        report(format!("services {bug:?}"), hunt(&[Run::Torn, Run::Names]));
    }
    // What is on the disks of nodes that lose their power while others go on.
    for bug in [services::planted::Bug::EarlyAcknowledgement, services::planted::Bug::TailNotCut] {
        if format!("{bug:?}").starts_with(&wanted) {
            services::planted::plant(Some(bug));
            report(format!("stored {bug:?}"), hunt(&[Run::Stored]));
        }
    }
    services::planted::plant(None);
    for bug in services::durable::planted::Bug::ALL {
        let name = format!("{bug:?}");
        if name.starts_with(&wanted) {
            services::durable::planted::plant(Some(bug));
            report(format!("durable {name}"), hunt(&[Run::Durable]));
        }
    }
    services::durable::planted::plant(None);
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not found within {SEEDS_MAX} seeds: {missed:?}");
}
