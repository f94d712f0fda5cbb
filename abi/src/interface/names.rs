//! The interface of the service `names`: one tree of names. This file knows nothing of how the tree is kept.
//!
//! A path is absolute: `/home/ada/notes`. Its parts are UTF-8 without `/` and NUL, not `.` or `..`, at most
//! [`PART_BYTES_MAX`] bytes each and [`PARTS_MAX`] parts in all; `/` is the root. What a name stands for is a directory, a
//! record (bytes that mean something to whoever bound them: an inode number, a program's hash) or a port. Directories and
//! records are durable once acknowledged, and each node has its own. A port is bound as long as it lives and its node runs, and is found by
//! its path from all nodes of a system.

use crate::encoding::{Malformed, Reader, Writer};
use crate::ids::NodeId;
use crate::message::Bytes;
use alloc::string::String;
use alloc::vec::Vec;

pub const PART_BYTES_MAX: usize = 255;
pub const PARTS_MAX: usize = 64;
pub const RECORD_BYTES_MAX: usize = 4096;
/// The most names in one answer to [`Request::List`]; ask again after the last one.
pub const LIST_NAMES_MAX: u32 = 1000;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    Lookup {
        path: String,
    },
    /// The names in a directory that come after `after`, in order.
    List {
        path: String,
        after: String,
        names_max: u32,
    },
    /// The parent must exist and the name must be free.
    MakeDirectory {
        path: String,
    },
    Bind {
        path: String,
        record: Vec<u8>,
        existing: Existing,
    },
    /// The port is the one handle of the message. It must come with the rights to copy, move, watch and send.
    BindPort {
        path: String,
        existing: Existing,
    },
    /// A directory must be empty.
    Unbind {
        path: String,
    },
    /// Moves whatever is there, a directory with all below it, to a free name.
    Rename {
        from: String,
        to: String,
    },
}

/// What binding does to a name that is taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Existing {
    Refuse,
    /// Replaces a record or a port, not a directory.
    Replace,
    /// Of a port that has moved here: takes over what that node bound, in that life of it, by that claim. If the name means anything
    /// else by now, nothing is done.
    Follow {
        node: NodeId,
        life: u64,
        serial: u64,
    },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    Done,
    Record(Vec<u8>),
    Directory,
    /// The port is the one handle of the answer.
    Port,
    Names {
        names: Vec<(String, Form)>,
        more: bool,
    },
    Failed(Failure),
}

/// What a name in a list stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Form {
    Directory,
    Record,
    Port,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Failure {
    /// The request could not be read.
    Malformed,
    /// Not a path: see the top of this file.
    BadPath,
    NotFound,
    /// A part of the path before its last stands for something else than a directory, or a directory was asked for.
    NotADirectory,
    /// What is there is a directory.
    IsADirectory,
    Exists,
    NotEmpty,
    /// A directory cannot be moved below itself; the root cannot be bound, unbound or renamed.
    Impossible,
    RecordTooLong,
    /// Exactly one handle must come with a port to bind, with the rights to copy, move, watch and send, and none with anything else.
    Handles,
    /// The tree has as many names as it can hold.
    Full,
    /// The caller asked for a call older than its latest again.
    Forgotten,
    /// Too many requests wait for the disk, or the same name is being bound: nothing was done, ask later.
    Busy,
    /// The nodes cannot agree about anything now: too few of them hear one another. Names that were found before are still found.
    Undecided,
    /// It is bound on a node that is not heard.
    Unreachable,
}

impl Request {
    pub fn encode(&self) -> Bytes {
        let mut to = Writer::default();
        match self {
            Request::Lookup { path } => to.u8(0).bytes(path.as_bytes()),
            Request::List { path, after, names_max } => {
                to.u8(1).bytes(path.as_bytes()).bytes(after.as_bytes()).u32(*names_max)
            }
            Request::MakeDirectory { path } => to.u8(2).bytes(path.as_bytes()),
            Request::Bind { path, record, existing } => existing.put(to.u8(3).bytes(path.as_bytes()).bytes(record)),
            Request::BindPort { path, existing } => existing.put(to.u8(4).bytes(path.as_bytes())),
            Request::Unbind { path } => to.u8(5).bytes(path.as_bytes()),
            Request::Rename { from, to: target } => to.u8(6).bytes(from.as_bytes()).bytes(target.as_bytes()),
        };
        to.finish().into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Request, Malformed> {
        let mut from = Reader::new(bytes);
        let request = match from.u8()? {
            0 => Request::Lookup { path: from.string()? },
            1 => Request::List { path: from.string()?, after: from.string()?, names_max: from.u32()? },
            2 => Request::MakeDirectory { path: from.string()? },
            3 => Request::Bind {
                path: from.string()?,
                record: from.bytes()?.to_vec(),
                existing: Existing::decode(&mut from)?,
            },
            4 => Request::BindPort { path: from.string()?, existing: Existing::decode(&mut from)? },
            5 => Request::Unbind { path: from.string()? },
            6 => Request::Rename { from: from.string()?, to: from.string()? },
            _ => return Err(from.malformed()),
        };
        from.finish()?;
        Ok(request)
    }
}

impl Existing {
    pub(super) fn put(self, to: &mut Writer) -> &mut Writer {
        match self {
            Existing::Refuse => to.u8(0),
            Existing::Replace => to.u8(1),
            Existing::Follow { node, life, serial } => to.u8(2).u32(node.0.into()).u64(life).u64(serial),
        }
    }

    pub(super) fn decode(from: &mut Reader) -> Result<Existing, Malformed> {
        match from.u8()? {
            0 => Ok(Existing::Refuse),
            1 => Ok(Existing::Replace),
            2 => {
                let node = u16::try_from(from.u32()?).map_err(|_| from.malformed())?;
                Ok(Existing::Follow { node: NodeId(node), life: from.u64()?, serial: from.u64()? })
            }
            _ => Err(from.malformed()),
        }
    }
}

impl Answer {
    pub fn encode(&self) -> Bytes {
        let mut to = Writer::default();
        match self {
            Answer::Done => to.u8(0),
            Answer::Record(record) => to.u8(1).bytes(record),
            Answer::Directory => to.u8(2),
            Answer::Port => to.u8(3),
            Answer::Names { names, more } => {
                to.u8(4).u8(u8::from(*more)).u32(names.len() as u32);
                for (name, form) in names {
                    to.bytes(name.as_bytes()).u8(*form as u8);
                }
                &mut to
            }
            Answer::Failed(failure) => to.u8(5).u8(failure.encode()),
        };
        to.finish().into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Answer, Malformed> {
        let mut from = Reader::new(bytes);
        let answer = match from.u8()? {
            0 => Answer::Done,
            1 => Answer::Record(from.bytes()?.to_vec()),
            2 => Answer::Directory,
            3 => Answer::Port,
            4 => {
                let more = match from.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(from.malformed()),
                };
                let mut names = Vec::new();
                for _ in 0..from.u32()? {
                    names.push((from.string()?, Form::decode(&mut from)?));
                }
                Answer::Names { names, more }
            }
            5 => Answer::Failed(Failure::decode(&mut from)?),
            _ => return Err(from.malformed()),
        };
        from.finish()?;
        Ok(answer)
    }
}

impl Form {
    fn decode(from: &mut Reader) -> Result<Form, Malformed> {
        match from.u8()? {
            0 => Ok(Form::Directory),
            1 => Ok(Form::Record),
            2 => Ok(Form::Port),
            _ => Err(from.malformed()),
        }
    }
}

impl Failure {
    const ALL: [Failure; 15] = [
        Failure::Malformed,
        Failure::BadPath,
        Failure::NotFound,
        Failure::NotADirectory,
        Failure::IsADirectory,
        Failure::Exists,
        Failure::NotEmpty,
        Failure::Impossible,
        Failure::RecordTooLong,
        Failure::Handles,
        Failure::Full,
        Failure::Forgotten,
        Failure::Busy,
        Failure::Undecided,
        Failure::Unreachable,
    ];

    pub(super) fn encode(self) -> u8 {
        self as u8
    }

    pub(super) fn decode(from: &mut Reader) -> Result<Failure, Malformed> {
        let number = from.u8()?;
        Failure::ALL.into_iter().find(|failure| *failure as u8 == number).ok_or(from.malformed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn requests_survive_the_way_and_cut_ones_are_refused() {
        let requests = [
            Request::Lookup { path: "/a".into() },
            Request::List { path: "/".into(), after: "x".into(), names_max: 7 },
            Request::MakeDirectory { path: "/a/b".into() },
            Request::Bind { path: "/r".into(), record: vec![1, 2, 3], existing: Existing::Replace },
            Request::BindPort { path: "/p".into(), existing: Existing::Refuse },
            Request::BindPort {
                path: "/p".into(),
                existing: Existing::Follow { node: NodeId(3), life: 2, serial: 1 << 40 },
            },
            Request::Unbind { path: "/p".into() },
            Request::Rename { from: "/a".into(), to: "/b".into() },
        ];
        for request in requests {
            let bytes = request.encode();
            assert_eq!(Request::decode(&bytes), Ok(request));
            for length in 0..bytes.len() {
                assert!(Request::decode(&bytes[..length]).is_err());
            }
            let longer = [&bytes, &[0][..]].concat();
            assert!(Request::decode(&longer).is_err());
        }
    }

    #[test]
    fn answers_survive_the_way() {
        let mut answers = vec![
            Answer::Done,
            Answer::Record(vec![9; 70]),
            Answer::Directory,
            Answer::Port,
            Answer::Names { names: vec![("a".into(), Form::Port), ("b".into(), Form::Directory)], more: true },
        ];
        answers.extend(Failure::ALL.map(Answer::Failed));
        for answer in answers {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
        assert!(Answer::decode(&[5, 200]).is_err(), "there are not so many failures");
    }
}
