//! A whole system in one thread under one seed: the real kernel and the real services in a world whose order of events,
//! failures and clock follow from one number.
//!
//! The one idea: same seed, same history, to the last byte; so whatever goes wrong once can be seen again, and checkers that
//! hold for every order of events are worth running over many.
//!
//! ```text
//!   machine    the node and its world        bodies     model processes
//!   disk       a journal that tears          checkers   what must be true
//!   cluster    several nodes and their network
//!   runs       what one seed plays           torn       one service alone at a disk that tears
//!   scenario   small protocols as readable text        members    who is alive, in a network of many nodes
//!   durable    processes that outlive their nodes, and who looks at them
//! ```

pub mod bodies;
pub mod checkers;
pub mod cluster;
pub mod disk;
pub mod durable;
pub mod history;
pub mod machine;
pub mod members;
pub mod random;
pub mod runs;
pub mod scenario;
pub mod torn;
pub mod tree;
