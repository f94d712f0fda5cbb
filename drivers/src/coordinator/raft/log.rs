//! The log of one node in two files that take turns. It knows nothing of what entries say.
//!
//! The one idea: what is appended at once is one frame, written once and synced once, into space that the file already has: so a
//! transaction costs what the disk needs for one write, and nothing for the file's length. Nothing is ever rewritten: that the
//! log's end was taken back is a frame too.
//!
//! ```text
//!   file A   header: turn 7 │ frame │ frame │ take back from 812 │ frame │ zeros, or what turn 5 left
//!   file B   header: turn 6 │ frame │ ...                                    all of it in the state already
//!
//!   frame    magic, kind, length, checksum of turn, place and body           entry   length, checksum, content
//! ```
//! When one file is long enough, and nobody needs the entries of the other one any more, the other one's next turn begins. A crash
//! can only spoil the last frame; a frame that cannot be read, with a good one behind it, is damage, and is said.

use super::{Entry, LogId};
use crate::coordinator::Failure;
use crate::coordinator::planted::{Bug, planted};
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::io;

/// A file that is longer gives its turn to the other one, if that one is not needed.
const TURN_BYTES: u64 = 8 << 20;
/// Space is written ahead in such pieces.
const GROWTH: usize = 1 << 20;
const HEADER_BYTES: u64 = 32;
const HEADER_MAGIC: &[u8; 8] = b"una log1";
const FRAME_BYTES: usize = 24;
const FRAME_MAGIC: u32 = 0x756e_6166;
/// Frames begin at multiples of this.
const ALIGNMENT: u64 = 8;
const CHECKSUM_BYTES: usize = 8;

const APPENDED: u32 = 1;
const TAKEN_BACK: u32 = 2;

/// The log.
///
/// Invariants: `places` are the entries of the log, without a gap; each is in the file it names, within its `end`. The file whose
/// turn it is has the higher turn.
pub struct Log {
    files: [Turn; 2],
    active: usize,
    places: BTreeMap<u64, Place>,
}

struct Turn {
    file: Box<dyn StorageBackend>,
    turn: u64,
    /// Where the next frame goes.
    end: u64,
    /// So long it is already.
    length: u64,
    /// The highest index among its entries.
    last: Option<u64>,
}

/// Where an entry is, its checksum included.
#[derive(Clone, Copy)]
struct Place {
    file: usize,
    at: u64,
    bytes: usize,
}

fn checksum(parts: &[&[u8]]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
}

fn damaged(what: impl std::fmt::Display) -> Failure {
    Failure::Damaged { what: format!("the log: {what}") }
}

fn failed(error: io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => {
            Failure::Full { what: "the disk of the log: free some space and start una again".into() }
        }
        _ => Failure::unavailable(format!("the log: {error}")),
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("it is looked at within its length"))
}

impl Turn {
    /// Reads a file. What is no log of ours begins anew.
    fn load(file: Box<dyn StorageBackend>) -> Result<(Turn, Vec<u8>), Failure> {
        let length = file.len().map_err(failed)?;
        let mut content = vec![0; length as usize];
        file.read(0, &mut content).map_err(failed)?;
        let mut turn = Turn { file, turn: 0, end: HEADER_BYTES, length, last: None };
        if let Some(header) = content.first_chunk::<{ HEADER_BYTES as usize }>()
            && header[..8] == *HEADER_MAGIC
            && header[16..24] == checksum(&[b"header", &header[8..16]])
        {
            turn.turn = u64::from_le_bytes(*header[8..16].first_chunk().expect("eight bytes"));
        }
        Ok((turn, content))
    }

    /// Begins a turn: what was in the file is of no use from now on.
    fn begin(&mut self, turn: u64) -> Result<(), Failure> {
        let number = turn.to_le_bytes();
        let mut header = [0; HEADER_BYTES as usize];
        header[..8].copy_from_slice(HEADER_MAGIC);
        header[8..16].copy_from_slice(&number);
        header[16..24].copy_from_slice(&checksum(&[b"header", &number]));
        self.file.write(0, &header).map_err(failed)?;
        self.file.sync_data().map_err(failed)?;
        self.length = self.length.max(HEADER_BYTES);
        self.turn = turn;
        self.end = HEADER_BYTES;
        self.last = None;
        Ok(())
    }

    /// The kind and the body of the frame at this place, if there is one.
    fn frame<'a>(&self, content: &'a [u8], at: u64) -> Option<(u32, &'a [u8])> {
        let content = content.get(at as usize..)?;
        let header = content.first_chunk::<FRAME_BYTES>()?;
        if number(header, 0) != FRAME_MAGIC {
            return None;
        }
        let body = content[FRAME_BYTES..].get(..number(header, 8) as usize)?;
        let sum = self.sum(at, number(header, 4), body);
        (header[16..24] == sum).then(|| (number(header, 4), body))
    }

    fn sum(&self, at: u64, kind: u32, body: &[u8]) -> [u8; CHECKSUM_BYTES] {
        checksum(&[&self.turn.to_le_bytes(), &at.to_le_bytes(), &kind.to_le_bytes(), body])
    }

    /// Writes a frame and syncs it. Gives the place of its body.
    fn push(&mut self, kind: u32, body: &[u8]) -> Result<u64, Failure> {
        let at = self.end;
        let mut frame = Vec::with_capacity(FRAME_BYTES + body.len() + ALIGNMENT as usize);
        frame.extend(FRAME_MAGIC.to_le_bytes());
        frame.extend(kind.to_le_bytes());
        frame.extend(u32::try_from(body.len()).map_err(|_| damaged("an entry of 4 GiB"))?.to_le_bytes());
        frame.extend([0; 4]);
        frame.extend(self.sum(at, kind, body));
        frame.extend(body);
        frame.resize(frame.len().next_multiple_of(ALIGNMENT as usize), 0);
        let end = at + frame.len() as u64;
        if end > self.length {
            // The same write brings the space for the next ones.
            let used = frame.len();
            frame.resize(used + GROWTH, 0);
        }
        self.file.write(at, &frame).map_err(failed)?;
        if !planted(Bug::AnswerBeforeSync) {
            self.file.sync_data().map_err(failed)?;
        }
        self.length = self.length.max(at + frame.len() as u64);
        self.end = end;
        Ok(at + FRAME_BYTES as u64)
    }
}

impl Log {
    /// Opens the log in two files, and gives its entries behind the one that was purged last.
    pub fn open(files: [Box<dyn StorageBackend>; 2], purged: Option<LogId>) -> Result<(Log, Vec<Entry>), Failure> {
        let [first, second] = files;
        let (first, first_content) = Turn::load(first)?;
        let (second, second_content) = Turn::load(second)?;
        let contents = [first_content, second_content];
        let active = usize::from(second.turn > first.turn);
        let mut log = Log { files: [first, second], active, places: BTreeMap::new() };
        let mut entries = BTreeMap::new();
        for file in [1 - active, active] {
            if log.files[file].turn > 0 {
                log.replay(file, &contents[file], &mut entries)?;
            }
        }
        if log.files[active].turn == 0 {
            log.files[active].begin(1)?;
        }
        let behind = purged.map_or(0, |purged| purged.index + 1);
        log.places = log.places.split_off(&behind);
        let entries: Vec<Entry> = entries.split_off(&behind).into_values().collect();
        for (entry, expected) in entries.iter().zip(behind..) {
            if entry.log_id.index != expected {
                return Err(damaged(format!("entry {expected} is missing")));
            }
        }
        Ok((log, entries))
    }

    fn replay(&mut self, file: usize, content: &[u8], entries: &mut BTreeMap<u64, Entry>) -> Result<(), Failure> {
        let mut at = HEADER_BYTES;
        while let Some((kind, body)) = self.files[file].frame(content, at) {
            let start = at + FRAME_BYTES as u64;
            match kind {
                APPENDED => {
                    let mut offset = 0;
                    while offset < body.len() {
                        let bytes = number(body, offset) as usize;
                        offset += 4;
                        let sealed = body.get(offset..offset + bytes).ok_or_else(|| damaged("an entry is cut"))?;
                        let entry = unsealed(sealed)?;
                        let index = entry.log_id.index;
                        self.places.insert(index, Place { file, at: start + offset as u64, bytes });
                        entries.insert(index, entry);
                        self.files[file].last = self.files[file].last.max(Some(index));
                        offset += bytes;
                    }
                }
                TAKEN_BACK => {
                    let from = body.first_chunk().map(|from| u64::from_le_bytes(*from));
                    let from = from.ok_or_else(|| damaged("a frame is too short"))?;
                    entries.split_off(&from);
                    self.places.split_off(&from);
                }
                other => {
                    return Err(damaged(format!("a frame of the kind {other}, which this una does not know")));
                }
            }
            at = (start + body.len() as u64).next_multiple_of(ALIGNMENT);
        }
        self.files[file].end = at;
        // What a crash cut is the last frame there is.
        let mut behind = at + ALIGNMENT;
        while behind + (FRAME_BYTES as u64) <= content.len() as u64 {
            if self.files[file].frame(content, behind).is_some() {
                return Err(damaged(format!("what is at {at} cannot be read, and there is more behind it")));
            }
            behind += ALIGNMENT;
        }
        Ok(())
    }

    /// Whether the other file's turn should begin, if all entries up to this one are needed no more, for certain.
    pub fn is_turn_over(&self, purged: Option<LogId>) -> bool {
        self.files[self.active].end > TURN_BYTES
            && self.files[1 - self.active].last <= purged.map(|purged| purged.index)
    }

    pub fn next_turn(&mut self) -> Result<(), Failure> {
        let turn = self.files[self.active].turn + 1;
        self.files[1 - self.active].begin(turn)?;
        self.active = 1 - self.active;
        Ok(())
    }

    /// Puts entries behind the last one. They are on the disk when this returns.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), Failure> {
        let mut body = vec![];
        let mut ends = vec![];
        for entry in entries {
            let start = body.len();
            body.extend([0; 4 + CHECKSUM_BYTES]);
            body = postcard::to_extend(entry, body).expect("memory takes all that can be encoded");
            let sum = checksum(&[&body[start + 4 + CHECKSUM_BYTES..]]);
            body[start + 4..][..CHECKSUM_BYTES].copy_from_slice(&sum);
            let bytes = body.len() - start - 4;
            body[start..][..4].copy_from_slice(&(bytes as u32).to_le_bytes());
            ends.push((entry.log_id.index, start as u64 + 4, bytes));
        }
        let file = self.active;
        let start = self.files[file].push(APPENDED, &body)?;
        for (index, offset, bytes) in ends {
            self.places.insert(index, Place { file, at: start + offset, bytes });
            self.files[file].last = self.files[file].last.max(Some(index));
        }
        Ok(())
    }

    /// Takes back all entries from an index on.
    pub fn truncate(&mut self, from: u64) -> Result<(), Failure> {
        self.files[self.active].push(TAKEN_BACK, &from.to_le_bytes())?;
        self.places.split_off(&from);
        Ok(())
    }

    /// Entries up to and with this one are asked for no more.
    pub fn forget(&mut self, to: u64) {
        self.places = self.places.split_off(&(to + 1));
    }

    /// Entries from one on to another one, as many as come to so many bytes, but at least one.
    pub fn entries(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>, Failure> {
        let mut entries = vec![];
        let mut bytes = 0;
        for place in self.places.range(from..to).map(|(_, place)| place) {
            bytes += place.bytes;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            let mut sealed = vec![0; place.bytes];
            self.files[place.file].file.read(place.at, &mut sealed).map_err(failed)?;
            entries.push(unsealed(&sealed)?);
        }
        Ok(entries)
    }
}

fn unsealed(sealed: &[u8]) -> Result<Entry, Failure> {
    let (sum, content) = sealed.split_first_chunk::<CHECKSUM_BYTES>().ok_or_else(|| damaged("an entry is cut"))?;
    if checksum(&[content]) != *sum {
        return Err(damaged("an entry is not what it was"));
    }
    postcard::from_bytes(content).map_err(|_| damaged("an entry cannot be read"))
}
