//! How others speak to a node: frames over a Unix socket. Knows the wire and what can be asked; not how anything is done.
//!
//! ```text
//!   hello     "una\0"  protocol u32  length u8  version of una       each side's first bytes, in every version to come
//!   frame     kind u8  length u32  payload                           numbers are little-endian
//!               1 control    JSON: a Request or More from the client, a Reply from the node
//!               2 bytes      a program, an image, a file, a message; standard input or output of a process
//!               3 errors     standard error of a process
//!               4 end        of such bytes; no payload
//!
//!   client                                   node
//!   hello, run        ->                  <- hello
//!                                         <- program-wanted           only if it does not have the program
//!   bytes ..., end    ->                  <- loading ...              while it compiles
//!                                         <- started
//!   bytes ..., end    ->                  <- bytes, errors ...        standard input, output and error
//!                                         <- ended
//!   next request      ->                  <- done
//! ```
//! A connection carries one request after another. The client may close it at any time; that is how it detaches from a process.
//! Whatever arrives is checked: a frame that is too long, of an unknown kind, cut short, not JSON, or not its turn is a
//! [`ProtocolError`], is told to the other side, and ends the connection and nothing else.

pub mod client;
pub mod place;

pub use crate::keep::record::Restart;
use crate::node::{End, MountOrder, NodeView, Output, Pid, ProcessLimits, ProcessView, Stdio};
use crate::system::lend::Lend;
use crate::system::view::{CheckpointView, EventView, LendingView, SystemView, WhyView, Wish};
use abi::ids::NodeId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Read, Write};

/// Of this protocol. Another number is refused by both sides.
pub const PROTOCOL: u32 = 1;

const MAGIC: [u8; 4] = *b"una\0";
const VERSION_BYTES_MAX: usize = 64;

/// A request or reply: arguments and environment of a process are the longest that is in one.
pub const CONTROL_BYTES_MAX: usize = 1 << 20;
/// One piece of bytes. Larger contents come in pieces.
pub const PIECE_BYTES_MAX: usize = 256 << 10;
/// A program that is uploaded.
pub const PROGRAM_BYTES_MAX: u64 = 1 << 30;
/// A message that is sent to a port. The kernel's own bound is smaller and answers for itself.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Why what arrived could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("it does not speak una's protocol: it began with {0:02x?}")]
    NotUna([u8; 4]),
    #[error("it is una {version} with protocol {protocol}; this is una {} with protocol {PROTOCOL}", self::version())]
    OtherVersion { protocol: u32, version: String },
    #[error("the connection ended in the middle of a message")]
    Truncated,
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame of {bytes} bytes; {max} are allowed")]
    TooLong { bytes: usize, max: usize },
    #[error("a message that cannot be read: {0}")]
    Unreadable(String),
    #[error("{found} came where {expected} was due")]
    OutOfOrder { expected: &'static str, found: &'static str },
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for ProtocolError {
    fn from(error: io::Error) -> ProtocolError {
        match error.kind() {
            ErrorKind::UnexpectedEof => ProtocolError::Truncated,
            _ => ProtocolError::Io(error),
        }
    }
}

impl ProtocolError {
    /// Is it nothing but the other side's end?
    pub fn is_gone(&self) -> bool {
        match self {
            ProtocolError::Truncated => true,
            ProtocolError::Io(error) => {
                matches!(
                    error.kind(),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
                )
            }
            _ => false,
        }
    }
}

/// The version of una that this is.
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

// The hello.

pub fn write_hello(to: &mut impl Write) -> io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&PROTOCOL.to_le_bytes());
    bytes.push(version().len() as u8);
    bytes.extend_from_slice(version().as_bytes());
    to.write_all(&bytes)
}

/// Reads the other side's hello; gives its version of una.
pub fn read_hello(from: &mut impl Read) -> Result<String, ProtocolError> {
    let mut start = [0; 9];
    from.read_exact(&mut start)?;
    let magic = [start[0], start[1], start[2], start[3]];
    if magic != MAGIC {
        return Err(ProtocolError::NotUna(magic));
    }
    let protocol = u32::from_le_bytes([start[4], start[5], start[6], start[7]]);
    let length = usize::from(start[8]);
    if length > VERSION_BYTES_MAX {
        return Err(ProtocolError::TooLong { bytes: length, max: VERSION_BYTES_MAX });
    }
    let mut version = vec![0; length];
    from.read_exact(&mut version)?;
    // It is shown to people, who should see no more than a version in it.
    let version: String =
        String::from_utf8_lossy(&version).chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect();
    if protocol != PROTOCOL {
        return Err(ProtocolError::OtherVersion { protocol, version });
    }
    Ok(version)
}

// Frames.

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Control(Vec<u8>),
    Bytes(Vec<u8>),
    Errors(Vec<u8>),
    End,
}

const CONTROL: u8 = 1;
const BYTES: u8 = 2;
const ERRORS: u8 = 3;
const END: u8 = 4;

impl Frame {
    fn name(&self) -> &'static str {
        match self {
            Frame::Control(_) => "a control message",
            Frame::Bytes(_) => "bytes",
            Frame::Errors(_) => "bytes of standard error",
            Frame::End => "an end of bytes",
        }
    }

    /// What a control frame says.
    pub fn message<T: DeserializeOwned>(self) -> Result<T, ProtocolError> {
        match self {
            Frame::Control(json) => read_message(&json),
            other => Err(ProtocolError::OutOfOrder { expected: "a control message", found: other.name() }),
        }
    }
}

/// `None`: the other side closed the connection between two frames.
pub fn read_frame(from: &mut impl Read) -> Result<Option<Frame>, ProtocolError> {
    let mut kind = [0; 1];
    loop {
        match from.read(&mut kind) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let kind = kind[0];
    let max = match kind {
        CONTROL => CONTROL_BYTES_MAX,
        BYTES | ERRORS => PIECE_BYTES_MAX,
        END => 0,
        unknown => return Err(ProtocolError::UnknownKind(unknown)),
    };
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let bytes = u32::from_le_bytes(length) as usize;
    if bytes > max {
        return Err(ProtocolError::TooLong { bytes, max });
    }
    // Grows as bytes arrive: who only says that much is coming gets no memory for it.
    let mut payload = Vec::with_capacity(bytes.min(16 << 10));
    from.take(bytes as u64).read_to_end(&mut payload)?;
    if payload.len() < bytes {
        return Err(ProtocolError::Truncated);
    }
    Ok(Some(match kind {
        CONTROL => Frame::Control(payload),
        BYTES => Frame::Bytes(payload),
        ERRORS => Frame::Errors(payload),
        _ => Frame::End,
    }))
}

/// Writes a message in one piece.
pub fn write_message<T: Serialize>(to: &mut impl Write, message: &T) -> Result<(), ProtocolError> {
    let json = serde_json::to_vec(message).map_err(|error| ProtocolError::Unreadable(error.to_string()))?;
    if json.len() > CONTROL_BYTES_MAX {
        return Err(ProtocolError::TooLong { bytes: json.len(), max: CONTROL_BYTES_MAX });
    }
    write_frame(to, CONTROL, &json)
}

/// Any number of bytes, in as many frames as they take; no bytes are no frame.
pub fn write_bytes(to: &mut impl Write, output: Output, bytes: &[u8]) -> Result<(), ProtocolError> {
    let kind = match output {
        Output::Out => BYTES,
        Output::Err => ERRORS,
    };
    bytes.chunks(PIECE_BYTES_MAX).try_for_each(|piece| write_frame(to, kind, piece))
}

pub fn write_end(to: &mut impl Write) -> Result<(), ProtocolError> {
    write_frame(to, END, &[])
}

/// Writes a frame that came from elsewhere.
pub fn pass_on(to: &mut impl Write, frame: &Frame) -> Result<(), ProtocolError> {
    match frame {
        Frame::Control(payload) => write_frame(to, CONTROL, payload),
        Frame::Bytes(payload) => write_frame(to, BYTES, payload),
        Frame::Errors(payload) => write_frame(to, ERRORS, payload),
        Frame::End => write_end(to),
    }
}

fn write_frame(to: &mut impl Write, kind: u8, payload: &[u8]) -> Result<(), ProtocolError> {
    let mut frame = Vec::with_capacity(5 + payload.len());
    frame.push(kind);
    frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(payload);
    Ok(to.write_all(&frame)?)
}

fn read_message<T: DeserializeOwned>(json: &[u8]) -> Result<T, ProtocolError> {
    serde_json::from_slice(json).map_err(|error| ProtocolError::Unreadable(error.to_string()))
}

/// The bytes of frames up to their end, as something to read from. After an error of the other side it gives that error.
pub struct Content<'a, R> {
    from: &'a mut R,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<'a, R: Read> Content<'a, R> {
    pub fn new(from: &'a mut R) -> Content<'a, R> {
        Content { from, piece: vec![], at: 0, ended: false }
    }

    /// Reads what is left, so that the next frame is the other side's next message.
    pub fn skip(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink()).map(|_| ())
    }
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.ended {
                return Ok(0);
            }
            match read_frame(self.from).map_err(io::Error::other)? {
                Some(Frame::Bytes(piece)) => (self.piece, self.at) = (piece, 0),
                Some(Frame::End) => self.ended = true,
                // What went wrong in the middle is said in the place of the end.
                Some(Frame::Control(json)) if let Ok(Reply::Refused(refusal)) = read_message(&json) => {
                    return Err(io::Error::other(refusal.why));
                }
                Some(other) => {
                    let (expected, found) = ("bytes or their end", other.name());
                    return Err(io::Error::other(ProtocolError::OutOfOrder { expected, found }));
                }
                None => return Err(io::Error::other(ProtocolError::Truncated)),
            }
        }
        let length = buffer.len().min(self.piece.len() - self.at);
        buffer[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// What a client's bytes say, up to their end or first mistake: how many requests there are. For fuzzing.
pub fn examine(mut bytes: &[u8]) -> Result<usize, ProtocolError> {
    read_hello(&mut bytes)?;
    let mut requests = 0;
    while let Some(frame) = read_frame(&mut bytes)? {
        if matches!(frame, Frame::Control(_)) {
            frame.message::<Request>()?;
            requests += 1;
        }
    }
    Ok(requests)
}

// What can be asked, and what is answered.

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How the node is. Answer: status.
    Status,
    /// Answer: a process each, and missing for each node that did not say; then done.
    Processes {
        /// Those that ended lately too.
        ended: bool,
    },
    /// Answer: process.
    Process {
        pid: Pid,
    },
    /// Answer: perhaps program-wanted (and the client sends its bytes), loading, then started; then the streams, if `follow` says so.
    Run(Run),
    /// Like run; before it starts, the answer is image-wanted, and the client sends the image's bytes.
    Thaw(Thaw),
    /// Answer: started, then the streams.
    Attach {
        pid: Pid,
        follow: Follow,
    },
    /// Answer: done.
    Kill {
        pid: Pid,
    },
    Stop {
        pid: Pid,
    },
    Cont {
        pid: Pid,
    },
    /// Answer: working now and then, then ended.
    Wait {
        pid: Pid,
    },
    /// Answer: process, the image's bytes, end. The client says `safe` when it has them, and the answer is done.
    Freeze {
        pid: Pid,
        with_program: bool,
        afterwards: Afterwards,
    },
    /// Keeps the process as it is now. Answer: working now and then, then checkpoint.
    Checkpoint {
        pid: Pid,
        #[serde(default)]
        name: Option<String>,
    },
    /// Of one process, or of all. Answer: working now and then, then a checkpoint each, then done.
    Checkpoints {
        pid: Option<Pid>,
        /// Read all that they consist of.
        verify: bool,
    },
    /// A process that has ended goes on. Answer: working now and then, then restored.
    Restore(Restore),
    /// A living process goes on from an earlier state. Answer: working now and then, then restored.
    Undo {
        pid: Pid,
        #[serde(default)]
        which: Option<String>,
    },
    /// One, or all of a process. Answer: done.
    RemoveCheckpoints {
        pid: Pid,
        which: Option<String>,
    },
    /// A running process goes on on that node. Answer: moving now and then, then moved.
    Move {
        pid: Pid,
        node: String,
    },
    /// Clones of a running process. Answer: working now and then, then forked.
    Fork {
        pid: Pid,
        count: u32,
        #[serde(default)]
        on: Option<String>,
    },
    /// The message's bytes follow. Answer: done.
    Send {
        port: String,
        timeout_ms: u64,
    },
    /// Answer: working now and then, then the message's bytes, end.
    Receive {
        port: String,
        timeout_ms: u64,
    },
    /// Answer: an entry each, then done.
    List {
        path: String,
    },
    /// Answer: entry.
    Look {
        path: String,
    },
    /// Answer: entry, the file's bytes, end.
    Read {
        path: String,
    },
    /// The file's bytes follow. Answer: done, when they are on the disk.
    Write {
        path: String,
    },
    /// Answer: done.
    MakeDirectory {
        path: String,
        parents: bool,
    },
    Remove {
        path: String,
        recursive: bool,
    },
    Rename {
        from: String,
        to: String,
    },
    /// Ends all processes and the node. Answer: done, when all is safe.
    Down,
    /// The whole computer. Answer: system.
    System,
    /// A ticket for one more node. Answer: ticket.
    Ticket {
        lasts_s: u64,
    },
    /// Put nothing new on a node; or put on it again. Answer: done.
    Drain {
        node: String,
        drain: bool,
    },
    /// For whom this node's machine is there. Answer: lending.
    Lending,
    /// From now on it is so. Answer: lending.
    Lend {
        lend: Lend,
    },
    /// Waits until no process is left on a node that is drained which could go. Answer: emptying now and then, then emptied.
    Emptied {
        node: String,
    },
    /// A node that will not come back is no member any more. Answer: done.
    RemoveNode {
        node: String,
    },
    /// This node is no member any more, and ends. Answer: done.
    Leave,
    /// What happened in the whole computer. Answer: an event each, then done.
    Events {
        /// Those after this one; all that are kept if not given.
        after: Option<String>,
        /// Go on with what happens from now on.
        follow: bool,
    },
    /// Why a process is where it is, or on no node. Answer: why.
    Why {
        pid: Pid,
    },
    /// Why the last process that was to be called so, or to run this program, could be placed nowhere. Answer: why.
    WhyNotPlaced {
        name: String,
    },
    /// Have the program that is called so on another node on this one, under that name. Answer: done.
    Bring {
        name: String,
    },
    /// Copies all facts to another coordinator and goes on with that one. Answer: working now and then, then facts kept.
    MoveCoordinator {
        to: String,
    },
}

impl Request {
    /// The process that it is about.
    pub fn pid(&self) -> Option<Pid> {
        match self {
            Request::Process { pid }
            | Request::Attach { pid, .. }
            | Request::Kill { pid }
            | Request::Stop { pid }
            | Request::Cont { pid }
            | Request::Wait { pid }
            | Request::Freeze { pid, .. }
            | Request::Checkpoint { pid, .. }
            | Request::Undo { pid, .. }
            | Request::Move { pid, .. }
            | Request::Fork { pid, .. }
            | Request::Why { pid } => Some(*pid),
            _ => None,
        }
    }

    /// How a process's streams are followed, by whoever asks for that.
    pub fn follow(&self) -> Option<Follow> {
        match self {
            Request::Attach { follow, .. } => Some(*follow),
            Request::Run(Run { place, .. }) | Request::Thaw(Thaw { place, .. }) => place.follow,
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    pub program: ProgramId,
    pub name: String,
    /// The program's name first.
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub place: Placement,
    /// What is to become of it when it ends or its node is lost.
    #[serde(default)]
    pub lasting: Lasting,
}

/// What is to become of a process when it ends or its node is lost. Nothing, if not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lasting {
    #[serde(default)]
    pub restart: Restart,
    /// It goes on from its last checkpoint, of which one is made so often.
    #[serde(default)]
    pub durable_every_ms: Option<u64>,
}

impl Lasting {
    /// Does anybody look after it?
    pub fn is_wanted(&self) -> bool {
        self.restart != Restart::No || self.durable_every_ms.is_some()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thaw {
    pub program: ProgramId,
    pub name: String,
    pub place: Placement,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// Whose checkpoint.
    pub pid: Pid,
    /// Its number or name; the latest if not said.
    #[serde(default)]
    pub which: Option<String>,
    /// As a process of its own, whatever became of that one.
    pub new: bool,
    #[serde(default)]
    pub wish: Wish,
    /// See [`Placement::decided`].
    #[serde(default)]
    pub decided: Option<WhyView>,
}

/// What run and thaw have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    pub mounts: Vec<MountOrder>,
    pub limits: ProcessLimits,
    pub stdio: Stdio,
    /// Without it the client only learns the process's number.
    pub follow: Option<Follow>,
    /// Where it shall be.
    #[serde(default)]
    pub wish: Wish,
    /// Where it was decided that it shall be, and why: the node that is asked does not decide again.
    #[serde(default)]
    pub decided: Option<WhyView>,
}

/// A program by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramId {
    /// BLAKE3 in hexadecimal.
    pub hash: String,
    pub bytes: u64,
}

/// How a client looks at a process's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follow {
    pub from: Origin,
    pub until: Until,
    /// Bytes of this connection are its standard input, and their end is its end.
    pub input: bool,
    /// Nothing is lost: the process waits for this client if it must.
    pub lossless: bool,
    /// What becomes of the process if this client goes away.
    pub when_gone: WhenGone,
}

/// Where in what a process has printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The oldest that is kept.
    Start,
    /// So many lines before the end.
    Lines(u64),
    /// This position: where somebody who looked before had come to.
    At(u64),
    Now,
}

impl Origin {
    pub fn position(self) -> Option<u64> {
        match self {
            Origin::At(at) => Some(at),
            Origin::Start | Origin::Lines(_) | Origin::Now => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// All that has been printed so far; the answer ends with done.
    Now,
    /// The process's end; the answer ends with ended.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenGone {
    RunOn,
    Kill,
}

/// What becomes of a process when its image is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Afterwards {
    End,
    RunOn,
}

/// What a client says within a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "more", rename_all = "kebab-case", deny_unknown_fields)]
pub enum More {
    /// The image is on its disk, under its name.
    Safe,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    Done,
    Refused(Refusal),
    Status(Status),
    Process(ProcessView),
    ProgramWanted,
    /// The program is ready; now the image.
    ImageWanted,
    Loading {
        phase: Phase,
        done: u64,
        total: u64,
    },
    Started {
        pid: Pid,
        /// Where in what it prints the first byte is that follows. Who passes this on counts from here, and goes on where it is if the way
        /// to the process breaks.
        #[serde(default)]
        at: Option<u64>,
    },
    Ended {
        end: End,
    },
    /// The process reads its standard input: the client may send it. Before that, nobody's input is taken for nothing.
    InputWanted,
    /// Of the output, this much was forgotten before it could be sent.
    Lost {
        bytes: u64,
    },
    Entry(Entry),
    /// This node's part of the answer is not here.
    Missing {
        node: u16,
        name: String,
        why: String,
    },
    System(SystemView),
    Ticket {
        ticket: String,
        expires_ms: u64,
    },
    Event(EventView),
    Checkpoint(CheckpointView),
    /// It goes on, from this checkpoint.
    Restored {
        pid: Pid,
        from: CheckpointView,
        /// Newer ones that could not be used, and why.
        passed_over: Vec<String>,
    },
    Why(WhyView),
    Lending(LendingView),
    /// How far a move is.
    Moving(Stage),
    Moved(MoveView),
    Forked(ForkView),
    /// From one node to another: the process is there now. The client's connection goes on there: the streams from where they were followed
    /// to, of whose input the process has got so many bytes; or, without, the same request.
    MovedOn {
        node: u16,
        follow: Option<(Pid, Follow)>,
        taken: u64,
    },
    /// So many processes have left a node, and so many are still there.
    Emptying {
        moved: u64,
        left: u64,
    },
    /// Those that are stuck stay, and why; so much of what others have to do with one another still goes through the node.
    Emptied {
        moved: u64,
        stuck: Vec<(Pid, String)>,
        through: u64,
    },
    /// It still goes on.
    Working,
    /// All facts are at the coordinator now. So many were copied; none if they were there already.
    FactsKept {
        copied: Option<u64>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// Of the daemon.
    pub host_pid: u32,
    pub node: NodeView,
}

/// What a load is doing, as `engine` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Waiting,
    Rewriting,
    Compiling,
}

/// What is done to move a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case")]
pub enum Stage {
    /// The other node gets the program ready.
    Preparing,
    /// The process runs on while its memory is copied: in which round, and how much of it is sent.
    Copying { round: u32, bytes: u64, total: u64 },
    /// The process is asked to stand still.
    Stopped { bytes: u64 },
    /// The way was lost so many times, and the process runs on where it was; it is tried once more.
    Again { tries: u32 },
    /// It runs there already, and what it wrote last comes after it.
    Following { bytes: u64, total: u64 },
}

/// A move that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveView {
    pub pid: Pid,
    /// None: as for the pause.
    pub from: Option<u16>,
    pub to: u16,
    /// Rounds in which memory was copied while the process ran.
    pub rounds: u32,
    /// Sent in all.
    pub bytes: u64,
    /// Of these, sent when the process ran there already.
    pub late_bytes: u64,
    /// From the moment at which it was asked to stop to that at which the other node said that it may run, in microseconds. None: who knew
    /// it could not say so any more, nor what was sent.
    pub pause_us: Option<u64>,
    /// From the beginning to the end, in microseconds.
    pub total_us: u64,
    /// Why tries before this one came to nothing.
    #[serde(default)]
    pub lost: Vec<String>,
}

impl MoveView {
    /// It has come there, and that is all that is known of it.
    pub fn unseen(pid: Pid, to: NodeId, why: String) -> MoveView {
        let (rounds, bytes, late_bytes, pause_us, total_us) = (0, 0, 0, None, 0);
        MoveView { pid, from: None, to: to.0, rounds, bytes, late_bytes, pause_us, total_us, lost: vec![why] }
    }
}

/// A fork that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkView {
    pub pid: Pid,
    pub clones: Vec<CloneView>,
    /// Those that did not begin, by their numbers, and why.
    pub failed: Vec<(u32, String)>,
    pub memory_bytes: u64,
    /// How long the process stood still, in microseconds.
    pub pause_us: u64,
    /// From the beginning until all clones ran, in microseconds.
    pub total_us: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneView {
    /// As it reads it in `/proc/self/fork`.
    pub number: u32,
    pub pid: Pid,
    pub node: u16,
    /// From the beginning until its node said that it runs, in microseconds.
    pub after_us: u64,
}

/// Something in the node's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    pub kind: FileKind,
    pub size_bytes: u64,
    /// Nanoseconds since 1970.
    pub modified_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    File,
    Directory,
    Link,
    Other,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub reason: Reason,
    pub why: String,
}

/// What a client may act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The request made no sense.
    Protocol,
    /// The program cannot run here.
    BadProgram,
    /// It was not run for another reason.
    NotRun,
    NoProcess,
    Ended,
    NotFrozen,
    /// A checkpoint could not be brought to the disks where it should be.
    NotKept,
    NoCheckpoint,
    /// The process lives, so that it cannot go on from an earlier state as well.
    Living,
    /// Nobody knows whether it lives: its node is not heard.
    NotCertain,
    /// It runs on where it was.
    NotMoved,
    /// It runs on, and there are no clones of it.
    NotForked,
    /// A file, directory or port.
    NotFound,
    /// The time is up.
    Expired,
    Port,
    File,
    DiskFull,
    /// Too much at once.
    Busy,
    Stopping,
    NoNode,
    /// The node that could answer is not heard.
    Unreachable,
    /// No node may or can take the process; why has a line for each.
    NoPlace,
    /// Not enough nodes are heard to change anything.
    NoQuorum,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation() -> Vec<u8> {
        let mut bytes = vec![];
        write_hello(&mut bytes).unwrap();
        let run = Run {
            program: ProgramId { hash: "00".into(), bytes: 3 },
            name: "n".into(),
            arguments: vec!["a".into()],
            environment: vec![("k".into(), "v".into())],
            place: Placement {
                mounts: vec![],
                limits: ProcessLimits::default(),
                stdio: Stdio::default(),
                follow: Some(Follow {
                    from: Origin::Lines(3),
                    until: Until::End,
                    input: true,
                    lossless: true,
                    when_gone: WhenGone::Kill,
                }),
                wish: Wish::default(),
                decided: None,
            },
            lasting: Lasting::default(),
        };
        write_message(&mut bytes, &Request::Run(run)).unwrap();
        write_bytes(&mut bytes, Output::Out, b"abc").unwrap();
        write_end(&mut bytes).unwrap();
        write_message(&mut bytes, &Request::Kill { pid: Pid::new(7) }).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(examine(&conversation()).unwrap(), 2);
        let long = vec![7u8; 2 * PIECE_BYTES_MAX + 1];
        let mut bytes = vec![];
        write_bytes(&mut bytes, Output::Out, &long).unwrap();
        write_end(&mut bytes).unwrap();
        let mut rest = bytes.as_slice();
        let mut read = vec![];
        Content::new(&mut rest).read_to_end(&mut read).unwrap();
        assert!(read == long && rest.is_empty());
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = conversation();
        let mut whole = 0;
        for length in 0..bytes.len() {
            match examine(&bytes[..length]) {
                Err(ProtocolError::Truncated) => {}
                // Between two frames a connection may end.
                Ok(_) => whole += 1,
                Err(other) => panic!("{length}: {other}"),
            }
        }
        assert_eq!(whole, 4, "after the hello, and after each frame but the last");
    }

    #[test]
    fn flipped_bytes_are_errors_or_other_requests_and_nothing_else() {
        let bytes = conversation();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                // It gives an answer of its type; what is asserted is that nothing panics or grows.
                let _ = examine(&damaged);
            }
        }
    }

    fn check(frames: &[u8], expected: &str) {
        let mut bytes = vec![];
        write_hello(&mut bytes).unwrap();
        bytes.extend_from_slice(frames);
        let error = examine(&bytes).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn hostile_frames() {
        let control = |json: &str| {
            let mut frame = vec![];
            write_frame(&mut frame, CONTROL, json.as_bytes()).unwrap();
            frame
        };
        check(&[9, 0, 0, 0, 0], "unknown kind 9");
        check(&[1, 255, 255, 255, 255], "a frame of 4294967295 bytes");
        check(&[2, 1, 0, 4, 0], "a frame of 262145 bytes; 262144 are allowed");
        check(&[4, 1, 0, 0, 0, 7], "a frame of 1 bytes; 0 are allowed");
        check(&control("{}"), "missing field `request`");
        check(&control("{\"request\":\"destroy\"}"), "unknown variant `destroy`");
        check(&control("{\"request\":\"kill\",\"pid\":-1}"), "cannot be read");
        check(&control("{\"request\":\"kill\",\"pid\":1,\"too\":1}"), "unknown field `too`");
        check(&control(&"[".repeat(100_000)), "cannot be read");
        check(&control("\u{0}"), "cannot be read");
    }

    #[test]
    fn strangers_are_told_apart() {
        let refused = |bytes: &[u8]| read_hello(&mut &bytes[..]).expect_err("not a hello");
        assert!(matches!(refused(b"GET / HTTP/1.1"), ProtocolError::NotUna(_)));
        assert!(matches!(refused(b"una\0"), ProtocolError::Truncated));
        match refused(b"una\0\x02\0\0\0\x059.9\x1b1") {
            ProtocolError::OtherVersion { protocol: 2, version } => assert_eq!(version, "9.9?1"),
            other => panic!("{other}"),
        }
        assert!(matches!(refused(b"una\0\x01\0\0\0\xff"), ProtocolError::TooLong { .. }));
    }

    /// Memory is given for what has come, not for what is announced.
    #[test]
    fn announced_bytes_cost_nothing() {
        let mut bytes = vec![];
        bytes.extend_from_slice(&[CONTROL]);
        bytes.extend_from_slice(&(CONTROL_BYTES_MAX as u32).to_le_bytes());
        assert!(matches!(read_frame(&mut bytes.as_slice()), Err(ProtocolError::Truncated)));
    }

    #[test]
    fn bytes_out_of_order() {
        let mut bytes = vec![];
        write_message(&mut bytes, &Request::Status).unwrap();
        let mut rest = bytes.as_slice();
        let error = Content::new(&mut rest).read_to_end(&mut vec![]).expect_err("a request within bytes");
        assert!(error.to_string().contains("a control message came where bytes or their end was due"), "{error}");
        let mut end = vec![];
        write_end(&mut end).unwrap();
        let frame = read_frame(&mut end.as_slice()).unwrap().unwrap();
        assert!(matches!(frame.message::<Request>(), Err(ProtocolError::OutOfOrder { .. })));
    }
}
