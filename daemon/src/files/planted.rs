//! Bugs that are planted in the files of many nodes on purpose, to see that their tests find them. Without the feature `planted`
//! there are none.

/// One mistake that somebody could have made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Bug {
    /// Facts are written without a look at who holds the tree.
    NoFence = 1,
    /// Content counts as stored when one disk has it.
    OneCopyIsEnough,
    /// Who asks again is answered as if he had not asked before.
    AskedAgainIsNew,
    /// A holder answers from memory after its lease.
    ReadsWithoutLease,
    /// A node removes a chunk for whoever says so.
    AnybodyRemoves,
    /// A new holder lets go of open files without a name at once.
    NoGrace,
}

impl Bug {
    pub const ALL: [Bug; 6] = [
        Bug::NoFence,
        Bug::OneCopyIsEnough,
        Bug::AskedAgainIsNew,
        Bug::ReadsWithoutLease,
        Bug::AnybodyRemoves,
        Bug::NoGrace,
    ];
}

#[cfg(feature = "planted")]
mod chosen {
    use super::Bug;
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

    static CHOSEN: AtomicU8 = AtomicU8::new(0);

    /// Plants one bug, or none, in this operating-system process.
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
