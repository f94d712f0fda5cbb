//! Processes that run before all of their pages are there. Knows nothing of where pages come from, nor of what runs.
//!
//! The one idea: Linux holds whoever touches a page that is not there (userfaultfd); one thread for all processes hears of it, asks for
//! the page and goes on. Whoever has the page puts it there, and Linux lets the other go on.
//!
//! ```text
//!   program ── touches ──► Linux ── address ──► the thread "pages" ── want ──► Fetch ─ ─ ─ somewhere
//!      ▲                     ▲                                                                │
//!      └────── goes on ──────┴──────────────── Missing::fill ◄─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ──┘
//! ```
//!
//! Where a process's memory will never come it is *lost*: what waits then finds zeros, but nothing that is made of them gets out, since the
//! process is stopped and each of its calls fails (`Presence`).

use super::linux::{Faults, PAGE, Watch};
use super::memory::{Mapping, Use};
use super::{Lost, Memories, PagesError, Presence, Span};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

/// Pages are asked for in units of so many bytes: a round trip costs as much as this takes.
pub const UNIT: u64 = 64 << 10;

pub(super) const PAGES_OF_UNIT: usize = UNIT as usize / PAGE;

/// Where missing pages come from.
pub trait Fetch: Send + Sync {
    /// The program waits for a page of this unit of [`UNIT`] bytes; asked once for each. What is missing of the unit is to be given
    /// to [`Missing::fill`], from any thread, in any order.
    ///
    /// Must not wait: it is called on the one thread that hears of all missing pages. If it panics the node stops, since nobody would
    /// hear of them any more.
    fn want(&self, memory: u32, unit: u64);
}

/// The missing pages of one process; cheap to clone.
///
/// When the last clone is dropped with pages still missing, these are lost.
#[derive(Clone)]
pub struct Missing {
    inner: Arc<Inner>,
}

struct Inner {
    mappings: Vec<Arc<Mapping>>,
    /// Of each memory, what of it is watched: as much as it had at the beginning. What it grows by is zero.
    pages: Vec<usize>,
    presence: Arc<Presence>,
    fetch: Arc<dyn Fetch>,
    state: Mutex<State>,
    changed: Condvar,
}

/// Invariants: `left` is the number of bits of `absent`; a page whose bit is set was never filled.
struct State {
    /// Of each memory, a bit for each page.
    absent: Vec<Bits>,
    /// Of each memory, a bit for each unit.
    asked: Vec<Bits>,
    left: usize,
    stage: Stage,
    cancels: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Filling,
    /// All is there, or the process has ended.
    Done,
    Lost,
}

/// Why not all of the pages are there after [`Missing::wait`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotThere {
    #[error("{left_bytes} bytes have not come in time")]
    Late { left_bytes: u64 },
    #[error("nobody waits for them any more")]
    Canceled,
    #[error(transparent)]
    Lost(#[from] Lost),
}

#[derive(Clone, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub fn new(count: usize) -> Bits {
        Bits(vec![0; count.div_ceil(64)])
    }

    pub fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Was it new?
    pub fn set(&mut self, index: usize) -> bool {
        let (word, bit) = (&mut self.0[index / 64], 1 << (index % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    pub fn clear(&mut self, index: usize) {
        self.0[index / 64] &= !(1 << (index % 64));
    }

    /// The runs of bits that are `set` within this range.
    pub fn runs(&self, within: Range<usize>, set: bool) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = vec![];
        for index in within.filter(|index| self.has(*index) == set) {
            match runs.last_mut().filter(|last| last.end == index) {
                Some(last) => last.end += 1,
                None => runs.push(index..index + 1),
            }
        }
        runs
    }
}

/// Whoever has put something off until it is touched.
pub(super) trait Touched: Send + Sync {
    /// Somebody waits for the page at this offset of a memory, which begins at `base`.
    fn touched(&self, desk: &Desk, base: usize, memory: u32, offset: usize) -> io::Result<()>;
}

/// By the address where a memory begins: its length, whose it is, and which of its memories.
type Watched = BTreeMap<usize, (usize, Weak<dyn Touched>, u32)>;

/// What hears of pages that are touched; one for all processes.
pub(super) struct Desk {
    pub faults: Faults,
    memories: Mutex<Watched>,
}

impl Desk {
    pub fn memories(&self) -> MutexGuard<'_, Watched> {
        self.memories.lock().expect("no code panics while it holds this lock")
    }

    fn listen(&self) -> io::Result<()> {
        let mut touched = vec![];
        loop {
            touched.clear();
            self.faults.wait(&mut touched)?;
            for address in &touched {
                let found = {
                    let memories = self.memories();
                    let before = memories.range(..=address).next_back();
                    before.and_then(|(base, (bytes, whose, memory))| {
                        let offset = address - base;
                        (offset < *bytes).then(|| Some((whose.upgrade()?, *base, *memory, offset))).flatten()
                    })
                };
                // What is known no more was given up: who waited there goes on by that.
                if let Some((whose, base, memory, offset)) = found {
                    whose.touched(self, base, memory, offset)?;
                }
            }
        }
    }
}

/// Without this thread programs would wait for ever, or find zeros: then the node must not go on.
struct StopsTheNode;

impl Drop for StopsTheNode {
    fn drop(&mut self) {
        eprintln!("una: missing pages cannot be answered for any more: the node stops");
        std::process::abort();
    }
}

pub(super) fn desk() -> io::Result<&'static Desk> {
    static DESK: OnceLock<io::Result<&'static Desk>> = OnceLock::new();
    let desk = DESK.get_or_init(|| {
        supported()?;
        let desk = Desk { faults: Faults::open(Watch::Missing)?, memories: Mutex::default() };
        let desk: &'static Desk = Box::leak(Box::new(desk));
        std::thread::Builder::new().name("pages".into()).spawn(move || {
            let _stops = StopsTheNode;
            if let Err(error) = desk.listen() {
                eprintln!("una: listening for missing pages: {error}");
            }
        })?;
        Ok(desk)
    });
    desk.as_ref().copied().map_err(super::same)
}

/// Can this machine do it? The error says why not.
pub(super) fn supported() -> io::Result<()> {
    super::not_refused()?;
    Faults::open(Watch::Missing).map(|_| ())
}

impl Missing {
    /// These pages of the process are not there: what its memory holds in their place is thrown away. It must not run until this
    /// returns; it may run then, and what it touches of them it waits for. `fetch` is asked for them as they are touched.
    ///
    /// All other pages that the process has not written yet are zeros.
    pub fn begin(process: &Memories, absent: &[Span], fetch: Arc<dyn Fetch>) -> Result<Missing, PagesError> {
        let desk = desk().map_err(|error| PagesError::Unsupported(error.to_string()))?;
        let mappings = process.mappings()?;
        let pages: Vec<usize> = mappings.iter().map(|mapping| mapping.accessible_bytes() / PAGE).collect();
        let mut state = State {
            absent: pages.iter().map(|pages| Bits::new(*pages)).collect(),
            asked: pages.iter().map(|pages| Bits::new(pages.div_ceil(PAGES_OF_UNIT))).collect(),
            left: 0,
            stage: Stage::Filling,
            cancels: 0,
        };
        for span in absent {
            let range = whole_pages(span, &pages)?;
            for page in range.clone() {
                state.left += state.absent[span.memory as usize].set(page) as usize;
            }
        }
        let mut begun: Vec<Arc<Mapping>> = vec![];
        for mapping in &mappings {
            if let Err(error) = mapping.begin(Use::Filled) {
                begun.iter().for_each(|mapping| mapping.end(Use::Filled));
                return Err(error);
            }
            begun.push(mapping.clone());
        }
        let inner = Arc::new(Inner {
            mappings,
            pages,
            presence: process.presence.clone(),
            fetch,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        // From here on what is dropped undoes it, and loses the process.
        let missing = Missing { inner };
        missing.inner.presence.begin();
        missing.inner.register(desk)?;
        Ok(missing)
    }

    /// Gives pages to the process: whole ones, of which those that are not missing (any more) are passed over. Says how many bytes
    /// were missing.
    pub fn fill(&self, memory: u32, offset: u64, bytes: &[u8]) -> Result<u64, PagesError> {
        let span = Span { memory, range: offset..offset.saturating_add(bytes.len() as u64) };
        self.inner.fill(span, |desk, mapping, pages| {
            let from = pages.start * PAGE - offset as usize;
            let at = mapping.within(pages.start * PAGE..pages.end * PAGE).start;
            desk.faults.fill(mapping.reservation(), at, &bytes[from..from + pages.len() * PAGE])
        })
    }

    /// The same with zeros.
    pub fn fill_zero(&self, span: Span) -> Result<u64, PagesError> {
        self.inner.fill(span, |desk, mapping, pages| {
            desk.faults.fill_zero(mapping.reservation(), mapping.within(pages.start * PAGE..pages.end * PAGE))
        })
    }

    /// Bytes that are still missing.
    pub fn left(&self) -> u64 {
        (self.inner.state().left * PAGE) as u64
    }

    /// What is still missing, up to so many ranges.
    pub fn left_spans(&self, spans_max: usize) -> Vec<Span> {
        let state = self.inner.state();
        let mut spans = vec![];
        for (memory, absent) in state.absent.iter().enumerate() {
            let runs = absent.runs(0..absent.0.len() * 64, true);
            spans.extend(
                runs.into_iter().take(spans_max - spans.len()).map(|run| Span {
                    memory: memory as u32,
                    range: (run.start * PAGE) as u64..(run.end * PAGE) as u64,
                }),
            );
        }
        spans
    }

    /// Waits until all is there; who wants to move the process on, or to save it, asks for what is left first.
    pub fn wait(&self, timeout: Duration) -> Result<(), NotThere> {
        let end = Instant::now() + timeout;
        let mut state = self.inner.state();
        let cancels = state.cancels;
        loop {
            match state.stage {
                Stage::Done => return Ok(()),
                Stage::Lost => return Ok(self.inner.presence.check()?),
                Stage::Filling if state.cancels != cancels => return Err(NotThere::Canceled),
                Stage::Filling => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NotThere::Late { left_bytes: (state.left * PAGE) as u64 });
            }
            let waited = self.inner.changed.wait_timeout(state, left);
            state = waited.expect("no code panics while it holds this lock").0;
        }
    }

    /// Ends every [`Missing::wait`] that is under way.
    pub fn cancel(&self) {
        self.inner.state().cancels += 1;
        self.inner.changed.notify_all();
    }

    /// What is left will never come: the process ends, and says why. If nothing is left nothing happens.
    pub fn lost(&self, why: &str) {
        self.inner.lose(why);
    }
}

/// A range of a memory as pages.
pub(super) fn whole_pages(span: &Span, pages: &[usize]) -> Result<Range<usize>, PagesError> {
    let (start, end, page) = (span.range.start, span.range.end, PAGE as u64);
    let has = pages.get(span.memory as usize).map_or(0, |pages| *pages as u64 * page);
    if start > end || end > has || !start.is_multiple_of(page) || !end.is_multiple_of(page) {
        return Err(PagesError::NoPages { span: span.clone() });
    }
    Ok((start / page) as usize..(end / page) as usize)
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    fn register(self: &Arc<Inner>, desk: &'static Desk) -> Result<(), PagesError> {
        let mut state = self.state();
        for (memory, mapping) in self.mappings.iter().enumerate() {
            let pages = self.pages[memory];
            let whose: Weak<dyn Touched> = Arc::<Inner>::downgrade(self);
            desk.memories().insert(mapping.base(), (pages * PAGE, whose, memory as u32));
            for run in state.absent[memory].runs(0..pages, true) {
                mapping.reservation().discard(mapping.within(run.start * PAGE..run.end * PAGE))?;
            }
            if pages > 0 {
                desk.faults.register(mapping.reservation(), mapping.within(0..pages * PAGE), Watch::Missing)?;
            }
        }
        if state.left == 0 {
            self.done(desk, &mut state, Stage::Done);
        }
        Ok(())
    }

    fn fill(
        &self, span: Span, put: impl Fn(&Desk, &Mapping, Range<usize>) -> io::Result<()>,
    ) -> Result<u64, PagesError> {
        let desk = desk().map_err(|error| PagesError::Unsupported(error.to_string()))?;
        let mut state = self.state();
        let range = whole_pages(&span, &self.pages)?;
        if state.stage != Stage::Filling {
            return Ok(0);
        }
        let memory = span.memory as usize;
        let mapping = &self.mappings[memory];
        if mapping.has_ended() {
            self.done(desk, &mut state, Stage::Done);
            return Ok(0);
        }
        let mut filled = 0;
        for run in state.absent[memory].runs(range, true) {
            put(desk, mapping, run.clone())?;
            filled += run.len();
            for page in run {
                state.absent[memory].clear(page);
                state.left -= 1;
            }
        }
        if state.left == 0 {
            self.done(desk, &mut state, Stage::Done);
        }
        Ok((filled * PAGE) as u64)
    }

    fn lose(&self, why: &str) {
        let Ok(desk) = desk() else { return };
        let mut state = self.state();
        if state.stage != Stage::Filling {
            return;
        }
        // First it must be known, then whoever waits may go on.
        self.presence.lose(why);
        self.presence.stop();
        self.done(desk, &mut state, Stage::Lost);
    }

    fn done(&self, desk: &Desk, state: &mut State, stage: Stage) {
        state.stage = stage;
        for (mapping, pages) in self.mappings.iter().zip(&self.pages) {
            desk.memories().remove(&mapping.base());
            if *pages > 0 {
                // Of what was never registered there is nothing to undo.
                let _ = desk.faults.unregister(mapping.reservation(), mapping.within(0..pages * PAGE));
            }
            mapping.end(Use::Filled);
        }
        if stage == Stage::Done {
            self.presence.complete();
        }
        self.changed.notify_all();
    }
}

impl Touched for Inner {
    fn touched(&self, desk: &Desk, _base: usize, memory: u32, offset: usize) -> io::Result<()> {
        let (page, unit) = (offset / PAGE, offset / UNIT as usize);
        let (index, mapping) = (memory as usize, &self.mappings[memory as usize]);
        {
            let mut state = self.state();
            if state.stage != Stage::Filling {
                // What is not watched any more lets everybody go on.
                return Ok(());
            }
            if !state.absent[index].has(page) {
                // It was filled meanwhile, or is a page that the process never wrote: those are zeros, and its neighbours too.
                let end = ((unit + 1) * PAGES_OF_UNIT).min(self.pages[index]);
                for run in state.absent[index].runs(unit * PAGES_OF_UNIT..end, false) {
                    let range = mapping.within(run.start * PAGE..run.end * PAGE);
                    desk.faults.fill_zero(mapping.reservation(), range)?;
                }
                return Ok(());
            }
            if !state.asked[index].set(unit) {
                return Ok(());
            }
        }
        self.fetch.want(memory, unit as u64);
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.lose("nobody gives it its pages any more");
    }
}
