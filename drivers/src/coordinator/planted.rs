//! Bugs that are planted on purpose, to see that the tests of the coordinator find them. A build without the feature `planted`
//! contains none of them.

planted::bugs! {
    /// A transaction is answered before it is on the disk.
    AnswerBeforeSync,
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
    /// A store whose facts have moved goes on renewing leases.
    LeftOneRenews,
    /// Whoever opens the store to which facts have moved renews no leases first.
    MoveForgetsLeases,
    /// What is behind the fence of a store that was left, or is being filled, is read and watched.
    FillingIsRead,
}
