//! Processes that leave for another node, and those that come. Knows processes, consoles and images; not who carries them, nor where nodes
//! are.
//!
//! ```text
//!   here                                                there
//!   baggage      what must be known to make ready        Room      a body without a state
//!   Stopped      the process stands still, lent to us
//!     save, streams                      ── carried ──►  arrive    a process in every way but its place in the kernel
//!     depart     the kernel lets it go   ── session ──►  Arrival   the kernel has it: it runs
//! ```
//! The kernel's word decides where a process is. Until [`Stopped::depart`] has given it, whatever fails lets the process go on here: that
//! is what dropping a [`Stopped`] does.

use super::console::{Console, Contents};
use super::guest::{self, Back, Loan};
use super::process::Info;
use super::view::*;
use super::{Common, Life, Node, Rest, STOP_INTERVAL, STOP_TIMEOUT, at_once, bodies, grant_names};
use abi::ids::NodeId;
use engine::Image;
use engine::pages::{Fetch, Memories, Missing, NotThere, PagesError, Span, Staging};
use kernel::world::{DepartError, Event};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// How long another node's word on a read that was given up is waited for.
const UNDECIDED_TIMEOUT: Duration = Duration::from_secs(2);

/// What comes as a rule within a round trip is looked for after so long: a process stands still meanwhile.
const SOON: Duration = Duration::from_millis(1);
/// How often it is looked whether a process is still waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long a process that is on its way may take to be here, from when somebody else knows that it is.
const ARRIVING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the rest of a process's memory may take to come.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What another node must know of a process to make ready for it, beside its image and its streams.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Baggage {
    pub pid: Pid,
    pub name: String,
    pub args: Vec<String>,
    /// BLAKE3 in hexadecimal.
    pub program: String,
    pub limits: ProcessLimits,
    pub stdio: Stdio,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    pub memory_bytes: u64,
    /// How often it will have moved then.
    pub moves: u32,
    #[serde(default)]
    pub lineage: Lineage,
    /// It writes where that one writes, which is there already.
    #[serde(default)]
    pub shares: Option<Pid>,
    /// It is its parent's child, wherever that is, though it has a console of its own.
    #[serde(default)]
    pub stays_child: bool,
}

/// A process that was stopped and lent to us. Dropped, it goes on.
pub struct Stopped {
    node: Node,
    info: Arc<Info>,
    pid: Pid,
    process: Option<Box<engine::Process>>,
    back: SyncSender<Back>,
    /// When it was asked to stop.
    asked: Instant,
    is_leaving: bool,
}

impl Node {
    /// Has a program stop where it is.
    pub fn stop_still(&self, pid: Pid) -> Result<Stopped, FreezeRefused> {
        let info = self.find(pid)?;
        wait_whole(pid, &info)?;
        let (lend, lent) = sync_channel(1);
        let (back, get) = sync_channel(1);
        {
            let mut fate = info.fate();
            if fate.end.is_some() {
                return Err(ControlRefused::Ended(pid).into());
            }
            if fate.loan.is_some() {
                return Err(FreezeRefused::Twice(pid));
            }
            fate.loan = Some(Loan { lend, back: get });
        }
        {
            let mut stops_again = info.stops_again();
            if info.is_stopped() {
                // What is stopped for this machine's owner alone is not where it goes.
                *stops_again = !info.is_paused();
                self.go_on_now(pid)?;
            }
        }
        let asked = Instant::now();
        let process = self.take_loan(pid, &info, &lent).inspect_err(|_| drop(self.stop_again(pid, &info)))?;
        if let Some(tape) = &info.tape {
            tape.stand_aside();
        }
        Ok(Stopped { node: self.clone(), info, pid, process: Some(process), back, asked, is_leaving: false })
    }

    /// As somebody had it who has not let it go on since.
    fn stop_again(&self, pid: Pid, info: &Info) -> Result<(), ControlRefused> {
        let mut stops_again = info.stops_again();
        match std::mem::take(&mut *stops_again) {
            true => self.stop_now(pid),
            false => Ok(()),
        }
    }

    fn take_loan(
        &self, pid: Pid, info: &Info, lent: &Receiver<Box<engine::Process>>,
    ) -> Result<Box<engine::Process>, FreezeRefused> {
        let until = Instant::now() + STOP_TIMEOUT;
        let mut interval = SOON;
        loop {
            // A program that waits is roused; one that computes sees the flag. It may just have begun to wait, and not have seen either.
            info.stop_soon();
            if info.fate().end.is_some() {
                info.fate().loan = None;
                return Err(ControlRefused::Ended(pid).into());
            }
            if let Some(process) = info.key.get() {
                self.0.machine.tell(Event::Rouse { process: *process });
            }
            match lent.recv_timeout(interval) {
                Ok(process) => return Ok(process),
                Err(_) if Instant::now() < until => interval = (interval * 2).min(STOP_INTERVAL),
                Err(_) => {
                    if info.fate().loan.take().is_some() {
                        return Err(FreezeRefused::Late(pid));
                    }
                    // It has been taken up at the last moment.
                    return lent.recv_timeout(STOP_TIMEOUT).map_err(|_| FreezeRefused::Late(pid));
                }
            }
        }
    }

    /// The memory of a process, to be followed while it runs. What of it is still on its way here is waited for.
    pub fn memories(&self, pid: Pid) -> Result<Memories, FreezeRefused> {
        let info = self.find(pid)?;
        wait_whole(pid, &info)?;
        Ok(info.memories().ok_or(ControlRefused::Ended(pid))?)
    }

    /// What it wrote so far, to be sent ahead of it, and the position behind that. Nothing if it writes where another one writes.
    pub fn streams_ahead(&self, pid: Pid) -> Result<Option<(Vec<u8>, u64)>, FreezeRefused> {
        let info = self.find(pid)?;
        let own = info.console.as_ref().filter(|_| info.shares.is_none());
        Ok(own.map(|console| {
            let (ahead, end) = console.ahead();
            (ahead.to_bytes(), end)
        }))
    }

    /// It lives there from now on: whoever looks for it here, or follows its streams, goes on there.
    pub(super) fn note_moved(&self, pid: Pid, info: &Info, to: NodeId) {
        self.0.bodies.processes().add_moved(pid, to);
        info.set_moved(to);
    }

    /// How much of what processes of other nodes have to do with one another goes through this node.
    pub fn leads_through(&self) -> u64 {
        self.0.machine.inspect(|kernel| (kernel.ways_through().len() + kernel.acts_through().len()) as u64)
    }

    /// What another node must know of this process, if it can move at all.
    pub fn baggage(&self, pid: Pid) -> Result<Baggage, DepartRefused> {
        let info = self.find(pid).map_err(FreezeRefused::from)?;
        if info.fate().end.is_some() {
            return Err(FreezeRefused::from(ControlRefused::Ended(pid)).into());
        }
        if let Some(mount) = info.mounts.first() {
            return Err(DepartRefused::Bound { pid, host: mount.host.clone() });
        }
        if let Some(with) = info.shares
            && info.console.as_ref().is_some_and(|console| console.moved_to().is_none())
        {
            return Err(DepartRefused::Shared { pid, with });
        }
        if info.stdio.held {
            return Err(DepartRefused::LookedAfter(pid));
        }
        Ok(Baggage {
            pid,
            name: info.name.clone(),
            args: info.args.clone(),
            program: info.program.clone(),
            limits: info.limits.clone(),
            stdio: info.stdio,
            started_ms: info.started_ms,
            memory_bytes: info.memory_bytes(),
            moves: info.moves + 1,
            lineage: info.lineage().clone(),
            shares: info.shares,
            stays_child: info.stays_child,
        })
    }
}

impl Node {
    /// With whose streams it can only be, if that one is here.
    pub fn stays_with(&self, pid: Pid) -> Option<Pid> {
        let info = self.find(pid).ok()?;
        info.shares.filter(|with| self.is_alive(*with))
    }

    /// Whose streams it has, wherever that one is.
    pub fn shares_with(&self, pid: Pid) -> Option<Pid> {
        self.find(pid).ok().and_then(|info| info.shares)
    }

    /// Those that are here and write where this one writes, or wrote when it was here.
    pub fn sharers(&self, with: Pid) -> Vec<Pid> {
        let processes = self.0.bodies.processes();
        processes.live().filter(|info| info.shares == Some(with)).filter_map(|info| info.pid.get().copied()).collect()
    }

    /// It writes into a log of its own from now on: the one whose streams it had is where it cannot go.
    pub fn stay_behind(&self, pid: Pid) {
        if let Ok(console) = self.console(pid) {
            console.stay_behind();
        }
    }
}

fn wait_whole(pid: Pid, info: &Info) -> Result<(), FreezeRefused> {
    let partial = |error: NotThere| FreezeRefused::Partial { pid, why: error.to_string() };
    if let Some(missing) = info.missing.get() {
        missing.wait(WHOLE_TIMEOUT).map_err(partial)?;
    }
    info.coming().map_or(Ok(()), |coming| coming.wait(WHOLE_TIMEOUT).map_err(partial))
}

impl Stopped {
    /// Since when it stands still, at the earliest.
    pub(super) fn asked(&self) -> Instant {
        self.asked
    }

    pub(super) fn process(&mut self) -> &mut engine::Process {
        self.process.as_mut().expect("it is lent until it is given back")
    }

    /// Another body takes the place of its own, and goes on when this is dropped.
    pub(super) fn replace(&mut self, body: engine::Process) {
        self.process = Some(Box::new(body));
    }

    /// Writes its image, without flushing `out`. What is left of what it may use goes along.
    pub fn save(&mut self, out: &mut dyn Write, with_program: bool) -> Result<(), FreezeRefused> {
        let used = Duration::from_nanos(self.info.time.total_ns(self.info.node_now()));
        let written = self.info.console.as_ref().map_or(0, Console::end);
        let left = self.info.limits.left(used, written);
        let is_limited = left != ProcessLimits::default();
        let limits = is_limited.then(|| serde_json::to_vec(&left).expect("plain data"));
        Ok(self.process().save_with_limits(out, with_program, limits)?)
    }

    /// The same, without what is in its memories.
    pub fn save_without_pages(&mut self, out: &mut dyn Write) -> Result<(), FreezeRefused> {
        Ok(self.process().save_without_pages(out, false)?)
    }

    /// Its streams as they go with it, without what was sent ahead of it, and the processor time that it used, in nanoseconds. Who writes
    /// to it waits from now on.
    pub fn streams(&mut self, ahead: u64) -> (Vec<u8>, u64) {
        let console = self.info.console.as_ref().expect("a program has streams");
        let contents = match self.info.shares {
            None => {
                self.is_leaving = true;
                console.leave(ahead).to_bytes()
            }
            // What it wrote went with the one whose streams they are.
            Some(_) => Console::new(false, false, u64::MAX).save(),
        };
        (contents, self.info.time.total_ns(self.info.node_now()))
    }

    /// It is in an image now, and ends.
    pub fn end(mut self) {
        self.process = None;
        let _ = self.back.send(Back::Ends);
    }

    /// Has the kernel send it to where it is expected under this ticket, in that life of that node. What was its memory here is given back,
    /// for what is still to be sent of it.
    pub fn depart(mut self, (to, life): (NodeId, u64), ticket: u64) -> Result<Box<engine::Process>, DepartRefused> {
        let pid = self.pid;
        self.node.stop_again(pid, &self.info).map_err(FreezeRefused::from)?;
        let key = *self.info.key.get().expect("a process that ran is in the kernel");
        let until = Instant::now() + UNDECIDED_TIMEOUT;
        loop {
            // The way to the names is each node's own.
            let left = Box::new([bodies::NAMES_HANDLE]);
            // Whoever follows a parent stays its child, or was told where to be; others are the node's, and become the other node's.
            let keeps_parent = self.info.shares.is_some() || self.info.stays_child;
            match self.node.0.machine.depart(key, (to, life), ticket, left, keeps_parent) {
                Ok(()) => break,
                Err(DepartError::Undecided(_)) if Instant::now() < until => std::thread::sleep(SOON),
                // It was killed meanwhile.
                Err(DepartError::Ended) => return Err(FreezeRefused::from(ControlRefused::Ended(pid)).into()),
                Err(DepartError::Busy | DepartError::Undecided(_)) => return Err(DepartRefused::Busy(pid)),
                Err(error) => return Err(DepartRefused::Kernel { pid, why: why(error) }),
            }
        }
        self.is_leaving = false;
        self.info.set_moved(to);
        let _ = self.back.send(Back::Departed);
        Ok(self.process.take().expect("it is lent until it is given back"))
    }
}

/// What people are told.
fn why(error: DepartError) -> String {
    match error {
        DepartError::Ended => "it has ended".into(),
        DepartError::First => "it is a part of the system".into(),
        DepartError::Unreachable => "that node cannot be reached".into(),
        DepartError::Device(_) => "it holds a device of this machine".into(),
        DepartError::Shared(port) => format!("another process may receive from its port {port} too"),
        other => format!("{other:?}"),
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.is_leaving
            && let Some(console) = &self.info.console
        {
            console.stay();
        }
        if let Some(process) = self.process.take() {
            if let Some(tape) = &self.info.tape {
                tape.go_on();
            }
            // If it was killed meanwhile nobody takes it.
            let _ = self.back.send(Back::Resumes(process));
            // It may have ended.
            let _ = self.node.stop_again(self.pid, &self.info);
        }
    }
}

/// A process that is ready here and that the kernel of its node has not sent yet. It is waited for until that kernel says that it does not
/// come, or its node is lost.
pub struct Arrival {
    /// What of its memory is still to come.
    pub missing: Option<Missing>,
    settled: Receiver<Pid>,
    console: Console,
    lossless: bool,
}

/// What was brought of a process.
pub struct Brought<R> {
    /// What was sent of its streams before it stopped; the rest is in `streams`.
    pub ahead: Option<Vec<u8>>,
    pub streams: Vec<u8>,
    pub cpu_ns: u64,
    pub image: Image<R>,
    /// Its memory, if the image does not have it.
    pub pages: Option<Pages>,
    /// When it was stopped, as far as this node can tell.
    pub stopped: Instant,
}

/// A process's memory beside its image.
pub struct Pages {
    /// What came before it.
    pub staged: Staging,
    /// What comes after it, and who is asked for it.
    pub absent: Vec<Span>,
    pub fetch: Arc<dyn Fetch>,
}

/// Room for a process that may come: all of it that does not depend on its state, so that it need not stand still for that.
pub struct Room {
    program: engine::Program,
    baggage: Baggage,
    console: Console,
    blank: engine::Blank,
    rest: Rest,
}

impl Node {
    /// Makes room for a process of another node.
    pub fn make_room(&self, program: &engine::Program, baggage: Baggage) -> Result<Room, ArriveRefused> {
        let console = Console::new(baggage.stdio.input, false, u64::MAX);
        let output = match baggage.shares {
            None => console.clone(),
            Some(with) => self.console(with).map_err(|_| ArriveRefused::Alone(with))?,
        };
        let streams = (console.clone(), output);
        let mut world = self.0.world_at(program, &[], &baggage.limits, baggage.stdio, streams, Life::default())?;
        (world.rest.lineage, world.rest.shares) = (baggage.lineage.clone(), baggage.shares);
        world.rest.stays_child = baggage.stays_child;
        let (resume, fiber, rest) = world.for_old();
        let blank = at_once(self.0.engine.blank_on_fiber(program, resume, fiber)).map_err(RunRefused::from)?;
        Ok(Room { program: program.clone(), baggage, console, blank, rest })
    }

    /// Makes ready for a process that comes from another node under this ticket: all but its place in the kernel.
    pub fn arrive(
        &self, from: NodeId, ticket: u64, room: Room, state: Brought<impl Read>,
    ) -> Result<Arrival, ArriveRefused> {
        let Brought { ahead, streams, cpu_ns, image, pages, stopped } = state;
        let Room { program, baggage, console, blank, rest } = room;
        let Baggage { pid, name, args, limits, stdio, started_ms, moves, .. } = baggage;
        let contents = Contents::from_bytes(&streams).and_then(|rest| match &ahead {
            Some(ahead) => rest.after(Contents::from_bytes(ahead)?),
            None => Ok(rest),
        });
        let contents = contents.map_err(|_| ArriveRefused::Malformed)?;
        let lossless = contents.is_lossless();
        console.go_on(contents);
        rest.time.carry_over(cpu_ns);
        let thawed = at_once(self.0.engine.fill_on_fiber(blank, image));
        let mut process = thawed.map_err(RunRefused::from)?;
        let mut missing = None;
        if let Some(Pages { staged, absent, fetch }) = pages {
            process.adopt(staged)?;
            if !absent.is_empty() {
                missing = Some(Missing::begin(&process.memories(), &absent, fetch)?);
            }
        }
        process.pass_time(stopped.elapsed());
        let common = Common { name, args, mounts: vec![], limits, stdio, started_ms, moves, again: None };
        let info = self.0.info(&program, &mut process, common, rest);
        if let Some(missing) = &missing {
            assert!(info.missing.set(missing.clone()).is_ok(), "a process arrives once");
        }
        let body = guest::Program::new(process, info.clone());
        let settled = self.0.bodies.await_arrival(pid, (from, ticket), body, info);
        let adopter = self.0.desk.key().ok_or(RunRefused::Stopping)?;
        let grants = Box::new([(bodies::NAMES_HANDLE, grant_names())]);
        self.0.machine.tell(Event::Expect { ticket, from, adopter, grants });
        Ok(Arrival { missing, settled, console, lossless })
    }

    /// Somebody was told that this process is here. If it is on its way that may be known sooner than here: then it is waited for.
    pub fn wait_arriving(&self, pid: Pid) {
        self.0.bodies.wait_arriving(pid, ARRIVING_TIMEOUT);
    }

    /// The process under this ticket, which the other node expects, stays here after all.
    pub fn forgo(&self, to: NodeId, ticket: u64) {
        self.0.machine.tell(Event::Forgo { to, ticket });
    }
}

impl Arrival {
    /// The process, as soon as it is here. None: it does not come, or nobody waits any more.
    pub fn wait(&self, goes_on: impl Fn() -> bool) -> Option<Pid> {
        loop {
            match self.settled.recv_timeout(LOOK_INTERVAL) {
                Ok(pid) => return Some(pid),
                Err(RecvTimeoutError::Timeout) if goes_on() => {}
                Err(_) => return None,
            }
        }
    }

    /// Whoever followed the process's streams where it was has so long to come here before it goes on without them.
    pub fn wait_reader(self, timeout: Duration) {
        if self.lossless && !self.console.wait_first(timeout) {
            self.console.give_up_first();
        }
    }
}

/// Why there is no place for a process.
#[derive(Debug, thiserror::Error)]
pub enum ArriveRefused {
    #[error(transparent)]
    Run(#[from] RunRefused),
    #[error("what was sent of its streams is malformed")]
    Malformed,
    #[error("it writes where process {0} writes, which is not here")]
    Alone(Pid),
    #[error(transparent)]
    Pages(#[from] PagesError),
}
