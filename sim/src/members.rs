//! Membership of many nodes in a network that one seed decides: loss, cuts one way and both ways, pauses, machines that lose power, come
//! back, join, leave and are removed. It knows no kernel: a node here is its [`Members`] and nothing else.
//!
//! The one idea: the network knows the truth (who is on, in which life, who can hear whom), so whatever a node tells about another is held
//! against it at that moment; and when all faults have ended, all must come to see the same.
//!
//! ```text
//!   world     nodes, network, clock: what happens       checkers  what must be true
//!   runs      what one seed plays                       flat      cost per node against the number of nodes
//! ```

pub mod checkers;
pub mod flat;
pub mod runs;
pub mod world;
