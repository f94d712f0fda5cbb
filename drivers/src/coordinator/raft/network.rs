//! What nodes say to one another about the facts, and openraft's way to the others. It knows nothing of connections.
//!
//! The one idea: one kind of question and one kind of answer for everything, encoded by postcard behind a number that says in
//! which form; and it is remembered when each node last answered, because that is what says whether a majority is there.

use super::{Peers, Types, Unanswered, node_id};
use crate::coordinator::state::{Command, Reply};
use crate::coordinator::{Change, Failure, Found, KeyRange, LeaseId, Leased, Range, Revision, Status};
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{AnyError, EmptyNode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// In which form the rest of a message is. Others are refused.
const FORM: u8 = 1;

/// How long openraft waits before it asks a node again that did not answer.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

#[derive(Clone, Serialize, Deserialize)]
pub enum Ask {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<u64>),
    Install(InstallSnapshotRequest<Types>),
    Command(Command),
    Find(Range),
    KeepAlive {
        lease: LeaseId,
        carried: Option<u64>,
    },
    /// Changes from a revision on; if there are none, wait for some.
    Changes {
        keys: KeyRange,
        from: Revision,
        wait: Duration,
    },
    Status,
    Admin(Admin),
    /// To be passed on to the leader, whom the asker does not reach.
    Pass(Box<Ask>),
}

/// Changes of who takes part.
#[derive(Clone, Serialize, Deserialize)]
pub enum Admin {
    Add(u64),
    SetVoters(Vec<u64>),
    Remove(u64),
}

#[derive(Serialize, Deserialize)]
pub enum Answer {
    Append(Result<AppendEntriesResponse<u64>, RaftError<u64>>),
    Vote(Result<VoteResponse<u64>, RaftError<u64>>),
    Install(Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>>),
    Reply(Reply),
    Found(Found),
    Leased(Leased),
    /// And the first revision that was not looked at.
    Changes {
        changes: Vec<(Revision, Vec<Change>)>,
        next: Revision,
    },
    Status(Status),
    Changed,
    /// For good: nothing was done, and asking again does not help.
    Failed(Failure),
    /// Nothing was done: ask the leader.
    NotLeader {
        leader: Option<u64>,
        members: Vec<u64>,
    },
    /// Nothing was done: ask again.
    NotNow(String),
    /// It may have been done: ask again with the same number.
    Perhaps(String),
}

/// The way to other nodes.
#[derive(Clone)]
pub struct Network {
    peers: Arc<dyn Peers>,
    heard: Arc<Mutex<Heard>>,
}

/// When others were last heard.
#[derive(Default)]
struct Heard {
    /// As who leads: the moment of asking of the last question that each node answered.
    answers: BTreeMap<u64, Instant>,
    /// As who follows: when the leader last sent something.
    leader: Option<Instant>,
}

impl Network {
    pub fn new(peers: Arc<dyn Peers>) -> Network {
        Network { peers, heard: Arc::default() }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("nothing panics while it holds who was heard")
    }

    /// Whether that node answered a question of the last while.
    pub fn answered_within(&self, node: u64, while_: Duration) -> bool {
        self.heard().answers.get(&node).is_some_and(|asked| asked.elapsed() < while_)
    }

    pub fn heard_leader_within(&self, while_: Duration) -> bool {
        self.heard().leader.is_some_and(|heard| heard.elapsed() < while_)
    }

    pub fn heard_leader_at(&self) -> Option<Instant> {
        self.heard().leader
    }

    pub fn hear_leader(&self) {
        self.heard().leader = Some(Instant::now());
    }

    /// Asks one node, once.
    pub async fn ask(&self, to: u64, ask: &Ask, wait: Duration) -> Result<Answer, Unanswered> {
        let node = node_id(to).ok_or_else(|| Unanswered::NotSent(format!("{to} is no node")))?;
        let asked = Instant::now();
        let (give, get) = oneshot::channel();
        let done = Box::new(move |answer| drop(give.send(answer)));
        self.peers.ask(node, encode(ask), asked + wait, done);
        let lost = |why: &str| Unanswered::Lost(format!("n{to} {why}"));
        let answer = match tokio::time::timeout(wait, get).await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) => return Err(lost("is not connected any more")),
            Err(_) => return Err(lost("did not answer in time")),
        };
        let answer = decode(&answer).ok_or_else(|| lost("answered what this una does not understand"))?;
        let mut heard = self.heard();
        let last = heard.answers.entry(to).or_insert(asked);
        *last = asked.max(*last);
        Ok(answer)
    }
}

pub fn encode(message: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(message, vec![FORM]).expect("memory takes all that can be encoded")
}

pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match bytes.split_first() {
        Some((&FORM, message)) => postcard::from_bytes(message).ok(),
        _ => None,
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Target;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Target {
        Target { network: self.clone(), target }
    }
}

/// The way to one node.
pub struct Target {
    network: Network,
    target: u64,
}

type Rpc<T, E> = Result<T, RPCError<u64, EmptyNode, RaftError<u64, E>>>;

impl Target {
    async fn ask<E: std::error::Error>(&self, ask: Ask, wait: Duration) -> Rpc<Answer, E> {
        let answer = self.network.ask(self.target, &ask, wait).await;
        answer.map_err(|unanswered| RPCError::Unreachable(Unreachable::new(&unanswered)))
    }

    fn remote<T, E: std::error::Error>(&self, result: Result<T, RaftError<u64, E>>) -> Rpc<T, E> {
        result.map_err(|error| RPCError::RemoteError(RemoteError::new(self.target, error)))
    }
}

fn senseless<T, E: std::error::Error>() -> Rpc<T, E> {
    Err(RPCError::Network(NetworkError::from(AnyError::error("the answer is not to what was asked"))))
}

impl RaftNetwork<Types> for Target {
    async fn append_entries(
        &mut self, request: AppendEntriesRequest<Types>, option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<u64>, openraft::error::Infallible> {
        match self.ask(Ask::Append(request), option.hard_ttl()).await? {
            Answer::Append(result) => self.remote(result),
            _ => senseless(),
        }
    }

    async fn install_snapshot(
        &mut self, request: InstallSnapshotRequest<Types>, option: RPCOption,
    ) -> Rpc<InstallSnapshotResponse<u64>, InstallSnapshotError> {
        match self.ask(Ask::Install(request), option.hard_ttl()).await? {
            Answer::Install(result) => self.remote(result),
            _ => senseless(),
        }
    }

    async fn vote(
        &mut self, request: VoteRequest<u64>, option: RPCOption,
    ) -> Rpc<VoteResponse<u64>, openraft::error::Infallible> {
        match self.ask(Ask::Vote(request), option.hard_ttl()).await? {
            Answer::Vote(result) => self.remote(result),
            _ => senseless(),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(AGAIN_AFTER))
    }
}
