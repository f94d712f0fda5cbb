//! One order for what happens on many machines. This file knows no clock on any wall: it is told what they show.
//!
//! The one idea (Kulkarni, Demirbas, Madappa, Avva, Leone 2014): a stamp is the time of day with a counter behind it, and a node never
//! gives a stamp that is not greater than all it has given or seen. So what caused something else has the smaller stamp, whatever
//! the clocks show; and where clocks are right, stamps are the time of day.
//!
//! ```text
//!   stamp   milliseconds since 1970:48   counter:16
//! ```
//!
//! A machine whose clock is far ahead would drag everyone's stamps with it, for ever. So a stamp from further ahead of the clock on one's
//! own wall than [`AHEAD_MAX_MS`] is not taken over, and the caller is told. Only if more than half of the nodes are as far ahead it is
//! the own clock that is wrong, and they are followed. Nobody who is right shows a stamp beyond the bound, so this cannot creep.

use crate::ids::NodeId;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

/// A moment in the order of the whole computer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp(u64);

const COUNTER_BITS: u32 = 16;

impl Stamp {
    /// Before everything.
    pub const ZERO: Stamp = Stamp(0);

    /// The first stamp of this millisecond.
    pub fn at(wall: WallMs) -> Stamp {
        Stamp(wall.0.min((1 << (u64::BITS - COUNTER_BITS)) - 1) << COUNTER_BITS)
    }

    pub fn wall(self) -> WallMs {
        WallMs(self.0 >> COUNTER_BITS)
    }

    pub fn counter(self) -> u16 {
        self.0 as u16
    }

    pub fn to_bits(self) -> u64 {
        self.0
    }

    pub fn from_bits(bits: u64) -> Stamp {
        Stamp(bits)
    }

    /// The next one. A counter that is full carries into the milliseconds, so order is kept even then.
    fn next(self) -> Stamp {
        Stamp(self.0.checked_add(1).expect("the year 10889 is far"))
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}+{}", self.wall().0, self.counter())
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}+{}", self.wall().0, self.counter())
    }
}

/// The time of day as some machine's clock shows it: milliseconds since the beginning of 1970, leap seconds left out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct WallMs(pub u64);

/// How far ahead of one's own clock another's stamp may be. Machines without a time server drift by seconds in a week.
pub const AHEAD_MAX_MS: u64 = 60_000;

/// A stamp from too far in the future. One of the two machines' clocks is wrong; which, two machines cannot know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FarAhead {
    pub stamp: Stamp,
    pub by_ms: u64,
}

impl fmt::Display for FarAhead {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let minutes = self.by_ms / 60_000;
        write!(f, "its clock is {minutes} min {} s ahead of ours: set one of the two clocks", self.by_ms / 1000 % 60)
    }
}

/// The nodes that are remembered for the judgement whose clock is wrong: more would not make it better.
const PEERS_MAX: usize = 63;

/// A node's clock for stamps. What it gave last must outlive a restart, or be behind the time of day by then.
///
/// Invariant: it never goes back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HybridClock {
    last: Stamp,
    /// How far ahead of the clock here the last stamp of each was, in milliseconds.
    ahead: BTreeMap<NodeId, u64>,
}

impl HybridClock {
    /// `last`: a stamp that is not smaller than any that this node gave in its earlier lives.
    pub fn new(last: Stamp) -> HybridClock {
        HybridClock { last, ahead: BTreeMap::new() }
    }

    /// The stamp of something that happens here now, the sending of a message as well.
    pub fn stamp(&mut self, wall: WallMs) -> Stamp {
        self.last = self.last.next().max(Stamp::at(wall));
        self.last
    }

    /// Something with this stamp has come from there; whatever happens here from now on has a greater one. A stamp from far ahead changes
    /// nothing.
    pub fn heard(&mut self, wall: WallMs, from: NodeId, stamp: Stamp) -> Result<(), FarAhead> {
        let by_ms = stamp.wall().0.saturating_sub(wall.0);
        if self.ahead.len() < PEERS_MAX || self.ahead.contains_key(&from) {
            self.ahead.insert(from, by_ms);
        }
        if by_ms > AHEAD_MAX_MS + self.behind_ms() {
            return Err(FarAhead { stamp, by_ms });
        }
        self.last = self.last.max(stamp);
        Ok(())
    }

    /// How far the clock on this machine's wall is behind those of more than half of the nodes; zero if that is not much.
    pub fn behind_ms(&self) -> u64 {
        let mut all: Vec<u64> = self.ahead.values().copied().chain([0]).collect();
        all.sort_unstable();
        let median = all[(all.len() - 1) / 2];
        if median > AHEAD_MAX_MS { median } else { 0 }
    }

    /// The node belongs no more, or is down.
    pub fn forget(&mut self, node: NodeId) {
        self.ahead.remove(&node);
    }

    /// The greatest stamp so far, given or heard.
    pub fn last(&self) -> Stamp {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_follow_the_clock_and_never_go_back() {
        let mut clock = HybridClock::new(Stamp::ZERO);
        let first = clock.stamp(WallMs(1000));
        assert_eq!((first.wall(), first.counter()), (WallMs(1000), 0));
        assert_eq!(clock.stamp(WallMs(1000)).counter(), 1);
        let back = clock.stamp(WallMs(10));
        assert_eq!((back.wall(), back.counter()), (WallMs(1000), 2), "a clock that was set back");
        assert_eq!(clock.stamp(WallMs(1001)), Stamp::at(WallMs(1001)));
    }

    #[test]
    fn a_full_counter_carries() {
        let mut clock = HybridClock::new(Stamp::at(WallMs(5)));
        let mut last = clock.last();
        for _ in 0..70_000 {
            let stamp = clock.stamp(WallMs(5));
            assert!(stamp > last);
            last = stamp;
        }
        assert_eq!(last.wall(), WallMs(6));
    }

    const OTHER: NodeId = NodeId(2);

    #[test]
    fn what_is_heard_is_before_what_follows() {
        let mut clock = HybridClock::new(Stamp::ZERO);
        let heard = Stamp::at(WallMs(1000 + AHEAD_MAX_MS));
        assert_eq!(clock.heard(WallMs(1000), OTHER, heard), Ok(()));
        assert!(clock.stamp(WallMs(1000)) > heard);
    }

    #[test]
    fn what_comes_from_far_ahead_is_refused_and_said() {
        let mut clock = HybridClock::new(Stamp::ZERO);
        let stamp = Stamp::at(WallMs(1001 + AHEAD_MAX_MS));
        let refused = clock.heard(WallMs(1000), OTHER, stamp).unwrap_err();
        assert_eq!(refused, FarAhead { stamp, by_ms: AHEAD_MAX_MS + 1 });
        assert_eq!(alloc::format!("{refused}"), "its clock is 1 min 0 s ahead of ours: set one of the two clocks");
        assert_eq!(clock.stamp(WallMs(1000)), Stamp::at(WallMs(1000)), "it changed nothing");
    }

    #[test]
    fn a_clock_that_runs_away_takes_nobody_along_in_small_steps() {
        let (mut one, mut other) = (HybridClock::new(Stamp::ZERO), HybridClock::new(Stamp::ZERO));
        for step in 0..100 {
            let wall = WallMs(1_000_000 + step);
            let runaway = Stamp::at(WallMs(wall.0 + step * AHEAD_MAX_MS / 2));
            let _ = one.heard(wall, NodeId(3), runaway);
            let _ = other.heard(wall, NodeId(3), runaway);
            let (from_one, from_other) = (one.stamp(wall), other.stamp(wall));
            one.heard(wall, NodeId(2), from_other).expect("its clock is right");
            other.heard(wall, NodeId(1), from_one).expect("its clock is right");
            assert!(one.last().wall().0 <= wall.0 + AHEAD_MAX_MS + 1);
        }
    }

    #[test]
    fn who_is_alone_with_a_clock_set_back_follows_the_others() {
        let mut clock = HybridClock::new(Stamp::ZERO);
        let (here, there) = (WallMs(1000), WallMs(3_601_000));
        assert!(clock.heard(here, NodeId(2), Stamp::at(there)).is_err(), "one against one");
        assert_eq!(clock.heard(here, NodeId(3), Stamp::at(there)), Ok(()));
        assert_eq!(clock.behind_ms(), 3_600_000);
        assert_eq!(clock.heard(here, NodeId(2), Stamp::at(there)), Ok(()));
        assert!(clock.stamp(here) > Stamp::at(there));
        clock.forget(NodeId(2));
        assert_eq!(clock.behind_ms(), 0, "one against one again");
    }
}
