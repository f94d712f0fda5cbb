//! What must hold of the whole kernel between steps: each part's own invariants, and those between parts. The simulator asks
//! after every step.
//!
//! The one idea: everything that is counted or linked is counted and followed again from the only places where rights can
//! be, the tables of processes and the messages.

use crate::Kernel;
use crate::call::{CallerSide, ServerSide};
use crate::handles::{Object, Right};
use crate::port::{Cargo, Envelope};
use crate::process::{Process, State, Waiting};
use crate::schedule::{Due, Worker};
use crate::table::Key;
use crate::watch::Subject;
use abi::rights::Rights;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

#[derive(Default, PartialEq, Eq, Debug)]
struct Counts {
    rights: u32,
    send: u32,
    receive: u32,
    read: u32,
    write: u32,
}

impl Kernel {
    /// Panics, with what is wrong, if an invariant does not hold.
    pub fn check(&self) {
        self.processes.check();
        self.ports.check();
        self.calls.check();
        self.pipes.check();
        self.watches.check();
        self.ready.check();
        self.alarms.check();
        self.ports.iter().for_each(|(_, port)| port.check());
        self.pipes.iter().for_each(|(_, pipe)| pipe.check());
        self.processes.iter().for_each(|(_, process)| process.handles.check());
        assert!(self.dropped.is_empty(), "a dropped right was not released");
        self.check_rights();
        self.check_calls();
        self.check_processes();
        self.check_watches();
        self.check_alarms();
        self.check_workers();
        self.imports.check();
        self.errands.check();
        self.check_foreign();
    }

    fn check_rights(&self) {
        let mut counts: BTreeMap<Object, Counts> = BTreeMap::new();
        let mut count = |right: &Right| {
            assert!(
                Rights::all_of(right.object.kind()).contains(right.rights),
                "{right:?} holds what its kind does not have"
            );
            let counts = counts.entry(right.object).or_default();
            counts.rights += 1;
            counts.send += u32::from(right.rights.contains(Rights::SEND));
            counts.receive += u32::from(right.rights.contains(Rights::RECEIVE));
            counts.read += u32::from(right.rights.contains(Rights::READ));
            counts.write += u32::from(right.rights.contains(Rights::WRITE));
        };
        for (_, process) in self.processes.iter() {
            process.handles.iter().for_each(|(_, right)| count(right));
        }
        let mut receivers = 0;
        for (_, port) in self.ports.iter() {
            for envelope in &port.queue {
                if let Envelope::Letter(letter) = envelope {
                    receivers += letter.cargo.receivers();
                    if let Cargo::Taken(rights) = &letter.cargo {
                        rights.iter().for_each(&mut count);
                    }
                }
            }
        }
        for (_, call) in self.calls.iter() {
            if let CallerSide::Over(Ok(answering)) = &call.caller_side {
                receivers += answering.receivers();
                answering.rights.iter().for_each(&mut count);
            }
        }
        for session in self.sessions.values() {
            session.exports.values().for_each(&mut count);
            session.delayed.iter().flat_map(|delayed| delayed.rights.iter().chain(&delayed.lent)).for_each(&mut count);
        }
        self.grants.values().for_each(|grant| count(&grant.right));
        self.expected.values().flat_map(|expected| &expected.grants).for_each(|(_, right)| count(right));
        self.door.iter().for_each(&mut count);
        self.imports.iter().flat_map(|(_, import)| import.way.rights()).for_each(&mut count);
        self.holds.values().flat_map(|hold| hold.rights()).for_each(&mut count);
        assert_eq!(receivers, self.receivers_in_transit, "receiving ends in transit are miscounted");
        let none = Counts::default();
        let of = |object| counts.get(&object).unwrap_or(&none);
        for (key, process) in self.processes.iter() {
            assert_eq!(
                of(Object::Process(key)).rights,
                process.references,
                "handles to {:?} are miscounted",
                process.id
            );
        }
        for (key, port) in self.ports.iter() {
            let counted = of(Object::Port(key));
            assert_eq!(
                (counted.send, counted.receive),
                (port.send_rights, port.receive_rights),
                "rights to {:?} are miscounted",
                port.id
            );
        }
        for (key, pipe) in self.pipes.iter() {
            let counted = of(Object::Pipe(key));
            assert_eq!(
                (counted.rights, counted.read, counted.write),
                (pipe.handles, pipe.readers, pipe.writers),
                "rights to {:?} are miscounted",
                pipe.id
            );
        }
        for (key, call) in self.calls.iter() {
            let answering = u32::from(call.server_side == ServerSide::Taken);
            assert_eq!(of(Object::Reply(key)).rights, answering, "{:?} can be answered other than once", call.id);
            let begun = matches!(call.caller_side, CallerSide::Begun | CallerSide::Collecting | CallerSide::Over(_));
            assert_eq!(of(Object::Call(key)).rights, u32::from(begun), "{:?} has other than one handle", call.id);
        }
        for (key, import) in self.imports.iter() {
            let kind = match import.object {
                abi::ids::ObjectId::Process(_) => abi::rights::Kind::Process,
                abi::ids::ObjectId::Port(_) => abi::rights::Kind::Port,
                _ => abi::rights::Kind::Pipe,
            };
            assert_eq!(
                of(Object::Foreign(kind, key)).rights,
                1,
                "{:?} of another node is held other than once",
                import.object
            );
        }
        for object in counts.keys() {
            let alive = match *object {
                Object::Process(key) => self.processes.get(key).is_some(),
                Object::Pipe(key) => self.pipes.get(key).is_some(),
                Object::Reply(key) | Object::Call(key) => self.calls.get(key).is_some(),
                Object::Foreign(_, key) => self.imports.get(key).is_some(),
                Object::Port(_) | Object::Watch(_) | Object::Device(_) => true,
            };
            assert!(alive, "a right to {object:?} outlived it");
        }
    }

    fn check_calls(&self) {
        let mut queued = BTreeMap::new();
        for (key, port) in self.ports.iter() {
            for envelope in &port.queue {
                if let Envelope::Letter(letter) = envelope
                    && let Some(call) = letter.call
                {
                    assert!(queued.insert(call, key).is_none(), "a request lies in two queues");
                }
            }
        }
        for (key, call) in self.calls.iter() {
            let caller = self.processes.get(call.caller).map(|process| &process.state);
            let waiting = match caller {
                Some(State::Waiting { waiting, .. }) => Some(waiting),
                _ => None,
            };
            let waits_for_room = match waiting {
                Some(Waiting::Send { pending, .. }) => pending.call == Some(key),
                _ => false,
            };
            match call.server_side {
                ServerSide::Queued(port) => {
                    assert!(
                        (queued.remove(&key) == Some(port)) != waits_for_room,
                        "the request of {:?} lies nowhere, or twice",
                        call.id
                    );
                }
                ServerSide::Taken | ServerSide::Done | ServerSide::Away(_) => {
                    assert!(!queued.contains_key(&key), "{:?} was taken and still lies in a queue", call.id);
                    let over = call.server_side == ServerSide::Done && matches!(call.caller_side, CallerSide::Gone);
                    assert!(!over, "{:?} is over and still there", call.id);
                }
            }
            let as_it_should = match &call.caller_side {
                CallerSide::Blocked => {
                    waits_for_room || matches!(waiting, Some(Waiting::Call { call }) if *call == key)
                }
                CallerSide::Collecting => {
                    matches!(waiting, Some(Waiting::EndCall { call, .. }) if *call == key)
                }
                CallerSide::Begun | CallerSide::Over(_) => caller.is_some(),
                CallerSide::Gone => true,
            };
            assert!(as_it_should, "the caller of {:?} does not wait for it", call.id);
        }
        assert!(queued.is_empty(), "a request lies in a queue without a call");
    }

    fn check_processes(&self) {
        let mut ready: BTreeMap<Key<Process>, u64> = BTreeMap::new();
        for (ticket, tag, key) in self.ready.iter() {
            let process = &self.processes[key];
            assert!(
                matches!(process.state, State::Ready { ticket: kept } if kept == ticket),
                "{:?} stands in the ready queue and is not ready",
                process.id
            );
            ready.insert(key, tag);
        }
        for (key, process) in self.processes.iter() {
            let id = process.id;
            match &process.state {
                State::Ready { .. } => {
                    assert!(ready.contains_key(&key), "{id:?} is ready and nobody knows");
                    assert!(!process.held, "{id:?} is held and would run");
                }
                State::Held => assert!(process.held, "{id:?} is kept back and not held"),
                State::Running { worker, .. } | State::Doomed { worker, .. } => {
                    let at = self.workers[usize::from(worker.0)];
                    assert_eq!(at, Worker::Running(key), "{id:?} runs where nobody runs it");
                }
                State::Waiting { waiting, .. } => self.check_waiting(key, process, waiting),
                State::Exited { .. } => {
                    assert!(process.references > 0, "{id:?} ended and nobody can ask");
                    assert!(
                        process.handles.len() == 0
                            && process.waiters.is_empty()
                            && process.watches.is_empty()
                            && process.first_child.is_none()
                            && process.parent.is_none(),
                        "{id:?} ended and still holds something"
                    );
                }
                State::Starting => {}
            }
            self.check_children(key, process);
            for waiter in &process.waiters {
                assert!(
                    matches!(self.processes[*waiter].state,
                        State::Waiting { waiting: Waiting::Exit { process }, .. } if process == key),
                    "{:?} does not wait for the end of {id:?}",
                    self.processes[*waiter].id
                );
            }
        }
        for (key, port) in self.ports.iter() {
            for receiver in &port.receivers_waiting {
                let waits = match &self.processes[*receiver].state {
                    State::Waiting { waiting: Waiting::Receive { port }, .. } => *port == key,
                    State::Waiting { waiting: Waiting::Select { ports }, .. } => ports.contains(&key),
                    _ => false,
                };
                assert!(waits, "{:?} stands among the receivers of {:?} and does not wait", receiver, port.id);
            }
            for sender in &port.senders_waiting {
                let waits = match &self.processes[*sender].state {
                    State::Waiting { waiting: Waiting::Send { port, .. }, .. } => *port == key,
                    _ => false,
                };
                assert!(waits, "{:?} stands among the senders of {:?} and does not wait", sender, port.id);
            }
            if let Some(first) = port.senders_waiting.front()
                && let State::Waiting { waiting: Waiting::Send { pending, .. }, .. } = &self.processes[*first].state
            {
                let bytes = pending.message.bytes.len();
                let fits = port.messages < port.options.messages_max
                    && port.bytes as usize + bytes <= port.options.bytes_max as usize;
                assert!(!fits, "a sender sleeps beside room at {:?}", port.id);
            }
        }
        let reachable = self.reachable_ports();
        let transit = self.receivers_in_transit > 0;
        for (key, port) in self.ports.iter() {
            assert!(reachable.contains(&key) || transit, "nobody can receive from {:?}", port.id);
        }
    }

    fn check_waiting(&self, key: Key<Process>, process: &Process, waiting: &Waiting) {
        let stands = match waiting {
            Waiting::Receive { port } => self.ports[*port].receivers_waiting.contains(&key),
            Waiting::Select { ports } => ports.iter().all(|port| self.ports[*port].receivers_waiting.contains(&key)),
            Waiting::Send { port, .. } => self.ports[*port].senders_waiting.contains(&key),
            Waiting::Call { call } => matches!(self.calls[*call].caller_side, CallerSide::Blocked),
            Waiting::EndCall { call, .. } => {
                matches!(self.calls[*call].caller_side, CallerSide::Collecting)
            }
            Waiting::Exit { process } => self.processes[*process].waiters.contains(&key),
            Waiting::Sleep => true,
            Waiting::Read { pipe, .. } => self.pipes[*pipe].reading.contains(&key),
            Waiting::Write { pipe, .. } => self.pipes[*pipe].writing.contains(&key),
            Waiting::Away { errand } => self.errands.get(*errand).is_some(),
            Waiting::Notice { watch } => self.watches.get(*watch).is_some(),
            Waiting::Post => {
                process.abroad.is_some() && (process.used.children > 0 || self.outposts.contains_key(&key))
            }
        };
        assert!(stands, "{:?} waits in nobody's queue", process.id);
        let for_nothing = match waiting {
            Waiting::Receive { port } => self.ports[*port].is_silent(),
            Waiting::Select { ports } => self.all_silent(ports),
            _ => false,
        };
        assert!(!for_nothing, "{:?} waits for what can never come", process.id);
    }

    fn check_children(&self, key: Key<Process>, process: &Process) {
        let (mut child, mut previous, mut count) = (process.first_child, None, 0);
        while let Some(found) = child {
            let this = &self.processes[found];
            assert_eq!(this.parent, Some(key), "{:?} does not know its parent", this.id);
            assert_eq!(this.previous_sibling, previous, "the children of {:?} are linked wrongly", process.id);
            assert!(!matches!(this.state, State::Exited { .. }), "{:?} ended and is still a child", this.id);
            (child, previous, count) = (this.next_sibling, child, count + 1);
        }
        if !matches!(process.state, State::Exited { .. }) {
            assert_eq!(count, process.used.children, "the children of {:?} are miscounted", process.id);
        }
    }

    fn check_watches(&self) {
        let mut by_port = BTreeMap::new();
        let mut by_owner = BTreeMap::new();
        for (key, watch) in self.watches.iter() {
            if let Some(port) = watch.port {
                *by_port.entry(port).or_insert(0u32) += 1;
            }
            *by_owner.entry(watch.owner).or_insert(0u32) += 1;
            let stands = match watch.subject {
                Subject::Process(process) => self.processes[process].watches.contains(&key),
                Subject::Port(port) => self.ports[port].watches.contains(&key),
                Subject::Reply(call) => self.calls[call].watch == Some(key),
                Subject::Time(ticket) => self.alarms.iter().any(|(t, _, due)| t == ticket && due == Due::Watch(key)),
                Subject::Journal(_) => true,
                Subject::Abroad { errand, .. } => self.errands.get(errand).is_some(),
            };
            assert!(stands, "{:?} watches what does not know it", watch.id);
        }
        for (key, port) in self.ports.iter() {
            let queued = port.queue.len() as u32 - port.messages;
            let due = by_port.get(&key).copied().unwrap_or(0);
            assert_eq!(queued + due, port.notices, "the notices of {:?} are miscounted", port.id);
        }
        let mut ports = BTreeMap::new();
        for (_, port) in self.ports.iter() {
            *ports.entry(port.maker).or_insert((0, 0)) = (
                ports.get(&port.maker).map_or(0, |counted: &(u32, u64)| counted.0) + 1,
                ports.get(&port.maker).map_or(0, |counted: &(u32, u64)| counted.1) + u64::from(port.options.bytes_max),
            );
        }
        for (key, process) in self.processes.iter() {
            if matches!(process.state, State::Exited { .. }) {
                continue;
            }
            let due = by_owner.get(&key).copied().unwrap_or(0);
            assert_eq!(due, process.used.watches, "the watches of {:?} are miscounted", process.id);
            let pipes: Vec<_> = self.pipes.iter().filter(|(_, pipe)| pipe.maker == key).collect();
            let (made, bytes) = ports.get(&key).copied().unwrap_or((0, 0));
            assert_eq!(made, process.used.ports, "the ports of {:?} are miscounted", process.id);
            assert_eq!(pipes.len() as u32, process.used.pipes, "the pipes of {:?} are miscounted", process.id);
            let pipe_bytes: u64 = pipes.iter().map(|(_, pipe)| u64::from(pipe.bytes_max())).sum();
            assert_eq!(bytes + pipe_bytes, process.used.buffer_bytes, "the buffers of {:?} are miscounted", process.id);
        }
    }

    fn check_alarms(&self) {
        let mut due: Vec<Due> = self.alarms.iter().map(|(_, _, due)| due).collect();
        for (ticket, at, due) in self.alarms.iter() {
            assert!(at > self.now.0, "{due:?} is over and was not told");
            let kept = match due {
                Due::Process(key) => match &self.processes[key].state {
                    State::Waiting { alarm, .. } => *alarm == Some(ticket),
                    _ => false,
                },
                Due::Call(key) => self.calls[key].alarm() == Some(ticket),
                Due::Watch(key) => self.watches[key].subject == Subject::Time(ticket),
                Due::Session(node) => self.sessions.get(&node).and_then(|session| session.alarm()) == Some(ticket),
            };
            assert!(kept, "{due:?} comes due and does not wait");
        }
        due.sort();
        due.dedup();
        assert_eq!(due.len(), self.alarms.iter().count(), "something comes due twice");
        for (key, process) in self.processes.iter() {
            if let State::Waiting { waiting: Waiting::Sleep, alarm } = &process.state {
                assert!(alarm.is_some(), "{key:?} sleeps for ever");
            }
        }
    }

    fn check_workers(&self) {
        for (index, worker) in self.workers.iter().enumerate() {
            let parked = self.parked.iter().filter(|worker| usize::from(worker.0) == index).count();
            assert_eq!(parked, usize::from(*worker == Worker::Parked), "a worker is parked and running");
            if let Worker::Running(key) = worker {
                // It may have left for another node.
                let state = self.processes.get(*key).map(|process| &process.state);
                assert!(
                    matches!(state, None | Some(State::Running { .. } | State::Doomed { .. })),
                    "a worker runs what does not run"
                );
            }
        }
        let waking = self.workers.iter().filter(|worker| **worker == Worker::Waking).count();
        assert!(
            self.parked.is_empty() || waking >= self.ready.len(),
            "a process is ready, a worker sleeps, and nobody wakes it"
        );
    }
}
