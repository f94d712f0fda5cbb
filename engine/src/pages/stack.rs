//! The stacks of fibers, which are used again. Knows nothing of what runs on them.

use super::linux::{PAGE, Reservation};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use wasmtime::{StackCreator, StackMemory};

/// Stacks that are kept for later.
const KEPT_MAX: usize = 1024;

/// What is kept of a stack's pages; what lies deeper is given back when a process ends.
const KEPT_BYTES: usize = 8 * PAGE;

/// The stacks of an engine that nobody uses.
#[derive(Default)]
pub struct Stacks {
    kept: Arc<Mutex<Vec<Reservation>>>,
}

struct Stack {
    /// A page without access, then the stack. There until it is dropped.
    reservation: Option<Reservation>,
    bytes: usize,
    home: Arc<Mutex<Vec<Reservation>>>,
}

// SAFETY: a stack is page-aligned, with a page below that cannot be accessed. A used one is not zero, which wasmtime asks for only by
// `zeroed`.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, bytes: usize, zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        let bytes = bytes.next_multiple_of(PAGE);
        // They are all of one size: an engine has one setting.
        let kept = match zeroed {
            true => None,
            false => self.kept.lock().expect("no code panics while it holds this lock").pop(),
        };
        let reservation = match kept.filter(|reservation| reservation.bytes() == bytes + PAGE) {
            Some(reservation) => reservation,
            None => {
                let reservation = Reservation::new(bytes + PAGE)?;
                reservation.allow(PAGE..PAGE + bytes)?;
                reservation
            }
        };
        Ok(Box::new(Stack { reservation: Some(reservation), bytes, home: self.kept.clone() }))
    }
}

impl Stack {
    fn base(&self) -> *mut u8 {
        self.reservation.as_ref().expect("it is there until this is dropped").base()
    }
}

// SAFETY: see the creator; the mapping lives as long as this.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        self.base().wrapping_add(PAGE + self.bytes)
    }

    fn range(&self) -> Range<usize> {
        let base = self.base() as usize;
        base + PAGE..base + PAGE + self.bytes
    }

    fn guard_range(&self) -> Range<*mut u8> {
        self.base()..self.base().wrapping_add(PAGE)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let Some(reservation) = self.reservation.take() else { return };
        if reservation.discard(PAGE..(PAGE + self.bytes).saturating_sub(KEPT_BYTES).max(PAGE)).is_err() {
            return;
        }
        let mut kept = self.home.lock().expect("no code panics while it holds this lock");
        if kept.len() < KEPT_MAX {
            kept.push(reservation);
        }
    }
}
