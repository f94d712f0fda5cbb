//! What the files of the whole computer need of the other nodes. The wire gives it in the daemon, a network in memory in tests.

use abi::ids::NodeId;
use std::time::Instant;

/// Who is meant at the node that is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// The tree: answered by whoever holds it.
    Files,
    /// Content: answered by every node.
    Chunks,
    /// Checkpoints: answered by whoever holds the tree.
    Kept,
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unanswered {
    /// Nothing was done.
    #[error("{0}")]
    NotSent(String),
    /// It may have been done, or may still be.
    #[error("{0}")]
    Lost(String),
    /// Whoever was asked says that it was not done.
    #[error("{0}")]
    Refused(String),
}

/// The way to other nodes.
pub trait FilesNetwork: Send + Sync {
    /// Asks, and waits for the answer until the deadline. Bodies and answers have at most [`BODY_BYTES_MAX`].
    fn ask(&self, to: NodeId, service: Service, body: &[u8], deadline: Instant) -> Result<Vec<u8>, Unanswered>;
}

/// Bytes of one request or answer.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// The right to answer one request, from any thread, later.
pub type Reply = Box<dyn FnOnce(Result<Vec<u8>, String>) + Send>;
