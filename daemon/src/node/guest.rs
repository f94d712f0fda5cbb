//! A process that runs a WebAssembly program. Knows the engine; not what asked for the program.
//!
//! The one idea: the program is a future that the worker polls; its system calls step the kernel from inside of the poll. To take
//! the processor away from it, it is frozen where it is: then the future is done, and a new one continues it.

use super::machine::{self, Guest, Ran, Used};
use super::process::Info;
use super::seekers::Registry;
use super::system_files::{Others, PlaceHint};
use super::view::End;
use abi::call::{Outcome, SystemCall};
use abi::file::Clock;
use abi::ids::{ProcessId, ProgramId, Time};
use abi::limits::WEIGHT_NORMAL;
use abi::message::Bytes;
use abi::process::Fault;
use abi::wasi::Clockid;
use drivers::HostClock;
use engine::una::{Child, Code, Newborn};
use engine::{NoChild, RunError, Stop};
use kernel::{Key, Process};
use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

type Running = Pin<Box<dyn Future<Output = (Box<engine::Process>, Result<Stop, RunError>)> + Send>>;

pub(crate) struct Program {
    info: Arc<Info>,
    state: State,
}

enum State {
    Idle(Box<engine::Process>),
    Running(Running),
    Ended,
}

/// Somebody wants a process frozen: it is lent to them, stopped, and they say what becomes of it.
pub(crate) struct Loan {
    pub lend: SyncSender<Box<engine::Process>>,
    pub back: Receiver<Back>,
}

/// What becomes of a process that was lent.
pub(crate) enum Back {
    /// It goes on.
    Resumes(Box<engine::Process>),
    /// It is in an image now.
    Ends,
    /// It goes on on another node: for the kernel here it is no more.
    Departed,
}

impl Program {
    pub fn new(process: engine::Process, info: Arc<Info>) -> Program {
        Program { info, state: State::Idle(Box::new(process)) }
    }

    /// What becomes of a program that was stopped.
    fn stopped(&mut self, mut process: Box<engine::Process>) -> Ran {
        if self.info.time.is_over(self.info.node_now()) {
            self.state = State::Ended;
            return self.failed(End::CpuLimit);
        }
        let loan = self.info.fate().loan.take();
        if let Some(Loan { lend, back }) = loan {
            match lend.send(process) {
                // Who takes it may have given up waiting.
                Err(error) => process = error.0,
                Ok(()) => return self.came_back(&back),
            }
        }
        self.state = State::Idle(process);
        Ran::Stopped
    }

    fn came_back(&mut self, back: &Receiver<Back>) -> Ran {
        match back.recv() {
            Ok(Back::Resumes(process)) => {
                self.state = State::Idle(process);
                Ran::Stopped
            }
            Ok(Back::Departed) => {
                self.state = State::Ended;
                Ran::Stopped
            }
            Ok(Back::Ends) | Err(_) => {
                self.state = State::Ended;
                self.failed(End::Frozen)
            }
        }
    }

    fn failed(&self, end: End) -> Ran {
        self.info.fate().cause.get_or_insert(end);
        Ran::Faulted(Fault::Trap)
    }
}

impl Guest for Program {
    fn run(&mut self) -> Ran {
        self.state = match std::mem::replace(&mut self.state, State::Ended) {
            State::Idle(mut process) => State::Running(Box::pin(async move {
                let stop = process.run_on_fiber().await;
                (process, stop)
            })),
            state => state,
        };
        let State::Running(future) = &mut self.state else { unreachable!("the kernel does not run what has ended") };
        let Poll::Ready((process, stop)) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            return Ran::Left;
        };
        match stop {
            Ok(Stop::Frozen) => self.stopped(process),
            Ok(Stop::Exited(code)) => {
                self.state = State::Ended;
                Ran::Exited(code)
            }
            Err(error) => {
                self.state = State::Ended;
                let reason = match self.info.was_refused_memory() {
                    true => format!("{error} (it had asked for more memory than it may have)"),
                    false => error.to_string(),
                };
                self.failed(End::failed(reason, error.backtrace()))
            }
        }
    }
}

/// Makes children for processes.
pub(crate) trait Children: Send + Sync {
    /// What a child of this process will be that is spawned with what this gives.
    fn child(&self, parent: &Info, program: &engine::Program, child: Child) -> Result<Bytes, String>;

    fn load(&self, wasm: Vec<u8>) -> Result<engine::Program, String>;

    fn others(&self) -> Option<Arc<dyn Others>>;
}

/// The kernel, as a program's process sees it.
pub(crate) struct Calls {
    /// Known when the process is in the kernel, which is before it runs.
    pub key: Arc<OnceLock<Key<Process>>>,
    pub began: Instant,
    pub program: engine::Program,
    pub info: Arc<OnceLock<Weak<Info>>>,
    pub children: Weak<dyn Children>,
    /// Where nodes agree about names, if there are others.
    pub registry: Option<Arc<dyn Registry>>,
}

impl engine::SystemCalls for Calls {
    fn now(&self) -> Time {
        machine::time_since(self.began)
    }

    fn call(&mut self, call: SystemCall) -> Poll<Outcome> {
        machine::system_call(*self.key.get().expect("a process that runs is in the kernel"), call)
    }

    fn outcome(&mut self) -> Outcome {
        machine::system_call_outcome()
    }

    fn tide(&self, path: &str) -> Option<u64> {
        Some(self.registry.as_ref()?.tide(path)?.since)
    }

    fn child(&mut self, mut child: Child) -> Result<Newborn, NoChild> {
        let children = self.children.upgrade().ok_or(NoChild)?;
        let info = self.info.get().and_then(Weak::upgrade).ok_or(NoChild)?;
        let made = (|| {
            let program = match child.wasm.take() {
                Some(wasm) => children.load(wasm)?,
                None => self.program.clone(),
            };
            let arguments = children.child(&info, &program, child)?;
            let program = abi::process::Program::Module(ProgramId(*program.hash().as_bytes()));
            let limits = info.limits.of_kernel().map_err(|refused| refused.to_string())?;
            let weight = info.limits.cpu_weight.unwrap_or(WEIGHT_NORMAL);
            Ok::<_, String>(Newborn { program, arguments, limits, weight })
        })();
        made.map_err(|why| {
            if let Some(console) = &info.console {
                console.note(&format!("una: a program cannot be spawned: {why}\n"));
            }
            NoChild
        })
    }

    fn place(&mut self, place: &str) -> Result<(), Code> {
        let hint = PlaceHint::read(place).ok_or(Code::Options)?;
        let children = self.children.upgrade().ok_or(Code::Service)?;
        hint.is_possible(children.others().as_deref()).map_err(|_| Code::NotFound)
    }

    fn placed(&mut self, child: ProcessId, place: &str) {
        if let Some(hint) = PlaceHint::read(place)
            && let Some(others) = self.children.upgrade().and_then(|children| children.others())
        {
            others.place(child.into(), hint);
        }
    }
}

/// The clocks of one process.
pub(crate) struct ProcessClock {
    pub time: Arc<Used>,
    pub began: Instant,
}

impl Clock for ProcessClock {
    fn realtime_ns(&self) -> u64 {
        HostClock.realtime_ns()
    }

    fn monotonic_ns(&self) -> u64 {
        HostClock.monotonic_ns()
    }

    fn cputime_ns(&self) -> u64 {
        self.time.total_ns(machine::time_since(self.began))
    }

    fn resolution_ns(&self, clock: Clockid) -> u64 {
        HostClock.resolution_ns(clock)
    }
}
