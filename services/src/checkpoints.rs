//! What a checkpoint is made of, and how many of a process are kept. Knows no process, no disk and no hash function: chunks are
//! named by whoever keeps them.
//!
//! The one idea: a checkpoint is a tree of names. The name of its root is the name of everything in it, so that whoever holds that
//! one name can tell whether what he was given is the checkpoint; and two checkpoints share whatever is the same in both.
//!
//! ```text
//!   root ──► program    blob                       blob ──► list ──► unit    64 KiB, the last one shorter
//!        ──► state      blob                                    ──► unit
//!        ──► streams    blob                                    (none: zeros)
//!        ──► memory 0   blob                            ──► list    1024 units
//!        ──► memory 1   blob                            (none: zeros)
//! ```
//! Units and lists that are all zeros have no name and are not kept.

use crate::files::ChunkHash;
use abi::encoding::{Malformed, Reader, Writer};
use alloc::vec;
use alloc::vec::Vec;

/// How much of a blob one chunk holds.
pub const UNIT_BYTES: usize = 64 << 10;
/// How many units one list names.
pub const LIST_UNITS: usize = 1024;
/// How many checkpoints of one process are kept. Then the oldest that has no name goes, or the oldest of all.
pub const HISTORY_MAX: usize = 8;
/// No blob is longer: as many bytes as one list of lists can name.
pub const BLOB_BYTES_MAX: u64 = (UNIT_BYTES * LIST_UNITS) as u64 * LISTS_MAX as u64;
/// Lists of one blob; a root must be a chunk.
const LISTS_MAX: usize = 4096;
/// Memories of one program. Admission allows fewer.
const MEMORIES_MAX: usize = 128;

const FORM: u8 = 1;

/// A stretch of bytes.
///
/// Invariants: as many `lists` as its `bytes` take.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Blob {
    pub bytes: u64,
    pub lists: Vec<Option<ChunkHash>>,
}

/// The names of units that follow one another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct List {
    pub units: Vec<Option<ChunkHash>>,
}

/// A whole process.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Root {
    /// Its WebAssembly.
    pub program: Blob,
    /// Its image without the memories.
    pub state: Blob,
    /// What its standard streams held.
    pub streams: Blob,
    pub memories: Vec<Blob>,
}

/// How many units so many bytes take.
pub fn units(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT_BYTES as u64)
}

/// How long one unit of a blob is.
pub fn unit_bytes(bytes: u64, unit: u64) -> usize {
    bytes.saturating_sub(unit * UNIT_BYTES as u64).min(UNIT_BYTES as u64) as usize
}

/// How many units one list of a blob names.
pub fn list_units(bytes: u64, list: usize) -> usize {
    units(bytes).saturating_sub((list * LIST_UNITS) as u64).min(LIST_UNITS as u64) as usize
}

/// How many lists so many bytes take.
pub fn lists(bytes: u64) -> usize {
    units(bytes).div_ceil(LIST_UNITS as u64) as usize
}

impl Blob {
    fn write(&self, to: &mut Writer) {
        to.u64(self.bytes);
        write_names(&self.lists, to);
    }

    fn read(from: &mut Reader) -> Result<Blob, Malformed> {
        let bytes = from.u64()?;
        if bytes > BLOB_BYTES_MAX {
            return Err(from.malformed());
        }
        Ok(Blob { bytes, lists: read_names(lists(bytes), from)? })
    }
}

impl List {
    pub fn write(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u8(FORM).u32(self.units.len() as u32);
        write_names(&self.units, &mut to);
        to.finish()
    }

    /// `count`: how many units it must name.
    pub fn read(bytes: &[u8], count: usize) -> Result<List, Malformed> {
        let mut from = Reader::new(bytes);
        if from.u8()? != FORM || from.u32()? as usize != count {
            return Err(from.malformed());
        }
        let units = read_names(count, &mut from)?;
        from.finish()?;
        Ok(List { units })
    }
}

impl Root {
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        [&self.program, &self.state, &self.streams].into_iter().chain(&self.memories)
    }

    pub fn write(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u8(FORM).u32(self.memories.len() as u32);
        self.blobs().for_each(|blob| blob.write(&mut to));
        to.finish()
    }

    pub fn read(bytes: &[u8]) -> Result<Root, Malformed> {
        let mut from = Reader::new(bytes);
        if from.u8()? != FORM {
            return Err(from.malformed());
        }
        let count = from.u32()? as usize;
        if count > MEMORIES_MAX {
            return Err(from.malformed());
        }
        let (program, state, streams) = (Blob::read(&mut from)?, Blob::read(&mut from)?, Blob::read(&mut from)?);
        let memories = (0..count).map(|_| Blob::read(&mut from)).collect::<Result<_, _>>()?;
        from.finish()?;
        Ok(Root { program, state, streams, memories })
    }
}

/// A bit for each name that is there, then the names.
fn write_names(names: &[Option<ChunkHash>], to: &mut Writer) {
    let mut bits = vec![0u8; names.len().div_ceil(8)];
    for (index, name) in names.iter().enumerate() {
        bits[index / 8] |= u8::from(name.is_some()) << (index % 8);
    }
    to.raw(&bits);
    names.iter().flatten().for_each(|name| {
        to.raw(&name.0);
    });
}

fn read_names(count: usize, from: &mut Reader) -> Result<Vec<Option<ChunkHash>>, Malformed> {
    let bits = from.raw(count.div_ceil(8))?;
    let spare = bits.last().copied().unwrap_or(0).checked_shr(count as u32 % 8).unwrap_or(0);
    if !count.is_multiple_of(8) && spare != 0 {
        return Err(from.malformed());
    }
    (0..count)
        .map(|index| match bits[index / 8] >> (index % 8) & 1 {
            0 => Ok(None),
            _ => Ok(Some(ChunkHash(from.raw(32)?.try_into().expect("thirty-two bytes were taken")))),
        })
        .collect()
}

/// One checkpoint, for whoever decides which are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Counts a process's checkpoints.
    pub sequence: u32,
    /// Somebody gave it a name.
    pub is_named: bool,
}

/// Which of a process's checkpoints go when one more is made.
pub fn surplus(history: &[Kept]) -> Vec<u32> {
    let mut rest: Vec<Kept> = history.to_vec();
    rest.sort_by_key(|kept| (kept.is_named, kept.sequence));
    let more = (rest.len() + 1).saturating_sub(HISTORY_MAX);
    rest.iter().take(more).map(|kept| kept.sequence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(byte: u8) -> Option<ChunkHash> {
        Some(ChunkHash([byte; 32]))
    }

    fn root() -> Root {
        let blob = |bytes: u64, lists: &[Option<ChunkHash>]| Blob { bytes, lists: lists.to_vec() };
        let list = (UNIT_BYTES * LIST_UNITS) as u64;
        Root {
            program: blob(1, &[name(1)]),
            state: blob(list, &[name(2)]),
            streams: blob(0, &[]),
            memories: vec![blob(2 * list + 1, &[name(3), None, name(4)]), blob(9 * list, &[None; 9])],
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_else() {
        let bytes = root().write();
        assert_eq!(Root::read(&bytes), Ok(root()));
        let list = List { units: (0..11).map(|unit| if unit % 3 == 0 { None } else { name(unit) }).collect() };
        assert_eq!(List::read(&list.write(), 11), Ok(list.clone()));
        assert!(List::read(&list.write(), 10).is_err() && List::read(&list.write(), 12).is_err());
        for length in 0..bytes.len() {
            assert!(Root::read(&bytes[..length]).is_err(), "{length}");
        }
        assert!(Root::read(&[&bytes[..], &[0]].concat()).is_err());
    }

    /// Another name is another root; whatever else is flipped is refused or another root too: nothing is read as what it is not.
    #[test]
    fn no_flipped_bit_is_overlooked() {
        let bytes = root().write();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(Root::read(&flipped), Ok(root()), "bit {bit}");
        }
    }

    #[test]
    fn lies_about_lengths_cost_nothing() {
        let mut to = Writer::default();
        to.u8(FORM).u32(u32::MAX);
        assert!(Root::read(&to.finish()).is_err());
        let mut to = Writer::default();
        to.u8(FORM).u32(0).u64(u64::MAX);
        assert!(Root::read(&to.finish()).is_err());
    }

    #[test]
    fn units_and_lists_of_any_length() {
        let list = (UNIT_BYTES * LIST_UNITS) as u64;
        for (bytes, of_units, of_lists) in [(0, 0, 0), (1, 1, 1), (65_536, 1, 1), (65_537, 2, 1), (list, 1024, 1)] {
            assert_eq!((units(bytes), lists(bytes)), (of_units, of_lists), "{bytes}");
        }
        assert_eq!((lists(list + 1), list_units(list + 1, 0), list_units(list + 1, 1)), (2, 1024, 1));
        assert_eq!((unit_bytes(65_537, 0), unit_bytes(65_537, 1), unit_bytes(65_537, 2)), (65_536, 1, 0));
        assert_eq!(lists(BLOB_BYTES_MAX), LISTS_MAX);
    }

    #[test]
    fn the_oldest_without_a_name_goes_first() {
        let kept = |sequence, is_named| Kept { sequence, is_named };
        let mut history: Vec<Kept> = (1..HISTORY_MAX as u32).map(|sequence| kept(sequence, sequence < 3)).collect();
        assert_eq!(surplus(&history), Vec::<u32>::new());
        history.push(kept(8, false));
        assert_eq!(surplus(&history), [3]);
        history.iter_mut().for_each(|kept| kept.is_named = true);
        assert_eq!(surplus(&history), [1]);
        history.push(kept(9, true));
        assert_eq!(surplus(&history), [1, 2]);
    }
}
