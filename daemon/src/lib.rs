//! A node of una: the kernel, the services and the engine put together on Linux.

pub mod files;
pub mod keep;
pub mod node;
pub mod protocol;
pub mod server;
pub mod steps;
pub mod system;
