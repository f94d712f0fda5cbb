//! A process that does anything at all: makes ports and pipes, sends, calls, answers, passes rights on, asks for more than it
//! has, has children and kills them. It knows nothing of what others do with what it sends.
//!
//! The one idea: it holds what it was given and picks an act and its arguments by chance, good and bad ones; whether the
//! kernel did right is judged by the model, not here.

use crate::checkers::model::WRITE_MARK;
use crate::machine::{Body, Doing};
use crate::random::Random;
use abi::call::{
    CallError, Deadline, EndCallError, Outcome, Overflow, PortOptions, Reached, ReplyError, SendError, SendMode,
    SpawnError, SystemCall, Wait,
};
use abi::ids::{HandleId, NodeId, ProcessId, Time};
use abi::limits::{Limits, WEIGHT_NORMAL};
use abi::message::{Badge, Bytes, Delivery, Message, Notify, Received, Transfer, TransferMode};
use abi::process::{Fault, Orphan, Program, Spawn};
use abi::rights::{Kind, Rights};
use std::collections::BTreeSet;

/// How many generations of children there are.
const GENERATIONS: u8 = 3;

/// The program of actors; the first argument byte is the generation.
pub const ACTOR: Program = Program::Service(100);
/// A program that nobody knows.
pub const UNKNOWN: Program = Program::Service(999);

pub struct Actor {
    random: Random,
    id: ProcessId,
    generation: u8,
    made: u32,
    acts_left: u32,
    asked: Option<SystemCall>,
    ports: Vec<HandleId>,
    pipes: Vec<HandleId>,
    processes: Vec<HandleId>,
    replies: Vec<HandleId>,
    calls: Vec<HandleId>,
    watches: Vec<HandleId>,
    /// Came in a message; not looked at yet.
    unknown: Vec<HandleId>,
    /// A call whose fate is unknown.
    again: Option<u64>,
    children: u32,
    /// The nodes that it knows of; none if there is but one.
    nodes: Vec<NodeId>,
    has_door: bool,
    /// The network, of the first of a node.
    network: HandleId,
    /// It mostly sends what nobody waits for, and takes it: much is under way at any time.
    streams: bool,
    /// What it waits for is under way for long, and it sends more rights.
    waits_long: bool,
    /// Pipes that it has read from: nobody else may.
    read_from: BTreeSet<HandleId>,
    /// Pipes that it has given another to read from.
    read_by_others: BTreeSet<HandleId>,
}

impl Actor {
    pub fn new(seed: u64, id: ProcessId, arguments: &Bytes) -> Actor {
        let mut random = Random::new(seed ^ id.to_bits().wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let generation = arguments.first().copied().unwrap_or(0);
        // The first lives as long as the run, and sees to it that there are others.
        let acts_left = if generation == 0 { u32::MAX } else { 30 + random.below(100) as u32 };
        Actor {
            random,
            id,
            generation,
            made: 0,
            acts_left,
            asked: None,
            ports: Vec::new(),
            pipes: Vec::new(),
            processes: Vec::new(),
            replies: Vec::new(),
            calls: Vec::new(),
            watches: Vec::new(),
            // Children are given up to four handles.
            unknown: (1..=4).map(HandleId).collect(),
            again: None,
            children: 0,
            nodes: Vec::new(),
            has_door: false,
            network: HandleId(1),
            streams: false,
            waits_long: false,
            read_from: BTreeSet::new(),
            read_by_others: BTreeSet::new(),
        }
    }

    /// One of several nodes' actors; the first of a node ends too, so that in the end nothing is left.
    pub fn of_cluster(seed: u64, id: ProcessId, arguments: &Bytes, nodes: &[NodeId]) -> Actor {
        let mut actor = Actor::new(seed, id, arguments);
        if actor.generation == 0 {
            actor.acts_left = 120 + actor.random.below(120) as u32;
        }
        actor.nodes = nodes.to_vec();
        actor
    }

    /// One that was given more than the network.
    pub fn with_network(mut self, network: HandleId) -> Actor {
        self.network = network;
        self
    }

    pub fn streaming(mut self) -> Actor {
        self.streams = true;
        self
    }

    pub fn waiting_long(mut self) -> Actor {
        self.waits_long = true;
        self
    }

    /// Of so many acts one is another than mostly.
    fn seldom(&self) -> u64 {
        if self.waits_long { 2 } else { 4 }
    }

    fn until(&mut self, now: Time) -> Time {
        now.after(self.random.below(if self.waits_long { 200_000_000 } else { 2_000_000 }))
    }

    /// What is under way when a way changes.
    fn stream(&mut self, now: Time) -> SystemCall {
        if self.random.once_in(2) {
            return SystemCall::Receive {
                port: self.port(),
                wait: Wait::Until(now.after(self.random.below(3_000_000))),
            };
        }
        let handles = if self.random.once_in(self.seldom()) { self.transfers(1) } else { Box::default() };
        let message = Message { bytes: self.content(), handles };
        SystemCall::Send { port: self.port(), message, mode: SendMode::Unreliable }
    }

    fn forget(&mut self, handle: HandleId) {
        let Actor { ports, pipes, processes, replies, calls, watches, unknown, .. } = self;
        for list in [ports, pipes, processes, replies, calls, watches, unknown] {
            list.retain(|other| *other != handle);
        }
    }

    fn forget_moved(&mut self, transfers: &[Transfer]) {
        for transfer in transfers.iter().filter(|transfer| transfer.mode == TransferMode::Move) {
            self.forget(transfer.handle);
        }
    }

    fn take(&mut self, received: Received) {
        if let Received::Message(Delivery { handles, call, .. }) = received {
            self.unknown.extend(handles);
            self.replies.extend(call.map(|call| call.reply));
        }
    }

    fn learn(&mut self, outcome: Outcome) {
        let asked = self.asked.take();
        match (asked, outcome) {
            (Some(SystemCall::Send { message, .. }), Outcome::Sent(Ok(()) | Err(SendError::Unknown))) => {
                self.forget_moved(&message.handles)
            }
            (_, Outcome::Door(Ok(door))) => self.unknown.push(door),
            (_, Outcome::Received(Ok(received)) | Outcome::Selected(Ok((_, received)))) => self.take(received),
            (Some(SystemCall::Call { message, .. }), Outcome::Called(result)) => match result {
                Ok(answer) => {
                    self.forget_moved(&message.handles);
                    self.unknown.extend(answer.handles);
                }
                Err(CallError::Detached { call, .. }) => {
                    self.forget_moved(&message.handles);
                    self.calls.push(call);
                }
                Err(
                    CallError::Abandoned { sequence }
                    | CallError::Expired(Reached::Server { sequence })
                    | CallError::Interrupted(Reached::Server { sequence }),
                ) => {
                    self.forget_moved(&message.handles);
                    self.again = Some(sequence);
                }
                Err(_) => {}
            },
            (Some(SystemCall::BeginCall { message, .. }), Outcome::CallBegun(Ok(begun))) => {
                self.forget_moved(&message.handles);
                self.calls.push(begun.call);
            }
            (Some(SystemCall::EndCall { call, .. }), Outcome::CallEnded(result)) => match result {
                Ok(answer) => {
                    self.forget(call);
                    self.unknown.extend(answer.handles);
                }
                Err(EndCallError::Failed(_)) => self.forget(call),
                Err(_) => {}
            },
            (Some(SystemCall::Reply { reply, message }), Outcome::Replied(result)) => match result {
                Ok(()) => {
                    self.forget(reply);
                    self.forget_moved(&message.handles);
                }
                Err(ReplyError::CallerGone) => self.forget(reply),
                Err(_) => {}
            },
            (_, Outcome::PortCreated(Ok(port))) => self.ports.push(port),
            (_, Outcome::PipeCreated(Ok(pipe))) => self.pipes.push(pipe),
            (
                Some(SystemCall::SpawnOn { spawn, .. }),
                Outcome::Spawned(Err(SpawnError::Unknown | SpawnError::NodeLost)),
            ) => self.forget_moved(&spawn.handles),
            (Some(SystemCall::Spawn(spawn) | SystemCall::SpawnOn { spawn, .. }), Outcome::Spawned(Ok(spawned))) => {
                self.forget_moved(&spawn.handles);
                self.processes.push(spawned.process);
            }
            (_, Outcome::Duplicated(Ok(handle)) | Outcome::Badged(Ok(handle))) => self.unknown.push(handle),
            (Some(SystemCall::Close { handle }), Outcome::Closed(Ok(()))) => self.forget(handle),
            (_, Outcome::Watching(Ok(watch)) | Outcome::TimerSet(Ok(watch))) => self.watches.push(watch),
            (Some(SystemCall::Describe { handle }), Outcome::Described(described)) => {
                self.forget(handle);
                if let Ok(description) = described {
                    use abi::ids::ObjectId::*;
                    match description.object {
                        Process(_) => self.processes.push(handle),
                        Port(_) => self.ports.push(handle),
                        Pipe(_) => self.pipes.push(handle),
                        Reply(_) => self.replies.push(handle),
                        Call(_) => self.calls.push(handle),
                        Watch(_) => self.watches.push(handle),
                        Device(_) => {}
                    }
                }
            }
            _ => {}
        }
    }

    /// Bytes that nobody else sends and this process only once.
    fn content(&mut self) -> Bytes {
        self.made += 1;
        let mut text = format!("{:?}/{}", self.id, self.made).into_bytes();
        if self.random.once_in(4) {
            text.resize(text.len() + self.random.below(200) as usize, b'.');
        }
        text.into()
    }

    fn some_rights(&mut self) -> Rights {
        let mut rights = Rights::NONE;
        let kinds = [Kind::Port, Kind::Pipe, Kind::Process, Kind::Reply];
        let all = Rights::all_of(kinds[self.random.below(4) as usize]);
        for bit in 0..12 {
            let right = Rights::from_bits(1 << bit).expect("twelve bits mean something");
            if all.contains(right) && !self.random.once_in(4) {
                rights = rights.with(right);
            }
        }
        rights
    }

    fn transfers(&mut self, count_max: u64) -> Box<[Transfer]> {
        let count = if self.random.once_in(2) { 0 } else { self.random.below(count_max + 1) };
        let mut transfers: Vec<Transfer> = Vec::new();
        for _ in 0..count {
            let list = match self.random.below(8) {
                0..4 => &self.ports,
                4 => &self.replies,
                5 => &self.processes,
                6 => &self.unknown,
                _ => &self.watches,
            };
            let Some(handle) = self.random.pick(list).copied() else {
                continue;
            };
            // Moving one twice is a fault; once in a while that is tried too.
            if transfers.iter().any(|transfer| transfer.handle == handle) && !self.random.once_in(50) {
                continue;
            }
            let mode = if self.random.once_in(2) { TransferMode::Move } else { TransferMode::Copy };
            let rights = match self.random.below(3) {
                0 => Rights::SEND,
                1 => Rights::MOVE.with(Rights::ANSWER),
                _ => self.some_rights(),
            };
            transfers.push(Transfer { handle, rights, mode });
        }
        transfers.into()
    }

    fn wait(&mut self, now: Time) -> Wait {
        match self.random.below(8) {
            0..3 => Wait::No,
            3..7 => Wait::Until(self.until(now)),
            _ if self.generation == 0 => Wait::No,
            _ => Wait::Forever,
        }
    }

    fn deadline(&mut self, now: Time) -> Deadline {
        let at = (self.generation == 0 || !self.random.once_in(4)).then(|| self.until(now));
        let again = if self.random.once_in(2) { self.again.take() } else { None };
        Deadline { at, again }
    }

    /// What a notice says of who asked for it. Nobody else has the same, in whichever life of whichever node it was born: the model knows
    /// by it whom a notice was promised.
    fn token(&self) -> u64 {
        let serial = self.id.serial();
        let (node, life, count) = (u64::from(self.id.born().0), serial >> 32, serial & u64::from(u32::MAX));
        assert!(node < 1 << 4 && life < 1 << 12 && count < 1 << 24 && self.made < 1 << 24, "two may have one token");
        node << 60 | life << 48 | count << 24 | u64::from(self.made)
    }

    fn port(&mut self) -> HandleId {
        self.random.pick(&self.ports).copied().unwrap_or(HandleId(7))
    }

    /// What only those do who know of other nodes.
    fn act_abroad(&mut self, now: Time) -> Option<SystemCall> {
        if self.nodes.is_empty() || !self.random.once_in(5) {
            return None;
        }
        let node = self.random.pick(&self.nodes).copied()?;
        let first = self.generation == 0;
        if first && !self.has_door && !self.ports.is_empty() {
            self.has_door = true;
            return Some(SystemCall::OpenDoor { network: self.network, port: self.ports[0] });
        }
        if first && self.random.once_in(2) {
            return Some(SystemCall::Door { network: self.network, node, wait: self.wait(now) });
        }
        if self.generation >= GENERATIONS || self.children >= 4 {
            return None;
        }
        self.children += 1;
        let SystemCall::Spawn(mut spawn) = self.spawn() else { unreachable!("a spawn is a spawn") };
        if !self.random.once_in(8) {
            let leaves = Rights::RECEIVE.with(Rights::BADGE);
            spawn.handles.iter_mut().for_each(|transfer| transfer.rights = transfer.rights.without(leaves));
        }
        // Of a pipe that it never read from it may give the reading end away, to one reader.
        if let Some(pipe) = self.pipes.iter().copied().find(|pipe| !self.read_from.contains(pipe))
            && self.read_by_others.insert(pipe)
        {
            let transfer = Transfer { handle: pipe, rights: Rights::READ, mode: TransferMode::Copy };
            spawn.handles = spawn.handles.iter().copied().chain([transfer]).collect();
        }
        Some(SystemCall::SpawnOn { node, spawn })
    }

    fn act(&mut self, now: Time) -> Doing {
        if let Some(call) = self.act_abroad(now) {
            return Doing::Call(call);
        }
        if self.streams && self.ports.len() > 2 && !self.random.once_in(self.seldom()) {
            return Doing::Call(self.stream(now));
        }
        let call = match self.random.below(100) {
            0..20 if self.streams && self.ports.len() < 5 => {
                SystemCall::CreatePort(PortOptions { messages_max: 100, bytes_max: 30_000, overflow: Overflow::Wait })
            }
            0..6 if self.ports.len() < 5 => SystemCall::CreatePort(PortOptions {
                messages_max: [0, 1, 2, 5][self.random.below(4) as usize],
                bytes_max: 64 + self.random.below(300) as u32,
                overflow: if self.random.once_in(5) { Overflow::Drop } else { Overflow::Wait },
            }),
            0..24 => {
                let mode = match self.random.below(5) {
                    0 => SendMode::Unreliable,
                    _ => SendMode::Reliable(self.wait(now)),
                };
                let message = Message { bytes: self.content(), handles: self.transfers(2) };
                SystemCall::Send { port: self.port(), message, mode }
            }
            24..40 => SystemCall::Receive { port: self.port(), wait: self.wait(now) },
            40..44 => {
                let mut ports = self.ports.clone();
                ports.truncate(1 + self.random.below(3) as usize);
                if ports.is_empty() {
                    return Doing::Compute(1000);
                }
                SystemCall::Select { ports: ports.into(), wait: self.wait(now) }
            }
            44..53 => {
                let message = Message { bytes: self.content(), handles: self.transfers(2) };
                SystemCall::Call { port: self.port(), message, deadline: self.deadline(now) }
            }
            53..57 => {
                let message = Message { bytes: self.content(), handles: self.transfers(2) };
                SystemCall::BeginCall { port: self.port(), message, deadline: self.deadline(now) }
            }
            57..61 => match self.random.pick(&self.calls).copied() {
                Some(call) => SystemCall::EndCall { call, wait: self.wait(now) },
                None => SystemCall::Yield,
            },
            61..70 => match self.random.pick(&self.replies).copied() {
                Some(reply) => {
                    let message = Message { bytes: self.content(), handles: self.transfers(2) };
                    SystemCall::Reply { reply, message }
                }
                None => SystemCall::Receive { port: self.port(), wait: self.wait(now) },
            },
            70..75 => {
                let lists = [&self.ports, &self.processes, &self.pipes, &self.replies];
                let list = lists[self.random.below(4) as usize];
                let Some(handle) = self.random.pick(list).copied() else {
                    return Doing::Compute(500);
                };
                let rights = self.some_rights();
                match self.random.below(4) {
                    0 => SystemCall::Attenuate { handle, rights },
                    1 => SystemCall::MakeBadge { port: handle, badge: Badge(self.random.below(3)), rights },
                    _ => SystemCall::Duplicate { handle, rights },
                }
            }
            75..79 => {
                let lists = [
                    &self.ports,
                    &self.processes,
                    &self.pipes,
                    &self.replies,
                    &self.calls,
                    &self.watches,
                    &self.unknown,
                ];
                let list = lists[self.random.below(7) as usize];
                match self.random.pick(list).copied() {
                    Some(handle) => SystemCall::Close { handle },
                    None => SystemCall::Yield,
                }
            }
            79..83 if self.generation < GENERATIONS && (self.children < 4 || self.generation == 0) => {
                self.children += 1;
                self.spawn()
            }
            79..86 => match self.random.pick(&self.processes).copied() {
                Some(process) => match self.random.below(6) {
                    0 => SystemCall::Kill { process },
                    1 => SystemCall::Hold { process },
                    2 => SystemCall::Release { process },
                    3 => SystemCall::Interrupt { process },
                    _ => SystemCall::Wait { process, wait: self.wait(now) },
                },
                None => SystemCall::Yield,
            },
            86..90 => {
                self.made += 1;
                let notify = Notify { port: self.port(), token: self.token() };
                let lists = [&self.ports, &self.processes, &self.replies];
                let list = lists[self.random.below(3) as usize];
                match self.random.pick(list).copied() {
                    Some(subject) if !self.random.once_in(3) => SystemCall::Watch { subject, notify },
                    _ => SystemCall::SetTimer { at: now.after(self.random.below(3_000_000)), notify },
                }
            }
            90..97 => match self.random.pick(&self.pipes).copied() {
                None => SystemCall::CreatePipe { bytes_max: 8 + self.random.below(100) as u32 },
                Some(pipe) if self.random.once_in(2) && !self.read_by_others.contains(&pipe) => {
                    self.read_from.insert(pipe);
                    SystemCall::Read { pipe, bytes_max: 1 + self.random.below(60) as u32, wait: self.wait(now) }
                }
                Some(pipe) => SystemCall::Write { pipe, bytes: self.pipe_content(), wait: self.wait(now) },
            },
            97 => SystemCall::Sleep { until: now.after(self.random.below(500_000)) },
            98 => return Doing::Compute(self.random.below(4_000_000)),
            _ => match self.random.below(6) {
                0 if self.generation > 0 => SystemCall::Exit { code: 7 },
                1 if self.generation > 0 => return Doing::Trap(Fault::Trap),
                _ => SystemCall::Yield,
            },
        };
        Doing::Call(call)
    }

    fn pipe_content(&mut self) -> Bytes {
        self.made += 1;
        let number = self.id.serial() % 200 * 40_000 + u64::from(self.made);
        let digit = |place: u32| (number / 200u64.pow(place) % 200) as u8;
        let mut bytes = vec![WRITE_MARK, digit(3), digit(2), digit(1), digit(0)];
        let length = bytes.len() + self.random.below(150) as usize;
        while bytes.len() < length {
            bytes.push((bytes.len() % 200) as u8);
        }
        bytes.into()
    }

    fn spawn(&mut self) -> SystemCall {
        self.made += 1;
        let token = self.token();
        let supervisor = (!self.random.once_in(3)).then(|| Notify { port: self.port(), token });
        let orphan = if self.random.once_in(2) { Orphan::Dies } else { Orphan::IsAdopted };
        let mut handles = Vec::new();
        for port in self.ports.iter().take(2) {
            let rights = Rights::SEND.with(Rights::COPY).with(Rights::MOVE);
            let rights = if self.random.once_in(3) { rights.with(Rights::RECEIVE) } else { rights };
            handles.push(Transfer { handle: *port, rights, mode: TransferMode::Copy });
        }
        if let Some(pipe) = self.pipes.first() {
            // Only its maker reads a pipe: which of two readers was first could not be told.
            let rights = Rights::WRITE.with(Rights::COPY);
            handles.push(Transfer { handle: *pipe, rights, mode: TransferMode::Copy });
        }
        SystemCall::Spawn(Box::new(Spawn {
            program: if self.random.once_in(20) { UNKNOWN } else { ACTOR },
            arguments: Bytes::new(&[self.generation + 1]),
            handles: handles.into(),
            limits: Limits { handles_max: if self.random.once_in(4) { 14 } else { 64 }, ..Limits::NORMAL },
            weight: WEIGHT_NORMAL,
            orphan,
            supervisor,
            again: None,
        }))
    }
}

impl Body for Actor {
    fn resume(&mut self, now: Time, outcome: Outcome) -> Doing {
        self.learn(outcome);
        if let Some(handle) = self.unknown.first().copied() {
            let call = SystemCall::Describe { handle };
            self.asked = Some(call.clone());
            return Doing::Call(call);
        }
        if self.acts_left == 0 {
            return Doing::Call(SystemCall::Exit { code: 0 });
        }
        self.acts_left -= 1;
        let doing = self.act(now);
        if let Doing::Call(call) = &doing {
            self.asked = Some(call.clone());
        }
        doing
    }
}
