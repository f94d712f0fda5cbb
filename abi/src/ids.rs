//! The numbers by which parts of una name things to one another. This file knows nothing of the things themselves.
//!
//! The one idea: a number that leaves its node carries the node it was born on, so that no two nodes ever have to agree
//! before they hand one out, and a thing keeps its number when it moves.

use core::fmt;

/// A machine that runs the daemon. Zero is no node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u16);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// Who a node is, for ever and everywhere: its Ed25519 public key. A [`NodeId`] is the number that one system gave it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey(pub [u8; 32]);

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Serial numbers of one node, over all its restarts: a node that comes back must go on where it stopped.
pub const SERIAL_BITS: u32 = 48;

macro_rules! global {
    ($(#[$text:meta])* $name:ident, $letter:literal) => {
        $(#[$text])*
        ///
        /// 16 bits of birth node, then 48 bits of serial number; unique in the system for ever.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// `serial` must be below `1 << SERIAL_BITS`.
            pub fn new(born: NodeId, serial: u64) -> $name {
                assert!(serial < 1 << SERIAL_BITS, "a node has used up its serial numbers");
                $name(u64::from(born.0) << SERIAL_BITS | serial)
            }

            /// The node it was born on: where to ask first, not where it is.
            pub fn born(self) -> NodeId {
                NodeId((self.0 >> SERIAL_BITS) as u16)
            }

            pub fn serial(self) -> u64 {
                self.0 & ((1 << SERIAL_BITS) - 1)
            }

            pub fn to_bits(self) -> u64 {
                self.0
            }

            pub fn from_bits(bits: u64) -> $name {
                $name(bits)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "{}.{}", self.born().0, self.serial())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, concat!($letter, "{}.{}"), self.born().0, self.serial())
            }
        }
    };
}

global!(
    /// A process, on whichever node it runs.
    ProcessId, "p"
);
global!(
    /// A port: a queue of messages.
    PortId, "q"
);
global!(
    /// A pipe: a bounded stream of bytes.
    PipeId, "s"
);
global!(
    /// A watch: one notice that is still to come.
    WatchId, "w"
);

/// A call, the same through every retry: what a server remembers to do a thing at most once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId {
    pub caller: ProcessId,
    /// Counts a caller's calls from 1.
    pub sequence: u64,
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}#{}", self.caller, self.sequence)
    }
}

/// A device that the node's drivers serve, by its place in the list that the node was booted with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId(pub u16);

impl DeviceId {
    /// The way to other nodes: who holds it may open this node's door and knock at others'.
    pub const NETWORK: DeviceId = DeviceId(u16::MAX);
}

/// Whatever a handle can point to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ObjectId {
    Process(ProcessId),
    Port(PortId),
    Pipe(PipeId),
    /// The right to answer a call, once.
    Reply(CallId),
    /// A call that was begun and whose answer is still to be collected.
    Call(CallId),
    Watch(WatchId),
    Device(DeviceId),
}

/// A process's own small integer for one object with certain rights. Zero is no handle.
///
/// The lower half is a place in the process's table, the upper half counts how often the place was used before, so that a
/// handle kept after its closing does not quietly point to something else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandleId(pub u32);

impl HandleId {
    pub const NONE: HandleId = HandleId(0);
}

impl fmt::Debug for HandleId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 >> 16 {
            0 => write!(f, "h{}", self.0),
            uses => write!(f, "h{}~{uses}", self.0 & 0xffff),
        }
    }
}

/// A program: the BLAKE3 hash of its WebAssembly module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramId(pub [u8; 32]);

impl fmt::Display for ProgramId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ProgramId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Nanoseconds of the node's own monotonic clock. It says nothing about other nodes, nor about the time of day.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    pub fn after(self, nanoseconds: u64) -> Time {
        Time(self.0.saturating_add(nanoseconds))
    }

    pub fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}ns", self.0)
    }
}
