//! Where a process is now. It knows no network: messages come in and go out, and may be lost, doubled and late.
//!
//! The one idea: a process that never moved is where its number says it was born, and nobody keeps anything about it. For one that moved,
//! the node that it left keeps a *forward*, and one node that all can compute keeps an *entry*: its *keeper*, the living member with the
//! highest weight for that number (rendezvous hashing; Thaler, Ravishankar 1998). When members come or go only the entries of those
//! change their keeper, and whoever runs a process tells the new one. Everything here may be lost and comes back by itself.
//!
//! ```text
//!   asked for a process:   here?  ─►  a hint?  ─►  its birthplace: there, or its forward  ─►  its keeper's entry  ─►  nowhere
//!                            if it was not there: the node where it was looked for, which may have a forward, before its keeper
//! ```
//!
//! A place carries how often the process has moved, so that of two answers the later one is known.

use abi::encoding::{Malformed, Reader, Writer};
use abi::ids::{NodeId, ProcessId, Time};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

/// Then the oldest is forgotten; its keeper still knows.
pub const FORWARDS_MAX: usize = 1 << 14;
/// Then the oldest is forgotten.
pub const HINTS_MAX: usize = 1 << 12;
/// Entries that are kept for others. Then a new one is refused, and its node tells it again later.
pub const ENTRIES_MAX: usize = 1 << 18;
/// Questions that wait for an answer. Then a new one is answered at once: unknown.
pub const QUESTIONS_MAX: usize = 1 << 12;
/// How long one node's answer is waited for.
const ANSWER_NS: u64 = 500_000_000;
/// How often what no keeper has confirmed is told again, and how much of it at once.
const RETELL_NS: u64 = 1_000_000_000;
const RETELL_MAX: usize = 64;

/// A process is on a node, having moved so many times.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    pub moves: u32,
    pub node: NodeId,
}

/// The caller's own number for a question.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input<'a> {
    Tick,
    /// The living members and their lives; this node is one of them, also if it is not among them yet. Who is not among them may come
    /// again, with all that runs there.
    Members(&'a [(NodeId, u64)]),
    /// It is no member any more, for good.
    Removed {
        node: NodeId,
    },
    /// The process runs here from now on; born here (no moves), or moved here.
    Here {
        process: ProcessId,
        moves: u32,
    },
    /// It has moved from here.
    MovedAway {
        process: ProcessId,
        to: NodeId,
        moves: u32,
    },
    /// It has ended here.
    Ended {
        process: ProcessId,
    },
    /// `silent`: that node is not reached at this moment. If it is said to be there, others are asked whether they know better.
    Where {
        process: ProcessId,
        ticket: Ticket,
        silent: Option<NodeId>,
    },
    /// What was sent to this node has not left: nobody waits for its answer.
    Unreached {
        node: NodeId,
    },
    /// It was not where it was said to be: forget that, and ask again.
    Stale {
        process: ProcessId,
        place: Place,
    },
    /// Another node took it to be here, and is to know better, if this one does.
    Misled {
        process: ProcessId,
        by: NodeId,
    },
    Packet {
        from: NodeId,
        bytes: &'a [u8],
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It may be lost.
    Send { to: NodeId, packet: Vec<u8> },
    /// None: it has ended, or whoever knew of it is gone.
    Found { ticket: Ticket, process: ProcessId, place: Option<Place> },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Message {
    /// The process is at the sender, in that life of it. Answered by `Kept`.
    Tell {
        process: ProcessId,
        moves: u32,
        life: u64,
    },
    Kept {
        process: ProcessId,
        moves: u32,
    },
    /// It has ended at the sender.
    Forget {
        process: ProcessId,
        moves: u32,
    },
    Ask {
        process: ProcessId,
    },
    Answer {
        process: ProcessId,
        place: Option<Place>,
    },
}

/// What one node knows of where processes are.
///
/// Invariants: every table has a bound; a process that runs here has no hint and no forward here.
pub struct Location {
    me: NodeId,
    life: u64,
    members: Vec<(NodeId, u64)>,
    /// The latest life of each member that was ever among them.
    lives: BTreeMap<NodeId, u64>,
    /// What runs here: how often it has moved, and the keeper that has confirmed it.
    here: BTreeMap<ProcessId, Here>,
    /// What this node keeps for others, and in which life of its node each was told.
    entries: BTreeMap<ProcessId, (Place, u64)>,
    forwards: Recent,
    hints: Recent,
    /// Places where somebody here has looked in vain: what is not later than that is not believed.
    refuted: Recent,
    questions: BTreeMap<ProcessId, Question>,
    waiting: usize,
    retell_at: Option<Time>,
}

#[derive(Clone, Copy)]
struct Here {
    moves: u32,
    confirmed: Option<(NodeId, u64)>,
}

struct Question {
    stage: Stage,
    tickets: Vec<Ticket>,
    until: Time,
    /// Where it was last, on a node that is not heard: the answer if nobody knows better.
    last: Option<Place>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Birthplace(NodeId),
    /// Where it was looked for in vain: it may have moved on from there.
    Refuted(NodeId),
    Keeper(NodeId),
}

impl Stage {
    fn node(self) -> NodeId {
        let (Stage::Birthplace(node) | Stage::Refuted(node) | Stage::Keeper(node)) = self;
        node
    }
}

/// Places, of which the oldest goes first when there are too many.
struct Recent {
    places: BTreeMap<ProcessId, (Place, u64)>,
    order: VecDeque<(ProcessId, u64)>,
    serial: u64,
    max: usize,
}

impl Recent {
    fn new(max: usize) -> Recent {
        Recent { places: BTreeMap::new(), order: VecDeque::new(), serial: 0, max }
    }

    fn get(&self, process: ProcessId) -> Option<Place> {
        self.places.get(&process).map(|(place, _)| *place)
    }

    /// Of two places the one with more moves stays.
    fn put(&mut self, process: ProcessId, place: Place) {
        if self.get(process).is_some_and(|known| known >= place) {
            return;
        }
        self.serial += 1;
        self.places.insert(process, (place, self.serial));
        self.order.push_back((process, self.serial));
        while self.places.len() > self.max || self.order.len() > 2 * self.max {
            let Some((oldest, serial)) = self.order.pop_front() else { return };
            if self.places.get(&oldest).is_some_and(|(_, latest)| *latest == serial) {
                self.places.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, process: ProcessId) {
        self.places.remove(&process);
    }
}

/// How much a member is the keeper of a process: the highest weight is (splitmix64's mixing of both numbers).
fn weight(process: ProcessId, node: NodeId) -> u64 {
    let mut mixed = process.to_bits() ^ u64::from(node.0).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// The member that keeps the entry of the process, if there are any members.
pub fn keeper(process: ProcessId, members: impl IntoIterator<Item = NodeId>) -> Option<NodeId> {
    members.into_iter().max_by_key(|node| (weight(process, *node), *node))
}

impl Location {
    pub fn new(me: NodeId, life: u64) -> Location {
        Location {
            me,
            life,
            members: Vec::new(),
            lives: BTreeMap::new(),
            here: BTreeMap::new(),
            entries: BTreeMap::new(),
            forwards: Recent::new(FORWARDS_MAX),
            hints: Recent::new(HINTS_MAX),
            refuted: Recent::new(HINTS_MAX),
            questions: BTreeMap::new(),
            waiting: 0,
            retell_at: None,
        }
    }

    /// Takes one input and appends what is wanted.
    pub fn step(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Tick => self.tick(now, effects),
            Input::Members(members) => self.change_members(now, members, effects),
            Input::Removed { node } => {
                self.entries.retain(|_, (place, _)| place.node != node);
                for places in [&mut self.hints, &mut self.forwards] {
                    places.places.retain(|_, (place, _)| place.node != node);
                }
            }
            Input::Here { process, moves } => {
                // Of what came here both its coming and its start may be told, in any order.
                let moves = self.here.get(&process).map_or(moves, |here| here.moves.max(moves));
                for places in [&mut self.hints, &mut self.forwards, &mut self.refuted] {
                    places.remove(process);
                }
                self.here.insert(process, Here { moves, confirmed: None });
                self.tell(now, process, effects);
                let place = Place { moves, node: self.me };
                self.answer(process, Some(place), effects);
            }
            Input::MovedAway { process, to, moves } => {
                self.here.remove(&process);
                self.forwards.put(process, Place { moves, node: to });
            }
            Input::Ended { process } => self.ended(process, effects),
            Input::Where { process, ticket, silent } => self.ask(now, process, ticket, silent, effects),
            Input::Unreached { node } => self.ask_others(now, |asked| asked == node, effects),
            Input::Stale { process, place } => {
                if self.hints.get(process) == Some(place) {
                    self.hints.remove(process);
                }
                self.refuted.put(process, place);
            }
            Input::Misled { process, by } => {
                if let Some(place) = self.told_to_others(process) {
                    effects.push(send(by, Message::Answer { process, place: Some(place) }));
                }
            }
            Input::Packet { from, bytes } => {
                // What cannot be read is as good as lost.
                if let Ok(message) = Message::decode(bytes) {
                    self.receive(now, from, message, effects);
                }
            }
        }
    }

    /// When the next [`Input::Tick`] is due.
    pub fn wake(&self) -> Option<Time> {
        let questions = self.questions.values().map(|question| question.until).min();
        questions.into_iter().chain(self.retell_at).min()
    }

    fn life_of(&self, node: NodeId) -> Option<u64> {
        self.members.iter().find(|(member, _)| *member == node).map(|(_, life)| *life)
    }

    fn keeper(&self, process: ProcessId) -> Option<(NodeId, u64)> {
        let node = keeper(process, self.members.iter().map(|(node, _)| *node))?;
        Some((node, self.life_of(node)?))
    }

    /// Does anybody have to keep an entry of it? Not while whoever asks would ask this node first.
    fn needs_keeper(&self, process: ProcessId) -> bool {
        process.born() != self.me
    }

    fn tell(&mut self, now: Time, process: ProcessId, effects: &mut Vec<Effect>) {
        let Some(here) = self.here.get(&process).copied().filter(|_| self.needs_keeper(process)) else { return };
        let Some((keeper, life)) = self.keeper(process) else { return };
        if keeper == self.me {
            self.entries.remove(&process);
            self.here.insert(process, Here { confirmed: Some((keeper, life)), ..here });
            return;
        }
        if here.confirmed != Some((keeper, life)) {
            effects.push(send(keeper, Message::Tell { process, moves: here.moves, life: self.life }));
            self.retell_at.get_or_insert(now.after(RETELL_NS));
        }
    }

    fn change_members(&mut self, now: Time, members: &[(NodeId, u64)], effects: &mut Vec<Effect>) {
        let mut members = members.to_vec();
        if members.iter().all(|(node, _)| *node != self.me) {
            members.push((self.me, self.life));
        }
        members.sort_unstable();
        for (node, life) in &members {
            let before = self.lives.insert(*node, *life);
            if before.is_some_and(|before| before < *life) {
                // What was there has ended, or was taken up: whoever did that knows.
                for places in [&mut self.hints, &mut self.forwards] {
                    places.places.retain(|_, (place, _)| place.node != *node);
                }
            }
        }
        self.members.clone_from(&members);
        let alive = |node: NodeId| members.iter().any(|(member, _)| *member == node);
        // What ran in an earlier life of a node has ended; what another keeps now is told to it by whoever runs it. Of a node that is not
        // heard the places are kept: it may come again, and until then it is said who is not heard.
        let me = self.me;
        self.entries.retain(|process, (place, life)| match members.iter().find(|(node, _)| *node == place.node) {
            Some((_, now)) => *life >= *now && keeper(*process, members.iter().map(|(node, _)| *node)) == Some(me),
            None => true,
        });
        let unsure: Vec<ProcessId> =
            self.here.keys().copied().filter(|process| self.is_unconfirmed(*process)).collect();
        unsure.iter().take(RETELL_MAX).for_each(|process| self.tell(now, *process, effects));
        if unsure.len() > RETELL_MAX {
            self.retell_at = Some(now);
        }
        self.ask_others(now, |asked| !alive(asked), effects);
    }

    /// Those who were asked do not answer any more.
    fn ask_others(&mut self, now: Time, is_lost: impl Fn(NodeId) -> bool, effects: &mut Vec<Effect>) {
        let lost = |question: &Question| is_lost(question.stage.node());
        let lost: Vec<ProcessId> =
            self.questions.iter().filter(|(_, question)| lost(question)).map(|(process, _)| *process).collect();
        lost.into_iter().for_each(|process| self.ask_next(now, process, effects));
    }

    fn is_unconfirmed(&self, process: ProcessId) -> bool {
        let confirmed = self.here.get(&process).and_then(|here| here.confirmed);
        self.needs_keeper(process) && (confirmed.is_none() || confirmed != self.keeper(process))
    }

    fn tick(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if self.retell_at.is_some_and(|at| at <= now) {
            self.retell_at = None;
            let unsure = self.here.keys().copied().filter(|process| self.is_unconfirmed(*process));
            let unsure: Vec<ProcessId> = unsure.take(RETELL_MAX + 1).collect();
            unsure.iter().take(RETELL_MAX).for_each(|process| self.tell(now, *process, effects));
            if unsure.len() > RETELL_MAX {
                self.retell_at = Some(now.after(RETELL_NS / 10));
            }
        }
        let late = self.questions.iter().filter(|(_, question)| question.until <= now).map(|(process, _)| *process);
        late.collect::<Vec<_>>().into_iter().for_each(|process| self.ask_next(now, process, effects));
    }

    fn ended(&mut self, process: ProcessId, effects: &mut Vec<Effect>) {
        let Some(here) = self.here.remove(&process) else { return };
        if let Some((keeper, _)) = self.keeper(process)
            && keeper != self.me
            && self.needs_keeper(process)
        {
            // If it is lost, whoever asks is sent here and told that it is not.
            effects.push(send(keeper, Message::Forget { process, moves: here.moves }));
        }
        self.answer(process, None, effects);
    }

    /// What this node knows without asking anyone.
    fn known(&self, process: ProcessId) -> Option<Place> {
        if let Some(here) = self.here.get(&process) {
            return Some(Place { moves: here.moves, node: self.me });
        }
        let places = [self.hints.get(process), self.forwards.get(process), self.entry(process)];
        places.into_iter().flatten().max().filter(|place| self.is_news(process, *place))
    }

    /// Hints are hearsay: they are not passed on.
    fn told_to_others(&self, process: ProcessId) -> Option<Place> {
        let here = self.here.get(&process).map(|here| Place { moves: here.moves, node: self.me });
        [here, self.forwards.get(process), self.entry(process)].into_iter().flatten().max()
    }

    fn entry(&self, process: ProcessId) -> Option<Place> {
        self.entries.get(&process).map(|(place, _)| *place)
    }

    fn is_news(&self, process: ProcessId, place: Place) -> bool {
        self.refuted.get(process).is_none_or(|refuted| refuted < place)
    }

    fn ask(
        &mut self, now: Time, process: ProcessId, ticket: Ticket, silent: Option<NodeId>, effects: &mut Vec<Effect>,
    ) {
        let known = self.known(process);
        let is_heard = |node: NodeId| node == self.me || (self.life_of(node).is_some() && silent != Some(node));
        let is_heard = known.is_some_and(|place| is_heard(place.node));
        if is_heard || self.waiting >= QUESTIONS_MAX {
            effects.push(Effect::Found { ticket, process, place: known });
            return;
        }
        self.waiting += 1;
        if let Some(question) = self.questions.get_mut(&process) {
            question.tickets.push(ticket);
            return;
        }
        let born = process.born();
        let is_there = born != self.me && self.life_of(born).is_some() && silent != Some(born);
        let stage = if is_there { Some(Stage::Birthplace(born)) } else { self.refuted_stage(process) };
        match stage {
            Some(stage) => {
                self.questions.insert(
                    process,
                    Question { stage, tickets: [ticket].into(), until: now.after(ANSWER_NS), last: known },
                );
                self.send_question(process, stage, effects);
            }
            None => {
                self.waiting -= 1;
                effects.push(Effect::Found { ticket, process, place: known });
            }
        }
    }

    fn refuted_stage(&self, process: ProcessId) -> Option<Stage> {
        let node = self.refuted.get(process).map(|refuted| refuted.node);
        let node = node.filter(|node| *node != self.me && *node != process.born() && self.life_of(*node).is_some());
        node.map(Stage::Refuted).or_else(|| self.keeper_stage(process))
    }

    /// None if this node is the keeper itself: it has looked already.
    fn keeper_stage(&self, process: ProcessId) -> Option<Stage> {
        let (keeper, _) = self.keeper(process)?;
        (keeper != self.me).then_some(Stage::Keeper(keeper))
    }

    fn send_question(&self, process: ProcessId, stage: Stage, effects: &mut Vec<Effect>) {
        effects.push(send(stage.node(), Message::Ask { process }));
    }

    /// The one who was asked does not know, or does not answer.
    fn ask_next(&mut self, now: Time, process: ProcessId, effects: &mut Vec<Effect>) {
        let Some(question) = self.questions.get(&process) else { return };
        let next = match question.stage {
            Stage::Birthplace(_) => self.refuted_stage(process),
            Stage::Refuted(_) => self.keeper_stage(process),
            Stage::Keeper(_) => None,
        };
        match next {
            Some(stage) => {
                let question = self.questions.get_mut(&process).expect("it was just looked at");
                (question.stage, question.until) = (stage, now.after(ANSWER_NS));
                self.send_question(process, stage, effects);
            }
            None => {
                let last = question.last.filter(|last| self.is_news(process, *last));
                self.answer(process, last, effects);
            }
        }
    }

    fn answer(&mut self, process: ProcessId, place: Option<Place>, effects: &mut Vec<Effect>) {
        let Some(question) = self.questions.remove(&process) else { return };
        self.waiting -= question.tickets.len();
        for ticket in question.tickets {
            effects.push(Effect::Found { ticket, process, place });
        }
    }

    fn receive(&mut self, now: Time, from: NodeId, message: Message, effects: &mut Vec<Effect>) {
        match message {
            Message::Tell { process, moves, life } => {
                let place = Place { moves, node: from };
                let known = self.entries.get(&process).copied();
                if known.is_none() && self.entries.len() >= ENTRIES_MAX {
                    return;
                }
                // It runs here, or has been somewhere later: what arrived is old.
                let is_here = self.here.get(&process).is_some_and(|here| here.moves >= moves);
                if !is_here && known.is_none_or(|known| known < (place, life)) {
                    self.entries.insert(process, (place, life));
                }
                effects.push(send(from, Message::Kept { process, moves }));
            }
            Message::Kept { process, moves } => {
                let life = self.life_of(from);
                if let Some(here) = self.here.get_mut(&process)
                    && here.moves == moves
                {
                    here.confirmed = life.map(|life| (from, life));
                }
            }
            Message::Forget { process, moves } => {
                if self.entry(process) == Some(Place { moves, node: from }) {
                    self.entries.remove(&process);
                }
            }
            Message::Ask { process } => {
                let place = self.told_to_others(process);
                effects.push(send(from, Message::Answer { process, place }));
            }
            Message::Answer { process, place } => {
                let question = self.questions.get(&process).filter(|question| question.stage.node() == from);
                let is_asked = question.is_some();
                let last = question.and_then(|question| question.last);
                match place {
                    Some(place)
                        if is_asked
                            && place.node != self.me
                            && last.is_none_or(|last| last < place)
                            && self.is_news(process, place) =>
                    {
                        self.hints.put(process, place);
                        self.answer(process, Some(place), effects);
                    }
                    // It does not know, or knows what is known to be over.
                    _ if is_asked => self.ask_next(now, process, effects),
                    // What it was looked for by was wrong.
                    Some(place)
                        if place.node != self.me && self.hints.get(process).is_some_and(|hint| hint < place) =>
                    {
                        self.hints.put(process, place);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        for process in self.here.keys() {
            assert!(self.hints.get(*process).is_none() && self.forwards.get(*process).is_none(), "it is here");
        }
        assert!(self.hints.places.len() <= HINTS_MAX && self.forwards.places.len() <= FORWARDS_MAX);
        assert!(self.entries.len() <= ENTRIES_MAX && self.waiting <= QUESTIONS_MAX);
        let tickets: usize = self.questions.values().map(|question| question.tickets.len()).sum();
        assert_eq!(tickets, self.waiting);
    }
}

fn send(to: NodeId, message: Message) -> Effect {
    Effect::Send { to, packet: message.encode() }
}

impl Message {
    fn encode(self) -> Vec<u8> {
        let mut writer = Writer::default();
        match self {
            Message::Tell { process, moves, life } => writer.u8(1).u64(process.to_bits()).u32(moves).u64(life),
            Message::Kept { process, moves } => writer.u8(2).u64(process.to_bits()).u32(moves),
            Message::Forget { process, moves } => writer.u8(3).u64(process.to_bits()).u32(moves),
            Message::Ask { process } => writer.u8(4).u64(process.to_bits()),
            Message::Answer { process, place: None } => writer.u8(5).u64(process.to_bits()),
            Message::Answer { process, place: Some(place) } => {
                writer.u8(6).u64(process.to_bits()).u32(place.moves).u32(place.node.0.into())
            }
        };
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        let process = ProcessId::from_bits(reader.u64()?);
        let message = match kind {
            1 => Message::Tell { process, moves: reader.u32()?, life: reader.u64()? },
            2 => Message::Kept { process, moves: reader.u32()? },
            3 => Message::Forget { process, moves: reader.u32()? },
            4 => Message::Ask { process },
            5 => Message::Answer { process, place: None },
            6 => {
                let moves = reader.u32()?;
                let node = u16::try_from(reader.u32()?).map_err(|_| reader.malformed())?;
                Message::Answer { process, place: Some(Place { moves, node: NodeId(node) }) }
            }
            _ => return Err(reader.malformed()),
        };
        reader.finish()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests;
