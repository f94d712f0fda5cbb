//! What several tests need: each module is one way to try the freezer, as plain functions that a test calls.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod chains;
pub mod fuzz;
pub mod random;
pub mod stops;
pub mod wast;
