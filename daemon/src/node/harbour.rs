//! The ports of a durable process on the node where it lives. Knows the kernel's calls and names; not what the process does with what it
//! receives, nor what is on its tape.
//!
//! The one idea: a process of the kernel's, the *master*, has the ports in its hands, and not the durable process itself. So answers go out
//! when what led to them is safe, whatever the process does at that moment, stops or ends; and nothing of the kernel's is a part of its
//! state. The durable process finds what has come in queues here, and is roused.
//!
//! ```text
//!   callers ──► port ──► master ──► queue ──► the process takes it           all under one lock
//!           ◄── reply ── master ◄── due ◄── held until the tape is safe ◄── its answer
//!                          ▲ flusher: a thread that looks when answers may go, and rouses the master
//! ```
//! A caller that was not answered, since a node was lost, asks again under the number of its call: then what it was answered is said
//! again, or the right to answer takes the place of the one that is gone.

use super::bodies::{NAMES_HANDLE, PUPPET};
use super::console::Rouse;
use super::machine::Native;
use super::process::Info;
use super::seekers::Registry;
use super::{Inner, Pid, grant_names};
use abi::call::{CallError, Deadline, EndCallError, Outcome, PortOptions, PortStatus, ReceiveError, SystemCall, Wait};
use abi::ids::{CallId, HandleId, ProcessId, Time};
use abi::interface::names;
use abi::limits::{Limits, WEIGHT_NORMAL};
use abi::message::{Bytes, Delivery, Message, Received, Transfer, TransferMode};
use abi::process::{Orphan, Spawn};
use abi::rights::Rights;
use engine::found::SENT;
use engine::tape::{Arrival, Berth, Known, Standing, Tape};
use kernel::world::Event;
use kernel::{Key, Process};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

/// What of one port the process has not taken. Then it is left in the port, and senders find that full.
const QUEUE_MAX: usize = 1024;
const QUEUE_BYTES_MAX: usize = 8 << 20;
/// A port of the kernel has room for so many messages, whatever its process asked for.
const MESSAGES_MIN: u32 = 64;
/// More than that the kernel gives no port.
const PORT_BYTES_MAX: u32 = 16 << 20;
/// Callers of whom something is known. The process keeps to fewer.
const CALLERS_MAX: usize = 1 << 17;
/// How soon the master is roused again that may not have noticed.
const ROUSE_AGAIN: Duration = Duration::from_millis(1);
/// How long it is waited for the tape before it is looked whether there is other work.
const SAFE_LOOK: Duration = Duration::from_millis(5);
/// Without anything to do.
const IDLE: Duration = Duration::from_secs(1);
/// A name that could not be bound is tried again after this.
const NAME_AGAIN: Duration = Duration::from_millis(100);
/// How long the service `names` may take.
const NAMES_TIMEOUT: Duration = Duration::from_secs(30);
/// Answers of a process that has ended go when its end is written down, or never.
const LINGER: Duration = Duration::from_secs(30);

/// All clones are the same.
#[derive(Clone)]
pub(crate) struct Harbour(Arc<Shared>);

/// What a harbour is for.
pub(super) struct Owner {
    pub node: Weak<Inner>,
    pub registry: Arc<dyn Registry>,
    pub tape: Tape,
    /// Rouses the process.
    pub rouse: Rouse,
    /// The process, once it is known.
    pub process: Arc<OnceLock<Weak<Info>>>,
}

struct Shared {
    owner: Owner,
    state: Mutex<State>,
    news: Condvar,
    /// Of the master.
    key: Arc<OnceLock<Key<Process>>>,
    master: OnceLock<HandleId>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    berths: BTreeMap<u32, Place>,
    known: BTreeMap<ProcessId, Caller>,
    /// Answers that may not be seen yet, in the order in which they may.
    held: VecDeque<(u64, SystemCall)>,
    due: VecDeque<SystemCall>,
    todo: VecDeque<Task>,
    later: Vec<(Instant, Task)>,
    named: BTreeMap<String, Result<(), names::Failure>>,
    doing: Option<Doing>,
    /// The master waits for messages.
    is_listening: bool,
    /// The process has something to look at.
    has_news: bool,
    /// Its ports could not be listened to: not at once again.
    rests: bool,
    /// There is room where there was none: the master is to listen to more.
    is_relieved: bool,
}

/// Draws how it goes: Waiting, Open, then Over when the process has ended, Released when that is written down, and Gone.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Phase {
    #[default]
    Waiting,
    Open,
    /// The process has ended; what it did last is not known to be safe.
    Over {
        until: Instant,
    },
    /// All that it did is safe.
    Released,
    Gone,
}

/// One port.
struct Place {
    options: PortOptions,
    handle: Option<HandleId>,
    names: Vec<String>,
    queue: VecDeque<Arrival>,
    bytes: usize,
}

/// What is known of a caller.
struct Caller {
    sequence: u64,
    /// By which it is answered, if it waits.
    reply: Option<HandleId>,
    standing: Standing,
    /// From where on it may be seen.
    at: u64,
}

#[derive(Clone, Debug)]
enum Task {
    Create {
        port: u32,
    },
    Close {
        handle: HandleId,
    },
    /// `until`: so long it is tried if the nodes cannot agree. Nothing: nobody waits for it, and it is tried until it is done.
    Bind {
        port: u32,
        path: String,
        existing: names::Existing,
        until: Option<Instant>,
    },
    Unbind {
        path: String,
        told: bool,
    },
}

/// What the master's last call was.
#[derive(Debug)]
enum Doing {
    Creating {
        port: u32,
    },
    Listening {
        ports: Vec<u32>,
    },
    Naming(Task),
    /// What it called was taken up and is still to be answered.
    Awaiting(Task, HandleId),
    Other,
}

impl Harbour {
    pub fn new(owner: Owner) -> Harbour {
        Harbour(Arc::new(Shared {
            owner,
            state: Mutex::default(),
            news: Condvar::new(),
            key: Arc::default(),
            master: OnceLock::new(),
        }))
    }

    /// The process has ended, or goes on elsewhere. Nothing comes any more; what it answered last goes when that is safe.
    pub fn end(&self) {
        let mut state = self.0.state();
        match state.phase {
            Phase::Waiting => state.phase = Phase::Gone,
            Phase::Open => {
                state.phase = Phase::Over { until: Instant::now() + LINGER };
                state.todo.retain(|task| matches!(task, Task::Close { .. }));
                state.later.clear();
                let handles: Vec<HandleId> = state.berths.values().filter_map(|place| place.handle).collect();
                state.todo.extend(handles.into_iter().map(|handle| Task::Close { handle }));
                state.berths.clear();
                // Nobody answers them here any more.
                let unanswered: Vec<HandleId> =
                    state.known.values_mut().filter_map(|caller| caller.reply.take()).collect();
                state.due.extend(unanswered.into_iter().map(|handle| SystemCall::Close { handle }));
            }
            Phase::Over { .. } | Phase::Released | Phase::Gone => {}
        }
        drop(state);
        self.0.news.notify_all();
    }

    /// Its end is written down, and all that it did with it.
    pub fn release(&self) {
        let mut state = self.0.state();
        if let Phase::Over { .. } | Phase::Open = state.phase {
            state.phase = Phase::Released;
        }
        drop(state);
        self.0.news.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a harbour")
    }

    fn pid(&self) -> Option<Pid> {
        self.owner.process.get()?.upgrade()?.pid.get().copied()
    }
}

impl engine::tape::Harbour for Harbour {
    fn open(&self, berths: Vec<Berth>, known: Vec<(ProcessId, Known)>) {
        {
            let mut state = self.0.state();
            if state.phase != Phase::Waiting {
                return;
            }
            state.phase = Phase::Open;
            for (caller, Known { sequence, standing }) in known {
                state.known.insert(caller, Caller { sequence, reply: None, standing, at: 0 });
            }
            for Berth { port, options, names } in berths {
                for path in &names {
                    let (path, existing) = (path.clone(), names::Existing::Replace);
                    state.later.push((Instant::now(), Task::Bind { port, path, existing, until: None }));
                }
                state.berths.insert(port, Place { options, handle: None, names, queue: VecDeque::new(), bytes: 0 });
                state.todo.push_back(Task::Create { port });
            }
        }
        let shared = self.0.clone();
        let begun = std::thread::Builder::new().name("una-harbour".into()).spawn(move || shared.flush());
        let Some(node) = self.0.owner.node.upgrade().filter(|_| begun.is_ok()) else {
            self.0.state().phase = Phase::Gone;
            return;
        };
        let master = Box::new(Master(self.0.clone()));
        let arguments = node.bodies.expect_native("harbour", master, self.0.key.clone());
        let spawn = Spawn {
            program: PUPPET,
            arguments,
            handles: Box::new([grant_names()]),
            limits: Limits { children_max: 0, ports_max: 128, handles_max: 65_535, ..Limits::NORMAL },
            weight: WEIGHT_NORMAL,
            orphan: Orphan::Dies,
            supervisor: None,
            again: None,
        };
        let shared = self.0.clone();
        let machine = node.machine.clone();
        node.desk.post(
            SystemCall::Spawn(Box::new(spawn)),
            |key| machine.stir(key),
            move |outcome| {
                if let Outcome::Spawned(Ok(spawned)) = outcome {
                    let _ = shared.master.set(spawned.process);
                }
                shared.news.notify_all();
            },
        );
    }

    fn create(&self, port: u32, options: PortOptions) {
        let mut state = self.0.state();
        let place = Place { options, handle: None, names: vec![], queue: VecDeque::new(), bytes: 0 };
        state.berths.insert(port, place);
        state.todo.push_back(Task::Create { port });
        drop(state);
        self.0.news.notify_all();
    }

    fn close(&self, port: u32) {
        let mut state = self.0.state();
        if let Some(Place { handle, names, .. }) = state.berths.remove(&port) {
            for path in names {
                state.todo.push_back(Task::Unbind { path, told: false });
            }
            state.todo.extend(handle.map(|handle| Task::Close { handle }));
        }
        drop(state);
        self.0.news.notify_all();
    }

    fn take(&self, ports: &[u32]) -> Option<(usize, Arrival)> {
        let mut state = self.0.state();
        for (index, port) in ports.iter().enumerate() {
            let Some(place) = state.berths.get_mut(port) else { continue };
            let was_full = place.is_full();
            if let Some(arrival) = place.queue.pop_front() {
                place.bytes -= arrival.bytes.len();
                if was_full {
                    // The master does not listen to a port that is full here.
                    state.is_relieved = true;
                    self.0.news.notify_all();
                }
                return Some((index, arrival));
            }
        }
        None
    }

    fn status(&self, port: u32) -> PortStatus {
        let state = self.0.state();
        let place = state.berths.get(&port);
        let (messages, bytes) = place.map_or((0, 0), |place| (place.queue.len() as u32, place.bytes as u32));
        PortStatus { messages, bytes, ..PortStatus::default() }
    }

    fn answer(&self, call: CallId, answer: Option<Bytes>, at: u64) {
        let mut state = self.0.state();
        let standing = answer.map_or(Standing::Abandoned, Standing::Answered);
        let Some(caller) = state.known.get_mut(&call.caller).filter(|caller| caller.sequence == call.sequence) else {
            return;
        };
        (caller.standing, caller.at) = (standing.clone(), at);
        if let Some(reply) = caller.reply.take() {
            state.hold(at, reply, standing);
            drop(state);
            self.0.owner.tape.hurry();
            self.0.news.notify_all();
        }
    }

    fn forget(&self, caller: ProcessId, known: Option<Known>) {
        let mut state = self.0.state();
        match known {
            None => drop(state.known.remove(&caller)),
            Some(Known { sequence, standing }) => {
                if let Some(caller) = state.known.get_mut(&caller).filter(|caller| caller.sequence == sequence) {
                    caller.standing = standing;
                }
            }
        }
    }

    fn name(&self, path: &str, bind: Option<(u32, names::Existing)>) {
        let mut state = self.0.state();
        let path = path.to_string();
        state.later.retain(|(_, task)| !matches!(task, Task::Bind { path: other, .. } if *other == path));
        state.todo.push_back(match bind {
            Some((port, existing)) => Task::Bind { port, path, existing, until: Some(Instant::now() + NAMES_TIMEOUT) },
            None => Task::Unbind { path, told: true },
        });
        drop(state);
        self.0.news.notify_all();
    }

    fn named(&self, path: &str) -> Option<Result<(), names::Failure>> {
        self.0.state().named.remove(path)
    }
}

impl Place {
    fn is_full(&self) -> bool {
        self.queue.len() >= QUEUE_MAX || self.bytes >= QUEUE_BYTES_MAX
    }
}

impl State {
    /// A caller is answered, or told that it will not be, when that may be seen.
    fn hold(&mut self, at: u64, reply: HandleId, standing: Standing) {
        // They go in the order in which they were given.
        let at = self.held.back().map_or(at, |(last, _)| at.max(*last));
        let call = match standing {
            Standing::Answered(bytes) => {
                SystemCall::Reply { reply, message: Message { bytes, handles: Box::default() } }
            }
            Standing::Taken | Standing::Abandoned => SystemCall::Close { handle: reply },
        };
        self.held.push_back((at, call));
    }

    /// Something came to a port. True: the process has something to take.
    fn arrived(&mut self, port: u32, delivery: Delivery) -> bool {
        let Delivery { bytes, handles, sender, call, .. } = delivery;
        // Those who call a name that lasts send none; others' are given back.
        self.due.extend(handles.iter().map(|handle| SystemCall::Close { handle: *handle }));
        let mut arrival = Arrival { bytes, sender, call: None, is_sent: false };
        if let Some(answerable) = call {
            let (id, reply) = (answerable.id, answerable.reply);
            if let Some(caller) = self.known.get_mut(&id.caller)
                && caller.sequence >= id.sequence
            {
                match caller.standing.clone() {
                    _ if caller.sequence > id.sequence => self.due.push_back(SystemCall::Close { handle: reply }),
                    Standing::Taken => {
                        let before = caller.reply.replace(reply);
                        self.due.extend(before.map(|handle| SystemCall::Close { handle }));
                    }
                    standing => {
                        let at = caller.at;
                        self.hold(at, reply, standing);
                    }
                }
                return false;
            }
            if self.known.len() >= CALLERS_MAX || !self.berths.contains_key(&port) {
                self.due.push_back(SystemCall::Close { handle: reply });
                return false;
            }
            let caller = Caller { sequence: id.sequence, reply: Some(reply), standing: Standing::Taken, at: 0 };
            let before = self.known.insert(id.caller, caller);
            // Whoever calls again has given the one before up.
            let before = before.and_then(|before| before.reply);
            self.due.extend(before.map(|handle| SystemCall::Close { handle }));
            arrival.call = Some(id);
            if arrival.bytes.starts_with(&SENT) {
                arrival.is_sent = true;
                arrival.bytes = arrival.bytes.split(SENT.len()).1;
            }
        }
        let Some(place) = self.berths.get_mut(&port) else { return false };
        place.bytes += arrival.bytes.len();
        place.queue.push_back(arrival);
        true
    }
}

/// The flusher.
impl Shared {
    /// A thread's work until all is over.
    fn flush(&self) {
        let mut state = self.state();
        loop {
            let safe = match state.phase {
                Phase::Released | Phase::Gone => u64::MAX,
                _ => self.owner.tape.safe(),
            };
            while state.held.front().is_some_and(|(at, _)| *at <= safe) {
                let call = state.held.pop_front().map(|(_, call)| call);
                state.due.extend(call);
            }
            let now = Instant::now();
            let (ripe, later) = state.later.drain(..).partition::<Vec<_>, _>(|(at, _)| *at <= now);
            state.later = later;
            state.todo.extend(ripe.into_iter().map(|(_, task)| task));
            let has_work = !state.due.is_empty() || !state.todo.is_empty() || state.is_relieved;
            match state.phase {
                Phase::Over { until } if now >= until => state.phase = Phase::Gone,
                Phase::Released if !has_work && state.doing_is_idle() => state.phase = Phase::Gone,
                _ => {}
            }
            if state.phase == Phase::Gone {
                // Processes that have ended are remembered for a while.
                *state = State { phase: Phase::Gone, ..State::default() };
                break;
            }
            if has_work {
                let is_listening = state.is_listening;
                drop(state);
                self.poke(is_listening);
                state = self.wait(self.state(), ROUSE_AGAIN);
            } else if let Some((at, _)) = state.held.front() {
                let at = *at;
                drop(state);
                self.owner.tape.wait_safe(at, SAFE_LOOK);
                state = self.state();
            } else {
                let pause = state.later.iter().map(|(at, _)| at.saturating_duration_since(now)).min().unwrap_or(IDLE);
                state = self.wait(state, pause.clamp(ROUSE_AGAIN, IDLE));
            }
        }
        drop(state);
        let Some(node) = self.owner.node.upgrade() else { return };
        // With its end its ports close, and whoever still waits for an answer asks again.
        let ends = |process| [SystemCall::Kill { process }, SystemCall::Close { handle: process }];
        let until = Instant::now() + IDLE;
        while self.master.get().is_none() && Instant::now() < until {
            std::thread::sleep(ROUSE_AGAIN);
        }
        for call in self.master.get().copied().map(ends).into_iter().flatten() {
            node.desk.post(call, |key| node.machine.stir(key), |_| {});
        }
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>, timeout: Duration) -> MutexGuard<'a, State> {
        self.news.wait_timeout(state, timeout).expect("nothing panics while it holds a harbour").0
    }

    /// Has the master look for work. One that was just about to wait may not notice.
    fn poke(&self, is_listening: bool) {
        let (Some(key), Some(node)) = (self.key.get(), self.owner.node.upgrade()) else { return };
        match is_listening {
            true => node.machine.tell(Event::Rouse { process: *key }),
            false => node.machine.stir(*key),
        }
    }
}

impl State {
    fn doing_is_idle(&self) -> bool {
        matches!(self.doing, None | Some(Doing::Listening { .. }))
    }
}

/// The process of the kernel that has the ports.
struct Master(Arc<Shared>);

impl Native for Master {
    fn resume(&mut self, now: Time, outcome: Outcome) -> SystemCall {
        let shared = &self.0;
        let mut state = shared.state();
        (state.is_listening, state.is_relieved) = (false, false);
        let doing = state.doing.take();
        let has_news = shared.done(&mut state, doing, outcome);
        let call = shared.next(&mut state, now);
        let has_news = std::mem::take(&mut state.has_news) || has_news;
        drop(state);
        if has_news {
            (shared.owner.rouse)();
        }
        call
    }
}

impl Shared {
    /// True: the process has something to look at.
    fn done(&self, state: &mut State, doing: Option<Doing>, outcome: Outcome) -> bool {
        match (doing, outcome) {
            (Some(Doing::Creating { port }), Outcome::PortCreated(Ok(handle))) => match state.berths.get_mut(&port) {
                Some(place) => place.handle = Some(handle),
                None => state.due.push_back(SystemCall::Close { handle }),
            },
            // There is no room for it now.
            (Some(Doing::Creating { port }), _) => {
                state.later.push((Instant::now() + NAME_AGAIN, Task::Create { port }));
            }
            (Some(Doing::Listening { ports }), Outcome::Selected(Ok((index, Received::Message(delivery))))) => {
                return ports.get(index as usize).is_some_and(|port| state.arrived(*port, delivery));
            }
            (Some(Doing::Listening { .. }), Outcome::Selected(Err(ReceiveError::Interrupted))) => {}
            (Some(Doing::Listening { .. }), Outcome::Selected(Err(_))) => state.rests = true,
            (Some(Doing::Naming(task)), Outcome::Called(Err(CallError::Detached { call, .. }))) => {
                state.doing = Some(Doing::Awaiting(task, call));
            }
            (Some(Doing::Naming(task)), Outcome::Called(Err(CallError::Interrupted(_)))) => state.todo.push_front(task),
            (Some(Doing::Naming(task)), Outcome::Called(answer)) => {
                return self.named(state, task, answer.ok().map(|answer| answer.bytes));
            }
            (Some(Doing::Awaiting(task, call)), Outcome::CallEnded(Err(EndCallError::Interrupted))) => {
                state.doing = Some(Doing::Awaiting(task, call));
            }
            (Some(Doing::Awaiting(task, call)), Outcome::CallEnded(answer)) => {
                if matches!(answer, Err(EndCallError::NotYet)) {
                    state.due.push_back(SystemCall::Close { handle: call });
                }
                return self.named(state, task, answer.ok().map(|answer| answer.bytes));
            }
            _ => {}
        }
        false
    }

    /// The service `names` has said its word, or did not in time.
    fn named(&self, state: &mut State, task: Task, answer: Option<Bytes>) -> bool {
        let decoded = answer.and_then(|bytes| names::Answer::decode(&bytes).ok());
        let result = match decoded {
            Some(names::Answer::Done) => Ok(()),
            Some(names::Answer::Failed(failure)) => Err(failure),
            _ => Err(names::Failure::Busy),
        };
        match task {
            Task::Bind { port, path, existing, until } => {
                self.owner.registry.intend(&path, None);
                if result.is_ok()
                    && let Some(place) = state.berths.get_mut(&port)
                    && !place.names.contains(&path)
                {
                    place.names.push(path.clone());
                }
                // At its beginning a process may not be known yet to be durable; and what an incarnation of it bound on this very node may
                // still be there.
                let is_own = self
                    .pid()
                    .is_some_and(|pid| self.owner.registry.tide(&path).is_some_and(|tide| tide.process == pid.id()));
                let is_tried_again = match result {
                    Ok(()) => false,
                    Err(_) if until.is_none() => true,
                    Err(names::Failure::Exists) => is_own && existing == names::Existing::Refuse,
                    Err(names::Failure::Undecided | names::Failure::Unreachable | names::Failure::Busy) => {
                        until.is_some_and(|until| Instant::now() < until)
                    }
                    Err(_) => false,
                };
                if is_tried_again {
                    let existing = if is_own { names::Existing::Replace } else { existing };
                    let task = Task::Bind { port, path, existing, until };
                    state.later.push((Instant::now() + NAME_AGAIN, task));
                } else if until.is_some() {
                    state.named.insert(path, result);
                    return true;
                }
            }
            Task::Unbind { path, told } => {
                for place in state.berths.values_mut() {
                    place.names.retain(|name| *name != path);
                }
                if told {
                    state.named.insert(path, result);
                    return true;
                }
            }
            Task::Create { .. } | Task::Close { .. } => {}
        }
        false
    }

    fn next(&self, state: &mut State, now: Time) -> SystemCall {
        if let Some(Doing::Awaiting(_, call)) = &state.doing {
            let wait = Wait::Until(now.after(NAMES_TIMEOUT.as_nanos() as u64));
            return SystemCall::EndCall { call: *call, wait };
        }
        if let Some(call) = state.due.pop_front() {
            state.doing = Some(Doing::Other);
            return call;
        }
        while let Some(task) = state.todo.pop_front() {
            if let Some(call) = self.begin(state, task, now) {
                return call;
            }
        }
        let ports = state.berths.iter().filter(|(_, place)| !place.is_full());
        let listened: Vec<(u32, HandleId)> = ports.filter_map(|(port, place)| Some((*port, place.handle?))).collect();
        // A process has no more than one may wait for at once.
        let rests = std::mem::take(&mut state.rests);
        if listened.is_empty() || rests {
            state.doing = None;
            let until = if rests { now.after(NAME_AGAIN.as_nanos() as u64) } else { Time(u64::MAX) };
            return SystemCall::Sleep { until };
        }
        state.is_listening = true;
        state.doing = Some(Doing::Listening { ports: listened.iter().map(|(port, _)| *port).collect() });
        let ports = listened.iter().map(|(_, handle)| *handle).collect();
        SystemCall::Select { ports, wait: Wait::Forever }
    }

    fn begin(&self, state: &mut State, task: Task, now: Time) -> Option<SystemCall> {
        let deadline = Deadline::at(now.after(NAMES_TIMEOUT.as_nanos() as u64));
        let ask = |request: names::Request, handles: Box<[Transfer]>| {
            let message = Message { bytes: request.encode(), handles };
            SystemCall::Call { port: NAMES_HANDLE, message, deadline }
        };
        match &task {
            Task::Create { port } => {
                let PortOptions { messages_max, bytes_max, overflow } = state.berths.get(port)?.options;
                // It is received ahead anyway; and what is sent has a mark.
                let messages_max = messages_max.max(MESSAGES_MIN);
                let bytes_max = bytes_max.saturating_add(SENT.len() as u32).min(PORT_BYTES_MAX);
                state.doing = Some(Doing::Creating { port: *port });
                Some(SystemCall::CreatePort(PortOptions { messages_max, bytes_max, overflow }))
            }
            Task::Close { handle } => {
                state.doing = Some(Doing::Other);
                Some(SystemCall::Close { handle: *handle })
            }
            Task::Bind { port, path, existing, until } => {
                let place = state.berths.get(port)?;
                if until.is_some() && place.names.contains(path) {
                    // It was bound by an attempt that was put off.
                    state.named.insert(path.clone(), Ok(()));
                    state.has_news = true;
                    return None;
                }
                let handle = place.handle;
                let (Some(handle), Some(pid)) = (handle, self.pid()) else {
                    if until.is_some_and(|until| Instant::now() >= until) {
                        state.named.insert(path.clone(), Err(names::Failure::Full));
                        state.has_news = true;
                        return None;
                    }
                    // It is being made.
                    state.later.push((Instant::now() + ROUSE_AGAIN, task));
                    return None;
                };
                self.owner.registry.intend(path, Some(pid.id()));
                let transfer = Transfer { handle, rights: Rights::SENDER, mode: TransferMode::Copy };
                let request = names::Request::BindPort { path: path.clone(), existing: *existing };
                let call = ask(request, Box::new([transfer]));
                state.doing = Some(Doing::Naming(task));
                Some(call)
            }
            Task::Unbind { path, .. } => {
                if let Some(pid) = self.pid() {
                    self.owner.registry.give_up(path, pid.id());
                }
                let call = ask(names::Request::Unbind { path: path.clone() }, Box::default());
                state.doing = Some(Doing::Naming(task));
                Some(call)
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The flusher has a share in it, so it has ended or never begun.
        if let (Some(master), Some(node)) = (self.master.get(), self.owner.node.upgrade())
            && self.state.get_mut().is_ok_and(|state| state.phase != Phase::Gone)
        {
            node.desk.post(SystemCall::Kill { process: *master }, |key| node.machine.stir(key), |_| {});
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::ids::NodeId;
    use abi::message::{Answerable, Badge};

    fn state() -> State {
        let mut state = State { phase: Phase::Open, ..State::default() };
        let options = PortOptions::buffered(4);
        let place = Place { options, handle: None, names: vec![], queue: VecDeque::new(), bytes: 0 };
        state.berths.insert(2, place);
        state
    }

    fn call(sequence: u64) -> CallId {
        CallId { caller: ProcessId::new(NodeId(3), 9), sequence }
    }

    fn comes(state: &mut State, sequence: u64, reply: u32, bytes: &[u8]) -> bool {
        let id = call(sequence);
        let delivery = Delivery {
            bytes: Bytes::new(bytes),
            handles: Box::default(),
            sender: id.caller,
            badge: Badge::default(),
            call: Some(Answerable { id, reply: HandleId(reply) }),
        };
        state.arrived(2, delivery)
    }

    fn closed(state: &mut State) -> Vec<u32> {
        let closes = state.due.drain(..).map(|call| match call {
            SystemCall::Close { handle } => handle.0,
            other => panic!("{other:?}"),
        });
        closes.collect()
    }

    fn answered(state: &mut State, sequence: u64, standing: Standing, at: u64) {
        let caller = state.known.get_mut(&call(sequence).caller).unwrap();
        assert_eq!(caller.sequence, sequence);
        (caller.standing, caller.at) = (standing.clone(), at);
        if let Some(reply) = caller.reply.take() {
            state.hold(at, reply, standing);
        }
    }

    #[test]
    fn a_call_that_is_asked_again_is_one_message() {
        let mut state = state();
        assert!(comes(&mut state, 5, 50, b"one"));
        assert!(!comes(&mut state, 5, 51, b"one"));
        // The later right to answer counts.
        assert_eq!(closed(&mut state), [50]);
        assert_eq!(state.berths[&2].queue.len(), 1);
        answered(&mut state, 5, Standing::Answered(Bytes::new(b"answer")), 100);
        let reply = |reply: u32| SystemCall::Reply { reply: HandleId(reply), message: Message::of(b"answer") };
        assert_eq!(state.held, [(100, reply(51))]);
        // It is answered as it was, and not before that is safe.
        assert!(!comes(&mut state, 5, 52, b"one"));
        assert_eq!(state.held, [(100, reply(51)), (100, reply(52))]);
        assert!(comes(&mut state, 6, 53, b"two"));
        // Who comes late with an earlier one is told that it is abandoned.
        assert!(!comes(&mut state, 5, 54, b"one"));
        assert_eq!(closed(&mut state), [54]);
        assert_eq!(state.berths[&2].queue.len(), 2);
    }

    #[test]
    fn answers_go_in_the_order_in_which_they_were_given() {
        let mut state = state();
        state.hold(100, HandleId(1), Standing::Abandoned);
        state.hold(40, HandleId(2), Standing::Abandoned);
        assert_eq!(state.held.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [100, 100]);
    }

    #[test]
    fn what_is_sent_is_a_message_and_a_call() {
        let mut state = state();
        assert!(comes(&mut state, 1, 50, &engine::found::as_sent(b"text")));
        let arrival = &state.berths[&2].queue[0];
        assert_eq!((&*arrival.bytes, arrival.is_sent, arrival.call), (&b"text"[..], true, Some(call(1))));
        assert_eq!(state.berths[&2].bytes, 4);
    }
}
