//! What a node asks the holder of the tree, and what it is answered, as bytes. Knows no tree and no network.
//!
//! The one idea: a request is one act of [`abi::file::FileSystem`], with who asks, the number of the request, and as whose answer it
//! will count: a holder that is not the one that is meant says so and does nothing.

use super::tree::{Held, SessionKey};
use abi::encoding::{Malformed, Reader, Writer};
use abi::errno::Errno;
use abi::file::{Access, Entry, Existence, Kind, LastLink, Open, OpenId, Place, SetTime, SetTimes, Stat};
use abi::wasi::Filetype;
use drivers::chunks::ChunkName;
use services::files::Inode;

/// One request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    pub epoch: u64,
    pub session: SessionKey,
    /// Rises with every act of the session; the same again is the same act.
    pub number: u64,
    pub act: Act,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Act {
    /// This was open before, at another holder or before the session was forgotten.
    Claim(Vec<(OpenId, Held)>),
    /// The session is over.
    End,
    Open {
        directory: OpenId,
        path: String,
        how: Open,
    },
    Duplicate(OpenId),
    Close(OpenId),
    /// `whatever`: what it was opened for does not matter.
    Read {
        file: OpenId,
        offset: u64,
        count: u32,
        whatever: bool,
    },
    Write {
        file: OpenId,
        offset: u64,
        bytes: Vec<u8>,
    },
    Append {
        file: OpenId,
        bytes: Vec<u8>,
    },
    /// If that is where the file ends.
    AppendAt {
        file: OpenId,
        bytes: Vec<u8>,
        end: u64,
    },
    Stat(OpenId),
    SetSize {
        file: OpenId,
        size_bytes: u64,
    },
    SetTimes {
        id: OpenId,
        times: SetTimes,
    },
    Allocate {
        file: OpenId,
        offset: u64,
        length: u64,
    },
    Advise(OpenId),
    Sync(OpenId),
    List(OpenId),
    StatAt {
        directory: OpenId,
        path: String,
        last_link: LastLink,
    },
    SetTimesAt {
        directory: OpenId,
        path: String,
        last_link: LastLink,
        times: SetTimes,
    },
    CreateDirectory {
        directory: OpenId,
        path: String,
    },
    RemoveDirectory {
        directory: OpenId,
        path: String,
    },
    Unlink {
        directory: OpenId,
        path: String,
    },
    Rename {
        from: (OpenId, String),
        to: (OpenId, String),
    },
    Link {
        from: (OpenId, String),
        to: (OpenId, String),
    },
    Symlink {
        content: String,
        directory: OpenId,
        path: String,
    },
    ReadLink {
        directory: OpenId,
        path: String,
    },
    Locate(OpenId),
    OrphanFile,
    OrphanDirectory,
}

/// What whoever asked is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Done,
    Failed(Errno),
    /// Another node holds the tree, or none, as far as this one knows. Nothing was done.
    NotHolder,
    /// Nobody has claimed this session here. Nothing was done.
    Unclaimed,
    /// What the session asked before is not done yet: ask again.
    Working,
    /// These could not be claimed: they are gone.
    Claimed {
        lost: Vec<OpenId>,
    },
    Opened {
        id: OpenId,
        kind: Filetype,
        inode: Inode,
    },
    Written {
        count: u64,
        end: u64,
    },
    Content(Vec<Part>),
    Stat(Stat),
    Entries(Vec<Entry>),
    Text(String),
    Place(Place),
}

/// A part of a file's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Bytes(Vec<u8>),
    Zeros {
        bytes: u64,
    },
    /// To be got from whoever has it.
    Chunk {
        name: ChunkName,
        from: u32,
        to: u32,
    },
}

fn malformed<T>(from: &Reader) -> Result<T, Malformed> {
    Err(from.malformed())
}

fn access(raw: u8) -> Option<Access> {
    [Access::Read, Access::Write, Access::ReadWrite].into_iter().find(|access| *access as u8 == raw)
}

fn write_times(to: &mut Writer, times: &SetTimes) {
    for time in [times.accessed, times.modified] {
        match time {
            SetTime::Keep => {
                to.u8(0);
            }
            SetTime::Now => {
                to.u8(1);
            }
            SetTime::At(ns) => {
                to.u8(2).u64(ns);
            }
        }
    }
}

fn read_times(from: &mut Reader) -> Result<SetTimes, Malformed> {
    let mut time = || {
        Ok(match from.u8()? {
            0 => SetTime::Keep,
            1 => SetTime::Now,
            2 => SetTime::At(from.u64()?),
            _ => return malformed(from),
        })
    };
    Ok(SetTimes { accessed: time()?, modified: time()? })
}

fn read_link(from: &mut Reader) -> Result<LastLink, Malformed> {
    match from.u8()? {
        0 => Ok(LastLink::Itself),
        1 => Ok(LastLink::Target),
        _ => malformed(from),
    }
}

fn id(from: &mut Reader) -> Result<OpenId, Malformed> {
    Ok(OpenId(from.u64()?))
}

/// A directory and a path.
fn at(from: &mut Reader) -> Result<(OpenId, String), Malformed> {
    Ok((id(from)?, from.string()?))
}

impl Asked {
    pub fn write(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u64(self.epoch).raw(&self.session.0).u64(self.number);
        let link = |last_link: &LastLink| (*last_link == LastLink::Target) as u8;
        match &self.act {
            Act::Claim(held) => {
                to.u8(0).u32(held.len() as u32);
                for (id, held) in held {
                    to.u64(id.0).u64(held.inode.0).u8(held.access as u8);
                }
            }
            Act::End => {
                to.u8(1);
            }
            Act::Open { directory, path, how } => {
                let existence = match how.existence {
                    Existence::Required => 0,
                    Existence::Created => 1,
                    Existence::CreatedNew => 2,
                };
                to.u8(2).u64(directory.0).bytes(path.as_bytes());
                to.u8(link(&how.last_link)).u8(existence).u8((how.kind == Kind::Directory) as u8);
                to.u8(how.access as u8).u8(how.truncate as u8);
            }
            Act::Duplicate(id) => {
                to.u8(3).u64(id.0);
            }
            Act::Close(id) => {
                to.u8(4).u64(id.0);
            }
            Act::Read { file, offset, count, whatever } => {
                to.u8(5).u64(file.0).u64(*offset).u32(*count).u8(*whatever as u8);
            }
            Act::Write { file, offset, bytes } => {
                to.u8(6).u64(file.0).u64(*offset).bytes(bytes);
            }
            Act::Append { file, bytes } => {
                to.u8(7).u64(file.0).bytes(bytes);
            }
            Act::AppendAt { file, bytes, end } => {
                to.u8(27).u64(file.0).bytes(bytes).u64(*end);
            }
            Act::Stat(id) => {
                to.u8(8).u64(id.0);
            }
            Act::SetSize { file, size_bytes } => {
                to.u8(9).u64(file.0).u64(*size_bytes);
            }
            Act::SetTimes { id, times } => write_times(to.u8(10).u64(id.0), times),
            Act::Allocate { file, offset, length } => {
                to.u8(11).u64(file.0).u64(*offset).u64(*length);
            }
            Act::Advise(id) => {
                to.u8(12).u64(id.0);
            }
            Act::Sync(id) => {
                to.u8(13).u64(id.0);
            }
            Act::List(id) => {
                to.u8(14).u64(id.0);
            }
            Act::StatAt { directory, path, last_link } => {
                to.u8(15).u64(directory.0).bytes(path.as_bytes()).u8(link(last_link));
            }
            Act::SetTimesAt { directory, path, last_link, times } => {
                write_times(to.u8(16).u64(directory.0).bytes(path.as_bytes()).u8(link(last_link)), times);
            }
            Act::CreateDirectory { directory, path } => {
                to.u8(17).u64(directory.0).bytes(path.as_bytes());
            }
            Act::RemoveDirectory { directory, path } => {
                to.u8(18).u64(directory.0).bytes(path.as_bytes());
            }
            Act::Unlink { directory, path } => {
                to.u8(19).u64(directory.0).bytes(path.as_bytes());
            }
            Act::Rename { from, to: target } => {
                to.u8(20).u64(from.0.0).bytes(from.1.as_bytes()).u64(target.0.0).bytes(target.1.as_bytes());
            }
            Act::Link { from, to: target } => {
                to.u8(21).u64(from.0.0).bytes(from.1.as_bytes()).u64(target.0.0).bytes(target.1.as_bytes());
            }
            Act::Symlink { content, directory, path } => {
                to.u8(22).bytes(content.as_bytes()).u64(directory.0).bytes(path.as_bytes());
            }
            Act::ReadLink { directory, path } => {
                to.u8(23).u64(directory.0).bytes(path.as_bytes());
            }
            Act::Locate(id) => {
                to.u8(24).u64(id.0);
            }
            Act::OrphanFile => {
                to.u8(25);
            }
            Act::OrphanDirectory => {
                to.u8(26);
            }
        }
        to.finish()
    }

    pub fn read(body: &[u8]) -> Result<Asked, Malformed> {
        let mut reader = Reader::new(body);
        let from = &mut reader;
        let epoch = from.u64()?;
        let session = SessionKey(from.raw(16)?.try_into().expect("sixteen bytes were taken"));
        let number = from.u64()?;
        let act = match from.u8()? {
            0 => {
                let mut held = vec![];
                for _ in 0..from.u32()? {
                    let (id, inode) = (id(from)?, Inode(from.u64()?));
                    let Some(access) = access(from.u8()?) else { return malformed(from) };
                    held.push((id, Held { inode, access }));
                }
                Act::Claim(held)
            }
            1 => Act::End,
            2 => {
                let (directory, path) = at(from)?;
                let last_link = read_link(from)?;
                let existence = match from.u8()? {
                    0 => Existence::Required,
                    1 => Existence::Created,
                    2 => Existence::CreatedNew,
                    _ => return malformed(from),
                };
                let kind = if from.u8()? == 0 { Kind::Any } else { Kind::Directory };
                let Some(access) = access(from.u8()?) else { return malformed(from) };
                let truncate = from.u8()? != 0;
                Act::Open { directory, path, how: Open { last_link, existence, kind, access, truncate } }
            }
            3 => Act::Duplicate(id(from)?),
            4 => Act::Close(id(from)?),
            5 => {
                let (file, offset) = (id(from)?, from.u64()?);
                Act::Read { file, offset, count: from.u32()?, whatever: from.u8()? != 0 }
            }
            6 => Act::Write { file: id(from)?, offset: from.u64()?, bytes: from.bytes()?.to_vec() },
            7 => Act::Append { file: id(from)?, bytes: from.bytes()?.to_vec() },
            27 => Act::AppendAt { file: id(from)?, bytes: from.bytes()?.to_vec(), end: from.u64()? },
            8 => Act::Stat(id(from)?),
            9 => Act::SetSize { file: id(from)?, size_bytes: from.u64()? },
            10 => Act::SetTimes { id: id(from)?, times: read_times(from)? },
            11 => Act::Allocate { file: id(from)?, offset: from.u64()?, length: from.u64()? },
            12 => Act::Advise(id(from)?),
            13 => Act::Sync(id(from)?),
            14 => Act::List(id(from)?),
            15 => {
                let (directory, path) = at(from)?;
                Act::StatAt { directory, path, last_link: read_link(from)? }
            }
            16 => {
                let (directory, path) = at(from)?;
                Act::SetTimesAt { directory, path, last_link: read_link(from)?, times: read_times(from)? }
            }
            17 => {
                let (directory, path) = at(from)?;
                Act::CreateDirectory { directory, path }
            }
            18 => {
                let (directory, path) = at(from)?;
                Act::RemoveDirectory { directory, path }
            }
            19 => {
                let (directory, path) = at(from)?;
                Act::Unlink { directory, path }
            }
            20 => Act::Rename { from: at(from)?, to: at(from)? },
            21 => Act::Link { from: at(from)?, to: at(from)? },
            22 => {
                let content = from.string()?;
                let (directory, path) = at(from)?;
                Act::Symlink { content, directory, path }
            }
            23 => {
                let (directory, path) = at(from)?;
                Act::ReadLink { directory, path }
            }
            24 => Act::Locate(id(from)?),
            25 => Act::OrphanFile,
            26 => Act::OrphanDirectory,
            _ => return malformed(from),
        };
        reader.finish()?;
        Ok(Asked { epoch, session, number, act })
    }
}

impl Told {
    pub fn write(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            Told::Done => {
                to.u8(0);
            }
            Told::Failed(errno) => {
                to.u8(1).u32(u32::from(errno.raw()));
            }
            Told::NotHolder => {
                to.u8(2);
            }
            Told::Unclaimed => {
                to.u8(3);
            }
            Told::Working => {
                to.u8(12);
            }
            Told::Claimed { lost } => {
                to.u8(4).u32(lost.len() as u32);
                for id in lost {
                    to.u64(id.0);
                }
            }
            Told::Opened { id, kind, inode } => {
                to.u8(5).u64(id.0).u8(*kind as u8).u64(inode.0);
            }
            Told::Written { count, end } => {
                to.u8(6).u64(*count).u64(*end);
            }
            Told::Content(parts) => {
                to.u8(7).u32(parts.len() as u32);
                for part in parts {
                    match part {
                        Part::Bytes(bytes) => {
                            to.u8(0).bytes(bytes);
                        }
                        Part::Zeros { bytes } => {
                            to.u8(1).u64(*bytes);
                        }
                        Part::Chunk { name, from, to: end } => {
                            to.u8(2).raw(&name.0).u32(*from).u32(*end);
                        }
                    }
                }
            }
            Told::Stat(stat) => {
                to.u8(8).u64(stat.device).u64(stat.inode).u8(stat.kind as u8).u64(stat.links).u64(stat.size_bytes);
                to.u64(stat.accessed_ns).u64(stat.modified_ns).u64(stat.changed_ns);
                to.u8(stat.born_ns.is_some() as u8).u64(stat.born_ns.unwrap_or(0));
            }
            Told::Entries(entries) => {
                to.u8(9).u32(entries.len() as u32);
                for entry in entries {
                    to.bytes(entry.name.as_bytes()).u64(entry.inode).u8(entry.kind as u8);
                }
            }
            Told::Text(text) => {
                to.u8(10).bytes(text.as_bytes());
            }
            Told::Place(place) => {
                let (which, text) = match place {
                    Place::Path(text) => (0, text),
                    Place::Unlinked(text) => (1, text),
                    Place::Elsewhere(text) => (2, text),
                };
                to.u8(11).u8(which).bytes(text.as_bytes());
            }
        }
        to.finish()
    }

    pub fn read(answer: &[u8]) -> Result<Told, Malformed> {
        let mut reader = Reader::new(answer);
        let from = &mut reader;
        let told = match from.u8()? {
            0 => Told::Done,
            1 => {
                let errno = u16::try_from(from.u32()?).ok().and_then(Errno::from_raw);
                let Some(errno) = errno else { return malformed(from) };
                Told::Failed(errno)
            }
            2 => Told::NotHolder,
            3 => Told::Unclaimed,
            12 => Told::Working,
            4 => {
                let mut lost = vec![];
                for _ in 0..from.u32()? {
                    lost.push(id(from)?);
                }
                Told::Claimed { lost }
            }
            5 => {
                let id = id(from)?;
                let Some(kind) = Filetype::from_raw(from.u8()?) else { return malformed(from) };
                Told::Opened { id, kind, inode: Inode(from.u64()?) }
            }
            6 => Told::Written { count: from.u64()?, end: from.u64()? },
            7 => {
                let mut parts = vec![];
                for _ in 0..from.u32()? {
                    parts.push(match from.u8()? {
                        0 => Part::Bytes(from.bytes()?.to_vec()),
                        1 => Part::Zeros { bytes: from.u64()? },
                        2 => {
                            let name = ChunkName(from.raw(32)?.try_into().expect("thirty-two bytes were taken"));
                            Part::Chunk { name, from: from.u32()?, to: from.u32()? }
                        }
                        _ => return malformed(from),
                    });
                }
                Told::Content(parts)
            }
            8 => {
                let (device, inode) = (from.u64()?, from.u64()?);
                let Some(kind) = Filetype::from_raw(from.u8()?) else { return malformed(from) };
                let (links, size_bytes) = (from.u64()?, from.u64()?);
                let (accessed_ns, modified_ns, changed_ns) = (from.u64()?, from.u64()?, from.u64()?);
                let (is_known, born_ns) = (from.u8()? != 0, from.u64()?);
                let born_ns = is_known.then_some(born_ns);
                Told::Stat(Stat {
                    device,
                    inode,
                    kind,
                    links,
                    size_bytes,
                    accessed_ns,
                    modified_ns,
                    changed_ns,
                    born_ns,
                })
            }
            9 => {
                let mut entries = vec![];
                for _ in 0..from.u32()? {
                    let (name, inode) = (from.string()?, from.u64()?);
                    let Some(kind) = Filetype::from_raw(from.u8()?) else { return malformed(from) };
                    entries.push(Entry { name, inode, kind });
                }
                Told::Entries(entries)
            }
            10 => Told::Text(from.string()?),
            11 => match from.u8()? {
                0 => Told::Place(Place::Path(from.string()?)),
                1 => Told::Place(Place::Unlinked(from.string()?)),
                2 => Told::Place(Place::Elsewhere(from.string()?)),
                _ => return malformed(from),
            },
            _ => return malformed(from),
        };
        reader.finish()?;
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_and_told_is_read_again_and_nothing_else() {
        let (id, held) = (OpenId(3), Held { inode: Inode(9), access: Access::ReadWrite });
        let (directory, path) = (OpenId(1), "a/b".to_string());
        let times = SetTimes { accessed: SetTime::At(7), modified: SetTime::Now };
        let how = Open {
            last_link: LastLink::Target,
            existence: Existence::CreatedNew,
            kind: Kind::Directory,
            access: Access::Write,
            truncate: true,
        };
        for act in [
            Act::Claim(vec![(id, held)]),
            Act::End,
            Act::Open { directory, path: path.clone(), how },
            Act::Duplicate(id),
            Act::Close(id),
            Act::Read { file: id, offset: 1, count: 2, whatever: true },
            Act::Write { file: id, offset: 1, bytes: vec![1, 2] },
            Act::Append { file: id, bytes: vec![1] },
            Act::AppendAt { file: id, bytes: vec![1], end: 7 },
            Act::Stat(id),
            Act::SetSize { file: id, size_bytes: 4 },
            Act::SetTimes { id, times },
            Act::Allocate { file: id, offset: 1, length: 2 },
            Act::Advise(id),
            Act::Sync(id),
            Act::List(id),
            Act::StatAt { directory, path: path.clone(), last_link: LastLink::Itself },
            Act::SetTimesAt { directory, path: path.clone(), last_link: LastLink::Target, times },
            Act::CreateDirectory { directory, path: path.clone() },
            Act::RemoveDirectory { directory, path: path.clone() },
            Act::Unlink { directory, path: path.clone() },
            Act::Rename { from: (id, path.clone()), to: (directory, "c".into()) },
            Act::Link { from: (id, path.clone()), to: (directory, "c".into()) },
            Act::Symlink { content: "x".into(), directory, path: path.clone() },
            Act::ReadLink { directory, path },
            Act::Locate(id),
            Act::OrphanFile,
            Act::OrphanDirectory,
        ] {
            let asked = Asked { epoch: 1, session: SessionKey([2; 16]), number: 3, act };
            let bytes = asked.write();
            assert_eq!(Asked::read(&bytes), Ok(asked.clone()));
            assert!(Asked::read(&bytes[..bytes.len() - 1]).is_err(), "{asked:?}");
            assert!(Asked::read(&[bytes, vec![0]].concat()).is_err(), "{asked:?}");
        }
        let stat = Stat {
            device: 1,
            inode: 2,
            kind: Filetype::RegularFile,
            links: 3,
            size_bytes: 4,
            accessed_ns: 5,
            modified_ns: 6,
            changed_ns: 7,
            born_ns: Some(8),
        };
        let parts = vec![
            Part::Bytes(vec![1]),
            Part::Zeros { bytes: 3 },
            Part::Chunk { name: ChunkName([4; 32]), from: 1, to: 2 },
        ];
        for told in [
            Told::Done,
            Told::Failed(Errno::NoEnt),
            Told::NotHolder,
            Told::Unclaimed,
            Told::Working,
            Told::Claimed { lost: vec![id] },
            Told::Opened { id, kind: Filetype::Directory, inode: Inode(4) },
            Told::Written { count: 1, end: 2 },
            Told::Content(parts),
            Told::Stat(stat),
            Told::Stat(Stat { born_ns: None, ..stat }),
            Told::Entries(vec![Entry { name: "x".into(), inode: 1, kind: Filetype::SymbolicLink }]),
            Told::Text("t".into()),
            Told::Place(Place::Unlinked("p".into())),
        ] {
            let bytes = told.write();
            assert_eq!(Told::read(&bytes), Ok(told.clone()));
            assert!(Told::read(&bytes[..bytes.len() - 1]).is_err(), "{told:?}");
            assert!(Told::read(&[bytes, vec![0]].concat()).is_err(), "{told:?}");
        }
    }
}
