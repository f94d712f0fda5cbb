//! Those who work for the service `registrar`: threads that may wait for other nodes, each with a puppet of its own that reaches through
//! the network. Knows what is asked and what is told; how nodes agree about names is the [`Registry`]'s.

use super::machine::Machine;
use super::puppet::Strings;
use abi::call::{Deadline, Outcome, SendMode, SystemCall, Wait};
use abi::ids::{HandleId, NodeId, PortId, ProcessId, Time};
use abi::interface::names::{Existing, Failure};
use abi::interface::registrar::{Ask, Fetch, Told};
use abi::message::{Message, Transfer, TransferMode};
use abi::rights::Rights;
use services::FIRST_GRANT;
use services::registrar::{Desk, Work};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// Those that look for names, and one that tells what has changed.
pub(crate) const SEEKERS: usize = 3;
/// Work that waits for one of them. More is refused.
const WORK_MAX: usize = 1024;
/// How long another node may take to open its door, and to give a port.
const FETCH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the node's own kernel may take for what it does at once.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the manifest gives a seeker.
const NETWORK: HandleId = FIRST_GRANT;
const REGISTRAR: HandleId = HandleId(FIRST_GRANT.0 + 1);

/// Where a port was claimed, and by which claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Home {
    pub node: NodeId,
    pub serial: u64,
}

/// A name that lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tide {
    /// The durable process that has it.
    pub process: ProcessId,
    /// Since when it leads where it leads: greater whenever that changes.
    pub since: u64,
}

/// What comes of asking a node for a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetched {
    Port,
    /// It is not bound there, or not any more.
    NotThere,
    NotHeard,
}

/// How the nodes of a system agree which of them has bound a name. All may wait for others, but not for ever.
pub trait Registry: Send + Sync {
    /// Nothing that was claimed before is claimed any more.
    fn begin(&self);

    fn claim(&self, path: &str, serial: u64, existing: Existing, port: PortId) -> Result<(), Failure>;

    fn release(&self, path: &str, serial: u64) -> Result<(), Failure>;

    /// Makes a name free, whoever has bound it.
    fn unbind(&self, path: &str) -> Result<(), Failure>;

    /// Looks for who has bound a name until one of them has given the port. Gives what [`Registry::has_changed`] wants.
    fn find(&self, path: &str, fetch: &mut dyn FnMut(Home) -> Fetched) -> Result<u64, Failure>;

    /// Does the name mean something else since it was found?
    fn has_changed(&self, path: &str, found: u64) -> bool;

    /// The names in a directory behind `after`, at most so many, and whether there are more.
    fn list(&self, path: &str, after: &str, names_max: usize) -> (Vec<String>, bool);

    /// A durable process of this node is about to bind a name, or does not any more: then the name is to last as long as the process does,
    /// wherever it lives. Does not wait.
    fn intend(&self, path: &str, process: Option<ProcessId>);

    /// A durable process of this node gives a name up that it had bound; so when it is released here it is free. Does not wait.
    fn give_up(&self, path: &str, process: ProcessId);

    /// Whose a name is that lasts, as far as this node has heard. Does not wait.
    fn tide(&self, path: &str) -> Option<Tide>;

    /// Who is told what has changed from now on, on a thread of the registry's own.
    fn tell_changes(&self, tell: Box<dyn Fn(Told) + Send + Sync>);
}

/// Where the registrar leaves work.
#[derive(Clone)]
pub(crate) struct Pile(SyncSender<Work>);

impl Desk for Pile {
    fn leave(&mut self, work: Work) -> bool {
        self.0.try_send(work).is_ok()
    }
}

pub(crate) fn pile() -> (Pile, Receiver<Work>) {
    let (give, take) = sync_channel(WORK_MAX);
    (Pile(give), take)
}

/// Puts the seekers to work, each by its strings.
pub(crate) fn begin(
    machine: &Arc<Machine>, strings: &[Arc<Strings>], work: Receiver<Work>, registry: Arc<dyn Registry>,
) -> std::io::Result<()> {
    let seeker = |strings: &Arc<Strings>| Seeker { machine: Arc::downgrade(machine), strings: strings.clone() };
    let Some((messenger, seekers)) = strings.split_last() else { return Ok(()) };
    let messenger = seeker(messenger);
    registry.tell_changes(Box::new(move |told| messenger.tell(told, None)));
    let work = Arc::new(Mutex::new(work));
    for (number, strings) in seekers.iter().enumerate() {
        let (work, registry, seeker) = (work.clone(), registry.clone(), seeker(strings));
        let run = move || {
            loop {
                // Ends with the registrar.
                let Ok(next) = work.lock().expect("nothing panics while it waits for work").recv() else { return };
                seeker.work(&*registry, next);
            }
        };
        std::thread::Builder::new().name(format!("una-seeker-{number}")).spawn(run)?;
    }
    Ok(())
}

struct Seeker {
    machine: Weak<Machine>,
    strings: Arc<Strings>,
}

impl Seeker {
    fn work(&self, registry: &dyn Registry, work: Work) {
        let settled = |serial, result: Result<(), Failure>| Told::Settled { serial, failure: result.err() };
        match work {
            Work::Begin => registry.begin(),
            Work::Claim { serial, path, existing, port } => {
                self.tell(settled(serial, registry.claim(&path, serial, existing, port)), None);
            }
            Work::Release { serial, path } => self.tell(settled(serial, registry.release(&path, serial)), None),
            Work::Unbind { serial, path } => self.tell(settled(serial, registry.unbind(&path)), None),
            Work::Find { serial, path } => {
                let mut port = None;
                let mut fetch = |home| match self.fetch(home, &path) {
                    Ok(Some(handle)) => {
                        port = Some(handle);
                        Fetched::Port
                    }
                    Ok(None) => Fetched::NotThere,
                    Err(NotHeard) => Fetched::NotHeard,
                };
                match registry.find(&path, &mut fetch) {
                    Ok(found) => {
                        self.tell(Told::Found { serial }, port);
                        // What changed before that was told, was told too early.
                        if registry.has_changed(&path, found) {
                            self.tell(Told::Changed { path }, None);
                        }
                    }
                    Err(failure) => self.tell(settled(serial, Err(failure)), None),
                }
            }
            Work::List { serial, path, after, names_max } => {
                let (names, more) = registry.list(&path, &after, names_max as usize);
                self.tell(Told::Listed { serial, names, more }, None);
            }
        }
    }

    fn call(&self, call: SystemCall, timeout: Duration) -> Option<Outcome> {
        let machine = self.machine.upgrade()?;
        self.strings.call(call, |key| machine.stir(key), timeout).ok()
    }

    fn until(&self, timeout: Duration) -> Option<Time> {
        Some(self.machine.upgrade()?.now().after(timeout.as_nanos() as u64))
    }

    fn close(&self, handle: HandleId) {
        if let Some(machine) = self.machine.upgrade() {
            self.strings.post(SystemCall::Close { handle }, |key| machine.stir(key), |_| {});
        }
    }

    /// To the registrar, which passes it on. If the node ends meanwhile nobody waits for it.
    fn tell(&self, told: Told, port: Option<HandleId>) {
        let give = |handle| Transfer { handle, rights: Rights::SENDER, mode: TransferMode::Move };
        let message = Message { bytes: Ask::Tell(told).encode(), handles: port.map(give).into_iter().collect() };
        let mode = SendMode::Reliable(Wait::Forever);
        let sent = self.call(SystemCall::Send { port: REGISTRAR, message, mode }, TIMEOUT);
        if let (Some(Outcome::Sent(Err(_))), Some(port)) = (sent, port) {
            self.close(port);
        }
    }

    /// The port of a claim, from its node.
    fn fetch(&self, home: Home, path: &str) -> Result<Option<HandleId>, NotHeard> {
        let until = self.until(FETCH_TIMEOUT).ok_or(NotHeard)?;
        // The kernel's own deadline comes first, and the home's word up to 200 ms later.
        let patience = FETCH_TIMEOUT * 2;
        let wait = Wait::Until(until);
        let door = match self.call(SystemCall::Door { network: NETWORK, node: home.node, wait }, patience) {
            Some(Outcome::Door(Ok(door))) => door,
            _ => return Err(NotHeard),
        };
        let message = Message::of(&Fetch { serial: home.serial, path: path.into() }.encode());
        let deadline = Deadline::at(self.until(FETCH_TIMEOUT).ok_or(NotHeard)?);
        let called = self.call(SystemCall::Call { port: door, message, deadline }, patience);
        self.close(door);
        match called {
            Some(Outcome::Called(Ok(answer))) => {
                answer.handles.iter().skip(1).for_each(|handle| self.close(*handle));
                Ok(answer.handles.first().copied())
            }
            _ => Err(NotHeard),
        }
    }
}

/// A node that does not answer in time, has no door yet, or is lost.
struct NotHeard;
