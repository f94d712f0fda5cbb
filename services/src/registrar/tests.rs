//! Three nodes, each with the services `names` and `registrar` as processes of a kernel that is as small as can be; ports are bound, found,
//! unbound and closed, and everything happens in any order. In the end all nodes must see the same, and what is true.

use super::*;
use crate::host::Host;
use crate::names::Names;
use abi::call::Description;
use abi::device::{JournalResult, JournalWork};
use abi::ids::{CallId, NodeId, ObjectId, PortId, ProcessId};
use abi::interface::names::{Answer as NamesAnswer, Request};
use abi::message::{Answerable, Badge};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec;
use core::cell::RefCell;

const NODES: usize = 3;

struct Luck(u64);

impl Luck {
    fn below(&mut self, bound: usize) -> usize {
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
enum Object {
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
struct Fact {
    node: usize,
    serial: u64,
    stamp: u64,
}

type Outcoming = (Told, Option<Object>, Option<(String, u64)>);

/// Who asked for something, and what for.
enum Asked {
    Test,
    Fetch { node: usize, serial: u64, path: String, stamp: u64 },
}

struct World {
    /// Names and registrar of each node.
    processes: Vec<Process>,
    piles: Vec<Pile>,
    news: Vec<VecDeque<Told>>,
    /// What seekers are about to tell; of what was found also where, to see whether it is still so.
    results: Vec<Vec<Outcoming>>,
    facts: BTreeMap<String, Fact>,
    stamps: u64,
    closed: BTreeSet<usize>,
    asked: BTreeMap<u64, Asked>,
    answers: BTreeMap<u64, (NamesAnswer, Option<usize>)>,
    calls: u64,
    luck: Luck,
}

impl World {
    fn new(seed: u64) -> World {
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

    fn deliver(&mut self, to: usize, bytes: Bytes, given: &[Object], badge: Badge, call: Option<u64>) {
        let process = &mut self.processes[to];
        let handles = given.iter().map(|object| process.insert(*object)).collect();
        let call = call.map(|call| Answerable {
            id: CallId { caller: ProcessId::new(NodeId(1), call), sequence: 1 },
            reply: process.insert(Object::Reply(call)),
        });
        let sender = ProcessId::new(NodeId(1), 1);
        process.inbox.push_back(Received::Message(Delivery { bytes, handles, sender, badge, call }));
    }

    fn ask(&mut self, node: usize, request: Request, port: Option<usize>) -> u64 {
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
            Asked::Test => drop(self.answers.insert(call, (NamesAnswer::decode(bytes).unwrap(), port))),
            Asked::Fetch { node, serial, path, stamp } => {
                let told = match port {
                    Some(_) => Told::Found { serial },
                    None => Told::Settled { serial, failure: Some(Failure::NotFound) },
                };
                self.results[node].push((told, given, Some((path, stamp))));
            }
        }
    }

    fn tell(&mut self, node: usize, told: Told, port: Option<Object>) {
        let given: Vec<Object> = port.into_iter().collect();
        self.deliver(2 * node + 1, Ask::Tell(told).encode(), &given, Badge(0), None);
    }

    fn change(&mut self, path: &str, fact: Option<Fact>) {
        let before = match fact {
            Some(fact) => self.facts.insert(path.into(), fact),
            None => self.facts.remove(path),
        };
        let now = self.facts.get(path).cloned();
        for node in 0..NODES {
            if let Some(before) = before.as_ref().filter(|before| before.node == node)
                && now.as_ref().is_none_or(|now| now.node != node)
            {
                self.news[node].push_back(Told::Lost { serial: before.serial });
            }
            self.news[node].push_back(Told::Changed { path: path.into() });
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

    fn close(&mut self, port: usize) {
        self.closed.insert(port);
        for number in 0..self.processes.len() {
            let watches = self.processes[number].watches.iter().filter(|(_, (watched, _))| *watched == port);
            let watches: Vec<u32> = watches.map(|(handle, _)| *handle).collect();
            watches.into_iter().for_each(|watch| self.close_noticed(number, watch));
        }
    }

    /// One of the things that can happen; false if nothing can.
    fn step(&mut self) -> bool {
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
                self.tell(node - 300, told, port);
                if let Some((path, stamp)) = found
                    && self.facts.get(&path).map(|fact| fact.stamp) != Some(stamp)
                {
                    self.tell(node - 300, Told::Changed { path }, None);
                }
            }
            node @ 200.. => {
                let told = self.news[node - 200].pop_front().unwrap();
                self.tell(node - 200, told, None);
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
                self.run(number, Outcome::Received(Ok(received)));
            }
        }
        true
    }

    fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn look(&mut self, node: usize, path: &str) -> Option<usize> {
        let call = self.ask(node, Request::Lookup { path: path.into() }, None);
        self.settle();
        match self.answers.remove(&call).expect("every question is answered") {
            (NamesAnswer::Port, Some(port)) => Some(port),
            (NamesAnswer::Failed(Failure::NotFound), None) => None,
            other => panic!("{other:?}"),
        }
    }

    fn list(&mut self, node: usize, names_max: u32) -> Vec<String> {
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

#[test]
fn all_nodes_see_the_same_and_what_is_true() {
    for seed in 0..400 {
        let mut world = World::new(seed);
        let mut ports = 0;
        let mut binds: Vec<(u64, usize, String)> = vec![];
        for round in 0..6 {
            for _ in 0..1 + world.luck.below(12) {
                let node = world.luck.below(NODES);
                let path = format!("/port/{}", world.luck.below(3));
                match world.luck.below(7) {
                    // The port has moved there: the name follows, or means something else by then.
                    6 => {
                        let Some(fact) = world.facts.get(&path).cloned() else { continue };
                        let Some(port) = world.look(fact.node, &path) else { continue };
                        let Some(fact) = world.facts.get(&path).cloned().filter(|now| now.stamp == fact.stamp) else {
                            continue;
                        };
                        let from = NodeId(fact.node as u16);
                        let existing = Existing::Follow { node: from, life: 1, serial: fact.serial };
                        if node != fact.node {
                            world.ask(node, Request::BindPort { path, existing }, Some(port));
                        }
                    }
                    0 | 1 => {
                        ports += 1;
                        let existing = if world.luck.below(3) == 0 { Existing::Replace } else { Existing::Refuse };
                        let call = world.ask(node, Request::BindPort { path: path.clone(), existing }, Some(ports));
                        binds.push((call, ports, path));
                    }
                    2 => drop(world.ask(node, Request::Unbind { path }, None)),
                    3 if ports > 0 => {
                        let port = 1 + world.luck.below(ports);
                        world.close(port);
                    }
                    _ => drop(world.ask(node, Request::Lookup { path }, None)),
                }
                for _ in 0..world.luck.below(12) {
                    world.step();
                }
            }
            world.settle();
            assert!(world.asked.is_empty(), "seed {seed}: something is never answered");
            for path in ["/port/0", "/port/1", "/port/2"] {
                let seen: Vec<Option<usize>> = (0..NODES).map(|node| world.look(node, path)).collect();
                assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}, {round}: {path} is {seen:?}");
                assert_eq!(world.facts.contains_key(path), seen[0].is_some(), "seed {seed}, {round}: {path}");
                if let Some(port) = seen[0] {
                    assert!(!world.closed.contains(&port), "seed {seed}: a closed port is found");
                    let bound = binds.iter().find(|(_, bound, _)| *bound == port).expect("it was bound");
                    let (answer, _) = &world.answers[&bound.0];
                    assert!(bound.2 == path && *answer == NamesAnswer::Done, "seed {seed}: {answer:?}");
                }
            }
            let expected: Vec<String> = world.facts.keys().map(|path| path["/port/".len()..].to_string()).collect();
            for node in 0..NODES {
                assert_eq!(world.list(node, 1 + round), expected, "seed {seed}");
            }
        }
    }
}

#[test]
fn a_name_is_bound_once_and_found_without_asking_again() {
    let mut world = World::new(1);
    let bind = |world: &mut World, node, port| {
        let request = Request::BindPort { path: "/port/0".into(), existing: Existing::Refuse };
        let call = world.ask(node, request, Some(port));
        world.settle();
        world.answers.remove(&call).unwrap().0
    };
    assert_eq!(bind(&mut world, 0, 1), NamesAnswer::Done);
    assert_eq!(bind(&mut world, 1, 2), NamesAnswer::Failed(Failure::Exists));
    assert_eq!(world.look(2, "/port/0"), Some(1));
    let before = world.calls;
    assert_eq!(world.look(2, "/port/0"), Some(1));
    assert_eq!(world.calls, before + 1, "only the test asked");
    world.close(1);
    world.settle();
    assert_eq!(world.look(2, "/port/0"), None);
    assert_eq!(bind(&mut world, 1, 2), NamesAnswer::Done);
    assert_eq!((0..NODES).map(|node| world.look(node, "/port/0")).collect::<Vec<_>>(), [Some(2); NODES]);
}

/// Programs have ways to `names` too, and other nodes one to the registrar.
#[test]
fn nobody_else_is_taken_for_the_registrar() {
    let mut world = World::new(1);
    let request = Request::BindPort { path: "/port/0".into(), existing: Existing::Refuse };
    world.ask(0, request, Some(1));
    world.settle();
    let serial = world.facts["/port/0"].serial;
    world.deliver(0, Told::Lost { serial }.encode(), &[], Badge(0), None);
    world.deliver(1, Ask::Tell(Told::Lost { serial }).encode(), &[], DOOR, None);
    world.deliver(1, Ask::Release { serial }.encode(), &[], DOOR, None);
    world.settle();
    assert_eq!(world.look(0, "/port/0"), Some(1));
    assert_eq!(world.look(1, "/port/0"), Some(1));
    // A claim of another number is not given.
    world.calls += 1;
    world.asked.insert(world.calls, Asked::Fetch { node: 1, serial: 0, path: "/port/0".into(), stamp: 0 });
    let fetch = Fetch { serial: serial + 1, path: "/port/0".into() }.encode();
    world.deliver(1, fetch, &[], DOOR, Some(world.calls));
    world.settle();
}
