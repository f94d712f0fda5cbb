//! This node as a part of the whole computer: who the other nodes are, what is asked of them and what they ask. Knows the wire and the
//! coordinator; not processes, files or command lines, which it only passes on to.
//!
//! ```text
//!   record   who this node is            join     tickets, and how they are spent
//!   member   what is kept of each node   keeper   who votes
//!   health   who is heard                ears     what arrives from other nodes
//!   place    where processes go          location where each of them is
//!   why      why each of them is there
//!   moving   processes on their way      pages    what of their memory follows them
//!   drain    processes that have to leave              fork     clones of a process, here and elsewhere
//!   lend     a machine that is its owner's first
//!   programs what one node has compiled, others need not compile
//!   names    which node has bound the name of a port   rebind   names follow ports that move
//!   elsewhere processes and nodes as files
//!   keep     checkpoints                 supervise  processes that are begun again, here or elsewhere
//!   lost     whose node is lost          unlinkable who cannot be linked with, and why
//!   view     what people see
//! ```
//! A node alone is a system of one: the same parts, with nobody to speak to.

mod claimed;
mod drain;
mod ears;
mod elsewhere;
mod events;
mod fork;
mod health;
mod join;
pub mod keep;
mod keeper;
pub mod lend;
mod location;
mod lost;
pub mod member;
mod moving;
mod names;
mod pages;
mod place;
mod programs;
mod rebind;
mod record;
pub mod supervise;
pub mod tape;
mod unlinkable;
pub mod view;
mod why;

pub use fork::NotForked;
pub use join::{JoinError, join};
pub use moving::MoveRefused;
pub use record::{Record, RecordError};
pub use why::NoWhy;

use crate::files::{self, FilesNetwork, Shared, TreeError};
use crate::node::{Fate, Heard, Node, Pid, ProcessView};
use crate::steps::FactsStep;
use abi::errno::Errno;
use abi::file::Entropy;
use abi::ids::{NodeId, NodeKey};
use drivers::HostEntropy;
use drivers::coordinator::current::Current;
use drivers::coordinator::raft::{self, Raft, Unanswered};
use drivers::coordinator::{Action, Compare, Coordinator, Failure, KeyRange, Quorum, Transaction, Watch, WatchEvent};
use drivers::wire::WireError;
use drivers::wire::discovery::Discovery;
use drivers::wire::ticket::Ticket;
use drivers::wire::{Ask, AskError, Class, Hello, Identity, IdentityError, LinkState, Stream, Wire};
use ears::Ears;
use events::{Chronicle, OnTheWire};
use health::Health;
use member::{Member, Members};
use services::events::{Ending, Kind};
use services::members::Change;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};
use unlinkable::Unlinkable;
use view::*;

// Whoever cannot speak with our kernel is told so where links are made. A version of packets is a version of the protocol.
const _: () =
    assert!(kernel::PACKET_VERSION as u16 == drivers::wire::PROTOCOL, "bump both: wire/frame.rs and kernel/packet.rs");

/// Who is meant by what travels on the wire.
pub mod service {
    use drivers::wire::Service;
    pub const COORDINATOR: Service = Service(1);
    pub const FILES: Service = Service(2);
    pub const CHUNKS: Service = Service(3);
    /// A client of another node, as a stream.
    pub const COMMANDS: Service = Service(4);
    /// Questions of one node to another: its processes, its events.
    pub const SYSTEM: Service = Service(5);
    pub const PROGRAMS: Service = Service(6);
    /// Where processes are.
    pub const LOCATION: Service = Service(7);
    /// Processes on their way.
    pub const MOVES: Service = Service(8);
    /// What is kept of processes, asked of whoever holds the files.
    pub const KEPT: Service = Service(9);
}

/// Where nodes listen, if nothing else is said. Another one is taken if it is in use.
pub const PORT: u16 = 7862;
/// How long the coordinator may take.
const FACT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long another node may take to say what it knows.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node waits at its start for its system to be able to decide something.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a goodbye may take; whoever does not hear it finds out by itself.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(300);
/// How long a move of the facts waits for another one: what was interrupted has ended by then.
const OTHER_MOVE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node that ends goes on sending the memory of processes that have left it.
const DEPARTURES_TIMEOUT: Duration = Duration::from_secs(30);
/// What to do on a node that the others do not want.
const JOIN_AGAIN: &str = "una down, then una join with a new ticket";

pub struct SystemOptions {
    /// The node's directory.
    pub data: PathBuf,
    /// Where programs are kept by their hash.
    pub library: PathBuf,
    /// Where to listen; none: nobody can join, and this node cannot be joined to others.
    pub listen: Option<SocketAddr>,
    /// What this node is called if it begins a system.
    pub name: String,
    /// After so many seconds in which nobody hears this node the others give up on its life, and it ends that. Zero: they never do.
    pub lost_after_s: u64,
    /// For whom the machine is there; none: as was said last.
    pub lend: Option<lend::Lend>,
}

/// Why a node cannot be a part of its system.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the facts of the system cannot be used: {0}")]
    Facts(Failure),
    #[error("the tree of files cannot be used: {0}")]
    Files(TreeError),
    #[error("the system could not be begun: {0}")]
    Begin(Failure),
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    #[error("no random numbers: {0}")]
    Entropy(Errno),
}

/// Why the system did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SystemError {
    #[error("there is no node `{0}`")]
    NoNode(String),
    #[error("the system cannot decide anything now: {0}")]
    NoQuorum(String),
    #[error("{0}")]
    Refused(String),
}

impl From<Failure> for SystemError {
    fn from(failure: Failure) -> SystemError {
        match failure {
            Failure::Unavailable { why } | Failure::Unknown { why } => SystemError::NoQuorum(why),
            other => SystemError::Refused(other.to_string()),
        }
    }
}

/// Why another node was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reach {
    #[error("there is no node {0} in this system")]
    NoSuchNode(NodeId),
    #[error("{name} is not heard: {why}")]
    NotHeard { name: String, why: String },
}

/// All clones are the same.
#[derive(Clone)]
pub struct System(Arc<Inner>);

/// Whether this node hears of changes of the members.
#[derive(Default)]
enum Following {
    #[default]
    No,
    Reading,
    Hears {
        _watch: Watch,
    },
}

/// Who opened a stream, its head, and the stream.
type OnCommands = Box<dyn Fn(NodeId, &[u8], Stream) + Send + Sync>;

struct Inner {
    data: PathBuf,
    library: engine::Library,
    record: Mutex<Record>,
    me: NodeId,
    key: NodeKey,
    wire: Wire,
    /// The built-in coordinator, whether or not the facts are there now.
    raft: Arc<Raft>,
    /// Whoever has the facts.
    facts: Current,
    directory: Arc<Directory>,
    health: Health,
    drainer: drain::Drainer,
    lending: lend::Lending,
    departures: pages::Departures,
    location: location::Whereabouts,
    /// Held by whoever tells it who lives.
    telling: Mutex<()>,
    names: names::Names,
    chronicle: Arc<Chronicle>,
    files: Shared,
    keep: keep::Keep,
    supervise: supervise::Supervise,
    noticed: lost::Noticed,
    /// Its processes end because this node does.
    going_down: AtomicBool,
    following: Mutex<Following>,
    node: OnceLock<Node>,
    on_commands: OnceLock<OnCommands>,
    whys: why::Whys,
    /// Why this node is none of the system any more.
    refusal: Mutex<Option<String>>,
    unlinkable: Unlinkable,
    /// Finds known nodes on the same network; where multicast does not work there is none.
    _discovery: Option<Discovery>,
    stopping: AtomicBool,
    /// The others have given up on this life of the node.
    is_over: AtomicBool,
}

/// Who has which number. Shared with whoever speaks to nodes by number.
#[derive(Default)]
pub(crate) struct Directory {
    members: Mutex<Members>,
    keys: Mutex<Keys>,
}

/// Of the members; before the facts are there, of those whom this node knew when it last ran.
///
/// Invariant: each of the two is the other turned round.
#[derive(Default)]
struct Keys {
    by_number: BTreeMap<NodeId, NodeKey>,
    by_key: BTreeMap<NodeKey, NodeId>,
}

impl Directory {
    pub fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().expect("nothing panics while it holds this lock")
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().expect("nothing panics while it holds this lock")
    }

    pub fn key_of(&self, node: NodeId) -> Option<NodeKey> {
        self.keys().by_number.get(&node).copied()
    }

    pub fn number_of(&self, key: NodeKey) -> Option<NodeId> {
        self.keys().by_key.get(&key).copied()
    }

    fn know(&self, node: NodeId, key: NodeKey) {
        self.forget(node);
        let mut keys = self.keys();
        keys.by_number.insert(node, key);
        keys.by_key.insert(key, node);
    }

    fn forget(&self, node: NodeId) -> Option<NodeKey> {
        let mut keys = self.keys();
        let key = keys.by_number.remove(&node)?;
        keys.by_key.remove(&key);
        Some(key)
    }
}

/// The way to other nodes by their numbers, for the coordinator and the files.
struct Numbered {
    wire: Wire,
    directory: Arc<Directory>,
}

impl raft::Peers for Numbered {
    fn ask(
        &self, to: NodeId, body: Vec<u8>, deadline: Instant, done: Box<dyn FnOnce(Result<Vec<u8>, Unanswered>) + Send>,
    ) {
        let Some(key) = self.directory.key_of(to) else {
            return done(Err(Unanswered::NotSent(no_member(to))));
        };
        let ask = Ask { service: service::COORDINATOR, class: Class::Control, body: &body, deadline };
        let unanswered = |error: AskError| match error.may_have_arrived() {
            false => Unanswered::NotSent(error.to_string()),
            true => Unanswered::Lost(error.to_string()),
        };
        self.wire.ask(key, ask, Box::new(move |answer| done(answer.map_err(unanswered))));
    }
}

impl FilesNetwork for Numbered {
    fn ask(
        &self, to: NodeId, service: files::Service, body: &[u8], deadline: Instant,
    ) -> Result<Vec<u8>, files::Unanswered> {
        let Some(key) = self.directory.key_of(to) else {
            return Err(files::Unanswered::NotSent(no_member(to)));
        };
        let (service, class) = match service {
            files::Service::Files => (service::FILES, Class::Call),
            files::Service::Chunks => (service::CHUNKS, Class::Page),
            files::Service::Kept => (service::KEPT, Class::Page),
        };
        let answer = self.wire.ask_and_wait(key, Ask { service, class, body, deadline });
        answer.map_err(|error| match error {
            AskError::Failed(why) => files::Unanswered::Refused(why),
            error if error.may_have_arrived() => files::Unanswered::Lost(error.to_string()),
            error => files::Unanswered::NotSent(error.to_string()),
        })
    }
}

fn no_member(node: NodeId) -> String {
    format!("{node} is no member")
}

/// The kernel's way to other nodes.
struct KernelWire(std::sync::Weak<Inner>);

impl crate::node::Network for KernelWire {
    fn transmit(&self, to: NodeId, packet: &[u8]) {
        let Some(inner) = self.0.upgrade() else { return };
        if let Some(key) = inner.directory.key_of(to) {
            // Sent again by the kernel if it is lost here.
            let _ = inner.wire.send(key, Class::Call, packet);
        }
    }
}

impl System {
    /// Takes this node's place in its system, or begins one of its own.
    pub fn start(options: &SystemOptions) -> Result<System, StartError> {
        let SystemOptions { data, library, listen, name, lost_after_s, lend } = options;
        let mut record = match Record::read(data)? {
            Some(record) => record,
            None => {
                let mut system = [0; 16];
                HostEntropy.fill(&mut system).map_err(StartError::Entropy)?;
                Record::first(system, &member::free_name(&Members::new(), name))
            }
        };
        record.life += 1;
        record.lend = lend.unwrap_or(record.lend);
        record.write(data)?;
        let lend = record.lend;
        let me = record.number();
        let identity = data.join("identity");
        let key = Identity::load_or_make(&identity)?.key();
        let hello = Hello {
            system: Some(record.system_bytes()),
            node: Some(me),
            life: record.life,
            name: record.name.clone(),
            version: crate::protocol::version().into(),
            addresses: vec![],
        };
        let ears = Arc::new(Ears::default());
        let directory = Arc::new(Directory::default());
        let chronicle = Arc::new(Chronicle::new(me, record.life));
        chronicle.record(Kind::SystemStarted { life: record.life });
        let clock = Arc::new(OnTheWire { chronicle: chronicle.clone(), directory: directory.clone() });
        let wire = listen_somewhere(&identity, hello, *listen, record.port, ears.clone(), clock)?;
        for peer in &record.peers {
            if let Some(key) = record::hex(&peer.key).map(NodeKey) {
                directory.know(NodeId(peer.number), key);
                wire.admit(key, &record::addresses(&peer.addresses));
            }
        }
        let others = Arc::new(Numbered { wire: wire.clone(), directory: directory.clone() });
        let raft = Arc::new(Raft::open(&data.join("coordinator"), me, others.clone()).map_err(StartError::Facts)?);
        let alone = record.peers.is_empty() && me == crate::node::FIRST_NODE;
        let port = wire.addresses().first().map(SocketAddr::port);
        if port.is_some() && port != record.port {
            record.port = port;
            record.write(data)?;
        }
        let own = Member {
            key: key.to_string(),
            name: record.name.clone(),
            addresses: wire.addresses().iter().map(SocketAddr::to_string).collect(),
            draining: false,
            leaving: false,
            joined_ms: drivers::clock::now_ms(),
            life: record.life,
            lost_after_s: *lost_after_s,
            given_up: false,
        };
        if alone {
            // Again after a crash in the middle of the first time: both acts are done once.
            raft.bootstrap().map_err(StartError::Begin)?;
            let deadline = Instant::now() + START_TIMEOUT;
            raft.transact(member::found(me, &own, &record.system), deadline).map_err(StartError::Begin)?;
        } else {
            raft.know(&record.peers.iter().map(|peer| NodeId(peer.number)).collect::<Vec<_>>());
        }
        let facts = Current::new(raft.clone(), opener(&raft, &record.system));
        let files =
            Shared::start(&data.join("tree"), me, Arc::new(facts.clone()), others).map_err(StartError::Files)?;
        let mut entropy = [0; 8];
        HostEntropy.fill(&mut entropy).map_err(StartError::Entropy)?;
        let health = Health::new(me, record.life, u64::from_le_bytes(entropy));
        let here_only = listen.is_none_or(|listen| listen.ip().is_loopback());
        let discovery = if here_only { None } else { Discovery::start(&wire, record.system_bytes()).ok() };
        let names =
            names::Names::start(me, record.life, facts.clone(), directory.clone()).map_err(StartError::Thread)?;
        let location = location::Whereabouts::new(me, record.life);
        let system = System(Arc::new(Inner {
            data: data.clone(),
            library: engine::Library::new(library),
            record: Mutex::new(record),
            me,
            key,
            wire,
            raft,
            facts,
            directory,
            health,
            drainer: drain::Drainer::default(),
            lending: lend::Lending::new(lend),
            departures: pages::Departures::default(),
            location,
            telling: Mutex::default(),
            names,
            chronicle,
            files,
            keep: keep::Keep::new(),
            supervise: supervise::Supervise::new(),
            noticed: lost::Noticed::default(),
            going_down: AtomicBool::new(false),
            following: Mutex::default(),
            node: OnceLock::new(),
            on_commands: OnceLock::new(),
            whys: why::Whys::default(),
            refusal: Mutex::default(),
            unlinkable: Unlinkable::default(),
            _discovery: discovery,
            stopping: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }));
        ears.listen_for(&system.0);
        system.0.tell_living();
        Inner::follow_members(&system.0);
        let spawn = |name: &str, act: fn(&Arc<Inner>)| {
            let inner = system.0.clone();
            std::thread::Builder::new().name(name.into()).spawn(move || act(&inner)).map_err(StartError::Thread)
        };
        spawn("una-health", health::run)?;
        spawn("una-keeper", keeper::run)?;
        spawn("una-where", location::run)?;
        spawn("una-rebind", rebind::run)?;
        spawn("una-keep", keep::run)?;
        spawn("una-lease", supervise::run_lease)?;
        spawn("una-again", supervise::run)?;
        spawn("una-lost", lost::run)?;
        spawn("una-lend", lend::run)?;
        system.0.tell_own_life(own);
        Ok(system)
    }

    /// Whose processes others are told of.
    pub fn serve(&self, node: Node) {
        let weak = Arc::downgrade(&self.0);
        node.watch(Box::new(move |process, fate| {
            let Some(inner) = weak.upgrade() else { return };
            match fate {
                Fate::Started(program) => inner.chronicle.record(Kind::ProcessStarted { process, program }),
                Fate::Ended(exit) => {
                    inner.keep.over(process.into());
                    inner.supervise.over(process.into());
                    inner.chronicle.record(Kind::ProcessEnded { process, ending: Ending(exit) });
                }
                Fate::Forgotten => {}
            }
            inner.tell_fate(process, fate);
        }));
        node.engine().look_elsewhere(Box::new(programs::Others(Arc::downgrade(&self.0))));
        node.join(Arc::new(KernelWire(Arc::downgrade(&self.0))));
        assert!(self.0.node.set(node).is_ok(), "a system has one node here");
        // Links that were there before.
        self.0.tell_links();
    }

    /// What is done with streams in which other nodes' clients speak.
    pub fn on_commands(&self, act: OnCommands) {
        assert!(self.0.on_commands.set(act).is_ok(), "streams are served once");
    }

    pub fn me(&self) -> NodeId {
        self.0.me
    }

    /// Which start of this node this is.
    pub fn life(&self) -> u64 {
        self.0.record().life
    }

    /// The tree of the whole computer.
    pub fn files(&self) -> Shared {
        self.0.files.clone()
    }

    /// What all nodes agree about of names of ports.
    pub fn names(&self) -> Arc<dyn crate::node::Registry> {
        Arc::new(self.0.names.clone())
    }

    pub fn name_of(&self, node: NodeId) -> String {
        self.0.name_of(node)
    }

    /// Is another node heard?
    pub fn is_heard(&self, node: NodeId) -> bool {
        self.0.may_be_asked(node)
    }

    /// A connection to another node's server, which `head` says something about.
    pub fn commands(&self, node: NodeId, head: &[u8]) -> Result<Stream, Reach> {
        let key = self.0.directory.key_of(node).ok_or(Reach::NoSuchNode(node))?;
        let opened = self.0.wire.open(key, service::COMMANDS, head, Instant::now() + ANSWER_TIMEOUT);
        opened.map_err(|error| self.0.not_heard(node, &error.to_string()))
    }

    /// The processes of this node and of all others, or why a node does not say.
    #[expect(clippy::type_complexity, reason = "it is what one node says, for each")]
    pub fn processes(&self, ended: bool) -> Vec<Result<Vec<ProcessView>, (NodeId, String, String)>> {
        let own = self.0.node.get().map(|node| own_processes(node, ended)).unwrap_or_default();
        let mut parts = vec![Ok(own)];
        let question = ears::Question::Processes { ended };
        for (node, answer) in self.0.ask_all(&question) {
            let read = answer.and_then(|body| serde_json::from_slice(&body).map_err(|error| error.to_string()));
            parts.push(read.map_err(|why| (node, self.name_of(node), why)));
        }
        parts
    }

    /// A ticket for one more node, and when it expires.
    pub fn ticket(&self, lasts: Duration) -> Result<(String, u64), SystemError> {
        let addresses = self.0.wire.addresses();
        if addresses.is_empty() {
            return Err(SystemError::Refused(
                "this node does not listen, so nobody can join it: start it without --alone".into(),
            ));
        }
        let mut secret = [0; 16];
        HostEntropy.fill(&mut secret).map_err(|error| SystemError::Refused(error.to_string()))?;
        let expires_ms = join::issue(&self.0.facts, &secret, lasts, Instant::now() + FACT_TIMEOUT)?;
        let ticket = Ticket { issuer: self.0.key, secret, expires: expires_ms / 1000, addresses };
        Ok((ticket.to_string(), expires_ms))
    }

    pub fn drain(&self, named: &str, drain: bool) -> Result<(), SystemError> {
        let node = self.0.find(named)?;
        self.0.change_member(node, |member| member.draining = drain)
    }

    /// Takes a node out of the system for good: it is refused from then on.
    pub fn remove(&self, named: &str) -> Result<(), SystemError> {
        let node = self.0.find(named)?;
        if node == self.0.me {
            return Err(SystemError::Refused("this is the node itself: use una leave".into()));
        }
        self.0.remove_member(node)
    }

    /// Takes this node out of the system. What it knows of the system is put aside.
    pub fn leave(&self) -> Result<(), SystemError> {
        if self.0.directory.members().len() < 2 {
            return Err(SystemError::Refused(
                "it is the only node: there is nothing to leave; una down ends it".into(),
            ));
        }
        self.0.hand_names_over(Instant::now() + rebind::FOLLOW_TIMEOUT);
        // Those who hear of it first may close the link before the answer is here.
        self.0.remove_member(self.0.me).or_else(|error| if self.0.is_removed() { Ok(()) } else { Err(error) })?;
        std::fs::write(self.0.data.join(LEFT), b"").map_err(|error| SystemError::Refused(error.to_string()))
    }

    /// Keeps why a process that was just started is here.
    pub fn started(&self, pid: Pid, why: Option<WhyView>) {
        if let Some(why) = why {
            self.0.placed(pid, self.0.me, &why);
            self.0.whys.keep(pid, why);
        }
    }

    /// Waits until something happened here, or so long.
    pub fn wait_event(&self, timeout: Duration) {
        self.0.chronicle.wait(timeout);
    }

    /// Copies all facts to another coordinator and goes on with that one; every node follows.
    ///
    /// Whoever asks again after it was interrupted, anywhere, goes on with it or hears that it was done. Gives how many facts were copied:
    /// none if they were there already.
    pub fn move_coordinator(&self, to: &str, mut goes_on: impl FnMut() -> bool) -> Result<Option<u64>, SystemError> {
        use drivers::coordinator::moved::{self, is_moving, move_to, redirect};
        let record = self.0.record().clone();
        let new = open_coordinator(to, &self.0.raft, &record.system)?;
        let mut goes_on = move || match goes_on() {
            true => Ok(()),
            false => Err(Failure::Refused { why: "who asked for it has gone".into() }),
        };
        // A question finds out where the facts are.
        self.0.facts.range(drivers::coordinator::Range::key(member::NEXT), Instant::now() + FACT_TIMEOUT)?;
        let from = self.0.facts.it();
        // Somebody else moves them, or began to and was interrupted.
        let until = Instant::now() + OTHER_MOVE_TIMEOUT;
        while is_moving(&*from)? && Instant::now() < until {
            goes_on()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        let moved = move_to(&*from, &*new, to, &mut |step| {
            goes_on()?;
            match step {
                moved::Step::Fenced => FactsStep::Fenced,
                moved::Step::Emptied => FactsStep::Emptied,
                moved::Step::Copied { .. } => FactsStep::Copied,
                moved::Step::Compared { .. } => FactsStep::Compared,
                moved::Step::Switched => FactsStep::Switched,
                moved::Step::Opened => FactsStep::Opened,
            }
            .reached();
            Ok(())
        })?;
        // Each node begins to ask its own raft: it must not depend on places where the facts were in between.
        if to != RAFT {
            redirect(&*self.0.raft, to, moved.id)?;
        }
        Ok(moved.keys)
    }

    pub fn view(&self) -> SystemView {
        self.0.view()
    }

    /// Waits until all other members are heard, or so long: who has just joined is known to all then, as a rule.
    pub fn wait_heard(&self, timeout: Duration) {
        let until = Instant::now() + timeout;
        let all_heard = || {
            let others = self.0.others();
            others.iter().all(|(node, _)| self.0.health.is_up(*node))
        };
        while Instant::now() < until && !all_heard() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until this node knows of the system that it is one of its nodes, or so long. Before that it finds no node by a name, not even
    /// itself.
    pub fn wait_known(&self, timeout: Duration) {
        let until = Instant::now() + timeout;
        while Instant::now() < until && !self.0.directory.members().contains_key(&self.0.me) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Can the system decide anything within this time?
    pub fn wait_writable(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        self.0.facts.range(drivers::coordinator::Range::key(member::NEXT), deadline).is_ok()
    }

    /// This node is about to end its processes: those that somebody looks after go on elsewhere, or here when it starts again.
    pub fn going_down(&self) {
        self.0.going_down.store(true, Ordering::Release);
    }

    /// Have the others given up on this life of the node, while it was not heard? Then nothing that it does counts, and it has to end.
    pub fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Acquire)
    }

    /// Says goodbye, and ends what this node does for others. The tree goes to another node first, if one can have it.
    pub fn shutdown(&self) {
        self.0.finish_departures(DEPARTURES_TIMEOUT);
        self.0.let_go_of_processes();
        self.0.names.stop();
        self.0.files.let_go();
        self.0.health.leave();
        let until = Instant::now() + GOODBYE_TIMEOUT;
        while !self.0.health.has_left() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.0.stopping.store(true, Ordering::Release);
        self.0.follow_no_more();
        self.0.raft.close();
        self.0.wire.stop();
    }
}

/// In a data directory: its node left its system, and the directory is to be put aside.
const LEFT: &str = "left";

/// Puts aside what a node that left its system knew of it, so that it begins anew. Gives where it is now.
pub fn put_aside_if_left(data: &Path) -> std::io::Result<Option<PathBuf>> {
    // Its daemon may still be ending.
    if !data.join(LEFT).exists() || crate::protocol::place::is_held(data)? {
        return Ok(None);
    }
    put_aside(data).map(Some)
}

fn put_aside(data: &Path) -> std::io::Result<PathBuf> {
    let mut number = 1;
    loop {
        let mut name = data.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".before-{number}"));
        let aside = data.with_file_name(name);
        if !aside.exists() {
            std::fs::rename(data, &aside)?;
            return Ok(aside);
        }
        number += 1;
    }
}

/// Coordinators by the names that people and moves give them: `raft`, or `etcd://HOST:PORT[,HOST:PORT...]`.
fn opener(raft: &Arc<Raft>, system: &str) -> drivers::coordinator::current::Opener {
    let (raft, system) = (raft.clone(), system.to_string());
    Box::new(move |name| open_coordinator(name, &raft, &system))
}

/// What a move calls una's own.
const RAFT: &str = "raft";

fn open_coordinator(name: &str, raft: &Arc<Raft>, system: &str) -> Result<Arc<dyn Coordinator>, Failure> {
    if name == RAFT {
        return Ok(raft.clone());
    }
    let Some(hosts) = name.strip_prefix("etcd://").filter(|hosts| !hosts.is_empty()) else {
        let why = format!("`{name}` is no coordinator: raft, or etcd://HOST:PORT[,HOST:PORT...]");
        return Err(Failure::Refused { why });
    };
    let urls: Vec<String> = hosts.split(',').map(|host| format!("http://{host}")).collect();
    // Others may use it too, other systems among them.
    Ok(Arc::new(drivers::coordinator::etcd::Etcd::connect(&urls, &format!("una/{system}/"))?))
}

/// On the usual port, on the one of the last time, or on any.
fn listen_somewhere(
    identity: &Path, hello: Hello, listen: Option<SocketAddr>, last: Option<u16>, ears: Arc<Ears>,
    clock: Arc<OnTheWire>,
) -> Result<Wire, StartError> {
    let start = |listen: &[SocketAddr]| -> Result<Wire, StartError> {
        Ok(Wire::start(Identity::load_or_make(identity)?, hello.clone(), listen, ears.clone(), clock.clone())?)
    };
    let Some(listen) = listen else {
        return start(&[]);
    };
    if listen.port() != 0 {
        return start(&[listen]);
    }
    let mut refused = None;
    for port in [last.unwrap_or(PORT), PORT, 0] {
        match start(&[SocketAddr::new(listen.ip(), port)]) {
            Err(error @ StartError::Wire(WireError::Listen { .. })) => refused = Some(error),
            started => return started,
        }
    }
    Err(refused.expect("three ports were tried"))
}

fn own_processes(node: &Node, ended: bool) -> Vec<ProcessView> {
    let mut views = node.processes();
    views.retain(|view| ended || !matches!(view.state, crate::node::State::Ended(_)));
    views
}

impl Inner {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("nothing panics while it holds this lock")
    }

    fn is_going_down(&self) -> bool {
        self.going_down.load(Ordering::Acquire)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn name_of(&self, node: NodeId) -> String {
        match self.directory.members().get(&node) {
            Some(member) => member.name.clone(),
            None => node.to_string(),
        }
    }

    fn not_heard(&self, node: NodeId, why: &str) -> Reach {
        Reach::NotHeard { name: self.name_of(node), why: why.into() }
    }

    /// A process that began was given a place.
    fn placed(&self, pid: Pid, on: NodeId, why: &WhyView) {
        let reason = why.nodes.iter().find(|node| node.chosen).map_or("", |node| &node.reason);
        self.chronicle.record(Kind::ProcessPlaced { process: pid.id(), on, why: reason.into() });
    }

    fn find(&self, named: &str) -> Result<NodeId, SystemError> {
        member::find(&self.directory.members(), named).ok_or_else(|| SystemError::NoNode(named.into()))
    }

    /// All members but this one.
    fn others(&self) -> Vec<(NodeId, NodeKey)> {
        let members = self.directory.members();
        let others = members.iter().filter(|(number, _)| **number != self.me);
        others.filter_map(|(number, member)| Some((*number, member.node_key()?))).collect()
    }

    /// Asks one other member, and waits.
    fn ask(&self, node: NodeId, question: &ears::Question) -> Result<Vec<u8>, String> {
        let key = self.directory.key_of(node).ok_or("it is no member")?;
        let body = serde_json::to_vec(question).expect("plain data");
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let ask = Ask { service: service::SYSTEM, class: Class::Call, body: &body, deadline };
        self.wire.ask_and_wait(key, ask).map_err(|error| error.to_string())
    }

    /// Asks all other members at once; each has an answer or the reason why not.
    fn ask_all(&self, question: &ears::Question) -> Vec<(NodeId, Result<Vec<u8>, String>)> {
        let body = serde_json::to_vec(question).expect("plain data");
        let (give, get) = std::sync::mpsc::channel();
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let others = self.others();
        for (number, key) in &others {
            let (give, number) = (give.clone(), *number);
            let ask = Ask { service: service::SYSTEM, class: Class::Call, body: &body, deadline };
            let done = move |answer: Result<Vec<u8>, AskError>| {
                let _ = give.send((number, answer.map_err(|error| error.to_string())));
            };
            self.wire.ask(*key, ask, Box::new(done));
        }
        drop(give);
        let mut answers: Vec<_> = get.iter().collect();
        answers.sort_by_key(|(number, _)| *number);
        answers
    }

    fn following(&self) -> MutexGuard<'_, Following> {
        self.following.lock().expect("nothing panics while it holds this lock")
    }

    /// Hears of every change of the members, if it does not: all of them first, since older changes are not kept for ever. What follows
    /// from them is done on a thread of its own: the coordinator's must not wait for the disk.
    fn follow_members(this: &Arc<Inner>) {
        match &mut *this.following() {
            following @ Following::No => *following = Following::Reading,
            _ => return,
        }
        let weak = Arc::downgrade(this);
        let follow = move || {
            let events = weak.upgrade().map(|inner| inner.begin_to_follow());
            for event in events.and_then(Result::ok).into_iter().flatten() {
                let Some(inner) = weak.upgrade() else { return };
                match event {
                    WatchEvent::Changed { changes, .. } => inner.members_changed(changes),
                    // Looked after by the keeper, which begins again.
                    WatchEvent::Ended(_) => break,
                }
            }
            if let Some(inner) = weak.upgrade() {
                inner.follow_no_more();
            }
        };
        if std::thread::Builder::new().name("una-members".into()).spawn(follow).is_err() {
            this.follow_no_more();
        }
    }

    fn begin_to_follow(&self) -> Result<std::sync::mpsc::Receiver<WatchEvent>, Failure> {
        use drivers::coordinator::{Change as Fact, Range};
        let known: Vec<NodeId> = self.directory.members().keys().copied().collect();
        // At first what is known here at once is more than nothing. That somebody is gone must be true.
        let mut range = Range::prefix(member::PREFIX);
        range.stale = known.is_empty();
        let found = self.facts.range(range, Instant::now() + FACT_TIMEOUT)?;
        let mut changes: Vec<Fact> = found.records.into_iter().map(Fact::Put).collect();
        let there: Vec<NodeId> = changes.iter().filter_map(|change| member::read_key(change.key())).collect();
        let gone = known.iter().filter(|node| !there.contains(node));
        changes.extend(gone.map(|node| Fact::Deleted(member::key(*node).into())));
        self.members_changed(changes);
        let (give, take) = std::sync::mpsc::channel();
        // Unbounded, but as many wait as there are changes of members while one of them is acted on.
        let sink = move |event: WatchEvent| {
            let _ = give.send(event);
        };
        let watch = self.facts.watch(KeyRange::prefix(member::PREFIX), found.revision.next(), Box::new(sink))?;
        *self.following() = Following::Hears { _watch: watch };
        Ok(take)
    }

    fn follow_no_more(&self) {
        let ended = std::mem::take(&mut *self.following());
        drop(ended);
    }

    fn members_changed(&self, changes: Vec<drivers::coordinator::Change>) {
        use drivers::coordinator::Change as Fact;
        for change in changes {
            match change {
                Fact::Put(record) => {
                    if let Some((number, member)) = member::read(&record.key, &record.value) {
                        self.member_put(number, member);
                    }
                }
                Fact::Deleted(key) => {
                    if let Some(number) = member::read_key(&key) {
                        self.member_gone(number);
                    }
                }
            }
        }
        self.health.belong(&self.directory.members());
        self.tell_living();
        self.remember_peers();
    }

    /// Somebody is heard again, or not any more.
    fn heard(&self, change: Change) {
        if let (Change::Over { node, life }, Some(kernel)) = (change, self.node.get()) {
            kernel.heard(node, Heard::Lost { life });
            self.departures.forget(node);
        }
        if matches!(change, Change::Down { .. }) {
            self.noticed.rouse();
        }
        let living = self.tell_living();
        self.files.members(&living);
    }

    /// Whoever looks for processes is told who lives.
    fn tell_living(&self) -> Vec<NodeId> {
        // Looked at and told by one thread at a time: else what was seen first could be told last, and would be believed until the next
        // change.
        let order = self.telling.lock().expect("nothing panics while it holds this lock");
        let members: Vec<NodeId> = self.directory.members().keys().copied().collect();
        let own_life = self.record().life;
        let life = |node: NodeId| if node == self.me { Some(own_life) } else { self.health.life_if_up(node) };
        let mut living: Vec<(NodeId, u64)> = members.into_iter().filter_map(|node| Some((node, life(node)?))).collect();
        let nodes = living.iter().map(|(node, _)| *node).collect();
        if living.is_empty() {
            // Before the facts are there.
            living.push((self.me, own_life));
        }
        let packets = self.living_whereabouts(&living);
        drop(order);
        self.send_whereabouts(packets);
        nodes
    }

    /// Tells the kernel of all links that are there.
    fn tell_links(&self) {
        let Some(node) = self.node.get() else { return };
        for link in self.wire.links() {
            if let (LinkState::Linked { hello, .. }, Some(number)) = (&link.state, self.directory.number_of(link.peer))
            {
                node.heard(number, Heard::Linked { life: hello.life });
            }
        }
    }

    /// There is a link to another member.
    fn linked(&self, number: NodeId, life: u64) {
        self.unlinkable.forget(number);
        self.noticed.linked(number);
        self.health.linked(number, life);
        if let Some(node) = self.node.get() {
            node.heard(number, Heard::Linked { life });
        }
    }

    fn member_put(&self, number: NodeId, member: Member) {
        if let Some(key) = member.node_key() {
            self.directory.know(number, key);
            if number != self.me {
                self.wire.admit(key, &record::addresses(&member.addresses));
            }
        }
        if number == self.me && member.life > self.record().life && !self.is_over.swap(true, Ordering::AcqRel) {
            self.chronicle.record(Kind::LifeOver { node: number, life: self.record().life });
        }
        let known = self.directory.members().insert(number, member.clone());
        if known.is_none() {
            // The link may have come first.
            let links = self.wire.links();
            let link = links.iter().find(|link| member.node_key() == Some(link.peer));
            if let Some(LinkState::Linked { hello, .. }) = link.map(|link| &link.state) {
                self.linked(number, hello.life);
            }
        }
        match known {
            None => self.chronicle.record(Kind::NodeJoined { node: number, name: member.name.as_str().into() }),
            Some(before) if member.draining && !before.draining => {
                self.chronicle.record(Kind::NodeDraining { node: number });
            }
            Some(before) if member.given_up && !before.given_up && number != self.me => {
                self.chronicle.record(Kind::LifeOver { node: number, life: before.life });
            }
            Some(_) => {}
        }
    }

    fn member_gone(&self, number: NodeId) {
        let was_member = self.directory.members().remove(&number).is_some();
        let key = self.directory.forget(number);
        self.unlinkable.forget(number);
        self.chronicle.record(Kind::NodeRemoved { node: number });
        self.whereabouts(services::location::Input::Removed { node: number });
        if number == self.me {
            self.refused("this node was removed from the system".into());
        } else if let Some(key) = key.filter(|_| was_member) {
            self.wire.dismiss(key, "it is no member of the system any more");
        }
    }

    /// This node is none of the system any more, and why.
    fn refused(&self, why: String) {
        *self.refusal() = Some(why);
    }

    fn refusal(&self) -> MutexGuard<'_, Option<String>> {
        self.refusal.lock().expect("nothing panics while it holds this lock")
    }

    /// So that this node finds the others after a restart, when it has nobody to ask.
    fn remember_peers(&self) {
        let peers: Vec<record::Peer> = {
            let members = self.directory.members();
            let others = members.iter().filter(|(number, _)| **number != self.me);
            others.map(|(number, member)| member.peer(*number)).collect()
        };
        let mut record = self.record();
        if record.peers != peers {
            record.peers = peers;
            // What cannot be written now is written at the next change; until then an older list serves.
            let _ = record.write(&self.data);
        }
    }

    /// Has this node been taken out? Waits a moment for the word of it.
    fn is_removed(&self) -> bool {
        let until = Instant::now() + ANSWER_TIMEOUT;
        while Instant::now() < until {
            let refused = self.refusal().is_some() || self.unlinkable.is_unwanted();
            if refused || !self.directory.members().contains_key(&self.me) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Nobody has heard it for as long as it said that this may be: its life is over. All others end what they have to do with that life,
    /// and it ends itself when it hears of it. Only who leads the coordinator does this, which is where a majority is.
    fn give_up_on(&self, node: NodeId) -> Result<(), SystemError> {
        self.change_member(node, |member| {
            if !member.given_up && member.lost_after_s > 0 {
                member.given_up = true;
                member.life += 1;
            }
        })
    }

    fn change_member(&self, node: NodeId, change: impl Fn(&mut Member)) -> Result<(), SystemError> {
        let deadline = Instant::now() + FACT_TIMEOUT;
        let key = member::key(node);
        while Instant::now() < deadline {
            let found = self.facts.range(drivers::coordinator::Range::key(&key), deadline)?;
            let Some(record) = found.records.first() else {
                return Err(SystemError::NoNode(node.to_string()));
            };
            let Some((_, mut member)) = member::read(&record.key, &record.value) else {
                return Err(SystemError::Refused(format!("what is kept of {node} is damaged")));
            };
            let before = member.clone();
            change(&mut member);
            if member == before {
                return Ok(());
            }
            let transaction = Transaction::new()
                .when(Compare::unchanged(&key, record.modified))
                .then(Action::put(&key, member.to_bytes()));
            if self.facts.transact(transaction, deadline)?.succeeded {
                return Ok(());
            }
        }
        Err(SystemError::NoQuorum("others changed the same thing all the time".into()))
    }

    fn remove_member(&self, node: NodeId) -> Result<(), SystemError> {
        let deadline = Instant::now() + FACT_TIMEOUT;
        // It must not vote any more before it is forgotten.
        keeper::give_up_vote(self, node, deadline)?;
        let transaction = Transaction::of(vec![Action::delete(member::key(node))]);
        self.facts.transact(transaction, deadline)?;
        Ok(())
    }

    /// What this node is from the beginning of this life on.
    fn tell_own_life(self: &Arc<Inner>, own: Member) {
        self.tell_of_itself(move |member| {
            (member.lost_after_s, member.given_up) = (own.lost_after_s, false);
            // The others may have given up on this very life by now, and that stands.
            if member.life > own.life {
                member.given_up = true;
            }
            member.life = member.life.max(own.life);
        });
    }

    /// This machine has other addresses than before.
    pub(super) fn tell_addresses(self: &Arc<Inner>) {
        self.tell_of_itself(|_| {});
    }

    /// In the background, since it may be long until the system can decide something. Where this node is now is told along with it.
    fn tell_of_itself(self: &Arc<Inner>, what: impl Fn(&mut Member) + Send + 'static) {
        let inner = self.clone();
        let tell = move || {
            while !inner.is_stopping() {
                let told = inner.change_member(inner.me, |member| {
                    member.addresses = inner.wire.addresses().iter().map(SocketAddr::to_string).collect();
                    what(member);
                });
                match told {
                    Ok(()) | Err(SystemError::NoNode(_) | SystemError::Refused(_)) => return,
                    Err(SystemError::NoQuorum(_)) => std::thread::sleep(Duration::from_millis(500)),
                }
            }
        };
        // Without this thread others find this node where it was, or hear where it is from the wire.
        let _ = std::thread::Builder::new().name("una-addresses".into()).spawn(tell);
    }

    /// How many of these voters may be lost until what is left is no majority, by whom this node hears.
    fn losses_left(&self, voters: &[drivers::coordinator::Member]) -> u32 {
        let is_gone = |number| matches!(self.health.state_of(number), NodeState::Down | NodeState::Left);
        let number = |voter: &drivers::coordinator::Member| NodeId(voter.id as u16);
        let up = voters.iter().map(number).filter(|number| *number == self.me || !is_gone(*number)).count();
        up.saturating_sub(voters.len() / 2 + 1) as u32
    }

    fn view(&self) -> SystemView {
        let status = self.facts.status();
        // Those who keep an etcd are no nodes.
        let own = status.kind == drivers::coordinator::Kind::Raft;
        let numbers = |members: &[drivers::coordinator::Member]| -> Vec<u16> {
            members.iter().filter(|_| own).map(|one| one.id as u16).collect()
        };
        let (writable, why_not, losses) = match &status.quorum {
            Quorum::Answers { losses_left } => (true, None, *losses_left as u32),
            Quorum::Lost { why } => (false, Some(why.clone()), 0),
        };
        // One that has begun to lead has not missed anybody yet: whom members call down can be lost no more.
        let losses = if own { losses.min(self.losses_left(&status.voters)) } else { losses };
        let coordinator = CoordinatorView {
            kind: match status.kind {
                drivers::coordinator::Kind::Raft => "raft".into(),
                drivers::coordinator::Kind::Etcd => "etcd".into(),
            },
            leader: status.leader.as_ref().filter(|_| own).map(|leader| leader.id as u16),
            voters: numbers(&status.voters),
            standbys: numbers(&status.standbys),
            revision: status.revision.0,
            writable,
            why_not,
        };
        let links = self.wire.links();
        let members = self.directory.members().clone();
        let line = |(number, member): (&NodeId, &Member)| {
            let link = member.node_key().and_then(|key| links.iter().find(|link| link.peer == key));
            let round_trip_us = match link.map(|link| &link.state) {
                Some(LinkState::Linked { rtt, .. }) if !rtt.is_zero() => Some(rtt.as_micros() as u64),
                _ => None,
            };
            let state = if *number == self.me { NodeState::Up } else { self.health.state_of(*number) };
            let role = match number.0 {
                id if coordinator.leader == Some(id) => Role::Leader,
                id if coordinator.voters.contains(&id) => Role::Voter,
                id if coordinator.standbys.contains(&id) => Role::Standby,
                _ => Role::None,
            };
            NodeLine {
                number: number.0,
                name: member.name.clone(),
                key: member.key.clone(),
                state,
                role,
                draining: member.draining,
                addresses: member.addresses.clone(),
                round_trip_us,
                facts: match *number == self.me {
                    true => Some(health::shown(self.record().life, health::soft_facts(self))),
                    false => self.health.soft(*number).map(|(life, facts)| health::shown(life, facts)),
                },
            }
        };
        let nodes: Vec<NodeLine> = members.iter().map(line).collect();
        let mut complaints = vec![];
        if let Some(refusal) = &*self.refusal() {
            complaints.push(format!("{refusal}: {JOIN_AGAIN}"));
        }
        complaints.extend(self.unlinkable.complaints(|node| self.name_of(node)));
        for node in nodes.iter().filter(|node| node.state == NodeState::Down) {
            complaints.push(format!(
                "{} (n{}) is down: start it again there with una up, or take it out with una remove {}",
                node.name, node.number, node.name
            ));
        }
        let files = self.files.view();
        let files_view = FilesView {
            holder: files.holder.map(|holder| holder.0),
            under_replicated: files.copies.map_or(0, |copies| copies.thin as u64),
            copies: files.copies_possible as u32,
        };
        complaints.extend(files.complaints);
        let record = self.record();
        SystemView {
            system: record.system.clone(),
            name: record.system_name.clone(),
            me: self.me.0,
            nodes,
            coordinator,
            files: files_view,
            survives: losses,
            complaints,
            lending: self.lending_view(),
        }
    }
}
