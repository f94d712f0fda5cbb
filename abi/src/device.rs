//! What a process may ask of the node's devices. This file knows nothing of files or disks.
//!
//! The one idea: a journal is bytes that only grow, and a border in them: what lies before the border survives anything,
//! what lies behind it may be lost or damaged by a crash, in any part.

use crate::message::Bytes;

/// The most bytes of one append.
pub const APPEND_BYTES_MAX: usize = 1 << 20;

/// Work for a journal. Work on one journal is done in the order in which it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JournalWork {
    /// Gives the whole content.
    Load,
    /// Adds bytes behind the end.
    Append(Bytes),
    /// Moves the border to the end: all that was appended before this is safe once this is answered.
    Flush,
    /// Puts this content in the place of all content, in one step and safely: after a crash it is either the old or the
    /// new, whole.
    Replace(Bytes),
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JournalResult {
    Loaded(Bytes),
    Appended,
    Flushed,
    Replaced,
    Failed(JournalFailure),
}

/// After any failure nothing is known about what lies behind the border: load again, or stop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum JournalFailure {
    Full,
    /// The device said that it could not.
    Broken,
}
