//! Records with keys and values, and how they become durable: on one disk, in redb, or wherever a [`Keeper`] puts them. Knows
//! nothing of what they say.
//!
//! The one idea: whoever waits for the disk writes for all who wait. Changes are queued with their numbers; the first who waits
//! commits everything that is queued in one transaction, and those who come meanwhile wait for the next one. So there is no
//! thread of its own, one caller pays one sync, and many callers share it.
//!
//! ```text
//!   submit(1) submit(2) submit(3)       submit(4) ...
//!   wait(1): commits 1..3 ──fsync──► 1, 2, 3 are told        then 4 commits what came meanwhile
//! ```
//!
//! A commit that fails stops the queue, with everything behind it, until [`Facts::reopen`] has looked what is on the disk: the
//! number of the last change is in the same transaction as the changes, so there is never a doubt.

use abi::errno::Errno;
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
const ABOUT: TableDefinition<&str, u64> = TableDefinition::new("about");
const FORMAT: &str = "format";
const LAST: &str = "last change";

/// Which records there are and how they are written. Older stores can be read; newer ones are refused.
pub const FORMAT_VERSION: u64 = 1;

/// Pages of the file that are kept in memory: others keep what the records say.
const CACHE_BYTES: usize = 16 << 20;

/// One record to write, or to remove.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// Why facts could not be read or made durable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FactsError {
    #[error("the disk of {file} is full: free some space and try again")]
    DiskFull { file: PathBuf },
    #[error("{file} may not be read or written: give it to the user that runs una")]
    Denied { file: PathBuf },
    #[error("{file} is used by another process: only one node may have it, so end the other one first")]
    Locked { file: PathBuf },
    #[error("{file} is damaged ({what}): restore it from a copy, or move it away to begin anew")]
    Damaged { file: PathBuf, what: String },
    #[error("{file} was written by a newer una (format {found}; this one knows {FORMAT_VERSION}): use that one")]
    Newer { file: PathBuf, found: u64 },
    #[error("{file}: {error}")]
    Io { file: PathBuf, error: Arc<io::Error> },
    #[error("{file}: {what}")]
    Store { file: PathBuf, what: String },
    /// Somebody else may write now. Whether the changes that were waited for became durable, he knows.
    #[error("another node has taken over: {why}")]
    Lost { why: String },
    #[error("facts cannot be made durable: {why}")]
    Unavailable { why: String },
}

impl FactsError {
    /// What a program is told.
    pub fn errno(&self) -> Errno {
        match self {
            FactsError::DiskFull { .. } => Errno::NoSpc,
            FactsError::Denied { .. } => Errno::Acces,
            FactsError::Lost { .. } => Errno::OwnerDead,
            FactsError::Unavailable { .. } => Errno::TimedOut,
            _ => Errno::Io,
        }
    }

    fn of(file: &Path, error: redb::Error) -> FactsError {
        let file = file.to_path_buf();
        match error {
            redb::Error::DatabaseAlreadyOpen => FactsError::Locked { file },
            redb::Error::Corrupted(what) => FactsError::Damaged { file, what },
            redb::Error::UpgradeRequired(found) => {
                FactsError::Damaged { file, what: format!("it has redb's format {found}") }
            }
            redb::Error::Io(error) => FactsError::of_io(file, error),
            other => FactsError::Store { file, what: other.to_string() },
        }
    }

    fn of_io(file: PathBuf, error: io::Error) -> FactsError {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => FactsError::DiskFull { file },
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => FactsError::Denied { file },
            None if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                FactsError::Damaged { file, what: error.to_string() }
            }
            _ => FactsError::Io { file, error: Arc::new(error) },
        }
    }
}

/// Where facts are kept.
pub trait Keeper: Send + Sync {
    /// Makes changes durable, all or none, and with them the number of the last one.
    fn commit(&self, batch: &[(u64, Vec<Write>)]) -> Result<(), FactsError>;

    /// After a failed commit: looks what is there, and gives the number of the last change.
    fn reopen(&self) -> Result<u64, FactsError>;

    /// All records, in the order of their keys.
    fn read(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), FactsError>;
}

/// A store of facts.
pub struct Facts {
    keeper: Box<dyn Keeper>,
    queue: Mutex<Queue>,
    settled: Condvar,
}

/// Invariants: what is queued has rising numbers, all above `durable`; with `Stopped` nothing is queued and nobody commits.
struct Queue {
    waiting: VecDeque<(u64, Vec<Write>)>,
    /// To be written with the next change.
    beside: Vec<Write>,
    durable: u64,
    state: State,
    /// The highest number that was submitted.
    highest: u64,
    /// Numbers that were given up, first and last, and why. Of the oldest nobody can be waiting any more.
    lost: VecDeque<(u64, u64, FactsError)>,
    /// How many commits there were, and changes in them.
    commits: u64,
    changes: u64,
}

/// More failures are not remembered one by one: a caller would have to sleep through that many.
const LOST_MAX: usize = 1024;

enum State {
    Idle,
    /// Somebody commits.
    Committing,
    /// A commit failed, and nothing more is taken.
    Stopped(FactsError),
}

/// How often changes shared a sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shared {
    pub commits: u64,
    pub changes: u64,
}

impl Facts {
    /// Opens a store on this disk, or makes an empty one.
    pub fn open(file: &Path) -> Result<Facts, FactsError> {
        let (database, last) = open_database(file)?;
        let store = Store { file: file.to_path_buf(), database: Mutex::new(Some(database)) };
        Ok(Facts::kept(Box::new(store), last))
    }

    /// Facts that somebody else keeps, who has all changes up to this one.
    pub fn kept(keeper: Box<dyn Keeper>, last: u64) -> Facts {
        Facts {
            keeper,
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                beside: vec![],
                durable: last,
                state: State::Idle,
                highest: last,
                lost: VecDeque::new(),
                commits: 0,
                changes: 0,
            }),
            settled: Condvar::new(),
        }
    }

    /// All records, in the order of their keys.
    pub fn read(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), FactsError> {
        self.keeper.read(each)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics while it holds the queue")
    }

    /// The last change that is on the disk.
    pub fn durable(&self) -> u64 {
        self.queue().durable
    }

    pub fn shared(&self) -> Shared {
        let queue = self.queue();
        Shared { commits: queue.commits, changes: queue.changes }
    }

    /// Queues a change with its number, which is above those of all before it. Returns at once. How many there may be is up to
    /// the callers: each waits for its own.
    pub fn submit(&self, number: u64, writes: Vec<Write>) {
        let mut queue = self.queue();
        assert!(number > queue.highest, "changes come in the order of their numbers");
        queue.highest = number;
        if !matches!(queue.state, State::Stopped(_)) {
            queue.waiting.push_back((number, writes));
        }
    }

    /// Has writes made durable with the next changes: nobody waits for them, and a failure may lose them.
    pub fn write_beside(&self, writes: Vec<Write>) {
        let mut queue = self.queue();
        if !matches!(queue.state, State::Stopped(_)) {
            queue.beside.extend(writes);
        }
    }

    /// Returns when a change is durable, or when nothing can be made durable until [`Facts::reopen`].
    pub fn wait(&self, number: u64) -> Result<(), FactsError> {
        let mut queue = self.queue();
        loop {
            if let Some((_, _, error)) = queue.lost.iter().find(|(first, last, _)| (*first..=*last).contains(&number)) {
                return Err(error.clone());
            }
            if queue.durable >= number {
                return Ok(());
            }
            match &queue.state {
                State::Stopped(error) => return Err(error.clone()),
                // Whoever commits says so when he ends, whatever the end.
                State::Committing => queue = self.settled.wait(queue).expect("nothing panics while it holds the queue"),
                State::Idle if queue.waiting.is_empty() => {
                    return Err(FactsError::Unavailable { why: format!("nobody submitted the change {number}") });
                }
                State::Idle => {
                    queue.state = State::Committing;
                    let mut batch: Vec<(u64, Vec<Write>)> = queue.waiting.drain(..).collect();
                    let beside = std::mem::take(&mut queue.beside);
                    batch.last_mut().expect("somebody waits for one").1.extend(beside);
                    drop(queue);
                    let result = self.keeper.commit(&batch);
                    queue = self.queue();
                    match result {
                        Ok(()) => {
                            queue.state = State::Idle;
                            queue.durable = batch.last().expect("somebody waits for one").0;
                            queue.commits += 1;
                            queue.changes += batch.len() as u64;
                        }
                        Err(error) => {
                            queue.waiting.clear();
                            queue.state = State::Stopped(error);
                        }
                    }
                    self.settled.notify_all();
                }
            }
        }
    }

    /// After a failure: looks what is durable, gives the number of the last change there, and takes changes again. Nobody
    /// may submit meanwhile. Without a failure it does nothing.
    pub fn reopen(&self) -> Result<u64, FactsError> {
        let mut queue = self.queue();
        let State::Stopped(error) = &queue.state else { return Ok(queue.durable) };
        let error = error.clone();
        let last = self.keeper.reopen()?;
        queue.durable = last;
        queue.state = State::Idle;
        if queue.highest > last {
            let highest = queue.highest;
            queue.lost.push_back((last + 1, highest, error));
            if queue.lost.len() > LOST_MAX {
                queue.lost.pop_front();
            }
        }
        Ok(last)
    }

    /// Takes nothing more, for this reason: everybody who waits is told, now and for ever.
    pub fn stop(&self, error: FactsError) {
        let mut queue = self.queue();
        queue.waiting.clear();
        // Whoever commits right now finds out by himself.
        if let State::Idle | State::Stopped(_) = queue.state {
            queue.state = State::Stopped(error);
        }
        self.settled.notify_all();
    }
}

/// Facts in one file of this disk.
struct Store {
    file: PathBuf,
    /// Not there while it could not be opened again.
    database: Mutex<Option<Database>>,
}

impl Store {
    fn database(&self) -> MutexGuard<'_, Option<Database>> {
        self.database.lock().expect("nothing panics while it has the database")
    }

    fn closed(&self) -> FactsError {
        FactsError::Store { file: self.file.clone(), what: "it is not open".into() }
    }
}

impl Keeper for Store {
    fn read(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), FactsError> {
        let database = self.database();
        let Some(database) = &*database else { return Err(self.closed()) };
        let read = || -> Result<(), redb::Error> {
            let table = database.begin_read()?.open_table(RECORDS)?;
            for record in table.iter()? {
                let (key, value) = record?;
                each(key.value(), value.value());
            }
            Ok(())
        };
        guarded(&self.file, read)
    }

    fn commit(&self, batch: &[(u64, Vec<Write>)]) -> Result<(), FactsError> {
        let database = self.database();
        let Some(database) = &*database else { return Err(self.closed()) };
        let commit = || -> Result<(), redb::Error> {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            {
                let mut records = transaction.open_table(RECORDS)?;
                for write in batch.iter().flat_map(|(_, writes)| writes) {
                    match &write.value {
                        Some(value) => drop(records.insert(write.key.as_slice(), value.as_slice())?),
                        None => drop(records.remove(write.key.as_slice())?),
                    }
                }
                let last = batch.last().expect("a batch has a change").0;
                transaction.open_table(ABOUT)?.insert(LAST, last)?;
            }
            transaction.commit()?;
            Ok(())
        };
        guarded(&self.file, commit)
    }

    fn reopen(&self) -> Result<u64, FactsError> {
        let mut database = self.database();
        // redb refuses everything after an error, and holds the lock of the file.
        *database = None;
        let (opened, last) = open_database(&self.file)?;
        *database = Some(opened);
        Ok(last)
    }
}

/// Runs something of redb. A damaged file may make it panic rather than fail.
fn guarded<T>(file: &Path, act: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, FactsError> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)) {
        Ok(result) => result.map_err(|error| FactsError::of(file, error)),
        Err(panic) => {
            let what = panic.downcast_ref::<String>().cloned();
            let what = what.or_else(|| panic.downcast_ref::<&str>().map(|what| what.to_string()));
            Err(FactsError::Damaged { file: file.into(), what: what.unwrap_or_else(|| "it cannot be read".into()) })
        }
    }
}

fn open_database(file: &Path) -> Result<(Database, u64), FactsError> {
    let database = guarded(file, || {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(file);
        database.map_err(|error| match error {
            DatabaseError::Storage(StorageError::Io(error)) => redb::Error::Io(error),
            other => other.into(),
        })
    })?;
    let (format, last) = guarded(file, || {
        let transaction = database.begin_write()?;
        let (format, last);
        {
            let mut about = transaction.open_table(ABOUT)?;
            format = about.get(FORMAT)?.map(|format| format.value());
            last = about.get(LAST)?.map_or(0, |last| last.value());
            if format.is_none() {
                about.insert(FORMAT, FORMAT_VERSION)?;
                transaction.open_table(RECORDS)?;
            }
        }
        match format {
            Some(_) => transaction.abort()?,
            None => transaction.commit()?,
        }
        Ok((format.unwrap_or(FORMAT_VERSION), last))
    })?;
    if format > FORMAT_VERSION {
        return Err(FactsError::Newer { file: file.into(), found: format });
    }
    if let Some(above) = file.parent()
        && let Ok(above) = std::fs::File::open(above)
    {
        above.sync_all().map_err(|error| FactsError::of_io(file.into(), error))?;
    }
    Ok((database, last))
}
