//! The host's clocks. Knows no process: where a process's monotonic time begins is the business of its own state.

use abi::file::Clock;
use abi::wasi::Clockid;
use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};
use std::time::{Duration, SystemTime};

#[derive(Clone, Copy, Default, Debug)]
pub struct HostClock;

impl Clock for HostClock {
    fn realtime_ns(&self) -> u64 {
        nanoseconds(clock_gettime(ClockId::Realtime))
    }

    fn monotonic_ns(&self) -> u64 {
        nanoseconds(clock_gettime(ClockId::Monotonic))
    }

    fn cputime_ns(&self) -> u64 {
        nanoseconds(clock_gettime(ClockId::ProcessCPUTime))
    }

    fn resolution_ns(&self, clock: Clockid) -> u64 {
        let clock = match clock {
            Clockid::Realtime => ClockId::Realtime,
            Clockid::Monotonic => ClockId::Monotonic,
            Clockid::ProcessCputime | Clockid::ThreadCputime => ClockId::ProcessCPUTime,
        };
        nanoseconds(clock_getres(clock)).max(1)
    }
}

/// The time of day in nanoseconds since 1970; a clock before that is at it.
pub fn now_ns() -> u64 {
    since_1970().as_nanos().try_into().unwrap_or(u64::MAX)
}

/// The same in milliseconds.
pub fn now_ms() -> u64 {
    since_1970().as_millis().try_into().unwrap_or(u64::MAX)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// A time before 1970 is 1970, and one after 2554 is 2554.
fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_advance_and_have_a_resolution() {
        let clock = HostClock;
        let (first, cpu) = (clock.monotonic_ns(), clock.cputime_ns());
        while clock.monotonic_ns() == first || clock.cputime_ns() == cpu {}
        assert!(clock.monotonic_ns() > first && clock.cputime_ns() > cpu);
        // 2020-01-01: a clock that counts other units or from another year is far away from it.
        assert!(clock.realtime_ns() > 1_577_836_800_000_000_000);
        for id in [Clockid::Realtime, Clockid::Monotonic, Clockid::ProcessCputime, Clockid::ThreadCputime] {
            assert!((1..=100_000_000).contains(&clock.resolution_ns(id)), "{id:?}");
        }
    }

    #[test]
    fn times_outside_the_range_are_its_ends() {
        assert_eq!(nanoseconds(Timespec { tv_sec: -1, tv_nsec: 5 }), 5);
        assert_eq!(nanoseconds(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }), u64::MAX);
    }
}
