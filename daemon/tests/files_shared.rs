//! The files of a computer of several nodes: one tree, whichever node dies. `tests/computer` says what can happen to them.

mod computer;

use abi::errno::Errno;
use abi::file::*;
use computer::*;
use daemon::files::{KeepAsk, KeepTold, SharedOptions};
use std::time::{Duration, Instant};

#[test]
fn everybody_sees_the_same() {
    scenarios::everybody_sees_the_same();
}

#[test]
fn a_late_word_of_a_lost_holder_changes_nothing() {
    scenarios::a_late_word_of_a_lost_holder_changes_nothing();
}

#[test]
fn a_holder_that_is_cut_off_tells_nothing_old() {
    scenarios::a_holder_that_is_cut_off_tells_nothing_old();
}

#[test]
fn what_is_asked_twice_is_done_once() {
    scenarios::what_is_asked_twice_is_done_once();
}

#[test]
fn an_open_file_without_a_name_survives_its_holder() {
    scenarios::an_open_file_without_a_name_survives_its_holder();
}

#[test]
fn synced_content_survives_any_one_disk() {
    scenarios::synced_content_survives_any_one_disk();
}

#[test]
fn a_crash_between_content_and_fact_leaves_the_old_file() {
    scenarios::a_crash_between_content_and_fact_leaves_the_old_file();
}

#[test]
fn a_removal_that_is_late_removes_nothing() {
    scenarios::a_removal_that_is_late_removes_nothing();
}

#[test]
fn nothing_acknowledged_is_lost_with_the_holder() {
    scenarios::nothing_acknowledged_is_lost_with_the_holder();
}

#[test]
fn without_a_majority_writers_are_told_and_it_heals() {
    let computer = Computer::with(2, SharedOptions { patience: Duration::from_secs(3), ..OPTIONS });
    let nodes: Vec<_> = computer.all().into_iter().map(|(node, _)| node).collect();
    let mut files = computer.session(computer.others()[0]);
    put(&mut files, "file", b"content").unwrap();
    computer.cut_coordinator(&nodes);
    assert_eq!(files.create_directory(OpenId(0), "made"), Err(Errno::TimedOut));
    assert_eq!(get(&mut files, "file"), Err(Errno::TimedOut));
    for (node, shared) in computer.all() {
        let complaints = shared.view().complaints;
        assert!(complaints.iter().any(|one| one.contains("no majority can be reached")), "{node}: {complaints:?}");
    }
    computer.cut_coordinator(&[]);
    until("it heals", || get(&mut files, "file") == Ok(b"content".to_vec()));
    put(&mut files, "file", b"more").unwrap();
}

/// A holder whose lease ran out goes on as if nothing had been, as long as nobody else was holder: a laptop that slept.
#[test]
fn a_short_loss_of_the_coordinator_costs_nothing() {
    let computer = Computer::of(1);
    let holder = computer.holder();
    let mut files = computer.session(holder);
    let file = files.open(OpenId(0), "file", &NEW).unwrap().id;
    files.write_at(file, b"not synced", 0).unwrap();
    let epoch = computer.node(holder).view().epoch;
    computer.cut_coordinator(&[holder]);
    std::thread::sleep(3 * OPTIONS.lease);
    computer.cut_coordinator(&[]);
    assert_eq!(files.content(file, 100), Ok(b"not synced".to_vec()));
    assert_eq!(files.sync(file, Durable::Everything), Ok(()));
    assert_eq!(computer.node(holder).view().epoch, epoch);
}

#[test]
fn a_change_that_does_not_fit_one_transaction_is_done_whole() {
    let computer = Computer::of(2);
    let mut files = computer.session(computer.others()[0]);
    // More pages than one transaction has room for.
    let content = pattern(300 * 65_536, 5);
    put(&mut files, "large", &content).unwrap();
    assert!(get(&mut files, "large").unwrap() == content);
    let first = computer.holder();
    computer.kill(first);
    assert!(get(&mut files, "large").unwrap() == content);
    files.unlink(OpenId(0), "large").unwrap();
    computer.start(first);
    computer.kill(computer.holder());
    assert_eq!(get(&mut computer.session(computer.all()[0].0), "large"), Err(Errno::NoEnt));
    let records = computer.memory.tree();
    assert!(records.len() < 10, "{} records are left", records.len());
}

/// Each copy counts, and what is asked for twice counts once; what is no file does not count.
#[test]
fn where_content_is_can_be_asked_on_any_node() {
    let computer = Computer::of(3);
    let (holder, asks) = (computer.holder(), computer.others()[0]);
    let content = pattern(20 * 65_536, 5);
    let mut files = computer.session(asks);
    put(&mut files, "large", &content).unwrap();
    put(&mut files, "small", b"with the facts").unwrap();
    files.create_directory(OpenId(0), "directory").unwrap();
    let located = |paths: &[&str]| {
        let paths = paths.iter().map(|path| path.to_string()).collect();
        match computer.node(asks).keep(&KeepAsk::Locate { paths }, Instant::now() + Duration::from_secs(10)) {
            Ok(KeepTold::Located { bytes, at }) => (bytes, at),
            other => panic!("{other:?}"),
        }
    };
    let bytes = content.len() as u64;
    let (found, at) = located(&["large", "nothing", "large", "directory", "", "directory/large"]);
    assert_eq!(found, bytes);
    let (here, there): (Vec<_>, Vec<_>) = at.into_iter().partition(|(node, _)| *node == holder);
    assert_eq!(here, [(holder, bytes)]);
    assert_eq!(there.iter().map(|(_, bytes)| bytes).sum::<u64>(), bytes);
    assert_eq!(located(&["small"]), (14, vec![]));
    assert_eq!(located(&["nothing"]), (0, vec![]));
}
