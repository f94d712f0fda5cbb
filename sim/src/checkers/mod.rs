//! What must be true of the whole computer, checked from what processes saw. Each checker is shown to fail by bugs that are
//! planted on purpose: see `tests/planted.rs`.
//!
//! ```text
//!   model       rights are never amplified, doubled or lost; messages come once, in order; calls are done at most once and
//!               end as they are said to; notices come once; pipes keep their bytes
//!   watcher     queues keep their bounds, deadlines are met, nobody sleeps beside what they wait for, nobody starves
//!   durable     what is seen of a process that outlives its nodes is what one process does that never dies
//!   linear      answers about names fit one order in which each request took effect between being asked and answered
//! ```

pub mod durable;
pub mod linear;
pub mod model;
pub mod watcher;

/// What is wrong, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation(pub String);

/// `Err` with the formatted text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err($crate::checkers::Violation(format!($($text)*)));
        }
    };
}
pub(crate) use ensure;
