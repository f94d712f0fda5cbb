//! The memory that several processes begin with: as it was at one moment of one of them. Knows nothing of where its content comes from when
//! it is not here, nor what runs.
//!
//! The one idea: a process that is forked does not keep its pages. They are laid aside as they are, by their page tables, and the process
//! runs on at once as one of those who have all of it from a file in memory: each page until they write to it (copy on write, by Linux).
//! What is not in the file yet is put there by whoever of them touches it first, and all the rest meanwhile. So how long a fork takes does
//! not depend on how much memory there is, and what nobody writes is there once.
//!
//! ```text
//!   laid aside ── unit by unit, as it is touched and in order ──►  file ──┬── the process that was forked
//!   or another node ── Fetch, Stem::fill ────────────────────────►        ├── clone: its own pages where it wrote
//!                                                                         └── clone
//! ```
//! Where Linux lets nobody wait for pages, all is copied while the process stands still, which keeps what it has.

use super::linux::{MemoryFile, PAGE, Watch};
use super::memory::{Aside, Mapping, Use};
use super::missing::{Bits, Desk, Fetch, NotThere, PAGES_OF_UNIT, Touched, UNIT, desk, whole_pages};
use super::{Memories, PagesError, Presence, Span};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

/// Cheap to clone. When the last clone is dropped before it is whole, what is missing is lost.
#[derive(Clone)]
pub struct Stem {
    inner: Arc<Inner>,
}

struct Inner {
    files: Vec<Arc<MemoryFile>>,
    pages: Vec<usize>,
    /// Who is asked for what is neither here nor laid aside.
    fetch: Option<Arc<dyn Fetch>>,
    state: Mutex<State>,
    told: Arc<Told>,
}

/// Invariants: `left` is the number of bits of `absent`; a page is absent, or in the file, or `empty`, and never two of them.
struct State {
    /// Of each memory, a bit for each page that is not in the file yet.
    absent: Vec<Bits>,
    /// The pages that are zero and not in the file.
    empty: Vec<Bits>,
    /// Of each memory, a bit for each unit that somebody was asked for.
    asked: Vec<Bits>,
    left: usize,
    /// What the process that was forked had. Nothing for a memory whose pages come from elsewhere.
    aside: Vec<Aside>,
    users: Vec<User>,
    /// There were some: if none is left what is still missing is wanted by nobody.
    had_users: bool,
    stage: Stage,
    /// Where [`Stem::settle`] goes on.
    next: (usize, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Filling,
    Done,
    Lost,
}

/// A process that has the stem's pages, and may touch some that are not in the file yet.
struct User {
    mappings: Vec<Arc<Mapping>>,
    presence: Arc<Presence>,
}

/// What is told to those who wait until all is there. It holds no memory.
struct Told {
    stage: Mutex<(Stage, u64, Option<super::Lost>)>,
    changed: Condvar,
}

/// To be asked whether a stem is whole; it does not keep it.
#[derive(Clone)]
pub struct Whole(Arc<Told>);

impl Whole {
    /// Waits until all is there.
    pub fn wait(&self, timeout: Duration) -> Result<(), NotThere> {
        let end = Instant::now() + timeout;
        let mut told = self.0.stage.lock().expect("no code panics while it holds this lock");
        loop {
            match (told.0, &told.2) {
                (Stage::Done, _) => return Ok(()),
                (Stage::Lost, Some(lost)) => return Err(lost.clone().into()),
                _ => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NotThere::Late { left_bytes: told.1 });
            }
            told = self.0.changed.wait_timeout(told, left).expect("no code panics while it holds this lock").0;
        }
    }
}

impl Stem {
    /// Of a process that does not run, nor is followed, nor waits for pages: from now on it has the stem's. It must not run until this
    /// returns. Whoever has the stem must see to it that it becomes whole: [`Stem::settle`].
    pub fn of(process: &Memories) -> Result<Stem, PagesError> {
        let mappings = process.mappings()?;
        let sizes: Vec<usize> = mappings.iter().map(|mapping| mapping.accessible_bytes()).collect();
        let stem = Stem::new(&sizes, None)?;
        let Ok(desk) = desk() else {
            stem.copy(&mappings)?;
            return Ok(stem);
        };
        let begun = begin(&mappings)?;
        let mut state = stem.inner.state();
        let laid = stem.inner.lay_aside(&mut state, &mappings);
        if let Err(error) = laid {
            begun.iter().for_each(|mapping| mapping.end(Use::Filled));
            return Err(error);
        }
        process.presence.begin();
        if let Err(error) = stem.inner.register(desk, &mappings) {
            stem.inner.forget(desk, &mappings);
            let aside = std::mem::take(&mut state.aside);
            mappings.iter().zip(aside).for_each(|(mapping, aside)| mapping.take_back(aside));
            process.presence.complete();
            begun.iter().for_each(|mapping| mapping.end(Use::Filled));
            return Err(error);
        }
        state.users.push(User { mappings, presence: process.presence.clone() });
        stem.inner.check(desk, &mut state);
        drop(state);
        Ok(stem)
    }

    /// What another node has: memories of so many bytes. Pages are given by [`Stem::fill`], and asked for as they are touched.
    pub fn expected(sizes: &[u64], fetch: Arc<dyn Fetch>) -> Result<Stem, PagesError> {
        let sizes: Vec<usize> = sizes.iter().map(|bytes| *bytes as usize).collect();
        let stem = Stem::new(&sizes, Some(fetch))?;
        let mut state = stem.inner.state();
        if state.left == 0 {
            stem.inner.finish(&mut state, Stage::Done, None);
        }
        drop(state);
        Ok(stem)
    }

    fn new(sizes: &[usize], fetch: Option<Arc<dyn Fetch>>) -> Result<Stem, PagesError> {
        let mut files = vec![];
        for bytes in sizes {
            files.push(Arc::new(MemoryFile::new(bytes.next_multiple_of(PAGE))?));
        }
        let pages: Vec<usize> = files.iter().map(|file| file.bytes() / PAGE).collect();
        let mut absent: Vec<Bits> = pages.iter().map(|pages| Bits::new(*pages)).collect();
        let mut left = 0;
        for (bits, pages) in absent.iter_mut().zip(&pages) {
            left += (0..*pages).filter(|page| bits.set(*page)).count();
        }
        let state = State {
            absent,
            empty: pages.iter().map(|pages| Bits::new(*pages)).collect(),
            asked: pages.iter().map(|pages| Bits::new(pages.div_ceil(PAGES_OF_UNIT))).collect(),
            left,
            aside: vec![],
            users: vec![],
            had_users: false,
            stage: Stage::Filling,
            next: (0, 0),
        };
        let told = Told { stage: Mutex::new((Stage::Filling, (left * PAGE) as u64, None)), changed: Condvar::new() };
        let inner = Inner { files, pages, fetch, state: Mutex::new(state), told: Arc::new(told) };
        Ok(Stem { inner: Arc::new(inner) })
    }

    /// All at once, from a process that keeps what it has.
    fn copy(&self, mappings: &[Arc<Mapping>]) -> Result<(), PagesError> {
        let mut state = self.inner.state();
        for (mapping, file) in mappings.iter().zip(&self.inner.files) {
            let (mut found, base) = (vec![], mapping.within(0..0).start);
            mapping.contents(mapping.within(0..file.bytes()), &mut found)?;
            for range in found {
                file.put_from(range.start - base, mapping.reservation(), range)?;
            }
        }
        self.inner.finish(&mut state, Stage::Done, None);
        Ok(())
    }

    /// Gives a process, which was made without its pages and does not run yet, those of the stem.
    pub fn share(&self, process: &Memories) -> Result<(), PagesError> {
        let mappings = process.mappings()?;
        let fits = |(mapping, file): (&Arc<Mapping>, &Arc<MemoryFile>)| mapping.accessible_bytes() == file.bytes();
        if mappings.len() != self.inner.files.len() || !mappings.iter().zip(&self.inner.files).all(fits) {
            return Err(PagesError::OtherSizes);
        }
        let mut state = self.inner.state();
        match state.stage {
            Stage::Done => {
                return Ok(mappings
                    .iter()
                    .zip(&self.inner.files)
                    .try_for_each(|(mapping, file)| mapping.stand_on(file))?);
            }
            Stage::Lost => return Err(self.inner.why_lost().into()),
            Stage::Filling => {}
        }
        let desk = desk().map_err(|error| PagesError::Unsupported(error.to_string()))?;
        let begun = begin(&mappings)?;
        process.presence.begin();
        let standing = mappings.iter().zip(&self.inner.files).try_for_each(|(mapping, file)| mapping.stand_on(file));
        if let Err(error) = standing.map_err(PagesError::from).and_then(|()| self.inner.register(desk, &mappings)) {
            self.inner.forget(desk, &mappings);
            begun.iter().for_each(|mapping| mapping.end(Use::Filled));
            return Err(error);
        }
        state.users.push(User { mappings, presence: process.presence.clone() });
        state.had_users = true;
        Ok(())
    }

    /// Puts what comes next of what was laid aside into the file; false if nothing is left of it. If it fails, all who have the stem are
    /// to be told: [`Stem::lost`].
    pub fn settle(&self) -> Result<bool, PagesError> {
        let Ok(desk) = desk() else { return Ok(false) };
        let mut state = self.inner.state();
        let (mut memory, mut unit) = state.next;
        while state.stage == Stage::Filling && memory < state.aside.len() {
            let pages = self.inner.pages[memory];
            match (unit * PAGES_OF_UNIT..pages).find(|page| state.absent[memory].has(*page)) {
                Some(page) => {
                    let unit = page / PAGES_OF_UNIT;
                    self.inner.settle(&mut state, memory, unit)?;
                    state.next = (memory, unit + 1);
                    self.inner.check(desk, &mut state);
                    return Ok(true);
                }
                None => (memory, unit) = (memory + 1, 0),
            }
            state.next = (memory, unit);
        }
        Ok(false)
    }

    /// See [`super::Missing::fill`].
    pub fn fill(&self, memory: u32, offset: u64, bytes: &[u8]) -> Result<u64, PagesError> {
        let span = Span { memory, range: offset..offset.saturating_add(bytes.len() as u64) };
        self.inner.fill(span, |inner, state, run| {
            let from = run.start * PAGE - offset as usize;
            inner.files[memory as usize].put(run.start * PAGE, &bytes[from..from + run.len() * PAGE])?;
            run.for_each(|page| state.absent[memory as usize].clear(page));
            Ok(())
        })
    }

    /// The same with zeros, which take up no memory.
    pub fn fill_zero(&self, span: Span) -> Result<u64, PagesError> {
        let memory = span.memory as usize;
        self.inner.fill(span, |_, state, run| {
            for page in run {
                state.absent[memory].clear(page);
                state.empty[memory].set(page);
            }
            Ok(())
        })
    }

    /// Reads pages of it as they were at the beginning, wherever they are.
    pub fn read(&self, memory: u32, offset: u64, bytes: &mut [u8]) -> Result<(), PagesError> {
        let span = Span { memory, range: offset..offset.saturating_add(bytes.len() as u64) };
        let pages = whole_pages(&span, &self.inner.pages)?;
        let index = memory as usize;
        let mut state = self.inner.state();
        if let Stage::Lost = state.stage {
            return Err(self.inner.why_lost().into());
        }
        for unit in pages.start / PAGES_OF_UNIT..pages.end.div_ceil(PAGES_OF_UNIT) {
            let range = pages.start.max(unit * PAGES_OF_UNIT)..pages.end.min((unit + 1) * PAGES_OF_UNIT);
            if !state.absent[index].runs(range, true).is_empty() {
                if index >= state.aside.len() {
                    return Err(PagesError::NoPages { span });
                }
                self.inner.settle(&mut state, index, unit)?;
                if let Ok(desk) = desk() {
                    self.inner.check(desk, &mut state);
                }
            }
        }
        drop(state);
        Ok(self.inner.files[index].get(offset as usize, bytes)?)
    }

    /// Bytes of each memory.
    pub fn sizes(&self) -> Vec<u64> {
        self.inner.files.iter().map(|file| file.bytes() as u64).collect()
    }

    /// Bytes that are still missing and that somebody may still want.
    pub fn left(&self) -> u64 {
        let state = self.inner.state();
        let is_wanted = state.stage == Stage::Filling && !(state.had_users && state.users.is_empty());
        if is_wanted { (state.left * PAGE) as u64 } else { 0 }
    }

    pub fn whole(&self) -> Whole {
        Whole(self.inner.told.clone())
    }

    /// What is left will never come: whoever has the stem ends, and says why. If nothing is left nothing happens.
    pub fn lost(&self, why: &str) {
        self.inner.lose(why);
    }
}

fn begin(mappings: &[Arc<Mapping>]) -> Result<Vec<Arc<Mapping>>, PagesError> {
    let mut begun: Vec<Arc<Mapping>> = vec![];
    for mapping in mappings {
        if let Err(error) = mapping.begin(Use::Filled) {
            begun.iter().for_each(|mapping| mapping.end(Use::Filled));
            return Err(error);
        }
        begun.push(mapping.clone());
    }
    Ok(begun)
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    fn why_lost(&self) -> super::Lost {
        let told = self.told.stage.lock().expect("no code panics while it holds this lock");
        told.2.clone().unwrap_or_else(|| super::Lost("it is not known why".into()))
    }

    /// Takes the process's pages from it and puts the file in their place.
    fn lay_aside(&self, state: &mut State, mappings: &[Arc<Mapping>]) -> Result<(), PagesError> {
        for (mapping, file) in mappings.iter().zip(&self.files) {
            let done = mapping.lay_aside().and_then(|aside| {
                state.aside.push(aside);
                mapping.stand_on(file)
            });
            if let Err(error) = done {
                let aside = std::mem::take(&mut state.aside);
                mappings.iter().zip(aside).for_each(|(mapping, aside)| mapping.take_back(aside));
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn register(self: &Arc<Inner>, desk: &'static Desk, mappings: &[Arc<Mapping>]) -> Result<(), PagesError> {
        for (memory, (mapping, pages)) in mappings.iter().zip(&self.pages).enumerate() {
            if *pages == 0 {
                continue;
            }
            let whose: Weak<dyn Touched> = Arc::<Inner>::downgrade(self);
            desk.memories().insert(mapping.base(), (pages * PAGE, whose, memory as u32));
            desk.faults.register(mapping.reservation(), mapping.within(0..pages * PAGE), Watch::Missing)?;
        }
        Ok(())
    }

    /// Undoes it; whoever waits goes on with what the file has.
    fn forget(&self, desk: &Desk, mappings: &[Arc<Mapping>]) {
        for (mapping, pages) in mappings.iter().zip(&self.pages).filter(|(_, pages)| **pages > 0) {
            desk.memories().remove(&mapping.base());
            // Of what was never registered there is nothing to undo.
            let _ = desk.faults.unregister(mapping.reservation(), mapping.within(0..pages * PAGE));
        }
    }

    /// Puts a unit that was laid aside into the file.
    fn settle(&self, state: &mut State, memory: usize, unit: usize) -> io::Result<()> {
        let first = unit * PAGES_OF_UNIT;
        let pages = first..(first + PAGES_OF_UNIT).min(self.pages[memory]);
        let (range, file) = (pages.start * PAGE..pages.end * PAGE, &self.files[memory]);
        let (mut found, aside) = (vec![], &state.aside[memory]);
        aside.contents(range.clone(), &mut found)?;
        for part in &found {
            file.put_from(part.start, aside.reservation(), part.clone())?;
        }
        // It is in the file now. If it stays here too nothing is lost but memory.
        let _ = aside.reservation().discard(range);
        for page in pages {
            state.absent[memory].clear(page);
            state.left -= 1;
            if !found.iter().any(|part| part.contains(&(page * PAGE))) {
                state.empty[memory].set(page);
            }
        }
        Ok(())
    }

    fn fill(
        &self, span: Span, put: impl Fn(&Inner, &mut State, Range<usize>) -> io::Result<()>,
    ) -> Result<u64, PagesError> {
        let pages = whole_pages(&span, &self.pages)?;
        let mut state = self.state();
        if state.stage != Stage::Filling {
            return Ok(0);
        }
        let memory = span.memory as usize;
        let mut filled = 0;
        for run in state.absent[memory].runs(pages.clone(), true) {
            put(self, &mut state, run.clone())?;
            state.left -= run.len();
            filled += run.len();
        }
        let Ok(desk) = desk() else {
            // Then nobody runs before all is there.
            if state.left == 0 {
                self.finish(&mut state, Stage::Done, None);
            }
            return Ok((filled * PAGE) as u64);
        };
        for unit in pages.start / PAGES_OF_UNIT..pages.end.div_ceil(PAGES_OF_UNIT) {
            if state.asked[memory].has(unit) {
                for user in &state.users {
                    self.let_go(desk, &state, &user.mappings[memory], memory, unit)?;
                }
            }
        }
        self.check(desk, &mut state);
        Ok((filled * PAGE) as u64)
    }

    /// Whoever waits for pages of this unit that are there goes on.
    fn let_go(&self, desk: &Desk, state: &State, mapping: &Mapping, memory: usize, unit: usize) -> io::Result<()> {
        if mapping.has_ended() {
            return Ok(());
        }
        let pages = unit * PAGES_OF_UNIT..((unit + 1) * PAGES_OF_UNIT).min(self.pages[memory]);
        for run in state.empty[memory].runs(pages.clone(), true) {
            desk.faults.fill_zero(mapping.reservation(), mapping.within(run.start * PAGE..run.end * PAGE))?;
        }
        desk.faults.wake(mapping.reservation(), mapping.within(pages.start * PAGE..pages.end * PAGE))
    }

    /// Is it over?
    fn check(&self, desk: &Desk, state: &mut State) {
        if state.stage != Stage::Filling {
            return;
        }
        if state.left == 0 {
            return self.finish(state, Stage::Done, None);
        }
        // Whoever has ended needs nothing more, and its memory goes.
        state.users.retain(|user| {
            let ended = user.mappings.iter().any(|mapping| mapping.has_ended());
            if ended {
                self.forget(desk, &user.mappings);
            }
            !ended
        });
        self.told.stage.lock().expect("no code panics while it holds this lock").1 = (state.left * PAGE) as u64;
    }

    fn finish(&self, state: &mut State, stage: Stage, why: Option<super::Lost>) {
        state.stage = stage;
        let users = std::mem::take(&mut state.users);
        state.aside.clear();
        if let Ok(desk) = desk() {
            for user in &users {
                self.forget(desk, &user.mappings);
                user.mappings.iter().for_each(|mapping| mapping.end(Use::Filled));
                if stage == Stage::Done {
                    user.presence.complete();
                }
            }
        }
        let mut told = self.told.stage.lock().expect("no code panics while it holds this lock");
        *told = (stage, (state.left * PAGE) as u64, why);
        drop(told);
        self.told.changed.notify_all();
    }

    fn lose(&self, why: &str) {
        let mut state = self.state();
        if state.stage != Stage::Filling {
            return;
        }
        // First it must be known, then whoever waits may go on.
        for user in &state.users {
            user.presence.lose(why);
            user.presence.stop();
        }
        self.finish(&mut state, Stage::Lost, Some(super::Lost(why.into())));
    }
}

impl Touched for Inner {
    fn touched(&self, desk: &Desk, base: usize, memory: u32, offset: usize) -> io::Result<()> {
        let (page, unit, index) = (offset / PAGE, offset / UNIT as usize, memory as usize);
        {
            let mut state = self.state();
            if state.stage != Stage::Filling {
                // What is not watched any more lets everybody go on.
                return Ok(());
            }
            if state.absent[index].has(page) {
                if index < state.aside.len() {
                    if let Err(error) = self.settle(&mut state, index, unit) {
                        drop(state);
                        self.lose(&format!("it cannot be kept: {error}"));
                        return Ok(());
                    }
                } else if state.asked[index].set(unit) {
                    drop(state);
                    if let Some(fetch) = &self.fetch {
                        fetch.want(memory, unit as u64);
                    }
                    return Ok(());
                } else {
                    return Ok(());
                }
            }
            let waits = state.users.iter().flat_map(|user| &user.mappings).find(|mapping| mapping.base() == base);
            if let Some(mapping) = waits.cloned() {
                self.let_go(desk, &state, &mapping, index, unit)?;
            }
            self.check(desk, &mut state);
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.lose("nobody gives it its pages any more");
    }
}
