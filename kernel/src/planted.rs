//! Bugs that are planted on purpose, to see that the checkers of the simulator find them. A build without the feature
//! `planted` contains none of them.
//!
//! The one idea: a checker that was never seen to fail proves nothing.

planted::bugs! {
    /// A queue gives its newest message first.
    NewestFirst,
    /// The queue takes one message more than it may.
    QueueOverBound,
    /// A message put in the queue wakes no receiver.
    LostWakeup,
    /// Room in a queue is not offered to the senders that wait.
    SendersForgotten,
    /// A copy gets all rights that its source has.
    CopyAmplifies,
    /// A moved handle stays in the sender's table too.
    MoveDuplicates,
    /// A handle is gone although its message was not accepted.
    MoveLosesOnFailure,
    /// The right to answer survives its use.
    ReplyTwice,
    /// A call that expired stays in the queue and is served.
    ExpiredCallServed,
    /// A call whose caller died stays in the queue and is served.
    OrphanServed,
    /// Callers of a server that died are not told.
    ServerDeathSilent,
    /// A dropped message is not counted.
    DropNotCounted,
    /// A deadline fires a little early.
    EarlyDeadline,
    /// Who waits for room in a queue has no deadline.
    DeadlineLost,
    /// A process's end is not told to its supervisor.
    ExitNotTold,
    /// A long write to a pipe that moves in by parts lets another in between.
    PipeMixesWrites,
    /// A process that wakes goes behind others by more than it used.
    SleeperStarves,
    /// A kill does not reach a process that waits.
    KillIgnoresWaiting,
    /// A select stays registered at its other ports.
    SelectLeavesTraces,
    /// A retried call gets a new number.
    RetryRenumbered,
    /// A process that is stirred while it does something else is not roused from its next sleep.
    StirLost,
    /// A packet that comes twice is heeded twice.
    DoubledHeeded,
    /// Packets are heeded in the order in which they come.
    OrderIgnored,
    /// A packet that was lost is not sent again.
    LossForgotten,
    /// The new life of a node goes on with the session of the old one.
    LifeIgnored,
    /// A life that is over is heeded again when it speaks again.
    OverHeeded,
    /// A right to an object of another node is gone and its home is not told.
    ReleaseForgotten,
    /// A third node is given a right and its home is not told.
    GrantSkipped,
    /// A right that is given at a life of a node that its home has not met yet is dropped there.
    GrantToNextLifeDropped,
    /// A right that comes home has all that its kind has.
    ForeignAmplifies,
    /// Another node is not told that an act was given up.
    WithdrawLost,
    /// Another node is not told that its message was accepted.
    VerdictLost,
    /// A process whose errand was at a node that is lost is not told.
    LossSilent,
    /// The queue of a port that moves is turned round.
    MovedQueueReversed,
    /// Rights that others hold to what moved are not kept for them.
    MovedExportLost,
    /// A process that moved counts its calls anew.
    MovedCallsForgotten,
    /// A timer that moved fires as soon as it is there.
    MovedTimerEarly,
    /// A table that moved forgets how often its free places were used.
    MovedTableForgotten,
    /// Who waits for room in a queue that moves is left behind.
    MovedSenderForgotten,
    /// Who waits for an answer of a process that moves is left behind.
    MovedCallerForgotten,
    /// What is said behind a process that comes is heeded before it.
    MovedOvertaken,
    /// A process that comes does not wait for what it was given at third nodes.
    MovedUnclaimed,
    /// Children that stay behind are not told of their parent's end.
    MovedChildForgotten,
    /// A node does not say that a right leads on from it.
    WayNeverSaid,
    /// The longer way is not given up when the shorter one is taken.
    WayKept,
    /// A way that has come home goes on through the node where it has been.
    WayNeverLands,
    /// A flush that is given up while it waits is answered like an act.
    WayFlushAnswered,
    /// A node does not say that an act is under way elsewhere.
    HandedNever,
    /// An act that was handed over is answered to the node between too.
    HandedTwice,
    /// Of an act that was given up while it was handed over, the node where it is is not told.
    HandedNotWithdrawn,
    /// An act that was being handed over is taken to be lost with the node between.
    HandedLost,
    /// That no more acts will be handed over from a node that is lost is heeded before those that were.
    HandedSettledEarly,
    /// What was handed over to a life that is over is waited for, from the next one.
    HandedToNextLife,
    /// A stand-in with several children is not seen to be left with one that is elsewhere.
    HandedByParentsNever,
    /// A stand-in is not seen to wait for what its own node does.
    HandedInwardNever,
    /// A process goes to whichever life of a node is known, and not to the one that expects it.
    DepartsToAnyLife,
}
