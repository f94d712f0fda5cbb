//! The files of the whole computer. `services::files` says what a tree is; here is where it is kept, who decides about it, and how
//! every node sees the same one. Knows no process and no program.
//!
//! The one idea: one node at a time is the *holder*. It has the tree in memory and decides everything; what it decides is durable at
//! the coordinator, fenced by its number, and content is on two disks before it counts. So the holder can die at any moment:
//! another one loads the tree and goes on, and sessions claim there what they had open.
//!
//! ```text
//!   session ──► SharedFiles ─┬─ here ───► TreeFiles ──► Tree ──┬─► facts ──► ledger ──► coordinator
//!                            └─ there ──► RemoteFiles          └─► copies ─► this disk, and shelves of others
//!                                             │ request            ▲
//!                                             ▼                    │
//!                              serve (at the holder) ──► TreeFiles ┘
//! ```
//! - `tree`     deciding, waiting for what is durable; on one disk alone, or as holder
//! - `hold`     who is the holder, and since when nothing may be told any more; `shared` becomes it and stops being it
//! - `ledger`   facts at the coordinator        - `copies`, `shelf`  content on many disks: what the holder says, what a node does
//! - `kept`     what else needs content: checkpoints         - `locate`  where the content of files is
//! - `session`  one view, across holders        - `remote`, `request`, `serve`  asking the holder
//! - `outside`  what is needed of the network   - `living` `workers` `complaints`  small parts

mod complaints;
mod copies;
mod hold;
mod kept;
mod ledger;
mod living;
mod locate;
mod outside;
pub mod planted;
mod remote;
mod request;
mod serve;
mod session;
mod shared;
mod shelf;
mod tree;
mod workers;

pub use copies::Scanned;
pub use kept::{KeepAsk, KeepError, KeepTold, PUT_BYTES_MAX, RECORDS, Unreadable, Whereabouts, names_of};
pub(crate) use locate::READING;
pub use locate::{PATH_BYTES_MAX, PATHS_MAX};
pub use outside::{BODY_BYTES_MAX, FilesNetwork, Reply, Service, Unanswered};
pub use session::{Lasting, SharedFiles};
pub use shared::{Shared, SharedOptions, SharedView};
pub use tree::{Tree, TreeError, TreeFiles, TreeOptions, TreeView};
