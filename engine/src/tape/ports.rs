//! The ports of a durable process, by its tape: what it receives is told again, and what it does to others is done once. Knows the kernel's
//! calls; a [`Harbour`] keeps the ports themselves, on whichever node the process lives.
//!
//! The one idea: what the process holds are numbers of a table of its own, which comes out the same when it is told all again, and each
//! says what it stands for by something that lasts: a port by its options and its names, the right to answer by the call's number, a way to
//! somebody else by the name under which it was found. So the table is a part of the process's state, and nothing of the kernel's is.
//!
//! ```text
//!   create, close, answer     come out of the table alone; the harbour hears of them, and sends an answer when what led to it is safe
//!   receive                   a question: message, sender, number of the call
//!   bind, unbind, call, send  effects: done when all that led to them is safe, and their outcome is an answer
//! ```
//! Who calls asks again, under the same number, when the node of this process was lost. So of each caller its last call is known: that
//! it was received, and what it was answered. A call of this process has a number of its own, which is on the tape before it is made: the
//! next incarnation makes it again under that, if it is to somebody who remembers too.

use super::{Next, Tag, Tape};
use crate::fiber::{SystemCalls, ask};
use crate::found::{self, Afoot, Came, LookedUp, NAMES};
use abi::call::{
    CallError, CreateError, Description, HandleError, Outcome, PortOptions, PortStatus, Reached, ReceiveError,
    ReplyError, SELECT_PORTS_MAX, SendError, SendMode, SystemCall, Wait, WatchError,
};
use abi::encoding::{Malformed, Reader, Writer};
use abi::ids::{CallId, HandleId, NodeId, ObjectId, PortId, ProcessId, Time, WatchId};
use abi::interface::names;
use abi::limits::Limit;
use abi::message::{
    Answer, Answerable, Badge, Bytes, Delivery, MESSAGE_BYTES_MAX, Message, Notice, NoticeEvent, Notify, Received,
};
use abi::rights::Rights;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Ports and timers, names looked up and calls to be answered that one process may have; ports alone: as many as may be waited for at once.
const HELD_MAX: usize = 8192;
const PORTS_MAX: usize = SELECT_PORTS_MAX;
/// What a port may have is as with the kernel.
const PORT_MESSAGES_MAX: u32 = 1 << 16;
const PORT_BYTES_MAX: u32 = 16 << 20;
/// Callers whose last call is known. Then the one that was born first is forgotten.
const CALLERS_MAX: usize = 1 << 16;
/// What is kept of answers, in case that they are asked for again. Then those to the callers that were born first are forgotten: who asks
/// for one of them again is told that it was abandoned.
const ANSWER_BYTES_MAX: usize = 16 << 20;
const FORM: u8 = 1;

/// What keeps a durable process's ports on the node where it lives. All comes back at once, and happens when it can.
pub trait Harbour: Send + Sync {
    /// From now on others may come. Called once, before anything else, when the process has been told again all that it was told.
    fn open(&self, berths: Vec<Berth>, known: Vec<(ProcessId, Known)>);

    fn create(&self, port: u32, options: PortOptions);

    /// With it its names are free.
    fn close(&self, port: u32);

    /// The first message of the first of these ports that has one. If none has, the process is roused when one comes.
    fn take(&self, ports: &[u32]) -> Option<(usize, Arrival)>;

    fn status(&self, port: u32) -> PortStatus;

    /// A call has its answer, or will have none. The caller is told when the tape is safe up to there.
    fn answer(&self, call: CallId, answer: Option<Bytes>, at: u64);

    /// Nothing needs to be known of this caller any more, or nothing but that it was answered.
    fn forget(&self, caller: ProcessId, known: Option<Known>);

    /// Binds a name, or makes it free, as soon as it can; the process is roused then. Asked again, it is done once more.
    fn name(&self, path: &str, bind: Option<(u32, names::Existing)>);

    /// What came of it, said once.
    fn named(&self, path: &str) -> Option<Result<(), names::Failure>>;
}

/// One port, with its names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Berth {
    pub port: u32,
    pub options: PortOptions,
    pub names: Vec<String>,
}

/// What came to a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrival {
    pub bytes: Bytes,
    pub sender: ProcessId,
    /// It is a call.
    pub call: Option<CallId>,
    /// What calls wants no answer, but to know that it is safe.
    pub is_sent: bool,
}

/// What is known of a caller: its last call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    pub sequence: u64,
    pub standing: Standing,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The process has it, and has not answered yet.
    Taken,
    Answered(Bytes),
    /// There is no answer, or it is not known any more.
    Abandoned,
}

/// What a number of the process stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Held {
    Port {
        options: PortOptions,
        names: Vec<String>,
    },
    /// A way to the port of this name, wherever that is.
    Found {
        path: String,
    },
    /// The right to answer this call.
    Answer {
        call: CallId,
    },
    /// By the clock of the node where it lives; nothing if it has come.
    Timer {
        port: u32,
        token: u64,
        at: Option<Time>,
    },
}

/// A call that has its number and not yet its outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Errand {
    sequence: u64,
    /// Whoever it is to remembers it.
    lasts: bool,
}

/// Invariant: all of this comes out of what the process was told.
struct Table {
    /// The next number. None is used twice.
    next: u32,
    held: BTreeMap<u32, Held>,
    known: BTreeMap<ProcessId, Known>,
    /// Of all answers in `known`.
    answer_bytes: usize,
    errand: Option<Errand>,
}

/// The ports of one process.
pub struct Ports {
    tape: Tape,
    harbour: Arc<dyn Harbour>,
    table: Table,
    is_open: bool,
    /// How far the errand is, in this life.
    afoot: Option<Afoot>,
}

/// Why a call or a send failed, as it is on the tape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Ended {
    Closed = 1,
    TooLong,
    Full,
    Expired,
    ExpiredTaken,
    Abandoned,
    Unreachable,
    Limit,
}

impl Ended {
    const ALL: [Ended; 8] = [
        Ended::Closed,
        Ended::TooLong,
        Ended::Full,
        Ended::Expired,
        Ended::ExpiredTaken,
        Ended::Abandoned,
        Ended::Unreachable,
        Ended::Limit,
    ];

    fn of(error: CallError) -> Ended {
        match error {
            CallError::Handle(HandleError::Unreachable) => Ended::Unreachable,
            CallError::Handle(_) | CallError::PortClosed | CallError::Transfer(_) | CallError::NeverCalled => {
                Ended::Closed
            }
            CallError::TooLong => Ended::TooLong,
            CallError::Full => Ended::Full,
            CallError::Expired(Reached::Nobody) => Ended::Expired,
            CallError::Expired(Reached::Server { .. }) => Ended::ExpiredTaken,
            CallError::Abandoned { .. } | CallError::Interrupted(_) | CallError::Detached { .. } => Ended::Abandoned,
            CallError::Limit(_) => Ended::Limit,
        }
    }

    fn of_send(error: SendError) -> Ended {
        match error {
            SendError::Handle(HandleError::Unreachable) => Ended::Unreachable,
            SendError::Handle(_) | SendError::Transfer(_) | SendError::PortClosed => Ended::Closed,
            SendError::TooLong => Ended::TooLong,
            SendError::Full => Ended::Full,
            SendError::Expired => Ended::Expired,
            SendError::Unknown | SendError::Interrupted => Ended::Abandoned,
        }
    }

    fn of_name(failure: names::Failure) -> Ended {
        match failure {
            names::Failure::Undecided | names::Failure::Unreachable => Ended::Unreachable,
            names::Failure::Busy | names::Failure::Full => Ended::Full,
            _ => Ended::Closed,
        }
    }

    fn as_call(self, sequence: u64) -> CallError {
        match self {
            Ended::Closed => CallError::PortClosed,
            Ended::TooLong => CallError::TooLong,
            Ended::Full => CallError::Full,
            Ended::Expired => CallError::Expired(Reached::Nobody),
            Ended::ExpiredTaken => CallError::Expired(Reached::Server { sequence }),
            Ended::Abandoned => CallError::Abandoned { sequence },
            Ended::Unreachable => CallError::Handle(HandleError::Unreachable),
            Ended::Limit => CallError::Limit(Limit::Handles),
        }
    }

    fn as_send(self) -> SendError {
        match self {
            Ended::Closed => SendError::PortClosed,
            Ended::TooLong => SendError::TooLong,
            Ended::Full | Ended::Limit => SendError::Full,
            Ended::Expired => SendError::Expired,
            Ended::ExpiredTaken | Ended::Abandoned => SendError::Unknown,
            Ended::Unreachable => SendError::Handle(HandleError::Unreachable),
        }
    }

    fn read(from: &mut Reader) -> Result<Ended, Malformed> {
        let number = from.u8()?;
        Ended::ALL.into_iter().find(|one| *one as u8 == number).ok_or(from.malformed())
    }
}

/// What is asked of somebody else.
struct Wish {
    path: String,
    bytes: Bytes,
    kind: WishKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WishKind {
    Call {
        at: Option<Time>,
    },
    Send {
        wait: Wait,
    },
    /// Where there is no room it is lost.
    Lose,
}

/// What came of a wish.
enum Fulfilled {
    Answered(Bytes),
    Ended {
        sequence: u64,
        ended: Ended,
    },
    /// The process is to stop, or to ask again.
    PutOff,
    /// It is not the process that the tape is of.
    Void,
}

/// What the process hears that is not the tape's.
const VOID: Outcome = Outcome::Yielded;

impl Ports {
    pub fn new(tape: &Tape, harbour: Arc<dyn Harbour>) -> Ports {
        let table =
            Table { next: NAMES.0 + 1, held: BTreeMap::new(), known: BTreeMap::new(), answer_bytes: 0, errand: None };
        Ports { tape: tape.clone(), harbour, table, is_open: false, afoot: None }
    }

    /// Is this something that a durable process cannot do? What would have to be watched, or to come to life again, on other nodes.
    pub(crate) fn refuses(call: &SystemCall) -> bool {
        match call {
            SystemCall::Call { port: NAMES, .. } => false,
            SystemCall::Send { message, .. } | SystemCall::Call { message, .. } | SystemCall::Reply { message, .. } => {
                !message.handles.is_empty()
            }
            SystemCall::CreatePort(_)
            | SystemCall::PortStatus { .. }
            | SystemCall::Receive { .. }
            | SystemCall::Select { .. }
            | SystemCall::Close { .. }
            | SystemCall::Describe { .. }
            | SystemCall::SetTimer { .. }
            | SystemCall::Sleep { .. } => false,
            _ => true,
        }
    }

    /// A system call of the process. What it waits for elsewhere it waits for as it ever does.
    pub(crate) async fn call(&mut self, kernel: &mut dyn SystemCalls, call: SystemCall) -> Outcome {
        match call {
            SystemCall::CreatePort(options) => Outcome::PortCreated(self.create(options)),
            SystemCall::Close { handle } => Outcome::Closed(self.close(handle)),
            SystemCall::Reply { reply, message } => Outcome::Replied(self.reply(reply, message.bytes)),
            SystemCall::Describe { handle } => Outcome::Described(self.describe(handle)),
            SystemCall::SetTimer { at, notify } => Outcome::TimerSet(self.set_timer(at, notify)),
            SystemCall::PortStatus { port } => self.status(port),
            SystemCall::Receive { port, wait } => match self.receive(kernel, &[port], wait).await {
                Some(received) => Outcome::Received(received.map(|(_, received)| received)),
                None => VOID,
            },
            SystemCall::Select { ports, wait } => match self.receive(kernel, &ports, wait).await {
                Some(received) => Outcome::Selected(received),
                None => VOID,
            },
            SystemCall::Call { port: NAMES, message, .. } => self.names(kernel, message).await,
            SystemCall::Call { port, message, deadline } => {
                let path = match self.way(port) {
                    Ok(path) => path,
                    Err(error) => return Outcome::Called(Err(CallError::Handle(error))),
                };
                let wish = Wish { path, bytes: message.bytes, kind: WishKind::Call { at: deadline.at } };
                Outcome::Called(match self.fulfil(kernel, &wish).await {
                    Fulfilled::Answered(bytes) => Ok(Answer { bytes, handles: Box::default() }),
                    Fulfilled::Ended { sequence, ended } => Err(ended.as_call(sequence)),
                    Fulfilled::PutOff => Err(CallError::Interrupted(Reached::Nobody)),
                    Fulfilled::Void => return VOID,
                })
            }
            SystemCall::Send { port, message, mode } => {
                let path = match self.way(port) {
                    Ok(path) => path,
                    Err(error) => return Outcome::Sent(Err(SendError::Handle(error))),
                };
                let kind = match mode {
                    SendMode::Reliable(wait) => WishKind::Send { wait },
                    SendMode::Unreliable => WishKind::Lose,
                };
                Outcome::Sent(match self.fulfil(kernel, &Wish { path, bytes: message.bytes, kind }).await {
                    Fulfilled::Answered(_) => Ok(()),
                    Fulfilled::Ended { ended, .. } => Err(ended.as_send()),
                    Fulfilled::PutOff => Err(SendError::Interrupted),
                    Fulfilled::Void => return VOID,
                })
            }
            SystemCall::Sleep { .. } => ask(kernel, call).await,
            _ => VOID,
        }
    }

    fn next(&mut self, tag: Tag) -> Next {
        let next = self.tape.next(tag);
        if matches!(next, Next::Ask) && !self.is_open {
            self.is_open = true;
            let berths = self.table.held.iter().filter_map(|(port, held)| match held {
                Held::Port { options, names } => Some(Berth { port: *port, options: *options, names: names.clone() }),
                _ => None,
            });
            let known = self.table.known.iter().map(|(caller, known)| (*caller, known.clone()));
            self.harbour.open(berths.collect(), known.collect());
        }
        next
    }

    fn add(&self, tag: Tag, record: Vec<u8>) {
        self.tape.add(&[&[tag as u8], &record[..]].concat());
    }

    fn put_off(&self) {
        self.add(Tag::PutOff, vec![]);
    }

    fn differ(&self, tag: Tag) {
        self.tape.state().differ(format!("the answer to {tag:?} is not of its form"));
    }

    /// What a record says, if it is of its form.
    fn read<T>(&self, tag: Tag, record: &[u8], read: impl FnOnce(&mut Reader) -> Result<T, Malformed>) -> Option<T> {
        let mut from = Reader::new(record);
        let value = read(&mut from).and_then(|value| from.finish().map(|()| value));
        value.inspect_err(|_| self.differ(tag)).ok()
    }
}

/// What comes out of the table alone.
impl Ports {
    fn create(&mut self, options: PortOptions) -> Result<HandleId, CreateError> {
        if options.messages_max > PORT_MESSAGES_MAX || !(1..=PORT_BYTES_MAX).contains(&options.bytes_max) {
            return Err(CreateError::Options);
        }
        let ports = self.table.held.values().filter(|held| matches!(held, Held::Port { .. })).count();
        if ports >= PORTS_MAX {
            return Err(CreateError::Limit(Limit::Ports));
        }
        let held = Held::Port { options, names: vec![] };
        let port = self.table.add(held).ok_or(CreateError::Limit(Limit::Handles))?;
        if self.is_open {
            self.harbour.create(port.0, options);
        }
        Ok(port)
    }

    fn close(&mut self, handle: HandleId) -> Result<(), HandleError> {
        match self.table.held.remove(&handle.0).ok_or(HandleError::Bad)? {
            Held::Port { .. } => {
                self.table.held.retain(|_, held| !matches!(held, Held::Timer { port, .. } if *port == handle.0));
                if self.is_open {
                    self.harbour.close(handle.0);
                }
            }
            Held::Answer { call } => self.settle_call(call, None),
            Held::Found { .. } | Held::Timer { .. } => {}
        }
        Ok(())
    }

    /// Nobody is asked whether the caller still waits: an answer goes when it is safe, and the process does not wait for that.
    fn reply(&mut self, reply: HandleId, bytes: Bytes) -> Result<(), ReplyError> {
        let call = match self.table.held.get(&reply.0) {
            Some(Held::Answer { call }) => *call,
            Some(_) => return Err(ReplyError::Handle(HandleError::WrongKind)),
            None => return Err(ReplyError::Handle(HandleError::Bad)),
        };
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(ReplyError::TooLong);
        }
        self.table.held.remove(&reply.0);
        self.settle_call(call, Some(bytes));
        Ok(())
    }

    fn settle_call(&mut self, call: CallId, answer: Option<Bytes>) {
        let standing = answer.clone().map_or(Standing::Abandoned, Standing::Answered);
        self.table.know(call, standing);
        if self.is_open {
            self.harbour.answer(call, answer, self.tape.end());
        }
        self.table.forget_most(call.caller, &mut |caller, known| {
            if self.is_open {
                self.harbour.forget(caller, known);
            }
        });
    }

    fn describe(&self, handle: HandleId) -> Result<Description, HandleError> {
        let number = |serial: u32| PortId::new(NodeId(0), u64::from(serial));
        let (object, rights) = match self.table.held.get(&handle.0).ok_or(HandleError::Bad)? {
            Held::Port { .. } => (ObjectId::Port(number(handle.0)), Rights::RECEIVE),
            Held::Found { .. } => (ObjectId::Port(number(handle.0)), Rights::SEND),
            Held::Answer { call } => (ObjectId::Reply(*call), Rights::ANSWER),
            Held::Timer { .. } => (ObjectId::Watch(WatchId::new(NodeId(0), u64::from(handle.0))), Rights::NONE),
        };
        Ok(Description { object, rights, badge: Badge::default() })
    }

    fn set_timer(&mut self, at: Time, notify: Notify) -> Result<HandleId, WatchError> {
        let Notify { port, token } = notify;
        match self.table.held.get(&port.0) {
            Some(Held::Port { .. }) => {}
            Some(_) => return Err(WatchError::Port(HandleError::WrongKind)),
            None => return Err(WatchError::Port(HandleError::Bad)),
        }
        let timer = Held::Timer { port: port.0, token, at: Some(at) };
        self.table.add(timer).ok_or(WatchError::Limit(Limit::Handles))
    }

    /// The name by which a way to somebody else was found.
    fn way(&self, handle: HandleId) -> Result<String, HandleError> {
        match self.table.held.get(&handle.0) {
            Some(Held::Found { path }) => Ok(path.clone()),
            Some(_) => Err(HandleError::WrongKind),
            None => Err(HandleError::Bad),
        }
    }
}

/// What it is told.
impl Ports {
    fn status(&mut self, port: HandleId) -> Outcome {
        match self.table.held.get(&port.0) {
            Some(Held::Port { .. }) => {}
            Some(_) => return Outcome::PortStatus(Err(HandleError::WrongKind)),
            None => return Outcome::PortStatus(Err(HandleError::Bad)),
        }
        match self.next(Tag::PortState) {
            Next::Ask => {
                let status = self.harbour.status(port.0);
                let PortStatus { messages, bytes, senders_waiting, receivers_waiting, dropped } = status;
                let mut to = Writer::default();
                to.u32(messages).u32(bytes).u32(senders_waiting).u32(receivers_waiting).u64(dropped);
                self.add(Tag::PortState, to.finish());
                Outcome::PortStatus(Ok(status))
            }
            Next::Again(record) => {
                let status = self.read(Tag::PortState, &record, |from| {
                    Ok(PortStatus {
                        messages: from.u32()?,
                        bytes: from.u32()?,
                        senders_waiting: from.u32()?,
                        receivers_waiting: from.u32()?,
                        dropped: from.u64()?,
                    })
                });
                status.map_or(VOID, |status| Outcome::PortStatus(Ok(status)))
            }
            Next::Aside | Next::PutOff | Next::Void => VOID,
        }
    }

    /// From the first of these ports that has something, and which that is. Nothing: it is not the process that the tape is of.
    async fn receive(
        &mut self, kernel: &mut dyn SystemCalls, listed: &[HandleId], wait: Wait,
    ) -> Option<Result<(u32, Received), ReceiveError>> {
        for handle in listed {
            match self.table.held.get(&handle.0) {
                Some(Held::Port { .. }) => {}
                Some(_) => return Some(Err(ReceiveError::Handle(HandleError::WrongKind))),
                None => return Some(Err(ReceiveError::Handle(HandleError::Bad))),
            }
        }
        // For the right to answer.
        if self.table.held.len() >= HELD_MAX {
            return Some(Err(ReceiveError::Limit(Limit::Handles)));
        }
        let ports: Vec<u32> = listed.iter().map(|handle| handle.0).collect();
        let record = match self.next(Tag::Received) {
            Next::Again(record) => record,
            Next::PutOff => return Some(Err(ReceiveError::Interrupted)),
            Next::Aside | Next::Void => return None,
            Next::Ask => {
                let Some(record) = self.await_one(kernel, &ports, wait).await else {
                    self.put_off();
                    return Some(Err(ReceiveError::Interrupted));
                };
                self.add(Tag::Received, record.clone());
                record
            }
        };
        let received = self.read(Tag::Received, &record, Arrived::read)?;
        let received = self.take_in(&ports, received);
        if received.is_none() {
            self.differ(Tag::Received);
        }
        received
    }

    /// Waits for what comes first, and writes it down. Nothing: the process is to stop.
    async fn await_one(&mut self, kernel: &mut dyn SystemCalls, ports: &[u32], wait: Wait) -> Option<Vec<u8>> {
        loop {
            let now = kernel.now();
            if let Some((index, timer)) = self.table.timer_due(ports, now) {
                return Some(Writer::default().u8(1).u8(index as u8).u32(timer).finish());
            }
            if let Some((index, arrival)) = self.harbour.take(ports) {
                let mut to = Writer::default();
                to.u8(0).u8(index as u8).bytes(&arrival.bytes).u64(arrival.sender.to_bits());
                match arrival.call {
                    None => to.u8(0),
                    Some(call) => to.u8(1 + u8::from(arrival.is_sent)).u64(call.caller.to_bits()).u64(call.sequence),
                };
                return Some(to.finish());
            }
            match wait {
                Wait::No => return Some(Writer::default().u8(2).finish()),
                Wait::Until(at) if at <= now => return Some(Writer::default().u8(3).finish()),
                Wait::Until(_) | Wait::Forever => {}
            }
            if self.tape.is_interrupted() {
                return None;
            }
            let timer = self.table.next_timer(ports).unwrap_or(Time(u64::MAX));
            let until = match wait {
                Wait::Until(at) => at.min(timer),
                _ => timer,
            };
            ask(kernel, SystemCall::Sleep { until }).await;
        }
    }

    /// The process has it from now on.
    fn take_in(&mut self, ports: &[u32], came: Arrived) -> Option<Result<(u32, Received), ReceiveError>> {
        match came {
            Arrived::Empty => Some(Err(ReceiveError::Empty)),
            Arrived::Expired => Some(Err(ReceiveError::Expired)),
            Arrived::Timer { index, timer } => {
                ports.get(usize::from(index))?;
                let Some(Held::Timer { token, at, .. }) = self.table.held.get_mut(&timer) else { return None };
                *at = None;
                let notice = Notice { token: *token, event: NoticeEvent::Timer };
                Some(Ok((index.into(), Received::Notice(notice))))
            }
            Arrived::Message { index, bytes, sender, call } => {
                ports.get(usize::from(index))?;
                let call = match call {
                    None => None,
                    Some((call, true)) => {
                        // That it was received is all that it is answered.
                        self.settle_call(call, Some(Bytes::EMPTY));
                        None
                    }
                    Some((call, false)) => {
                        self.table.know(call, Standing::Taken);
                        Some(Answerable { id: call, reply: self.table.add(Held::Answer { call })? })
                    }
                };
                let badge = Badge::default();
                let delivery = Delivery { bytes, handles: Box::default(), sender, badge, call };
                Some(Ok((index.into(), Received::Message(delivery))))
            }
        }
    }
}

/// What came, as it is on the tape.
enum Arrived {
    Message {
        index: u8,
        bytes: Bytes,
        sender: ProcessId,
        /// And whether it was sent, and not called for.
        call: Option<(CallId, bool)>,
    },
    Timer {
        index: u8,
        timer: u32,
    },
    Empty,
    Expired,
}

impl Arrived {
    fn read(from: &mut Reader) -> Result<Arrived, Malformed> {
        Ok(match from.u8()? {
            0 => {
                let (index, bytes) = (from.u8()?, Bytes::new(from.bytes()?));
                let sender = ProcessId::from_bits(from.u64()?);
                let call = match from.u8()? {
                    0 => None,
                    kind @ (1 | 2) => Some((read_call(from)?, kind == 2)),
                    _ => return Err(from.malformed()),
                };
                Arrived::Message { index, bytes, sender, call }
            }
            1 => Arrived::Timer { index: from.u8()?, timer: from.u32()? },
            2 => Arrived::Empty,
            3 => Arrived::Expired,
            _ => return Err(from.malformed()),
        })
    }
}

fn read_call(from: &mut Reader) -> Result<CallId, Malformed> {
    Ok(CallId { caller: ProcessId::from_bits(from.u64()?), sequence: from.u64()? })
}

/// Names.
impl Ports {
    async fn names(&mut self, kernel: &mut dyn SystemCalls, message: Message) -> Outcome {
        let answered = |answer: names::Answer, handle: Option<HandleId>| {
            Outcome::Called(Ok(Answer { bytes: answer.encode(), handles: handle.into_iter().collect() }))
        };
        let interrupted = Outcome::Called(Err(CallError::Interrupted(Reached::Nobody)));
        let (path, tag, bind) = match names::Request::decode(&message.bytes) {
            Ok(names::Request::Lookup { path }) => (path, Tag::Found, None),
            Ok(names::Request::Unbind { path }) => (path, Tag::Unbound, None),
            Ok(names::Request::BindPort { path, existing }) => {
                let port = message.handles.first().map(|transfer| transfer.handle.0);
                let Some((port, Held::Port { .. })) = port.and_then(|port| Some((port, self.table.held.get(&port)?)))
                else {
                    return answered(names::Answer::Failed(names::Failure::Handles), None);
                };
                (path, Tag::Bound, Some((port, existing)))
            }
            _ => return VOID,
        };
        if tag == Tag::Found && self.table.held.len() >= HELD_MAX {
            return Outcome::Called(Err(CallError::Limit(Limit::Handles)));
        }
        let answer = match self.next(tag) {
            Next::Again(record) => match names::Answer::decode(&record) {
                Ok(answer) => answer,
                Err(_) => {
                    self.differ(tag);
                    return VOID;
                }
            },
            Next::PutOff => return interrupted,
            Next::Aside | Next::Void => return VOID,
            Next::Ask => {
                let answer = match tag {
                    Tag::Found => self.look_up(kernel, &path).await,
                    _ => self.have_named(kernel, &path, bind).await,
                };
                let Some(answer) = answer else {
                    self.put_off();
                    return interrupted;
                };
                self.add(tag, answer.encode().to_vec());
                answer
            }
        };
        match (tag, &answer) {
            (Tag::Found, names::Answer::Port) => {
                let found = self.table.add(Held::Found { path });
                return answered(answer, Some(found.expect("there was room")));
            }
            (Tag::Bound, names::Answer::Done) => {
                self.table.unname(&path);
                if let Some((port, _)) = bind
                    && let Some(Held::Port { names, .. }) = self.table.held.get_mut(&port)
                {
                    names.push(path);
                }
            }
            (Tag::Unbound, names::Answer::Done) => self.table.unname(&path),
            _ => {}
        }
        answered(answer, None)
    }

    /// Whether the name leads anywhere. Nothing: the process is to stop.
    async fn look_up(&mut self, kernel: &mut dyn SystemCalls, path: &str) -> Option<names::Answer> {
        loop {
            match found::look_up_patiently(kernel, path).await {
                LookedUp::Port { handle, .. } => {
                    // It is looked up again whenever it is used.
                    ask(kernel, SystemCall::Close { handle }).await;
                    return Some(names::Answer::Port);
                }
                LookedUp::Failed(failure) => return Some(names::Answer::Failed(failure)),
                LookedUp::Interrupted if self.tape.is_interrupted() => return None,
                LookedUp::Interrupted => {}
            }
        }
    }

    async fn have_named(
        &mut self, kernel: &mut dyn SystemCalls, path: &str, bind: Option<(u32, names::Existing)>,
    ) -> Option<names::Answer> {
        if !self.tape.settle() {
            return None;
        }
        // What came of an attempt that was put off counts no more.
        let _ = self.harbour.named(path);
        self.harbour.name(path, bind);
        loop {
            if let Some(named) = self.harbour.named(path) {
                return Some(named.map_or_else(names::Answer::Failed, |()| names::Answer::Done));
            }
            if self.tape.is_interrupted() {
                return None;
            }
            ask(kernel, SystemCall::Sleep { until: Time(u64::MAX) }).await;
        }
    }
}

/// What it does to others.
impl Ports {
    async fn fulfil(&mut self, kernel: &mut dyn SystemCalls, wish: &Wish) -> Fulfilled {
        if self.table.errand.is_none() {
            match self.next(Tag::Calling) {
                Next::Again(record) => {
                    let read = self.read(Tag::Calling, &record, |from| {
                        let errand = Errand { sequence: from.u64()?, lasts: from.u8()? != 0 };
                        let refused = if errand.sequence == 0 { Some(Ended::read(from)?) } else { None };
                        Ok((errand, refused))
                    });
                    match read {
                        None => return Fulfilled::Void,
                        Some((_, Some(ended))) => return Fulfilled::Ended { sequence: 0, ended },
                        Some((errand, None)) => self.table.errand = Some(errand),
                    }
                }
                Next::PutOff => return Fulfilled::PutOff,
                Next::Aside | Next::Void => return Fulfilled::Void,
                Next::Ask => match self.set_out(kernel, wish).await {
                    Ok(errand) => {
                        self.add(Tag::Calling, Writer::default().u64(errand.sequence).u8(errand.lasts.into()).finish());
                        self.table.errand = Some(errand);
                    }
                    Err(Some(ended)) => {
                        self.add(Tag::Calling, Writer::default().u64(0).u8(0).u8(ended as u8).finish());
                        return Fulfilled::Ended { sequence: 0, ended };
                    }
                    Err(None) => {
                        self.put_off();
                        return Fulfilled::PutOff;
                    }
                },
            }
        }
        let Some(errand) = self.table.errand else { return Fulfilled::Void };
        let outcome = match self.next(Tag::Called) {
            Next::Again(record) => {
                let read = self.read(Tag::Called, &record, |from| match from.u8()? {
                    0 => Ok(Ok(Bytes::new(from.bytes()?))),
                    _ => Ended::read(from).map(Err),
                });
                match read {
                    Some(outcome) => outcome,
                    None => return Fulfilled::Void,
                }
            }
            Next::PutOff => return Fulfilled::PutOff,
            Next::Aside | Next::Void => return Fulfilled::Void,
            Next::Ask => {
                let Some(outcome) = self.carry_out(kernel, wish, errand).await else {
                    self.put_off();
                    return Fulfilled::PutOff;
                };
                let mut to = Writer::default();
                match &outcome {
                    Ok(bytes) => to.u8(0).bytes(bytes),
                    Err(ended) => to.u8(1).u8(*ended as u8),
                };
                self.add(Tag::Called, to.finish());
                self.arrive(kernel).await;
                outcome
            }
        };
        self.table.errand = None;
        match outcome {
            Ok(bytes) => Fulfilled::Answered(bytes),
            Err(ended) => Fulfilled::Ended { sequence: errand.sequence, ended },
        }
    }

    /// What was needed for an errand is given back.
    async fn arrive(&mut self, kernel: &mut dyn SystemCalls) {
        if let Some(afoot) = self.afoot.take() {
            for handle in [afoot.call, afoot.port].into_iter().flatten() {
                ask(kernel, SystemCall::Close { handle }).await;
            }
        }
    }

    /// Finds the way to somebody, and a number that no other call of this process has or will have: that of the question for the way.
    async fn set_out(&mut self, kernel: &mut dyn SystemCalls, wish: &Wish) -> Result<Errand, Option<Ended>> {
        loop {
            let tide = kernel.tide(&wish.path);
            match found::look_up_patiently(kernel, &wish.path).await {
                LookedUp::Port { handle, sequence } => {
                    self.arrive(kernel).await;
                    // If it was heard of only by that, it may even lead elsewhere by now: then it is looked up again.
                    let tide = tide.or_else(|| kernel.tide(&wish.path));
                    // What is done now or may be lost is not asked for again.
                    let is_kept = !matches!(wish.kind, WishKind::Lose | WishKind::Send { wait: Wait::No });
                    let lasts = tide.is_some() && is_kept;
                    // Under its number it is made the first time, too.
                    let sequence_of = Some(sequence).filter(|_| lasts);
                    self.afoot = Some(Afoot { sequence: sequence_of, call: None, port: Some(handle), tide });
                    return Ok(Errand { sequence, lasts });
                }
                LookedUp::Failed(failure) => return Err(Some(Ended::of_name(failure))),
                LookedUp::Interrupted if self.tape.is_interrupted() => return Err(None),
                LookedUp::Interrupted => {}
            }
        }
    }

    /// Nothing: the process is to stop.
    async fn carry_out(
        &mut self, kernel: &mut dyn SystemCalls, wish: &Wish, errand: Errand,
    ) -> Option<Result<Bytes, Ended>> {
        if !self.tape.settle() {
            return None;
        }
        if errand.lasts {
            let (bytes, at) = match wish.kind {
                WishKind::Call { at } => (wish.bytes.clone(), at),
                WishKind::Send { wait: Wait::Until(at) } => (found::as_sent(&wish.bytes), Some(at)),
                WishKind::Send { .. } | WishKind::Lose => (found::as_sent(&wish.bytes), None),
            };
            let before = || Afoot { sequence: Some(errand.sequence), ..Afoot::default() };
            loop {
                let mut afoot = self.afoot.take().unwrap_or_else(before);
                let came = found::pursue(kernel, &wish.path, &bytes, at, &mut afoot).await;
                self.afoot = Some(afoot);
                match came {
                    Came::Answer(answer) => {
                        for handle in answer.handles {
                            ask(kernel, SystemCall::Close { handle }).await;
                        }
                        return Some(Ok(answer.bytes));
                    }
                    Came::Failed(error) => return Some(Err(Ended::of(error))),
                    Came::Interrupted if self.tape.is_interrupted() => return None,
                    Came::Interrupted => {}
                }
            }
        }
        // In another life it may have been done, and whoever it was to does not remember.
        let Some(Afoot { port: Some(port), call, .. }) = self.afoot.clone() else { return Some(Err(Ended::Abandoned)) };
        let (message, at) = (Message { bytes: wish.bytes.clone(), handles: Box::default() }, wish.kind);
        let outcome = match (at, call) {
            (WishKind::Call { .. }, Some(call)) => self.collect(kernel, call).await,
            (WishKind::Call { at }, None) => {
                let deadline = abi::call::Deadline { at, again: None };
                match ask(kernel, SystemCall::Call { port, message, deadline }).await {
                    Outcome::Called(Ok(answer)) => Some(Ok(answer)),
                    Outcome::Called(Err(CallError::Detached { call, .. })) => {
                        if let Some(afoot) = &mut self.afoot {
                            afoot.call = Some(call);
                        }
                        self.collect(kernel, call).await
                    }
                    Outcome::Called(Err(CallError::Interrupted(Reached::Nobody))) => None,
                    Outcome::Called(Err(error)) => Some(Err(Ended::of(error))),
                    _ => Some(Err(Ended::Abandoned)),
                }
            }
            (WishKind::Send { .. } | WishKind::Lose, _) => {
                let mode = match at {
                    WishKind::Send { wait } => SendMode::Reliable(wait),
                    _ => SendMode::Unreliable,
                };
                match ask(kernel, SystemCall::Send { port, message, mode }).await {
                    Outcome::Sent(Err(SendError::Interrupted)) => None,
                    Outcome::Sent(Err(error)) => Some(Err(Ended::of_send(error))),
                    _ => Some(Ok(Answer { bytes: Bytes::EMPTY, handles: Box::default() })),
                }
            }
        };
        match outcome {
            Some(Ok(answer)) => {
                // Handles cannot be kept.
                for handle in answer.handles {
                    ask(kernel, SystemCall::Close { handle }).await;
                }
                Some(Ok(answer.bytes))
            }
            Some(Err(ended)) => Some(Err(ended)),
            None => None,
        }
    }

    async fn collect(&mut self, kernel: &mut dyn SystemCalls, call: HandleId) -> Option<Result<Answer, Ended>> {
        match ask(kernel, SystemCall::EndCall { call, wait: Wait::Forever }).await {
            Outcome::CallEnded(Ok(answer)) => Some(Ok(answer)),
            Outcome::CallEnded(Err(abi::call::EndCallError::Interrupted)) => None,
            Outcome::CallEnded(Err(abi::call::EndCallError::Failed(error))) => Some(Err(Ended::of(error))),
            _ => Some(Err(Ended::Abandoned)),
        }
    }
}

impl Table {
    fn add(&mut self, held: Held) -> Option<HandleId> {
        if self.held.len() > HELD_MAX {
            return None;
        }
        let number = self.next;
        self.next = self.next.checked_add(1)?;
        self.held.insert(number, held);
        Some(HandleId(number))
    }

    fn know(&mut self, call: CallId, standing: Standing) {
        if let Standing::Answered(bytes) = &standing {
            self.answer_bytes += bytes.len();
        }
        // A call that was answered late must not hide a later one.
        let is_past = self.known.get(&call.caller).is_some_and(|known| known.sequence > call.sequence);
        let known = Known { sequence: call.sequence, standing };
        let gone = if is_past { Some(known) } else { self.known.insert(call.caller, known) };
        if let Some(Known { standing: Standing::Answered(bytes), .. }) = gone {
            self.answer_bytes -= bytes.len();
        }
    }

    /// Keeps to the bounds; what is known of this caller stays. Says whom it forgot, and what of it is still known.
    fn forget_most(&mut self, but: ProcessId, tell: &mut dyn FnMut(ProcessId, Option<Known>)) {
        if self.known.len() > CALLERS_MAX
            && let Some(first) = self.known.keys().copied().find(|caller| *caller != but)
            && let Some(Known { standing, .. }) = self.known.remove(&first)
        {
            if let Standing::Answered(bytes) = standing {
                self.answer_bytes -= bytes.len();
            }
            tell(first, None);
        }
        if self.answer_bytes <= ANSWER_BYTES_MAX {
            return;
        }
        for (caller, known) in &mut self.known {
            let Standing::Answered(bytes) = &known.standing else { continue };
            if *caller == but || bytes.is_empty() {
                continue;
            }
            self.answer_bytes -= bytes.len();
            known.standing = Standing::Abandoned;
            tell(*caller, Some(known.clone()));
            if self.answer_bytes <= ANSWER_BYTES_MAX {
                return;
            }
        }
    }

    fn unname(&mut self, path: &str) {
        for held in self.held.values_mut() {
            if let Held::Port { names, .. } = held {
                names.retain(|name| name != path);
            }
        }
    }

    fn timers(&self, ports: &[u32]) -> impl Iterator<Item = (usize, u32, Time)> {
        self.held.iter().filter_map(|(number, held)| match held {
            Held::Timer { port, at: Some(at), .. } => Some((ports.iter().position(|one| one == port)?, *number, *at)),
            _ => None,
        })
    }

    fn timer_due(&self, ports: &[u32], now: Time) -> Option<(usize, u32)> {
        let due = self.timers(ports).filter(|(.., at)| *at <= now).min_by_key(|(_, number, at)| (*at, *number));
        due.map(|(index, number, _)| (index, number))
    }

    fn next_timer(&self, ports: &[u32]) -> Option<Time> {
        self.timers(ports).map(|(.., at)| at).min()
    }
}

/// The table as a part of the process's state.
impl Ports {
    /// Nothing, if there is nothing to keep.
    pub(crate) fn save(&self, now: Time) -> Option<Vec<u8>> {
        let Table { next, held, known, errand, .. } = &self.table;
        if *next == NAMES.0 + 1 {
            return None;
        }
        let mut to = Writer::default();
        to.u8(FORM).u32(*next);
        match errand {
            None => to.u8(0),
            Some(Errand { sequence, lasts }) => to.u8(1 + u8::from(*lasts)).u64(*sequence),
        };
        to.u32(held.len() as u32);
        for (number, held) in held {
            to.u32(*number);
            match held {
                Held::Port { options, names } => {
                    let drops = u8::from(options.overflow == abi::call::Overflow::Drop);
                    to.u8(0).u32(options.messages_max).u32(options.bytes_max).u8(drops).u32(names.len() as u32);
                    names.iter().for_each(|name| {
                        to.bytes(name.as_bytes());
                    });
                }
                Held::Found { path } => {
                    to.u8(1).bytes(path.as_bytes());
                }
                Held::Answer { call } => {
                    to.u8(2).u64(call.caller.to_bits()).u64(call.sequence);
                }
                Held::Timer { port, token, at } => {
                    to.u8(3).u32(*port).u64(*token);
                    // How long it has yet to run: its own clock stands still until it goes on.
                    match at {
                        None => to.u8(0),
                        Some(at) => to.u8(1).u64(at.0.saturating_sub(now.0)),
                    };
                }
            }
        }
        to.u32(known.len() as u32);
        for (caller, Known { sequence, standing }) in known {
            to.u64(caller.to_bits()).u64(*sequence);
            match standing {
                Standing::Taken => to.u8(0),
                Standing::Answered(bytes) => to.u8(1).bytes(bytes),
                Standing::Abandoned => to.u8(2),
            };
        }
        Some(to.finish())
    }

    /// Before it runs.
    pub(crate) fn restore(&mut self, bytes: &[u8], now: Time) -> Result<(), Malformed> {
        self.table = Table::read(bytes, now)?;
        Ok(())
    }
}

impl Table {
    fn read(bytes: &[u8], now: Time) -> Result<Table, Malformed> {
        let mut from = Reader::new(bytes);
        if from.u8()? != FORM {
            return Err(from.malformed());
        }
        let next = from.u32()?;
        let errand = match from.u8()? {
            0 => None,
            kind @ (1 | 2) => Some(Errand { lasts: kind == 2, sequence: from.u64()? }),
            _ => return Err(from.malformed()),
        };
        let mut table = Table { next, held: BTreeMap::new(), known: BTreeMap::new(), answer_bytes: 0, errand };
        for _ in 0..from.u32()? {
            let number = from.u32()?;
            let held = match from.u8()? {
                0 => {
                    let (messages_max, bytes_max) = (from.u32()?, from.u32()?);
                    let overflow = match from.u8()? {
                        0 => abi::call::Overflow::Wait,
                        1 => abi::call::Overflow::Drop,
                        _ => return Err(from.malformed()),
                    };
                    let mut names = vec![];
                    for _ in 0..from.u32()? {
                        names.push(from.string()?);
                    }
                    Held::Port { options: PortOptions { messages_max, bytes_max, overflow }, names }
                }
                1 => Held::Found { path: from.string()? },
                2 => Held::Answer { call: read_call(&mut from)? },
                3 => {
                    let (port, token) = (from.u32()?, from.u64()?);
                    let at = match from.u8()? {
                        0 => None,
                        1 => Some(now.after(from.u64()?)),
                        _ => return Err(from.malformed()),
                    };
                    Held::Timer { port, token, at }
                }
                _ => return Err(from.malformed()),
            };
            if number >= next || table.held.insert(number, held).is_some() {
                return Err(from.malformed());
            }
        }
        for _ in 0..from.u32()? {
            let (caller, sequence) = (ProcessId::from_bits(from.u64()?), from.u64()?);
            let standing = match from.u8()? {
                0 => Standing::Taken,
                1 => Standing::Answered(Bytes::new(from.bytes()?)),
                2 => Standing::Abandoned,
                _ => return Err(from.malformed()),
            };
            table.know(CallId { caller, sequence }, standing);
        }
        from.finish()?;
        Ok(table)
    }
}

#[cfg(test)]
mod tests;
