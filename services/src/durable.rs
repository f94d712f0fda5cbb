//! Processes that outlive their nodes: who may go on with one, and what of it may be seen. Knows no coordinator, no disk, no process and no
//! clock; whoever has those asks here what they mean.
//!
//! ```text
//!   claims     whose a process is, who may take it from whom, and when whoever has it must stop
//!   tapes      what of a tape is needed still, and what may be shown when how much of it is safe
//! ```

pub mod claims;
pub mod planted;
pub mod tapes;
