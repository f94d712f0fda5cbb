//! Watches: notices that are still to come, about ends, times and device work. This file knows nothing of queues.
//!
//! The one idea: whoever asks to be told later gets a place in its own port's queue now. So a notice needs no room when it
//! comes, nobody can flood another's port with them, and none is lost.

use crate::Kernel;
use crate::agenda::Ticket;
use crate::call::{Call, CallerSide};
use crate::foreign::Errand;
use crate::handles::{Object, Right};
use crate::limits::PORT_NOTICES_MAX;
use crate::packet::Verdict;
use crate::port::Port;
use crate::process::{Cause, Process, State, Waiting};
use crate::schedule::{Due, Next};
use crate::table::Key;
use crate::world::Effect;
use abi::call::{HandleError, JournalError, Outcome, WatchError};
use abi::device::{APPEND_BYTES_MAX, JournalResult, JournalWork};
use abi::ids::{DeviceId, HandleId, ObjectId, Time, WatchId};
use abi::limits::Limit;
use abi::message::{Notice, NoticeEvent, Notify};
use abi::rights::Rights;
use alloc::vec::Vec;

/// One notice that is still to come.
///
/// Invariants: it stands in the list of what it watches, in the agenda, or is known to the world as a request; while its
/// port lives it is counted in the port's `notices`; while its owner lives, in the owner's `used.watches`.
pub struct Watch {
    pub(crate) id: WatchId,
    pub(crate) subject: Subject,
    pub(crate) owner: Key<Process>,
    /// Where the notice goes. A stand-in has no port: its wait ends instead.
    pub(crate) port: Option<Key<Port>>,
    pub(crate) token: u64,
}

/// What a notice will be about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    Process(Key<Process>),
    Port(Key<Port>),
    /// Whether somebody still waits for the answer.
    Reply(Key<Call>),
    Time(Ticket),
    Journal(DeviceId),
    /// Another node says when it has come.
    Abroad {
        errand: Key<Errand>,
        object: ObjectId,
    },
}

/// System calls.
impl Kernel {
    pub(crate) fn watch(&mut self, me: Key<Process>, subject: HandleId, notify: Notify) -> Outcome {
        Outcome::Watching(self.new_watch(me, subject, notify))
    }

    fn new_watch(&mut self, me: Key<Process>, subject: HandleId, notify: Notify) -> Result<HandleId, WatchError> {
        let object = self.find_object(me, subject, Rights::WATCH).map_err(WatchError::Subject)?;
        if object == Object::Process(me) {
            return Err(WatchError::Itself);
        }
        let port = self.place_for_notice(me, notify)?;
        let subject = match object {
            Object::Process(key) => Subject::Process(key),
            Object::Port(key) => Subject::Port(key),
            Object::Reply(key) => Subject::Reply(key),
            Object::Foreign(_, import) => {
                // What it watches is known once the other node was asked.
                let watch = self.create_watch(me, Subject::Port(port), Some(port), notify.token);
                self.watch_abroad(me, import, watch);
                return Ok(self.processes[me].handles.insert(Right::all(Object::Watch(watch))));
            }
            _ => return Err(WatchError::Subject(HandleError::WrongKind)),
        };
        if let Subject::Reply(call) = subject
            && self.calls[call].watch.is_some()
        {
            return Err(WatchError::Limit(Limit::Watches));
        }
        let watch = self.create_watch(me, subject, Some(port), notify.token);
        // What has happened already is told at once.
        match subject {
            Subject::Process(key) => match self.processes[key].state {
                State::Exited { exit } => {
                    let process = self.processes[key].id;
                    self.fire(watch, NoticeEvent::Exited { process, exit });
                }
                _ => self.processes[key].watches.push(watch),
            },
            Subject::Port(key) => match self.ports.get_mut(key) {
                None => self.fire(watch, NoticeEvent::PortClosed),
                Some(port) => port.watches.push(watch),
            },
            Subject::Reply(key) => match self.calls[key].caller_side {
                CallerSide::Over(_) | CallerSide::Gone => {
                    let id = self.calls[key].id;
                    self.fire(watch, NoticeEvent::CallerGone(id));
                }
                _ => self.calls[key].watch = Some(watch),
            },
            Subject::Time(_) | Subject::Journal(_) | Subject::Abroad { .. } => {
                unreachable!("no handle points to these")
            }
        }
        Ok(self.processes[me].handles.insert(Right::all(Object::Watch(watch))))
    }

    pub(crate) fn set_timer(&mut self, me: Key<Process>, at: Time, notify: Notify) -> Outcome {
        let port = match self.place_for_notice(me, notify) {
            Ok(port) => port,
            Err(error) => return Outcome::TimerSet(Err(error)),
        };
        // The agenda must know the watch, and the watch its place in the agenda.
        let unset = Subject::Port(port);
        let watch = self.create_watch(me, unset, Some(port), notify.token);
        if at <= self.now {
            self.fire(watch, NoticeEvent::Timer);
        } else {
            let ticket = self.alarms.add(at, Due::Watch(watch));
            self.watches[watch].subject = Subject::Time(ticket);
        }
        Outcome::TimerSet(Ok(self.processes[me].handles.insert(Right::all(Object::Watch(watch)))))
    }

    pub(crate) fn journal(
        &mut self, me: Key<Process>, device: HandleId, work: JournalWork, notify: Notify, effects: &mut Vec<Effect>,
    ) -> Next {
        let refuse = |error| Next::Return(Outcome::JournalAsked(Err(error)));
        let needed = match work {
            JournalWork::Load => Rights::READ,
            JournalWork::Append(_) | JournalWork::Flush | JournalWork::Replace(_) => Rights::WRITE,
        };
        let device = match self.find_object(me, device, needed) {
            Ok(Object::Device(device)) => device,
            Ok(_) => return refuse(JournalError::Device(HandleError::WrongKind)),
            Err(error) => return refuse(JournalError::Device(error)),
        };
        if matches!(&work, JournalWork::Append(bytes) if bytes.len() > APPEND_BYTES_MAX) {
            return refuse(JournalError::TooLong);
        }
        let port = match self.find_port(me, notify.port, Rights::RECEIVE) {
            Ok((port, _)) => port,
            Err(error) => return refuse(JournalError::Port(error)),
        };
        if let Err(limit) = self.watch_allowed(me, port) {
            return refuse(JournalError::Limit(limit));
        }
        let request = self.create_watch(me, Subject::Journal(device), Some(port), notify.token);
        effects.push(Effect::Journal { request, device, work });
        Next::Return(Outcome::JournalAsked(Ok(())))
    }
}

impl Kernel {
    /// The port that a notice shall go to, if the process may be promised one and has room for the handle to it.
    fn place_for_notice(&mut self, me: Key<Process>, notify: Notify) -> Result<Key<Port>, WatchError> {
        let (port, _) = self.find_port(me, notify.port, Rights::RECEIVE).map_err(WatchError::Port)?;
        self.watch_allowed(me, port).map_err(WatchError::Limit)?;
        match self.processes[me].handles.room() {
            0 => Err(WatchError::Limit(Limit::Handles)),
            _ => Ok(port),
        }
    }

    pub(crate) fn watch_allowed(&self, owner: Key<Process>, port: Key<Port>) -> Result<(), Limit> {
        let process = &self.processes[owner];
        if process.used.watches >= process.limits.watches_max {
            Err(Limit::Watches)
        } else if self.ports[port].notices >= PORT_NOTICES_MAX {
            Err(Limit::Notices)
        } else if self.watches.is_full() {
            Err(Limit::NodeWatches)
        } else {
            Ok(())
        }
    }

    /// Whoever calls this has seen that it is allowed.
    pub(crate) fn create_watch(
        &mut self, owner: Key<Process>, subject: Subject, port: Option<Key<Port>>, token: u64,
    ) -> Key<Watch> {
        self.processes[owner].used.watches += 1;
        if let Some(port) = port {
            self.ports[port].notices += 1;
        }
        let id = WatchId::new(self.node, self.serial());
        let watch = Watch { id, subject, owner, port, token };
        self.watches.insert(watch).expect("there is room, as the caller has seen")
    }

    fn take_watch(&mut self, key: Key<Watch>) -> Watch {
        let watch = self.watches.remove(key).expect("a watch fires or is forgotten once");
        if self.is_alive(watch.owner) {
            self.processes[watch.owner].used.watches -= 1;
        }
        watch
    }

    /// What was watched for has happened. The subject has taken the watch out of its list.
    pub(crate) fn fire(&mut self, key: Key<Watch>, event: NoticeEvent) {
        if !self.is_alive(self.watches[key].owner) {
            return self.forget_watch(key);
        }
        let Watch { port, token, owner, .. } = self.take_watch(key);
        match port {
            Some(port) => self.post(port, owner, Notice { token, event }),
            None => {
                let State::Waiting { waiting, .. } = &mut self.processes[owner].state else {
                    unreachable!("a stand-in waits for what it watches")
                };
                *waiting = Waiting::Post;
                self.homeward.push_back((owner, Some(Verdict::Fired(event))));
            }
        }
    }

    /// What was watched for cannot happen any more, or nobody wants to know. The subject has taken the watch out of its list.
    pub(crate) fn forget_watch(&mut self, key: Key<Watch>) {
        let Watch { port, .. } = self.take_watch(key);
        if let Some(port) = port
            && let Some(found) = self.ports.get_mut(port)
        {
            found.notices -= 1;
            self.hush(port);
        }
    }

    /// The handle to a watch is closed. It may have fired before.
    pub(crate) fn cancel_watch(&mut self, key: Key<Watch>) {
        let Some(watch) = self.watches.get(key) else {
            return;
        };
        match watch.subject {
            Subject::Process(process) => self.processes[process].watches.retain(|watch| *watch != key),
            Subject::Port(port) => self.ports[port].watches.retain(|watch| *watch != key),
            Subject::Reply(call) => self.calls[call].watch = None,
            Subject::Time(ticket) => {
                self.alarms.take(ticket);
            }
            Subject::Journal(_) => unreachable!("device work has no handle"),
            Subject::Abroad { errand, .. } => {
                self.recall(errand, Cause::Interrupted);
            }
        }
        self.forget_watch(key);
    }

    pub(crate) fn journal_done(&mut self, request: Key<Watch>, result: JournalResult) {
        let watch = self.watches.get(request).expect("the world answers each request once");
        assert!(matches!(watch.subject, Subject::Journal(_)), "the world answered what it was not asked");
        self.fire(request, NoticeEvent::Journal(result));
    }
}
