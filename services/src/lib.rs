//! System objects as pure state machines.
#![no_std]
