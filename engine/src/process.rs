//! A process: a program with its own memory and its own part of the world, running, frozen or ended. Knows how a run begins and
//! ends; not how code is rewritten (freeze) nor what calls do (wasi).
//!
//! ```text
//!   start --> Frozen? no --- run ---> Exited
//!                |            |
//!   thaw ---> Frozen <--- stopper      save: the frozen process as an image, any number of times
//!                +---- run ---^
//! ```

use crate::engine::{Engine, HOST_STACK_BYTES, WASM_STACK_BYTES};
use crate::error::{RunError, SaveError, StartError, ThawError, TraceFrame};
use crate::fiber::{Fiber, Meter, SystemCalls};
use crate::image::{self, Facts, Image};
use crate::kept::Kept;
use crate::pages::{Memories, Pages, PagesError, Presence, Staging};
use crate::program::{Code, Program};
use crate::tape::Ports;
use crate::wasi;
use abi::file::Interrupt;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;
use wasmtime::{Instance, Store, Trap, WasmBacktrace};

/// What a process has beside its memory; what host functions work on.
pub struct State {
    pub system: wasi::System,
    /// For a process on a fiber: its kernel.
    pub(crate) calls: Option<Box<dyn SystemCalls>>,
    /// Of a durable process: its ports.
    pub(crate) ports: Option<Ports>,
    meter: Option<Meter>,
    pub(crate) kept: Kept,
    pub(crate) presence: Arc<Presence>,
    pub(crate) memory: Option<wasmtime::Memory>,
}

/// Invariants: `stage` is `Ended` if and only if the program will never run again; a `Body::Plain` never stops.
pub struct Process {
    pub(crate) store: Store<State>,
    program: Program,
    pub(crate) body: Body,
    pub(crate) stage: Stage,
    facts: Facts,
    interrupt: Arc<dyn Interrupt>,
    pages: Pages,
}

// There is one for each process, in a box or on a stack: nothing is gained by a box more.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Body {
    Freezable(freeze::Process),
    Plain(Instance),
}

/// How far the program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// In the start function of its module, or before it.
    Initializing,
    /// In `_start`.
    Main,
    Ended,
}

/// Why a run came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Exited(u32),
    /// Save it, run it on, or drop it.
    Frozen,
}

/// Asks a process to stop, from any thread. It may outlive the process.
#[derive(Clone)]
pub struct Stopper {
    flag: Option<freeze::FreezeRequest>,
    interrupt: Arc<dyn Interrupt>,
}

impl Stopper {
    /// The process stops within microseconds, also where it waits for input: its `run` comes back with [`Stop::Frozen`] once.
    pub fn freeze(&self) -> Result<(), NotFreezable> {
        self.flag.as_ref().ok_or(NotFreezable)?.set();
        self.interrupt.raise();
        Ok(())
    }
}

/// The program was loaded with [`Engine::load_unfreezable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the program was started as not freezable")]
pub struct NotFreezable;

impl Engine {
    /// Makes a process that has not run yet. `facts` go into its images.
    pub fn start(&self, program: &Program, name: &str, setup: wasi::Setup) -> Result<Process, StartError> {
        let interrupt = setup.waiter.interrupt();
        let system = wasi::System::new(setup).map_err(|error| StartError::System(error.to_string()))?;
        let mut store = self.store(system, None);
        let body = match &program.code {
            Code::Freezable(code) => code.program.instantiate(&mut store, &self.linker).map(Body::Freezable),
            Code::Plain(module) => self.linker.instantiate(&mut store, module).map(Body::Plain),
        };
        let body = body.map_err(StartError::Instantiate)?;
        if let Body::Freezable(process) = &body {
            process.listen(&mut store);
        }
        let facts = Facts { name: name.into(), canonical_nans: self.canonical_nans, stage: Stage::Initializing };
        Ok(self.process(store, program, body, facts, interrupt))
    }

    pub(crate) fn store(&self, mut system: wasi::System, fiber: Option<Fiber>) -> Store<State> {
        let (calls, meter, ports) = match fiber {
            Some(Fiber { calls, usage, descriptors_max, ports }) => {
                system.limit_descriptors(descriptors_max);
                (Some(calls), Some(Meter(usage)), ports)
            }
            None => (None, None, None),
        };
        let (kept, presence) = (Kept::default(), Arc::new(Presence::default()));
        let state = State { system, calls, ports, meter, kept, presence, memory: None };
        let mut store = Store::new(&self.wasmtime, state);
        if store.data().meter.is_some() {
            store.limiter(|state| state.meter.as_mut().expect("it was there just now, and nobody takes it"));
        }
        // Epochs mean nothing to a process that does not listen for them, or not yet.
        store.set_epoch_deadline(u64::MAX / 2);
        store
    }

    /// Makes a frozen process of an image: [`Process::run`] continues it.
    pub fn thaw(&self, program: &Program, image: impl Read, resume: wasi::Resume) -> Result<Process, ThawError> {
        self.thaw_image(program, Image::open(image)?, resume)
    }

    /// The same for an image whose beginning has been read.
    pub fn thaw_image<R: Read>(
        &self, program: &Program, mut image: Image<R>, resume: wasi::Resume,
    ) -> Result<Process, ThawError> {
        let Code::Freezable(code) = &program.code else { return Err(ThawError::NotFreezable) };
        let facts = image.facts()?;
        let interrupt = resume.waiter.interrupt();
        let system = wasi::System::restore(image.system()?, resume)?;
        let mut store = self.store(system, None);
        let thawed = code.program.thaw_reader(&mut store, &self.linker, &mut image.reader).map_err(thaw_error)?;
        thawed.process.listen(&mut store);
        Ok(self.process(store, program, Body::Freezable(thawed.process), facts, interrupt))
    }
}

impl Engine {
    /// At the stage that the facts tell.
    pub(crate) fn process(
        &self, store: Store<State>, program: &Program, body: Body, facts: Facts, interrupt: Arc<dyn Interrupt>,
    ) -> Process {
        let (program, pages) = (program.clone(), self.pages.clone());
        Process { store, program, body, stage: facts.stage, facts, interrupt, pages }
    }

    /// Room for the memory of a process that comes from elsewhere, before it is here.
    pub fn stage(&self, bytes_max: u64) -> Staging {
        self.pages.stage(bytes_max)
    }
}

pub(crate) fn thaw_error(error: freeze::ProgramError) -> ThawError {
    match error {
        freeze::ProgramError::Image(error) => ThawError::Image(error),
        freeze::ProgramError::Engine(error) => ThawError::Engine(error),
        freeze::ProgramError::Rewrite(error) => ThawError::Engine(wasmtime::Error::new(error)),
    }
}

impl Process {
    /// Runs until the program exits, fails or is frozen. It runs on a thread with a stack of its own size, so that how deep
    /// a program may recurse does not depend on who calls this.
    pub fn run(&mut self) -> Result<Stop, RunError> {
        std::thread::scope(|scope| {
            let runner =
                std::thread::Builder::new().name("program".into()).stack_size(WASM_STACK_BYTES + HOST_STACK_BYTES);
            let running = runner.spawn_scoped(scope, || self.run_here()).map_err(RunError::Thread)?;
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn run_here(&mut self) -> Result<Stop, RunError> {
        loop {
            let result = match (&mut self.body, self.stage) {
                (_, Stage::Ended) => return Err(RunError::Ended),
                (Body::Freezable(process), _) if process.is_frozen() => process.resume(&mut self.store, &mut []),
                (Body::Freezable(process), Stage::Initializing) => process.start(&mut self.store),
                (Body::Freezable(process), Stage::Main) => process.call(&mut self.store, "_start", &[], &mut []),
                // The instance was made with its start function run.
                (Body::Plain(_), Stage::Initializing) => Ok(freeze::Exit::Returned),
                (Body::Plain(instance), Stage::Main) => instance
                    .get_typed_func::<(), ()>(&mut self.store, "_start")
                    .and_then(|start| start.call(&mut self.store, ()))
                    .map(|()| freeze::Exit::Returned),
            };
            if let Some(stop) = self.came_back(result) {
                return stop;
            }
        }
    }

    /// What a call of the program came to; nothing if it is to be called again.
    pub(crate) fn came_back(
        &mut self, result: Result<freeze::Exit, wasmtime::Error>,
    ) -> Option<Result<Stop, RunError>> {
        if let Err(lost) = self.store.data().presence.check() {
            self.stage = Stage::Ended;
            return Some(Err(RunError::Lost { reason: lost.to_string() }));
        }
        match result {
            Ok(freeze::Exit::Returned) if self.stage == Stage::Initializing => {
                self.stage = Stage::Main;
                None
            }
            Ok(freeze::Exit::Returned) => {
                self.stage = Stage::Ended;
                Some(Ok(Stop::Exited(0)))
            }
            Ok(freeze::Exit::Frozen) => {
                // Before anyone hears of it: what is asked for from here on stops the process once more.
                self.interrupt.lower();
                if let Body::Freezable(process) = &self.body {
                    process.freeze_request().clear();
                }
                Some(Ok(Stop::Frozen))
            }
            Err(error) => {
                self.stage = Stage::Ended;
                Some(ended(error))
            }
        }
    }

    pub fn stopper(&self) -> Stopper {
        let flag = match &self.body {
            Body::Freezable(process) => Some(process.freeze_request()),
            Body::Plain(_) => None,
        };
        Stopper { flag, interrupt: self.interrupt.clone() }
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Its memories, for whoever looks at them while it runs.
    pub fn memories(&mut self) -> Memories {
        let presence = self.store.data().presence.clone();
        presence.stopped_by(self.stopper());
        let mut bases = vec![];
        if let Body::Freezable(process) = &self.body {
            for index in 0..process.program().map().memories.len() as u32 {
                let memory = process.memory(&mut self.store, index);
                bases.extend(memory.map(|memory| memory.data_ptr(&self.store).cast_const()));
            }
        }
        self.pages.memories(&bases, presence)
    }

    /// Gives a process that was thawed without its pages those that came before it: what it has of memory is these, and zeros.
    pub fn adopt(&mut self, staging: Staging) -> Result<(), PagesError> {
        self.memories().adopt(staging)
    }

    /// It is a copy of one that goes on: its standard input, with what was not read of it, is that one's, and is at its end here.
    pub fn end_input(&mut self) {
        self.store.data_mut().system.end_input();
    }

    /// Its clock has stood still since it was saved: so much later it is for everybody else, who may have promised it something by then.
    pub fn pass_time(&mut self, duration: std::time::Duration) {
        self.store.data_mut().system.pass_time(duration.as_nanos().min(u128::from(u64::MAX)) as u64);
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    pub fn system(&self) -> &wasi::System {
        &self.store.data().system
    }

    /// Writes the frozen process as an image; with the program in it, if another machine is to continue it. The process stays
    /// as it is, whatever comes of this.
    pub fn save(&mut self, out: impl Write, with_program: bool) -> Result<(), SaveError> {
        self.save_as(out, with_program, freeze::Pages::Included, None)
    }

    /// The same, with what the process may use, as whoever runs it writes that: see [`Image::limits`].
    pub fn save_with_limits(
        &mut self, out: impl Write, with_program: bool, limits: Option<Vec<u8>>,
    ) -> Result<(), SaveError> {
        self.save_as(out, with_program, freeze::Pages::Included, limits)
    }

    /// The same without the contents of its memories, which go another way: see [`Memories`] and [`Process::adopt`].
    pub fn save_without_pages(&mut self, out: impl Write, with_program: bool) -> Result<(), SaveError> {
        self.save_as(out, with_program, freeze::Pages::LeftOut, None)
    }

    fn save_as(
        &mut self, out: impl Write, with_program: bool, pages: freeze::Pages, limits: Option<Vec<u8>>,
    ) -> Result<(), SaveError> {
        if self.store.data().presence.is_partial() {
            return Err(SaveError::PagesMissing);
        }
        let Body::Freezable(process) = &self.body else { return Err(SaveError::NotStopped) };
        if !process.is_frozen() {
            return Err(SaveError::NotStopped);
        }
        let system = self.store.data_mut().system.save().map_err(|error| SaveError::System(error.to_string()))?;
        let facts = Facts { stage: self.stage, ..self.facts.clone() };
        let mut attachments =
            BTreeMap::from([(image::SYSTEM.to_string(), system), (image::FACTS.to_string(), facts.to_bytes())]);
        if let Some(kept) = self.store.data().kept.save() {
            attachments.insert(image::KEPT.to_string(), kept);
        }
        let state = self.store.data();
        if let (Some(ports), Some(calls)) = (&state.ports, &state.calls)
            && let Some(ports) = ports.save(calls.now())
        {
            attachments.insert(image::PORTS.to_string(), ports);
        }
        if let Some(limits) = limits {
            attachments.insert(image::LIMITS.to_string(), limits);
        }
        if with_program {
            attachments.insert(image::PROGRAM.to_string(), self.program.wasm().to_vec());
        }
        let captured = process.capture(&mut self.store, out, pages, attachments);
        captured.map(|_| ()).map_err(|error| match error {
            freeze::CaptureError::NotStopped => SaveError::NotStopped,
            freeze::CaptureError::ForeignReference { place } => SaveError::Foreign(place),
            freeze::CaptureError::Write(error) => SaveError::Write(error),
        })
    }
}

/// How a program ended that did not return.
pub(crate) fn ended(error: wasmtime::Error) -> Result<Stop, RunError> {
    if let Some(exit) = error.downcast_ref::<wasi::Exit>() {
        return Ok(Stop::Exited(exit.0));
    }
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(trace).unwrap_or_default();
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => return Err(RunError::StackOverflow { backtrace }),
        Some(trap) => {
            let reason = trap.to_string();
            let reason = reason.strip_prefix("wasm trap: ").unwrap_or(&reason).to_string();
            return Err(RunError::Trap { reason, backtrace });
        }
        None => {}
    }
    if error.is::<wasmtime::ThrownException>() {
        return Err(RunError::Exception { backtrace });
    }
    match error.downcast::<freeze::ProgramError>() {
        Ok(error) => Err(RunError::Continue(error)),
        Err(error) => Err(RunError::Host { reason: error.root_cause().to_string(), backtrace }),
    }
}

fn trace(backtrace: &WasmBacktrace) -> Vec<TraceFrame> {
    let frame = |frame: &wasmtime::FrameInfo| TraceFrame {
        function: frame.func_index(),
        name: frame.func_name().map(|name| name.to_string()),
    };
    backtrace.frames().iter().map(frame).collect()
}
