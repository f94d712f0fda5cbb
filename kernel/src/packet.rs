//! What one node's kernel says to another's, and how it becomes bytes. This file knows neither sessions nor objects.
//!
//! The one idea: nothing that arrives is believed. A packet names its version and whom it is from and for; whatever does not read as
//! exactly one content is [`Malformed`], and every number in it is looked up, by who heeds it, in a table of what that very node was given.
//!
//! ```text
//!   packet    version 3 | kind 1 | from life 8 | to life 8 | next expected 8 | number 8 | part of a content
//!   content   one Content, in one packet or several; kind says whether more follows
//! ```

use abi::call::{
    CallError, ControlError, DoorError, HandleError, Outcome, PortStatus, Reached, ReadError, SendError, SpawnError,
    TransferCause, TransferError, WaitError, WriteCause, WriteError,
};
use abi::encoding::{Malformed, Reader, Writer};
use abi::ids::{CallId, HandleId, NodeId, ObjectId, PipeId, PortId, ProcessId, ProgramId, WatchId};
use abi::limits::{Limit, Limits};
use abi::message::{Answer, Badge, Bytes, MESSAGE_BYTES_MAX, MESSAGE_HANDLES_MAX, NoticeEvent};
use abi::process::{Exit, Fault, Orphan, Program, Spawned, StartFailure};
use abi::rights::Rights;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// What this kernel speaks. Another version is refused before a link is made, and whoever makes links knows this number; here it is only
/// not believed. Version 1 had no contents for moves and shorter ways, version 2 no numbers of offers and turns; with version 3 a stamp
/// stood before each packet, and not before all that a link carries.
pub const VERSION: u8 = 4;
pub(crate) const HEADER_BYTES: usize = 34;
/// The longest content: a message's bytes, and all that may stand beside them.
pub(crate) const CONTENT_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 4096;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PacketKind {
    /// Part of a content, and more of it follows.
    Part,
    /// The last or only part of a content.
    Last,
    /// Nothing but the header.
    Acknowledgement,
    /// The sender has ended the session.
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub kind: PacketKind,
    pub from_life: u64,
    pub to_life: u64,
    /// All numbers below this have arrived at the sender.
    pub expected: u64,
    pub number: u64,
}

impl Header {
    pub fn write(&self, payload: &[u8]) -> Bytes {
        let kind = match self.kind {
            PacketKind::Part => 0,
            PacketKind::Last => 1,
            PacketKind::Acknowledgement => 2,
            PacketKind::Closed => 3,
        };
        let mut writer = Writer::default();
        writer.u8(VERSION).u8(kind).u64(self.from_life).u64(self.to_life).u64(self.expected).u64(self.number);
        writer.raw(payload);
        writer.finish().into()
    }

    pub fn read(packet: &[u8]) -> Result<(Header, &[u8]), Malformed> {
        let mut reader = Reader::new(packet);
        if reader.u8()? != VERSION {
            return Err(reader.malformed());
        }
        let kind = match reader.u8()? {
            0 => PacketKind::Part,
            1 => PacketKind::Last,
            2 => PacketKind::Acknowledgement,
            3 => PacketKind::Closed,
            _ => return Err(reader.malformed()),
        };
        let (from_life, to_life, expected, number) = (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
        let payload = &packet[HEADER_BYTES..];
        let bare = matches!(kind, PacketKind::Acknowledgement | PacketKind::Closed);
        if bare != payload.is_empty() || payload.len() > crate::limits::PACKET_BYTES_MAX {
            return Err(reader.malformed());
        }
        Ok((Header { kind, from_life, to_life, expected, number }, payload))
    }
}

/// One thing that a kernel tells another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// Do this for a process of mine. The errand is the asker's number; zero wants no answer.
    Act { errand: u64, actor: ProcessId, act: Act, rights: Vec<Passed> },
    /// Nobody waits for this errand any more: end it, and say how far it had come.
    Withdraw { errand: u64, expired: u8 },
    /// What became of an errand.
    Done { errand: u64, verdict: Verdict, rights: Vec<Passed> },
    /// I do not hold this right of yours any more.
    Release { number: u64 },
    /// I hold it twice: the second has this number.
    Duplicate { number: u64, new: u64, rights: Rights },
    /// I hold less of it.
    Narrow { number: u64, rights: Rights },
    /// I give that node, in that life, a copy of this right of yours; it will claim it by this ticket.
    Grant { number: u64, ticket: u64, to: NodeId, life: u64, rights: Rights },
    /// A right of yours was given to me by that node, in that life; it has this number with me.
    Claim { giver: NodeId, life: u64, ticket: u64, number: u64 },
    /// What you claimed is yours.
    Claimed { number: u64 },
    /// What you claimed was not given, or is lost.
    Dead { number: u64 },
    /// From that life of that node nothing more will reach me: what it granted me and I did not claim I never shall.
    Settled { node: NodeId, life: u64 },
    /// These rights went with something that was taken back.
    Void { rights: Vec<Passed> },
    /// The next part of what a process takes along that moves to you.
    Luggage { bytes: Bytes },
    /// The last part of it: the process is yours from here on. You expect it under this ticket.
    Transfer { ticket: u64, bytes: Bytes },
    /// What you expect under this ticket will not come.
    Forgo { ticket: u64 },
    /// This right of mine that you hold leads on to another node: there is a shorter way to what it is to.
    Shorter { number: u64, place: Place },
    /// Say again whether there is a shorter way: I may be able to take it now.
    Again { number: u64 },
    /// What I do for this errand of yours is under way at that node, in that life of it. This offer of mine has a number that no other one
    /// to you has.
    Onward { errand: u64, at: NodeId, life: u64, offer: u64 },
    /// Let the node of that offer answer me itself. The errand has this number between it and me, in this turn.
    Agreed { errand: u64, offer: u64, number: u64, turn: u64 },
    /// Whoever stands in for this errand of mine, in this turn, stands in for that node from now on, under this number of its, in the next
    /// turn.
    HandOver { errand: u64, turn: u64, to: NodeId, life: u64, number: u64, next: u64 },
    /// This errand of yours is with me: I answer it.
    Taken { errand: u64 },
    /// I answer somebody else for this errand of yours: you will not hear of it any more.
    HandedOver { errand: u64 },
    /// You will not hear of this errand any more from me.
    Relieved { errand: u64 },
}

/// What a process wants done with an object of another node. Numbers are those of the asker's rights there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    Send {
        port: u64,
        bytes: Bytes,
        patience: Patience,
    },
    Call {
        port: u64,
        bytes: Bytes,
        sequence: u64,
    },
    Status {
        port: u64,
    },
    Wait {
        process: u64,
        patience: Patience,
    },
    Kill {
        process: u64,
    },
    Hold {
        process: u64,
    },
    Let {
        process: u64,
    },
    Interrupt {
        process: u64,
    },
    Read {
        pipe: u64,
        bytes_max: u32,
        patience: Patience,
    },
    Write {
        pipe: u64,
        bytes: Bytes,
        patience: Patience,
    },
    Watch {
        subject: u64,
    },
    Door,
    Spawn(Box<SpawnAct>),
    /// Nothing: but it is done when all is done that was asked before it on the same way.
    Flush {
        object: u64,
    },
}

/// A process to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SpawnAct {
    pub program: Program,
    pub arguments: Bytes,
    pub limits: Limits,
    pub weight: u32,
    pub orphan: Orphan,
}

/// How long the home lets an act wait. Deadlines stay with the asker: clocks differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patience {
    /// It is done now, or not.
    None,
    /// Until it is withdrawn.
    Endless,
    /// It may be lost, and nobody is told.
    Careless,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Outcome(Outcome),
    /// What was watched for.
    Fired(NoticeEvent),
    /// Nothing is left of the errand.
    Over,
}

/// A right on its way between nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Passed {
    pub object: ObjectId,
    pub rights: Rights,
    pub badge: Badge,
    pub place: Place,
}

/// Where the home of a right on its way keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// The sender is the home and put it under this number for the receiver.
    Sender { number: u64 },
    /// The receiver is the home, and the sender holds it under this number.
    Receiver { number: u64 },
    /// A third node is the home, and was told to expect a claim.
    Third { home: NodeId, life: u64, ticket: u64 },
    /// Its home is lost.
    Nowhere,
}

impl Act {
    /// How many bytes it brings.
    pub fn bytes(&self) -> usize {
        match self {
            Act::Send { bytes, .. } | Act::Call { bytes, .. } | Act::Write { bytes, .. } => bytes.len(),
            Act::Spawn(spawn) => spawn.arguments.len(),
            _ => 0,
        }
    }
}

impl Content {
    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let bytes = match self {
            Content::Act { act, .. } => act.bytes(),
            Content::Done { verdict: Verdict::Outcome(Outcome::Called(Ok(answer))), .. } => answer.bytes.len(),
            Content::Done { verdict: Verdict::Outcome(Outcome::Read(Ok(bytes))), .. } => bytes.len(),
            Content::Luggage { bytes } | Content::Transfer { bytes, .. } => bytes.len(),
            _ => 0,
        };
        bytes + 64
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.put(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<Content, Malformed> {
        let mut reader = Reader::new(bytes);
        let content = Content::get(&mut reader)?;
        reader.finish()?;
        Ok(content)
    }
}

/// What can be written and read.
pub(crate) trait Wire: Sized {
    fn put(&self, to: &mut Writer);
    fn get(from: &mut Reader) -> Result<Self, Malformed>;
}

/// Enums by the number of each variant.
macro_rules! numbered {
    ($($type:ty { $($code:literal = $variant:ident $(($inner:ident))? $({ $($field:ident),* })?),* $(,)? })*) => { $(
        impl Wire for $type {
            fn put(&self, to: &mut Writer) {
                match self {
                    $(Self::$variant $(($inner))? $({ $($field),* })? => {
                        to.u8($code);
                        $($inner.put(to);)?
                        $($($field.put(to);)*)?
                    })*
                }
            }

            fn get(from: &mut Reader) -> Result<Self, Malformed> {
                Ok(match from.u8()? {
                    $($code => Self::$variant
                        $(({ let $inner = Wire::get(from)?; $inner }))?
                        $({ $($field: Wire::get(from)?),* })?,)*
                    _ => return Err(from.malformed()),
                })
            }
        }
    )* };
}
pub(crate) use numbered;

macro_rules! structs {
    ($($type:ident { $($field:ident),* })*) => { $(
        impl Wire for $type {
            fn put(&self, to: &mut Writer) {
                $(self.$field.put(to);)*
            }

            fn get(from: &mut Reader) -> Result<Self, Malformed> {
                Ok($type { $($field: Wire::get(from)?),* })
            }
        }
    )* };
}
pub(crate) use structs;

numbered! {
    Content {
        1 = Act { errand, actor, act, rights }, 2 = Withdraw { errand, expired }, 3 = Done { errand, verdict, rights },
        4 = Release { number }, 5 = Duplicate { number, new, rights }, 6 = Narrow { number, rights },
        7 = Grant { number, ticket, to, life, rights }, 8 = Claim { giver, life, ticket, number }, 9 = Claimed { number },
        10 = Dead { number }, 11 = Settled { node, life }, 12 = Void { rights }, 13 = Luggage { bytes },
        14 = Transfer { ticket, bytes }, 15 = Forgo { ticket }, 16 = Shorter { number, place }, 17 = Again { number },
        18 = Onward { errand, at, life, offer }, 19 = Agreed { errand, offer, number, turn },
        20 = HandOver { errand, turn, to, life, number, next },
        21 = Taken { errand }, 22 = HandedOver { errand }, 23 = Relieved { errand },
    }
    Act {
        1 = Send { port, bytes, patience }, 2 = Call { port, bytes, sequence }, 3 = Status { port },
        4 = Wait { process, patience }, 5 = Kill { process }, 6 = Hold { process }, 7 = Let { process },
        8 = Interrupt { process }, 9 = Read { pipe, bytes_max, patience }, 10 = Write { pipe, bytes, patience },
        11 = Watch { subject }, 12 = Door, 13 = Spawn(spawn), 14 = Flush { object },
    }
    Patience { 0 = None, 1 = Endless, 2 = Careless }
    Verdict { 1 = Outcome(outcome), 2 = Fired(event), 3 = Over }
    Place { 1 = Sender { number }, 2 = Receiver { number }, 3 = Third { home, life, ticket }, 4 = Nowhere }
    Program { 1 = Module(module), 2 = Service(number) }
    Orphan { 1 = Dies, 2 = IsAdopted }
    Exit { 1 = Code(code), 2 = Killed, 3 = Orphaned, 4 = Faulted(fault), 5 = NotStarted(failure), 6 = NodeLost }
    Fault { 1 = Trap, 2 = OutOfMemory, 3 = MalformedCall, 4 = MovedTwice, 5 = MalformedSelect }
    StartFailure { 1 = UnknownProgram, 2 = Unloadable, 3 = OutOfMemory }
    HandleError { 1 = Bad, 2 = Ended, 3 = WrongKind, 4 = Lacks(rights), 5 = Unreachable }
    TransferCause {
        1 = Handle(error), 2 = Amplified(rights), 3 = Buried, 4 = TooMany, 5 = StaysHome, 6 = Limit(limit),
    }
    SendError {
        1 = Handle(error), 2 = Transfer(error), 3 = TooLong, 4 = Full, 5 = Expired, 6 = Interrupted, 7 = PortClosed,
        8 = Unknown,
    }
    Reached { 1 = Nobody, 2 = Server { sequence } }
    CallError {
        1 = Handle(error), 2 = Transfer(error), 3 = TooLong, 4 = PortClosed, 5 = Full, 6 = Abandoned { sequence },
        7 = Expired(reached), 8 = Interrupted(reached), 9 = NeverCalled, 10 = Limit(limit),
        11 = Detached { call, sequence },
    }
    WaitError { 1 = Handle(error), 2 = Expired, 3 = Interrupted, 4 = Itself }
    ControlError { 1 = Handle(error), 2 = Ended, 3 = Unknown }
    ReadError { 1 = Handle(error), 2 = Empty, 3 = Expired, 4 = Interrupted }
    WriteCause { 1 = Handle(error), 2 = TooLong, 3 = Full, 4 = Expired, 5 = Interrupted, 6 = NoReaders, 7 = Unknown }
    SpawnError {
        1 = Transfer(error), 2 = Supervisor(error), 3 = Unreachable, 4 = NodeLost, 5 = Unknown, 6 = Weight, 7 = Limit(limit),
    }
    DoorError { 1 = Handle(error), 2 = Closed, 3 = Unreachable, 4 = Expired, 5 = Interrupted, 6 = Limit(limit) }
    Limit {
        1 = Handles, 2 = Ports, 3 = Pipes, 4 = Children, 5 = Watches, 6 = BufferBytes, 7 = Wider, 8 = Notices,
        9 = NodeProcesses, 10 = NodePorts, 11 = NodePipes, 12 = NodeCalls, 13 = NodeWatches, 14 = NodeReceiversInTransit,
        15 = NodeForeign, 16 = NodeErrands,
    }
}

structs! {
    CallId { caller, sequence }
    SpawnAct { program, arguments, limits, weight, orphan }
    Passed { object, rights, badge, place }
    TransferError { index, cause }
    WriteError { written, cause }
    PortStatus { messages, bytes, senders_waiting, receivers_waiting, dropped }
    Limits { handles_max, ports_max, pipes_max, children_max, watches_max, buffer_bytes_max, memory_pages_max }
}

impl Wire for u8 {
    fn put(&self, to: &mut Writer) {
        to.u8(*self);
    }

    fn get(from: &mut Reader) -> Result<u8, Malformed> {
        from.u8()
    }
}

impl Wire for u32 {
    fn put(&self, to: &mut Writer) {
        to.u32(*self);
    }

    fn get(from: &mut Reader) -> Result<u32, Malformed> {
        from.u32()
    }
}

impl Wire for u64 {
    fn put(&self, to: &mut Writer) {
        to.u64(*self);
    }

    fn get(from: &mut Reader) -> Result<u64, Malformed> {
        from.u64()
    }
}

impl Wire for () {
    fn put(&self, _: &mut Writer) {}

    fn get(_: &mut Reader) -> Result<(), Malformed> {
        Ok(())
    }
}

impl Wire for Bytes {
    fn put(&self, to: &mut Writer) {
        to.bytes(self);
    }

    fn get(from: &mut Reader) -> Result<Bytes, Malformed> {
        Ok(Bytes::new(from.bytes()?))
    }
}

impl Wire for Rights {
    fn put(&self, to: &mut Writer) {
        to.u32(u32::from(self.to_bits()));
    }

    fn get(from: &mut Reader) -> Result<Rights, Malformed> {
        let bits = u16::try_from(from.u32()?).map_err(|_| from.malformed())?;
        Rights::from_bits(bits).ok_or(from.malformed())
    }
}

impl Wire for Badge {
    fn put(&self, to: &mut Writer) {
        to.u64(self.0);
    }

    fn get(from: &mut Reader) -> Result<Badge, Malformed> {
        Ok(Badge(from.u64()?))
    }
}

impl Wire for NodeId {
    fn put(&self, to: &mut Writer) {
        to.u32(u32::from(self.0));
    }

    fn get(from: &mut Reader) -> Result<NodeId, Malformed> {
        u16::try_from(from.u32()?).map(NodeId).map_err(|_| from.malformed())
    }
}

/// Numbers that are unique in the system.
macro_rules! global {
    ($($type:ident),*) => { $(
        impl Wire for $type {
            fn put(&self, to: &mut Writer) {
                to.u64(self.to_bits());
            }

            fn get(from: &mut Reader) -> Result<$type, Malformed> {
                Ok($type::from_bits(from.u64()?))
            }
        }
    )* };
}
global!(ProcessId, PortId, PipeId, WatchId);

impl Wire for bool {
    fn put(&self, to: &mut Writer) {
        to.u8(u8::from(*self));
    }

    fn get(from: &mut Reader) -> Result<bool, Malformed> {
        match from.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(from.malformed()),
        }
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, to: &mut Writer) {
        match self {
            None => {
                to.u8(0);
            }
            Some(value) => {
                to.u8(1);
                value.put(to);
            }
        }
    }

    fn get(from: &mut Reader) -> Result<Option<T>, Malformed> {
        Ok(if bool::get(from)? { Some(T::get(from)?) } else { None })
    }
}

impl Wire for ProgramId {
    fn put(&self, to: &mut Writer) {
        to.raw(&self.0);
    }

    fn get(from: &mut Reader) -> Result<ProgramId, Malformed> {
        Ok(ProgramId(from.raw(32)?.try_into().map_err(|_| from.malformed())?))
    }
}

/// Only these can be held on other nodes.
impl Wire for ObjectId {
    fn put(&self, to: &mut Writer) {
        match self {
            ObjectId::Process(id) => to.u8(1).u64(id.to_bits()),
            ObjectId::Port(id) => to.u8(2).u64(id.to_bits()),
            ObjectId::Pipe(id) => to.u8(3).u64(id.to_bits()),
            _ => unreachable!("what stays home is never passed"),
        };
    }

    fn get(from: &mut Reader) -> Result<ObjectId, Malformed> {
        let (kind, bits) = (from.u8()?, from.u64()?);
        match kind {
            1 => Ok(ObjectId::Process(ProcessId::from_bits(bits))),
            2 => Ok(ObjectId::Port(PortId::from_bits(bits))),
            3 => Ok(ObjectId::Pipe(PipeId::from_bits(bits))),
            _ => Err(from.malformed()),
        }
    }
}

/// The handle is the receiver's to give: the right stands beside the outcome.
impl Wire for HandleId {
    fn put(&self, _: &mut Writer) {}

    fn get(_: &mut Reader) -> Result<HandleId, Malformed> {
        Ok(HandleId::NONE)
    }
}

impl Wire for Spawned {
    fn put(&self, to: &mut Writer) {
        self.id.put(to);
    }

    fn get(from: &mut Reader) -> Result<Spawned, Malformed> {
        Ok(Spawned { process: HandleId::NONE, id: Wire::get(from)? })
    }
}

impl Wire for Answer {
    fn put(&self, to: &mut Writer) {
        self.bytes.put(to);
    }

    fn get(from: &mut Reader) -> Result<Answer, Malformed> {
        Ok(Answer { bytes: Wire::get(from)?, handles: Box::default() })
    }
}

impl<T: Wire> Wire for Box<T> {
    fn put(&self, to: &mut Writer) {
        (**self).put(to);
    }

    fn get(from: &mut Reader) -> Result<Box<T>, Malformed> {
        Ok(Box::new(T::get(from)?))
    }
}

impl Wire for Vec<Passed> {
    fn put(&self, to: &mut Writer) {
        to.u8(self.len() as u8);
        self.iter().for_each(|passed| passed.put(to));
    }

    fn get(from: &mut Reader) -> Result<Vec<Passed>, Malformed> {
        let length = usize::from(from.u8()?);
        if length > MESSAGE_HANDLES_MAX {
            return Err(from.malformed());
        }
        (0..length).map(|_| Passed::get(from)).collect()
    }
}

impl<T: Wire, E: Wire> Wire for Result<T, E> {
    fn put(&self, to: &mut Writer) {
        match self {
            Ok(value) => {
                to.u8(0);
                value.put(to);
            }
            Err(error) => {
                to.u8(1);
                error.put(to);
            }
        }
    }

    fn get(from: &mut Reader) -> Result<Self, Malformed> {
        Ok(match from.u8()? {
            0 => Ok(Wire::get(from)?),
            1 => Err(Wire::get(from)?),
            _ => return Err(from.malformed()),
        })
    }
}

/// Those that acts at other nodes give.
impl Wire for Outcome {
    fn put(&self, to: &mut Writer) {
        match self {
            Outcome::Sent(result) => result.put(to.u8(1)),
            Outcome::Called(result) => result.put(to.u8(2)),
            Outcome::PortStatus(result) => result.put(to.u8(3)),
            Outcome::Waited(result) => result.put(to.u8(4)),
            Outcome::Killed(result) => result.put(to.u8(5)),
            Outcome::Held(result) => result.put(to.u8(6)),
            Outcome::Released(result) => result.put(to.u8(7)),
            Outcome::Interrupted(result) => result.put(to.u8(8)),
            Outcome::Read(result) => result.put(to.u8(9)),
            Outcome::Written(result) => result.put(to.u8(10)),
            Outcome::Door(result) => result.put(to.u8(11)),
            Outcome::Spawned(result) => result.put(to.u8(12)),
            other => unreachable!("no act at another node gives {other:?}"),
        }
    }

    fn get(from: &mut Reader) -> Result<Outcome, Malformed> {
        Ok(match from.u8()? {
            1 => Outcome::Sent(Wire::get(from)?),
            2 => Outcome::Called(Wire::get(from)?),
            3 => Outcome::PortStatus(Wire::get(from)?),
            4 => Outcome::Waited(Wire::get(from)?),
            5 => Outcome::Killed(Wire::get(from)?),
            6 => Outcome::Held(Wire::get(from)?),
            7 => Outcome::Released(Wire::get(from)?),
            8 => Outcome::Interrupted(Wire::get(from)?),
            9 => Outcome::Read(Wire::get(from)?),
            10 => Outcome::Written(Wire::get(from)?),
            11 => Outcome::Door(Wire::get(from)?),
            12 => Outcome::Spawned(Wire::get(from)?),
            _ => return Err(from.malformed()),
        })
    }
}

/// Those that are told beyond the node on which they happen.
impl Wire for NoticeEvent {
    fn put(&self, to: &mut Writer) {
        match self {
            NoticeEvent::Exited { process, exit } => {
                process.put(to.u8(1));
                exit.put(to);
            }
            NoticeEvent::PortClosed => {
                to.u8(2);
            }
            NoticeEvent::CallerGone(call) => call.put(to.u8(3)),
            NoticeEvent::Timer => {
                to.u8(4);
            }
            NoticeEvent::Journal(_) => unreachable!("a device stays home, and what waits for it"),
        }
    }

    fn get(from: &mut Reader) -> Result<NoticeEvent, Malformed> {
        Ok(match from.u8()? {
            1 => NoticeEvent::Exited { process: Wire::get(from)?, exit: Wire::get(from)? },
            2 => NoticeEvent::PortClosed,
            3 => NoticeEvent::CallerGone(Wire::get(from)?),
            4 => NoticeEvent::Timer,
            _ => return Err(from.malformed()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content: Content) {
        let bytes = content.encode();
        assert_eq!(Content::decode(&bytes), Ok(content.clone()));
        for end in 0..bytes.len() {
            assert!(Content::decode(&bytes[..end]).is_err(), "{content:?} cut at {end} was believed");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Content::decode(&longer).is_err(), "{content:?} with a byte more was believed");
    }

    #[test]
    fn contents_are_read_as_they_were_written_and_never_in_part() {
        let passed = |place| Passed {
            object: ObjectId::Port(PortId::new(NodeId(3), 17)),
            rights: Rights::SENDER,
            badge: Badge(9),
            place,
        };
        let rights = alloc::vec![
            passed(Place::Sender { number: 2 }),
            passed(Place::Receiver { number: 3 }),
            passed(Place::Third { home: NodeId(7), life: 4, ticket: 99 }),
            passed(Place::Nowhere),
        ];
        let actor = ProcessId::new(NodeId(1), 5);
        let send = Act::Send { port: 4, bytes: Bytes::new(b"hello"), patience: Patience::Endless };
        check(Content::Act { errand: 1, actor, act: send, rights: rights.clone() });
        let spawn = SpawnAct {
            program: Program::Module(ProgramId([7; 32])),
            arguments: Bytes::new(&[1; 100]),
            limits: Limits::NORMAL,
            weight: 100,
            orphan: Orphan::IsAdopted,
        };
        check(Content::Act { errand: 1, actor, act: Act::Spawn(Box::new(spawn)), rights: Vec::new() });
        let failed = Outcome::Called(Err(CallError::Expired(Reached::Server { sequence: 12 })));
        check(Content::Done { errand: 8, verdict: Verdict::Outcome(failed), rights });
        let fired = NoticeEvent::Exited { process: actor, exit: Exit::Faulted(Fault::OutOfMemory) };
        check(Content::Done { errand: 8, verdict: Verdict::Fired(fired), rights: Vec::new() });
        check(Content::Grant { number: 3, ticket: 4, to: NodeId(2), life: 6, rights: Rights::SEND });
        check(Content::Act { errand: 2, actor, act: Act::Flush { object: 11 }, rights: Vec::new() });
        check(Content::Shorter { number: 3, place: Place::Third { home: NodeId(7), life: 4, ticket: 99 } });
        check(Content::Onward { errand: 3, at: NodeId(2), life: 1, offer: 7 });
        check(Content::Agreed { errand: 3, offer: 7, number: 9, turn: 2 });
        check(Content::HandOver { errand: 3, turn: 1, to: NodeId(2), life: 1, number: 9, next: 2 });
    }

    #[test]
    fn headers_that_say_nothing_sensible_are_refused() {
        let header = Header { kind: PacketKind::Last, from_life: 1, to_life: 2, expected: 3, number: 4 };
        let packet = header.write(b"x");
        assert_eq!(Header::read(&packet), Ok((header, &b"x"[..])));
        let mut other = packet.to_vec();
        other[0] = VERSION + 1;
        assert!(Header::read(&other).is_err(), "another version was believed");
        other[0] = VERSION;
        other[1] = 9;
        assert!(Header::read(&other).is_err(), "an unknown kind was believed");
        assert!(Header::read(&packet[..HEADER_BYTES]).is_err(), "a part without content was believed");
        assert!(Header::read(&packet[..HEADER_BYTES - 1]).is_err(), "half a header was believed");
    }
}
