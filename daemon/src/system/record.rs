//! Which system this node belongs to, and as whom: one small file in the node's data directory. Knows files; not what a system is.
//!
//! ```text
//!   DATA/system.json   the system, this node's number and name in it, the number of its lives, the port it listens on
//!   DATA/identity      its key, which never leaves the machine (drivers::wire)
//! ```
//! Each start is a *life*: it is counted here, on the disk, before anybody else hears of it, so that no two lives have one number and
//! what an earlier life left behind is never taken for this one's.

use super::lend::Lend;
use abi::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const FILE: &str = "system.json";
const SCHEMA: &str = "una.system/1";
/// Far more than a record can have.
const BYTES_MAX: u64 = 64 << 10;

/// What a node knows of itself before it has spoken to anybody.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    schema: String,
    /// 16 random bytes in hexadecimal, which tell this system from every other one.
    pub system: String,
    pub system_name: String,
    number: u16,
    /// What people call this node.
    pub name: String,
    /// How often it started.
    pub life: u64,
    /// Where it listened the last time, so that others find it again.
    pub port: Option<u16>,
    /// The others as they were when it last knew: whom to ask first after a start.
    pub peers: Vec<Peer>,
    /// For whom the machine is there, as its owner said last.
    #[serde(default)]
    pub lend: Lend,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Peer {
    pub number: u16,
    /// Its key in hexadecimal.
    pub key: String,
    pub addresses: Vec<String>,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{} is damaged: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
}

impl Record {
    /// Of the first node of a new system.
    pub fn first(system: [u8; 16], name: &str) -> Record {
        let system: String = system.iter().map(|byte| format!("{byte:02x}")).collect();
        Record::of_member(&system, name, crate::node::FIRST_NODE, name, vec![])
    }

    pub fn of_member(system: &str, system_name: &str, number: NodeId, name: &str, peers: Vec<Peer>) -> Record {
        Record {
            schema: SCHEMA.into(),
            system: system.into(),
            system_name: system_name.into(),
            number: number.0,
            name: name.into(),
            life: 0,
            port: None,
            peers,
            lend: Lend::default(),
        }
    }

    pub fn number(&self) -> NodeId {
        NodeId(self.number)
    }

    pub fn system_bytes(&self) -> [u8; 16] {
        hex(&self.system).expect("a record is checked when it is read")
    }

    /// `None`: this node belongs to no system yet.
    pub fn read(data: &Path) -> Result<Option<Record>, RecordError> {
        let path = data.join(FILE);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened,
        };
        let mut json = vec![];
        let read = file.and_then(|file| io::Read::read_to_end(&mut io::Read::take(file, BYTES_MAX), &mut json));
        if let Err(error) = read {
            return Err(RecordError::Io { path, error });
        }
        let damaged = |why: String| RecordError::Damaged { path: path.clone(), why };
        let record: Record = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
        if record.schema != SCHEMA {
            return Err(damaged(format!("it is {:?}, not {SCHEMA:?}: another version of una wrote it", record.schema)));
        }
        if hex::<16>(&record.system).is_none() || record.number == 0 {
            return Err(damaged("it names no system or no node".into()));
        }
        Ok(Some(record))
    }

    /// On the disk when it returns; a crash leaves the old one or the new one.
    pub fn write(&self, data: &Path) -> Result<(), RecordError> {
        let path = data.join(FILE);
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(data)?;
            let unfinished = data.join(format!("{FILE}.new"));
            let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
            let json = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
            file.write_all(&json)?;
            file.sync_all()?;
            std::fs::rename(&unfinished, &path)?;
            File::open(data)?.sync_all()
        };
        write().map_err(|error| RecordError::Io { path: path.clone(), error })
    }
}

/// Those that are addresses; the rest is of another version, or damaged.
pub fn addresses(texts: &[String]) -> Vec<SocketAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Exactly so many bytes of hexadecimal.
pub fn hex<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    if text.len() != 2 * LENGTH || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; LENGTH];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(directory.path()).unwrap(), None);
        let mut record = Record::first([7; 16], "attic");
        record.life = 3;
        record.peers.push(Peer { number: 2, key: "00".repeat(32), addresses: vec!["127.0.0.1:1".into()] });
        record.write(directory.path()).unwrap();
        assert_eq!(Record::read(directory.path()).unwrap(), Some(record));
    }

    #[test]
    fn damage_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::first([7; 16], "attic");
        record.write(directory.path()).unwrap();
        let path = directory.path().join(FILE);
        let whole = std::fs::read_to_string(&path).unwrap();
        for damage in [&whole[..40], &whole.replace("system/1", "system/9"), &whole.replace("0707", "x"), ""] {
            std::fs::write(&path, damage).unwrap();
            assert!(matches!(Record::read(directory.path()), Err(RecordError::Damaged { .. })), "{damage}");
        }
    }
}
