//! What this node's own system asks: brought to the leader, whoever that is, until there is an answer or the deadline. It does not
//! know what is asked.
//!
//! The one idea: a deed has a number in a session, both remembered by the state that does it. So asking again, of whomever, is
//! always right, and only a deadline can leave it open what became of a deed.

use super::Unanswered;
use super::network::{Admin, Answer, Ask};
use super::node::{Locked, Node};
use crate::coordinator::planted::{Bug, planted};
use crate::coordinator::state::{Act, Command, Deed, Reply, SessionId};
use crate::coordinator::{Failure, Found, LeaseId, Leased, Range};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long one question waits before it is asked again, perhaps of another node.
pub const TRY: Duration = Duration::from_millis(1000);
/// How long after a question that had no success the next one is asked: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(160);
/// How long a leader that did not answer is asked by way of others, before it is tried again.
const AROUND: Duration = Duration::from_secs(5);
/// Nodes that are remembered to be asked.
const KNOWN_MAX: usize = 64;

#[derive(Default)]
pub struct Client {
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    known: Locked<Known>,
}

#[derive(Default)]
struct Known {
    nodes: Vec<u64>,
    /// Who was said to lead.
    leader: Option<u64>,
    /// A leader that did not answer, and when: others may reach it.
    unreached: Option<(u64, Instant)>,
    next: usize,
}

impl Known {
    fn is_unreached(&self, leader: u64) -> bool {
        self.unreached.is_some_and(|(node, when)| node == leader && when.elapsed() < AROUND)
    }
}

/// What this node's deeds are numbered in.
struct Session {
    id: SessionId,
    numbers: Locked<Numbers>,
}

#[derive(Default)]
struct Numbers {
    last: u64,
    /// Deeds that may be asked for again.
    open: BTreeSet<u64>,
}

/// A deed's number, until nobody will ask for it any more.
struct Number {
    session: Arc<Session>,
    sequence: u64,
}

impl Drop for Number {
    fn drop(&mut self) {
        let mut numbers = self.session.numbers.lock().expect("nothing panics while it holds the numbers");
        numbers.open.remove(&self.sequence);
    }
}

impl Session {
    fn number(self: &Arc<Session>) -> Number {
        let mut numbers = self.numbers.lock().expect("nothing panics while it holds the numbers");
        numbers.last += 1;
        let sequence = numbers.last;
        numbers.open.insert(sequence);
        Number { session: self.clone(), sequence }
    }

    fn settled(&self) -> u64 {
        let numbers = self.numbers.lock().expect("nothing panics while it holds the numbers");
        numbers.open.first().copied().unwrap_or(numbers.last + 1)
    }
}

impl Client {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics while it holds who is known")
    }

    pub fn know(&self, nodes: Vec<u64>) {
        let mut known = self.known();
        for node in nodes {
            if !known.nodes.contains(&node) {
                if known.nodes.len() >= KNOWN_MAX {
                    known.nodes.remove(0);
                }
                known.nodes.push(node);
            }
        }
    }
}

/// Why nobody answered.
pub struct Missed {
    /// Somebody may have it.
    handed: bool,
    why: String,
}

impl Missed {
    fn failure(self) -> Failure {
        if self.handed && !planted(Bug::LostTakenForNotDone) {
            Failure::unknown(self.why)
        } else {
            Failure::unavailable(self.why)
        }
    }
}

impl Node {
    /// Whom to ask: the leader if one is known and reached, else one after the other, members first. And whether it has to pass the
    /// question on.
    fn whom(&self, is_direct: bool) -> Option<(u64, bool)> {
        let view = self.view();
        if view.is_alone {
            return Some((self.me, false));
        }
        let mut known = self.client.known();
        let leader = if view.takes_part { view.leader } else { known.leader };
        let unreached = leader.is_some_and(|leader| known.is_unreached(leader));
        if let Some(leader) = leader
            && (leader == self.me || (is_direct && !unreached))
        {
            return Some((leader, false));
        }
        let mut candidates: Vec<u64> = view.members;
        for node in &known.nodes {
            if !candidates.contains(node) {
                candidates.push(*node);
            }
        }
        candidates.retain(|node| *node != self.me && Some(*node) != leader);
        if candidates.is_empty() {
            return leader.map(|leader| (leader, false));
        }
        let candidate = candidates[known.next % candidates.len()];
        known.next += 1;
        Some((candidate, leader.is_some()))
    }

    /// Brings a question to the leader, until it is answered.
    pub async fn at_leader(self: &Arc<Node>, ask: Ask, deadline: Instant) -> Result<Answer, Missed> {
        self.brought(ask, deadline).await.0
    }

    /// The same, and whether somebody may have got the question besides who answered.
    async fn brought(self: &Arc<Node>, ask: Ask, deadline: Instant) -> (Result<Answer, Missed>, bool) {
        let mut missed = Missed { handed: false, why: "no leader is known".into() };
        let mut pause = PAUSE_MIN;
        let mut is_direct = true;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let handed = missed.handed;
                return (Err(missed), handed);
            }
            let mut metrics = self.metrics.clone();
            let leader = metrics.borrow_and_update().current_leader;
            let whom = self.whom(is_direct);
            let answer = match whom {
                None => Ok(Answer::NotNow("no other node is known".into())),
                Some((node, _)) if node == self.me => Ok(self.serve(ask.clone(), deadline).await),
                Some((node, passes)) => {
                    let question = if passes { Ask::Pass(Box::new(ask.clone())) } else { ask.clone() };
                    // Nobody waits for a leader that was replaced meanwhile: asking again is always right.
                    let replaced = async {
                        let is_other = |now: Option<u64>| now.is_some() && now != leader;
                        let _ = metrics.wait_for(|metrics| is_other(metrics.current_leader)).await.map(drop);
                    };
                    tokio::select! {
                        biased;
                        answer = self.network.ask(node, &question, left.min(TRY)) => answer,
                        () = replaced => Err(Unanswered::Lost("the leader was replaced meanwhile".into())),
                    }
                }
            };
            is_direct = true;
            match answer {
                Ok(Answer::NotLeader { leader, members }) => {
                    self.client.know(members);
                    let mut known = self.client.known();
                    let is_new = leader.is_some() && known.leader != leader;
                    known.leader = leader;
                    missed.why = "no leader answers".into();
                    if is_new {
                        continue;
                    }
                }
                Ok(Answer::NotNow(why)) => missed.why = why,
                Ok(Answer::Perhaps(why)) => missed = Missed { handed: true, why },
                Ok(answer) => {
                    self.client.known().next = 0;
                    return (Ok(answer), missed.handed);
                }
                Err(unanswered) => {
                    if let Some((node, false)) = whom {
                        // The next time by way of another node.
                        is_direct = false;
                        self.client.known().unreached = Some((node, Instant::now()));
                    }
                    match unanswered {
                        Unanswered::NotSent(why) => missed.why = why,
                        Unanswered::Lost(why) => missed = Missed { handed: true, why },
                    }
                }
            }
            // A new leader is worth an earlier try.
            let left = deadline.saturating_duration_since(Instant::now());
            let mut metrics = self.metrics.clone();
            let _ = timeout(pause.min(left), metrics.wait_for(|metrics| metrics.current_leader != leader)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Asks somebody who takes part, once: the leader only if there is nobody else.
    pub async fn anyone(self: &Arc<Node>, ask: &Ask) -> Option<Answer> {
        let (node, _) = self.whom(false)?;
        match self.network.ask(node, ask, TRY).await {
            Ok(Answer::NotLeader { leader, members }) => {
                self.client.know(members);
                self.client.known().leader = leader;
                None
            }
            Ok(answer) => Some(answer),
            Err(_) => None,
        }
    }

    async fn session(self: &Arc<Node>, deadline: Instant) -> Result<Arc<Session>, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let slow = || Failure::unavailable("no session was begun in time");
        let mut session = timeout(left, self.client.session.lock()).await.map_err(|_| slow())?;
        if let Some(session) = &*session {
            return Ok(session.clone());
        }
        let reply = self.at_leader(Ask::Command(Command::Open), deadline).await;
        match reply {
            Ok(Answer::Reply(Reply::Opened(id))) => {
                Ok(session.insert(Arc::new(Session { id, numbers: Locked::default() })).clone())
            }
            Ok(Answer::Failed(failure)) => Err(failure),
            Ok(_) => Err(slow()),
            // A session that nobody uses is nothing that was done.
            Err(missed) => Err(Failure::unavailable(missed.why)),
        }
    }

    /// Does something once.
    pub async fn deed(self: &Arc<Node>, act: Act, deadline: Instant) -> Result<Reply, Failure> {
        loop {
            let session = self.session(deadline).await?;
            let number = session.number();
            let deed =
                Deed { session: session.id, sequence: number.sequence, settled: session.settled(), act: act.clone() };
            let (answer, handed) = self.brought(Ask::Command(Command::Do(deed)), deadline).await;
            match answer {
                Ok(Answer::Reply(Reply::NoSession)) => {
                    // This node was silent for so long that it was forgotten: with what an earlier try may have done.
                    let mut current = self.client.session.lock().await;
                    if current.as_ref().is_some_and(|current| current.id == session.id) {
                        *current = None;
                    }
                    drop(current);
                    if handed {
                        return Err(Failure::unknown("this node was forgotten by the leader meanwhile"));
                    }
                }
                Ok(Answer::Reply(Reply::Failed(failure)) | Answer::Failed(failure)) => {
                    return Err(failure);
                }
                Ok(Answer::Reply(Reply::Settled)) => {
                    return Err(Failure::unknown("an old answer came late"));
                }
                Ok(Answer::Reply(reply)) => return Ok(reply),
                Ok(_) => return Err(Failure::unknown("the answer is not to what was asked")),
                Err(missed) => return Err(missed.failure()),
            }
        }
    }

    pub async fn find(self: &Arc<Node>, range: Range, deadline: Instant) -> Result<Found, Failure> {
        match self.at_leader(Ask::Find(range), deadline).await {
            Ok(Answer::Found(found)) => Ok(found),
            Ok(Answer::Failed(failure)) => Err(failure),
            Ok(_) => Err(Failure::unavailable("the answer is not to what was asked")),
            Err(missed) => Err(Failure::unavailable(missed.why)),
        }
    }

    pub async fn keep_alive(
        self: &Arc<Node>, lease: LeaseId, carried: Option<u64>, deadline: Instant,
    ) -> Result<Leased, Failure> {
        match self.at_leader(Ask::KeepAlive { lease, carried }, deadline).await {
            Ok(Answer::Leased(leased)) => Ok(leased),
            Ok(Answer::Failed(failure)) => Err(failure),
            Ok(_) => Err(Failure::unknown("the answer is not to what was asked")),
            Err(missed) => Err(missed.failure()),
        }
    }

    pub async fn admin(self: &Arc<Node>, admin: Admin, deadline: Instant) -> Result<(), Failure> {
        match self.at_leader(Ask::Admin(admin), deadline).await {
            Ok(Answer::Changed) => Ok(()),
            Ok(Answer::Failed(failure)) => Err(failure),
            Ok(_) => Err(Failure::unknown("the answer is not to what was asked")),
            Err(missed) => Err(missed.failure()),
        }
    }
}
