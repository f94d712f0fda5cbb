//! What becomes of a process that ended, if somebody wanted it to run: it is begun again, later if it often ends, or given up. Knows no
//! process and no clock.
//!
//! The one idea: a process that ran steadily for a while has earned a new start at once; one that ends again and again is begun more and
//! more seldom, and not for ever.

/// When a process is begun again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Policy {
    #[default]
    No,
    /// Unless it said itself that all went well.
    OnFailure,
    /// Whatever it said.
    Always,
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ending {
    Exited(u32),
    /// It broke a rule, or was refused something that it cannot do without.
    Failed,
    /// Somebody wanted it to end.
    Killed,
    /// Its node was lost, and it with it.
    Lost,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    Over,
    /// It is begun again after this time; that is so many times in a row.
    Again {
        after_ms: u64,
        in_a_row: u32,
    },
    /// It ended too often.
    GivenUp,
}

/// Before the second start in a row; each further one waits twice as long.
pub const PAUSE_MS: u64 = 100;
pub const PAUSE_MS_MAX: u64 = 30_000;
/// Whoever ran for so long begins a new row.
pub const STEADY_MS: u64 = 60_000;
/// Starts in a row.
pub const STARTS_MAX: u32 = 16;

/// `in_a_row`: how often it was begun again since it last ran steadily.
pub fn after(policy: Policy, ending: Ending, ran_ms: u64, in_a_row: u32) -> Verdict {
    let again = match (policy, ending) {
        (Policy::No, _) | (_, Ending::Killed) => false,
        // It was not its fault: its node was lost.
        (_, Ending::Lost) => return Verdict::Again { after_ms: 0, in_a_row },
        (Policy::OnFailure, Ending::Exited(code)) => code != 0,
        (Policy::OnFailure, Ending::Failed) | (Policy::Always, _) => true,
    };
    let in_a_row = if ran_ms >= STEADY_MS { 0 } else { in_a_row };
    match in_a_row {
        _ if !again => Verdict::Over,
        STARTS_MAX.. => Verdict::GivenUp,
        0 => Verdict::Again { after_ms: 0, in_a_row: 1 },
        before => {
            let after_ms = PAUSE_MS.saturating_mul(1 << (before - 1)).min(PAUSE_MS_MAX);
            Verdict::Again { after_ms, in_a_row: before + 1 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn who_is_begun_again() {
        let at_once = Verdict::Again { after_ms: 0, in_a_row: 1 };
        for (policy, ending, verdict) in [
            (Policy::No, Ending::Failed, Verdict::Over),
            (Policy::No, Ending::Lost, Verdict::Over),
            (Policy::OnFailure, Ending::Exited(0), Verdict::Over),
            (Policy::OnFailure, Ending::Exited(3), at_once),
            (Policy::OnFailure, Ending::Failed, at_once),
            (Policy::OnFailure, Ending::Killed, Verdict::Over),
            (Policy::OnFailure, Ending::Lost, Verdict::Again { after_ms: 0, in_a_row: 0 }),
            (Policy::Always, Ending::Exited(0), at_once),
            (Policy::Always, Ending::Killed, Verdict::Over),
        ] {
            assert_eq!(after(policy, ending, 0, 0), verdict, "{policy:?} {ending:?}");
        }
    }

    #[test]
    fn pauses_grow_and_end() {
        let mut pauses = vec![];
        let mut in_a_row = 0;
        while let Verdict::Again { after_ms, in_a_row: now } = after(Policy::Always, Ending::Failed, 5, in_a_row) {
            pauses.push(after_ms);
            in_a_row = now;
        }
        assert_eq!(pauses[..5], [0, 100, 200, 400, 800]);
        assert_eq!((pauses.len(), *pauses.last().unwrap()), (STARTS_MAX as usize, PAUSE_MS_MAX));
        assert_eq!(after(Policy::Always, Ending::Failed, 5, STARTS_MAX), Verdict::GivenUp);
        // Steady for a while: a new row.
        let anew = Verdict::Again { after_ms: 0, in_a_row: 1 };
        assert_eq!(after(Policy::Always, Ending::Failed, STEADY_MS, STARTS_MAX), anew);
        // Whatever happens to its node is not counted.
        let lost = Verdict::Again { after_ms: 0, in_a_row: 9 };
        assert_eq!(after(Policy::Always, Ending::Lost, 0, 9), lost);
    }
}
