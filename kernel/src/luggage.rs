//! What a process takes along when it moves to another node, as bytes, and what must hold of them. This file knows neither tables nor
//! sessions.
//!
//! The one idea: whatever comes along is named by its place in one of these lists, and whatever stays behind by a right that is passed like
//! one in a message. So a luggage can be checked as a whole, before anything is made of it.

use crate::limits::{PIPE_BYTES_MAX, PORT_BYTES_MAX, PORT_MESSAGES_MAX, PORT_NOTICES_MAX};
use crate::packet::{Passed, Wire, numbered, structs};
use abi::call::{CallError, Overflow, PortOptions};
use abi::encoding::{Malformed, Reader, Writer};
use abi::ids::{CallId, ObjectId, PipeId, PortId, ProcessId, WatchId};
use abi::limits::{Limits, WEIGHT_MAX};
use abi::message::{Badge, Bytes, MESSAGE_BYTES_MAX, MESSAGE_HANDLES_MAX, NoticeEvent};
use abi::process::{Orphan, Program};
use abi::rights::{Kind, Rights};
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

/// Errands that were under way when a process left have numbers from here on: their askers' tables, which number errands else, did not know
/// of them.
pub(crate) const ADOPTED_MIN: u64 = 1 << 63;

/// Everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Luggage {
    pub process: Traveller,
    /// Rights to what does not come along.
    pub passed: Many<Passed>,
    /// Bytes that were read from pipes among these and not taken yet.
    pub kept: Many<Kept>,
    pub ports: Many<PortPacked>,
    pub pipes: Many<PipePacked>,
    pub calls: Many<CallPacked>,
    pub watches: Many<WatchPacked>,
    pub table: Many<Slot>,
    /// Who waits for the end of the process.
    pub waiters: Many<Visitor>,
    /// Who watches it or one of its ports.
    pub watchers: Many<Watcher>,
    /// Rights to what comes along that the sender keeps, under numbers of its choice.
    pub exports: Many<Left>,
    /// A parent that stays behind.
    pub parent: Option<Visitor>,
    /// Children that stay behind: for each the errand that its parent there is.
    pub children: Many<u64>,
}

/// A list of any length.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Many<T>(pub Vec<T>);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Traveller {
    pub id: ProcessId,
    pub program: Program,
    pub limits: Limits,
    pub weight: u32,
    pub orphan: Orphan,
    pub used_ns: u64,
    pub calls_made: u64,
    pub held: bool,
    pub stirred: bool,
}

/// A right, in a table or a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Item {
    Given {
        index: u32,
    },
    Itself {
        rights: Rights,
    },
    Port {
        index: u32,
        rights: Rights,
        badge: Badge,
    },
    /// A port that is closed.
    Closed {
        rights: Rights,
        badge: Badge,
    },
    Pipe {
        index: u32,
        rights: Rights,
    },
    Reply {
        index: u32,
        rights: Rights,
    },
    Call {
        index: u32,
        rights: Rights,
    },
    Watch {
        index: u32,
        rights: Rights,
    },
    /// A watch that is over.
    Spent {
        rights: Rights,
    },
}

/// One place of the table of handles.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Slot {
    Free {
        generation: u32,
    },
    /// What was here does not come along; the receiver may have something to put in its place.
    Left {
        generation: u32,
    },
    Used {
        generation: u32,
        item: Item,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PortPacked {
    pub id: PortId,
    pub options: PortOptions,
    pub dropped: u64,
    pub queue: Many<EnvelopePacked>,
    /// Who waits for room, in their order.
    pub waiting: Many<SenderPacked>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum EnvelopePacked {
    Letter { bytes: Bytes, sender: ProcessId, badge: Badge, rights: Many<Item>, call: Option<Request> },
    Notice { token: u64, event: NoticeEvent },
}

/// Whose call a letter is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    Own { index: u32 },
    Abroad { errand: u64, sequence: u64 },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SenderPacked {
    pub errand: u64,
    pub actor: ProcessId,
    pub bytes: Bytes,
    pub badge: Badge,
    pub rights: Many<Item>,
    /// It is a call.
    pub sequence: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PipePacked {
    pub id: PipeId,
    pub bytes_max: u32,
    pub pieces: Many<Bytes>,
    /// Who waits to write, in their order.
    pub writing: Many<WriterPacked>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WriterPacked {
    pub errand: u64,
    pub actor: ProcessId,
    pub rest: Bytes,
    pub written: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CallPacked {
    pub id: CallId,
    pub server: ServerPacked,
    pub caller: CallerPacked,
    /// Handles that leave the caller's table if a server took the request.
    pub moved: Many<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ServerPacked {
    Queued { port: u32 },
    Taken,
    Away { errand: u64 },
    Done,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum CallerPacked {
    Begun {
        left_ns: Option<u64>,
    },
    Answered {
        bytes: Bytes,
        rights: Many<Item>,
    },
    Failed {
        error: CallError,
    },
    /// It stays behind.
    Abroad {
        errand: u64,
    },
    Gone,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WatchPacked {
    pub id: WatchId,
    pub token: u64,
    pub port: u32,
    pub subject: SubjectPacked,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SubjectPacked {
    Time { left_ns: u64 },
    Port { index: u32 },
    Reply { index: u32 },
    Abroad { errand: u64, object: ObjectId },
}

/// Somebody who stays behind, as an errand of the sender.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Visitor {
    pub errand: u64,
    pub actor: ProcessId,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Watcher {
    pub visitor: Visitor,
    /// `None` for the process itself.
    pub port: Option<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Left {
    pub number: u64,
    pub item: Item,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    pub index: u32,
    pub bytes: Bytes,
}

numbered! {
    Item {
        1 = Given { index }, 2 = Itself { rights }, 3 = Port { index, rights, badge }, 4 = Closed { rights, badge },
        5 = Pipe { index, rights }, 6 = Reply { index, rights }, 7 = Call { index, rights }, 8 = Watch { index, rights },
        9 = Spent { rights },
    }
    Slot { 1 = Free { generation }, 2 = Left { generation }, 3 = Used { generation, item } }
    EnvelopePacked { 1 = Letter { bytes, sender, badge, rights, call }, 2 = Notice { token, event } }
    Request { 1 = Own { index }, 2 = Abroad { errand, sequence } }
    ServerPacked { 1 = Queued { port }, 2 = Taken, 3 = Away { errand }, 4 = Done }
    CallerPacked {
        1 = Begun { left_ns }, 2 = Answered { bytes, rights }, 3 = Failed { error }, 4 = Abroad { errand }, 5 = Gone,
    }
    SubjectPacked { 1 = Time { left_ns }, 2 = Port { index }, 3 = Reply { index }, 4 = Abroad { errand, object } }
    Overflow { 1 = Wait, 2 = Drop }
}

structs! {
    Luggage {
        process, passed, kept, ports, pipes, calls, watches, table, waiters, watchers, exports, parent, children
    }
    Traveller { id, program, limits, weight, orphan, used_ns, calls_made, held, stirred }
    PortOptions { messages_max, bytes_max, overflow }
    PortPacked { id, options, dropped, queue, waiting }
    SenderPacked { errand, actor, bytes, badge, rights, sequence }
    PipePacked { id, bytes_max, pieces, writing }
    WriterPacked { errand, actor, rest, written }
    CallPacked { id, server, caller, moved }
    WatchPacked { id, token, port, subject }
    Visitor { errand, actor }
    Watcher { visitor, port }
    Left { number, item }
    Kept { index, bytes }
}

impl<T: Wire> Wire for Many<T> {
    fn put(&self, to: &mut Writer) {
        to.u32(self.0.len() as u32);
        self.0.iter().for_each(|one| one.put(to));
    }

    fn get(from: &mut Reader) -> Result<Many<T>, Malformed> {
        let length = from.u32()?;
        // Nothing takes no bytes, so a length that lies ends early.
        let mut all = Vec::new();
        for _ in 0..length {
            all.push(T::get(from)?);
        }
        Ok(Many(all))
    }
}

impl<T> Default for Many<T> {
    fn default() -> Many<T> {
        Many(Vec::new())
    }
}

impl<T> Many<T> {
    fn at(&self, index: u32) -> Option<&T> {
        self.0.get(index as usize)
    }
}

/// How often each thing that comes along is named, and by what.
struct Named {
    given: Vec<u32>,
    receivers: Vec<u32>,
    readers: Vec<u32>,
    replies: Vec<u32>,
    calls: Vec<u32>,
    watches: Vec<u32>,
}

/// Adds one, if it is there.
fn count(counts: &mut [u32], index: u32) -> Option<()> {
    *counts.get_mut(index as usize)? += 1;
    Some(())
}

fn holds(kind: Kind, rights: Rights) -> Option<()> {
    Rights::all_of(kind).contains(rights).then_some(())
}

impl Luggage {
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.put(&mut writer);
        writer.finish()
    }

    /// Only what a kernel could have sent.
    pub fn decode(bytes: &[u8]) -> Result<Box<Luggage>, Malformed> {
        let mut reader = Reader::new(bytes);
        let luggage = Luggage::get(&mut reader)?;
        let malformed = reader.malformed();
        reader.finish()?;
        luggage.check().map(|()| Box::new(luggage)).ok_or(malformed)
    }

    /// Every errand that it says is under way for somebody at the sender, each once.
    pub fn errands(&self) -> impl Iterator<Item = u64> {
        let letters = self.ports.0.iter().flat_map(|port| &port.queue.0).filter_map(|envelope| match envelope {
            EnvelopePacked::Letter { call: Some(Request::Abroad { errand, .. }), .. } => Some(*errand),
            _ => None,
        });
        let senders = self.ports.0.iter().flat_map(|port| &port.waiting.0).map(|sender| sender.errand);
        let writers = self.pipes.0.iter().flat_map(|pipe| &pipe.writing.0).map(|writer| writer.errand);
        let callers = self.calls.0.iter().filter_map(|call| match call.caller {
            CallerPacked::Abroad { errand } => Some(errand),
            _ => None,
        });
        let visitors = self.waiters.0.iter().chain(&self.parent).map(|visitor| visitor.errand);
        let watchers = self.watchers.0.iter().map(|watcher| watcher.visitor.errand);
        letters.chain(senders).chain(writers).chain(callers).chain(visitors).chain(watchers)
    }

    /// Every errand of the process that is under way at the sender, each once.
    pub fn adopted(&self) -> impl Iterator<Item = u64> {
        let calls = self.calls.0.iter().filter_map(|call| match call.server {
            ServerPacked::Away { errand } => Some(errand),
            _ => None,
        });
        let watches = self.watches.0.iter().filter_map(|watch| match watch.subject {
            SubjectPacked::Abroad { errand, .. } => Some(errand),
            _ => None,
        });
        calls.chain(watches).chain(self.children.0.iter().copied())
    }

    fn check(&self) -> Option<()> {
        let none = |length: usize| vec![0; length];
        let mut named = Named {
            given: none(self.passed.0.len()),
            receivers: none(self.ports.0.len()),
            readers: none(self.pipes.0.len()),
            replies: none(self.calls.0.len()),
            calls: none(self.calls.0.len()),
            watches: none(self.watches.0.len()),
        };
        let weight = self.process.weight;
        ((1..=WEIGHT_MAX).contains(&weight)).then_some(())?;
        self.check_table(&mut named)?;
        self.ports.0.iter().enumerate().try_for_each(|(at, port)| self.check_port(at as u32, port, &mut named))?;
        self.pipes.0.iter().try_for_each(|pipe| self.check_pipe(pipe))?;
        self.calls.0.iter().try_for_each(|call| self.check_call(call, &mut named))?;
        self.watches.0.iter().try_for_each(|watch| self.check_watch(watch))?;
        self.check_left()?;
        // Whatever can be named is named as often as it exists.
        let once = |counts: &[u32]| counts.iter().all(|count| *count == 1);
        (once(&named.given)
            && named.receivers.iter().all(|count| *count > 0)
            && named.readers.iter().all(|count| *count > 0)
            && named.watches.iter().all(|count| *count <= 1))
        .then_some(())?;
        for (index, call) in self.calls.0.iter().enumerate() {
            let answered = u32::from(call.server == ServerPacked::Taken);
            let collected = u32::from(!matches!(call.caller, CallerPacked::Abroad { .. } | CallerPacked::Gone));
            (named.replies[index] == answered && named.calls[index] == collected).then_some(())?;
        }
        let mut errands = BTreeSet::new();
        let mut is_new =
            |errand: u64, adopted: bool| errand != 0 && adopted == (errand >= ADOPTED_MIN) && errands.insert(errand);
        (self.errands().all(|errand| is_new(errand, false)) && self.adopted().all(|errand| is_new(errand, true)))
            .then_some(())
    }

    fn check_table(&self, named: &mut Named) -> Option<()> {
        let mut used = 0;
        (self.table.0.len() < usize::from(u16::MAX)).then_some(())?;
        for slot in &self.table.0 {
            let (Slot::Free { generation } | Slot::Left { generation } | Slot::Used { generation, .. }) = slot;
            (*generation <= u32::from(u16::MAX)).then_some(())?;
            used += u32::from(!matches!(slot, Slot::Free { .. }));
            let Slot::Used { item, .. } = slot else { continue };
            match item {
                Item::Call { index, rights } => {
                    holds(Kind::Call, *rights)?;
                    count(&mut named.calls, *index)?;
                }
                Item::Watch { index, rights } => {
                    holds(Kind::Watch, *rights)?;
                    count(&mut named.watches, *index)?;
                }
                Item::Spent { rights } => holds(Kind::Watch, *rights)?,
                item => self.check_item(item, named)?,
            }
        }
        (used <= self.process.limits.handles_max).then_some(())
    }

    /// A right that can also lie in a message.
    fn check_item(&self, item: &Item, named: &mut Named) -> Option<()> {
        match item {
            Item::Given { index } => count(&mut named.given, *index),
            Item::Itself { rights } => holds(Kind::Process, *rights),
            Item::Port { index, rights, .. } => {
                self.ports.at(*index)?;
                if rights.contains(Rights::RECEIVE) {
                    count(&mut named.receivers, *index)?;
                }
                holds(Kind::Port, *rights)
            }
            Item::Closed { rights, .. } => holds(Kind::Port, *rights),
            Item::Pipe { index, rights } => {
                self.pipes.at(*index)?;
                if rights.contains(Rights::READ) {
                    count(&mut named.readers, *index)?;
                }
                holds(Kind::Pipe, *rights)
            }
            Item::Reply { index, rights } => {
                count(&mut named.replies, *index)?;
                holds(Kind::Reply, *rights)
            }
            Item::Call { .. } | Item::Watch { .. } | Item::Spent { .. } => None,
        }
    }

    fn check_items(&self, items: &Many<Item>, named: &mut Named) -> Option<()> {
        (items.0.len() <= MESSAGE_HANDLES_MAX).then_some(())?;
        items.0.iter().try_for_each(|item| self.check_item(item, named))
    }

    fn check_port(&self, at: u32, port: &PortPacked, named: &mut Named) -> Option<()> {
        let PortOptions { messages_max, bytes_max, .. } = port.options;
        (messages_max <= PORT_MESSAGES_MAX && (1..=PORT_BYTES_MAX).contains(&bytes_max)).then_some(())?;
        let longest = MESSAGE_BYTES_MAX.min(bytes_max as usize);
        let (mut letters, mut bytes_all, mut notices) = (0, 0, 0);
        for envelope in &port.queue.0 {
            match envelope {
                EnvelopePacked::Letter { bytes, sender, rights, call, .. } => {
                    (bytes.len() <= longest).then_some(())?;
                    (letters, bytes_all) = (letters + 1, bytes_all + bytes.len());
                    self.check_items(rights, named)?;
                    if let Some(Request::Own { index }) = call {
                        let call = self.calls.at(*index)?;
                        (call.server == ServerPacked::Queued { port: at } && *sender == self.process.id)
                            .then_some(())?;
                    }
                }
                EnvelopePacked::Notice { event, .. } => {
                    (!matches!(event, NoticeEvent::Journal(_))).then_some(())?;
                    notices += 1;
                }
            }
        }
        (letters <= messages_max && bytes_all <= bytes_max as usize).then_some(())?;
        if let Some(first) = port.waiting.0.first() {
            (letters == messages_max || bytes_all + first.bytes.len() > bytes_max as usize).then_some(())?;
        }
        for sender in &port.waiting.0 {
            (sender.bytes.len() <= longest).then_some(())?;
            self.check_items(&sender.rights, named)?;
        }
        notices += self.watches.0.iter().filter(|watch| watch.port == at).count();
        (notices <= PORT_NOTICES_MAX as usize).then_some(())
    }

    fn check_pipe(&self, pipe: &PipePacked) -> Option<()> {
        let bytes: usize = pipe.pieces.0.iter().map(|piece| piece.len()).sum();
        let full = bytes == pipe.bytes_max as usize;
        ((1..=PIPE_BYTES_MAX).contains(&pipe.bytes_max)
            && pipe.pieces.0.iter().all(|piece| !piece.is_empty())
            && bytes <= pipe.bytes_max as usize
            && (full || pipe.writing.0.is_empty())
            && pipe.writing.0.iter().all(|writer| {
                !writer.rest.is_empty() && writer.rest.len() + writer.written as usize <= MESSAGE_BYTES_MAX
            }))
        .then_some(())
    }

    fn check_call(&self, call: &CallPacked, named: &mut Named) -> Option<()> {
        use CallerPacked::{Abroad, Answered, Begun, Failed, Gone};
        let own = matches!(call.caller, Begun { .. } | Answered { .. } | Failed { .. });
        (own == (call.id.caller == self.process.id) || !own).then_some(())?;
        let fits = match call.server {
            ServerPacked::Queued { port } => {
                let queue = self.ports.at(port)?.queue.0.iter();
                let index = self.calls.0.iter().position(|other| core::ptr::eq(other, call))? as u32;
                let is_it = |envelope: &&EnvelopePacked| match envelope {
                    EnvelopePacked::Letter { call: Some(Request::Own { index: other }), .. } => *other == index,
                    _ => false,
                };
                matches!(call.caller, Begun { .. }) && queue.filter(is_it).count() == 1
            }
            ServerPacked::Taken => true,
            ServerPacked::Away { .. } => matches!(call.caller, Begun { .. }),
            ServerPacked::Done => matches!(call.caller, Answered { .. } | Failed { .. }),
        };
        let moves = call.moved.0.is_empty() || matches!(call.server, ServerPacked::Away { .. });
        (fits && moves).then_some(())?;
        match &call.caller {
            Answered { bytes, rights } => {
                (bytes.len() <= MESSAGE_BYTES_MAX).then_some(())?;
                self.check_items(rights, named)
            }
            Failed { error } => (!matches!(error, CallError::Detached { .. })).then_some(()),
            Begun { .. } | Abroad { .. } | Gone => Some(()),
        }
    }

    fn check_watch(&self, watch: &WatchPacked) -> Option<()> {
        self.ports.at(watch.port)?;
        match &watch.subject {
            SubjectPacked::Time { .. } => Some(()),
            SubjectPacked::Port { index } => self.ports.at(*index).map(|_| ()),
            SubjectPacked::Reply { index } => {
                let call = self.calls.at(*index)?;
                let others = self.watches.0.iter().filter(|other| other.subject == watch.subject).count();
                let waits = matches!(call.caller, CallerPacked::Begun { .. } | CallerPacked::Abroad { .. });
                (others == 1 && waits && call.server == ServerPacked::Taken).then_some(())
            }
            SubjectPacked::Abroad { object, .. } => {
                matches!(object, ObjectId::Process(_) | ObjectId::Port(_)).then_some(())
            }
        }
    }

    /// What the sender keeps, and what stands beside rights.
    fn check_left(&self) -> Option<()> {
        let stays = Rights::RECEIVE.with(Rights::BADGE);
        let mut numbers = BTreeSet::new();
        for Left { number, item } in &self.exports.0 {
            (number % 2 == 1 && numbers.insert(*number)).then_some(())?;
            match item {
                Item::Itself { rights } => holds(Kind::Process, *rights)?,
                Item::Port { index, rights, .. } => {
                    self.ports.at(*index)?;
                    rights.both(stays).is_empty().then_some(())?;
                    holds(Kind::Port, *rights)?;
                }
                Item::Pipe { index, rights } => {
                    self.pipes.at(*index)?;
                    holds(Kind::Pipe, *rights)?;
                    (!rights.contains(Rights::READ)).then_some(())?;
                }
                _ => return None,
            }
        }
        for watcher in &self.watchers.0 {
            if let Some(port) = watcher.port {
                self.ports.at(port)?;
            }
        }
        let mut indices = BTreeSet::new();
        for Kept { index, bytes } in &self.kept.0 {
            let passed = self.passed.at(*index)?;
            let pipe = matches!(passed.object, ObjectId::Pipe(_));
            (pipe && indices.insert(*index) && !bytes.is_empty() && bytes.len() <= MESSAGE_BYTES_MAX).then_some(())?;
        }
        Some(())
    }
}
