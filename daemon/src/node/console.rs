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

use abi::encoding::{Malformed, Reader, Writer};
use abi::errno::Errno;
use abi::file::{Direction, Interest, Interrupt, Readiness, Source, Stat, Stream, StreamKind, Waiter, Wake, Watcher};
use abi::wasi::Filetype;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How much of a process's output is kept.
pub const LOG_BYTES_MAX: usize = 256 << 10;
/// How much may wait to be read by a process.
pub const INPUT_BYTES_MAX: usize = 64 << 10;

const SAVED_FORM: u8 = 1;

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
    /// Nobody held a place yet, and the first who will must not miss anything.
    kept_for_first: bool,
    /// What lies behind this position is shown to nobody yet, nor overwritten.
    released: Option<u64>,
}

struct Input {
    bytes: VecDeque<u8>,
    closed: bool,
    awaited: Vec<Rouse>,
}

/// A place in the log that is not overwritten.
pub struct Hold {
    console: Console,
    id: u64,
}

impl Console {
    /// `output_bytes_max` is of all output together.
    pub fn new(has_input: bool, lossless: bool, output_bytes_max: u64) -> Console {
        let log = Log {
            ring: VecDeque::new(),
            runs: VecDeque::new(),
            end: 0,
            holds: vec![],
            next_hold: 0,
            bytes_max: output_bytes_max,
            awaited: vec![],
            closed: false,
            kept_for_first: lossless,
            released: None,
        };
        let input = Input { bytes: VecDeque::new(), closed: !has_input, awaited: vec![] };
        Console(Arc::new(Shared {
            log: Mutex::new(log),
            news: Condvar::new(),
            input: Mutex::new(input),
            room: Condvar::new(),
        }))
    }

    /// All that it holds, with its positions, as bytes.
    pub fn save(&self) -> Vec<u8> {
        let mut to = Writer::default();
        {
            let log = self.log();
            to.u8(SAVED_FORM).u64(log.end).u32(log.runs.len() as u32);
            for (stream, length) in &log.runs {
                to.u8(u8::from(*stream == Output::Err)).u32(*length as u32);
            }
            let (first, second) = log.ring.as_slices();
            to.raw(first).raw(second);
        }
        let input = self.input();
        let (first, second) = input.bytes.as_slices();
        to.u8(u8::from(input.closed)).u32(input.bytes.len() as u32).raw(first).raw(second);
        to.finish()
    }

    /// A console that goes on where another one was saved: positions are the same, and what waited to be read waits.
    pub fn restored(saved: &[u8], output_bytes_max: u64) -> Result<Console, Malformed> {
        let mut from = Reader::new(saved);
        if from.u8()? != SAVED_FORM {
            return Err(from.malformed());
        }
        let (end, count) = (from.u64()?, from.u32()?);
        let (mut runs, mut bytes) = (VecDeque::new(), 0);
        for _ in 0..count {
            let stream = if from.u8()? == 0 { Output::Out } else { Output::Err };
            let length = from.u32()? as usize;
            bytes += length;
            if length == 0 || bytes > LOG_BYTES_MAX {
                return Err(from.malformed());
            }
            runs.push_back((stream, length));
        }
        let ring: VecDeque<u8> = from.raw(bytes)?.iter().copied().collect();
        let closed = from.u8()? != 0;
        let waiting = from.bytes()?.iter().copied().collect::<VecDeque<u8>>();
        if (bytes as u64) > end || waiting.len() > INPUT_BYTES_MAX {
            return Err(from.malformed());
        }
        from.finish()?;
        let console = Console::new(!closed, false, output_bytes_max);
        {
            let mut log = console.log();
            (log.end, log.runs, log.ring) = (end, runs, ring);
        }
        console.input().bytes = waiting;
        Ok(console)
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
        Hold { console: self.clone(), id }
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

    /// Waits for this time, or until half of the room for what is held back is used up, or the process has ended.
    pub(crate) fn wait_full_or_closed(&self, timeout: Duration) {
        let until = Instant::now() + timeout;
        let mut log = self.log();
        loop {
            let held = log.released.map_or(0, |released| log.end - released);
            let left = until.saturating_duration_since(Instant::now());
            if log.closed || held > LOG_BYTES_MAX as u64 / 2 || left.is_zero() {
                return;
            }
            (log, _) = self.0.news.wait_timeout(log, left).expect("no code panics while it holds this lock");
        }
    }

    /// Nobody comes to read all of the output after all.
    pub fn give_up_first(&self) {
        let mut log = self.log();
        log.kept_for_first = false;
        self.after_move(log);
    }

    /// A word of the system to whoever reads the process's errors. It is lost if there is no room.
    pub(crate) fn note(&self, text: &str) {
        let mut log = self.log();
        if log.room() >= text.len() {
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
            let room = (INPUT_BYTES_MAX - input.bytes.len()).min(bytes.len());
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

    /// Waits until the process waits for input, within the time. False also if there is no room for more, or nobody will read it.
    pub fn wants_input(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut input = self.input();
        loop {
            if input.closed {
                return false;
            }
            if !input.awaited.is_empty() && input.bytes.is_empty() {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            (input, _) = self.0.room.wait_timeout(input, left).expect("no code panics while it holds this lock");
        }
    }

    /// Whether input can still be written.
    pub fn takes_input(&self) -> bool {
        !self.input().closed
    }

    /// The standard input ends after what was written.
    pub fn close_input(&self) {
        let mut input = self.input();
        input.closed = true;
        let awaited = std::mem::take(&mut input.awaited);
        drop(input);
        self.0.room.notify_all();
        awaited.iter().for_each(|rouse| rouse());
    }

    /// The process has ended: nothing more will be written or read.
    pub(crate) fn close(&self) {
        self.log().closed = true;
        self.0.news.notify_all();
        self.input().closed = true;
        self.0.room.notify_all();
    }

    /// The process's end of one stream.
    pub(crate) fn stream(&self, side: Side, kind: StreamKind) -> ConsoleStream {
        ConsoleStream { console: self.clone(), side, kind }
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

    /// How much can be written now.
    fn room(&self) -> usize {
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
        match self.runs.back_mut() {
            Some((last, length)) if *last == stream => *length += bytes.len(),
            _ => self.runs.push_back((stream, bytes.len())),
        }
        let mut more = self.ring.len().saturating_sub(LOG_BYTES_MAX);
        self.ring.drain(..more);
        while more > 0 {
            let (_, length) = self.runs.front_mut().expect("the runs cover the ring");
            let part = more.min(*length);
            *length -= part;
            more -= part;
            if *length == 0 {
                self.runs.pop_front();
            }
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
        if self.side != Side::In {
            return Err(Errno::BadF);
        }
        let mut input = self.console.input();
        if input.bytes.is_empty() {
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

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
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

    fn readiness(&self, direction: Direction) -> Result<Readiness, Errno> {
        match (self.side, direction) {
            (Side::In, Direction::Read) => {
                let input = self.console.input();
                Ok(match input.bytes.len() {
                    0 if !input.closed => Readiness::Blocked,
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

    fn source(&self) -> Source {
        match self.side {
            Side::In => INPUT,
            Side::Out(_) => OUTPUT,
        }
    }

    fn may_read_ahead(&self) -> bool {
        true
    }
}

/// Has a process roused when its streams are ready.
pub(crate) struct ConsoleWaiter {
    input: Console,
    output: Console,
    rouse: Rouse,
    interrupted: Arc<AtomicBool>,
}

impl ConsoleWaiter {
    /// For a process that reads from one console and writes to another, or the same.
    pub fn new(input: &Console, output: &Console, rouse: Rouse) -> ConsoleWaiter {
        let interrupted = Arc::new(AtomicBool::new(false));
        ConsoleWaiter { input: input.clone(), output: output.clone(), rouse, interrupted }
    }
}

impl Watcher for ConsoleWaiter {
    fn watch(&mut self, interests: &[Interest]) -> Result<(), Errno> {
        let mut ready = self.is_interrupted();
        for interest in interests {
            match interest.source {
                INPUT => {
                    let mut input = self.input.input();
                    input.awaited.push(self.rouse.clone());
                    ready |= !input.bytes.is_empty() || input.closed;
                    self.input.0.room.notify_all();
                }
                _ => {
                    let mut log = self.output.log();
                    log.awaited.push(self.rouse.clone());
                    ready |= log.room() > 0;
                }
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
        console.stream(Side::Out(Output::Out), StreamKind::Pipe).write(bytes)
    }

    #[test]
    fn readers_follow_each_at_its_place_and_streams_are_told_apart() {
        let console = Console::new(false, false, u64::MAX);
        assert_eq!(written(&console, b"one"), Ok(3));
        assert_eq!(console.stream(Side::Out(Output::Err), StreamKind::Pipe).write(b"two"), Ok(3));
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
    fn input_has_a_bound_and_an_end() {
        let console = Console::new(true, false, u64::MAX);
        let mut stdin = console.stream(Side::In, StreamKind::Pipe);
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
    fn a_console_goes_on_where_it_was_saved() {
        let console = Console::new(true, false, u64::MAX);
        assert_eq!(written(&console, &vec![7; LOG_BYTES_MAX + 5]), Ok(LOG_BYTES_MAX));
        assert_eq!(written(&console, b"more"), Ok(4));
        console.stream(Side::Out(Output::Err), StreamKind::Pipe).write(b"err").unwrap();
        assert_eq!(console.write(b"typed", SOON), 5);
        let saved = console.save();
        let restored = Console::restored(&saved, u64::MAX).unwrap();
        assert_eq!((restored.start(), restored.end()), (console.start(), console.end()));
        assert_eq!(restored.read(console.end() - 5, 9, SOON), console.read(console.end() - 5, 9, SOON));
        let mut buffer = [0; 9];
        assert_eq!(restored.stream(Side::In, StreamKind::Pipe).read(&mut buffer), Ok(5));
        assert_eq!((&buffer[..5], restored.takes_input()), (&b"typed"[..], true));
        for length in 0..saved.len() {
            assert!(Console::restored(&saved[..length], u64::MAX).is_err(), "{length}");
        }
    }

    #[test]
    fn output_beyond_its_limit_is_refused() {
        let console = Console::new(false, false, 5);
        assert_eq!(written(&console, b"1234567"), Ok(5));
        assert_eq!(written(&console, b"8"), Err(Errno::DQuot));
    }
}
