#![no_std]
//! The language every part of una speaks.
