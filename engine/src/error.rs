//! What can go wrong, one enum per public act. Says what and where; what to do about it is the command line's to say.

use freeze::error::FunctionName;
use std::path::PathBuf;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the processor cannot be set up: {0:#}")]
    Setup(wasmtime::Error),
}

/// Why compiled code is not kept. The engine works all the same, and compiles each time.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("{} cannot be used: {error}", path.display())]
    Unusable { path: PathBuf, error: std::io::Error },
    /// What is in the directory is run as machine code.
    #[error("{} can be written by others (mode {mode:o})", path.display())]
    WritableByOthers { path: PathBuf, mode: u32 },
}

/// Why a file is not a program that can run here.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the file is empty")]
    Empty,
    #[error("not a WebAssembly program: {}", describe_start(first, *looks_like))]
    NotWasm { first: Vec<u8>, looks_like: Option<&'static str> },
    /// The text form of WebAssembly.
    #[error("this is the text of a WebAssembly program, not a program")]
    Text,
    /// A frozen process.
    #[error("this is the image of a frozen process, not a program")]
    Image,
    #[error("WebAssembly of an unknown version (bytes 4 to 8 are {version:02x?})")]
    Version { version: [u8; 4] },
    #[error("a WebAssembly component, which needs WASI 0.2 or later; una runs core modules with WASI preview 1")]
    Component,
    #[error("the file is cut short: it ends at byte {offset}, in the middle of {part}")]
    Truncated { offset: u64, part: &'static str },
    #[error("not valid WebAssembly: {message} (at byte {offset})")]
    Invalid { message: String, offset: u64 },
    /// Made for a web page or for Node.js.
    #[error("the program needs a JavaScript host ({maker}): it imports `{import}`")]
    JavaScriptHost { maker: &'static str, import: String },
    #[error("the program uses threads ({construct}), which una does not provide yet")]
    Threads { construct: String },
    #[error("the program imports `{module}` `{name}` ({kind}), which una does not provide")]
    UnknownImport { module: String, name: String, kind: &'static str },
    /// The WASI of 2019, before preview 1.
    #[error("the program was made for WASI preview 0 (`{module}`); una provides preview 1")]
    OldWasi { module: String },
    #[error("the program expects its memory from its host (import `{import}`), which only a JavaScript page gives")]
    ImportedMemory { import: String },
    #[error("a reactor: a library with `_initialize` that is called from outside; it has no `_start` to run")]
    Reactor { exports: Vec<String> },
    #[error("the program has no `_start` to run: {}", describe_exports(exports))]
    NoStart { exports: Vec<String> },
    #[error("`_start` has the wrong type: {found}; a program's takes and returns nothing")]
    StartType { found: String },
    /// It could run, but not be frozen.
    #[error("the program cannot be frozen: {construct}{}", match function { Some(f) => format!(", in function {f}"), None => String::new() })]
    Unfreezable { function: Option<FunctionName>, construct: String },
    #[error("the program cannot be compiled: {0:#}")]
    Compile(wasmtime::Error),
}

fn describe_start(first: &[u8], looks_like: Option<&str>) -> String {
    match looks_like {
        Some(kind) => format!("the file looks like {kind}"),
        None => format!("it starts with {first:02x?}, WebAssembly with [00, 61, 73, 6d]"),
    }
}

fn describe_exports(exports: &[String]) -> String {
    const SHOWN: usize = 8;
    if exports.is_empty() {
        return "it exports no function at all".into();
    }
    let names: Vec<String> = exports.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = exports.len().saturating_sub(SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("it is a library that exports {}{rest}", names.join(", "))
}

/// Why a loaded program did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the program cannot be set up: {0:#}")]
    Instantiate(wasmtime::Error),
    #[error("the program cannot be given what it needs: {0}")]
    System(String),
    #[error("the program was loaded as not freezable: nothing could take its processor away from it again")]
    NotOnFiber,
}

/// How a program failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program broke a rule of WebAssembly.
    #[error("the program trapped: {reason}")]
    Trap { reason: String, backtrace: Vec<TraceFrame> },
    #[error("the program's stack overflowed")]
    StackOverflow { backtrace: Vec<TraceFrame> },
    /// An exception of the program itself that none of its functions caught.
    #[error("the program threw an exception that it did not catch")]
    Exception { backtrace: Vec<TraceFrame> },
    /// The host's part failed.
    #[error("the program's host failed: {reason}")]
    Host { reason: String, backtrace: Vec<TraceFrame> },
    /// The continuation of a frozen process could not be made.
    #[error("the process cannot go on: {0}")]
    Continue(#[source] freeze::ProgramError),
    /// Pages that it needed will never come.
    #[error("the process cannot go on: {reason}")]
    Lost { reason: String },
    #[error("the process has ended; it cannot run again")]
    Ended,
    #[error("no thread for the program: {0}")]
    Thread(std::io::Error),
}

impl RunError {
    /// Where in the program it happened, innermost first; empty if it is not known.
    pub fn backtrace(&self) -> &[TraceFrame] {
        match self {
            RunError::Trap { backtrace, .. }
            | RunError::StackOverflow { backtrace }
            | RunError::Exception { backtrace }
            | RunError::Host { backtrace, .. } => backtrace,
            RunError::Continue(_) | RunError::Lost { .. } | RunError::Ended | RunError::Thread(_) => &[],
        }
    }
}

/// One function on a program's stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceFrame {
    pub function: u32,
    /// From the program's name section, as people write it.
    pub name: Option<String>,
}

impl std::fmt::Display for TraceFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}"),
            None => write!(f, "function {}", self.function),
        }
    }
}

/// Why a process could not be saved. It is still frozen and can go on.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("the process is not stopped")]
    NotStopped,
    #[error("pages of the process are still to come: they have to be waited for")]
    PagesMissing,
    #[error("the process holds something that cannot be part of an image: {0}")]
    Foreign(String),
    #[error("{0}")]
    System(String),
    #[error("the image cannot be written: {0}")]
    Write(std::io::Error),
}

/// Why an image cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum ThawError {
    #[error(transparent)]
    Image(#[from] freeze::ImageError),
    /// The image holds a frozen program, but not one that una's own host ran.
    #[error("the image was not made by una: it has no attachment `{attachment}`")]
    NotOurs { attachment: &'static str },
    #[error("the program was loaded as not freezable, so no image can be continued with it")]
    NotFreezable,
    #[error(transparent)]
    System(#[from] crate::wasi::RestoreError),
    #[error("the process cannot be set up: {0:#}")]
    Engine(wasmtime::Error),
}

/// Why the library has no program.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    /// The file's content is not what its name says.
    #[error("{} is damaged", path.display())]
    Damaged { path: PathBuf },
}
