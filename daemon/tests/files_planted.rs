//! Each bug that is planted in the shared files on purpose is found by a scenario. One test, because what is planted is planted in
//! the whole process.
#![cfg(feature = "planted")]

mod computer;

use computer::scenarios;
use daemon::files::planted::{Bug, plant};

#[test]
fn every_planted_bug_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = vec![];
    for bug in Bug::ALL {
        plant(Some(bug));
        let found = scenarios::ALL.iter().find_map(|(name, scenario)| {
            let panic = std::panic::catch_unwind(scenario).err()?;
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
            Some((name, text))
        });
        match found {
            Some((name, what)) => println!("{bug:?}: {name}: {}", what.lines().next().unwrap_or_default()),
            None => missed.push(bug),
        }
    }
    plant(None);
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
