//! One node: the kernel on threads, the system's services, programs as processes, and what others may ask of them. Knows nothing of
//! sockets or command lines.
//!
//! ```text
//!   view      what others see                       console   standard streams
//!   machine   the kernel on Linux threads           guest     a process that runs a program
//!   puppet    system calls for outsiders            process   names, streams and ends of processes
//!   bodies    what each process is                  system_files   /proc, /port, /node
//!   harbour   ports of durable processes
//!   seekers   who works for names of other nodes
//!   keep      a process stopped for a moment, and one that goes on
//!   moving    a process that leaves, and one that comes   forking   clones of a process
//! ```
//! All calls here may be made from any thread that is not a worker; those that wait have a timeout.

mod bodies;
mod console;
mod forking;
mod guest;
mod harbour;
mod keep;
mod machine;
mod moving;
mod process;
mod puppet;
mod seekers;
mod system_files;
mod view;

pub use console::{Console, Hold, INPUT_BYTES_MAX, LOG_BYTES_MAX, Output, Piece};
pub use forking::{Asker, Cutting, ForkRefused, GrowRefused, Origin};
pub use keep::{GoOn, Outward, Snapshot, SnapshotRefused, UndoRefused, is_damage};
pub use moving::{Arrival, ArriveRefused, Baggage, Brought, Pages, Stopped};
pub use seekers::{Fetched, Home, Registry, Tide};
pub use system_files::{ForkOrder, Forked, OtherNode, Others, PlaceHint};
pub use view::{
    ControlRefused, DepartRefused, End, FIRST_NODE, FreezeRefused, HANDLES_MAX, Kind, Lineage, MAILBOX_BYTES_MAX,
    MountOrder, NodeError, NodeView, NotPid, Order, Pid, PortError, ProcessLimits, ProcessView, RunRefused, State,
    Stay, Stdio, ThawOrder, Waits,
};

use crate::files::{Lasting, Shared, Tree};
use abi::call::{
    CallError, ControlError, Deadline, Outcome, PortOptions, Reached, ReceiveError, SendError, SendMode, SystemCall,
    Wait,
};
use abi::file::{FileSystem, Mount, StreamKind};
use abi::ids::{HandleId, NodeId, ObjectId, PortId, ProgramId, Time};
use abi::interface::names;
use abi::limits::{Limits, WEIGHT_NORMAL};
use abi::message::{Bytes, MESSAGE_BYTES_MAX, Message, Received, Transfer, TransferMode};
use abi::process::{Again, Orphan, Program, Spawn};
use abi::rights::Rights;
use bodies::Bodies;
use console::{ConsoleWaiter, Rouse, Side};
use drivers::clock::now_ms;
use drivers::{FileJournal, HostDirectory, HostEntropy};
use engine::tape::{Mark, Ports, Tape, TapedFiles, Told};
use engine::una::Child;
use engine::{Fiber, Image, Usage, wasi};
use guest::{Calls, Children, ProcessClock};
use harbour::{Harbour, Owner};
use kernel::inspect::Activity;
use kernel::{Key, Process};
use machine::{Machine, Place, Used};
use process::{Facts, Info};
use puppet::{Refused, Strings};
use services::members::ProgramMark;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use system_files::{Root, SystemFiles};

/// How long the system's own parts may take for something that they do at once.
const SYSTEM_TIMEOUT: Duration = Duration::from_secs(30);
/// A durable process that says nothing for so long is looked for anew, and before that so long a pause is made.
const LASTING_LOOK: Duration = Duration::from_millis(500);
const LASTING_PAUSE: Duration = Duration::from_millis(20);
/// How long a process may take to stop for a freeze.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a process that is to stop is roused again: it may have begun to wait just after the last time.
const STOP_INTERVAL: Duration = Duration::from_millis(10);

/// How many programs are remembered for those who name one by its hash.
const PROGRAMS_MAX: usize = 64;

/// The directory of names in which ports are found.
const PORTS: &str = "/port";

#[derive(Clone)]
pub struct NodeOptions {
    /// Where the node keeps all that must survive. Made if it is not there.
    pub data: PathBuf,
    /// For compiled code. `None`: programs are compiled each time.
    pub cache: Option<PathBuf>,
    /// Processors to use; all if not said.
    pub workers: Option<u16>,
    pub target: engine::Target,
    pub canonical_nans: bool,
    /// The number that the system gave this node.
    pub node: abi::ids::NodeId,
    /// How often this node started, if it has others to speak to; zero: it never has.
    pub life: u64,
    /// The tree of the whole computer; `None`: the node has one of its own.
    pub files: Option<Shared>,
    /// How nodes agree about names of ports, if there are others; `None`: its names are the node's own.
    pub names: Option<Arc<dyn Registry>>,
    /// What is asked of other nodes for `/proc` and `/node`; `None`: there are none.
    pub others: Option<Arc<dyn Others>>,
}

impl Default for NodeOptions {
    /// A node alone, that keeps no compiled code, in no directory: at least that must be said.
    fn default() -> NodeOptions {
        NodeOptions {
            data: PathBuf::new(),
            cache: None,
            workers: None,
            target: engine::Target::Native,
            canonical_nans: false,
            node: FIRST_NODE,
            life: 0,
            files: None,
            names: None,
            others: None,
        }
    }
}

/// Who carries packets to the kernels of other nodes, which may be lost, doubled and reordered on the way.
pub trait Network: Send + Sync {
    /// Called on any thread; does not block. A packet has at most [`PACKET_BYTES_MAX`].
    fn transmit(&self, to: abi::ids::NodeId, packet: &[u8]);
}

/// The longest packet of a kernel.
pub const PACKET_BYTES_MAX: usize = 64 << 10;

/// What became of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Started(ProgramId),
    Ended(abi::process::Exit),
    /// It had ended, and nothing is known of it here any more.
    Forgotten,
}

/// Who is told of it, on the thread on which it happened: it must not take long, nor ask the node anything.
pub type Watcher = Box<dyn Fn(abi::ids::ProcessId, Fate) + Send + Sync>;

/// What a node's kernel is told of others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    Arrived {
        life: u64,
        packet: Vec<u8>,
    },
    Linked {
        life: u64,
    },
    Unlinked,
    /// That life is over, for certain.
    Lost {
        life: u64,
    },
}

/// The tree `/`.
enum AnyTree {
    Own(Tree),
    Shared(Shared),
}

impl AnyTree {
    fn session(&self) -> Box<dyn FileSystem + Send> {
        match self {
            AnyTree::Own(tree) => Box::new(tree.session()),
            AnyTree::Shared(shared) => Box::new(shared.session()),
        }
    }

    /// Of a process that goes on elsewhere.
    fn lasting_session(&self, session: Lasting) -> Box<dyn FileSystem + Send> {
        match self {
            // There is no elsewhere.
            AnyTree::Own(tree) => Box::new(tree.session()),
            AnyTree::Shared(shared) => Box::new(shared.lasting_session(session)),
        }
    }

    fn flush(&self) -> Result<(), abi::errno::Errno> {
        match self {
            AnyTree::Own(tree) => tree.flush(),
            AnyTree::Shared(shared) => shared.flush(),
        }
    }
}

/// A node. All copies are the same node.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    number: abi::ids::NodeId,
    machine: Arc<Machine>,
    bodies: Arc<Bodies>,
    engine: engine::Engine,
    /// Makes the node's own system calls; the parent of all programs that are started from outside.
    desk: Arc<Strings>,
    tree: AnyTree,
    others: Option<Arc<dyn Others>>,
    /// How nodes agree about names of ports, if there are others.
    registry: Option<Arc<dyn Registry>>,
    began: Instant,
    /// Those that were run last, the latest at the end.
    programs: Mutex<VecDeque<engine::Program>>,
    this: std::sync::Weak<Inner>,
}

/// A process that was just started.
pub struct Started {
    pub pid: Pid,
    pub console: Console,
}

/// What becomes of a process when its image is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Afterwards {
    End,
    RunOn,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freeze {
    /// The image holds the program too.
    pub with_program: bool,
    pub afterwards: Afterwards,
}

impl Node {
    pub fn start(options: &NodeOptions) -> Result<Node, NodeError> {
        let failure = |path: &Path| {
            let path = path.to_path_buf();
            |error| NodeError::Directory { path, error }
        };
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&options.data).map_err(failure(&options.data))?;
        let tree = match &options.files {
            Some(shared) => AnyTree::Shared(shared.clone()),
            None => AnyTree::Own(Tree::open(&options.data.join("tree"))?),
        };
        let journal = options.data.join("names.journal");
        let journals = vec![FileJournal::open(&journal).map_err(failure(&journal))?];
        let engine = engine::Engine::new(&engine::Options {
            target: options.target,
            canonical_nans: options.canonical_nans,
            cache: options.cache.clone(),
        })?;
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get().min(1024) as u16);
        let workers = options.workers.unwrap_or(processors).max(1);
        let place = Place { node: options.node, life: options.life };
        let machine = Machine::new(&options.data, workers, journals, place)?;
        // Without a life there is no network.
        let registry = options.names.clone().filter(|_| options.life != 0);
        let (pile, work) = seekers::pile();
        let bodies = Arc::new(Bodies::new(machine.clone(), registry.is_some().then_some(pile)));
        machine.boot(bodies.clone(), bodies::BOOT, bodies::limits())?;
        if let Some(registry) = registry.clone() {
            seekers::begin(&machine, bodies.seekers(), work, registry).map_err(NodeError::Thread)?;
        }
        let desk = bodies.desk();
        let node = Node(Arc::new_cyclic(|this| Inner {
            number: options.node,
            machine,
            bodies,
            engine,
            desk,
            tree,
            others: options.others.clone(),
            registry,
            began: Instant::now(),
            programs: Mutex::default(),
            this: this.clone(),
        }));
        // The services answer once their journals are read.
        match node.ask_names(&node.0.desk, &names::Request::MakeDirectory { path: PORTS.into() }, &[], SYSTEM_TIMEOUT) {
            Ok((names::Answer::Done | names::Answer::Failed(names::Failure::Exists), _)) => Ok(node),
            Ok(_) => Err(NodeError::Boot),
            Err(_) => match node.0.machine.wait_halted(Duration::ZERO) {
                Some(abi::process::Exit::Code(services::exit::JOURNAL_DAMAGED)) => Err(NodeError::Damaged),
                _ => Err(NodeError::Boot),
            },
        }
    }

    /// From now on this one is told of each program's start and end.
    pub fn watch(&self, watcher: Watcher) {
        self.0.bodies.watch(watcher);
    }

    /// From now on this node's kernel speaks to others.
    pub fn join(&self, network: Arc<dyn Network>) {
        struct Carrier(Arc<dyn Network>);
        impl machine::Network for Carrier {
            fn transmit(&self, to: abi::ids::NodeId, packet: Bytes) {
                self.0.transmit(to, &packet);
            }
        }
        self.0.machine.join(Arc::new(Carrier(network)));
    }

    /// Something of another node, for the kernel.
    pub fn heard(&self, node: abi::ids::NodeId, heard: Heard) {
        use kernel::world::Event;
        self.0.machine.tell_brought(match heard {
            Heard::Arrived { life, packet } => Event::Arrived { from: node, life, packet: packet.into() },
            Heard::Linked { life } => Event::Linked { node, life },
            Heard::Unlinked => Event::Unlinked { node },
            Heard::Lost { life } => Event::Lost { node, life },
        });
    }

    /// Loads a program: finds its compiled code or makes it, which takes a while. `progress` is told of long work.
    pub fn load(
        &self, wasm: impl Into<Arc<[u8]>>, progress: &mut dyn FnMut(engine::Progress),
    ) -> Result<engine::Program, engine::LoadError> {
        self.0.engine.load(wasm, progress)
    }

    /// Of the programs that ran here last, what others are told of them; the latest first.
    pub fn latest_programs(&self) -> Vec<ProgramMark> {
        let programs = self.0.programs.lock().expect("no code panics while it holds this lock");
        let mark = |program: &engine::Program| ProgramMark::from(&ProgramId(*program.hash().as_bytes()));
        programs.iter().rev().map(mark).collect()
    }

    pub fn engine(&self) -> &engine::Engine {
        &self.0.engine
    }

    pub fn run(&self, order: Order) -> Result<Started, RunRefused> {
        let limit = order.limits.output_bytes.unwrap_or(u64::MAX);
        let console = Console::new(order.stdio.input, order.stdio.lossless, limit);
        self.begin(order, console, None, Life::default())
    }

    /// Begins a process under the number that it had. `console`: what it had printed before; `since`: the incarnation that was the first to
    /// begin so.
    pub fn run_again(
        &self, order: Order, again: Again, since: u32, console: Option<&[u8]>,
    ) -> Result<Started, RunRefused> {
        let limit = order.limits.output_bytes.unwrap_or(u64::MAX);
        let console = match console {
            Some(saved) => Console::restored(saved).map_err(|_| RunRefused::Streams)?,
            None => Console::new(order.stdio.input, order.stdio.lossless, limit),
        };
        let life = Life { since, incarnation: again.incarnation, ..Life::default() };
        self.begin(order, console, Some(again), life)
    }

    fn begin(&self, order: Order, console: Console, again: Option<Again>, life: Life) -> Result<Started, RunRefused> {
        let Order { program, name, args, env, mounts, limits, stdio } = order;
        if let Some(again) = again
            && self.is_alive(again.id.into())
        {
            return Err(RunRefused::Alive(again.id.into()));
        }
        let started_ms = now_ms();
        let world = self.0.world_at(&program, &mounts, &limits, stdio, (console.clone(), console), life)?;
        let (setup, fiber, rest) = world.for_new(args.clone(), env);
        let process = at_once(self.0.engine.start_on_fiber(&program, &name, setup, fiber))?;
        let common = Common { name, args, mounts, limits, stdio, started_ms, moves: moves(again), again };
        self.launch(&program, process, common, rest)
    }

    /// Makes a process of an image, which goes on where it was frozen.
    pub fn thaw(&self, image: Image<impl Read>, order: ThawOrder) -> Result<Started, RunRefused> {
        let ThawOrder { program, name, mounts, limits, stdio } = order;
        let kept = image.limits().map_or(Ok(ProcessLimits::default()), serde_json::from_slice);
        let limits = limits.or(kept.map_err(|_| RunRefused::Limits)?);
        let world = self.0.world(&program, &mounts, &limits, stdio)?;
        let (resume, fiber, rest) = world.for_old();
        let process = at_once(self.0.engine.thaw_on_fiber(&program, image, resume, fiber))?;
        let args = process.system().args().to_vec();
        let common = Common { name, args, mounts, limits, stdio, started_ms: now_ms(), moves: 0, again: None };
        self.launch(&program, process, common, rest)
    }

    fn launch(
        &self, program: &engine::Program, process: engine::Process, common: Common, rest: Rest,
    ) -> Result<Started, RunRefused> {
        self.launch_as(program, process, common, rest, |_| {})
    }

    /// `made` is called with what is known of it before it runs.
    fn launch_as(
        &self, program: &engine::Program, mut process: engine::Process, common: Common, rest: Rest,
        made: impl FnOnce(&Info),
    ) -> Result<Started, RunRefused> {
        let (console, limits, again) = (rest.output.clone(), common.limits.clone(), common.again);
        let of_kernel = limits.of_kernel()?;
        let tape = rest.tape.clone();
        let info = self.0.info(program, &mut process, common, rest);
        if let Some(tape) = tape {
            tape.begin();
        }
        made(&info);
        let arguments = self.0.bodies.expect(guest::Program::new(process, info.clone()), info.clone());
        let weight = limits.cpu_weight.unwrap_or(WEIGHT_NORMAL);
        let spawn = Spawn {
            program: Program::Module(ProgramId(*program.hash().as_bytes())),
            arguments: arguments.clone(),
            handles: Box::new([grant_names()]),
            limits: of_kernel,
            weight,
            orphan: Orphan::IsAdopted,
            supervisor: None,
            again,
        };
        match self.desk(SystemCall::Spawn(Box::new(spawn))) {
            Ok(Outcome::Spawned(Ok(spawned))) => {
                let set = info.handle.set(spawned.process);
                assert!(set.is_ok(), "a process is spawned once");
                // It may have ended before its handle was known here.
                if info.fate().end.is_some() {
                    self.0.bodies.forget(&info);
                }
                Ok(Started { pid: spawned.id.into(), console })
            }
            refused => {
                self.0.bodies.unexpect(&arguments);
                match refused {
                    Ok(Outcome::Spawned(Err(error))) => Err(RunRefused::Limit(format!("{error:?}"))),
                    _ => Err(RunRefused::Stopping),
                }
            }
        }
    }

    fn desk(&self, call: SystemCall) -> Result<Outcome, Refused> {
        self.0.desk.call(call, |key| self.0.machine.stir(key), SYSTEM_TIMEOUT)
    }

    /// All that run, and the last that ended.
    pub fn processes(&self) -> Vec<ProcessView> {
        let kernel: std::collections::BTreeMap<Pid, (Activity, u32, Option<Pid>)> = self.0.machine.inspect(|kernel| {
            let view = |view: kernel::inspect::ProcessView| {
                let parent = view.parent.map(Pid::from);
                (view.id.into(), (view.activity, view.handles, parent))
            };
            kernel.processes().map(view).collect()
        });
        let processes = self.0.bodies.processes();
        let mut views: Vec<ProcessView> = processes.ended().map(|info| self.view(info, None)).collect();
        views.extend(processes.live().map(|info| {
            let pid = info.pid.get().expect("what is listed has a pid");
            self.view(info, kernel.get(pid))
        }));
        views
    }

    pub fn process(&self, pid: Pid) -> Result<ProcessView, ControlRefused> {
        let found = self.processes().into_iter().find(|view| view.pid == pid);
        found.ok_or_else(|| absent(pid, &self.0.bodies.processes()))
    }

    fn view(&self, info: &Info, kernel: Option<&(Activity, u32, Option<Pid>)>) -> ProcessView {
        let state = match (info.fate().end.clone(), kernel.map(|(activity, ..)| *activity)) {
            (Some(end), _) => State::Ended(end),
            (None, Some(activity)) => match activity {
                Activity::Starting => State::Starting,
                Activity::Ready => State::Ready,
                Activity::Held => State::Stopped,
                Activity::Running => State::Running,
                // Over in a moment.
                Activity::Ending | Activity::Exited(_) => State::Running,
                Activity::Receiving => State::Waiting(Waits::Receive),
                Activity::Sending => State::Waiting(Waits::Send),
                Activity::Calling => State::Waiting(Waits::Call),
                Activity::WaitingForExit => State::Waiting(Waits::Child),
                Activity::Sleeping => State::Waiting(Waits::Sleep),
                Activity::Away => State::Waiting(Waits::Node),
                Activity::Reading | Activity::Writing => State::Waiting(Waits::Pipe),
            },
            (None, None) => State::Starting,
        };
        let stopped = info.is_stopped() && !matches!(state, State::Ended(_));
        ProcessView {
            pid: *info.pid.get().expect("what is listed has a pid"),
            node: self.0.number.0,
            parent: kernel.and_then(|(_, _, parent)| *parent),
            name: info.name.clone(),
            args: info.args.clone(),
            program: info.program.clone(),
            kind: info.kind,
            state: if stopped { State::Stopped } else { state },
            started_ms: info.started_ms,
            cpu_ns: info.time.total_ns(self.0.machine.now()),
            memory_bytes: info.memory_bytes(),
            handles: kernel.map_or(0, |(_, handles, _)| *handles),
            output_bytes: info.console.as_ref().map_or(0, Console::end),
            mounts: info.mounts.clone(),
            incarnation: info.incarnation,
            lineage: info.lineage().clone(),
            stay: info.stay(),
        }
    }

    fn find(&self, pid: Pid) -> Result<Arc<Info>, ControlRefused> {
        let processes = self.0.bodies.processes();
        let info = processes.find(pid).ok_or_else(|| absent(pid, &processes))?;
        let has_ended = info.fate().end.is_some();
        match (info.kind, info.moved()) {
            // What has ended here was not it any more.
            (Kind::Program, Some(to)) if has_ended => Err(ControlRefused::Moved { pid, to }),
            (Kind::Program, _) => Ok(info.clone()),
            (Kind::Service, _) => Err(ControlRefused::Service(pid)),
        }
    }

    fn control(&self, pid: Pid, call: impl Fn(HandleId) -> SystemCall) -> Result<Arc<Info>, ControlRefused> {
        let info = self.find(pid)?;
        if info.fate().end.is_some() {
            return Err(ControlRefused::Ended(pid));
        }
        let handle = *info.handle.get().ok_or(ControlRefused::NoSuchProcess(pid))?;
        match self.desk(call(handle)) {
            Ok(
                Outcome::Killed(Ok(()))
                | Outcome::Held(Ok(()))
                | Outcome::Released(Ok(()))
                | Outcome::Interrupted(Ok(())),
            ) => Ok(info),
            Ok(
                Outcome::Killed(Err(error))
                | Outcome::Held(Err(error))
                | Outcome::Released(Err(error))
                | Outcome::Interrupted(Err(error)),
            ) => match error {
                ControlError::Ended | ControlError::Unknown | ControlError::Handle(_) => {
                    Err(ControlRefused::Ended(pid))
                }
            },
            _ => Err(ControlRefused::Stopping),
        }
    }

    /// Ends a process at once, or as soon as it is out of the system call it is in.
    pub fn kill(&self, pid: Pid) -> Result<(), ControlRefused> {
        self.control(pid, |process| SystemCall::Kill { process }).map(|_| ())
    }

    /// Keeps a process from running, until [`Node::cont`].
    pub fn stop(&self, pid: Pid) -> Result<(), ControlRefused> {
        let known = self.find(pid)?;
        let _held = known.stops_again();
        self.stop_now(pid)
    }

    fn stop_now(&self, pid: Pid) -> Result<(), ControlRefused> {
        let info = self.control(pid, |process| SystemCall::Hold { process })?;
        info.set_stopped(true);
        // Whatever was the reason before: somebody wants it to be stopped now.
        info.set_paused(false);
        Ok(())
    }

    pub fn cont(&self, pid: Pid) -> Result<(), ControlRefused> {
        let known = self.find(pid)?;
        // Also who is lent and was stopped before goes on when he comes back.
        let mut stops_again = known.stops_again();
        *stops_again = false;
        if known.is_paused() {
            // Somebody wants it to run here, whoever sits at the machine.
            known.guest.store(false, Ordering::Relaxed);
        }
        self.go_on_now(pid)
    }

    fn go_on_now(&self, pid: Pid) -> Result<(), ControlRefused> {
        let info = self.control(pid, |process| SystemCall::Release { process })?;
        info.set_stopped(false);
        info.set_paused(false);
        Ok(())
    }

    /// Stops a guest until [`Node::unpause`], unless somebody else has stopped it. Says whether it did.
    pub fn pause(&self, pid: Pid) -> Result<bool, ControlRefused> {
        let known = self.find(pid)?;
        let _held = known.stops_again();
        if known.is_stopped() {
            return Ok(false);
        }
        self.stop_now(pid)?;
        known.set_paused(true);
        Ok(true)
    }

    /// Lets a guest that was paused go on. Says whether it was.
    pub fn unpause(&self, pid: Pid) -> Result<bool, ControlRefused> {
        let known = self.find(pid)?;
        let _held = known.stops_again();
        let was_paused = known.is_paused();
        if was_paused {
            self.go_on_now(pid)?;
        }
        Ok(was_paused)
    }

    /// The system put this process on this machine, and may put it elsewhere when the machine's owner returns.
    pub fn set_guest(&self, pid: Pid) {
        if let Ok(info) = self.find(pid) {
            info.guest.store(true, Ordering::Relaxed);
        }
    }

    pub fn is_guest(&self, pid: Pid) -> bool {
        self.find(pid).is_ok_and(|info| info.stay() != Stay::Wanted)
    }

    /// How a process ended, if it does within the time.
    pub fn wait(&self, pid: Pid, timeout: Duration) -> Result<Option<End>, ControlRefused> {
        let info = self.find(pid)?;
        let end = info.wait(timeout);
        match info.moved() {
            Some(to) => Err(ControlRefused::Moved { pid, to }),
            None => Ok(end),
        }
    }

    pub fn console(&self, pid: Pid) -> Result<Console, ControlRefused> {
        self.find(pid)?.console.clone().ok_or(ControlRefused::NoSuchProcess(pid))
    }

    /// Does what was written into the `ctl` of a process of this node: `kill`, `stop`, `cont`, `move` and the name of a node, or `fork`
    /// ([`ForkOrder`]).
    pub fn command(&self, pid: Pid, bytes: &[u8]) -> Result<(), abi::errno::Errno> {
        use abi::errno::Errno;
        let done = match bytes.trim_ascii() {
            b"kill" => {
                let is_over = self.0.others.as_ref().map_or(Ok(false), |others| others.kill_for_good(pid))?;
                match self.kill(pid) {
                    // It is to be begun again, and does not live now.
                    Err(ControlRefused::NoSuchProcess(_) | ControlRefused::Ended(_)) if is_over => Ok(()),
                    killed => killed,
                }
            }
            b"stop" => self.stop(pid),
            b"cont" => self.cont(pid),
            word if word.starts_with(b"fork") => {
                let order = ForkOrder::read(word).ok_or(Errno::Inval)?;
                let others = self.0.others.as_ref().ok_or(Errno::NotSup)?;
                return others.fork(pid, order, Asker::Others, Box::new(|_| {}));
            }
            word => {
                let to =
                    word.strip_prefix(b"move ").and_then(|name| std::str::from_utf8(name).ok()).ok_or(Errno::Inval)?;
                let others = self.0.others.as_ref().ok_or(Errno::NotSup)?;
                return others.send_away(pid, to.trim());
            }
        };
        done.map_err(|refused| match refused {
            ControlRefused::NoSuchProcess(_) | ControlRefused::Ended(_) | ControlRefused::Moved { .. } => Errno::Srch,
            ControlRefused::Service(_) => Errno::Perm,
            ControlRefused::Stopping => Errno::Io,
        })
    }

    /// A word of the system to whoever reads what a process writes.
    pub fn note(&self, pid: Pid, text: &str) {
        if let Ok(console) = self.console(pid) {
            console.note(text);
        }
    }

    /// What a process of this node wrote, from there on, at most so much, as far as it is kept.
    pub fn log(&self, pid: Pid, offset: u64, bytes_max: usize) -> Result<Vec<u8>, abi::errno::Errno> {
        let console = self.console(pid).map_err(|_| abi::errno::Errno::Srch)?;
        Ok(match console.read(offset, bytes_max, Duration::ZERO) {
            Piece::Bytes { bytes, .. } => bytes,
            Piece::Nothing | Piece::End => vec![],
            // It is read there.
            Piece::Moved(_) => return Err(abi::errno::Errno::Srch),
        })
    }

    /// Stops a process and writes it as an image; `out` is flushed at the end. Whatever fails, it runs on.
    pub fn freeze(&self, pid: Pid, how: Freeze, out: &mut dyn Write) -> Result<(), FreezeRefused> {
        // Each is born with one, to the names.
        if self.process(pid).is_ok_and(|view| view.handles > 1) {
            return Err(FreezeRefused::Holds { pid, what: "ports, pipes or processes in its hands".into() });
        }
        let mut stopped = self.stop_still(pid)?;
        stopped.save(out, how.with_program)?;
        // The process ends only when the image is safe.
        out.flush().map_err(engine::SaveError::Write)?;
        if how.afterwards == Afterwards::End {
            stopped.end();
        }
        Ok(())
    }

    /// The tree `/`.
    pub fn files(&self) -> Box<dyn FileSystem> {
        self.0.tree.session()
    }

    pub fn status(&self) -> NodeView {
        let machine = &self.0.machine;
        let (ready, running) = machine.inspect(|kernel| {
            let running = kernel.processes().filter(|view| view.activity == Activity::Running).count();
            (kernel.ready_count() as u32, running as u32)
        });
        let processes = self.0.bodies.processes();
        let now = machine.now();
        let (mut cpu_ns, mut memory_bytes, mut count) = (self.0.bodies.ended_cpu_ns(), 0, 0);
        for info in processes.live() {
            cpu_ns += info.time.total_ns(now);
            memory_bytes += info.memory_bytes();
            count += u32::from(info.kind == Kind::Program);
        }
        NodeView {
            processors: machine.processors() as u32,
            workers: machine.workers() as u32,
            ready,
            running,
            processes: count,
            cpu_ns,
            uptime_ms: self.0.began.elapsed().as_millis() as u64,
            memory_bytes,
        }
    }

    /// Sends a message to the port of this name.
    pub fn send(&self, port: &str, bytes: &[u8], timeout: Duration) -> Result<(), PortError> {
        let path = port_path(port)?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(PortError::TooLong { bytes: bytes.len(), max: MESSAGE_BYTES_MAX });
        }
        let agent = self.agent()?;
        let until = Instant::now() + timeout;
        if self.lasts(port) {
            return self.send_lasting(&agent, port, path, bytes, until);
        }
        // Others may have to be asked, who take their time.
        let (answer, handles) = agent.ask(&names::Request::Lookup { path }, &[], SYSTEM_TIMEOUT)?;
        let handle = match (answer, handles.first()) {
            (names::Answer::Port, Some(handle)) => *handle,
            (names::Answer::Failed(failure), _) => return Err(port_failure(port, failure)),
            _ => return Err(PortError::NotAPort(port.into())),
        };
        let left = until.saturating_duration_since(Instant::now());
        let mode = SendMode::Reliable(Wait::Until(agent.at(left)));
        let message = Message::of(bytes);
        match agent.call(SystemCall::Send { port: handle, message, mode }, left)? {
            Outcome::Sent(Ok(())) => Ok(()),
            Outcome::Sent(Err(SendError::PortClosed)) => Err(PortError::Closed),
            Outcome::Sent(Err(SendError::Unknown)) => Err(PortError::InDoubt(port.into())),
            Outcome::Sent(Err(SendError::Expired | SendError::Full)) => Err(PortError::Expired),
            other => Err(PortError::System(format!("{other:?}"))),
        }
    }

    /// Is this the name of a port of a durable process, as far as is known here?
    fn lasts(&self, port: &str) -> bool {
        let path = port_path(port);
        path.is_ok_and(|path| self.0.registry.as_ref().is_some_and(|registry| registry.tide(&path).is_some()))
    }

    /// Sends to a durable process, which has received it for ever when this comes back. Wherever it goes on meanwhile it is asked whether
    /// it has.
    fn send_lasting(
        &self, agent: &Agent, port: &str, path: String, bytes: &[u8], until: Instant,
    ) -> Result<(), PortError> {
        let bytes = engine::found::as_sent(bytes);
        let request = names::Request::Lookup { path };
        let mut again = None;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(if again.is_some() { PortError::InDoubt(port.into()) } else { PortError::Expired });
            }
            let (_, handles) = agent.ask(&request, &[], SYSTEM_TIMEOUT)?;
            if let Some(handle) = handles.first() {
                // It may have gone on elsewhere, and this node only sleep.
                let slice = left.min(LASTING_LOOK);
                let message = Message { bytes: bytes.clone(), handles: Box::default() };
                let deadline = Deadline { at: Some(agent.at(slice)), again };
                let call = SystemCall::Call { port: *handle, message, deadline };
                let called = agent.call(call, slice)?;
                agent.post(SystemCall::Close { handle: *handle }, |_| {});
                match called {
                    Outcome::Called(Ok(_)) => return Ok(()),
                    Outcome::Called(Err(
                        CallError::Abandoned { sequence } | CallError::Expired(Reached::Server { sequence }),
                    )) => again = Some(sequence),
                    Outcome::Called(Err(
                        CallError::PortClosed | CallError::Full | CallError::Expired(_) | CallError::Handle(_),
                    )) => {}
                    other => return Err(PortError::System(format!("{other:?}"))),
                }
            }
            std::thread::sleep(LASTING_PAUSE);
        }
    }

    /// Makes a port of this name, from which messages are received as long as it is kept.
    pub fn receiver(&self, port: &str) -> Result<PortReceiver, PortError> {
        let path = port_path(port)?;
        let agent = self.agent()?;
        let made = agent.call(SystemCall::CreatePort(PortOptions::RENDEZVOUS), SYSTEM_TIMEOUT)?;
        let Outcome::PortCreated(Ok(handle)) = made else { return Err(PortError::System(format!("{made:?}"))) };
        let transfer = Transfer { handle, rights: Rights::SENDER, mode: TransferMode::Copy };
        let request = names::Request::BindPort { path, existing: names::Existing::Refuse };
        match agent.ask(&request, &[transfer], SYSTEM_TIMEOUT)?.0 {
            names::Answer::Done => Ok(PortReceiver { agent, handle }),
            names::Answer::Failed(failure) => Err(port_failure(port, failure)),
            other => Err(PortError::System(format!("{other:?}"))),
        }
    }

    /// Ports that are on other nodes, as far as this one has to do with them, and where.
    pub fn ports_elsewhere(&self) -> BTreeMap<PortId, NodeId> {
        let here = self.0.number;
        let port = |(home, _, object, lost): (NodeId, u64, ObjectId, bool)| match object {
            ObjectId::Port(port) if !lost && home != here => Some((port, home)),
            _ => None,
        };
        self.0.machine.inspect(|kernel| kernel.imports().filter_map(port).collect())
    }

    /// Looks a name up and binds the port that it finds, if it is that one and is here.
    pub fn bind_found(
        &self, path: &str, wanted: PortId, existing: names::Existing, timeout: Duration,
    ) -> Result<(), PortError> {
        let agent = self.agent()?;
        let lookup = names::Request::Lookup { path: path.into() };
        let handle = match agent.ask(&lookup, &[], timeout)? {
            (names::Answer::Port, handles) if handles.len() == 1 => handles[0],
            (names::Answer::Failed(failure), _) => return Err(port_failure(path, failure)),
            _ => return Err(PortError::NotAPort(path.into())),
        };
        let is_wanted = match agent.call(SystemCall::Describe { handle }, SYSTEM_TIMEOUT)? {
            Outcome::Described(Ok(described)) => described.object == ObjectId::Port(wanted),
            _ => false,
        };
        if !is_wanted || self.ports_elsewhere().contains_key(&wanted) {
            return Err(PortError::Unknown(path.into()));
        }
        // Directories are each node's own: the name may be in one that is only where it was bound.
        for (end, _) in path.match_indices('/').filter(|(end, _)| *end > 0) {
            agent.ask(&names::Request::MakeDirectory { path: path[..end].into() }, &[], timeout)?;
        }
        let transfer = Transfer { handle, rights: Rights::SENDER, mode: TransferMode::Move };
        let request = names::Request::BindPort { path: path.into(), existing };
        match agent.ask(&request, &[transfer], timeout)?.0 {
            names::Answer::Done => Ok(()),
            names::Answer::Failed(failure) => Err(port_failure(path, failure)),
            other => Err(PortError::System(format!("{other:?}"))),
        }
    }

    /// The names of all ports.
    fn port_names(&self) -> Result<Vec<String>, PortError> {
        let agent = self.agent()?;
        let (mut all, mut after) = (vec![], String::new());
        loop {
            let names_max = names::LIST_NAMES_MAX;
            let request = names::Request::List { path: PORTS.into(), after: after.clone(), names_max };
            match agent.ask(&request, &[], SYSTEM_TIMEOUT)?.0 {
                names::Answer::Names { names, more } => {
                    all.extend(names.into_iter().filter(|(_, form)| *form == names::Form::Port).map(|(name, _)| name));
                    match all.last().filter(|_| more) {
                        Some(last) => after = last.clone(),
                        None => return Ok(all),
                    }
                }
                other => return Err(PortError::System(format!("{other:?}"))),
            }
        }
    }

    /// A program that this node ran, by its hash in hexadecimal.
    pub(crate) fn known_program(&self, hash: &str) -> Option<engine::Program> {
        let programs = self.0.programs.lock().expect("no code panics while it holds this lock");
        programs.iter().find(|program| program.hash().to_hex().as_str() == hash).cloned()
    }

    /// A process that makes system calls which may take long, for one caller.
    fn agent(&self) -> Result<Agent, PortError> {
        let refused = |what: String| PortError::System(what);
        let (strings, arguments) = self.0.bodies.expect_puppet();
        let spawn = Spawn {
            program: bodies::PUPPET,
            arguments,
            handles: Box::new([grant_names()]),
            limits: Limits { children_max: 0, ports_max: 8, handles_max: 64, ..Limits::NORMAL },
            weight: WEIGHT_NORMAL,
            orphan: Orphan::Dies,
            supervisor: None,
            again: None,
        };
        match self.desk(SystemCall::Spawn(Box::new(spawn))) {
            Ok(Outcome::Spawned(Ok(spawned))) => Ok(Agent { node: self.clone(), strings, process: spawned.process }),
            Ok(other) => Err(refused(format!("{other:?}"))),
            Err(error) => Err(refused(format!("{error:?}"))),
        }
    }

    fn ask_names(
        &self, strings: &Strings, request: &names::Request, transfers: &[Transfer], timeout: Duration,
    ) -> Result<(names::Answer, Box<[HandleId]>), Refused> {
        let names_port = match std::ptr::eq(strings, &*self.0.desk) {
            true => bodies::DESK_NAMES,
            false => HandleId(1),
        };
        let deadline = Deadline::at(self.0.machine.now().after(timeout.as_nanos() as u64));
        let message = Message { bytes: request.encode(), handles: transfers.into() };
        let call = SystemCall::Call { port: names_port, message, deadline };
        match strings.call(call, |key| self.0.machine.stir(key), timeout + Duration::from_secs(1))? {
            Outcome::Called(Ok(answer)) => {
                let decoded = names::Answer::decode(&answer.bytes).map_err(|_| Refused::Gone)?;
                Ok((decoded, answer.handles))
            }
            Outcome::Called(Err(CallError::Expired(_))) => Err(Refused::Late),
            _ => Err(Refused::Gone),
        }
    }

    /// Ends all programs, then the node. What was acknowledged is on the disk; an error says that what was written and not synced is not.
    pub fn shutdown(&self) -> Result<(), abi::errno::Errno> {
        let live: Vec<Pid> = {
            let processes = self.0.bodies.processes();
            let programs = processes.live().filter(|info| info.kind == Kind::Program);
            programs.filter_map(|info| info.pid.get().copied()).collect()
        };
        for pid in &live {
            let _ = self.kill(*pid);
        }
        for pid in live {
            let _ = self.wait(pid, Duration::from_secs(2));
        }
        let flushed = self.0.tree.flush();
        self.0.machine.stop();
        flushed
    }

    /// Waits until the node stops by itself, which it does if one of its services is lost for good.
    pub fn wait_halted(&self, timeout: Duration) -> bool {
        self.0.machine.wait_halted(timeout).is_some()
    }
}

/// Why a process is not here.
fn absent(pid: Pid, processes: &process::Processes) -> ControlRefused {
    match processes.moved(pid) {
        Some(to) => ControlRefused::Moved { pid, to },
        None => ControlRefused::NoSuchProcess(pid),
    }
}

impl Inner {
    /// What a process gets of this machine. `console` is where it writes, a new one if it has none to share.
    fn world(
        self: &Arc<Inner>, program: &engine::Program, mounts: &[MountOrder], limits: &ProcessLimits, stdio: Stdio,
    ) -> Result<World, RunRefused> {
        let console = Console::new(stdio.input, stdio.lossless, limits.output_bytes.unwrap_or(u64::MAX));
        self.world_at(program, mounts, limits, stdio, (console.clone(), console), Life::default())
    }

    fn world_at(
        self: &Arc<Inner>, program: &engine::Program, mounts: &[MountOrder], limits: &ProcessLimits, stdio: Stdio,
        (input, output): (Console, Console), life: Life,
    ) -> Result<World, RunRefused> {
        if stdio.held {
            if program.uses_una() && self.registry.is_none() {
                return Err(RunRefused::NotDurable(
                    "it calls the import module `una`, and this node has no others that could go on with its ports"
                        .into(),
                ));
            }
            if program.uses_una() && (limits.handles.is_some() || limits.mailbox_bytes.is_some()) {
                return Err(RunRefused::NotDurable(
                    "its ports live beside the kernel, where --handles and --mailbox do not count".into(),
                ));
            }
            if let Some(mount) = mounts.iter().find(|mount| !mount.read_only) {
                return Err(RunRefused::NotDurable(format!(
                    "{} is mounted for writing: mount it as {}:ro",
                    mount.host.display(),
                    mount.guest
                )));
            }
        }
        let mut opened = vec![];
        for mount in mounts {
            let files = match mount.read_only {
                true => HostDirectory::open_read_only(&mount.host),
                false => HostDirectory::open(&mount.host),
            };
            let files = files.map_err(|error| RunRefused::Mount { mount: mount.clone(), error })?;
            opened.push(Mount {
                guest: mount.guest.clone(),
                host: mount.host.to_string_lossy().into_owned(),
                read_only: mount.read_only,
                files: Box::new(files),
            });
        }
        let key = Arc::new(OnceLock::new());
        let known = Arc::new(OnceLock::new());
        let (machine, roused): (_, Arc<OnceLock<Key<Process>>>) = (self.machine.clone(), key.clone());
        let rouse: Rouse = Arc::new(move || {
            // Before the process is in the kernel it does not sleep.
            if let Some(key) = roused.get() {
                machine.stir(*key);
            }
        });
        if mounts.iter().all(|mount| mount.guest != "/") {
            let Life { since, incarnation, .. } = life;
            let files = match stdio.held {
                true => self.tree.lasting_session(Lasting { name: stdio.session, since, incarnation }),
                false => self.tree.session(),
            };
            opened.push(Mount { guest: "/".into(), host: "una:/".into(), read_only: false, files });
        }
        let mut waiter = ConsoleWaiter::new(&input, &output, rouse.clone());
        let tape = stdio.held.then(|| {
            let Life { mark, told, .. } = life;
            let shows = output.clone();
            // What it does for the first time is shown when it is safe; what it does again was.
            let tape = Tape::new(mark, told, waiter.interrupted(), Box::new(move || shows.hold_back()));
            waiter.by_tape(&tape);
            let taped = |mount: Mount| Mount { files: Box::new(TapedFiles::new(&tape, mount.files)), ..mount };
            opened = opened.drain(..).map(taped).collect();
            tape
        });
        let harbour =
            tape.as_ref().filter(|_| program.uses_una()).zip(self.registry.clone()).map(|(tape, registry)| {
                let (node, rouse, process) = (self.this.clone(), rouse.clone(), known.clone());
                Harbour::new(Owner { node, registry, tape: tape.clone(), rouse, process })
            });
        // Reading and writing there has effects.
        for root in Root::ALL.into_iter().filter(|_| !stdio.held) {
            // What the user mounts there comes first.
            if mounts.iter().all(|mount| mount.guest != root.guest()) {
                let files = SystemFiles::new(root, Node(self.clone()), known.clone(), rouse.clone());
                let (guest, host) = (root.guest().to_string(), format!("una:{}", root.guest()));
                opened.push(Mount { guest, host, read_only: false, files: Box::new(files) });
            }
        }
        let kind = |terminal| if terminal { StreamKind::Terminal } else { StreamKind::Pipe };
        let usage = Usage::new(limits.memory_bytes.unwrap_or(u64::MAX));
        let max_ns = limits.cpu_total.map_or(0, |total| (total.as_nanos() as u64).max(1));
        let time = Arc::new(Used::new(max_ns, limits.cpu_weight.unwrap_or(WEIGHT_NORMAL)));
        let began = self.machine.began();
        let clock = || -> Box<dyn abi::file::Clock> { Box::new(ProcessClock { time: time.clone(), began }) };
        let entropy = || -> Box<dyn abi::file::Entropy> { Box::new(HostEntropy) };
        let children: std::sync::Weak<dyn Children> = Arc::<Inner>::downgrade(self);
        let registry = self.registry.clone();
        let calls =
            Calls { key: key.clone(), began, program: program.clone(), info: known.clone(), children, registry };
        Ok(World {
            mounts: opened,
            stdin: Box::new(input.stream(Side::In, kind(stdio.input_is_terminal), tape.as_ref())),
            stdout: Box::new(output.stream(Side::Out(Output::Out), kind(stdio.output_is_terminal), tape.as_ref())),
            stderr: Box::new(output.stream(Side::Out(Output::Err), kind(stdio.output_is_terminal), tape.as_ref())),
            clock: tape.as_ref().map_or_else(|| clock(), |tape| tape.clock(clock())),
            entropy: tape.as_ref().map_or_else(|| entropy(), |tape| tape.entropy(entropy())),
            waiter: Box::new(waiter),
            fiber: Fiber {
                calls: Box::new(calls),
                usage: usage.clone(),
                descriptors_max: limits.handles.map_or(usize::MAX, |handles| handles as usize),
                ports: tape.as_ref().zip(harbour.clone()).map(|(tape, harbour)| Ports::new(tape, Arc::new(harbour))),
            },
            rest: Rest {
                output,
                shares: None,
                stays_child: false,
                usage,
                time,
                tape,
                harbour,
                key,
                known,
                lineage: Lineage::default(),
                guest: Arc::default(),
            },
        })
    }

    fn info(&self, program: &engine::Program, process: &mut engine::Process, common: Common, rest: Rest) -> Arc<Info> {
        self.remember(program);
        let Common { name, args, mounts, limits, stdio, started_ms, moves, again } = common;
        let Rest { output, shares, stays_child, usage, time, tape, harbour, key, known, lineage, guest } = rest;
        let info = Info::new(Facts {
            name,
            args,
            program: program.hash().to_hex().to_string(),
            kind: Kind::Program,
            console: Some(output),
            shares,
            stays_child,
            usage: Some(usage),
            time,
            mounts,
            limits,
            stdio,
            started_ms,
            moves,
            incarnation: again.map_or(0, |again| again.incarnation),
            memories: Some(process.memories()),
            key,
            stopper: Some(process.stopper()),
            tape,
            harbour,
            guest,
            began: self.machine.began(),
        });
        *info.lineage() = lineage;
        let set = known.set(Arc::downgrade(&info));
        assert!(set.is_ok(), "a process is one process");
        info
    }
}

impl Inner {
    fn remember(&self, program: &engine::Program) {
        let mut programs = self.programs.lock().expect("no code panics while it holds this lock");
        if programs.back().is_some_and(|last| last.hash() == program.hash()) {
            return;
        }
        programs.retain(|known| known.hash() != program.hash());
        if programs.len() == PROGRAMS_MAX {
            programs.pop_front();
        }
        programs.push_back(program.clone());
    }
}

impl Children for Inner {
    /// It sees the same directories as its parent, may use as much, writes where its parent writes, and has nothing to read.
    fn child(&self, parent: &Info, program: &engine::Program, child: Child) -> Result<Bytes, String> {
        let this = self.this.upgrade().ok_or("the node is stopping")?;
        let Child { args, env, has_own_log, .. } = child;
        let limits = parent.limits.clone();
        let output = match has_own_log {
            true => Console::new(false, false, limits.output_bytes.unwrap_or(u64::MAX)),
            false => parent.console.clone().ok_or("its parent has no streams")?,
        };
        let input = Console::new(false, false, 0);
        let mut world = this
            .world_at(program, &parent.mounts, &limits, Stdio::default(), (input, output), Life::default())
            .map_err(|refused| refused.to_string())?;
        // Whoever has a log of its own can be elsewhere than its parent, and stays its child.
        world.rest.shares = (!has_own_log).then(|| parent.shares.or_else(|| parent.pid.get().copied())).flatten();
        world.rest.stays_child = has_own_log;
        world.rest.guest = parent.guest.clone();
        let name =
            args.first().map_or_else(|| parent.name.clone(), |name| name.rsplit('/').next().unwrap_or(name).into());
        let (setup, fiber, rest) = world.for_new(args.clone(), env);
        let process = at_once(self.engine.start_on_fiber(program, &name, setup, fiber));
        let mut process = process.map_err(|error| error.to_string())?;
        let (mounts, stdio) = (parent.mounts.clone(), Stdio::default());
        let common = Common { name, args, mounts, limits, stdio, started_ms: now_ms(), moves: 0, again: None };
        let info = self.info(program, &mut process, common, rest);
        Ok(self.bodies.expect(guest::Program::new(process, info.clone()), info))
    }

    fn load(&self, wasm: Vec<u8>) -> Result<engine::Program, String> {
        self.engine.load(wasm, &mut |_| {}).map_err(|error| error.to_string())
    }

    fn others(&self) -> Option<Arc<dyn Others>> {
        self.others.clone()
    }
}

/// Which life of a process it is, and what it was told in earlier ones.
#[derive(Default)]
pub struct Life {
    /// The incarnation that began from the beginning.
    pub since: u32,
    pub incarnation: u32,
    /// Where the state stands from which it goes on, and what it was told since then.
    pub mark: Mark,
    pub told: Told,
}

struct World {
    mounts: Vec<Mount>,
    stdin: Box<dyn abi::file::Stream>,
    stdout: Box<dyn abi::file::Stream>,
    stderr: Box<dyn abi::file::Stream>,
    clock: Box<dyn abi::file::Clock>,
    entropy: Box<dyn abi::file::Entropy>,
    waiter: Box<dyn abi::file::Waiter>,
    fiber: Fiber,
    rest: Rest,
}

impl World {
    /// For a program that begins.
    fn for_new(self, args: Vec<String>, env: Vec<(String, String)>) -> (wasi::Setup, Fiber, Rest) {
        let World { mounts, stdin, stdout, stderr, clock, entropy, waiter, fiber, rest } = self;
        (wasi::Setup { args, env, mounts, stdin, stdout, stderr, clock, entropy, waiter }, fiber, rest)
    }
}

struct Rest {
    output: Console,
    /// It is that one's.
    shares: Option<Pid>,
    stays_child: bool,
    /// Told when the process is known.
    known: Arc<OnceLock<std::sync::Weak<Info>>>,
    usage: Arc<Usage>,
    time: Arc<Used>,
    tape: Option<Tape>,
    harbour: Option<Harbour>,
    key: Arc<OnceLock<Key<Process>>>,
    lineage: Lineage,
    /// Shared with those who can only be where it is.
    guest: Arc<AtomicBool>,
}

struct Common {
    name: String,
    args: Vec<String>,
    mounts: Vec<MountOrder>,
    limits: ProcessLimits,
    stdio: Stdio,
    started_ms: u64,
    moves: u32,
    /// It goes on under the number that it had.
    again: Option<Again>,
}

/// The receiving end of a port with a name, which is free again when this is dropped.
pub struct PortReceiver {
    agent: Agent,
    handle: HandleId,
}

impl PortReceiver {
    /// Waits for one message.
    pub fn receive(&self, timeout: Duration) -> Result<Vec<u8>, PortError> {
        let wait = Wait::Until(self.agent.at(timeout));
        match self.agent.call(SystemCall::Receive { port: self.handle, wait }, timeout)? {
            Outcome::Received(Ok(Received::Message(delivery))) => Ok(delivery.bytes.to_vec()),
            // It is bound, so somebody may come.
            Outcome::Received(Err(ReceiveError::Expired | ReceiveError::Empty)) => Err(PortError::Expired),
            other => Err(PortError::System(format!("{other:?}"))),
        }
    }
}

/// A puppet of one caller; it ends with this.
struct Agent {
    node: Node,
    strings: Arc<Strings>,
    /// By which the desk holds it.
    process: HandleId,
}

impl Agent {
    /// Has a call made without waiting for it; false if it will not be made.
    fn post(&self, call: SystemCall, then: impl FnOnce(Outcome) + Send + 'static) -> bool {
        self.strings.post(call, |key| self.node.0.machine.stir(key), then)
    }

    fn at(&self, left: Duration) -> Time {
        self.node.0.machine.now().after(left.as_nanos() as u64)
    }

    fn call(&self, call: SystemCall, timeout: Duration) -> Result<Outcome, PortError> {
        let stir = |key| self.node.0.machine.stir(key);
        // The kernel's own deadline comes first, and says more.
        let outcome = self.strings.call(call, stir, timeout + Duration::from_secs(1));
        outcome.map_err(|refused| match refused {
            Refused::Late => PortError::Expired,
            other => PortError::System(format!("{other:?}")),
        })
    }

    fn ask(
        &self, request: &names::Request, transfers: &[Transfer], timeout: Duration,
    ) -> Result<(names::Answer, Box<[HandleId]>), PortError> {
        self.node.ask_names(&self.strings, request, transfers, timeout).map_err(|refused| match refused {
            Refused::Late => PortError::Expired,
            other => PortError::System(format!("{other:?}")),
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may wait for something that will not come, so it is not asked to end.
        let Inner { desk, machine, .. } = &*self.node.0;
        for call in [SystemCall::Kill { process: self.process }, SystemCall::Close { handle: self.process }] {
            desk.post(call, |key| machine.stir(key), |_| {});
        }
    }
}

/// Of a process that goes on under its number: more than whatever it moved before.
fn moves(again: Option<Again>) -> u32 {
    again.map_or(0, |again| again.moves())
}

/// Every process is born with a way to the names.
fn grant_names() -> Transfer {
    Transfer { handle: bodies::DESK_NAMES, rights: Rights::SENDER, mode: TransferMode::Copy }
}

fn port_failure(port: &str, failure: names::Failure) -> PortError {
    match failure {
        names::Failure::NotFound | names::Failure::NotADirectory => PortError::Unknown(port.into()),
        names::Failure::Exists => PortError::Taken(port.into()),
        names::Failure::Undecided => PortError::Undecided(port.into()),
        names::Failure::Unreachable => PortError::Unreachable(port.into()),
        other => PortError::System(format!("{other:?}")),
    }
}

fn port_path(name: &str) -> Result<String, PortError> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > names::PART_BYTES_MAX || !name.chars().all(ok) || name.starts_with('.') {
        return Err(PortError::Name(name.into()));
    }
    Ok(format!("{PORTS}/{name}"))
}

/// What a future gives that has nothing to wait for.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("an instance is made without running the program"),
    }
}
