//! Facts on the disk: what was waited for is there, many callers share a sync, and stores of others are refused with the reason.

use drivers::facts::{FORMAT_VERSION, Facts, FactsError, Write};
use redb::TableDefinition;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Barrier, Mutex};

fn write(key: &str, value: &str) -> Write {
    Write { key: key.into(), value: Some(value.into()) }
}

fn all(facts: &Facts) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    facts.read(&mut |key, value| drop(found.insert(text(key), text(value)))).unwrap();
    found
}

fn place() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn file(place: &tempfile::TempDir) -> std::path::PathBuf {
    place.path().join("facts.redb")
}

#[test]
fn what_was_waited_for_is_there_in_the_order_of_the_numbers() {
    let place = place();
    let facts = Facts::open(&file(&place)).unwrap();
    assert_eq!(facts.durable(), 0);
    facts.submit(1, vec![write("a", "1"), write("b", "1")]);
    facts.submit(2, vec![write("a", "2")]);
    facts.submit(5, vec![Write { key: "b".into(), value: None }, write("c", "5")]);
    assert_eq!(all(&facts), BTreeMap::new(), "nobody waited yet");
    facts.wait(2).unwrap();
    // Whoever waits does the work of all.
    assert_eq!((facts.durable(), facts.shared().commits, facts.shared().changes), (5, 1, 3));
    drop(facts);
    let facts = Facts::open(&file(&place)).unwrap();
    let expected = [("a", "2"), ("c", "5")].map(|(key, value)| (key.to_string(), value.to_string()));
    assert_eq!((all(&facts), facts.durable()), (expected.into(), 5));
    facts.wait(3).unwrap();
    assert!(facts.wait(6).unwrap_err().to_string().contains("nobody submitted"));
}

#[test]
fn many_callers_share_a_sync() {
    let place = place();
    let facts = Facts::open(&file(&place)).unwrap();
    let (callers, rounds) = (16, 30);
    let number = Mutex::new(0);
    let barrier = Barrier::new(callers);
    std::thread::scope(|scope| {
        for caller in 0..callers {
            let (facts, number, barrier) = (&facts, &number, &barrier);
            scope.spawn(move || {
                for round in 0..rounds {
                    // All have submitted before the first one waits.
                    let mine = {
                        let mut number = number.lock().unwrap();
                        *number += 1;
                        facts.submit(*number, vec![write(&format!("{caller}-{round}"), "done")]);
                        *number
                    };
                    barrier.wait();
                    facts.wait(mine).unwrap();
                    assert!(facts.durable() >= mine);
                    barrier.wait();
                }
            });
        }
    });
    let shared = facts.shared();
    assert_eq!((shared.commits, shared.changes), (rounds, rounds * callers as u64));
    assert_eq!(all(&facts).len() as u64, shared.changes);
}

#[test]
fn a_newer_format_is_refused() {
    let place = place();
    drop(Facts::open(&file(&place)).unwrap());
    {
        let database = redb::Database::open(file(&place)).unwrap();
        let transaction = database.begin_write().unwrap();
        let about: TableDefinition<&str, u64> = TableDefinition::new("about");
        transaction.open_table(about).unwrap().insert("format", FORMAT_VERSION + 1).unwrap();
        transaction.commit().unwrap();
    }
    let Err(error) = Facts::open(&file(&place)) else { panic!("it was opened") };
    assert!(matches!(error, FactsError::Newer { found, .. } if found == FORMAT_VERSION + 1), "{error:?}");
    assert!(error.to_string().contains("newer una"), "{error}");
}

#[test]
fn what_is_no_store_is_refused() {
    let place = place();
    let refused = |path: &Path| match Facts::open(path) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    };
    std::fs::write(file(&place), "not a database, but long enough to be looked at".repeat(500)).unwrap();
    let error = refused(&file(&place));
    assert!(matches!(error, FactsError::Damaged { .. }), "{error:?}");
    let error = refused(&place.path().join("none/facts.redb"));
    assert!(matches!(error, FactsError::Io { .. }), "{error:?}");
    let other = place.path().join("other.redb");
    let _held = Facts::open(&other).unwrap();
    assert!(matches!(refused(&other), FactsError::Locked { .. }));
}
