//! Processes that want the processor: hogs that never stop, and a napper that wants little and at once.

use crate::machine::{Body, Doing};
use crate::random::Random;
use abi::call::{Outcome, SystemCall};
use abi::ids::{ProcessId, Time};
use abi::limits::Limits;
use abi::message::Bytes;
use abi::process::{Orphan, Program, Spawn};

pub const STARTER: Program = Program::Service(200);
pub const HOG: Program = Program::Service(201);
pub const NAPPER: Program = Program::Service(202);

/// Starts the others and ends when it is told.
pub struct Starter {
    pub wanted: Vec<(Program, u32)>,
    pub until: Time,
}

impl Body for Starter {
    fn resume(&mut self, _: Time, _: Outcome) -> Doing {
        Doing::Call(match self.wanted.pop() {
            Some((program, weight)) => SystemCall::Spawn(Box::new(Spawn {
                program,
                arguments: Bytes::EMPTY,
                handles: Box::default(),
                limits: Limits::NORMAL,
                weight,
                orphan: Orphan::Dies,
                supervisor: None,
                again: None,
            })),
            None => SystemCall::Sleep { until: self.until },
        })
    }
}

pub struct Hog;

impl Body for Hog {
    fn resume(&mut self, _: Time, _: Outcome) -> Doing {
        Doing::Compute(1_000_000_000)
    }
}

pub struct Napper {
    random: Random,
}

impl Napper {
    pub fn new(seed: u64, id: ProcessId) -> Napper {
        Napper { random: Random::new(seed ^ id.to_bits()) }
    }
}

impl Body for Napper {
    fn resume(&mut self, now: Time, outcome: Outcome) -> Doing {
        match outcome {
            Outcome::Slept(_) => Doing::Compute(10_000),
            _ => Doing::Call(SystemCall::Sleep { until: now.after(5_000_000 + self.random.below(10_000_000)) }),
        }
    }
}
