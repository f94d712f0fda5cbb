//! WASI preview 1: what a program may call, and the state that lies behind it. Knows the traits of `abi::file`; neither Linux nor
//! wasmtime is known to anything here but `link`.
//!
//! The one idea: what a call does is apart from how to wait. A call tries; if it cannot go on it says what it waits for
//! ([`Progress::Wait`]), and is issued again with the same arguments when that may have come, in this process or, after a
//! freeze, in another one. What such a call must remember in between is part of the state.
//!
//! ```text
//!   link      the 46 functions, for wasmtime       memory    the program's memory, checked
//!   table     descriptors and rights               save      the state as bytes, and back
//!   process   arguments, clocks, random numbers    file      fd_*
//!   path      path_*                               poll      poll_oneoff
//! ```
//!
//! Specification: `wasi_snapshot_preview1.witx`.

mod file;
mod link;
mod memory;
mod path;
mod poll;
mod process;
mod save;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use link::memory_of;
pub use link::{link, link_on_fibers, provides};
pub use memory::Memory;
pub use save::{Inventory, RestoreError, SaveError, Saved, SavedObject};

use abi::errno::Errno;
use abi::file::{Clock, Entropy, FileSystem, Interest, Mount, Stream, Waiter, Wake};
use abi::wasi::{Fdflags, Rights};
use table::{At, Descriptor, Object, Standard, Table};

/// What a new process is given.
pub struct Setup {
    /// The program's name, then its arguments.
    pub args: Vec<String>,
    /// Names and values.
    pub env: Vec<(String, String)>,
    /// Open from the beginning, as descriptors 3 and up.
    pub mounts: Vec<Mount>,
    pub stdin: Box<dyn Stream>,
    pub stdout: Box<dyn Stream>,
    pub stderr: Box<dyn Stream>,
    pub clock: Box<dyn Clock>,
    pub entropy: Box<dyn Entropy>,
    pub waiter: Box<dyn Waiter>,
}

/// What a process that is continued is given: the rest is in its saved state.
pub struct Resume {
    /// Found by where the program sees them; see [`Saved::mounts`].
    pub mounts: Vec<Mount>,
    pub stdin: Box<dyn Stream>,
    pub stdout: Box<dyn Stream>,
    pub stderr: Box<dyn Stream>,
    pub clock: Box<dyn Clock>,
    pub entropy: Box<dyn Entropy>,
    pub waiter: Box<dyn Waiter>,
}

/// Why a process cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    #[error("argument {index} has a NUL byte in it, which no program can be given")]
    Argument { index: usize },
    #[error("the environment variable `{name}` has a NUL byte in it, or a `=` in its name, or no name")]
    Variable { name: String },
    #[error("the arguments and the environment have {bytes} bytes together; {ARGUMENT_BYTES_MAX} is the most")]
    TooLong { bytes: usize },
    #[error("{count} directories are mounted; {MOUNTS_MAX} is the most")]
    TooManyMounts { count: usize },
    #[error("two directories are mounted at `{guest}`")]
    MountedTwice { guest: String },
}

const ARGUMENT_BYTES_MAX: usize = 1 << 24;
const MOUNTS_MAX: usize = 1 << 10;

/// The largest program that a program may run.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// The program asked to exit, with this code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the program exited with code {0}")]
pub struct Exit(pub u32);

/// How far a call came.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    Done,
    /// It is to be issued again when one of this may have come.
    Wait(Wait),
}

impl From<()> for Progress {
    fn from((): ()) -> Progress {
        Progress::Done
    }
}

/// What a call waits for.
#[derive(Debug, PartialEq, Eq)]
pub struct Wait {
    pub interests: Vec<Interest>,
    /// A moment of the process's own monotonic clock.
    pub until_ns: Option<u64>,
}

/// Everything of a process that is neither memory nor code.
///
/// Invariants: every `At` of the table names a mount, and something open there that only this descriptor uses (the roots of
/// mounts aside); `args` and `env` have no NUL.
pub struct System {
    args: Vec<String>,
    /// As `NAME=value`.
    env: Vec<String>,
    mounts: Vec<Mount>,
    streams: [Box<dyn Stream>; 3],
    unread: Unread,
    clock: Box<dyn Clock>,
    entropy: Box<dyn Entropy>,
    waiter: Box<dyn Waiter>,
    monotonic: Epoch,
    cputime: Epoch,
    table: Table,
    pending: Option<Pending>,
}

/// Input that was taken from the standard input before the program asked for it.
#[derive(Default)]
struct Unread {
    bytes: Vec<u8>,
    /// How much of `bytes` the program has.
    start: usize,
    /// Does the input end after it?
    ended: bool,
}

/// The process's own time: a host's clock, moved so that it goes on where it stopped on another host.
#[derive(Clone, Copy)]
struct Epoch {
    /// What the host's clock said...
    host_ns: u64,
    /// ...when the process's said this.
    own_ns: u64,
}

impl Epoch {
    fn own_ns(&self, host_ns: u64) -> u64 {
        self.own_ns.saturating_add(host_ns.saturating_sub(self.host_ns))
    }
}

/// A process's monotonic clock begins here. Not at zero: programs take that for a clock that does not work.
const MONOTONIC_START_NS: u64 = 1_000_000_000;

/// What the call that waits must know when it is issued again.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Pending {
    /// `fd_write` has written so much already.
    Write { fd: u32, iovs: u32, count: u32, written: u32 },
    /// `poll_oneoff` waits until then, by the process's own monotonic clock: one entry for each subscription, and a relative
    /// timeout does not begin anew.
    Poll { subscriptions: u32, events: u32, count: u32, deadlines_ns: Vec<Option<u64>> },
}

impl System {
    pub fn new(setup: Setup) -> Result<System, SetupError> {
        let Setup { args, env, mounts, stdin, stdout, stderr, clock, entropy, waiter } = setup;
        for (name, value) in &env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(SetupError::Variable { name: name.replace('\0', "\u{fffd}") });
            }
        }
        let env = env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let monotonic = Epoch { host_ns: clock.monotonic_ns(), own_ns: MONOTONIC_START_NS };
        let cputime = Epoch { host_ns: clock.cputime_ns(), own_ns: 0 };
        let mut system = System {
            args,
            env,
            mounts,
            streams: [stdin, stdout, stderr],
            unread: Unread::default(),
            clock,
            entropy,
            waiter,
            monotonic,
            cputime,
            table: Table::default(),
            pending: None,
        };
        system.check()?;
        for standard in [Standard::Input, Standard::Output, Standard::Error] {
            let rights = standard.rights(system.streams[standard as usize].kind());
            let object = Object::Stream(standard);
            let stream = Descriptor { object, rights, inheriting: Rights::NONE, flags: Fdflags::NONE };
            system.table.place(standard.number(), stream);
        }
        for mount in 0..system.mounts.len() {
            let at = At { mount, id: system.mounts[mount].files.root() };
            let object = Object::Directory { at, preopened: true, listing: None };
            let rights = table::DIRECTORY_RIGHTS;
            // What does not apply to a file is taken away when it is opened.
            let directory = Descriptor { object, rights, inheriting: Rights::ALL, flags: Fdflags::NONE };
            system.table.place(3 + mount as u32, directory);
        }
        Ok(system)
    }

    /// What a program is given must be what it can be given.
    fn check(&self) -> Result<(), SetupError> {
        if let Some(index) = self.args.iter().position(|arg| arg.contains('\0')) {
            return Err(SetupError::Argument { index });
        }
        if let Some(variable) = self.env.iter().find(|variable| variable.contains('\0')) {
            return Err(SetupError::Variable { name: variable.replace('\0', "\u{fffd}") });
        }
        let bytes = self.args.iter().chain(&self.env).map(|string| string.len() + 5).sum();
        if bytes > ARGUMENT_BYTES_MAX {
            return Err(SetupError::TooLong { bytes });
        }
        if self.mounts.len() > MOUNTS_MAX {
            return Err(SetupError::TooManyMounts { count: self.mounts.len() });
        }
        for (index, mount) in self.mounts.iter().enumerate() {
            if self.mounts[..index].iter().any(|other| other.guest == mount.guest) {
                return Err(SetupError::MountedTwice { guest: mount.guest.clone() });
            }
        }
        Ok(())
    }

    pub fn args(&self) -> &[String] {
        &self.args
    }

    /// The moment of the process's own monotonic clock.
    pub fn monotonic_ns(&self) -> u64 {
        self.now_ns()
    }

    /// From now on it opens nothing more when it has so many descriptors.
    pub(crate) fn limit_descriptors(&mut self, max: usize) {
        self.table.limit(max);
    }

    /// Its standard input is at its end: what waits to be read there is read by somebody else.
    pub(crate) fn end_input(&mut self) {
        self.unread = Unread { bytes: vec![], start: 0, ended: true };
    }

    /// So much time has passed for everybody else while the process was on its way.
    pub(crate) fn pass_time(&mut self, ns: u64) {
        self.monotonic.own_ns = self.monotonic.own_ns.saturating_add(ns);
    }

    /// All of an open file that the program may read, at most [`FILE_BYTES_MAX`], whatever its position.
    pub fn whole_file(&mut self, fd: u32) -> Result<Vec<u8>, Errno> {
        let descriptor = self.table.get(fd)?;
        if !descriptor.rights.contains(Rights::FD_READ) {
            return Err(Errno::NotCapable);
        }
        match descriptor.object {
            Object::File { at, .. } => self.files(at).content(at.id, FILE_BYTES_MAX),
            _ => Err(Errno::Inval),
        }
    }

    fn now_ns(&self) -> u64 {
        self.monotonic.own_ns(self.clock.monotonic_ns())
    }

    fn files(&mut self, at: At) -> &mut dyn FileSystem {
        &mut *self.mounts[at.mount].files
    }

    fn stream(&mut self, standard: Standard) -> &mut dyn Stream {
        &mut *self.streams[standard as usize]
    }

    /// Has the process roused when what a call waits for may have come. Gives how long to sleep at most.
    pub fn watch(&mut self, wait: &Wait) -> Result<Option<u64>, Errno> {
        let timeout_ns = wait.until_ns.map(|until_ns| until_ns.saturating_sub(self.now_ns()));
        let watched = self.waiter.watcher().ok_or(Errno::NotSup).and_then(|watcher| watcher.watch(&wait.interests));
        if watched.is_err() {
            self.pending = None;
        }
        watched.map(|()| timeout_ns)
    }

    /// Ends [`System::watch`]; says why the sleep ended.
    pub fn roused(&mut self) -> Wake {
        let Some(watcher) = self.waiter.watcher() else { return Wake::Perhaps };
        watcher.forget();
        if watcher.is_interrupted() { Wake::Interrupted } else { Wake::Perhaps }
    }

    /// Whether the call that was just issued is to be issued again when the process goes on.
    pub(crate) fn is_put_off(&mut self) -> bool {
        self.waiter.is_put_off()
    }

    /// Whether the process is to be stopped.
    pub fn is_interrupted(&mut self) -> bool {
        self.waiter.watcher().is_some_and(|watcher| watcher.is_interrupted())
    }

    /// Waits as a call asked for. After [`Wake::Perhaps`] the call is to be issued again.
    pub fn wait(&mut self, wait: &Wait) -> Result<Wake, Errno> {
        let timeout_ns = wait.until_ns.map(|until_ns| until_ns.saturating_sub(self.now_ns()));
        let wake = self.waiter.wait(&wait.interests, timeout_ns);
        if wake.is_err() {
            // The call fails, and is not issued again.
            self.pending = None;
        }
        wake
    }
}
