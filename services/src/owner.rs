//! Whether the owner of a machine is at it, for a node that lends what its owner does not need. Knows no terminal and no clock: what was
//! seen of the machine comes in with the time, a judgement comes out.
//!
//! The one idea: an owner who returns must not wait, and one who thinks for a minute must not find strangers at the desk. So a sign of
//! them is believed at once, and their going only after a time without any; and each look says what happened *since the last one*, so
//! that it does not matter whether a clock on the wall is right, nor how long nobody looked.
//!
//! ```text
//!            a sign                                    no sign for `quiet_ns`
//!   Away ─────────────► Here (quiet since then) ───────────────────────────────► Away
//!   a sign: input; or work of others than una, more than a part of the machine, for [`BUSY_NS`]
//! ```
//! Work counts as the owner does: whatever a machine computes for its owner comes before what it computes for others.

use abi::ids::Time;
use core::fmt;

/// Work that lasts for less is nobody's: machines do something now and then.
pub const BUSY_NS: u64 = 1_000_000_000;
/// So much of the machine must be busy for somebody to have come back, in hundredths of a processor for each processor; half of it keeps
/// them there.
const BUSY_PART: u32 = 10;
/// On a small machine, less than half of a processor is no sign.
const BUSY_MIN: u32 = 50;

/// What was seen since the last look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Look {
    pub input: Option<Input>,
    /// Processors, in hundredths, that were busy with others than una.
    pub load_hundredths: u32,
}

/// Somebody did something with their hands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// At a terminal, here or over the network.
    Terminal,
    /// With a keyboard, a mouse or the like.
    Hand,
}

/// Why the owner is taken to be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sign {
    /// Nobody has looked for long enough to say anything else.
    Unknown,
    Input(Input),
    /// So many processors are busy with others than una, in hundredths.
    Busy(u32),
}

/// What is known of the machine and wanted by its owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// So long without a sign is away.
    pub quiet_ns: u64,
    pub processors: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Returned(Sign),
    Left,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Here { since: Time, quiet_since: Time, sign: Sign },
    Away { since: Time },
}

/// Invariants: no time in it is later than `looked`; `busy_ns` is less than [`BUSY_NS`] while the owner is away.
#[derive(Clone, Debug)]
pub struct Owner {
    state: State,
    looked: Time,
    /// For so long the machine has been busy.
    busy_ns: u64,
}

impl Owner {
    /// Until something else is known, the owner is there.
    pub fn new(now: Time) -> Owner {
        Owner { state: State::Here { since: now, quiet_since: now, sign: Sign::Unknown }, looked: now, busy_ns: 0 }
    }

    pub fn is_here(&self) -> bool {
        matches!(self.state, State::Here { .. })
    }

    /// Since when it is so.
    pub fn since(&self) -> Time {
        match self.state {
            State::Here { since, .. } | State::Away { since } => since,
        }
    }

    /// Why the owner is taken to be there, and when that was last so.
    pub fn sign(&self) -> Option<(Sign, Time)> {
        match self.state {
            State::Here { sign, quiet_since, .. } => Some((sign, quiet_since)),
            State::Away { .. } => None,
        }
    }

    /// Takes one look, and says if it changes anything.
    pub fn look(&mut self, now: Time, look: Look, terms: Terms) -> Option<Change> {
        let passed = now.since(self.looked);
        self.looked = now;
        let returns = BUSY_MIN.max(BUSY_PART.saturating_mul(terms.processors));
        let busy = if self.is_here() { returns / 2 } else { returns };
        self.busy_ns = if look.load_hundredths >= busy { self.busy_ns.saturating_add(passed) } else { 0 };
        let sign = match look.input {
            Some(input) => Some(Sign::Input(input)),
            None if self.busy_ns >= BUSY_NS => Some(Sign::Busy(look.load_hundredths)),
            None => None,
        };
        match (&mut self.state, sign) {
            (State::Here { quiet_since, sign: last, .. }, Some(sign)) => {
                (*quiet_since, *last) = (now, sign);
                None
            }
            (State::Here { quiet_since, .. }, None) if now.since(*quiet_since) >= terms.quiet_ns => {
                (self.state, self.busy_ns) = (State::Away { since: now }, 0);
                Some(Change::Left)
            }
            (State::Away { .. }, Some(sign)) => {
                self.state = State::Here { since: now, quiet_since: now, sign };
                Some(Change::Returned(sign))
            }
            (State::Here { .. } | State::Away { .. }, None) => None,
        }
    }

    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        let latest = match self.state {
            State::Here { since, quiet_since, .. } => since.max(quiet_since),
            State::Away { since } => since,
        };
        assert!(latest <= self.looked, "nothing is known of what comes");
        assert!(self.is_here() || self.busy_ns < BUSY_NS, "a machine that is busy for so long has its owner back");
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Sign::Unknown => f.write_str("nobody has looked for long enough"),
            Sign::Input(Input::Terminal) => f.write_str("somebody types at a terminal"),
            Sign::Input(Input::Hand) => f.write_str("a keyboard or a mouse is used"),
            Sign::Busy(load) => write!(f, "{}.{:02} processors are busy with its own work", load / 100, load % 100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const SECOND: u64 = 1_000_000_000;
    const TERMS: Terms = Terms { quiet_ns: 60 * SECOND, processors: 4 };
    const NOTHING: Look = Look { input: None, load_hundredths: 0 };
    const TYPED: Look = Look { input: Some(Input::Terminal), load_hundredths: 0 };

    fn busy(load_hundredths: u32) -> Look {
        Look { load_hundredths, ..NOTHING }
    }

    /// A machine in virtual time, that is looked at four times a second.
    struct Machine {
        now: u64,
        owner: Owner,
    }

    impl Machine {
        fn new() -> Machine {
            Machine { now: 5 * SECOND, owner: Owner::new(Time(5 * SECOND)) }
        }

        fn after(&mut self, ns: u64, look: Look) -> Option<Change> {
            self.now += ns;
            let change = self.owner.look(Time(self.now), look, TERMS);
            self.owner.check();
            change
        }

        /// The same look for so long; gives the first change, and after how many milliseconds it came.
        fn during(&mut self, ms: u64, look: Look) -> Option<(Change, u64)> {
            let steps = ms / 250;
            (1..=steps).find_map(|step| self.after(SECOND / 4, look).map(|change| (change, step * 250)))
        }

        fn away() -> Machine {
            let mut machine = Machine::new();
            assert_eq!(machine.during(61_000, NOTHING), Some((Change::Left, 60_000)));
            machine
        }
    }

    #[test]
    fn whoever_is_not_known_to_be_away_is_there() {
        let mut machine = Machine::new();
        assert!(machine.owner.is_here());
        assert_eq!(machine.during(59_750, NOTHING), None);
        assert_eq!(machine.owner.sign(), Some((Sign::Unknown, Time(5 * SECOND))));
        assert_eq!(machine.during(1_000, NOTHING), Some((Change::Left, 250)));
        assert!(!machine.owner.is_here());
    }

    #[test]
    fn input_is_believed_at_once_and_its_absence_after_a_while() {
        let mut machine = Machine::away();
        let typed = Sign::Input(Input::Terminal);
        assert_eq!(machine.after(SECOND / 4, TYPED), Some(Change::Returned(typed)));
        // One key a minute is somebody who reads.
        for _ in 0..10 {
            assert_eq!(machine.during(59_000, NOTHING), None);
            assert_eq!(machine.after(SECOND / 4, TYPED), None);
        }
        assert_eq!(machine.during(70_000, NOTHING), Some((Change::Left, 60_000)));
    }

    #[test]
    fn work_counts_if_it_lasts() {
        let mut machine = Machine::away();
        // Four processors: 40 hundredths would be a tenth of them, and half of one is the least that counts.
        assert_eq!(machine.during(600_000, busy(49)), None);
        for _ in 0..50 {
            assert_eq!(machine.during(750, busy(400)), None);
            assert_eq!(machine.during(250, busy(0)), None);
        }
        assert_eq!(machine.during(5_000, busy(50)), Some((Change::Returned(Sign::Busy(50)), 1_000)));
        // Half of what brought them back keeps them there.
        assert_eq!(machine.during(600_000, busy(25)), None);
        assert_eq!(machine.during(70_000, busy(24)), Some((Change::Left, 60_000)));
        assert_eq!(machine.during(600_000, busy(49)), None);
    }

    #[test]
    fn a_large_machine_is_not_busy_with_little() {
        let terms = Terms { processors: 64, ..TERMS };
        let mut owner = Owner::new(Time(1));
        assert_eq!(owner.look(Time(90 * SECOND), NOTHING, terms), Some(Change::Left));
        assert_eq!(owner.look(Time(95 * SECOND), busy(639), terms), None);
        assert_eq!(owner.look(Time(99 * SECOND), busy(640), terms), Some(Change::Returned(Sign::Busy(640))));
    }

    /// A machine that slept, or a node that was held: what a look says is of all the time since the last one.
    #[test]
    fn a_long_time_without_a_look_is_judged_by_what_happened_in_it() {
        let mut machine = Machine::away();
        assert_eq!(machine.after(3600 * SECOND, TYPED), Some(Change::Returned(Sign::Input(Input::Terminal))));
        assert_eq!(machine.after(3600 * SECOND, TYPED), None, "somebody was there meanwhile");
        assert_eq!(machine.after(3600 * SECOND, NOTHING), Some(Change::Left));
    }

    #[test]
    fn signs_are_told_in_words() {
        assert_eq!(Sign::Busy(205).to_string(), "2.05 processors are busy with its own work");
        assert_eq!(Sign::Input(Input::Hand).to_string(), "a keyboard or a mouse is used");
    }

    /// Whatever is seen when: nobody returns without a sign, and nobody is away sooner than they wanted.
    #[test]
    fn no_history_breaks_the_two_promises() {
        let mut luck = 11u64;
        let mut below = |bound: u64| {
            luck = luck.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (luck >> 33) % bound
        };
        for _ in 0..200 {
            let mut machine = Machine::new();
            let mut last_input = machine.now;
            for _ in 0..400 {
                let input = (below(20) == 0).then_some(Input::Hand);
                let load_hundredths = [0, 10, 30, 60, 400][below(5) as usize];
                let change = machine.after(below(20 * SECOND), Look { input, load_hundredths });
                if input.is_some() {
                    assert!(machine.owner.is_here(), "a hand was overlooked");
                    last_input = machine.now;
                }
                match change {
                    Some(Change::Left) => assert!(machine.now - last_input >= TERMS.quiet_ns),
                    Some(Change::Returned(Sign::Busy(load))) => assert!(input.is_none() && load >= 50),
                    Some(Change::Returned(Sign::Input(_))) => assert!(input.is_some()),
                    Some(Change::Returned(Sign::Unknown)) => panic!("nobody returns for no reason"),
                    None => {}
                }
            }
        }
    }
}
