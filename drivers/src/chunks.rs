//! Chunks of content, each named by the BLAKE3 hash of what is in it: in files of their own, or many that were put together in one.
//! Knows no file of the tree and no page: who needs which chunk, others say.
//!
//! The one idea: a name says what must be in the file. So a chunk is written once and never changed, two writers of the same
//! bytes write one file, and whoever reads one looks whether it is still what its name says.
//!
//! ```text
//!   chunks/ab/cdef...     a chunk: 256 directories by the first byte of the hash
//!   chunks/packs/3        many that were put at once
//!   chunks/tmp/17         one that is being written: is synced, then gets its name; what is left of it is removed at the start
//! ```
//! [`Chunks::put`] returns when the bytes and the names are on the disk.

mod packs;

use crate::errno;
use abi::errno::Errno;
use packs::Packs;
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno as Raw;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// More bytes are no chunk.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Files that wait for the disk at once, for one caller.
const SYNCS_AT_ONCE: usize = 32;
/// So many chunks at once go into one file: two syncs for all of them.
const PACK_CHUNKS_MIN: usize = 8;

/// The hash of what is in a chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkName(pub [u8; 32]);

impl ChunkName {
    pub fn of(bytes: &[u8]) -> ChunkName {
        ChunkName(*blake3::hash(bytes).as_bytes())
    }

    fn directory(&self) -> usize {
        self.0[0] as usize
    }

    /// The name in its directory.
    fn file(&self) -> String {
        hex(&self.0[1..])
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why chunks could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    #[error("the disk of {directory} is full: free some space and try again")]
    DiskFull { directory: PathBuf },
    #[error("{file} may not be read or written: give it to the user that runs una")]
    Denied { file: PathBuf },
    /// It is not there, though something is made of it.
    #[error("{file} is missing, and with it a part of a file: restore it from a copy")]
    Missing { file: PathBuf },
    #[error("{file} is damaged: it does not hold what its name says; restore it from a copy")]
    Damaged { file: PathBuf },
    #[error("{file}: {error}")]
    Io { file: PathBuf, error: io::Error },
}

impl ChunkError {
    fn at(file: PathBuf, error: io::Error) -> ChunkError {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => ChunkError::DiskFull { directory: file },
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => ChunkError::Denied { file },
            Some(libc::ENOENT) => ChunkError::Missing { file },
            _ => ChunkError::Io { file, error },
        }
    }

    /// What a program is told.
    pub fn errno(&self) -> Errno {
        match self {
            ChunkError::DiskFull { .. } => Errno::NoSpc,
            ChunkError::Denied { .. } => Errno::Acces,
            ChunkError::Missing { .. } | ChunkError::Damaged { .. } => Errno::Io,
            ChunkError::Io { error, .. } => match error.raw_os_error() {
                Some(_) => errno::of(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))),
                None => Errno::Io,
            },
        }
    }
}

/// What a store may use.
#[derive(Clone, Copy, Debug)]
pub struct ChunkOptions {
    /// Content of chunks that is kept in memory.
    pub cache_bytes_max: usize,
    /// Space that is left on the disk for facts: so that, on a full one, files can still be removed.
    pub spare_bytes: u64,
}

impl ChunkOptions {
    pub const NORMAL: ChunkOptions = ChunkOptions { cache_bytes_max: 64 << 20, spare_bytes: 16 << 20 };
}

/// What was found at the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Swept {
    pub kept: u64,
    /// Chunks that nobody needs, and files that were never finished.
    pub removed: u64,
    pub removed_bytes: u64,
}

/// The chunks of one node.
pub struct Chunks {
    path: PathBuf,
    directories: Vec<OwnedFd>,
    packs: Packs,
    temporary: OwnedFd,
    next_temporary: AtomicU64,
    spare_bytes: u64,
    /// Chunks that somebody is writing, or has written and does not yet need visibly.
    pins: Mutex<HashMap<ChunkName, Pin>>,
    written: Condvar,
    cache: Mutex<Cache>,
    /// One tidies at a time.
    tidying: Mutex<()>,
}

/// Invariants: a chunk that is pinned is not removed; only one caller writes it.
struct Pin {
    holders: u32,
    state: Writing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// Somebody does.
    Now,
    /// It is on the disk, and so is its name.
    Done,
    Failed,
}

/// Keeps chunks that were put from being removed, until the caller has said elsewhere that they are needed.
#[must_use]
pub struct Pinned {
    chunks: Arc<Chunks>,
    names: Vec<ChunkName>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut pins = self.chunks.pins();
        for name in &self.names {
            let pin = pins.get_mut(name).expect("what is held is pinned");
            pin.holders -= 1;
            if pin.holders == 0 {
                pins.remove(name);
            }
        }
    }
}

/// Whether a chunk was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    Removed { bytes: u64 },
    Needed,
    NotThere,
}

impl Swept {
    fn count(&mut self, bytes: u64) {
        self.removed += 1;
        self.removed_bytes += bytes;
    }
}

impl Chunks {
    /// Opens the store in a directory, which is made if it is not there.
    pub fn open(path: &Path, options: ChunkOptions) -> Result<Chunks, ChunkError> {
        let at = |error: io::Error| ChunkError::at(path.to_path_buf(), error);
        std::fs::create_dir_all(path).map_err(at)?;
        let top = open_directory(rustix::fs::CWD, path).map_err(|error| at(error.into()))?;
        let mut directories = Vec::with_capacity(256);
        for byte in 0..=255u8 {
            directories.push(make_directory(&top, &hex(&[byte])).map_err(|error| at(error.into()))?);
        }
        let temporary = make_directory(&top, "tmp").map_err(|error| at(error.into()))?;
        let packs = make_directory(&top, "packs").map_err(|error| at(error.into()))?;
        let names = names_in(&packs).map_err(|error| at(error.into()))?;
        let packs = Packs::open(path.join("packs"), packs, names)?;
        rustix::fs::fsync(&top).map_err(|error| at(error.into()))?;
        if let Some(above) = path.parent()
            && let Ok(above) = open_directory(rustix::fs::CWD, above)
        {
            rustix::fs::fsync(above).map_err(|error| at(error.into()))?;
        }
        Ok(Chunks {
            path: path.to_path_buf(),
            directories,
            packs,
            temporary,
            next_temporary: AtomicU64::new(0),
            spare_bytes: options.spare_bytes,
            pins: Mutex::new(HashMap::new()),
            written: Condvar::new(),
            cache: Mutex::new(Cache::new(options.cache_bytes_max)),
            tidying: Mutex::new(()),
        })
    }

    /// Removes what nobody needs. Only before anything is put.
    pub fn sweep(&self, is_needed: impl Fn(&ChunkName) -> bool) -> Result<Swept, ChunkError> {
        let mut swept = Swept::default();
        let remove = |directory: &OwnedFd, name: &str| -> Result<u64, ChunkError> {
            let bytes = rustix::fs::statat(directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                .map_or(0, |stat| stat.st_size as u64);
            rustix::fs::unlinkat(directory, name, rustix::fs::AtFlags::empty())
                .map_err(|error| ChunkError::at(self.path.join(name), error.into()))?;
            Ok(bytes)
        };
        for name in self.names(&self.temporary)? {
            swept.count(remove(&self.temporary, &name)?);
        }
        for (first, directory) in self.directories.iter().enumerate() {
            for name in self.names(directory)? {
                match parse(first as u8, &name) {
                    Some(chunk) if is_needed(&chunk) => swept.kept += 1,
                    Some(_) => swept.count(remove(directory, &name)?),
                    // Not ours.
                    None => {}
                }
            }
        }
        for byte in 0..=u8::MAX {
            for name in self.packs.names(byte) {
                if is_needed(&name) {
                    swept.kept += 1;
                } else if let Some(removed) = self.packs.remove(&name) {
                    swept.count(removed?);
                }
            }
        }
        Ok(swept)
    }

    fn names(&self, directory: &OwnedFd) -> Result<Vec<String>, ChunkError> {
        names_in(directory).map_err(|error| ChunkError::at(self.path.clone(), error.into()))
    }

    fn path_of(&self, name: &ChunkName) -> PathBuf {
        if let Some(path) = self.packs.path_of(name) {
            return path;
        }
        self.path.join(hex(&name.0[..1])).join(name.file())
    }

    fn pins(&self) -> MutexGuard<'_, HashMap<ChunkName, Pin>> {
        self.pins.lock().expect("nothing panics while it holds the pins")
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().expect("nothing panics while it holds the cache")
    }

    /// Would so many more bytes leave enough for facts?
    pub fn has_room(&self, bytes: u64) -> Result<(), ChunkError> {
        let stat =
            rustix::fs::fstatvfs(&self.temporary).map_err(|error| ChunkError::at(self.path.clone(), error.into()))?;
        match stat.f_bavail.saturating_mul(stat.f_frsize) < bytes.saturating_add(self.spare_bytes) {
            true => Err(ChunkError::DiskFull { directory: self.path.clone() }),
            false => Ok(()),
        }
    }

    /// Makes chunks durable. While the result lives, none of them is removed.
    pub fn put(self: &Arc<Self>, all: &[(ChunkName, &[u8])]) -> Result<Pinned, ChunkError> {
        let mut pinned = Pinned { chunks: self.clone(), names: vec![] };
        let (mut mine, mut others) = (vec![], vec![]);
        {
            let mut pins = self.pins();
            for (name, bytes) in all {
                assert!(bytes.len() <= CHUNK_BYTES_MAX, "a chunk of {} bytes", bytes.len());
                let pin = pins.entry(*name).or_insert(Pin { holders: 0, state: Writing::Failed });
                pin.holders += 1;
                pinned.names.push(*name);
                match pin.state {
                    Writing::Done => {}
                    Writing::Now => others.push((*name, *bytes)),
                    Writing::Failed => {
                        pin.state = Writing::Now;
                        mine.push((*name, *bytes));
                    }
                }
            }
        }
        let result = self.write(&mine);
        {
            let mut pins = self.pins();
            let state = if result.is_ok() { Writing::Done } else { Writing::Failed };
            for (name, _) in &mine {
                pins.get_mut(name).expect("what is held is pinned").state = state;
            }
            self.written.notify_all();
        }
        result?;
        for (name, bytes) in others {
            let mut pins = self.pins();
            loop {
                let pin = pins.get_mut(&name).expect("what is held is pinned");
                match pin.state {
                    Writing::Done => break,
                    // Whoever writes it says so when he ends, whatever the end.
                    Writing::Now => pins = self.written.wait(pins).expect("nothing panics while it holds the pins"),
                    Writing::Failed => {
                        pin.state = Writing::Now;
                        drop(pins);
                        let result = self.write(&[(name, bytes)]);
                        pins = self.pins();
                        let pin = pins.get_mut(&name).expect("what is held is pinned");
                        pin.state = if result.is_ok() { Writing::Done } else { Writing::Failed };
                        self.written.notify_all();
                        result?;
                    }
                }
            }
        }
        Ok(pinned)
    }

    /// Writes chunks that nobody else is writing: all bytes, then all syncs, then all names, then the directories.
    fn write(&self, all: &[(ChunkName, &[u8])]) -> Result<(), ChunkError> {
        // What has its name already got it in an earlier put, which waited for it, or was needed at the start.
        let missing: Vec<&(ChunkName, &[u8])> = all.iter().filter(|(name, _)| !self.has(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.has_room(missing.iter().map(|(_, bytes)| bytes.len() as u64).sum())?;
        let mut temporary = Temporary { chunks: self, files: vec![] };
        if missing.len() >= PACK_CHUNKS_MIN {
            let missing: Vec<(ChunkName, &[u8])> = missing.into_iter().copied().collect();
            let (number, file) = temporary.make()?;
            return self.packs.put((&self.temporary, number, file), &missing);
        }
        for (_, bytes) in &missing {
            temporary.write(bytes)?;
        }
        let at = |error: Raw| ChunkError::at(self.path.clone(), error.into());
        in_parallel(&temporary.files, |(_, file)| rustix::fs::fdatasync(file).map_err(at))?;
        for ((name, _), (number, _)) in missing.iter().zip(&temporary.files) {
            let directory = &self.directories[name.directory()];
            rustix::fs::renameat(&self.temporary, number.as_str(), directory, name.file())
                .map_err(|error| ChunkError::at(self.path_of(name), error.into()))?;
        }
        let touched: HashSet<usize> = missing.iter().map(|(name, _)| name.directory()).collect();
        let touched: Vec<usize> = touched.into_iter().collect();
        in_parallel(&touched, |index| rustix::fs::fsync(&self.directories[*index]).map_err(at)).inspect_err(|_| {
            // A name that may not be on the disk must not be found by the next who puts this.
            for (name, _) in &missing {
                let directory = &self.directories[name.directory()];
                let _ = rustix::fs::unlinkat(directory, name.file(), rustix::fs::AtFlags::empty());
            }
        })
    }

    /// What is in a chunk, looked at anew if it comes from the disk.
    pub fn get(&self, name: &ChunkName) -> Result<Arc<[u8]>, ChunkError> {
        if let Some(bytes) = self.cache().get(name) {
            return Ok(bytes);
        }
        let bytes = match self.packs.read(name) {
            Some(read) => read?,
            None => self.read_alone(name)?,
        };
        if ChunkName::of(&bytes) != *name {
            return Err(ChunkError::Damaged { file: self.path_of(name) });
        }
        let bytes: Arc<[u8]> = bytes.into();
        self.cache().insert(*name, bytes.clone());
        Ok(bytes)
    }

    fn read_alone(&self, name: &ChunkName) -> Result<Vec<u8>, ChunkError> {
        let fail = |error: io::Error| ChunkError::at(self.path_of(name), error);
        let directory = &self.directories[name.directory()];
        let file = rustix::fs::openat(
            directory,
            name.file(),
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )
        .map_err(|error| fail(error.into()))?;
        let mut bytes = vec![];
        io::Read::read_to_end(&mut io::Read::take(File::from(file), CHUNK_BYTES_MAX as u64 + 1), &mut bytes)
            .map_err(fail)?;
        Ok(bytes)
    }

    /// Gives the disk back the room of chunks that were removed from packs. Waits for the disk.
    pub fn tidy(&self) -> Result<(), ChunkError> {
        let _one = self.tidying.lock().expect("nothing panics while it tidies");
        loop {
            let mut temporary = Temporary { chunks: self, files: vec![] };
            let (number, file) = temporary.make()?;
            if !self.packs.tidy_one((&self.temporary, number, file))? {
                return Ok(());
            }
        }
    }

    /// Is it on the disk, whole or not?
    pub fn has(&self, name: &ChunkName) -> bool {
        if self.packs.has(name) {
            return true;
        }
        let directory = &self.directories[name.directory()];
        let access =
            rustix::fs::accessat(directory, name.file(), rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty());
        access.is_ok()
    }

    /// The chunks that begin with this byte and with those behind it, until there are so many; and with which byte to go on.
    pub fn inventory(&self, first: u8, most: usize) -> Result<(Vec<ChunkName>, Option<u8>), ChunkError> {
        let mut all = vec![];
        for byte in first..=u8::MAX {
            // With a handle of its own: somebody else may be reading the same directory.
            let directory = open_directory(&self.directories[byte as usize], ".")
                .map_err(|error| ChunkError::at(self.path.clone(), error.into()))?;
            all.extend(self.names(&directory)?.iter().filter_map(|name| parse(byte, name)));
            all.extend(self.packs.names(byte));
            if all.len() >= most {
                return Ok((all, byte.checked_add(1)));
            }
        }
        Ok((all, None))
    }

    /// Puts a chunk in the place of its damaged file.
    pub fn replace(self: &Arc<Self>, name: &ChunkName, bytes: &[u8]) -> Result<(), ChunkError> {
        {
            let pins = self.pins();
            if pins.contains_key(name) {
                return Ok(());
            }
            // The worst that can happen is that damaged bytes stay where nobody reads them.
            drop(self.packs.remove(name));
            let _ =
                rustix::fs::unlinkat(&self.directories[name.directory()], name.file(), rustix::fs::AtFlags::empty());
        }
        self.put(&[(*name, bytes)]).map(drop)
    }

    /// The next who reads it has it from the disk.
    pub fn forget(&self, name: &ChunkName) {
        self.cache().remove(name);
    }

    /// Keeps the content of a chunk that was just put at hand.
    pub fn keep(&self, name: ChunkName, bytes: Arc<[u8]>) {
        self.cache().insert(name, bytes);
    }

    /// Removes a chunk, unless somebody is writing it or needs it after all.
    pub fn remove(&self, name: &ChunkName, is_needed: impl FnOnce() -> bool) -> Result<Removal, ChunkError> {
        let pins = self.pins();
        // In this order: whoever was writing it says that it is needed, and then lets go of it.
        if pins.contains_key(name) || is_needed() {
            return Ok(Removal::Needed);
        }
        if let Some(removed) = self.packs.remove(name) {
            drop(pins);
            self.cache().remove(name);
            return removed.map(|bytes| Removal::Removed { bytes });
        }
        // Under the lock: nobody may find it there and then miss it.
        let directory = &self.directories[name.directory()];
        let bytes = rustix::fs::statat(directory, name.file(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_or(0, |stat| stat.st_size as u64);
        let removed = rustix::fs::unlinkat(directory, name.file(), rustix::fs::AtFlags::empty());
        drop(pins);
        self.cache().remove(name);
        match removed {
            Ok(()) => Ok(Removal::Removed { bytes }),
            Err(Raw::NOENT) => Ok(Removal::NotThere),
            Err(error) => Err(ChunkError::at(self.path_of(name), error.into())),
        }
    }

    pub fn cached_bytes(&self) -> usize {
        self.cache().bytes
    }
}

/// Does work that waits for the disk in a few threads, which is quicker than one after the other.
fn in_parallel<T: Sync>(all: &[T], act: impl Fn(&T) -> Result<(), ChunkError> + Sync) -> Result<(), ChunkError> {
    if all.len() < 2 {
        return all.iter().try_for_each(act);
    }
    let part = all.len().div_ceil(SYNCS_AT_ONCE);
    std::thread::scope(|scope| {
        let act = &act;
        let workers: Vec<_> = all.chunks(part).map(|some| scope.spawn(move || some.iter().try_for_each(act))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("syncing does not panic"))
    })
}

fn parse(first: u8, name: &str) -> Option<ChunkName> {
    let mut hash = [first; 32];
    if name.len() != 62 || !name.is_ascii() {
        return None;
    }
    for (index, byte) in hash[1..].iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(ChunkName(hash))
}

/// What is in a directory.
fn names_in(directory: &OwnedFd) -> Result<Vec<String>, Raw> {
    rustix::fs::seek(directory, rustix::fs::SeekFrom::Start(0))?;
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut listing = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut names = vec![];
    while let Some(entry) = listing.next() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn open_directory(at: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Raw> {
    rustix::fs::openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn make_directory(at: &OwnedFd, name: &str) -> Result<OwnedFd, Raw> {
    match rustix::fs::mkdirat(at, name, Mode::RWXU) {
        Ok(()) | Err(Raw::EXIST) => open_directory(at, name),
        Err(error) => Err(error),
    }
}

/// Files that have no name of a chunk yet; what is left of them when something fails is removed.
struct Temporary<'a> {
    chunks: &'a Chunks,
    files: Vec<(String, File)>,
}

impl Temporary<'_> {
    /// A new file with nothing in it.
    fn make(&mut self) -> Result<(&str, &File), ChunkError> {
        self.write(&[])?;
        let (number, file) = self.files.last().expect("it was just put there");
        Ok((number, file))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ChunkError> {
        let number = self.chunks.next_temporary.fetch_add(1, Ordering::Relaxed).to_string();
        let fail = |error: io::Error| ChunkError::at(self.chunks.path.join("tmp"), error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.chunks.temporary, number.as_str(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| fail(error.into()))?;
        self.files.push((number, File::from(file)));
        let (_, file) = self.files.last_mut().expect("it was just put there");
        file.write_all(bytes).map_err(fail)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        for (number, _) in &self.files {
            // Those that got the name of a chunk are not there any more.
            let _ = rustix::fs::unlinkat(&self.chunks.temporary, number.as_str(), rustix::fs::AtFlags::empty());
        }
    }
}

/// The content that was used last.
///
/// Invariants: `bytes` is the sum of all content, and at most `bytes_max`; `order` and `content` have the same chunks.
struct Cache {
    content: HashMap<ChunkName, (Arc<[u8]>, u64)>,
    order: BTreeMap<u64, ChunkName>,
    next: u64,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    fn new(bytes_max: usize) -> Cache {
        Cache { content: HashMap::new(), order: BTreeMap::new(), next: 0, bytes: 0, bytes_max }
    }

    fn get(&mut self, name: &ChunkName) -> Option<Arc<[u8]>> {
        let (bytes, used) = self.content.get_mut(name)?;
        self.order.remove(used);
        *used = self.next;
        self.order.insert(self.next, *name);
        self.next += 1;
        Some(bytes.clone())
    }

    fn insert(&mut self, name: ChunkName, bytes: Arc<[u8]>) {
        self.remove(&name);
        if bytes.len() > self.bytes_max {
            return;
        }
        self.bytes += bytes.len();
        self.content.insert(name, (bytes, self.next));
        self.order.insert(self.next, name);
        self.next += 1;
        while self.bytes > self.bytes_max {
            let oldest = *self.order.first_key_value().expect("something takes up the bytes").1;
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, name: &ChunkName) {
        if let Some((bytes, used)) = self.content.remove(name) {
            self.bytes -= bytes.len();
            self.order.remove(&used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_what_was_used_last() {
        let mut cache = Cache::new(100);
        let name = |byte| ChunkName([byte; 32]);
        for byte in 0..4 {
            cache.insert(name(byte), vec![byte; 30].into());
            assert!(cache.get(&name(0)).is_some());
        }
        assert_eq!(cache.bytes, 90);
        let kept: Vec<bool> = (0..4).map(|byte| cache.get(&name(byte)).is_some()).collect();
        assert_eq!(kept, [true, false, true, true]);
        cache.insert(name(9), vec![9; 101].into());
        assert!(cache.get(&name(9)).is_none());
        cache.insert(name(0), vec![0; 100].into());
        assert_eq!((cache.bytes, cache.content.len(), cache.order.len()), (100, 1, 1));
    }

    #[test]
    fn names_of_files_are_names_of_chunks() {
        let name = ChunkName::of(b"content");
        assert_eq!(parse(name.0[0], &name.file()), Some(name));
        assert_eq!(parse(0, "x"), None);
        assert_eq!(parse(0, &"g".repeat(62)), None);
    }
}
