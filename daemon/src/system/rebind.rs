//! Names that follow their ports: what was bound here and has moved to another node with its process is bound there. Knows who has bound
//! what and where ports are; not how a process moves.
//!
//! The one idea: the node that bound a name sees that the port is elsewhere, and asks that node to take the name over. It looks the name up
//! as anybody does, sees that it got that very port, and binds it in one transaction which compares that nobody has changed the name. So
//! there is no moment in which it is free; lookups lead to the port all the time; and whoever unbound or replaced it meanwhile has done so.
//!
//! Until then the name is where it was, and leads to the port. A node that leaves has its names taken over first
//! ([`Inner::hand_names_over`]).

use super::names::Bound;
use super::{Inner, ears};
use crate::node::Node;
use abi::ids::{NodeId, PortId};
use abi::interface::names::Existing;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is looked whether a port has gone elsewhere.
const INTERVAL: Duration = Duration::from_millis(300);
/// Before a node is asked again that did not take a name over.
const AGAIN_AFTER: Duration = Duration::from_secs(3);
/// How long a node may take to take one over.
pub const FOLLOW_TIMEOUT: Duration = Duration::from_secs(4);

/// A name whose port is elsewhere, and where.
struct Stray {
    bound: Bound,
    home: NodeId,
}

fn strays(inner: &Inner) -> Vec<Stray> {
    let Some(node) = inner.node.get() else { return vec![] };
    let bound = inner.names.bound();
    if bound.is_empty() {
        return vec![];
    }
    let homes: BTreeMap<PortId, NodeId> = node.ports_elsewhere();
    let elsewhere = bound.into_iter().filter_map(|bound| {
        let home = *homes.get(&bound.port)?;
        Some(Stray { bound, home })
    });
    elsewhere.collect()
}

/// A thread's work until the node ends.
pub fn run(inner: &Arc<Inner>) {
    let mut refused: BTreeMap<u64, Instant> = BTreeMap::new();
    while !inner.is_stopping() {
        std::thread::sleep(INTERVAL);
        refused.retain(|_, when| when.elapsed() < AGAIN_AFTER);
        for stray in strays(inner) {
            if !refused.contains_key(&stray.bound.serial) && inner.hand_over(&stray).is_err() {
                refused.insert(stray.bound.serial, Instant::now());
            }
        }
    }
}

impl Inner {
    /// How many names are bound here to ports that are elsewhere.
    pub fn names_to_hand_over(&self) -> u64 {
        strays(self).len() as u64
    }

    fn hand_over(&self, stray: &Stray) -> Result<(), String> {
        let Stray { bound: Bound { path, life, serial, port }, home } = stray;
        let question = ears::Question::Follow {
            path: path.clone(),
            from: self.me.0,
            life: *life,
            serial: *serial,
            port: port.to_bits(),
        };
        self.ask(*home, &question).map(drop)
    }

    /// Before this node leaves: names of ports that are elsewhere are bound there, as far as that can be done in this time.
    pub fn hand_names_over(&self, deadline: Instant) {
        loop {
            let left = strays(self);
            if left.is_empty() || Instant::now() > deadline {
                return;
            }
            for stray in &left {
                // What cannot be done now is tried again, until the time is over.
                let _ = self.hand_over(stray);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Another node says that a port has come here which it has bound.
pub fn follow(node: &Node, path: &str, from: NodeId, life: u64, serial: u64, port: PortId) -> Result<(), String> {
    let existing = Existing::Follow { node: from, life, serial };
    node.bind_found(path, port, existing, FOLLOW_TIMEOUT).map_err(|error| error.to_string())
}
