//! Many chunks in one file, so that storing them costs two syncs and not two each. Knows not who needs them.
//!
//! The one idea: a pack is written once, whole, and gets its name when it is on the disk; from then on chunks only leave it. One
//! that nobody needs any more is forgotten in memory; the file goes with the last of them, or, when most have left, what is still
//! needed moves to another.
//!
//! ```text
//!   packs/17    bytes of a chunk, of the next ... │ name, length; name, length ... │ count │ hash of this index │ "unapack1"
//! ```

use super::{ChunkError, ChunkName};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno as Raw;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

const MAGIC: &[u8; 8] = b"unapack1";
const ENTRY_BYTES: usize = 32 + 4;
/// Behind the index.
const TAIL_BYTES: usize = 4 + 32 + 8;

pub(super) struct Packs {
    path: PathBuf,
    directory: OwnedFd,
    state: Mutex<State>,
}

/// Invariants: `packs` counts what is in `at`; every pack has a chunk.
#[derive(Default)]
struct State {
    at: BTreeMap<ChunkName, Place>,
    packs: HashMap<u64, Pack>,
    next: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    pack: u64,
    offset: u64,
    bytes: u32,
}

#[derive(Clone, Copy, Default)]
struct Pack {
    chunks: u64,
    bytes: u64,
    /// When it was written.
    bytes_then: u64,
    /// Something in it is damaged, so that it stays as it is.
    stays: bool,
}

impl State {
    fn add(&mut self, name: ChunkName, place: Place) {
        let pack = self.packs.entry(place.pack).or_default();
        pack.bytes_then += u64::from(place.bytes);
        if self.at.contains_key(&name) {
            return;
        }
        self.at.insert(name, place);
        pack.chunks += 1;
        pack.bytes += u64::from(place.bytes);
    }

    /// Gives the pack, if nothing is left in it.
    fn take(&mut self, name: &ChunkName) -> Option<(Place, Option<u64>)> {
        let place = self.at.remove(name)?;
        let pack = self.packs.get_mut(&place.pack).expect("a chunk is in a pack that is there");
        pack.chunks -= 1;
        pack.bytes -= u64::from(place.bytes);
        let is_empty = pack.chunks == 0;
        if is_empty {
            self.packs.remove(&place.pack);
        }
        Some((place, is_empty.then_some(place.pack)))
    }
}

impl Packs {
    /// `directory` is open at `path`.
    pub fn open(path: PathBuf, directory: OwnedFd, names: Vec<String>) -> Result<Packs, ChunkError> {
        let packs = Packs { path, directory, state: Mutex::new(State::default()) };
        let mut state = State { next: 1, ..State::default() };
        for name in names {
            let Ok(number) = name.parse::<u64>() else { continue };
            state.next = state.next.max(number + 1);
            // What cannot be read is left to people: the chunks in it are missing, and whoever needs them says so.
            let Ok(chunks) = packs.index(number) else { continue };
            chunks.into_iter().for_each(|(name, place)| state.add(name, place));
            if state.packs.get(&number).is_some_and(|pack| pack.chunks == 0) {
                state.packs.remove(&number);
                packs.unlink(number)?;
            }
        }
        *packs.state() = state;
        Ok(packs)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the packs")
    }

    fn at(&self, number: u64) -> impl Fn(Raw) -> ChunkError + '_ {
        move |error| ChunkError::at(self.path.join(number.to_string()), error.into())
    }

    fn file(&self, number: u64) -> Result<File, ChunkError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.directory, number.to_string(), flags, Mode::empty());
        file.map(File::from).map_err(self.at(number))
    }

    fn unlink(&self, number: u64) -> Result<(), ChunkError> {
        rustix::fs::unlinkat(&self.directory, number.to_string(), rustix::fs::AtFlags::empty()).map_err(self.at(number))
    }

    /// What is in a pack.
    fn index(&self, number: u64) -> Result<Vec<(ChunkName, Place)>, ChunkError> {
        let path = || self.path.join(number.to_string());
        let fail = |error: io::Error| ChunkError::at(path(), error);
        let damaged = || ChunkError::Damaged { file: path() };
        let file = self.file(number)?;
        let length = file.metadata().map_err(fail)?.len();
        let mut tail = [0; TAIL_BYTES];
        let tail_at = length.checked_sub(TAIL_BYTES as u64).ok_or_else(damaged)?;
        file.read_exact_at(&mut tail, tail_at).map_err(fail)?;
        let count = u32::from_le_bytes(tail[..4].try_into().expect("four bytes")) as usize;
        let index_at = (count as u64 * ENTRY_BYTES as u64 <= tail_at)
            .then(|| tail_at - count as u64 * ENTRY_BYTES as u64)
            .filter(|_| tail[36..] == MAGIC[..])
            .ok_or_else(damaged)?;
        let mut index = vec![0; count * ENTRY_BYTES];
        file.read_exact_at(&mut index, index_at).map_err(fail)?;
        if blake3::hash(&index).as_bytes()[..] != tail[4..36] {
            return Err(damaged());
        }
        let mut offset = 0;
        let mut chunks = Vec::with_capacity(count);
        for entry in index.chunks_exact(ENTRY_BYTES) {
            let name = ChunkName(entry[..32].try_into().expect("thirty-two bytes"));
            let bytes = u32::from_le_bytes(entry[32..].try_into().expect("four bytes"));
            chunks.push((name, Place { pack: number, offset, bytes }));
            offset += u64::from(bytes);
        }
        if offset == index_at { Ok(chunks) } else { Err(damaged()) }
    }

    pub fn has(&self, name: &ChunkName) -> bool {
        self.state().at.contains_key(name)
    }

    pub fn path_of(&self, name: &ChunkName) -> Option<PathBuf> {
        self.state().at.get(name).map(|place| self.path.join(place.pack.to_string()))
    }

    /// Those that begin with this byte.
    pub fn names(&self, byte: u8) -> Vec<ChunkName> {
        let (mut first, mut last) = ([0; 32], [u8::MAX; 32]);
        (first[0], last[0]) = (byte, byte);
        self.state().at.range(ChunkName(first)..=ChunkName(last)).map(|(name, _)| *name).collect()
    }

    /// What is in a chunk, unlooked at. Nothing: it is in no pack.
    pub fn read(&self, name: &ChunkName) -> Option<Result<Vec<u8>, ChunkError>> {
        loop {
            let place = *self.state().at.get(name)?;
            let read = || {
                let file = self.file(place.pack)?;
                let mut bytes = vec![0; place.bytes as usize];
                file.read_exact_at(&mut bytes, place.offset)
                    .map_err(|error| ChunkError::at(self.path.join(place.pack.to_string()), error))?;
                Ok(bytes)
            };
            match read() {
                // It moved meanwhile, or went.
                Err(ChunkError::Missing { .. }) if self.state().at.get(name) != Some(&place) => {}
                result => return Some(result),
            }
        }
    }

    /// Writes a pack: `temporary` is a new file at this name in that directory. Gives its number once it is on the disk.
    fn write(
        &self, temporary: (&OwnedFd, &str, &File), all: &[(ChunkName, &[u8])],
    ) -> Result<(u64, Vec<(ChunkName, Place)>), ChunkError> {
        let (directory, name, file) = temporary;
        let number = {
            let mut state = self.state();
            state.next += 1;
            state.next - 1
        };
        let fail = |error: io::Error| ChunkError::at(self.path.join(number.to_string()), error);
        let mut to = BufWriter::with_capacity(256 << 10, file);
        let mut index = Vec::with_capacity(all.len() * ENTRY_BYTES);
        let mut places = Vec::with_capacity(all.len());
        let mut offset = 0;
        for (name, bytes) in all {
            to.write_all(bytes).map_err(fail)?;
            index.extend_from_slice(&name.0);
            index.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            places.push((*name, Place { pack: number, offset, bytes: bytes.len() as u32 }));
            offset += bytes.len() as u64;
        }
        to.write_all(&index).map_err(fail)?;
        to.write_all(&(all.len() as u32).to_le_bytes()).map_err(fail)?;
        to.write_all(blake3::hash(&index).as_bytes()).map_err(fail)?;
        to.write_all(MAGIC).map_err(fail)?;
        to.flush().map_err(fail)?;
        drop(to);
        rustix::fs::fdatasync(file).map_err(self.at(number))?;
        rustix::fs::renameat(directory, name, &self.directory, number.to_string()).map_err(self.at(number))?;
        if let Err(error) = rustix::fs::fsync(&self.directory) {
            // A name that may not be on the disk must not be found at the next start by who relies on it.
            let _ = self.unlink(number);
            return Err(self.at(number)(error));
        }
        Ok((number, places))
    }

    /// Makes chunks durable together. None of them is in a pack.
    pub fn put(&self, temporary: (&OwnedFd, &str, &File), all: &[(ChunkName, &[u8])]) -> Result<(), ChunkError> {
        let (_, places) = self.write(temporary, all)?;
        let mut state = self.state();
        places.into_iter().for_each(|(name, place)| state.add(name, place));
        Ok(())
    }

    /// Forgets a chunk. Gives its bytes, if it was in a pack.
    pub fn remove(&self, name: &ChunkName) -> Option<Result<u64, ChunkError>> {
        let (place, empty) = self.state().take(name)?;
        let removed = empty.map_or(Ok(()), |number| self.unlink(number));
        Some(removed.map(|()| u64::from(place.bytes)))
    }

    /// A pack from which most has gone, with what is left in it.
    fn worn(&self) -> Option<(u64, Vec<ChunkName>)> {
        let state = self.state();
        let (number, _) = state.packs.iter().find(|(_, pack)| !pack.stays && pack.bytes < pack.bytes_then / 2)?;
        let left = state.at.iter().filter(|(_, place)| place.pack == *number).map(|(name, _)| *name).collect();
        Some((*number, left))
    }

    /// Moves what is left in one worn pack to a new one. Gives whether there was one.
    pub fn tidy_one(&self, temporary: (&OwnedFd, &str, &File)) -> Result<bool, ChunkError> {
        let Some((number, names)) = self.worn() else { return Ok(false) };
        let mut left = vec![];
        for name in names {
            match self.read(&name) {
                Some(Ok(bytes)) if ChunkName::of(&bytes) == name => left.push((name, bytes)),
                None => {}
                // Perhaps people can make something of it; here it stays what it is.
                Some(_) => {
                    if let Some(pack) = self.state().packs.get_mut(&number) {
                        pack.stays = true;
                    }
                    return Ok(true);
                }
            }
        }
        if left.is_empty() {
            return Ok(true);
        }
        let all: Vec<(ChunkName, &[u8])> = left.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        let (new, places) = self.write(temporary, &all)?;
        let mut gone = vec![];
        {
            let mut state = self.state();
            for (name, place) in places {
                // Those that were removed meanwhile do not come back.
                if state.at.get(&name).is_some_and(|place| place.pack == number) {
                    gone.extend(state.take(&name).and_then(|(_, empty)| empty));
                    state.add(name, place);
                }
            }
            if !state.packs.contains_key(&new) {
                gone.push(new);
            }
        }
        gone.into_iter().try_for_each(|number| self.unlink(number)).map(|()| true)
    }
}
