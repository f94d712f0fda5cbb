//! Processes that outlive their nodes: who may go on with one, and what of it may be seen. Knows no coordinator, no disk, no process and no
//! clock; whoever has those asks here what they mean.
//!
//! ```text
//!   claims     whose a process is, who may take it from whom, and when whoever has it must stop
//!   tapes      what of a tape is needed still, and what may be shown when how much of it is safe
//! ```
//! `daemon/src/system` decides the same in `supervise`, `lost` and `tape`, beside what it does about it. Which of its functions are to ask which of these:
//!
//! ```text
//!   lost::run, have_taken_up            claims::lost, whom
//!   System::take_up, lease_is_over      claims::take_up, LeaseFact::over
//!   Inner::begin                        Claim::gone_on_with, begun_anew
//!   Inner::decide, renew                claims::whose, runs_until
//!   Inner::write_piece                  claims::refused_piece
//!   Taping::needs_from, write_tape      tapes::Kept, tapes::Shows
//! ```

pub mod claims;
pub mod planted;
pub mod tapes;
