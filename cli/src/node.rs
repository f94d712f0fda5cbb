//! The way to this user's daemon, for every command that talks to it. Knows where it is and how its errors are told; no command.

use crate::directories;
use crate::failure::{Failure, Result, status};
use daemon::node::{End, Pid};
use daemon::protocol::client::{AskError, ConnectError, Connection};
use daemon::protocol::place::Holder;
use daemon::protocol::{ProtocolError, Reason, Refusal, Reply, Request};

/// A connection, if a daemon runs.
pub fn find() -> Result<Option<Connection>> {
    // Without a home there can be no daemon, and a program can still be run.
    let Ok(data) = directories::node() else { return Ok(None) };
    match Connection::open(&data) {
        Ok(connection) => Ok(Some(connection)),
        Err(ConnectError::NoDaemon) => Ok(None),
        Err(error) => Err(unreachable(error)),
    }
}

/// A connection; without a daemon, what to do.
pub fn connect() -> Result<Connection> {
    find()?.ok_or_else(no_daemon)
}

pub fn no_daemon() -> Failure {
    Failure::new(status::FAILED, "no daemon of una is running").help("start one: una up -d")
}

/// Asks something that has one answer, `Done`.
pub fn order(request: &Request) -> Result<()> {
    match connect()?.ask(request).map_err(failed)? {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn unreachable(error: ConnectError) -> Failure {
    let failure = Failure::new(status::FAILED, "cannot reach the daemon of una");
    match error {
        ConnectError::NoDaemon => no_daemon(),
        ConnectError::Protocol(error) => spoken_wrong(error),
        ConnectError::Io(error) => failure.because(error),
        ConnectError::Silent { holder: Some(Holder { pid, socket, .. }), error } => failure
            .because(format!("process {pid} does not listen on {}: {error}", socket.display()))
            .help(format!("it may be starting or stopping; if that lasts, end it: kill {pid}, then una up -d")),
        ConnectError::Silent { holder: None, .. } => {
            failure.because("it is starting and not ready yet").help("try again in a moment")
        }
    }
}

/// How a failed request is told.
pub fn failed(error: AskError) -> Failure {
    match error {
        AskError::Refused(refusal) => refused(refusal),
        AskError::Gone => Failure::new(status::FAILED, "the daemon ended before it answered")
            .help("look whether it runs, and start it: una up -d"),
        AskError::Protocol(error) => spoken_wrong(error),
    }
}

fn spoken_wrong(error: ProtocolError) -> Failure {
    let failure = Failure::new(status::FAILED, "cannot talk to the daemon of una");
    match error {
        ProtocolError::OtherVersion { .. } => {
            failure.because(error).help("restart it with this version, which ends its processes: una down && una up -d")
        }
        ProtocolError::Io(error)
            if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
        {
            failure.because("it is silent").help("look at it: una doctor")
        }
        error => failure.because(error),
    }
}

pub fn refused(refusal: Refusal) -> Failure {
    let failure = Failure::new(status::FAILED, &refusal.why);
    match refusal.reason {
        Reason::NoProcess | Reason::Ended => failure.help("see which there are: una ps"),
        Reason::Busy => failure.help("try again when there is less to do; see what runs: una ps"),
        Reason::DiskFull => failure.help("make room on the disk of una's data, or remove files: una rm"),
        Reason::Stopping => failure.help("start it again: una up -d"),
        Reason::Expired => failure.help("wait longer: --timeout SECONDS"),
        Reason::Protocol => failure.because("the daemon may be of another build").help("una down && una up -d"),
        Reason::NoNode => failure.help("see which there are: una nodes"),
        Reason::Unreachable => failure.help("see how the nodes are: una status"),
        Reason::NoQuorum => failure.help("see which nodes are missing and start them: una status"),
        Reason::NotKept => failure.help("see how nodes and disks are, and try again: una status"),
        Reason::NoCheckpoint => failure.help("see which there are: una checkpoints"),
        Reason::Living => failure
            .help("put it back to its checkpoint where it is: una undo PID, or make another process of it: una restore --new"),
        Reason::NotCertain => failure.help(
            "start that node again or take it out of the system (una remove), or make another process of it: una restore --new",
        ),
        Reason::NoPlace => Failure::new(status::FAILED, "no node can take the process")
            .because(refusal.why)
            .help("see what the nodes have: una nodes"),
        Reason::BadProgram | Reason::NotRun | Reason::NotFrozen | Reason::NotMoved | Reason::NotForked => failure,
        Reason::NotFound | Reason::Port | Reason::File => failure,
    }
}

pub fn unexpected(reply: &Reply) -> Failure {
    Failure::new(status::FAILED, format!("the daemon answered something else: {reply:?}"))
        .help("restart it: una down && una up -d")
}

/// The status with which a command ends whose process ended so, and what people are told of it.
pub fn end_status(pid: Pid, end: &End) -> Result<u8> {
    Err(match end {
        End::Exited(code) => return Ok(*code as u8),
        End::Killed => return Ok(status::KILLED),
        End::Frozen => return Ok(status::FROZEN),
        End::Orphaned => Failure::new(status::KILLED, format!("process {pid} ended with its parent")),
        End::CpuLimit => Failure::new(status::CPU_LIMIT, format!("process {pid} used all the processor time it may"))
            .help("give it more: --cpu SECONDS"),
        End::NotStarted(why) => Failure::new(status::UNA, format!("process {pid} did not start")).because(why),
        End::Failed { reason, backtrace } => {
            let failure = Failure::new(status::TRAPPED, reason);
            if backtrace.is_empty() {
                failure
            } else {
                failure.because(format!("in {}", backtrace.join("\n  called from ")))
            }
        }
    })
}

/// In a word or two, for lists.
pub fn describe_end(end: &End) -> String {
    match end {
        End::Exited(code) => format!("exited {code}"),
        End::Killed => "killed".into(),
        End::Orphaned => "ended with its parent".into(),
        End::Failed { .. } => "failed".into(),
        End::NotStarted(_) => "not started".into(),
        End::CpuLimit => "out of cpu time".into(),
        End::Frozen => "frozen".into(),
    }
}
