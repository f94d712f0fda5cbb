//! Scenarios: small protocols as text, a command and then what it made happen.
//!
//! ```text
//!   # A rendezvous send ends when a receiver has the message.
//!   root: port p 0
//!   root: spawn a p/send
//!   a: send p hello
//!     a waits
//!   root: receive p
//!     root received hello from a
//!     a sent
//! ```
//! The kernel is the real one; there are as many workers as processes, so whoever is ready runs at once, and processes do only
//! what the text says. Names stand for handles, each process having its own: those that a command makes are named in it,
//! those that come in a message are named by who got them and counted: `a.1`. Times are in microseconds.
//!
//! | command | |
//! |---|---|
//! | `P: port NAME MESSAGES [drop]`, `P: pipe NAME BYTES` | makes one |
//! | `P: spawn Q [HANDLE/RIGHTS ...] [adopted] [tell PORT] [limit WHAT N ...]` | starts a process; Q is also P's name for it |
//! | `P: send PORT TEXT [WAIT] [HANDLES]` | WAIT: `no`, `until T`, `unreliable`, else for ever |
//! | `P: receive PORT ... [WAIT]` | from several is a select |
//! | `P: call PORT TEXT [until T] [again N] [HANDLES]`, `P: begin NAME PORT TEXT ...`, `P: end NAME [WAIT]` | |
//! | `P: reply HANDLE TEXT [HANDLES]` | HANDLES: `move HANDLE/RIGHTS`, `copy HANDLE/RIGHTS` |
//! | `P: read PIPE BYTES [WAIT]`, `P: write PIPE TEXT [WAIT]` | |
//! | `P: duplicate NAME HANDLE/RIGHTS`, `P: badge NAME PORT/RIGHTS N`, `P: narrow HANDLE/RIGHTS`, `P: close HANDLE` | |
//! | `P: watch NAME HANDLE PORT`, `P: timer NAME T PORT` | the notice's token is counted from 1 |
//! | `P: wait Q [WAIT]`, `P: kill Q`, `P: hold Q`, `P: release Q`, `P: interrupt Q`, `P: exit N`, `P: trap`, `P: sleep T`, `P: yield` | |
//! | `P: status PORT`, `P: describe HANDLE` | |
//! | `time T` | it is T now |

use abi::call::{Deadline, Description, Outcome, Overflow, PortOptions, SendMode, SystemCall, Wait};
use abi::ids::{HandleId, NodeId, ObjectId, ProcessId, Time};
use abi::limits::{Limits, WEIGHT_NORMAL};
use abi::message::{Badge, Bytes, Delivery, Message, NoticeEvent, Notify, Received, Transfer, TransferMode};
use abi::process::{Fault, Orphan, Program, Spawn};
use abi::rights::{Kind, Rights};
use kernel::world::{Effect, Event, Input, WorkerId};
use kernel::{Config, Kernel, Key, Process};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

const WORKERS: u16 = 16;

/// Plays a scenario: the same text with what really happened in it. An error says which line cannot be read and why.
pub fn play(text: &str) -> Result<String, String> {
    let mut stage = Stage::new();
    let mut result = String::new();
    for (number, line) in text.lines().enumerate() {
        // What was expected is replaced by what happens.
        if line.starts_with("  ") {
            continue;
        }
        writeln!(result, "{line}").expect("writing to a string does not fail");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        stage.command(line).map_err(|problem| format!("line {}: {problem}: {line}", number + 1))?;
        stage.kernel.check();
        for happened in stage.trace.drain(..) {
            writeln!(result, "  {happened}").expect("writing to a string does not fail");
        }
    }
    Ok(result)
}

struct Stage {
    kernel: Kernel,
    now: Time,
    trace: Vec<String>,
    processes: BTreeMap<String, Actor>,
    names: BTreeMap<ProcessId, String>,
    /// The name of the process that a spawn under way will have.
    newborn: Option<String>,
    tokens: u64,
}

struct Actor {
    key: Key<Process>,
    worker: Option<WorkerId>,
    handles: BTreeMap<String, HandleId>,
    /// What the handle that its system call makes will be called.
    making: Option<String>,
    received: u32,
}

impl Stage {
    fn new() -> Stage {
        let config = Config { node: NodeId(1), life: 0, first_serial: 1, workers: WORKERS, devices: 0 };
        let mut stage = Stage {
            kernel: Kernel::new(config),
            now: Time(0),
            trace: Vec::new(),
            processes: BTreeMap::new(),
            names: BTreeMap::new(),
            newborn: Some("root".into()),
            tokens: 0,
        };
        for number in 0..WORKERS {
            stage.input(Input::Event(Event::Awake { worker: WorkerId(number) }));
        }
        let boot = Event::Boot { program: Program::Service(0), arguments: Bytes::EMPTY, limits: Limits::NORMAL };
        stage.input(Input::Event(boot));
        stage.trace.clear();
        stage
    }

    /// Brings an input, and those that its effects call for, after all of these are carried out.
    fn input(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            self.kernel.step(self.now, input, &mut effects);
            effects.into_iter().for_each(|effect| inputs.extend(self.carry_out(effect)));
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Start { process, id, .. } => {
                let name = self.newborn.take().expect("processes are born of commands");
                self.names.insert(id, name.clone());
                let actor = Actor { key: process, worker: None, handles: BTreeMap::new(), making: None, received: 0 };
                self.processes.insert(name, actor);
                return Some(Input::Event(Event::Started { process }));
            }
            Effect::Run { worker, process } => {
                let outcome = self.kernel.take_outcome(process);
                let name = self.name_of(process);
                self.processes.get_mut(&name).expect("it was born").worker = Some(worker);
                self.happened(&name, outcome);
            }
            Effect::Wake { worker } => return Some(Input::Event(Event::Awake { worker })),
            Effect::Interrupt { worker, process } => {
                // A process that does nothing comes back at once.
                return Some(Input::Event(Event::Yielded { worker, process }));
            }
            Effect::Destroy { process, .. } => {
                let name = self.name_of(process);
                self.processes.get_mut(&name).expect("it was born").worker = None;
                self.trace.push(format!("{name} ends"));
            }
            Effect::Halt { exit } => self.trace.push(format!("the node stops: {exit:?}")),
            Effect::Park { .. }
            | Effect::Alarm { .. }
            | Effect::Journal { .. }
            | Effect::Transmit { .. }
            | Effect::Departed { .. }
            | Effect::Settled { .. }
            | Effect::Missed { .. } => {}
        }
        None
    }

    fn name_of(&self, process: Key<Process>) -> String {
        let found = self.processes.iter().rfind(|(_, actor)| actor.key == process);
        found.expect("the kernel speaks of what was born").0.clone()
    }

    fn process_name(&self, id: ProcessId) -> String {
        self.names.get(&id).cloned().unwrap_or_else(|| format!("{id:?}"))
    }

    fn command(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["time", time] = words[..] {
            self.now = micros(time)?;
            self.input(Input::Event(Event::Alarm));
            return Ok(());
        }
        let (name, act) = line.split_once(": ").ok_or("neither `time T` nor `P: ...`")?;
        let actor = self.processes.get(name).ok_or(format!("there is no process `{name}`"))?;
        let (process, worker) = (actor.key, actor.worker.ok_or(format!("`{name}` does not run"))?);
        let words: Vec<&str> = act.split_whitespace().collect();
        if words == ["trap"] {
            self.input(Input::Event(Event::Trapped { worker, process, fault: Fault::Trap }));
            return Ok(());
        }
        let call = self.read_call(name, &words)?;
        let actor = self.processes.get_mut(name).expect("it was just seen");
        // If it does not run again at once then it waits.
        actor.worker = None;
        self.input(Input::Call { worker, process, call });
        let actor = &self.processes[name];
        let view = self.kernel.processes().find(|view| view.key == actor.key);
        if let (None, Some(view)) = (actor.worker, view)
            && !matches!(view.activity, kernel::inspect::Activity::Exited(_))
        {
            self.trace.insert(0, format!("{name} waits"));
        }
        Ok(())
    }

    fn handle(&self, process: &str, name: &str) -> Result<HandleId, String> {
        let handle = self.processes[process].handles.get(name);
        handle.copied().ok_or(format!("`{process}` has no handle `{name}`"))
    }

    /// `HANDLE/RIGHTS`
    fn handle_and_rights(&self, process: &str, text: &str) -> Result<(HandleId, Rights), String> {
        let (name, rights) = text.split_once('/').ok_or("a handle and rights are `HANDLE/RIGHT+RIGHT`")?;
        Ok((self.handle(process, name)?, read_rights(rights)?))
    }

    fn message(&self, process: &str, text: &str, rest: &mut Vec<&str>) -> Result<Message, String> {
        let mut handles = Vec::new();
        while let Some(index) = rest.iter().position(|word| matches!(*word, "move" | "copy")) {
            let mode = if rest[index] == "move" { TransferMode::Move } else { TransferMode::Copy };
            let what = rest.get(index + 1).ok_or("`move` and `copy` want a handle")?;
            let (handle, rights) = self.handle_and_rights(process, what)?;
            handles.push(Transfer { handle, rights, mode });
            rest.drain(index..index + 2);
        }
        Ok(Message { bytes: Bytes::new(text.as_bytes()), handles: handles.into() })
    }

    fn make(&mut self, process: &str, name: &str) {
        self.processes.get_mut(process).expect("it was just seen").making = Some(name.into());
    }

    fn notify(&mut self, process: &str, port: &str) -> Result<Notify, String> {
        self.tokens += 1;
        Ok(Notify { port: self.handle(process, port)?, token: self.tokens })
    }

    fn read_call(&mut self, me: &str, words: &[&str]) -> Result<SystemCall, String> {
        let (verb, mut rest) = (words[0], words[1..].to_vec());
        let text = |rest: &mut Vec<&str>| {
            if rest.is_empty() { String::new() } else { rest.remove(0).replace('_', " ") }
        };
        fn first<'a>(rest: &mut Vec<&'a str>, what: &str) -> Result<&'a str, String> {
            if rest.is_empty() { Err(format!("{what} is missing")) } else { Ok(rest.remove(0)) }
        }
        let call = match verb {
            "port" => {
                self.make(me, first(&mut rest, "the name")?);
                let messages_max = number(first(&mut rest, "the number of messages")?)? as u32;
                let overflow = if take_word(&mut rest, "drop") { Overflow::Drop } else { Overflow::Wait };
                SystemCall::CreatePort(PortOptions { messages_max, bytes_max: 100, overflow })
            }
            "pipe" => {
                self.make(me, first(&mut rest, "the name")?);
                SystemCall::CreatePipe { bytes_max: number(first(&mut rest, "the number of bytes")?)? as u32 }
            }
            "spawn" => {
                let name = first(&mut rest, "the name")?;
                let orphan = if take_word(&mut rest, "adopted") { Orphan::IsAdopted } else { Orphan::Dies };
                let supervisor = match rest.iter().position(|word| *word == "tell") {
                    None => None,
                    Some(index) => {
                        let port = *rest.get(index + 1).ok_or("`tell` wants a port")?;
                        rest.drain(index..index + 2);
                        Some(self.notify(me, port)?)
                    }
                };
                let mut limits = Limits { handles_max: 64, ..Limits::NORMAL };
                while let Some(index) = rest.iter().position(|word| *word == "limit") {
                    let [what, bound] = rest.get(index + 1..index + 3).ok_or("`limit` wants what and how many")? else {
                        unreachable!("two were taken")
                    };
                    set_limit(&mut limits, what, number(bound)?)?;
                    rest.drain(index..index + 3);
                }
                let mut handles = Vec::new();
                let mut names = Vec::new();
                for grant in rest.drain(..) {
                    let (handle, rights) = self.handle_and_rights(me, grant)?;
                    names.push(grant.split('/').next().expect("a split gives one").to_string());
                    handles.push(Transfer { handle, rights, mode: TransferMode::Copy });
                }
                self.make(me, name);
                self.newborn = Some(name.into());
                let call = SystemCall::Spawn(Box::new(Spawn {
                    program: Program::Service(1),
                    arguments: Bytes::EMPTY,
                    handles: handles.into(),
                    limits,
                    weight: WEIGHT_NORMAL,
                    orphan,
                    supervisor,
                    again: None,
                }));
                // The child knows its handles by its parent's names; it is there only after the call.
                self.processes.get_mut(me).expect("it was just seen").making =
                    Some(format!("{name} {}", names.join(" ")));
                call
            }
            "send" => {
                let port = self.handle(me, first(&mut rest, "the port")?)?;
                let text = text(&mut rest);
                let message = self.message(me, &text, &mut rest)?;
                let mode = match take_word(&mut rest, "unreliable") {
                    true => SendMode::Unreliable,
                    false => SendMode::Reliable(take_wait(&mut rest)?),
                };
                SystemCall::Send { port, message, mode }
            }
            "receive" => {
                let wait = take_wait(&mut rest)?;
                let ports: Vec<HandleId> =
                    rest.drain(..).map(|name| self.handle(me, name)).collect::<Result<_, _>>()?;
                match ports[..] {
                    [port] => SystemCall::Receive { port, wait },
                    _ => SystemCall::Select { ports: ports.into(), wait },
                }
            }
            "call" | "begin" => {
                let name = if verb == "begin" { Some(first(&mut rest, "the name")?) } else { None };
                let port = self.handle(me, first(&mut rest, "the port")?)?;
                let text = text(&mut rest);
                let message = self.message(me, &text, &mut rest)?;
                let again = match take_after(&mut rest, "again") {
                    None => None,
                    Some(text) => Some(number(text)?),
                };
                let at = match take_after(&mut rest, "until") {
                    None => None,
                    Some(text) => Some(micros(text)?),
                };
                let deadline = Deadline { at, again };
                match name {
                    None => SystemCall::Call { port, message, deadline },
                    Some(name) => {
                        self.make(me, name);
                        SystemCall::BeginCall { port, message, deadline }
                    }
                }
            }
            "end" => {
                let call = self.handle(me, first(&mut rest, "the call")?)?;
                SystemCall::EndCall { call, wait: take_wait(&mut rest)? }
            }
            "reply" => {
                let reply = self.handle(me, first(&mut rest, "the right to answer")?)?;
                let text = text(&mut rest);
                SystemCall::Reply { reply, message: self.message(me, &text, &mut rest)? }
            }
            "read" => {
                let pipe = self.handle(me, first(&mut rest, "the pipe")?)?;
                let bytes_max = number(first(&mut rest, "the number of bytes")?)? as u32;
                SystemCall::Read { pipe, bytes_max, wait: take_wait(&mut rest)? }
            }
            "write" => {
                let pipe = self.handle(me, first(&mut rest, "the pipe")?)?;
                let text = text(&mut rest);
                SystemCall::Write { pipe, bytes: Bytes::new(text.as_bytes()), wait: take_wait(&mut rest)? }
            }
            "duplicate" => {
                self.make(me, first(&mut rest, "the name")?);
                let (handle, rights) = self.handle_and_rights(me, first(&mut rest, "the handle")?)?;
                SystemCall::Duplicate { handle, rights }
            }
            "badge" => {
                self.make(me, first(&mut rest, "the name")?);
                let (port, rights) = self.handle_and_rights(me, first(&mut rest, "the port")?)?;
                SystemCall::MakeBadge { port, badge: Badge(number(first(&mut rest, "the badge")?)?), rights }
            }
            "narrow" => {
                let (handle, rights) = self.handle_and_rights(me, first(&mut rest, "the handle")?)?;
                SystemCall::Attenuate { handle, rights }
            }
            "watch" => {
                self.make(me, first(&mut rest, "the name")?);
                let subject = self.handle(me, first(&mut rest, "what to watch")?)?;
                SystemCall::Watch { subject, notify: self.notify(me, first(&mut rest, "the port")?)? }
            }
            "timer" => {
                self.make(me, first(&mut rest, "the name")?);
                let at = micros(first(&mut rest, "the time")?)?;
                SystemCall::SetTimer { at, notify: self.notify(me, first(&mut rest, "the port")?)? }
            }
            "wait" => {
                let process = self.handle(me, first(&mut rest, "the process")?)?;
                SystemCall::Wait { process, wait: take_wait(&mut rest)? }
            }
            "exit" => SystemCall::Exit { code: number(first(&mut rest, "the code")?)? as u32 },
            "sleep" => SystemCall::Sleep { until: micros(first(&mut rest, "the time")?)? },
            "yield" => SystemCall::Yield,
            "kill" | "hold" | "release" | "interrupt" | "close" | "status" | "describe" => {
                let handle = self.handle(me, first(&mut rest, "the handle")?)?;
                match verb {
                    "kill" => SystemCall::Kill { process: handle },
                    "hold" => SystemCall::Hold { process: handle },
                    "release" => SystemCall::Release { process: handle },
                    "interrupt" => SystemCall::Interrupt { process: handle },
                    "close" => SystemCall::Close { handle },
                    "status" => SystemCall::PortStatus { port: handle },
                    _ => SystemCall::Describe { handle },
                }
            }
            verb => return Err(format!("nobody knows how to `{verb}`")),
        };
        if rest.is_empty() { Ok(call) } else { Err(format!("`{}` is too much", rest.join(" "))) }
    }

    /// Says what a system call gave.
    fn happened(&mut self, me: &str, outcome: Outcome) {
        let said = match outcome {
            Outcome::Begun => Ok("begins".to_string()),
            Outcome::Yielded => Ok("goes on".into()),
            Outcome::Slept(result) => said(result.map(|()| "slept")),
            Outcome::Spawned(Ok(spawned)) => {
                let making = self.processes.get_mut(me).expect("it runs").making.take().unwrap_or_default();
                let mut names = making.split(' ');
                let child = names.next().expect("a split gives one").to_string();
                let handles = names.filter(|name| !name.is_empty()).enumerate();
                let handles = handles.map(|(index, name)| (name.to_string(), HandleId(index as u32 + 1))).collect();
                self.processes.get_mut(&child).expect("it was born").handles = handles;
                self.processes.get_mut(me).expect("it runs").handles.insert(child, spawned.process);
                return;
            }
            Outcome::Spawned(Err(error)) => {
                self.newborn = None;
                Err(format!("{error:?}"))
            }
            Outcome::PortCreated(result) | Outcome::PipeCreated(result) => self.made(me, result),
            Outcome::Duplicated(result) | Outcome::Badged(result) => self.made(me, result),
            Outcome::Watching(result) | Outcome::TimerSet(result) => self.made(me, result),
            Outcome::CallBegun(result) => {
                let sequence = result.map(|begun| begun.sequence);
                let made = self.made(me, result.map(|begun| begun.call));
                made.map(|_| format!("began call {}", sequence.expect("it was made")))
            }
            Outcome::DoorOpened(result) => said(result.map(|()| "opened its door")),
            Outcome::Door(result) => self.made(me, result),
            Outcome::Waited(result) => said(result.map(|exit| format!("saw the end: {exit:?}"))),
            Outcome::Killed(result) => said(result.map(|()| "killed")),
            Outcome::Held(result) => said(result.map(|()| "held")),
            Outcome::Released(result) => said(result.map(|()| "released")),
            Outcome::Interrupted(result) => said(result.map(|()| "interrupted")),
            Outcome::Sent(result) => said(result.map(|()| "sent")),
            Outcome::Received(Ok(received)) => Ok(self.received(me, received)),
            Outcome::Received(Err(error)) => Err(format!("{error:?}")),
            Outcome::Selected(Ok((index, received))) => Ok(format!("{} at port {index}", self.received(me, received))),
            Outcome::Selected(Err(error)) => Err(format!("{error:?}")),
            Outcome::Called(Ok(answer)) => Ok(self.answered(me, &answer.bytes, &answer.handles)),
            Outcome::Called(Err(error)) => Err(format!("{error:?}")),
            Outcome::CallEnded(Ok(answer)) => Ok(self.answered(me, &answer.bytes, &answer.handles)),
            Outcome::CallEnded(Err(error)) => Err(format!("{error:?}")),
            Outcome::Replied(result) => said(result.map(|()| "replied")),
            Outcome::PortStatus(result) => said(result.map(|status| {
                format!(
                    "sees {} messages, {} senders and {} receivers waiting, {} dropped",
                    status.messages, status.senders_waiting, status.receivers_waiting, status.dropped
                )
            })),
            Outcome::Read(result) => said(result.map(|bytes| match bytes.is_empty() {
                true => "read the end".to_string(),
                false => format!("read {}", show(&bytes)),
            })),
            Outcome::Written(result) => said(result.map(|()| "wrote")),
            Outcome::Attenuated(result) => said(result.map(|()| "narrowed")),
            Outcome::Closed(result) => said(result.map(|()| "closed")),
            Outcome::Described(result) => said(result.map(|description| describe(&description))),
            Outcome::JournalAsked(result) => said(result.map(|()| "asked the journal")),
        };
        self.trace.push(match said {
            Ok(said) if said.is_empty() => return,
            Ok(said) => format!("{me} {said}"),
            Err(error) => format!("{me} failed: {error}"),
        });
    }

    /// Names what was made; to have made it says enough.
    fn made<E: std::fmt::Debug>(&mut self, me: &str, result: Result<HandleId, E>) -> Result<String, String> {
        let actor = self.processes.get_mut(me).expect("it runs");
        let name = actor.making.take();
        let handle = result.map_err(|error| format!("{error:?}"))?;
        actor.handles.extend(name.map(|name| (name, handle)));
        Ok(String::new())
    }

    fn got_handle(&mut self, me: &str, handle: HandleId) -> String {
        let actor = self.processes.get_mut(me).expect("it runs");
        actor.received += 1;
        let name = format!("{me}.{}", actor.received);
        actor.handles.insert(name.clone(), handle);
        name
    }

    fn with_handles(&mut self, me: &str, handles: &[HandleId]) -> String {
        let mut text = String::new();
        for handle in handles {
            let name = self.got_handle(me, *handle);
            let all = self.kernel.handles(self.processes[me].key);
            let described = all.iter().find(|(other, _)| other == handle).map(|(_, description)| describe(description));
            write!(text, ", with {name} {}", described.unwrap_or("of what is no more".into()))
                .expect("writing to a string does not fail");
        }
        text
    }

    fn received(&mut self, me: &str, received: Received) -> String {
        match received {
            Received::Message(Delivery { bytes, handles, sender, badge, call }) => {
                let sender = self.process_name(sender);
                let mut text = format!("received {} from {sender}", show(&bytes));
                if badge != Badge(0) {
                    write!(text, " through badge {}", badge.0).expect("writing to a string does not fail");
                }
                text += &self.with_handles(me, &handles);
                if let Some(call) = call {
                    let name = self.got_handle(me, call.reply);
                    write!(text, ", to be answered by {name} as call {}", call.id.sequence)
                        .expect("writing to a string does not fail");
                }
                text
            }
            Received::Notice(notice) => {
                let event = match notice.event {
                    NoticeEvent::Exited { process, exit } => {
                        format!("{} ended: {exit:?}", self.process_name(process))
                    }
                    NoticeEvent::PortClosed => "the port closed".into(),
                    NoticeEvent::CallerGone(id) => {
                        format!("{} does not wait for call {} any more", self.process_name(id.caller), id.sequence)
                    }
                    NoticeEvent::Timer => "it is time".into(),
                    NoticeEvent::Journal(result) => format!("{result:?}"),
                };
                format!("received notice {}: {event}", notice.token)
            }
        }
    }

    fn answered(&mut self, me: &str, bytes: &Bytes, handles: &[HandleId]) -> String {
        format!("was answered {}{}", show(bytes), self.with_handles(me, handles))
    }
}

fn said<E: std::fmt::Debug>(result: Result<impl ToString, E>) -> Result<String, String> {
    result.map(|text| text.to_string()).map_err(|error| format!("{error:?}"))
}

fn show(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

fn describe(description: &Description) -> String {
    let kind = match description.object {
        ObjectId::Process(_) => "process",
        ObjectId::Port(_) => "port",
        ObjectId::Pipe(_) => "pipe",
        ObjectId::Reply(_) => "reply",
        ObjectId::Call(_) => "call",
        ObjectId::Watch(_) => "watch",
        ObjectId::Device(_) => "device",
    };
    format!("({kind}: {})", description.rights)
}

fn read_rights(text: &str) -> Result<Rights, String> {
    text.split('+').try_fold(Rights::NONE, |rights, name| {
        let kinds = [Kind::Process, Kind::Port, Kind::Pipe, Kind::Reply];
        let whole = kinds.into_iter().find(|kind| format!("{kind:?}").to_lowercase() == name).map(Rights::all_of);
        let one = (0..16).filter_map(|bit| Rights::from_bits(1 << bit)).find(|right| right.to_string() == name);
        Ok(rights.with(whole.or(one).ok_or(format!("there is no right `{name}`"))?))
    })
}

fn set_limit(limits: &mut Limits, what: &str, bound: u64) -> Result<(), String> {
    match what {
        "handles" => limits.handles_max = bound as u32,
        "ports" => limits.ports_max = bound as u32,
        "pipes" => limits.pipes_max = bound as u32,
        "children" => limits.children_max = bound as u32,
        "watches" => limits.watches_max = bound as u32,
        "bytes" => limits.buffer_bytes_max = bound,
        _ => return Err(format!("there is no limit of `{what}`")),
    }
    Ok(())
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

fn micros(text: &str) -> Result<Time, String> {
    Ok(Time(number(text)? * 1000))
}

fn take_word(rest: &mut Vec<&str>, word: &str) -> bool {
    let found = rest.iter().position(|other| *other == word);
    found.map(|index| rest.remove(index)).is_some()
}

fn take_after<'a>(rest: &mut Vec<&'a str>, word: &str) -> Option<&'a str> {
    let index = rest.iter().position(|other| *other == word)?;
    let value = *rest.get(index + 1)?;
    rest.drain(index..index + 2);
    Some(value)
}

fn take_wait(rest: &mut Vec<&str>) -> Result<Wait, String> {
    if take_word(rest, "no") {
        return Ok(Wait::No);
    }
    match take_after(rest, "until") {
        None => Ok(Wait::Forever),
        Some(text) => Ok(Wait::Until(micros(text)?)),
    }
}
