//! A process on a fiber: whoever runs it polls a future, and a process that waits gives the thread away. Knows nothing of the kernel
//! that answers its system calls, nor of threads.
//!
//! The one idea: a system call is tried at once, on the same thread and on top of the process's own stack. Only if the kernel
//! says that the process must wait, or that another's turn has come, is the fiber left; whoever polls it again has the outcome.

use crate::engine::Engine;
use crate::error::{RunError, StartError, ThawError};
use crate::image::{Facts, Image};
use crate::process::{Body, Process, Stage, State, Stop};
use crate::program::{Code, Program};
use crate::tape::Ports;
use crate::una::{self, Child, Newborn};
use crate::wasi;
use abi::call::{Outcome, SystemCall};
use abi::file::Interrupt;
use abi::ids::{ProcessId, Time};
use freeze::ImageError;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use wasmtime::{ResourceLimiter, Store};

/// Makes the system calls of one process.
pub trait SystemCalls: Send {
    fn now(&self) -> Time;

    /// Ready if the process goes on at once. Else it is to be left, and [`SystemCalls::outcome`] gives the outcome when it runs
    /// again.
    fn call(&mut self, call: SystemCall) -> Poll<Outcome>;

    fn outcome(&mut self) -> Outcome;

    /// Makes ready what a child will be that is spawned with what this gives. If it is not spawned it is forgotten some day.
    fn child(&mut self, child: Child) -> Result<Newborn, NoChild>;

    /// Since when a name leads where it leads, if it is one that lasts: whoever bound it goes on after the loss of its node, and the name
    /// with it. As far as this node has heard.
    fn tide(&self, path: &str) -> Option<u64>;

    /// Whether a child can be told to be there: `on NODE`, `near PID` or `spread`.
    fn place(&mut self, place: &str) -> Result<(), una::Code>;

    /// Takes a child that was just spawned there, as far as it can be; it runs on meanwhile, and stays if it cannot go.
    fn placed(&mut self, child: ProcessId, place: &str);
}

/// The program of a child cannot be run; the node has said why in the parent's log.
#[derive(Debug)]
pub struct NoChild;

/// What a process may use of memory, and uses: bytes of all its memories and tables together. Anyone may look.
#[derive(Debug)]
pub struct Usage {
    bytes: AtomicU64,
    bytes_max: u64,
    /// How often it asked for more than it may have.
    refused: AtomicU64,
}

impl Usage {
    pub fn new(bytes_max: u64) -> Arc<Usage> {
        Arc::new(Usage { bytes: AtomicU64::new(0), bytes_max, refused: AtomicU64::new(0) })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed) != 0
    }
}

/// Counts what a store grows by.
pub(crate) struct Meter(pub Arc<Usage>);

impl Meter {
    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let more = desired.saturating_sub(current) as u64;
        let grown = self.0.bytes().saturating_add(more);
        if grown > self.0.bytes_max {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        // Nobody else writes it: a process grows on one thread at a time.
        self.0.bytes.store(grown, Ordering::Relaxed);
        true
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(current * size_of::<usize>(), desired * size_of::<usize>()))
    }
}

/// What a process on a fiber has beside what any process has.
pub struct Fiber {
    pub calls: Box<dyn SystemCalls>,
    pub usage: Arc<Usage>,
    /// The most descriptors that it may have when it opens one more.
    pub descriptors_max: usize,
    /// Of a durable process: its ports, by its tape.
    pub ports: Option<Ports>,
}

/// Makes a system call; the fiber is left if the process must wait.
pub(crate) async fn ask(kernel: &mut dyn SystemCalls, call: SystemCall) -> Outcome {
    let mut call = Some(call);
    std::future::poll_fn(|_| match call.take() {
        Some(call) => kernel.call(call),
        None => Poll::Ready(kernel.outcome()),
    })
    .await
}

impl State {
    pub(crate) fn now(&self) -> Time {
        self.calls.as_ref().expect("a process on a fiber has a kernel").now()
    }

    /// Makes a system call; the fiber is left if the process must wait. One of a durable process is told by its tape.
    pub(crate) fn system_call(&mut self, call: SystemCall) -> Asked<'_> {
        let calls = &mut **self.calls.as_mut().expect("a process on a fiber has a kernel");
        if let Some(ports) = &mut self.ports {
            return Asked::Taped(Box::pin(ports.call(calls, call)));
        }
        match calls.call(call) {
            Poll::Ready(outcome) => Asked::Answered(Some(outcome)),
            Poll::Pending => Asked::Leaving { calls, has_left: false },
        }
    }
}

/// A system call that was made. As most are answered at once, there is no more of it to keep than the answer.
pub(crate) enum Asked<'a> {
    Answered(Option<Outcome>),
    Leaving { calls: &'a mut dyn SystemCalls, has_left: bool },
    Taped(Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>),
}

impl Future for Asked<'_> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        match &mut *self {
            Asked::Answered(outcome) => Poll::Ready(outcome.take().expect("what is done is not polled again")),
            Asked::Leaving { calls, has_left: true } => Poll::Ready(calls.outcome()),
            Asked::Leaving { has_left, .. } => {
                *has_left = true;
                Poll::Pending
            }
            Asked::Taped(call) => call.as_mut().poll(context),
        }
    }
}

impl Engine {
    /// Makes a process that has not run yet, for [`Process::run_on_fiber`].
    pub async fn start_on_fiber(
        &self, program: &Program, name: &str, setup: wasi::Setup, fiber: Fiber,
    ) -> Result<Process, StartError> {
        let Code::Freezable(code) = &program.code else { return Err(StartError::NotOnFiber) };
        let interrupt = setup.waiter.interrupt();
        let system = wasi::System::new(setup).map_err(|error| StartError::System(error.to_string()))?;
        let mut store = self.store(system, Some(fiber));
        let prepared = code.on_fibers(self).map_err(StartError::Instantiate)?;
        let process = code.program.instantiate_async(&mut store, prepared).await.map_err(StartError::Instantiate)?;
        process.listen(&mut store);
        let facts = Facts { name: name.into(), canonical_nans: self.canonical_nans, stage: Stage::Initializing };
        Ok(self.process(store, program, Body::Freezable(process), facts, interrupt))
    }

    /// Makes a frozen process of an image, for [`Process::run_on_fiber`].
    pub async fn thaw_on_fiber<R: Read>(
        &self, program: &Program, image: Image<R>, resume: wasi::Resume, fiber: Fiber,
    ) -> Result<Process, ThawError> {
        let blank = self.blank_on_fiber(program, resume, fiber).await?;
        self.fill_on_fiber(blank, image).await
    }

    /// The first part of it, for which the image need not be there: with a large program it takes the most time.
    pub async fn blank_on_fiber(
        &self, program: &Program, resume: wasi::Resume, fiber: Fiber,
    ) -> Result<Blank, ThawError> {
        let Code::Freezable(code) = &program.code else { return Err(ThawError::NotFreezable) };
        let interrupt = resume.waiter.interrupt();
        let mut store = self.store(wasi::System::blank(resume), Some(fiber));
        let prepared = code.on_fibers(self).map_err(ThawError::Engine)?;
        let process = code.program.instantiate_async(&mut store, prepared).await.map_err(ThawError::Engine)?;
        Ok(Blank { program: program.clone(), store, process, interrupt })
    }

    /// The second part.
    pub async fn fill_on_fiber<R: Read>(&self, blank: Blank, mut image: Image<R>) -> Result<Process, ThawError> {
        let Blank { program, mut store, process, interrupt } = blank;
        let Code::Freezable(code) = &program.code else { return Err(ThawError::NotFreezable) };
        let (facts, kept) = (image.facts()?, image.kept()?);
        store.data_mut().system.go_on(image.system()?)?;
        store.data_mut().kept = kept;
        let State { ports, calls, .. } = store.data_mut();
        if let (Some(ports), Some(calls), Some(saved)) = (ports, calls, image.ports()) {
            let malformed = |_| ImageError::Inconsistent { what: "what it holds of ports is malformed".into() };
            ports.restore(saved, calls.now()).map_err(malformed)?;
        }
        let thawed = code.program.fill_reader_async(process, &mut store, &mut image.reader).await;
        let thawed = thawed.map_err(crate::process::thaw_error)?;
        thawed.process.listen(&mut store);
        Ok(self.process(store, &program, Body::Freezable(thawed.process), facts, interrupt))
    }
}

/// An instance of a program, all but the state in which it goes on.
pub struct Blank {
    program: Program,
    store: Store<State>,
    process: freeze::Process,
    interrupt: Arc<dyn Interrupt>,
}

impl Process {
    /// Runs until the program exits, fails or is frozen; pending while it waits for its kernel. Whoever drops the future before it is
    /// done must drop the process too.
    pub async fn run_on_fiber(&mut self) -> Result<Stop, RunError> {
        loop {
            let result = match (&mut self.body, self.stage) {
                (_, Stage::Ended) => return Err(RunError::Ended),
                (Body::Plain(_), _) => unreachable!("only what can be frozen is started on a fiber"),
                (Body::Freezable(process), _) if process.is_frozen() => {
                    process.resume_async(&mut self.store, &mut []).await
                }
                (Body::Freezable(process), Stage::Initializing) => process.start_async(&mut self.store).await,
                (Body::Freezable(process), Stage::Main) => {
                    process.call_async(&mut self.store, "_start", &[], &mut []).await
                }
            };
            if let Some(stop) = self.came_back(result) {
                return stop;
            }
        }
    }
}
