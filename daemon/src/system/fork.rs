//! Clones of a process, on this node and on others. Knows placement, streams between nodes and the order of things; what a clone is, the
//! nodes know (`node/forking`).
//!
//! ```text
//!   here                                             there
//!   head: of whom, how many   ───────────────►       the program is found, or
//!                             ◄─── wants program ──  sent; it is loaded
//!                             ◄─── prepared ───────
//!   the process stands still for a moment, and runs on
//!   state                     ───────────────►       each clone begins with an empty memory
//!                             ◄─── begun: pids ────
//!   memory, once for all      ◄──── pages ──────►    as it is touched, and the rest (`pages`)
//! ```
//! The one idea: who has to do with a fork waits for nothing that grows with the process's memory. It is laid aside where it is, and each
//! node that has clones gets it once, while they run.
//!
//! Clones do not depend on one another, nor on the process of which they are. Those on another node depend on this one until all of the
//! memory is there; if it is lost before, they end and say so.

use super::moving::{Broken, ChosenBy, Follows, OPEN_TIMEOUT, Opening, PREPARE_TIMEOUT, Pieces, Talk, Word};
use super::pages::{self, Sending};
use super::view::WhyView;
use super::{Inner, System, service};
use crate::node::{Asker, ControlRefused, Cutting, ForkOrder, ForkRefused, FreezeRefused, Origin, Pid};
use crate::protocol::{CloneView, ForkView};
use abi::errno::Errno;
use abi::file::Entropy;
use abi::ids::NodeId;
use drivers::HostEntropy;
use drivers::host::Host;
use engine::pages::{Content, Piece, Span, Stem};
use serde::{Deserialize, Serialize};
use services::events::Kind;
use services::placement;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// One order makes no more.
pub const CLONES_MAX: u32 = 64;
/// How long another node may take to begin its clones.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// The state of a process without its memory: tables and frames.
const STATE_BYTES_MAX: u64 = 256 << 20;
/// No process has more memories, nor more in one.
const MEMORIES_MAX: usize = 100;
const MEMORY_BYTES_MAX: u64 = 16 << 30;
/// What is read of a memory at once where all of it goes before the clones begin.
const READ_BYTES: u64 = 256 << 10;

/// The first word, as the head of the stream.
#[derive(Serialize, Deserialize)]
pub struct Head {
    ticket: u64,
    origin: Origin,
    asker: Asker,
    /// Which clones, and why they are there.
    clones: Vec<(u32, WhyView)>,
    /// Somebody named the node where they are to be.
    #[serde(default)]
    is_named: bool,
}

/// The process has been forked; its state follows.
#[derive(Serialize, Deserialize)]
struct Cut {
    /// Bytes of each memory.
    sizes: Vec<u64>,
}

/// Each of the clones that were asked for, in that order: it runs, or why not.
#[derive(Serialize, Deserialize)]
struct Begun {
    clones: Vec<Result<Pid, String>>,
}

/// Why nothing was forked. The process runs on.
#[derive(Debug, thiserror::Error)]
pub enum NotForked {
    #[error("a process can have from 1 to {CLONES_MAX} clones at once, not {0}")]
    Count(u32),
    #[error("there is no node `{0}`")]
    NoNode(String),
    #[error("process {pid} uses {} of this machine, so its clones can only be here: leave out --on", host.display())]
    Bound { pid: Pid, host: std::path::PathBuf },
    /// No node may or can take a clone.
    #[error("no node can take a clone")]
    NoPlace(WhyView),
    #[error(transparent)]
    Refused(#[from] ForkRefused),
    #[error("no clone could be begun: {0}")]
    None(String),
    #[error("no random numbers: {0}")]
    Entropy(Errno),
    #[error("no thread for it: {0}")]
    Thread(std::io::Error),
}

/// What a thread that has to do with one other node tells.
enum Told {
    Prepared,
    Failed(NodeId, String),
    Begun(NodeId, Vec<Result<Pid, String>>),
}

/// Clones that are to be on one other node.
struct There {
    clones: Vec<(u32, WhyView)>,
    cut: SyncSender<Arc<Cutting>>,
}

impl System {
    /// Has clones of a process that is here. Those that could not be begun are named in the answer; without any it is an error.
    pub fn fork(&self, pid: Pid, order: &ForkOrder, asker: Asker) -> Result<ForkView, NotForked> {
        let inner = &self.0;
        let began = Instant::now();
        if order.count == 0 || order.count > CLONES_MAX {
            return Err(NotForked::Count(order.count));
        }
        let node = inner.node.get().ok_or(ForkRefused::from(ControlRefused::Stopping))?;
        let origin = node.origin(pid)?;
        let memory_bytes = origin.memory_bytes;
        let mut by_node: BTreeMap<NodeId, Vec<(u32, WhyView)>> = BTreeMap::new();
        for (number, (to, why)) in (1..).zip(self.place_clones(&origin, order)?) {
            by_node.entry(to).or_default().push((number, why));
        }
        let here = by_node.remove(&inner.me).unwrap_or_default();
        let by = if order.on.is_some() { ChosenBy::Person } else { ChosenBy::System };
        // Clones of what somebody wanted here are wanted here.
        let by_here = if node.is_guest(pid) { by } else { ChosenBy::Person };
        let (tell, told) = channel();
        let mut others = BTreeMap::new();
        for (to, clones) in by_node {
            let cut = self.prepare_there(to, (&origin, asker, by), &clones, tell.clone())?;
            others.insert(to, There { clones, cut });
        }
        drop(tell);

        let mut answers = Answers { began, clones: vec![], failed: vec![] };
        wait_prepared(&told, &mut others, &mut answers);
        if here.is_empty() && others.is_empty() {
            return Err(NotForked::None(answers.reasons()));
        }
        if engine::pages::support().missing.is_err() {
            // All is copied while the process keeps what it has; else what is laid aside is given back as it is brought in.
            has_room(memory_bytes, Host::look()).map_err(NotForked::None)?;
        }
        let cutting = Arc::new(node.fork_here(origin, asker)?);
        // First the others, who have a longer way.
        others.values().for_each(|there| drop(there.cut.send(cutting.clone())));
        settle(cutting.stem.clone());
        let numbers: Vec<u32> = here.iter().map(|(number, _)| *number).collect();
        for (number, grown) in numbers.into_iter().zip(self.grow_all(&cutting, here, by_here)) {
            match grown {
                Ok((clone, at)) => answers.begun(number, clone, inner.me, at),
                Err(error) => answers.failed.push((number, error)),
            }
        }
        while !others.is_empty() {
            let Ok(told) = told.recv() else { break };
            match told {
                Told::Prepared => {}
                Told::Failed(from, why) => answers.failed(&mut others, from, &why),
                Told::Begun(from, results) => {
                    let clones = others.remove(&from).map(|there| there.clones).unwrap_or_default();
                    for ((number, _), result) in clones.iter().zip(results) {
                        match result {
                            Ok(clone) => answers.begun(*number, clone, from, Instant::now()),
                            Err(why) => answers.failed.push((*number, why)),
                        }
                    }
                }
            }
        }
        let Answers { mut clones, mut failed, .. } = answers;
        clones.sort_by_key(|clone| clone.number);
        failed.sort();
        if clones.is_empty() {
            let reasons: Vec<String> = failed.into_iter().map(|(_, why)| why).collect();
            return Err(NotForked::None(reasons.join("; ")));
        }
        node.note_clones(pid, &clones.iter().map(|clone| clone.pid).collect::<Vec<_>>());
        let pause_us = cutting.pause.as_micros() as u64;
        let total_us = began.elapsed().as_micros() as u64;
        Ok(ForkView { pid, clones, failed, memory_bytes, pause_us, total_us })
    }

    /// Begins clones here, as many at once as there are processors. Gives for each, in their order, which process it is and when it began.
    fn grow_all(
        &self, cutting: &Cutting, clones: Vec<(u32, WhyView)>, by: ChosenBy,
    ) -> Vec<Result<(Pid, Instant), String>> {
        let at_once = std::thread::available_parallelism().map_or(1, usize::from).min(clones.len());
        let grown: Vec<OnceLock<_>> = clones.iter().map(|_| OnceLock::new()).collect();
        let queue = Mutex::new(clones.into_iter().zip(&grown));
        let work = || {
            loop {
                let next = queue.lock().expect("nothing panics while it holds this lock").next();
                let Some(((number, why), place)) = next else { return };
                let _ = place.set(self.grow(cutting, number, why, by).map(|clone| (clone, Instant::now())));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..at_once {
                // Fewer are as good, and take longer.
                let _ =
                    std::thread::Builder::new().name("una-grow".into()).stack_size(1 << 20).spawn_scoped(scope, work);
            }
            work();
        });
        drop(queue);
        grown.into_iter().map(|place| place.into_inner().unwrap_or_else(|| Err("it was forgotten".into()))).collect()
    }

    /// Begins one clone here.
    fn grow(&self, cutting: &Cutting, number: u32, why: WhyView, by: ChosenBy) -> Result<Pid, String> {
        let node = self.0.node.get().ok_or("the node is starting")?;
        let started = node.grow(cutting, number).map_err(|refused| refused.to_string())?;
        let (process, from) = (started.pid.id(), cutting.origin.pid.id());
        if by == ChosenBy::System {
            node.set_guest(started.pid);
        }
        self.started(started.pid, Some(why));
        self.0.chronicle.record(Kind::ProcessForked { process, from, number: number.into() });
        Ok(started.pid)
    }

    /// Begins to make another node ready, on a thread of its own.
    fn prepare_there(
        &self, to: NodeId, (origin, asker, by): (&Origin, Asker, ChosenBy), clones: &[(u32, WhyView)],
        tell: Sender<Told>,
    ) -> Result<SyncSender<Arc<Cutting>>, NotForked> {
        let mut ticket = [0; 8];
        HostEntropy.fill(&mut ticket).map_err(NotForked::Entropy)?;
        let ticket = u64::from_le_bytes(ticket);
        let is_named = by == ChosenBy::Person;
        let head = Head { ticket, origin: origin.clone(), asker, clones: clones.to_vec(), is_named };
        let (cut, get) = sync_channel(1);
        let inner = self.0.clone();
        let work = move || {
            if let Err(why) = inner.clones_there(to, head, &tell, &get) {
                // Whoever forks is there until all have spoken.
                let _ = tell.send(Told::Failed(to, format!("{}: {why}", inner.name_of(to))));
            }
        };
        let thread = std::thread::Builder::new().name("una-fork".into()).stack_size(1 << 20).spawn(work);
        thread.map_err(NotForked::Thread)?;
        Ok(cut)
    }
}

/// Whether the memory of a stem has room on a machine that is so now.
fn has_room(wanted: u64, host: Host) -> Result<(), String> {
    let free = placement::room(host.memory_free_bytes, host.memory_bytes);
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match wanted <= free {
        true => Ok(()),
        false => Err(format!(
            "there is no room for the memory that it begins with: {} MiB, of which {} are free",
            mib(wanted),
            mib(free)
        )),
    }
}

struct Answers {
    began: Instant,
    clones: Vec<CloneView>,
    failed: Vec<(u32, String)>,
}

impl Answers {
    fn begun(&mut self, number: u32, pid: Pid, node: NodeId, at: Instant) {
        let after_us = at.duration_since(self.began).as_micros() as u64;
        self.clones.push(CloneView { number, pid, node: node.0, after_us });
    }

    fn failed(&mut self, others: &mut BTreeMap<NodeId, There>, from: NodeId, why: &str) {
        let there = others.remove(&from);
        let clones = there.map(|there| there.clones).unwrap_or_default();
        self.failed.extend(clones.into_iter().map(|(number, _)| (number, why.to_string())));
    }

    fn reasons(&self) -> String {
        let reasons: Vec<&str> = self.failed.iter().map(|(_, why)| why.as_str()).collect();
        reasons.join("; ")
    }
}

/// Waits until each of the other nodes has the program, or cannot have it.
fn wait_prepared(told: &Receiver<Told>, others: &mut BTreeMap<NodeId, There>, answers: &mut Answers) {
    let mut waiting = others.len();
    while waiting > 0 {
        waiting -= 1;
        match told.recv() {
            Ok(Told::Failed(from, why)) => answers.failed(others, from, &why),
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// Brings the memory that was laid aside to where all have it, on a thread of its own.
fn settle(stem: Stem) {
    let work = stem.clone();
    let settle = move || {
        loop {
            match work.settle() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return work.lost(&format!("it cannot be kept: {error}")),
            }
        }
    };
    if std::thread::Builder::new().name("una-stem".into()).stack_size(256 << 10).spawn(settle).is_err() {
        // Without a thread whoever asked for the fork waits for it.
        while matches!(stem.settle(), Ok(true)) {}
    }
}

impl Inner {
    /// Has clones on another node, and gives it the memory until it has all of it.
    fn clones_there(
        self: &Arc<Inner>, to: NodeId, head: Head, tell: &Sender<Told>, cut: &Receiver<Arc<Cutting>>,
    ) -> Result<(), Broken> {
        let refused = |why: &dyn std::fmt::Display| Broken::Refused(why.to_string());
        let (ticket, program) = (head.ticket, head.origin.program.clone());
        let key = self.directory.key_of(to).ok_or_else(|| refused(&"it is no member any more"))?;
        let head = serde_json::to_vec(&Opening::Forks(head)).expect("plain data");
        let opened = self.wire.open(key, service::MOVES, &head, Instant::now() + OPEN_TIMEOUT);
        let mut talk = Talk::new(opened.map_err(|error| refused(&format!("it is not heard: {error}")))?);
        let may_wait = talk.prepare(self, &program)?;
        let _ = tell.send(Told::Prepared);
        // It is not forked after all.
        let Ok(cutting) = cut.recv() else { return Ok(()) };
        let stem = cutting.stem.clone();
        talk.say(&Cut { sizes: stem.sizes() })?;
        talk.write_all(&cutting.state)?;
        talk.end_pieces()?;
        drop(cutting);
        if !may_wait {
            send_all(&mut talk, &stem)?;
        }
        talk.stream.set_deadline(Some(Instant::now() + BEGIN_TIMEOUT));
        let Begun { clones } = talk.hear_or_refused()?;
        let any = clones.iter().any(Result::is_ok);
        let sending = (may_wait && any).then(|| {
            let sending = Sending::new(Box::new(stem.clone()), &whole(&stem.sizes()));
            self.departures.add(ticket, to, sending.clone());
            sending
        });
        let _ = tell.send(Told::Begun(to, clones));
        drop(stem);
        if let Some(sending) = sending {
            self.send_pages(Follows { ticket, to, sending }, talk.stream, |_| {});
        }
        Ok(())
    }

    /// The other side: begins clones of another node's process here, and takes in their memory.
    pub(super) fn grow_for(self: &Arc<Inner>, from: NodeId, head: Head, talk: &mut Talk) -> Result<(), Broken> {
        let refused = |why: &dyn std::fmt::Display| Broken::Refused(why.to_string());
        let Head { ticket, origin, asker, clones, is_named } = head;
        let life = self.life_linked(from);
        let node = self.node.get().ok_or_else(|| refused(&"it is starting"))?;
        if self.is_stopping() {
            return Err(refused(&"it is stopping"));
        }
        if clones.len() > CLONES_MAX as usize {
            return Err(refused(&"too many clones at once"));
        }
        let program = self.program_for(node, talk, &origin.program)?;
        let may_wait = engine::pages::support().missing.is_ok();
        talk.say(&Word::Prepared { may_wait })?;
        talk.stream.set_deadline(Some(Instant::now() + PREPARE_TIMEOUT));
        let Cut { sizes } = talk.hear()?;
        let stopped = Instant::now();
        let mut state = vec![];
        Pieces::of(talk).take(STATE_BYTES_MAX).read_to_end(&mut state)?;
        if sizes.len() > MEMORIES_MAX || sizes.iter().sum::<u64>() > MEMORY_BYTES_MAX {
            return Err(refused(&"its memory is larger than any process's"));
        }
        // Placement went by what this node had said of itself some time ago.
        has_room(sizes.iter().sum(), Host::look()).map_err(|why| refused(&why))?;
        let (fetch, wants) = pages::wanting();
        let stem = Stem::expected(&sizes, fetch).map_err(|error| refused(&error))?;
        if !may_wait {
            talk.take_pieces_into(&stem)?;
        }
        let name = origin.pid;
        let cutting = Cutting { origin, program, asker, state, stem, stopped, pause: Duration::ZERO };
        let system = System(self.clone());
        let by = if is_named { ChosenBy::Person } else { ChosenBy::System };
        let grown = system.grow_all(&cutting, clones, by);
        let grown: Vec<Result<Pid, String>> = grown.into_iter().map(|grown| grown.map(|(clone, _)| clone)).collect();
        let (any, stem) = (grown.iter().any(Result::is_ok), cutting.stem.clone());
        drop(cutting);
        let said = talk.say(&Begun { clones: grown }).and_then(|()| talk.leave());
        if any && may_wait {
            let mut first = said.is_ok().then(|| talk.stream.try_clone().ok()).flatten();
            let mut again = self.again(from, life, ticket);
            if !pages::take_in(&stem, wants, || first.take().or_else(|| again(stem.left()))) {
                let node = self.name_of(from);
                stem.lost(&format!("it is a clone of process {name}, whose memory was on {node}, which is gone"));
            }
        }
        Ok(())
    }
}

/// All of some memories.
fn whole(sizes: &[u64]) -> Vec<Span> {
    (0..).zip(sizes).map(|(memory, bytes)| Span { memory, range: 0..*bytes }).collect()
}

/// All of the memory, where nobody can run before it is there.
fn send_all(talk: &mut Talk, stem: &Stem) -> Result<(), Broken> {
    let mut bytes = vec![];
    for Span { memory, range } in whole(&stem.sizes()) {
        let mut offset = range.start;
        while offset < range.end {
            let length = READ_BYTES.min(range.end - offset);
            bytes.resize(length as usize, 0);
            stem.read(memory, offset, &mut bytes).map_err(|error| Broken::Refused(error.to_string()))?;
            let content = match bytes.iter().all(|byte| *byte == 0) {
                true => Content::Zeros(length),
                false => Content::Bytes(&bytes),
            };
            talk.send_within(&pages::piece_to_bytes(&Piece { memory, offset, content }))?;
            offset += length;
        }
    }
    Ok(talk.end_pieces()?)
}

/// What a process is told that cannot be forked as it asked.
pub fn errno_of(refused: &NotForked) -> Errno {
    match refused {
        NotForked::Count(_) => Errno::Inval,
        NotForked::NoNode(_) => Errno::NoEnt,
        NotForked::Bound { .. } | NotForked::Refused(_) => Errno::NotSup,
        NotForked::NoPlace(_) => Errno::NoMem,
        NotForked::None(_) | NotForked::Entropy(_) | NotForked::Thread(_) => Errno::Again,
    }
}

impl From<FreezeRefused> for NotForked {
    fn from(refused: FreezeRefused) -> NotForked {
        ForkRefused::from(refused).into()
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Broken::Lost(error) => write!(f, "the way there was lost: {error}"),
            Broken::Refused(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stem_needs_room_for_all_of_it_and_leaves_some() {
        let mib = |count: u64| count << 20;
        let host = Host { processors: 2, wanting: 0, memory_bytes: mib(1600), memory_free_bytes: mib(400) };
        assert_eq!(has_room(mib(300), host), Ok(()));
        let why = has_room(mib(301), host).unwrap_err();
        assert!(why.contains("301 MiB, of which 300 are free"), "{why}");
        assert!(has_room(1, Host::default()).is_err(), "a machine that does not say what it has is taken to have none");
    }
}
