//! What a service must not forget: records in a journal, and answers that are held back until the records they rest on are
//! safe. This file knows nothing of what the records say.
//!
//! The one idea: whatever is answered, a change or a look, waits until all records appended before it are behind the border
//! of the journal. So no one ever sees a state that a crash could take back. One flush serves all that came before it.
//!
//! ```text
//!   record:   length u32 | check u64 | sequence u64 | safe u64 | content
//! ```
//! `check` covers all that follows it. `safe` is the highest sequence number that was known to be behind the border when the
//! record was written. A crash may lose, cut or garble any of what was not behind the border, in any order; what was behind
//! it must be there. So after a crash, reading stops at the first record that is not whole; if any whole record after it
//! says that it was safe, the device has broken its promise and the ledger refuses to go on.

use crate::planted::{Bug, planted};
use abi::call::SystemCall;
use abi::device::{JournalFailure, JournalResult, JournalWork};
use abi::encoding::{Reader, Writer};
use abi::ids::HandleId;
use abi::message::{Bytes, Notify};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The most bytes of one record's content.
pub(crate) const RECORD_BYTES_MAX: usize = 64 << 10;
/// The most answers held back, and requests waiting for the journal to be read. Then: requests are refused as `Busy`.
pub(crate) const HELD_BACK_MAX: usize = 1 << 17;
/// A ledger with fewer bytes than this is not worth compacting.
pub(crate) const COMPACT_BYTES_MIN: usize = 16 << 10;

const HEADER_BYTES: usize = 4 + 8 + 8 + 8;

/// The token of the notices about the journal: the ledger's, not the service's.
pub(crate) const JOURNAL_TOKEN: u64 = u64::MAX;

/// A journal in use.
///
/// Invariants: `safe` <= `appended`; a flush is under way if and only if `flushing` is set; answers in `held_back` are in the
/// order of the sequence numbers they wait for, all above `safe`.
pub(crate) struct Ledger {
    device: HandleId,
    port: HandleId,
    /// The sequence number of the last record.
    appended: u64,
    safe: u64,
    /// What will be safe when the flush or replacement under way is done.
    flushing: Option<u64>,
    held_back: VecDeque<(u64, SystemCall)>,
    /// Bytes in the journal, and how many of them the last compaction left.
    bytes: usize,
    compacted_bytes: usize,
}

/// Why a ledger cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LedgerError {
    Device(JournalFailure),
    /// A record that was safe is not whole.
    Damaged,
}

/// What was found in a journal.
pub(crate) struct Replay<'a> {
    pub records: Vec<&'a [u8]>,
    last_sequence: u64,
    /// How many bytes hold whole records.
    whole_bytes: usize,
}

impl Ledger {
    /// Asks for what is there. The answer is a notice with [`JOURNAL_TOKEN`].
    pub fn open(device: HandleId, port: HandleId, calls: &mut Vec<SystemCall>) -> Ledger {
        let ledger = Ledger {
            device,
            port,
            appended: 0,
            safe: 0,
            flushing: None,
            held_back: VecDeque::new(),
            bytes: 0,
            compacted_bytes: 0,
        };
        calls.push(ledger.ask(JournalWork::Load));
        ledger
    }

    fn ask(&self, work: JournalWork) -> SystemCall {
        let notify = Notify { port: self.port, token: JOURNAL_TOKEN };
        SystemCall::Journal { device: self.device, work, notify }
    }

    /// Takes over what was read. The damaged end, if there is one, is cut off by a replacement before anything is added to
    /// it: else a later reader would stop there and miss what was acknowledged since.
    pub fn adopt(&mut self, all: &[u8], replay: &Replay, calls: &mut Vec<SystemCall>) {
        (self.appended, self.safe) = (replay.last_sequence, 0);
        if all.len() > replay.whole_bytes && !planted(Bug::TailNotCut) {
            calls.push(self.ask(JournalWork::Replace(Bytes::new(&all[..replay.whole_bytes]))));
            self.flushing = Some(self.appended);
        } else if self.appended > 0 {
            // What was read may be in a buffer only.
            calls.push(self.ask(JournalWork::Flush));
            self.flushing = Some(self.appended);
        }
        self.bytes = replay.whole_bytes;
    }

    /// Adds a record of at most [`RECORD_BYTES_MAX`] bytes.
    pub fn append(&mut self, content: &[u8], calls: &mut Vec<SystemCall>) {
        assert!(content.len() <= RECORD_BYTES_MAX, "a record is longer than its bound");
        self.appended += 1;
        let record = frame(self.appended, self.safe, content);
        self.bytes += record.len();
        calls.push(self.ask(JournalWork::Append(record.into())));
        self.flush(calls);
    }

    fn flush(&mut self, calls: &mut Vec<SystemCall>) {
        if self.flushing.is_none() && self.safe < self.appended {
            calls.push(self.ask(JournalWork::Flush));
            self.flushing = Some(self.appended);
        }
    }

    /// Makes this call once everything appended so far is safe.
    pub fn when_safe(&mut self, call: SystemCall, calls: &mut Vec<SystemCall>) {
        if self.safe >= self.appended || planted(Bug::EarlyAcknowledgement) {
            calls.push(call);
        } else {
            self.held_back.push_back((self.appended, call));
        }
    }

    /// Whether one more answer may be held back.
    pub fn takes_more(&self) -> bool {
        self.held_back.len() < HELD_BACK_MAX
    }

    /// Whether so much of the journal is history that it should be replaced by what is true now.
    pub fn wants_compaction(&self) -> bool {
        self.flushing.is_none() && self.bytes > COMPACT_BYTES_MIN.max(2 * self.compacted_bytes)
    }

    /// Puts these records in the place of all records. They must say the same as all of those.
    pub fn compact(&mut self, records: impl Iterator<Item = Vec<u8>>, calls: &mut Vec<SystemCall>) {
        assert!(self.flushing.is_none(), "a ledger is compacted while nothing is under way");
        let mut all = Vec::new();
        for content in records {
            self.appended += 1;
            all.extend(frame(self.appended, self.safe, &content));
        }
        (self.bytes, self.compacted_bytes) = (all.len(), all.len());
        calls.push(self.ask(JournalWork::Replace(all.into())));
        self.flushing = Some(self.appended);
    }

    /// Takes the result of journal work other than loading.
    pub fn done(&mut self, result: &JournalResult, calls: &mut Vec<SystemCall>) -> Result<(), LedgerError> {
        match result {
            JournalResult::Failed(failure) => return Err(LedgerError::Device(*failure)),
            JournalResult::Appended => {}
            JournalResult::Flushed | JournalResult::Replaced => {
                let covered = self.flushing.take().expect("a journal does only what it was asked for");
                self.safe = if planted(Bug::FlushCoversLater) { self.appended } else { covered };
                while let Some((waits_for, _)) = self.held_back.front() {
                    if *waits_for > self.safe {
                        break;
                    }
                    let (_, call) = self.held_back.pop_front().expect("it was just seen");
                    calls.push(call);
                }
                self.flush(calls);
            }
            JournalResult::Loaded(_) => panic!("a journal is loaded once"),
        }
        Ok(())
    }

    pub fn check(&self) {
        assert!(self.safe <= self.appended, "what was not appended is safe");
        let waits: Vec<u64> = self.held_back.iter().map(|(waits_for, _)| *waits_for).collect();
        assert!(waits.is_sorted(), "answers are held back out of order");
        assert!(waits.first().is_none_or(|first| *first > self.safe), "an answer is held back for nothing");
        assert!(
            self.held_back.is_empty() || self.flushing.is_some(),
            "an answer waits for a flush that nobody asked for"
        );
    }
}

fn frame(sequence: u64, safe: u64, content: &[u8]) -> Vec<u8> {
    let mut covered = Writer::default();
    let covered = covered.u64(sequence).u64(safe).raw(content).finish();
    Writer::default().u32(content.len() as u32).u64(check(&covered)).raw(&covered).finish()
}

struct Record<'a> {
    sequence: u64,
    safe: u64,
    content: &'a [u8],
}

/// The record that begins here, if it is whole.
fn read_record(bytes: &[u8]) -> Option<Record<'_>> {
    let mut from = Reader::new(bytes);
    let length = from.u32().ok()? as usize;
    let expected = from.u64().ok()?;
    if length > RECORD_BYTES_MAX || bytes.len() < HEADER_BYTES + length {
        return None;
    }
    if check(&bytes[12..HEADER_BYTES + length]) != expected && !planted(Bug::ChecksumIgnored) {
        return None;
    }
    let (sequence, safe) = (from.u64().ok()?, from.u64().ok()?);
    Some(Record { sequence, safe, content: from.raw(length).ok()? })
}

/// Reads what a journal holds.
pub(crate) fn replay(all: &[u8]) -> Result<Replay<'_>, LedgerError> {
    let mut replay = Replay { records: Vec::new(), last_sequence: 0, whole_bytes: 0 };
    while let Some(record) = read_record(&all[replay.whole_bytes..]) {
        // The first number may be any: compaction goes on counting.
        if replay.last_sequence != 0 && record.sequence != replay.last_sequence + 1 {
            break;
        }
        replay.last_sequence = record.sequence;
        replay.records.push(record.content);
        replay.whole_bytes += HEADER_BYTES + record.content.len();
    }
    // A whole record may begin anywhere behind a damaged one.
    let mut at = replay.whole_bytes;
    while at + HEADER_BYTES <= all.len() {
        match read_record(&all[at..]) {
            Some(record) if record.sequence > replay.last_sequence && !planted(Bug::ChecksumIgnored) => {
                if record.safe > replay.last_sequence {
                    return Err(LedgerError::Damaged);
                }
                if planted(Bug::GapSkipped) {
                    replay.records.push(record.content);
                }
                at += HEADER_BYTES + record.content.len();
            }
            _ => at += 1,
        }
    }
    Ok(replay)
}

/// CRC-64 as in ECMA-182, reflected: finds every burst of up to 64 changed bits, and others but one in 2^64.
fn check(bytes: &[u8]) -> u64 {
    const TABLE: [u64; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u64;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0xc96c_5795_d787_0f42 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |sum: u64, byte| TABLE[usize::from(sum as u8 ^ byte)] ^ sum >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_is_the_published_one() {
        assert_eq!(check(b"123456789"), 0x995d_c9bb_df19_39fa);
    }

    fn three() -> (Vec<u8>, [usize; 3]) {
        let records = [frame(5, 0, b"one"), frame(6, 5, b"two"), frame(7, 5, b"three")];
        let ends = [records[0].len(), records[0].len() + records[1].len(), records.iter().map(Vec::len).sum()];
        (records.concat(), ends)
    }

    #[test]
    fn a_cut_end_is_left_out_and_a_cut_safe_record_is_refused() {
        let (all, ends) = three();
        for length in 0..=all.len() {
            let replay = replay(&all[..length]).expect("a cut is never damage of what came before the border");
            assert_eq!(replay.records.len(), ends.iter().filter(|end| **end <= length).count());
        }
        // Record 5 was safe when 6 was written; 6 was not when 7 was.
        for at in 0..all.len() {
            let mut changed = all.clone();
            changed[at] ^= 0x10;
            match replay(&changed) {
                Err(error) => assert!(at < ends[0] && error == LedgerError::Damaged),
                Ok(replay) => assert!(at >= ends[0] && replay.records.len() == if at < ends[1] { 1 } else { 2 }),
            }
        }
    }
}
