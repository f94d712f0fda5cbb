//! A process that is forked, and the clones that come of it. Knows processes, images and stems; not on which nodes clones are, nor who
//! decides that.
//!
//! ```text
//!   origin      what must be known to make ready        (program, limits, directories)
//!   fork_here   the process stands still; its state is saved, its memory becomes a stem; it runs on        ──►  Cutting
//!   grow        a process of its own, of the state, with the stem's memory
//! ```
//! The one idea: a clone is a process that goes on from an image, as from a checkpoint, whose memory is shared until somebody writes to it.
//! What cannot be two things at once stays with the one that was forked: its terminal, and what waits there to be read.

use super::console::Console;
use super::view::*;
use super::{Common, Life, Node, Started, at_once};
use drivers::clock::now_ms;
use engine::Image;
use engine::pages::{PagesError, Stem};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What must be known of a process to have clones of it, beside its state and its memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Origin {
    pub pid: Pid,
    pub name: String,
    pub args: Vec<String>,
    /// BLAKE3 in hexadecimal.
    pub program: String,
    pub mounts: Vec<MountOrder>,
    pub limits: ProcessLimits,
    pub memory_bytes: u64,
}

/// Who asks for a fork.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asker {
    /// The process itself, which waits for it in a call: in the clones that call is answered, not made again.
    Itself,
    Others,
}

/// What clones are made of.
pub struct Cutting {
    pub origin: Origin,
    pub program: engine::Program,
    pub asker: Asker,
    /// Its image without its memory.
    pub state: Vec<u8>,
    pub stem: Stem,
    /// Since when its clock stands still, as far as this node can tell.
    pub stopped: Instant,
    /// How long the process stood still for it, from the moment at which it was asked to stop.
    pub pause: Duration,
}

/// Why a process was not forked. It runs on.
#[derive(Debug, thiserror::Error)]
pub enum ForkRefused {
    #[error(transparent)]
    Stop(#[from] FreezeRefused),
    #[error("process {0} is durable: what is known of it must be the only one, so it cannot be forked")]
    Durable(Pid),
    #[error("the memory of process {pid} cannot be shared with clones: {error}")]
    Pages { pid: Pid, error: PagesError },
}

/// Why a clone did not begin.
#[derive(Debug, thiserror::Error)]
pub enum GrowRefused {
    #[error(transparent)]
    Run(#[from] RunRefused),
    #[error(transparent)]
    Pages(#[from] PagesError),
}

impl From<ControlRefused> for ForkRefused {
    fn from(refused: ControlRefused) -> ForkRefused {
        FreezeRefused::from(refused).into()
    }
}

impl Node {
    /// What must be known of this process, if it can be forked at all.
    pub fn origin(&self, pid: Pid) -> Result<Origin, ForkRefused> {
        let info = self.find(pid)?;
        if info.fate().end.is_some() {
            return Err(ControlRefused::Ended(pid).into());
        }
        if info.stdio.held {
            return Err(ForkRefused::Durable(pid));
        }
        self.has_nothing_in_hand(pid)?;
        Ok(Origin {
            pid,
            name: info.name.clone(),
            args: info.args.clone(),
            program: info.program.clone(),
            mounts: info.mounts.clone(),
            limits: info.limits.clone(),
            memory_bytes: info.memory_bytes(),
        })
    }

    /// Forks a process, which stands still for it. Whoever calls this brings the stem's memory in ([`Stem::settle`]).
    pub fn fork_here(&self, origin: Origin, asker: Asker) -> Result<Cutting, ForkRefused> {
        let pid = origin.pid;
        let info = self.find(pid)?;
        let mut stopped = self.stop_still(pid)?;
        let asked = stopped.asked();
        let mut state = vec![];
        stopped.save_without_pages(&mut state)?;
        let process = stopped.process();
        let program = process.program().clone();
        let stem = Stem::of(&process.memories()).map_err(|error| ForkRefused::Pages { pid, error })?;
        info.set_coming(stem.whole());
        info.lineage().number = 0;
        drop(stopped);
        Ok(Cutting { origin, program, asker, state, stem, stopped: asked, pause: asked.elapsed() })
    }

    /// Begins a clone.
    pub fn grow(&self, from: &Cutting, number: u32) -> Result<Started, GrowRefused> {
        let program = &from.program;
        let Origin { pid, name, args, mounts, limits, .. } = from.origin.clone();
        let stdio = Stdio::default();
        let console = Console::new(false, false, limits.output_bytes.unwrap_or(u64::MAX));
        let mut world =
            self.0.world_at(program, &mounts, &limits, stdio, (console.clone(), console), Life::default())?;
        world.rest.lineage = Lineage { from: Some(pid), number, clones: vec![] };
        let (resume, fiber, rest) = world.for_old();
        let image = Image::open(&from.state[..]).map_err(|error| RunRefused::Thaw(error.into()))?;
        let thawed = at_once(self.0.engine.thaw_on_fiber(program, image, resume, fiber));
        let mut process = thawed.map_err(RunRefused::from)?;
        process.end_input();
        from.stem.share(&process.memories())?;
        process.pass_time(from.stopped.elapsed());
        let common = Common { name, args, mounts, limits, stdio, started_ms: now_ms(), moves: 0, again: None };
        let (coming, asks) = (from.stem.whole(), from.asker == Asker::Itself);
        let made = move |info: &super::process::Info| {
            info.set_coming(coming);
            info.answers_fork.store(asks, Ordering::Relaxed);
        };
        Ok(self.launch_as(program, process, common, rest, made)?)
    }

    /// These came of it when it was forked last.
    pub fn note_clones(&self, pid: Pid, clones: &[Pid]) {
        if let Ok(info) = self.find(pid) {
            info.lineage().clones = clones.to_vec();
        }
    }
}
