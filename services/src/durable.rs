//! Processes that outlive their nodes: who may go on with one, and what of it may be seen. Knows no coordinator, no disk, no process and no
//! clock; whoever has those asks here what they mean.
//!
//! ```text
//!   claims     whose a process is, who may take it from whom, and when whoever has it must stop
//!   tapes      what of a tape is needed still, and what may be shown when how much of it is safe
//! ```
//! Who asks what, in `daemon/src/system` (`lost`, `supervise`, `tape`) and in the run `durable` of the simulator:
//!
//! ```text
//!   lost::run                           claims::lost
//!   System::take_up, lease_is_over      claims::take_up, LeaseFact::over
//!   Inner::begin                        Claim::gone_on_with, begun_anew
//!   Inner::decide, renew                claims::whose, runs_until
//!   Inner::write_piece                  claims::refused_piece
//!   the simulator alone so far          tapes::Kept, tapes::Shows: the daemon's tape has the same in `Taping`
//! ```

pub mod claims;
pub mod planted;
pub mod tapes;
