//! The asynchronous inside of one node: what comes in, from here or from others, and the loops that go on by themselves. It knows
//! no transaction from another.
//!
//! The one idea: what a leader does for whoever asks is one function, [`Node::serve`]; the client of this node calls it directly if
//! this node leads, and by way of another node if it does not.

use super::client::Client;
use super::leases::Leases;
use super::network::{Admin, Answer, Ask, Network, decode, encode};
use super::store::{Facts, LogStore, Machine};
use super::{Batch, Options, Peers, Types, member, watchers};
use crate::coordinator::planted::{Bug, planted};
use crate::coordinator::state::{Act, Command, Deed, Reply};
use crate::coordinator::{
    Committed, Done, Failure, Found, KeyRange, Kind, LeaseAct, Leased, Quorum, Range, Revision, Sink, Status,
    Transaction,
};
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, EmptyNode, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{sleep, timeout};

/// Jobs of this node at once, and questions of others. More are refused at once.
const JOBS_MAX: usize = 16 << 10;
/// Commands that wait for the leader's next entry.
const PROPOSALS_MAX: usize = 16 << 10;
/// Bytes of commands in one entry, beyond its first command; and how many commands.
const BATCH_BYTES_MAX: usize = 256 << 10;
const BATCH_COMMANDS_MAX: usize = 1024;
/// How long [`Job::Bootstrap`] waits for the disk.
const BOOTSTRAP_WAIT: Duration = Duration::from_secs(10);
/// How long a status waits for the leader's view.
const STATUS_WAIT: Duration = Duration::from_millis(500);

/// What is asked of this node by its own system.
pub enum Job {
    Bootstrap(Done<()>),
    Transact { transaction: Transaction, deadline: Instant, done: Done<Committed> },
    Find { range: Range, deadline: Instant, done: Done<Found> },
    Lease { act: LeaseAct, deadline: Instant, done: Done<Leased> },
    Watch { keys: KeyRange, from: Revision, sink: Sink, cancelled: oneshot::Receiver<()> },
    Admin { admin: Admin, deadline: Instant, done: Done<()> },
    Status { done: Done<Status> },
}

/// What other threads hold of the inside.
pub struct Inside {
    node: Arc<Node>,
    handle: Handle,
    end: Arc<Notify>,
    jobs: Arc<AtomicUsize>,
}

/// Calls back exactly once: if the job is dropped, with what is then true.
struct Give<T> {
    done: Option<Done<T>>,
    dropped: fn() -> Failure,
    jobs: Arc<AtomicUsize>,
}

impl<T> Give<T> {
    fn give(mut self, result: Result<T, Failure>) {
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl<T> Drop for Give<T> {
    fn drop(&mut self) {
        self.jobs.fetch_sub(1, Ordering::Relaxed);
        if let Some(done) = self.done.take() {
            done(Err((self.dropped)()));
        }
    }
}

fn closed() -> Failure {
    Failure::Closed
}

fn closed_midway() -> Failure {
    Failure::unknown("the coordinator was closed meanwhile")
}

impl Inside {
    fn guard<T>(&self, done: Done<T>, dropped: fn() -> Failure) -> Option<Give<T>> {
        if self.jobs.fetch_add(1, Ordering::Relaxed) >= JOBS_MAX {
            self.jobs.fetch_sub(1, Ordering::Relaxed);
            done(Err(Failure::unavailable("too much is asked at once")));
            return None;
        }
        Some(Give { done: Some(done), dropped, jobs: self.jobs.clone() })
    }

    pub fn give(&self, job: Job) {
        let node = self.node.clone();
        match job {
            Job::Bootstrap(done) => {
                let Some(give) = self.guard(done, closed_midway) else {
                    return;
                };
                self.handle.spawn(async move { give.give(node.bootstrap().await) });
            }
            Job::Transact { transaction, deadline, done } => {
                let Some(give) = self.guard(done, closed_midway) else {
                    return;
                };
                self.handle.spawn(async move {
                    let result = match node.deed(Act::Transact(transaction), deadline).await {
                        Ok(Reply::Committed(committed)) => Ok(committed),
                        Ok(_) => Err(Failure::unknown("the answer is not to what was asked")),
                        Err(failure) => Err(failure),
                    };
                    give.give(result);
                });
            }
            Job::Find { range, deadline, done } => {
                let Some(give) = self.guard(done, closed) else {
                    return;
                };
                self.handle.spawn(async move { give.give(node.find(range, deadline).await) });
            }
            Job::Lease { act, deadline, done } => {
                let Some(give) = self.guard(done, closed_midway) else {
                    return;
                };
                self.handle.spawn(async move {
                    let result = match act {
                        LeaseAct::KeepAlive(lease) => node.keep_alive(lease, None, deadline).await,
                        LeaseAct::Carry { lease, id } => node.keep_alive(lease, Some(id), deadline).await,
                        act => match node.deed(Act::Lease(act), deadline).await {
                            Ok(Reply::Leased(leased)) => Ok(leased),
                            Ok(_) => Err(Failure::unknown("the answer is not to what was asked")),
                            Err(failure) => Err(failure),
                        },
                    };
                    give.give(result);
                });
            }
            Job::Watch { keys, from, sink, cancelled } => {
                self.handle.spawn(watchers::watch(node, keys, from, sink, cancelled));
            }
            Job::Admin { admin, deadline, done } => {
                let Some(give) = self.guard(done, closed_midway) else {
                    return;
                };
                self.handle.spawn(async move { give.give(node.admin(admin, deadline).await) });
            }
            Job::Status { done } => {
                let Some(give) = self.guard(done, closed) else {
                    return;
                };
                self.handle.spawn(async move { give.give(Ok(node.status().await)) });
            }
        }
    }

    pub fn asked(&self, from: u64, body: Vec<u8>, respond: super::Respond) {
        let done: Done<Vec<u8>> = Box::new(move |answer| {
            // Without an answer, the other node asks again.
            if let Ok(answer) = answer {
                respond(answer);
            }
        });
        let Some(give) = self.guard(done, closed) else {
            return;
        };
        let node = self.node.clone();
        self.handle.spawn(async move {
            let Some(ask) = decode::<Ask>(&body) else {
                let why = format!("n{} does not understand what n{from} asks: do both run the same una?", node.me);
                return give.give(Ok(encode(&Answer::Failed(Failure::Refused { why }))));
            };
            let answer = node.serve(ask, Instant::now() + super::client::TRY).await;
            give.give(Ok(encode(&answer)));
        });
    }

    pub fn know(&self, nodes: Vec<u64>) {
        self.node.client.know(nodes);
    }

    /// That node has ended.
    pub fn ended(&self, ended: u64) {
        self.handle.spawn(self.node.clone().succeed(ended));
    }

    /// What is known here, if this node takes part.
    pub fn known(&self, range: &Range) -> Option<Result<Found, Failure>> {
        let metrics = self.node.metrics.borrow();
        let takes_part = metrics.membership_config.membership().get_node(&self.node.me).is_some();
        drop(metrics);
        takes_part.then(|| {
            let state = self.node.facts.state();
            state.hidden().map_or_else(|| Ok(state.find(range)), Err)
        })
    }

    pub fn close(&self) {
        self.end.notify_one();
    }
}

/// Runs a node until its [`Inside`] is closed.
#[expect(clippy::too_many_arguments, reason = "it is called in one place, which has just made them all")]
pub fn run(
    me: u64, peers: Arc<dyn Peers>, options: Options, log: LogStore, machine: Machine, facts: Arc<Facts>,
    started: Arc<AtomicBool>, give: impl FnOnce(Result<Inside, Failure>),
) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // What other threads ask comes first, so that it is there when the next entry is made: openraft keeps this thread busy
    // otherwise, entry after entry with one command in it.
    let runtime = match builder.enable_time().global_queue_interval(1).build() {
        Ok(runtime) => runtime,
        Err(error) => return give(Err(Failure::unavailable(format!("no runtime: {error}")))),
    };
    runtime.block_on(async {
        let network = Network::new(peers);
        let config = match options.config().validate() {
            Ok(config) => Arc::new(config),
            Err(error) => {
                return give(Err(Failure::Refused { why: error.to_string() }));
            }
        };
        let raft = match openraft::Raft::new(me, config, network.clone(), log, machine).await {
            Ok(raft) => raft,
            Err(error) => {
                return give(Err(Failure::Damaged { what: error.to_string() }));
            }
        };
        started.store(true, Ordering::Relaxed);
        let (propose, proposals) = mpsc::channel(PROPOSALS_MAX);
        let (read, reads) = mpsc::channel(PROPOSALS_MAX);
        let node = Arc::new(Node {
            me,
            metrics: raft.metrics(),
            raft,
            facts,
            network,
            proposals: propose,
            reads: read,
            client: Client::default(),
            leases: Leases::default(),
            options,
            began: Instant::now(),
        });
        tokio::spawn(node.clone().batches(proposals));
        tokio::spawn(node.clone().confirmations(reads));
        tokio::spawn(node.clone().end_leases());
        tokio::spawn(node.clone().follow_disk());
        let end = Arc::new(Notify::new());
        let inside = Inside { node, handle: Handle::current(), end: end.clone(), jobs: Arc::default() };
        give(Ok(inside));
        end.notified().await;
    });
    // What is under way is dropped where it is, as by a kill: all that matters is on the disk already.
}

/// A command that waits to be agreed on.
pub struct Proposal {
    command: Command,
    /// It is in an entry: from then on nobody can say that it was not done.
    taken: Arc<AtomicBool>,
    give: oneshot::Sender<Answer>,
}

pub struct Node {
    pub me: u64,
    pub raft: openraft::Raft<Types>,
    pub metrics: tokio::sync::watch::Receiver<openraft::RaftMetrics<u64, EmptyNode>>,
    pub facts: Arc<Facts>,
    pub network: Network,
    proposals: mpsc::Sender<Proposal>,
    reads: mpsc::Sender<oneshot::Sender<Result<(), Answer>>>,
    pub client: Client,
    pub leases: Leases,
    pub options: Options,
    pub began: Instant,
}

impl Node {
    /// The term in which this node leads, if it does.
    pub fn leads(&self) -> Option<u64> {
        let metrics = self.metrics.borrow();
        (metrics.state == ServerState::Leader && metrics.running_state.is_ok()).then_some(metrics.current_term)
    }

    /// Who leads, as far as is known here, and whether this node takes part and is in touch.
    pub fn view(&self) -> View {
        let metrics = self.metrics.borrow();
        let members = metrics.membership_config.membership();
        let in_touch =
            metrics.state == ServerState::Leader || self.network.heard_leader_within(self.options.silence() * 3 / 2);
        View {
            leader: metrics.current_leader,
            members: members.nodes().map(|(id, _)| *id).collect(),
            takes_part: members.get_node(&self.me).is_some() && in_touch,
            is_alone: members.voter_ids().eq([self.me]),
            failed: metrics.running_state.as_ref().err().map(|fatal| fatal.to_string()),
        }
    }

    fn not_leader(&self) -> Answer {
        let view = self.view();
        Answer::NotLeader {
            leader: view.leader.filter(|leader| *leader != self.me && view.takes_part),
            members: view.members,
        }
    }

    /// Whether a majority of voters, of both majorities if they change, answered lately. It is asked before something is begun
    /// that could then not be ended; what is agreed on does not rest on it.
    fn losses_left(&self) -> Result<usize, String> {
        let metrics = self.metrics.borrow();
        let mut left = usize::MAX;
        for voters in metrics.membership_config.membership().get_joint_config() {
            let silent: Vec<u64> = voters.iter().copied().filter(|voter| !self.in_touch_with(*voter)).collect();
            let needed = voters.len() / 2 + 1;
            match (voters.len() - silent.len()).checked_sub(needed) {
                Some(spare) => left = left.min(spare),
                None => {
                    let silent: Vec<String> = silent.iter().map(|id| format!("n{id}")).collect();
                    return Err(format!(
                        "{} of {} voters do not answer: {}",
                        silent.len(),
                        voters.len(),
                        silent.join(", ")
                    ));
                }
            }
        }
        Ok(left)
    }

    fn in_touch_with(&self, voter: u64) -> bool {
        voter == self.me || self.network.answered_within(voter, self.options.silence() * 3 / 2)
    }

    /// Does what is asked, if this node is the one to do it. Never waits much longer than until the deadline.
    pub async fn serve(self: &Arc<Node>, ask: Ask, deadline: Instant) -> Answer {
        match ask {
            Ask::Append(request) => {
                let is_leaders = request.vote.is_committed();
                let answer = self.raft.append_entries(request).await;
                if is_leaders
                    && answer
                        .as_ref()
                        .is_ok_and(|answer| !matches!(answer, openraft::raft::AppendEntriesResponse::HigherVote(_)))
                {
                    self.network.hear_leader();
                }
                Answer::Append(answer)
            }
            // It may have heard from a leader just before it was started anew, and promised that one not to choose another.
            Ask::Vote(_) if self.began.elapsed() < self.options.faith() => {
                Answer::NotNow("it has just begun, and does not know whether there is a leader".into())
            }
            Ask::Vote(request) => Answer::Vote(self.raft.vote(request).await),
            Ask::Install(request) => {
                self.network.hear_leader();
                Answer::Install(self.raft.install_snapshot(request).await)
            }
            Ask::Command(command) => self.propose(command, deadline).await,
            Ask::Find(range) if range.stale => match self.view().takes_part {
                true => {
                    let state = self.facts.state();
                    state.hidden().map_or_else(|| Answer::Found(state.find(&range)), Answer::Failed)
                }
                false => self.not_leader(),
            },
            Ask::Find(range) => match self.confirm(deadline).await {
                Ok(()) => {
                    let state = self.facts.state();
                    state.hidden().map_or_else(|| Answer::Found(state.find(&range)), Answer::Failed)
                }
                Err(answer) => answer,
            },
            Ask::KeepAlive { lease, carried } => self.renew(lease, carried, deadline).await,
            Ask::Changes { keys, from, wait } => watchers::changes(self, &keys, from, wait).await,
            Ask::Status => match self.leads() {
                Some(_) => Answer::Status(self.own_status()),
                None => self.not_leader(),
            },
            Ask::Admin(admin) => self.serve_admin(admin, deadline).await,
            Ask::Pass(ask) => match self.view().leader {
                // What is passed on is not passed on again.
                _ if matches!(*ask, Ask::Pass(_)) => Answer::NotNow("passed on twice".into()),
                Some(leader) if leader != self.me => {
                    let wait = deadline.saturating_duration_since(Instant::now());
                    self.network.ask(leader, &ask, wait).await.unwrap_or_else(|unanswered| match unanswered {
                        super::Unanswered::NotSent(why) => Answer::NotNow(why),
                        super::Unanswered::Lost(why) => Answer::Perhaps(why),
                    })
                }
                _ => Box::pin(self.serve(*ask, deadline)).await,
            },
        }
    }

    /// Has a command agreed on.
    pub async fn propose(&self, command: Command, deadline: Instant) -> Answer {
        if self.leads().is_none() {
            return self.not_leader();
        }
        if let Command::Do(Deed { act: Act::Transact(transaction), .. }) = &command
            && let Err(failure) = transaction.check()
        {
            return Answer::Failed(failure);
        }
        let (give, mut get) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        if self.proposals.try_send(Proposal { command, taken: taken.clone(), give }).is_err() {
            return Answer::NotNow("too much is asked of the leader at once".into());
        }
        match timeout(deadline.saturating_duration_since(Instant::now()), &mut get).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Answer::Perhaps("the leader was closed".into()),
            // Dropping `get` withdraws it, if nobody has taken it: all this is one thread.
            Err(_) if taken.load(Ordering::Relaxed) => Answer::Perhaps("it was not agreed on in time".into()),
            Err(_) => Answer::NotNow("others are waiting before it".into()),
        }
    }

    /// One entry after the other, each with all that gathered meanwhile.
    async fn batches(self: Arc<Node>, mut proposals: mpsc::Receiver<Proposal>) {
        while let Some(first) = proposals.recv().await {
            // After all that is ready to be asked.
            tokio::task::yield_now().await;
            let mut batch = vec![];
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(proposal) = next.take() {
                if !proposal.give.is_closed() {
                    bytes += size(&proposal.command);
                    batch.push(proposal);
                }
                if bytes < BATCH_BYTES_MAX && batch.len() < BATCH_COMMANDS_MAX {
                    next = proposals.try_recv().ok();
                }
            }
            if !batch.is_empty() {
                self.agree(batch, bytes).await;
            }
        }
    }

    async fn agree(&self, batch: Vec<Proposal>, bytes: usize) {
        let term = self.leads();
        let refusal = match (term, self.losses_left()) {
            (None, _) => Some(self.view().leader),
            (Some(_), Err(why)) => {
                for proposal in batch {
                    let _ = proposal.give.send(Answer::NotNow(why.clone()));
                }
                return;
            }
            (Some(_), Ok(_)) => None,
        };
        if refusal.is_some() {
            for proposal in batch {
                let _ = proposal.give.send(self.not_leader());
            }
            return;
        }
        let (mut commands, mut waiting) = (vec![], vec![]);
        for proposal in batch {
            proposal.taken.store(true, Ordering::Relaxed);
            commands.push(proposal.command);
            waiting.push(proposal.give);
        }
        let mut metrics = self.metrics.clone();
        let deposed = async {
            while self.leads() == term {
                if metrics.changed().await.is_err() {
                    break;
                }
            }
        };
        let write = self.raft.client_write(Batch { commands: Arc::new(commands), bytes });
        let written = tokio::select! {
            biased;
            written = write => written.map_err(|error| error.to_string()),
            () = deposed => Err("the leader was replaced meanwhile".into()),
        };
        match written {
            Ok(response) => {
                for (give, reply) in waiting.into_iter().zip(response.data.0) {
                    let _ = give.send(Answer::Reply(reply));
                }
            }
            Err(why) => {
                for give in waiting {
                    let _ = give.send(Answer::Perhaps(why.clone()));
                }
            }
        }
    }

    /// Returns when this node is known to have led after this was called, and has applied all that was agreed on before.
    pub async fn confirm(&self, deadline: Instant) -> Result<(), Answer> {
        if self.leads().is_none() {
            return Err(self.not_leader());
        }
        if planted(Bug::StaleRead) {
            return Ok(());
        }
        let (give, get) = oneshot::channel();
        if self.reads.try_send(give).is_err() {
            return Err(Answer::NotNow("too much is asked of the leader at once".into()));
        }
        match timeout(deadline.saturating_duration_since(Instant::now()), get).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Answer::NotNow("the leader was closed".into())),
            Err(_) => Err(Answer::NotNow("a majority did not answer in time".into())),
        }
    }

    /// Confirms for all who asked before.
    async fn confirmations(self: Arc<Node>, mut reads: mpsc::Receiver<oneshot::Sender<Result<(), Answer>>>) {
        while let Some(first) = reads.recv().await {
            let mut all = vec![first];
            while let Ok(next) = reads.try_recv() {
                all.push(next);
            }
            // Longer than it takes, and shorter than for ever: openraft asks the others with a deadline of its own.
            let confirmed = timeout(self.options.heartbeat * 4, self.raft.ensure_linearizable()).await;
            for give in all {
                let _ = give.send(match &confirmed {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) if error.forward_to_leader().is_some() => Err(self.not_leader()),
                    Ok(Err(error)) => Err(Answer::NotNow(error.to_string())),
                    Err(_) => Err(Answer::NotNow("a majority did not answer in time".into())),
                });
            }
        }
    }

    /// Has the disk follow the state before too much would have to be done again.
    async fn follow_disk(self: Arc<Node>) {
        let mut revision = self.facts.revision.subscribe();
        let rows_max = self.options.entries_per_snapshot as usize * 4;
        while revision.changed().await.is_ok() {
            if self.facts.state().touched() > rows_max && self.raft.trigger().snapshot().await.is_err() {
                return;
            }
            // Under way or done; a failure ends openraft, and then it is said by the status.
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn bootstrap(&self) -> Result<(), Failure> {
        let failure = |error: &dyn std::fmt::Display| Failure::unavailable(error);
        if !self.raft.is_initialized().await.map_err(|error| failure(&error))? {
            let alone = BTreeMap::from([(self.me, EmptyNode {})]);
            self.raft.initialize(alone).await.map_err(|error| failure(&error))?;
        }
        let voters: BTreeSet<u64> = self.metrics.borrow().membership_config.membership().voter_ids().collect();
        if voters == BTreeSet::from([self.me]) || voters.is_empty() {
            let leads = self.raft.wait(Some(BOOTSTRAP_WAIT)).state(ServerState::Leader, "the only voter leads").await;
            leads.map_err(|error| failure(&error))?;
        }
        Ok(())
    }

    /// Changes who takes part.
    async fn serve_admin(&self, admin: Admin, deadline: Instant) -> Answer {
        if self.leads().is_none() {
            return self.not_leader();
        }
        if let Err(why) = self.losses_left() {
            return Answer::NotNow(why);
        }
        let change = async {
            match admin {
                Admin::Add(node) => self.raft.add_learner(node, EmptyNode {}, true).await.map(drop),
                Admin::SetVoters(nodes) => {
                    for node in &nodes {
                        let follows = self.metrics.borrow().membership_config.membership().get_node(node).is_some();
                        if !follows {
                            self.raft.add_learner(*node, EmptyNode {}, true).await?;
                        }
                    }
                    let voters: BTreeSet<u64> = nodes.into_iter().collect();
                    let now: BTreeSet<u64> = self.metrics.borrow().membership_config.voter_ids().collect();
                    let is_joint = self.metrics.borrow().membership_config.membership().get_joint_config().len() > 1;
                    if voters == now && !is_joint {
                        return Ok(());
                    }
                    self.raft.change_membership(voters, true).await.map(drop)
                }
                Admin::Remove(node) => {
                    let membership = self.metrics.borrow().membership_config.membership().clone();
                    let mut voters: BTreeSet<u64> = membership.voter_ids().collect();
                    if voters.remove(&node) {
                        self.raft.change_membership(voters, true).await?;
                    }
                    if membership.get_node(&node).is_none() {
                        return Ok(());
                    }
                    self.raft
                        .change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([node])), true)
                        .await
                        .map(drop)
                }
            }
        };
        match timeout(deadline.saturating_duration_since(Instant::now()), change).await {
            Ok(Ok(())) => Answer::Changed,
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => match error {
                ChangeMembershipError::InProgress(_) => Answer::NotNow("another change of members is under way".into()),
                ChangeMembershipError::EmptyMembership(_) => Answer::Failed(Failure::Refused {
                    why: "the last voter cannot go: make another one a voter first".into(),
                }),
                ChangeMembershipError::LearnerNotFound(error) => Answer::NotNow(error.to_string()),
            },
            Ok(Err(error)) => Answer::Perhaps(error.to_string()),
            Err(_) => Answer::Perhaps("the members did not change in time".into()),
        }
    }

    /// What this node knows of itself, as who leads.
    fn own_status(&self) -> Status {
        let quorum = match self.losses_left() {
            Ok(losses_left) => Quorum::Answers { losses_left },
            Err(why) => Quorum::Lost { why },
        };
        let revision = self.facts.state().revision();
        let metrics = self.metrics.borrow();
        let members = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = members.voter_ids().collect();
        Status {
            kind: Kind::Raft,
            leader: metrics.current_leader.map(member),
            standbys: members.nodes().map(|(id, _)| *id).filter(|id| !voters.contains(id)).map(member).collect(),
            voters: voters.into_iter().map(member).collect(),
            term: metrics.current_term,
            revision,
            quorum,
        }
    }

    /// The leader's view, or if there is none, this node's.
    async fn status(self: &Arc<Node>) -> Status {
        let view = self.view();
        if self.leads().is_none()
            && view.failed.is_none()
            && let Ok(Answer::Status(status)) = self.at_leader(Ask::Status, Instant::now() + STATUS_WAIT).await
        {
            return status;
        }
        let mut status = self.own_status();
        if let Some(failed) = view.failed {
            status.quorum = Quorum::Lost { why: failed };
        } else if self.leads().is_none() {
            status.leader = None;
            let why =
                if status.voters.is_empty() { "this node is no member, and reaches none" } else { "no leader answers" };
            status.quorum = Quorum::Lost { why: why.into() };
        }
        status
    }

    pub fn lease_table(&self) -> MutexGuard<'_, super::leases::Table> {
        self.leases.table.lock().expect("nothing panics while it holds the leases")
    }
}

/// What a node knows of the others.
pub struct View {
    pub leader: Option<u64>,
    pub members: Vec<u64>,
    /// It follows, and hears from a leader; or leads.
    pub takes_part: bool,
    /// It is the only voter: without it there is no leader.
    pub is_alone: bool,
    /// Its own part has ended, because of this.
    pub failed: Option<String>,
}

/// About what a command comes to when it is encoded.
fn size(command: &Command) -> usize {
    use crate::coordinator::{Action, With};
    const REST: usize = 32;
    let Command::Do(Deed { act: Act::Transact(transaction), .. }) = command else {
        return REST;
    };
    let compared = transaction.compare.iter().map(|compare| match &compare.with {
        With::Value(value) => compare.key.len() + value.len(),
        _ => compare.key.len(),
    });
    let done = transaction.then.iter().chain(&transaction.otherwise).map(|action| match action {
        Action::Put { key, value, .. } => key.len() + value.len(),
        _ => REST,
    });
    REST + compared.sum::<usize>() + done.sum::<usize>()
}

/// So that a node is not asked more than it can do.
const _: () = assert!(JOBS_MAX <= PROPOSALS_MAX);

/// Of the few things that are locked and not waited for.
pub type Locked<T> = Mutex<T>;
