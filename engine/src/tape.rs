//! What the world told a process, in the order in which it was told: written while the process lives, and told again when it goes on
//! elsewhere from an earlier state. Knows the traits of `abi::file`; not where a tape is kept, nor who decides that a process goes on.
//!
//! The one idea: a program computes the same from the same, so all that can make two runs of it differ is what it hears of clocks, random
//! numbers, files and streams. All of that comes through the traits of `abi::file`, below WASI: there each answer is written down as it is
//! given. To run it again up to the same place is to give the same answers, without asking anybody; the tables of WASI, its positions and
//! what its memory holds come out of that by themselves.
//!
//! ```text
//!   aside    somebody saves, restores or looks: nothing is written, nothing is told from the tape
//!   again    each question is answered from the tape, until that ends
//!   live     each question is asked, and the answer written
//!
//!   record:  length (LEB128), tag 8, what was said              positions count bytes from the beginning of the process
//!   ├── on disks: safe ──┼── kept here, being written ──┤ end
//! ```
//! Where a question is another one than at the same place before, the process is not the one that the tape is of: nothing that it does
//! from then on counts, and whoever looks after it is told why.

mod files;
mod ports;
mod world;

pub use files::TapedFiles;
pub use ports::{Arrival, Berth, Harbour, Known, Ports, Standing};

use abi::encoding::{Malformed, Reader, Writer};
use abi::errno::Errno;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What is written to disks at once, at most.
pub const PIECE_BYTES_MAX: usize = 256 << 10;
/// So much is written to disks also if nobody waits for it.
const PIECE_BYTES: usize = 64 << 10;
/// What is not safe yet is held here. More: the process waits with its questions, as long as nobody wants to stop it.
const PENDING_BYTES_MAX: usize = 8 << 20;
/// How often it is looked whether somebody wants to stop a process that waits so.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// What one answer may have. Longer ones are given in parts.
pub(crate) const ANSWER_BYTES_MAX: usize = 128 << 10;

/// Which question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Tag {
    Realtime = 1,
    Monotonic,
    Cputime,
    Random,
    Input,
    InputReady,
    Output,
    OutputReady,
    Open,
    Duplicate,
    ReadAt,
    Stat,
    List,
    StatAt,
    ReadLink,
    Sync,
    Create,
    WriteAt,
    Append,
    SetSize,
    SetTimes,
    Allocate,
    SetTimesAt,
    CreateDirectory,
    RemoveDirectory,
    Unlink,
    Rename,
    Link,
    Symlink,
    /// No question: the call was put off, and is issued again.
    PutOff,
    /// What came to a port.
    Received,
    PortState,
    /// What a name leads to.
    Found,
    Bound,
    Unbound,
    /// Which number a call has that is about to be made.
    Calling,
    Called,
}

impl Tag {
    /// May it be put off? All are that have effects, and that wait.
    fn may_be_put_off(self) -> bool {
        self as u8 >= Tag::Create as u8
    }
}

/// One process's tape. All copies are the same.
#[derive(Clone)]
pub struct Tape(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is more to write, or somebody waits for it.
    news: Condvar,
    /// Something is safe that was not.
    room: Condvar,
    /// Somebody wants the process to stop.
    interrupted: Arc<AtomicBool>,
}

/// Invariants: `pending` is what lies between `safe` and `end`; nothing is pending while it is told again.
struct State {
    is_aside: bool,
    /// What is left to be told again lies behind `told` in `again`.
    again: Vec<u8>,
    told: usize,
    is_live: bool,
    /// Called when it becomes live.
    on_live: Option<Box<dyn FnOnce() + Send>>,
    end: u64,
    safe: u64,
    pending: Vec<u8>,
    /// What is written next does not go on with a record that was cut off.
    is_fresh: bool,
    /// Somebody waits to see what came of what was told.
    is_awaited: bool,
    differs: Option<String>,
    /// Changes that it has asked for, and was answered.
    changes: u64,
    /// The next change may have been made before.
    is_doubtful: bool,
    /// A call has done nothing, because the process is to stop.
    is_put_off: bool,
    monotonic: Line,
    cputime: Line,
}

/// A clock of the process's own time, which goes on wherever it lives.
#[derive(Clone, Copy, Default)]
struct Line {
    /// The last that was told.
    last_ns: u64,
    /// What it said when the process was last saved.
    saved_ns: u64,
    /// Added to what the host's clock says; known when it is first asked for.
    ahead_ns: Option<u64>,
}

impl Line {
    fn at(saved_ns: u64) -> Line {
        Line { last_ns: saved_ns, saved_ns, ahead_ns: None }
    }
}

/// Where a saved state stands on a tape: what was told from there on makes it what it was later.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Mark {
    pub position: u64,
    /// So many changes of files it had asked for.
    pub changes: u64,
    /// The process's own clocks.
    pub monotonic_ns: u64,
    pub cputime_ns: u64,
}

/// Part of a tape, to be written to disks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    pub at: u64,
    pub is_fresh: bool,
    pub bytes: Vec<u8>,
}

/// Records that were kept, put together: what a process was told from a position on.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Told {
    pub from: u64,
    /// Whole records.
    pub records: Vec<u8>,
    /// Where the next piece begins: behind these, and behind what was cut off.
    pub end: u64,
}

/// The pieces do not fit together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Gap {
    /// Something is missing from here on.
    Missing {
        at: u64,
    },
    Malformed {
        at: u64,
    },
}

impl fmt::Display for Gap {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Gap::Missing { at } => write!(out, "nothing is kept of what it was told from byte {at} on"),
            Gap::Malformed { at } => write!(out, "what it was told at byte {at} cannot be read"),
        }
    }
}

impl Told {
    /// Of pieces in the order of their positions, those that lie before `from` left out. The last record may be cut off, if nothing, or
    /// something fresh, follows.
    pub fn of(from: u64, pieces: impl IntoIterator<Item = Piece>) -> Result<Told, Gap> {
        let (mut records, mut end) = (vec![], from);
        // Where the records end that are whole.
        let mut whole = 0;
        for Piece { at, is_fresh, bytes } in pieces {
            let piece_end = at + bytes.len() as u64;
            if piece_end <= end {
                continue;
            }
            if at > end {
                return Err(Gap::Missing { at: end });
            }
            if is_fresh && at >= end {
                records.truncate(whole);
            }
            records.extend_from_slice(&bytes[(end - at) as usize..]);
            end = piece_end;
            while let Some(length) = length_of(&records[whole..]).map_err(|_| Gap::Malformed { at })? {
                whole += length;
            }
        }
        records.truncate(whole);
        Ok(Told { from, records, end })
    }
}

/// The length of the record that begins here, with what says it; nothing if it is not all there.
fn length_of(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut length = 0u64;
    for (index, byte) in bytes.iter().enumerate() {
        if index == 5 {
            return Err(Malformed { at: index });
        }
        length |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let all = index + 1 + length as usize;
            return match length {
                0 => Err(Malformed { at: index }),
                _ => Ok((all <= bytes.len()).then_some(all)),
            };
        }
    }
    Ok(None)
}

impl Tape {
    /// Of a process that begins, or goes on from a state that was saved at this mark and is told again what it was told then.
    /// `interrupted` is up when somebody wants to stop it; `on_live` is called before the first thing that it has not done before.
    pub fn new(mark: Mark, told: Told, interrupted: Arc<AtomicBool>, on_live: Box<dyn FnOnce() + Send>) -> Tape {
        let state = State {
            is_aside: true,
            again: told.records,
            told: 0,
            is_live: false,
            on_live: Some(on_live),
            end: told.end,
            safe: told.end,
            pending: vec![],
            is_fresh: true,
            is_awaited: false,
            differs: None,
            changes: mark.changes,
            is_doubtful: true,
            is_put_off: false,
            monotonic: Line::at(mark.monotonic_ns),
            cputime: Line::at(mark.cputime_ns),
        };
        Tape(Arc::new(Shared { state: Mutex::new(state), news: Condvar::new(), room: Condvar::new(), interrupted }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nothing panics while it holds a tape")
    }

    /// The process runs from now on.
    pub fn begin(&self) {
        let mut state = self.state();
        state.is_aside = false;
        if state.told == state.again.len() {
            state.go_live();
        }
    }

    /// The process does not run, and what is asked in its name is not told to it.
    pub fn stand_aside(&self) {
        self.state().is_aside = true;
    }

    /// The process goes on.
    pub fn go_on(&self) {
        self.state().is_aside = false;
    }

    pub(crate) fn is_aside(&self) -> bool {
        self.state().is_aside
    }

    /// Is it still told what it was told before?
    pub fn is_again(&self) -> bool {
        let state = self.state();
        !state.is_live && !state.is_aside && state.differs.is_none()
    }

    /// Has it been told all again that it was told? Before that no state of it can be saved.
    pub fn has_caught_up(&self) -> bool {
        let state = self.state();
        state.is_live || (state.told == state.again.len() && state.differs.is_none())
    }

    /// Where the state stands that was saved last. The process has caught up, and has not run since.
    pub fn mark(&self) -> Mark {
        let state = self.state();
        Mark {
            position: state.end,
            changes: state.changes,
            monotonic_ns: state.monotonic.saved_ns,
            cputime_ns: state.cputime.saved_ns,
        }
    }

    /// What lies before this position needs not be kept: a state was saved there, and there is none before it.
    pub fn begin_at(&self, position: u64) {
        let mut state = self.state();
        let skip = position.clamp(state.safe, state.end) - state.safe;
        state.pending.drain(..skip as usize);
        state.safe += skip;
        drop(state);
        self.0.room.notify_all();
    }

    /// Waits until there is something to write and a reason to write it, or for this time.
    pub fn wait(&self, timeout: Duration) -> Option<Piece> {
        let until = Instant::now() + timeout;
        let mut state = self.state();
        loop {
            let has_some = !state.pending.is_empty();
            if has_some && (state.is_awaited || state.pending.len() >= PIECE_BYTES) {
                let bytes = state.pending[..state.pending.len().min(PIECE_BYTES_MAX)].to_vec();
                return Some(Piece { at: state.safe, is_fresh: state.is_fresh, bytes });
            }
            if !has_some && std::mem::take(&mut state.is_awaited) {
                // What somebody waits for is safe already.
                return None;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.0.news.wait_timeout(state, left).expect("nothing panics while it holds a tape").0;
        }
    }

    /// This piece is on disks.
    pub fn is_kept(&self, piece: &Piece) {
        let mut state = self.state();
        let kept = (piece.at + piece.bytes.len() as u64).clamp(state.safe, state.end) - state.safe;
        state.pending.drain(..kept as usize);
        state.safe += kept;
        state.is_fresh = false;
        drop(state);
        self.0.room.notify_all();
    }

    /// All before this position is on disks.
    pub fn safe(&self) -> u64 {
        self.state().safe
    }

    pub fn end(&self) -> u64 {
        self.state().end
    }

    /// Waits until all before this position is on disks, or for this time.
    pub fn wait_safe(&self, position: u64, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        self.hurry();
        let mut state = self.state();
        while state.safe < position {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.0.room.wait_timeout(state, left).expect("nothing panics while it holds a tape").0;
        }
        true
    }

    /// Does somebody want the process to stop?
    fn is_interrupted(&self) -> bool {
        self.0.interrupted.load(Ordering::SeqCst)
    }

    /// Somebody waits to see what the process has done: that is to be safe as soon as may be.
    pub fn hurry(&self) {
        let mut state = self.state();
        if !state.is_awaited {
            state.is_awaited = true;
            drop(state);
            self.0.news.notify_all();
        }
    }

    /// Why the process is not the one that the tape is of, if it is not.
    pub fn differs(&self) -> Option<String> {
        self.state().differs.clone()
    }

    /// Answers a question: by asking it, or from the tape. `void` is what a process hears that is not the tape's.
    pub fn told<T>(
        &self, tag: Tag, void: T, write: impl FnOnce(&T, &mut Writer),
        read: impl FnOnce(&mut Reader) -> Result<T, Malformed>, ask: impl FnOnce() -> T,
    ) -> T {
        match self.next(tag) {
            Next::Aside => ask(),
            Next::Ask => {
                let answer = ask();
                let mut to = Writer::default();
                to.u8(tag as u8);
                write(&answer, &mut to);
                self.add(&to.finish());
                answer
            }
            Next::Again(record) => {
                let mut from = Reader::new(&record);
                let answer = read(&mut from).and_then(|answer| from.finish().map(|()| answer));
                answer.unwrap_or_else(|_| {
                    self.state().differ(format!("the answer to {tag:?} is not of its form"));
                    void
                })
            }
            Next::Void | Next::PutOff => void,
        }
    }

    /// The same for what may fail.
    pub fn result<T>(
        &self, tag: Tag, write: impl FnOnce(&T, &mut Writer), read: impl FnOnce(&mut Reader) -> Result<T, Malformed>,
        ask: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let write = |answer: &Result<T, Errno>, to: &mut Writer| write_result(answer, to, write);
        self.told(tag, Err(Errno::Io), write, |from| read_result(from, read), ask)
    }

    /// Has a change made, once: what led to it is safe before, and its number tells who is asked whether it was made already.
    pub(crate) fn change<T>(
        &self, tag: Tag, write: impl FnOnce(&T, &mut Writer), read: impl FnOnce(&mut Reader) -> Result<T, Malformed>,
        act: impl FnOnce(Change) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match self.next(tag) {
            Next::Aside => act(Change { number: None, is_doubtful: false }),
            Next::Void => Err(Errno::Io),
            Next::PutOff => {
                self.state().is_put_off = true;
                Err(Errno::Again)
            }
            Next::Ask => {
                if !self.settle() {
                    // When it is told again it must be put off again, or it would not ask the same twice.
                    self.add(&[Tag::PutOff as u8]);
                    self.state().is_put_off = true;
                    return Err(Errno::Again);
                }
                let change = {
                    let mut state = self.state();
                    let is_doubtful = std::mem::take(&mut state.is_doubtful);
                    Change { number: Some(state.changes + 1), is_doubtful }
                };
                let answer = act(change);
                let mut to = Writer::default();
                write_result(&answer, to.u8(tag as u8), write);
                self.add(&to.finish());
                self.state().changes += 1;
                answer
            }
            Next::Again(record) => {
                let mut from = Reader::new(&record);
                let answer = read_result(&mut from, read).and_then(|answer| from.finish().map(|()| answer));
                let mut state = self.state();
                state.changes += 1;
                answer.unwrap_or_else(|_| {
                    state.differ(format!("the answer to {tag:?} is not of its form"));
                    Err(Errno::Io)
                })
            }
        }
    }

    /// Waits until all that was told is safe. False: the process is to stop first.
    fn settle(&self) -> bool {
        let mut state = self.state();
        let end = state.end;
        while state.safe < end {
            if self.0.interrupted.load(Ordering::SeqCst) {
                return false;
            }
            if !std::mem::replace(&mut state.is_awaited, true) {
                self.0.news.notify_all();
            }
            state = self.0.room.wait_timeout(state, LOOK_INTERVAL).expect("nothing panics while it holds a tape").0;
        }
        true
    }

    pub(crate) fn is_put_off(&self) -> bool {
        self.state().is_put_off
    }

    /// Has the last call done nothing because the process is to stop? Said once.
    pub fn take_put_off(&self) -> bool {
        std::mem::take(&mut self.state().is_put_off)
    }

    fn next(&self, tag: Tag) -> Next {
        let mut state = self.state();
        if state.is_aside {
            return Next::Aside;
        }
        if state.differs.is_some() {
            return Next::Void;
        }
        if !state.is_live && state.told < state.again.len() {
            let rest = &state.again[state.told..];
            let length = length_of(rest).ok().flatten().expect("only whole records are told again");
            let start = rest[..length].iter().position(|byte| byte & 0x80 == 0).expect("a length has an end") + 1;
            if rest[start] == Tag::PutOff as u8 && tag.may_be_put_off() {
                state.told += length;
                return Next::PutOff;
            }
            if rest[start] != tag as u8 {
                let (at, was) = (state.told, rest[start]);
                state.differ(format!(
                    "it asks for {tag:?} where it asked for {was} before, {at} bytes after its checkpoint"
                ));
                return Next::Void;
            }
            let record = rest[start + 1..length].to_vec();
            state.told += length;
            return Next::Again(record);
        }
        if !state.is_live {
            state.go_live();
        }
        // Whoever keeps the tape may be slower than the process. Who wants to stop it is not kept waiting.
        while state.pending.len() > PENDING_BYTES_MAX && !self.0.interrupted.load(Ordering::SeqCst) {
            state = self.0.room.wait_timeout(state, LOOK_INTERVAL).expect("nothing panics while it holds a tape").0;
        }
        Next::Ask
    }

    fn add(&self, record: &[u8]) {
        let mut state = self.state();
        let before = state.pending.len();
        let mut length = record.len();
        while length >= 0x80 {
            state.pending.push(length as u8 | 0x80);
            length >>= 7;
        }
        state.pending.push(length as u8);
        state.pending.extend_from_slice(record);
        state.end += (state.pending.len() - before) as u64;
        let is_due = before < PIECE_BYTES && state.pending.len() >= PIECE_BYTES;
        drop(state);
        if is_due {
            self.0.news.notify_all();
        }
    }
}

/// A change that is about to be made.
#[derive(Clone, Copy)]
pub(crate) struct Change {
    /// Its number among all changes of the process; none if it is not the process's.
    pub number: Option<u64>,
    /// It may have been made before, by who asked for it and was lost before it was told.
    pub is_doubtful: bool,
}

fn write_result<T>(answer: &Result<T, Errno>, to: &mut Writer, write: impl FnOnce(&T, &mut Writer)) {
    match answer {
        Ok(value) => write(value, to.u8(0)),
        Err(errno) => {
            to.u8(1).u32(errno.raw().into());
        }
    }
}

fn read_result<T>(
    from: &mut Reader, read: impl FnOnce(&mut Reader) -> Result<T, Malformed>,
) -> Result<Result<T, Errno>, Malformed> {
    match from.u8()? {
        0 => read(from).map(Ok),
        1 => {
            let raw = from.u32()?;
            let errno = u16::try_from(raw).ok().and_then(Errno::from_raw);
            errno.map(Err).ok_or_else(|| from.malformed())
        }
        _ => Err(from.malformed()),
    }
}

enum Next {
    Aside,
    Ask,
    Again(Vec<u8>),
    /// Now as then nothing is done, and it is asked again.
    PutOff,
    Void,
}

impl State {
    fn go_live(&mut self) {
        if std::mem::replace(&mut self.is_live, true) {
            return;
        }
        self.again = vec![];
        self.told = 0;
        if let Some(on_live) = self.on_live.take() {
            on_live();
        }
    }

    fn differ(&mut self, why: String) {
        self.differs.get_or_insert(why);
    }
}

#[cfg(test)]
mod tests;
