//! A program that this una runs, from its first step to its exit status, and all that can be asked of it meanwhile. Used by `run`
//! and `thaw` alike; knows neither where the process came from nor how a request travels.
//!
//! ```text
//!   main thread      run -> frozen -> save -> run on | end        -> exited
//!   control threads  ask ----^  ^             ^ answer
//!   signal thread    ask -------+
//! ```

use crate::control::{self, Afterwards, Answer, Answerer, Description, Freeze, Reply, Request};
use crate::failure::{Failure, Result, quoted, status};
use crate::{directories, grants, image_file};
use abi::file::{Clock, Entropy, Stream, Waiter};
use drivers::{HostClock, HostEntropy, HostStream, HostWaiter};
use engine::{Library, Process, RunError, SaveError, Stop, Stopper, TraceFrame};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the end of the process waits for its last answer to leave.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

pub struct Job {
    pub process: Process,
    pub description: Description,
    /// Where SIGTSTP, which ctrl-Z sends, puts the image. Without it the signal means what it always means.
    pub image: Option<PathBuf>,
}

/// What a program has of this process's own.
pub struct World {
    pub stdin: Box<dyn Stream>,
    pub stdout: Box<dyn Stream>,
    pub stderr: Box<dyn Stream>,
    pub clock: Box<dyn Clock>,
    pub entropy: Box<dyn Entropy>,
    pub waiter: Box<dyn Waiter>,
}

impl World {
    pub fn of_this_process() -> Result<World> {
        let failure =
            |error: std::io::Error| Failure::new(status::UNA, "cannot use the standard streams").because(error);
        Ok(World {
            stdin: Box::new(HostStream::standard_input().map_err(failure)?),
            stdout: Box::new(HostStream::standard_output().map_err(failure)?),
            stderr: Box::new(HostStream::standard_error().map_err(failure)?),
            clock: Box::new(HostClock),
            entropy: Box::new(HostEntropy),
            waiter: Box::new(HostWaiter::new().map_err(failure)?),
        })
    }
}

/// Where those who want the process frozen meet the one that runs it.
struct Desk {
    description: Description,
    stopper: Stopper,
    state: Mutex<State>,
}

enum State {
    Running,
    Asked(Order),
    /// An order has been taken up and is not done yet.
    Saving,
    Ended,
}

struct Order {
    freeze: Freeze,
    asker: Asker,
}

enum Asker {
    /// The person at the terminal.
    Signal,
    Control {
        reply: mpsc::Sender<Reply>,
        sent: mpsc::Receiver<()>,
    },
}

impl Job {
    /// Runs the program; gives the status to exit with.
    pub fn run(mut self) -> Result<u8> {
        let desk = Arc::new(Desk {
            description: self.description.clone(),
            stopper: self.process.stopper(),
            state: Mutex::new(State::Running),
        });
        // Without a socket the program can run as well, only `una freeze` and `una ps` do not know of it.
        let socket = control::listen(desk.clone());
        let _socket = match socket {
            Ok(socket) => Some(socket),
            Err(failure) => {
                let (why, _) = failure.to_lines();
                eprintln!("una: warning: `una freeze` and `una ps` will not find this program: {why}");
                None
            }
        };
        if let Some(image) = &self.image {
            freeze_on_signal(&desk, image)?;
        }
        loop {
            match self.process.run() {
                Ok(Stop::Exited(status)) => {
                    desk.end(format!("the program ended with status {status} before it could be stopped"));
                    return Ok(status as u8);
                }
                Ok(Stop::Frozen) => {
                    let Some(order) = desk.take() else { continue };
                    let saved = self.save(&order.freeze);
                    if order.done(saved, &desk) == Afterwards::End {
                        return Ok(status::FROZEN);
                    }
                }
                Err(error) => {
                    let failure = run_failure(error);
                    desk.end(format!("it ended before it could be stopped: {}", failure.to_lines().0));
                    return Err(failure);
                }
            }
        }
    }

    fn save(&mut self, freeze: &Freeze) -> Result<image_file::Written> {
        let path = &freeze.image;
        let failure = || Failure::new(status::FAILED, format!("cannot freeze into {}", path.display()));
        if !freeze.with_program {
            let keep = directories::data().map(|data| Library::new(&data.join("programs")));
            let library = keep.map_err(|why| {
                failure().because(why.to_lines().0).help("`una freeze --with-program` puts the program into the image")
            })?;
            library.keep(self.process.program().wasm()).map_err(|error| {
                let why = format!("the program, which the image will need, cannot be kept: {error}");
                failure().because(why).help("`una freeze --with-program` puts the program into the image")
            })?;
        }
        let mounts = self.description.mounts.clone();
        let process = &mut self.process;
        let written = image_file::write(
            path,
            |out| process.save(out, freeze.with_program).map_err(Unsaved::Process),
            |written| {
                // If this fails, the image is as good, and who thaws it has to say --mount.
                let _ = grants::record(&written.hash, &mounts);
                Ok(())
            },
        );
        written.map_err(|error| match error {
            Unsaved::Process(SaveError::Write(error)) | Unsaved::File(error) => {
                let full = error.kind() == std::io::ErrorKind::StorageFull;
                let failure = failure().because(error);
                if full { failure.help("make room, or choose a file on another disk") } else { failure }
            }
            Unsaved::Process(error) => failure().because(error),
        })
    }
}

enum Unsaved {
    Process(SaveError),
    File(std::io::Error),
}

impl From<std::io::Error> for Unsaved {
    fn from(error: std::io::Error) -> Unsaved {
        Unsaved::File(error)
    }
}

impl Order {
    /// Tells whoever asked. What has not been saved runs on in any case.
    fn done(self, saved: Result<image_file::Written>, desk: &Desk) -> Afterwards {
        let Freeze { image, afterwards, .. } = &self.freeze;
        let afterwards = if saved.is_ok() { *afterwards } else { Afterwards::RunOn };
        *desk.state() = match afterwards {
            Afterwards::End => State::Ended,
            Afterwards::RunOn => State::Running,
        };
        let reply = match saved {
            Ok(written) => Reply::Frozen { bytes: written.bytes },
            Err(failure) => {
                let (why, help) = failure.to_lines();
                Reply::Refused { why, help }
            }
        };
        match self.asker {
            Asker::Control { reply: answer, sent } => {
                if matches!(reply, Reply::Frozen { .. })
                    && afterwards == Afterwards::End
                    && std::io::stderr().is_terminal()
                {
                    tell_frozen(image);
                }
                // Who does not listen any more need not be told.
                if answer.send(reply).is_ok() {
                    let _ = sent.recv_timeout(ANSWER_TIMEOUT);
                }
            }
            Asker::Signal => match reply {
                Reply::Refused { why, help } => {
                    let failure = Failure::new(status::FAILED, format!("{why}; the program runs on"));
                    help.into_iter().fold(failure, Failure::help).print();
                }
                _ => tell_frozen(image),
            },
        }
        afterwards
    }
}

fn tell_frozen(image: &Path) {
    // A terminal shows `^Z` before this.
    let line = format!("\nuna: frozen; go on with: {}\n", thaw_line(image));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// What to type to go on.
pub fn thaw_line(image: &Path) -> String {
    format!("una thaw {}", quoted(&image.to_string_lossy()))
}

impl Desk {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    /// Asks the process to stop for this.
    fn ask(&self, order: Order) -> Result<()> {
        let pid = self.description.pid;
        let failure = || Failure::new(status::FAILED, format!("process {pid} was not frozen"));
        image_file::choose(&order.freeze.image)?;
        let mut state = self.state();
        match *state {
            State::Running => {}
            State::Asked(_) | State::Saving => {
                return Err(failure().because("it is being frozen already").help("wait for that, or look at `una ps`"));
            }
            State::Ended => return Err(failure().because("it has ended")),
        }
        self.stopper.freeze().map_err(|error| failure().because(error).help("start it without --unfreezable"))?;
        *state = State::Asked(order);
        Ok(())
    }

    /// The order that the process stopped for.
    fn take(&self) -> Option<Order> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Saving) {
            State::Asked(order) => Some(order),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Nothing can be asked any more. Who asked in vain is told.
    fn end(&self, why: String) {
        let state = std::mem::replace(&mut *self.state(), State::Ended);
        if let State::Asked(Order { asker: Asker::Control { reply, sent }, .. }) = state
            && reply.send(Reply::Refused { why, help: None }).is_ok()
        {
            let _ = sent.recv_timeout(ANSWER_TIMEOUT);
        }
    }
}

impl Answerer for Desk {
    fn answer(&self, request: Request, working: &mut dyn FnMut()) -> Answer {
        let freeze = match request {
            Request::Describe => {
                return Answer { reply: Reply::Process(self.description.clone()), sent: None };
            }
            Request::Freeze(freeze) => freeze,
        };
        let (reply, replied) = mpsc::channel();
        let (sent, when_sent) = mpsc::channel();
        let asker = Asker::Control { reply, sent: when_sent };
        if let Err(failure) = self.ask(Order { freeze, asker }) {
            let (why, help) = failure.to_lines();
            return Answer { reply: Reply::Refused { why, help }, sent: None };
        }
        let wait = |interval| match replied.recv_timeout(interval) {
            Ok(reply) => Some(reply),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Reply::Refused { why: "it ended".into(), help: None }),
        };
        Answer { reply: control::wait_working(wait, working), sent: Some(sent) }
    }
}

fn freeze_on_signal(desk: &Arc<Desk>, image: &Path) -> Result<()> {
    let failure = |error: std::io::Error| Failure::new(status::UNA, "cannot listen for SIGTSTP").because(error);
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTSTP]).map_err(failure)?;
    let (desk, image) = (desk.clone(), image.to_path_buf());
    let listen = move || {
        for _ in signals.forever() {
            let freeze = Freeze { image: image.clone(), with_program: false, afterwards: Afterwards::End };
            if let Err(failure) = desk.ask(Order { freeze, asker: Asker::Signal }) {
                failure.print();
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen).map_err(failure)?;
    Ok(())
}

fn run_failure(error: RunError) -> Failure {
    let status = match &error {
        RunError::Continue(_) | RunError::Lost { .. } | RunError::Thread(_) | RunError::Ended => status::UNA,
        _ => status::TRAPPED,
    };
    let mut failure = Failure::new(status, &error);
    if let RunError::Continue(cause) = &error {
        failure = failure.because(cause);
    }
    let frames = error.backtrace();
    if !frames.is_empty() {
        failure = failure.because(format!("in {}", stack(frames)));
    }
    if matches!(error, RunError::StackOverflow { .. }) {
        failure = failure.help("its functions call one another without an end, or too deep");
    }
    failure
}

/// Functions on the stack, innermost first, one a line.
pub fn stack(frames: &[TraceFrame]) -> String {
    frames.iter().map(TraceFrame::to_string).collect::<Vec<_>>().join("\n  called from ")
}
