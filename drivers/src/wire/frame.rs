//! Frames: what crosses a connection once it is secret. Knows the form of each, not whether it is in its place.
//!
//! ```text
//!    0      1      2       3     4            8        12
//!   ┌──────┬──────┬───────┬─────┬────────────┬────────┬─────────────────────────┐
//!   │ kind │class │detail │  0  │ length u32 │ id u32 │ payload, 64 KiB and 4   │    little-endian
//!   └──────┴──────┴───────┴─────┴────────────┴────────┴─────────────────────────┘
//! ```
//!
//! [`Kind::Hello`] and [`Kind::Refused`] have a form that stays for ever, so that two versions can always tell each other that they do
//! not understand each other.
//!
//! What leaves a link in one write begins with a [`Kind::Stamp`]: whatever the frames behind it say was so before that moment.

use super::limits::{ADDRESSES_MAX, FRAME_BYTES, HEAD_BYTES, NAME_BYTES, WHY_BYTES};
use super::{Class, Hello, Refusal, Violation};
use abi::clock::Stamp;
use abi::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;

pub const HEADER_BYTES: usize = 12;

/// The frame that a write begins with.
pub const STAMP_BYTES: usize = HEADER_BYTES + size_of::<u64>();

/// The versions of the protocol that this una speaks. What kernels say is a part of it: a change of theirs is a version of this.
/// Version 3 had stamps in some messages only.
pub const PROTOCOL: Versions = Versions { first: 4, last: 4 };

/// Versions of the protocol, from the first to the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    pub first: u16,
    pub last: u16,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.first == self.last {
            true => self.first.fmt(f),
            false => write!(f, "{} to {}", self.first, self.last),
        }
    }
}

/// What a hello begins with, whatever the version.
const MAGIC: [u8; 4] = *b"una\n";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// First on every connection, both ways.
    Hello = 1,
    /// Instead of a hello or a welcome, and the last: why there will be no link.
    Refused = 2,
    /// The end that reached out wants this link now.
    Commit = 3,
    /// The link is made.
    Welcome = 4,
    /// Are you there? Carries the sender's newest round trip in microseconds.
    Ping = 5,
    Pong = 6,
    /// The last one of a link: why it ends.
    Bye = 7,
    Message = 8,
    /// A request: its whole length, then its beginning. `detail` is the service.
    Ask = 9,
    AskMore = 10,
    /// Nobody waits for the answer any more. There is one nevertheless.
    Cancel = 11,
    /// An answer: its whole length, then its beginning. `detail` is how it went ([`Outcome`]).
    Answer = 12,
    AnswerMore = 13,
    /// A stream: the opener's window, then the head. `detail` is the purpose.
    Open = 14,
    Data = 15,
    /// So many bytes more may be sent; the first of a stream also says that it is taken.
    Credit = 16,
    /// No more data, but the stream goes on the other way.
    End = 17,
    /// The sender has nothing more to do with the stream. Each end sends one. Carries why, in words.
    Close = 18,
    /// When what follows it left, by the hybrid clock. Not on a visit.
    Stamp = 19,
}

/// How a request went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Outcome {
    Done = 0,
    /// The body says why.
    Failed = 1,
    /// Too much to do: it was not looked at.
    Busy = 2,
    Cancelled = 3,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub kind: Kind,
    pub class: Class,
    pub detail: u8,
    pub id: u32,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Hello,
            2 => Kind::Refused,
            3 => Kind::Commit,
            4 => Kind::Welcome,
            5 => Kind::Ping,
            6 => Kind::Pong,
            7 => Kind::Bye,
            8 => Kind::Message,
            9 => Kind::Ask,
            10 => Kind::AskMore,
            11 => Kind::Cancel,
            12 => Kind::Answer,
            13 => Kind::AnswerMore,
            14 => Kind::Open,
            15 => Kind::Data,
            16 => Kind::Credit,
            17 => Kind::End,
            18 => Kind::Close,
            19 => Kind::Stamp,
            _ => return None,
        })
    }
}

impl Outcome {
    pub fn of(byte: u8) -> Result<Outcome, Violation> {
        Ok(match byte {
            0 => Outcome::Done,
            1 => Outcome::Failed,
            2 => Outcome::Busy,
            3 => Outcome::Cancelled,
            _ => return Err(Violation::Malformed("outcome")),
        })
    }
}

pub fn class_of(byte: u8) -> Result<Class, Violation> {
    Ok(match byte {
        0 => Class::Control,
        1 => Class::Call,
        2 => Class::Page,
        3 => Class::Bulk,
        _ => return Err(Violation::Malformed("class")),
    })
}

impl Header {
    /// `parts` one after the other are the payload.
    pub fn frame(self, parts: &[&[u8]]) -> Vec<u8> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + length);
        self.append(&mut bytes, parts);
        bytes
    }

    pub fn append(self, bytes: &mut Vec<u8>, parts: &[&[u8]]) {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        assert!(length <= FRAME_BYTES, "whoever makes frames keeps to the limit");
        bytes.extend([self.kind as u8, self.class as u8, self.detail, 0]);
        bytes.extend((length as u32).to_le_bytes());
        bytes.extend(self.id.to_le_bytes());
        parts.iter().for_each(|part| bytes.extend(*part));
    }
}

/// Puts arriving bytes together to frames.
///
/// Invariants: `taken` is within `bytes`, and what stands before it has been given out. Between calls there is less than one frame in
/// it, so no peer can make it grow beyond a frame and what is read at once.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    taken: usize,
}

impl Frames {
    /// Where arriving bytes are appended. What was given out is forgotten.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        &mut self.bytes
    }

    /// The next whole frame.
    pub fn next(&mut self) -> Result<Option<(Header, &[u8])>, Violation> {
        let rest = &self.bytes[self.taken..];
        let Some((head, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [kind, class, detail, zero, l0, l1, l2, l3, i0, i1, i2, i3] = *head;
        // The length is looked at first: bytes that are no frame at all must not be waited for.
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let kind = Kind::of(kind).ok_or(Violation::UnknownKind(kind))?;
        if length as usize > FRAME_BYTES {
            return Err(Violation::TooLong(length));
        }
        if zero != 0 {
            return Err(Violation::Malformed("header"));
        }
        let header = Header { kind, class: class_of(class)?, detail, id: u32::from_le_bytes([i0, i1, i2, i3]) };
        let Some(payload) = rest.get(..length as usize) else { return Ok(None) };
        self.taken += HEADER_BYTES + length as usize;
        Ok(Some((header, payload)))
    }
}

/// What a connection is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Purpose {
    /// One of the two connections of a link; both have the same number.
    Link {
        number: u64,
        lane: u8,
    },
    Visit {
        head: Vec<u8>,
    },
}

#[derive(Serialize, Deserialize)]
struct Told {
    purpose: Purpose,
    system: Option<[u8; 16]>,
    node: Option<u16>,
    life: u64,
    name: String,
    version: String,
    addresses: Vec<SocketAddr>,
}

pub fn hello(purpose: Purpose, hello: &Hello, versions: Versions) -> Vec<u8> {
    let told = Told {
        purpose,
        system: hello.system,
        node: hello.node.map(|node| node.0),
        life: hello.life,
        name: shortened(&hello.name, NAME_BYTES).into(),
        version: shortened(&hello.version, NAME_BYTES).into(),
        addresses: hello.addresses.iter().take(ADDRESSES_MAX).copied().collect(),
    };
    let told = postcard::to_allocvec(&told).expect("plain data always serialises");
    let versions = [versions.first.to_le_bytes(), versions.last.to_le_bytes()].concat();
    let header = Header { kind: Kind::Hello, class: Class::Control, detail: 0, id: 0 };
    header.frame(&[&MAGIC, &versions, &told])
}

/// Why a hello leads nowhere.
#[derive(Debug)]
pub enum NoHello {
    Violation(Violation),
    /// The versions that they speak.
    OtherProtocol(Versions),
}

pub fn parse_hello(payload: &[u8], ours: Versions) -> Result<(Purpose, Hello), NoHello> {
    let malformed = || NoHello::Violation(Violation::Malformed("hello"));
    let rest = payload.strip_prefix(&MAGIC).ok_or_else(malformed)?;
    let (versions, rest) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
    let [first, last] = [[versions[0], versions[1]], [versions[2], versions[3]]].map(u16::from_le_bytes);
    if first > ours.last || last < ours.first {
        return Err(NoHello::OtherProtocol(Versions { first, last }));
    }
    let told: Told = postcard::from_bytes(rest).map_err(|_| malformed())?;
    let head_fits = match &told.purpose {
        Purpose::Link { lane, .. } => *lane < 2,
        Purpose::Visit { head } => head.len() <= HEAD_BYTES,
    };
    if !head_fits || told.name.len().max(told.version.len()) > NAME_BYTES || told.addresses.len() > ADDRESSES_MAX {
        return Err(malformed());
    }
    let hello = Hello {
        system: told.system,
        node: told.node.map(NodeId),
        life: told.life,
        name: told.name,
        version: told.version,
        addresses: told.addresses,
    };
    Ok((told.purpose, hello))
}

/// Why a connection ends without a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum No {
    Refused(Refusal),
    /// There is, or will be, another link in its place; or too many wait. Nobody is told, and it is tried again.
    NotNow(String),
}

pub fn refused(no: &No) -> Vec<u8> {
    let number = |number: &u64| number.to_string();
    let (code, first, second): (u8, String, String) = match no {
        No::NotNow(why) => (0, why.clone(), String::new()),
        No::Refused(Refusal::Unknown) => (1, String::new(), String::new()),
        No::Refused(Refusal::Dismissed(why)) => (2, why.clone(), String::new()),
        No::Refused(Refusal::OtherSystem { ours, theirs }) => (3, ours.clone(), theirs.clone()),
        No::Refused(Refusal::OtherProtocol { ours, theirs }) => (4, ours.clone(), theirs.clone()),
        No::Refused(Refusal::OldLife { theirs, known }) => (5, number(theirs), number(known)),
        No::Refused(Refusal::Other(why)) => (6, why.clone(), String::new()),
    };
    let [first, second] = [&first, &second].map(|text| shortened(text, WHY_BYTES).as_bytes());
    let header = Header { kind: Kind::Refused, class: Class::Control, detail: code, id: 0 };
    header.frame(&[&(first.len() as u32).to_le_bytes(), first, second])
}

/// As it is seen from the end that is refused: what is ours there is theirs here.
pub fn parse_refused(code: u8, payload: &[u8]) -> Result<No, Violation> {
    let malformed = || Violation::Malformed("refusal");
    let (length, rest) = payload.split_first_chunk::<4>().ok_or_else(malformed)?;
    let (first, second) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(malformed)?;
    let (theirs, ours) = (words(first), words(second));
    Ok(match code {
        0 => No::NotNow(theirs),
        1 => No::Refused(Refusal::Unknown),
        2 => No::Refused(Refusal::Dismissed(theirs)),
        3 => No::Refused(Refusal::OtherSystem { ours, theirs }),
        4 => No::Refused(Refusal::OtherProtocol { ours, theirs }),
        5 => match (theirs.parse(), ours.parse()) {
            (Ok(theirs), Ok(known)) => No::Refused(Refusal::OldLife { theirs, known }),
            _ => return Err(malformed()),
        },
        // A newer una may know more reasons; their words are understood anyway.
        _ => No::Refused(Refusal::Other(theirs)),
    })
}

pub fn bye(why: &str) -> Vec<u8> {
    let header = Header { kind: Kind::Bye, class: Class::Control, detail: 0, id: 0 };
    header.frame(&[shortened(why, WHY_BYTES).as_bytes()])
}

pub fn stamp(stamp: Stamp) -> Vec<u8> {
    let header = Header { kind: Kind::Stamp, class: Class::Control, detail: 0, id: 0 };
    header.frame(&[&stamp.to_bits().to_le_bytes()])
}

pub fn parse_stamp(payload: &[u8]) -> Result<Stamp, Violation> {
    let bits = payload.try_into().map_err(|_| Violation::Malformed("stamp"))?;
    Ok(Stamp::from_bits(u64::from_le_bytes(bits)))
}

/// What someone else said, for people: never longer than it may be, and nothing in it but words.
pub fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(WHY_BYTES)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub fn shortened(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// A number at the beginning of a payload, and what follows it.
pub fn number(payload: &[u8]) -> Result<(u32, &[u8]), Violation> {
    let (number, rest) = payload.split_first_chunk::<4>().ok_or(Violation::Malformed("number"))?;
    Ok((u32::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: Kind) -> Header {
        Header { kind, class: Class::Page, detail: 3, id: 0x01020304 }
    }

    #[test]
    fn frames_come_out_however_they_are_cut() {
        let mut bytes = Vec::new();
        for length in [0, 1, 11, 12, 13, FRAME_BYTES] {
            header(Kind::Data).append(&mut bytes, &[&vec![length as u8; length]]);
        }
        for step in [1, 7, 12, 4096, bytes.len()] {
            let (mut frames, mut lengths) = (Frames::default(), Vec::new());
            for part in bytes.chunks(step) {
                frames.buffer().extend(part);
                while let Some((found, payload)) = frames.next().unwrap() {
                    assert_eq!(found, header(Kind::Data));
                    assert!(payload.iter().all(|byte| *byte == payload.len() as u8));
                    lengths.push(payload.len());
                }
            }
            assert_eq!(lengths, [0, 1, 11, 12, 13, FRAME_BYTES], "{step}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_at_its_header() {
        let check = |change: &dyn Fn(&mut Vec<u8>), expect| {
            let mut bytes = header(Kind::Data).frame(&[])[..HEADER_BYTES].to_vec();
            change(&mut bytes);
            let mut frames = Frames::default();
            frames.buffer().extend(bytes);
            assert_eq!(frames.next(), Err(expect));
        };
        check(&|bytes| bytes[0] = 0, Violation::UnknownKind(0));
        check(&|bytes| bytes[0] = 20, Violation::UnknownKind(20));
        check(&|bytes| bytes[1] = 4, Violation::Malformed("class"));
        check(&|bytes| bytes[3] = 1, Violation::Malformed("header"));
        let over = FRAME_BYTES as u32 + 1;
        check(&|bytes| bytes[4..8].copy_from_slice(&over.to_le_bytes()), Violation::TooLong(over));
    }

    fn greeting() -> Hello {
        Hello {
            system: Some([1; 16]),
            node: Some(NodeId(7)),
            life: 3,
            name: "müller".into(),
            version: "0.1.0".into(),
            addresses: vec!["10.0.0.1:7700".parse().unwrap()],
        }
    }

    #[test]
    fn a_hello_comes_back_as_it_was_and_no_part_of_one_is_a_hello() {
        let bytes = hello(Purpose::Link { number: 5, lane: 1 }, &greeting(), PROTOCOL);
        let payload = &bytes[HEADER_BYTES..];
        assert_eq!(parse_hello(payload, PROTOCOL).unwrap(), (Purpose::Link { number: 5, lane: 1 }, greeting()));
        for length in 0..payload.len() {
            assert!(parse_hello(&payload[..length], PROTOCOL).is_err(), "{length}");
        }
        let mut newer = payload.to_vec();
        newer[4..8].copy_from_slice(&[9, 0, 12, 0]);
        let other = |payload: &[u8]| match parse_hello(payload, PROTOCOL) {
            Err(NoHello::OtherProtocol(versions)) => versions.to_string(),
            found => panic!("{found:?}"),
        };
        assert_eq!(other(&newer), "9 to 12");
        // The first una, whose kernels knew nothing of moves.
        let mut older = payload.to_vec();
        older[4..8].copy_from_slice(&[1, 0, 1, 0]);
        assert_eq!(other(&older), "1");
    }

    #[test]
    fn long_names_are_cut_where_a_letter_ends() {
        let long = Hello { name: "ü".repeat(1000), ..greeting() };
        let bytes = hello(Purpose::Visit { head: vec![1] }, &long, PROTOCOL);
        assert_eq!(parse_hello(&bytes[HEADER_BYTES..], PROTOCOL).unwrap().1.name, "ü".repeat(128));
    }

    #[test]
    fn a_refusal_is_understood_at_the_other_end() {
        let check = |refusal: Refusal, expect: Refusal| {
            let bytes = refused(&No::Refused(refusal));
            assert_eq!(parse_refused(bytes[2], &bytes[HEADER_BYTES..]), Ok(No::Refused(expect)));
        };
        check(Refusal::Unknown, Refusal::Unknown);
        check(Refusal::Dismissed("lost".into()), Refusal::Dismissed("lost".into()));
        let (a, b) = ("a".to_string(), "b".to_string());
        check(
            Refusal::OtherSystem { ours: a.clone(), theirs: b.clone() },
            Refusal::OtherSystem { ours: b.clone(), theirs: a.clone() },
        );
        check(Refusal::OldLife { theirs: 1, known: 2 }, Refusal::OldLife { theirs: 1, known: 2 });
        check(Refusal::Other("x\ny".into()), Refusal::Other("x y".into()));
    }
}
