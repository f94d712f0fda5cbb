//! A client of the service `names` that asks for things by chance, asks again when it must, and writes down what it asked and
//! was answered. It knows nothing of how names are kept.

use crate::checkers::linear::{End, Operation};
use crate::machine::{Body, Doing};
use crate::random::Random;
use abi::call::{CallError, Deadline, Outcome, Reached, SystemCall};
use abi::ids::{HandleId, ProcessId, Time};
use abi::interface::names::{Answer, Existing, Request};
use abi::message::Message;
use std::cell::RefCell;
use std::rc::Rc;

/// What all clients asked and were answered. The length of the list of moments is the time in it.
#[derive(Default)]
pub struct Log {
    moments: u64,
    operations: Vec<Entry>,
}

struct Entry {
    request: Request,
    asked: u64,
    state: EntryState,
}

enum EntryState {
    Open,
    Answered {
        at: u64,
        answer: Answer,
    },
    /// Its caller will never know.
    Unknown {
        limit: u64,
    },
    /// Its caller was told that it had no effect.
    Void,
}

pub type SharedLog = Rc<RefCell<Log>>;

impl Log {
    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    fn ask(&mut self, request: Request) -> usize {
        let asked = self.moment();
        self.operations.push(Entry { request, asked, state: EntryState::Open });
        self.operations.len() - 1
    }

    pub fn len(&self) -> usize {
        self.operations.len()
    }

    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub fn answered(&self) -> usize {
        self.operations.iter().filter(|entry| matches!(entry.state, EntryState::Answered { .. })).count()
    }

    /// The node stopped: what was open may have been done before now, and cannot be done any more.
    pub fn crash(&mut self) {
        let limit = self.moment();
        for entry in self.operations.iter_mut().filter(|entry| matches!(entry.state, EntryState::Open)) {
            entry.state = EntryState::Unknown { limit };
        }
    }

    pub fn operations(&self) -> Vec<Operation<Request, Answer>> {
        let operation = |entry: &Entry| {
            let end = match &entry.state {
                EntryState::Answered { at, answer } => End::Answered { at: *at, answer: answer.clone() },
                EntryState::Unknown { limit } => End::Unknown { limit: *limit },
                EntryState::Open => End::Unknown { limit: u64::MAX },
                EntryState::Void => return None,
            };
            Some(Operation { request: entry.request.clone(), asked: entry.asked, end })
        };
        self.operations.iter().filter_map(operation).collect()
    }
}

pub struct Client {
    random: Random,
    id: ProcessId,
    log: SharedLog,
    operations_max: usize,
    /// The operation under way and what it asked.
    current: Option<(usize, Request)>,
    /// The number under which a server took it, if one did and nobody knows what it did.
    reached: Option<u64>,
    made: u32,
}

/// Where boot puts the port of `names`.
const NAMES: HandleId = HandleId(2);

impl Client {
    pub fn new(seed: u64, id: ProcessId, log: SharedLog, operations_max: usize) -> Client {
        let random = Random::new(seed ^ id.to_bits().wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Client { random, id, log, operations_max, current: None, reached: None, made: 0 }
    }

    fn path(&mut self) -> String {
        let paths = ["/a", "/b", "/c", "/a/x", "/a/y", "/b/x", "/a/x/z", "/"];
        paths[self.random.below(paths.len() as u64) as usize].into()
    }

    fn request(&mut self) -> Request {
        match self.random.below(20) {
            0..6 => Request::Lookup { path: self.path() },
            6..8 => Request::List { path: self.path(), after: String::new(), names_max: 10 },
            8..10 => Request::MakeDirectory { path: self.path() },
            10..15 => {
                self.made += 1;
                // Long ones fill the journal, so that it is compacted.
                let mut record = format!("{:?}.{}", self.id, self.made).into_bytes();
                if self.random.once_in(2) {
                    record.resize(2000 + self.random.below(2000) as usize, b'-');
                }
                let existing = if self.random.once_in(2) { Existing::Refuse } else { Existing::Replace };
                Request::Bind { path: self.path(), record, existing }
            }
            15..18 => Request::Unbind { path: self.path() },
            _ => Request::Rename { from: self.path(), to: self.path() },
        }
    }

    fn call(&mut self, now: Time, request: &Request, again: Option<u64>) -> Doing {
        let at = self.random.once_in(4).then(|| now.after(self.random.below(3_000_000)));
        let message = Message { bytes: request.encode(), handles: Box::default() };
        Doing::Call(SystemCall::Call { port: NAMES, message, deadline: Deadline { at, again } })
    }

    /// At once, or after a while in which the service may end once more.
    fn ask_again(&mut self, now: Time) -> Doing {
        if self.random.once_in(2) {
            return Doing::Call(SystemCall::Sleep { until: now.after(self.random.below(2_000_000)) });
        }
        let request = self.current.as_ref().expect("a call was under way").1.clone();
        self.call(now, &request, self.reached)
    }

    fn end(&mut self, state: impl FnOnce(u64) -> EntryState) {
        self.reached = None;
        if let Some((index, _)) = self.current.take() {
            let mut log = self.log.borrow_mut();
            let moment = log.moment();
            log.operations[index].state = state(moment);
        }
    }
}

impl Body for Client {
    fn resume(&mut self, now: Time, outcome: Outcome) -> Doing {
        match outcome {
            Outcome::Called(Ok(answer)) => {
                let answer = Answer::decode(&answer.bytes).expect("the service answers as its interface says");
                self.end(|at| EntryState::Answered { at, answer });
            }
            // To know what became of it, it is asked again, under the same number.
            Outcome::Called(Err(
                CallError::Abandoned { sequence }
                | CallError::Expired(Reached::Server { sequence })
                | CallError::Interrupted(Reached::Server { sequence }),
            )) => {
                self.reached = Some(sequence);
                return self.ask_again(now);
            }
            // This attempt had no effect, but an earlier one may have had.
            Outcome::Called(Err(_)) if self.reached.is_some() => return self.ask_again(now),
            Outcome::Slept(_) if self.reached.is_some() => return self.ask_again(now),
            Outcome::Called(Err(_)) => self.end(|_| EntryState::Void),
            _ => {}
        }
        if self.log.borrow().len() >= self.operations_max {
            return Doing::Call(SystemCall::Exit { code: 0 });
        }
        if self.random.once_in(3) {
            return Doing::Call(SystemCall::Sleep { until: now.after(self.random.below(100_000)) });
        }
        let request = self.request();
        let index = self.log.borrow_mut().ask(request.clone());
        self.current = Some((index, request.clone()));
        self.call(now, &request, None)
    }
}
