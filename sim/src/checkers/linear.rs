//! Whether answers fit one order: linearizability, by the search of Wing and Gong with Lowe's memory of what was tried.
//! It knows nothing of names: it is given a state machine.
//!
//! The one idea: an operation took effect at one moment between being asked and being answered. Try, as the next in the
//! order, each operation that was asked before the earliest answer among those that are left; what was tried is known by the
//! set of operations done and the state they led to. An operation that nobody knows the end of took effect before its limit
//! (the crash that ended it), or never.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What operations do to the state that they are about.
pub trait Sequential: Clone + Eq + Hash {
    type Request;
    type Answer: PartialEq;

    fn apply(&mut self, request: &Self::Request) -> Self::Answer;
}

/// One operation. Moments are numbers that no two events share.
#[derive(Clone, Debug)]
pub struct Operation<R, A> {
    pub request: R,
    pub asked: u64,
    pub end: End<A>,
}

#[derive(Clone, Debug)]
pub enum End<A> {
    Answered {
        at: u64,
        answer: A,
    },
    /// Nobody knows; if it took effect then before this moment.
    Unknown {
        limit: u64,
    },
}

/// The most operations of one history: those done are a set of bits.
pub const OPERATIONS_MAX: usize = 128;
/// The most states tried; then the search gives up.
const TRIED_MAX: usize = 500_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Linearizable,
    NotLinearizable,
    /// Too many orders to try: nothing was shown.
    TooHard,
}

/// Whether there is an order in which this state machine gives these answers.
pub fn check<S: Sequential>(initial: S, operations: &[Operation<S::Request, S::Answer>]) -> Verdict {
    assert!(operations.len() <= OPERATIONS_MAX, "a history is longer than its bound");
    let answered = operations.iter().enumerate().filter(|(_, operation)| matches!(operation.end, End::Answered { .. }));
    let goal = answered.fold(0u128, |set, (index, _)| set | 1 << index);
    let mut tried = HashSet::new();
    let mut open = vec![(0u128, initial)];
    while let Some((done, state)) = open.pop() {
        if done & goal == goal {
            return Verdict::Linearizable;
        }
        if tried.len() > TRIED_MAX {
            return Verdict::TooHard;
        }
        let left = |index: &usize| done & 1 << index == 0;
        let answers = (0..operations.len()).filter(left).filter_map(|index| match operations[index].end {
            End::Answered { at, .. } => Some(at),
            End::Unknown { .. } => None,
        });
        let first_answer = answers.min().unwrap_or(u64::MAX);
        let last_asked =
            (0..operations.len()).filter(|index| !left(index)).map(|index| operations[index].asked).max().unwrap_or(0);
        for index in (0..operations.len()).filter(left) {
            let operation = &operations[index];
            if operation.asked > first_answer {
                continue;
            }
            let mut next = state.clone();
            let answer = next.apply(&operation.request);
            let fits = match &operation.end {
                End::Answered { answer: expected, .. } => answer == *expected,
                End::Unknown { limit } => last_asked < *limit,
            };
            if fits {
                let done = done | 1 << index;
                // States can be long; that two of half a million share 64 bits of hash does not happen.
                if tried.insert((done, hash_of(&next))) {
                    open.push((done, next));
                }
            }
        }
    }
    Verdict::NotLinearizable
}

fn hash_of(state: &impl Hash) -> u64 {
    // Its keys are fixed: the search is the same each time.
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register: the known histories of the literature are about this.
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Register(u32);

    #[derive(Clone, Debug)]
    enum Act {
        Read,
        Write(u32),
        /// If it holds the first, put the second; the answer says whether.
        Swap(u32, u32),
    }

    impl Sequential for Register {
        type Request = Act;
        type Answer = u32;

        fn apply(&mut self, act: &Act) -> u32 {
            match *act {
                Act::Read => self.0,
                Act::Write(value) => {
                    self.0 = value;
                    0
                }
                Act::Swap(old, new) if self.0 == old => {
                    self.0 = new;
                    1
                }
                Act::Swap(..) => 0,
            }
        }
    }

    fn op(request: Act, asked: u64, at: u64, answer: u32) -> Operation<Act, u32> {
        Operation { request, asked, end: End::Answered { at, answer } }
    }

    fn lost(request: Act, asked: u64, limit: u64) -> Operation<Act, u32> {
        Operation { request, asked, end: End::Unknown { limit } }
    }

    #[track_caller]
    fn expect(operations: &[Operation<Act, u32>], verdict: Verdict) {
        assert_eq!(check(Register(0), operations), verdict);
    }

    #[test]
    fn good_histories_pass() {
        use Act::*;
        expect(&[], Verdict::Linearizable);
        expect(&[op(Write(1), 1, 2, 0), op(Read, 3, 4, 1)], Verdict::Linearizable);
        // A read beside a write may see the old or the new.
        expect(&[op(Write(1), 1, 4, 0), op(Read, 2, 3, 0)], Verdict::Linearizable);
        expect(&[op(Write(1), 1, 4, 0), op(Read, 2, 3, 1)], Verdict::Linearizable);
        // A lost write may have taken effect, late, or never.
        expect(&[lost(Write(1), 1, 10), op(Read, 2, 3, 0), op(Read, 4, 5, 1)], Verdict::Linearizable);
        expect(&[lost(Write(1), 1, 10), op(Read, 11, 12, 0)], Verdict::Linearizable);
        expect(&[op(Swap(0, 1), 1, 6, 1), op(Swap(1, 2), 2, 5, 1), op(Read, 7, 8, 2)], Verdict::Linearizable);
    }

    #[test]
    fn bad_histories_are_found() {
        use Act::*;
        // A stale read after the write was answered.
        expect(&[op(Write(1), 1, 2, 0), op(Read, 3, 4, 0)], Verdict::NotLinearizable);
        // New, then old again.
        expect(&[op(Write(1), 1, 10, 0), op(Read, 2, 3, 1), op(Read, 4, 5, 0)], Verdict::NotLinearizable);
        // What nobody wrote.
        expect(&[op(Write(1), 1, 2, 0), op(Read, 3, 4, 7)], Verdict::NotLinearizable);
        // Two winners of one swap.
        expect(&[op(Swap(0, 1), 1, 4, 1), op(Swap(0, 2), 2, 3, 1)], Verdict::NotLinearizable);
        // A lost write that takes effect after the crash that ended it.
        expect(&[lost(Write(1), 1, 5), op(Read, 6, 7, 0), op(Read, 8, 9, 1)], Verdict::NotLinearizable);
        // Two readers that disagree about the order of two writes.
        let writes = [op(Write(1), 1, 2, 0), op(Write(2), 3, 4, 0)];
        let reads = [op(Read, 5, 6, 2), op(Read, 7, 8, 1)];
        expect(&[&writes[..], &reads[..]].concat(), Verdict::NotLinearizable);
        // An acknowledged write is gone.
        expect(&[op(Write(1), 1, 2, 0), op(Write(2), 3, 4, 0), op(Read, 5, 6, 1)], Verdict::NotLinearizable);
    }
}
