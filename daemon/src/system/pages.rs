//! The pages of a process that went ahead of them. Knows pages and streams between nodes; not what a process is.
//!
//! The one idea: what the process wrote last stays where it was when it leaves, and follows while it runs: what it touches first, the rest
//! as fast as the other side takes it. The side that has the pages keeps each until the other says that it has it, so a link that breaks
//! delays and loses nothing.
//!
//! ```text
//!   here                                    there
//!   Sending ── page, page, ... ──────────►  Missing::fill
//!           ◄─ has it ────────────────────
//!           ◄─ wants that one ────────────  somebody touched it
//! ```
//! At most [`WINDOW`] units are on their way, so that one that is wanted waits behind few.

use crate::steps::Step;
use abi::encoding::{Malformed, Reader, Writer};
use abi::ids::NodeId;
use drivers::wire::Stream;
use engine::pages::{Content, Fetch, Missing, PagesError, Piece, Span, Stem, Tracker, UNIT};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Units on their way.
const WINDOW: usize = 8;
/// A frame is one unit at most, and its head.
const FRAME_BYTES_MAX: usize = 2 * UNIT as usize;
/// How long one side waits for the other's next word before it takes the link for broken.
const WORD_TIMEOUT: Duration = Duration::from_secs(10);

/// Which memory, and which [`UNIT`] of it.
type Unit = (u32, u64);

/// What is sent: first its kind.
mod kind {
    pub const BYTES: u8 = 1;
    pub const ZEROS: u8 = 2;
    /// All of this unit has been sent.
    pub const UNIT_END: u8 = 3;
    pub const HAS: u8 = 4;
    pub const WANTS: u8 = 5;
    pub const HAS_ALL: u8 = 6;
}

/// Ranges of pages, in the form that says where they are in few bytes.
pub fn spans_to_bytes(spans: &[Span]) -> Vec<u8> {
    let mut to = Writer::default();
    to.u32(spans.len() as u32);
    for Span { memory, range } in spans {
        let (first, count) = (range.start >> 12, (range.end - range.start) >> 12);
        to.u32(*memory).u32(first as u32).u32(count as u32);
    }
    to.finish()
}

pub fn spans_of_bytes(bytes: &[u8]) -> Result<Vec<Span>, Malformed> {
    let mut from = Reader::new(bytes);
    let count = from.u32()?;
    let mut spans = vec![];
    for _ in 0..count {
        let (memory, first, pages) = (from.u32()?, u64::from(from.u32()?), u64::from(from.u32()?));
        spans.push(Span { memory, range: first << 12..(first + pages) << 12 });
    }
    from.finish()?;
    Ok(spans)
}

/// Ranges that are no more than so many, which cover what these cover, and more where they lie close to one another.
pub fn coarser(spans: Vec<Span>, spans_max: usize) -> Vec<Span> {
    let mut gap = 4096;
    let mut spans = spans;
    while spans.len() > spans_max {
        gap *= 2;
        let mut fewer: Vec<Span> = vec![];
        for span in spans {
            match fewer.last_mut() {
                Some(last) if last.memory == span.memory && span.range.start <= last.range.end + gap => {
                    last.range.end = last.range.end.max(span.range.end);
                }
                _ => fewer.push(span),
            }
        }
        spans = fewer;
    }
    spans
}

pub fn bytes_of(spans: &[Span]) -> u64 {
    spans.iter().map(|span| span.range.end - span.range.start).sum()
}

/// Who has pages that are sent.
pub trait Held: Send {
    fn read(&mut self, memory: u32, offset: u64, bytes: &mut [u8]) -> Result<(), PagesError>;
}

impl Held for Tracker {
    fn read(&mut self, memory: u32, offset: u64, bytes: &mut [u8]) -> Result<(), PagesError> {
        Tracker::read(self, memory, offset, bytes)
    }
}

impl Held for Stem {
    fn read(&mut self, memory: u32, offset: u64, bytes: &mut [u8]) -> Result<(), PagesError> {
        Stem::read(self, memory, offset, bytes)
    }
}

/// Who has not got all of its pages yet.
pub trait Gaps {
    fn left(&self) -> u64;
    fn fill(&self, memory: u32, offset: u64, bytes: &[u8]) -> Result<u64, PagesError>;
    fn fill_zero(&self, span: Span) -> Result<u64, PagesError>;
}

impl Gaps for Missing {
    fn left(&self) -> u64 {
        Missing::left(self)
    }

    fn fill(&self, memory: u32, offset: u64, bytes: &[u8]) -> Result<u64, PagesError> {
        Missing::fill(self, memory, offset, bytes)
    }

    fn fill_zero(&self, span: Span) -> Result<u64, PagesError> {
        Missing::fill_zero(self, span)
    }
}

impl Gaps for Stem {
    fn left(&self) -> u64 {
        Stem::left(self)
    }

    fn fill(&self, memory: u32, offset: u64, bytes: &[u8]) -> Result<u64, PagesError> {
        Stem::fill(self, memory, offset, bytes)
    }

    fn fill_zero(&self, span: Span) -> Result<u64, PagesError> {
        Stem::fill_zero(self, span)
    }
}

/// The side that has the pages.
pub struct Sending {
    from: Mutex<Box<dyn Held>>,
    state: Mutex<State>,
    changed: Condvar,
}

/// Invariant: a unit that the other side has not got is in one of the two.
struct State {
    /// Not sent, or sent over a link that broke.
    left: BTreeMap<Unit, Vec<(u64, u64)>>,
    under_way: BTreeMap<Unit, Vec<(u64, u64)>>,
    wanted: BTreeSet<Unit>,
    /// The one that was sent last: what follows it is probably touched next.
    last: Unit,
    /// The link that is served now; an older one has nothing to say any more.
    link: u64,
    broken: bool,
    sent: u64,
}

impl Sending {
    pub fn new(from: Box<dyn Held>, spans: &[Span]) -> Arc<Sending> {
        let mut left: BTreeMap<Unit, Vec<(u64, u64)>> = BTreeMap::new();
        for Span { memory, range } in spans {
            let mut at = range.start;
            while at < range.end {
                let end = ((at / UNIT + 1) * UNIT).min(range.end);
                left.entry((*memory, at / UNIT)).or_default().push((at, end));
                at = end;
            }
        }
        let state = State {
            left,
            under_way: BTreeMap::new(),
            wanted: BTreeSet::new(),
            last: (0, 0),
            link: 0,
            broken: false,
            sent: 0,
        };
        Arc::new(Sending { from: Mutex::new(from), state: Mutex::new(state), changed: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    /// Bytes sent so far, and units of which the other side has not said that it has them.
    pub fn progress(&self) -> (u64, usize) {
        let state = self.state();
        (state.sent, state.left.len() + state.under_way.len())
    }

    pub fn is_done(&self) -> bool {
        self.progress().1 == 0
    }

    /// Sends over this link until the other side has all, or the link breaks.
    pub fn serve(self: &Arc<Sending>, stream: Stream) -> io::Result<()> {
        let link = self.listen(&stream, |_| Ok(()))?;
        self.send_over(link, stream)
    }

    /// The same over the link by which the process left, on which something else is heard first.
    pub fn serve_after(
        self: &Arc<Sending>, stream: Stream, first: impl FnOnce(&mut Stream) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let link = self.listen(&stream, first)?;
        Step::LeavingPages.reached();
        self.send_over(link, stream)
    }

    /// Hears what the other side says over this link from now on, and gives its number.
    fn listen(
        self: &Arc<Sending>, stream: &Stream, first: impl FnOnce(&mut Stream) -> io::Result<()> + Send + 'static,
    ) -> io::Result<u64> {
        let link = {
            let mut state = self.state();
            state.link += 1;
            state.broken = false;
            let again = std::mem::take(&mut state.under_way);
            state.left.extend(again);
            state.link
        };
        let (hearing, mut words) = (self.clone(), stream.try_clone()?);
        std::thread::Builder::new().name("una-wants".into()).stack_size(128 << 10).spawn(move || {
            if first(&mut words).is_ok() {
                while hearing.hear(link, &mut words).is_ok() {}
            }
            let mut state = hearing.state();
            state.broken |= state.link == link;
            drop(state);
            hearing.changed.notify_all();
        })?;
        Ok(link)
    }

    fn send_over(&self, link: u64, mut stream: Stream) -> io::Result<()> {
        let mut bytes = vec![0; UNIT as usize];
        while let Some((unit, ranges)) = self.next(link)? {
            stream.set_deadline(Some(Instant::now() + WORD_TIMEOUT));
            let mut sent = 0;
            for (start, end) in ranges {
                let content = &mut bytes[..(end - start) as usize];
                let read = self.from.lock().expect("nothing panics while it reads").read(unit.0, start, content);
                read.map_err(io::Error::other)?;
                let content = match content.iter().all(|byte| *byte == 0) {
                    true => Content::Zeros(end - start),
                    false => Content::Bytes(content),
                };
                let frame = piece_to_bytes(&Piece { memory: unit.0, offset: start, content });
                send(&mut stream, &frame)?;
                sent += frame.len() as u64;
            }
            send(&mut stream, &word(kind::UNIT_END, unit))?;
            self.state().sent += sent;
        }
        let _ = stream.shutdown(Shutdown::Both);
        Ok(())
    }

    /// The next unit to send, as soon as there is room on the way; none when the other side has all.
    fn next(&self, link: u64) -> io::Result<Option<(Unit, Vec<(u64, u64)>)>> {
        let mut state = self.state();
        loop {
            if state.broken || state.link != link {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if state.left.is_empty() && state.under_way.is_empty() {
                return Ok(None);
            }
            let wanted = state.wanted.pop_first();
            let unit = match wanted {
                // A wanted one does not wait for room.
                Some(unit) if state.left.contains_key(&unit) => Some(unit),
                Some(_) => continue,
                None if state.under_way.len() < WINDOW => {
                    let after = state.left.range(state.last..).next().or_else(|| state.left.iter().next());
                    after.map(|(unit, _)| *unit)
                }
                None => None,
            };
            if let Some(unit) = unit {
                let ranges = state.left.remove(&unit).expect("it was just looked at");
                state.under_way.insert(unit, ranges.clone());
                state.last = unit;
                return Ok(Some((unit, ranges)));
            }
            state = self.changed.wait(state).expect("nothing panics while it holds this lock");
        }
    }

    fn hear(&self, link: u64, words: &mut Stream) -> io::Result<()> {
        let frame = receive_word(words)?;
        let (said, unit) = word_of(&frame).map_err(malformed)?;
        let mut state = self.state();
        if state.link != link {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        match said {
            kind::HAS => {
                state.under_way.remove(&unit);
                state.left.remove(&unit);
            }
            kind::WANTS => {
                state.wanted.insert(unit);
            }
            kind::HAS_ALL => {
                state.left.clear();
                state.under_way.clear();
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }
}

/// A frame: its length (32 bits), then its content. The stream's deadline is the caller's to set.
pub fn send(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(frame)?;
    to.flush()
}

pub fn receive(from: &mut impl Read, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > bytes_max {
        return Err(io::Error::other(format!("a frame of {length} bytes; {bytes_max} are allowed")));
    }
    // Grows as bytes arrive: who only says that much is coming gets no memory for it.
    let mut frame = Vec::with_capacity(length.min(64 << 10));
    from.take(length as u64).read_to_end(&mut frame)?;
    match frame.len() == length {
        true => Ok(frame),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn receive_word(from: &mut Stream) -> io::Result<Vec<u8>> {
    from.set_deadline(Some(Instant::now() + WORD_TIMEOUT));
    receive(from, FRAME_BYTES_MAX)
}

/// The side on which pages are missing: asks for them.
pub struct Wanting(Mutex<Sender<Unit>>);

impl Fetch for Wanting {
    fn want(&self, memory: u32, unit: u64) {
        // Who sends it on lives as long as pages are missing; if not, they are lost, and the process ends.
        let _ = self.0.lock().expect("nothing panics while it sends").send((memory, unit));
    }
}

/// Asks, and where the questions come out.
pub fn wanting() -> (Arc<Wanting>, Receiver<Unit>) {
    let (give, take) = channel();
    (Arc::new(Wanting(Mutex::new(give))), take)
}

/// Takes in what comes over links that `open` opens, one after another, until all is there. False: it cannot come any more.
pub fn take_in(missing: &dyn Gaps, wants: Receiver<Unit>, mut open: impl FnMut() -> Option<Stream>) -> bool {
    let wants = Arc::new(Mutex::new(wants));
    // What was asked for over a link that broke is asked for again.
    let asked: Arc<Mutex<BTreeSet<Unit>>> = Arc::default();
    loop {
        let Some(mut stream) = open() else { return missing.left() == 0 };
        let Ok(forth) = stream.try_clone() else { return missing.left() == 0 };
        let to = Arc::new(Mutex::new(forth));
        let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let asking = {
            let (wants, asked, to, over) = (wants.clone(), asked.clone(), to.clone(), over.clone());
            let ask = move || {
                let again: Vec<Unit> =
                    asked.lock().expect("nothing panics while it holds this").iter().copied().collect();
                let mut queue = again.into_iter();
                let wants = wants.lock().expect("nothing panics while it holds this");
                while !over.load(std::sync::atomic::Ordering::Acquire) {
                    let unit = match queue.next() {
                        Some(unit) => unit,
                        None => match wants.recv_timeout(Duration::from_millis(50)) {
                            Ok(unit) => unit,
                            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => continue,
                            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
                        },
                    };
                    asked.lock().expect("nothing panics while it holds this").insert(unit);
                    if say(&to, kind::WANTS, unit).is_err() {
                        return;
                    }
                }
            };
            std::thread::Builder::new().name("una-wants".into()).stack_size(128 << 10).spawn(ask)
        };
        let Ok(asking) = asking else { return missing.left() == 0 };
        let taken = loop {
            if missing.left() == 0 {
                break say(&to, kind::HAS_ALL, (0, 0));
            }
            if let Err(error) = take_one(missing, &asked, &mut stream, &to) {
                break Err(error);
            }
        };
        over.store(true, std::sync::atomic::Ordering::Release);
        let _ = asking.join();
        // A link that breaks is opened again, also only to say that all has come.
        if taken.is_ok() {
            return true;
        }
    }
}

/// What is said of a unit.
fn word(said: u8, (memory, unit): Unit) -> Vec<u8> {
    Writer::default().u8(said).u32(memory).u64(unit).finish()
}

fn word_of(frame: &[u8]) -> Result<(u8, Unit), Malformed> {
    let mut from = Reader::new(frame);
    Ok((from.u8()?, (from.u32()?, from.u64()?)))
}

fn malformed(_: Malformed) -> io::Error {
    io::ErrorKind::InvalidData.into()
}

fn say(to: &Mutex<Stream>, said: u8, unit: Unit) -> io::Result<()> {
    let mut to = to.lock().expect("nothing panics while it speaks");
    to.set_deadline(Some(Instant::now() + WORD_TIMEOUT));
    send(&mut *to, &word(said, unit))
}

fn take_one(
    missing: &dyn Gaps, asked: &Mutex<BTreeSet<Unit>>, from: &mut Stream, to: &Mutex<Stream>,
) -> io::Result<()> {
    let frame = receive_word(from)?;
    if frame.first() == Some(&kind::UNIT_END) {
        let (_, unit) = word_of(&frame).map_err(malformed)?;
        asked.lock().expect("nothing panics while it holds this").remove(&unit);
        // If this word is lost the unit comes again, and is passed over.
        return say(to, kind::HAS, unit);
    }
    put(missing, piece_of_bytes(&frame).map_err(malformed)?).map_err(io::Error::other)
}

pub fn put(gaps: &dyn Gaps, piece: Piece) -> Result<(), PagesError> {
    let Piece { memory, offset, content } = piece;
    match content {
        Content::Bytes(bytes) => gaps.fill(memory, offset, bytes).map(drop),
        Content::Zeros(length) => {
            let span = Span { memory, range: offset..offset.saturating_add(length) };
            gaps.fill_zero(span).map(drop)
        }
    }
}

/// Departed processes of which pages are still here, by the tickets under which they left.
#[derive(Default)]
pub struct Departures(Mutex<BTreeMap<u64, (NodeId, Arc<Sending>)>>);

impl Departures {
    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, (NodeId, Arc<Sending>)>> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }

    pub fn add(&self, ticket: u64, to: NodeId, sending: Arc<Sending>) {
        self.all().insert(ticket, (to, sending));
    }

    /// Of this node's, under this ticket.
    pub fn find(&self, ticket: u64, to: NodeId) -> Option<Arc<Sending>> {
        self.all().get(&ticket).filter(|(node, _)| *node == to).map(|(_, sending)| sending.clone())
    }

    pub fn has(&self, ticket: u64) -> bool {
        self.all().contains_key(&ticket)
    }

    pub fn remove(&self, ticket: u64) {
        self.all().remove(&ticket);
    }

    /// That node's life is over: nobody will ask for its pages.
    pub fn forget(&self, node: NodeId) {
        self.all().retain(|_, (to, _)| *to != node);
    }

    pub fn count(&self) -> usize {
        self.all().len()
    }
}

/// A piece as a frame of the talk about a move, before there is a process.
pub fn piece_to_bytes(piece: &Piece) -> Vec<u8> {
    let mut frame = Writer::default();
    match piece.content {
        Content::Bytes(bytes) => frame.u8(kind::BYTES).u32(piece.memory).u64(piece.offset).raw(bytes),
        Content::Zeros(bytes) => frame.u8(kind::ZEROS).u32(piece.memory).u64(piece.offset).u64(bytes),
    };
    frame.finish()
}

pub fn piece_of_bytes(frame: &[u8]) -> Result<Piece<'_>, Malformed> {
    let mut reader = Reader::new(frame);
    let (said, memory, offset) = (reader.u8()?, reader.u32()?, reader.u64()?);
    match said {
        kind::BYTES => Ok(Piece { memory, offset, content: Content::Bytes(&frame[13..]) }),
        kind::ZEROS => {
            let length = reader.u64()?;
            reader.finish()?;
            Ok(Piece { memory, offset, content: Content::Zeros(length) })
        }
        _ => Err(Malformed { at: 0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(memory: u32, first: u64, pages: u64) -> Span {
        Span { memory, range: first << 12..(first + pages) << 12 }
    }

    #[test]
    fn spans_are_read_as_they_were_written() {
        let spans = vec![span(0, 1, 2), span(0, 7, 1), span(1, 0, 1 << 19)];
        let bytes = spans_to_bytes(&spans);
        assert_eq!(spans_of_bytes(&bytes), Ok(spans));
        for end in 0..bytes.len() {
            assert!(spans_of_bytes(&bytes[..end]).is_err(), "cut at {end} they were believed");
        }
    }

    #[test]
    fn fewer_spans_cover_the_same_and_keep_memories_apart() {
        let spans: Vec<Span> = (0..1000).map(|n| span(n / 500, u64::from(n % 500) * 3, 1)).collect();
        let fewer = coarser(spans.clone(), 10);
        assert!(fewer.len() <= 10, "{}", fewer.len());
        for span in spans {
            let covers = |other: &&Span| {
                other.memory == span.memory
                    && other.range.start <= span.range.start
                    && span.range.end <= other.range.end
            };
            assert_eq!(fewer.iter().filter(covers).count(), 1, "{span:?}");
        }
        assert_eq!(coarser(fewer.clone(), 10), fewer);
    }

    #[test]
    fn pieces_are_read_as_they_were_written_and_never_in_part() {
        let bytes = [7; 4096];
        for content in [Content::Bytes(&bytes), Content::Zeros(8192)] {
            let piece = Piece { memory: 1, offset: 4096, content };
            assert_eq!(piece_of_bytes(&piece_to_bytes(&piece)), Ok(piece));
        }
        assert!(piece_of_bytes(&[]).is_err() && piece_of_bytes(&[9; 13]).is_err());
    }
}
