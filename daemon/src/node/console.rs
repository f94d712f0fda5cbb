//! A process's standard streams inside the node: what it wrote, kept for whoever looks, and what others write to it. Knows neither
//! processes nor sockets: whoever must be roused is a function to call.
//!
//! The one idea: output is a log with positions that never begin anew, of which the newest part is kept. Any number of readers follow it,
//! each at its own place. A reader that must not miss anything holds its place, and the writer waits before it overwrites that.
//!
//! ```text
//!   process --write--> log (ring, LOG_BYTES_MAX) --read from any position--> readers, holds
//!   process <--read--- input (queue, INPUT_BYTES_MAX) <--write--- whoever is attached
//! ```
//! When the process moves to another node, its console goes with it as [`Contents`]: positions stay what they are, what was typed and not
//! read yet is read there, and each reader here is told where to go on.

use abi::encoding::{Malformed, Reader, Writer};
use abi::errno::Errno;
use abi::file::{Direction, Interest, Interrupt, Readiness, Source, Stat, Stream, StreamKind, Waiter, Wake, Watcher};
use abi::ids::NodeId;
use abi::wasi::Filetype;
use engine::tape::{Tag, Tape};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How much of a process's output is kept.
pub const LOG_BYTES_MAX: usize = 256 << 10;
/// How much may wait to be read by a process.
pub const INPUT_BYTES_MAX: usize = 64 << 10;

/// Where output came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    Out,
    Err,
}

/// What a reader gets of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// From position `at` on. `lost` bytes between the position that was asked for and `at` are not kept any more.
    Bytes { stream: Output, at: u64, bytes: Vec<u8>, next: u64, lost: u64 },
    /// Nothing came in time.
    Nothing,
    /// The process has ended, and this is after all that it wrote.
    End,
    /// The process has moved, and this is after all that it wrote here: it is read on there from the same position.
    Moved(NodeId),
}

/// One process's streams. All copies are the same console.
#[derive(Clone)]
pub struct Console(Arc<Shared>);

/// Rouses one process from its sleep.
pub(crate) type Rouse = Arc<dyn Fn() + Send + Sync>;

struct Shared {
    log: Mutex<Log>,
    /// Something was written, or the process ended.
    news: Condvar,
    input: Mutex<Input>,
    /// The process took input, waits for it, or ended.
    room: Condvar,
}

/// Invariants: `runs` are the lengths of the pieces in `ring`, in order, none empty; `end` counts all bytes ever written; a hold is never
/// before `end - ring.len()` or behind `end`.
struct Log {
    ring: VecDeque<u8>,
    runs: VecDeque<(Output, usize)>,
    end: u64,
    holds: Vec<(u64, u64)>,
    next_hold: u64,
    bytes_max: u64,
    /// Processes that sleep until there is room.
    awaited: Vec<Rouse>,
    closed: bool,
    /// Its contents were taken, and it is not known yet whether its process goes on here: who else writes to it waits.
    leaving: bool,
    moved: Option<NodeId>,
    /// Nobody held a place yet, and the first who will must not miss anything.
    kept_for_first: bool,
    /// What lies behind this position is shown to nobody yet, nor overwritten.
    released: Option<u64>,
}

/// Invariant: while it is `leaving` nothing is put in, and nothing taken out.
struct Input {
    bytes: VecDeque<u8>,
    closed: bool,
    awaited: Vec<Rouse>,
    /// The process looked for input, found none, and did not wait.
    looked: bool,
    /// Its contents were taken, and it is not known yet whether the process goes on here.
    leaving: bool,
}

/// A console's whole content, on its way to where its process moves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    log: Vec<u8>,
    runs: Vec<(Output, u32)>,
    end: u64,
    bytes_max: u64,
    /// Somebody must not miss anything: the process waits for them to come.
    lossless: bool,
    input: Vec<u8>,
    input_closed: bool,
}

/// A place in the log that is not overwritten.
pub struct Hold {
    console: Console,
    id: u64,
}

impl Console {
    /// `output_bytes_max` is of all output together.
    pub fn new(has_input: bool, lossless: bool, output_bytes_max: u64) -> Console {
        Console::restore(Contents {
            log: vec![],
            runs: vec![],
            end: 0,
            bytes_max: output_bytes_max,
            lossless,
            input: vec![],
            input_closed: !has_input,
        })
    }

    /// The console of a process that comes from another node.
    pub(crate) fn restore(contents: Contents) -> Console {
        let (log, input) = contents.into_parts();
        Console(Arc::new(Shared {
            log: Mutex::new(log),
            news: Condvar::new(),
            input: Mutex::new(input),
            room: Condvar::new(),
        }))
    }

    /// One that nobody has used yet goes on where another one was left.
    pub(crate) fn go_on(&self, contents: Contents) {
        (*self.log(), *self.input()) = contents.into_parts();
    }

    /// For the node that the process, which does not run now, shall move to, without what lies before this position. Nothing changes any
    /// more until [`Console::stay`] or [`Console::moved`].
    pub(crate) fn leave(&self, since: u64) -> Contents {
        let mut input = self.input();
        input.leaving = true;
        self.log().leaving = true;
        self.contents(&input, since)
    }

    /// What was written so far, to be sent ahead of a process that is about to leave; and the position behind it.
    pub(crate) fn ahead(&self) -> (Contents, u64) {
        let input = Input { bytes: VecDeque::new(), closed: false, awaited: vec![], looked: false, leaving: false };
        let contents = self.contents(&input, 0);
        let end = contents.end;
        (contents, end)
    }

    /// All that it holds, as bytes, for a process that is to go on from here some day. It changes on.
    pub(crate) fn save(&self) -> Vec<u8> {
        let input = self.input();
        self.contents(&input, 0).to_bytes()
    }

    /// A console that goes on where another one was saved: positions are the same, and what waited to be read waits. Nobody waits for it.
    pub(crate) fn restored(saved: &[u8]) -> Result<Console, Malformed> {
        let contents = Contents::from_bytes(saved)?;
        Ok(Console::restore(Contents { lossless: false, ..contents }))
    }

    fn contents(&self, input: &Input, since: u64) -> Contents {
        let log = self.log();
        let before = since.clamp(log.start(), log.end) - log.start();
        let mut runs: VecDeque<(Output, usize)> = log.runs.clone();
        forget_first(&mut runs, before as usize);
        Contents {
            log: log.ring.range(before as usize..).copied().collect(),
            runs: runs.into_iter().map(|(stream, length)| (stream, length as u32)).collect(),
            end: log.end,
            bytes_max: log.bytes_max,
            lossless: log.kept_for_first || !log.holds.is_empty(),
            input: input.bytes.iter().copied().collect(),
            input_closed: input.closed,
        }
    }

    /// The process goes on here after all.
    pub(crate) fn stay(&self) {
        self.input().leaving = false;
        self.0.room.notify_all();
        let mut log = self.log();
        log.leaving = false;
        self.after_move(log);
    }

    /// Who wrote here beside the process that has moved, and cannot go where it is, has this log for themself from now on.
    pub(crate) fn stay_behind(&self) {
        let mut log = self.log();
        log.moved = None;
        self.after_move(log);
    }

    /// The process goes on there.
    pub(crate) fn moved(&self, to: NodeId) {
        {
            let mut log = self.log();
            (log.leaving, log.moved) = (false, Some(to));
        }
        self.0.news.notify_all();
        let mut input = self.input();
        (input.leaving, input.closed) = (false, true);
        drop(input);
        self.0.room.notify_all();
    }

    /// Where the process has moved to, if it has.
    pub fn moved_to(&self) -> Option<NodeId> {
        self.log().moved
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.log.lock().expect("no code panics while it holds this lock")
    }

    fn input(&self) -> MutexGuard<'_, Input> {
        self.0.input.lock().expect("no code panics while it holds this lock")
    }

    /// The position of the oldest byte that is kept.
    pub fn start(&self) -> u64 {
        self.log().start()
    }

    /// The position behind all that was written.
    pub fn end(&self) -> u64 {
        self.log().end
    }

    /// Waits for output at a position, or behind it. At most `bytes_max` bytes, all of one stream.
    pub fn read(&self, from: u64, bytes_max: usize, timeout: Duration) -> Piece {
        let until = Instant::now() + timeout;
        let mut log = self.log();
        loop {
            if let Some(piece) = log.piece(from, bytes_max) {
                return piece;
            }
            if let Some(to) = log.moved {
                return Piece::Moved(to);
            }
            if log.closed && log.shown() == log.end {
                return Piece::End;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Piece::Nothing;
            }
            (log, _) = self.0.news.wait_timeout(log, left).expect("no code panics while it holds this lock");
        }
    }

    /// Keeps what is at this position and behind it until the hold is dropped or moved on: the process waits for that if it must.
    pub fn hold(&self, at: u64) -> Hold {
        let mut log = self.log();
        let (id, at) = (log.next_hold, at.clamp(log.start(), log.end));
        log.next_hold += 1;
        log.holds.push((id, at));
        log.kept_for_first = false;
        self.0.news.notify_all();
        Hold { console: self.clone(), id }
    }

    /// How many hold a place.
    pub fn holds(&self) -> usize {
        self.log().holds.len()
    }

    /// From now on what is written is shown only when it is released.
    pub(crate) fn hold_back(&self) {
        let mut log = self.log();
        log.released = Some(log.end);
    }

    /// What lies before this position may be shown.
    pub(crate) fn release(&self, to: u64) {
        let mut log = self.log();
        if let Some(released) = log.released {
            log.released = Some(to.clamp(released, log.end));
        }
        self.after_move(log);
        self.0.news.notify_all();
    }

    /// All may be shown, from now on as it is written.
    pub(crate) fn release_all(&self) {
        let mut log = self.log();
        log.released = None;
        self.after_move(log);
        self.0.news.notify_all();
    }

    /// Does anybody wait for a release?
    pub(crate) fn holds_back(&self) -> bool {
        let log = self.log();
        log.shown() < log.end
    }

    /// The process has taken so many bytes of its input once more, which may have been typed where it was before.
    fn input_again(&self, count: usize, is_end: bool) {
        let mut input = self.input();
        let count = count.min(input.bytes.len());
        input.bytes.drain(..count);
        input.closed |= is_end;
        drop(input);
        self.0.room.notify_all();
    }

    /// The process writes once more what it wrote before. Nobody is waited for: who was waited for then has read it.
    fn output_again(&self, stream: Output, bytes: &[u8]) {
        let mut log = self.log();
        log.append(stream, bytes);
        let start = log.start();
        log.holds.iter_mut().for_each(|(_, at)| *at = (*at).max(start));
        drop(log);
        self.0.news.notify_all();
    }

    /// Waits for this time, or until half of the room for what is held back is used up, or the process has ended. True if it is one of
    /// these.
    pub(crate) fn wait_full_or_closed(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut log = self.log();
        loop {
            let held = log.released.map_or(0, |released| log.end - released);
            let left = until.saturating_duration_since(Instant::now());
            if log.closed || held > LOG_BYTES_MAX as u64 / 2 {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            (log, _) = self.0.news.wait_timeout(log, left).expect("no code panics while it holds this lock");
        }
    }

    /// Waits for the first who must not miss anything; false if nobody came within the time.
    pub(crate) fn wait_first(&self, timeout: Duration) -> bool {
        let waits = |log: &mut Log| log.kept_for_first && !log.closed && log.moved.is_none();
        let waited = self.0.news.wait_timeout_while(self.log(), timeout, waits);
        !waited.expect("no code panics while it holds this lock").1.timed_out()
    }

    /// Nobody comes to read all of the output after all.
    pub fn give_up_first(&self) {
        let mut log = self.log();
        log.kept_for_first = false;
        self.after_move(log);
    }

    /// A word of the system to whoever reads the process's errors. It is lost if there is no room, or if the process must be able to do all
    /// again that is in its log.
    pub(crate) fn note(&self, text: &str) {
        let mut log = self.log();
        if log.room() >= text.len() && log.released.is_none() {
            log.append(Output::Err, text.as_bytes());
        }
        drop(log);
        self.0.news.notify_all();
    }

    fn after_move(&self, mut log: MutexGuard<Log>) {
        let awaited = std::mem::take(&mut log.awaited);
        drop(log);
        awaited.iter().for_each(|rouse| rouse());
    }

    /// Puts bytes into the process's standard input, as many as there is room for within the time; 0 if there is none, or if nobody will
    /// ever read them.
    pub fn write(&self, bytes: &[u8], timeout: Duration) -> usize {
        let until = Instant::now() + timeout;
        let mut input = self.input();
        loop {
            if input.closed || bytes.is_empty() {
                return 0;
            }
            let room = match input.leaving {
                true => 0,
                false => (INPUT_BYTES_MAX - input.bytes.len()).min(bytes.len()),
            };
            if room > 0 {
                input.bytes.extend(&bytes[..room]);
                let awaited = std::mem::take(&mut input.awaited);
                drop(input);
                awaited.iter().for_each(|rouse| rouse());
                return room;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return 0;
            }
            (input, _) = self.0.room.wait_timeout(input, left).expect("no code panics while it holds this lock");
        }
    }

    /// Waits until the process waits for input, or has looked for some, within the time. False also if there is no room for more, or nobody
    /// will read it.
    pub fn wants_input(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut input = self.input();
        loop {
            if input.closed {
                return false;
            }
            if (!input.awaited.is_empty() || input.looked) && input.bytes.is_empty() {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            (input, _) = self.0.room.wait_timeout(input, left).expect("no code panics while it holds this lock");
        }
    }

    /// The process found no input: whoever has some may bring it.
    fn look(&self, input: &mut Input) {
        if !std::mem::replace(&mut input.looked, true) {
            self.0.room.notify_all();
        }
    }

    /// Whether input can still be written.
    pub fn takes_input(&self) -> bool {
        !self.input().closed
    }

    /// The standard input ends after what was written. False: the process moved away before it heard of it.
    pub fn close_input(&self) -> bool {
        let mut input = self.input();
        while input.leaving {
            input = self.0.room.wait(input).expect("no code panics while it holds this lock");
        }
        if self.moved_to().is_some() {
            return false;
        }
        input.closed = true;
        let awaited = std::mem::take(&mut input.awaited);
        drop(input);
        self.0.room.notify_all();
        awaited.iter().for_each(|rouse| rouse());
        true
    }

    /// The process has ended: nothing more will be written or read.
    pub(crate) fn close(&self) {
        self.log().closed = true;
        self.0.news.notify_all();
        self.input().closed = true;
        self.0.room.notify_all();
    }

    /// The process's end of one stream.
    pub(crate) fn stream(&self, side: Side, kind: StreamKind, tape: Option<&Tape>) -> ConsoleStream {
        ConsoleStream { console: self.clone(), side, kind, tape: tape.cloned() }
    }
}

const FORM: u8 = 1;

impl Contents {
    fn into_parts(self) -> (Log, Input) {
        let Contents { log, runs, end, bytes_max, lossless, input, input_closed } = self;
        let log = Log {
            ring: log.into(),
            runs: runs.into_iter().map(|(stream, length)| (stream, length as usize)).collect(),
            end,
            holds: vec![],
            next_hold: 0,
            bytes_max,
            awaited: vec![],
            closed: false,
            leaving: false,
            moved: None,
            kept_for_first: lossless,
            released: None,
        };
        let input = Input { bytes: input.into(), closed: input_closed, awaited: vec![], looked: false, leaving: false };
        (log, input)
    }

    pub fn is_lossless(&self) -> bool {
        self.lossless
    }

    /// It is what came after this one, which was sent ahead of it.
    pub fn after(self, ahead: Contents) -> Result<Contents, Malformed> {
        let start = self.end - self.log.len() as u64;
        if start < ahead.end {
            return Err(Malformed { at: 0 });
        }
        // So much may have been written meanwhile that nothing of it is kept.
        if start > ahead.end {
            return Ok(self);
        }
        let Contents { mut log, runs, .. } = ahead;
        let (mut whole, all) = (VecDeque::new(), runs.into_iter().chain(self.runs));
        all.for_each(|(stream, length)| add_run(&mut whole, stream, length as usize));
        log.extend(self.log);
        let more = log.len().saturating_sub(LOG_BYTES_MAX);
        log.drain(..more);
        forget_first(&mut whole, more);
        let runs = whole.into_iter().map(|(stream, length)| (stream, length as u32)).collect();
        Ok(Contents { log, runs, ..self })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u8(FORM).u64(self.end).u64(self.bytes_max).u8(self.lossless.into()).u8(self.input_closed.into());
        to.bytes(&self.log).bytes(&self.input).u32(self.runs.len() as u32);
        for (stream, length) in &self.runs {
            to.u8(matches!(stream, Output::Err).into()).u32(*length);
        }
        to.finish()
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Contents, Malformed> {
        let mut from = Reader::new(bytes);
        if from.u8()? != FORM {
            return Err(from.malformed());
        }
        let flag = |from: &mut Reader| match from.u8()? {
            value @ (0 | 1) => Ok(value == 1),
            _ => Err(from.malformed()),
        };
        let (end, bytes_max) = (from.u64()?, from.u64()?);
        let (lossless, input_closed) = (flag(&mut from)?, flag(&mut from)?);
        let (log, input) = (from.bytes()?.to_vec(), from.bytes()?.to_vec());
        let mut runs = vec![];
        let mut covered = 0;
        for _ in 0..from.u32()? {
            let stream = if flag(&mut from)? { Output::Err } else { Output::Out };
            let length = from.u32()?;
            covered += u64::from(length);
            if length == 0 || covered > log.len() as u64 {
                return Err(from.malformed());
            }
            runs.push((stream, length));
        }
        let is_sound = covered == log.len() as u64
            && log.len() <= LOG_BYTES_MAX
            && log.len() as u64 <= end
            && input.len() <= INPUT_BYTES_MAX;
        if !is_sound {
            return Err(from.malformed());
        }
        from.finish()?;
        Ok(Contents { log, runs, end, bytes_max, lossless, input, input_closed })
    }
}

impl Hold {
    /// What lies before this position may be forgotten.
    pub fn advance(&self, at: u64) {
        let mut log = self.console.log();
        let end = log.end;
        let hold = log.holds.iter_mut().find(|(id, _)| *id == self.id);
        let (_, held) = hold.expect("a hold is there until it is dropped");
        *held = at.clamp(*held, end);
        self.console.after_move(log);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut log = self.console.log();
        log.holds.retain(|(id, _)| *id != self.id);
        self.console.after_move(log);
    }
}

impl Log {
    fn start(&self) -> u64 {
        self.end - self.ring.len() as u64
    }

    /// The position up to which anybody may read.
    fn shown(&self) -> u64 {
        self.released.unwrap_or(self.end)
    }

    fn piece(&self, from: u64, bytes_max: usize) -> Option<Piece> {
        if from >= self.shown() {
            return None;
        }
        let at = from.max(self.start());
        let bytes_max = bytes_max.max(1).min((self.shown() - at) as usize);
        let mut skip = (at - self.start()) as usize;
        let first = skip;
        for (stream, length) in &self.runs {
            if skip < *length {
                let count = (length - skip).min(bytes_max);
                let bytes: Vec<u8> = self.ring.range(first..first + count).copied().collect();
                return Some(Piece::Bytes { stream: *stream, at, next: at + count as u64, bytes, lost: at - from });
            }
            skip -= length;
        }
        unreachable!("the runs cover the ring")
    }

    /// How much can be written now. Nothing by those who share it with a process that leaves, or has left: it would be read nowhere.
    fn room(&self) -> usize {
        if self.leaving || self.moved.is_some() {
            return 0;
        }
        let oldest = match self.kept_for_first {
            true => Some(self.start()),
            false => self.holds.iter().map(|(_, at)| *at).min(),
        };
        let oldest = oldest.into_iter().chain(self.released).min();
        match oldest {
            Some(oldest) => LOG_BYTES_MAX - (self.end - oldest) as usize,
            None => LOG_BYTES_MAX,
        }
    }

    fn append(&mut self, stream: Output, bytes: &[u8]) {
        self.ring.extend(bytes);
        self.end += bytes.len() as u64;
        add_run(&mut self.runs, stream, bytes.len());
        let more = self.ring.len().saturating_sub(LOG_BYTES_MAX);
        self.ring.drain(..more);
        forget_first(&mut self.runs, more);
    }
}

fn add_run(runs: &mut VecDeque<(Output, usize)>, stream: Output, bytes: usize) {
    match runs.back_mut() {
        Some((last, length)) if *last == stream => *length += bytes,
        _ => runs.push_back((stream, bytes)),
    }
}

/// Shortens runs by the first so many bytes, which they cover.
fn forget_first(runs: &mut VecDeque<(Output, usize)>, mut bytes: usize) {
    while bytes > 0 {
        let (_, length) = runs.front_mut().expect("the runs cover what is forgotten");
        let part = bytes.min(*length);
        *length -= part;
        bytes -= part;
        if *length == 0 {
            runs.pop_front();
        }
    }
}

/// Which of the three streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    In,
    Out(Output),
}

const INPUT: Source = Source(0);
const OUTPUT: Source = Source(1);

pub(crate) struct ConsoleStream {
    console: Console,
    side: Side,
    kind: StreamKind,
    /// On which all is that the process hears of it.
    tape: Option<Tape>,
}

impl ConsoleStream {
    fn take(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        if self.side != Side::In {
            return Err(Errno::BadF);
        }
        let mut input = self.console.input();
        if input.bytes.is_empty() {
            if !input.closed {
                self.console.look(&mut input);
            }
            return if input.closed { Ok(0) } else { Err(Errno::Again) };
        }
        let count = buffer.len().min(input.bytes.len());
        for (to, from) in buffer.iter_mut().zip(input.bytes.drain(..count)) {
            *to = from;
        }
        drop(input);
        self.console.0.room.notify_all();
        Ok(count)
    }

    fn put(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let Side::Out(stream) = self.side else { return Err(Errno::BadF) };
        let mut log = self.console.log();
        if bytes.is_empty() {
            return Ok(0);
        }
        let allowed = log.bytes_max.saturating_sub(log.end).min(usize::MAX as u64) as usize;
        if allowed == 0 {
            return Err(Errno::DQuot);
        }
        let count = log.room().min(bytes.len()).min(allowed);
        if count == 0 {
            return Err(Errno::Again);
        }
        log.append(stream, &bytes[..count]);
        drop(log);
        self.console.0.news.notify_all();
        Ok(count)
    }

    fn look(&self, direction: Direction) -> Result<Readiness, Errno> {
        match (self.side, direction) {
            (Side::In, Direction::Read) => {
                let mut input = self.console.input();
                Ok(match input.bytes.len() {
                    0 if !input.closed => {
                        self.console.look(&mut input);
                        Readiness::Blocked
                    }
                    bytes => Readiness::Ready { bytes: bytes as u64, hangup: input.closed },
                })
            }
            (Side::Out(_), Direction::Write) => {
                let log = self.console.log();
                Ok(match log.room() {
                    0 if log.end < log.bytes_max => Readiness::Blocked,
                    room => Readiness::Ready { bytes: room as u64, hangup: false },
                })
            }
            _ => Err(Errno::BadF),
        }
    }
}

impl Stream for ConsoleStream {
    fn kind(&self) -> StreamKind {
        self.kind
    }

    fn stat(&self) -> Result<Stat, Errno> {
        let kind = match self.kind {
            StreamKind::Terminal | StreamKind::Device => Filetype::CharacterDevice,
            StreamKind::File => Filetype::RegularFile,
            StreamKind::Pipe => Filetype::Unknown,
            StreamKind::Socket => Filetype::SocketStream,
        };
        Ok(Stat {
            device: 0,
            inode: 0,
            kind,
            links: 1,
            size_bytes: 0,
            accessed_ns: 0,
            modified_ns: 0,
            changed_ns: 0,
            born_ns: None,
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let Some(tape) = &self.tape else { return self.take(buffer) };
        let most = buffer.len();
        let mut is_again = true;
        let write = |bytes: &Vec<u8>, to: &mut Writer| {
            to.bytes(bytes);
        };
        let read = |from: &mut Reader| {
            let bytes = from.bytes()?;
            if bytes.len() <= most { Ok(bytes.to_vec()) } else { Err(from.malformed()) }
        };
        let bytes = tape.result(Tag::Input, write, read, || {
            is_again = false;
            let mut bytes = vec![0; most.min(INPUT_BYTES_MAX)];
            let count = self.take(&mut bytes)?;
            bytes.truncate(count);
            Ok(bytes)
        })?;
        if is_again {
            self.console.input_again(bytes.len(), bytes.is_empty() && most > 0);
        }
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let Some(tape) = &self.tape else { return self.put(bytes) };
        let mut is_again = true;
        let write = |count: &usize, to: &mut Writer| {
            to.u32(*count as u32);
        };
        let read = |from: &mut Reader| {
            let count = from.u32()? as usize;
            if count <= bytes.len() { Ok(count) } else { Err(from.malformed()) }
        };
        let count = tape.result(Tag::Output, write, read, || {
            is_again = false;
            self.put(bytes)
        })?;
        match self.side {
            Side::Out(stream) if is_again => self.console.output_again(stream, &bytes[..count]),
            // It is shown when it is safe.
            _ => tape.hurry(),
        }
        Ok(count)
    }

    fn readiness(&self, direction: Direction) -> Result<Readiness, Errno> {
        let Some(tape) = &self.tape else { return self.look(direction) };
        let tag = match direction {
            Direction::Read => Tag::InputReady,
            Direction::Write => Tag::OutputReady,
        };
        let write = |readiness: &Readiness, to: &mut Writer| {
            match readiness {
                Readiness::Blocked => to.u8(0),
                Readiness::Ready { bytes, hangup } => to.u8(1 + u8::from(*hangup)).u64(*bytes),
            };
        };
        let read = |from: &mut Reader| match from.u8()? {
            0 => Ok(Readiness::Blocked),
            said @ (1 | 2) => Ok(Readiness::Ready { bytes: from.u64()?, hangup: said == 2 }),
            _ => Err(from.malformed()),
        };
        tape.result(tag, write, read, || self.look(direction))
    }

    fn source(&self) -> Source {
        match self.side {
            Side::In => INPUT,
            Side::Out(_) => OUTPUT,
        }
    }

    fn may_read_ahead(&self) -> bool {
        // What was taken aside would be missing when the process is told again what it read.
        self.tape.is_none()
    }
}

/// Has a process roused when its streams are ready.
pub(crate) struct ConsoleWaiter {
    input: Console,
    output: Console,
    rouse: Rouse,
    interrupted: Arc<AtomicBool>,
    tape: Option<Tape>,
}

impl ConsoleWaiter {
    /// For a process that reads from one console and writes to another, or the same.
    pub fn new(input: &Console, output: &Console, rouse: Rouse) -> ConsoleWaiter {
        let interrupted = Arc::new(AtomicBool::new(false));
        ConsoleWaiter { input: input.clone(), output: output.clone(), rouse, interrupted, tape: None }
    }

    /// What it waited for before it does not wait for when it is told so again.
    pub fn by_tape(&mut self, tape: &Tape) {
        self.tape = Some(tape.clone());
    }

    /// Up while somebody wants the process to stop.
    pub fn interrupted(&self) -> Arc<AtomicBool> {
        self.interrupted.clone()
    }
}

impl Watcher for ConsoleWaiter {
    fn watch(&mut self, interests: &[Interest]) -> Result<(), Errno> {
        let mut ready = self.is_interrupted() || self.tape.as_ref().is_some_and(Tape::is_again);
        for interest in interests {
            match interest.source {
                INPUT => {
                    let mut input = self.input.input();
                    input.awaited.push(self.rouse.clone());
                    ready |= !input.bytes.is_empty() || input.closed;
                    self.input.0.room.notify_all();
                }
                OUTPUT => {
                    let mut log = self.output.log();
                    log.awaited.push(self.rouse.clone());
                    ready |= log.room() > 0;
                }
                // A file of the system rouses the process itself, and the kernel remembers that of one that does not sleep yet.
                _ => {}
            }
        }
        if ready {
            (self.rouse)();
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.input.input().awaited.retain(|rouse| !Arc::ptr_eq(rouse, &self.rouse));
        self.output.log().awaited.retain(|rouse| !Arc::ptr_eq(rouse, &self.rouse));
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }
}

impl Waiter for ConsoleWaiter {
    fn is_put_off(&mut self) -> bool {
        self.tape.as_ref().is_some_and(Tape::take_put_off)
    }

    /// A process on a fiber never waits on its thread.
    fn wait(&mut self, _interests: &[Interest], _timeout_ns: Option<u64>) -> Result<Wake, Errno> {
        Err(Errno::NotSup)
    }

    fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::new(ConsoleInterrupt(self.interrupted.clone()))
    }

    fn watcher(&mut self) -> Option<&mut dyn Watcher> {
        Some(self)
    }
}

struct ConsoleInterrupt(Arc<AtomicBool>);

impl Interrupt for ConsoleInterrupt {
    fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn lower(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const SOON: Duration = Duration::ZERO;

    fn written(console: &Console, bytes: &[u8]) -> Result<usize, Errno> {
        console.stream(Side::Out(Output::Out), StreamKind::Pipe, None).write(bytes)
    }

    #[test]
    fn readers_follow_each_at_its_place_and_streams_are_told_apart() {
        let console = Console::new(false, false, u64::MAX);
        assert_eq!(written(&console, b"one"), Ok(3));
        assert_eq!(console.stream(Side::Out(Output::Err), StreamKind::Pipe, None).write(b"two"), Ok(3));
        let piece = |stream, at, bytes: &[u8], lost| Piece::Bytes {
            stream,
            at,
            bytes: bytes.to_vec(),
            next: at + bytes.len() as u64,
            lost,
        };
        assert_eq!(console.read(0, 100, SOON), piece(Output::Out, 0, b"one", 0));
        assert_eq!(console.read(1, 1, SOON), piece(Output::Out, 1, b"n", 0));
        assert_eq!(console.read(3, 100, SOON), piece(Output::Err, 3, b"two", 0));
        assert_eq!(console.read(6, 100, SOON), Piece::Nothing);
        console.close();
        assert_eq!(console.read(4, 100, SOON), piece(Output::Err, 4, b"wo", 0));
        assert_eq!(console.read(6, 100, SOON), Piece::End);
    }

    #[test]
    fn what_nobody_holds_is_forgotten_and_counted() {
        let console = Console::new(false, false, u64::MAX);
        for _ in 0..3 {
            assert_eq!(written(&console, &vec![7; LOG_BYTES_MAX]), Ok(LOG_BYTES_MAX));
        }
        assert_eq!((console.start(), console.end()), (2 * LOG_BYTES_MAX as u64, 3 * LOG_BYTES_MAX as u64));
        match console.read(5, 10, SOON) {
            Piece::Bytes { at, lost, bytes, .. } => {
                assert_eq!((at, lost, bytes.len()), (2 * LOG_BYTES_MAX as u64, 2 * LOG_BYTES_MAX as u64 - 5, 10));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_writer_waits_for_who_holds_its_place_and_is_roused() {
        let roused = Arc::new(AtomicUsize::new(0));
        let console = Console::new(false, true, u64::MAX);
        let count = roused.clone();
        let rouse: Rouse = Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        // Nobody has come yet, and nothing may be lost.
        assert_eq!(written(&console, &vec![1; LOG_BYTES_MAX + 9]), Ok(LOG_BYTES_MAX));
        assert_eq!(written(&console, b"x"), Err(Errno::Again));
        let hold = console.hold(0);
        assert_eq!(written(&console, b"x"), Err(Errno::Again));
        let mut waiter = ConsoleWaiter::new(&console, &console, rouse);
        waiter.watch(&[Interest { source: OUTPUT, direction: Direction::Write }]).unwrap();
        assert_eq!(roused.load(Ordering::SeqCst), 0);
        hold.advance(4);
        assert_eq!(roused.load(Ordering::SeqCst), 1);
        assert_eq!(written(&console, b"12345678"), Ok(4));
        drop(hold);
        assert_eq!(written(&console, b"5678"), Ok(4));
    }

    #[test]
    fn only_what_is_ready_rouses() {
        let roused = Arc::new(AtomicUsize::new(0));
        let count = roused.clone();
        let rouse: Rouse = Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let console = Console::new(true, false, u64::MAX);
        let mut waiter = ConsoleWaiter::new(&console, &console, rouse);
        let interest = |source, direction| Interest { source, direction };
        let mut check = |source, direction, expect| {
            roused.store(0, Ordering::SeqCst);
            waiter.watch(&[interest(source, direction)]).unwrap();
            waiter.forget();
            assert_eq!(roused.load(Ordering::SeqCst), expect, "{source:?}");
        };
        check(INPUT, Direction::Read, 0);
        // What somebody else looks after.
        check(Source(1 << 32), Direction::Read, 0);
        check(OUTPUT, Direction::Write, 1);
        console.write(b"typed", SOON);
        check(INPUT, Direction::Read, 1);
    }

    #[test]
    fn input_has_a_bound_and_an_end() {
        let console = Console::new(true, false, u64::MAX);
        let mut stdin = console.stream(Side::In, StreamKind::Pipe, None);
        let mut buffer = [0; 4];
        assert_eq!(stdin.read(&mut buffer), Err(Errno::Again));
        assert_eq!(console.write(&vec![5; INPUT_BYTES_MAX + 1], SOON), INPUT_BYTES_MAX);
        assert_eq!(console.write(b"more", SOON), 0);
        assert_eq!(stdin.read(&mut buffer), Ok(4));
        assert_eq!(console.write(b"more!", SOON), 4);
        console.close_input();
        let mut rest = vec![0; INPUT_BYTES_MAX * 2];
        assert_eq!(stdin.read(&mut rest), Ok(INPUT_BYTES_MAX));
        assert_eq!(stdin.read(&mut rest), Ok(0));
        assert_eq!(console.write(b"late", SOON), 0);
    }

    #[test]
    fn what_is_held_back_is_shown_when_it_is_released() {
        let console = Console::new(false, false, u64::MAX);
        assert_eq!(written(&console, b"before"), Ok(6));
        console.hold_back();
        assert_eq!(written(&console, b"after"), Ok(5));
        let shown = |from: u64| match console.read(from, 100, SOON) {
            Piece::Bytes { bytes, .. } => String::from_utf8(bytes).unwrap(),
            other => format!("{other:?}"),
        };
        assert_eq!((shown(0).as_str(), shown(6).as_str()), ("before", "Nothing"));
        console.release(8);
        assert_eq!(shown(6), "af");
        console.close();
        assert_eq!(shown(8), "Nothing", "the end is behind what is held back");
        console.release_all();
        assert_eq!((shown(8).as_str(), shown(11).as_str()), ("ter", "End"));
        // It takes up room until it is released.
        let console = Console::new(false, false, u64::MAX);
        console.hold_back();
        assert_eq!(written(&console, &vec![1; LOG_BYTES_MAX + 1]), Ok(LOG_BYTES_MAX));
        assert_eq!(written(&console, b"x"), Err(Errno::Again));
        console.release(10);
        assert_eq!(written(&console, &[2; 20]), Ok(10));
    }

    #[test]
    fn a_console_moves_with_all_that_it_holds() {
        let here = Console::new(true, false, 1 << 20);
        assert_eq!(written(&here, &vec![1; LOG_BYTES_MAX]), Ok(LOG_BYTES_MAX));
        assert_eq!(here.stream(Side::Out(Output::Err), StreamKind::Pipe, None).write(b"err"), Ok(3));
        assert_eq!(here.write(b"typed", SOON), 5);
        let contents = here.leave(0);
        assert_eq!(here.write(b"more", SOON), 0, "what is typed now would be typed twice, or lost");
        let bytes = contents.to_bytes();
        let there = Console::restore(Contents::from_bytes(&bytes).expect("it was just written"));
        here.moved(NodeId(2));
        assert_eq!(here.read(here.end(), 10, SOON), Piece::Moved(NodeId(2)));
        assert_eq!((here.write(b"more", SOON), here.close_input()), (0, false));
        assert_eq!((there.start(), there.end()), (here.start(), here.end()));
        match there.read(there.end() - 3, 10, SOON) {
            Piece::Bytes { stream: Output::Err, bytes, .. } => assert_eq!(bytes, b"err"),
            other => panic!("{other:?}"),
        }
        assert_eq!(there.write(b" more", SOON), 5);
        let mut typed = [0; 20];
        assert_eq!(there.stream(Side::In, StreamKind::Pipe, None).read(&mut typed), Ok(10));
        assert_eq!(&typed[..10], b"typed more");
        for end in 0..bytes.len() {
            assert!(Contents::from_bytes(&bytes[..end]).is_err(), "cut at {end} it was believed");
        }
    }

    /// Most of what a console holds goes ahead while the process still writes; the rest follows, whatever was written meanwhile.
    #[test]
    fn what_went_ahead_and_the_rest_are_the_whole() {
        let carried = |contents: &Contents| Contents::from_bytes(&contents.to_bytes()).expect("it was just written");
        for meanwhile in [0, 1, 5, LOG_BYTES_MAX - 1, LOG_BYTES_MAX, LOG_BYTES_MAX + 5] {
            let here = Console::new(true, false, u64::MAX);
            assert_eq!(written(&here, b"first"), Ok(5));
            let (ahead, at) = here.ahead();
            let mut err = here.stream(Side::Out(Output::Err), StreamKind::Pipe, None);
            for part in vec![7; meanwhile].chunks(LOG_BYTES_MAX / 3) {
                assert_eq!(err.write(part), Ok(part.len()));
            }
            assert_eq!(written(&here, b"x"), Ok(1));
            assert_eq!(here.write(b"typed", SOON), 5);
            let rest = here.leave(at);
            assert!(rest.log.len() <= meanwhile + 1, "only what is new");
            let there = carried(&rest).after(carried(&ahead)).expect("they fit");
            assert!(there == here.leave(0), "{meanwhile} bytes were written meanwhile");
            // What does not fit is no console.
            let (late, _) = here.ahead();
            assert!(rest.after(late).is_err());
        }
    }

    #[test]
    fn whoever_writes_where_another_wrote_waits_until_they_are_where_it_is() {
        let roused = Arc::new(AtomicUsize::new(0));
        let count = roused.clone();
        let rouse: Rouse = Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let console = Console::new(false, false, 1 << 20);
        let mut child = ConsoleWaiter::new(&Console::new(false, false, 0), &console, rouse);
        let waits = [Interest { source: OUTPUT, direction: Direction::Write }];
        assert_eq!(written(&console, b"before"), Ok(6));
        let taken = console.leave(0);
        assert_eq!((taken.end, written(&console, b"lost")), (6, Err(Errno::Again)));
        child.watch(&waits).unwrap();
        assert_eq!(roused.load(Ordering::SeqCst), 0);
        console.stay();
        assert_eq!((roused.load(Ordering::SeqCst), written(&console, b"here")), (1, Ok(4)));
        console.leave(0);
        console.moved(NodeId(2));
        child.watch(&waits).unwrap();
        assert_eq!((roused.load(Ordering::SeqCst), written(&console, b"lost")), (1, Err(Errno::Again)));
        console.stay_behind();
        assert_eq!((roused.load(Ordering::SeqCst), written(&console, b"mine")), (2, Ok(4)));
    }

    #[test]
    fn a_console_that_stays_after_all_goes_on() {
        let console = Console::new(true, false, 1 << 20);
        console.leave(0);
        console.stay();
        assert_eq!(console.write(b"typed", SOON), 5);
        assert_eq!(console.read(0, 10, SOON), Piece::Nothing);
    }

    #[test]
    fn output_beyond_its_limit_is_refused() {
        let console = Console::new(false, false, 5);
        assert_eq!(written(&console, b"1234567"), Ok(5));
        assert_eq!(written(&console, b"8"), Err(Errno::DQuot));
    }
}
