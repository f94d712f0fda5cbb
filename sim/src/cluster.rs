//! Several nodes, each a [`Machine`] with a kernel of its own, and the network between them, under one seed. It knows nothing of what
//! processes do.
//!
//! The one idea: the seed picks among what any node could do now and the packets that could arrive now. So packets come in any order;
//! some come twice, some never; links are cut, one way or both; a node dies at any moment, with all it held, and comes back in a new life;
//! and each node's clock runs at its own speed. In the end everything heals and every process ends: then nothing may be left anywhere.

use crate::bodies::actor::{ACTOR, Actor};
use crate::bodies::client::{Client, SharedLog};
use crate::checkers::model::Model;
use crate::checkers::watcher::Watcher;
use crate::checkers::{Violation, ensure};
use crate::history::HistoryHash;
use crate::machine::{Body, Faults, Machine, Moved, Options, Traveller};
use crate::random::Random;
use crate::runs::{BOOT, CLIENT, Failure, HISTORY_SHOWN, Hosted, NAMES, Report, Run, caught, fits_one_order, part};
use abi::call::PortOptions;
use abi::ids::{DeviceId, HandleId, NodeId, ObjectId, ProcessId, Time};
use abi::limits::Limits;
use abi::message::Bytes;
use kernel::world::{DepartError, Event};
use kernel::{Key, Process};
use services::boot::{Boot, Manifest, Plan};
use services::host::Host;
use services::names::Names;
use std::collections::{BTreeMap, BTreeSet};

/// What a kernel has under way that comes to an end whatever processes do.
const MOVING: [&str; 6] =
    ["contents", "packets", "waiting for claims", "grants", "claims", "errands that were handed over"];
/// After so many steps processes that move stand still for once, so that it can be seen how their ways are.
const REST_STEPS: u64 = 1_000;
/// How many packets and alarms it may take until nothing is on its way.
const RESTING_MAX: u64 = 40_000;
/// Steps with faults, and how many more everything may take to end.
const STEPS_FAULTY: u64 = 4_000;
/// The same for each of many nodes.
const STEPS_FAULTY_OF_ONE: u64 = 1_000;
const STEPS_MAX: u64 = 60_000;

/// What the network does.
#[derive(Clone, Copy, Debug)]
struct Weather {
    loses_once_in: u64,
    doubles_once_in: u64,
    delay_ns_max: u64,
    cut_once_in: Option<u64>,
    crash_once_in: Option<u64>,
    move_once_in: Option<u64>,
    /// Of so many moments at which an act is being handed over, the node between dies in one.
    between_dies_once_in: Option<u64>,
    /// The others give up on a node, which lives.
    gives_up_once_in: Option<u64>,
    /// Between two nodes everything takes this much longer.
    slow: Option<(usize, usize, u64)>,
    /// In so many of a hundred moves whoever moved last moves on, or back: what is done to it meets itself on its ways.
    restless_in_100: u64,
}

impl Weather {
    const CALM: Weather = Weather {
        loses_once_in: u64::MAX,
        doubles_once_in: u64::MAX,
        delay_ns_max: 100_000,
        cut_once_in: None,
        crash_once_in: None,
        move_once_in: None,
        between_dies_once_in: None,
        gives_up_once_in: None,
        slow: None,
        restless_in_100: 0,
    };
}

/// A process that is to move, and is expected where it is to go.
#[derive(Clone, Copy, Debug)]
struct Planned {
    from: usize,
    to: usize,
    /// Of the node that expects it.
    to_life: u64,
    ticket: u64,
    process: Key<Process>,
    keeps_parent: bool,
    adopter: ProcessId,
}

/// What is between two nodes: the kernel's part of it is on its way.
struct Between {
    to: usize,
    adopter: ProcessId,
    left_at: Time,
    traveller: Traveller,
}

/// Something on its way to a node.
#[derive(Clone, Debug)]
struct Coming {
    to: usize,
    due: u64,
    event: Event,
}

struct Cluster {
    machines: Vec<Machine>,
    /// Thousandths of the true speed.
    speeds: Vec<u64>,
    up: Vec<bool>,
    /// Nodes that live and on whose life the others have given up, and when they learn of it. They are not heard until all others have.
    given_up: BTreeMap<usize, u64>,
    now: u64,
    step: u64,
    steps_faulty: u64,
    random: Random,
    weather: Weather,
    coming: Vec<Coming>,
    /// Ways, from and to, on which nothing comes through.
    cut: BTreeSet<(usize, usize)>,
    hash: HistoryHash,
    model: Model,
    watchers: Vec<Watcher>,
    noted: Vec<usize>,
    shown: Vec<String>,
    records: usize,
    /// One packet in so many comes a second time with bytes that no kernel wrote; then only the kernels' own invariants are asked for.
    forged_once_in: Option<u64>,
    pub breaches: u64,
    planned: Vec<Planned>,
    /// By the node that they left and the ticket.
    between: BTreeMap<(usize, u64), Between>,
    tickets: u64,
    /// Who moved last.
    restless: Option<ProcessId>,
    /// How often a process moved, and how often it could not.
    pub moves: [u64; 2],
    /// What the clients of each node's service `names` were answered; empty where there is none.
    logs: Vec<SharedLog>,
}

/// What a cluster is made of.
struct Shape {
    count: usize,
    is_of_ways: bool,
    is_stored: bool,
}

/// Requests to the service of one node in all its lives.
const STORED_OPERATIONS_MAX: usize = 60;

/// What runs on a node with a journal.
fn stored() -> Plan {
    let buffered = PortOptions::buffered(4);
    let parts = vec![
        part("names", NAMES, &[DeviceId(0)], &[], buffered),
        part("one client", CLIENT, &[], &["names"], buffered),
        part("another client", CLIENT, &[], &["names"], buffered),
        part("actor", ACTOR, &[DeviceId::NETWORK], &["names"], buffered),
    ];
    Manifest { parts }.check().expect("this manifest is in order")
}

pub fn play(run: Run, seed: u64) -> Result<Report, Box<Failure>> {
    let mut cluster = match run {
        Run::Wide => Cluster::wide(seed, false),
        Run::Stored => Cluster::wide(seed, true),
        _ => Cluster::new(seed, run == Run::Ways),
    };
    match caught(|| cluster.go()) {
        Ok(()) => {
            for machine in &cluster.machines {
                cluster.hash.add(&machine.hash.value());
            }
            Ok(Report { steps: cluster.step, records: cluster.records, hash: cluster.hash.value() })
        }
        Err(what) => {
            let shown = std::env::var("SHOWN").ok().and_then(|text| text.parse().ok()).unwrap_or(HISTORY_SHOWN);
            let records = cluster.shown.iter().rev().take(shown).rev().cloned().collect();
            Err(Box::new(Failure { run, seed, step: cluster.step, what, records }))
        }
    }
}

/// Plays a seed in which packets are forged too: no kernel panics and none loses its invariants, whatever comes. Gives the most sessions
/// that one node had ended for it.
pub fn play_forged(seed: u64) -> Result<u64, Violation> {
    let mut cluster = Cluster::new(seed, false);
    cluster.forged_once_in = Some(20);
    cluster.weather.crash_once_in = Some(500);
    caught(|| {
        while cluster.step < STEPS_FAULTY {
            cluster.disturb()?;
            cluster.move_processes()?;
            if !cluster.happen()? {
                break;
            }
        }
        Ok(())
    })
    .map_err(|what| Violation(format!("seed {seed}, step {}: {}", cluster.step, what.0)))?;
    Ok(cluster.breaches)
}

/// The packet with some of its bytes changed, cut off or added; mostly behind the header, which names lives and numbers.
fn forge(packet: &[u8], random: &mut Random) -> Bytes {
    let mut bytes = packet.to_vec();
    for _ in 0..1 + random.below(3) {
        let from = if random.once_in(4) || bytes.len() <= 35 { 0 } else { 34 };
        let at = from + random.below((bytes.len() - from).max(1) as u64) as usize;
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), random.number() as u8),
            _ if at < bytes.len() => bytes[at] = [random.number() as u8, 0, 1, 2, 3, 255][random.below(6) as usize],
            _ => {}
        }
    }
    bytes.into()
}

impl Cluster {
    fn new(seed: u64, is_of_ways: bool) -> Cluster {
        let mut random = Random::new(seed ^ 0xc105e7);
        let count = if is_of_ways { 3 } else { 2 } + random.below(3) as usize;
        Cluster::of(Shape { count, is_of_ways, is_stored: false }, seed, random)
    }

    /// As many nodes as the seed says, of those that a system usually has.
    fn wide(seed: u64, is_stored: bool) -> Cluster {
        let mut random = Random::new(seed ^ 0x31de);
        let count = 3 + (seed % 7) as usize;
        let is_of_ways = random.once_in(2);
        let mut cluster = Cluster::of(Shape { count, is_of_ways, is_stored }, seed, random);
        cluster.steps_faulty = STEPS_FAULTY_OF_ONE * count as u64;
        if is_stored {
            cluster.weather.crash_once_in = Some(100 + cluster.random.below(400));
        }
        cluster
    }

    fn of(Shape { count, is_of_ways, is_stored }: Shape, seed: u64, mut random: Random) -> Cluster {
        let nodes: Vec<NodeId> = (1..=count as u16).map(NodeId).collect();
        let weather = Weather {
            loses_once_in: [u64::MAX, 20, 4][random.below(3) as usize],
            doubles_once_in: [u64::MAX, 20, 4][random.below(3) as usize],
            delay_ns_max: [50_000, 2_000_000, 30_000_000][random.below(3) as usize],
            cut_once_in: [None, Some(400), Some(100)][random.below(3) as usize],
            crash_once_in: [None, None, Some(1500), Some(500)][random.below(4) as usize],
            move_once_in: [None, Some(100), Some(20)][random.below(3) as usize],
            between_dies_once_in: None,
            gives_up_once_in: None,
            slow: None,
            restless_in_100: 0,
        };
        // Drawn apart: the other seeds stay what they were.
        let mut shape = Random::new(seed ^ 0x5ea5);
        let is_restless = is_of_ways && shape.once_in(2);
        let weather = match is_of_ways {
            true => Weather {
                delay_ns_max: weather.delay_ns_max.max(2_000_000),
                move_once_in: Some(10 + random.below(30)),
                between_dies_once_in: Some(4 + random.below(60)),
                gives_up_once_in: [None, Some(1000), Some(300)][random.below(3) as usize],
                ..Weather::CALM
            },
            false => weather,
        };
        let weather = match is_restless {
            true => Weather {
                slow: Some((0, 1 + shape.below(count as u64 - 1) as usize, 10 + shape.below(30))),
                restless_in_100: 50 + shape.below(40),
                move_once_in: Some(5 + shape.below(10)),
                ..weather
            },
            false => weather,
        };
        let devices = if is_stored { 1 } else { 0 };
        let logs: Vec<SharedLog> = nodes.iter().map(|_| SharedLog::default()).collect();
        let machine = |node: &NodeId| {
            let journals = Faults {
                journal_fails_once_in: [None, Some(200)][shape.below(2) as usize],
                journal_works_once_in: [1, 3, 10][shape.below(3) as usize],
                stir_once_in: None,
                trap_once_in: [None, Some(150), Some(40)][shape.below(3) as usize],
                traps: |program| program == NAMES,
            };
            let options = Options {
                seed: seed.wrapping_mul(31).wrapping_add(u64::from(node.0)),
                node: *node,
                life: 1,
                workers: 1 + (seed >> node.0 & 1) as u16,
                devices,
                faults: if is_stored { journals } else { Faults::NONE },
                first: if is_stored { BOOT } else { ACTOR },
                arguments: Bytes::new(&[0]),
                limits: Limits::NORMAL,
                pause_ns_max: 2_000_000,
            };
            let nodes = nodes.clone();
            let log = logs[usize::from(node.0) - 1].clone();
            let plan = stored();
            Machine::new(
                options,
                Box::new(move |program, arguments, id| {
                    let actor = || {
                        let actor = Actor::of_cluster(seed, id, arguments, &nodes);
                        let actor = if is_of_ways { actor.streaming() } else { actor };
                        let actor = if is_stored { actor.with_network(HandleId(2)) } else { actor };
                        Box::new(if is_restless { actor.waiting_long() } else { actor }) as Box<dyn Body>
                    };
                    Some(match program {
                        ACTOR => actor(),
                        BOOT => Box::new(Hosted(Host::new(Boot::with_network(plan.clone(), devices)))),
                        NAMES => Box::new(Hosted(Host::new(Names::new()))),
                        CLIENT => Box::new(Client::new(seed, id, log.clone(), STORED_OPERATIONS_MAX)),
                        _ => return None,
                    })
                }),
            )
        };
        let machines: Vec<Machine> = nodes.iter().map(machine).collect();
        let mut cluster = Cluster {
            speeds: (0..count).map(|_| 950 + random.below(101)).collect(),
            up: vec![true; count],
            given_up: BTreeMap::new(),
            now: 0,
            step: 0,
            steps_faulty: STEPS_FAULTY,
            weather,
            coming: Vec::new(),
            cut: BTreeSet::new(),
            hash: HistoryHash::default(),
            model: Model::of_cluster(devices),
            watchers: (0..count).map(|_| Watcher::default()).collect(),
            noted: vec![0; count],
            shown: Vec::new(),
            records: 0,
            forged_once_in: None,
            breaches: 0,
            planned: Vec::new(),
            between: BTreeMap::new(),
            tickets: 0,
            restless: None,
            moves: [0; 2],
            logs: if is_stored { logs } else { Vec::new() },
            machines,
            random,
        };
        for node in 0..count {
            cluster.link_up(node);
        }
        cluster
    }

    /// Tells a node and all others that they can reach one another, as far as they can.
    fn link_up(&mut self, node: usize) {
        for other in 0..self.machines.len() {
            let open = !self.cut.contains(&(node, other)) && !self.cut.contains(&(other, node));
            if other != node && self.up[other] && open {
                self.link(node, other);
            }
        }
    }

    /// Tells two nodes that they can reach one another. What they have not heard yet of an earlier cut they will not hear.
    fn link(&mut self, one: usize, other: usize) {
        for (to, about) in [(one, other), (other, one)] {
            let node = NodeId(about as u16 + 1);
            self.coming.retain(|coming| coming.to != to || coming.event != Event::Unlinked { node });
            let event = Event::Linked { node, life: self.machines[about].life() };
            let due = self.now + self.random.below(1_000_000) * self.slowness(one, other);
            self.coming.push(Coming { to, due, event });
        }
    }

    /// How much longer everything takes between these two.
    fn slowness(&self, one: usize, other: usize) -> u64 {
        match self.weather.slow {
            Some((a, b, times)) if (a, b) == (one, other) || (a, b) == (other, one) => times,
            _ => 1,
        }
    }

    fn clock(&self, node: usize, now: u64) -> Time {
        Time(now * self.speeds[node] / 1000 + 1)
    }

    /// When this node's clock will say this.
    fn when(&self, node: usize, time: Time) -> u64 {
        time.0 * 1000 / self.speeds[node] + 1
    }

    fn go(&mut self) -> Result<(), Violation> {
        while self.step < self.steps_faulty {
            self.disturb()?;
            self.move_processes()?;
            if !self.happen()? {
                break;
            }
            if self.step.is_multiple_of(REST_STEPS) && self.weather.move_once_in.is_some() {
                self.rest_and_lose_one()?;
            }
        }
        self.heal()?;
        while self.step < STEPS_MAX && self.happen()? {}
        self.finish()
    }

    /// One thing happens; false if nothing can, ever.
    fn happen(&mut self) -> Result<bool, Violation> {
        self.step += 1;
        loop {
            let due = |coming: &Coming| coming.due <= self.now;
            let packets: Vec<usize> = (0..self.coming.len()).filter(|index| due(&self.coming[*index])).collect();
            let mut acting = Vec::new();
            for node in (0..self.machines.len()).filter(|node| self.up[*node]) {
                let clock = self.clock(node, self.now);
                self.machines[node].now = self.machines[node].now.max(clock);
                if self.machines[node].can_act() {
                    acting.push(node);
                }
            }
            let choices = acting.len() + packets.len();
            if choices > 0 {
                let choice = self.random.below(choices as u64) as usize;
                match acting.get(choice) {
                    Some(&node) => {
                        self.machines[node].step();
                        // Its own time went on a little, and everybody's with it.
                        self.now = self.now.max(self.when(node, self.machines[node].now));
                        self.after(node)?;
                    }
                    None => self.arrive(packets[choice - acting.len()])?,
                }
                return Ok(true);
            }
            let up = (0..self.machines.len()).filter(|node| self.up[*node]);
            let alarms = up.filter_map(|node| Some(self.when(node, self.machines[node].next_time()?)));
            let next = alarms.chain(self.coming.iter().map(|coming| coming.due)).min();
            match next {
                None => return Ok(false),
                Some(next) => self.now = next.max(self.now + 1),
            }
        }
    }

    /// All links are there and no process runs, until nothing is on its way any more. Then no way leads through a node where nothing of it
    /// is; so when one dies, nothing is lost to anybody but what was there.
    fn rest_and_lose_one(&mut self) -> Result<(), Violation> {
        let weather = std::mem::replace(&mut self.weather, Weather::CALM);
        self.begin_anew(|_| true)?;
        self.cut.clear();
        for node in (0..self.machines.len()).filter(|node| self.up[*node]).collect::<Vec<_>>() {
            self.link_up(node);
        }
        for planned in std::mem::take(&mut self.planned) {
            self.forgo(planned)?;
        }
        self.rest()?;
        self.check_ways()?;
        let up: Vec<usize> = (0..self.machines.len()).filter(|node| self.up[*node]).collect();
        if let Some(gone) = self.random.pick(&up).copied()
            && self.random.once_in(2)
        {
            let before = self.lost_rights();
            self.crash(gone);
            self.rest()?;
            let home = NodeId(gone as u16 + 1);
            let lost = self.lost_rights();
            let with_others = lost.difference(&before).find(|(_, at, ..)| *at != home);
            ensure!(with_others.is_none(), "with n{} a right of another node was lost: {with_others:?}", gone + 1);
            self.check_ways()?;
        }
        self.weather = weather;
        Ok(())
    }

    /// The rights of other nodes that are lost, by who holds them.
    fn lost_rights(&self) -> BTreeSet<(usize, NodeId, u64, ObjectId)> {
        let up = self.machines.iter().enumerate().filter(|(node, _)| self.up[*node]);
        let all = up.flat_map(|(node, machine)| machine.kernel.imports().map(move |import| (node, import)));
        all.filter(|(_, (.., lost))| *lost)
            .map(|(node, (home, number, object, _))| (node, home, number, object))
            .collect()
    }

    /// What is on its way arrives, and nobody does anything new.
    fn rest(&mut self) -> Result<(), Violation> {
        for _ in 0..RESTING_MAX {
            let due: Vec<usize> = (0..self.coming.len()).filter(|index| self.coming[*index].due <= self.now).collect();
            if let Some(index) = self.random.pick(&due).copied() {
                self.arrive(index)?;
                continue;
            }
            let up: Vec<usize> = (0..self.machines.len()).filter(|node| self.up[*node]).collect();
            for node in &up {
                let clock = self.clock(*node, self.now);
                self.machines[*node].now = self.machines[*node].now.max(clock);
            }
            let rings = |node: &&usize| self.machines[**node].alarm().is_some_and(|at| at <= self.machines[**node].now);
            if let Some(node) = up.iter().find(rings).copied() {
                self.machines[node].ring();
                self.after(node)?;
                continue;
            }
            // What is for a node that is down waits until it is up, or is known to have been.
            let moving = |kernel: &kernel::Kernel| {
                let counts =
                    |(to, what, _): &(NodeId, &str, usize)| MOVING.contains(what) && self.up[usize::from(to.0) - 1];
                kernel.under_way().iter().any(counts)
            };
            if self.coming.is_empty() && !up.iter().any(|node| moving(&self.machines[*node].kernel)) {
                return Ok(());
            }
            let alarms = up.iter().filter_map(|node| Some(self.when(*node, self.machines[*node].alarm()?)));
            match alarms.chain(self.coming.iter().map(|coming| coming.due)).min() {
                Some(next) => self.now = next.max(self.now + 1),
                None => break,
            }
        }
        let under_way: Vec<_> = self.machines.iter().map(|machine| machine.kernel.under_way()).collect();
        Err(Violation(format!("it does not come to rest: {:?}, {under_way:?}", self.coming)))
    }

    fn check_ways(&self) -> Result<(), Violation> {
        for (node, machine) in self.machines.iter().enumerate().filter(|(node, _)| self.up[*node]) {
            let (rights, acts) = (machine.kernel.ways_through(), machine.kernel.acts_through());
            ensure!(rights.is_empty(), "rights of others lead on from n{}: {rights:?}", node + 1);
            ensure!(acts.is_empty(), "acts of others only pass through n{}: {acts:?}", node + 1);
        }
        Ok(())
    }

    fn arrive(&mut self, index: usize) -> Result<(), Violation> {
        let Coming { to, event, .. } = self.coming.swap_remove(index);
        if self.up[to] {
            let gone = if let Event::Lost { node, .. } = event { Some(node) } else { None };
            let handed = if gone.is_some() { self.handed_over() } else { Vec::new() };
            self.machines[to].tell(event);
            for (_, number, _, at) in handed.iter().filter(|(asker, _, via, _)| *asker == to && Some(*via) == gone) {
                let still = self.machines[to].kernel.waits_for_act(*number);
                ensure!(still, "n{} gives up an act that {at} answers, since {gone:?} is lost", to + 1);
            }
            self.after(to)?;
        }
        Ok(())
    }

    /// Acts that a node answers straight to whoever asked, who does not know yet: the asker, the number, the node between and that one.
    fn handed_over(&self) -> Vec<(usize, u64, NodeId, NodeId)> {
        let mut all = Vec::new();
        for (asker, machine) in self.machines.iter().enumerate().filter(|(asker, _)| self.up[*asker]) {
            for (number, via, at) in machine.kernel.handed() {
                let other = usize::from(at.0) - 1;
                if via != at
                    && self.up[other]
                    && self.machines[other].kernel.answers_act(NodeId(asker as u16 + 1), number)
                {
                    all.push((asker, number, via, at));
                }
            }
        }
        all
    }

    /// Looks at what a node did, and carries out what it wants of the network.
    fn after(&mut self, node: usize) -> Result<(), Violation> {
        let life = self.machines[node].life();
        for moved in std::mem::take(&mut self.machines[node].moves) {
            self.moved(node, moved)?;
        }
        let silent = self.given_up.contains_key(&node) && (0..self.machines.len()).any(|to| self.is_to_hear(to, node));
        for (to, packet) in std::mem::take(&mut self.machines[node].outbox) {
            let to = usize::from(to.0) - 1;
            if silent {
                continue;
            }
            let copies = 1 + u64::from(self.random.once_in(self.weather.doubles_once_in));
            for _ in 0..copies {
                if self.cut.contains(&(node, to)) || self.random.once_in(self.weather.loses_once_in) {
                    continue;
                }
                let due = self.now + self.random.below(self.weather.delay_ns_max) * self.slowness(node, to);
                if self.forged_once_in.is_some_and(|times| self.random.once_in(times)) {
                    let packet = forge(&packet, &mut self.random);
                    let event = Event::Arrived { from: NodeId(node as u16 + 1), life, packet };
                    self.coming.push(Coming { to, due, event });
                }
                let event = Event::Arrived { from: NodeId(node as u16 + 1), life, packet: packet.clone() };
                self.coming.push(Coming { to, due, event });
            }
        }
        let machine = &self.machines[node];
        if self.given_up.contains_key(&node) {
            // What it does counts for nobody; but it breaks none of its own rules.
            machine.kernel.check();
            return Ok(());
        }
        if self.forged_once_in.is_some() {
            machine.kernel.check();
            let peers = (1..=self.machines.len() as u16).map(NodeId);
            let breached = peers.filter(|peer| machine.kernel.breach(*peer).is_some()).count();
            self.breaches = self.breaches.max(breached as u64);
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        for record in &machine.records[self.noted[node]..] {
            self.shown.push(format!(
                "{:>6} n{} {:>12?} {:?} {:?}",
                self.step,
                node + 1,
                record.at,
                record.process,
                record.seen
            ));
            self.model.note(record)?;
            self.watchers[node].note(record);
            seen.insert(record.process);
        }
        if self.shown.len() > 40 * HISTORY_SHOWN {
            self.shown.drain(..20 * HISTORY_SHOWN);
        }
        self.records += machine.records.len() - self.noted[node];
        self.noted[node] = machine.records.len();
        for process in seen {
            if let (true, Some(key)) = (machine.is_between_calls(process), machine.key_of(process)) {
                self.model.compare(process, &machine.kernel.handles(key))?;
            }
        }
        machine.kernel.check();
        self.watchers[node].check(machine)?;
        for other in 0..self.machines.len() {
            let breach = machine.kernel.breach(NodeId(other as u16 + 1));
            ensure!(breach.is_none(), "n{} ended its session with n{}: {breach:?}", node + 1, other + 1);
        }
        Ok(())
    }

    fn disturb(&mut self) -> Result<(), Violation> {
        let count = self.machines.len() as u64;
        // A node whose first process gave up stops.
        let has_halted =
            |node: &usize| self.up[*node] && !self.given_up.contains_key(node) && self.machines[*node].halted.is_some();
        if let Some(node) = (0..self.machines.len()).filter(|_| !self.logs.is_empty()).find(has_halted) {
            self.crash(node);
        }
        if self.weather.cut_once_in.is_some_and(|times| self.random.once_in(times)) {
            let (one, other) = (self.random.below(count) as usize, self.random.below(count) as usize);
            if one != other {
                if self.cut.contains(&(one, other)) || self.cut.contains(&(other, one)) {
                    self.mend(one, other);
                } else {
                    self.cut.insert((one, other));
                    if self.random.once_in(2) {
                        self.cut.insert((other, one));
                    }
                    // They notice, or not yet.
                    for (to, about) in [(one, other), (other, one)] {
                        if self.up[to] && self.random.once_in(2) {
                            let event = Event::Unlinked { node: NodeId(about as u16 + 1) };
                            let due = self.now + self.random.below(5_000_000);
                            self.coming.push(Coming { to, due, event });
                        }
                    }
                }
            }
        }
        if let Some(times) = self.weather.between_dies_once_in {
            let between = self.handed_over().first().map(|(.., via, _)| usize::from(via.0) - 1);
            let lives = |via: &usize| self.up[*via] && !self.given_up.contains_key(via);
            match between.filter(lives).filter(|_| self.random.once_in(times)) {
                Some(via) => self.crash(via),
                // What is off comes back, since the others have work for it.
                None if self.random.once_in(300) => {
                    if let Some(off) = (0..self.up.len()).find(|node| !self.up[*node]) {
                        self.start(off);
                    }
                }
                None => {}
            }
        }
        if self.weather.gives_up_once_in.is_some_and(|times| self.random.once_in(times)) {
            let node = self.random.below(count) as usize;
            if self.up[node] && !self.given_up.contains_key(&node) {
                self.give_up(node);
            }
        }
        let now = self.now;
        self.begin_anew(|until| until <= now)?;
        if self.weather.crash_once_in.is_some_and(|times| self.random.once_in(times)) {
            let node = self.random.below(count) as usize;
            match self.up[node] {
                // It begins anew in any case.
                _ if self.given_up.contains_key(&node) => {}
                true => self.crash(node),
                false => self.start(node),
            }
        }
        Ok(())
    }

    /// The others give up on the life of a node that lives. It is not heard until they all have; then it is, and they do not heed it; and
    /// some time it knows, and begins anew.
    fn give_up(&mut self, node: usize) {
        self.hash.add(&("given up", node));
        self.given_up.insert(node, self.now + self.random.below(100_000_000));
        self.forget_moves(node);
        self.tell_lost(node);
    }

    /// Whether a node has still to hear that another one's life is over.
    fn is_to_hear(&self, to: usize, lost: usize) -> bool {
        let home = NodeId(lost as u16 + 1);
        self.coming
            .iter()
            .any(|coming| coming.to == to && matches!(coming.event, Event::Lost { node, .. } if node == home))
    }

    /// Those nodes know now that the others have given up on them, and begin a new life. Until then nobody has anything of the old one.
    fn begin_anew(&mut self, which: impl Fn(u64) -> bool) -> Result<(), Violation> {
        let all: Vec<usize> = self.given_up.iter().filter(|(_, when)| which(**when)).map(|(node, _)| *node).collect();
        for node in all {
            let (home, life) = (NodeId(node as u16 + 1), self.machines[node].life());
            for (other, machine) in
                self.machines.iter().enumerate().filter(|(other, _)| *other != node && self.up[*other])
            {
                if self.is_to_hear(other, node) || self.given_up.contains_key(&other) {
                    continue;
                }
                let session = machine.kernel.session_life(home);
                ensure!(session != Some(life), "n{} heeds a life of n{} that is over", other + 1, node + 1);
                let kept = machine.kernel.imports().find(|(at, .., lost)| *at == home && !lost);
                ensure!(kept.is_none(), "n{} keeps rights to n{}, whose life is over: {kept:?}", other + 1, node + 1);
            }
            self.given_up.remove(&node);
            self.up[node] = false;
            self.coming.retain(|coming| coming.to != node);
            self.start(node);
        }
        Ok(())
    }

    /// Some process is to move, or one that was to does.
    fn move_processes(&mut self) -> Result<(), Violation> {
        if self.weather.move_once_in.is_some_and(|times| self.random.once_in(times)) {
            self.plan_move()?;
        }
        if self.planned.is_empty() || !self.random.once_in(3) {
            return Ok(());
        }
        let index = self.random.below(self.planned.len() as u64) as usize;
        let planned = self.planned.swap_remove(index);
        let Planned { from, to, to_life, ticket, process, keeps_parent, adopter } = planned;
        let machine = &mut self.machines[from];
        machine.now = machine.now.max(Time(self.now * self.speeds[from] / 1000 + 1));
        match machine.depart(process, (NodeId(to as u16 + 1), to_life), ticket, keeps_parent) {
            Ok(traveller) => {
                self.moves[0] += 1;
                self.model.departed(traveller.instance.id, NodeId(to as u16 + 1));
                let left_at = self.machines[from].now;
                self.between.insert((from, ticket), Between { to, adopter, left_at, traveller });
            }
            Err(DepartError::Busy) if !self.random.once_in(10) => {
                if self.random.once_in(2) {
                    self.machines[from].rouse(process);
                }
                self.planned.push(planned);
            }
            Err(DepartError::Undecided(_)) if !self.random.once_in(10) => self.planned.push(planned),
            Err(_) => {
                self.moves[1] += 1;
                self.forgo(planned)?;
            }
        }
        self.after(from)
    }

    fn plan_move(&mut self) -> Result<(), Violation> {
        let lives = |node: &usize| self.up[*node] && !self.given_up.contains_key(node);
        let up: Vec<usize> = (0..self.machines.len()).filter(lives).collect();
        let (Some(&from), Some(&to)) = (self.random.pick(&up), self.random.pick(&up)) else { return Ok(()) };
        let again = self.weather.restless_in_100 > 0 && self.random.below(100) < self.weather.restless_in_100;
        let find = |id| up.iter().find_map(|node| Some((*node, vec![self.machines[*node].key_of(id)?])));
        let restless = self.restless.filter(|_| again).and_then(find);
        let (from, movable) = restless.unwrap_or_else(|| {
            // What has a device, or looks after what has, stays where that is.
            (from, self.machines[from].settled_processes(|program| program == ACTOR))
        });
        let adopter = match self.logs.is_empty() {
            true => self.machines[to].first_process(),
            false => self.machines[to].first_of(ACTOR),
        };
        let (Some(&process), Some((key, adopter))) = (self.random.pick(&movable), adopter) else {
            return Ok(());
        };
        if from == to {
            return Ok(());
        }
        self.tickets += 1;
        let (ticket, keeps_parent) = (self.tickets, self.random.once_in(2));
        let to_life = self.machines[to].life();
        self.planned.push(Planned { from, to, to_life, ticket, process, keeps_parent, adopter });
        let from = NodeId(from as u16 + 1);
        self.machines[to].tell(Event::Expect { from, ticket, adopter: key, grants: Box::default() });
        self.after(to)
    }

    /// A process that is expected will not come after all.
    fn forgo(&mut self, planned: Planned) -> Result<(), Violation> {
        let Planned { from, to, ticket, .. } = planned;
        self.machines[from].tell(Event::Forgo { to: NodeId(to as u16 + 1), ticket });
        self.after(from)
    }

    /// A kernel says what came of a move to its node.
    fn moved(&mut self, node: usize, moved: Moved) -> Result<(), Violation> {
        if self.given_up.contains_key(&node) {
            return Ok(());
        }
        match moved {
            Moved::Settled { from, ticket, process, handle } => {
                let between = self.between.remove(&(usize::from(from.0) - 1, ticket));
                let Some(Between { left_at, traveller, adopter, .. }) = between else {
                    assert!(self.forged_once_in.is_some(), "a process settled that did not leave");
                    return Ok(());
                };
                let id = traveller.instance.id;
                self.restless = Some(id);
                self.model.settled(id, left_at, self.machines[node].now);
                // What processes were told is not followed where packets are forged.
                if handle != HandleId::NONE && self.forged_once_in.is_none() {
                    self.model.adopted(adopter, handle, id)?;
                }
                self.machines[node].settle(process, traveller);
            }
            Moved::Missed { from, ticket } => {
                let from = usize::from(from.0) - 1;
                self.planned.retain(|planned| planned.from != from || planned.ticket != ticket);
                if let Some(between) = self.between.remove(&(from, ticket)) {
                    // It was lost with the node that it left.
                    self.model.lost_between(between.traveller.instance.id);
                }
            }
        }
        Ok(())
    }

    fn mend(&mut self, one: usize, other: usize) {
        self.cut.remove(&(one, other));
        self.cut.remove(&(other, one));
        if self.up[one] && self.up[other] {
            self.link(one, other);
        }
    }

    /// A node loses its power. It is off from now on; what it sent may still arrive.
    fn crash(&mut self, node: usize) {
        self.hash.add(&("crash", node));
        self.up[node] = false;
        self.coming.retain(|coming| coming.to != node);
        self.forget_moves(node);
        self.tell_lost(node);
    }

    fn forget_moves(&mut self, node: usize) {
        self.watchers[node] = Watcher::default();
        self.planned.retain(|planned| planned.from != node && planned.to != node);
        self.between.retain(|_, between| between.to != node);
    }

    fn tell_lost(&mut self, node: usize) {
        self.model.node_lost(NodeId(node as u16 + 1));
        let life = self.machines[node].life();
        for to in (0..self.machines.len()).filter(|to| *to != node) {
            // The others learn of it some time, or of its next life first.
            let due = self.now + self.random.below(40_000_000);
            let event = Event::Lost { node: NodeId(node as u16 + 1), life };
            self.coming.push(Coming { to, due, event });
        }
    }

    fn start(&mut self, node: usize) {
        self.hash.add(&("start", node));
        self.noted[node] = self.machines[node].records.len();
        if let Some(log) = self.logs.get(node) {
            log.borrow_mut().crash();
        }
        self.machines[node].crash();
        self.up[node] = true;
        // It reads that before it speaks to anybody.
        for lost in self.given_up.keys().copied().collect::<Vec<_>>() {
            let event = Event::Lost { node: NodeId(lost as u16 + 1), life: self.machines[lost].life() };
            self.coming.push(Coming { to: node, due: self.now, event });
        }
        self.link_up(node);
    }

    /// No more faults: all links are there and all nodes up.
    fn heal(&mut self) -> Result<(), Violation> {
        self.weather = Weather::CALM;
        self.machines.iter_mut().for_each(Machine::calm);
        self.begin_anew(|_| true)?;
        for node in 0..self.machines.len() {
            if self.up[node] && !self.logs.is_empty() && self.machines[node].halted.is_some() {
                self.crash(node);
            }
            if !self.up[node] {
                self.start(node);
            }
        }
        self.cut.clear();
        for node in 0..self.machines.len() {
            self.link_up(node);
        }
        for planned in std::mem::take(&mut self.planned) {
            self.forgo(planned)?;
        }
        Ok(())
    }

    /// Everybody has ended and everything was heard of.
    fn finish(&mut self) -> Result<(), Violation> {
        ensure!(self.step < STEPS_MAX, "it does not come to an end");
        let between: Vec<_> =
            self.between.iter().map(|(from, between)| (from, between.to, between.traveller.instance.id)).collect();
        ensure!(
            between.is_empty(),
            "processes are nowhere that left nodes, under these tickets, for others: {between:?}"
        );
        for (node, machine) in self.machines.iter().enumerate() {
            self.model.finish(&machine.kernel)?;
            let left = machine.kernel.processes().filter(|view| ![BOOT, NAMES].contains(&view.program));
            let left: Vec<_> = left.map(|view| (view.id, view.activity)).collect();
            ensure!(left.is_empty(), "on n{} these sleep for ever: {left:?}", node + 1);
            // A port of a part lasts as long as its node, and so does what was sent to it; of what is lost it is not shown what it was.
            let kept = |object: &ObjectId, lost: bool| {
                let mut sent = machine.kernel.ports().flat_map(|port| port.in_transit);
                !self.logs.is_empty() && (lost || sent.any(|right| right.object == *object))
            };
            let imports: Vec<_> = machine.kernel.imports().filter(|(.., object, lost)| !kept(object, *lost)).collect();
            ensure!(imports.is_empty(), "n{} holds rights of other nodes for nobody: {imports:?}", node + 1);
            ensure!(machine.kernel.errands() == 0, "n{} waits for {} errands", node + 1, machine.kernel.errands());
            let under_way = machine.kernel.under_way();
            ensure!(under_way.is_empty(), "n{} has something under way that never ends: {under_way:?}", node + 1);
            for other in 0..self.machines.len() {
                let held: BTreeSet<(NodeId, u64)> =
                    self.machines[other].kernel.imports().map(|(home, number, ..)| (home, number)).collect();
                let is_held = |number: &u64| held.contains(&(NodeId(node as u16 + 1), *number));
                let exports = machine.kernel.exports(NodeId(other as u16 + 1)).filter(|number| !is_held(number));
                let exports: Vec<u64> = exports.collect();
                ensure!(
                    exports.is_empty(),
                    "n{} keeps rights for n{}, which holds none: {exports:?}",
                    node + 1,
                    other + 1
                );
            }
        }
        for (node, log) in self.logs.iter().enumerate() {
            let answered = log.borrow().answered();
            ensure!(answered > 10, "on n{} only {answered} requests were answered", node + 1);
            fits_one_order(&log.borrow()).map_err(|what| Violation(format!("n{}: {}", node + 1, what.0)))?;
        }
        let lives: BTreeMap<usize, u64> = self.machines.iter().map(Machine::life).enumerate().collect();
        for (node, machine) in self.machines.iter().enumerate() {
            for (other, life) in lives.iter().filter(|(other, _)| **other != node) {
                let session = machine.kernel.session_life(NodeId(*other as u16 + 1));
                ensure!(session == Some(*life), "n{} has no session with n{}: {session:?}", node + 1, other + 1);
            }
        }
        Ok(())
    }
}
