//! Bugs that are planted on purpose, to see that the tests of the coordinator find them. A build without the feature `planted`
//! contains none of them.

/// One mistake that somebody could have made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Bug {
    /// A transaction is answered before it is on the disk.
    AnswerBeforeSync = 1,
    /// The vote is not on the disk when it is given.
    VoteNotSynced,
    /// A leader reads without asking whether it still leads.
    StaleRead,
    /// A deed that is asked for again is done again.
    RetryDoneTwice,
    /// A follower ends leases by its own clock, without telling anybody.
    FollowerEndsLeases,
    /// A renewed lease ends at its old time.
    KeepAliveForgotten,
    /// A new leader takes all leases to be over.
    NewLeaderEndsLeases,
    /// A watcher that was behind is told only of what is new.
    WatchSkipsBacklog,
    /// A part of the state is not put into a snapshot.
    SnapshotForgetsSessions,
    /// A loss of the answer is taken for a transaction that was not done.
    LostTakenForNotDone,
}

impl Bug {
    pub const ALL: [Bug; 10] = [
        Bug::AnswerBeforeSync,
        Bug::VoteNotSynced,
        Bug::StaleRead,
        Bug::RetryDoneTwice,
        Bug::FollowerEndsLeases,
        Bug::KeepAliveForgotten,
        Bug::NewLeaderEndsLeases,
        Bug::WatchSkipsBacklog,
        Bug::SnapshotForgetsSessions,
        Bug::LostTakenForNotDone,
    ];
}

#[cfg(feature = "planted")]
mod chosen {
    use super::Bug;
    use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

    static CHOSEN: AtomicU8 = AtomicU8::new(0);

    /// Plants one bug, or none, in all coordinators of this operating-system process.
    pub fn plant(bug: Option<Bug>) {
        CHOSEN.store(bug.map_or(0, |bug| bug as u8), Relaxed);
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        CHOSEN.load(Relaxed) == bug as u8
    }
}

#[cfg(feature = "planted")]
pub use chosen::plant;
#[cfg(feature = "planted")]
pub(crate) use chosen::planted;

#[cfg(not(feature = "planted"))]
#[inline(always)]
pub(crate) fn planted(_: Bug) -> bool {
    false
}
