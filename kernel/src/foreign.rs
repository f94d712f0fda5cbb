//! Objects of other nodes behind ordinary handles. This file knows nothing of packets.
//!
//! The one idea: a process that acts on an object of another node is represented there by a *stand-in*, a process without a program, which
//! holds what the act brings and stands in the object's queues like anybody else. So every act is done by the one piece of code that does
//! it, at the object's home; only the asking and the outcome travel.
//!
//! ```text
//!   node A                                  session                    node H, the home
//!   process -> handle -> Foreign -> Import  --- number --->  exports of A -> right -> object
//!   process waits: Away -> Errand           === Act ======>  stand-in of A's process, in the object's queue
//!                                           <== Done ======  its outcome, and the rights in it
//! ```
//! *Rights*: each right that another node holds is one entry of `exports` at the home, under a number that only that node can use,
//! with exactly these rights and this badge; counted like a handle, so liveness is what it is on one node. Copies, narrowing and closing
//! are told to the home in the order in which they happen.
//!
//! *Giving to a third*: A tells the home H "B will claim this by ticket t", then gives B the ticket. B claims, and does not let the
//! message through before H has said that B holds it. H keeps the grant whoever is lost, until B claims it or says that from A nothing more
//! can come: there is no moment in which the object looks unreferenced.
//!
//! *Errands*: an act ends by its outcome, by the end of the session, or by being withdrawn; after a withdrawal its outcome is waited for a
//! little longer, since only the home knows how far the act had come. If it does not come the process is told the worse: `Unknown`, or that
//! a server may have it.

use crate::Kernel;
use crate::call::{Call, CallerSide, ServerSide};
use crate::handles::{Handles, Object, Refusal, Right};
use crate::limits::{ERRANDS_MAX, FOREIGN_MAX, TRANSFER_BYTES_MAX, VERDICT_NS};
use crate::luggage::{ADOPTED_MIN, Luggage};
use crate::packet::{Act, Content, Passed, Patience, Place, SpawnAct, Verdict};
use crate::planted::{Bug, planted};
use crate::process::{Cause, Process, State, Waiting};
use crate::relay::{HandOver, Handing, Inward, Offer};
use crate::schedule::Next;
use crate::session::{Breach, Session};
use crate::table::Key;
use crate::watch::{Subject, Watch};
use crate::ways::{Given, HeldBack, Next as NextWay, Way};
use crate::world::{Effect, WorkerId};
use abi::call::{
    CallError, ControlError, Deadline, DoorError, HandleError, Outcome, Reached, ReadError, SendError, SendMode,
    SpawnError, TransferCause, TransferError, Wait, WaitError, WriteCause, WriteError,
};
use abi::ids::{DeviceId, HandleId, NodeId, ObjectId, ProcessId};
use abi::limits::{Limit, Limits, WEIGHT_MAX, WEIGHT_NORMAL};
use abi::message::{Bytes, MESSAGE_BYTES_MAX, MESSAGE_HANDLES_MAX, Message, NoticeEvent, Transfer, TransferMode};
use abi::process::{Exit, Orphan, Program, Spawn};
use abi::rights::{Kind, Rights};
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// A right to an object of another node. One right points to it, wherever that is.
///
/// Invariants: unless it is `lost` there is a session with `home`, in which the other side keeps `number` for us.
pub struct Import {
    pub(crate) home: NodeId,
    pub(crate) number: u64,
    pub(crate) object: ObjectId,
    /// Its home, in the life that it had, is over, or the session with it.
    pub(crate) lost: bool,
    /// Bytes that were read from it for a process that had given up by then.
    pub(crate) kept: Bytes,
    /// A read whose process gave up, and of which nobody knows yet whether it took bytes.
    pub(crate) reading: Option<Key<Errand>>,
    /// How it is with a shorter way to the object.
    pub(crate) way: Way,
}

/// An act under way at another node.
///
/// Invariants: in `Process` that process waits for it; in `Call` the call's server is there; in `Watch` the watch is for it; in `Kept` the
/// import's `reading` is it; in `Child` it stands in the list of that process's children elsewhere.
pub struct Errand {
    pub(crate) node: NodeId,
    /// By which it is known there.
    pub(crate) number: u64,
    pub(crate) purpose: Purpose,
    what: What,
    import: Option<Key<Import>>,
    /// Handles that leave the asker's table if the act is done.
    pub(crate) moved: Box<[HandleId]>,
    /// Why the home was told that nobody wants it any more, if it was.
    withdrawn: Option<Cause>,
    /// The read that a process wants which came while this one, given up, was still under way.
    then: Option<(u32, Patience)>,
    /// The process wants it done now or not at all.
    at_once: bool,
    /// The watch that a spawn's supervisor will have.
    supervisor: Option<Key<Watch>>,
    /// Counts its places: nothing that is said of it in an earlier turn is meant for this one.
    pub(crate) turn: u64,
    /// Another node may answer it than the one that was asked.
    pub(crate) handing: Option<Handing>,
    /// Who could answer it if there were a session with it.
    pub(crate) elsewhere: Option<Offer>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Process(Key<Process>),
    Call(Key<Call>),
    Watch(Key<Watch>),
    Kept(Key<Import>),
    Child(Key<Process>),
    /// A right takes a shorter way when it is done.
    Way,
    Nobody,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Send,
    Call,
    Status,
    Wait,
    Kill,
    Hold,
    Release,
    Interrupt,
    Read,
    Write,
    Watch,
    Door,
    Spawn,
    Flush,
}

/// A right that one node gave another and that is not claimed yet.
pub(crate) struct Grant {
    pub to: NodeId,
    to_life: u64,
    giver_life: u64,
    pub right: Right,
}

/// A claim that came before the grant.
pub(crate) struct Claim {
    claimer: NodeId,
    giver_life: u64,
    number: u64,
    /// The claimer does not want it any more.
    released: bool,
}

/// A right that was given at a node that was not met yet, and that went to nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unclaimed {
    pub home: NodeId,
    pub life: u64,
    giver: NodeId,
    giver_life: u64,
    ticket: u64,
}

impl Unclaimed {
    /// Says at its home that nobody wants it.
    pub fn give_back(self, session: &mut Session) {
        let Unclaimed { giver, giver_life: life, ticket, .. } = self;
        let number = session.next_import;
        session.next_import += 2;
        session.push(Content::Claim { giver, life, ticket, number }, None);
        session.push(Content::Release { number }, None);
    }
}

/// A content that waits until all rights in it are claimed.
pub(crate) struct Delayed {
    content: Content,
    /// What the act is about: it may be released meanwhile.
    pub lent: Option<Right>,
    pub rights: Vec<Right>,
    waits: BTreeSet<(NodeId, u64)>,
    /// What a process takes along that comes.
    pub luggage: Option<Box<Luggage>>,
    /// Counts all that was delayed, from whichever node.
    order: u64,
}

/// Whom a stand-in stands in for.
pub(crate) struct Abroad {
    /// Its own node, for who has come back to where what it asked for is.
    pub node: NodeId,
    pub errand: u64,
    /// The turn of that errand in which it does.
    pub turn: u64,
    /// Where the one for whom it stands in could ask, as that was told at last.
    pub offered: Option<Offer>,
    /// The node that it waits for was told to answer without it.
    pub handing: bool,
}

/// No worker runs a stand-in; while it acts it is as if one did.
const NO_WORKER: WorkerId = WorkerId(u16::MAX);

impl Import {
    pub(crate) fn new(home: NodeId, number: u64, object: ObjectId) -> Import {
        Import { home, number, object, lost: false, kept: Bytes::EMPTY, reading: None, way: Way::default() }
    }
}

impl Errand {
    pub(crate) fn new(node: NodeId, purpose: Purpose, what: What) -> Errand {
        Errand {
            node,
            number: 0,
            purpose,
            what,
            import: None,
            moved: Box::default(),
            withdrawn: None,
            then: None,
            at_once: false,
            supervisor: None,
            turn: 0,
            handing: None,
            elsewhere: None,
        }
    }

    pub(crate) fn what(&self) -> What {
        self.what
    }

    pub(crate) fn import(&self) -> Option<Key<Import>> {
        self.import
    }

    pub(crate) fn withdrawn(&self) -> Option<Cause> {
        self.withdrawn
    }

    #[cfg(test)]
    pub fn for_nobody(node: NodeId) -> Errand {
        Errand::new(node, Purpose::Nobody, What::Door)
    }
}

/// What is asked, beside for whom.
struct Asked<'a> {
    what: What,
    act: Act,
    import: Option<Key<Import>>,
    given: Given<'a>,
    moved: Box<[HandleId]>,
}

impl Asked<'_> {
    fn plain(what: What, act: Act, import: Option<Key<Import>>) -> Asked<'static> {
        Asked { what, act, import, given: Given::NOTHING, moved: Box::default() }
    }
}

/// How long the home may let an act wait.
fn patience(wait: Wait) -> Patience {
    if wait == Wait::No { Patience::None } else { Patience::Endless }
}

/// Which handles leave the table of who gives these.
pub(crate) fn moved_of(transfers: &[Transfer]) -> Box<[HandleId]> {
    let moves = transfers.iter().filter(|transfer| transfer.mode == TransferMode::Move);
    moves.map(|transfer| transfer.handle).collect()
}

/// Whether the rights that were to be moved are gone after this outcome.
fn moves(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Sent(result) => matches!(result, Ok(()) | Err(SendError::Unknown)),
        Outcome::Called(Ok(_)) => true,
        Outcome::Called(Err(error)) => has_reached(error),
        Outcome::Spawned(result) => matches!(result, Ok(_) | Err(SpawnError::Unknown | SpawnError::NodeLost)),
        _ => false,
    }
}

/// Whether an error says that a server has, or may have, taken the request.
fn has_reached(error: &CallError) -> bool {
    use CallError::{Abandoned, Expired, Interrupted};
    matches!(error, Abandoned { .. } | Expired(Reached::Server { .. }) | Interrupted(Reached::Server { .. }))
}

impl What {
    fn fits(self, outcome: &Outcome) -> bool {
        matches!(
            (self, outcome),
            (What::Send, Outcome::Sent(_))
                | (What::Call, Outcome::Called(_))
                | (What::Status, Outcome::PortStatus(_))
                | (What::Wait, Outcome::Waited(_))
                | (What::Kill, Outcome::Killed(_))
                | (What::Hold, Outcome::Held(_))
                | (What::Release, Outcome::Released(_))
                | (What::Interrupt, Outcome::Interrupted(_))
                | (What::Read, Outcome::Read(_))
                | (What::Write, Outcome::Written(_))
                | (What::Door, Outcome::Door(_))
                | (What::Spawn, Outcome::Spawned(_))
        )
    }

    /// What a process is told that gave up and got no word from the home.
    fn given_up(self, cause: Cause, was_sent: bool, at_once: bool) -> Outcome {
        let expired = cause == Cause::Expired;
        match self {
            What::Send => Outcome::Sent(Err(match (was_sent, expired) {
                (true, _) => SendError::Unknown,
                (false, true) if at_once => SendError::Full,
                (false, true) => SendError::Expired,
                (false, false) => SendError::Interrupted,
            })),
            What::Status => Outcome::PortStatus(Err(HandleError::Unreachable)),
            What::Wait => Outcome::Waited(Err(if expired { WaitError::Expired } else { WaitError::Interrupted })),
            What::Kill => Outcome::Killed(Err(ControlError::Unknown)),
            What::Hold => Outcome::Held(Err(ControlError::Unknown)),
            What::Release => Outcome::Released(Err(ControlError::Unknown)),
            What::Interrupt => Outcome::Interrupted(Err(ControlError::Unknown)),
            What::Read if expired && at_once => Outcome::Read(Err(ReadError::Empty)),
            What::Read => Outcome::Read(Err(if expired { ReadError::Expired } else { ReadError::Interrupted })),
            What::Write => Outcome::Written(Err(WriteError {
                written: 0,
                cause: match (was_sent, expired) {
                    (true, _) => WriteCause::Unknown,
                    (false, true) if at_once => WriteCause::Full,
                    (false, true) => WriteCause::Expired,
                    (false, false) => WriteCause::Interrupted,
                },
            })),
            What::Door => Outcome::Door(Err(if expired { DoorError::Expired } else { DoorError::Interrupted })),
            What::Spawn => Outcome::Spawned(Err(SpawnError::Unknown)),
            What::Flush => Outcome::Yielded,
            What::Call | What::Watch => {
                unreachable!("no process waits for these by an errand of its own")
            }
        }
    }

    /// What a process is told whose errand ended with its node.
    fn lost(self, was_sent: bool) -> Outcome {
        match self {
            What::Send => Outcome::Sent(Err(if was_sent { SendError::Unknown } else { SendError::PortClosed })),
            What::Status => Outcome::PortStatus(Err(HandleError::Ended)),
            What::Wait => Outcome::Waited(Ok(Exit::NodeLost)),
            What::Kill => Outcome::Killed(Err(ControlError::Ended)),
            What::Hold => Outcome::Held(Err(ControlError::Ended)),
            What::Release => Outcome::Released(Err(ControlError::Ended)),
            What::Interrupt => Outcome::Interrupted(Err(ControlError::Ended)),
            What::Read => Outcome::Read(Err(ReadError::Handle(HandleError::Ended))),
            What::Write => Outcome::Written(Err(WriteError {
                written: 0,
                cause: if was_sent { WriteCause::Unknown } else { WriteCause::Handle(HandleError::Ended) },
            })),
            What::Door => Outcome::Door(Err(DoorError::Unreachable)),
            What::Spawn if was_sent => Outcome::Spawned(Err(SpawnError::NodeLost)),
            What::Spawn => Outcome::Spawned(Err(SpawnError::Unreachable)),
            What::Flush => Outcome::Yielded,
            What::Call | What::Watch => {
                unreachable!("no process waits for these by an errand of its own")
            }
        }
    }
}

/// Rights.
impl Kernel {
    /// The import behind a handle, if it points to an object of another node and may do this.
    pub(crate) fn foreign(&self, me: Key<Process>, handle: HandleId, needed: Rights) -> Option<Key<Import>> {
        match self.find_object(me, handle, needed) {
            Ok(Object::Foreign(_, import)) => Some(import),
            _ => None,
        }
    }

    /// A second right to the same object.
    pub(crate) fn copy_right(&mut self, source: &Right, rights: Rights, badge: abi::message::Badge) -> Right {
        let Object::Foreign(kind, import) = source.object else {
            let right = Right { object: source.object, rights, badge };
            self.retain(&right);
            return right;
        };
        let Import { home, number, object, lost, ref way, .. } = self.imports[import];
        let hold = way.hold;
        if let Some(here) = way.here.clone() {
            let copy = self.copy_right(&here, rights, badge);
            let Some(hold) = hold else { return copy };
            // What is done by it comes after what was done before.
            let number = self.serial();
            let import = self.add_import(Import::new(home, number, object));
            self.imports[import].way.here = Some(copy);
            self.join_hold(hold, import);
            return Right { object: Object::Foreign(kind, import), rights, badge };
        }
        let (new, lost) = match self.open_session(home) {
            Some(session) if !lost => {
                let new = session.next_import;
                session.next_import += 2;
                session.push(Content::Duplicate { number, new, rights }, None);
                (new, false)
            }
            _ => (0, true),
        };
        self.stir_session(home);
        let import = self.add_import(Import { lost, ..Import::new(home, new, object) });
        if let (Some(hold), false) = (hold, lost) {
            self.join_hold(hold, import);
        }
        Right { object: Object::Foreign(kind, import), rights, badge }
    }

    pub(crate) fn add_import(&mut self, import: Import) -> Key<Import> {
        let place = (!import.lost).then_some((import.home, import.number));
        let key = self.imports.insert(import).expect("this table has no bound of its own");
        if let Some(place) = place {
            self.imported.insert(place, key);
        }
        key
    }

    pub(crate) fn narrow_import(&mut self, import: Key<Import>, rights: Rights) {
        let Import { home, number, lost, ref mut way, .. } = self.imports[import];
        if lost {
            return;
        }
        let narrowed = Content::Narrow { number, rights };
        match way.hold {
            Some(hold) if way.here.is_none() => return self.hold_back(hold, HeldBack::Content(narrowed)),
            _ => {}
        }
        if let Some(NextWay::There { narrowed, .. }) = &mut way.next {
            *narrowed = Some(rights);
        }
        let here = match (&way.here, &way.next) {
            (Some(here), _) | (None, Some(NextWay::Here(here))) => Some(here.clone()),
            _ => None,
        };
        let is_here = way.here.is_some();
        if let Some(here) = here {
            let narrow = self.copy_right(&here, rights.both(here.rights), here.badge);
            let way = &mut self.imports[import].way;
            match &mut way.here {
                Some(here) => *here = narrow,
                None => way.next = Some(NextWay::Here(narrow)),
            }
            self.dropped.push(here);
        }
        if !is_here {
            self.tell(home, narrowed);
        }
    }

    pub(crate) fn release_import(&mut self, key: Key<Import>) {
        if let Some(errand) = self.imports[key].reading {
            self.recall(errand, Cause::Interrupted);
        }
        let Import { home, number, lost, way, .. } =
            self.imports.remove(key).expect("an import has one right, which is dropped once");
        self.forget_place(home, number, key);
        self.leave_way(key, way.next);
        if let Some(here) = way.here {
            return self.dropped.push(here);
        }
        if lost || planted(Bug::ReleaseForgotten) {
            return;
        }
        let release = Content::Release { number };
        match way.hold {
            Some(hold) => self.hold_back(hold, HeldBack::Content(release)),
            None => self.tell(home, release),
        }
    }

    pub(crate) fn forget_place(&mut self, home: NodeId, number: u64, key: Key<Import>) {
        if self.imported.get(&(home, number)) == Some(&key) {
            self.imported.remove(&(home, number));
        }
    }

    pub(crate) fn open_session(&mut self, node: NodeId) -> Option<&mut Session> {
        self.sessions.get_mut(&node).filter(|session| session.breach.is_none())
    }

    /// Has something said to another node, if there is a session with it.
    pub(crate) fn tell(&mut self, node: NodeId, content: Content) {
        if let Some(session) = self.open_session(node) {
            session.push(content, None);
            self.stir_session(node);
        }
    }

    /// Whether so many more rights of other nodes may come to be here.
    pub(crate) fn foreign_room(&self, more: usize) -> bool {
        self.imports.len() as usize + more <= FOREIGN_MAX as usize
    }

    /// Whether these rights may leave the node.
    pub(crate) fn check_leaving(&self, me: Key<Process>, transfers: &[Transfer]) -> Result<(), TransferError> {
        for (index, transfer) in transfers.iter().enumerate() {
            let refuse = |cause| Err(TransferError { index: index as u8, cause });
            match self.processes[me].handles.find(transfer.handle) {
                Err(error) => return refuse(TransferCause::Handle(error)),
                Ok(right) => match right.object {
                    Object::Process(_) | Object::Pipe(_) | Object::Foreign(..) => {}
                    Object::Port(_) if transfer.rights.both(Rights::RECEIVE.with(Rights::BADGE)).is_empty() => {}
                    _ => return refuse(TransferCause::StaysHome),
                },
            }
        }
        Ok(())
    }

    /// Both checks of a message that leaves the node.
    fn check_passage(&mut self, me: Key<Process>, transfers: &[Transfer]) -> Result<(), Refusal> {
        self.check_transfers(me, transfers, None)?;
        self.check_leaving(me, transfers).map_err(Refusal::Error)
    }

    /// What these transfers say, as copies on their way. What is to be moved leaves the table when the act is done.
    pub(crate) fn pass_all(&mut self, me: Key<Process>, transfers: &[Transfer], to: NodeId) -> Vec<Passed> {
        let pass = |transfer: &Transfer| {
            let right = self.processes[me].handles.find(transfer.handle).expect("it was checked").clone();
            self.pass(&right, transfer.rights, to)
        };
        transfers.iter().map(pass).collect()
    }

    /// A copy of a right on its way to another node, with which there is a session.
    pub(crate) fn pass(&mut self, right: &Right, rights: Rights, to: NodeId) -> Passed {
        let badge = right.badge;
        let Object::Foreign(_, import) = right.object else {
            let Some(object) = self.object_id(right.object) else {
                // A right to a port that closed goes on as what it is: one that leads nowhere.
                let object = ObjectId::Port(abi::ids::PortId::new(self.node, 0));
                return Passed { object, rights, badge, place: Place::Nowhere };
            };
            let copy = self.copy_right(right, rights, badge);
            let place = match self.open_session(to) {
                Some(session) => {
                    let number = session.next_export;
                    session.next_export += 2;
                    session.exports.insert(number, copy);
                    Place::Sender { number }
                }
                None => {
                    self.dropped.push(copy);
                    Place::Nowhere
                }
            };
            return Passed { object, rights, badge, place };
        };
        let Import { home, number, object, lost, ref way, .. } = self.imports[import];
        if let Some(here) = &way.here {
            let here = Right { object: here.object, rights: right.rights, badge };
            return self.pass(&here, rights.both(here.rights), to);
        }
        let to_life = self.sessions.get(&to).map_or(0, |session| session.life);
        let place = if lost {
            Place::Nowhere
        } else if home == to {
            Place::Receiver { number }
        } else {
            // Never given out twice, in any life.
            let ticket = self.serial();
            let life = self.sessions[&home].life;
            if !planted(Bug::GrantSkipped) {
                self.tell(home, Content::Grant { number, ticket, to, life: to_life, rights });
            }
            Place::Third { home, life, ticket }
        };
        Passed { object, rights, badge, place }
    }

    /// `None` if it is no more.
    pub(crate) fn object_id(&self, object: Object) -> Option<ObjectId> {
        match object {
            Object::Process(key) => Some(ObjectId::Process(self.processes[key].id)),
            Object::Port(key) => self.ports.get(key).map(|port| ObjectId::Port(port.id)),
            Object::Pipe(key) => Some(ObjectId::Pipe(self.pipes[key].id)),
            Object::Foreign(_, import) => Some(self.imports[import].object),
            _ => unreachable!("what stays home is never passed"),
        }
    }

    /// Makes what came from another node rights of this one. Rights of third nodes are claimed; which ones must be waited for is added to
    /// `waits`.
    fn unpack(
        &mut self, from: NodeId, passed: Vec<Passed>, waits: &mut BTreeSet<(NodeId, u64)>,
    ) -> Result<Vec<Right>, Breach> {
        let mut rights = Vec::new();
        let mut breach = None;
        for passed in passed {
            match self.unpack_one(from, passed, waits) {
                Ok(right) => rights.push(right),
                Err(found) => breach = Some(found),
            }
        }
        match breach {
            None => Ok(rights),
            Some(breach) => {
                self.dropped.append(&mut rights);
                Err(breach)
            }
        }
    }

    fn unpack_one(
        &mut self, from: NodeId, passed: Passed, waits: &mut BTreeSet<(NodeId, u64)>,
    ) -> Result<Right, Breach> {
        let Passed { object, rights, badge, place } = passed;
        let kind = match object {
            ObjectId::Process(_) => Kind::Process,
            ObjectId::Port(_) => Kind::Port,
            ObjectId::Pipe(_) => Kind::Pipe,
            _ => return Err(Breach::Right),
        };
        let stays = Rights::RECEIVE.with(Rights::BADGE);
        if !Rights::all_of(kind).contains(rights) || !rights.both(stays).is_empty() {
            return Err(Breach::Right);
        }
        if let Place::Receiver { number } = place {
            let held = self.sessions[&from].exports.get(&number).ok_or(Breach::Right)?.clone();
            if !held.rights.contains(rights) && !planted(Bug::ForeignAmplifies) {
                return Err(Breach::Right);
            }
            let rights = if planted(Bug::ForeignAmplifies) { Rights::all_of(kind).without(stays) } else { rights };
            return Ok(self.copy_right(&held, rights, held.badge));
        }
        if !self.foreign_room(1) {
            return Err(Breach::Limit);
        }
        let (home, number, lost) = match place {
            Place::Sender { number } => (from, number, false),
            Place::Third { home, .. } if home == self.node || home == from => {
                return Err(Breach::Right);
            }
            Place::Third { home, life, ticket } => match self.claim(from, home, life, ticket) {
                Some(number) => {
                    waits.insert((home, number));
                    (home, number, false)
                }
                None => (home, 0, true),
            },
            _ => (object_home(object), 0, true),
        };
        let import = self.add_import(Import { lost, ..Import::new(home, number, object) });
        Ok(Right { object: Object::Foreign(kind, import), rights, badge })
    }
}

impl Kernel {
    /// Claims what that node gave by this ticket: the number under which its home will keep it. None if that life of the home is not known
    /// here; then it is given back as soon as it is.
    pub(crate) fn claim(&mut self, giver: NodeId, home: NodeId, life: u64, ticket: u64) -> Option<u64> {
        let giver_life = self.sessions[&giver].life;
        match self.open_session(home) {
            Some(session) if session.life == life => {
                let number = session.next_import;
                session.next_import += 2;
                session.push(Content::Claim { giver, life: giver_life, ticket, number }, None);
                self.stir_session(home);
                Some(number)
            }
            known => {
                // The home keeps it until it is told, which it can be only once it is met.
                let may_be_met = known.is_none_or(|session| session.life < life);
                if may_be_met && self.unclaimed.len() < FOREIGN_MAX as usize {
                    self.unclaimed.insert(Unclaimed { home, life, giver, giver_life, ticket });
                }
                None
            }
        }
    }
}

fn object_home(object: ObjectId) -> NodeId {
    match object {
        ObjectId::Process(id) => id.born(),
        ObjectId::Port(id) => id.born(),
        ObjectId::Pipe(id) => id.born(),
        _ => NodeId(0),
    }
}

/// Asking.
impl Kernel {
    /// Sends an errand on its way. Whoever calls this has seen that there is a session and room.
    fn send_errand(&mut self, node: NodeId, purpose: Purpose, actor: ProcessId, asked: Asked) -> Key<Errand> {
        let Asked { what, act, import, given, moved } = asked;
        let key = self.add_errand(Errand { moved, import, ..Errand::new(node, purpose, what) });
        self.send_act(node, import, Some(key), actor, act, given);
        key
    }

    /// Whether what cannot wait may go this way.
    fn way_has_room(&self, import: Key<Import>) -> bool {
        let Import { home, ref way, .. } = self.imports[import];
        match way.hold {
            Some(hold) => self.holds[&hold].has_room(),
            None => way.here.is_some() || self.sessions[&home].has_room(),
        }
    }

    /// An errand with a number of this node's. Whoever calls this has seen that there is room.
    pub(crate) fn add_errand(&mut self, errand: Errand) -> Key<Errand> {
        let key = self.errands.insert(errand).expect("there is room, as the caller has seen");
        self.errands[key].number = key.to_bits() + 1;
        key
    }

    pub(crate) fn find_errand(&self, node: NodeId, number: u64) -> Option<Key<Errand>> {
        let adopted = self.sessions.get(&node).and_then(|session| session.adopted.get(&number).copied());
        let key = adopted.or(number.checked_sub(1).map(Key::<Errand>::from_bits))?;
        let errand = self.errands.get(key).filter(|errand| errand.node == node && errand.number == number);
        errand.map(|_| key)
    }

    pub(crate) fn remove_errand(&mut self, key: Key<Errand>) -> Errand {
        let errand = self.errands.remove(key).expect("an errand ends once");
        if errand.number != key.to_bits() + 1
            && let Some(session) = self.sessions.get_mut(&errand.node)
        {
            session.adopted.remove(&errand.number);
        }
        errand
    }

    /// A process waits for an errand of its own.
    fn wait_abroad(&mut self, me: Key<Process>, node: NodeId, asked: Asked, wait: Wait) -> Next {
        let actor = self.processes[me].id;
        let errand = self.send_errand(node, Purpose::Process(me), actor, asked);
        self.errands[errand].at_once = wait == Wait::No;
        // What is to be done now is done when the home has done it.
        let wait = if wait == Wait::No { Wait::Until(self.now.after(VERDICT_NS)) } else { wait };
        self.block(me, Waiting::Away { errand }, wait)
    }

    pub(crate) fn send_abroad(
        &mut self, me: Key<Process>, import: Key<Import>, message: Message, mode: SendMode,
    ) -> Next {
        let refuse = |error| Next::Return(Outcome::Sent(Err(error)));
        match self.check_passage(me, &message.handles) {
            Ok(()) => {}
            Err(Refusal::Breach(fault)) => return Next::Fault(fault),
            Err(Refusal::Error(error)) => return refuse(SendError::Transfer(error)),
        }
        if message.bytes.len() > MESSAGE_BYTES_MAX {
            return refuse(SendError::TooLong);
        }
        let Import { home, number: port, lost, .. } = self.imports[import];
        if lost {
            return refuse(SendError::PortClosed);
        }
        let has_room = self.way_has_room(import) && !self.errands.is_full();
        let given = Given { giver: me, transfers: &message.handles };
        let wait = match mode {
            SendMode::Unreliable => {
                let gone = moved_of(&message.handles);
                if has_room {
                    let act = Act::Send { port, bytes: message.bytes, patience: Patience::Careless };
                    let actor = self.processes[me].id;
                    self.send_act(home, Some(import), None, actor, act, given);
                }
                self.drop_handles(me, &gone);
                return Next::Return(Outcome::Sent(Ok(())));
            }
            SendMode::Reliable(wait) => wait,
        };
        if wait == Wait::No && !has_room || self.errands.is_full() {
            return refuse(SendError::Full);
        }
        if wait != Wait::No && !self.may_wait(wait) {
            return refuse(SendError::Expired);
        }
        let act = Act::Send { port, bytes: message.bytes, patience: patience(wait) };
        let moved = moved_of(&message.handles);
        let asked = Asked { what: What::Send, act, import: Some(import), given, moved };
        self.wait_abroad(me, home, asked, wait)
    }

    /// A call, blocking or begun, to a port of another node.
    pub(crate) fn call_abroad(
        &mut self, me: Key<Process>, import: Key<Import>, message: Message, deadline: Deadline, blocks: bool,
    ) -> Next {
        let refuse = |error| {
            let outcome = if blocks { Outcome::Called(Err(error)) } else { Outcome::CallBegun(Err(error)) };
            Next::Return(outcome)
        };
        match self.check_passage(me, &message.handles) {
            Ok(()) => {}
            Err(Refusal::Breach(fault)) => return Next::Fault(fault),
            Err(Refusal::Error(error)) => return refuse(CallError::Transfer(error)),
        }
        if message.bytes.len() > MESSAGE_BYTES_MAX {
            return refuse(CallError::TooLong);
        }
        let Import { home, number: port, lost, .. } = self.imports[import];
        if lost {
            return refuse(CallError::PortClosed);
        }
        let limit = match () {
            _ if self.calls.is_full() => Some(Limit::NodeCalls),
            _ if self.errands.is_full() => Some(Limit::NodeErrands),
            _ if self.processes[me].handles.room() < if blocks { MESSAGE_HANDLES_MAX } else { 1 } => {
                Some(Limit::Handles)
            }
            _ => None,
        };
        if let Some(limit) = limit {
            return refuse(CallError::Limit(limit));
        }
        if deadline.at.is_some_and(|at| at <= self.now) {
            return refuse(CallError::Expired(Reached::Nobody));
        }
        if !blocks && !self.way_has_room(import) {
            return refuse(CallError::Full);
        }
        let id = match self.number_call(me, deadline) {
            Ok(id) => id,
            Err(error) => return refuse(error),
        };
        let given = Given { giver: me, transfers: &message.handles };
        let gone = moved_of(&message.handles);
        let act = Act::Call { port, bytes: message.bytes, sequence: id.sequence };
        let moved = if blocks { gone.clone() } else { Box::default() };
        let asked = Asked { what: What::Call, act, import: Some(import), given, moved };
        let errand = self.send_errand(home, Purpose::Nobody, id.caller, asked);
        let server = ServerSide::Away(errand);
        if blocks {
            let call = self.create_call(id, me, server, CallerSide::Blocked);
            self.errands[errand].purpose = Purpose::Call(call);
            return self.block(me, Waiting::Call { call }, deadline.at.map_or(Wait::Forever, Wait::Until));
        }
        let call = self.create_call(id, me, server, CallerSide::Begun);
        self.errands[errand].purpose = Purpose::Call(call);
        self.drop_handles(me, &gone);
        Next::Return(self.call_begun(me, call, deadline))
    }

    pub(crate) fn status_abroad(&mut self, me: Key<Process>, import: Key<Import>) -> Next {
        self.observe(me, import, What::Status, |port| Act::Status { port }, Wait::Forever)
    }

    pub(crate) fn wait_for_abroad(&mut self, me: Key<Process>, import: Key<Import>, wait: Wait) -> Next {
        if wait != Wait::No && !self.may_wait(wait) {
            return Next::Return(Outcome::Waited(Err(WaitError::Expired)));
        }
        let patience = patience(wait);
        self.observe(me, import, What::Wait, |process| Act::Wait { process, patience }, wait)
    }

    pub(crate) fn control_abroad(&mut self, me: Key<Process>, import: Key<Import>, what: What) -> Next {
        let act = |process| match what {
            What::Kill => Act::Kill { process },
            What::Hold => Act::Hold { process },
            What::Release => Act::Let { process },
            _ => Act::Interrupt { process },
        };
        self.observe(me, import, what, act, Wait::Forever)
    }

    /// An act that carries nothing.
    fn observe(
        &mut self, me: Key<Process>, import: Key<Import>, what: What, act: impl FnOnce(u64) -> Act, wait: Wait,
    ) -> Next {
        let Import { home, number, lost, .. } = self.imports[import];
        if lost {
            return Next::Return(what.lost(false));
        }
        if self.errands.is_full() {
            return Next::Return(what.given_up(Cause::Expired, false, true));
        }
        self.wait_abroad(me, home, Asked::plain(what, act(number), Some(import)), wait)
    }

    /// A flush goes on, behind what went before it.
    pub(crate) fn flush_on(&mut self, me: Key<Process>, import: Key<Import>) -> Next {
        self.observe(me, import, What::Flush, |object| Act::Flush { object }, Wait::Forever)
    }

    pub(crate) fn read_abroad(&mut self, me: Key<Process>, import: Key<Import>, bytes_max: u32, wait: Wait) -> Next {
        let give = |result| Next::Return(Outcome::Read(result));
        if bytes_max == 0 {
            return give(Ok(Bytes::EMPTY));
        }
        if let Some(bytes) = self.imports[import].take_kept(bytes_max) {
            self.landed.push(import);
            return give(Ok(bytes));
        }
        if self.imports[import].lost {
            return give(Err(ReadError::Handle(HandleError::Ended)));
        }
        if wait != Wait::No && !self.may_wait(wait) {
            return give(Err(ReadError::Expired));
        }
        let patience = patience(wait);
        if let Some(errand) = self.imports[import].reading.take() {
            // An earlier read may still bring bytes, and they come first.
            let under_way = &mut self.errands[errand];
            under_way.purpose = Purpose::Process(me);
            under_way.then = Some((bytes_max, patience));
            under_way.at_once = wait == Wait::No;
            let wait = if wait == Wait::No { Wait::Until(self.now.after(VERDICT_NS)) } else { wait };
            return self.block(me, Waiting::Away { errand }, wait);
        }
        self.observe(me, import, What::Read, |pipe| Act::Read { pipe, bytes_max, patience }, wait)
    }

    pub(crate) fn write_abroad(&mut self, me: Key<Process>, import: Key<Import>, bytes: Bytes, wait: Wait) -> Next {
        let refuse = |cause| Next::Return(Outcome::Written(Err(WriteError { written: 0, cause })));
        if bytes.len() > MESSAGE_BYTES_MAX {
            return refuse(WriteCause::TooLong);
        }
        let lost = self.imports[import].lost;
        if !lost && (self.errands.is_full() || wait == Wait::No && !self.way_has_room(import)) {
            return refuse(WriteCause::Full);
        }
        if wait != Wait::No && !self.may_wait(wait) {
            return refuse(WriteCause::Expired);
        }
        let patience = patience(wait);
        self.observe(me, import, What::Write, |pipe| Act::Write { pipe, bytes, patience }, wait)
    }

    /// Has another node say when a process ends or a port closes. The watch exists; what has happened already is told at once.
    pub(crate) fn watch_abroad(&mut self, me: Key<Process>, import: Key<Import>, watch: Key<Watch>) {
        let Import { home, number, object, lost, .. } = self.imports[import];
        if lost || self.errands.is_full() {
            return self.fire(watch, lost_event(object));
        }
        let actor = self.processes[me].id;
        let asked = Asked::plain(What::Watch, Act::Watch { subject: number }, Some(import));
        let errand = self.send_errand(home, Purpose::Watch(watch), actor, asked);
        self.watches[watch].subject = Subject::Abroad { errand, object };
    }

    pub(crate) fn open_door(&mut self, me: Key<Process>, network: HandleId, port: HandleId) -> Outcome {
        Outcome::DoorOpened(self.make_door(me, network, port))
    }

    fn make_door(&mut self, me: Key<Process>, network: HandleId, port: HandleId) -> Result<(), HandleError> {
        self.find_network(me, network, Rights::WRITE)?;
        let (port, badge) = self.find_port(me, port, Rights::SENDER)?;
        let right = Right { object: Object::Port(port), rights: Rights::SENDER, badge };
        self.retain(&right);
        self.dropped.extend(self.door.replace(right));
        Ok(())
    }

    fn find_network(&self, me: Key<Process>, network: HandleId, needed: Rights) -> Result<(), HandleError> {
        match self.find_object(me, network, needed)? {
            Object::Device(DeviceId::NETWORK) => Ok(()),
            _ => Err(HandleError::WrongKind),
        }
    }

    /// The door of this node, in this process's table.
    fn own_door(&mut self, me: Key<Process>) -> Result<HandleId, DoorError> {
        let door = self.door.clone().ok_or(DoorError::Closed)?;
        match door.object {
            Object::Port(port) if self.ports.get(port).is_some() => {}
            // Who receives at it moved.
            Object::Foreign(_, import) if !self.imports[import].lost => {}
            _ => return Err(DoorError::Closed),
        }
        if self.processes[me].handles.room() == 0 {
            return Err(DoorError::Limit(Limit::Handles));
        }
        let right = self.copy_right(&door, door.rights, door.badge);
        Ok(self.processes[me].handles.insert(right))
    }

    pub(crate) fn find_door(&mut self, me: Key<Process>, network: HandleId, node: NodeId, wait: Wait) -> Next {
        let give = |result| Next::Return(Outcome::Door(result));
        if let Err(error) = self.find_network(me, network, Rights::READ) {
            return give(Err(DoorError::Handle(error)));
        }
        if node == self.node {
            return give(self.own_door(me));
        }
        if self.open_session(node).is_none() {
            return give(Err(DoorError::Unreachable));
        }
        if self.processes[me].handles.room() == 0 {
            return give(Err(DoorError::Limit(Limit::Handles)));
        }
        if self.errands.is_full() || !self.foreign_room(1) {
            return give(Err(DoorError::Limit(Limit::NodeErrands)));
        }
        if wait != Wait::No && !self.may_wait(wait) {
            return give(Err(DoorError::Expired));
        }
        self.wait_abroad(me, node, Asked::plain(What::Door, Act::Door, None), wait)
    }

    pub(crate) fn spawn_on(&mut self, me: Key<Process>, node: NodeId, spawn: Spawn, effects: &mut Vec<Effect>) -> Next {
        if node == self.node {
            return self.spawn(me, spawn, effects);
        }
        let refuse = |error| Next::Return(Outcome::Spawned(Err(error)));
        match self.check_passage(me, &spawn.handles) {
            Ok(()) => {}
            Err(Refusal::Breach(fault)) => return Next::Fault(fault),
            Err(Refusal::Error(error)) => return refuse(SpawnError::Transfer(error)),
        }
        if spawn.weight == 0 || spawn.weight > WEIGHT_MAX {
            return refuse(SpawnError::Weight);
        }
        if self.open_session(node).is_none() {
            return refuse(SpawnError::Unreachable);
        }
        let process = &self.processes[me];
        let elsewhere = self.outposts.get(&me).map_or(0, |errands| errands.len() as u32);
        let limit = match () {
            _ if !spawn.limits.within(&process.limits) => Some(Limit::Wider),
            _ if process.used.children + elsewhere >= process.limits.children_max => Some(Limit::Children),
            _ if spawn.limits.handles_max < spawn.handles.len() as u32 || process.handles.room() == 0 => {
                Some(Limit::Handles)
            }
            _ if self.errands.is_full() => Some(Limit::NodeErrands),
            _ if !self.foreign_room(1) => Some(Limit::NodeForeign),
            _ => None,
        };
        if let Some(limit) = limit {
            return refuse(SpawnError::Limit(limit));
        }
        let supervisor = match self.supervisor_port(me, spawn.supervisor) {
            Ok(supervisor) => supervisor,
            Err(error) => return refuse(error),
        };
        let moved = moved_of(&spawn.handles);
        let Spawn { program, arguments, limits, weight, orphan, handles, .. } = spawn;
        let act = Act::Spawn(Box::new(SpawnAct { program, arguments, limits, weight, orphan }));
        let given = Given { giver: me, transfers: &handles };
        let asked = Asked { what: What::Spawn, act, import: None, given, moved };
        let actor = self.processes[me].id;
        let errand = self.send_errand(node, Purpose::Process(me), actor, asked);
        if let Some((port, token)) = supervisor {
            let object = ObjectId::Process(ProcessId::new(node, 0));
            let watch = self.create_watch(me, Subject::Abroad { errand, object }, Some(port), token);
            self.errands[errand].supervisor = Some(watch);
        }
        self.block(me, Waiting::Away { errand }, Wait::Forever)
    }

    /// Handles that went with an act are gone from the table.
    pub(crate) fn drop_handles(&mut self, me: Key<Process>, handles: &[HandleId]) {
        for handle in handles {
            if let Ok(right) = self.processes[me].handles.remove(*handle) {
                self.dropped.push(right);
            }
        }
    }
}

impl Import {
    fn take_kept(&mut self, bytes_max: u32) -> Option<Bytes> {
        if self.kept.is_empty() {
            return None;
        }
        let kept = core::mem::take(&mut self.kept);
        let wanted = kept.len().min(bytes_max as usize);
        let (front, rest) = kept.split(wanted);
        self.kept = rest;
        Some(front)
    }
}

/// Who would not wait had no deadline that could be over.
fn in_no_time(verdict: Verdict) -> Verdict {
    let outcome = match verdict {
        Verdict::Outcome(Outcome::Sent(Err(SendError::Expired))) => Outcome::Sent(Err(SendError::Full)),
        Verdict::Outcome(Outcome::Read(Err(ReadError::Expired))) => Outcome::Read(Err(ReadError::Empty)),
        Verdict::Outcome(Outcome::Written(Err(WriteError { written, cause: WriteCause::Expired }))) => {
            Outcome::Written(Err(WriteError { written, cause: WriteCause::Full }))
        }
        verdict => return verdict,
    };
    Verdict::Outcome(outcome)
}

/// What whoever watches is told when the node is lost.
fn lost_event(object: ObjectId) -> NoticeEvent {
    match object {
        ObjectId::Process(process) => NoticeEvent::Exited { process, exit: Exit::NodeLost },
        _ => NoticeEvent::PortClosed,
    }
}

/// Giving up.
impl Kernel {
    /// Whether an errand was not sent yet, and was taken back by this; else the home is told that nobody wants it. Nobody waits then.
    pub(crate) fn recall(&mut self, key: Key<Errand>, cause: Cause) -> bool {
        let Errand { node, withdrawn, supervisor, .. } = self.errands[key];
        if let Some(watch) = self.errands[key].supervisor.take().or(supervisor) {
            self.forget_watch(watch);
        }
        let taken_back =
            self.take_held_back(key) || self.open_session(node).is_some_and(|session| session.take_back(key));
        if taken_back {
            self.remove_errand(key);
            return true;
        }
        self.errands[key].purpose = Purpose::Nobody;
        // A child is not ended before it is known that nobody will know it.
        if withdrawn.is_none() || self.errands[key].what == What::Spawn {
            self.withdraw_errand(key, cause);
        }
        false
    }

    pub(crate) fn withdraw_errand(&mut self, key: Key<Errand>, cause: Cause) {
        self.errands[key].withdrawn = Some(cause);
        let Errand { node, number: errand, .. } = self.errands[key];
        if planted(Bug::WithdrawLost) {
            return;
        }
        if node == self.node {
            return self.inward.push_back(Inward::Withdraw { errand, cause });
        }
        self.tell(node, Content::Withdraw { errand, expired: u8::from(cause == Cause::Expired) });
    }

    /// A process gives up waiting: why it does, or nothing if it waits a little longer, for word of how far its act at another node had
    /// come.
    pub(crate) fn gives_up(&mut self, key: Key<Process>, cause: Cause) -> Option<Cause> {
        let State::Waiting { waiting, .. } = &self.processes[key].state else {
            return Some(cause);
        };
        let errand = match waiting {
            Waiting::Away { errand } => *errand,
            Waiting::Call { call } => match self.calls[*call].server_side {
                ServerSide::Away(errand) => errand,
                _ => return Some(cause),
            },
            _ => return Some(cause),
        };
        if self.is_handing(key) {
            if self.errands[errand].withdrawn.is_none() {
                self.withdraw_errand(errand, cause);
            }
            return None;
        }
        // What only looks has no effect; of a second end there is no more to know than of the first.
        let only_looks = matches!(self.errands[errand].what, What::Wait | What::Status | What::Door);
        if only_looks {
            return Some(cause);
        }
        let stands_in = self.processes[key].abroad.is_some();
        if let Some(first) = self.errands[errand].withdrawn {
            // The one for whom it stands in has a patience of its own.
            if stands_in {
                return None;
            }
            return Some(if self.errands[errand].then.is_some() { cause } else { first });
        }
        if self.is_unsent(errand) {
            return Some(cause);
        }
        match self.errands[errand].what {
            What::Spawn => self.errands[errand].withdrawn = Some(cause),
            _ => self.withdraw_errand(errand, cause),
        }
        if stands_in {
            return None;
        }
        let at = self.now.after(VERDICT_NS);
        let new = self.alarms.add(at, crate::schedule::Due::Process(key));
        let State::Waiting { alarm, .. } = &mut self.processes[key].state else {
            unreachable!("it was just seen to wait")
        };
        if let Some(old) = alarm.replace(new) {
            self.alarms.take(old);
        }
        None
    }

    /// A process is roused that waits for another node: if something may happen there, word of it is awaited.
    pub(crate) fn rouse_abroad(&mut self, key: Key<Process>, errand: Key<Errand>) {
        let Errand { what, withdrawn, ref then, .. } = self.errands[errand];
        match what {
            // It is over when the child is there, or not.
            What::Spawn => {}
            What::Wait | What::Status | What::Door => self.give_up(key, Cause::Interrupted),
            _ if then.is_some() || self.is_unsent(errand) => self.give_up(key, Cause::Interrupted),
            _ if withdrawn.is_none() => self.withdraw_errand(errand, Cause::Interrupted),
            _ => {}
        }
    }

    /// Whether nobody else has heard of it yet.
    fn is_unsent(&self, key: Key<Errand>) -> bool {
        let session = self.sessions.get(&self.errands[key].node);
        session.is_some_and(|session| session.pending.iter().any(|pending| pending.errand == Some(key)))
            || self.is_held_back(key)
    }

    /// The handles that go with a call to another node are gone.
    pub(crate) fn drop_moved(&mut self, caller: Key<Process>, errand: Key<Errand>) {
        let moved = core::mem::take(&mut self.errands[errand].moved);
        self.drop_handles(caller, &moved);
    }

    /// A process does not wait for its errand any more, and nothing is known of that: what it is told.
    pub(crate) fn leave_errand(&mut self, me: Key<Process>, key: Key<Errand>, cause: Cause) -> Outcome {
        let Errand { what, at_once, .. } = self.errands[key];
        let moved = core::mem::take(&mut self.errands[key].moved);
        let import = self.errands[key].import;
        if let (What::Read, Some(import)) = (what, import) {
            // It may bring bytes yet; the next read from this handle has them.
            if self.recall(key, cause) {
                return what.given_up(cause, false, at_once);
            }
            self.errands[key].purpose = Purpose::Kept(import);
            self.errands[key].then = None;
            self.imports[import].reading = Some(key);
            return what.given_up(cause, true, at_once);
        }
        let was_sent = !self.recall(key, cause);
        let outcome = what.given_up(cause, was_sent, at_once);
        if moves(&outcome) {
            self.drop_handles(me, &moved);
        }
        outcome
    }

    /// The caller's side of a call to another node is given up: how far it may have come.
    pub(crate) fn leave_call(&mut self, call: Key<Call>, errand: Key<Errand>, cause: Cause) -> Reached {
        let moved = core::mem::take(&mut self.errands[errand].moved);
        let caller = self.calls[call].caller;
        let taken_back = self.recall(errand, cause);
        self.calls[call].server_side = ServerSide::Done;
        if taken_back {
            return Reached::Nobody;
        }
        if self.processes.get(caller).is_some() {
            self.drop_handles(caller, &moved);
        }
        Reached::Server { sequence: self.calls[call].id.sequence }
    }

    /// The deadline of a begun call has come: true if word from the home is waited for.
    pub(crate) fn call_awaits_verdict(&mut self, call: Key<Call>) -> bool {
        let ServerSide::Away(errand) = self.calls[call].server_side else {
            return false;
        };
        if self.is_unsent(errand) || self.errands[errand].withdrawn.is_some() {
            return false;
        }
        self.withdraw_errand(errand, Cause::Expired);
        true
    }

    /// A process ended that has children on other nodes.
    pub(crate) fn leave_outposts(&mut self, key: Key<Process>) {
        for errand in self.outposts.remove(&key).unwrap_or_default() {
            self.recall(errand, Cause::Interrupted);
        }
    }
}

/// Heeding.
impl Kernel {
    /// Does what another kernel says.
    pub(crate) fn heed(&mut self, from: NodeId, content: Content, effects: &mut Vec<Effect>) -> Result<(), Breach> {
        let session = self.sessions.get_mut(&from).expect("who says something has a session");
        let process_waits = session.delayed.iter().any(|delayed| delayed.luggage.is_some());
        // Claims are between three nodes, of which each would wait for another.
        let of_claims = matches!(
            content,
            Content::Claim { .. } | Content::Claimed { .. } | Content::Dead { .. } | Content::Settled { .. }
        );
        if !process_waits || planted(Bug::MovedOvertaken) {
            return self.heed_now(from, content, effects);
        }
        if let Content::Settled { node, life } = content {
            // Of acts that were handed over it says in its turn that no more will come, behind those that have.
            self.heed_settled(from, node, life);
            if planted(Bug::HandedSettledEarly) {
                return self.heed_now(from, content, effects);
            }
        } else if of_claims {
            return self.heed_now(from, content, effects);
        }
        let session = self.sessions.get_mut(&from).expect("who says something has a session");
        // It may be about what the process brings.
        if session.behind.len() >= ERRANDS_MAX as usize {
            return Err(Breach::Limit);
        }
        session.behind.push_back(content);
        Ok(())
    }

    fn heed_now(&mut self, from: NodeId, content: Content, effects: &mut Vec<Effect>) -> Result<(), Breach> {
        match content {
            Content::Luggage { bytes } => {
                let session = self.sessions.get_mut(&from).expect("who says something has a session");
                session.luggage.extend_from_slice(&bytes);
                if session.luggage.len() > 2 * TRANSFER_BYTES_MAX { Err(Breach::Limit) } else { Ok(()) }
            }
            Content::Transfer { ticket, bytes } => self.heed_transfer(from, ticket, &bytes, effects),
            Content::Forgo { ticket } => {
                if self.unexpect(from, ticket) {
                    effects.push(Effect::Missed { from, ticket });
                }
                Ok(())
            }
            Content::Act { errand, .. } if errand >= ADOPTED_MIN => Err(Breach::Errand),
            Content::Act { errand, actor, act, rights } => {
                let mut waits = BTreeSet::new();
                let rights = self.unpack(from, rights, &mut waits)?;
                // What it names is looked up before anything is made of it.
                let lent = match act.number().map(|number| self.export(from, number).cloned()) {
                    None => None,
                    Some(Ok(right)) => Some(self.lend_right(&right)),
                    Some(Err(breach)) => {
                        self.dropped.extend(rights);
                        return Err(breach);
                    }
                };
                let behind = match act {
                    Act::Flush { .. } => !self.sessions[&from].delayed.is_empty(),
                    _ => self.is_delayed(actor),
                };
                if waits.is_empty() && !behind {
                    return self.perform(from, errand, actor, act, lent, rights, effects);
                }
                if self.sessions[&from].delayed.len() >= ERRANDS_MAX as usize {
                    self.dropped.extend(rights.into_iter().chain(lent));
                    return Err(Breach::Limit);
                }
                let content = Content::Act { errand, actor, act, rights: Vec::new() };
                self.delay(from, Delayed { content, lent, rights, waits, luggage: None, order: 0 });
                Ok(())
            }
            Content::Done { errand, verdict, rights } => {
                let mut waits = BTreeSet::new();
                let rights = self.unpack(from, rights, &mut waits)?;
                if waits.is_empty() {
                    return self.done(from, errand, verdict, rights);
                }
                let content = Content::Done { errand, verdict, rights: Vec::new() };
                self.delay(from, Delayed { content, lent: None, rights, waits, luggage: None, order: 0 });
                Ok(())
            }
            Content::Void { rights } => {
                // A claim may be under way for some of them; what it brings is given back.
                let rights = self.unpack(from, rights, &mut BTreeSet::new())?;
                self.dropped.extend(rights);
                Ok(())
            }
            Content::Withdraw { errand, expired } => {
                let cause = if expired == 1 { Cause::Expired } else { Cause::Interrupted };
                self.withdrawn(from, errand, cause, effects);
                Ok(())
            }
            Content::Release { number } => {
                let session = self.sessions.get_mut(&from).expect("who says something has a session");
                // What was claimed may be released before the claim is decided, or after it was decided that it is dead.
                self.dropped.extend(session.exports.remove(&number));
                for claim in self.claims.values_mut().filter(|claim| claim.claimer == from && claim.number == number) {
                    claim.released = true;
                }
                Ok(())
            }
            Content::Duplicate { number, new, rights } => {
                let held = self.export(from, number)?.clone();
                // Whether it may be copied is asked where it is held: who stands in there for a third node has a right for each act.
                if !held.rights.contains(rights) {
                    return Err(Breach::Right);
                }
                let copy = self.copy_right(&held, rights, held.badge);
                self.take_in(from, new, copy)
            }
            Content::Narrow { number, rights } => {
                let held = self.export(from, number)?.clone();
                if !held.rights.contains(rights) {
                    return Err(Breach::Right);
                }
                let narrowed = self.copy_right(&held, rights, held.badge);
                let session = self.sessions.get_mut(&from).expect("who says something has a session");
                self.dropped.extend(session.exports.insert(number, narrowed));
                Ok(())
            }
            Content::Grant { number, ticket, to, life, rights } => self.granted(from, number, ticket, to, life, rights),
            Content::Claim { giver, life, ticket, number } => self.claimed(from, giver, life, ticket, number),
            Content::Claimed { number } => {
                self.way_claimed(from, number);
                self.claim_settled(from, number, effects);
                Ok(())
            }
            Content::Dead { number } => {
                self.claim_dead(from, number);
                self.claim_settled(from, number, effects);
                Ok(())
            }
            Content::Shorter { number, place } => self.heed_shorter(from, number, place),
            Content::Again { number } => {
                self.export(from, number)?;
                self.long.insert((from, number));
                Ok(())
            }
            Content::Onward { errand, at, life, offer: number } => {
                self.heed_onward(from, errand, Offer { at, life, number })
            }
            Content::Agreed { errand, offer, number, turn } => {
                self.heed_agreed(from, errand, offer, (number, turn));
                Ok(())
            }
            Content::HandOver { errand, turn, to, life, number, next } => {
                self.heed_hand_over(from, errand, HandOver { turn, to, life, number, next })
            }
            Content::Taken { errand } => self.heed_taken(from, errand),
            Content::HandedOver { errand } => self.heed_handed_over(from, errand, effects),
            Content::Relieved { errand } => self.heed_relieved(from, errand),
            Content::Settled { node, life } => {
                self.heed_settled(from, node, life);
                self.orphans_settled(from, node, life);
                Ok(())
            }
        }
    }

    /// From that life nothing is claimed there any more.
    fn heed_settled(&mut self, from: NodeId, node: NodeId, life: u64) {
        let session = self.sessions.get_mut(&from).expect("who says something has a session");
        let known = session.settled.entry(node).or_insert(0);
        *known = life.max(*known);
        let over = |_: &(NodeId, u64), grant: &mut Grant| grant.to == from && grant.giver_life <= life;
        let gone: Vec<_> =
            self.grants.extract_if((node, 0)..=(node, u64::MAX), over).map(|(_, grant)| grant.right).collect();
        self.dropped.extend(gone);
    }

    /// A process comes.
    fn heed_transfer(
        &mut self, from: NodeId, ticket: u64, bytes: &[u8], effects: &mut Vec<Effect>,
    ) -> Result<(), Breach> {
        let session = self.sessions.get_mut(&from).expect("who says something has a session");
        let mut all = core::mem::take(&mut session.luggage);
        all.extend_from_slice(bytes);
        let mut luggage = Luggage::decode(&all).map_err(|_| Breach::Malformed)?;
        let mut waits = BTreeSet::new();
        let rights = self.unpack(from, core::mem::take(&mut luggage.passed.0), &mut waits)?;
        if (waits.is_empty() || planted(Bug::MovedUnclaimed)) && !self.is_delayed(luggage.process.id) {
            return self.arrive(from, ticket, *luggage, rights, effects);
        }
        let content = Content::Transfer { ticket, bytes: Bytes::EMPTY };
        self.delay(from, Delayed { content, lent: None, rights, waits, luggage: Some(luggage), order: 0 });
        Ok(())
    }

    fn delay(&mut self, from: NodeId, delayed: Delayed) {
        self.delays += 1;
        let session = self.sessions.get_mut(&from).expect("who says something has a session");
        session.delayed.push(Delayed { order: self.delays, ..delayed });
    }

    /// Whether something that this process did waits, from whichever node: it may have moved meanwhile.
    fn is_delayed(&self, actor: ProcessId) -> bool {
        self.sessions.values().flat_map(|session| &session.delayed).any(|delayed| delayed.actor() == Some(actor))
    }

    fn export(&self, node: NodeId, number: u64) -> Result<&Right, Breach> {
        self.sessions[&node].exports.get(&number).ok_or(Breach::Right)
    }

    /// The other node holds a right more, under a number of its choice.
    fn take_in(&mut self, node: NodeId, number: u64, right: Right) -> Result<(), Breach> {
        let session = self.sessions.get_mut(&node).expect("who says something has a session");
        let breach = if number.is_multiple_of(2) || session.exports.contains_key(&number) {
            Breach::Right
        } else if session.exports.len() >= FOREIGN_MAX as usize * 2 {
            Breach::Limit
        } else {
            if matches!(right.object, Object::Foreign(..)) {
                self.long.insert((node, number));
            }
            session.exports.insert(number, right);
            return Ok(());
        };
        self.dropped.push(right);
        Err(breach)
    }

    fn granted(
        &mut self, giver: NodeId, number: u64, ticket: u64, to: NodeId, to_life: u64, rights: Rights,
    ) -> Result<(), Breach> {
        let held = self.export(giver, number)?.clone();
        if !held.rights.contains(rights) || to == giver || to == self.node {
            return Err(Breach::Right);
        }
        let giver_life = self.sessions[&giver].life;
        let gone = match self.sessions.get(&to) {
            // It lives anew, and the giver has met it before this node did: it will claim in that life.
            Some(session) if session.life < to_life => planted(Bug::GrantToNextLifeDropped),
            Some(session) => {
                session.life != to_life
                    || session.breach.is_some()
                    || session.settled.get(&giver).is_some_and(|life| *life >= giver_life)
            }
            None => self.over.get(&to).is_some_and(|over| *over >= to_life),
        };
        let right = self.copy_right(&held, rights, held.badge);
        match self.claims.remove(&(giver, ticket)) {
            Some(Claim { released: true, .. }) => self.dropped.push(right),
            Some(Claim { claimer, number, .. }) if claimer == to && !gone => {
                let answer = match self.take_in(to, number, right) {
                    Ok(()) => Content::Claimed { number },
                    Err(_) => Content::Dead { number },
                };
                self.tell(to, answer);
            }
            Some(Claim { claimer, number, .. }) => {
                self.dropped.push(right);
                self.tell(claimer, Content::Dead { number });
            }
            None if gone => self.dropped.push(right),
            None => {
                let grant = Grant { to, to_life, giver_life, right };
                if let Some(old) = self.grants.insert((giver, ticket), grant) {
                    self.dropped.push(old.right);
                    return Err(Breach::Right);
                }
                if self.grants.range((giver, 0)..=(giver, u64::MAX)).count() > FOREIGN_MAX as usize {
                    return Err(Breach::Limit);
                }
            }
        }
        Ok(())
    }

    fn claimed(&mut self, from: NodeId, giver: NodeId, life: u64, ticket: u64, number: u64) -> Result<(), Breach> {
        if number.is_multiple_of(2) || self.sessions[&from].exports.contains_key(&number) {
            return Err(Breach::Right);
        }
        if let Some(grant) = self.grants.get(&(giver, ticket)) {
            let mine = grant.to == from && grant.giver_life == life && grant.to_life == self.sessions[&from].life;
            if mine {
                let grant = self.grants.remove(&(giver, ticket)).expect("it was just seen");
                self.take_in(from, number, grant.right)?;
                self.tell(from, Content::Claimed { number });
                return Ok(());
            }
            self.tell(from, Content::Dead { number });
            return Ok(());
        }
        // The giver's word may still be on its way, if that life of it is not over.
        let may_come = match self.sessions.get(&giver) {
            Some(session) => session.life <= life && session.breach.is_none(),
            None => self.over.get(&giver).is_none_or(|over| *over < life),
        };
        let pending = self.claims.values().filter(|claim| claim.claimer == from).count();
        if !may_come || pending >= ERRANDS_MAX as usize || giver == from || giver == self.node {
            self.tell(from, Content::Dead { number });
            return Ok(());
        }
        let claim = Claim { claimer: from, giver_life: life, number, released: false };
        if let Some(old) = self.claims.insert((giver, ticket), claim) {
            self.tell(old.claimer, Content::Dead { number: old.number });
        }
        Ok(())
    }

    /// A claim is decided: what waited for it, and for nothing else, goes on.
    fn claim_settled(&mut self, home: NodeId, number: u64, effects: &mut Vec<Effect>) {
        for session in self.sessions.values_mut() {
            for delayed in &mut session.delayed {
                delayed.waits.remove(&(home, number));
            }
        }
        self.go_on(effects);
    }

    /// Heeds what was delayed and does not wait any more.
    fn go_on(&mut self, effects: &mut Vec<Effect>) {
        loop {
            let all = || self.sessions.values().flat_map(|session| &session.delayed);
            let found = self.sessions.iter().find_map(|(node, session)| {
                let ready = |(index, delayed): &(usize, &Delayed)| {
                    // A flush is behind all that came from the same node.
                    let first = *index == 0 || !delayed.is_flush();
                    delayed.waits.is_empty() && first && !all().any(|other| other.is_before(delayed))
                };
                session.delayed.iter().enumerate().find(ready).map(|(index, _)| (*node, index))
            });
            let Some((node, index)) = found else { return };
            let session = self.sessions.get_mut(&node).expect("it was just seen");
            let Delayed { content, lent, rights, luggage, .. } = session.delayed.remove(index);
            let result = match content {
                Content::Act { errand, actor, act, .. } => {
                    self.perform(node, errand, actor, act, lent, rights, effects)
                }
                Content::Done { errand, verdict, .. } => self.done(node, errand, verdict, rights),
                Content::Transfer { ticket, .. } => {
                    let luggage = luggage.expect("what a process takes along is with it");
                    let arrived = self.arrive(node, ticket, *luggage, rights, effects);
                    arrived.and_then(|()| self.heed_behind(node, effects))
                }
                _ => unreachable!("nothing else is delayed"),
            };
            if let Err(breach) = result {
                self.end_session(node, Some(breach), effects);
            }
        }
    }

    /// A process came: what waited behind it is heeded.
    fn heed_behind(&mut self, node: NodeId, effects: &mut Vec<Effect>) -> Result<(), Breach> {
        loop {
            self.settle_abroad(effects);
            let Some(session) = self.sessions.get_mut(&node) else { return Ok(()) };
            if session.delayed.iter().any(|delayed| delayed.luggage.is_some()) {
                return Ok(());
            }
            let Some(content) = session.behind.pop_front() else { return Ok(()) };
            self.heed_now(node, content, effects)?;
        }
    }

    /// Nobody over there wants this errand any more.
    fn withdrawn(&mut self, from: NodeId, errand: u64, cause: Cause, effects: &mut Vec<Effect>) {
        let session = self.sessions.get_mut(&from).expect("who says something has a session");
        if let Some(index) = session.delayed.iter().position(|delayed| delayed.is_act(errand)) {
            let Delayed { content, lent, rights, .. } = session.delayed.remove(index);
            self.dropped.extend(rights.into_iter().chain(lent));
            let Content::Act { act, .. } = content else { unreachable!("it was just seen") };
            let verdict = match act.what() {
                What::Call => {
                    let reached = Reached::Nobody;
                    let error = match cause {
                        Cause::Expired => CallError::Expired(reached),
                        Cause::Interrupted => CallError::Interrupted(reached),
                    };
                    Verdict::Outcome(Outcome::Called(Err(error)))
                }
                // A flush is given up when whoever asked for it is lost.
                What::Flush if !planted(Bug::WayFlushAnswered) => Verdict::Over,
                What::Watch => Verdict::Over,
                // It is said not to have been sent: here it never was.
                what => Verdict::Outcome(what.given_up(cause, false, false)),
            };
            self.tell(from, Content::Done { errand, verdict, rights: Vec::new() });
            return self.go_on(effects);
        }
        if let Some(&key) = session.stand_ins.get(&errand) {
            self.dismiss(key, cause, effects);
        }
    }

    /// Nobody wants what this stand-in does.
    pub(crate) fn dismiss(&mut self, key: Key<Process>, cause: Cause, effects: &mut Vec<Effect>) {
        if self.is_handing(key) {
            // Whether it is still asked is not known here: its last word comes from where it was handed over.
            if let Some(errand) = self.middle(key)
                && self.errands[errand].withdrawn.is_none()
            {
                self.withdraw_errand(errand, cause);
            }
            return;
        }
        match &self.processes[key].state {
            State::Waiting { waiting: Waiting::Post, .. } => {
                self.dismiss_children(key, effects);
                self.settle_abroad(effects);
            }
            State::Waiting { .. } => self.give_up(key, cause),
            _ => {}
        }
    }

    /// Lets a stand-in do an act, with what the act is about and the rights that came with it.
    #[allow(
        clippy::too_many_arguments,
        reason = "they are what an act is; a struct of them would be made here and taken apart here"
    )]
    pub(crate) fn perform(
        &mut self, from: NodeId, errand: u64, actor: ProcessId, act: Act, lent: Option<Right>, rights: Vec<Right>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Breach> {
        let stand_ins = self.stand_ins(from);
        let (known, count) = (stand_ins.contains_key(&errand), stand_ins.len());
        let breach = if errand != 0 && known {
            Some(Breach::Errand)
        } else if count >= 2 * ERRANDS_MAX as usize || self.processes.is_full() {
            Some(Breach::Limit)
        } else {
            None
        };
        if let Some(breach) = breach {
            self.dropped.extend(rights.into_iter().chain(lent));
            return Err(breach);
        }
        let me = self.send_stand_in(from, errand, actor);
        let transfers: Box<[Transfer]> = rights
            .into_iter()
            .map(|right| {
                let rights = right.rights;
                let handle = self.processes[me].handles.insert(right);
                Transfer { handle, rights, mode: TransferMode::Move }
            })
            .collect();
        let handle = lent.map_or(HandleId::NONE, |right| self.processes[me].handles.insert(right));
        let next = self.act_as(me, handle, act, transfers, effects);
        match next {
            Next::Return(outcome) | Next::Yield(outcome) => {
                self.processes[me].outcome = outcome;
                self.processes[me].state = State::Starting;
                self.homeward.push_back((me, None));
                Ok(())
            }
            Next::Block => Ok(()),
            Next::Ended | Next::Fault(_) => {
                // Only a kernel that is not one of ours asks for this.
                self.remove_stand_in(me, effects);
                Err(Breach::Errand)
            }
        }
    }

    fn act_as(
        &mut self, me: Key<Process>, handle: HandleId, act: Act, handles: Box<[Transfer]>, effects: &mut Vec<Effect>,
    ) -> Next {
        let wait = |patience| {
            if patience == Patience::None { Wait::No } else { Wait::Forever }
        };
        match act {
            Act::Send { bytes, patience, .. } => {
                let mode = match patience {
                    Patience::Careless => SendMode::Unreliable,
                    patience => SendMode::Reliable(wait(patience)),
                };
                let next = self.send(me, handle, Message { bytes, handles }, mode);
                self.drop_handles(me, &[handle]);
                next
            }
            Act::Call { bytes, sequence, .. } => {
                self.processes[me].calls_made = sequence;
                let deadline = Deadline { at: None, again: Some(sequence) };
                let next = self.call(me, handle, Message { bytes, handles }, deadline);
                self.drop_handles(me, &[handle]);
                next
            }
            Act::Status { .. } => self.port_status(me, handle),
            Act::Wait { patience, .. } => self.wait(me, handle, wait(patience)),
            Act::Kill { .. } => self.kill(me, handle, effects),
            Act::Hold { .. } => self.hold(me, handle, effects),
            Act::Let { .. } => self.release(me, handle),
            Act::Interrupt { .. } => self.interrupt(me, handle),
            Act::Read { bytes_max, patience, .. } => self.read(me, handle, bytes_max, wait(patience)),
            Act::Write { bytes, patience, .. } => self.write(me, handle, bytes, wait(patience)),
            Act::Watch { .. } => self.watch_for_another(me, handle),
            Act::Flush { .. } => self.flush(me, handle),
            Act::Door => Next::Return(Outcome::Door(self.own_door(me))),
            Act::Spawn(spawn) => {
                let SpawnAct { program, arguments, limits, weight, orphan } = *spawn;
                let spawn =
                    Spawn { program, arguments, handles, limits, weight, orphan, supervisor: None, again: None };
                self.spawn(me, spawn, effects)
            }
        }
    }

    /// A stand-in watches: its wait ends with what happens.
    fn watch_for_another(&mut self, me: Key<Process>, handle: HandleId) -> Next {
        let object = match self.find_object(me, handle, Rights::WATCH) {
            Ok(object) => object,
            Err(_) => return Next::Fault(abi::process::Fault::MalformedCall),
        };
        let ended = match object {
            Object::Process(key) => match self.processes[key].state {
                State::Exited { exit } => Some(NoticeEvent::Exited { process: self.processes[key].id, exit }),
                _ => None,
            },
            Object::Port(key) if self.ports.get(key).is_none() => Some(NoticeEvent::PortClosed),
            Object::Port(_) => None,
            Object::Foreign(Kind::Process | Kind::Port, _) => None,
            _ => return Next::Fault(abi::process::Fault::MalformedCall),
        };
        if let Some(event) = ended {
            let next = self.block(me, Waiting::Post, Wait::Forever);
            self.homeward.push_back((me, Some(Verdict::Fired(event))));
            return next;
        }
        if self.watches.is_full() {
            return Next::Fault(abi::process::Fault::MalformedCall);
        }
        let watch = match object {
            Object::Process(key) => {
                let watch = self.create_watch(me, Subject::Process(key), None, 0);
                self.processes[key].watches.push(watch);
                watch
            }
            Object::Port(key) => {
                let watch = self.create_watch(me, Subject::Port(key), None, 0);
                self.ports[key].watches.push(watch);
                watch
            }
            Object::Foreign(_, import) => {
                // It moved on: somebody else is asked, who stands in for this one there.
                let object = self.imports[import].object;
                let unset = Subject::Abroad { errand: Key::nothing(), object };
                let watch = self.create_watch(me, unset, None, 0);
                let next = self.block(me, Waiting::Notice { watch }, Wait::Forever);
                self.watch_abroad(me, import, watch);
                return next;
            }
            _ => unreachable!("it was just seen to be one of these"),
        };
        self.block(me, Waiting::Notice { watch }, Wait::Forever)
    }

    pub(crate) fn send_stand_in(&mut self, node: NodeId, errand: u64, actor: ProcessId) -> Key<Process> {
        // What the asker's own limits allow was checked where it lives.
        let program = Program::Service(u32::MAX);
        let process = Process {
            state: State::Running { worker: NO_WORKER, since: self.now },
            handles: Handles::new(4 * MESSAGE_HANDLES_MAX as u32),
            abroad: Some(Box::new(Abroad { node, errand, turn: 0, offered: None, handing: false })),
            ..Process::new(actor, program, UNLIMITED, WEIGHT_NORMAL, Orphan::Dies)
        };
        let key = self.processes.insert(process).expect("there is room, as was just seen");
        if errand != 0 {
            self.stand_ins(node).insert(errand, key);
            self.looked_at.push(key);
        }
        key
    }

    /// Sends home what stand-ins have, and works off what was dropped, until neither is left.
    pub(crate) fn settle_abroad(&mut self, effects: &mut Vec<Effect>) {
        loop {
            self.release_dropped();
            if let Some((key, verdict)) = self.homeward.pop_front() {
                self.go_home(key, verdict, effects);
            } else if let Some(inward) = self.inward.pop_front() {
                self.go_inward(inward, effects);
            } else {
                return;
            }
        }
    }

    fn go_home(&mut self, key: Key<Process>, verdict: Option<Verdict>, effects: &mut Vec<Effect>) {
        // Its session may have ended, and it with that.
        let Some(process) = self.processes.get_mut(key) else {
            return;
        };
        let Some(Abroad { node, errand, .. }) = process.abroad.as_deref() else {
            unreachable!("only who stands in goes home")
        };
        let (node, errand) = (*node, *errand);
        let mut verdict = verdict.unwrap_or_else(|| {
            match core::mem::replace(&mut process.outcome, Outcome::Yielded) {
                // A watch that is not wanted any more.
                Outcome::Yielded => Verdict::Over,
                outcome => Verdict::Outcome(outcome),
            }
        });
        let mut spawned = false;
        let handles: Vec<HandleId> = match &mut verdict {
            Verdict::Outcome(Outcome::Called(Ok(answer))) => core::mem::take(&mut answer.handles).into(),
            Verdict::Outcome(Outcome::Spawned(Ok(child))) => {
                spawned = true;
                alloc::vec![child.process]
            }
            Verdict::Outcome(Outcome::Door(Ok(door))) => alloc::vec![*door],
            _ => Vec::new(),
        };
        let rights: Vec<Right> = handles
            .iter()
            .map(|handle| process.handles.remove(*handle).expect("an outcome's handles are there"))
            .collect();
        if node == self.node {
            self.remove_stand_in(key, effects);
            if errand != 0 {
                self.done(node, errand, verdict, rights).expect("an errand at this node is asked as it is answered");
            } else {
                self.dropped.extend(rights);
            }
            return;
        }
        let passed: Vec<Passed> = rights.iter().map(|right| self.pass(right, right.rights, node)).collect();
        self.dropped.extend(rights);
        if errand != 0 && !(planted(Bug::VerdictLost) && verdict == Verdict::Outcome(Outcome::Sent(Ok(())))) {
            self.tell(node, Content::Done { errand, verdict, rights: passed });
        }
        if spawned && self.sessions.contains_key(&node) {
            // It stays as the child's parent.
            self.processes[key].state = State::Waiting { waiting: Waiting::Post, alarm: None };
            if self.processes[key].used.children == 0 {
                self.homeward.push_back((key, Some(Verdict::Over)));
            }
            return;
        }
        self.remove_stand_in(key, effects);
    }

    pub(crate) fn remove_stand_in(&mut self, key: Key<Process>, effects: &mut Vec<Effect>) {
        self.dismiss_children(key, effects);
        let process = self.processes.remove(key).expect("a stand-in goes once");
        let Some(Abroad { node, errand, .. }) = process.abroad.as_deref() else {
            unreachable!("only who stands in goes home")
        };
        if let Some(session) = self.sessions.get_mut(node) {
            session.stand_ins.remove(errand);
        } else if *node == self.node {
            self.own_stand_ins.remove(errand);
        }
        let mut handles = process.handles;
        self.dropped.extend(handles.drain());
    }

    /// The children of a process of another node are orphans.
    fn dismiss_children(&mut self, key: Key<Process>, effects: &mut Vec<Effect>) {
        while let Some(child) = self.processes[key].first_child {
            let adopter = self.first.filter(|first| self.is_alive(*first) && *first != child);
            self.unlink(child);
            match (self.processes[child].orphan, adopter) {
                (Orphan::IsAdopted, Some(first)) => self.link(child, first),
                _ => self.end_other(child, Exit::Orphaned, effects),
            }
        }
        // And those that are elsewhere by now.
        if self.outposts.contains_key(&key) {
            self.leave_outposts(key);
            self.leave_if_childless(key);
        }
    }

    /// What became of an errand of ours.
    fn done(&mut self, from: NodeId, errand: u64, verdict: Verdict, rights: Vec<Right>) -> Result<(), Breach> {
        // Somebody else answers it, and this one did not know yet. Its last word comes first, even if it shall answer the same once more.
        let relieved = |session: &mut Session| session.relieved.remove(&errand);
        if self.sessions.get_mut(&from).is_some_and(relieved) {
            self.dropped.extend(rights);
            return Ok(());
        }
        let Some(key) = self.find_errand(from, errand) else {
            self.dropped.extend(rights);
            return Err(Breach::Errand);
        };
        let what = self.errands[key].what;
        let brought = match &verdict {
            Verdict::Outcome(Outcome::Called(Ok(_))) => 0..=MESSAGE_HANDLES_MAX,
            Verdict::Outcome(Outcome::Spawned(Ok(_)) | Outcome::Door(Ok(_))) => 1..=1,
            _ => 0..=0,
        };
        let fits = match &verdict {
            Verdict::Outcome(Outcome::Called(Err(CallError::Detached { .. }))) => false,
            Verdict::Outcome(outcome) => what.fits(outcome) && self.errands[key].purpose_allows(),
            Verdict::Fired(event) => {
                what == What::Watch && matches!(event, NoticeEvent::Exited { .. } | NoticeEvent::PortClosed)
            }
            Verdict::Over if what == What::Flush => true,
            // A child is over only after it has begun.
            Verdict::Over => match self.errands[key].purpose {
                Purpose::Process(_) => false,
                _ => matches!(what, What::Watch | What::Spawn),
            },
        };
        if !fits || !brought.contains(&rights.len()) {
            self.dropped.extend(rights);
            return Err(Breach::Errand);
        }
        let began = matches!(verdict, Verdict::Outcome(Outcome::Spawned(Ok(_))));
        if began {
            // The child's parent over there stays until the child is over.
            let purpose = self.errands[key].purpose;
            // Whoever had given up waiting for it has it now.
            self.errands[key].withdrawn = self.errands[key].withdrawn.filter(|_| purpose == Purpose::Nobody);
            self.errands[key].purpose = match purpose {
                Purpose::Process(me) => Purpose::Child(me),
                _ => Purpose::Nobody,
            };
            if let Purpose::Process(me) = purpose {
                self.outposts.entry(me).or_default().push(key);
                let moved = core::mem::take(&mut self.errands[key].moved);
                let supervisor = self.errands[key].supervisor.take();
                self.tell_process(me, what, verdict, moved, rights, supervisor);
            } else {
                self.dropped.extend(rights);
            }
            return Ok(());
        }
        let Errand { purpose, moved, then, import, supervisor, at_once, .. } = self.remove_errand(key);
        if what == What::Flush {
            match purpose {
                Purpose::Process(me) => self.wake(me, Outcome::Yielded),
                Purpose::Way => self.release_hold(key),
                _ => {}
            }
            return Ok(());
        }
        let verdict = if at_once { in_no_time(verdict) } else { verdict };
        if what == What::Read {
            self.landed.extend(import);
        }
        if let Some(watch) = supervisor {
            self.forget_watch(watch);
        }
        match (purpose, verdict) {
            (Purpose::Process(me), Verdict::Outcome(Outcome::Read(result))) => {
                let import = import.expect("a read is from a handle");
                match (result, then) {
                    (Ok(bytes), Some((bytes_max, _))) if !bytes.is_empty() => {
                        self.imports[import].kept = bytes;
                        let bytes = self.imports[import].take_kept(bytes_max).expect("bytes just came");
                        self.wake(me, Outcome::Read(Ok(bytes)));
                    }
                    // What was given up brought nothing: now the read that is wanted.
                    (Err(ReadError::Interrupted | ReadError::Expired), Some((bytes_max, patience))) => {
                        let Import { home, number: pipe, .. } = self.imports[import];
                        let act = Act::Read { pipe, bytes_max, patience };
                        let asked = Asked::plain(What::Read, act, Some(import));
                        let actor = self.processes[me].id;
                        let new = self.send_errand(home, purpose, actor, asked);
                        let State::Waiting { waiting: Waiting::Away { errand }, .. } = &mut self.processes[me].state
                        else {
                            unreachable!("who has an errand waits for it")
                        };
                        *errand = new;
                    }
                    (result, _) => self.wake(me, Outcome::Read(result)),
                }
            }
            (Purpose::Process(me), verdict) => self.tell_process(me, what, verdict, moved, rights, None),
            (Purpose::Call(call), Verdict::Outcome(Outcome::Called(result))) => {
                let caller = self.calls[call].caller;
                if moves(&Outcome::Called(result.clone())) {
                    self.drop_handles(caller, &moved);
                }
                self.answered_abroad(call, result.map(|answer| answer.bytes), rights.into());
            }
            (Purpose::Watch(watch), Verdict::Fired(event)) => self.fire(watch, event),
            (Purpose::Watch(watch), _) => {
                let owner = self.watches[watch].owner;
                self.forget_watch(watch);
                // Who stands in for somebody who has given up waits for this word.
                if let Some(Process { state: State::Waiting { waiting, .. }, abroad: Some(_), .. }) =
                    self.processes.get_mut(owner)
                {
                    *waiting = Waiting::Post;
                    self.homeward.push_back((owner, Some(Verdict::Over)));
                }
            }
            (Purpose::Kept(import), Verdict::Outcome(Outcome::Read(result))) => {
                self.imports[import].reading = None;
                if let Ok(bytes) = result {
                    self.imports[import].kept = bytes;
                }
            }
            (Purpose::Child(me), _) => self.outpost_over(me, key),
            _ => self.dropped.extend(rights),
        }
        Ok(())
    }

    /// A child on another node is over.
    fn outpost_over(&mut self, parent: Key<Process>, errand: Key<Errand>) {
        let Some(errands) = self.outposts.get_mut(&parent) else { return };
        errands.retain(|other| *other != errand);
        if errands.is_empty() {
            self.outposts.remove(&parent);
        }
        self.leave_if_childless(parent);
    }

    /// A process's errand is done.
    fn tell_process(
        &mut self, me: Key<Process>, what: What, verdict: Verdict, moved: Box<[HandleId]>, rights: Vec<Right>,
        supervisor: Option<Key<Watch>>,
    ) {
        let Verdict::Outcome(mut outcome) = verdict else { unreachable!("{what:?} is answered by an outcome") };
        if moves(&outcome) {
            self.drop_handles(me, &moved);
        }
        let import = rights.first().and_then(|right| match right.object {
            Object::Foreign(_, import) => Some(import),
            _ => None,
        });
        let handles = self.install(me, rights.into());
        match (&mut outcome, handles.first()) {
            (Outcome::Spawned(Ok(spawned)), Some(handle)) => spawned.process = *handle,
            (Outcome::Door(Ok(door)), Some(handle)) => *door = *handle,
            _ => {}
        }
        if let Some(watch) = supervisor {
            match import {
                Some(import) => self.watch_abroad(me, import, watch),
                None => self.forget_watch(watch),
            }
        }
        self.wake(me, outcome);
    }
}

impl Errand {
    /// Whether an outcome can still be told: a child's begin is told once.
    fn purpose_allows(&self) -> bool {
        !matches!(self.purpose, Purpose::Child(_))
    }
}

impl Delayed {
    /// Whose act it is, or who comes.
    fn actor(&self) -> Option<ProcessId> {
        match (&self.content, &self.luggage) {
            (Content::Act { act: Act::Flush { .. }, .. }, _) => None,
            (Content::Act { actor, .. }, _) => Some(*actor),
            (_, Some(luggage)) => Some(luggage.process.id),
            _ => None,
        }
    }

    fn is_flush(&self) -> bool {
        matches!(self.content, Content::Act { act: Act::Flush { .. }, .. })
    }

    pub(crate) fn is_act(&self, number: u64) -> bool {
        matches!(self.content, Content::Act { errand, .. } if errand == number)
    }

    /// Whether the other one has to wait for this one: acts of one process keep their order, also if it moved between them.
    fn is_before(&self, other: &Delayed) -> bool {
        self.order < other.order && self.actor().is_some() && self.actor() == other.actor()
    }
}

impl Act {
    fn what(&self) -> What {
        match self {
            Act::Send { .. } => What::Send,
            Act::Call { .. } => What::Call,
            Act::Status { .. } => What::Status,
            Act::Wait { .. } => What::Wait,
            Act::Kill { .. } => What::Kill,
            Act::Hold { .. } => What::Hold,
            Act::Let { .. } => What::Release,
            Act::Interrupt { .. } => What::Interrupt,
            Act::Read { .. } => What::Read,
            Act::Write { .. } => What::Write,
            Act::Watch { .. } => What::Watch,
            Act::Door => What::Door,
            Act::Spawn(_) => What::Spawn,
            Act::Flush { .. } => What::Flush,
        }
    }

    /// The right that it is about.
    fn number(&self) -> Option<u64> {
        match self {
            Act::Send { port: number, .. }
            | Act::Call { port: number, .. }
            | Act::Status { port: number }
            | Act::Wait { process: number, .. }
            | Act::Kill { process: number }
            | Act::Hold { process: number }
            | Act::Let { process: number }
            | Act::Interrupt { process: number }
            | Act::Read { pipe: number, .. }
            | Act::Write { pipe: number, .. }
            | Act::Flush { object: number }
            | Act::Watch { subject: number } => Some(*number),
            Act::Door | Act::Spawn(_) => None,
        }
    }
}

const UNLIMITED: Limits = Limits {
    handles_max: u32::MAX,
    ports_max: u32::MAX,
    pipes_max: u32::MAX,
    children_max: u32::MAX,
    watches_max: u32::MAX,
    buffer_bytes_max: u64::MAX,
    memory_pages_max: u32::MAX,
};

/// The end of a session.
impl Kernel {
    /// Ends all that rested on a session, which is out of the table.
    pub(crate) fn drop_foreign(&mut self, node: NodeId, session: Session, effects: &mut Vec<Effect>) {
        self.drop_ways(node);
        self.keep_handed(node, &session);
        let unsent: BTreeSet<Key<Errand>> = session.pending.iter().filter_map(|pending| pending.errand).collect();
        for delayed in session.delayed {
            self.dropped.extend(delayed.rights.into_iter().chain(delayed.lent));
        }
        self.dropped.extend(session.exports.into_values());
        for key in session.stand_ins.into_values() {
            if let Some(Process { state: State::Waiting { waiting, .. }, .. }) = self.processes.get(key)
                && !matches!(waiting, Waiting::Post)
            {
                self.withdraw(key);
            }
            if self.processes.get(key).is_some() {
                self.remove_stand_in(key, effects);
            }
        }
        let over: Vec<Key<Errand>> =
            self.errands.iter().filter(|(_, errand)| errand.node == node).map(|(key, _)| key).collect();
        for key in over {
            // One may have been held back by another.
            if self.errands.get(key).is_some() {
                self.lose_errand(key, !unsent.contains(&key));
            }
        }
        self.miss_expected(node, effects);
        // Grants to that life are void; those that it made stand until their receivers have settled.
        let gone: Vec<Right> = self
            .grants
            .extract_if(.., |_, grant| grant.to == node && grant.to_life <= session.life)
            .map(|(_, grant)| grant.right)
            .collect();
        self.dropped.extend(gone);
        self.claims.retain(|_, claim| claim.claimer != node);
        let never: Vec<Claim> = self
            .claims
            .extract_if((node, 0)..=(node, u64::MAX), |_, claim| claim.giver_life <= session.life)
            .map(|(_, claim)| claim)
            .collect();
        for claim in never {
            self.tell(claim.claimer, Content::Dead { number: claim.number });
        }
        for other in self.sessions.values_mut() {
            for delayed in &mut other.delayed {
                delayed.waits.retain(|(home, _)| *home != node);
            }
        }
        self.go_on(effects);
        self.sweep_wanted = true;
    }

    pub(crate) fn lose_errand(&mut self, key: Key<Errand>, was_sent: bool) {
        let Errand { purpose, what, moved, supervisor, import, .. } = self.remove_errand(key);
        if let Some(watch) = supervisor {
            self.forget_watch(watch);
        }
        if let (What::Read, Some(import), true) = (what, import, was_sent) {
            // It may have brought bytes: what came after them would come with a gap before it.
            self.lose_import(import);
        }
        match purpose {
            Purpose::Process(_) if planted(Bug::LossSilent) => {}
            Purpose::Process(me) => {
                let outcome = what.lost(was_sent);
                if moves(&outcome) {
                    self.drop_handles(me, &moved);
                }
                self.wake(me, outcome);
            }
            Purpose::Call(call) => {
                let sequence = self.calls[call].id.sequence;
                let error = if was_sent { CallError::Abandoned { sequence } } else { CallError::PortClosed };
                if was_sent {
                    let caller = self.calls[call].caller;
                    self.drop_handles(caller, &moved);
                }
                self.answered_abroad(call, Err(error), Box::default());
            }
            Purpose::Watch(watch) => {
                let object = import.and_then(|import| self.imports.get(import)).map(|import| import.object);
                let object = object.or(match self.watches[watch].subject {
                    Subject::Abroad { object, .. } => Some(object),
                    _ => None,
                });
                self.fire(watch, lost_event(object.expect("what is watched elsewhere is known")));
            }
            Purpose::Kept(import) => self.imports[import].reading = None,
            Purpose::Child(me) => self.outpost_over(me, key),
            Purpose::Way => self.fail_hold(key),
            Purpose::Nobody => {}
        }
    }

    /// Lives up to this one of that node are over: nothing more will be claimed from them.
    pub(crate) fn declare_over(&mut self, node: NodeId, life: u64) {
        let over = self.over.entry(node).or_insert(0);
        *over = life.max(*over);
        self.settle_with_others(node, life);
        let gone: Vec<Right> = self
            .grants
            .extract_if(.., |_, grant| grant.to == node && grant.to_life <= life)
            .map(|(_, grant)| grant.right)
            .collect();
        self.dropped.extend(gone);
        let never: Vec<Claim> = self
            .claims
            .extract_if((node, 0)..=(node, u64::MAX), |_, claim| claim.giver_life <= life)
            .map(|(_, claim)| claim)
            .collect();
        for claim in never {
            self.tell(claim.claimer, Content::Dead { number: claim.number });
        }
    }

    /// Tells all others that from that life nothing will be claimed any more.
    pub(crate) fn settle_with_others(&mut self, node: NodeId, life: u64) {
        let others: Vec<NodeId> = self.sessions.keys().copied().filter(|other| *other != node).collect();
        for other in others {
            self.tell(other, Content::Settled { node, life });
        }
    }
}

/// What must hold.
impl Kernel {
    pub(crate) fn check_foreign(&self) {
        assert!(self.homeward.is_empty(), "a stand-in did not go home");
        assert!(self.stirred_sessions.is_empty(), "a session was not looked after");
        self.sessions.values().for_each(Session::check);
        self.check_ways();
        for (_, import) in self.imports.iter() {
            let open = self.sessions.get(&import.home).is_some_and(|session| session.breach.is_none());
            let here = import.way.here.is_some();
            assert!(import.lost || open || here, "{:?} is held without a session", import.object);
            if let Some(errand) = import.reading {
                let kept = self.errands.get(errand).map(|errand| errand.purpose);
                assert!(matches!(kept, Some(Purpose::Kept(_))), "a read that was given up is under way for another");
            }
        }
        for (key, errand) in self.errands.iter() {
            let open = self.sessions.get(&errand.node).is_some_and(|session| session.breach.is_none());
            assert!(open || errand.node == self.node, "an errand is under way without a session");
            let right = match errand.purpose {
                Purpose::Process(me) => matches!(
                    self.processes.get(me).map(|process| &process.state),
                    Some(State::Waiting { waiting: Waiting::Away { errand }, .. }) if *errand == key
                ),
                Purpose::Call(call) => {
                    self.calls.get(call).is_some_and(|call| call.server_side == ServerSide::Away(key))
                }
                Purpose::Watch(watch) => self.watches.get(watch).is_some(),
                Purpose::Kept(import) => self.imports.get(import).is_some_and(|import| import.reading == Some(key)),
                Purpose::Child(me) => self.outposts.get(&me).is_some_and(|errands| errands.contains(&key)),
                Purpose::Way => self.holds.contains_key(&key),
                Purpose::Nobody => true,
            };
            assert!(right, "an errand is for somebody who does not know of it: {:?}", errand.purpose);
        }
        for (node, session) in &self.sessions {
            for (errand, key) in &session.stand_ins {
                let process = self.processes.get(*key).expect("a stand-in is a process");
                let abroad = process.abroad.as_deref();
                assert!(
                    abroad.is_some_and(|abroad| abroad.node == *node && abroad.errand == *errand),
                    "a stand-in stands in for another"
                );
                assert!(matches!(process.state, State::Waiting { .. }), "a stand-in does not wait");
            }
        }
        for (_, process) in self.processes.iter() {
            if let Some(Abroad { node, errand, .. }) = process.abroad.as_deref() {
                let known = self.sessions.get(node).is_some_and(|session| session.stand_ins.contains_key(errand))
                    || *node == self.node && self.own_stand_ins.contains_key(errand);
                assert!(known, "a stand-in's session does not know it");
            }
        }
    }

    /// Every right of other nodes that this node holds, with where its home keeps it, and whether it is lost: for checkers that look at
    /// several nodes.
    pub fn imports(&self) -> impl Iterator<Item = (NodeId, u64, ObjectId, bool)> {
        self.imports.iter().map(|(_, import)| (import.home, import.number, import.object, import.lost))
    }

    /// The numbers of the rights that another node holds here.
    pub fn exports(&self, node: NodeId) -> impl Iterator<Item = u64> {
        self.sessions.get(&node).into_iter().flat_map(|session| session.exports.keys().copied())
    }

    /// What is on its way to or from other nodes, as far as this one knows, and how much of it.
    pub fn under_way(&self) -> Vec<(NodeId, &'static str, usize)> {
        let sessions = self.sessions.iter();
        let mut all: Vec<_> = sessions
            .flat_map(|(node, session)| session.under_way().map(|(what, count)| (*node, what, count)))
            .collect();
        all.extend(self.grants.values().map(|grant| (grant.to, "grants", 1)));
        all.extend(self.claims.values().map(|claim| (claim.claimer, "claims", 1)));
        all.extend(self.expected.keys().map(|(from, _)| (*from, "expected processes", 1)));
        all.retain(|(_, _, count)| *count > 0);
        all
    }

    /// Errands that are not over.
    pub fn errands(&self) -> u32 {
        self.errands.len()
    }

    /// Whether there is a session with this node, in this life of it.
    pub fn session_life(&self, node: NodeId) -> Option<u64> {
        self.sessions.get(&node).filter(|session| session.breach.is_none()).map(|session| session.life)
    }
}
