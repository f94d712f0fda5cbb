//! The memory of a process that does not exist here yet. Knows nothing of where its content comes from.
//!
//! The one idea: pages come while the process still runs elsewhere. They are put where they take up memory once, and given to the process as
//! they are when it is made: by moving page tables, not bytes.

use super::linux::PAGE;
use super::memory::{Mapping, Pool, Space};
use super::tracker::{Content, Piece};
use super::{PagesError, Span};
use std::sync::Arc;

/// Memories that wait for their process.
#[derive(Debug)]
pub struct Staging {
    pool: Arc<Pool>,
    memories: Vec<Option<Space>>,
    bytes_max: u64,
}

impl Staging {
    pub(super) fn new(pool: Arc<Pool>, bytes_max: u64) -> Staging {
        Staging { pool, memories: vec![], bytes_max }
    }

    /// Bytes up to the ends of what was put there.
    pub fn bytes(&self) -> u64 {
        self.memories.iter().flatten().map(|space| space.accessible_bytes() as u64).sum()
    }

    /// Takes what a tracker gave elsewhere, in the order in which it gave it. Refused where the memories would become larger than they
    /// may.
    pub fn put(&mut self, piece: Piece) -> Result<(), PagesError> {
        let length = match piece.content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Zeros(bytes) => bytes,
        };
        let span = Span { memory: piece.memory, range: piece.offset..piece.offset.saturating_add(length) };
        let page = PAGE as u64;
        let is_whole = span.range.start.is_multiple_of(page) && span.range.end.is_multiple_of(page);
        if !is_whole || span.memory >= MEMORIES_MAX {
            return Err(PagesError::NoPages { span });
        }
        let index = piece.memory as usize;
        if self.memories.len() <= index {
            self.memories.resize_with(index + 1, || None);
        }
        let present = self.memories[index].as_ref().map_or(0, |space| space.accessible_bytes() as u64);
        let more = span.range.end.saturating_sub(present);
        if let Content::Zeros(_) = piece.content
            && span.range.start >= present
        {
            // So it is.
            return Ok(());
        }
        if self.bytes().saturating_add(more) > self.bytes_max {
            return Err(PagesError::TooLarge { bytes_max: self.bytes_max });
        }
        let space = match &mut self.memories[index] {
            Some(space) => space,
            none => none.insert(self.pool.stage()?),
        };
        let (start, end) = (span.range.start as usize, span.range.end as usize);
        match piece.content {
            Content::Bytes(bytes) => {
                if more > 0 {
                    space.make_accessible(end)?;
                }
                space.put(start, bytes)
            }
            Content::Zeros(_) => space.discard(start..end.min(present as usize))?,
        }
        Ok(())
    }

    /// Gives the pages to the memories of a process that does not run; what was not put is zero there.
    pub(super) fn give(mut self, mappings: &[Arc<Mapping>]) -> Result<(), PagesError> {
        for (index, mapping) in mappings.iter().enumerate() {
            let staged = self.memories.get_mut(index).and_then(Option::take);
            let bytes = staged.as_ref().map_or(0, Space::accessible_bytes);
            if bytes > mapping.accessible_bytes() {
                let span = Span { memory: index as u32, range: 0..bytes as u64 };
                return Err(PagesError::NoPages { span });
            }
            if let Some(mut space) = staged {
                mapping.take_over(&mut space)?;
                self.pool.give_back(space);
            }
            mapping.reservation().discard(mapping.within(bytes..mapping.accessible_bytes()))?;
        }
        match self.memories.iter().position(Option::is_some) {
            Some(memory) => Err(PagesError::NoPages { span: Span { memory: memory as u32, range: 0..PAGE as u64 } }),
            None => Ok(()),
        }
    }
}

/// No program has more.
const MEMORIES_MAX: u32 = 100;
