//! Bugs that are planted in membership on purpose, to see that the simulator's checkers find them. A build without the feature
//! `planted` contains none of them.

planted::bugs! {
    /// Who was paused holds the others' silence against them.
    LatenessIgnored,
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
    /// A node tells what it has before it has looked.
    UnseenTold,
    /// Facts are told to some, once, and to nobody again.
    FactsToldOnce,
    /// Silence is suspected but never judged.
    NeverJudged,
    /// A member that was removed is kept.
    RemovedIsKept,
}
