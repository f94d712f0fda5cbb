//! What is kept beside the files of the tree: checkpoints, whose chunks lie among those of the files. Knows that a checkpoint is a tree
//! of names and a record at the coordinator that names its root; not what it is a checkpoint of.
//!
//! The one idea: content is kept by the rules for files (`copies`): only the holder says what is put and what is removed. So whoever makes
//! a checkpoint brings its chunks to the holder, which keeps them as a *draft*, and then asks for the record. The holder writes it only if
//! every chunk that the root leads to is kept by another checkpoint or is in the draft; until then nothing has happened.
//!
//! ```text
//!   maker ── Put chunks ──► holder: on two disks, pinned by the draft
//!         ── Put ... ─────►
//!         ── Commit ──────► are all of them here? ──► k/c/KEY at the coordinator, if this is the holder still ──► Done
//! ```
//! A holder that has just begun reads all records and what their roots lead to, in its own time. Until it knows all, it removes nothing.

use super::copies::{Copies, Pinned};
use super::ledger::{EPOCH, number};
use super::locate::locate;
use super::outside::{BODY_BYTES_MAX, Service, Unanswered};
use super::planted::{Bug, planted};
use super::shared::Inner;
use super::tree::Tree;
use abi::encoding::{Malformed, Reader, Writer};
use abi::ids::NodeId;
use drivers::chunks::{CHUNK_BYTES_MAX, ChunkError, ChunkName};
use drivers::coordinator::{Action, Compare, Failure, KeyRange, Range, Record, Revision, Transaction};
use services::checkpoints::{List, Root, list_units};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Where the records of checkpoints are.
pub const RECORDS: &[u8] = b"k/c/";
/// Bytes of chunks in one request.
pub const PUT_BYTES_MAX: usize = 4 << 20;
/// Checkpoints that are being made at once. Then: refused.
const DRAFTS_MAX: usize = 256;
/// A draft of which nothing was heard for so long is given up.
const DRAFT_IDLE: Duration = Duration::from_secs(120);
/// One attempt at the coordinator.
const ATTEMPT: Duration = Duration::from_secs(2);
/// One question on its way to the holder.
const ASK_PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(20);
/// Records that one commit removes.
const REMOVED_MAX: usize = 64;

/// What is asked of the holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeepAsk {
    Put {
        draft: u64,
        chunks: Vec<(ChunkName, Vec<u8>)>,
    },
    /// The draft is whole.
    Commit {
        draft: u64,
        /// Behind [`RECORDS`].
        key: Vec<u8>,
        /// The name of the root comes first in it.
        value: Vec<u8>,
        /// Keys of the coordinator that must not have changed since these revisions.
        unchanged: Vec<(Vec<u8>, Revision)>,
        /// What goes at the same moment.
        remove: Vec<Vec<u8>>,
    },
    Remove {
        keys: Vec<Vec<u8>>,
    },
    /// Where the chunks of a checkpoint are.
    Look {
        root: ChunkName,
        /// Read each of them.
        verify: bool,
    },
    /// Where the content of these files is. Paths begin at the root, without a `/`.
    Locate {
        paths: Vec<String>,
    },
}

/// What the holder answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeepTold {
    Done,
    /// This node does not hold the tree, or does not know yet what is kept.
    NotNow,
    /// The draft is not known: its holder has changed, or it was silent for too long.
    NoDraft,
    /// So many chunks are missing that the root leads to.
    Incomplete(u64),
    /// The record is there already, or a key has changed.
    Changed,
    Failed(String),
    Looked(Whereabouts),
    /// So much there is, and so much of it on the disk of each node.
    Located {
        bytes: u64,
        at: Vec<(NodeId, u64)>,
    },
}

/// Where the chunks of a checkpoint are.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Whereabouts {
    pub chunks: u64,
    /// How many of them each node has.
    pub at: Vec<(NodeId, u64)>,
    /// Of which there is no whole copy.
    pub missing: u64,
}

impl KeepAsk {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            KeepAsk::Put { draft, chunks } => {
                to.u8(0).u64(*draft).u32(chunks.len() as u32);
                for (name, bytes) in chunks {
                    to.raw(&name.0).bytes(bytes);
                }
            }
            KeepAsk::Commit { draft, key, value, unchanged, remove } => {
                to.u8(1).u64(*draft).bytes(key).bytes(value).u32(unchanged.len() as u32);
                for (key, revision) in unchanged {
                    to.bytes(key).u64(revision.0);
                }
                write_keys(remove, &mut to);
            }
            KeepAsk::Remove { keys } => {
                to.u8(2);
                write_keys(keys, &mut to);
            }
            KeepAsk::Look { root, verify } => {
                to.u8(3).raw(&root.0).u8(u8::from(*verify));
            }
            KeepAsk::Locate { paths } => {
                to.u8(4).u32(paths.len() as u32);
                paths.iter().for_each(|path| {
                    to.bytes(path.as_bytes());
                });
            }
        }
        to.finish()
    }

    pub(super) fn read(body: &[u8]) -> Result<KeepAsk, Malformed> {
        let mut from = Reader::new(body);
        let ask = match from.u8()? {
            0 => {
                let (draft, count) = (from.u64()?, from.u32()?);
                let mut chunks = vec![];
                for _ in 0..count {
                    chunks.push((name(&mut from)?, from.bytes()?.to_vec()));
                }
                KeepAsk::Put { draft, chunks }
            }
            1 => {
                let (draft, key, value) = (from.u64()?, from.bytes()?.to_vec(), from.bytes()?.to_vec());
                let mut unchanged = vec![];
                for _ in 0..from.u32()? {
                    unchanged.push((from.bytes()?.to_vec(), Revision(from.u64()?)));
                }
                KeepAsk::Commit { draft, key, value, unchanged, remove: read_keys(&mut from)? }
            }
            2 => KeepAsk::Remove { keys: read_keys(&mut from)? },
            3 => KeepAsk::Look { root: name(&mut from)?, verify: from.u8()? != 0 },
            4 => {
                let mut paths = vec![];
                for _ in 0..from.u32()? {
                    paths.push(from.string()?);
                }
                KeepAsk::Locate { paths }
            }
            _ => return Err(from.malformed()),
        };
        from.finish()?;
        Ok(ask)
    }
}

impl KeepTold {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            KeepTold::Done => to.u8(0),
            KeepTold::NotNow => to.u8(1),
            KeepTold::NoDraft => to.u8(2),
            KeepTold::Incomplete(chunks) => to.u8(3).u64(*chunks),
            KeepTold::Changed => to.u8(4),
            KeepTold::Failed(why) => to.u8(5).bytes(why.as_bytes()),
            KeepTold::Looked(Whereabouts { chunks, at, missing }) => {
                write_places(at, to.u8(6).u64(*chunks).u64(*missing))
            }
            KeepTold::Located { bytes, at } => write_places(at, to.u8(7).u64(*bytes)),
        };
        to.finish()
    }

    pub(super) fn read(answer: &[u8]) -> Result<KeepTold, Malformed> {
        let mut from = Reader::new(answer);
        let told = match from.u8()? {
            0 => KeepTold::Done,
            1 => KeepTold::NotNow,
            2 => KeepTold::NoDraft,
            3 => KeepTold::Incomplete(from.u64()?),
            4 => KeepTold::Changed,
            5 => KeepTold::Failed(from.string()?),
            6 => {
                let (chunks, missing) = (from.u64()?, from.u64()?);
                KeepTold::Looked(Whereabouts { chunks, at: read_places(&mut from)?, missing })
            }
            7 => KeepTold::Located { bytes: from.u64()?, at: read_places(&mut from)? },
            _ => return Err(from.malformed()),
        };
        from.finish()?;
        Ok(told)
    }
}

fn name(from: &mut Reader) -> Result<ChunkName, Malformed> {
    Ok(ChunkName(from.raw(32)?.try_into().expect("thirty-two bytes were taken")))
}

fn write_places<'a>(at: &[(NodeId, u64)], to: &'a mut Writer) -> &'a mut Writer {
    to.u32(at.len() as u32);
    for (node, count) in at {
        to.u32(u32::from(node.0)).u64(*count);
    }
    to
}

fn read_places(from: &mut Reader) -> Result<Vec<(NodeId, u64)>, Malformed> {
    let mut at = vec![];
    for _ in 0..from.u32()? {
        let node = u16::try_from(from.u32()?).map_err(|_| from.malformed())?;
        at.push((NodeId(node), from.u64()?));
    }
    Ok(at)
}

fn write_keys(keys: &[Vec<u8>], to: &mut Writer) {
    to.u32(keys.len() as u32);
    keys.iter().for_each(|key| {
        to.bytes(key);
    });
}

fn read_keys(from: &mut Reader) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut keys = vec![];
    for _ in 0..from.u32()? {
        keys.push(from.bytes()?.to_vec());
    }
    Ok(keys)
}

/// The root that a record names.
fn root_of(value: &[u8]) -> Option<ChunkName> {
    Some(ChunkName(value.get(..32)?.try_into().ok()?))
}

/// All that a root leads to, itself too, each once. `get` gives what a chunk holds, looked at.
pub fn names_of(
    root: ChunkName, get: &mut dyn FnMut(&ChunkName) -> Result<Arc<[u8]>, ChunkError>,
) -> Result<HashSet<ChunkName>, Unreadable> {
    let mut names = HashSet::from([root]);
    let tree = Root::read(&get(&root)?).map_err(|_| Unreadable::Form(root))?;
    for blob in tree.blobs() {
        for (index, list) in blob.lists.iter().enumerate() {
            let Some(list) = list else { continue };
            let list = ChunkName(list.0);
            names.insert(list);
            let units = List::read(&get(&list)?, list_units(blob.bytes, index)).map_err(|_| Unreadable::Form(list))?;
            names.extend(units.units.iter().flatten().map(|hash| ChunkName(hash.0)));
        }
    }
    Ok(names)
}

/// Why it is not known what a root leads to.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error("the chunk {0:02x?} is what its name says and no part of a checkpoint")]
    Form(ChunkName),
}

/// What the holder knows of all that is kept.
///
/// Invariants: `counts` is how many of `names` have each chunk; `names` has exactly the roots of `records` that are not in `unread`.
#[derive(Default)]
pub(super) struct Kept {
    /// All records were read. Before, everything is needed.
    is_loaded: bool,
    records: BTreeMap<Vec<u8>, ChunkName>,
    names: HashMap<ChunkName, (u32, HashSet<ChunkName>)>,
    /// Roots of which it is not known what they lead to: as long as there is one, everything is needed.
    unread: BTreeMap<ChunkName, u32>,
    counts: HashMap<ChunkName, u32>,
    unneeded: BTreeSet<ChunkName>,
}

impl Kept {
    /// Of a tree beside which nothing is ever kept.
    pub fn nothing() -> Kept {
        Kept { is_loaded: true, ..Kept::default() }
    }

    pub fn needs(&self, name: &ChunkName) -> bool {
        let knows_all = self.is_loaded && self.unread.is_empty();
        !knows_all || self.counts.contains_key(name)
    }

    pub fn needed(&self) -> impl Iterator<Item = ChunkName> {
        self.counts.keys().copied()
    }

    pub fn take_unneeded(&mut self, most: usize) -> Vec<ChunkName> {
        std::iter::from_fn(|| self.unneeded.pop_first()).take(most).collect()
    }

    fn add(&mut self, root: ChunkName, names: HashSet<ChunkName>) {
        if let Some((count, _)) = self.names.get_mut(&root) {
            *count += 1;
            return;
        }
        for name in &names {
            *self.counts.entry(*name).or_insert(0) += 1;
            self.unneeded.remove(name);
        }
        self.names.insert(root, (1, names));
    }

    fn release(&mut self, root: ChunkName) {
        if let Some(count) = self.unread.get_mut(&root) {
            *count -= 1;
            if *count == 0 {
                self.unread.remove(&root);
            }
            return;
        }
        let Some((count, _)) = self.names.get_mut(&root) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        let (_, names) = self.names.remove(&root).expect("it was there just now");
        for name in names {
            let count = self.counts.get_mut(&name).expect("what is released was needed");
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&name);
                self.unneeded.insert(name);
            }
        }
    }
}

/// Checkpoints that are being made.
#[derive(Default)]
pub(super) struct Drafts(Mutex<BTreeMap<(NodeId, u64), Draft>>);

struct Draft {
    pins: Vec<Pinned>,
    names: HashSet<ChunkName>,
    used_at: Instant,
}

impl Drafts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(NodeId, u64), Draft>> {
        self.0.lock().expect("nothing panics while it holds the drafts")
    }

    /// The tree is somebody else's now.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }

    /// Whoever is at none of these nodes makes no checkpoint any more.
    pub fn keep_only(&self, me: NodeId, others: &[NodeId]) {
        let mut gone = vec![];
        self.lock().retain(|place, draft| {
            let stays = place.0 == me || others.contains(&place.0);
            if !stays {
                gone.push((std::mem::take(&mut draft.pins), std::mem::take(&mut draft.names)));
            }
            stays
        });
    }

    fn is_known(&self, place: &(NodeId, u64)) -> bool {
        self.lock().contains_key(place)
    }

    fn add(&self, place: (NodeId, u64), pinned: Pinned, names: impl Iterator<Item = ChunkName>) -> bool {
        let mut drafts = self.lock();
        drafts.retain(|other, draft| *other == place || draft.used_at.elapsed() < DRAFT_IDLE);
        if drafts.len() >= DRAFTS_MAX && !drafts.contains_key(&place) {
            return false;
        }
        let new = || Draft { pins: vec![], names: HashSet::new(), used_at: Instant::now() };
        let draft = drafts.entry(place).or_insert_with(new);
        draft.pins.push(pinned);
        draft.names.extend(names);
        draft.used_at = Instant::now();
        true
    }

    fn has(&self, place: &(NodeId, u64), name: &ChunkName) -> bool {
        self.lock().get(place).is_some_and(|draft| draft.names.contains(name))
    }

    fn end(&self, place: &(NodeId, u64)) {
        let draft = self.lock().remove(place);
        drop(draft);
    }
}

/// Why something was not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    #[error("no node holds the files now: is the coordinator without a majority?")]
    NoHolder,
    #[error("the node that keeps the files changed meanwhile")]
    HolderChanged,
    #[error("something else has changed meanwhile")]
    Changed,
    #[error("{0}")]
    Failed(String),
}

/// Asking the holder, whoever it is.
impl Inner {
    pub fn keep(&self, ask: &KeepAsk, deadline: Instant) -> Result<KeepTold, KeepError> {
        let body = ask.write();
        if body.len() > BODY_BYTES_MAX {
            return Err(KeepError::Failed(format!("a request of {} bytes", body.len())));
        }
        loop {
            let place = self.hold.find(deadline).ok_or(KeepError::NoHolder)?;
            let told = match place {
                super::hold::Where::Here { .. } => Some(self.answer_keep(self.me, ask.clone())),
                super::hold::Where::There { node, .. } => {
                    let until = deadline.min(Instant::now() + ASK_PATIENCE);
                    match self.network.ask(node, Service::Kept, &body, until) {
                        Ok(answer) => Some(
                            KeepTold::read(&answer)
                                .map_err(|_| KeepError::Failed(format!("{node} says what cannot be read")))?,
                        ),
                        // Whatever became of it, it may be asked again: chunks and records are there or not.
                        Err(Unanswered::NotSent(_) | Unanswered::Lost(_) | Unanswered::Refused(_)) => None,
                    }
                }
            };
            match told {
                Some(KeepTold::NotNow) | None => {}
                Some(KeepTold::NoDraft) => return Err(KeepError::HolderChanged),
                Some(KeepTold::Changed) => return Err(KeepError::Changed),
                Some(KeepTold::Failed(why)) => return Err(KeepError::Failed(why)),
                Some(told) => return Ok(told),
            }
            if Instant::now() >= deadline {
                return Err(KeepError::NoHolder);
            }
            self.look_again();
            self.living.wait(PAUSE);
        }
    }

    /// A chunk, from this disk or from whoever has it whole.
    pub fn kept_chunk(&self, name: &ChunkName) -> Result<Arc<[u8]>, ChunkError> {
        if let Some((_, tree)) = self.hold.here() {
            return tree.copies().get(name);
        }
        let here = self.chunks.get(name);
        let Err(_) = &here else { return here };
        let others = super::copies::by_rank(name, self.living.others());
        match super::copies::fetch(&*self.network, name, &others) {
            Some(bytes) => {
                self.chunks.keep(*name, bytes.clone());
                Ok(bytes)
            }
            None => here,
        }
    }
}

/// Being the holder.
impl Inner {
    pub fn answer_keep(&self, from: NodeId, ask: KeepAsk) -> KeepTold {
        let Some((epoch, tree)) = self.hold.here() else { return KeepTold::NotNow };
        let told = match ask {
            KeepAsk::Put { draft, chunks } => self.put_kept(&tree, (from, draft), &chunks),
            KeepAsk::Commit { draft, key, value, unchanged, remove } => {
                self.commit_kept(epoch, &tree, (from, draft), &key, &value, &unchanged, &remove)
            }
            KeepAsk::Remove { keys } => self.remove_kept(epoch, &tree, &keys),
            KeepAsk::Look { root, verify } => look(&tree, root, verify, self.me, &self.living.others()),
            KeepAsk::Locate { paths } => {
                let (bytes, at) = locate(&tree, &paths, self.me, &self.living.others());
                KeepTold::Located { bytes, at }
            }
        };
        match told {
            _ if self.hold.is_lost(epoch) => KeepTold::NotNow,
            // While the hold is in doubt nobody takes copies: it is asked for again.
            KeepTold::Failed(_) if !self.hold.is_held(epoch) => KeepTold::NotNow,
            told => told,
        }
    }

    fn put_kept(&self, tree: &Tree, place: (NodeId, u64), chunks: &[(ChunkName, Vec<u8>)]) -> KeepTold {
        if chunks.iter().any(|(name, bytes)| bytes.len() > CHUNK_BYTES_MAX || ChunkName::of(bytes) != *name) {
            return KeepTold::Failed("a chunk is not what its name says".into());
        }
        let all: Vec<(ChunkName, &[u8])> = chunks.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        match tree.copies().put(&all) {
            Ok(pinned) => match self.drafts.add(place, pinned, all.iter().map(|(name, _)| *name)) {
                true => KeepTold::Done,
                false => KeepTold::Failed("too many checkpoints are being made at once: try again".into()),
            },
            Err(error) => KeepTold::Failed(error.to_string()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they are what is asked, one by one")]
    fn commit_kept(
        &self, epoch: u64, tree: &Tree, place: (NodeId, u64), key: &[u8], value: &[u8],
        unchanged: &[(Vec<u8>, Revision)], remove: &[Vec<u8>],
    ) -> KeepTold {
        let Some(root) = root_of(value) else { return KeepTold::Failed("the record names no root".into()) };
        if remove.len() > REMOVED_MAX || unchanged.len() > REMOVED_MAX {
            return KeepTold::Failed("too much is to be removed at once".into());
        }
        if !tree.kept().is_loaded {
            return KeepTold::NotNow;
        }
        if !self.drafts.is_known(&place) {
            // It may have been asked before.
            return match self.record(key) {
                Ok(Some(record)) if *record.value == *value => KeepTold::Done,
                Ok(_) => KeepTold::NoDraft,
                Err(_) => KeepTold::NotNow,
            };
        }
        let names = match names_of(root, &mut |name| tree.copies().get(name)) {
            Ok(names) => names,
            Err(error) => return KeepTold::Failed(error.to_string()),
        };
        {
            let mut kept = tree.kept();
            let has = |name: &&ChunkName| kept.counts.contains_key(*name) || self.drafts.has(&place, name);
            let missing = names.iter().filter(|name| !has(name)).count() as u64;
            if missing > 0 && !planted(Bug::HalfACheckpoint) {
                return KeepTold::Incomplete(missing);
            }
            // From here on nobody removes them, whatever else is removed meanwhile.
            kept.add(root, names);
        }
        let mut transaction = Transaction::new()
            .when(Compare::value(EPOCH, epoch.to_be_bytes()))
            .when(Compare::missing(record_key(key)))
            .then(Action::put(record_key(key), value))
            .otherwise(Action::get(record_key(key)))
            .otherwise(Action::get(EPOCH));
        for (key, revision) in unchanged {
            transaction = transaction.when(Compare::unchanged(key, *revision));
        }
        for key in remove {
            transaction = transaction.then(Action::delete(record_key(key)));
        }
        let settle = || {
            let mut kept = tree.kept();
            if kept.records.insert(key.to_vec(), root).is_some() {
                kept.release(root);
            }
            for key in remove {
                if let Some(root) = kept.records.remove(key) {
                    kept.release(root);
                }
            }
            KeepTold::Done
        };
        let told = match self.insist(epoch, &transaction) {
            Ok(committed) if committed.succeeded => settle(),
            Ok(committed) => {
                let value_of = |action: usize| -> Option<Arc<[u8]>> {
                    committed.found(action)?.records.first().map(|record| record.value.clone())
                };
                match value_of(1).as_deref().and_then(number) {
                    Some(now) if now == epoch => match value_of(0) {
                        // An attempt whose answer was lost.
                        Some(there) if *there == *value => settle(),
                        _ => {
                            tree.kept().release(root);
                            KeepTold::Changed
                        }
                    },
                    _ => KeepTold::NotNow,
                }
            }
            // Whoever holds the tree next reads the records.
            Err(_) => return KeepTold::NotNow,
        };
        if told != KeepTold::NotNow {
            self.drafts.end(&place);
            tree.collect_soon();
        }
        told
    }

    fn remove_kept(&self, epoch: u64, tree: &Tree, keys: &[Vec<u8>]) -> KeepTold {
        if keys.len() > REMOVED_MAX {
            return KeepTold::Failed("too much is to be removed at once".into());
        }
        if !tree.kept().is_loaded {
            return KeepTold::NotNow;
        }
        let mut transaction = Transaction::new().when(Compare::value(EPOCH, epoch.to_be_bytes()));
        for key in keys {
            transaction = transaction.then(Action::delete(record_key(key)));
        }
        match self.insist(epoch, &transaction) {
            Ok(committed) if committed.succeeded => {
                let mut kept = tree.kept();
                for key in keys {
                    if let Some(root) = kept.records.remove(key) {
                        kept.release(root);
                    }
                }
                drop(kept);
                tree.collect_soon();
                KeepTold::Done
            }
            _ => KeepTold::NotNow,
        }
    }

    /// Asks the coordinator until it answers, or this is the holder no more. What is asked may be done twice.
    fn insist(&self, epoch: u64, transaction: &Transaction) -> Result<drivers::coordinator::Committed, Failure> {
        loop {
            match self.coordinator.transact(transaction.clone(), Instant::now() + ATTEMPT) {
                Err(Failure::Unavailable { .. } | Failure::Unknown { .. }) if !self.hold.is_lost(epoch) => {
                    std::thread::sleep(PAUSE);
                }
                answered => return answered,
            }
        }
    }

    fn record(&self, key: &[u8]) -> Result<Option<Record>, Failure> {
        let found = self.coordinator.range(Range::key(record_key(key)), Instant::now() + ATTEMPT)?;
        Ok(found.records.into_iter().next())
    }

    /// Reads what is kept, as far as it can be read now.
    pub fn load_kept(&self, tree: &Tree) {
        if planted(Bug::RemovesWhatIsKept) {
            tree.kept().is_loaded = true;
        }
        if !tree.kept().is_loaded {
            let records = match self.all_kept() {
                Ok(records) => records,
                Err(error) => {
                    self.complaints.add(format!("which checkpoints there are cannot be found out: {error}"));
                    return;
                }
            };
            let mut kept = tree.kept();
            for (key, root) in records {
                kept.records.insert(key, root);
                *kept.unread.entry(root).or_insert(0) += 1;
            }
            kept.is_loaded = true;
        }
        let unread: Vec<ChunkName> = tree.kept().unread.keys().copied().collect();
        for root in unread {
            match names_of(root, &mut |name| tree.copies().get(name)) {
                Ok(names) => {
                    let mut kept = tree.kept();
                    for _ in 0..kept.unread.remove(&root).unwrap_or(0) {
                        kept.add(root, names.clone());
                    }
                }
                Err(error) => self.complaints.add(format!(
                    "a checkpoint cannot be read now, and nothing is removed from the disks before it can be or is \
                     removed (una checkpoints --remove): {error}"
                )),
            }
        }
    }

    fn all_kept(&self) -> Result<Vec<(Vec<u8>, ChunkName)>, Failure> {
        let mut all = vec![];
        let mut keys = KeyRange::prefix(RECORDS);
        loop {
            let found = self.coordinator.range(Range::of(keys.clone()), Instant::now() + ATTEMPT)?;
            for record in &found.records {
                match root_of(&record.value) {
                    Some(root) => all.push((record.key[RECORDS.len()..].to_vec(), root)),
                    None => self.complaints.add("the record of a checkpoint is damaged".into()),
                }
            }
            match found.records.last() {
                Some(last) if found.more => keys.from = [&last.key, &[0][..]].concat().into(),
                _ => return Ok(all),
            }
        }
    }
}

fn record_key(key: &[u8]) -> Vec<u8> {
    [RECORDS, key].concat()
}

fn look(tree: &Tree, root: ChunkName, verify: bool, me: NodeId, living: &[NodeId]) -> KeepTold {
    let known = tree.kept().names.get(&root).map(|(_, names)| names.clone());
    let copies: &Copies = tree.copies();
    let names = match known {
        Some(names) => names,
        None => match names_of(root, &mut |name| copies.get(name)) {
            Ok(names) => names,
            Err(Unreadable::Chunk(_) | Unreadable::Form(_)) => {
                return KeepTold::Looked(Whereabouts { chunks: 1, at: vec![], missing: 1 });
            }
        },
    };
    let mut at: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut missing = 0;
    for name in &names {
        let nodes = copies.whereabouts(name, me, living);
        // Where nobody is known to have it, or all are to be read, it is looked for.
        if (verify || nodes.is_empty()) && copies.read_again(name).is_err() {
            missing += 1;
            continue;
        }
        for node in nodes {
            *at.entry(node).or_insert(0) += 1;
        }
    }
    KeepTold::Looked(Whereabouts { chunks: names.len() as u64, at: at.into_iter().collect(), missing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_and_told_is_read_again_and_nothing_else() {
        let name = ChunkName([7; 32]);
        let unchanged = vec![(b"k/p/1".to_vec(), Revision(9))];
        let asks = [
            KeepAsk::Put { draft: 1, chunks: vec![(name, vec![1, 2, 3]), (name, vec![])] },
            KeepAsk::Commit {
                draft: 1,
                key: b"key".to_vec(),
                value: vec![1; 40],
                unchanged,
                remove: vec![b"old".to_vec()],
            },
            KeepAsk::Remove { keys: vec![b"a".to_vec(), vec![]] },
            KeepAsk::Look { root: name, verify: true },
            KeepAsk::Locate { paths: vec!["a/b".into(), String::new()] },
        ];
        for ask in asks {
            let bytes = ask.write();
            assert_eq!(KeepAsk::read(&bytes), Ok(ask.clone()));
            assert!(KeepAsk::read(&bytes[..bytes.len() - 1]).is_err(), "{ask:?}");
            assert!(KeepAsk::read(&[bytes, vec![0]].concat()).is_err(), "{ask:?}");
        }
        let at = vec![(NodeId(1), 3), (NodeId(9), 1)];
        for told in [
            KeepTold::Done,
            KeepTold::NotNow,
            KeepTold::NoDraft,
            KeepTold::Incomplete(3),
            KeepTold::Changed,
            KeepTold::Failed("why".into()),
            KeepTold::Looked(Whereabouts { chunks: 4, at: at.clone(), missing: 1 }),
            KeepTold::Located { bytes: 9, at },
        ] {
            assert_eq!(KeepTold::read(&told.write()), Ok(told.clone()));
            assert!(KeepTold::read(&[told.write(), vec![0]].concat()).is_err(), "{told:?}");
        }
    }

    #[test]
    fn what_two_checkpoints_share_stays_until_both_are_gone() {
        let name = |byte| ChunkName([byte; 32]);
        let mut kept = Kept::nothing();
        kept.add(name(1), HashSet::from([name(1), name(10), name(11)]));
        kept.add(name(2), HashSet::from([name(2), name(11)]));
        // The same process may come to the same state again.
        kept.add(name(2), HashSet::from([name(2), name(11)]));
        kept.release(name(1));
        assert_eq!(kept.take_unneeded(9), [name(1), name(10)]);
        assert!(kept.needs(&name(11)) && !kept.needs(&name(10)));
        kept.release(name(2));
        assert!(kept.needs(&name(11)));
        kept.release(name(2));
        assert_eq!(kept.take_unneeded(9), [name(2), name(11)]);
        assert!(kept.counts.is_empty() && kept.names.is_empty());
    }

    #[test]
    fn as_long_as_something_is_not_known_everything_is_needed() {
        let name = |byte| ChunkName([byte; 32]);
        let mut kept = Kept::default();
        assert!(kept.needs(&name(1)));
        kept.is_loaded = true;
        kept.unread.insert(name(2), 1);
        assert!(kept.needs(&name(1)));
        kept.release(name(2));
        assert!(!kept.needs(&name(1)));
    }
}
