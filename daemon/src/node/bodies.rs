//! Makes the bodies of processes: the system's own parts by the manifest, puppets, and programs that somebody has made ready. Keeps the
//! list of processes. Knows the services by name and number, and nobody else does.

use super::guest;
use super::machine::{self, Body, Machine, Made, Native, Settle, Start, Used};
use super::process::{Facts, Info, Processes};
use super::puppet::{Puppet, Strings};
use super::seekers::{Pile, SEEKERS};
use super::view::{HANDLES_MAX, Kind, MAILBOX_BYTES_MAX, Pid, ProcessLimits, Stdio};
use super::{Fate, Watcher};
use crate::steps::Step;
use abi::call::{Outcome, PortOptions, SystemCall};
use abi::ids::{DeviceId, HandleId, NodeId, ProcessId, ProgramId, Time};
use abi::limits::{Limits, WEIGHT_NORMAL};
use abi::message::Bytes;
use abi::process::{Exit, Program, StartFailure};
use drivers::clock::now_ms;
use kernel::{Key, Process};
use services::boot::{Boot, Manifest, Part, Plan, Restart};
use services::host::Host;
use services::names::Names;
use services::registrar::Registrar;
use services::{FIRST_GRANT, Service};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

pub(crate) const BOOT: Program = Program::Service(0);
const NAMES: Program = Program::Service(1);
pub(crate) const PUPPET: Program = Program::Service(2);
const REGISTRAR: Program = Program::Service(3);

/// By which a program sends to the service `names` of the node that it is on.
pub(crate) const NAMES_HANDLE: HandleId = HandleId(1);

/// By which the node's own process, the desk, sends to the service `names`.
pub(crate) const DESK_NAMES: HandleId = FIRST_GRANT;

/// Which puppet the desk is, and which are the seekers: those that follow.
const DESK: u64 = 0;
const SEEKERS_END: u64 = DESK + 1 + SEEKERS as u64;

/// The names' journal.
const DEVICES: u16 = 1;

/// What all processes of the node may use.
pub(crate) fn limits() -> Limits {
    // What any process may be allowed, so that it can be spawned.
    let (handles_max, buffer_bytes_max) = (HANDLES_MAX, MAILBOX_BYTES_MAX);
    Limits { handles_max, children_max: 60_000, ports_max: 4096, buffer_bytes_max, ..Limits::NORMAL }
}

/// Only with other nodes there is a registrar, and seekers for it.
fn manifest(has_others: bool) -> Plan {
    let part = |name: &str, program, devices: &[u16], sends_to: &[&str], arguments: u64| Part {
        name: name.into(),
        program,
        arguments: Bytes::new(&arguments.to_le_bytes()),
        port: PortOptions::buffered(1024),
        devices: devices.iter().copied().map(DeviceId).collect(),
        sends_to: sends_to.iter().map(|name| name.to_string()).collect(),
        limits: limits(),
        weight: WEIGHT_NORMAL,
        restart: Restart::Always,
    };
    let desk = Part { restart: Restart::Never, ..part("desk", PUPPET, &[], &["names"], DESK) };
    let network = DeviceId::NETWORK.0;
    let mut parts = vec![];
    if has_others {
        parts.push(part("registrar", REGISTRAR, &[network], &[], 0));
        let seeker = |number: u64| {
            let name = format!("seeker-{number}");
            Part { restart: Restart::Never, ..part(&name, PUPPET, &[network], &["registrar"], number) }
        };
        parts.extend((DESK + 1..SEEKERS_END).map(seeker));
    }
    let names_send_to: &[&str] = if has_others { &["registrar"] } else { &[] };
    parts.extend([part("names", NAMES, &[0], names_send_to, 0), desk]);
    Manifest { parts }.check().expect("the node's own manifest is sound")
}

pub(crate) struct Bodies {
    machine: Arc<Machine>,
    desk: Arc<Strings>,
    seekers: Vec<Arc<Strings>>,
    /// Where the registrar leaves work; none on a node that has no others.
    pile: Option<Pile>,
    /// What processes that are about to start will be.
    expected: Mutex<BTreeMap<u64, Expected>>,
    next_expected: AtomicU64,
    /// Processes on their way here, by their tickets.
    arriving: Mutex<BTreeMap<(NodeId, u64), Arriving>>,
    /// One of them is here, or does not come.
    arrived: Condvar,
    processes: Mutex<Processes>,
    ended_cpu_ns: AtomicU64,
    watcher: OnceLock<Watcher>,
}

/// A process that is expected from another node: all but its place in the kernel.
struct Arriving {
    pid: Pid,
    program: guest::Program,
    info: Arc<Info>,
    settled: SyncSender<Pid>,
}

enum Expected {
    Program(guest::Program, Arc<Info>),
    Puppet(Arc<Strings>),
    Native { name: &'static str, native: Box<dyn Native>, key: Arc<OnceLock<Key<Process>>> },
}

impl Bodies {
    /// From now on this one is told of each program's start and end.
    pub fn watch(&self, watcher: Watcher) {
        let set = self.watcher.set(watcher);
        assert!(set.is_ok(), "a node is watched by one");
    }

    fn tell(&self, id: ProcessId, fate: impl FnOnce() -> Option<Fate>) {
        if let Some(watcher) = self.watcher.get()
            && let Some(fate) = fate()
        {
            watcher(id, fate);
        }
    }

    pub fn new(machine: Arc<Machine>, pile: Option<Pile>) -> Bodies {
        Bodies {
            machine,
            desk: Strings::new(),
            seekers: (0..SEEKERS).map(|_| Strings::new()).collect(),
            pile,
            expected: Mutex::default(),
            next_expected: AtomicU64::new(SEEKERS_END),
            arriving: Mutex::default(),
            arrived: Condvar::new(),
            processes: Mutex::default(),
            ended_cpu_ns: AtomicU64::new(0),
            watcher: OnceLock::new(),
        }
    }

    pub fn desk(&self) -> Arc<Strings> {
        self.desk.clone()
    }

    pub fn seekers(&self) -> &[Arc<Strings>] {
        &self.seekers
    }

    pub fn processes(&self) -> MutexGuard<'_, Processes> {
        self.processes.lock().expect("no code panics while it holds this lock")
    }

    pub fn ended_cpu_ns(&self) -> u64 {
        self.ended_cpu_ns.load(Ordering::Relaxed)
    }

    /// The arguments by which a process is spawned that will be this.
    pub fn expect(&self, program: guest::Program, info: Arc<Info>) -> Bytes {
        self.expect_one(Expected::Program(program, info))
    }

    pub fn expect_puppet(&self) -> (Arc<Strings>, Bytes) {
        let strings = Strings::new();
        (strings.clone(), self.expect_one(Expected::Puppet(strings)))
    }

    /// A process of this kind, whose key is told when it begins.
    pub fn expect_native(
        &self, name: &'static str, native: Box<dyn Native>, key: Arc<OnceLock<Key<Process>>>,
    ) -> Bytes {
        self.expect_one(Expected::Native { name, native, key })
    }

    fn expect_one(&self, expected: Expected) -> Bytes {
        let number = self.next_expected.fetch_add(1, Ordering::Relaxed);
        self.expected().insert(number, expected);
        Bytes::new(&number.to_le_bytes())
    }

    /// It is not going to start.
    pub fn unexpect(&self, arguments: &Bytes) {
        if let Some(number) = number(arguments) {
            self.expected().remove(&number);
        }
    }

    /// A process will come under this ticket; then its pid is given. If it does not come, the other end is dropped.
    pub fn await_arrival(
        &self, pid: Pid, (from, ticket): (NodeId, u64), program: guest::Program, info: Arc<Info>,
    ) -> Receiver<Pid> {
        let (settled, get) = sync_channel(1);
        self.arriving().insert((from, ticket), Arriving { pid, program, info, settled });
        get
    }

    /// If this process is on its way here: waits until it is here, or does not come, or so long.
    pub fn wait_arriving(&self, pid: Pid, timeout: Duration) {
        let is_coming = |all: &mut BTreeMap<(NodeId, u64), Arriving>| all.values().any(|one| one.pid == pid);
        let waited = self.arrived.wait_timeout_while(self.arriving(), timeout, is_coming);
        drop(waited.expect("no code panics while it holds this lock"));
    }

    fn arriving(&self) -> MutexGuard<'_, BTreeMap<(NodeId, u64), Arriving>> {
        self.arriving.lock().expect("no code panics while it holds this lock")
    }

    fn expected(&self) -> MutexGuard<'_, BTreeMap<u64, Expected>> {
        self.expected.lock().expect("no code panics while it holds this lock")
    }

    /// The node's handle to a process that has ended is closed.
    pub fn forget(&self, info: &Info) {
        if let Some(handle) = info.handle.get() {
            self.desk.post(SystemCall::Close { handle: *handle }, |key| self.machine.stir(key), |_| {});
        }
    }

    fn service(&self, name: &str, native: Box<dyn Native>, start: &Start) -> Made {
        let time = Arc::new(Used::new(0, WEIGHT_NORMAL));
        let key = Arc::new(OnceLock::new());
        let info = Info::new(Facts {
            name: name.into(),
            args: vec![],
            program: name.into(),
            kind: Kind::Service,
            console: None,
            shares: None,
            stays_child: false,
            usage: None,
            time: time.clone(),
            mounts: vec![],
            limits: ProcessLimits::default(),
            stdio: Stdio::default(),
            started_ms: now_ms(),
            moves: 0,
            incarnation: 0,
            memories: None,
            key,
            stopper: None,
            tape: None,
            harbour: None,
            guest: Arc::default(),
            began: self.machine.began(),
        });
        self.processes().add(Pid::from(start.id), info);
        Made { body: Body::Native(native), time }
    }
}

fn number(arguments: &Bytes) -> Option<u64> {
    Some(u64::from_le_bytes((**arguments).try_into().ok()?))
}

struct Hosted<S>(Host<S>);

impl<S: Service + Send> Native for Hosted<S> {
    fn resume(&mut self, now: Time, outcome: Outcome) -> SystemCall {
        self.0.resume(now, outcome)
    }
}

impl machine::Bodies for Bodies {
    fn start(&self, start: Start) -> Result<Made, StartFailure> {
        match start.program {
            BOOT => {
                let boot = match &self.pile {
                    Some(_) => Boot::with_network(manifest(true), DEVICES),
                    None => Boot::new(manifest(false)),
                };
                Ok(self.service("boot", Box::new(Hosted(Host::new(boot))), &start))
            }
            NAMES => {
                let names = if self.pile.is_some() { Names::of_many() } else { Names::new() };
                Ok(self.service("names", Box::new(Hosted(Host::new(names))), &start))
            }
            REGISTRAR => match self.pile.clone() {
                Some(pile) => Ok(self.service("registrar", Box::new(Hosted(Host::new(Registrar::new(pile)))), &start)),
                None => Err(StartFailure::UnknownProgram),
            },
            PUPPET => {
                let number = number(&start.arguments).ok_or(StartFailure::UnknownProgram)?;
                let (name, strings) = match number {
                    DESK => ("desk", self.desk.clone()),
                    seeker if seeker < SEEKERS_END => ("seeker", self.seekers[(seeker - DESK - 1) as usize].clone()),
                    _ => match self.expected().remove(&number) {
                        Some(Expected::Puppet(strings)) => ("agent", strings),
                        Some(Expected::Native { name, native, key }) => {
                            // Nobody else has it.
                            let _ = key.set(start.process);
                            return Ok(self.service(name, native, &start));
                        }
                        _ => return Err(StartFailure::UnknownProgram),
                    },
                };
                strings.attach(start.process);
                Ok(self.service(name, Box::new(Puppet::new(strings)), &start))
            }
            Program::Service(_) => Err(StartFailure::UnknownProgram),
            Program::Module(_) => {
                let expected = number(&start.arguments).and_then(|number| self.expected().remove(&number));
                let Some(Expected::Program(program, info)) = expected else {
                    return Err(StartFailure::UnknownProgram);
                };
                let set = info.key.set(start.process);
                assert!(set.is_ok(), "a process is started once");
                let time = info.time.clone();
                self.tell(start.id, || {
                    let hash = blake3::Hash::from_hex(&info.program).ok()?;
                    Some(Fate::Started(ProgramId(*hash.as_bytes())))
                });
                self.processes().add(Pid::from(start.id), info);
                Ok(Made { body: Body::Guest(Box::new(program)), time })
            }
        }
    }

    fn ended(&self, id: ProcessId, exit: Exit) {
        let pid = Pid::from(id);
        let retired = {
            let mut processes = self.processes();
            match processes.find_live(pid).map(|info| info.kind) {
                Some(Kind::Service) => processes.remove(pid).map(|info| (info, None)),
                Some(Kind::Program) => processes.retire(pid),
                None => None,
            }
        };
        let Some((info, forgotten)) = retired else { return };
        self.ended_cpu_ns.fetch_add(info.time.total_ns(self.machine.now()), Ordering::Relaxed);
        self.machine.look_no_more(&info.time);
        if info.kind == Kind::Program {
            self.tell(id, || Some(Fate::Ended(exit)));
        }
        if let Some(forgotten) = forgotten {
            self.tell(forgotten.id(), || Some(Fate::Forgotten));
        }
        info.end(exit);
        self.forget(&info);
    }

    fn settle(&self, settle: Settle) -> Result<Made, StartFailure> {
        let Settle { from, ticket, process, id, handle } = settle;
        Step::ArrivingSettled.reached();
        // Held until it is listed, so that who waits for it does not look between the two.
        let mut all = self.arriving();
        let arriving = all.remove(&(from, ticket));
        let Some(Arriving { program, info, settled, .. }) = arriving else { return Err(StartFailure::UnknownProgram) };
        let set = info.key.set(process).is_ok() && info.handle.set(handle).is_ok();
        assert!(set, "a process arrives once");
        let time = info.time.clone();
        self.processes().add(Pid::from(id), info);
        drop(all);
        self.arrived.notify_all();
        // Who waits for it may have gone.
        let _ = settled.send(Pid::from(id));
        Ok(Made { body: Body::Guest(Box::new(program)), time })
    }

    fn missed(&self, from: NodeId, ticket: u64) {
        // Its streams are dropped when the lock is free again.
        let missed = self.arriving().remove(&(from, ticket));
        self.arrived.notify_all();
        drop(missed);
    }

    fn departed(&self, id: ProcessId, to: NodeId) {
        let pid = Pid::from(id);
        let info = {
            let mut processes = self.processes();
            // Whoever does not find it any more sees where it went.
            processes.add_moved(pid, to);
            processes.remove(pid)
        };
        let Some(info) = info else { return };
        self.ended_cpu_ns.fetch_add(info.time.total_ns(self.machine.now()), Ordering::Relaxed);
        self.machine.look_no_more(&info.time);
        self.forget(&info);
    }

    fn interrupt(&self, id: ProcessId) {
        let info = self.processes().find_live(Pid::from(id)).cloned();
        if let Some(info) = info {
            info.stop_soon();
        }
    }
}
