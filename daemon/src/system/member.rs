//! What the coordinator keeps of each member of the system. Knows keys and values; not who is up.
//!
//! ```text
//!   m/00003    key, name, addresses, draining, joined_ms
//!   c/next     the number that the next member gets: none is ever given twice
//!   c/system   id and name of the system
//! ```

use super::record::{self, Peer};
use abi::ids::{NodeId, NodeKey};
use drivers::coordinator::{Action, Compare, Coordinator, Failure, Range, Transaction};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

pub const PREFIX: &[u8] = b"m/";
pub const NEXT: &[u8] = b"c/next";
pub const SYSTEM: &[u8] = b"c/system";

/// As many as numbers of nodes are given out; fewer by far are alive.
const NUMBER_MAX: u16 = u16::MAX - 1;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// In hexadecimal.
    pub key: String,
    pub name: String,
    pub addresses: Vec<String>,
    /// Nothing new is put on it.
    pub draining: bool,
    /// It will be no member any more.
    #[serde(default)]
    pub leaving: bool,
    pub joined_ms: u64,
    /// It started so often; earlier lives are over. One more than that if the others gave up on it: then that life is over too.
    pub life: u64,
    /// After so many seconds in which nobody heard it the others give up on its life. Zero: they never do.
    #[serde(default)]
    pub lost_after_s: u64,
    /// They did, and it has not started again.
    #[serde(default)]
    pub given_up: bool,
}

pub type Members = BTreeMap<NodeId, Member>;

impl Member {
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data")
    }

    pub fn node_key(&self) -> Option<NodeKey> {
        record::hex(&self.key).map(NodeKey)
    }

    /// What other nodes keep of it.
    pub fn peer(&self, number: NodeId) -> Peer {
        Peer { number: number.0, key: self.key.clone(), addresses: self.addresses.clone() }
    }
}

pub fn key(number: NodeId) -> Vec<u8> {
    format!("m/{:05}", number.0).into_bytes()
}

/// The number in a key, and the member in its value; `None` if they are not of this form.
pub fn read(key: &[u8], value: &[u8]) -> Option<(NodeId, Member)> {
    Some((read_key(key)?, serde_json::from_slice(value).ok()?))
}

pub fn read_key(key: &[u8]) -> Option<NodeId> {
    std::str::from_utf8(key.strip_prefix(PREFIX)?).ok()?.parse().ok().map(NodeId)
}

pub fn read_next(value: &[u8]) -> Result<NodeId, String> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    match number {
        Some(number @ 1..=NUMBER_MAX) => Ok(NodeId(number)),
        Some(_) => Err("all numbers of nodes were given out".into()),
        None => Err("the counter of nodes is damaged".into()),
    }
}

pub fn all(coordinator: &dyn Coordinator, deadline: Instant) -> Result<Members, Failure> {
    let found = coordinator.range(Range::prefix(PREFIX), deadline)?;
    Ok(found.records.iter().filter_map(|record| read(&record.key, &record.value)).collect())
}

/// The first member's own record, where there is none.
pub fn found(first: NodeId, member: &Member, system: &str) -> Transaction {
    Transaction::new()
        .when(Compare::missing(NEXT))
        .then(Action::put(NEXT, (first.0 + 1).to_string()))
        .then(Action::put(SYSTEM, system))
        .then(Action::put(key(first), member.to_bytes()))
}

/// The name itself, or with a number behind it if it is taken.
pub fn free_name(members: &Members, wanted: &str) -> String {
    let clean: String = wanted
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c.to_ascii_lowercase() } else { '-' })
        .take(40)
        .collect();
    let clean = clean.trim_matches('-');
    // What looks like a number of a node must be one.
    let looks_like_number = clean.strip_prefix('n').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    let base = if clean.is_empty() || looks_like_number || clean.bytes().all(|byte| byte.is_ascii_digit()) {
        "node"
    } else {
        clean
    };
    let taken = |name: &str| members.values().any(|member| member.name == name);
    let numbered = (2..).map(|number| format!("{base}-{number}"));
    let mut names = std::iter::once(base.to_string()).chain(numbered);
    names.find(|name| !taken(name)).expect("there are more numbers than members")
}

/// A member by name or number: `attic`, `n3` or `3`.
pub fn find(members: &Members, named: &str) -> Option<NodeId> {
    let by_name = members.iter().find(|(_, member)| member.name == named).map(|(number, _)| *number);
    by_name.or_else(|| {
        let number = named.strip_prefix('n').unwrap_or(named).parse().ok().map(NodeId)?;
        members.contains_key(&number).then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Member {
        Member {
            key: String::new(),
            name: name.into(),
            addresses: vec![],
            draining: false,
            leaving: false,
            joined_ms: 0,
            life: 0,
            lost_after_s: 0,
            given_up: false,
        }
    }

    #[test]
    fn names_are_made_free() {
        let members = Members::from([(NodeId(1), named("attic")), (NodeId(2), named("attic-2"))]);
        for (wanted, given) in [
            ("Attic", "attic-3"),
            ("Bob's box", "bob-s-box"),
            ("", "node"),
            ("n3", "node"),
            ("7", "node"),
            ("nn1", "nn1"),
        ] {
            assert_eq!(free_name(&members, wanted), given);
        }
    }

    #[test]
    fn members_are_found_by_name_or_number() {
        let members = Members::from([(NodeId(1), named("attic")), (NodeId(12), named("cellar"))]);
        for (named, number) in [("cellar", Some(12)), ("n12", Some(12)), ("12", Some(12)), ("n2", None), ("x", None)] {
            assert_eq!(find(&members, named), number.map(NodeId), "{named}");
        }
        assert_eq!(read_key(&key(NodeId(12))), Some(NodeId(12)));
    }
}
