//! Processes: birth, end, family, and who may hold or end whom. This file knows nothing of how programs run.
//!
//! ```text
//!              Started           a worker is free
//!   Starting ----------> Ready ------------------> Running --- system call waits ---> Waiting
//!                         ^ ^ \ hold                 |  \                                |
//!                         | |  v                     |   \ killed by another             |
//!                         | | Held  <----------------+    v                              |
//!                         | +--------- slice over ---+   Doomed (until it comes back)    |
//!                         +---------------- what it waited for, or an error -------------+
//!   any of these --- exit, kill, fault ---> Exited --- last handle closed ---> gone
//! ```

use crate::Kernel;
use crate::agenda::Ticket;
use crate::call::{Call, ServerSide};
use crate::foreign::{Abroad, Errand, What};
use crate::handles::{Handles, Object, Refusal, Right};
use crate::packet::Verdict;
use crate::pipe::Pipe;
use crate::planted::{Bug, planted};
use crate::port::{Pending, Port};
use crate::schedule::{Next, Worker};
use crate::table::Key;
use crate::watch::{Subject, Watch};
use crate::world::{Effect, WorkerId};
use abi::call::{
    CallError, ControlError, EndCallError, Outcome, Reached, ReadError, ReceiveError, SendError, SleepError,
    SpawnError, Wait, WaitError, WriteCause, WriteError,
};
use abi::ids::{HandleId, ProcessId, Time};
use abi::limits::{Limit, Limits, WEIGHT_MAX};
use abi::message::{Bytes, NoticeEvent, Notify};
use abi::process::{Exit, Orphan, Program, Spawn, Spawned};
use abi::rights::Rights;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::ControlFlow;

/// One process.
///
/// Invariants: `references` counts the handles to it, everywhere; a process that exited has no handles, children, waiters or
/// watches and is kept only while `references` is not zero; `next_sibling` and `previous_sibling` link exactly the children
/// of `parent`, none of which has exited.
pub struct Process {
    pub(crate) id: ProcessId,
    pub(crate) state: State,
    /// What its last system call gives, once it runs again.
    pub(crate) outcome: Outcome,
    /// It shall not run, whatever it becomes ready for.
    pub(crate) held: bool,
    /// Its next sleep ends at once.
    pub(crate) stirred: bool,
    pub(crate) handles: Handles,
    pub(crate) references: u32,
    pub(crate) limits: Limits,
    pub(crate) used: Used,
    pub(crate) calls_made: u64,

    /// Its place in the ready queue: see `schedule`.
    pub(crate) tag: u64,
    pub(crate) weight: u32,
    pub(crate) used_ns: u64,

    pub(crate) program: Program,
    pub(crate) orphan: Orphan,
    pub(crate) parent: Option<Key<Process>>,
    pub(crate) first_child: Option<Key<Process>>,
    pub(crate) next_sibling: Option<Key<Process>>,
    pub(crate) previous_sibling: Option<Key<Process>>,
    /// Processes that wait for its end.
    pub(crate) waiters: Vec<Key<Process>>,
    pub(crate) watches: Vec<Key<Watch>>,
    /// It is a stand-in, and has no program: see `foreign`.
    pub(crate) abroad: Option<Box<Abroad>>,
}

/// What of its limits a process has used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Used {
    pub ports: u32,
    pub pipes: u32,
    pub children: u32,
    pub watches: u32,
    pub buffer_bytes: u64,
}

pub(crate) enum State {
    /// The world makes an instance.
    Starting,
    /// In the ready queue, under this ticket.
    Ready {
        ticket: Ticket,
    },
    /// It could run and is kept from it.
    Held,
    Running {
        worker: WorkerId,
        since: Time,
    },
    /// It was ended while it ran on another worker. It has no effect any more; it is over when it comes back.
    Doomed {
        worker: WorkerId,
        exit: Exit,
    },
    Waiting {
        waiting: Waiting,
        alarm: Option<Ticket>,
    },
    Exited {
        exit: Exit,
    },
}

/// What a process waits for, and thereby in whose queue it stands.
pub(crate) enum Waiting {
    Receive {
        port: Key<Port>,
    },
    Select {
        ports: Box<[Key<Port>]>,
    },
    /// For room. If the message is a call, its record exists already.
    Send {
        port: Key<Port>,
        pending: Box<Pending>,
    },
    /// For the answer.
    Call {
        call: Key<Call>,
    },
    /// For the answer to a call that was begun earlier.
    EndCall {
        call: Key<Call>,
        handle: HandleId,
    },
    Exit {
        process: Key<Process>,
    },
    Sleep,
    Read {
        pipe: Key<Pipe>,
        bytes_max: u32,
    },
    Write {
        pipe: Key<Pipe>,
        rest: Box<Bytes>,
        written: u32,
    },
    /// For what another node does.
    Away {
        errand: Key<Errand>,
    },
    /// A stand-in, for what it watches.
    Notice {
        watch: Key<Watch>,
    },
    /// A stand-in, for the end of its child; or until the end of this step.
    Post,
}

/// Why a wait ends without what was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    Expired,
    Interrupted,
}

impl Process {
    pub(crate) fn new(id: ProcessId, program: Program, limits: Limits, weight: u32, orphan: Orphan) -> Process {
        Process {
            id,
            state: State::Starting,
            outcome: Outcome::Begun,
            held: false,
            stirred: false,
            handles: Handles::new(limits.handles_max),
            references: 0,
            limits,
            used: Used::default(),
            calls_made: 0,
            tag: 0,
            weight,
            used_ns: 0,
            program,
            orphan,
            parent: None,
            first_child: None,
            next_sibling: None,
            previous_sibling: None,
            waiters: Vec::new(),
            watches: Vec::new(),
            abroad: None,
        }
    }
}

impl Process {
    /// Whether it stands in for a process of another node than this.
    pub(crate) fn is_for_another(&self, node: abi::ids::NodeId) -> bool {
        self.abroad.as_deref().is_some_and(|abroad| abroad.node != node)
    }
}

/// Birth.
impl Kernel {
    pub(crate) fn boot(&mut self, program: Program, arguments: Bytes, limits: Limits, effects: &mut Vec<Effect>) {
        assert!(self.processes.len() == 0 && self.first.is_none(), "a node is booted once");
        let weight = abi::limits::WEIGHT_NORMAL;
        let key = self.create_process(program, limits, weight, Orphan::Dies, None);
        let devices: Vec<Right> = self.devices().map(|device| Right::all(Object::Device(device))).collect();
        self.install(key, devices.into());
        if self.life != 0 {
            let network = Right::all(Object::Device(abi::ids::DeviceId::NETWORK));
            self.install(key, Box::new([network]));
        }
        self.first = Some(key);
        self.start(key, arguments, effects);
    }

    pub(crate) fn spawn(&mut self, me: Key<Process>, spawn: Spawn, effects: &mut Vec<Effect>) -> Next {
        let refuse = |error| Next::Return(Outcome::Spawned(Err(error)));
        match self.check_transfers(me, &spawn.handles, None) {
            Ok(()) => {}
            Err(Refusal::Breach(fault)) => return Next::Fault(fault),
            Err(Refusal::Error(error)) => return refuse(SpawnError::Transfer(error)),
        }
        if spawn.weight == 0 || spawn.weight > WEIGHT_MAX {
            return refuse(SpawnError::Weight);
        }
        let process = &self.processes[me];
        let limit = if !spawn.limits.within(&process.limits) {
            Some(Limit::Wider)
        } else if process.used.children >= process.limits.children_max {
            Some(Limit::Children)
        } else if self.processes.is_full() {
            Some(Limit::NodeProcesses)
        } else if spawn.limits.handles_max < spawn.handles.len() as u32 || process.handles.room() == 0 {
            Some(Limit::Handles)
        } else {
            None
        };
        if let Some(limit) = limit {
            return refuse(SpawnError::Limit(limit));
        }
        let watching = match self.supervisor_port(me, spawn.supervisor) {
            Ok(watching) => watching,
            Err(error) => return refuse(error),
        };

        let child = self.create_process(spawn.program, spawn.limits, spawn.weight, spawn.orphan, Some(me));
        if let Some(again) = spawn.again {
            let process = &mut self.processes[child];
            (process.id, process.calls_made) = (again.id, again.calls_made());
        }
        if let Some((port, token)) = watching {
            let watch = self.create_watch(me, Subject::Process(child), Some(port), token);
            self.processes[child].watches.push(watch);
        }
        let rights = self.take(me, &spawn.handles);
        self.install(child, rights);
        let right = Right::all(Object::Process(child));
        self.retain(&right);
        let process = self.processes[me].handles.insert(right);
        let id = self.processes[child].id;
        self.start(child, spawn.arguments, effects);
        Next::Return(Outcome::Spawned(Ok(Spawned { process, id })))
    }

    /// The port to which a child's end is to be told, if it can be: with the token of the notice.
    pub(crate) fn supervisor_port(
        &self, me: Key<Process>, supervisor: Option<Notify>,
    ) -> Result<Option<(Key<Port>, u64)>, SpawnError> {
        let Some(notify) = supervisor else { return Ok(None) };
        let (port, _) = self.find_port(me, notify.port, Rights::RECEIVE).map_err(SpawnError::Supervisor)?;
        self.watch_allowed(me, port).map_err(SpawnError::Limit)?;
        Ok(Some((port, notify.token)))
    }

    fn create_process(
        &mut self, program: Program, limits: Limits, weight: u32, orphan: Orphan, parent: Option<Key<Process>>,
    ) -> Key<Process> {
        let process = Process::new(ProcessId::new(self.node, self.serial()), program, limits, weight, orphan);
        let key = self.processes.insert(process).expect("the caller has seen that there is room");
        if let Some(parent) = parent {
            self.link(key, parent);
        }
        key
    }

    fn start(&mut self, key: Key<Process>, arguments: Bytes, effects: &mut Vec<Effect>) {
        let Process { id, program, limits, .. } = self.processes[key];
        let memory_pages_max = limits.memory_pages_max;
        effects.push(Effect::Start { process: key, id, program, arguments, memory_pages_max });
    }

    pub(crate) fn started(&mut self, key: Key<Process>) {
        // It may have been killed before its instance was there.
        if let Some(Process { state: State::Starting, .. }) = self.processes.get(key) {
            self.make_ready(key);
        }
    }

    pub(crate) fn not_started(
        &mut self, key: Key<Process>, failure: abi::process::StartFailure, effects: &mut Vec<Effect>,
    ) {
        if let Some(Process { state: State::Starting, .. }) = self.processes.get(key) {
            self.end(key, Exit::NotStarted(failure), effects);
        }
    }

    pub(crate) fn link(&mut self, child: Key<Process>, parent: Key<Process>) {
        let next = self.processes[parent].first_child.replace(child);
        self.processes[parent].used.children += 1;
        if let Some(next) = next {
            self.processes[next].previous_sibling = Some(child);
        }
        let process = &mut self.processes[child];
        (process.parent, process.next_sibling, process.previous_sibling) = (Some(parent), next, None);
    }

    /// Whether a process has not ended.
    pub(crate) fn is_alive(&self, key: Key<Process>) -> bool {
        self.processes.get(key).is_some_and(|process| !matches!(process.state, State::Exited { .. }))
    }

    pub(crate) fn unlink(&mut self, child: Key<Process>) {
        let Process { parent, next_sibling, previous_sibling, .. } = self.processes[child];
        let Some(parent) = parent else { return };
        match previous_sibling {
            Some(previous) => self.processes[previous].next_sibling = next_sibling,
            None => self.processes[parent].first_child = next_sibling,
        }
        if let Some(next) = next_sibling {
            self.processes[next].previous_sibling = previous_sibling;
        }
        self.processes[parent].used.children -= 1;
        self.leave_if_childless(parent);
        let process = &mut self.processes[child];
        (process.parent, process.next_sibling, process.previous_sibling) = (None, None, None);
    }
}

/// The end.
impl Kernel {
    /// A child is gone. A stand-in that was its parent has perhaps nothing to stand for any more, or only one child elsewhere.
    pub(crate) fn leave_if_childless(&mut self, key: Key<Process>) {
        let process = &self.processes[key];
        if process.abroad.is_none() {
            return;
        }
        if process.used.children == 0 && !self.outposts.contains_key(&key) {
            self.homeward.push_back((key, Some(Verdict::Over)));
        } else if !planted(Bug::HandedByParentsNever) {
            self.looked_at.push(key);
        }
    }

    pub(crate) fn kill(&mut self, me: Key<Process>, handle: HandleId, effects: &mut Vec<Effect>) -> Next {
        let target = match self.find_process(me, handle, Rights::KILL) {
            Ok(target) => target,
            Err(error) => {
                return match self.foreign(me, handle, Rights::KILL) {
                    Some(import) => self.control_abroad(me, import, What::Kill),
                    None => Next::Return(Outcome::Killed(Err(ControlError::Handle(error)))),
                };
            }
        };
        if target == me {
            self.end(me, Exit::Killed, effects);
            return Next::Ended;
        }
        if let State::Exited { .. } = self.processes[target].state {
            return Next::Return(Outcome::Killed(Err(ControlError::Ended)));
        }
        self.end_other(target, Exit::Killed, effects);
        Next::Return(Outcome::Killed(Ok(())))
    }

    /// Ends a process wherever it is; one that runs on another worker is over when it comes back.
    pub(crate) fn end_other(&mut self, key: Key<Process>, exit: Exit, effects: &mut Vec<Effect>) {
        match self.processes[key].state {
            State::Running { worker, .. } => {
                self.processes[key].state = State::Doomed { worker, exit };
                effects.push(Effect::Interrupt { worker, process: key });
            }
            State::Doomed { .. } | State::Exited { .. } => {}
            State::Waiting { .. } if planted(Bug::KillIgnoresWaiting) => {}
            _ => self.end(key, exit, effects),
        }
    }

    /// Ends a process that runs nowhere, or on the worker whose thread is in this step; its children that are not to be
    /// adopted end with it.
    pub(crate) fn end(&mut self, key: Key<Process>, exit: Exit, effects: &mut Vec<Effect>) {
        let mut ending = alloc::vec![(key, exit)];
        while let Some((key, exit)) = ending.pop() {
            self.end_one(key, exit, effects);
            let parent = self.processes[key].parent;
            while let Some(child) = self.processes[key].first_child {
                self.unlink(child);
                match (self.processes[child].orphan, parent) {
                    (Orphan::IsAdopted, Some(parent)) => self.link(child, parent),
                    (Orphan::IsAdopted, None) | (Orphan::Dies, _) => {
                        match self.processes[child].state {
                            // It runs, on another worker, or is the one that ended its parent.
                            State::Running { worker, .. } => {
                                self.processes[child].state = State::Doomed { worker, exit: Exit::Orphaned };
                                effects.push(Effect::Interrupt { worker, process: child });
                            }
                            State::Doomed { .. } => {}
                            _ => ending.push((child, Exit::Orphaned)),
                        }
                    }
                }
            }
            self.unlink(key);
            if self.processes[key].references == 0 {
                self.processes.remove(key);
            }
        }
    }

    fn end_one(&mut self, key: Key<Process>, exit: Exit, effects: &mut Vec<Effect>) {
        if let State::Waiting { .. } = self.processes[key].state {
            self.withdraw(key);
        }
        match core::mem::replace(&mut self.processes[key].state, State::Exited { exit }) {
            State::Ready { ticket } => {
                self.ready.take(ticket);
            }
            State::Waiting { alarm: Some(ticket), .. } => {
                self.alarms.take(ticket);
            }
            State::Exited { .. } => unreachable!("a process ends once"),
            _ => {}
        }
        // The world has no instance of what it could not start, and forgets one that it is still making.
        if !matches!(exit, Exit::NotStarted(_)) {
            effects.push(Effect::Destroy { process: key, exit });
        }
        let rights = self.processes[key].handles.drain();
        self.dropped.extend(rights);
        if !self.outposts.is_empty() {
            self.leave_outposts(key);
        }
        for waiter in core::mem::take(&mut self.processes[key].waiters) {
            self.wake(waiter, Outcome::Waited(Ok(exit)));
        }
        let process = self.processes[key].id;
        for watch in core::mem::take(&mut self.processes[key].watches) {
            if !planted(Bug::ExitNotTold) {
                self.fire(watch, NoticeEvent::Exited { process, exit });
            } else {
                self.forget_watch(watch);
            }
        }
        if self.first == Some(key) {
            self.dropped.extend(self.door.take());
            effects.push(Effect::Halt { exit });
        }
        self.sweep_wanted = true;
    }

    /// A handle to the process is gone.
    pub(crate) fn release_process(&mut self, key: Key<Process>) {
        let process = &mut self.processes[key];
        process.references -= 1;
        if process.references == 0 && matches!(process.state, State::Exited { .. }) {
            self.processes.remove(key);
        }
    }

    pub(crate) fn wait(&mut self, me: Key<Process>, handle: HandleId, wait: Wait) -> Next {
        let refuse = |error| Next::Return(Outcome::Waited(Err(error)));
        let target = match self.find_process(me, handle, Rights::WAIT) {
            Ok(target) if target == me => return refuse(WaitError::Itself),
            Ok(target) => target,
            Err(error) => {
                return match self.foreign(me, handle, Rights::WAIT) {
                    Some(import) => self.wait_for_abroad(me, import, wait),
                    None => refuse(WaitError::Handle(error)),
                };
            }
        };
        if let State::Exited { exit } = self.processes[target].state {
            return Next::Return(Outcome::Waited(Ok(exit)));
        }
        if !self.may_wait(wait) {
            return refuse(WaitError::Expired);
        }
        self.processes[target].waiters.push(me);
        self.block(me, Waiting::Exit { process: target }, wait)
    }
}

/// Waiting in general.
impl Kernel {
    /// Whether there is time to wait.
    pub(crate) fn may_wait(&self, wait: Wait) -> bool {
        match wait {
            Wait::No => false,
            Wait::Until(at) => at > self.now,
            Wait::Forever => true,
        }
    }

    pub(crate) fn sleep(&mut self, me: Key<Process>, until: Time) -> Next {
        if until <= self.now {
            return Next::Yield(Outcome::Slept(Ok(())));
        }
        if core::mem::take(&mut self.processes[me].stirred) {
            return Next::Return(Outcome::Slept(Err(SleepError::Interrupted)));
        }
        self.block(me, Waiting::Sleep, Wait::Until(until))
    }

    pub(crate) fn stir(&mut self, key: Key<Process>) {
        // It may have ended meanwhile: whoever stirs it cannot know.
        let Some(process) = self.processes.get_mut(key) else {
            return;
        };
        match process.state {
            State::Waiting { waiting: Waiting::Sleep, .. } => self.give_up(key, Cause::Interrupted),
            State::Exited { .. } | State::Doomed { .. } => {}
            _ => process.stirred = !planted(Bug::StirLost),
        }
    }

    /// Ends what a process waits for, so that it can be asked again or goes on by itself: nothing is given up whose end is not known.
    pub(crate) fn rouse(&mut self, key: Key<Process>) {
        let Some(Process { state: State::Waiting { waiting, .. }, .. }) = self.processes.get(key) else {
            return;
        };
        match waiting {
            Waiting::Call { call } => match self.calls[*call].server_side {
                ServerSide::Queued(_) => self.give_up(key, Cause::Interrupted),
                _ => self.detach_call(*call),
            },
            Waiting::Away { errand } => self.rouse_abroad(key, *errand),
            _ => self.give_up(key, Cause::Interrupted),
        }
    }

    /// The deadline of a wait has come; its alarm is spent.
    pub(crate) fn expire(&mut self, key: Key<Process>) {
        let State::Waiting { alarm, .. } = &mut self.processes[key].state else {
            unreachable!("a process has an alarm only while it waits")
        };
        *alarm = None;
        self.give_up(key, Cause::Expired);
    }

    /// Ends a wait without what was waited for.
    pub(crate) fn give_up(&mut self, key: Key<Process>, cause: Cause) {
        let Some(cause) = self.gives_up(key, cause) else { return };
        let outcome = self.withdraw_with(key, cause);
        self.wake(key, outcome);
    }

    pub(crate) fn withdraw(&mut self, key: Key<Process>) {
        self.withdraw_with(key, Cause::Interrupted);
    }

    /// Takes a waiting process out of the queue it stands in, and says what its system call gives.
    fn withdraw_with(&mut self, key: Key<Process>, cause: Cause) -> Outcome {
        let expired = cause == Cause::Expired;
        let alarm = match &self.processes[key].state {
            State::Waiting { alarm, .. } => *alarm,
            _ => unreachable!("only a process that waits can be withdrawn"),
        };
        // What it waited for is taken out; the rest of the state stays until the caller replaces it.
        let placeholder = State::Waiting { waiting: Waiting::Sleep, alarm };
        let State::Waiting { waiting, .. } = core::mem::replace(&mut self.processes[key].state, placeholder) else {
            unreachable!("the state was just seen")
        };
        match waiting {
            Waiting::Receive { port } => {
                self.leave_receivers(port, key);
                Outcome::Received(Err(if expired { ReceiveError::Expired } else { ReceiveError::Interrupted }))
            }
            Waiting::Select { ports } => {
                ports.iter().for_each(|port| self.leave_receivers(*port, key));
                Outcome::Selected(Err(if expired { ReceiveError::Expired } else { ReceiveError::Interrupted }))
            }
            Waiting::Send { port, pending } => {
                self.leave_senders(port, key);
                let Some(call) = pending.call else {
                    return Outcome::Sent(Err(if expired { SendError::Expired } else { SendError::Interrupted }));
                };
                self.calls.remove(call);
                let reached = Reached::Nobody;
                Outcome::Called(Err(if expired {
                    CallError::Expired(reached)
                } else {
                    CallError::Interrupted(reached)
                }))
            }
            Waiting::Call { call } => {
                let reached = self.abandon_call(call, cause);
                Outcome::Called(Err(if expired {
                    CallError::Expired(reached)
                } else {
                    CallError::Interrupted(reached)
                }))
            }
            Waiting::EndCall { call, .. } => {
                self.calls[call].stop_collecting();
                Outcome::CallEnded(Err(if expired { EndCallError::NotYet } else { EndCallError::Interrupted }))
            }
            Waiting::Exit { process } => {
                self.processes[process].waiters.retain(|waiter| *waiter != key);
                Outcome::Waited(Err(if expired { WaitError::Expired } else { WaitError::Interrupted }))
            }
            Waiting::Sleep => Outcome::Slept(if expired { Ok(()) } else { Err(SleepError::Interrupted) }),
            Waiting::Read { pipe, .. } => {
                self.pipes[pipe].reading.retain(|reader| *reader != key);
                Outcome::Read(Err(if expired { ReadError::Expired } else { ReadError::Interrupted }))
            }
            Waiting::Write { pipe, written, .. } => {
                self.pipes[pipe].writing.retain(|writer| *writer != key);
                self.move_pipe(pipe);
                let cause = if expired { WriteCause::Expired } else { WriteCause::Interrupted };
                Outcome::Written(Err(WriteError { written, cause }))
            }
            Waiting::Away { errand } => self.leave_errand(key, errand, cause),
            Waiting::Notice { watch } => {
                self.cancel_watch(watch);
                Outcome::Yielded
            }
            Waiting::Post => Outcome::Yielded,
        }
    }
}

/// Control by others.
impl Kernel {
    /// The process that is to be controlled; or what the caller does instead.
    fn control(&mut self, me: Key<Process>, handle: HandleId, what: What) -> ControlFlow<Next, Key<Process>> {
        let refuse = |error| {
            Next::Return(match what {
                What::Hold => Outcome::Held(Err(error)),
                What::Release => Outcome::Released(Err(error)),
                _ => Outcome::Interrupted(Err(error)),
            })
        };
        let target = match self.find_process(me, handle, Rights::CONTROL) {
            Ok(target) => target,
            Err(error) => {
                return ControlFlow::Break(match self.foreign(me, handle, Rights::CONTROL) {
                    Some(import) => self.control_abroad(me, import, what),
                    None => refuse(ControlError::Handle(error)),
                });
            }
        };
        match self.processes[target].state {
            State::Exited { .. } | State::Doomed { .. } => ControlFlow::Break(refuse(ControlError::Ended)),
            _ => ControlFlow::Continue(target),
        }
    }

    pub(crate) fn hold(&mut self, me: Key<Process>, handle: HandleId, effects: &mut Vec<Effect>) -> Next {
        let target = match self.control(me, handle, What::Hold) {
            ControlFlow::Continue(target) => target,
            ControlFlow::Break(next) => return next,
        };
        let process = &mut self.processes[target];
        process.held = true;
        match &process.state {
            State::Ready { ticket } => {
                self.ready.take(*ticket);
                process.state = State::Held;
            }
            State::Running { worker, .. } if target != me => {
                effects.push(Effect::Interrupt { worker: *worker, process: target });
            }
            _ => {}
        }
        Next::Return(Outcome::Held(Ok(())))
    }

    pub(crate) fn release(&mut self, me: Key<Process>, handle: HandleId) -> Next {
        let target = match self.control(me, handle, What::Release) {
            ControlFlow::Continue(target) => target,
            ControlFlow::Break(next) => return next,
        };
        let process = &mut self.processes[target];
        process.held = false;
        if let State::Held = process.state {
            self.make_ready(target);
        }
        Next::Return(Outcome::Released(Ok(())))
    }

    pub(crate) fn interrupt(&mut self, me: Key<Process>, handle: HandleId) -> Next {
        let target = match self.control(me, handle, What::Interrupt) {
            ControlFlow::Continue(target) => target,
            ControlFlow::Break(next) => return next,
        };
        if let State::Waiting { .. } = self.processes[target].state {
            self.give_up(target, Cause::Interrupted);
        }
        Next::Return(Outcome::Interrupted(Ok(())))
    }
}

/// What a process did to come back from a worker without a system call.
impl Kernel {
    pub(crate) fn yielded(&mut self, worker: WorkerId, key: Key<Process>, effects: &mut Vec<Effect>) {
        match self.back_from(worker, key) {
            Some(exit) => self.end(key, exit, effects),
            None if self.processes.get(key).is_some() => self.set_aside(key),
            // It left for another node while this worker had it.
            None => {}
        }
        self.dispatch(worker, effects);
    }

    pub(crate) fn trapped(
        &mut self, worker: WorkerId, key: Key<Process>, fault: abi::process::Fault, effects: &mut Vec<Effect>,
    ) {
        let exit = self.back_from(worker, key).unwrap_or(Exit::Faulted(fault));
        if self.processes.get(key).is_some() {
            self.end(key, exit, effects);
        }
        self.dispatch(worker, effects);
    }

    /// The process is back on its worker's thread: how it was ended meanwhile, if it was.
    pub(crate) fn back_from(&self, worker: WorkerId, key: Key<Process>) -> Option<Exit> {
        assert_eq!(
            self.workers.get(usize::from(worker.0)),
            Some(&Worker::Running(key)),
            "the world brought a process from a worker that does not run it"
        );
        match self.processes.get(key).map(|process| &process.state) {
            None | Some(State::Running { .. }) => None,
            Some(State::Doomed { exit, .. }) => Some(*exit),
            Some(_) => unreachable!("a worker runs a process that does not run"),
        }
    }
}
