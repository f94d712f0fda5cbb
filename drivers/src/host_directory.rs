//! A directory of the host as a file system: what is below it can be reached, and nothing else. Knows no process, no
//! descriptor and no position in a file.
//!
//! The one idea: a path is never looked at here. Every path is resolved by cap-std against an open directory, in the kernel
//! (openat2 with RESOLVE_BENEATH) where that exists, so that neither `..`, nor a link, nor a rename at the wrong moment leads
//! out of it. What is open is a file descriptor, and its name, if it still has one, is asked of /proc when it is needed.

use crate::errno;
use abi::errno::Errno;
use abi::file::{
    Access, Durable, Entry, Existence, FileSystem, Kind, LastLink, Open, OpenId, Opened, Place, SetTime, SetTimes, Stat,
};
use abi::wasi::{Advice, Filetype};
use cap_fs_ext::{DirExt, FileTypeExt, FollowSymlinks, OpenOptionsFollowExt, OpenOptionsMaybeDirExt, SystemTimeSpec};
use cap_std::fs::{Dir, FileType, Metadata, MetadataExt, OpenOptions, OpenOptionsExt};
use cap_std::time::{Duration, SystemTime};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of the directory itself.
const ROOT: OpenId = OpenId(0);

/// More names in one directory are refused: a listing is held in memory.
const ENTRIES_MAX: usize = 1 << 22;

/// A directory of the host, and what is open below it.
///
/// Invariants: number 0 is the directory itself and stays open.
pub struct HostDirectory {
    open: Vec<Option<Held>>,
    read_only: bool,
}

enum Held {
    Directory(Dir),
    File(File),
}

impl HostDirectory {
    /// Everything below `path`, for reading and writing as far as the host permits.
    pub fn open(path: &Path) -> io::Result<HostDirectory> {
        let directory = Dir::open_ambient_dir(path, cap_std::ambient_authority())?;
        // cap-std opens directories only to look up names in them; this one is also synced and stamped.
        let directory =
            open_in(&directory, ".", LastLink::Itself, Access::Read, Existence::Required, false, OFlags::DIRECTORY)
                .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(HostDirectory { open: vec![Some(Held::Directory(Dir::from_std_file(directory)))], read_only: false })
    }

    /// The same, with every change refused.
    pub fn open_read_only(path: &Path) -> io::Result<HostDirectory> {
        Ok(HostDirectory { read_only: true, ..HostDirectory::open(path)? })
    }

    fn held(&self, id: OpenId) -> Result<&Held, Errno> {
        usize::try_from(id.0).ok().and_then(|index| self.open.get(index)?.as_ref()).ok_or(Errno::BadF)
    }

    fn directory(&self, id: OpenId) -> Result<&Dir, Errno> {
        match self.held(id)? {
            Held::Directory(directory) => Ok(directory),
            Held::File(_) => Err(Errno::NotDir),
        }
    }

    fn file(&self, id: OpenId) -> Result<&File, Errno> {
        match self.held(id)? {
            Held::File(file) => Ok(file),
            Held::Directory(_) => Err(Errno::IsDir),
        }
    }

    fn fd(&self, id: OpenId) -> Result<BorrowedFd<'_>, Errno> {
        Ok(match self.held(id)? {
            Held::Directory(directory) => directory.as_fd(),
            Held::File(file) => file.as_fd(),
        })
    }

    fn insert(&mut self, held: Held) -> OpenId {
        let free = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        if free == self.open.len() {
            self.open.push(None);
        }
        self.open[free] = Some(held);
        OpenId(free as u64)
    }

    fn must_be_writable(&self) -> Result<(), Errno> {
        if self.read_only { Err(Errno::RoFs) } else { Ok(()) }
    }

    /// Where /proc says that a descriptor's file is.
    fn host_path(fd: BorrowedFd) -> Result<Vec<u8>, Errno> {
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        Ok(rustix::fs::readlink(link, vec![]).map_err(errno::of)?.into_bytes())
    }
}

/// Opens below a directory. Nothing that could wait (a pipe without its other end) does so.
fn open_in(
    directory: &Dir, path: &str, last_link: LastLink, access: Access, existence: Existence, truncate: bool,
    flags: OFlags,
) -> Result<File, Errno> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options
        .read(access != Access::Write)
        .write(access != Access::Read)
        .truncate(truncate)
        .create(existence == Existence::Created)
        .create_new(existence == Existence::CreatedNew)
        .custom_flags(flags.bits() as i32)
        .maybe_dir(true)
        .follow(match last_link {
            LastLink::Itself => FollowSymlinks::No,
            LastLink::Target => FollowSymlinks::Yes,
        });
    directory.open_with(path, &options).map(|file| file.into_std()).map_err(errno::of)
}

fn kind_of(file_type: FileType) -> Filetype {
    if file_type.is_file() {
        Filetype::RegularFile
    } else if file_type.is_dir() {
        Filetype::Directory
    } else if file_type.is_symlink() {
        Filetype::SymbolicLink
    } else if file_type.is_char_device() {
        Filetype::CharacterDevice
    } else if file_type.is_block_device() {
        Filetype::BlockDevice
    } else if file_type.is_socket() {
        Filetype::SocketStream
    } else {
        Filetype::Unknown
    }
}

fn stat_of(metadata: &Metadata) -> Stat {
    let time = |seconds: i64, nanoseconds: i64| {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(nanoseconds).unwrap_or(0))
    };
    let born = metadata.created().ok();
    let born = born.and_then(|born| born.into_std().duration_since(std::time::UNIX_EPOCH).ok());
    Stat {
        device: metadata.dev(),
        inode: metadata.ino(),
        kind: kind_of(metadata.file_type()),
        links: metadata.nlink(),
        size_bytes: metadata.size(),
        accessed_ns: time(metadata.atime(), metadata.atime_nsec()),
        modified_ns: time(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: time(metadata.ctime(), metadata.ctime_nsec()),
        born_ns: born.and_then(|born| u64::try_from(born.as_nanos()).ok()),
    }
}

fn kind_of_raw(file_type: rustix::fs::FileType) -> Filetype {
    match file_type {
        rustix::fs::FileType::RegularFile => Filetype::RegularFile,
        rustix::fs::FileType::Directory => Filetype::Directory,
        rustix::fs::FileType::Symlink => Filetype::SymbolicLink,
        rustix::fs::FileType::CharacterDevice => Filetype::CharacterDevice,
        rustix::fs::FileType::BlockDevice => Filetype::BlockDevice,
        rustix::fs::FileType::Socket => Filetype::SocketStream,
        rustix::fs::FileType::Fifo | rustix::fs::FileType::Unknown => Filetype::Unknown,
    }
}

/// An offset that Linux could take.
fn offset_of(offset: u64) -> Result<u64, Errno> {
    if offset > i64::MAX as u64 { Err(Errno::Inval) } else { Ok(offset) }
}

impl FileSystem for HostDirectory {
    fn root(&self) -> OpenId {
        ROOT
    }

    fn open(&mut self, directory: OpenId, path: &str, how: &Open) -> Result<Opened, Errno> {
        let directory = self.directory(directory)?;
        let flags = if how.kind == Kind::Directory { OFlags::DIRECTORY } else { OFlags::empty() };
        let open =
            |access, existence, truncate| open_in(directory, path, how.last_link, access, existence, truncate, flags);
        let mut existence = how.existence;
        if self.read_only {
            let found = match open(Access::Read, Existence::Required, false) {
                Ok(file) => Ok(Metadata::from_file(&file).map_err(errno::of)?.is_dir()),
                Err(error) => Err(error),
            };
            match (found, existence) {
                (Ok(_), Existence::CreatedNew) => return Err(Errno::Exist),
                (Ok(true), _) if how.access != Access::Read => return Err(Errno::IsDir),
                (Ok(_), _) if how.access != Access::Read || how.truncate => return Err(Errno::RoFs),
                (Err(Errno::NoEnt), Existence::Created | Existence::CreatedNew) => return Err(Errno::RoFs),
                (Err(error), _) => return Err(error),
                (Ok(_), _) => existence = Existence::Required,
            }
        }
        // cap-std makes files only for writing, so a file to be read is first looked for, as it may not be writable at all.
        let file = match (existence, how.access) {
            (Existence::Created, Access::Read) if !how.truncate => match open(Access::Read, Existence::Required, false)
            {
                Err(Errno::NoEnt) => open(Access::ReadWrite, Existence::Created, false),
                result => result,
            },
            (Existence::CreatedNew, Access::Read) => open(Access::ReadWrite, Existence::CreatedNew, false),
            (existence, Access::Read) if how.truncate => open(Access::ReadWrite, existence, true),
            (existence, access) => open(access, existence, how.truncate && existence != Existence::CreatedNew),
        }?;
        let kind = kind_of(Metadata::from_file(&file).map_err(errno::of)?.file_type());
        let held = match kind {
            Filetype::Directory => Held::Directory(Dir::from_std_file(file)),
            Filetype::RegularFile | Filetype::CharacterDevice | Filetype::BlockDevice => Held::File(file),
            // Pipes and sockets of the host have no positions, and reading them waits.
            _ => return Err(Errno::NotSup),
        };
        Ok(Opened { id: self.insert(held), kind })
    }

    fn duplicate(&mut self, id: OpenId) -> Result<OpenId, Errno> {
        let held = match self.held(id)? {
            Held::Directory(directory) => Held::Directory(directory.try_clone().map_err(errno::of)?),
            Held::File(file) => Held::File(file.try_clone().map_err(errno::of)?),
        };
        Ok(self.insert(held))
    }

    fn close(&mut self, id: OpenId) {
        if id != ROOT
            && let Some(held) = usize::try_from(id.0).ok().and_then(|index| self.open.get_mut(index))
        {
            *held = None;
        }
    }

    fn read_at(&mut self, file: OpenId, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let (file, offset) = (self.file(file)?, offset_of(offset)?);
        rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *buffer, offset)).map_err(errno::of)
    }

    fn write_at(&mut self, file: OpenId, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
        let (file, offset) = (self.file(file)?, offset_of(offset)?);
        rustix::io::retry_on_intr(|| rustix::io::pwrite(file, bytes, offset)).map_err(errno::of)
    }

    fn append(&mut self, file: OpenId, bytes: &[u8]) -> Result<(usize, u64), Errno> {
        let file = self.file(file)?;
        // At the current position (-1), which moves with the write; nothing else uses it.
        let flags = rustix::io::ReadWriteFlags::APPEND;
        let write = || rustix::io::pwritev2(file, &[IoSlice::new(bytes)], u64::MAX, flags);
        let written = rustix::io::retry_on_intr(write).map_err(errno::of)?;
        let end = match rustix::fs::tell(file) {
            // A device has no positions.
            Err(rustix::io::Errno::SPIPE) => 0,
            position => position.map_err(errno::of)?,
        };
        Ok((written, end))
    }

    fn stat(&mut self, id: OpenId) -> Result<Stat, Errno> {
        let metadata = match self.held(id)? {
            Held::Directory(directory) => directory.dir_metadata(),
            Held::File(file) => Metadata::from_file(file),
        };
        metadata.map(|metadata| stat_of(&metadata)).map_err(errno::of)
    }

    fn set_size(&mut self, file: OpenId, size_bytes: u64) -> Result<(), Errno> {
        self.must_be_writable()?;
        rustix::fs::ftruncate(self.file(file)?, offset_of(size_bytes)?).map_err(errno::of)
    }

    fn set_times(&mut self, id: OpenId, times: SetTimes) -> Result<(), Errno> {
        self.must_be_writable()?;
        let time = |time| match time {
            SetTime::Keep => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            SetTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
            SetTime::At(ns) => Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as _ },
        };
        let times = Timestamps { last_access: time(times.accessed), last_modification: time(times.modified) };
        rustix::fs::futimens(self.fd(id)?, &times).map_err(errno::of)
    }

    fn allocate(&mut self, file: OpenId, offset: u64, length: u64) -> Result<(), Errno> {
        self.must_be_writable()?;
        let end = offset.checked_add(length).filter(|end| *end <= i64::MAX as u64).ok_or(Errno::FBig)?;
        let file = self.file(file)?;
        if end == offset {
            return Err(Errno::Inval);
        }
        rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), offset, length).map_err(errno::of)
    }

    fn advise(&mut self, file: OpenId, offset: u64, length: u64, advice: Advice) -> Result<(), Errno> {
        let advice = match advice {
            Advice::Normal => rustix::fs::Advice::Normal,
            Advice::Sequential => rustix::fs::Advice::Sequential,
            Advice::Random => rustix::fs::Advice::Random,
            Advice::WillNeed => rustix::fs::Advice::WillNeed,
            Advice::DontNeed => rustix::fs::Advice::DontNeed,
            Advice::NoReuse => rustix::fs::Advice::NoReuse,
        };
        let length = std::num::NonZeroU64::new(offset_of(length)?);
        rustix::fs::fadvise(self.file(file)?, offset_of(offset)?, length, advice).map_err(errno::of)
    }

    fn sync(&mut self, id: OpenId, what: Durable) -> Result<(), Errno> {
        let fd = self.fd(id)?;
        let result = match what {
            Durable::Content => rustix::fs::fdatasync(fd),
            Durable::Everything => rustix::fs::fsync(fd),
        };
        result.map_err(errno::of)
    }

    fn list(&mut self, id: OpenId) -> Result<Vec<Entry>, Errno> {
        let directory = self.directory(id)?;
        let own = directory.dir_metadata().map_err(errno::of)?.ino();
        let special = |name: &str| Entry { name: name.into(), inode: own, kind: Filetype::Directory };
        let mut entries = vec![special("."), special("..")];
        let listing = match rustix::fs::Dir::read_from(directory) {
            // The directory was removed: it has no names any more.
            Err(rustix::io::Errno::NOENT) => return Ok(entries),
            listing => listing.map_err(errno::of)?,
        };
        for entry in listing {
            let entry = entry.map_err(errno::of)?;
            match entry.file_name().to_bytes() {
                b"." => {}
                // What is above the root is nobody's business.
                b".." if id == ROOT => {}
                b".." => entries[1].inode = entry.ino(),
                name => {
                    let Ok(name) = std::str::from_utf8(name) else { continue };
                    if entries.len() >= ENTRIES_MAX {
                        return Err(Errno::NoMem);
                    }
                    let mut kind = entry.file_type();
                    if kind == rustix::fs::FileType::Unknown
                        && let Ok(stat) =
                            rustix::fs::statat(directory, entry.file_name(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                    {
                        kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
                    }
                    entries.push(Entry { name: name.into(), inode: entry.ino(), kind: kind_of_raw(kind) });
                }
            }
        }
        Ok(entries)
    }

    fn stat_at(&mut self, directory: OpenId, path: &str, last_link: LastLink) -> Result<Stat, Errno> {
        let directory = self.directory(directory)?;
        let metadata = match last_link {
            LastLink::Itself => directory.symlink_metadata(path),
            LastLink::Target => directory.metadata(path),
        };
        metadata.map(|metadata| stat_of(&metadata)).map_err(errno::of)
    }

    fn set_times_at(
        &mut self, directory: OpenId, path: &str, last_link: LastLink, times: SetTimes,
    ) -> Result<(), Errno> {
        self.must_be_writable()?;
        let time = |time| match time {
            SetTime::Keep => None,
            SetTime::Now => Some(SystemTimeSpec::SymbolicNow),
            SetTime::At(ns) => {
                let time = SystemTime::from_std(std::time::UNIX_EPOCH) + Duration::from_nanos(ns);
                Some(SystemTimeSpec::Absolute(time))
            }
        };
        let (accessed, modified) = (time(times.accessed), time(times.modified));
        let directory = self.directory(directory)?;
        match last_link {
            LastLink::Itself => directory.set_symlink_times(path, accessed, modified),
            LastLink::Target => DirExt::set_times(directory, path, accessed, modified),
        }
        .map_err(errno::of)
    }

    fn create_directory(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.must_be_writable()?;
        self.directory(directory)?.create_dir(path).map_err(errno::of)
    }

    fn remove_directory(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.must_be_writable()?;
        // cap-std takes a slash at the end for the directory's own `.`, which cannot be removed.
        let name = path.trim_end_matches('/');
        self.directory(directory)?.remove_dir(if name.is_empty() { path } else { name }).map_err(errno::of)
    }

    fn unlink(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.must_be_writable()?;
        self.directory(directory)?.remove_file(path).map_err(errno::of)
    }

    fn rename(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno> {
        self.must_be_writable()?;
        self.directory(from.0)?.rename(from.1, self.directory(to.0)?, to.1).map_err(errno::of)
    }

    fn link(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno> {
        self.must_be_writable()?;
        self.directory(from.0)?.hard_link(from.1, self.directory(to.0)?, to.1).map_err(errno::of)
    }

    fn symlink(&mut self, content: &str, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.must_be_writable()?;
        self.directory(directory)?.symlink(content, path).map_err(errno::of)
    }

    fn read_link(&mut self, directory: OpenId, path: &str) -> Result<String, Errno> {
        let content = self.directory(directory)?.read_link_contents(path).map_err(errno::of)?;
        content.into_os_string().into_string().map_err(|_| Errno::IlSeq)
    }

    fn locate(&mut self, id: OpenId) -> Result<Place, Errno> {
        if id == ROOT {
            return Ok(Place::Path(String::new()));
        }
        let stat = self.stat(id)?;
        let path = HostDirectory::host_path(self.fd(id)?)?;
        let root = HostDirectory::host_path(self.fd(ROOT)?)?;
        let top = if root == b"/" { &root[..0] } else { &root[..] };
        let below = match path == root {
            true => Some(&b""[..]),
            false => path.strip_prefix(top).and_then(|path| path.strip_prefix(b"/")),
        };
        if let Some(below) = below.and_then(|below| std::str::from_utf8(below).ok()) {
            // /proc says where the file was when its name was last looked at: believe it only if it is there.
            let found = self.stat_at(ROOT, if below.is_empty() { "." } else { below }, LastLink::Itself);
            if found.is_ok_and(|found| (found.device, found.inode) == (stat.device, stat.inode)) {
                return Ok(Place::Path(below.into()));
            }
        }
        let name = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let removed = path.strip_suffix(b" (deleted)");
        match (removed, stat.kind, stat.links) {
            (removed, _, 0) => Ok(Place::Unlinked(name(removed.unwrap_or(&path)))),
            // Some file systems leave removed directories a link.
            (Some(path), Filetype::Directory, _) => Ok(Place::Unlinked(name(path))),
            _ => Ok(Place::Elsewhere(name(&path))),
        }
    }

    fn content(&mut self, file: OpenId, bytes_max: u64) -> Result<Vec<u8>, Errno> {
        // Through /proc, because it may be open for writing alone.
        let path = format!("/proc/self/fd/{}", self.file(file)?.as_raw_fd());
        let file = File::open(path).map_err(errno::of)?;
        let mut content = vec![];
        let limit = bytes_max.saturating_add(1);
        io::Read::read_to_end(&mut io::Read::take(file, limit), &mut content).map_err(errno::of)?;
        if content.len() as u64 > bytes_max { Err(Errno::FBig) } else { Ok(content) }
    }

    fn orphan_file(&mut self, content: &[u8]) -> Result<OpenId, Errno> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let on_disk = match self.read_only {
            false => rustix::fs::openat(self.fd(ROOT)?, ".", flags, Mode::from_raw_mode(0o600)),
            true => Err(rustix::io::Errno::ROFS),
        };
        // Not every file system has files without names; memory has.
        let memory = |_| rustix::fs::memfd_create("una-orphan", rustix::fs::MemfdFlags::CLOEXEC);
        let file: OwnedFd = on_disk.or_else(memory).map_err(errno::of)?;
        let mut file = File::from(file);
        io::Write::write_all(&mut file, content).map_err(errno::of)?;
        Ok(self.insert(Held::File(file)))
    }

    fn orphan_directory(&mut self) -> Result<OpenId, Errno> {
        // Nothing can be made in it and nothing above it can be reached from it, so it may be anywhere.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("una-orphan-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(errno::of)?;
        let directory = File::open(&path);
        std::fs::remove_dir(&path).map_err(errno::of)?;
        Ok(self.insert(Held::Directory(Dir::from_std_file(directory.map_err(errno::of)?))))
    }
}
