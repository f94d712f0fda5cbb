//! Bugs to be switched on one at a time, so that a test can show that the suite catches each. Without the feature `planted` none
//! can be: every question is answered at compile time, with no.

use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The last live value of each point is not saved.
    LiveValueDropped,
    /// Two values of one type are loaded from each other's place.
    LoadedInWrongOrder,
    /// Loops inside of other blocks do not poll.
    NestedPollMissing,
    /// Function entries that break cycles of calls do not poll.
    EntryPollMissing,
    /// After a call, nobody asks whether the stack is being unwound.
    CheckAfterCallMissing,
    /// Tables that the program writes to are not part of the state.
    TableWritesLost,
    /// Globals are not part of the state.
    GlobalsLost,
    /// A dropped data segment is there again.
    DroppedDataBack,
    /// A dropped element segment is there again.
    DroppedElementsBack,
    /// A continuation takes one word too many for its frame.
    FrameTooLarge,
    /// Half of a vector is saved.
    HalfVector,
    /// A function reference is loaded from the slot before its own.
    WrongReferenceSlot,
    /// The topmost entry below a call is not put into its slot.
    WaterTooHigh,
    /// A peeled loop that ends goes on with another round.
    PeeledLoopGoesOn,
    /// The first value of an exception's payload is lost.
    PayloadLost,
    /// A last call gets no frame although handlers are around it.
    FrameLeftOut,
    /// A copy of a local below a loop that assigns the local counts as one in later rounds.
    StaleCopy,
    /// What only the handlers of a call use counts as dead.
    HandlersForgotten,
    /// A call through a table is held not to unwind.
    IndirectCallsTrusted,
    /// The last piece of a memory is left out of the image.
    LastPieceLost,
    /// The first argument of a host call that is issued again is another.
    HostArgumentChanged,
    /// Values that several points store alike are not stored with the values of one alone.
    SharedPartLeftOut,
    /// A function that is to begin with an inner loop begins with the outermost.
    WrongLoopEntered,
    /// A continuation calls the function before the one it means.
    WrongFunctionDispatched,
}

impl Bug {
    pub const ALL: [Bug; 24] = [
        Bug::LiveValueDropped,
        Bug::LoadedInWrongOrder,
        Bug::NestedPollMissing,
        Bug::EntryPollMissing,
        Bug::CheckAfterCallMissing,
        Bug::TableWritesLost,
        Bug::GlobalsLost,
        Bug::DroppedDataBack,
        Bug::DroppedElementsBack,
        Bug::FrameTooLarge,
        Bug::HalfVector,
        Bug::WrongReferenceSlot,
        Bug::WaterTooHigh,
        Bug::PeeledLoopGoesOn,
        Bug::PayloadLost,
        Bug::FrameLeftOut,
        Bug::StaleCopy,
        Bug::HandlersForgotten,
        Bug::IndirectCallsTrusted,
        Bug::LastPieceLost,
        Bug::HostArgumentChanged,
        Bug::SharedPartLeftOut,
        Bug::WrongLoopEntered,
        Bug::WrongFunctionDispatched,
    ];
}

/// The bug that is switched on, from 1; for all threads, since functions are rewritten in parallel.
static PLANTED: AtomicUsize = AtomicUsize::new(0);

/// Switches one bug on, and all others off.
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as usize + 1), Ordering::SeqCst);
}

/// Is this bug switched on?
#[inline(always)]
pub(crate) fn planted(bug: Bug) -> bool {
    cfg!(feature = "planted") && PLANTED.load(Ordering::Relaxed) == bug as usize + 1
}
