//! What happened, as processes saw it, and one number that stands for all of it.

use abi::call::{Outcome, SystemCall};
use abi::ids::{ProcessId, Time};
use std::fmt::{Debug, Write};

/// One thing that happened at the border between a process and the kernel.
#[derive(Clone, Debug)]
pub struct Record {
    pub step: u64,
    pub at: Time,
    pub process: ProcessId,
    pub seen: Seen,
}

#[derive(Clone, Debug)]
pub enum Seen {
    /// In the step of its parent's spawn; the first process has no parent.
    Born {
        parent: Option<ProcessId>,
    },
    Asked(SystemCall),
    Got(Outcome),
    Ended,
}

/// Everything that was hashed so far (FNV-1a over its text). Equal for equal runs; the way to see that a seed decides all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HistoryHash(u64);

impl Default for HistoryHash {
    fn default() -> HistoryHash {
        HistoryHash(0xcbf2_9ce4_8422_2325)
    }
}

impl HistoryHash {
    pub fn add(&mut self, thing: &impl Debug) {
        write!(self, "{thing:?};").expect("hashing does not fail");
    }

    pub fn value(self) -> u64 {
        self.0
    }
}

impl Write for HistoryHash {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        Ok(())
    }
}
