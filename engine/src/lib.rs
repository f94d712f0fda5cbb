//! The processor of una: runs programs as processes on wasmtime, until they exit, fail or are frozen.
//!
//! It knows nothing of Linux but files by name, and pages: what a process may touch comes to it behind the traits of `abi::file`.
//!
//! ```text
//!   admission   which programs are taken           cache     compiled code on disk
//!   engine      the set-up processor               library   programs by hash
//!   program     loaded: rewritten and compiled     process   running, frozen, ended
//!   image       a frozen process as bytes          wasi      what a program may call
//!   fiber       processes that share threads       una      what only una has
//!   pages       memories: followed, missing
//!   parts       an image in parts                  tape      what a process was told
//!   found       calls of names that last
//! ```
mod admission;
pub mod cache;
pub mod engine;
pub mod error;
pub mod fiber;
pub mod found;
pub mod image;
mod kept;
pub mod library;
pub mod pages;
pub mod parts;
pub mod process;
pub mod program;
pub mod progress;
pub mod tape;
pub mod una;
pub mod wasi;

pub use engine::{Elsewhere, Engine, Options, Target};
pub use error::{
    CacheError, EngineError, LibraryError, LoadError, RunError, SaveError, StartError, ThawError, TraceFrame,
};
pub use fiber::{Blank, Fiber, NoChild, SystemCalls, Usage};
pub use image::{Facts, Image};
pub use library::{Library, Named};
pub use parts::{SavedState, WholeImage};
pub use process::{Process, State, Stop, Stopper};
pub use program::Program;
pub use progress::{Phase, Progress};
