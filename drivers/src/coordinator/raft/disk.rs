//! What one node keeps of the facts on its disk: its vote, the log, and the state as it was at some entry of the log. It knows
//! nothing of other nodes.
//!
//! The one idea: what has to be synced before an answer is the log alone, and for that it has files of its own ([`log`](super::log)):
//! a transaction of redb writes many pages. The state is rewritten in redb now and then, row by row; until then the log still has
//! what it says, and what the log has is needed no more only when redb has it.
//!
//! ```text
//!   coordinator.redb    state   ROW     a row of `State`                        contents begin with a checksum of name
//!                       about   NAME    format, vote, what was purged, where    and content: a page that changed by
//!                                       the state stands                        itself is found
//!   coordinator.log.0, coordinator.log.1
//! ```

use super::log::Log;
use super::{Entry, LogId, Membership, Types, Vote};
use crate::coordinator::planted::{Bug, planted};
use crate::coordinator::{Failure, state};
use openraft::StorageError;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

const STATE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("state");
const ABOUT: TableDefinition<&str, &[u8]> = TableDefinition::new("about");

/// How things are written. Newer ones are refused.
const FORMAT_VERSION: u64 = 1;
/// Pages of the file that are kept in memory.
const CACHE_BYTES: usize = 16 << 20;
const CHECKSUM_BYTES: usize = 8;
const DATABASE: &str = "coordinator.redb";
const LOGS: [&str; 2] = ["coordinator.log.0", "coordinator.log.1"];

/// The order of locks: none is held while another one is taken.
pub struct Disk {
    file: PathBuf,
    database: Database,
    log: Mutex<Log>,
}

/// A file of the log.
#[derive(Debug)]
struct Plain(std::fs::File);

impl StorageBackend for Plain {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// What a test brought, for redb.
#[derive(Debug)]
struct Backend(Box<dyn StorageBackend>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

/// Where the state on the disk stands.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    pub applied: Option<LogId>,
    pub membership: Membership,
}

/// What was on the disk.
pub struct Loaded {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub log: Vec<Entry>,
    pub place: Place,
    /// Empty: there never was a state.
    pub rows: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Disk {
    /// Opens the store in a directory, or makes one.
    pub fn open(directory: &Path) -> Result<(Disk, Loaded), Failure> {
        let at = |error: io::Error| failure_of_io(directory, &error);
        std::fs::create_dir_all(directory).map_err(at)?;
        let file = directory.join(DATABASE);
        let database = guarded(&file, || Ok(Database::builder().set_cache_size(CACHE_BYTES).create(&file)?))?;
        let open = |name: &str| -> io::Result<Box<dyn StorageBackend>> {
            let mut options = std::fs::File::options();
            let opened = options.read(true).write(true).create(true).truncate(false).open(directory.join(name))?;
            Ok(Box::new(Plain(opened)))
        };
        let files = [open(LOGS[0]).map_err(at)?, open(LOGS[1]).map_err(at)?];
        let opened = Disk::load(file.clone(), database, files)?;
        // The names of the files have to be there too; and the directory's, if it was made.
        for directory in [Some(directory), directory.parent()].into_iter().flatten() {
            if let Ok(directory) = std::fs::File::open(directory) {
                directory.sync_all().map_err(at)?;
            }
        }
        Ok(opened)
    }

    /// The same over something that behaves like files: tests let it lose what was not synced.
    pub fn open_over(
        directory: &Path, open: &dyn Fn(&Path) -> Box<dyn StorageBackend>,
    ) -> Result<(Disk, Loaded), Failure> {
        let file = directory.join(DATABASE);
        let backend = Backend(open(&file));
        let database =
            guarded(&file, || Ok(Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?))?;
        Disk::load(file, database, LOGS.map(|name| open(&directory.join(name))))
    }

    fn load(file: PathBuf, database: Database, files: [Box<dyn StorageBackend>; 2]) -> Result<(Disk, Loaded), Failure> {
        guarded(&file, || {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            transaction.open_table(STATE)?;
            let is_new = {
                let mut about = transaction.open_table(ABOUT)?;
                let is_new = about.get("format")?.is_none();
                if is_new {
                    about.insert("format", &*sealed(b"format", &FORMAT_VERSION))?;
                }
                is_new
            };
            if is_new {
                transaction.commit()?
            } else {
                transaction.abort()?
            }
            Ok(())
        })?;
        let format: u64 = about(&file, &database, "format")?.unwrap_or(0);
        if format > FORMAT_VERSION {
            let why = format!("{} was written by a newer una (format {format}): use that one", file.display());
            return Err(Failure::Refused { why });
        }
        let purged: Option<LogId> = about(&file, &database, "purged")?;
        let (log, entries) = Log::open(files, purged)?;
        let disk = Disk { log: Mutex::new(log), database, file };
        let vote = about(&disk.file, &disk.database, "vote")?;
        let (place, rows) = disk.snapshot()?;
        if purged.map(|purged| purged.index) > place.applied.map(|applied| applied.index) {
            return Err(Failure::Damaged { what: format!("{}: the state is older than the log", disk.file.display()) });
        }
        Ok((disk, Loaded { vote, purged, log: entries, place, rows }))
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("nothing panics while it holds the log")
    }

    fn write(
        &self, durability: Durability, act: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), Failure> {
        guarded(&self.file, || {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(durability)?;
            act(&transaction)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Entries of the log, as many as come to so many bytes, but at least one.
    pub fn entries(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>, Failure> {
        self.log().entries(from, to, bytes_max)
    }

    /// Puts entries behind the log. They are on the disk when it returns. Of all before `purged`, redb has what they say.
    pub fn append(&self, entries: &[Entry], purged: Option<LogId>) -> Result<(), Failure> {
        if self.log().is_turn_over(purged) {
            // Only if that is on the disk too.
            self.write(Durability::Immediate, |_| Ok(()))?;
            self.log().next_turn()?;
        }
        self.log().append(entries)
    }

    /// Takes the log's end back, from an entry on.
    pub fn truncate(&self, from: u64) -> Result<(), Failure> {
        self.log().truncate(from)
    }

    /// Forgets the log's beginning, up to an entry and with it. It may be back after a crash.
    pub fn purge(&self, to: LogId) -> Result<(), Failure> {
        self.write(Durability::None, |transaction| {
            transaction.open_table(ABOUT)?.insert("purged", &*sealed(b"purged", &to))?;
            Ok(())
        })?;
        self.log().forget(to.index);
        Ok(())
    }

    pub fn save_vote(&self, vote: &Vote) -> Result<(), Failure> {
        let durability = if planted(Bug::VoteNotSynced) { Durability::None } else { Durability::Immediate };
        self.write(durability, |transaction| {
            transaction.open_table(ABOUT)?.insert("vote", &*sealed(b"vote", vote))?;
            Ok(())
        })
    }

    /// Brings rows of the state up to date.
    pub fn update(&self, rows: &[(Vec<u8>, Option<Vec<u8>>)], place: &Place) -> Result<(), Failure> {
        self.write(Durability::Immediate, |transaction| {
            let mut state = transaction.open_table(STATE)?;
            for (name, content) in rows {
                match content {
                    Some(content) => drop(state.insert(&**name, &*sealed_bytes(name, content))?),
                    None => drop(state.remove(&**name)?),
                }
            }
            transaction.open_table(ABOUT)?.insert("place", &*sealed(b"place", place))?;
            Ok(())
        })
    }

    /// Puts another state in the place of this one. It is durable when this returns.
    pub fn replace(&self, rows: &[(Vec<u8>, Vec<u8>)], place: &Place) -> Result<(), Failure> {
        self.write(Durability::Immediate, |transaction| {
            let mut state = transaction.open_table(STATE)?;
            state.retain(|_, _| false)?;
            for (name, content) in rows {
                state.insert(&**name, &*sealed_bytes(name, content))?;
            }
            transaction.open_table(ABOUT)?.insert("place", &*sealed(b"place", place))?;
            Ok(())
        })
    }

    /// The state as it is on the disk, and where it stands.
    pub fn snapshot(&self) -> Result<(Place, Vec<(Vec<u8>, Vec<u8>)>), Failure> {
        let (place, rows) = guarded(&self.file, || {
            let transaction = self.database.begin_read()?;
            let place = transaction.open_table(ABOUT)?.get("place")?.map(|content| content.value().to_vec());
            let mut rows = vec![];
            for row in transaction.open_table(STATE)?.iter()? {
                let (name, content) = row?;
                rows.push((name.value().to_vec(), content.value().to_vec()));
            }
            Ok((place, rows))
        })?;
        let place = place.map(|place| unsealed(&self.file, b"place", &place)).transpose()?.unwrap_or_default();
        let mut open = Vec::with_capacity(rows.len());
        for (name, mut content) in rows {
            if open_seal(&name, &content).is_none() {
                let what = format!("{}: {} is damaged", self.file.display(), name.escape_ascii());
                return Err(Failure::Damaged { what });
            }
            content.drain(..CHECKSUM_BYTES);
            open.push((name, content));
        }
        Ok((place, open))
    }
}

fn about<T: DeserializeOwned>(file: &Path, database: &Database, name: &'static str) -> Result<Option<T>, Failure> {
    let content = guarded(file, || {
        let table = database.begin_read()?.open_table(ABOUT)?;
        Ok(table.get(name)?.map(|content| content.value().to_vec()))
    })?;
    content.map(|content| unsealed(file, name.as_bytes(), &content)).transpose()
}

fn unsealed<T: DeserializeOwned>(file: &Path, name: &[u8], content: &[u8]) -> Result<T, Failure> {
    open_seal(name, content)
        .and_then(|content| postcard::from_bytes(content).ok())
        .ok_or_else(|| Failure::Damaged { what: format!("{}: {} is damaged", file.display(), name.escape_ascii()) })
}

/// What openraft is told of a failure.
pub fn storage_error(failure: Failure) -> StorageError<u64> {
    let error = openraft::AnyError::new(&failure);
    openraft::StorageIOError::new(openraft::ErrorSubject::Store, openraft::ErrorVerb::Write, error).into()
}

/// Rows as one piece, to be sent to another node.
pub fn pack(rows: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let rows: Vec<_> = match planted(Bug::SnapshotForgetsSessions) {
        true => rows.iter().filter(|(name, _)| name[0] != b's').collect(),
        false => rows.iter().collect(),
    };
    let mut bytes = FORMAT_VERSION.to_le_bytes().to_vec();
    for (name, content) in rows {
        for part in [name, content] {
            bytes.extend((part.len() as u32).to_le_bytes());
            bytes.extend(part);
        }
    }
    let hash = blake3::hash(&bytes);
    bytes.extend(hash.as_bytes());
    bytes
}

/// The rows in such a piece, if it is whole.
pub fn unpack(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, state::BadRows> {
    let bad = || state::BadRows("a snapshot did not arrive as it was sent".into());
    let (bytes, hash) = bytes.split_last_chunk::<32>().ok_or_else(bad)?;
    if blake3::hash(bytes) != *hash {
        return Err(bad());
    }
    let (format, mut left) = bytes.split_first_chunk::<8>().ok_or_else(bad)?;
    if u64::from_le_bytes(*format) != FORMAT_VERSION {
        return Err(state::BadRows("a snapshot is of another version of una".into()));
    }
    let mut part = || -> Result<Option<Vec<u8>>, state::BadRows> {
        let Some((length, after)) = left.split_first_chunk::<4>() else {
            return if left.is_empty() { Ok(None) } else { Err(bad()) };
        };
        let (part, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(bad)?;
        left = after;
        Ok(Some(part.to_vec()))
    };
    let mut rows = vec![];
    while let Some(name) = part()? {
        rows.push((name, part()?.ok_or_else(bad)?));
    }
    Ok(rows)
}

fn checksum(name: &[u8], content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name).update(content);
    *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
}

fn sealed_bytes(name: &[u8], content: &[u8]) -> Vec<u8> {
    [&checksum(name, content)[..], content].concat()
}

fn sealed(name: &[u8], content: &impl Serialize) -> Vec<u8> {
    let mut bytes =
        postcard::to_extend(content, vec![0; CHECKSUM_BYTES]).expect("memory takes all that can be encoded");
    let (sum, content) = bytes.split_at_mut(CHECKSUM_BYTES);
    sum.copy_from_slice(&checksum(name, content));
    bytes
}

fn open_seal<'a>(name: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, content) = sealed.split_first_chunk()?;
    (checksum(name, content) == *sum).then_some(content)
}

/// Runs something of redb. A damaged file may make it panic rather than fail.
fn guarded<T>(file: &Path, act: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Failure> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)) {
        Ok(result) => result.map_err(|error| failure_of(file, error)),
        Err(panic) => {
            let what = panic.downcast_ref::<String>().cloned();
            let what = what.or_else(|| panic.downcast_ref::<&str>().map(|what| what.to_string()));
            let what = what.unwrap_or_else(|| "it cannot be read".into());
            Err(Failure::Damaged { what: format!("{}: {what}", file.display()) })
        }
    }
}

fn failure_of(file: &Path, error: redb::Error) -> Failure {
    let name = file.display();
    match error {
        redb::Error::DatabaseAlreadyOpen => {
            Failure::Refused { why: format!("{name} is used by another process: end that one first") }
        }
        redb::Error::Corrupted(what) => Failure::Damaged { what: format!("{name}: {what}") },
        redb::Error::UpgradeRequired(found) => {
            Failure::Damaged { what: format!("{name}: it has redb's format {found}") }
        }
        redb::Error::Io(error) => failure_of_io(file, &error),
        other => Failure::unavailable(format!("{name}: {other}")),
    }
}

fn failure_of_io(file: &Path, error: &std::io::Error) -> Failure {
    let name = file.display();
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => {
            Failure::Full { what: format!("the disk of {name}: free some space and start una again") }
        }
        None if matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) => {
            Failure::Damaged { what: format!("{name}: {error}") }
        }
        _ => Failure::unavailable(format!("{name}: {error}")),
    }
}

/// So that the types of openraft are said once.
const _: fn() = || {
    fn is_config<T: openraft::RaftTypeConfig<NodeId = u64>>() {}
    is_config::<Types>();
};
