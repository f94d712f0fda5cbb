//! The bounds of one node's kernel. What one process may use is in `abi::limits`; here is what all of them may use
//! together. Each bound says what happens at it.

/// Processes that run, or that ended and to which somebody holds a handle. Then: `Limit::NodeProcesses`.
pub const PROCESSES_MAX: u32 = 1 << 20;
/// Then: `Limit::NodePorts`.
pub const PORTS_MAX: u32 = 1 << 20;
/// Then: `Limit::NodePipes`.
pub const PIPES_MAX: u32 = 1 << 20;
/// Calls that somebody waits for or that a server has not answered yet. Then: `Limit::NodeCalls`.
pub const CALLS_MAX: u32 = 1 << 21;
/// Then: `Limit::NodeWatches`.
pub const WATCHES_MAX: u32 = 1 << 21;

/// The longest queue of one port. Then: `CreateError::Options`.
pub const PORT_MESSAGES_MAX: u32 = 1 << 16;
/// The most bytes in the queue of one port. Then: `CreateError::Options`.
pub const PORT_BYTES_MAX: u32 = 16 << 20;
/// Notices promised by one port and not yet taken. Then: `Limit::Notices`.
pub const PORT_NOTICES_MAX: u32 = 1 << 14;
/// The most bytes in one pipe. Then: `CreateError::Options`.
pub const PIPE_BYTES_MAX: u32 = 16 << 20;
/// Receiving ends of ports that lie in queues. Then unreachable ones are looked for, and if that frees none:
/// `Limit::NodeReceiversInTransit`.
pub const RECEIVERS_IN_TRANSIT_MAX: u32 = 1 << 12;

/// Handles to objects of other nodes, and rights that other nodes hold here, for each of them. Then: `Limit::NodeForeign`.
pub const FOREIGN_MAX: u32 = 1 << 18;
/// What processes ask of other nodes and do not know the end of. Then: `Limit::NodeErrands`.
pub const ERRANDS_MAX: u32 = 1 << 18;
/// Bytes that wait to be sent to another node. Then what cannot wait is refused as by a full queue; who can wait adds to them at most the
/// one message that it waits for.
pub const SESSION_BYTES_MAX: usize = 8 << 20;
/// The most bytes that a process takes along when it moves, beside its memory. Then: `DepartError::TooMuch`.
pub const TRANSFER_BYTES_MAX: usize = 64 << 20;
/// Departures that failed and of which a node is told again in its next life. Then the oldest are forgotten.
pub const FORGONE_MAX: usize = 64;
/// Packets on their way to another node and not acknowledged. Then the next ones wait.
pub const WINDOW_PACKETS: usize = 256;
/// The most bytes of one packet: every class of the wire takes it.
pub const PACKET_BYTES_MAX: usize = 48 << 10;
/// How long an acknowledgement waits for something to go along with, in nanoseconds.
pub const ACKNOWLEDGE_NS: u64 = 5_000_000;
/// After how many packets it does not wait any more.
pub const ACKNOWLEDGE_PACKETS: u32 = 32;
/// After how long a packet that was not acknowledged is sent again, at first and at most, in nanoseconds; it doubles in between.
pub const RESEND_NS_MIN: u64 = 100_000_000;
pub const RESEND_NS_MAX: u64 = 2_000_000_000;
/// How many are sent again at once.
pub const RESEND_PACKETS: usize = 32;
/// How long a process whose wait at another node is over still waits for word of how it ended, in nanoseconds.
pub const VERDICT_NS: u64 = 200_000_000;

/// How long a process runs while others are ready, in nanoseconds.
pub const SLICE_NS: u64 = 2_000_000;
/// How far before the present a process that wakes is put, at most, in nanoseconds of a process of normal weight.
pub const WAKING_CREDIT_NS: u64 = SLICE_NS;
/// What a turn costs at least: a process that stops at once pays for the change.
pub const TURN_NS_MIN: u64 = 200;
