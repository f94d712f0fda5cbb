//! The kernel on Linux threads: it carries out what the kernel wants and tells it what happens. Knows neither programs, nor what a
//! process's body does.
//!
//! The one idea: a system call is a step of the kernel on the thread that runs the process, under one lock; what the step says
//! about this thread is done by this thread. Waking others, and making and dropping instances, come after it, without the lock.
//!
//! ```text
//!   worker threads  WORKERS_MAX of them; as many are awake as there are processors, not counting those that
//!                   have run one process for long
//!   monitor         while workers are kept asleep: looks each MONITOR_INTERVAL who has run for long, and lets another one wake
//!   alarm           sleeps until the kernel's next deadline
//!   journal         one thread for each journal
//! ```
//! A program that computes is preempted by Linux, as its worker is one thread among others. If all workers compute, the monitor
//! freezes the program that has run longest where it is, and it goes on in its turn.
//!
//! The kernel's queue knows the weight of a process, but a process that computes is in no queue: there its thread gets a nice value, for as
//! long as it makes no system call. A thread that may hold the kernel's lock is always as nice as the others.

use super::view::NodeError;
use abi::call::{Outcome, SystemCall};
use abi::device::JournalWork;
use abi::ids::{DeviceId, HandleId, NodeId, ProcessId, Time};
use abi::limits::WEIGHT_NORMAL;
use abi::message::Bytes;
use abi::process::{Exit, Fault, Program, StartFailure};
use drivers::FileJournal;
use kernel::world::{DepartError, Effect, Event, Input, WorkerId};
use kernel::{Config, Kernel, Key, Process, Watch};
use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::task::Poll;
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Threads that run processes, beside one for each processor. Each of them can be taken by a program that computes.
pub(crate) const WORKERS_MORE: u16 = 64;

/// A process that has run for so long without a system call does not count as using a worker any more.
const LONG_NS: u64 = 1_000_000;
const MONITOR_INTERVAL: Duration = Duration::from_millis(1);
/// How often somebody looks whether a process has used up its processor time.
const BOUNDS_INTERVAL: Duration = Duration::from_millis(10);

/// A process that runs on for so long while no worker is left for others has to make room.
const HOG_NS: u64 = 10_000_000;

/// A native process: takes the outcome of its last system call, gives the next one.
pub(crate) trait Native: Send {
    fn resume(&mut self, now: Time, outcome: Outcome) -> SystemCall;
}

/// A process that runs a program.
pub(crate) trait Guest: Send {
    /// Runs until the program waits, has stopped or has ended. Its system calls arrive in [`system_call`] meanwhile.
    fn run(&mut self) -> Ran;
}

/// How a guest came back.
pub(crate) enum Ran {
    /// It made a system call that said what the worker does now.
    Left,
    /// It was stopped and could go on.
    Stopped,
    Exited(u32),
    Faulted(Fault),
}

pub(crate) enum Body {
    Native(Box<dyn Native>),
    Guest(Box<dyn Guest>),
}

/// Whoever makes bodies, and is told when processes end.
pub(crate) trait Bodies: Send + Sync {
    /// Called on the thread whose step asked for it, without any lock.
    fn start(&self, start: Start) -> Result<Made, StartFailure>;

    /// Called once for each process, on any thread.
    fn ended(&self, id: ProcessId, exit: Exit);

    /// The process shall come back from where it runs, soon.
    fn interrupt(&self, id: ProcessId);

    /// The body of a process that has come from another node.
    fn settle(&self, settle: Settle) -> Result<Made, StartFailure>;

    /// The process under this ticket of that node does not come.
    fn missed(&self, from: NodeId, ticket: u64);

    /// A process is on its way to this other node.
    fn departed(&self, id: ProcessId, to: NodeId);
}

pub(crate) struct Start {
    pub process: Key<Process>,
    pub id: ProcessId,
    pub program: Program,
    pub arguments: Bytes,
}

/// Who carries packets to the kernels of other nodes. Packets may be lost, doubled and reordered on the way: the kernel sees to the rest.
pub(crate) trait Network: Send + Sync {
    /// Called on any thread, without any lock; does not block.
    fn transmit(&self, to: NodeId, packet: Bytes);
}

/// Which node this is, and which of its lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub node: NodeId,
    /// Zero: it has no other nodes, ever.
    pub life: u64,
}

/// The kernel has a process that came from another node.
pub(crate) struct Settle {
    pub from: NodeId,
    pub ticket: u64,
    pub process: Key<Process>,
    pub id: ProcessId,
    /// By which its adopter holds it.
    pub handle: HandleId,
}

/// A body, and where to count the time that it uses.
pub(crate) struct Made {
    pub body: Body,
    pub time: Arc<Used>,
}

/// Processor time of one process.
#[derive(Debug)]
pub(crate) struct Used {
    /// Of the slices that are over.
    ns: AtomicU64,
    /// When the slice began that is not over, or zero.
    since: AtomicU64,
    /// The clock of the thread that runs it, and what that clock said when the slice began, or a little before.
    clock: AtomicI32,
    clock_ns: AtomicU64,
    /// Beyond this it is to end; zero: never.
    pub max_ns: u64,
    /// Its share of the processors, where others have [`WEIGHT_NORMAL`].
    pub weight: u32,
}

/// How much of the processor a thread leaves to others, as Linux counts it: a step is a factor of 1.25. Never below zero: what a
/// program's user wishes takes nothing from the rest of the machine.
fn nice_of(weight: u32, heaviest: u32) -> i32 {
    let steps = (f64::from(heaviest) / f64::from(weight.max(1))).ln() / 1.25_f64.ln();
    (steps.round() as i32).clamp(0, 19)
}

impl Used {
    /// Zero nanoseconds: without a bound.
    pub fn new(max_ns: u64, weight: u32) -> Used {
        let zero = || AtomicU64::new(0);
        Used { ns: zero(), since: zero(), clock: AtomicI32::new(0), clock_ns: zero(), max_ns, weight }
    }

    /// What it used before it began here counts too.
    pub fn carry_over(&self, ns: u64) {
        self.ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Somebody must look at it now and then.
    fn is_watched(&self) -> bool {
        self.max_ns != 0 || self.weight != WEIGHT_NORMAL
    }

    /// All that it used, as far as that is known.
    pub fn total_ns(&self, now: Time) -> u64 {
        let ns = self.ns.load(Ordering::Relaxed);
        let since = self.since.load(Ordering::Acquire);
        let elapsed = if since == 0 { 0 } else { now.0.saturating_sub(since) };
        if elapsed < LONG_NS {
            // Not counted yet: whoever looks twice must not see it shrink.
            return ns;
        }
        let used = clock_ns(self.clock.load(Ordering::Relaxed));
        ns + used.saturating_sub(self.clock_ns.load(Ordering::Relaxed)).min(elapsed)
    }

    pub fn is_over(&self, now: Time) -> bool {
        self.max_ns != 0 && self.total_ns(now) > self.max_ns
    }
}

/// What the kernel runs, on this side.
pub(crate) struct Slot {
    process: Key<Process>,
    id: ProcessId,
    /// Whoever runs it holds this. A process that was left is still on its stack for a moment, while another worker may be told to run
    /// it already: that one waits here.
    body: Mutex<Body>,
    time: Arc<Used>,
}

pub(crate) struct Machine {
    core: Mutex<Core>,
    bodies: OnceLock<Arc<dyn Bodies>>,
    /// Until it is there, what goes out is lost, as on a network that is cut.
    network: OnceLock<Arc<dyn Network>>,
    began: Instant,
    posts: Vec<Post>,
    monitor: Mutex<()>,
    monitored: Condvar,
    /// Processes whose processor time has a bound, or that get another share of it than others: while there are any, somebody must look.
    bounded: AtomicUsize,
    /// Whether this process may make a thread less nice again than it was.
    may_be_nice: bool,
    /// Some thread is nice.
    any_nice: AtomicBool,
    /// When the kernel wants to be told of the time; zero: never. Written under the kernel's lock, since the latest wish counts, and
    /// threads come here in any order after it.
    alarm_at: AtomicU64,
    alarm: Mutex<()>,
    alarm_set: Condvar,
    stopping: AtomicBool,
    serials: Serials,
    /// To the thread that ends what ends while a thread is here that must not wait. No more are on their way than there are processes.
    endings: Sender<Endings>,
    halted: Mutex<Option<Exit>>,
    halted_set: Condvar,
}

struct Core {
    kernel: Kernel,
    effects: Vec<Effect>,
    /// Taken away by whoever made the step that left something here: empty between steps.
    after: After,
    slots: Slots,
    /// Processes whose body is being made.
    starting: BTreeMap<Key<Process>, ProcessId>,
    /// Workers that do not sleep.
    awake: usize,
    /// Workers that the kernel wants awake and that wait until a processor is free.
    kept_asleep: VecDeque<WorkerId>,
    processors: usize,
    /// The monitor looks, or has been told to.
    watched: bool,
    journals: Vec<Sender<(Key<Watch>, JournalWork)>>,
}

/// What the kernel runs, by where it keeps its own record.
#[derive(Default)]
struct Slots {
    places: Vec<Option<Arc<Slot>>>,
}

impl Slots {
    fn get(&self, process: Key<Process>) -> Option<&Arc<Slot>> {
        self.places.get(process.place() as usize)?.as_ref().filter(|slot| slot.process == process)
    }

    fn insert(&mut self, slot: Arc<Slot>) {
        let place = slot.process.place() as usize;
        if self.places.len() <= place {
            self.places.resize(place + 1, None);
        }
        let before = self.places[place].replace(slot);
        assert!(before.is_none(), "the kernel has told of the end of what was at this place before");
    }

    fn remove(&mut self, process: Key<Process>) -> Option<Arc<Slot>> {
        self.get(process)?;
        self.places[process.place() as usize].take()
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.places.iter().flatten()
    }
}

/// What others see of a worker.
struct Post {
    thread: OnceLock<Thread>,
    wake: AtomicBool,
    /// When it last was in the kernel, while it runs a process; else zero.
    running_since: AtomicU64,
    /// Which process; zero: none.
    running: AtomicU64,
    /// The thread's number.
    id: AtomicI32,
    /// How nice it is.
    nice: AtomicI32,
}

impl Post {
    fn running(&self) -> Option<ProcessId> {
        Some(self.running.load(Ordering::Relaxed)).filter(|bits| *bits != 0).map(ProcessId::from_bits)
    }
}

/// What a step leaves to be done without the lock. Usually nothing.
#[derive(Default)]
struct After {
    starts: Vec<Start>,
    settles: Vec<Settle>,
    departed: Option<(ProcessId, Result<(), DepartError>)>,
    endings: Endings,
    interrupts: Vec<ProcessId>,
    wakes: Vec<WorkerId>,
    packets: Vec<(NodeId, Bytes)>,
    alarm: Option<Time>,
    /// Somebody waits for a worker.
    look: bool,
    halted: Option<Exit>,
}

/// Processes that are over here, or do not come. With their bodies their files are closed, for which another node may be asked; and only
/// then is it told that they have ended.
#[derive(Default)]
struct Endings {
    missed: Vec<(NodeId, u64)>,
    dropped: Vec<Arc<Slot>>,
    ended: Vec<(ProcessId, Exit)>,
}

impl Endings {
    fn is_empty(&self) -> bool {
        self.missed.is_empty() && self.dropped.is_empty() && self.ended.is_empty()
    }

    fn come(self, bodies: &dyn Bodies) {
        for (from, ticket) in self.missed {
            bodies.missed(from, ticket);
        }
        drop(self.dropped);
        for (id, exit) in self.ended {
            bodies.ended(id, exit);
        }
    }
}

/// What a worker does now.
enum Next {
    /// What it ran: its system call gave this.
    GoOn {
        outcome: Outcome,
    },
    Run {
        slot: Arc<Slot>,
        outcome: Outcome,
    },
    Park,
}

/// This thread as a worker.
struct Worker {
    machine: Arc<Machine>,
    id: WorkerId,
    /// For the guest that runs: the outcome of its last call.
    outcome: Cell<Option<Outcome>>,
    /// What a system call of the guest said about this worker.
    next: Cell<Option<Next>>,
    /// The processor time of this thread at the last look, and how much of what came later is accounted already.
    clock: Cell<(u64, u64)>,
    clock_id: i32,
}

thread_local! {
    /// This thread brings what other nodes say, and with it their answers: it must not wait for one.
    static BRINGS: Cell<bool> = const { Cell::new(false) };
    static WORKER: OnceCell<Worker> = const { OnceCell::new() };
}

fn with_worker<T>(act: impl FnOnce(&Worker) -> T) -> T {
    WORKER.with(|worker| act(worker.get().expect("processes run on workers")))
}

/// A system call of the guest that runs on this thread. If it is not ready the guest must be left: see [`system_call_outcome`].
pub(crate) fn system_call(process: Key<Process>, call: SystemCall) -> Poll<Outcome> {
    with_worker(|worker| match worker.machine.enter(worker.id, Input::Call { worker: worker.id, process, call }) {
        Some(Next::GoOn { outcome }) => Poll::Ready(outcome),
        next => {
            worker.next.set(next);
            Poll::Pending
        }
    })
}

/// What the call gave for which a guest was left.
pub(crate) fn system_call_outcome() -> Outcome {
    with_worker(|worker| worker.outcome.take()).expect("a guest that runs again has the outcome of its call")
}

/// The node's time, which counts from when it began. Zero means no time in some places.
pub(crate) fn time_since(began: Instant) -> Time {
    Time(began.elapsed().as_nanos() as u64 + 1)
}

impl Machine {
    /// Starts the threads; [`Machine::boot`] gives them something to do.
    pub fn new(
        directory: &std::path::Path, workers: u16, journals: Vec<FileJournal>, place: Place,
    ) -> Result<Arc<Machine>, NodeError> {
        let processors = usize::from(workers);
        let workers = workers + WORKERS_MORE;
        let serials = Serials::open(directory)?;
        let config = Config {
            node: place.node,
            life: place.life,
            first_serial: serials.first,
            workers,
            devices: journals.len() as u16,
        };
        let (senders, receivers): (Vec<_>, Vec<_>) = journals.iter().map(|_| channel()).unzip();
        let post = |_| Post {
            thread: OnceLock::new(),
            wake: AtomicBool::new(false),
            running_since: AtomicU64::new(0),
            running: AtomicU64::new(0),
            id: AtomicI32::new(0),
            nice: AtomicI32::new(0),
        };
        let (endings, to_end) = channel::<Endings>();
        let machine = Arc::new(Machine {
            core: Mutex::new(Core {
                kernel: Kernel::new(config),
                effects: vec![],
                after: After::default(),
                slots: Slots::default(),
                starting: BTreeMap::new(),
                awake: usize::from(workers),
                kept_asleep: VecDeque::new(),
                processors,
                watched: false,
                journals: senders,
            }),
            bodies: OnceLock::new(),
            network: OnceLock::new(),
            began: Instant::now(),
            posts: (0..workers).map(post).collect(),
            monitor: Mutex::new(()),
            monitored: Condvar::new(),
            bounded: AtomicUsize::new(0),
            may_be_nice: may_be_nice(),
            any_nice: AtomicBool::new(false),
            alarm_at: AtomicU64::new(0),
            alarm: Mutex::new(()),
            alarm_set: Condvar::new(),
            stopping: AtomicBool::new(false),
            serials,
            endings,
            halted: Mutex::new(None),
            halted_set: Condvar::new(),
        });
        let ending = Arc::downgrade(&machine);
        thread("endings", move || {
            for endings in to_end {
                let Some(machine) = ending.upgrade() else { return };
                endings.come(&**machine.bodies());
            }
        })?;
        for (mut journal, work) in journals.into_iter().zip(receivers) {
            let machine = machine.clone();
            thread("journal", move || {
                for (request, work) in work {
                    let result = journal.work(work);
                    machine.tell(Event::Journal { request, result });
                }
            })?;
        }
        let alarm = machine.clone();
        thread("alarm", move || alarm.ring())?;
        let monitor = machine.clone();
        thread("monitor", move || monitor.watch())?;
        Ok(machine)
    }

    /// Makes the first process, and lets the workers begin.
    pub fn boot(
        self: &Arc<Machine>, bodies: Arc<dyn Bodies>, program: Program, limits: abi::limits::Limits,
    ) -> Result<(), NodeError> {
        let set = self.bodies.set(bodies);
        assert!(set.is_ok(), "a machine is booted once");
        self.tell(Event::Boot { program, arguments: Bytes::EMPTY, limits });
        for index in 0..self.posts.len() {
            let machine = self.clone();
            thread("worker", move || machine.work(WorkerId(index as u16)))?;
        }
        Ok(())
    }

    /// From now on packets go to other nodes. Links, losses and what arrives are told by [`Machine::tell`].
    pub fn join(&self, network: Arc<dyn Network>) {
        let set = self.network.set(network);
        assert!(set.is_ok(), "a machine has one network");
    }

    pub fn now(&self) -> Time {
        time_since(self.began)
    }

    /// The moment from which the node's time counts.
    pub fn began(&self) -> Instant {
        self.began
    }

    pub fn processors(&self) -> usize {
        self.core().processors
    }

    pub fn workers(&self) -> usize {
        self.posts.len()
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        // A panic of ours while the kernel is in a step has stopped the node already.
        self.core.lock().unwrap_or_else(|_| std::process::abort())
    }

    fn bodies(&self) -> &Arc<dyn Bodies> {
        self.bodies.get().expect("nothing happens before the machine is booted")
    }

    /// Looks at the kernel.
    pub fn inspect<T>(&self, look: impl FnOnce(&Kernel) -> T) -> T {
        look(&self.core().kernel)
    }

    /// Something outside happened. Never called by a worker about itself.
    pub fn tell(&self, event: Event) {
        let none = self.step(None, Input::Event(event));
        assert!(none.is_none(), "only a worker is told what to do");
    }

    /// The same, by a thread that brings what another node says.
    pub fn tell_brought(&self, event: Event) {
        BRINGS.set(true);
        self.tell(event);
        BRINGS.set(false);
    }

    /// A process that sleeps shall look again.
    pub fn stir(&self, process: Key<Process>) {
        self.tell(Event::Stir { process });
    }

    fn enter(&self, me: WorkerId, input: Input) -> Option<Next> {
        // Before it takes the kernel's lock, which others wait for.
        let post = &self.posts[usize::from(me.0)];
        if post.nice.load(Ordering::Relaxed) != 0 && post.nice.swap(0, Ordering::Relaxed) != 0 {
            set_nice(post.id.load(Ordering::Relaxed), 0);
        }
        self.step(Some(me), input)
    }

    /// Sends a process to another node whose body does not run and will not. What it has is there as soon as the other node hears of it.
    pub fn depart(
        &self, process: Key<Process>, (to, life): (NodeId, u64), ticket: u64, left: Box<[HandleId]>, keeps_parent: bool,
    ) -> Result<(), DepartError> {
        let input = Input::Event(Event::Depart { process, to, life, ticket, left, keeps_parent });
        let (_, departed) = self.step_and_depart(None, input);
        let (id, departed) = departed.expect("the kernel answers in the same step");
        if departed.is_ok() {
            self.bodies().departed(id, to);
        }
        departed
    }

    fn step(&self, me: Option<WorkerId>, input: Input) -> Option<Next> {
        self.step_and_depart(me, input).0
    }

    fn step_and_depart(
        &self, me: Option<WorkerId>, input: Input,
    ) -> (Option<Next>, Option<(ProcessId, Result<(), DepartError>)>) {
        self.step_within(self.core(), me, input)
    }

    fn step_within(
        &self, mut core: MutexGuard<'_, Core>, me: Option<WorkerId>, input: Input,
    ) -> (Option<Next>, Option<(ProcessId, Result<(), DepartError>)>) {
        // Under the lock: the kernel hears of things in the order of their times.
        let now = self.now();
        if let Some(me) = me {
            let post = &self.posts[usize::from(me.0)];
            post.running_since.store(now.0, Ordering::Relaxed);
        }
        let next = core.step(now, input);
        if core.kernel.next_serial() + SERIALS_AHEAD > self.serials.reserved.load(Ordering::Relaxed) {
            self.serials.reserve(core.kernel.next_serial());
        }
        if core.after.is_empty() {
            return (next, None);
        }
        let mut after = std::mem::take(&mut core.after);
        if let Some(at) = after.alarm {
            self.alarm_at.store(at.0, Ordering::SeqCst);
        }
        drop(core);
        let departed = after.departed.take();
        if BRINGS.get() && !after.endings.is_empty() {
            self.end_elsewhere(std::mem::take(&mut after.endings));
        }
        self.do_after(after);
        if let Some(me) = me {
            // That took time, which is not that of the process that runs next.
            self.posts[usize::from(me.0)].running_since.store(self.now().0, Ordering::Relaxed);
        }
        (next, departed)
    }

    fn end_elsewhere(&self, endings: Endings) {
        // The thread for it lives as long as the machine.
        let _ = self.endings.send(endings);
    }

    fn do_after(&self, after: After) {
        for worker in after.wakes {
            let post = &self.posts[usize::from(worker.0)];
            post.wake.store(true, Ordering::Release);
            if let Some(thread) = post.thread.get() {
                thread.unpark();
            }
        }
        if let Some(network) = self.network.get() {
            after.packets.into_iter().for_each(|(to, packet)| network.transmit(to, packet));
        }
        if after.look {
            // Whoever has run for long is known here as well as there, and a thread is woken sooner.
            self.let_others_run();
            self.look_soon();
        }
        if after.alarm.is_some() {
            let _guard = self.alarm.lock().expect("no code panics while it holds this lock");
            self.alarm_set.notify_one();
        }
        for id in after.interrupts {
            self.bodies().interrupt(id);
        }
        for start in after.starts {
            self.start(start);
        }
        for settle in after.settles {
            let (process, id) = (settle.process, settle.id);
            let made = self.bodies().settle(settle);
            self.made(process, id, made);
        }
        if !after.endings.is_empty() {
            after.endings.come(&**self.bodies());
        }
        if let Some(exit) = after.halted {
            *self.halted.lock().expect("no code panics while it holds this lock") = Some(exit);
            self.halted_set.notify_all();
        }
    }

    fn start(&self, start: Start) {
        let (process, id) = (start.process, start.id);
        let made = self.bodies().start(start);
        self.made(process, id, made);
    }

    /// A process has its body, or has none.
    fn made(&self, process: Key<Process>, id: ProcessId, made: Result<Made, StartFailure>) {
        match made {
            Ok(Made { body, time }) => {
                if time.is_watched() {
                    self.bounded.fetch_add(1, Ordering::Relaxed);
                    self.look_soon();
                }
                let slot = Arc::new(Slot { process, id, body: Mutex::new(body), time });
                let mut core = self.core();
                // It may have been ended before its body was there.
                if core.starting.remove(&process).is_none() {
                    drop(core);
                    return self.end_elsewhere(Endings { dropped: vec![slot], ..Endings::default() });
                }
                core.slots.insert(slot);
                let (none, _) = self.step_within(core, None, Input::Event(Event::Started { process }));
                assert!(none.is_none(), "only a worker is told what to do");
            }
            Err(failure) => {
                if self.core().starting.remove(&process).is_some() {
                    self.bodies().ended(id, Exit::NotStarted(failure));
                }
                self.tell(Event::NotStarted { process, failure });
            }
        }
    }

    /// Lets the monitor look.
    pub fn look_soon(&self) {
        let _guard = self.monitor.lock().expect("no code panics while it holds this lock");
        self.monitored.notify_one();
    }

    /// The first process's end, if it comes within the time.
    pub fn wait_halted(&self, timeout: Duration) -> Option<Exit> {
        let halted = self.halted.lock().expect("no code panics while it holds this lock");
        let waited = self.halted_set.wait_timeout_while(halted, timeout, |halted| halted.is_none());
        *waited.expect("no code panics while it holds this lock").0
    }

    /// Ends all threads as they come by. Nothing is told to the kernel any more.
    pub fn stop(&self) {
        self.serials.close(self.core().kernel.next_serial());
        self.stopping.store(true, Ordering::SeqCst);
        for post in &self.posts {
            if let Some(thread) = post.thread.get() {
                thread.unpark();
            }
        }
        {
            let _guard = self.alarm.lock().expect("no code panics while it holds this lock");
            self.alarm_set.notify_all();
        }
        self.look_soon();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// Workers.
impl Machine {
    fn work(self: Arc<Machine>, id: WorkerId) {
        let post = &self.posts[usize::from(id.0)];
        post.thread.set(std::thread::current()).expect("a post has one thread");
        post.id.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
        let worker = Worker {
            machine: self.clone(),
            id,
            outcome: Cell::new(None),
            next: Cell::new(None),
            clock: Cell::new((0, 0)),
            clock_id: thread_clock(),
        };
        assert!(WORKER.with(|own| own.set(worker)).is_ok(), "a thread is one worker");
        let mut next = self.enter(id, Input::Event(Event::Awake { worker: id }));
        loop {
            next = match next.take().expect("a worker is told what to do") {
                Next::Park => {
                    post.running_since.store(0, Ordering::Relaxed);
                    while !post.wake.swap(false, Ordering::Acquire) {
                        if self.is_stopping() {
                            return;
                        }
                        std::thread::park();
                    }
                    self.enter(id, Input::Event(Event::Awake { worker: id }))
                }
                Next::Run { slot, outcome } => {
                    if self.is_stopping() {
                        return;
                    }
                    with_worker(|worker| worker.run(&slot, outcome))
                }
                Next::GoOn { .. } => unreachable!("what makes system calls takes what they give"),
            };
        }
    }
}

impl Worker {
    fn run(&self, slot: &Arc<Slot>, outcome: Outcome) -> Option<Next> {
        let post = &self.machine.posts[usize::from(self.id.0)];
        let mut body = slot.body.lock().unwrap_or_else(|_| std::process::abort());
        let (looked, accounted) = self.clock.get();
        slot.time.clock.store(self.clock_id, Ordering::Relaxed);
        slot.time.clock_ns.store(looked + accounted, Ordering::Relaxed);
        slot.time.since.store(self.last_call(), Ordering::Release);
        post.running.store(slot.id.to_bits(), Ordering::Relaxed);
        let next = match &mut *body {
            Body::Native(native) => self.run_native(slot, &mut **native, outcome),
            Body::Guest(guest) => self.run_guest(slot, &mut **guest, outcome),
        };
        post.running.store(0, Ordering::Relaxed);
        next
    }

    fn run_native(&self, slot: &Slot, native: &mut dyn Native, mut outcome: Outcome) -> Option<Next> {
        loop {
            let call = native.resume(self.machine.now(), outcome);
            let input = Input::Call { worker: self.id, process: slot.process, call };
            match self.machine.enter(self.id, input) {
                Some(Next::GoOn { outcome: given }) => outcome = given,
                next => {
                    self.account(slot, self.last_call());
                    return next;
                }
            }
        }
    }

    fn run_guest(&self, slot: &Slot, guest: &mut dyn Guest, outcome: Outcome) -> Option<Next> {
        self.outcome.set(Some(outcome));
        let ran = guest.run();
        let until = if let Ran::Left = ran { self.last_call() } else { self.machine.now().0 };
        self.account(slot, until);
        let (worker, process) = (self.id, slot.process);
        let input = match ran {
            Ran::Left => return self.next.take(),
            Ran::Stopped => Input::Event(Event::Yielded { worker, process }),
            Ran::Exited(code) => Input::Call { worker, process, call: SystemCall::Exit { code } },
            Ran::Faulted(fault) => Input::Event(Event::Trapped { worker, process, fault }),
        };
        self.machine.enter(worker, input)
    }

    /// When this worker was last in the kernel. A slice begins there and ends there: to ask the clock again would tell the same.
    fn last_call(&self) -> u64 {
        self.machine.posts[usize::from(self.id.0)].running_since.load(Ordering::Relaxed)
    }

    /// Adds what the slice took to the process's time. A short one is taken to have had the processor; after a long one the thread's
    /// own clock is asked.
    fn account(&self, slot: &Slot, until: u64) {
        let since = slot.time.since.swap(0, Ordering::Relaxed);
        if since == 0 {
            return;
        }
        let elapsed = until.saturating_sub(since);
        let (looked, accounted) = self.clock.get();
        let used = if elapsed < LONG_NS {
            self.clock.set((looked, accounted + elapsed));
            elapsed
        } else {
            let thread = clock_ns(self.clock_id);
            self.clock.set((thread, 0));
            thread.saturating_sub(looked).saturating_sub(accounted).min(elapsed)
        };
        slot.time.ns.fetch_add(used, Ordering::Relaxed);
    }
}

/// The processor-time clock of this thread, which every thread may read: clock_getcpuclockid(3) says how it is made of the thread's number.
fn thread_clock() -> i32 {
    const PER_THREAD_SCHEDULER: i32 = 6;
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    (!thread << 3) | PER_THREAD_SCHEDULER
}

/// Whether a thread of ours may become less nice than it is: root may, and whom RLIMIT_NICE lets. It is tried out on a thread that ends at
/// once. Without this a thread that was made nice would stay so, whatever it runs later; then weights count in the kernel's queue alone.
fn may_be_nice() -> bool {
    let tried = std::thread::spawn(|| {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        set_nice(thread, 1) && set_nice(thread, 0)
    });
    tried.join().unwrap_or(false)
}

/// Says whether it was allowed.
fn set_nice(thread: i32, nice: i32) -> bool {
    // SAFETY: the call takes numbers alone, and refuses those that it does not know.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, thread.unsigned_abs(), nice) == 0 }
}

/// What such a clock says; 0 if the thread is no more.
fn clock_ns(clock: i32) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `time` alone, which lives longer than the call, and refuses clocks that it does not know.
    match unsafe { libc::clock_gettime(clock, &mut time) } {
        0 => time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64,
        _ => 0,
    }
}

impl Core {
    fn step(&mut self, now: Time, input: Input) -> Option<Next> {
        let caller = match &input {
            Input::Call { process, .. } => Some(*process),
            Input::Event(_) => None,
        };
        let after = &mut self.after;
        let mut effects = std::mem::take(&mut self.effects);
        self.kernel.step(now, input, &mut effects);
        let mut next = None;
        for effect in effects.drain(..) {
            match effect {
                Effect::Run { process, .. } => {
                    let outcome = self.kernel.take_outcome(process);
                    next = Some(match caller == Some(process) {
                        true => Next::GoOn { outcome },
                        false => {
                            let slot = self.slots.get(process).expect("the kernel runs what was started").clone();
                            Next::Run { slot, outcome }
                        }
                    });
                }
                Effect::Park { .. } => {
                    self.awake -= 1;
                    next = Some(Next::Park);
                }
                Effect::Wake { worker } => {
                    if self.awake < self.processors {
                        self.awake += 1;
                        after.wakes.push(worker);
                    } else {
                        self.kept_asleep.push_back(worker);
                    }
                }
                Effect::Start { process, id, program, arguments, .. } => {
                    self.starting.insert(process, id);
                    after.starts.push(Start { process, id, program, arguments });
                }
                Effect::Destroy { process, exit } => {
                    if let Some(id) = self.starting.remove(&process) {
                        after.endings.ended.push((id, exit));
                    }
                    if let Some(slot) = self.slots.remove(process) {
                        after.endings.ended.push((slot.id, exit));
                        after.endings.dropped.push(slot);
                    }
                }
                Effect::Interrupt { process, .. } => {
                    if let Some(slot) = self.slots.get(process) {
                        after.interrupts.push(slot.id);
                    }
                }
                Effect::Settled { from, ticket, process, id, handle } => {
                    self.starting.insert(process, id);
                    after.settles.push(Settle { from, ticket, process, id, handle });
                }
                Effect::Missed { from, ticket } => after.endings.missed.push((from, ticket)),
                Effect::Departed { process, result } => {
                    let id = self.slots.get(process).expect("what departs has run").id;
                    if result.is_ok() {
                        after.endings.dropped.extend(self.slots.remove(process));
                    }
                    after.departed = Some((id, result));
                }
                Effect::Alarm { at } => after.alarm = Some(at),
                Effect::Journal { request, device: DeviceId(device), work } => {
                    let journal = &self.journals[usize::from(device)];
                    journal.send((request, work)).expect("a journal's thread lives as long as the node");
                }
                Effect::Halt { exit } => after.halted = Some(exit),
                Effect::Transmit { to, packet } => after.packets.push((to, packet)),
            }
        }
        self.effects = effects;
        // Who was kept asleep earlier counts as coming already, for the kernel.
        while self.awake < self.processors && self.kernel.ready_count() > after.wakes.len() {
            let Some(worker) = self.kept_asleep.pop_front() else { break };
            self.awake += 1;
            after.wakes.push(worker);
        }
        if self.kernel.ready_count() > after.wakes.len() && !self.watched {
            self.watched = true;
            after.look = true;
        }
        next
    }
}

impl After {
    fn is_empty(&self) -> bool {
        self.starts.is_empty()
            && self.settles.is_empty()
            && self.departed.is_none()
            && self.endings.is_empty()
            && self.interrupts.is_empty()
            && self.wakes.is_empty()
            && self.packets.is_empty()
            && self.alarm.is_none()
            && !self.look
            && self.halted.is_none()
    }
}

/// Alarm and monitor.
impl Machine {
    fn ring(&self) {
        let poisoned = "no code panics while it holds this lock";
        let mut guard = self.alarm.lock().expect(poisoned);
        while !self.is_stopping() {
            let at = self.alarm_at.load(Ordering::SeqCst);
            let left = at.saturating_sub(self.now().0);
            guard = match at {
                0 => self.alarm_set.wait(guard).expect(poisoned),
                _ if left > 0 => self.alarm_set.wait_timeout(guard, Duration::from_nanos(left)).expect(poisoned).0,
                _ => {
                    drop(guard);
                    // Another wish may have come meanwhile: that one stays.
                    let spent = self.alarm_at.compare_exchange(at, 0, Ordering::SeqCst, Ordering::SeqCst);
                    if spent.is_ok() {
                        self.tell(Event::Alarm);
                    }
                    self.alarm.lock().expect(poisoned)
                }
            };
        }
    }

    fn watch(&self) {
        let mut guard = self.monitor.lock().expect("no code panics while it holds this lock");
        while !self.is_stopping() {
            let interval = match self.is_crowded() {
                true => Some(MONITOR_INTERVAL),
                false if self.bounded.load(Ordering::Relaxed) > 0 || self.any_nice.load(Ordering::Relaxed) => {
                    Some(BOUNDS_INTERVAL)
                }
                false => None,
            };
            let poisoned = "no code panics while it holds this lock";
            guard = match interval {
                Some(interval) => self.monitored.wait_timeout(guard, interval).expect(poisoned).0,
                None => self.monitored.wait(guard).expect(poisoned),
            };
            drop(guard);
            self.let_others_run();
            self.end_what_used_all();
            self.share_by_weight();
            guard = self.monitor.lock().expect("no code panics while it holds this lock");
        }
    }

    /// Does anybody wait for a worker?
    fn is_crowded(&self) -> bool {
        let mut core = self.core();
        core.watched = core.kernel.ready_count() > 0;
        core.watched
    }

    fn let_others_run(&self) {
        let mut wakes = vec![];
        let mut hog = None;
        {
            let mut core = self.core();
            let now = self.now();
            let since = |post: &Post| match post.running_since.load(Ordering::Relaxed) {
                0 => 0,
                since => now.0.saturating_sub(since),
            };
            let long = self.posts.iter().filter(|post| since(post) > LONG_NS).count();
            while core.awake.saturating_sub(long) < core.processors {
                let Some(worker) = core.kept_asleep.pop_front() else { break };
                core.awake += 1;
                wakes.push(worker);
            }
            if wakes.is_empty() && core.awake == self.posts.len() && core.kernel.ready_count() > 0 {
                let longest = self.posts.iter().max_by_key(|post| since(post)).filter(|post| since(post) > HOG_NS);
                hog = longest.and_then(Post::running);
            }
        }
        if !wakes.is_empty() {
            self.do_after(After { wakes, ..After::default() });
        }
        if let Some(id) = hog {
            self.bodies().interrupt(id);
        }
    }

    /// A process is gone.
    pub fn look_no_more(&self, time: &Used) {
        if time.is_watched() {
            self.bounded.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Threads that compute for long get what their processes' weights say.
    fn share_by_weight(&self) {
        let is_wanted = self.may_be_nice && self.bounded.load(Ordering::Relaxed) > 0;
        if !is_wanted && !self.any_nice.load(Ordering::Relaxed) {
            return;
        }
        let weights: BTreeMap<ProcessId, u32> =
            self.core().slots.iter().map(|slot| (slot.id, slot.time.weight)).collect();
        let now = self.now();
        let weight = |post: &Post| {
            let since = post.running_since.load(Ordering::Relaxed);
            post.running()
                .filter(|_| since != 0 && now.0.saturating_sub(since) >= LONG_NS)
                .and_then(|id| weights.get(&id).copied())
        };
        let long: Vec<(&Post, u32)> = self.posts.iter().filter_map(|post| Some((post, weight(post)?))).collect();
        let heaviest = long.iter().map(|(_, weight)| *weight).max().unwrap_or(WEIGHT_NORMAL);
        let mut any = false;
        for (post, weight) in long {
            let nice = nice_of(weight, heaviest);
            any |= nice != 0;
            // If it turns to something else just now, it is nice for that until it next enters the kernel.
            if post.nice.swap(nice, Ordering::Relaxed) != nice {
                set_nice(post.id.load(Ordering::Relaxed), nice);
            }
        }
        self.any_nice.store(any, Ordering::Relaxed);
    }

    fn end_what_used_all(&self) {
        if self.bounded.load(Ordering::Relaxed) == 0 {
            return;
        }
        let now = self.now();
        let over: Vec<ProcessId> = {
            let core = self.core();
            core.slots.iter().filter(|slot| slot.time.is_over(now)).map(|slot| slot.id).collect()
        };
        for id in over {
            self.bodies().interrupt(id);
        }
    }
}

/// Serial numbers over all lives of the node: a file says which were never given out. After a clean stop the next life goes on where this
/// one stopped, after a crash a little further.
struct Serials {
    path: std::path::PathBuf,
    first: u64,
    /// Numbers below this may be given out.
    reserved: AtomicU64,
}

/// How many are reserved at once, and how early.
const SERIALS_RESERVED: u64 = 1 << 16;
const SERIALS_AHEAD: u64 = 1 << 13;

impl Serials {
    fn open(directory: &std::path::Path) -> Result<Serials, NodeError> {
        let path = directory.join("serial");
        let failure = |error| NodeError::Directory { path: path.clone(), error };
        let first = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| {
                let why = format!("it should hold a number and holds {text:?}: put one above every pid ever given out");
                failure(std::io::Error::other(why))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 1,
            Err(error) => return Err(failure(error)),
        };
        let serials = Serials { path: path.clone(), first, reserved: AtomicU64::new(0) };
        serials.write(first + SERIALS_RESERVED).map_err(failure)?;
        serials.reserved.store(first + SERIALS_RESERVED, Ordering::Relaxed);
        Ok(serials)
    }

    fn write(&self, number: u64) -> std::io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = std::fs::File::create(&new)?;
        std::io::Write::write_all(&mut file, format!("{number}\n").as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        std::fs::File::open(self.path.parent().expect("the file is in a directory"))?.sync_all()
    }

    /// Called under the kernel's lock: a number that a crash could give out twice must never leave the node.
    fn reserve(&self, next: u64) {
        let reserved = next + SERIALS_RESERVED;
        if let Err(error) = self.write(reserved) {
            // What was reserved before is not used up yet: the next step tries again, and at its end the node stops.
            assert!(
                next + 16 < self.reserved.load(Ordering::Relaxed),
                "no more numbers: {} cannot be written: {error}",
                self.path.display()
            );
            return;
        }
        self.reserved.store(reserved, Ordering::Relaxed);
    }

    fn close(&self, next: u64) {
        // If it fails, the next life begins a little further.
        let _ = self.write(next);
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), NodeError> {
    let started = std::thread::Builder::new().name(name.into()).spawn(move || {
        // Half a node is worse than none: who restarts it finds all that was acknowledged.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
            std::process::abort();
        }
    });
    started.map(|_| ()).map_err(NodeError::Thread)
}
