//! The service `names`: one tree of names, as `abi::interface::names` describes it. This file knows nothing of what records
//! mean, nor of files.
//!
//! The one idea: requests are done one after the other against the tree in memory, in the order in which they are taken out
//! of the port; that order is the linearization. Every change is a record in the ledger, and every answer, to a question
//! too, waits until all changes before it are safe. After a restart the records make the same tree again.
//!
//! Ports are bound in memory only: a handle is worth nothing after its node stopped. A port that closes is unbound.
//!
//! Where there are other nodes, a port is bound when the registrar says that they agree, and what is not found here is asked of it. What
//! it found is kept until the port closes or the registrar says that the name may mean something else by now (`beyond`).

mod beyond;

use crate::ledger::{self, HELD_BACK_MAX, JOURNAL_TOKEN, Ledger, LedgerError};
use crate::once::{Done, Standing};
use crate::planted::{Bug, planted};
use crate::{FIRST_GRANT, Input, OWN_PORT, Service};
use abi::call::{Description, DuplicateError, Outcome, SystemCall, WatchError};
use abi::device::JournalResult;
use abi::encoding::{Malformed, Reader, Writer};
use abi::ids::{CallId, HandleId, ObjectId, PortId, ProcessId, Time};
use abi::interface::names::{
    Answer, Existing, Failure, Form, LIST_NAMES_MAX, PART_BYTES_MAX, PARTS_MAX,
    RECORD_BYTES_MAX as NAME_RECORD_BYTES_MAX, Request,
};
use abi::interface::registrar::{Ask, TOLD};
use abi::message::{Answerable, Delivery, Message, Notice, NoticeEvent, Notify, Received, Transfer, TransferMode};
use abi::rights::Rights;
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use beyond::Beyond;

/// The most names in the tree. Then: [`Failure::Full`].
pub const NAMES_MAX: usize = 1 << 22;
/// The most ports bound at once. Then: [`Failure::Full`].
pub const PORTS_MAX: usize = 1 << 10;

/// What whoever looks a port up gets, and so what must be given to bind it.
const PORT_RIGHTS: Rights = Rights::SENDER;

/// The service.
///
/// Invariants: every entry but the root's is in exactly one directory; `ports` says where each bound port is; `binding` is
/// set only between the request to bind a port and the last of the system calls that this takes.
pub struct Names {
    state: State,
    tree: Tree,
    done: Done,
    ports: BTreeMap<u64, Place>,
    /// Tokens of watches; never used twice.
    next_token: u64,
    binding: Option<Binding>,
    /// Ports of other nodes; none on a node that never has others.
    beyond: Option<Beyond>,
}

enum State {
    /// Nothing is known before the journal is read; requests wait here.
    Loading {
        ledger: Option<Ledger>,
        waiting: Vec<Delivery>,
    },
    Serving {
        ledger: Ledger,
    },
}

/// Where an entry is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    directory: u64,
    name: String,
}

/// The tree. Directories have numbers, so that one that is renamed takes all below it along.
struct Tree {
    directories: BTreeMap<u64, BTreeMap<String, Entry>>,
    next_directory: u64,
    names: usize,
}

#[derive(Clone, PartialEq, Eq)]
enum Entry {
    Directory(u64),
    Record(Vec<u8>),
    Port { port: HandleId, watch: HandleId, token: u64 },
}

/// A port that is being bound: described, narrowed to what lookups give, watched; then others may have to agree.
struct Binding {
    answer_to: Answerable,
    path: String,
    existing: Existing,
    port: HandleId,
    /// What the port is, once it is described.
    id: PortId,
    token: u64,
}

const ROOT: u64 = 0;

/// A change as the ledger keeps it.
enum Change {
    MakeDirectory {
        path: String,
    },
    Bind {
        path: String,
        record: Vec<u8>,
    },
    Unbind {
        path: String,
    },
    Rename {
        from: String,
        to: String,
    },
    /// From compaction: only who did what last.
    Remember,
}

impl Default for Names {
    fn default() -> Names {
        Names::new()
    }
}

impl Names {
    pub fn new() -> Names {
        Names {
            state: State::Loading { ledger: None, waiting: Vec::new() },
            tree: Tree::new(),
            done: Done::default(),
            ports: BTreeMap::new(),
            next_token: 0,
            binding: None,
            beyond: None,
        }
    }

    /// On a node with others, to whose registrar it may send: the first grant behind the journal.
    pub fn of_many() -> Names {
        Names { beyond: Some(Beyond::new(HandleId(FIRST_GRANT.0 + 1))), ..Names::new() }
    }
}

impl Service for Names {
    fn port(&self) -> HandleId {
        OWN_PORT
    }

    fn step(&mut self, now: Time, input: Input, calls: &mut Vec<SystemCall>) {
        match input {
            Input::Begun => {
                if self.beyond.is_some() {
                    // Serials of claims are of this life of the service alone.
                    self.next_token = now.0;
                    calls.push(SystemCall::MakeBadge { port: OWN_PORT, badge: TOLD, rights: Rights::SENDER });
                }
                let State::Loading { ledger, .. } = &mut self.state else { unreachable!("a process begins once") };
                *ledger = Some(Ledger::open(FIRST_GRANT, OWN_PORT, calls));
            }
            Input::Received(Received::Message(delivery)) => match &mut self.state {
                State::Serving { .. } if delivery.badge == TOLD => self.told(delivery, calls),
                State::Loading { waiting, .. } if waiting.len() < HELD_BACK_MAX => waiting.push(delivery),
                State::Serving { ledger } if ledger.takes_more() => self.request(delivery, calls),
                _ => refuse_busy(delivery, calls),
            },
            Input::Received(Received::Notice(Notice { token: JOURNAL_TOKEN, event: NoticeEvent::Journal(result) })) => {
                self.journal(result, calls)
            }
            Input::Received(Received::Notice(Notice { token, event: NoticeEvent::PortClosed })) => {
                match self.ports.get(&token).cloned() {
                    Some(place) => self.remove(&place, calls),
                    None => self.closed_beyond(token, calls),
                }
            }
            Input::Received(Received::Notice(_)) => {}
            Input::Outcome(outcome) => self.outcome(outcome, calls),
        }
    }

    fn check(&self) {
        if let State::Serving { ledger } = &self.state {
            ledger.check();
        }
        if let Some(beyond) = &self.beyond {
            beyond.check();
        }
        let mut found = alloc::vec![ROOT];
        let mut at = 0;
        let mut names = 0;
        while at < found.len() {
            for (name, entry) in &self.tree.directories[&found[at]] {
                names += 1;
                match entry {
                    Entry::Directory(number) => {
                        assert!(!found.contains(number), "a directory has two names");
                        found.push(*number);
                    }
                    Entry::Record(_) => {}
                    Entry::Port { token, .. } => {
                        let place = self.ports.get(token).expect("a bound port's place is known");
                        assert!(place.directory == found[at] && place.name == *name, "a bound port is elsewhere");
                    }
                }
            }
            at += 1;
        }
        assert_eq!(found.len(), self.tree.directories.len(), "a directory has no name");
        assert_eq!(names, self.tree.names, "the names are miscounted");
    }
}

/// The journal.
impl Names {
    fn journal(&mut self, result: JournalResult, calls: &mut Vec<SystemCall>) {
        let outcome = match (&mut self.state, result) {
            (State::Loading { .. }, JournalResult::Loaded(all)) => self.load(&all, calls),
            (State::Loading { .. }, JournalResult::Failed(failure)) => Err(LedgerError::Device(failure)),
            (State::Loading { .. }, _) => unreachable!("nothing else was asked of the journal yet"),
            (State::Serving { ledger }, result) => ledger.done(&result, calls),
        };
        if let Err(error) = outcome {
            calls.push(give_up(error));
            return;
        }
        if let State::Serving { ledger } = &mut self.state
            && ledger.wants_compaction()
        {
            ledger.compact(self.tree.summary(&self.done), calls);
        }
    }

    fn load(&mut self, all: &[u8], calls: &mut Vec<SystemCall>) -> Result<(), LedgerError> {
        let replay = ledger::replay(all)?;
        for record in &replay.records {
            let (call, change) = Change::decode(record).map_err(|_| LedgerError::Damaged)?;
            self.tree.apply(change).map_err(|_| LedgerError::Damaged)?;
            if let Some(call) = call {
                self.done.remember(call);
            }
        }
        let State::Loading { ledger, waiting } = &mut self.state else { unreachable!("the journal is loaded once") };
        let mut ledger = ledger.take().expect("the ledger was opened at the beginning");
        let waiting = core::mem::take(waiting);
        ledger.adopt(all, &replay, calls);
        self.state = State::Serving { ledger };
        waiting.into_iter().for_each(|delivery| self.request(delivery, calls));
        Ok(())
    }
}

/// Nothing is done and nothing held back.
fn refuse_busy(delivery: Delivery, calls: &mut Vec<SystemCall>) {
    calls.extend(delivery.handles.iter().map(|handle| SystemCall::Close { handle: *handle }));
    if let Some(Answerable { reply, .. }) = delivery.call {
        let message = Message { bytes: Answer::Failed(Failure::Busy).encode(), handles: Box::default() };
        calls.push(SystemCall::Reply { reply, message });
    }
}

pub(crate) fn give_up(error: LedgerError) -> SystemCall {
    let code = match error {
        LedgerError::Damaged => crate::exit::JOURNAL_DAMAGED,
        LedgerError::Device(_) => crate::exit::JOURNAL_FAILED,
    };
    SystemCall::Exit { code }
}

/// Requests.
impl Names {
    fn request(&mut self, delivery: Delivery, calls: &mut Vec<SystemCall>) {
        let Delivery { bytes, handles, call, .. } = delivery;
        let Some(answer_to) = call else {
            // Nobody could be told.
            calls.extend(handles.iter().map(|handle| SystemCall::Close { handle: *handle }));
            return;
        };
        let request = Request::decode(&bytes);
        let wanted_handles = usize::from(matches!(request, Ok(Request::BindPort { .. })));
        if handles.len() != wanted_handles {
            calls.extend(handles.iter().map(|handle| SystemCall::Close { handle: *handle }));
            return self.answer(answer_to, Answer::Failed(Failure::Handles), calls);
        }
        let request = match request {
            Ok(request) => request,
            Err(Malformed { .. }) => return self.answer(answer_to, Answer::Failed(Failure::Malformed), calls),
        };
        let changes = !matches!(request, Request::Lookup { .. } | Request::List { .. });
        match self.done.standing(answer_to.id) {
            Standing::Done if changes && !planted(Bug::DoneTwice) => {
                calls.extend(handles.iter().map(|handle| SystemCall::Close { handle: *handle }));
                return self.answer(answer_to, Answer::Done, calls);
            }
            Standing::Forgotten if changes && !planted(Bug::DoneTwice) => {
                calls.extend(handles.iter().map(|handle| SystemCall::Close { handle: *handle }));
                return self.answer(answer_to, Answer::Failed(Failure::Forgotten), calls);
            }
            _ => {}
        }
        match request {
            Request::Lookup { path } => self.lookup(answer_to, &path, calls),
            Request::List { path, after, names_max } => {
                let names_max = names_max.min(LIST_NAMES_MAX);
                let answer = self.tree.list(&path, &after, names_max).unwrap_or_else(Answer::Failed);
                match (answer, &self.beyond) {
                    (Answer::Names { names, more }, Some(_)) => {
                        let ask = |serial| Ask::List { serial, path, after, names_max };
                        self.ask_beyond(ask, beyond::Waiting::List { answer_to, names, more, names_max }, calls);
                    }
                    (answer, _) => self.answer(answer_to, answer, calls),
                }
            }
            Request::MakeDirectory { path } => self.change(answer_to, Change::MakeDirectory { path }, calls),
            Request::Bind { path, record, existing } => self.bind(answer_to, path, record, existing, calls),
            Request::BindPort { path, existing } => {
                self.next_token += 1;
                let (port, token) = (handles[0], self.next_token);
                let id = PortId::from_bits(0);
                self.binding = Some(Binding { answer_to, path, existing, port, id, token });
                calls.push(SystemCall::Describe { handle: port });
            }
            Request::Unbind { path } => self.unbind(answer_to, path, calls),
            Request::Rename { from, to } => self.rename(answer_to, from, to, calls),
        }
    }

    fn answer(&mut self, to: Answerable, answer: Answer, calls: &mut Vec<SystemCall>) {
        self.answer_with(to, answer, Box::default(), calls);
    }

    fn answer_with(&mut self, to: Answerable, answer: Answer, handles: Box<[Transfer]>, calls: &mut Vec<SystemCall>) {
        let State::Serving { ledger } = &mut self.state else { unreachable!("nothing is answered before the load") };
        let message = Message { bytes: answer.encode(), handles };
        let reply = SystemCall::Reply { reply: to.reply, message };
        match planted(Bug::ReadsUnsafe) && matches!(answer, Answer::Record(_) | Answer::Directory) {
            true => calls.push(reply),
            false => ledger.when_safe(reply, calls),
        }
    }

    fn lookup(&mut self, to: Answerable, path: &str, calls: &mut Vec<SystemCall>) {
        let (answer, port) = match self.tree.find(path) {
            Err(Failure::NotFound | Failure::NotADirectory) if self.beyond.is_some() => {
                return self.look_beyond(to, path, calls);
            }
            Err(failure) => (Answer::Failed(failure), None),
            Ok(Found::Root | Found::Entry(Entry::Directory(_))) => (Answer::Directory, None),
            Ok(Found::Entry(Entry::Record(record))) => (Answer::Record(record.clone()), None),
            Ok(Found::Entry(Entry::Port { port, .. })) => (Answer::Port, Some(*port)),
        };
        self.answer_with(to, answer, port.map(copy_of).into_iter().collect(), calls)
    }

    /// Does a change, writes it down and answers.
    fn change(&mut self, to: Answerable, change: Change, calls: &mut Vec<SystemCall>) {
        let record = change.encode(Some(to.id));
        if let Err(failure) = self.tree.apply(change) {
            return self.answer(to, Answer::Failed(failure), calls);
        }
        self.done.remember(to.id);
        let State::Serving { ledger } = &mut self.state else { unreachable!("nothing is changed before the load") };
        ledger.append(&record, calls);
        self.answer(to, Answer::Done, calls);
    }

    fn bind(&mut self, to: Answerable, path: String, record: Vec<u8>, existing: Existing, calls: &mut Vec<SystemCall>) {
        if record.len() > NAME_RECORD_BYTES_MAX {
            return self.answer(to, Answer::Failed(Failure::RecordTooLong), calls);
        }
        if let Err(failure) = self.make_way(&path, existing, calls) {
            return self.answer(to, Answer::Failed(failure), calls);
        }
        self.change(to, Change::Bind { path, record }, calls)
    }

    /// Sees that a name can be bound; takes a port away that is to be replaced.
    fn make_way(&mut self, path: &str, existing: Existing, calls: &mut Vec<SystemCall>) -> Result<(), Failure> {
        let place = self.tree.place(path)?;
        match (self.tree.get(&place), existing) {
            (None, _) => Ok(()),
            (Some(Entry::Directory(_)), Existing::Replace) => Err(Failure::IsADirectory),
            (Some(_), Existing::Refuse | Existing::Follow { .. }) if !planted(Bug::BindReplaces) => {
                Err(Failure::Exists)
            }
            (Some(Entry::Port { .. }), _) => {
                self.remove(&place, calls);
                Ok(())
            }
            (Some(_), _) => Ok(()),
        }
    }

    fn unbind(&mut self, to: Answerable, path: String, calls: &mut Vec<SystemCall>) {
        if self.beyond.is_some() {
            match self.tree.find(&path) {
                Ok(Found::Entry(Entry::Port { token, .. })) => return self.unbind_for_all(to, *token, calls),
                Err(Failure::NotFound | Failure::NotADirectory) => {
                    let ask = |serial| Ask::Unbind { serial, path };
                    return self.ask_beyond(ask, beyond::Waiting::Unbind { answer_to: to }, calls);
                }
                _ => {}
            }
        }
        match self.tree.place(&path) {
            Err(failure) => self.answer(to, Answer::Failed(failure), calls),
            Ok(place) => match self.tree.get(&place) {
                // Nothing of it was written down.
                Some(Entry::Port { .. }) => {
                    self.remove(&place, calls);
                    self.answer(to, Answer::Done, calls)
                }
                _ => self.change(to, Change::Unbind { path }, calls),
            },
        }
    }

    fn rename(&mut self, to: Answerable, from: String, target: String, calls: &mut Vec<SystemCall>) {
        let places = (self.tree.place(&from), self.tree.place(&target));
        if self.beyond.is_some() && self.has_port_at_or_below(&from) {
            // The other nodes know it by this name.
            return self.answer(to, Answer::Failed(Failure::Impossible), calls);
        }
        match places {
            (Ok(old), Ok(new)) => match (self.tree.get(&old).cloned(), self.tree.get(&new)) {
                (Some(Entry::Port { token, .. }), None) => {
                    self.tree.shift(&old, &new);
                    self.ports.insert(token, new);
                    self.answer(to, Answer::Done, calls)
                }
                _ => self.change(to, Change::Rename { from, to: target }, calls),
            },
            (Err(failure), _) | (_, Err(failure)) => self.answer(to, Answer::Failed(failure), calls),
        }
    }

    /// Takes a bound port out of the tree.
    fn remove(&mut self, place: &Place, calls: &mut Vec<SystemCall>) {
        let token = self.remove_here(place, calls);
        self.release(token, calls);
    }

    fn remove_here(&mut self, place: &Place, calls: &mut Vec<SystemCall>) -> u64 {
        let Some(Entry::Port { port, watch, token }) = self.tree.take(place) else {
            unreachable!("only ports are removed without a record")
        };
        self.ports.remove(&token);
        self.close_when_safe(&[watch, port], calls);
        token
    }

    /// An answer that is held back may still have to give a copy of them.
    fn close_when_safe(&mut self, handles: &[HandleId], calls: &mut Vec<SystemCall>) {
        let State::Serving { ledger } = &mut self.state else { unreachable!("nothing is bound before the load") };
        for handle in handles {
            ledger.when_safe(SystemCall::Close { handle: *handle }, calls);
        }
    }
}

fn copy_of(handle: HandleId) -> Transfer {
    Transfer { handle, rights: PORT_RIGHTS, mode: TransferMode::Copy }
}

/// Binding a port takes three system calls; their outcomes come before the next request.
impl Names {
    fn outcome(&mut self, outcome: Outcome, calls: &mut Vec<SystemCall>) {
        match outcome {
            Outcome::Described(described) => {
                let binding = self.binding.as_mut().expect("only ports that are being bound are described");
                match described {
                    Ok(Description { object: ObjectId::Port(id), rights, .. }) if rights.contains(PORT_RIGHTS) => {
                        binding.id = id;
                        calls.push(SystemCall::Attenuate { handle: binding.port, rights: PORT_RIGHTS });
                    }
                    Ok(_) | Err(_) => self.refuse_binding(Failure::Handles, calls),
                }
            }
            Outcome::Attenuated(narrowed) => {
                let Binding { port, token, .. } = self.binding.as_ref().expect("only what is being bound is narrowed");
                match narrowed {
                    Ok(()) => {
                        let notify = Notify { port: OWN_PORT, token: *token };
                        calls.push(SystemCall::Watch { subject: *port, notify });
                    }
                    Err(DuplicateError::Handle(_) | DuplicateError::Amplified(_))
                    | Err(DuplicateError::Badge | DuplicateError::Limit(_)) => {
                        self.refuse_binding(Failure::Handles, calls)
                    }
                }
            }
            Outcome::Badged(badged) => self.begin_beyond(badged, calls),
            Outcome::Watching(watching) if self.binding.is_none() => self.arrived(watching, calls),
            Outcome::Watching(Ok(watch)) => self.bind_port(watch, calls),
            Outcome::Watching(Err(error)) => {
                let full = matches!(error, WatchError::Limit(_));
                self.refuse_binding(if full { Failure::Full } else { Failure::Handles }, calls)
            }
            Outcome::JournalAsked(Err(_)) => calls.push(SystemCall::Exit { code: crate::exit::MISPLACED }),
            // An answer that nobody waits for any more is lost as it would be on the way.
            _ => {}
        }
    }

    fn bind_port(&mut self, watch: HandleId, calls: &mut Vec<SystemCall>) {
        let Some(binding) = self.binding.take() else { unreachable!("only ports that are being bound are watched") };
        match self.beyond {
            Some(_) => self.claim(binding, watch, calls),
            None => {
                let answer_to = binding.answer_to;
                let answer = self.put_port(binding, watch, calls).map_or_else(Answer::Failed, |()| Answer::Done);
                self.answer(answer_to, answer, calls);
            }
        }
    }

    fn put_port(&mut self, binding: Binding, watch: HandleId, calls: &mut Vec<SystemCall>) -> Result<(), Failure> {
        let Binding { path, existing, port, token, .. } = binding;
        let full = self.ports.len() >= PORTS_MAX || self.tree.names >= NAMES_MAX;
        let way = if full { Err(Failure::Full) } else { self.make_way_for_port(&path, existing, calls) };
        match way {
            Ok(place) => {
                self.tree.put(&place, Entry::Port { port, watch, token });
                self.ports.insert(token, place);
                Ok(())
            }
            Err(failure) => {
                calls.push(SystemCall::Close { handle: watch });
                calls.push(SystemCall::Close { handle: port });
                Err(failure)
            }
        }
    }

    /// A record that a port replaces would come back after a restart: it must be unbound first, in the ledger too.
    fn make_way_for_port(
        &mut self, path: &str, existing: Existing, calls: &mut Vec<SystemCall>,
    ) -> Result<Place, Failure> {
        self.make_way(path, existing, calls)?;
        let place = self.tree.place(path)?;
        if self.tree.get(&place).is_some() {
            let change = Change::Unbind { path: path.to_owned() };
            let record = change.encode(None);
            self.tree.apply(change)?;
            let State::Serving { ledger } = &mut self.state else { unreachable!("nothing is changed before the load") };
            ledger.append(&record, calls);
        }
        Ok(place)
    }

    fn refuse_binding(&mut self, failure: Failure, calls: &mut Vec<SystemCall>) {
        let binding = self.binding.take().expect("only what is being bound is refused");
        calls.push(SystemCall::Close { handle: binding.port });
        self.answer(binding.answer_to, Answer::Failed(failure), calls);
    }
}

/// What a path leads to.
enum Found<'a> {
    Root,
    Entry(&'a Entry),
}

impl Tree {
    fn new() -> Tree {
        Tree { directories: BTreeMap::from([(ROOT, BTreeMap::new())]), next_directory: ROOT + 1, names: 0 }
    }

    /// The directory that holds the last part of a path, and that part. The root has no place.
    fn place(&self, path: &str) -> Result<Place, Failure> {
        let parts = parts(path)?;
        let Some((name, above)) = parts.split_last() else { return Err(Failure::Impossible) };
        let mut directory = ROOT;
        for part in above {
            directory = match self.directories[&directory].get(*part) {
                None => return Err(Failure::NotFound),
                Some(Entry::Directory(number)) => *number,
                Some(_) => return Err(Failure::NotADirectory),
            };
        }
        Ok(Place { directory, name: (*name).to_owned() })
    }

    fn get(&self, place: &Place) -> Option<&Entry> {
        self.directories[&place.directory].get(&place.name)
    }

    fn directory(&mut self, number: u64) -> &mut BTreeMap<String, Entry> {
        self.directories.get_mut(&number).expect("a place is in a directory that is there")
    }

    fn put(&mut self, place: &Place, entry: Entry) {
        if self.directory(place.directory).insert(place.name.clone(), entry).is_none() {
            self.names += 1;
        }
    }

    fn take(&mut self, place: &Place) -> Option<Entry> {
        let entry = self.directory(place.directory).remove(&place.name);
        self.names -= usize::from(entry.is_some());
        entry
    }

    fn shift(&mut self, old: &Place, new: &Place) {
        let entry = self.take(old).expect("what is moved was just seen");
        if planted(Bug::RenameCopies) && matches!(entry, Entry::Record(_)) {
            self.put(old, entry.clone());
        }
        self.put(new, entry);
    }

    fn find(&self, path: &str) -> Result<Found<'_>, Failure> {
        if parts(path)?.is_empty() {
            return Ok(Found::Root);
        }
        let place = self.place(path)?;
        self.get(&place).map(Found::Entry).ok_or(Failure::NotFound)
    }

    fn list(&self, path: &str, after: &str, names_max: u32) -> Result<Answer, Failure> {
        let number = match self.find(path)? {
            Found::Root => ROOT,
            Found::Entry(Entry::Directory(number)) => *number,
            Found::Entry(_) => return Err(Failure::NotADirectory),
        };
        let behind = (core::ops::Bound::Excluded(after), core::ops::Bound::Unbounded);
        let mut rest = self.directories[&number].range::<str, _>(behind);
        let form = |entry: &Entry| match entry {
            Entry::Directory(_) => Form::Directory,
            Entry::Record(_) => Form::Record,
            Entry::Port { .. } => Form::Port,
        };
        let names = rest.by_ref().take(names_max as usize).map(|(name, entry)| (name.clone(), form(entry))).collect();
        Ok(Answer::Names { names, more: rest.next().is_some() })
    }

    /// Does a change to directories and records; a failure changes nothing.
    fn apply(&mut self, change: Change) -> Result<(), Failure> {
        match change {
            Change::MakeDirectory { path } => {
                let place = self.place(&path)?;
                if self.get(&place).is_some() {
                    return Err(Failure::Exists);
                }
                self.one_more_fits()?;
                let number = self.next_directory;
                self.next_directory += 1;
                self.directories.insert(number, BTreeMap::new());
                self.put(&place, Entry::Directory(number));
            }
            Change::Bind { path, record } => {
                let place = self.place(&path)?;
                match self.get(&place) {
                    Some(Entry::Directory(_)) => return Err(Failure::IsADirectory),
                    Some(_) => {}
                    None => self.one_more_fits()?,
                }
                self.put(&place, Entry::Record(record));
            }
            Change::Unbind { path } => {
                let place = self.place(&path)?;
                match self.get(&place) {
                    None => return Err(Failure::NotFound),
                    Some(Entry::Directory(number)) if !self.directories[number].is_empty() => {
                        return Err(Failure::NotEmpty);
                    }
                    Some(Entry::Directory(number)) => {
                        let number = *number;
                        self.directories.remove(&number);
                    }
                    Some(_) => {}
                }
                self.take(&place);
            }
            Change::Rename { from, to } => {
                let (old, new) = (self.place(&from)?, self.place(&to)?);
                if self.get(&old).is_none() {
                    return Err(Failure::NotFound);
                }
                // Paths have one spelling, so what lies below begins with the path and a slash.
                if to.len() > from.len() && to.starts_with(&from) && to.as_bytes()[from.len()] == b'/' {
                    return Err(Failure::Impossible);
                }
                if self.get(&new).is_some() {
                    return Err(Failure::Exists);
                }
                self.shift(&old, &new);
            }
            Change::Remember => {}
        }
        Ok(())
    }

    fn one_more_fits(&self) -> Result<(), Failure> {
        if self.names < NAMES_MAX { Ok(()) } else { Err(Failure::Full) }
    }

    /// The shortest records that make this tree, and who did what last.
    fn summary(&self, done: &Done) -> impl Iterator<Item = Vec<u8>> {
        let mut records = Vec::new();
        let mut open = alloc::vec![(ROOT, String::new())];
        while let Some((number, above)) = open.pop() {
            let entries = &self.directories[&number];
            let kept = entries.len() - usize::from(planted(Bug::CompactionForgetsName) && !entries.is_empty());
            for (name, entry) in entries.iter().take(kept) {
                let path = alloc::format!("{above}/{name}");
                match entry {
                    Entry::Directory(number) => {
                        records.push(Change::MakeDirectory { path: path.clone() }.encode(None));
                        open.push((*number, path));
                    }
                    Entry::Record(record) => records.push(Change::Bind { path, record: record.clone() }.encode(None)),
                    Entry::Port { .. } => {}
                }
            }
        }
        if !planted(Bug::CompactionForgetsCalls) {
            records.extend(done.iter().map(|call| Change::Remember.encode(Some(call))));
        }
        records.into_iter()
    }
}

/// The parts of a path; none for the root. Each path has one spelling.
fn parts(path: &str) -> Result<Vec<&str>, Failure> {
    let inner = path.strip_prefix('/').ok_or(Failure::BadPath)?;
    if inner.is_empty() {
        return Ok(Vec::new());
    }
    let parts: Vec<&str> = inner.split('/').collect();
    let fine = |part: &&str| {
        !part.is_empty() && part.len() <= PART_BYTES_MAX && *part != "." && *part != ".." && !part.contains('\0')
    };
    if parts.len() <= PARTS_MAX && parts.iter().all(fine) { Ok(parts) } else { Err(Failure::BadPath) }
}

impl Change {
    fn encode(&self, call: Option<CallId>) -> Vec<u8> {
        let mut to = Writer::default();
        match call {
            None => to.u8(0),
            Some(call) => to.u8(1).u64(call.caller.to_bits()).u64(call.sequence),
        };
        match self {
            Change::MakeDirectory { path } => to.u8(0).bytes(path.as_bytes()),
            Change::Bind { path, record } => to.u8(1).bytes(path.as_bytes()).bytes(record),
            Change::Unbind { path } => to.u8(2).bytes(path.as_bytes()),
            Change::Rename { from, to: target } => to.u8(3).bytes(from.as_bytes()).bytes(target.as_bytes()),
            Change::Remember => to.u8(4),
        };
        to.finish()
    }

    fn decode(bytes: &[u8]) -> Result<(Option<CallId>, Change), Malformed> {
        let mut from = Reader::new(bytes);
        let call = match from.u8()? {
            0 => None,
            1 => Some(CallId { caller: ProcessId::from_bits(from.u64()?), sequence: from.u64()? }),
            _ => return Err(from.malformed()),
        };
        let change = match from.u8()? {
            0 => Change::MakeDirectory { path: from.string()? },
            1 => Change::Bind { path: from.string()?, record: from.bytes()?.to_vec() },
            2 => Change::Unbind { path: from.string()? },
            3 => Change::Rename { from: from.string()?, to: from.string()? },
            4 => Change::Remember,
            _ => return Err(from.malformed()),
        };
        from.finish()?;
        Ok((call, change))
    }
}
