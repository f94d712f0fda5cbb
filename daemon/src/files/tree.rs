//! The tree where it is decided: `services::files` says what it is, `drivers::facts` keeps its facts and [`Copies`] its content. Knows
//! no process, no program and no other holder; who uses it has a [`TreeFiles`], one view of the [`Tree`] that all share.
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

use super::complaints::Complaints;
use super::copies::{Copies, Pinned};
use super::kept::Kept;
use abi::encoding::{Malformed, Reader, Writer};
use abi::errno::Errno;
use abi::file::{Access, Durable, Entry, Existence, FileSystem, LastLink, Open, OpenId, Opened, Place, SetTimes, Stat};
use abi::wasi::{Advice, Filetype};
use drivers::chunks::{ChunkError, ChunkName, ChunkOptions, Chunks, Swept};
use drivers::clock::now_ns;
use drivers::facts::{Facts, FactsError, Shared as SharedSyncs, Write};
use services::files::{
    Answer, At, Capture, Captured, Change, ChunkHash, Files, Flush, INLINE_BYTES_MAX, Inode, Limits, OpenNumber, Piece,
    ROOT_OPEN, Sequence, Stretch, Supply, WriteError,
};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many callers may change something at once. Others wait.
const CALLERS_MAX: u32 = 1024;
/// What one session may have open. Then: [`Errno::MFile`].
const SESSION_OPEN_MAX: usize = 1 << 16;
/// Chunks that are written or removed at once, for one file.
const CHUNKS_AT_ONCE: usize = 256;
/// Content that nobody syncs is made durable after about so long.
const FLUSH_EVERY: Duration = Duration::from_secs(5);
/// A chunk can go while somebody is on the way to it, because the file was written anew; not often in a row.
const ATTEMPTS_MAX: usize = 64;
/// Stands for what was open and is gone.
const GONE: OpenNumber = OpenNumber(u64::MAX);
/// The first byte of the keys that this file adds to those of `services::files`: what a session was last answered.
const ANSWERED: u8 = 5;

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
    chunks: Copies,
    /// What else needs chunks.
    kept: Mutex<Kept>,
    callers: Mutex<u32>,
    caller_left: Condvar,
    /// What the flusher is to do before its time.
    errand: Mutex<Errand>,
    called: Condvar,
    /// One collects at a time, so that who has collected knows that nothing is left.
    collecting: Mutex<()>,
    dirty_bytes_max: u64,
    swept: Swept,
    complaints: Complaints,
    /// What sessions were last answered before this tree was opened, by those who have not come back yet.
    answered: Mutex<BTreeMap<SessionKey, Answered>>,
    /// Another node decides now.
    is_lost: AtomicBool,
}

/// Who asks: one view at one node, for as long as it lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SessionKey(pub [u8; 16]);

/// What follows after the name of one that lasts.
const LASTS: u8 = 1;
const INCARNATIONS: std::ops::Range<usize> = 12..15;

impl SessionKey {
    /// Of somebody who asks as long as he lives.
    pub fn of_one_life(random: [u8; 16]) -> SessionKey {
        let mut key = random;
        key[15] = 0;
        SessionKey(key)
    }

    /// Of a process that goes on elsewhere: what it was answered last is remembered for its next incarnation. `since`: the incarnation
    /// that began from the beginning.
    pub fn lasting(name: u64, since: u32, incarnation: u32) -> SessionKey {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&name.to_be_bytes());
        key[8..12].copy_from_slice(&since.to_be_bytes());
        key[INCARNATIONS].copy_from_slice(&incarnation.to_be_bytes()[1..]);
        key[15] = LASTS;
        SessionKey(key)
    }

    pub fn lasts(&self) -> bool {
        self.0[15] == LASTS
    }

    /// Under which it is kept what it was answered last.
    fn of_answers(mut self) -> SessionKey {
        if self.lasts() {
            self.0[INCARNATIONS].fill(0);
        }
        self
    }

    /// Is this an earlier incarnation of that one?
    pub fn comes_before(&self, other: &SessionKey) -> bool {
        self.lasts() && self.of_answers() == other.of_answers() && self.0[INCARNATIONS] < other.0[INCARNATIONS]
    }
}

/// The last act of a session that changed a name: durable together with what it changed, so that whoever asks again, elsewhere,
/// is answered as if he had been told the first time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answered {
    pub number: u64,
    /// What was opened, if it was opening.
    pub opened: Option<Inode>,
}

impl Answered {
    fn write(&self, session: SessionKey) -> Write {
        let mut to = Writer::default();
        to.u64(self.number).u64(self.opened.map_or(0, |inode| inode.0));
        Write { key: answered_key(session), value: Some(to.finish()) }
    }

    fn read(key: &[u8], value: &[u8]) -> Result<(SessionKey, Answered), Malformed> {
        let mut from = Reader::new(value);
        let (number, inode) = (from.u64()?, from.u64()?);
        let malformed = from.malformed();
        from.finish()?;
        let session = SessionKey(key[1..].try_into().map_err(|_| malformed)?);
        Ok((session, Answered { number, opened: (inode != 0).then_some(Inode(inode)) }))
    }
}

fn answered_key(session: SessionKey) -> Vec<u8> {
    [&[ANSWERED], &session.of_answers().0[..]].concat()
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

    /// On one disk alone.
    pub fn open_with(directory: &Path, options: TreeOptions) -> Result<Tree, TreeError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| TreeError::Directory { directory: directory.into(), error })?;
        let facts = Facts::open(&directory.join("facts.redb"))?;
        let chunks = Chunks::open(&directory.join("chunks"), options.chunks)?;
        Tree::begin(facts, directory, options, (Complaints::default(), Kept::nothing()), |files| {
            let swept = chunks.sweep(|name| files.needs(&ChunkHash(name.0)))?;
            Ok((Copies::alone(Arc::new(chunks)), swept))
        })
    }

    /// The tree that the facts say, or a new one if they say nothing. `content` is told what the tree needs.
    pub(super) fn begin(
        facts: Facts, directory: &Path, options: TreeOptions, (complaints, kept): (Complaints, Kept),
        content: impl FnOnce(&Files) -> Result<(Copies, Swept), ChunkError>,
    ) -> Result<Tree, TreeError> {
        let (mut records, mut answered) = read_records(&facts, directory)?;
        if records.is_empty() {
            let device =
                random_device().map_err(|error| TreeError::Directory { directory: directory.into(), error })?;
            let mut changes = vec![];
            Files::new(options.limits, device, now_ns(), &mut changes);
            let first = facts.durable() + 1;
            facts.submit(first, writes(&changes));
            facts.wait(first)?;
            (records, answered) = read_records(&facts, directory)?;
        }
        let files = Files::replay(options.limits, Sequence(facts.durable()), records)
            .map_err(|damage| TreeError::Damaged { directory: directory.into(), what: damage.0.into() })?;
        let (chunks, swept) = content(&files)?;
        let disk = Arc::new(Disk {
            files: Mutex::new(files),
            flushed: Condvar::new(),
            facts,
            chunks,
            kept: Mutex::new(kept),
            callers: Mutex::new(0),
            caller_left: Condvar::new(),
            errand: Mutex::new(Errand::None),
            called: Condvar::new(),
            collecting: Mutex::new(()),
            dirty_bytes_max: options.dirty_bytes_max,
            swept,
            complaints,
            answered: Mutex::new(answered),
            is_lost: AtomicBool::new(false),
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
        TreeFiles { tree: self.clone(), open: vec![Some(ROOT_OPEN)], asking: None, done: None }
    }

    /// The view of somebody who had these open before, and may ask again for what he was not answered.
    pub(super) fn claim(&self, session: SessionKey, held: &[(OpenId, Held)]) -> (TreeFiles, Vec<OpenId>) {
        let disk = &self.owner.disk;
        let mut claimed = self.session();
        let mut lost = vec![];
        {
            let mut files = disk.files();
            for (id, held) in held {
                let Ok(index) = usize::try_from(id.0) else { continue };
                if index == 0 || index >= SESSION_OPEN_MAX {
                    continue;
                }
                if claimed.open.len() <= index {
                    claimed.open.resize(index + 1, None);
                }
                match files.reopen(held.inode, held.access) {
                    Ok(open) => claimed.open[index] = Some(open),
                    Err(_) => {
                        // The number stays taken until it is closed.
                        claimed.open[index] = Some(GONE);
                        lost.push(*id);
                    }
                }
            }
        }
        claimed.done = disk.answered().get(&session.of_answers()).copied();
        (claimed, lost)
    }

    /// A session is over: nobody asks again.
    pub(super) fn forget(&self, session: SessionKey) {
        let disk = &self.owner.disk;
        disk.answered().remove(&session.of_answers());
        disk.facts.write_beside(vec![Write { key: answered_key(session), value: None }]);
    }

    /// Somebody is gone who may come back and ask again for what he was not answered.
    pub(super) fn remember(&self, session: SessionKey, done: Option<Answered>) {
        // What one that lasts was answered is remembered already.
        if let Some(done) = done.filter(|_| !session.lasts()) {
            self.owner.disk.answered().insert(session, done);
        }
    }

    /// Whoever had something open before this tree was opened and has not claimed it by now does not come back.
    pub(super) fn forget_absent(&self, is_there: impl Fn(&SessionKey) -> bool) {
        let disk = &self.owner.disk;
        let absent: Vec<SessionKey> =
            disk.answered().keys().filter(|key| !key.lasts() && !is_there(key)).copied().collect();
        let writes = absent.iter().map(|key| Write { key: answered_key(*key), value: None });
        disk.facts.write_beside(writes.collect());
        disk.answered().retain(|key, _| !absent.contains(key));
        let answer = disk.submit(|files, _, changes| files.forget_kept(changes));
        if disk.durable(answer.after).is_ok() {
            disk.collect_soon();
        }
    }

    /// Nothing more is decided here; everybody who waits is told that somebody else may decide now.
    pub(super) fn lose(&self, why: &str) {
        self.owner.disk.is_lost.store(true, Ordering::SeqCst);
        self.owner.disk.facts.stop(FactsError::Lost { why: why.into() });
    }

    pub(super) fn copies(&self) -> &Copies {
        &self.owner.disk.chunks
    }

    /// All chunks that are needed now.
    pub(super) fn needed(&self) -> Vec<ChunkName> {
        let disk = &self.owner.disk;
        let mut all: Vec<ChunkName> = disk.files().chunks_needed().map(|hash| ChunkName(hash.0)).collect();
        all.extend(disk.kept().needed());
        all
    }

    pub(super) fn needs(&self, name: &ChunkName) -> bool {
        self.owner.disk.needs(name)
    }

    /// What is kept beside the files.
    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.owner.disk.kept()
    }

    pub(super) fn collect_soon(&self) {
        self.owner.disk.collect_soon();
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
            complaints: disk.complaints.all(),
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
        if let Err(errno) = self.disk.flush_all()
            && errno != Errno::OwnerDead
        {
            self.disk.complaints.add(format!("not everything could be made durable at the end: {errno}"));
        }
    }
}

/// What the facts say of the tree, and of who was last answered what.
type Said = (Vec<Change>, BTreeMap<SessionKey, Answered>);

fn read_records(facts: &Facts, directory: &Path) -> Result<Said, TreeError> {
    let (mut records, mut answered) = (vec![], BTreeMap::new());
    let mut damage = None;
    facts.read(&mut |key, value| {
        let read = match key.first() {
            Some(&ANSWERED) => Answered::read(key, value).map(|(session, one)| {
                answered.insert(session, one);
            }),
            _ => Change::read(key, value).map(|record| records.push(record)),
        };
        if read.is_err() {
            damage = Some(format!("a record cannot be read: {key:02x?}"));
        }
    })?;
    match damage {
        Some(what) => Err(TreeError::Damaged { directory: directory.into(), what }),
        None => Ok((records, answered)),
    }
}

/// Tells this tree from every other one.
fn random_device() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
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

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nothing panics while it holds what is kept")
    }

    fn needs(&self, name: &ChunkName) -> bool {
        self.files().needs(&ChunkHash(name.0)) || self.kept().needs(name)
    }

    fn complain(&self, what: String) {
        self.complaints.add(what);
    }

    fn answered(&self) -> MutexGuard<'_, BTreeMap<SessionKey, Answered>> {
        self.answered.lock().expect("nothing panics while it holds what was answered")
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
        self.submit_with(act, |_, _| None)
    }

    /// `beside` is made durable together with the changes, if there are any.
    fn submit_with<T>(
        &self, act: impl FnOnce(&mut Files, u64, &mut Vec<Change>) -> Answer<T>,
        beside: impl FnOnce(&Files, &T) -> Option<Write>,
    ) -> Answer<T> {
        let mut changes = vec![];
        let mut files = self.files();
        files.safe(Sequence(self.facts.durable()));
        let answer = act(&mut files, now_ns(), &mut changes);
        if !changes.is_empty() {
            let mut writes = writes(&changes);
            writes.extend(answer.result.as_ref().ok().and_then(|result| beside(&files, result)));
            self.facts.submit(answer.after.0, writes);
        }
        answer
    }

    fn close(&self, open: OpenNumber) {
        // It is forgotten either way, and whoever closes waits for nothing.
        let _ = self.submit(|files, _, changes| files.close(open, changes));
    }

    /// Returns when everything up to there is on the disk, or says that it is not and has been taken back.
    fn durable(&self, after: Sequence) -> Result<(), Errno> {
        if after == Sequence(0) || self.facts.wait(after.0).is_ok() {
            return Ok(());
        }
        self.recover();
        self.facts.wait(after.0).map_err(|error| {
            if !matches!(error, FactsError::Lost { .. }) {
                self.complain(error.to_string());
            }
            error.errno()
        })
    }

    /// After a failed commit: lets the tree be what is on the disk.
    fn recover(&self) {
        let mut files = self.files();
        match self.facts.reopen() {
            Ok(last) => files.undo(Sequence(last)),
            // Who has taken over knows what became of it; here it does not matter any more.
            Err(FactsError::Lost { .. }) => {}
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
            let mut names: Vec<ChunkName> = unneeded.iter().map(|hash| ChunkName(hash.0)).collect();
            if names.is_empty() {
                names = self.kept().take_unneeded(CHUNKS_AT_ONCE);
            }
            if names.is_empty() {
                if let Err(error) = self.chunks.tidy() {
                    self.complain(error.to_string());
                }
                return;
            }
            if let Err(error) = self.chunks.remove(&names, |name| self.needs(name)) {
                self.complain(error.to_string());
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
        if self.is_lost.load(Ordering::SeqCst) {
            return Err(Errno::OwnerDead);
        }
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

    fn put(&self, capture: &Capture) -> Result<(BTreeMap<u64, Piece>, Vec<Pinned>), ChunkError> {
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
    /// Who asks, and the number of what he asks now, if that is to be found again by who takes over.
    asking: Option<(SessionKey, u64)>,
    /// What was asked for last before this view was claimed.
    done: Option<Answered>,
}

/// What somebody has open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    pub inode: Inode,
    pub access: Access,
}

impl TreeFiles {
    fn disk(&self) -> &Disk {
        &self.tree.owner.disk
    }

    /// Says who asks from now on.
    pub(super) fn asks(&mut self, asking: Option<(SessionKey, u64)>) {
        self.asking = asking;
    }

    pub(super) fn held(&self, id: OpenId) -> Result<Held, Errno> {
        let (inode, access) = self.disk().files().inode(self.number(id)?)?;
        Ok(Held { inode, access })
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The last act of this view that changed names.
    pub(super) fn done(&self) -> Option<Answered> {
        self.done
    }

    /// What this request was answered when it was asked before, elsewhere.
    fn done_before(&self) -> Option<Answered> {
        let (key, number) = self.asking?;
        let done = match key.lasts() {
            true => self.disk().answered().get(&key.of_answers()).copied(),
            false => self.done,
        };
        done.filter(|done| done.number == number)
    }

    /// Has a later incarnation of who asks gone on?
    fn is_late(&self) -> bool {
        let Some((key, number)) = self.asking.filter(|(key, _)| key.lasts()) else { return false };
        self.disk().answered().get(&key.of_answers()).is_some_and(|done| done.number > number)
    }

    fn note_done(&mut self, done: Answered) {
        self.done = Some(done);
        if let Some((key, _)) = self.asking.filter(|(key, _)| key.lasts()) {
            self.disk().answered().insert(key.of_answers(), done);
        }
    }

    /// Changes names, once.
    fn change(&mut self, act: impl FnOnce(&mut Files, u64, &mut Vec<Change>) -> Answer<()>) -> Result<(), Errno> {
        if self.done_before().is_some() {
            return Ok(());
        }
        if self.is_late() {
            return Err(Errno::Stale);
        }
        let answered = self.asking.map(|(key, number)| (key, Answered { number, opened: None }));
        let disk = self.disk();
        let caller = disk.enter();
        let answer = disk.submit_with(act, |_, ()| answered.map(|(key, answered)| answered.write(key)));
        disk.durable(answer.after)?;
        drop(caller);
        if let (Ok(()), Some((_, answered))) = (&answer.result, answered) {
            self.note_done(answered);
        }
        answer.result
    }

    /// What part of a file says. What is in chunks is named, if it is this much or more.
    pub(super) fn stretches(&mut self, file: OpenId, offset: u64, count: usize) -> Result<Vec<Stretch>, Errno> {
        let open = self.number(file)?;
        self.disk().files().read(open, offset, count)
    }

    pub(super) fn all_stretches(&mut self, file: OpenId, offset: u64, count: usize) -> Result<Vec<Stretch>, Errno> {
        let open = self.number(file)?;
        self.disk().files().read_any(open, offset, count)
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
        if let Some(Answered { opened: Some(inode), .. }) = self.done_before() {
            let mut files = disk.files();
            let open = files.reopen(inode, how.access)?;
            let kind = files.stat(open)?.kind;
            drop(files);
            let id = self.hold(Ok(open), free)?;
            return Ok(Opened { id, kind });
        }
        if how.existence != Existence::Required && self.is_late() {
            return Err(Errno::Stale);
        }
        let disk = self.disk();
        let answer = if how.existence == Existence::Required {
            let mut files = disk.files();
            files.open(now_ns(), from, path, how, &mut vec![])
        } else {
            let _caller = disk.enter();
            disk.submit_with(
                |files, now, changes| files.open(now, from, path, how, changes),
                |files, (open, _)| {
                    let (key, number) = self.asking?;
                    let opened = files.inode(*open).ok().map(|(inode, _)| inode);
                    Some(Answered { number, opened }.write(key))
                },
            )
        };
        let safe = disk.durable(answer.after);
        let (open, kind) = match (answer.result, safe) {
            (Ok(opened), Ok(())) => opened,
            (Ok((open, _)), Err(errno)) => {
                disk.close(open);
                return Err(errno);
            }
            (Err(errno), safe) => return safe.and(Err(errno)),
        };
        if let Some((_, number)) = self.asking
            && how.existence != Existence::Required
        {
            let opened = self.disk().files().inode(open)?.0;
            self.note_done(Answered { number, opened: Some(opened) });
        }
        let disk = self.disk();
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
        disk.close(open);
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

    fn append_at(&mut self, file: OpenId, bytes: &[u8], end: u64) -> Result<usize, Errno> {
        let open = self.number(file)?;
        self.disk().write(open, At::EndAt(end), bytes).map(|(count, _)| count)
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
        self.change(|files, now, changes| files.set_times(now, open, times, changes))
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
        self.change(|files, now, changes| files.set_times_at(now, from, path, last_link, times, changes))
    }

    fn create_directory(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        let from = self.directory(directory)?;
        self.change(|files, now, changes| files.create_directory(now, from, path, changes))
    }

    fn remove_directory(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        let from = self.directory(directory)?;
        self.change(|files, now, changes| files.remove_directory(now, from, path, changes))
    }

    fn unlink(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        let from = self.directory(directory)?;
        self.change(|files, now, changes| files.unlink(now, from, path, changes))?;
        self.disk().collect_soon();
        Ok(())
    }

    fn rename(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno> {
        let (from, to) = ((self.directory(from.0)?, from.1), (self.directory(to.0)?, to.1));
        self.change(|files, now, changes| files.rename(now, from, to, changes))?;
        self.disk().collect_soon();
        Ok(())
    }

    fn link(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno> {
        let (from, to) = ((self.directory(from.0)?, from.1), (self.directory(to.0)?, to.1));
        self.change(|files, now, changes| files.link(now, from, to, changes))
    }

    fn symlink(&mut self, content: &str, directory: OpenId, path: &str) -> Result<(), Errno> {
        let from = self.directory(directory)?;
        self.change(|files, now, changes| files.symlink(now, content, from, path, changes))
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
        let open = disk.change(|files, now, changes| files.orphan_file(now, changes))?;
        let mut rest = content;
        while !rest.is_empty() {
            match disk.write(open, At::End, rest) {
                Ok((count, _)) => rest = &rest[count..],
                Err(errno) => {
                    disk.close(open);
                    return Err(errno);
                }
            }
        }
        self.hold(Ok(open), free)
    }

    fn orphan_directory(&mut self) -> Result<OpenId, Errno> {
        let free = self.free()?;
        let open = self.disk().change(|files, now, changes| files.orphan_directory(now, changes));
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
