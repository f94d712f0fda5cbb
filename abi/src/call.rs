//! The system calls of the import module `una`, and what comes back from each. This file knows nothing of how they are done.
//!
//! The one idea: one enum of acts, one enum of outcomes with the same names, and for each act its own enum of errors, of
//! which every variant is something the caller can act on. Acts on names are calls to the service `names`
//! ([`crate::interface::names`]) through a handle that each process is born with: the kernel knows no names.

use crate::device::JournalWork;
use crate::ids::{HandleId, NodeId, ObjectId, Time};
use crate::limits::Limit;
use crate::message::{Answer, Badge, Bytes, Message, Notify, Received};
use crate::process::{Exit, Spawn, Spawned};
use crate::rights::Rights;
use alloc::boxed::Box;

/// The most ports of one select.
pub const SELECT_PORTS_MAX: usize = 16;

/// How long an act may take.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Wait {
    /// It is done now or fails now.
    No,
    Until(Time),
    Forever,
}

/// What happens to a message for which there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SendMode {
    /// The sender waits, or is told.
    Reliable(Wait),
    /// It is dropped and counted; the sender is not told.
    Unreliable,
}

/// A new port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PortOptions {
    /// Messages that may wait in the queue. Zero is rendezvous: a send ends when a receiver has the message.
    pub messages_max: u32,
    /// Bytes that may wait in the queue. A message longer than this is refused.
    pub bytes_max: u32,
    pub overflow: Overflow,
}

/// What a port does with a message for which it has no room, unless the sender chose to lose it anyway.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Overflow {
    /// Back-pressure: the sender waits, or is told.
    Wait,
    /// Drops and counts it. Calls are never dropped: they are refused.
    Drop,
}

impl PortOptions {
    pub const fn buffered(messages_max: u32) -> PortOptions {
        PortOptions { messages_max, bytes_max: 1 << 20, overflow: Overflow::Wait }
    }

    pub const RENDEZVOUS: PortOptions = PortOptions::buffered(0);
}

/// What a process asks of the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SystemCall {
    /// Lets others run.
    Yield,
    Exit {
        code: u32,
    },
    Sleep {
        until: Time,
    },

    Spawn(Box<Spawn>),
    /// Spawns on this node, which may be another one. The child's parent is the caller as ever; if it is to be adopted, the first
    /// process of its own node does that.
    SpawnOn {
        node: NodeId,
        spawn: Box<Spawn>,
    },
    /// Waits for the end of a process. Any number may wait, any number of times.
    Wait {
        process: HandleId,
        wait: Wait,
    },
    Kill {
        process: HandleId,
    },
    /// Keeps a process from running until it is released. What it waits for still comes.
    Hold {
        process: HandleId,
    },
    Release {
        process: HandleId,
    },
    /// Ends whatever a process waits for with the error `Interrupted`. Does nothing to one that does not wait.
    Interrupt {
        process: HandleId,
    },

    CreatePort(PortOptions),
    Send {
        port: HandleId,
        message: Message,
        mode: SendMode,
    },
    Receive {
        port: HandleId,
        wait: Wait,
    },
    /// Takes the first message of the first of these ports that has one; else waits for the first to come.
    Select {
        ports: Box<[HandleId]>,
        wait: Wait,
    },
    /// Sends a request and waits for its answer.
    Call {
        port: HandleId,
        message: Message,
        deadline: Deadline,
    },
    /// Sends a request and goes on; the handle that this gives collects the answer, and closing it cancels the call.
    BeginCall {
        port: HandleId,
        message: Message,
        deadline: Deadline,
    },
    EndCall {
        call: HandleId,
        wait: Wait,
    },
    /// Answers a call. The right is used up, whatever comes of it, unless the error says that it was kept.
    Reply {
        reply: HandleId,
        message: Message,
    },
    PortStatus {
        port: HandleId,
    },

    /// A pipe of so many bytes.
    CreatePipe {
        bytes_max: u32,
    },
    /// Up to `bytes_max` bytes; waits for the first byte only. Nothing is the end.
    Read {
        pipe: HandleId,
        bytes_max: u32,
        wait: Wait,
    },
    /// Waits until all of the bytes are in the pipe.
    Write {
        pipe: HandleId,
        bytes: Bytes,
        wait: Wait,
    },

    /// A second handle to the same object, with the same or fewer rights.
    Duplicate {
        handle: HandleId,
        rights: Rights,
    },
    /// A second handle to a port, without the right to receive, that puts a badge on each message. A badge cannot be
    /// changed once it is there.
    MakeBadge {
        port: HandleId,
        badge: Badge,
        rights: Rights,
    },
    /// Gives up rights of this very handle.
    Attenuate {
        handle: HandleId,
        rights: Rights,
    },
    Close {
        handle: HandleId,
    },
    Describe {
        handle: HandleId,
    },

    /// One notice when a process ends, a port closes, a caller goes away. Closing the handle that this gives forgets it.
    Watch {
        subject: HandleId,
        notify: Notify,
    },
    /// One notice at this time. Closing the handle that this gives forgets it.
    SetTimer {
        at: Time,
        notify: Notify,
    },
    /// Makes a port the door of this node: what other nodes find first. The network is [`crate::ids::DeviceId::NETWORK`], with the right to
    /// write. A later door takes the place of an earlier one.
    OpenDoor {
        network: HandleId,
        port: HandleId,
    },
    /// Gives a handle to the door of a node, with the rights that whoever sends to a port has. The network must be held with the right to
    /// read.
    Door {
        network: HandleId,
        node: NodeId,
        wait: Wait,
    },
    /// Work for a journal; its result comes as a notice.
    Journal {
        device: HandleId,
        work: JournalWork,
        notify: Notify,
    },
}

/// When a call ends at the latest, and which call it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Deadline {
    pub at: Option<Time>,
    /// The sequence number of an earlier call of this process whose fate is unknown: this is the same one again. A server
    /// that did it answers as it did then.
    pub again: Option<u64>,
}

impl Deadline {
    pub const NONE: Deadline = Deadline { at: None, again: None };

    pub const fn at(time: Time) -> Deadline {
        Deadline { at: Some(time), again: None }
    }
}

/// What comes back from a system call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The process begins: no call came before.
    Begun,
    Yielded,
    Slept(Result<(), SleepError>),
    Spawned(Result<Spawned, SpawnError>),
    Waited(Result<Exit, WaitError>),
    Killed(Result<(), ControlError>),
    Held(Result<(), ControlError>),
    Released(Result<(), ControlError>),
    Interrupted(Result<(), ControlError>),
    PortCreated(Result<HandleId, CreateError>),
    Sent(Result<(), SendError>),
    Received(Result<Received, ReceiveError>),
    /// Which of the ports, counted from 0, and what it held.
    Selected(Result<(u32, Received), ReceiveError>),
    Called(Result<Answer, CallError>),
    CallBegun(Result<Begun, CallError>),
    CallEnded(Result<Answer, EndCallError>),
    Replied(Result<(), ReplyError>),
    PortStatus(Result<PortStatus, HandleError>),
    PipeCreated(Result<HandleId, CreateError>),
    Read(Result<Bytes, ReadError>),
    Written(Result<(), WriteError>),
    Duplicated(Result<HandleId, DuplicateError>),
    Badged(Result<HandleId, DuplicateError>),
    Attenuated(Result<(), DuplicateError>),
    Closed(Result<(), HandleError>),
    Described(Result<Description, HandleError>),
    Watching(Result<HandleId, WatchError>),
    TimerSet(Result<HandleId, WatchError>),
    DoorOpened(Result<(), HandleError>),
    Door(Result<HandleId, DoorError>),
    JournalAsked(Result<(), JournalError>),
}

/// A call that was begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begun {
    pub call: HandleId,
    /// For [`Deadline::again`].
    pub sequence: u64,
}

/// What a handle is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Description {
    pub object: ObjectId,
    pub rights: Rights,
    pub badge: Badge,
}

/// A port's state as anyone who holds a handle to it may see it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PortStatus {
    pub messages: u32,
    pub bytes: u32,
    pub senders_waiting: u32,
    pub receivers_waiting: u32,
    /// Since the port was made.
    pub dropped: u64,
}

/// Why a handle cannot be used for an act.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HandleError {
    /// There is no such handle, or not any more.
    Bad,
    /// What it points to has ended.
    Ended,
    /// It points to something that cannot do this.
    WrongKind,
    /// These rights are missing.
    Lacks(Rights),
    /// It is on another node, which could not be asked in time: nothing is known of it.
    Unreachable,
}

/// Why a handle cannot go along in a message. Nothing was moved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TransferError {
    /// Which of the message's handles, counted from 0.
    pub index: u8,
    pub cause: TransferCause,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TransferCause {
    Handle(HandleError),
    /// More was asked for than the handle holds.
    Amplified(Rights),
    /// The receiving end of a port would lie in its own queue, out of everybody's reach.
    Buried,
    TooMany,
    /// These rights cannot leave their node: to receive from a port, to make badges, to answer a call, and all rights to a device.
    StaysHome,
    Limit(Limit),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SleepError {
    Interrupted,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SpawnError {
    Transfer(TransferError),
    Supervisor(HandleError),
    /// This node does not know the other one, or had no link to it since it was started.
    Unreachable,
    /// The other node was lost; if the child began, it is lost too.
    NodeLost,
    /// The waiting was interrupted and the other node did not say whether the child began. If it did, it is an orphan.
    Unknown,
    /// The weight is zero or above [`crate::limits::WEIGHT_MAX`].
    Weight,
    Limit(Limit),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WaitError {
    Handle(HandleError),
    /// It still runs.
    Expired,
    Interrupted,
    /// A process cannot wait for itself.
    Itself,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ControlError {
    Handle(HandleError),
    /// It has ended.
    Ended,
    /// The waiting was interrupted and its node did not say whether this was done.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CreateError {
    /// A bound of the new object is zero or above what the kernel offers.
    Options,
    Limit(Limit),
}

/// Why a message was not sent. Its handles are still the sender's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SendError {
    Handle(HandleError),
    Transfer(TransferError),
    /// Longer than the port or any port takes.
    TooLong,
    /// There is no room now.
    Full,
    /// There was no room in time.
    Expired,
    Interrupted,
    /// Nobody can receive from it any more.
    PortClosed,
    /// The port is on another node, and that did not say in time whether it accepted the message, or was lost before it could. Handles
    /// that were to be moved are gone.
    Unknown,
}

/// Why nothing was received. Nothing is lost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ReceiveError {
    Handle(HandleError),
    /// There is nothing now.
    Empty,
    /// Nothing came in time.
    Expired,
    Interrupted,
    /// There is nothing, and nobody can send to it any more.
    NoSenders,
    /// The process's table has no room for the handles that a message may bring.
    Limit(Limit),
}

/// What the end of a call without an answer says about the work: whether it may have been done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reached {
    /// No server had taken the request, and none ever will: it had no effect.
    Nobody,
    /// A server had taken it, or, if it is on another node that did not say, may have: to know, ask again with this number as
    /// [`Deadline::again`].
    Server { sequence: u64 },
}

/// Why a call has no answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CallError {
    Handle(HandleError),
    Transfer(TransferError),
    TooLong,
    /// The port closed, or was closed, before a server took the request: it had no effect.
    PortClosed,
    /// There is no room now, and the port or the caller does not wait.
    Full,
    /// A server took the request and then ended, or gave the right to answer up, or its node was lost. To know what it did,
    /// ask again with this number as [`Deadline::again`].
    Abandoned {
        sequence: u64,
    },
    Expired(Reached),
    Interrupted(Reached),
    /// The sequence number to be used again was never used.
    NeverCalled,
    Limit(Limit),
    /// The caller was roused while a server had the request, or may have had it. The call goes on as one that was begun: this handle
    /// collects its answer.
    Detached {
        call: HandleId,
        sequence: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EndCallError {
    Handle(HandleError),
    /// No answer yet; the call goes on.
    NotYet,
    /// The waiting was interrupted; the call goes on.
    Interrupted,
    /// The table has no room for the handles that an answer may bring; the call goes on.
    Limit(Limit),
    /// The call is over, and this is why.
    Failed(CallError),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ReplyError {
    /// The right was kept.
    Handle(HandleError),
    /// The right was kept.
    Transfer(TransferError),
    /// The right was kept.
    TooLong,
    /// Nobody waits for the answer. The right is used up; the message's handles are still the server's.
    CallerGone,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ReadError {
    Handle(HandleError),
    Empty,
    Expired,
    Interrupted,
}

/// Why not all bytes were written; the first `written` are in the pipe.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WriteError {
    pub written: u32,
    pub cause: WriteCause,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WriteCause {
    Handle(HandleError),
    /// Longer than a message may be: write it in parts.
    TooLong,
    Full,
    Expired,
    Interrupted,
    /// Nobody can read from it any more.
    NoReaders,
    /// The pipe is on another node, and that did not say in time how much more it took, or was lost before it could.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DuplicateError {
    Handle(HandleError),
    Amplified(Rights),
    /// A badge is there already, or is zero, or was to carry the right to receive or to make badges.
    Badge,
    Limit(Limit),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WatchError {
    Subject(HandleError),
    Port(HandleError),
    /// A process cannot watch itself.
    Itself,
    Limit(Limit),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DoorError {
    Handle(HandleError),
    /// That node has opened no door, or its door's port is closed.
    Closed,
    /// This node does not know that one, had no link to it since it was started, or lost it.
    Unreachable,
    Expired,
    Interrupted,
    Limit(Limit),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum JournalError {
    Device(HandleError),
    Port(HandleError),
    TooLong,
    Limit(Limit),
}

impl From<HandleError> for SendError {
    fn from(error: HandleError) -> SendError {
        SendError::Handle(error)
    }
}

impl From<TransferError> for SendError {
    fn from(error: TransferError) -> SendError {
        SendError::Transfer(error)
    }
}
