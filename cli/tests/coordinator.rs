//! The facts of a system of several nodes move to a real etcd and back, by the real binary, while programs go on, nodes are away, and
//! whoever moves them is killed.

mod house;
#[path = "../../drivers/tests/coordinator/real.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod real;

use house::computer::Computer;
use house::{programs, until};
use real::Real;

fn etcd() -> Option<(Real, String)> {
    if !real::is_here() {
        return None;
    }
    let mut real = Real::start(1);
    let url = real.urls()[0].clone();
    let address = url.strip_prefix("http://").unwrap().to_string();
    real.wait(|| std::net::TcpStream::connect(&address).is_ok());
    Some((real, format!("etcd://{address}")))
}

fn kind(computer: &Computer, node: usize) -> String {
    computer.status(node)["coordinator"]["kind"].as_str().unwrap_or("unknown").to_string()
}

/// As soon as all agree.
fn all_use(computer: &Computer, wanted: &str) {
    for node in 0..computer.nodes.len() {
        until(&format!("node {node} to use {wanted}"), || (kind(computer, node) == wanted).then_some(()));
    }
}

#[test]
fn facts_move_to_an_etcd_and_back_and_nothing_is_lost() {
    let Some((mut real, there)) = etcd() else { return };
    let computer = Computer::of(3);
    for node in &computer.nodes {
        node.program("answer.wasm", &programs::answering("/port/echo"));
        node.program("ask.wasm", &programs::asking("/port/echo"));
    }
    let asked = |on: &str| computer.on(0, &["run", "--on", on, "ask.wasm"]);
    computer.on(0, &["mkdir", "/before"]).expect(0, "");
    let ticket = computer.ticket();
    let server = computer.on(0, &["run", "-d", "--on", "b", "answer.wasm"]).out.trim().to_string();
    until("the name to be bound", || (asked("c").status == 0).then_some(()));

    computer.on(0, &["coordinator", "move", "etcd://127.0.0.1:1"]).expect_error(1, &["cannot decide anything now"]);
    computer.on(0, &["coordinator", "move", "elsewhere"]).expect_error(1, &["is no coordinator", "etcd://HOST:PORT"]);
    let moved = computer.on(1, &["coordinator", "move", &there]);
    assert!(moved.status == 0 && moved.out.contains("facts moved to etcd://"), "{}{}", moved.out, moved.err);
    all_use(&computer, "etcd");
    computer.on(2, &["coordinator", "move", &there]).expect_out(0, &["already"]);
    // Names, the tree, tickets, who is a member: all is where it was, and goes on.
    for on in ["a", "b", "c"] {
        asked(on).expect(0, "ping\n");
    }
    computer.on(2, &["mkdir", "/between"]).expect(0, "");
    computer.on(0, &["drain", "c"]).expect_out(0, &["c is empty"]);
    until("it to be seen", || (computer.on(1, &["nodes"]).out.contains("drain")).then_some(()));
    computer.on(0, &["drain", "c", "--undo"]).expect(0, "");
    // A node that starts now asks its own voters first, and is told where the facts are.
    computer.kill(0);
    computer.up(0);
    all_use(&computer, "etcd");
    computer.in_the_end(0, &["ls", "/"]).expect(0, "before/\nbetween/\n");

    // One sleeps while they come back, and changes nothing where it knew them to be.
    computer.stop(2);
    until("the move back", || Some(computer.on(1, &["coordinator", "move", "raft"])).filter(|done| done.status == 0));
    for node in 0..2 {
        until("raft", || (kind(&computer, node) == "raft").then_some(()));
    }
    computer.in_the_end(0, &["mkdir", "/after"]);
    computer.cont(2);
    all_use(&computer, "raft");
    // The etcd is needed by nobody any more.
    real.kill(0);
    computer.in_the_end(2, &["mkdir", "/later"]);
    computer.in_the_end(1, &["ls", "/"]).expect(0, "after/\nbefore/\nbetween/\nlater/\n");
    computer.kill(1);
    computer.up(1);
    computer.in_the_end(1, &["ls", "/before"]);
    let late = house::House::new();
    let joined = late.done(&["join", &ticket, "--listen", "127.0.0.1", "--name", "late"]);
    assert_eq!((joined.status, joined.err.as_str()), (0, ""), "a ticket of before the moves is good: {}", joined.out);
    until("the late one to be seen", || computer.on(0, &["nodes"]).out.contains("late").then_some(()));
    late.done(&["down"]).expect(0, "una is down\n");
    let _ = server;
}

/// Whoever moves the facts dies in the middle, once before the switch and once behind it, in each direction. Asked again, they arrive.
#[test]
fn a_move_that_was_interrupted_is_asked_again() {
    let Some((_real, there)) = etcd() else { return };
    let computer = Computer::of(3);
    let up_with_steps = || {
        let steps = computer.up_with_steps(0);
        until("all nodes to hear it", || (computer.is_heard(1, 3)).then_some(()));
        steps
    };
    computer.kill(0);
    let steps = up_with_steps();
    let mut kept = vec![];
    for (round, (step, to, kind)) in [
        ("facts-copied", there.as_str(), "etcd"),
        ("facts-copied", "raft", "raft"),
        ("facts-switched", there.as_str(), "etcd"),
        ("facts-switched", "raft", "raft"),
    ]
    .into_iter()
    .enumerate()
    {
        std::fs::write(steps.join(step), []).unwrap();
        let moving = computer.nodes[0].start(&["coordinator", "move", to]);
        until("the step", || steps.join(format!("{step}.reached")).exists().then_some(()));
        computer.kill(0);
        assert_ne!(moving.end().status, 0);
        let moved = until("the move to be done", || {
            Some(computer.on(1, &["coordinator", "move", to])).filter(|done| done.status == 0)
        });
        assert!(moved.out.contains("facts"), "{}", moved.out);
        std::fs::remove_file(steps.join(format!("{step}.reached"))).unwrap();
        up_with_steps();
        all_use(&computer, kind);
        let name = format!("/kept-{round}");
        computer.in_the_end(2, &["mkdir", &name]);
        kept.push(format!("kept-{round}/\n"));
        computer.in_the_end(0, &["ls", "/"]).expect(0, &kept.concat());
    }
}
