//! What a node's service `names` and its registrar say to each other, and registrars of several nodes: which name of a port is bound
//! where. This file knows nothing of how nodes agree about it.
//!
//! Everything is a message without a call, so that neither waits for the other; what belongs together has the same serial, which `names`
//! chooses and never uses twice while its node runs. Only [`Fetch`] is a call: it comes through the door of another node.

use super::names::{Existing, Failure};
use crate::encoding::{Malformed, Reader, Writer};
use crate::ids::PortId;
use crate::message::Bytes;
use alloc::string::String;
use alloc::vec::Vec;

/// On the messages that come from the registrar to `names`, so that nobody else's are taken for them.
pub const TOLD: crate::message::Badge = crate::message::Badge(0x7265_6769_7374);
/// On what comes through a node's door.
pub const DOOR: crate::message::Badge = crate::message::Badge(0x646f_6f72);

/// What a registrar is told and asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Ask {
    /// `names` begins: nothing that was claimed before is claimed any more. Its one handle is where answers go.
    Begin,
    /// This node binds a port, the one handle of the message, to a path. The port's own number comes along, for those who see where it is.
    Claim {
        serial: u64,
        path: String,
        existing: Existing,
        port: PortId,
    },
    /// The claim of this serial is over.
    Release {
        serial: u64,
    },
    /// The path is to be free, whoever has bound it.
    Unbind {
        serial: u64,
        path: String,
    },
    Find {
        serial: u64,
        path: String,
    },
    /// The names of ports in a directory that come after `after`.
    List {
        serial: u64,
        path: String,
        after: String,
        names_max: u32,
    },
    /// From those who work for the registrar: to be told to `names`, with the handles of the message.
    Tell(Told),
}

/// What `names` is told.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Told {
    /// What was asked is done, or why not.
    Settled {
        serial: u64,
        failure: Option<Failure>,
    },
    /// The port is the one handle of the message.
    Found {
        serial: u64,
    },
    Listed {
        serial: u64,
        names: Vec<String>,
        more: bool,
    },
    /// What was found under this path may not be bound there any more.
    Changed {
        path: String,
    },
    /// That holds for every path.
    AllChanged,
    /// The claim of this serial is over: others bound the name, or unbound it.
    Lost {
        serial: u64,
    },
}

/// What one registrar calls another for: the port that it claimed with this serial. The answer has one handle, or none.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Fetch {
    pub serial: u64,
    pub path: String,
}

impl Ask {
    pub fn encode(&self) -> Bytes {
        let mut to = Writer::default();
        match self {
            Ask::Begin => to.u8(0),
            Ask::Claim { serial, path, existing, port } => {
                existing.put(to.u8(1).u64(*serial).bytes(path.as_bytes())).u64(port.to_bits())
            }
            Ask::Release { serial } => to.u8(2).u64(*serial),
            Ask::Unbind { serial, path } => to.u8(3).u64(*serial).bytes(path.as_bytes()),
            Ask::Find { serial, path } => to.u8(4).u64(*serial).bytes(path.as_bytes()),
            Ask::List { serial, path, after, names_max } => {
                to.u8(5).u64(*serial).bytes(path.as_bytes()).bytes(after.as_bytes()).u32(*names_max)
            }
            Ask::Tell(told) => to.u8(6).bytes(&told.encode()),
        };
        to.finish().into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Ask, Malformed> {
        let mut from = Reader::new(bytes);
        let ask = match from.u8()? {
            0 => Ask::Begin,
            1 => {
                let (serial, path, existing) = (from.u64()?, from.string()?, Existing::decode(&mut from)?);
                Ask::Claim { serial, path, existing, port: PortId::from_bits(from.u64()?) }
            }
            2 => Ask::Release { serial: from.u64()? },
            3 => Ask::Unbind { serial: from.u64()?, path: from.string()? },
            4 => Ask::Find { serial: from.u64()?, path: from.string()? },
            5 => Ask::List { serial: from.u64()?, path: from.string()?, after: from.string()?, names_max: from.u32()? },
            6 => Ask::Tell(Told::decode(from.bytes()?)?),
            _ => return Err(from.malformed()),
        };
        from.finish()?;
        Ok(ask)
    }
}

impl Told {
    pub fn encode(&self) -> Bytes {
        let mut to = Writer::default();
        match self {
            Told::Settled { serial, failure: None } => to.u8(0).u64(*serial),
            Told::Settled { serial, failure: Some(failure) } => to.u8(1).u64(*serial).u8(failure.encode()),
            Told::Found { serial } => to.u8(2).u64(*serial),
            Told::Listed { serial, names, more } => {
                to.u8(3).u64(*serial).u8(u8::from(*more)).u32(names.len() as u32);
                for name in names {
                    to.bytes(name.as_bytes());
                }
                &mut to
            }
            Told::Changed { path } => to.u8(4).bytes(path.as_bytes()),
            Told::AllChanged => to.u8(5),
            Told::Lost { serial } => to.u8(6).u64(*serial),
        };
        to.finish().into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Told, Malformed> {
        let mut from = Reader::new(bytes);
        let told = match from.u8()? {
            0 => Told::Settled { serial: from.u64()?, failure: None },
            1 => Told::Settled { serial: from.u64()?, failure: Some(Failure::decode(&mut from)?) },
            2 => Told::Found { serial: from.u64()? },
            3 => {
                let serial = from.u64()?;
                let more = match from.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(from.malformed()),
                };
                let mut names = Vec::new();
                for _ in 0..from.u32()? {
                    names.push(from.string()?);
                }
                Told::Listed { serial, names, more }
            }
            4 => Told::Changed { path: from.string()? },
            5 => Told::AllChanged,
            6 => Told::Lost { serial: from.u64()? },
            _ => return Err(from.malformed()),
        };
        from.finish()?;
        Ok(told)
    }
}

impl Fetch {
    pub fn encode(&self) -> Bytes {
        let mut to = Writer::default();
        to.u64(self.serial).bytes(self.path.as_bytes());
        to.finish().into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Fetch, Malformed> {
        let mut from = Reader::new(bytes);
        let fetch = Fetch { serial: from.u64()?, path: from.string()? };
        from.finish()?;
        Ok(fetch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;
    use alloc::vec;

    #[test]
    fn what_is_said_survives_the_way_and_what_is_cut_is_refused() {
        let path = || String::from("/port/x");
        let told = [
            Told::Settled { serial: 1, failure: None },
            Told::Settled { serial: 1, failure: Some(Failure::Undecided) },
            Told::Found { serial: 7 },
            Told::Listed { serial: 7, names: vec!["a".into(), "b".into()], more: true },
            Told::Changed { path: path() },
            Told::AllChanged,
            Told::Lost { serial: 2 },
        ];
        let asks = [
            Ask::Begin,
            Ask::Claim { serial: 1, path: path(), existing: Existing::Replace, port: PortId::new(NodeId(2), 9) },
            Ask::Claim {
                serial: 1,
                path: path(),
                existing: Existing::Follow { node: NodeId(3), life: 4, serial: 5 },
                port: PortId::new(NodeId(2), 9),
            },
            Ask::Release { serial: 1 },
            Ask::Unbind { serial: 1, path: path() },
            Ask::Find { serial: 1, path: path() },
            Ask::List { serial: 1, path: path(), after: "a".into(), names_max: 9 },
        ];
        let asks: Vec<Ask> = asks.into_iter().chain(told.into_iter().map(Ask::Tell)).collect();
        for ask in &asks {
            let bytes = ask.encode();
            assert_eq!(Ask::decode(&bytes).as_ref(), Ok(ask));
            for cut in 0..bytes.len() {
                assert!(Ask::decode(&bytes[..cut]).is_err(), "{ask:?} cut at {cut}");
            }
        }
        let fetch = Fetch { serial: 3, path: path() };
        assert_eq!(Fetch::decode(&fetch.encode()), Ok(fetch));
    }
}
