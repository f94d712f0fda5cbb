//! Checkpoints of this system's processes: making them, listing them, going on from them. Knows the coordinator and the files, which keep
//! them, and the node, whose processes they are of; not how a process is cut (`keep`).
//!
//! The one idea: of every process that has checkpoints the coordinator says which *incarnation* may live, and where. Whoever wants to make
//! it go on raises that number in one transaction, and does so only if nobody else lives under the last one, for certain. So there is at
//! most one living process of a number, whoever asks at once.
//!
//! ```text
//!   checkpoint   k/p/PID says that it lives here ── cut, put ── commit, if k/p/PID has not changed meanwhile
//!   restore      k/p/PID ended, or its node's life is over ──► k/p/PID: here, one incarnation on ──► it runs
//!   undo         it lives here: an earlier state takes its place
//! ```
//! A checkpoint that is damaged is passed over, and the one before it is used; whoever asked is told.

use super::view::{CheckpointState, CheckpointView, WhyView, Wish};
use super::{ANSWER_TIMEOUT, FACT_TIMEOUT, Inner, System, SystemError, ears, member, tape};
use crate::files::{KeepAsk, KeepError, KeepTold, Shared, Whereabouts};
use crate::keep::record::{self, Checkpoint, Claim, Place, TapeMark};
use crate::keep::watch::Watch;
use crate::keep::{Broken, Cut, Cutter, Store, Whole};
use crate::node::{GoOn, Life, Node, Outward, Pid, RunRefused, SnapshotRefused, Started, UndoRefused, is_damage};
use crate::protocol::Placement;
use abi::ids::NodeId;
use abi::process::Again;
use drivers::HostEntropy;
use drivers::chunks::{ChunkError, ChunkName};
use drivers::clock::now_ms;
use drivers::coordinator::{Action, Compare, Coordinator, KeyRange, Range, Record, Revision, Transaction};
use engine::tape::Mark;
use services::checkpoints;
use services::events::Kind;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, BufWriter, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long one checkpoint may take to be brought to disks.
const KEEP_TIMEOUT: Duration = Duration::from_secs(120);
/// A checkpoint is begun so often if the node that keeps it changes in the middle, or what it rests on is removed.
const ATTEMPTS_MAX: usize = 4;
/// Whoever wants a process kept that has yet to catch up with its tape waits so long, and looks so often.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);
const CATCH_UP_LOOK: Duration = Duration::from_millis(5);
/// Names that people give.
const NAME_BYTES_MAX: usize = 64;
/// Ends of processes that wait to be written down. Then whoever wants such a process asks the node.
const ENDS_MAX: usize = 4096;

/// Why no checkpoint was made, or nothing went on from one.
#[derive(Debug, thiserror::Error)]
pub enum KeepRefused {
    #[error(transparent)]
    System(#[from] SystemError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotRefused),
    #[error("the checkpoint could not be kept: {0}")]
    NotKept(String),
    #[error("process {0} has no checkpoint")]
    None(Pid),
    #[error("process {pid} has no checkpoint `{which}`")]
    NoSuch { pid: Pid, which: String },
    #[error(
        "`{0}` cannot be the name of a checkpoint: letters, digits, `-`, `_` and `.`, at most 64, not a number alone"
    )]
    Name(String),
    #[error("process {pid} is living, on {node}")]
    Living { pid: Pid, node: String },
    #[error("process {pid} may still be living on {node}, which is not heard")]
    NotCertain { pid: Pid, node: String },
    #[error("process {0} goes on elsewhere: what runs here under its number is not it any more")]
    Superseded(Pid),
    #[error("no checkpoint of process {pid} can be used: {}", whys.join("; "))]
    AllDamaged { pid: Pid, whys: Vec<String> },
    #[error("its directories are mounted from {0}: it can only go on there")]
    Bound(String),
    #[error("its program cannot be had: {0}")]
    Program(String),
    #[error(transparent)]
    Run(#[from] RunRefused),
    #[error(transparent)]
    Undo(#[from] UndoRefused),
    #[error("no node can take the process")]
    NoPlace(WhyView),
    #[error(
        "process {0} is being told again what it was told before its node was lost; it can be kept when it has caught up: try again"
    )]
    CatchesUp(Pid),
    #[error("the system has no node here")]
    NoNode,
}

impl From<KeepError> for KeepRefused {
    fn from(error: KeepError) -> KeepRefused {
        KeepRefused::NotKept(error.to_string())
    }
}

/// Which checkpoint of a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Which {
    Latest,
    Sequence(u32),
    Named(String),
}

impl Which {
    pub fn read(word: Option<&str>) -> Which {
        match word {
            None => Which::Latest,
            Some(word) => word.parse().map_or_else(|_| Which::Named(word.into()), Which::Sequence),
        }
    }
}

/// What went on, and from where.
pub struct Restored {
    pub pid: Pid,
    pub from: Checkpoint,
    /// Checkpoints that could not be used, and why.
    pub passed_over: Vec<String>,
}

/// What this node knows of its processes' checkpoints.
pub struct Keep {
    /// One checkpoint of a process at a time.
    turns: Mutex<BTreeMap<Pid, Arc<Mutex<Turn>>>>,
    /// Processes that are about to go on here: nobody else may begin them meanwhile.
    starting: Mutex<BTreeSet<Pid>>,
    ends: SyncSender<Pid>,
    ended: Mutex<Option<Receiver<Pid>>>,
}

/// What the next checkpoint of a process can rest on.
#[derive(Default)]
struct Turn {
    /// The last one, and what it consisted of.
    last: Option<Last>,
    /// What was written since then; of a process that is kept again and again.
    watch: Option<Watch>,
}

struct Last {
    sequence: u32,
    cut: Cut,
}

/// A checkpoint that was made.
pub struct Made {
    pub checkpoint: Checkpoint,
    /// What it cost the process: it stood still, and was slower at its first write to each page.
    pub cost: Duration,
}

impl Keep {
    pub fn new() -> Keep {
        let (ends, ended) = sync_channel(ENDS_MAX);
        Keep { turns: Mutex::default(), starting: Mutex::default(), ends, ended: Mutex::new(Some(ended)) }
    }

    fn starting(&self) -> MutexGuard<'_, BTreeSet<Pid>> {
        self.starting.lock().expect("nothing panics while it holds who is starting")
    }

    fn turn(&self, pid: Pid) -> Arc<Mutex<Turn>> {
        self.turns.lock().expect("nothing panics while it holds the last checkpoints").entry(pid).or_default().clone()
    }

    /// A process has ended: called on the thread on which that happened.
    pub fn over(&self, pid: Pid) {
        let known = self.turns.lock().expect("nothing panics while it holds the last checkpoints").remove(&pid);
        if known.is_some() {
            // If there are too many at once, whoever wants to make it go on asks this node whether it lives.
            let _ = self.ends.try_send(pid);
        }
    }
}

/// Chunks among those of the files, by whoever holds them.
struct Draft<'a> {
    files: &'a Shared,
    draft: u64,
    deadline: Instant,
}

impl Store for Draft<'_> {
    fn put(&self, chunks: Vec<(ChunkName, Vec<u8>)>) -> Result<(), String> {
        let ask = KeepAsk::Put { draft: self.draft, chunks };
        self.files.keep(&ask, self.deadline).map(drop).map_err(|error| error.to_string())
    }

    fn get(&self, name: &ChunkName) -> Result<Arc<[u8]>, ChunkError> {
        self.files.kept_chunk(name)
    }
}

/// A checkpoint as the coordinator has it.
pub(super) struct Found {
    key: Vec<u8>,
    sequence: u32,
    /// Nothing if the record is damaged.
    pub(super) checkpoint: Option<(ChunkName, Checkpoint)>,
}

impl System {
    /// Keeps a process of this node as it is now.
    pub fn checkpoint(&self, pid: Pid, name: Option<&str>) -> Result<Made, KeepRefused> {
        if let Some(name) = name
            && (name.is_empty()
                || name.len() > NAME_BYTES_MAX
                || name.bytes().all(|byte| byte.is_ascii_digit())
                || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)))
        {
            return Err(KeepRefused::Name(name.into()));
        }
        let node = self.node()?;
        if !node.is_alive(pid) {
            return Err(not_alive(node, pid));
        }
        let turn = self.0.keep.turn(pid);
        let mut turn = turn.lock().expect("nothing panics while it makes a checkpoint");
        let made = self.try_often(node, pid, name, &mut turn);
        // To be watched costs a process time, which only the next checkpoint gives back.
        if !self.0.supervise.is_durable(pid) {
            turn.watch = None;
        }
        if !node.is_alive(pid) {
            // It ended meanwhile, perhaps before it was known that somebody must be told.
            self.0.keep.over(pid);
        }
        made
    }

    /// Somebody else wants to follow the pages of this process. The next checkpoint looks at all of its memory.
    pub fn let_go_of_pages(&self, pid: Pid) {
        let turns = self.0.keep.turns.lock().expect("nothing panics while it holds the last checkpoints");
        let turn = turns.get(&pid).cloned();
        drop(turns);
        if let Some(turn) = turn {
            turn.lock().expect("nothing panics while it makes a checkpoint").watch = None;
        }
    }

    fn try_often(&self, node: &Node, pid: Pid, name: Option<&str>, turn: &mut Turn) -> Result<Made, KeepRefused> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.0.try_checkpoint(node, pid, name, turn) {
                Ok(made) => return Ok(made),
                // What it rested on is gone, or whoever kept it: all of it is brought anew.
                Err(Failed::Again(_)) if attempt < ATTEMPTS_MAX => *turn = Turn::default(),
                Err(Failed::Again(why)) => return Err(KeepRefused::NotKept(why)),
                Err(Failed::Refused(refused)) => {
                    // It may have been told what was written, and not have come to remember it.
                    turn.watch = None;
                    return Err(refused);
                }
            }
        }
    }

    /// All checkpoints of a process, or of all, the newest of each process last.
    pub fn checkpoints(&self, pid: Option<Pid>, verify: bool) -> Result<Vec<CheckpointView>, KeepRefused> {
        let mut views = vec![];
        for found in self.0.history(pid)? {
            views.push(self.0.view_of(found, verify));
        }
        Ok(views)
    }

    /// Where a process shall go on, and why there.
    pub fn place_restored(&self, pid: Pid, which: &Which, wish: &Wish) -> Result<WhyView, KeepRefused> {
        let candidates = self.0.candidates(pid, which)?;
        let Some((_, checkpoint)) = candidates.iter().find_map(|found| found.checkpoint.as_ref()) else {
            // Whoever is asked says what is damaged.
            return Ok(WhyView::new(Some(self.0.me)));
        };
        let mut wish = wish.clone();
        if !checkpoint.process.mounts.is_empty() {
            let bound = NodeId(checkpoint.made_on);
            let other = wish
                .on
                .as_ref()
                .is_some_and(|on| member::find(&self.0.directory.members(), on).is_none_or(|wished| wished != bound));
            if other {
                return Err(KeepRefused::Bound(self.0.name_of(bound)));
            }
            wish.on = Some(bound.to_string());
        }
        let place = Placement {
            mounts: vec![],
            limits: checkpoint.process.limits.clone(),
            stdio: checkpoint.process.stdio,
            follow: None,
            wish,
            decided: None,
        };
        let Outward { name, program, args, .. } = &checkpoint.process;
        self.place(name, program, args, &place).map_err(KeepRefused::NoPlace)
    }

    /// Makes a process go on here: under its own number, which it must not live under, or as a new one.
    pub fn restore(
        &self, pid: Pid, which: &Which, as_new: bool, why: Option<WhyView>,
    ) -> Result<Restored, KeepRefused> {
        let node = self.node()?;
        let candidates = self.0.candidates(pid, which)?;
        let bound = candidates.iter().filter_map(|found| found.checkpoint.as_ref()).next();
        if let Some((_, checkpoint)) = bound
            && !checkpoint.process.mounts.is_empty()
            && checkpoint.made_on != self.0.me.0
        {
            return Err(KeepRefused::Bound(self.0.name_of(NodeId(checkpoint.made_on))));
        }
        if as_new {
            return self.go_on(node, pid, &candidates, None).inspect(|restored| self.started(restored.pid, why));
        }
        if !self.0.keep.starting().insert(pid) {
            return Err(KeepRefused::Living { pid, node: self.0.name_of(self.0.me) });
        }
        let restored = (|| {
            let (claim, revision) = self.0.free_claim(node, pid)?;
            let incarnation = claim.map_or(0, |claim| claim.incarnation) + 1;
            let here = Place::At { node: self.0.me.0, life: self.life() };
            // Who goes on by hand is not looked after any more.
            let mine = Claim { incarnation, place: here, supervision: None };
            let revision = self.0.write_claim(pid, revision, &mine)?;
            let again = Again { id: pid.id(), incarnation };
            self.go_on(node, pid, &candidates, Some(again)).inspect_err(|_| {
                let over = Claim { place: Place::Ended { node: self.0.me.0, end: None }, ..mine.clone() };
                // If that is not written, whoever asks this node is told that it does not live.
                let _ = self.0.write_claim(pid, Some(revision), &over);
            })
        })();
        self.0.keep.starting().remove(&pid);
        restored.inspect(|restored| self.started(restored.pid, why))
    }

    /// Puts a living process of this node back to an earlier state.
    pub fn undo(&self, pid: Pid, which: &Which) -> Result<Restored, KeepRefused> {
        let node = self.node()?;
        if !node.is_alive(pid) {
            return Err(KeepRefused::Undo(UndoRefused::Freeze(crate::node::ControlRefused::Ended(pid).into())));
        }
        let candidates = self.0.candidates(pid, which)?;
        let turn = self.0.keep.turn(pid);
        let mut turn = turn.lock().expect("nothing panics while it makes a checkpoint");
        let (restored, cut) = self.use_one(pid, &candidates, |found, whole, program| {
            let note = format!("una: it goes on from its checkpoint {}\n", found.sequence);
            with_image(whole, |image| {
                let put = match image {
                    Ok(image) => node.put_back(pid, program, image, &note),
                    Err(error) => Err(UndoRefused::Run(RunRefused::Thaw(error))),
                };
                put.map(|()| pid).map_err(|refused| match refused {
                    UndoRefused::Run(run) if is_damage(&run) => Unusable::Damaged(run.to_string()),
                    refused => Unusable::Refused(refused.into()),
                })
            })
        })?;
        *turn = Turn { last: cut.map(|cut| Last { sequence: restored.from.sequence, cut }), watch: None };
        Ok(restored)
    }

    /// Removes a checkpoint of a process, or all of them.
    pub fn remove_checkpoints(&self, pid: Pid, which: Option<&Which>) -> Result<u64, KeepRefused> {
        let all = self.0.history(Some(pid))?;
        let chosen: Vec<Vec<u8>> = match which {
            None => all.into_iter().map(|found| found.key).collect(),
            // The one that is meant comes first, and those that are older behind it.
            Some(which) => choose(pid, all, which)?.into_iter().take(1).map(|found| found.key).collect(),
        };
        if chosen.is_empty() {
            return Err(KeepRefused::None(pid));
        }
        let count = chosen.len() as u64;
        self.0.files.keep(&KeepAsk::Remove { keys: chosen }, Instant::now() + FACT_TIMEOUT)?;
        Ok(count)
    }

    pub(super) fn node(&self) -> Result<&Node, KeepRefused> {
        self.0.node.get().ok_or(KeepRefused::NoNode)
    }

    /// Makes a process of the newest of these that can be used.
    pub(super) fn go_on(
        &self, node: &Node, pid: Pid, candidates: &[Found], again: Option<Again>,
    ) -> Result<Restored, KeepRefused> {
        // Wherever it goes on from, it must come to where it was known to be.
        let marks = candidates.iter().filter_map(|found| found.checkpoint.as_ref()?.1.tape);
        let known = marks.map(|mark| (mark.since, mark.position)).max();
        let (restored, cut) = self.use_one(pid, candidates, |found, whole, program| {
            let (_, checkpoint) = found.checkpoint.as_ref().expect("only what can be read is used");
            let streams = whole.streams().map_err(Unusable::broken)?;
            with_image(whole, |image| {
                let image = image.map_err(|error| Unusable::Damaged(error.to_string()))?;
                let mut outward = checkpoint.process.clone();
                // Without anybody who says when it is safe, what it prints is shown at once.
                outward.stdio.held &= again.is_some() && self.0.supervise.has(pid);
                let mark = checkpoint.tape.filter(|_| outward.stdio.held);
                let read = match mark {
                    Some(mark) => {
                        let read = self.0.read_tape(pid, mark)?.map_err(Unusable::Damaged)?;
                        if known.is_some_and(|known| (mark.since, read.told.end) < known) {
                            let why = "what it was told between this one and the next is not kept any more";
                            return Err(Unusable::Damaged(why.into()));
                        }
                        Some((mark, read))
                    }
                    None => None,
                };
                let incarnation = again.map_or(0, |again| again.incarnation);
                let (life, pieces) = match read {
                    Some((mark, tape::Read { told, pieces })) => {
                        let TapeMark { since, position, changes, monotonic_ns, cputime_ns } = mark;
                        let mark = Mark { position, changes, monotonic_ns, cputime_ns };
                        (Life { since, incarnation, mark, told }, pieces)
                    }
                    None => (Life { incarnation, ..Life::default() }, vec![]),
                };
                let order = GoOn { program: program.clone(), outward, streams, life, again };
                match node.go_on(image, order) {
                    Ok(Started { pid, console }) => {
                        if let (Some(mark), Some(tape)) = (mark, node.tape(pid)) {
                            let taping = tape::Taping::new(tape, mark.since, Some(mark.position), pieces);
                            self.0.supervise.set_taping(pid, taping);
                        }
                        console.give_up_first();
                        Ok(pid)
                    }
                    Err(refused) if is_damage(&refused) => Err(Unusable::Damaged(refused.to_string())),
                    Err(refused) => Err(Unusable::Refused(refused.into())),
                }
            })
        })?;
        if again.is_some() {
            let turn = self.0.keep.turn(restored.pid);
            let mut turn = turn.lock().expect("nothing panics while it makes a checkpoint");
            *turn = Turn { last: cut.map(|cut| Last { sequence: restored.from.sequence, cut }), watch: None };
        }
        let incarnation = again.map_or(0, |again| u64::from(again.incarnation));
        let sequence = u64::from(restored.from.sequence);
        let on = self.0.me;
        self.0.chronicle.record(Kind::ProcessRestored { process: restored.pid.id(), on, sequence, incarnation });
        if let Some(again) = again {
            self.moved_here(restored.pid, again.moves());
        }
        if again.is_some() && !node.is_alive(restored.pid) {
            // It had ended before it was known here.
            self.0.keep.over(restored.pid);
        }
        Ok(restored)
    }

    /// Tries the candidates, the best first, until one is not damaged.
    fn use_one(
        &self, pid: Pid, candidates: &[Found],
        mut act: impl FnMut(&Found, &Whole, &engine::Program) -> Result<Pid, Unusable>,
    ) -> Result<(Restored, Option<Cut>), KeepRefused> {
        let mut passed_over = vec![];
        for found in candidates {
            let said = format!("checkpoint {}", found.sequence);
            let Some((root, checkpoint)) = &found.checkpoint else {
                passed_over.push(format!("{said}: its record is damaged"));
                continue;
            };
            let store = Draft { files: &self.0.files, draft: 0, deadline: Instant::now() + KEEP_TIMEOUT };
            let used = (|| {
                let whole = Whole::open(&store, *root).map_err(Unusable::broken)?;
                let program = self.program_of(checkpoint, &whole)?;
                let pid = act(found, &whole, &program)?;
                Ok((pid, whole.cut().ok()))
            })();
            match used {
                Ok((pid, cut)) => return Ok((Restored { pid, from: checkpoint.clone(), passed_over }, cut)),
                Err(Unusable::Damaged(why)) => passed_over.push(format!("{said}: {why}")),
                Err(Unusable::Refused(refused)) => return Err(refused),
            }
        }
        Err(KeepRefused::AllDamaged { pid, whys: passed_over })
    }

    /// A program that somebody once ran as this process: from here, from another node, or from a checkpoint of it.
    pub(super) fn program_anywhere(&self, pid: Pid, hash: &str) -> Result<engine::Program, KeepRefused> {
        let refused = |why: String| KeepRefused::Program(why);
        let node = self.node()?;
        if let Some(program) = node.known_program(hash) {
            return Ok(program);
        }
        let known = blake3::Hash::from_hex(hash).map_err(|error| refused(error.to_string()))?;
        let found = self.0.library.find(&known).ok().flatten().or_else(|| self.program(&known));
        if let Some(wasm) = found {
            return node.load(wasm, &mut |_| {}).map_err(|error| refused(error.to_string()));
        }
        let candidates = self.0.candidates(pid, &Which::Latest)?;
        let store = Draft { files: &self.0.files, draft: 0, deadline: Instant::now() + KEEP_TIMEOUT };
        let mut why = "no node has it".to_string();
        for (root, checkpoint) in candidates.iter().filter_map(|found| found.checkpoint.as_ref()) {
            let used = Whole::open(&store, *root).map_err(Unusable::broken);
            match used.and_then(|whole| self.program_of(checkpoint, &whole)) {
                Ok(program) => return Ok(program),
                Err(Unusable::Refused(refused)) => return Err(refused),
                Err(Unusable::Damaged(damage)) => why = damage,
            }
        }
        Err(refused(why))
    }

    /// The program of a checkpoint, from here, from another node, or from the checkpoint.
    fn program_of(&self, checkpoint: &Checkpoint, whole: &Whole) -> Result<engine::Program, Unusable> {
        let refused = |why: String| Unusable::Refused(KeepRefused::Program(why));
        let node = self.node().map_err(Unusable::Refused)?;
        let hash = &checkpoint.process.program;
        if let Some(program) = node.known_program(hash) {
            return Ok(program);
        }
        let hash = blake3::Hash::from_hex(hash).map_err(|_| Unusable::Damaged("the name of its program".into()))?;
        let found = self.0.library.find(&hash).ok().flatten().or_else(|| self.program(&hash));
        let wasm = match found {
            Some(wasm) => wasm,
            None => {
                let wasm = whole.program().map_err(Unusable::broken)?;
                if blake3::hash(&wasm) != hash {
                    return Err(Unusable::Damaged("the program in it is another one than it says".into()));
                }
                // Not to keep it costs another look into the checkpoint the next time.
                let _ = self.0.library.keep(&wasm);
                wasm
            }
        };
        node.load(wasm, &mut |_| {}).map_err(|error| refused(error.to_string()))
    }
}

impl From<KeepRefused> for Unusable {
    fn from(refused: KeepRefused) -> Unusable {
        Unusable::Refused(refused)
    }
}

/// Why a checkpoint was not used.
enum Unusable {
    /// Another one may do.
    Damaged(String),
    Refused(KeepRefused),
}

impl Unusable {
    fn broken(broken: Broken) -> Unusable {
        Unusable::Damaged(broken.to_string())
    }
}

/// Reads a checkpoint as an image. What is wrong with the checkpoint counts before what that leads to.
fn with_image<T>(
    whole: &Whole,
    act: impl FnOnce(Result<engine::Image<BufReader<io::PipeReader>>, engine::ThawError>) -> Result<T, Unusable>,
) -> Result<T, Unusable> {
    let no_pipe = |error: io::Error| Unusable::Refused(KeepRefused::NotKept(format!("no pipe: {error}")));
    let (from, to) = io::pipe().map_err(no_pipe)?;
    std::thread::scope(|scope| {
        let writes = scope.spawn(move || {
            let mut out = BufWriter::with_capacity(256 << 10, to);
            whole.write_image(&mut out)?;
            out.flush().map_err(Broken::Write)
        });
        let result =
            act(engine::Image::open(BufReader::with_capacity(256 << 10, from)).map_err(engine::ThawError::from));
        match (writes.join().expect("reading a checkpoint does not panic"), result) {
            // Whoever reads has seen the end of it then.
            (_, Ok(value)) => Ok(value),
            (Err(broken @ (Broken::Chunk(_) | Broken::Form(_) | Broken::State(_))), Err(_)) => {
                Err(Unusable::broken(broken))
            }
            (_, Err(unusable)) => Err(unusable),
        }
    })
}

enum Failed {
    /// Not now, but perhaps if it is begun anew.
    Again(String),
    Refused(KeepRefused),
}

impl<E: Into<KeepRefused>> From<E> for Failed {
    fn from(error: E) -> Failed {
        Failed::Refused(error.into())
    }
}

impl Inner {
    /// A process has come here from another node: from now on it may have its effects here. In the background; until that is written
    /// it cannot be kept here, nor made to go on elsewhere.
    pub(super) fn tell_moved(self: &Arc<Inner>, pid: Pid) {
        let inner = self.clone();
        let tell = move || {
            let until = Instant::now() + KEEP_TIMEOUT;
            let place = Place::At { node: inner.me.0, life: inner.record().life };
            while Instant::now() < until
                && !inner.is_stopping()
                && inner.node.get().is_some_and(|node| node.is_alive(pid))
            {
                let told = inner.claim(pid).and_then(|claim| match claim {
                    Some((claim, revision)) if claim.place != place => {
                        let here = Claim { place: place.clone(), ..claim };
                        inner.write_claim(pid, Some(revision), &here).map(drop)
                    }
                    _ => Ok(()),
                });
                if told.is_ok() {
                    // Its end is to be written down as well.
                    return drop(inner.keep.turn(pid));
                }
                std::thread::sleep(ANSWER_TIMEOUT / 4);
            }
        };
        // Without a thread it cannot be kept here, and says so.
        let _ = std::thread::Builder::new().name("una-moved".into()).spawn(tell);
    }

    fn try_checkpoint(&self, node: &Node, pid: Pid, name: Option<&str>, turn: &mut Turn) -> Result<Made, Failed> {
        let deadline = Instant::now() + KEEP_TIMEOUT;
        let (claim, revision) = self.own_claim(node, pid)?;
        let history = self.history(Some(pid))?;
        let sequence = history.last().map_or(0, |found| found.sequence) + 1;
        node.has_nothing_in_hand(pid).map_err(SnapshotRefused::from)?;
        if let Some(tape) = node.tape(pid) {
            let until = Instant::now() + CATCH_UP_TIMEOUT;
            while !tape.has_caught_up() {
                if Instant::now() >= until || !node.is_alive(pid) {
                    return Err(KeepRefused::CatchesUp(pid).into());
                }
                std::thread::sleep(CATCH_UP_LOOK);
            }
        }
        let Turn { last, watch } = turn;
        // What is compared with must be there still, or what it shares is not.
        if last.as_ref().is_some_and(|last| !history.iter().any(|found| found.sequence == last.sequence)) {
            (*last, *watch) = (None, None);
        }
        let before = last.as_ref().map(|last| &last.cut);
        let mut draft = [0; 8];
        abi::file::Entropy::fill(&mut HostEntropy, &mut draft)
            .map_err(|error| KeepRefused::NotKept(format!("no random numbers: {error}")))?;
        let draft = Draft { files: &self.files, draft: u64::from_le_bytes(draft), deadline };
        let mut cutter = Cutter::new(&draft);
        let process = node.memories(pid).map_err(SnapshotRefused::from)?;
        if watch.as_ref().is_none_or(|watch| !watch.is_of(&process)) {
            *watch = Watch::begin(&process, before);
        }
        // Without one all of the memory is looked at while the process is stopped.
        let guess = match watch.as_mut() {
            Some(watch) => watch.look_while_it_runs(&mut cutter, before).map_err(Failed::Again)?,
            None => vec![],
        };
        let mut memories = vec![];
        let snapshot = node.snapshot(pid, |memory, bytes| {
            let Some(watch) = watch.as_mut() else {
                let before = before.and_then(|before| before.memories.get(memory as usize));
                memories.push(cutter.blob(bytes, before, |_| true)?);
                return Ok(());
            };
            if memories.is_empty() {
                watch.look_at_last().map_err(|error| error.to_string())?;
            }
            memories.push(cutter.blob(bytes, guess.get(memory as usize), |unit| watch.is_left(memory, unit))?);
            Ok(())
        })?;
        let state =
            cutter.blob(&snapshot.state, before.map(|before| &before.state), |_| true).map_err(Failed::Again)?;
        let streams =
            cutter.blob(&snapshot.streams, before.map(|before| &before.streams), |_| true).map_err(Failed::Again)?;
        let program = match before {
            // It is the same, as long as it is the same process.
            Some(before) => before.program.clone(),
            None => {
                let program = node.known_program(&snapshot.outward.program);
                let program = program.ok_or_else(|| KeepRefused::Program("it is not known here any more".into()))?;
                cutter.blob(program.wasm(), None, |_| true).map_err(Failed::Again)?
            }
        };
        let taping = self.supervise.taping_of(pid);
        let cut = Cut { program, state, streams, memories };
        let root = cutter.seal(&cut, before).map_err(Failed::Again)?;
        let units = [&cut.program, &cut.state, &cut.streams].into_iter().chain(&cut.memories);
        let bytes = units
            .flat_map(|units| units.names.iter().enumerate().map(|(index, name)| (units.bytes, index, name)))
            .filter(|(.., name)| name.is_some())
            .map(|(bytes, index, _)| checkpoints::unit_bytes(bytes, index as u64) as u64)
            .sum();
        let checkpoint = Checkpoint {
            pid,
            sequence,
            name: name.map(String::from),
            made_ms: now_ms(),
            made_on: self.me.0,
            incarnation: claim.incarnation,
            bytes,
            new_bytes: cut.new_bytes(before),
            pause_us: snapshot.pause.as_micros() as u64,
            tape: taping.as_ref().zip(snapshot.mark).map(|(taping, mark)| taping.mark(mark)),
            process: snapshot.outward,
        };
        let kept: Vec<checkpoints::Kept> = history
            .iter()
            .map(|found| checkpoints::Kept {
                sequence: found.sequence,
                is_named: found.checkpoint.as_ref().is_some_and(|(_, checkpoint)| checkpoint.name.is_some()),
            })
            .collect();
        let surplus = checkpoints::surplus(&kept);
        let commit = KeepAsk::Commit {
            draft: draft.draft,
            key: checkpoint.key(),
            value: checkpoint.write(root),
            unchanged: vec![(record::claim_key(pid), revision)],
            remove: surplus.into_iter().map(|sequence| record::checkpoint_key(pid, sequence)).collect(),
        };
        if let (Some(taping), Some(mark)) = (&taping, checkpoint.tape) {
            taping.settle(mark.position);
        }
        match self.files.keep(&commit, deadline) {
            Ok(KeepTold::Incomplete(chunks)) => {
                Err(Failed::Again(format!("{chunks} chunks that it shares with an earlier one are gone")))
            }
            Ok(_) => {
                let (process, new_bytes) = (pid.id(), checkpoint.new_bytes);
                let sequence = u64::from(sequence);
                self.chronicle.record(Kind::ProcessKept { process, sequence, new_bytes });
                let mut cost = snapshot.pause;
                if let Some(watch) = watch {
                    watch.is_recorded();
                    cost += watch.cost();
                }
                *last = Some(Last { sequence: checkpoint.sequence, cut });
                if let (Some(taping), Some(mark)) = (taping, checkpoint.tape) {
                    self.is_based(pid, &taping, mark.position);
                }
                Ok(Made { checkpoint, cost })
            }
            Err(KeepError::HolderChanged | KeepError::Changed) => {
                Err(Failed::Again("the node that keeps it, or the process's own record, changed meanwhile".into()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What is said of a process, and since when.
    pub(super) fn claim(&self, pid: Pid) -> Result<Option<(Claim, Revision)>, KeepRefused> {
        let key = record::claim_key(pid);
        let found = self.facts.range(Range::key(&key), Instant::now() + FACT_TIMEOUT).map_err(SystemError::from)?;
        let Some(record) = found.records.first() else { return Ok(None) };
        match Claim::read(&record.key, &record.value) {
            Some((_, claim)) => Ok(Some((claim, record.modified))),
            None => Err(SystemError::Refused(format!("what is kept of process {pid} is damaged")).into()),
        }
    }

    /// Says something of a process if nobody else has meanwhile. `before`: since when the last is true.
    pub(super) fn write_claim(
        &self, pid: Pid, before: Option<Revision>, claim: &Claim,
    ) -> Result<Revision, KeepRefused> {
        let (key, value) = (record::claim_key(pid), claim.write(pid));
        let transaction = Transaction::new()
            .when(match before {
                Some(revision) => Compare::unchanged(&key, revision),
                None => Compare::missing(&key),
            })
            .then(Action::put(&key, &value))
            .otherwise(Action::get(&key));
        let deadline = Instant::now() + FACT_TIMEOUT;
        let mut in_doubt = false;
        loop {
            match self.facts.transact(transaction.clone(), deadline) {
                Ok(committed) if committed.succeeded => return Ok(committed.revision),
                Ok(committed) => {
                    let now = committed.found(0).and_then(|found| found.records.first());
                    // An attempt whose answer was lost.
                    return match now {
                        Some(record) if in_doubt && *record.value == *value => Ok(record.modified),
                        _ => Err(SystemError::Refused(format!("process {pid} was taken up by another node meanwhile"))
                            .into()),
                    };
                }
                Err(drivers::coordinator::Failure::Unknown { .. }) if Instant::now() < deadline => in_doubt = true,
                Err(error) => return Err(SystemError::from(error).into()),
            }
        }
    }

    /// The claim of a process that lives here; made if there is none.
    fn own_claim(&self, node: &Node, pid: Pid) -> Result<(Claim, Revision), KeepRefused> {
        let here = Place::At { node: self.me.0, life: self.record().life };
        match self.claim(pid)? {
            Some((claim, revision)) if claim.place == here => Ok((claim, revision)),
            Some(_) if node.is_alive(pid) => Err(KeepRefused::Superseded(pid)),
            _ => {
                if !node.is_alive(pid) {
                    return Err(not_alive(node, pid));
                }
                let claim = Claim { incarnation: 0, place: here, supervision: None };
                let revision = self.write_claim(pid, None, &claim)?;
                Ok((claim, revision))
            }
        }
    }

    /// The claim of a process under which nobody lives, for certain.
    fn free_claim(&self, node: &Node, pid: Pid) -> Result<(Option<Claim>, Option<Revision>), KeepRefused> {
        if node.is_alive(pid) {
            return Err(KeepRefused::Living { pid, node: self.name_of(self.me) });
        }
        let Some((claim, revision)) = self.claim(pid)? else {
            // Nobody ever kept it: then it can live only where it was born.
            return Ok((None, None));
        };
        if let Place::At { node: at, life } = claim.place {
            self.certainly_over(pid, NodeId(at), life)?;
        }
        Ok((Some(claim), Some(revision)))
    }

    /// Fails unless what lived under this number in that life of that node is over.
    fn certainly_over(&self, pid: Pid, at: NodeId, life: u64) -> Result<(), KeepRefused> {
        if at == self.me {
            // Whether it lives here has been looked at; an earlier life of this node is over.
            return Ok(());
        }
        let known = self.directory.members().get(&at).map(|member| member.life);
        if known.is_none_or(|known| known > life) {
            return Ok(());
        }
        let name = self.name_of(at);
        let question = ears::Question::Lives { pid, life };
        let answer = self.ask(at, &question).map_err(|_| KeepRefused::NotCertain { pid, node: name.clone() })?;
        match serde_json::from_slice(&answer) {
            Ok(false) => Ok(()),
            _ => Err(KeepRefused::Living { pid, node: name }),
        }
    }

    /// Does this process live here, or is it about to, if this is that life?
    pub fn lives(&self, pid: Pid, life: u64) -> bool {
        if self.record().life != life {
            return false;
        }
        // In this order: who is starting is alive before it is not starting any more.
        let is_starting = self.keep.starting().contains(&pid);
        is_starting || self.node.get().is_none_or(|node| node.is_alive(pid))
    }

    /// All checkpoints of a process, or of all processes, in the order of their keys.
    fn history(&self, pid: Option<Pid>) -> Result<Vec<Found>, KeepRefused> {
        let prefix = pid.map_or_else(|| crate::files::RECORDS.to_vec(), record::history_prefix);
        let mut all = vec![];
        let mut keys = KeyRange::prefix(&prefix);
        loop {
            let found = self.facts.range(Range::of(keys.clone()), Instant::now() + FACT_TIMEOUT);
            let found = found.map_err(SystemError::from)?;
            all.extend(found.records.iter().filter_map(read_found));
            match found.records.last() {
                Some(last) if found.more => keys.from = [&last.key, &[0][..]].concat().into(),
                _ => return Ok(all),
            }
        }
    }

    /// Those that may be used, the one that is meant first, then those that are older.
    pub(super) fn candidates(&self, pid: Pid, which: &Which) -> Result<Vec<Found>, KeepRefused> {
        choose(pid, self.history(Some(pid))?, which)
    }

    fn view_of(&self, found: Found, verify: bool) -> CheckpointView {
        let Some((root, checkpoint)) = found.checkpoint else {
            return CheckpointView::damaged(pid_of(&found.key), found.sequence, "its record is damaged");
        };
        let look = KeepAsk::Look { root, verify };
        let state = match self.files.keep(&look, Instant::now() + KEEP_TIMEOUT) {
            Ok(KeepTold::Looked(Whereabouts { chunks, at, missing: 0 })) => {
                CheckpointState::Whole { chunks, at: at.into_iter().map(|(node, count)| (node.0, count)).collect() }
            }
            Ok(KeepTold::Looked(Whereabouts { chunks, missing, .. })) => {
                CheckpointState::Damaged { why: format!("{missing} of {chunks} chunks are missing or damaged") }
            }
            Ok(other) => CheckpointState::Unknown { why: format!("{other:?}") },
            Err(error) => CheckpointState::Unknown { why: error.to_string() },
        };
        CheckpointView::of(checkpoint, state)
    }
}

fn not_alive(node: &Node, pid: Pid) -> KeepRefused {
    let gone = node.process(pid).map_or_else(|refused| refused, |_| crate::node::ControlRefused::Ended(pid));
    KeepRefused::Snapshot(SnapshotRefused::Freeze(gone.into()))
}

fn read_found(record: &Record) -> Option<Found> {
    let key = record.key.strip_prefix(crate::files::RECORDS)?;
    let sequence = std::str::from_utf8(key.get(17..)?).ok()?;
    let sequence = u32::from_str_radix(sequence, 16).ok()?;
    Some(Found { key: key.to_vec(), sequence, checkpoint: Checkpoint::read(key, &record.value) })
}

fn pid_of(key: &[u8]) -> Option<Pid> {
    let bits = u64::from_str_radix(std::str::from_utf8(key.get(..16)?).ok()?, 16).ok()?;
    Some(abi::ids::ProcessId::from_bits(bits).into())
}

fn choose(pid: Pid, mut all: Vec<Found>, which: &Which) -> Result<Vec<Found>, KeepRefused> {
    all.reverse();
    if all.is_empty() {
        return Err(KeepRefused::None(pid));
    }
    let is_meant = |found: &Found| match which {
        Which::Latest => true,
        Which::Sequence(sequence) => found.sequence == *sequence,
        Which::Named(name) => {
            found.checkpoint.as_ref().is_some_and(|(_, checkpoint)| checkpoint.name.as_ref() == Some(name))
        }
    };
    let Some(at) = all.iter().position(is_meant) else {
        let which = match which {
            Which::Named(name) => name.clone(),
            Which::Sequence(sequence) => sequence.to_string(),
            Which::Latest => String::new(),
        };
        return Err(KeepRefused::NoSuch { pid, which });
    };
    Ok(all.split_off(at))
}

/// Writes down which processes have ended.
pub(super) fn run(inner: &Arc<Inner>) {
    let Some(ended) = inner.keep.ended.lock().expect("nothing panics while it takes this").take() else { return };
    while !inner.is_stopping() {
        let Ok(pid) = ended.recv_timeout(ANSWER_TIMEOUT) else { continue };
        let Some(node) = inner.node.get() else { continue };
        let here = Place::At { node: inner.me.0, life: inner.record().life };
        // What is not written now is found out by whoever asks.
        if let Ok(Some((claim, revision))) = inner.claim(pid)
            && claim.place == here
            && claim.supervision.is_none()
            && !node.is_alive(pid)
            && !inner.keep.starting().contains(&pid)
        {
            let place = Place::Ended { node: inner.me.0, end: node.end_of(pid) };
            let _ = inner.write_claim(pid, Some(revision), &Claim { place, ..claim });
        }
    }
}
