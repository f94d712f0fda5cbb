//! What durable processes were told, on its way to disks: written down at the coordinator before anybody sees what came of it, and read
//! again by whoever goes on. Knows tapes and the coordinator; not what is on a tape.
//!
//! The one idea: whatever a process does is a consequence of its last checkpoint and of what it was told since then. So its output is shown
//! as soon as what it was told before is safe, a few milliseconds later, and not only when the next checkpoint is. Many answers go in one
//! transaction; it compares the process's claim, so that nothing is ever added for an incarnation that was replaced.
//!
//! ```text
//!   checkpoint ── k/c ──┐                             k/l/PID/SINCE/POSITION
//!                       ▼
//!   tape    ════════════╪══ piece ══╪══ piece ══╪─ pending ─┤
//!                                               └ output up to here is shown
//! ```
//! A checkpoint needs only what comes after it. What the one before needs is kept too: if the last one is damaged, that one and all that
//! was told since lead to the same place.

use super::keep::KeepRefused;
use super::supervise::revision_of;
use super::{FACT_TIMEOUT, Inner, SystemError};
use crate::keep::record::{self, TapeMark};
use crate::node::{Console, Pid};
use drivers::coordinator::{Action, Compare, Coordinator, KeyRange, Range, Revision, Transaction};
use engine::tape::{Mark, Piece, Tape, Told};
use services::durable::claims::{self, Refusal};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often it is looked whether the process is still looked after.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After the coordinator could not be asked.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// A process is kept anew when it was told so much since it was kept last: whoever goes on has to tell it all of that again.
pub const TOLD_BYTES_MAX: u64 = 16 << 20;

/// What is known of a tape on disks. All copies are the same.
#[derive(Clone)]
pub struct Taping(Arc<Shared>);

struct Shared {
    tape: Tape,
    since: u32,
    /// There is a checkpoint to go on from: without one nothing is written, and nothing shown.
    has_base: AtomicBool,
    state: Mutex<State>,
}

struct State {
    /// Where pieces begin and end, those that are kept.
    pieces: VecDeque<(u64, u64)>,
    /// Where the last checkpoint stands, and the one before.
    last: u64,
    before: u64,
}

impl Taping {
    /// `pieces`: those that are kept. `base`: where the checkpoint stands from which the process went on.
    pub fn new(tape: Tape, since: u32, base: Option<u64>, pieces: Vec<(u64, u64)>) -> Taping {
        let (last, has_base) = (base.unwrap_or(0), AtomicBool::new(base.is_some()));
        let state = Mutex::new(State { pieces: pieces.into(), last, before: last });
        Taping(Arc::new(Shared { tape, since, has_base, state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nothing panics while it holds what is known of a tape")
    }

    /// Is it time for a checkpoint, since so much was told?
    pub fn is_long(&self) -> bool {
        self.0.tape.end() - self.state().last > TOLD_BYTES_MAX
    }

    /// Waits until all that led to a state at this position is on disks: the checkpoint before leads there too, then, if the one of this
    /// state is damaged.
    pub fn settle(&self, position: u64) {
        if self.0.has_base.load(Ordering::SeqCst) {
            // If it takes longer there is the checkpoint all the same.
            let _ = self.0.tape.wait_safe(position, FACT_TIMEOUT);
        }
    }

    /// A checkpoint stands at this position: where the first piece begins that it or the one before needs.
    fn needs_from(&self, position: u64) -> u64 {
        // In this order: a piece that is being written, and that is not known as kept yet, begins here or behind it.
        let safe = self.0.tape.safe();
        let mut state = self.state();
        if position > state.last {
            (state.before, state.last) = (state.last, position);
        }
        let before = state.before;
        while state.pieces.front().is_some_and(|(_, end)| *end <= before) {
            state.pieces.pop_front();
        }
        state.pieces.front().map_or(before, |(at, _)| *at).min(safe)
    }

    /// A piece is on disks. In this order: what is safe is known as kept.
    fn is_kept(&self, piece: &Piece) {
        self.state().pieces.push_back((piece.at, piece.at + piece.bytes.len() as u64));
        self.0.tape.is_kept(piece);
    }

    pub fn mark(&self, mark: Mark) -> TapeMark {
        let Mark { position, changes, monotonic_ns, cputime_ns } = mark;
        TapeMark { since: self.0.since, position, changes, monotonic_ns, cputime_ns }
    }
}

/// What was read of a tape.
pub struct Read {
    pub told: Told,
    pub pieces: Vec<(u64, u64)>,
}

/// What became of a piece.
enum Written {
    Kept,
    /// Somebody else has the process.
    Superseded,
    NotNow,
}

impl Inner {
    /// What a process was told since it was as this mark says.
    pub(super) fn read_tape(&self, pid: Pid, mark: TapeMark) -> Result<Result<Read, String>, KeepRefused> {
        let mut keys = KeyRange::prefix(record::tape_prefix(pid, mark.since));
        let mut pieces = vec![];
        loop {
            let found = self.facts.range(Range::of(keys.clone()), Instant::now() + FACT_TIMEOUT);
            let found = found.map_err(SystemError::from)?;
            for one in &found.records {
                match record::read_piece(&one.key, &one.value) {
                    Some(piece) => pieces.push(piece),
                    None => return Ok(Err("what it was told is damaged".into())),
                }
            }
            match found.records.last() {
                Some(last) if found.more => keys.from = [&last.key, &[0][..]].concat().into(),
                _ => break,
            }
        }
        let places = pieces.iter().map(|piece| (piece.at, piece.at + piece.bytes.len() as u64)).collect();
        Ok(Told::of(mark.position, pieces).map(|told| Read { told, pieces: places }).map_err(|gap| gap.to_string()))
    }

    /// A checkpoint at this position is recorded.
    pub(super) fn is_based(&self, pid: Pid, taping: &Taping, position: u64) {
        if !taping.0.has_base.load(Ordering::SeqCst) {
            taping.0.tape.begin_at(position);
            let mut state = taping.state();
            (state.last, state.before) = (position, position);
            drop(state);
            taping.0.has_base.store(true, Ordering::SeqCst);
            // Of an earlier life from the beginning there may be some left.
            self.remove_tape(KeyRange::between(record::tapes_prefix(pid), record::tape_prefix(pid, taping.0.since)));
            return;
        }
        let first = taping.needs_from(position);
        let prefix = record::tape_prefix(pid, taping.0.since);
        let to = [&prefix[..], format!("{first:016x}").as_bytes()].concat();
        self.remove_tape(KeyRange::between(prefix, to));
    }

    /// It is over: nobody goes on from what it was told.
    pub(super) fn forget_tapes(&self, pid: Pid) {
        self.remove_tape(KeyRange::prefix(record::tapes_prefix(pid)));
    }

    fn remove_tape(&self, keys: KeyRange) {
        let remove = Transaction::of(vec![Action::Delete(keys)]);
        // What is left goes with the next checkpoint.
        let _ = self.facts.transact(remove, Instant::now() + FACT_TIMEOUT);
    }

    fn write_piece(&self, pid: Pid, since: u32, piece: &Piece, claim: Revision) -> Written {
        let (key, value) = record::tape_piece(pid, since, piece);
        let transaction = Transaction::new()
            .when(Compare::unchanged(record::claim_key(pid), claim))
            .when(Compare::missing(&key))
            .then(Action::put(&key, &value))
            .otherwise(Action::get(record::claim_key(pid)));
        match self.facts.transact(transaction, Instant::now() + FACT_TIMEOUT) {
            Ok(committed) if committed.succeeded => Written::Kept,
            Ok(committed) => {
                let now = committed.found(0).and_then(|found| found.records.first());
                let now = now.map(|record| revision_of(record.modified));
                let refused = |is_there| match claims::refused_piece(revision_of(claim), now, is_there) {
                    Refusal::Superseded => Written::Superseded,
                    Refusal::DoneBefore => Written::Kept,
                };
                // Whose claim is another's need not look.
                if let Written::Superseded = refused(true) {
                    return Written::Superseded;
                }
                match self.facts.range(Range::key(&key), Instant::now() + FACT_TIMEOUT) {
                    Ok(found) => refused(found.records.first().is_some_and(|record| *record.value == *value)),
                    Err(_) => Written::NotNow,
                }
            }
            Err(_) => Written::NotNow,
        }
    }

    /// Writes down what a process is told, until it is over or somebody else's. False: it is somebody else's.
    pub(super) fn write_tape(&self, pid: Pid, taping: &Taping, console: &Console) -> bool {
        let tape = &taping.0.tape;
        // What is shown when the tape is safe up to there.
        let mut shows: Option<(u64, u64)> = None;
        loop {
            if self.is_stopping() || self.node.get().is_none_or(|node| node.end_of(pid).is_some()) {
                return true;
            }
            let Some(claim) = self.supervise.revision_of(pid) else { return true };
            if let Some(why) = tape.differs() {
                if let Some(node) = self.node.get() {
                    let why = format!("since its checkpoint it does not do what it did before: {why}");
                    node.give_up(pid, &why);
                }
                std::thread::sleep(LOOK_EVERY);
                continue;
            }
            if !taping.0.has_base.load(Ordering::SeqCst) {
                std::thread::sleep(AGAIN_AFTER / 10);
                continue;
            }
            if shows.is_none() && console.holds_back() {
                // In this order: what led to the output is on the tape before it is in the console.
                let end = console.end();
                shows = Some((tape.end(), end));
                tape.hurry();
            }
            if let Some((at, end)) = shows
                && tape.safe() >= at
            {
                console.release(end);
                shows = None;
                continue;
            }
            let Some(piece) = tape.wait(LOOK_EVERY) else { continue };
            match self.write_piece(pid, taping.0.since, &piece, claim) {
                Written::Kept => taping.is_kept(&piece),
                Written::Superseded => {
                    // The claim may have been written anew by this node itself.
                    if self.supervise.revision_of(pid) == Some(claim) {
                        return false;
                    }
                }
                Written::NotNow => std::thread::sleep(AGAIN_AFTER),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::encoding::Writer;
    use engine::tape::Tag;

    fn taping(base: u64) -> Taping {
        let told = Told { from: base, records: vec![], end: base };
        let mark = Mark { position: base, ..Mark::default() };
        let tape = Tape::new(mark, told, Arc::default(), Box::new(|| {}));
        tape.begin();
        Taping::new(tape, 0, Some(base), vec![])
    }

    /// Ten bytes: the length, which question, and a number.
    fn hears(taping: &Taping) {
        let write = |number: &u64, to: &mut Writer| {
            to.u64(*number);
        };
        taping.0.tape.told(Tag::Random, 0, write, |from| from.u64(), || 7);
    }

    fn piece(taping: &Taping) -> Piece {
        taping.0.tape.hurry();
        taping.0.tape.wait(Duration::ZERO).expect("there is something to write")
    }

    /// A checkpoint in the middle of a piece that is on its way to disks, or there and not known to be.
    #[test]
    fn a_piece_that_is_being_written_is_not_removed() {
        let taping = taping(1000);
        hears(&taping);
        let middle = taping.0.tape.end();
        hears(&taping);
        let written = piece(&taping);
        assert_eq!((written.at, written.bytes.len()), (1000, 20));
        assert_eq!(taping.needs_from(middle), 1000);
        hears(&taping);
        let last = taping.0.tape.end();
        assert_eq!(taping.needs_from(last), 1000);
        taping.is_kept(&written);
        assert_eq!(taping.needs_from(last), 1000);
        // Now the one before stands at the end of the piece, or behind it.
        hears(&taping);
        assert_eq!(taping.needs_from(taping.0.tape.end()), 1020);
    }
}
