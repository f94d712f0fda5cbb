//! A stopped process as chunks, and chunks as a process that can go on. Knows the form of a checkpoint (`services::checkpoints`) and that
//! chunks are put and got; not where, nor what a process does.
//!
//! The one idea: while a process is stopped it is only cut and hashed; what is new is copied, and brought to disks when it runs again. Of
//! what the last checkpoint of the same process has at the same place nothing is copied, and of what nobody wrote to since then
//! nothing is even looked at, where that is known.
//!
//! ```text
//!   cut       units of 64 KiB ──► names; new ones ──► store        (stopped, the process waits)
//!   seal      names ──► lists ──► root ──► store                   (it runs again)
//!   read      root ──► lists ──► units ──► image                   (whatever is not what its name says is damage)
//! ```

pub mod record;
pub mod watch;

use drivers::chunks::{ChunkError, ChunkName};
use engine::SavedState;
use services::checkpoints::{BLOB_BYTES_MAX, Blob, LIST_UNITS, List, Root, UNIT_BYTES, list_units, unit_bytes};
use services::files::ChunkHash;
use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;

/// New content that is held in memory while the process is stopped. More is brought to disks at once, while it waits.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Chunks that are put at once.
const PUT_BYTES: usize = crate::files::PUT_BYTES_MAX - (64 << 10);

/// Where chunks are kept.
pub trait Store: Sync {
    /// Returns when they are where they are to be. At most as many bytes as one request takes.
    fn put(&self, chunks: Vec<(ChunkName, Vec<u8>)>) -> Result<(), String>;
    /// What is in a chunk, looked at.
    fn get(&self, name: &ChunkName) -> Result<Arc<[u8]>, ChunkError>;
}

/// The names of a blob's units.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Units {
    pub bytes: u64,
    pub names: Vec<Option<ChunkName>>,
}

/// The names of all units of a process: what the next checkpoint of it is compared with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cut {
    pub program: Units,
    pub state: Units,
    pub streams: Units,
    pub memories: Vec<Units>,
}

impl Cut {
    /// Bytes of units that the last checkpoint did not have at their place.
    pub fn new_bytes(&self, before: Option<&Cut>) -> u64 {
        let mut seen = HashSet::new();
        let mut bytes = 0;
        let mut count = |units: &Units, before: Option<&Units>| {
            for (index, name) in units.names.iter().enumerate() {
                let known = before.and_then(|before| before.names.get(index).copied().flatten());
                if let Some(name) = name
                    && known != Some(*name)
                    && seen.insert(*name)
                {
                    bytes += unit_bytes(units.bytes, index as u64) as u64;
                }
            }
        };
        count(&self.program, before.map(|before| &before.program));
        count(&self.state, before.map(|before| &before.state));
        count(&self.streams, before.map(|before| &before.streams));
        for (index, units) in self.memories.iter().enumerate() {
            count(units, before.and_then(|before| before.memories.get(index)));
        }
        bytes
    }
}

/// Cuts one process.
pub struct Cutter<'a> {
    store: &'a dyn Store,
    held: Vec<(ChunkName, Vec<u8>)>,
    held_bytes: usize,
    seen: HashSet<ChunkName>,
}

fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; UNIT_BYTES] = [0; UNIT_BYTES];
    *bytes == ZEROS[..bytes.len()]
}

impl<'a> Cutter<'a> {
    pub fn new(store: &'a dyn Store) -> Cutter<'a> {
        Cutter { store, held: vec![], held_bytes: 0, seen: HashSet::new() }
    }

    /// Names all units of a blob, and keeps those that are not in `before` at the same place. `may_have_changed`: of the units that
    /// `before` has.
    pub fn blob(
        &mut self, bytes: &[u8], before: Option<&Units>, may_have_changed: impl Fn(u64) -> bool,
    ) -> Result<Units, String> {
        if bytes.len() as u64 > BLOB_BYTES_MAX {
            return Err(format!("it has a memory of {} bytes; {BLOB_BYTES_MAX} can be kept", bytes.len()));
        }
        let mut names = Vec::with_capacity(bytes.len().div_ceil(UNIT_BYTES));
        for (index, unit) in bytes.chunks(UNIT_BYTES).enumerate() {
            let known = before.and_then(|before| before.names.get(index));
            let is_whole = before.is_some_and(|before| unit_bytes(before.bytes, index as u64) == unit.len());
            if let Some(known) = known
                && is_whole
                && !may_have_changed(index as u64)
            {
                names.push(*known);
                continue;
            }
            names.push(self.unit(unit, known.copied().flatten())?);
        }
        Ok(Units { bytes: bytes.len() as u64, names })
    }

    /// Names a unit and keeps it, unless it is `known`, which is kept already.
    pub fn unit(&mut self, unit: &[u8], known: Option<ChunkName>) -> Result<Option<ChunkName>, String> {
        if is_zero(unit) {
            return Ok(None);
        }
        let name = ChunkName::of(unit);
        if known != Some(name) {
            self.keep(name, || unit.to_vec())?;
        }
        Ok(Some(name))
    }

    fn keep(&mut self, name: ChunkName, bytes: impl FnOnce() -> Vec<u8>) -> Result<(), String> {
        if !self.seen.insert(name) {
            return Ok(());
        }
        let bytes = bytes();
        self.held_bytes += bytes.len();
        self.held.push((name, bytes));
        if self.held_bytes > HELD_BYTES_MAX { self.flush() } else { Ok(()) }
    }

    /// Brings all that is held to where it is kept.
    pub fn flush(&mut self) -> Result<(), String> {
        let mut some = vec![];
        let mut some_bytes = 0;
        for (name, bytes) in self.held.drain(..) {
            if some_bytes + bytes.len() > PUT_BYTES && !some.is_empty() {
                self.store.put(std::mem::take(&mut some))?;
                some_bytes = 0;
            }
            some_bytes += bytes.len() + 64;
            some.push((name, bytes));
        }
        self.held_bytes = 0;
        if some.is_empty() { Ok(()) } else { self.store.put(some) }
    }

    /// Names all of a process by one name.
    pub fn seal(&mut self, cut: &Cut, before: Option<&Cut>) -> Result<ChunkName, String> {
        let program = self.lists(&cut.program, before.map(|before| &before.program))?;
        let state = self.lists(&cut.state, before.map(|before| &before.state))?;
        let streams = self.lists(&cut.streams, before.map(|before| &before.streams))?;
        let mut memories = vec![];
        for (index, units) in cut.memories.iter().enumerate() {
            memories.push(self.lists(units, before.and_then(|before| before.memories.get(index)))?);
        }
        let root = Root { program, state, streams, memories }.write();
        let name = ChunkName::of(&root);
        self.keep(name, || root)?;
        self.flush()?;
        Ok(name)
    }

    fn lists(&mut self, units: &Units, before: Option<&Units>) -> Result<Blob, String> {
        let mut lists = vec![];
        for (index, names) in units.names.chunks(LIST_UNITS).enumerate() {
            if names.iter().all(Option::is_none) {
                lists.push(None);
                continue;
            }
            let hashes = names.iter().map(|name| name.map(|name| ChunkHash(name.0))).collect();
            let list = List { units: hashes }.write();
            let name = ChunkName::of(&list);
            let from = index * LIST_UNITS;
            let known = before.and_then(|before| before.names.get(from..(from + LIST_UNITS).min(before.names.len())));
            if known != Some(names) {
                self.keep(name, || list)?;
            }
            lists.push(Some(ChunkHash(name.0)));
        }
        Ok(Blob { bytes: units.bytes, lists })
    }
}

/// Why a checkpoint cannot be read: it is damaged, or a part of it cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error("{0} of it is not of the form that it should have")]
    Form(&'static str),
    #[error("its state cannot be read: {0}")]
    State(String),
    #[error(transparent)]
    Write(io::Error),
}

/// A checkpoint whose root was read.
pub struct Whole<'a> {
    store: &'a dyn Store,
    root: Root,
}

impl<'a> Whole<'a> {
    pub fn open(store: &'a dyn Store, root: ChunkName) -> Result<Whole<'a>, Broken> {
        let root = Root::read(&store.get(&root)?).map_err(|_| Broken::Form("the root"))?;
        Ok(Whole { store, root })
    }

    pub fn program(&self) -> Result<Vec<u8>, Broken> {
        self.content(&self.root.program)
    }

    pub fn streams(&self) -> Result<Vec<u8>, Broken> {
        self.content(&self.root.streams)
    }

    /// The names of all units.
    pub fn cut(&self) -> Result<Cut, Broken> {
        let mut memories = vec![];
        for blob in &self.root.memories {
            memories.push(self.units(blob)?);
        }
        Ok(Cut {
            program: self.units(&self.root.program)?,
            state: self.units(&self.root.state)?,
            streams: self.units(&self.root.streams)?,
            memories,
        })
    }

    fn units(&self, blob: &Blob) -> Result<Units, Broken> {
        let mut names = vec![];
        for (index, list) in blob.lists.iter().enumerate() {
            let count = list_units(blob.bytes, index);
            match list {
                None => names.resize(names.len() + count, None),
                Some(list) => {
                    let list = self.store.get(&ChunkName(list.0))?;
                    let list = List::read(&list, count).map_err(|_| Broken::Form("a list"))?;
                    names.extend(list.units.iter().map(|hash| hash.map(|hash| ChunkName(hash.0))));
                }
            }
        }
        Ok(Units { bytes: blob.bytes, names })
    }

    /// Shows each unit that is not zero, with its place.
    fn each(&self, blob: &Blob, mut show: impl FnMut(u64, &[u8]) -> Result<(), Broken>) -> Result<(), Broken> {
        let units = self.units(blob)?;
        for (index, name) in units.names.iter().enumerate() {
            let Some(name) = name else { continue };
            let bytes = self.store.get(name)?;
            if bytes.len() != unit_bytes(blob.bytes, index as u64) {
                return Err(Broken::Form("a unit"));
            }
            show((index * UNIT_BYTES) as u64, &bytes)?;
        }
        Ok(())
    }

    fn content(&self, blob: &Blob) -> Result<Vec<u8>, Broken> {
        let mut content = vec![];
        self.each(blob, |at, bytes| {
            content.resize(at as usize, 0);
            content.extend_from_slice(bytes);
            Ok(())
        })?;
        content.resize(blob.bytes as usize, 0);
        Ok(content)
    }

    /// Writes it as an image.
    pub fn write_image(&self, out: impl Write) -> Result<(), Broken> {
        let state = self.content(&self.root.state)?;
        let state = SavedState::read(&state[..]).map_err(|error| Broken::State(error.to_string()))?;
        let sizes: Vec<u64> = self.root.memories.iter().map(|blob| blob.bytes).collect();
        if sizes != state.memories() {
            return Err(Broken::Form("the size of a memory"));
        }
        let mut image = state.image(out).map_err(Broken::Write)?;
        for (memory, blob) in self.root.memories.iter().enumerate() {
            self.each(blob, |at, bytes| image.memory(memory as u32, at, bytes).map_err(Broken::Write))?;
        }
        image.finish().map(drop).map_err(Broken::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::path::PathBuf;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Memory(Mutex<HashMap<ChunkName, Vec<u8>>>);

    impl Store for Memory {
        fn put(&self, chunks: Vec<(ChunkName, Vec<u8>)>) -> Result<(), String> {
            assert!(chunks.iter().map(|(_, bytes)| bytes.len() + 64).sum::<usize>() <= crate::files::PUT_BYTES_MAX);
            self.0.lock().unwrap().extend(chunks);
            Ok(())
        }

        fn get(&self, name: &ChunkName) -> Result<Arc<[u8]>, ChunkError> {
            let file = PathBuf::from("chunk");
            match self.0.lock().unwrap().get(name) {
                Some(bytes) if ChunkName::of(bytes) == *name => Ok(bytes.as_slice().into()),
                Some(_) => Err(ChunkError::Damaged { file }),
                None => Err(ChunkError::Missing { file }),
            }
        }
    }

    fn cut(store: &Memory, memory: &[u8], before: Option<&Cut>) -> (Cut, ChunkName, u64) {
        let mut cutter = Cutter::new(store);
        let cut = Cut {
            program: cutter.blob(b"program", before.map(|before| &before.program), |_| true).unwrap(),
            state: cutter.blob(&[7; 100_000], before.map(|before| &before.state), |_| true).unwrap(),
            streams: Units::default(),
            memories: vec![cutter.blob(memory, before.map(|before| &before.memories[0]), |_| true).unwrap()],
        };
        let root = cutter.seal(&cut, before).unwrap();
        let new_bytes = cut.new_bytes(before);
        (cut, root, new_bytes)
    }

    fn memory_of(store: &Memory, root: ChunkName) -> Vec<u8> {
        let whole = Whole::open(store, root).unwrap();
        whole.content(&whole.root.memories[0]).unwrap()
    }

    #[test]
    fn what_is_cut_is_read_again_and_only_what_is_new_is_kept() {
        let store = Memory::default();
        let mut memory = vec![0u8; 200 * UNIT_BYTES + 5];
        memory[3 * UNIT_BYTES] = 1;
        memory[200 * UNIT_BYTES + 4] = 2;
        let (first, root, new) = cut(&store, &memory, None);
        assert_eq!(memory_of(&store, root), memory);
        // Two units of the memory, the state (two units), and the program: nothing for zeros.
        assert_eq!(new, UNIT_BYTES as u64 + 5 + 100_000 + 7);
        let (second, same, new) = cut(&store, &memory, Some(&first));
        assert_eq!((same, new, &second), (root, 0, &first));
        memory[5 * UNIT_BYTES] = 9;
        memory.truncate(190 * UNIT_BYTES + 1);
        let (third, other, new) = cut(&store, &memory, Some(&second));
        assert_eq!(memory_of(&store, other), memory);
        assert_eq!(new, UNIT_BYTES as u64);
        assert_eq!(Whole::open(&store, other).unwrap().cut().unwrap(), third);
    }

    #[test]
    fn what_nobody_wrote_to_is_not_looked_at() {
        let store = Memory::default();
        let memory = vec![3u8; 9 * UNIT_BYTES];
        let mut cutter = Cutter::new(&store);
        let before = cutter.blob(&memory, None, |_| true).unwrap();
        let asked = Cell::new(0);
        let mut other = memory.clone();
        other[4 * UNIT_BYTES] = 4;
        other[6 * UNIT_BYTES] = 4;
        let after = cutter
            .blob(&other, Some(&before), |unit| {
                asked.set(asked.get() + 1);
                unit == 4
            })
            .unwrap();
        let changed: Vec<usize> = (0..9).filter(|unit| before.names[*unit] != after.names[*unit]).collect();
        // Whoever says that the unit 6 has not changed is believed.
        assert_eq!((asked.get(), changed), (9, vec![4]));
    }

    /// Whatever becomes of the chunks of a checkpoint, it is read as what it was or not at all.
    #[test]
    fn five_thousand_flipped_bits_are_found() {
        let store = Memory::default();
        let mut memory = vec![0u8; 40 * UNIT_BYTES];
        memory.iter_mut().step_by(1009).enumerate().for_each(|(index, byte)| *byte = index as u8);
        let (_, root, _) = cut(&store, &memory, None);
        let names: Vec<ChunkName> = store.0.lock().unwrap().keys().copied().collect();
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = |bound: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % bound as u64) as usize
        };
        let read = |store: &Memory| -> Result<(), Broken> {
            let whole = Whole::open(store, root)?;
            whole.root.blobs().try_for_each(|blob| whole.content(blob).map(drop))
        };
        read(&store).unwrap();
        let flip = |name: &ChunkName, at: usize, bit: usize| {
            store.0.lock().unwrap().get_mut(name).unwrap()[at] ^= 1 << bit;
        };
        for _ in 0..5000 {
            let name = names[next(names.len())];
            let (at, bit) = (next(store.0.lock().unwrap()[&name].len()), next(8));
            flip(&name, at, bit);
            assert!(read(&store).is_err(), "bit {bit} of byte {at}");
            flip(&name, at, bit);
        }
        read(&store).unwrap();
        // Cut short, or gone.
        for name in &names {
            let bytes = store.0.lock().unwrap().remove(name).unwrap();
            assert!(matches!(read(&store), Err(Broken::Chunk(ChunkError::Missing { .. }))));
            store.0.lock().unwrap().insert(*name, bytes[..next(bytes.len())].to_vec());
            assert!(read(&store).is_err());
            store.0.lock().unwrap().insert(*name, bytes);
        }
    }
}
