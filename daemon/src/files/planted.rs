//! Bugs that are planted in the files of many nodes on purpose, to see that their tests find them. Without the feature `planted`
//! there are none.

planted::bugs! {
    /// Facts are written without a look at who holds the tree.
    NoFence,
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
    /// A checkpoint is recorded though not all of it is there.
    HalfACheckpoint,
    /// A new holder takes what only checkpoints need for what nobody needs.
    RemovesWhatIsKept,
}
