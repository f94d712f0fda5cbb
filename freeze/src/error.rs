//! What can go wrong, one enum per public act.

/// Why a module cannot be rewritten.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    #[error("not a valid WebAssembly core module: {message} (at byte {offset})")]
    Invalid { message: String, offset: usize },
    /// The construct cannot be part of an image; the program can still run, but not be frozen.
    #[error("function {function} cannot be frozen: {construct}")]
    Unsupported { function: FunctionName, construct: String },
    /// Something of the whole module, not of one function.
    #[error("the module cannot be frozen: {construct}")]
    UnsupportedModule { construct: String },
}

/// A function as people look for it: its index and its name where the module has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionName {
    pub index: u32,
    pub name: Option<String>,
}

impl std::fmt::Display for FunctionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} (`{name}`)", self.index),
            None => write!(f, "{}", self.index),
        }
    }
}

impl From<wasmparser::BinaryReaderError> for RewriteError {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        RewriteError::Invalid { message: error.message().to_string(), offset: error.offset() }
    }
}

/// Why a program cannot be loaded or continued.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("the engine refused the program: {0}")]
    Engine(#[source] wasmtime::Error),
}

/// Why a call that was asked to stop can be neither captured nor continued: its stack is lost. Calls and continuations give it
/// as a `wasmtime::Error`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LostError {
    #[error(
        "the host function `{function}` had called the program, which stopped inside: a host's own frames cannot be saved"
    )]
    HostInside { function: String },
    #[error("the host function `{function}` was interrupted, but its arguments or results cannot be part of an image")]
    NotInterruptible { function: String },
}

/// Why a stopped process could not be written as an image.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("the process is not stopped")]
    NotStopped,
    /// A value that has no meaning outside this store, for example a host function put into a table.
    #[error("{place} holds a reference that the program did not make itself")]
    ForeignReference { place: String },
    #[error("writing the image: {0}")]
    Write(#[from] std::io::Error),
}

/// Why bytes are not an image of this program.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("not an una image")]
    NotAnImage,
    #[error("the image has form {found}, this version reads {expected}")]
    Version { found: u32, expected: u32 },
    #[error("the image is of another program")]
    OtherProgram,
    #[error("the image was made by rewriter version {found}, this is {expected}")]
    OtherRewriter { found: u32, expected: u32 },
    #[error("the image ends early, in {part}")]
    Truncated { part: &'static str },
    #[error("the image is damaged: checksum of {part} is wrong")]
    Damaged { part: &'static str },
    #[error("the image contradicts itself: {what}")]
    Inconsistent { what: String },
    #[error("reading the image: {0}")]
    Read(#[from] std::io::Error),
}
