//! The tree of files as a pure state machine: names, inodes, what is open, what stands in each page. Knows no disk, no clock and
//! no other node: the time comes in, changes to be made durable come out, and content is named by the hash of its chunks.
//!
//! The one idea: an act is done in memory at once, appends [`Change`]s, and gets a number, its [`Sequence`]. Whoever is answered
//! waits until everything the answer rests on is safe: the act's own changes, and the changes of others that it has seen.
//! Changes that turn out not to be safe are taken back, newest first; replaying those that are makes the same tree again.
//!
//! ```text
//!   act ──► answer, after sequence n ─────────────► waits ──────────► told
//!      └──► changes of n ──► made durable in order ──► safe(n)
//!                                               └────► undo(n): could not be made durable
//! ```
//!
//! Names (make, remove, rename, link, times) are facts: each act's changes are durable together. Content is written here first;
//! a *capture* takes a snapshot of a file, the caller stores its pages as chunks, and [`Files::flushed`] records the
//! snapshot as one change, so that a restart finds a file as it was at one capture, and never a mixture.
//!
//! ```text
//!   change    what a record says, and its bytes
//!   content   the pages of one file: recorded, and now
//!   walk      from a path to an inode, never leading out
//! ```

mod change;
mod content;
pub mod planted;
mod walk;

pub use change::{Attributes, Change, ChunkHash, Form, Inode, Piece};
pub use content::{Captured, INLINE_BYTES_MAX, PAGE_BYTES, Stretch, Supply};

use abi::errno::Errno;
use abi::file::{Access, Entry, Existence, Kind, LastLink, Open, Place, SetTime, SetTimes, Stat};
use abi::wasi::Filetype;
use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use content::{Content, Tally};
use planted::{Bug, planted};
use walk::{Follow, Last};

/// The number of an act that changed something. They are made durable in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sequence(pub u64);

/// What an act gives, and what it rests on: nobody may be told before that is safe.
#[must_use]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer<T> {
    pub result: Result<T, Errno>,
    pub after: Sequence,
}

/// Something that somebody has open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpenNumber(pub u64);

/// The directory at the top; it is always open.
pub const ROOT_OPEN: OpenNumber = OpenNumber(0);
const ROOT: Inode = Inode(1);

/// Numbers of inodes are set aside so many at a time, so that few changes have to say so.
const INODES_RESERVED: u64 = 1024;
/// More bytes in one act are written in part.
pub const WRITE_BYTES_MAX: usize = 16 << 20;
/// No offset is larger: what WASI and Linux can say.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// The bounds of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Each takes somewhat less than 1 KiB of memory. Then: [`Errno::NoSpc`].
    pub inodes_max: usize,
    /// In one directory. Then: [`Errno::NoSpc`].
    pub names_max: usize,
    /// Of one file. Then: [`Errno::MLink`].
    pub links_max: usize,
    /// Then: [`Errno::FBig`].
    pub file_bytes_max: u64,
    /// Of all files, holes not counted. Then: [`Errno::NoSpc`].
    pub tree_bytes_max: u64,
    /// By all. Then: [`Errno::NFile`].
    pub open_max: usize,
}

impl Limits {
    pub const NORMAL: Limits = Limits {
        inodes_max: 1 << 21,
        names_max: 1 << 20,
        links_max: 65_000,
        file_bytes_max: 1 << 40,
        tree_bytes_max: 1 << 38,
        open_max: 1 << 20,
    };
}

/// The records do not make a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage(pub &'static str);

/// Why a write was not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteError {
    Failed(Errno),
    /// It must be asked again with the content of these chunks.
    Wants(Vec<ChunkHash>),
}

/// Where a write begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    Offset(u64),
    End,
    /// At the end, if that is there. Else it fails with [`Errno::Again`].
    EndAt(u64),
}

/// A file as it was at one moment, on its way to the disk. One at a time of each file.
#[derive(Debug)]
pub struct Capture {
    pub inode: Inode,
    /// What is captured. Those with bytes are to be made pieces of.
    pub pages: Vec<(u64, Captured)>,
    purpose: Purpose,
    /// How often changes had been taken back.
    undone: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// To be recorded, with what was recorded before.
    Record { attributes: Attributes, before: Attributes },
    /// To have the pages out of memory.
    Store,
}

/// Whether a capture can be taken.
#[derive(Debug)]
pub enum Flush {
    /// Everything is recorded, and safe after this.
    Nothing(Sequence),
    /// Another capture of the file is under way: wait until it has ended.
    Busy,
    Captured(Capture),
}

/// One file, directory or link.
///
/// Invariants: whoever has names, or is kept, is recorded; whoever is neither is not, and lives as long as it is open, is
/// captured, or may get its name back.
struct Node {
    body: Body,
    born_ns: u64,
    recorded: Option<Attributes>,
    now: Attributes,
    names: Vec<Called>,
    /// What it was called when it lost its last name.
    was: String,
    open: u32,
    captured: bool,
    /// The last act that recorded it or removed its record.
    recorded_at: Sequence,
}

enum Body {
    File(Content),
    Directory(Listing),
    Link(Arc<str>),
}

#[derive(Clone, PartialEq, Eq)]
struct Called {
    directory: Inode,
    name: Arc<str>,
}

#[derive(Default)]
struct Listing {
    entries: BTreeMap<Arc<str>, Named>,
    /// The last act that took a name away, and the last that changed anything.
    removed_at: Sequence,
    changed_at: Sequence,
}

#[derive(Clone, Copy)]
struct Named {
    inode: Inode,
    at: Sequence,
}

#[derive(Clone, Copy)]
struct Opened {
    inode: Inode,
    access: Access,
}

/// What was before a change that is not safe yet.
enum Undo {
    Reserved(u64),
    Record {
        inode: Inode,
        before: Option<Attributes>,
    },
    /// Content was recorded, and its size and times with it.
    Flushed {
        inode: Inode,
        before: Attributes,
    },
    Name {
        directory: Inode,
        name: Arc<str>,
        before: Option<Inode>,
    },
    Page {
        inode: Inode,
        index: u64,
        before: Option<Piece>,
    },
    /// It is kept now and was not, or the other way round.
    Kept {
        inode: Inode,
        before: bool,
    },
}

/// The tree.
///
/// Invariants: every inode but the root has a name, or is kept, or is nobody's any more; every directory has at most one, and is below the
/// root; the tally counts what pages, undo and captures need; no act is half in `pending`.
pub struct Files {
    limits: Limits,
    device: u64,
    nodes: BTreeMap<Inode, Node>,
    /// They have no name, and are recorded nevertheless: who has them open may come back after a restart and go on.
    kept: BTreeSet<Inode>,
    open: BTreeMap<OpenNumber, Opened>,
    next_open: u64,
    next_inode: u64,
    reserved: u64,
    tally: Tally,
    next_version: u64,
    /// Files with something that is not recorded.
    changed: BTreeSet<Inode>,
    /// Pieces that captures under way need.
    captured: BTreeMap<Inode, Vec<Piece>>,
    sequence: Sequence,
    safe: Sequence,
    undo: VecDeque<(Sequence, Vec<Undo>)>,
    /// How often changes were taken back.
    undone: u64,
    /// Of the act that is being done.
    pending: Vec<Change>,
    pending_undo: Vec<Undo>,
    seen: Sequence,
}

/// Beginning, and beginning again.
impl Files {
    fn empty(limits: Limits, device: u64, next_inode: u64) -> Files {
        Files {
            limits,
            device,
            nodes: BTreeMap::new(),
            kept: BTreeSet::new(),
            open: BTreeMap::new(),
            next_open: 1,
            next_inode,
            reserved: next_inode,
            tally: Tally::default(),
            next_version: 0,
            changed: BTreeSet::new(),
            captured: BTreeMap::new(),
            sequence: Sequence(0),
            safe: Sequence(0),
            undo: VecDeque::new(),
            undone: 0,
            pending: Vec::new(),
            pending_undo: Vec::new(),
            seen: Sequence(0),
        }
    }

    /// An empty tree, which appends what makes it one. The device tells it from every other tree.
    pub fn new(limits: Limits, device: u64, now_ns: u64, changes: &mut Vec<Change>) -> Files {
        let mut files = Files::empty(limits, device, ROOT.0 + 1);
        let attributes = Attributes::at(now_ns);
        let root = Change::Inode { inode: ROOT, form: Form::Directory, born_ns: now_ns, attributes };
        changes.push(Change::System { device, inodes_reserved: files.reserved });
        changes.push(root.clone());
        files.load(root).expect("a directory can always be loaded");
        files.begin(Sequence(0))
    }

    /// The tree that the records make; `System` and inodes come before what needs them, as the order of keys has it.
    /// `safe` is the last act whose changes are in them.
    pub fn replay(limits: Limits, safe: Sequence, records: impl IntoIterator<Item = Change>) -> Result<Files, Damage> {
        let mut files: Option<Files> = None;
        for record in records {
            match (&mut files, record) {
                (None, Change::System { device, inodes_reserved }) => {
                    let next = if planted(Bug::InodesReused) { ROOT.0 + 1 } else { inodes_reserved };
                    files = Some(Files::empty(limits, device, next));
                }
                (Some(files), record) => files.load(record)?,
                (None, _) => return Err(Damage("the record of the tree itself is missing")),
            }
        }
        let files = files.ok_or(Damage("there are no records"))?;
        if !matches!(files.nodes.get(&ROOT), Some(Node { body: Body::Directory(_), .. })) {
            return Err(Damage("the root is missing"));
        }
        let files = files.begin(safe);
        files.verify().map_err(Damage)?;
        Ok(files)
    }

    fn begin(mut self, safe: Sequence) -> Files {
        (self.sequence, self.safe) = (safe, safe);
        self.open.insert(ROOT_OPEN, Opened { inode: ROOT, access: Access::Read });
        self.node_mut(ROOT).open = 1;
        self
    }

    fn load(&mut self, record: Change) -> Result<(), Damage> {
        match record {
            Change::Inode { inode, form, born_ns, attributes } => {
                if inode.0 >= self.reserved && !planted(Bug::InodesReused) {
                    return Err(Damage("an inode has a number that was never given out"));
                }
                let body = match form {
                    Form::File => Body::File(Content::default()),
                    Form::Directory => Body::Directory(Listing::default()),
                    Form::Link(content) => Body::Link(content),
                };
                self.nodes.insert(inode, Node::new(body, born_ns, Some(attributes), attributes));
                Ok(())
            }
            Change::Name { directory, name, inode } => {
                if !walk::is_name(&name) {
                    return Err(Damage("a name is none"));
                }
                let node = self.nodes.get_mut(&inode).ok_or(Damage("a name is that of nothing"))?;
                node.names.reserve_exact(1);
                node.names.push(Called { directory, name: name.clone() });
                let Some(Node { body: Body::Directory(listing), .. }) = self.nodes.get_mut(&directory) else {
                    return Err(Damage("a name is in no directory"));
                };
                listing.entries.insert(name, Named { inode, at: Sequence(0) });
                Ok(())
            }
            Change::Page { inode, index, piece } => {
                let Some(Node { body: Body::File(content), .. }) = self.nodes.get_mut(&inode) else {
                    return Err(Damage("a page is in no file"));
                };
                content.load(index, piece, &mut self.tally);
                Ok(())
            }
            Change::Kept { inode, was } => {
                let node = self.nodes.get_mut(&inode).ok_or(Damage("nothing is kept"))?;
                node.was = (*was).to_owned();
                self.kept.insert(inode);
                Ok(())
            }
            Change::System { .. } => Err(Damage("there are two trees in the records")),
            Change::NoInode { .. } | Change::NoName { .. } | Change::NoPage { .. } | Change::NotKept { .. } => {
                Err(Damage("a record says that there is none"))
            }
        }
    }
}

impl Attributes {
    fn at(now_ns: u64) -> Attributes {
        Attributes { size_bytes: 0, accessed_ns: now_ns, modified_ns: now_ns, changed_ns: now_ns }
    }

    /// Times that an act set are what they were before it, unless a later one set them.
    fn take_back(&mut self, undone: &Attributes, before: &Attributes) {
        let back = |now: &mut u64, undone: u64, before: u64| {
            if *now == undone {
                *now = before;
            }
        };
        back(&mut self.accessed_ns, undone.accessed_ns, before.accessed_ns);
        back(&mut self.modified_ns, undone.modified_ns, before.modified_ns);
        back(&mut self.changed_ns, undone.changed_ns, before.changed_ns);
    }
}

impl Node {
    fn new(body: Body, born_ns: u64, recorded: Option<Attributes>, now: Attributes) -> Node {
        Node {
            body,
            born_ns,
            recorded,
            now,
            names: Vec::new(),
            was: String::new(),
            open: 0,
            captured: false,
            recorded_at: Sequence(0),
        }
    }

    fn kind(&self) -> Filetype {
        match &self.body {
            Body::File(_) => Filetype::RegularFile,
            Body::Directory(_) => Filetype::Directory,
            Body::Link(_) => Filetype::SymbolicLink,
        }
    }

    fn form(&self) -> Form {
        match &self.body {
            Body::File(_) => Form::File,
            Body::Directory(_) => Form::Directory,
            Body::Link(content) => Form::Link(content.clone()),
        }
    }

    fn content(&self) -> Result<&Content, Errno> {
        match &self.body {
            Body::File(content) => Ok(content),
            Body::Directory(_) => Err(Errno::IsDir),
            Body::Link(_) => Err(Errno::Loop),
        }
    }

    fn listing(&self) -> Result<&Listing, Errno> {
        if let Body::Directory(listing) = &self.body { Ok(listing) } else { Err(Errno::NotDir) }
    }

    fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    /// Is there something of it that a restart would not find?
    fn is_changed(&self) -> bool {
        let content = matches!(&self.body, Body::File(content) if content.is_unrecorded());
        self.recorded.is_some_and(|recorded| content || recorded != self.now)
    }
}

/// Durability.
impl Files {
    /// Does one act, and numbers it if it changed anything.
    fn act<T>(&mut self, changes: &mut Vec<Change>, act: impl FnOnce(&mut Files) -> Result<T, Errno>) -> Answer<T> {
        self.seen = Sequence(0);
        let result = act(self);
        if self.pending.is_empty() {
            return Answer { result, after: self.seen };
        }
        assert!(result.is_ok(), "an act that fails changes nothing");
        self.sequence = self.next();
        changes.append(&mut self.pending);
        let undo = core::mem::take(&mut self.pending_undo);
        if !planted(Bug::ChunkUnusedTooEarly) {
            undo.iter().for_each(|undo| self.tally.need(undo.piece()));
        }
        self.undo.push_back((self.sequence, undo));
        Answer { result, after: self.sequence }
    }

    /// The number of the act that is being done.
    fn next(&self) -> Sequence {
        Sequence(self.sequence.0 + 1)
    }

    fn see(&mut self, at: Sequence) {
        if !planted(Bug::SeenTooEarly) {
            self.seen = self.seen.max(at);
        }
    }

    /// The last act that changed anything.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// The last act that could still be taken back, if there is one.
    pub fn unsafe_until(&self) -> Option<Sequence> {
        self.undo.back().map(|(sequence, _)| *sequence)
    }

    /// All changes up to this one are durable.
    pub fn safe(&mut self, safe: Sequence) {
        self.safe = self.safe.max(safe);
        while let Some((sequence, _)) = self.undo.front()
            && *sequence <= self.safe
        {
            let (_, entries) = self.undo.pop_front().expect("it was just looked at");
            self.forget(&entries);
        }
    }

    /// No change behind this one became durable, nor will: they are taken back.
    pub fn undo(&mut self, safe: Sequence) {
        self.safe(safe);
        self.undone += 1;
        while let Some((_, entries)) = self.undo.pop_back() {
            for undo in entries.iter().rev() {
                self.take_back(undo);
            }
            self.forget(&entries);
        }
    }

    fn take_back(&mut self, undo: &Undo) {
        match undo {
            Undo::Reserved(before) => self.reserved = *before,
            Undo::Record { inode, before } => {
                let node = self.node_mut(*inode);
                let undone = core::mem::replace(&mut node.recorded, *before);
                if let (Some(undone), Some(before)) = (undone, before) {
                    node.now.take_back(&undone, before);
                }
                if node.is_changed() {
                    self.changed.insert(*inode);
                }
            }
            Undo::Flushed { inode, before } => {
                self.node_mut(*inode).recorded = Some(*before);
                self.changed.insert(*inode);
            }
            Undo::Name { .. } if planted(Bug::UndoForgetsNames) => {}
            Undo::Name { directory, name, before } => self.set_name(*directory, name, *before, self.safe),
            Undo::Page { inode, index, before } => {
                let (content, tally) = content_of(&mut self.nodes, &mut self.tally, *inode);
                content.unrecord(*index, before.clone(), tally);
                self.changed.insert(*inode);
            }
            Undo::Kept { inode, before: true } => drop(self.kept.insert(*inode)),
            Undo::Kept { inode, before: false } => drop(self.kept.remove(inode)),
        }
    }

    /// Nothing of this will be taken back any more.
    fn forget(&mut self, entries: &[Undo]) {
        for undo in entries {
            if !planted(Bug::ChunkUnusedTooEarly) {
                self.tally.release(undo.piece());
            }
            match undo {
                Undo::Record { inode, .. } | Undo::Flushed { inode, .. } => self.settle(*inode),
                Undo::Name { before: Some(inode), .. } => self.settle(*inode),
                _ => {}
            }
        }
    }

    /// Lets go of an inode that nobody can reach any more.
    fn settle(&mut self, inode: Inode) {
        let Some(node) = self.nodes.get_mut(&inode) else { return };
        if node.recorded.is_some() || !node.names.is_empty() || node.open > 0 || node.captured {
            return;
        }
        if self.undo.iter().any(|(_, entries)| entries.iter().any(|undo| undo.inode() == Some(inode))) {
            return;
        }
        if let Body::File(content) = &mut node.body {
            content.release(&mut self.tally);
        }
        self.nodes.remove(&inode);
        self.changed.remove(&inode);
    }

    /// Chunks that nobody needs any more, nor will unless they are stored again. Each is given once.
    pub fn take_unneeded(&mut self, most: usize) -> Vec<ChunkHash> {
        self.tally.take_unneeded(most)
    }

    pub fn needs(&self, hash: &ChunkHash) -> bool {
        self.tally.needs(hash)
    }

    pub fn chunks_needed(&self) -> impl Iterator<Item = &ChunkHash> {
        self.tally.counts().keys()
    }
}

impl Undo {
    fn piece(&self) -> Option<&Piece> {
        if let Undo::Page { before, .. } = self { before.as_ref() } else { None }
    }

    fn inode(&self) -> Option<Inode> {
        match self {
            Undo::Record { inode, .. }
            | Undo::Flushed { inode, .. }
            | Undo::Page { inode, .. }
            | Undo::Kept { inode, .. } => Some(*inode),
            Undo::Name { before, .. } => *before,
            Undo::Reserved(_) => None,
        }
    }
}

fn content_of<'a>(
    nodes: &'a mut BTreeMap<Inode, Node>, tally: &'a mut Tally, inode: Inode,
) -> (&'a mut Content, &'a mut Tally) {
    match nodes.get_mut(&inode) {
        Some(Node { body: Body::File(content), .. }) => (content, tally),
        _ => unreachable!("only files have pages"),
    }
}

/// Single changes: to memory, to the list, and to what is needed to take them back.
impl Files {
    fn node(&self, inode: Inode) -> &Node {
        self.nodes.get(&inode).expect("whoever is named or open is in the table")
    }

    fn node_mut(&mut self, inode: Inode) -> &mut Node {
        self.nodes.get_mut(&inode).expect("whoever is named or open is in the table")
    }

    /// Records what a restart is to find of an inode. Gives what was recorded before.
    fn write_record(&mut self, inode: Inode, attributes: Attributes) -> Option<Attributes> {
        let next = self.next();
        let node = self.node_mut(inode);
        let before = node.recorded.replace(attributes);
        node.recorded_at = next;
        let change = Change::Inode { inode, form: node.form(), born_ns: node.born_ns, attributes };
        self.pending.push(change);
        before
    }

    fn record(&mut self, inode: Inode, attributes: Attributes) {
        let before = self.write_record(inode, attributes);
        self.pending_undo.push(Undo::Record { inode, before });
    }

    /// The last name of an inode was taken away. It is recorded as long as somebody has it open.
    fn was_removed(&mut self, inode: Inode, now_ns: u64) {
        if self.node(inode).open == 0 || planted(Bug::OpenIsNotKept) {
            self.node_mut(inode).now.changed_ns = now_ns;
            return self.unrecord(inode);
        }
        self.stamp(inode, now_ns);
        self.keep(inode);
        if planted(Bug::UnlinkEmptiesOpen) && !self.node(inode).is_directory() {
            let (content, tally) = content_of(&mut self.nodes, &mut self.tally, inode);
            content.release(tally);
        }
    }

    fn keep(&mut self, inode: Inode) {
        self.kept.insert(inode);
        self.pending.push(Change::Kept { inode, was: self.node(inode).was.as_str().into() });
        self.pending_undo.push(Undo::Kept { inode, before: false });
    }

    /// Removes all records of an inode that has no names left.
    fn unrecord(&mut self, inode: Inode) {
        let next = self.next();
        if self.kept.remove(&inode) {
            self.pending.push(Change::NotKept { inode });
            self.pending_undo.push(Undo::Kept { inode, before: true });
        }
        let node = self.nodes.get_mut(&inode).expect("it just had a name");
        let Some(before) = node.recorded.take() else { return };
        node.recorded_at = next;
        if let Body::File(content) = &mut node.body {
            let pages = content.recorded().map(|(index, _)| Change::NoPage { inode, index });
            self.pending.extend(pages);
        }
        self.pending.push(Change::NoInode { inode });
        self.pending_undo.push(Undo::Record { inode, before: Some(before) });
        self.changed.remove(&inode);
    }

    /// Gives a name to an inode, or to none.
    fn name(&mut self, directory: Inode, name: &Arc<str>, inode: Option<Inode>) {
        let before = self.listing(directory).entries.get(name).map(|named| named.inode);
        self.set_name(directory, name, inode, self.next());
        self.pending.push(match inode {
            Some(inode) => Change::Name { directory, name: name.clone(), inode },
            None => Change::NoName { directory, name: name.clone() },
        });
        self.pending_undo.push(Undo::Name { directory, name: name.clone(), before });
    }

    /// `at`: the act that whoever sees this rests on.
    fn set_name(&mut self, directory: Inode, name: &Arc<str>, inode: Option<Inode>, at: Sequence) {
        let Body::Directory(listing) = &mut self.node_mut(directory).body else {
            unreachable!("names are in directories")
        };
        listing.changed_at = at;
        let before = match inode {
            Some(inode) => listing.entries.insert(name.clone(), Named { inode, at }),
            None => {
                listing.removed_at = at;
                listing.entries.remove(name)
            }
        };
        let called = Called { directory, name: name.clone() };
        if let Some(before) = before {
            let was = self.path_of(before.inode).unwrap_or_default();
            let node = self.node_mut(before.inode);
            node.names.retain(|one| *one != called);
            if node.names.is_empty() {
                node.was = was;
            }
        }
        if let Some(inode) = inode {
            let names = &mut self.node_mut(inode).names;
            // Nearly every file has one name, and there are many files.
            names.reserve_exact(1);
            names.push(called);
        }
    }

    /// A directory's names were changed.
    fn touch(&mut self, directory: Inode, now_ns: u64) {
        let node = self.node_mut(directory);
        (node.now.modified_ns, node.now.changed_ns) = (now_ns, now_ns);
        let attributes = node.now;
        self.record(directory, attributes);
    }

    /// Something about the names of a file was changed. Its size stays recorded as it is: its content is not recorded here.
    fn stamp(&mut self, inode: Inode, now_ns: u64) {
        let node = self.node_mut(inode);
        node.now.changed_ns = now_ns;
        let Some(mut attributes) = node.recorded else { return };
        attributes.changed_ns = now_ns;
        if planted(Bug::SizeBeforeContent) {
            attributes.size_bytes = node.now.size_bytes;
        }
        self.record(inode, attributes);
    }

    fn listing(&self, directory: Inode) -> &Listing {
        self.node(directory).listing().expect("walks end in directories")
    }

    /// A new inode without names.
    fn make(&mut self, body: Body, now_ns: u64) -> Result<Inode, Errno> {
        if self.nodes.len() >= self.limits.inodes_max {
            return Err(Errno::NoSpc);
        }
        let inode = Inode(self.next_inode);
        self.next_inode += 1;
        self.nodes.insert(inode, Node::new(body, now_ns, None, Attributes::at(now_ns)));
        if inode.0 >= self.reserved {
            self.pending_undo.push(Undo::Reserved(self.reserved));
            self.reserved = inode.0 + INODES_RESERVED;
            self.pending.push(Change::System { device: self.device, inodes_reserved: self.reserved });
        }
        self.record(inode, Attributes::at(now_ns));
        Ok(inode)
    }

    /// A new inode with a name.
    fn make_named(&mut self, directory: Inode, name: &str, body: Body, now_ns: u64) -> Result<Inode, Errno> {
        self.may_add(directory)?;
        let inode = self.make(body, now_ns)?;
        self.name(directory, &name.into(), Some(inode));
        self.touch(directory, now_ns);
        Ok(inode)
    }

    /// Can one more name be put here?
    fn may_add(&self, directory: Inode) -> Result<(), Errno> {
        if self.is_removed(directory) {
            return Err(Errno::NoEnt);
        }
        if self.node(directory).listing()?.entries.len() >= self.limits.names_max { Err(Errno::NoSpc) } else { Ok(()) }
    }

    /// Has it no name any more?
    fn is_removed(&self, inode: Inode) -> bool {
        inode != ROOT && self.node(inode).names.is_empty()
    }

    /// Takes a name away, and with the last one all records.
    fn remove(&mut self, directory: Inode, name: &Arc<str>, inode: Inode, now_ns: u64) {
        self.name(directory, name, None);
        if self.node(inode).names.is_empty() {
            self.was_removed(inode, now_ns);
        } else {
            self.stamp(inode, now_ns);
        }
        self.touch(directory, now_ns);
    }

    /// The path from the root, if there is one.
    fn path_of(&self, inode: Inode) -> Option<String> {
        let mut parts: Vec<&str> = Vec::new();
        let mut at = inode;
        while at != ROOT {
            let called = self.node(at).names.first()?;
            parts.push(&called.name);
            at = called.directory;
        }
        parts.reverse();
        Some(parts.join("/"))
    }
}

/// Opening and closing.
impl Files {
    fn opened(&self, open: OpenNumber) -> Result<Opened, Errno> {
        self.open.get(&open).copied().ok_or(Errno::BadF)
    }

    /// The directory where a path begins.
    fn start(&self, open: OpenNumber) -> Result<Inode, Errno> {
        let inode = self.opened(open)?.inode;
        if self.node(inode).is_directory() { Ok(inode) } else { Err(Errno::NotDir) }
    }

    fn hold(&mut self, inode: Inode, access: Access) -> OpenNumber {
        let open = OpenNumber(self.next_open);
        self.next_open += 1;
        self.open.insert(open, Opened { inode, access });
        self.node_mut(inode).open += 1;
        open
    }

    pub fn open(
        &mut self, now_ns: u64, from: OpenNumber, path: &str, how: &Open, changes: &mut Vec<Change>,
    ) -> Answer<(OpenNumber, Filetype)> {
        self.act(changes, |files| {
            if files.open.len() >= files.limits.open_max {
                return Err(Errno::NFile);
            }
            let follow = match (how.existence, how.last_link) {
                (Existence::CreatedNew, _) => Follow::Never,
                (_, LastLink::Itself) => Follow::BeforeSlash,
                (_, LastLink::Target) => Follow::Always,
            };
            let inode = match files.walk(files.start(from)?, path, follow)? {
                Last::Missing { directory, name, slash } => match (how.existence, how.kind) {
                    (Existence::Required, _) => return Err(Errno::NoEnt),
                    (_, Kind::Directory) => return Err(Errno::Inval),
                    (_, Kind::Any) if slash => return Err(Errno::IsDir),
                    (_, Kind::Any) => files.make_named(directory, &name, Body::File(Content::default()), now_ns)?,
                },
                Last::Directory(_) | Last::Found { .. } if how.existence == Existence::CreatedNew => {
                    return Err(Errno::Exist);
                }
                Last::Found { inode, slash, .. } => {
                    files.may_open(inode, slash, how)?;
                    inode
                }
                Last::Directory(inode) => {
                    files.may_open(inode, true, how)?;
                    inode
                }
            };
            if how.truncate && files.node(inode).now.size_bytes > 0 {
                files.resize(inode, 0, now_ns);
            }
            let kind = files.node(inode).kind();
            Ok((files.hold(inode, how.access), kind))
        })
    }

    fn may_open(&self, inode: Inode, slash: bool, how: &Open) -> Result<(), Errno> {
        let changes = how.access != Access::Read || how.truncate;
        match &self.node(inode).body {
            Body::Directory(_) if changes => Err(Errno::IsDir),
            Body::Directory(_) => Ok(()),
            _ if slash || how.kind == Kind::Directory => Err(Errno::NotDir),
            Body::Link(_) => Err(Errno::Loop),
            Body::File(_) => Ok(()),
        }
    }

    pub fn duplicate(&mut self, open: OpenNumber) -> Result<OpenNumber, Errno> {
        let opened = self.opened(open)?;
        if self.open.len() >= self.limits.open_max {
            return Err(Errno::NFile);
        }
        Ok(self.hold(opened.inode, opened.access))
    }

    /// What is open no more is forgotten, if it has no name; if it has one, what was written stays to be captured. Nobody need
    /// wait until this is safe.
    pub fn close(&mut self, open: OpenNumber, changes: &mut Vec<Change>) -> Answer<()> {
        self.act(changes, |files| {
            if open == ROOT_OPEN {
                return Ok(());
            }
            let opened = files.open.remove(&open).ok_or(Errno::BadF)?;
            let node = files.node_mut(opened.inode);
            node.open -= 1;
            if node.open == 0 && files.kept.contains(&opened.inode) {
                // It goes when this is safe.
                files.unrecord(opened.inode);
            } else {
                files.settle(opened.inode);
            }
            Ok(())
        })
    }

    /// Opens what somebody had open before a restart.
    pub fn reopen(&mut self, inode: Inode, access: Access) -> Result<OpenNumber, Errno> {
        if self.open.len() >= self.limits.open_max {
            return Err(Errno::NFile);
        }
        let node = self.nodes.get(&inode).filter(|node| node.recorded.is_some()).ok_or(Errno::Stale)?;
        match &node.body {
            Body::Directory(_) if access != Access::Read => Err(Errno::IsDir),
            Body::Link(_) => Err(Errno::Loop),
            _ => Ok(self.hold(inode, access)),
        }
    }

    /// Lets go of what was kept for those who have not come back.
    pub fn forget_kept(&mut self, changes: &mut Vec<Change>) -> Answer<()> {
        self.act(changes, |files| {
            let all: Vec<Inode> = files.kept.iter().copied().filter(|inode| files.node(*inode).open == 0).collect();
            all.into_iter().for_each(|inode| files.unrecord(inode));
            Ok(())
        })
    }

    pub fn inode(&self, open: OpenNumber) -> Result<(Inode, Access), Errno> {
        self.opened(open).map(|opened| (opened.inode, opened.access))
    }

    /// A file that has never had a name, with nothing in it.
    pub fn orphan_file(&mut self, now_ns: u64, changes: &mut Vec<Change>) -> Answer<OpenNumber> {
        self.act(changes, |files| {
            let inode = files.make(Body::File(Content::default()), now_ns)?;
            files.node_mut(inode).was = "a file that has no name".to_owned();
            files.keep(inode);
            Ok(files.hold(inode, Access::ReadWrite))
        })
    }

    pub fn orphan_directory(&mut self, now_ns: u64, changes: &mut Vec<Change>) -> Answer<OpenNumber> {
        self.act(changes, |files| {
            let inode = files.make(Body::Directory(Listing::default()), now_ns)?;
            files.node_mut(inode).was = "a directory that has no name".to_owned();
            files.keep(inode);
            Ok(files.hold(inode, Access::Read))
        })
    }

    pub fn locate(&self, open: OpenNumber) -> Result<Place, Errno> {
        let inode = self.opened(open)?.inode;
        Ok(match self.path_of(inode) {
            Some(path) => Place::Path(path),
            None => Place::Unlinked(self.node(inode).was.clone()),
        })
    }

    fn stat_of(&self, inode: Inode) -> Stat {
        let node = self.node(inode);
        let links = if inode == ROOT { 1 } else { node.names.len() as u64 };
        let size_bytes = if let Body::Link(content) = &node.body { content.len() as u64 } else { node.now.size_bytes };
        Stat {
            device: self.device,
            inode: inode.0,
            kind: node.kind(),
            links,
            size_bytes,
            accessed_ns: node.now.accessed_ns,
            modified_ns: node.now.modified_ns,
            changed_ns: node.now.changed_ns,
            born_ns: Some(node.born_ns),
        }
    }

    pub fn stat(&self, open: OpenNumber) -> Result<Stat, Errno> {
        Ok(self.stat_of(self.opened(open)?.inode))
    }
}

/// Names.
impl Files {
    pub fn stat_at(&mut self, from: OpenNumber, path: &str, last_link: LastLink) -> Answer<Stat> {
        self.act(&mut Vec::new(), |files| {
            let inode = files.existing(from, path, last_link)?;
            Ok(files.stat_of(inode))
        })
    }

    fn existing(&mut self, from: OpenNumber, path: &str, last_link: LastLink) -> Result<Inode, Errno> {
        let follow = match last_link {
            LastLink::Itself => Follow::BeforeSlash,
            LastLink::Target => Follow::Always,
        };
        match self.walk(self.start(from)?, path, follow)? {
            Last::Missing { .. } => Err(Errno::NoEnt),
            Last::Found { inode, slash: true, .. } if !self.node(inode).is_directory() => Err(Errno::NotDir),
            Last::Found { inode, .. } | Last::Directory(inode) => Ok(inode),
        }
    }

    pub fn list(&mut self, open: OpenNumber) -> Answer<Vec<Entry>> {
        self.act(&mut Vec::new(), |files| {
            let inode = files.start(open)?;
            let above = files.node(inode).names.first().map_or(inode, |called| called.directory);
            let special =
                |name: &str, inode: Inode| Entry { name: name.to_owned(), inode: inode.0, kind: Filetype::Directory };
            let mut entries = alloc::vec![special(".", inode), special("..", above)];
            let listing = files.listing(inode);
            entries.extend(listing.entries.iter().map(|(name, named)| Entry {
                name: (**name).to_owned(),
                inode: named.inode.0,
                kind: files.node(named.inode).kind(),
            }));
            files.see(files.listing(inode).changed_at);
            Ok(entries)
        })
    }

    pub fn create_directory(
        &mut self, now_ns: u64, from: OpenNumber, path: &str, changes: &mut Vec<Change>,
    ) -> Answer<()> {
        self.act(changes, |files| match files.walk(files.start(from)?, path, Follow::Never)? {
            Last::Missing { directory, name, .. } => {
                files.make_named(directory, &name, Body::Directory(Listing::default()), now_ns).map(drop)
            }
            Last::Found { .. } | Last::Directory(_) => Err(Errno::Exist),
        })
    }

    pub fn symlink(
        &mut self, now_ns: u64, content: &str, from: OpenNumber, path: &str, changes: &mut Vec<Change>,
    ) -> Answer<()> {
        self.act(changes, |files| {
            walk::is_content(content)?;
            match files.walk(files.start(from)?, path, Follow::Never)? {
                Last::Missing { slash: true, .. } => Err(Errno::NoEnt),
                Last::Missing { directory, name, .. } => {
                    files.make_named(directory, &name, Body::Link(content.into()), now_ns).map(drop)
                }
                Last::Found { inode, slash: true, .. } if !files.node(inode).is_directory() => Err(Errno::NotDir),
                Last::Found { .. } | Last::Directory(_) => Err(Errno::Exist),
            }
        })
    }

    pub fn read_link(&mut self, from: OpenNumber, path: &str) -> Answer<String> {
        self.act(&mut Vec::new(), |files| {
            let inode = files.existing(from, path, LastLink::Itself)?;
            match &files.node(inode).body {
                Body::Link(content) => Ok((**content).to_owned()),
                _ => Err(Errno::Inval),
            }
        })
    }

    pub fn remove_directory(
        &mut self, now_ns: u64, from: OpenNumber, path: &str, changes: &mut Vec<Change>,
    ) -> Answer<()> {
        self.act(changes, |files| match files.walk(files.start(from)?, path, Follow::Never)? {
            Last::Missing { .. } => Err(Errno::NoEnt),
            // It ends in `.` or `..`, and neither is a name that could be taken away.
            Last::Directory(_) => Err(Errno::Inval),
            Last::Found { directory, name, inode, .. } => {
                let listing = files.node(inode).listing()?;
                let (is_empty, changed_at) = (listing.entries.is_empty(), listing.changed_at);
                files.see(changed_at);
                if !is_empty {
                    return Err(Errno::NotEmpty);
                }
                files.remove(directory, &name, inode, now_ns);
                Ok(())
            }
        })
    }

    pub fn unlink(&mut self, now_ns: u64, from: OpenNumber, path: &str, changes: &mut Vec<Change>) -> Answer<()> {
        self.act(changes, |files| match files.walk(files.start(from)?, path, Follow::Never)? {
            Last::Missing { .. } => Err(Errno::NoEnt),
            Last::Directory(_) => Err(Errno::IsDir),
            Last::Found { inode, .. } if files.node(inode).is_directory() => Err(Errno::IsDir),
            Last::Found { slash: true, .. } => Err(Errno::NotDir),
            Last::Found { directory, name, inode, .. } => {
                files.remove(directory, &name, inode, now_ns);
                Ok(())
            }
        })
    }

    pub fn link(
        &mut self, now_ns: u64, from: (OpenNumber, &str), to: (OpenNumber, &str), changes: &mut Vec<Change>,
    ) -> Answer<()> {
        self.act(changes, |files| {
            let source = files.walk(files.start(from.0)?, from.1, Follow::Never)?;
            let target = files.walk(files.start(to.0)?, to.1, Follow::Never)?;
            let inode = match source {
                Last::Missing { .. } => return Err(Errno::NoEnt),
                Last::Found { inode, slash: true, .. } if !files.node(inode).is_directory() => {
                    return Err(Errno::NotDir);
                }
                Last::Found { inode, .. } | Last::Directory(inode) => inode,
            };
            match target {
                Last::Missing { slash: true, .. } => Err(Errno::NoEnt),
                Last::Missing { .. } if files.node(inode).is_directory() => Err(Errno::Perm),
                Last::Missing { directory, name, .. } => {
                    files.may_add(directory)?;
                    if files.node(inode).names.len() >= files.limits.links_max {
                        return Err(Errno::MLink);
                    }
                    files.name(directory, &name, Some(inode));
                    files.stamp(inode, now_ns);
                    files.touch(directory, now_ns);
                    Ok(())
                }
                Last::Found { inode, slash: true, .. } if !files.node(inode).is_directory() => Err(Errno::NotDir),
                Last::Found { .. } | Last::Directory(_) => Err(Errno::Exist),
            }
        })
    }

    pub fn rename(
        &mut self, now_ns: u64, from: (OpenNumber, &str), to: (OpenNumber, &str), changes: &mut Vec<Change>,
    ) -> Answer<()> {
        self.act(changes, |files| {
            let source = files.walk(files.start(from.0)?, from.1, Follow::Never)?;
            let target = files.walk(files.start(to.0)?, to.1, Follow::Never)?;
            if matches!(source, Last::Directory(_)) || matches!(target, Last::Directory(_)) {
                return Err(Errno::Busy);
            }
            let Last::Found { directory: old, name: old_name, inode, slash } = source else {
                return Err(Errno::NoEnt);
            };
            let is_directory = files.node(inode).is_directory();
            let (new, new_name, replaced, new_slash) = match target {
                Last::Directory(_) => unreachable!("it was just refused"),
                Last::Missing { directory, name, slash } => (directory, name, None, slash),
                Last::Found { directory, name, inode, slash } => (directory, name, Some(inode), slash),
            };
            if (slash || new_slash) && !is_directory {
                return Err(Errno::NotDir);
            }
            if replaced == Some(inode) {
                // Two names of one file, or the same name: both stay, as POSIX says.
                return Ok(());
            }
            if is_directory && files.is_within(new, inode) && !planted(Bug::RenameIntoItself) {
                return Err(Errno::Inval);
            }
            if replaced.is_some_and(|replaced| files.is_within(old, replaced)) {
                // What is moved is in it.
                return Err(Errno::NotEmpty);
            }
            match replaced.map(|replaced| (files.node(replaced).is_directory(), replaced)) {
                Some((true, _)) if !is_directory => return Err(Errno::IsDir),
                Some((false, _)) if is_directory => return Err(Errno::NotDir),
                Some((true, replaced)) => {
                    let listing = files.listing(replaced);
                    let (is_empty, changed_at) = (listing.entries.is_empty(), listing.changed_at);
                    files.see(changed_at);
                    if !is_empty {
                        return Err(Errno::NotEmpty);
                    }
                }
                Some((false, _)) => {}
                None if old == new => {}
                None => files.may_add(new)?,
            }
            if files.is_removed(new) {
                return Err(Errno::NoEnt);
            }
            if !planted(Bug::RenameKeepsOld) || is_directory {
                files.name(old, &old_name, None);
            }
            files.name(new, &new_name, Some(inode));
            if let Some(replaced) = replaced {
                if !files.node(replaced).names.is_empty() {
                    files.stamp(replaced, now_ns);
                } else if !planted(Bug::ReplacedIsKept) {
                    files.was_removed(replaced, now_ns);
                }
            }
            files.stamp(inode, now_ns);
            files.touch(old, now_ns);
            if new != old {
                files.touch(new, now_ns);
            }
            Ok(())
        })
    }

    /// Is a directory another one, or below it?
    fn is_within(&self, directory: Inode, above: Inode) -> bool {
        let mut at = directory;
        loop {
            if at == above {
                return true;
            }
            match self.node(at).names.first() {
                Some(called) => at = called.directory,
                None => return false,
            }
        }
    }

    pub fn set_times_at(
        &mut self, now_ns: u64, from: OpenNumber, path: &str, last_link: LastLink, times: SetTimes,
        changes: &mut Vec<Change>,
    ) -> Answer<()> {
        self.act(changes, |files| {
            let inode = files.existing(from, path, last_link)?;
            files.set_times_of(inode, times, now_ns);
            Ok(())
        })
    }

    pub fn set_times(
        &mut self, now_ns: u64, open: OpenNumber, times: SetTimes, changes: &mut Vec<Change>,
    ) -> Answer<()> {
        self.act(changes, |files| {
            let inode = files.opened(open)?.inode;
            files.set_times_of(inode, times, now_ns);
            Ok(())
        })
    }

    fn set_times_of(&mut self, inode: Inode, times: SetTimes, now_ns: u64) {
        let node = self.node_mut(inode);
        let set = |attributes: &mut Attributes| {
            let time = |time, before| match time {
                SetTime::Keep => before,
                SetTime::Now => now_ns,
                SetTime::At(ns) => ns,
            };
            attributes.accessed_ns = time(times.accessed, attributes.accessed_ns);
            attributes.modified_ns = time(times.modified, attributes.modified_ns);
            attributes.changed_ns = now_ns;
        };
        set(&mut node.now);
        if let Some(mut attributes) = node.recorded {
            set(&mut attributes);
            self.record(inode, attributes);
        }
    }
}

/// Content.
impl Files {
    /// What stands there, up to the end of the file.
    pub fn read(&self, open: OpenNumber, offset: u64, count: usize) -> Result<Vec<Stretch>, Errno> {
        let opened = self.opened(open)?;
        let content = self.node(opened.inode).content()?;
        if opened.access == Access::Write {
            return Err(Errno::BadF);
        }
        if offset > OFFSET_MAX {
            return Err(Errno::Inval);
        }
        let end = self.node(opened.inode).now.size_bytes.min(offset.saturating_add(count as u64));
        Ok(content.read(offset.min(end), end))
    }

    /// What stands there, whatever it was opened for.
    pub fn read_any(&self, open: OpenNumber, offset: u64, count: usize) -> Result<Vec<Stretch>, Errno> {
        let node = self.node(self.opened(open)?.inode);
        let end = node.now.size_bytes.min(offset.saturating_add(count as u64));
        Ok(node.content()?.read(offset.min(end), end))
    }

    /// All of a file, whatever it was opened for.
    pub fn read_all(&self, open: OpenNumber, bytes_max: u64) -> Result<Vec<Stretch>, Errno> {
        let node = self.node(self.opened(open)?.inode);
        let content = node.content()?;
        if node.now.size_bytes > bytes_max {
            return Err(Errno::FBig);
        }
        Ok(content.read(0, node.now.size_bytes))
    }

    /// Writes, and gives how much was written and the position behind it.
    pub fn write(
        &mut self, now_ns: u64, open: OpenNumber, at: At, bytes: &[u8], supply: &Supply,
    ) -> Result<(usize, u64), WriteError> {
        let (inode, size_bytes) = self.writable(open).map_err(WriteError::Failed)?;
        let offset = match at {
            At::Offset(offset) if offset > OFFSET_MAX => return Err(WriteError::Failed(Errno::Inval)),
            At::Offset(offset) => offset,
            At::EndAt(end) if end != size_bytes => return Err(WriteError::Failed(Errno::Again)),
            At::End | At::EndAt(_) => size_bytes,
        };
        if bytes.is_empty() {
            return Ok((0, offset));
        }
        let room = self.limits.file_bytes_max.saturating_sub(offset);
        if room == 0 {
            return Err(WriteError::Failed(Errno::FBig));
        }
        let count = bytes.len().min(WRITE_BYTES_MAX).min(usize::try_from(room).unwrap_or(usize::MAX));
        let content = self.node(inode).content().map_err(WriteError::Failed)?;
        let wants = content.wants(offset, count, supply);
        if !wants.is_empty() {
            return Err(WriteError::Wants(wants));
        }
        if self.tally.held_bytes + content.growth(offset, count) > self.limits.tree_bytes_max {
            return Err(WriteError::Failed(Errno::NoSpc));
        }
        let version = self.version();
        let (content, tally) = content_of(&mut self.nodes, &mut self.tally, inode);
        content.write(offset, &bytes[..count], version, supply, tally);
        let end = offset + count as u64;
        self.was_written(inode, size_bytes.max(end), now_ns);
        Ok((count, end))
    }

    fn writable(&self, open: OpenNumber) -> Result<(Inode, u64), Errno> {
        let opened = self.opened(open)?;
        let node = self.node(opened.inode);
        node.content()?;
        if opened.access == Access::Read { Err(Errno::BadF) } else { Ok((opened.inode, node.now.size_bytes)) }
    }

    fn version(&mut self) -> u64 {
        self.next_version += 1;
        self.next_version
    }

    fn was_written(&mut self, inode: Inode, size_bytes: u64, now_ns: u64) {
        let node = self.node_mut(inode);
        node.now.size_bytes = size_bytes;
        (node.now.modified_ns, node.now.changed_ns) = (now_ns, now_ns);
        self.changed.insert(inode);
    }

    pub fn set_size(&mut self, now_ns: u64, open: OpenNumber, size_bytes: u64) -> Result<(), Errno> {
        let opened = self.opened(open)?;
        self.node(opened.inode).content()?;
        if opened.access == Access::Read || size_bytes > OFFSET_MAX {
            return Err(Errno::Inval);
        }
        if size_bytes > self.limits.file_bytes_max {
            return Err(Errno::FBig);
        }
        self.resize(opened.inode, size_bytes, now_ns);
        Ok(())
    }

    fn resize(&mut self, inode: Inode, size_bytes: u64, now_ns: u64) {
        let version = self.version();
        let (content, tally) = content_of(&mut self.nodes, &mut self.tally, inode);
        content.cut(size_bytes, version, tally);
        self.was_written(inode, size_bytes, now_ns);
    }

    /// The file reaches this far. That the disk has room is for the caller to see to.
    pub fn allocate(&mut self, now_ns: u64, open: OpenNumber, offset: u64, length: u64) -> Result<(), Errno> {
        let end = offset.checked_add(length).filter(|end| *end <= OFFSET_MAX).ok_or(Errno::FBig)?;
        let (inode, size_bytes) = self.writable(open)?;
        if length == 0 {
            return Err(Errno::Inval);
        }
        if end > self.limits.file_bytes_max {
            return Err(Errno::FBig);
        }
        if self.tally.held_bytes.saturating_add(length) > self.limits.tree_bytes_max {
            return Err(Errno::NoSpc);
        }
        if end > size_bytes {
            self.was_written(inode, end, now_ns);
        }
        Ok(())
    }
}

/// Making content durable.
impl Files {
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn dirty_bytes(&self) -> u64 {
        self.tally.dirty_bytes
    }

    pub fn held_bytes(&self) -> u64 {
        self.tally.held_bytes
    }

    pub fn inodes(&self) -> usize {
        self.nodes.len()
    }

    /// Files with something that is not recorded, or cannot be because they have no name.
    pub fn changed(&self) -> impl Iterator<Item = Inode> {
        self.changed.iter().copied()
    }

    /// Takes a snapshot of a file, to be recorded.
    pub fn capture(&mut self, inode: Inode) -> Flush {
        let Some(node) = self.nodes.get_mut(&inode) else { return Flush::Nothing(Sequence(0)) };
        if node.captured {
            return Flush::Busy;
        }
        let (Some(before), true) = (node.recorded, node.is_changed()) else {
            if node.recorded.is_some() {
                self.changed.remove(&inode);
            }
            return Flush::Nothing(node.recorded_at);
        };
        let Body::File(content) = &mut node.body else { return Flush::Nothing(node.recorded_at) };
        let pages = content.capture();
        let purpose = Purpose::Record { attributes: node.now, before };
        self.pin(inode, pages, purpose)
    }

    /// Takes the pages of a file that are only in memory, to be stored and not recorded.
    pub fn capture_dirty(&mut self, inode: Inode) -> Flush {
        let Some(node) = self.nodes.get_mut(&inode) else { return Flush::Nothing(Sequence(0)) };
        if node.captured {
            return Flush::Busy;
        }
        match &node.body {
            Body::File(content) if content.has_dirty() => {
                let pages = content.dirty();
                self.pin(inode, pages, Purpose::Store)
            }
            _ => Flush::Nothing(node.recorded_at),
        }
    }

    fn pin(&mut self, inode: Inode, pages: Vec<(u64, Captured)>, purpose: Purpose) -> Flush {
        self.node_mut(inode).captured = true;
        let stored = |(_, captured): &(u64, Captured)| match captured {
            Captured::Stored(piece) => Some(piece.clone()),
            _ => None,
        };
        let pinned: Vec<Piece> = pages.iter().filter_map(stored).collect();
        pinned.iter().for_each(|piece| self.tally.need(Some(piece)));
        self.captured.insert(inode, pinned);
        Flush::Captured(Capture { inode, pages, purpose, undone: self.undone })
    }

    fn unpin(&mut self, inode: Inode) {
        let pinned = self.captured.remove(&inode).expect("a capture ends once");
        pinned.iter().for_each(|piece| self.tally.release(Some(piece)));
        self.node_mut(inode).captured = false;
        self.settle(inode);
    }

    /// The pages of a capture that had bytes are stored as these pieces. [`Errno::Again`] if changes were taken back since: what
    /// counted as recorded when the capture was taken may not be, so that another must be taken.
    pub fn flushed(
        &mut self, capture: Capture, pieces: &BTreeMap<u64, Piece>, changes: &mut Vec<Change>,
    ) -> Answer<()> {
        let inode = capture.inode;
        if capture.undone != self.undone && !planted(Bug::CaptureOutlivesUndo) {
            self.flush_failed(capture);
            return Answer { result: Err(Errno::Again), after: Sequence(0) };
        }
        let answer = self.act(changes, |files| {
            for (index, captured) in &capture.pages {
                let piece = match captured {
                    Captured::Gone => None,
                    Captured::Stored(piece) => Some(piece),
                    Captured::Bytes { .. } => Some(pieces.get(index).expect("every captured page is stored")),
                };
                if let Purpose::Record { .. } = capture.purpose
                    && files.node(inode).recorded.is_some()
                {
                    files.record_page(inode, *index, piece);
                }
                if let (Captured::Bytes { version, .. }, Some(piece)) = (captured, piece) {
                    let (content, tally) = content_of(&mut files.nodes, &mut files.tally, inode);
                    content.stored(*index, *version, piece, tally);
                }
            }
            if files.node(inode).recorded.is_none() {
                // It has lost its name meanwhile, and would be found unrecorded if that were taken back.
                let (content, _) = content_of(&mut files.nodes, &mut files.tally, inode);
                content.restore(capture.pages.iter().map(|(index, _)| *index));
            }
            if let Purpose::Record { mut attributes, before } = capture.purpose
                && let Some(recorded) = files.node(inode).recorded
            {
                if recorded != before {
                    // Somebody set the times meanwhile, and was told that they are safe.
                    attributes = Attributes { size_bytes: attributes.size_bytes, ..recorded };
                }
                files.write_record(inode, attributes);
                files.pending_undo.push(Undo::Flushed { inode, before: recorded });
            }
            Ok(())
        });
        if !self.node(inode).is_changed() && self.node(inode).recorded.is_some() {
            self.changed.remove(&inode);
        }
        self.unpin(inode);
        answer
    }

    fn record_page(&mut self, inode: Inode, index: u64, piece: Option<&Piece>) {
        let (content, tally) = content_of(&mut self.nodes, &mut self.tally, inode);
        let before = content.record(index, piece.cloned(), tally);
        // What was recorded is needed until this is safe.
        self.pending.push(match piece {
            Some(piece) => Change::Page { inode, index, piece: piece.clone() },
            None => Change::NoPage { inode, index },
        });
        self.pending_undo.push(Undo::Page { inode, index, before });
    }

    /// The pages of a capture could not be stored: it is as if it had not been taken.
    pub fn flush_failed(&mut self, capture: Capture) {
        if let Purpose::Record { .. } = capture.purpose {
            let (content, _) = content_of(&mut self.nodes, &mut self.tally, capture.inode);
            content.restore(capture.pages.iter().map(|(index, _)| *index));
            self.changed.insert(capture.inode);
        }
        self.unpin(capture.inode);
    }
}

/// What must hold.
impl Files {
    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        if let Err(what) = self.verify() {
            panic!("{what}");
        }
    }

    fn verify(&self) -> Result<(), &'static str> {
        let mut ought = Tally::default();
        let mut names = 0;
        let mut reached: BTreeSet<Inode> = BTreeSet::new();
        let mut at = alloc::vec![ROOT];
        while let Some(inode) = at.pop() {
            if !reached.insert(inode) {
                return Err("a directory is reached twice");
            }
            for (name, named) in &self.nodes[&inode].listing().map_err(|_| "a directory is none")?.entries {
                let node = self.nodes.get(&named.inode).ok_or("a name is that of nothing")?;
                if !node.names.contains(&Called { directory: inode, name: name.clone() }) {
                    return Err("a file does not know its name");
                }
                names += 1;
                if node.is_directory() {
                    at.push(named.inode);
                }
            }
        }
        for (inode, node) in &self.nodes {
            names -= node.names.len() as i64;
            if node.is_directory() && node.names.len() > 1 {
                return Err("a directory has two names");
            }
            if node.is_directory() && !node.names.is_empty() && !reached.contains(inode) {
                return Err("a directory is not below the root");
            }
            let kept = self.kept.contains(inode);
            if (node.names.is_empty() && *inode != ROOT && !kept) != node.recorded.is_none() {
                return Err("a file has names and no record, or a record and no name");
            }
            if kept && !node.names.is_empty() {
                return Err("a file with a name is kept as if it had none");
            }
            if let Body::File(content) = &node.body {
                content.count(node.now.size_bytes, &mut ought)?;
                if node.is_changed() && !self.changed.contains(inode) {
                    return Err("a changed file would never be recorded");
                }
            }
        }
        if self.kept.iter().any(|inode| !self.nodes.contains_key(inode)) {
            return Err("nothing is kept");
        }
        if names != 0 {
            return Err("there are more names than files know, or fewer");
        }
        if !planted(Bug::ChunkUnusedTooEarly) {
            let entries = self.undo.iter().flat_map(|(_, entries)| entries);
            entries.for_each(|undo| ought.need(undo.piece()));
        }
        self.captured.values().flatten().for_each(|piece| ought.need(Some(piece)));
        if ought.counts() != self.tally.counts() {
            return Err("the chunks that are needed are miscounted");
        }
        if (ought.dirty_bytes, ought.held_bytes) != (self.tally.dirty_bytes, self.tally.held_bytes) {
            return Err("the bytes of pages are miscounted");
        }
        if !self.pending.is_empty() || !self.pending_undo.is_empty() {
            return Err("an act is half done");
        }
        Ok(())
    }
}
