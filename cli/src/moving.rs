//! `una move` (and `una mv PID NODE`), `una drain`: processes that go to other nodes. Knows what is asked and how it is shown; the daemon
//! does it.

use crate::failure::{Failure, Result, status};
use crate::progress::{Bar, Scale};
use crate::{freeze, json, node};
use clap::Args;
use daemon::node::Pid;
use daemon::protocol::{MoveView, Reply, Request, Stage};

/// Move a running process to another node
///
/// It goes on there where it was here, in the middle of a loop, with its memory, open files, ports and streams. Whoever waits for it or is
/// attached to it stays so.
#[derive(Args)]
pub struct Move {
    #[arg(value_name = "PID")]
    pid: Pid,

    /// Name or number of the node where it shall go on
    #[arg(value_name = "NODE")]
    to: String,

    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

impl Move {
    pub fn new(pid: Pid, to: String) -> Move {
        Move { pid, to, json: false }
    }

    pub fn execute(self) -> Result<u8> {
        let Move { pid, to, json } = self;
        let mut telling = Telling { name: format!("moving {pid} to {to}"), bar: Bar::new(Scale::Bytes) };
        let moved = go(pid, &to, |stage| telling.tell(stage))?;
        drop(telling);
        match json {
            true => crate::print(&json::text("una.move/1", &serde_json::json!({ "move": moved })))?,
            false => crate::print(&(describe(&moved, &to) + "\n"))?,
        }
        Ok(0)
    }
}

fn go(pid: Pid, to: &str, mut tell: impl FnMut(Stage)) -> Result<MoveView> {
    let mut connection = node::connect()?;
    connection.send(&Request::Move { pid, node: to.into() }).map_err(node::failed)?;
    connection.be_patient().map_err(|error| Failure::new(status::FAILED, "cannot wait").because(error))?;
    loop {
        match connection.reply().map_err(node::failed)? {
            Reply::Moving(stage) => tell(stage),
            Reply::Moved(moved) => return Ok(moved),
            other => return Err(node::unexpected(&other)),
        }
    }
}

/// The same for whoever has a line for what came of it.
pub fn quietly(pid: Pid, to: &str) -> String {
    match go(pid, to, |_| {}) {
        Ok(moved) => describe(&moved, to),
        Err(failure) => failure.to_string(),
    }
}

fn describe(moved: &MoveView, to: &str) -> String {
    let MoveView { pid, rounds, bytes, pause_us, total_us, lost, .. } = moved;
    let rounds = match rounds {
        0 => String::new(),
        1 => ", one round of it while it ran".into(),
        rounds => format!(", {rounds} rounds of it while it ran"),
    };
    let again: String = lost.iter().map(|why| format!("\ntried again, since {why}")).collect();
    match pause_us {
        Some(pause_us) => {
            let (pause, total, size) = (time(*pause_us), time(*total_us), freeze::size(*bytes));
            format!(
                "process {pid} runs on {to}: it stood still for {pause} of {total}; {size} went over{rounds}{again}"
            )
        }
        None => format!("process {pid} runs on {to}; for how long it stood still is not known{again}"),
    }
}

pub fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.1} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// How far a move is, on a bar.
struct Telling {
    name: String,
    bar: Bar,
}

impl Telling {
    fn tell(&mut self, stage: Stage) {
        match stage {
            Stage::Preparing => self.show("getting its program ready there", 0, 0),
            Stage::Copying { round, bytes, total } => {
                self.show(&format!("copying its memory while it runs (round {round})"), bytes, total);
            }
            Stage::Following { bytes, total } => self.show("it runs there, its memory follows", bytes, total),
            Stage::Stopped { bytes } => self.show("it stands still for a moment", bytes, bytes),
            Stage::Again { tries } => {
                let tries = tries + 1;
                self.show(&format!("the way was lost, it runs on; try {tries}"), 0, 0);
            }
        }
    }

    fn show(&mut self, doing: &str, done: u64, total: u64) {
        self.bar.draw(format!("{}: {doing}", self.name), done, total);
    }
}

/// Empty a node: its processes move to others, and nothing new is put on it
#[derive(Args)]
pub struct Drain {
    /// Its name or number
    #[arg(value_name = "NODE")]
    node: String,

    /// Put processes on it again
    #[arg(long, conflicts_with = "no_wait")]
    undo: bool,

    /// Do not wait until it is empty
    #[arg(long)]
    no_wait: bool,
}

impl Drain {
    pub fn execute(self) -> Result<u8> {
        let Drain { node: name, undo, no_wait } = self;
        node::order(&Request::Drain { node: name.clone(), drain: !undo })?;
        if undo || no_wait {
            return Ok(0);
        }
        let mut connection = node::connect()?;
        connection.send(&Request::Emptied { node: name.clone() }).map_err(node::failed)?;
        connection.be_patient().map_err(|error| Failure::new(status::FAILED, "cannot wait").because(error))?;
        let mut bar = Bar::new(Scale::Processes);
        loop {
            match connection.reply().map_err(node::failed)? {
                Reply::Emptying { moved, left } => bar.draw(format!("emptying {name}"), moved, moved + left),
                Reply::Emptied { moved, stuck, through } => {
                    drop(bar);
                    return tell_emptied(&name, moved, &stuck, through);
                }
                other => return Err(node::unexpected(&other)),
            }
        }
    }
}

fn tell_emptied(name: &str, moved: u64, stuck: &[(Pid, String)], through: u64) -> Result<u8> {
    if stuck.is_empty() && through > 0 {
        return Err(Failure::new(
            status::FAILED,
            format!("{name} is empty, but {through} ways of others lead through it"),
        )
        .because("the nodes at their ends do not hear one another, or only now and then")
        .help("see which nodes are heard: una nodes; then drain it again: una drain NODE"));
    }
    if stuck.is_empty() {
        crate::print(&format!("{name} is empty: {moved} processes moved\n"))?;
        return Ok(0);
    }
    let lines: Vec<String> = stuck.iter().map(|(pid, why)| format!("{pid}: {why}")).collect();
    let count = stuck.len();
    let moved = if moved == 1 { "1 process".into() } else { format!("{moved} processes") };
    Err(Failure::new(status::FAILED, format!("{moved} moved from {name}, and {count} cannot"))
        .because(lines.join("\n"))
        .help("wait for them, or end them: una wait PID, una kill PID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_told_in_one_line() {
        let moved = MoveView {
            pid: Pid::new(7),
            from: Some(1),
            to: 2,
            rounds: 1,
            bytes: 5 << 20,
            late_bytes: 0,
            pause_us: Some(840),
            total_us: 61_000,
            lost: vec![],
        };
        let line = describe(&moved, "box");
        assert_eq!(
            line,
            "process 7 runs on box: it stood still for 840 µs of 61 ms; 5.2 MB went over, one round of it while it ran"
        );
        let again = MoveView { lost: vec!["the way to box was lost".into()], ..moved };
        assert_eq!(describe(&again, "box"), line + "\ntried again, since the way to box was lost");
        let unseen = MoveView { pause_us: None, ..again };
        assert_eq!(
            describe(&unseen, "box"),
            "process 7 runs on box; for how long it stood still is not known\ntried again, since the way to box was lost"
        );
    }
}
