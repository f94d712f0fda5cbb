//! The pages of processes: who has written where, and pages that are not there yet. Knows memories, not programs, and no other node.
//!
//! The one idea: a program does not notice what is done with its pages. They are read while it writes them, and it may run before they
//! have come; what it touches too early it waits for.
//!
//! ```text
//!   memory, stack   what programs run in, used again and again        linux   reservations, PAGEMAP_SCAN, userfaultfd
//!   tracker         which pages were written since the last look      missing pages that come while the process runs
//!   stem            what several processes began with, of which each has what it has not written
//! ```

mod linux;
mod memory;
mod missing;
mod stack;
mod staging;
mod stem;
mod tracker;

pub use linux::PAGE;
use memory::Mapping;
pub use missing::{Fetch, Missing, NotThere, UNIT};
pub use staging::Staging;
pub use stem::{Stem, Whole};
pub use tracker::{Content, Piece, Taken, Tracker};

use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// The memories and stacks of an engine.
#[derive(Default, Clone)]
pub(crate) struct Pages {
    pool: Arc<memory::Pool>,
    stacks: Arc<stack::Stacks>,
}

impl Pages {
    /// Has an engine use these.
    pub fn configure(&self, config: &mut wasmtime::Config) {
        config
            .with_host_memory(Arc::new(memory::Creator(self.pool.clone())))
            .with_host_stack(self.stacks.clone())
            // A memory that was a mapped file is neither ours nor can it be missing.
            .memory_init_cow(false);
    }

    pub fn stage(&self, bytes_max: u64) -> Staging {
        Staging::new(self.pool.clone(), bytes_max)
    }

    /// The memories that begin at these addresses.
    pub fn memories(&self, bases: &[*const u8], presence: Arc<Presence>) -> Memories {
        let find = |base: &*const u8| self.pool.find(*base).as_ref().map_or_else(Weak::new, Arc::downgrade);
        Memories { mappings: bases.iter().map(find).collect(), presence }
    }
}

/// A range of one of a process's memories, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Which memory of the program, as in its images.
    pub memory: u32,
    pub range: Range<u64>,
}

/// The memories of one process, for whoever looks at them from outside, from any thread. It may outlive the process.
#[derive(Clone)]
pub struct Memories {
    mappings: Arc<[Weak<Mapping>]>,
    presence: Arc<Presence>,
}

impl Memories {
    fn mappings(&self) -> Result<Vec<Arc<Mapping>>, PagesError> {
        let all: Option<Vec<_>> = self.mappings.iter().map(Weak::upgrade).collect();
        all.filter(|all| all.iter().all(|mapping| !mapping.has_ended())).ok_or(PagesError::Ended)
    }

    /// Gives staged pages to the process, which does not run.
    pub(crate) fn adopt(&self, staging: Staging) -> Result<(), PagesError> {
        staging.give(&self.mappings()?)
    }

    /// What the process computes from now on is void: it ends as soon as may be, and says this.
    pub fn give_up(&self, why: &str) {
        self.presence.lose(why);
        self.presence.stop();
    }

    /// Bytes of each memory, now.
    pub fn sizes(&self) -> Result<Vec<u64>, PagesError> {
        Ok(self.mappings()?.iter().map(|mapping| mapping.bytes() as u64).collect())
    }
}

/// Why nothing can be said of a process's pages, or done with them.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    #[error("the process has ended")]
    Ended,
    #[error("somebody follows the process's pages already, or some are still to come")]
    InUse,
    /// A range that is not one of whole pages, or that no memory of the process has.
    #[error("the process has no pages at {} to {} of memory {}", span.range.start, span.range.end, span.memory)]
    NoPages { span: Span },
    #[error("the process's memory is larger than the {bytes_max} bytes that it may have")]
    TooLarge { bytes_max: u64 },
    /// A process that shall have a stem's pages has another size than the one from which it is.
    #[error("the process has not the memories that the stem has")]
    OtherSizes,
    #[error(transparent)]
    Lost(#[from] Lost),
    #[error("this system lets no program answer for its own missing pages: {0}")]
    Unsupported(String),
    #[error("the process's pages: {0}")]
    Linux(#[from] std::io::Error),
}

/// How far the pages of a process can be handled on this machine, for people.
#[derive(Debug, Clone)]
pub struct Support {
    /// `Err`: written pages are found by comparing, for this reason.
    pub tracking: Result<(), String>,
    /// `Err`: a process runs only when all of its memory is there, for this reason.
    pub missing: Result<(), String>,
}

/// What this machine can do. The environment variable `UNA_PAGES=plain` refuses both ways, to try what then happens.
pub fn support() -> Support {
    Support {
        tracking: tracker::faults().map(|_| ()).map_err(|error| error.to_string()),
        missing: missing::supported().map_err(|error| error.to_string()),
    }
}

/// For tests, and for whoever doubts: as on a system that allows neither way.
fn not_refused() -> std::io::Result<()> {
    match std::env::var_os("UNA_PAGES").is_some_and(|word| word == "plain") {
        true => Err(std::io::Error::other("UNA_PAGES=plain refuses it")),
        false => Ok(()),
    }
}

/// An error that was kept.
fn same(error: &std::io::Error) -> std::io::Error {
    match error.raw_os_error() {
        Some(code) => std::io::Error::from_raw_os_error(code),
        None => std::io::Error::new(error.kind(), error.to_string()),
    }
}

/// Is all of a process's memory there?
#[derive(Default)]
pub(crate) struct Presence {
    stage: AtomicU8,
    lost: OnceLock<String>,
    stopper: OnceLock<crate::Stopper>,
}

const WHOLE: u8 = 0;
const MISSING: u8 = 1;
const LOST: u8 = 2;

/// Some of the process's memory will never come. Whatever it computes from now on is void: it makes no further call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its memory was lost: {0}")]
pub struct Lost(pub String);

impl Presence {
    /// Some pages are missing: what is given to a system call is to be touched before.
    pub fn is_partial(&self) -> bool {
        self.stage.load(Ordering::Acquire) != WHOLE
    }

    pub fn check(&self) -> Result<(), Lost> {
        match self.stage.load(Ordering::Acquire) {
            LOST => Err(Lost(self.lost.get().cloned().unwrap_or_default())),
            _ => Ok(()),
        }
    }

    /// Who stops the process if its memory is lost.
    pub fn stopped_by(&self, stopper: crate::Stopper) {
        let _ = self.stopper.set(stopper);
    }

    /// Has the process stop as soon as may be.
    fn stop(&self) {
        if let Some(stopper) = self.stopper.get() {
            // What cannot be frozen was not continued from an image either, and has no missing pages.
            let _ = stopper.freeze();
        }
    }

    fn begin(&self) {
        let _ = self.stage.compare_exchange(WHOLE, MISSING, Ordering::AcqRel, Ordering::Acquire);
    }

    fn complete(&self) {
        let _ = self.stage.compare_exchange(MISSING, WHOLE, Ordering::AcqRel, Ordering::Acquire);
    }

    fn lose(&self, why: &str) {
        let _ = self.lost.set(why.into());
        self.stage.store(LOST, Ordering::Release);
    }
}
