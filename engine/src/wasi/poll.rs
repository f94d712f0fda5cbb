//! `poll_oneoff`: waiting for several things at once.
//!
//! The one idea: when a subscription's time comes is worked out once, at the first try, and remembered with the call: a
//! timeout that is relative does not begin anew when the call is issued again, not even in another process.

use super::memory::{Memory, read_u16, read_u32, read_u64};
use super::table::Object;
use super::{Pending, Progress, System, Wait};
use abi::errno::Errno;
use abi::file::{Direction, Interest, Readiness};
use abi::wasi::{Clockid, Eventrwflags, Eventtype, Rights, Subclockflags, event, subscription};

/// A call with more subscriptions is refused, as poll(2) refuses more descriptors than a process may have.
const SUBSCRIPTIONS_MAX: u32 = 1 << 16;

/// What is found out of one subscription.
enum Outcome {
    NotYet,
    Happened { bytes: u64, flags: Eventrwflags },
    Failed(Errno),
}

/// What one subscription asks for.
#[derive(Clone, Copy)]
enum Wish {
    Clock { id: Clockid, timeout_ns: u64, absolute: bool },
    Ready { fd: u32, direction: Direction },
}

impl System {
    pub fn poll_oneoff(
        &mut self, memory: &mut Memory, subscriptions: u32, events: u32, count: u32, result: u32,
    ) -> Result<Progress, Errno> {
        let pending = self.pending.take();
        if count == 0 || count > SUBSCRIPTIONS_MAX {
            return Err(Errno::Inval);
        }
        memory.check_array(subscriptions, count, subscription::SIZE)?;
        memory.check_array(events, count, event::SIZE)?;
        memory.check(result, 4)?;
        let mut wishes = vec![];
        for index in 0..count {
            wishes.push(wish(memory.slice(subscriptions + index * subscription::SIZE, subscription::SIZE)?));
        }
        let deadlines_ns = match pending {
            Some(Pending::Poll { subscriptions: s, events: e, count: c, deadlines_ns })
                if (s, e, c) == (subscriptions, events, count) =>
            {
                deadlines_ns
            }
            _ => wishes.iter().map(|(_, _, wish)| self.deadline_ns(wish.as_ref().ok()?)).collect(),
        };
        let (mut happened, mut interests, mut until_ns) = (0, vec![], None::<u64>);
        for ((userdata, tag, wish), deadline_ns) in wishes.into_iter().zip(&deadlines_ns) {
            let outcome = match wish {
                Err(error) => Outcome::Failed(error),
                Ok(wish) => self.look(wish, *deadline_ns, &mut interests, &mut until_ns),
            };
            let (error, bytes, flags) = match outcome {
                Outcome::NotYet => continue,
                Outcome::Happened { bytes, flags } => (0, bytes, flags),
                Outcome::Failed(error) => (error.raw(), 0, Eventrwflags::NONE),
            };
            let mut entry = [0; event::SIZE as usize];
            entry[event::USERDATA..][..8].copy_from_slice(&userdata.to_le_bytes());
            entry[event::ERROR..][..2].copy_from_slice(&error.to_le_bytes());
            entry[event::TYPE] = tag;
            entry[event::NBYTES..][..8].copy_from_slice(&bytes.to_le_bytes());
            entry[event::FLAGS..][..2].copy_from_slice(&flags.raw().to_le_bytes());
            memory.write(events + happened * event::SIZE, &entry)?;
            happened += 1;
        }
        if happened == 0 {
            self.pending = Some(Pending::Poll { subscriptions, events, count, deadlines_ns });
            return Ok(Progress::Wait(Wait { interests, until_ns }));
        }
        memory.write_u32(result, happened)?;
        Ok(Progress::Done)
    }

    /// When a subscription's time comes, by the process's own monotonic clock. How long something is to take has nothing to do
    /// with the date, so a relative timeout is monotonic whatever its clock.
    fn deadline_ns(&self, wish: &Wish) -> Option<u64> {
        match *wish {
            Wish::Clock { timeout_ns, absolute: false, .. } => Some(self.now_ns().saturating_add(timeout_ns)),
            Wish::Clock { id: Clockid::Monotonic, timeout_ns, absolute: true } => Some(timeout_ns),
            // The date may be set meanwhile, so it is looked at each time.
            Wish::Clock { absolute: true, .. } | Wish::Ready { .. } => None,
        }
    }

    fn look(
        &mut self, wish: Wish, deadline_ns: Option<u64>, interests: &mut Vec<Interest>, until_ns: &mut Option<u64>,
    ) -> Outcome {
        match wish {
            Wish::Clock { id: Clockid::ProcessCputime | Clockid::ThreadCputime, .. } => Outcome::Failed(Errno::NotSup),
            Wish::Clock { timeout_ns, .. } => {
                let now_ns = self.now_ns();
                let left_ns = match deadline_ns {
                    Some(deadline_ns) => deadline_ns.saturating_sub(now_ns),
                    None => timeout_ns.saturating_sub(self.clock.realtime_ns()),
                };
                if left_ns == 0 {
                    return Outcome::Happened { bytes: 0, flags: Eventrwflags::NONE };
                }
                let then_ns = now_ns.saturating_add(left_ns);
                *until_ns = Some(until_ns.map_or(then_ns, |until_ns| until_ns.min(then_ns)));
                Outcome::NotYet
            }
            Wish::Ready { fd, direction } => match self.readiness(fd, direction) {
                Err(error) => Outcome::Failed(error),
                Ok((Readiness::Ready { bytes, hangup }, _)) => {
                    let flags = if hangup { Eventrwflags::HANGUP } else { Eventrwflags::NONE };
                    Outcome::Happened { bytes, flags }
                }
                Ok((Readiness::Blocked, interest)) => {
                    interests.extend(interest);
                    Outcome::NotYet
                }
            },
        }
    }

    fn readiness(&mut self, fd: u32, direction: Direction) -> Result<(Readiness, Option<Interest>), Errno> {
        let descriptor = self.table.get(fd)?;
        let right = match direction {
            Direction::Read => Rights::FD_READ,
            Direction::Write => Rights::FD_WRITE,
        };
        descriptor.must_have(Rights::POLL_FD_READWRITE | right)?;
        match descriptor.object {
            Object::Stream(super::Standard::Input) if direction == Direction::Read && self.unread.is_used() => {
                let bytes = (self.unread.bytes.len() - self.unread.start) as u64;
                Ok((Readiness::Ready { bytes, hangup: bytes == 0 }, None))
            }
            Object::Stream(standard) => {
                let stream = self.stream(standard);
                let interest = Interest { source: stream.source(), direction };
                Ok((stream.readiness(direction)?, Some(interest)))
            }
            // A file is always ready, and a directory is not asked for long.
            Object::File { at, offset, .. } => {
                if let Some((readiness, source)) = self.files(at).readiness(at.id, direction) {
                    return Ok((readiness, Some(Interest { source, direction })));
                }
                let bytes = match direction {
                    Direction::Read => self.files(at).stat(at.id)?.size_bytes.saturating_sub(offset),
                    Direction::Write => 0,
                };
                Ok((Readiness::Ready { bytes, hangup: false }, None))
            }
            Object::Directory { .. } => Err(Errno::NotCapable),
        }
    }
}

/// A subscription's user data and type, and what it asks for.
fn wish(bytes: &[u8]) -> (u64, u8, Result<Wish, Errno>) {
    let tag = bytes[subscription::TAG];
    let fd = read_u32(bytes, subscription::FD);
    let wish = match Eventtype::from_raw(tag) {
        None => Err(Errno::Inval),
        Some(Eventtype::FdRead) => Ok(Wish::Ready { fd, direction: Direction::Read }),
        Some(Eventtype::FdWrite) => Ok(Wish::Ready { fd, direction: Direction::Write }),
        Some(Eventtype::Clock) => {
            let id = Clockid::from_raw(read_u32(bytes, subscription::CLOCK_ID));
            let flags = Subclockflags::from_raw(read_u16(bytes, subscription::CLOCK_FLAGS));
            match (id, flags) {
                (Some(id), Some(flags)) => Ok(Wish::Clock {
                    id,
                    timeout_ns: read_u64(bytes, subscription::CLOCK_TIMEOUT),
                    absolute: flags.contains(Subclockflags::ABSTIME),
                }),
                _ => Err(Errno::Inval),
            }
        }
    };
    (read_u64(bytes, subscription::USERDATA), tag, wish)
}
