//! How long leases have left, as the leader counts it. It knows nothing of what they are for.
//!
//! The one idea: a leader only ever errs on the long side. It renews a lease only after a majority has confirmed, since it was asked, that
//! it still leads. When it begins to lead it counts every lease anew, but for the time for which no earlier leader can have renewed one: of
//! the majority that chose it, one at least was in the majority that confirmed the last renewal, and nobody votes for another leader within
//! [`Options::faith`](super::Options::faith) of hearing from one, or of its own start. So whoever leads next begins to count later than any
//! holder did. That a lease is over is then agreed on like everything else.

use super::network::Answer;
use super::node::{Locked, Node};
use crate::coordinator::planted::{Bug, planted};
use crate::coordinator::state::Command;
use crate::coordinator::{Failure, LeaseId, Leased};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep_until, timeout};

/// How long the end of a lease may take to be agreed on, before it is tried again.
const AGREE_WAIT: Duration = Duration::from_secs(2);
/// A leader that wakes so much too late was itself stopped, and cannot say that holders were late.
const STOPPED: Duration = Duration::from_millis(500);

#[derive(Default)]
pub struct Leases {
    pub table: Locked<Table>,
}

/// Invariants: it is about the term in which this node leads, or of no use.
#[derive(Default)]
pub struct Table {
    term: Option<u64>,
    ends: BTreeMap<LeaseId, End>,
}

#[derive(Clone, Copy)]
struct End {
    at: Instant,
    /// It has been proposed that it is over: renewing it would come too late.
    is_proposed: bool,
}

impl Node {
    /// Brings the table up to date with the leases there are, as the leader of a term. Leases that were not counted before have
    /// their whole time. Gives the earliest end.
    fn count(&self, term: u64) -> Option<Instant> {
        let now = Instant::now();
        let state = self.facts.state();
        let mut table = self.lease_table();
        let is_new = table.term != Some(term);
        if is_new {
            *table = Table { term: Some(term), ends: BTreeMap::new() };
        }
        table.ends.retain(|lease, _| state.ttl(*lease).is_some());
        for (lease, ttl) in state.leases() {
            let whole = match is_new {
                true if planted(Bug::NewLeaderEndsLeases) => Duration::ZERO,
                true => ttl.saturating_sub(self.options.faith().min(self.began.elapsed())),
                false => ttl,
            };
            table.ends.entry(lease).or_insert(End { at: now + whole, is_proposed: false });
        }
        table.ends.values().filter(|end| !end.is_proposed).map(|end| end.at).min()
    }

    /// As the leader: proposes that leases are over whose time has come.
    pub(super) async fn end_leases(self: Arc<Node>) {
        let mut metrics = self.metrics.clone();
        let mut revision = self.facts.revision.subscribe();
        loop {
            revision.borrow_and_update();
            metrics.borrow_and_update();
            let Some(term) = self.leads() else {
                self.lease_table().term = None;
                if planted(Bug::FollowerEndsLeases) {
                    self.end_here().await;
                    continue;
                }
                if metrics.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let next = self.count(term);
            let now = Instant::now();
            match next {
                Some(at) if at <= now => {
                    if now.duration_since(at) > STOPPED {
                        let mut table = self.lease_table();
                        let late = now.duration_since(at);
                        table.ends.values_mut().filter(|end| !end.is_proposed).for_each(|end| end.at += late);
                        // The next round looks at the ends again, a moment later: those that have none left are over then.
                        if late > STOPPED {
                            table.ends.values_mut().for_each(|end| end.at = end.at.max(now + STOPPED / 2));
                        }
                        continue;
                    }
                    let mut over = vec![];
                    for (lease, end) in
                        self.lease_table().ends.iter_mut().filter(|(_, end)| end.at <= now && !end.is_proposed)
                    {
                        end.is_proposed = true;
                        over.push(*lease);
                    }
                    let answer = self.propose(Command::Expire(over.clone()), now + AGREE_WAIT).await;
                    if !matches!(answer, Answer::Reply(_)) {
                        // It may yet be agreed on, so they stay as they are; but it is proposed again.
                        let again = Instant::now() + AGREE_WAIT;
                        let mut table = self.lease_table();
                        for lease in over {
                            table.ends.entry(lease).and_modify(|end| *end = End { at: again, is_proposed: false });
                        }
                    }
                }
                next => {
                    // New leases come with commands; a command without changes does not wake this, but nobody needs it to: what
                    // is granted meanwhile is counted, too late rather than too early, at the next round.
                    let sleep = next.unwrap_or(now + Duration::from_secs(60));
                    tokio::select! {
                        () = sleep_until(sleep.into()) => {}
                        changed = metrics.changed() => if changed.is_err() { return },
                        changed = revision.changed() => if changed.is_err() { return },
                    }
                }
            }
        }
    }

    /// What a follower must not do.
    async fn end_here(&self) {
        let mut metrics = self.metrics.clone();
        let mut ends: BTreeMap<LeaseId, Instant> = BTreeMap::new();
        while self.leads().is_none() {
            let now = Instant::now();
            let leases: Vec<(LeaseId, Duration)> = self.facts.state().leases().collect();
            for (lease, ttl) in leases {
                let end = *ends.entry(lease).or_insert(now + ttl);
                if end <= now {
                    self.facts.state().apply(&Command::Expire(vec![lease]));
                }
            }
            let _ = timeout(Duration::from_millis(50), metrics.changed()).await;
        }
    }

    /// As the leader: gives a lease its whole time anew.
    pub(super) async fn renew(&self, lease: LeaseId, carried: Option<u64>, deadline: Instant) -> Answer {
        if let Err(answer) = self.confirm(deadline).await {
            return answer;
        }
        let Some(term) = self.leads() else {
            return Answer::NotNow("the leader was replaced meanwhile".into());
        };
        self.count(term);
        let (ttl, refusal) = {
            let state = self.facts.state();
            (state.ttl(lease), state.refuses_renewal(carried))
        };
        if let Some(refusal) = refusal {
            return Answer::Failed(refusal);
        }
        let mut table = self.lease_table();
        match (ttl, table.ends.get_mut(&lease)) {
            (Some(ttl), Some(end)) if !end.is_proposed => {
                if !planted(Bug::KeepAliveForgotten) {
                    end.at = Instant::now() + ttl;
                }
                Answer::Leased(Leased { lease, ttl })
            }
            _ => Answer::Failed(Failure::NoLease { lease }),
        }
    }
}
