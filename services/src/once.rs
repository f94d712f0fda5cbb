//! Which calls were done, so that one that is asked again is not done again. This file knows nothing of what they did.
//!
//! The one idea: a caller asks again only about its latest change, so one number per caller is enough; what must be
//! remembered is small and can be written with the change itself.

use abi::ids::{CallId, ProcessId};
use alloc::collections::BTreeMap;

/// The most callers that are remembered; then the one that was born first is forgotten.
pub const CALLERS_MAX: usize = 1 << 16;

/// The latest change that each caller made.
#[derive(Default)]
pub(crate) struct Done {
    latest: BTreeMap<ProcessId, u64>,
}

/// What is known of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// It was not done.
    New,
    Done,
    /// A later one was done, so nothing is known about this one.
    Forgotten,
}

impl Done {
    pub fn standing(&self, call: CallId) -> Standing {
        match self.latest.get(&call.caller) {
            Some(latest) if *latest == call.sequence => Standing::Done,
            Some(latest) if *latest > call.sequence => Standing::Forgotten,
            _ => Standing::New,
        }
    }

    pub fn remember(&mut self, call: CallId) {
        self.latest.insert(call.caller, call.sequence);
        if self.latest.len() > CALLERS_MAX {
            self.latest.pop_first();
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = CallId> {
        self.latest.iter().map(|(caller, sequence)| CallId { caller: *caller, sequence: *sequence })
    }
}
