//! Three nodes, each with the services `names` and `registrar` as processes of a kernel that is as small as can be; ports are bound, found,
//! unbound and closed, and everything happens in any order. In the end all nodes must see the same, and what is true; and until then what
//! was answered fits one order, in which each binding took effect between being asked for and being answered, and each look at a name saw
//! what was true since that node last heard news of it, or later.

use abi::call::{Description, Outcome, SystemCall};
use abi::device::{JournalResult, JournalWork};
use abi::ids::{CallId, HandleId, NodeId, ObjectId, PortId, ProcessId, Time};
use abi::interface::names::{Answer as NamesAnswer, Existing, Failure, Request};
use abi::interface::registrar::{Ask, DOOR, Fetch, Told};
use abi::message::{Answerable, Badge, Bytes, Delivery, Notice, NoticeEvent, Received, Transfer, TransferMode};
use abi::rights::Rights;
use services::host::Host;
use services::names::Names;
use services::registrar::{Desk, Registrar, Work};
use sim::checkers::linear::{self, End, OPERATIONS_MAX, Operation, Sequential, Verdict};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

pub const NODES: usize = 3;

pub struct Luck(u64);

impl Luck {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % bound as u64) as usize
    }
}

#[derive(Clone, Default)]
struct Pile(Rc<RefCell<VecDeque<Work>>>);

impl Desk for Pile {
    fn leave(&mut self, work: Work) -> bool {
        self.0.borrow_mut().push_back(work);
        true
    }
}

/// What a handle leads to. Ports below [`OWN`] are those that are bound by names.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Object {
    Port { port: usize, badge: Badge },
    Reply(u64),
    Other,
}

const OWN: usize = 1_000_000;

enum Body {
    Names(Box<Host<Names>>),
    Registrar(Host<Registrar<Pile>>),
}

struct Process {
    body: Body,
    table: BTreeMap<u32, Object>,
    next: u32,
    inbox: VecDeque<Received>,
    watches: BTreeMap<u32, (usize, u64)>,
}

impl Process {
    fn insert(&mut self, object: Object) -> HandleId {
        self.next += 1;
        self.table.insert(self.next, object);
        HandleId(self.next)
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct Fact {
    pub node: usize,
    pub serial: u64,
    pub stamp: u64,
}

type Outcoming = (Told, Option<Object>, Option<(String, u64)>);

/// Who asked for something, and what for.
pub enum Asked {
    Test,
    Fetch { node: usize, serial: u64, path: String, stamp: u64 },
}

pub struct World {
    /// Names and registrar of each node.
    processes: Vec<Process>,
    piles: Vec<Pile>,
    /// With the moment at which it became so.
    news: Vec<VecDeque<(Told, u64)>>,
    /// What seekers are about to tell; of what was found also where, to see whether it is still so.
    results: Vec<Vec<Outcoming>>,
    pub facts: BTreeMap<String, Fact>,
    stamps: u64,
    pub closed: BTreeSet<usize>,
    pub asked: BTreeMap<u64, Asked>,
    pub answers: BTreeMap<u64, (NamesAnswer, Option<usize>)>,
    pub calls: u64,
    pub luck: Luck,
    moments: u64,
    /// When each name last changed.
    changed: BTreeMap<String, u64>,
    /// Of each node and name: changes of which its registrar has been told, and the last of which `names` has.
    telling: BTreeMap<(usize, String), VecDeque<u64>>,
    heard: BTreeMap<(usize, String), u64>,
    history: Vec<Entry>,
}

/// What somebody asked for.
struct Entry {
    call: u64,
    node: usize,
    path: String,
    act: Act,
    asked: u64,
    /// From when on what it saw may have been so.
    since: u64,
    end: Option<(u64, Said)>,
}

/// What is done to a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    Bind {
        port: usize,
        replaces: bool,
    },
    /// It was bound elsewhere, and the name follows it.
    Follow(usize),
    Unbind,
    /// Was unbound: by whom that was asked, or by somebody before, of which that node had not heard.
    Freed,
    Look,
    /// The port closes; some time its name is free.
    Closed(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Said {
    Done,
    Exists,
    NotFound,
    Port(usize),
    /// It had no effect, and says nothing.
    Busy,
}

/// One name, as if there were one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Bound(Option<usize>);

impl Sequential for Bound {
    type Request = Act;
    type Answer = Said;

    fn apply(&mut self, act: &Act) -> Said {
        match (*act, self.0) {
            (Act::Bind { replaces: false, .. }, Some(_)) => Said::Exists,
            (Act::Bind { port, .. }, _) => {
                self.0 = Some(port);
                Said::Done
            }
            (Act::Follow(port), now) if now == Some(port) => Said::Done,
            (Act::Follow(_), _) => Said::Exists,
            (Act::Unbind, None) | (Act::Look, None) => Said::NotFound,
            (Act::Unbind, Some(_)) | (Act::Freed, _) => {
                self.0 = None;
                Said::Done
            }
            (Act::Look, Some(port)) => Said::Port(port),
            (Act::Closed(port), now) => {
                self.0 = now.filter(|now| *now != port);
                Said::Done
            }
        }
    }
}

impl World {
    pub fn new(seed: u64) -> World {
        let piles: Vec<Pile> = (0..NODES).map(|_| Pile::default()).collect();
        let process =
            |body| Process { body, table: BTreeMap::new(), next: 0, inbox: VecDeque::new(), watches: BTreeMap::new() };
        let mut world = World {
            processes: vec![],
            piles,
            news: (0..NODES).map(|_| VecDeque::new()).collect(),
            results: (0..NODES).map(|_| vec![]).collect(),
            facts: BTreeMap::new(),
            stamps: 0,
            closed: BTreeSet::new(),
            asked: BTreeMap::new(),
            answers: BTreeMap::new(),
            calls: 0,
            luck: Luck(seed),
            moments: 0,
            changed: BTreeMap::new(),
            telling: BTreeMap::new(),
            heard: BTreeMap::new(),
            history: vec![],
        };
        for node in 0..NODES {
            let mut names = process(Body::Names(Box::new(Host::new(Names::of_many()))));
            names.insert(Object::Port { port: OWN + 2 * node, badge: Badge(0) });
            names.insert(Object::Other);
            names.insert(Object::Port { port: OWN + 2 * node + 1, badge: Badge(0) });
            let registrar = Registrar::new(world.piles[node].clone());
            let mut registrar = process(Body::Registrar(Host::new(registrar)));
            registrar.insert(Object::Port { port: OWN + 2 * node + 1, badge: Badge(0) });
            registrar.insert(Object::Other);
            world.processes.extend([names, registrar]);
        }
        (0..2 * NODES).for_each(|process| world.run(process, Outcome::Begun));
        world.settle();
        for node in 0..NODES {
            let made = world.ask(node, Request::MakeDirectory { path: "/port".into() }, None);
            world.settle();
            assert_eq!(world.answers.remove(&made), Some((NamesAnswer::Done, None)));
        }
        world
    }

    /// Runs a process until it receives.
    fn run(&mut self, number: usize, mut outcome: Outcome) {
        loop {
            let now = Time(1);
            let process = &mut self.processes[number];
            let call = match &mut process.body {
                Body::Names(host) => host.resume(now, outcome),
                Body::Registrar(host) => host.resume(now, outcome),
            };
            match &process.body {
                Body::Names(host) => host.check(),
                Body::Registrar(host) => host.check(),
            }
            let Some(next) = self.call(number, call) else { return };
            outcome = next;
        }
    }

    /// None: it waits for a message.
    fn call(&mut self, number: usize, call: SystemCall) -> Option<Outcome> {
        let process = &mut self.processes[number];
        Some(match call {
            SystemCall::Receive { .. } => return None,
            SystemCall::MakeBadge { port, badge, .. } => {
                let Some(Object::Port { port, .. }) = process.table.get(&port.0).copied() else { panic!("no port") };
                Outcome::Badged(Ok(process.insert(Object::Port { port, badge })))
            }
            SystemCall::OpenDoor { .. } => Outcome::DoorOpened(Ok(())),
            SystemCall::Describe { handle } => {
                assert!(process.table.contains_key(&handle.0));
                let object = ObjectId::Port(PortId::new(NodeId(1), 1));
                Outcome::Described(Ok(Description { object, rights: Rights::SENDER, badge: Badge(0) }))
            }
            SystemCall::Attenuate { .. } => Outcome::Attenuated(Ok(())),
            SystemCall::Watch { subject, notify } => {
                let Some(Object::Port { port, .. }) = process.table.get(&subject.0).copied() else { panic!("no port") };
                let handle = process.insert(Object::Other);
                process.watches.insert(handle.0, (port, notify.token));
                if self.closed.contains(&port) {
                    self.close_noticed(number, handle.0);
                }
                Outcome::Watching(Ok(handle))
            }
            SystemCall::Close { handle } => {
                assert!(process.table.remove(&handle.0).is_some(), "{handle:?} is closed twice");
                process.watches.remove(&handle.0);
                Outcome::Closed(Ok(()))
            }
            SystemCall::Journal { work, notify, .. } => {
                let result = match work {
                    JournalWork::Load => JournalResult::Loaded(Bytes::EMPTY),
                    JournalWork::Append(_) => JournalResult::Appended,
                    JournalWork::Flush => JournalResult::Flushed,
                    JournalWork::Replace(_) => JournalResult::Replaced,
                };
                let event = NoticeEvent::Journal(result);
                process.inbox.push_back(Received::Notice(Notice { token: notify.token, event }));
                Outcome::JournalAsked(Ok(()))
            }
            SystemCall::Send { port, message, .. } => {
                let Some(Object::Port { port, badge }) = process.table.get(&port.0).copied() else { panic!("no port") };
                let given = self.take(number, &message.handles);
                self.deliver(port - OWN, message.bytes, &given, badge, None);
                Outcome::Sent(Ok(()))
            }
            SystemCall::Reply { reply, message } => {
                let Some(Object::Reply(call)) = process.table.remove(&reply.0) else { panic!("no right to answer") };
                let given = self.take(number, &message.handles);
                self.answered(call, &message.bytes, given.first().copied());
                Outcome::Replied(Ok(()))
            }
            other => panic!("nobody expects {other:?}"),
        })
    }

    fn take(&mut self, number: usize, handles: &[Transfer]) -> Vec<Object> {
        let table = &mut self.processes[number].table;
        let object = |transfer: &Transfer| match transfer.mode {
            TransferMode::Copy => table[&transfer.handle.0],
            TransferMode::Move => table.remove(&transfer.handle.0).expect("it is there"),
        };
        handles.iter().map(object).collect()
    }

    pub fn deliver(&mut self, to: usize, bytes: Bytes, given: &[Object], badge: Badge, call: Option<u64>) {
        let process = &mut self.processes[to];
        let handles = given.iter().map(|object| process.insert(*object)).collect();
        let call = call.map(|call| Answerable {
            id: CallId { caller: ProcessId::new(NodeId(1), call), sequence: 1 },
            reply: process.insert(Object::Reply(call)),
        });
        let sender = ProcessId::new(NodeId(1), 1);
        process.inbox.push_back(Received::Message(Delivery { bytes, handles, sender, badge, call }));
    }

    pub fn ask(&mut self, node: usize, request: Request, port: Option<usize>) -> u64 {
        self.calls += 1;
        let given: Vec<Object> = port.map(|port| Object::Port { port, badge: Badge(0) }).into_iter().collect();
        self.asked.insert(self.calls, Asked::Test);
        self.deliver(2 * node, request.encode(), &given, Badge(0), Some(self.calls));
        self.calls
    }

    fn answered(&mut self, call: u64, bytes: &[u8], given: Option<Object>) {
        let port = given.map(|given| match given {
            Object::Port { port, .. } => port,
            other => panic!("{other:?} was given"),
        });
        match self.asked.remove(&call).expect("it is answered once") {
            Asked::Test => {
                let answer = NamesAnswer::decode(bytes).unwrap();
                let said = match (&answer, port) {
                    (NamesAnswer::Done, _) => Said::Done,
                    (NamesAnswer::Port, Some(port)) => Said::Port(port),
                    (NamesAnswer::Failed(Failure::Exists), _) => Said::Exists,
                    (NamesAnswer::Failed(Failure::NotFound), _) => Said::NotFound,
                    _ => Said::Busy,
                };
                let at = self.moment();
                if let Some(entry) = self.history.iter_mut().find(|entry| entry.call == call) {
                    entry.end = Some((at, said));
                }
                self.answers.insert(call, (answer, port));
            }
            // Whoever seeks asks the coordinator again, if it says something else by now.
            Asked::Fetch { node, serial, path, stamp }
                if port.is_none() && self.facts.get(&path).map(|fact| fact.stamp) != Some(stamp) =>
            {
                self.work(node, Work::Find { serial, path });
            }
            Asked::Fetch { node, serial, path, stamp } => {
                let told = match port {
                    Some(_) => Told::Found { serial },
                    None => Told::Settled { serial, failure: Some(Failure::NotFound) },
                };
                self.results[node].push((told, given, Some((path, stamp))));
            }
        }
    }

    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// Asks, and writes down what comes of it.
    fn ask_noted(&mut self, node: usize, path: &str, act: Act) -> u64 {
        let asked = self.moment();
        let path = path.to_string();
        let (request, given) = match act {
            Act::Bind { port, replaces } => {
                let existing = if replaces { Existing::Replace } else { Existing::Refuse };
                (Request::BindPort { path: path.clone(), existing }, Some(port))
            }
            Act::Unbind => (Request::Unbind { path: path.clone() }, None),
            Act::Look => (Request::Lookup { path: path.clone() }, None),
            Act::Follow(_) | Act::Closed(_) | Act::Freed => unreachable!("these are asked for otherwise"),
        };
        let call = self.ask(node, request, given);
        let since = self.heard.get(&(node, path.clone())).copied().unwrap_or(0);
        self.history.push(Entry { call, node, path, act, asked, since: since.min(asked), end: None });
        call
    }

    /// Was the node of this look, which ended then, about to bind the name itself? Between the coordinator's word and its own it does not
    /// find a name that is its own by then.
    fn is_binding(&self, look: &Entry, ended: u64) -> bool {
        let overlaps = |one: &Entry| one.asked < ended && one.end.is_none_or(|(at, _)| at > look.asked);
        let binds = |one: &Entry| matches!(one.act, Act::Bind { .. } | Act::Follow(_));
        self.history.iter().any(|one| (one.node, &one.path) == (look.node, &look.path) && binds(one) && overlaps(one))
    }

    /// What was answered about each name fits one order.
    fn fits_one_order(&self) -> Result<(), String> {
        for path in ["/port/0", "/port/1", "/port/2"] {
            let of_it = self.history.iter().filter(|entry| entry.path == path);
            let operation = |entry: &Entry| {
                let end = match entry.end {
                    Some((_, Said::Busy)) => return None,
                    Some((at, Said::NotFound)) if entry.act == Act::Look && self.is_binding(entry, at) => return None,
                    // What fails to follow has no effect, and compares more than the port.
                    Some((_, Said::Exists)) if matches!(entry.act, Act::Follow(_)) => return None,
                    Some((at, answer)) => End::Answered { at, answer },
                    None => End::Unknown { limit: u64::MAX },
                };
                // A binding took effect after it was asked for, whatever its node had heard.
                let is_bound = entry.end.is_some_and(|(_, said)| said == Said::Done) && entry.act != Act::Unbind;
                let asked = if is_bound { entry.asked } else { entry.since };
                let is_freed = (entry.act, entry.end.map(|(_, said)| said)) == (Act::Unbind, Some(Said::Done));
                let request = if is_freed { Act::Freed } else { entry.act };
                Some(Operation { request, asked, end })
            };
            let operations: Vec<_> = of_it.filter_map(operation).collect();
            assert!(operations.len() <= OPERATIONS_MAX);
            if linear::check(Bound(None), &operations) == Verdict::NotLinearizable {
                return Err(format!("no order explains what was answered of {path}: {operations:#?}"));
            }
        }
        Ok(())
    }

    fn tell(&mut self, node: usize, told: Told, port: Option<Object>, changed: u64) {
        if let Told::Changed { path } = &told {
            self.telling.entry((node, path.clone())).or_default().push_back(changed);
        }
        let given: Vec<Object> = port.into_iter().collect();
        self.deliver(2 * node + 1, Ask::Tell(told).encode(), &given, Badge(0), None);
    }

    fn change(&mut self, path: &str, fact: Option<Fact>) {
        let before = match fact {
            Some(fact) => self.facts.insert(path.into(), fact),
            None => self.facts.remove(path),
        };
        let now = self.facts.get(path).cloned();
        let at = self.moment();
        self.changed.insert(path.into(), at);
        for node in 0..NODES {
            if let Some(before) = before.as_ref().filter(|before| before.node == node)
                && now.as_ref().is_none_or(|now| now.node != node)
            {
                self.news[node].push_back((Told::Lost { serial: before.serial }, at));
            }
            self.news[node].push_back((Told::Changed { path: path.into() }, at));
        }
    }

    fn work(&mut self, node: usize, work: Work) {
        let settled = |serial, failure| Told::Settled { serial, failure };
        match work {
            Work::Begin => {}
            Work::Claim { serial, path, existing, .. } => {
                let fact = self.facts.get(&path);
                let is_free = match existing {
                    Existing::Follow { node, serial, .. } => {
                        fact.is_some_and(|fact| (fact.node, fact.serial) == (usize::from(node.0), serial))
                    }
                    Existing::Replace => true,
                    Existing::Refuse => fact.is_none_or(|fact| fact.node == node),
                };
                if is_free {
                    self.stamps += 1;
                    self.change(&path, Some(Fact { node, serial, stamp: self.stamps }));
                }
                self.results[node].push((settled(serial, (!is_free).then_some(Failure::Exists)), None, None));
            }
            Work::Release { serial, path } => {
                if self.facts.get(&path).is_some_and(|fact| (fact.node, fact.serial) == (node, serial)) {
                    self.change(&path, None);
                }
                self.results[node].push((settled(serial, None), None, None));
            }
            Work::Unbind { serial, path } => {
                let is_there = self.facts.contains_key(&path);
                if is_there {
                    self.change(&path, None);
                }
                self.results[node].push((settled(serial, (!is_there).then_some(Failure::NotFound)), None, None));
            }
            Work::Find { serial, path } => match self.facts.get(&path).cloned().filter(|fact| fact.node != node) {
                Some(fact) => {
                    self.calls += 1;
                    let fetch = Fetch { serial: fact.serial, path: path.clone() }.encode();
                    self.asked.insert(self.calls, Asked::Fetch { node, serial, path, stamp: fact.stamp });
                    self.deliver(2 * fact.node + 1, fetch, &[], DOOR, Some(self.calls));
                }
                None => self.results[node].push((settled(serial, Some(Failure::NotFound)), None, None)),
            },
            Work::List { serial, path, after, names_max } => {
                let below = self.facts.keys().filter_map(|known| known.strip_prefix(&path)?.strip_prefix('/'));
                let mut below = below.filter(|name| **name > *after).map(String::from);
                let names = below.by_ref().take(names_max as usize).collect();
                let more = below.next().is_some();
                self.results[node].push((Told::Listed { serial, names, more }, None, None));
            }
        }
    }

    fn close_noticed(&mut self, number: usize, watch: u32) {
        let process = &mut self.processes[number];
        if let Some((_, token)) = process.watches.remove(&watch) {
            process.inbox.push_back(Received::Notice(Notice { token, event: NoticeEvent::PortClosed }));
        }
    }

    pub fn close(&mut self, port: usize) {
        self.closed.insert(port);
        for number in 0..self.processes.len() {
            let watches = self.processes[number].watches.iter().filter(|(_, (watched, _))| *watched == port);
            let watches: Vec<u32> = watches.map(|(handle, _)| *handle).collect();
            watches.into_iter().for_each(|watch| self.close_noticed(number, watch));
        }
    }

    /// One of the things that can happen; false if nothing can.
    pub fn step(&mut self) -> bool {
        let ready = |number: &usize| !self.processes[*number].inbox.is_empty();
        let mut could: Vec<usize> = (0..2 * NODES).filter(ready).collect();
        could.extend((0..NODES).filter(|node| !self.piles[*node].0.borrow().is_empty()).map(|node| 100 + node));
        could.extend((0..NODES).filter(|node| !self.news[*node].is_empty()).map(|node| 200 + node));
        could.extend((0..NODES).filter(|node| !self.results[*node].is_empty()).map(|node| 300 + node));
        if could.is_empty() {
            return false;
        }
        match could[self.luck.below(could.len())] {
            node @ 300.. => {
                let which = self.luck.below(self.results[node - 300].len());
                let (told, port, found) = self.results[node - 300].swap_remove(which);
                self.tell(node - 300, told, port, 0);
                if let Some((path, stamp)) = found
                    && self.facts.get(&path).map(|fact| fact.stamp) != Some(stamp)
                {
                    let changed = self.changed.get(&path).copied().unwrap_or(0);
                    self.tell(node - 300, Told::Changed { path }, None, changed);
                }
            }
            node @ 200.. => {
                let (told, changed) = self.news[node - 200].pop_front().unwrap();
                self.tell(node - 200, told, None, changed);
            }
            node @ 100.. => {
                // Seekers are several: work is done in any order.
                let pile = self.piles[node - 100].clone();
                let which = self.luck.below(pile.0.borrow().len());
                let work = pile.0.borrow_mut().remove(which).unwrap();
                self.work(node - 100, work);
            }
            number => {
                let received = self.processes[number].inbox.pop_front().unwrap();
                let news = match &received {
                    Received::Message(delivery) if number % 2 == 0 && delivery.badge != Badge(0) => {
                        Told::decode(&delivery.bytes).ok()
                    }
                    _ => None,
                };
                self.run(number, Outcome::Received(Ok(received)));
                // From now on what this node says of that name is not older than that.
                if let Some(Told::Changed { path }) = news {
                    let key = (number / 2, path);
                    let changed = self.telling.get_mut(&key).and_then(VecDeque::pop_front).expect("it was told");
                    let heard = self.heard.entry(key).or_default();
                    *heard = changed.max(*heard);
                }
            }
        }
        true
    }

    pub fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    pub fn look(&mut self, node: usize, path: &str) -> Option<usize> {
        let call = self.ask(node, Request::Lookup { path: path.into() }, None);
        self.settle();
        match self.answers.remove(&call).expect("every question is answered") {
            (NamesAnswer::Port, Some(port)) => Some(port),
            (NamesAnswer::Failed(Failure::NotFound), None) => None,
            other => panic!("{other:?}"),
        }
    }

    pub fn list(&mut self, node: usize, names_max: u32) -> Vec<String> {
        let (mut all, mut after) = (vec![], String::new());
        loop {
            let request = Request::List { path: "/port".into(), after: after.clone(), names_max };
            let call = self.ask(node, request, None);
            self.settle();
            let Some((NamesAnswer::Names { names, more }, None)) = self.answers.remove(&call) else {
                panic!("no list")
            };
            all.extend(names.into_iter().map(|(name, _)| name));
            match all.last().filter(|_| more) {
                Some(last) => after = last.clone(),
                None => return all,
            }
        }
    }
}

/// What is asked of one seed, at most; then it is judged.
const ASKED_MAX: usize = 60;

/// Everything under way at any time, and everybody's answers judged.
pub fn play(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed ^ 0x6b1d);
    let mut ports = 0;
    while world.history.len() < ASKED_MAX {
        let node = world.luck.below(NODES);
        let path = format!("/port/{}", world.luck.below(3));
        match world.luck.below(12) {
            0..=3 => {
                ports += 1;
                let replaces = world.luck.below(3) == 0;
                world.ask_noted(node, &path, Act::Bind { port: ports, replaces });
            }
            4 => drop(world.ask_noted(node, &path, Act::Unbind)),
            5 if ports > 0 => {
                let port = 1 + world.luck.below(ports);
                if world.closed.contains(&port) {
                    continue;
                }
                // What is bound after it closed is free again some time all the same.
                let bound =
                    world.history.iter().filter(|one| matches!(one.act, Act::Bind { port: of, .. } if of == port));
                let paths: Vec<String> = bound.map(|one| one.path.clone()).collect();
                let since = world.moment();
                for path in paths {
                    world.history.push(Entry {
                        call: 0,
                        node,
                        path,
                        act: Act::Closed(port),
                        asked: since,
                        since,
                        end: None,
                    });
                }
                world.close(port);
            }
            6 => {
                // Who has a name says under which claim, and of which port.
                world.settle();
                let Some(fact) = world.facts.get(&path).cloned().filter(|fact| fact.node != node) else { continue };
                let Some(port) = world.look(fact.node, &path) else { continue };
                let same = world.facts.get(&path).is_some_and(|now| now.stamp == fact.stamp);
                if !same || world.closed.contains(&port) {
                    continue;
                }
                let from = NodeId(fact.node as u16);
                let existing = Existing::Follow { node: from, life: 1, serial: fact.serial };
                let since = world.moment();
                let call = world.ask(node, Request::BindPort { path: path.clone(), existing }, Some(port));
                world.history.push(Entry { call, node, path, act: Act::Follow(port), asked: since, since, end: None });
            }
            _ => drop(world.ask_noted(node, &path, Act::Look)),
        }
        for _ in 0..world.luck.below(10) {
            world.step();
        }
    }
    world.settle();
    world.fits_one_order()
}
