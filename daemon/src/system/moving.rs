//! A process goes from one node to another while it runs. Knows streams between nodes and the order of things; what a process is, and when
//! it is where, the nodes and their kernels know.
//!
//! ```text
//!   here                                             there
//!   head: who comes          ───────────────►        the program is found, or
//!                            ◄─── wants program ──   sent; it is loaded
//!                            ◄─── prepared ──────
//!   its memory, while it runs, in rounds ───►        put where it will be
//!   what it wrote so far     ───────────────►
//!   it stops
//!   state, streams, image    ───────────────►        all is made ready; its kernel expects it
//!                            ◄─── ready ─────────
//!   the kernel lets it go    ═══ session ═══════►    the kernel has it, and it runs
//!                            ◄─── runs ──────────
//!   what it wrote last       ◄──── pages ──────►     as it is touched (`pages`)
//! ```
//! So how long it stands still does not depend on how much memory it has.
//!
//! Whatever fails before the kernel lets it go leaves the process here, running; the other side is told by the kernel (`forgo`) that it
//! will not come, since this stream may be what failed. Afterwards it is there. A process is on one node at any moment, and never on none.
//!
//! Frames: length (32 bits), content. A frame without content is the end of many.

use super::fork;
use super::pages::{self, Sending};
use super::view::{Occasion, WhyView};
use super::{Inner, System, service};
use crate::node::{Baggage, Brought, ControlRefused, DepartRefused, FreezeRefused, Node, Pages, Pid};
use crate::protocol::{MoveView, Stage};
use crate::steps::Step;
use abi::file::Entropy;
use abi::ids::NodeId;
use drivers::HostEntropy;
use drivers::wire::{LinkState, Stream};
use engine::pages::{Content, PagesError, Piece, Span, Staging, Stem, Tracker};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use services::events::Kind;
use services::members::Standing;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the other node may take to answer at all.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take to have the program ready: it may have to compile it.
pub(super) const PREPARE_TIMEOUT: Duration = Duration::from_secs(180);
/// How long one piece may take on its way. The process stands still meanwhile.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the other side may take from having the program to the first of what it sends: other things may have to be waited for there,
/// such as a process that stops late.
const BEGIN_TIMEOUT: Duration = PREPARE_TIMEOUT;
/// So often it is tried to send a process, if the way is lost meanwhile or another node is late. The process runs on between tries.
const TRIES_MAX: u32 = 3;
const TRY_INTERVAL: Duration = Duration::from_millis(200);
/// How long a reader of the process's output has to come after it.
const READER_TIMEOUT: Duration = Duration::from_secs(30);

/// A piece of memory has 1 MiB at most, and a head.
const FRAME_BYTES_MAX: usize = (1 << 20) + 64;
/// How often people are told how far it is.
const TELL_INTERVAL: Duration = Duration::from_millis(50);
/// What is collected before it is sent.
const PIECE_BYTES: usize = 256 << 10;
const STREAMS_BYTES_MAX: usize = 1 << 20;
/// Frames are put together before they leave: each time that something leaves costs both sides a system call, and the other one a wake-up.
const LEAVES_BYTES: usize = 64 << 10;

/// The first word, as the head of the stream.
#[derive(Serialize, Deserialize)]
pub(super) struct Head {
    ticket: u64,
    baggage: Baggage,
    /// Somebody named the node where it goes.
    #[serde(default)]
    is_named: bool,
    /// Why it goes there.
    #[serde(default)]
    why: Option<WhyView>,
}

/// Who chose where a process goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ChosenBy {
    /// Somebody, who named the node.
    Person,
    System,
}

/// What the other side answers.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Word {
    /// It has not got the program.
    WantsProgram,
    Prepared {
        /// A process may run there before all of its memory has come.
        may_wait: bool,
    },
    Ready {
        /// Of the node that expects it: to no other one it may go.
        life: u64,
    },
    Runs,
    Refused {
        why: String,
    },
}

/// When it has stopped, before the image.
#[derive(Serialize, Deserialize)]
struct State {
    cpu_ns: u64,
    /// Its memory is not in the image.
    has_pages: bool,
}

/// The head of a stream, which is about a process that comes, or about pages of one that came, or about clones.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Opening {
    Moves(Head),
    Pages { ticket: u64 },
    Forks(fork::Head),
}

/// More rounds than this are not made: a process that writes faster than the link carries would never stop.
const ROUNDS_MAX: u32 = 4;
/// If less than this was written during a round, another one is not worth it.
const ROUND_BYTES_MIN: u64 = 1 << 20;
/// So much may be sent while the process stands still: it takes as long as a round trip or two.
const STOPPED_BYTES_MAX: u64 = 128 << 10;
/// The side to which a process comes says no more, in all.
const WORDS_MAX: usize = 4;
/// The list of what comes later has a bound.
const SPANS_MAX: usize = 50_000;
/// How long the link to where a process's pages are may be broken before they are given up.
const PAGES_TIMEOUT: Duration = Duration::from_secs(60);
const REOPEN_INTERVAL: Duration = Duration::from_millis(200);
/// How long a child tries to get to where the one is whose streams it has.
const ALONG_TIMEOUT: Duration = Duration::from_secs(60);
const ALONG_INTERVAL: Duration = Duration::from_millis(200);
/// No process has more.
const MEMORY_BYTES_MAX: u64 = 16 << 30;

/// Why a process was not moved: it runs on where it was, unless [`MoveRefused::Gone`] is said.
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
    #[error("the memory of process {pid} cannot be followed: {error}")]
    Pages { pid: Pid, error: PagesError },
    #[error("process {pid} went to {node}, which has not got all of its memory and is not heard any more")]
    Gone { pid: Pid, node: String },
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
#[derive(Debug)]
pub(super) enum Broken {
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
        let to_node = self.destination(to)?;
        let why = self.0.why_there(to_node, "was named by who moved it", Occasion::Moved { from: self.0.me.0 });
        self.move_chosen(pid, to_node, (ChosenBy::Person, why), told)
    }

    pub fn destination(&self, to: &str) -> Result<NodeId, MoveRefused> {
        self.0.find(to).map_err(|_| MoveRefused::NoNode(to.into()))
    }

    /// The same to a node that somebody else has chosen, for this reason.
    pub(super) fn move_chosen(
        &self, pid: Pid, to_node: NodeId, (by, why): (ChosenBy, WhyView), told: &mut dyn FnMut(Stage) -> bool,
    ) -> Result<MoveView, MoveRefused> {
        let inner = &self.0;
        let name = inner.name_of(to_node);
        if to_node == inner.me {
            return Err(MoveRefused::Already { pid, node: name });
        }
        if inner.directory.members().get(&to_node).is_some_and(|member| member.draining) {
            return Err(MoveRefused::Draining { node: name });
        }
        let began = Instant::now();
        if inner.supervise.is_durable(pid) {
            if !told(Stage::Preparing) {
                return Err(MoveRefused::Abandoned);
            }
            let (bytes, pause) = self
                .hand_over(pid, to_node, (by, why))
                .map_err(|refused| MoveRefused::Refused { node: name.clone(), why: refused.to_string() })?;
            let micros = |duration: Duration| duration.as_micros() as u64;
            return Ok(MoveView {
                pid,
                from: Some(inner.me.0),
                to: to_node.0,
                rounds: 0,
                bytes,
                late_bytes: 0,
                pause_us: Some(micros(pause)),
                total_us: micros(began.elapsed()),
                lost: vec![],
            });
        }
        let mut lost = vec![];
        loop {
            match self.try_to_move(pid, (to_node, by, &why), &name, told) {
                Ok(view) => {
                    self.0.bring_along(pid, by);
                    return Ok(MoveView { lost, total_us: began.elapsed().as_micros() as u64, ..view });
                }
                Err(refused) if lost.len() + 1 < TRIES_MAX as usize && self.may_try_again(&refused, to_node) => {
                    lost.push(refused.to_string());
                    if !told(Stage::Again { tries: lost.len() as u32 }) {
                        return Err(MoveRefused::Abandoned);
                    }
                    std::thread::sleep(TRY_INTERVAL);
                }
                Err(refused) => return Err(refused),
            }
        }
    }

    /// It runs on here, and what was in the way may be gone.
    fn may_try_again(&self, refused: &MoveRefused, to: NodeId) -> bool {
        let is_transient = matches!(
            refused,
            MoveRefused::Lost { .. } | MoveRefused::NotHeard { .. } | MoveRefused::Depart(DepartRefused::Busy(_))
        );
        let is_there = matches!(self.0.health.standing(to), Standing::Alive | Standing::Suspect);
        is_transient && is_there && !self.0.is_stopping()
    }

    /// One try. Whatever it fails with, the process runs on here.
    fn try_to_move(
        &self, pid: Pid, (to_node, by, why): (NodeId, ChosenBy, &WhyView), name: &str,
        told: &mut dyn FnMut(Stage) -> bool,
    ) -> Result<MoveView, MoveRefused> {
        let (inner, began) = (&self.0, Instant::now());
        let node = inner.node.get().expect("who asks is served by the node");
        let baggage = node.baggage(pid)?;
        if inner.supervise.has(pid) {
            return Err(DepartRefused::LookedAfter(pid).into());
        }
        let broken = |broken: Broken| match broken {
            Broken::Lost(error) => MoveRefused::Lost { node: name.into(), error },
            Broken::Refused(why) => MoveRefused::Refused { node: name.into(), why },
        };
        let mut ticket = [0; 8];
        HostEntropy.fill(&mut ticket).map_err(MoveRefused::Entropy)?;
        let ticket = u64::from_le_bytes(ticket);

        if !told(Stage::Preparing) {
            return Err(MoveRefused::Abandoned);
        }
        Step::LeavingAsked.reached();
        // What of it is still on its way here is waited for before anybody there waits for us.
        let memories = node.memories(pid)?;
        let key = inner.directory.key_of(to_node).ok_or_else(|| MoveRefused::NoNode(name.into()))?;
        let is_named = by == ChosenBy::Person;
        let why = Some(why.clone().within_bounds());
        let head = Opening::Moves(Head { ticket, baggage: baggage.clone(), is_named, why });
        let head = serde_json::to_vec(&head).expect("plain data");
        let opened = inner.wire.open(key, service::MOVES, &head, Instant::now() + OPEN_TIMEOUT);
        let stream = opened.map_err(|error| MoveRefused::NotHeard { node: name.into(), why: error.to_string() })?;
        let mut talk = Talk::new(stream);
        let may_wait = talk.prepare(inner, &baggage.program).map_err(broken)?;
        Step::LeavingPrepared.reached();
        // Without a tracker all goes over while the process stands still.
        let mut tracker = Tracker::begin(&memories).ok();
        let mut rounds = 0;
        while let Some(tracker) = &mut tracker {
            rounds += 1;
            let copied =
                talk.copy_round(tracker, rounds, baggage.memory_bytes, told).map_err(|failed| match failed {
                    Round::Abandoned => MoveRefused::Abandoned,
                    Round::Broken(error) => broken(talk.explained(error.into())),
                    Round::Pages(PagesError::Ended) => FreezeRefused::from(ControlRefused::Ended(pid)).into(),
                    Round::Pages(error) => MoveRefused::Pages { pid, error },
                })?;
            if copied < ROUND_BYTES_MIN || rounds == ROUNDS_MAX {
                break;
            }
        }

        let mut ahead_end = 0;
        if let Some((ahead, end)) = node.streams_ahead(pid)? {
            ahead_end = end;
            let sent = talk.say(&Frame::Streams).and_then(|()| talk.send_within(&ahead)).and_then(|()| talk.leave());
            sent.map_err(|error| broken(talk.explained(error.into())))?;
        }
        Step::LeavingCopied.reached();
        // Said before, since whoever is told takes time that the process would stand still.
        if !told(Stage::Stopped { bytes: talk.sent }) {
            return Err(MoveRefused::Abandoned);
        }
        let stop_began = Instant::now();
        let mut stopped = node.stop_still(pid)?;
        Step::LeavingStopped.reached();
        let carried = (|| {
            let (streams, cpu_ns) = stopped.streams(ahead_end);
            let other = |error: &dyn std::fmt::Display| Broken::Lost(io::Error::other(error.to_string()));
            // First of all, since the other side takes it for the moment at which the process's clock stopped.
            talk.say(&Frame::Stopped(State { cpu_ns, has_pages: tracker.is_some() }))?;
            talk.send(&streams)?;
            talk.leave()?;
            let mut later = vec![];
            match &mut tracker {
                None => stopped.save(&mut talk, false).map_err(|error| other(&error))?,
                Some(tracker) => {
                    let written = tracker.written().map_err(|error| other(&error))?;
                    if may_wait && pages::bytes_of(&written) > STOPPED_BYTES_MAX {
                        later = pages::coarser(written, SPANS_MAX);
                    } else {
                        talk.send_spans(tracker, &written)?;
                    }
                    talk.end_pieces()?;
                    talk.send(&pages::spans_to_bytes(&later))?;
                    stopped.save_without_pages(&mut talk).map_err(|error| other(&error))?;
                }
            }
            talk.end_pieces()?;
            Step::LeavingSent.reached();
            Ok((later, talk.hear_ready()?))
        })();
        let (later, life) = carried.map_err(|error| {
            // It may have come to expect the process before this went wrong.
            node.forgo(to_node, ticket);
            broken(talk.explained(error))
        })?;
        Step::LeavingReady.reached();
        let sending = match tracker {
            Some(tracker) if !later.is_empty() => Some(Sending::new(Box::new(tracker), &later)),
            _ => None,
        };
        if let Some(sending) = &sending {
            inner.departures.add(ticket, to_node, sending.clone());
        }
        let departed = stopped.depart((to_node, life), ticket).inspect_err(|_| {
            inner.departures.remove(ticket);
            node.forgo(to_node, ticket);
        })?;
        Step::LeavingDeparted.reached();
        // Whoever looks for it here is sent there from now on.
        self.moved_away(pid, to_node, baggage.moves);
        inner.whys.forget(pid);
        // What is still to be sent of its memory is kept by whoever sends it.
        drop(departed);
        // What it touches there it waits for, so that goes at once. The word that it runs is for people alone: it is there, whether or not
        // that comes.
        let (late_bytes, bytes) = (pages::bytes_of(&later), talk.sent);
        let (told_runs, runs) = sync_channel(1);
        let hears_runs = move |stream: &mut Stream| {
            stream.set_deadline(Some(Instant::now() + PIECE_TIMEOUT));
            let word = serde_json::from_slice(&pages::receive(stream, FRAME_BYTES_MAX)?);
            // Whoever waits for it may have waited long enough.
            let _ = told_runs.try_send(());
            match word {
                Ok(Word::Runs) => Ok(()),
                _ => Err(io::ErrorKind::InvalidData.into()),
            }
        };
        let mut stream = talk.stream;
        let following = match sending {
            Some(sending) => Some(inner.begin_pages(Follows { ticket, to: to_node, sending }, stream, hears_runs)),
            None => {
                let _ = hears_runs(&mut stream);
                None
            }
        };
        let _ = runs.recv_timeout(PIECE_TIMEOUT);
        let pause_us = Some(stop_began.elapsed().as_micros() as u64);
        inner.chronicle.record(Kind::ProcessMoved { process: pid.id(), from: inner.me, to: to_node });
        if let Some(following) = following {
            let total = bytes + late_bytes;
            let has_all = inner.see_to_pages(following, |sent| {
                let _ = told(Stage::Following { bytes: bytes + sent, total });
            });
            if !has_all {
                return Err(MoveRefused::Gone { pid, node: name.into() });
            }
        }
        let total_us = began.elapsed().as_micros() as u64;
        let (from, to) = (Some(inner.me.0), to_node.0);
        Ok(MoveView { pid, from, to, rounds, bytes: bytes + late_bytes, late_bytes, pause_us, total_us, lost: vec![] })
    }
}

/// What is said while a process runs on, and when it has stopped.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Frame {
    /// Pieces of memory follow, up to the end of many.
    Round,
    /// What it wrote so far follows.
    Streams,
    Stopped(State),
}

/// Why a round came to nothing.
enum Round {
    Abandoned,
    Broken(io::Error),
    Pages(PagesError),
}

impl From<PagesError> for Round {
    fn from(error: PagesError) -> Round {
        Round::Pages(error)
    }
}

impl From<io::Error> for Round {
    fn from(error: io::Error) -> Round {
        Round::Broken(error)
    }
}

/// What of a departed process is still here.
pub(super) struct Follows {
    pub ticket: u64,
    pub to: NodeId,
    pub sending: Arc<Sending>,
}

/// How long pages that do not arrive are kept: each time that some did there is time again for the rest.
struct Patience {
    left: u64,
    until: Instant,
}

impl Patience {
    fn new() -> Patience {
        Patience { left: u64::MAX, until: Instant::now() }
    }

    fn lasts(&mut self, left: u64) -> bool {
        if left < self.left {
            *self = Patience { left, until: Instant::now() + PAGES_TIMEOUT };
        }
        Instant::now() < self.until
    }
}

/// The same, and who sends it.
struct Following {
    follows: Follows,
    serving: io::Result<JoinHandle<io::Result<()>>>,
}

fn on_a_thread(serve: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<JoinHandle<io::Result<()>>> {
    std::thread::Builder::new().name("una-pages".into()).spawn(serve)
}

impl Inner {
    /// Sends what is left of a departed process's memory, until the other side has all of it. False: it is not heard any more.
    pub(super) fn send_pages(self: &Arc<Inner>, follows: Follows, stream: Stream, tell: impl FnMut(u64)) -> bool {
        let serve = follows.sending.clone();
        let serving = on_a_thread(move || serve.serve(stream));
        self.see_to_pages(Following { follows, serving }, tell)
    }

    /// Begins to send it, over the link by which the process left, where something else is heard first.
    fn begin_pages(
        &self, follows: Follows, stream: Stream, first: impl FnOnce(&mut Stream) -> io::Result<()> + Send + 'static,
    ) -> Following {
        let serve = follows.sending.clone();
        let serving = on_a_thread(move || serve.serve_after(stream, first));
        Following { follows, serving }
    }

    /// Until the other side has all of it. If that is not heard meanwhile it goes on without whoever asked for the move, who is told so:
    /// false.
    fn see_to_pages(self: &Arc<Inner>, following: Following, mut tell: impl FnMut(u64)) -> bool {
        let Following { follows, serving } = following;
        // If the link breaks the other side opens another one.
        let mut patience = Patience::new();
        while self.goes_on(&follows, &mut patience) {
            if !self.health.is_up(follows.to) {
                let inner = self.clone();
                let rest = std::thread::Builder::new().name("una-pages".into());
                let _ = rest.spawn(move || {
                    while inner.goes_on(&follows, &mut patience) {
                        std::thread::sleep(TELL_INTERVAL);
                    }
                    inner.departures.remove(follows.ticket);
                });
                return false;
            }
            std::thread::sleep(TELL_INTERVAL);
            tell(follows.sending.progress().0);
        }
        self.departures.remove(follows.ticket);
        let is_done = follows.sending.is_done();
        if is_done && let Ok(serving) = serving {
            let _ = serving.join();
        }
        is_done
    }

    /// Does the other side still want something, and may it still come for it?
    fn goes_on(&self, follows: &Follows, patience: &mut Patience) -> bool {
        let (_, left) = follows.sending.progress();
        left > 0 && patience.lasts(left as u64) && self.departures.has(follows.ticket) && !self.is_stopping()
    }

    /// Waits until nothing of departed processes is left here, or so long.
    pub(super) fn finish_departures(&self, timeout: Duration) {
        let until = Instant::now() + timeout;
        while self.departures.count() > 0 && Instant::now() < until {
            std::thread::sleep(TELL_INTERVAL);
        }
    }
}

impl Inner {
    /// Those that write where a process writes go after it when it has moved. Until they are there, they wait when they write.
    fn bring_along(self: &Arc<Inner>, with: Pid, by: ChosenBy) {
        let Some(node) = self.node.get() else { return };
        let system = System(self.clone());
        let left: Vec<Pid> = node.sharers(with).into_iter().filter(|pid| !system.goes_after(*pid, with, by)).collect();
        if left.is_empty() {
            return;
        }
        let inner = self.clone();
        let again = move || inner.bring_later(with, by, left);
        // Without a thread they wait until the next who looks after this node moves them.
        let _ = std::thread::Builder::new().name("una-along".into()).stack_size(1 << 20).spawn(again);
    }

    fn bring_later(self: &Arc<Inner>, with: Pid, by: ChosenBy, mut left: Vec<Pid>) {
        let Some(node) = self.node.get() else { return };
        let (system, until) = (System(self.clone()), Instant::now() + ALONG_TIMEOUT);
        while !left.is_empty() && Instant::now() < until && !self.is_stopping() {
            std::thread::sleep(ALONG_INTERVAL);
            left.retain(|pid| node.is_alive(*pid) && !system.goes_after(*pid, with, by));
        }
        for pid in left {
            node.stay_behind(pid);
            node.note(
                pid,
                &format!("una: {with} has moved, and process {pid} could not follow: this log is its own\n"),
            );
        }
    }
}

impl System {
    /// One try to have a process where that one is whose streams it has. Says whether nothing is left to be done.
    fn goes_after(&self, pid: Pid, with: Pid, by: ChosenBy) -> bool {
        let to = self.locate(with).filter(|node| *node != self.0.me);
        let moved = to.map(|to| {
            let occasion = Occasion::Followed { with, from: self.0.me.0 };
            let why = self.0.why_there(to, &format!("has process {with}, whose streams it has"), occasion);
            self.move_chosen(pid, to, (by, why), &mut |_| true)
        });
        match moved {
            Some(Ok(_)) => true,
            Some(Err(MoveRefused::Depart(DepartRefused::Stop(FreezeRefused::Control(_))))) => true,
            Some(Err(_)) | None => false,
        }
    }
}

/// Takes in a process of another node, on a thread of its own.
pub(super) fn arrived(inner: &Arc<Inner>, from: NodeId, head: &[u8], stream: Stream) {
    let Ok(opening) = serde_json::from_slice::<Opening>(head) else { return };
    let inner = inner.clone();
    let take = move || match opening {
        Opening::Moves(head) => {
            let mut talk = Talk::new(stream);
            let taken = inner.take_in(from, head, &mut talk);
            talk.end_with(taken);
        }
        Opening::Forks(head) => {
            let mut talk = Talk::new(stream);
            let grown = inner.grow_for(from, head, &mut talk);
            talk.end_with(grown);
        }
        Opening::Pages { ticket } => {
            if let Some(sending) = inner.departures.find(ticket, from) {
                // If this link breaks too, another one comes.
                let _ = sending.serve(stream);
            }
        }
    };
    // Without a thread the stream is dropped, which the other side notices.
    let _ = std::thread::Builder::new().name("una-move".into()).spawn(take);
}

impl Inner {
    fn take_in(self: &Arc<Inner>, from: NodeId, head: Head, talk: &mut Talk) -> Result<(), Broken> {
        let refused = |why: &dyn std::fmt::Display| Broken::Refused(why.to_string());
        let Head { ticket, baggage, is_named, why } = head;
        let life = self.life_linked(from);
        let (moves, shares) = (baggage.moves, baggage.shares);
        Step::ArrivingAsked.reached();
        let node = self.node.get().ok_or_else(|| refused(&"it is starting"))?;
        if self.is_stopping() {
            return Err(refused(&"it is stopping"));
        }
        let program = self.program_for(node, talk, &baggage.program)?;
        let memory_bytes_max = baggage.limits.memory_bytes.unwrap_or(u64::MAX).min(MEMORY_BYTES_MAX);
        let room = node.make_room(&program, baggage).map_err(|error| refused(&error))?;
        Step::ArrivingLoaded.reached();
        let may_wait = engine::pages::support().missing.is_ok();
        talk.say(&Word::Prepared { may_wait })?;
        // To have it compiled may have taken all of the time that there was for anything.
        talk.stream.set_deadline(Some(Instant::now() + BEGIN_TIMEOUT));
        let mut staged = node.engine().stage(memory_bytes_max);
        let mut ahead = None;
        let state = loop {
            match talk.hear()? {
                Frame::Round => talk.take_pieces(&mut staged)?,
                Frame::Streams => ahead = Some(talk.receive(STREAMS_BYTES_MAX)?),
                Frame::Stopped(state) => break state,
            }
        };
        let stopped = Instant::now();
        Step::ArrivingStopped.reached();
        talk.stream.set_deadline(Some(Instant::now() + PIECE_TIMEOUT));
        let streams = talk.receive(STREAMS_BYTES_MAX)?;
        let (fetch, wants) = pages::wanting();
        let pages = match state.has_pages {
            false => None,
            true => {
                talk.take_pieces(&mut staged)?;
                let absent = pages::spans_of_bytes(&talk.receive(FRAME_BYTES_MAX)?);
                let absent = absent.map_err(|_| refused(&"the list of its pages is malformed"))?;
                Some(Pages { staged, absent, fetch })
            }
        };
        let mut whole = Pieces::of(talk);
        let image = engine::Image::open(&mut whole).map_err(|error| refused(&error))?;
        let brought = Brought { ahead, streams, cpu_ns: state.cpu_ns, image, pages, stopped };
        let arrival = node.arrive(from, ticket, room, brought).map_err(|error| refused(&error))?;
        whole.skip()?;
        Step::ArrivingExpected.reached();
        talk.say(&Word::Ready { life: self.record().life })?;
        talk.leave()?;
        Step::ArrivingReady.reached();
        // It is not given up before it is certain that it does not come: whoever has it then would have lost it.
        let settled = arrival.wait(|| !self.is_stopping());
        if let Some(pid) = settled {
            Step::ArrivingRuns.reached();
            if let Some(why) = why {
                self.whys.keep(pid, why);
            }
            if !is_named {
                node.set_guest(pid);
            }
            let _ = talk.say(&Word::Runs).and_then(|()| talk.leave());
            System(self.clone()).moved_here(pid, moves);
            self.tell_moved(pid);
            // The one whose streams it has may have gone on while it came.
            if let Some(with) = shares.filter(|with| !node.is_alive(*with)) {
                self.bring_along(with, if is_named { ChosenBy::Person } else { ChosenBy::System });
            }
            if let Some(missing) = &arrival.missing {
                Step::ArrivingPages.reached();
                let mut first = talk.stream.try_clone().ok();
                let mut again = self.again(from, life, ticket);
                if !pages::take_in(missing, wants, || first.take().or_else(|| again(missing.left()))) {
                    missing.lost(&format!("it was on {}, which is gone", self.name_of(from)));
                }
            }
            arrival.wait_reader(READER_TIMEOUT);
        }
        Ok(())
    }
}

impl Inner {
    /// A program by its hash, which is here or comes from the other side.
    pub(super) fn program_for(&self, node: &Node, talk: &mut Talk, hash: &str) -> Result<engine::Program, Broken> {
        if let Some(program) = node.known_program(hash) {
            return Ok(program);
        }
        let hash = blake3::Hash::from_hex(hash).map_err(|error| Broken::Refused(error.to_string()))?;
        let wasm = match self.library.find(&hash).ok().flatten() {
            Some(wasm) => wasm,
            None => talk.fetch_program(&hash)?,
        };
        // Not to keep it costs the same way again the next time.
        let _ = self.library.keep(&wasm);
        node.load(wasm, &mut |_| {}).map_err(|error| Broken::Refused(error.to_string()))
    }

    /// Opens links to where pages are, one after another, as long as some may still come. They are asked for with how much is left.
    pub(super) fn again(
        self: &Arc<Inner>, from: NodeId, life: Option<u64>, ticket: u64,
    ) -> impl FnMut(u64) -> Option<Stream> {
        let (inner, mut patience) = (self.clone(), Patience::new());
        move |left| {
            patience.lasts(left);
            inner.reopen(from, life?, ticket, patience.until)
        }
    }

    /// Another link to where a process's pages are, in that life of the node.
    fn reopen(&self, from: NodeId, life: u64, ticket: u64, until: Instant) -> Option<Stream> {
        let head = serde_json::to_vec(&Opening::Pages { ticket }).expect("plain data");
        loop {
            // The one that broke may have been opened a moment ago.
            std::thread::sleep(REOPEN_INTERVAL);
            // Once it is no member any more it does not come back; and it has nothing of what it had in an earlier life.
            let key = self.directory.key_of(from)?;
            let is_over = self.life_linked(from).is_some_and(|now| now != life);
            if is_over || Instant::now() >= until || self.is_stopping() {
                return None;
            }
            if let Ok(stream) = self.wire.open(key, service::MOVES, &head, Instant::now() + OPEN_TIMEOUT) {
                return Some(stream);
            }
        }
    }

    /// In which life a node is that there is a link to.
    pub(super) fn life_linked(&self, node: NodeId) -> Option<u64> {
        let key = self.directory.key_of(node)?;
        let link = self.wire.links().into_iter().find(|link| link.peer == key)?;
        match link.state {
            LinkState::Linked { hello, .. } => Some(hello.life),
            _ => None,
        }
    }
}

/// One side of the talk about one process.
pub(super) struct Talk {
    pub stream: Stream,
    /// What has been said and has not left: it leaves before an answer is waited for.
    leaving: Vec<u8>,
    piece: Vec<u8>,
    sent: u64,
}

impl Talk {
    pub fn new(stream: Stream) -> Talk {
        stream.set_deadline(Some(Instant::now() + PIECE_TIMEOUT));
        Talk { stream, leaving: vec![], piece: vec![], sent: 0 }
    }

    /// The last word of the side to which something comes.
    fn end_with(mut self, done: Result<(), Broken>) {
        match done {
            Ok(()) => {}
            Err(Broken::Refused(why)) => drop(self.say(&Word::Refused { why }).and_then(|()| self.leave())),
            // If the way is there still, this is what the other side reads or writes against.
            Err(Broken::Lost(error)) => self.stream.refuse(&format!("there: {error}")),
        }
    }

    /// A round of memory, while the process runs. Gives how much it was.
    fn copy_round(
        &mut self, tracker: &mut Tracker, round: u32, total: u64, told: &mut dyn FnMut(Stage) -> bool,
    ) -> Result<u64, Round> {
        self.say(&Frame::Round)?;
        let (mut bytes, mut shown) = (0, Instant::now());
        let taken = tracker.take(|piece| {
            self.send_within(&pages::piece_to_bytes(&piece))?;
            if let Content::Bytes(content) = piece.content {
                bytes += content.len() as u64;
            }
            if shown.elapsed() > TELL_INTERVAL {
                shown = Instant::now();
                if !told(Stage::Copying { round, bytes, total }) {
                    return Err(Round::Abandoned);
                }
            }
            Ok(())
        })?;
        self.send(&[])?;
        // The other side takes it in while this one has the process stop.
        self.leave()?;
        Ok(taken.bytes)
    }

    /// Ranges of memory, while the process stands still.
    fn send_spans(&mut self, tracker: &mut Tracker, spans: &[Span]) -> Result<(), Broken> {
        let mut bytes = vec![];
        for Span { memory, range } in spans {
            bytes.resize((range.end - range.start) as usize, 0);
            tracker.read(*memory, range.start, &mut bytes).map_err(|error| Broken::Lost(io::Error::other(error)))?;
            let piece = Piece { memory: *memory, offset: range.start, content: Content::Bytes(&bytes) };
            self.send_within(&pages::piece_to_bytes(&piece))?;
        }
        Ok(())
    }

    /// The other side of both.
    fn take_pieces(&mut self, staged: &mut Staging) -> Result<(), Broken> {
        loop {
            self.stream.set_deadline(Some(Instant::now() + PIECE_TIMEOUT));
            let frame = self.receive(FRAME_BYTES_MAX)?;
            if frame.is_empty() {
                // The process may run on for a while until the next round.
                self.stream.set_deadline(Some(Instant::now() + BEGIN_TIMEOUT));
                return Ok(());
            }
            let piece = pages::piece_of_bytes(&frame).map_err(|_| Broken::Refused("a malformed piece".into()))?;
            staged.put(piece).map_err(|error| Broken::Refused(error.to_string()))?;
        }
    }

    /// The same for a stem, until its end.
    pub fn take_pieces_into(&mut self, stem: &Stem) -> Result<(), Broken> {
        loop {
            self.stream.set_deadline(Some(Instant::now() + PIECE_TIMEOUT));
            let frame = self.receive(FRAME_BYTES_MAX)?;
            if frame.is_empty() {
                return Ok(());
            }
            let piece = pages::piece_of_bytes(&frame).map_err(|_| Broken::Refused("a malformed piece".into()))?;
            pages::put(stem, piece).map_err(|error| Broken::Refused(error.to_string()))?;
        }
    }

    /// Sends, with the time for it counted from now.
    pub fn send_within(&mut self, content: &[u8]) -> io::Result<()> {
        self.stream.set_deadline(Some(Instant::now() + PIECE_TIMEOUT));
        self.send(content)
    }

    /// Here: until the other side has the program. Says whether a process may run there before all of its memory has come.
    pub fn prepare(&mut self, inner: &Inner, program: &str) -> Result<bool, Broken> {
        self.stream.set_deadline(Some(Instant::now() + PREPARE_TIMEOUT));
        let mut word: Word = self.hear()?;
        if word == Word::WantsProgram {
            let hash = blake3::Hash::from_hex(program).map_err(io::Error::other)?;
            let kept = inner.library.find(&hash).ok().flatten();
            let loaded = || inner.node.get()?.known_program(program).map(|program| program.wasm().to_vec());
            let Some(wasm) = kept.or_else(loaded) else {
                return Err(Broken::Refused("its program is not there, nor here any more".into()));
            };
            self.write_all(&wasm)?;
            self.end_pieces()?;
            // From now on it compiles.
            self.leave()?;
            self.stream.set_deadline(Some(Instant::now() + PREPARE_TIMEOUT));
            word = self.hear()?;
        }
        self.stream.set_deadline(Some(Instant::now() + PIECE_TIMEOUT));
        match word {
            Word::Prepared { may_wait } => Ok(may_wait),
            word => Err(unexpected(word, "that it is prepared")),
        }
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

    /// The next word; the time for it is counted from now.
    /// In which life the other node expects the process.
    fn hear_ready(&mut self) -> Result<u64, Broken> {
        self.stream.set_deadline(Some(Instant::now() + PIECE_TIMEOUT));
        match self.hear()? {
            Word::Ready { life } => Ok(life),
            word => Err(unexpected(word, "that it is ready")),
        }
    }

    /// If the other side has left, it may have said why before, while this one was still sending: then that is what is broken.
    fn explained(&mut self, broken: Broken) -> Broken {
        let left =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
        if matches!(&broken, Broken::Lost(error) if left(error)) {
            self.leaving.clear();
            for _ in 0..WORDS_MAX {
                match self.hear() {
                    Ok(Word::Refused { why }) => return Broken::Refused(why),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        broken
    }

    pub fn say(&mut self, word: &impl Serialize) -> io::Result<()> {
        self.send(&serde_json::to_vec(word).expect("plain data"))
    }

    pub fn hear<T: DeserializeOwned>(&mut self) -> Result<T, Broken> {
        let frame = self.receive(FRAME_BYTES_MAX)?;
        serde_json::from_slice(&frame).map_err(|error| Broken::Lost(io::Error::other(error)))
    }

    /// Where something else than a word is due, but for the one that says why it does not come.
    pub fn hear_or_refused<T: DeserializeOwned>(&mut self) -> Result<T, Broken> {
        let frame = self.receive(FRAME_BYTES_MAX)?;
        match serde_json::from_slice(&frame) {
            Ok(Word::Refused { why }) => Err(Broken::Refused(why)),
            _ => serde_json::from_slice(&frame).map_err(|error| Broken::Lost(io::Error::other(error))),
        }
    }

    fn send(&mut self, content: &[u8]) -> io::Result<()> {
        self.sent += 4 + content.len() as u64;
        pages::send(&mut self.leaving, content)?;
        if self.leaving.len() >= LEAVES_BYTES { self.leave() } else { Ok(()) }
    }

    pub fn leave(&mut self) -> io::Result<()> {
        let left = self.stream.write_all(&self.leaving);
        self.leaving.clear();
        left
    }

    fn receive(&mut self, bytes_max: usize) -> io::Result<Vec<u8>> {
        self.leave()?;
        pages::receive(&mut self.stream, bytes_max)
    }

    pub fn end_pieces(&mut self) -> io::Result<()> {
        self.flush()?;
        self.send(&[])
    }
}

fn unexpected(word: Word, due: &str) -> Broken {
    match word {
        Word::Refused { why } => Broken::Refused(why),
        word => Broken::Lost(io::Error::other(format!("it said {word:?} and not {due}"))),
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
pub(super) struct Pieces<'a> {
    talk: &'a mut Talk,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Pieces<'_> {
    /// Reads what is left, up to the end of many.
    fn skip(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink()).map(drop)
    }

    pub fn of(talk: &mut Talk) -> Pieces<'_> {
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
