//! Requests about checkpoints. Knows the protocol and what a system can be asked of them.

use super::{Done, LOOK_INTERVAL, Session, Undone};
use crate::keep::record::{Begin, Supervision};
use crate::node::{ControlRefused, FreezeRefused, Outward, SnapshotRefused, UndoRefused};
use crate::node::{MountOrder, ProcessLimits, Stdio};
use crate::protocol::{self, Lasting, Reason, Reply};
use crate::system::keep::{KeepRefused, Restored, Which};
use crate::system::supervise::{EVERY_MAX, EVERY_MIN};
use crate::system::view::{CheckpointState, CheckpointView};
use abi::ids::NodeId;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};

impl Session<'_> {
    pub(super) fn checkpoint(&mut self, pid: crate::node::Pid, name: Option<String>) -> Done {
        let system = self.shared.system.clone();
        let made = self.with_patience(move || system.checkpoint(pid, name.as_deref()))?.map_err(undone)?.checkpoint;
        let state = CheckpointState::Whole { chunks: 0, at: vec![] };
        Ok(self.reply(&Reply::Checkpoint(CheckpointView::of(made, state)))?)
    }

    pub(super) fn checkpoints(&mut self, pid: Option<crate::node::Pid>, verify: bool) -> Done {
        let system = self.shared.system.clone();
        let views = self.with_patience(move || system.checkpoints(pid, verify))?.map_err(undone)?;
        views.into_iter().try_for_each(|view| self.reply(&Reply::Checkpoint(view)))?;
        self.done()
    }

    pub(super) fn restore(&mut self, restore: protocol::Restore) -> Done {
        let protocol::Restore { pid, which, new, wish, decided } = restore;
        let system = self.shared.system.clone();
        let which = Which::read(which.as_deref());
        let restored = self.with_patience(move || system.restore(pid, &which, new, decided))?.map_err(undone)?;
        self.note_guest(restored.pid, &wish);
        self.restored(restored)
    }

    pub(super) fn undo(&mut self, pid: crate::node::Pid, which: Option<String>) -> Done {
        let system = self.shared.system.clone();
        let which = Which::read(which.as_deref());
        let restored = self.with_patience(move || system.undo(pid, &which))?.map_err(undone)?;
        self.restored(restored)
    }

    fn restored(&mut self, restored: Restored) -> Done {
        let Restored { pid, from, passed_over } = restored;
        let from = CheckpointView::of(from, CheckpointState::Whole { chunks: 0, at: vec![] });
        Ok(self.reply(&Reply::Restored { pid, from, passed_over })?)
    }

    pub(super) fn remove_checkpoints(&mut self, pid: crate::node::Pid, which: Option<String>) -> Done {
        let which = which.map(|which| Which::read(Some(&which)));
        self.shared.system.remove_checkpoints(pid, which.as_ref()).map_err(undone)?;
        self.done()
    }

    /// The node on which a process shall go on, unless that was decided already.
    pub(super) fn place_restored(&self, restore: &mut protocol::Restore) -> Done<NodeId> {
        let system = &self.shared.system;
        if restore.decided.is_none() {
            let which = Which::read(restore.which.as_deref());
            let decided = system.place_restored(restore.pid, &which, &restore.wish).map_err(undone)?;
            restore.decided = Some(decided);
        }
        let chosen = restore.decided.as_ref().and_then(|decided| decided.chosen);
        Ok(chosen.map_or(system.me(), NodeId))
    }

    /// Does something that may take long, and tells the client now and then that it goes on. It is done even if the client goes.
    pub(super) fn with_patience<T: Send>(&mut self, act: impl FnOnce() -> T + Send) -> Done<T> {
        std::thread::scope(|scope| {
            let (give, get) = sync_channel(1);
            std::thread::Builder::new().name("una-patience".into()).spawn_scoped(scope, move || {
                // Who asked is there until this ends, or does not want to know.
                let _ = give.send(act());
            })?;
            loop {
                match get.recv_timeout(LOOK_INTERVAL) {
                    Ok(result) => return Ok(result),
                    Err(RecvTimeoutError::Timeout) => self.still_working()?,
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(Undone::new(Reason::NotRun, "the node broke a rule of its own"));
                    }
                }
            }
        })
    }
}

/// How a process is looked after that begins so.
pub(super) fn supervision(
    lasting: Lasting, (name, args, env): (&str, &[String], &[(String, String)]), program: &str,
    (mounts, limits, stdio): (&[MountOrder], &ProcessLimits, Stdio),
) -> Supervision {
    let bounds = |every: u64| every.clamp(EVERY_MIN.as_millis() as u64, EVERY_MAX.as_millis() as u64);
    let process = Outward {
        name: name.into(),
        args: args.to_vec(),
        program: program.into(),
        mounts: mounts.to_vec(),
        limits: limits.clone(),
        stdio,
        cpu_ns: 0,
        output_bytes: 0,
    };
    Supervision {
        restart: lasting.restart,
        durable_every_ms: lasting.durable_every_ms.map(bounds),
        begin: Begin { env: env.to_vec(), process },
        in_a_row: 0,
        since: 0,
    }
}

pub(super) fn undone(refused: KeepRefused) -> Undone {
    let refused = match refused {
        KeepRefused::System(error) => return super::system::undone(error),
        KeepRefused::Snapshot(SnapshotRefused::Freeze(refused)) => return super::frozen(refused),
        KeepRefused::Undo(UndoRefused::Freeze(FreezeRefused::Control(ControlRefused::Ended(pid)))) => {
            let why = format!("process {pid} has ended: it goes on with una restore {pid}");
            return Undone::new(Reason::NotRun, why);
        }
        KeepRefused::Undo(UndoRefused::Freeze(refused)) => return super::frozen(refused),
        KeepRefused::NoPlace(why) => return super::relay::not_placed(why),
        other => other,
    };
    let reason = match &refused {
        KeepRefused::NotKept(_) => Reason::NotKept,
        KeepRefused::None(_) | KeepRefused::NoSuch { .. } => Reason::NoCheckpoint,
        KeepRefused::Living { .. } => Reason::Living,
        KeepRefused::NotCertain { .. } => Reason::NotCertain,
        KeepRefused::Snapshot(_) | KeepRefused::Superseded(_) => Reason::NotFrozen,
        KeepRefused::NoNode => Reason::Stopping,
        _ => Reason::NotRun,
    };
    Undone::new(reason, refused)
}
