//! Files that should be programs: read, loaded, and refused with what to do about it. Used by `run` and `thaw`.

use crate::failure::{Failure, Result, quoted, status};
use crate::{directories, fetch, progress, session};
use clap::ValueEnum;
use daemon::protocol::ProgramId;
use engine::{Engine, LoadError, Options, Program, Target};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What executes a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineArgument {
    /// Compiled for this machine's processor
    Native,
    /// Interpreted: slow, the same on every processor
    Pulley,
}

impl EngineArgument {
    pub fn name(self) -> &'static str {
        match self {
            EngineArgument::Native => "native",
            EngineArgument::Pulley => "pulley",
        }
    }

    pub fn target(self) -> Target {
        match self {
            EngineArgument::Native => Target::Native,
            EngineArgument::Pulley => Target::Pulley,
        }
    }
}

/// Must the program be freezable?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freezing {
    Possible,
    Impossible,
}

/// The processor, with the user's cache of compiled code if there can be one.
pub fn engine(argument: EngineArgument, canonical_nans: bool) -> Result<Engine> {
    let target = argument.target();
    let warn = |why: String| eprintln!("una: warning: compiled code is not kept, so every start compiles anew: {why}");
    let cache = directories::cache().map_err(|failure| warn(failure.to_lines().0)).ok();
    let engine = Engine::new(&Options { target, canonical_nans, cache })
        .map_err(|error| Failure::new(status::UNA, "cannot start").because(error))?;
    if let Some(problem) = engine.cache_problem() {
        warn(problem.to_string());
    }
    Ok(engine)
}

/// A program that the command line named.
pub struct Found {
    pub id: Identity,
    /// What to call it in messages.
    pub path: PathBuf,
    /// What the program itself is told that it is called.
    pub argument: String,
}

/// What is known of a program before it is loaded.
pub enum Identity {
    /// A file that was read.
    Read(Arc<[u8]>),
    /// One that was fetched: whoever has it under this hash need not be sent it.
    Kept(ProgramId),
}

impl Identity {
    pub fn id(&self) -> ProgramId {
        match self {
            Identity::Read(wasm) => session::program_id(wasm),
            Identity::Kept(id) => id.clone(),
        }
    }

    /// Its bytes; `path` is where it was found.
    pub fn wasm(&self, path: &Path) -> Result<Arc<[u8]>> {
        match self {
            Identity::Read(wasm) => Ok(wasm.clone()),
            Identity::Kept(_) => read(path),
        }
    }
}

/// The program of this name: a file, or one that `una fetch` brought.
pub fn find(named: &Path) -> Result<Found> {
    let argument = || named.file_name().unwrap_or(named.as_os_str()).to_string_lossy().into_owned();
    let name = named.to_str().filter(|name| engine::library::is_name(name) && !named.exists());
    if let Some(name) = name
        && let Some((id, path)) = fetch::find_anywhere(name)?
    {
        return Ok(Found { id: Identity::Kept(id), path, argument: name.into() });
    }
    let failure = match read(named) {
        Ok(wasm) => {
            return Ok(Found { id: Identity::Read(wasm), path: named.into(), argument: argument() });
        }
        Err(failure) => failure,
    };
    Err(match name.filter(|name| fetch::is_known(name)) {
        Some(name) => failure.help(format!("fetch it: una fetch {name}")),
        None => failure,
    })
}

/// The bytes of a program's file.
pub fn read(path: &Path) -> Result<Arc<[u8]>> {
    read_bytes(path).map_err(|error| {
        let failure = Failure::new(status::NOT_RUNNABLE, format!("cannot run {}", path.display())).because(&error);
        match error.kind() {
            ErrorKind::NotFound => {
                let failure = failure.with_status(status::NOT_FOUND);
                failure.help("una runs WebAssembly files by their path, for example: una run ./hello.wasm")
            }
            ErrorKind::IsADirectory => failure.help("name the .wasm file in it"),
            ErrorKind::PermissionDenied => failure.help(format!("chmod +r {}", quoted(&path.to_string_lossy()))),
            _ => failure,
        }
    })
}

fn read_bytes(path: &Path) -> std::io::Result<Arc<[u8]>> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        // A pipe, whose length nobody knows.
        let mut bytes = vec![];
        file.read_to_end(&mut bytes)?;
        return Ok(bytes.into());
    }
    // Into the place where it stays: a program may have a hundred megabytes.
    let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, metadata.len() as usize).collect();
    file.read_exact(Arc::get_mut(&mut bytes).expect("nobody else has it yet"))?;
    Ok(bytes)
}

pub fn load(engine: &Engine, wasm: Arc<[u8]>, path: &Path, freezing: Freezing) -> Result<Program> {
    let shown = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let mut bar = progress::Loading::new(&shown);
    let mut tell = |progress| bar.tell(progress);
    let loaded = match freezing {
        Freezing::Possible => engine.load(wasm, &mut tell),
        Freezing::Impossible => engine.load_unfreezable(wasm, &mut tell),
    };
    loaded.map_err(|error| not_loaded(&error, path))
}

fn not_loaded(error: &LoadError, path: &Path) -> Failure {
    let failure = Failure::new(status::NOT_RUNNABLE, format!("cannot run {}", path.display())).because(error);
    let failure = match error {
        LoadError::Compile(cause) => cause.chain().skip(1).fold(failure, |failure, why| failure.because(why)),
        _ => failure,
    };
    match advice(error, path) {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// The failure of a program that the daemon refused. It is loaded once more here, because that gives the same answer, and in full.
pub fn refused(wasm: &Arc<[u8]>, path: &Path, why: &str) -> Failure {
    let again = Engine::new(&Options::default()).map(|engine| engine.load(wasm.clone(), &mut |_| {}));
    match again {
        Ok(Err(error)) => not_loaded(&error, path),
        _ => Failure::new(status::NOT_RUNNABLE, format!("cannot run {}", path.display())).because(why),
    }
}

fn advice(error: &LoadError, path: &Path) -> Option<String> {
    let file = quoted(&path.to_string_lossy());
    Some(match error {
        LoadError::Empty | LoadError::Truncated { .. } => {
            "get the file again; it may not have been copied to its end".into()
        }
        LoadError::NotWasm { looks_like: Some(kind), .. } if kind.contains("ELF") => {
            "compile it for WebAssembly, for example: clang --target=wasm32-wasi".into()
        }
        LoadError::NotWasm { .. } => "una runs WebAssembly programs (.wasm) made for WASI preview 1".into(),
        LoadError::Text => format!("make a program of it: wat2wasm {file}"),
        LoadError::Image => format!("continue it: una thaw {file}"),
        LoadError::Version { .. } => "make it with a compiler for WebAssembly 1.0 to 3.0".into(),
        LoadError::Component => {
            "build a core module for wasm32-wasip1, or take the module out of it: wasm-tools component unbundle".into()
        }
        LoadError::Invalid { .. } => "look closer at it: wasm-tools validate --features all".into(),
        LoadError::JavaScriptHost { .. } => "build it for WASI instead of the web (wasm32-wasip1)".into(),
        LoadError::Threads { .. } => "build it without threads (wasm32-wasip1, not wasm32-wasip1-threads)".into(),
        LoadError::UnknownImport { .. } => "una provides WASI preview 1, module `wasi_snapshot_preview1`".into(),
        LoadError::OldWasi { .. } => "build it again with a compiler made after 2020".into(),
        LoadError::ImportedMemory { .. } => {
            "build it so that it exports a memory of its own: ld without --import-memory".into()
        }
        LoadError::Reactor { .. } | LoadError::NoStart { .. } | LoadError::StartType { .. } => {
            "build it as a command, with a main function (for clang, without -mexec-model=reactor)".into()
        }
        LoadError::Unfreezable { .. } => format!("run it so that it cannot be frozen: una run --unfreezable {file}"),
        LoadError::Compile(_) => return None,
    })
}
