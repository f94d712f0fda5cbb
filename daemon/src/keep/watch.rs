//! Which parts of a process's memory were written since its last checkpoint, and their names while it still runs. Knows pages and units;
//! not what a checkpoint is kept for.
//!
//! The one idea: most of what a checkpoint has to look at can be looked at while the process runs. What it writes meanwhile is told
//! afterwards, so that what is left to look at when it is stopped is only what it wrote since the last look, a moment ago.
//!
//! ```text
//!   runs      look ──► units written since the last checkpoint: read, named, new ones kept      again, while that is much
//!   stopped   look ──► units written since the last round: named anew
//! ```
//! Whatever goes wrong before a checkpoint is recorded, what was written since the last one that was stays written.

use super::{Cut, Cutter, Units};
use engine::pages::{Memories, PAGE, PagesError, Span, Tracker, support};
use services::checkpoints::{UNIT_BYTES, unit_bytes};
use std::collections::BTreeSet;
use std::time::Duration;

/// Looks at most so often while the process runs.
const ROUNDS_MAX: u32 = 4;
/// Units that are left for when it is stopped: 4 MiB are hashed in about a millisecond.
const LEFT_MAX: usize = 64;
/// What the first write to a page costs a process that is watched, at most, in processor time.
const FIRST_WRITE: Duration = Duration::from_micros(2);

/// A part of a memory: which memory, and which unit of it.
type Unit = (u32, u64);

/// Follows the memory of one process from checkpoint to checkpoint.
///
/// Invariants: whatever may differ from the last recorded checkpoint is in `since`, or the tracker tells it next.
pub struct Watch {
    tracker: Tracker,
    since: BTreeSet<Unit>,
    /// What has yet to be looked at in this checkpoint.
    left: BTreeSet<Unit>,
    /// Pages that were written since it was last asked how many.
    pages: u64,
}

impl Watch {
    /// `before`: what the process had in its memory in the last recorded checkpoint. Nothing where pages cannot be followed, or
    /// somebody else follows them: then everything is looked at.
    pub fn begin(memories: &Memories, before: Option<&Cut>) -> Option<Watch> {
        if support().tracking.is_err() {
            return None;
        }
        let tracker = Tracker::begin(memories).ok()?;
        let mut since = BTreeSet::new();
        // The tracker tells first what is not zero; what was something and is zero now must be looked at as well.
        for (memory, units) in before.into_iter().flat_map(|cut| cut.memories.iter().enumerate()) {
            let named = units.names.iter().enumerate().filter(|(_, name)| name.is_some());
            since.extend(named.map(|(unit, _)| (memory as u32, unit as u64)));
        }
        Some(Watch { tracker, since, left: BTreeSet::new(), pages: 0 })
    }

    /// Is it this process that is followed, with the memory that it has now?
    pub fn is_of(&self, memories: &Memories) -> bool {
        self.tracker.follows(memories)
    }

    /// Names what was written, while the process runs on. Gives the names of all units, as a first guess for when it is stopped.
    pub fn look_while_it_runs(&mut self, cutter: &mut Cutter, before: Option<&Cut>) -> Result<Vec<Units>, String> {
        let mut names = before.map_or_else(Vec::new, |cut| cut.memories.clone());
        self.left = self.since.clone();
        let mut bytes = vec![];
        for _ in 0..ROUNDS_MAX {
            self.ask().map_err(|error| error.to_string())?;
            if self.left.len() <= LEFT_MAX {
                break;
            }
            names.resize(self.tracker.sizes().len(), Units::default());
            for (memory, size) in self.tracker.sizes().into_iter().enumerate() {
                let units = &mut names[memory];
                // It may be that it has grown, never that it has shrunk: but it may be another process than in that checkpoint.
                units.names.resize(size.div_ceil(UNIT_BYTES as u64) as usize, None);
                units.bytes = size;
            }
            for (memory, unit) in std::mem::take(&mut self.left) {
                let Some(units) = names.get_mut(memory as usize) else { continue };
                if unit as usize >= units.names.len() {
                    continue;
                }
                let length = unit_bytes(units.bytes, unit);
                // What ends within a page is left for when it is stopped.
                if !length.is_multiple_of(PAGE) {
                    self.left.insert((memory, unit));
                    continue;
                }
                bytes.resize(length, 0);
                let read = self.tracker.read(memory, unit * UNIT_BYTES as u64, &mut bytes);
                read.map_err(|error| error.to_string())?;
                let known = before.and_then(|cut| cut.memories.get(memory as usize)?.names.get(unit as usize).copied());
                units.names[unit as usize] = cutter.unit(&bytes, known.flatten())?;
            }
        }
        // When it is stopped there is to be room for what is then new.
        cutter.flush()?;
        Ok(names)
    }

    /// The process is stopped now: which units have yet to be named.
    pub fn look_at_last(&mut self) -> Result<(), PagesError> {
        self.ask()
    }

    pub fn is_left(&self, memory: u32, unit: u64) -> bool {
        self.left.contains(&(memory, unit))
    }

    /// Everything that was written until the process was last stopped is in a checkpoint that is recorded.
    pub fn is_recorded(&mut self) {
        self.since.clear();
        self.left.clear();
    }

    /// What following the process has cost it since this was asked last, at most.
    pub fn cost(&mut self) -> Duration {
        FIRST_WRITE * u32::try_from(std::mem::take(&mut self.pages)).unwrap_or(u32::MAX)
    }

    fn ask(&mut self) -> Result<(), PagesError> {
        for Span { memory, range } in self.tracker.written()? {
            self.pages += (range.end - range.start) / PAGE as u64;
            let units = range.start / UNIT_BYTES as u64..range.end.div_ceil(UNIT_BYTES as u64);
            self.since.extend(units.clone().map(|unit| (memory, unit)));
            self.left.extend(units.map(|unit| (memory, unit)));
        }
        Ok(())
    }
}
