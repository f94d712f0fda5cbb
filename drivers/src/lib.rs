//! The only part of una that touches Linux: host directories, terminal, clock, entropy, waiting.
//!
//! Everything here is behind a trait of `abi`; nobody else can tell that it is Linux.
//!
//! ```text
//!   host_directory   abi::file::FileSystem   files below one directory of the host, and nothing above it
//!   terminal         abi::file::Stream       standard input, output and error
//!   clock, entropy   abi::file::{Clock, Entropy}
//!   waiter           abi::file::Waiter       the one place where a process waits
//! ```
pub mod clock;
pub mod entropy;
pub mod host_directory;
pub mod terminal;
pub mod waiter;

mod errno;

pub use clock::HostClock;
pub use entropy::HostEntropy;
pub use host_directory::HostDirectory;
pub use terminal::HostStream;
pub use waiter::HostWaiter;
