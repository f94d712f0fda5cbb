//! Bugs that are planted in the tree on purpose, to see that its tests find them. A build without the feature `planted`
//! contains none of them.

/// One mistake that somebody could have made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Bug {
    /// Renaming leaves the old name.
    RenameKeepsOld = 1,
    /// What a rename replaces keeps its record, though it has no name any more.
    ReplacedIsKept,
    /// A directory can be moved below itself.
    RenameIntoItself,
    /// An open file loses its content with its last name.
    UnlinkEmptiesOpen,
    /// A change of names records the size that the file has now, before its content is recorded.
    SizeBeforeContent,
    /// A page that was written to while it was being stored counts as stored.
    FlushCoversLater,
    /// Pages that were cut off stay in the records.
    CutNotRecorded,
    /// Cutting a file in the middle of a page leaves what was behind the cut.
    CutKeepsTail,
    /// `..` in the content of a link is not counted.
    LinkEscapes,
    /// Taking a change back leaves the names as they are.
    UndoForgetsNames,
    /// What was seen does not count as seen before it is safe.
    SeenTooEarly,
    /// Numbers of inodes are given anew after a restart.
    InodesReused,
    /// A chunk counts as unused while the records on the disk still need it.
    ChunkUnusedTooEarly,
    /// A snapshot is recorded though what it rested on was taken back.
    CaptureOutlivesUndo,
    /// An open file without a name is not found by who comes back after a restart.
    OpenIsNotKept,
}

impl Bug {
    pub const ALL: [Bug; 15] = [
        Bug::RenameKeepsOld,
        Bug::ReplacedIsKept,
        Bug::RenameIntoItself,
        Bug::UnlinkEmptiesOpen,
        Bug::SizeBeforeContent,
        Bug::FlushCoversLater,
        Bug::CutNotRecorded,
        Bug::CutKeepsTail,
        Bug::LinkEscapes,
        Bug::UndoForgetsNames,
        Bug::SeenTooEarly,
        Bug::InodesReused,
        Bug::ChunkUnusedTooEarly,
        Bug::CaptureOutlivesUndo,
        Bug::OpenIsNotKept,
    ];
}

#[cfg(feature = "planted")]
mod chosen {
    use super::Bug;
    use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

    static CHOSEN: AtomicU8 = AtomicU8::new(0);

    /// Plants one bug, or none, in all trees of this operating-system process.
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
