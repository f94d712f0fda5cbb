//! Sessions: what makes contents arrive at another node's kernel exactly once and in order, over a network that loses, doubles, reorders
//! and is cut. This file knows nothing of what the contents mean.
//!
//! The one idea: a session is between one life of this node and one life of the other, and no longer. Packets are numbered; what is not
//! acknowledged is sent again; a cut ends nothing. Only the certain end of a life does, or bytes that no kernel sends: then everything that
//! rested on the session ends, at once and on both sides.
//!
//! ```text
//!   pending  ------->  flight  ------ network ------>  ahead  -------->  part of a content  ------->  heeded
//!   contents not       packets: numbered, kept         packets that came   until its last packet
//!   sent yet; may be   until acknowledged              before their turn
//!   taken back
//! ```

use crate::Kernel;
use crate::agenda::Ticket;
use crate::foreign::{Delayed, Errand};
use crate::handles::Right;
use crate::limits::{
    ACKNOWLEDGE_NS, ACKNOWLEDGE_PACKETS, PACKET_BYTES_MAX, RESEND_NS_MAX, RESEND_NS_MIN, RESEND_PACKETS,
    SESSION_BYTES_MAX, WINDOW_PACKETS,
};
use crate::luggage::ADOPTED_MIN;
use crate::packet::{CONTENT_BYTES_MAX, Content, Header, PacketKind};
use crate::planted::{Bug, planted};
use crate::process::Process;
use crate::schedule::Due;
use crate::table::Key;
use crate::world::Effect;
use abi::ids::{NodeId, Time};
use abi::message::Bytes;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

/// Why a session was ended although both nodes live: the other kernel did what none does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Breach {
    /// Bytes that are no packet, or no content.
    Malformed,
    /// It acknowledged what was never sent.
    Acknowledged,
    /// It named a right that it does not hold, or more of one than it does.
    Right,
    /// It answered what it was not asked, or otherwise than it was asked.
    Errand,
    /// It went past a bound.
    Limit,
    /// It says that we did.
    Told,
}

/// What this kernel has with one life of another node.
///
/// Invariants: `flight` holds the packets from `first` on, none of which was acknowledged; `ahead` holds none below `expected`, and not
/// `expected` itself; a session that is over (`breach`) has nothing in it.
pub(crate) struct Session {
    pub life: u64,
    linked: bool,
    pub breach: Option<Breach>,

    pub pending: VecDeque<Pending>,
    pending_bytes: usize,
    flight: VecDeque<(PacketKind, Bytes)>,
    first: u64,
    /// All of `flight` goes out once more: there is a new link.
    again: bool,
    resends: u32,
    resend_at: Option<Time>,

    expected: u64,
    ahead: BTreeMap<u64, (PacketKind, Bytes)>,
    part: Vec<u8>,
    owed: u32,
    acknowledge_at: Option<Time>,
    /// The other side must be told that the session is over.
    tell: bool,
    alarm: Option<(Time, Ticket)>,

    /// What the other node holds here, by its number there. Even numbers are given out here, odd ones there.
    pub exports: BTreeMap<u64, Right>,
    pub next_export: u64,
    pub next_import: u64,
    /// Of the next offer to let another node answer.
    pub next_offer: u64,
    /// Numbers, chosen by the node where they are under way, of errands of processes that moved to the other one.
    pub next_adopted: u64,
    /// Those of processes that came from there.
    pub adopted: BTreeMap<u64, Key<Errand>>,
    /// What came so far of what a process takes along.
    pub luggage: Vec<u8>,
    /// What came behind a process that waits for its claims.
    pub behind: VecDeque<Content>,
    /// Whoever stands here for processes there, by their errands.
    pub stand_ins: BTreeMap<u64, Key<Process>>,
    /// Contents whose rights of third nodes are not claimed yet, in the order of arrival.
    pub delayed: Vec<Delayed>,
    /// Errands of ours of which it has still to say that it will not answer them.
    pub relieved: BTreeSet<u64>,
    /// Lives of third nodes from which the other node will not claim anything any more.
    pub settled: BTreeMap<NodeId, u64>,
    /// Lives of third nodes of whose acts the other node has said, in its turn, which ones it has taken: it takes no more.
    pub taken_over: BTreeMap<NodeId, u64>,
}

/// A content that was not sent yet.
pub(crate) struct Pending {
    pub content: Content,
    pub errand: Option<Key<Errand>>,
}

impl Session {
    pub fn new(life: u64) -> Session {
        Session {
            life,
            linked: false,
            breach: None,
            pending: VecDeque::new(),
            pending_bytes: 0,
            flight: VecDeque::new(),
            first: 1,
            again: false,
            resends: 0,
            resend_at: None,
            expected: 1,
            ahead: BTreeMap::new(),
            part: Vec::new(),
            owed: 0,
            acknowledge_at: None,
            tell: false,
            alarm: None,
            exports: BTreeMap::new(),
            next_export: 2,
            next_import: 1,
            next_offer: 1,
            next_adopted: ADOPTED_MIN,
            adopted: BTreeMap::new(),
            luggage: Vec::new(),
            behind: VecDeque::new(),
            stand_ins: BTreeMap::new(),
            delayed: Vec::new(),
            relieved: BTreeSet::new(),
            settled: BTreeMap::new(),
            taken_over: BTreeMap::new(),
        }
    }

    pub fn push(&mut self, content: Content, errand: Option<Key<Errand>>) {
        self.pending_bytes += content.bytes();
        self.pending.push_back(Pending { content, errand });
    }

    /// Whether what cannot wait may be added.
    pub fn has_room(&self) -> bool {
        self.pending_bytes < SESSION_BYTES_MAX
    }

    /// Takes an act back that was not sent yet; the rights in it go alone. False if it was sent.
    pub fn take_back(&mut self, errand: Key<Errand>) -> bool {
        let Some(pending) = self.pending.iter_mut().find(|pending| pending.errand == Some(errand)) else {
            return false;
        };
        let Content::Act { rights, .. } = &mut pending.content else {
            return false;
        };
        let rights = core::mem::take(rights);
        self.pending_bytes -= pending.content.bytes();
        *pending = Pending { content: Content::Void { rights }, errand: None };
        self.pending_bytes += pending.content.bytes();
        true
    }

    /// Takes a packet in: the contents that are whole by it.
    fn take(&mut self, header: Header, payload: &[u8], now: Time) -> Result<Vec<Content>, Breach> {
        let next = self.first + self.flight.len() as u64;
        if header.expected > next {
            return Err(Breach::Acknowledged);
        }
        while self.first < header.expected {
            self.flight.pop_front();
            self.first += 1;
            (self.resends, self.resend_at) = (0, None);
        }
        if header.kind == PacketKind::Closed {
            return Err(Breach::Told);
        }
        if header.kind == PacketKind::Acknowledgement {
            return Ok(Vec::new());
        }
        let expected = self.expected;
        if header.number < expected && !(planted(Bug::DoubledHeeded) && header.number + 1 == expected) {
            // It did not hear that this arrived.
            self.owed += 1;
            self.acknowledge_at = Some(now);
            return Ok(Vec::new());
        }
        if header.number >= expected + 2 * WINDOW_PACKETS as u64 {
            // Nobody may have so much under way; what is dropped comes again.
            return Ok(Vec::new());
        }
        if planted(Bug::DoubledHeeded) && header.number < expected {
            return Content::decode(payload).map(|content| alloc::vec![content]).map_err(|_| Breach::Malformed);
        }
        self.ahead.insert(header.number, (header.kind, Bytes::new(payload)));
        let mut contents = Vec::new();
        loop {
            let next = match planted(Bug::OrderIgnored) {
                true => self.ahead.pop_first().map(|(_, packet)| packet),
                false => self.ahead.remove(&self.expected),
            };
            let Some((kind, payload)) = next else { break };
            self.expected += 1;
            self.owed += 1;
            if kind == PacketKind::Last && self.part.is_empty() {
                contents.push(Content::decode(&payload).map_err(|_| Breach::Malformed)?);
                continue;
            }
            self.part.extend_from_slice(&payload);
            if self.part.len() > CONTENT_BYTES_MAX {
                return Err(Breach::Malformed);
            }
            if kind == PacketKind::Last {
                let content = Content::decode(&self.part).map_err(|_| Breach::Malformed)?;
                self.part.clear();
                contents.push(content);
            }
        }
        if self.acknowledge_at.is_none() {
            self.acknowledge_at = Some(now.after(ACKNOWLEDGE_NS));
        }
        Ok(contents)
    }

    /// What goes out now.
    fn transmit(&mut self, own_life: u64, to: NodeId, now: Time, effects: &mut Vec<Effect>) {
        let header = |session: &Session, kind, number| Header {
            kind,
            from_life: own_life,
            to_life: session.life,
            expected: session.expected,
            number,
        };
        if core::mem::take(&mut self.tell) {
            effects.push(Effect::Transmit { to, packet: header(self, PacketKind::Closed, 0).write(&[]) });
        }
        if self.breach.is_some() || !self.linked {
            return;
        }
        let resend = match self.resend_at {
            _ if core::mem::take(&mut self.again) => self.flight.len(),
            Some(at) if at <= now && !planted(Bug::LossForgotten) => {
                self.resends += 1;
                self.flight.len().min(RESEND_PACKETS)
            }
            _ => 0,
        };
        let mut sent = resend > 0;
        for (index, (kind, payload)) in self.flight.iter().take(resend).enumerate() {
            let packet = header(self, *kind, self.first + index as u64).write(payload);
            effects.push(Effect::Transmit { to, packet });
        }
        if sent {
            self.resend_at = None;
        }
        while self.flight.len() < WINDOW_PACKETS
            && let Some(pending) = self.pending.pop_front()
        {
            self.pending_bytes -= pending.content.bytes();
            let encoded = pending.content.encode();
            let mut pieces = encoded.chunks(PACKET_BYTES_MAX).peekable();
            while let Some(piece) = pieces.next() {
                let kind = if pieces.peek().is_some() { PacketKind::Part } else { PacketKind::Last };
                let number = self.first + self.flight.len() as u64;
                effects.push(Effect::Transmit { to, packet: header(self, kind, number).write(piece) });
                self.flight.push_back((kind, Bytes::new(piece)));
                sent = true;
            }
        }
        let is_due = self.owed >= ACKNOWLEDGE_PACKETS || self.acknowledge_at.is_none_or(|at| at <= now);
        if self.owed > 0 && !sent && is_due {
            let packet = header(self, PacketKind::Acknowledgement, 0).write(&[]);
            effects.push(Effect::Transmit { to, packet });
            sent = true;
        }
        if sent {
            (self.owed, self.acknowledge_at) = (0, None);
        }
        if self.owed == 0 {
            self.acknowledge_at = None;
        }
        if self.flight.is_empty() {
            self.resend_at = None;
        } else if self.resend_at.is_none() {
            let after = (RESEND_NS_MIN << self.resends.min(10)).min(RESEND_NS_MAX);
            self.resend_at = Some(now.after(after));
        }
    }

    /// When it must be looked at again if nothing happens.
    fn next_time(&self) -> Option<Time> {
        if !self.linked || self.breach.is_some() {
            return None;
        }
        [self.acknowledge_at, self.resend_at].into_iter().flatten().min()
    }

    pub fn alarm(&self) -> Option<Ticket> {
        self.alarm.map(|(_, ticket)| ticket)
    }

    /// How much of it is under way, on this side.
    pub fn under_way(&self) -> [(&'static str, usize); 7] {
        [
            ("contents", self.pending.len()),
            ("packets", self.flight.len()),
            ("waiting for claims", self.delayed.len()),
            ("stand-ins", self.stand_ins.len()),
            ("errands that came with a process", self.adopted.len()),
            ("bytes of luggage", self.luggage.len()),
            ("errands that were handed over", self.relieved.len()),
        ]
    }

    pub fn check(&self) {
        assert!(self.ahead.keys().all(|number| *number > self.expected), "a packet waits although it is its turn");
        let bytes: usize = self.pending.iter().map(|pending| pending.content.bytes()).sum();
        assert_eq!(bytes, self.pending_bytes, "a session miscounts what it is to send");
        if self.breach.is_some() {
            assert!(self.exports.is_empty() && self.stand_ins.is_empty(), "a session that is over holds something");
        }
        let waits = self.delayed.iter().any(|delayed| delayed.luggage.is_some());
        assert!(waits || self.behind.is_empty(), "contents wait behind nobody");
        let parts = CONTENT_BYTES_MAX / PACKET_BYTES_MAX + 2;
        assert!(self.flight.len() < WINDOW_PACKETS + parts, "more packets are under way than may be");
        assert!(self.ahead.len() <= 2 * WINDOW_PACKETS, "more packets wait than may");
        if self.linked && self.breach.is_none() {
            assert!(self.flight.is_empty() || self.resend_at.is_some(), "a packet would not be sent again");
            assert!(self.pending.is_empty() || !self.flight.is_empty(), "a content waits for nothing");
            assert!(self.owed == 0 || self.acknowledge_at.is_some(), "an acknowledgement waits for ever");
            let alarm = self.alarm.map(|(at, _)| at);
            assert!(
                self.next_time().is_none_or(|next| alarm.is_some_and(|alarm| alarm <= next)),
                "a session is not looked at in time"
            );
        }
    }
}

/// For fuzzing: whether these bytes read as a packet whose part, if it is whole, reads as a content. Never panics.
pub fn examine(packet: &[u8]) -> bool {
    match Header::read(packet) {
        Ok((Header { kind: PacketKind::Last, .. }, payload)) => Content::decode(payload).is_ok(),
        Ok(_) => true,
        Err(_) => false,
    }
}

impl Kernel {
    /// There is a link to that life of that node.
    pub(crate) fn linked(&mut self, node: NodeId, life: u64, effects: &mut Vec<Effect>) {
        if !self.meet(node, life, effects) {
            return;
        }
        let session = self.sessions.get_mut(&node).expect("who was met has a session");
        session.linked = true;
        session.again = true;
        session.tell = session.breach.is_some();
        self.stir_session(node);
    }

    pub(crate) fn unlinked(&mut self, node: NodeId) {
        if let Some(session) = self.sessions.get_mut(&node) {
            session.linked = false;
            self.stir_session(node);
        }
    }

    /// That life of that node is over.
    pub(crate) fn lost(&mut self, node: NodeId, life: u64, effects: &mut Vec<Effect>) {
        if node == self.node || self.over.get(&node).is_some_and(|over| *over >= life) {
            return;
        }
        if self.sessions.get(&node).is_some_and(|session| session.life <= life) {
            self.end_session(node, None, effects);
        }
        self.declare_over(node, life);
    }

    /// Sees to a session with that life of that node; false if that life is over, or is ourselves.
    fn meet(&mut self, node: NodeId, life: u64, effects: &mut Vec<Effect>) -> bool {
        let is_over = self.over.get(&node).is_some_and(|over| *over >= life) && !planted(Bug::OverHeeded);
        if self.life == 0 || node == self.node || is_over {
            return false;
        }
        match self.sessions.get(&node).map(|session| session.life) {
            Some(known) if known == life => return true,
            Some(known) if known > life => return false,
            Some(known) => {
                // A node has one life at a time.
                if planted(Bug::LifeIgnored) {
                    self.sessions.get_mut(&node).expect("it was just seen").life = life;
                    return true;
                }
                self.end_session(node, None, effects);
                self.declare_over(node, known);
            }
            // It may have been granted something in an earlier life, of whose end nobody told.
            None if life > 1 => self.declare_over(node, life - 1),
            None => {}
        }
        let mut session = Session::new(life);
        for (&third, &over) in &self.over {
            if third != node {
                session.push(Content::Settled { node: third, life: over }, None);
            }
        }
        for unclaimed in self.unclaimed.extract_if(.., |unclaimed| unclaimed.home == node && unclaimed.life <= life) {
            if unclaimed.life == life {
                unclaimed.give_back(&mut session);
            }
        }
        for (_, ticket) in self.forgone.range((node, 0)..=(node, u64::MAX)) {
            session.push(Content::Forgo { ticket: *ticket }, None);
        }
        self.sessions.insert(node, session);
        self.stir_session(node);
        self.ask_again(node);
        self.agree_late(node, life);
        true
    }

    /// A packet came.
    pub(crate) fn arrived(&mut self, from: NodeId, life: u64, packet: Bytes, effects: &mut Vec<Effect>) {
        if !self.meet(from, life, effects) {
            return;
        }
        let session = self.sessions.get_mut(&from).expect("who was met has a session");
        if session.breach.is_some() {
            // It may not know yet; what says the same needs no answer.
            session.tell = !matches!(Header::read(&packet), Ok((Header { kind: PacketKind::Closed, .. }, _)) | Err(_));
            return self.stir_session(from);
        }
        let contents = match Header::read(&packet) {
            // It is for another life of ours, which is over, or from another one than the link is.
            Ok((header, _)) if header.to_life != self.life || header.from_life != life => return,
            Ok((header, payload)) => session.take(header, payload, self.now),
            Err(_) => Err(Breach::Malformed),
        };
        self.stir_session(from);
        let mut result = Ok(());
        match contents {
            Ok(contents) => {
                for content in contents {
                    result = self.heed(from, content, effects);
                    // What was heeded may have ended the session.
                    if result.is_err() || self.sessions.get(&from).is_none_or(|session| session.breach.is_some()) {
                        break;
                    }
                    self.settle_abroad(effects);
                }
            }
            Err(breach) => result = Err(breach),
        }
        if let Err(breach) = result {
            self.end_session(from, Some(breach), effects);
        }
    }

    /// The session's part of this step is done at its end.
    pub(crate) fn stir_session(&mut self, node: NodeId) {
        if !self.stirred_sessions.contains(&node) {
            self.stirred_sessions.push(node);
        }
    }

    /// At the end of a step: what is to go to other nodes goes.
    pub(crate) fn flush_sessions(&mut self, effects: &mut Vec<Effect>) {
        for node in core::mem::take(&mut self.stirred_sessions) {
            let Some(session) = self.sessions.get_mut(&node) else {
                continue;
            };
            session.transmit(self.life, node, self.now, effects);
            let next = session.next_time();
            match (next, session.alarm) {
                (Some(next), Some((at, _))) if at <= next => {}
                (None, None) => {}
                (next, old) => {
                    if let Some((_, ticket)) = old {
                        self.alarms.take(ticket);
                    }
                    session.alarm = next.map(|at| (at, self.alarms.add(at, Due::Session(node))));
                }
            }
        }
    }

    /// The time has come that a session gave.
    pub(crate) fn session_due(&mut self, node: NodeId) {
        if let Some(session) = self.sessions.get_mut(&node) {
            session.alarm = None;
            self.stir_session(node);
        }
    }

    /// Ends a session; after a breach its place is kept, so that nothing of that life is heeded any more.
    pub(crate) fn end_session(&mut self, node: NodeId, breach: Option<Breach>, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.remove(&node) else {
            return;
        };
        if let Some((_, ticket)) = session.alarm {
            self.alarms.take(ticket);
        }
        let (life, linked) = (session.life, session.linked);
        if let Some(breach) = breach {
            let mut closed = Session::new(life);
            (closed.breach, closed.linked, closed.tell) = (Some(breach), linked, breach != Breach::Told);
            self.sessions.insert(node, closed);
            self.stir_session(node);
        }
        self.drop_foreign(node, session, effects);
        if breach.is_some() {
            self.settle_with_others(node, life);
        }
    }

    /// Why the session with that node was ended, if it was.
    pub fn breach(&self, node: NodeId) -> Option<Breach> {
        self.sessions.get(&node)?.breach
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::ids::NodeId;

    fn content(number: u64) -> Content {
        Content::Release { number }
    }

    fn packets(effects: &mut Vec<Effect>) -> Vec<Bytes> {
        let taken = core::mem::take(effects);
        taken
            .into_iter()
            .map(|effect| if let Effect::Transmit { packet, .. } = effect { packet } else { panic!() })
            .collect()
    }

    /// Two ends of one session: `a` of life 1 sends to `b` of life 2.
    fn ends() -> (Session, Session) {
        let (mut a, mut b) = (Session::new(2), Session::new(1));
        (a.linked, b.linked) = (true, true);
        (a, b)
    }

    fn take(session: &mut Session, packet: &Bytes) -> Vec<Content> {
        let (header, payload) = Header::read(packet).expect("it was written by a session");
        session.take(header, payload, Time(0)).expect("it was written by a session")
    }

    #[test]
    fn doubled_and_reordered_packets_give_each_content_once_and_in_order() {
        let (mut a, mut b) = ends();
        (0..5).for_each(|number| a.push(content(number), None));
        let mut effects = Vec::new();
        a.transmit(1, NodeId(2), Time(0), &mut effects);
        let sent = packets(&mut effects);
        assert_eq!(sent.len(), 5);
        let mut got = Vec::new();
        for index in [3, 1, 1, 0, 0, 4, 3, 2, 2] {
            got.extend(take(&mut b, &sent[index]));
        }
        assert_eq!(got, (0..5).map(content).collect::<Vec<_>>());
        // The acknowledgement empties the sender's hands.
        b.acknowledge_at = Some(Time(0));
        b.transmit(2, NodeId(1), Time(0), &mut effects);
        take(&mut a, &packets(&mut effects)[0]);
        assert!(a.under_way().iter().all(|(_, count)| *count == 0));
    }

    #[test]
    fn what_was_lost_is_sent_again_and_what_is_long_goes_in_parts() {
        let (mut a, mut b) = ends();
        let long = Bytes::new(&alloc::vec![7; 3 * PACKET_BYTES_MAX]);
        let act = crate::packet::Act::Write { pipe: 1, bytes: long, patience: crate::packet::Patience::None };
        let actor = abi::ids::ProcessId::new(NodeId(1), 1);
        let whole = Content::Act { errand: 1, actor, act, rights: Vec::new() };
        a.push(whole.clone(), None);
        let mut effects = Vec::new();
        a.transmit(1, NodeId(2), Time(0), &mut effects);
        let sent = packets(&mut effects);
        assert_eq!(sent.len(), 4);
        assert!(sent.iter().all(|packet| packet.len() <= PACKET_BYTES_MAX + crate::packet::HEADER_BYTES));
        assert_eq!(take(&mut b, &sent[0]), Vec::new());
        assert_eq!(take(&mut b, &sent[2]), Vec::new());
        a.transmit(1, NodeId(2), Time(RESEND_NS_MIN - 1), &mut effects);
        assert!(effects.is_empty(), "a packet was sent again too early");
        a.transmit(1, NodeId(2), Time(RESEND_NS_MIN), &mut effects);
        let again: Vec<Content> = packets(&mut effects).iter().flat_map(|packet| take(&mut b, packet)).collect();
        assert_eq!(again, [whole]);
    }

    #[test]
    fn what_was_not_sent_can_be_taken_back() {
        let (mut a, _) = ends();
        a.linked = false;
        let mut table = crate::table::Table::new(2);
        let errand = table.insert(Errand::for_nobody(NodeId(2))).expect("there is room");
        let actor = abi::ids::ProcessId::new(NodeId(1), 1);
        let act = Content::Act { errand: 1, actor, act: crate::packet::Act::Door, rights: Vec::new() };
        a.push(act, Some(errand));
        assert!(a.take_back(errand));
        assert!(!a.take_back(errand));
        a.check();
        assert_eq!(a.pending[0].content, Content::Void { rights: Vec::new() });
    }
}
