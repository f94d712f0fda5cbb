//! Shorter ways to objects: a right that leads through a node to which nothing of it belongs any more is exchanged for one that leads
//! straight to the object. This file knows nothing of acts that are under way: see `relay`.
//!
//! The one idea: *flush, then go*. Who holds the right gets a second one that leads straight on, while everything still goes the old way.
//! Then it sends a flush the old way, behind all that it ever did there, and goes the new way from that moment on; but what it does there
//! is held back until the flush has come back. So nothing is overtaken, nothing is done twice, and the old way is given up by its last act.
//!
//! ```text
//!   X holds (A, n)            A holds (B, m), its n rests on it          B, where the object is
//!   |<------ Shorter n: (B, ticket) -------|------- Grant m to X, ticket -------->|
//!   |------------------------------- Claim ticket as k -------------------------->|
//!   |<------------------------------ Claimed k -----------------------------------|
//!   |------- Flush n, Release n ---------->|------- Flush m, Release m ---------->|    X holds (B, k), and waits
//!   |<------ done -------------------------|<------ done -------------------------|    X's next acts go to B
//! ```
//! If the object has come to X itself, `Shorter` names X's own right and the way ends in it. Who cannot claim, since it does not know B,
//! keeps the long way and asks again as soon as it does. If the object moves on meanwhile, B's right is one that leads on, and the same
//! begins there.

use crate::Kernel;
use crate::call::CallerSide;
use crate::foreign::{Errand, Import, Purpose, What};
use crate::handles::{Object, Right};
use crate::limits::SESSION_BYTES_MAX;
use crate::packet::{Act, Content, Passed, Place};
use crate::planted::{Bug, planted};
use crate::port::{Cargo, Envelope, Letter};
use crate::process::Process;
use crate::relay::Inward;
use crate::session::Breach;
use crate::table::Key;
use abi::call::Outcome;
use abi::ids::{HandleId, NodeId, ObjectId, ProcessId};
use abi::message::Transfer;
use abi::rights::Rights;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

/// How it is with a shorter way of one right.
///
/// Invariants: with `hold` it has no `next`; with `here` its import has no other home than this node.
#[derive(Default)]
pub(crate) struct Way {
    /// It will be taken.
    pub next: Option<Next>,
    /// It was taken, and not all that was done before is done.
    pub hold: Option<Key<Errand>>,
    /// It ends at this node, in this right.
    pub here: Option<Right>,
    /// There would be one to that node, if there were a session with it.
    pub elsewhere: Option<NodeId>,
    /// A shorter one was told of while another was being taken.
    pub again: bool,
    /// It is for one act, and goes with it.
    pub lent: bool,
    /// The right that another node holds here and that rests on this one.
    pub exported: Option<(NodeId, u64)>,
}

/// The second right.
pub(crate) enum Next {
    There { home: NodeId, number: u64, narrowed: Option<Rights> },
    Here(Right),
}

impl Way {
    /// The right of this node in which it ends, or will.
    pub fn rights(&self) -> impl Iterator<Item = &Right> {
        let next = match &self.next {
            Some(Next::Here(right)) => Some(right),
            _ => None,
        };
        self.here.iter().chain(next)
    }

    pub fn set_right(&mut self, right: Right) {
        match &mut self.here {
            Some(here) => *here = right,
            None => self.next = Some(Next::Here(right)),
        }
    }
}

/// What waits for a flush.
pub(crate) struct Hold {
    /// Where it will go.
    home: NodeId,
    queue: VecDeque<HeldBack>,
    bytes: usize,
    /// Imports that go the new way: the first one, and copies of it. Some may be gone.
    imports: Vec<Key<Import>>,
}

pub(crate) enum HeldBack {
    Act(HeldAct),
    Content(Content),
}

/// An act with all that it needs to be sent later.
pub(crate) struct HeldAct {
    pub errand: Option<Key<Errand>>,
    pub actor: ProcessId,
    pub act: Act,
    /// What it is about, if that is at this node.
    pub lent: Option<Right>,
    pub rights: Vec<Right>,
}

/// What somebody gives with an act.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    pub giver: Key<Process>,
    pub transfers: &'a [Transfer],
}

impl Given<'_> {
    pub const NOTHING: Given<'static> = Given { giver: Key::nothing(), transfers: &[] };
}

impl Hold {
    pub fn has_room(&self) -> bool {
        self.bytes < SESSION_BYTES_MAX
    }

    fn push(&mut self, held: HeldBack) {
        self.bytes += held.bytes();
        self.queue.push_back(held);
    }

    pub fn rights(&self) -> impl Iterator<Item = &Right> {
        self.acts().flat_map(|act| act.rights.iter().chain(&act.lent))
    }

    fn acts(&self) -> impl Iterator<Item = &HeldAct> {
        self.queue.iter().filter_map(|held| match held {
            HeldBack::Act(act) => Some(act),
            HeldBack::Content(_) => None,
        })
    }

    fn rights_mut(&mut self) -> impl Iterator<Item = &mut Right> {
        let acts = self.queue.iter_mut().filter_map(|held| match held {
            HeldBack::Act(act) => Some(act),
            HeldBack::Content(_) => None,
        });
        acts.flat_map(|act| act.rights.iter_mut().chain(&mut act.lent))
    }
}

impl HeldBack {
    fn bytes(&self) -> usize {
        match self {
            HeldBack::Act(act) => act.act.bytes() + 64,
            HeldBack::Content(content) => content.bytes(),
        }
    }

    fn errand(&self) -> Option<Key<Errand>> {
        match self {
            HeldBack::Act(act) => act.errand,
            HeldBack::Content(_) => None,
        }
    }
}

/// Saying where a shorter way is.
impl Kernel {
    /// Tells a node whose right here leads on where it leads.
    fn say_shorter(&mut self, to: NodeId, number: u64) {
        let session = self.sessions.get(&to).filter(|session| session.breach.is_none());
        let Some(right) = session.and_then(|session| session.exports.get(&number)).cloned() else { return };
        let Object::Foreign(_, import) = right.object else { return };
        let Import { lost, ref mut way, .. } = self.imports[import];
        way.exported = Some((to, number));
        if lost || way.here.is_some() || planted(Bug::WayNeverSaid) {
            return;
        }
        let Passed { place, .. } = self.pass(&right, right.rights, to);
        self.tell(to, Content::Shorter { number, place });
    }

    /// A right that we hold there leads on to this place.
    pub(crate) fn heed_shorter(&mut self, from: NodeId, number: u64, place: Place) -> Result<(), Breach> {
        // What it is about may be released by now, or be on its way already.
        let fits = |key: &Key<Import>| {
            let Import { home, number: known, lost, ref way, .. } = self.imports[*key];
            (home, known) == (from, number) && !lost && way.next.is_none() && way.hold.is_none() && !way.lent
        };
        let known = self.imported.get(&(from, number)).copied();
        let import = known.filter(fits);
        if let (Some(busy), None) = (known, import) {
            self.imports[busy].way.again = true;
        }
        let next = match place {
            Place::Third { home, .. } if home == self.node || home == from => return Err(Breach::Right),
            Place::Third { home, life, ticket } => {
                let claimed = self.claim(from, home, life, ticket);
                match (claimed, import) {
                    (Some(number), Some(import)) => {
                        self.imported.insert((home, number), import);
                        Next::There { home, number, narrowed: None }
                    }
                    (Some(number), None) => {
                        self.tell(home, Content::Release { number });
                        return Ok(());
                    }
                    (None, Some(import)) => {
                        self.imports[import].way.elsewhere = Some(home);
                        return Ok(());
                    }
                    (None, None) => return Ok(()),
                }
            }
            Place::Receiver { number } => {
                let held = self.sessions[&from].exports.get(&number).ok_or(Breach::Right)?.clone();
                let Some(import) = import else { return Ok(()) };
                let object = self.imports[import].object;
                let same = match self.object_id(held.object) {
                    Some(known) => known == object,
                    // A port that closed has no name any more.
                    None => matches!(object, ObjectId::Port(_)),
                };
                if !same {
                    return Err(Breach::Right);
                }
                self.ripe.insert(import);
                Next::Here(self.copy_right(&held, held.rights, held.badge))
            }
            Place::Sender { .. } | Place::Nowhere => return Err(Breach::Right),
        };
        if let Some(import) = import {
            let way = &mut self.imports[import].way;
            (way.next, way.elsewhere) = (Some(next), None);
        }
        Ok(())
    }

    /// There is a session with that node: what leads to it may be led there straight.
    pub(crate) fn ask_again(&mut self, node: NodeId) {
        let mut asked = Vec::new();
        for import in self.imports.iter_mut().filter(|import| import.way.elsewhere == Some(node)) {
            import.way.elsewhere = None;
            if !import.lost && import.way.hold.is_none() && import.way.here.is_none() {
                asked.push((import.home, import.number));
            }
        }
        for (home, number) in asked {
            self.tell(home, Content::Again { number });
        }
    }

    /// What was claimed is ours: perhaps a second right.
    pub(crate) fn way_claimed(&mut self, home: NodeId, number: u64) {
        if let Some(import) = self.imported.get(&(home, number)).copied()
            && matches!(self.imports[import].way.next, Some(Next::There { home: at, number: as_this, .. })
                if (at, as_this) == (home, number))
        {
            self.ripe.insert(import);
        }
    }

    /// What was claimed was not given: a right is lost, or stays what it was.
    pub(crate) fn claim_dead(&mut self, home: NodeId, number: u64) {
        let Some(key) = self.imported.remove(&(home, number)) else { return };
        let import = &mut self.imports[key];
        match import.way.next {
            Some(Next::There { home: at, number: as_this, .. }) if (at, as_this) == (home, number) => {
                import.way.next = None;
                self.stay_long(key);
            }
            _ => import.lost = true,
        }
    }

    /// A shorter way comes to nothing: if another was told of meanwhile, it is told again.
    fn stay_long(&mut self, key: Key<Import>) {
        let Import { home, number, lost, ref mut way, .. } = self.imports[key];
        if core::mem::take(&mut way.again) && !lost {
            self.tell(home, Content::Again { number });
        }
    }

    /// A right for one act.
    pub(crate) fn lend_right(&mut self, right: &Right) -> Right {
        let lent = self.copy_right(right, right.rights, right.badge);
        for import in self.imports_of(&lent) {
            self.imports[import].way.lent = true;
        }
        lent
    }

    /// What acts that wait are about may have become other rights: those are for one act too. If each took a shorter way of its own, acts
    /// that waited in the order in which they were asked for would go on in another.
    pub(crate) fn lend_again(&mut self) {
        for import in self.lent_imports() {
            self.imports[import].way.lent = true;
        }
    }

    /// Those of all that acts which wait are about.
    fn lent_imports(&self) -> Vec<Key<Import>> {
        let delayed =
            self.sessions.values().flat_map(|session| &session.delayed).filter_map(|delayed| delayed.lent.as_ref());
        let held = self.holds.values().flat_map(Hold::acts).filter_map(|act| act.lent.as_ref());
        let inward = self.inward.iter().filter_map(|inward| match inward {
            Inward::Act(act) => act.lent.as_ref(),
            Inward::Withdraw { .. } => None,
        });
        delayed.chain(held).chain(inward).flat_map(|right| self.imports_of(right)).collect()
    }

    /// The import behind a right, and those in which its way ends.
    fn imports_of(&self, right: &Right) -> Vec<Key<Import>> {
        let mut imports = Vec::new();
        let mut object = right.object;
        while let Object::Foreign(_, import) = object {
            imports.push(import);
            object = match &self.imports[import].way.here {
                Some(here) => here.object,
                None => break,
            };
        }
        imports
    }
}

/// Going.
impl Kernel {
    /// At the end of a step: what is to be shortened is.
    pub(crate) fn shorten(&mut self) {
        while let Some((node, number)) = self.long.pop_first() {
            self.say_shorter(node, number);
        }
        let ripe: Vec<Key<Import>> = self.ripe.iter().copied().collect();
        for import in ripe {
            if self.switch(import) {
                self.ripe.remove(&import);
            }
        }
        self.land();
    }

    /// Takes the second right in place of the first; false if it must wait a little.
    fn switch(&mut self, key: Key<Import>) -> bool {
        let Some(import) = self.imports.get(key) else { return true };
        let (old, number) = (import.home, import.number);
        if import.lost || import.way.hold.is_some() || import.way.next.is_none() {
            return true;
        }
        // An act that waits with a right of its own to what this leads to would be overtaken.
        if self.errands.is_full() || self.lent_imports().iter().any(|lent| self.imports[*lent].home == old) {
            return false;
        }
        self.forget_place(old, number, key);
        let errand = self.add_errand(Errand::new(old, Purpose::Way, What::Flush));
        let content = Content::Act {
            errand: self.errands[errand].number,
            actor: ProcessId::new(self.node, 0),
            act: Act::Flush { object: number },
            rights: Vec::new(),
        };
        let Some(session) = self.open_session(old) else { unreachable!("a right that is not lost has a session") };
        session.push(content, Some(errand));
        if !planted(Bug::WayKept) {
            session.push(Content::Release { number }, None);
        }
        self.stir_session(old);
        let home = match self.imports[key].way.next.take() {
            Some(Next::There { home, number, narrowed }) => {
                let import = &mut self.imports[key];
                (import.home, import.number) = (home, number);
                if let Some(rights) = narrowed {
                    self.tell(home, Content::Narrow { number, rights });
                }
                home
            }
            Some(Next::Here(here)) => {
                let number = self.serial();
                let import = &mut self.imports[key];
                (import.home, import.number, import.way.here) = (self.node, number, Some(here));
                self.node
            }
            None => unreachable!("it was just seen"),
        };
        self.imports[key].way.hold = Some(errand);
        let hold = Hold { home, queue: VecDeque::new(), bytes: 0, imports: alloc::vec![key] };
        self.holds.insert(errand, hold);
        true
    }

    /// A copy of a right that is on its way waits with it.
    pub(crate) fn join_hold(&mut self, hold: Key<Errand>, import: Key<Import>) {
        self.imports[import].way.hold = Some(hold);
        self.holds.get_mut(&hold).expect("who is held back knows by what").imports.push(import);
    }

    pub(crate) fn hold_back(&mut self, hold: Key<Errand>, held: HeldBack) {
        self.holds.get_mut(&hold).expect("who is held back knows by what").push(held);
    }

    /// Sends an act on its way, or keeps it until the way is free.
    pub(crate) fn send_act(
        &mut self, node: NodeId, import: Option<Key<Import>>, errand: Option<Key<Errand>>, actor: ProcessId, act: Act,
        given: Given,
    ) {
        let way = import.map(|import| &self.imports[import].way);
        let (hold, here) = way.map_or((None, None), |way| (way.hold, way.here.clone()));
        if hold.is_none() && here.is_none() {
            let rights = self.pass_all(given.giver, given.transfers, node);
            let number = errand.map_or(0, |errand| self.errands[errand].number);
            let content = Content::Act { errand: number, actor, act, rights };
            let session = self.open_session(node).expect("there is a session, as the caller has seen");
            session.push(content, errand);
            return self.stir_session(node);
        }
        let copy = |transfer: &Transfer| {
            let table = &self.processes[given.giver].handles;
            let right = table.find(transfer.handle).expect("it was checked").clone();
            self.copy_right(&right, transfer.rights, right.badge)
        };
        let rights = given.transfers.iter().map(copy).collect();
        let lent = here.map(|here| self.lend_right(&here));
        let act = HeldAct { errand, actor, act, lent, rights };
        match hold {
            Some(hold) => self.hold_back(hold, HeldBack::Act(act)),
            None => self.inward.push_back(Inward::Act(act)),
        }
    }

    /// A flush came back: what was held back goes.
    pub(crate) fn release_hold(&mut self, flush: Key<Errand>) {
        let Hold { home, queue, imports, .. } = self.holds.remove(&flush).expect("a flush is for what is held back");
        let mut again = Vec::new();
        for key in imports {
            let Some(import) = self.imports.get_mut(key) else { continue };
            import.way.hold = None;
            let number = import.number;
            // Who goes through here may go on straight too.
            self.long.extend(import.way.exported);
            if import.way.here.is_some() {
                self.landed.push(key);
            } else if core::mem::take(&mut import.way.again) {
                again.push(number);
            }
        }
        for held in queue {
            match held {
                HeldBack::Content(content) => self.tell(home, content),
                HeldBack::Act(act) if act.lent.is_some() => self.inward.push_back(Inward::Act(act)),
                HeldBack::Act(HeldAct { errand, actor, act, rights, .. }) => {
                    let passed = rights.iter().map(|right| self.pass(right, right.rights, home)).collect();
                    self.dropped.extend(rights);
                    let number = errand.map_or(0, |errand| self.errands[errand].number);
                    if let Some(session) = self.open_session(home) {
                        session.push(Content::Act { errand: number, actor, act, rights: passed }, errand);
                    }
                    self.stir_session(home);
                    self.look_at_errand(errand);
                }
            }
        }
        for number in again {
            self.tell(home, Content::Again { number });
        }
    }

    /// A flush will not come back: whether what went before has arrived cannot be known, so nothing may go behind it.
    pub(crate) fn fail_hold(&mut self, flush: Key<Errand>) {
        let Some(Hold { home, queue, imports, .. }) = self.holds.remove(&flush) else { return };
        for key in imports {
            let Some(import) = self.imports.get_mut(key) else { continue };
            let number = import.number;
            (import.way.hold, import.lost) = (None, true);
            match import.way.here.take() {
                Some(here) => self.dropped.push(here),
                None => self.tell(home, Content::Release { number }),
            }
            self.forget_place(home, number, key);
        }
        for held in queue {
            match held {
                HeldBack::Act(HeldAct { errand, lent, rights, .. }) => {
                    self.dropped.extend(rights.into_iter().chain(lent));
                    if let Some(errand) = errand {
                        self.lose_errand(errand, false);
                    }
                }
                HeldBack::Content(Content::Release { number }) => self.tell(home, Content::Release { number }),
                HeldBack::Content(_) => {}
            }
        }
    }

    pub(crate) fn is_held_back(&self, errand: Key<Errand>) -> bool {
        self.holds.values().any(|hold| hold.queue.iter().any(|held| held.errand() == Some(errand)))
            || self.inward.iter().any(|inward| matches!(inward, Inward::Act(act) if act.errand == Some(errand)))
    }

    /// Whether an act was still held back, and is not to go any more.
    pub(crate) fn take_held_back(&mut self, errand: Key<Errand>) -> bool {
        for hold in self.holds.values_mut() {
            if let Some(index) = hold.queue.iter().position(|held| held.errand() == Some(errand))
                && let Some(held) = hold.queue.remove(index)
            {
                hold.bytes -= held.bytes();
                if let HeldBack::Act(HeldAct { lent, rights, .. }) = held {
                    self.dropped.extend(rights.into_iter().chain(lent));
                }
                return true;
            }
        }
        let is_it = |inward: &Inward| matches!(inward, Inward::Act(act) if act.errand == Some(errand));
        if let Some(index) = self.inward.iter().position(is_it)
            && let Some(Inward::Act(HeldAct { lent, rights, .. })) = self.inward.remove(index)
        {
            self.dropped.extend(rights.into_iter().chain(lent));
            return true;
        }
        false
    }

    /// A right can do no more, although its home may live.
    pub(crate) fn lose_import(&mut self, key: Key<Import>) {
        let Some(import) = self.imports.get_mut(key).filter(|import| !import.lost) else { return };
        import.lost = true;
        let (home, number, hold) = (import.home, import.number, import.way.hold.take());
        let (next, here) = (import.way.next.take(), import.way.here.take());
        self.forget_place(home, number, key);
        self.leave_way(key, next);
        match (here, hold) {
            (Some(here), _) => self.dropped.push(here),
            (None, Some(hold)) => self.hold_back(hold, HeldBack::Content(Content::Release { number })),
            (None, None) => self.tell(home, Content::Release { number }),
        }
    }

    /// An import is gone, or lost: so is what it would have been.
    pub(crate) fn leave_way(&mut self, key: Key<Import>, next: Option<Next>) {
        match next {
            Some(Next::There { home, number, .. }) => {
                self.forget_place(home, number, key);
                self.tell(home, Content::Release { number });
            }
            Some(Next::Here(right)) => self.dropped.push(right),
            None => {}
        }
    }

    /// A session is over: all that led there is lost.
    pub(crate) fn drop_ways(&mut self, node: NodeId) {
        let held: Vec<Key<Errand>> =
            self.holds.iter().filter(|(_, hold)| hold.home == node).map(|(flush, _)| *flush).collect();
        for flush in held {
            // It goes another way, and what waits for it does not wait any more.
            self.errands[flush].purpose = Purpose::Nobody;
            self.fail_hold(flush);
        }
        let keys: Vec<Key<Import>> = self.imports.iter().map(|(key, _)| key).collect();
        for key in keys {
            let import = &mut self.imports[key];
            let next = match import.way.next {
                _ if import.home == node => {
                    import.lost = true;
                    import.way.next.take()
                }
                Some(Next::There { home, .. }) if home == node => import.way.next.take(),
                _ => None,
            };
            if next.is_some() {
                self.leave_way(key, next);
                self.stay_long(key);
            }
        }
        self.imported.retain(|(home, _), _| *home != node);
    }
}

/// The end of a way that has come home.
impl Kernel {
    /// Rights to imports that lead to this node become rights to what they lead to.
    fn land(&mut self) {
        self.landed.retain(|key| self.imports.get(*key).is_some_and(|import| import.way.here.is_some()));
        if self.landed.is_empty() {
            return;
        }
        self.release_dropped();
        let mut landed: BTreeMap<Key<Import>, Right> = BTreeMap::new();
        let reads = self.errands.iter().filter(|(_, errand)| errand.what() == What::Read);
        let read: BTreeSet<Key<Import>> = reads.filter_map(|(_, errand)| errand.import()).collect();
        for key in core::mem::take(&mut self.landed) {
            // Bytes that were read for it come first.
            if let Some(import) = self.imports.get_mut(key)
                && import.way.hold.is_none()
                && !read.contains(&key)
                && import.kept.is_empty()
                && import.reading.is_none()
                && !planted(Bug::WayNeverLands)
                && let Some(here) = import.way.here.take()
            {
                let (home, number) = (import.home, import.number);
                self.imports.remove(key);
                self.forget_place(home, number, key);
                landed.insert(key, here);
            }
        }
        if landed.is_empty() {
            return;
        }
        let mut exchanged = Vec::new();
        self.every_right(|right| {
            let mut last = None;
            // One may lead to another.
            while let Object::Foreign(_, key) = right.object
                && let Some(here) = landed.remove(&key)
            {
                let rights = right.rights.both(here.rights);
                *right = Right { object: here.object, rights, badge: here.badge };
                last = Some(here);
            }
            exchanged.extend(last.map(|here| (right.clone(), here)));
        });
        // What nobody holds is gone.
        self.dropped.extend(landed.into_values());
        for (new, here) in exchanged {
            match new.object {
                Object::Foreign(_, import) => self.narrow_to(import, &new, &here),
                _ => {
                    self.retain(&new);
                    self.dropped.push(here);
                }
            }
        }
        self.lend_again();
        self.find_long();
        self.release_dropped();
    }

    fn narrow_to(&mut self, import: Key<Import>, new: &Right, here: &Right) {
        if new.rights != here.rights {
            self.narrow_import(import, new.rights);
        }
    }

    /// Finds all rights of other nodes that lead on.
    pub(crate) fn find_long(&mut self) {
        let Kernel { sessions, imports, long, .. } = self;
        for (node, session) in sessions {
            for (number, right) in &session.exports {
                if let Object::Foreign(_, import) = right.object
                    && imports[import].way.exported.is_none()
                {
                    long.insert((*node, *number));
                }
            }
        }
    }

    /// What a right is to, if that has come to this node.
    pub(crate) fn resolved(&self, object: Object) -> Object {
        match object {
            Object::Foreign(_, import) => match &self.imports[import].way.here {
                Some(here) => here.object,
                None => object,
            },
            object => object,
        }
    }

    /// Every right that there is, wherever it is.
    pub(crate) fn every_right(&mut self, mut act: impl FnMut(&mut Right)) {
        self.processes.iter_mut().flat_map(|process| process.handles.iter_mut()).for_each(&mut act);
        for port in self.ports.iter_mut() {
            for envelope in &mut port.queue {
                if let Envelope::Letter(Letter { cargo: Cargo::Taken(rights), .. }) = envelope {
                    rights.iter_mut().for_each(&mut act);
                }
            }
        }
        for call in self.calls.iter_mut() {
            if let CallerSide::Over(Ok(answering)) = &mut call.caller_side {
                answering.rights.iter_mut().for_each(&mut act);
            }
        }
        for session in self.sessions.values_mut() {
            session.exports.values_mut().for_each(&mut act);
            for delayed in &mut session.delayed {
                delayed.rights.iter_mut().chain(&mut delayed.lent).for_each(&mut act);
            }
        }
        self.grants.values_mut().for_each(|grant| act(&mut grant.right));
        self.door.iter_mut().for_each(&mut act);
        self.expected.values_mut().flat_map(|expected| &mut expected.grants).for_each(|(_, right)| act(right));
        for import in self.imports.iter_mut() {
            import.way.here.iter_mut().for_each(&mut act);
            if let Some(Next::Here(right)) = &mut import.way.next {
                act(right);
            }
        }
        self.holds.values_mut().flat_map(Hold::rights_mut).for_each(&mut act);
        for inward in &mut self.inward {
            if let Inward::Act(HeldAct { lent, rights, .. }) = inward {
                rights.iter_mut().chain(lent).for_each(&mut act);
            }
        }
    }
}

/// What must hold.
impl Kernel {
    pub(crate) fn check_ways(&self) {
        assert!(self.inward.is_empty(), "what this node asks of itself was not done");
        assert!(self.long.is_empty() && self.landed.is_empty(), "a way was not looked after");
        for (flush, hold) in &self.holds {
            let under_way = self.errands.get(*flush).is_some_and(|errand| errand.purpose == Purpose::Way);
            assert!(under_way, "something is held back for ever");
            let bytes: usize = hold.queue.iter().map(HeldBack::bytes).sum();
            assert_eq!(bytes, hold.bytes, "what is held back is miscounted");
        }
        let reads = self.errands.iter().filter(|(_, errand)| errand.what() == What::Read);
        let read: BTreeSet<Key<Import>> = reads.filter_map(|(_, errand)| errand.import()).collect();
        for (key, import) in self.imports.iter() {
            let way = &import.way;
            let waits =
                way.hold.is_some() || !import.kept.is_empty() || import.reading.is_some() || read.contains(&key);
            assert!(way.here.is_none() || waits, "a right to what is here goes round: {:?}", import.object);
            assert!(way.here.is_none() || import.home == self.node, "a way that ends here leads elsewhere");
            assert!(way.hold.is_none() || way.next.is_none(), "a way is to be shortened twice at once");
            assert!(way.hold.is_none_or(|hold| self.holds.contains_key(&hold)), "a right is held back by nothing");
        }
        for ((home, number), key) in &self.imported {
            let import = self.imports.get(*key).expect("what is known by its place is there");
            let first = (import.home, import.number) == (*home, *number);
            let second = matches!(import.way.next, Some(Next::There { home: at, number: as_this, .. })
                if (at, as_this) == (*home, *number));
            assert!(first || second, "a right is known by another's place");
        }
    }

    /// The rights of other nodes that lead on from here to a third, or back: none, once everything has come to rest.
    pub fn ways_through(&self) -> Vec<(NodeId, u64, ObjectId, NodeId)> {
        let mut through = Vec::new();
        for (node, session) in &self.sessions {
            for (number, right) in &session.exports {
                if let Object::Foreign(_, import) = right.object
                    && !self.imports[import].lost
                    && self.imports[import].way.here.is_none()
                {
                    let Import { object, home, .. } = self.imports[import];
                    through.push((*node, *number, object, home));
                }
            }
        }
        through
    }
}

/// The flush itself.
impl Kernel {
    /// What was asked before on the same way is done, or goes on ahead of this.
    pub(crate) fn flush(&mut self, me: Key<Process>, handle: HandleId) -> crate::schedule::Next {
        let right = self.processes[me].handles.find(handle).map(|right| right.object);
        match right {
            Ok(Object::Foreign(_, import)) if !self.imports[import].lost => self.flush_on(me, import),
            _ => crate::schedule::Next::Return(Outcome::Yielded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alone::{Alone, NETWORK};
    use abi::call::{SystemCall, Wait};
    use abi::ids::PortId;
    use abi::message::Badge;

    const BETWEEN: NodeId = NodeId(2);
    const FIRST: NodeId = NodeId(3);
    const SECOND: NodeId = NodeId(4);

    /// The node holds a right, under the number 2, at the one between.
    fn holder() -> Alone {
        let mut alone = Alone::with(&[BETWEEN, FIRST, SECOND]);
        let door = SystemCall::Door { network: NETWORK, node: BETWEEN, wait: Wait::Forever };
        assert_eq!(alone.call(door), None);
        let [Content::Act { errand, .. }] = alone.told(BETWEEN)[..] else { panic!("the door is asked for") };
        let object = ObjectId::Port(PortId::new(FIRST, 9));
        let place = Place::Sender { number: 2 };
        let rights = alloc::vec![Passed { object, rights: Rights::SENDER, badge: Badge(0), place }];
        let verdict = crate::packet::Verdict::Outcome(Outcome::Door(Ok(HandleId::NONE)));
        alone.hear(BETWEEN, Content::Done { errand, verdict, rights });
        alone
    }

    fn shorter(home: NodeId, ticket: u64) -> Content {
        Content::Shorter { number: 2, place: Place::Third { home, life: 1, ticket } }
    }

    fn claim(ticket: u64, number: u64) -> Content {
        Content::Claim { giver: BETWEEN, life: 1, ticket, number }
    }

    /// What is under way to one place is told to be at another, and then the first claim comes to nothing.
    fn check(fails: impl FnOnce(&mut Alone)) {
        let mut alone = holder();
        alone.hear(BETWEEN, shorter(FIRST, 70));
        assert_eq!(alone.told(FIRST), [claim(70, 1)]);
        alone.hear(BETWEEN, shorter(SECOND, 71));
        assert_eq!(alone.told(SECOND), [claim(71, 1), Content::Release { number: 1 }]);
        alone.told(BETWEEN);
        fails(&mut alone);
        assert!(alone.told(BETWEEN).contains(&Content::Again { number: 2 }), "the long way is kept for ever");
        alone.hear(BETWEEN, shorter(SECOND, 72));
        assert_eq!(alone.told(SECOND).last(), Some(&claim(72, 3)));
    }

    #[test]
    fn a_way_told_of_while_another_was_claimed_is_asked_for_when_that_home_is_lost() {
        check(|alone| alone.lose(FIRST));
    }

    #[test]
    fn a_way_told_of_while_another_was_claimed_is_asked_for_when_that_was_not_given() {
        check(|alone| alone.hear(FIRST, Content::Dead { number: 1 }));
    }
}
