//! Bugs that are planted on purpose in what is decided of processes that outlive their nodes, to see that the simulator finds them. A build
//! without the feature `planted` contains none of them.

planted::bugs! {
    /// Whoever takes a process up writes the incarnation that was.
    IncarnationNotRaised,
    /// It is enough that nobody hears its node, also for a process that has effects at once.
    SilenceIsEnoughForAll,
    /// A lease of the same life is taken for one that is over.
    LeaseTakenForOver,
    /// A lease is believed to run as long as it is granted for, from when the answer came.
    LeaseBelievedTooLong,
    /// After a doubt all that a node had goes on.
    DoubtForgotten,
    /// What was refused, since the claim is another one by now, is taken for done.
    RefusedTakenForDone,
    /// A piece that is there already, since an answer was lost, is taken for another incarnation's.
    LostAnswerTakenForFence,
    /// Output is shown at once.
    ShownBeforeSafe,
    /// Output is shown when what was told before is handed to the coordinator.
    ShownWhenWritten,
    /// Of the tape only that is left which the last checkpoint needs.
    OnlyLastCheckpointCovered,
    /// The piece in whose middle the checkpoint before stands is removed.
    PieceCutAtCheckpoint,
    /// A process that begins from its beginning goes on from checkpoints of its last time.
    OldPastKept,
}
