//! Bugs that are planted in the tree on purpose, to see that its tests find them. A build without the feature `planted`
//! contains none of them.

planted::bugs! {
    /// Renaming leaves the old name.
    RenameKeepsOld,
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
