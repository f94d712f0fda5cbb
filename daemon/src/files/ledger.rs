//! The facts of the tree at the coordinator. Knows no file: records with keys and values, written by one holder.
//!
//! The one idea: every transaction compares the number of the holder. A holder that was replaced can change nothing from that
//! moment on, whatever it believes and however late its messages come; and since records say what is, a transaction whose fate is
//! not known can simply be asked for again.
//!
//! ```text
//!   h/files           who holds the tree: node and epoch; under a lease
//!   f/epoch           the number of the last holder
//!   f/last            the number of the last change
//!   f/r/KEY           a record of the tree
//!   f/s/NNNN f/staged a change too large for one transaction, on its way: written aside first, then declared, then moved
//! ```

use abi::encoding::{Reader, Writer};
use drivers::coordinator::{
    ACTIONS_MAX, Action, Compare, Coordinator, Failure, KeyRange, Range, TRANSACTION_BYTES_MAX, Transaction,
};
use drivers::facts::{FactsError, Keeper, Write};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) const HOLDER: &[u8] = b"h/files";
pub(super) const EPOCH: &[u8] = b"f/epoch";
const LAST: &[u8] = b"f/last";
const RECORDS: &[u8] = b"f/r/";
const STAGE: &[u8] = b"f/s/";
const STAGED: &[u8] = b"f/staged";

/// Actions of one transaction that are records: the others are the number of the last change, and what belongs to a stage.
const WRITES_MAX: usize = ACTIONS_MAX - 4;
/// Their bytes, so that the whole stays within what the coordinator takes.
const BYTES_MAX: usize = TRANSACTION_BYTES_MAX / 2;
/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Ledger {
    coordinator: Arc<dyn Coordinator>,
    epoch: u64,
    /// Is this still the holder, as far as anybody here knows? It may be in doubt and come back.
    is_lost: Box<dyn Fn() -> bool + Send + Sync>,
}

pub(super) fn number(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

fn record_key(key: &[u8]) -> Vec<u8> {
    [RECORDS, key].concat()
}

fn stage_key(part: usize) -> Vec<u8> {
    [STAGE, &(part as u32).to_be_bytes()].concat()
}

/// What a batch writes in the end, each key once.
fn last_of(writes: impl Iterator<Item = Write>) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    writes.map(|write| (write.key, write.value)).collect()
}

fn bytes_of(write: (&Vec<u8>, &Option<Vec<u8>>)) -> usize {
    write.0.len() + RECORDS.len() + write.1.as_ref().map_or(0, Vec::len)
}

fn action(key: &[u8], value: &Option<Vec<u8>>) -> Action {
    match value {
        Some(value) => Action::put(record_key(key), value),
        None => Action::delete(record_key(key)),
    }
}

impl Ledger {
    pub fn new(coordinator: Arc<dyn Coordinator>, epoch: u64, is_lost: Box<dyn Fn() -> bool + Send + Sync>) -> Ledger {
        Ledger { coordinator, epoch, is_lost }
    }

    fn lost(&self, why: &str) -> FactsError {
        FactsError::Lost { why: why.into() }
    }

    /// Does something that may be done twice, until it is done or this is the holder no more.
    fn insist<T>(&self, mut attempt: impl FnMut(Instant) -> Result<T, Failure>) -> Result<T, FactsError> {
        loop {
            match attempt(Instant::now() + ATTEMPT) {
                Ok(result) => return Ok(result),
                Err(Failure::Unavailable { .. } | Failure::Unknown { .. }) => {
                    if (self.is_lost)() {
                        return Err(self.lost("this node could not reach the coordinator"));
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(FactsError::Unavailable { why: error.to_string() }),
            }
        }
    }

    /// One transaction of the holder.
    fn write(&self, actions: Vec<Action>) -> Result<(), FactsError> {
        let fence = match super::planted::planted(super::planted::Bug::NoFence) {
            true => vec![],
            false => vec![Compare::value(EPOCH, self.epoch.to_be_bytes())],
        };
        let transaction = Transaction { compare: fence, then: actions, otherwise: vec![] };
        match self.insist(|deadline| self.coordinator.transact(transaction.clone(), deadline))?.succeeded {
            true => Ok(()),
            false => Err(self.lost("its lease had ended")),
        }
    }

    /// All records of a range, in the order of their keys. Only the holder may change them meanwhile.
    fn each(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), FactsError> {
        let mut keys = KeyRange::prefix(prefix);
        loop {
            let range = Range::of(keys.clone());
            let found = self.insist(|deadline| self.coordinator.range(range.clone(), deadline))?;
            found.records.iter().for_each(|record| each(&record.key[prefix.len()..], &record.value));
            match found.records.last() {
                Some(last) if found.more => keys.from = [&last.key, &[0][..]].concat().into(),
                _ => return Ok(()),
            }
        }
    }

    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, FactsError> {
        let found = self.insist(|deadline| self.coordinator.range(Range::key(key), deadline))?;
        Ok(found.records.first().map(|record| record.value.to_vec()))
    }

    /// The number of the last change, after what was left half way has been brought to its end.
    pub fn last(&self) -> Result<u64, FactsError> {
        self.finish()?;
        Ok(self.value(LAST)?.as_deref().and_then(number).unwrap_or(0))
    }

    /// A change that does not fit into one transaction: what it writes is put aside, then declared to be so, and then moved to
    /// where it belongs. Whoever comes after the declaration finishes it; before it, nothing has happened.
    fn write_in_parts(&self, writes: &[(Vec<u8>, Option<Vec<u8>>)], last: u64) -> Result<(), FactsError> {
        let parts = split(writes);
        for (part, writes) in parts.iter().enumerate() {
            let mut to = Writer::default();
            to.u32(writes.len() as u32);
            for (key, value) in *writes {
                to.bytes(key).u8(value.is_some() as u8).bytes(value.as_deref().unwrap_or_default());
            }
            self.write(vec![Action::put(stage_key(part), to.finish())])?;
        }
        let count = (parts.len() as u64).to_be_bytes();
        self.write(vec![Action::put(STAGED, count), Action::put(LAST, last.to_be_bytes())])?;
        self.finish()
    }

    /// Moves what was put aside, or drops it if it was not declared.
    fn finish(&self) -> Result<(), FactsError> {
        let staged = self.value(STAGED)?.is_some();
        let mut parts = vec![];
        self.each(STAGE, &mut |key, value| parts.push((key.to_vec(), value.to_vec())))?;
        for (key, part) in parts {
            let mut actions = vec![Action::delete([STAGE, &key].concat())];
            if staged {
                let damaged = |_| FactsError::Unavailable { why: "a change that was put aside cannot be read".into() };
                let mut from = Reader::new(&part);
                for _ in 0..from.u32().map_err(damaged)? {
                    let key = from.bytes().map_err(damaged)?;
                    let is_there = from.u8().map_err(damaged)? != 0;
                    let value = from.bytes().map_err(damaged)?;
                    actions.push(action(key, &is_there.then(|| value.to_vec())));
                }
            }
            self.write(actions)?;
        }
        if staged { self.write(vec![Action::delete(STAGED)]) } else { Ok(()) }
    }
}

/// Parts that each fit into one transaction.
fn split(writes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Vec<&[(Vec<u8>, Option<Vec<u8>>)]> {
    let mut parts = vec![];
    let mut rest = writes;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |(key, value): &&(Vec<u8>, Option<Vec<u8>>)| {
            bytes += bytes_of((key, value)) + 16;
            bytes <= BYTES_MAX / 2
        };
        let count = rest.iter().take(WRITES_MAX).take_while(fits).count().max(1);
        let (part, later) = rest.split_at(count);
        parts.push(part);
        rest = later;
    }
    parts
}

impl Keeper for Ledger {
    fn commit(&self, batch: &[(u64, Vec<Write>)]) -> Result<(), FactsError> {
        let mut rest = batch;
        while !rest.is_empty() {
            // As many changes as go into one transaction, and at least one.
            let mut writes: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
            let mut bytes = 0;
            let mut count = 0;
            for (_, change) in rest {
                let more = last_of(change.iter().cloned());
                let more_bytes: usize = more.iter().map(bytes_of).sum();
                let fits = writes.len() + more.len() <= WRITES_MAX && bytes + more_bytes <= BYTES_MAX;
                if count > 0 && !fits {
                    break;
                }
                bytes += more_bytes;
                writes.extend(more);
                count += 1;
                if !fits {
                    break;
                }
            }
            let last = rest[count - 1].0;
            if writes.len() > WRITES_MAX || bytes > BYTES_MAX {
                let writes: Vec<(Vec<u8>, Option<Vec<u8>>)> = writes.into_iter().collect();
                self.write_in_parts(&writes, last)?;
            } else {
                let mut actions: Vec<Action> = writes.iter().map(|(key, value)| action(key, value)).collect();
                actions.push(Action::put(LAST, last.to_be_bytes()));
                self.write(actions)?;
            }
            rest = &rest[count..];
        }
        Ok(())
    }

    fn reopen(&self) -> Result<u64, FactsError> {
        if (self.is_lost)() {
            return Err(self.lost("this node could not reach the coordinator"));
        }
        self.last()
    }

    fn read(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), FactsError> {
        self.each(RECORDS, each)
    }
}
