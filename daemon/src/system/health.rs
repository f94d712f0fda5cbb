//! Who is heard, and what they say of themselves. Drives the detector of failures (`services::members`) with the clock and the wire;
//! knows nothing of how it judges.
//!
//! What arrives is looked at on the thread that brings it, which answers at once and without waking another; time passes on a thread of its
//! own, and there whoever must act on a change is told of it. A node that was paused gives itself a moment to read what came in meanwhile
//! before it judges others by their silence: `services::members` sees to that.

use super::Inner;
use super::member::Members as Records;
use super::record::addresses;
use super::view::{Facts, Lends, NodeState};
use abi::ids::{NodeId, Time};
use drivers::host::Host;
use drivers::wire::Class;
use services::events::Kind;
use services::members::{
    self, Architecture, Belonging, Change, Effect, EngineHash, Input, Intake, Members, Profile, Standing,
};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often this node says how it is.
const FACTS_INTERVAL: Duration = Duration::from_millis(500);
/// The longest sleep.
const PATIENCE: Duration = Duration::from_millis(500);

pub struct Health {
    members: Mutex<Members>,
    letters: Mutex<VecDeque<Letter>>,
    came: Condvar,
    /// Until then the thread sleeps, if nothing comes: as [`Health::now`].
    sleeps_until: AtomicU64,
    began: Instant,
    /// Processes of the machine that want a processor, over about the last second.
    load_hundredths: AtomicU32,
    has_left: AtomicBool,
}

enum Letter {
    /// Something has changed that was found out by another thread.
    Changed(Change),
    /// There is something to do before the thread's time.
    Look,
    /// What this node says of itself has changed so that others should hear it now.
    Facts,
    Belong(Vec<Belonging>),
    Linked {
        node: NodeId,
        life: u64,
    },
    Unlinked {
        node: NodeId,
    },
    Leave,
}

impl Health {
    pub fn new(me: NodeId, life: u64, entropy: u64) -> Health {
        let members = Members::new(me, life, entropy, Time(1));
        Health {
            members: Mutex::new(members),
            letters: Mutex::default(),
            came: Condvar::new(),
            sleeps_until: AtomicU64::new(0),
            began: Instant::now(),
            load_hundredths: AtomicU32::new(0),
            has_left: AtomicBool::new(false),
        }
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().expect("nothing panics while it holds this lock")
    }

    fn now(&self) -> Time {
        Time(self.began.elapsed().as_nanos() as u64 + 1)
    }

    fn post(&self, letter: Letter) {
        self.letters.lock().expect("nothing panics while it holds this lock").push_back(letter);
        self.came.notify_one();
    }

    /// All who belong, whenever that has changed.
    pub fn belong(&self, records: &Records) {
        let belonging = records.iter().filter_map(|(node, record)| {
            let (key, addresses) = (record.node_key()?, addresses(&record.addresses));
            Some(Belonging { node: *node, key, addresses, life_min: record.life })
        });
        self.post(Letter::Belong(belonging.collect()));
    }

    pub fn linked(&self, node: NodeId, life: u64) {
        self.post(Letter::Linked { node, life });
    }

    pub fn unlinked(&self, node: NodeId) {
        self.post(Letter::Unlinked { node });
    }

    /// Looks at what has arrived, and answers.
    pub fn arrived(&self, inner: &Inner, from: NodeId, bytes: &[u8]) {
        let mut effects = vec![];
        let wake = {
            let mut members = self.members();
            members.step(self.now(), Input::Packet { from, bytes }, &mut effects);
            members.wake()
        };
        for effect in effects {
            match effect {
                Effect::Send { to, packet } => send(inner, to, &packet),
                Effect::Tell(change) => self.post(Letter::Changed(change)),
            }
        }
        if wake.is_some_and(|wake| wake.0 < self.sleeps_until.load(Ordering::Relaxed)) {
            self.post(Letter::Look);
        }
    }

    /// Has the others hear of this node's facts as soon as may be.
    pub fn tell_facts(&self) {
        self.post(Letter::Facts);
    }

    /// Tells the others that this node goes on purpose.
    pub fn leave(&self) {
        self.post(Letter::Leave);
    }

    /// The goodbye is on its way.
    pub fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Acquire)
    }

    pub fn standing(&self, node: NodeId) -> Standing {
        self.members().get(node).map_or(Standing::Unknown, |view| view.standing)
    }

    pub fn state_of(&self, node: NodeId) -> NodeState {
        match self.standing(node) {
            Standing::Alive => NodeState::Up,
            Standing::Suspect => NodeState::Suspect,
            Standing::Left => NodeState::Left,
            Standing::Unknown | Standing::Down => NodeState::Down,
        }
    }

    pub fn is_up(&self, node: NodeId) -> bool {
        self.standing(node).is_up()
    }

    /// The life of another node that is heard.
    pub fn life_if_up(&self, node: NodeId) -> Option<u64> {
        self.members().get(node).filter(|view| view.standing.is_up()).and_then(|view| view.life)
    }

    /// The latest life of another node that was heard of.
    pub fn last_life(&self, node: NodeId) -> Option<u64> {
        self.members().get(node).and_then(|view| view.life)
    }

    /// Of another node: what it said last, with its life.
    pub fn soft(&self, node: NodeId) -> Option<(u64, members::Facts)> {
        self.members().facts(node)
    }
}

/// What a node says of itself, as people see it.
pub fn shown(life: u64, facts: members::Facts) -> Facts {
    Facts {
        architecture: match facts.architecture {
            Architecture::X86_64 => "x86_64",
            Architecture::Aarch64 => "aarch64",
            Architecture::Riscv64 => "riscv64",
            Architecture::Other => "other",
        }
        .into(),
        processors: facts.processors.into(),
        load: f64::from(facts.load_hundredths) / 100.0,
        memory_bytes: facts.memory_bytes,
        memory_free_bytes: facts.memory_free_bytes,
        processes: facts.processes,
        life,
        lends: match (facts.profile, facts.intake) {
            (Profile::Workstation, Intake::OwnerPresent) => Lends::OwnerHere,
            (Profile::Workstation, _) => Lends::OwnerAway,
            (Profile::Server | Profile::Pool, _) => Lends::Always,
        },
    }
}

/// What this node says of itself to the others.
pub fn soft_facts(inner: &Inner) -> members::Facts {
    facts_on(inner, Host::look())
}

fn facts_on(inner: &Inner, host: Host) -> members::Facts {
    members::Facts {
        load_hundredths: inner.health.load_hundredths.load(Ordering::Relaxed),
        processors: host.processors.min(u32::from(u16::MAX)) as u16,
        memory_bytes: host.memory_bytes,
        memory_free_bytes: host.memory_free_bytes,
        architecture: match std::env::consts::ARCH {
            "x86_64" => Architecture::X86_64,
            "aarch64" => Architecture::Aarch64,
            "riscv64" => Architecture::Riscv64,
            _ => Architecture::Other,
        },
        engine: EngineHash(inner.node.get().map_or(0, |node| node.engine().compatibility())),
        processes: inner.node.get().map_or(0, |node| node.status().processes),
        programs: inner.node.get().map(|node| node.latest_programs()).unwrap_or_default(),
        profile: inner.lending.profile(),
        intake: match inner.directory.members().get(&inner.me) {
            Some(member) if member.draining => Intake::Draining,
            _ => inner.lending.intake(),
        },
        addresses: inner.wire.addresses(),
    }
}

/// The thread that judges.
pub fn run(inner: &Arc<Inner>) {
    let health = &inner.health;
    let mut effects = vec![];
    let mut facts_at = Instant::now();
    let mut addresses = inner.wire.addresses();
    while !inner.is_stopping() {
        let letters: Vec<Letter> = {
            let letters = health.letters.lock().expect("nothing panics while it holds this lock");
            let now = health.now();
            let sleep = {
                // Under the lock, so that whoever changes the time to wake sees for how long this thread sleeps.
                let members = health.members();
                let wake = members.wake();
                let sleep = wake.map_or(PATIENCE, |wake| Duration::from_nanos(wake.since(now))).min(PATIENCE);
                health.sleeps_until.store(now.0 + sleep.as_nanos() as u64, Ordering::Relaxed);
                sleep
            };
            let idle = |letters: &mut VecDeque<Letter>| letters.is_empty();
            let (mut letters, _) =
                health.came.wait_timeout_while(letters, sleep, idle).expect("nothing panics while it holds this lock");
            letters.drain(..).collect()
        };
        {
            let mut members = health.members();
            let now = health.now();
            for letter in &letters {
                let input = match letter {
                    Letter::Changed(change) => {
                        effects.push(Effect::Tell(*change));
                        continue;
                    }
                    Letter::Look | Letter::Facts => continue,
                    Letter::Belong(belonging) => Input::Belong(belonging),
                    Letter::Linked { node, life } => Input::Linked { node: *node, life: *life },
                    Letter::Unlinked { node } => Input::Unlinked { node: *node },
                    Letter::Leave => Input::Leave,
                };
                members.step(now, input, &mut effects);
            }
            members.step(now, Input::Tick, &mut effects);
        }
        let has_changed = letters.iter().any(|letter| matches!(letter, Letter::Facts));
        if has_changed || facts_at <= Instant::now() {
            facts_at = Instant::now() + FACTS_INTERVAL;
            let before = health.load_hundredths.load(Ordering::Relaxed);
            let host = Host::look();
            health.load_hundredths.store((before + host.wanting * 100) / 2, Ordering::Relaxed);
            let facts = facts_on(inner, host);
            if facts.addresses != addresses {
                addresses.clone_from(&facts.addresses);
                inner.tell_addresses();
            }
            health.members().step(health.now(), Input::Facts(facts), &mut effects);
        }
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, packet } => send(inner, to, &packet),
                Effect::Tell(change) => changed(inner, change),
            }
        }
        if letters.iter().any(|letter| matches!(letter, Letter::Leave)) {
            health.has_left.store(true, Ordering::Release);
        }
    }
}

/// It may be lost.
fn send(inner: &Inner, to: NodeId, packet: &[u8]) {
    if let Some(key) = inner.directory.key_of(to) {
        let _ = inner.wire.send(key, Class::Control, packet);
    }
}

/// What follows from a change.
fn changed(inner: &Arc<Inner>, change: Change) {
    let event = match change {
        Change::Up { node, life } => Some(Kind::NodeUp { node, life }),
        Change::Down { node, life } => Some(Kind::NodeDown { node, life }),
        Change::Left { node, life } => Some(Kind::NodeLeft { node, life }),
        Change::Returned => Some(Kind::NodeReturned { node: inner.me }),
        Change::Usurped { life } => {
            let refusal = format!(
                "another machine runs as this node, in its life {life}: one of the two is a copy and must be ended"
            );
            inner.refused(refusal);
            Some(Kind::Usurped { life })
        }
        Change::Suspected { .. } | Change::Cleared { .. } | Change::Over { .. } | Change::Facts { .. } => None,
    };
    if let Some(event) = event {
        inner.chronicle.record(event);
    }
    if !matches!(change, Change::Facts { .. } | Change::Usurped { .. }) {
        inner.heard(change);
    }
}
