//! All that a node's kernel wants from the world, and all that the world tells it. This is the most important file: who
//! reads it knows what una is made of; who wants to run the kernel on something else implements this and no more.
//!
//! The one idea: the list is closed. Effects and events come in pairs, and the world owes each effect the event that answers
//! it. A new pair needs a decision record.
//!
//! ```text
//!   effect                   answered by                        meaning
//!   ------------------------------------------------------------------------------------------------------------
//!   -                        Boot                               make the first process
//!   -                        Stir                               what a sleeping process waits for outside may have come
//!   Start                    Started | NotStarted               make an instance of a program, do not run it yet
//!   Run                      Call | Yielded | Trapped           run a process on this worker until it wants something
//!   Interrupt                (the answer to Run, soon)          make the process on this worker come back
//!   Destroy                  -                                  the process ended: free its instance
//!   Park                     -                                  nothing to run: sleep until Wake
//!   Wake                     Awake                              there is something to run
//!   Alarm                    Alarm                              say so when this time has come
//!   Journal                  Journal                            bytes that must survive
//!   Halt                     -                                  the first process ended: stop the node
//!   Transmit                 - (the other's Arrived, perhaps)   bytes for another node's kernel; may be lost, doubled, late
//!   -                        Arrived                            such bytes from another node's kernel
//!   -                        Linked | Unlinked                  the other node can be reached, or not for now
//!   -                        Lost                               that life of the other node is over, for certain
//!   -                        Rouse                              end a wait so that it can be asked again, before a move
//!   Departed                 Depart comes before it             the process is at the other node from now on, or why it stays
//!   Missed                   Expect comes before it; Forgo there a process that was expected will not come
//!   Settled                  Started | NotStarted               it came: run what was made ready for it
//! ```
//!
//! The world calls [`crate::Kernel::step`] with one input at a time, in the order in which things happened, and carries out
//! the effects in the order in which they were appended. The thread that brings a system call finds in the effects what it
//! does next: exactly one of `Run` and `Park` for its worker.

use crate::process::Process;
use crate::table::Key;
use crate::watch::Watch;
use abi::call::SystemCall;
use abi::device::{JournalResult, JournalWork};
use abi::ids::{DeviceId, HandleId, NodeId, PortId, ProcessId, Time};
use abi::limits::{Limit, Limits};
use abi::message::{Bytes, Transfer};
use abi::process::{Exit, Fault, Program, StartFailure};
use alloc::boxed::Box;

/// A thread that runs processes, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WorkerId(pub u16);

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// The process that runs on this worker asks for something.
    Call {
        worker: WorkerId,
        process: Key<Process>,
        call: SystemCall,
    },
    Event(Event),
}

/// What the world tells, mostly because it was asked to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Comes first, once: the first process begins with handles to the node's devices, numbered from 1 in their order.
    Boot {
        program: Program,
        arguments: Bytes,
        limits: Limits,
    },
    /// The instance is there.
    Started {
        process: Key<Process>,
    },
    NotStarted {
        process: Key<Process>,
        failure: StartFailure,
    },
    /// Something that the kernel does not know of may have come for this process: its sleep ends with `Interrupted`, the one
    /// that it is in or else its next one. Two of these before a sleep are as good as one.
    Stir {
        process: Key<Process>,
    },
    /// The process came back without wanting anything: it was interrupted, or had its slice.
    Yielded {
        worker: WorkerId,
        process: Key<Process>,
    },
    /// The process broke a rule while it ran.
    Trapped {
        worker: WorkerId,
        process: Key<Process>,
        fault: Fault,
    },
    /// The worker looks for work: it just began, or was woken.
    Awake {
        worker: WorkerId,
    },
    /// The time of the last [`Effect::Alarm`] has come.
    Alarm,
    /// The work is done. Each request is answered once, and those of one device in the order of asking.
    Journal {
        request: Key<Watch>,
        result: JournalResult,
    },
    /// What the kernel of another node wanted transmitted. The world has seen to it that it is that node, in that life; what it sent is
    /// not to be believed beyond that.
    Arrived {
        from: NodeId,
        life: u64,
        packet: Bytes,
    },
    /// There is a link to that life of that node. What was under way before is sent again.
    Linked {
        node: NodeId,
        life: u64,
    },
    /// The link is gone, for now. This ends nothing.
    Unlinked {
        node: NodeId,
    },
    /// That life of that node, and every earlier one, is over and will never do anything again. All that rested on it ends.
    Lost {
        node: NodeId,
        life: u64,
    },
    /// Ends what the process waits for, so that it can be asked again with the same deadline: `Interrupted`, and nothing has happened
    /// but what the outcome says. A call that a server may have taken goes on: [`abi::call::CallError::Detached`]. What an act at another
    /// node came to is awaited. Does nothing to a process that does not wait.
    Rouse {
        process: Key<Process>,
    },
    /// A process will come from that node under this ticket, and all is ready for it. It finds what these transfers give of its adopter's
    /// handles in place of those that it left there; unless its parent stays behind, the adopter becomes its parent.
    Expect {
        from: NodeId,
        ticket: u64,
        adopter: Key<Process>,
        grants: Box<[(HandleId, Transfer)]>,
    },
    /// It will not come, or is not wanted.
    Unexpect {
        from: NodeId,
        ticket: u64,
    },
    /// Nothing departs to that node under this ticket: it is told, so that it need not expect it for ever.
    Forgo {
        to: NodeId,
        ticket: u64,
    },
    /// The process goes to that node, which expects it in that life of it under this ticket. It is ready or held, or on a worker that will
    /// not let it run on, and does not have its last outcome before it. These handles stay behind. If its parent is kept, that has a child
    /// elsewhere from now on; else the process has an adopter there.
    Depart {
        process: Key<Process>,
        to: NodeId,
        life: u64,
        ticket: u64,
        left: Box<[HandleId]>,
        keeps_parent: bool,
    },
}

/// Why a process cannot leave now. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DepartError {
    /// It has ended, or left before.
    Ended,
    /// It waits, was not started yet, or was not told yet what its last system call gave: rouse it, stop it, ask again.
    Busy,
    /// It is the first of its node.
    First,
    /// There is no session with that node, or it is one with another life of it.
    Unreachable,
    /// It holds a device, or waits for its work. No handle is named if it lies in a message.
    Device(HandleId),
    /// Another process may receive from this port too, or make badges for it.
    Shared(PortId),
    /// It may make badges for a port that another process receives from.
    StaysHome(HandleId),
    /// A notice that it waits for goes to a port that stays, or one of somebody who stays to its own.
    Watches,
    /// A read of a pipe of another node was given up, and it is not known yet what it brought; or what was done through this handle is
    /// not all where it is to be: ask again.
    Undecided(HandleId),
    Limit(Limit),
    /// What lies in its queues is more than may go along.
    TooMuch {
        bytes: u64,
    },
}

/// What shall happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    Start {
        process: Key<Process>,
        id: ProcessId,
        program: Program,
        arguments: Bytes,
        memory_pages_max: u32,
    },
    /// Runs the process until it makes a system call. What its last one gives lies ready in
    /// [`crate::Kernel::take_outcome`]: it would else be copied through every effect. A process that came back by
    /// [`Event::Yielded`] goes on where it was and has no use for an outcome. After [`crate::limits::SLICE_NS`] it should
    /// come back if others are ready: the kernel sees to it at each system call, the world for what runs long without one.
    Run {
        worker: WorkerId,
        process: Key<Process>,
    },
    Interrupt {
        worker: WorkerId,
        process: Key<Process>,
    },
    Destroy {
        process: Key<Process>,
        exit: Exit,
    },
    Park {
        worker: WorkerId,
    },
    Wake {
        worker: WorkerId,
    },
    /// Replaces the alarm that was set before, if it did not come yet.
    Alarm {
        at: Time,
    },
    Journal {
        request: Key<Watch>,
        device: DeviceId,
        work: JournalWork,
    },
    Halt {
        exit: Exit,
    },
    /// What came of [`Event::Depart`]. If it went well the process is at the other node: its instance here is to be forgotten, without
    /// [`Effect::Destroy`], and whatever worker had it comes back as ever.
    Departed {
        process: Key<Process>,
        result: Result<(), DepartError>,
    },
    /// A process that was expected is here, under this key. The world answers when what it made ready can run, or that it cannot. The
    /// adopter has this handle to it, if there was room.
    Settled {
        from: NodeId,
        ticket: u64,
        process: Key<Process>,
        id: ProcessId,
        handle: HandleId,
    },
    /// What was expected will not come: that node said so, or is lost in the life that it had, or there is no session with it.
    Missed {
        from: NodeId,
        ticket: u64,
    },
    /// Nobody waits for this: what must arrive is transmitted again. At most [`crate::limits::PACKET_BYTES_MAX`] and a header of 64 bytes.
    Transmit {
        to: NodeId,
        packet: Bytes,
    },
}
