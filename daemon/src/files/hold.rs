//! Who holds the tree, as one node knows it; and this node's own hold, while it has one.
//!
//! The one idea: a holder has a lease at the coordinator, and believes in it for less time than the coordinator does, counted from
//! when it asked. What it has decided in memory it tells only after it has seen, later, that the lease still ran: so nothing is told
//! that another holder could already have changed. A lease that ran out is no loss as long as nobody else has taken it: the
//! number of the holder, the *epoch*, says so, and the same holder goes on with what it has in memory.
//!
//! ```text
//!   Nobody ──► Mine(loading) ──► Mine ◄──► Mine, in doubt ──► Other
//!      └───────► Other ──────────────────────────────────────► Nobody ...
//! ```

use super::tree::Tree;
use abi::ids::NodeId;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// Who decides.
#[derive(Clone)]
pub(super) enum Holder {
    Nobody,
    Other {
        node: NodeId,
        epoch: u64,
    },
    /// Until then the lease runs for certain. There is no tree while it is being loaded.
    Mine {
        epoch: u64,
        until: Instant,
        tree: Option<Tree>,
    },
}

/// Whom to turn to.
pub(super) enum Where {
    Here { epoch: u64, tree: Tree },
    There { node: NodeId, epoch: u64 },
}

/// What became of a hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Confirmed {
    /// It was held at some moment after the question.
    Held,
    Lost,
}

pub(super) struct Hold {
    holder: Mutex<Holder>,
    changed: Condvar,
}

impl Hold {
    pub fn new() -> Hold {
        Hold { holder: Mutex::new(Holder::Nobody), changed: Condvar::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, Holder> {
        self.holder.lock().expect("nothing panics while it has the hold")
    }

    /// Gives what was known before.
    pub fn set(&self, holder: Holder) -> Holder {
        let before = std::mem::replace(&mut *self.lock(), holder);
        self.changed.notify_all();
        before
    }

    /// The lease runs longer, or the tree is there.
    pub fn update(&self, mine: u64, change: impl FnOnce(&mut Instant, &mut Option<Tree>)) {
        if let Holder::Mine { epoch, until, tree } = &mut *self.lock()
            && *epoch == mine
        {
            change(until, tree);
        }
        self.changed.notify_all();
    }

    /// Whom to turn to, as soon as that is known.
    pub fn find(&self, deadline: Instant) -> Option<Where> {
        let mut holder = self.lock();
        loop {
            match &*holder {
                Holder::Mine { epoch, tree: Some(tree), .. } => {
                    return Some(Where::Here { epoch: *epoch, tree: tree.clone() });
                }
                Holder::Other { node, epoch } => {
                    return Some(Where::There { node: *node, epoch: *epoch });
                }
                _ => {}
            }
            let rest = deadline.checked_duration_since(Instant::now())?;
            holder = self.changed.wait_timeout(holder, rest).expect("nothing panics while it has the hold").0;
        }
    }

    /// May a holder still say anything? Without waiting.
    pub fn is_held(&self, mine: u64) -> bool {
        matches!(&*self.lock(), Holder::Mine { epoch, until, .. } if *epoch == mine && Instant::now() < *until)
    }

    /// Has it lost the tree for good?
    pub fn is_lost(&self, mine: u64) -> bool {
        !matches!(&*self.lock(), Holder::Mine { epoch, .. } if *epoch == mine)
    }

    /// Waits while the hold is in doubt. Whoever is in doubt for long gives up, so that this ends.
    pub fn confirm(&self, mine: u64) -> Confirmed {
        let mut holder = self.lock();
        loop {
            match &*holder {
                Holder::Mine { epoch, until, .. } if *epoch == mine => {
                    let is_held =
                        Instant::now() < *until || super::planted::planted(super::planted::Bug::ReadsWithoutLease);
                    if is_held {
                        return Confirmed::Held;
                    }
                }
                _ => return Confirmed::Lost,
            }
            holder = self.changed.wait(holder).expect("nothing panics while it has the hold");
        }
    }
}
