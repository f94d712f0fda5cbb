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

/// How long a process runs while others are ready, in nanoseconds.
pub const SLICE_NS: u64 = 2_000_000;
/// How far before the present a process that wakes is put, at most, in nanoseconds of a process of normal weight.
pub const WAKING_CREDIT_NS: u64 = SLICE_NS;
/// What a turn costs at least: a process that stops at once pays for the change.
pub const TURN_NS_MIN: u64 = 200;
