//! Model processes: small programs that do what real ones might, each a state machine that follows from its seed.

pub mod actor;
pub mod client;
pub mod spinner;
