//! Nodes, the network between them, and the clock. It decides nothing: what happens to whom is asked of it.

use crate::checkers::Violation;
use crate::history::HistoryHash;
use crate::members::checkers::Checkers;
use crate::random::Random;
use abi::ids::{NodeId, NodeKey, Time};
use services::members::{Architecture, Belonging, Change, Effect, Facts, Input, Intake, Members, Profile};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub const MILLISECOND: u64 = 1_000_000;
/// By then a node that has started has looked at its machine.
const LOOKS_NS: u64 = 300 * MILLISECOND;
pub const SECOND: u64 = 1000 * MILLISECOND;

/// A machine.
pub struct Node {
    pub number: NodeId,
    /// Counts its starts; kept while it is off.
    pub life: u64,
    /// None while it is off.
    pub members: Option<Members>,
    /// It stands still until then; what arrives waits.
    pub paused_until: Time,
    /// When it was last resumed, and when its present life began.
    pub resumed: Time,
    pub begun: Time,
    inbox: VecDeque<(NodeId, Vec<u8>)>,
    pub facts: Facts,
    /// What it knows of the coordinator's list is delayed; this is the list it has.
    list: u64,
    /// When it is to be ticked next.
    alarm: Time,
}

/// What is on its way or planned.
enum Coming {
    Packet {
        from: NodeId,
        to: NodeId,
        bytes: Vec<u8>,
    },
    Tick {
        node: NodeId,
        life: u64,
    },
    Resume {
        node: NodeId,
    },
    Linked {
        node: NodeId,
        peer: NodeId,
    },
    Unlinked {
        node: NodeId,
        peer: NodeId,
    },
    List {
        node: NodeId,
        list: u64,
    },
    /// The node has looked at its machine.
    Facts {
        node: NodeId,
        life: u64,
    },
}

/// How bad the network is.
#[derive(Clone, Copy, Default, Debug)]
pub struct Weather {
    /// Of a thousand packets, so many are lost.
    pub lost_per_mille: u64,
    /// Of a thousand packets, so many come twice.
    pub doubled_per_mille: u64,
    /// A packet takes 0.1 ms, and up to this much more.
    pub delay_ns: u64,
}

pub struct World {
    pub now: Time,
    pub random: Random,
    pub nodes: BTreeMap<NodeId, Node>,
    pub weather: Weather,
    /// Who is not heard by whom: from, to.
    pub cuts: BTreeSet<(NodeId, NodeId)>,
    /// The coordinator's lists, each in place of the one before.
    pub lists: Vec<Vec<Belonging>>,
    /// Do nodes hear of links at all?
    pub links: bool,
    /// Links that broke because their ends did not hear one another.
    broken: BTreeSet<(NodeId, NodeId)>,
    coming: BTreeMap<(Time, u64), Coming>,
    serial: u64,
    pub hash: HistoryHash,
    pub steps: u64,
    pub records: VecDeque<String>,
    pub checkers: Checkers,
    /// Invariants are checked after every step; not in large systems.
    pub checked: bool,
    effects: Vec<Effect>,
}

const RECORDS_KEPT: usize = 40;

impl World {
    pub fn new(seed: u64) -> World {
        World {
            now: Time(SECOND),
            random: Random::new(seed),
            nodes: BTreeMap::new(),
            weather: Weather { lost_per_mille: 0, doubled_per_mille: 0, delay_ns: MILLISECOND },
            cuts: BTreeSet::new(),
            lists: vec![Vec::new()],
            links: true,
            broken: BTreeSet::new(),
            coming: BTreeMap::new(),
            serial: 0,
            hash: HistoryHash::default(),
            steps: 0,
            records: VecDeque::new(),
            checkers: Checkers::default(),
            checked: true,
            effects: Vec::new(),
        }
    }

    pub fn record(&mut self, what: String) {
        self.hash.add(&(self.now, &what));
        if self.records.len() == RECORDS_KEPT {
            self.records.pop_front();
        }
        self.records.push_back(format!("{:>9.3} ms {what}", self.now.0 as f64 / 1e6));
    }

    fn plan(&mut self, after: u64, coming: Coming) {
        self.serial += 1;
        self.coming.insert((self.now.after(after), self.serial), coming);
    }

    /// Machines with these numbers belong from now on; whoever is on hears of it a little later.
    pub fn belong(&mut self, numbers: impl Iterator<Item = NodeId>) {
        let list = numbers.map(|node| Belonging {
            node,
            key: NodeKey([node.0 as u8; 32]),
            addresses: Vec::new(),
            life_min: 0,
        });
        self.lists.push(list.collect());
        let list = self.lists.len() as u64 - 1;
        let numbers: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in numbers {
            let after = self.random.below(50 * MILLISECOND);
            self.plan(after, Coming::List { node, list });
        }
    }

    pub fn belongs(&self, node: NodeId) -> bool {
        self.lists.last().is_some_and(|list| list.iter().any(|one| one.node == node))
    }

    /// Makes a machine, which is off.
    pub fn add(&mut self, number: NodeId) {
        let facts = Facts {
            processors: 1 + number.0 % 8,
            memory_bytes: 1 << 34,
            memory_free_bytes: 1 << 33,
            architecture: Architecture::X86_64,
            processes: u32::from(number.0),
            profile: Profile::Pool,
            intake: Intake::Open,
            ..Facts::unknown()
        };
        let node = Node {
            number,
            life: 0,
            members: None,
            paused_until: Time(0),
            resumed: self.now,
            begun: self.now,
            inbox: VecDeque::new(),
            facts,
            list: 0,
            alarm: Time(0),
        };
        self.nodes.insert(number, node);
    }

    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[&node]
    }

    fn node_mut(&mut self, node: NodeId) -> &mut Node {
        self.nodes.get_mut(&node).expect("it was added")
    }

    pub fn is_on(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.members.is_some())
    }

    /// Can they talk, if both are on?
    fn reaches(&self, from: NodeId, to: NodeId) -> bool {
        !self.cuts.contains(&(from, to))
    }

    pub fn start(&mut self, number: NodeId) -> Result<(), Violation> {
        let (now, entropy, list) = (self.now, self.random.number(), self.lists.len() as u64 - 1);
        let node = self.node_mut(number);
        assert!(node.members.is_none(), "it is on already");
        node.life += 1;
        let life = node.life;
        node.members = Some(Members::new(number, life, entropy, now));
        node.inbox.clear();
        (node.paused_until, node.begun, node.resumed, node.list, node.alarm) = (Time(0), now, now, list, Time(0));
        self.record(format!("{number} starts its life {life}"));
        self.checkers.started(number);
        let (list, looks) = (self.lists[list as usize].clone(), self.random.below(LOOKS_NS));
        self.plan(looks, Coming::Facts { node: number, life });
        self.step(number, Input::Belong(&list))?;
        if self.links {
            let peers: Vec<NodeId> = self.nodes.keys().copied().filter(|peer| *peer != number).collect();
            for peer in peers {
                self.link(number, peer);
            }
        }
        Ok(())
    }

    /// Both ends hear of their new link, if there can be one.
    pub fn link(&mut self, one: NodeId, other: NodeId) {
        if self.is_on(one) && self.is_on(other) && self.reaches(one, other) && self.reaches(other, one) {
            let after = MILLISECOND + self.random.below(20 * MILLISECOND);
            self.plan(after, Coming::Linked { node: one, peer: other });
            self.plan(after, Coming::Linked { node: other, peer: one });
        }
    }

    /// The machine ends. By `kill -9` its kernel closes the links, so the others hear of it; without power nobody says anything.
    pub fn kill(&mut self, number: NodeId, by_power: bool) {
        let now = self.now;
        let node = self.node_mut(number);
        node.members = None;
        node.inbox.clear();
        let life = node.life;
        self.record(format!("{number} {} in its life {life}", if by_power { "loses power" } else { "is killed" }));
        if !by_power && self.links {
            self.unlink(number);
        }
        self.checkers.ended(number, life, now, by_power || !self.links);
    }

    /// The others hear that their links to it broke.
    fn unlink(&mut self, number: NodeId) {
        let hears = |peer: &NodeId| *peer != number && self.is_on(*peer) && self.reaches(number, *peer);
        let peers: Vec<NodeId> = self.nodes.keys().copied().filter(hears).collect();
        for peer in peers {
            let after = 100_000 + self.random.below(MILLISECOND);
            self.plan(after, Coming::Unlinked { node: peer, peer: number });
        }
    }

    pub fn leave(&mut self, number: NodeId) -> Result<(), Violation> {
        self.record(format!("{number} says goodbye"));
        self.step(number, Input::Leave)?;
        let (now, node) = (self.now, self.node_mut(number));
        node.members = None;
        let life = node.life;
        self.checkers.ended(number, life, now, false);
        Ok(())
    }

    pub fn pause(&mut self, number: NodeId, length: u64) {
        let until = self.now.after(length);
        self.node_mut(number).paused_until = until;
        self.record(format!("{number} stands still for {} ms", length / MILLISECOND));
        self.plan(length, Coming::Resume { node: number });
    }

    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.record(format!("{to} does not hear {from}"));
        self.cuts.insert((from, to));
    }

    /// Links that broke meanwhile are made again; those that did not are as they were, and nobody is told anything.
    pub fn heal(&mut self) {
        self.record("all hear one another".into());
        self.cuts.clear();
        for (one, other) in std::mem::take(&mut self.broken) {
            self.link(one, other);
        }
    }

    /// A link whose ends cannot hear one another breaks some time after.
    pub fn break_link(&mut self, one: NodeId, other: NodeId, after: u64) {
        self.broken.insert((one, other));
        self.plan(after, Coming::Unlinked { node: one, peer: other });
        self.plan(after, Coming::Unlinked { node: other, peer: one });
    }

    pub fn set_facts(&mut self, number: NodeId, facts: Facts) -> Result<(), Violation> {
        self.node_mut(number).facts = facts.clone();
        if self.is_on(number) { self.step(number, Input::Facts(facts)) } else { Ok(()) }
    }

    /// Lets time pass.
    pub fn run_until(&mut self, until: Time) -> Result<(), Violation> {
        while let Some(entry) = self.coming.first_entry() {
            let at = entry.key().0;
            if at > until {
                break;
            }
            let coming = entry.remove();
            self.now = self.now.max(at);
            self.come(coming)?;
        }
        self.now = until;
        Ok(())
    }

    pub fn run_for(&mut self, length: u64) -> Result<(), Violation> {
        self.run_until(self.now.after(length))
    }

    fn come(&mut self, coming: Coming) -> Result<(), Violation> {
        match coming {
            Coming::Packet { from, to, bytes } => {
                if !self.reaches(from, to) || !self.is_on(to) {
                    return Ok(());
                }
                let now = self.now;
                let node = self.node_mut(to);
                if node.paused_until > now {
                    // A paused machine's kernel takes in so much and no more.
                    if node.inbox.len() < 1000 {
                        node.inbox.push_back((from, bytes));
                    }
                    return Ok(());
                }
                self.step(to, Input::Packet { from, bytes: &bytes })
            }
            Coming::Tick { node, life } => {
                let (now, here) = (self.now, self.node(node));
                let due = here.members.as_ref().and_then(Members::wake).is_some_and(|wake| wake <= now);
                if here.life == life && here.paused_until <= now && due {
                    self.step(node, Input::Tick)?;
                }
                Ok(())
            }
            Coming::Facts { node, life } => {
                let (now, here) = (self.now, self.node(node));
                if here.members.is_none() || here.life != life {
                    return Ok(());
                }
                if here.paused_until > now {
                    self.plan(here.paused_until.since(now), Coming::Facts { node, life });
                    return Ok(());
                }
                let facts = here.facts.clone();
                self.step(node, Input::Facts(facts))
            }
            Coming::Resume { node } => {
                let now = self.now;
                let here = self.node_mut(node);
                if here.members.is_none() || here.paused_until > now {
                    return Ok(());
                }
                here.resumed = now;
                let inbox: Vec<_> = here.inbox.drain(..).collect();
                // Which of its threads goes on first is a matter of luck.
                let tick_first = self.random.once_in(2);
                if tick_first {
                    self.step(node, Input::Tick)?;
                }
                for (from, bytes) in inbox {
                    self.step(node, Input::Packet { from, bytes: &bytes })?;
                }
                self.step(node, Input::Tick)
            }
            Coming::Linked { node, peer } => {
                if self.is_on(node) && self.is_on(peer) && self.reaches(peer, node) && self.reaches(node, peer) {
                    let life = self.node(peer).life;
                    return self.step(node, Input::Linked { node: peer, life });
                }
                Ok(())
            }
            Coming::Unlinked { node, peer } => {
                if self.is_on(node) {
                    self.step(node, Input::Unlinked { node: peer })
                } else {
                    Ok(())
                }
            }
            Coming::List { node, list } => {
                let here = self.node_mut(node);
                if here.members.is_none() || here.list >= list {
                    return Ok(());
                }
                here.list = list;
                let list = self.lists[list as usize].clone();
                self.step(node, Input::Belong(&list))
            }
        }
    }

    fn step(&mut self, number: NodeId, input: Input) -> Result<(), Violation> {
        self.steps += 1;
        let mut effects = std::mem::take(&mut self.effects);
        let now = self.now;
        if self.checked {
            self.hash.add(&(now, number, &input));
        }
        let checked = self.checked;
        let node = self.node_mut(number);
        let members = node.members.as_mut().expect("only machines that are on are stepped");
        members.step(now, input, &mut effects);
        if checked {
            members.check();
        }
        let (life, wake) = (node.life, members.wake());
        let before = std::mem::replace(&mut node.alarm, wake.unwrap_or_default());
        if let Some(wake) = wake.filter(|wake| *wake != before) {
            // A thread sleeps a little longer than it asked for.
            let late = self.random.below(MILLISECOND);
            self.plan(wake.since(now) + late, Coming::Tick { node: number, life });
        }
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, packet } => self.transmit(number, to, packet),
                Effect::Tell(change) => self.told(number, change)?,
            }
        }
        self.effects = effects;
        Ok(())
    }

    fn transmit(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>) {
        let weather = self.weather;
        for copy in 0..2 {
            let wanted = copy == 0 || self.random.below(1000) < weather.doubled_per_mille;
            if wanted && self.random.below(1000) >= weather.lost_per_mille {
                let after = 100_000 + self.random.below(weather.delay_ns.max(1));
                self.plan(after, Coming::Packet { from, to, bytes: bytes.clone() });
            }
        }
    }

    fn told(&mut self, by: NodeId, change: Change) -> Result<(), Violation> {
        if !matches!(change, Change::Facts { .. }) && self.checked {
            self.record(format!("{by} says {change:?}"));
        }
        let mut checkers = std::mem::take(&mut self.checkers);
        let result = checkers.told(self, by, change);
        self.checkers = checkers;
        result
    }
}
