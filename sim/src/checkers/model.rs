//! A second kernel, as simple as can be, that is told what processes asked and got, and says whether that can be right.
//!
//! The one idea: it keeps only what is promised (tables of rights, messages offered and taken, calls and how they ended) and
//! none of how it is done. Messages are told apart by their sender and their bytes, which are unique.

use super::{Violation, ensure};
use crate::history::{Record, Seen};
use abi::call::{
    CallError, Description, EndCallError, Outcome, Reached, ReadError, ReceiveError, ReplyError, SendError, SendMode,
    SpawnError, SystemCall, Wait, WriteCause, WriteError,
};
use abi::ids::{DeviceId, HandleId, NodeId, ObjectId, ProcessId, Time};
use abi::message::{Answerable, Badge, Bytes, Delivery, Notice, NoticeEvent, Received, Transfer, TransferMode};
use abi::process::Exit;
use abi::rights::{Kind, Rights};
use kernel::Kernel;
use kernel::inspect::Activity;
use std::collections::{BTreeMap, BTreeSet};

type Checked = Result<(), Violation>;

/// The model's own number for an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Thing(u64);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Held {
    thing: Thing,
    kind: Kind,
    rights: Rights,
    badge: Badge,
}

/// A message that somebody asked to be sent.
#[derive(Debug)]
struct Offer {
    port: Thing,
    through: HandleId,
    badge: Badge,
    /// Counts what one process offered.
    number: u64,
    /// `None` if it cannot be sent as it was asked for.
    cargo: Option<Vec<Held>>,
    moves: Vec<HandleId>,
    purpose: Purpose,
    fate: Fate,
    /// A receiver has it, with this right to answer if it is a call.
    taken: Option<Option<Thing>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Send { reliable: bool },
    Call { again: Option<u64> },
    BeginCall { again: Option<u64>, deadline: bool },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Its sender does not know yet.
    Asked,
    Accepted,
    /// Its sender was told that it has no effect.
    Void,
    /// Nobody will say: its sender ended.
    Unknown,
}

/// A notice that was asked for.
#[derive(Debug)]
struct Promise {
    owner: ProcessId,
    token: u64,
    port: Thing,
    subject: Subject,
    handle: Option<HandleId>,
    /// The kernel has said that it will come.
    sure: bool,
    received: bool,
    /// Its handle was closed: it may come, if it was on its way, or not.
    given_up: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Subject {
    Exit(Thing),
    Time(Time),
    Other,
}

#[derive(Default)]
struct PipeModel {
    writes: Vec<PipeWrite>,
    read: Vec<u8>,
    readers: BTreeSet<ProcessId>,
}

struct PipeWrite {
    bytes: Bytes,
    /// How many are in the pipe, once it is known.
    written: Option<u32>,
}

/// Everything the model knows.
#[derive(Default)]
pub struct Model {
    things: u64,
    tables: BTreeMap<ProcessId, BTreeMap<HandleId, Held>>,
    pending: BTreeMap<ProcessId, SystemCall>,
    /// By sender and bytes, in the order of asking: what is asked again has the same bytes.
    offers: BTreeMap<(ProcessId, Content), Vec<Offer>>,
    /// The offer that each process waits for, and the offers behind handles to calls.
    current: BTreeMap<ProcessId, OfferKey>,
    begun: BTreeMap<Thing, OfferKey>,
    offered: BTreeMap<ProcessId, u64>,
    last_from: BTreeMap<(ProcessId, Thing, ProcessId, HandleId), u64>,
    /// Handles that each process was ever given: none comes a second time.
    given: BTreeSet<(ProcessId, HandleId)>,
    /// The numbers of calls that were not asked again, each with the offer that it was.
    numbered: BTreeMap<(ProcessId, u64), u64>,
    /// Where processes are that moved; the others are where they were born.
    places: BTreeMap<ProcessId, NodeId>,
    /// By the right to answer that was used; a call that is asked again has several.
    answers: BTreeMap<Thing, (Bytes, Vec<Held>)>,
    promises: Vec<Promise>,
    processes: BTreeMap<ProcessId, Thing>,
    ended: BTreeSet<Thing>,
    killed: BTreeMap<Thing, ProcessId>,
    pipes: BTreeMap<Thing, PipeModel>,
    /// What the kernel calls each thing.
    names: BTreeMap<Thing, ObjectId>,
    named: BTreeMap<ObjectId, Thing>,
    devices: u16,
    /// There are several nodes; the first process of each has a handle to the network.
    cluster: bool,
    /// The doors of nodes.
    doors: BTreeMap<NodeId, Held>,
    /// Nodes whose first process was born.
    begun_nodes: BTreeSet<NodeId>,
    /// Doors that were opened on nodes that died since.
    doors_lost: BTreeSet<NodeId>,
    /// Processes of which it is not known what they were given: their acts are not judged.
    strangers: BTreeSet<ProcessId>,
    /// What was asked to be born by who ended, or gave up, before it was.
    unborn: Vec<(ProcessId, NodeId, Option<Vec<Held>>)>,
    /// Handles to the door of a node that has had several, in several lives: which one is seen later.
    some_door: BTreeSet<(ProcessId, HandleId)>,
    /// What processes answered whose rights are not known.
    strange_answers: BTreeSet<Content>,
    /// The tokens of notices that they asked for.
    strange_notices: BTreeSet<u64>,
    /// What they wrote to pipes, and whether they read from any.
    strange_writes: Vec<Bytes>,
    strange_reads: bool,
    /// How many processes ended that may have been given something by a port.
    maybe_taken: BTreeMap<Thing, u64>,
}

/// The bytes of a message, with an order.
type Content = Vec<u8>;

/// The sender and the bytes, and which of those.
type OfferKey = ((ProcessId, Content), usize);

impl Model {
    pub fn new(devices: u16) -> Model {
        Model { devices, ..Model::default() }
    }

    /// Of several nodes, each with so many devices beside the network.
    pub fn of_cluster(devices: u16) -> Model {
        Model { cluster: true, devices, ..Model::default() }
    }

    /// All processes of a node are gone, and all that they had.
    pub fn node_lost(&mut self, node: NodeId) {
        let here = |process: &ProcessId| self.places.get(process).copied().unwrap_or(process.born()) == node;
        let gone: Vec<ProcessId> = self.tables.keys().copied().filter(here).collect();
        gone.into_iter().for_each(|process| self.ended(process));
        self.begun_nodes.remove(&node);
        if self.doors.remove(&node).is_some() {
            self.doors_lost.insert(node);
        }
    }

    /// A process left for this node, and is lost with it from now on.
    pub fn departed(&mut self, process: ProcessId, to: NodeId) {
        self.places.insert(process, to);
    }

    /// It goes on there: what is left of its times is left by another clock.
    pub fn settled(&mut self, process: ProcessId, left_at: Time, now: Time) {
        for promise in self.promises.iter_mut().filter(|promise| promise.owner == process) {
            if let Subject::Time(at) = &mut promise.subject {
                *at = now.after(at.since(left_at));
            }
        }
    }

    /// Whoever it was that had it come has a handle to it.
    pub fn adopted(&mut self, adopter: ProcessId, handle: HandleId, process: ProcessId) -> Checked {
        if self.strangers.contains(&adopter) {
            return Ok(());
        }
        let Some(thing) = self.processes.get(&process).copied() else {
            return Err(Violation(format!("{process:?} moved and was never born")));
        };
        let rights = Rights::all_of(Kind::Process);
        self.put(adopter, handle, Held { thing, kind: Kind::Process, rights, badge: Badge(0) })
    }

    /// It was lost with the node that it left, before all that it had was there.
    pub fn lost_between(&mut self, process: ProcessId) {
        self.ended(process);
    }

    fn thing(&mut self) -> Thing {
        self.things += 1;
        Thing(self.things)
    }

    fn new_held(&mut self, kind: Kind) -> Held {
        Held { thing: self.thing(), kind, rights: Rights::all_of(kind), badge: Badge(0) }
    }

    fn table(&mut self, process: ProcessId) -> &mut BTreeMap<HandleId, Held> {
        self.tables.entry(process).or_default()
    }

    fn held(&self, process: ProcessId, handle: HandleId) -> Option<&Held> {
        self.tables.get(&process)?.get(&handle)
    }

    fn put(&mut self, process: ProcessId, handle: HandleId, held: Held) -> Checked {
        let old = self.table(process).insert(handle, held);
        ensure!(old.is_none(), "{process:?} was given {handle:?}, which it has already as {old:?}");
        ensure!(self.given.insert((process, handle)), "{process:?} was given {handle:?} a second time");
        Ok(())
    }

    /// Takes the next thing that happened.
    pub fn note(&mut self, record: &Record) -> Checked {
        let process = record.process;
        if self.strangers.contains(&process) {
            return self.note_stranger(process, &record.seen);
        }
        match &record.seen {
            Seen::Born { parent } => self.born(process, *parent),
            Seen::Asked(call) => {
                let checked = self.asked(process, call);
                self.pending.insert(process, call.clone());
                checked
            }
            Seen::Got(outcome) => {
                let call = self.pending.remove(&process);
                self.got(process, record.at, call, outcome)
            }
            Seen::Ended => {
                self.ended(process);
                Ok(())
            }
        }
    }

    /// Of a process whose rights are not known it is only noted what it took, and that it is there.
    fn note_stranger(&mut self, process: ProcessId, seen: &Seen) -> Checked {
        match seen {
            Seen::Ended => self.ended(process),
            Seen::Asked(SystemCall::Write { bytes, .. }) => self.strange_writes.push(bytes.clone()),
            Seen::Asked(SystemCall::Read { .. }) => self.strange_reads = true,
            Seen::Asked(SystemCall::Reply { message, .. }) => {
                self.strange_answers.insert(message.bytes.to_vec());
            }
            // Whoever else may receive from the port that it names may be told.
            Seen::Asked(SystemCall::Watch { notify, .. } | SystemCall::SetTimer { notify, .. }) => {
                self.strange_notices.insert(notify.token);
            }
            Seen::Asked(SystemCall::Spawn(spawn) | SystemCall::SpawnOn { spawn, .. }) => {
                self.strange_notices.extend(spawn.supervisor.map(|notify| notify.token));
            }
            Seen::Got(Outcome::Received(Ok(Received::Message(delivery))))
            | Seen::Got(Outcome::Selected(Ok((_, Received::Message(delivery))))) => {
                let key = (delivery.sender, delivery.bytes.to_vec());
                let reply = delivery.call.map(|_| self.thing());
                let offers = self.offers.get_mut(&key);
                let untaken = offers.and_then(|offers| offers.iter_mut().find(|offer| offer.taken.is_none()));
                if let Some(offer) = untaken {
                    offer.taken = Some(reply);
                }
            }
            Seen::Got(
                Outcome::Received(Ok(Received::Notice(notice))) | Outcome::Selected(Ok((_, Received::Notice(notice)))),
            ) => {
                self.strange_notices.remove(&notice.token);
                let same = |promise: &&mut Promise| promise.token == notice.token && !promise.received;
                if let Some(promise) = self.promises.iter_mut().find(same) {
                    promise.received = true;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn born(&mut self, process: ProcessId, parent: Option<ProcessId>) -> Checked {
        let thing = self.thing();
        self.processes.insert(process, thing);
        let mut table = BTreeMap::new();
        match parent {
            // An orphan, as soon as it was born.
            None if self.cluster && !self.begun_nodes.insert(process.born()) => {
                self.strangers.insert(process);
            }
            None => {
                for number in 0..self.devices {
                    let held = self.new_held(Kind::Device);
                    self.name(held.thing, ObjectId::Device(DeviceId(number)))?;
                    table.insert(HandleId(u32::from(number) + 1), held);
                }
                if self.cluster {
                    let held = self.new_held(Kind::Device);
                    table.insert(HandleId(u32::from(self.devices) + 1), held);
                }
            }
            Some(parent) => {
                let spawn = match self.pending.get(&parent) {
                    Some(SystemCall::Spawn(spawn)) => Some(spawn.clone()),
                    Some(SystemCall::SpawnOn { spawn, node }) if *node == process.born() => Some(spawn.clone()),
                    _ => None,
                };
                // Its parent may have given up waiting for it, or ended.
                let asked = |(asker, node, _): &(ProcessId, NodeId, _)| *asker == parent && *node == process.born();
                let position = self.unborn.iter().position(asked);
                let candidates = self.unborn.iter().filter(|unborn| asked(unborn)).count();
                // What is asked by a process whose rights are not known is not followed: it may be that, and not what was given up before.
                let is_strange = self.strangers.contains(&parent);
                if let (None, Some(position), false) = (&spawn, position, is_strange) {
                    let (_, _, cargo) = self.unborn.remove(position);
                    // Of several that were given up, it is not known which this is, and so not which are left.
                    if candidates > 1 {
                        self.unborn.iter_mut().filter(|unborn| asked(unborn)).for_each(|(.., cargo)| *cargo = None);
                    }
                    match cargo.filter(|_| candidates == 1) {
                        Some(cargo) => {
                            let numbered = cargo.into_iter().enumerate();
                            table.extend(numbered.map(|(index, held)| (HandleId(index as u32 + 1), held)));
                        }
                        None => {
                            self.strangers.insert(process);
                        }
                    }
                    self.tables.insert(process, table);
                    return Ok(());
                }
                // It may be the one that was given up, or have been adopted as soon as it was born.
                if is_strange || position.is_some() || self.cluster && spawn.is_none() {
                    if let Some(notify) = spawn.and_then(|spawn| spawn.supervisor) {
                        self.promise(parent, &notify, Subject::Exit(thing));
                    }
                    self.strangers.insert(process);
                    self.tables.insert(process, table);
                    return Ok(());
                }
                let Some(spawn) = spawn else {
                    return Err(Violation(format!("{process:?} was born of {parent:?}, which did not ask for it")));
                };
                let cargo = self.cargo(parent, &spawn.handles);
                let Some(cargo) = cargo else {
                    return Err(Violation(format!("{process:?} was born with rights that {parent:?} does not have")));
                };
                for (index, held) in cargo.into_iter().enumerate() {
                    table.insert(HandleId(index as u32 + 1), held);
                }
                if let Some(notify) = spawn.supervisor {
                    let port = self.held(parent, notify.port).map_or(Thing(0), |held| held.thing);
                    let subject = Subject::Exit(thing);
                    self.promises.push(Promise {
                        owner: parent,
                        token: notify.token,
                        port,
                        subject,
                        handle: None,
                        sure: true,
                        received: false,
                        given_up: false,
                    });
                }
            }
        }
        self.tables.insert(process, table);
        Ok(())
    }

    fn ended(&mut self, process: ProcessId) {
        if let Some(SystemCall::SpawnOn { spawn, node }) = self.pending.get(&process).cloned() {
            let cargo = self.cargo(process, &spawn.handles);
            self.unborn.push((process, node, cargo));
        }
        // It may have been given bytes that it does not know of.
        if let Some(SystemCall::Read { pipe, .. }) = self.pending.get(&process)
            && let Some(held) = self.held(process, *pipe).cloned()
        {
            self.pipes.entry(held.thing).or_default().readers.insert(process);
        }
        for port in self.receiving_at(process) {
            *self.maybe_taken.entry(port).or_default() += 1;
        }
        for held in self.tables.remove(&process).unwrap_or_default().values() {
            self.begun.remove(&held.thing);
        }
        self.pending.remove(&process);
        if let Some(key) = self.current.remove(&process)
            && let Some(offer) = self.offer_mut(&key)
            && offer.fate == Fate::Asked
        {
            offer.fate = Fate::Unknown;
        }
        if let Some(thing) = self.processes.get(&process) {
            self.ended.insert(*thing);
        }
    }

    /// The ports from which a process may have been given something that it does not know of yet.
    fn receiving_at(&self, process: ProcessId) -> Vec<Thing> {
        let handles = match self.pending.get(&process) {
            Some(SystemCall::Receive { port, .. }) => vec![*port],
            Some(SystemCall::Select { ports, .. }) => ports.to_vec(),
            _ => Vec::new(),
        };
        handles.iter().filter_map(|handle| Some(self.held(process, *handle)?.thing)).collect()
    }

    /// How much of what a port held may be with processes that do not know of it, or never will.
    fn maybe_taken_from(&self, port: Thing) -> u64 {
        let receiving = self.pending.keys().flat_map(|process| self.receiving_at(*process));
        self.maybe_taken.get(&port).copied().unwrap_or(0) + receiving.filter(|other| *other == port).count() as u64
    }

    /// What these transfers carry, if all of them may go.
    fn cargo(&self, process: ProcessId, transfers: &[Transfer]) -> Option<Vec<Held>> {
        transfers
            .iter()
            .map(|transfer| {
                let held = self.held(process, transfer.handle)?;
                let needed = match transfer.mode {
                    TransferMode::Move => Rights::MOVE,
                    TransferMode::Copy => Rights::COPY,
                };
                let rights = held.rights.attenuate(transfer.rights).ok()?;
                held.rights.contains(needed).then(|| Held { rights, ..held.clone() })
            })
            .collect()
    }

    fn offer(
        &mut self, process: ProcessId, port: HandleId, bytes: &Bytes, transfers: &[Transfer], purpose: Purpose,
    ) -> Checked {
        let number = self.offered.entry(process).or_default();
        *number += 1;
        let number = *number;
        let cargo = self.cargo(process, transfers);
        let held = self.held(process, port).cloned();
        let may = held.as_ref().is_some_and(|held| held.kind == Kind::Port && held.rights.contains(Rights::SEND));
        let moves =
            transfers.iter().filter(|transfer| transfer.mode == TransferMode::Move).map(|transfer| transfer.handle);
        let offer = Offer {
            port: held.as_ref().map_or(Thing(0), |held| held.thing),
            // What is begun through one handle may be overtaken through another, once either end has moved: the ways differ.
            through: if self.places.is_empty() { HandleId::NONE } else { port },
            badge: held.map_or(Badge(0), |held| held.badge),
            number,
            cargo: if may { cargo } else { None },
            moves: moves.collect(),
            purpose,
            fate: Fate::Asked,
            taken: None,
        };
        let key = (process, bytes.to_vec());
        let offers = self.offers.entry(key.clone()).or_default();
        offers.push(offer);
        self.current.insert(process, (key, offers.len() - 1));
        Ok(())
    }

    fn asked(&mut self, process: ProcessId, call: &SystemCall) -> Checked {
        match call {
            SystemCall::Send { port, message, mode } => {
                let reliable = matches!(mode, SendMode::Reliable(_));
                self.offer(process, *port, &message.bytes, &message.handles, Purpose::Send { reliable })
            }
            SystemCall::Call { port, message, deadline } => {
                self.offer(process, *port, &message.bytes, &message.handles, Purpose::Call { again: deadline.again })
            }
            SystemCall::BeginCall { port, message, deadline } => {
                let purpose = Purpose::BeginCall { again: deadline.again, deadline: deadline.at.is_some() };
                self.offer(process, *port, &message.bytes, &message.handles, purpose)
            }
            SystemCall::Reply { reply, message } => {
                let held = self.held(process, *reply).cloned();
                let cargo = self.cargo(process, &message.handles);
                if let (Some(held), Some(cargo)) = (held, cargo)
                    && held.kind == Kind::Reply
                    && held.rights.contains(Rights::ANSWER)
                {
                    self.answers.insert(held.thing, (message.bytes.clone(), cargo));
                }
                Ok(())
            }
            SystemCall::Watch { subject, notify } => {
                let subject = match self.held(process, *subject) {
                    Some(Held { kind: Kind::Process, thing, .. }) => Subject::Exit(*thing),
                    _ => Subject::Other,
                };
                self.promise(process, notify, subject);
                Ok(())
            }
            SystemCall::SetTimer { at, notify } => {
                self.promise(process, notify, Subject::Time(*at));
                Ok(())
            }
            SystemCall::Write { pipe, bytes, .. } => {
                if let Some(held) = self.held(process, *pipe).cloned()
                    && held.kind == Kind::Pipe
                {
                    let write = PipeWrite { bytes: bytes.clone(), written: None };
                    self.pipes.entry(held.thing).or_default().writes.push(write);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn offer_mut(&mut self, key: &OfferKey) -> Option<&mut Offer> {
        self.offers.get_mut(&key.0)?.get_mut(key.1)
    }

    fn apply_moves(&mut self, process: ProcessId, key: &OfferKey) {
        let moves = self.offer_mut(key).map(|offer| offer.moves.clone()).unwrap_or_default();
        for handle in moves {
            self.table(process).remove(&handle);
        }
    }

    /// The sender learned that its message is on the way.
    fn accepted(&mut self, process: ProcessId, key: &OfferKey) -> Checked {
        let Some(offer) = self.offer_mut(key) else {
            return Ok(());
        };
        offer.fate = Fate::Accepted;
        ensure!(offer.cargo.is_some(), "{process:?} sent with rights that it does not have: {:?}", offer);
        self.apply_moves(process, key);
        Ok(())
    }

    /// The sender learned that its message had no effect.
    fn void(&mut self, process: ProcessId, key: &OfferKey, why: &dyn std::fmt::Debug) -> Checked {
        let Some(offer) = self.offer_mut(key) else {
            return Ok(());
        };
        offer.fate = Fate::Void;
        ensure!(offer.taken.is_none(), "{process:?} was told {why:?} of a message that was received: {offer:?}");
        Ok(())
    }

    fn got(&mut self, process: ProcessId, at: Time, call: Option<SystemCall>, outcome: &Outcome) -> Checked {
        let key = self.current.remove(&process);
        if let Some(call) = &call {
            deadline_fits(process, at, call, outcome)?;
        }
        match (call, outcome) {
            (None, Outcome::Begun) => Ok(()),
            (Some(SystemCall::Send { .. }), Outcome::Sent(result)) => {
                let key = key.expect("a send is an offer");
                match result {
                    Ok(()) => self.accepted(process, &key),
                    Err(SendError::Unknown) => {
                        if let Some(offer) = self.offer_mut(&key) {
                            offer.fate = Fate::Unknown;
                        }
                        self.apply_moves(process, &key);
                        Ok(())
                    }
                    Err(error) => self.void(process, &key, error),
                }
            }
            (Some(SystemCall::Receive { port, .. }), Outcome::Received(Ok(received))) => {
                self.received(process, at, port, received)
            }
            (Some(SystemCall::Select { ports, .. }), Outcome::Selected(Ok((index, received)))) => {
                self.received(process, at, ports[*index as usize], received)
            }
            (Some(SystemCall::Call { .. }), Outcome::Called(result)) => {
                let key = key.expect("a call is an offer");
                self.called(process, key, result)
            }
            (Some(SystemCall::BeginCall { .. }), Outcome::CallBegun(result)) => {
                let key = key.expect("a call is an offer");
                match result {
                    Ok(begun) => {
                        self.accepted(process, &key)?;
                        let held = self.new_held(Kind::Call);
                        self.begun.insert(held.thing, key);
                        self.put(process, begun.call, held)
                    }
                    Err(error) => self.void(process, &key, error),
                }
            }
            (Some(SystemCall::EndCall { call, .. }), Outcome::CallEnded(result)) => {
                self.call_ended(process, call, result)
            }
            (Some(SystemCall::Reply { reply, message }), Outcome::Replied(result)) => {
                self.replied(process, reply, &message.handles, result)
            }
            (Some(SystemCall::CreatePort(_)), Outcome::PortCreated(Ok(handle))) => {
                let held = self.new_held(Kind::Port);
                self.put(process, *handle, held)
            }
            (Some(SystemCall::CreatePipe { .. }), Outcome::PipeCreated(Ok(handle))) => {
                let held = self.new_held(Kind::Pipe);
                self.put(process, *handle, held)
            }
            (Some(SystemCall::Duplicate { handle, rights }), Outcome::Duplicated(Ok(new))) => {
                self.duplicated(process, handle, rights, None, *new)
            }
            (Some(SystemCall::MakeBadge { port, badge, rights }), Outcome::Badged(Ok(new))) => {
                self.duplicated(process, port, rights, Some(badge), *new)
            }
            (Some(SystemCall::Attenuate { handle, rights }), Outcome::Attenuated(Ok(()))) => {
                let Some(held) = self.table(process).get_mut(&handle) else {
                    return Err(Violation(format!("{process:?} narrowed {handle:?}, which it does not have")));
                };
                ensure!(
                    held.rights.contains(rights),
                    "{process:?} widened {handle:?} from {} to {rights}",
                    held.rights
                );
                held.rights = rights;
                Ok(())
            }
            (Some(SystemCall::Close { handle }), Outcome::Closed(Ok(()))) => {
                let held = self.table(process).remove(&handle);
                let Some(held) = held else {
                    return Err(Violation(format!("{process:?} closed {handle:?}, which it does not have")));
                };
                self.begun.remove(&held.thing);
                for promise in self.promises.iter_mut().filter(|promise| promise.owner == process) {
                    if promise.handle == Some(handle) {
                        promise.given_up = true;
                    }
                }
                Ok(())
            }
            (Some(SystemCall::SpawnOn { spawn, node }), Outcome::Spawned(Err(error))) => {
                if matches!(error, SpawnError::Unknown | SpawnError::NodeLost) {
                    let cargo = self.cargo(process, &spawn.handles);
                    self.unborn.push((process, node, cargo));
                    for transfer in spawn.handles.iter().filter(|transfer| transfer.mode == TransferMode::Move) {
                        self.table(process).remove(&transfer.handle);
                    }
                    let token = spawn.supervisor.map(|notify| notify.token);
                    for promise in self.promises.iter_mut().filter(|promise| promise.owner == process) {
                        promise.given_up |= Some(promise.token) == token;
                    }
                }
                Ok(())
            }
            (Some(SystemCall::OpenDoor { port, .. }), Outcome::DoorOpened(Ok(()))) => {
                let Some(held) = self.held(process, port).cloned() else {
                    return Err(Violation(format!("{process:?} made a door of {port:?}, which it does not have")));
                };
                ensure!(held.rights.contains(Rights::SENDER), "{process:?} made a door without the rights to it");
                self.doors.insert(process.born(), Held { rights: Rights::SENDER, ..held });
                Ok(())
            }
            (Some(SystemCall::Door { node, .. }), Outcome::Door(Ok(handle))) => {
                match self.doors.get(&node).cloned() {
                    Some(held) if !self.doors_lost.contains(&node) => self.put(process, *handle, held),
                    // The node died, and it may be the door of that life or of this one.
                    held => {
                        self.some_door.insert((process, *handle));
                        let rights = Rights::SENDER;
                        let thing = held.map_or(Thing(0), |held| held.thing);
                        self.put(process, *handle, Held { thing, kind: Kind::Port, rights, badge: Badge(0) })
                    }
                }
            }
            (Some(SystemCall::Spawn(spawn) | SystemCall::SpawnOn { spawn, .. }), Outcome::Spawned(Ok(spawned))) => {
                for transfer in spawn.handles.iter().filter(|transfer| transfer.mode == TransferMode::Move) {
                    self.table(process).remove(&transfer.handle);
                }
                let Some(thing) = self.processes.get(&spawned.id).copied() else {
                    return Err(Violation(format!("{:?} was spawned and never born", spawned.id)));
                };
                let rights = Rights::all_of(Kind::Process);
                self.put(process, spawned.process, Held { thing, kind: Kind::Process, rights, badge: Badge(0) })
            }
            (Some(SystemCall::Kill { process: victim }), Outcome::Killed(Ok(()))) => {
                let Some(held) = self.held(process, victim).cloned() else {
                    return Err(Violation(format!("{process:?} killed {victim:?}, which it does not have")));
                };
                ensure!(held.rights.contains(Rights::KILL), "{process:?} killed without the right to");
                self.killed.insert(held.thing, process);
                Ok(())
            }
            (Some(SystemCall::Watch { notify, .. }), Outcome::Watching(result))
            | (Some(SystemCall::SetTimer { notify, .. }), Outcome::TimerSet(result)) => {
                let mine = |promise: &Promise| promise.owner == process && promise.token == notify.token;
                let index = self.promises.iter().rposition(mine).expect("it was noted when it was asked for");
                match result {
                    Ok(handle) => {
                        let promise = &mut self.promises[index];
                        (promise.handle, promise.sure) = (Some(*handle), true);
                        let held = self.new_held(Kind::Watch);
                        self.put(process, *handle, held)
                    }
                    Err(error) => {
                        let promise = self.promises.remove(index);
                        ensure!(!promise.received, "{process:?} was told {error:?} of what was promised: {promise:?}");
                        Ok(())
                    }
                }
            }
            (Some(SystemCall::Write { pipe, bytes, .. }), Outcome::Written(result)) => {
                let written = match result {
                    Ok(()) => Some(bytes.len() as u32),
                    Err(WriteError { cause: WriteCause::Unknown, .. }) => None,
                    Err(WriteError { written, .. }) => Some(*written),
                };
                if let Some(held) = self.held(process, pipe).cloned()
                    && let Some(pipe) = self.pipes.get_mut(&held.thing)
                    && let Some(write) = pipe.writes.iter_mut().rfind(|write| write.bytes == bytes)
                {
                    write.written = written;
                }
                Ok(())
            }
            // Bytes that come from another node for a read that was given up wait for the next one of the same process.
            (
                Some(SystemCall::Read { pipe, .. }),
                Outcome::Read(Err(ReadError::Expired | ReadError::Interrupted | ReadError::Empty)),
            ) if self.cluster => {
                if let Some(held) = self.held(process, pipe).cloned() {
                    self.pipes.entry(held.thing).or_default().readers.insert(process);
                }
                Ok(())
            }
            (Some(SystemCall::Read { pipe, .. }), Outcome::Read(Ok(bytes))) => {
                if let Some(held) = self.held(process, pipe).cloned() {
                    let pipe = self.pipes.entry(held.thing).or_default();
                    pipe.read.extend_from_slice(bytes);
                    pipe.readers.insert(process);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn duplicated(
        &mut self, process: ProcessId, handle: HandleId, rights: Rights, badge: Option<Badge>, new: HandleId,
    ) -> Checked {
        let Some(held) = self.held(process, handle).cloned() else {
            return Err(Violation(format!("{process:?} duplicated {handle:?}, which it does not have")));
        };
        ensure!(
            held.rights.contains(rights) && held.rights.contains(Rights::COPY),
            "{process:?} duplicated {handle:?} with {rights} from {}",
            held.rights
        );
        let badge = badge.unwrap_or(held.badge);
        self.put(process, new, Held { rights, badge, ..held })
    }

    /// Notes a notice as soon as it is asked for: it may come before who asked for it runs again.
    fn promise(&mut self, owner: ProcessId, notify: &abi::message::Notify, subject: Subject) {
        let port = self.held(owner, notify.port).map_or(Thing(0), |held| held.thing);
        let token = notify.token;
        self.promises.push(Promise {
            owner,
            token,
            port,
            subject,
            handle: None,
            sure: false,
            received: false,
            given_up: false,
        });
    }

    fn received(&mut self, process: ProcessId, at: Time, port: HandleId, received: &Received) -> Checked {
        let Some(held) = self.held(process, port).cloned() else {
            if self.strangers.contains(&process) {
                return Ok(());
            }
            return Err(Violation(format!("{process:?} received from {port:?}, which it does not have")));
        };
        ensure!(held.rights.contains(Rights::RECEIVE), "{process:?} received without the right to");
        match received {
            Received::Message(delivery) => self.message(process, held.thing, delivery),
            Received::Notice(notice) => self.notice(process, at, held.thing, notice),
        }
    }

    fn message(&mut self, process: ProcessId, port: Thing, delivery: &Delivery) -> Checked {
        if self.strangers.contains(&delivery.sender) {
            // What it could give is not known.
            if !delivery.handles.is_empty() || delivery.call.is_some() {
                self.strangers.insert(process);
            }
            return Ok(());
        }
        let key = (delivery.sender, delivery.bytes.to_vec());
        let Some(offers) = self.offers.get_mut(&key) else {
            return Err(Violation(format!("{process:?} received what nobody sent: {delivery:?}")));
        };
        // Of equal ones, the first that can be it.
        let can_be = |offer: &&mut Offer| offer.taken.is_none() && offer.fate != Fate::Void;
        let Some(offer) = offers.iter_mut().find(can_be) else {
            return Err(Violation(format!(
                "{process:?} received a second time, or what its sender was told had no effect: {delivery:?}, {offers:?}"
            )));
        };
        ensure!(offer.port == port, "{process:?} received at another port what was sent: {delivery:?}");
        ensure!(offer.badge == delivery.badge, "a message came with another badge: {delivery:?}");
        offer.taken = Some(None);
        let (number, purpose, through) = (offer.number, offer.purpose, offer.through);
        let Some(cargo) = offer.cargo.clone() else {
            return Err(Violation(format!("{process:?} received what could not be sent: {delivery:?}")));
        };
        let last = self.last_from.insert((delivery.sender, port, process, through), number);
        ensure!(last.is_none_or(|last| last < number), "{process:?} received out of order: {delivery:?}");
        ensure!(cargo.len() == delivery.handles.len(), "handles of a message were lost or added: {delivery:?}");
        for (handle, held) in delivery.handles.iter().zip(cargo) {
            self.put(process, *handle, held)?;
        }
        match (purpose, delivery.call) {
            (Purpose::Send { .. }, None) => Ok(()),
            (Purpose::Call { again } | Purpose::BeginCall { again, .. }, Some(Answerable { id, reply })) => {
                ensure!(id.caller == delivery.sender, "a call came in another's name: {delivery:?}");
                ensure!(
                    again.is_none_or(|again| again == id.sequence),
                    "a call that was asked again came with another number: {delivery:?}"
                );
                if again.is_none() {
                    let old = self.numbered.insert((id.caller, id.sequence), number);
                    ensure!(old.is_none(), "two calls came with one number: {delivery:?}");
                }
                let held = self.new_held(Kind::Reply);
                let offer =
                    self.offers.get_mut(&key).and_then(|offers| offers.iter_mut().find(|offer| offer.number == number));
                offer.expect("it was just found").taken = Some(Some(held.thing));
                self.put(process, reply, held)
            }
            _ => Err(Violation(format!("a send came as a call, or the other way about: {delivery:?}"))),
        }
    }

    fn notice(&mut self, process: ProcessId, at: Time, port: Thing, notice: &Notice) -> Checked {
        if let NoticeEvent::Journal(_) = notice.event {
            return Ok(());
        }
        let is_strange = self.strange_notices.remove(&notice.token);
        let found = self
            .promises
            .iter_mut()
            .find(|promise| promise.port == port && promise.token == notice.token && !promise.received);
        let Some(promise) = found else {
            // Each is told once, whoever asked for it.
            if is_strange {
                return Ok(());
            }
            let promises: Vec<_> = self.promises.iter().filter(|promise| promise.token == notice.token).collect();
            return Err(Violation(format!(
                "{process:?} received a notice twice, or one nobody asked for: {notice:?} at {port:?}, of {promises:?}"
            )));
        };
        promise.received = true;
        let fits = match (promise.subject, &notice.event) {
            (Subject::Exit(thing), NoticeEvent::Exited { process, exit }) => {
                // What was never started is not ended by the world.
                let never = matches!(exit, Exit::NotStarted(_));
                // A node on the way between two of which one moved may be lost: it lives, and is out of reach for who is told.
                let moved = |process| self.places.contains_key(process);
                let out_of_reach = moved(process) || moved(&promise.owner) || !self.processes.contains_key(process);
                let lost = self.cluster && *exit == Exit::NodeLost && out_of_reach;
                lost || self.processes.get(process) == Some(&thing) && (never || self.ended.contains(&thing))
            }
            (Subject::Time(time), NoticeEvent::Timer) => time <= at,
            (Subject::Other, NoticeEvent::PortClosed | NoticeEvent::CallerGone(_)) => true,
            _ => false,
        };
        ensure!(fits, "{process:?} received a notice of what did not happen: {notice:?}");
        Ok(())
    }

    fn called(
        &mut self, process: ProcessId, key: OfferKey, result: &Result<abi::message::Answer, CallError>,
    ) -> Checked {
        let taken = self.offer_mut(&key).is_some_and(|offer| offer.taken.is_some());
        // The server may have died before it knew that it had taken the request, and its rights with it.
        if taken || result.as_ref().is_err_and(has_reached) {
            self.apply_moves(process, &key);
        }
        match result {
            Err(CallError::Detached { call, .. }) => {
                self.accepted(process, &key)?;
                if let Some(offer) = self.offer_mut(&key)
                    && let Purpose::Call { again } = offer.purpose
                {
                    offer.purpose = Purpose::BeginCall { again, deadline: true };
                }
                let held = self.new_held(Kind::Call);
                self.begun.insert(held.thing, key);
                self.put(process, *call, held)
            }
            Ok(answer) => {
                let Some(offer) = self.offer_mut(&key) else {
                    return Ok(());
                };
                offer.fate = Fate::Accepted;
                let Some(reply) = self.taken_as(&key) else {
                    return Err(Violation(format!("{process:?} got an answer to what no server took: {answer:?}")));
                };
                self.answer(process, reply, answer)
            }
            Err(error) => self.call_failed(process, &key, error),
        }
    }

    /// The right to answer that came of an offer; of equal ones, which a server that died may have taken, any that was
    /// answered.
    fn taken_as(&self, key: &OfferKey) -> Option<Thing> {
        let offers = self.offers.get(&key.0)?;
        let own = offers[key.1].taken.flatten();
        own.or_else(|| {
            offers.iter().filter_map(|offer| offer.taken.flatten()).find(|reply| self.answers.contains_key(reply))
        })
    }

    fn answer(&mut self, process: ProcessId, reply: Thing, answer: &abi::message::Answer) -> Checked {
        if self.strange_answers.contains(&answer.bytes.to_vec()) {
            if !answer.handles.is_empty() {
                self.strangers.insert(process);
            }
            return Ok(());
        }
        let Some((bytes, cargo)) = self.answers.remove(&reply) else {
            return Err(Violation(format!("{process:?} got an answer that nobody gave: {answer:?}")));
        };
        ensure!(bytes == answer.bytes, "{process:?} got another answer than was given: {answer:?}");
        ensure!(cargo.len() == answer.handles.len(), "handles of an answer were lost or added: {answer:?}");
        for (handle, held) in answer.handles.iter().zip(cargo) {
            self.put(process, *handle, held)?;
        }
        Ok(())
    }

    /// Whether the caller was told the truth about how far its request came.
    fn call_failed(&mut self, process: ProcessId, key: &OfferKey, error: &CallError) -> Checked {
        if !has_reached(error) {
            return self.void(process, key, error);
        }
        let Some(offer) = self.offer_mut(key) else {
            return Ok(());
        };
        offer.fate = Fate::Accepted;
        ensure!(
            !matches!(offer.taken, Some(None)),
            "{process:?} was told {error:?} of what was received as a plain message"
        );
        // The server may have taken it and not know yet.
        Ok(())
    }

    fn call_ended(
        &mut self, process: ProcessId, handle: HandleId, result: &Result<abi::message::Answer, EndCallError>,
    ) -> Checked {
        let failed = match result {
            Ok(_) => None,
            Err(EndCallError::Failed(error)) => Some(error),
            Err(_) => return Ok(()),
        };
        let Some(held) = self.table(process).remove(&handle) else {
            return Err(Violation(format!("{process:?} ended a call that it does not have")));
        };
        let Some(key) = self.begun.remove(&held.thing) else {
            return Err(Violation(format!("{process:?} ended a call that it did not begin")));
        };
        match (failed, result) {
            (Some(error), _) => self.call_failed(process, &key, error),
            (None, Ok(answer)) => match self.taken_as(&key) {
                Some(reply) => self.answer(process, reply, answer),
                None => Err(Violation(format!("{process:?} got an answer to what no server took: {answer:?}"))),
            },
            (None, Err(_)) => Ok(()),
        }
    }

    fn replied(
        &mut self, process: ProcessId, reply: HandleId, transfers: &[Transfer], result: &Result<(), ReplyError>,
    ) -> Checked {
        match result {
            Ok(()) => {
                let held = self.table(process).remove(&reply);
                ensure!(held.is_some(), "{process:?} answered with {reply:?}, which it does not have");
                for transfer in transfers.iter().filter(|transfer| transfer.mode == TransferMode::Move) {
                    self.table(process).remove(&transfer.handle);
                }
                Ok(())
            }
            Err(ReplyError::CallerGone) => {
                let held = self.table(process).remove(&reply);
                ensure!(held.is_some(), "{process:?} answered with {reply:?}, which it does not have");
                if let Some(held) = held {
                    self.answers.remove(&held.thing);
                }
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    fn name(&mut self, thing: Thing, object: ObjectId) -> Checked {
        // Each node has its own.
        if self.cluster && matches!(object, ObjectId::Device(_)) {
            return Ok(());
        }
        let (known, back) = (*self.names.entry(thing).or_insert(object), *self.named.entry(object).or_insert(thing));
        // The two numbers of a call that was asked again name two rights to answer.
        let call = matches!(object, ObjectId::Reply(_) | ObjectId::Call(_));
        ensure!(call || (known == object && back == thing), "a handle points to {object:?} instead of {known:?}");
        Ok(())
    }

    /// Compares a process's table with the kernel's. The process must be between two calls.
    pub fn compare(&mut self, process: ProcessId, actual: &[(HandleId, Description)]) -> Checked {
        if self.strangers.contains(&process) {
            return Ok(());
        }
        for (handle, description) in actual {
            if !self.some_door.remove(&(process, *handle)) {
                continue;
            }
            // A port that nobody has compared yet has no name yet.
            let Some(thing) = self.named.get(&description.object).copied() else {
                self.strangers.insert(process);
                return Ok(());
            };
            if let Some(held) = self.table(process).get_mut(handle) {
                held.thing = thing;
                held.badge = description.badge;
            }
        }
        let expected = self.tables.get(&process).cloned().unwrap_or_default();
        for (handle, description) in actual {
            let Some(held) = expected.get(handle) else {
                return Err(Violation(format!("{process:?} has {handle:?} to {description:?} and nobody gave it")));
            };
            ensure!(
                held.rights == description.rights && held.badge == description.badge,
                "{handle:?} of {process:?} holds {} with {:?} and should hold {} with {:?}",
                description.rights,
                description.badge,
                held.rights,
                held.badge
            );
            self.name(held.thing, description.object)?;
        }
        for (handle, held) in &expected {
            let found = actual.iter().any(|(other, _)| other == handle);
            // What points to a port or watch that is no more is not listed.
            // What points to a node that is lost is not listed either.
            let may_be_gone = matches!(held.kind, Kind::Port | Kind::Watch)
                || self.cluster && matches!(held.kind, Kind::Process | Kind::Pipe);
            ensure!(found || may_be_gone, "{process:?} lost {handle:?} to a {:?}", held.kind);
        }
        Ok(())
    }

    /// What must be true when nothing is under way any more.
    pub fn finish(&self, kernel: &Kernel) -> Checked {
        self.finish_ports(kernel)?;
        self.finish_notices(kernel)?;
        self.finish_kills(kernel)?;
        if self.strange_reads {
            return Ok(());
        }
        self.pipes.values().try_for_each(|pipe| check_pipe(pipe, &self.strange_writes))
    }

    fn finish_ports(&self, kernel: &Kernel) -> Checked {
        for port in kernel.ports() {
            let Some(thing) = self.named.get(&ObjectId::Port(port.id)) else {
                continue;
            };
            let (mut there, mut unsure) = (0, self.maybe_taken_from(*thing));
            let all = self.offers.iter().flat_map(|(key, offers)| offers.iter().map(move |offer| (key, offer)));
            for (key, offer) in all.filter(|(_, offer)| offer.port == *thing && offer.taken.is_none()) {
                let open = self.begun.values().any(|begun| begun.0 == *key);
                match (offer.purpose, offer.fate) {
                    (_, Fate::Unknown) => unsure += 1,
                    (_, Fate::Void) => {}
                    // From another node it may be on its way still.
                    (Purpose::BeginCall { .. } | Purpose::Send { reliable: false }, _) if self.cluster => unsure += 1,
                    (Purpose::Send { .. }, Fate::Accepted) => there += 1,
                    (Purpose::BeginCall { deadline: false, .. }, Fate::Accepted) if open => there += 1,
                    (Purpose::BeginCall { .. }, Fate::Accepted) => unsure += 1,
                    (Purpose::Call { .. }, Fate::Accepted) => {}
                    // It waits in the queue or for it.
                    (_, Fate::Asked) => unsure += 1,
                }
            }
            let known = u64::from(port.status.messages) + port.status.dropped;
            ensure!(
                known <= there + unsure && there <= known + unsure,
                "{:?} holds {} and dropped {} messages; {there} were accepted and not received, of {unsure} nothing is known",
                port.id,
                port.status.messages,
                port.status.dropped
            );
        }
        Ok(())
    }

    fn finish_kills(&self, kernel: &Kernel) -> Checked {
        for (process, thing) in &self.processes {
            let Some(killer) = self.killed.get(thing) else {
                continue;
            };
            let view = kernel.processes().find(|view| view.id == *process);
            let over = view.is_none_or(|view| matches!(view.activity, Activity::Ending | Activity::Exited(_)));
            ensure!(over, "{process:?} was killed by {killer:?} and lives");
        }
        Ok(())
    }

    fn finish_notices(&self, kernel: &Kernel) -> Checked {
        let mut missing: BTreeMap<Thing, (u64, &Promise)> = BTreeMap::new();
        for promise in &self.promises {
            let due = match promise.subject {
                Subject::Exit(thing) => self.ended.contains(&thing),
                Subject::Time(at) => at <= kernel.now(),
                Subject::Other => false,
            };
            if due && promise.sure && !promise.received && !promise.given_up && self.tables.contains_key(&promise.owner)
            {
                missing.entry(promise.port).or_insert((0, promise)).0 += 1;
            }
        }
        for (thing, (count, promise)) in missing {
            let Some(ObjectId::Port(id)) = self.names.get(&thing) else {
                continue;
            };
            let Some(port) = kernel.ports().find(|port| port.id == *id) else {
                continue;
            };
            let there = u64::from(port.notices) + self.maybe_taken_from(thing);
            ensure!(count <= there, "{count} notices should lie in {id:?}, among them {promise:?}");
        }
        Ok(())
    }
}

/// Whether an error says that a server took the request.
fn has_reached(error: &CallError) -> bool {
    matches!(
        error,
        CallError::Abandoned { .. }
            | CallError::Expired(Reached::Server { .. })
            | CallError::Interrupted(Reached::Server { .. })
    )
}

/// Ends by deadline come at the deadline, not before.
fn deadline_fits(process: ProcessId, now: Time, call: &SystemCall, outcome: &Outcome) -> Checked {
    let until = |wait: &Wait| match wait {
        Wait::Until(at) => Some(*at),
        _ => None,
    };
    let (deadline, expired) = match (call, outcome) {
        (SystemCall::Send { mode: SendMode::Reliable(wait), .. }, Outcome::Sent(result)) => {
            (until(wait), *result == Err(SendError::Expired))
        }
        (SystemCall::Receive { wait, .. }, Outcome::Received(result)) => {
            (until(wait), matches!(result, Err(ReceiveError::Expired)))
        }
        (SystemCall::Call { deadline, .. }, Outcome::Called(result)) => {
            (deadline.at, matches!(result, Err(CallError::Expired(_))))
        }
        (SystemCall::Sleep { until }, Outcome::Slept(Ok(()))) => (Some(*until), true),
        _ => return Ok(()),
    };
    if expired {
        let Some(deadline) = deadline else {
            return Err(Violation(format!("{process:?} had no deadline and got {outcome:?}")));
        };
        ensure!(now >= deadline, "{process:?} got {outcome:?} at {now:?}, before {deadline:?}");
    }
    Ok(())
}

/// Each write begins with this byte, which is nowhere else in it, and four bytes that no other write begins with.
pub const WRITE_MARK: u8 = 0xff;

/// What was read is whole writes, or the beginnings of writes that did not end well, one after the other.
fn check_pipe(pipe: &PipeModel, strange_writes: &[Bytes]) -> Checked {
    if pipe.readers.len() > 1 {
        return Ok(());
    }
    let mut at = 0;
    while at < pipe.read.len() {
        let rest = &pipe.read[at..];
        let end = rest[1..].iter().position(|byte| *byte == WRITE_MARK).map(|position| position + 1);
        let piece = &rest[..end.unwrap_or(rest.len())];
        if strange_writes.iter().any(|bytes| bytes.starts_with(piece)) {
            at += piece.len();
            continue;
        }
        let mut whole = pipe.writes.iter().filter(|write| write.bytes.starts_with(piece)).peekable();
        ensure!(whole.peek().is_some(), "a pipe gave what nobody wrote, or mixed writes: {:?}", Bytes::new(piece));
        let ends_here = |write: &PipeWrite| write.written.is_none_or(|written| written as usize == piece.len());
        ensure!(end.is_none() || whole.any(ends_here), "a pipe cut a write short: {:?}", Bytes::new(piece));
        at += piece.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::limits::{Limits, WEIGHT_NORMAL};
    use abi::process::{Orphan, Program, Spawn};

    const ELSEWHERE: NodeId = NodeId(2);

    fn parent() -> ProcessId {
        ProcessId::new(NodeId(1), 1)
    }

    fn child(serial: u64) -> ProcessId {
        ProcessId::new(ELSEWHERE, serial)
    }

    /// A parent that gave up as many children as it was to give handles, each with so many copies of its own.
    fn gave_up(counts: &[usize]) -> Model {
        let mut model = Model::of_cluster(0);
        let mut note = |seen| {
            let record = Record { step: 0, at: Time(0), process: parent(), seen };
            model.note(&record).expect("nothing of this is wrong");
        };
        note(Seen::Born { parent: None });
        note(Seen::Got(Outcome::Begun));
        note(Seen::Asked(SystemCall::CreatePipe { bytes_max: 1 }));
        note(Seen::Got(Outcome::PipeCreated(Ok(HandleId(2)))));
        for count in counts {
            let handle = HandleId(2);
            let handles = vec![Transfer { handle, rights: Rights::WRITE, mode: TransferMode::Copy }; *count].into();
            let (program, arguments) = (Program::Service(1), Bytes::EMPTY);
            let (limits, weight, orphan) = (Limits::NORMAL, WEIGHT_NORMAL, Orphan::Dies);
            let spawn = Spawn { program, arguments, handles, limits, weight, orphan, supervisor: None, again: None };
            note(Seen::Asked(SystemCall::SpawnOn { node: ELSEWHERE, spawn: Box::new(spawn) }));
            note(Seen::Got(Outcome::Spawned(Err(SpawnError::Unknown))));
        }
        model
    }

    fn is_born(model: &mut Model, serial: u64) {
        model.born(child(serial), Some(parent())).expect("its parent asked for it");
    }

    #[test]
    fn a_child_that_was_given_up_has_what_it_was_given() {
        let mut model = gave_up(&[2]);
        is_born(&mut model, 1);
        assert_eq!(model.tables[&child(1)].len(), 2);
    }

    #[test]
    fn a_child_of_a_stranger_is_not_taken_for_one_that_was_given_up() {
        let mut model = gave_up(&[2]);
        model.strangers.insert(parent());
        is_born(&mut model, 1);
        assert!(model.strangers.contains(&child(1)));
    }

    #[test]
    fn of_two_that_were_given_up_neither_is_known() {
        let mut model = gave_up(&[2, 1]);
        (1..=2).for_each(|serial| is_born(&mut model, serial));
        assert!((1..=2).all(|serial| model.strangers.contains(&child(serial))));
    }
}
