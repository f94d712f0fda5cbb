//! One program's view of the files of the whole computer, whichever node holds the tree now, and whichever holds it next.
//!
//! The one idea: the session knows what it has open by inode, and numbers what it asks. When the holder changes it claims what it
//! had open at the next one, and asks the same question with the same number: whatever was durable is answered as it would have
//! been, and what was not is done now. Where neither can be known, it says so with an error and never guesses.
//!
//! ```text
//!   names: open, create, rename, unlink, link, times   the number and the answer are durable with the change: done once
//!   reading, write_at, set_size                        may be done again: the same result
//!   append                                             if its answer was lost with the holder: EIO
//!   content that was not synced                        lost with the holder: the next sync or close of that file says EIO, once
//! ```

use super::hold::{Confirmed, Where};
use super::outside::Service;
use super::remote::RemoteFiles;
use super::request::{Act, Asked, Told};
use super::serve::FOR_GOOD;
use super::shared::{Inner, random};
use super::tree::{Held, SessionKey, TreeFiles};
use abi::encoding::{Malformed, Reader, Writer};
use abi::errno::Errno;
use abi::file::*;
use abi::wasi::Advice;
use services::files::Inode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of a larger file it cannot be said whether something was appended to it.
const DOUBT_BYTES_MAX: u64 = 256 << 20;
/// Between two changes there is room for so many questions, in bits.
const CHANGE_SHIFT: u32 = 32;
/// Whoever ends waits so long for the holder to hear of it.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// The session of a process that lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lasting {
    pub name: u64,
    /// The incarnation that began from the beginning.
    pub since: u32,
    pub incarnation: u32,
}

/// Whether an act may be done twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// It gives the same result.
    Same,
    /// It changes names: the number says whether it was done.
    Numbered,
    /// It must not.
    Never,
}

/// One view. Usable wherever a [`FileSystem`] is.
pub struct SharedFiles {
    shared: Arc<Inner>,
    key: SessionKey,
    /// The number of the next question.
    next: u64,
    held: BTreeMap<OpenId, One>,
    /// What was open and could not be claimed.
    gone: BTreeSet<OpenId>,
    seat: Seat,
    /// The last holder that was asked.
    epoch: Option<u64>,
}

/// Something open.
#[derive(Clone, Copy)]
struct One {
    held: Held,
    content: Unsynced,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unsynced {
    Nothing,
    /// Something was written that is only in the holder's memory, as far as is known here.
    Written,
    /// It was written, and lost.
    Lost,
}

enum Seat {
    Nowhere,
    Here { epoch: u64, files: TreeFiles },
    There(RemoteFiles),
}

impl SharedFiles {
    pub(super) fn new(shared: Arc<Inner>) -> SharedFiles {
        let number = || random().expect("the system has random numbers");
        let mut key = [0; 16];
        key[..8].copy_from_slice(&number().to_le_bytes());
        key[8..].copy_from_slice(&number().to_le_bytes());
        SharedFiles::of(shared, SessionKey::of_one_life(key))
    }

    /// Of a process that goes on elsewhere when its node is lost.
    pub(super) fn lasting(shared: Arc<Inner>, session: Lasting) -> SharedFiles {
        let Lasting { name, since, incarnation } = session;
        SharedFiles::of(shared, SessionKey::lasting(name, since, incarnation))
    }

    /// Nobody goes on for it: what it was answered last is forgotten.
    pub(super) fn end_for_good(mut self) {
        self.next = FOR_GOOD;
        // Whoever does not hear it keeps 48 bytes.
        let _ = self.sit(1, Instant::now() + END_PATIENCE);
    }

    fn of(shared: Arc<Inner>, key: SessionKey) -> SharedFiles {
        shared.remember_session(key);
        SharedFiles {
            shared,
            key,
            next: 1,
            held: BTreeMap::new(),
            gone: BTreeSet::new(),
            seat: Seat::Nowhere,
            epoch: None,
        }
    }

    /// Finds the holder, and claims there what is open. Nothing that was asked with a lower number counts from then on.
    fn sit(&mut self, number: u64, deadline: Instant) -> Result<(), Errno> {
        while let Seat::Nowhere = self.seat {
            let held: Vec<(OpenId, Held)> = self.held.iter().map(|(id, one)| (*id, one.held)).collect();
            let (epoch, lost, seat) = match self.shared.find(deadline)? {
                Where::Here { epoch, tree } => {
                    let (files, lost) = tree.claim(self.key, &held);
                    self.shared.served.supersede(&self.key);
                    (epoch, lost, Seat::Here { epoch, files })
                }
                Where::There { node, epoch } => {
                    let mut files = RemoteFiles::new(self.shared.clone(), node, epoch, self.key, deadline);
                    files.number = number;
                    match files.ask(Act::Claim(held)) {
                        Ok(Told::Claimed { lost }) => (epoch, lost, Seat::There(files)),
                        Ok(_) => return Err(Errno::Proto),
                        Err(Errno::OwnerDead) => {
                            self.shared.living.wait(Duration::from_millis(20));
                            if Instant::now() >= deadline {
                                return Err(Errno::TimedOut);
                            }
                            continue;
                        }
                        Err(errno) => return Err(errno),
                    }
                }
            };
            if self.epoch.is_some_and(|before| before != epoch) {
                for one in self.held.values_mut() {
                    if one.content == Unsynced::Written {
                        one.content = Unsynced::Lost;
                    }
                }
            }
            for id in lost {
                self.held.remove(&id);
                self.gone.insert(id);
            }
            (self.seat, self.epoch) = (seat, Some(epoch));
        }
        Ok(())
    }

    /// Does one act, wherever the tree is.
    fn act<T>(
        &mut self, again: Again, mut act: impl FnMut(&mut dyn FileSystem) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let deadline = Instant::now() + self.shared.options.patience;
        let mut number = self.next;
        self.next += 1;
        // Of an attempt that may have been done.
        let mut doubt = false;
        loop {
            self.sit(number, deadline)?;
            match &mut self.seat {
                Seat::Nowhere => unreachable!("it has just sat down"),
                Seat::Here { epoch, files } => {
                    // Alone there is nobody who could take over.
                    let is_recorded = again == Again::Numbered && (self.key.lasts() || !self.shared.living.is_empty());
                    files.asks(is_recorded.then_some((self.key, number)));
                    let result = act(files);
                    let is_lost =
                        matches!(result, Err(Errno::OwnerDead)) || self.shared.hold.confirm(*epoch) == Confirmed::Lost;
                    if !is_lost {
                        return result;
                    }
                    if again == Again::Numbered && !is_recorded {
                        // What is durable is done; of the rest nothing is known.
                        return result.map_err(|errno| if errno == Errno::OwnerDead { Errno::Io } else { errno });
                    }
                    doubt = true;
                }
                Seat::There(files) => {
                    (files.number, files.deadline, files.doubt) = (number, deadline, false);
                    let result = act(files);
                    self.next = self.next.max(files.number + 1);
                    if !matches!(result, Err(Errno::OwnerDead)) {
                        return result;
                    }
                    doubt |= files.doubt;
                }
            }
            self.seat = Seat::Nowhere;
            if again == Again::Same {
                // It may have asked several things, and asks them all anew.
                number = self.next;
                self.next += 1;
            }
            if doubt && again == Again::Never {
                self.shared.complaints.add(
                    "the holder of the files was lost while it appended to a file: whether it did is not known".into(),
                );
                return Err(Errno::Io);
            }
        }
    }

    fn check(&self, id: OpenId) -> Result<(), Errno> {
        if self.gone.contains(&id) { Err(Errno::Stale) } else { Ok(()) }
    }

    /// What was just opened.
    fn opened(&mut self, id: OpenId, access: Access) -> Result<(), Errno> {
        let held = match &mut self.seat {
            Seat::Nowhere => None,
            Seat::Here { files, .. } => files.held(id).ok(),
            Seat::There(files) => files.opened(),
        };
        let held = held.ok_or(Errno::Io)?;
        self.held.insert(id, One { held: Held { access, ..held }, content: Unsynced::Nothing });
        Ok(())
    }

    fn written(&mut self, id: OpenId) {
        if let Some(one) = self.held.get_mut(&id)
            && one.content == Unsynced::Nothing
        {
            one.content = Unsynced::Written;
        }
    }

    /// Everything of a file is durable; or was lost, which is said once.
    fn synced(&mut self, id: OpenId) -> Result<(), Errno> {
        let Some(inode) = self.held.get(&id).map(|one| one.held.inode) else { return Ok(()) };
        let mut was_lost = false;
        for one in self.held.values_mut().filter(|one| one.held.inode == inode) {
            was_lost |= one.content == Unsynced::Lost;
            one.content = Unsynced::Nothing;
        }
        if was_lost {
            self.shared
                .complaints
                .add(format!("what was written to inode {} and not synced went with the node that held it", inode.0));
            return Err(Errno::Io);
        }
        Ok(())
    }
}

impl SharedFiles {
    /// How much of this is where it was to be appended.
    fn was_appended(&mut self, file: OpenId, bytes: &[u8], end: u64) -> Result<usize, Errno> {
        let all = self.content(file, DOUBT_BYTES_MAX)?;
        let there = all.get(end as usize..).unwrap_or(&[]);
        let count = there.len().min(bytes.len());
        if count > 0 && there[..count] == bytes[..count] { Ok(count) } else { Err(Errno::Again) }
    }
}

fn read_token(token: &[u8]) -> Result<Held, Malformed> {
    let mut from = Reader::new(token);
    let inode = Inode(from.u64()?);
    let access = match from.u8()? {
        0 => Access::Read,
        1 => Access::Write,
        2 => Access::ReadWrite,
        _ => return Err(from.malformed()),
    };
    from.finish()?;
    Ok(Held { inode, access })
}

impl Drop for SharedFiles {
    fn drop(&mut self) {
        self.shared.forget_session(&self.key);
        match std::mem::replace(&mut self.seat, Seat::Nowhere) {
            Seat::Nowhere => {}
            Seat::Here { files, .. } => {
                let done = files.done();
                let tree = files.tree().clone();
                drop(files);
                if done.is_some() && !self.key.lasts() || self.next == FOR_GOOD {
                    tree.forget(self.key);
                }
            }
            Seat::There(files) => {
                let asked = Asked { epoch: files.epoch, session: self.key, number: self.next, act: Act::End };
                let deadline = Instant::now() + END_PATIENCE;
                // Whoever does not hear it finds out: nobody claims the session from the next holder.
                let _ = self.shared.network.ask(files.node, Service::Files, &asked.write(), deadline);
            }
        }
    }
}

impl FileSystem for SharedFiles {
    fn root(&self) -> OpenId {
        OpenId(0)
    }

    fn open(&mut self, directory: OpenId, path: &str, how: &Open) -> Result<Opened, Errno> {
        self.check(directory)?;
        let again = if how.existence == Existence::Required { Again::Same } else { Again::Numbered };
        let opened = self.act(again, |files| files.open(directory, path, how))?;
        self.opened(opened.id, how.access)?;
        Ok(opened)
    }

    fn duplicate(&mut self, id: OpenId) -> Result<OpenId, Errno> {
        self.check(id)?;
        let new = self.act(Again::Same, |files| files.duplicate(id))?;
        let access = self.held.get(&id).map_or(Access::Read, |one| one.held.access);
        self.opened(new, access)?;
        Ok(new)
    }

    fn close(&mut self, id: OpenId) {
        if id == self.root() {
            return;
        }
        let was = self.held.get(&id).copied();
        let was_gone = self.gone.remove(&id);
        if was.is_some_and(|one| one.content == Unsynced::Lost) {
            // Whoever closes cannot be told: it is in the complaints.
            let _ = self.synced(id);
        }
        if was.is_none() && !was_gone {
            return;
        }
        // A holder that changes meanwhile is not asked to open what is being closed, unless its content has to be synced.
        if was.is_none_or(|one| one.held.access == Access::Read) {
            self.held.remove(&id);
        }
        let _ = self.act(Again::Same, |files| {
            files.close(id);
            Ok(())
        });
        self.held.remove(&id);
    }

    fn read_at(&mut self, file: OpenId, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        self.check(file)?;
        self.act(Again::Same, |files| files.read_at(file, buffer, offset))
    }

    fn write_at(&mut self, file: OpenId, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
        self.check(file)?;
        let count = self.act(Again::Same, |files| files.write_at(file, bytes, offset))?;
        self.written(file);
        Ok(count)
    }

    fn append(&mut self, file: OpenId, bytes: &[u8]) -> Result<(usize, u64), Errno> {
        self.check(file)?;
        let written = self.act(Again::Never, |files| files.append(file, bytes))?;
        self.written(file);
        Ok(written)
    }

    fn stat(&mut self, id: OpenId) -> Result<Stat, Errno> {
        self.check(id)?;
        self.act(Again::Same, |files| files.stat(id))
    }

    fn set_size(&mut self, file: OpenId, size_bytes: u64) -> Result<(), Errno> {
        self.check(file)?;
        self.act(Again::Same, |files| files.set_size(file, size_bytes))?;
        self.written(file);
        Ok(())
    }

    fn set_times(&mut self, id: OpenId, times: SetTimes) -> Result<(), Errno> {
        self.check(id)?;
        self.act(Again::Numbered, |files| files.set_times(id, times))
    }

    fn allocate(&mut self, file: OpenId, offset: u64, length: u64) -> Result<(), Errno> {
        self.check(file)?;
        self.act(Again::Same, |files| files.allocate(file, offset, length))?;
        self.written(file);
        Ok(())
    }

    fn advise(&mut self, file: OpenId, offset: u64, length: u64, advice: Advice) -> Result<(), Errno> {
        self.check(file)?;
        self.act(Again::Same, |files| files.advise(file, offset, length, advice))
    }

    fn sync(&mut self, id: OpenId, what: Durable) -> Result<(), Errno> {
        self.check(id)?;
        self.act(Again::Same, |files| files.sync(id, what))?;
        self.synced(id)
    }

    fn list(&mut self, directory: OpenId) -> Result<Vec<Entry>, Errno> {
        self.check(directory)?;
        self.act(Again::Same, |files| files.list(directory))
    }

    fn stat_at(&mut self, directory: OpenId, path: &str, last_link: LastLink) -> Result<Stat, Errno> {
        self.check(directory)?;
        self.act(Again::Same, |files| files.stat_at(directory, path, last_link))
    }

    fn set_times_at(
        &mut self, directory: OpenId, path: &str, last_link: LastLink, times: SetTimes,
    ) -> Result<(), Errno> {
        self.check(directory)?;
        self.act(Again::Numbered, |files| files.set_times_at(directory, path, last_link, times))
    }

    fn create_directory(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.check(directory)?;
        self.act(Again::Numbered, |files| files.create_directory(directory, path))
    }

    fn remove_directory(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.check(directory)?;
        self.act(Again::Numbered, |files| files.remove_directory(directory, path))
    }

    fn unlink(&mut self, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.check(directory)?;
        self.act(Again::Numbered, |files| files.unlink(directory, path))
    }

    fn rename(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno> {
        self.check(from.0)?;
        self.check(to.0)?;
        self.act(Again::Numbered, |files| files.rename(from, to))
    }

    fn link(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno> {
        self.check(from.0)?;
        self.check(to.0)?;
        self.act(Again::Numbered, |files| files.link(from, to))
    }

    fn symlink(&mut self, content: &str, directory: OpenId, path: &str) -> Result<(), Errno> {
        self.check(directory)?;
        self.act(Again::Numbered, |files| files.symlink(content, directory, path))
    }

    fn read_link(&mut self, directory: OpenId, path: &str) -> Result<String, Errno> {
        self.check(directory)?;
        self.act(Again::Same, |files| files.read_link(directory, path))
    }

    fn locate(&mut self, id: OpenId) -> Result<Place, Errno> {
        self.check(id)?;
        self.act(Again::Same, |files| files.locate(id))
    }

    fn content(&mut self, file: OpenId, bytes_max: u64) -> Result<Vec<u8>, Errno> {
        self.check(file)?;
        self.act(Again::Same, |files| files.content(file, bytes_max))
    }

    fn append_at(&mut self, file: OpenId, bytes: &[u8], end: u64) -> Result<usize, Errno> {
        self.check(file)?;
        let mut attempts = 0;
        let appended = self.act(Again::Same, |files| {
            attempts += 1;
            files.append_at(file, bytes, end)
        });
        let count = match appended {
            // It may have been this that moved the end, before its answer was lost with a holder.
            Err(Errno::Again) if attempts > 1 => self.was_appended(file, bytes, end)?,
            appended => appended?,
        };
        self.written(file);
        Ok(count)
    }

    /// Questions in between have numbers in between.
    fn is_change(&mut self, number: u64) {
        self.next = self.next.max(number << CHANGE_SHIFT);
    }

    fn token(&mut self, id: OpenId) -> Option<Vec<u8>> {
        let Held { inode, access } = self.held.get(&id)?.held;
        Some(Writer::default().u64(inode.0).u8(access as u8).finish())
    }

    fn adopt(&mut self, token: &[u8]) -> Result<OpenId, Errno> {
        let held = read_token(token).map_err(|_| Errno::Inval)?;
        let is_free = |id: &OpenId| !self.held.contains_key(id) && !self.gone.contains(id);
        let id = (1..).map(OpenId).find(is_free).expect("there are more numbers than things that are open");
        self.held.insert(id, One { held, content: Unsynced::Nothing });
        // It is claimed with all that is open. What is open now is open until then, so that nothing goes that has no name.
        let seat = std::mem::replace(&mut self.seat, Seat::Nowhere);
        let number = self.next;
        self.next += 1;
        let sat = self.sit(number, Instant::now() + self.shared.options.patience);
        drop(seat);
        match (sat, self.held.contains_key(&id)) {
            (Ok(()), true) => Ok(id),
            (Ok(()), false) => {
                self.gone.remove(&id);
                Err(Errno::Stale)
            }
            (Err(errno), _) => {
                self.held.remove(&id);
                Err(errno)
            }
        }
    }

    fn orphan_file(&mut self, content: &[u8]) -> Result<OpenId, Errno> {
        let id = self.act(Again::Same, |files| files.orphan_file(content))?;
        self.opened(id, Access::ReadWrite)?;
        self.written(id);
        Ok(id)
    }

    fn orphan_directory(&mut self) -> Result<OpenId, Errno> {
        let id = self.act(Again::Same, |files| files.orphan_directory())?;
        self.opened(id, Access::Read)?;
        Ok(id)
    }
}
