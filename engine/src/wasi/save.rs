//! A process's system state as bytes, and back. Knows what must survive; not how it is used.
//!
//! The one idea: what is saved of an open file is how to find it and how to recognize it. It is opened again without any
//! of the effects that opening it first had (nothing is created, nothing emptied), and another file in its place is
//! noticed. What no longer has a name travels along; what cannot be found again is an error that names it.
//!
//! ```text
//!   magic, version | args | env | mounts | clocks | unread input | pending call | orphans | descriptors | BLAKE3 of all before
//! ```
//! Numbers are little-endian, lists begin with their length (see `abi::encoding`).

use super::path::access;
use super::table::{At, DESCRIPTORS_MAX, Descriptor, Object, Standard};
use super::{Epoch, MOUNTS_MAX, Pending, Resume, SetupError, System, Table, Unread};
use abi::encoding::{Malformed, Reader, Writer};
use abi::errno::Errno;
use abi::file::{Entry, Existence, Kind, LastLink, Mount, Open, OpenId, Place, SetTime, SetTimes, Stat, StreamKind};
use abi::wasi::{Fdflags, Filetype, Rights};

const MAGIC: &[u8; 8] = b"una-wasi";
const VERSION: u32 = 1;
const CHECKSUM_BYTES: usize = 32;

/// Files without a name travel in the state up to this size.
pub const ORPHAN_BYTES_MAX: u64 = 16 << 20;

/// Input that the program has not read travels in the state up to this size.
pub const UNREAD_BYTES_MAX: usize = 16 << 20;

/// No more is taken in advance from an input that has no end yet: as much as a pipe can hold at most.
const ENDLESS_BYTES_MAX: usize = 1 << 20;

/// Why the state cannot be saved. The process goes on unharmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SaveError {
    #[error(
        "the file {name}, open as descriptor {fd}, was removed, and with more than {ORPHAN_BYTES_MAX} bytes it is too large to be \
         saved with the process; freeze the process when it has closed it"
    )]
    OrphanTooLarge { fd: u32, name: String },
    #[error(
        "the file {name}, open as descriptor {fd}, has no name below the mounted directory `{guest}` any more, so it could not be \
         found again; move it back, or freeze the process when it has closed it"
    )]
    Elsewhere { fd: u32, name: String, guest: String },
    #[error("the file open as descriptor {fd} (below `{guest}`) cannot be saved: {errno}")]
    Unreadable { fd: u32, guest: String, errno: Errno },
    #[error(
        "more than {UNREAD_BYTES_MAX} bytes of standard input are unread, too many to be saved with the process; give the program \
         large inputs as files in a directory (--mount HOST=/path)"
    )]
    UnreadTooLarge,
    #[error("the standard input cannot be read: {errno}")]
    Input { errno: Errno },
}

/// Why a process cannot be continued with this state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("the saved state of the process is damaged ({what})")]
    Damaged { what: &'static str },
    #[error("the saved state of the process has version {version}; this una reads version {VERSION}")]
    UnknownVersion { version: u32 },
    #[error("the saved state of the process contradicts itself: {0}")]
    Setup(SetupError),
    #[error("the process had {host} mounted at `{guest}`; say what is to be there now: --mount HOST={guest}")]
    MountMissing { guest: String, host: String },
    #[error(
        "`{path}`, open as descriptor {fd} when the process was frozen, is not there any more; put it back, or mount a directory \
         that has it"
    )]
    Vanished { fd: u32, path: String },
    #[error(
        "`{path}`, open as descriptor {fd} when the process was frozen, is another file now: it was renamed or replaced; put it \
         back under this name"
    )]
    Replaced { fd: u32, path: String },
    #[error("`{path}`, open as descriptor {fd} when the process was frozen, cannot be opened: {errno}")]
    Unavailable { fd: u32, path: String, errno: Errno },
    #[error(
        "a file that had been removed but was still open as descriptor {fd} cannot be made again below `{guest}`: {errno}"
    )]
    Orphan { fd: u32, guest: String, errno: Errno },
}

impl From<Malformed> for RestoreError {
    fn from(_: Malformed) -> RestoreError {
        RestoreError::Damaged { what: "its parts do not fit together" }
    }
}

/// What a saved state says of its process, for people and for finding what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    pub args: Vec<String>,
    /// As `NAME=value`.
    pub env: Vec<String>,
    pub mounts: Vec<SavedMount>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedMount {
    pub guest: String,
    pub host: String,
    pub read_only: bool,
}

impl Saved {
    pub fn read(bytes: &[u8]) -> Result<Saved, RestoreError> {
        Saved::read_from(&mut open(bytes)?)
    }

    /// What else the state holds, for people: nothing is opened.
    pub fn inventory(bytes: &[u8]) -> Result<Inventory, RestoreError> {
        let mut input = open(bytes)?;
        let saved = Saved::read_from(&mut input)?;
        let _clocks = (input.u64()?, input.u64()?);
        let unread_bytes = input.bytes()?.len();
        let _ended = flag(&mut input)?;
        read_pending(&mut input)?;
        for _ in 0..input.u32()? {
            read_orphan(&mut input)?;
        }
        let mut descriptors = vec![];
        for _ in 0..input.u32()? {
            let (fd, _rights, _flags) = (input.u32()?, (input.u64()?, input.u64()?), input.u32()?);
            let described = read_described(&mut input)?;
            let name = |mount: usize, found: Found| -> Result<Option<String>, Malformed> {
                let mount = saved.mounts.get(mount).ok_or_else(|| input.malformed())?;
                Ok(match found {
                    Found::At { path, .. } => Some(name_of(&mount.guest, &path)),
                    Found::Orphan(_) => None,
                })
            };
            let what = match described {
                Described::Stream(standard) => SavedObject::Stream(standard.number()),
                Described::File { mount, offset, found, .. } => {
                    SavedObject::File { path: name(mount, found)?, offset_bytes: offset }
                }
                Described::Directory { mount, found, .. } => SavedObject::Directory { path: name(mount, found)? },
            };
            descriptors.push((fd, what));
        }
        input.finish()?;
        Ok(Inventory { unread_bytes, descriptors })
    }

    fn read_from(input: &mut Reader) -> Result<Saved, RestoreError> {
        let strings = |input: &mut Reader| (0..input.u32()?).map(|_| input.string()).collect::<Result<Vec<_>, _>>();
        let (args, env) = (strings(input)?, strings(input)?);
        let mut mounts = vec![];
        for _ in 0..input.u32()? {
            mounts.push(SavedMount { guest: input.string()?, host: input.string()?, read_only: flag(input)? });
        }
        Ok(Saved { args, env, mounts })
    }
}

/// What a saved state holds beside what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// Of the standard input.
    pub unread_bytes: usize,
    /// In ascending order.
    pub descriptors: Vec<(u32, SavedObject)>,
}

/// What was open; a path is as the program sees it, and nothing if the file had been removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SavedObject {
    /// 0, 1 or 2.
    Stream(u32),
    File {
        path: Option<String>,
        offset_bytes: u64,
    },
    Directory {
        path: Option<String>,
    },
}

/// A file that has no name.
struct Orphan {
    mount: usize,
    content: OrphanContent,
}

enum OrphanContent {
    File { bytes: Vec<u8>, accessed_ns: u64, modified_ns: u64 },
    Directory,
}

/// How an open file is found again.
enum Found {
    At { path: String, identity: Identity },
    Orphan(usize),
}

/// What tells a file from another one of the same name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    inode: u64,
    born_ns: Option<u64>,
}

impl Identity {
    fn of(stat: &Stat) -> Identity {
        Identity { inode: stat.inode, born_ns: stat.born_ns }
    }
}

// Saving.

impl System {
    /// All of the state. Nothing that the program could notice changes: input that is taken in advance is given to it all the same.
    pub fn save(&mut self) -> Result<Vec<u8>, SaveError> {
        self.take_input()?;
        let mut out = Writer::default();
        out.raw(MAGIC).u32(VERSION);
        for strings in [&self.args, &self.env] {
            out.u32(strings.len() as u32);
            strings.iter().for_each(|string| _ = out.bytes(string.as_bytes()));
        }
        out.u32(self.mounts.len() as u32);
        for mount in &self.mounts {
            out.bytes(mount.guest.as_bytes()).bytes(mount.host.as_bytes()).u8(mount.read_only.into());
        }
        out.u64(self.now_ns()).u64(self.cputime.own_ns(self.clock.cputime_ns()));
        out.bytes(&self.unread.bytes[self.unread.start..]).u8(self.unread.ended.into());
        write_pending(&mut out, self.pending.as_ref());
        let (orphans, places) = self.places()?;
        out.u32(orphans.len() as u32);
        for Orphan { mount, content } in &orphans {
            out.u32(*mount as u32);
            match content {
                OrphanContent::Directory => _ = out.u8(0),
                OrphanContent::File { bytes, accessed_ns, modified_ns } => {
                    out.u8(1).bytes(bytes).u64(*accessed_ns).u64(*modified_ns);
                }
            }
        }
        out.u32(places.len() as u32);
        for ((fd, descriptor), place) in self.table.iter().zip(&places) {
            out.u32(fd).u64(descriptor.rights.raw()).u64(descriptor.inheriting.raw());
            out.u32(descriptor.flags.raw().into());
            write_object(&mut out, &descriptor.object, place.as_ref());
        }
        let mut bytes = out.finish();
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        Ok(bytes)
    }

    /// Takes what waits in the standard input: a pipe's content is gone when its reader is.
    fn take_input(&mut self) -> Result<(), SaveError> {
        let input = &mut self.streams[Standard::Input as usize];
        let is_open = self.table.iter().any(|(_, descriptor)| descriptor.object == Object::Stream(Standard::Input));
        if !is_open || self.unread.ended || !input.may_read_ahead() {
            return Ok(());
        }
        let (endless, most) = match input.kind() {
            StreamKind::File => (false, UNREAD_BYTES_MAX),
            _ => (true, ENDLESS_BYTES_MAX),
        };
        let mut chunk = vec![0; 1 << 16];
        while self.unread.bytes.len() - self.unread.start <= most {
            match input.read(&mut chunk) {
                // A terminal's end is that of one line of typing, not of the terminal.
                Ok(0) => {
                    self.unread.ended = input.kind() != StreamKind::Terminal;
                    return Ok(());
                }
                Ok(read) => self.unread.bytes.extend_from_slice(&chunk[..read]),
                Err(Errno::Again) => return Ok(()),
                Err(errno) => return Err(SaveError::Input { errno }),
            }
        }
        if endless { Ok(()) } else { Err(SaveError::UnreadTooLarge) }
    }

    /// Where each descriptor's file is (nothing for streams), and the files that are nowhere.
    #[allow(clippy::type_complexity)]
    fn places(&mut self) -> Result<(Vec<Orphan>, Vec<Option<Found>>), SaveError> {
        let objects: Vec<(u32, At)> = self
            .table
            .iter()
            .map(|(fd, descriptor)| match descriptor.object {
                Object::Stream(_) => (fd, None),
                Object::File { at, .. } | Object::Directory { at, .. } => (fd, Some(at)),
            })
            .filter_map(|(fd, at)| Some((fd, at?)))
            .collect();
        let mut found = std::collections::BTreeMap::new();
        let mut orphans: Vec<Orphan> = vec![];
        // Two descriptors of one file without a name stay two descriptors of one file.
        let mut known: Vec<(usize, u64, u64)> = vec![];
        for (fd, at) in objects {
            let Mount { guest, files, .. } = &mut self.mounts[at.mount];
            let unreadable = |errno| SaveError::Unreadable { fd, guest: guest.clone(), errno };
            let stat = files.stat(at.id).map_err(unreadable)?;
            let place = match files.locate(at.id).map_err(unreadable)? {
                Place::Path(path) => Found::At { path, identity: Identity::of(&stat) },
                Place::Elsewhere(name) => return Err(SaveError::Elsewhere { fd, name, guest: guest.clone() }),
                Place::Unlinked(name) => {
                    let key = (at.mount, stat.device, stat.inode);
                    let index = match known.iter().position(|other| *other == key) {
                        Some(index) => index,
                        None => {
                            let content = match stat.kind {
                                Filetype::Directory => OrphanContent::Directory,
                                _ => {
                                    let bytes =
                                        files.content(at.id, ORPHAN_BYTES_MAX).map_err(|errno| match errno {
                                            Errno::FBig => SaveError::OrphanTooLarge { fd, name },
                                            errno => unreadable(errno),
                                        })?;
                                    let Stat { accessed_ns, modified_ns, .. } = stat;
                                    OrphanContent::File { bytes, accessed_ns, modified_ns }
                                }
                            };
                            known.push(key);
                            orphans.push(Orphan { mount: at.mount, content });
                            orphans.len() - 1
                        }
                    };
                    Found::Orphan(index)
                }
            };
            found.insert(fd, place);
        }
        let places = self.table.iter().map(|(fd, _)| found.remove(&fd)).collect();
        Ok((orphans, places))
    }
}

fn write_pending(out: &mut Writer, pending: Option<&Pending>) {
    match pending {
        None => _ = out.u8(0),
        Some(Pending::Write { fd, iovs, count, written }) => {
            _ = out.u8(1).u32(*fd).u32(*iovs).u32(*count).u32(*written)
        }
        Some(Pending::Poll { subscriptions, events, count, deadlines_ns }) => {
            out.u8(2).u32(*subscriptions).u32(*events).u32(*count);
            deadlines_ns.iter().for_each(|deadline_ns| write_option(out, *deadline_ns));
        }
    }
}

fn write_option(out: &mut Writer, value: Option<u64>) {
    match value {
        None => _ = out.u8(0),
        Some(value) => _ = out.u8(1).u64(value),
    }
}

fn write_found(out: &mut Writer, place: Option<&Found>) {
    match place.expect("every file and directory has a place") {
        Found::At { path, identity } => {
            out.u8(0).bytes(path.as_bytes()).u64(identity.inode);
            write_option(out, identity.born_ns);
        }
        Found::Orphan(index) => _ = out.u8(1).u32(*index as u32),
    }
}

fn write_object(out: &mut Writer, object: &Object, place: Option<&Found>) {
    match object {
        Object::Stream(standard) => _ = out.u8(0).u8(standard.number() as u8),
        Object::File { at, kind, offset } => {
            out.u8(1).u32(at.mount as u32).u8(kind.raw()).u64(*offset);
            write_found(out, place);
        }
        Object::Directory { at, preopened, listing } => {
            out.u8(2).u32(at.mount as u32).u8((*preopened).into());
            write_found(out, place);
            let Some(entries) = listing else {
                out.u8(0);
                return;
            };
            out.u8(1).u32(entries.len() as u32);
            for Entry { name, inode, kind } in entries {
                out.bytes(name.as_bytes()).u64(*inode).u8(kind.raw());
            }
        }
    }
}

// Restoring.

/// The part of a saved state that its checksum covers, behind the version.
fn open(bytes: &[u8]) -> Result<Reader<'_>, RestoreError> {
    let end = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(RestoreError::Damaged { what: "it is cut off" })?;
    let (content, checksum) = bytes.split_at(end);
    let mut input = Reader::new(content);
    if input.raw(MAGIC.len())? != MAGIC {
        return Err(RestoreError::Damaged { what: "it does not begin as it should" });
    }
    let version = input.u32()?;
    if version != VERSION {
        return Err(RestoreError::UnknownVersion { version });
    }
    if blake3::hash(content).as_bytes() != checksum {
        return Err(RestoreError::Damaged { what: "its checksum is not that of its content" });
    }
    Ok(input)
}

fn flag(input: &mut Reader) -> Result<bool, Malformed> {
    match input.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(input.malformed()),
    }
}

fn option(input: &mut Reader) -> Result<Option<u64>, Malformed> {
    if flag(input)? { input.u64().map(Some) } else { Ok(None) }
}

fn kind(input: &mut Reader) -> Result<Filetype, Malformed> {
    let raw = input.u8()?;
    Filetype::from_raw(raw).ok_or_else(|| input.malformed())
}

fn read_pending(input: &mut Reader) -> Result<Option<Pending>, Malformed> {
    match input.u8()? {
        0 => Ok(None),
        1 => {
            let (fd, iovs, count, written) = (input.u32()?, input.u32()?, input.u32()?, input.u32()?);
            Ok(Some(Pending::Write { fd, iovs, count, written }))
        }
        2 => {
            let (subscriptions, events, count) = (input.u32()?, input.u32()?, input.u32()?);
            let deadlines_ns = (0..count).map(|_| option(input)).collect::<Result<Vec<_>, _>>()?;
            Ok(Some(Pending::Poll { subscriptions, events, count, deadlines_ns }))
        }
        _ => Err(input.malformed()),
    }
}

fn read_found(input: &mut Reader) -> Result<Found, Malformed> {
    match flag(input)? {
        false => {
            let path = input.string()?;
            Ok(Found::At { path, identity: Identity { inode: input.u64()?, born_ns: option(input)? } })
        }
        true => Ok(Found::Orphan(input.u32()? as usize)),
    }
}

/// A descriptor's object as it is written.
enum Described {
    Stream(Standard),
    File { mount: usize, kind: Filetype, offset: u64, found: Found },
    Directory { mount: usize, preopened: bool, found: Found, listing: Option<Vec<Entry>> },
}

fn read_described(input: &mut Reader) -> Result<Described, Malformed> {
    match input.u8()? {
        0 => {
            let standard = Standard::from_number(input.u8()?.into()).ok_or_else(|| input.malformed())?;
            Ok(Described::Stream(standard))
        }
        1 => {
            let (mount, kind, offset) = (input.u32()? as usize, kind(input)?, input.u64()?);
            if kind == Filetype::Directory || offset > i64::MAX as u64 {
                return Err(input.malformed());
            }
            Ok(Described::File { mount, kind, offset, found: read_found(input)? })
        }
        2 => {
            let (mount, preopened, found) = (input.u32()? as usize, flag(input)?, read_found(input)?);
            let mut listing = None;
            if flag(input)? {
                let mut entries = vec![];
                for _ in 0..input.u32()? {
                    entries.push(Entry { name: input.string()?, inode: input.u64()?, kind: kind(input)? });
                }
                listing = Some(entries);
            }
            Ok(Described::Directory { mount, preopened, found, listing })
        }
        _ => Err(input.malformed()),
    }
}

/// A file's name as the program sees it.
fn name_of(guest: &str, path: &str) -> String {
    format!("{}/{path}", guest.trim_end_matches('/'))
}

impl System {
    /// The state of a process that is to be continued, with the files that it had open.
    pub fn restore(bytes: &[u8], resume: Resume) -> Result<System, RestoreError> {
        let mut system = System::blank(resume);
        system.go_on(bytes)?;
        Ok(system)
    }

    /// Of a process that is to be continued, before its state is there: it has what it is given, and nothing is open.
    pub fn blank(resume: Resume) -> System {
        let Resume { mounts, stdin, stdout, stderr, clock, entropy, waiter } = resume;
        System {
            args: vec![],
            env: vec![],
            mounts,
            streams: [stdin, stdout, stderr],
            unread: Unread::default(),
            monotonic: Epoch { host_ns: clock.monotonic_ns(), own_ns: 0 },
            cputime: Epoch { host_ns: clock.cputime_ns(), own_ns: 0 },
            clock,
            entropy,
            waiter,
            table: Table::default(),
            pending: None,
        }
    }

    /// What was blank goes on in this state, and has the files that were open. After an error it is of no use.
    pub fn go_on(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        let mut input = open(bytes)?;
        let saved = Saved::read_from(&mut input)?;
        if saved.mounts.len() > MOUNTS_MAX {
            return Err(RestoreError::Setup(SetupError::TooManyMounts { count: saved.mounts.len() }));
        }
        let mut given = std::mem::take(&mut self.mounts);
        for SavedMount { guest, host, .. } in &saved.mounts {
            let found = given.iter().position(|mount| mount.guest == *guest);
            let missing = || RestoreError::MountMissing { guest: guest.clone(), host: host.clone() };
            self.mounts.push(given.swap_remove(found.ok_or_else(missing)?));
        }
        let (own_monotonic_ns, own_cputime_ns) = (input.u64()?, input.u64()?);
        self.unread = Unread { bytes: input.bytes()?.to_vec(), start: 0, ended: flag(&mut input)? };
        self.pending = read_pending(&mut input)?;
        self.monotonic = Epoch { host_ns: self.clock.monotonic_ns(), own_ns: own_monotonic_ns };
        self.cputime = Epoch { host_ns: self.clock.cputime_ns(), own_ns: own_cputime_ns };
        (self.args, self.env) = (saved.args, saved.env);
        self.check().map_err(RestoreError::Setup)?;
        let mut orphans = vec![];
        for _ in 0..input.u32()? {
            orphans.push(read_orphan(&mut input)?);
        }
        let mut made: Vec<Option<OpenId>> = orphans.iter().map(|_| None).collect();
        for _ in 0..input.u32()? {
            let fd = input.u32()?;
            if fd as usize >= DESCRIPTORS_MAX || self.table.get(fd).is_ok() {
                return Err(input.malformed().into());
            }
            let (rights, inheriting) = (Rights::from_raw(input.u64()?), Rights::from_raw(input.u64()?));
            let flags = u16::try_from(input.u32()?).ok().and_then(Fdflags::from_raw);
            let (Some(rights), Some(inheriting), Some(flags)) = (rights, inheriting, flags) else {
                return Err(input.malformed().into());
            };
            let object = self.read_object(&mut input, fd, rights, &saved.mounts, (&orphans, &mut made))?;
            self.table.place(fd, Descriptor { object, rights, inheriting, flags });
        }
        input.finish()?;
        Ok(())
    }

    /// Reads what a descriptor is, and opens it.
    fn read_object(
        &mut self, input: &mut Reader, fd: u32, rights: Rights, saved: &[SavedMount],
        orphans: (&[Orphan], &mut [Option<OpenId>]),
    ) -> Result<Object, RestoreError> {
        let described = read_described(input)?;
        let mount = match described {
            Described::Stream(standard) => return Ok(Object::Stream(standard)),
            Described::File { mount, .. } | Described::Directory { mount, .. } => mount,
        };
        if mount >= self.mounts.len() {
            return Err(input.malformed().into());
        }
        let is_same_host = self.mounts[mount].host == saved[mount].host;
        let how = |kind, access| Open {
            last_link: LastLink::Itself,
            existence: Existence::Required,
            kind,
            access,
            truncate: false,
        };
        match described {
            Described::Stream(_) => unreachable!("it is dealt with above"),
            Described::File { kind, offset, found, .. } => {
                let reads = rights.contains(Rights::FD_READ);
                let writes = Rights::FD_WRITE | Rights::FD_ALLOCATE | Rights::FD_FILESTAT_SET_SIZE;
                let how = how(Kind::Any, access(reads, rights.intersects(writes)));
                let id = self.find(fd, mount, is_same_host, found, &how, Some(kind), orphans)?;
                Ok(Object::File { at: At { mount, id }, kind, offset })
            }
            Described::Directory { preopened, found, listing, .. } => {
                let root = self.mounts[mount].files.root();
                if preopened {
                    return Ok(Object::Directory { at: At { mount, id: root }, preopened, listing });
                }
                let how = how(Kind::Directory, abi::file::Access::Read);
                let id = self.find(fd, mount, is_same_host, found, &how, None, orphans)?;
                Ok(Object::Directory { at: At { mount, id }, preopened, listing })
            }
        }
    }

    /// Opens a file that was open, or makes one that has no name. `kind` is that of a file, nothing stands for a directory.
    #[allow(clippy::too_many_arguments)]
    fn find(
        &mut self, fd: u32, mount: usize, is_same_host: bool, found: Found, how: &Open, kind: Option<Filetype>,
        (orphans, made): (&[Orphan], &mut [Option<OpenId>]),
    ) -> Result<OpenId, RestoreError> {
        let Mount { guest, files, .. } = &mut self.mounts[mount];
        let malformed = RestoreError::Damaged { what: "its parts do not fit together" };
        let (path, identity) = match found {
            Found::At { path, identity } => (path, identity),
            Found::Orphan(index) => {
                let orphan = orphans.get(index).filter(|orphan| orphan.mount == mount).ok_or(malformed.clone())?;
                let id = match (made[index], &orphan.content, kind) {
                    (Some(id), OrphanContent::File { .. }, Some(_)) => files.duplicate(id),
                    (Some(id), OrphanContent::Directory, None) => files.duplicate(id),
                    (None, OrphanContent::Directory, None) => files.orphan_directory(),
                    (None, OrphanContent::File { bytes, accessed_ns, modified_ns }, Some(_)) => {
                        let times =
                            SetTimes { accessed: SetTime::At(*accessed_ns), modified: SetTime::At(*modified_ns) };
                        files.orphan_file(bytes).inspect(|id| {
                            // That its times are other ones is no reason not to continue.
                            let _ = files.set_times(*id, times);
                        })
                    }
                    _ => return Err(malformed),
                };
                let id = id.map_err(|errno| RestoreError::Orphan { fd, guest: guest.clone(), errno })?;
                made[index].get_or_insert(id);
                return Ok(id);
            }
        };
        let name = name_of(guest, &path);
        // The root has no name in itself.
        let relative = if path.is_empty() { "." } else { &path };
        let opened = match files.open(files.root(), relative, how) {
            Ok(opened) => opened,
            Err(Errno::NoEnt | Errno::NotDir) => return Err(RestoreError::Vanished { fd, path: name }),
            Err(Errno::Loop | Errno::IsDir) => return Err(RestoreError::Replaced { fd, path: name }),
            Err(errno) => return Err(RestoreError::Unavailable { fd, path: name, errno }),
        };
        let stat = match files.stat(opened.id) {
            Ok(stat) => stat,
            Err(errno) => {
                files.close(opened.id);
                return Err(RestoreError::Unavailable { fd, path: name, errno });
            }
        };
        // Where another directory was mounted on purpose, its files are other ones of the same name. The root is always
        // what was mounted.
        let must_be_same = is_same_host && !path.is_empty();
        let is_replaced = must_be_same && Identity::of(&stat) != identity;
        if is_replaced || opened.kind != kind.unwrap_or(Filetype::Directory) {
            files.close(opened.id);
            return Err(RestoreError::Replaced { fd, path: name });
        }
        Ok(opened.id)
    }
}

fn read_orphan(input: &mut Reader) -> Result<Orphan, Malformed> {
    let mount = input.u32()? as usize;
    let content = match flag(input)? {
        false => OrphanContent::Directory,
        true => {
            OrphanContent::File { bytes: input.bytes()?.to_vec(), accessed_ns: input.u64()?, modified_ns: input.u64()? }
        }
    };
    Ok(Orphan { mount, content })
}
