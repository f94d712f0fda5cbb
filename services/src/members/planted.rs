//! Bugs that are planted in membership on purpose, to see that the simulator's checkers find them. A build without the feature
//! `planted` contains none of them.

/// One mistake that somebody could have made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Bug {
    /// Who was paused holds the others' silence against them.
    LatenessIgnored = 1,
    /// Who is suspected is left to hear of it by chance.
    AccusedNotTold,
    /// What others tell of machines that do not belong is believed.
    StrangersBelieved,
    /// An identity of an earlier life is as good as one of a later life.
    OldLifeReturns,
    /// Who hears that it was declared down takes it as it is.
    NeverReturns,
    /// Nobody speaks to members that are down.
    DownNotReached,
    /// A lost link is a death.
    UnlinkedIsDown,
    /// Facts replace others in the order in which they come.
    OlderFactsReplace,
    /// Nobody asks third members.
    NoIndirectProbes,
    /// Facts are told to some, once, and to nobody again.
    FactsToldOnce,
    /// Silence is suspected but never judged.
    NeverJudged,
    /// A member that was removed is kept.
    RemovedIsKept,
}

impl Bug {
    pub const ALL: [Bug; 12] = [
        Bug::LatenessIgnored,
        Bug::AccusedNotTold,
        Bug::StrangersBelieved,
        Bug::OldLifeReturns,
        Bug::NeverReturns,
        Bug::DownNotReached,
        Bug::UnlinkedIsDown,
        Bug::OlderFactsReplace,
        Bug::NoIndirectProbes,
        Bug::FactsToldOnce,
        Bug::NeverJudged,
        Bug::RemovedIsKept,
    ];
}

#[cfg(feature = "planted")]
mod chosen {
    use super::Bug;
    use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

    static CHOSEN: AtomicU8 = AtomicU8::new(0);

    /// Plants one bug, or none, in the membership of this operating-system process.
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
