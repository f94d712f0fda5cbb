//! Acts that are under way through a node which only passes their outcomes on: the node where they are answers straight. This file knows
//! nothing of rights: see `ways`.
//!
//! The one idea: *a stand-in changes whom it stands in for*. Nothing is asked again and nothing leaves its queue, so nothing can happen
//! twice; and of each errand every node between hears exactly one last word: its outcome, or that somebody else will tell it.
//!
//! ```text
//!   X asked A (e)             A's stand-in for X asked Y (f)                 Y's stand-in for A waits
//!   |<----- Onward e: at Y, offer o --|                                             |
//!   |------ Agreed e: o, as g ------->|------ HandOver f: to X, as g -------------->|  it stands in for X now
//!   |<---------------------------------------------- Taken g -----------------------|
//!   |<----- Relieved e ---------------|<----- HandedOver f -------------------------|
//! ```
//! If the outcome is on its way when it is handed over, there is no stand-in any more at Y, and it comes through A as ever. If A is lost, X
//! waits until Y has said either `Taken` or that nothing can come from A any more. If Y is X itself, whoever waits there goes on standing
//! in, for somebody of its own node.

use crate::Kernel;
use crate::call::ServerSide;
use crate::foreign::{Abroad, Errand, Purpose, What};
use crate::limits::ERRANDS_MAX;
use crate::luggage::ADOPTED_MIN;
use crate::packet::Content;
use crate::planted::{Bug, planted};
use crate::process::{Cause, Process, State, Waiting};
use crate::session::{Breach, Session};
use crate::table::Key;
use crate::watch::Subject;
use crate::ways::HeldAct;
use crate::world::Effect;
use abi::ids::NodeId;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Who asked agreed that another node answers.
pub(crate) struct Handing {
    pub at: NodeId,
    turn: u64,
    /// The node that was asked has said that it has no part in it any more.
    relieved: bool,
    /// It is lost, in this life; the other node knows whether it was handed over before.
    lost: Option<(NodeId, u64)>,
    /// The other node is lost: so is the act, if it was handed over.
    at_lost: bool,
}

/// A node, in a life of it, that can answer an errand, as the node between says, with the number of its saying so.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    pub at: NodeId,
    pub life: u64,
    pub number: u64,
}

/// What was said of an errand that shall be handed over.
#[derive(Clone, Copy)]
pub(crate) struct HandOver {
    pub turn: u64,
    pub to: NodeId,
    pub life: u64,
    pub number: u64,
    pub next: u64,
}

/// What this node asks of itself.
pub(crate) enum Inward {
    Act(HeldAct),
    Withdraw { errand: u64, cause: Cause },
}

/// The node between.
impl Kernel {
    /// Those who stand in for processes of that node, by their errands.
    pub(crate) fn stand_ins(&mut self, node: NodeId) -> &mut BTreeMap<u64, Key<Process>> {
        if node == self.node {
            return &mut self.own_stand_ins;
        }
        &mut self.sessions.get_mut(&node).expect("who says something has a session").stand_ins
    }

    pub(crate) fn is_handing(&self, key: Key<Process>) -> bool {
        let abroad = self.processes.get(key).and_then(|process| process.abroad.as_deref());
        abroad.is_some_and(|abroad| abroad.handing)
    }

    /// The errand at another node of which this stand-in only passes the outcome on.
    pub(crate) fn middle(&self, key: Key<Process>) -> Option<Key<Errand>> {
        let process = self.processes.get(key)?;
        let abroad = process.abroad.as_deref()?;
        let State::Waiting { waiting, .. } = &process.state else { return None };
        let errand = match waiting {
            Waiting::Away { errand } => *errand,
            Waiting::Call { call } => match self.calls.get(*call)?.server_side {
                ServerSide::Away(errand) => errand,
                _ => return None,
            },
            Waiting::Notice { watch } => match self.watches.get(*watch)?.subject {
                Subject::Abroad { errand, .. } => errand,
                _ => return None,
            },
            Waiting::Post if process.used.children == 0 => match self.outposts.get(&key)?.as_slice() {
                [one] => *one,
                _ => return None,
            },
            _ => return None,
        };
        let known = self.errands.get(errand)?;
        (abroad.errand != 0 && known.what() != What::Flush).then_some(errand)
    }

    /// The stand-in, if it is one, that waits for this errand.
    fn waits_for(&self, errand: Key<Errand>) -> Option<Key<Process>> {
        let process = match self.errands.get(errand)?.purpose {
            Purpose::Process(process) | Purpose::Child(process) => process,
            Purpose::Call(call) => self.calls.get(call)?.caller,
            Purpose::Watch(watch) => self.watches.get(watch)?.owner,
            Purpose::Kept(_) | Purpose::Way | Purpose::Nobody => return None,
        };
        (self.middle(process) == Some(errand)).then_some(process)
    }

    pub(crate) fn look_at_errand(&mut self, errand: Option<Key<Errand>>) {
        self.looked_at.extend(errand.and_then(|errand| self.waits_for(errand)));
    }

    /// A process left: all that its node still does for others is looked at.
    pub(crate) fn look_at_all(&mut self) {
        let stand_ins = self.processes.iter().filter(|(_, process)| process.abroad.is_some());
        self.looked_at.extend(stand_ins.map(|(key, _)| key));
    }

    /// At the end of a step: whoever only passes something on is made needless.
    pub(crate) fn relieve(&mut self, effects: &mut Vec<Effect>) {
        while let Some(key) = self.looked_at.pop() {
            self.look(key, effects);
        }
        if !self.handovers.is_empty() {
            self.hand_over(effects);
            while let Some(key) = self.looked_at.pop() {
                self.look(key, effects);
            }
        }
    }

    fn look(&mut self, key: Key<Process>, effects: &mut Vec<Effect>) {
        let Some(errand) = self.middle(key) else { return };
        let Errand { node: at, ref handing, .. } = self.errands[errand];
        if self.errands[errand].withdrawn().is_some() || self.is_handing(key) || self.is_held_back(errand) {
            return;
        }
        let is_lost = handing.as_ref().is_some_and(|handing| handing.lost.is_some());
        let process = self.processes.get_mut(key).expect("who is in the middle is there");
        let abroad = process.abroad.as_deref_mut().expect("who is in the middle stands in");
        let (asker, number) = (abroad.node, abroad.errand);
        if at == self.node {
            return self.join_inner(key, errand, effects);
        }
        if asker == self.node {
            return self.join_outer(key, errand, number, effects);
        }
        if abroad.offered.is_some_and(|offer| offer.at == at) || is_lost || planted(Bug::HandedNever) {
            return;
        }
        let life = self.sessions[&at].life;
        let session = self.sessions.get_mut(&asker).expect("whoever is stood in for has a session");
        let offer = Offer { at, life, number: session.next_offer };
        session.next_offer += 1;
        abroad.offered = Some(offer);
        self.tell(asker, Content::Onward { errand: number, at, life, offer: offer.number });
    }

    /// Two stand-ins at this node, of which the first waits for what the second does: the second is enough.
    fn join_inner(&mut self, outer: Key<Process>, errand: Key<Errand>, effects: &mut Vec<Effect>) {
        let number = self.errands[errand].number;
        let Some(inner) = self.own_stand_ins.get(&number).copied() else { return };
        if self.is_handing(inner) {
            return;
        }
        let abroad = self.processes[outer].abroad.as_deref().expect("it stands in");
        let (node, asked, turn) = (abroad.node, abroad.errand, abroad.turn);
        self.remove_errand(errand);
        self.discard_middle(outer, effects);
        self.own_stand_ins.remove(&number);
        self.set_asker(inner, node, asked, turn);
    }

    /// A process of this node waits for a stand-in of its own node that waits for another: it waits for that one itself. The second errand
    /// stays, since other nodes know it by its number, or were told it as the one by which to take the act over.
    fn join_outer(&mut self, middle: Key<Process>, inner: Key<Errand>, number: u64, effects: &mut Vec<Effect>) {
        let Some(outer) = self.find_errand(self.node, number) else { return };
        self.discard_middle(middle, effects);
        let waited_for = self.remove_errand(outer);
        match waited_for.purpose {
            Purpose::Process(process) => {
                let State::Waiting { waiting: Waiting::Away { errand }, .. } = &mut self.processes[process].state
                else {
                    unreachable!("who has an errand waits for it")
                };
                *errand = inner;
            }
            Purpose::Call(call) => self.calls[call].server_side = ServerSide::Away(inner),
            Purpose::Watch(watch) => {
                if let Subject::Abroad { errand, .. } = &mut self.watches[watch].subject {
                    *errand = inner;
                }
            }
            Purpose::Kept(import) => self.imports[import].reading = Some(inner),
            Purpose::Child(parent) => {
                let errands = self.outposts.get_mut(&parent).expect("a parent knows where its children are");
                errands.iter_mut().filter(|errand| **errand == outer).for_each(|errand| *errand = inner);
            }
            Purpose::Way | Purpose::Nobody => {}
        }
        let errand = &mut self.errands[inner];
        let Errand { node, number, turn, handing, elsewhere, .. } = core::mem::replace(errand, waited_for);
        (errand.node, errand.number, errand.turn) = (node, number, turn);
        (errand.handing, errand.elsewhere) = (handing, elsewhere);
        self.look_at_errand(Some(inner));
    }

    fn set_asker(&mut self, key: Key<Process>, node: NodeId, errand: u64, turn: u64) {
        let abroad = Abroad { node, errand, turn, offered: None, handing: false };
        **self.processes[key].abroad.as_mut().expect("who stands in goes on standing in") = abroad;
        self.stand_ins(node).insert(errand, key);
        self.looked_at.push(key);
    }

    /// A stand-in goes, and nobody is told: somebody else tells.
    fn discard_middle(&mut self, key: Key<Process>, effects: &mut Vec<Effect>) {
        let State::Waiting { waiting, .. } = &mut self.processes[key].state else {
            unreachable!("who is in the middle waits")
        };
        match core::mem::replace(waiting, Waiting::Post) {
            Waiting::Call { call } => drop(self.calls.remove(call)),
            Waiting::Notice { watch } => self.forget_watch(watch),
            Waiting::Post => drop(self.outposts.remove(&key)),
            _ => {}
        }
        self.remove_stand_in(key, effects);
    }

    /// The asker lets the node where its errand is answer. It may have agreed to an older offer, and to a newer one since; if the act is
    /// where it was by then, the asker would not expect it from there.
    pub(crate) fn heed_agreed(&mut self, from: NodeId, errand: u64, offer: u64, (number, next): (u64, u64)) {
        let Some(key) = self.sessions[&from].stand_ins.get(&errand).copied() else { return };
        let offered = self.processes[key].abroad.as_ref().and_then(|abroad| abroad.offered);
        let Some(Offer { at, .. }) = offered.filter(|offered| offered.number == offer) else { return };
        let Some(inner) = self.middle(key) else { return };
        let known = &self.errands[inner];
        let (node, inner_number, turn) = (known.node, known.number, known.turn);
        let withdrawn = known.withdrawn().is_some();
        let elsewhere =
            node != at || at == self.node || withdrawn || known.handing.as_ref().is_some_and(|h| h.lost.is_some());
        if elsewhere || self.is_handing(key) || self.is_held_back(inner) {
            return;
        }
        self.processes[key].abroad.as_mut().expect("it stands in").handing = true;
        let life = self.sessions[&from].life;
        self.tell(at, Content::HandOver { errand: inner_number, turn, to: from, life, number, next });
    }

    /// Somebody else answers an errand of ours.
    pub(crate) fn heed_handed_over(
        &mut self, from: NodeId, errand: u64, effects: &mut Vec<Effect>,
    ) -> Result<(), Breach> {
        let Some(key) = self.find_errand(from, errand) else { return Err(Breach::Errand) };
        if self.errands[key].purpose == Purpose::Nobody {
            self.remove_errand(key);
            return Ok(());
        }
        let Some(middle) = self.waits_for(key).filter(|middle| self.is_handing(*middle)) else {
            return Err(Breach::Errand);
        };
        let abroad = self.processes[middle].abroad.as_deref().expect("it stands in");
        let (asker, number) = (abroad.node, abroad.errand);
        self.remove_errand(key);
        self.discard_middle(middle, effects);
        // What was agreed of it is not meant for the same errand when that comes back here, by another way.
        self.handovers.remove(&(asker, number));
        self.tell(asker, Content::Relieved { errand: number });
        Ok(())
    }
}

/// Where the act is.
impl Kernel {
    pub(crate) fn heed_hand_over(&mut self, from: NodeId, errand: u64, hand: HandOver) -> Result<(), Breach> {
        if hand.to == from || hand.number == 0 || hand.number >= ADOPTED_MIN {
            return Err(Breach::Errand);
        }
        let waiting = self.handovers.range((from, 0)..=(from, u64::MAX)).count();
        if waiting >= 2 * ERRANDS_MAX as usize {
            return Err(Breach::Limit);
        }
        self.handovers.insert((from, errand), hand);
        Ok(())
    }

    /// Hands over what can be; the rest waits, for who stands in to begin, or for the other node to be met.
    fn hand_over(&mut self, effects: &mut Vec<Effect>) {
        let all: Vec<((NodeId, u64), HandOver)> = self.handovers.iter().map(|(key, hand)| (*key, *hand)).collect();
        for ((from, errand), HandOver { turn, to, life, number, next }) in all {
            let Some(session) = self.sessions.get(&from).filter(|session| session.breach.is_none()) else {
                self.handovers.remove(&(from, errand));
                continue;
            };
            let Some(key) = session.stand_ins.get(&errand).copied() else {
                // Its outcome is on its way.
                if !session.delayed.iter().any(|delayed| delayed.is_act(errand)) {
                    self.handovers.remove(&(from, errand));
                }
                continue;
            };
            // The act has left and come back by another way since that was said.
            if self.processes[key].abroad.as_ref().is_none_or(|abroad| abroad.turn != turn) {
                self.handovers.remove(&(from, errand));
                continue;
            }
            if self.is_handing(key) {
                continue;
            }
            if to == self.node {
                self.handovers.remove(&(from, errand));
                self.hand_inward(key, from, errand, (number, next), effects);
                continue;
            }
            match self.sessions.get(&to) {
                Some(session) if session.life == life && session.breach.is_none() => {
                    // The act has been here before and left in a circle: first what stood in for it then has to be relieved.
                    if session.stand_ins.contains_key(&number) {
                        continue;
                    }
                    self.handovers.remove(&(from, errand));
                    self.stand_ins(from).remove(&errand);
                    self.set_asker(key, to, number, next);
                    self.tell(to, Content::Taken { errand: number });
                    self.tell(from, Content::HandedOver { errand });
                    if planted(Bug::HandedTwice) {
                        self.tell(from, Content::HandedOver { errand });
                    }
                }
                Some(session) if session.life >= life => drop(self.handovers.remove(&(from, errand))),
                None if self.over.get(&to).is_some_and(|over| *over >= life) => {
                    self.handovers.remove(&(from, errand));
                }
                _ => {}
            }
        }
    }

    /// Who asked is at this node.
    fn hand_inward(
        &mut self, key: Key<Process>, from: NodeId, errand: u64, (number, turn): (u64, u64), effects: &mut Vec<Effect>,
    ) {
        let asker = Key::<Errand>::from_bits(number - 1);
        let known = self.errands.get(asker).filter(|asked| asked.node == from);
        let agreed = known.and_then(|asked| asked.handing.as_ref()).is_some_and(|handing| handing.at == self.node);
        if !agreed {
            return;
        }
        self.stand_ins(from).remove(&errand);
        self.set_asker(key, self.node, number, turn);
        self.answered_by(asker, self.node);
        self.tell(from, Content::HandedOver { errand });
        let withdrawn = self.errands[asker].withdrawn();
        if let Some(cause) = withdrawn {
            self.dismiss(key, cause, effects);
            self.settle_abroad(effects);
        }
    }
}

/// Who asked.
impl Kernel {
    pub(crate) fn heed_onward(&mut self, from: NodeId, errand: u64, offer: Offer) -> Result<(), Breach> {
        if offer.at == from {
            return Err(Breach::Errand);
        }
        if let Some(key) = self.find_errand(from, errand) {
            self.agree(key, offer);
        }
        Ok(())
    }

    /// Lets the node where an errand is answer it, if there is a session with it.
    fn agree(&mut self, key: Key<Errand>, offer: Offer) {
        let errand = &mut self.errands[key];
        if errand.withdrawn().is_some() || errand.handing.as_ref().is_some_and(|handing| handing.lost.is_some()) {
            return;
        }
        let (node, number) = (errand.node, errand.number);
        let Offer { at, life, number: offered } = offer;
        let known = self.sessions.get(&at).filter(|session| session.breach.is_none());
        let is_met = at == self.node || known.is_some_and(|session| session.life == life);
        // It may have been at another node before, which is met later: to that it is not given any more.
        self.errands[key].elsewhere = (!is_met).then_some(offer);
        if !is_met {
            return;
        }
        let errand = &mut self.errands[key];
        let turn = errand.handing.as_ref().map_or(errand.turn, |handing| handing.turn) + 1;
        errand.handing = Some(Handing { at, turn, relieved: false, lost: None, at_lost: false });
        self.tell(node, Content::Agreed { errand: number, offer: offered, number: key.to_bits() + 1, turn });
    }

    /// There is a session with that node: what is under way there can be answered from there.
    pub(crate) fn agree_late(&mut self, node: NodeId, life: u64) {
        let met = |offer: &Offer| (offer.at, offer.life) == (node, life);
        let late = self.errands.iter().filter_map(|(key, errand)| Some((key, errand.elsewhere.filter(met)?)));
        for (key, offer) in late.collect::<Vec<_>>() {
            self.errands[key].elsewhere = None;
            self.agree(key, offer);
        }
    }

    /// The node where an errand is answers it from now on.
    pub(crate) fn heed_taken(&mut self, from: NodeId, number: u64) -> Result<(), Breach> {
        let key = Key::<Errand>::from_bits(number.checked_sub(1).ok_or(Breach::Errand)?);
        let handing = self.errands.get(key).and_then(|errand| errand.handing.as_ref());
        if handing.is_none_or(|handing| handing.at != from) {
            // It was given up when the node between was lost: what comes of it is for nobody.
            let session = self.sessions.get_mut(&from).expect("who says something has a session");
            session.expect_no_more(number)?;
            self.tell(from, Content::Withdraw { errand: number, expired: 0 });
            return Ok(());
        }
        self.answered_by(key, from);
        let withdrawn = self.errands[key].withdrawn();
        if let Some(cause) = withdrawn
            && !planted(Bug::HandedNotWithdrawn)
        {
            self.withdraw_errand(key, cause);
        }
        Ok(())
    }

    fn answered_by(&mut self, key: Key<Errand>, node: NodeId) {
        let errand = &mut self.errands[key];
        let (old, number) = (errand.node, errand.number);
        let handing = errand.handing.take();
        (errand.node, errand.number, errand.elsewhere) = (node, key.to_bits() + 1, None);
        errand.turn = handing.as_ref().map_or(errand.turn, |handing| handing.turn);
        let settled = handing.is_some_and(|handing| handing.relieved || handing.lost.is_some());
        if let Some(session) = self.sessions.get_mut(&old)
            && old != node
        {
            session.adopted.remove(&number);
            if !settled {
                session.relieved.insert(number);
            }
        }
        if let Some(middle) = self.waits_for(key) {
            let abroad = self.processes[middle].abroad.as_mut().expect("it stands in");
            (abroad.offered, abroad.handing) = (None, false);
            self.looked_at.push(middle);
        }
    }

    /// The node that was asked has no part in it any more.
    pub(crate) fn heed_relieved(&mut self, from: NodeId, errand: u64) -> Result<(), Breach> {
        let session = self.sessions.get_mut(&from).expect("who says something has a session");
        if session.relieved.remove(&errand) {
            return Ok(());
        }
        let key = self.find_errand(from, errand).ok_or(Breach::Errand)?;
        let handing = self.errands[key].handing.as_mut().ok_or(Breach::Errand)?;
        handing.relieved = true;
        if handing.at_lost {
            self.lose_errand(key, true);
        }
        Ok(())
    }

    /// A session is over. What was perhaps handed over waits for word of that; what was, and is at that node, is lost.
    pub(crate) fn keep_handed(&mut self, node: NodeId, session: &Session) {
        self.handovers.retain(|(from, _), _| *from != node);
        let keys: Vec<Key<Errand>> = self.errands.iter().map(|(key, _)| key).collect();
        for key in keys {
            let Some(errand) = self.errands.get_mut(key) else { continue };
            let Some(handing) = &mut errand.handing else { continue };
            let (at, relieved) = (handing.at, handing.relieved);
            if at == node {
                handing.at_lost = true;
                if relieved && errand.node != node {
                    self.lose_errand(key, true);
                }
                continue;
            }
            // If both are lost it is lost with the second: a later life of the first knows nothing of it, and would never say so.
            let both = handing.at_lost && !planted(Bug::HandedToNextLife);
            if errand.node != node || both {
                continue;
            }
            let known = self.sessions.get(&at).filter(|other| other.breach.is_none());
            let settled = |other: &Session| other.taken_over.get(&node).is_some_and(|life| *life >= session.life);
            if session.breach.is_some() || known.is_none_or(|other| settled(other) && !relieved) {
                continue;
            }
            if planted(Bug::HandedLost) {
                continue;
            }
            handing.lost = Some((node, session.life));
            (errand.node, errand.number) = (at, key.to_bits() + 1);
        }
    }

    /// Another node says that nothing can come to it any more from one that is lost.
    pub(crate) fn orphans_settled(&mut self, from: NodeId, node: NodeId, life: u64) {
        let session = self.sessions.get_mut(&from).expect("who says something has a session");
        let known = session.taken_over.entry(node).or_insert(0);
        *known = life.max(*known);
        let lost = |errand: &Errand| {
            let handing = errand.handing.as_ref().filter(|handing| errand.node == from && !handing.relieved);
            handing.and_then(|handing| handing.lost).is_some_and(|(other, until)| other == node && until <= life)
        };
        let keys: Vec<Key<Errand>> =
            self.errands.iter().filter(|(_, errand)| lost(errand)).map(|(key, _)| key).collect();
        for key in keys {
            if self.errands.get(key).is_some() {
                self.lose_errand(key, true);
            }
        }
    }
}

/// This node.
impl Kernel {
    /// Does what this node asks of itself.
    pub(crate) fn go_inward(&mut self, inward: Inward, effects: &mut Vec<Effect>) {
        match inward {
            Inward::Act(HeldAct { errand, actor, act, lent, rights }) => {
                let number = errand.map_or(0, |errand| self.errands[errand].number);
                let done = self.perform(self.node, number, actor, act, lent, rights, effects);
                done.expect("what a node asks of itself can be done");
                // It may have been asked for somebody of another node, who was looked at while it was held back.
                if !planted(Bug::HandedInwardNever) {
                    self.look_at_errand(errand);
                }
            }
            Inward::Withdraw { errand, cause } => {
                if let Some(key) = self.own_stand_ins.get(&errand).copied() {
                    self.dismiss(key, cause, effects);
                }
            }
        }
    }

    /// This node's acts that another may have been told to answer straight, by their numbers there: the node that was asked, and that
    /// other one.
    pub fn handed(&self) -> impl Iterator<Item = (u64, NodeId, NodeId)> {
        let open = |handing: &&Handing| !handing.relieved && !handing.at_lost && handing.lost.is_none();
        self.errands.iter().filter_map(move |(key, errand)| {
            let handing = errand.handing.as_ref().filter(open).filter(|_| errand.withdrawn().is_none())?;
            Some((key.to_bits() + 1, errand.node, handing.at))
        })
    }

    /// Whether this node still waits for what comes of that act.
    pub fn waits_for_act(&self, number: u64) -> bool {
        number.checked_sub(1).is_some_and(|bits| self.errands.get(Key::from_bits(bits)).is_some())
    }

    /// Whether this node answers that act of another one. Who has had it handed over does not, even if the act has come back here by
    /// another way: then it waits until that is known to be done, and is lost with the node by which it came.
    pub fn answers_act(&self, asker: NodeId, number: u64) -> bool {
        let stand_in = self.sessions.get(&asker).and_then(|session| session.stand_ins.get(&number));
        stand_in.is_some_and(|key| !self.is_handing(*key))
    }

    /// The acts of other nodes that only pass through this one, with where they are: none, once everything has come to rest.
    pub fn acts_through(&self) -> Vec<(NodeId, NodeId)> {
        let through = |(key, process): (Key<Process>, &Process)| {
            let abroad = process.abroad.as_deref()?;
            let errand = self.middle(key)?;
            Some((abroad.node, self.errands[errand].node))
        };
        self.processes.iter().filter_map(through).collect()
    }
}

impl Session {
    /// What comes for this errand is for nobody.
    fn expect_no_more(&mut self, errand: u64) -> Result<(), Breach> {
        if self.relieved.len() >= 2 * ERRANDS_MAX as usize {
            return Err(Breach::Limit);
        }
        self.relieved.insert(errand);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alone::{Alone, HERE, NETWORK};
    use crate::luggage::{Luggage, Many, Visitor};
    use crate::packet::{Act, Patience, Place, SpawnAct, Verdict};
    use crate::world::Event;
    use abi::call::{Outcome, SystemCall, Wait};
    use abi::ids::ProcessId;
    use abi::limits::Limits;
    use abi::message::Bytes;
    use abi::process::{Exit, Orphan, Program};
    use alloc::boxed::Box;
    use alloc::vec;

    const TWO: NodeId = NodeId(2);
    const THREE: NodeId = NodeId(3);
    const FOUR: NodeId = NodeId(4);

    fn onward(errand: u64, at: NodeId, offer: u64) -> Content {
        Content::Onward { errand, at, life: 1, offer }
    }

    fn agreed(errand: u64, offer: u64, turn: u64) -> Content {
        Content::Agreed { errand, offer, number: errand, turn }
    }

    fn hand_over(errand: u64, turn: u64, to: NodeId, number: u64, next: u64) -> Content {
        Content::HandOver { errand, turn, to, life: 1, number, next }
    }

    /// The second node is told that this errand of its is there: the number of the offer.
    #[track_caller]
    fn offered(alone: &mut Alone, wanted: u64, there: NodeId) -> u64 {
        let offer = |content: &Content| match *content {
            Content::Onward { errand, at, offer, .. } if (errand, at) == (wanted, there) => Some(offer),
            _ => None,
        };
        alone.told(TWO).iter().find_map(offer).expect("it is offered")
    }

    /// Somebody at that node has a child here, by its errand 1, and waits for its end, by its errand 2.
    fn waits_for_child(alone: &mut Alone, node: NodeId) {
        let actor = ProcessId::new(node, 5);
        let act = |errand, act| Content::Act { errand, actor, act, rights: Vec::new() };
        let (limits, orphan) = (Limits::NORMAL, Orphan::Dies);
        let (program, arguments) = (Program::Service(1), Bytes::EMPTY);
        let spawn = SpawnAct { program, arguments, limits, weight: 100, orphan };
        alone.hear(node, act(1, Act::Spawn(Box::new(spawn))));
        let [Content::Done { rights, .. }] = &alone.told(node)[..] else { panic!("it is told of its child") };
        let Place::Sender { number: process } = rights[0].place else { panic!("the child is here") };
        alone.hear(node, act(2, Act::Wait { process, patience: Patience::Endless }));
    }

    #[test]
    fn a_node_that_is_met_late_is_not_given_an_act_of_which_a_later_place_was_agreed_on() {
        let mut alone = Alone::with(&[TWO, THREE]);
        alone.call(SystemCall::Door { network: NETWORK, node: TWO, wait: Wait::Forever });
        let [Content::Act { errand, .. }] = alone.told(TWO)[..] else { panic!("the door is asked for") };
        alone.hear(TWO, onward(errand, FOUR, 1));
        assert_eq!(alone.told(TWO), []);
        alone.hear(TWO, onward(errand, THREE, 2));
        assert_eq!(alone.told(TWO), [agreed(errand, 2, 1)]);
        alone.meet(FOUR);
        assert_eq!(alone.told(TWO), []);
    }

    /// What the first process waits for goes to a second node and comes back, and then goes to a third, which is to hand it over to a
    /// fourth. Before it does, the second one hands the wait over, and with it has no part in it any more.
    #[test]
    fn what_is_asked_of_ones_own_node_goes_on_by_one_errand_wherever_it_was_to_go() {
        let mut alone = Alone::with(&[TWO, THREE, FOUR]);
        let process = alone.spawn_held();
        assert_eq!(alone.call(SystemCall::Wait { process, wait: Wait::Forever }), None);
        let luggage = alone.depart(TWO);
        let [Visitor { errand: outer, actor }] = luggage.waiters.0[..] else { panic!("one process waits for it") };
        let waiters = Many(vec![Visitor { errand: 5, actor }]);
        let luggage = Luggage { waiters, exports: Many(Vec::new()), parent: None, ..luggage };
        let grants = Box::default();
        alone.event(Event::Expect { from: TWO, ticket: 9, adopter: alone.first, grants });
        alone.hear(TWO, Content::Transfer { ticket: 9, bytes: Bytes::new(&luggage.encode()) });
        alone.hear(TWO, onward(outer, HERE, 1));
        assert!(alone.told(TWO).contains(&agreed(outer, 1, 1)));
        let luggage = alone.depart(THREE);
        let [Visitor { errand: inner, .. }] = luggage.waiters.0[..] else { panic!("one stand-in waits for it") };
        offered(&mut alone, 5, THREE);
        alone.hear(THREE, onward(inner, FOUR, 1));
        assert!(alone.told(THREE).contains(&agreed(inner, 1, 1)));

        alone.hear(TWO, hand_over(5, 0, HERE, outer, 1));
        assert!(alone.told(TWO).contains(&Content::HandedOver { errand: 5 }));
        assert_eq!(alone.kernel.acts_through(), []);
        alone.hear(FOUR, Content::Taken { errand: inner });
        alone.hear(THREE, Content::Relieved { errand: inner });
        assert_eq!(alone.told(FOUR), []);
        let verdict = Verdict::Outcome(Outcome::Waited(Ok(Exit::Code(7))));
        alone.hear(FOUR, Content::Done { errand: inner, verdict, rights: Vec::new() });
        assert_eq!(alone.outcome(), Some(Outcome::Waited(Ok(Exit::Code(7)))));
    }

    /// Somebody at the second node waits here for the end of a process, which goes to the third, to the fourth and back to the third.
    #[test]
    fn an_act_is_handed_over_where_it_was_offered_last_and_not_where_it_was_before() {
        let mut alone = Alone::with(&[TWO, THREE, FOUR]);
        waits_for_child(&mut alone, TWO);
        let luggage = alone.depart(THREE);
        let [Visitor { errand: inner, .. }] = luggage.waiters.0[..] else { panic!("one stand-in waits for it") };
        let mut offers = vec![offered(&mut alone, 2, THREE)];
        for (from, to, turn) in [(THREE, FOUR, 1), (FOUR, THREE, 2)] {
            alone.hear(from, onward(inner, to, 1));
            assert!(alone.told(from).contains(&agreed(inner, 1, turn)));
            alone.hear(to, Content::Taken { errand: inner });
            alone.hear(from, Content::Relieved { errand: inner });
            offers.push(offered(&mut alone, 2, to));
        }

        // What was agreed on at first arrives last. Whoever agreed expects it from the fourth by now, and would not believe the third.
        alone.hear(TWO, agreed(2, offers[0], 1));
        alone.hear(TWO, agreed(2, offers[1], 2));
        assert_eq!((alone.told(THREE), alone.told(FOUR)), (Vec::new(), Vec::new()));
        assert!(alone.kernel.answers_act(TWO, 2));
        alone.hear(TWO, agreed(2, offers[2], 3));
        assert_eq!(alone.told(THREE), [hand_over(inner, 2, TWO, 2, 3)]);
        assert!(!alone.kernel.answers_act(TWO, 2));
    }

    /// What somebody at the second node waits for goes to the third and, by the fourth, comes back: this node answers again, and under the
    /// same number. What was to be handed over when it was here before is not.
    #[test]
    fn what_was_said_of_an_act_before_it_came_back_is_not_done_after_that() {
        let mut alone = Alone::with(&[TWO, THREE, FOUR]);
        waits_for_child(&mut alone, TWO);
        let luggage = alone.depart(THREE);
        let [Visitor { errand: inner, .. }] = luggage.waiters.0[..] else { panic!("one stand-in waits for it") };
        let offer = offered(&mut alone, 2, THREE);
        alone.hear(TWO, agreed(2, offer, 1));
        alone.hear(THREE, Content::HandedOver { errand: inner });
        assert_eq!(alone.told(TWO), [Content::Relieved { errand: 2 }]);
        waits_for_child(&mut alone, FOUR);
        alone.hear(FOUR, hand_over(2, 0, TWO, 2, 3));
        assert_eq!(alone.told(TWO), [Content::Taken { errand: 2 }]);
        assert_eq!(alone.told(FOUR), [Content::HandedOver { errand: 2 }]);
        alone.told(THREE);

        alone.hear(TWO, hand_over(2, 0, THREE, 9, 1));
        assert_eq!((alone.told(TWO), alone.told(THREE)), (Vec::new(), Vec::new()));
        assert!(alone.kernel.answers_act(TWO, 2));
        alone.hear(TWO, hand_over(2, 3, THREE, 9, 4));
        assert_eq!(alone.told(TWO), [Content::HandedOver { errand: 2 }]);
        assert_eq!(alone.told(THREE), [Content::Taken { errand: 9 }]);
    }
}
