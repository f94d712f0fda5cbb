//! What openraft asks of a store: the log, and the machine that the log drives. It knows nothing of clients.
//!
//! The one idea: the state that answers is in memory; [`Disk`] follows it at a distance. The log between the two is what a restart
//! does again.

use super::disk::{self, Disk, Loaded, Place, storage_error};
use super::{Entry, LogId, Membership, Replies, Types, Vote};
use crate::coordinator::state::{Limits, State};
use crate::coordinator::{Failure, Revision};
use openraft::storage::{LogFlushed, LogState, RaftLogStorage, RaftStateMachine, Snapshot};
use openraft::{
    EntryPayload, OptionalSend, RaftLogReader, RaftSnapshotBuilder, SnapshotMeta, StorageError, StoredMembership,
};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

type Stored<T> = Result<T, StorageError<u64>>;

/// Bytes of entries that are sent to another node at once.
const SENT_BYTES_MAX: usize = 2 << 20;
/// Entries that are kept in memory, so that what was just written need not be read.
const RECENT_MAX: usize = 256;

/// What is in memory of the facts, and how far they are.
pub struct Facts {
    state: Mutex<State>,
    /// Is told after each round of commands: the state's revision.
    pub revision: watch::Sender<Revision>,
    /// The last entry in `state`, and the members that are known to it.
    place: Mutex<Place>,
    limits: Limits,
}

impl Facts {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state")
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().expect("nothing panics while it holds the place")
    }
}

/// The log, and who reads it.
#[derive(Clone)]
pub struct LogStore {
    disk: Arc<Disk>,
    ends: Arc<Mutex<Ends>>,
}

/// Invariants: `recent` are the last entries of the log, without a gap.
struct Ends {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    recent: VecDeque<Entry>,
}

/// The machine that the log drives.
pub struct Machine {
    disk: Arc<Disk>,
    facts: Arc<Facts>,
    /// Before that, nobody wants what is in a snapshot: only which one there is.
    started: Arc<AtomicBool>,
}

/// Makes both from what was on the disk. The flag is to be set when openraft has started.
pub fn open(
    disk: Disk, loaded: Loaded, limits: Limits,
) -> Result<(LogStore, Machine, Arc<Facts>, Arc<AtomicBool>), Failure> {
    let state = match loaded.rows.is_empty() {
        true => State::new(limits),
        false => State::of_rows(limits, loaded.rows).map_err(|bad| Failure::Damaged { what: bad.to_string() })?,
    };
    let disk = Arc::new(disk);
    let ends = Ends {
        vote: loaded.vote,
        purged: loaded.purged,
        last: loaded.log.last().map(|entry| entry.log_id).or(loaded.purged),
        recent: loaded.log.into_iter().collect(),
    };
    let facts = Arc::new(Facts {
        revision: watch::Sender::new(state.revision()),
        state: Mutex::new(state),
        place: Mutex::new(loaded.place),
        limits,
    });
    let started = Arc::new(AtomicBool::new(false));
    let log = LogStore { disk: disk.clone(), ends: Arc::new(Mutex::new(ends)) };
    let machine = Machine { disk, facts: facts.clone(), started: started.clone() };
    Ok((log, machine, facts, started))
}

impl LogStore {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().expect("nothing panics while it holds the ends of the log")
    }

    fn read(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> Stored<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        let ends = self.ends();
        if let Some(first) = ends.recent.front()
            && first.log_id.index <= from
        {
            let skip = (from - first.log_id.index) as usize;
            let mut bytes = 0;
            let mut entries = vec![];
            for entry in ends.recent.iter().skip(skip).take_while(|entry| entry.log_id.index < to) {
                if let EntryPayload::Normal(batch) = &entry.payload {
                    bytes += batch.bytes;
                }
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                entries.push(entry.clone());
            }
            return Ok(entries);
        }
        drop(ends);
        self.disk.entries(from, to, bytes_max).map_err(storage_error)
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self, range: RB,
    ) -> Stored<Vec<Entry>> {
        self.read(range, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Stored<Vec<Entry>> {
        self.read(start..end, SENT_BYTES_MAX)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Stored<LogState<Types>> {
        let ends = self.ends();
        Ok(LogState { last_purged_log_id: ends.purged, last_log_id: ends.last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Stored<()> {
        self.disk.save_vote(vote).map_err(storage_error)?;
        self.ends().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Stored<Option<Vote>> {
        Ok(self.ends().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Stored<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let purged = self.ends().purged;
        self.disk.append(&entries, purged).map_err(storage_error)?;
        let mut ends = self.ends();
        if let Some(last) = entries.last() {
            ends.last = Some(last.log_id);
        }
        ends.recent.extend(entries);
        while ends.recent.len() > RECENT_MAX {
            ends.recent.pop_front();
        }
        drop(ends);
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Stored<()> {
        self.disk.truncate(log_id.index).map_err(storage_error)?;
        let mut ends = self.ends();
        ends.recent.retain(|entry| entry.log_id.index < log_id.index);
        ends.last = match ends.recent.back() {
            Some(entry) => Some(entry.log_id),
            None => {
                let before = match log_id.index.checked_sub(1) {
                    Some(before) => self.disk.entries(before, before + 1, usize::MAX).map_err(storage_error)?,
                    None => vec![],
                };
                before.last().map(|entry| entry.log_id).or(ends.purged)
            }
        };
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Stored<()> {
        self.disk.purge(log_id).map_err(storage_error)?;
        let mut ends = self.ends();
        ends.purged = ends.purged.max(Some(log_id));
        ends.last = ends.last.max(Some(log_id));
        ends.recent.retain(|entry| entry.log_id.index > log_id.index);
        Ok(())
    }
}

impl Machine {
    /// Brings the disk up to where the state is.
    fn follow(&self) -> Stored<Place> {
        // The commands between the two are in the log: who applies is the one who asks for this, so the two fit together.
        let place = self.facts.place().clone();
        let rows = self.facts.state().take_touched();
        self.disk.update(&rows, &place).map_err(storage_error)?;
        Ok(place)
    }
}

fn snapshot(place: Place, data: Vec<u8>) -> Snapshot<Types> {
    let snapshot_id = place.applied.map_or_else(|| "empty".into(), |applied| applied.to_string());
    let meta = SnapshotMeta { last_log_id: place.applied, last_membership: place.membership, snapshot_id };
    Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Stored<(Option<LogId>, Membership)> {
        let place = self.facts.place();
        Ok((place.applied, place.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Stored<Vec<Replies>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut all = vec![];
        let revision;
        {
            let mut state = self.facts.state();
            let mut place = self.facts.place();
            for entry in entries {
                place.applied = Some(entry.log_id);
                all.push(match entry.payload {
                    EntryPayload::Blank => Replies(vec![]),
                    EntryPayload::Normal(batch) => {
                        Replies(batch.commands.iter().map(|command| state.apply(command)).collect())
                    }
                    EntryPayload::Membership(membership) => {
                        place.membership = StoredMembership::new(Some(entry.log_id), membership);
                        Replies(vec![])
                    }
                });
            }
            revision = state.revision();
        }
        self.facts.revision.send_replace(revision);
        Ok(all)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // What is applied later does not belong to it, so the disk follows now.
        Builder(Some(self.follow()))
    }

    async fn begin_receiving_snapshot(&mut self) -> Stored<Box<Cursor<Vec<u8>>>> {
        Ok(Box::new(Cursor::new(vec![])))
    }

    async fn install_snapshot(
        &mut self, meta: &SnapshotMeta<u64, openraft::EmptyNode>, data: Box<Cursor<Vec<u8>>>,
    ) -> Stored<()> {
        let bad = |bad: crate::coordinator::state::BadRows| storage_error(Failure::Damaged { what: bad.to_string() });
        let rows = disk::unpack(data.get_ref()).map_err(bad)?;
        let place = Place { applied: meta.last_log_id, membership: meta.last_membership.clone() };
        let state = State::of_rows(self.facts.limits, rows.iter().cloned()).map_err(bad)?;
        self.disk.replace(&rows, &place).map_err(storage_error)?;
        let revision = state.revision();
        *self.facts.state() = state;
        *self.facts.place() = place;
        self.facts.revision.send_replace(revision);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Stored<Option<Snapshot<Types>>> {
        if !self.started.load(Ordering::Relaxed) {
            let place = self.facts.place().clone();
            return Ok(place.applied.is_some().then(|| snapshot(place, vec![])));
        }
        // It may be long: the thread that keeps in touch with other nodes does not wait for it.
        let disk = self.disk.clone();
        let (give, get) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let packed = disk.snapshot().map(|(place, rows)| (place, disk::pack(&rows)));
            let _ = give.send(packed);
        });
        let (place, data) = get.await.unwrap_or(Err(Failure::Closed)).map_err(storage_error)?;
        Ok(place.applied.is_some().then(|| snapshot(place, data)))
    }
}

/// The disk follows before this is made: there is nothing left to do.
pub struct Builder(Option<Stored<Place>>);

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Stored<Snapshot<Types>> {
        let place = self.0.take().unwrap_or_else(|| Err(storage_error(Failure::Closed)))?;
        Ok(snapshot(place, vec![]))
    }
}
