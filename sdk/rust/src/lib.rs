//! What programs on una have beside WASI, safely: ports and messages, names, pipes, processes. Knows the import module `una` (the same as
//! `sdk/una.h`), and nothing of what the kernel does behind it.
//!
//! The one idea: a handle is owned. Dropping it closes it, and moving it into a message gives it away when the message is accepted.
//!
//! ```no_run
//! use una::{Deadline, Port, PortOptions, Received};
//! # fn main() -> una::Result<()> {
//! let port = Port::new(PortOptions::default())?;
//! una::names::bind("/port/upper", &port)?;
//! while let Received::Message(message) = port.receive(Deadline::Never)? {
//!     if let Some(caller) = message.caller {
//!         caller.reply(&message.bytes.to_ascii_uppercase())?;
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//! Where there is no node (`una up`), each call gives [`Error::NoNode`].

#![deny(missing_docs)]

mod import;
pub mod names;

use std::fmt;
use std::time::Duration;

/// What a call gives.
pub type Result<T> = std::result::Result<T, Error>;

macro_rules! errors {
    ($($name:ident = $number:literal $text:literal),* $(,)?) => {
        /// Why a call failed.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Error {
            $(#[doc = $text] $name,)*
            /// A number that this crate does not know.
            Unknown(u32),
        }

        impl Error {
            fn of(number: u32) -> Error {
                match number {
                    $($number => Error::$name,)*
                    unknown => Error::Unknown(unknown),
                }
            }
        }

        impl fmt::Display for Error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Error::$name => f.write_str($text),)*
                    Error::Unknown(number) => write!(f, "error {} of una", number),
                }
            }
        }
    };
}

errors! {
    BadHandle = 1 "there is no such handle, or not any more",
    Ended = 2 "what the handle points to has ended",
    WrongKind = 3 "the handle points to something that cannot do this",
    LacksRights = 4 "the handle lacks the right to do this",
    TooLong = 5 "a message has at most 1 MiB",
    Full = 6 "there is no room now",
    Expired = 7 "the deadline has come",
    Interrupted = 8 "the call was interrupted",
    Closed = 9 "nobody receives from the port any more",
    Empty = 10 "there is nothing now",
    NoSenders = 11 "there is nothing, and nobody can send any more",
    NoReaders = 12 "nobody reads from the pipe any more",
    Abandoned = 13 "a server took the request and gave no answer: it may have had an effect",
    Limit = 14 "a bound of the process is reached",
    Transfer = 15 "a handle cannot go along; nothing was sent",
    BadName = 16 "this is no name",
    NotFound = 17 "there is nothing of this name",
    Exists = 18 "the name is taken",
    NotAPort = 19 "the name does not stand for a port",
    CallerGone = 20 "nobody waits for the answer",
    Amplified = 21 "more rights were asked for than there are",
    Options = 22 "an argument makes no sense",
    Itself = 23 "a process cannot wait for itself",
    Buffer = 24 "the buffer is too small",
    Program = 25 "the program cannot be run; the log says why",
    NoNode = 26 "there is no node: start one with `una up`",
    Fault = 27 "a pointer leads out of the memory",
    Service = 28 "the system's service failed",
}

impl std::error::Error for Error {}

fn ok(number: u32) -> Result<()> {
    match number {
        0 => Ok(()),
        number => Err(Error::of(number)),
    }
}

/// How long a call may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deadline {
    /// It does not wait.
    Now,
    /// As long as it takes.
    Never,
    /// Until this moment of the monotonic clock, in nanoseconds: that of `CLOCK_MONOTONIC`.
    At(u64),
}

impl Deadline {
    /// So long from now.
    pub fn after(time: Duration) -> Deadline {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Deadline::At(import::monotonic_ns().saturating_add(ns))
    }

    fn ns(self) -> u64 {
        match self {
            Deadline::Now => 0,
            Deadline::Never => u64::MAX,
            // The ends of the range mean something else.
            Deadline::At(ns) => ns.clamp(1, u64::MAX - 1),
        }
    }
}

/// What a handle lets its holder do.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights(u32);

impl Rights {
    /// Make a second handle.
    pub const COPY: Rights = Rights(1);
    /// Give the handle away.
    pub const MOVE: Rights = Rights(1 << 1);
    /// Be told when it ends.
    pub const WATCH: Rights = Rights(1 << 2);
    /// Send and call.
    pub const SEND: Rights = Rights(1 << 3);
    /// Take messages out; while anybody may, the port lives.
    pub const RECEIVE: Rights = Rights(1 << 4);
    /// Make handles that carry a badge.
    pub const BADGE: Rights = Rights(1 << 5);
    /// Take bytes out of a pipe.
    pub const READ: Rights = Rights(1 << 6);
    /// Put bytes into a pipe.
    pub const WRITE: Rights = Rights(1 << 7);
    /// Wait for a process's end.
    pub const WAIT: Rights = Rights(1 << 8);
    /// End a process.
    pub const KILL: Rights = Rights(1 << 9);
    /// Hold a process and let it go on.
    pub const CONTROL: Rights = Rights(1 << 10);
    /// Answer a call.
    pub const ANSWER: Rights = Rights(1 << 11);

    /// Are all of these there?
    pub fn contain(self, rights: Rights) -> bool {
        self.0 & rights.0 == rights.0
    }
}

impl std::ops::BitOr for Rights {
    type Output = Rights;

    fn bitor(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rights({:#x})", self.0)
    }
}

/// A process's own number for an object, with certain rights. It is closed when it is dropped.
#[derive(PartialEq, Eq, Debug)]
pub struct Handle(u32);

impl Handle {
    /// Those that this process was spawned with, in their order from 0. Each can be taken once; a second one of the same number closes
    /// the first one's.
    pub fn inherited(index: u32) -> Handle {
        Handle(import::FIRST_HANDLE + index)
    }

    /// The number.
    pub fn number(&self) -> u32 {
        self.0
    }

    /// A second one with these rights at most.
    pub fn duplicate(&self, rights: Rights) -> Result<Handle> {
        let mut copy = 0;
        // SAFETY: the result is a place of ours.
        ok(unsafe { import::handle_duplicate(self.0, rights.0, &mut copy) })?;
        Ok(Handle(copy))
    }

    /// What it may do.
    pub fn rights(&self) -> Result<Rights> {
        let mut rights = 0;
        // SAFETY: the result is a place of ours.
        ok(unsafe { import::handle_rights(self.0, &mut rights) })?;
        Ok(Rights(rights))
    }

    /// One notice to this port when what the handle points to ends: a process, a port, a caller. As long as the watch is kept.
    pub fn watch(&self, port: &Port, token: u64) -> Result<Handle> {
        let mut watch = 0;
        // SAFETY: the result is a place of ours.
        ok(unsafe { import::watch(self.0, port.0 .0, token, &mut watch) })?;
        Ok(Handle(watch))
    }

    fn into_number(self) -> u32 {
        let number = self.0;
        std::mem::forget(self);
        number
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // That it had ended is no trouble of ours.
        // SAFETY: no pointer goes along.
        let _ = unsafe { import::handle_close(self.0) };
    }
}

/// A handle that goes along with a message.
#[derive(Debug)]
pub enum Grant<'a> {
    /// The receiver gets one with these rights; the sender keeps its own.
    Copy(&'a Handle, Rights),
    /// The receiver gets all that the handle may do, and the sender has none any more.
    Move(Handle),
}

/// Makes a call with these handles, and lets go of what was moved if it succeeded; else all of them stay where they are.
fn granting<T>(grants: &mut Vec<Grant<'_>>, call: impl FnOnce(*const import::Transfer, u32) -> Result<T>) -> Result<T> {
    let transfers: Vec<import::Transfer> = grants
        .iter()
        .map(|grant| match grant {
            Grant::Copy(handle, rights) => import::Transfer { handle: handle.0, rights: rights.0, moved: 0 },
            Grant::Move(handle) => import::Transfer { handle: handle.0, rights: 0, moved: 1 },
        })
        .collect();
    let value = call(transfers.as_ptr(), transfers.len() as u32)?;
    for grant in grants.drain(..) {
        if let Grant::Move(handle) = grant {
            handle.into_number();
        }
    }
    Ok(value)
}

/// A new port.
#[derive(Clone, Copy, Debug)]
pub struct PortOptions {
    /// How many messages may lie in it; 0 for rendezvous: a sender waits for its receiver.
    pub messages_max: u32,
    /// How many bytes they may have together.
    pub bytes_max: u32,
    /// What happens when it is full.
    pub overflow: Overflow,
}

/// What happens when a port is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overflow {
    /// Senders wait.
    Wait,
    /// Messages are dropped and counted.
    Drop,
}

impl Default for PortOptions {
    fn default() -> PortOptions {
        PortOptions { messages_max: 64, bytes_max: 1 << 20, overflow: Overflow::Wait }
    }
}

/// How full a port is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortStatus {
    /// Messages that lie in it.
    pub messages: u32,
    /// Their bytes.
    pub bytes: u32,
    /// Who waits for room.
    pub senders_waiting: u32,
    /// Who waits for a message.
    pub receivers_waiting: u32,
    /// Messages for which there was no room.
    pub dropped: u64,
}

/// A queue of messages: either end of it, by the handle's rights.
#[derive(PartialEq, Eq, Debug)]
pub struct Port(Handle);

/// What came out of a port.
#[derive(PartialEq, Eq, Debug)]
pub enum Received {
    /// What somebody sent.
    Message(Message),
    /// Something that was asked for has happened.
    Notice(Notice),
}

/// What somebody sent.
#[derive(PartialEq, Eq, Debug)]
pub struct Message {
    /// The content.
    pub bytes: Vec<u8>,
    /// The handles that came along.
    pub handles: Vec<Handle>,
    /// Which process sent it.
    pub sender: u64,
    /// The number on the handle that it was sent through.
    pub badge: u64,
    /// Set if the sender waits for an answer.
    pub caller: Option<Caller>,
}

/// Something has happened that notice was asked of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notice {
    /// As given when it was asked for.
    pub token: u64,
    /// What has happened.
    pub event: Event,
}

/// What there is notice of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A process has ended.
    Exited {
        /// Which one.
        process: u64,
        /// How.
        exit: Exit,
    },
    /// A port has closed.
    PortClosed,
    /// A caller does not wait any more.
    CallerGone,
    /// A timer's time has come.
    Timer,
    /// A number that this crate does not know.
    Unknown(u32),
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It ended itself, with this code.
    Code(u32),
    /// Somebody ended it.
    Killed,
    /// Its parent ended.
    Orphaned,
    /// It trapped.
    Faulted,
    /// It never ran.
    NotStarted,
    /// A number that this crate does not know.
    Unknown(u32),
}

impl Exit {
    fn of(kind: u32, code: u32) -> Exit {
        match kind {
            0 => Exit::Code(code),
            1 => Exit::Killed,
            2 => Exit::Orphaned,
            3 => Exit::Faulted,
            4 => Exit::NotStarted,
            unknown => Exit::Unknown(unknown),
        }
    }
}

/// The right to answer a call. If it is dropped the caller is told that it was abandoned.
#[derive(PartialEq, Eq, Debug)]
pub struct Caller(Handle);

impl Caller {
    /// Answers.
    pub fn reply(self, bytes: &[u8]) -> Result<()> {
        self.reply_with(bytes, &mut vec![])
    }

    /// Answers with handles.
    pub fn reply_with(self, bytes: &[u8], grants: &mut Vec<Grant<'_>>) -> Result<()> {
        let length = length(bytes)?;
        granting(grants, |handles, count| {
            // SAFETY: bytes and handles are ours, of this length and count.
            ok(unsafe { import::reply(self.0 .0, bytes.as_ptr(), length, handles, count) })
        })
    }

    /// The handle, to watch the caller or give the call to somebody else.
    pub fn handle(&self) -> &Handle {
        &self.0
    }
}

/// An answer to a call.
#[derive(PartialEq, Eq, Debug)]
pub struct Answer {
    /// The content.
    pub bytes: Vec<u8>,
    /// The handles that came along.
    pub handles: Vec<Handle>,
}

/// Room for a message before it is known how long it is.
const ROOM: usize = 4096;

fn length(bytes: &[u8]) -> Result<u32> {
    u32::try_from(bytes.len()).map_err(|_| Error::TooLong)
}

/// Receives by this function, with more room if there is too little.
fn receiving(mut receive: impl FnMut(*mut u8, u32, *mut import::Message) -> u32) -> Result<(u32, Received)> {
    let mut bytes = vec![0; ROOM];
    let mut message = import::Message::default();
    loop {
        let outcome = ok(receive(bytes.as_mut_ptr(), bytes.len() as u32, &mut message));
        if outcome == Err(Error::Buffer) && message.length as usize > bytes.len() {
            bytes.resize(message.length as usize, 0);
            continue;
        }
        outcome?;
        break;
    }
    if message.kind == 0 {
        bytes.truncate(message.length as usize);
        let received = Message {
            bytes,
            handles: handles(message.handle_count, &message.handles),
            sender: message.sender,
            badge: message.badge,
            caller: (message.reply != 0).then(|| Caller(Handle(message.reply))),
        };
        return Ok((message.index, Received::Message(received)));
    }
    let event = match message.event {
        1 => Event::Exited { process: message.sender, exit: Exit::of(message.exit_kind, message.exit_code) },
        2 => Event::PortClosed,
        3 => Event::CallerGone,
        4 => Event::Timer,
        unknown => Event::Unknown(unknown),
    };
    Ok((message.index, Received::Notice(Notice { token: message.token, event })))
}

fn handles(count: u32, numbers: &[u32]) -> Vec<Handle> {
    numbers.iter().take(count as usize).map(|number| Handle(*number)).collect()
}

impl Port {
    /// A new one, with every right to it.
    pub fn new(options: PortOptions) -> Result<Port> {
        let drops = u32::from(options.overflow == Overflow::Drop);
        let mut port = 0;
        // SAFETY: the result is a place of ours.
        ok(unsafe { import::port_create(options.messages_max, options.bytes_max, drops, &mut port) })?;
        Ok(Port(Handle(port)))
    }

    /// One whose handle came along with a message, or was inherited.
    pub fn from_handle(handle: Handle) -> Port {
        Port(handle)
    }

    /// The handle.
    pub fn handle(&self) -> &Handle {
        &self.0
    }

    /// The handle, to be given away.
    pub fn into_handle(self) -> Handle {
        self.0
    }

    /// How full it is.
    pub fn status(&self) -> Result<PortStatus> {
        let mut status = import::PortStatus::default();
        // SAFETY: the result is a place of ours.
        ok(unsafe { import::port_status(self.0 .0, &mut status) })?;
        let import::PortStatus { messages, bytes, senders_waiting, receivers_waiting, dropped } = status;
        Ok(PortStatus { messages, bytes, senders_waiting, receivers_waiting, dropped })
    }

    /// A second handle that puts this number on each message sent through it.
    pub fn badge(&self, badge: u64, rights: Rights) -> Result<Port> {
        let mut badged = 0;
        // SAFETY: the result is a place of ours.
        ok(unsafe { import::port_badge(self.0 .0, badge, rights.0, &mut badged) })?;
        Ok(Port(Handle(badged)))
    }

    /// Sends; waits while there is no room.
    pub fn send(&self, bytes: &[u8], deadline: Deadline) -> Result<()> {
        self.send_with(bytes, &mut vec![], deadline)
    }

    /// Sends with handles. The list is empty afterwards, or as it was if this fails.
    pub fn send_with(&self, bytes: &[u8], grants: &mut Vec<Grant<'_>>, deadline: Deadline) -> Result<()> {
        let length = length(bytes)?;
        granting(grants, |handles, count| {
            // SAFETY: bytes and handles are ours, of this length and count.
            ok(unsafe { import::send(self.0 .0, bytes.as_ptr(), length, handles, count, deadline.ns()) })
        })
    }

    /// Sends without ever waiting; where there is no room the message is lost.
    pub fn send_unreliable(&self, bytes: &[u8]) -> Result<()> {
        // SAFETY: the bytes are ours, of this length.
        ok(unsafe { import::send_unreliable(self.0 .0, bytes.as_ptr(), length(bytes)?) })
    }

    /// Takes the next message out, or waits for it.
    pub fn receive(&self, deadline: Deadline) -> Result<Received> {
        let (_, received) = receiving(|bytes, room, message| {
            // SAFETY: `receiving` gives a buffer of so much room and a place for the message.
            unsafe { import::receive(self.0 .0, bytes, room, message, deadline.ns()) }
        })?;
        Ok(received)
    }

    /// Sends a request and waits for its answer.
    pub fn call(&self, bytes: &[u8], deadline: Deadline) -> Result<Answer> {
        self.call_with(bytes, &mut vec![], deadline)
    }

    /// The same with handles. Where this fails, those that were to be moved may be gone: a server may have taken the request.
    pub fn call_with(&self, bytes: &[u8], grants: &mut Vec<Grant<'_>>, deadline: Deadline) -> Result<Answer> {
        let length = length(bytes)?;
        let mut buffer = vec![0; ROOM];
        let mut answer = import::Answer::default();
        let (place, room) = (buffer.as_mut_ptr(), buffer.len() as u32);
        let called = granting(grants, |handles, count| {
            // SAFETY: bytes, handles and buffer are ours, of this length, count and room.
            let number = unsafe {
                import::call(self.0 .0, bytes.as_ptr(), length, handles, count, place, room, &mut answer, deadline.ns())
            };
            match ok(number) {
                // It was answered: what was moved is gone.
                Err(Error::Buffer) => Ok(Err(Error::Buffer)),
                called => called.map(Ok),
            }
        })?;
        if called.is_err() {
            buffer.resize(answer.length as usize, 0);
            // SAFETY: the buffer is ours, and now as large as the answer.
            ok(unsafe { import::last_answer(buffer.as_mut_ptr(), buffer.len() as u32, &mut answer) })?;
        }
        buffer.truncate(answer.length as usize);
        Ok(Answer { bytes: buffer, handles: handles(answer.handle_count, &answer.handles) })
    }

    /// One notice to this port at a moment of the monotonic clock, as long as what this gives is kept.
    pub fn timer(&self, at: Deadline, token: u64) -> Result<Handle> {
        let mut timer = 0;
        // SAFETY: the result is a place of ours.
        ok(unsafe { import::timer(at.ns(), self.0 .0, token, &mut timer) })?;
        Ok(Handle(timer))
    }
}

/// Takes the next message out of the first of up to 16 ports that has one; says which.
pub fn select(ports: &[&Port], deadline: Deadline) -> Result<(usize, Received)> {
    let numbers: Vec<u32> = ports.iter().map(|port| port.0 .0).collect();
    let (index, received) = receiving(|bytes, room, message| {
        // SAFETY: the numbers are ours, as many as said; `receiving` gives a buffer of so much room and a place for the message.
        unsafe { import::select(numbers.as_ptr(), numbers.len() as u32, bytes, room, message, deadline.ns()) }
    })?;
    Ok((index as usize, received))
}

/// A stream of bytes between processes: either end of it, by the handle's rights.
#[derive(PartialEq, Eq, Debug)]
pub struct Pipe(Handle);

impl Pipe {
    /// A new one, in which so many bytes may be on their way.
    pub fn new(bytes_max: u32) -> Result<Pipe> {
        let mut pipe = 0;
        // SAFETY: the result is a place of ours.
        ok(unsafe { import::pipe_create(bytes_max, &mut pipe) })?;
        Ok(Pipe(Handle(pipe)))
    }

    /// One whose handle came along with a message, or was inherited.
    pub fn from_handle(handle: Handle) -> Pipe {
        Pipe(handle)
    }

    /// The handle.
    pub fn handle(&self) -> &Handle {
        &self.0
    }

    /// The handle, to be given away.
    pub fn into_handle(self) -> Handle {
        self.0
    }

    /// Waits for the first byte only; 0 is the end.
    pub fn read_until(&self, buffer: &mut [u8], deadline: Deadline) -> Result<usize> {
        let room = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let mut read = 0;
        // SAFETY: the buffer is ours, of this room.
        ok(unsafe { import::pipe_read(self.0 .0, buffer.as_mut_ptr(), room, &mut read, deadline.ns()) })?;
        Ok(read as usize)
    }

    /// Writes all of it; the error comes with how many bytes were written before.
    pub fn write_until(&self, bytes: &[u8], deadline: Deadline) -> std::result::Result<(), (usize, Error)> {
        let length = length(bytes).map_err(|error| (0, error))?;
        let mut written = 0;
        // SAFETY: the bytes are ours, of this length.
        let number = unsafe { import::pipe_write(self.0 .0, bytes.as_ptr(), length, &mut written, deadline.ns()) };
        ok(number).map_err(|error| (written as usize, error))
    }
}

impl std::io::Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.read_until(buffer, Deadline::Never).map_err(std::io::Error::from)
    }
}

impl std::io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // At most what one message may hold.
        let bytes = &bytes[..bytes.len().min(1 << 20)];
        match self.write_until(bytes, Deadline::Never) {
            Ok(()) => Ok(bytes.len()),
            Err((0, error)) => Err(error.into()),
            Err((written, _)) => Ok(written),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> std::io::Error {
        use std::io::ErrorKind;
        let kind = match error {
            Error::Expired => ErrorKind::TimedOut,
            Error::Interrupted => ErrorKind::Interrupted,
            Error::Full | Error::Empty => ErrorKind::WouldBlock,
            Error::Closed | Error::NoReaders => ErrorKind::BrokenPipe,
            Error::NotFound => ErrorKind::NotFound,
            Error::Exists => ErrorKind::AlreadyExists,
            Error::LacksRights => ErrorKind::PermissionDenied,
            _ => ErrorKind::Other,
        };
        std::io::Error::new(kind, error)
    }
}

/// A process that this one may wait for, hold or end.
#[derive(PartialEq, Eq, Debug)]
pub struct Process {
    handle: Handle,
    pid: u64,
}

/// A program to be started.
#[derive(Debug, Default)]
pub struct Command<'a> {
    file: Option<&'a std::fs::File>,
    args: Vec<String>,
    env: Vec<String>,
    grants: Vec<Grant<'a>>,
    place: Option<String>,
}

impl<'a> Command<'a> {
    /// This very program, again.
    pub fn this() -> Command<'a> {
        Command::default()
    }

    /// The program in this file.
    pub fn file(file: &'a std::fs::File) -> Command<'a> {
        Command { file: Some(file), ..Command::default() }
    }

    /// One more argument; the first is the program's name.
    pub fn arg(mut self, arg: impl Into<String>) -> Command<'a> {
        self.args.push(arg.into());
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Command<'a> {
        self.env.push(format!("{}={}", name, value));
        self
    }

    /// A handle that it begins with; see [`Handle::inherited`].
    pub fn grant(mut self, grant: Grant<'a>) -> Command<'a> {
        self.grants.push(grant);
        self
    }

    /// It shall be on that node. It has a log of its own then, as with the other places, and stays here if it cannot go there.
    pub fn on(mut self, node: &str) -> Command<'a> {
        self.place = Some(format!("on {}", node));
        self
    }

    /// It shall be where that process is, by its number as `una ps` shows it.
    pub fn near(mut self, pid: &str) -> Command<'a> {
        self.place = Some(format!("near {}", pid));
        self
    }

    /// It shall be where fewest of its name are.
    pub fn spread(mut self) -> Command<'a> {
        self.place = Some("spread".into());
        self
    }

    /// Starts it. It sees the same files, writes where this process writes unless it is to be somewhere, and ends with it at the latest.
    pub fn spawn(mut self) -> Result<Process> {
        use std::os::wasi::io::AsRawFd;
        let (args, env) = (strings(&self.args)?, strings(&self.env)?);
        let file = self.file.map_or(-1, |file| file.as_raw_fd() as i32);
        let mut spawned = import::Spawned::default();
        granting(&mut self.grants, |handles, count| {
            let (args_length, env_length) = (args.len() as u32, env.len() as u32);
            let (args, env) = (args.as_ptr(), env.as_ptr());
            // SAFETY: arguments, environment, handles and the place are ours, of this length and count.
            ok(unsafe {
                match &self.place {
                    None => import::spawn(file, args, args_length, env, env_length, handles, count, &mut spawned),
                    Some(place) => {
                        let (place, place_length) = (place.as_ptr(), place.len() as u32);
                        let spawned = &mut spawned;
                        import::spawn_placed(
                            file, args, args_length, env, env_length, handles, count, place, place_length, spawned,
                        )
                    }
                }
            })
        })?;
        Ok(Process { handle: Handle(spawned.process), pid: spawned.pid })
    }
}

/// Strings that end with a NUL each, and so cannot have one in them.
fn strings(all: &[String]) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    for one in all {
        if one.contains('\0') {
            return Err(Error::Options);
        }
        bytes.extend_from_slice(one.as_bytes());
        bytes.push(0);
    }
    length(&bytes)?;
    Ok(bytes)
}

impl Process {
    /// Its number, as in `/proc`.
    pub fn pid(&self) -> u64 {
        self.pid
    }

    /// The handle.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits for its end. Any number of times.
    pub fn wait(&self, deadline: Deadline) -> Result<Exit> {
        let mut status = import::ExitStatus::default();
        // SAFETY: the result is a place of ours.
        ok(unsafe { import::process_wait(self.handle.0, &mut status, deadline.ns()) })?;
        Ok(Exit::of(status.kind, status.code))
    }

    /// Ends it.
    pub fn kill(&self) -> Result<()> {
        // SAFETY: no pointer goes along.
        ok(unsafe { import::process_kill(self.handle.0) })
    }

    /// Lets it stand still.
    pub fn hold(&self) -> Result<()> {
        // SAFETY: no pointer goes along.
        ok(unsafe { import::process_hold(self.handle.0) })
    }

    /// Lets it go on.
    pub fn release(&self) -> Result<()> {
        // SAFETY: no pointer goes along.
        ok(unsafe { import::process_release(self.handle.0) })
    }
}
