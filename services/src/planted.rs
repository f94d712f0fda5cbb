//! Bugs that are planted on purpose, to see that the checkers of the simulator find them. A build without the feature
//! `planted` contains none of them.

planted::bugs! {
    /// A change is acknowledged before it is safe.
    EarlyAcknowledgement,
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
