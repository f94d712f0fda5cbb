mod complaints;
mod copies;
mod living;
mod outside;
mod shelf;
mod tree;

pub use outside::{BODY_BYTES_MAX, FilesNetwork, Reply, Service, Unanswered};
pub use tree::{Tree, TreeError, TreeFiles, TreeOptions, TreeView};
