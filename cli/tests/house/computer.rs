//! Several daemons on one machine as one computer, by the real binary: each node has a house of its own.

use super::{Done, House, until};
use serde_json::Value;
use std::path::PathBuf;

/// Nodes of one system. All end with it.
pub struct Computer {
    pub nodes: Vec<House>,
}

impl Computer {
    /// The first node is `n1`, called `a`; others are called `b`, `c`...
    pub fn of(count: usize) -> Computer {
        let first = House::new();
        let up = first.done(&["up", "-d", "--listen", "127.0.0.1", "--name", "a"]);
        assert_eq!((up.status, up.err.as_str()), (0, ""), "{}", up.out);
        let mut computer = Computer { nodes: vec![first] };
        for number in 1..count {
            let name = String::from(char::from(b'a' + number as u8));
            let house = House::new();
            let ticket = computer.ticket();
            let joined = house.done(&["join", &ticket, "--listen", "127.0.0.1", "--name", &name]);
            assert_eq!((joined.status, joined.err.as_str()), (0, ""), "{}", joined.out);
            assert!(joined.out.contains(&format!("this is {name} (n{})", number + 1)), "{}", joined.out);
            computer.nodes.push(house);
        }
        for node in 0..count {
            until("all nodes to hear one another", || computer.is_whole(node, count).then_some(()));
        }
        computer
    }

    pub fn ticket(&self) -> String {
        let done = self.on(0, &["ticket", "-q"]);
        assert_eq!((done.status, done.err.as_str()), (0, ""));
        done.out.trim().to_string()
    }

    #[track_caller]
    pub fn on(&self, node: usize, arguments: &[&str]) -> Done {
        self.nodes[node].done(arguments)
    }

    pub fn status(&self, node: usize) -> Value {
        serde_json::from_str(&self.on(node, &["status", "--json"]).out).unwrap_or_default()
    }

    pub fn is_whole(&self, node: usize, count: usize) -> bool {
        let status = self.status(node);
        let up = |line: &&Value| line["state"] == "up";
        let voters = if count < 3 { 1 } else { 3 };
        status["nodes"].as_array().is_some_and(|nodes| nodes.iter().filter(up).count() == count)
            && status["coordinator"]["voters"].as_array().is_some_and(|all| all.len() == voters)
            && status["files"]["holder"].is_number()
    }

    /// Whether all these nodes are up, whoever keeps the facts.
    pub fn is_heard(&self, node: usize, count: usize) -> bool {
        let status = self.status(node);
        let up = |line: &&Value| line["state"] == "up";
        status["nodes"].as_array().is_some_and(|nodes| nodes.iter().filter(up).count() == count)
    }

    pub fn state_of(&self, from: usize, name: &str) -> String {
        let status = self.status(from);
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let line = nodes.iter().find(|line| line["name"] == name).cloned().unwrap_or_default();
        line["state"].as_str().unwrap_or("gone").to_string()
    }

    fn daemon(&self, node: usize) -> rustix::process::Pid {
        let lock: Value = serde_json::from_str(&self.nodes[node].read("home/.local/share/una/node/node.lock")).unwrap();
        rustix::process::Pid::from_raw(lock["pid"].as_i64().unwrap() as i32).unwrap()
    }

    /// As if it slept.
    pub fn stop(&self, node: usize) {
        rustix::process::kill_process(self.daemon(node), rustix::process::Signal::STOP).unwrap();
    }

    pub fn cont(&self, node: usize) {
        rustix::process::kill_process(self.daemon(node), rustix::process::Signal::CONT).unwrap();
    }

    pub fn up(&self, node: usize) {
        let up = self.on(node, &["up", "-d", "--listen", "127.0.0.1"]);
        assert_eq!((up.status, up.err.as_str()), (0, ""), "{}", up.out);
    }

    /// Begins a node again that is down. It can be held at the steps named in `daemon/src/steps.rs`, by files in the directory that this
    /// gives.
    pub fn up_with_steps(&self, node: usize) -> PathBuf {
        let steps = self.nodes[node].path("steps");
        std::fs::create_dir_all(&steps).unwrap();
        let mut up = self.nodes[node].una(&["up", "-d", "--listen", "127.0.0.1"]);
        let done: Done = up.env("UNA_STEPS", &steps).output().unwrap().into();
        assert_eq!((done.status, done.err.as_str()), (0, ""), "{}", done.out);
        steps
    }

    /// The living processes of this number, as this node sees them.
    pub fn living(&self, from: usize, pid: &str) -> Vec<Value> {
        let listed: Value = serde_json::from_str(&self.on(from, &["ps", "--json"]).out).unwrap_or_default();
        let all = listed["processes"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
        all.into_iter().filter(|one| text(&one["pid"]) == pid && one["state"] != "lost").collect()
    }

    /// The node on which it lives, if it is exactly one, counted from 0.
    pub fn home_of(&self, from: usize, pid: &str) -> Option<usize> {
        match &self.living(from, pid)[..] {
            [one] => one["node"].as_u64().map(|node| node as usize - 1),
            _ => None,
        }
    }

    /// As if the machine had lost its power, but for its disk.
    pub fn kill(&self, node: usize) {
        let pid = self.daemon(node);
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        until("the daemon's end", || rustix::process::test_kill_process(pid).is_err().then_some(()));
    }

    /// Runs a program on a node.
    pub fn run(&self, from: usize, on: &str, arguments: &[&str]) -> Done {
        self.on(from, &[&["run", "--on", on], arguments].concat())
    }

    /// What a node says as soon as the system can say it.
    pub fn in_the_end(&self, node: usize, arguments: &[&str]) -> Done {
        until(&format!("{arguments:?}"), || Some(self.on(node, arguments)).filter(|done| done.status == 0))
    }
}

impl Drop for Computer {
    fn drop(&mut self) {
        for node in &self.nodes {
            let lock = std::fs::read(node.path("home/.local/share/una/node/node.lock")).unwrap_or_default();
            let lock: Value = serde_json::from_slice(&lock).unwrap_or_default();
            // One that sleeps cannot be asked.
            let pid = rustix::process::Pid::from_raw(lock["pid"].as_i64().unwrap_or(0) as i32);
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::CONT));
            let _ = node.done(&["down"]);
        }
    }
}
