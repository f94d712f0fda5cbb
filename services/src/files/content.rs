//! The content of one file: which piece stands in which page, and what was written since. Knows no names, and never looks
//! into a chunk: where it needs what is in one, it says so.
//!
//! The one idea: a page has two faces. What is *recorded* is what a restart will find; what is there *now* is what a reader
//! sees. Recording makes the first follow the second, one snapshot after the other, and never the other way round.

use super::change::{ChunkHash, Piece};
use super::planted::{Bug, planted};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How much of a file one page is. A chunk is at most that.
pub const PAGE_BYTES: usize = 64 << 10;
/// A page with no more than that in it is kept in its record and gets no chunk.
pub const INLINE_BYTES_MAX: usize = 4 << 10;

/// Pages that are stored at once to get them out of memory: while they are, writing to them copies them.
const STORED_AT_ONCE: usize = 256;

/// Which chunks are needed, by what is there, by the records, and by changes that may have to be taken back.
#[derive(Default)]
pub(crate) struct Tally {
    needed: BTreeMap<ChunkHash, u32>,
    /// What became unneeded since somebody asked.
    unneeded: BTreeSet<ChunkHash>,
    /// Bytes of all pages that wait to be stored.
    pub dirty_bytes: u64,
    /// Bytes of all pages as they are now.
    pub held_bytes: u64,
}

impl Tally {
    pub fn need(&mut self, piece: Option<&Piece>) {
        if let Some(Piece::Chunk { hash, .. }) = piece {
            *self.needed.entry(*hash).or_insert(0) += 1;
            self.unneeded.remove(hash);
        }
    }

    pub fn release(&mut self, piece: Option<&Piece>) {
        if let Some(Piece::Chunk { hash, .. }) = piece {
            let count = self.needed.get_mut(hash).expect("what is released was needed");
            *count -= 1;
            if *count == 0 {
                self.needed.remove(hash);
                self.unneeded.insert(*hash);
            }
        }
    }

    pub fn needs(&self, hash: &ChunkHash) -> bool {
        self.needed.contains_key(hash)
    }

    pub fn take_unneeded(&mut self, most: usize) -> Vec<ChunkHash> {
        core::iter::from_fn(|| self.unneeded.pop_first()).take(most).collect()
    }

    pub fn counts(&self) -> &BTreeMap<ChunkHash, u32> {
        &self.needed
    }
}

/// One page.
///
/// Invariants: a page with neither face is not in the table; `Stored` differs from what is recorded.
struct Page {
    recorded: Option<Piece>,
    now: Now,
}

enum Now {
    AsRecorded,
    /// Safe somewhere, but the records do not say so yet.
    Stored(Piece),
    Dirty {
        bytes: Arc<Vec<u8>>,
        version: u64,
    },
    /// Zeros.
    Absent,
}

/// What a reader is given, in order.
#[derive(Clone, Debug)]
pub enum Stretch {
    Zeros { bytes: usize },
    Bytes { bytes: Arc<Vec<u8>>, from: usize, to: usize },
    Inline { bytes: Arc<[u8]>, from: usize, to: usize },
    Chunk { hash: ChunkHash, from: usize, to: usize },
}

/// What is in chunks that a write asked for.
pub type Supply = BTreeMap<ChunkHash, Arc<[u8]>>;

/// A page as it was at one moment.
#[derive(Clone, Debug)]
pub enum Captured {
    Gone,
    Stored(Piece),
    /// To be made a piece of.
    Bytes {
        bytes: Arc<Vec<u8>>,
        version: u64,
    },
}

#[derive(Default)]
pub(crate) struct Content {
    pages: BTreeMap<u64, Page>,
    /// Pages whose two faces may differ.
    unrecorded: BTreeSet<u64>,
}

fn length(piece: &Piece) -> usize {
    match piece {
        Piece::Chunk { used_bytes, .. } => *used_bytes as usize,
        Piece::Inline(bytes) => bytes.len(),
    }
}

impl Page {
    fn piece_now(&self) -> Option<&Piece> {
        match &self.now {
            Now::AsRecorded => self.recorded.as_ref(),
            Now::Stored(piece) => Some(piece),
            Now::Dirty { .. } | Now::Absent => None,
        }
    }

    fn length_now(&self) -> usize {
        match &self.now {
            Now::Dirty { bytes, .. } => bytes.len(),
            _ => self.piece_now().map_or(0, length),
        }
    }

    fn dirty_bytes(&self) -> usize {
        if let Now::Dirty { bytes, .. } = &self.now { bytes.len() } else { 0 }
    }

    /// The piece that is needed beside the recorded one.
    fn own(&self) -> Option<&Piece> {
        if let Now::Stored(piece) = &self.now { Some(piece) } else { None }
    }

    /// What is there now stays, whatever the records say from here on.
    fn detach(&mut self) {
        if let Now::AsRecorded = self.now {
            self.now = self.recorded.clone().map_or(Now::Absent, Now::Stored);
        }
    }

    fn attach(&mut self) {
        match &self.now {
            Now::Stored(piece) if self.recorded.as_ref() == Some(piece) => self.now = Now::AsRecorded,
            Now::AsRecorded if self.recorded.is_none() => self.now = Now::Absent,
            _ => {}
        }
    }
}

impl Content {
    /// Changes one page, and keeps count of what that means.
    fn edit<T>(&mut self, index: u64, tally: &mut Tally, act: impl FnOnce(&mut Page) -> T) -> T {
        let page = self.pages.entry(index).or_insert(Page { recorded: None, now: Now::Absent });
        let before = [page.recorded.clone(), page.own().cloned()];
        tally.dirty_bytes -= page.dirty_bytes() as u64;
        tally.held_bytes -= page.length_now() as u64;
        let result = act(page);
        page.attach();
        tally.dirty_bytes += page.dirty_bytes() as u64;
        tally.held_bytes += page.length_now() as u64;
        tally.need(page.recorded.as_ref());
        tally.need(page.own());
        before.iter().for_each(|piece| tally.release(piece.as_ref()));
        if page.recorded.is_none() && matches!(page.now, Now::Absent) {
            self.pages.remove(&index);
        }
        result
    }

    /// A page as the records say, before anything else happens.
    pub fn load(&mut self, index: u64, piece: Piece, tally: &mut Tally) {
        self.edit(index, tally, |page| *page = Page { recorded: Some(piece), now: Now::AsRecorded });
    }

    /// Makes a record follow. Gives what was recorded before.
    pub fn record(&mut self, index: u64, piece: Option<Piece>, tally: &mut Tally) -> Option<Piece> {
        self.edit(index, tally, |page| {
            page.detach();
            core::mem::replace(&mut page.recorded, piece)
        })
    }

    /// Lets a record be what it was before.
    pub fn unrecord(&mut self, index: u64, before: Option<Piece>, tally: &mut Tally) {
        self.record(index, before, tally);
        self.unrecorded.insert(index);
    }

    /// What was captured is stored now: where nothing was written since, it is what is there.
    pub fn stored(&mut self, index: u64, version: u64, piece: &Piece, tally: &mut Tally) {
        if !self.pages.contains_key(&index) {
            return;
        }
        self.edit(index, tally, |page| match &page.now {
            Now::Dirty { version: now, .. } if *now == version || planted(Bug::FlushCoversLater) => {
                page.now = Now::Stored(piece.clone())
            }
            _ => {}
        });
    }

    pub fn read(&self, from: u64, to: u64) -> Vec<Stretch> {
        let mut stretches = Vec::new();
        let mut at = from;
        let zeros = |stretches: &mut Vec<Stretch>, count: usize| match stretches.last_mut() {
            Some(Stretch::Zeros { bytes }) => *bytes += count,
            _ if count > 0 => stretches.push(Stretch::Zeros { bytes: count }),
            _ => {}
        };
        while at < to {
            let (index, start) = (at / PAGE_BYTES as u64, (at % PAGE_BYTES as u64) as usize);
            let wanted = ((PAGE_BYTES - start) as u64).min(to - at) as usize;
            let page = self.pages.get(&index);
            let end = (start + wanted).min(page.map_or(0, Page::length_now)).max(start);
            if end > start {
                let page = page.expect("a page that is not there has no length");
                stretches.push(match (&page.now, page.piece_now()) {
                    (Now::Dirty { bytes, .. }, _) => Stretch::Bytes { bytes: bytes.clone(), from: start, to: end },
                    (_, Some(Piece::Inline(bytes))) => Stretch::Inline { bytes: bytes.clone(), from: start, to: end },
                    (_, Some(Piece::Chunk { hash, .. })) => Stretch::Chunk { hash: *hash, from: start, to: end },
                    (_, None) => unreachable!("a page that is not there has no length"),
                });
            }
            zeros(&mut stretches, start + wanted - end);
            at += wanted as u64;
        }
        stretches
    }

    /// Which chunks must be known to write here.
    pub fn wants(&self, offset: u64, count: usize, supply: &Supply) -> Vec<ChunkHash> {
        let mut wants = Vec::new();
        for (index, start, end) in parts(offset, count) {
            let Some(Piece::Chunk { hash, used_bytes }) = self.pages.get(&index).and_then(Page::piece_now) else {
                continue;
            };
            let covered = start == 0 && end >= *used_bytes as usize;
            if !covered && !supply.contains_key(hash) {
                wants.push(*hash);
            }
        }
        wants
    }

    /// How many more bytes of pages there would be.
    pub fn growth(&self, offset: u64, count: usize) -> u64 {
        let grown = |(index, _, end): (u64, usize, usize)| {
            end.saturating_sub(self.pages.get(&index).map_or(0, Page::length_now)) as u64
        };
        parts(offset, count).map(grown).sum()
    }

    /// Writes. All chunks that this wants are in the supply.
    pub fn write(&mut self, offset: u64, bytes: &[u8], version: u64, supply: &Supply, tally: &mut Tally) {
        let mut rest = bytes;
        for (index, start, end) in parts(offset, bytes.len()) {
            let (part, behind) = rest.split_at(end - start);
            rest = behind;
            self.unrecorded.insert(index);
            self.edit(index, tally, |page| {
                let now = core::mem::replace(&mut page.now, Now::Absent);
                let piece = match &now {
                    Now::AsRecorded => page.recorded.as_ref(),
                    Now::Stored(piece) => Some(piece),
                    Now::Dirty { .. } | Now::Absent => None,
                };
                let mut all = match (&now, piece) {
                    (Now::Dirty { bytes, .. }, _) => bytes.clone(),
                    (_, Some(Piece::Inline(bytes))) => Arc::new(bytes.to_vec()),
                    (_, Some(Piece::Chunk { hash, used_bytes })) if start > 0 || end < *used_bytes as usize => {
                        Arc::new(supply[hash][..*used_bytes as usize].to_vec())
                    }
                    _ => Arc::default(),
                };
                drop(now);
                let own = Arc::make_mut(&mut all);
                if own.len() < start {
                    own.resize(start, 0);
                }
                let over = part.len().min(own.len() - start);
                own[start..start + over].copy_from_slice(&part[..over]);
                own.extend_from_slice(&part[over..]);
                page.now = Now::Dirty { bytes: all, version };
            });
        }
    }

    /// Lets nothing stand behind this size.
    pub fn cut(&mut self, size_bytes: u64, version: u64, tally: &mut Tally) {
        let (last, keep) = (size_bytes / PAGE_BYTES as u64, (size_bytes % PAGE_BYTES as u64) as usize);
        let touched: Vec<u64> = self.pages.range(last..).map(|(index, _)| *index).collect();
        for index in touched {
            let keep = if index == last { keep } else { 0 };
            if self.pages[&index].length_now() <= keep || (keep > 0 && planted(Bug::CutKeepsTail)) {
                continue;
            }
            if !planted(Bug::CutNotRecorded) || keep > 0 {
                self.unrecorded.insert(index);
            }
            self.edit(index, tally, |page| {
                page.detach();
                page.now = match core::mem::replace(&mut page.now, Now::Absent) {
                    _ if keep == 0 => Now::Absent,
                    Now::Stored(Piece::Chunk { hash, .. }) => {
                        Now::Stored(Piece::Chunk { hash, used_bytes: keep as u32 })
                    }
                    Now::Stored(Piece::Inline(bytes)) => Now::Stored(Piece::Inline(bytes[..keep].into())),
                    Now::Dirty { mut bytes, .. } => {
                        Arc::make_mut(&mut bytes).truncate(keep);
                        Now::Dirty { bytes, version }
                    }
                    Now::AsRecorded | Now::Absent => unreachable!("it was detached, and something is in it"),
                };
            });
        }
    }

    pub fn is_unrecorded(&self) -> bool {
        !self.unrecorded.is_empty()
    }

    pub fn has_dirty(&self) -> bool {
        self.unrecorded.iter().any(|index| self.pages.get(index).is_some_and(|page| page.dirty_bytes() > 0))
    }

    /// What must be recorded, as it is now. It counts as recorded until somebody says otherwise.
    pub fn capture(&mut self) -> Vec<(u64, Captured)> {
        let indexes = core::mem::take(&mut self.unrecorded);
        let captured = indexes.into_iter().filter_map(|index| {
            let page = self.pages.get(&index)?;
            Some(match &page.now {
                Now::AsRecorded => return None,
                Now::Stored(piece) => (index, Captured::Stored(piece.clone())),
                Now::Dirty { bytes, version } => (index, Captured::Bytes { bytes: bytes.clone(), version: *version }),
                Now::Absent => (index, Captured::Gone),
            })
        });
        captured.collect()
    }

    /// The dirty pages, without a claim that they are recorded.
    pub fn dirty(&self) -> Vec<(u64, Captured)> {
        let dirty = self.unrecorded.iter().filter_map(|index| match &self.pages.get(index)?.now {
            Now::Dirty { bytes, version } => {
                Some((*index, Captured::Bytes { bytes: bytes.clone(), version: *version }))
            }
            _ => None,
        });
        dirty.take(STORED_AT_ONCE).collect()
    }

    /// What was captured was not recorded after all.
    pub fn restore(&mut self, indexes: impl Iterator<Item = u64>) {
        self.unrecorded.extend(indexes);
    }

    pub fn recorded(&self) -> impl Iterator<Item = (u64, &Piece)> {
        self.pages.iter().filter_map(|(index, page)| Some((*index, page.recorded.as_ref()?)))
    }

    /// The file is no more.
    pub fn release(&mut self, tally: &mut Tally) {
        let all: Vec<u64> = self.pages.keys().copied().collect();
        for index in all {
            self.edit(index, tally, |page| *page = Page { recorded: None, now: Now::Absent });
        }
    }

    /// Adds what is here to what a tally ought to be.
    pub fn count(&self, size_bytes: u64, ought: &mut Tally) -> Result<(), &'static str> {
        for (index, page) in &self.pages {
            ought.dirty_bytes += page.dirty_bytes() as u64;
            ought.held_bytes += page.length_now() as u64;
            ought.need(page.recorded.as_ref());
            ought.need(page.own());
            let length = page.length_now();
            if length > PAGE_BYTES {
                return Err("a page is too long");
            }
            if length > 0 && index * PAGE_BYTES as u64 + length as u64 > size_bytes {
                return Err("a page reaches behind the end of its file");
            }
            if page.recorded.is_none() && matches!(page.now, Now::Absent | Now::AsRecorded) {
                return Err("a page is neither recorded nor there");
            }
        }
        Ok(())
    }
}

/// The pages that a stretch of a file lies in: index, beginning and end in the page.
fn parts(offset: u64, count: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + count as u64;
    let mut at = offset;
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (index, start) = (at / PAGE_BYTES as u64, (at % PAGE_BYTES as u64) as usize);
        let length = ((PAGE_BYTES - start) as u64).min(end - at);
        at += length;
        Some((index, start, start + length as usize))
    })
}
