//! Threads that do what other nodes ask, where whoever brings the request must not wait. They come when there is work for them and
//! go when there is none.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// More work at once waits in the queue; most of it waits for the coordinator, together.
const THREADS_MAX: usize = 64;
/// More is refused.
const QUEUE_MAX: usize = 1024;
const IDLE: Duration = Duration::from_secs(5);

type Work = Box<dyn FnOnce() + Send>;

/// Clones are the same workers.
#[derive(Clone)]
pub(super) struct Workers(Arc<Inner>);

struct Inner {
    name: &'static str,
    state: Mutex<State>,
    called: Condvar,
}

struct State {
    queue: VecDeque<Work>,
    threads: usize,
    idle: usize,
}

impl Workers {
    pub fn new(name: &'static str) -> Workers {
        let state = State { queue: VecDeque::new(), threads: 0, idle: 0 };
        Workers(Arc::new(Inner { name, state: Mutex::new(state), called: Condvar::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nothing panics while it holds the work")
    }

    /// Gives the work back if there is too much already.
    pub fn work(&self, work: Work) -> Result<(), Work> {
        let mut state = self.state();
        if state.queue.len() >= QUEUE_MAX {
            return Err(work);
        }
        state.queue.push_back(work);
        if state.queue.len() <= state.idle {
            self.0.called.notify_one();
        } else if state.threads < THREADS_MAX {
            state.threads += 1;
            let workers = self.clone();
            let spawned = std::thread::Builder::new().name(self.0.name.into()).spawn(move || workers.run());
            if spawned.is_err() {
                state.threads -= 1;
                if state.threads == 0 {
                    return state.queue.pop_back().map_or(Ok(()), Err);
                }
            }
        }
        Ok(())
    }

    fn run(&self) {
        let mut state = self.state();
        loop {
            if let Some(work) = state.queue.pop_front() {
                drop(state);
                work();
                state = self.state();
                continue;
            }
            state.idle += 1;
            let (again, waited) =
                self.0.called.wait_timeout(state, IDLE).expect("nothing panics while it holds the work");
            state = again;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}
