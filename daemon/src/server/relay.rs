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
//!
//! If the way breaks while a client only follows what a process prints, it is followed on from there, by another way, on its node or, if it
//! is durable, where it goes on.
//!
//! When the process moves, the node that it leaves says where to, and how much of the client's input the process has got; whoever handed
//! the connection on goes after it, and sends the rest again. So there is one hop however often it moves.

use super::streams::{Typed, is_readable};
use super::{Done, LOOK_INTERVAL, SETTLE_INTERVAL, Session, Shared, Undone, Via};
use crate::node::{ControlRefused, Output, Pid};
use crate::protocol::{self, Follow, Frame, MoveView, Origin, ProtocolError, Reason, Refusal, Reply, Request};
use crate::system::Reach;
use crate::system::view::{WhyNode, WhyView};
use abi::ids::NodeId;
use drivers::wire::Stream;
use std::collections::{BTreeSet, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A process is looked for behind at most so many others that said where it is.
const HOPS_MAX: u8 = 4;

/// How long somebody who waits for a process, or for its move, waits until it is heard of again, when the link to its node has broken.
pub(super) const LOST_PATIENCE: Duration = Duration::from_secs(15);

/// A process that is to move, and whose node was lost meanwhile, has come by then if it was already on its way: a node does not go on with
/// a move that nobody listens to.
const COMING_PATIENCE: Duration = Duration::from_secs(3);

impl Session<'_> {
    /// The node that a request is for, if it is another one than this.
    pub(super) fn elsewhere(&self, request: &mut Request) -> Done<Option<NodeId>> {
        let system = &self.shared.system;
        let target = match request {
            Request::Run(run) => self.place(&run.name, &run.program.hash, &run.arguments, &mut run.place)?,
            Request::Thaw(thaw) => self.place(&thaw.name, &thaw.program.hash, &[], &mut thaw.place)?,
            Request::Restore(restore) => self.place_restored(restore)?,
            // Of one whose node is not heard each node knows what it would say to it.
            Request::Why { pid } => return Ok(self.elsewhere_now(*pid)?.filter(|node| system.is_heard(*node))),
            request => match request.pid() {
                Some(pid) => match self.elsewhere_now(pid)? {
                    // Nobody knows of it: where it was born it is known what became of it, if anywhere.
                    None if self.via.is_none() && self.shared.node.process(pid).is_err() => pid.node(),
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
        if self.via.is_some() {
            self.shared.node.wait_arriving(pid);
        }
        // It runs here before others are told so, who would send the request round meanwhile.
        if self.shared.node.is_at_home(pid) {
            return Ok(None);
        }
        let found = system.locate(pid).filter(|node| *node != system.me());
        if found.is_some()
            && let Some(via) = &self.via
        {
            system.misled(via.node, pid);
            if via.hops >= HOPS_MAX {
                let why = format!("process {pid} is not where it is said to be, perhaps for this moment only");
                return Err(Undone::new(Reason::NoProcess, why));
            }
        }
        Ok(found)
    }

    /// What the next node is told of how the connection came to it.
    fn head(&self) -> [u8; 1] {
        [self.via.as_ref().map_or(0, |via| via.hops).saturating_add(1)]
    }

    /// Decides where a new process is to be, unless that was decided already.
    fn place(&self, name: &str, program: &str, args: &[String], place: &mut protocol::Placement) -> Done<NodeId> {
        if let Some(decided) = &place.decided {
            return Ok(decided.chosen.map_or(self.shared.system.me(), NodeId));
        }
        let decided = self.shared.system.place(name, program, args, place).map_err(not_placed)?;
        let chosen = decided.chosen.map(NodeId);
        place.decided = Some(decided);
        Ok(chosen.expect("a decision that chose no node is an error"))
    }

    /// Hands the connection on.
    pub(super) fn hand_on(&mut self, to: NodeId, request: &Request) -> Done {
        let there = self.shared.system.commands(to, &self.head()).map_err(unreachable)?;
        let back = begin(&there, request).map_err(|error| Undone::Refused(self.lost(to, &error)))?;
        let (mut sent, mut seen) = (Sent::default(), None);
        let (moved, lost_at) = match self.pass(to, there, back, &mut sent, &mut seen)? {
            Passed::Moved(moved) => (moved, None),
            Passed::Lost(lost) => (self.look_again(request, lost, seen, &sent)?, Some(Instant::now())),
        };
        self.go_on(moved, request.clone(), sent, lost_at)
    }

    /// The process has moved there, from here: says so to whoever handed the connection on, if somebody did.
    pub(super) fn moved_on(&mut self, to: NodeId, pid: Pid, follow: Follow, typed: Typed) -> Done<(MovedOn, Sent)> {
        if self.via.is_some() {
            // Whoever handed the connection on knows what the client sent, and the process did not get.
            self.reply(&Reply::MovedOn { node: to.0, follow: Some((pid, follow)), taken: typed.taken })?;
            return Err(Undone::Over);
        }
        let sent = Sent { counts: typed.wanted, bytes: typed.left.into(), forgotten: 0, ended: typed.end_left };
        Ok((MovedOn { node: to, follow: Some((pid, follow)), taken: 0 }, sent))
    }

    /// Goes after a process from node to node, until it ends or the client goes. `lost_at`: when the way to it broke last.
    pub(super) fn go_on(
        &mut self, mut moved: MovedOn, mut request: Request, mut sent: Sent, mut lost_at: Option<Instant>,
    ) -> Done {
        // A client that follows a process is told once that it does.
        let mut is_told = false;
        let mut astray = 0;
        // Where the client is in what the process prints.
        let mut seen = None;
        loop {
            let to = moved.node;
            if let Some((pid, follow)) = moved.follow {
                request = Request::Attach { pid, follow };
                is_told = true;
                seen = follow.from.position().map(|at| (pid, at));
            }
            if to == self.shared.system.me() {
                match self.come_home(&request, &mut sent, moved.taken, is_told)? {
                    None => return Ok(()),
                    Some((again, rest)) => {
                        (moved, sent) = (again, rest);
                        continue;
                    }
                }
            }
            let is_looked_for = lost_at.is_some_and(|at| at.elapsed() < LOST_PATIENCE);
            let (there, begun) = match self.begin_again(to, &request, &mut sent, moved.taken, is_told) {
                Ok((there, Begun::There(back))) => (there, back),
                // It is known where it is to be before it is there; and what broke may break again.
                Ok((_, Begun::Refused(refusal))) if is_looked_for && refusal.reason == Reason::NoProcess => {
                    std::thread::sleep(SETTLE_INTERVAL);
                    moved = self.look_again(&request, refusal, seen, &sent)?;
                    continue;
                }
                Err(Undone::Refused(lost)) if is_looked_for => {
                    moved = self.look_again(&request, lost, seen, &sent)?;
                    continue;
                }
                // No further request can come on this connection, if its bytes are a process's input.
                Ok((_, Begun::Refused(refusal))) | Err(Undone::Refused(refusal)) => return Err(Undone::Last(refusal)),
                Err(other) => return Err(other),
                Ok((_, Begun::Moved(_))) if astray >= HOPS_MAX => {
                    let why = "the process is not where it is said to be, perhaps for this moment only".into();
                    return Err(Undone::Last(Refusal { reason: Reason::NoProcess, why }));
                }
                Ok((_, Begun::Moved(node))) => {
                    astray += 1;
                    moved = MovedOn { node, follow: None, taken: moved.taken };
                    continue;
                }
            };
            astray = 0;
            moved = match self.pass(to, there, begun, &mut sent, &mut seen)? {
                Passed::Moved(moved) => moved,
                Passed::Lost(lost) => {
                    lost_at = Some(Instant::now());
                    self.look_again(&request, lost, seen, &sent)?
                }
            };
        }
    }

    /// The node was lost that had the request. What only waits can be asked again, where the process is now, and loses nothing by it; and a
    /// process that is to be somewhere may have come there.
    fn look_again(&mut self, request: &Request, lost: Refusal, seen: Option<(Pid, u64)>, sent: &Sent) -> Done<MovedOn> {
        let system = &self.shared.system;
        let (pid, destination) = match (request, request.follow(), seen) {
            (Request::Wait { pid }, ..) => (*pid, None),
            (Request::Move { pid, node }, ..) => match system.destination(node) {
                Ok(destination) => (*pid, Some(destination)),
                Err(_) => return Err(Undone::Last(lost)),
            },
            (_, Some(follow), Some(seen)) if sent.is_nothing() => return self.follow_again(follow, lost, seen),
            // How much of what was sent has come there is not known any more.
            _ => return Err(Undone::Last(lost)),
        };
        let began = Instant::now();
        while began.elapsed() < LOST_PATIENCE {
            let is_reached = |node: &NodeId| *node == system.me() || system.commands(*node, &self.head()).is_ok();
            match (system.locate(pid).filter(is_reached), destination) {
                (Some(node), Some(destination)) if node == destination => {
                    let total_us = began.elapsed().as_micros() as u64;
                    let moved = MoveView { total_us, ..MoveView::unseen(pid, destination, lost.why) };
                    self.reply(&Reply::Moved(moved))?;
                    return Err(Undone::Over);
                }
                (Some(_), Some(_)) if began.elapsed() < COMING_PATIENCE => {}
                (Some(node), _) => return Ok(MovedOn { node, follow: None, taken: 0 }),
                (None, _) => {}
            }
            self.still_working()?;
            std::thread::sleep(LOOK_INTERVAL);
        }
        Err(Undone::Last(lost))
    }

    /// The way broke to a process whose streams are followed. If it goes on, where it was or elsewhere, it is followed from where the
    /// client is in what it prints.
    fn follow_again(&mut self, follow: Follow, lost: Refusal, (pid, at): (Pid, u64)) -> Done<MovedOn> {
        let system = &self.shared.system;
        let until = Instant::now() + LOST_PATIENCE;
        // One that is begun anew prints from the beginning.
        while Instant::now() < until && !system.begins_anew(pid) {
            let is_reached = |node: &NodeId| match *node == system.me() {
                true => self.shared.node.console(pid).is_ok(),
                false => system.commands(*node, &self.head()).is_ok(),
            };
            if let Some(node) = system.locate(pid).filter(is_reached) {
                let follow = Follow { from: Origin::At(at), ..follow };
                return Ok(MovedOn { node, follow: Some((pid, follow)), taken: 0 });
            }
            self.still_working()?;
            std::thread::sleep(SETTLE_INTERVAL);
        }
        Err(Undone::Last(lost))
    }

    /// The process is here now.
    fn come_home(
        &mut self, request: &Request, sent: &mut Sent, taken: u64, is_told: bool,
    ) -> Done<Option<(MovedOn, Sent)>> {
        let (Request::Attach { pid, follow }, true) = (request, is_told) else {
            if let Some(pid) = request.pid() {
                self.shared.node.wait_arriving(pid);
            }
            return match self.answer_here(request.clone()) {
                Err(Undone::Elsewhere(node)) => Ok(Some((MovedOn { node, follow: None, taken: 0 }, Sent::default()))),
                done => done.map(|()| None),
            };
        };
        if sent.take(taken).is_none() {
            let why = format!("process {pid} is here now, but its input was too much to send again");
            return Err(Undone::Last(Refusal { reason: Reason::Unreachable, why }));
        }
        self.shared.node.wait_arriving(*pid);
        match self.shared.node.console(*pid) {
            Ok(console) => self.stream_here(*pid, console, *follow, std::mem::take(sent)),
            Err(ControlRefused::Moved { to, .. }) => {
                let moved = MovedOn { node: to, follow: Some((*pid, *follow)), taken: 0 };
                Ok(Some((moved, std::mem::take(sent))))
            }
            Err(refused) => Err(super::control(refused)),
        }
    }

    fn begin_again(
        &mut self, to: NodeId, request: &Request, sent: &mut Sent, taken: u64, is_told: bool,
    ) -> Done<(Stream, Begun)> {
        let there = self.shared.system.commands(to, &self.head()).map_err(unreachable)?;
        let mut talk = || {
            let mut back = begin(&there, request)?;
            let (Request::Attach { follow, .. }, true) = (request, is_told) else {
                return Ok(Begun::There(back));
            };
            let first = protocol::read_frame(&mut back)?.ok_or(ProtocolError::Truncated)?;
            match first.message()? {
                Reply::Refused(refusal) => return Ok(Begun::Refused(refusal)),
                Reply::MovedOn { node, .. } => return Ok(Begun::Moved(NodeId(node))),
                _ => {}
            }
            if follow.input {
                let mut forth = there.try_clone()?;
                let left = sent.take(taken).ok_or_else(|| io::Error::other("its input was too much to send again"))?;
                protocol::write_bytes(&mut forth, Output::Out, left)?;
                if sent.ended {
                    protocol::write_end(&mut forth)?;
                }
            }
            Ok(Begun::There(back))
        };
        let begun = talk().map_err(|error: ProtocolError| Undone::Refused(self.lost(to, &error)))?;
        Ok((there, begun))
    }

    fn lost(&self, node: NodeId, error: &dyn std::fmt::Display) -> Refusal {
        let why = format!("{} was lost meanwhile: {error}", self.shared.system.name_of(node));
        Refusal { reason: Reason::Unreachable, why }
    }

    /// Passes on what both sides say, until one of them ends, or the other one says that the process has moved.
    fn pass(
        &mut self, to: NodeId, there: Stream, mut back: BufReader<Stream>, sent: &mut Sent,
        seen: &mut Option<(Pid, u64)>,
    ) -> Done<Passed> {
        let mut forth = there.try_clone().map_err(|error| Undone::Refused(self.lost(to, &error)))?;
        let over = AtomicBool::new(false);
        let was_wanted = sent.counts;
        let counts = AtomicBool::new(sent.counts);
        let passed = std::thread::scope(|scope| {
            let (from, over, counts) = (&mut self.from, &over, &counts);
            let onward = std::thread::Builder::new().name(format!("to {to}")).stack_size(256 << 10);
            onward.spawn_scoped(scope, move || {
                // Ends with the client's end, or with the other direction.
                let _ = pass_on(from, &mut forth, sent, over, counts);
                if !over.load(Ordering::Acquire) {
                    let _ = forth.shutdown(Shutdown::Write);
                }
            })?;
            let passed = pass_back(&mut back, &mut self.to, was_wanted, counts, seen);
            over.store(true, Ordering::Release);
            let _ = there.shutdown(Shutdown::Both);
            Ok::<_, Undone>(passed)
        })?;
        match passed {
            Ok(Some(moved)) => Ok(Passed::Moved(moved)),
            Ok(None) => Err(Undone::Over),
            Err(Passing::Client(error)) => Err(error.into()),
            Err(Passing::Node(error)) => Ok(Passed::Lost(self.lost(to, &error))),
        }
    }

    /// This node's processes, and those of all others that answer.
    pub(super) fn all_processes(&mut self, ended: bool) -> Done {
        let mut known = BTreeSet::new();
        for part in self.shared.system.processes(ended) {
            match part {
                Ok(views) => {
                    known.extend(views.iter().map(|view| view.pid));
                    views.into_iter().try_for_each(|view| self.reply(&Reply::Process(view)))?;
                }
                Err((node, name, why)) => self.reply(&Reply::Missing { node: node.0, name, why })?,
            }
        }
        let lost = self.shared.system.lost(&known);
        lost.into_iter().try_for_each(|view| self.reply(&Reply::Process(view)))?;
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

/// What another node said first to a request that is asked there again.
enum Begun {
    /// Nothing that the client does not know; the rest is to be passed on.
    There(BufReader<Stream>),
    Refused(Refusal),
    /// It is not there any more either.
    Moved(NodeId),
}

/// Why passing on ended before all was said.
enum Passed {
    Moved(MovedOn),
    Lost(Refusal),
}

/// A process is on another node now, and is followed there.
pub(super) struct MovedOn {
    node: NodeId,
    /// How its streams are followed, from where they were followed to; none: the request is asked there again.
    follow: Option<(Pid, Follow)>,
    /// So many bytes of its input it has got.
    taken: u64,
}

/// What a client has sent of a process's input: some of it may have to be sent again, to another node.
#[derive(Default)]
pub(super) struct Sent {
    /// What comes from the client is such input: it was told that it is wanted.
    pub counts: bool,
    bytes: VecDeque<u8>,
    /// Bytes before those, which nobody can want any more.
    forgotten: u64,
    ended: bool,
}

/// More than is ever on its way between a client and a process.
const SENT_BYTES_MAX: usize = 8 << 20;

impl Sent {
    /// Its bytes, and whether its end came after them.
    pub fn into_parts(self) -> (Vec<u8>, bool) {
        (self.bytes.into(), self.ended)
    }

    fn is_nothing(&self) -> bool {
        self.forgotten == 0 && self.bytes.is_empty()
    }

    fn note(&mut self, frame: &Frame) {
        match frame {
            Frame::Bytes(bytes) => {
                self.bytes.extend(bytes);
                let more = self.bytes.len().saturating_sub(SENT_BYTES_MAX);
                self.bytes.drain(..more);
                self.forgotten += more as u64;
            }
            Frame::End => self.ended = true,
            _ => {}
        }
    }

    /// The process has got so many: gives those that it has not got.
    fn take(&mut self, taken: u64) -> Option<&[u8]> {
        let gone = taken.checked_sub(self.forgotten)? as usize;
        if gone > self.bytes.len() {
            return None;
        }
        self.bytes.drain(..gone);
        self.forgotten = 0;
        Some(self.bytes.make_contiguous())
    }
}

/// How often it is looked whether passing on is over while the client says nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

fn pass_on(
    from: &mut BufReader<UnixStream>, to: &mut Stream, sent: &mut Sent, over: &AtomicBool, counts: &AtomicBool,
) -> Result<(), ProtocolError> {
    loop {
        while from.buffer().is_empty() && !is_readable(from.get_ref(), LOOK_AGAIN) {
            if over.load(Ordering::Acquire) {
                return Ok(());
            }
        }
        if over.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(frame) = protocol::read_frame(from)? else { return Ok(()) };
        sent.counts |= counts.load(Ordering::Acquire);
        if sent.counts {
            sent.note(&frame);
        }
        protocol::pass_on(to, &frame)?;
        to.flush()?;
    }
}

fn pass_back(
    from: &mut impl Read, to: &mut UnixStream, mut was_wanted: bool, counts: &AtomicBool, seen: &mut Option<(Pid, u64)>,
) -> Result<Option<MovedOn>, Passing> {
    while let Some(frame) = protocol::read_frame(from).map_err(Passing::Node)? {
        if let Frame::Control(_) = &frame {
            match frame.clone().message() {
                Ok(Reply::MovedOn { node, follow, taken }) => {
                    return Ok(Some(MovedOn { node: NodeId(node), follow, taken }));
                }
                Ok(Reply::InputWanted) => {
                    counts.store(true, Ordering::Release);
                    // A client is told once.
                    if std::mem::take(&mut was_wanted) {
                        continue;
                    }
                }
                Ok(Reply::Started { pid, at }) => *seen = at.map(|at| (pid, at)),
                Ok(Reply::Lost { bytes }) => come_to(seen, bytes),
                _ => {}
            }
        }
        protocol::pass_on(to, &frame).map_err(Passing::Client)?;
        if let Frame::Bytes(bytes) | Frame::Errors(bytes) = &frame {
            come_to(seen, bytes.len() as u64);
        }
    }
    Ok(None)
}

/// So much further.
fn come_to(seen: &mut Option<(Pid, u64)>, bytes: u64) {
    if let Some((_, at)) = seen {
        *at += bytes;
    }
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
pub(super) fn adopt(shared: &Arc<Shared>, (node, hops): (NodeId, u8), stream: Stream) -> io::Result<()> {
    let (near, far) = UnixStream::pair()?;
    let broken = Arc::new(AtomicBool::new(false));
    super::welcome(shared, near, Some(Via { node, hops, broken: broken.clone() }));
    let (mut from, mut to) = (stream.try_clone()?, stream);
    let (mut into, out) = (far.try_clone()?, far);
    let named = |name: &str| std::thread::Builder::new().name(name.into()).stack_size(256 << 10);
    named("relay in").spawn(move || {
        // The client's end comes as an end.
        broken.store(io::copy(&mut from, &mut into).is_err(), Ordering::Release);
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
