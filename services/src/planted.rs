//! Bugs that are planted on purpose, to see that the checkers of the simulator find them. A build without the feature
//! `planted` contains none of them.

/// One mistake that somebody could have made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Bug {
    /// A change is acknowledged before it is safe.
    EarlyAcknowledgement = 1,
    /// A reader sees a change that is not safe yet.
    ReadsUnsafe,
    /// The checksum of a record is not looked at.
    ChecksumIgnored,
    /// What lies behind a damaged record is used.
    GapSkipped,
    /// After a restart, new records are written behind the damaged end of the old ones.
    TailNotCut,
    /// A call that is asked again is done again.
    DoneTwice,
    /// Compaction leaves the calls that were done out.
    CompactionForgetsCalls,
    /// Compaction leaves the last name of each directory out.
    CompactionForgetsName,
    /// Renaming copies, and leaves the old name.
    RenameCopies,
    /// Binding with `Refuse` replaces.
    BindReplaces,
    /// A flush is taken to cover what was appended after it was asked for.
    FlushCoversLater,
}

impl Bug {
    pub const ALL: [Bug; 11] = [
        Bug::EarlyAcknowledgement,
        Bug::ReadsUnsafe,
        Bug::ChecksumIgnored,
        Bug::GapSkipped,
        Bug::TailNotCut,
        Bug::DoneTwice,
        Bug::CompactionForgetsCalls,
        Bug::CompactionForgetsName,
        Bug::RenameCopies,
        Bug::BindReplaces,
        Bug::FlushCoversLater,
    ];
}

#[cfg(feature = "planted")]
mod chosen {
    use super::Bug;
    use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

    static CHOSEN: AtomicU8 = AtomicU8::new(0);

    /// Plants one bug, or none, in all services of this operating-system process.
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
pub(crate) const fn planted(_: Bug) -> bool {
    false
}
