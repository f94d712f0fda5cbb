//! What has happened in the whole computer, in one order. It knows no network: logs of single nodes are made here, and merged here, and how
//! they travel is not its business.
//!
//! The one idea: every node keeps its own events in a ring, with stamps of the hybrid clock (`abi::clock`); sorting by stamp is an order
//! that fits cause and effect. A node that answers says with the answer what its clock showed, so whoever merges knows that nothing
//! earlier can still come from there, and can let go of what is earlier than that on every node.
//!
//! ```text
//!   n1   ──●────●──────────●───┤ clock 17         given on:  everything before 12
//!   n2   ────●──────┤ clock 12                    held back: the rest, until n2 has said more
//!   n3   ──────────●──●────●───┤ clock 18
//! ```

mod kind;

pub use kind::{Ending, Field, Kind, TEXT_BYTES_MAX, Text, VOTERS_MAX};

use abi::clock::{FarAhead, HybridClock, Stamp, WallMs};
use abi::encoding::{Malformed, Reader, Writer};
use abi::ids::NodeId;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

/// A node keeps so many events, the latest.
pub const EVENTS_MAX: usize = 4096;
/// Events in one answer.
pub const BATCH_EVENTS_MAX: usize = 256;
/// A merger holds back so many; then it lets the earliest go, and says that order is not certain any more.
pub const HELD_MAX: usize = 16 * 1024;

/// Something that happened on a node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Event {
    pub stamp: Stamp,
    pub node: NodeId,
    pub at: Position,
    pub kind: Kind,
}

/// A place in one node's log: its life, and how many events of that life come before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Position {
    pub life: u64,
    pub serial: u64,
}

/// Some of a node's events from a position on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    pub node: NodeId,
    pub events: Vec<Event>,
    /// So many events from the position on are not kept any more.
    pub missed: u64,
    /// Where to go on.
    pub next: Position,
    /// Every event of the node that is not in this batch or an earlier one has a greater stamp than this.
    pub complete: Stamp,
}

/// The log of one node, and its clock.
///
/// Invariants: the stamps rise; the serials have no gaps.
pub struct Log {
    node: NodeId,
    life: u64,
    clock: HybridClock,
    ring: VecDeque<Event>,
    /// The serial of the next event.
    next: u64,
    /// Who has been said to have a clock that is wrong, so that it is said once.
    skewed: BTreeSet<NodeId>,
    /// It has been said of this node itself.
    behind: bool,
}

impl Log {
    /// `last` is not smaller than any stamp of an earlier life.
    pub fn new(node: NodeId, life: u64, last: Stamp) -> Log {
        Log {
            node,
            life,
            clock: HybridClock::new(last),
            ring: VecDeque::new(),
            next: 0,
            skewed: BTreeSet::new(),
            behind: false,
        }
    }

    /// Something happens here.
    pub fn record(&mut self, wall: WallMs, kind: Kind) -> Stamp {
        let stamp = self.clock.stamp(wall);
        if self.ring.len() == EVENTS_MAX {
            self.ring.pop_front();
        }
        let at = Position { life: self.life, serial: self.next };
        self.next += 1;
        self.ring.push_back(Event { stamp, node: self.node, at, kind });
        stamp
    }

    /// The stamp for a message that is sent now.
    pub fn stamp(&mut self, wall: WallMs) -> Stamp {
        self.clock.stamp(wall)
    }

    /// A message with this stamp has come. A clock that is wrong becomes an event, once until it is right again.
    pub fn heard(&mut self, wall: WallMs, from: NodeId, stamp: Stamp) {
        match self.clock.heard(wall, from, stamp) {
            Ok(()) => {
                self.skewed.remove(&from);
            }
            Err(FarAhead { by_ms, .. }) => {
                if self.skewed.len() < HELD_MAX && self.skewed.insert(from) {
                    self.record(wall, Kind::ClockAhead { node: from, by_ms });
                }
            }
        }
        let by_ms = self.clock.behind_ms();
        if by_ms > 0 && !self.behind {
            self.record(wall, Kind::ClockBehind { by_ms });
        }
        self.behind = by_ms > 0;
    }

    /// The node belongs no more: its clock is not looked at any more.
    pub fn forget(&mut self, node: NodeId) {
        self.clock.forget(node);
        self.skewed.remove(&node);
    }

    /// What must outlive a restart.
    pub fn last_stamp(&self) -> Stamp {
        self.clock.last()
    }

    /// Where the next event will be.
    pub fn end(&self) -> Position {
        Position { life: self.life, serial: self.next }
    }

    /// The position before the last `count` events that are kept.
    pub fn tail(&self, count: usize) -> Position {
        Position { life: self.life, serial: self.next - count.min(self.ring.len()) as u64 }
    }

    /// Events from the position on. A position of an earlier life is before all of this one.
    pub fn from(&mut self, wall: WallMs, position: Position) -> Batch {
        let wanted = if position.life == self.life { position.serial.min(self.next) } else { 0 };
        let kept = self.next - self.ring.len() as u64;
        let start = wanted.max(kept);
        let events: Vec<Event> =
            self.ring.iter().skip((start - kept) as usize).take(BATCH_EVENTS_MAX).cloned().collect();
        let next = Position { life: self.life, serial: start + events.len() as u64 };
        // A stamp given now is smaller than that of anything that has not happened yet.
        let complete = match events.last() {
            Some(last) if next.serial < self.next => last.stamp,
            _ => self.clock.stamp(wall),
        };
        Batch { node: self.node, events, missed: start - wanted, next, complete }
    }

    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        let events = || self.ring.iter();
        assert!(events().zip(events().skip(1)).all(|(one, other)| one.stamp < other.stamp), "stamps rise");
        assert!(events().zip(events().skip(1)).all(|(one, other)| one.at.serial + 1 == other.at.serial), "no gaps");
        assert!(self.ring.len() <= EVENTS_MAX);
    }
}

/// What comes out of a merger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Merged {
    Event(Event),
    /// An event that came after later ones had been given on: its node could not be asked in time, or its clock cannot be trusted.
    Late(Event),
    /// So many events of the node are kept nowhere any more.
    Missed {
        node: NodeId,
        count: u64,
    },
}

/// Several nodes' logs as one.
///
/// Invariant: what is held back is later than what was given on.
#[derive(Default)]
pub struct Merger {
    /// Where each node's log goes on, and up to where it is complete.
    sources: BTreeMap<NodeId, Source>,
    held: BTreeMap<(Stamp, NodeId, Position), Event>,
    /// The greatest stamp that was given on.
    given: Stamp,
}

#[derive(Clone, Copy, Default)]
struct Source {
    next: Position,
    complete: Stamp,
}

impl Merger {
    pub fn new() -> Merger {
        Merger::default()
    }

    /// The node is asked from this position on; nothing later than what it answers is given on before it answers.
    pub fn follow(&mut self, node: NodeId, from: Position) {
        self.sources.entry(node).or_insert(Source { next: from, complete: Stamp::ZERO });
    }

    /// The node cannot be asked now: do not wait for it. What it says later may come late.
    pub fn lost(&mut self, node: NodeId, into: &mut Vec<Merged>) {
        self.sources.remove(&node);
        self.give_on(into);
    }

    /// Where to ask which node next.
    pub fn positions(&self) -> impl Iterator<Item = (NodeId, Position)> {
        self.sources.iter().map(|(node, source)| (*node, source.next))
    }

    /// A node has answered. Batches of nodes that are not followed, and those that were asked for twice, change nothing.
    pub fn take(&mut self, batch: Batch, into: &mut Vec<Merged>) {
        let Some(source) = self.sources.get_mut(&batch.node) else { return };
        if batch.next < source.next {
            return;
        }
        if batch.missed > 0 {
            into.push(Merged::Missed { node: batch.node, count: batch.missed });
        }
        for event in batch.events {
            if event.node != batch.node || event.at < source.next {
                continue;
            }
            if event.stamp <= self.given {
                into.push(Merged::Late(event));
            } else {
                self.held.insert((event.stamp, event.node, event.at), event);
            }
        }
        (source.next, source.complete) = (batch.next, source.complete.max(batch.complete));
        self.give_on(into);
    }

    fn give_on(&mut self, into: &mut Vec<Merged>) {
        let complete = self.sources.values().map(|source| source.complete).min().unwrap_or(Stamp::from_bits(u64::MAX));
        while let Some(entry) = self.held.first_entry() {
            if entry.key().0 > complete && self.held.len() <= HELD_MAX {
                break;
            }
            let event = self.held.pop_first().expect("it was just looked at").1;
            self.given = self.given.max(event.stamp);
            into.push(Merged::Event(event));
        }
    }
}

// The form on the wire.

impl Event {
    fn write(&self, writer: &mut Writer) {
        writer.u64(self.stamp.to_bits()).u32(self.node.0.into()).u64(self.at.life).u64(self.at.serial);
        self.kind.write(writer);
    }

    fn read(reader: &mut Reader) -> Result<Event, Malformed> {
        let stamp = Stamp::from_bits(reader.u64()?);
        let node = kind::node(reader)?;
        let at = Position { life: reader.u64()?, serial: reader.u64()? };
        Ok(Event { stamp, node, at, kind: Kind::read(reader)? })
    }
}

impl Batch {
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u32(self.node.0.into()).u64(self.missed).u64(self.next.life).u64(self.next.serial);
        writer.u64(self.complete.to_bits()).u32(self.events.len() as u32);
        self.events.iter().for_each(|event| event.write(&mut writer));
        writer.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<Batch, Malformed> {
        let mut reader = Reader::new(bytes);
        let node = kind::node(&mut reader)?;
        let missed = reader.u64()?;
        let next = Position { life: reader.u64()?, serial: reader.u64()? };
        let complete = Stamp::from_bits(reader.u64()?);
        let count = reader.u32()? as usize;
        if count > BATCH_EVENTS_MAX {
            return Err(reader.malformed());
        }
        let events = (0..count).map(|_| Event::read(&mut reader)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Batch { node, events, missed, next, complete })
    }
}

#[cfg(test)]
mod tests;
