//! What of a process's tape is needed still, and what may be seen of the process. Knows positions, not what is on a tape.
//!
//! The one idea: a checkpoint needs what was told after it. What the one before needs is kept too: if the last one is damaged, that one and
//! all that was told since lead to the same place. And whatever a process shows is a consequence of what it was told before; so it may be
//! seen as soon as that is safe.
//!
//! ```text
//!   before        last
//!   ──╪──┼────┼────╪───┼─────┼─ ─ ─ ─┤ end
//!   ├───── pieces ───────────┤ safe
//! ```

use super::planted::{Bug, planted};
use alloc::collections::VecDeque;

/// What of a tape is kept.
///
/// Invariants: pieces lie one behind the other; `before` is not behind `last`.
pub struct Kept {
    /// Where pieces begin and end.
    pieces: VecDeque<(u64, u64)>,
    /// Where the last checkpoint stands, and the one before.
    last: u64,
    before: u64,
}

impl Kept {
    /// `base`: where the checkpoint stands from which the process went on, or begins. `pieces`: those that are kept.
    pub fn new(base: u64, pieces: impl IntoIterator<Item = (u64, u64)>) -> Kept {
        Kept { pieces: pieces.into_iter().collect(), last: base, before: base }
    }

    /// How much was told since the last checkpoint.
    pub fn told_since(&self, end: u64) -> u64 {
        end - self.last
    }

    /// A piece is on disks.
    pub fn is_kept(&mut self, from: u64, to: u64) {
        self.pieces.push_back((from, to));
    }

    /// A checkpoint is recorded that stands at this position: where the first piece begins that it or the one before needs. `safe` is how
    /// far the tape was known to be on disks *before* this is asked: a piece that is being written, and is not known as kept yet, begins
    /// there or behind it.
    pub fn needs_from(&mut self, position: u64, safe: u64) -> u64 {
        if position > self.last {
            (self.before, self.last) = (self.last, position);
        }
        let before = if planted(Bug::OnlyLastCheckpointCovered) { self.last } else { self.before };
        if planted(Bug::PieceCutAtCheckpoint) {
            self.pieces.retain(|(from, _)| *from >= before);
        }
        while self.pieces.front().is_some_and(|(_, end)| *end <= before) {
            self.pieces.pop_front();
        }
        self.pieces.front().map_or(before, |(at, _)| *at).min(safe)
    }
}

/// Output that nobody may see yet: where the tape must be safe, and how far the output goes.
#[derive(Default)]
pub struct Shows {
    waits: Option<(u64, u64)>,
}

impl Shows {
    /// Is there nothing that waits?
    pub fn is_free(&self) -> bool {
        self.waits.is_none()
    }

    /// There is output up to `output`. `end`: of the tape, looked at *before* the output: what led to that is before it.
    pub fn hold(&mut self, end: u64, output: u64) {
        self.waits = Some((end, output));
    }

    /// How much may be seen when the tape is safe up to there.
    pub fn show(&mut self, safe: u64, written: u64) -> Option<u64> {
        let safe = if planted(Bug::ShownWhenWritten) { written } else { safe };
        let (_, output) = self.waits.take_if(|(at, _)| *at <= safe || planted(Bug::ShownBeforeSafe))?;
        Some(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checkpoint in the middle of a piece that is on its way to disks, or there and not known to be.
    #[test]
    fn a_piece_that_is_being_written_is_needed() {
        let mut kept = Kept::new(1000, []);
        assert_eq!(kept.needs_from(1010, 1000), 1000);
        assert_eq!(kept.needs_from(1030, 1000), 1000);
        kept.is_kept(1000, 1020);
        // The one before stands in its middle.
        assert_eq!(kept.needs_from(1030, 1020), 1000);
        assert_eq!(kept.needs_from(1040, 1020), 1020);
        assert_eq!(kept.told_since(1050), 10);
    }

    #[test]
    fn output_is_seen_when_what_led_to_it_is_safe() {
        let mut shows = Shows::default();
        assert_eq!(shows.show(50, 50), None);
        shows.hold(20, 3);
        assert_eq!((shows.show(19, 20), shows.is_free()), (None, false));
        assert_eq!((shows.show(20, 20), shows.is_free()), (Some(3), true));
    }
}
