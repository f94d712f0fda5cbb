//! System objects as pure state machines, each a process like any other: it receives messages, and everything it wants it
//! asks for by system calls. Nothing here knows the kernel, Linux, or another service: what a service may reach is what the
//! boot manifest put into its hands.
//!
//! The one idea: [`Service::step`] takes the time and one [`Input`] and appends system calls; [`host::Host`] turns that into
//! a process body, in the daemon and in the simulator alike.
//!
//! ```text
//!   boot       makes the ports, starts everything by the manifest, restarts what dies
//!   names      one tree of names                 ledger   what must survive, before it is acknowledged
//!   registrar  names of ports on all nodes
//!   programs   which programs the system knows   once     a call that is asked again is not done again
//!   files      the tree of files             members  who of the system is alive
//!   events     what happened, in one order     placement  where a process goes, and why
//!   location   where a process is          checkpoints  what is kept of one, and how many
//!   restarts   whether and when it is begun again     owner    whether the owner of a lent machine is at it
//!   durable    whose a process is that outlives its node, and what may be seen of it
//! ```
#![no_std]

extern crate alloc;

pub mod boot;
pub mod checkpoints;
pub mod durable;
pub mod events;
pub mod files;
pub mod host;
mod ledger;
pub mod location;
pub mod members;
pub mod names;
mod once;
pub mod owner;
pub mod placement;
pub mod planted;
pub mod programs;
pub mod registrar;
pub mod restarts;

use abi::call::{Outcome, SystemCall};
use abi::ids::{HandleId, Time};
use abi::message::Received;
use alloc::vec::Vec;

/// A process body that answers messages.
pub trait Service {
    /// Takes one input and appends system calls, which are made in their order, all before the next message is received.
    fn step(&mut self, now: Time, input: Input, calls: &mut Vec<SystemCall>);

    /// The port it receives from.
    fn port(&self) -> HandleId;

    /// Panics if an invariant does not hold.
    fn check(&self) {}
}

/// What a service is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// It begins.
    Begun,
    Received(Received),
    /// What one of its system calls gave, in their order.
    Outcome(Outcome),
}

/// The handles of a service as boot gives them: its own port, then its devices, then the ports it may send to, each in the
/// order of the manifest.
pub const OWN_PORT: HandleId = HandleId(1);
pub const FIRST_GRANT: HandleId = HandleId(2);

/// What a service that cannot go on exits with.
pub mod exit {
    /// The journal failed: nothing is known about what was not acknowledged. Beginning anew from the journal is safe.
    pub const JOURNAL_FAILED: u32 = 70;
    /// The journal lost or changed something that was acknowledged. Beginning anew does not help; a copy might.
    pub const JOURNAL_DAMAGED: u32 = 71;
    /// It was not given what the manifest should have given it.
    pub const MISPLACED: u32 = 72;
    /// A service died too often.
    pub const GAVE_UP: u32 = 73;
}
