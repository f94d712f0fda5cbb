//! A journal on a disk that loses, cuts and garbles what was not flushed. It knows nothing of what the bytes mean.
//!
//! The one idea: a crash may do to each sector behind the border what it likes, independently, and to the length too; before
//! the border it may do nothing.

use crate::random::Random;
use abi::device::{JournalFailure, JournalResult, JournalWork};
use abi::message::Bytes;
use std::collections::VecDeque;

/// Smaller than any real one, so that single records are torn.
const SECTOR_BYTES: usize = 16;

/// One journal. Whoever asks for work is known by an `R`.
pub struct Disk<R> {
    content: Vec<u8>,
    /// How much of the content survives anything.
    border: usize,
    queue: VecDeque<(R, JournalWork)>,
}

impl<R> Default for Disk<R> {
    fn default() -> Disk<R> {
        Disk { content: Vec::new(), border: 0, queue: VecDeque::new() }
    }
}

impl<R> Disk<R> {
    pub fn ask(&mut self, request: R, work: JournalWork) {
        self.queue.push_back((request, work));
    }

    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Does the first of what was asked for, or fails at it.
    pub fn work(&mut self, fails: bool, random: &mut Random) -> Option<(R, JournalResult)> {
        let (request, work) = self.queue.pop_front()?;
        if fails {
            // What was to be written may be there in part.
            if let JournalWork::Append(bytes) = &work {
                self.content.extend_from_slice(&bytes[..random.below(bytes.len() as u64 + 1) as usize]);
            }
            let failure = if random.once_in(2) { JournalFailure::Full } else { JournalFailure::Broken };
            return Some((request, JournalResult::Failed(failure)));
        }
        let result = match work {
            JournalWork::Load => JournalResult::Loaded(Bytes::new(&self.content)),
            JournalWork::Append(bytes) => {
                self.content.extend_from_slice(&bytes);
                JournalResult::Appended
            }
            JournalWork::Flush => {
                self.border = self.content.len();
                JournalResult::Flushed
            }
            JournalWork::Replace(bytes) => {
                self.content = bytes.to_vec();
                self.border = self.content.len();
                JournalResult::Replaced
            }
        };
        Some((request, result))
    }

    /// The machine stops. Work that was not answered may have been done, in part.
    pub fn crash(&mut self, random: &mut Random) {
        for (_, work) in std::mem::take(&mut self.queue) {
            match work {
                JournalWork::Append(bytes) if !random.once_in(8) => self.content.extend_from_slice(&bytes),
                JournalWork::Flush if random.once_in(4) => self.border = self.content.len(),
                // What comes after a flush may be written although the flush is not done.
                JournalWork::Flush => {}
                JournalWork::Replace(bytes) if random.once_in(2) => {
                    self.content = bytes.to_vec();
                    self.border = self.content.len();
                }
                JournalWork::Load => {}
                // The rest was not begun.
                _ => break,
            }
        }
        let unsafe_bytes = self.content.len() - self.border;
        if random.once_in(3) {
            self.content.truncate(self.border + random.below(unsafe_bytes as u64 + 1) as usize);
        }
        // Sometimes nearly all is lost, sometimes one sector among many.
        let spared = [2, 12, 40][random.below(3) as usize];
        for sector in self.content[self.border..].chunks_mut(SECTOR_BYTES) {
            match random.below(spared + 2) {
                0 => sector.fill(0),
                1 => sector.iter_mut().for_each(|byte| *byte = random.number() as u8),
                _ => {}
            }
        }
        // What is there after the machine is up again does not change any more.
        self.border = self.content.len();
    }
}
