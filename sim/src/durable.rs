//! Processes that outlive their nodes: some nodes, what the coordinator has of the processes, and whoever sees what they do, under one
//! seed. Who may go on with a process, what may be shown and what is still needed is decided by `services::durable`, as it is for a daemon;
//! the coordinator, the tapes and the programs are played.
//!
//! The one idea: everything between a node and the coordinator takes its time, both ways, and some of it is lost on the way back; meanwhile
//! nodes die, sleep and wake, and are taken for lost while they live. Whatever an incarnation does that was replaced happens all the same;
//! but whoever looks from outside sees one process that never dies.
//!
//! ```text
//!   clients ── request 7 ──► inbox ──► program ──► lines, answers: held back
//!                                        │ what it was told              ▲ safe
//!                                        ▼                               │
//!   node    lease, doubt, charges     tape ── pieces, compare claim ──► coordinator ◄── claims ── another node
//! ```
//! A second process is not durable: it has effects at once, under its node's lease.

use crate::checkers::Violation;
use crate::checkers::durable::Observer;
use crate::history::HistoryHash;
use crate::random::Random;
use crate::runs::{Failure, HISTORY_SHOWN, Report, Run, caught};
use abi::ids::NodeId;
use services::durable::claims::{self, Because, Claim, Fence, Home, LeaseFact, Needs, Place, Refusal, Revision, Whose};
use services::durable::tapes::{Kept, Shows};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How long a seed has faults, and how long it may take until all is well.
const FAULTY_MS: u64 = 25_000;
const HEALED_MS: u64 = 30_000;
/// How often it is looked whose processes are lost.
const LOOK_EVERY_MS: u64 = 300;
/// Whoever was asked to take a process up is given so long.
const TAKE_UP_PATIENCE_MS: u64 = 3000;
/// So long whoever asks the coordinator waits for an answer.
const FACT_TIMEOUT_MS: u64 = 1000;
const CLIENTS: u32 = 3;

/// The durable one, which serves clients; and the one that has effects at once.
pub const SERVER: u64 = 1;
pub const RESTARTED: u64 = 2;

/// What the server is told: a client's request, or by nobody a random number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    client: u32,
    number: u64,
}

const TOLD_BYTES: u64 = 12;

/// The server: what it is follows from what it was told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Program {
    digest: u64,
    pub printed: u64,
    /// Requests, each counted once.
    pub counted: u64,
    /// Of each client the last request, and what was answered.
    pub last: BTreeMap<u32, (u64, u64)>,
}

impl Program {
    /// Gives the line that it prints, if it does, and what it answers.
    fn hear(&mut self, told: Told) -> (Option<u64>, Option<u64>) {
        let Told { client, number } = told;
        if let Some((last, answer)) = self.last.get(&client).filter(|_| client > 0)
            && *last == number
        {
            return (None, Some(*answer));
        }
        self.digest = (self.digest ^ number ^ u64::from(client) << 48).wrapping_mul(0x100_0000_01b3).rotate_left(17);
        let answer = (client > 0).then(|| {
            self.counted += 1;
            self.last.insert(client, (number, self.counted));
            self.counted
        });
        let line = self.digest.is_multiple_of(2).then(|| {
            self.printed += 1;
            self.digest
        });
        (line, answer)
    }
}

#[derive(Clone, Debug)]
struct Checkpoint {
    incarnation: u32,
    since: u32,
    position: u64,
    program: Program,
    /// What it had printed and nobody had seen.
    lines: Vec<(u64, u64)>,
    /// All that led to it was safe before it was made.
    is_settled: bool,
    is_damaged: bool,
    /// Whoever looks after the process has known of it: what was told since is kept.
    is_known: bool,
}

/// What the coordinator has. It is on the disks of a majority; each act happens at one moment.
#[derive(Default)]
struct Facts {
    revision: u64,
    claims: BTreeMap<u64, (Claim, Revision)>,
    /// Until when.
    leases: BTreeMap<NodeId, (u64, Revision, u64)>,
    /// By the incarnation that the tape began with, and the position.
    pieces: BTreeMap<(u32, u64), Vec<Told>>,
    checkpoints: Vec<Checkpoint>,
}

/// What a node asks of the coordinator.
#[derive(Clone, Debug)]
enum Ask {
    Renew { life: u64 },
    Look,
    Claim { pid: u64 },
    Lease { of: NodeId },
    Write { pid: u64, last: Revision, fence: Fence, claim: Claim },
    History,
    Piece { claim: Revision, since: u32, at: u64, told: Vec<Told> },
    Keep { claim: Revision, checkpoint: Checkpoint },
    Trim { since: u32, below: u64 },
}

#[derive(Clone, Debug)]
enum Answer {
    Renewed,
    Looked {
        claims: BTreeMap<u64, (Claim, Revision)>,
        leases: BTreeMap<NodeId, LeaseFact>,
    },
    Claim(Option<(Claim, Revision)>),
    Lease(LeaseFact),
    Written(Revision),
    NotWritten {
        now: Option<(Claim, Revision)>,
    },
    History {
        checkpoints: Vec<Checkpoint>,
        pieces: BTreeMap<(u32, u64), Vec<Told>>,
    },
    Kept,
    Refused {
        now: Option<Revision>,
        is_there: bool,
    },
    Trimmed,
    /// It may have been done, or may be yet.
    Unknown,
}

/// What a node asked for, and what it was for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum For {
    Lease,
    Finding,
    Deciding,
    OwnOnes,
    TakingUp(u64),
    /// Of the server under this claim; what comes later is for nobody.
    HandingOver(Revision),
    Ending(Revision),
    Tape(Revision),
    Keeping(Revision),
    Trimming,
}

#[derive(Clone, Debug)]
enum Flight {
    Asked { by: NodeId, life: u64, purpose: For, asked_ms: u64, ask: Ask },
    Answered { by: NodeId, life: u64, purpose: For, asked_ms: u64, answer: Answer },
    TakeUp { by: NodeId, pid: u64, because: Because },
    Request { to: NodeId, client: u32, number: u64 },
    Reply { client: u32, number: u64, since: u32, answer: u64 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Beginning,
    Living,
    HandedOver {
        until_ms: u64,
    },
    /// It has ended, and is to begin from its beginning.
    Ended,
}

/// A process that a node looks after.
struct Charge {
    claim: Claim,
    revision: Revision,
    phase: Phase,
    is_held: bool,
    program: Program,
    again: VecDeque<Told>,
    /// What is not safe yet.
    pending: VecDeque<Told>,
    safe: u64,
    /// There is a checkpoint to go on from.
    kept: Option<Kept>,
    shows: Shows,
    lines: Vec<(u64, u64)>,
    /// Behind which position, to whom, about which request.
    answers: Vec<(u64, u32, u64, u64)>,
    inbox: VecDeque<(u32, u64)>,
    /// The piece on its way, and under which claim.
    writing: Option<(u64, u64, Revision)>,
    keeping: Option<(u64, u64)>,
}

impl Charge {
    fn new(claim: Claim, revision: Revision) -> Charge {
        Charge {
            claim,
            revision,
            phase: Phase::Beginning,
            is_held: false,
            program: Program::default(),
            again: VecDeque::new(),
            pending: VecDeque::new(),
            safe: 0,
            kept: None,
            shows: Shows::default(),
            lines: Vec::new(),
            answers: Vec::new(),
            inbox: VecDeque::new(),
            writing: None,
            keeping: None,
        }
    }

    fn end(&self) -> u64 {
        self.safe + self.pending.len() as u64 * TOLD_BYTES
    }

    fn runs(&self) -> bool {
        self.phase == Phase::Living && !self.is_held
    }
}

/// Where whoever takes a process up has come to.
#[derive(Clone, Copy, Debug)]
struct Taking {
    because: Because,
    /// What was seen, and what is being written in its place.
    seen: Option<(Claim, Revision)>,
    next: Option<(Claim, Fence)>,
    attempts: u32,
    in_doubt: bool,
    begun: Option<Revision>,
    /// It waits for the lease of its own node first.
    is_asked: bool,
    since_ms: u64,
}

struct Asked {
    claim: Revision,
    at_ms: u64,
    times: usize,
}

struct Node {
    id: NodeId,
    life: u64,
    is_on: bool,
    asleep_until: Option<u64>,
    /// When it was last heard by the others, as they find out; a node may be taken for silent that is not.
    silent_since: Option<u64>,
    charges: BTreeMap<u64, Charge>,
    taking: BTreeMap<u64, Taking>,
    lease_until: Option<u64>,
    in_doubt: bool,
    look_own: bool,
    /// What it has asked the coordinator for and has no answer to.
    open: BTreeSet<For>,
    renew_at: u64,
    look_at: u64,
    asked: BTreeMap<u64, Asked>,
}

impl Node {
    fn home(&self) -> Home {
        Home { node: self.id, life: self.life }
    }

    fn start(&mut self) {
        *self = Node { is_on: true, silent_since: None, look_own: true, ..Node::new(self.id, self.life + 1) };
    }

    fn new(id: NodeId, life: u64) -> Node {
        Node {
            id,
            life,
            is_on: true,
            asleep_until: None,
            silent_since: None,
            charges: BTreeMap::new(),
            taking: BTreeMap::new(),
            lease_until: None,
            in_doubt: false,
            look_own: false,
            open: BTreeSet::new(),
            renew_at: 0,
            look_at: 0,
            asked: BTreeMap::new(),
        }
    }

    fn is_awake(&self) -> bool {
        self.is_on && self.asleep_until.is_none()
    }
}

struct Client {
    number: u64,
    asked_ms: Option<u64>,
}

struct World {
    now: u64,
    random: Random,
    hash: HistoryHash,
    steps: u64,
    nodes: Vec<Node>,
    facts: Facts,
    /// When they arrive.
    flights: Vec<(u64, Flight)>,
    clients: BTreeMap<u32, Client>,
    observer: Observer,
    delay_max: u64,
    /// Of so many answers of the coordinator one is lost.
    loses_once_in: u64,
    fault_once_in: u64,
    is_healed: bool,
    /// What happened last.
    shown: VecDeque<String>,
}

/// So much is kept of what happened.
const SHOWN_MAX: usize = 2000;

pub fn play(seed: u64) -> Result<Report, Box<Failure>> {
    let mut world = World::new(seed);
    match caught(|| world.go()) {
        Ok(()) => Ok(Report { steps: world.steps, records: world.observer.seen(), hash: world.hash.value() }),
        Err(what) => {
            let shown = std::env::var("SHOWN").ok().and_then(|text| text.parse().ok()).unwrap_or(HISTORY_SHOWN);
            let records = world.shown.iter().rev().take(shown).rev().cloned().collect();
            Err(Box::new(Failure { run: Run::Durable, seed, step: world.steps, what, records }))
        }
    }
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random::new(seed ^ 0xd04a);
        let count = 3 + random.below(7) as u16;
        let mut nodes: Vec<Node> = (1..=count).map(|node| Node::new(NodeId(node), 1)).collect();
        let mut facts = Facts::default();
        for (pid, node) in [(SERVER, 0), (RESTARTED, 1)] {
            let home = nodes[node].home();
            let claim = Claim { incarnation: 0, place: Place::At(home), is_durable: pid == SERVER, since: 0 };
            let revision = facts.write(pid, claim);
            nodes[node].charges.insert(pid, Charge { phase: Phase::Living, ..Charge::new(claim, revision) });
            nodes[node].lease_until = Some(claims::runs_until(0, 0));
            facts.leases.insert(home.node, (home.life, revision, claims::LEASE_MS));
        }
        World {
            now: 1,
            hash: HistoryHash::default(),
            steps: 0,
            nodes,
            facts,
            flights: Vec::new(),
            clients: (1..=CLIENTS).map(|client| (client, Client { number: 1, asked_ms: None })).collect(),
            observer: Observer::default(),
            delay_max: [5, 40, 200][random.below(3) as usize],
            loses_once_in: [u64::MAX, 30, 6][random.below(3) as usize],
            fault_once_in: [20, 60, 150][random.below(3) as usize],
            is_healed: false,
            shown: VecDeque::new(),
            random,
        }
    }

    fn go(&mut self) -> Result<(), Violation> {
        while self.now < FAULTY_MS {
            if self.random.once_in(self.fault_once_in) {
                self.disturb();
            }
            self.step()?;
        }
        self.heal();
        self.observer.healed();
        while self.now < FAULTY_MS + HEALED_MS {
            self.step()?;
            if self.observer.is_served_again(CLIENTS) {
                break;
            }
        }
        self.finish()
    }

    fn step(&mut self) -> Result<(), Violation> {
        self.steps += 1;
        self.now += 1 + self.random.below(20);
        let (now, mut due) = (self.now, Vec::new());
        for (at, flight) in std::mem::take(&mut self.flights) {
            let waits = match &flight {
                // A machine that sleeps takes nothing off its network.
                Flight::Answered { by, .. } | Flight::TakeUp { by, .. } | Flight::Request { to: by, .. } => {
                    self.node(*by).asleep_until.is_some()
                }
                _ => false,
            };
            match at <= now && !waits {
                true => due.push(flight),
                false => self.flights.push((at, flight)),
            }
        }
        while !due.is_empty() {
            let which = self.random.below(due.len() as u64) as usize;
            let flight = due.swap_remove(which);
            self.happens(&flight);
            self.arrive(flight)?;
        }
        for index in 0..self.nodes.len() {
            if self.nodes[index].asleep_until.is_some_and(|until| until <= now) {
                self.nodes[index].asleep_until = None;
                self.nodes[index].silent_since = None;
            }
            if self.nodes[index].is_awake() {
                self.act(index)?;
            }
        }
        self.ask_server();
        Ok(())
    }

    fn happens(&mut self, what: &impl std::fmt::Debug) {
        self.hash.add(what);
        if self.shown.len() == SHOWN_MAX {
            self.shown.pop_front();
        }
        self.shown.push_back(format!("{:>6} ms {what:?}", self.now));
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[usize::from(id.0) - 1]
    }

    fn send(&mut self, flight: Flight) {
        let due = self.now + self.random.below(self.delay_max);
        self.flights.push((due, flight));
    }

    fn ask(&mut self, index: usize, purpose: For, ask: Ask) {
        let node = &mut self.nodes[index];
        node.open.insert(purpose);
        let (by, life, asked_ms) = (node.id, node.life, self.now);
        self.send(Flight::Asked { by, life, purpose, asked_ms, ask });
    }

    fn has_majority(&self) -> bool {
        2 * self.nodes.iter().filter(|node| node.is_awake()).count() > self.nodes.len()
    }

    fn disturb(&mut self) {
        let index = self.random.below(self.nodes.len() as u64) as usize;
        let now = self.now;
        let rest = self.random.below(6000);
        // Mostly where something is.
        let busy = (0..self.nodes.len()).find(|index| self.nodes[*index].charges.contains_key(&SERVER));
        let index = busy.filter(|_| self.random.once_in(2)).unwrap_or(index);
        let may_go = {
            let awake = self.nodes.iter().filter(|node| node.is_awake()).count();
            // Facts are not there without a majority: then nothing happens, which shows little.
            2 * awake > self.nodes.len() + 2 || self.random.once_in(4)
        };
        let silent_after = now + 100 + self.random.below(900);
        let what = self.random.below(8);
        self.happens(&("disturbed", index + 1, what));
        let node = &mut self.nodes[index];
        match what {
            _ if !node.is_on => node.start(),
            0..2 if node.is_awake() && may_go => {
                node.is_on = false;
                node.silent_since = Some(silent_after);
            }
            2..5 if node.is_awake() && may_go => {
                node.asleep_until = Some(now + rest);
                node.silent_since = Some(silent_after);
            }
            // The others do not hear it, but the coordinator does.
            5 => node.silent_since = if node.silent_since.is_some() && node.is_awake() { None } else { Some(now) },
            6 => self.hand_over(index),
            // The last checkpoint rots, if there is one before it to go on from.
            _ => {
                if let [.., before, last] = &mut self.facts.checkpoints[..] {
                    last.is_damaged |=
                        last.is_settled && !before.is_damaged && before.is_known && before.since == last.since;
                }
            }
        }
    }

    /// A minority may be left off.
    fn heal(&mut self) {
        self.is_healed = true;
        self.loses_once_in = u64::MAX;
        for node in &mut self.nodes {
            node.asleep_until = None;
            if node.is_on {
                node.silent_since = None;
            }
        }
        while !self.has_majority() || (self.random.once_in(2) && self.nodes.iter().any(|node| !node.is_on)) {
            let off = self.nodes.iter_mut().find(|node| !node.is_on);
            off.expect("some are off, since there is no majority").start();
        }
    }

    fn hand_over(&mut self, index: usize) {
        let others: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|node| node.is_awake() && node.id != self.nodes[index].id)
            .map(|one| one.id)
            .collect();
        let Some(to) = self.random.pick(&others).copied() else { return };
        let until_ms = self.now + 2000;
        let Some(charge) = self.nodes[index].charges.get_mut(&SERVER).filter(|charge| charge.runs()) else { return };
        charge.phase = Phase::HandedOver { until_ms };
        let because = Because::Handed { claim: charge.revision };
        self.send(Flight::TakeUp { by: to, pid: SERVER, because });
    }

    /// Each client has one request at a time, and asks again wherever the server is said to be, or was.
    fn ask_server(&mut self) {
        let (now, patience) = (self.now, 4 * self.delay_max + 100);
        for client in 1..=CLIENTS {
            let one = &self.clients[&client];
            if one.asked_ms.is_some_and(|at| now - at < patience) || !self.random.once_in(4) {
                continue;
            }
            let number = one.number;
            let said = match self.facts.claims[&SERVER].0.place {
                Place::At(home) if !self.random.once_in(4) => home.node,
                _ => NodeId(1 + self.random.below(self.nodes.len() as u64) as u16),
            };
            self.clients.get_mut(&client).expect("it is there").asked_ms = Some(now);
            self.send(Flight::Request { to: said, client, number });
        }
    }

    fn arrive(&mut self, flight: Flight) -> Result<(), Violation> {
        match flight {
            Flight::Asked { by, life, purpose, asked_ms, ask } => {
                let is_late = self.now - asked_ms > FACT_TIMEOUT_MS;
                let has_majority = self.has_majority();
                let answer = match has_majority && (!is_late || self.random.once_in(2)) {
                    true => self.facts.take(ask, by, self.now),
                    false => Answer::Unknown,
                };
                let lost = self.random.once_in(self.loses_once_in);
                let answer = if lost || is_late { Answer::Unknown } else { answer };
                let wait = if matches!(answer, Answer::Unknown) { FACT_TIMEOUT_MS } else { 0 };
                let due = self.now + wait + self.random.below(self.delay_max);
                self.flights.push((due, Flight::Answered { by, life, purpose, asked_ms, answer }));
                Ok(())
            }
            Flight::Answered { by, life, purpose, asked_ms, answer } => {
                let index = usize::from(by.0) - 1;
                let node = &mut self.nodes[index];
                if !node.is_on || node.life != life {
                    return Ok(());
                }
                node.open.remove(&purpose);
                self.answered(index, purpose, asked_ms, answer)
            }
            Flight::TakeUp { by, pid, because } => {
                let (index, now) = (usize::from(by.0) - 1, self.now);
                if self.nodes[index].is_on {
                    self.take_up(index, pid, because, now);
                }
                Ok(())
            }
            Flight::Request { to, client, number } => {
                let node = &mut self.nodes[usize::from(to.0) - 1];
                if let Some(charge) = node.charges.get_mut(&SERVER).filter(|_| node.is_on) {
                    charge.inbox.push_back((client, number));
                }
                Ok(())
            }
            Flight::Reply { client, number, since, answer } => {
                self.observer.answered(client, number, since, answer)?;
                let one = self.clients.get_mut(&client).expect("it is there");
                if one.number == number {
                    *one = Client { number: number + 1, asked_ms: None };
                }
                Ok(())
            }
        }
    }

    /// What a node does in a moment. Whether its lease runs is looked at first.
    fn act(&mut self, index: usize) -> Result<(), Violation> {
        let now = self.now;
        let node = &mut self.nodes[index];
        let is_late = node.lease_until.is_none_or(|until| now >= until);
        if is_late && !node.charges.is_empty() {
            node.in_doubt = true;
            node.charges.values_mut().for_each(|charge| charge.is_held = true);
        } else if node.in_doubt && !node.open.contains(&For::Deciding) {
            self.ask(index, For::Deciding, Ask::Look);
        }
        let node = &self.nodes[index];
        let wants_lease = !node.charges.is_empty() || !node.taking.is_empty();
        if wants_lease && now >= node.renew_at && !node.open.contains(&For::Lease) {
            let life = node.life;
            self.nodes[index].renew_at = now + claims::RENEW_EVERY_MS;
            self.ask(index, For::Lease, Ask::Renew { life });
        }
        if self.nodes[index].look_own && !self.nodes[index].open.contains(&For::OwnOnes) {
            self.nodes[index].look_own = false;
            self.ask(index, For::OwnOnes, Ask::Look);
        }
        if now >= self.nodes[index].look_at && !self.nodes[index].open.contains(&For::Finding) {
            self.nodes[index].look_at = now + LOOK_EVERY_MS;
            self.ask(index, For::Finding, Ask::Look);
        }
        let pids: Vec<u64> = self.nodes[index].taking.keys().copied().collect();
        pids.into_iter().for_each(|pid| self.go_on_taking(index, pid));
        self.run_restarted(index)?;
        self.run_server(index)?;
        self.write_tape(index);
        self.show(index)?;
        self.keep(index);
        self.see_to_phase(index);
        Ok(())
    }

    fn run_restarted(&mut self, index: usize) -> Result<(), Violation> {
        let node = &self.nodes[index];
        let Some(charge) = node.charges.get(&RESTARTED).filter(|charge| charge.runs()) else { return Ok(()) };
        self.observer.has_effect(charge.claim.incarnation, node.home(), self.now)
    }

    /// It hears something, as it did before or for the first time.
    fn run_server(&mut self, index: usize) -> Result<(), Violation> {
        for _ in 0..self.random.below(4) {
            let fresh = Told { client: 0, number: self.random.below(1 << 20) };
            let ends = !self.is_healed && self.random.once_in(3000);
            let Some(charge) = self.nodes[index].charges.get_mut(&SERVER).filter(|charge| charge.runs()) else { break };
            let since = charge.claim.since;
            if let Some(told) = charge.again.pop_front() {
                let (line, answer) = charge.program.hear(told);
                // It was safe: it is shown again at once.
                if let Some(line) = line {
                    self.observer.printed(since, charge.program.printed, line)?;
                }
                if let Some(answer) = answer {
                    let Told { client, number } = told;
                    self.send(Flight::Reply { client, number, since, answer });
                }
                continue;
            }
            if ends {
                charge.phase = Phase::Ended;
                break;
            }
            let told = match charge.inbox.pop_front() {
                Some((client, number)) => {
                    // What is older than the last is of nobody any more.
                    if charge.program.last.get(&client).is_some_and(|(last, _)| number < *last) {
                        continue;
                    }
                    Told { client, number }
                }
                None => fresh,
            };
            let (line, answer) = charge.program.hear(told);
            charge.pending.push_back(told);
            let end = charge.end();
            charge.lines.extend(line.map(|line| (charge.program.printed, line)));
            charge.answers.extend(answer.map(|answer| (end, told.client, told.number, answer)));
        }
        Ok(())
    }

    fn write_tape(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(charge) = node.charges.get_mut(&SERVER).filter(|one| !node.open.contains(&For::Tape(one.revision)))
        else {
            return;
        };
        if charge.kept.is_none() || charge.pending.is_empty() || charge.writing.is_some() {
            return;
        }
        let count = 1 + self.random.below(charge.pending.len() as u64) as usize;
        let told: Vec<Told> = charge.pending.iter().take(count).copied().collect();
        let (claim, since, at) = (charge.revision, charge.claim.since, charge.safe);
        charge.writing = Some((at, at + told.len() as u64 * TOLD_BYTES, claim));
        self.ask(index, For::Tape(claim), Ask::Piece { claim, since, at, told });
    }

    /// What is safe is seen.
    fn show(&mut self, index: usize) -> Result<(), Violation> {
        let Some(charge) = self.nodes[index].charges.get_mut(&SERVER).filter(|charge| charge.kept.is_some()) else {
            return Ok(());
        };
        if charge.shows.is_free()
            && let Some((line, _)) = charge.lines.last()
        {
            charge.shows.hold(charge.end(), *line);
        }
        let (safe, written) = (charge.safe, charge.writing.map_or(charge.safe, |(_, to, _)| to));
        let since = charge.claim.since;
        if let Some(most) = charge.shows.show(safe, written) {
            for (number, line) in charge.lines.extract_if(.., |(number, _)| *number <= most) {
                self.observer.printed(since, number, line)?;
            }
        }
        // Answers wait as the lines do.
        let gone: Vec<_> = charge.answers.extract_if(.., |(at, ..)| *at <= safe).collect();
        for (_, client, number, answer) in gone {
            self.send(Flight::Reply { client, number, since, answer });
        }
        Ok(())
    }

    fn keep(&mut self, index: usize) {
        let often = if self.nodes[index].charges.get(&SERVER).is_some_and(|one| one.kept.is_none()) { 2 } else { 30 };
        if !self.random.once_in(often) {
            return;
        }
        let node = &mut self.nodes[index];
        let Some(charge) = node.charges.get_mut(&SERVER).filter(|charge| charge.phase == Phase::Living) else { return };
        // All that led to it is safe first, if that does not take too long; and it has been told all again.
        let is_settled = charge.kept.is_none() || charge.pending.is_empty();
        let may_be = is_settled || self.random.once_in(4);
        if !charge.again.is_empty() || !may_be || node.open.contains(&For::Keeping(charge.revision)) {
            return;
        }
        charge.keeping = Some((charge.end(), charge.program.printed));
        let checkpoint = Checkpoint {
            incarnation: charge.claim.incarnation,
            since: charge.claim.since,
            position: charge.end(),
            program: charge.program.clone(),
            lines: charge.lines.clone(),
            is_settled,
            is_damaged: false,
            is_known: false,
        };
        let claim = charge.revision;
        self.ask(index, For::Keeping(claim), Ask::Keep { claim, checkpoint });
    }

    fn see_to_phase(&mut self, index: usize) {
        let (now, home) = (self.now, self.nodes[index].home());
        let node = &mut self.nodes[index];
        let Some(charge) = node.charges.get_mut(&SERVER) else { return };
        let (claim, last) = (charge.claim, charge.revision);
        match charge.phase {
            Phase::HandedOver { until_ms } if now >= until_ms => charge.phase = Phase::Living,
            Phase::HandedOver { .. } if !node.open.contains(&For::HandingOver(last)) => {
                self.ask(index, For::HandingOver(last), Ask::Claim { pid: SERVER });
            }
            // If it is held, somebody else may have it.
            Phase::Ended if !charge.is_held && !node.open.contains(&For::Ending(last)) => {
                let write = Ask::Write { pid: SERVER, last, fence: Fence::ClaimAlone, claim: claim.begun_anew(home) };
                self.ask(index, For::Ending(last), write);
            }
            _ => {}
        }
    }

    /// Somebody else has it, as something that was refused said: what runs here is not it any more.
    fn superseded(&mut self, index: usize, used: Revision) {
        let node = &mut self.nodes[index];
        // The claim may have been written anew by this node itself; and who hands it over sees to that itself.
        if node.charges.get(&SERVER).is_some_and(|one| one.revision == used && one.phase == Phase::Living) {
            node.charges.remove(&SERVER);
        }
    }

    fn take_up(&mut self, index: usize, pid: u64, because: Because, since_ms: u64) {
        let node = &mut self.nodes[index];
        node.taking.entry(pid).or_insert(Taking {
            because,
            seen: None,
            next: None,
            attempts: 0,
            in_doubt: false,
            begun: None,
            is_asked: false,
            since_ms,
        });
    }

    /// Who takes a process up has a lease of its own first.
    fn go_on_taking(&mut self, index: usize, pid: u64) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let has_lease = node.lease_until.is_some_and(|until| now + claims::LEASE_MS / 4 < until);
        let Some(taking) = node.taking.get_mut(&pid).filter(|taking| !taking.is_asked) else { return };
        if has_lease {
            taking.is_asked = true;
            self.ask(index, For::TakingUp(pid), Ask::Claim { pid });
        } else if now - taking.since_ms > 2 * FACT_TIMEOUT_MS {
            node.taking.remove(&pid);
        }
    }

    fn answered(&mut self, index: usize, purpose: For, asked_ms: u64, answer: Answer) -> Result<(), Violation> {
        let now = self.now;
        if let For::HandingOver(of) | For::Ending(of) | For::Tape(of) | For::Keeping(of) = purpose
            && self.nodes[index].charges.get(&SERVER).is_none_or(|charge| charge.revision != of)
        {
            return Ok(());
        }
        match (purpose, answer) {
            (For::Lease, Answer::Renewed) => {
                let node = &mut self.nodes[index];
                if node.lease_until.is_none_or(|until| now >= until) {
                    node.look_own = true;
                }
                node.lease_until = Some(claims::runs_until(asked_ms, now));
            }
            (For::Finding, Answer::Looked { claims, leases }) => self.find(index, &claims, &leases),
            (For::Deciding, Answer::Looked { claims, .. }) => {
                let node = &mut self.nodes[index];
                node.charges.retain(|pid, charge| {
                    let is_beginning = matches!(charge.phase, Phase::Beginning | Phase::HandedOver { .. });
                    let said = claims.get(pid).map(|(_, revision)| *revision);
                    match claims::whose(charge.revision, said, is_beginning) {
                        Whose::Ours => charge.is_held = false,
                        Whose::BeingDecided => {}
                        Whose::Theirs => return false,
                    }
                    true
                });
                // Unless it is in doubt again.
                node.in_doubt = node.lease_until.is_none_or(|until| now >= until);
                node.charges.values_mut().for_each(|charge| charge.is_held |= node.in_doubt);
            }
            (For::OwnOnes, Answer::Looked { claims, .. }) => {
                for (pid, (claim, _)) in claims {
                    let is_own = matches!(claim.place, Place::At(home) if home.node == self.nodes[index].id);
                    if is_own && !self.nodes[index].charges.contains_key(&pid) {
                        self.take_up(index, pid, Because::LeaseOver, now);
                    }
                }
            }
            (For::OwnOnes, _) => self.nodes[index].look_own = true,
            (For::TakingUp(pid), answer) => self.taking_up(index, pid, answer)?,
            (For::HandingOver(_), Answer::Claim(said)) => {
                let node = &mut self.nodes[index];
                let is_gone = |charge: &Charge| {
                    matches!(charge.phase, Phase::HandedOver { .. })
                        && said.is_none_or(|(_, revision)| revision != charge.revision)
                };
                if node.charges.get(&SERVER).is_some_and(is_gone) {
                    node.charges.remove(&SERVER);
                }
            }
            (For::Ending(_), answer) => self.ending(index, answer)?,
            (For::Tape(_), answer) => self.wrote(index, answer),
            (For::Keeping(_), Answer::Kept) => {
                let node = &mut self.nodes[index];
                let Some(charge) = node.charges.get_mut(&SERVER) else { return Ok(()) };
                let Some((position, printed)) = charge.keeping.take() else { return Ok(()) };
                let (since, safe) = (charge.claim.since, charge.safe);
                let below = match &mut charge.kept {
                    None => {
                        // What lies before it needs not be kept.
                        let skip = (position - charge.safe) / TOLD_BYTES;
                        charge.pending.drain(..skip as usize);
                        charge.safe = position;
                        charge.kept = Some(Kept::new(position, []));
                        0
                    }
                    Some(kept) => kept.needs_from(position, safe),
                };
                let made = self.facts.checkpoints.iter_mut().find(|one| one.since == since && one.position == position);
                made.expect("it is recorded").is_known = true;
                // A checkpoint covers what was printed before it.
                for (number, line) in charge.lines.extract_if(.., |(number, _)| *number <= printed) {
                    self.observer.printed(since, number, line)?;
                }
                self.ask(index, For::Trimming, Ask::Trim { since, below });
            }
            (For::Keeping(_), Answer::Refused { .. }) => {
                if let Some(charge) = self.nodes[index].charges.get_mut(&SERVER)
                    && charge.keeping.take().is_some()
                {
                    let used = charge.revision;
                    self.superseded(index, used);
                }
            }
            // It is tried again.
            (For::Keeping(_), _) => {
                if let Some(charge) = self.nodes[index].charges.get_mut(&SERVER) {
                    charge.keeping = None;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Looks for processes whose node is lost, if it is this node that looks after that.
    fn find(&mut self, index: usize, said: &BTreeMap<u64, (Claim, Revision)>, leases: &BTreeMap<NodeId, LeaseFact>) {
        let (now, me) = (self.now, self.nodes[index].id);
        let is_heard = |node: &Node| node.silent_since.is_none_or(|since| since > now);
        let heard: Vec<NodeId> =
            self.nodes.iter().filter(|node| node.id == me || is_heard(node)).map(|node| node.id).collect();
        if heard.first() != Some(&me) {
            return self.nodes[index].asked.clear();
        }
        for (pid, (claim, revision)) in said {
            let Place::At(home) = claim.place else { continue };
            // A node that lives anew is heard in its next life.
            let there = self.node(home.node);
            let is_silent = home.node != me && (!is_heard(there) || there.life > home.life);
            let lease = leases.get(&home.node).copied().unwrap_or(LeaseFact::Missing);
            let Some(because) = claims::lost(claim, *revision, is_silent, Some(lease)) else {
                self.nodes[index].asked.remove(pid);
                continue;
            };
            let before = self.nodes[index].asked.get(pid).filter(|asked| asked.claim == *revision);
            if before.is_some_and(|asked| now - asked.at_ms < TAKE_UP_PATIENCE_MS) {
                continue;
            }
            let times = before.map_or(0, |asked| asked.times);
            let others: Vec<NodeId> = heard.iter().copied().filter(|node| *node != home.node || *node == me).collect();
            let Some(to) = whom(&others, me, *pid, times) else { continue };
            self.nodes[index].asked.insert(*pid, Asked { claim: *revision, at_ms: now, times: times + 1 });
            self.send(Flight::TakeUp { by: to, pid: *pid, because });
        }
    }

    fn taking_up(&mut self, index: usize, pid: u64, answer: Answer) -> Result<(), Violation> {
        let me = self.nodes[index].home();
        let Some(mut taking) = self.nodes[index].taking.get(&pid).copied() else { return Ok(()) };
        let next = match answer {
            Answer::Claim(Some((claim, revision))) => {
                let has_it = self.nodes[index].charges.contains_key(&pid);
                taking.seen = Some((claim, revision));
                match claims::take_up(&claim, revision, taking.because, me, has_it) {
                    Err(_) => None,
                    Ok(Needs::LeaseOver(home)) => Some(Ask::Lease { of: home.node }),
                    Ok(Needs::Nothing | Needs::OldOneOut) => {
                        // What was here of it before is out first.
                        self.nodes[index].charges.remove(&pid);
                        taking.next = Some((claim.gone_on_with(me), Fence::ClaimAlone));
                        Some(Ask::Write {
                            pid,
                            last: revision,
                            fence: Fence::ClaimAlone,
                            claim: claim.gone_on_with(me),
                        })
                    }
                }
            }
            Answer::Lease(lease) => match taking.seen {
                Some((claim @ Claim { place: Place::At(home), .. }, last)) => lease.over(home.life).map(|fence| {
                    let claim = claim.gone_on_with(me);
                    taking.next = Some((claim, fence));
                    Ask::Write { pid, last, fence, claim }
                }),
                _ => None,
            },
            Answer::Written(revision) => self.is_begun(index, pid, &mut taking, revision),
            // An attempt whose answer was lost may have done it.
            Answer::NotWritten { now: Some((claim, revision)) }
                if taking.in_doubt && taking.next.is_some_and(|(next, _)| next == claim) =>
            {
                self.is_begun(index, pid, &mut taking, revision)
            }
            Answer::Unknown if taking.begun.is_none() && taking.next.is_some() && taking.attempts < 3 => {
                (taking.in_doubt, taking.attempts) = (true, taking.attempts + 1);
                let ((claim, fence), (_, last)) =
                    (taking.next.expect("it is there"), taking.seen.expect("it was seen"));
                Some(Ask::Write { pid, last, fence, claim })
            }
            Answer::Unknown if taking.begun.is_some() => Some(Ask::History),
            Answer::Unknown => {
                // Perhaps it was written all the same, and then it is this node's and nobody else sees to it.
                self.nodes[index].look_own |= taking.next.is_some();
                None
            }
            Answer::History { checkpoints, pieces } => {
                self.goes_on(index, pid, &checkpoints, &pieces)?;
                None
            }
            _ => None,
        };
        match next {
            Some(ask) => {
                self.nodes[index].taking.insert(pid, taking);
                self.ask(index, For::TakingUp(pid), ask);
            }
            None => drop(self.nodes[index].taking.remove(&pid)),
        }
        Ok(())
    }

    /// The claim is this node's.
    fn is_begun(&mut self, index: usize, pid: u64, taking: &mut Taking, revision: Revision) -> Option<Ask> {
        let (claim, _) = taking.next.expect("what was written is known");
        taking.begun = Some(revision);
        self.happens(&("begun", pid, claim));
        self.nodes[index].charges.insert(pid, Charge::new(claim, revision));
        if claim.is_durable {
            return Some(Ask::History);
        }
        self.lives(index, pid);
        None
    }

    fn lives(&mut self, index: usize, pid: u64) {
        let node = &mut self.nodes[index];
        let in_doubt = node.in_doubt;
        if let Some(charge) = node.charges.get_mut(&pid).filter(|charge| charge.phase == Phase::Beginning) {
            (charge.phase, charge.is_held) = (Phase::Living, in_doubt);
        }
    }

    /// From the last checkpoint that is whole, and what was told since.
    fn goes_on(
        &mut self, index: usize, pid: u64, checkpoints: &[Checkpoint], pieces: &BTreeMap<(u32, u64), Vec<Told>>,
    ) -> Result<(), Violation> {
        let Some(charge) = self.nodes[index].charges.get_mut(&pid) else { return Ok(()) };
        let since = charge.claim.since;
        let known = self.facts.checkpoints.iter_mut();
        let all = checkpoints.iter().filter(|checkpoint| checkpoint.incarnation >= since);
        let Some(base) = all.clone().rev().find(|checkpoint| !checkpoint.is_damaged) else {
            // Nothing of it was ever safe, so nobody has seen anything of it: else it does not go on.
            if all.count() == 0 {
                self.lives(index, pid);
            }
            return Ok(());
        };
        // Who slept meanwhile may find what came after it had ended once, and would go on from that.
        let since = base.since;
        charge.claim.since = since;
        let own: Vec<(u64, &Vec<Told>)> =
            pieces.range((since, 0)..=(since, u64::MAX)).map(|((_, at), told)| (*at, told)).collect();
        let mut end = base.position;
        for (at, told) in &own {
            let piece_end = at + told.len() as u64 * TOLD_BYTES;
            if piece_end <= end {
                continue;
            }
            if *at > end {
                // Something is missing: it does not go on.
                return Ok(());
            }
            charge.again.extend(&told[((end - at) / TOLD_BYTES) as usize..]);
            end = piece_end;
        }
        let same = |one: &&mut Checkpoint| one.since == since && one.position == base.position;
        known.filter(same).for_each(|one| one.is_known = true);
        charge.program = base.program.clone();
        charge.safe = end;
        let places = own.iter().map(|(at, told)| (*at, at + told.len() as u64 * TOLD_BYTES));
        charge.kept = Some(Kept::new(base.position, places));
        for (number, line) in &base.lines {
            self.observer.printed(since, *number, *line)?;
        }
        self.lives(index, pid);
        Ok(())
    }

    fn wrote(&mut self, index: usize, answer: Answer) {
        let Some(charge) = self.nodes[index].charges.get_mut(&SERVER) else { return };
        let Some((from, to, used)) = charge.writing.take() else { return };
        let is_done = match answer {
            Answer::Kept => true,
            Answer::Refused { now, is_there } => {
                let refusal = claims::refused_piece(used, now, is_there);
                if refusal == Refusal::Superseded {
                    self.superseded(index, used);
                    return;
                }
                true
            }
            _ => false,
        };
        if !is_done {
            // The same piece is written again: it may be there.
            let count = ((to - from) / TOLD_BYTES) as usize;
            let told: Vec<Told> = charge.pending.iter().take(count).copied().collect();
            charge.writing = Some((from, to, charge.revision));
            let (claim, since) = (charge.revision, charge.claim.since);
            return self.ask(index, For::Tape(claim), Ask::Piece { claim, since, at: from, told });
        }
        if from == charge.safe {
            if let Some(kept) = &mut charge.kept {
                kept.is_kept(from, to);
            }
            charge.pending.drain(..((to - from) / TOLD_BYTES) as usize);
            charge.safe = to;
        }
    }

    /// It ended, and that is written down: all that it did may be seen, and it begins from its beginning.
    fn ending(&mut self, index: usize, answer: Answer) -> Result<(), Violation> {
        let home = self.nodes[index].home();
        let Some(charge) = self.nodes[index].charges.get_mut(&SERVER).filter(|one| one.phase == Phase::Ended) else {
            return Ok(());
        };
        let next = charge.claim.begun_anew(home);
        let revision = match answer {
            Answer::Written(revision) => revision,
            Answer::NotWritten { now: Some((claim, revision)) } if claim == next => revision,
            Answer::Unknown => return Ok(()),
            _ => {
                self.nodes[index].charges.remove(&SERVER);
                return Ok(());
            }
        };
        let since = charge.claim.since;
        let (lines, answers) = (std::mem::take(&mut charge.lines), std::mem::take(&mut charge.answers));
        for (number, line) in lines {
            self.observer.printed(since, number, line)?;
        }
        for (_, client, number, answer) in answers {
            self.send(Flight::Reply { client, number, since, answer });
        }
        let is_held = self.nodes[index].in_doubt;
        let charge = Charge { phase: Phase::Living, is_held, ..Charge::new(next, revision) };
        self.nodes[index].charges.insert(SERVER, charge);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Violation> {
        let place = |pid: u64| {
            let (claim, revision) = self.facts.claims[&pid];
            let Place::At(home) = claim.place else { return Err(Violation(format!("process {pid} is over"))) };
            let node = self.node(home.node);
            let charge = node.charges.get(&pid).filter(|charge| node.is_awake() && charge.revision == revision);
            charge.ok_or(Violation(format!("nobody has process {pid}, of which it is said: {claim:?}")))
        };
        let server = place(SERVER)?;
        place(RESTARTED)?;
        self.observer.finish(CLIENTS, server.claim.since, &server.program)
    }
}

impl Facts {
    fn write(&mut self, pid: u64, claim: Claim) -> Revision {
        self.revision += 1;
        self.claims.insert(pid, (claim, Revision(self.revision)));
        Revision(self.revision)
    }

    fn lease(&self, of: NodeId, now: u64) -> LeaseFact {
        match self.leases.get(&of) {
            Some((life, revision, until)) if now < *until => LeaseFact::Of { life: *life, revision: *revision },
            _ => LeaseFact::Missing,
        }
    }

    fn is_claim(&self, pid: u64, claim: Revision) -> bool {
        self.claims.get(&pid).is_some_and(|(_, now)| *now == claim)
    }

    fn take(&mut self, ask: Ask, by: NodeId, now: u64) -> Answer {
        match ask {
            Ask::Renew { life } => {
                let revision = match self.lease(by, now) {
                    LeaseFact::Of { life: of, revision } if of == life => revision,
                    // Of an earlier life, or over.
                    _ => {
                        self.revision += 1;
                        Revision(self.revision)
                    }
                };
                self.leases.insert(by, (life, revision, now + claims::LEASE_MS));
                Answer::Renewed
            }
            Ask::Look => {
                let leases = self.leases.keys().map(|node| (*node, self.lease(*node, now))).collect();
                Answer::Looked { claims: self.claims.clone(), leases }
            }
            Ask::Claim { pid } => Answer::Claim(self.claims.get(&pid).copied()),
            Ask::Lease { of } => Answer::Lease(self.lease(of, now)),
            Ask::Write { pid, last, fence, claim } => {
                let Some((Claim { place: Place::At(home), .. }, _)) = self.claims.get(&pid) else {
                    return Answer::NotWritten { now: None };
                };
                let holds = match (fence, self.lease(home.node, now)) {
                    (Fence::ClaimAlone, _) | (Fence::LeaseMissing, LeaseFact::Missing) => true,
                    (Fence::LeaseUnchanged(seen), LeaseFact::Of { revision, .. }) => seen == revision,
                    _ => false,
                };
                match holds && self.is_claim(pid, last) {
                    true => Answer::Written(self.write(pid, claim)),
                    false => Answer::NotWritten { now: self.claims.get(&pid).copied() },
                }
            }
            Ask::History => Answer::History { checkpoints: self.checkpoints.clone(), pieces: self.pieces.clone() },
            Ask::Piece { claim, since, at, told } => {
                let there = self.pieces.get(&(since, at));
                if there.is_none() && self.is_claim(SERVER, claim) {
                    self.pieces.insert((since, at), told);
                    return Answer::Kept;
                }
                let is_there = there == Some(&told);
                Answer::Refused { now: self.claims.get(&SERVER).map(|(_, revision)| *revision), is_there }
            }
            Ask::Keep { claim, checkpoint } => match self.is_claim(SERVER, claim) {
                true => {
                    self.checkpoints.push(checkpoint);
                    Answer::Kept
                }
                false => {
                    let now = self.claims.get(&SERVER).map(|(_, revision)| *revision);
                    Answer::Refused { now, is_there: false }
                }
            },
            Ask::Trim { since, below } => {
                self.pieces.retain(|(of, at), _| *of > since || *of == since && *at >= below);
                Answer::Trimmed
            }
        }
    }
}

/// Who of those that are heard is asked to take a process up. Others before `me`, in turn: who finds what is lost has enough to do. `heard`
/// includes `me`; `times`: how often somebody was asked.
fn whom(heard: &[NodeId], me: NodeId, serial: u64, times: usize) -> Option<NodeId> {
    let first = heard.iter().position(|node| *node == me)?;
    Some(heard[(first + 1 + times + serial as usize % heard.len()) % heard.len()])
}
