//! `una kill`, `stop`, `cont`, `wait`, `logs`, `attach`: one process of the daemon. Knows what is asked; the daemon does it.

use crate::failure::{Failure, Result, status};
use crate::node;
use crate::session::{self, Input, Typing};
use clap::Args;
use daemon::node::Pid;
use daemon::protocol::{Follow, Origin, Reply, Request, Until, WhenGone};

/// End processes at once
///
/// Also those that are to be begun again and do not run now: they are not begun again.
#[derive(Args)]
pub struct Kill {
    #[arg(value_name = "PID", required = true)]
    pids: Vec<Pid>,
}

/// Keep processes from running until `una cont`
#[derive(Args)]
pub struct Stop {
    #[arg(value_name = "PID", required = true)]
    pids: Vec<Pid>,
}

/// Let stopped processes run on
#[derive(Args)]
pub struct Cont {
    #[arg(value_name = "PID", required = true)]
    pids: Vec<Pid>,
}

impl Kill {
    pub fn execute(self) -> Result<u8> {
        each(&self.pids, |pid| Request::Kill { pid })
    }
}

impl Stop {
    pub fn execute(self) -> Result<u8> {
        each(&self.pids, |pid| Request::Stop { pid })
    }
}

impl Cont {
    pub fn execute(self) -> Result<u8> {
        each(&self.pids, |pid| Request::Cont { pid })
    }
}

/// All of them, also when one fails: the last failure is told in the end, the others at once.
fn each(pids: &[Pid], request: impl Fn(Pid) -> Request) -> Result<u8> {
    let mut connection = node::connect()?;
    let mut failed: Option<Failure> = None;
    for pid in pids {
        let done = match connection.ask(&request(*pid)).map_err(node::failed) {
            Ok(Reply::Done) => continue,
            Ok(other) => node::unexpected(&other),
            Err(failure) => failure,
        };
        if let Some(earlier) = failed.replace(done) {
            earlier.print();
        }
    }
    failed.map_or(Ok(0), Err)
}

/// Wait until a process ends, and end as it did
#[derive(Args)]
#[command(after_long_help = crate::EXIT_STATUS)]
pub struct Wait {
    #[arg(value_name = "PID")]
    pid: Pid,
}

impl Wait {
    pub fn execute(self) -> Result<u8> {
        let mut connection = node::connect()?;
        match connection.ask(&Request::Wait { pid: self.pid }).map_err(node::failed)? {
            Reply::Ended { end } => node::end_status(self.pid, &end),
            other => Err(node::unexpected(&other)),
        }
    }
}

/// Show what a process has printed
///
/// The newest 256 KiB are kept, also of the processes that ended last.
#[derive(Args)]
pub struct Logs {
    /// Go on with what it prints, until it ends
    #[arg(short, long)]
    follow: bool,

    /// Begin with the last so many lines
    #[arg(short = 'n', long, value_name = "COUNT")]
    lines: Option<u64>,

    #[arg(value_name = "PID")]
    pid: Pid,
}

impl Logs {
    pub fn execute(self) -> Result<u8> {
        let follow = Follow {
            from: self.lines.map_or(Origin::Start, Origin::Lines),
            until: if self.follow { Until::End } else { Until::Now },
            input: false,
            lossless: false,
            when_gone: WhenGone::RunOn,
        };
        let mut connection = node::connect()?;
        let started = connection.ask(&Request::Attach { pid: self.pid, follow }).map_err(node::failed)?;
        let Reply::Started { pid, .. } = started else {
            return Err(node::unexpected(&started));
        };
        connection.be_patient().map_err(|error| Failure::new(status::FAILED, "cannot wait").because(error))?;
        // How the process ended is not how this command did.
        session::show(&mut connection, pid, session::Reader::Onlooker).map(|_| 0)
    }
}

/// Sit down at a process: see what it prints from now on, and type into its standard input
///
/// ctrl-P ctrl-Q leaves it running. ctrl-C kills it. When the process ends, so does una attach, with its status.
#[derive(Args)]
#[command(after_long_help = crate::EXIT_STATUS)]
pub struct Attach {
    /// Hand on every key at once and without an echo, for programs that draw on the screen
    #[arg(long)]
    keys: bool,

    /// First show the last so many lines that it printed
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10)]
    lines: u64,

    #[arg(value_name = "PID")]
    pid: Pid,
}

impl Attach {
    pub fn execute(self) -> Result<u8> {
        let follow = Follow {
            from: Origin::Lines(self.lines),
            until: Until::End,
            input: true,
            lossless: true,
            when_gone: WhenGone::RunOn,
        };
        let mut connection = node::connect()?;
        let started = connection.ask(&Request::Attach { pid: self.pid, follow }).map_err(node::failed)?;
        let Reply::Started { pid, .. } = started else {
            return Err(node::unexpected(&started));
        };
        let typing = if self.keys { Typing::Keys } else { Typing::Lines };
        session::follow(connection, pid, Some(Input { typing }))
    }
}
