//! `fd_*` and `sock_*`: what is done with open descriptors.

use super::memory::{Buffer, Memory};
use super::table::{At, DESCRIPTORS_MAX, Object, Standard};
use super::{Pending, Progress, System, Wait};
use abi::errno::Errno;
use abi::file::{Direction, Durable, Entry, Interest, SetTime, SetTimes, Stat};
use abi::wasi::{
    Advice, Fdflags, Filetype, Fstflags, Preopentype, Riflags, Rights, Sdflags, Whence, dirent, fdstat, filestat,
    prestat,
};

/// The end of what a file's position can be.
const OFFSET_MAX: u64 = i64::MAX as u64;

impl System {
    // Descriptors.

    pub fn fd_close(&mut self, _: &mut Memory, fd: u32) -> Result<(), Errno> {
        let descriptor = self.table.remove(fd)?;
        self.release(&descriptor.object);
        Ok(())
    }

    pub(super) fn release(&mut self, object: &Object) {
        if let Object::File { at, .. } | Object::Directory { at, .. } = object {
            self.files(*at).close(at.id);
        }
    }

    pub fn fd_renumber(&mut self, _: &mut Memory, from: u32, to: u32) -> Result<(), Errno> {
        self.table.get(from)?;
        self.table.get(to)?;
        if from == to {
            return Ok(());
        }
        let replaced = self.table.remove(to)?;
        self.release(&replaced.object);
        let descriptor = self.table.remove(from)?;
        assert!((to as usize) < DESCRIPTORS_MAX, "it was in the table");
        self.table.place(to, descriptor);
        Ok(())
    }

    pub fn fd_fdstat_get(&mut self, memory: &mut Memory, fd: u32, result: u32) -> Result<(), Errno> {
        let descriptor = self.table.get(fd)?;
        let kind = match &descriptor.object {
            Object::Stream(standard) => self.streams[*standard as usize].stat()?.kind,
            Object::File { kind, .. } => *kind,
            Object::Directory { .. } => Filetype::Directory,
        };
        let mut bytes = [0; fdstat::SIZE];
        bytes[fdstat::FILETYPE] = kind.raw();
        put(&mut bytes, fdstat::FLAGS, &descriptor.flags.raw().to_le_bytes());
        put(&mut bytes, fdstat::RIGHTS_BASE, &descriptor.rights.raw().to_le_bytes());
        put(&mut bytes, fdstat::RIGHTS_INHERITING, &descriptor.inheriting.raw().to_le_bytes());
        memory.write(result, &bytes)
    }

    pub fn fd_fdstat_set_flags(&mut self, _: &mut Memory, fd: u32, flags: u32) -> Result<(), Errno> {
        let descriptor = self.table.get_mut(fd)?;
        let flags = u16::try_from(flags).ok().and_then(Fdflags::from_raw).ok_or(Errno::Inval)?;
        descriptor.must_have(Rights::FD_FDSTAT_SET_FLAGS)?;
        descriptor.flags = flags;
        Ok(())
    }

    pub fn fd_fdstat_set_rights(&mut self, _: &mut Memory, fd: u32, rights: u64, inheriting: u64) -> Result<(), Errno> {
        let descriptor = self.table.get_mut(fd)?;
        // Rights that do not exist are rights that it does not have.
        let rights = Rights::from_raw(rights).ok_or(Errno::NotCapable)?;
        let inheriting = Rights::from_raw(inheriting).ok_or(Errno::NotCapable)?;
        if !descriptor.rights.contains(rights) || !descriptor.inheriting.contains(inheriting) {
            return Err(Errno::NotCapable);
        }
        (descriptor.rights, descriptor.inheriting) = (rights, inheriting);
        Ok(())
    }

    fn preopened(&self, fd: u32) -> Result<&str, Errno> {
        match self.table.get(fd)?.object {
            Object::Directory { at, preopened: true, .. } => Ok(&self.mounts[at.mount].guest),
            // Programs count up from 3 until they are told this.
            _ => Err(Errno::BadF),
        }
    }

    pub fn fd_prestat_get(&mut self, memory: &mut Memory, fd: u32, result: u32) -> Result<(), Errno> {
        let name = self.preopened(fd)?;
        let mut bytes = [0; prestat::SIZE];
        bytes[prestat::TAG] = Preopentype::Dir.raw();
        put(&mut bytes, prestat::NAME_LEN, &(name.len() as u32).to_le_bytes());
        memory.write(result, &bytes)
    }

    pub fn fd_prestat_dir_name(&mut self, memory: &mut Memory, fd: u32, buffer: u32, length: u32) -> Result<(), Errno> {
        let name = self.preopened(fd)?;
        if (length as usize) < name.len() {
            return Err(Errno::NameTooLong);
        }
        memory.write(buffer, name.as_bytes())
    }

    // Reading.

    pub fn fd_read(
        &mut self, memory: &mut Memory, fd: u32, iovs: u32, count: u32, result: u32,
    ) -> Result<Progress, Errno> {
        let descriptor = self.table.get(fd)?;
        let Object::Stream(standard) = descriptor.object else {
            let file = self.table.file(fd, Rights::FD_READ, Errno::BadF)?;
            let buffers = memory.buffers(iovs, count)?;
            memory.check(result, 4)?;
            let (at, offset, waits) = (file.at, file.offset, !file.flags.contains(Fdflags::NONBLOCK));
            let read = match self.read_file(memory, fd, &buffers, offset) {
                Err(Errno::Again) if waits => return self.wait_for_file(at, Direction::Read),
                read => read?,
            };
            self.table.set_offset(fd, offset + u64::from(read));
            memory.write_u32(result, read)?;
            return Ok(Progress::Done);
        };
        descriptor.must_have(Rights::FD_READ)?;
        let waits = !descriptor.flags.contains(Fdflags::NONBLOCK);
        let buffers = memory.buffers(iovs, count)?;
        memory.check(result, 4)?;
        match self.read_stream(memory, standard, &buffers) {
            Err(Errno::Again) if waits => Ok(Progress::Wait(self.wait_for(standard, Direction::Read))),
            Err(error) => Err(error),
            Ok(read) => {
                memory.write_u32(result, read)?;
                Ok(Progress::Done)
            }
        }
    }

    pub fn fd_pread(
        &mut self, memory: &mut Memory, fd: u32, iovs: u32, count: u32, offset: u64, result: u32,
    ) -> Result<(), Errno> {
        self.table.file(fd, Rights::FD_READ | Rights::FD_SEEK, Errno::SPipe)?;
        let buffers = memory.buffers(iovs, count)?;
        memory.check(result, 4)?;
        let read = self.read_file(memory, fd, &buffers, offset)?;
        memory.write_u32(result, read)
    }

    fn read_file(&mut self, memory: &mut Memory, fd: u32, buffers: &[Buffer], offset: u64) -> Result<u32, Errno> {
        let at = self.table.file(fd, Rights::FD_READ, Errno::BadF)?.at;
        if offset > OFFSET_MAX {
            return Err(Errno::Inval);
        }
        let mut read = 0u32;
        for buffer in buffers {
            let bytes = memory.slice_mut(buffer.address, buffer.length)?;
            match self.files(at).read_at(at.id, bytes, offset + u64::from(read)) {
                Ok(more) => {
                    read += more as u32;
                    if more < bytes.len() {
                        break;
                    }
                }
                // What was read before must not be lost: the error comes with the next call.
                Err(_) if read > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn read_stream(&mut self, memory: &mut Memory, standard: Standard, buffers: &[Buffer]) -> Result<u32, Errno> {
        let mut read = 0u32;
        for buffer in buffers {
            let bytes = memory.slice_mut(buffer.address, buffer.length)?;
            let result = match standard {
                Standard::Input if self.unread.is_used() => Ok(self.unread.read(bytes)),
                standard => self.stream(standard).read(bytes),
            };
            match result {
                Ok(more) => {
                    read += more as u32;
                    if more < bytes.len() {
                        break;
                    }
                }
                Err(_) if read > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn wait_for(&mut self, standard: Standard, direction: Direction) -> Wait {
        let source = self.stream(standard).source();
        Wait { interests: vec![Interest { source, direction }], until_ns: None }
    }

    fn wait_for_file(&mut self, at: At, direction: Direction) -> Result<Progress, Errno> {
        let (_, source) = self.files(at).readiness(at.id, direction).ok_or(Errno::Again)?;
        Ok(Progress::Wait(Wait { interests: vec![Interest { source, direction }], until_ns: None }))
    }

    // Writing.

    pub fn fd_write(
        &mut self, memory: &mut Memory, fd: u32, iovs: u32, count: u32, result: u32,
    ) -> Result<Progress, Errno> {
        // A write that waited goes on where it was; anything else that was pending is past.
        let done = match self.pending.take() {
            Some(Pending::Write { fd: f, iovs: i, count: c, written }) if (f, i, c) == (fd, iovs, count) => written,
            _ => 0,
        };
        let descriptor = self.table.get(fd)?;
        let Object::Stream(standard) = descriptor.object else {
            let file = self.table.file(fd, Rights::FD_WRITE, Errno::BadF)?;
            let buffers = memory.buffers(iovs, count)?;
            memory.check(result, 4)?;
            let (at, offset, flags) = (file.at, file.offset, file.flags);
            let written = match flags.contains(Fdflags::APPEND) {
                true => self.append_file(memory, fd, &buffers),
                false => {
                    self.write_file(memory, fd, &buffers, offset).map(|written| (written, offset + u64::from(written)))
                }
            };
            let (written, end) = match written {
                Err(Errno::Again) if !flags.contains(Fdflags::NONBLOCK) => {
                    return self.wait_for_file(at, Direction::Write);
                }
                written => written?,
            };
            self.table.set_offset(fd, end);
            memory.write_u32(result, written)?;
            return Ok(Progress::Done);
        };
        descriptor.must_have(Rights::FD_WRITE)?;
        let waits = !descriptor.flags.contains(Fdflags::NONBLOCK);
        let buffers = memory.buffers(iovs, count)?;
        memory.check(result, 4)?;
        let mut written = done;
        match self.write_stream(memory, standard, &buffers, &mut written) {
            Err(Errno::Again) if waits => {
                self.pending = Some(Pending::Write { fd, iovs, count, written });
                return Ok(Progress::Wait(self.wait_for(standard, Direction::Write)));
            }
            // What was written is said first: the error comes with the next call.
            Err(error) if written == 0 => return Err(error),
            _ => {}
        }
        memory.write_u32(result, written)?;
        Ok(Progress::Done)
    }

    pub fn fd_pwrite(
        &mut self, memory: &mut Memory, fd: u32, iovs: u32, count: u32, offset: u64, result: u32,
    ) -> Result<(), Errno> {
        self.table.file(fd, Rights::FD_WRITE | Rights::FD_SEEK, Errno::SPipe)?;
        let buffers = memory.buffers(iovs, count)?;
        memory.check(result, 4)?;
        // At that offset also if the descriptor appends, as POSIX says (and Linux does not).
        let written = self.write_file(memory, fd, &buffers, offset)?;
        memory.write_u32(result, written)
    }

    fn write_file(&mut self, memory: &Memory, fd: u32, buffers: &[Buffer], offset: u64) -> Result<u32, Errno> {
        let file = self.table.file(fd, Rights::FD_WRITE, Errno::BadF)?;
        if offset > OFFSET_MAX {
            return Err(Errno::Inval);
        }
        let mut written = 0u32;
        for buffer in buffers {
            let bytes = memory.slice(buffer.address, buffer.length)?;
            match self.files(file.at).write_at(file.at.id, bytes, offset + u64::from(written)) {
                Ok(more) => {
                    written += more as u32;
                    if more < bytes.len() {
                        break;
                    }
                }
                Err(_) if written > 0 => break,
                Err(error) => return Err(error),
            }
        }
        self.sync_after_write(fd, written)?;
        Ok(written)
    }

    /// Gives what was written and where the file then ended.
    fn append_file(&mut self, memory: &Memory, fd: u32, buffers: &[Buffer]) -> Result<(u32, u64), Errno> {
        let file = self.table.file(fd, Rights::FD_WRITE, Errno::BadF)?;
        // One call, so that nobody else's bytes come in between.
        let mut bytes = vec![];
        let bytes = match buffers {
            [buffer] => memory.slice(buffer.address, buffer.length)?,
            buffers => {
                for buffer in buffers {
                    bytes.extend_from_slice(memory.slice(buffer.address, buffer.length)?);
                }
                &bytes
            }
        };
        if bytes.is_empty() {
            return Ok((0, file.offset));
        }
        let (written, end) = self.files(file.at).append(file.at.id, bytes)?;
        self.sync_after_write(fd, written as u32)?;
        Ok((written as u32, end))
    }

    fn sync_after_write(&mut self, fd: u32, written: u32) -> Result<(), Errno> {
        let file = self.table.file(fd, Rights::NONE, Errno::BadF)?;
        let durable = if file.flags.intersects(Fdflags::SYNC | Fdflags::RSYNC) {
            Durable::Everything
        } else if file.flags.contains(Fdflags::DSYNC) {
            Durable::Content
        } else {
            return Ok(());
        };
        if written == 0 { Ok(()) } else { self.files(file.at).sync(file.at.id, durable) }
    }

    /// Writes from where `written` stands, and moves it.
    fn write_stream(
        &mut self, memory: &Memory, standard: Standard, buffers: &[Buffer], written: &mut u32,
    ) -> Result<(), Errno> {
        let mut before = 0;
        for buffer in buffers {
            let bytes = memory.slice(buffer.address, buffer.length)?;
            while let Some(rest) = bytes.get((*written - before) as usize..).filter(|rest| !rest.is_empty()) {
                match self.stream(standard).write(rest)? {
                    0 => return Err(Errno::Io),
                    more => *written += more as u32,
                }
            }
            before += buffer.length;
        }
        Ok(())
    }

    // Positions.

    pub fn fd_seek(&mut self, memory: &mut Memory, fd: u32, delta: i64, whence: u32, result: u32) -> Result<(), Errno> {
        let descriptor = self.table.get(fd)?;
        let whence = u8::try_from(whence).ok().and_then(Whence::from_raw).ok_or(Errno::Inval)?;
        if let Object::Stream(_) = descriptor.object {
            return self.seek_stream(memory, fd, result);
        }
        // To ask for the position is less than to change it.
        let needed = match (whence, delta) {
            (Whence::Cur, 0) if descriptor.rights.contains(Rights::FD_TELL) => Rights::FD_TELL,
            _ => Rights::FD_SEEK,
        };
        let file = self.table.file(fd, needed, Errno::SPipe)?;
        memory.check(result, 8)?;
        let base = match whence {
            Whence::Set => 0,
            Whence::Cur => file.offset,
            Whence::End => self.files(file.at).stat(file.at.id)?.size_bytes,
        };
        let offset = match base.checked_add_signed(delta) {
            Some(offset) if offset <= OFFSET_MAX => offset,
            _ if delta < 0 => return Err(Errno::Inval),
            _ => return Err(Errno::Overflow),
        };
        self.table.set_offset(fd, offset);
        memory.write_u64(result, offset)
    }

    pub fn fd_tell(&mut self, memory: &mut Memory, fd: u32, result: u32) -> Result<(), Errno> {
        let descriptor = self.table.get(fd)?;
        if let Object::Stream(_) = descriptor.object {
            return self.seek_stream(memory, fd, result);
        }
        let needed = if descriptor.rights.contains(Rights::FD_SEEK) { Rights::FD_SEEK } else { Rights::FD_TELL };
        let file = self.table.file(fd, needed, Errno::SPipe)?;
        memory.write_u64(result, file.offset)
    }

    /// A device that is no terminal is always at 0; other streams have no positions.
    fn seek_stream(&mut self, memory: &mut Memory, fd: u32, result: u32) -> Result<(), Errno> {
        if self.table.get(fd)?.rights.contains(Rights::FD_SEEK) {
            memory.write_u64(result, 0)
        } else {
            Err(Errno::SPipe)
        }
    }

    // Attributes.

    pub fn fd_filestat_get(&mut self, memory: &mut Memory, fd: u32, result: u32) -> Result<(), Errno> {
        let descriptor = self.table.get(fd)?;
        descriptor.must_have(Rights::FD_FILESTAT_GET)?;
        memory.check(result, filestat::SIZE)?;
        let stat = match descriptor.object {
            Object::Stream(standard) => self.stream(standard).stat()?,
            Object::File { at, .. } | Object::Directory { at, .. } => self.files(at).stat(at.id)?,
        };
        write_stat(memory, result, &stat)
    }

    pub fn fd_filestat_set_size(&mut self, _: &mut Memory, fd: u32, size_bytes: u64) -> Result<(), Errno> {
        let file = self.table.file(fd, Rights::FD_FILESTAT_SET_SIZE, Errno::Inval)?;
        if size_bytes > OFFSET_MAX {
            return Err(Errno::Inval);
        }
        self.files(file.at).set_size(file.at.id, size_bytes)
    }

    pub fn fd_filestat_set_times(
        &mut self, _: &mut Memory, fd: u32, accessed_ns: u64, modified_ns: u64, flags: u32,
    ) -> Result<(), Errno> {
        let descriptor = self.table.get(fd)?;
        let times = set_times(accessed_ns, modified_ns, flags)?;
        descriptor.must_have(Rights::FD_FILESTAT_SET_TIMES)?;
        match descriptor.object {
            Object::Stream(_) => Err(Errno::Inval),
            Object::File { at, .. } | Object::Directory { at, .. } => self.files(at).set_times(at.id, times),
        }
    }

    pub fn fd_advise(&mut self, _: &mut Memory, fd: u32, offset: u64, length: u64, advice: u32) -> Result<(), Errno> {
        let advice = u8::try_from(advice).ok().and_then(Advice::from_raw);
        self.table.get(fd)?;
        let advice = advice.ok_or(Errno::Inval)?;
        let file = self.table.file(fd, Rights::FD_ADVISE, Errno::SPipe)?;
        if offset > OFFSET_MAX || length > OFFSET_MAX {
            return Err(Errno::Inval);
        }
        self.files(file.at).advise(file.at.id, offset, length, advice)
    }

    pub fn fd_allocate(&mut self, _: &mut Memory, fd: u32, offset: u64, length: u64) -> Result<(), Errno> {
        let file = self.table.file(fd, Rights::FD_ALLOCATE, Errno::SPipe)?;
        if length == 0 {
            return Err(Errno::Inval);
        }
        if offset.checked_add(length).is_none_or(|end| end > OFFSET_MAX) {
            return Err(Errno::FBig);
        }
        self.files(file.at).allocate(file.at.id, offset, length)
    }

    pub fn fd_datasync(&mut self, _: &mut Memory, fd: u32) -> Result<(), Errno> {
        self.sync(fd, Rights::FD_DATASYNC, Durable::Content)
    }

    pub fn fd_sync(&mut self, _: &mut Memory, fd: u32) -> Result<(), Errno> {
        self.sync(fd, Rights::FD_SYNC, Durable::Everything)
    }

    fn sync(&mut self, fd: u32, needed: Rights, durable: Durable) -> Result<(), Errno> {
        let descriptor = self.table.get(fd)?;
        match descriptor.object {
            Object::Stream(_) => Err(Errno::Inval),
            Object::File { at, .. } | Object::Directory { at, .. } => {
                descriptor.must_have(needed)?;
                self.files(at).sync(at.id, durable)
            }
        }
    }

    // Directories.

    /// A cookie is the number of entries before it, in what was found when the directory was last read from its beginning:
    /// names that come or go meanwhile neither hide others nor show them twice, also in a process that is continued elsewhere.
    pub fn fd_readdir(
        &mut self, memory: &mut Memory, fd: u32, buffer: u32, length: u32, cookie: u64, result: u32,
    ) -> Result<(), Errno> {
        let at = self.table.directory(fd, Rights::FD_READDIR)?;
        memory.check(buffer, length as usize)?;
        memory.check(result, 4)?;
        let Object::Directory { listing, .. } = &mut self.table.get_mut(fd)?.object else {
            return Err(Errno::NotDir);
        };
        let entries = match listing {
            Some(entries) if cookie != 0 => entries,
            listing => listing.insert(self.mounts[at.mount].files.list(at.id)?),
        };
        let start = usize::try_from(cookie).map_or(entries.len(), |start| start.min(entries.len()));
        let room = memory.slice_mut(buffer, length)?;
        let mut used = 0;
        for (index, entry) in entries.iter().enumerate().skip(start) {
            used += write_entry(&mut room[used..], index as u64 + 1, entry);
            if used == room.len() {
                break;
            }
        }
        memory.write_u32(result, used as u32)
    }

    // Sockets: no descriptor is one.

    pub fn sock_accept(&mut self, _: &mut Memory, fd: u32, flags: u32, _result: u32) -> Result<(), Errno> {
        self.table.get(fd)?;
        u16::try_from(flags).ok().and_then(Fdflags::from_raw).ok_or(Errno::Inval)?;
        Err(Errno::NotSock)
    }

    pub fn sock_recv(
        &mut self, _: &mut Memory, fd: u32, _iovs: u32, _count: u32, flags: u32, _bytes: u32, _received: u32,
    ) -> Result<(), Errno> {
        self.table.get(fd)?;
        u16::try_from(flags).ok().and_then(Riflags::from_raw).ok_or(Errno::Inval)?;
        Err(Errno::NotSock)
    }

    pub fn sock_send(
        &mut self, _: &mut Memory, fd: u32, _iovs: u32, _count: u32, flags: u32, _bytes: u32,
    ) -> Result<(), Errno> {
        self.table.get(fd)?;
        if flags == 0 { Err(Errno::NotSock) } else { Err(Errno::Inval) }
    }

    pub fn sock_shutdown(&mut self, _: &mut Memory, fd: u32, how: u32) -> Result<(), Errno> {
        self.table.get(fd)?;
        u8::try_from(how).ok().and_then(Sdflags::from_raw).ok_or(Errno::Inval)?;
        Err(Errno::NotSock)
    }
}

fn put(bytes: &mut [u8], offset: usize, field: &[u8]) {
    bytes[offset..offset + field.len()].copy_from_slice(field);
}

pub(super) fn write_stat(memory: &mut Memory, result: u32, stat: &Stat) -> Result<(), Errno> {
    let mut bytes = [0; filestat::SIZE];
    put(&mut bytes, filestat::DEV, &stat.device.to_le_bytes());
    put(&mut bytes, filestat::INO, &stat.inode.to_le_bytes());
    bytes[filestat::FILETYPE] = stat.kind.raw();
    put(&mut bytes, filestat::NLINK, &stat.links.to_le_bytes());
    put(&mut bytes, filestat::FILE_SIZE, &stat.size_bytes.to_le_bytes());
    put(&mut bytes, filestat::ATIM, &stat.accessed_ns.to_le_bytes());
    put(&mut bytes, filestat::MTIM, &stat.modified_ns.to_le_bytes());
    put(&mut bytes, filestat::CTIM, &stat.changed_ns.to_le_bytes());
    memory.write(result, &bytes)
}

/// The times that a `filestat_set_times` call asks for.
pub(super) fn set_times(accessed_ns: u64, modified_ns: u64, flags: u32) -> Result<SetTimes, Errno> {
    let flags = u16::try_from(flags).ok().and_then(Fstflags::from_raw).ok_or(Errno::Inval)?;
    let time = |at: Fstflags, now: Fstflags, ns: u64| match (flags.contains(at), flags.contains(now)) {
        (false, false) => Ok(SetTime::Keep),
        (true, false) => Ok(SetTime::At(ns)),
        (false, true) => Ok(SetTime::Now),
        (true, true) => Err(Errno::Inval),
    };
    Ok(SetTimes {
        accessed: time(Fstflags::ATIM, Fstflags::ATIM_NOW, accessed_ns)?,
        modified: time(Fstflags::MTIM, Fstflags::MTIM_NOW, modified_ns)?,
    })
}

/// Writes as much of an entry as there is room for, and gives how much that was.
fn write_entry(room: &mut [u8], next: u64, entry: &Entry) -> usize {
    let mut head = [0; dirent::SIZE];
    put(&mut head, dirent::NEXT, &next.to_le_bytes());
    put(&mut head, dirent::INO, &entry.inode.to_le_bytes());
    put(&mut head, dirent::NAMLEN, &(entry.name.len() as u32).to_le_bytes());
    head[dirent::TYPE] = entry.kind.raw();
    let head_bytes = head.len().min(room.len());
    room[..head_bytes].copy_from_slice(&head[..head_bytes]);
    let room = &mut room[head_bytes..];
    let name_bytes = entry.name.len().min(room.len());
    room[..name_bytes].copy_from_slice(&entry.name.as_bytes()[..name_bytes]);
    head_bytes + name_bytes
}

impl super::Unread {
    /// Is there anything that comes before what the stream has?
    pub(super) fn is_used(&self) -> bool {
        self.start < self.bytes.len() || self.ended
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let rest = &self.bytes[self.start..];
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        self.start += read;
        if self.start == self.bytes.len() {
            (self.bytes, self.start) = (vec![], 0);
        }
        read
    }
}
