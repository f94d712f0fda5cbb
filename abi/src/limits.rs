//! What one process may use. Every table and queue has its bound, and each bound says what happens at it.

/// The processor share of a process for which nobody asked anything else.
pub const WEIGHT_NORMAL: u32 = 100;
pub const WEIGHT_MAX: u32 = 10_000;

/// The bounds of one process. At each of them the act that would pass it is refused with [`Limit`] saying which it was.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Limits {
    /// Handles in its table.
    pub handles_max: u32,
    /// Ports that it made and that still live.
    pub ports_max: u32,
    pub pipes_max: u32,
    /// Children that have not ended.
    pub children_max: u32,
    /// Watches and timers that are still to fire, and device work under way.
    pub watches_max: u32,
    /// Bytes of buffer promised to its ports and pipes, used or not.
    pub buffer_bytes_max: u64,
    /// Pages of 64 KiB of memory; the engine refuses more.
    pub memory_pages_max: u32,
}

impl Limits {
    pub const NORMAL: Limits = Limits {
        handles_max: 4096,
        ports_max: 1024,
        pipes_max: 1024,
        children_max: 1024,
        watches_max: 4096,
        buffer_bytes_max: 256 << 20,
        memory_pages_max: 65_536,
    };

    /// Whether none of these is wider than in `other`.
    pub fn within(&self, other: &Limits) -> bool {
        self.handles_max <= other.handles_max
            && self.ports_max <= other.ports_max
            && self.pipes_max <= other.pipes_max
            && self.children_max <= other.children_max
            && self.watches_max <= other.watches_max
            && self.buffer_bytes_max <= other.buffer_bytes_max
            && self.memory_pages_max <= other.memory_pages_max
    }
}

/// The bound that was hit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Limit {
    /// The process's table of handles: close some.
    Handles,
    Ports,
    Pipes,
    Children,
    Watches,
    BufferBytes,
    /// The child's limits would be wider than the parent's.
    Wider,
    /// Notices still to come to one port.
    Notices,
    /// All processes of the node.
    NodeProcesses,
    NodePorts,
    NodePipes,
    NodeCalls,
    NodeWatches,
    /// Receiving ends of ports that lie in messages nobody has taken yet.
    NodeReceiversInTransit,
    /// Handles to objects of other nodes.
    NodeForeign,
    /// What processes of this node ask of another one and do not know the end of.
    NodeErrands,
}
