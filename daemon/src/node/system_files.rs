//! The system as files, for programs that have no binding for it: `/proc`, `/port` and `/node` in each program's tree. Knows what a node
//! can be asked; everything here is one of its calls.
//!
//! ```text
//!   /proc/self                    the directory of the process that looks
//!   /proc/PID/status              name, state and use, one `key: value` a line
//!   /proc/PID/args                arguments, a NUL after each
//!   /proc/PID/log                 what it wrote, as far as it is kept
//!   /proc/PID/ctl                 write `kill`, `stop`, `cont`, `move NODE` or `fork`, see [`ForkOrder`]
//!   /proc/PID/fork                who it is since the last fork that it was part of: a clone, from 1 on, or the one that was forked, 0
//!   /proc/PID/clones              the pids of the clones that came of it when it was forked last, one a line
//!   /proc/new                     write a program (`self`, or the hash of one that this node ran) and arguments, one a line; read its pid
//!                                 from the beginning. Before them, a line `--on NODE`, `--near PID` or `--spread` says where it is to be,
//!                                 see [`PlaceHint`]
//!   /port/NAME                    read: receive a message; write: send one. Each read and write is one message
//!   /node/status                  processors, processes, memory of this node
//!   /node/NAME/status             of any node of the system: state, life, addresses
//!   /node/NAME/load               what it says of itself: processors that are busy, memory that is free
//!   /node/NAME/ctl                write `drain` or `undrain`
//! ```
//! It does not matter which node a process is on. What is on another is asked of that one when a file is opened.
//!
//! The one idea: a file that tells something is written down when it is opened, and reads as it was then. Messages that do not fit into
//! one read are not lost: the next read gets the rest.

use super::console::Rouse;
use super::process::Info;
use super::view::{Pid, PortError, ProcessView, State, Stdio};
use super::{Agent, Asker, Node, Order, PORTS};
use abi::call::{Outcome, PortOptions, ReceiveError, SendError, SendMode, SystemCall, Wait};
use abi::errno::Errno;
use abi::file::{
    Access, Direction, Durable, Entry, Existence, FileSystem, Kind, LastLink, Open, OpenId, Opened, Place, Readiness,
    SetTimes, Source, Stat,
};
use abi::ids::{HandleId, NodeId};
use abi::interface::names;
use abi::message::{MESSAGE_BYTES_MAX, Message, Received, Transfer, TransferMode};
use abi::rights::Rights;
use abi::wasi::{Advice, Filetype};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

/// How long the system may take for what it does at once.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a durable process may take to receive what is written to it.
const LASTING_TIMEOUT: Duration = Duration::from_secs(600);

/// So much of a log is read at once, from whichever node.
const LOG_READ_MAX: usize = 64 << 10;

/// Sources below this are the process's streams.
const FIRST_SOURCE: u64 = 1 << 32;

/// Which of the trees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Root {
    Processes,
    Ports,
    Node,
}

impl Root {
    pub const ALL: [Root; 3] = [Root::Processes, Root::Ports, Root::Node];

    pub fn guest(self) -> &'static str {
        match self {
            Root::Processes => "/proc",
            Root::Ports => PORTS,
            Root::Node => "/node",
        }
    }
}

/// A node of the system, this one or another.
#[derive(Clone, PartialEq, Debug)]
pub struct OtherNode {
    pub node: NodeId,
    pub name: String,
    /// In the form of the file `status`.
    pub status: String,
    /// In the form of the file `load`; nothing of one that is not heard.
    pub load: Option<String>,
}

/// What is written into a `ctl` to have clones: `fork`, `fork N`, `fork on NODE` or `fork N on NODE`. Who writes it into its own is
/// answered when the clones are there, and reads their pids from the file's beginning; each of the clones begins in that same call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForkOrder {
    pub count: u32,
    pub on: Option<String>,
}

impl ForkOrder {
    pub fn read(word: &[u8]) -> Option<ForkOrder> {
        let mut words = std::str::from_utf8(word).ok()?.split_ascii_whitespace().peekable();
        if words.next() != Some("fork") {
            return None;
        }
        let count = match words.next_if(|word| *word != "on") {
            Some(number) => number.parse().ok().filter(|count| *count > 0)?,
            None => 1,
        };
        let on = match words.next() {
            Some(_) => Some(words.next()?.to_string()),
            None => None,
        };
        words.next().is_none().then_some(ForkOrder { count, on })
    }
}

/// Where a process that begins is to be: `on NODE`, `near PID` or `spread`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PlaceHint {
    On(String),
    Near(Pid),
    /// Where fewest of the same name are.
    Spread,
}

impl PlaceHint {
    pub fn read(text: &str) -> Option<PlaceHint> {
        let mut words = text.split_ascii_whitespace();
        let hint = match words.next()? {
            "on" => PlaceHint::On(words.next()?.into()),
            "near" => PlaceHint::Near(words.next()?.parse().ok()?),
            "spread" => PlaceHint::Spread,
            _ => return None,
        };
        words.next().is_none().then_some(hint)
    }

    /// Whether there is such a place. Where there are no other nodes, all but a node by its name is here.
    pub fn is_possible(&self, others: Option<&dyn Others>) -> Result<(), Errno> {
        match (others, self) {
            (Some(others), hint) => others.can_be(hint),
            (None, PlaceHint::On(_)) => Err(Errno::NoEnt),
            (None, _) => Ok(()),
        }
    }
}

/// Called with the pids of the clones, or with why there are none.
pub type Forked = Box<dyn FnOnce(Result<Vec<Pid>, Errno>) + Send>;

/// What can be asked of other nodes. All may wait for them, for some seconds at most.
pub trait Others: Send + Sync {
    /// The other node that a process is on, if it is on one.
    fn locate(&self, pid: Pid) -> Option<NodeId>;

    fn process(&self, node: NodeId, pid: Pid) -> Result<ProcessView, Errno>;

    /// Of all other nodes that answer.
    fn processes(&self) -> Vec<ProcessView>;

    fn command(&self, node: NodeId, pid: Pid, bytes: &[u8]) -> Result<(), Errno>;

    /// Has a process that this node looks after end, and not begun again. False: it looks after no such process. One that is on its way to
    /// another node is [`Errno::Busy`], for a moment.
    fn kill_for_good(&self, pid: Pid) -> Result<bool, Errno>;

    /// A process of this node begins to move to the node of this name, and is told in its log if it cannot. Returns at once: it may be the
    /// one that asks.
    fn send_away(&self, pid: Pid, to: &str) -> Result<(), Errno>;

    /// A process of this node is forked; it is told in its log if it cannot be. Returns at once.
    fn fork(&self, pid: Pid, order: ForkOrder, asker: Asker, forked: Forked) -> Result<(), Errno>;

    /// Whether a process could be told to be there.
    fn can_be(&self, hint: &PlaceHint) -> Result<(), Errno>;

    /// A process that just began here goes to where it is to be, if that is elsewhere, and is told in its log if it cannot. Returns at
    /// once.
    fn place(&self, pid: Pid, hint: PlaceHint);

    fn log(&self, node: NodeId, pid: Pid, offset: u64, bytes_max: usize) -> Result<Vec<u8>, Errno>;

    /// All nodes, this one among them.
    fn nodes(&self) -> Vec<OtherNode>;

    fn drain(&self, node: NodeId, drain: bool) -> Result<(), Errno>;
}

pub(crate) struct SystemFiles {
    root: Root,
    node: Node,
    /// The process that looks.
    process: Arc<OnceLock<Weak<Info>>>,
    rouse: Rouse,
    open: BTreeMap<u64, OpenFile>,
    next: u64,
    forking: Arc<Mutex<Forking>>,
}

/// What became of the process's own wish to be forked.
#[derive(Default)]
enum Forking {
    #[default]
    Nothing,
    Busy,
    Over(Result<Vec<Pid>, Errno>),
}

/// What a path names.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Item {
    Root,
    /// `self`, whoever that is.
    Own,
    OwnControl,
    Process(Pid),
    Fork(Pid),
    Clones(Pid),
    Status(Pid),
    Args(Pid),
    Log(Pid),
    Control(Pid),
    New,
    /// Of this node.
    OwnStatus,
    Node(NodeId, String),
    NodeStatus(NodeId, String),
    NodeLoad(NodeId, String),
    NodeControl(NodeId, String),
    Port(String),
}

struct OpenFile {
    item: Item,
    content: Content,
}

enum Content {
    Directory,
    /// As it was when it was opened; for `new`, the answer.
    Text(Vec<u8>),
    Log,
    Receiver(Port),
    Sender(Port),
}

/// One end of a port, in the hands of a process of the kernel that waits for it.
struct Port {
    agent: Agent,
    handle: HandleId,
    state: Arc<Mutex<Transit>>,
}

/// What goes on at that end.
enum Transit {
    Idle,
    /// A message is waited for, or sent.
    Busy,
    Received {
        bytes: Vec<u8>,
        read: usize,
    },
    Sent,
    Failed(Errno),
}

impl SystemFiles {
    pub fn new(root: Root, node: Node, process: Arc<OnceLock<Weak<Info>>>, rouse: Rouse) -> SystemFiles {
        SystemFiles { root, node, process, rouse, open: BTreeMap::new(), next: 1, forking: Arc::default() }
    }

    fn own_pid(&self) -> Result<Pid, Errno> {
        let info = self.process.get().and_then(Weak::upgrade).ok_or(Errno::NoEnt)?;
        info.pid.get().copied().ok_or(Errno::NoEnt)
    }

    fn item(&self, id: OpenId) -> Result<Item, Errno> {
        match id.0 {
            0 => Ok(Item::Root),
            id => self.open.get(&id).map(|file| file.item.clone()).ok_or(Errno::BadF),
        }
    }

    /// What a path means from a directory. There are no links but `self`, which stands for what it points to.
    fn find(&self, directory: OpenId, path: &str) -> Result<Item, Errno> {
        let mut item = self.item(directory)?;
        for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
            let item_now = match (part, item) {
                // It has no number yet where it is opened again, and gets another one with each clone.
                ("ctl", Item::Own) => {
                    item = Item::OwnControl;
                    continue;
                }
                (_, Item::Own) => Item::Process(self.own_pid()?),
                (_, item) => item,
            };
            item = match (part, item_now) {
                ("..", Item::Root) => return Err(Errno::NotCapable),
                ("..", Item::Process(_)) => Item::Root,
                (part, Item::Root) => self.below_root(part)?,
                ("status", Item::Process(pid)) => Item::Status(pid),
                ("args", Item::Process(pid)) => Item::Args(pid),
                ("log", Item::Process(pid)) => Item::Log(pid),
                ("ctl", Item::Process(pid)) => Item::Control(pid),
                ("fork", Item::Process(pid)) => Item::Fork(pid),
                ("clones", Item::Process(pid)) => Item::Clones(pid),
                (_, Item::Process(_)) => return Err(Errno::NoEnt),
                ("..", Item::Node(..)) => Item::Root,
                ("status", Item::Node(node, name)) => Item::NodeStatus(node, name),
                ("load", Item::Node(node, name)) => Item::NodeLoad(node, name),
                ("ctl", Item::Node(node, name)) => Item::NodeControl(node, name),
                (_, Item::Node(..)) => return Err(Errno::NoEnt),
                _ => return Err(Errno::NotDir),
            };
        }
        if item == Item::Own {
            item = Item::Process(self.own_pid()?);
        }
        let ends_as_directory = path.ends_with('/');
        match item.kind() {
            Filetype::Directory => Ok(item),
            _ if ends_as_directory => Err(Errno::NotDir),
            _ => Ok(item),
        }
    }

    fn below_root(&self, part: &str) -> Result<Item, Errno> {
        match (self.root, part) {
            (Root::Processes, "self") => Ok(Item::Own),
            (Root::Processes, "new") => Ok(Item::New),
            (Root::Processes, number) => {
                let pid: Pid = number.parse().map_err(|_| Errno::NoEnt)?;
                match self.view(pid) {
                    Err(Errno::Srch) => Err(Errno::NoEnt),
                    view => view.map(|_| Item::Process(pid)),
                }
            }
            (Root::Ports, name) => {
                super::port_path(name).map_err(|_| Errno::Inval)?;
                Ok(Item::Port(name.into()))
            }
            (Root::Node, "status") => Ok(Item::OwnStatus),
            (Root::Node, named) => {
                let is_it = |other: &OtherNode| other.name == named || format!("n{}", other.node.0) == named;
                let found = self.nodes().into_iter().find(is_it).ok_or(Errno::NoEnt)?;
                Ok(Item::Node(found.node, found.name))
            }
        }
    }

    fn nodes(&self) -> Vec<OtherNode> {
        self.node.0.others.as_ref().map(|others| others.nodes()).unwrap_or_default()
    }

    fn node(&self, node: NodeId) -> Result<OtherNode, Errno> {
        self.nodes().into_iter().find(|other| other.node == node).ok_or(Errno::NoEnt)
    }

    /// Does something about a process where it is. It may be moving: whoever does not have it any more knows where it went.
    fn where_it_is<T>(
        &self, pid: Pid, here: impl Fn() -> Result<T, Errno>, there: impl Fn(&dyn Others, NodeId) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let done = here();
        if matches!(done, Err(Errno::Srch))
            && let Some(others) = &self.node.0.others
            && let Some(node) = others.locate(pid)
        {
            return there(&**others, node);
        }
        done
    }

    fn view(&self, pid: Pid) -> Result<ProcessView, Errno> {
        let here = || self.node.process(pid).map_err(|_| Errno::Srch);
        self.where_it_is(pid, here, |others, node| others.process(node, pid))
    }

    fn add(&mut self, item: Item, content: Content) -> Opened {
        let (id, kind) = (self.next, item.kind());
        self.next += 1;
        self.open.insert(id, OpenFile { item, content });
        Opened { id: OpenId(id), kind }
    }

    fn content_of(&self, item: &Item, access: Access) -> Result<Content, Errno> {
        let writes = access != Access::Read;
        Ok(match item {
            Item::Root | Item::Own | Item::Process(_) | Item::Node(..) if writes => return Err(Errno::IsDir),
            Item::Root | Item::Own | Item::Process(_) | Item::Node(..) => Content::Directory,
            Item::Status(_) | Item::Args(_) | Item::Log(_) if writes => return Err(Errno::Acces),
            Item::Fork(_) | Item::Clones(_) if writes => return Err(Errno::Acces),
            Item::OwnStatus | Item::NodeStatus(..) | Item::NodeLoad(..) if writes => return Err(Errno::Acces),
            Item::Log(_) => Content::Log,
            Item::OwnControl | Item::Control(_) | Item::New | Item::NodeControl(..) => Content::Text(vec![]),
            Item::Fork(pid) => Content::Text(format!("{}\n", self.view(*pid)?.lineage.number).into_bytes()),
            Item::Clones(pid) => Content::Text(lines(&self.view(*pid)?.lineage.clones)),
            Item::NodeStatus(node, _) => Content::Text(self.node(*node)?.status.into_bytes()),
            // It is not heard, so it says nothing.
            Item::NodeLoad(node, _) => Content::Text(self.node(*node)?.load.ok_or(Errno::HostUnreach)?.into_bytes()),
            Item::Status(pid) => Content::Text(self.status(*pid)?.into_bytes()),
            Item::Args(pid) => {
                let view = self.view(*pid)?;
                Content::Text(view.args.iter().flat_map(|arg| arg.bytes().chain([0])).collect())
            }
            Item::OwnStatus => {
                let status = self.node.status();
                let text = format!(
                    "processors: {}\nprocesses: {}\nready: {}\nrunning: {}\ncpu_ns: {}\nmemory_bytes: {}\nuptime_ms: {}\n",
                    status.processors,
                    status.processes,
                    status.ready,
                    status.running,
                    status.cpu_ns,
                    status.memory_bytes,
                    status.uptime_ms
                );
                Content::Text(text.into_bytes())
            }
            Item::Port(name) => match access {
                Access::Read => Content::Receiver(self.receiver(name)?),
                Access::Write => Content::Sender(self.sender(name)?),
                // One file cannot be both ends.
                Access::ReadWrite => return Err(Errno::Inval),
            },
        })
    }

    fn status(&self, pid: Pid) -> Result<String, Errno> {
        let view = self.view(pid)?;
        let (state, end) = match &view.state {
            State::Starting => ("starting", String::new()),
            State::Ready => ("ready", String::new()),
            State::Running => ("running", String::new()),
            State::Waiting(waits) => ("waiting", format!("waits_for: {}\n", format!("{waits:?}").to_lowercase())),
            State::Stopped => ("stopped", String::new()),
            State::Lost => ("lost", String::new()),
            State::Ended(end) => ("ended", format!("end: {end:?}\n")),
        };
        let parent = view.parent.map_or(String::new(), |parent| format!("parent: {parent}\n"));
        let from = view.lineage.from.map_or(String::new(), |from| format!("forked_from: {from}\n"));
        Ok(format!(
            "pid: {pid}\nnode: {}\n{parent}{from}name: {}\nprogram: {}\nstate: {state}\n{end}\
             cpu_ns: {}\nmemory_bytes: {}\nhandles: {}\noutput_bytes: {}\nstarted_ms: {}\n",
            view.node,
            view.name,
            view.program,
            view.cpu_ns,
            view.memory_bytes,
            view.handles,
            view.output_bytes,
            view.started_ms
        ))
    }

    fn receiver(&self, name: &str) -> Result<Port, Errno> {
        let agent = self.node.agent().map_err(|_| Errno::NFile)?;
        let made = agent.call(SystemCall::CreatePort(PortOptions::buffered(64)), TIMEOUT);
        let Ok(Outcome::PortCreated(Ok(handle))) = made else { return Err(Errno::NFile) };
        let transfer = Transfer { handle, rights: Rights::SENDER, mode: TransferMode::Copy };
        let path = format!("{PORTS}/{name}");
        let request = names::Request::BindPort { path, existing: names::Existing::Refuse };
        match agent.ask(&request, &[transfer], TIMEOUT) {
            Ok((names::Answer::Done, _)) => Ok(Port { agent, handle, state: Arc::new(Mutex::new(Transit::Idle)) }),
            Ok((names::Answer::Failed(names::Failure::Exists), _)) => Err(Errno::Busy),
            Ok((names::Answer::Failed(failure), _)) => Err(errno_of(failure)),
            Ok(_) => Err(Errno::Io),
            Err(_) => Err(Errno::TimedOut),
        }
    }

    fn sender(&self, name: &str) -> Result<Port, Errno> {
        let agent = self.node.agent().map_err(|_| Errno::NFile)?;
        let path = format!("{PORTS}/{name}");
        match agent.ask(&names::Request::Lookup { path }, &[], TIMEOUT) {
            Ok((names::Answer::Port, handles)) if handles.len() == 1 => {
                Ok(Port { agent, handle: handles[0], state: Arc::new(Mutex::new(Transit::Idle)) })
            }
            Ok((names::Answer::Failed(failure), _)) => Err(errno_of(failure)),
            Ok(_) => Err(Errno::Io),
            Err(_) => Err(Errno::TimedOut),
        }
    }

    fn command(&self, pid: Pid, bytes: &[u8]) -> Result<(), Errno> {
        let here = || self.node.command(pid, bytes);
        self.where_it_is(pid, here, |others, node| others.command(node, pid, bytes))
    }

    /// The process's own `ctl`.
    fn command_itself(&mut self, bytes: &[u8]) -> Result<Option<Vec<Pid>>, Errno> {
        let Some(order) = ForkOrder::read(bytes) else {
            return self.command(self.own_pid()?, bytes).map(|()| None);
        };
        let state = {
            let mut forking = self.forking();
            match std::mem::take(&mut *forking) {
                // Under one lock: what is told meanwhile would else be lost.
                Forking::Busy => {
                    *forking = Forking::Busy;
                    return Err(Errno::Again);
                }
                state => state,
            }
        };
        match state {
            Forking::Over(result) => result.map(Some),
            Forking::Busy | Forking::Nothing => {
                let info = self.process.get().and_then(Weak::upgrade).ok_or(Errno::Srch)?;
                if info.answers_fork.swap(false, Ordering::Relaxed) {
                    // It is a clone, and this is the call that it came of.
                    return Ok(Some(vec![]));
                }
                let others = self.node.0.others.as_ref().ok_or(Errno::NotSup)?;
                *self.forking() = Forking::Busy;
                let (forking, rouse) = (self.forking.clone(), self.rouse.clone());
                let forked: Forked = Box::new(move |result| {
                    *forking.lock().expect("no code panics while it holds this lock") = Forking::Over(result);
                    rouse();
                });
                if let Err(errno) = others.fork(self.own_pid()?, order, Asker::Itself, forked) {
                    *self.forking() = Forking::Nothing;
                    return Err(errno);
                }
                Err(Errno::Again)
            }
        }
    }

    fn forking(&self) -> MutexGuard<'_, Forking> {
        self.forking.lock().expect("no code panics while it holds this lock")
    }

    fn command_node(&self, node: NodeId, bytes: &[u8]) -> Result<(), Errno> {
        let drain = match bytes.trim_ascii() {
            b"drain" => true,
            b"undrain" => false,
            _ => return Err(Errno::Inval),
        };
        self.node.0.others.as_ref().ok_or(Errno::NoEnt)?.drain(node, drain)
    }

    /// The pid of a new process. It sees the same directories as the one that asks, and has a log of its own.
    fn spawn(&self, bytes: &[u8]) -> Result<Vec<u8>, Errno> {
        let text = std::str::from_utf8(bytes).map_err(|_| Errno::IlSeq)?;
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n').peekable();
        let hint = match lines.next_if(|line| line.starts_with("--")) {
            Some(line) => Some(PlaceHint::read(&line[2..]).ok_or(Errno::Inval)?),
            None => None,
        };
        let others = self.node.0.others.as_ref();
        if let Some(hint) = &hint {
            hint.is_possible(others.map(|others| &**others))?;
        }
        let info = self.process.get().and_then(Weak::upgrade).ok_or(Errno::Srch)?;
        let wanted = lines.next().unwrap_or_default();
        let hash = if wanted == "self" { info.program.as_str() } else { wanted };
        let program = self.node.known_program(hash).ok_or(Errno::NoEnt)?;
        let name = if wanted == "self" { info.name.clone() } else { hash.chars().take(12).collect() };
        let args = std::iter::once(name.clone()).chain(lines.map(String::from)).collect();
        let order = Order {
            program,
            name,
            args,
            env: vec![],
            mounts: info.mounts.clone(),
            limits: info.limits.clone(),
            stdio: Stdio::default(),
        };
        let started = self.node.run(order).map_err(|_| Errno::NoMem)?;
        if let (Some(others), Some(hint)) = (others, hint) {
            others.place(started.pid, hint);
        }
        Ok(format!("{}\n", started.pid).into_bytes())
    }
}

fn lines(pids: &[Pid]) -> Vec<u8> {
    pids.iter().flat_map(|pid| format!("{pid}\n").into_bytes()).collect()
}

fn errno_of(failure: names::Failure) -> Errno {
    match failure {
        names::Failure::NotFound | names::Failure::NotADirectory => Errno::NoEnt,
        names::Failure::Exists => Errno::Exist,
        names::Failure::Undecided => Errno::TimedOut,
        names::Failure::Unreachable => Errno::HostUnreach,
        _ => Errno::Io,
    }
}

impl Item {
    fn kind(&self) -> Filetype {
        match self {
            Item::Root | Item::Own | Item::Process(_) | Item::Node(..) => Filetype::Directory,
            Item::Port(_) => Filetype::SocketStream,
            _ => Filetype::RegularFile,
        }
    }

    fn inode(&self) -> u64 {
        let (kind, pid) = match self {
            Item::Root => (1, 0),
            Item::New => (2, 0),
            Item::OwnStatus => (3, 0),
            Item::Node(node, _) => (9, node.0.into()),
            Item::NodeStatus(node, _) => (10, node.0.into()),
            Item::NodeLoad(node, _) => (11, node.0.into()),
            Item::NodeControl(node, _) => (12, node.0.into()),
            Item::Port(name) => return name.bytes().fold(1 << 40, |sum, byte| sum * 31 % (1 << 62) + u64::from(byte)),
            Item::Process(pid) => (4, pid.id().to_bits()),
            Item::Status(pid) => (5, pid.id().to_bits()),
            Item::Args(pid) => (6, pid.id().to_bits()),
            Item::Log(pid) => (7, pid.id().to_bits()),
            Item::Control(pid) => (8, pid.id().to_bits()),
            Item::Fork(pid) => (13, pid.id().to_bits()),
            Item::Clones(pid) => (14, pid.id().to_bits()),
            // Wherever the process is, and whichever clone it is, it is this file.
            Item::Own => (15, 0),
            Item::OwnControl => (15, 1),
        };
        // Numbers of nodes are small: the two do not meet.
        kind << 60 ^ pid
    }

    fn stat(&self, size_bytes: u64) -> Stat {
        Stat {
            device: 0,
            inode: self.inode(),
            kind: self.kind(),
            links: 1,
            size_bytes,
            accessed_ns: 0,
            modified_ns: 0,
            changed_ns: 0,
            born_ns: None,
        }
    }
}

impl Port {
    fn state(&self) -> std::sync::MutexGuard<'_, Transit> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    fn begin(&self, call: SystemCall, rouse: &Rouse, ended: impl FnOnce(Outcome) -> Transit + Send + 'static) {
        *self.state() = Transit::Busy;
        let (state, rouse) = (self.state.clone(), rouse.clone());
        let posted = self.agent.post(call, move |outcome| {
            *state.lock().expect("no code panics while it holds this lock") = ended(outcome);
            rouse();
        });
        if !posted {
            *self.state() = Transit::Failed(Errno::Io);
        }
    }

    /// Nothing after the sender's end; an error says to wait.
    fn receive(&self, buffer: &mut [u8], rouse: &Rouse) -> Result<usize, Errno> {
        let mut state = self.state();
        match &mut *state {
            Transit::Received { bytes, read } => {
                let count = buffer.len().min(bytes.len() - *read);
                buffer[..count].copy_from_slice(&bytes[*read..*read + count]);
                *read += count;
                if *read == bytes.len() {
                    *state = Transit::Idle;
                }
                Ok(count)
            }
            Transit::Busy => Err(Errno::Again),
            Transit::Failed(errno) => Err(*errno),
            Transit::Idle | Transit::Sent => {
                drop(state);
                self.ask(rouse);
                Err(Errno::Again)
            }
        }
    }

    fn ask(&self, rouse: &Rouse) {
        let call = SystemCall::Receive { port: self.handle, wait: Wait::Forever };
        self.begin(call, rouse, |outcome| match outcome {
            Outcome::Received(Ok(Received::Message(delivery))) => {
                Transit::Received { bytes: delivery.bytes.to_vec(), read: 0 }
            }
            // A name is a way to send: as long as it is bound somebody may.
            Outcome::Received(Ok(Received::Notice(_)) | Err(ReceiveError::NoSenders | ReceiveError::Interrupted)) => {
                Transit::Idle
            }
            _ => Transit::Failed(Errno::Io),
        });
    }

    /// To a durable process, which has received it for ever then, wherever it lives.
    fn send_lasting(&self, node: &Node, name: &str, bytes: &[u8], rouse: &Rouse) -> Result<usize, Errno> {
        if !matches!(*self.state(), Transit::Idle) {
            return self.send(bytes, rouse);
        }
        *self.state() = Transit::Busy;
        let (state, rouse, node, name, bytes) =
            (self.state.clone(), rouse.clone(), node.clone(), name.to_string(), bytes.to_vec());
        let sends = move || {
            let sent = node.send(&name, &bytes, LASTING_TIMEOUT);
            *state.lock().expect("no code panics while it holds this lock") = match sent {
                Ok(()) => Transit::Sent,
                Err(PortError::TooLong { .. }) => Transit::Failed(Errno::MsgSize),
                Err(PortError::Closed | PortError::Unknown(_)) => Transit::Failed(Errno::Pipe),
                Err(_) => Transit::Failed(Errno::Io),
            };
            rouse();
        };
        // One at a time for each open file.
        if std::thread::Builder::new().name("una-send".into()).spawn(sends).is_err() {
            *self.state() = Transit::Failed(Errno::Io);
        }
        Err(Errno::Again)
    }

    fn send(&self, bytes: &[u8], rouse: &Rouse) -> Result<usize, Errno> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(Errno::MsgSize);
        }
        let mut state = self.state();
        match &*state {
            Transit::Sent => {
                *state = Transit::Idle;
                Ok(bytes.len())
            }
            Transit::Busy => Err(Errno::Again),
            Transit::Failed(errno) => {
                let errno = *errno;
                *state = Transit::Idle;
                Err(errno)
            }
            Transit::Idle | Transit::Received { .. } => {
                drop(state);
                let mode = SendMode::Reliable(Wait::Forever);
                let call = SystemCall::Send { port: self.handle, message: Message::of(bytes), mode };
                self.begin(call, rouse, |outcome| match outcome {
                    Outcome::Sent(Ok(())) => Transit::Sent,
                    Outcome::Sent(Err(SendError::PortClosed)) => Transit::Failed(Errno::Pipe),
                    Outcome::Sent(Err(SendError::TooLong)) => Transit::Failed(Errno::MsgSize),
                    _ => Transit::Failed(Errno::Io),
                });
                Err(Errno::Again)
            }
        }
    }
}

impl FileSystem for SystemFiles {
    fn root(&self) -> OpenId {
        OpenId(0)
    }

    fn open(&mut self, directory: OpenId, path: &str, how: &Open) -> Result<Opened, Errno> {
        let item = self.find(directory, path)?;
        if how.kind == Kind::Directory && item.kind() != Filetype::Directory {
            return Err(Errno::NotDir);
        }
        if how.existence == Existence::CreatedNew {
            return Err(Errno::Exist);
        }
        let content = self.content_of(&item, how.access)?;
        Ok(self.add(item, content))
    }

    fn duplicate(&mut self, id: OpenId) -> Result<OpenId, Errno> {
        let item = self.item(id)?;
        match item {
            Item::Port(_) => Err(Errno::NotSup),
            _ => {
                let content = self.content_of(&item, Access::Read)?;
                Ok(self.add(item, content).id)
            }
        }
    }

    fn close(&mut self, id: OpenId) {
        self.open.remove(&id.0);
    }

    fn read_at(&mut self, file: OpenId, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let OpenFile { item, content } = self.open.get(&file.0).ok_or(Errno::IsDir)?;
        match (content, item) {
            (Content::Directory, _) => Err(Errno::IsDir),
            (Content::Text(text), _) => {
                let rest = text.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
            (Content::Log, Item::Log(pid)) => {
                let (pid, room) = (*pid, buffer.len().min(LOG_READ_MAX));
                let here = || self.node.log(pid, offset, room);
                let bytes = self.where_it_is(pid, here, |others, node| others.log(node, pid, offset, room))?;
                let count = bytes.len().min(buffer.len());
                buffer[..count].copy_from_slice(&bytes[..count]);
                Ok(count)
            }
            (Content::Log, _) => unreachable!("only a log is a log"),
            (Content::Receiver(port), _) => port.receive(buffer, &self.rouse),
            (Content::Sender(_), _) => Err(Errno::BadF),
        }
    }

    fn write_at(&mut self, file: OpenId, bytes: &[u8], _offset: u64) -> Result<usize, Errno> {
        let OpenFile { item, content } = self.open.get(&file.0).ok_or(Errno::IsDir)?;
        match (content, item) {
            (Content::Sender(port), Item::Port(name)) if self.node.lasts(name) => {
                port.send_lasting(&self.node, name, bytes, &self.rouse)
            }
            (Content::Sender(port), _) => port.send(bytes, &self.rouse),
            (_, Item::Control(pid)) => self.command(*pid, bytes).map(|()| bytes.len()),
            (_, Item::OwnControl) => {
                if let Some(clones) = self.command_itself(bytes)? {
                    self.open.get_mut(&file.0).expect("it was there").content = Content::Text(lines(&clones));
                }
                Ok(bytes.len())
            }
            (_, Item::NodeControl(node, _)) => self.command_node(*node, bytes).map(|()| bytes.len()),
            (_, Item::New) => {
                let answer = self.spawn(bytes)?;
                self.open.get_mut(&file.0).expect("it was there").content = Content::Text(answer);
                Ok(bytes.len())
            }
            _ => Err(Errno::BadF),
        }
    }

    fn append(&mut self, file: OpenId, bytes: &[u8]) -> Result<(usize, u64), Errno> {
        // The answer of `new` is read from its beginning.
        self.write_at(file, bytes, 0).map(|count| (count, 0))
    }

    fn stat(&mut self, id: OpenId) -> Result<Stat, Errno> {
        let size = match self.open.get(&id.0) {
            Some(OpenFile { content: Content::Text(text), .. }) => text.len() as u64,
            _ => 0,
        };
        Ok(self.item(id)?.stat(size))
    }

    /// What people do before they write. There is nothing to cut off.
    fn set_size(&mut self, _file: OpenId, _size_bytes: u64) -> Result<(), Errno> {
        Ok(())
    }

    fn set_times(&mut self, _id: OpenId, _times: SetTimes) -> Result<(), Errno> {
        Err(Errno::Perm)
    }

    fn allocate(&mut self, _file: OpenId, _offset: u64, _length: u64) -> Result<(), Errno> {
        Err(Errno::NotSup)
    }

    fn advise(&mut self, _file: OpenId, _offset: u64, _length: u64, _advice: Advice) -> Result<(), Errno> {
        Ok(())
    }

    fn sync(&mut self, _id: OpenId, _what: Durable) -> Result<(), Errno> {
        Ok(())
    }

    fn list(&mut self, directory: OpenId) -> Result<Vec<Entry>, Errno> {
        let item = self.item(directory)?;
        let named = |name: &str, item: &Item| Entry { name: name.into(), inode: item.inode(), kind: item.kind() };
        let mut entries = vec![named(".", &item), named("..", &Item::Root)];
        match (&item, self.root) {
            (Item::Process(pid), _) => {
                entries.push(named("status", &Item::Status(*pid)));
                entries.push(named("args", &Item::Args(*pid)));
                entries.push(named("log", &Item::Log(*pid)));
                entries.push(named("ctl", &Item::Control(*pid)));
                entries.push(named("fork", &Item::Fork(*pid)));
                entries.push(named("clones", &Item::Clones(*pid)));
            }
            (Item::Root, Root::Processes) => {
                entries.push(named("new", &Item::New));
                if let Ok(pid) = self.own_pid() {
                    entries.push(named("self", &Item::Process(pid)));
                }
                let others = self.node.0.others.as_ref().map(|others| others.processes()).unwrap_or_default();
                for view in self.node.processes().into_iter().chain(others) {
                    entries.push(named(&view.pid.to_string(), &Item::Process(view.pid)));
                }
            }
            (Item::Node(node, name), _) => {
                entries.push(named("status", &Item::NodeStatus(*node, name.clone())));
                entries.push(named("load", &Item::NodeLoad(*node, name.clone())));
                entries.push(named("ctl", &Item::NodeControl(*node, name.clone())));
            }
            (Item::Root, Root::Node) => {
                entries.push(named("status", &Item::OwnStatus));
                for OtherNode { node, name, .. } in self.nodes() {
                    entries.push(named(&name, &Item::Node(node, name.clone())));
                }
            }
            (Item::Root, Root::Ports) => {
                for name in self.node.port_names().map_err(|_| Errno::TimedOut)? {
                    let item = Item::Port(name.clone());
                    entries.push(named(&name, &item));
                }
            }
            _ => return Err(Errno::NotDir),
        }
        Ok(entries)
    }

    fn stat_at(&mut self, directory: OpenId, path: &str, _last_link: LastLink) -> Result<Stat, Errno> {
        let item = self.find(directory, path)?;
        if let Item::Port(name) = &item
            && !self.node.port_names().map_err(|_| Errno::TimedOut)?.contains(name)
        {
            return Err(Errno::NoEnt);
        }
        Ok(item.stat(0))
    }

    fn set_times_at(
        &mut self, _directory: OpenId, _path: &str, _last_link: LastLink, _times: SetTimes,
    ) -> Result<(), Errno> {
        Err(Errno::Perm)
    }

    fn create_directory(&mut self, _directory: OpenId, _path: &str) -> Result<(), Errno> {
        Err(Errno::Perm)
    }

    fn remove_directory(&mut self, _directory: OpenId, _path: &str) -> Result<(), Errno> {
        Err(Errno::Perm)
    }

    fn unlink(&mut self, _directory: OpenId, _path: &str) -> Result<(), Errno> {
        Err(Errno::Perm)
    }

    fn rename(&mut self, _from: (OpenId, &str), _to: (OpenId, &str)) -> Result<(), Errno> {
        Err(Errno::Perm)
    }

    fn link(&mut self, _from: (OpenId, &str), _to: (OpenId, &str)) -> Result<(), Errno> {
        Err(Errno::Perm)
    }

    fn symlink(&mut self, _content: &str, _directory: OpenId, _path: &str) -> Result<(), Errno> {
        Err(Errno::Perm)
    }

    fn read_link(&mut self, directory: OpenId, path: &str) -> Result<String, Errno> {
        self.find(directory, path).and(Err(Errno::Inval))
    }

    fn locate(&mut self, id: OpenId) -> Result<Place, Errno> {
        Ok(Place::Path(match self.item(id)? {
            Item::Root => String::new(),
            Item::New => "new".into(),
            Item::OwnStatus => "status".into(),
            Item::Node(_, name) => name,
            Item::NodeStatus(_, name) => format!("{name}/status"),
            Item::NodeLoad(_, name) => format!("{name}/load"),
            Item::NodeControl(_, name) => format!("{name}/ctl"),
            Item::Process(pid) => pid.to_string(),
            Item::Status(pid) => format!("{pid}/status"),
            Item::Args(pid) => format!("{pid}/args"),
            Item::Log(pid) => format!("{pid}/log"),
            Item::Control(pid) => format!("{pid}/ctl"),
            Item::Fork(pid) => format!("{pid}/fork"),
            Item::Clones(pid) => format!("{pid}/clones"),
            Item::Own => "self".into(),
            Item::OwnControl => "self/ctl".into(),
            // Messages may lie there that would be lost.
            Item::Port(name) => return Ok(Place::Elsewhere(format!("{PORTS}/{name}, a port"))),
        }))
    }

    fn content(&mut self, file: OpenId, bytes_max: u64) -> Result<Vec<u8>, Errno> {
        match self.open.get(&file.0) {
            Some(OpenFile { content: Content::Text(text), .. }) if text.len() as u64 <= bytes_max => Ok(text.clone()),
            Some(OpenFile { content: Content::Text(_), .. }) => Err(Errno::FBig),
            _ => Err(Errno::NotSup),
        }
    }

    fn readiness(&mut self, file: OpenId, direction: Direction) -> Option<(Readiness, Source)> {
        let source = Source(FIRST_SOURCE + file.0);
        if let (Item::OwnControl, Direction::Write) = (&self.open.get(&file.0)?.item, direction) {
            let readiness = match &*self.forking() {
                Forking::Busy => Readiness::Blocked,
                Forking::Nothing | Forking::Over(_) => Readiness::Ready { bytes: 0, hangup: false },
            };
            return Some((readiness, source));
        }
        let (port, direction) = match (&self.open.get(&file.0)?.content, direction) {
            (Content::Receiver(port), Direction::Read) => (port, Direction::Read),
            (Content::Sender(port), Direction::Write) => (port, Direction::Write),
            _ => return None,
        };
        let ready = |bytes| Readiness::Ready { bytes, hangup: false };
        let idle = {
            let state = port.state();
            match (&*state, direction) {
                (Transit::Received { bytes, read }, _) => return Some((ready((bytes.len() - read) as u64), source)),
                (Transit::Failed(_) | Transit::Sent, _) => return Some((ready(0), source)),
                (Transit::Idle, Direction::Write) => return Some((ready(0), source)),
                (Transit::Idle, Direction::Read) => true,
                (Transit::Busy, _) => false,
            }
        };
        // Whoever polls waits for a message, so one is asked for.
        if idle {
            port.ask(&self.rouse);
        }
        Some((Readiness::Blocked, source))
    }

    fn orphan_file(&mut self, _content: &[u8]) -> Result<OpenId, Errno> {
        Err(Errno::NotSup)
    }

    fn orphan_directory(&mut self) -> Result<OpenId, Errno> {
        Err(Errno::NotSup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_of_forks_are_read_or_not_at_all() {
        let order = |count, on: Option<&str>| Some(ForkOrder { count, on: on.map(String::from) });
        for (text, expected) in [
            ("fork", order(1, None)),
            ("fork\n", order(1, None)),
            (" fork  8 ", order(8, None)),
            ("fork on n2", order(1, Some("n2"))),
            ("fork 3 on a", order(3, Some("a"))),
            ("fork 3 on", None),
            ("fork 0", None),
            ("fork -1", None),
            ("fork 3 a", None),
            ("fork on a b", None),
            ("forks", None),
            ("", None),
        ] {
            assert_eq!(ForkOrder::read(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(ForkOrder::read(b"fork \xff"), None);
    }
}
