//! Peers: who is known, and one link to each. Knows how links are made and kept, not what crosses them.
//!
//! The one idea: each peer has a *keeper*, a task that alone takes a link into use and lays it down, so that what is told of a peer comes
//! in one order. Which link it is, when both ends reach out at once, is decided where a `Commit` arrives, by rules that both know:
//!
//! ```text
//!   Commit(number of the last link that the sender saw end)
//!     there is a link, of the same life, and it is not the one that the sender saw end    not now: this was sent before that link
//!     we have sent a Commit ourselves, and our key is the greater                          not now: ours will be the link
//!     otherwise                                                                            Welcome
//! ```

use super::addresses::reachable;
use super::channel::{Channel, Counted, lock};
use super::frame::{Frames, Kind, No, Purpose, Versions};
use super::limits::{
    ADDRESSES_MAX, BACKOFF_FIRST, BACKOFF_LAST, DISMISSED_MAX, HANDSHAKE, HINTS_MAX, NEXT_ADDRESS, STRANGERS_MAX,
    STRANGERS_MAX_PER_ADDRESS, VISIT, VISITS_MAX,
};
use super::link::{About, Lane, Link, Side};
use super::meet::{self, Met, Trouble};
use super::secure::Secure;
use super::{Clock, Hello, LinkState, LinkView, OpenError, Receiver, Refusal, RefusedBy, Stream, Unlinked};
use abi::ids::NodeKey;
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, sleep_until, timeout};

/// What all of the wire's tasks share.
pub struct Shared {
    pub me: NodeKey,
    pub secure: Secure,
    pub receiver: Arc<dyn Receiver>,
    clock: Arc<dyn Clock>,
    /// What this node speaks.
    versions: Versions,
    pub listening: Vec<SocketAddr>,
    /// The threads of the wire, by what runs there.
    pub calls: Handle,
    pub bulk: Handle,
    hello: Mutex<Hello>,
    peers: Mutex<Peers>,
    /// Connections that have not proved a key, by where they come from.
    strangers: Mutex<BTreeMap<IpAddr, usize>>,
    visits: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Peers {
    admitted: BTreeMap<NodeKey, Arc<Peer>>,
    dismissed: BTreeMap<NodeKey, String>,
    is_stopping: bool,
}

/// An admitted peer.
pub struct Peer {
    key: NodeKey,
    /// The link in use.
    link: Mutex<Option<Arc<Link>>>,
    state: Mutex<State>,
    events: UnboundedSender<Event>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// Invariants: `current` is set from when a link is decided on until its end is told.
struct State {
    /// The most promising first.
    addresses: Vec<SocketAddr>,
    /// Where it may be too, by what anybody on the network says.
    hints: Vec<SocketAddr>,
    /// Where it listened for certain when there was a link last: it was reached there, or came from there and said so.
    places: Vec<SocketAddr>,
    /// We have sent a Commit and wait for what comes of it.
    committing: bool,
    /// The link that is, or is about to be, in use: its number, and the life of the peer.
    current: Option<(u64, u64)>,
    /// The number of the last link that this end saw end.
    last: u64,
    /// The newest life that was heard of.
    life: u64,
    /// First connections that wait for their second, by the link's number.
    waiting: BTreeMap<u64, oneshot::Sender<Met>>,
    since: Instant,
    attempts: u32,
    trouble: String,
}

enum Event {
    /// A link was decided on.
    Made(Made),
    /// Reaching out came to nothing.
    Failed(Trouble),
    /// Something is different: try again at once.
    Again,
    Dismissed(String),
    Stop,
}

/// A link that is to be taken into use.
struct Made {
    number: u64,
    hello: Hello,
    side: Side,
    calls: Met,
    bulk: Met,
}

/// A link in use, and the tasks that read it.
struct Used {
    link: Arc<Link>,
    /// Taken when they have ended.
    readers: [Option<JoinHandle<()>>; 2],
}

impl Shared {
    pub fn new(
        secure: Secure, me: NodeKey, versions: Versions, hello: Hello, listening: Vec<SocketAddr>,
        receiver: Arc<dyn Receiver>, clock: Arc<dyn Clock>, (calls, bulk): (Handle, Handle),
    ) -> Shared {
        Shared {
            me,
            secure,
            receiver,
            clock,
            versions,
            listening,
            calls,
            bulk,
            hello: Mutex::new(hello),
            peers: Mutex::default(),
            strangers: Mutex::default(),
            visits: Arc::default(),
        }
    }

    pub fn admit(self: &Arc<Shared>, key: NodeKey, addresses: &[SocketAddr]) {
        if key == self.me {
            return;
        }
        let (peer, is_new) = {
            let mut peers = lock(&self.peers);
            if peers.is_stopping {
                return;
            }
            peers.dismissed.remove(&key);
            match peers.admitted.get(&key) {
                Some(peer) => (peer.clone(), false),
                None => {
                    let (events, heard) = unbounded_channel();
                    let peer = Arc::new(Peer::new(key, addresses, events));
                    peers.admitted.insert(key, peer.clone());
                    let keeper = spawn(&self.calls, keep(self.clone(), peer.clone(), heard));
                    *lock(&peer.keeper) = Some(keeper);
                    (peer, true)
                }
            }
        };
        if !is_new && lock(&peer.state).learn(addresses) {
            peer.tell(Event::Again);
        }
    }

    /// Somebody says that a node is there. Only for known ones it is tried, and after all addresses that are known better.
    pub fn found(&self, key: NodeKey, addresses: &[SocketAddr]) {
        let Some(peer) = self.peer(key) else { return };
        let is_new = {
            let mut state = lock(&peer.state);
            let is_new =
                addresses.iter().any(|address| !state.hints.contains(address) && !state.addresses.contains(address));
            state.hints = addresses.iter().take(HINTS_MAX).copied().collect();
            is_new
        };
        if is_new && peer.link().is_none() {
            peer.tell(Event::Again);
        }
    }

    pub fn dismiss(&self, key: NodeKey, why: &str) {
        let mut peers = lock(&self.peers);
        if peers.dismissed.len() < DISMISSED_MAX {
            peers.dismissed.insert(key, why.into());
        }
        if let Some(peer) = peers.admitted.remove(&key) {
            peer.tell(Event::Dismissed(why.into()));
        }
    }

    /// What this node tells of itself, with where it is now.
    pub fn hello(&self) -> Hello {
        let told = lock(&self.hello).clone();
        match told.addresses.is_empty() {
            true => Hello { addresses: reachable(&self.listening), ..told },
            false => told,
        }
    }

    pub fn introduce(&self, hello: Hello) {
        *lock(&self.hello) = hello;
        for peer in self.admitted() {
            if let Some(link) = peer.link() {
                link.end(Unlinked::Replaced);
            }
            peer.tell(Event::Again);
        }
    }

    fn admitted(&self) -> Vec<Arc<Peer>> {
        lock(&self.peers).admitted.values().cloned().collect()
    }

    pub fn peer(&self, key: NodeKey) -> Option<Arc<Peer>> {
        lock(&self.peers).admitted.get(&key).cloned()
    }

    pub fn link(&self, key: NodeKey) -> Option<Arc<Link>> {
        self.peer(key)?.link()
    }

    pub fn views(&self) -> Vec<LinkView> {
        self.admitted().iter().map(|peer| peer.view()).collect()
    }

    /// Ends all links, and waits for the keepers.
    pub async fn stop(&self) {
        let peers = {
            let mut peers = lock(&self.peers);
            peers.is_stopping = true;
            std::mem::take(&mut peers.admitted)
        };
        for peer in peers.values() {
            peer.tell(Event::Stop);
        }
        for peer in peers.values() {
            let keeper = lock(&peer.keeper).take();
            if let Some(keeper) = keeper {
                let _ = keeper.await;
            }
        }
    }

    /// Whether there can be a link with who says this.
    fn weigh(&self, peer: Option<&Peer>, key: NodeKey, theirs: &Hello) -> Result<(), No> {
        let ours = lock(&self.hello).system;
        let Some(peer) = peer else {
            let refusal = match lock(&self.peers).dismissed.get(&key) {
                Some(why) => Refusal::Dismissed(why.clone()),
                None => Refusal::Unknown,
            };
            return Err(No::Refused(refusal));
        };
        if ours != theirs.system {
            let (ours, theirs) = (name_of_system(ours), name_of_system(theirs.system));
            return Err(No::Refused(Refusal::OtherSystem { ours, theirs }));
        }
        let known = lock(&peer.state).life;
        if theirs.life < known {
            return Err(No::Refused(Refusal::OldLife { theirs: theirs.life, known }));
        }
        Ok(())
    }

    /// Takes who comes.
    pub async fn listen(self: Arc<Shared>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((socket, from)) => {
                    let from = meet::canonical(from);
                    let Some(stranger) = Stranger::count(&self, from.ip()) else { continue };
                    spawn(&self.calls, self.clone().receive(socket, from, stranger));
                }
                // Too many open files, mostly: others may go away.
                Err(_) => sleep(BACKOFF_FIRST).await,
            }
        }
    }

    async fn receive(self: Arc<Shared>, socket: TcpStream, from: SocketAddr, stranger: Stranger) {
        let introduced = timeout(HANDSHAKE, async {
            let mut met = meet::receive(&self.secure, self.versions, socket).await?;
            let told = met.hello().await;
            if let Err(Trouble::WeRefused(refusal)) = &told {
                self.receiver.refused(met.peer, RefusedBy::Us, refusal);
            }
            told.map(|(purpose, hello)| (met, purpose, hello))
        });
        let Ok(Ok((met, purpose, hello))) = introduced.await else { return };
        drop(stranger);
        match purpose {
            Purpose::Link { number, lane } => self.linking(met, hello, number, lane).await,
            Purpose::Visit { head } => self.visited(met, hello, from, head).await,
        }
    }

    async fn linking(self: Arc<Shared>, mut met: Met, hello: Hello, number: u64, lane: u8) {
        let peer = self.peer(met.peer);
        if let Err(no) = self.weigh(peer.as_deref(), met.peer, &hello) {
            if let No::Refused(refusal) = &no {
                self.receiver.refused(met.peer, RefusedBy::Us, refusal);
            }
            return met.refuse(&no).await;
        }
        let Some(peer) = peer else { return };
        let ours = self.hello();
        let purpose = Purpose::Link { number, lane };
        if lane == 1 {
            let first = lock(&peer.state).waiting.remove(&number);
            let Some(first) = first else {
                return met.refuse(&No::NotNow("there is no first connection".into())).await;
            };
            if let Ok(Ok(())) = timeout(HANDSHAKE, met.tell(purpose, &ours)).await {
                let _ = first.send(met);
            }
            return;
        }
        let mut waiting = Waiting::new(&peer, number);
        let committed = timeout(HANDSHAKE, async {
            met.tell(purpose, &ours).await?;
            let last = met.signalled(Kind::Commit).await?;
            let bulk = (&mut waiting.second).await.map_err(|_| Trouble::Late)?;
            Ok::<_, Trouble>((last, bulk))
        });
        let Ok(Ok((last, bulk))) = committed.await else { return };
        if let Err(no) = peer.decide(self.me, number, &hello, last) {
            return met.refuse(&no).await;
        }
        match timeout(HANDSHAKE, met.signal(Kind::Welcome, number)).await {
            Ok(Ok(())) => peer.tell(Event::Made(Made { number, hello, side: Side::WasReached, calls: met, bulk })),
            _ => peer.undecide(number),
        }
    }

    async fn visited(self: Arc<Shared>, mut met: Met, hello: Hello, from: SocketAddr, head: Vec<u8>) {
        let Some(_visit) = Counted::add(&self.visits, 1, VISITS_MAX) else {
            return met.refuse(&No::NotNow("too many others are here to join: try again soon".into())).await;
        };
        let ours = self.hello();
        let purpose = Purpose::Visit { head: Vec::new() };
        if !matches!(timeout(HANDSHAKE, met.tell(purpose, &ours)).await, Ok(Ok(()))) {
            return;
        }
        let stranger = met.peer;
        let Ok((link, frames)) = self.single(met, hello.clone(), Side::WasReached) else { return };
        let stream = link.visit();
        self.receiver.visited(stranger, &hello, from, head, stream);
        serve_visit(&self, link, frames).await;
    }

    /// The link of a visit, with one connection.
    fn single(&self, met: Met, hello: Hello, side: Side) -> std::io::Result<(Arc<Link>, Frames)> {
        let about = About { peer: met.peer, number: 0, hello, address: met.address, side };
        let (channel, frames) = self.channel(met, &self.bulk, None)?;
        Ok((Link::new(about, None, channel, self.receiver.clone(), self.clock.clone()), frames))
    }

    /// Moves a connection to the thread that will serve it.
    fn channel(
        &self, met: Met, thread: &Handle, clock: Option<Arc<dyn Clock>>,
    ) -> std::io::Result<(Arc<Channel>, Frames)> {
        let socket = met.socket.into_std()?;
        let _there = thread.enter();
        Ok((Arc::new(Channel::new(TcpStream::from_std(socket)?, met.tls, clock)), met.frames))
    }

    /// Goes to a node that need not know us.
    pub async fn visit(
        self: Arc<Shared>, key: NodeKey, addresses: Vec<SocketAddr>, head: Vec<u8>,
    ) -> Result<(Hello, Stream), OpenError> {
        let arrived = async {
            let mut met = self.reach_any(key, &addresses, |_| {}).await?;
            met.tell(Purpose::Visit { head }, &self.hello()).await?;
            let (_, hello) = met.hello().await?;
            Ok((met, hello))
        };
        let (met, hello) = arrived.await.map_err(|trouble: Trouble| match trouble {
            Trouble::Refused(_) | Trouble::WeRefused(_) | Trouble::NotNow(_) => OpenError::Refused(trouble.to_string()),
            Trouble::Violated(violation) => OpenError::Lost(Unlinked::Violated(violation)),
            _ => OpenError::Unreachable(trouble.to_string()),
        })?;
        let (link, frames) = self
            .single(met, hello.clone(), Side::ReachedOut)
            .map_err(|error| OpenError::Lost(Unlinked::Broken(error.to_string())))?;
        let stream = link.visit();
        spawn(&self.calls.clone(), async move { serve_visit(&self, link, frames).await });
        Ok((hello, stream))
    }

    /// Tries one address after the other, a little apart; the first where the key is proved is taken. `closed` is told of those where
    /// nobody listens, as soon as that is known.
    async fn reach_any(
        self: &Arc<Shared>, key: NodeKey, addresses: &[SocketAddr], closed: impl Fn(SocketAddr) + Send,
    ) -> Result<Met, Trouble> {
        let mut tries = JoinSet::new();
        let mut failures = Vec::new();
        let mut rest = addresses.iter().copied();
        loop {
            let next = rest.next();
            if let Some(address) = next {
                let shared = self.clone();
                tries.spawn(async move {
                    let met = timeout(HANDSHAKE, meet::reach(&shared.secure, shared.versions, address, key)).await;
                    met.unwrap_or(Err(Trouble::Late)).map_err(|trouble| (address, trouble))
                });
            }
            let patience = if next.is_some() { NEXT_ADDRESS } else { HANDSHAKE * 2 };
            match timeout(patience, tries.join_next()).await {
                Ok(Some(Ok(Ok(met)))) => return Ok(met),
                Ok(Some(Ok(Err((address, trouble))))) => {
                    if matches!(trouble, Trouble::Closed(_)) {
                        closed(address);
                    }
                    failures.push(format!("{address}: {trouble}"));
                }
                Ok(Some(Err(_))) | Err(_) => {}
                Ok(None) => {
                    return Err(Trouble::Io(match failures.is_empty() {
                        true => "no address of the node is known".into(),
                        false => failures.join("; "),
                    }));
                }
            }
        }
    }

    /// Makes a link, from here.
    async fn reach_out(self: Arc<Shared>, peer: Arc<Peer>) -> Result<Made, Trouble> {
        let addresses = lock(&peer.state).all_addresses();
        let closed = |address: SocketAddr| {
            let (is_its_place, life) = {
                let state = lock(&peer.state);
                (state.places.contains(&address), state.life)
            };
            if is_its_place {
                self.receiver.closed(peer.key, life);
            }
        };
        let mut calls = self.reach_any(peer.key, &addresses, closed).await?;
        let number = random_number();
        let ours = self.hello();
        calls.tell(Purpose::Link { number, lane: 0 }, &ours).await?;
        let (_, hello) = calls.hello().await?;
        if let Err(no) = self.weigh(Some(&peer), peer.key, &hello) {
            calls.refuse(&no).await;
            return Err(match no {
                No::Refused(refusal) => Trouble::WeRefused(refusal),
                No::NotNow(why) => Trouble::NotNow(why),
            });
        }
        let mut bulk = meet::reach(&self.secure, self.versions, calls.address, peer.key).await?;
        bulk.tell(Purpose::Link { number, lane: 1 }, &ours).await?;
        bulk.hello().await?;
        let committing = Committing::begin(&peer)?;
        let last = lock(&peer.state).last;
        calls.signal(Kind::Commit, last).await?;
        if calls.signalled(Kind::Welcome).await? != number {
            return Err(Trouble::NotNow("it welcomes another link".into()));
        }
        committing.welcomed(number, hello.life)?;
        Ok(Made { number, hello, side: Side::ReachedOut, calls, bulk })
    }
}

impl Peer {
    fn new(key: NodeKey, addresses: &[SocketAddr], events: UnboundedSender<Event>) -> Peer {
        let mut state = State {
            addresses: Vec::new(),
            hints: Vec::new(),
            places: Vec::new(),
            committing: false,
            current: None,
            last: 0,
            life: 0,
            waiting: BTreeMap::new(),
            since: Instant::now(),
            attempts: 0,
            trouble: String::new(),
        };
        state.learn(addresses);
        Peer { key, link: Mutex::new(None), state: Mutex::new(state), events, keeper: Mutex::new(None) }
    }

    pub fn link(&self) -> Option<Arc<Link>> {
        lock(&self.link).clone()
    }

    /// The keeper may have ended: then there is nothing more to tell it.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Whether a link that the peer wants is to be the link. If so, it is from now on.
    fn decide(&self, me: NodeKey, number: u64, theirs: &Hello, last: u64) -> Result<(), No> {
        let link = self.link();
        let mut state = lock(&self.state);
        if theirs.life < state.life {
            return Err(No::Refused(Refusal::OldLife { theirs: theirs.life, known: state.life }));
        }
        if let Some((current, life)) = state.current {
            let is_over = link.is_some_and(|link| link.about.number == current && link.is_over());
            if theirs.life == life && last != current && !is_over {
                return Err(No::NotNow("there is another link".into()));
            }
        }
        if state.committing && me > self.key {
            return Err(No::NotNow("this node has reached out as well".into()));
        }
        state.life = theirs.life;
        state.current = Some((number, theirs.life));
        Ok(())
    }

    fn undecide(&self, number: u64) {
        let mut state = lock(&self.state);
        if state.current.is_some_and(|(current, _)| current == number) {
            state.current = None;
        }
    }

    fn view(&self) -> LinkView {
        let link = self.link();
        let state = lock(&self.state);
        let trying = || LinkState::Trying { since: state.since, attempts: state.attempts, last: state.trouble.clone() };
        let state_of = |link: Arc<Link>| {
            let (sent_bytes, received_bytes) = link.traffic();
            LinkState::Linked {
                hello: link.about.hello.clone(),
                address: link.about.address,
                since: link.since,
                rtt: link.rtt(),
                sent_bytes,
                received_bytes,
            }
        };
        LinkView { peer: self.key, state: link.map_or_else(trying, state_of), addresses: state.addresses.clone() }
    }
}

impl State {
    fn all_addresses(&self) -> Vec<SocketAddr> {
        let hints = self.hints.iter().filter(|hint| !self.addresses.contains(hint));
        self.addresses.iter().chain(hints).copied().collect()
    }

    /// These come first from now on. `true`: some are new.
    fn learn(&mut self, addresses: &[SocketAddr]) -> bool {
        let is_new = addresses.iter().any(|address| !self.addresses.contains(address));
        let mut known = BTreeSet::new();
        let all = addresses.iter().chain(&self.addresses).copied();
        self.addresses = all.filter(|address| known.insert(*address)).take(ADDRESSES_MAX).collect();
        is_new
    }
}

/// Keeps one peer linked, until it is dismissed or the wire stops.
async fn keep(shared: Arc<Shared>, peer: Arc<Peer>, mut events: UnboundedReceiver<Event>) {
    let mut used: Option<Used> = None;
    let mut reaching: Option<JoinHandle<()>> = None;
    let mut pause = BACKOFF_FIRST;
    let mut next = Instant::now();
    let mut refused = None;
    let parting = loop {
        let is_idle = used.is_none() && reaching.is_none();
        let event = tokio::select! {
            event = events.recv() => event.unwrap_or(Event::Stop),
            () = over(&mut used) => {
                if let Some(link) = used.take() {
                    // A link that has held was worth a new beginning at once; one that breaks at once was not.
                    if link.link.since.elapsed() > BACKOFF_LAST {
                        pause = BACKOFF_FIRST;
                    }
                    lay_down(&shared, &peer, link).await;
                    next = Instant::now() + random_part(pause);
                }
                continue;
            }
            () = sleep_until(next.into()), if is_idle => {
                lock(&peer.state).attempts += 1;
                reaching = Some(spawn(&shared.calls, reach_out(shared.clone(), peer.clone())));
                continue;
            }
        };
        match event {
            Event::Made(made) => {
                if let Some(reaching) = reaching.take() {
                    reaching.abort();
                }
                if let Some(old) = used.take() {
                    old.link.end(Unlinked::Replaced);
                    lay_down(&shared, &peer, old).await;
                }
                pause = BACKOFF_FIRST;
                refused = None;
                match take_up(&shared, &peer, made) {
                    Ok(taken) => used = Some(taken),
                    Err(error) => {
                        let mut state = lock(&peer.state);
                        (state.current, state.trouble) = (None, error.to_string());
                    }
                }
            }
            Event::Failed(trouble) => {
                reaching = None;
                lock(&peer.state).trouble = trouble.to_string();
                let told = match trouble {
                    Trouble::Refused(refusal) => Some((RefusedBy::Them, refusal)),
                    Trouble::WeRefused(refusal) => Some((RefusedBy::Us, refusal)),
                    _ => None,
                };
                if let Some((by, why)) = &told
                    && refused != told
                {
                    shared.receiver.refused(peer.key, *by, why);
                }
                refused = told.or(refused);
                next = Instant::now() + random_part(pause);
                pause = (pause * 2).min(BACKOFF_LAST);
            }
            Event::Again => {
                next = Instant::now();
                pause = BACKOFF_FIRST;
            }
            Event::Dismissed(why) => break Unlinked::Dismissed(why),
            Event::Stop => break Unlinked::Stopping,
        }
    };
    if let Some(reaching) = reaching {
        reaching.abort();
    }
    if let Some(used) = used {
        used.link.end(parting);
        lay_down(&shared, &peer, used).await;
    }
}

/// Reaches out once, and tells the keeper what came of it.
async fn reach_out(shared: Arc<Shared>, peer: Arc<Peer>) {
    let made = timeout(HANDSHAKE * 2, shared.reach_out(peer.clone())).await;
    peer.tell(match made.unwrap_or(Err(Trouble::Late)) {
        Ok(made) => Event::Made(made),
        Err(trouble) => Event::Failed(trouble),
    });
}

/// When the link in use is over and both its readers have ended. Without one, never.
async fn over(used: &mut Option<Used>) {
    match used {
        None => std::future::pending().await,
        Some(used) => used.read_out().await,
    }
}

impl Used {
    async fn read_out(&mut self) {
        for slot in &mut self.readers {
            if let Some(reader) = slot {
                let _ = reader.await;
                *slot = None;
            }
        }
    }
}

/// Starts a task that nobody has to look after. When it panics the node stops: whoever was called had a mistake in it, or the wire
/// has, and what it would leave behind cannot be trusted.
pub fn spawn(thread: &Handle, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    struct Whole;

    impl Drop for Whole {
        fn drop(&mut self) {
            if std::thread::panicking() {
                std::process::abort();
            }
        }
    }

    thread.spawn(async move {
        let _whole = Whole;
        task.await;
    })
}

fn take_up(shared: &Arc<Shared>, peer: &Arc<Peer>, made: Made) -> std::io::Result<Used> {
    let Made { number, hello, side, calls, bulk } = made;
    let address = calls.address;
    {
        // It may be found again where it is now, by the ports that it listens on.
        let ports: BTreeSet<u16> = hello.addresses.iter().map(|address| address.port()).collect();
        let seen = ports.into_iter().take(2).map(|port| SocketAddr::new(address.ip(), port));
        let seen: Vec<SocketAddr> = match side {
            Side::ReachedOut => vec![address],
            Side::WasReached => seen.collect(),
        };
        let mut state = lock(&peer.state);
        state.learn(&hello.addresses);
        state.learn(&seen);
        // What it only seems to come from may be a machine that hands on for it.
        state.places = match side {
            Side::ReachedOut => seen,
            Side::WasReached => hello.addresses.iter().filter(|told| told.ip() == address.ip()).copied().collect(),
        };
        (state.attempts, state.trouble) = (0, String::new());
    }
    let clock = || Some(shared.clock.clone());
    let (calls, calls_frames) = shared.channel(calls, &shared.calls, clock())?;
    let (bulk, bulk_frames) = shared.channel(bulk, &shared.bulk, clock())?;
    let about = About { peer: peer.key, number, hello, address, side };
    let link = Link::new(about, Some(calls), bulk, shared.receiver.clone(), shared.clock.clone());
    *lock(&peer.link) = Some(link.clone());
    shared.receiver.linked(peer.key, &link.about.hello);
    spawn(&shared.calls, link.clone().write(Lane::Calls));
    spawn(&shared.bulk, link.clone().write(Lane::Bulk));
    spawn(&shared.calls, link.clone().watch());
    let readers = [
        Some(spawn(&shared.calls, link.clone().read(Lane::Calls, calls_frames))),
        Some(spawn(&shared.bulk, link.clone().read(Lane::Bulk, bulk_frames))),
    ];
    Ok(Used { link, readers })
}

async fn lay_down(shared: &Shared, peer: &Peer, mut used: Used) {
    used.read_out().await;
    let why = used.link.why_over().unwrap_or(Unlinked::Closed);
    *lock(&peer.link) = None;
    {
        let mut state = lock(&peer.state);
        state.last = used.link.about.number;
        if state.current.is_some_and(|(current, _)| current == used.link.about.number) {
            state.current = None;
        }
        (state.since, state.trouble) = (Instant::now(), why.to_string());
    }
    used.link.settle();
    shared.receiver.unlinked(peer.key, &why);
}

async fn serve_visit(shared: &Arc<Shared>, link: Arc<Link>, frames: Frames) {
    spawn(&shared.bulk, link.clone().write(Lane::Bulk));
    spawn(&shared.calls, link.clone().watch());
    let reader = spawn(&shared.bulk, link.clone().read(Lane::Bulk, frames));
    let over = async {
        tokio::select! {
            () = link.streams.emptied.notified() => {}
            _ = reader => {}
        }
    };
    let _ = timeout(VISIT, over).await;
    link.end(Unlinked::Closed);
}

/// A first connection that waits for its second.
struct Waiting<'a> {
    peer: &'a Peer,
    number: u64,
    second: oneshot::Receiver<Met>,
}

impl<'a> Waiting<'a> {
    fn new(peer: &'a Peer, number: u64) -> Waiting<'a> {
        let (first, second) = oneshot::channel();
        lock(&peer.state).waiting.insert(number, first);
        Waiting { peer, number, second }
    }
}

/// While we wait for what comes of our Commit.
struct Committing<'a>(&'a Peer);

impl<'a> Committing<'a> {
    fn begin(peer: &'a Peer) -> Result<Committing<'a>, Trouble> {
        let mut state = lock(&peer.state);
        if state.current.is_some() {
            return Err(Trouble::NotNow("the other node was faster".into()));
        }
        state.committing = true;
        drop(state);
        Ok(Committing(peer))
    }

    fn welcomed(self, number: u64, life: u64) -> Result<(), Trouble> {
        let mut state = lock(&self.0.state);
        if state.current.is_some() {
            return Err(Trouble::NotNow("the other node was faster".into()));
        }
        state.life = state.life.max(life);
        state.current = Some((number, life));
        Ok(())
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).committing = false;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.peer.state).waiting.remove(&self.number);
    }
}

/// A connection that has not proved a key.
struct Stranger {
    shared: Arc<Shared>,
    from: IpAddr,
}

impl Stranger {
    fn count(shared: &Arc<Shared>, from: IpAddr) -> Option<Stranger> {
        let mut strangers = lock(&shared.strangers);
        let here = strangers.get(&from).copied().unwrap_or(0);
        if here >= STRANGERS_MAX_PER_ADDRESS || strangers.values().sum::<usize>() >= STRANGERS_MAX {
            return None;
        }
        strangers.insert(from, here + 1);
        Some(Stranger { shared: shared.clone(), from })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut strangers = lock(&self.shared.strangers);
        match strangers.get_mut(&self.from) {
            Some(here) if *here > 1 => *here -= 1,
            _ => {
                strangers.remove(&self.from);
            }
        }
    }
}

fn name_of_system(system: Option<[u8; 16]>) -> String {
    match system {
        None => "none yet".into(),
        Some(id) => id[..4].iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

fn random_number() -> u64 {
    let mut bytes = [0; 8];
    // Zero is no link. Without random numbers the machine cannot make a key exchange either.
    SystemRandom::new().fill(&mut bytes).expect("TLS has just had random numbers from the same source");
    u64::from_le_bytes(bytes).max(1)
}

/// Between half and all of it, so that nodes that lost each other at once do not meet at once again and again.
fn random_part(pause: Duration) -> Duration {
    let half = pause / 2;
    half + half.mul_f64((random_number() >> 11) as f64 / (1u64 << 53) as f64)
}
