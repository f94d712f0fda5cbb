//! What the service `names` knows of the ports of other nodes, and what it has asked its registrar. Knows nothing of how nodes agree.
//!
//! The one idea: a request that others have to do with waits here until the registrar has said its word, which it always does; meanwhile
//! the service goes on. What was found is kept, so that it is asked for once.

use super::{Binding, Entry, Found, Names, copy_of};
use crate::OWN_PORT;
use crate::registrar::planted::{Bug, planted};
use abi::call::{DuplicateError, SendMode, SystemCall, Wait, WatchError};
use abi::ids::HandleId;
use abi::interface::names::{Answer, Existing, Failure, Form};
use abi::interface::registrar::{Ask, Told};
use abi::message::{Answerable, Delivery, Message, Notify, Transfer, TransferMode};
use abi::rights::Rights;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// The most requests that wait for the registrar. Then: [`Failure::Busy`].
const WAITING_MAX: usize = 512;
/// The most ports of other nodes that are kept. Then one is forgotten, and asked for again when it is wanted.
const FAR_MAX: usize = 4096;

/// Invariant: `tokens` says under which path each port of another node is kept.
pub struct Beyond {
    registrar: HandleId,
    waiting: BTreeMap<u64, Waiting>,
    far: BTreeMap<String, Far>,
    tokens: BTreeMap<u64, String>,
    /// It is being watched; the outcome comes before anything else.
    arriving: Option<Arriving>,
}

struct Far {
    port: HandleId,
    watch: HandleId,
    token: u64,
}

struct Arriving {
    answer_to: Answerable,
    path: String,
    port: HandleId,
    token: u64,
}

/// What waits for the registrar's word.
pub enum Waiting {
    Claim { binding: Binding, watch: HandleId, is_over: bool },
    Unbind { answer_to: Answerable },
    Find { answer_to: Answerable, path: String },
    List { answer_to: Answerable, names: Vec<(String, Form)>, more: bool, names_max: u32 },
}

impl Beyond {
    pub fn new(registrar: HandleId) -> Beyond {
        Beyond { registrar, waiting: BTreeMap::new(), far: BTreeMap::new(), tokens: BTreeMap::new(), arriving: None }
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    fn is_claiming(&self, path: &str) -> bool {
        self.waiting.values().any(|waiting| matches!(waiting, Waiting::Claim { binding, .. } if binding.path == path))
    }

    fn send(&self, ask: &Ask, handles: Box<[Transfer]>, calls: &mut Vec<SystemCall>) {
        let message = Message { bytes: ask.encode(), handles };
        // The registrar never waits for this service, so there is room soon.
        let mode = SendMode::Reliable(Wait::Forever);
        calls.push(SystemCall::Send { port: self.registrar, message, mode });
    }

    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        assert_eq!(self.far.len(), self.tokens.len());
        assert!(self.far.len() <= FAR_MAX && self.waiting.len() <= WAITING_MAX + super::PORTS_MAX);
        for (path, far) in &self.far {
            assert_eq!(self.tokens.get(&far.token), Some(path), "a port of another node is kept under another path");
        }
    }
}

/// Asking.
impl Names {
    fn beyond(&mut self) -> &mut Beyond {
        self.beyond.as_mut().expect("only where there are other nodes they are asked")
    }

    fn next_serial(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    pub(super) fn begin_beyond(&mut self, own: Result<HandleId, DuplicateError>, calls: &mut Vec<SystemCall>) {
        match own {
            Ok(handle) => {
                let answers = Transfer { handle, rights: Rights::SENDER, mode: TransferMode::Move };
                self.beyond().send(&Ask::Begin, Box::new([answers]), calls);
            }
            Err(_) => calls.push(SystemCall::Exit { code: crate::exit::MISPLACED }),
        }
    }

    pub(super) fn ask_beyond(&mut self, ask: impl FnOnce(u64) -> Ask, waits: Waiting, calls: &mut Vec<SystemCall>) {
        if self.beyond().is_full() {
            return self.fail(Some(waits), Failure::Busy, calls);
        }
        let serial = self.next_serial();
        let beyond = self.beyond();
        beyond.send(&ask(serial), Box::default(), calls);
        beyond.waiting.insert(serial, waits);
    }

    pub(super) fn look_beyond(&mut self, answer_to: Answerable, path: &str, calls: &mut Vec<SystemCall>) {
        if let Some(far) = self.beyond().far.get(path) {
            let port = copy_of(far.port);
            return self.answer_with(answer_to, Answer::Port, Box::new([port]), calls);
        }
        let ask = |serial| Ask::Find { serial, path: path.into() };
        self.ask_beyond(ask, Waiting::Find { answer_to, path: path.into() }, calls);
    }

    /// Has the others agree to a binding, if it is possible here.
    pub(super) fn claim(&mut self, binding: Binding, watch: HandleId, calls: &mut Vec<SystemCall>) {
        let is_claiming = self.beyond().is_full() || self.beyond().is_claiming(&binding.path);
        let taken = match self.tree.place(&binding.path).map(|place| self.tree.get(&place)) {
            Err(failure) => Some(failure),
            Ok(Some(Entry::Directory(_))) => Some(Failure::IsADirectory),
            Ok(Some(_)) if binding.existing != Existing::Replace => Some(Failure::Exists),
            Ok(_) if is_claiming => Some(Failure::Busy),
            Ok(_) => None,
        };
        if let Some(failure) = taken {
            calls.push(SystemCall::Close { handle: watch });
            calls.push(SystemCall::Close { handle: binding.port });
            return self.answer(binding.answer_to, Answer::Failed(failure), calls);
        }
        let (serial, path, existing, port) = (binding.token, binding.path.clone(), binding.existing, binding.id);
        let copy = copy_of(binding.port);
        let beyond = self.beyond();
        beyond.send(&Ask::Claim { serial, path, existing, port }, Box::new([copy]), calls);
        beyond.waiting.insert(serial, Waiting::Claim { binding, watch, is_over: false });
    }

    /// What was bound here is bound no more.
    pub(super) fn release(&mut self, serial: u64, calls: &mut Vec<SystemCall>) {
        if let Some(beyond) = &self.beyond {
            beyond.send(&Ask::Release { serial }, Box::default(), calls);
        }
    }

    pub(super) fn unbind_for_all(&mut self, answer_to: Answerable, token: u64, calls: &mut Vec<SystemCall>) {
        let place = self.ports.get(&token).cloned().expect("a bound port's place is known");
        self.remove(&place, calls);
        self.beyond().waiting.insert(token, Waiting::Unbind { answer_to });
    }

    pub(super) fn has_port_at_or_below(&self, path: &str) -> bool {
        match self.tree.find(path) {
            Ok(Found::Entry(Entry::Port { .. })) => true,
            Ok(Found::Entry(Entry::Directory(number))) => {
                let mut open = alloc::vec![*number];
                while let Some(number) = open.pop() {
                    for entry in self.tree.directories[&number].values() {
                        match entry {
                            Entry::Port { .. } => return true,
                            Entry::Directory(below) => open.push(*below),
                            Entry::Record(_) => {}
                        }
                    }
                }
                false
            }
            _ => false,
        }
    }

    /// A port that is not bound here has closed.
    pub(super) fn closed_beyond(&mut self, token: u64, calls: &mut Vec<SystemCall>) {
        let Some(beyond) = &mut self.beyond else { return };
        if let Some(Waiting::Claim { is_over, .. }) = beyond.waiting.get_mut(&token) {
            *is_over = true;
        } else if let Some(path) = beyond.tokens.get(&token).cloned() {
            self.forget_far(&path, calls);
        }
    }

    fn forget_far(&mut self, path: &str, calls: &mut Vec<SystemCall>) {
        let beyond = self.beyond();
        if let Some(Far { port, watch, token }) = beyond.far.remove(path) {
            beyond.tokens.remove(&token);
            self.close_when_safe(&[watch, port], calls);
        }
    }
}

/// Being told.
impl Names {
    pub(super) fn told(&mut self, delivery: Delivery, calls: &mut Vec<SystemCall>) {
        let Delivery { bytes, handles, .. } = delivery;
        let told = Told::decode(&bytes);
        let brings = matches!(told, Ok(Told::Found { .. }));
        if handles.len() != usize::from(brings) {
            calls.extend(handles.iter().map(|handle| SystemCall::Close { handle: *handle }));
        }
        match told {
            Ok(Told::Settled { serial, failure }) => self.settled(serial, failure, calls),
            Ok(Told::Found { serial }) => match (self.beyond().waiting.remove(&serial), &*handles) {
                (Some(Waiting::Find { answer_to, path }), [port]) => self.found(answer_to, path, *port, calls),
                (waiting, _) => {
                    calls.extend(handles.iter().map(|handle| SystemCall::Close { handle: *handle }));
                    self.fail(waiting, Failure::NotFound, calls);
                }
            },
            Ok(Told::Listed { serial, names, more }) => {
                if let Some(Waiting::List { answer_to, names: here, more: more_here, names_max }) =
                    self.beyond().waiting.remove(&serial)
                {
                    let answer = merged((here, more_here), (names, more), names_max as usize);
                    self.answer(answer_to, answer, calls);
                }
            }
            Ok(Told::Changed { .. }) if planted(Bug::ChangesNotHeeded) => {}
            Ok(Told::Lost { .. }) if planted(Bug::LossNotHeeded) => {}
            Ok(Told::Changed { path }) => self.forget_far(&path, calls),
            Ok(Told::AllChanged) => {
                let all: Vec<String> = self.beyond().far.keys().cloned().collect();
                all.iter().for_each(|path| self.forget_far(path, calls));
            }
            Ok(Told::Lost { serial }) => {
                if let Some(place) = self.ports.get(&serial).cloned() {
                    self.remove_here(&place, calls);
                } else if let Some(Waiting::Claim { is_over, .. }) = self.beyond().waiting.get_mut(&serial) {
                    // Lost before it was said that it was won.
                    *is_over = true;
                }
            }
            Err(_) => {}
        }
    }

    fn settled(&mut self, serial: u64, failure: Option<Failure>, calls: &mut Vec<SystemCall>) {
        let failure = failure.filter(|_| !planted(Bug::RefusedClaimCounts));
        match (self.beyond().waiting.remove(&serial), failure) {
            (Some(Waiting::Claim { binding, watch, is_over }), None) => {
                let (answer_to, token) = (binding.answer_to, binding.token);
                self.forget_far(&binding.path, calls);
                let answer = match self.put_port(binding, watch, calls) {
                    Ok(()) => Answer::Done,
                    Err(failure) => {
                        self.release(token, calls);
                        Answer::Failed(failure)
                    }
                };
                self.answer(answer_to, answer, calls);
                if is_over && let Some(place) = self.ports.get(&token).cloned() {
                    self.remove(&place, calls);
                }
            }
            (Some(Waiting::Unbind { answer_to }), None) => self.answer(answer_to, Answer::Done, calls),
            (waiting, failure) => self.fail(waiting, failure.unwrap_or(Failure::NotFound), calls),
        }
    }

    fn fail(&mut self, waiting: Option<Waiting>, failure: Failure, calls: &mut Vec<SystemCall>) {
        match waiting {
            Some(Waiting::Claim { binding, watch, .. }) => {
                calls.push(SystemCall::Close { handle: watch });
                calls.push(SystemCall::Close { handle: binding.port });
                self.answer(binding.answer_to, Answer::Failed(failure), calls);
            }
            Some(Waiting::Unbind { answer_to } | Waiting::Find { answer_to, .. } | Waiting::List { answer_to, .. }) => {
                self.answer(answer_to, Answer::Failed(failure), calls)
            }
            None => {}
        }
    }

    fn found(&mut self, answer_to: Answerable, path: String, port: HandleId, calls: &mut Vec<SystemCall>) {
        let token = self.next_serial();
        calls.push(SystemCall::Watch { subject: port, notify: Notify { port: OWN_PORT, token } });
        self.beyond().arriving = Some(Arriving { answer_to, path, port, token });
    }

    /// A port of another node is watched from now on, and kept.
    pub(super) fn arrived(&mut self, watching: Result<HandleId, WatchError>, calls: &mut Vec<SystemCall>) {
        let Some(Arriving { answer_to, path, port, token }) =
            self.beyond.as_mut().and_then(|beyond| beyond.arriving.take())
        else {
            return;
        };
        let Ok(watch) = watching else {
            // It cannot be kept; who asked gets it.
            let given = Transfer { handle: port, rights: Rights::SENDER, mode: TransferMode::Move };
            return self.answer_with(answer_to, Answer::Port, Box::new([given]), calls);
        };
        self.forget_far(&path, calls);
        if self.beyond().far.len() >= FAR_MAX
            && let Some(first) = self.beyond().far.keys().next().cloned()
        {
            self.forget_far(&first, calls);
        }
        let beyond = self.beyond();
        beyond.tokens.insert(token, path.clone());
        beyond.far.insert(path, Far { port, watch, token });
        self.answer_with(answer_to, Answer::Port, Box::new([copy_of(port)]), calls);
    }
}

/// Names from here and from elsewhere in one order. Where one side has more, nothing behind its last can be said yet.
fn merged(here: (Vec<(String, Form)>, bool), there: (Vec<String>, bool), names_max: usize) -> Answer {
    let ((here, more_here), (there, more_there)) = (here, there);
    let ends =
        [here.last().map(|(name, _)| name.clone()).filter(|_| more_here), there.last().cloned().filter(|_| more_there)];
    let end = ends.into_iter().flatten().min();
    let mut all: BTreeMap<String, Form> = there.into_iter().map(|name| (name, Form::Port)).collect();
    all.extend(here);
    let known = all.len();
    let fits = |name: &String| end.as_ref().is_none_or(|end| name <= end);
    let names: Vec<(String, Form)> = all.into_iter().filter(|(name, _)| fits(name)).take(names_max).collect();
    let more = more_here || more_there || names.len() < known;
    Answer::Names { names, more }
}
