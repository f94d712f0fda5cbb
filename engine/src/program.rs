//! A program that can run: admitted, rewritten and compiled, or found in the cache.

use crate::admission;
use crate::cache::{Entry, Key};
use crate::engine::Engine;
use crate::error::{LoadError, TraceFrame};
use crate::process::State;
use crate::progress::{self, Phase, Progress};
use freeze::{Map, RewriteError};
use std::sync::{Arc, OnceLock};
use wasmparser::{KnownCustom, Name, Parser, Payload};
use wasmtime::{InstancePre, Module};

/// Cheap to clone.
#[derive(Clone)]
pub struct Program {
    pub(crate) code: Code,
    hash: blake3::Hash,
    wasm: Arc<[u8]>,
}

#[derive(Clone)]
pub(crate) enum Code {
    Freezable(Freezable),
    /// As it came, because the user said that it need not be frozen.
    Plain(Module),
}

#[derive(Clone)]
pub(crate) struct Freezable {
    pub program: freeze::Program,
    /// Its imports for processes on fibers, found when the first of them is made.
    on_fibers: Arc<OnceLock<InstancePre<State>>>,
}

impl Freezable {
    fn new(program: freeze::Program) -> Freezable {
        Freezable { program, on_fibers: Arc::default() }
    }

    pub fn on_fibers(&self, engine: &Engine) -> Result<&InstancePre<State>, wasmtime::Error> {
        if let Some(prepared) = self.on_fibers.get() {
            return Ok(prepared);
        }
        let prepared = self.program.prepare(&engine.fibers)?;
        Ok(self.on_fibers.get_or_init(|| prepared))
    }
}

/// What a cache entry was made of, beside the program.
#[derive(Hash)]
enum Rewriting {
    Freezable { version: u32, options: freeze::Options },
    None,
}

impl Program {
    /// BLAKE3 of the program's bytes.
    pub fn hash(&self) -> blake3::Hash {
        self.hash
    }

    /// Does it import anything of the module `una`?
    pub fn uses_una(&self) -> bool {
        let module = match &self.code {
            Code::Freezable(code) => code.program.module(),
            Code::Plain(module) => module,
        };
        module.imports().any(|import| import.module() == crate::una::MODULE)
    }

    /// The program as it was given.
    pub fn wasm(&self) -> &Arc<[u8]> {
        &self.wasm
    }

    pub fn is_freezable(&self) -> bool {
        matches!(self.code, Code::Freezable(_))
    }
}

impl Engine {
    /// Rewrites and compiles a program, or finds it in the cache. `progress` is told of long work.
    pub fn load(&self, wasm: impl Into<Arc<[u8]>>, progress: &mut dyn FnMut(Progress)) -> Result<Program, LoadError> {
        let wasm = wasm.into();
        let hash = blake3::hash(&wasm);
        let key = self.freezable_key(&hash);
        let done = |program| Ok(Program { code: Code::Freezable(Freezable::new(program)), hash, wasm: wasm.clone() });
        let find = || self.find(&key, |entry| self.freezable_from(&wasm, entry));
        if let Some(program) = find() {
            return done(program);
        }
        self.admit(&wasm)?;
        // Held until the entry is there.
        let _turn = self.turn(&key, &wasm, progress);
        if let Some(program) = find() {
            return done(program);
        }
        if self.borrow(&key, &hash)
            && let Some(program) = find()
        {
            return done(program);
        }
        let total = wasm.len() as u64;
        progress(Progress { phase: Phase::Rewriting, done: 0, total });
        let rewritten = freeze::rewrite(&wasm, &freeze::Options::for_engine(&self.wasmtime)).map_err(rewrite_error)?;
        progress(Progress { phase: Phase::Rewriting, done: total, total });
        let module = self.compile(&rewritten.wasm, progress)?;
        self.keep(&key, &module, &rewritten.map.to_bytes());
        done(self.with_continuations(freeze::Program::from_parts(wasm.clone(), rewritten.map, module)))
    }

    /// Loads a program as it is, to run a little faster or because it cannot be frozen.
    pub fn load_unfreezable(
        &self, wasm: impl Into<Arc<[u8]>>, progress: &mut dyn FnMut(Progress),
    ) -> Result<Program, LoadError> {
        let wasm = wasm.into();
        let hash = blake3::hash(&wasm);
        let key = Key::new(&hash, &self.wasmtime, Rewriting::None);
        let done = |module| Ok(Program { code: Code::Plain(module), hash, wasm: wasm.clone() });
        let find = || self.find(&key, |entry| self.module_from(entry));
        if let Some(module) = find() {
            return done(module);
        }
        self.admit(&wasm)?;
        let _turn = self.turn(&key, &wasm, progress);
        if let Some(module) = find() {
            return done(module);
        }
        let module = self.compile(&wasm, progress)?;
        self.keep(&key, &module, &[]);
        done(module)
    }

    /// Where a frozen process of this program stopped, innermost first. The program need not be compiled for it.
    pub fn backtrace(&self, wasm: &[u8], state: &freeze::image::State) -> Result<Vec<TraceFrame>, String> {
        let hash = blake3::hash(wasm);
        if state.identity.program != *hash.as_bytes() {
            return Err("the image is of another program".into());
        }
        let cached = self.cache.as_ref().and_then(|cache| cache.find(&self.freezable_key(&hash)));
        let map = match cached.and_then(|entry| Map::from_bytes(&entry.map)) {
            Some(map) => map,
            None => freeze::rewrite(wasm, &state.identity.options).map_err(|error| error.to_string())?.map,
        };
        let names = function_names(wasm);
        let frames = map.frames(wasm, &state.frames)?;
        let frame = |frame: &freeze::Frame| {
            let function = frame.host_call.as_ref().map_or(frame.function, |(import, _)| *import);
            let name = names.iter().find(|(index, _)| *index == function).map(|(_, name)| name.clone());
            TraceFrame { function, name }
        };
        Ok(frames.iter().rev().map(frame).collect())
    }

    fn admit(&self, wasm: &[u8]) -> Result<(), LoadError> {
        admission::examine(wasm, |module, name| {
            crate::wasi::provides(module, name) || crate::una::provides(module, name)
        })
    }

    fn freezable_key(&self, program: &blake3::Hash) -> Key {
        let rewriting =
            Rewriting::Freezable { version: freeze::VERSION, options: freeze::Options::for_engine(&self.wasmtime) };
        Key::new(program, &self.wasmtime, rewriting)
    }

    fn find<T>(&self, key: &Key, make: impl FnOnce(Entry) -> Option<T>) -> Option<T> {
        self.cache.as_ref()?.find(key).and_then(make)
    }

    fn turn(&self, key: &Key, wasm: &[u8], progress: &mut dyn FnMut(Progress)) -> Option<crate::cache::Turn> {
        let total = wasm.len() as u64;
        Some(self.cache.as_ref()?.take_turn(key, || progress(Progress { phase: Phase::Waiting, done: 0, total })))
    }

    /// Puts an entry of another engine into the cache, if one lends it.
    fn borrow(&self, key: &Key, program: &blake3::Hash) -> bool {
        let (Some(cache), Some(elsewhere)) = (&self.cache, self.elsewhere.get()) else { return false };
        elsewhere.code(program, &key.name()).is_some_and(|mut lent| cache.borrow(key, &mut lent))
    }

    fn compile(&self, wasm: &[u8], progress: &mut dyn FnMut(Progress)) -> Result<Module, LoadError> {
        progress::watch(wasm, progress, || Module::new(&self.wasmtime, wasm)).map_err(|error| {
            match error.downcast::<wasmparser::BinaryReaderError>() {
                Ok(error) => LoadError::Invalid { message: error.message().to_string(), offset: error.offset() as u64 },
                Err(error) => LoadError::Compile(error),
            }
        })
    }

    /// Puts compiled code into the cache. What cannot be kept is no reason not to run.
    fn keep(&self, key: &Key, module: &Module, map: &[u8]) {
        if let Some(cache) = &self.cache
            && let Ok(code) = module.serialize()
        {
            let _ = cache.keep(key, &code, map);
        }
    }

    fn module_from(&self, entry: Entry) -> Option<Module> {
        // SAFETY: the entry is what `keep` wrote from `Module::serialize`, by its checksum; that nobody but the user writes to
        // the cache is the condition of `Options::cache`, and the cache looks at the directory's mode. Entries are
        // replaced by renaming and never written to, so the mapped file does not change.
        unsafe { Module::deserialize_open_file(&self.wasmtime, entry.code) }.ok()
    }

    fn freezable_from(&self, wasm: &Arc<[u8]>, entry: Entry) -> Option<freeze::Program> {
        let map = Map::from_bytes(&entry.map)?;
        let module = self.module_from(entry)?;
        Some(self.with_continuations(freeze::Program::from_parts(wasm.clone(), map, module)))
    }

    fn with_continuations(&self, program: freeze::Program) -> freeze::Program {
        match &self.cache {
            Some(cache) => program.with_continuation_store(&cache.continuations()),
            None => program,
        }
    }
}

fn rewrite_error(error: RewriteError) -> LoadError {
    match error {
        RewriteError::Invalid { message, offset } => LoadError::Invalid { message, offset: offset as u64 },
        RewriteError::Unsupported { function, construct } => {
            LoadError::Unfreezable { function: Some(function), construct }
        }
        RewriteError::UnsupportedModule { construct } => LoadError::Unfreezable { function: None, construct },
    }
}

/// Functions by index, from the name section, and the names of imports.
fn function_names(wasm: &[u8]) -> Vec<(u32, String)> {
    let mut names = vec![];
    for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
        let Payload::CustomSection(section) = payload else { continue };
        let KnownCustom::Name(section) = section.as_known() else { continue };
        for part in section.into_iter().map_while(Result::ok) {
            if let Name::Function(map) = part {
                names.extend(
                    map.into_iter().map_while(Result::ok).map(|naming| (naming.index, naming.name.to_string())),
                );
            }
        }
    }
    names
}
