//! Where a process is now, asked by whoever has something to do with one. Drives `services::location` with the clock and the wire; knows
//! nothing of how it is found.
//!
//! The one idea: whatever is told or asked is one step under a lock, and what follows from it, packets and answers, goes out when the
//! lock is free again. A thread of its own looks after what was lost on the way, and sleeps while nothing is under way.

use super::{Inner, System, service};
use crate::node::{Fate, Pid};
use abi::ids::{NodeId, ProcessId, Time};
use drivers::wire::{Ask, Class};
use services::location::{Effect, Input, Location, Place, Ticket};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long a packet may take; what comes later is as good as lost.
const PACKET_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer is waited for: longer than the three that `services::location` asks in turn may take.
const FOUND_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest sleep, so that the end of the node is seen.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Whereabouts {
    state: Mutex<State>,
    /// There may be something to look after.
    roused: Condvar,
    began: Instant,
}

struct State {
    location: Location,
    asked: BTreeMap<Ticket, SyncSender<Option<Place>>>,
    tickets: u64,
}

impl Whereabouts {
    pub fn new(me: NodeId, life: u64) -> Whereabouts {
        let state = State { location: Location::new(me, life), asked: BTreeMap::new(), tickets: 0 };
        Whereabouts { state: Mutex::new(state), roused: Condvar::new(), began: Instant::now() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    fn now(&self) -> Time {
        Time(self.began.elapsed().as_nanos() as u64 + 1)
    }

    /// Takes one step, and answers whom it answers. What is to be sent is given back, for when the lock is free.
    fn step(&self, state: &mut State, input: Input) -> Vec<(NodeId, Vec<u8>)> {
        let mut effects = vec![];
        let before = state.location.wake();
        state.location.step(self.now(), input, &mut effects);
        if state.location.wake() != before {
            self.roused.notify_one();
        }
        let mut packets = vec![];
        for effect in effects {
            match effect {
                Effect::Send { to, packet } => packets.push((to, packet)),
                Effect::Found { ticket, place, .. } => {
                    // Whoever asked may have gone.
                    let _ = state.asked.remove(&ticket).map(|asked| asked.send(place));
                }
            }
        }
        packets
    }
}

impl Inner {
    /// Something about where processes are.
    pub(super) fn whereabouts(&self, input: Input) {
        let packets = {
            let mut state = self.location.state();
            self.location.step(&mut state, input)
        };
        self.send_whereabouts(packets);
    }

    pub(super) fn send_whereabouts(&self, packets: Vec<(NodeId, Vec<u8>)>) {
        for (to, packet) in packets {
            let key = self.directory.key_of(to).filter(|key| self.wire.is_linked(*key));
            let Some(key) = key else {
                // Ends: each question asks three nodes at most.
                self.whereabouts(Input::Unreached { node: to });
                continue;
            };
            let deadline = Instant::now() + PACKET_TIMEOUT;
            let ask = Ask { service: service::LOCATION, class: Class::Call, body: &packet, deadline };
            // What is said to it comes as a packet of its own, and whether it came does not matter.
            self.wire.ask(key, ask, Box::new(drop));
        }
    }

    /// The living members, whenever that may have changed. Gives what is to be sent for it.
    pub(super) fn living_whereabouts(&self, living: &[(NodeId, u64)]) -> Vec<(NodeId, Vec<u8>)> {
        let mut state = self.location.state();
        self.location.step(&mut state, Input::Members(living))
    }

    /// What became of a process of this node.
    pub(super) fn tell_fate(&self, process: ProcessId, fate: Fate) {
        match fate {
            Fate::Started(_) => self.whereabouts(Input::Here { process, moves: 0 }),
            // How it ended is still known here, so it is still found here.
            Fate::Ended(_) => {}
            Fate::Forgotten => self.whereabouts(Input::Ended { process }),
        }
    }

    fn ask_where(&self, process: ProcessId, silent: Option<NodeId>) -> Receiver<Option<Place>> {
        let (give, get) = sync_channel(1);
        let packets = {
            let mut state = self.location.state();
            state.tickets += 1;
            let ticket = Ticket(state.tickets);
            state.asked.insert(ticket, give);
            self.location.step(&mut state, Input::Where { process, ticket, silent })
        };
        self.send_whereabouts(packets);
        get
    }
}

impl System {
    /// The node that a process is on; none if nobody knows of it. Asks others, for some seconds at most, if it is not known here: not for
    /// threads that run processes.
    pub fn locate(&self, pid: Pid) -> Option<NodeId> {
        let find = |silent| {
            let found = self.0.ask_where(pid.id(), silent).recv_timeout(FOUND_TIMEOUT);
            found.ok().flatten().map(|place| place.node)
        };
        // Who is looked after is where its claim says, whatever was lost of what was told.
        let found = find(None).or_else(|| self.0.claimed_on(pid))?;
        match found == self.0.me || self.0.directory.key_of(found).is_some_and(|key| self.0.wire.is_linked(key)) {
            true => Some(found),
            // It may have died a moment ago, and somebody have taken the process up.
            false => find(Some(found)).or(Some(found)),
        }
    }

    /// Another node looked for a process here.
    pub fn misled(&self, by: NodeId, pid: Pid) {
        self.0.whereabouts(Input::Misled { process: pid.id(), by });
    }

    /// A process is here from now on, after so many moves.
    pub fn moved_here(&self, pid: Pid, moves: u32) {
        self.0.whereabouts(Input::Here { process: pid.id(), moves });
    }

    /// A process that was here is there from now on, after so many moves, this one among them. To be said before it is forgotten here:
    /// whoever does not find it any more asks again.
    pub fn moved_away(&self, pid: Pid, to: NodeId, moves: u32) {
        self.0.whereabouts(Input::MovedAway { process: pid.id(), to, moves });
    }
}

/// The thread that looks after what was lost.
pub fn run(inner: &Arc<Inner>) {
    while !inner.is_stopping() {
        let packets = {
            let state = inner.location.state();
            let sleep = match state.location.wake() {
                Some(wake) => Duration::from_nanos(wake.since(inner.location.now())).min(PATIENCE),
                None => PATIENCE,
            };
            let waited = match sleep.is_zero() {
                true => state,
                false => {
                    inner.location.roused.wait_timeout(state, sleep).expect("nothing panics while it holds this lock").0
                }
            };
            let mut state = waited;
            match state.location.wake().is_some_and(|wake| wake <= inner.location.now()) {
                true => inner.location.step(&mut state, Input::Tick),
                false => vec![],
            }
        };
        inner.send_whereabouts(packets);
    }
}
