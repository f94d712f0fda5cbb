//! Answers clients of a node: one thread for each connection, one request after another. Knows the protocol and the node's public
//! acts; not how the node does them.
//!
//! What a client does, or stops doing, never hurts the node: connections are bounded in number, everything that arrives is
//! checked, and when the node ends all connections are closed, which ends every wait for a client.

mod files;
mod keep;
mod programs;
mod relay;
mod streams;
mod system;

use crate::node::{
    self, Asker, ControlRefused, DepartRefused, ForkOrder, ForkRefused, Freeze, FreezeRefused, Node, Order, Output,
    Pid, PortError, RunRefused, Started, ThawOrder,
};
use crate::protocol::{self, Afterwards, Follow, More, ProtocolError, Reason, Refusal, Reply, Request, Status};
use crate::system::keep::KeepRefused;
use crate::system::supervise::Killed;
use crate::system::view::{WhyView, Wish};
use crate::system::{MoveRefused, NotForked, System};
use abi::ids::NodeId;
use programs::Programs;
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// More are refused with a word to each.
pub const CONNECTIONS_MAX: usize = 512;

/// How long a new connection may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a long wait looks whether its client is still there, and tells it that it goes on.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How often it is looked whether the end of a process has been written down.
const SETTLE_INTERVAL: Duration = Duration::from_millis(20);

/// For a thread that serves a connection: compiling happens on threads of its own.
const STACK_BYTES: usize = 1 << 20;

pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    node: Node,
    system: System,
    numbers: AtomicU64,
    programs: Programs,
    /// So that they can be closed at the end.
    connections: Mutex<BTreeMap<u64, UnixStream>>,
    stopping: AtomicBool,
    /// Told once, by whoever wants the node down.
    wants_down: Mutex<Option<std::sync::mpsc::Sender<()>>>,
}

impl Server {
    /// `library` is where programs are kept by their hash.
    pub fn new(node: Node, system: System, library: &Path) -> Server {
        let shared = Arc::new(Shared {
            node,
            system,
            numbers: AtomicU64::new(0),
            programs: Programs::new(library),
            connections: Mutex::new(BTreeMap::new()),
            stopping: AtomicBool::new(false),
            wants_down: Mutex::new(None),
        });
        let weak = Arc::downgrade(&shared);
        shared.system.on_commands(Box::new(move |from, head, stream| {
            if let Some(shared) = weak.upgrade() {
                // Without threads or descriptors the stream is dropped, which tells the other side.
                let _ = relay::adopt(&shared, (from, head.first().copied().unwrap_or(1)), stream);
            }
        }));
        Server { shared }
    }

    /// Serves until somebody asks for the end; then nobody is served any more. The node itself is not shut down.
    pub fn serve(
        &self, listener: UnixListener, until: std::sync::mpsc::Receiver<()>, down: std::sync::mpsc::Sender<()>,
    ) {
        *self.shared.wants_down.lock().expect("nothing panics while it holds this lock") = Some(down);
        let shared = self.shared.clone();
        let accepting = std::thread::Builder::new().name("accept".into()).spawn(move || accept(&shared, &listener));
        if accepting.is_ok() {
            // An error means that nobody is left who could ask for the end.
            let _ = until.recv();
        }
        self.shared.stopping.store(true, Ordering::Release);
    }

    /// Closes every connection. Who waits for an answer learns that the node is gone.
    pub fn close(&self) {
        for stream in self.shared.connections().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, UnixStream>> {
        self.connections.lock().expect("nothing panics while it holds this lock")
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

fn accept(shared: &Arc<Shared>, listener: &UnixListener) {
    for stream in listener.incoming() {
        if shared.is_stopping() {
            return;
        }
        let Ok(stream) = stream else {
            // Out of descriptors or memory: they come back as clients leave.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        if is_same_user(&stream) {
            welcome(shared, stream, None);
        }
    }
}

/// Serves a connection on a thread of its own.
fn welcome(shared: &Arc<Shared>, stream: UnixStream, via: Option<Via>) {
    let number = shared.numbers.fetch_add(1, Ordering::Relaxed);
    let enough = shared.connections().len() >= CONNECTIONS_MAX;
    match stream.try_clone() {
        Ok(copy) if !enough => shared.connections().insert(number, copy),
        _ => return refuse_busy(stream),
    };
    let serving = std::thread::Builder::new().name(format!("client {number}")).stack_size(STACK_BYTES);
    let (of_thread, of_failure) = (shared.clone(), shared.clone());
    let served = serving.spawn(move || {
        // What went wrong is told to the client; nobody else can do anything about it.
        let _ = Session::run(&of_thread, stream, via);
        of_thread.connections().remove(&number);
    });
    if served.is_err() {
        of_failure.connections().remove(&number);
    }
}

fn refuse_busy(mut stream: UnixStream) {
    let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
    let why = format!("the daemon serves {CONNECTIONS_MAX} clients already");
    let _ = protocol::write_hello(&mut stream);
    let _ = protocol::write_message(&mut stream, &Reply::Refused(Refusal { reason: Reason::Busy, why }));
}

fn is_same_user(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == own || peer.uid.is_root())
}

/// How a connection came here: from that node, and over how many in all.
struct Via {
    node: abi::ids::NodeId,
    hops: u8,
    /// The way broke over which it came. The client may still be there, and come again by another.
    broken: Arc<AtomicBool>,
}

/// One connection.
struct Session<'a> {
    shared: &'a Shared,
    from: BufReader<UnixStream>,
    to: UnixStream,
    /// None: from this machine.
    via: Option<Via>,
    /// The node's tree, once it has been asked for.
    files: Option<Box<dyn abi::file::FileSystem>>,
}

/// Why a request was not done: told to the client. The connection goes on, unless it is the protocol that was broken.
enum Undone {
    Refused(Refusal),
    Broken(ProtocolError),
    /// It was refused, and nothing more can be asked on this connection.
    Last(Refusal),
    /// All has been said, by another node.
    Over,
    /// It is for another node: the process has moved there.
    Elsewhere(NodeId),
}

impl Undone {
    fn new(reason: Reason, why: impl std::fmt::Display) -> Undone {
        Undone::Refused(Refusal { reason, why: why.to_string() })
    }
}

impl<E: Into<ProtocolError>> From<E> for Undone {
    fn from(error: E) -> Undone {
        Undone::Broken(error.into())
    }
}

type Done<T = ()> = Result<T, Undone>;

impl<'a> Session<'a> {
    fn run(shared: &'a Shared, stream: UnixStream, via: Option<Via>) -> Result<(), ProtocolError> {
        stream.set_read_timeout(Some(HELLO_TIMEOUT))?;
        let to = stream.try_clone()?;
        let from = BufReader::with_capacity(64 << 10, stream);
        let mut session = Session { shared, from, to, via, files: None };
        protocol::write_hello(&mut session.to)?;
        protocol::read_hello(&mut session.from)?;
        session.from.get_ref().set_read_timeout(None)?;
        loop {
            let next = match protocol::read_frame(&mut session.from) {
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => frame.message::<Request>(),
                Err(error) => Err(error),
            };
            let done = next.map_err(Undone::Broken).and_then(|request| session.answer(request));
            match done {
                Ok(()) => {}
                Err(Undone::Refused(refusal)) => session.reply(&Reply::Refused(refusal))?,
                Err(Undone::Last(refusal)) => return session.reply(&Reply::Refused(refusal)),
                Err(Undone::Over) => return Ok(()),
                Err(Undone::Elsewhere(_)) => unreachable!("such a request is handed on"),
                Err(Undone::Broken(error)) => {
                    // It may be the client's end, of which there is nobody to tell.
                    let why = error.to_string();
                    let _ = session.reply(&Reply::Refused(Refusal { reason: Reason::Protocol, why }));
                    return Err(error);
                }
            }
        }
    }

    fn reply(&mut self, reply: &Reply) -> Result<(), ProtocolError> {
        protocol::write_message(&mut self.to, reply)
    }

    fn done(&mut self) -> Done {
        Ok(self.reply(&Reply::Done)?)
    }

    fn answer(&mut self, request: Request) -> Done {
        let of_claimed = matches!(request, Request::Wait { .. } | Request::Kill { .. }).then(|| request.clone());
        match (self.answer_anywhere(request), of_claimed) {
            // No node knows of it any more, or the one that does is not heard.
            (Err(undone @ (Undone::Refused(_) | Undone::Last(_))), Some(Request::Wait { pid })) => {
                match self.shared.system.written_end(pid) {
                    Some(end) => Ok(self.reply(&Reply::Ended { end })?),
                    None => Err(undone),
                }
            }
            (Err(undone @ Undone::Refused(_)), Some(Request::Kill { pid })) => {
                match self.shared.system.kill_lost(pid) {
                    Ok(true) => self.done(),
                    Ok(false) if self.shared.system.written_end(pid).is_some() => {
                        Err(control(ControlRefused::Ended(pid)))
                    }
                    Ok(false) => Err(undone),
                    // It has just been taken up.
                    Err(KeepRefused::Superseded(_)) => self.answer_anywhere(Request::Kill { pid }),
                    Err(refused) => Err(keep::undone(refused)),
                }
            }
            (done, _) => done,
        }
    }

    fn answer_anywhere(&mut self, mut request: Request) -> Done {
        if let Some(node) = self.elsewhere(&mut request)? {
            return self.hand_on(node, &request);
        }
        let pid = request.pid();
        match self.answer_here(request.clone()) {
            // It moved away meanwhile.
            Err(Undone::Elsewhere(node)) if self.via.is_some() => {
                self.reply(&Reply::MovedOn { node: node.0, follow: None, taken: 0 })?;
                Err(Undone::Over)
            }
            Err(Undone::Elsewhere(node)) => self.hand_on(node, &request),
            Err(Undone::Refused(refusal)) if refusal.reason == Reason::NoProcess => {
                match pid.map_or(Ok(None), |pid| self.elsewhere_now(pid))? {
                    Some(node) => self.hand_on(node, &request),
                    None => Err(Undone::Refused(refusal)),
                }
            }
            done => done,
        }
    }

    fn answer_here(&mut self, request: Request) -> Done {
        let node = &self.shared.node;
        match request {
            Request::Status => {
                let version = protocol::version().to_string();
                let status = Status { version, host_pid: std::process::id(), node: node.status() };
                Ok(self.reply(&Reply::Status(status))?)
            }
            Request::Processes { ended } => self.all_processes(ended),
            Request::Process { pid } => {
                let view = node.process(pid).map_err(control)?;
                Ok(self.reply(&Reply::Process(view))?)
            }
            Request::Run(run) => self.run_program(run),
            Request::Thaw(thaw) => self.thaw(thaw),
            Request::Attach { pid, follow } => {
                let console = node.console(pid).map_err(control)?;
                let follow = streams::placed(&console, follow);
                self.reply(&Reply::Started { pid, at: follow.from.position() })?;
                self.stream(pid, console, follow)
            }
            Request::Kill { pid } => self.kill(pid),
            Request::Stop { pid } => node.stop(pid).map_err(control).and_then(|()| self.done()),
            Request::Cont { pid } => node.cont(pid).map_err(control).and_then(|()| self.done()),
            Request::Wait { pid } => loop {
                if let Some(end) = node.wait(pid, LOOK_INTERVAL).map_err(control)?
                    && self.is_settled(pid)
                {
                    return Ok(self.reply(&Reply::Ended { end })?);
                }
                self.still_working()?;
            },
            Request::Freeze { pid, with_program, afterwards } => self.freeze(pid, with_program, afterwards),
            Request::Checkpoint { pid, name } => self.checkpoint(pid, name),
            Request::Checkpoints { pid, verify } => self.checkpoints(pid, verify),
            Request::Restore(restore) => self.restore(restore),
            Request::Undo { pid, which } => self.undo(pid, which),
            Request::RemoveCheckpoints { pid, which } => self.remove_checkpoints(pid, which),
            Request::Move { pid, node } => self.move_process(pid, &node),
            Request::Fork { pid, count, on } => self.fork(pid, ForkOrder { count, on }),
            Request::Send { port, timeout_ms } => {
                let mut message = vec![];
                self.content().take(protocol::MESSAGE_BYTES_MAX as u64 + 1).read_to_end(&mut message)?;
                if message.len() > protocol::MESSAGE_BYTES_MAX {
                    let (bytes, max) = (message.len(), protocol::MESSAGE_BYTES_MAX);
                    return Err(ProtocolError::TooLong { bytes, max }.into());
                }
                self.send(&port, &message, Duration::from_millis(timeout_ms))
            }
            Request::Receive { port, timeout_ms } => self.receive(&port, Duration::from_millis(timeout_ms)),
            Request::List { path } => self.list(&path),
            Request::Look { path } => self.look(&path),
            Request::Read { path } => self.read_file(&path),
            Request::Write { path } => self.write_file(&path),
            Request::MakeDirectory { path, parents } => self.make_directory(&path, parents),
            Request::Remove { path, recursive } => self.remove(&path, recursive),
            Request::Rename { from, to } => self.rename(&from, &to),
            Request::Down => self.down(),
            request => self.answer_of_system(request),
        }
    }

    /// Also one that is to be begun again and does not live at this moment.
    fn kill(&mut self, pid: Pid) -> Done {
        loop {
            match self.shared.system.kill_for_good(pid) {
                Killed::NotYet => {}
                Killed::Done => {
                    // It may not live now.
                    let _ = self.shared.node.kill(pid);
                    return self.done();
                }
                Killed::NotHere => return self.shared.node.kill(pid).map_err(control).and_then(|()| self.done()),
            }
            self.still_working()?;
            std::thread::sleep(SETTLE_INTERVAL);
        }
    }

    /// May anybody be told that it ended? Waits a little if not.
    fn is_settled(&self, pid: Pid) -> bool {
        let unsettled = self.shared.system.is_unsettled(pid);
        if unsettled {
            std::thread::sleep(SETTLE_INTERVAL);
        }
        !unsettled
    }

    fn content(&mut self) -> protocol::Content<'_, BufReader<UnixStream>> {
        protocol::Content::new(&mut self.from)
    }

    /// Tells the client that a wait goes on; fails if it has gone.
    fn still_working(&mut self) -> Done {
        if self.shared.is_stopping() {
            return Err(Undone::new(Reason::Stopping, "the node is stopping"));
        }
        Ok(self.reply(&Reply::Working)?)
    }

    fn run_program(&mut self, run: protocol::Run) -> Done {
        let protocol::Run { program, name, arguments, environment, place, lasting } = run;
        let hash = program.hash.clone();
        let program = self.program(&program)?;
        let protocol::Placement { mounts, limits, mut stdio, follow, wish, decided } = place;
        stdio.held = lasting.durable_every_ms.is_some();
        if stdio.held {
            let mut session = [0; 8];
            let filled = abi::file::Entropy::fill(&mut drivers::HostEntropy, &mut session);
            filled.map_err(|errno| Undone::new(Reason::NotRun, format!("no random numbers: {errno}")))?;
            stdio.session = u64::from_le_bytes(session);
        }
        let looked_after = lasting
            .is_wanted()
            .then(|| keep::supervision(lasting, (&name, &arguments, &environment), &hash, (&mounts, &limits, stdio)));
        let order = Order { program, name, args: arguments, env: environment, mounts, limits, stdio };
        let started = self.shared.node.run(order).map_err(refused)?;
        self.note_guest(started.pid, &wish);
        if let Some(supervision) = looked_after
            && let Err(error) = self.shared.system.supervise(started.pid, &started.console, supervision)
        {
            started.console.give_up_first();
            let _ = self.shared.node.kill(started.pid);
            return Err(keep::undone(error));
        }
        self.started(started, decided, follow)
    }

    /// A process that was begun here for somebody on another node is a guest, unless they named this one.
    fn note_guest(&self, pid: Pid, wish: &Wish) {
        if self.via.is_some() && wish.on.is_none() {
            self.shared.node.set_guest(pid);
        }
    }

    fn started(&mut self, started: Started, decided: Option<WhyView>, follow: Option<Follow>) -> Done {
        let Started { pid, console } = started;
        self.shared.system.started(pid, decided);
        let follow = follow.map(|follow| streams::placed(&console, follow));
        let at = follow.and_then(|follow| follow.from.position());
        if let Err(error) = self.reply(&Reply::Started { pid, at }) {
            // Who does not even know its number cannot have wanted it to go on.
            console.give_up_first();
            let _ = self.shared.node.kill(pid);
            return Err(error.into());
        }
        match follow {
            Some(follow) => self.stream(pid, console, follow),
            None => {
                console.give_up_first();
                Ok(())
            }
        }
    }

    fn thaw(&mut self, thaw: protocol::Thaw) -> Done {
        let protocol::Thaw { program, name, place } = thaw;
        let program = self.program(&program)?;
        let protocol::Placement { mounts, limits, stdio, follow, wish, decided } = place;
        let order = ThawOrder { program, name, mounts, limits, stdio };
        // It goes through a file without a name, because the image comes from a client that may stop in the middle of it, and what
        // reads it holds a process's place meanwhile.
        self.reply(&Reply::ImageWanted)?;
        let image = self.spool()?;
        let image = engine::Image::open(BufReader::with_capacity(1 << 20, image))
            .map_err(|error| Undone::new(Reason::NotRun, format!("not an image that can be continued: {error}")))?;
        let started = self.shared.node.thaw(image, order).map_err(refused)?;
        self.note_guest(started.pid, &wish);
        self.started(started, decided, follow)
    }

    fn move_process(&mut self, pid: Pid, to: &str) -> Done {
        let system = self.shared.system.clone();
        let moved = system.move_process(pid, to, &mut |stage| self.reply(&Reply::Moving(stage)).is_ok());
        match moved {
            Ok(moved) => Ok(self.reply(&Reply::Moved(moved))?),
            Err(MoveRefused::Depart(DepartRefused::Stop(refused))) => Err(frozen(refused)),
            Err(refused @ MoveRefused::NoNode(_)) => Err(Undone::new(Reason::NoNode, refused)),
            Err(refused @ (MoveRefused::NotHeard { .. } | MoveRefused::Gone { .. })) => {
                Err(Undone::new(Reason::Unreachable, refused))
            }
            Err(refused) => Err(Undone::new(Reason::NotMoved, refused)),
        }
    }

    fn fork(&mut self, pid: Pid, order: ForkOrder) -> Done {
        let system = self.shared.system.clone();
        let forked = self.with_patience(move || system.fork(pid, &order, Asker::Others))?;
        match forked {
            Ok(view) => Ok(self.reply(&Reply::Forked(view))?),
            Err(NotForked::Refused(ForkRefused::Stop(refused))) => Err(frozen(refused)),
            Err(NotForked::NoPlace(why)) => Err(relay::not_placed(why)),
            Err(refused @ NotForked::NoNode(_)) => Err(Undone::new(Reason::NoNode, refused)),
            Err(refused) => Err(Undone::new(Reason::NotForked, refused)),
        }
    }

    fn spool(&mut self) -> Done<std::fs::File> {
        use rustix::fs::{MemfdFlags, memfd_create};
        let full = |error: io::Error| Undone::new(Reason::NotRun, format!("no room for the image: {error}"));
        let mut file =
            std::fs::File::from(memfd_create("image", MemfdFlags::CLOEXEC).map_err(|error| full(error.into()))?);
        io::copy(&mut self.content(), &mut file)?;
        io::Seek::rewind(&mut file)?;
        Ok(file)
    }

    fn freeze(&mut self, pid: Pid, with_program: bool, afterwards: Afterwards) -> Done {
        let this = &self.shared.node;
        let view = this.process(pid).map_err(control)?;
        self.reply(&Reply::Process(view))?;
        let afterwards = match afterwards {
            Afterwards::End => node::Afterwards::End,
            Afterwards::RunOn => node::Afterwards::RunOn,
        };
        let how = Freeze { with_program, afterwards };
        let mut out = ImageOut { from: &mut self.from, to: &mut self.to, piece: vec![], is_safe: false };
        this.freeze(pid, how, &mut out).map_err(frozen)?;
        if !out.is_safe {
            out.flush()?;
        }
        self.done()
    }

    fn send(&mut self, port: &str, message: &[u8], timeout: Duration) -> Done {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.shared.node.send(port, message, left.min(LOOK_INTERVAL)) {
                Ok(()) => return self.done(),
                // Nothing was sent then.
                Err(PortError::Expired) if left > LOOK_INTERVAL => self.still_working()?,
                Err(error) => return Err(port_error(error)),
            }
        }
    }

    fn receive(&mut self, port: &str, timeout: Duration) -> Done {
        let receiver = self.shared.node.receiver(port).map_err(port_error)?;
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match receiver.receive(left.min(LOOK_INTERVAL)) {
                Ok(message) => {
                    protocol::write_bytes(&mut self.to, Output::Out, &message)?;
                    return Ok(protocol::write_end(&mut self.to)?);
                }
                // Between two looks no message can be taken and lost.
                Err(PortError::Expired) if left > LOOK_INTERVAL => self.still_working()?,
                Err(error) => return Err(port_error(error)),
            }
        }
    }

    fn down(&mut self) -> Done {
        let wanted = self.shared.wants_down.lock().expect("nothing panics while it holds this lock").take();
        let Some(wanted) = wanted else {
            return Err(Undone::new(Reason::Stopping, "the node is stopping already"));
        };
        // The answer comes when all is safe: the connection is closed with it.
        self.done()?;
        let _ = wanted.send(());
        Ok(())
    }
}

/// An image on its way to the client, who keeps it. The process ends only when the client has it on its disk, which is what `flush`
/// waits for.
struct ImageOut<'a> {
    from: &'a mut BufReader<UnixStream>,
    to: &'a mut UnixStream,
    piece: Vec<u8>,
    is_safe: bool,
}

/// How long a disk may take to make an image safe.
const SAFE_TIMEOUT: Duration = Duration::from_secs(120);

impl ImageOut<'_> {
    fn send(&mut self) -> io::Result<()> {
        protocol::write_bytes(self.to, Output::Out, &self.piece).map_err(io::Error::other)?;
        self.piece.clear();
        Ok(())
    }
}

impl Write for ImageOut<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= protocol::PIECE_BYTES_MAX {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_safe && self.piece.is_empty() {
            // Asked twice: nothing has come since.
            return Ok(());
        }
        self.send()?;
        protocol::write_end(self.to).map_err(io::Error::other)?;
        self.from.get_ref().set_read_timeout(Some(SAFE_TIMEOUT))?;
        let word = protocol::read_frame(self.from).and_then(|frame| match frame {
            Some(frame) => frame.message::<More>(),
            None => Err(ProtocolError::Truncated),
        });
        self.from.get_ref().set_read_timeout(None)?;
        match word {
            Ok(More::Safe) => self.is_safe = true,
            Err(error) => {
                return Err(io::Error::other(format!("whoever asked for it did not keep it: {error}")));
            }
        }
        Ok(())
    }
}

fn control(refused: ControlRefused) -> Undone {
    let reason = match refused {
        ControlRefused::NoSuchProcess(_) => Reason::NoProcess,
        ControlRefused::Ended(_) => Reason::Ended,
        ControlRefused::Service(_) => Reason::NoProcess,
        ControlRefused::Stopping => Reason::Stopping,
        ControlRefused::Moved { to, .. } => return Undone::Elsewhere(to),
    };
    Undone::new(reason, refused)
}

fn refused(refused: RunRefused) -> Undone {
    let reason = match &refused {
        RunRefused::Mount { .. } => Reason::File,
        RunRefused::Limit(_) => Reason::Busy,
        RunRefused::Stopping => Reason::Stopping,
        RunRefused::Start(_) | RunRefused::Thaw(_) | RunRefused::Alive(_) | RunRefused::Streams => Reason::NotRun,
        RunRefused::NotDurable(_) | RunRefused::Handles(_) | RunRefused::Mailbox(_) | RunRefused::Limits => {
            Reason::NotRun
        }
    };
    Undone::new(reason, refused)
}

fn frozen(refused: FreezeRefused) -> Undone {
    match refused {
        FreezeRefused::Control(refused) => control(refused),
        refused => Undone::new(Reason::NotFrozen, refused),
    }
}

fn port_error(error: PortError) -> Undone {
    let reason = match &error {
        PortError::Expired => Reason::Expired,
        PortError::Unknown(_) => Reason::NotFound,
        PortError::Undecided(_) => Reason::NoQuorum,
        PortError::Unreachable(_) => Reason::Unreachable,
        _ => Reason::Port,
    };
    Undone::new(reason, error)
}
