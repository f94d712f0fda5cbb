//! What people and scripts see of a system: its nodes, what it can survive, and where a process was put and why. Plain data.

use super::lend::Lend;
use crate::keep::record::Checkpoint;
use crate::node::Outward;
use crate::node::Pid;
use abi::ids::NodeId;
use serde::{Deserialize, Serialize};

/// The whole computer as one node sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SystemView {
    pub system: String,
    pub name: String,
    /// The number of the node that says this.
    pub me: u16,
    pub nodes: Vec<NodeLine>,
    pub coordinator: CoordinatorView,
    pub files: FilesView,
    /// How many nodes may be lost at once, whichever they are, without anything that was acknowledged being lost or refused.
    pub survives: u32,
    /// What is not as it should be, and what to do about it.
    pub complaints: Vec<String>,
    /// Of the machine that says this.
    #[serde(default)]
    pub lending: LendingView,
}

/// One node as others see it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeLine {
    pub number: u16,
    pub name: String,
    pub key: String,
    pub state: NodeState,
    pub role: Role,
    pub draining: bool,
    pub addresses: Vec<String>,
    /// There and back, as last measured from the node that says this.
    pub round_trip_us: Option<u64>,
    /// What it says of itself; nothing if it is not heard.
    pub facts: Option<Facts>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    Up,
    /// It does not answer; others are asked whether they hear it.
    Suspect,
    Down,
    /// It was ended, and said so.
    Left,
}

/// What a node is to the coordinator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Leader,
    Voter,
    /// Has every fact, and becomes a voter when one is lost.
    Standby,
    None,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Facts {
    pub architecture: String,
    pub processors: u32,
    /// Processors that were busy lately, of all of the machine's programs.
    pub load: f64,
    pub memory_bytes: u64,
    pub memory_free_bytes: u64,
    pub processes: u32,
    pub life: u64,
    #[serde(default)]
    pub lends: Lends,
}

/// Whether a node takes what others want to run, as far as its owner has a say in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lends {
    #[default]
    Always,
    /// It does so while its owner is away, which they are.
    OwnerAway,
    OwnerHere,
}

impl Lends {
    pub fn name(self) -> &'static str {
        match self {
            Lends::Always => "always",
            Lends::OwnerAway => "owner-away",
            Lends::OwnerHere => "owner-here",
        }
    }
}

/// For whom the machine is there that says this, and how that is with those who are on it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LendingView {
    pub lend: Lend,
    /// Nothing if it is lent at all times: nobody looks then.
    pub owner: Option<OwnerView>,
    /// Processes that run there because the system put them there.
    pub guests: u64,
    /// Guests that are stopped until the owner has gone, and why they could not leave.
    pub paused: Vec<(Pid, String)>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OwnerView {
    pub here: bool,
    /// For how long it has been so.
    pub for_ms: u64,
    /// Why they are taken to be there, and how long ago that was seen last.
    pub sign: Option<String>,
    pub sign_ago_ms: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CoordinatorView {
    pub kind: String,
    pub leader: Option<u16>,
    pub voters: Vec<u16>,
    pub standbys: Vec<u16>,
    pub revision: u64,
    /// Do writes succeed at the moment?
    pub writable: bool,
    /// If not, why.
    pub why_not: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FilesView {
    /// The node that decides about the tree now.
    pub holder: Option<u16>,
    /// Pieces of files that are on fewer disks than they should be.
    pub under_replicated: u64,
    pub copies: u32,
}

/// What a client wants of the place of a process.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// A node, by name or number, and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    /// Where this process is, if it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near: Option<Pid>,
    /// Where fewest of the same name run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spread: bool,
}

/// Where a process was put, and why not elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WhyView {
    pub chosen: Option<u16>,
    #[serde(default)]
    pub occasion: Occasion,
    /// When it was decided: milliseconds since 1970, by the clock of the node that did.
    #[serde(default)]
    pub at_ms: u64,
    pub nodes: Vec<WhyNode>,
    /// So many more nodes there were, which are not named: what is kept has a bound.
    #[serde(default)]
    pub left_out: u32,
}

/// Why something had to be decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Occasion {
    /// It began, as a process of its own or a clone.
    #[default]
    Begun,
    /// Somebody moved it and named the node.
    Moved { from: u16 },
    /// The node where it was is being emptied.
    Drained { from: u16 },
    /// The owner of the machine where it was has returned.
    OwnerReturned { from: u16 },
    /// It writes where that process writes, which had moved.
    Followed { with: Pid, from: u16 },
    /// The node where it was is lost.
    TakenUp { from: u16 },
    /// The node where it was is lost, and it is on none; what is chosen is to take it up.
    OnNoNode { from: u16 },
}

impl WhyView {
    /// Decided now, about no node yet.
    pub fn new(chosen: Option<NodeId>) -> WhyView {
        WhyView {
            chosen: chosen.map(|node| node.0),
            occasion: Occasion::default(),
            at_ms: drivers::clock::now_ms(),
            nodes: vec![],
            left_out: 0,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WhyNode {
    pub number: u16,
    pub name: String,
    pub chosen: bool,
    pub reason: String,
}

/// A checkpoint as `una checkpoints` shows it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CheckpointView {
    /// Nothing if not even that can be read.
    pub pid: Option<Pid>,
    pub sequence: u32,
    /// Nothing if its record is damaged.
    pub made: Option<MadeView>,
    pub state: CheckpointState,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MadeView {
    pub name: Option<String>,
    /// Milliseconds since 1970.
    pub made_ms: u64,
    pub made_on: u16,
    pub incarnation: u32,
    pub bytes: u64,
    /// What the one before did not have.
    pub new_bytes: u64,
    /// For how long the process was kept from running for it.
    pub pause_us: u64,
    pub process: Outward,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum CheckpointState {
    Whole {
        chunks: u64,
        /// How many of them each node has.
        at: Vec<(u16, u64)>,
    },
    Damaged {
        why: String,
    },
    /// Whoever keeps it cannot be asked now.
    Unknown {
        why: String,
    },
}

impl CheckpointView {
    pub fn of(checkpoint: Checkpoint, state: CheckpointState) -> CheckpointView {
        let Checkpoint {
            pid, sequence, name, made_ms, made_on, incarnation, bytes, new_bytes, pause_us, process, ..
        } = checkpoint;
        let made = MadeView { name, made_ms, made_on, incarnation, bytes, new_bytes, pause_us, process };
        CheckpointView { pid: Some(pid), sequence, made: Some(made), state }
    }

    pub fn damaged(pid: Option<Pid>, sequence: u32, why: &str) -> CheckpointView {
        CheckpointView { pid, sequence, made: None, state: CheckpointState::Damaged { why: why.into() } }
    }
}

/// Something that happened on some node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventView {
    /// Where it stands in the order of all events; to ask for what came after it.
    pub position: String,
    /// Milliseconds since 1970, by the hybrid logical clock.
    pub at_ms: u64,
    pub node: u16,
    /// In a word, for scripts.
    pub kind: String,
    /// For people.
    pub text: String,
    pub pid: Option<Pid>,
    /// Another node that it is about.
    pub about: Option<u16>,
}
