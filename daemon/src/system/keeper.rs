//! Who votes. Runs on every node; acts where the coordinator's leader is. Knows who is a member and who is heard.
//!
//! ```text
//!   members     voters      the rest
//!   1           1
//!   2           1           a standby, which has every fact
//!   3, 4        3           standbys
//!   5 and more  5           standbys
//! ```
//! Two nodes have one voter because two voters survive no more losses than one, and stop at either's. Voters change when a node joins,
//! leaves, is removed or drained, or when one has been down for minutes while another could take its place: never because a machine
//! slept for a moment.

use super::member::Member;
use super::{Inner, SystemError, drain};
use abi::ids::NodeId;
use drivers::coordinator::{self, Coordinator, Quorum, Status};
use services::events::Kind;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(250);
/// A voter that is down for longer is replaced, if there is who could.
const LOST_AFTER: Duration = Duration::from_secs(300);
const ACT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the keeper sees of one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub up: bool,
    pub lost: bool,
    /// It hands its vote on if there is who could take it.
    pub draining: bool,
    /// It will be no member any more.
    pub leaving: bool,
}

/// Who should vote, given who does. Keeps whom it can.
pub fn wanted_voters(members: &BTreeMap<NodeId, Seen>, voters: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let may_vote = members.values().filter(|seen| !seen.leaving).count();
    let count = match may_vote {
        0..=2 => 1,
        3 | 4 => 3,
        _ => 5,
    };
    // Those that vote and may go on, then those that are up, in the order of their numbers: the oldest first.
    let rank = |node: &NodeId, seen: &Seen| match (voters.contains(node), seen) {
        (_, Seen { leaving: true, .. }) => None,
        (true, Seen { lost: false, draining: false, .. }) => Some(0),
        (false, Seen { up: true, draining: false, .. }) => Some(1),
        (true, Seen { lost: false, draining: true, .. }) => Some(2),
        (true, Seen { lost: true, .. }) => Some(3),
        (false, Seen { up: true, draining: true, .. }) => Some(4),
        (false, Seen { up: false, .. }) => None,
    };
    let mut ranked: Vec<(i32, NodeId)> =
        members.iter().filter_map(|(node, seen)| Some((rank(node, seen)?, *node))).collect();
    ranked.sort();
    // An even number of voters survives no more than the odd one below it.
    let possible = if ranked.len() >= count { count } else { ranked.len().saturating_sub(1) | 1 };
    let wanted: BTreeSet<NodeId> = ranked.into_iter().take(possible).map(|(_, node)| node).collect();
    if wanted.is_empty() { voters.clone() } else { wanted }
}

pub fn run(inner: &Arc<Inner>) {
    // In which life. One that has just begun is not as silent as the one before it was.
    let mut down_since: BTreeMap<NodeId, (u64, Instant)> = BTreeMap::new();
    let mut told = Told::default();
    while !inner.is_stopping() {
        std::thread::sleep(INTERVAL);
        Inner::follow_members(inner);
        drain::see_to(inner);
        let status = inner.raft.status();
        told.tell(inner, &status);
        if status.leader.as_ref().map(|leader| leader.id) != Some(u64::from(inner.me.0)) {
            down_since.clear();
            continue;
        }
        let now = Instant::now();
        let known: Vec<(NodeId, Member)> =
            inner.directory.members().iter().map(|(number, one)| (*number, one.clone())).collect();
        let mut members = BTreeMap::new();
        for (node, Member { draining, leaving, life, lost_after_s, given_up, .. }) in known {
            let up = node == inner.me || inner.health.is_up(node);
            let since = if up {
                down_since.remove(&node);
                now
            } else {
                let before = down_since.get(&node).copied().filter(|(silent, _)| *silent == life);
                let (_, since) = before.unwrap_or((life, now));
                down_since.insert(node, (life, since));
                since
            };
            let silent = now.duration_since(since);
            if lost_after_s > 0 && !given_up && silent > Duration::from_secs(lost_after_s) {
                // What could not be agreed on now is tried again.
                let _ = inner.give_up_on(node);
            }
            let lost = silent > LOST_AFTER;
            members.insert(node, Seen { up, lost, draining, leaving });
        }
        // What could not be done now is tried again: the next round looks anew.
        let _ = step(inner, &status, &members);
    }
}

/// What was last written down of the coordinator.
#[derive(Default)]
struct Told {
    leader: Option<NodeId>,
    voters: BTreeSet<NodeId>,
    holder: Option<NodeId>,
    lost: bool,
}

impl Told {
    fn tell(&mut self, inner: &Inner, status: &Status) {
        let leader = status.leader.as_ref().map(|leader| NodeId(leader.id as u16));
        if leader != self.leader {
            self.leader = leader;
            inner.chronicle.record(match leader {
                Some(leader) => Kind::LeaderChanged { leader, term: status.term },
                None => Kind::LeaderLost { term: status.term },
            });
        }
        let voters = ids(&status.voters);
        if voters != self.voters {
            self.voters = voters;
            inner.chronicle.record(Kind::VotersChanged { voters: self.voters.iter().copied().collect() });
        }
        let lost = match &status.quorum {
            Quorum::Answers { .. } => None,
            Quorum::Lost { why } => Some(why),
        };
        match (self.lost, lost) {
            (false, Some(why)) => inner.chronicle.record(Kind::QuorumLost { why: why.as_str().into() }),
            (true, None) => inner.chronicle.record(Kind::QuorumRegained {}),
            _ => {}
        }
        self.lost = lost.is_some();
        let holder = inner.files.view().holder;
        if let Some(to) = holder.filter(|_| holder != self.holder) {
            self.holder = holder;
            inner.chronicle.record(Kind::HolderMoved { what: "the tree of files".into(), to });
        }
    }
}

fn ids(members: &[coordinator::Member]) -> BTreeSet<NodeId> {
    members.iter().map(|member| NodeId(member.id as u16)).collect()
}

fn step(inner: &Inner, status: &Status, members: &BTreeMap<NodeId, Seen>) -> Result<(), SystemError> {
    let (voters, standbys) = (ids(&status.voters), ids(&status.standbys));
    let deadline = Instant::now() + ACT_TIMEOUT;
    if members.is_empty() {
        return Ok(());
    }
    for (node, seen) in members {
        if seen.up && !voters.contains(node) && !standbys.contains(node) {
            inner.raft.add(*node, deadline)?;
        }
    }
    for node in &standbys {
        if !members.contains_key(node) {
            inner.raft.remove(*node, deadline)?;
        }
    }
    let wanted = wanted_voters(members, &voters);
    let known = |node: &NodeId| voters.contains(node) || standbys.contains(node);
    if wanted != voters && wanted.iter().all(known) {
        inner.raft.set_voters(&wanted.into_iter().collect::<Vec<_>>(), deadline)?;
    }
    Ok(())
}

/// Before a member goes for good: another one votes in its place.
pub fn give_up_vote(inner: &Inner, node: NodeId, deadline: Instant) -> Result<(), SystemError> {
    inner.change_member(node, |member| (member.draining, member.leaving) = (true, true))?;
    loop {
        let status = inner.raft.status();
        if !ids(&status.voters).contains(&node) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(SystemError::NoQuorum(format!(
                "no other node could take the place of {node} among the voters"
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Seen = Seen { up: true, lost: false, draining: false, leaving: false };
    const DOWN: Seen = Seen { up: false, ..UP };
    const LOST: Seen = Seen { lost: true, ..DOWN };
    const DRAINING: Seen = Seen { draining: true, ..UP };
    const LEAVING: Seen = Seen { leaving: true, ..DRAINING };

    fn check(members: &[Seen], voters: &[u16], wanted: &[u16]) {
        let members = (1..).map(NodeId).zip(members.iter().copied()).collect();
        let set = |numbers: &[u16]| numbers.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        assert_eq!(wanted_voters(&members, &set(voters)), set(wanted), "{members:?} {voters:?}");
    }

    #[test]
    fn as_many_vote_as_help() {
        check(&[UP], &[1], &[1]);
        check(&[UP, UP], &[1], &[1]);
        check(&[UP, UP, UP], &[1], &[1, 2, 3]);
        check(&[UP, UP, UP, UP], &[1, 2, 3], &[1, 2, 3]);
        check(&[UP, UP, UP, UP, UP], &[1, 2, 3], &[1, 2, 3, 4, 5]);
    }

    #[test]
    fn who_sleeps_keeps_its_vote_and_who_is_lost_is_replaced() {
        check(&[UP, DOWN, UP, UP], &[1, 2, 3], &[1, 2, 3]);
        check(&[UP, LOST, UP, UP], &[1, 2, 3], &[1, 3, 4]);
        // Nobody could take its place.
        check(&[UP, LOST, UP], &[1, 2, 3], &[1, 2, 3]);
        check(&[UP, DOWN, UP], &[1], &[1]);
    }

    #[test]
    fn who_drains_hands_its_vote_on_if_somebody_can_take_it() {
        check(&[DRAINING, UP, UP, UP], &[1, 2, 3], &[2, 3, 4]);
        check(&[DRAINING, UP], &[1], &[2]);
        check(&[DRAINING, UP, UP], &[1, 2, 3], &[1, 2, 3]);
        check(&[DRAINING], &[1], &[1]);
    }

    #[test]
    fn who_leaves_votes_no_more() {
        check(&[LEAVING, UP, UP, UP], &[1, 2, 3], &[2, 3, 4]);
        check(&[LEAVING, UP, UP], &[1, 2, 3], &[2]);
        check(&[LEAVING, UP], &[1], &[2]);
    }
}
