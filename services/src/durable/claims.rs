//! Whose a process is that somebody looks after. Knows no coordinator: it is told what is written there, and says what that allows.
//!
//! The one idea: of all incarnations of a process that may run somewhere, the one counts that its *claim* names. Whoever goes on with it
//! writes the next incarnation, comparing that the claim is the one that it has seen. So two can never both succeed, and whatever an old
//! one does that compares its claim comes to nothing. What an old one does *at once* is compared with nothing; so for a process that has
//! effects at once its node must be known to have stopped it, by its lease, before the next one begins.
//!
//! ```text
//!   claim (incarnation 3, at n1 in its life 5), revision 17
//!     n1 is silent, and it is durable ──► compare: the claim is of revision 17
//!     n1's lease is over              ──► compare: the claim is of revision 17, and there is no lease of that life still
//!     n1 hands it over                ──► compare: the claim is of revision 17
//!                                           └──► claim (incarnation 4, at n2 in its life 2)
//!   lease:  asked for ├──────────── it may run ────────────┤ 3/4 ── it stands still ── over: others may take it
//! ```

use super::planted::{Bug, planted};
use abi::ids::NodeId;

/// After the death of a node its processes are nobody's for so long.
pub const LEASE_MS: u64 = 1500;
/// How often it is renewed.
pub const RENEW_EVERY_MS: u64 = 250;

/// When something was last written at the coordinator. It never comes twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Revision(pub u64);

/// A node in one of its lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Home {
    pub node: NodeId,
    pub life: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    At(Home),
    Ended,
}

/// Which incarnation of a process may have any effect, and where it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Claim {
    /// How often it began; the first time is zero.
    pub incarnation: u32,
    pub place: Place,
    /// All its effects compare its claim.
    pub is_durable: bool,
    /// The incarnation that began from the beginning: nothing that is kept of earlier ones is gone on from.
    pub since: u32,
}

impl Claim {
    /// Of whoever goes on with it from what is kept.
    pub fn gone_on_with(self, home: Home) -> Claim {
        let incarnation = self.incarnation + u32::from(!planted(Bug::IncarnationNotRaised));
        Claim { incarnation, place: Place::At(home), ..self }
    }

    /// Of whoever begins it from its beginning, since it ended.
    pub fn begun_anew(self, home: Home) -> Claim {
        let next = self.gone_on_with(home);
        Claim { since: if planted(Bug::OldPastKept) { self.since } else { next.incarnation }, ..next }
    }
}

/// What the coordinator has of a node's lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseFact {
    Missing,
    Of { life: u64, revision: Revision },
}

impl LeaseFact {
    fn is_of(self, life: u64) -> bool {
        matches!(self, LeaseFact::Of { life: of, .. } if of == life)
    }

    /// What must be so, beside the claim, when the next claim is written after the lease of this life; nothing if that runs.
    pub fn over(self, life: u64) -> Option<Fence> {
        match self {
            LeaseFact::Missing => Some(Fence::LeaseMissing),
            // It began anew since then.
            LeaseFact::Of { life: of, revision } if of != life || planted(Bug::LeaseTakenForOver) => {
                Some(Fence::LeaseUnchanged(revision))
            }
            LeaseFact::Of { .. } => None,
        }
    }
}

/// What the transaction that writes the next claim compares, beside that the last one is what was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fence {
    ClaimAlone,
    LeaseMissing,
    LeaseUnchanged(Revision),
}

/// Why a process may go on at a node that another one had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Because {
    /// It has no lease.
    LeaseOver,
    /// It hands it over, whose claim has this revision.
    Handed { claim: Revision },
    /// Nobody hears it. Enough for a durable one, if its claim has this revision.
    Silent { claim: Revision },
}

/// Is this process one that its node has lost? `is_silent`: nobody hears that life of it. `lease`: what the coordinator says, if that was
/// looked at.
pub fn lost(claim: &Claim, revision: Revision, is_silent: bool, lease: Option<LeaseFact>) -> Option<Because> {
    let Place::At(home) = claim.place else { return None };
    match lease {
        _ if is_silent && (claim.is_durable || planted(Bug::SilenceIsEnoughForAll)) => {
            Some(Because::Silent { claim: revision })
        }
        Some(lease) if !lease.is_of(home.life) => Some(Because::LeaseOver),
        _ => None,
    }
}

/// What has to be so before the next claim is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    Nothing,
    /// It lived here before, and may be on its way out: that is waited for.
    OldOneOut,
    /// The lease of that life: [`LeaseFact::over`].
    LeaseOver(Home),
}

/// Why nobody goes on with it here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It is somebody else's by now, or over.
    Superseded,
    Living,
}

/// May `me` take this process up? `has_it`: it looks after it already.
pub fn take_up(claim: &Claim, revision: Revision, because: Because, me: Home, has_it: bool) -> Result<Needs, Refused> {
    let Place::At(home) = claim.place else { return Err(Refused::Superseded) };
    let is_fenced = match because {
        Because::Handed { claim: said } | Because::Silent { claim: said } if said != revision => {
            return Err(Refused::Superseded);
        }
        Because::Handed { .. } => true,
        // What its node may yet do in its name has no effect: that compares the claim which is replaced now.
        Because::Silent { .. } => claim.is_durable || planted(Bug::SilenceIsEnoughForAll),
        Because::LeaseOver => false,
    };
    match home.node == me.node {
        true if home.life == me.life && has_it => Err(Refused::Living),
        true => Ok(Needs::OldOneOut),
        false if is_fenced => Ok(Needs::Nothing),
        false => Ok(Needs::LeaseOver(home)),
    }
}

/// What became of a process while its node could not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// Nobody has taken it up: it goes on.
    Ours,
    /// Whoever is beginning it here, or handing it over, says in a moment whose it is.
    BeingDecided,
    /// What runs here is not it any more.
    Theirs,
}

/// `ours`: the claim under which it runs here; `now`: what the coordinator says.
pub fn whose(ours: Revision, now: Option<Revision>, is_beginning: bool) -> Whose {
    match now {
        Some(now) if now == ours => Whose::Ours,
        _ if is_beginning => Whose::BeingDecided,
        _ if planted(Bug::DoubtForgotten) => Whose::Ours,
        _ => Whose::Theirs,
    }
}

/// Until when a node may believe in a lease that it asked for at one moment and had at another.
pub fn runs_until(asked_ms: u64, had_ms: u64) -> u64 {
    match planted(Bug::LeaseBelievedTooLong) {
        true => had_ms + LEASE_MS,
        // Its clock may be slower than the coordinator's, and what runs has to be stopped first.
        false => asked_ms + LEASE_MS / 4 * 3,
    }
}

/// What it means that something which compares a claim was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Somebody else has the process.
    Superseded,
    /// It is there already, from an attempt whose answer was lost: nobody else writes there.
    DoneBefore,
}

/// A piece of a tape was refused. `ours`: the claim that was compared; `now`: what it is; `is_there`: the same piece stands there.
pub fn refused_piece(ours: Revision, now: Option<Revision>, is_there: bool) -> Refusal {
    match now {
        Some(now) if now == ours && is_there && !planted(Bug::LostAnswerTakenForFence) => Refusal::DoneBefore,
        _ if planted(Bug::RefusedTakenForDone) => Refusal::DoneBefore,
        _ => Refusal::Superseded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(node: u16, life: u64) -> Home {
        Home { node: NodeId(node), life }
    }

    fn claim(is_durable: bool) -> Claim {
        Claim { incarnation: 3, place: Place::At(home(1, 5)), is_durable, since: 1 }
    }

    const SEEN: Revision = Revision(17);

    #[test]
    fn who_is_lost() {
        let (runs, anew) =
            (LeaseFact::Of { life: 5, revision: Revision(4) }, LeaseFact::Of { life: 6, revision: Revision(9) });
        let silent = Some(Because::Silent { claim: SEEN });
        for (is_durable, is_silent, lease, because) in [
            (true, true, Some(runs), silent),
            (true, true, None, silent),
            (true, false, Some(runs), None),
            (true, false, Some(LeaseFact::Missing), Some(Because::LeaseOver)),
            (false, true, None, None),
            (false, true, Some(runs), None),
            (false, true, Some(anew), Some(Because::LeaseOver)),
            (false, false, Some(LeaseFact::Missing), Some(Because::LeaseOver)),
        ] {
            assert_eq!(lost(&claim(is_durable), SEEN, is_silent, lease), because, "{is_durable} {is_silent} {lease:?}");
        }
        assert_eq!(lost(&Claim { place: Place::Ended, ..claim(true) }, SEEN, true, Some(LeaseFact::Missing)), None);
        assert_eq!(runs.over(5), None);
        assert_eq!(anew.over(5), Some(Fence::LeaseUnchanged(Revision(9))));
        assert_eq!(LeaseFact::Missing.over(5), Some(Fence::LeaseMissing));
    }

    #[test]
    fn who_may_take_it_up() {
        let (silent, handed) = (Because::Silent { claim: SEEN }, Because::Handed { claim: SEEN });
        let lease = Ok(Needs::LeaseOver(home(1, 5)));
        for (is_durable, because, me, has_it, expected) in [
            (true, silent, home(2, 1), false, Ok(Needs::Nothing)),
            (false, silent, home(2, 1), false, lease),
            (false, handed, home(2, 1), false, Ok(Needs::Nothing)),
            (true, Because::LeaseOver, home(2, 1), false, lease),
            (true, Because::LeaseOver, home(1, 5), true, Err(Refused::Living)),
            (true, Because::LeaseOver, home(1, 5), false, Ok(Needs::OldOneOut)),
            (true, Because::LeaseOver, home(1, 6), false, Ok(Needs::OldOneOut)),
            (true, Because::Silent { claim: Revision(16) }, home(2, 1), false, Err(Refused::Superseded)),
            (true, Because::Handed { claim: Revision(16) }, home(2, 1), false, Err(Refused::Superseded)),
        ] {
            let found = take_up(&claim(is_durable), SEEN, because, me, has_it);
            assert_eq!(found, expected, "{is_durable} {because:?} {me:?} {has_it}");
        }
        let over = Claim { place: Place::Ended, ..claim(true) };
        assert_eq!(take_up(&over, SEEN, handed, home(2, 1), false), Err(Refused::Superseded));
    }

    #[test]
    fn incarnations_count_and_a_new_beginning_has_no_past() {
        let next = claim(true).gone_on_with(home(2, 1));
        assert_eq!((next.incarnation, next.since, next.place), (4, 1, Place::At(home(2, 1))));
        let anew = claim(true).begun_anew(home(1, 5));
        assert_eq!((anew.incarnation, anew.since), (4, 4));
    }

    #[test]
    fn what_a_refusal_and_a_doubt_mean() {
        assert_eq!(refused_piece(SEEN, Some(SEEN), true), Refusal::DoneBefore);
        for (now, is_there) in [(Some(Revision(18)), true), (None, false), (Some(SEEN), false)] {
            assert_eq!(refused_piece(SEEN, now, is_there), Refusal::Superseded);
        }
        assert_eq!(whose(SEEN, Some(SEEN), false), Whose::Ours);
        assert_eq!(whose(SEEN, Some(Revision(18)), true), Whose::BeingDecided);
        assert_eq!(whose(SEEN, None, false), Whose::Theirs);
        // It stops before others may begin, also if its clock is a tenth slower.
        assert!(runs_until(100, 400) - 100 < LEASE_MS * 9 / 10);
    }
}
