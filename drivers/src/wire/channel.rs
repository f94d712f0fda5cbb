//! One connection: frames into queues, out of queues through TLS into the socket. Knows no frame's meaning and makes no connection.
//!
//! The one idea: whoever sends writes, if nobody writes already. Then no other thread has to wake up for a message to leave, and
//! what comes while somebody writes goes out with the next write, many messages to one system call. When the socket takes no
//! more, the connection's own task goes on as soon as it does.
//!
//! ```text
//!   housekeeping ─┐
//!   first class ──┼─ fill ─► stamp, 64 KiB ─── TLS ─► socket        the *pen*: Free, Held by a thread, or Waiting for the socket
//!   second class ─┘
//! ```
//!
//! A thread of the wire that works through what has arrived holds back what is sent meanwhile ([`together`]), for the same reason.

use super::frame::{self, HEADER_BYTES, Header, Kind, STAMP_BYTES};
use super::limits::{FRAME_BYTES, HOUSEKEEPING_BYTES, QUEUE_BYTES};
use super::{Class, Clock, SendError, Violation};
use rustls::Connection;
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::io::{self, BufRead, ErrorKind, IoSlice, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// What goes into TLS at once: four records.
const BATCH_BYTES: usize = 64 << 10;

/// After so many batches a thread that only wanted to send one message leaves the rest to the connection's task.
const BATCHES_FOR_OTHERS: usize = 4;

/// What a queued message costs beyond its bytes.
const OVERHEAD_BYTES: usize = 32;

pub struct Channel {
    /// Not there when frames are only examined.
    socket: Option<TcpStream>,
    /// Taken before `out`, never after it.
    tls: Mutex<Option<Connection>>,
    /// Its stamps go before each batch. None on a visit.
    clock: Option<Arc<dyn Clock>>,
    out: Mutex<Out>,
    /// The second class has room again: for threads that write streams.
    drained: Condvar,
    /// Wakes the connection's task: the socket is to be waited for, or somebody told about room.
    pub wake: Notify,
    /// Bit n: somebody wants to know that there is room in class n.
    room: AtomicU8,
    over: AtomicBool,
    /// Counts what was read, to see whether the other end lives.
    pub heard: AtomicU64,
    pub sent: [AtomicU64; 2],
    pub received: [AtomicU64; 2],
}

/// Invariants: with the pen `Free`, nothing is queued but what whoever queued it is about to write. `bytes` of a queue is the sum over
/// its messages.
#[derive(Default)]
struct Out {
    pen: Pen,
    housekeeping: VecDeque<Vec<u8>>,
    housekeeping_bytes: usize,
    queues: [Queue; 2],
    /// Threads that wait for `drained`.
    waiting: usize,
    /// Nothing follows what is queued: whoever has written the last of it ends this direction.
    finishes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Pen {
    #[default]
    Free,
    Held,
    /// The socket takes no more; the connection's task goes on.
    Waiting,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Bodies of requests and answers, of which each in turn sends a frame: a short one does not wait for a long one.
    bodies: VecDeque<Body>,
    bodies_turn: bool,
    /// Somebody was told that it is full.
    refused: bool,
}

/// A request or an answer on its way out.
pub struct Body {
    /// Of its first frame.
    pub header: Header,
    pub bytes: Vec<u8>,
    pub sent: usize,
    pub begun: bool,
    /// Counted until all of it is sent.
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub counted: Option<Counted>,
}

/// Takes its bytes off a count when it goes.
pub struct Counted {
    count: Arc<AtomicUsize>,
    bytes: usize,
}

impl Counted {
    /// `None` if it would be more than `bytes_max`.
    pub fn add(count: &Arc<AtomicUsize>, bytes: usize, bytes_max: usize) -> Option<Counted> {
        let fits = |now: usize| now.checked_add(bytes).filter(|sum| *sum <= bytes_max);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Counted { count: count.clone(), bytes })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Why a stream's data did not go into the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotQueued {
    Late,
    /// The connection has ended.
    Over,
    /// The stream takes no more data.
    Shut,
}

thread_local! {
    /// Connections that this thread will write to when it has worked through what has arrived.
    static HELD_BACK: RefCell<Option<Vec<Arc<Channel>>>> = const { RefCell::new(None) };
}

/// What is sent within `work` by this thread leaves when it is done.
pub fn together<R>(work: impl FnOnce() -> R) -> R {
    HELD_BACK.with(|held| *held.borrow_mut() = Some(Vec::new()));
    let done = work();
    let held = HELD_BACK.with(|held| held.borrow_mut().take()).unwrap_or_default();
    held.iter().for_each(|channel| channel.flush());
    done
}

/// No code that holds one of the wire's locks can panic but by a mistake of ours, and then the node must not go on.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds a lock of the wire")
}

impl Channel {
    /// The handshake is over. What of it still has to be sent leaves with the first frame.
    pub fn new(socket: TcpStream, tls: Connection, clock: Option<Arc<dyn Clock>>) -> Channel {
        Channel { socket: Some(socket), tls: Mutex::new(Some(tls)), clock, ..Channel::nowhere() }
    }

    /// Leads nowhere: for examining frames.
    pub fn nowhere() -> Channel {
        Channel {
            socket: None,
            tls: Mutex::new(None),
            clock: None,
            out: Mutex::default(),
            drained: Condvar::new(),
            wake: Notify::new(),
            room: AtomicU8::new(0),
            over: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            sent: Default::default(),
            received: Default::default(),
        }
    }

    pub fn socket(&self) -> Option<&TcpStream> {
        self.socket.as_ref()
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Which of the two queues of its connection a class has.
    fn place(class: Class) -> usize {
        match class {
            Class::Control | Class::Page => 0,
            Class::Call | Class::Bulk => 1,
        }
    }

    /// Queues a message, unless the queue is full.
    pub fn message(self: &Arc<Channel>, header: Header, payload: &[u8]) -> Result<(), SendError> {
        if self.is_over() {
            return Err(SendError::Unlinked);
        }
        let mut out = lock(&self.out);
        let queue = &mut out.queues[Channel::place(header.class)];
        if queue.bytes > 0 && queue.bytes + payload.len() > QUEUE_BYTES {
            queue.refused = true;
            return Err(SendError::Full);
        }
        queue.push(header.frame(&[payload]));
        drop(out);
        self.go();
        Ok(())
    }

    /// Queues a frame that is due to what was sent before, and there can be but one of it for each such thing.
    pub fn in_order(self: &Arc<Channel>, class: Class, frame: Vec<u8>) {
        let mut out = lock(&self.out);
        out.queues[Channel::place(class)].push(frame);
        if out.waiting > 0 {
            // The frame may be the last of a stream that somebody is writing.
            self.drained.notify_all();
        }
        drop(out);
        self.go();
    }

    pub fn body(self: &Arc<Channel>, body: Body) {
        lock(&self.out).queues[Channel::place(body.header.class)].bodies.push_back(body);
        self.go();
    }

    /// Takes back a request of which nothing was sent. If something was, the rest is taken back, and `false` says so.
    pub fn take_back(&self, class: Class, id: u32) -> bool {
        let bodies = &mut lock(&self.out).queues[Channel::place(class)].bodies;
        let is_it = |body: &Body| matches!(body.header.kind, Kind::Ask | Kind::AskMore) && body.header.id == id;
        let place = bodies.iter().position(is_it);
        place.and_then(|place| bodies.remove(place)).is_some_and(|body| !body.begun)
    }

    /// Numbers of requests of which nothing was sent.
    pub fn unsent(&self) -> BTreeSet<u32> {
        let out = lock(&self.out);
        let bodies = out.queues.iter().flat_map(|queue| &queue.bodies);
        bodies.filter(|body| body.header.kind == Kind::Ask && !body.begun).map(|body| body.header.id).collect()
    }

    /// Queues a stream's data, and waits for room. Once `shut` is set nothing is queued.
    pub fn data(
        self: &Arc<Channel>, header: Header, payload: &[u8], deadline: Option<Instant>, shut: &AtomicBool,
    ) -> Result<(), NotQueued> {
        let mut out = lock(&self.out);
        loop {
            if self.is_over() {
                return Err(NotQueued::Over);
            }
            if shut.load(Ordering::Acquire) {
                return Err(NotQueued::Shut);
            }
            let queue = &mut out.queues[Channel::place(header.class)];
            if queue.bytes == 0 || queue.bytes + payload.len() <= QUEUE_BYTES {
                queue.push(header.frame(&[payload]));
                break;
            }
            out.waiting += 1;
            let late;
            (out, late) = wait(&self.drained, out, deadline);
            out.waiting -= 1;
            if late {
                return Err(NotQueued::Late);
            }
        }
        drop(out);
        self.go();
        Ok(())
    }

    /// Queues what must not wait: pings, credit. A peer that takes none of it off us is told off.
    pub fn housekeeping(self: &Arc<Channel>, frame: Vec<u8>) -> Result<(), Violation> {
        let mut out = lock(&self.out);
        if out.housekeeping_bytes + frame.len() > HOUSEKEEPING_BYTES {
            return Err(Violation::TooMuch("it asks, and does not take what it asked for"));
        }
        out.housekeeping_bytes += frame.len();
        out.housekeeping.push_back(frame);
        drop(out);
        self.go();
        Ok(())
    }

    fn go(self: &Arc<Channel>) {
        let held_back = HELD_BACK.with(|held| match held.borrow_mut().as_mut() {
            None => false,
            Some(held) => {
                if !held.iter().any(|channel| Arc::ptr_eq(channel, self)) {
                    held.push(self.clone());
                }
                true
            }
        });
        if !held_back {
            self.flush();
        }
    }

    /// Writes what is queued, if nobody does already.
    pub fn flush(&self) {
        {
            let mut out = lock(&self.out);
            if out.pen != Pen::Free {
                return;
            }
            out.pen = Pen::Held;
        }
        self.write_on(BATCHES_FOR_OTHERS);
    }

    /// The socket takes something again: the connection's task goes on if it was waited for.
    pub fn resume(&self) {
        {
            let mut out = lock(&self.out);
            if out.pen != Pen::Waiting {
                return;
            }
            out.pen = Pen::Held;
        }
        self.write_on(usize::MAX);
    }

    pub fn is_waiting(&self) -> bool {
        lock(&self.out).pen == Pen::Waiting
    }

    /// Whoever calls this holds the pen.
    fn write_on(&self, batches_max: usize) {
        let mut batch = Vec::new();
        for round in 0.. {
            let mut tls = lock(&self.tls);
            match self.drain(tls.as_mut()) {
                Ok(true) if round < batches_max => {}
                Ok(_) => return self.wait_for_socket(),
                Err(_) => return self.broken(),
            }
            batch.clear();
            if self.clock.is_some() {
                batch.resize(STAMP_BYTES, 0);
            }
            if !self.fill(&mut batch) {
                return;
            }
            // After all that it goes with was queued, so it is later than whatever that follows from.
            if let Some(clock) = &self.clock {
                batch[..STAMP_BYTES].copy_from_slice(&frame::stamp(clock.stamp()));
            }
            // TLS has no bound of its own here, but takes nothing after it was sent something false.
            if let Some(tls) = tls.as_mut()
                && tls.writer().write_all(&batch).is_err()
            {
                let _ = self.drain(Some(tls));
                return self.broken();
            }
        }
    }

    /// Nothing can be written any more. The reader sees it, and ends the link.
    fn broken(&self) {
        lock(&self.out).pen = Pen::Waiting;
        self.close();
    }

    fn wait_for_socket(&self) {
        lock(&self.out).pen = Pen::Waiting;
        self.wake.notify_one();
    }

    /// Hands to the socket what TLS has. `false`: it does not take all of it now.
    fn drain(&self, tls: Option<&mut Connection>) -> io::Result<bool> {
        let (Some(tls), Some(socket)) = (tls, &self.socket) else { return Ok(true) };
        while tls.wants_write() {
            match tls.write_tls(&mut Sink(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Takes the next frames off the queues. `false`: there are none, and the pen is free.
    fn fill(&self, batch: &mut Vec<u8>) -> bool {
        let begin = batch.len();
        let mut out = lock(&self.out);
        let mut sent = [0; 2];
        while batch.len() < BATCH_BYTES {
            if let Some(frame) = out.housekeeping.pop_front() {
                out.housekeeping_bytes -= frame.len();
                batch.extend(frame);
                continue;
            }
            let Some(place) = (0..2).find(|place| !out.queues[*place].is_empty()) else { break };
            let before = batch.len();
            out.queues[place].pop(batch);
            sent[place] += batch.len() - before;
        }
        for place in 0..2 {
            self.sent[place].fetch_add(sent[place] as u64, Ordering::Relaxed);
            let queue = &mut out.queues[place];
            if queue.refused && queue.bytes <= QUEUE_BYTES / 2 {
                queue.refused = false;
                self.room.fetch_or(1 << place, Ordering::AcqRel);
                self.wake.notify_one();
            }
        }
        if out.waiting > 0 && out.queues[1].bytes <= QUEUE_BYTES / 2 {
            self.drained.notify_all();
        }
        let is_empty = batch.len() == begin;
        if is_empty {
            out.pen = Pen::Free;
            if out.finishes
                && let Some(socket) = &self.socket
            {
                let _ = shut(socket, Shutdown::Write);
            }
        }
        !is_empty
    }

    /// In which of its two classes there is room again, for those who were refused.
    pub fn take_room(&self) -> [bool; 2] {
        let room = self.room.swap(0, Ordering::AcqRel);
        [room & 1 != 0, room & 2 != 0]
    }

    /// Makes plain bytes of what the socket gave.
    pub fn decrypt(&self, mut raw: &[u8], plain: &mut Vec<u8>) -> Result<(), Violation> {
        let mut tls = lock(&self.tls);
        let Some(tls) = tls.as_mut() else {
            plain.extend(raw);
            return Ok(());
        };
        while !raw.is_empty() {
            let read = tls.read_tls(&mut raw).map_err(|error| Violation::Tls(error.to_string()))?;
            take_plain(tls, plain)?;
            if read == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Says nothing more; what the other end still sends is thrown away by the reader. `message` is sent if it can be at once.
    pub fn finish(&self, message: Vec<u8>) {
        // Whoever holds the pen may be in the middle of a frame, so this is not written over their head, nor is the direction ended before
        // they have written it.
        {
            let mut out = lock(&self.out);
            out.housekeeping_bytes += message.len();
            out.housekeeping.push_back(message);
            out.finishes = true;
        }
        self.flush();
        self.over.store(true, Ordering::Release);
        self.wake_all();
    }

    /// Ends the connection at once.
    pub fn close(&self) {
        self.over.store(true, Ordering::Release);
        if let Some(socket) = &self.socket {
            let _ = shut(socket, Shutdown::Both);
        }
        self.wake_all();
    }

    fn wake_all(&self) {
        self.wake.notify_one();
        // Under the lock, so that nobody looks at `over` before it and waits after it.
        let _out = lock(&self.out);
        self.drained.notify_all();
    }
}

impl Queue {
    fn push(&mut self, frame: Vec<u8>) {
        self.bytes += frame.len() + OVERHEAD_BYTES;
        self.messages.push_back(frame);
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.bodies.is_empty()
    }

    /// Appends the next frame: messages and bodies take turns.
    fn pop(&mut self, batch: &mut Vec<u8>) {
        let from_bodies = !self.bodies.is_empty() && (self.bodies_turn || self.messages.is_empty());
        self.bodies_turn = !from_bodies;
        if !from_bodies {
            let frame = self.messages.pop_front().expect("a queue that is not empty has one or the other");
            self.bytes -= frame.len() + OVERHEAD_BYTES;
            batch.extend(frame);
            return;
        }
        let mut body = self.bodies.pop_front().expect("there are bodies");
        let total = (body.bytes.len() as u32).to_le_bytes();
        let part = &body.bytes[body.sent..];
        let part = &part[..part.len().min(FRAME_BYTES - total.len())];
        match body.begun {
            false => body.header.append(batch, &[&total, part]),
            true => body.header.append(batch, &[part]),
        }
        body.sent += part.len();
        body.begun = true;
        if body.sent < body.bytes.len() {
            body.header.kind = match body.header.kind {
                Kind::Ask | Kind::AskMore => Kind::AskMore,
                _ => Kind::AnswerMore,
            };
            self.bodies.push_back(body);
        }
    }
}

/// Takes what TLS has deciphered.
pub fn take_plain(tls: &mut Connection, plain: &mut Vec<u8>) -> Result<(), Violation> {
    let refused = |error: &dyn std::fmt::Display| Violation::Tls(error.to_string());
    let mut ready = tls.process_new_packets().map_err(|error| refused(&error))?.plaintext_bytes_to_read();
    let mut reader = tls.reader();
    while ready > 0 {
        let piece = reader.fill_buf().map_err(|error| refused(&error))?;
        let length = piece.len();
        assert!(length > 0, "TLS has as much as it says");
        plain.extend(piece);
        reader.consume(length);
        ready -= length;
    }
    Ok(())
}

/// Waits for a condition, at most until the deadline. `true`: it has passed.
pub fn wait<'a, T>(
    condition: &Condvar, held: MutexGuard<'a, T>, deadline: Option<Instant>,
) -> (MutexGuard<'a, T>, bool) {
    let expectation = "nothing panics while it holds a lock of the wire";
    match deadline {
        None => (condition.wait(held).expect(expectation), false),
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (held, true);
            }
            (condition.wait_timeout(held, left).expect(expectation).0, false)
        }
    }
}

fn shut(socket: &TcpStream, how: Shutdown) -> io::Result<()> {
    let how = match how {
        Shutdown::Write => rustix::net::Shutdown::Write,
        _ => rustix::net::Shutdown::Both,
    };
    Ok(rustix::net::shutdown(socket, how)?)
}

/// A socket that does not wait.
struct Sink<'a>(&'a TcpStream);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const _: () = assert!(HEADER_BYTES == 12);
