//! Files by a tape: what a process reads of them is told again, and what it changes is changed once. Knows no file system but by its trait.
//!
//! The one idea of reading: what was opened while the tape was told again is not open at all. Only when the process asks for it live it is
//! looked up, by what its file system once said of it, or else under the name by which it was opened.
//!
//! The one idea of writing: a change is asked for when all that led to it is safe, and is durable before the process hears of it. So at the
//! end of a tape at most one change is in doubt, the next that the process asks for; and that one is asked for under the number
//! that it had before.

use super::{ANSWER_BYTES_MAX, Change, Tag, Tape};
use abi::encoding::{Malformed, Reader, Writer};
use abi::errno::Errno;
use abi::file::*;
use abi::wasi::{Advice, Filetype};
use std::collections::BTreeMap;

/// A file system as a process sees it all of whose answers are on its tape.
pub struct TapedFiles {
    tape: Tape,
    files: Box<dyn FileSystem>,
    /// By our own numbers. The root is not among them.
    open: BTreeMap<OpenId, One>,
    next: u64,
}

/// Something that the process has open.
#[derive(Clone, Debug)]
enum One {
    Here(OpenId),
    /// It was opened by this, where the tape was written.
    There {
        token: Vec<u8>,
        by: Option<(OpenId, String, Open)>,
    },
    /// It cannot be had any more.
    Gone,
}

const ROOT: OpenId = OpenId(0);
/// Content is written so often if it goes with the node that held it before it was on disks.
const ATTEMPTS_MAX: usize = 3;
/// Of a larger file it cannot be said whether something was appended to it: then appending fails, once.
const DOUBT_BYTES_MAX: u64 = 256 << 20;

impl TapedFiles {
    pub fn new(tape: &Tape, files: Box<dyn FileSystem>) -> TapedFiles {
        TapedFiles { tape: tape.clone(), files, open: BTreeMap::new(), next: 1 }
    }

    fn add(&mut self, one: One) -> OpenId {
        let id = OpenId(self.next);
        self.next += 1;
        self.open.insert(id, one);
        id
    }

    /// By which number the file system has it. What it does not have yet it is asked for.
    fn real(&mut self, id: OpenId) -> Result<OpenId, Errno> {
        if id == ROOT {
            return Ok(self.files.root());
        }
        let found = match self.open.get(&id).ok_or(Errno::BadF)?.clone() {
            One::Here(real) => return Ok(real),
            One::Gone => return Err(Errno::Stale),
            One::There { token, by: None } => self.files.adopt(&token),
            One::There { by: Some((directory, path, how)), .. } => {
                let directory = self.real(directory)?;
                self.files.open(directory, &path, &how).map(|opened| opened.id)
            }
        };
        let one = found.map_or(One::Gone, One::Here);
        self.open.insert(id, one.clone());
        match one {
            One::Here(real) => Ok(real),
            _ => Err(Errno::Stale),
        }
    }

    /// Asks a question about something open.
    fn ask<T>(
        &mut self, tag: Tag, id: OpenId, write: impl FnOnce(&T, &mut Writer),
        read: impl FnOnce(&mut Reader) -> Result<T, Malformed>,
        ask: impl FnOnce(&mut dyn FileSystem, OpenId) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let tape = self.tape.clone();
        tape.result(tag, write, read, || {
            let real = self.real(id)?;
            ask(&mut *self.files, real)
        })
    }

    /// What opens something new: it is opened, or it is known by which token it was.
    fn new_one(
        &mut self, tag: Tag, by: Option<(OpenId, String, Open)>,
        open: impl FnOnce(&mut TapedFiles) -> Result<(Filetype, OpenId), Errno>,
    ) -> Result<Opened, Errno> {
        let tape = self.tape.clone();
        let mut opened = None;
        let (kind, token) = tape.result(tag, write_opened, read_opened, || {
            let (kind, real) = open(self)?;
            opened = Some(real);
            Ok((kind, self.files.token(real).unwrap_or_default()))
        })?;
        Ok(self.opened(kind, token, opened, by))
    }
}

impl TapedFiles {
    /// Changes something of what is open. What it changed of the content is durable then.
    fn change<T>(
        &mut self, tag: Tag, id: OpenId, write: impl FnOnce(&T, &mut Writer),
        read: impl FnOnce(&mut Reader) -> Result<T, Malformed>,
        act: impl FnOnce(&mut dyn FileSystem, OpenId, Change) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let tape = self.tape.clone();
        tape.change(tag, write, read, |change| {
            let real = self.real(id)?;
            self.begin(change);
            act(&mut *self.files, real, change)
        })
    }

    fn begin(&mut self, change: Change) {
        if let Some(number) = change.number {
            self.files.is_change(number);
        }
    }

    fn set_content(
        &mut self, tag: Tag, id: OpenId, mut act: impl FnMut(&mut dyn FileSystem, OpenId, bool) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        self.change(tag, id, write_count, read_count, |files, real, change| {
            let mut attempt = 0;
            loop {
                attempt += 1;
                let count = act(files, real, change.is_doubtful || attempt > 1)?;
                match files.sync(real, Durable::Content) {
                    // It may have gone with the node that held it in memory: then it is written again.
                    Err(Errno::Io) if attempt < ATTEMPTS_MAX => {}
                    synced => return synced.map(|()| count),
                }
            }
        })
    }

    /// Changes names.
    fn names(
        &mut self, tag: Tag, directory: OpenId, act: impl FnOnce(&mut dyn FileSystem, OpenId) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.change(tag, directory, |(), _| {}, |_| Ok(()), |files, real, _| act(files, real))
    }

    /// Two names at once.
    fn two_names(
        &mut self, tag: Tag, (from, to): (OpenId, OpenId),
        act: impl FnOnce(&mut dyn FileSystem, OpenId, OpenId) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let tape = self.tape.clone();
        tape.change(
            tag,
            |(), _| {},
            |_| Ok(()),
            |change| {
                let (from, to) = (self.real(from)?, self.real(to)?);
                self.begin(change);
                act(&mut *self.files, from, to)
            },
        )
    }
}

fn write_count(count: &usize, to: &mut Writer) {
    to.u64(*count as u64);
}

fn read_count(from: &mut Reader) -> Result<usize, Malformed> {
    usize::try_from(from.u64()?).map_err(|_| from.malformed())
}

impl FileSystem for TapedFiles {
    fn root(&self) -> OpenId {
        ROOT
    }

    fn open(&mut self, directory: OpenId, path: &str, how: &Open) -> Result<Opened, Errno> {
        let found = Open { existence: Existence::Required, truncate: false, ..*how };
        let by = Some((directory, path.to_string(), found));
        if found != *how && !self.tape.is_aside() {
            return self.create(directory, path, how, by);
        }
        self.new_one(Tag::Open, by, |this| {
            let directory = this.real(directory)?;
            this.files.open(directory, path, how).map(|opened| (opened.kind, opened.id))
        })
    }

    fn duplicate(&mut self, id: OpenId) -> Result<OpenId, Errno> {
        let by = match self.open.get(&id) {
            Some(One::There { by, .. }) => by.clone(),
            _ => None,
        };
        let opened = self.new_one(Tag::Duplicate, by, |this| {
            let real = this.real(id)?;
            this.files.duplicate(real).map(|real| (Filetype::Unknown, real))
        })?;
        Ok(opened.id)
    }

    fn close(&mut self, id: OpenId) {
        if let Some(One::Here(real)) = self.open.remove(&id) {
            self.files.close(real);
        }
    }

    fn read_at(&mut self, file: OpenId, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let mut done = 0;
        while done < buffer.len() || buffer.is_empty() {
            let wanted = (buffer.len() - done).min(ANSWER_BYTES_MAX);
            let write = |bytes: &Vec<u8>, to: &mut Writer| {
                to.bytes(bytes);
            };
            let read = |from: &mut Reader| {
                let bytes = from.bytes()?;
                if bytes.len() <= wanted { Ok(bytes.to_vec()) } else { Err(from.malformed()) }
            };
            let part = self.ask(Tag::ReadAt, file, write, read, |files, real| {
                let mut bytes = vec![0; wanted];
                let count = files.read_at(real, &mut bytes, offset + done as u64)?;
                bytes.truncate(count);
                Ok(bytes)
            });
            let bytes = match part {
                Ok(bytes) => bytes,
                // What was read before must not be lost: the error comes with the next question.
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            };
            buffer[done..done + bytes.len()].copy_from_slice(&bytes);
            done += bytes.len();
            if bytes.len() < wanted || buffer.is_empty() {
                break;
            }
        }
        Ok(done)
    }

    fn write_at(&mut self, file: OpenId, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
        self.set_content(Tag::WriteAt, file, |files, real, _| files.write_at(real, bytes, offset))
    }

    /// Where a file ends is an answer like others: it is safe before something is put there, and who finds the file to end elsewhere asks
    /// again.
    fn append(&mut self, file: OpenId, bytes: &[u8]) -> Result<(usize, u64), Errno> {
        loop {
            let end = self.stat(file)?.size_bytes;
            let appended = self.set_content(Tag::Append, file, |files, real, is_doubtful| {
                match files.append_at(real, bytes, end) {
                    // It may have been this that moved the end, before the answer was lost.
                    Err(Errno::Again) if is_doubtful => was_appended(files, real, bytes, end),
                    appended => appended,
                }
            });
            match appended {
                Ok(count) => return Ok((count, end + count as u64)),
                Err(Errno::Again) if !self.tape.is_put_off() => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn stat(&mut self, id: OpenId) -> Result<Stat, Errno> {
        self.ask(Tag::Stat, id, write_stat, read_stat, |files, real| files.stat(real))
    }

    fn set_size(&mut self, file: OpenId, size_bytes: u64) -> Result<(), Errno> {
        self.set_content(Tag::SetSize, file, |files, real, _| files.set_size(real, size_bytes).map(|()| 0)).map(drop)
    }

    fn set_times(&mut self, id: OpenId, times: SetTimes) -> Result<(), Errno> {
        self.names(Tag::SetTimes, id, |files, real| files.set_times(real, times))
    }

    fn allocate(&mut self, file: OpenId, offset: u64, length: u64) -> Result<(), Errno> {
        self.set_content(Tag::Allocate, file, |files, real, _| files.allocate(real, offset, length).map(|()| 0))
            .map(drop)
    }

    /// Nothing that anybody could see comes of it.
    fn advise(&mut self, id: OpenId, _: u64, _: u64, _: Advice) -> Result<(), Errno> {
        if id == ROOT || self.open.contains_key(&id) { Ok(()) } else { Err(Errno::BadF) }
    }

    fn sync(&mut self, id: OpenId, what: Durable) -> Result<(), Errno> {
        self.ask(Tag::Sync, id, |(), _| {}, |_| Ok(()), |files, real| files.sync(real, what))
    }

    fn list(&mut self, directory: OpenId) -> Result<Vec<Entry>, Errno> {
        let write = |entries: &Vec<Entry>, to: &mut Writer| {
            to.u32(entries.len() as u32);
            for Entry { name, inode, kind } in entries {
                to.bytes(name.as_bytes()).u64(*inode).u8(kind.raw());
            }
        };
        let read = |from: &mut Reader| {
            let mut entries = vec![];
            for _ in 0..from.u32()? {
                let (name, inode) = (from.string()?, from.u64()?);
                let kind = Filetype::from_raw(from.u8()?).ok_or_else(|| from.malformed())?;
                entries.push(Entry { name, inode, kind });
            }
            Ok(entries)
        };
        self.ask(Tag::List, directory, write, read, |files, real| files.list(real))
    }

    fn stat_at(&mut self, directory: OpenId, path: &str, last_link: LastLink) -> Result<Stat, Errno> {
        self.ask(Tag::StatAt, directory, write_stat, read_stat, |files, real| files.stat_at(real, path, last_link))
    }

    fn set_times_at(
        &mut self, directory: OpenId, path: &str, last_link: LastLink, times: SetTimes,
    ) -> Result<(), Errno> {
        self.names(Tag::SetTimesAt, directory, |files, real| files.set_times_at(real, path, last_link, times))
    }

    fn create_directory(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.names(Tag::CreateDirectory, directory, |files, real| files.create_directory(real, path))
    }

    fn remove_directory(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.names(Tag::RemoveDirectory, directory, |files, real| files.remove_directory(real, path))
    }

    fn unlink(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.names(Tag::Unlink, directory, |files, real| files.unlink(real, path))
    }

    fn rename(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno> {
        self.two_names(Tag::Rename, (from.0, to.0), |files, one, other| files.rename((one, from.1), (other, to.1)))
    }

    fn link(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno> {
        self.two_names(Tag::Link, (from.0, to.0), |files, one, other| files.link((one, from.1), (other, to.1)))
    }

    fn symlink(&mut self, content: &str, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.names(Tag::Symlink, directory, |files, real| files.symlink(content, real, path))
    }

    fn read_link(&mut self, directory: OpenId, path: &str) -> Result<String, Errno> {
        let write = |content: &String, to: &mut Writer| {
            to.bytes(content.as_bytes());
        };
        self.ask(Tag::ReadLink, directory, write, |from| from.string(), |files, real| files.read_link(real, path))
    }

    // What is asked when a process is saved or goes on, and by nobody else.

    fn locate(&mut self, id: OpenId) -> Result<Place, Errno> {
        let real = self.real(id)?;
        self.files.locate(real)
    }

    fn content(&mut self, file: OpenId, bytes_max: u64) -> Result<Vec<u8>, Errno> {
        let real = self.real(file)?;
        self.files.content(real, bytes_max)
    }

    fn orphan_file(&mut self, content: &[u8]) -> Result<OpenId, Errno> {
        let real = self.files.orphan_file(content)?;
        Ok(self.add(One::Here(real)))
    }

    fn orphan_directory(&mut self) -> Result<OpenId, Errno> {
        let real = self.files.orphan_directory()?;
        Ok(self.add(One::Here(real)))
    }
}

impl TapedFiles {
    /// Opens what it may make or empty by that.
    fn create(
        &mut self, directory: OpenId, path: &str, how: &Open, by: Option<(OpenId, String, Open)>,
    ) -> Result<Opened, Errno> {
        let tape = self.tape.clone();
        let mut opened = None;
        let (kind, token) = tape.change(Tag::Create, write_opened, read_opened, |change| {
            let directory = self.real(directory)?;
            self.begin(change);
            let Opened { id, kind } = self.files.open(directory, path, how)?;
            opened = Some(id);
            if how.truncate {
                self.files.sync(id, Durable::Content)?;
            }
            Ok((kind, self.files.token(id).unwrap_or_default()))
        })?;
        Ok(self.opened(kind, token, opened, by))
    }

    fn opened(
        &mut self, kind: Filetype, token: Vec<u8>, opened: Option<OpenId>, by: Option<(OpenId, String, Open)>,
    ) -> Opened {
        let one = match opened {
            Some(real) => One::Here(real),
            None if token.is_empty() => One::There { token, by },
            None => One::There { token, by: None },
        };
        Opened { id: self.add(one), kind }
    }
}

/// Are these bytes where they were to be appended?
fn was_appended(files: &mut dyn FileSystem, file: OpenId, bytes: &[u8], end: u64) -> Result<usize, Errno> {
    // It may be open for writing alone.
    let all = files.content(file, DOUBT_BYTES_MAX)?;
    let there = all.get(end as usize..).unwrap_or(&[]);
    // A part of it may have been appended, as of any write.
    let count = there.len().min(bytes.len());
    match count > 0 && there[..count] == bytes[..count] {
        true => Ok(count),
        false => Err(Errno::Again),
    }
}

fn write_opened((kind, token): &(Filetype, Vec<u8>), to: &mut Writer) {
    to.u8(kind.raw()).bytes(token);
}

fn read_opened(from: &mut Reader) -> Result<(Filetype, Vec<u8>), Malformed> {
    let kind = Filetype::from_raw(from.u8()?).ok_or_else(|| from.malformed())?;
    Ok((kind, from.bytes()?.to_vec()))
}

fn write_stat(stat: &Stat, to: &mut Writer) {
    to.u64(stat.device).u64(stat.inode).u8(stat.kind.raw()).u64(stat.links).u64(stat.size_bytes);
    to.u64(stat.accessed_ns).u64(stat.modified_ns).u64(stat.changed_ns);
    match stat.born_ns {
        None => to.u8(0),
        Some(born_ns) => to.u8(1).u64(born_ns),
    };
}

fn read_stat(from: &mut Reader) -> Result<Stat, Malformed> {
    Ok(Stat {
        device: from.u64()?,
        inode: from.u64()?,
        kind: Filetype::from_raw(from.u8()?).ok_or_else(|| from.malformed())?,
        links: from.u64()?,
        size_bytes: from.u64()?,
        accessed_ns: from.u64()?,
        modified_ns: from.u64()?,
        changed_ns: from.u64()?,
        born_ns: if from.u8()? == 0 { None } else { Some(from.u64()?) },
    })
}
