//! A disk in memory that loses, cuts and keeps what was not synced as it likes, when its computer crashes.
//!
//! The one idea: what was written since the last sync is a list; a crash lets some of it happen, sector by sector, and forgets the
//! rest.

use super::random::Random;
use redb::StorageBackend;
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// One file on such a disk. Clones are the same file.
#[derive(Clone, Debug, Default)]
pub struct LossyFile(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    /// As the program sees it.
    now: Vec<u8>,
    /// As a crash leaves it, if nothing of `since` happens.
    synced: Vec<u8>,
    since: Vec<Change>,
    /// The program that has it open: others were killed, and change nothing any more.
    opened: u64,
}

#[derive(Debug, Clone)]
enum Change {
    Length(u64),
    Write { at: u64, bytes: Vec<u8> },
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => content.resize(*length as usize, 0),
        Change::Write { at, bytes } => {
            let end = *at as usize + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*at as usize..end].copy_from_slice(bytes);
        }
    }
}

impl LossyFile {
    /// Opens it, in the name of a program that is started now.
    pub fn open(&self) -> Box<dyn StorageBackend> {
        let mut content = self.0.lock().unwrap();
        content.opened += 1;
        Box::new(Opened { file: self.clone(), by: content.opened })
    }

    /// The computer stops at once. What was not synced is there, or not, or in part.
    pub fn crash(&self, random: &mut Random) {
        let mut content = self.0.lock().unwrap();
        content.opened += 1;
        let mut after = std::mem::take(&mut content.synced);
        let keeps = random.below(3);
        for change in std::mem::take(&mut content.since) {
            // All, nothing, or here a sector and there a sector.
            match (&change, keeps) {
                (_, 0) => {}
                (_, 1) => apply(&mut after, &change),
                (Change::Length(_), _) => {
                    if random.once_in(2) {
                        apply(&mut after, &change);
                    }
                }
                (Change::Write { at, bytes }, _) => {
                    for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                        let at = *at + (index * SECTOR_BYTES) as u64;
                        if random.once_in(2) && at as usize + sector.len() <= after.len() {
                            apply(&mut after, &Change::Write { at, bytes: sector.to_vec() });
                        }
                    }
                }
            }
        }
        content.now = after.clone();
        content.synced = after;
    }

    /// Changes one bit of what is on the disk.
    pub fn rot(&self, at: u64) {
        let mut content = self.0.lock().unwrap();
        content.now[at as usize] ^= 1;
        let copy = content.now.clone();
        content.synced = copy;
    }

    /// As far as there is something other than zeros.
    pub fn used(&self) -> u64 {
        let content = self.0.lock().unwrap();
        content.now.iter().rposition(|byte| *byte != 0).map_or(1, |last| last as u64 + 1)
    }

    pub fn copy(&self) -> Vec<u8> {
        self.0.lock().unwrap().now.clone()
    }

    pub fn restore(&self, saved: Vec<u8>) {
        let mut content = self.0.lock().unwrap();
        content.now = saved.clone();
        content.synced = saved;
        content.since.clear();
    }
}

#[derive(Debug)]
struct Opened {
    file: LossyFile,
    by: u64,
}

impl Opened {
    fn content(&self) -> Result<std::sync::MutexGuard<'_, Content>, Error> {
        let content = self.file.0.lock().unwrap();
        if content.opened == self.by { Ok(content) } else { Err(Error::other("the computer has crashed")) }
    }
}

impl StorageBackend for Opened {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.content()?.now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let content = self.content()?;
        let end = offset as usize + out.len();
        let part = content.now.get(offset as usize..end).ok_or_else(|| Error::from(ErrorKind::UnexpectedEof))?;
        out.copy_from_slice(part);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        let mut content = self.content()?;
        let change = Change::Length(len);
        apply(&mut content.now, &change);
        content.since.push(change);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut content = self.content()?;
        for change in std::mem::take(&mut content.since) {
            apply(&mut content.synced, &change);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut content = self.content()?;
        let change = Change::Write { at: offset, bytes: data.to_vec() };
        apply(&mut content.now, &change);
        content.since.push(change);
        Ok(())
    }
}
