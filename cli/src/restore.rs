//! `una restore` and `una undo`: going on from a checkpoint. Knows what is asked; the daemon does it.

use crate::checkpoint::Chosen;
use crate::failure::{Result, printable};
use crate::{json, node, print, ps};
use clap::Args;
use daemon::protocol::{self, Reply, Request};
use daemon::system::view::{CheckpointView, Wish};
use drivers::clock::now_ms;

/// Let a process that has ended go on from a checkpoint
///
/// It goes on under its own number, on this node or another one, with what it had written to its terminal still there. A process that
/// lives is refused: una undo takes it back where it is, and --new makes another process of its checkpoint. If a checkpoint is damaged,
/// the one before it is used, and that is said.
#[derive(Args)]
pub struct Restore {
    /// On this node and no other, by name or number
    #[arg(long, value_name = "NODE")]
    on: Option<String>,

    /// As another process with a number of its own, whether or not the first one lives
    #[arg(long)]
    new: bool,

    /// If it lives, take it back where it is
    #[arg(long, conflicts_with_all = ["new", "on"])]
    undo: bool,

    /// Print JSON for scripts
    #[arg(long)]
    json: bool,

    /// The process, and which of its checkpoints, by number or name; the latest if not said
    #[arg(value_name = "PID[@CHECKPOINT]")]
    chosen: Chosen,
}

/// Take a running program back to a checkpoint
///
/// What it has written to its terminal and to files since then stays written.
#[derive(Args)]
pub struct Undo {
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,

    /// The process, and which of its checkpoints, by number or name; the latest if not said
    #[arg(value_name = "PID[@CHECKPOINT]")]
    chosen: Chosen,
}

impl Restore {
    pub fn execute(self) -> Result<u8> {
        let Chosen { pid, which } = self.chosen.clone();
        if self.undo {
            return undo(self.chosen, self.json);
        }
        let wish = Wish { on: self.on, near: None, spread: false };
        let restore = protocol::Restore { pid, which, new: self.new, wish, decided: None };
        tell(&Request::Restore(restore), self.json)
    }
}

impl Undo {
    pub fn execute(self) -> Result<u8> {
        undo(self.chosen, self.json)
    }
}

fn undo(chosen: Chosen, json: bool) -> Result<u8> {
    tell(&Request::Undo { pid: chosen.pid, which: chosen.which }, json)
}

fn tell(request: &Request, json: bool) -> Result<u8> {
    match node::connect()?.ask(request).map_err(node::failed)? {
        Reply::Restored { pid, from, passed_over } if json => {
            let told = serde_json::json!({ "pid": pid, "from": from, "passed_over": passed_over });
            print(&json::text("una.restore/1", &told))?;
            Ok(0)
        }
        Reply::Restored { pid, from, passed_over } => {
            for why in &passed_over {
                eprintln!("{}", printable(&format!("una: an older one is used: {why}")));
            }
            let CheckpointView { sequence, made, .. } = from;
            let age = made.map_or(0, |made| now_ms().saturating_sub(made.made_ms));
            print(&format!("process {pid} goes on from checkpoint {sequence}, made {} ago\n", ps::duration(age)))?;
            Ok(0)
        }
        other => Err(node::unexpected(&other)),
    }
}
