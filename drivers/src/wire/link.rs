//! A link: two connections to one peer, and all that is on its way over them. Knows no way to make one.
//!
//! The one idea: each frame is either in its place or ends the link. Every table has the same bounds at both ends, so a peer that keeps
//! to the rules never meets one, and one that does not costs nobody but itself.

use super::asks::{Asking, Finished, Serving, Whole};
use super::channel::{Body, Channel, Counted, lock, together};
use super::frame::{self, Frames, HEADER_BYTES, Header, Kind, Outcome, number, words};
use super::limits::{
    ANSWER_BYTES_MAX, ASKS_MAX, BODY_BYTES, FAR, HEAD_BYTES, SILENT_TICKS, TICK, WINDOW_BYTES, WINDOW_BYTES_FAR,
};
use super::stream::Streams;
use super::{
    Ask, AskError, Class, Clock, Done, Hello, NoClock, OpenError, Receiver, SendError, Service, Stream, Unlinked,
    Violation,
};
use abi::ids::NodeKey;
use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout};

/// What is read of a socket at once.
const READ_BYTES: usize = 256 << 10;

/// After so many reads in a row the other connections of the thread have their turn.
const READS_IN_A_ROW: usize = 8;

/// After the last word of a link, for so long what the other end still sends is read and thrown away, so that the word arrives.
pub const PARTING: Duration = Duration::from_millis(500);

/// The connection for pages and bulk may be silent for so many times longer: it has nothing to say that anyone waits for at once.
const BULK_PATIENCE: u32 = 4;

/// How a link was made: who pings, and who gives odd numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    ReachedOut,
    WasReached,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    Calls,
    Bulk,
}

/// What a link is, besides its connections.
pub struct About {
    pub peer: NodeKey,
    pub number: u64,
    pub hello: Hello,
    pub address: SocketAddr,
    pub side: Side,
}

/// Invariants: once `over` is set, the connections are closed or closing, and nothing more is taken in.
pub struct Link {
    pub about: About,
    pub since: Instant,
    /// Not there on a visit, which is one stream and nothing else.
    calls: Option<Arc<Channel>>,
    bulk: Arc<Channel>,
    receiver: Arc<dyn Receiver>,
    clock: Arc<dyn Clock>,
    asking: Mutex<Asking>,
    serving: Mutex<Serving>,
    pub streams: Arc<Streams>,
    /// Answers that are still to be given, of cancelled requests too.
    answers: Arc<AtomicUsize>,
    answer_bytes: Arc<AtomicUsize>,
    rtt_us: AtomicU64,
    pings: Mutex<Pings>,
    over: Mutex<Option<Unlinked>>,
    /// Wakes [`Link::watch`]: somebody's deadline is sooner than it knows, or the link is over.
    sooner: Notify,
    /// When `watch` looks next.
    looks: Mutex<Instant>,
}

#[derive(Default)]
struct Pings {
    sent: u32,
    answered: u32,
    when: Option<Instant>,
}

/// The right to answer one request. Dropped, the asker is told that nobody answered.
pub struct Answer {
    link: Weak<Link>,
    asker: NodeKey,
    class: Class,
    id: u32,
    serial: u64,
    given: Option<Outstanding>,
}

/// Counts an answer that is still to be given.
struct Outstanding(#[expect(dead_code, reason = "it is there to be dropped")] Counted);

impl Link {
    pub fn new(
        about: About, calls: Option<Arc<Channel>>, bulk: Arc<Channel>, receiver: Arc<dyn Receiver>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Link> {
        let parity = u32::from(about.side == Side::ReachedOut);
        Arc::new(Link {
            about,
            since: Instant::now(),
            streams: Streams::new(bulk.clone(), parity),
            calls,
            bulk,
            receiver,
            clock,
            asking: Mutex::default(),
            serving: Mutex::default(),
            answers: Arc::default(),
            answer_bytes: Arc::default(),
            rtt_us: AtomicU64::new(0),
            pings: Mutex::default(),
            over: Mutex::new(None),
            sooner: Notify::new(),
            looks: Mutex::new(Instant::now()),
        })
    }

    fn channels(&self) -> impl Iterator<Item = (Lane, &Arc<Channel>)> {
        self.calls.iter().map(|calls| (Lane::Calls, calls)).chain([(Lane::Bulk, &self.bulk)])
    }

    fn lane(&self, lane: Lane) -> &Arc<Channel> {
        match lane {
            Lane::Calls => self.calls.as_ref().unwrap_or(&self.bulk),
            Lane::Bulk => &self.bulk,
        }
    }

    /// Not there for anything but streams on a visit.
    fn of_class(&self, class: Class) -> Option<&Arc<Channel>> {
        let calls = self.calls.as_ref()?;
        Some(match lane_of(class) {
            Lane::Calls => calls,
            Lane::Bulk => &self.bulk,
        })
    }

    pub fn is_over(&self) -> bool {
        lock(&self.over).is_some()
    }

    pub fn why_over(&self) -> Option<Unlinked> {
        lock(&self.over).clone()
    }

    pub fn rtt(&self) -> Duration {
        Duration::from_micros(self.rtt_us.load(Ordering::Relaxed))
    }

    fn window(&self) -> u32 {
        match self.rtt() < FAR {
            true => WINDOW_BYTES,
            false => WINDOW_BYTES_FAR,
        }
    }

    /// Bytes by class: sent, received.
    pub fn traffic(&self) -> ([u64; 4], [u64; 4]) {
        let read = |counts: &[AtomicU64; 2]| [counts[0].load(Ordering::Relaxed), counts[1].load(Ordering::Relaxed)];
        let (mut sent, mut received) = ([0; 4], [0; 4]);
        for (lane, channel) in self.channels() {
            let start = if lane == Lane::Calls { 0 } else { 2 };
            sent[start..start + 2].copy_from_slice(&read(&channel.sent));
            received[start..start + 2].copy_from_slice(&read(&channel.received));
        }
        (sent, received)
    }

    // What this node sends.

    pub fn send(&self, class: Class, message: &[u8]) -> Result<(), SendError> {
        let channel = self.of_class(class).ok_or(SendError::Unlinked)?;
        channel.message(Header { kind: Kind::Message, class, detail: 0, id: 0 }, message)
    }

    /// What cannot be asked comes back, and `done` was not called.
    pub fn ask(&self, ask: Ask, done: Done) -> Result<(), (Done, AskError)> {
        let Some(channel) = self.of_class(ask.class) else { return Err((done, AskError::Unlinked)) };
        if ask.body.len() > BODY_BYTES {
            return Err((done, AskError::TooLong));
        }
        let id = lock(&self.asking).begin(ask.class, ask.body.len(), ask.deadline, done)?;
        let header = Header { kind: Kind::Ask, class: ask.class, detail: ask.service.0, id };
        channel.body(Body { header, bytes: ask.body.into(), sent: 0, begun: false, counted: None });
        if ask.deadline < *lock(&self.looks) {
            self.sooner.notify_one();
        }
        Ok(())
    }

    pub fn open(&self, purpose: Service, head: &[u8], deadline: Instant) -> Result<Stream, OpenError> {
        if head.len() > HEAD_BYTES {
            return Err(OpenError::TooLong);
        }
        self.streams.open(purpose.0, head, self.window(), deadline)
    }

    /// The stream of a visit.
    pub fn visit(&self) -> Stream {
        self.streams.of_visit(WINDOW_BYTES)
    }

    fn answer(&self, class: Class, id: u32, serial: u64, outcome: Outcome, bytes: Vec<u8>) {
        if !lock(&self.serving).answered(id, serial) {
            return;
        }
        self.send_answer(class, id, outcome, bytes);
    }

    fn send_answer(&self, class: Class, id: u32, outcome: Outcome, bytes: Vec<u8>) {
        let Some(channel) = self.of_class(class) else { return };
        let (outcome, bytes) = match bytes.len() > BODY_BYTES {
            true => (Outcome::Failed, format!("an answer may have {BODY_BYTES} bytes at most").into_bytes()),
            false => (outcome, bytes),
        };
        let (outcome, bytes, counted) = match Counted::add(&self.answer_bytes, bytes.len(), ANSWER_BYTES_MAX) {
            Some(counted) => (outcome, bytes, Some(counted)),
            None => (Outcome::Busy, Vec::new(), None),
        };
        let header = Header { kind: Kind::Answer, class, detail: outcome as u8, id };
        channel.body(Body { header, bytes, sent: 0, begun: false, counted });
    }

    // What arrives.

    /// Works through the frames that are whole.
    fn work(self: &Arc<Link>, lane: Lane, frames: &mut Frames) -> Result<(), Violation> {
        together(|| {
            while let Some((header, payload)) = frames.next()? {
                if self.lane(lane).is_over() {
                    break;
                }
                self.take(lane, header, payload)?;
            }
            Ok(())
        })
    }

    fn take(self: &Arc<Link>, lane: Lane, header: Header, payload: &[u8]) -> Result<(), Violation> {
        let Header { kind, class, id, .. } = header;
        if lane_of(class) != lane && !matches!(kind, Kind::Bye | Kind::Stamp) {
            return Err(Violation::OutOfPlace("a class that has another connection"));
        }
        let channel = self.lane(lane);
        let place = usize::from(matches!(class, Class::Call | Class::Bulk));
        channel.received[place].fetch_add((HEADER_BYTES + payload.len()) as u64, Ordering::Relaxed);
        let is_visit = self.calls.is_none();
        match kind {
            Kind::Ping => self.pinged(lane, header, payload),
            Kind::Pong => self.ponged(lane, id),
            Kind::Bye => {
                self.end(Unlinked::Told(words(payload)));
                Ok(())
            }
            Kind::Data if class == Class::Bulk => self.streams.data(id, payload),
            Kind::Credit if class == Class::Bulk => self.streams.credited(id, number(payload)?.0),
            Kind::End if class == Class::Bulk => self.streams.ended(id),
            Kind::Close if class == Class::Bulk => self.streams.closed(id, words(payload)),
            Kind::Hello | Kind::Refused | Kind::Commit | Kind::Welcome => {
                Err(Violation::OutOfPlace("a handshake's frame"))
            }
            _ if is_visit => Err(Violation::OutOfPlace("more than a stream on a visit")),
            Kind::Stamp => {
                self.clock.heard(self.about.peer, frame::parse_stamp(payload)?);
                Ok(())
            }
            Kind::Open if class == Class::Bulk => self.opened(header, payload),
            Kind::Message => {
                self.receiver.arrived(self.about.peer, class, payload);
                Ok(())
            }
            Kind::Ask => {
                let whole = lock(&self.serving).ask(header, payload)?;
                self.asked(id, whole)
            }
            Kind::AskMore => {
                let whole = lock(&self.serving).more(header, payload)?;
                self.asked(id, whole)
            }
            Kind::Cancel => {
                let open = lock(&self.serving).cancel(id);
                if open {
                    self.send_answer(class, id, Outcome::Cancelled, Vec::new());
                }
                Ok(())
            }
            Kind::Answer => {
                let finished = lock(&self.asking).answer(header, payload)?;
                finish(finished);
                Ok(())
            }
            Kind::AnswerMore => {
                let finished = lock(&self.asking).more(header, payload)?;
                finish(finished);
                Ok(())
            }
            Kind::Open | Kind::Data | Kind::Credit | Kind::End | Kind::Close => {
                Err(Violation::OutOfPlace("a stream in another class than bulk"))
            }
        }
    }

    fn asked(self: &Arc<Link>, id: u32, whole: Option<Whole>) -> Result<(), Violation> {
        let Some(Whole { service, class, serial, body }) = whole else { return Ok(()) };
        // Cancelled requests may still be worked on, and do not count for the peer: here they do.
        let Some(outstanding) = Counted::add(&self.answers, 1, 2 * ASKS_MAX) else {
            self.answer(class, id, serial, Outcome::Busy, Vec::new());
            return Ok(());
        };
        let given = Some(Outstanding(outstanding));
        let asker = self.about.peer;
        let answer = Answer { link: Arc::downgrade(self), asker, class, id, serial, given };
        self.receiver.asked(asker, service, body, answer);
        Ok(())
    }

    fn opened(&self, header: Header, payload: &[u8]) -> Result<(), Violation> {
        let (credit, head) = number(payload)?;
        if head.len() > HEAD_BYTES {
            return Err(Violation::TooMuch("the head of a stream"));
        }
        let stream = self.streams.opened(header.id, self.window(), credit)?;
        self.receiver.opened(self.about.peer, Service(header.detail), head.into(), stream);
        self.streams.took(header.id)
    }

    fn pinged(&self, lane: Lane, header: Header, payload: &[u8]) -> Result<(), Violation> {
        let (rtt_us, _) = number(payload)?;
        if rtt_us > 0 && lane == Lane::Calls {
            self.measured(Duration::from_micros(rtt_us.into()));
        }
        self.lane(lane).housekeeping(Header { kind: Kind::Pong, ..header }.frame(&[]))
    }

    fn ponged(&self, lane: Lane, id: u32) -> Result<(), Violation> {
        let rtt = {
            let mut pings = lock(&self.pings);
            let waits = id.wrapping_sub(pings.answered);
            if lane == Lane::Bulk && self.calls.is_some() {
                return Ok(());
            }
            if waits == 0 || waits > pings.sent.wrapping_sub(pings.answered) {
                return Err(Violation::BadId(id));
            }
            pings.answered = id;
            pings.when.filter(|_| id == pings.sent).map(|when| when.elapsed())
        };
        if let Some(rtt) = rtt {
            self.measured(rtt);
        }
        Ok(())
    }

    fn measured(&self, rtt: Duration) {
        let before = self.rtt_us.swap((rtt.as_micros() as u64).max(1), Ordering::Relaxed);
        let was_far = before > 0 && Duration::from_micros(before) >= FAR;
        if rtt >= FAR && !was_far {
            self.channels().filter_map(|(_, channel)| channel.socket()).for_each(prefer_bbr);
        }
    }

    // How it ends.

    /// The link is over. The first reason counts.
    pub fn end(&self, why: Unlinked) {
        {
            let mut over = lock(&self.over);
            if over.is_some() {
                return;
            }
            *over = Some(why.clone());
        }
        let parting = match &why {
            Unlinked::Dismissed(_) | Unlinked::Stopping | Unlinked::Replaced | Unlinked::Violated(_) => {
                Some(why.to_string())
            }
            Unlinked::Closed => Some(String::new()),
            Unlinked::Silent { .. } | Unlinked::Broken(_) | Unlinked::Told(_) => None,
        };
        for (_, channel) in self.channels() {
            match &parting {
                Some(words) => channel.finish(frame::bye(words)),
                None => channel.close(),
            }
        }
        self.streams.end(&why);
        self.sooner.notify_one();
    }

    /// After the last of what arrived: whoever still waits for an answer gets none.
    pub fn settle(&self) {
        let why = self.why_over().unwrap_or(Unlinked::Closed);
        let left = lock(&self.asking).end();
        let unsent: Vec<_> = self.channels().map(|(lane, channel)| (lane, channel.unsent())).collect();
        for (id, class, done) in left {
            let is_unsent = unsent.iter().any(|(lane, ids)| *lane == lane_of(class) && ids.contains(&id));
            done(Err(match is_unsent {
                true => AskError::Unlinked,
                false => AskError::Lost(why.clone()),
            }));
        }
    }

    // The tasks that serve it.

    /// Reads a connection until it ends, and then ends the link. `frames` may hold what came with the handshake.
    pub async fn read(self: Arc<Link>, lane: Lane, mut frames: Frames) {
        let channel = self.lane(lane).clone();
        let why = match channel.socket() {
            Some(socket) => self.read_on(lane, &channel, socket, &mut frames).await,
            None => Unlinked::Closed,
        };
        self.end(why);
        tokio::spawn(async move {
            if let Some(socket) = channel.socket() {
                let _ = timeout(PARTING, throw_away(socket)).await;
            }
            channel.close();
        });
    }

    async fn read_on(
        self: &Arc<Link>, lane: Lane, channel: &Channel, socket: &TcpStream, frames: &mut Frames,
    ) -> Unlinked {
        thread_local! {
            static RAW: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
        }
        if let Err(violation) = self.work(lane, frames) {
            return Unlinked::Violated(violation);
        }
        let mut reads = 0;
        while !channel.is_over() {
            let read = RAW.with_borrow_mut(|raw| -> std::io::Result<_> {
                let read = socket.try_read(raw)?;
                Ok((read, channel.decrypt(&raw[..read], frames.buffer())))
            });
            match read {
                Ok((0, _)) => return Unlinked::Closed,
                Ok((_, Err(violation))) => {
                    // What was deciphered before it is whole, and the last word may be in it.
                    let _ = self.work(lane, frames);
                    return Unlinked::Violated(violation);
                }
                Ok((_, Ok(()))) => {
                    channel.heard.fetch_add(1, Ordering::Relaxed);
                    if let Err(violation) = self.work(lane, frames) {
                        return Unlinked::Violated(violation);
                    }
                    reads += 1;
                    if reads % READS_IN_A_ROW == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Err(error) = socket.readable().await {
                        return broken(&error);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return broken(&error),
            }
        }
        Unlinked::Closed
    }

    /// Goes on writing when the socket takes no more, and tells those who were refused that there is room.
    pub async fn write(self: Arc<Link>, lane: Lane) {
        let channel = self.lane(lane).clone();
        let Some(socket) = channel.socket() else { return };
        loop {
            channel.wake.notified().await;
            let classes = match lane {
                Lane::Calls => [Class::Control, Class::Call],
                Lane::Bulk => [Class::Page, Class::Bulk],
            };
            for (class, room) in classes.into_iter().zip(channel.take_room()) {
                if room && !channel.is_over() {
                    self.receiver.room(self.about.peer, class);
                }
            }
            if channel.is_waiting() {
                if socket.writable().await.is_err() {
                    return;
                }
                channel.resume();
            }
            if channel.is_over() {
                return;
            }
        }
    }

    /// Sees that the other end lives, and that nobody waits longer than they wanted.
    pub async fn watch(self: Arc<Link>) {
        let mut tick = Instant::now() + TICK;
        let mut quiet = [(0, 0); 2];
        while !self.is_over() {
            let now = Instant::now();
            if now >= tick {
                // After a pause of this machine one tick has passed, not many: the other end gets its time.
                tick = now + TICK;
                if let Some(silent) = self.tick(&mut quiet) {
                    return self.end(silent);
                }
            }
            let late = lock(&self.asking).late(now);
            for (class, id, done) in late {
                self.cancel(class, id);
                done(Err(AskError::Late));
            }
            let next = {
                let asking = lock(&self.asking);
                let next = asking.next_deadline().map_or(tick, |deadline| deadline.min(tick));
                *lock(&self.looks) = next;
                next
            };
            tokio::select! {
                () = sleep_until(next.into()) => {}
                () = self.sooner.notified() => {}
            }
        }
    }

    fn cancel(&self, class: Class, id: u32) {
        let Some(channel) = self.of_class(class) else { return };
        match channel.take_back(class, id) {
            true => lock(&self.asking).forget(id),
            false => channel.in_order(class, Header { kind: Kind::Cancel, class, detail: 0, id }.frame(&[])),
        }
    }

    /// Asks for a sign of life, and counts how often there was none. Everything that arrives is one.
    fn tick(&self, quiet: &mut [(u64, u32); 2]) -> Option<Unlinked> {
        let is_visit = self.calls.is_none();
        for (lane, channel) in self.channels() {
            let (heard, times) = &mut quiet[lane as usize];
            let now = channel.heard.load(Ordering::Relaxed);
            *times = if *heard == now { *times + 1 } else { 0 };
            *heard = now;
            let patience = if lane == Lane::Bulk && !is_visit { BULK_PATIENCE } else { 1 };
            if *times > SILENT_TICKS * patience {
                let silent_ms = (TICK * *times).as_millis() as u64;
                return Some(Unlinked::Silent { silent_ms });
            }
            if self.about.side == Side::ReachedOut && (patience == 1 || *times % SILENT_TICKS == SILENT_TICKS - 1) {
                let id = match patience {
                    1 => {
                        let mut pings = lock(&self.pings);
                        pings.sent = pings.sent.wrapping_add(1);
                        pings.when = Some(Instant::now());
                        pings.sent
                    }
                    _ => 0,
                };
                let class = if lane == Lane::Calls { Class::Control } else { Class::Page };
                let rtt_us = u32::try_from(self.rtt_us.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
                let ping = Header { kind: Kind::Ping, class, detail: 0, id }.frame(&[&rtt_us.to_le_bytes()]);
                if let Err(violation) = channel.housekeeping(ping) {
                    return Some(Unlinked::Violated(violation));
                }
            }
        }
        None
    }

    pub fn check(&self) {
        lock(&self.asking).check();
        lock(&self.serving).check();
        self.streams.check();
    }
}

impl Answer {
    /// Who asked.
    pub fn asker(&self) -> NodeKey {
        self.asker
    }

    /// `Err` reaches the asker as [`AskError::Failed`]. Of an asker that has stopped waiting, or is gone, nobody hears.
    pub fn give(mut self, answer: Result<Vec<u8>, String>) {
        match answer {
            Ok(bytes) => self.send(Outcome::Done, bytes),
            Err(why) => self.send(Outcome::Failed, why.into_bytes()),
        }
    }

    fn send(&mut self, outcome: Outcome, bytes: Vec<u8>) {
        self.given = None;
        if let Some(link) = self.link.upgrade() {
            link.answer(self.class, self.id, self.serial, outcome, bytes);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.given.is_some() {
            self.send(Outcome::Failed, b"nobody there answers this".to_vec());
        }
    }
}

fn finish(finished: Finished) {
    if let Some((done, result)) = finished {
        done(result);
    }
}

fn lane_of(class: Class) -> Lane {
    match class {
        Class::Control | Class::Call => Lane::Calls,
        Class::Page | Class::Bulk => Lane::Bulk,
    }
}

fn broken(error: &std::io::Error) -> Unlinked {
    Unlinked::Broken(error.to_string())
}

/// Until the other end closes.
pub async fn throw_away(socket: &TcpStream) {
    let mut bytes = [0; 4096];
    loop {
        match socket.try_read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if socket.readable().await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Congestion control that does not take each loss for congestion, where the kernel has it: on long paths it is many times faster.
fn prefer_bbr(socket: &TcpStream) {
    set_option(socket, libc::TCP_CONGESTION, b"bbr");
}

/// A call must not wait behind megabytes in the socket's own buffer.
pub fn prepare(socket: &TcpStream) {
    const NOT_SENT_BYTES: libc::c_int = 128 << 10;
    let _ = socket.set_nodelay(true);
    set_option(socket, libc::TCP_NOTSENT_LOWAT, &NOT_SENT_BYTES.to_ne_bytes());
}

/// What a kernel does not have is done without.
fn set_option(socket: &TcpStream, option: libc::c_int, value: &[u8]) {
    let length = value.len() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `socket` is, and `value` is as long as `length` says.
    unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, value.as_ptr().cast(), length) };
}

/// Takes bytes as if a peer had sent them, on a link that leads nowhere. They may be anything; it must neither panic nor grow.
pub fn examine(bytes: &[u8], receiver: Arc<dyn Receiver>) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let hello =
        Hello { system: None, node: None, life: 0, name: String::new(), version: String::new(), addresses: vec![] };
    let side = if choice & 1 == 0 { Side::ReachedOut } else { Side::WasReached };
    let lane = if choice & 2 == 0 { Lane::Calls } else { Lane::Bulk };
    let about = About { peer: NodeKey([0; 32]), number: 0, hello, address: SocketAddr::from(([0; 4], 0)), side };
    let calls = (choice & 4 == 0).then(|| Arc::new(Channel::nowhere()));
    let link = Link::new(about, calls, Arc::new(Channel::nowhere()), receiver, Arc::new(NoClock));
    let visit = link.calls.is_none().then(|| link.visit());
    // Something to be answered, cancelled, credited and closed.
    let deadline = link.since + Duration::from_secs(3600);
    for class in [Class::Control, Class::Bulk] {
        let ask = Ask { service: Service(0), class, body: b"?", deadline };
        let _ = link.ask(ask, Box::new(|_| {}));
    }
    let mut frames = Frames::default();
    for part in rest.chunks(1000) {
        frames.buffer().extend(part);
        if let Err(violation) = link.work(lane, &mut frames) {
            link.end(Unlinked::Violated(violation));
            break;
        }
        link.check();
    }
    drop(visit);
    link.end(Unlinked::Closed);
    link.settle();
    link.check();
}
