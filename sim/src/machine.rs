//! One node in one thread under one seed: a real kernel, and a world for it in which the seed decides what happens next.
//! It knows nothing of what its processes do.
//!
//! The one idea: everything that could happen now is in a list, and the seed picks. Workers are interleaved at system calls
//! and wherever they compute; disks, alarms and starting instances take as long as the seed likes; processes trap, and the
//! whole node stops, when the seed says so. Nothing else is random, so the same seed gives the same history.

use crate::disk::Disk;
use crate::history::{HistoryHash, Record, Seen};
use crate::random::Random;
use abi::call::{Outcome, SystemCall};
use abi::ids::{DeviceId, HandleId, NodeId, ProcessId, Time};
use abi::limits::Limits;
use abi::message::Bytes;
use abi::process::{Exit, Fault, Program, StartFailure};
use kernel::inspect::Activity;
use kernel::limits::SLICE_NS;
use kernel::world::{DepartError, Effect, Event, Input, WorkerId};
use kernel::{Config, Kernel, Key, Process, Watch};
use std::collections::{BTreeMap, BTreeSet};

/// How long nothing happens at most, usually, though something could.
pub const PAUSE_NS_MAX: u64 = 3_000_000;

/// What a process does, given what its last system call gave.
pub trait Body {
    fn resume(&mut self, now: Time, outcome: Outcome) -> Doing;
}

/// What a process does next.
#[derive(Clone, Debug)]
pub enum Doing {
    Call(SystemCall),
    /// Runs for so many nanoseconds, then goes on with [`Outcome::Yielded`].
    Compute(u64),
    Trap(Fault),
}

/// Makes bodies: stands for the store of programs. `None` is a program that nobody knows.
pub type Programs = Box<dyn Fn(Program, &Bytes, ProcessId) -> Option<Box<dyn Body>>>;

/// What the world does to the node.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// One journal work in so many fails.
    pub journal_fails_once_in: Option<u64>,
    /// A journal that could work does so once in this many times.
    pub journal_works_once_in: u64,
    /// One step in so many stirs a process, whatever it does.
    pub stir_once_in: Option<u64>,
    /// One system call in so many of a process whose program may die is a trap instead.
    pub trap_once_in: Option<u64>,
    /// Programs that may die like this.
    pub traps: fn(Program) -> bool,
}

impl Faults {
    pub const NONE: Faults = Faults {
        journal_fails_once_in: None,
        journal_works_once_in: 1,
        stir_once_in: None,
        trap_once_in: None,
        traps: |_| false,
    };
}

pub struct Options {
    pub seed: u64,
    pub node: NodeId,
    /// Of its first life; zero if it has no other nodes.
    pub life: u64,
    pub workers: u16,
    pub devices: u16,
    pub faults: Faults,
    pub first: Program,
    pub arguments: Bytes,
    pub limits: Limits,
    pub pause_ns_max: u64,
}

/// A node and its world.
pub struct Machine {
    pub kernel: Kernel,
    pub now: Time,
    pub step: u64,
    pub records: Vec<Record>,
    pub hash: HistoryHash,
    pub random: Random,
    options: Options,
    programs: Programs,
    boots: u64,
    effects: Vec<Effect>,
    instances: BTreeMap<Key<Process>, Instance>,
    starting: Vec<(Key<Process>, Program, Bytes, ProcessId)>,
    workers: Vec<Worker>,
    alarm: Option<Time>,
    pub disks: Vec<Disk<Key<Watch>>>,
    pub halted: Option<Exit>,
    /// What is to go to other nodes.
    pub outbox: Vec<(NodeId, Bytes)>,
    /// How long processes waited for a worker: the longest since this was last set to zero.
    pub waited_longest_ns: BTreeMap<ProcessId, u64>,
    ready_since: BTreeMap<Key<Process>, Time>,
    /// Stirred while they did something else: their next sleep ends at once.
    stirred: BTreeSet<Key<Process>>,
    /// What came of moves, until somebody looks.
    pub moves: Vec<Moved>,
    departed: Option<Result<(), DepartError>>,
    /// What came from other nodes and has no instance yet.
    unbound: BTreeMap<Key<Process>, ProcessId>,
}

/// What came of a move.
pub enum Moved {
    /// This one is to go on under this ticket of the sender, at this node from now on.
    Settled {
        from: NodeId,
        ticket: u64,
        process: Key<Process>,
        handle: HandleId,
    },
    Missed {
        from: NodeId,
        ticket: u64,
    },
}

/// A process on its way from one machine to another: what the world carries over.
pub struct Traveller {
    pub instance: Instance,
    stirred: bool,
}

pub struct Instance {
    pub id: ProcessId,
    program: Program,
    body: Box<dyn Body>,
    /// What it is about to do; nothing if it waits for an outcome.
    doing: Option<Doing>,
}

#[derive(Clone, Copy, Debug)]
enum Worker {
    Parked,
    Waking,
    Running {
        process: Key<Process>,
        since: Time,
        computes_until: Time,
        interrupted: bool,
    },
    /// What it ran has left, and it did not come back yet.
    Returning {
        process: Key<Process>,
    },
}

/// One thing that could happen now.
#[derive(Clone, Copy, Debug)]
enum Choice {
    Wake(usize),
    Run(usize),
    Preempt(usize),
    Return(usize),
    Start(usize),
    Alarm,
    Disk(usize),
}

impl Machine {
    pub fn new(options: Options, programs: Programs) -> Machine {
        let mut machine = Machine {
            kernel: Kernel::new(config(&options, 0)),
            now: Time(0),
            step: 0,
            records: Vec::new(),
            hash: HistoryHash::default(),
            random: Random::new(options.seed),
            programs,
            boots: 0,
            effects: Vec::new(),
            instances: BTreeMap::new(),
            starting: Vec::new(),
            workers: Vec::new(),
            alarm: None,
            disks: (0..options.devices).map(|_| Disk::default()).collect(),
            halted: None,
            outbox: Vec::new(),
            waited_longest_ns: BTreeMap::new(),
            ready_since: BTreeMap::new(),
            stirred: BTreeSet::new(),
            moves: Vec::new(),
            departed: None,
            unbound: BTreeMap::new(),
            options,
        };
        machine.boot();
        machine
    }

    fn boot(&mut self) {
        self.kernel = Kernel::new(config(&self.options, self.boots));
        self.boots += 1;
        self.workers = vec![Worker::Waking; usize::from(self.options.workers)];
        let (program, arguments, limits) = (self.options.first, self.options.arguments.clone(), self.options.limits);
        self.input(Input::Event(Event::Boot { program, arguments, limits }), None);
    }

    /// The machine loses its power and comes back.
    pub fn crash(&mut self) {
        self.hash.add(&"crash");
        self.instances.clear();
        self.starting.clear();
        self.ready_since.clear();
        self.stirred.clear();
        self.moves.clear();
        self.unbound.clear();
        self.alarm = None;
        self.halted = None;
        self.outbox.clear();
        for disk in &mut self.disks {
            disk.crash(&mut self.random);
        }
        self.boot();
    }

    /// Which of its lives the node is in.
    pub fn life(&self) -> u64 {
        config(&self.options, self.boots - 1).life
    }

    /// Tells the kernel of something outside.
    pub fn tell(&mut self, event: Event) {
        self.hash.add(&event);
        self.input(Input::Event(event), None);
    }

    pub fn can_act(&self) -> bool {
        !self.choices().is_empty()
    }

    /// Lets one thing happen; false if nothing can, ever.
    pub fn step(&mut self) -> bool {
        self.step += 1;
        let mut choices = self.choices();
        if choices.is_empty() {
            let Some(next) = self.next_time() else {
                return false;
            };
            self.now = self.now.max(next);
            choices = self.choices();
        }
        if let Some(times) = self.options.faults.stir_once_in
            && self.random.once_in(times)
        {
            let keys: Vec<Key<Process>> = self.instances.keys().copied().collect();
            if let Some(process) = self.random.pick(&keys).copied() {
                let slept = self.is_sleeping(process);
                self.input(Input::Event(Event::Stir { process }), None);
                assert!(!self.is_sleeping(process), "a process sleeps on although it was stirred");
                if !slept {
                    self.stirred.insert(process);
                }
                return true;
            }
        }
        let Some(choice) = self.random.pick(&choices).copied() else {
            unreachable!("at the time when something can happen, it can")
        };
        self.hash.add(&choice);
        self.happen(choice);
        // Time passes, mostly little.
        let passed = if self.random.once_in(50) {
            self.random.below(self.options.pause_ns_max)
        } else {
            self.random.below(3_000)
        };
        self.now = self.now.after(passed);
        true
    }

    fn choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        for (index, worker) in self.workers.iter().enumerate() {
            match *worker {
                Worker::Parked => {}
                Worker::Waking => choices.push(Choice::Wake(index)),
                Worker::Returning { .. } => choices.push(Choice::Return(index)),
                Worker::Running { since, computes_until, interrupted, .. } => {
                    if self.now >= computes_until {
                        choices.push(Choice::Run(index));
                    }
                    let slice_over = self.now.since(since) >= SLICE_NS && self.kernel.ready_count() > 0;
                    if interrupted || slice_over {
                        choices.push(Choice::Preempt(index));
                    }
                }
            }
        }
        choices.extend((0..self.starting.len()).map(Choice::Start));
        if self.alarm.is_some_and(|at| at <= self.now) {
            choices.push(Choice::Alarm);
        }
        let busy = self.disks.iter().enumerate().filter(|(_, disk)| disk.has_work());
        choices.extend(busy.map(|(index, _)| Choice::Disk(index)));
        choices
    }

    /// When the kernel wants to be told the time, whatever processes do.
    pub fn alarm(&self) -> Option<Time> {
        self.alarm
    }

    /// Tells the kernel the time for which it asked.
    pub fn ring(&mut self) {
        self.happen(Choice::Alarm);
    }

    fn is_sleeping(&self, process: Key<Process>) -> bool {
        self.kernel.processes().any(|view| view.key == process && view.activity == Activity::Sleeping)
    }

    /// When something can happen if nothing can now.
    pub fn next_time(&self) -> Option<Time> {
        let computing = self.workers.iter().filter_map(|worker| match *worker {
            Worker::Running { computes_until, since, .. } => {
                let slice_end = if self.kernel.ready_count() > 0 { since.after(SLICE_NS) } else { computes_until };
                Some(computes_until.min(slice_end))
            }
            _ => None,
        });
        computing.chain(self.alarm).min()
    }

    fn happen(&mut self, choice: Choice) {
        match choice {
            Choice::Wake(index) => {
                self.input(Input::Event(Event::Awake { worker: WorkerId(index as u16) }), None);
            }
            Choice::Run(index) => self.run(index),
            Choice::Return(index) => {
                let Worker::Returning { process } = self.workers[index] else {
                    unreachable!("only what left is returned from")
                };
                let worker = WorkerId(index as u16);
                self.workers[index] = Worker::Waking;
                self.input(Input::Event(Event::Yielded { worker, process }), None);
            }
            Choice::Preempt(index) => {
                let Worker::Running { process, computes_until, .. } = self.workers[index] else {
                    unreachable!("only a running worker is preempted")
                };
                if let Some(Instance { doing: Some(Doing::Compute(left)), .. }) = self.instances.get_mut(&process) {
                    *left = computes_until.since(self.now);
                }
                let worker = WorkerId(index as u16);
                // If the same process runs again, that is a new slice.
                self.workers[index] = Worker::Waking;
                self.input(Input::Event(Event::Yielded { worker, process }), None);
            }
            Choice::Start(index) => {
                let (process, program, arguments, id) = self.starting.remove(index);
                let event = match (self.programs)(program, &arguments, id) {
                    Some(body) => {
                        self.instances.insert(process, Instance { id, program, body, doing: None });
                        Event::Started { process }
                    }
                    None => Event::NotStarted { process, failure: StartFailure::UnknownProgram },
                };
                self.input(Input::Event(event), None);
            }
            Choice::Alarm => {
                self.alarm = None;
                self.input(Input::Event(Event::Alarm), None);
            }
            Choice::Disk(_) if !self.random.once_in(self.options.faults.journal_works_once_in) => {}
            Choice::Disk(index) => {
                let fails = self.options.faults.journal_fails_once_in.is_some_and(|times| self.random.once_in(times));
                let done = self.disks[index].work(fails, &mut self.random);
                let (request, result) = done.expect("a disk that was chosen has work");
                self.input(Input::Event(Event::Journal { request, result }), None);
            }
        }
    }

    /// The process on this worker does the next thing.
    fn run(&mut self, index: usize) {
        let Worker::Running { process, .. } = self.workers[index] else { unreachable!("only a running worker runs") };
        let worker = WorkerId(index as u16);
        let instance = self.instances.get_mut(&process).expect("the kernel runs what was started and not destroyed");
        let traps = self
            .options
            .faults
            .trap_once_in
            .is_some_and(|times| (self.options.faults.traps)(instance.program) && self.random.once_in(times));
        let id = instance.id;
        let doing = instance.doing.take().expect("a process that runs is about to do something");
        match doing {
            Doing::Call(_) if traps => {
                self.input(Input::Event(Event::Trapped { worker, process, fault: Fault::Trap }), Some(id));
            }
            Doing::Trap(fault) => self.input(Input::Event(Event::Trapped { worker, process, fault }), Some(id)),
            Doing::Call(call) => {
                self.record(id, Seen::Asked(call.clone()));
                let sleeps = matches!(call, SystemCall::Sleep { until } if until > self.now);
                self.input(Input::Call { worker, process, call }, Some(id));
                if sleeps && self.stirred.remove(&process) {
                    assert!(!self.is_sleeping(process), "a process that had been stirred sleeps");
                }
            }
            Doing::Compute(_) => {
                let next = instance.body.resume(self.now, Outcome::Yielded);
                self.about_to(index, next);
            }
        }
    }

    fn about_to(&mut self, index: usize, doing: Doing) {
        let Worker::Running { process, computes_until, .. } = &mut self.workers[index] else {
            unreachable!("who is about to do something runs")
        };
        *computes_until = match doing {
            Doing::Compute(time) => self.now.after(time),
            _ => self.now,
        };
        let instance = self.instances.get_mut(process).expect("what runs is there");
        instance.doing = Some(doing);
    }

    fn record(&mut self, process: ProcessId, seen: Seen) {
        self.hash.add(&seen);
        self.records.push(Record { step: self.step, at: self.now, process, seen });
    }

    /// Brings one input to the kernel and carries the effects out.
    fn input(&mut self, input: Input, caller: Option<ProcessId>) {
        let mut effects = std::mem::take(&mut self.effects);
        self.kernel.step(self.now, input, &mut effects);
        for effect in effects.drain(..) {
            self.hash.add(&effect);
            self.carry_out(effect, caller);
        }
        self.effects = effects;
        self.note_ready();
    }

    fn carry_out(&mut self, effect: Effect, caller: Option<ProcessId>) {
        match effect {
            Effect::Start { process, id, program, arguments, .. } => {
                // The parent may have asked from another node.
                let view = self.kernel.processes().find(|view| view.key == process);
                let parent = caller.or_else(|| view.and_then(|view| view.parent));
                self.record(id, Seen::Born { parent });
                self.starting.push((process, program, arguments, id));
            }
            Effect::Run { worker, process } => {
                let index = usize::from(worker.0);
                let outcome = self.kernel.take_outcome(process);
                let before = match self.workers[index] {
                    Worker::Running { process: before, since, .. } if before == process => Some(since),
                    _ => None,
                };
                let since = before.unwrap_or(self.now);
                if let Some(ready) = self.ready_since.remove(&process) {
                    let id = self.instances[&process].id;
                    let longest = self.waited_longest_ns.entry(id).or_default();
                    *longest = (*longest).max(self.now.since(ready));
                }
                self.workers[index] = Worker::Running { process, since, computes_until: self.now, interrupted: false };
                let instance = self.instances.get_mut(&process).expect("the kernel runs only what was started");
                let doing = match instance.doing.take() {
                    // It was preempted in the middle of something.
                    Some(doing) => doing,
                    None => {
                        let (id, next) = (instance.id, instance.body.resume(self.now, outcome.clone()));
                        self.record(id, Seen::Got(outcome));
                        next
                    }
                };
                self.about_to(index, doing);
            }
            Effect::Park { worker } => self.workers[usize::from(worker.0)] = Worker::Parked,
            Effect::Wake { worker } => self.workers[usize::from(worker.0)] = Worker::Waking,
            Effect::Interrupt { worker, process } => {
                if let Worker::Running { process: running, interrupted, .. } = &mut self.workers[usize::from(worker.0)]
                    && *running == process
                {
                    *interrupted = true;
                }
            }
            Effect::Destroy { process, .. } => {
                self.ready_since.remove(&process);
                self.stirred.remove(&process);
                let gone = self.instances.remove(&process).map(|instance| instance.id);
                let starting = self.starting.iter().position(|(key, ..)| *key == process);
                let id = gone.or_else(|| starting.map(|index| self.starting.remove(index).3));
                // What came from another node may end before it is bound.
                let id = id.or_else(|| self.unbound.remove(&process));
                self.record(id.expect("what ends was started"), Seen::Ended);
            }
            Effect::Alarm { at } => self.alarm = Some(at),
            Effect::Journal { request, device: DeviceId(device), work } => {
                self.disks[usize::from(device)].ask(request, work);
            }
            Effect::Halt { exit } => self.halted = Some(exit),
            Effect::Transmit { to, packet } => self.outbox.push((to, packet)),
            Effect::Departed { result, .. } => self.departed = Some(result),
            Effect::Settled { from, ticket, process, id, handle } => {
                self.unbound.insert(process, id);
                self.moves.push(Moved::Settled { from, ticket, process, handle })
            }
            Effect::Missed { from, ticket } => self.moves.push(Moved::Missed { from, ticket }),
        }
    }

    /// The first process, if it lives: all others are its descendants, or have parents on other nodes.
    pub fn first_process(&self) -> Option<(Key<Process>, ProcessId)> {
        let first = self.kernel.processes().find(|view| view.parent.is_none())?;
        self.instances.contains_key(&first.key).then_some((first.key, first.id))
    }

    /// The first process of this program that has an instance.
    pub fn first_of(&self, program: Program) -> Option<(Key<Process>, ProcessId)> {
        let found = self.instances.iter().find(|(_, instance)| instance.program == program);
        found.map(|(key, instance)| (*key, instance.id))
    }

    /// From now on the world does nothing to the node that it need not bear.
    pub fn calm(&mut self) {
        self.options.faults = Faults::NONE;
    }

    /// The processes that have an instance.
    pub fn settled_processes(&self, which: impl Fn(Program) -> bool) -> Vec<Key<Process>> {
        let wanted = self.instances.iter().filter(|(_, instance)| which(instance.program));
        wanted.map(|(key, _)| *key).collect()
    }

    /// Makes a process come back from what it waits for.
    pub fn rouse(&mut self, process: Key<Process>) {
        self.hash.add(&("rouse", process));
        self.input(Input::Event(Event::Rouse { process }), None);
    }

    /// Lets a process go to another node, if it can now: what is to be carried there.
    pub fn depart(
        &mut self, process: Key<Process>, (to, life): (NodeId, u64), ticket: u64, keeps_parent: bool,
    ) -> Result<Traveller, DepartError> {
        let event = Event::Depart { process, to, life, ticket, left: Box::default(), keeps_parent };
        self.hash.add(&event);
        self.input(Input::Event(event), None);
        self.departed.take().expect("a kernel says what came of a departure")?;
        self.ready_since.remove(&process);
        let stirred = self.stirred.remove(&process);
        for worker in &mut self.workers {
            if let Worker::Running { process: running, computes_until, .. } = *worker
                && running == process
            {
                if let Some(Instance { doing: Some(Doing::Compute(left)), .. }) = self.instances.get_mut(&process) {
                    *left = computes_until.since(self.now);
                }
                *worker = Worker::Returning { process };
            }
        }
        let instance = self.instances.remove(&process).expect("it was just seen");
        Ok(Traveller { instance, stirred })
    }

    /// What came from another node can run.
    pub fn settle(&mut self, process: Key<Process>, traveller: Traveller) {
        // It may have ended before.
        if self.unbound.remove(&process).is_none() {
            return;
        }
        let Traveller { instance, stirred } = traveller;
        self.instances.insert(process, instance);
        if stirred {
            self.stirred.insert(process);
        }
        self.input(Input::Event(Event::Started { process }), None);
    }

    /// Notes since when processes have been ready.
    fn note_ready(&mut self) {
        for view in self.kernel.processes() {
            match view.activity {
                Activity::Ready => {
                    self.ready_since.entry(view.key).or_insert(self.now);
                }
                _ => {
                    self.ready_since.remove(&view.key);
                }
            }
        }
    }

    pub fn key_of(&self, process: ProcessId) -> Option<Key<Process>> {
        self.instances.iter().find(|(_, instance)| instance.id == process).map(|(key, _)| *key)
    }

    /// Whether the process runs, is between two system calls and so has a table that nobody changes.
    pub fn is_between_calls(&self, process: ProcessId) -> bool {
        self.instances.values().any(|instance| instance.id == process && instance.doing.is_some())
    }

    pub fn instance_count(&self) -> usize {
        self.instances.len() + self.starting.len()
    }
}

fn config(options: &Options, boots: u64) -> Config {
    Config {
        node: options.node,
        life: if options.life == 0 { 0 } else { options.life + boots },
        // Each life has serial numbers of its own, as a daemon must see to.
        first_serial: 1 + (boots << 32),
        workers: options.workers,
        devices: options.devices,
    }
}
