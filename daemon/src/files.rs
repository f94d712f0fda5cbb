//! The tree of a node on its disk: `services::files` says what the tree is, `drivers::facts` and `drivers::chunks` keep it. Knows
//! no process and no program; a process has a [`TreeFiles`], one view of the [`Tree`] that all share.
//!
//! The one idea: everything is decided in memory under one lock, and waited for without it. An act that changes names queues its
//! records under the lock, so that they are on the disk in the order in which they happened, lets go of it, and waits together
//! with everybody else for one sync.
//!
//! ```text
//!   create, remove, rename, link, times    on the disk when the call returns; so is what it rests on of others' acts
//!   write, set_size, truncate              seen by all when the call returns; on the disk after sync, close, or some seconds
//!   sync, close of a writer                the file as it is, all of it or nothing: a restart finds it as at one sync
//!   read                                   what the last write on this node left, whoever wrote
//! ```
//! The time of the last reading is not kept.

use abi::errno::Errno;
use abi::file::{Access, Durable, Entry, Existence, FileSystem, LastLink, Open, OpenId, Opened, Place, SetTimes, Stat};
use abi::wasi::{Advice, Filetype};
use drivers::chunks::{ChunkError, ChunkName, ChunkOptions, Chunks, Pinned, Swept};
use drivers::facts::{Facts, FactsError, Shared as SharedSyncs, Write};
use services::files::{
    Answer, At, Capture, Captured, Change, ChunkHash, Files, Flush, INLINE_BYTES_MAX, Inode, Limits, OpenNumber, Piece,
    ROOT_OPEN, Sequence, Stretch, Supply, WriteError,
};
use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// How many callers may change something at once. Others wait.
const CALLERS_MAX: u32 = 1024;
/// What one session may have open. Then: [`Errno::MFile`].
const SESSION_OPEN_MAX: usize = 1 << 16;
/// Chunks that are written at once, for one file.
const CHUNKS_AT_ONCE: usize = 64;
/// Content that nobody syncs is made durable after about so long.
const FLUSH_EVERY: Duration = Duration::from_secs(5);
/// A chunk can go while somebody is on the way to it, because the file was written anew; not often in a row.
const ATTEMPTS_MAX: usize = 64;
/// What went wrong where nobody could be told; the oldest is forgotten.
const COMPLAINTS_MAX: usize = 100;

/// Why a tree cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error(transparent)]
    Facts(#[from] FactsError),
    #[error(transparent)]
    Chunks(#[from] ChunkError),
    #[error("{directory} cannot be made: {error}")]
    Directory { directory: PathBuf, error: std::io::Error },
    #[error(
        "the records in {directory} do not make a tree ({what}): restore them from a copy, or move them away to begin anew"
    )]
    Damaged { directory: PathBuf, what: String },
}

/// What a tree may use.
#[derive(Clone, Copy, Debug)]
pub struct TreeOptions {
    pub limits: Limits,
    pub chunks: ChunkOptions,
    /// Content that is only in memory. Then whoever writes stores some first, or waits for others who do. What callers bring
    /// meanwhile, [`services::files::WRITE_BYTES_MAX`] each at most, comes on top.
    pub dirty_bytes_max: u64,
}

impl TreeOptions {
    pub const NORMAL: TreeOptions =
        TreeOptions { limits: Limits::NORMAL, chunks: ChunkOptions::NORMAL, dirty_bytes_max: 64 << 20 };
}

/// What there is, for people who look.
#[derive(Clone, Debug)]
pub struct TreeView {
    pub inodes: usize,
    pub content_bytes: u64,
    /// Not on the disk yet.
    pub dirty_bytes: u64,
    pub cached_bytes: usize,
    /// Commits of facts, and how many changes were in them.
    pub commits: u64,
    pub changes: u64,
    /// What was found when the tree was opened.
    pub swept: Swept,
    /// What went wrong where nobody could be told.
    pub complaints: Vec<String>,
}

/// The tree of a node. Clones are the same tree.
#[derive(Clone)]
pub struct Tree {
    owner: Arc<Owner>,
}

/// Ends the flushing when nobody has the tree any more.
struct Owner {
    disk: Arc<Disk>,
    flusher: Option<JoinHandle<()>>,
}

/// Invariants: changes are submitted in the order of their sequences, under the lock of `files`; nobody waits for the disk under it,
/// but for a failed commit to be looked after.
struct Disk {
    files: Mutex<Files>,
    /// A capture has ended.
    flushed: Condvar,
    facts: Facts,
    chunks: Chunks,
    callers: Mutex<u32>,
    caller_left: Condvar,
    /// What the flusher is to do before its time.
    errand: Mutex<Errand>,
    called: Condvar,
    /// One collects at a time, so that who has collected knows that nothing is left.
    collecting: Mutex<()>,
    dirty_bytes_max: u64,
    swept: Swept,
    complaints: Mutex<VecDeque<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Errand {
    None,
    /// There are chunks that nobody needs any more.
    Collect,
    End,
}

impl Tree {
    /// The tree in a directory of the host, which is made, for its owner alone, if it is not there.
    pub fn open(directory: &Path) -> Result<Tree, TreeError> {
        Tree::open_with(directory, TreeOptions::NORMAL)
    }

    pub fn open_with(directory: &Path, options: TreeOptions) -> Result<Tree, TreeError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| TreeError::Directory { directory: directory.into(), error })?;
        let facts = Facts::open(&directory.join("facts.redb"))?;
        let mut records = read_records(&facts, directory)?;
        if records.is_empty() {
            let device =
                random_device().map_err(|error| TreeError::Directory { directory: directory.into(), error })?;
            let mut changes = vec![];
            Files::new(options.limits, device, now_ns(), &mut changes);
            let first = facts.durable() + 1;
            facts.submit(first, writes(&changes));
            facts.wait(first)?;
            records = read_records(&facts, directory)?;
        }
        let files = Files::replay(options.limits, Sequence(facts.durable()), records)
            .map_err(|damage| TreeError::Damaged { directory: directory.into(), what: damage.0.into() })?;
        let chunks = Chunks::open(&directory.join("chunks"), options.chunks)?;
        let swept = chunks.sweep(|name| files.needs(&ChunkHash(name.0)))?;
        let disk = Arc::new(Disk {
            files: Mutex::new(files),
            flushed: Condvar::new(),
            facts,
            chunks,
            callers: Mutex::new(0),
            caller_left: Condvar::new(),
            errand: Mutex::new(Errand::None),
            called: Condvar::new(),
            collecting: Mutex::new(()),
            dirty_bytes_max: options.dirty_bytes_max,
            swept,
            complaints: Mutex::new(VecDeque::new()),
        });
        let flusher = std::thread::Builder::new().name("una-flush".into()).spawn({
            let disk = disk.clone();
            move || disk.flush_now_and_then()
        });
        let flusher = flusher.map_err(|error| TreeError::Directory { directory: directory.into(), error })?;
        Ok(Tree { owner: Arc::new(Owner { disk, flusher: Some(flusher) }) })
    }

    /// One view, with numbers of its own for what is open. What it has open when it is dropped is closed.
    pub fn session(&self) -> TreeFiles {
        TreeFiles { tree: self.clone(), open: vec![Some(ROOT_OPEN)] }
    }

    /// Makes everything durable, and removes the chunks that nobody needs any more.
    pub fn flush(&self) -> Result<(), Errno> {
        self.owner.disk.flush_all()?;
        self.owner.disk.collect();
        Ok(())
    }

    pub fn view(&self) -> TreeView {
        let disk = &self.owner.disk;
        let SharedSyncs { commits, changes } = disk.facts.shared();
        let files = disk.files();
        TreeView {
            inodes: files.inodes(),
            content_bytes: files.held_bytes(),
            dirty_bytes: files.dirty_bytes(),
            cached_bytes: disk.chunks.cached_bytes(),
            commits,
            changes,
            swept: disk.swept,
            complaints: disk.complaints().iter().cloned().collect(),
        }
    }

    /// Panics if an invariant of the tree does not hold.
    pub fn check(&self) {
        self.owner.disk.files().check();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        *self.disk.errand() = Errand::End;
        self.disk.called.notify_all();
        if let Some(flusher) = self.flusher.take() {
            // It ends by itself, and its panic would have been reported where it happened.
            let _ = flusher.join();
        }
        if let Err(errno) = self.disk.flush_all() {
            self.disk.complain(format!("not everything could be made durable at the end: {errno}"));
        }
    }
}

fn read_records(facts: &Facts, directory: &Path) -> Result<Vec<Change>, TreeError> {
    let mut records = vec![];
    let mut damage = None;
    facts.read(&mut |key, value| match Change::read(key, value) {
        Ok(record) => records.push(record),
        Err(_) => damage = Some(format!("a record cannot be read: {key:02x?}")),
    })?;
    match damage {
        Some(what) => Err(TreeError::Damaged { directory: directory.into(), what }),
        None => Ok(records),
    }
}

/// Tells this tree from every other one.
fn random_device() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn writes(changes: &[Change]) -> Vec<Write> {
    changes.iter().map(|change| Write { key: change.key(), value: change.value() }).collect()
}

/// A caller who may change something.
struct Caller<'a>(&'a Disk);

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        *self.0.callers.lock().expect("nothing panics while it counts") -= 1;
        self.0.caller_left.notify_one();
    }
}

impl Disk {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().expect("the tree stopped at a broken invariant")
    }

    fn complaints(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.complaints.lock().expect("nothing panics while it complains")
    }

    fn complain(&self, what: String) {
        let mut complaints = self.complaints();
        if complaints.len() >= COMPLAINTS_MAX {
            complaints.pop_front();
        }
        complaints.push_back(what);
    }

    /// Whoever got in gets out again when the disk has answered, so that this ends.
    fn enter(&self) -> Caller<'_> {
        let mut callers = self.callers.lock().expect("nothing panics while it counts");
        while *callers >= CALLERS_MAX {
            callers = self.caller_left.wait(callers).expect("nothing panics while it counts");
        }
        *callers += 1;
        Caller(self)
    }

    /// Does something that changes nothing durable.
    fn look<T>(&self, act: impl FnOnce(&mut Files) -> Answer<T>) -> Result<T, Errno> {
        let answer = act(&mut self.files());
        self.durable(answer.after)?;
        answer.result
    }

    /// Does something and waits until it is on the disk.
    fn change<T>(&self, act: impl FnOnce(&mut Files, u64, &mut Vec<Change>) -> Answer<T>) -> Result<T, Errno> {
        let _caller = self.enter();
        let answer = self.submit(act);
        self.durable(answer.after)?;
        answer.result
    }

    fn submit<T>(&self, act: impl FnOnce(&mut Files, u64, &mut Vec<Change>) -> Answer<T>) -> Answer<T> {
        let mut changes = vec![];
        let mut files = self.files();
        files.safe(Sequence(self.facts.durable()));
        let answer = act(&mut files, now_ns(), &mut changes);
        if !changes.is_empty() {
            self.facts.submit(answer.after.0, writes(&changes));
        }
        answer
    }

    /// Returns when everything up to there is on the disk, or says that it is not and has been taken back.
    fn durable(&self, after: Sequence) -> Result<(), Errno> {
        if after == Sequence(0) || self.facts.wait(after.0).is_ok() {
            return Ok(());
        }
        self.recover();
        self.facts.wait(after.0).map_err(|error| {
            self.complain(error.to_string());
            error.errno()
        })
    }

    /// After a failed commit: lets the tree be what is on the disk.
    fn recover(&self) {
        let mut files = self.files();
        match self.facts.reopen() {
            Ok(last) => files.undo(Sequence(last)),
            Err(error) => self.complain(error.to_string()),
        }
    }

    fn errand(&self) -> MutexGuard<'_, Errand> {
        self.errand.lock().expect("nothing panics while it holds the errand")
    }

    /// Has chunks that nobody needs any more removed, by somebody whom nobody waits for.
    fn collect_soon(&self) {
        let mut errand = self.errand();
        if *errand == Errand::None {
            *errand = Errand::Collect;
            self.called.notify_all();
        }
    }

    fn collect(&self) {
        let _one = self.collecting.lock().expect("nothing panics while it collects");
        loop {
            let unneeded = {
                let mut files = self.files();
                files.safe(Sequence(self.facts.durable()));
                files.take_unneeded(CHUNKS_AT_ONCE)
            };
            if unneeded.is_empty() {
                return;
            }
            for hash in unneeded {
                if let Err(error) = self.chunks.remove(&ChunkName(hash.0), || self.files().needs(&hash)) {
                    self.complain(error.to_string());
                }
            }
        }
    }
}

/// Content.
impl Disk {
    fn chunk(&self, hash: &ChunkHash) -> Result<Arc<[u8]>, ChunkError> {
        self.chunks.get(&ChunkName(hash.0))
    }

    fn failed(&self, error: ChunkError) -> Errno {
        self.complain(error.to_string());
        error.errno()
    }

    /// Reads what stretches say. They are asked for again if a chunk went meanwhile.
    fn gather(
        &self, buffer: &mut [u8], stretches: impl Fn(&Files) -> Result<Vec<Stretch>, Errno>,
    ) -> Result<usize, Errno> {
        let mut attempts = 0;
        'again: loop {
            let stretches = stretches(&self.files())?;
            let mut at = 0;
            for stretch in &stretches {
                let put = |buffer: &mut [u8], bytes: &[u8]| {
                    buffer[at..at + bytes.len()].copy_from_slice(bytes);
                    bytes.len()
                };
                at += match stretch {
                    Stretch::Zeros { bytes } => {
                        buffer[at..at + bytes].fill(0);
                        *bytes
                    }
                    Stretch::Bytes { bytes, from, to } => put(buffer, &bytes[*from..*to]),
                    Stretch::Inline { bytes, from, to } => put(buffer, &bytes[*from..*to]),
                    Stretch::Chunk { hash, from, to } => match self.chunk(hash) {
                        Ok(bytes) if bytes.len() >= *to => put(buffer, &bytes[*from..*to]),
                        Ok(_) => return Err(Errno::Io),
                        Err(ChunkError::Missing { .. }) if attempts < ATTEMPTS_MAX => {
                            attempts += 1;
                            continue 'again;
                        }
                        Err(error) => return Err(self.failed(error)),
                    },
                };
            }
            return Ok(at);
        }
    }

    fn write(&self, open: OpenNumber, at: At, bytes: &[u8]) -> Result<(usize, u64), Errno> {
        let inode = self.files().inode(open)?.0;
        let dirty_bytes = self.store_some(inode)?;
        // Said now, since nobody could be told when the file is closed.
        self.chunks.has_room(dirty_bytes.saturating_add(bytes.len() as u64)).map_err(|error| self.failed(error))?;
        let mut supply = Supply::new();
        let mut attempts = 0;
        loop {
            let written = self.files().write(now_ns(), open, at, bytes, &supply);
            match written {
                Ok(written) => return Ok(written),
                Err(WriteError::Failed(errno)) => return Err(errno),
                Err(WriteError::Wants(wants)) => {
                    for hash in wants {
                        match self.chunk(&hash) {
                            Ok(bytes) => drop(supply.insert(hash, bytes)),
                            Err(ChunkError::Missing { .. }) if attempts < ATTEMPTS_MAX => attempts += 1,
                            Err(error) => return Err(self.failed(error)),
                        }
                    }
                }
            }
        }
    }

    /// Gets pages out of memory while there are too many: those of the file itself, or of any other. Gives what is left.
    fn store_some(&self, first: Inode) -> Result<u64, Errno> {
        let mut files = self.files();
        loop {
            let dirty_bytes = files.dirty_bytes();
            if dirty_bytes < self.dirty_bytes_max {
                return Ok(dirty_bytes);
            }
            let all: Vec<Inode> = std::iter::once(first).chain(files.changed()).collect();
            let mut is_busy = false;
            let capture = all.into_iter().find_map(|inode| match files.capture_dirty(inode) {
                Flush::Captured(capture) => Some(capture),
                Flush::Busy => {
                    is_busy = true;
                    None
                }
                Flush::Nothing(_) => None,
            });
            match capture {
                Some(capture) => {
                    drop(files);
                    match self.store(capture) {
                        Ok(_) | Err(Errno::Again) => {}
                        Err(errno) => return Err(errno),
                    }
                    files = self.files();
                }
                // Whoever has a capture ends it when the disk has answered.
                None if is_busy => files = self.flushed.wait(files).expect("the tree stopped at a broken invariant"),
                None => return Ok(dirty_bytes),
            }
        }
    }

    /// Makes one file durable.
    fn flush(&self, inode: Inode) -> Result<(), Errno> {
        let _caller = self.enter();
        loop {
            let mut files = self.files();
            let capture = loop {
                match files.capture(inode) {
                    Flush::Nothing(after) => {
                        drop(files);
                        return self.durable(after);
                    }
                    // Whoever has the capture ends it when the disk has answered.
                    Flush::Busy => files = self.flushed.wait(files).expect("the tree stopped at a broken invariant"),
                    Flush::Captured(capture) => break capture,
                }
            };
            drop(files);
            match self.store(capture) {
                // A commit failed meanwhile; each failure can be the reason only once.
                Err(Errno::Again) => {}
                Err(errno) => return Err(errno),
                Ok(after) => {
                    self.durable(after)?;
                    self.collect_soon();
                    return Ok(());
                }
            }
        }
    }

    /// Stores what was captured, and records it if it is to be.
    fn store(&self, capture: Capture) -> Result<Sequence, Errno> {
        let stored = self.put(&capture);
        let result = match stored {
            Ok((pieces, pinned)) => {
                let answer = self.submit(|files, _, changes| files.flushed(capture, &pieces, changes));
                drop(pinned);
                answer.result.map(|()| answer.after)
            }
            Err(error) => {
                self.files().flush_failed(capture);
                Err(self.failed(error))
            }
        };
        self.flushed.notify_all();
        result
    }

    fn put(&self, capture: &Capture) -> Result<(BTreeMap<u64, Piece>, Vec<Pinned<'_>>), ChunkError> {
        let mut pieces = BTreeMap::new();
        let mut chunks = vec![];
        for (index, captured) in &capture.pages {
            let Captured::Bytes { bytes, .. } = captured else { continue };
            let piece = if bytes.len() <= INLINE_BYTES_MAX {
                Piece::Inline(bytes.as_slice().into())
            } else {
                let name = ChunkName::of(bytes);
                chunks.push((name, bytes.as_slice()));
                Piece::Chunk { hash: ChunkHash(name.0), used_bytes: bytes.len() as u32 }
            };
            pieces.insert(*index, piece);
        }
        let mut pinned = vec![];
        for some in chunks.chunks(CHUNKS_AT_ONCE) {
            pinned.push(self.chunks.put(some)?);
        }
        for (name, bytes) in chunks {
            self.chunks.keep(name, bytes.into());
        }
        Ok((pieces, pinned))
    }

    fn flush_all(&self) -> Result<(), Errno> {
        let all: Vec<Inode> = self.files().changed().collect();
        let mut result = Ok(());
        for inode in all {
            result = result.and(self.flush(inode));
        }
        let after = {
            let mut files = self.files();
            files.safe(Sequence(self.facts.durable()));
            files.unsafe_until()
        };
        result.and(after.map_or(Ok(()), |after| self.durable(after)))
    }

    fn flush_now_and_then(&self) {
        let mut flush_at = Instant::now() + FLUSH_EVERY;
        loop {
            let errand = {
                let mut errand = self.errand();
                while *errand == Errand::None && Instant::now() < flush_at {
                    let rest = flush_at.saturating_duration_since(Instant::now());
                    errand =
                        self.called.wait_timeout(errand, rest).expect("nothing panics while it holds the errand").0;
                }
                if *errand == Errand::End { Errand::End } else { std::mem::replace(&mut *errand, Errand::None) }
            };
            match errand {
                Errand::End => return,
                Errand::Collect => {}
                Errand::None => {
                    // What fails stays to be done, and is complained about.
                    let _ = self.flush_all();
                    flush_at = Instant::now() + FLUSH_EVERY;
                }
            }
            self.collect();
        }
    }
}

/// One view of a tree.
///
/// Invariants: number 0 is the root and stays open.
pub struct TreeFiles {
    tree: Tree,
    open: Vec<Option<OpenNumber>>,
}

impl TreeFiles {
    fn disk(&self) -> &Disk {
        &self.tree.owner.disk
    }

    fn number(&self, id: OpenId) -> Result<OpenNumber, Errno> {
        usize::try_from(id.0).ok().and_then(|index| *self.open.get(index)?).ok_or(Errno::BadF)
    }

    fn directory(&self, id: OpenId) -> Result<OpenNumber, Errno> {
        self.number(id)
    }

    /// Room for one more number.
    fn free(&mut self) -> Result<usize, Errno> {
        let free = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        if free >= SESSION_OPEN_MAX {
            return Err(Errno::MFile);
        }
        if free == self.open.len() {
            self.open.push(None);
        }
        Ok(free)
    }

    fn hold(&mut self, open: Result<OpenNumber, Errno>, free: usize) -> Result<OpenId, Errno> {
        self.open[free] = Some(open?);
        Ok(OpenId(free as u64))
    }
}

impl Drop for TreeFiles {
    fn drop(&mut self) {
        for index in 1..self.open.len() {
            self.close(OpenId(index as u64));
        }
    }
}

impl FileSystem for TreeFiles {
    fn root(&self) -> OpenId {
        OpenId(0)
    }

    fn open(&mut self, directory: OpenId, path: &str, how: &Open) -> Result<Opened, Errno> {
        let free = self.free()?;
        let from = self.directory(directory)?;
        let disk = self.disk();
        let answer = if how.existence == Existence::Required {
            let mut files = disk.files();
            files.open(now_ns(), from, path, how, &mut vec![])
        } else {
            let _caller = disk.enter();
            disk.submit(|files, now, changes| files.open(now, from, path, how, changes))
        };
        let safe = disk.durable(answer.after);
        let (open, kind) = match (answer.result, safe) {
            (Ok(opened), Ok(())) => opened,
            (Ok((open, _)), Err(errno)) => {
                disk.files().close(open);
                return Err(errno);
            }
            (Err(errno), safe) => return safe.and(Err(errno)),
        };
        if how.truncate && how.access == Access::Read {
            // Who closes it is no writer.
            let inode = disk.files().inode(open)?.0;
            disk.flush(inode)?;
        }
        let id = self.hold(Ok(open), free)?;
        Ok(Opened { id, kind })
    }

    fn duplicate(&mut self, id: OpenId) -> Result<OpenId, Errno> {
        let free = self.free()?;
        let open = self.number(id)?;
        let open = self.disk().files().duplicate(open);
        self.hold(open, free)
    }

    fn close(&mut self, id: OpenId) {
        if id == self.root() {
            return;
        }
        let Ok(open) = self.number(id) else { return };
        let disk = self.disk();
        let found = disk.files().inode(open);
        if let Ok((inode, access)) = found
            && access != Access::Read
        {
            // Whoever closes cannot be told. What failed stays in memory, is tried again, and is in the complaints.
            let _ = disk.flush(inode);
        }
        disk.files().close(open);
        self.open[id.0 as usize] = None;
    }

    fn read_at(&mut self, file: OpenId, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let (open, count) = (self.number(file)?, buffer.len());
        self.disk().gather(buffer, |files| files.read(open, offset, count))
    }

    fn write_at(&mut self, file: OpenId, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
        let open = self.number(file)?;
        self.disk().write(open, At::Offset(offset), bytes).map(|(count, _)| count)
    }

    fn append(&mut self, file: OpenId, bytes: &[u8]) -> Result<(usize, u64), Errno> {
        let open = self.number(file)?;
        self.disk().write(open, At::End, bytes)
    }

    fn stat(&mut self, id: OpenId) -> Result<Stat, Errno> {
        let open = self.number(id)?;
        self.disk().files().stat(open)
    }

    fn set_size(&mut self, file: OpenId, size_bytes: u64) -> Result<(), Errno> {
        let open = self.number(file)?;
        self.disk().files().set_size(now_ns(), open, size_bytes)
    }

    fn set_times(&mut self, id: OpenId, times: SetTimes) -> Result<(), Errno> {
        let open = self.number(id)?;
        self.disk().change(|files, now, changes| files.set_times(now, open, times, changes))
    }

    fn allocate(&mut self, file: OpenId, offset: u64, length: u64) -> Result<(), Errno> {
        let open = self.number(file)?;
        let disk = self.disk();
        // What is too large anyway is not for want of space.
        if offset.checked_add(length).is_some_and(|end| end <= disk.files().limits().file_bytes_max) {
            disk.chunks.has_room(length).map_err(|error| disk.failed(error))?;
        }
        disk.files().allocate(now_ns(), open, offset, length)
    }

    fn advise(&mut self, file: OpenId, _: u64, _: u64, _: Advice) -> Result<(), Errno> {
        // Nothing is read in advance yet; what can be wrong about the call is still said.
        let open = self.number(file)?;
        match self.disk().files().stat(open)?.kind {
            Filetype::Directory => Err(Errno::IsDir),
            _ => Ok(()),
        }
    }

    fn sync(&mut self, id: OpenId, _: Durable) -> Result<(), Errno> {
        let open = self.number(id)?;
        let inode = self.disk().files().inode(open)?.0;
        self.disk().flush(inode)
    }

    fn list(&mut self, directory: OpenId) -> Result<Vec<Entry>, Errno> {
        let open = self.directory(directory)?;
        self.disk().look(|files| files.list(open))
    }

    fn stat_at(&mut self, directory: OpenId, path: &str, last_link: LastLink) -> Result<Stat, Errno> {
        let from = self.directory(directory)?;
        self.disk().look(|files| files.stat_at(from, path, last_link))
    }

    fn set_times_at(
        &mut self, directory: OpenId, path: &str, last_link: LastLink, times: SetTimes,
    ) -> Result<(), Errno> {
        let from = self.directory(directory)?;
        self.disk().change(|files, now, changes| files.set_times_at(now, from, path, last_link, times, changes))
    }

    fn create_directory(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        let from = self.directory(directory)?;
        self.disk().change(|files, now, changes| files.create_directory(now, from, path, changes))
    }

    fn remove_directory(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        let from = self.directory(directory)?;
        self.disk().change(|files, now, changes| files.remove_directory(now, from, path, changes))
    }

    fn unlink(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        let from = self.directory(directory)?;
        let disk = self.disk();
        disk.change(|files, now, changes| files.unlink(now, from, path, changes))?;
        disk.collect_soon();
        Ok(())
    }

    fn rename(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno> {
        let (from, to) = ((self.directory(from.0)?, from.1), (self.directory(to.0)?, to.1));
        let disk = self.disk();
        disk.change(|files, now, changes| files.rename(now, from, to, changes))?;
        disk.collect_soon();
        Ok(())
    }

    fn link(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno> {
        let (from, to) = ((self.directory(from.0)?, from.1), (self.directory(to.0)?, to.1));
        self.disk().change(|files, now, changes| files.link(now, from, to, changes))
    }

    fn symlink(&mut self, content: &str, directory: OpenId, path: &str) -> Result<(), Errno> {
        let from = self.directory(directory)?;
        self.disk().change(|files, now, changes| files.symlink(now, content, from, path, changes))
    }

    fn read_link(&mut self, directory: OpenId, path: &str) -> Result<String, Errno> {
        let from = self.directory(directory)?;
        self.disk().look(|files| files.read_link(from, path))
    }

    fn locate(&mut self, id: OpenId) -> Result<Place, Errno> {
        let open = self.number(id)?;
        self.disk().files().locate(open)
    }

    fn content(&mut self, file: OpenId, bytes_max: u64) -> Result<Vec<u8>, Errno> {
        let open = self.number(file)?;
        let size_bytes = self.disk().files().stat(open)?.size_bytes.min(bytes_max);
        let mut content = vec![0; usize::try_from(size_bytes).map_err(|_| Errno::FBig)?];
        // It may have grown meanwhile; then what is asked for is still at most that.
        let read = self
            .disk()
            .gather(&mut content, |files| files.read_all(open, bytes_max).map(|all| cut(all, size_bytes)))?;
        content.truncate(read);
        Ok(content)
    }

    fn orphan_file(&mut self, content: &[u8]) -> Result<OpenId, Errno> {
        let free = self.free()?;
        let disk = self.disk();
        let open = disk.files().orphan_file(now_ns())?;
        let mut rest = content;
        while !rest.is_empty() {
            match disk.write(open, At::End, rest) {
                Ok((count, _)) => rest = &rest[count..],
                Err(errno) => {
                    disk.files().close(open);
                    return Err(errno);
                }
            }
        }
        self.hold(Ok(open), free)
    }

    fn orphan_directory(&mut self) -> Result<OpenId, Errno> {
        let free = self.free()?;
        let open = self.disk().files().orphan_directory(now_ns());
        self.hold(open, free)
    }
}

/// The first bytes of what stretches say.
fn cut(stretches: Vec<Stretch>, bytes_max: u64) -> Vec<Stretch> {
    let mut room = bytes_max as usize;
    let mut kept = vec![];
    for mut stretch in stretches {
        let length = match &mut stretch {
            Stretch::Zeros { bytes } => {
                *bytes = room.min(*bytes);
                *bytes
            }
            Stretch::Bytes { from, to, .. } | Stretch::Inline { from, to, .. } | Stretch::Chunk { from, to, .. } => {
                *to = (*to).min(*from + room);
                *to - *from
            }
        };
        room -= length;
        kept.push(stretch);
    }
    kept
}
