//! A node for the wire's tests: a wire, and a record of all that it is told. Knows no test.

use abi::clock::Stamp;
use abi::ids::NodeKey;
use drivers::wire::{
    Answer, Ask, AskError, Class, Clock, Hello, Identity, LinkState, Receiver, Refusal, RefusedBy, Service, Stream,
    Unlinked, Versions, Wire,
};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Nothing in these tests takes so long on any machine, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// What a node that is asked does, by service.
pub const ECHO: Service = Service(1);
/// Answers when the test does.
pub const HELD: Service = Service(2);
pub const FAILS: Service = Service(3);
pub const DROPS: Service = Service(4);
/// The body is a number, and the answer has so many bytes.
pub const SIZED: Service = Service(5);

#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    Linked(NodeKey, Hello),
    Unlinked(NodeKey, Unlinked),
    Arrived(Class, Vec<u8>),
    Refused(NodeKey, RefusedBy, Refusal),
    Room(Class),
    Visited(NodeKey, Vec<u8>),
    Closed(NodeKey, u64),
}

#[derive(Default)]
pub struct Record {
    pub held: Mutex<Held>,
    changed: Condvar,
    pub ticks: Arc<Ticks>,
}

/// A clock that only counts, and is put forward by the test.
#[derive(Default)]
pub struct Ticks(Mutex<u64>);

impl Ticks {
    /// Further than all that is sent in a test.
    pub const FORWARD: u64 = 1_000_000;

    pub fn now(&self) -> u64 {
        *self.0.lock().unwrap()
    }

    /// Gives what it shows now.
    pub fn forward(&self) -> u64 {
        let mut ticks = self.0.lock().unwrap();
        *ticks += Ticks::FORWARD;
        *ticks
    }
}

impl Clock for Ticks {
    fn stamp(&self) -> Stamp {
        let mut ticks = self.0.lock().unwrap();
        *ticks += 1;
        Stamp::from_bits(*ticks)
    }

    fn heard(&self, _: NodeKey, stamp: Stamp) {
        let mut ticks = self.0.lock().unwrap();
        *ticks = stamp.to_bits().max(*ticks);
    }
}

#[derive(Default)]
pub struct Held {
    pub events: Vec<Event>,
    pub answers: VecDeque<(Answer, Vec<u8>)>,
    pub streams: VecDeque<(Stream, Vec<u8>)>,
    /// Arrived messages are only counted, by class.
    pub only_count: bool,
    pub counts: [u64; 4],
    /// What the clock showed when something came last.
    pub at: u64,
    /// When the first message of control came.
    pub counts_at_control: Option<[u64; 4]>,
}

impl Record {
    /// Waits until there is what is looked for.
    pub fn wait<T>(&self, what: &str, mut found: impl FnMut(&mut Held) -> Option<T>) -> T {
        let (deadline, mut held) = (soon(), self.held.lock().unwrap());
        loop {
            if let Some(found) = found(&mut held) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not come; there were {:?}", held.events);
            held = self.changed.wait_timeout(held, left).unwrap().0;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        let mut held = self.held.lock().unwrap();
        held.at = self.ticks.now();
        change(&mut held);
        drop(held);
        self.changed.notify_all();
    }

    fn note(&self, event: Event) {
        self.change(|held| held.events.push(event));
    }

    pub fn linked(&self, key: NodeKey) {
        self.wait("a link", |held| {
            let of_peer =
                |event: &&Event| matches!(event, Event::Linked(peer, _) | Event::Unlinked(peer, _) if *peer == key);
            held.events.iter().rfind(of_peer).filter(|event| matches!(event, Event::Linked(..))).map(|_| ())
        });
    }

    /// The reason of the last end of a link with the peer. Waits for one.
    pub fn unlinked(&self, key: NodeKey) -> Unlinked {
        self.wait("the end of a link", |held| {
            held.events.iter().rev().find_map(|event| match event {
                Event::Unlinked(peer, why) if *peer == key => Some(why.clone()),
                _ => None,
            })
        })
    }

    pub fn refused(&self, key: NodeKey) -> (RefusedBy, Refusal) {
        self.wait("a refusal", |held| {
            held.events.iter().find_map(|event| match event {
                Event::Refused(peer, by, why) if *peer == key => Some((*by, why.clone())),
                _ => None,
            })
        })
    }

    pub fn stream(&self) -> (Stream, Vec<u8>) {
        self.wait("a stream", |held| held.streams.pop_front())
    }

    pub fn messages(&self, class: Class) -> Vec<Vec<u8>> {
        let held = self.held.lock().unwrap();
        let of_class = |event: &Event| match event {
            Event::Arrived(found, message) if *found == class => Some(message.clone()),
            _ => None,
        };
        held.events.iter().filter_map(of_class).collect()
    }
}

impl Receiver for Record {
    fn linked(&self, peer: NodeKey, hello: &Hello) {
        self.note(Event::Linked(peer, hello.clone()));
    }

    fn unlinked(&self, peer: NodeKey, why: &Unlinked) {
        self.note(Event::Unlinked(peer, why.clone()));
    }

    fn arrived(&self, _: NodeKey, class: Class, message: &[u8]) {
        self.change(|held| {
            held.counts[class as usize] += 1;
            if class == Class::Control && held.counts_at_control.is_none() {
                held.counts_at_control = Some(held.counts);
            }
            if !held.only_count {
                held.events.push(Event::Arrived(class, message.into()));
            }
        });
    }

    fn asked(&self, _: NodeKey, service: Service, body: Vec<u8>, answer: Answer) {
        match service {
            ECHO => answer.give(Ok(body)),
            FAILS => answer.give(Err("no such thing".into())),
            SIZED => answer.give(Ok(sized(&body))),
            HELD => self.change(|held| held.answers.push_back((answer, body))),
            _ => {}
        }
    }

    fn opened(&self, _: NodeKey, purpose: Service, head: Vec<u8>, stream: Stream) {
        match purpose {
            ECHO => drop(std::thread::spawn(move || echo(stream))),
            HELD => {
                self.change(|held| held.streams.push_back((stream, head)));
                self.ticks.forward();
            }
            FAILS => {
                self.ticks.forward();
                stream.refuse("not today");
            }
            SIZED => {
                (&stream).write_all(&sized(&head)).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            }
            _ => {}
        }
    }

    fn visited(&self, stranger: NodeKey, _: &Hello, _: SocketAddr, head: Vec<u8>, stream: Stream) {
        self.change(|held| {
            held.events.push(Event::Visited(stranger, head.clone()));
            held.streams.push_back((stream, head));
        });
    }

    fn room(&self, _: NodeKey, class: Class) {
        self.note(Event::Room(class));
    }

    fn closed(&self, peer: NodeKey, life: u64) {
        self.note(Event::Closed(peer, life));
    }

    fn refused(&self, peer: NodeKey, by: RefusedBy, why: &Refusal) {
        self.note(Event::Refused(peer, by, why.clone()));
    }
}

fn sized(length: &[u8]) -> Vec<u8> {
    vec![7; u32::from_le_bytes(length.try_into().unwrap()) as usize]
}

fn echo(mut stream: Stream) {
    let mut bytes = vec![0; 100_000];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return stream.shutdown(Shutdown::Write).unwrap_or(()),
            Ok(read) if stream.write_all(&bytes[..read]).is_ok() => {}
            _ => return,
        }
    }
}

pub struct Node {
    pub wire: Wire,
    pub record: Arc<Record>,
    pub key: NodeKey,
}

pub fn hello(name: &str) -> Hello {
    Hello { system: Some([1; 16]), node: None, life: 1, name: name.into(), version: "test".into(), addresses: vec![] }
}

impl Node {
    pub fn new(name: &str) -> Node {
        Node::with(Identity::make().unwrap(), hello(name), &["127.0.0.1:0".parse().unwrap()])
    }

    pub fn with(identity: Identity, hello: Hello, listen: &[SocketAddr]) -> Node {
        let record = Arc::new(Record::default());
        let key = identity.key();
        let wire = Wire::start(identity, hello, listen, record.clone(), record.ticks.clone()).unwrap();
        Node { wire, record, key }
    }

    /// One of an una with other versions of the protocol.
    pub fn speaking(versions: Versions, name: &str) -> Node {
        let (identity, record) = (Identity::make().unwrap(), Arc::new(Record::default()));
        let key = identity.key();
        let listen = ["127.0.0.1:0".parse().unwrap()];
        let clock = record.ticks.clone();
        let wire = Wire::speaking(versions, identity, hello(name), &listen, record.clone(), clock).unwrap();
        Node { wire, record, key }
    }

    pub fn ticks(&self) -> &Ticks {
        &self.record.ticks
    }

    /// Where it really listens.
    pub fn admit(&self, other: &Node) {
        self.wire.admit(other.key, &other.wire.addresses());
    }

    pub fn ask(&self, to: &Node, service: Service, body: &[u8]) -> Result<Vec<u8>, AskError> {
        self.wire.ask_and_wait(to.key, Ask { service, class: Class::Call, body, deadline: soon() })
    }

    pub fn is_linked(&self, to: &Node) -> bool {
        let views = self.wire.links();
        views.iter().any(|view| view.peer == to.key && matches!(view.state, LinkState::Linked { .. }))
    }
}

/// Two that are linked.
pub fn pair() -> (Node, Node) {
    let (a, b) = (Node::new("a"), Node::new("b"));
    b.wire.admit(a.key, &[]);
    a.admit(&b);
    a.record.linked(b.key);
    b.record.linked(a.key);
    (a, b)
}

/// Waits for what nobody is told of.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = soon();
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
