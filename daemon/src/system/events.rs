//! What happened, on this node and on all. Drives `services::events` with the clock and the wire; decides nothing of order itself.
//!
//! Stamps of the hybrid clock go with everything that one node sends another, since the wire asks for them ([`OnTheWire`]). So what follows
//! from something has a later stamp, whatever the machines' clocks say.

use super::ears::Question;
use super::view::EventView;
use super::{Directory, Inner, System};
use crate::node::Pid;
use abi::clock::{Stamp, WallMs};
use abi::ids::{NodeId, NodeKey, ProcessId};
use drivers::wire::Clock;
use services::events::{Batch, Event, Field, Kind, Log, Merged, Merger, Position};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// This node's log and clock.
pub struct Chronicle {
    log: Mutex<Log>,
    happened: Condvar,
}

fn wall() -> WallMs {
    WallMs(drivers::clock::now_ms())
}

impl Chronicle {
    pub fn new(node: NodeId, life: u64) -> Chronicle {
        // Stamps of earlier lives are behind the time of day by now, unless the clock was set back between two starts.
        let log = Log::new(node, life, Stamp::at(wall()));
        Chronicle { log: Mutex::new(log), happened: Condvar::new() }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("nothing panics while it holds this lock")
    }

    pub fn record(&self, kind: Kind) {
        self.log().record(wall(), kind);
        self.happened.notify_all();
    }

    pub fn batch(&self, from: Position) -> Batch {
        self.log().from(wall(), from)
    }

    pub fn wait(&self, timeout: Duration) {
        let log = self.log();
        let _ = self.happened.wait_timeout(log, timeout).expect("nothing panics while it holds this lock");
    }
}

/// This node's clock, as the wire asks it.
pub struct OnTheWire {
    pub chronicle: Arc<Chronicle>,
    pub directory: Arc<Directory>,
}

impl Clock for OnTheWire {
    fn stamp(&self) -> Stamp {
        self.chronicle.log().stamp(wall())
    }

    /// Stamps are believed of members only, and of those only as far as the clock here allows.
    fn heard(&self, peer: NodeKey, stamp: Stamp) {
        if let Some(from) = self.directory.number_of(peer) {
            self.chronicle.log().heard(wall(), from, stamp);
        }
    }
}

/// All nodes' events, for one who looks.
pub struct Follower {
    system: System,
    merger: Merger,
    /// Where to go on with a node that was not heard for a while.
    next: BTreeMap<NodeId, Position>,
    /// Those up to here are known already.
    after: Option<(Stamp, NodeId, Position)>,
}

impl System {
    /// `None`: `after` is not the position of an event.
    pub fn follow_events(&self, after: Option<&str>) -> Option<Follower> {
        let after = match after {
            None => None,
            Some(text) => Some(read_position(text)?),
        };
        Some(Follower { system: self.clone(), merger: Merger::new(), next: BTreeMap::new(), after })
    }
}

impl Follower {
    /// What is new and certain in its order.
    pub fn look(&mut self) -> Vec<EventView> {
        let inner = self.system.0.clone();
        let mut merged = vec![];
        let mut waiting: Vec<NodeId> = inner.others().iter().map(|(node, _)| *node).collect();
        waiting.push(inner.me);
        for node in &waiting {
            self.merger.follow(*node, self.next.get(node).copied().unwrap_or_default());
        }
        // A node with more events than one answer takes is asked again at once.
        while !waiting.is_empty() {
            let positions: BTreeMap<NodeId, Position> = self.merger.positions().collect();
            let mut again = vec![];
            for node in waiting {
                let Some(position) = positions.get(&node).copied() else { continue };
                match self.ask(&inner, node, position) {
                    Some(batch) => {
                        if batch.next != position && !batch.events.is_empty() {
                            again.push(node);
                        }
                        self.next.insert(node, batch.next);
                        self.merger.take(batch, &mut merged);
                    }
                    None => self.merger.lost(node, &mut merged),
                }
            }
            waiting = again;
        }
        let mut views = vec![];
        for one in merged {
            let event = match one {
                Merged::Event(event) | Merged::Late(event) => event,
                Merged::Missed { .. } => continue,
            };
            let position = (event.stamp, event.node, event.at);
            if self.after.is_none_or(|after| position > after) {
                views.push(view(&event));
            }
        }
        views
    }

    fn ask(&self, inner: &Inner, node: NodeId, position: Position) -> Option<Batch> {
        if node == inner.me {
            return Some(inner.chronicle.batch(position));
        }
        if !inner.health.is_up(node) {
            return None;
        }
        let question = Question::Events { life: position.life, serial: position.serial };
        let answer = inner.ask(node, &question).ok()?;
        Batch::decode(&answer).ok().filter(|batch| batch.node == node)
    }
}

fn view(event: &Event) -> EventView {
    let fields = event.kind.fields();
    let pid = fields.iter().find_map(|(_, field)| match field {
        Field::Process(process) => Some(Pid::from(*process)),
        _ => None,
    });
    let about = fields.iter().find_map(|(_, field)| match field {
        Field::Node(node) => Some(node.0),
        _ => None,
    });
    let Position { life, serial } = event.at;
    EventView {
        position: format!("{:x}-{}-{life}-{serial}", event.stamp.to_bits(), event.node.0),
        at_ms: event.stamp.wall().0,
        node: event.node.0,
        kind: event.kind.name().into(),
        text: said(&event.kind),
        pid,
        about,
    }
}

/// Processes are called as people call them: the first node's without its number.
fn said(kind: &Kind) -> String {
    let mut text = kind.to_string();
    for (_, field) in kind.fields() {
        if let Field::Process(process) = field {
            let process: ProcessId = process;
            text = text.replace(&process.to_string(), &Pid::from(process).to_string());
        }
    }
    text
}

fn read_position(text: &str) -> Option<(Stamp, NodeId, Position)> {
    let mut parts = text.split('-');
    let stamp = u64::from_str_radix(parts.next()?, 16).ok()?;
    let node = NodeId(parts.next()?.parse().ok()?);
    let position = Position { life: parts.next()?.parse().ok()?, serial: parts.next()?.parse().ok()? };
    parts.next().is_none().then_some((Stamp::from_bits(stamp), node, position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_written() {
        let log = Chronicle::new(NodeId(3), 7);
        log.record(Kind::SystemStarted { life: 7 });
        let event = log.batch(Position::default()).events.pop().unwrap();
        assert_eq!(read_position(&view(&event).position), Some((event.stamp, event.node, event.at)));
        for wrong in ["", "1-2-3", "1-2-3-4-5", "x-1-1-1", "1--1-1"] {
            assert_eq!(read_position(wrong), None, "{wrong}");
        }
    }

    fn key(node: u16) -> NodeKey {
        NodeKey([node as u8; 32])
    }

    /// The clock of a node that knows one other.
    fn clock(me: u16, other: u16) -> OnTheWire {
        let directory = Arc::new(Directory::default());
        directory.know(NodeId(other), key(other));
        OnTheWire { chronicle: Arc::new(Chronicle::new(NodeId(me), 1)), directory }
    }

    fn last(clock: &OnTheWire) -> Event {
        clock.chronicle.batch(Position::default()).events.pop().unwrap()
    }

    #[test]
    fn what_is_heard_is_before_what_follows() {
        let (one, other) = (clock(1, 2), clock(2, 1));
        // As if its clock were ahead.
        one.heard(key(2), Stamp::at(WallMs(wall().0 + 30_000)));
        one.chronicle.record(Kind::SystemStarted { life: 1 });
        other.heard(key(1), one.stamp());
        other.chronicle.record(Kind::SystemStarted { life: 1 });
        assert!(last(&one).stamp < last(&other).stamp);
    }

    #[test]
    fn stamps_from_far_ahead_and_of_strangers_move_no_clock() {
        let one = clock(1, 2);
        one.heard(key(3), Stamp::at(WallMs(wall().0 + 30_000)));
        for far in [Stamp::at(WallMs(wall().0 + 3_600_000)), Stamp::from_bits(u64::MAX)] {
            one.heard(key(2), far);
        }
        assert!(one.stamp() < Stamp::at(WallMs(wall().0 + 10_000)));
        let events = one.chronicle.batch(Position::default()).events;
        assert_eq!(events.len(), 1, "it is said once: {events:?}");
        assert!(matches!(events[0].kind, Kind::ClockAhead { node: NodeId(2), .. }));
    }
}
