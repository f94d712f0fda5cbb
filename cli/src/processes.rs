//! `una kill`, `stop`, `cont`, `wait`, `logs`, `attach`: one process of the daemon. Knows what is asked; the daemon does it.

use crate::failure::{Failure, Result, status};
use crate::session::{self, Input, Screen, Streams, Typing};
use crate::{json, node, print};
use clap::Args;
use daemon::node::{Output, Pid};
use daemon::protocol::{Follow, Origin, Reply, Request, Until, WhenGone};
use std::io::{self, Write};

/// End processes at once
///
/// Also those that are to be begun again and do not run now: they are not begun again.
#[derive(Args)]
pub struct Kill {
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,

    #[arg(value_name = "PID", required = true)]
    pids: Vec<Pid>,
}

/// Keep processes from running until `una cont`
#[derive(Args)]
pub struct Stop {
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,

    #[arg(value_name = "PID", required = true)]
    pids: Vec<Pid>,
}

/// Let stopped processes run on
#[derive(Args)]
pub struct Cont {
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,

    #[arg(value_name = "PID", required = true)]
    pids: Vec<Pid>,
}

impl Kill {
    pub fn execute(self) -> Result<u8> {
        each(&self.pids, self.json.then_some("una.kill/1"), |pid| Request::Kill { pid })
    }
}

impl Stop {
    pub fn execute(self) -> Result<u8> {
        each(&self.pids, self.json.then_some("una.stop/1"), |pid| Request::Stop { pid })
    }
}

impl Cont {
    pub fn execute(self) -> Result<u8> {
        each(&self.pids, self.json.then_some("una.cont/1"), |pid| Request::Cont { pid })
    }
}

/// All of them, also when one fails: the last failure is told in the end, the others at once. Scripts are told for which it was done.
fn each(pids: &[Pid], schema: Option<&'static str>, request: impl Fn(Pid) -> Request) -> Result<u8> {
    let mut connection = node::connect()?;
    let mut done = vec![];
    let mut failed: Option<Failure> = None;
    for pid in pids {
        let failure = match connection.ask(&request(*pid)).map_err(node::failed) {
            Ok(Reply::Done) => {
                done.push(*pid);
                continue;
            }
            Ok(other) => node::unexpected(&other),
            Err(failure) => failure,
        };
        if let Some(earlier) = failed.replace(failure) {
            earlier.print();
        }
    }
    if let Some(schema) = schema {
        print(&json::text(schema, &serde_json::json!({ "pids": done })))?;
    }
    failed.map_or(Ok(0), Err)
}

/// Wait until a process ends, and end as it did
#[derive(Args)]
#[command(after_long_help = crate::EXIT_STATUS)]
pub struct Wait {
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,

    #[arg(value_name = "PID")]
    pid: Pid,
}

impl Wait {
    pub fn execute(self) -> Result<u8> {
        let mut connection = node::connect()?;
        match connection.ask(&Request::Wait { pid: self.pid }).map_err(node::failed)? {
            Reply::Ended { end } => {
                let ended = node::end_status(self.pid, &end);
                if self.json {
                    let status = ended.as_ref().map_or_else(|failure| failure.status, |status| *status);
                    let told = serde_json::json!({ "pid": self.pid, "end": end, "status": status });
                    print(&json::text("una.wait/1", &told))?;
                }
                ended
            }
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

    /// Print JSON for scripts, a line for each line
    #[arg(long)]
    json: bool,

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
        let (mut streams, mut lines) = (Streams, JsonLines::default());
        let screen: &mut dyn Screen = if self.json { &mut lines } else { &mut streams };
        if session::show(&mut connection, pid, session::Reader::Onlooker, screen)? != status::PIPE {
            lines.finish().map_err(|error| Failure::new(status::FAILED, "cannot print the log").because(error))?;
        }
        Ok(0)
    }
}

/// Output as a line of JSON for each of its lines.
#[derive(Default)]
struct JsonLines {
    /// What each stream began last and has not ended.
    begun: [Vec<u8>; 2],
}

/// A line that is longer is told in pieces.
const LINE_BYTES_MAX: usize = 1 << 20;

impl JsonLines {
    fn tell(stream: Output, line: &[u8]) -> io::Result<()> {
        let stream = if stream == Output::Out { "out" } else { "err" };
        let line = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line)).into_owned();
        put(&serde_json::json!({ "stream": stream, "line": line }))
    }

    fn finish(&mut self) -> io::Result<()> {
        for stream in [Output::Out, Output::Err] {
            let begun = std::mem::take(&mut self.begun[stream as usize]);
            if !begun.is_empty() {
                JsonLines::tell(stream, &begun)?;
            }
        }
        Ok(())
    }
}

fn put(told: &serde_json::Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(json::line("una.logs/1", told).as_bytes()).and_then(|()| out.flush())
}

impl Screen for JsonLines {
    fn output(&mut self, stream: Output, bytes: &[u8]) -> io::Result<()> {
        let begun = &mut self.begun[stream as usize];
        begun.extend_from_slice(bytes);
        let whole = match begun.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if begun.len() > LINE_BYTES_MAX => begun.len(),
            None => 0,
        };
        let whole: Vec<u8> = begun.drain(..whole).collect();
        whole.split_inclusive(|byte| *byte == b'\n').try_for_each(|line| JsonLines::tell(stream, line))
    }

    fn lost(&mut self, bytes: u64) -> io::Result<()> {
        put(&serde_json::json!({ "lost_bytes": bytes }))
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
