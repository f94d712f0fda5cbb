//! A stream of bytes between two nodes, for plain threads: blocking, with a bound on what is on its way. Knows no connection's making.
//!
//! The one idea: an end may only send what the other has room for, and the other says so ahead (credit). So a slow reader holds up its
//! own writer and nobody else, and no end holds more than its window.
//!
//! ```text
//!   opener ── Open(window) ──►          each way: Data* End?      each end, last: Close
//!          ◄── Credit(window) ── other  after half a window is read: Credit
//! ```
//!
//! A reader is told the end of the data (0) only if the writer said that it was the end ([`Stream::shutdown`]). When the writer is
//! dropped before, or the link breaks, reading fails, so what was cut short is never taken for the whole.

use super::channel::{Channel, NotQueued, lock, wait};
use super::frame::{Header, Kind, shortened};
use super::limits::{FRAME_BYTES, STREAMS_MAX, WHY_BYTES};
use super::{Class, OpenError, Unlinked, Violation};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;
use tokio::sync::Notify;

/// One end of a stream. Dropping the last clone closes it.
pub struct Stream(Arc<Handle>);

/// What the clones of one end share.
struct Handle(Arc<End>);

/// The streams of one link.
pub struct Streams {
    channel: Arc<Channel>,
    table: Mutex<Table>,
    /// There are none any more: a visit is over.
    pub emptied: Notify,
}

/// Invariants: a stream is in `ends` from its opening until both ends have said `Close`, or the link is gone.
struct Table {
    ends: BTreeMap<u32, Arc<End>>,
    /// The numbers that this node gives are odd or even, and the peer's the other.
    last: u32,
    over: bool,
}

struct End {
    id: u32,
    streams: Arc<Streams>,
    state: Mutex<State>,
    changed: Condvar,
    /// Set before `End` or `Close` is queued: no data may be queued after them.
    shut: AtomicBool,
}

/// Invariants: `received_bytes` is the sum over `received`; `granted + received_bytes + read` is the window until the data ends.
struct State {
    received: VecDeque<Vec<u8>>,
    /// Of the first piece in `received`, what was read already.
    taken: usize,
    received_bytes: u32,
    /// What the other end may still send.
    granted: u32,
    /// What was read and is not granted again yet.
    read: u32,
    window: u32,
    /// What this end may still send. `None` until the other end has taken the stream.
    credit: Option<u32>,
    incoming: Flow,
    outgoing: Flow,
    closed: Closed,
    deadline: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    Ended,
}

#[derive(Clone, PartialEq, Eq)]
enum Closed {
    No,
    /// This end has said `Close`; what still comes is thrown away.
    Here,
    /// The other end has, and so has this one.
    There(String),
    Link(Unlinked),
}

impl Streams {
    /// `parity` is 1 at the end that made the link, else 0.
    pub fn new(channel: Arc<Channel>, parity: u32) -> Arc<Streams> {
        let table = Table { ends: BTreeMap::new(), last: parity, over: false };
        Arc::new(Streams { channel, table: Mutex::new(table), emptied: Notify::new() })
    }

    fn header(kind: Kind, id: u32) -> Header {
        Header { kind, class: Class::Bulk, detail: 0, id }
    }

    /// The one stream of a visit, which both ends know of.
    pub fn of_visit(self: &Arc<Streams>, window: u32) -> Stream {
        let end = End::new(self.clone(), 1, window, Some(window));
        lock(&self.table).ends.insert(1, end.clone());
        Stream(Arc::new(Handle(end)))
    }

    /// Opens one, and waits until the other end has taken it.
    pub fn open(
        self: &Arc<Streams>, purpose: u8, head: &[u8], window: u32, deadline: Instant,
    ) -> Result<Stream, OpenError> {
        let end = {
            let mut table = lock(&self.table);
            if table.over {
                return Err(OpenError::Unlinked);
            }
            if table.of_parity(table.last) >= STREAMS_MAX / 2 {
                return Err(OpenError::Busy);
            }
            let id = loop {
                table.last = table.last.wrapping_add(2);
                if !table.ends.contains_key(&table.last) {
                    break table.last;
                }
            };
            let end = End::new(self.clone(), id, window, None);
            table.ends.insert(id, end.clone());
            end
        };
        let stream = Stream(Arc::new(Handle(end.clone())));
        let header = Header { detail: purpose, ..Streams::header(Kind::Open, end.id) };
        self.channel.in_order(Class::Bulk, header.frame(&[&window.to_le_bytes(), head]));
        let mut state = lock(&end.state);
        loop {
            match &state.closed {
                _ if state.was_taken() => break,
                Closed::Link(why) => return Err(OpenError::Lost(why.clone())),
                Closed::There(why) => return Err(OpenError::Refused(why.clone())),
                Closed::No | Closed::Here => {}
            }
            let late;
            (state, late) = wait(&end.changed, state, Some(deadline));
            if late {
                drop(state);
                return Err(OpenError::Late);
            }
        }
        drop(state);
        Ok(stream)
    }

    /// The peer opens one. It counts as we do, so that it never opens too many.
    pub fn opened(self: &Arc<Streams>, id: u32, window: u32, credit: u32) -> Result<Stream, Violation> {
        let mut table = lock(&self.table);
        if id & 1 == table.last & 1 || table.ends.contains_key(&id) {
            return Err(Violation::BadId(id));
        }
        if table.of_parity(id) >= STREAMS_MAX / 2 {
            return Err(Violation::TooMuch("streams"));
        }
        let end = End::new(self.clone(), id, window, Some(credit));
        if !table.over {
            table.ends.insert(id, end.clone());
        }
        Ok(Stream(Arc::new(Handle(end))))
    }

    /// After the peer's stream was given to whoever it is for: the peer is told that it was taken, unless it was dropped.
    pub fn took(&self, id: u32) -> Result<(), Violation> {
        let Some(end) = self.find(id) else { return Ok(()) };
        let state = lock(&end.state);
        match state.closed {
            Closed::No => self.credit(id, state.window),
            _ => Ok(()),
        }
    }

    fn credit(&self, id: u32, bytes: u32) -> Result<(), Violation> {
        self.channel.housekeeping(Streams::header(Kind::Credit, id).frame(&[&bytes.to_le_bytes()]))
    }

    fn find(&self, id: u32) -> Option<Arc<End>> {
        lock(&self.table).ends.get(&id).cloned()
    }

    fn known(&self, id: u32) -> Result<Arc<End>, Violation> {
        self.find(id).ok_or(Violation::BadId(id))
    }

    pub fn data(&self, id: u32, bytes: &[u8]) -> Result<(), Violation> {
        self.known(id)?.data(bytes)
    }

    pub fn credited(&self, id: u32, bytes: u32) -> Result<(), Violation> {
        self.known(id)?.credited(bytes)
    }

    pub fn ended(&self, id: u32) -> Result<(), Violation> {
        self.known(id)?.ended()
    }

    pub fn closed(&self, id: u32, why: String) -> Result<(), Violation> {
        let end = self.known(id)?;
        end.close(Closed::There(why), Some(""));
        let mut table = lock(&self.table);
        table.ends.remove(&id);
        if table.ends.is_empty() {
            self.emptied.notify_one();
        }
        Ok(())
    }

    /// The link is gone.
    pub fn end(&self, why: &Unlinked) {
        let ends = {
            let mut table = lock(&self.table);
            table.over = true;
            std::mem::take(&mut table.ends)
        };
        ends.values().for_each(|end| {
            end.close(Closed::Link(why.clone()), None);
        });
    }

    pub fn check(&self) {
        lock(&self.table).ends.values().for_each(|end| lock(&end.state).check());
    }
}

impl Table {
    fn of_parity(&self, id: u32) -> usize {
        self.ends.keys().filter(|other| *other & 1 == id & 1).count()
    }
}

impl State {
    fn check(&self) {
        let received = self.received.iter().map(Vec::len).sum::<usize>() - self.taken;
        assert_eq!(received, self.received_bytes as usize);
        if self.incoming == Flow::Open && self.closed == Closed::No {
            assert_eq!(
                u64::from(self.granted) + u64::from(self.received_bytes) + u64::from(self.read),
                u64::from(self.window)
            );
        }
    }
}

impl End {
    fn new(streams: Arc<Streams>, id: u32, window: u32, credit: Option<u32>) -> Arc<End> {
        let state = State {
            received: VecDeque::new(),
            taken: 0,
            received_bytes: 0,
            granted: window,
            read: 0,
            window,
            credit,
            incoming: Flow::Open,
            outgoing: Flow::Open,
            closed: Closed::No,
            deadline: None,
        };
        Arc::new(End { id, streams, state: Mutex::new(state), changed: Condvar::new(), shut: AtomicBool::new(false) })
    }

    fn data(&self, bytes: &[u8]) -> Result<(), Violation> {
        let mut state = lock(&self.state);
        let length = bytes.len() as u32;
        if state.incoming == Flow::Ended || length == 0 {
            return Err(Violation::OutOfPlace("data of a stream"));
        }
        state.granted = state.granted.checked_sub(length).ok_or(Violation::TooMuch("data of a stream"))?;
        if state.closed == Closed::No {
            state.received.push_back(bytes.into());
            state.received_bytes += length;
            self.changed.notify_all();
        }
        Ok(())
    }

    fn credited(&self, bytes: u32) -> Result<(), Violation> {
        let mut state = lock(&self.state);
        let sum = state.credit.unwrap_or(0).checked_add(bytes).filter(|_| bytes > 0);
        state.credit = Some(sum.ok_or(Violation::TooMuch("credit"))?);
        self.changed.notify_all();
        Ok(())
    }

    fn ended(&self) -> Result<(), Violation> {
        let mut state = lock(&self.state);
        if state.incoming == Flow::Ended {
            return Err(Violation::OutOfPlace("a second end of a stream"));
        }
        state.incoming = Flow::Ended;
        self.changed.notify_all();
        Ok(())
    }

    /// If it is still open. The other end is told, with these words. The frame is queued under the lock, so that nothing else about
    /// the stream can come after it.
    fn close(&self, how: Closed, tell: Option<&str>) {
        let mut state = lock(&self.state);
        if state.closed != Closed::No {
            return;
        }
        if how == Closed::Here {
            (state.received, state.taken, state.received_bytes) = (VecDeque::new(), 0, 0);
        }
        state.closed = how;
        self.changed.notify_all();
        self.shut.store(true, Ordering::Release);
        if let Some(why) = tell {
            let why = shortened(why, WHY_BYTES).as_bytes();
            self.streams.channel.in_order(Class::Bulk, Streams::header(Kind::Close, self.id).frame(&[why]));
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut state = lock(&self.state);
        while state.received_bytes == 0 {
            match (&state.closed, state.incoming) {
                (Closed::Here, _) => return Err(io::Error::new(ErrorKind::NotConnected, "the stream was shut down")),
                (_, Flow::Ended) => return Ok(0),
                (Closed::There(why), _) => return Err(io::Error::new(ErrorKind::ConnectionReset, left(why))),
                (Closed::Link(why), _) => return Err(io::Error::new(ErrorKind::ConnectionAborted, why.to_string())),
                (Closed::No, Flow::Open) => {}
            }
            let (deadline, late);
            deadline = state.deadline;
            (state, late) = wait(&self.changed, state, deadline);
            if late {
                return Err(io::Error::new(ErrorKind::TimedOut, "the other node sent nothing in time"));
            }
        }
        let mut copied = 0;
        while copied < buffer.len()
            && let Some(piece) = state.received.front()
        {
            let rest = &piece[state.taken..];
            let part = rest.len().min(buffer.len() - copied);
            buffer[copied..copied + part].copy_from_slice(&rest[..part]);
            copied += part;
            if part == rest.len() {
                state.received.pop_front();
                state.taken = 0;
            } else {
                state.taken += part;
            }
        }
        state.received_bytes -= copied as u32;
        state.read += copied as u32;
        if state.read >= state.window / 2 && state.incoming == Flow::Open && state.closed == Closed::No {
            let read = std::mem::take(&mut state.read);
            state.granted += read;
            if self.streams.credit(self.id, read).is_err() {
                // It takes nothing off us, not even this: whoever reads its connection ends the link.
                self.streams.channel.close();
            }
        }
        Ok(copied)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let (part, deadline) = {
            let mut state = lock(&self.state);
            loop {
                state.may_write()?;
                let credit = state.credit.unwrap_or(0);
                if credit > 0 {
                    let part = bytes.len().min(credit as usize).min(FRAME_BYTES);
                    state.credit = Some(credit - part as u32);
                    break (part, state.deadline);
                }
                let (deadline, late);
                deadline = state.deadline;
                (state, late) = wait(&self.changed, state, deadline);
                if late {
                    return Err(io::Error::new(ErrorKind::TimedOut, "the other node did not take the data in time"));
                }
            }
        };
        let header = Streams::header(Kind::Data, self.id);
        match self.streams.channel.data(header, &bytes[..part], deadline, &self.shut) {
            Ok(()) => Ok(part),
            Err(why) => {
                let mut state = lock(&self.state);
                state.credit = state.credit.map(|credit| credit.saturating_add(part as u32));
                match why {
                    NotQueued::Late => {
                        Err(io::Error::new(ErrorKind::TimedOut, "the network did not take the data in time"))
                    }
                    NotQueued::Over | NotQueued::Shut => {
                        state.may_write()?;
                        Err(io::Error::new(ErrorKind::ConnectionAborted, "the link to the other node is gone"))
                    }
                }
            }
        }
    }
}

impl State {
    /// Did whoever it was opened for have it? They may have written all and gone before this end looks, and before the credit for this
    /// end was given.
    fn was_taken(&self) -> bool {
        self.credit.is_some() || self.received_bytes > 0 || self.incoming == Flow::Ended
    }

    fn may_write(&self) -> io::Result<()> {
        match (&self.closed, self.outgoing) {
            (Closed::Here, _) | (_, Flow::Ended) => {
                Err(io::Error::new(ErrorKind::BrokenPipe, "the stream was shut down"))
            }
            (Closed::There(why), _) => Err(io::Error::new(ErrorKind::BrokenPipe, left(why))),
            (Closed::Link(why), _) => Err(io::Error::new(ErrorKind::ConnectionAborted, why.to_string())),
            (Closed::No, Flow::Open) => Ok(()),
        }
    }
}

fn left(why: &str) -> String {
    match why {
        "" => "the other end left before it had finished".into(),
        why => why.into(),
    }
}

impl Stream {
    /// Another handle to the same end: one thread may read while another writes.
    pub fn try_clone(&self) -> io::Result<Stream> {
        Ok(Stream(self.0.clone()))
    }

    fn end(&self) -> &End {
        &self.0.0
    }

    /// `Write`: the other end reads to the end of what was written, then 0. `Read` and `Both`: this end has nothing more to do with
    /// it, and the other is told; what was sent and not read is lost.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let end = self.end();
        match how {
            Shutdown::Write => {
                let mut state = lock(&end.state);
                state.may_write()?;
                state.outgoing = Flow::Ended;
                end.shut.store(true, Ordering::Release);
                end.streams.channel.in_order(Class::Bulk, Streams::header(Kind::End, end.id).frame(&[]));
            }
            Shutdown::Read | Shutdown::Both => end.close(Closed::Here, Some("")),
        }
        Ok(())
    }

    /// Closes it; the other end's reads and writes fail with these words.
    pub fn refuse(self, why: &str) {
        self.end().close(Closed::Here, Some(why));
    }

    /// When reading and writing give up, with `TimedOut`. `None` waits as long as the link lives.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        let mut state = lock(&self.end().state);
        state.deadline = deadline;
        self.end().changed.notify_all();
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.end().read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.end().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.end().read(buffer)
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.end().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close(Closed::Here, Some(""));
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Stream({})", self.end().id)
    }
}
