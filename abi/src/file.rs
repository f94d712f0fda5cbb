//! What a process's files, streams, clocks and waiting rest on: the border between the logic of WASI and the world (a host
//! directory and a terminal today, the system's own file service later). Nothing here knows a program, its memory or its
//! descriptors; nothing here waits but [`Waiter`].
//!
//! The one idea: a file system numbers what it has open, positions are the caller's business, and no call blocks: what cannot be
//! done now says [`Errno::Again`], and how to wait is a separate question.

use crate::errno::Errno;
use crate::wasi::{Advice, Filetype};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Something that one file system has open, by that file system's own number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpenId(pub u64);

/// Does a path that ends in a symbolic link mean the link, or what it points to?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastLink {
    Itself,
    Target,
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Open {
    pub last_link: LastLink,
    pub existence: Existence,
    pub kind: Kind,
    pub access: Access,
    pub truncate: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existence {
    /// It must exist.
    Required,
    /// It is made if it does not exist.
    Created,
    /// It must not exist, and is made.
    CreatedNew,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Any,
    Directory,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

/// What was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    pub id: OpenId,
    pub kind: Filetype,
}

/// What is known of a file. Times are nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    pub device: u64,
    pub inode: u64,
    pub kind: Filetype,
    pub links: u64,
    pub size_bytes: u64,
    pub accessed_ns: u64,
    pub modified_ns: u64,
    pub changed_ns: u64,
    /// When it was made, where the file system knows: tells a file from a later one with the same inode.
    pub born_ns: Option<u64>,
}

/// A new time for a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    Keep,
    Now,
    /// Nanoseconds since 1970.
    At(u64),
}

/// The two times that can be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetTimes {
    pub accessed: SetTime,
    pub modified: SetTime,
}

/// What of a file is made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durable {
    /// The content, and what is needed to find it.
    Content,
    Everything,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub name: String,
    pub inode: u64,
    pub kind: Filetype,
}

/// Where an open file can be found again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// The path from the root of its file system, without a leading slash; empty for the root itself.
    Path(String),
    /// It has no name any more, and who closes it destroys it. The text is what it was called.
    Unlinked(String),
    /// It has a name, but none that can be found below the root: the text says what is known.
    Elsewhere(String),
}

/// A tree of files below one root. Paths are relative, have no NUL, and never lead out of the directory that they start
/// from, neither by `..` nor by links: such a path is answered with [`Errno::NotCapable`].
///
/// An open directory is a place in the tree, and not a name: it stays valid when the directory is renamed.
pub trait FileSystem: Send {
    /// The directory at the top. It is always open; closing it does nothing.
    fn root(&self) -> OpenId;

    fn open(&mut self, directory: OpenId, path: &str, how: &Open) -> Result<Opened, Errno>;

    /// One more number for what is open.
    fn duplicate(&mut self, id: OpenId) -> Result<OpenId, Errno>;

    fn close(&mut self, id: OpenId);

    /// Less than asked for at the end of the file; 0 behind it.
    fn read_at(&mut self, file: OpenId, buffer: &mut [u8], offset: u64) -> Result<usize, Errno>;

    fn write_at(&mut self, file: OpenId, bytes: &[u8], offset: u64) -> Result<usize, Errno>;

    /// Writes at the end in one step, whoever else does so too. Gives the number of bytes and the position behind them.
    fn append(&mut self, file: OpenId, bytes: &[u8]) -> Result<(usize, u64), Errno>;

    fn stat(&mut self, id: OpenId) -> Result<Stat, Errno>;

    fn set_size(&mut self, file: OpenId, size_bytes: u64) -> Result<(), Errno>;

    fn set_times(&mut self, id: OpenId, times: SetTimes) -> Result<(), Errno>;

    /// Sees to it that writing to this part cannot fail for want of space.
    fn allocate(&mut self, file: OpenId, offset: u64, length: u64) -> Result<(), Errno>;

    fn advise(&mut self, file: OpenId, offset: u64, length: u64, advice: Advice) -> Result<(), Errno>;

    fn sync(&mut self, id: OpenId, what: Durable) -> Result<(), Errno>;

    /// All names in a directory as they are now, `.` and `..` first. The root's `..` is the root. Names that are not UTF-8
    /// are left out, since no path could name them.
    fn list(&mut self, directory: OpenId) -> Result<Vec<Entry>, Errno>;

    fn stat_at(&mut self, directory: OpenId, path: &str, last_link: LastLink) -> Result<Stat, Errno>;

    fn set_times_at(
        &mut self, directory: OpenId, path: &str, last_link: LastLink, times: SetTimes,
    ) -> Result<(), Errno>;

    fn create_directory(&mut self, directory: OpenId, path: &str) -> Result<(), Errno>;

    fn remove_directory(&mut self, directory: OpenId, path: &str) -> Result<(), Errno>;

    fn unlink(&mut self, directory: OpenId, path: &str) -> Result<(), Errno>;

    /// Both directories are of this file system.
    fn rename(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno>;

    /// A second name for a file; a symbolic link gets one itself.
    fn link(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno>;

    /// `content` is relative.
    fn symlink(&mut self, content: &str, directory: OpenId, path: &str) -> Result<(), Errno>;

    fn read_link(&mut self, directory: OpenId, path: &str) -> Result<String, Errno>;

    /// Where an open file or directory is now.
    fn locate(&mut self, id: OpenId) -> Result<Place, Errno>;

    /// All of a file's content, whatever it was opened for. [`Errno::FBig`] if there is more than that.
    fn content(&mut self, file: OpenId, bytes_max: u64) -> Result<Vec<u8>, Errno>;

    /// For a file that may have nothing to read or no room now: whether it could go on, and by which a [`Waiter`] knows it. Where
    /// there is none, the file is always ready and never answers [`Errno::Again`].
    fn readiness(&mut self, _file: OpenId, _direction: Direction) -> Option<(Readiness, Source)> {
        None
    }

    /// What is asked next is this change, by its number among all that a process ever makes. If it was made before, and its answer was lost
    /// with the view that asked, it is answered as it was and not made again.
    fn is_change(&mut self, _number: u64) {}

    /// Writes at the end, if that is there. [`Errno::Again`] if the file ends elsewhere.
    fn append_at(&mut self, file: OpenId, bytes: &[u8], end: u64) -> Result<usize, Errno> {
        match self.stat(file)?.size_bytes == end {
            true => self.write_at(file, bytes, end),
            false => Err(Errno::Again),
        }
    }

    /// By which other views of the same files find what is open here, as [`FileSystem::adopt`] does. Nothing where there is no such word.
    fn token(&mut self, _id: OpenId) -> Option<Vec<u8>> {
        None
    }

    /// Opens what another view had open: that, whatever has its name now. [`Errno::Stale`] if it is gone.
    fn adopt(&mut self, _token: &[u8]) -> Result<OpenId, Errno> {
        Err(Errno::NotSup)
    }

    /// A new file with this content and no name, open for reading and writing.
    fn orphan_file(&mut self, content: &[u8]) -> Result<OpenId, Errno>;

    /// A new, empty directory that has been removed already.
    fn orphan_directory(&mut self) -> Result<OpenId, Errno>;
}

/// By which a [`Waiter`] knows a stream: both are made by the same hand, and the number means something to them alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Source(pub u64);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    Read,
    Write,
}

/// What a stream could do at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// It would have to wait.
    Blocked,
    /// It can go on, with about so many bytes: 0 where that is not known, and at the end of the input.
    Ready { bytes: u64, hangup: bool },
}

/// What a stream is, as far as programs care.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamKind {
    /// A person sits there.
    Terminal,
    /// A device that is no terminal, such as the one that is always empty.
    Device,
    File,
    Pipe,
    Socket,
}

/// A sequence of bytes without positions: an input, an output, or both.
pub trait Stream: Send {
    fn kind(&self) -> StreamKind;

    fn stat(&self) -> Result<Stat, Errno>;

    /// 0 at the end of the input; [`Errno::Again`] if there is nothing now.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// As much as there is room for; [`Errno::Again`] if there is none now.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno>;

    fn readiness(&self, direction: Direction) -> Result<Readiness, Errno>;

    fn source(&self) -> Source;

    /// May what waits in this input be taken in advance, because the process will be gone when it could ask for it?
    fn may_read_ahead(&self) -> bool;
}

/// The time. Both clocks count nanoseconds.
pub trait Clock: Send {
    /// Since 1970. It may be set, and so may go back.
    fn realtime_ns(&self) -> u64;

    /// Since any moment. It never goes back.
    fn monotonic_ns(&self) -> u64;

    /// The processor time that was used for the process.
    fn cputime_ns(&self) -> u64;

    fn resolution_ns(&self, clock: crate::wasi::Clockid) -> u64;
}

/// Numbers that nobody can guess.
pub trait Entropy: Send {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Errno>;
}

/// One thing to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interest {
    pub source: Source,
    pub direction: Direction,
}

/// Why waiting ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// Some source may be ready, or the time is up: look again.
    Perhaps,
    /// Somebody asked for it, and asks until [`Interrupt::lower`].
    Interrupted,
}

/// The only one that waits.
pub trait Waiter: Send {
    /// Waits until a source is ready, the time has passed, or it is interrupted.
    fn wait(&mut self, interests: &[Interest], timeout_ns: Option<u64>) -> Result<Wake, Errno>;

    fn interrupt(&self) -> Arc<dyn Interrupt>;

    /// The call that was issued last has done nothing, because the process is to stop first: it is to be issued again when it goes on.
    fn is_put_off(&mut self) -> bool {
        false
    }

    /// Who watches instead, where a process that waits gives its thread to others.
    fn watcher(&mut self) -> Option<&mut dyn Watcher> {
        None
    }
}

/// Rouses a process that sleeps elsewhere. It may do so for nothing, and does so at once if there is a reason already.
pub trait Watcher {
    /// From now on, and until [`Watcher::forget`], whatever happens to these sources rouses the process.
    fn watch(&mut self, interests: &[Interest]) -> Result<(), Errno>;

    fn forget(&mut self);

    /// Was it [`Interrupt::raise`] that roused it?
    fn is_interrupted(&self) -> bool;
}

/// Ends a wait from another thread.
pub trait Interrupt: Send + Sync {
    /// Ends the wait, and every later one.
    fn raise(&self);

    /// Lets waits be waits again.
    fn lower(&self);
}

/// A file system in its place in a process's tree.
pub struct Mount {
    /// Where the program sees it.
    pub guest: String,
    /// Where it comes from, for people and for finding it again.
    pub host: String,
    pub read_only: bool,
    pub files: Box<dyn FileSystem>,
}
