//! The network: links to other machines. Knows keys, messages, requests and streams of bytes; nothing of what they say.
//!
//! The one idea: a node *is* its Ed25519 key. Whoever is at the other end of a link has proved that it holds the key it is known
//! by, so everything above speaks of keys and never of addresses, and nothing that a peer claims has to be believed.
//!
//! ```text
//!   a link to a peer                      a queue for each class, 256 KiB
//!   ┌─ calls ─ TCP ─ TLS 1.3 ─ frames ─┐  Control, then Call         one thread serves these connections of all peers
//!   └─ bulk ── TCP ─ TLS 1.3 ─ frames ─┘  Page, then Bulk, streams   and another these
//! ```
//!
//! With what leaves goes a stamp of this node's [`Clock`], and the peer's clock hears it before what it goes with arrives.
//!
//! What is promised of a link, and no more: messages of one class arrive in order and at most once while the link lives; a link
//! that breaks says so to both ends, and one that is silent for two seconds is broken. Exactly once, retries and what a message
//! means are the business of whoever sends it.
//!
//! [`Receiver`]'s functions are called on the wire's own threads: they must return at once, and must not wait for the wire. They may
//! send, ask and answer.

use abi::clock::Stamp;
use abi::ids::{NodeId, NodeKey};
use peers::Shared;
use secure::Secure;
use std::cell::Cell;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime;
use tokio::sync::{Notify, oneshot};

mod addresses;
mod asks;
mod channel;
mod frame;
mod identity;
mod link;
mod meet;
mod peers;
mod secure;
mod stream;

pub mod discovery;
pub mod ticket;

pub use frame::Versions;
pub use identity::{Identity, IdentityError};
pub use link::{Answer, examine};
pub use stream::Stream;

/// Bounds. What happens there: queues refuse, handshakes are dropped, a peer that goes over one is a peer no more.
pub mod limits;

/// What a message is for. Each has a queue and a bound of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Class {
    /// What keeps the system together: never waits behind more than one frame of anything else.
    Control = 0,
    /// Calls of programs and their answers.
    Call = 1,
    /// Pages that someone waits for.
    Page = 2,
    /// What may take long: images, copies, streams.
    Bulk = 3,
}

/// Who is meant at the other end by a request or a stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Service(pub u8);

/// The newest version of the protocol that this una speaks.
pub const PROTOCOL: u16 = frame::PROTOCOL.last;

/// What a node tells another when they meet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Which system it belongs to. Two nodes of different systems do not link.
    pub system: Option<[u8; 16]>,
    /// The number that its system gave it.
    pub node: Option<NodeId>,
    /// Counts the starts of the node. Of one key only the newest life is heard.
    pub life: u64,
    /// The machine's name, for people.
    pub name: String,
    /// Which una it runs, for people: what it can speak is settled by the protocol's own numbers.
    pub version: String,
    /// Where it can be reached. A node that leaves this empty tells where it listens, with the addresses that its machine has just
    /// then; one that others reach by other addresses has to say so.
    pub addresses: Vec<SocketAddr>,
}

/// Who hears what arrives. Called on the wire's threads: return at once, never wait for the wire.
///
/// For one peer `linked` comes before anything of that link, `unlinked` after everything, and the next `linked` after that.
pub trait Receiver: Send + Sync {
    /// Both connections to the peer are up.
    fn linked(&self, peer: NodeKey, hello: &Hello);

    /// The link is gone. It is made again, without being asked, as long as the peer is admitted.
    fn unlinked(&self, peer: NodeKey, why: &Unlinked);

    /// A message.
    fn arrived(&self, peer: NodeKey, class: Class, message: &[u8]);

    /// A request. The answer may be given later, by any thread.
    fn asked(&self, peer: NodeKey, service: Service, body: Vec<u8>, answer: Answer);

    /// The peer has opened a stream of bytes. Dropping it refuses it.
    fn opened(&self, peer: NodeKey, purpose: Service, head: Vec<u8>, stream: Stream);

    /// Somebody who is not admitted asks for something; the key is proved. Dropping the stream sends it away.
    fn visited(&self, stranger: NodeKey, hello: &Hello, from: SocketAddr, head: Vec<u8>, stream: Stream);

    /// After [`SendError::Full`]: there is room again.
    fn room(&self, peer: NodeKey, class: Class);

    /// After the link is gone: the machine on which the peer listened in that life of it answers, and says that nobody listens there
    /// now. May be said again.
    fn closed(&self, _peer: NodeKey, _life: u64) {}

    /// A link was refused: by us to them, or by them to us.
    fn refused(&self, _peer: NodeKey, _by: RefusedBy, _why: &Refusal) {}
}

/// The clock whose stamps go with all that crosses a link, so that what follows from something has a later stamp than it, by whatever way
/// it was heard of. Called on any thread, with locks of the wire held: return at once, never call the wire.
pub trait Clock: Send + Sync {
    /// The stamp of what leaves now.
    fn stamp(&self) -> Stamp;

    /// What arrives next from the peer left there at this stamp, as it says.
    fn heard(&self, peer: NodeKey, stamp: Stamp);
}

/// For whoever only visits: there stamps neither come nor go.
pub struct NoClock;

impl Clock for NoClock {
    fn stamp(&self) -> Stamp {
        Stamp::ZERO
    }

    fn heard(&self, _peer: NodeKey, _stamp: Stamp) {}
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusedBy {
    Us,
    Them,
}

/// Why two nodes do not link. The reason reaches the other end in words.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the node is not a member here: have it join with a ticket from `una ticket`")]
    Unknown,
    #[error("the node was removed from the system: {0}")]
    Dismissed(String),
    #[error("the node belongs to another system ({theirs}; this one is {ours})")]
    OtherSystem { ours: String, theirs: String },
    #[error("the node speaks versions {theirs} of the protocol and this one {ours}: bring both to the same una")]
    OtherProtocol { ours: String, theirs: String },
    #[error(
        "the node started again since (life {theirs}, known is {known}), or a copy of its key runs on another machine"
    )]
    OldLife { theirs: u64, known: u64 },
    /// What a peer said that is none of the above.
    #[error("{0}")]
    Other(String),
}

/// Why a link is gone.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unlinked {
    #[error("the other node closed the link")]
    Closed,
    #[error("nothing was heard from the other node for {silent_ms} ms")]
    Silent { silent_ms: u64 },
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the other node sent what it must not send: {0}")]
    Violated(Violation),
    #[error("the other node ended the link: {0}")]
    Told(String),
    #[error("the other node made a new link")]
    Replaced,
    #[error("dismissed: {0}")]
    Dismissed(String),
    #[error("this node is stopping")]
    Stopping,
}

/// What a peer must not send. It costs it the link, and nobody else anything.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame of {0} bytes")]
    TooLong(u32),
    #[error("a frame on the wrong connection, or at the wrong time: {0}")]
    OutOfPlace(&'static str),
    #[error("a frame that is no {0}")]
    Malformed(&'static str),
    #[error("more than it was allowed to send: {0}")]
    TooMuch(&'static str),
    #[error("a number that is in use or was never given: {0}")]
    BadId(u32),
    #[error("TLS: {0}")]
    Tls(String),
}

/// Why a message was not sent. Nothing of it left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    #[error("the queue to that node is full: wait for room")]
    Full,
    #[error("there is no link to that node now")]
    Unlinked,
    #[error("a message may have {} bytes at most", limits::MESSAGE_BYTES)]
    TooLong,
}

/// Why there is no answer to a request.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AskError {
    /// There is no link: the request did not leave.
    #[error("there is no link to that node now")]
    Unlinked,
    /// The link went while the request was on its way: whether it was acted on is not known.
    #[error("the link to that node broke before it answered: {0}")]
    Lost(Unlinked),
    /// It may have been acted on, or may still be.
    #[error("the node did not answer in time")]
    Late,
    /// Too much is in flight at one of the two ends: nothing was done.
    #[error("too many requests to that node are unanswered: try again later")]
    Busy,
    /// Nothing was sent.
    #[error("a request or an answer may have {} bytes at most", limits::BODY_BYTES)]
    TooLong,
    /// Whoever was asked says so.
    #[error("{0}")]
    Failed(String),
}

impl AskError {
    /// Whether whoever was asked may have acted on it, or may still.
    pub fn may_have_arrived(&self) -> bool {
        match self {
            AskError::Unlinked | AskError::Busy | AskError::TooLong => false,
            AskError::Lost(_) | AskError::Late | AskError::Failed(_) => true,
        }
    }
}

/// Why a stream could not be opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    #[error("there is no link to that node now")]
    Unlinked,
    #[error("the link to that node broke: {0}")]
    Lost(Unlinked),
    #[error("the node did not answer in time")]
    Late,
    #[error("too many streams to that node are open: close some")]
    Busy,
    #[error("what a stream begins with may have {} bytes at most", limits::HEAD_BYTES)]
    TooLong,
    #[error("the node does not take this stream: {0}")]
    Refused(String),
    /// Only visits.
    #[error("none of the addresses could be reached: {0}")]
    Unreachable(String),
}

/// Why the wire does not start.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("cannot listen on {address}: {error}; choose another address or port, or end who uses it")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("no thread could be started: {0}")]
    Thread(std::io::Error),
    #[error("this machine has no cryptography for it: {0}")]
    Tls(String),
}

/// How it stands with one admitted peer.
#[derive(Clone, Debug)]
pub struct LinkView {
    pub peer: NodeKey,
    pub state: LinkState,
    /// Where it was found to be, or said to be.
    pub addresses: Vec<SocketAddr>,
}

#[derive(Clone, Debug)]
pub enum LinkState {
    Linked {
        hello: Hello,
        address: SocketAddr,
        since: Instant,
        /// Of the newest ping; zero before the first.
        rtt: Duration,
        /// By class.
        sent_bytes: [u64; 4],
        received_bytes: [u64; 4],
    },
    Trying {
        since: Instant,
        attempts: u32,
        /// What came of the last attempt, in words.
        last: String,
    },
}

/// What an asker does with the answer. Called on a thread of the wire, never within [`Wire::ask`] itself.
pub type Done = Box<dyn FnOnce(Result<Vec<u8>, AskError>) + Send>;

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub service: Service,
    /// Its queue; the answer comes by the same.
    pub class: Class,
    pub body: &'a [u8],
    pub deadline: Instant,
}

/// The wire of this node. Clones are the same wire; it stops when the last is gone, or by [`Wire::stop`].
#[derive(Clone)]
pub struct Wire(Arc<Running>);

struct Running {
    shared: Arc<Shared>,
    stop: Arc<Notify>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

thread_local! {
    /// Whether this thread is one of a wire: what it waits for could never come.
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
}

impl Wire {
    /// `listen` may be empty: then this node can only reach out. Port 0 takes a free one.
    pub fn start(
        identity: Identity, hello: Hello, listen: &[SocketAddr], receiver: Arc<dyn Receiver>, clock: Arc<dyn Clock>,
    ) -> Result<Wire, WireError> {
        Wire::speaking(frame::PROTOCOL, identity, hello, listen, receiver, clock)
    }

    /// As an una that speaks these versions of the protocol would begin to: for tests of how versions meet.
    pub fn speaking(
        versions: Versions, identity: Identity, hello: Hello, listen: &[SocketAddr], receiver: Arc<dyn Receiver>,
        clock: Arc<dyn Clock>,
    ) -> Result<Wire, WireError> {
        let secure = Secure::new(&identity)?;
        let (mut listeners, mut listening) = (Vec::new(), Vec::new());
        for address in listen {
            let refused = |error| WireError::Listen { address: *address, error };
            let listener = TcpListener::bind(address).map_err(refused)?;
            listener.set_nonblocking(true).map_err(refused)?;
            listening.push(listener.local_addr().map_err(refused)?);
            listeners.push(listener);
        }
        let runtime = || runtime::Builder::new_current_thread().enable_all().build().map_err(WireError::Thread);
        let (calls, bulk) = (runtime()?, runtime()?);
        let handles = (calls.handle().clone(), bulk.handle().clone());
        let shared =
            Arc::new(Shared::new(secure, identity.key(), versions, hello, listening, receiver, clock, handles));
        let stop = Arc::new(Notify::new());
        let (ends_bulk, bulk_ends) = oneshot::channel::<()>();
        let (stopping, serving) = (stop.clone(), shared.clone());
        // If the second thread does not start, the first ends with the end of what it would be woken by.
        let bulk = thread("una-wire-bulk", move || {
            bulk.block_on(async {
                let _ = bulk_ends.await;
            });
        })?;
        let calls = thread("una-wire-calls", move || {
            calls.block_on(async {
                for listener in listeners {
                    let listener =
                        tokio::net::TcpListener::from_std(listener).expect("a socket that listens can be waited for");
                    peers::spawn(&serving.calls, serving.clone().listen(listener));
                }
                stopping.notified().await;
                serving.stop().await;
            });
            drop(ends_bulk);
        })?;
        let threads = vec![calls, bulk];
        Ok(Wire(Arc::new(Running { shared, stop, threads: Mutex::new(threads) })))
    }

    /// Closes all links, tells the peers, and ends the threads. Nothing is called back after it.
    pub fn stop(&self) {
        self.0.end();
    }

    pub fn me(&self) -> NodeKey {
        self.0.shared.me
    }

    /// Where others may reach this node: what it says of itself, or what it listens on with the addresses of the machine now.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.shared.hello().addresses
    }

    /// What this node tells of itself from now on. All links are made anew.
    pub fn introduce(&self, hello: Hello) {
        self.0.shared.introduce(hello);
    }

    /// The peer is known from now on and kept linked. These addresses are tried before those that are known already.
    pub fn admit(&self, peer: NodeKey, addresses: &[SocketAddr]) {
        self.0.shared.admit(peer, addresses);
    }

    /// The peer is refused from now on; it is told why.
    pub fn dismiss(&self, peer: NodeKey, why: &str) {
        self.0.shared.dismiss(peer, why);
    }

    pub fn send(&self, peer: NodeKey, class: Class, message: &[u8]) -> Result<(), SendError> {
        if message.len() > limits::MESSAGE_BYTES {
            return Err(SendError::TooLong);
        }
        self.0.shared.link(peer).ok_or(SendError::Unlinked)?.send(class, message)
    }

    /// Is there a link now? It may be gone a moment later.
    pub fn is_linked(&self, peer: NodeKey) -> bool {
        self.0.shared.link(peer).is_some()
    }

    /// Asks. `done` is always called, once: with the answer, or why there is none.
    pub fn ask(&self, peer: NodeKey, ask: Ask, done: Done) {
        let asked = match self.0.shared.link(peer) {
            Some(link) => link.ask(ask, done),
            None => Err((done, AskError::Unlinked)),
        };
        if let Err((done, error)) = asked {
            // Never from within, since the caller may hold a lock that `done` takes. If the wire has stopped, the task is dropped at
            // once and there is nobody else to call it.
            let mut unasked = Unasked(Some((done, error)));
            peers::spawn(&self.0.shared.calls, async move { unasked.call() });
        }
    }

    /// Asks and waits: not from a [`Receiver`]'s function.
    pub fn ask_and_wait(&self, peer: NodeKey, ask: Ask) -> Result<Vec<u8>, AskError> {
        never_ours();
        let (done, answered) = sync_channel(1);
        self.ask(peer, ask, Box::new(move |answer| drop(done.send(answer))));
        answered.recv().unwrap_or(Err(AskError::Lost(Unlinked::Stopping)))
    }

    /// Opens a stream of bytes and waits until the other end has it: not from a [`Receiver`]'s function.
    pub fn open(&self, peer: NodeKey, purpose: Service, head: &[u8], deadline: Instant) -> Result<Stream, OpenError> {
        never_ours();
        self.0.shared.link(peer).ok_or(OpenError::Unlinked)?.open(purpose, head, deadline)
    }

    /// Goes to a node that does not know us: to join. It is the one that holds `key`, or it fails. Not from a [`Receiver`]'s function.
    pub fn visit(
        &self, key: NodeKey, addresses: &[SocketAddr], head: &[u8], deadline: Instant,
    ) -> Result<(Hello, Stream), OpenError> {
        never_ours();
        if head.len() > limits::HEAD_BYTES {
            return Err(OpenError::TooLong);
        }
        let (arrived, arriving) = sync_channel(1);
        let (shared, addresses, head) = (self.0.shared.clone(), addresses.to_vec(), head.to_vec());
        peers::spawn(&self.0.shared.calls, async move {
            let _ = arrived.send(shared.visit(key, addresses, head).await);
        });
        match arriving.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(arrived) => arrived,
            Err(RecvTimeoutError::Timeout) => Err(OpenError::Late),
            Err(RecvTimeoutError::Disconnected) => Err(OpenError::Lost(Unlinked::Stopping)),
        }
    }

    /// All admitted peers.
    pub fn links(&self) -> Vec<LinkView> {
        self.0.shared.views()
    }
}

impl Running {
    fn end(&self) {
        self.stop.notify_one();
        let threads = std::mem::take(&mut *channel::lock(&self.threads));
        // From a thread of its own, the wire stops as soon as that thread comes back.
        if !IS_OURS.get() {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// A request that could not be made, until whoever made it has been told.
struct Unasked(Option<(Done, AskError)>);

impl Unasked {
    fn call(&mut self) {
        if let Some((done, error)) = self.0.take() {
            done(Err(error));
        }
    }
}

impl Drop for Unasked {
    fn drop(&mut self) {
        self.call();
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, WireError> {
    let ours = move || {
        IS_OURS.set(true);
        work();
    };
    std::thread::Builder::new().name(name.into()).spawn(ours).map_err(WireError::Thread)
}

fn never_ours() {
    assert!(!IS_OURS.get(), "a thread of the wire must not wait for the wire");
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "service {}", self.0)
    }
}
