//! A process of the kernel that makes system calls for threads outside of it. Knows nothing of what they are for.
//!
//! The one idea: only processes make system calls, so whoever stands outside has one make them: calls are queued, done one after the
//! other, and each outcome goes back to who asked. With nothing to do the process sleeps, and a new call stirs it.

use super::machine::Native;
use abi::call::{Outcome, SystemCall};
use abi::ids::Time;
use kernel::{Key, Process};
use std::collections::VecDeque;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// The most calls that wait. Then: [`Refused::Busy`].
const QUEUE_MAX: usize = 4096;

/// The strings of a puppet.
pub(crate) struct Strings {
    /// Set when the process is there.
    key: OnceLock<Key<Process>>,
    queue: Mutex<Queue>,
}

struct Queue {
    calls: VecDeque<(SystemCall, Then)>,
    /// The process is gone.
    closed: bool,
}

/// What is done with an outcome, on a worker.
type Then = Box<dyn FnOnce(Outcome) + Send>;

/// Why a call has no outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    Busy,
    /// The process is gone, or was never there.
    Gone,
    /// It took too long. The call may still be done.
    Late,
}

impl Strings {
    pub fn new() -> Arc<Strings> {
        let queue = Queue { calls: VecDeque::new(), closed: false };
        Arc::new(Strings { key: OnceLock::new(), queue: Mutex::new(queue) })
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().expect("no code panics while it holds this lock")
    }

    pub fn attach(&self, key: Key<Process>) {
        let attached = self.key.set(key);
        assert!(attached.is_ok(), "strings belong to one puppet");
    }

    /// The process that makes them, once it is there.
    pub fn key(&self) -> Option<Key<Process>> {
        self.key.get().copied()
    }

    /// Has a call made and waits for its outcome. `stir` rouses the puppet.
    pub fn call(&self, call: SystemCall, stir: impl Fn(Key<Process>), timeout: Duration) -> Result<Outcome, Refused> {
        let (sender, outcome) = sync_channel(1);
        {
            let mut queue = self.queue();
            if queue.closed {
                return Err(Refused::Gone);
            }
            if queue.calls.len() >= QUEUE_MAX {
                return Err(Refused::Busy);
            }
            // Who asked may have stopped waiting.
            queue.calls.push_back((call, Box::new(move |outcome| drop(sender.send(outcome)))));
        }
        if let Some(key) = self.key.get() {
            stir(*key);
        }
        outcome.recv_timeout(timeout).map_err(|error| match error {
            std::sync::mpsc::RecvTimeoutError::Timeout => Refused::Late,
            std::sync::mpsc::RecvTimeoutError::Disconnected => Refused::Gone,
        })
    }

    /// Has a call made without waiting for its outcome. False if it will not be made, because the queue is full or closed.
    pub fn post(
        &self, call: SystemCall, stir: impl Fn(Key<Process>), then: impl FnOnce(Outcome) + Send + 'static,
    ) -> bool {
        {
            let mut queue = self.queue();
            if queue.closed || queue.calls.len() >= 2 * QUEUE_MAX {
                return false;
            }
            queue.calls.push_back((call, Box::new(then)));
        }
        if let Some(key) = self.key.get() {
            stir(*key);
        }
        true
    }
}

pub(crate) struct Puppet {
    strings: Arc<Strings>,
    then: Option<Then>,
}

impl Puppet {
    pub fn new(strings: Arc<Strings>) -> Puppet {
        Puppet { strings, then: None }
    }
}

impl Native for Puppet {
    fn resume(&mut self, _now: Time, outcome: Outcome) -> SystemCall {
        if let Some(then) = self.then.take() {
            then(outcome);
        }
        let mut queue = self.strings.queue();
        match queue.calls.pop_front() {
            Some((call, then)) => {
                self.then = Some(then);
                call
            }
            None => SystemCall::Sleep { until: Time(u64::MAX) },
        }
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let mut queue = self.strings.queue();
        queue.closed = true;
        queue.calls.clear();
    }
}
