//! The tree as a node sees it that does not hold it: every act is a question to the holder. Knows no retries beyond one holder, and
//! nothing of what is open but numbers.
//!
//! The one idea: a question has a number, and is asked with the same one until it is answered or the holder is no more. What stands
//! in chunks is not sent by the holder but got from whoever has it, this disk first.

use super::copies::{by_rank, fetch};
use super::outside::{Service, Unanswered};
use super::request::{Act, Asked, Part, Told};
use super::serve::READ_BYTES_MAX;
use super::shared::Inner;
use super::tree::{Held, SessionKey};
use abi::errno::Errno;
use abi::file::*;
use abi::ids::NodeId;
use abi::wasi::Advice;
use drivers::chunks::ChunkName;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One question on its way, before it is asked again: the holder may be gone without a word.
const ASK_PATIENCE: Duration = Duration::from_secs(2);
/// Before the same is asked again.
const PAUSE: Duration = Duration::from_millis(20);
/// A chunk can go while it is asked for, because the file was written anew; not often in a row.
const ATTEMPTS_MAX: usize = 64;

/// One holder, as one session sees it.
pub(super) struct RemoteFiles {
    shared: Arc<Inner>,
    pub node: NodeId,
    pub epoch: u64,
    session: SessionKey,
    /// Of the next question.
    pub number: u64,
    pub deadline: Instant,
    /// A question may have been acted on, and was not answered.
    pub doubt: bool,
    opened: Option<Held>,
}

impl RemoteFiles {
    pub fn new(shared: Arc<Inner>, node: NodeId, epoch: u64, session: SessionKey, deadline: Instant) -> RemoteFiles {
        RemoteFiles { shared, node, epoch, session, number: 0, deadline, doubt: false, opened: None }
    }

    /// What was just opened.
    pub fn opened(&self) -> Option<Held> {
        self.opened
    }

    /// Asks until it is answered. [`Errno::OwnerDead`]: not by this holder, or not without claiming.
    pub fn ask(&mut self, act: Act) -> Result<Told, Errno> {
        let asked = Asked { epoch: self.epoch, session: self.session, number: self.number, act };
        let body = asked.write();
        loop {
            let now = Instant::now();
            if now >= self.deadline {
                self.shared.complaints.add(format!("{} holds the files and does not answer", self.node));
                return Err(Errno::TimedOut);
            }
            let deadline = self.deadline.min(now + ASK_PATIENCE);
            match self.shared.network.ask(self.node, Service::Files, &body, deadline) {
                Ok(answer) => {
                    let told = Told::read(&answer).map_err(|_| Errno::Proto)?;
                    return match told {
                        Told::NotHolder => {
                            // Perhaps it was: then it may be durable, and the next holder knows.
                            self.doubt = true;
                            self.shared.look_again();
                            Err(Errno::OwnerDead)
                        }
                        Told::Unclaimed => Err(Errno::OwnerDead),
                        Told::Working => {
                            // It is there and at it; it gives up by itself if it must.
                            self.deadline = self.deadline.max(Instant::now() + self.shared.options.patience);
                            continue;
                        }
                        Told::Failed(errno) => {
                            self.number += 1;
                            Err(errno)
                        }
                        told => {
                            self.number += 1;
                            Ok(told)
                        }
                    };
                }
                Err(Unanswered::NotSent(_) | Unanswered::Refused(_)) => {}
                Err(Unanswered::Lost(_)) => self.doubt = true,
            }
            self.shared.look_again();
            if self.shared.hold.is_over(self.node, self.epoch) {
                return Err(Errno::OwnerDead);
            }
            self.shared.living.wait(PAUSE);
        }
    }

    fn done(&mut self, act: Act) -> Result<(), Errno> {
        match self.ask(act)? {
            Told::Done => Ok(()),
            _ => Err(Errno::Proto),
        }
    }

    fn open_one(&mut self, act: Act, access: Access) -> Result<Opened, Errno> {
        match self.ask(act)? {
            Told::Opened { id, kind, inode } => {
                self.opened = Some(Held { inode, access });
                Ok(Opened { id, kind })
            }
            _ => Err(Errno::Proto),
        }
    }

    fn chunk(&self, name: &ChunkName) -> Option<Arc<[u8]>> {
        if let Ok(bytes) = self.shared.chunks.get(name) {
            return Some(bytes);
        }
        let mut candidates = vec![self.node];
        candidates.extend(by_rank(name, self.shared.living.others()));
        let bytes = fetch(&*self.shared.network, name, &candidates)?;
        self.shared.chunks.keep(*name, bytes.clone());
        Some(bytes)
    }

    /// Reads at most what one answer holds.
    fn read_some(&mut self, file: OpenId, buffer: &mut [u8], offset: u64, whatever: bool) -> Result<usize, Errno> {
        'again: for _ in 0..ATTEMPTS_MAX {
            let count = buffer.len() as u32;
            let Told::Content(parts) = self.ask(Act::Read { file, offset, count, whatever })? else {
                return Err(Errno::Proto);
            };
            let mut at: usize = 0;
            for part in parts {
                let (bytes, from, to): (Arc<[u8]>, usize, usize) = match part {
                    Part::Zeros { bytes } => {
                        let end = usize::try_from(bytes).ok().and_then(|bytes| at.checked_add(bytes));
                        let end = end.filter(|end| *end <= buffer.len()).ok_or(Errno::Proto)?;
                        buffer[at..end].fill(0);
                        at = end;
                        continue;
                    }
                    Part::Bytes(bytes) => {
                        let to = bytes.len();
                        (bytes.into(), 0, to)
                    }
                    Part::Chunk { name, from, to } => match self.chunk(&name) {
                        Some(bytes) => (bytes, from as usize, to as usize),
                        None => continue 'again,
                    },
                };
                let bytes = bytes.get(from..to).ok_or(Errno::Proto)?;
                buffer.get_mut(at..at + bytes.len()).ok_or(Errno::Proto)?.copy_from_slice(bytes);
                at += bytes.len();
            }
            return Ok(at);
        }
        self.shared.complaints.add("content of a file is on no node that can be reached".into());
        Err(Errno::Io)
    }

    fn read(&mut self, file: OpenId, buffer: &mut [u8], offset: u64, whatever: bool) -> Result<usize, Errno> {
        let mut done = 0;
        loop {
            let end = buffer.len().min(done + READ_BYTES_MAX);
            let wanted = end - done;
            let count = self.read_some(file, &mut buffer[done..end], offset.saturating_add(done as u64), whatever)?;
            done += count;
            if count < wanted || done == buffer.len() {
                return Ok(done);
            }
        }
    }
}

impl FileSystem for RemoteFiles {
    fn root(&self) -> OpenId {
        OpenId(0)
    }

    fn open(&mut self, directory: OpenId, path: &str, how: &Open) -> Result<Opened, Errno> {
        self.open_one(Act::Open { directory, path: path.into(), how: *how }, how.access)
    }

    fn duplicate(&mut self, id: OpenId) -> Result<OpenId, Errno> {
        // As what it is open, whoever asked knows.
        self.open_one(Act::Duplicate(id), Access::Read).map(|opened| opened.id)
    }

    fn close(&mut self, id: OpenId) {
        // What cannot be said is as good as said: the holder ends what nobody claims.
        let _ = self.ask(Act::Close(id));
    }

    fn read_at(&mut self, file: OpenId, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        self.read(file, buffer, offset, false)
    }

    fn write_at(&mut self, file: OpenId, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
        let bytes = bytes[..bytes.len().min(READ_BYTES_MAX)].to_vec();
        match self.ask(Act::Write { file, offset, bytes })? {
            Told::Written { count, .. } => Ok(count as usize),
            _ => Err(Errno::Proto),
        }
    }

    fn append(&mut self, file: OpenId, bytes: &[u8]) -> Result<(usize, u64), Errno> {
        let bytes = bytes[..bytes.len().min(READ_BYTES_MAX)].to_vec();
        match self.ask(Act::Append { file, bytes })? {
            Told::Written { count, end } => Ok((count as usize, end)),
            _ => Err(Errno::Proto),
        }
    }

    fn append_at(&mut self, file: OpenId, bytes: &[u8], end: u64) -> Result<usize, Errno> {
        let bytes = bytes[..bytes.len().min(READ_BYTES_MAX)].to_vec();
        match self.ask(Act::AppendAt { file, bytes, end })? {
            Told::Written { count, .. } => Ok(count as usize),
            _ => Err(Errno::Proto),
        }
    }

    fn stat(&mut self, id: OpenId) -> Result<Stat, Errno> {
        match self.ask(Act::Stat(id))? {
            Told::Stat(stat) => Ok(stat),
            _ => Err(Errno::Proto),
        }
    }

    fn set_size(&mut self, file: OpenId, size_bytes: u64) -> Result<(), Errno> {
        self.done(Act::SetSize { file, size_bytes })
    }

    fn set_times(&mut self, id: OpenId, times: SetTimes) -> Result<(), Errno> {
        self.done(Act::SetTimes { id, times })
    }

    fn allocate(&mut self, file: OpenId, offset: u64, length: u64) -> Result<(), Errno> {
        self.done(Act::Allocate { file, offset, length })
    }

    fn advise(&mut self, file: OpenId, _: u64, _: u64, _: Advice) -> Result<(), Errno> {
        self.done(Act::Advise(file))
    }

    fn sync(&mut self, id: OpenId, _: Durable) -> Result<(), Errno> {
        self.done(Act::Sync(id))
    }

    fn list(&mut self, directory: OpenId) -> Result<Vec<Entry>, Errno> {
        match self.ask(Act::List(directory))? {
            Told::Entries(entries) => Ok(entries),
            _ => Err(Errno::Proto),
        }
    }

    fn stat_at(&mut self, directory: OpenId, path: &str, last_link: LastLink) -> Result<Stat, Errno> {
        match self.ask(Act::StatAt { directory, path: path.into(), last_link })? {
            Told::Stat(stat) => Ok(stat),
            _ => Err(Errno::Proto),
        }
    }

    fn set_times_at(
        &mut self, directory: OpenId, path: &str, last_link: LastLink, times: SetTimes,
    ) -> Result<(), Errno> {
        self.done(Act::SetTimesAt { directory, path: path.into(), last_link, times })
    }

    fn create_directory(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.done(Act::CreateDirectory { directory, path: path.into() })
    }

    fn remove_directory(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.done(Act::RemoveDirectory { directory, path: path.into() })
    }

    fn unlink(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.done(Act::Unlink { directory, path: path.into() })
    }

    fn rename(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno> {
        self.done(Act::Rename { from: (from.0, from.1.into()), to: (to.0, to.1.into()) })
    }

    fn link(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno> {
        self.done(Act::Link { from: (from.0, from.1.into()), to: (to.0, to.1.into()) })
    }

    fn symlink(&mut self, content: &str, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.done(Act::Symlink { content: content.into(), directory, path: path.into() })
    }

    fn read_link(&mut self, directory: OpenId, path: &str) -> Result<String, Errno> {
        match self.ask(Act::ReadLink { directory, path: path.into() })? {
            Told::Text(text) => Ok(text),
            _ => Err(Errno::Proto),
        }
    }

    fn locate(&mut self, id: OpenId) -> Result<Place, Errno> {
        match self.ask(Act::Locate(id))? {
            Told::Place(place) => Ok(place),
            _ => Err(Errno::Proto),
        }
    }

    fn content(&mut self, file: OpenId, bytes_max: u64) -> Result<Vec<u8>, Errno> {
        let size_bytes = match self.stat(file)? {
            Stat { kind: abi::wasi::Filetype::Directory, .. } => return Err(Errno::IsDir),
            stat if stat.size_bytes > bytes_max => return Err(Errno::FBig),
            stat => usize::try_from(stat.size_bytes).map_err(|_| Errno::FBig)?,
        };
        let mut content = vec![0; size_bytes];
        let count = self.read(file, &mut content, 0, true)?;
        content.truncate(count);
        Ok(content)
    }

    fn orphan_file(&mut self, content: &[u8]) -> Result<OpenId, Errno> {
        let id = self.open_one(Act::OrphanFile, Access::ReadWrite)?.id;
        let mut rest = content;
        while !rest.is_empty() {
            let at = (content.len() - rest.len()) as u64;
            match self.write_at(id, rest, at) {
                Ok(count) => rest = &rest[count..],
                Err(errno) => {
                    self.close(id);
                    return Err(errno);
                }
            }
        }
        Ok(id)
    }

    fn orphan_directory(&mut self) -> Result<OpenId, Errno> {
        self.open_one(Act::OrphanDirectory, Access::Read).map(|opened| opened.id)
    }
}
