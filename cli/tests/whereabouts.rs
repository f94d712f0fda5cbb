//! Several nodes in one process, each with a wire of its own: where a process is, asked of any of them, when it was born elsewhere, has
//! moved, and when nodes that it was on have gone. That processes really move is tried elsewhere.

use abi::ids::{NodeId, ProcessId};
use daemon::node::Pid;
use daemon::system::{self, System, SystemOptions};
use std::time::{Duration, Instant};

/// What takes longer has failed.
const LONG: Duration = Duration::from_secs(60);

#[track_caller]
fn until<T>(what: &str, mut is_so: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(so) = is_so() {
            return so;
        }
        assert!(Instant::now() < deadline, "{what} has not come to be so");
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Nodes {
    systems: Vec<System>,
    _home: tempfile::TempDir,
}

impl Nodes {
    fn of(count: usize) -> Nodes {
        let home = tempfile::tempdir().unwrap();
        let mut systems: Vec<System> = vec![];
        for number in 1..=count {
            let data = home.path().join(format!("n{number}"));
            std::fs::create_dir(&data).unwrap();
            if let Some(first) = systems.first() {
                let (ticket, _) = first.ticket(LONG).unwrap();
                system::join(&data, &ticket, &format!("n-{number}")).unwrap();
            }
            let options = SystemOptions {
                lost_after_s: 0,
                lend: None,
                data,
                library: home.path().join("programs"),
                listen: Some("127.0.0.1:0".parse().unwrap()),
                name: format!("n-{number}"),
            };
            systems.push(System::start(&options).unwrap());
        }
        for system in &systems {
            until("all nodes to hear one another", || {
                let up = |node: &&system::view::NodeLine| node.state == system::view::NodeState::Up;
                (system.view().nodes.iter().filter(up).count() == count).then_some(())
            });
        }
        Nodes { systems, _home: home }
    }

    /// It moves as a daemon says it: first where it comes, then where it was.
    fn moves(&self, pid: Pid, from: usize, to: usize, moves: u32) {
        self.systems[to].moved_here(pid, moves);
        self.systems[from].moved_away(pid, self.systems[to].me(), moves);
    }

    #[track_caller]
    fn found(&self, by: usize, pid: Pid, on: usize) {
        until(&format!("n{} to find {pid} on n{}", by + 1, on + 1), || {
            // As a command is handed on by nodes that know better.
            let mut at = by;
            for _ in 0..4 {
                match self.systems[at].locate(pid).map(|node| usize::from(node.0) - 1) {
                    Some(node) if node == at => return (at == on).then_some(()),
                    Some(node) if at != by => {
                        self.systems[at].misled(self.systems[by].me(), pid);
                        at = node;
                    }
                    Some(node) => at = node,
                    None => return None,
                }
            }
            None
        });
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.systems.iter().for_each(System::shutdown);
    }
}

#[test]
fn a_process_that_moved_is_found_from_everywhere_also_when_its_birthplace_is_gone() {
    let nodes = Nodes::of(4);
    let pid = |serial| Pid::from(ProcessId::new(NodeId(1), serial));
    assert_eq!(nodes.systems[2].locate(pid(1)), None, "nobody knows of it");
    for serial in 1..=8 {
        nodes.systems[0].moved_here(pid(serial), 0);
        (0..4).for_each(|by| nodes.found(by, pid(serial), 0));
        nodes.moves(pid(serial), 0, 1, 1);
        (0..4).for_each(|by| nodes.found(by, pid(serial), 1));
        nodes.moves(pid(serial), 1, 2, 2);
        (0..4).for_each(|by| nodes.found(by, pid(serial), 2));
    }
    // One goes back to where it was before.
    nodes.moves(pid(8), 2, 1, 3);
    (0..4).for_each(|by| nodes.found(by, pid(8), 1));
    nodes.systems[0].shutdown();
    until("the birthplace to be gone", || {
        let views = nodes.systems[3].view().nodes;
        views.iter().any(|node| node.number == 1 && node.state != system::view::NodeState::Up).then_some(())
    });
    for by in 1..4 {
        (1..=7).for_each(|serial| nodes.found(by, pid(serial), 2));
        nodes.found(by, pid(8), 1);
    }
    // Who has moved goes on moving.
    nodes.moves(pid(1), 2, 3, 3);
    (1..4).for_each(|by| nodes.found(by, pid(1), 3));
}
