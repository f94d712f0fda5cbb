//! Machines that are lent while their owner is away, by real daemons whose owner is played: guests leave when the owner returns and nobody
//! who watches one notices; what somebody wanted there stays; what cannot leave is stopped until the owner has gone.

mod house;

use house::computer::Computer;
use house::{Running, programs, until};
use serde_json::Value;
use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

/// Of these nodes the last one has an owner, whose machine it is.
struct Borrowed {
    computer: Computer,
    touches: Cell<u32>,
}

impl Borrowed {
    fn of(count: usize) -> Borrowed {
        let borrowed = Borrowed { computer: Computer::of(count), touches: Cell::new(0) };
        let lent = borrowed.lent();
        borrowed.on(lent, &["down"]).expect(0, "una is down\n");
        let house = &borrowed.computer.nodes[lent];
        let owner = house.write("owner", "");
        let mut up = house.una(&["up", "-d", "--listen", "127.0.0.1", "--lend", "idle:1s"]);
        let up: house::Done = up.env("UNA_OWNER", owner).output().unwrap().into();
        assert_eq!((up.status, up.err.as_str()), (0, ""), "{}", up.out);
        for node in 0..count {
            until("all nodes to hear one another", || borrowed.computer.is_whole(node, count).then_some(()));
        }
        for node in &borrowed.computer.nodes {
            node.program("rests.wasm", &programs::resting(5));
            node.program("hello.wasm", &programs::hello());
        }
        borrowed.is_lent("owner-away");
        borrowed
    }

    fn lent(&self) -> usize {
        self.computer.nodes.len() - 1
    }

    fn on(&self, node: usize, arguments: &[&str]) -> house::Done {
        self.computer.on(node, arguments)
    }

    /// As all nodes see it.
    fn is_lent(&self, how: &str) {
        for node in 0..self.computer.nodes.len() {
            until(&format!("the machine to be {how}"), || {
                (self.computer.status(node)["nodes"][self.lent()]["facts"]["lends"] == how).then_some(())
            });
        }
    }

    fn touch(&self) {
        self.touches.set(self.touches.get() + 1);
        self.computer.nodes[self.lent()].write("owner", format!("touch {}\n", self.touches.get()));
    }

    /// They sit there and compute, until the next touch.
    fn sit_down(&self) {
        self.touches.set(self.touches.get() + 1);
        self.computer.nodes[self.lent()].write("owner", format!("touch {}\nbusy 20000\n", self.touches.get()));
        self.is_lent("owner-here");
    }

    fn get_up(&self) {
        self.computer.nodes[self.lent()].write("owner", "");
        self.is_lent("owner-away");
    }

    fn started(&self, node: usize, arguments: &[&str]) -> String {
        let done = self.on(node, &[&["run", "-d"], arguments].concat());
        assert_eq!((done.status, done.err.as_str()), (0, ""), "{arguments:?} {}", done.out);
        done.out.trim().to_string()
    }

    /// One that was put on the machine that is lent, by no wish of anybody's. Placement may prefer another one at a busy moment.
    fn guest(&self, near: &str, arguments: &[&str]) -> String {
        until("a guest", || {
            let pid = self.started(0, &[&["--near", near], arguments, &["rests.wasm"]].concat());
            if self.seen(&pid)["node"] == self.lent() + 1 {
                return Some(pid);
            }
            self.on(0, &["kill", &pid]).expect(0, "");
            None
        })
    }

    fn seen(&self, pid: &str) -> Value {
        self.computer.living(0, pid).pop().unwrap_or_default()
    }

    /// It lives there, and is that to the machine's owner.
    fn is_there(&self, pid: &str, node: usize, stay: &str) {
        until(&format!("{pid} to be {stay} on node {node}"), || {
            let seen = self.seen(pid);
            (seen["node"] == node + 1 && seen["stay"] == stay).then_some(())
        });
    }

    fn count(&self, pid: &str) -> usize {
        self.on(0, &["logs", pid]).out.lines().count()
    }

    fn goes_on(&self, pid: &str) {
        let before = self.count(pid);
        until(&format!("{pid} to go on"), || (self.count(pid) > before).then_some(()));
    }

    fn event(&self, said: &str) {
        until(&format!("an event of `{said}`"), || self.on(0, &["events"]).out.contains(said).then_some(()));
    }
}

fn next_line(running: &mut Running, after: &mut u32) {
    *after += 1;
    running.expect_line(&after.to_string());
}

#[test]
fn guests_leave_when_the_owner_returns_and_what_was_wanted_stays() {
    let borrowed = Borrowed::of(3);
    let lent = borrowed.lent();
    let own = borrowed.started(lent, &["--on", "c", "rests.wasm"]);
    let near = |arguments: &[&str]| borrowed.guest(&own, arguments);
    let named = borrowed.started(0, &["--on", "c", "rests.wasm"]);
    let guests = [near(&[]), near(&[])];
    let durable = near(&["--durable", "--every", "0.2"]);
    let looked_after = near(&["--restart", "on-failure"]);
    let mut watched = borrowed.computer.nodes[0].start(&["logs", "-f", &near(&["--name", "watched"])]);
    watched.expect_line("0");
    let mut line = 0;
    (0..5).for_each(|_| next_line(&mut watched, &mut line));
    for pid in guests.iter().chain([&durable, &looked_after]) {
        borrowed.is_there(pid, lent, "guest");
    }
    borrowed.is_there(&own, lent, "wanted");
    borrowed.is_there(&named, lent, "wanted");

    borrowed.sit_down();
    for pid in &guests {
        until("a guest to leave", || (borrowed.seen(pid)["node"].as_u64()? != 3).then_some(()));
        borrowed.goes_on(pid);
        let told = ["since the owner of c returned", "is lent only while its owner is away"];
        borrowed.on(1, &["why", pid]).expect_out(0, &told);
    }
    until("the durable one to leave", || (borrowed.seen(&durable)["node"].as_u64()? != 3).then_some(()));
    borrowed.goes_on(&durable);
    // It cannot leave, and does nothing meanwhile.
    borrowed.is_there(&looked_after, lent, "paused");
    assert_eq!(borrowed.seen(&looked_after)["state"], "stopped");
    (0..50).for_each(|_| next_line(&mut watched, &mut line));
    for pid in [&own, &named] {
        borrowed.is_there(pid, lent, "wanted");
        borrowed.goes_on(pid);
    }
    // Nobody else is put there, and it is said why.
    let elsewhere = borrowed.started(0, &["--near", &own, "rests.wasm"]);
    assert_ne!(borrowed.seen(&elsewhere)["node"], lent + 1);
    until("the reason", || {
        let why = (0..3).map(|node| borrowed.on(node, &["why", &elsewhere]).out).collect::<String>();
        why.contains("is lent only while its owner is away, who is there now").then_some(())
    });
    // Whoever names it, or sits there, may.
    borrowed.is_there(&borrowed.started(0, &["--on", "c", "rests.wasm"]), lent, "wanted");
    borrowed.event("the owner of n3 is there, so its guests leave: a keyboard or a mouse is used");
    borrowed.event(&format!("{looked_after} is stopped on n3 until its owner leaves"));
    borrowed.event("guests moved, 1 are stopped until they leave");
    let nodes = borrowed.on(1, &["nodes"]).out;
    assert!(nodes.contains("up, owner there"), "{nodes}");
    let lending = borrowed.on(lent, &["lend"]).out;
    for said in ["away for 1s; they have been there for", &format!("{looked_after} is stopped until they leave")] {
        assert!(lending.contains(said), "no {said:?} in {lending}");
    }
    assert!(borrowed.on(lent, &["status"]).out.contains("lent     while its owner has been away for 1s"));

    borrowed.get_up();
    borrowed.is_there(&looked_after, lent, "guest");
    borrowed.goes_on(&looked_after);
    borrowed.is_there(&near(&[]), lent, "guest");
    (0..5).for_each(|_| next_line(&mut watched, &mut line));
    borrowed.event("the owner of n3 is away, and lends it");
}

#[test]
fn whoever_has_no_place_to_go_waits_and_its_people_decide() {
    let borrowed = Borrowed::of(2);
    let own = borrowed.started(1, &["--on", "b", "rests.wasm"]);
    let [waits, released, stopped] = [(); 3].map(|()| borrowed.guest(&own, &[]));
    borrowed.on(1, &["drain", "--no-wait", "a"]).expect(0, "");
    until("the other machine to take nothing", || {
        (borrowed.on(1, &["run", "--on", "a", "hello.wasm"]).status == 125).then_some(())
    });
    borrowed.sit_down();
    for pid in [&waits, &released, &stopped] {
        borrowed.is_there(pid, 1, "paused");
    }
    let lending = borrowed.on(1, &["lend", "--json"]).out;
    assert!(lending.contains("no node can take it (") && lending.contains("is being emptied"), "{lending}");
    // Somebody wants it to run there, and another one not to.
    borrowed.on(0, &["cont", &released]).expect(0, "");
    borrowed.is_there(&released, 1, "wanted");
    borrowed.goes_on(&released);
    borrowed.on(0, &["stop", &stopped]).expect(0, "");
    borrowed.is_there(&stopped, 1, "guest");
    assert_eq!(borrowed.seen(&stopped)["state"], "stopped");
    // It leaves as soon as there is a place.
    borrowed.on(1, &["drain", "--undo", "a"]).expect(0, "");
    borrowed.is_there(&waits, 0, "guest");
    borrowed.goes_on(&waits);
    borrowed.is_there(&stopped, 0, "guest");
    assert_eq!(borrowed.seen(&stopped)["state"], "stopped", "it goes where it can and stays as it was");
    // One that was brought back by name is no guest.
    borrowed.on(0, &["move", &waits, "b"]).expect_out(0, &["runs on b"]);
    borrowed.is_there(&waits, 1, "wanted");
    borrowed.touch();
    borrowed.goes_on(&waits);

    // What was said last is so after a start too, until something else is said.
    borrowed.on(1, &["lend", "idle:0"]).expect_error(2, &["idle:0", "expected a time"]);
    borrowed.on(1, &["lend", "idle:2h"]).expect_out(0, &["away for 2h00m; they have been"]);
    borrowed.on(1, &["down"]).expect(0, "una is down\n");
    borrowed.computer.up(1);
    borrowed.on(1, &["lend"]).expect_out(0, &["away for 2h00m; they have been there for"]);
    borrowed.on(1, &["lend", "always"]).expect(0, "at all times\n");
    borrowed.is_lent("always");
}

/// A figure, not a promise: run by hand, on a machine that does nothing else.
#[test]
#[ignore = "it measures"]
fn how_soon_a_machine_is_its_owner_s() {
    const GUESTS: usize = 20;
    const MIB: u32 = 64;
    let borrowed = Borrowed::of(3);
    for node in &borrowed.computer.nodes {
        node.program("rests.wasm", &programs::resting_with(5, MIB));
    }
    let own = borrowed.started(borrowed.lent(), &["--on", "c", "hello.wasm"]);
    let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    for round in 0..5 {
        let guests: Vec<String> = (0..GUESTS).map(|_| borrowed.guest(&own, &[])).collect();
        guests.iter().for_each(|pid| borrowed.goes_on(pid));
        let touched_ms = now_ms();
        borrowed.sit_down();
        let at = |kind: &str| {
            let events = borrowed.on(0, &["events", "--json"]).out;
            let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let found = events.filter(|event| event["kind"] == kind && event["at_ms"].as_u64() >= Some(touched_ms));
            found.last().map(|event| (event["at_ms"].as_u64().unwrap() - touched_ms, event["text"].clone()))
        };
        let (gone_ms, said) = until("the guests to be gone", || at("guests-gone"));
        let (seen_ms, _) = at("owner-returned").unwrap();
        println!("round {round}: seen after {seen_ms} ms, alone after {gone_ms} ms: {said}");
        guests.iter().for_each(|pid| drop(borrowed.on(0, &["kill", pid])));
        borrowed.get_up();
    }
}
