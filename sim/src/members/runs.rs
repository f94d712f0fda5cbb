//! What one seed plays: a few nodes, one kind of trouble, and then calm.

use crate::checkers::{Violation, ensure};
use crate::members::checkers::Checkers;
use crate::members::world::{MILLISECOND, SECOND, Weather, World};
use crate::runs::{Report, caught};
use abi::ids::{NodeId, Time};

/// What goes wrong. Each kind forbids what it must not cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Any machine stands still for up to 300 ms, again and again. Nobody may be called down.
    Pauses,
    /// The same among dozens of machines, where news takes its time.
    Crowd,
    /// A tenth of all packets is lost, some come twice. Nobody may be called down.
    Loss,
    /// Two machines do not hear one another, or one does not hear the other. Nobody may be called down.
    Cuts,
    /// Machines are killed, lose power, come back. Every death is seen in time, and no other.
    Deaths,
    /// Machines stand still for seconds while packets are lost. Only they may be called down, and they come back by themselves.
    LongPauses,
    /// The network falls into two parts, or one part does not hear the other.
    Partitions,
    /// Machines join, leave, are removed, are killed.
    Churn,
    /// All of it.
    Everything,
}

pub const ALL: [Trouble; 9] = [
    Trouble::Pauses,
    Trouble::Crowd,
    Trouble::Loss,
    Trouble::Cuts,
    Trouble::Deaths,
    Trouble::LongPauses,
    Trouble::Partitions,
    Trouble::Churn,
    Trouble::Everything,
];

/// What was wrong, and what happened before it.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub trouble: Trouble,
    pub what: Violation,
    pub records: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        for record in &self.records {
            writeln!(f, "  {record}")?;
        }
        write!(f, "seed {}, members under {:?}: {}", self.seed, self.trouble, self.what.0)
    }
}

/// How long all need to find one another.
const BOOT_NS: u64 = 3 * SECOND;
const TROUBLE_NS: u64 = 20 * SECOND;
/// How long after the last fault all must agree.
const SETTLE_NS: u64 = 6 * SECOND;
/// How long after a fault who suffered it may still be called down, because the news was on its way.
const EXCUSED_NS: u64 = 2 * SECOND;

pub fn trouble(seed: u64) -> Trouble {
    ALL[(seed % ALL.len() as u64) as usize]
}

/// What a run measured beside being right.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    pub killed_ns: Vec<u64>,
    pub silent_ns: Vec<u64>,
}

pub fn play(seed: u64) -> Result<(Report, Seen), Box<Failure>> {
    let trouble = trouble(seed);
    let mut play = Play { world: World::new(seed), trouble, until: Default::default(), next: 0, links_break: false };
    match caught(|| play.go()) {
        Ok(()) => {
            let world = &mut play.world;
            let report = Report { steps: world.steps, records: world.records.len(), hash: world.hash.value() };
            let checkers = std::mem::take(&mut world.checkers);
            // Where nothing else goes wrong, the times say something.
            let timed = trouble == Trouble::Deaths;
            let times = |times: Vec<u64>| if timed { times } else { Vec::new() };
            let (killed_ns, silent_ns) = (times(checkers.seen_after), times(checkers.silence_seen_after));
            Ok((report, Seen { killed_ns, silent_ns }))
        }
        Err(what) => {
            let records = play.world.records.iter().cloned().collect();
            Err(Box::new(Failure { seed, trouble, what, records }))
        }
    }
}

struct Play {
    world: World,
    trouble: Trouble,
    /// Until when a machine is left alone, having suffered.
    until: std::collections::BTreeMap<NodeId, Time>,
    /// The number that the next machine gets.
    next: u16,
    /// Do links break where machines do not hear one another?
    links_break: bool,
}

impl Play {
    fn go(&mut self) -> Result<(), Violation> {
        let crowd = self.trouble == Trouble::Crowd;
        let count = if crowd { 30 + self.world.random.below(20) } else { 3 + self.world.random.below(7) } as u16;
        self.next = count + 1;
        (1..=count).for_each(|number| self.world.add(NodeId(number)));
        self.world.belong((1..=count).map(NodeId));
        for number in 1..=count {
            let after = self.world.random.below(200 * MILLISECOND);
            self.world.run_for(after)?;
            self.world.start(NodeId(number))?;
        }
        self.world.run_for(BOOT_NS)?;
        Checkers::all_agree(&self.world)?;
        self.world.record(format!("{count} nodes have found one another; now {:?}", self.trouble));
        self.begin();
        let end = self.world.now.after(if crowd { TROUBLE_NS / 4 } else { TROUBLE_NS });
        while self.world.now < end {
            let length = self.world.random.below(400 * MILLISECOND);
            self.world.run_for(length)?;
            self.act()?;
            self.check()?;
        }
        self.settle()?;
        Checkers::all_agree(&self.world)?;
        Checkers::facts_agree(&self.world)?;
        Checkers::memory_is_bounded(&self.world)
    }

    fn begin(&mut self) {
        let weather = &mut self.world.weather;
        match self.trouble {
            Trouble::Loss => {
                *weather = Weather { lost_per_mille: 100, doubled_per_mille: 20, delay_ns: 5 * MILLISECOND }
            }
            Trouble::LongPauses => weather.lost_per_mille = 80,
            Trouble::Everything | Trouble::Churn => {
                *weather = Weather { lost_per_mille: 20, doubled_per_mille: 20, delay_ns: 100 * MILLISECOND }
            }
            Trouble::Deaths => weather.doubled_per_mille = 20,
            Trouble::Pauses | Trouble::Crowd | Trouble::Cuts | Trouble::Partitions => {}
        }
        self.links_break = self.world.random.once_in(2);
        self.world.checkers.nobody_is_suspected = self.trouble == Trouble::Cuts && !self.links_break;
        self.world.checkers.deaths_are_timed = self.trouble == Trouble::Deaths;
        if matches!(self.trouble, Trouble::Partitions | Trouble::Everything | Trouble::Churn) {
            let all = self.world.nodes.keys().copied();
            self.world.checkers.excused = all.collect();
        }
    }

    fn check(&mut self) -> Result<(), Violation> {
        let now = self.world.now;
        if self.trouble == Trouble::LongPauses {
            self.world
                .checkers
                .excused
                .retain(|node| self.until.get(node).is_some_and(|until| until.after(EXCUSED_NS) > now));
        }
        let mut checkers = std::mem::take(&mut self.world.checkers);
        let result = checkers.deaths_are_seen(&self.world);
        self.world.checkers = checkers;
        result
    }

    fn act(&mut self) -> Result<(), Violation> {
        match self.trouble {
            Trouble::Pauses | Trouble::Crowd => self.pause(300 * MILLISECOND),
            Trouble::Loss => {}
            Trouble::Cuts => self.cut(),
            Trouble::Deaths => self.death()?,
            Trouble::LongPauses => self.pause_two()?,
            Trouble::Partitions => self.part(),
            Trouble::Churn => self.churn()?,
            Trouble::Everything => match self.world.random.below(6) {
                0 => self.pause(5 * SECOND),
                1 => self.cut(),
                2 => self.death()?,
                3 => self.part(),
                4 => self.churn()?,
                _ => self.say()?,
            },
        }
        if self.world.random.once_in(4) { self.say() } else { Ok(()) }
    }

    /// Some machine whose last suffering is over.
    fn sufferer(&mut self) -> Option<NodeId> {
        let now = self.world.now;
        let free = |node: &NodeId| self.until.get(node).is_none_or(|until| until.after(500 * MILLISECOND) < now);
        let free: Vec<NodeId> = self.world.nodes.keys().copied().filter(free).collect();
        self.world.random.pick(&free).copied()
    }

    fn pause(&mut self, length_max: u64) {
        let Some(node) = self.sufferer().filter(|node| self.world.is_on(*node)) else { return };
        let length = self.world.random.below(length_max);
        self.until.insert(node, self.world.now.after(length));
        if self.trouble == Trouble::LongPauses {
            self.world.checkers.excused.insert(node);
        }
        self.world.pause(node, length);
    }

    /// A machine stands still for a moment, and then one that may just have begun to suspect it, for long.
    fn pause_two(&mut self) -> Result<(), Violation> {
        let Some(first) = self.sufferer() else { return Ok(()) };
        let short = self.world.random.below(300 * MILLISECOND);
        self.until.insert(first, self.world.now.after(short));
        self.world.pause(first, short);
        let after = self.world.random.below(400 * MILLISECOND);
        self.world.run_for(after)?;
        self.pause(6 * SECOND);
        Ok(())
    }

    /// One pair at a time, so that every machine is heard by somebody.
    fn cut(&mut self) {
        if !self.world.cuts.is_empty() {
            if self.world.random.once_in(8) {
                self.world.heal();
            }
            return;
        }
        let all: Vec<NodeId> = self.world.nodes.keys().copied().filter(|node| self.world.is_on(*node)).collect();
        let pair = (self.world.random.pick(&all).copied(), self.world.random.pick(&all).copied());
        let (Some(from), Some(to)) = pair else { return };
        if from == to {
            return;
        }
        self.world.cut(from, to);
        if self.world.random.once_in(2) {
            self.world.cut(to, from);
        }
        if self.links_break {
            let after = self.world.random.below(2 * SECOND);
            self.world.break_link(from, to, after);
        }
    }

    /// One part of the machines and the rest.
    fn part(&mut self) {
        if !self.world.cuts.is_empty() {
            if self.world.random.once_in(8) {
                self.world.heal();
            }
            return;
        }
        let all: Vec<NodeId> = self.world.nodes.keys().copied().collect();
        let side: Vec<bool> = all.iter().map(|_| self.world.random.once_in(3)).collect();
        let one_way = self.world.random.once_in(3);
        for (from, here) in all.iter().zip(&side) {
            for (to, there) in all.iter().zip(&side) {
                if here != there && (*here || !one_way) {
                    self.world.cut(*from, *to);
                    if self.links_break && *here {
                        let after = self.world.random.below(2 * SECOND);
                        self.world.break_link(*from, *to, after);
                    }
                }
            }
        }
    }

    fn death(&mut self) -> Result<(), Violation> {
        let Some(node) = self.sufferer() else { return Ok(()) };
        let on = self.world.nodes.keys().filter(|node| self.world.is_on(**node)).count();
        if !self.world.is_on(node) {
            self.until.insert(node, self.world.now.after(SECOND));
            self.world.start(node)
        } else if on > 2 && self.world.random.once_in(3) {
            // Some come back before anyone has noticed, some after.
            let off = self.world.random.below(4 * SECOND);
            self.until.insert(node, self.world.now.after(off));
            let by_power = self.world.random.once_in(2);
            self.world.kill(node, by_power);
            Ok(())
        } else {
            Ok(())
        }
    }

    fn churn(&mut self) -> Result<(), Violation> {
        let members: Vec<NodeId> = self.world.nodes.keys().copied().filter(|node| self.world.belongs(*node)).collect();
        match self.world.random.below(4) {
            0 if members.len() < 12 && self.next < 30 => {
                let node = NodeId(self.next);
                self.next += 1;
                self.world.add(node);
                self.world.checkers.excused.insert(node);
                self.world.belong(members.into_iter().chain([node]));
                self.world.start(node)
            }
            1 if members.len() > 3 => {
                let gone = *self.world.random.pick(&members).expect("there are some");
                self.world.record(format!("{gone} is removed"));
                self.world.belong(members.into_iter().filter(|node| *node != gone));
                // Some are told and stop, some go on speaking.
                if self.world.is_on(gone) && self.world.random.once_in(2) {
                    self.world.kill(gone, false);
                }
                Ok(())
            }
            2 => {
                let Some(node) = self.sufferer().filter(|node| self.world.is_on(*node)) else { return Ok(()) };
                if self.world.node(node).paused_until > self.world.now || members.len() < 3 {
                    return Ok(());
                }
                self.until.insert(node, self.world.now.after(SECOND));
                self.world.leave(node)
            }
            _ => self.death(),
        }
    }

    /// A machine has something new to say of itself.
    fn say(&mut self) -> Result<(), Violation> {
        let all: Vec<NodeId> = self.world.nodes.keys().copied().collect();
        let node = *self.world.random.pick(&all).expect("there are some");
        if self.world.node(node).paused_until > self.world.now {
            return Ok(());
        }
        let mut facts = self.world.node(node).facts.clone();
        facts.processes += 1;
        facts.load_hundredths = self.world.random.below(800) as u32;
        self.world.set_facts(node, facts)
    }

    /// All faults end.
    fn settle(&mut self) -> Result<(), Violation> {
        let now = self.world.now;
        let paused = self.world.nodes.values().map(|node| node.paused_until).max().unwrap_or_default();
        self.world.checkers.nobody_is_suspected = false;
        self.world.weather = Weather { lost_per_mille: 0, doubled_per_mille: 0, delay_ns: MILLISECOND };
        self.world.heal();
        if paused > now {
            self.world.run_until(paused.after(MILLISECOND))?;
        }
        let all: Vec<NodeId> = self.world.nodes.keys().copied().collect();
        for node in all {
            if !self.world.is_on(node) && self.world.belongs(node) && self.world.random.once_in(2) {
                self.world.start(node)?;
            }
            let mut facts = self.world.node(node).facts.clone();
            facts.processes += 1000;
            self.world.set_facts(node, facts)?;
        }
        // The more nodes there are, the less often each may speak of itself.
        let members = self.world.nodes.len() as u64;
        self.world.run_for(SETTLE_NS + members * 150 * MILLISECOND)?;
        let on = self.world.nodes.values().filter(|node| node.members.is_some()).count();
        ensure!(on > 0, "nobody is left");
        Ok(())
    }
}
