//! The stopped process as bytes. Knows the form only: not wasmtime, not how a process is captured or continued.
//!
//! ```text
//!   magic  8     form  u32     rewriter  u32     poll  u8     entry  u8     program  32     checksum 32
//!   section*     kind u8   number u32   length u64   payload   checksum 32
//!                attachments (by name), state, frames, memory pieces (memory u32, offset u64, bytes), end
//! ```
//! Everything is little-endian and says nothing of the processor. Each checksum is BLAKE3 over the section's head and payload;
//! the head holds the section's number, so that sections cannot be left out, doubled or exchanged. An image can be read as a
//! stream: all that is needed before the memory comes before it. Pieces of memory that are zero, or that the writer leaves out
//! because they travel otherwise, are not in it.

use crate::error::ImageError;
use crate::rewrite::{Entry, Options, Poll, VERSION};
use std::collections::BTreeMap;
use std::io::{Read, Write};

/// The first bytes of every image.
pub const MAGIC: [u8; 8] = *b"\x89unaimg\n";

/// The version of the form.
pub const FORM: u32 = 2;

/// No piece of memory in an image is longer.
pub const PIECE_MAX: usize = 1 << 20;

const HEADER_BYTES: usize = 8 + 4 + 4 + 2 + 32;
const HEAD_BYTES: usize = 1 + 4 + 8;

/// A global's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    I32(u32),
    I64(u64),
    /// As bits.
    F32(u32),
    /// As bits.
    F64(u64),
    V128(u128),
    /// A function by its index, or null.
    Function(Option<u32>),
}

/// Which program the image is of. An image only fits a program rewritten the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// BLAKE3 of the original module.
    pub program: [u8; 32],
    pub options: Options,
}

/// Which memory content is in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// All that is not zero.
    Included,
    /// None. Who thaws the image supplies all of it, zeros too: until then the memories hold what a new instance has in them.
    LeftOut,
}

/// A stopped process but for the contents of its memories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub identity: Identity,
    /// What the host keeps with the process, by name.
    pub attachments: BTreeMap<String, Vec<u8>>,
    pub globals: Vec<(u32, Value)>,
    /// Tables that the program can change: all entries, functions by index.
    pub tables: Vec<(u32, Vec<Option<u32>>)>,
    /// Functions that frames refer to, by slot.
    pub references: Vec<Option<u32>>,
    pub dropped_data: Vec<u32>,
    pub dropped_elem: Vec<u32>,
    /// Size of each memory in bytes.
    pub memories: Vec<u64>,
    /// What the image is to hold of their contents.
    pub pages: Pages,
    /// See [`Map::frames`](crate::Map::frames) for their layout.
    pub frames: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    End = 0,
    Attachment = 1,
    State = 2,
    Frames = 3,
    Piece = 4,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        [Kind::End, Kind::Attachment, Kind::State, Kind::Frames, Kind::Piece].into_iter().find(|k| *k as u8 == byte)
    }
    fn name(self) -> &'static str {
        match self {
            Kind::End => "the end",
            Kind::Attachment => "an attachment",
            Kind::State => "the state",
            Kind::Frames => "the frames",
            Kind::Piece => "the memory",
        }
    }
}

/// Writes an image: the state at once, then the pieces of memory, then the end.
pub struct Writer<W> {
    out: W,
    number: u32,
}

impl<W: Write> Writer<W> {
    pub fn new(mut out: W, state: &State) -> std::io::Result<Writer<W>> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&FORM.to_le_bytes());
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.push(match state.identity.options.in_images().poll {
            Poll::Countdown => 1,
            _ => 0,
        });
        header.push(match state.identity.options.entry {
            Entry::Cycles => 0,
            Entry::Every => 1,
        });
        header.extend_from_slice(&state.identity.program);
        out.write_all(&header)?;
        out.write_all(blake3::hash(&header).as_bytes())?;
        let mut writer = Writer { out, number: 0 };
        for (name, content) in &state.attachments {
            let mut head = (name.len() as u32).to_le_bytes().to_vec();
            head.extend_from_slice(name.as_bytes());
            writer.section(Kind::Attachment, &[&head, content])?;
        }
        writer.section(Kind::State, &[&encode(state)])?;
        writer.section(Kind::Frames, &[&state.frames])?;
        Ok(writer)
    }

    /// Adds memory content, any length; split into pieces. The caller leaves out what is zero.
    pub fn memory(&mut self, memory: u32, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        for (index, piece) in bytes.chunks(PIECE_MAX).enumerate() {
            let offset = offset + (index * PIECE_MAX) as u64;
            self.section(Kind::Piece, &[&memory.to_le_bytes(), &offset.to_le_bytes(), piece])?;
        }
        Ok(())
    }

    /// Without this the image counts as truncated.
    pub fn finish(mut self) -> std::io::Result<W> {
        self.section(Kind::End, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn section(&mut self, kind: Kind, parts: &[&[u8]]) -> std::io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let head = section_head(kind as u8, self.number, length as u64);
        self.number += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&head);
        self.out.write_all(&head)?;
        for part in parts {
            hasher.update(part);
            self.out.write_all(part)?;
        }
        self.out.write_all(hasher.finalize().as_bytes())
    }
}

fn section_head(kind: u8, number: u32, length: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[0] = kind;
    head[1..5].copy_from_slice(&number.to_le_bytes());
    head[5..].copy_from_slice(&length.to_le_bytes());
    head
}

/// Reads an image: [`Reader::open`] gives the state, [`Reader::piece`] the memory.
pub struct Reader<R> {
    input: R,
    number: u32,
    state: State,
    ended: bool,
}

/// Part of a memory's content.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    pub memory: u32,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads up to the memory. What this returns is checked for damage, not for sense: that needs the program.
    pub fn open(mut input: R) -> Result<Reader<R>, ImageError> {
        let identity = read_header(&mut input)?;
        let mut number = 0;
        let mut attachments = BTreeMap::new();
        let mut state = loop {
            let (kind, payload) = read_section(&mut input, &mut number)?;
            match kind {
                Kind::Attachment => {
                    let mut fields = Fields(&payload);
                    let name = fields.length()?;
                    let name = String::from_utf8(fields.take(name)?.to_vec())
                        .map_err(|_| inconsistent("the name of an attachment is not text"))?;
                    if attachments.insert(name.clone(), fields.0.to_vec()).is_some() {
                        return Err(inconsistent(&format!("the attachment `{name}` is there twice")));
                    }
                }
                Kind::State => break decode(&payload, identity, attachments)?,
                kind => {
                    return Err(inconsistent(&format!("{} comes before the state", kind.name())));
                }
            }
        };
        let (kind, payload) = read_section(&mut input, &mut number)?;
        if kind != Kind::Frames {
            return Err(inconsistent(&format!("{} comes before the frames", kind.name())));
        }
        state.frames = payload;
        Ok(Reader { input, number, state, ended: false })
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// The next piece of memory; `None` at the end of the image.
    pub fn piece(&mut self) -> Result<Option<Piece>, ImageError> {
        if self.ended {
            return Ok(None);
        }
        let (kind, payload) = read_section(&mut self.input, &mut self.number)?;
        match kind {
            Kind::End if payload.is_empty() => {
                self.ended = true;
                Ok(None)
            }
            Kind::Piece => {
                let mut fields = Fields(&payload);
                let memory = fields.u32()?;
                let offset = fields.u64()?;
                let bytes = fields.0.to_vec();
                let size = self.state.memories.get(memory as usize).copied().unwrap_or(0);
                if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > size) || bytes.len() > PIECE_MAX {
                    return Err(inconsistent(&format!("memory {memory} has no bytes at {offset}")));
                }
                Ok(Some(Piece { memory, offset, bytes }))
            }
            kind => Err(inconsistent(&format!("{} comes after the frames", kind.name()))),
        }
    }
}

fn inconsistent(what: &str) -> ImageError {
    ImageError::Inconsistent { what: what.to_string() }
}

fn read_exact(input: &mut impl Read, bytes: &mut [u8], part: &'static str) -> Result<(), ImageError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => ImageError::Truncated { part },
        _ => ImageError::Read(error),
    })
}

fn read_header(input: &mut impl Read) -> Result<Identity, ImageError> {
    let mut header = [0; HEADER_BYTES];
    let part = "the header";
    let mut magic = [0; 8];
    input.read_exact(&mut magic).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => ImageError::NotAnImage,
        _ => ImageError::Read(error),
    })?;
    if magic != MAGIC {
        return Err(ImageError::NotAnImage);
    }
    header[..8].copy_from_slice(&magic);
    read_exact(input, &mut header[8..], part)?;
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let mut checksum = [0; 32];
    read_exact(input, &mut checksum, part)?;
    // Another form may checksum otherwise, so its number is looked at first.
    if word(8) != FORM {
        return Err(ImageError::Version { found: word(8), expected: FORM });
    }
    if blake3::hash(&header) != checksum {
        return Err(ImageError::Damaged { part });
    }
    if word(12) != VERSION {
        return Err(ImageError::OtherRewriter { found: word(12), expected: VERSION });
    }
    let poll = match header[16] {
        0 => Poll::Flag,
        1 => Poll::Countdown,
        _ => return Err(inconsistent("its options are unknown")),
    };
    let entry = match header[17] {
        0 => Entry::Cycles,
        1 => Entry::Every,
        _ => return Err(inconsistent("its options are unknown")),
    };
    let program = header[18..].try_into().expect("the rest of the header is the hash");
    Ok(Identity { program, options: Options { poll, entry } })
}

fn read_section(input: &mut impl Read, number: &mut u32) -> Result<(Kind, Vec<u8>), ImageError> {
    let mut head = [0; HEAD_BYTES];
    read_exact(input, &mut head, "a section's head")?;
    let kind = Kind::of(head[0]).ok_or(ImageError::Damaged { part: "a section's head" })?;
    let length = u64::from_le_bytes(head[5..].try_into().expect("eight bytes"));
    if head != section_head(head[0], *number, length) {
        return Err(ImageError::Damaged { part: kind.name() });
    }
    *number += 1;
    if kind == Kind::Piece && length > PIECE_MAX as u64 + 12 {
        return Err(ImageError::Damaged { part: kind.name() });
    }
    // A length that lies costs no more memory than the bytes that are really there.
    let mut payload = vec![];
    while (payload.len() as u64) < length {
        let from = payload.len();
        let step = (length - from as u64).min(PIECE_MAX as u64) as usize;
        payload.resize(from + step, 0);
        read_exact(input, &mut payload[from..], kind.name())?;
    }
    let mut checksum = [0; 32];
    read_exact(input, &mut checksum, kind.name())?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&head);
    hasher.update(&payload);
    if hasher.finalize() != checksum {
        return Err(ImageError::Damaged { part: kind.name() });
    }
    Ok((kind, payload))
}

// The state's own form: lists with their lengths.

const NULL: u32 = u32::MAX;

fn encode(state: &State) -> Vec<u8> {
    let mut out = vec![];
    let word = |out: &mut Vec<u8>, value: u32| out.extend_from_slice(&value.to_le_bytes());
    let functions = |out: &mut Vec<u8>, list: &[Option<u32>]| {
        word(out, list.len() as u32);
        list.iter().for_each(|function| word(out, function.unwrap_or(NULL)));
    };
    word(&mut out, state.globals.len() as u32);
    for (index, value) in &state.globals {
        word(&mut out, *index);
        let (tag, bits): (u8, u128) = match value {
            Value::I32(bits) => (0, *bits as u128),
            Value::I64(bits) => (1, *bits as u128),
            Value::F32(bits) => (2, *bits as u128),
            Value::F64(bits) => (3, *bits as u128),
            Value::V128(bits) => (4, *bits),
            Value::Function(function) => (5, function.unwrap_or(NULL) as u128),
        };
        out.push(tag);
        out.extend_from_slice(&bits.to_le_bytes());
    }
    word(&mut out, state.tables.len() as u32);
    for (index, entries) in &state.tables {
        word(&mut out, *index);
        functions(&mut out, entries);
    }
    functions(&mut out, &state.references);
    for list in [&state.dropped_data, &state.dropped_elem] {
        word(&mut out, list.len() as u32);
        list.iter().for_each(|segment| word(&mut out, *segment));
    }
    word(&mut out, state.memories.len() as u32);
    for size in &state.memories {
        out.extend_from_slice(&size.to_le_bytes());
    }
    word(&mut out, (state.pages == Pages::LeftOut) as u32);
    out
}

fn decode(payload: &[u8], identity: Identity, attachments: BTreeMap<String, Vec<u8>>) -> Result<State, ImageError> {
    let mut fields = Fields(payload);
    let mut globals = vec![];
    for _ in 0..fields.length()? {
        let index = fields.u32()?;
        let tag = fields.take(1)?[0];
        let bits = u128::from_le_bytes(fields.take(16)?.try_into().expect("sixteen bytes"));
        let value = match tag {
            0 => Value::I32(bits as u32),
            1 => Value::I64(bits as u64),
            2 => Value::F32(bits as u32),
            3 => Value::F64(bits as u64),
            4 => Value::V128(bits),
            5 => Value::Function((bits as u32 != NULL).then_some(bits as u32)),
            _ => return Err(inconsistent("a global's type is unknown")),
        };
        globals.push((index, value));
    }
    let mut tables = vec![];
    for _ in 0..fields.length()? {
        tables.push((fields.u32()?, fields.functions()?));
    }
    let references = fields.functions()?;
    let mut segments = || -> Result<Vec<u32>, ImageError> { (0..fields.length()?).map(|_| fields.u32()).collect() };
    let (dropped_data, dropped_elem) = (segments()?, segments()?);
    let mut memories = vec![];
    for _ in 0..fields.length()? {
        memories.push(fields.u64()?);
    }
    let pages = match fields.u32()? {
        0 => Pages::Included,
        1 => Pages::LeftOut,
        _ => return Err(inconsistent("it does not say whether the memory is in it")),
    };
    if !fields.0.is_empty() {
        return Err(inconsistent("the state is longer than it says"));
    }
    let frames = vec![];
    Ok(State {
        identity,
        attachments,
        globals,
        tables,
        references,
        dropped_data,
        dropped_elem,
        memories,
        pages,
        frames,
    })
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], ImageError> {
        let short = || inconsistent("a section is shorter than it says");
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or_else(short)?;
        self.0 = rest;
        Ok(taken)
    }
    fn u32(&mut self) -> Result<u32, ImageError> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }
    fn u64(&mut self) -> Result<u64, ImageError> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }
    fn length(&mut self) -> Result<usize, ImageError> {
        Ok(self.u32()? as usize)
    }
    fn functions(&mut self) -> Result<Vec<Option<u32>>, ImageError> {
        let count = self.length()?;
        let bytes = self.take(count.checked_mul(4).ok_or_else(|| inconsistent("a list is too long"))?)?;
        let function = |word: &[u8]| u32::from_le_bytes(word.try_into().expect("four bytes"));
        Ok(bytes.chunks_exact(4).map(|word| Some(function(word)).filter(|f| *f != NULL)).collect())
    }
}
