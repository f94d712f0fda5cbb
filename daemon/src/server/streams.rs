//! A client at a process's standard streams. Knows consoles and frames.
//!
//! ```text
//!   this thread      console  ->  bytes, errors  ->  client
//!   a second thread  console  ->  input-wanted    ->  client        when the process reads for the first time
//!                    console  <-  bytes, end     <-  client        only if the client has the input
//! ```
//! While the process takes no input, the second thread reads no more from the client, whose own pipe then fills: that is the whole
//! of back-pressure. When the client has gone, the second thread says so and the first one stops.

use super::{Done, LOOK_INTERVAL, Session, Undone};
use crate::node::{Console, Pid, Piece};
use crate::protocol::{self, Content, Follow, Origin, PIECE_BYTES_MAX, Reason, Reply, Until, WhenGone};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{BufReader, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// How often it is looked whether a client is still there while its process prints nothing. Short, because until then the client
/// counts as one that is served.
const GONE_INTERVAL: Duration = Duration::from_millis(100);

/// How long the last piece of output is looked for: it is there or it is not.
const AT_ONCE: Duration = Duration::ZERO;

impl Session<'_> {
    /// Shows a process's output to the client, and gives it the client's input, until the process has ended or the client has gone.
    pub(super) fn stream(&mut self, pid: Pid, console: Console, follow: Follow) -> Done {
        let ended = AtomicBool::new(false);
        let gone = AtomicBool::new(false);
        let (from, to) = (&mut self.from, &Mutex::new(&mut self.to));
        let shared = self.shared;
        let shown = std::thread::scope(|scope| {
            if follow.input {
                let reader = std::thread::Builder::new().name(format!("input of {pid}")).stack_size(256 << 10);
                let (console, ended, gone) = (&console, &ended, &gone);
                reader.spawn_scoped(scope, move || {
                    if wait_wanted(console, ended, from.get_ref(), to) {
                        take_input(from, console, ended);
                    }
                    // The client says nothing more in this request: what comes now is its end, or its next request.
                    gone.store(!ended.load(Ordering::Acquire) && wait_gone(from.get_ref(), ended), Ordering::Release);
                })?;
            }
            let shown = show(to, &console, &follow, || shared.is_stopping() || gone.load(Ordering::Acquire));
            ended.store(true, Ordering::Release);
            if follow.input {
                // Ends the second thread's read. No further request can come on this connection.
                let _ = locked(to).shutdown(Shutdown::Read);
            }
            shown
        });
        let is_gone = match &shown {
            Ok(Shown::All) => false,
            Ok(Shown::Gone) => !shared.is_stopping(),
            Err(_) => true,
        };
        if is_gone && follow.when_gone == WhenGone::Kill {
            // It may have ended meanwhile.
            let _ = shared.node.kill(pid);
        }
        match (shown?, follow.until) {
            (Shown::Gone, _) => Err(Undone::new(Reason::Stopping, "the node is stopping")),
            (Shown::All, Until::Now) => self.done(),
            (Shown::All, Until::End) => loop {
                // All output has been seen, so this is a matter of moments.
                let end = shared.node.wait(pid, LOOK_INTERVAL);
                if let Some(end) = end.map_err(super::control)?
                    && self.is_settled(pid)
                {
                    return Ok(self.reply(&Reply::Ended { end })?);
                }
                self.still_working()?;
            },
        }
    }
}

enum Shown {
    All,
    /// The client has gone, or the node goes.
    Gone,
}

/// Both threads speak to the client, each in whole frames.
fn locked<'a, 'b>(to: &'a Mutex<&'b mut UnixStream>) -> MutexGuard<'a, &'b mut UnixStream> {
    to.lock().expect("nothing panics while it holds this lock")
}

/// Waits until the process reads its standard input, and says so to the client. False: it never will, or the client has gone.
fn wait_wanted(console: &Console, ended: &AtomicBool, stream: &UnixStream, to: &Mutex<&mut UnixStream>) -> bool {
    while !console.wants_input(LOOK_INTERVAL) {
        if ended.load(Ordering::Acquire) || !console.takes_input() || is_gone(stream) {
            return false;
        }
    }
    protocol::write_message(&mut **locked(to), &Reply::InputWanted).is_ok()
}

fn show(to: &Mutex<&mut UnixStream>, console: &Console, follow: &Follow, stop: impl Fn() -> bool) -> Done<Shown> {
    let mut at = match follow.from {
        Origin::Start => console.start(),
        Origin::Now => console.end(),
        Origin::Lines(lines) => start_of_last(console, lines),
    };
    let border = match follow.until {
        Until::Now => console.end(),
        Until::End => u64::MAX,
    };
    let hold = follow.lossless.then(|| console.hold(at));
    while at < border {
        let patience = if follow.until == Until::Now { AT_ONCE } else { GONE_INTERVAL };
        match console.read(at, PIECE_BYTES_MAX, patience) {
            Piece::Bytes { stream, bytes, next, lost, .. } => {
                if lost > 0 {
                    protocol::write_message(&mut **locked(to), &Reply::Lost { bytes: lost })?;
                }
                protocol::write_bytes(&mut **locked(to), stream, &bytes)?;
                at = next;
                if let Some(hold) = &hold {
                    hold.advance(at);
                }
            }
            Piece::Nothing if follow.until == Until::Now => break,
            Piece::Nothing if stop() || (!follow.input && is_gone(&locked(to))) => {
                return Ok(Shown::Gone);
            }
            Piece::Nothing => {}
            Piece::End => break,
        }
    }
    Ok(Shown::All)
}

/// Where the last lines begin.
fn start_of_last(console: &Console, lines: u64) -> u64 {
    let (mut at, end) = (console.start(), console.end());
    // The starts of the latest lines; a line may go on over pieces of both outputs.
    let mut starts = std::collections::VecDeque::from([at]);
    let mut last = b'\n';
    while at < end {
        let Piece::Bytes { at: from, bytes, next, .. } = console.read(at, PIECE_BYTES_MAX, AT_ONCE) else {
            break;
        };
        for (offset, byte) in bytes.iter().enumerate() {
            if last == b'\n' {
                starts.push_back(from + offset as u64);
                if starts.len() as u64 > lines {
                    starts.pop_front();
                }
            }
            last = *byte;
        }
        at = next;
    }
    match lines {
        0 => end,
        _ => starts.front().copied().unwrap_or(end),
    }
}

/// Hands the client's bytes to the process, as it takes them. Ends with the client's input, with the process, or with a mistake,
/// which is an end of input too: the process cannot get what the client failed to say.
fn take_input(from: &mut BufReader<UnixStream>, console: &Console, ended: &AtomicBool) {
    let mut content = Content::new(from);
    let mut buffer = vec![0; 16 << 10];
    loop {
        let length = match content.read(&mut buffer) {
            Ok(0) => return console.close_input(),
            Ok(length) => length,
            // The client has gone: who attaches later may have more.
            Err(_) => return,
        };
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            if ended.load(Ordering::Acquire) || !console.takes_input() {
                return;
            }
            let taken = console.write(rest, LOOK_INTERVAL);
            rest = &rest[taken..];
        }
    }
}

/// Waits until the client closes the connection: true. False: the process ended first.
fn wait_gone(stream: &UnixStream, ended: &AtomicBool) -> bool {
    let interval = Timespec { tv_sec: 0, tv_nsec: LOOK_INTERVAL.subsec_nanos().into() };
    while !ended.load(Ordering::Acquire) {
        let mut entry = [PollFd::new(stream, PollFlags::RDHUP)];
        match poll(&mut entry, Some(&interval)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            _ => return !ended.load(Ordering::Acquire),
        }
    }
    false
}

fn is_gone(stream: &UnixStream) -> bool {
    let mut entry = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut entry, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}
