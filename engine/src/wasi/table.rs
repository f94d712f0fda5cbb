//! A process's descriptors: what is open under which number, with which rights. Knows no call, no memory and no file system.
//!
//! The one idea: what kind of thing a descriptor is decides first (a directory is told that it is one), its rights second.

use abi::errno::Errno;
use abi::file::{Entry, OpenId, StreamKind};
use abi::wasi::{Fdflags, Filetype, Rights};

/// No process has more descriptors; opening one more is answered with [`Errno::MFile`].
pub const DESCRIPTORS_MAX: usize = 1 << 16;

/// What can be done with a file.
pub const FILE_RIGHTS: Rights = Rights::FD_DATASYNC
    .union(Rights::FD_READ)
    .union(Rights::FD_SEEK)
    .union(Rights::FD_FDSTAT_SET_FLAGS)
    .union(Rights::FD_SYNC)
    .union(Rights::FD_TELL)
    .union(Rights::FD_WRITE)
    .union(Rights::FD_ADVISE)
    .union(Rights::FD_ALLOCATE)
    .union(Rights::FD_FILESTAT_GET)
    .union(Rights::FD_FILESTAT_SET_SIZE)
    .union(Rights::FD_FILESTAT_SET_TIMES)
    .union(Rights::POLL_FD_READWRITE);

/// What can be done with a directory.
pub const DIRECTORY_RIGHTS: Rights = Rights::FD_DATASYNC
    .union(Rights::FD_FDSTAT_SET_FLAGS)
    .union(Rights::FD_SYNC)
    .union(Rights::PATH_CREATE_DIRECTORY)
    .union(Rights::PATH_CREATE_FILE)
    .union(Rights::PATH_LINK_SOURCE)
    .union(Rights::PATH_LINK_TARGET)
    .union(Rights::PATH_OPEN)
    .union(Rights::FD_READDIR)
    .union(Rights::PATH_READLINK)
    .union(Rights::PATH_RENAME_SOURCE)
    .union(Rights::PATH_RENAME_TARGET)
    .union(Rights::PATH_FILESTAT_GET)
    .union(Rights::PATH_FILESTAT_SET_SIZE)
    .union(Rights::PATH_FILESTAT_SET_TIMES)
    .union(Rights::FD_FILESTAT_GET)
    .union(Rights::FD_FILESTAT_SET_TIMES)
    .union(Rights::PATH_SYMLINK)
    .union(Rights::PATH_REMOVE_DIRECTORY)
    .union(Rights::PATH_UNLINK_FILE);

/// One of the three streams that a process is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standard {
    Input,
    Output,
    Error,
}

impl Standard {
    /// The descriptor that it has at first.
    pub fn number(self) -> u32 {
        self as u32
    }

    pub fn from_number(number: u32) -> Option<Standard> {
        [Standard::Input, Standard::Output, Standard::Error].get(number as usize).copied()
    }

    /// What can be done with it. A program takes a character device that cannot seek for a terminal, so the others can.
    pub fn rights(self, kind: StreamKind) -> Rights {
        let transfer = if self == Standard::Input { Rights::FD_READ } else { Rights::FD_WRITE };
        let seek = match kind {
            StreamKind::Device => Rights::FD_SEEK | Rights::FD_TELL,
            _ => Rights::NONE,
        };
        transfer | seek | Rights::FD_FDSTAT_SET_FLAGS | Rights::FD_FILESTAT_GET | Rights::POLL_FD_READWRITE
    }
}

/// Something open in the file system of one mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct At {
    pub mount: usize,
    pub id: OpenId,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Object {
    Stream(Standard),
    File {
        at: At,
        kind: Filetype,
        offset: u64,
    },
    Directory {
        at: At,
        /// Was it open when the program began?
        preopened: bool,
        /// What reading the directory from its beginning found; cookies count its entries.
        listing: Option<Vec<Entry>>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    pub object: Object,
    pub rights: Rights,
    /// The most that a descriptor opened through this one can have.
    pub inheriting: Rights,
    pub flags: Fdflags,
}

/// A file as one call needs it.
#[derive(Clone, Copy)]
pub struct FileView {
    pub at: At,
    pub offset: u64,
    pub flags: Fdflags,
}

/// Invariants: no number below `first_free` is free; there are at most [`DESCRIPTORS_MAX`] numbers.
pub struct Table {
    slots: Vec<Option<Descriptor>>,
    first_free: usize,
    /// Numbers from here on are not given out, at most [`DESCRIPTORS_MAX`]. What was there before stays.
    max: usize,
}

impl Default for Table {
    fn default() -> Table {
        Table { slots: vec![], first_free: 0, max: DESCRIPTORS_MAX }
    }
}

impl Table {
    pub fn limit(&mut self, max: usize) {
        self.max = max.min(DESCRIPTORS_MAX);
    }

    pub fn get(&self, fd: u32) -> Result<&Descriptor, Errno> {
        self.slots.get(fd as usize).and_then(Option::as_ref).ok_or(Errno::BadF)
    }

    pub fn get_mut(&mut self, fd: u32) -> Result<&mut Descriptor, Errno> {
        self.slots.get_mut(fd as usize).and_then(Option::as_mut).ok_or(Errno::BadF)
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Descriptor)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(fd, slot)| Some((fd as u32, slot.as_ref()?)))
    }

    /// Is there room for one more?
    pub fn must_have_room(&self) -> Result<(), Errno> {
        if self.first_free < self.max { Ok(()) } else { Err(Errno::MFile) }
    }

    /// Puts a descriptor at the lowest free number.
    pub fn insert(&mut self, descriptor: Descriptor) -> Result<u32, Errno> {
        self.must_have_room()?;
        let fd = self.first_free as u32;
        self.place(fd, descriptor);
        Ok(fd)
    }

    /// Puts a descriptor at a free number below [`DESCRIPTORS_MAX`].
    pub fn place(&mut self, fd: u32, descriptor: Descriptor) {
        let fd = fd as usize;
        assert!(fd < DESCRIPTORS_MAX, "the caller checks the number");
        if fd >= self.slots.len() {
            self.slots.resize_with(fd + 1, || None);
        }
        assert!(self.slots[fd].is_none(), "the caller checks that the number is free");
        self.slots[fd] = Some(descriptor);
        if fd == self.first_free {
            let used = self.slots[fd..].iter().take_while(|slot| slot.is_some()).count();
            self.first_free += used;
        }
    }

    pub fn remove(&mut self, fd: u32) -> Result<Descriptor, Errno> {
        let descriptor = self.slots.get_mut(fd as usize).and_then(Option::take).ok_or(Errno::BadF)?;
        self.first_free = self.first_free.min(fd as usize);
        Ok(descriptor)
    }

    /// A file that has these rights. `stream` is the answer if it is a stream.
    pub fn file(&self, fd: u32, rights: Rights, stream: Errno) -> Result<FileView, Errno> {
        let descriptor = self.get(fd)?;
        match descriptor.object {
            Object::File { at, offset, .. } => {
                descriptor.must_have(rights)?;
                Ok(FileView { at, offset, flags: descriptor.flags })
            }
            Object::Directory { .. } => Err(Errno::IsDir),
            Object::Stream(_) => Err(stream),
        }
    }

    /// A directory that has these rights.
    pub fn directory(&self, fd: u32, rights: Rights) -> Result<At, Errno> {
        let descriptor = self.get(fd)?;
        match descriptor.object {
            Object::Directory { at, .. } => {
                descriptor.must_have(rights)?;
                Ok(at)
            }
            Object::File { .. } | Object::Stream(_) => Err(Errno::NotDir),
        }
    }

    /// Moves a file's position. The file was there a moment ago.
    pub fn set_offset(&mut self, fd: u32, to: u64) {
        if let Ok(Descriptor { object: Object::File { offset, .. }, .. }) = self.get_mut(fd) {
            *offset = to;
        }
    }
}

impl Descriptor {
    pub fn must_have(&self, rights: Rights) -> Result<(), Errno> {
        if self.rights.contains(rights) { Ok(()) } else { Err(Errno::NotCapable) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(standard: Standard) -> Descriptor {
        let rights = standard.rights(StreamKind::Pipe);
        Descriptor { object: Object::Stream(standard), rights, inheriting: Rights::NONE, flags: Fdflags::NONE }
    }

    #[test]
    fn the_lowest_free_number_is_taken() {
        let mut table = Table::default();
        for fd in 0..5 {
            assert_eq!(table.insert(stream(Standard::Output)), Ok(fd));
        }
        table.remove(3).unwrap();
        table.remove(1).unwrap();
        assert_eq!(table.remove(1).err(), Some(Errno::BadF));
        table.place(9, stream(Standard::Error));
        for fd in [1, 3, 5, 6, 7, 8, 10] {
            assert_eq!(table.insert(stream(Standard::Input)), Ok(fd));
        }
        assert_eq!(table.get(11).err(), Some(Errno::BadF));
        assert_eq!(table.get(u32::MAX).err(), Some(Errno::BadF));
        assert_eq!(table.iter().count(), 11);
    }

    #[test]
    fn a_full_table_says_so() {
        let mut table = Table::default();
        for _ in 0..DESCRIPTORS_MAX {
            table.insert(stream(Standard::Output)).unwrap();
        }
        assert_eq!(table.insert(stream(Standard::Output)), Err(Errno::MFile));
        table.remove(77).unwrap();
        assert_eq!(table.insert(stream(Standard::Output)), Ok(77));
        table.remove(77).unwrap();
        table.limit(77);
        assert_eq!(table.insert(stream(Standard::Output)), Err(Errno::MFile));
        table.remove(5).unwrap();
        assert_eq!(table.insert(stream(Standard::Output)), Ok(5));
    }
}
