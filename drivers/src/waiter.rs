//! The one place where a process waits: poll(2) on the streams that it waits for and on a bell that another thread can ring.
//! Knows no process and no clock.
//!
//! The one idea: the bell keeps ringing until it is lowered, so that a request which comes before the wait is not lost.

use crate::errno;
use abi::errno::Errno;
use abi::file::{Direction, Interest, Interrupt, Waiter, Wake};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsRawFd, OwnedFd};
use std::io;
use std::sync::Arc;

/// Waits for the streams of this crate.
pub struct HostWaiter {
    bell: Arc<Bell>,
}

impl HostWaiter {
    pub fn new() -> io::Result<HostWaiter> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(HostWaiter { bell: Arc::new(Bell { eventfd }) })
    }
}

struct Bell {
    eventfd: OwnedFd,
}

impl Interrupt for Bell {
    fn raise(&self) {
        // The only failure is a counter that is full: then it rings already.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
    }

    fn lower(&self) {
        // The only failure is a counter of zero: then it does not ring.
        let _ = rustix::io::read(&self.eventfd, &mut [0u8; 8]);
    }
}

impl Waiter for HostWaiter {
    fn wait(&mut self, interests: &[Interest], timeout_ns: Option<u64>) -> Result<Wake, Errno> {
        let bell = libc::pollfd { fd: self.bell.eventfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut entries = vec![bell];
        for Interest { source, direction } in interests {
            let events = match direction {
                Direction::Read => libc::POLLIN,
                Direction::Write => libc::POLLOUT,
            };
            // A source is a stream's file descriptor.
            let fd = i32::try_from(source.0).map_err(|_| Errno::BadF)?;
            entries.push(libc::pollfd { fd, events, revents: 0 });
        }
        let timeout = timeout_ns.map(|timeout_ns| libc::timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (timeout_ns % 1_000_000_000) as libc::c_long,
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `entries` is a valid array of that length and `timeout` is null or points to a value that lives until the end
        // of this function. Numbers of files that are not open are reported, and harmless.
        let ready =
            unsafe { libc::ppoll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, timeout, std::ptr::null()) };
        if ready < 0 {
            return match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(Wake::Perhaps),
                error => Err(errno::of(error)),
            };
        }
        Ok(if entries[0].revents != 0 { Wake::Interrupted } else { Wake::Perhaps })
    }

    fn interrupt(&self) -> Arc<dyn Interrupt> {
        self.bell.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::HostStream;
    use abi::file::Stream;
    use std::time::{Duration, Instant};

    #[test]
    fn an_interrupt_ends_every_wait_until_it_is_lowered() {
        let mut waiter = HostWaiter::new().unwrap();
        let interrupt = waiter.interrupt();
        let thread = std::thread::spawn(move || interrupt.raise());
        assert_eq!(waiter.wait(&[], None), Ok(Wake::Interrupted));
        thread.join().unwrap();
        waiter.interrupt().raise();
        assert_eq!(waiter.wait(&[], None), Ok(Wake::Interrupted));
        waiter.interrupt().lower();
        assert_eq!(waiter.wait(&[], Some(1)), Ok(Wake::Perhaps));
    }

    #[test]
    fn a_wait_lasts_as_long_as_its_timeout() {
        let mut waiter = HostWaiter::new().unwrap();
        let start = Instant::now();
        assert_eq!(waiter.wait(&[], Some(20_000_000)), Ok(Wake::Perhaps));
        assert!(start.elapsed() >= Duration::from_millis(20), "{:?}", start.elapsed());
    }

    #[test]
    fn a_stream_that_becomes_ready_ends_the_wait() {
        let mut waiter = HostWaiter::new().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut reader = HostStream::new(reader).unwrap();
        let interest = Interest { source: reader.source(), direction: Direction::Read };
        let thread = std::thread::spawn(move || {
            rustix::io::write(&writer, b"x").unwrap();
            writer
        });
        let start = Instant::now();
        assert_eq!(waiter.wait(&[interest], Some(100_000_000_000)), Ok(Wake::Perhaps));
        assert!(start.elapsed() < Duration::from_secs(100), "the time ended the wait, not the stream");
        let _writer = thread.join().unwrap();
        let mut buffer = [0; 4];
        assert_eq!((reader.read(&mut buffer), buffer[0]), (Ok(1), b'x'));
        let unknown = Interest { source: abi::file::Source(u64::MAX), direction: Direction::Read };
        assert_eq!(waiter.wait(&[unknown], None), Err(Errno::BadF));
    }
}
