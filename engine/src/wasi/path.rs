//! `path_*`: what is done with names.

use super::System;
use super::file::{set_times, write_stat};
use super::memory::Memory;
use super::table::{At, DIRECTORY_RIGHTS, Descriptor, FILE_RIGHTS, Object};
use abi::errno::Errno;
use abi::file::{Access, Existence, Kind, LastLink, Open};
use abi::wasi::{Fdflags, Filetype, Lookupflags, Oflags, Rights, filestat};

impl System {
    pub fn path_open(
        &mut self, memory: &mut Memory, fd: u32, lookup: u32, path: u32, length: u32, oflags: u32, rights: u64,
        inheriting: u64, fdflags: u32, result: u32,
    ) -> Result<(), Errno> {
        let at = self.table.directory(fd, Rights::PATH_OPEN)?;
        let last_link = last_link(lookup)?;
        let oflags = u16::try_from(oflags).ok().and_then(Oflags::from_raw).ok_or(Errno::Inval)?;
        let fdflags = u16::try_from(fdflags).ok().and_then(Fdflags::from_raw).ok_or(Errno::Inval)?;
        let rights = Rights::from_raw(rights).ok_or(Errno::Inval)?;
        let inheriting = Rights::from_raw(inheriting).ok_or(Errno::Inval)?;
        let path = relative(memory, path, length)?;
        memory.check(result, 4)?;
        let parent = self.table.get(fd)?;
        if oflags.contains(Oflags::CREAT) {
            parent.must_have(Rights::PATH_CREATE_FILE)?;
        }
        if oflags.contains(Oflags::TRUNC) {
            parent.must_have(Rights::PATH_FILESTAT_SET_SIZE)?;
        }
        let mut inherited = rights | inheriting;
        if fdflags.contains(Fdflags::DSYNC) {
            inherited = inherited | Rights::FD_DATASYNC;
        }
        if fdflags.intersects(Fdflags::SYNC | Fdflags::RSYNC) {
            inherited = inherited | Rights::FD_SYNC;
        }
        if !parent.inheriting.contains(inherited) {
            return Err(Errno::NotCapable);
        }
        if oflags.contains(Oflags::CREAT | Oflags::DIRECTORY) {
            return Err(Errno::Inval);
        }
        self.table.must_have_room()?;
        let writes = rights.intersects(Rights::FD_WRITE | Rights::FD_ALLOCATE | Rights::FD_FILESTAT_SET_SIZE);
        let reads = rights.intersects(Rights::FD_READ | Rights::FD_READDIR);
        let how = Open {
            last_link,
            existence: match (oflags.contains(Oflags::CREAT), oflags.contains(Oflags::EXCL)) {
                (false, _) => Existence::Required,
                (true, false) => Existence::Created,
                (true, true) => Existence::CreatedNew,
            },
            kind: if oflags.contains(Oflags::DIRECTORY) { Kind::Directory } else { Kind::Any },
            access: access(reads, writes),
            truncate: oflags.contains(Oflags::TRUNC),
        };
        let opened = self.files(at).open(at.id, path, &how)?;
        let at = At { mount: at.mount, id: opened.id };
        let descriptor = match opened.kind {
            Filetype::Directory => Descriptor {
                object: Object::Directory { at, preopened: false, listing: None },
                rights: rights & DIRECTORY_RIGHTS,
                inheriting,
                flags: fdflags,
            },
            kind => Descriptor {
                object: Object::File { at, kind, offset: 0 },
                rights: rights & FILE_RIGHTS,
                inheriting: inheriting & FILE_RIGHTS,
                flags: fdflags,
            },
        };
        let fd = self.table.insert(descriptor)?;
        memory.write_u32(result, fd)
    }

    pub fn path_filestat_get(
        &mut self, memory: &mut Memory, fd: u32, lookup: u32, path: u32, length: u32, result: u32,
    ) -> Result<(), Errno> {
        let at = self.table.directory(fd, Rights::PATH_FILESTAT_GET)?;
        let last_link = last_link(lookup)?;
        let path = relative(memory, path, length)?;
        memory.check(result, filestat::SIZE)?;
        let stat = self.files(at).stat_at(at.id, path, last_link)?;
        write_stat(memory, result, &stat)
    }

    pub fn path_filestat_set_times(
        &mut self, memory: &mut Memory, fd: u32, lookup: u32, path: u32, length: u32, accessed_ns: u64,
        modified_ns: u64, flags: u32,
    ) -> Result<(), Errno> {
        let at = self.table.directory(fd, Rights::PATH_FILESTAT_SET_TIMES)?;
        let last_link = last_link(lookup)?;
        let times = set_times(accessed_ns, modified_ns, flags)?;
        let path = relative(memory, path, length)?;
        self.files(at).set_times_at(at.id, path, last_link, times)
    }

    pub fn path_create_directory(&mut self, memory: &mut Memory, fd: u32, path: u32, length: u32) -> Result<(), Errno> {
        let at = self.table.directory(fd, Rights::PATH_CREATE_DIRECTORY)?;
        let path = relative(memory, path, length)?;
        self.files(at).create_directory(at.id, path)
    }

    pub fn path_remove_directory(&mut self, memory: &mut Memory, fd: u32, path: u32, length: u32) -> Result<(), Errno> {
        let at = self.table.directory(fd, Rights::PATH_REMOVE_DIRECTORY)?;
        let path = relative(memory, path, length)?;
        self.files(at).remove_directory(at.id, path)
    }

    pub fn path_unlink_file(&mut self, memory: &mut Memory, fd: u32, path: u32, length: u32) -> Result<(), Errno> {
        let at = self.table.directory(fd, Rights::PATH_UNLINK_FILE)?;
        let path = relative(memory, path, length)?;
        self.files(at).unlink(at.id, path)
    }

    pub fn path_link(
        &mut self, memory: &mut Memory, from_fd: u32, lookup: u32, from: u32, from_length: u32, to_fd: u32, to: u32,
        to_length: u32,
    ) -> Result<(), Errno> {
        let from_at = self.table.directory(from_fd, Rights::PATH_LINK_SOURCE)?;
        let to_at = self.table.directory(to_fd, Rights::PATH_LINK_TARGET)?;
        if last_link(lookup)? == LastLink::Target {
            // A link's target cannot be given a name in one step that nothing comes between.
            return Err(Errno::Inval);
        }
        let (from, to) = (relative(memory, from, from_length)?, relative(memory, to, to_length)?);
        if from_at.mount != to_at.mount {
            return Err(Errno::XDev);
        }
        self.files(from_at).link((from_at.id, from), (to_at.id, to))
    }

    pub fn path_rename(
        &mut self, memory: &mut Memory, from_fd: u32, from: u32, from_length: u32, to_fd: u32, to: u32, to_length: u32,
    ) -> Result<(), Errno> {
        let from_at = self.table.directory(from_fd, Rights::PATH_RENAME_SOURCE)?;
        let to_at = self.table.directory(to_fd, Rights::PATH_RENAME_TARGET)?;
        let (from, to) = (relative(memory, from, from_length)?, relative(memory, to, to_length)?);
        if from_at.mount != to_at.mount {
            return Err(Errno::XDev);
        }
        self.files(from_at).rename((from_at.id, from), (to_at.id, to))
    }

    pub fn path_symlink(
        &mut self, memory: &mut Memory, content: u32, content_length: u32, fd: u32, path: u32, length: u32,
    ) -> Result<(), Errno> {
        let at = self.table.directory(fd, Rights::PATH_SYMLINK)?;
        let content = relative(memory, content, content_length)?;
        let path = relative(memory, path, length)?;
        self.files(at).symlink(content, at.id, path)
    }

    pub fn path_readlink(
        &mut self, memory: &mut Memory, fd: u32, path: u32, length: u32, buffer: u32, room: u32, result: u32,
    ) -> Result<(), Errno> {
        let at = self.table.directory(fd, Rights::PATH_READLINK)?;
        let path = relative(memory, path, length)?;
        memory.check(buffer, room as usize)?;
        memory.check(result, 4)?;
        let content = self.files(at).read_link(at.id, path)?;
        let used = content.len().min(room as usize);
        memory.write(buffer, &content.as_bytes()[..used])?;
        memory.write_u32(result, used as u32)
    }
}

/// A path that may be taken further: one from the top leads out of every directory.
fn relative<'m>(memory: &'m Memory, path: u32, length: u32) -> Result<&'m str, Errno> {
    let path = memory.path(path, length)?;
    if path.starts_with('/') { Err(Errno::NotCapable) } else { Ok(path) }
}

fn last_link(lookup: u32) -> Result<LastLink, Errno> {
    let lookup = Lookupflags::from_raw(lookup).ok_or(Errno::Inval)?;
    let follows = lookup.contains(Lookupflags::SYMLINK_FOLLOW);
    Ok(if follows { LastLink::Target } else { LastLink::Itself })
}

/// What a file must be opened for. Every file is opened for something, so one that is neither read nor written is for reading.
pub(super) fn access(reads: bool, writes: bool) -> Access {
    match (reads, writes) {
        (_, false) => Access::Read,
        (false, true) => Access::Write,
        (true, true) => Access::ReadWrite,
    }
}
