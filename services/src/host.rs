//! A service as a process body. This file knows nothing of what the service does.
//!
//! The one idea: a process makes one system call at a time, a service wants several per input; the host makes them in turn
//! and receives the next message when none is left.

use crate::{Input, Service};
use abi::call::{Outcome, SystemCall, Wait};
use abi::ids::{HandleId, Time};
use abi::limits::Limit;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// A service and the system calls it still wants made.
pub struct Host<S> {
    service: S,
    wanted: VecDeque<SystemCall>,
    /// Emptied after each step; kept for its memory.
    calls: Vec<SystemCall>,
}

impl<S: Service> Host<S> {
    pub fn new(service: S) -> Host<S> {
        Host { service, wanted: VecDeque::new(), calls: Vec::new() }
    }

    /// Takes the outcome of the last system call, [`Outcome::Begun`] at first, and gives the next one.
    pub fn resume(&mut self, now: Time, outcome: Outcome) -> SystemCall {
        let input = match outcome {
            Outcome::Begun => Some(Input::Begun),
            Outcome::Received(Ok(received)) => Some(Input::Received(received)),
            // What an interrupt or a full table leaves in the queue is there next time.
            Outcome::Received(Err(error)) => match error {
                abi::call::ReceiveError::Interrupted | abi::call::ReceiveError::Limit(Limit::Handles) => None,
                // The port is its own: these mean that it was given something else.
                _ => return SystemCall::Exit { code: crate::exit::MISPLACED },
            },
            outcome => Some(Input::Outcome(outcome)),
        };
        if let Some(input) = input {
            self.service.step(now, input, &mut self.calls);
            self.wanted.extend(self.calls.drain(..));
        }
        match self.wanted.pop_front() {
            Some(call) => call,
            None if self.service.port() == HandleId::NONE => SystemCall::Exit { code: crate::exit::MISPLACED },
            None => SystemCall::Receive { port: self.service.port(), wait: Wait::Forever },
        }
    }

    /// Panics if an invariant of the service does not hold. It may look at all that the service keeps.
    pub fn check(&self) {
        self.service.check();
    }

    pub fn service(&self) -> &S {
        &self.service
    }
}
