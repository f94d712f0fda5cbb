#![no_std]
//! The language every part of una speaks.

extern crate alloc;

pub mod call;
pub mod clock;
pub mod device;
pub mod encoding;
pub mod errno;
pub mod file;
pub mod ids;
pub mod interface;
pub mod limits;
pub mod message;
pub mod process;
pub mod rights;
pub mod wasi;
