//! A client at a process's standard streams. Knows consoles and frames.
//!
//! ```text
//!   this thread      console  ->  bytes, errors  ->  client
//!   a second thread  console  ->  input-wanted    ->  client        when the process reads for the first time
//!                    console  <-  bytes, end     <-  client        only if the client has the input
//! ```
//! While the process takes no input, the second thread reads no more from the client, whose own pipe then fills: that is the whole
//! of back-pressure. When the client has gone, the second thread says so and the first one stops. When the process moves to another node,
//! both threads stop where they are, and the connection is handed on to there, with what the client sent and the process did not get.

use super::relay::{LOST_PATIENCE, MovedOn, Sent};
use super::{Done, LOOK_INTERVAL, Session, Undone};
use crate::node::{Console, Pid, Piece};
use crate::protocol::{self, Follow, Frame, Origin, PIECE_BYTES_MAX, Reason, Reply, Request, Until, WhenGone};
use abi::ids::NodeId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::BufReader;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often it is looked whether a client is still there while its process prints nothing. Short, because until then the client
/// counts as one that is served.
const GONE_INTERVAL: Duration = Duration::from_millis(100);

/// How long the last piece of output is looked for: it is there or it is not.
const AT_ONCE: Duration = Duration::ZERO;

impl Session<'_> {
    /// Shows a process's output to the client, and gives it the client's input, until the process has ended or the client has gone.
    pub(super) fn stream(&mut self, pid: Pid, console: Console, follow: Follow) -> Done {
        match self.stream_here(pid, console, follow, Sent::default())? {
            None => Ok(()),
            Some((moved, sent)) => self.go_on(moved, Request::Attach { pid, follow }, sent, None),
        }
    }

    /// The same, until the process moves to another node too: gives where to, and what the client sent and the process did not get.
    /// `early` is what it sent before.
    pub(super) fn stream_here(
        &mut self, pid: Pid, console: Console, follow: Follow, early: Sent,
    ) -> Done<Option<(MovedOn, Sent)>> {
        let ended = AtomicBool::new(false);
        let gone = AtomicBool::new(false);
        let (from, to) = (&mut self.from, &Mutex::new(&mut self.to));
        let shared = self.shared;
        let (shown, typed) = std::thread::scope(|scope| {
            let mut reading = None;
            if follow.input {
                let reader = std::thread::Builder::new().name(format!("input of {pid}")).stack_size(256 << 10);
                let (console, ended, gone) = (&console, &ended, &gone);
                reading = Some(reader.spawn_scoped(scope, move || {
                    let wanted = early.counts || wait_wanted(console, ended, from.get_ref(), to);
                    let mut typed = Typed { wanted, ..Typed::default() };
                    if wanted {
                        take_input(from, console, ended, early, &mut typed);
                    }
                    // The client says nothing more in this request: what comes now is its end, or its next request.
                    gone.store(!ended.load(Ordering::Acquire) && wait_gone(from.get_ref(), ended), Ordering::Release);
                    typed
                })?);
            }
            let shown = show(to, &console, &follow, || shared.is_stopping() || gone.load(Ordering::Acquire));
            ended.store(true, Ordering::Release);
            if follow.input && !matches!(shown, Ok(Shown::Moved { .. })) {
                // Ends the second thread's read. No further request can come on this connection.
                let _ = locked(to).shutdown(Shutdown::Read);
            }
            let typed = reading.map(|thread| thread.join().expect("nothing panics in it")).unwrap_or_default();
            Ok::<_, std::io::Error>((shown, typed))
        })?;
        if let Ok(Shown::Moved { to, at }) = shown {
            let input = follow.input && !typed.ended;
            let follow = Follow { from: Origin::At(at), input, ..follow };
            return self.moved_on(to, pid, follow, typed).map(Some);
        }
        let is_gone = match &shown {
            Ok(Shown::All | Shown::Moved { .. }) => false,
            Ok(Shown::Gone) => !shared.is_stopping(),
            Err(_) => true,
        };
        match (is_gone, &self.via) {
            (true, Some(via)) if via.broken.load(Ordering::Acquire) => self.await_return(pid, console, follow),
            (true, _) if follow.when_gone == WhenGone::Kill => {
                // It may have ended meanwhile.
                let _ = shared.node.kill(pid);
            }
            _ => {}
        }
        match (shown?, follow.until) {
            (Shown::Moved { .. }, _) => unreachable!("it was gone after"),
            (Shown::Gone, _) => Err(Undone::new(Reason::Stopping, "the node is stopping")),
            (Shown::All, Until::Now) => self.done().map(|()| None),
            (Shown::All, Until::End) => loop {
                // All output has been seen, so this is a matter of moments.
                let end = shared.node.wait(pid, LOOK_INTERVAL);
                if let Some(end) = end.map_err(super::control)?
                    && self.is_settled(pid)
                {
                    return Ok(self.reply(&Reply::Ended { end }).map(|()| None)?);
                }
                self.still_working()?;
            },
        }
    }
}

impl Session<'_> {
    /// The way to the client broke, and it may come back by another one: what it may not have seen is kept for a while.
    fn await_return(&self, pid: Pid, console: Console, follow: Follow) {
        let hold = follow.lossless.then(|| console.hold(console.start()));
        let node = self.shared.node.clone();
        let await_it = move || {
            let own = usize::from(hold.is_some());
            let until = Instant::now() + LOST_PATIENCE;
            while console.holds() <= own && Instant::now() < until {
                std::thread::sleep(GONE_INTERVAL);
            }
            if console.holds() <= own && follow.when_gone == WhenGone::Kill {
                // It may have ended meanwhile.
                let _ = node.kill(pid);
            }
        };
        // Without a thread it is as if it had been long.
        let _ = std::thread::Builder::new().name(format!("reader of {pid}")).stack_size(256 << 10).spawn(await_it);
    }
}

enum Shown {
    All,
    /// The client has gone, or the node goes.
    Gone,
    /// The process has: all before this position was shown.
    Moved {
        to: NodeId,
        at: u64,
    },
}

/// What became of the client's input.
#[derive(Default)]
pub(super) struct Typed {
    /// The client was told to send it.
    pub wanted: bool,
    /// The process got so many bytes of it here.
    pub taken: u64,
    /// It sent these, and the process did not get them here.
    pub left: Vec<u8>,
    /// It sent its end, and the process knows.
    pub ended: bool,
    /// It sent its end, and the process does not know.
    pub end_left: bool,
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
    let mut at = position(console, follow.from);
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
            Piece::Moved(to) => return Ok(Shown::Moved { to, at }),
            Piece::End => break,
        }
    }
    Ok(Shown::All)
}

fn position(console: &Console, from: Origin) -> u64 {
    match from {
        Origin::Start => console.start(),
        Origin::At(at) => at,
        Origin::Now => console.end(),
        Origin::Lines(lines) => start_of_last(console, lines),
    }
}

/// The same, from a position that is known.
pub(super) fn placed(console: &Console, follow: Follow) -> Follow {
    Follow { from: Origin::At(position(console, follow.from)), ..follow }
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

/// Hands the client's bytes to the process, as it takes them. Ends with the client's input, with the process, or with a mistake: then
/// whoever attaches later may have more.
fn take_input(from: &mut BufReader<UnixStream>, console: &Console, ended: &AtomicBool, early: Sent, typed: &mut Typed) {
    let is_over = || ended.load(Ordering::Acquire) || !console.takes_input();
    let give = |mut rest: &[u8], typed: &mut Typed| {
        while !rest.is_empty() {
            if is_over() {
                typed.left = rest.to_vec();
                return false;
            }
            let taken = console.write(rest, LOOK_INTERVAL);
            typed.taken += taken as u64;
            rest = &rest[taken..];
        }
        true
    };
    let close = |typed: &mut Typed| {
        typed.ended = console.close_input();
        typed.end_left = !typed.ended;
    };
    let (bytes, has_ended) = early.into_parts();
    if !give(&bytes, typed) {
        typed.end_left = has_ended;
        return;
    }
    if has_ended {
        return close(typed);
    }
    loop {
        while from.buffer().is_empty() && !is_readable(from.get_ref(), GONE_INTERVAL) {
            if is_over() {
                return;
            }
        }
        match protocol::read_frame(from) {
            Ok(Some(Frame::Bytes(piece))) => {
                if !give(&piece, typed) {
                    return;
                }
            }
            Ok(Some(Frame::End)) => return close(typed),
            _ => return,
        }
    }
}

/// Whether something has come, or the other side's end, within the time.
pub(super) fn is_readable(stream: &UnixStream, timeout: Duration) -> bool {
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    let mut entry = [PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP)];
    poll(&mut entry, Some(&timeout)).is_ok_and(|ready| ready > 0)
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
