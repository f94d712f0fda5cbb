//! Clocks and random numbers by a tape.

use super::{ANSWER_BYTES_MAX, Line, Next, State, Tag, Tape};
use abi::encoding::Writer;
use abi::errno::Errno;
use abi::file::{Clock, Entropy};
use abi::wasi::Clockid;

impl Tape {
    pub fn clock(&self, clock: Box<dyn Clock>) -> Box<dyn Clock> {
        Box::new(TapedClock { tape: self.clone(), clock })
    }

    pub fn entropy(&self, entropy: Box<dyn Entropy>) -> Box<dyn Entropy> {
        Box::new(TapedEntropy { tape: self.clone(), entropy })
    }

    /// A clock that goes on where it was, wherever the process lives.
    fn line(&self, tag: Tag, line: fn(&mut State) -> &mut Line, host_ns: impl Fn() -> u64) -> u64 {
        match self.next(tag) {
            Next::Aside => {
                let mut state = self.state();
                let line = line(&mut state);
                line.saved_ns = line.now_ns(host_ns());
                line.saved_ns
            }
            Next::Ask => {
                let now_ns = {
                    let mut state = self.state();
                    let line = line(&mut state);
                    let host_ns = host_ns();
                    line.ahead_ns.get_or_insert(line.last_ns.wrapping_sub(host_ns));
                    line.last_ns = line.now_ns(host_ns);
                    line.last_ns
                };
                self.add(&Writer::default().u8(tag as u8).u64(now_ns).finish());
                now_ns
            }
            Next::Again(record) => {
                let mut state = self.state();
                let Ok(bytes) = <[u8; 8]>::try_from(&record[..]) else {
                    state.differ(format!("the answer to {tag:?} is not of its form"));
                    return 0;
                };
                let line = line(&mut state);
                line.last_ns = u64::from_le_bytes(bytes);
                line.last_ns
            }
            Next::Void | Next::PutOff => 0,
        }
    }
}

impl Line {
    /// Before it was first asked for it stands where the process was saved, or where it was told again to be.
    fn now_ns(&self, host_ns: u64) -> u64 {
        match self.ahead_ns {
            None => self.last_ns,
            // A host's clock that goes back does not take the process's with it.
            Some(ahead_ns) => Some(host_ns.wrapping_add(ahead_ns))
                .filter(|now_ns| *now_ns < u64::MAX / 2)
                .map_or(self.last_ns, |now_ns| now_ns.max(self.last_ns)),
        }
    }
}

struct TapedClock {
    tape: Tape,
    clock: Box<dyn Clock>,
}

impl Clock for TapedClock {
    fn realtime_ns(&self) -> u64 {
        let write = |ns: &u64, to: &mut Writer| {
            to.u64(*ns);
        };
        self.tape.told(Tag::Realtime, 0, write, |from| from.u64(), || self.clock.realtime_ns())
    }

    fn monotonic_ns(&self) -> u64 {
        self.tape.line(Tag::Monotonic, |state| &mut state.monotonic, || self.clock.monotonic_ns())
    }

    fn cputime_ns(&self) -> u64 {
        self.tape.line(Tag::Cputime, |state| &mut state.cputime, || self.clock.cputime_ns())
    }

    fn resolution_ns(&self, clock: Clockid) -> u64 {
        self.clock.resolution_ns(clock)
    }
}

struct TapedEntropy {
    tape: Tape,
    entropy: Box<dyn Entropy>,
}

impl Entropy for TapedEntropy {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Errno> {
        for part in buffer.chunks_mut(ANSWER_BYTES_MAX) {
            let length = part.len();
            let write = |bytes: &Vec<u8>, to: &mut Writer| {
                to.raw(bytes);
            };
            let bytes = self.tape.result(
                Tag::Random,
                write,
                |from| from.raw(length).map(<[u8]>::to_vec),
                || {
                    let mut bytes = vec![0; length];
                    self.entropy.fill(&mut bytes).map(|()| bytes)
                },
            )?;
            part.copy_from_slice(&bytes);
        }
        Ok(())
    }
}
