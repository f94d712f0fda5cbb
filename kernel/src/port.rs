//! Ports: queues of messages, with every way to send and to receive. This file knows nothing of what messages mean.
//!
//! The one idea: a port has at most one of these: messages that wait for a receiver, receivers that wait for a message.
//! Senders wait only for room. Each change of one side offers what it made possible to the other at once, so nobody ever
//! sleeps beside what they wait for.
//!
//! ```text
//!   send -> a receiver waits?  yes: it has the message now
//!           there is room?     yes: into the queue          receive -> the queue has one?  yes: take it, and let the
//!           it may be lost?    yes: drop and count                     first waiting senders in while there is room
//!           it may wait?       yes: behind the other senders           a sender waits (rendezvous)?  yes: take its
//!           else               Full                                    else wait behind the other receivers
//! ```

use crate::Kernel;
use crate::call::Call;
use crate::handles::{Object, Refusal, Right};
use crate::limits::{PORT_BYTES_MAX, PORT_MESSAGES_MAX};
use crate::planted::{Bug, planted};
use crate::process::{Process, State, Waiting};
use crate::schedule::Next;
use crate::table::Key;
use crate::watch::Watch;
use abi::call::{
    CreateError, HandleError, Outcome, Overflow, PortOptions, PortStatus, ReceiveError, SELECT_PORTS_MAX, SendError,
    SendMode, Wait,
};
use abi::ids::{HandleId, PortId, ProcessId};
use abi::limits::Limit;
use abi::message::{
    Answerable, Badge, Bytes, Delivery, MESSAGE_BYTES_MAX, MESSAGE_HANDLES_MAX, Message, Notice, NoticeEvent, Received,
    Transfer,
};
use abi::process::Fault;
use abi::rights::Rights;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The most handles that taking one message can add to a table: those in it, and the right to answer.
pub(crate) const DELIVERY_HANDLES_MAX: usize = MESSAGE_HANDLES_MAX + 1;

/// One port.
///
/// Invariants: `messages` and `bytes` count the letters in `queue` and lie within the options; if a receiver waits then
/// `queue` is empty and no sender waits; if a sender waits then its letter does not fit; `notices` counts those in `queue`
/// and those still to come; `send_rights` and `receive_rights` count the rights of that kind, in tables and in messages, and
/// `receive_rights` is not zero: a port without receivers is closed, which is to be gone.
pub struct Port {
    pub(crate) id: PortId,
    pub(crate) maker: Key<Process>,
    pub(crate) options: PortOptions,
    pub(crate) queue: VecDeque<Envelope>,
    pub(crate) messages: u32,
    pub(crate) bytes: u32,
    pub(crate) notices: u32,
    pub(crate) senders_waiting: VecDeque<Key<Process>>,
    pub(crate) receivers_waiting: VecDeque<Key<Process>>,
    pub(crate) send_rights: u32,
    pub(crate) receive_rights: u32,
    pub(crate) watches: Vec<Key<Watch>>,
    pub(crate) dropped: u64,
}

/// What lies in a queue.
pub(crate) enum Envelope {
    Letter(Letter),
    /// For the process that asked for it; once that has ended, for nobody.
    Notice(Key<Process>, Notice),
}

/// A message on its way.
pub(crate) struct Letter {
    pub bytes: Bytes,
    pub cargo: Cargo,
    pub sender: ProcessId,
    pub badge: Badge,
    /// The sender waits for an answer.
    pub call: Option<Key<Call>>,
}

/// The rights that go along.
pub(crate) enum Cargo {
    Taken(Box<[Right]>),
    /// Still in the table of the caller, who is blocked until a server takes the request: if none does, nothing was moved.
    AtCaller(Key<Process>, Box<[Transfer]>),
}

/// A message for which there was no room yet. Its handles are in the sender's table.
pub(crate) struct Pending {
    pub message: Message,
    pub badge: Badge,
    pub call: Option<Key<Call>>,
}

impl Cargo {
    fn len(&self) -> usize {
        match self {
            Cargo::Taken(rights) => rights.len(),
            Cargo::AtCaller(_, transfers) => transfers.len(),
        }
    }

    /// How many receiving ends of ports lie in it.
    pub fn receivers(&self) -> u32 {
        match self {
            Cargo::Taken(rights) => count_receivers(rights),
            Cargo::AtCaller(..) => 0,
        }
    }
}

/// How many of these rights are receiving ends of ports.
pub(crate) fn count_receivers(rights: &[Right]) -> u32 {
    let receiver = |right: &&Right| matches!(right.object, Object::Port(_)) && right.rights.contains(Rights::RECEIVE);
    rights.iter().filter(receiver).count() as u32
}

impl Port {
    pub fn new(id: PortId, maker: Key<Process>, options: PortOptions) -> Port {
        Port {
            id,
            maker,
            options,
            queue: VecDeque::new(),
            messages: 0,
            bytes: 0,
            notices: 0,
            senders_waiting: VecDeque::new(),
            receivers_waiting: VecDeque::new(),
            send_rights: 0,
            receive_rights: 0,
            watches: Vec::new(),
            dropped: 0,
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        let allowed = self.options.messages_max + u32::from(planted(Bug::QueueOverBound) && self.messages > 0);
        self.messages < allowed && self.bytes as usize + bytes <= self.options.bytes_max as usize
    }

    pub fn too_long(&self, bytes: usize) -> bool {
        bytes > MESSAGE_BYTES_MAX || bytes > self.options.bytes_max as usize
    }

    /// Nothing is there and nothing can come.
    pub fn is_silent(&self) -> bool {
        self.send_rights == 0 && self.notices == 0 && self.queue.is_empty()
    }

    pub fn check(&self) {
        let letters = self.queue.iter().filter_map(|envelope| match envelope {
            Envelope::Letter(letter) => Some(letter.bytes.len() as u32),
            Envelope::Notice(..) => None,
        });
        assert_eq!(letters.clone().count() as u32, self.messages, "{:?} counts its messages wrongly", self.id);
        assert_eq!(letters.sum::<u32>(), self.bytes, "{:?} counts its bytes wrongly", self.id);
        assert!(self.messages <= self.options.messages_max, "{:?} holds more messages than it may", self.id);
        assert!(self.bytes <= self.options.bytes_max, "{:?} holds more bytes than it may", self.id);
        assert!(
            (self.queue.len() as u32 - self.messages) <= self.notices,
            "{:?} holds a notice nobody promised",
            self.id
        );
        if !self.receivers_waiting.is_empty() {
            assert!(self.queue.is_empty(), "a receiver sleeps beside a message at {:?}", self.id);
            assert!(self.senders_waiting.is_empty(), "a receiver sleeps beside a sender at {:?}", self.id);
        }
        assert!(self.receive_rights > 0, "{:?} lives without a receiver", self.id);
    }
}

/// System calls.
impl Kernel {
    pub(crate) fn create_port(&mut self, me: Key<Process>, options: PortOptions) -> Outcome {
        Outcome::PortCreated(self.new_port(me, options))
    }

    fn new_port(&mut self, me: Key<Process>, options: PortOptions) -> Result<HandleId, CreateError> {
        let bytes = 1..=PORT_BYTES_MAX;
        if options.messages_max > PORT_MESSAGES_MAX || !bytes.contains(&options.bytes_max) {
            return Err(CreateError::Options);
        }
        let node_full = self.ports.is_full();
        let process = &mut self.processes[me];
        let buffer_bytes = process.used.buffer_bytes + u64::from(options.bytes_max);
        let limit = if process.used.ports >= process.limits.ports_max {
            Some(Limit::Ports)
        } else if buffer_bytes > process.limits.buffer_bytes_max {
            Some(Limit::BufferBytes)
        } else if process.handles.room() == 0 {
            Some(Limit::Handles)
        } else if node_full {
            Some(Limit::NodePorts)
        } else {
            None
        };
        if let Some(limit) = limit {
            return Err(CreateError::Limit(limit));
        }
        process.used.ports += 1;
        process.used.buffer_bytes = buffer_bytes;
        let port = Port::new(PortId::new(self.node, self.serial()), me, options);
        let key = self.ports.insert(port).expect("there is room, as was just seen");
        let right = Right::all(Object::Port(key));
        self.retain(&right);
        Ok(self.processes[me].handles.insert(right))
    }

    pub(crate) fn send(&mut self, me: Key<Process>, handle: HandleId, message: Message, mode: SendMode) -> Next {
        let refuse = |error| Next::Return(Outcome::Sent(Err(error)));
        let (key, badge) = match self.find_port(me, handle, Rights::SEND) {
            Ok(found) => found,
            Err(error) => {
                return match self.foreign(me, handle, Rights::SEND) {
                    Some(import) => self.send_abroad(me, import, message, mode),
                    None => refuse(SendError::Handle(error)),
                };
            }
        };
        match self.check_transfers(me, &message.handles, Some(key)) {
            Ok(()) => {}
            Err(Refusal::Breach(fault)) => return Next::Fault(fault),
            Err(Refusal::Error(error)) => return refuse(SendError::Transfer(error)),
        }
        let Some(port) = self.ports.get_mut(key) else {
            return refuse(SendError::PortClosed);
        };
        if port.too_long(message.bytes.len()) {
            return refuse(SendError::TooLong);
        }
        if self.accepts(key, message.bytes.len()) {
            let letter = self.write_letter(me, Pending { message, badge, call: None });
            self.accept(key, letter);
            return Next::Return(Outcome::Sent(Ok(())));
        }
        let port = &mut self.ports[key];
        let wait = match (mode, port.options.overflow) {
            (SendMode::Unreliable, _) | (_, Overflow::Drop) => {
                port.dropped += u64::from(!planted(Bug::DropNotCounted));
                let lost = self.take(me, &message.handles);
                self.dropped.extend(lost);
                return Next::Return(Outcome::Sent(Ok(())));
            }
            (SendMode::Reliable(wait), Overflow::Wait) => wait,
        };
        if !self.may_wait(wait) {
            if planted(Bug::MoveLosesOnFailure) {
                let lost = self.take(me, &message.handles);
                self.dropped.extend(lost);
            }
            return refuse(if wait == Wait::No { SendError::Full } else { SendError::Expired });
        }
        self.ports[key].senders_waiting.push_back(me);
        let pending = Box::new(Pending { message, badge, call: None });
        self.block(me, Waiting::Send { port: key, pending }, wait)
    }

    pub(crate) fn receive(&mut self, me: Key<Process>, handle: HandleId, wait: Wait) -> Next {
        let refuse = |error| Next::Return(Outcome::Received(Err(error)));
        let key = match self.find_port(me, handle, Rights::RECEIVE) {
            Ok((key, _)) => key,
            Err(error) => return refuse(ReceiveError::Handle(error)),
        };
        match self.take_next(key, me) {
            Some(Ok(received)) => return Next::Return(Outcome::Received(Ok(received))),
            Some(Err(limit)) => return refuse(ReceiveError::Limit(limit)),
            None => {}
        }
        if let Err(error) = self.may_receive(me, &[key], wait) {
            return refuse(error);
        }
        self.ports[key].receivers_waiting.push_back(me);
        self.block(me, Waiting::Receive { port: key }, wait)
    }

    pub(crate) fn select(&mut self, me: Key<Process>, handles: &[HandleId], wait: Wait) -> Next {
        let refuse = |error| Next::Return(Outcome::Selected(Err(error)));
        if handles.is_empty() || handles.len() > SELECT_PORTS_MAX {
            return Next::Fault(Fault::MalformedSelect);
        }
        let mut keys = Vec::with_capacity(handles.len());
        for handle in handles {
            match self.find_port(me, *handle, Rights::RECEIVE) {
                Ok((key, _)) if keys.contains(&key) => return Next::Fault(Fault::MalformedSelect),
                Ok((key, _)) => keys.push(key),
                Err(error) => return refuse(ReceiveError::Handle(error)),
            }
        }
        for (index, key) in keys.iter().enumerate() {
            match self.take_next(*key, me) {
                Some(Ok(received)) => {
                    return Next::Return(Outcome::Selected(Ok((index as u32, received))));
                }
                Some(Err(limit)) => return refuse(ReceiveError::Limit(limit)),
                None => {}
            }
        }
        if let Err(error) = self.may_receive(me, &keys, wait) {
            return refuse(error);
        }
        for key in &keys {
            self.ports[*key].receivers_waiting.push_back(me);
        }
        self.block(me, Waiting::Select { ports: keys.into() }, wait)
    }

    /// Whether a process may wait for a message.
    fn may_receive(&self, me: Key<Process>, keys: &[Key<Port>], wait: Wait) -> Result<(), ReceiveError> {
        if self.all_silent(keys) {
            return Err(ReceiveError::NoSenders);
        }
        if !self.may_wait(wait) {
            return Err(if wait == Wait::No { ReceiveError::Empty } else { ReceiveError::Expired });
        }
        // Its table cannot change while it waits, so what fits now will fit then.
        match self.processes[me].handles.room() < DELIVERY_HANDLES_MAX {
            true => Err(ReceiveError::Limit(Limit::Handles)),
            false => Ok(()),
        }
    }

    pub(crate) fn port_status(&mut self, me: Key<Process>, handle: HandleId) -> Next {
        if let Ok(Object::Foreign(_, import)) = self.find_object(me, handle, Rights::NONE) {
            return self.status_abroad(me, import);
        }
        Next::Return(Outcome::PortStatus(self.find_port(me, handle, Rights::NONE).and_then(|(key, _)| {
            let port = self.ports.get(key).ok_or(HandleError::Ended)?;
            Ok(PortStatus {
                messages: port.messages,
                bytes: port.bytes,
                senders_waiting: port.senders_waiting.len() as u32,
                receivers_waiting: port.receivers_waiting.len() as u32,
                dropped: port.dropped,
            })
        })))
    }
}

/// The way of a message.
impl Kernel {
    /// Whether a letter of so many bytes can go into the port now. Who waits for room comes first.
    pub(crate) fn accepts(&self, key: Key<Port>, bytes: usize) -> bool {
        let port = &self.ports[key];
        !port.receivers_waiting.is_empty() || (port.senders_waiting.is_empty() && port.has_room(bytes))
    }

    /// Makes a message a letter: from now on its rights are on the way.
    pub(crate) fn write_letter(&mut self, sender: Key<Process>, pending: Pending) -> Letter {
        let Pending { message: Message { bytes, handles }, badge, call } = pending;
        // A caller that is blocked keeps its handles until a server takes the request.
        let blocked = call.is_some_and(|call| self.calls[call].blocks_caller());
        let cargo = match blocked {
            true => Cargo::AtCaller(sender, handles),
            false => Cargo::Taken(self.take(sender, &handles)),
        };
        Letter { bytes, cargo, sender: self.processes[sender].id, badge, call }
    }

    /// Gives a letter to a receiver that waits, or puts it in the queue. Whoever calls this has seen that the port accepts it.
    pub(crate) fn accept(&mut self, key: Key<Port>, letter: Letter) {
        let port = &mut self.ports[key];
        if (!planted(Bug::LostWakeup) || port.messages > 0)
            && let Some(receiver) = port.receivers_waiting.pop_front()
        {
            let delivery = self.deliver(letter, receiver);
            self.wake_receiver(receiver, key, Received::Message(delivery));
            return;
        }
        port.messages += 1;
        port.bytes += letter.bytes.len() as u32;
        self.receivers_in_transit += letter.cargo.receivers();
        port.queue.push_back(Envelope::Letter(letter));
    }

    /// Makes the letter's rights the receiver's own. There is room for them.
    fn deliver(&mut self, letter: Letter, receiver: Key<Process>) -> Delivery {
        let Letter { bytes, cargo, sender, badge, call } = letter;
        let rights = match cargo {
            Cargo::Taken(rights) => rights,
            Cargo::AtCaller(_, transfers) if transfers.is_empty() => Box::default(),
            Cargo::AtCaller(caller, transfers) => self.take(caller, &transfers),
        };
        let handles = if rights.is_empty() { Box::default() } else { self.install(receiver, rights) };
        let call = call.map(|key| {
            let id = self.calls[key].taken();
            let reply = self.processes[receiver].handles.insert(Right::all(Object::Reply(key)));
            Answerable { id, reply }
        });
        Delivery { bytes, handles, sender, badge, call }
    }

    /// A receiver that waited has something. It is out of this port's queue; a select waits at other ports too.
    fn wake_receiver(&mut self, receiver: Key<Process>, key: Key<Port>, received: Received) {
        let placeholder = Waiting::Sleep;
        let State::Waiting { waiting, .. } = &mut self.processes[receiver].state else {
            unreachable!("who stands in a queue of receivers waits")
        };
        let outcome = match core::mem::replace(waiting, placeholder) {
            Waiting::Receive { .. } => Outcome::Received(Ok(received)),
            Waiting::Select { ports } => {
                let index = ports.iter().position(|port| *port == key).expect("a select stands only at its own ports");
                for port in ports.iter().filter(|port| **port != key && !planted(Bug::SelectLeavesTraces)) {
                    self.leave_receivers(*port, receiver);
                }
                Outcome::Selected(Ok((index as u32, received)))
            }
            _ => unreachable!("who stands in a queue of receivers receives"),
        };
        self.wake(receiver, outcome);
    }

    /// Takes what comes next for this receiver, if there is anything; an error leaves it there.
    fn take_next(&mut self, key: Key<Port>, receiver: Key<Process>) -> Option<Result<Received, Limit>> {
        let room = self.processes[receiver].handles.room();
        let fits = |cargo: usize, call: bool| cargo + usize::from(call) <= room;
        self.drop_stale_notices(key);
        let port = &mut self.ports[key];
        match port.queue.front() {
            None => {
                let sender = *port.senders_waiting.front()?;
                let pending = self.pending(sender);
                if !fits(pending.message.handles.len(), pending.call.is_some()) {
                    return Some(Err(Limit::Handles));
                }
                self.ports[key].senders_waiting.pop_front();
                let letter = self.let_sender_go(sender);
                Some(Ok(Received::Message(self.deliver(letter, receiver))))
            }
            Some(Envelope::Letter(letter)) if !fits(letter.cargo.len(), letter.call.is_some()) => {
                Some(Err(Limit::Handles))
            }
            Some(_) => {
                let next = if planted(Bug::NewestFirst) { port.queue.pop_back() } else { port.queue.pop_front() };
                let received = match next.expect("the queue is not empty") {
                    Envelope::Notice(_, notice) => {
                        port.notices -= 1;
                        Received::Notice(notice)
                    }
                    Envelope::Letter(letter) => {
                        self.discount(key, &letter);
                        Received::Message(self.deliver(letter, receiver))
                    }
                };
                self.admit(key);
                Some(Ok(received))
            }
        }
    }

    /// A letter has left the queue.
    fn discount(&mut self, key: Key<Port>, letter: &Letter) {
        let port = &mut self.ports[key];
        port.messages -= 1;
        port.bytes -= letter.bytes.len() as u32;
        self.receivers_in_transit -= letter.cargo.receivers();
    }

    /// Lets waiting senders in, in their order, while there is room.
    fn admit(&mut self, key: Key<Port>) {
        if planted(Bug::SendersForgotten) {
            return;
        }
        while let Some(sender) = self.ports[key].senders_waiting.front() {
            let bytes = self.pending(*sender).message.bytes.len();
            let port = &mut self.ports[key];
            if !port.has_room(bytes) {
                break;
            }
            let sender = port.senders_waiting.pop_front().expect("the queue was just seen not to be empty");
            let letter = self.let_sender_go(sender);
            self.accept(key, letter);
        }
    }

    pub(crate) fn pending(&self, sender: Key<Process>) -> &Pending {
        match &self.processes[sender].state {
            State::Waiting { waiting: Waiting::Send { pending, .. }, .. } => pending,
            _ => unreachable!("who stands in a queue of senders waits for room"),
        }
    }

    /// A waiting sender's message is accepted: it goes on, or waits for the answer from now on.
    fn let_sender_go(&mut self, sender: Key<Process>) -> Letter {
        let State::Waiting { waiting, .. } = &mut self.processes[sender].state else {
            unreachable!("who stands in a queue of senders waits")
        };
        let Waiting::Send { pending, .. } = core::mem::replace(waiting, Waiting::Sleep) else {
            unreachable!("who stands in a queue of senders waits for room")
        };
        match pending.call {
            None => {
                let letter = self.write_letter(sender, *pending);
                self.wake(sender, Outcome::Sent(Ok(())));
                letter
            }
            Some(call) => {
                *waiting = Waiting::Call { call };
                self.write_letter(sender, *pending)
            }
        }
    }

    /// Takes notices off the front that nobody wants any more: a service that begins a new life at its old port would
    /// else be told of work that its earlier life had asked for.
    fn drop_stale_notices(&mut self, key: Key<Port>) {
        while let Some(Envelope::Notice(owner, _)) = self.ports[key].queue.front() {
            if self.is_alive(*owner) {
                break;
            }
            let port = &mut self.ports[key];
            port.queue.pop_front();
            port.notices -= 1;
        }
    }

    /// Puts a notice into the queue, where it has its place. A port that closed meanwhile needs none.
    pub(crate) fn post(&mut self, key: Key<Port>, owner: Key<Process>, notice: Notice) {
        let Some(port) = self.ports.get_mut(key) else {
            return;
        };
        match port.receivers_waiting.pop_front() {
            Some(receiver) => {
                port.notices -= 1;
                self.wake_receiver(receiver, key, Received::Notice(notice));
                // It may have been the last thing that the other receivers could wait for.
                self.hush(key);
            }
            None => port.queue.push_back(Envelope::Notice(owner, notice)),
        }
    }

    /// Takes the request of a call out of the queue. The call is in stage `Queued`.
    pub(crate) fn withdraw_request(&mut self, key: Key<Port>, call: Key<Call>) {
        let port = &mut self.ports[key];
        let is_it = |envelope: &Envelope| matches!(envelope, Envelope::Letter(letter) if letter.call == Some(call));
        let position = port.queue.iter().position(is_it).expect("a queued call's request lies in its port's queue");
        let Some(Envelope::Letter(letter)) = port.queue.remove(position) else {
            unreachable!("it was just seen there")
        };
        self.discount(key, &letter);
        if let Cargo::Taken(rights) = letter.cargo {
            self.dropped.extend(rights);
        }
        self.admit(key);
    }
}

/// Leaving queues, and the end of ports.
impl Kernel {
    pub(crate) fn leave_receivers(&mut self, key: Key<Port>, receiver: Key<Process>) {
        self.ports[key].receivers_waiting.retain(|other| *other != receiver);
    }

    /// The one that leaves may have been what kept shorter messages behind it from the room there is.
    pub(crate) fn leave_senders(&mut self, key: Key<Port>, sender: Key<Process>) {
        self.ports[key].senders_waiting.retain(|other| *other != sender);
        self.admit(key);
    }

    pub(crate) fn release_port(&mut self, key: Key<Port>, rights: Rights) {
        let Some(port) = self.ports.get_mut(key) else {
            return;
        };
        port.send_rights -= u32::from(rights.contains(Rights::SEND));
        port.receive_rights -= u32::from(rights.contains(Rights::RECEIVE));
        if port.receive_rights == 0 {
            self.close_port(key);
        } else {
            self.hush(key);
        }
    }

    pub(crate) fn all_silent(&self, keys: &[Key<Port>]) -> bool {
        keys.iter().all(|key| self.ports[*key].is_silent())
    }

    /// If nothing can ever come to this port, whoever waits for it is told.
    pub(crate) fn hush(&mut self, key: Key<Port>) {
        let Some(port) = self.ports.get(key) else {
            return;
        };
        if !port.is_silent() || port.receivers_waiting.is_empty() {
            return;
        }
        for receiver in port.receivers_waiting.iter().copied().collect::<Vec<_>>() {
            let State::Waiting { waiting, .. } = &self.processes[receiver].state else {
                unreachable!("who stands in a queue of receivers waits")
            };
            let outcome = match waiting {
                Waiting::Receive { .. } => Outcome::Received(Err(ReceiveError::NoSenders)),
                Waiting::Select { ports } if self.all_silent(ports) => {
                    for port in ports.clone() {
                        self.leave_receivers(port, receiver);
                    }
                    Outcome::Selected(Err(ReceiveError::NoSenders))
                }
                _ => continue,
            };
            self.leave_receivers(key, receiver);
            self.wake(receiver, outcome);
        }
    }

    /// Nobody can receive from the port any more.
    pub(crate) fn close_port(&mut self, key: Key<Port>) {
        let port = self.ports.remove(key).expect("a port closes once");
        assert!(port.receivers_waiting.is_empty(), "a receiver waits at {:?} without the right to", port.id);
        if let Some(maker) = self.processes.get_mut(port.maker)
            && !matches!(maker.state, State::Exited { .. })
        {
            maker.used.ports -= 1;
            maker.used.buffer_bytes -= u64::from(port.options.bytes_max);
        }
        for envelope in port.queue {
            let Envelope::Letter(letter) = envelope else {
                continue;
            };
            self.receivers_in_transit -= letter.cargo.receivers();
            if let Cargo::Taken(rights) = letter.cargo {
                self.dropped.extend(rights);
            }
            if let Some(call) = letter.call {
                self.refuse_call(call);
            }
        }
        for sender in port.senders_waiting {
            match self.pending(sender).call {
                None => self.wake(sender, Outcome::Sent(Err(SendError::PortClosed))),
                Some(call) => {
                    self.calls.remove(call);
                    self.wake(sender, Outcome::Called(Err(abi::call::CallError::PortClosed)));
                }
            }
        }
        for watch in port.watches {
            self.fire(watch, NoticeEvent::PortClosed);
        }
    }
}
