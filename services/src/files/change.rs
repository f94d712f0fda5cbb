//! The facts of a tree, and how they become records with keys and values. Knows nothing of operations, and not where records
//! are kept.
//!
//! The one idea: a record says what is, never what was done. So records can be replayed in any order of time, a change can be
//! taken back by writing what was there before, and a store that knows only keys and values, on this disk or on other nodes,
//! can keep them.
//!
//! ```text
//!   key                              value
//!   0                                device, number of inodes that may have been given out
//!   1 inode                          form, times, size
//!   2 directory name                 inode
//!   3 inode index-of-page            what the page is: a chunk and how much of it, or a few bytes themselves
//!   4 inode                          it has no name any more, but somebody had it open; what it was called
//! ```
//! Numbers in keys are big-endian, so that the records of one inode stand together.

use abi::encoding::{Malformed, Reader, Writer};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A file, directory or link, whatever it is called. Never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Inode(pub u64);

/// The BLAKE3 hash of a chunk's content, and its only name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkHash(pub [u8; 32]);

/// What stands in one page of a file. Behind it the page is zeros.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// The first bytes of a chunk; there may be more in it, which a cut took from the file.
    Chunk { hash: ChunkHash, used_bytes: u32 },
    /// Too little for a chunk of its own.
    Inline(Arc<[u8]>),
}

/// What a thing is; it stays that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Form {
    File,
    Directory,
    /// A symbolic link and what it says.
    Link(Arc<str>),
}

/// What changes of an inode. Times are nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    pub size_bytes: u64,
    pub accessed_ns: u64,
    pub modified_ns: u64,
    pub changed_ns: u64,
}

/// One record to be written, or removed. All changes of one act become durable together or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    System { device: u64, inodes_reserved: u64 },
    Inode { inode: Inode, form: Form, born_ns: u64, attributes: Attributes },
    NoInode { inode: Inode },
    Name { directory: Inode, name: Arc<str>, inode: Inode },
    NoName { directory: Inode, name: Arc<str> },
    Page { inode: Inode, index: u64, piece: Piece },
    NoPage { inode: Inode, index: u64 },
    Kept { inode: Inode, was: Arc<str> },
    NotKept { inode: Inode },
}

const SYSTEM: u8 = 0;
const INODE: u8 = 1;
const NAME: u8 = 2;
const PAGE: u8 = 3;
const KEPT: u8 = 4;

impl Change {
    pub fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(32);
        match self {
            Change::System { .. } => key.push(SYSTEM),
            Change::Inode { inode, .. } | Change::NoInode { inode } => {
                key.push(INODE);
                key.extend_from_slice(&inode.0.to_be_bytes());
            }
            Change::Name { directory, name, .. } | Change::NoName { directory, name } => {
                key.push(NAME);
                key.extend_from_slice(&directory.0.to_be_bytes());
                key.extend_from_slice(name.as_bytes());
            }
            Change::Page { inode, index, .. } | Change::NoPage { inode, index } => {
                key.push(PAGE);
                key.extend_from_slice(&inode.0.to_be_bytes());
                key.extend_from_slice(&index.to_be_bytes());
            }
            Change::Kept { inode, .. } | Change::NotKept { inode } => {
                key.push(KEPT);
                key.extend_from_slice(&inode.0.to_be_bytes());
            }
        }
        key
    }

    /// Nothing: the record is removed.
    pub fn value(&self) -> Option<Vec<u8>> {
        let mut to = Writer::default();
        match self {
            Change::NoInode { .. } | Change::NoName { .. } | Change::NoPage { .. } | Change::NotKept { .. } => {
                return None;
            }
            Change::System { device, inodes_reserved } => to.u64(*device).u64(*inodes_reserved),
            Change::Inode { form, born_ns, attributes, .. } => {
                match form {
                    Form::File => to.u8(0),
                    Form::Directory => to.u8(1),
                    Form::Link(content) => to.u8(2).bytes(content.as_bytes()),
                };
                to.u64(*born_ns).u64(attributes.size_bytes);
                to.u64(attributes.accessed_ns).u64(attributes.modified_ns).u64(attributes.changed_ns)
            }
            Change::Name { inode, .. } => to.u64(inode.0),
            Change::Page { piece: Piece::Chunk { hash, used_bytes }, .. } => to.u8(0).raw(&hash.0).u32(*used_bytes),
            Change::Page { piece: Piece::Inline(bytes), .. } => to.u8(1).bytes(bytes),
            Change::Kept { was, .. } => to.bytes(was.as_bytes()),
        };
        Some(to.finish())
    }

    /// What a record says.
    pub fn read(key: &[u8], value: &[u8]) -> Result<Change, Malformed> {
        let mut key = Reader::new(key);
        let mut value = Reader::new(value);
        let change = match key.u8()? {
            SYSTEM => Change::System { device: value.u64()?, inodes_reserved: value.u64()? },
            INODE => {
                let inode = Inode(ordered(&mut key)?);
                let form = match value.u8()? {
                    0 => Form::File,
                    1 => Form::Directory,
                    2 => Form::Link(value.string()?.into()),
                    _ => return Err(value.malformed()),
                };
                let born_ns = value.u64()?;
                let attributes = Attributes {
                    size_bytes: value.u64()?,
                    accessed_ns: value.u64()?,
                    modified_ns: value.u64()?,
                    changed_ns: value.u64()?,
                };
                Change::Inode { inode, form, born_ns, attributes }
            }
            NAME => {
                let directory = Inode(ordered(&mut key)?);
                let mut name = Vec::new();
                while let Ok(byte) = key.u8() {
                    name.push(byte);
                }
                let name = core::str::from_utf8(&name).map_err(|_| key.malformed())?;
                Change::Name { directory, name: name.into(), inode: Inode(value.u64()?) }
            }
            PAGE => {
                let (inode, index) = (Inode(ordered(&mut key)?), ordered(&mut key)?);
                let piece = match value.u8()? {
                    0 => {
                        let hash = value.raw(32)?.try_into().expect("thirty-two bytes were taken");
                        Piece::Chunk { hash: ChunkHash(hash), used_bytes: value.u32()? }
                    }
                    1 => Piece::Inline(value.bytes()?.into()),
                    _ => return Err(value.malformed()),
                };
                Change::Page { inode, index, piece }
            }
            KEPT => Change::Kept { inode: Inode(ordered(&mut key)?), was: value.string()?.into() },
            _ => return Err(key.malformed()),
        };
        key.finish()?;
        value.finish()?;
        Ok(change)
    }
}

fn ordered(key: &mut Reader) -> Result<u64, Malformed> {
    Ok(u64::from_be_bytes(key.raw(8)?.try_into().expect("eight bytes were taken")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_nothing_else() {
        let attributes = Attributes { size_bytes: 1, accessed_ns: 2, modified_ns: 3, changed_ns: 4 };
        let inode = Inode(7);
        for change in [
            Change::System { device: 1, inodes_reserved: 2 },
            Change::Inode { inode, form: Form::File, born_ns: 5, attributes },
            Change::Inode { inode, form: Form::Directory, born_ns: 5, attributes },
            Change::Inode { inode, form: Form::Link("a/b".into()), born_ns: 5, attributes },
            Change::Name { directory: inode, name: "na\u{ef}ve".into(), inode: Inode(8) },
            Change::Page { inode, index: 3, piece: Piece::Chunk { hash: ChunkHash([9; 32]), used_bytes: 12 } },
            Change::Page { inode, index: 3, piece: Piece::Inline([1, 2].as_slice().into()) },
            Change::Kept { inode, was: "a/b".into() },
        ] {
            let (key, value) = (change.key(), change.value().unwrap());
            assert_eq!(Change::read(&key, &value), Ok(change.clone()));
            assert!(Change::read(&key, &value[..value.len() - 1]).is_err(), "{change:?}");
            let longer = [value, alloc::vec![0]].concat();
            assert!(Change::read(&key, &longer).is_err(), "{change:?}");
        }
        assert!(Change::read(&[], &[]).is_err());
        assert!(Change::read(&[9], &[]).is_err());
    }
}
