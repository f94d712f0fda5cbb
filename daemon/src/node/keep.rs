//! A process stopped for a moment, so that somebody can look at all of it or put an earlier state in its place; and a process that goes on
//! under the number that it had. Knows the engine and the kernel; not where what is kept lies.
//!
//! The one idea: a process that was stopped (`moving`) can be looked at, and another body can be put in the place of its own. For the
//! kernel nothing happens: it is the same process, which came back from its processor and goes on.

use super::process::Info;
use super::view::{ControlRefused, End, FreezeRefused, Kind, Pid, RunRefused};
use super::{Common, Console, Life, MountOrder, Node, ProcessLimits, Started, Stdio, at_once};
use abi::ids::NodeId;
use abi::process::Again;
use drivers::clock::now_ms;
use engine::tape::{Mark, Tape};
use engine::{Image, SaveError, ThawError, wasi};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often, and how many times, a body is told to end whose process lives elsewhere.
const ENDING_INTERVAL: Duration = Duration::from_millis(100);
const ENDINGS_MAX: u32 = 600;

/// What is known of a process beside what its image says, so that another node can make it go on.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Outward {
    pub name: String,
    pub args: Vec<String>,
    /// BLAKE3 in hexadecimal.
    pub program: String,
    pub mounts: Vec<MountOrder>,
    pub limits: ProcessLimits,
    pub stdio: Stdio,
    pub cpu_ns: u64,
    /// The position behind all that it wrote.
    pub output_bytes: u64,
}

/// A process as it was at one moment, but for its memories.
pub struct Snapshot {
    pub outward: Outward,
    /// What [`engine::Process::save_state`] wrote.
    pub state: Vec<u8>,
    /// What [`Console::save`] wrote; of a process that writes where its parent writes, nothing.
    pub streams: Vec<u8>,
    /// Where it stands on its tape, if it has one.
    pub mark: Option<Mark>,
    /// For how long it was kept from running.
    pub pause: Duration,
}

/// A process that is to go on, beside its image.
pub struct GoOn {
    pub program: engine::Program,
    pub outward: Outward,
    pub streams: Vec<u8>,
    pub life: Life,
    /// Under which number; a new one if it is not said.
    pub again: Option<Again>,
}

/// Why no snapshot was taken. The process runs on.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotRefused {
    #[error(transparent)]
    Freeze(#[from] FreezeRefused),
    #[error("{0}")]
    Sink(String),
}

/// Why a process was not put back to an earlier state. It runs on as it was.
#[derive(Debug, thiserror::Error)]
pub enum UndoRefused {
    #[error(
        "process {0} is durable, and others have seen what it did: go on from an earlier state beside it: una restore {0}@CHECKPOINT --new"
    )]
    Durable(Pid),
    #[error(transparent)]
    Freeze(#[from] FreezeRefused),
    #[error(transparent)]
    Run(#[from] RunRefused),
}

impl Node {
    /// Stops a process, shows its memories, and lets it run on. `memory` is called while it is stopped.
    pub fn snapshot(
        &self, pid: Pid, mut memory: impl FnMut(u32, &[u8]) -> Result<(), String>,
    ) -> Result<Snapshot, SnapshotRefused> {
        let info = self.find(pid).map_err(FreezeRefused::from)?;
        self.has_nothing_in_hand(pid)?;
        let began = Instant::now();
        let mut stopped = self.stop_still(pid)?;
        let process = stopped.process();
        let mut state = vec![];
        process.save_state(&mut state).map_err(FreezeRefused::from)?;
        let mark = info.tape.as_ref().map(Tape::mark);
        process.each_memory(&mut memory).map_err(SnapshotRefused::Sink)?;
        let console = info.console.as_ref();
        let streams = match console.filter(|_| info.shares.is_none()) {
            Some(console) => console.save(),
            None => vec![],
        };
        let outward = Outward {
            name: info.name.clone(),
            args: info.args.clone(),
            program: info.program.clone(),
            mounts: info.mounts.clone(),
            limits: info.limits.clone(),
            stdio: info.stdio,
            cpu_ns: info.time.total_ns(self.0.machine.now()),
            output_bytes: console.map_or(0, Console::end),
        };
        drop(stopped);
        Ok(Snapshot { outward, state, streams, mark, pause: began.elapsed() })
    }

    /// Can it be looked at as it is?
    pub fn has_nothing_in_hand(&self, pid: Pid) -> Result<(), FreezeRefused> {
        // What a durable one holds is a part of its state.
        if self.find(pid)?.tape.is_some() {
            return Ok(());
        }
        // Each is born with one, to the names.
        match self.process(pid)?.handles > 1 {
            true => Err(FreezeRefused::Holds { pid, what: "ports, pipes or processes in its hands".into() }),
            false => Ok(()),
        }
    }

    /// Makes a process of an image, which goes on where it was, with what its streams held.
    pub fn go_on(&self, image: Image<impl Read>, order: GoOn) -> Result<Started, RunRefused> {
        let GoOn { program, outward, streams, life, again } = order;
        let Outward { name, args, mounts, limits, stdio, cpu_ns, .. } = outward;
        if let Some(again) = again
            && self.find(again.id.into()).is_ok_and(|info| info.fate().end.is_none())
        {
            return Err(RunRefused::Alive(again.id.into()));
        }
        let bytes_max = limits.output_bytes.unwrap_or(u64::MAX);
        let console = match streams.is_empty() {
            true => Console::new(stdio.input, false, bytes_max),
            false => Console::restored(&streams).map_err(|_| RunRefused::Streams)?,
        };
        let world = self.0.world_at(&program, &mounts, &limits, stdio, (console.clone(), console), life)?;
        world.rest.time.carry_over(cpu_ns);
        let (resume, fiber, rest) = world.for_old();
        let process = at_once(self.0.engine.thaw_on_fiber(&program, image, resume, fiber))?;
        let (started_ms, moves) = (now_ms(), super::moves(again));
        self.launch(&program, process, Common { name, args, mounts, limits, stdio, started_ms, moves, again }, rest)
    }

    /// Puts an earlier state of a living process in the place of what it is. What it wrote since then stays written.
    pub fn put_back(
        &self, pid: Pid, program: &engine::Program, image: Image<impl Read>, note: &str,
    ) -> Result<(), UndoRefused> {
        let info = self.find(pid).map_err(FreezeRefused::from)?;
        if info.tape.is_some() {
            return Err(UndoRefused::Durable(pid));
        }
        let console = info.console.clone().unwrap_or_else(|| Console::new(false, false, 0));
        let world = self.0.world_at(
            program,
            &info.mounts,
            &info.limits,
            info.stdio,
            (console.clone(), console.clone()),
            Life::default(),
        )?;
        // It is the same process: whatever rouses it, and whatever its kernel knows it by.
        let key = *info.key.get().ok_or(FreezeRefused::from(ControlRefused::NoSuchProcess(pid)))?;
        let known = (world.rest.key.set(key), world.rest.known.set(Arc::downgrade(&info)));
        assert!(known.0.is_ok() && known.1.is_ok(), "this world is new");
        let (resume, fiber, _) = world.for_old();
        let resume = wasi::Resume { clock: info.clock(), ..resume };
        let usage = fiber.usage.clone();
        let mut new = at_once(self.0.engine.thaw_on_fiber(program, image, resume, fiber)).map_err(RunRefused::from)?;
        self.has_nothing_in_hand(pid)?;
        let mut stopped = self.stop_still(pid)?;
        info.set_body(new.stopper(), usage, new.memories());
        console.note(note);
        stopped.replace(new);
        Ok(())
    }

    /// Does a program run here under this number?
    pub fn is_alive(&self, pid: Pid) -> bool {
        self.living(pid).is_some()
    }

    /// Does it live here, and nowhere else as far as this node knows?
    pub fn is_at_home(&self, pid: Pid) -> bool {
        self.living(pid).is_some_and(|info| info.moved().is_none())
    }

    fn living(&self, pid: Pid) -> Option<Arc<Info>> {
        let processes = self.0.bodies.processes();
        let found = processes.find_live(pid).filter(|info| info.kind == Kind::Program && info.fate().end.is_none());
        found.cloned()
    }

    /// It lives there from now on: whoever follows its streams goes on there, and what is left of it here ends.
    pub fn gone_to(&self, pid: Pid, to: NodeId) {
        if let Ok(info) = self.find(pid) {
            self.note_moved(pid, &info, to);
        }
        self.end_for_certain(pid);
    }

    /// Ends the body that this process has here, which lives elsewhere, until it has ended: one that is lent for a checkpoint, or being
    /// stopped, may not hear of it the first time. A later one under the same number is left alone.
    pub fn end_for_certain(&self, pid: Pid) {
        let Ok(info) = self.find(pid) else { return };
        let node = self.clone();
        let insist = move || {
            for times in 0..ENDINGS_MAX {
                std::thread::sleep(ENDING_INTERVAL);
                let is_it = node.find(pid).is_ok_and(|now| Arc::ptr_eq(&now, &info));
                if info.fate().end.is_some() || !is_it {
                    return;
                }
                let _ = node.kill(pid);
                if times > ENDINGS_MAX / 10 {
                    node.give_up(pid, "it lives on another node");
                }
            }
        };
        // It may have ended by itself. Without a thread it is told once.
        let _ = self.kill(pid);
        let _ = std::thread::Builder::new().name("una-fence".into()).spawn(insist);
    }

    /// What it was told, if it is durable.
    pub(crate) fn tape(&self, pid: Pid) -> Option<Tape> {
        self.find(pid).ok()?.tape.clone()
    }

    /// All that it did is safe: so its last answers may be seen.
    pub(crate) fn release_answers(&self, pid: Pid) {
        if let Some(harbour) = self.find(pid).ok().and_then(|info| info.harbour.clone()) {
            harbour.release();
        }
    }

    /// What runs here is not what it should be: it ends, and says so.
    pub(crate) fn give_up(&self, pid: Pid, why: &str) {
        if let Some(memories) = self.find(pid).ok().and_then(|info| info.memories()) {
            memories.give_up(why);
        }
    }

    /// Does somebody keep it from running?
    pub fn is_stopped(&self, pid: Pid) -> bool {
        self.find(pid).is_ok_and(|info| info.is_stopped())
    }

    /// How a program ended that ran here under this number, if it did.
    pub fn end_of(&self, pid: Pid) -> Option<End> {
        self.find(pid).ok()?.fate().end.clone()
    }
}

impl super::World {
    /// For a program that goes on.
    pub(super) fn for_old(self) -> (wasi::Resume, engine::Fiber, super::Rest) {
        let super::World { mounts, stdin, stdout, stderr, clock, entropy, waiter, fiber, rest } = self;
        (wasi::Resume { mounts, stdin, stdout, stderr, clock, entropy, waiter }, fiber, rest)
    }
}

/// Whether another checkpoint of the same process might do where this one did not.
pub fn is_damage(refused: &RunRefused) -> bool {
    matches!(refused, RunRefused::Thaw(ThawError::Image(_) | ThawError::NotOurs { .. }) | RunRefused::Streams)
}

impl From<SaveError> for SnapshotRefused {
    fn from(error: SaveError) -> SnapshotRefused {
        SnapshotRefused::Freeze(error.into())
    }
}
