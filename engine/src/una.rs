//! The import module `una`: what WASI cannot express, as functions of 32 and 64 bit numbers. Knows how arguments and results lie in a
//! program's memory; what the calls do is the kernel's business. The C header is `sdk/una.h`; the two change together.
//!
//! The one idea: each function is one system call. It gives 0 or a number of [`Code`]; results go where pointers say, and all of those
//! are checked before the call has an effect. What does not fit into the program's buffer is kept until it is asked for with a larger one.
//!
//! Deadlines are moments of the process's own monotonic clock, so that one call keeps its deadline through a freeze: 0 is "do not
//! wait", all ones "for ever". A call that waits while its process is to be frozen is unwound with the rest of the stack and issued again
//! when the process is continued; what it had done by then is remembered (`kept`), so that nothing is done twice.

use crate::fiber::Asked;
use crate::found::{self, Afoot, Came, LookedUp, NAMES};
use crate::kept::{self, Found};
use crate::process::State;
use crate::tape::Ports;
use crate::wasi::{Memory, memory_of};
use abi::call::{
    CallError, ControlError, CreateError, Deadline, DuplicateError, EndCallError, HandleError, Outcome, Overflow,
    PortOptions, ReadError, ReceiveError, ReplyError, SendError, SendMode, SpawnError, SystemCall, TransferCause,
    TransferError, Wait, WaitError, WatchError, WriteCause, WriteError,
};
use abi::errno::Errno;
use abi::ids::{HandleId, ProcessId, Time};
use abi::interface::names;
use abi::limits::Limits;
use abi::message::{
    Answer, Badge, Bytes, MESSAGE_BYTES_MAX, MESSAGE_HANDLES_MAX, Message, NoticeEvent, Notify, Received, Transfer,
    TransferMode,
};
use abi::process::{Exit, Orphan, Spawn};
use abi::rights::Rights;
use std::pin::Pin;
use std::task::{Context, Poll};
use wasmtime::{Caller, Error, Linker};

pub const MODULE: &str = "una";

/// How long the service `names` may take.
const NAMES_TIMEOUT_NS: u64 = 30_000_000_000;
/// Why a call failed, as programs see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Code {
    BadHandle = 1,
    Ended = 2,
    WrongKind = 3,
    LacksRights = 4,
    TooLong = 5,
    Full = 6,
    Expired = 7,
    Interrupted = 8,
    Closed = 9,
    Empty = 10,
    NoSenders = 11,
    NoReaders = 12,
    Abandoned = 13,
    Limit = 14,
    Transfer = 15,
    BadName = 16,
    NotFound = 17,
    Exists = 18,
    NotAPort = 19,
    CallerGone = 20,
    Amplified = 21,
    Options = 22,
    Itself = 23,
    /// The program's buffer is too small; the length that is needed is in the result, and nothing is lost.
    Buffer = 24,
    Program = 25,
    /// There is no node: start one with `una up`.
    NoNode = 26,
    /// A pointer leads out of the memory.
    Fault = 27,
    /// The service did not answer, or not sensibly.
    Service = 28,
    /// Another node did not say in time what became of it.
    Unknown = 29,
    /// The other node cannot be reached.
    Unreachable = 30,
    /// A durable process cannot do this.
    NotDurable = 31,
}

type Result<T> = std::result::Result<T, Code>;

/// A child that is to be spawned.
pub struct Child {
    /// The program's bytes; `None` for the program that asks.
    pub wasm: Option<Vec<u8>>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// It writes into a log of its own, and not where its parent writes; so it can be on another node.
    pub has_own_log: bool,
}

/// What a child is spawned as.
pub struct Newborn {
    pub program: abi::process::Program,
    pub arguments: abi::message::Bytes,
    pub limits: Limits,
    pub weight: u32,
}

impl From<Errno> for Code {
    fn from(_: Errno) -> Code {
        Code::Fault
    }
}

impl From<HandleError> for Code {
    fn from(error: HandleError) -> Code {
        match error {
            HandleError::Bad => Code::BadHandle,
            HandleError::Ended => Code::Ended,
            HandleError::WrongKind => Code::WrongKind,
            HandleError::Lacks(_) => Code::LacksRights,
            HandleError::Unreachable => Code::Unreachable,
        }
    }
}

impl From<TransferError> for Code {
    fn from(error: TransferError) -> Code {
        match error.cause {
            TransferCause::Limit(_) => Code::Limit,
            _ => Code::Transfer,
        }
    }
}

impl From<SendError> for Code {
    fn from(error: SendError) -> Code {
        match error {
            SendError::Handle(error) => error.into(),
            SendError::Transfer(error) => error.into(),
            SendError::TooLong => Code::TooLong,
            SendError::Full => Code::Full,
            SendError::Expired => Code::Expired,
            SendError::Interrupted => Code::Interrupted,
            SendError::PortClosed => Code::Closed,
            SendError::Unknown => Code::Unknown,
        }
    }
}

impl From<ReceiveError> for Code {
    fn from(error: ReceiveError) -> Code {
        match error {
            ReceiveError::Handle(error) => error.into(),
            ReceiveError::Empty => Code::Empty,
            ReceiveError::Expired => Code::Expired,
            ReceiveError::Interrupted => Code::Interrupted,
            ReceiveError::NoSenders => Code::NoSenders,
            ReceiveError::Limit(_) => Code::Limit,
        }
    }
}

impl From<CallError> for Code {
    fn from(error: CallError) -> Code {
        match error {
            CallError::Handle(error) => error.into(),
            CallError::Transfer(error) => error.into(),
            CallError::TooLong => Code::TooLong,
            CallError::PortClosed => Code::Closed,
            CallError::Full => Code::Full,
            CallError::Abandoned { .. } => Code::Abandoned,
            CallError::Expired(_) => Code::Expired,
            CallError::Interrupted(_) | CallError::Detached { .. } => Code::Interrupted,
            CallError::NeverCalled => Code::Options,
            CallError::Limit(_) => Code::Limit,
        }
    }
}

impl From<EndCallError> for Code {
    fn from(error: EndCallError) -> Code {
        match error {
            EndCallError::Handle(error) => error.into(),
            EndCallError::NotYet => Code::Empty,
            EndCallError::Interrupted => Code::Interrupted,
            EndCallError::Limit(_) => Code::Limit,
            EndCallError::Failed(error) => error.into(),
        }
    }
}

impl From<ReplyError> for Code {
    fn from(error: ReplyError) -> Code {
        match error {
            ReplyError::Handle(error) => error.into(),
            ReplyError::Transfer(error) => error.into(),
            ReplyError::TooLong => Code::TooLong,
            ReplyError::CallerGone => Code::CallerGone,
        }
    }
}

impl From<CreateError> for Code {
    fn from(error: CreateError) -> Code {
        match error {
            CreateError::Options => Code::Options,
            CreateError::Limit(_) => Code::Limit,
        }
    }
}

impl From<DuplicateError> for Code {
    fn from(error: DuplicateError) -> Code {
        match error {
            DuplicateError::Handle(error) => error.into(),
            DuplicateError::Amplified(_) => Code::Amplified,
            DuplicateError::Badge => Code::Options,
            DuplicateError::Limit(_) => Code::Limit,
        }
    }
}

impl From<WatchError> for Code {
    fn from(error: WatchError) -> Code {
        match error {
            WatchError::Subject(error) | WatchError::Port(error) => error.into(),
            WatchError::Itself => Code::Itself,
            WatchError::Limit(_) => Code::Limit,
        }
    }
}

impl From<WaitError> for Code {
    fn from(error: WaitError) -> Code {
        match error {
            WaitError::Handle(error) => error.into(),
            WaitError::Expired => Code::Expired,
            WaitError::Interrupted => Code::Interrupted,
            WaitError::Itself => Code::Itself,
        }
    }
}

impl From<ControlError> for Code {
    fn from(error: ControlError) -> Code {
        match error {
            ControlError::Handle(error) => error.into(),
            ControlError::Ended => Code::Ended,
            ControlError::Unknown => Code::Unknown,
        }
    }
}

impl From<SpawnError> for Code {
    fn from(error: SpawnError) -> Code {
        match error {
            SpawnError::Transfer(error) => error.into(),
            SpawnError::Supervisor(error) => error.into(),
            SpawnError::Weight => Code::Options,
            SpawnError::Unreachable => Code::Unreachable,
            SpawnError::NodeLost => Code::Ended,
            SpawnError::Unknown => Code::Unknown,
            SpawnError::Limit(_) => Code::Limit,
        }
    }
}

impl From<ReadError> for Code {
    fn from(error: ReadError) -> Code {
        match error {
            ReadError::Handle(error) => error.into(),
            ReadError::Empty => Code::Empty,
            ReadError::Expired => Code::Expired,
            ReadError::Interrupted => Code::Interrupted,
        }
    }
}

impl From<WriteCause> for Code {
    fn from(cause: WriteCause) -> Code {
        match cause {
            WriteCause::Handle(error) => error.into(),
            WriteCause::TooLong => Code::TooLong,
            WriteCause::Full => Code::Full,
            WriteCause::Expired => Code::Expired,
            WriteCause::Interrupted => Code::Interrupted,
            WriteCause::NoReaders => Code::NoReaders,
            WriteCause::Unknown => Code::Unknown,
        }
    }
}

impl From<names::Failure> for Code {
    fn from(failure: names::Failure) -> Code {
        match failure {
            names::Failure::BadPath => Code::BadName,
            names::Failure::NotFound | names::Failure::NotADirectory => Code::NotFound,
            names::Failure::IsADirectory => Code::NotAPort,
            names::Failure::Exists => Code::Exists,
            names::Failure::Handles => Code::LacksRights,
            names::Failure::Full | names::Failure::Busy => Code::Full,
            names::Failure::Undecided | names::Failure::Unreachable => Code::Unreachable,
            _ => Code::Service,
        }
    }
}

/// `una_message`.
mod message {
    pub const KIND: usize = 0;
    pub const LENGTH: usize = 4;
    pub const SENDER: usize = 8;
    pub const BADGE: usize = 16;
    pub const REPLY: usize = 24;
    pub const HANDLE_COUNT: usize = 28;
    pub const HANDLES: usize = 32;
    pub const TOKEN: usize = 64;
    pub const EVENT: usize = 72;
    pub const EXIT_KIND: usize = 76;
    pub const EXIT_CODE: usize = 80;
    pub const INDEX: usize = 84;
    pub const SIZE: usize = 88;

    /// As it lies in a program's memory.
    pub struct Layout(pub [u8; SIZE]);

    impl Default for Layout {
        fn default() -> Layout {
            Layout([0; SIZE])
        }
    }

    impl Layout {
        pub fn u32(&mut self, at: usize, value: u32) {
            self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }

        pub fn u64(&mut self, at: usize, value: u64) {
            self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// A call in progress: the program, and what it asks with.
struct Program<'a, 'b> {
    caller: &'a mut Caller<'b, State>,
    memory: Option<wasmtime::Memory>,
}

/// A system call that was made, or was refused as one that a durable process cannot make.
struct Asking<'a>(Option<Asked<'a>>);

impl Future for Asking<'_> {
    type Output = Result<Outcome>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Outcome>> {
        match &mut self.0 {
            Some(asked) => Pin::new(asked).poll(context).map(Ok),
            None => Poll::Ready(Err(Code::NotDurable)),
        }
    }
}

impl<'a, 'b> Program<'a, 'b> {
    fn new(caller: &'a mut Caller<'b, State>) -> Program<'a, 'b> {
        let memory = memory_of(caller);
        Program { caller, memory }
    }

    fn with<T>(&mut self, look: impl FnOnce(&mut Memory) -> std::result::Result<T, Errno>) -> Result<T> {
        let mut memory = match self.memory {
            Some(memory) => {
                let (bytes, state) = memory.data_and_store_mut(&mut *self.caller);
                Memory::of(bytes, &state.presence)
            }
            None => Memory::new(&mut []),
        };
        Ok(look(&mut memory)?)
    }

    fn ask(&mut self, call: SystemCall) -> Asking<'_> {
        let state = self.caller.data_mut();
        Asking(match state.ports.is_some() && Ports::refuses(&call) {
            true => None,
            false => Some(state.system_call(call)),
        })
    }

    fn bytes(&mut self, address: u32, length: u32) -> Result<Bytes> {
        if length as usize > MESSAGE_BYTES_MAX {
            return Err(Code::TooLong);
        }
        self.with(|memory| memory.slice(address, length).map(Bytes::new))
    }

    fn text(&mut self, address: u32, length: u32) -> Result<String> {
        let bytes = self.bytes(address, length)?;
        std::str::from_utf8(&bytes).map(String::from).map_err(|_| Code::BadName)
    }

    /// An array of `una_transfer`: handle, rights (0: all that it has), and whether it is moved.
    async fn transfers(&mut self, address: u32, count: u32) -> Result<Box<[Transfer]>> {
        if count as usize > MESSAGE_HANDLES_MAX {
            return Err(Code::Transfer);
        }
        let mut transfers = vec![];
        for index in 0..count {
            let entry = self.with(|memory| {
                let entry = memory.slice(address.checked_add(index * 12).ok_or(Errno::Fault)?, 12)?;
                Ok([0, 4, 8].map(|at| u32::from_le_bytes(entry[at..at + 4].try_into().expect("four bytes"))))
            })?;
            let [handle, rights, moved] = entry;
            let handle = HandleId(handle);
            let rights = match rights {
                0 => match self.ask(SystemCall::Describe { handle }).await? {
                    Outcome::Described(described) => described?.rights,
                    _ => return Err(Code::Service),
                },
                bits => u16::try_from(bits).ok().and_then(Rights::from_bits).ok_or(Code::Options)?,
            };
            let mode = if moved == 0 { TransferMode::Copy } else { TransferMode::Move };
            transfers.push(Transfer { handle, rights, mode });
        }
        Ok(transfers.into())
    }

    async fn content(&mut self, bytes: u32, length: u32, handles: u32, count: u32) -> Result<Message> {
        let bytes = self.bytes(bytes, length)?;
        let handles = match count {
            0 => Box::default(),
            // In a box, as what follows: else each message would take up as much as the rarest needs.
            _ => Box::pin(self.transfers(handles, count)).await?,
        };
        Ok(Message { bytes, handles })
    }

    /// A moment of the process's own clock, by the kernel's.
    fn time(&mut self, deadline_ns: u64) -> Time {
        let state = self.caller.data_mut();
        let left_ns = deadline_ns.saturating_sub(state.system.monotonic_ns());
        state.now().after(left_ns)
    }

    /// The same, if there is one.
    fn at(&mut self, deadline_ns: u64) -> Option<Time> {
        (deadline_ns != u64::MAX).then(|| self.time(deadline_ns))
    }

    fn wait(&mut self, deadline_ns: u64) -> Wait {
        match deadline_ns {
            0 => Wait::No,
            u64::MAX => Wait::Forever,
            _ => Wait::Until(self.time(deadline_ns)),
        }
    }

    fn give(&mut self, address: u32, value: u32) -> Result<()> {
        self.with(|memory| memory.write_u32(address, value))
    }

    fn check(&mut self, address: u32, length: usize) -> Result<()> {
        self.with(|memory| memory.check(address, length))
    }

    /// Gives what was received to the program, or keeps it.
    fn deliver(
        &mut self, port: u32, index: u32, received: Received, buffer: u32, room: u32, result: u32,
    ) -> Result<()> {
        let needed = match &received {
            Received::Message(delivery) => delivery.bytes.len() as u32,
            Received::Notice(_) => 0,
        };
        if needed > room {
            self.with(|memory| memory.write_u32(result + message::LENGTH as u32, needed))?;
            let kept = &mut self.caller.data_mut().kept.messages;
            if kept.len() < kept::MESSAGES_MAX || kept.contains_key(&port) {
                kept.insert(port, received);
            }
            return Err(Code::Buffer);
        }
        let mut layout = message::Layout::default();
        layout.u32(message::INDEX, index);
        match &received {
            Received::Message(delivery) => {
                layout.u32(message::LENGTH, needed);
                layout.u64(message::SENDER, delivery.sender.to_bits());
                layout.u64(message::BADGE, delivery.badge.0);
                layout.u32(message::REPLY, delivery.call.map_or(0, |call| call.reply.0));
                layout.u32(message::HANDLE_COUNT, delivery.handles.len() as u32);
                for (place, handle) in delivery.handles.iter().enumerate() {
                    layout.u32(message::HANDLES + 4 * place, handle.0);
                }
            }
            Received::Notice(notice) => {
                layout.u32(message::KIND, 1);
                layout.u64(message::TOKEN, notice.token);
                let event = match notice.event {
                    NoticeEvent::Exited { process, exit } => {
                        let (kind, code) = exit_numbers(exit);
                        layout.u64(message::SENDER, process.to_bits());
                        layout.u32(message::EXIT_KIND, kind);
                        layout.u32(message::EXIT_CODE, code);
                        1
                    }
                    NoticeEvent::PortClosed => 2,
                    NoticeEvent::CallerGone(_) => 3,
                    NoticeEvent::Timer => 4,
                    NoticeEvent::Journal(_) => 5,
                };
                layout.u32(message::EVENT, event);
            }
        }
        self.with(|memory| {
            if let Received::Message(delivery) = &received {
                memory.write(buffer, &delivery.bytes)?;
            }
            memory.write(result, &layout.0)
        })
    }

    /// Gives the answer to a call: its length, its handles, and its bytes. The result is laid out as `una_answer`.
    fn answer(&mut self, answer: Answer, buffer: u32, room: u32, result: u32) -> Result<()> {
        let needed = answer.bytes.len() as u32;
        self.with(|memory| memory.write_u32(result, needed))?;
        if needed > room {
            self.caller.data_mut().kept.answer = Some(answer);
            return Err(Code::Buffer);
        }
        self.with(|memory| {
            memory.write(buffer, &answer.bytes)?;
            memory.write_u32(result + 4, answer.handles.len() as u32)?;
            for (place, handle) in answer.handles.iter().enumerate() {
                memory.write_u32(result + 8 + 4 * place as u32, handle.0)?;
            }
            Ok(())
        })
    }

    /// Makes a call and waits for the answer. If the process was stopped while a server had the request, it goes on waiting for that
    /// answer.
    async fn call(&mut self, call: SystemCall, wait: Wait) -> Result<Answer> {
        let made = match self.caller.data_mut().kept.call.take() {
            Some(call) => Err(call),
            None => match self.ask(call).await? {
                Outcome::Called(Err(CallError::Detached { call, .. })) => Err(call),
                Outcome::Called(answer) => Ok(answer?),
                _ => return Err(Code::Service),
            },
        };
        let call = match made {
            Ok(answer) => return Ok(answer),
            Err(call) => call,
        };
        match self.ask(SystemCall::EndCall { call, wait }).await? {
            Outcome::CallEnded(Err(EndCallError::Interrupted)) => {
                self.caller.data_mut().kept.call = Some(call);
                Err(Code::Interrupted)
            }
            Outcome::CallEnded(Err(EndCallError::NotYet)) => {
                let _ = self.ask(SystemCall::Close { handle: call }).await;
                Err(Code::Expired)
            }
            Outcome::CallEnded(answer) => Ok(answer?),
            _ => Err(Code::Service),
        }
    }

    /// Finds a port by its name. A name that lasts may lead nowhere for a moment.
    async fn look_up(&mut self, path: String) -> Result<HandleId> {
        let state = self.caller.data_mut();
        let tide = state.calls.as_ref().and_then(|calls| calls.tide(&path));
        if state.ports.is_some() || tide.is_none() {
            let found = match self.names(names::Request::Lookup { path: path.clone() }, Box::default()).await? {
                (names::Answer::Port, Answer { handles, .. }) if handles.len() == 1 => handles[0],
                _ => return Err(Code::NotAPort),
            };
            self.remember(found, path);
            return Ok(found);
        }
        let calls = state.calls.as_mut().expect("a process on a fiber has a kernel");
        match found::look_up_patiently(&mut **calls, &path).await {
            LookedUp::Port { handle, .. } => {
                self.remember(handle, path);
                Ok(handle)
            }
            LookedUp::Failed(failure) => Err(failure.into()),
            LookedUp::Interrupted => Err(Code::Interrupted),
        }
    }

    /// A port whose name lasts is found again when its node is lost.
    fn remember(&mut self, handle: HandleId, path: String) {
        let state = self.caller.data_mut();
        let tide = state.calls.as_ref().and_then(|calls| calls.tide(&path));
        if state.ports.is_none() && tide.is_some() && state.kept.found.len() < kept::FOUND_MAX {
            state.kept.found.insert(handle.0, Found { path, now: Some(handle), tide });
        }
    }

    /// Was this found by a name that lasts, and does nothing go along?
    fn lasts(&mut self, port: u32, count: u32) -> Result<bool> {
        match self.caller.data().kept.found.contains_key(&port) {
            true if count > 0 => Err(Code::Transfer),
            lasts => Ok(lasts),
        }
    }

    /// Calls a port that was found by a name that lasts, wherever that leads by then.
    async fn pursue(&mut self, port: u32, bytes: Bytes, at: Option<Time>) -> Result<Answer> {
        let state = self.caller.data_mut();
        let Some(Found { path, now, tide }) = state.kept.found.get(&port).cloned() else { return Err(Code::BadHandle) };
        let anew = || Afoot { port: now, tide, ..Afoot::default() };
        let mut afoot = state.kept.afoot.take().unwrap_or_else(anew);
        let calls = state.calls.as_mut().expect("a process on a fiber has a kernel");
        let came = found::pursue(&mut **calls, &path, &bytes, at, &mut afoot).await;
        if let Some(found) = state.kept.found.get_mut(&port) {
            (found.now, found.tide) = (afoot.port, afoot.tide);
        }
        match came {
            Came::Answer(answer) => Ok(answer),
            Came::Failed(error) => Err(error.into()),
            Came::Interrupted => {
                state.kept.afoot = Some(afoot);
                Err(Code::Interrupted)
            }
        }
    }

    async fn names(&mut self, request: names::Request, transfers: Box<[Transfer]>) -> Result<(names::Answer, Answer)> {
        let message = Message { bytes: request.encode(), handles: transfers };
        let at = self.caller.data_mut().now().after(NAMES_TIMEOUT_NS);
        let call = SystemCall::Call { port: NAMES, message, deadline: Deadline::at(at) };
        let answer = self.call(call, Wait::Until(at)).await?;
        match names::Answer::decode(&answer.bytes).map_err(|_| Code::Service)? {
            names::Answer::Failed(failure) => Err(failure.into()),
            decoded => Ok((decoded, answer)),
        }
    }
}

/// How a process ended, as two numbers: 0 and its code, or a kind from 1 on.
fn exit_numbers(exit: Exit) -> (u32, u32) {
    match exit {
        Exit::Code(code) => (0, code),
        Exit::Killed => (1, 0),
        Exit::Orphaned => (2, 0),
        Exit::Faulted(_) => (3, 0),
        Exit::NotStarted(_) => (4, 0),
        Exit::NodeLost => (5, 0),
    }
}

/// What a child is made of: where its parts lie in the memory of who spawns it.
struct Birth {
    file: i32,
    args: (u32, u32),
    env: (u32, u32),
    handles: (u32, u32),
    result: u32,
}

impl Program<'_, '_> {
    fn calls(&mut self) -> &mut dyn crate::SystemCalls {
        &mut **self.caller.data_mut().calls.as_mut().expect("a process on a fiber has a kernel")
    }

    async fn spawn(&mut self, birth: Birth, place: Option<&str>) -> Result<ProcessId> {
        let Birth { file, args, env, handles, result } = birth;
        self.check(result, 16)?;
        if self.caller.data().ports.is_some() {
            return Err(Code::NotDurable);
        }
        let args = strings(&self.text(args.0, args.1)?);
        let env = strings(&self.text(env.0, env.1)?);
        let env = env.iter().map(|one| one.split_once('=').map(|(name, value)| (name.into(), value.into())));
        let env = env.collect::<Option<Vec<(String, String)>>>().ok_or(Code::Options)?;
        let transfers = self.transfers(handles.0, handles.1).await?;
        let state = self.caller.data_mut();
        let wasm = match file {
            -1 => None,
            fd => Some(state.system.whole_file(fd as u32).map_err(|_| Code::Program)?),
        };
        let child = Child { wasm, args, env, has_own_log: place.is_some() };
        let Newborn { program, arguments, limits, weight } = self.calls().child(child).map_err(|_| Code::Program)?;
        let names = Transfer { handle: NAMES, rights: Rights::SENDER, mode: TransferMode::Copy };
        let spawn = Spawn {
            program,
            arguments,
            handles: std::iter::once(names).chain(transfers).collect(),
            limits,
            weight,
            orphan: Orphan::Dies,
            supervisor: None,
            again: None,
        };
        match self.ask(SystemCall::Spawn(Box::new(spawn))).await? {
            Outcome::Spawned(spawned) => {
                let spawned = spawned?;
                self.with(|memory| memory.write_u64(result + 8, spawned.id.serial()))?;
                self.give(result, spawned.process.0)?;
                Ok(spawned.id)
            }
            _ => Err(Code::Service),
        }
    }
}

fn number(result: Result<()>) -> std::result::Result<u32, Error> {
    Ok(result.map_or_else(|code| code as u32, |()| 0))
}

macro_rules! functions {
    ($($name:ident($program:ident $(, $argument:ident: $ty:ty)*) $body:block)*) => {
        /// Defines the module for processes on fibers.
        pub fn link_on_fibers(linker: &mut Linker<State>) -> std::result::Result<(), Error> {
            $(
                async fn $name($program: &mut Program<'_, '_>, $($argument: $ty),*) -> Result<()> $body
                linker.func_wrap_async(MODULE, stringify!($name),
                    |mut caller: Caller<'_, State>, ($($argument,)*): ($($ty,)*)| Box::new(async move {
                        loop {
                            caller.data().presence.check()?;
                            let done = $name(&mut Program::new(&mut caller), $($argument),*).await;
                            caller.data().presence.check()?;
                            if done != Err(Code::Interrupted) {
                                return number(done);
                            }
                            // Only who wants the process stopped interrupts it. If it was stopped already, it just goes on.
                            if caller.data_mut().system.is_interrupted() {
                                freeze::interrupt(&mut caller)?;
                                return Ok(0);
                            }
                        }
                    }))?;
            )*
            Ok(())
        }

        /// Defines it for processes without a node: every call says so.
        pub fn link(linker: &mut Linker<State>) -> std::result::Result<(), Error> {
            $(linker.func_wrap(MODULE, stringify!($name), |$(_: $ty),*| Code::NoNode as u32)?;)*
            Ok(())
        }

        const NAMES_PROVIDED: &[&str] = &[$(stringify!($name)),*];
    };
}

/// Is this a function that [`link`] defines?
pub fn provides(module: &str, name: &str) -> bool {
    module == MODULE && NAMES_PROVIDED.contains(&name)
}

functions! {
    port_create(program, messages_max: u32, bytes_max: u32, drops: u32, result: u32) {
        program.check(result, 4)?;
        let overflow = if drops == 0 { Overflow::Wait } else { Overflow::Drop };
        match program.ask(SystemCall::CreatePort(PortOptions { messages_max, bytes_max, overflow })).await? {
            Outcome::PortCreated(port) => program.give(result, port?.0),
            _ => Err(Code::Service),
        }
    }

    port_status(program, port: u32, result: u32) {
        program.check(result, 24)?;
        match program.ask(SystemCall::PortStatus { port: HandleId(port) }).await? {
            Outcome::PortStatus(status) => {
                let status = status?;
                program.with(|memory| {
                    memory.write_u32(result, status.messages)?;
                    memory.write_u32(result + 4, status.bytes)?;
                    memory.write_u32(result + 8, status.senders_waiting)?;
                    memory.write_u32(result + 12, status.receivers_waiting)?;
                    memory.write_u64(result + 16, status.dropped)
                })
            }
            _ => Err(Code::Service),
        }
    }

    send(program, port: u32, bytes: u32, length: u32, handles: u32, count: u32, deadline_ns: u64) {
        // What is to be done now or not at all is in the port's queue then, and lost with that.
        if program.lasts(port, count)? && deadline_ns != 0 {
            let at = program.at(deadline_ns);
            let bytes = found::as_sent(&program.bytes(bytes, length)?);
            return Box::pin(program.pursue(port, bytes, at)).await.map(|_| ());
        }
        let message = program.content(bytes, length, handles, count).await?;
        let mode = SendMode::Reliable(program.wait(deadline_ns));
        match program.ask(SystemCall::Send { port: HandleId(port), message, mode }).await? {
            Outcome::Sent(sent) => Ok(sent?),
            _ => Err(Code::Service),
        }
    }

    send_unreliable(program, port: u32, bytes: u32, length: u32) {
        let message = program.content(bytes, length, 0, 0).await?;
        match program.ask(SystemCall::Send { port: HandleId(port), message, mode: SendMode::Unreliable }).await? {
            Outcome::Sent(sent) => Ok(sent?),
            _ => Err(Code::Service),
        }
    }

    receive(program, port: u32, buffer: u32, room: u32, result: u32, deadline_ns: u64) {
        program.check(buffer, room as usize)?;
        program.check(result, message::SIZE)?;
        if let Some(received) = program.caller.data_mut().kept.messages.remove(&port) {
            return program.deliver(port, 0, received, buffer, room, result);
        }
        let wait = program.wait(deadline_ns);
        match program.ask(SystemCall::Receive { port: HandleId(port), wait }).await? {
            Outcome::Received(received) => program.deliver(port, 0, received?, buffer, room, result),
            _ => Err(Code::Service),
        }
    }

    select(program, ports: u32, count: u32, buffer: u32, room: u32, result: u32, deadline_ns: u64) {
        program.check(buffer, room as usize)?;
        program.check(result, message::SIZE)?;
        if count == 0 || count as usize > abi::call::SELECT_PORTS_MAX {
            return Err(Code::Options);
        }
        let listed = program.with(|memory| {
            let bytes = memory.slice(ports, count * 4)?;
            let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
            Ok(bytes.chunks(4).map(number).collect::<Vec<u32>>())
        })?;
        let mut sorted = listed.clone();
        sorted.sort_unstable();
        if sorted.windows(2).any(|two| two[0] == two[1]) {
            return Err(Code::Options);
        }
        for (index, port) in listed.iter().enumerate() {
            if let Some(received) = program.caller.data_mut().kept.messages.remove(port) {
                return program.deliver(*port, index as u32, received, buffer, room, result);
            }
        }
        let wait = program.wait(deadline_ns);
        let handles = listed.iter().copied().map(HandleId).collect();
        match program.ask(SystemCall::Select { ports: handles, wait }).await? {
            Outcome::Selected(selected) => {
                let (index, received) = selected?;
                program.deliver(listed[index as usize], index, received, buffer, room, result)
            }
            _ => Err(Code::Service),
        }
    }

    call(program, port: u32, bytes: u32, length: u32, handles: u32, count: u32, buffer: u32, room: u32, result: u32,
        deadline_ns: u64) {
        program.check(buffer, room as usize)?;
        program.check(result, 40)?;
        // A call that goes on has taken its message already, and the handles that were moved with it.
        if program.lasts(port, count)? {
            let at = program.at(deadline_ns);
            let bytes = program.bytes(bytes, length)?;
            let answer = Box::pin(program.pursue(port, bytes, at)).await?;
            return program.answer(answer, buffer, room, result);
        }
        let message = match program.caller.data().kept.call {
            None => program.content(bytes, length, handles, count).await?,
            Some(_) => Message::default(),
        };
        let (deadline, wait) = match deadline_ns {
            u64::MAX => (Deadline::NONE, Wait::Forever),
            _ => {
                let at = program.time(deadline_ns);
                (Deadline::at(at), Wait::Until(at))
            }
        };
        let call = SystemCall::Call { port: HandleId(port), message, deadline };
        let answer = program.call(call, wait).await?;
        program.answer(answer, buffer, room, result)
    }

    last_answer(program, buffer: u32, room: u32, result: u32) {
        program.check(buffer, room as usize)?;
        program.check(result, 40)?;
        match program.caller.data_mut().kept.answer.take() {
            Some(answer) => program.answer(answer, buffer, room, result),
            None => Err(Code::Empty),
        }
    }

    reply(program, handle: u32, bytes: u32, length: u32, handles: u32, count: u32) {
        let message = program.content(bytes, length, handles, count).await?;
        match program.ask(SystemCall::Reply { reply: HandleId(handle), message }).await? {
            Outcome::Replied(replied) => Ok(replied?),
            _ => Err(Code::Service),
        }
    }

    pipe_create(program, bytes_max: u32, result: u32) {
        program.check(result, 4)?;
        match program.ask(SystemCall::CreatePipe { bytes_max }).await? {
            Outcome::PipeCreated(pipe) => program.give(result, pipe?.0),
            _ => Err(Code::Service),
        }
    }

    pipe_read(program, pipe: u32, buffer: u32, room: u32, result: u32, deadline_ns: u64) {
        program.check(buffer, room as usize)?;
        program.check(result, 4)?;
        let (bytes_max, wait) = (room.min(MESSAGE_BYTES_MAX as u32), program.wait(deadline_ns));
        match program.ask(SystemCall::Read { pipe: HandleId(pipe), bytes_max, wait }).await? {
            Outcome::Read(bytes) => {
                let bytes = bytes?;
                program.with(|memory| memory.write(buffer, &bytes))?;
                program.give(result, bytes.len() as u32)
            }
            _ => Err(Code::Service),
        }
    }

    pipe_write(program, pipe: u32, bytes: u32, length: u32, result: u32, deadline_ns: u64) {
        program.check(result, 4)?;
        // So many were in it when the process was stopped in the middle of this call.
        let before = std::mem::take(&mut program.caller.data_mut().kept.written).min(length);
        let (bytes, wait) = (program.bytes(bytes + before, length - before)?, program.wait(deadline_ns));
        match program.ask(SystemCall::Write { pipe: HandleId(pipe), bytes, wait }).await? {
            Outcome::Written(Ok(())) => program.give(result, length),
            Outcome::Written(Err(WriteError { written, cause })) => {
                let written = before + written;
                if cause == WriteCause::Interrupted {
                    program.caller.data_mut().kept.written = written;
                }
                program.give(result, written)?;
                Err(cause.into())
            }
            _ => Err(Code::Service),
        }
    }

    handle_close(program, handle: u32) {
        let kept = &mut program.caller.data_mut().kept;
        kept.messages.remove(&handle);
        if let Some(Found { now, .. }) = kept.found.remove(&handle) {
            if let Some(now) = now {
                let _ = program.ask(SystemCall::Close { handle: now }).await?;
            }
            return Ok(());
        }
        match program.ask(SystemCall::Close { handle: HandleId(handle) }).await? {
            Outcome::Closed(closed) => Ok(closed?),
            _ => Err(Code::Service),
        }
    }

    handle_duplicate(program, handle: u32, rights: u32, result: u32) {
        program.check(result, 4)?;
        let rights = u16::try_from(rights).ok().and_then(Rights::from_bits).ok_or(Code::Options)?;
        match program.ask(SystemCall::Duplicate { handle: HandleId(handle), rights }).await? {
            Outcome::Duplicated(handle) => program.give(result, handle?.0),
            _ => Err(Code::Service),
        }
    }

    handle_rights(program, handle: u32, result: u32) {
        program.check(result, 4)?;
        match program.ask(SystemCall::Describe { handle: HandleId(handle) }).await? {
            Outcome::Described(described) => program.give(result, described?.rights.to_bits().into()),
            _ => Err(Code::Service),
        }
    }

    port_badge(program, port: u32, badge: u64, rights: u32, result: u32) {
        program.check(result, 4)?;
        let rights = u16::try_from(rights).ok().and_then(Rights::from_bits).ok_or(Code::Options)?;
        match program.ask(SystemCall::MakeBadge { port: HandleId(port), badge: Badge(badge), rights }).await? {
            Outcome::Badged(handle) => program.give(result, handle?.0),
            _ => Err(Code::Service),
        }
    }

    watch(program, subject: u32, port: u32, token: u64, result: u32) {
        program.check(result, 4)?;
        let notify = Notify { port: HandleId(port), token };
        match program.ask(SystemCall::Watch { subject: HandleId(subject), notify }).await? {
            Outcome::Watching(handle) => program.give(result, handle?.0),
            _ => Err(Code::Service),
        }
    }

    timer(program, at_ns: u64, port: u32, token: u64, result: u32) {
        program.check(result, 4)?;
        let (at, notify) = (program.time(at_ns), Notify { port: HandleId(port), token });
        match program.ask(SystemCall::SetTimer { at, notify }).await? {
            Outcome::TimerSet(handle) => program.give(result, handle?.0),
            _ => Err(Code::Service),
        }
    }

    name_bind(program, path: u32, length: u32, port: u32, replaces: u32) {
        let path = program.text(path, length)?;
        let existing = if replaces == 0 { names::Existing::Refuse } else { names::Existing::Replace };
        let transfer = Transfer { handle: HandleId(port), rights: Rights::SENDER, mode: TransferMode::Copy };
        program.names(names::Request::BindPort { path, existing }, Box::new([transfer])).await.map(|_| ())
    }

    name_unbind(program, path: u32, length: u32) {
        let path = program.text(path, length)?;
        program.names(names::Request::Unbind { path }, Box::default()).await.map(|_| ())
    }

    name_lookup(program, path: u32, length: u32, result: u32) {
        program.check(result, 4)?;
        let path = program.text(path, length)?;
        let handle = program.look_up(path).await?;
        program.give(result, handle.0)
    }

    // `file` is an open descriptor of the program, or -1 for this very program; `args` and `env` are strings that end with a NUL each.
    spawn(program, file: i32, args: u32, args_length: u32, env: u32, env_length: u32, handles: u32, count: u32,
        result: u32) {
        let birth = Birth { file, args: (args, args_length), env: (env, env_length), handles: (handles, count), result };
        program.spawn(birth, None).await.map(drop)
    }

    // The same; `place` says where the child is to be.
    spawn_placed(program, file: i32, args: u32, args_length: u32, env: u32, env_length: u32, handles: u32, count: u32,
        place: u32, place_length: u32, result: u32) {
        let birth = Birth { file, args: (args, args_length), env: (env, env_length), handles: (handles, count), result };
        let place = program.text(place, place_length)?;
        program.calls().place(&place)?;
        let child = program.spawn(birth, Some(&place)).await?;
        program.calls().placed(child, &place);
        Ok(())
    }

    process_wait(program, process: u32, result: u32, deadline_ns: u64) {
        program.check(result, 8)?;
        let wait = program.wait(deadline_ns);
        match program.ask(SystemCall::Wait { process: HandleId(process), wait }).await? {
            Outcome::Waited(exit) => {
                let (kind, code) = exit_numbers(exit?);
                program.give(result, kind)?;
                program.give(result + 4, code)
            }
            _ => Err(Code::Service),
        }
    }

    process_kill(program, process: u32) {
        match program.ask(SystemCall::Kill { process: HandleId(process) }).await? {
            Outcome::Killed(killed) => Ok(killed?),
            _ => Err(Code::Service),
        }
    }

    process_hold(program, process: u32) {
        match program.ask(SystemCall::Hold { process: HandleId(process) }).await? {
            Outcome::Held(held) => Ok(held?),
            _ => Err(Code::Service),
        }
    }

    process_release(program, process: u32) {
        match program.ask(SystemCall::Release { process: HandleId(process) }).await? {
            Outcome::Released(released) => Ok(released?),
            _ => Err(Code::Service),
        }
    }
}

fn strings(text: &str) -> Vec<String> {
    text.split_terminator('\0').map(String::from).collect()
}
