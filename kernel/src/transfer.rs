//! A process moves to another node. This file knows nothing of programs: what runs of it the world carries over.
//!
//! The one idea: *an object that leaves becomes a foreign object where it was*. In one step of the node that it leaves, all that the
//! process has is packed, and all that stays behind becomes what it would be if the process had always been there: rights to what leaves
//! become imports whose numbers the luggage names, whoever waits in a queue that leaves has an errand there, and what the process had under
//! way has a stand-in here. The luggage is one thing that the session carries, exactly once and in order: before it is sent the process is
//! here, from then on it is there.
//!
//! ```text
//!   what            stays behind as                                comes along as
//!   -------------------------------------------------------------------------------------------------------------
//!   right of P      an export, if the object stays                 an import, a claim at a third node, or its own
//!   right to P's    an import                                      an export under that import's number
//!   waits for P's   an errand (wait, send, call, write, watch)     a stand-in, in the same place of the same queue
//!   P waits for     a stand-in (call, watch), numbered here        an errand under that number
//!   parent, child   an errand, a stand-in                          a stand-in, an errand
//! ```
//! Nothing moves that waits: the world rouses it first ([`Kernel::rouse`]), and what a rouse ends can be asked again or goes on by itself.

use crate::Kernel;
use crate::call::{Answering, Call, CallerSide, ServerSide};
use crate::foreign::{Errand, Import, Purpose, What, moved_of};
use crate::handles::{Handles, Object, Right};
use crate::limits::{ERRANDS_MAX, FOREIGN_MAX, FORGONE_MAX, TRANSFER_BYTES_MAX};
use crate::luggage::{
    CallPacked, CallerPacked, EnvelopePacked, Item, Kept, Left, Luggage, Many, PipePacked, PortPacked, Request,
    SenderPacked, ServerPacked, Slot, SubjectPacked, Traveller, Visitor, WatchPacked, Watcher, WriterPacked,
};
use crate::packet::{Content, Passed};
use crate::pipe::Pipe;
use crate::planted::{Bug, planted};
use crate::port::{Cargo, Envelope, Letter, Pending, Port};
use crate::process::{Process, State, Waiting};
use crate::schedule::Due;
use crate::session::Breach;
use crate::table::{Key, Table};
use crate::watch::{Subject, Watch};
use crate::world::{DepartError, Effect};
use abi::call::{CallError, Outcome, SendError};
use abi::ids::{CallId, HandleId, NodeId, ObjectId, ProcessId, Time};
use abi::limits::Limit;
use abi::message::{Bytes, MESSAGE_BYTES_MAX, Message, Notice, Transfer, TransferMode};
use abi::process::Exit;
use abi::rights::Rights;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// A process that another node will send.
pub(crate) struct Expected {
    adopter: Key<Process>,
    /// What it finds in its table in place of what it left.
    pub grants: Vec<(HandleId, Right)>,
}

/// What leaves with a process.
#[derive(Default)]
struct Survey {
    ports: Vec<Key<Port>>,
    pipes: Vec<Key<Pipe>>,
    /// Calls that it has to answer.
    replies: BTreeSet<Key<Call>>,
}

/// What is packed so far.
struct Packing {
    me: Key<Process>,
    id: ProcessId,
    to: NodeId,
    ports: BTreeMap<Key<Port>, u32>,
    pipes: BTreeMap<Key<Pipe>, u32>,
    calls: BTreeMap<Key<Call>, u32>,
    watches: BTreeMap<Key<Watch>, u32>,
    /// Requests of callers that stay behind.
    requests: BTreeMap<Key<Call>, u64>,
    port_ids: Vec<ObjectId>,
    pipe_ids: Vec<ObjectId>,
    passed: Vec<Passed>,
    kept: Vec<Kept>,
}

/// A call of which the answer's rights are not packed yet.
struct CallOpen {
    id: CallId,
    server: ServerPacked,
    caller: CallerOpen,
    moved: Box<[HandleId]>,
}

enum CallerOpen {
    Packed(CallerPacked),
    Over(Answering),
}

/// Leaving.
impl Kernel {
    /// The process goes to another node; an error changes nothing that it or anybody else could tell.
    pub(crate) fn depart(
        &mut self, me: Key<Process>, (to, life): (NodeId, u64), ticket: u64, left: &[HandleId], keeps_parent: bool,
        effects: &mut Vec<Effect>,
    ) {
        // What came due before this is done before it.
        self.settle_abroad(effects);
        // To an earlier life, of whose end this node has not heard, it would go and be lost.
        let known = self.sessions.get(&to).map(|session| session.life);
        if known.is_some_and(|known| known != life) && !planted(Bug::DepartsToAnyLife) {
            effects.push(Effect::Departed { process: me, result: Err(DepartError::Unreachable) });
            return;
        }
        let result = self.survey(me, to, left).and_then(|_| {
            for handle in left {
                if let Ok(right) = self.processes[me].handles.remove(*handle) {
                    self.dropped.push(right);
                }
            }
            self.settle_abroad(effects);
            self.refuse_what_stays(me, to)?;
            let survey = self.survey(me, to, &[])?;
            let luggage = self.pack(me, to, left, keeps_parent, survey);
            self.send_luggage(to, ticket, &luggage);
            self.look_at_all();
            Ok(())
        });
        effects.push(Effect::Departed { process: me, result });
    }

    /// What leaves with the process, if it can leave.
    fn survey(&self, me: Key<Process>, to: NodeId, left: &[HandleId]) -> Result<Survey, DepartError> {
        let process = self.processes.get(me).filter(|process| process.abroad.is_none()).ok_or(DepartError::Ended)?;
        match process.state {
            State::Exited { .. } | State::Doomed { .. } => return Err(DepartError::Ended),
            State::Starting | State::Waiting { .. } => return Err(DepartError::Busy),
            State::Ready { .. } | State::Held | State::Running { .. } => {}
        }
        if process.outcome != Outcome::Yielded {
            return Err(DepartError::Busy);
        }
        if self.first == Some(me) {
            return Err(DepartError::First);
        }
        if to == self.node || self.sessions.get(&to).is_none_or(|session| session.breach.is_some()) {
            return Err(DepartError::Unreachable);
        }
        let mut survey = Survey::default();
        let mut receivers: BTreeMap<Key<Port>, u32> = BTreeMap::new();
        let mut readers: BTreeMap<Key<Pipe>, u32> = BTreeMap::new();
        let mut badges = Vec::new();
        let mut bytes = 0;
        let table = process.handles.iter().filter(|(handle, _)| !left.contains(handle));
        let mut open: Vec<(HandleId, &Right)> = table.collect();
        for (_, call) in self.calls.iter().filter(|(_, call)| call.caller == me) {
            if let CallerSide::Over(Ok(answering)) = &call.caller_side {
                bytes += answering.bytes.len();
                open.extend(answering.rights.iter().map(|right| (HandleId::NONE, right)));
            }
        }
        while let Some((handle, right)) = open.pop() {
            bytes += 64;
            match right.object {
                Object::Device(_) => return Err(DepartError::Device(handle)),
                Object::Port(key) => {
                    let Some(port) = self.ports.get(key) else { continue };
                    if right.rights.contains(Rights::BADGE) {
                        badges.push((handle, key));
                    }
                    if !right.rights.contains(Rights::RECEIVE) {
                        continue;
                    }
                    let found = receivers.entry(key).or_insert(0);
                    *found += 1;
                    if *found > 1 {
                        continue;
                    }
                    survey.ports.push(key);
                    for envelope in &port.queue {
                        match envelope {
                            Envelope::Letter(letter) => {
                                bytes += letter.bytes.len() + 64;
                                if let Cargo::Taken(rights) = &letter.cargo {
                                    open.extend(rights.iter().map(|right| (HandleId::NONE, right)));
                                }
                            }
                            Envelope::Notice(owner, _) if *owner != me && self.is_alive(*owner) => {
                                return Err(DepartError::Watches);
                            }
                            Envelope::Notice(..) => bytes += 64,
                        }
                    }
                    for sender in &port.senders_waiting {
                        bytes += self.pending(*sender).message.bytes.len() + 64;
                    }
                }
                Object::Pipe(key) if right.rights.contains(Rights::READ) => *readers.entry(key).or_insert(0) += 1,
                Object::Reply(key) => {
                    survey.replies.insert(key);
                }
                Object::Foreign(_, import) => {
                    let import = &self.imports[import];
                    // What it does where it goes would come before what it did here and that is still on its way.
                    let held_back = import.way.hold.is_some() && handle != HandleId::NONE;
                    let kept = import.home == to || import.way.here.is_some();
                    if import.reading.is_some() || kept && !import.kept.is_empty() || held_back {
                        return Err(DepartError::Undecided(handle));
                    }
                    bytes += import.kept.len();
                }
                _ => {}
            }
        }
        for (key, count) in &receivers {
            if self.ports[*key].receive_rights != *count {
                return Err(DepartError::Shared(self.ports[*key].id));
            }
        }
        // A port that stays would be one whose badges are made elsewhere, and so would one that leaves.
        if let Some((handle, _)) = badges.iter().find(|(_, key)| !receivers.contains_key(key)) {
            return Err(DepartError::StaysHome(*handle));
        }
        survey.ports.sort();
        for (key, count) in readers {
            let pipe = &self.pipes[key];
            if pipe.readers == count {
                survey.pipes.push(key);
                bytes += pipe.bytes_max() as usize;
                let rest = pipe.writing.iter().map(|writer| match &self.processes[*writer].state {
                    State::Waiting { waiting: Waiting::Write { rest, .. }, .. } => rest.len() + 64,
                    _ => 0,
                });
                bytes += rest.sum::<usize>();
            }
        }
        self.survey_watches(me, &survey)?;
        self.survey_room(me, &survey)?;
        if bytes > TRANSFER_BYTES_MAX {
            return Err(DepartError::TooMuch { bytes: bytes as u64 });
        }
        Ok(survey)
    }

    fn survey_watches(&self, me: Key<Process>, survey: &Survey) -> Result<(), DepartError> {
        let leaves = |port: Option<Key<Port>>| port.is_some_and(|port| survey.ports.contains(&port));
        for (_, watch) in self.watches.iter() {
            let replies = matches!(watch.subject, Subject::Reply(call) if survey.replies.contains(&call));
            let of_reply = matches!(watch.subject, Subject::Reply(_));
            if watch.owner == me {
                if matches!(watch.subject, Subject::Journal(_)) {
                    return Err(DepartError::Device(HandleId::NONE));
                }
                let closed = watch.port.is_none_or(|port| self.ports.get(port).is_none());
                if !closed && !leaves(watch.port) || of_reply && !replies {
                    return Err(DepartError::Watches);
                }
            } else if (leaves(watch.port) || replies) && self.is_alive(watch.owner) {
                return Err(DepartError::Watches);
            }
        }
        Ok(())
    }

    /// Whether there is room for what takes the place of what leaves.
    fn survey_room(&self, me: Key<Process>, survey: &Survey) -> Result<(), DepartError> {
        let process = &self.processes[me];
        let mut errands = process.waiters.len() + process.watches.len() + survey.replies.len() + 1;
        for port in survey.ports.iter().map(|port| &self.ports[*port]) {
            errands += port.senders_waiting.len() + port.messages as usize + port.watches.len();
        }
        errands += survey.pipes.iter().map(|pipe| self.pipes[*pipe].writing.len()).sum::<usize>();
        let calls = self.calls.iter().filter(|(_, call)| call.caller == me).count();
        let outposts = self.outposts.get(&me).map_or(0, Vec::len);
        let stand_ins = calls + process.used.watches as usize + process.used.children as usize + outposts;
        if self.errands.len() as usize + errands > ERRANDS_MAX as usize {
            return Err(DepartError::Limit(Limit::NodeErrands));
        }
        if (self.processes.room() as usize) < stand_ins {
            return Err(DepartError::Limit(Limit::NodeProcesses));
        }
        let mut kept = 0;
        let leaving = |right: &Right| match right.object {
            Object::Process(key) => key == me,
            Object::Port(key) => survey.ports.contains(&key),
            Object::Pipe(key) => survey.pipes.contains(&key),
            _ => false,
        };
        let mut badge = None;
        let mut look = |right: &Right| {
            if leaving(right) {
                kept += 1;
                if let (Object::Port(key), true) = (right.object, right.rights.contains(Rights::BADGE)) {
                    badge = Some(key);
                }
            }
        };
        self.processes.iter().filter(|(key, _)| *key != me).for_each(|(_, process)| {
            process.handles.iter().for_each(|(_, right)| look(right));
        });
        for (_, port) in self.ports.iter().filter(|(key, _)| !survey.ports.contains(key)) {
            for envelope in &port.queue {
                if let Envelope::Letter(Letter { cargo: Cargo::Taken(rights), .. }) = envelope {
                    rights.iter().for_each(&mut look);
                }
            }
        }
        for (_, call) in self.calls.iter().filter(|(_, call)| call.caller != me) {
            if let CallerSide::Over(Ok(answering)) = &call.caller_side {
                answering.rights.iter().for_each(&mut look);
            }
        }
        for session in self.sessions.values() {
            session.exports.values().for_each(&mut look);
        }
        if let Some(port) = badge {
            return Err(DepartError::Shared(self.ports[port].id));
        }
        if !self.foreign_room(kept) {
            return Err(DepartError::Limit(Limit::NodeForeign));
        }
        Ok(())
    }

    /// Tells those whose message waits in a queue that leaves, with rights in it that do not, what they would have been told by a port
    /// that had always been there; and forgets notices that nobody wants.
    fn refuse_what_stays(&mut self, me: Key<Process>, to: NodeId) -> Result<(), DepartError> {
        let survey = self.survey(me, to, &[])?;
        let stale = |kernel: &Kernel, key: Key<Watch>| {
            let Watch { owner, port, subject, .. } = &kernel.watches[key];
            let closed = |port: Key<Port>| kernel.ports.get(port).is_none();
            let about = match subject {
                Subject::Process(process) => *process == me,
                Subject::Port(port) => survey.ports.contains(port),
                Subject::Reply(call) => survey.replies.contains(call),
                _ => false,
            };
            let into = port.is_some_and(|port| survey.ports.contains(&port));
            (about || into) && !kernel.is_alive(*owner) || *owner == me && port.is_none_or(closed)
        };
        let forgotten: Vec<Key<Watch>> =
            self.watches.iter().map(|(key, _)| key).filter(|key| stale(self, *key)).collect();
        for watch in forgotten {
            self.cancel_watch(watch);
        }
        for key in &survey.ports {
            let mut refused = Vec::new();
            let port = &self.ports[*key];
            for envelope in &port.queue {
                if let Envelope::Letter(Letter { cargo: Cargo::AtCaller(caller, transfers), .. }) = envelope
                    && let Err(error) = self.check_leaving(*caller, transfers)
                {
                    refused.push((*caller, error));
                }
            }
            for sender in &port.senders_waiting {
                if let Err(error) = self.check_leaving(*sender, &self.pending(*sender).message.handles) {
                    refused.push((*sender, error));
                }
            }
            for (process, error) in refused {
                let State::Waiting { waiting, .. } = &self.processes[process].state else {
                    unreachable!("who stands in a queue waits")
                };
                let sends = matches!(waiting, Waiting::Send { pending, .. } if pending.call.is_none());
                self.withdraw(process);
                let outcome = match sends {
                    true => Outcome::Sent(Err(SendError::Transfer(error))),
                    false => Outcome::Called(Err(CallError::Transfer(error))),
                };
                self.wake(process, outcome);
            }
        }
        Ok(())
    }

    /// Packs all that the process has, and turns the rest into what it is from now on.
    fn pack(&mut self, me: Key<Process>, to: NodeId, left: &[HandleId], keeps_parent: bool, survey: Survey) -> Luggage {
        let id = self.processes[me].id;
        let number = |index: usize| index as u32;
        let mut packing = Packing {
            me,
            id,
            to,
            ports: survey.ports.iter().enumerate().map(|(index, key)| (*key, number(index))).collect(),
            pipes: survey.pipes.iter().enumerate().map(|(index, key)| (*key, number(index))).collect(),
            calls: BTreeMap::new(),
            watches: BTreeMap::new(),
            requests: BTreeMap::new(),
            port_ids: survey.ports.iter().map(|key| ObjectId::Port(self.ports[*key].id)).collect(),
            pipe_ids: survey.pipes.iter().map(|key| ObjectId::Pipe(self.pipes[*key].id)).collect(),
            passed: Vec::new(),
            kept: Vec::new(),
        };
        let open_calls = self.pack_calls(&mut packing, &survey);
        let watches = self.pack_watches(&mut packing);
        let watchers = self.pack_watchers(&packing);
        let process = &mut self.processes[me];
        let places = process.handles.take_places();
        let waiters = core::mem::take(&mut process.waiters);
        let traveller = Traveller {
            id,
            program: process.program,
            limits: process.limits,
            weight: process.weight,
            orphan: process.orphan,
            used_ns: process.used_ns,
            calls_made: process.calls_made,
            held: process.held,
            stirred: process.stirred,
        };
        if let State::Ready { ticket } = process.state {
            self.ready.take(ticket);
        }
        let ports: Vec<Port> = survey.ports.iter().map(|key| self.take_port(me, *key)).collect();
        let pipes: Vec<Pipe> = survey.pipes.iter().map(|key| self.take_pipe(me, *key)).collect();
        let mut table = Vec::new();
        for (index, (generation, right)) in places.into_iter().enumerate() {
            let generation_of_left = u32::from(generation.wrapping_sub(1));
            let handle = HandleId(generation_of_left << 16 | (index as u32 + 1));
            table.push(match right {
                Some(right) => Slot::Used { generation: generation.into(), item: self.pack_away(&mut packing, right) },
                None if left.contains(&handle) => Slot::Left { generation: generation_of_left },
                None if planted(Bug::MovedTableForgotten) => Slot::Free { generation: 0 },
                None => Slot::Free { generation: generation.into() },
            });
        }
        let calls = open_calls.into_iter().map(|call| self.close_call(&mut packing, call)).collect();
        let ports = ports.into_iter().map(|port| self.pack_port(&mut packing, port)).collect();
        let pipes = pipes.into_iter().map(|pipe| self.pack_pipe(&packing, pipe)).collect();
        let waiters = waiters.into_iter().map(|waiter| self.send_waiter(to, waiter)).collect();
        let (parent, children) = self.pack_family(&packing, keeps_parent);
        let exports = self.keep_rights(&packing);
        self.processes.remove(me).expect("a process leaves once");
        Luggage {
            process: traveller,
            passed: Many(packing.passed),
            kept: Many(packing.kept),
            ports: Many(ports),
            pipes: Many(pipes),
            calls: Many(calls),
            watches: Many(watches),
            table: Many(table),
            waiters: Many(waiters),
            watchers: Many(watchers),
            exports: Many(exports),
            parent,
            children: Many(children),
        }
    }

    /// A copy of a right that is to lie in the luggage.
    fn pack_right(&mut self, packing: &mut Packing, right: &Right, rights: Rights) -> Item {
        let badge = right.badge;
        match self.resolved(right.object) {
            Object::Process(key) if key == packing.me => return Item::Itself { rights },
            Object::Port(key) => match packing.ports.get(&key) {
                Some(index) => return Item::Port { index: *index, rights, badge },
                None if self.ports.get(key).is_none() => return Item::Closed { rights, badge },
                None => {}
            },
            Object::Pipe(key) => {
                if let Some(index) = packing.pipes.get(&key) {
                    return Item::Pipe { index: *index, rights };
                }
            }
            Object::Reply(key) => return Item::Reply { index: packing.calls[&key], rights },
            Object::Call(key) => return Item::Call { index: packing.calls[&key], rights },
            Object::Watch(key) => {
                return match packing.watches.get(&key) {
                    Some(index) => Item::Watch { index: *index, rights },
                    None => Item::Spent { rights },
                };
            }
            Object::Process(_) | Object::Foreign(..) => {}
            Object::Device(_) => unreachable!("a process with devices does not leave"),
        }
        let index = packing.passed.len() as u32;
        let passed = self.pass(right, rights, packing.to);
        packing.passed.push(passed);
        if let Object::Foreign(_, import) = right.object
            && !self.imports[import].kept.is_empty()
        {
            let bytes = self.imports[import].kept.clone();
            packing.kept.push(Kept { index, bytes });
        }
        Item::Given { index }
    }

    /// A right leaves.
    fn pack_away(&mut self, packing: &mut Packing, right: Right) -> Item {
        let item = self.pack_right(packing, &right, right.rights);
        if let Item::Given { .. } = item {
            self.dropped.push(right);
        } else if let Object::Foreign(_, import) = right.object {
            // It had come here, and leaves with what it is to.
            let (home, number) = (self.imports[import].home, self.imports[import].number);
            self.imported.remove(&(home, number));
            self.imports.remove(import);
        }
        item
    }

    /// What somebody who stays wants to give: it leaves their table when it is taken.
    fn pack_offered(&mut self, packing: &mut Packing, holder: Key<Process>, transfers: &[Transfer]) -> Many<Item> {
        let pack = |transfer: &Transfer| {
            let right = self.processes[holder].handles.find(transfer.handle).expect("it was checked").clone();
            self.pack_right(packing, &right, transfer.rights)
        };
        Many(transfers.iter().map(pack).collect())
    }

    /// A port goes out of the table, with its place in what its maker has used.
    fn take_port(&mut self, me: Key<Process>, key: Key<Port>) -> Port {
        let port = self.ports.remove(key).expect("a port leaves once");
        assert!(port.receivers_waiting.is_empty(), "a receiver waits at {:?} and its right leaves", port.id);
        if port.maker != me && self.is_alive(port.maker) {
            let used = &mut self.processes[port.maker].used;
            used.ports -= 1;
            used.buffer_bytes -= u64::from(port.options.bytes_max);
        }
        for envelope in &port.queue {
            if let Envelope::Letter(letter) = envelope {
                self.receivers_in_transit -= letter.cargo.receivers();
            }
        }
        port
    }

    fn take_pipe(&mut self, me: Key<Process>, key: Key<Pipe>) -> Pipe {
        let pipe = self.pipes.remove(key).expect("a pipe leaves once");
        if pipe.maker != me && self.is_alive(pipe.maker) {
            let used = &mut self.processes[pipe.maker].used;
            used.pipes -= 1;
            used.buffer_bytes -= u64::from(pipe.bytes_max());
        }
        pipe
    }

    fn pack_calls(&mut self, packing: &mut Packing, survey: &Survey) -> Vec<CallOpen> {
        let mut packed = Vec::new();
        let keys: Vec<Key<Call>> = self.calls.iter().map(|(key, _)| key).collect();
        for key in keys {
            let call = &self.calls[key];
            let own = call.caller == packing.me && !matches!(call.caller_side, CallerSide::Gone);
            let to_answer = survey.replies.contains(&key);
            let queued = match call.server_side {
                ServerSide::Queued(port) => packing.ports.get(&port).copied(),
                _ => None,
            };
            if own || to_answer {
                packing.calls.insert(key, packed.len() as u32);
            }
            match (own, to_answer) {
                (true, _) => packed.push(self.pack_own_call(packing, key, to_answer, queued)),
                (false, true) => packed.push(self.pack_call_to_answer(packing, key)),
                (false, false) if queued.is_some() => {
                    let errand = self.expect_of(packing.to, What::Call, Purpose::Call(key));
                    packing.requests.insert(key, self.errands[errand].number);
                    self.calls[key].server_side = ServerSide::Away(errand);
                }
                (false, false) => {}
            }
        }
        packed
    }

    /// A call of the process that leaves.
    fn pack_own_call(&mut self, packing: &Packing, key: Key<Call>, to_answer: bool, queued: Option<u32>) -> CallOpen {
        let left_ns = self.calls[key].alarm.take().map(|ticket| self.take_alarm(ticket));
        let id = self.calls[key].id;
        let packed = |server, caller| CallOpen { id, server, caller, moved: Box::default() };
        let begun = CallerOpen::Packed(CallerPacked::Begun { left_ns });
        if !matches!(self.calls[key].caller_side, CallerSide::Over(_)) {
            if to_answer || queued.is_some() {
                self.calls.remove(key);
                let server = queued.map_or(ServerPacked::Taken, |port| ServerPacked::Queued { port });
                return packed(server, begun);
            }
            // What is under way goes on here, for somebody who stands in for it.
            let moved = match self.calls[key].server_side {
                ServerSide::Away(errand) => core::mem::take(&mut self.errands[errand].moved),
                _ => Box::default(),
            };
            let errand = self.adopt_number(packing.to);
            let stand_in = self.send_stand_in(packing.to, errand, packing.id);
            self.processes[stand_in].state = State::Waiting { waiting: Waiting::Call { call: key }, alarm: None };
            let call = &mut self.calls[key];
            (call.caller, call.caller_side) = (stand_in, CallerSide::Blocked);
            return CallOpen { id, server: ServerPacked::Away { errand }, caller: begun, moved };
        }
        let side = core::mem::replace(&mut self.calls[key].caller_side, CallerSide::Gone);
        let CallerSide::Over(result) = side else { unreachable!("it was just seen") };
        self.receivers_in_transit -= result.as_ref().map_or(0, Answering::receivers);
        let caller = match result {
            Ok(answering) => CallerOpen::Over(answering),
            Err(error) => CallerOpen::Packed(CallerPacked::Failed { error }),
        };
        if to_answer {
            self.calls.remove(key);
            return packed(ServerPacked::Taken, caller);
        }
        self.free_call_if_over(key);
        packed(ServerPacked::Done, caller)
    }

    /// A call that the process that leaves has taken, of somebody who stays.
    fn pack_call_to_answer(&mut self, packing: &Packing, key: Key<Call>) -> CallOpen {
        let id = self.calls[key].id;
        let caller = match self.calls[key].caller_side {
            CallerSide::Gone => {
                self.calls.remove(key);
                CallerPacked::Gone
            }
            CallerSide::Over(_) => {
                let call = &mut self.calls[key];
                (call.server_side, call.watch) = (ServerSide::Done, None);
                CallerPacked::Gone
            }
            _ => {
                let errand = self.expect_of(packing.to, What::Call, Purpose::Call(key));
                let call = &mut self.calls[key];
                (call.server_side, call.watch) = (ServerSide::Away(errand), None);
                if planted(Bug::MovedCallerForgotten) {
                    let caller = CallerOpen::Packed(CallerPacked::Gone);
                    return CallOpen { id, server: ServerPacked::Taken, caller, moved: Box::default() };
                }
                CallerPacked::Abroad { errand: self.errands[errand].number }
            }
        };
        CallOpen { id, server: ServerPacked::Taken, caller: CallerOpen::Packed(caller), moved: Box::default() }
    }

    fn close_call(&mut self, packing: &mut Packing, call: CallOpen) -> CallPacked {
        let CallOpen { id, server, caller, moved } = call;
        let caller = match caller {
            CallerOpen::Packed(caller) => caller,
            CallerOpen::Over(Answering { bytes, rights }) => {
                let rights = rights.into_iter().map(|right| self.pack_away(packing, right)).collect();
                CallerPacked::Answered { bytes, rights: Many(rights) }
            }
        };
        CallPacked { id, server, caller, moved: Many(moved.iter().map(|handle| handle.0).collect()) }
    }

    /// The watches of the process that leaves.
    fn pack_watches(&mut self, packing: &mut Packing) -> Vec<WatchPacked> {
        let mut packed = Vec::new();
        let own = self.watches.iter().filter(|(_, watch)| watch.owner == packing.me);
        for key in own.map(|(key, _)| key).collect::<Vec<_>>() {
            let Watch { id, subject, port, token, .. } = self.watches[key];
            let port = packing.ports[&port.expect("only a stand-in watches without a port")];
            packing.watches.insert(key, packed.len() as u32);
            let abroad = match subject {
                Subject::Process(process) => Some(ObjectId::Process(self.processes[process].id)),
                Subject::Port(port) if packing.ports.contains_key(&port) => None,
                Subject::Port(port) => Some(ObjectId::Port(self.ports[port].id)),
                Subject::Abroad { object, .. } => Some(object),
                _ => None,
            };
            let subject = match (abroad, subject) {
                (Some(object), _) => {
                    let errand = self.adopt_number(packing.to);
                    let stand_in = self.send_stand_in(packing.to, errand, packing.id);
                    let process = &mut self.processes[stand_in];
                    process.state = State::Waiting { waiting: Waiting::Notice { watch: key }, alarm: None };
                    process.used.watches = 1;
                    let watch = &mut self.watches[key];
                    (watch.owner, watch.port) = (stand_in, None);
                    SubjectPacked::Abroad { errand, object }
                }
                (None, Subject::Time(ticket)) => {
                    self.watches.remove(key);
                    let left_ns = self.take_alarm(ticket);
                    SubjectPacked::Time { left_ns: if planted(Bug::MovedTimerEarly) { 0 } else { left_ns } }
                }
                (None, Subject::Port(port)) => {
                    self.watches.remove(key);
                    self.ports[port].watches.retain(|watch| *watch != key);
                    SubjectPacked::Port { index: packing.ports[&port] }
                }
                (None, Subject::Reply(call)) => {
                    self.watches.remove(key);
                    SubjectPacked::Reply { index: packing.calls[&call] }
                }
                (None, _) => unreachable!("a process with work at a device does not leave"),
            };
            packed.push(WatchPacked { id, token, port, subject });
        }
        packed
    }

    /// Those who watch what leaves.
    fn pack_watchers(&mut self, packing: &Packing) -> Vec<Watcher> {
        let mut packed = Vec::new();
        let mut lists = alloc::vec![(None, core::mem::take(&mut self.processes[packing.me].watches))];
        for (key, index) in &packing.ports {
            lists.push((Some(*index), core::mem::take(&mut self.ports[*key].watches)));
        }
        for (port, watches) in lists {
            for key in watches {
                let object = match self.watches[key].subject {
                    Subject::Port(port) => ObjectId::Port(self.ports[port].id),
                    _ => ObjectId::Process(packing.id),
                };
                let owner = self.watches[key].owner;
                let errand = self.expect_of(packing.to, What::Watch, Purpose::Watch(key));
                self.watches[key].subject = Subject::Abroad { errand, object };
                let actor = self.processes[owner].id;
                let visitor = Visitor { errand: self.errands[errand].number, actor };
                packed.push(Watcher { visitor, port });
            }
        }
        packed
    }

    fn pack_port(&mut self, packing: &mut Packing, port: Port) -> PortPacked {
        let Port { id, options, dropped, queue, senders_waiting, .. } = port;
        let mut letters = Vec::new();
        for envelope in queue {
            match envelope {
                Envelope::Notice(owner, Notice { token, event }) => {
                    if owner == packing.me {
                        letters.push(EnvelopePacked::Notice { token, event });
                    }
                }
                Envelope::Letter(Letter { bytes, cargo, sender, badge, call }) => {
                    let rights = match cargo {
                        Cargo::Taken(rights) => {
                            Many(rights.into_iter().map(|right| self.pack_away(packing, right)).collect())
                        }
                        Cargo::AtCaller(caller, transfers) => {
                            let rights = self.pack_offered(packing, caller, &transfers);
                            if let Some(ServerSide::Away(errand)) = call.map(|call| self.calls[call].server_side) {
                                self.errands[errand].moved = moved_of(&transfers);
                            }
                            rights
                        }
                    };
                    let call = call.map(|call| match packing.calls.get(&call) {
                        Some(index) => Request::Own { index: *index },
                        None => {
                            let sequence = self.calls[call].id.sequence;
                            Request::Abroad { errand: packing.requests[&call], sequence }
                        }
                    });
                    letters.push(EnvelopePacked::Letter { bytes, sender, badge, rights, call });
                }
            }
        }
        if planted(Bug::MovedQueueReversed) {
            letters.reverse();
        }
        let mut waiting = Vec::new();
        for sender in senders_waiting {
            let State::Waiting { waiting: held, .. } = &mut self.processes[sender].state else {
                unreachable!("who stands in a queue of senders waits")
            };
            let Waiting::Send { pending, .. } = core::mem::replace(held, Waiting::Sleep) else {
                unreachable!("who stands in a queue of senders waits for room")
            };
            let Pending { message: Message { bytes, handles }, badge, call } = *pending;
            let rights = self.pack_offered(packing, sender, &handles);
            let (errand, waits, sequence) = match call {
                None => {
                    let errand = self.expect_of(packing.to, What::Send, Purpose::Process(sender));
                    (errand, Waiting::Away { errand }, None)
                }
                Some(call) => {
                    let ServerSide::Away(errand) = self.calls[call].server_side else {
                        unreachable!("a call at a port that leaves is away")
                    };
                    (errand, Waiting::Call { call }, Some(self.calls[call].id.sequence))
                }
            };
            self.errands[errand].moved = moved_of(&handles);
            let process = &mut self.processes[sender];
            let State::Waiting { waiting: held, .. } = &mut process.state else {
                unreachable!("it was just seen to wait")
            };
            *held = waits;
            if planted(Bug::MovedSenderForgotten) {
                continue;
            }
            let number = self.errands[errand].number;
            waiting.push(SenderPacked { errand: number, actor: process.id, bytes, badge, rights, sequence });
        }
        PortPacked { id, options, dropped, queue: Many(letters), waiting: Many(waiting) }
    }

    fn pack_pipe(&mut self, packing: &Packing, mut pipe: Pipe) -> PipePacked {
        assert!(pipe.reading.is_empty(), "a reader waits at {:?} and its right leaves", pipe.id);
        let mut writing = Vec::new();
        for writer in core::mem::take(&mut pipe.writing) {
            let errand = self.expect_of(packing.to, What::Write, Purpose::Process(writer));
            let number = self.errands[errand].number;
            let process = &mut self.processes[writer];
            let State::Waiting { waiting: held, .. } = &mut process.state else {
                unreachable!("who stands among the writers of a pipe waits")
            };
            let Waiting::Write { rest, written, .. } = core::mem::replace(held, Waiting::Away { errand }) else {
                unreachable!("who stands among the writers of a pipe writes")
            };
            writing.push(WriterPacked { errand: number, actor: process.id, rest: *rest, written });
        }
        let (id, bytes_max) = (pipe.id, pipe.bytes_max());
        PipePacked { id, bytes_max, pieces: Many(pipe.take_pieces()), writing: Many(writing) }
    }

    /// A process that waits for the end of the one that leaves waits for word from there.
    fn send_waiter(&mut self, to: NodeId, waiter: Key<Process>) -> Visitor {
        let errand = self.expect_of(to, What::Wait, Purpose::Process(waiter));
        let process = &mut self.processes[waiter];
        let State::Waiting { waiting, .. } = &mut process.state else {
            unreachable!("who stands among the waiters waits")
        };
        *waiting = Waiting::Away { errand };
        Visitor { errand: self.errands[errand].number, actor: self.processes[waiter].id }
    }

    fn pack_family(&mut self, packing: &Packing, keeps_parent: bool) -> (Option<Visitor>, Vec<u64>) {
        let Packing { me, id, to, .. } = *packing;
        let parent = self.processes[me].parent.filter(|_| keeps_parent).map(|parent| {
            let errand = self.expect_of(to, What::Spawn, Purpose::Child(parent));
            self.outposts.entry(parent).or_default().push(errand);
            Visitor { errand: self.errands[errand].number, actor: self.processes[parent].id }
        });
        self.unlink(me);
        let mut children = Vec::new();
        while let Some(child) = self.processes[me].first_child {
            let number = self.adopt_number(to);
            let stand_in = self.send_stand_in(to, number, id);
            self.processes[stand_in].state = State::Waiting { waiting: Waiting::Post, alarm: None };
            self.unlink(child);
            self.link(child, stand_in);
            children.push(number);
        }
        for errand in self.outposts.remove(&me).unwrap_or_default() {
            let number = self.adopt_number(to);
            let stand_in = self.send_stand_in(to, number, id);
            self.processes[stand_in].state = State::Waiting { waiting: Waiting::Post, alarm: None };
            self.errands[errand].purpose = Purpose::Child(stand_in);
            self.outposts.insert(stand_in, alloc::vec![errand]);
            children.push(number);
        }
        (parent, children)
    }

    /// All rights to what left, wherever they are, are imports from now on.
    fn keep_rights(&mut self, packing: &Packing) -> Vec<Left> {
        let mut exports = Vec::new();
        let mut number = self.sessions[&packing.to].next_import;
        let mut imports = core::mem::replace(&mut self.imports, Table::new(0));
        // Imports hold rights too, of ways that end here.
        let mut inner: Vec<(Key<Import>, Right)> = Vec::new();
        for (key, import) in imports.iter() {
            inner.extend(import.way.rights().map(|right| (key, right.clone())));
        }
        let mut imported = core::mem::take(&mut self.imported);
        let mut keep = |right: &mut Right| {
            let Right { object, rights, badge } = *right;
            let (item, id) = match object {
                Object::Process(key) if key == packing.me => (Item::Itself { rights }, ObjectId::Process(packing.id)),
                Object::Port(key) => match packing.ports.get(&key) {
                    Some(index) => (Item::Port { index: *index, rights, badge }, packing.port_ids[*index as usize]),
                    None => return,
                },
                Object::Pipe(key) => match packing.pipes.get(&key) {
                    Some(index) => (Item::Pipe { index: *index, rights }, packing.pipe_ids[*index as usize]),
                    None => return,
                },
                _ => return,
            };
            let import = Import::new(packing.to, number, id);
            let import = imports.insert(import).expect("this table has no bound of its own");
            imported.insert((packing.to, number), import);
            right.object = Object::Foreign(object.kind(), import);
            exports.push(Left { number, item });
            number += 2;
        };
        self.every_right(&mut keep);
        inner.iter_mut().for_each(|(_, right)| keep(right));
        (self.imports, self.imported) = (imports, imported);
        for (key, right) in inner {
            self.imports[key].way.set_right(right);
        }
        self.sessions.get_mut(&packing.to).expect("it was seen to be there").next_import = number;
        self.lend_again();
        self.find_long();
        exports
    }

    fn send_luggage(&mut self, to: NodeId, ticket: u64, luggage: &Luggage) {
        let bytes = luggage.encode();
        let mut parts = bytes.chunks(MESSAGE_BYTES_MAX).peekable();
        while let Some(part) = parts.next() {
            let bytes = Bytes::new(part);
            let content = match parts.peek() {
                Some(_) => Content::Luggage { bytes },
                None => Content::Transfer { ticket, bytes },
            };
            self.tell(to, content);
        }
    }

    /// An errand at the node to which what it is about leaves.
    fn expect_of(&mut self, node: NodeId, what: What, purpose: Purpose) -> Key<Errand> {
        self.add_errand(Errand::new(node, purpose, what))
    }

    /// A number for an errand of who leaves, which goes on here.
    fn adopt_number(&mut self, node: NodeId) -> u64 {
        let session = self.sessions.get_mut(&node).expect("it was seen to be there");
        session.next_adopted += 1;
        session.next_adopted - 1
    }

    /// Takes an entry off the agenda: how much time was left.
    fn take_alarm(&mut self, ticket: crate::agenda::Ticket) -> u64 {
        let at = self.alarms.time_of(ticket);
        self.alarms.take(ticket);
        at.since(self.now)
    }
}

/// What was made of a luggage so far.
struct Unpacking {
    from: NodeId,
    me: Key<Process>,
    given: Vec<Option<Right>>,
    ports: Vec<Key<Port>>,
    pipes: Vec<Key<Pipe>>,
    calls: Vec<Key<Call>>,
    watches: Vec<Key<Watch>>,
}

/// Arriving.
impl Kernel {
    /// A process will come from there under this ticket; it finds these handles of its adopter in place of those that it leaves.
    pub(crate) fn expect(
        &mut self, from: NodeId, ticket: u64, adopter: Key<Process>, grants: &[(HandleId, Transfer)],
        effects: &mut Vec<Effect>,
    ) {
        if self.sessions.get(&from).is_none_or(|session| session.breach.is_some()) {
            effects.push(Effect::Missed { from, ticket });
            return;
        }
        let mut granted = Vec::new();
        if self.is_alive(adopter) {
            for (handle, transfer) in grants {
                // The world says what its own process holds; what that does not hold any more is not given.
                let transfers = [*transfer];
                if self.check_transfers(adopter, &transfers, None).is_ok() {
                    let rights = self.take(adopter, &transfers);
                    granted.extend(rights.into_iter().map(|right| (*handle, right)));
                }
            }
        }
        let expected = Expected { adopter, grants: granted };
        if let Some(old) = self.expected.insert((from, ticket), expected) {
            self.dropped.extend(old.grants.into_iter().map(|(_, right)| right));
        }
    }

    /// Whether it was expected; it is not any more.
    pub(crate) fn unexpect(&mut self, from: NodeId, ticket: u64) -> bool {
        let expected = self.expected.remove(&(from, ticket));
        let known = expected.is_some();
        self.dropped.extend(expected.into_iter().flat_map(|expected| expected.grants).map(|(_, right)| right));
        known
    }

    /// What was to depart under this ticket did not, and will not.
    pub(crate) fn forgo(&mut self, to: NodeId, ticket: u64) {
        self.tell(to, Content::Forgo { ticket });
        // The other one may be in a life of which this one has not heard, and hear only what is said in that.
        self.forgone.insert((to, ticket));
        let of_node = self.forgone.range((to, 0)..=(to, u64::MAX));
        if of_node.clone().count() > FORGONE_MAX
            && let Some(oldest) = of_node.copied().next()
        {
            self.forgone.remove(&oldest);
        }
    }

    /// Nothing comes from that node any more, in the life that it had.
    pub(crate) fn miss_expected(&mut self, from: NodeId, effects: &mut Vec<Effect>) {
        let missed: Vec<((NodeId, u64), Expected)> =
            self.expected.extract_if((from, 0)..=(from, u64::MAX), |_, _| true).collect();
        for ((from, ticket), expected) in missed {
            self.dropped.extend(expected.grants.into_iter().map(|(_, right)| right));
            effects.push(Effect::Missed { from, ticket });
        }
    }

    /// A process is here from now on. Its luggage was checked, and all rights in it are this node's.
    pub(crate) fn arrive(
        &mut self, from: NodeId, ticket: u64, luggage: Luggage, given: Vec<Right>, effects: &mut Vec<Effect>,
    ) -> Result<(), Breach> {
        if let Err(breach) = self.check_arrival(from, &luggage) {
            self.dropped.extend(given);
            return Err(breach);
        }
        let Luggage {
            process,
            kept,
            ports,
            pipes,
            calls,
            watches,
            table,
            waiters,
            watchers,
            exports,
            parent,
            children,
            ..
        } = luggage;
        let (adopter, grants) = match self.expected.remove(&(from, ticket)) {
            Some(Expected { adopter, grants }) => (Some(adopter), grants),
            None => (None, Vec::new()),
        };
        let (held, stirred, limits) = (process.held, process.stirred, process.limits);
        let id = process.id;
        let me = self.insert_traveller(process);
        let mut unpacking = Unpacking {
            from,
            me,
            given: given.into_iter().map(Some).collect(),
            ports: Vec::new(),
            pipes: Vec::new(),
            calls: Vec::new(),
            watches: Vec::new(),
        };
        for Kept { index, bytes } in kept.0 {
            if let Some(Right { object: Object::Foreign(_, import), .. }) = unpacking.given[index as usize] {
                self.imports[import].kept = bytes;
            }
        }
        self.unpack_objects(&mut unpacking, &ports.0, &pipes.0, calls.0, watches.0);
        let places = self.unpack_table(&mut unpacking, table.0, grants);
        self.processes[me].handles = Handles::from_places(limits.handles_max, places);
        for (index, port) in ports.0.into_iter().enumerate() {
            self.unpack_queue(&mut unpacking, index, port);
        }
        for (index, pipe) in pipes.0.into_iter().enumerate() {
            for WriterPacked { errand, actor, rest, written } in pipe.writing.0 {
                let key = unpacking.pipes[index];
                let waiting = Waiting::Write { pipe: key, rest: Box::new(rest), written };
                let writer = self.stand_here(from, errand, actor, waiting);
                self.pipes[key].writing.push_back(writer);
            }
        }
        for Visitor { errand, actor } in waiters.0 {
            let waiter = self.stand_here(from, errand, actor, Waiting::Exit { process: me });
            self.processes[me].waiters.push(waiter);
        }
        for Watcher { visitor: Visitor { errand, actor }, port } in watchers.0 {
            let watcher = self.stand_here(from, errand, actor, Waiting::Post);
            let subject = match port {
                Some(port) => Subject::Port(unpacking.ports[port as usize]),
                None => Subject::Process(me),
            };
            let watch = self.create_watch(watcher, subject, None, 0);
            match subject {
                Subject::Port(port) => self.ports[port].watches.push(watch),
                _ => self.processes[me].watches.push(watch),
            }
            self.processes[watcher].state = State::Waiting { waiting: Waiting::Notice { watch }, alarm: None };
        }
        for Left { number, item } in exports.0 {
            let right = self.unpack_item(&mut unpacking, &item);
            let session = self.sessions.get_mut(&from).expect("who says something has a session");
            if !planted(Bug::MovedExportLost) {
                session.exports.insert(number, right);
            } else {
                self.dropped.push(right);
            }
        }
        for errand in children.0 {
            let errand = self.adopt(from, errand, What::Spawn, Purpose::Child(me));
            if !planted(Bug::MovedChildForgotten) {
                self.outposts.entry(me).or_default().push(errand);
            } else {
                self.errands[errand].purpose = Purpose::Nobody;
            }
        }
        self.processes[me].held = held;
        self.processes[me].stirred = stirred;
        let stays_with = parent.map(|Visitor { errand, actor }| self.stand_here(from, errand, actor, Waiting::Post));
        let adopts = adopter.into_iter().chain(self.first).find(|adopter| self.is_alive(*adopter));
        let parent = stays_with.or(adopts);
        if let Some(parent) = parent {
            self.link(me, parent);
        }
        self.sweep_wanted = true;
        let Some(adopter) = adopter else {
            // The world did not expect it, and has nothing that could run.
            self.end(me, Exit::NodeLost, effects);
            effects.retain(|effect| !matches!(effect, Effect::Destroy { process, .. } if *process == me));
            return Ok(());
        };
        let handle = match self.processes.get(adopter) {
            Some(process) if process.handles.room() > 0 && self.is_alive(adopter) => {
                let right = Right::all(Object::Process(me));
                self.retain(&right);
                self.processes[adopter].handles.insert(right)
            }
            _ => HandleId::NONE,
        };
        effects.push(Effect::Settled { from, ticket, process: me, id, handle });
        if parent.is_none() {
            self.end(me, Exit::Orphaned, effects);
        }
        Ok(())
    }

    /// Whether there is room for all of it, and its numbers are new.
    fn check_arrival(&self, from: NodeId, luggage: &Luggage) -> Result<(), Breach> {
        let session = &self.sessions[&from];
        if luggage.errands().any(|errand| session.stand_ins.contains_key(&errand))
            || luggage.adopted().any(|errand| session.adopted.contains_key(&errand))
        {
            return Err(Breach::Errand);
        }
        if luggage.exports.0.iter().any(|left| session.exports.contains_key(&left.number)) {
            return Err(Breach::Right);
        }
        let (errands, adopted) = (luggage.errands().count(), luggage.adopted().count());
        let stand_ins = session.stand_ins.len() + errands;
        let exports = session.exports.len() + luggage.exports.0.len();
        let fits = stand_ins <= 2 * ERRANDS_MAX as usize
            && exports <= FOREIGN_MAX as usize * 2
            && self.errands.len() as usize + adopted <= ERRANDS_MAX as usize
            && self.processes.room() as usize > errands
            && self.ports.room() as usize >= luggage.ports.0.len()
            && self.pipes.room() as usize >= luggage.pipes.0.len()
            && self.calls.room() as usize >= luggage.calls.0.len() + errands
            && self.watches.room() as usize >= luggage.watches.0.len() + errands;
        if fits { Ok(()) } else { Err(Breach::Limit) }
    }

    fn insert_traveller(&mut self, traveller: Traveller) -> Key<Process> {
        let Traveller { id, program, limits, weight, orphan, used_ns, calls_made, .. } = traveller;
        let process = Process {
            used_ns,
            calls_made: if planted(Bug::MovedCallsForgotten) { 0 } else { calls_made },
            outcome: Outcome::Yielded,
            ..Process::new(id, program, limits, weight, orphan)
        };
        self.processes.insert(process).expect("there is room, as was just seen")
    }

    /// Somebody over there who waits for something of the process that came.
    fn stand_here(&mut self, from: NodeId, errand: u64, actor: ProcessId, waiting: Waiting) -> Key<Process> {
        let stand_in = self.send_stand_in(from, errand, actor);
        self.processes[stand_in].state = State::Waiting { waiting, alarm: None };
        stand_in
    }

    /// An errand that goes on at the node from which the process came.
    fn adopt(&mut self, from: NodeId, number: u64, what: What, purpose: Purpose) -> Key<Errand> {
        let mut errand = Errand::new(from, purpose, what);
        errand.number = number;
        let key = self.errands.insert(errand).expect("there is room, as was just seen");
        let session = self.sessions.get_mut(&from).expect("who says something has a session");
        session.adopted.insert(number, key);
        key
    }

    /// A time that the process has left, by this node's clock.
    fn time_left(&self, left_ns: u64) -> Time {
        self.now.after(left_ns.max(1))
    }

    fn unpack_objects(
        &mut self, unpacking: &mut Unpacking, ports: &[PortPacked], pipes: &[PipePacked], calls: Vec<CallPacked>,
        watches: Vec<WatchPacked>,
    ) {
        let (from, me) = (unpacking.from, unpacking.me);
        for port in ports {
            let used = &mut self.processes[me].used;
            used.ports += 1;
            used.buffer_bytes += u64::from(port.options.bytes_max);
            let port = Port { dropped: port.dropped, ..Port::new(port.id, me, port.options) };
            unpacking.ports.push(self.ports.insert(port).expect("there is room, as was just seen"));
        }
        for packed in pipes {
            let used = &mut self.processes[me].used;
            used.pipes += 1;
            used.buffer_bytes += u64::from(packed.bytes_max);
            let mut pipe = Pipe::new(packed.id, me, packed.bytes_max);
            pipe.put_pieces(&packed.pieces.0);
            unpacking.pipes.push(self.pipes.insert(pipe).expect("there is room, as was just seen"));
        }
        let mut answers = Vec::new();
        for (index, CallPacked { id, server, caller, moved }) in calls.into_iter().enumerate() {
            let server_side = match &server {
                ServerPacked::Queued { port } => ServerSide::Queued(unpacking.ports[*port as usize]),
                ServerPacked::Taken => ServerSide::Taken,
                ServerPacked::Away { .. } | ServerPacked::Done => ServerSide::Done,
            };
            let (caller, caller_side, left_ns) = match caller {
                CallerPacked::Begun { left_ns } => (me, CallerSide::Begun, left_ns),
                CallerPacked::Answered { bytes, rights } => {
                    answers.push((index, rights));
                    let rights = Box::default();
                    (me, CallerSide::Over(Ok(Answering { bytes, rights })), None)
                }
                CallerPacked::Failed { error } => (me, CallerSide::Over(Err(error)), None),
                CallerPacked::Gone => (me, CallerSide::Gone, None),
                CallerPacked::Abroad { errand } => {
                    let caller = self.stand_here(from, errand, id.caller, Waiting::Post);
                    (caller, CallerSide::Blocked, None)
                }
            };
            let key = self.create_call(id, caller, server_side, caller_side);
            if let Some(left_ns) = left_ns {
                self.calls[key].alarm = Some(self.alarms.add(self.time_left(left_ns), Due::Call(key)));
            }
            if caller != me {
                self.processes[caller].state = State::Waiting { waiting: Waiting::Call { call: key }, alarm: None };
            }
            if let ServerPacked::Away { errand } = server {
                let errand = self.adopt(from, errand, What::Call, Purpose::Call(key));
                self.errands[errand].moved = moved.0.into_iter().map(HandleId).collect();
                self.calls[key].server_side = ServerSide::Away(errand);
            }
            unpacking.calls.push(key);
        }
        for WatchPacked { id, token, port, subject } in watches {
            let port = unpacking.ports[port as usize];
            let watch = Watch { id, subject: Subject::Port(port), owner: me, port: Some(port), token };
            let key = self.watches.insert(watch).expect("there is room, as was just seen");
            self.processes[me].used.watches += 1;
            self.ports[port].notices += 1;
            self.watches[key].subject = match subject {
                SubjectPacked::Time { left_ns } => {
                    Subject::Time(self.alarms.add(self.time_left(left_ns), Due::Watch(key)))
                }
                SubjectPacked::Port { index } => {
                    let port = unpacking.ports[index as usize];
                    self.ports[port].watches.push(key);
                    Subject::Port(port)
                }
                SubjectPacked::Reply { index } => {
                    let call = unpacking.calls[index as usize];
                    self.calls[call].watch = Some(key);
                    Subject::Reply(call)
                }
                SubjectPacked::Abroad { errand, object } => {
                    let errand = self.adopt(from, errand, What::Watch, Purpose::Watch(key));
                    Subject::Abroad { errand, object }
                }
            };
            unpacking.watches.push(key);
        }
        for (index, rights) in answers {
            let unpacked = self.unpack_items(unpacking, &rights);
            let call = unpacking.calls[index];
            let CallerSide::Over(Ok(answering)) = &mut self.calls[call].caller_side else {
                unreachable!("it was just made so")
            };
            answering.rights = unpacked;
            self.receivers_in_transit += answering.receivers();
        }
    }

    fn unpack_item(&mut self, unpacking: &mut Unpacking, item: &Item) -> Right {
        let plain = |object, rights| Right { object, rights, badge: Default::default() };
        let right = match *item {
            Item::Given { index } => {
                return unpacking.given[index as usize].take().expect("each is named once, as was checked");
            }
            Item::Itself { rights } => plain(Object::Process(unpacking.me), rights),
            Item::Port { index, rights, badge } => {
                Right { object: Object::Port(unpacking.ports[index as usize]), rights, badge }
            }
            Item::Closed { rights, badge } => return Right { object: Object::Port(Key::nothing()), rights, badge },
            Item::Pipe { index, rights } => plain(Object::Pipe(unpacking.pipes[index as usize]), rights),
            Item::Reply { index, rights } => return plain(Object::Reply(unpacking.calls[index as usize]), rights),
            Item::Call { index, rights } => return plain(Object::Call(unpacking.calls[index as usize]), rights),
            Item::Watch { index, rights } => return plain(Object::Watch(unpacking.watches[index as usize]), rights),
            Item::Spent { rights } => return plain(Object::Watch(Key::nothing()), rights),
        };
        self.retain(&right);
        right
    }

    fn unpack_items(&mut self, unpacking: &mut Unpacking, items: &Many<Item>) -> Box<[Right]> {
        items.0.iter().map(|item| self.unpack_item(unpacking, item)).collect()
    }

    /// The table as it was, with what was granted in place of what was left.
    fn unpack_table(
        &mut self, unpacking: &mut Unpacking, table: Vec<Slot>, grants: Vec<(HandleId, Right)>,
    ) -> Vec<(u16, Option<Right>)> {
        let mut grants: BTreeMap<HandleId, Right> = grants.into_iter().collect();
        let mut places = Vec::new();
        for (index, slot) in table.into_iter().enumerate() {
            places.push(match slot {
                Slot::Used { generation, item } => (generation as u16, Some(self.unpack_item(unpacking, &item))),
                Slot::Free { generation } => (generation as u16, None),
                Slot::Left { generation } => match grants.remove(&HandleId(generation << 16 | (index as u32 + 1))) {
                    Some(right) => (generation as u16, Some(right)),
                    None => ((generation as u16).wrapping_add(1), None),
                },
            });
        }
        self.dropped.extend(grants.into_values());
        places
    }

    fn unpack_queue(&mut self, unpacking: &mut Unpacking, index: usize, packed: PortPacked) {
        let (from, key) = (unpacking.from, unpacking.ports[index]);
        for envelope in packed.queue.0 {
            let envelope = match envelope {
                EnvelopePacked::Notice { token, event } => {
                    self.ports[key].notices += 1;
                    Envelope::Notice(unpacking.me, Notice { token, event })
                }
                EnvelopePacked::Letter { bytes, sender, badge, rights, call } => {
                    let (cargo, call) = match call {
                        Some(Request::Abroad { errand, sequence }) => {
                            let caller = self.stand_here(from, errand, sender, Waiting::Post);
                            let (call, transfers) = self.unpack_request(unpacking, caller, key, sequence, &rights);
                            let waiting = Waiting::Call { call };
                            self.processes[caller].state = State::Waiting { waiting, alarm: None };
                            (Cargo::AtCaller(caller, transfers), Some(call))
                        }
                        Some(Request::Own { index }) => {
                            let rights = self.unpack_items(unpacking, &rights);
                            (Cargo::Taken(rights), Some(unpacking.calls[index as usize]))
                        }
                        None => (Cargo::Taken(self.unpack_items(unpacking, &rights)), None),
                    };
                    let port = &mut self.ports[key];
                    port.messages += 1;
                    port.bytes += bytes.len() as u32;
                    self.receivers_in_transit += cargo.receivers();
                    Envelope::Letter(Letter { bytes, cargo, sender, badge, call })
                }
            };
            self.ports[key].queue.push_back(envelope);
        }
        for SenderPacked { errand, actor, bytes, badge, rights, sequence } in packed.waiting.0 {
            let sender = self.stand_here(from, errand, actor, Waiting::Post);
            let (call, handles) = match sequence {
                Some(sequence) => {
                    let (call, handles) = self.unpack_request(unpacking, sender, key, sequence, &rights);
                    (Some(call), handles)
                }
                None => (None, self.lend(unpacking, sender, &rights)),
            };
            let pending = Box::new(Pending { message: Message { bytes, handles }, badge, call });
            self.processes[sender].state =
                State::Waiting { waiting: Waiting::Send { port: key, pending }, alarm: None };
            self.ports[key].senders_waiting.push_back(sender);
        }
    }

    /// A stand-in holds what the one for whom it stands in wants to give.
    fn lend(&mut self, unpacking: &mut Unpacking, holder: Key<Process>, rights: &Many<Item>) -> Box<[Transfer]> {
        let rights = self.unpack_items(unpacking, rights);
        let transfer = |right: Right| {
            let rights = right.rights;
            let handle = self.processes[holder].handles.insert(right);
            Transfer { handle, rights, mode: TransferMode::Move }
        };
        rights.into_iter().map(transfer).collect()
    }

    fn unpack_request(
        &mut self, unpacking: &mut Unpacking, caller: Key<Process>, port: Key<Port>, sequence: u64, rights: &Many<Item>,
    ) -> (Key<Call>, Box<[Transfer]>) {
        let id = CallId { caller: self.processes[caller].id, sequence };
        self.processes[caller].calls_made = sequence;
        let transfers = self.lend(unpacking, caller, rights);
        let call = self.create_call(id, caller, ServerSide::Queued(port), CallerSide::Blocked);
        (call, transfers)
    }
}
