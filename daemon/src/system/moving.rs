//! A process goes from one node to another while it runs. Knows streams between nodes and the order of things; what a process is, and when it
//! is where, the nodes and their kernels know.
//!
//! ```text
//!   here                                             there
//!   head: who comes          ───────────────►        the program is found, or
//!                            ◄─── wants program ──   sent; it is loaded
//!                            ◄─── prepared ──────
//!   it stops
//!   streams, image           ───────────────►        all is made ready; its kernel expects it
//!                            ◄─── ready ─────────
//!   the kernel lets it go    ═══ session ═══════►    the kernel has it, and it runs
//!                            ◄─── runs ──────────
//! ```
//! Whatever fails before the kernel lets it go leaves the process here, running; the other side is told by the kernel (`forgo`) that it will
//! not come, since this stream may be what failed. Afterwards it is there. A process is on one node at any moment, and never on none.
//!
//! Frames: length (32 bits), content. A frame without content is the end of many.

use super::{Inner, System, service};
use crate::node::{ArriveRefused, Baggage, DepartRefused, FreezeRefused, Pid};
use crate::protocol::{MoveView, Stage};
use abi::file::Entropy;
use abi::ids::NodeId;
use drivers::HostEntropy;
use drivers::wire::Stream;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use services::events::Kind;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the other node may take to answer at all.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take to have the program ready: it may have to compile it.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(180);
/// How long one piece may take on its way. The process stands still meanwhile.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a reader of the process's output has to come after it.
const READER_TIMEOUT: Duration = Duration::from_secs(30);

const FRAME_BYTES_MAX: usize = 1 << 20;
/// What is collected before it is sent.
const PIECE_BYTES: usize = 256 << 10;
const STREAMS_BYTES_MAX: usize = 1 << 20;

/// The first word, as the head of the stream.
#[derive(Serialize, Deserialize)]
struct Head {
    ticket: u64,
    baggage: Baggage,
}

/// What the other side answers.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Word {
    /// It has not got the program.
    WantsProgram,
    Prepared,
    Ready,
    Runs,
    Refused {
        why: String,
    },
}

/// Before the image.
#[derive(Serialize, Deserialize)]
struct State {
    cpu_ns: u64,
}

/// Why a process was not moved: it runs on where it was, unless the last one is said.
#[derive(Debug, thiserror::Error)]
pub enum MoveRefused {
    #[error("there is no node `{0}`")]
    NoNode(String),
    #[error("process {pid} is on {node} already")]
    Already { pid: Pid, node: String },
    #[error("{node} is being emptied: una drain --undo {node}")]
    Draining { node: String },
    #[error("{node} is not heard: {why}")]
    NotHeard { node: String, why: String },
    #[error(transparent)]
    Depart(#[from] DepartRefused),
    #[error("{node} does not take it: {why}")]
    Refused { node: String, why: String },
    #[error("the way to {node} was lost, and the process runs on where it was: {error}")]
    Lost { node: String, error: io::Error },
    #[error("no random numbers: {0}")]
    Entropy(abi::errno::Errno),
    #[error("whoever asked for it has gone; the process runs on where it was")]
    Abandoned,
}

impl From<FreezeRefused> for MoveRefused {
    fn from(refused: FreezeRefused) -> MoveRefused {
        MoveRefused::Depart(refused.into())
    }
}

/// Why one step of the talk failed.
enum Broken {
    Lost(io::Error),
    Refused(String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        Broken::Lost(error)
    }
}

impl System {
    /// Moves a process that is here to another node. `told` hears how far it is, and says whether anybody still wants it.
    pub fn move_process(
        &self, pid: Pid, to: &str, told: &mut dyn FnMut(Stage) -> bool,
    ) -> Result<MoveView, MoveRefused> {
        let inner = &self.0;
        let to_node = inner.find(to).map_err(|_| MoveRefused::NoNode(to.into()))?;
        let name = inner.name_of(to_node);
        if to_node == inner.me {
            return Err(MoveRefused::Already { pid, node: name });
        }
        if inner.directory.members().get(&to_node).is_some_and(|member| member.draining) {
            return Err(MoveRefused::Draining { node: name });
        }
        let began = Instant::now();
        let node = inner.node.get().expect("who asks is served by the node");
        let baggage = node.baggage(pid)?;
        if inner.supervise.has(pid) {
            return Err(DepartRefused::LookedAfter(pid).into());
        }
        let mut ticket = [0; 8];
        HostEntropy.fill(&mut ticket).map_err(MoveRefused::Entropy)?;
        let ticket = u64::from_le_bytes(ticket);
        let broken = |broken: Broken| match broken {
            Broken::Lost(error) => MoveRefused::Lost { node: name.clone(), error },
            Broken::Refused(why) => MoveRefused::Refused { node: name.clone(), why },
        };

        if !told(Stage::Preparing) {
            return Err(MoveRefused::Abandoned);
        }
        let key = inner.directory.key_of(to_node).ok_or_else(|| MoveRefused::NoNode(to.into()))?;
        let head = serde_json::to_vec(&Head { ticket, baggage: baggage.clone() }).expect("plain data");
        let opened = inner.wire.open(key, service::MOVES, &head, began + OPEN_TIMEOUT);
        let stream = opened.map_err(|error| MoveRefused::NotHeard { node: name.clone(), why: error.to_string() })?;
        let mut talk = Talk::new(stream);
        talk.prepare(inner, &baggage).map_err(broken)?;

        let stop_began = Instant::now();
        let mut stopped = node.stop_still(pid)?;
        let carried = (|| {
            let (streams, cpu_ns) = stopped.streams();
            talk.say(&State { cpu_ns })?;
            talk.send(&streams)?;
            stopped.save(&mut talk, false).map_err(|error| Broken::Lost(io::Error::other(error.to_string())))?;
            talk.end_pieces()?;
            talk.expect(Word::Ready)
        })();
        if let Err(error) = carried {
            // It may have come to expect the process before this went wrong.
            node.forgo(to_node, ticket);
            return Err(broken(error));
        }
        let told_so = told(Stage::Stopped { bytes: talk.sent });
        if !told_so {
            node.forgo(to_node, ticket);
            return Err(MoveRefused::Abandoned);
        }
        let memory = stopped.depart(to_node, ticket).inspect_err(|_| node.forgo(to_node, ticket))?;
        drop(memory);
        // The word that it runs is for people alone: it is there, whether or not it comes.
        let _ = talk.expect(Word::Runs);
        let pause_us = stop_began.elapsed().as_micros() as u64;
        self.moved_away(pid, to_node, baggage.moves);
        inner.chronicle.record(Kind::ProcessMoved { process: pid.id(), from: inner.me, to: to_node });
        let total_us = began.elapsed().as_micros() as u64;
        Ok(MoveView { pid, from: inner.me.0, to: to_node.0, rounds: 0, bytes: talk.sent, pause_us, total_us })
    }
}

/// Takes in a process of another node, on a thread of its own.
pub(super) fn arrived(inner: &Arc<Inner>, from: NodeId, head: &[u8], stream: Stream) {
    let Ok(head) = serde_json::from_slice::<Head>(head) else { return };
    let inner = inner.clone();
    let take = move || {
        let mut talk = Talk::new(stream);
        // What went wrong here is told there; what went wrong on the way is known there.
        if let Err(Broken::Refused(why)) = inner.take_in(from, head, &mut talk) {
            let _ = talk.say(&Word::Refused { why });
        }
    };
    // Without a thread the stream is dropped, which the other side notices.
    let _ = std::thread::Builder::new().name("una-move".into()).spawn(take);
}

impl Inner {
    fn take_in(self: &Arc<Inner>, from: NodeId, head: Head, talk: &mut Talk) -> Result<(), Broken> {
        let refused = |why: &dyn std::fmt::Display| Broken::Refused(why.to_string());
        let Head { ticket, baggage } = head;
        let moves = baggage.moves;
        let node = self.node.get().ok_or_else(|| refused(&"it is starting"))?;
        if self.is_stopping() {
            return Err(refused(&"it is stopping"));
        }
        let hash = blake3::Hash::from_hex(&baggage.program).map_err(|error| refused(&error))?;
        let program = match node.known_program(&baggage.program) {
            Some(program) => program,
            None => {
                let wasm = match self.library.find(&hash).ok().flatten() {
                    Some(wasm) => wasm,
                    None => talk.fetch_program(&hash)?,
                };
                // Not to keep it costs the same way again the next time.
                let _ = self.library.keep(&wasm);
                node.load(wasm, &mut |_| {}).map_err(|error| refused(&error))?
            }
        };
        talk.say(&Word::Prepared)?;
        // The process may run on for long until it is stopped.
        talk.stream.set_deadline(Some(Instant::now() + PREPARE_TIMEOUT));
        let State { cpu_ns } = talk.hear()?;
        let streams = talk.receive(STREAMS_BYTES_MAX)?;
        let image = engine::Image::open(Pieces::of(talk)).map_err(|error| refused(&error))?;
        let arrival =
            node.arrive(from, ticket, &program, baggage, &streams, cpu_ns, image).map_err(|error| match error {
                ArriveRefused::Malformed => refused(&"its streams are malformed"),
                error => refused(&error),
            })?;
        talk.say(&Word::Ready)?;
        let settled = arrival.wait(PIECE_TIMEOUT);
        if let Some(pid) = settled {
            let _ = talk.say(&Word::Runs);
            System(self.clone()).moved_here(pid, moves);
            self.tell_moved(pid);
            arrival.wait_reader(READER_TIMEOUT);
        }
        Ok(())
    }
}

/// One side of the talk about one process.
struct Talk {
    stream: Stream,
    piece: Vec<u8>,
    sent: u64,
}

impl Talk {
    fn new(stream: Stream) -> Talk {
        stream.set_deadline(Some(Instant::now() + PIECE_TIMEOUT));
        Talk { stream, piece: vec![], sent: 0 }
    }

    /// Here: until the other side has the program.
    fn prepare(&mut self, inner: &Inner, baggage: &Baggage) -> Result<(), Broken> {
        self.stream.set_deadline(Some(Instant::now() + PREPARE_TIMEOUT));
        let mut word: Word = self.hear()?;
        if word == Word::WantsProgram {
            let hash = blake3::Hash::from_hex(&baggage.program).map_err(io::Error::other)?;
            let kept = inner.library.find(&hash).ok().flatten();
            let loaded = || inner.node.get()?.known_program(&baggage.program).map(|program| program.wasm().to_vec());
            let Some(wasm) = kept.or_else(loaded) else {
                return Err(Broken::Refused("its program is not there, nor here any more".into()));
            };
            self.write_all(&wasm)?;
            self.end_pieces()?;
            word = self.hear()?;
        }
        self.stream.set_deadline(Some(Instant::now() + PIECE_TIMEOUT));
        check(word, Word::Prepared)
    }

    /// There: asks for the program.
    fn fetch_program(&mut self, hash: &blake3::Hash) -> Result<Vec<u8>, Broken> {
        self.say(&Word::WantsProgram)?;
        self.stream.set_deadline(Some(Instant::now() + PREPARE_TIMEOUT));
        let mut wasm = vec![];
        Pieces::of(self).take(crate::protocol::PROGRAM_BYTES_MAX).read_to_end(&mut wasm)?;
        match blake3::hash(&wasm) == *hash {
            true => Ok(wasm),
            false => Err(Broken::Refused("its program was damaged on the way".into())),
        }
    }

    fn expect(&mut self, expected: Word) -> Result<(), Broken> {
        let word = self.hear()?;
        check(word, expected)
    }

    fn say(&mut self, word: &impl Serialize) -> io::Result<()> {
        self.send(&serde_json::to_vec(word).expect("plain data"))
    }

    fn hear<T: DeserializeOwned>(&mut self) -> Result<T, Broken> {
        let frame = self.receive(FRAME_BYTES_MAX)?;
        serde_json::from_slice(&frame).map_err(|error| Broken::Lost(io::Error::other(error)))
    }

    fn send(&mut self, content: &[u8]) -> io::Result<()> {
        let length = u32::try_from(content.len()).map_err(io::Error::other)?;
        self.sent += 4 + u64::from(length);
        self.stream.write_all(&length.to_le_bytes())?;
        self.stream.write_all(content)?;
        self.stream.flush()
    }

    fn receive(&mut self, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > bytes_max {
            return Err(io::Error::other(format!("a frame of {length} bytes; {bytes_max} are allowed")));
        }
        // Grows as bytes arrive: who only says that much is coming gets no memory for it.
        let mut content = Vec::with_capacity(length.min(64 << 10));
        (&mut self.stream).take(length as u64).read_to_end(&mut content)?;
        match content.len() == length {
            true => Ok(content),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn end_pieces(&mut self) -> io::Result<()> {
        self.flush()?;
        self.send(&[])
    }
}

fn check(word: Word, expected: Word) -> Result<(), Broken> {
    match word {
        Word::Refused { why } => Err(Broken::Refused(why)),
        word if word == expected => Ok(()),
        word => Err(Broken::Lost(io::Error::other(format!("it said {word:?} where {expected:?} was due")))),
    }
}

/// Many pieces, up to [`Talk::end_pieces`].
impl Write for Talk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut piece = std::mem::take(&mut self.piece);
        for part in piece.chunks(FRAME_BYTES_MAX) {
            // Each piece has its time: together they take as long as there is memory.
            self.stream.set_deadline(Some(Instant::now() + PIECE_TIMEOUT));
            self.send(part)?;
        }
        piece.clear();
        self.piece = piece;
        Ok(())
    }
}

/// The other side of them.
struct Pieces<'a> {
    talk: &'a mut Talk,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Pieces<'_> {
    fn of(talk: &mut Talk) -> Pieces<'_> {
        Pieces { talk, piece: vec![], at: 0, ended: false }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.ended {
                return Ok(0);
            }
            self.talk.stream.set_deadline(Some(Instant::now() + PIECE_TIMEOUT));
            self.piece = self.talk.receive(FRAME_BYTES_MAX)?;
            (self.at, self.ended) = (0, self.piece.is_empty());
        }
        let length = buffer.len().min(self.piece.len() - self.at);
        buffer[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
