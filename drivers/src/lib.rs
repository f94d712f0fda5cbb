//! The only part of una that touches Linux: host directories, terminal, clock, entropy, waiting.
//!
//! Everything here is behind a trait of `abi`; nobody else can tell that it is Linux.
//!
//! ```text
//!   host_directory   abi::file::FileSystem   files below one directory of the host, and nothing above it
//!   terminal         abi::file::Stream       standard input, output and error
//!   clock, entropy   abi::file::{Clock, Entropy}
//!   waiter           abi::file::Waiter       the one place where a process waits
//!   journal          abi::device             bytes that only grow, in a file
//!   coordinator      hard facts that all nodes agree on: kept by una itself, or by an etcd
//!   host             what the machine has, and how busy it is
//!   presence         signs that somebody uses it
//!   facts            what the tree of files is: records in redb, many callers to a sync
//!   chunks           what is in files: pieces named by their hash
//!   wire             links to other machines
//! ```
pub mod chunks;
pub mod clock;
pub mod coordinator;
pub mod entropy;
pub mod facts;
pub mod host;
pub mod host_directory;
pub mod journal;
pub mod presence;
pub mod terminal;
pub mod waiter;
pub mod wire;

mod errno;

pub use clock::HostClock;
pub use entropy::HostEntropy;
pub use host_directory::HostDirectory;
pub use journal::FileJournal;
pub use terminal::HostStream;
pub use waiter::HostWaiter;
