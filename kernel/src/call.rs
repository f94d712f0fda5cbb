//! Calls: a request, a right to answer it once, and what the caller learns if no answer comes. This file knows nothing of
//! queues.
//!
//! The one idea: the two sides of a call end independently, and its record lives until both have. What the caller is told
//! depends only on how far the server's side had come, so it is always told whether its request may have had an effect.
//!
//! ```text
//!   server's side:  Queued --- a server takes the request ---> Taken --- answers, or gives the right up ---> Done
//!   caller's side:  Blocked -------------------- answer, deadline, interrupt, death ---------------------->  Gone
//!                   Begun <-> Collecting ------- answer, deadline ---> Over ------- collected, closed ---->  Gone
//! ```

use crate::Kernel;
use crate::agenda::Ticket;
use crate::foreign::Errand;
use crate::handles::{Object, Refusal, Right};
use crate::limits::VERDICT_NS;
use crate::planted::{Bug, planted};
use crate::port::{Pending, Port};
use crate::process::{Cause, Process, State, Waiting};
use crate::schedule::{Due, Next};
use crate::table::Key;
use crate::watch::Watch;
use abi::call::{Begun, CallError, Deadline, EndCallError, HandleError, Outcome, Overflow, Reached, ReplyError, Wait};
use abi::ids::{CallId, HandleId};
use abi::limits::Limit;
use abi::message::{Answer, Badge, Bytes, MESSAGE_BYTES_MAX, MESSAGE_HANDLES_MAX, Message, NoticeEvent};
use abi::rights::Rights;
use alloc::boxed::Box;

/// One call.
///
/// Invariants: in `Queued` its request lies in that port's queue, or its caller waits for room there; in `Taken` exactly one
/// right to answer exists; in `Blocked` the caller waits for room or for the answer; in `Collecting` it waits for the
/// answer, and in `Begun`, `Collecting` and `Over` it has one handle to the call; `alarm` is set only in `Begun` and
/// `Collecting`; not both sides have ended.
pub struct Call {
    pub(crate) id: CallId,
    pub(crate) caller: Key<Process>,
    pub(crate) server_side: ServerSide,
    pub(crate) caller_side: CallerSide,
    pub(crate) alarm: Option<Ticket>,
    pub(crate) watch: Option<Key<Watch>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ServerSide {
    Queued(Key<Port>),
    /// At another node: how far it has come is known there.
    Away(Key<Errand>),
    Taken,
    Done,
}

pub(crate) enum CallerSide {
    Blocked,
    Begun,
    Collecting,
    Over(Result<Answering, CallError>),
    Gone,
}

/// An answer that the caller has not collected yet.
pub(crate) struct Answering {
    pub bytes: Bytes,
    pub rights: Box<[Right]>,
}

impl Call {
    pub fn blocks_caller(&self) -> bool {
        matches!(self.caller_side, CallerSide::Blocked)
    }

    /// Its server is at another node.
    pub fn is_away(&self) -> bool {
        matches!(self.server_side, ServerSide::Away(_))
    }

    pub fn alarm(&self) -> Option<Ticket> {
        self.alarm
    }

    /// A server takes the request.
    pub fn taken(&mut self) -> CallId {
        self.server_side = ServerSide::Taken;
        self.id
    }

    pub fn stop_collecting(&mut self) {
        self.caller_side = CallerSide::Begun;
    }

    fn reached(&self) -> Reached {
        match self.server_side {
            ServerSide::Queued(_) => Reached::Nobody,
            ServerSide::Taken | ServerSide::Done | ServerSide::Away(_) => {
                Reached::Server { sequence: self.id.sequence }
            }
        }
    }
}

/// What a call's request was found to be.
struct Prepared {
    port: Key<Port>,
    badge: Badge,
    id: CallId,
}

enum CallRefusal {
    Error(CallError),
    Breach(abi::process::Fault),
}

/// System calls.
impl Kernel {
    pub(crate) fn call(&mut self, me: Key<Process>, handle: HandleId, message: Message, deadline: Deadline) -> Next {
        if let Some(import) = self.foreign(me, handle, Rights::SEND) {
            return self.call_abroad(me, import, message, deadline, true);
        }
        let refuse = |error| Next::Return(Outcome::Called(Err(error)));
        let Prepared { port, badge, id } = match self.prepare_call(me, handle, &message, deadline) {
            Ok(prepared) => prepared,
            Err(CallRefusal::Error(error)) => return refuse(error),
            Err(CallRefusal::Breach(fault)) => return Next::Fault(fault),
        };
        if self.processes[me].handles.room() < MESSAGE_HANDLES_MAX {
            return refuse(CallError::Limit(Limit::Handles));
        }
        let wait = deadline.at.map_or(Wait::Forever, Wait::Until);
        if !self.may_wait(wait) {
            return refuse(CallError::Expired(Reached::Nobody));
        }
        let accepted = self.accepts(port, message.bytes.len());
        if !accepted && self.ports[port].options.overflow == Overflow::Drop {
            return refuse(CallError::Full);
        }
        let call = self.create_call(id, me, ServerSide::Queued(port), CallerSide::Blocked);
        let pending = Pending { message, badge, call: Some(call) };
        if !accepted {
            self.ports[port].senders_waiting.push_back(me);
            return self.block(me, Waiting::Send { port, pending: Box::new(pending) }, wait);
        }
        let next = self.block(me, Waiting::Call { call }, wait);
        let letter = self.write_letter(me, pending);
        self.accept(port, letter);
        next
    }

    pub(crate) fn begin_call(
        &mut self, me: Key<Process>, handle: HandleId, message: Message, deadline: Deadline,
    ) -> Next {
        if let Some(import) = self.foreign(me, handle, Rights::SEND) {
            return self.call_abroad(me, import, message, deadline, false);
        }
        let refuse = |error| Next::Return(Outcome::CallBegun(Err(error)));
        let Prepared { port, badge, id } = match self.prepare_call(me, handle, &message, deadline) {
            Ok(prepared) => prepared,
            Err(CallRefusal::Error(error)) => return refuse(error),
            Err(CallRefusal::Breach(fault)) => return Next::Fault(fault),
        };
        if self.processes[me].handles.room() == 0 {
            return refuse(CallError::Limit(Limit::Handles));
        }
        if deadline.at.is_some_and(|at| at <= self.now) {
            return refuse(CallError::Expired(Reached::Nobody));
        }
        if !self.accepts(port, message.bytes.len()) {
            return refuse(CallError::Full);
        }
        let call = self.create_call(id, me, ServerSide::Queued(port), CallerSide::Begun);
        let letter = self.write_letter(me, Pending { message, badge, call: Some(call) });
        self.accept(port, letter);
        Next::Return(self.call_begun(me, call, deadline))
    }

    /// The caller gets its handle to a call that was begun.
    pub(crate) fn call_begun(&mut self, me: Key<Process>, call: Key<Call>, deadline: Deadline) -> Outcome {
        if let Some(at) = deadline.at {
            self.calls[call].alarm = Some(self.alarms.add(at, Due::Call(call)));
        }
        let handle = self.processes[me].handles.insert(Right::all(Object::Call(call)));
        Outcome::CallBegun(Ok(Begun { call: handle, sequence: self.calls[call].id.sequence }))
    }

    fn prepare_call(
        &mut self, me: Key<Process>, handle: HandleId, message: &Message, deadline: Deadline,
    ) -> Result<Prepared, CallRefusal> {
        let (port, badge) =
            self.find_port(me, handle, Rights::SEND).map_err(|error| CallRefusal::Error(CallError::Handle(error)))?;
        self.check_transfers(me, &message.handles, Some(port)).map_err(|refusal| match refusal {
            Refusal::Breach(fault) => CallRefusal::Breach(fault),
            Refusal::Error(error) => CallRefusal::Error(CallError::Transfer(error)),
        })?;
        let refuse = |error| Err(CallRefusal::Error(error));
        match self.ports.get(port) {
            None => return refuse(CallError::PortClosed),
            Some(port) if port.too_long(message.bytes.len()) => return refuse(CallError::TooLong),
            Some(_) => {}
        }
        if self.calls.is_full() {
            return refuse(CallError::Limit(Limit::NodeCalls));
        }
        let id = self.number_call(me, deadline).map_err(CallRefusal::Error)?;
        Ok(Prepared { port, badge, id })
    }

    /// Which of the caller's calls this is.
    pub(crate) fn number_call(&mut self, me: Key<Process>, deadline: Deadline) -> Result<CallId, CallError> {
        let process = &mut self.processes[me];
        let sequence = match deadline.again {
            Some(again) if again == 0 || again > process.calls_made => {
                return Err(CallError::NeverCalled);
            }
            Some(again) if !planted(Bug::RetryRenumbered) => again,
            _ => {
                process.calls_made += 1;
                process.calls_made
            }
        };
        Ok(CallId { caller: process.id, sequence })
    }

    pub(crate) fn create_call(
        &mut self, id: CallId, caller: Key<Process>, server_side: ServerSide, caller_side: CallerSide,
    ) -> Key<Call> {
        let call = Call { id, caller, server_side, caller_side, alarm: None, watch: None };
        self.calls.insert(call).expect("there is room, as was seen when the call was prepared")
    }

    pub(crate) fn end_call(&mut self, me: Key<Process>, handle: HandleId, wait: Wait) -> Next {
        let refuse = |error| Next::Return(Outcome::CallEnded(Err(error)));
        let key = match self.find_object(me, handle, Rights::ANSWER) {
            Ok(Object::Call(key)) => key,
            Ok(_) => return refuse(EndCallError::Handle(HandleError::WrongKind)),
            Err(error) => return refuse(EndCallError::Handle(error)),
        };
        let room = self.processes[me].handles.room();
        match &self.calls[key].caller_side {
            CallerSide::Over(Ok(answering)) if answering.rights.len() > room + 1 => {
                return refuse(EndCallError::Limit(Limit::Handles));
            }
            CallerSide::Over(_) => {
                let side = core::mem::replace(&mut self.calls[key].caller_side, CallerSide::Gone);
                let CallerSide::Over(result) = side else { unreachable!("it was just seen") };
                self.free_call_if_over(key);
                self.receivers_in_transit -= result.as_ref().map_or(0, |answering| answering.receivers());
                return Next::Return(self.collect(me, handle, result));
            }
            CallerSide::Begun => {}
            _ => unreachable!("a running process collects nothing"),
        }
        if !self.may_wait(wait) {
            return refuse(EndCallError::NotYet);
        }
        if room < MESSAGE_HANDLES_MAX {
            return refuse(EndCallError::Limit(Limit::Handles));
        }
        self.calls[key].caller_side = CallerSide::Collecting;
        self.block(me, Waiting::EndCall { call: key, handle }, wait)
    }

    pub(crate) fn reply(&mut self, me: Key<Process>, handle: HandleId, message: Message) -> Next {
        let refuse = |error| Next::Return(Outcome::Replied(Err(error)));
        let key = match self.find_object(me, handle, Rights::ANSWER) {
            Ok(Object::Reply(key)) => key,
            Ok(_) => return refuse(ReplyError::Handle(HandleError::WrongKind)),
            Err(error) => return refuse(ReplyError::Handle(error)),
        };
        match self.check_transfers(me, &message.handles, None) {
            Ok(()) => {}
            Err(Refusal::Breach(fault)) => return Next::Fault(fault),
            Err(Refusal::Error(error)) => return refuse(ReplyError::Transfer(error)),
        }
        let caller = self.calls[key].caller;
        if !message.handles.is_empty()
            && self.processes.get(caller).is_some_and(|caller| caller.is_for_another(self.node))
            && let Err(error) = self.check_leaving(me, &message.handles)
        {
            return refuse(ReplyError::Transfer(error));
        }
        // The right that is used up by this cannot travel in it too.
        if message.handles.iter().any(|transfer| transfer.handle == handle) {
            return refuse(ReplyError::Handle(HandleError::Bad));
        }
        if message.bytes.len() > MESSAGE_BYTES_MAX {
            return refuse(ReplyError::TooLong);
        }
        if !planted(Bug::ReplyTwice) || matches!(self.calls[key].caller_side, CallerSide::Gone | CallerSide::Over(_)) {
            self.processes[me].handles.remove(handle).expect("the handle was just found");
            self.calls[key].server_side = ServerSide::Done;
        }
        match self.calls[key].caller_side {
            CallerSide::Over(_) | CallerSide::Gone => {
                self.free_call_if_over(key);
                refuse(ReplyError::CallerGone)
            }
            CallerSide::Blocked | CallerSide::Begun | CallerSide::Collecting => {
                let rights = self.take(me, &message.handles);
                self.settle(key, Ok(Answering { bytes: message.bytes, rights }));
                Next::Return(Outcome::Replied(Ok(())))
            }
        }
    }
}

/// The ends of calls.
impl Kernel {
    /// The caller's side learns how the call ended.
    fn settle(&mut self, key: Key<Call>, result: Result<Answering, CallError>) {
        let call = &mut self.calls[key];
        if let Some(ticket) = call.alarm.take() {
            self.alarms.take(ticket);
        }
        let caller = call.caller;
        match call.caller_side {
            CallerSide::Blocked => {
                call.caller_side = CallerSide::Gone;
                self.free_call_if_over(key);
                let answer = result.map(|Answering { bytes, rights }| {
                    let handles = if rights.is_empty() { Box::default() } else { self.install(caller, rights) };
                    Answer { bytes, handles }
                });
                self.wake(caller, Outcome::Called(answer));
            }
            CallerSide::Collecting => {
                call.caller_side = CallerSide::Gone;
                self.free_call_if_over(key);
                let State::Waiting { waiting: Waiting::EndCall { handle, .. }, .. } = self.processes[caller].state
                else {
                    unreachable!("a caller that collects waits for the answer")
                };
                let outcome = self.collect(caller, handle, result);
                self.wake(caller, outcome);
            }
            CallerSide::Begun => {
                self.receivers_in_transit += result.as_ref().map_or(0, |answering| answering.receivers());
                call.caller_side = CallerSide::Over(result);
            }
            CallerSide::Over(_) | CallerSide::Gone => {
                unreachable!("the caller's side of a call ends once")
            }
        }
    }

    /// Gives a caller the result of a call that it began; the handle to the call is used up.
    fn collect(&mut self, caller: Key<Process>, handle: HandleId, result: Result<Answering, CallError>) -> Outcome {
        self.processes[caller].handles.remove(handle).expect("whoever collects has the handle");
        Outcome::CallEnded(match result {
            Ok(Answering { bytes, rights }) => Ok(Answer { bytes, handles: self.install(caller, rights) }),
            Err(error) => Err(EndCallError::Failed(error)),
        })
    }

    pub(crate) fn free_call_if_over(&mut self, key: Key<Call>) {
        let call = &self.calls[key];
        if call.server_side == ServerSide::Done && matches!(call.caller_side, CallerSide::Gone) {
            let call = self.calls.remove(key).expect("it was just seen");
            if let Some(watch) = call.watch {
                self.forget_watch(watch);
            }
        }
    }

    /// A blocked caller gives up, after its request was accepted: how far the request had come.
    pub(crate) fn abandon_call(&mut self, key: Key<Call>, cause: Cause) -> Reached {
        let reached = match self.calls[key].server_side {
            ServerSide::Away(errand) => self.leave_call(key, errand, cause),
            _ => self.calls[key].reached(),
        };
        self.calls[key].caller_side = CallerSide::Gone;
        self.leave_server(key, Bug::OrphanServed);
        reached
    }

    /// Nobody waits for the answer any more: takes the request back, or tells who works on it.
    fn leave_server(&mut self, key: Key<Call>, skipped: Bug) {
        match self.calls[key].server_side {
            ServerSide::Queued(_) if planted(skipped) => {}
            ServerSide::Queued(port) => {
                self.calls[key].server_side = ServerSide::Done;
                self.withdraw_request(port, key);
                self.free_call_if_over(key);
            }
            ServerSide::Taken => {
                let id = self.calls[key].id;
                if let Some(watch) = self.calls[key].watch.take() {
                    self.fire(watch, NoticeEvent::CallerGone(id));
                }
            }
            ServerSide::Away(errand) => {
                self.leave_call(key, errand, Cause::Interrupted);
                self.free_call_if_over(key);
            }
            ServerSide::Done => self.free_call_if_over(key),
        }
    }

    /// A blocked caller is roused while a server has its request, or may have it: the call goes on as one that was begun.
    pub(crate) fn detach_call(&mut self, key: Key<Call>) {
        let caller = self.calls[key].caller;
        if let ServerSide::Away(errand) = self.calls[key].server_side {
            self.drop_moved(caller, errand);
        }
        let State::Waiting { alarm, .. } = &mut self.processes[caller].state else {
            unreachable!("a blocked caller waits")
        };
        if let Some(ticket) = alarm.take() {
            let at = self.alarms.time_of(ticket);
            self.alarms.take(ticket);
            self.calls[key].alarm = Some(self.alarms.add(at, Due::Call(key)));
        }
        let call = &mut self.calls[key];
        call.caller_side = CallerSide::Begun;
        let sequence = call.id.sequence;
        // There was room for an answer's handles, and a process that waits gets none.
        let call = self.processes[caller].handles.insert(Right::all(Object::Call(key)));
        self.wake(caller, Outcome::Called(Err(CallError::Detached { call, sequence })));
    }

    /// The deadline of a call that was begun has come; its alarm is spent.
    pub(crate) fn expire_call(&mut self, key: Key<Call>) {
        self.calls[key].alarm = None;
        if self.call_awaits_verdict(key) {
            let at = self.now.after(VERDICT_NS);
            self.calls[key].alarm = Some(self.alarms.add(at, Due::Call(key)));
            return;
        }
        let reached = match self.calls[key].server_side {
            ServerSide::Away(errand) => self.leave_call(key, errand, Cause::Expired),
            _ => self.calls[key].reached(),
        };
        self.settle(key, Err(CallError::Expired(reached)));
        if self.calls.get(key).is_some() {
            self.leave_server(key, Bug::ExpiredCallServed);
        }
    }

    /// The handle to a call that was begun is closed.
    pub(crate) fn cancel_call(&mut self, key: Key<Call>) {
        let call = &mut self.calls[key];
        if let Some(ticket) = call.alarm.take() {
            self.alarms.take(ticket);
        }
        let over = match core::mem::replace(&mut call.caller_side, CallerSide::Gone) {
            CallerSide::Over(result) => {
                if let Ok(answering) = result {
                    self.receivers_in_transit -= answering.receivers();
                    self.dropped.extend(answering.rights);
                }
                true
            }
            _ => false,
        };
        match over {
            true => self.free_call_if_over(key),
            false => {
                self.leave_server(key, Bug::OrphanServed);
            }
        }
    }

    /// The right to answer is gone without an answer.
    pub(crate) fn release_reply(&mut self, key: Key<Call>) {
        let call = &mut self.calls[key];
        call.server_side = ServerSide::Done;
        let sequence = call.id.sequence;
        match call.caller_side {
            CallerSide::Over(_) | CallerSide::Gone => self.free_call_if_over(key),
            _ if planted(Bug::ServerDeathSilent) => {}
            _ => self.settle(key, Err(CallError::Abandoned { sequence })),
        }
    }

    /// Another node says how a call ended.
    pub(crate) fn answered_abroad(&mut self, key: Key<Call>, result: Result<Bytes, CallError>, rights: Box<[Right]>) {
        self.calls[key].server_side = ServerSide::Done;
        self.settle(key, result.map(|bytes| Answering { bytes, rights }));
    }

    /// The port closed before a server took the request.
    pub(crate) fn refuse_call(&mut self, key: Key<Call>) {
        self.calls[key].server_side = ServerSide::Done;
        match self.calls[key].caller_side {
            CallerSide::Over(_) | CallerSide::Gone => self.free_call_if_over(key),
            _ => self.settle(key, Err(CallError::PortClosed)),
        }
    }
}

impl Answering {
    pub fn receivers(&self) -> u32 {
        crate::port::count_receivers(&self.rights)
    }
}
