//! Requests that are for another node: the connection is handed on to it. Knows frames and streams between nodes; not what is asked.
//!
//! ```text
//!   client  ── socket ──  this node  ── stream of the wire ──  the other node
//!      hello, request  ─►  reads one request, sees whom it is about
//!                          hello, the request, and all that follows, both ways, until one side ends
//! ```
//! So a terminal, an exit status, an image or an upload passes as if the client were there. The next request of the client goes to that
//! node too, which hands it on in turn if it is for a third: one hop more, and no state anywhere but how many hops there were, which
//! ends what would go round between nodes that are wrong about where a process is. What comes back is passed on in whole frames, so that
//! if the other node is lost the client can be told so.

use super::streams::Typed;
use super::{Done, Session, Shared, Undone};
use crate::node::{Output, Pid};
use crate::protocol::{self, Follow, ProtocolError, Reason, Refusal, Reply, Request};
use crate::system::Reach;
use crate::system::view::{WhyNode, WhyView};
use abi::ids::NodeId;
use drivers::wire::Stream;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A process is looked for behind at most so many others that said where it is.
const HOPS_MAX: u8 = 4;

impl Session<'_> {
    /// The node that a request is for, if it is another one than this.
    pub(super) fn elsewhere(&self, request: &mut Request) -> Done<Option<NodeId>> {
        let system = &self.shared.system;
        let target = match request {
            Request::Run(run) => self.place(&run.name, &run.program.hash, &mut run.place)?,
            Request::Thaw(thaw) => self.place(&thaw.name, &thaw.program.hash, &mut thaw.place)?,
            Request::Restore(restore) => self.place_restored(restore)?,
            request => match request.pid() {
                Some(pid) => match self.elsewhere_now(pid)? {
                    // Nobody knows of it: where it was born it is known why, if anywhere.
                    None if self.hops == 0 && self.shared.node.process(pid).is_err() => pid.node(),
                    found => return Ok(found),
                },
                None => return Ok(None),
            },
        };
        Ok((target != system.me()).then_some(target))
    }

    /// The other node that a process is on now, if it is known to be on one.
    pub(super) fn elsewhere_now(&self, pid: Pid) -> Done<Option<NodeId>> {
        let system = &self.shared.system;
        match system.locate(pid).filter(|node| *node != system.me()) {
            Some(_) if self.hops >= HOPS_MAX => Err(Undone::new(
                Reason::NoProcess,
                format!("process {pid} is not where it is said to be, perhaps for this moment only"),
            )),
            found => Ok(found),
        }
    }

    /// Decides where a new process is to be, unless that was decided already.
    fn place(&self, name: &str, program: &str, place: &mut protocol::Placement) -> Done<NodeId> {
        if let Some(decided) = &place.decided {
            return Ok(decided.chosen.map_or(self.shared.system.me(), NodeId));
        }
        let decided = self.shared.system.place(name, program, place).map_err(not_placed)?;
        let chosen = decided.chosen.map(NodeId);
        place.decided = Some(decided);
        Ok(chosen.expect("a decision that chose no node is an error"))
    }

    /// Hands the connection on.
    pub(super) fn hand_on(&mut self, to: NodeId, request: &Request) -> Done {
        let there = self.shared.system.commands(to, &self.next_hop()).map_err(unreachable)?;
        let back = begin(&there, request).map_err(|error| Undone::Refused(self.lost(to, &error)))?;
        self.pass(to, there, back, false)
    }

    /// Hands the connection on to where its process has moved. What the client sent and the process did not get goes first.
    pub(super) fn go_after(&mut self, to: NodeId, pid: Pid, follow: Follow, typed: Typed) -> Done {
        let attach = || {
            let there = self.shared.system.commands(to, &self.next_hop()).map_err(unreachable)?;
            let talk = || {
                let mut back = begin(&there, &Request::Attach { pid, follow })?;
                let first = protocol::read_frame(&mut back)?.ok_or(ProtocolError::Truncated)?;
                if let Reply::Refused(refusal) = first.message()? {
                    return Ok(Err(refusal));
                }
                let mut forth = there.try_clone()?;
                protocol::write_bytes(&mut forth, Output::Out, &typed.left)?;
                if typed.end_left {
                    protocol::write_end(&mut forth)?;
                }
                Ok(Ok(back))
            };
            let talked = talk().map_err(|error: ProtocolError| Undone::Refused(self.lost(to, &error)))?;
            Ok((there, talked.map_err(Undone::Refused)?))
        };
        // No further request can come on this connection: its bytes are the process's input.
        let (there, back) = attach().map_err(|undone| match undone {
            Undone::Refused(refusal) => Undone::Last(refusal),
            other => other,
        })?;
        self.pass(to, there, back, typed.wanted && follow.input)
    }

    /// What the next node is told: how many this request has passed.
    fn next_hop(&self) -> [u8; 1] {
        [self.hops.saturating_add(1)]
    }

    fn lost(&self, node: NodeId, error: &dyn std::fmt::Display) -> Refusal {
        let why = format!("{} was lost meanwhile: {error}", self.shared.system.name_of(node));
        Refusal { reason: Reason::Unreachable, why }
    }

    /// Passes on what both sides say, until one of them ends. `was_wanted`: the client has been told to send its input.
    fn pass(&mut self, to: NodeId, there: Stream, mut back: BufReader<Stream>, was_wanted: bool) -> Done {
        let mut forth = there.try_clone().map_err(|error| Undone::Refused(self.lost(to, &error)))?;
        let over = AtomicBool::new(false);
        let client = self.to.try_clone()?;
        let passed = std::thread::scope(|scope| {
            let (from, over) = (&mut self.from, &over);
            let onward = std::thread::Builder::new().name(format!("to {to}")).stack_size(256 << 10);
            onward.spawn_scoped(scope, move || {
                // Ends with the client's end, or when the other direction has ended and this socket is closed for reading.
                let _ = copy(from, &mut forth);
                if !over.load(Ordering::Acquire) {
                    let _ = forth.shutdown(Shutdown::Write);
                }
            })?;
            let passed = pass_back(&mut back, &mut self.to, was_wanted);
            over.store(true, Ordering::Release);
            let _ = there.shutdown(Shutdown::Both);
            let _ = client.shutdown(Shutdown::Read);
            Ok::<_, Undone>(passed)
        })?;
        match passed {
            Ok(()) => Err(Undone::Over),
            Err(Passing::Client(error)) => Err(error.into()),
            Err(Passing::Node(error)) => Err(Undone::Last(self.lost(to, &error))),
        }
    }

    /// Sends a message to a port on another node.
    pub(super) fn send_at(&self, node: NodeId, port: &str, message: &[u8], timeout: Duration) -> Done {
        let system = &self.shared.system;
        let mut there = system.commands(node, &self.next_hop()).map_err(unreachable)?;
        there.set_deadline(Some(Instant::now() + timeout + Duration::from_secs(2)));
        let request = Request::Send { port: port.into(), timeout_ms: timeout.as_millis() as u64 };
        let mut talk = || -> Result<Reply, ProtocolError> {
            let mut back = begin(&there, &request)?;
            protocol::write_bytes(&mut there, Output::Out, message)?;
            protocol::write_end(&mut there)?;
            loop {
                let frame = protocol::read_frame(&mut back)?.ok_or(ProtocolError::Truncated)?;
                match frame.message::<Reply>()? {
                    Reply::Working => {}
                    reply => return Ok(reply),
                }
            }
        };
        match talk() {
            Ok(Reply::Done) => Ok(()),
            Ok(Reply::Refused(refusal)) => Err(Undone::Refused(refusal)),
            Ok(other) => Err(Undone::new(Reason::Protocol, format!("another node answered {other:?}"))),
            // It may have arrived.
            Err(error) => {
                let why =
                    format!("{} was lost before it said whether the message arrived: {error}", system.name_of(node));
                Err(Undone::new(Reason::Unreachable, why))
            }
        }
    }

    /// This node's processes, and those of all others that answer.
    pub(super) fn all_processes(&mut self, ended: bool) -> Done {
        for part in self.shared.system.processes(ended) {
            match part {
                Ok(views) => views.into_iter().try_for_each(|view| self.reply(&Reply::Process(view)))?,
                Err((node, name, why)) => self.reply(&Reply::Missing { node: node.0, name, why })?,
            }
        }
        self.done()
    }
}

/// Speaks to another node's server as a client does; gives what comes back, behind its hello.
fn begin(there: &Stream, request: &Request) -> Result<BufReader<Stream>, ProtocolError> {
    let mut to = there.try_clone()?;
    protocol::write_hello(&mut to)?;
    protocol::write_message(&mut to, request)?;
    let mut back = BufReader::with_capacity(64 << 10, to);
    protocol::read_hello(&mut back)?;
    Ok(back)
}

/// Whose fault it was that passing on ended.
enum Passing {
    Client(ProtocolError),
    Node(ProtocolError),
}

fn pass_back(from: &mut impl Read, to: &mut UnixStream, mut was_wanted: bool) -> Result<(), Passing> {
    while let Some(frame) = protocol::read_frame(from).map_err(Passing::Node)? {
        // A client is told once.
        if was_wanted && matches!(frame.clone().message(), Ok(Reply::InputWanted)) {
            was_wanted = false;
            continue;
        }
        protocol::pass_on(to, &frame).map_err(Passing::Client)?;
    }
    Ok(())
}

fn copy(from: &mut impl BufRead, to: &mut impl Write) -> io::Result<()> {
    loop {
        let length = match from.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(bytes) => {
                to.write_all(bytes)?;
                bytes.len()
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        from.consume(length);
        to.flush()?;
    }
}

pub(super) fn unreachable(reach: Reach) -> Undone {
    let reason = match &reach {
        Reach::NoSuchNode(_) => Reason::NoNode,
        Reach::NotHeard { .. } => Reason::Unreachable,
    };
    Undone::new(reason, reach)
}

pub(super) fn not_placed(why: WhyView) -> Undone {
    let line = |WhyNode { name, reason, .. }: &WhyNode| format!("{name}: {reason}");
    Undone::new(Reason::NoPlace, why.nodes.iter().map(line).collect::<Vec<_>>().join("\n"))
}

/// A connection from another node becomes one of this node's own clients.
pub(super) fn adopt(shared: &Arc<Shared>, head: &[u8], stream: Stream) -> io::Result<()> {
    let (near, far) = UnixStream::pair()?;
    super::welcome(shared, near, head.first().copied().unwrap_or(1));
    let (mut from, mut to) = (stream.try_clone()?, stream);
    let (mut into, out) = (far.try_clone()?, far);
    let named = |name: &str| std::thread::Builder::new().name(name.into()).stack_size(256 << 10);
    named("relay in").spawn(move || {
        let _ = io::copy(&mut from, &mut into);
        let _ = into.shutdown(Shutdown::Write);
    })?;
    named("relay out").spawn(move || {
        // Whichever side ended it, both are done.
        let _ = copy(&mut BufReader::with_capacity(64 << 10, &out), &mut to);
        let _ = to.shutdown(Shutdown::Both);
        let _ = out.shutdown(Shutdown::Both);
    })?;
    Ok(())
}
