//! What the functions of the import module `una` remember between two calls of a program, and how it is kept in an image. Knows no
//! memory and no kernel.
//!
//! The one idea: a program sees each call whole. What came and did not fit into its buffer waits here for a larger one; what a call had
//! done when its process was stopped waits here for the call to be issued again.

use crate::found::Afoot;
use abi::encoding::{Malformed, Reader, Writer};
use abi::ids::{CallId, HandleId, ProcessId};
use abi::message::{Answer, Answerable, Badge, Bytes, Delivery, MESSAGE_HANDLES_MAX, Notice, NoticeEvent, Received};
use abi::process::{Exit, Fault, StartFailure};
use std::collections::BTreeMap;

/// The most messages that are kept because they did not fit.
pub(crate) const MESSAGES_MAX: usize = 64;

/// The most ports that are remembered by names that last. More are ports as any.
pub(crate) const FOUND_MAX: usize = 4096;

const FORM: u8 = 2;

/// A port that was found by a name that lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub path: String,
    /// Where it leads, if that is known.
    pub now: Option<HandleId>,
    pub tide: Option<u64>,
}

#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Messages that did not fit, by the port that they came from.
    pub messages: BTreeMap<u32, Received>,
    pub answer: Option<Answer>,
    /// The program waits for the answer to this call, which a server had when the process was stopped.
    pub call: Option<HandleId>,
    /// So many bytes of a write to a pipe were in it when the process was stopped.
    pub written: u32,
    /// By the numbers under which the program knows them.
    pub found: BTreeMap<u32, Found>,
    /// How far a call of one of those was when the process was stopped.
    pub afoot: Option<Afoot>,
}

impl Kept {
    /// Nothing, if there is nothing to keep.
    pub fn save(&self) -> Option<Vec<u8>> {
        if *self == Kept::default() {
            return None;
        }
        let mut to = Writer::default();
        to.u8(FORM).u32(self.written).u32(self.call.unwrap_or(HandleId::NONE).0);
        match &self.answer {
            None => {
                to.u8(0);
            }
            Some(answer) => {
                to.u8(1).bytes(&answer.bytes);
                put_handles(&mut to, &answer.handles);
            }
        }
        to.u32(self.messages.len() as u32);
        for (port, received) in &self.messages {
            put_received(to.u32(*port), received);
        }
        to.u32(self.found.len() as u32);
        for (handle, Found { path, now, tide }) in &self.found {
            to.u32(*handle).bytes(path.as_bytes()).u32(now.unwrap_or(HandleId::NONE).0);
            put_number(&mut to, *tide);
        }
        match &self.afoot {
            None => {
                to.u8(0);
            }
            Some(Afoot { sequence, call, port, tide }) => {
                put_number(to.u8(1), *sequence);
                put_number(&mut to, *tide);
                to.u32(call.unwrap_or(HandleId::NONE).0).u32(port.unwrap_or(HandleId::NONE).0);
            }
        }
        Some(to.finish())
    }

    pub fn restore(bytes: &[u8]) -> Result<Kept, Malformed> {
        let mut from = Reader::new(bytes);
        if from.u8()? != FORM {
            return Err(from.malformed());
        }
        let written = from.u32()?;
        let call = get_handle(&mut from)?;
        let answer = match from.u8()? {
            0 => None,
            1 => Some(Answer { bytes: Bytes::new(from.bytes()?), handles: get_handles(&mut from)? }),
            _ => return Err(from.malformed()),
        };
        let count = from.u32()?;
        if count as usize > MESSAGES_MAX {
            return Err(from.malformed());
        }
        let mut messages = BTreeMap::new();
        for _ in 0..count {
            messages.insert(from.u32()?, get_received(&mut from)?);
        }
        if messages.len() != count as usize {
            return Err(from.malformed());
        }
        let count = from.u32()?;
        if count as usize > FOUND_MAX {
            return Err(from.malformed());
        }
        let mut found = BTreeMap::new();
        for _ in 0..count {
            let (handle, path) = (from.u32()?, from.string()?);
            found.insert(handle, Found { path, now: get_handle(&mut from)?, tide: get_number(&mut from)? });
        }
        let afoot = match from.u8()? {
            0 => None,
            1 => {
                let (sequence, tide) = (get_number(&mut from)?, get_number(&mut from)?);
                Some(Afoot { sequence, tide, call: get_handle(&mut from)?, port: get_handle(&mut from)? })
            }
            _ => return Err(from.malformed()),
        };
        from.finish()?;
        Ok(Kept { messages, answer, call, written, found, afoot })
    }
}

fn put_number(to: &mut Writer, number: Option<u64>) {
    match number {
        None => to.u8(0),
        Some(number) => to.u8(1).u64(number),
    };
}

fn get_number(from: &mut Reader) -> Result<Option<u64>, Malformed> {
    match from.u8()? {
        0 => Ok(None),
        1 => from.u64().map(Some),
        _ => Err(from.malformed()),
    }
}

fn get_handle(from: &mut Reader) -> Result<Option<HandleId>, Malformed> {
    Ok(Some(HandleId(from.u32()?)).filter(|handle| *handle != HandleId::NONE))
}

fn put_handles(to: &mut Writer, handles: &[HandleId]) {
    to.u32(handles.len() as u32);
    for handle in handles {
        to.u32(handle.0);
    }
}

fn get_handles(from: &mut Reader) -> Result<Box<[HandleId]>, Malformed> {
    let count = from.u32()? as usize;
    if count > MESSAGE_HANDLES_MAX {
        return Err(from.malformed());
    }
    (0..count).map(|_| Ok(HandleId(from.u32()?))).collect()
}

fn put_received(to: &mut Writer, received: &Received) {
    match received {
        Received::Message(Delivery { bytes, handles, sender, badge, call }) => {
            to.u8(1).bytes(bytes).u64(sender.to_bits()).u64(badge.0);
            put_handles(to, handles);
            match call {
                None => to.u8(0),
                Some(Answerable { id, reply }) => to.u8(1).u64(id.caller.to_bits()).u64(id.sequence).u32(reply.0),
            };
        }
        Received::Notice(Notice { token, event }) => {
            to.u8(2).u64(*token);
            match event {
                NoticeEvent::Exited { process, exit } => {
                    let (kind, code) = exit_to_numbers(*exit);
                    to.u8(1).u64(process.to_bits()).u8(kind).u32(code)
                }
                NoticeEvent::PortClosed => to.u8(2),
                NoticeEvent::CallerGone(id) => to.u8(3).u64(id.caller.to_bits()).u64(id.sequence),
                NoticeEvent::Timer => to.u8(4),
                NoticeEvent::Journal(_) => unreachable!("programs have no devices"),
            };
        }
    }
}

fn get_received(from: &mut Reader) -> Result<Received, Malformed> {
    match from.u8()? {
        1 => {
            let bytes = Bytes::new(from.bytes()?);
            let (sender, badge) = (ProcessId::from_bits(from.u64()?), Badge(from.u64()?));
            let handles = get_handles(from)?;
            let call = match from.u8()? {
                0 => None,
                1 => Some(Answerable { id: get_call(from)?, reply: HandleId(from.u32()?) }),
                _ => return Err(from.malformed()),
            };
            Ok(Received::Message(Delivery { bytes, handles, sender, badge, call }))
        }
        2 => {
            let token = from.u64()?;
            let event = match from.u8()? {
                1 => {
                    let process = ProcessId::from_bits(from.u64()?);
                    let (kind, code) = (from.u8()?, from.u32()?);
                    let exit = exit_of_numbers(kind, code).ok_or(from.malformed())?;
                    NoticeEvent::Exited { process, exit }
                }
                2 => NoticeEvent::PortClosed,
                3 => NoticeEvent::CallerGone(get_call(from)?),
                4 => NoticeEvent::Timer,
                _ => return Err(from.malformed()),
            };
            Ok(Received::Notice(Notice { token, event }))
        }
        _ => Err(from.malformed()),
    }
}

fn get_call(from: &mut Reader) -> Result<CallId, Malformed> {
    Ok(CallId { caller: ProcessId::from_bits(from.u64()?), sequence: from.u64()? })
}

const FAULTS: [Fault; 5] =
    [Fault::Trap, Fault::OutOfMemory, Fault::MalformedCall, Fault::MovedTwice, Fault::MalformedSelect];
const FAILURES: [StartFailure; 3] = [StartFailure::UnknownProgram, StartFailure::Unloadable, StartFailure::OutOfMemory];

fn exit_to_numbers(exit: Exit) -> (u8, u32) {
    let place = |found: Option<usize>| found.expect("all of them are in the list") as u32;
    match exit {
        Exit::Code(code) => (0, code),
        Exit::Killed => (1, 0),
        Exit::Orphaned => (2, 0),
        Exit::Faulted(fault) => (3, place(FAULTS.iter().position(|one| *one == fault))),
        Exit::NotStarted(failure) => (4, place(FAILURES.iter().position(|one| *one == failure))),
        Exit::NodeLost => (5, 0),
    }
}

fn exit_of_numbers(kind: u8, code: u32) -> Option<Exit> {
    match (kind, code) {
        (0, code) => Some(Exit::Code(code)),
        (1, 0) => Some(Exit::Killed),
        (2, 0) => Some(Exit::Orphaned),
        (3, place) => FAULTS.get(place as usize).map(|fault| Exit::Faulted(*fault)),
        (4, place) => FAILURES.get(place as usize).map(|failure| Exit::NotStarted(*failure)),
        (5, 0) => Some(Exit::NodeLost),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::ids::NodeId;

    fn everything() -> Kept {
        let process = ProcessId::new(NodeId(2), 9);
        let message = |call| {
            Received::Message(Delivery {
                bytes: Bytes::new(b"hello"),
                handles: Box::new([HandleId(4), HandleId(5)]),
                sender: process,
                badge: Badge(7),
                call,
            })
        };
        let notice = |event| Received::Notice(Notice { token: 3, event });
        let call = CallId { caller: process, sequence: 12 };
        let exit = Exit::Faulted(Fault::MovedTwice);
        Kept {
            messages: BTreeMap::from([
                (1, message(None)),
                (2, message(Some(Answerable { id: call, reply: HandleId(8) }))),
                (3, notice(NoticeEvent::Exited { process, exit })),
                (4, notice(NoticeEvent::PortClosed)),
                (5, notice(NoticeEvent::CallerGone(call))),
                (6, notice(NoticeEvent::Timer)),
            ]),
            answer: Some(Answer { bytes: Bytes::new(b"x"), handles: Box::new([HandleId(6)]) }),
            call: Some(HandleId(11)),
            written: 100,
            found: BTreeMap::from([
                (7, Found { path: "/port/a".into(), now: Some(HandleId(9)), tide: Some(5) }),
                (8, Found { path: "/port/b".into(), now: None, tide: None }),
            ]),
            afoot: Some(Afoot { sequence: Some(4), call: Some(HandleId(12)), port: None, tide: Some(5) }),
        }
    }

    #[test]
    fn what_is_kept_is_restored_and_nothing_else_is_believed() {
        assert_eq!(Kept::default().save(), None);
        let bytes = everything().save().expect("there is something");
        assert_eq!(Kept::restore(&bytes), Ok(everything()));
        for end in 0..bytes.len() {
            assert!(Kept::restore(&bytes[..end]).is_err(), "cut at {end} it was believed");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Kept::restore(&longer).is_err());
        for place in 0..bytes.len() {
            // Whatever it says then, it must not panic.
            let mut flipped = bytes.clone();
            flipped[place] ^= 0xff;
            let _ = Kept::restore(&flipped);
        }
    }
}
