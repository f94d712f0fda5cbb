//! One kernel in a test, and what other kernels say to it in the order that the test wants. This file knows no protocol.
//!
//! The one idea: the others are a script. The test says what they say and looks at what they are told, so it can have any order of events
//! that the network allows, however seldom it comes.

use crate::luggage::Luggage;
use crate::packet::{Content, Header, PacketKind};
use crate::process::Process;
use crate::table::Key;
use crate::world::{Effect, Event, Input, WorkerId};
use crate::{Config, Kernel};
use abi::call::{Outcome, SystemCall};
use abi::ids::{HandleId, NodeId, Time};
use abi::limits::Limits;
use abi::message::Bytes;
use abi::process::{Orphan, Program, Spawn};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

pub(crate) const NETWORK: HandleId = HandleId(1);
/// The number of the node itself.
pub(crate) const HERE: NodeId = NodeId(1);

/// What the others, all in their first lives, have said and heard.
#[derive(Default)]
struct Other {
    said: u64,
    heard: u64,
    contents: Vec<Content>,
}

pub(crate) struct Alone {
    pub kernel: Kernel,
    pub first: Key<Process>,
    /// The last process that was begun, or came.
    pub newest: Key<Process>,
    others: BTreeMap<NodeId, Other>,
    is_running: bool,
}

impl Alone {
    /// A node whose first process runs, and which has met these others.
    pub fn with(others: &[NodeId]) -> Alone {
        let config = Config { node: HERE, life: 1, first_serial: 1, workers: 1, devices: 0 };
        let nobody = Key::nothing();
        let kernel = Kernel::new(config);
        let mut alone = Alone { kernel, first: nobody, newest: nobody, others: BTreeMap::new(), is_running: false };
        let program = Program::Service(0);
        alone.event(Event::Boot { program, arguments: Bytes::EMPTY, limits: Limits::NORMAL });
        alone.first = alone.newest;
        alone.event(Event::Awake { worker: WorkerId(0) });
        others.iter().for_each(|node| alone.meet(*node));
        alone
    }

    pub fn meet(&mut self, node: NodeId) {
        self.others.entry(node).or_default();
        self.event(Event::Linked { node, life: 1 });
    }

    pub fn lose(&mut self, node: NodeId) {
        self.event(Event::Lost { node, life: 1 });
    }

    /// That node's kernel says this.
    pub fn hear(&mut self, from: NodeId, content: Content) {
        let other = self.others.get_mut(&from).expect("it was met");
        other.said += 1;
        let header =
            Header { kind: PacketKind::Last, from_life: 1, to_life: 1, expected: other.heard + 1, number: other.said };
        let packet = header.write(&content.encode());
        self.event(Event::Arrived { from, life: 1, packet });
        assert_eq!(self.kernel.breach(from), None, "{content:?} is not believed");
    }

    /// All that node was told since the last time.
    pub fn told(&mut self, node: NodeId) -> Vec<Content> {
        core::mem::take(&mut self.others.get_mut(&node).expect("it was met").contents)
    }

    /// The first process asks for this: its outcome, unless it waits.
    pub fn call(&mut self, call: SystemCall) -> Option<Outcome> {
        assert!(self.is_running, "the first process waits");
        self.is_running = false;
        self.input(Input::Call { worker: WorkerId(0), process: self.first, call });
        self.outcome()
    }

    /// What the first process was told at last, unless it still waits.
    pub fn outcome(&mut self) -> Option<Outcome> {
        self.is_running.then(|| self.kernel.take_outcome(self.first))
    }

    /// The first process makes another, which is held: its handle.
    pub fn spawn_held(&mut self) -> HandleId {
        let spawn = Spawn {
            program: Program::Service(1),
            arguments: Bytes::EMPTY,
            handles: Box::default(),
            limits: Limits::NORMAL,
            weight: 100,
            orphan: Orphan::Dies,
            supervisor: None,
            again: None,
        };
        let Some(Outcome::Spawned(Ok(spawned))) = self.call(SystemCall::Spawn(Box::new(spawn))) else {
            panic!("nothing is in the way of it")
        };
        self.call(SystemCall::Hold { process: spawned.process });
        spawned.process
    }

    /// The newest process goes there: what that node finds in its luggage. Other things that it was told before are forgotten.
    pub fn depart(&mut self, to: NodeId) -> Luggage {
        let (process, left) = (self.newest, Box::default());
        // It knows that it has begun.
        self.kernel.take_outcome(process);
        self.event(Event::Depart { process, to, life: 1, ticket: 1, left, keeps_parent: true });
        let luggage = self.told(to).into_iter().find_map(|content| match content {
            Content::Transfer { bytes, .. } => Luggage::decode(&bytes).ok(),
            _ => None,
        });
        *luggage.expect("it departed")
    }

    pub fn event(&mut self, event: Event) {
        self.input(Input::Event(event));
    }

    /// Does what the kernel wants of the world, at once.
    fn input(&mut self, input: Input) {
        let mut inputs = alloc::vec![input];
        while let Some(input) = inputs.pop() {
            let mut effects = Vec::new();
            self.kernel.step(Time(1), input, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Start { process, .. } | Effect::Settled { process, .. } => {
                        self.newest = process;
                        inputs.push(Input::Event(Event::Started { process }));
                    }
                    Effect::Wake { worker } => inputs.push(Input::Event(Event::Awake { worker })),
                    Effect::Run { process, .. } => {
                        assert_eq!(process, self.first, "only the first process does anything in these tests");
                        self.is_running = true;
                    }
                    Effect::Departed { result, .. } => assert_eq!(result, Ok(())),
                    Effect::Transmit { to, packet } => self.transmitted(to, &packet),
                    _ => {}
                }
            }
            self.kernel.check();
        }
    }

    fn transmitted(&mut self, to: NodeId, packet: &Bytes) {
        let (header, payload) = Header::read(packet).expect("a kernel wrote it");
        let Some(other) = self.others.get_mut(&to) else { return };
        if header.kind == PacketKind::Last && header.number > other.heard {
            other.heard = header.number;
            other.contents.push(Content::decode(payload).expect("a kernel wrote it"));
        }
    }
}
