//! One node's microkernel as a pure state machine: processes, handles, ports, calls, pipes, watches. It knows nothing of
//! Linux, files, networks, names or programs, and there is no clock or random number in it.
//!
//! The one idea: [`Kernel::step`] takes the time and one [`Input`] and appends [`Effect`]s; nothing else happens. So the
//! same inputs give the same effects on every machine, and a test can play every order of events there is. `world` is the
//! closed list of both: read it first.
//!
//! ```text
//!   world      what comes in, what goes out        handles   what a process holds, rights on their way
//!   schedule   who runs, who waits until when      port      queues of messages
//!   process    birth, end, family, control         call      requests and their answers
//!   watch      notices, timers, device work        pipe      streams of bytes
//!   table, agenda   what all of them are kept in   reach     ports nobody can reach
//!   session    exactly once, in order, between nodes    foreign   objects of other nodes
//!   packet     what kernels say to one another       transfer   a process moves
//!   luggage    what it takes along                  ways      rights that lead through a node it left
//!   relay      acts that do                         limits    every bound
//!   check      what must hold between steps
//! ```
#![no_std]

extern crate alloc;

mod agenda;
#[cfg(test)]
mod alone;
mod call;
mod check;
pub mod foreign;
mod handles;
pub mod inspect;
pub mod limits;
mod luggage;
mod packet;
mod pipe;
pub mod planted;
mod port;
mod process;
mod reach;
mod relay;
mod schedule;
pub mod session;
mod table;
mod transfer;
mod watch;
mod ways;
pub mod world;

pub use packet::VERSION as PACKET_VERSION;
pub use process::Process;
pub use table::Key;
pub use watch::Watch;

use abi::call::{Outcome, SystemCall};
use abi::ids::{DeviceId, NodeId, Time};
use abi::process::Exit;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use schedule::{Alarms, Due, Next, Ready, Worker};
use table::Table;
use world::{Effect, Event, Input, WorkerId};

/// What a kernel is told before anything happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    pub node: NodeId,
    /// Counts the times that this node was started, from 1: what other nodes had to do with an earlier life is over. Zero is a node that
    /// has no others, and no handle to the network.
    pub life: u64,
    /// Above every serial number that this node ever gave out, in this life or an earlier one.
    pub first_serial: u64,
    /// Each of them must say that it is awake, once, before it gets work.
    pub workers: u16,
    pub devices: u16,
}

/// One node's kernel.
///
/// Invariants: each part's own, and those in `check`.
pub struct Kernel {
    now: Time,
    node: NodeId,
    next_serial: u64,
    devices: u16,
    /// The process that the node was booted with.
    first: Option<Key<Process>>,

    processes: Table<Process>,
    ports: Table<port::Port>,
    calls: Table<call::Call>,
    pipes: Table<pipe::Pipe>,
    watches: Table<Watch>,

    ready: Ready,
    alarms: Alarms,
    workers: Vec<Worker>,
    /// Workers that sleep; the one that was last awake wakes first.
    parked: Vec<WorkerId>,

    /// Rights that are gone and not released yet. Empty between steps.
    dropped: Vec<handles::Right>,
    /// Receiving ends of ports in messages that nobody has taken.
    receivers_in_transit: u32,
    /// A process ended in this step.
    sweep_wanted: bool,

    life: u64,
    sessions: BTreeMap<NodeId, session::Session>,
    /// The latest life of each node that is over.
    over: BTreeMap<NodeId, u64>,
    /// Sessions in which something is to go out. Empty between steps.
    stirred_sessions: Vec<NodeId>,
    imports: Table<foreign::Import>,
    /// By where their homes keep them: also where the one will that is to take its place.
    imported: BTreeMap<(NodeId, u64), Key<foreign::Import>>,
    errands: Table<foreign::Errand>,
    /// By giver and ticket.
    grants: BTreeMap<(NodeId, u64), foreign::Grant>,
    claims: BTreeMap<(NodeId, u64), foreign::Claim>,
    /// By the node from which they come and the ticket.
    expected: BTreeMap<(NodeId, u64), transfer::Expected>,
    unclaimed: BTreeSet<foreign::Unclaimed>,
    /// What will not depart: each node is told again in each life.
    forgone: BTreeSet<(NodeId, u64)>,
    /// Counts what was delayed, in the order in which it came.
    delays: u64,
    /// Children on other nodes, by their parents.
    outposts: BTreeMap<Key<Process>, Vec<Key<foreign::Errand>>>,
    /// Stand-ins whose act is over, and what became of it if that is no outcome. Empty between steps.
    homeward: VecDeque<(Key<Process>, Option<packet::Verdict>)>,
    /// What other nodes find first.
    door: Option<handles::Right>,

    /// What waits for each flush.
    holds: BTreeMap<Key<foreign::Errand>, ways::Hold>,
    /// Imports whose shorter way can be taken.
    ripe: BTreeSet<Key<foreign::Import>>,
    /// Rights of other nodes that may lead on. Empty between steps.
    long: BTreeSet<(NodeId, u64)>,
    /// Imports whose way may have come home. Empty between steps.
    landed: Vec<Key<foreign::Import>>,
    /// Stand-ins that may only pass something on. Empty between steps.
    looked_at: Vec<Key<Process>>,
    /// What is to be handed over, by who said so and its errand.
    handovers: BTreeMap<(NodeId, u64), relay::HandOver>,
    /// Stand-ins for processes of this node, by their errands.
    own_stand_ins: BTreeMap<u64, Key<Process>>,
    /// What this node asks of itself. Empty between steps.
    inward: VecDeque<relay::Inward>,
}

impl Kernel {
    pub fn new(config: Config) -> Kernel {
        Kernel {
            now: Time(0),
            node: config.node,
            next_serial: config.first_serial,
            devices: config.devices,
            first: None,
            processes: Table::new(limits::PROCESSES_MAX),
            ports: Table::new(limits::PORTS_MAX),
            calls: Table::new(limits::CALLS_MAX),
            pipes: Table::new(limits::PIPES_MAX),
            watches: Table::new(limits::WATCHES_MAX),
            ready: Ready::new(),
            alarms: Alarms::new(),
            workers: alloc::vec![Worker::Waking; usize::from(config.workers)],
            parked: Vec::new(),
            dropped: Vec::new(),
            receivers_in_transit: 0,
            sweep_wanted: false,
            life: config.life,
            sessions: BTreeMap::new(),
            over: BTreeMap::new(),
            stirred_sessions: Vec::new(),
            imports: Table::new(u32::MAX),
            imported: BTreeMap::new(),
            errands: Table::new(limits::ERRANDS_MAX),
            grants: BTreeMap::new(),
            claims: BTreeMap::new(),
            expected: BTreeMap::new(),
            unclaimed: BTreeSet::new(),
            forgone: BTreeSet::new(),
            delays: 0,
            outposts: BTreeMap::new(),
            homeward: VecDeque::new(),
            door: None,
            holds: BTreeMap::new(),
            ripe: BTreeSet::new(),
            long: BTreeSet::new(),
            landed: Vec::new(),
            looked_at: Vec::new(),
            handovers: BTreeMap::new(),
            own_stand_ins: BTreeMap::new(),
            inward: VecDeque::new(),
        }
    }

    /// Takes one input at this time and appends what shall happen. Time never goes back: an earlier time counts as the
    /// latest one.
    pub fn step(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        // What came due before this input happened before it.
        while let Some(due) = self.alarms.take_due(self.now) {
            self.come_due(due);
        }
        match input {
            Input::Call { worker, process, call } => self.system_call(worker, process, call, effects),
            Input::Event(event) => self.event(event, effects),
        }
        self.release_dropped();
        if !self.homeward.is_empty() || !self.inward.is_empty() {
            self.settle_abroad(effects);
        }
        if self.sweep_wanted {
            self.sweep();
            // What it closed may have ended the wait of a stand-in.
            self.settle_abroad(effects);
        }
        self.shorten_all(effects);
        if !self.stirred_sessions.is_empty() {
            self.flush_sessions(effects);
        }
        self.wake_workers(effects);
        self.alarms.arm(effects);
    }

    /// Ways that have become longer than they must be.
    fn shorten_all(&mut self, effects: &mut Vec<Effect>) {
        let nothing = |kernel: &Kernel| {
            kernel.looked_at.is_empty()
                && kernel.long.is_empty()
                && kernel.landed.is_empty()
                && kernel.inward.is_empty()
        };
        if nothing(self) && self.ripe.is_empty() && self.handovers.is_empty() {
            return;
        }
        loop {
            self.relieve(effects);
            self.shorten();
            self.settle_abroad(effects);
            if nothing(self) {
                return;
            }
        }
    }

    /// What the last system call of a process that shall run gives; once for each [`Effect::Run`].
    pub fn take_outcome(&mut self, process: Key<Process>) -> Outcome {
        core::mem::replace(&mut self.processes[process].outcome, Outcome::Yielded)
    }

    fn event(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Boot { program, arguments, limits } => self.boot(program, arguments, limits, effects),
            Event::Started { process } => self.started(process),
            Event::NotStarted { process, failure } => self.not_started(process, failure, effects),
            Event::Stir { process } => self.stir(process),
            Event::Yielded { worker, process } => self.yielded(worker, process, effects),
            Event::Trapped { worker, process, fault } => self.trapped(worker, process, fault, effects),
            Event::Awake { worker } => self.awake(worker, effects),
            Event::Alarm => self.alarms.rang(),
            Event::Journal { request, result } => self.journal_done(request, result),
            Event::Arrived { from, life, packet } => self.arrived(from, life, packet, effects),
            Event::Linked { node, life } => self.linked(node, life, effects),
            Event::Unlinked { node } => self.unlinked(node),
            Event::Lost { node, life } => self.lost(node, life, effects),
            Event::Rouse { process } => self.rouse(process),
            Event::Expect { from, ticket, adopter, grants } => self.expect(from, ticket, adopter, &grants, effects),
            Event::Unexpect { from, ticket } => {
                self.unexpect(from, ticket);
            }
            Event::Forgo { to, ticket } => self.forgo(to, ticket),
            Event::Depart { process, to, life, ticket, left, keeps_parent } => {
                self.depart(process, (to, life), ticket, &left, keeps_parent, effects);
            }
        }
    }

    fn come_due(&mut self, due: Due) {
        match due {
            Due::Process(process) => self.expire(process),
            Due::Call(call) => self.expire_call(call),
            Due::Watch(watch) => self.fire(watch, abi::message::NoticeEvent::Timer),
            Due::Session(node) => self.session_due(node),
        }
    }

    fn system_call(&mut self, worker: WorkerId, me: Key<Process>, call: SystemCall, effects: &mut Vec<Effect>) {
        if let Some(exit) = self.back_from(worker, me) {
            self.end(me, exit, effects);
            self.dispatch(worker, effects);
            return;
        }
        let next = self.act(me, call, effects);
        // It may have ended its own parent, and itself with it.
        let next = match self.processes.get(me) {
            Some(Process { state: process::State::Doomed { exit, .. }, .. }) => {
                let exit = *exit;
                // It is back already.
                effects.retain(|effect| !matches!(effect, Effect::Interrupt { process, .. } if *process == me));
                self.end(me, exit, effects);
                Next::Ended
            }
            _ => next,
        };
        self.proceed(worker, me, next, effects);
    }

    fn act(&mut self, me: Key<Process>, call: SystemCall, effects: &mut Vec<Effect>) -> Next {
        match call {
            SystemCall::Send { port, message, mode } => self.send(me, port, message, mode),
            SystemCall::Receive { port, wait } => self.receive(me, port, wait),
            SystemCall::Call { port, message, deadline } => self.call(me, port, message, deadline),
            SystemCall::Reply { reply, message } => self.reply(me, reply, message),
            SystemCall::Select { ports, wait } => self.select(me, &ports, wait),
            SystemCall::BeginCall { port, message, deadline } => self.begin_call(me, port, message, deadline),
            SystemCall::EndCall { call, wait } => self.end_call(me, call, wait),
            SystemCall::CreatePort(options) => Next::Return(self.create_port(me, options)),
            SystemCall::PortStatus { port } => self.port_status(me, port),

            SystemCall::CreatePipe { bytes_max } => Next::Return(self.create_pipe(me, bytes_max)),
            SystemCall::Read { pipe, bytes_max, wait } => self.read(me, pipe, bytes_max, wait),
            SystemCall::Write { pipe, bytes, wait } => self.write(me, pipe, bytes, wait),

            SystemCall::Duplicate { handle, rights } => Next::Return(self.duplicate(me, handle, rights)),
            SystemCall::MakeBadge { port, badge, rights } => Next::Return(self.make_badge(me, port, badge, rights)),
            SystemCall::Attenuate { handle, rights } => Next::Return(self.attenuate(me, handle, rights)),
            SystemCall::Close { handle } => Next::Return(self.close(me, handle)),
            SystemCall::Describe { handle } => Next::Return(self.describe(me, handle)),

            SystemCall::Watch { subject, notify } => Next::Return(self.watch(me, subject, notify)),
            SystemCall::SetTimer { at, notify } => Next::Return(self.set_timer(me, at, notify)),
            SystemCall::Journal { device, work, notify } => self.journal(me, device, work, notify, effects),

            SystemCall::Yield => Next::Yield(Outcome::Yielded),
            SystemCall::Sleep { until } => self.sleep(me, until),
            SystemCall::Exit { code } => {
                self.end(me, Exit::Code(code), effects);
                Next::Ended
            }
            SystemCall::Spawn(spawn) => self.spawn(me, *spawn, effects),
            SystemCall::SpawnOn { node, spawn } => self.spawn_on(me, node, *spawn, effects),
            SystemCall::OpenDoor { network, port } => Next::Return(self.open_door(me, network, port)),
            SystemCall::Door { network, node, wait } => self.find_door(me, network, node, wait),
            SystemCall::Wait { process, wait } => self.wait(me, process, wait),
            SystemCall::Kill { process } => self.kill(me, process, effects),
            SystemCall::Hold { process } => self.hold(me, process, effects),
            SystemCall::Release { process } => self.release(me, process),
            SystemCall::Interrupt { process } => self.interrupt(me, process),
        }
    }

    /// A worker that slept, or begins, looks for work.
    fn awake(&mut self, worker: WorkerId, effects: &mut Vec<Effect>) {
        match self.workers.get(usize::from(worker.0)) {
            Some(Worker::Waking) => {}
            Some(Worker::Parked) => self.parked.retain(|parked| *parked != worker),
            Some(Worker::Running(_)) | None => panic!("a worker that runs, or is none, woke up"),
        }
        self.dispatch(worker, effects);
    }

    /// The number that the next new thing gets; no number below it is ever given out again.
    pub fn next_serial(&self) -> u64 {
        self.next_serial
    }

    fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial - 1
    }

    fn devices(&self) -> impl Iterator<Item = DeviceId> + use<> {
        (0..self.devices).map(DeviceId)
    }
}
