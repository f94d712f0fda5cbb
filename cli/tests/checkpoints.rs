//! Checkpoints by the real binary: kept, listed, gone on from, taken back to; damaged, killed in the middle, and after the loss of nodes.

mod house;

use house::{Done, House, programs, until};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A daemon that ends with this.
struct Daemon(House);

impl Daemon {
    fn new() -> Daemon {
        let house = House::new();
        house.program("count.wasm", &programs::counting(0, 3_000_000));
        let daemon = Daemon(house);
        daemon.up();
        daemon
    }

    fn up(&self) {
        let up = self.0.done(&["up", "-d", "--listen", "127.0.0.1"]);
        assert_eq!((up.status, up.err.as_str()), (0, ""), "{}", up.out);
    }

    /// As if the machine had lost its power, but for its disk.
    fn kill(&self) {
        let lock: Value = serde_json::from_str(&self.0.read("home/.local/share/una/node/node.lock")).unwrap();
        let pid = rustix::process::Pid::from_raw(lock["pid"].as_i64().unwrap() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        until("the daemon's end", || rustix::process::test_kill_process(pid).is_err().then_some(()));
    }

    #[track_caller]
    fn on(&self, arguments: &[&str]) -> Done {
        self.0.done(arguments)
    }

    /// A program that counts aloud, when it has counted so far.
    fn counting(&self, to: u32) -> String {
        let pid = self.on(&["run", "-d", "count.wasm"]).out.trim().to_string();
        self.counts_to(&pid, to);
        pid
    }

    fn counts_to(&self, pid: &str, to: u32) {
        until(&format!("{pid} to count to {to}"), || {
            numbers(&self.on(&["logs", pid]).out).last().filter(|last| **last >= to).map(|_| ())
        });
    }

    #[track_caller]
    fn checkpoint(&self, pid: &str) {
        let kept = self.on(&["checkpoint", pid]);
        assert!(kept.status == 0 && kept.out.contains(&format!("of process {pid}: ")), "{}{}", kept.out, kept.err);
    }

    fn listed(&self, arguments: &[&str]) -> Vec<Value> {
        let all = [&["checkpoints", "--json"], arguments].concat();
        let listed: Value = serde_json::from_str(&self.on(&all).out).unwrap();
        listed["checkpoints"].as_array().unwrap().clone()
    }

    /// The files in which chunks are.
    fn chunk_files(&self) -> Vec<PathBuf> {
        let mut all = vec![];
        let top = self.0.path("home/.local/share/una/node/tree/chunks");
        for directory in std::fs::read_dir(top).unwrap() {
            let files = std::fs::read_dir(directory.unwrap().path()).unwrap();
            all.extend(files.map(|file| file.unwrap().path()));
        }
        all.sort();
        all
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.done(&["down"]);
    }
}

/// All whole numbers that a program printed, each on its line.
fn numbers(out: &str) -> Vec<u32> {
    let whole = out.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Each number is the one before and one more: nothing was lost, doubled or reordered.
#[track_caller]
fn check_counted(out: &str) {
    let numbers = numbers(out);
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
}

#[test]
fn an_ended_process_goes_on_under_its_own_number() {
    let daemon = Daemon::new();
    let pid = daemon.counting(20);
    daemon.on(&["restore", &pid]).expect_error(1, &["has no checkpoint", "una checkpoints"]);
    daemon.checkpoint(&pid);
    let at = numbers(&daemon.on(&["logs", &pid]).out);
    daemon.on(&["restore", &pid]).expect_error(1, &["is living", "una undo"]);
    daemon.counts_to(&pid, at.last().unwrap() + 20);
    daemon.on(&["kill", &pid]).expect(0, "");
    assert_eq!(daemon.on(&["wait", &pid]).status, 137);
    let restored = daemon.on(&["restore", &pid]);
    assert!(restored.out.starts_with(&format!("process {pid} goes on from checkpoint 1, made ")), "{}", restored.err);
    daemon.counts_to(&pid, at.last().unwrap() + 60);
    check_counted(&daemon.on(&["logs", &pid]).out);
    let listed = daemon.on(&["ps", "--all"]).out;
    assert_eq!(listed.lines().filter(|line| line.split_whitespace().next() == Some(&pid)).count(), 1, "{listed}");
    // As another process, beside it.
    let other = daemon.on(&["restore", "--new", &pid]);
    let number = other.out.split_whitespace().nth(1).unwrap().to_string();
    assert!(other.status == 0 && number != pid, "{}{}", other.out, other.err);
    daemon.counts_to(&number, at.last().unwrap() + 20);
    check_counted(&daemon.on(&["logs", &number]).out);
    let events = daemon.on(&["events"]).out;
    assert!(events.contains("goes on on n1 from its checkpoint 1, as incarnation 1"), "{events}");
}

#[test]
fn a_living_process_is_taken_back() {
    let daemon = Daemon::new();
    let pid = daemon.counting(10);
    daemon.checkpoint(&pid);
    let at = *numbers(&daemon.on(&["logs", &pid]).out).last().unwrap();
    daemon.counts_to(&pid, at + 100);
    let undone = daemon.on(&["undo", &pid]);
    assert_eq!(undone.status, 0, "{}", undone.err);
    let back = until("it to go on", || {
        let out = daemon.on(&["logs", &pid]).out;
        let back = numbers(&out).windows(2).find(|pair| pair[1] <= pair[0]).map(|pair| (pair[0], pair[1]));
        back.filter(|_| out.lines().count() > 20)
    });
    assert!(back.0 >= at + 100 && back.1 <= at + 1, "{back:?} {at}");
    let again = daemon.on(&["restore", "--undo", &pid]);
    assert_eq!(again.status, 0, "{}", again.err);
    daemon.checkpoint(&pid);
    daemon.on(&["kill", &pid]).expect(0, "");
    daemon.on(&["wait", &pid]);
    daemon.on(&["undo", &pid]).expect_error(1, &["has ended", "una restore"]);
    daemon.on(&["checkpoint", &pid]).expect_error(1, &["has ended"]);
    daemon.on(&["checkpoint", "4711"]).expect_error(1, &["no process 4711"]);
}

#[test]
fn the_last_eight_are_kept_and_share_what_they_have_in_common() {
    let daemon = Daemon::new();
    let pid = daemon.counting(5);
    let named = daemon.on(&["checkpoint", &pid, "--name", "first"]);
    assert_eq!(named.status, 0, "{}", named.err);
    for _ in 0..9 {
        daemon.checkpoint(&pid);
    }
    let listed = daemon.listed(&[&pid]);
    let sequences: Vec<u64> = listed.iter().map(|one| one["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, [1, 4, 5, 6, 7, 8, 9, 10]);
    // The program is kept with the first one, and its memory has changed little since.
    let new: Vec<u64> = listed.iter().map(|one| one["made"]["new_bytes"].as_u64().unwrap()).collect();
    let bytes = listed[0]["made"]["bytes"].as_u64().unwrap();
    assert!(new[0] >= bytes && new[7] < 100_000, "{new:?} of {bytes}");
    let verified = daemon.listed(&["--verify", &pid]);
    assert!(verified.iter().all(|one| one["state"]["is"] == "whole"), "{verified:?}");
    daemon.on(&["checkpoint", &pid, "--name", "12"]).expect_error(1, &["cannot be the name"]);
    daemon.on(&["checkpoints", &pid, "--remove", "5"]).expect(0, "");
    daemon.on(&["checkpoints", &pid, "--remove", "5"]).expect_error(1, &["no checkpoint `5`"]);
    let left: Vec<u64> = daemon.listed(&[]).iter().map(|one| one["sequence"].as_u64().unwrap()).collect();
    assert_eq!(left, [1, 4, 6, 7, 8, 9, 10]);
    daemon.on(&["kill", &pid]).expect(0, "");
    daemon.on(&["wait", &pid]);
    let restored = daemon.on(&["restore", &format!("{pid}@first")]);
    assert!(restored.out.contains("from checkpoint 1"), "{}{}", restored.out, restored.err);
    // Nothing is left of what nobody needs.
    daemon.on(&["kill", &pid]).expect(0, "");
    daemon.on(&["checkpoints", &pid, "--remove-all"]).expect(0, "");
    until("all chunks to be removed", || daemon.chunk_files().is_empty().then_some(()));
    assert!(daemon.on(&["checkpoints"]).out.contains("nothing is kept"));
}

/// Changes one bit in the middle of a file.
fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_damaged_one_is_passed_over_and_that_is_said() {
    let daemon = Daemon::new();
    let pid = daemon.counting(5);
    daemon.checkpoint(&pid);
    let of_first = daemon.chunk_files();
    daemon.counts_to(&pid, 40);
    daemon.checkpoint(&pid);
    // What nobody needs any more may go until then.
    daemon.kill();
    let of_second: Vec<PathBuf> = daemon.chunk_files().into_iter().filter(|file| !of_first.contains(file)).collect();
    assert!(!of_second.is_empty());
    of_second.iter().for_each(|file| flip(file));
    daemon.up();
    let verified = daemon.on(&["checkpoints", "--verify", &pid]);
    assert!(verified.status == 1 && verified.out.contains("damaged: "), "{}", verified.out);
    let restored = daemon.on(&["restore", &pid]);
    assert_eq!(restored.status, 0, "{}", restored.err);
    assert!(restored.err.contains("an older one is used: checkpoint 2: "), "{}", restored.err);
    assert!(restored.out.contains("from checkpoint 1"), "{}", restored.out);
    daemon.counts_to(&pid, 60);
    check_counted(&daemon.on(&["logs", &pid]).out);
    daemon.on(&["kill", &pid]).expect(0, "");
    daemon.on(&["wait", &pid]);
    daemon.kill();
    of_first.iter().filter(|file| file.exists()).for_each(|file| flip(file));
    daemon.up();
    daemon
        .on(&["restore", &pid])
        .expect_error(1, &["no checkpoint of process", "can be used", "checkpoint 2", "checkpoint 1"]);
}

/// Wherever the daemon is killed, what is listed as kept can be gone on from.
#[test]
fn killed_in_the_middle_nothing_is_half_kept() {
    let daemon = Daemon::new();
    let pid = daemon.counting(5);
    daemon.checkpoint(&pid);
    for round in 0..6 {
        let keeps = daemon.0.start(&["checkpoint", &pid]);
        // At another point of it each time.
        let files = daemon.chunk_files().len();
        if round % 3 > 0 {
            let at = std::time::Instant::now();
            until("something to be written", || {
                (daemon.chunk_files().len() > files || at.elapsed().as_millis() > 300 * round / 3).then_some(())
            });
        }
        daemon.kill();
        let kept = keeps.end();
        daemon.up();
        let listed = daemon.listed(&["--verify", &pid]);
        assert!(listed.iter().all(|one| one["state"]["is"] == "whole"), "{listed:?}");
        assert!(kept.status != 0 || listed.len() > 1 || round > 0, "it was said to be kept: {}", kept.out);
        let restored = daemon.on(&["restore", &pid]);
        assert!(restored.status == 0 && restored.err.is_empty(), "{}{}", restored.out, restored.err);
        let last = *numbers(&daemon.on(&["logs", &pid]).out).last().unwrap();
        daemon.counts_to(&pid, last + 10);
        check_counted(&daemon.on(&["logs", &pid]).out);
    }
}
