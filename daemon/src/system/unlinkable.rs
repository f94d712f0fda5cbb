//! Members that there is no link to because one of the two ends refuses it. Knows no link; is told of refusals and of links.
//!
//! The one idea: of each member only the last refusal counts, and only until there is a link. So what is kept is bounded by the members,
//! and what people see is what they have to act on.

use super::JOIN_AGAIN;
use abi::ids::NodeId;
use drivers::wire::{Refusal, RefusedBy};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

#[derive(Default)]
pub struct Unlinkable(Mutex<BTreeMap<NodeId, (RefusedBy, Refusal)>>);

impl Unlinkable {
    fn members(&self) -> MutexGuard<'_, BTreeMap<NodeId, (RefusedBy, Refusal)>> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }

    pub fn refused(&self, member: NodeId, by: RefusedBy, why: Refusal) {
        self.members().insert(member, (by, why));
    }

    /// There is a link to it, or it is no member any more.
    pub fn forget(&self, member: NodeId) {
        self.members().remove(&member);
    }

    /// Does another node say that this one is no member?
    pub fn is_unwanted(&self) -> bool {
        self.members().values().any(|(by, why)| is_of_no_member(*by, why))
    }

    /// For people, each thing once.
    pub fn complaints(&self, name: impl Fn(NodeId) -> String) -> Vec<String> {
        let mut complaints = vec![];
        for (member, (by, why)) in &*self.members() {
            let complaint = match is_of_no_member(*by, why) {
                true => format!("{why}: {JOIN_AGAIN}"),
                false => format!("there is no link to {} ({member}): {why}", name(*member)),
            };
            if !complaints.contains(&complaint) {
                complaints.push(complaint);
            }
        }
        complaints
    }
}

fn is_of_no_member(by: RefusedBy, why: &Refusal) -> bool {
    matches!((by, why), (RefusedBy::Them, Refusal::Dismissed(_) | Refusal::Unknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocols() -> Refusal {
        Refusal::OtherProtocol { ours: "4".into(), theirs: "3".into() }
    }

    fn complaints(unlinkable: &Unlinkable) -> Vec<String> {
        unlinkable.complaints(|node| if node == NodeId(2) { "b".into() } else { "c".into() })
    }

    #[test]
    fn what_stands_between_two_nodes_is_said_until_they_are_linked() {
        let unlinkable = Unlinkable::default();
        assert!(complaints(&unlinkable).is_empty());
        for _ in 0..3 {
            unlinkable.refused(NodeId(2), RefusedBy::Us, Refusal::OldLife { theirs: 1, known: 2 });
            unlinkable.refused(NodeId(2), RefusedBy::Them, protocols());
        }
        let said = "there is no link to b (n2): the node speaks versions 3 of the protocol and this one 4: bring both to the same una";
        assert_eq!(complaints(&unlinkable), [said]);
        assert!(!unlinkable.is_unwanted());
        unlinkable.forget(NodeId(2));
        assert!(complaints(&unlinkable).is_empty());
    }

    #[test]
    fn whom_nobody_wants_is_told_so_once() {
        let unlinkable = Unlinkable::default();
        for other in [2, 3] {
            unlinkable.refused(NodeId(other), RefusedBy::Them, Refusal::Dismissed("its disk is failing".into()));
        }
        let said =
            "the node was removed from the system: its disk is failing: una down, then una join with a new ticket";
        assert_eq!(complaints(&unlinkable), [said]);
        assert!(unlinkable.is_unwanted());
    }
}
