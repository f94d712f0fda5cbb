//! What this node does with its disk for whoever holds the tree: takes copies, gives them, says which it has, removes them.
//!
//! The one idea: it listens to the newest holder that it has heard of, also after a restart, and does nothing that was said before
//! what it did last.

use super::outside::BODY_BYTES_MAX;
use super::planted::{Bug, planted};
use abi::encoding::{Malformed, Reader, Writer};
use drivers::chunks::{ChunkName, Chunks};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Names in one answer; a directory that is begun is told to its end.
const NAMES_AT_ONCE: usize = 8192;

/// What a node is asked about its chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ChunkAsk {
    Put {
        epoch: u64,
        order: u64,
        chunks: Vec<(ChunkName, Vec<u8>)>,
    },
    /// Answered with its bytes.
    Get {
        name: ChunkName,
    },
    /// Answered with an [`Inventory`] of those whose names begin with this byte or a higher one.
    Inventory {
        epoch: u64,
        first: u8,
    },
    Remove {
        epoch: u64,
        order: u64,
        names: Vec<ChunkName>,
    },
}

/// A part of what a node has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Inventory {
    pub names: Vec<ChunkName>,
    /// Where the next part begins.
    pub next: Option<u8>,
}

impl ChunkAsk {
    pub fn write(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            ChunkAsk::Put { epoch, order, chunks } => {
                to.u8(0).u64(*epoch).u64(*order).u32(chunks.len() as u32);
                for (name, bytes) in chunks {
                    to.raw(&name.0).bytes(bytes);
                }
            }
            ChunkAsk::Get { name } => {
                to.u8(1).raw(&name.0);
            }
            ChunkAsk::Inventory { epoch, first } => {
                to.u8(2).u64(*epoch).u8(*first);
            }
            ChunkAsk::Remove { epoch, order, names } => {
                to.u8(3).u64(*epoch).u64(*order).u32(names.len() as u32);
                for name in names {
                    to.raw(&name.0);
                }
            }
        }
        to.finish()
    }

    pub fn read(body: &[u8]) -> Result<ChunkAsk, Malformed> {
        let mut from = Reader::new(body);
        let ask = match from.u8()? {
            0 => {
                let (epoch, order, count) = (from.u64()?, from.u64()?, from.u32()?);
                let mut chunks = vec![];
                for _ in 0..count {
                    chunks.push((name(&mut from)?, from.bytes()?.to_vec()));
                }
                ChunkAsk::Put { epoch, order, chunks }
            }
            1 => ChunkAsk::Get { name: name(&mut from)? },
            2 => ChunkAsk::Inventory { epoch: from.u64()?, first: from.u8()? },
            3 => {
                let (epoch, order, count) = (from.u64()?, from.u64()?, from.u32()?);
                let mut names = vec![];
                for _ in 0..count {
                    names.push(name(&mut from)?);
                }
                ChunkAsk::Remove { epoch, order, names }
            }
            _ => return Err(from.malformed()),
        };
        from.finish()?;
        Ok(ask)
    }
}

impl Inventory {
    fn write(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u32(self.next.map_or(u32::MAX, u32::from)).u32(self.names.len() as u32);
        for name in &self.names {
            to.raw(&name.0);
        }
        to.finish()
    }

    pub fn read(answer: &[u8]) -> Result<Inventory, Malformed> {
        let mut from = Reader::new(answer);
        let next = match from.u32()? {
            u32::MAX => None,
            first => Some(u8::try_from(first).map_err(|_| from.malformed())?),
        };
        let count = from.u32()?;
        let mut names = vec![];
        for _ in 0..count {
            names.push(name(&mut from)?);
        }
        from.finish()?;
        Ok(Inventory { names, next })
    }
}

fn name(from: &mut Reader) -> Result<ChunkName, Malformed> {
    Ok(ChunkName(from.raw(32)?.try_into().expect("thirty-two bytes were taken")))
}

pub(super) struct Shelf {
    here: Arc<Chunks>,
    file: PathBuf,
    heard: Mutex<Heard>,
}

/// Invariants: `epoch` is on the disk.
struct Heard {
    epoch: u64,
    /// The last that was put for that holder.
    order: u64,
}

impl Shelf {
    /// `directory`: where the newest holder that was heard of is written down.
    pub fn open(here: Arc<Chunks>, directory: &Path) -> std::io::Result<Shelf> {
        let file = directory.join("holder");
        let epoch = match std::fs::read_to_string(&file) {
            Ok(text) => text.trim().parse().map_err(|_| {
                let what = format!("{} is damaged: it should hold one number; remove it", file.display());
                std::io::Error::new(std::io::ErrorKind::InvalidData, what)
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(Shelf { here, file, heard: Mutex::new(Heard { epoch, order: 0 }) })
    }

    /// From now on nobody before this holder is listened to, whatever happens to this node.
    pub fn hear(&self, epoch: u64) -> Result<(), String> {
        self.heard(epoch, |_| Ok(()))
    }

    fn heard<T>(&self, epoch: u64, act: impl FnOnce(&mut Heard) -> Result<T, String>) -> Result<T, String> {
        let mut heard = self.heard.lock().expect("nothing panics while it holds who was heard");
        if epoch < heard.epoch && !planted(Bug::AnybodyRemoves) {
            return Err(format!("holder {} has taken over from holder {epoch}", heard.epoch));
        }
        if epoch > heard.epoch {
            self.write_down(epoch).map_err(|error| format!("{}: {error}", self.file.display()))?;
            *heard = Heard { epoch, order: 0 };
        }
        act(&mut heard)
    }

    fn write_down(&self, epoch: u64) -> std::io::Result<()> {
        let new = self.file.with_extension("new");
        let mut file = std::fs::File::create(&new)?;
        writeln!(file, "{epoch}")?;
        file.sync_all()?;
        std::fs::rename(&new, &self.file)?;
        match self.file.parent() {
            Some(above) => std::fs::File::open(above)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Answers one request. Waits for the disk.
    pub fn asked(&self, body: &[u8]) -> Result<Vec<u8>, String> {
        match ChunkAsk::read(body).map_err(|error| format!("the request cannot be read: {error:?}"))? {
            ChunkAsk::Put { epoch, order, chunks } => {
                for (name, bytes) in &chunks {
                    if ChunkName::of(bytes) != *name {
                        return Err("a chunk is not what its name says".into());
                    }
                }
                let all: Vec<(ChunkName, &[u8])> =
                    chunks.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
                self.heard(epoch, |heard| {
                    heard.order = heard.order.max(order);
                    Ok(())
                })?;
                // Nobody removes it for an older word any more, so that it need not stay pinned.
                self.here.put(&all).map(|_pinned| vec![]).map_err(|error| error.to_string())
            }
            ChunkAsk::Get { name } => {
                self.here.get(&name).map(|bytes| bytes.to_vec()).map_err(|error| error.to_string())
            }
            ChunkAsk::Inventory { epoch, first } => {
                self.hear(epoch)?;
                let most = NAMES_AT_ONCE.min(BODY_BYTES_MAX / 64);
                let (names, next) = self.here.inventory(first, most).map_err(|error| error.to_string())?;
                Ok(Inventory { names, next }.write())
            }
            ChunkAsk::Remove { epoch, order, names } => {
                self.remove(epoch, order, &names)?;
                // Others may be heard meanwhile.
                self.here.tidy().map(|()| vec![]).map_err(|error| error.to_string())
            }
        }
    }

    fn remove(&self, epoch: u64, order: u64, names: &[ChunkName]) -> Result<(), String> {
        self.heard(epoch, |heard| {
            if order <= heard.order && !planted(Bug::AnybodyRemoves) {
                return Err("something was put since that was said".into());
            }
            for name in names {
                self.here.remove(name, || false).map_err(|error| error.to_string())?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_read_again_and_nothing_else() {
        let name = ChunkName([7; 32]);
        for ask in [
            ChunkAsk::Put { epoch: 1, order: 2, chunks: vec![(name, vec![1, 2, 3]), (name, vec![])] },
            ChunkAsk::Get { name },
            ChunkAsk::Inventory { epoch: 3, first: 9 },
            ChunkAsk::Remove { epoch: 1, order: 2, names: vec![name, name] },
        ] {
            let bytes = ask.write();
            assert_eq!(ChunkAsk::read(&bytes), Ok(ask.clone()));
            assert!(ChunkAsk::read(&bytes[..bytes.len() - 1]).is_err(), "{ask:?}");
            assert!(ChunkAsk::read(&[bytes, vec![0]].concat()).is_err(), "{ask:?}");
        }
        let inventory = Inventory { names: vec![name], next: Some(4) };
        assert_eq!(Inventory::read(&inventory.write()), Ok(inventory));
    }

    #[test]
    fn only_the_newest_holder_s_last_word_counts() {
        let top = tempfile::tempdir().unwrap();
        let here = Arc::new(Chunks::open(&top.path().join("chunks"), drivers::chunks::ChunkOptions::NORMAL).unwrap());
        let shelf = Shelf::open(here.clone(), top.path()).unwrap();
        let bytes = vec![5; 9000];
        let name = ChunkName::of(&bytes);
        let put = |epoch, order| ChunkAsk::Put { epoch, order, chunks: vec![(name, bytes.clone())] }.write();
        let remove = |epoch, order| ChunkAsk::Remove { epoch, order, names: vec![name] }.write();
        shelf.asked(&put(5, 10)).unwrap();
        assert!(shelf.asked(&remove(5, 9)).is_err(), "said before it was put");
        assert!(shelf.asked(&remove(4, 99)).is_err(), "said by a holder that has lost");
        assert!(here.has(&name));
        shelf.asked(&remove(5, 11)).unwrap();
        assert!(!here.has(&name));
        shelf.asked(&put(5, 12)).unwrap();
        shelf.hear(6).unwrap();
        drop(shelf);
        let shelf = Shelf::open(here.clone(), top.path()).unwrap();
        assert!(shelf.asked(&remove(5, 13)).is_err(), "a restart does not forget who holds the tree");
        assert!(here.has(&name));
        let lie = ChunkAsk::Put { epoch: 6, order: 1, chunks: vec![(ChunkName([1; 32]), vec![1])] };
        assert!(shelf.asked(&lie.write()).is_err());
    }
}
