//! What the coordinator keeps of processes: of each checkpoint where its root is and what it is of; of each process that has some, or that
//! is looked after, which incarnation of it may have any effect, and where it is. Knows keys and values; nothing of how they are used.
//!
//! ```text
//!   k/c/PID/NNNNNNNN   root 32, seal 32, JSON      a checkpoint of a process; they are counted from 1
//!   k/p/PID            seal 32, JSON               the process itself
//!   k/l/PID/SSSSSSSS/POSITION   seal 32, fresh 8, bytes   what a durable process was told, from a position on
//! ```
//! A seal is the BLAKE3 hash of the key and of all behind the seal: a record that was damaged, or stands under another's key, is none.

use crate::node::{End, Outward, Pid};
use abi::ids::NodeId;
use drivers::chunks::ChunkName;
use engine::tape::Piece;
use serde::{Deserialize, Serialize};
use services::durable::claims::{self, Home};

/// Where processes are.
pub const PROCESSES: &[u8] = b"k/p/";
/// What durable processes were told.
const TAPES: &[u8] = b"k/l/";

/// What is known of a checkpoint beside its content.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    pub pid: Pid,
    /// Counts the checkpoints of the process.
    pub sequence: u32,
    pub name: Option<String>,
    /// Milliseconds since 1970, by the clock of the node that made it.
    pub made_ms: u64,
    pub made_on: u16,
    pub incarnation: u32,
    /// Of memory that was not zero, state and program.
    pub bytes: u64,
    /// Of that, what the checkpoint before did not have.
    pub new_bytes: u64,
    /// For how long the process was kept from running for it, in microseconds.
    #[serde(default)]
    pub pause_us: u64,
    /// Of a durable process: what it was told from there on is kept too.
    #[serde(default)]
    pub tape: Option<TapeMark>,
    pub process: Outward,
}

/// Where a checkpoint stands on the tape of its process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TapeMark {
    /// The incarnation that began from the beginning, and this tape with it.
    pub since: u32,
    pub position: u64,
    /// So many changes of files it had asked for.
    pub changes: u64,
    /// What the process's own clocks said.
    pub monotonic_ns: u64,
    pub cputime_ns: u64,
}

/// Which incarnation of a process may have any effect, and where it is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// How often it began; the first time is zero.
    pub incarnation: u32,
    pub place: Place,
    /// What is to become of it when it ends or its node is lost; nothing if nobody looks after it.
    #[serde(default)]
    pub supervision: Option<Supervision>,
}

impl Claim {
    /// As much of it as decides whose the process is.
    pub fn outline(&self) -> claims::Claim {
        let place = match self.place {
            Place::At { node, life } => claims::Place::At(Home { node: NodeId(node), life }),
            Place::Ended { .. } => claims::Place::Ended,
        };
        let supervision = self.supervision.as_ref();
        claims::Claim {
            incarnation: self.incarnation,
            place,
            is_durable: supervision.is_some_and(Supervision::is_durable),
            since: supervision.map_or(0, |supervision| supervision.since),
        }
    }
}

/// How a process is looked after.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Supervision {
    pub restart: Restart,
    /// It goes on from its last checkpoint, of which one is made so often.
    pub durable_every_ms: Option<u64>,
    /// How it begins.
    pub begin: Begin,
    /// How often it was begun again since it last ran steadily.
    pub in_a_row: u32,
    /// The incarnation that began from the beginning: checkpoints of earlier ones are not gone on from.
    pub since: u32,
}

impl Supervision {
    pub fn is_durable(&self) -> bool {
        self.durable_every_ms.is_some()
    }
}

/// When a process is begun again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    #[default]
    No,
    /// Unless it exits with 0, or is killed by hand.
    OnFailure,
    /// Unless it is killed by hand.
    Always,
}

/// What a program begins with.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Begin {
    pub env: Vec<(String, String)>,
    pub process: Outward,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// On this node, in this life of it.
    At {
        node: u16,
        life: u64,
    },
    Ended {
        node: u16,
        end: Option<End>,
    },
}

/// What the keys of all that a process was told begin with.
pub fn tapes_prefix(pid: Pid) -> Vec<u8> {
    [TAPES, format!("{:016x}/", pid.id().to_bits()).as_bytes()].concat()
}

/// The same since the incarnation that began from the beginning.
pub fn tape_prefix(pid: Pid, since: u32) -> Vec<u8> {
    [&tapes_prefix(pid)[..], format!("{since:08x}/").as_bytes()].concat()
}

/// The key of a piece, and its value.
pub fn tape_piece(pid: Pid, since: u32, piece: &Piece) -> (Vec<u8>, Vec<u8>) {
    let key = [&tape_prefix(pid, since)[..], format!("{:016x}", piece.at).as_bytes()].concat();
    let fresh = [u8::from(piece.is_fresh)];
    let value = [&seal(&key, &[&fresh, &piece.bytes])[..], &fresh, &piece.bytes].concat();
    (key, value)
}

/// `None`: it is damaged.
pub fn read_piece(key: &[u8], value: &[u8]) -> Option<Piece> {
    let (sealed, rest) = value.split_first_chunk::<32>()?;
    let (fresh, bytes) = rest.split_first()?;
    if seal(key, &[&[*fresh], bytes]) != *sealed {
        return None;
    }
    let at = key.get(key.len().checked_sub(16)?..)?;
    let at = u64::from_str_radix(std::str::from_utf8(at).ok()?, 16).ok()?;
    Some(Piece { at, is_fresh: *fresh != 0, bytes: bytes.to_vec() })
}

/// The last part of a checkpoint's key.
pub fn checkpoint_key(pid: Pid, sequence: u32) -> Vec<u8> {
    format!("{:016x}/{sequence:08x}", pid.id().to_bits()).into_bytes()
}

/// What the keys of all checkpoints of a process begin with.
pub fn history_prefix(pid: Pid) -> Vec<u8> {
    [crate::files::RECORDS, format!("{:016x}/", pid.id().to_bits()).as_bytes()].concat()
}

pub fn claim_key(pid: Pid) -> Vec<u8> {
    [PROCESSES, format!("{:016x}", pid.id().to_bits()).as_bytes()].concat()
}

fn seal(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key);
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    *hasher.finalize().as_bytes()
}

impl Checkpoint {
    pub fn key(&self) -> Vec<u8> {
        checkpoint_key(self.pid, self.sequence)
    }

    pub fn write(&self, root: ChunkName) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("plain data");
        [&root.0[..], &seal(&self.key(), &[&root.0, &json]), &json].concat()
    }

    /// `key`: its last part. `None`: it is damaged.
    pub fn read(key: &[u8], value: &[u8]) -> Option<(ChunkName, Checkpoint)> {
        let (root, rest) = value.split_first_chunk::<32>()?;
        let (sealed, json) = rest.split_first_chunk::<32>()?;
        if seal(key, &[root, json]) != *sealed {
            return None;
        }
        let checkpoint: Checkpoint = serde_json::from_slice(json).ok()?;
        (checkpoint.key() == key).then_some((ChunkName(*root), checkpoint))
    }
}

impl Claim {
    pub fn write(&self, pid: Pid) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("plain data");
        [&seal(&claim_key(pid), &[&json])[..], &json].concat()
    }

    /// `None`: it is damaged.
    pub fn read(key: &[u8], value: &[u8]) -> Option<(Pid, Claim)> {
        let (sealed, json) = value.split_first_chunk::<32>()?;
        if seal(key, &[json]) != *sealed {
            return None;
        }
        let pid = std::str::from_utf8(key.strip_prefix(PROCESSES)?).ok()?;
        let pid = Pid::from(abi::ids::ProcessId::from_bits(u64::from_str_radix(pid, 16).ok()?));
        Some((pid, serde_json::from_slice(json).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{ProcessLimits, Stdio};

    fn checkpoint() -> Checkpoint {
        let process = Outward {
            name: "name".into(),
            args: vec!["a".into()],
            program: "00".into(),
            mounts: vec![],
            limits: ProcessLimits::default(),
            stdio: Stdio::default(),
            cpu_ns: 5,
            output_bytes: 9,
        };
        Checkpoint {
            pid: Pid::new(7),
            sequence: 3,
            name: None,
            made_ms: 1,
            made_on: 1,
            incarnation: 0,
            bytes: 2,
            new_bytes: 1,
            pause_us: 2,
            tape: None,
            process,
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let checkpoint = checkpoint();
        let (key, root) = (checkpoint.key(), ChunkName([9; 32]));
        let value = checkpoint.write(root);
        assert_eq!(Checkpoint::read(&key, &value), Some((root, checkpoint.clone())));
        assert_eq!(Checkpoint::read(&checkpoint_key(Pid::new(7), 4), &value), None);
        let claim = Claim { incarnation: 2, place: Place::At { node: 1, life: 4 }, supervision: None };
        let (claim_key, claimed) = (claim_key(Pid::new(7)), claim.write(Pid::new(7)));
        assert_eq!(Claim::read(&claim_key, &claimed), Some((Pid::new(7), claim)));
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Checkpoint::read(&key, &flipped), None, "bit {bit}");
        }
        for bit in 0..claimed.len() * 8 {
            let mut flipped = claimed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Claim::read(&claim_key, &flipped), None, "bit {bit}");
        }
        for length in 0..value.len() {
            assert_eq!(Checkpoint::read(&key, &value[..length]), None);
        }
    }
}
