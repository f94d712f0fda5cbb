//! What one seed does: the runs, each a machine with its processes, its faults and its checkers.

use crate::bodies::actor::{ACTOR, Actor};
use crate::bodies::client::{Client, Log, SharedLog};
use crate::bodies::spinner::{HOG, Hog, NAPPER, Napper, STARTER, Starter};
use crate::checkers::linear::{self, OPERATIONS_MAX, Sequential, Verdict};
use crate::checkers::model::Model;
use crate::checkers::watcher::Watcher;
use crate::checkers::{Violation, ensure};
use crate::machine::{Body, Faults, Machine, Options, PAUSE_NS_MAX, Programs};
use crate::random::Random;
use crate::torn;
use crate::tree::Tree;
use abi::call::{Outcome, PortOptions};
use abi::ids::{DeviceId, NodeId, Time};
use abi::interface::names::{Answer, Request};
use abi::limits::Limits;
use abi::message::Bytes;
use abi::process::Program;
use kernel::limits::SLICE_NS;
use services::boot::{Boot, Manifest, Part, Restart};
use services::host::Host;
use services::names::Names;
use std::collections::BTreeSet;
use std::rc::Rc;

/// The runs that there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// Processes that do anything at all.
    Actors,
    /// Clients of the service `names`, whose process and node die and whose disk fails.
    Names,
    /// Hogs and nappers that want the processor.
    Shares,
    /// The service `names` alone, at a disk that tears.
    Torn,
    /// Several nodes whose processes do anything at all, on a network that loses, doubles, reorders and is cut; nodes die and come back.
    Cluster,
    /// The same with much under way at any time, while processes move and ways are shortened all the time; and whoever is between two
    /// others while it hands something over dies then. In half of its seeds one way is slow, some process hardly ever stays where it is,
    /// and acts are under way for long: acts and rights come back to where they were before.
    Ways,
    /// As `Cluster` or as `Ways`, of three to nine nodes.
    Wide,
    /// The same, and on each node clients of a service `names` of its own, whose process dies and whose journal is on a disk that fails,
    /// and that tears whenever its node loses its power. The others go on.
    Stored,
    /// Processes that outlive their nodes, of which some die, some sleep and some are taken for lost.
    Durable,
    /// Who of many nodes is alive, in a network that loses, cuts and stands still. Its own tests look for the bugs that are planted in it.
    Members,
}

/// What `una-sim` plays.
pub const PLAYED: [Run; 10] = [
    Run::Actors,
    Run::Names,
    Run::Shares,
    Run::Torn,
    Run::Cluster,
    Run::Ways,
    Run::Wide,
    Run::Stored,
    Run::Durable,
    Run::Members,
];

pub const ALL: [Run; 5] = [Run::Actors, Run::Names, Run::Shares, Run::Torn, Run::Cluster];

/// What a run was, if nothing was wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    pub steps: u64,
    pub records: usize,
    pub hash: u64,
}

/// What was wrong, and when.
#[derive(Clone, Debug)]
pub struct Failure {
    pub run: Run,
    pub seed: u64,
    pub step: u64,
    pub what: Violation,
    /// The last things that happened before it.
    pub records: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        for record in &self.records {
            writeln!(f, "  {record}")?;
        }
        write!(f, "seed {}, {:?}, step {}: {}", self.seed, self.run, self.step, self.what.0)
    }
}

/// How much of the history a failure shows.
pub const HISTORY_SHOWN: usize = 25;

/// Plays one run of one seed. A broken invariant, of ours or of the kernel's, is a failure like any other.
pub fn play(run: Run, seed: u64) -> Result<Report, Box<Failure>> {
    let mut play = match run {
        Run::Actors => actors(seed),
        Run::Names => names(seed),
        Run::Shares => shares(seed),
        Run::Cluster | Run::Ways | Run::Wide | Run::Stored => return crate::cluster::play(run, seed),
        Run::Members => {
            let played = crate::members::runs::play(seed).map(|(report, _)| report);
            return played.map_err(|failure| {
                let what = Violation(format!("under {:?}: {}", failure.trouble, failure.what.0));
                Box::new(Failure { run, seed, step: 0, what, records: failure.records })
            });
        }
        Run::Durable => return crate::durable::play(seed),
        Run::Torn => {
            let result = caught(|| torn::play(seed));
            return result.map_err(|what| Box::new(Failure { run, seed, step: 0, what, records: Vec::new() }));
        }
    };
    let result = caught(|| play.go());
    let machine = &play.machine;
    match result {
        Ok(()) => Ok(Report { steps: machine.step, records: machine.records.len(), hash: machine.hash.value() }),
        Err(what) => {
            let last = machine.records.iter().rev().take(HISTORY_SHOWN).rev();
            let records = last
                .map(|record| format!("{:>6} {:>12?} {:?} {:?}", record.step, record.at, record.process, record.seen));
            Err(Box::new(Failure { run, seed, step: machine.step, what, records: records.collect() }))
        }
    }
}

/// A panic is a violation.
pub fn caught<T>(act: impl FnOnce() -> Result<T, Violation>) -> Result<T, Violation> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        Err(Violation(format!("panic: {}", text.unwrap_or_default())))
    })
}

/// A machine, what follows it, and what it is for.
struct Play {
    machine: Machine,
    model: Model,
    watcher: Watcher,
    /// How many records the checkers have seen.
    noted: usize,
    steps_max: u64,
    kind: Kind,
}

enum Kind {
    Actors,
    Names { log: SharedLog, crash_once_in: Option<u64>, devices: u16, last_crash: u64 },
    Shares { weights: Vec<u32> },
}

impl Play {
    fn new(options: Options, programs: Programs, steps_max: u64, kind: Kind) -> Play {
        let devices = options.devices;
        let machine = Machine::new(options, programs);
        Play { machine, model: Model::new(devices), watcher: Watcher::default(), noted: 0, steps_max, kind }
    }

    fn go(&mut self) -> Result<(), Violation> {
        self.note()?;
        while self.machine.step < self.steps_max {
            if !self.machine.step() {
                break;
            }
            self.note()?;
            if self.machine.halted.is_some() {
                match &self.kind {
                    Kind::Names { .. } => self.crash(),
                    _ => break,
                }
            }
            self.machine.kernel.check();
            self.watcher.check(&self.machine)?;
            self.disturb();
            match &self.kind {
                Kind::Names { log, .. } if log.borrow().len() >= OPERATIONS_MAX - 8 => {
                    // Let what is under way end.
                    self.steps_max = self.steps_max.min(self.machine.step + 2000);
                }
                // At first everybody begins at once, and somebody is the last of them.
                Kind::Shares { .. } if self.machine.step == 300 => self.machine.waited_longest_ns.clear(),
                _ => {}
            }
        }
        self.finish()
    }

    /// Tells the checkers what happened.
    fn note(&mut self) -> Result<(), Violation> {
        let mut seen = BTreeSet::new();
        for record in &self.machine.records[self.noted..] {
            self.model.note(record)?;
            self.watcher.note(record);
            seen.insert(record.process);
        }
        self.noted = self.machine.records.len();
        for process in seen {
            if let (true, Some(key)) = (self.machine.is_between_calls(process), self.machine.key_of(process)) {
                self.model.compare(process, &self.machine.kernel.handles(key))?;
            }
        }
        Ok(())
    }

    fn disturb(&mut self) {
        if let Kind::Names { crash_once_in: Some(times), last_crash, .. } = &self.kind {
            // A node that never comes up shows nothing.
            let rested = self.machine.step - last_crash > 100;
            let times = *times;
            if rested && self.machine.random.once_in(times) {
                self.crash();
            }
        }
    }

    fn crash(&mut self) {
        let Kind::Names { log, devices, last_crash, .. } = &mut self.kind else { unreachable!("only these crash") };
        log.borrow_mut().crash();
        *last_crash = self.machine.step;
        self.model = Model::new(*devices);
        self.watcher = Watcher::default();
        self.noted = self.machine.records.len();
        self.machine.crash();
    }

    fn finish(&mut self) -> Result<(), Violation> {
        self.note()?;
        self.model.finish(&self.machine.kernel)?;
        match &self.kind {
            Kind::Actors => Ok(()),
            Kind::Names { log, .. } => {
                ensure!(log.borrow().answered() > 20, "only {} requests were answered", log.borrow().answered());
                fits_one_order(&log.borrow())
            }
            Kind::Shares { weights } => {
                // Whoever wakes waits for the end of a slice that has begun, and perhaps for another that woke before.
                let bound = 3 * SLICE_NS;
                for (process, waited) in &self.machine.waited_longest_ns {
                    let hog = self.machine.kernel.processes().any(|view| view.id == *process && view.program == HOG);
                    ensure!(hog || *waited <= bound, "{process:?} was ready for {waited} ns and did not run");
                }
                let mut used: Vec<u64> = self
                    .machine
                    .kernel
                    .processes()
                    .filter(|view| view.program == HOG)
                    .map(|view| view.used_ns)
                    .collect();
                // Hogs are started from the last weight to the first, and keys count up.
                used.reverse();
                let all: u64 = used.iter().sum();
                let weight: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
                for (used, weight_of_it) in used.iter().zip(weights) {
                    let fair = all * u64::from(*weight_of_it) / weight;
                    let off = used.abs_diff(fair);
                    ensure!(
                        off <= fair / 20 + 4 * SLICE_NS,
                        "a hog of weight {weight_of_it} of {weight} used {used} ns of {all}, and {fair} would be fair"
                    );
                }
                Ok(())
            }
        }
    }
}

fn actors(seed: u64) -> Play {
    let mut random = Random::new(seed ^ 0xac70);
    let options = Options {
        seed,
        node: NodeId(1),
        life: 0,
        workers: 1 + random.below(3) as u16,
        devices: 0,
        faults: Faults { stir_once_in: random.once_in(2).then_some(30), ..Faults::NONE },
        first: ACTOR,
        arguments: Bytes::new(&[0]),
        limits: Limits::NORMAL,
        pause_ns_max: PAUSE_NS_MAX,
    };
    let programs: Programs = Box::new(move |program, arguments, id| {
        (program == ACTOR).then(|| Box::new(Actor::new(seed, id, arguments)) as Box<dyn Body>)
    });
    Play::new(options, programs, 2500, Kind::Actors)
}

/// A service's host as a body.
pub(crate) struct Hosted<S>(pub(crate) Host<S>);

impl<S: services::Service> Body for Hosted<S> {
    fn resume(&mut self, now: Time, outcome: Outcome) -> crate::machine::Doing {
        let call = self.0.resume(now, outcome);
        self.0.check();
        crate::machine::Doing::Call(call)
    }
}

pub(crate) const BOOT: Program = Program::Service(0);
pub(crate) const NAMES: Program = Program::Service(1);
pub(crate) const CLIENT: Program = Program::Service(2);

/// A part of a manifest. What is not a service is begun once in each life of its node.
pub(crate) fn part(name: &str, program: Program, devices: &[DeviceId], sends_to: &[&str], port: PortOptions) -> Part {
    Part {
        name: name.into(),
        program,
        arguments: if program == ACTOR { Bytes::new(&[0]) } else { Bytes::EMPTY },
        port,
        devices: devices.to_vec(),
        sends_to: sends_to.iter().map(|name| name.to_string()).collect(),
        limits: Limits { buffer_bytes_max: 4 << 20, ..Limits::NORMAL },
        weight: 100,
        restart: if program == NAMES { Restart::Always } else { Restart::Never },
    }
}

/// Whether what clients of one service `names` were answered fits one order, over all the lives of its node.
pub(crate) fn fits_one_order(log: &Log) -> Result<(), Violation> {
    let mut operations = log.operations();
    operations.truncate(OPERATIONS_MAX);
    let verdict = linear::check(Tree::default(), &operations);
    ensure!(verdict == Verdict::Linearizable, "no order explains the answers ({verdict:?}): {operations:#?}");
    Ok(())
}

fn names(seed: u64) -> Play {
    let mut random = Random::new(seed ^ 0x7a3e5);
    let log: SharedLog = Rc::new(std::cell::RefCell::new(Log::default()));
    let clients = 2 + random.below(3);
    let port =
        if random.once_in(4) { PortOptions::RENDEZVOUS } else { PortOptions::buffered(1 + random.below(6) as u32) };
    let mut parts = vec![part("names", NAMES, &[DeviceId(0)], &[], port)];
    parts.extend(
        (0..clients).map(|number| part(&format!("client {number}"), CLIENT, &[], &["names"], PortOptions::buffered(1))),
    );
    let plan = Manifest { parts }.check().expect("this manifest is in order");
    let faults = Faults {
        journal_fails_once_in: random.once_in(2).then_some(200),
        journal_works_once_in: [1, 3, 10][random.below(3) as usize],
        stir_once_in: None,
        trap_once_in: [None, Some(150), Some(40)][random.below(3) as usize],
        traps: |program| program == NAMES,
    };
    let crash_once_in = (!random.once_in(3)).then_some(120);
    let options = Options {
        seed,
        node: NodeId(1),
        life: 0,
        workers: 1 + random.below(2) as u16,
        devices: 1,
        faults,
        first: BOOT,
        arguments: Bytes::EMPTY,
        limits: Limits::NORMAL,
        pause_ns_max: PAUSE_NS_MAX,
    };
    let shared = log.clone();
    let programs: Programs = Box::new(move |program, _, id| {
        Some(match program {
            BOOT => Box::new(Hosted(Host::new(Boot::new(plan.clone())))) as Box<dyn Body>,
            NAMES => Box::new(Hosted(Host::new(Names::new()))),
            CLIENT => Box::new(Client::new(seed, id, shared.clone(), OPERATIONS_MAX - 8)),
            _ => return None,
        })
    });
    Play::new(options, programs, 15_000, Kind::Names { log, crash_once_in, devices: 1, last_crash: 0 })
}

fn shares(seed: u64) -> Play {
    let mut random = Random::new(seed ^ 0x5a4e);
    let weights: Vec<u32> = (0..3 + random.below(3)).map(|_| [100, 100, 200, 300][random.below(4) as usize]).collect();
    // With more workers than one, a heavy hog cannot use its share.
    let workers = 1;
    let options = Options {
        seed,
        node: NodeId(1),
        life: 0,
        workers,
        devices: 0,
        faults: Faults::NONE,
        first: STARTER,
        arguments: Bytes::EMPTY,
        limits: Limits::NORMAL,
        // A pause would be charged to whoever runs.
        pause_ns_max: 3_000,
    };
    let hogs = weights.clone();
    let programs: Programs = Box::new(move |program, _, id| {
        Some(match program {
            STARTER => {
                let mut wanted = vec![(NAPPER, 100), (NAPPER, 100)];
                wanted.extend(hogs.iter().map(|weight| (HOG, *weight)));
                Box::new(Starter { wanted, until: Time(u64::MAX - 1) }) as Box<dyn Body>
            }
            HOG => Box::new(Hog),
            NAPPER => Box::new(Napper::new(seed, id)),
            _ => return None,
        })
    });
    Play::new(options, programs, 3000, Kind::Shares { weights })
}

impl Sequential for Tree {
    type Request = Request;
    type Answer = Answer;

    fn apply(&mut self, request: &Request) -> Answer {
        Tree::apply(self, request)
    }
}
