//! `una fork`: clones of a running process. Knows what is asked and how it is shown; the daemon does it.

use crate::failure::{Failure, Result, printable, status};
use crate::{freeze, json, moving, node};
use clap::Args;
use daemon::node::Pid;
use daemon::protocol::{CloneView, ForkView, Reply, Request};

/// Make clones of a running process
///
/// A clone goes on where the process is at this moment, in the middle of a loop, under a number of its own, with a copy of its memory and
/// its open files, each at its own offset. It has nothing to read at its standard input, and what it prints is in its own log: una logs.
/// The process stands still for a moment that does not depend on how much memory it has, and runs on.
///
/// The clones are put on different nodes, as far as they are busy, unless it uses a directory of its machine (--mount). In the process
/// /proc/self/fork says 0 from then on, in the clones 1, 2 and so on. From inside: write `fork 8` into /proc/self/ctl.
#[derive(Args)]
pub struct Fork {
    #[arg(value_name = "PID")]
    pid: Pid,

    /// All on this node, by name or number
    #[arg(long, value_name = "NODE")]
    on: Option<String>,

    /// How many clones
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    count: u32,

    /// Print JSON for scripts
    #[arg(long, conflicts_with = "quiet")]
    json: bool,

    /// Print the numbers of the clones and nothing else
    #[arg(short, long)]
    quiet: bool,
}

impl Fork {
    pub fn execute(self) -> Result<u8> {
        let Fork { pid, on, count, json, quiet } = self;
        let forked = match node::connect()?.ask(&Request::Fork { pid, count, on }).map_err(node::failed)? {
            Reply::Forked(forked) => forked,
            other => return Err(node::unexpected(&other)),
        };
        match (json, quiet) {
            (true, _) => {
                crate::print(&json::text("una.fork/1", &serde_json::json!({ "fork": forked })))?;
            }
            (_, true) => forked.clones.iter().try_for_each(|clone| crate::print(&format!("{}\n", clone.pid)))?,
            _ => crate::print(&describe(&forked))?,
        }
        if forked.failed.is_empty() {
            return Ok(0);
        }
        let lines = forked.failed.iter().map(|(number, why)| format!("clone {number}: {}", printable(why)));
        let count = forked.failed.len();
        Err(Failure::new(status::FAILED, format!("{count} of {} clones did not begin", count + forked.clones.len()))
            .because(lines.collect::<Vec<_>>().join("\n"))
            .help("the others run; end them if they are of no use: una kill PID"))
    }
}

fn describe(forked: &ForkView) -> String {
    let line = |CloneView { number, pid, node, after_us }: &CloneView| {
        format!("clone {number} is process {pid} on n{node}: it ran {} later\n", moving::time(*after_us))
    };
    let lines: String = forked.clones.iter().map(line).collect();
    let (pid, pause) = (forked.pid, moving::time(forked.pause_us));
    format!(
        "{lines}process {pid} stood still for {pause}, and shares {} with them\n",
        freeze::size(forked.memory_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_is_told_in_a_line_for_each() {
        let clone = |number, node| CloneView { number, pid: Pid::new(u64::from(number) + 8), node, after_us: 2_300 };
        let forked = ForkView {
            pid: Pid::new(8),
            clones: vec![clone(1, 1), clone(2, 3)],
            failed: vec![],
            memory_bytes: 64 << 20,
            pause_us: 840,
            total_us: 3_000,
        };
        assert_eq!(
            describe(&forked),
            "clone 1 is process 9 on n1: it ran 2.3 ms later\nclone 2 is process 10 on n3: it ran 2.3 ms later\n\
             process 8 stood still for 840 µs, and shares 67.1 MB with them\n"
        );
    }
}
