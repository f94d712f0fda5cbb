//! One node's microkernel as a pure state machine.
#![no_std]
