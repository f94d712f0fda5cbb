//! Processes that outlive their ends and their nodes, by the real binary: restart policies, durable processes, and that never two live.

mod house;

use house::computer::Computer;
use house::{programs, until};

/// All whole numbers that a program printed, each on its line.
fn numbers(out: &str) -> Vec<u32> {
    let whole = out.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(|line| line.parse().ok()).collect()
}

fn started(computer: &Computer, node: usize, arguments: &[&str]) -> String {
    let done = computer.on(node, &[&["run", "-d"], arguments].concat());
    assert_eq!((done.status, done.err.as_str()), (0, ""), "{arguments:?} {}", done.out);
    done.out.trim().to_string()
}

#[test]
fn what_fails_is_begun_again_and_what_is_killed_is_not() {
    let computer = Computer::of(1);
    computer.nodes[0].program("exit7.wasm", &programs::exiting(7));
    computer.nodes[0].program("hello.wasm", &programs::hello());
    computer.nodes[0].program("count.wasm", &programs::counting(0, 3_000_000));
    let failing = started(&computer, 0, &["--restart", "on-failure", "exit7.wasm"]);
    until("it to be begun again", || {
        let events = computer.on(0, &["events"]).out;
        (events.matches(&format!("{failing} is begun again on n1")).count() >= 3).then_some(())
    });
    assert!(computer.on(0, &["events"]).out.contains("as incarnation 1: it had ended: exit 7"));
    let fine = started(&computer, 0, &["--restart", "on-failure", "hello.wasm"]);
    assert_eq!(computer.on(0, &["wait", &fine]).status, 0);
    let always = started(&computer, 0, &["--restart", "always", "hello.wasm"]);
    until("it to say it again", || {
        (computer.on(0, &["logs", &always]).out.matches("hello\n").count() >= 3).then_some(())
    });
    let count = started(&computer, 0, &["--restart", "always", "count.wasm"]);
    until("it to count", || (numbers(&computer.on(0, &["logs", &count]).out).len() > 5).then_some(()));
    computer.on(0, &["kill", &count]).expect(0, "");
    assert_eq!(computer.on(0, &["wait", &count]).status, 137);
    assert!(computer.living(0, &count).is_empty());
    assert_eq!(computer.on(0, &["logs", &fine]).out, "hello\n");
}

/// By the files of the system too, whether or not it lives at that moment, and from the other node.
#[test]
fn what_is_killed_by_its_file_is_not_begun_again() {
    let computer = Computer::of(2);
    computer.nodes[0].program("exit7.wasm", &programs::exiting(7));
    computer.nodes[0].program("count.wasm", &programs::counting(0, 3_000_000));
    for (from, program) in [("a", "exit7.wasm"), ("b", "exit7.wasm"), ("b", "count.wasm")] {
        let pid = started(&computer, 0, &["--restart", "always", "--on", "a", program]);
        let begun = || computer.on(0, &["events"]).out.matches(&format!("{pid} is begun again on n1")).count();
        // By now there is some time from its end to its next beginning.
        until("it to be begun again", || (program == "count.wasm" || begun() >= 6).then_some(()));
        computer.nodes[0].program("kill.wasm", &programs::telling(programs::PROC, &format!("{pid}/ctl"), "kill"));
        computer.on(0, &["run", "--on", from, "kill.wasm"]).expect(0, "");
        // Nobody is told of an end after which it is begun again.
        let over = computer.on(0, &["wait", &pid]).status;
        assert!([137, 7].contains(&over), "{program}: {over}");
        assert!(computer.living(0, &pid).is_empty());
    }
}

#[test]
fn it_runs_again_after_its_only_node_was_lost() {
    let computer = Computer::of(1);
    computer.nodes[0].program("count.wasm", &programs::counting(0, 3_000_000));
    let anew = started(&computer, 0, &["--restart", "on-failure", "count.wasm"]);
    let durable = started(&computer, 0, &["--durable", "--every", "0.2", "count.wasm"]);
    let count = |pid: &str| numbers(&computer.on(0, &["logs", pid]).out);
    until("both to count", || (count(&anew).len() > 10 && count(&durable).len() > 10).then_some(()));
    let seen = count(&durable);
    for round in 1..3 {
        computer.kill(0);
        computer.up(0);
        until("both to go on", || {
            let all = [&anew, &durable].map(|pid| computer.living(0, pid));
            all.iter().all(|one| one.first().is_some_and(|one| one["incarnation"] == round)).then_some(())
        });
        until("more to be seen", || (count(&durable).len() > seen.len() + 20 * round as usize).then_some(()));
        let now = count(&durable);
        assert_eq!(now[..seen.len()], seen[..]);
        assert!(now.windows(2).all(|pair| pair[1] == pair[0] + 1), "{now:?}");
    }
    // An orderly end is no reason to be over either.
    computer.on(0, &["down"]).expect(0, "una is down\n");
    computer.up(0);
    until("both to go on", || {
        let all = [&anew, &durable].map(|pid| computer.living(0, pid));
        all.iter().all(|one| one.len() == 1).then_some(())
    });
    computer.on(0, &["kill", &durable]).expect(0, "");
    let waited = computer.on(0, &["wait", &durable]);
    assert_eq!(waited.status, 137, "{}\n{}", waited.err, computer.on(0, &["events"]).out);
}

#[test]
fn a_durable_process_prints_and_changes_files_and_no_directory_of_a_machine() {
    let computer = Computer::of(1);
    computer.nodes[0].program("create.wasm", &programs::creating("new"));
    computer.nodes[0].program("hello.wasm", &programs::hello());
    computer.nodes[0].program("exit7.wasm", &programs::exiting(7));
    computer.on(0, &["run", "--durable", "create.wasm"]).expect(0, "");
    computer.on(0, &["ls", "una:/new"]).expect(0, "/new\n");
    computer.on(0, &["run", "--durable", "hello.wasm"]).expect(0, "hello\n");
    computer.on(0, &["run", "--durable", "exit7.wasm"]).expect(7, "");
    let una = r#"(module (import "una" "port_status" (func (param i32 i32) (result i32))) (memory (export "memory") 1) (func (export "_start")))"#;
    computer.nodes[0].program("una.wasm", una);
    // Ports go along: see the tests of `ports`.
    computer.on(0, &["run", "--durable", "una.wasm"]).expect(0, "");
    computer
        .on(0, &["run", "--durable", "--mount", ".=/here", "hello.wasm"])
        .expect_error(125, &["cannot be durable", "/here:ro"]);
    computer.on(0, &["run", "--every", "2", "hello.wasm"]).expect_error(125, &["--durable"]);
}

/// Whichever node dies, whatever anybody saw of a durable process is in its past, and it goes on.
#[test]
fn a_durable_process_outlives_its_node() {
    let computer = Computer::of(3);
    for node in &computer.nodes {
        node.program("count.wasm", &programs::counting(0, 3_000_000));
    }
    let durable = started(&computer, 0, &["--durable", "--every", "0.3", "--on", "b", "count.wasm"]);
    let anew = started(&computer, 0, &["--restart", "always", "--on", "b", "count.wasm"]);
    until("it to count", || (numbers(&computer.on(0, &["logs", &durable]).out).len() > 30).then_some(()));
    let seen = numbers(&computer.on(0, &["logs", &durable]).out);
    computer.kill(1);
    let home = until("it to go on elsewhere", || computer.home_of(0, &durable).filter(|home| *home != 1));
    until("more to be seen", || {
        (numbers(&computer.on(home, &["logs", &durable]).out).len() > seen.len() + 30).then_some(())
    });
    let now = numbers(&computer.on(home, &["logs", &durable]).out);
    assert_eq!(now[..seen.len()], seen[..]);
    assert!(now.windows(2).all(|pair| pair[1] == pair[0] + 1), "{now:?}");
    until("the other to be begun elsewhere", || computer.home_of(0, &anew).filter(|home| *home != 1));
    // The durable one has its claim for a fence, and need not wait for the lease of a node that nobody hears; the other one must.
    let why = |pid: &str| {
        let events = computer.on(0, &["events"]).out;
        let begun = format!("{pid} is begun again");
        events.lines().find(|line| line.contains(&begun)).map(String::from)
    };
    let durable_why = until("it to be told why", || why(&durable));
    assert!(durable_why.ends_with("nobody hears its node"), "{durable_why}");
    let anew_why = until("it to be told why", || why(&anew));
    assert!(anew_why.ends_with("its node was lost"), "{anew_why}");
    // Where each of them is was decided as for a process that begins.
    for pid in [&durable, &anew] {
        let there = computer.home_of(0, pid).map(|home| ["a", "b", "c"][home]).expect("it lives");
        let told = [&format!("process {pid}: on {there}, since b was lost"), "chosen", "a processor with it"];
        computer.on(2, &["why", pid]).expect_out(0, &told);
    }
    // The node comes back, and finds that others have taken over.
    computer.up(1);
    until("it to be there again", || (computer.status(0)["nodes"][1]["state"] == "up").then_some(()));
    assert_eq!(computer.home_of(0, &durable), Some(home));
}

/// Looks whether what a witness printed is what one run of it printed: its numbers in order, its clock never back, and the sum of all that
/// it saw what it said it saw. The first may be of any number, and the last may be cut off.
fn check_witness(out: &str) {
    let whole = out.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let mut before: Option<[u64; 5]> = None;
    for line in whole.lines() {
        let fields: Vec<u64> = line.split(' ').map(|field| u64::from_str_radix(field, 16).unwrap()).collect();
        let [number, random, clock, byte, sum] = fields.try_into().unwrap_or_else(|_| panic!("{line:?}"));
        assert_eq!(byte, u64::from(b'a') + number % 26, "{line}");
        if let Some([last, _, last_clock, _, last_sum]) = before {
            assert_eq!(number, last + 1, "{line}");
            assert!(clock >= last_clock, "{line}");
            let seen = random ^ clock ^ byte;
            assert_eq!(sum, last_sum.wrapping_mul(1_099_511_628_211).wrapping_add(seen), "{line}");
        }
        before = Some([number, random, clock, byte, sum]);
    }
}

/// What it prints is seen long before its next checkpoint, and whichever node dies it goes on with what it had seen until then: random
/// numbers, clocks, files, and how long it slept.
#[test]
fn a_durable_process_is_told_again_what_it_was_told() {
    let computer = Computer::of(3);
    computer.nodes[0].done_with(&["cp", "-", "una:/letters"], "abcdefghijklmnopqrstuvwxyz").expect(0, "");
    // So slow that the log has what was seen last for long enough: it keeps the newest.
    computer.nodes[0].program("witness.wasm", &programs::witnessing(2_000_000));
    // After the first there is no other checkpoint in this test.
    let pid = started(&computer, 0, &["--durable", "--every", "60", "--on", "b", "witness.wasm"]);
    let mut home = 1;
    let mut seen = String::new();
    for round in 0..3 {
        let last = seen.lines().last().unwrap_or_default().to_string();
        until("more to be seen", || {
            let now = computer.on(0, &["logs", &pid]).out;
            check_witness(&now);
            // Its sum stands for all before it.
            let new = now.find(&last).map_or("", |at| &now[at + last.len()..]);
            (new.lines().count() > 100).then(|| seen = now.rsplit_once('\n').map_or("", |(whole, _)| whole).into())
        });
        let checkpoints: serde_json::Value =
            serde_json::from_str(&computer.in_the_end(0, &["checkpoints", "--json", &pid]).out).unwrap();
        assert!(
            checkpoints["checkpoints"].as_array().unwrap().len() <= round + 2,
            "none but those at the beginning of each life"
        );
        if home == 0 {
            break;
        }
        computer.kill(home);
        let lost = home;
        home = until("it to go on elsewhere", || computer.home_of(0, &pid).filter(|home| *home != lost));
        computer.up(lost);
        until("it to be there again", || (computer.status(0)["nodes"][lost]["state"] == "up").then_some(()));
    }
    computer.on(0, &["kill", &pid]).expect(0, "");
}

/// What it writes into files and what it prints are one thing: whichever nodes die, neither has a line twice or lacks one, and what it made
/// and removed it made and removed once.
#[test]
fn a_durable_process_changes_files_once() {
    let computer = Computer::of(3);
    computer.nodes[0].program("book.wasm", &programs::bookkeeping(7_000, 2_000_000));
    let pid = started(&computer, 0, &["--durable", "--every", "1.5", "--on", "b", "book.wasm"]);
    // Asked where it lives.
    let shown = |from: usize| {
        let done = computer.on(computer.home_of(from, &pid)?, &["logs", &pid]);
        (done.status == 0).then_some(done.out)
    };
    let mut lines = 0;
    // Its own node, the one that holds the files, and one of the two again.
    for (round, own) in [true, false, true, true, false, true, false, true].into_iter().enumerate() {
        let seen = until("more to be printed", || shown(round % 3).filter(|now| now.lines().count() > lines + 12));
        lines = seen.lines().count();
        let victim = until("it to be known whom to kill", || match own {
            true => computer.home_of(round % 3, &pid),
            false => computer.status(round % 3)["files"]["holder"].as_u64().map(|number| number as usize - 1),
        });
        let from = (victim + 1) % 3;
        computer.kill(victim);
        until("it to be somewhere", || computer.home_of(from, &pid).filter(|home| *home != victim));
        let now = until("its log to be there", || shown(from).filter(|now| now.len() >= seen.len()));
        assert!(now.starts_with(&seen), "what was seen is not in its past");
        computer.up(victim);
        until("the node to be there again", || (0..3).all(|node| computer.is_whole(node, 3)).then_some(()));
    }
    let home = until("it to be somewhere", || computer.home_of(0, &pid));
    computer.on(home, &["kill", &pid]).expect(0, "");
    let printed = computer.in_the_end(home, &["logs", &pid]).out;
    let book = computer.in_the_end(0, &["cp", "una:/book", "-"]).out;
    // It may have been killed between the two.
    assert!(book.starts_with(&printed) && book.len() - printed.len() <= 34, "{} and {}", book.len(), printed.len());
    for (at, line) in book.lines().enumerate() {
        assert!(line.starts_with(&format!("{:016x} ", at + 1)), "line {at}: {line}");
    }
    let names = computer.in_the_end(0, &["ls", "una:/"]).out;
    // Of what is made and removed one thing may be there.
    assert!(names.matches("temp").count() + names.matches("gone").count() <= 1, "{names}");
}

/// It goes where it is told, with all that it printed, and outlives the machine on which it is then.
#[test]
fn a_durable_process_is_moved_and_outlives_that_node_too() {
    let computer = Computer::of(3);
    for node in &computer.nodes {
        node.program("count.wasm", &programs::counting(0, 3_000_000));
    }
    let pid = started(&computer, 0, &["--durable", "--every", "0.3", "--on", "a", "count.wasm"]);
    let mut seen = vec![];
    for to in ["b", "c"] {
        until("more to be seen", || {
            let now = numbers(&computer.in_the_end(0, &["logs", &pid]).out);
            (now.len() > seen.len() + 10).then_some(()).inspect(|()| seen = now)
        });
        let moved = computer.on(0, &["move", &pid, to]);
        assert_eq!(moved.status, 0, "{}{}", moved.out, moved.err);
    }
    until("it to be there", || (computer.home_of(0, &pid) == Some(2)).then_some(()));
    computer.on(0, &["why", &pid]).expect_out(0, &["on c, since somebody moved it there from b"]);
    computer.kill(2);
    until("it to go on elsewhere", || computer.home_of(0, &pid).filter(|home| *home != 2));
    until("more to be seen", || (numbers(&computer.on(0, &["logs", &pid]).out).len() > seen.len() + 10).then_some(()));
    let now = numbers(&computer.on(0, &["logs", &pid]).out);
    assert_eq!(now[..seen.len()], seen[..]);
    assert!(now.windows(2).all(|pair| pair[1] == pair[0] + 1), "{now:?}");
}

/// What no node can take up is seen, and how something ended is told by whoever is asked, when the node where that was has gone or has
/// begun anew.
#[test]
fn what_is_lost_is_seen_and_its_end_is_told() {
    let computer = Computer::of(3);
    for node in &computer.nodes {
        node.program("exit7.wasm", &programs::exiting(7));
        node.program("rests.wasm", &programs::resting(600_000));
    }
    // Its directory is on that machine alone.
    let there = format!("{}=/there", computer.nodes[2].path("").display());
    let bound = started(&computer, 2, &["--restart", "always", "--mount", &there, "rests.wasm"]);
    let unwanted = started(&computer, 2, &["--restart", "always", "--mount", &there, "rests.wasm"]);
    let over = started(&computer, 0, &["--durable", "--on", "c", "exit7.wasm"]);
    assert_eq!(computer.on(0, &["wait", &over]).status, 7);
    computer.kill(2);
    let is_lost = |pid: &str| {
        let shown = computer.on(1, &["ps"]).out;
        shown.lines().any(|line| line.contains(&format!("{pid} ")) && line.contains("lost"))
    };
    until("it to be seen that they are lost", || (is_lost(&bound) && is_lost(&unwanted)).then_some(()));
    for node in 0..2 {
        let told = format!("process {bound} is on no node: c has lost it, and no other can take it up now");
        let each = ["its directories are on c", "it takes it up when it starts again"];
        computer.on(node, &["why", &bound]).expect_out(0, &[&[told.as_str()], &each[..]].concat());
    }
    computer.on(1, &["kill", &unwanted]).expect(0, "");
    assert!(is_lost(&bound) && !is_lost(&unwanted));
    assert_eq!(computer.on(0, &["wait", &unwanted]).status, 137);
    computer.on(0, &["kill", &unwanted]).expect_error(1, &["has ended"]);
    assert_eq!(computer.on(1, &["wait", &over]).status, 7);
    computer.up(2);
    until("it to go on", || (computer.living(0, &bound).len() == 1).then_some(()));
    until("it to be said why", || {
        computer.on(0, &["why", &bound]).out.contains("on c, since c was lost").then_some(())
    });
    assert!(!computer.on(1, &["ps"]).out.contains("lost"));
    assert_eq!(computer.on(0, &["wait", &over]).status, 7);
    assert_eq!(computer.on(2, &["wait", &unwanted]).status, 137);
    assert!(computer.living(2, &unwanted).is_empty());
}

/// It is taken up as soon as a node may.
#[test]
fn what_nobody_may_take_up_waits_and_each_node_says_why() {
    let computer = Computer::of(3);
    for node in &computer.nodes {
        node.program("rests.wasm", &programs::resting(600_000));
    }
    let pid = started(&computer, 0, &["--durable", "--on", "c", "rests.wasm"]);
    for name in ["a", "b"] {
        computer.on(0, &["drain", "--no-wait", name]).expect(0, "");
    }
    computer.kill(2);
    let why = |node: usize| computer.on(node, &["why", &pid]).out;
    for node in 0..2 {
        let told = format!("process {pid} is on no node: c has lost it, and no other can take it up now");
        until("each node to say why", || {
            let why = why(node);
            (why.contains(&told) && why.matches("is being emptied").count() == 2).then_some(())
        });
    }
    let told = format!("{pid} has lost its node, and could not be taken up by");
    until("it to be told", || computer.on(0, &["events"]).out.contains(&told).then_some(()));
    assert!(computer.on(1, &["ps"]).out.lines().any(|line| line.contains(&pid) && line.contains("lost")));
    computer.on(0, &["drain", "--undo", "b"]).expect(0, "");
    until("it to go on", || (computer.home_of(0, &pid) == Some(1)).then_some(()));
    let why = why(0);
    assert!(why.contains("on b, since c was lost") && why.contains("is being emptied"), "{why}");
}

/// Whenever that is: while it runs, has just ended, waits to be begun again, or is being begun.
#[test]
fn what_is_killed_is_not_begun_again() {
    let computer = Computer::of(1);
    computer.nodes[0].program("exit7.wasm", &programs::exiting(7));
    let all: Vec<String> = (0..12).map(|_| started(&computer, 0, &["--restart", "always", "exit7.wasm"])).collect();
    for (number, pid) in all.iter().enumerate() {
        if number == 6 {
            // The others have ended several times by now, and are begun again more and more seldom.
            until("more of them to begin again", || {
                (computer.on(0, &["events"]).out.matches("begun again").count() > 8).then_some(())
            });
        }
        computer.on(0, &["kill", pid]).expect(0, "");
    }
    let ends: Vec<i32> = all.iter().map(|pid| computer.on(0, &["wait", pid]).status).collect();
    assert!(ends.iter().all(|end| [7, 137].contains(end)), "{ends:?}");
    computer.on(0, &["down"]).expect(0, "una is down\n");
    computer.up(0);
    for (pid, end) in all.iter().zip(ends) {
        assert_eq!(computer.on(0, &["wait", pid]).status, end);
        assert!(computer.living(0, pid).is_empty());
    }
}

/// A node that slept past its lease has no effect when it wakes.
#[test]
fn a_node_that_wakes_late_ends_what_others_took_over() {
    let computer = Computer::of(3);
    for node in &computer.nodes {
        node.program("count.wasm", &programs::counting(0, 3_000_000));
    }
    let pid = started(&computer, 0, &["--durable", "--every", "0.3", "--on", "c", "count.wasm"]);
    until("it to count", || (numbers(&computer.on(0, &["logs", &pid]).out).len() > 10).then_some(()));
    computer.stop(2);
    let home = until("it to go on elsewhere", || computer.home_of(0, &pid).filter(|home| *home != 2));
    computer.cont(2);
    until("the late one to be ended", || (computer.on(2, &["events"]).out.contains("is ended here")).then_some(()));
    until("all to agree", || (0..3).all(|node| computer.home_of(node, &pid) == Some(home)).then_some(()));
    // Whichever machine is asked, also those that hear of the late one first.
    for node in 0..3 {
        let shown = computer.on(node, &["logs", &pid]);
        let now = numbers(&shown.out);
        assert!(shown.status == 0 && now.len() > 10, "{node}: {}{}", shown.out, shown.err);
        assert!(now.windows(2).all(|pair| pair[1] == pair[0] + 1), "{now:?}");
    }
    // And the one that slept leads nobody astray when it goes on elsewhere once more: not on it, since that is to be emptied.
    computer.on(0, &["drain", "--no-wait", "c"]).expect(0, "");
    computer.kill(home);
    for node in (0..3).filter(|node| *node != home) {
        until("it to be seen, whoever is asked", || {
            let shown = computer.on(node, &["logs", &pid]);
            (shown.status == 0 && numbers(&shown.out).len() > 10).then_some(())
        });
        assert_eq!(computer.home_of(node, &pid), Some(1 - home));
    }
}
