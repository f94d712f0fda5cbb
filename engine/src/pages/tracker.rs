//! Which pages a process has written, while it runs. Knows nothing of who wants to know.
//!
//! The one idea: Linux protects pages against writing and takes the protection away by itself at the first write (userfaultfd with
//! WP_ASYNC); asking which are unprotected and protecting them again is one step (PAGEMAP_SCAN). So nothing is lost between two looks, and
//! nobody waits. Where Linux refuses that, pages are compared with what was read of them last, by hash.

use super::linux::{Faults, PAGE, Watch};
use super::memory::{Mapping, Use};
use super::{Memories, PagesError, Span};
use std::io;
use std::sync::{Arc, OnceLock};

/// Follows the pages of one process from [`Tracker::begin`] until it is dropped.
///
/// Whatever the process writes is either in the bytes that [`Tracker::read`] gave last for a page, or the page is in what
/// [`Tracker::written`] gives next, even if both happen at the same time. It may be asked after the process has ended.
#[derive(Debug)]
pub struct Tracker {
    memories: Vec<Tracked>,
    way: Way,
}

#[derive(Debug)]
struct Tracked {
    mapping: Arc<Mapping>,
    /// All of it counts as written until it was asked for once.
    is_new: bool,
    /// By comparing: for each page a hash of what was read last; nothing read is all zeros.
    hashes: Vec<[u8; 16]>,
}

#[derive(Debug)]
enum Way {
    Linux(&'static Faults),
    Compare,
}

/// Part of a memory, of whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    pub memory: u32,
    pub offset: u64,
    pub content: Content<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    Bytes(&'a [u8]),
    /// So many.
    Zeros(u64),
}

/// What [`Tracker::take`] gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    pub bytes: u64,
    pub zero_bytes: u64,
}

/// No piece is longer.
const PIECE_BYTES: usize = 1 << 20;

/// The file through which Linux tells who writes, one for all processes. The error is why there is none.
pub(super) fn faults() -> io::Result<&'static Faults> {
    static FAULTS: OnceLock<io::Result<Faults>> = OnceLock::new();
    let opened = FAULTS.get_or_init(|| {
        super::not_refused()?;
        let faults = Faults::open(Watch::Writes)?;
        try_out(&faults)?;
        Ok(faults)
    });
    opened.as_ref().map_err(super::same)
}

/// Does it work? Some kernels have one half of it, and some sandboxes refuse the other.
fn try_out(faults: &Faults) -> io::Result<()> {
    let memory = super::linux::Reservation::new(2 * PAGE)?;
    memory.allow(0..2 * PAGE)?;
    faults.register(&memory, 0..2 * PAGE, Watch::Writes)?;
    faults.protect(&memory, 0..2 * PAGE)?;
    let mut found = vec![];
    memory.take_written(0..2 * PAGE, &mut found)?;
    memory.poke(PAGE);
    found.clear();
    memory.take_written(0..2 * PAGE, &mut found)?;
    match found == [PAGE..2 * PAGE] {
        true => Ok(()),
        false => Err(io::Error::other("Linux does not tell which pages were written")),
    }
}

impl Tracker {
    pub fn begin(process: &Memories) -> Result<Tracker, PagesError> {
        let mut tracker = Tracker { memories: vec![], way: faults().map_or(Way::Compare, Way::Linux) };
        for mapping in process.mappings()? {
            mapping.begin(Use::Tracked)?;
            // From here on what is dropped undoes it.
            tracker.memories.push(Tracked { mapping: mapping.clone(), is_new: true, hashes: vec![] });
            if let Way::Linux(faults) = tracker.way {
                // All that it may grow to: what is new there counts as written without being protected first.
                faults.register(mapping.reservation(), mapping.within(0..mapping.capacity_bytes()), Watch::Writes)?;
                faults.protect(mapping.reservation(), mapping.within(0..mapping.accessible_bytes()))?;
            }
        }
        Ok(tracker)
    }

    /// Are these the memories that it follows?
    pub fn follows(&self, process: &Memories) -> bool {
        process.mappings().is_ok_and(|mappings| {
            mappings.len() == self.memories.len()
                && mappings.iter().zip(&self.memories).all(|(theirs, ours)| Arc::ptr_eq(theirs, &ours.mapping))
        })
    }

    /// Bytes of each memory, now.
    pub fn sizes(&self) -> Vec<u64> {
        self.memories.iter().map(|tracked| tracked.mapping.bytes() as u64).collect()
    }

    /// What was written since the last call, and at the first call all that is not zero: whole pages, in order. Pages that were
    /// touched otherwise, or are new, may be among them.
    ///
    /// Who then does not read them has to remember them.
    pub fn written(&mut self) -> Result<Vec<Span>, PagesError> {
        let mut written = vec![];
        for (memory, tracked) in self.memories.iter_mut().enumerate() {
            let mapping = tracked.mapping.clone();
            let all = mapping.within(0..mapping.accessible_bytes());
            let mut found = vec![];
            match self.way {
                Way::Linux(_) => {
                    mapping.reservation().take_written(all.clone(), &mut found)?;
                    if std::mem::take(&mut tracked.is_new) {
                        // After it: what is written from here on is told next time.
                        found.clear();
                        mapping.contents(all, &mut found)?;
                    }
                }
                Way::Compare => tracked.compare(&mut found),
            }
            let start = mapping.within(0..0).start;
            written.extend(found.into_iter().map(|range| Span {
                memory: memory as u32,
                range: (range.start - start) as u64..(range.end - start) as u64,
            }));
        }
        Ok(written)
    }

    /// Reads whole pages of a memory, also while the process writes them: what it writes meanwhile is told as written afterwards.
    pub fn read(&mut self, memory: u32, offset: u64, bytes: &mut [u8]) -> Result<(), PagesError> {
        let span = Span { memory, range: offset..offset.saturating_add(bytes.len() as u64) };
        let is_whole = offset.is_multiple_of(PAGE as u64) && bytes.len().is_multiple_of(PAGE);
        let tracked = self.memories.get_mut(memory as usize).filter(|tracked| {
            is_whole && offset.saturating_add(bytes.len() as u64) <= tracked.mapping.accessible_bytes() as u64
        });
        let tracked = tracked.ok_or(PagesError::NoPages { span })?;
        let start = tracked.mapping.within(0..0).start + offset as usize;
        tracked.mapping.reservation().copy_out(start, bytes);
        if let Way::Compare = self.way {
            tracked.remember(offset as usize / PAGE, bytes);
        }
        Ok(())
    }

    /// [`Tracker::written`], with the contents. What `give` was not given because it failed has to be asked for again, by another
    /// tracker.
    pub fn take<E: From<PagesError>>(&mut self, mut give: impl FnMut(Piece) -> Result<(), E>) -> Result<Taken, E> {
        let mut taken = Taken::default();
        let mut buffer = vec![];
        for Span { memory, range } in self.written()? {
            let mut offset = range.start;
            while offset < range.end {
                let length = (range.end - offset).min(PIECE_BYTES as u64) as usize;
                buffer.resize(length, 0);
                self.read(memory, offset, &mut buffer)?;
                pieces(memory, offset, &buffer, |piece| {
                    match piece.content {
                        Content::Bytes(bytes) => taken.bytes += bytes.len() as u64,
                        Content::Zeros(bytes) => taken.zero_bytes += bytes,
                    }
                    give(piece)
                })?;
                offset += length as u64;
            }
        }
        Ok(taken)
    }
}

/// As few pieces as there are changes between pages of zeros and others.
fn pieces<E>(memory: u32, offset: u64, bytes: &[u8], mut give: impl FnMut(Piece) -> Result<(), E>) -> Result<(), E> {
    let is_zero = |page: &[u8]| page.iter().all(|byte| *byte == 0);
    let mut start = 0;
    while start < bytes.len() {
        let zero = is_zero(&bytes[start..(start + PAGE).min(bytes.len())]);
        let more = bytes[start..].chunks(PAGE).take_while(|page| is_zero(page) == zero);
        let length = more.map(<[u8]>::len).sum::<usize>();
        let content = match zero {
            true => Content::Zeros(length as u64),
            false => Content::Bytes(&bytes[start..start + length]),
        };
        give(Piece { memory, offset: offset + start as u64, content })?;
        start += length;
    }
    Ok(())
}

impl Tracked {
    fn compare(&mut self, found: &mut Vec<std::ops::Range<usize>>) {
        let mapping = self.mapping.clone();
        let start = mapping.within(0..0).start;
        let pages = mapping.accessible_bytes() / PAGE;
        self.hashes.resize(pages, [0; 16]);
        let mut page = [0; PAGE];
        for (index, hash) in self.hashes.iter().enumerate() {
            let at = start + index * PAGE;
            mapping.reservation().copy_out(at, &mut page);
            if hash_of(&page) != *hash {
                match found.last_mut().filter(|last| last.end == at) {
                    Some(last) => last.end = at + PAGE,
                    None => found.push(at..at + PAGE),
                }
            }
        }
    }

    fn remember(&mut self, first: usize, bytes: &[u8]) {
        let pages = bytes.len() / PAGE;
        if self.hashes.len() < first + pages {
            self.hashes.resize(first + pages, [0; 16]);
        }
        for (hash, page) in self.hashes[first..].iter_mut().zip(bytes.chunks(PAGE)) {
            *hash = hash_of(page);
        }
    }
}

/// All zeros of a page of zeros; a page of which nothing was read is like one.
fn hash_of(page: &[u8]) -> [u8; 16] {
    match page.iter().all(|byte| *byte == 0) {
        true => [0; 16],
        false => *blake3::hash(page).as_bytes().first_chunk().expect("a hash is longer"),
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        for Tracked { mapping, .. } in &self.memories {
            if let Way::Linux(faults) = self.way {
                // Of what was never registered there is nothing to undo.
                let _ = faults.unregister(mapping.reservation(), mapping.within(0..mapping.capacity_bytes()));
            }
            mapping.end(Use::Tracked);
        }
    }
}
