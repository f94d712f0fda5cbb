//! A running instance: call it, ask it to stop, capture it, continue it. Knows nothing of how code is rewritten.
//!
//! ```text
//!            call                 stop asked for           resume
//!   Idle ----------->  running  ------------------> Frozen -------> running
//!    ^                   |                            |  ^
//!    +------ returns ----+                    capture |  | thaw (another store, process or machine)
//!                                                     v  |
//!                                                    image
//! ```

use crate::error::{CaptureError, ImageError, LostError, ProgramError};
use crate::image::{self, Identity, Pages, Piece, State, Value};
use crate::planted::{Bug, planted};
use crate::rewrite::output::{Analyst, PointInfo, walk};
use crate::rewrite::{self, FRAMES_BASE, Frame, HOST_REFUSES, HOST_WORD, Map, Options, PointId, Poll, VERSION};
use std::cell::UnsafeCell;
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use wasmtime::{
    AsContextMut, Caller, Engine, Error, Extern, Func, FuncType, Global, Instance, InstancePre, Linker, Memory, Module,
    Ref, RefType, SharedMemory, Table, TableType, UpdateDeadline, V128, Val, ValType,
};

/// A rewritten, compiled program with its map and the continuations compiled so far. Cheap to clone.
#[derive(Clone)]
pub struct Program {
    inner: Arc<Inner>,
}

struct Inner {
    wasm: Arc<[u8]>,
    map: Map,
    module: Module,
    store: Option<PathBuf>,
    points: Mutex<Batches>,
}

/// Continuations that were compiled together, those of one stopped stack: one module costs little more than the code in it.
struct Batch {
    points: BTreeMap<PointId, PointInfo>,
    module: Module,
}

/// In which batch each point's continuation is.
type Batches = HashMap<PointId, Arc<Batch>>;

/// One instance of a program.
pub struct Process {
    program: Program,
    instance: Instance,
    top: Global,
    unwinding: Global,
    references_top: Global,
    references: Table,
    frames: Memory,
    flag: FreezeRequest,
    /// For [`Poll::LocalFlag`]: what the program polls.
    local_flag: Option<Memory>,
    stopped: bool,
    /// Made at the first continuation: the table of continuations, and the functions made so far.
    continuations: Option<Table>,
    made: HashMap<PointId, Func>,
    host_results: Option<Vec<Val>>,
}

/// Asks a process to stop, from any thread; cheap to clone. It may outlive the process. A program rewritten with
/// [`Poll::Countdown`] has no flag and does not hear it.
#[derive(Clone)]
pub struct FreezeRequest {
    flag: Flag,
}

#[derive(Clone)]
enum Flag {
    Shared(SharedMemory),
    Local(Arc<LocalFlag>),
    None,
}

/// The wish to stop, beside the memory that the program polls: the running thread copies it there when the epoch changes.
struct LocalFlag {
    asked: AtomicBool,
    engine: Engine,
}

/// How a call or a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Returned,
    /// The stack is unwound and saved: capture it, or resume it. The results were not written.
    Frozen,
}

/// What [`Program::thaw`] gives.
pub struct Thawed {
    pub process: Process,
    /// What the image's writer attached, by name.
    pub attachments: BTreeMap<String, Vec<u8>>,
}

impl Program {
    /// Rewrites and compiles a program.
    pub fn new(engine: &Engine, wasm: &[u8], options: &Options) -> Result<Program, ProgramError> {
        let rewritten = rewrite::rewrite(wasm, options)?;
        let module = Module::new(engine, &rewritten.wasm).map_err(ProgramError::Engine)?;
        Ok(Program::from_parts(wasm.into(), rewritten.map, module))
    }

    /// From parts that were made before: the original module, its map, and the compiled rewritten module.
    pub fn from_parts(wasm: Arc<[u8]>, map: Map, module: Module) -> Program {
        Program { inner: Arc::new(Inner { wasm, map, module, store: None, points: Default::default() }) }
    }

    /// Keeps compiled continuations in this directory too, where other processes find them.
    ///
    /// The files hold machine code: a directory that others can write to lets them run code in this process. Damaged files
    /// are noticed by their checksums and made anew.
    pub fn with_continuation_store(self, directory: &Path) -> Program {
        let Inner { wasm, map, module, .. } = &*self.inner;
        let (wasm, map, module) = (wasm.clone(), map.clone(), module.clone());
        Program {
            inner: Arc::new(Inner { wasm, map, module, store: Some(directory.into()), points: Default::default() }),
        }
    }

    pub fn module(&self) -> &Module {
        &self.inner.module
    }

    pub fn map(&self) -> &Map {
        &self.inner.map
    }

    /// The original module.
    pub fn wasm(&self) -> &Arc<[u8]> {
        &self.inner.wasm
    }

    /// Makes an instance. The program's start function, if it has one, has not run yet: see [`Process::start`].
    pub fn instantiate<T: Send + 'static>(
        &self, mut store: impl AsContextMut<Data = T>, linker: &Linker<T>,
    ) -> Result<Process, Error> {
        self.quiet(&mut store);
        let instance = linker.instantiate(&mut store, self.module())?;
        Process::new(self.clone(), instance, &mut store)
    }

    /// What [`Program::instantiate_async`] makes instances of: imports are looked up once for all of them.
    pub fn prepare<T: 'static>(&self, linker: &Linker<T>) -> Result<InstancePre<T>, Error> {
        linker.instantiate_pre(self.module())
    }

    /// [`Program::instantiate`] for linkers with asynchronous host functions; `prepared` is of this program.
    pub async fn instantiate_async<T: Send + 'static>(
        &self, mut store: impl AsContextMut<Data = T>, prepared: &InstancePre<T>,
    ) -> Result<Process, Error> {
        self.quiet(&mut store);
        let instance = prepared.instantiate_async(&mut store).await?;
        Process::new(self.clone(), instance, &mut store)
    }

    /// What sets an instance up is the program's code too, and there is nobody yet to answer at a deadline.
    fn quiet(&self, mut store: impl AsContextMut) {
        if self.inner.map.options.poll == Poll::LocalFlag {
            store.as_context_mut().set_epoch_deadline(u64::MAX / 2);
        }
    }

    /// Makes an instance in the state that an image holds: [`Process::resume`] then continues it.
    ///
    /// The image must be of this program. Its memory is read as a stream. After an error the store should be dropped, since an
    /// instance that was filled in part stays in it.
    ///
    /// A continuation may need more of the engine's stack than the call that it stands for, so a process that stopped near the
    /// limit can end in a stack overflow when it is resumed. Its image is as good as before: where stacks are deep, images should
    /// be thawed on an engine with a larger `max_wasm_stack` than the one the program ran on.
    pub fn thaw<T: Send + 'static>(
        &self, mut store: impl AsContextMut<Data = T>, linker: &Linker<T>, image: impl Read,
    ) -> Result<Thawed, ProgramError> {
        self.thaw_reader(&mut store, linker, &mut image::Reader::open(image)?)
    }

    /// The same for an image whose beginning has been read.
    pub fn thaw_reader<T: Send + 'static>(
        &self, mut store: impl AsContextMut<Data = T>, linker: &Linker<T>, image: &mut image::Reader<impl Read>,
    ) -> Result<Thawed, ProgramError> {
        if image.state().identity != self.identity() {
            return Err(ImageError::OtherProgram.into());
        }
        let process = self.instantiate(&mut store, linker).map_err(ProgramError::Engine)?;
        at_once(self.fill_by(Calls::Here, process, &mut store, image))
    }

    /// Puts an instance that has not run into the state that an image holds, for linkers with asynchronous host functions: the second part
    /// of a thaw, whose first is [`Program::instantiate_async`].
    pub async fn fill_reader_async<T: Send + 'static>(
        &self, process: Process, store: impl AsContextMut<Data = T>, image: &mut image::Reader<impl Read>,
    ) -> Result<Thawed, ProgramError> {
        self.fill_by(Calls::OnFiber, process, store, image).await
    }

    async fn fill_by<T: Send + 'static>(
        &self, calls: Calls, mut process: Process, mut store: impl AsContextMut<Data = T>,
        image: &mut image::Reader<impl Read>,
    ) -> Result<Thawed, ProgramError> {
        if image.state().identity != self.identity() {
            return Err(ImageError::OtherProgram.into());
        }
        process.restore(calls, &mut store, image).await?;
        let attachments = image.state().attachments.clone();
        Ok(Thawed { process, attachments })
    }

    fn identity(&self) -> Identity {
        Identity { program: self.inner.map.program, options: self.inner.map.options.in_images() }
    }

    /// The continuations of these frames, compiled now where they were not before.
    fn continuations(&self, frames: &[u8]) -> Result<(Vec<Frame>, Batches), ProgramError> {
        let inner = &*self.inner;
        let mut known = Batches::new();
        let mut missing: BTreeMap<PointId, PointInfo> = BTreeMap::new();
        let mut analyst: Option<Analyst> = None;
        let frames = walk(frames, |point| {
            if let Some(batch) = known.get(&point) {
                return Ok(batch.points[&point].clone());
            }
            if let Some(info) = missing.get(&point) {
                return Ok(info.clone());
            }
            if let Some(batch) = self.find(point) {
                let info = batch.points[&point].clone();
                known.insert(point, batch);
                return Ok(info);
            }
            let analyst = match &mut analyst {
                Some(analyst) => analyst,
                none => none.insert(Analyst::new(&inner.map, &inner.wasm)?),
            };
            let info = analyst.info(point).map_err(|error| Unfit::from(error.to_string()))?;
            missing.insert(point, info.clone());
            Ok(info)
        })
        .map_err(|Unfit(error)| error)?;
        if let Some(mut analyst) = analyst {
            let wasm = analyst.continuations(&missing.keys().copied().collect())?;
            let module = Module::new(inner.module.engine(), &wasm).map_err(ProgramError::Engine)?;
            let batch = Arc::new(Batch { points: missing, module });
            self.keep(&batch);
            let mut cache = inner.points.lock().expect("no code panics while it holds this lock");
            for point in batch.points.keys() {
                cache.insert(*point, batch.clone());
                known.insert(*point, batch.clone());
            }
        }
        Ok((frames, known))
    }

    /// A continuation from the caches.
    fn find(&self, point: PointId) -> Option<Arc<Batch>> {
        let mut cache = self.inner.points.lock().expect("no code panics while it holds this lock");
        if let Some(batch) = cache.get(&point) {
            return Some(batch.clone());
        }
        let batch = Arc::new(self.load(point)?);
        for point in batch.points.keys() {
            cache.entry(*point).or_insert_with(|| batch.clone());
        }
        Some(batch)
    }

    /// Where a point's continuation is kept: one name for each point, links to the file of its batch.
    fn file(&self, point: PointId) -> Option<PathBuf> {
        use std::hash::{Hash, Hasher};
        let directory = self.inner.store.as_ref()?;
        let mut hasher = std::hash::DefaultHasher::new();
        self.inner.module.engine().precompile_compatibility_hash().hash(&mut hasher);
        (VERSION, &self.inner.map.options).hash(&mut hasher);
        let program = blake3::Hash::from_bytes(self.inner.map.program).to_hex();
        Some(directory.join(format!("{}-{:016x}-{}.continuation", &program[..32], hasher.finish(), point.0)))
    }

    fn load(&self, point: PointId) -> Option<Batch> {
        let bytes = std::fs::read(self.file(point)?).ok()?;
        let (checksum, content) = bytes.split_at_checked(32)?;
        if blake3::hash(content) != *<&[u8; 32]>::try_from(checksum).ok()? {
            return None;
        }
        let mut input = rewrite::Reader(content);
        let mut points = BTreeMap::new();
        for _ in 0..input.u32()? {
            let (point, size, function, is_host_call) = (input.u32()?, input.u32()?, input.u32()?, input.u32()? != 0);
            let results = input.list()?.into_iter().map(rewrite::type_of_code).collect::<Option<_>>()?;
            points.insert(PointId(point), PointInfo { size, function, results, is_host_call });
        }
        points.contains_key(&point).then_some(())?;
        // SAFETY: the bytes are what `keep` wrote, by their checksum; that nobody else writes to the directory is the condition
        // of `with_continuation_store`.
        let module = unsafe { Module::deserialize(self.inner.module.engine(), input.0) }.ok()?;
        Some(Batch { points, module })
    }

    /// Writes continuations to the store. That they cannot be kept costs time later, nothing else.
    fn keep(&self, batch: &Batch) {
        let Some(first) = batch.points.keys().next().and_then(|point| self.file(*point)) else {
            return;
        };
        let Ok(module) = batch.module.serialize() else {
            return;
        };
        let mut content = rewrite::Writer(vec![]);
        content.u32(batch.points.len() as u32);
        for (point, info) in &batch.points {
            let PointInfo { size, function, results, is_host_call } = info;
            [point.0, *size, *function, *is_host_call as u32].into_iter().for_each(|word| content.u32(word));
            let Some(results) = results.iter().map(|ty| rewrite::code_of_type(*ty)).collect::<Option<Vec<u32>>>()
            else {
                return;
            };
            content.list(&results);
        }
        content.0.extend_from_slice(&module);
        let mut bytes = blake3::hash(&content.0).as_bytes().to_vec();
        bytes.extend_from_slice(&content.0);
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let temporary = || {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            first.with_extension(format!("{}-{number}.new", std::process::id()))
        };
        let written = temporary();
        if std::fs::write(&written, &bytes).is_ok() {
            for file in batch.points.keys().filter_map(|point| self.file(*point)) {
                // A link under another name first: renaming replaces what may be there in one step.
                let link = temporary();
                let _ = std::fs::hard_link(&written, &link).and_then(|()| std::fs::rename(&link, &file));
                let _ = std::fs::remove_file(&link);
            }
        }
        let _ = std::fs::remove_file(&written);
    }
}

/// Lets `walk` report its own complaints as an image that contradicts itself.
struct Unfit(ProgramError);

impl From<String> for Unfit {
    fn from(what: String) -> Unfit {
        Unfit(ImageError::Inconsistent { what }.into())
    }
}

impl From<crate::RewriteError> for Unfit {
    fn from(error: crate::RewriteError) -> Unfit {
        Unfit(error.into())
    }
}

fn missing(name: &str) -> Error {
    Error::msg(format!("the module has no export `{name}`: it was not rewritten by this version"))
}

impl Process {
    fn new(program: Program, instance: Instance, mut store: impl AsContextMut) -> Result<Process, Error> {
        let store = &mut store;
        let mut global = |name: &str| instance.get_global(&mut *store, name).ok_or_else(|| missing(name));
        let (top, unwinding) = (global("freeze:top")?, global("freeze:unwinding")?);
        let references_top = global("freeze:references-top")?;
        let references =
            instance.get_table(&mut *store, "freeze:references").ok_or_else(|| missing("freeze:references"))?;
        let frames = instance.get_memory(&mut *store, "freeze:frames").ok_or_else(|| missing("freeze:frames"))?;
        let mut local_flag = None;
        let name = "freeze:flag";
        let flag = match program.map().options.poll {
            Poll::Flag => Flag::Shared(instance.get_shared_memory(&mut *store, name).ok_or_else(|| missing(name))?),
            Poll::LocalFlag => {
                local_flag = Some(instance.get_memory(&mut *store, name).ok_or_else(|| missing(name))?);
                let engine = program.module().engine().clone();
                Flag::Local(Arc::new(LocalFlag { asked: AtomicBool::new(false), engine }))
            }
            Poll::Countdown => Flag::None,
        };
        Ok(Process {
            program,
            instance,
            top,
            unwinding,
            references_top,
            references,
            frames,
            flag: FreezeRequest { flag },
            local_flag,
            stopped: false,
            continuations: None,
            made: HashMap::new(),
            host_results: None,
        })
    }

    pub fn instance(&self) -> Instance {
        self.instance
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    pub fn freeze_request(&self) -> FreezeRequest {
        self.flag.clone()
    }

    /// Lets a process that polls a flag of its own ([`Poll::LocalFlag`]) hear its freeze requests: call this once for each process,
    /// before it runs. The engine must have epoch interruption (see [`crate::configure_pulley`]); the store's epoch callback is
    /// replaced, so of several such processes in one store only the last hears. For all other processes this does nothing.
    pub fn listen<T: 'static>(&self, store: &mut wasmtime::Store<T>) {
        if let (Some(memory), Flag::Local(flag)) = (self.local_flag, &self.flag.flag) {
            let flag = flag.clone();
            store.epoch_deadline_callback(move |mut store| {
                flag.show(memory, &mut store);
                Ok(UpdateDeadline::Continue(1))
            });
            store.set_epoch_deadline(1);
        }
    }

    /// A request from before the process runs reaches its flag here, a later one by the change of epoch.
    fn look_at_flag(&self, mut store: impl AsContextMut) {
        if let (Some(memory), Flag::Local(flag)) = (self.local_flag, &self.flag.flag) {
            store.as_context_mut().set_epoch_deadline(1);
            flag.show(memory, store);
        }
    }

    /// Is it stopped, so that it can be captured and resumed?
    pub fn is_frozen(&self) -> bool {
        self.stopped
    }

    /// Runs the start function, if the program has one. It can be frozen like any other call.
    pub fn start(&mut self, mut store: impl AsContextMut) -> Result<Exit, Error> {
        match self.instance.get_func(&mut store, "freeze:start") {
            Some(start) => self.enter(store, start, &[], &mut []),
            None => Ok(Exit::Returned),
        }
    }

    /// [`Process::start`] on a fiber, for stores with asynchronous host functions.
    pub async fn start_async<T: Send + 'static>(
        &mut self, mut store: impl AsContextMut<Data = T>,
    ) -> Result<Exit, Error> {
        match self.instance.get_func(&mut store, "freeze:start") {
            Some(_) => self.call_async(store, "freeze:start", &[], &mut []).await,
            None => Ok(Exit::Returned),
        }
    }

    /// Calls an exported function. `results` has the length of the function's results; it is written if it returns.
    pub fn call(
        &mut self, mut store: impl AsContextMut, export: &str, arguments: &[Val], results: &mut [Val],
    ) -> Result<Exit, Error> {
        let function = self
            .instance
            .get_func(&mut store, export)
            .ok_or_else(|| Error::msg(format!("the program has no exported function `{export}`")))?;
        self.enter(store, function, arguments, results)
    }

    /// [`Process::call`] on a fiber, for stores with asynchronous host functions.
    pub async fn call_async<T: Send + 'static>(
        &mut self, mut store: impl AsContextMut<Data = T>, export: &str, arguments: &[Val], results: &mut [Val],
    ) -> Result<Exit, Error> {
        let function = self
            .instance
            .get_func(&mut store, export)
            .ok_or_else(|| Error::msg(format!("the program has no exported function `{export}`")))?;
        self.must_be_idle()?;
        self.look_at_flag(&mut store);
        let outcome = function.call_async(&mut store, arguments, results).await;
        self.leave(store, outcome)
    }

    fn must_be_idle(&self) -> Result<(), Error> {
        if self.stopped {
            return Err(Error::msg("the process is frozen: resume it before calling it again"));
        }
        Ok(())
    }

    fn enter(
        &mut self, mut store: impl AsContextMut, function: Func, arguments: &[Val], results: &mut [Val],
    ) -> Result<Exit, Error> {
        self.must_be_idle()?;
        self.look_at_flag(&mut store);
        let outcome = function.call(&mut store, arguments, results);
        self.leave(store, outcome)
    }

    /// After a call has come back: did it return, was it unwound, or did it fail?
    fn leave(&mut self, mut store: impl AsContextMut, outcome: Result<(), Error>) -> Result<Exit, Error> {
        let unwound = self.unwinding.get(&mut store).unwrap_i32() != 0;
        if outcome.is_ok() && !unwound {
            return Ok(Exit::Returned);
        }
        self.unwinding.set(&mut store, Val::I32(0))?;
        let word = HOST_WORD as usize..HOST_WORD as usize + 4;
        let host = u32::from_le_bytes(self.frames.data(&store)[word.clone()].try_into().expect("four bytes"));
        if outcome.is_ok() && host == 0 {
            self.stopped = true;
            return Ok(Exit::Frozen);
        }
        // The stack is lost, and what was saved of it, or not loaded yet, with it: the process is as between two calls.
        self.frames.data_mut(&mut store)[word].fill(0);
        self.top.set(&mut store, Val::I32(FRAMES_BASE as i32))?;
        self.references_top.set(&mut store, Val::I32(0))?;
        if host == 0 {
            return outcome.map(|()| Exit::Returned);
        }
        let mut functions = self.program.module().imports().filter(|import| import.ty().func().is_some());
        let import = functions.nth((host & !HOST_REFUSES) as usize - 1);
        let function = import.map_or("?".to_string(), |import| format!("{}.{}", import.module(), import.name()));
        Err(Error::new(match host & HOST_REFUSES {
            0 => LostError::HostInside { function },
            _ => LostError::NotInterruptible { function },
        }))
    }

    /// Continues a frozen process where it stopped. `results` are those of the call that was frozen.
    pub fn resume<T: Send + 'static>(
        &mut self, mut store: impl AsContextMut<Data = T>, results: &mut [Val],
    ) -> Result<Exit, Error> {
        let outermost = at_once(self.prepare(Calls::Here, &mut store))?;
        self.look_at_flag(&mut store);
        let outcome = outermost.call(&mut store, &[], results);
        self.leave(store, outcome)
    }

    /// [`Process::resume`] on a fiber, for stores with asynchronous host functions.
    pub async fn resume_async<T: Send + 'static>(
        &mut self, mut store: impl AsContextMut<Data = T>, results: &mut [Val],
    ) -> Result<Exit, Error> {
        let outermost = self.prepare(Calls::OnFiber, &mut store).await?;
        self.look_at_flag(&mut store);
        let outcome = outermost.call_async(&mut store, &[], results).await;
        self.leave(store, outcome)
    }

    /// The types of the results that [`Process::resume`] gives.
    pub fn result_types(&self, store: impl AsContextMut) -> Result<Vec<ValType>, Error> {
        let frames = self.frames(store)?;
        let outermost = frames.first().ok_or_else(|| Error::msg("the process is not frozen"))?;
        self.engine_types(&outermost.results)
    }

    fn engine_types(&self, types: &[wasmparser::ValType]) -> Result<Vec<ValType>, Error> {
        types
            .iter()
            .map(|ty| match ty {
                wasmparser::ValType::I32 => Ok(ValType::I32),
                wasmparser::ValType::I64 => Ok(ValType::I64),
                wasmparser::ValType::F32 => Ok(ValType::F32),
                wasmparser::ValType::F64 => Ok(ValType::F64),
                wasmparser::ValType::V128 => Ok(ValType::V128),
                ty if *ty == wasmparser::ValType::FUNCREF => Ok(ValType::FUNCREF),
                ty if *ty == wasmparser::ValType::EXTERNREF => Ok(ValType::EXTERNREF),
                ty => Err(Error::msg(format!("a host cannot give values of type {ty}"))),
            })
            .collect()
    }

    fn frame_bytes(&self, mut store: impl AsContextMut) -> Result<Vec<u8>, Error> {
        if !self.stopped {
            return Ok(vec![]);
        }
        let top = self.top.get(&mut store).unwrap_i32() as u32 as usize;
        let bytes = self.frames.data(&store).get(FRAMES_BASE as usize..top);
        Ok(bytes.ok_or_else(|| Error::msg("the frames are not where they should be"))?.to_vec())
    }

    /// Where a frozen process stopped: its frames, outermost first. Empty if it is not frozen.
    pub fn frames(&self, store: impl AsContextMut) -> Result<Vec<Frame>, Error> {
        let bytes = self.frame_bytes(store)?;
        self.program.inner.map.frames(&self.program.inner.wasm, &bytes).map_err(Error::msg)
    }

    /// Hands over the results of the host call in which the process is frozen: on continuation it returns them instead of
    /// being issued again.
    pub fn complete_host_call(&mut self, store: impl AsContextMut, results: &[Val]) -> Result<(), Error> {
        let frames = self.frames(store)?;
        let Some(Frame { host_call: Some((_, types)), .. }) = frames.last() else {
            return Err(Error::msg("the process is not frozen in a host call"));
        };
        if types.len() != results.len() {
            return Err(Error::msg(format!("the host call has {} results, not {}", types.len(), results.len())));
        }
        self.host_results = Some(results.to_vec());
        Ok(())
    }

    /// Puts the continuations in place; returns the outermost one.
    async fn prepare<T: Send + 'static>(
        &mut self, calls: Calls, mut store: impl AsContextMut<Data = T>,
    ) -> Result<Func, Error> {
        if !self.stopped {
            return Err(Error::msg("the process is not frozen: there is nothing to resume"));
        }
        let mut bytes = self.frame_bytes(&mut store)?;
        let (frames, continuations) = self.program.continuations(&bytes).map_err(Error::new)?;
        if frames.is_empty() {
            return Err(Error::msg(
                "a frozen process without frames: a host function interrupted a call that cannot be unwound",
            ));
        }
        let table = match self.continuations {
            Some(table) => table,
            None => {
                let ty = TableType::new(RefType::FUNCREF, 0, None);
                *self.continuations.insert(Table::new(&mut store, ty, Ref::Func(None))?)
            }
        };
        let mut slots: HashMap<PointId, u32> = HashMap::new();
        let mut functions: Vec<Func> = vec![];
        let innermost = frames.len() - 1;
        let mut outermost = None;
        for (index, frame) in frames.iter().enumerate() {
            let id = frame.values.end;
            let slot = if index == innermost && self.host_results.is_some() {
                let results = self.host_results.take().expect("looked at just now");
                functions.push(self.returning(&mut store, frame, results)?);
                // The values of the host call are not needed any more: the slot moves down over them.
                bytes.drain(frame.values.clone());
                bytes[..4].copy_from_slice(&(functions.len() as u32 - 1).to_le_bytes());
                functions.len() as u32 - 1
            } else {
                let slot = match slots.get(&frame.point) {
                    Some(slot) => *slot,
                    None => {
                        let function =
                            self.make(calls, &mut store, frame.point, &continuations[&frame.point], table).await?;
                        functions.push(function);
                        slots.insert(frame.point, functions.len() as u32 - 1);
                        functions.len() as u32 - 1
                    }
                };
                bytes[id..id + 4].copy_from_slice(&slot.to_le_bytes());
                slot
            };
            outermost.get_or_insert(functions[slot as usize]);
        }
        let size = table.size(&store);
        if size < functions.len() as u64 {
            table.grow(&mut store, functions.len() as u64 - size, Ref::Func(None))?;
        }
        for (slot, function) in functions.iter().enumerate() {
            table.set(&mut store, slot as u64, Ref::Func(Some(*function)))?;
        }
        let base = FRAMES_BASE as usize;
        self.frames.data_mut(&mut store)[base..base + bytes.len()].copy_from_slice(&bytes);
        self.top.set(&mut store, Val::I32((base + bytes.len() - 4) as i32))?;
        self.references_top.set(&mut store, Val::I32(0))?;
        self.stopped = false;
        Ok(outermost.expect("there is at least one frame"))
    }

    fn returning(&self, mut store: impl AsContextMut, frame: &Frame, values: Vec<Val>) -> Result<Func, Error> {
        let types = self.engine_types(&frame.results)?;
        let ty = FuncType::new(self.program.module().engine(), [], types);
        Ok(Func::new(&mut store, ty, move |_, _, results| {
            results.copy_from_slice(&values);
            Ok(())
        }))
    }

    /// The continuation of a point as a function of this store.
    async fn make<T: Send + 'static>(
        &mut self, calls: Calls, mut store: impl AsContextMut<Data = T>, point: PointId, batch: &Batch, table: Table,
    ) -> Result<Func, Error> {
        if let Some(function) = self.made.get(&point) {
            return Ok(*function);
        }
        let mut imports: Vec<Extern> = vec![];
        for import in batch.module.imports() {
            imports.push(match import.name() {
                "conts" => table.into(),
                name => self.instance.get_export(&mut store, name).ok_or_else(|| missing(name))?,
            });
        }
        let instance = match calls {
            Calls::Here => Instance::new(&mut store, &batch.module, &imports)?,
            Calls::OnFiber => Instance::new_async(&mut store, &batch.module, &imports).await?,
        };
        for point in batch.points.keys() {
            let name = format!("c{}", point.0);
            let function = instance.get_func(&mut store, &name).ok_or_else(|| missing(&name))?;
            self.made.insert(*point, function);
        }
        Ok(self.made[&point])
    }

    /// For programs rewritten with [`Poll::Countdown`]: the process stops at the `polls`-th poll from now (zero: never). The
    /// first poll after a continuation is the one it stopped at, if it stopped at one.
    pub fn set_countdown(&self, mut store: impl AsContextMut, polls: i64) -> Result<(), Error> {
        let name = "freeze:countdown";
        let global = self.instance.get_global(&mut store, name).ok_or_else(|| missing(name))?;
        global.set(&mut store, Val::I64(polls))
    }

    /// A memory of the program by its index, imported ones included.
    pub fn memory(&self, mut store: impl AsContextMut, index: u32) -> Option<Memory> {
        self.instance.get_memory(&mut store, &format!("freeze:m{index}"))
    }

    // Capture.

    /// Writes a frozen process as an image, with what the host attaches to it. The process stays frozen: it can be captured
    /// again, resumed, or dropped.
    pub fn capture<W: Write>(
        &self, mut store: impl AsContextMut, out: W, pages: Pages, attachments: BTreeMap<String, Vec<u8>>,
    ) -> Result<W, CaptureError> {
        if !self.stopped {
            return Err(CaptureError::NotStopped);
        }
        let state = State { pages, ..self.state(&mut store, attachments)? };
        let mut writer = image::Writer::new(out, &state)?;
        if pages == Pages::Included {
            for index in 0..state.memories.len() as u32 {
                let memory = self.memory(&mut store, index).expect("the memory was measured just now");
                write_memory(&mut writer, index, memory.data(&store))?;
            }
        }
        Ok(writer.finish()?)
    }

    /// All of the state but the memories' contents.
    pub fn state(
        &self, mut store: impl AsContextMut, attachments: BTreeMap<String, Vec<u8>>,
    ) -> Result<State, CaptureError> {
        let store = &mut store;
        let map = self.program.map();
        let not_rewritten = |error: Error| CaptureError::Write(std::io::Error::other(error.to_string()));
        let functions = FunctionIndex::new(self.instance, &map.referable);
        let mut globals = vec![];
        for (index, _) in &map.globals {
            let name = format!("freeze:g{index}");
            let global = self.instance.get_global(&mut *store, &name).ok_or_else(|| not_rewritten(missing(&name)))?;
            let value = match global.get(&mut *store) {
                Val::I32(value) => Value::I32(value as u32),
                Val::I64(value) => Value::I64(value as u64),
                Val::F32(bits) => Value::F32(bits),
                Val::F64(bits) => Value::F64(bits),
                Val::V128(bits) => Value::V128(bits.as_u128()),
                Val::FuncRef(function) => {
                    Value::Function(functions.index(&mut *store, function, || format!("global {index}"))?)
                }
                _ => {
                    return Err(CaptureError::ForeignReference { place: format!("global {index}") });
                }
            };
            globals.push((*index, value));
        }
        let read_table = |store: &mut _, table: Table, entries: u64, place: &str| {
            let mut list = vec![];
            for entry in 0..entries {
                let place = || format!("{place}, entry {entry}");
                list.push(match table.get(&mut *store, entry) {
                    Some(Ref::Func(function)) => functions.index(&mut *store, function, place)?,
                    _ => return Err(CaptureError::ForeignReference { place: place() }),
                });
            }
            Ok(list)
        };
        let mut tables = vec![];
        for index in &map.tables {
            let name = format!("freeze:t{index}");
            let table = self.instance.get_table(&mut *store, &name).ok_or_else(|| not_rewritten(missing(&name)))?;
            let entries = table.size(&*store);
            tables.push((*index, read_table(&mut *store, table, entries, &format!("table {index}"))?));
        }
        let held = self.references_top.get(&mut *store).unwrap_i32() as u32 as u64;
        let references = read_table(&mut *store, self.references, held, "the stack")?;
        let mut dropped = |kind: &str, segments: &[u32]| {
            let is_dropped = |segment: &&u32| {
                let name = format!("freeze:dropped-{kind}{segment}");
                let global = self.instance.get_global(&mut *store, &name);
                global.is_some_and(|global| global.get(&mut *store).unwrap_i32() != 0)
            };
            segments.iter().filter(is_dropped).copied().collect::<Vec<_>>()
        };
        let (dropped_data, dropped_elem) = (dropped("data", &map.droppable_data), dropped("elem", &map.droppable_elem));
        let mut memories = vec![];
        for index in 0..map.memories.len() as u32 {
            let memory = self.memory(&mut *store, index).ok_or_else(|| not_rewritten(missing("freeze:m")))?;
            memories.push(memory.data_size(&*store) as u64);
        }
        let frames = self.frame_bytes(&mut *store).map_err(not_rewritten)?;
        let identity = self.program.identity();
        Ok(State {
            identity,
            attachments,
            globals,
            tables,
            references,
            dropped_data,
            dropped_elem,
            memories,
            pages: Pages::Included,
            frames,
        })
    }

    // Thaw.

    async fn restore<T: Send + 'static>(
        &mut self, calls: Calls, mut store: impl AsContextMut<Data = T>, image: &mut image::Reader<impl Read>,
    ) -> Result<(), ProgramError> {
        let store = &mut store;
        let state = image.state();
        let map = self.program.map().clone();
        let unfit = |what: String| ProgramError::Image(ImageError::Inconsistent { what });
        if state.memories.len() != map.memories.len() {
            return Err(unfit(format!("it has {} memories, the program {}", state.memories.len(), map.memories.len())));
        }
        for (index, size) in state.memories.iter().enumerate() {
            let memory =
                self.memory(&mut *store, index as u32).ok_or_else(|| unfit(format!("there is no memory {index}")))?;
            let (present, page) = (memory.data_size(&*store) as u64, memory.page_size(&*store));
            let more = size.checked_sub(present).filter(|more| more % page == 0);
            let more = more.ok_or_else(|| unfit(format!("memory {index} cannot have {size} bytes")))?;
            memory
                .grow(&mut *store, more / page)
                .map_err(|_| unfit(format!("memory {index} cannot have {size} bytes")))?;
        }
        let function = |process: &Process, store: &mut _, index: Option<u32>| -> Result<Option<Func>, ProgramError> {
            let Some(index) = index else { return Ok(None) };
            let name = format!("freeze:f{index}");
            let found =
                map.referable.binary_search(&index).ok().and_then(|_| process.instance.get_func(&mut *store, &name));
            found.map(Some).ok_or_else(|| unfit(format!("nothing can refer to function {index}")))
        };
        if !state.globals.iter().map(|(index, _)| *index).eq(map.globals.iter().map(|(index, _)| *index)) {
            return Err(unfit("its globals are not those of the program".into()));
        }
        for (index, value) in &state.globals {
            let value = match value {
                Value::I32(value) => Val::I32(*value as i32),
                Value::I64(value) => Val::I64(*value as i64),
                Value::F32(bits) => Val::F32(*bits),
                Value::F64(bits) => Val::F64(*bits),
                Value::V128(bits) => Val::V128(V128::from(*bits)),
                Value::Function(index) => Val::FuncRef(function(self, &mut *store, *index)?),
            };
            let global = self.instance.get_global(&mut *store, &format!("freeze:g{index}"));
            let set = global.map(|global| global.set(&mut *store, value));
            set.and_then(Result::ok).ok_or_else(|| unfit(format!("global {index} cannot have this value")))?;
        }
        if !state.tables.iter().map(|(index, _)| *index).eq(map.tables.iter().copied()) {
            return Err(unfit("its tables are not those of the program".into()));
        }
        let references = (self.references, &state.references, "the stack".to_string());
        let mut tables = vec![references];
        for (index, entries) in &state.tables {
            let place = format!("table {index}");
            let table = self.instance.get_table(&mut *store, &format!("freeze:t{index}"));
            tables.push((table.ok_or_else(|| unfit(format!("there is no {place}")))?, entries, place));
        }
        for (table, entries, place) in tables {
            let present = table.size(&*store);
            let more = (entries.len() as u64).checked_sub(present);
            let more = more.ok_or_else(|| unfit(format!("{place} cannot have {} entries", entries.len())))?;
            let grown = table.grow(&mut *store, more, Ref::Func(None));
            grown.map_err(|_| unfit(format!("{place} cannot have {} entries", entries.len())))?;
            for (entry, index) in entries.iter().enumerate() {
                let value = Ref::Func(function(self, &mut *store, *index)?);
                let set = table.set(&mut *store, entry as u64, value);
                set.map_err(|_| unfit(format!("{place} cannot hold what it says at {entry}")))?;
            }
        }
        self.references_top.set(&mut *store, Val::I32(state.references.len() as i32)).map_err(ProgramError::Engine)?;
        for (kind, dropped, droppable) in
            [("data", &state.dropped_data, &map.droppable_data), ("elem", &state.dropped_elem, &map.droppable_elem)]
        {
            for segment in dropped {
                let name = format!("freeze:drop-{kind}{segment}");
                let drop = droppable.contains(segment).then(|| self.instance.get_func(&mut *store, &name)).flatten();
                let drop = drop.ok_or_else(|| unfit(format!("segment {segment} is never dropped")))?;
                let dropped = match calls {
                    Calls::Here => drop.call(&mut *store, &[], &mut []),
                    Calls::OnFiber => drop.call_async(&mut *store, &[], &mut []).await,
                };
                dropped.map_err(ProgramError::Engine)?;
            }
        }
        if state.frames.is_empty() {
            return Err(unfit("it has no frames".into()));
        }
        let end = FRAMES_BASE as usize + state.frames.len();
        let room = end + crate::rewrite::FRAME_SIZE_MAX as usize + 65536;
        let more = room.saturating_sub(self.frames.data_size(&*store)).div_ceil(65536);
        self.frames.grow(&mut *store, more as u64).map_err(|_| unfit("its stack is too deep".into()))?;
        self.frames.data_mut(&mut *store)[FRAMES_BASE as usize..end].copy_from_slice(&state.frames);
        self.top.set(&mut *store, Val::I32(end as i32)).map_err(ProgramError::Engine)?;
        self.stopped = true;
        let memories: Vec<Memory> =
            (0..map.memories.len() as u32).map_while(|index| self.memory(&mut *store, index)).collect();
        let pages = state.pages;
        let mut written: Vec<(u32, u64, u64)> = vec![];
        while let Some(Piece { memory, offset, bytes }) = image.piece()? {
            // The reader checks that the piece lies inside the memory, which has the image's size by now.
            let end = offset + bytes.len() as u64;
            memories[memory as usize].data_mut(&mut *store)[offset as usize..end as usize].copy_from_slice(&bytes);
            written.push((memory, offset, end));
        }
        if pages == Pages::Included {
            let written = united(written);
            for (memory, start, bytes) in &map.filled {
                let data = memories[*memory as usize].data_mut(&mut *store);
                let range = *start..start.saturating_add(*bytes).min(data.len() as u64);
                let first = written.partition_point(|piece| (piece.0, piece.2) <= (*memory, range.start));
                empty(data, range, written[first..].iter().take_while(|piece| piece.0 == *memory));
            }
        }
        Ok(())
    }
}

/// Pieces of memories as few that do not touch, in order: (memory, start, end).
fn united(mut pieces: Vec<(u32, u64, u64)>) -> Vec<(u32, u64, u64)> {
    pieces.sort_unstable();
    pieces.dedup_by(|next, last| {
        let touch = next.0 == last.0 && next.1 <= last.2;
        if touch {
            last.2 = last.2.max(next.2);
        }
        touch
    });
    pieces
}

/// Makes zero what a new instance has in this range of a memory, except where pieces of the image were written.
fn empty<'a>(data: &mut [u8], range: std::ops::Range<u64>, written: impl Iterator<Item = &'a (u32, u64, u64)>) {
    let mut from = range.start;
    for (_, start, end) in written.take_while(|piece| piece.1 < range.end) {
        if from < *start {
            data[from as usize..*start as usize].fill(0);
        }
        from = *end;
    }
    if from < range.end {
        data[from as usize..range.end as usize].fill(0);
    }
}

/// Writes a memory's content but for what is zero, in units of 4 KiB.
fn write_memory<W: Write>(writer: &mut image::Writer<W>, index: u32, data: &[u8]) -> std::io::Result<()> {
    const UNIT: usize = 4096;
    static ZERO: [u8; UNIT] = [0; UNIT];
    let mut run: Option<usize> = None;
    for (unit, bytes) in data.chunks(UNIT).enumerate() {
        let zero = *bytes == ZERO[..bytes.len()];
        match (zero, run) {
            (false, None) => run = Some(unit * UNIT),
            (true, Some(start)) => {
                writer.memory(index, start as u64, &data[start..unit * UNIT])?;
                run = None;
            }
            _ => {}
        }
    }
    if let Some(start) = run.filter(|_| !planted(Bug::LastPieceLost)) {
        writer.memory(index, start as u64, &data[start..])?;
    }
    Ok(())
}

/// Finds a function's index by its identity in the store; made only when a reference is met.
/// How functions of the program are called: a store that knows asynchronous host functions takes no other calls than on fibers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Calls {
    Here,
    OnFiber,
}

/// What a future gives that never waits: with [`Calls::Here`] there is nothing in it that could.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => unreachable!("what is called on this thread returns when it is done"),
    }
}

struct FunctionIndex<'a> {
    instance: Instance,
    referable: &'a [u32],
    known: std::cell::OnceCell<HashMap<usize, u32>>,
}

impl<'a> FunctionIndex<'a> {
    fn new(instance: Instance, referable: &'a [u32]) -> FunctionIndex<'a> {
        FunctionIndex { instance, referable, known: Default::default() }
    }

    fn index(
        &self, mut store: impl AsContextMut, function: Option<Func>, place: impl Fn() -> String,
    ) -> Result<Option<u32>, CaptureError> {
        let Some(function) = function else {
            return Ok(None);
        };
        let raw = function.to_raw(&mut store) as usize;
        let known = self.known.get_or_init(|| {
            let mut known = HashMap::new();
            for index in self.referable {
                if let Some(function) = self.instance.get_func(&mut store, &format!("freeze:f{index}")) {
                    known.insert(function.to_raw(&mut store) as usize, *index);
                }
            }
            known
        });
        known.get(&raw).copied().map(Some).ok_or_else(|| CaptureError::ForeignReference { place: place() })
    }
}

impl FreezeRequest {
    /// Asks the process to stop at its next poll. Stays set until it is cleared.
    pub fn set(&self) {
        self.ask(true);
    }

    pub fn clear(&self) {
        self.ask(false);
    }

    pub fn is_set(&self) -> bool {
        match &self.flag {
            Flag::Shared(memory) => words(memory).next().is_some_and(|word| word.load(Ordering::Relaxed) != 0),
            Flag::Local(flag) => flag.asked.load(Ordering::Relaxed),
            Flag::None => false,
        }
    }

    fn ask(&self, stop: bool) {
        match &self.flag {
            Flag::Shared(memory) => {
                let value = u64::from_ne_bytes([stop as u8; 8]);
                words(memory).for_each(|word| word.store(value, Ordering::Relaxed));
            }
            Flag::Local(flag) => {
                flag.asked.store(stop, Ordering::SeqCst);
                flag.engine.increment_epoch();
            }
            Flag::None => {}
        }
    }
}

impl LocalFlag {
    fn show(&self, memory: Memory, mut store: impl AsContextMut) {
        memory.data_mut(&mut store).fill(self.asked.load(Ordering::SeqCst) as u8);
    }
}

/// Every poll of a function reads a byte of its own, so all of the memory is the flag.
fn words(memory: &SharedMemory) -> impl Iterator<Item = &AtomicU64> {
    let bytes: &[UnsafeCell<u8>] = memory.data();
    bytes.chunks_exact(8).map(|bytes| {
        // SAFETY: a wasm memory begins at a page boundary, so each eighth byte is aligned for an AtomicU64; the memory lives
        // as long as the reference to it; all of Rust accesses it through these atomics only, and the program's own loads of
        // it are accesses of a shared memory, which WebAssembly defines to be free of undefined behaviour.
        unsafe { AtomicU64::from_ptr(bytes.as_ptr() as *mut u64) }
    })
}

/// For a host function that waits: says that its call is to be unwound, and issued again with the same arguments on
/// continuation. The host function then returns at once, with any values.
pub fn interrupt<T: 'static>(caller: &mut Caller<'_, T>) -> Result<(), Error> {
    let name = "freeze:unwinding";
    let unwinding = caller.get_export(name).and_then(Extern::into_global).ok_or_else(|| missing(name))?;
    unwinding.set(caller.as_context_mut(), Val::I32(1))
}
