//! The processor, set up once for many programs. Knows wasmtime's settings and why they are so.

use crate::cache::Cache;
use crate::error::{CacheError, EngineError};
use crate::pages::Pages;
use crate::process::State;
use crate::{una, wasi};
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::path::PathBuf;
use std::sync::OnceLock;
use wasmtime::{Config, Linker, WasmBacktraceDetails};

/// How deep a program's own calls may go, in bytes of native stack. Programs that count on the 8 MiB of a Linux main thread need
/// several times that here, since a frame of compiled wasm is larger than one of C; and a process that was frozen deep in
/// a recursion must fit again where frames are larger still. Memory is used only as it is touched.
pub(crate) const WASM_STACK_BYTES: usize = 64 << 20;

/// For the host functions that a program calls at its deepest.
pub(crate) const HOST_STACK_BYTES: usize = 2 << 20;

/// What executes a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// This machine's processor.
    #[default]
    Native,
    /// wasmtime's portable interpreter: runs anywhere, many times slower.
    Pulley,
}

#[derive(Debug, Clone, Default)]
pub struct Options {
    pub target: Target,
    /// Floating-point results that are not numbers have the same bits on every processor; costs 2.7 to 4.6 times the time of
    /// floating-point loops.
    pub canonical_nans: bool,
    /// Where compiled code is kept; nobody but the user may be able to write there. `None`: programs are compiled each time.
    pub cache: Option<PathBuf>,
}

/// Loads programs and makes processes of them.
pub struct Engine {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) linker: Linker<State>,
    /// For processes on fibers.
    pub(crate) fibers: Linker<State>,
    pub(crate) cache: Option<Cache>,
    pub(crate) canonical_nans: bool,
    pub(crate) pages: Pages,
    cache_problem: Option<CacheError>,
    pub(crate) elsewhere: OnceLock<Box<dyn Elsewhere>>,
}

/// Where compiled code may be found before it is made: other engines of the same kind.
///
/// What they lend is run as it is: they must be trusted as much as this engine's own cache.
pub trait Elsewhere: Send + Sync {
    /// The entry of this name, of this program, from its start.
    fn code(&self, program: &blake3::Hash, name: &str) -> Option<Box<dyn Read>>;
}

impl Engine {
    pub fn new(options: &Options) -> Result<Engine, EngineError> {
        let mut config = Config::new();
        let config = match options.target {
            Target::Native => freeze::configure(&mut config),
            Target::Pulley => freeze::configure_pulley(&mut config).map_err(EngineError::Setup)?,
        };
        config
            .max_wasm_stack(WASM_STACK_BYTES)
            .async_stack_size(WASM_STACK_BYTES + HOST_STACK_BYTES)
            .cranelift_nan_canonicalization(options.canonical_nans)
            // Offsets in the rewritten module would tell nobody anything; names of functions are there without them.
            .generate_address_map(false)
            .wasm_backtrace_details(WasmBacktraceDetails::Disable);
        let pages = Pages::default();
        pages.configure(config);
        let wasmtime = wasmtime::Engine::new(config).map_err(EngineError::Setup)?;
        let mut linker = Linker::new(&wasmtime);
        wasi::link(&mut linker).map_err(EngineError::Setup)?;
        una::link(&mut linker).map_err(EngineError::Setup)?;
        let mut fibers = Linker::new(&wasmtime);
        wasi::link_on_fibers(&mut fibers).map_err(EngineError::Setup)?;
        una::link_on_fibers(&mut fibers).map_err(EngineError::Setup)?;
        let opened = options.cache.as_deref().map(Cache::open).transpose();
        let (cache, cache_problem) = match opened {
            Ok(cache) => (cache, None),
            Err(problem) => (None, Some(problem)),
        };
        Ok(Engine {
            wasmtime,
            linker,
            fibers,
            cache,
            canonical_nans: options.canonical_nans,
            pages,
            cache_problem,
            elsewhere: OnceLock::new(),
        })
    }

    /// From now on compiled code is looked for there too. Only the first counts.
    pub fn look_elsewhere(&self, elsewhere: Box<dyn Elsewhere>) {
        let _ = self.elsewhere.set(elsewhere);
    }

    /// Of engines whose compiled code each other's runs: the same version, settings and kind of processor.
    pub fn compatibility(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        self.wasmtime.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    }

    /// Compiled code for another engine of the same kind, by its name there.
    pub fn lend(&self, name: &str) -> Option<File> {
        self.cache.as_ref()?.lend(name)
    }

    /// Why the cache that was asked for is not used.
    pub fn cache_problem(&self) -> Option<&CacheError> {
        self.cache_problem.as_ref()
    }
}
