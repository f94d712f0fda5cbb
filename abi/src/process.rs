//! How a process begins and ends, as seen by others. This file knows nothing of how it runs.

use crate::ids::{HandleId, ProcessId, ProgramId};
use crate::limits::Limits;
use crate::message::{Bytes, Notify, Transfer};
use alloc::boxed::Box;

/// What to run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Program {
    Module(ProgramId),
    /// One of the node's own services, by its number in the boot manifest.
    Service(u32),
}

/// A new process. The handles become its first ones, numbered from 1 in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spawn {
    pub program: Program,
    /// Opaque to the kernel: arguments, environment, what the program's host needs.
    pub arguments: Bytes,
    pub handles: Box<[Transfer]>,
    pub limits: Limits,
    /// The share of the processor against others; [`crate::limits::WEIGHT_NORMAL`] is usual.
    pub weight: u32,
    pub orphan: Orphan,
    /// Who is told of its end, if anyone.
    pub supervisor: Option<Notify>,
    /// It was a process before, and goes on under its number. Only the world says this, of processes that nobody else is: no program
    /// and no other node can.
    pub again: Option<Again>,
}

/// A process that goes on from what was kept of it, after it had ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Again {
    pub id: ProcessId,
    /// How often it began, the first time not counted: so that no call of it has the number of an earlier one.
    pub incarnation: u32,
}

impl Again {
    /// How many calls it counts as having made: no incarnation makes so many.
    pub fn calls_made(self) -> u64 {
        u64::from(self.incarnation) << 32
    }

    /// As how many moves it counts where it is now: more than any that it made before.
    pub fn moves(self) -> u32 {
        self.incarnation << 16
    }
}

/// What becomes of a process whose parent ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Orphan {
    /// It ends too.
    Dies,
    /// It becomes the child of its parent's parent.
    IsAdopted,
}

/// What a spawn gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spawned {
    pub process: HandleId,
    pub id: ProcessId,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Exit {
    /// It said so itself.
    Code(u32),
    Killed,
    /// Its parent ended and it was not to be adopted.
    Orphaned,
    /// It broke a rule.
    Faulted(Fault),
    /// It never ran.
    NotStarted(StartFailure),
    /// Its node was lost, and it with it.
    NodeLost,
}

/// A rule that a process broke.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// The program trapped; the engine kept the reason and the stack.
    Trap,
    OutOfMemory,
    /// A system call's arguments could not be read: an unknown number, a pointer outside memory.
    MalformedCall,
    /// One handle was to be moved twice by one message.
    MovedTwice,
    /// A list of ports to wait on that is empty, too long, or names a port twice.
    MalformedSelect,
}

/// Why a process never ran.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StartFailure {
    UnknownProgram,
    /// It was refused while loading; the engine kept the reason.
    Unloadable,
    OutOfMemory,
}
