//! The kinds of events. This file knows nothing of logs.
//!
//! The one idea: a kind is its name and its fields, listed once; the line that people read, the fields for `--json` and the form on the
//! wire all follow from that list.

use abi::encoding::{Malformed, Reader, Writer};
use abi::ids::{NodeId, ProcessId, ProgramId};
use abi::process::{Exit, Fault, StartFailure};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// Words in an event are cut to this length.
pub const TEXT_BYTES_MAX: usize = 200;
/// Voters in an event; there are never more.
pub const VOTERS_MAX: usize = 16;

/// Words of bounded length.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Text(String);

impl Text {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
        Text(text[..end.unwrap_or(0)].into())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text::from(text.as_str())
    }
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ending(pub Exit);

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let text = match self.0 {
            Exit::Code(code) => return write!(f, "exit {code}"),
            Exit::Killed => "killed",
            Exit::Orphaned => "ended with its parent",
            Exit::NodeLost => "lost with its node",
            Exit::Faulted(Fault::Trap) => "trapped",
            Exit::Faulted(Fault::OutOfMemory) => "out of memory",
            Exit::Faulted(Fault::MalformedCall) => "made a malformed call",
            Exit::Faulted(Fault::MovedTwice) => "moved a handle twice",
            Exit::Faulted(Fault::MalformedSelect) => "waited on a malformed list",
            Exit::NotStarted(StartFailure::UnknownProgram) => "not started: unknown program",
            Exit::NotStarted(StartFailure::Unloadable) => "not started: cannot be loaded",
            Exit::NotStarted(StartFailure::OutOfMemory) => "not started: out of memory",
        };
        f.write_str(text)
    }
}

impl Ending {
    fn code(self) -> (u8, u32) {
        match self.0 {
            Exit::Code(code) => (0, code),
            Exit::Killed => (1, 0),
            Exit::Orphaned => (2, 0),
            Exit::Faulted(fault) => (3, fault as u32),
            Exit::NotStarted(failure) => (4, failure as u32),
            Exit::NodeLost => (5, 0),
        }
    }

    fn from_code(code: (u8, u32)) -> Option<Ending> {
        let exit = match code {
            (0, code) => Exit::Code(code),
            (1, 0) => Exit::Killed,
            (2, 0) => Exit::Orphaned,
            (3, 0) => Exit::Faulted(Fault::Trap),
            (3, 1) => Exit::Faulted(Fault::OutOfMemory),
            (3, 2) => Exit::Faulted(Fault::MalformedCall),
            (3, 3) => Exit::Faulted(Fault::MovedTwice),
            (3, 4) => Exit::Faulted(Fault::MalformedSelect),
            (4, 0) => Exit::NotStarted(StartFailure::UnknownProgram),
            (4, 1) => Exit::NotStarted(StartFailure::Unloadable),
            (4, 2) => Exit::NotStarted(StartFailure::OutOfMemory),
            (5, 0) => Exit::NodeLost,
            _ => return None,
        };
        Some(Ending(exit))
    }
}

/// The value of a field, for whoever writes it down in a form of their own.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Field<'a> {
    Number(u64),
    Text(&'a str),
    Node(NodeId),
    Nodes(&'a [NodeId]),
    Process(ProcessId),
    Program(ProgramId),
    Ending(Ending),
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Field::Number(number) => number.fmt(f),
            Field::Text(text) => f.write_str(text),
            Field::Node(node) => node.fmt(f),
            Field::Nodes(nodes) => {
                let words: Vec<String> = nodes.iter().map(|node| node.to_string()).collect();
                f.write_str(&words.join(" "))
            }
            Field::Process(process) => process.fmt(f),
            Field::Program(program) => write!(f, "{program:?}"),
            Field::Ending(ending) => ending.fmt(f),
        }
    }
}

pub(super) fn node(reader: &mut Reader) -> Result<NodeId, Malformed> {
    u16::try_from(reader.u32()?).map(NodeId).map_err(|_| reader.malformed())
}

/// How a type of a field is written, read and shown.
trait Value: Sized {
    fn write(&self, writer: &mut Writer);
    fn read(reader: &mut Reader) -> Result<Self, Malformed>;
    fn field(&self) -> Field<'_>;
}

impl Value for u64 {
    fn write(&self, writer: &mut Writer) {
        writer.u64(*self);
    }

    fn read(reader: &mut Reader) -> Result<u64, Malformed> {
        reader.u64()
    }

    fn field(&self) -> Field<'_> {
        Field::Number(*self)
    }
}

impl Value for NodeId {
    fn write(&self, writer: &mut Writer) {
        writer.u32(self.0.into());
    }

    fn read(reader: &mut Reader) -> Result<NodeId, Malformed> {
        node(reader)
    }

    fn field(&self) -> Field<'_> {
        Field::Node(*self)
    }
}

impl Value for ProcessId {
    fn write(&self, writer: &mut Writer) {
        writer.u64(self.to_bits());
    }

    fn read(reader: &mut Reader) -> Result<ProcessId, Malformed> {
        reader.u64().map(ProcessId::from_bits)
    }

    fn field(&self) -> Field<'_> {
        Field::Process(*self)
    }
}

impl Value for ProgramId {
    fn write(&self, writer: &mut Writer) {
        writer.raw(&self.0);
    }

    fn read(reader: &mut Reader) -> Result<ProgramId, Malformed> {
        Ok(ProgramId(reader.raw(32)?.try_into().expect("32 bytes were taken")))
    }

    fn field(&self) -> Field<'_> {
        Field::Program(*self)
    }
}

impl Value for Text {
    fn write(&self, writer: &mut Writer) {
        writer.bytes(self.0.as_bytes());
    }

    fn read(reader: &mut Reader) -> Result<Text, Malformed> {
        let text = reader.string()?;
        if text.len() > TEXT_BYTES_MAX { Err(reader.malformed()) } else { Ok(Text(text)) }
    }

    fn field(&self) -> Field<'_> {
        Field::Text(&self.0)
    }
}

impl Value for Ending {
    fn write(&self, writer: &mut Writer) {
        let (kind, code) = self.code();
        writer.u8(kind).u32(code);
    }

    fn read(reader: &mut Reader) -> Result<Ending, Malformed> {
        let code = (reader.u8()?, reader.u32()?);
        Ending::from_code(code).ok_or(reader.malformed())
    }

    fn field(&self) -> Field<'_> {
        Field::Ending(*self)
    }
}

impl Value for Vec<NodeId> {
    fn write(&self, writer: &mut Writer) {
        let nodes = &self[..self.len().min(VOTERS_MAX)];
        writer.u8(nodes.len() as u8);
        nodes.iter().for_each(|node| Value::write(node, writer));
    }

    fn read(reader: &mut Reader) -> Result<Vec<NodeId>, Malformed> {
        let count = usize::from(reader.u8()?);
        if count > VOTERS_MAX { Err(reader.malformed()) } else { (0..count).map(|_| node(reader)).collect() }
    }

    fn field(&self) -> Field<'_> {
        Field::Nodes(self)
    }
}

macro_rules! kinds {
    ($($(#[$text:meta])* $number:literal $name:ident $word:literal { $($field:ident: $type:ty),* } $said:literal;)*) => {
        /// What happened.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Kind {
            $($(#[$text])* $name { $($field: $type),* },)*
        }

        impl Kind {
            /// The name of the kind, as filters and `--json` know it.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Kind::$name { .. } => $word,)*
                }
            }

            /// Its fields, by name, in a fixed order.
            pub fn fields(&self) -> Vec<(&'static str, Field<'_>)> {
                match self {
                    $(Kind::$name { $($field),* } => [$((stringify!($field), $field.field())),*].into(),)*
                }
            }

            /// All names that there are.
            pub const NAMES: &'static [&'static str] = &[$($word),*];

            pub(super) fn write(&self, writer: &mut Writer) {
                match self {
                    $(Kind::$name { $($field),* } => {
                        writer.u8($number);
                        $($field.write(writer);)*
                    })*
                }
            }

            pub(super) fn read(reader: &mut Reader) -> Result<Kind, Malformed> {
                Ok(match reader.u8()? {
                    $($number => Kind::$name { $($field: Value::read(reader)?),* },)*
                    _ => return Err(reader.malformed()),
                })
            }
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                match self {
                    $(Kind::$name { $($field),* } => {
                        $(let $field = $field.field();)*
                        write!(f, $said)
                    })*
                }
            }
        }
    };
}

kinds! {
    1 SystemStarted "system-started" { life: u64 } "the node starts its life {life}";
    2 NodeJoined "node-joined" { node: NodeId, name: Text } "{node} ({name}) joined";
    3 NodeUp "node-up" { node: NodeId, life: u64 } "{node} is up, in its life {life}";
    4 NodeDown "node-down" { node: NodeId, life: u64 } "{node} is down in its life {life}: nobody hears it";
    5 NodeLeft "node-left" { node: NodeId, life: u64 } "{node} said goodbye at the end of its life {life}";
    6 NodeRemoved "node-removed" { node: NodeId } "{node} belongs no more";
    7 NodeDraining "node-draining" { node: NodeId } "{node} is being emptied";
    /// The others had given this node up.
    8 NodeReturned "node-returned" { node: NodeId } "{node} was called down while it was up, and is back";
    9 JoinRefused "join-refused" { from: Text, why: Text } "a join from {from} was refused: {why}";
    10 ProcessPlaced "process-placed" { process: ProcessId, on: NodeId, why: Text } "{process} is placed on {on}: {why}";
    11 ProcessStarted "process-started" { process: ProcessId, program: ProgramId } "{process} starts ({program})";
    12 ProcessEnded "process-ended" { process: ProcessId, ending: Ending } "{process} ended: {ending}";
    13 ProcessMoved "process-moved" { process: ProcessId, from: NodeId, to: NodeId } "{process} moved from {from} to {to}";
    14 ProcessKilled "process-killed" { process: ProcessId, by: NodeId } "{process} is killed, from {by}";
    15 ProcessLost "process-lost" { process: ProcessId, on: NodeId } "{process} is lost with {on}";
    16 LeaderChanged "leader-changed" { leader: NodeId, term: u64 } "{leader} leads the coordinator in term {term}";
    17 LeaderLost "leader-lost" { term: u64 } "the coordinator has no leader since term {term}";
    18 VotersChanged "voters-changed" { voters: Vec<NodeId> } "the coordinator's voters are {voters}";
    19 QuorumLost "quorum-lost" { why: Text } "hard facts cannot be changed: {why}";
    20 QuorumRegained "quorum-regained" { } "hard facts can be changed again";
    21 HolderMoved "holder-moved" { what: Text, to: NodeId } "{what} is held by {to} now";
    22 NameBound "name-bound" { name: Text } "the name {name} is bound";
    23 NameUnbound "name-unbound" { name: Text } "the name {name} is unbound";
    24 ClockAhead "clock-ahead" { node: NodeId, by_ms: u64 } "the clock of {node} is {by_ms} ms ahead of this node's: one of the two is wrong";
    25 ClockBehind "clock-behind" { by_ms: u64 } "this node's clock is {by_ms} ms behind those of most nodes: set it";
    26 Usurped "usurped" { life: u64 } "another machine has this node's key and is in its life {life}: one of the two is a copy";
    27 LifeOver "life-over" { node: NodeId, life: u64 } "{node}'s life {life} is over: nobody heard it for as long as it may be silent";
    30 ProcessForked "process-forked" { process: ProcessId, from: ProcessId, number: u64 } "{process} is clone {number} of {from}";
    31 OwnerReturned "owner-returned" { node: NodeId, why: Text } "the owner of {node} is there, so its guests leave: {why}";
    32 OwnerLeft "owner-left" { node: NodeId } "the owner of {node} is away, and lends it";
    33 GuestsGone "guests-gone" { node: NodeId, moved: u64, paused: u64, after_ms: u64 } "{node} is its owner's {after_ms} ms after they returned: {moved} guests moved, {paused} are stopped until they leave";
    34 ProcessPaused "process-paused" { process: ProcessId, on: NodeId, why: Text } "{process} is stopped on {on} until its owner leaves: {why}";
    35 ProcessUnpaused "process-unpaused" { process: ProcessId, on: NodeId } "{process}, which was stopped for the owner of {on}, goes on";
    40 ProcessKept "process-kept" { process: ProcessId, sequence: u64, new_bytes: u64 } "{process} is kept as it is: checkpoint {sequence}, {new_bytes} new bytes";
    41 ProcessRestored "process-restored" { process: ProcessId, on: NodeId, sequence: u64, incarnation: u64 } "{process} goes on on {on} from its checkpoint {sequence}, as incarnation {incarnation}";
    42 ProcessRestarted "process-restarted" { process: ProcessId, on: NodeId, incarnation: u64, why: Text } "{process} is begun again on {on}, as incarnation {incarnation}: {why}";
    43 ProcessGivenUp "process-given-up" { process: ProcessId } "{process} ended too often and is not begun again";
    44 ProcessFenced "process-fenced" { process: ProcessId } "{process} is ended here, since this node could not say in time that it still looks after it";
    45 ProcessNotTakenUp "process-not-taken-up" { process: ProcessId, by: NodeId, why: Text } "{process} has lost its node, and could not be taken up by {by}: {why}";
}
