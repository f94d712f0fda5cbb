//! How long the kernel's own part of a message takes: `cargo run --release -p una-sim --bin kernel_speed`.
//!
//! One thread plays the world's one worker and brings system calls as fast as the kernel takes them. Nothing is measured of
//! running programs, switching stacks or locking; what is measured is all that `Kernel::step` does: handles and rights
//! checked, deadlines set and taken back, processes blocked, woken and chosen. Processor time, medians of interleaved rounds.

use abi::call::{Deadline, Outcome, PortOptions, SendMode, SystemCall, Wait};
use abi::ids::{HandleId, NodeId, Time};
use abi::limits::{Limits, WEIGHT_NORMAL};
use abi::message::{Bytes, Message, Received, Transfer, TransferMode};
use abi::process::{Orphan, Program, Spawn};
use abi::rights::Rights;
use kernel::world::{Effect, Event, Input, WorkerId};
use kernel::{Config, Kernel, Key, Process};

const WORKER: WorkerId = WorkerId(0);
const ROUNDS: usize = 15;

/// A kernel, and what its one worker was told last.
struct Machine {
    kernel: Kernel,
    now: u64,
    effects: Vec<Effect>,
    running: Option<Key<Process>>,
}

impl Machine {
    fn new() -> Machine {
        let config = Config { node: NodeId(1), life: 0, first_serial: 1, workers: 1, devices: 0 };
        let mut machine = Machine { kernel: Kernel::new(config), now: 0, effects: Vec::new(), running: None };
        let boot = Event::Boot { program: Program::Service(0), arguments: Bytes::EMPTY, limits: Limits::NORMAL };
        machine.input(Input::Event(boot));
        machine.input(Input::Event(Event::Awake { worker: WORKER }));
        machine
    }

    fn input(&mut self, input: Input) {
        self.now += 20;
        self.kernel.step(Time(self.now), input, &mut self.effects);
        // Started processes are ready at once here; there is no instance to make.
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Start { process, .. } => self.input(Input::Event(Event::Started { process })),
                Effect::Run { process, .. } => self.running = Some(process),
                Effect::Park { .. } => self.running = None,
                Effect::Wake { .. } => self.input(Input::Event(Event::Awake { worker: WORKER })),
                _ => {}
            }
        }
    }

    /// The running process makes a system call: what runs then, with what outcome.
    fn call(&mut self, call: SystemCall) -> Outcome {
        let process = self.running.expect("a process runs");
        self.now += 20;
        self.kernel.step(Time(self.now), Input::Call { worker: WORKER, process, call }, &mut self.effects);
        let mut gives = None;
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Run { process, .. } => gives = Some(process),
                Effect::Alarm { .. } => {}
                effect => panic!("the measured path asked for {effect:?}"),
            }
        }
        let process = gives.expect("somebody is always ready in the measured paths");
        self.running = Some(process);
        self.kernel.take_outcome(process)
    }

    fn set_up(&mut self, call: SystemCall) -> Outcome {
        let process = self.running.expect("a process runs");
        self.input(Input::Call { worker: WORKER, process, call });
        self.kernel.take_outcome(self.running.expect("the process goes on"))
    }

    /// Makes a port and a second process that holds the given handles to it; the first process still runs.
    fn with_second(options: PortOptions, rights: Rights) -> (Machine, HandleId) {
        let mut machine = Machine::new();
        let Outcome::PortCreated(Ok(port)) = machine.set_up(SystemCall::CreatePort(options)) else { panic!("no port") };
        let spawn = Spawn {
            program: Program::Service(1),
            arguments: Bytes::EMPTY,
            handles: [Transfer { handle: port, rights, mode: TransferMode::Copy }].into(),
            limits: Limits::NORMAL,
            weight: WEIGHT_NORMAL,
            orphan: Orphan::Dies,
            supervisor: None,
            again: None,
        };
        let Outcome::Spawned(Ok(_)) = machine.set_up(SystemCall::Spawn(Box::new(spawn))) else { panic!("no process") };
        (machine, port)
    }
}

/// Time that this thread was on a processor, so that what else the machine does is not measured.
fn processor_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells a thread's processor time");
    let first = text.split(' ').next().and_then(|number| number.parse().ok());
    first.expect("the first number of schedstat is nanoseconds")
}

fn message(bytes: usize) -> Message {
    Message { bytes: Bytes::new(&vec![7; bytes]), handles: Box::default() }
}

fn send(port: HandleId, message: Message) -> SystemCall {
    SystemCall::Send { port, message, mode: SendMode::Reliable(Wait::Forever) }
}

/// One process sends into its queue and takes out again: a send and a receive, no switch.
fn send_and_receive(bytes: usize, count: u64) -> f64 {
    let mut machine = Machine::new();
    let create = SystemCall::CreatePort(PortOptions::buffered(64));
    let Outcome::PortCreated(Ok(port)) = machine.set_up(create) else { panic!("no port") };
    let message = message(bytes);
    let start = processor_ns();
    for _ in 0..count {
        let Outcome::Sent(Ok(())) = machine.call(send(port, message.clone())) else { panic!("not sent") };
        let Outcome::Received(Ok(_)) = machine.call(SystemCall::Receive { port, wait: Wait::Forever }) else {
            panic!("not received")
        };
    }
    (processor_ns() - start) as f64 / count as f64
}

/// A process waits, another sends to it and waits itself: a send, a receive that blocks, a wake and a switch.
fn send_to_waiting(bytes: usize, count: u64) -> f64 {
    let all = Rights::all_of(abi::rights::Kind::Port);
    let (mut machine, port) = Machine::with_second(PortOptions::buffered(64), all);
    let message = message(bytes);
    let receive = |port| SystemCall::Receive { port, wait: Wait::Forever };
    // The first process waits; the second, which has the port as its first handle, begins.
    let Outcome::Begun = machine.call(receive(port)) else { panic!("the other process does not begin") };
    let start = processor_ns();
    for _ in 0..count {
        let Outcome::Sent(Ok(())) = machine.call(send(HandleId(1), message.clone())) else { panic!("not sent") };
        let Outcome::Received(Ok(_)) = machine.call(receive(HandleId(1))) else { panic!("not received") };
    }
    (processor_ns() - start) as f64 / count as f64
}

/// A call and its answer: two switches.
fn call_and_reply(bytes: usize, deadline_ns: Option<u64>, carried: bool, count: u64) -> f64 {
    let (mut machine, port) = Machine::with_second(PortOptions::buffered(64), Rights::SEND.with(Rights::COPY));
    let request = message(bytes);
    let receive = SystemCall::Receive { port, wait: Wait::Forever };
    let Outcome::Begun = machine.call(receive.clone()) else { panic!("the caller does not begin") };
    let port_of_caller = HandleId(1);
    let start = processor_ns();
    for _ in 0..count {
        let at = deadline_ns.map(|after| Time(machine.now + after));
        let mut message = request.clone();
        if carried {
            message.handles =
                [Transfer { handle: port_of_caller, rights: Rights::SEND, mode: TransferMode::Copy }].into();
        }
        let deadline = Deadline { at, again: None };
        let call = SystemCall::Call { port: port_of_caller, message, deadline };
        let Outcome::Received(Ok(Received::Message(delivery))) = machine.call(call) else { panic!("not called") };
        for &handle in &delivery.handles {
            let Outcome::Closed(Ok(())) = machine.call(SystemCall::Close { handle }) else { panic!("not closed") };
        }
        let reply = delivery.call.expect("a call can be answered").reply;
        let message = Message { bytes: delivery.bytes, handles: Box::default() };
        let Outcome::Replied(Ok(())) = machine.call(SystemCall::Reply { reply, message }) else { panic!("no reply") };
        let Outcome::Called(Ok(_)) = machine.call(receive.clone()) else { panic!("no answer") };
    }
    (processor_ns() - start) as f64 / count as f64
}

fn main() {
    type Measure = Box<dyn Fn(u64) -> f64>;
    let measures: Vec<(&str, Measure)> = vec![
        ("send + receive, queued, 16 bytes", Box::new(|n| send_and_receive(16, n))),
        ("send + receive, queued, 64 KiB shared", Box::new(|n| send_and_receive(65536, n))),
        ("send to a waiting process + switch, 16 bytes", Box::new(|n| send_to_waiting(16, n))),
        ("call + receive + reply, 16 bytes", Box::new(|n| call_and_reply(16, None, false, n))),
        ("call + receive + reply, 16 bytes, deadline", Box::new(|n| call_and_reply(16, Some(1_000_000_000), false, n))),
        ("call + receive + reply, 64 KiB shared", Box::new(|n| call_and_reply(65536, None, false, n))),
        ("call + receive + reply, a handle carried", Box::new(|n| call_and_reply(16, None, true, n))),
    ];
    let mut results = vec![Vec::new(); measures.len()];
    for _ in 0..ROUNDS {
        for (result, (_, measure)) in results.iter_mut().zip(&measures) {
            result.push(measure(200_000));
        }
    }
    println!("{:<50} {:>8} {:>8}", "ns per round", "median", "least");
    for (result, (name, _)) in results.iter_mut().zip(&measures) {
        result.sort_by(f64::total_cmp);
        println!("{name:<50} {:>8.0} {:>8.0}", result[ROUNDS / 2], result[0]);
    }
}
