//! Who of those that belong to the system is alive right now, and what each says of itself. It knows no network, no clock and no
//! coordinator: packets, the time, and the list of those that belong come in; packets to send and changes come out.
//!
//! The one idea: a member that is silent is first *suspected*, and told so; only who does not answer in time is *down*. Since the
//! accused is told directly and again and again, a slow or lossy network clears itself, and a machine that is off does not.
//!
//! ```text
//!            heard of               silent, or its link broke            nobody heard it in time
//!   Unknown ──────────► Alive ──────────────────────────────► Suspect ───────────────────────────► Down
//!                         ▲               it answered            │                                   │
//!                         ├──────────────────────────────────────┘                                   │
//!                         └──────────────────────────────────────────────────────────────────────────┘
//!                                        it was alive all the time, or a later life of it is
//! ```
//!
//! The protocol is SWIM with suspicion (Das, Gupta, Motivala 2002) as the crate foca has it. Added here: only those are believed who
//! belong; the accused is told (Lifeguard's buddy system, Dadgar et al. 2017); a machine that was paused does not hold the silence
//! of that time against others; links that break are a reason to look at once; who was suspected wrongly gets more time for a while;
//! and small facts that spread with the packets. "Down" is a judgement about a silence, not a death: the same life may return.
//! Certain is only [`Change::Over`].

mod facts;
mod identity;
pub mod planted;

pub use facts::{
    ADDRESSES_MAX, Architecture, EngineHash, FACTS_BYTES_MAX, Facts, Intake, PROGRAMS_MAX, Profile, ProgramMark,
};

use abi::ids::{NodeId, NodeKey, Time};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use bytes::{Buf, BufMut};
use core::net::SocketAddr;
use core::num::{NonZeroU8, NonZeroUsize};
use core::time::Duration;
use foca::{Codec as _, Member, Message, Notification, PeriodicParams, State, Timer, TimerToken};
use identity::{Codec, Dice, ID_BYTES, INCARNATION_AT, Id};
use planted::{Bug, planted};

const MILLISECOND: u64 = 1_000_000;

/// How often a member is asked for a sign of life; each time another one.
pub const PROBE_PERIOD_NS: u64 = 100 * MILLISECOND;
/// How long its own answer is waited for before third members are asked.
const PROBE_DIRECT_NS: u64 = 40 * MILLISECOND;
/// How long a suspected member has to answer. With the probe it is more than a pause of 300 ms and less than a second.
pub const SUSPICION_NS: u64 = 400 * MILLISECOND;
/// Who has been suspected for longer than any suspicion lasts was accused by somebody who is not there any more.
const UNJUDGED_NS: u64 = 2_000 * MILLISECOND;
/// Each time that a suspicion was wrong, later ones of the same member last once more as long, up to so many times.
const MISJUDGED_MAX: u8 = 3;
/// After this time, one wrong suspicion is forgotten.
const FORGIVE_NS: u64 = 30_000 * MILLISECOND;
/// How often an accused member is told.
const NOTE_PERIOD_NS: u64 = 40 * MILLISECOND;
/// How often what is new is told to some, beside all the packets that are sent anyway.
const GOSSIP_NS: u64 = 100 * MILLISECOND;
const GOSSIP_MEMBERS: usize = 3;
/// How often some member is asked for a sample of all that it knows.
const ANNOUNCE_NS: u64 = 5_000 * MILLISECOND;
/// How often members that are not alive are spoken to, all over the system about three times for each of them.
const REACH_NS: u64 = 500 * MILLISECOND;
const REACH_MEMBERS: usize = 2;
/// How often one member is sent facts, whether they are new or not.
const SPREAD_NS: u64 = 500 * MILLISECOND;
/// Facts in one packet.
const SPREAD_FACTS: usize = 3;
/// Own facts are told again after so long though nothing changed.
const REFRESH_NS: u64 = 10_000 * MILLISECOND;
/// Own facts are not told more often than this, and in a large system so that all members together stay below one in this time.
const FACTS_GAP_NS: u64 = 1_000 * MILLISECOND;
const FACTS_GAP_PER_MEMBER_NS: u64 = 50 * MILLISECOND;
/// Who is called later than this has been paused.
const LATE_NS: u64 = 40 * MILLISECOND;
/// What a member that was paused grants itself to read what came in meanwhile, before it judges.
const CATCH_UP_NS: u64 = 40 * MILLISECOND;

/// The longest packet of the protocol proper.
const PROTOCOL_BYTES_MAX: usize = 1100;
/// The longest packet.
pub const PACKET_BYTES_MAX: usize = 2048;
/// More members than this do not belong: the rest is not looked at.
pub const MEMBERS_MAX: usize = 1 << 15;

/// Marks of a packet's form, its first byte.
const PROTOCOL: u8 = 0x10;
const ACCUSED: u8 = 0x11;
const ANSWER: u8 = 0x12;
const FACTS: u8 = 0x13;

/// A machine that belongs to the system, as the coordinator has recorded it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Belonging {
    pub node: NodeId,
    pub key: NodeKey,
    pub addresses: Vec<SocketAddr>,
    /// Earlier lives are over.
    pub life_min: u64,
}

/// What membership is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input<'a> {
    /// The time has come that [`Members::wake`] asked for. Hand in the packets that have arrived first.
    Tick,
    /// The link proved who sent it.
    Packet { from: NodeId, bytes: &'a [u8] },
    /// All that belong, in place of what was said before.
    Belong(&'a [Belonging]),
    /// There is a link to the node, which said that this is its life.
    Linked { node: NodeId, life: u64 },
    /// There is none any more.
    Unlinked { node: NodeId },
    /// What is true of this node now; handed in as often as is convenient.
    Facts(Facts),
    /// Say goodbye. Nothing is sent afterwards.
    Leave,
}

/// What membership wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It may be lost.
    Send {
        to: NodeId,
        packet: Vec<u8>,
    },
    Tell(Change),
}

/// What is different from now on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Change {
    Up {
        node: NodeId,
        life: u64,
    },
    /// It was silent and is being asked. Treat it as alive.
    Suspected {
        node: NodeId,
        life: u64,
    },
    /// It answered.
    Cleared {
        node: NodeId,
        life: u64,
    },
    /// Nobody hears it. It may be off, or cut off: the same life may be `Up` again.
    Down {
        node: NodeId,
        life: u64,
    },
    /// It said goodbye.
    Left {
        node: NodeId,
        life: u64,
    },
    /// This life has ended for certain: a later one is here, or the node belongs no more. Said once.
    Over {
        node: NodeId,
        life: u64,
    },
    /// There are newer facts of the node.
    Facts {
        node: NodeId,
    },
    /// The others had given this node up; it told them that they were wrong.
    Returned,
    /// Somebody with this node's number has a later life than this node. One of the two is a copy, or this node's count of its
    /// lives was lost.
    Usurped {
        life: u64,
    },
}

/// How a member stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Standing {
    /// It belongs; nothing was heard of it.
    Unknown,
    Alive,
    Suspect,
    Down,
    Left,
}

impl Standing {
    /// Alive as far as anyone knows.
    pub fn is_up(self) -> bool {
        matches!(self, Standing::Alive | Standing::Suspect)
    }
}

/// A member as this node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View<'a> {
    pub node: NodeId,
    pub key: NodeKey,
    /// Where the coordinator says that it is; its facts may know better.
    pub addresses: &'a [SocketAddr],
    pub standing: Standing,
    /// Of the latest life that was heard of.
    pub life: Option<u64>,
    /// When it came to stand so.
    pub since: Time,
    /// How many times it was suspected wrongly in the last minutes; it is granted the more time for it.
    pub misjudged: u8,
}

/// What went by, for `una status` and for tests.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    pub packets_sent: u64,
    pub bytes_sent: u64,
    pub packets_received: u64,
    /// Packets that were not believed.
    pub malformed: u64,
    pub strangers: u64,
    pub past_lives: u64,
    /// Times that this node was called late.
    pub late: u64,
    /// Suspicions that this node raised, and those of them that were wrong.
    pub accusations: u64,
    pub cleared: u64,
    /// Times that this node was declared down though it was not.
    pub returns: u64,
}

type Protocol = foca::Foca<Id, Codec, Dice, foca::NoCustomBroadcast>;

/// The members of one system, seen from one node.
///
/// Invariants: only nodes that belong have a record, an accusation, or facts that are kept or waiting to be told; the protocol knows
/// nobody else, but for an earlier identity of this node; a life below the floor of its record is not believed.
pub struct Members {
    protocol: Protocol,
    /// The incarnation in which the protocol speaks of us.
    incarnation: u16,
    token: TimerToken,
    agenda: Agenda,
    dice: Dice,
    records: BTreeMap<NodeId, Record>,
    accusations: BTreeMap<NodeId, Accusation>,
    own: Own,
    /// Facts that are still to be told, by how often they were.
    hot: BTreeSet<(u8, NodeId)>,
    /// The node behind which the turn of facts that are told anyway goes on.
    turn: NodeId,
    counts: Counts,
    now: Time,
    left: bool,
}

struct Record {
    key: NodeKey,
    addresses: Box<[SocketAddr]>,
    life_min: u64,
    identity: Option<Id>,
    standing: Standing,
    since: Time,
    misjudged: u8,
    facts: Option<Kept>,
}

/// Facts as they came.
struct Kept {
    life: u64,
    serial: u32,
    bytes: Box<[u8]>,
    leaving: bool,
}

struct Own {
    /// Nothing until the node has looked at itself: others take what is told for true.
    facts: Option<Facts>,
    /// What was told last.
    told: Option<Facts>,
    told_at: Time,
    serial: u32,
}

/// A suspicion that this node has raised itself, and must judge.
struct Accusation {
    id: Id,
    incarnation: u16,
}

/// What is to be done when.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Due {
    Protocol(Timer<Id>),
    Notes,
    Reach,
    Spread,
    Forgive,
}

#[derive(Default)]
struct Agenda {
    entries: BTreeMap<(Time, u64), Due>,
    serial: u64,
}

impl Agenda {
    fn add(&mut self, at: Time, due: Due) {
        self.serial += 1;
        self.entries.insert((at, self.serial), due);
    }

    fn first(&self) -> Option<Time> {
        self.entries.first_key_value().map(|((at, _), _)| *at)
    }

    fn take(&mut self, now: Time) -> Option<Due> {
        let entry = self.entries.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    /// The time in between did not count.
    fn shift(&mut self, by: u64) {
        let entries = core::mem::take(&mut self.entries);
        self.entries = entries.into_iter().map(|((at, serial), due)| ((at.after(by), serial), due)).collect();
    }
}

/// What the protocol wants, gathered during one call of it.
#[derive(Default)]
struct Gathered {
    sends: Vec<(Id, Vec<u8>)>,
    timers: Vec<(Timer<Id>, u64)>,
    touched: Vec<NodeId>,
    returned: bool,
}

impl foca::Runtime<Id> for Gathered {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        match notification {
            Notification::MemberUp(id) | Notification::MemberDown(id) | Notification::Rename(_, id) => {
                self.touched.push(id.node)
            }
            Notification::Rejoin(_) => self.returned = true,
            Notification::Active | Notification::Idle | Notification::Defunct => {}
        }
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Id>, after: Duration) {
        self.timers.push((event, after.as_nanos() as u64));
    }
}

/// Why a packet is not believed.
enum Refusal {
    Malformed,
    Stranger,
    PastLife,
}

impl From<identity::NotAPacket> for Refusal {
    fn from(_: identity::NotAPacket) -> Refusal {
        Refusal::Malformed
    }
}

impl Members {
    /// `life` is greater than that of any earlier start of this node. Entropy makes nodes choose differently; it is no secret.
    pub fn new(me: NodeId, life: u64, entropy: u64, now: Time) -> Members {
        let mut dice = Dice::new(entropy);
        let identity = Id { node: me, life, renewal: 0 };
        let protocol = Protocol::new(identity, config(1), Dice::new(dice.number()), Codec);
        let mut agenda = Agenda::default();
        // Nodes that start together do not speak together.
        let mut begin = |due, period: u64| agenda.add(now.after(dice.number() % period), due);
        begin(Due::Reach, REACH_NS / 10);
        begin(Due::Spread, SPREAD_NS);
        begin(Due::Forgive, FORGIVE_NS);
        Members {
            protocol,
            incarnation: 0,
            token: 0,
            agenda,
            dice,
            records: BTreeMap::new(),
            accusations: BTreeMap::new(),
            own: Own { facts: None, told: None, told_at: now, serial: 0 },
            hot: BTreeSet::new(),
            turn: NodeId(0),
            counts: Counts::default(),
            now,
            left: false,
        }
    }

    /// Takes one input and appends what is wanted.
    pub fn step(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        if self.left {
            return;
        }
        self.forget_pause();
        match input {
            Input::Tick => {
                while let Some(due) = self.agenda.take(self.now) {
                    self.act(due, effects);
                }
            }
            Input::Packet { from, bytes } => {
                self.counts.packets_received += 1;
                match self.read(from, bytes, effects) {
                    Ok(()) => {}
                    Err(Refusal::Malformed) => self.counts.malformed += 1,
                    Err(Refusal::Stranger) => self.counts.strangers += 1,
                    Err(Refusal::PastLife) => self.counts.past_lives += 1,
                }
            }
            Input::Belong(all) => self.belong(all, effects),
            Input::Linked { node, life } => self.linked(node, life, effects),
            Input::Unlinked { node } => self.unlinked(node, effects),
            Input::Facts(facts) => {
                self.own.facts = Some(facts);
                self.publish();
            }
            Input::Leave => self.leave(effects),
        }
    }

    /// When the next [`Input::Tick`] is due.
    pub fn wake(&self) -> Option<Time> {
        if self.left { None } else { self.agenda.first() }
    }

    pub fn me(&self) -> NodeId {
        self.protocol.identity().node
    }

    pub fn life(&self) -> u64 {
        self.protocol.identity().life
    }

    /// All that belong, but for this node itself, by number.
    pub fn all(&self) -> impl Iterator<Item = View<'_>> {
        self.records.iter().map(|(node, record)| record.view(*node))
    }

    pub fn get(&self, node: NodeId) -> Option<View<'_>> {
        self.records.get(&node).map(|record| record.view(node))
    }

    /// What a node said of itself last, and of which life; for this node, what was handed in last.
    pub fn facts(&self, node: NodeId) -> Option<(u64, Facts)> {
        if node == self.me() {
            return Some((self.life(), self.own.facts.clone()?));
        }
        let kept = self.records.get(&node)?.facts.as_ref()?;
        Some((kept.life, Facts::decode(&kept.bytes).expect("facts are read before they are kept")))
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many bytes of memory this costs, about; for the test that it is bounded.
    pub fn footprint(&self) -> usize {
        let facts = |record: &Record| record.facts.as_ref().map_or(0, |kept| kept.bytes.len());
        let records: usize = self.records.values().map(|record| size_of::<Record>() + facts(record)).sum();
        records
            + self.protocol.iter_membership_state().len() * size_of::<Member<Id>>()
            + self.protocol.updates_backlog() * (ID_BYTES + 40)
            + self.agenda.entries.len() * size_of::<(Time, u64, Due)>()
            + self.hot.len() * size_of::<(u8, NodeId)>()
            + self.accusations.len() * size_of::<Accusation>()
    }

    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        assert!(!self.records.contains_key(&self.me()), "this node is not among the others");
        let known = |node: &NodeId| self.records.contains_key(node);
        assert!(self.accusations.keys().all(known), "somebody is accused who does not belong");
        assert!(
            self.hot.iter().all(|(_, node)| known(node) || *node == self.me()),
            "facts are told of who does not belong"
        );
        assert!(self.hot.len() <= self.records.len() + 1, "facts of a node wait to be told twice");
        for member in self.protocol.iter_membership_state() {
            let id = member.id();
            if id.node == self.me() {
                continue;
            }
            let record = self.records.get(&id.node).expect("the protocol knows who does not belong");
            assert!(id.life >= record.life_min, "the protocol knows a life of {} that is over", id.node);
        }
        let protocol = self.agenda.entries.values().filter(|due| matches!(due, Due::Protocol(_))).count();
        assert!(protocol <= 8 + self.accusations.len() + self.records.len(), "timers pile up");
    }

    /// If the node was paused, the time of the pause does not count: what the others said meanwhile is still unread.
    fn forget_pause(&mut self) {
        let Some(first) = self.agenda.first() else { return };
        let late = self.now.since(first);
        if late > LATE_NS && !planted(Bug::LatenessIgnored) {
            self.counts.late += 1;
            self.agenda.shift(late + CATCH_UP_NS);
        }
    }

    fn act(&mut self, due: Due, effects: &mut Vec<Effect>) {
        match due {
            Due::Protocol(timer) => {
                if let Timer::ChangeSuspectToDown { member_id, .. } = &timer {
                    self.accusations.remove(&member_id.node);
                    if planted(Bug::NeverJudged) {
                        return;
                    }
                }
                self.run(|protocol, gathered| protocol.handle_timer(timer, gathered), effects);
            }
            Due::Notes => self.tell_accused(effects),
            Due::Reach => self.reach(effects),
            Due::Spread => self.spread(effects),
            Due::Forgive => {
                self.records.values_mut().for_each(|record| record.misjudged = record.misjudged.saturating_sub(1));
                self.agenda.add(self.now.after(FORGIVE_NS), Due::Forgive);
            }
        }
    }

    /// Lets the protocol act, and does what it wants.
    fn run(
        &mut self, act: impl FnOnce(&mut Protocol, &mut Gathered) -> Result<(), foca::Error>, effects: &mut Vec<Effect>,
    ) {
        let mut gathered = Gathered::default();
        if act(&mut self.protocol, &mut gathered).is_err() {
            self.counts.malformed += 1;
        }
        if gathered.returned {
            self.incarnation = 0;
            self.counts.returns += 1;
            effects.push(Effect::Tell(Change::Returned));
        }
        for (timer, after) in gathered.timers {
            self.schedule(timer, after);
        }
        gathered.touched.sort_unstable();
        gathered.touched.dedup();
        for node in gathered.touched {
            self.look_at(node, effects);
        }
        for (to, data) in gathered.sends {
            let incarnation = [data[INCARNATION_AT], data[INCARNATION_AT + 1]];
            self.incarnation = u16::from_be_bytes(incarnation);
            let mut packet = Vec::with_capacity(3 + data.len());
            packet.put_u8(PROTOCOL);
            packet.put_u16(data.len() as u16);
            packet.extend_from_slice(&data);
            self.add_facts(&mut packet, true);
            self.send(to.node, packet, effects);
        }
    }

    fn schedule(&mut self, timer: Timer<Id>, after: u64) {
        let after = match &timer {
            Timer::ProbeRandomMember(token) => {
                // With a new token the protocol begins anew: what it had planned means nothing to it any more, nor whom it suspected.
                if self.token != *token {
                    self.token = *token;
                    self.accusations.clear();
                    self.agenda.entries.retain(|_, due| !matches!(due, Due::Protocol(_)));
                }
                after
            }
            Timer::ChangeSuspectToDown { member_id, incarnation, .. } => {
                let Some(record) = self.records.get(&member_id.node) else { return };
                let known = self.accusations.get(&member_id.node);
                if known.is_some_and(|known| known.id == *member_id && known.incarnation == *incarnation) {
                    return;
                }
                let after = SUSPICION_NS * (1 + u64::from(record.misjudged));
                self.accuse(*member_id, *incarnation);
                after
            }
            _ => after,
        };
        self.agenda.add(self.now.after(after), Due::Protocol(timer));
    }

    fn accuse(&mut self, id: Id, incarnation: u16) {
        self.counts.accusations += 1;
        if self.accusations.is_empty() && !self.agenda.entries.values().any(|due| *due == Due::Notes) {
            self.agenda.add(self.now, Due::Notes);
        }
        self.accusations.insert(id.node, Accusation { id, incarnation });
    }

    /// Compares what the protocol knows of a node with what was told of it.
    fn look_at(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        let known = self.protocol.iter_membership_state().find(|member| member.id().node == node);
        let (Some(member), Some(record)) = (known.cloned(), self.records.get_mut(&node)) else { return };
        let mut tell = |change| effects.push(Effect::Tell(change));
        let (id, life) = (*member.id(), member.id().life);
        if let Some(earlier) = record.identity.filter(|earlier| earlier.life < life) {
            tell(Change::Over { node, life: earlier.life });
            (record.standing, record.since, record.misjudged) = (Standing::Unknown, self.now, 0);
        }
        record.identity = Some(id);
        if !planted(Bug::OldLifeReturns) {
            record.life_min = record.life_min.max(life);
        }
        let leaving = record.facts.as_ref().is_some_and(|kept| kept.leaving && kept.life == life);
        let standing = match member.state() {
            State::Alive => Standing::Alive,
            State::Suspect => Standing::Suspect,
            State::Down if leaving => Standing::Left,
            State::Down => Standing::Down,
        };
        let before = core::mem::replace(&mut record.standing, standing);
        if before == standing {
            return;
        }
        record.since = self.now;
        if standing.is_up() && !before.is_up() {
            tell(Change::Up { node, life });
            // Who has just come is told what is known.
            self.warm(self.me());
        }
        match standing {
            Standing::Suspect => tell(Change::Suspected { node, life }),
            Standing::Alive if before == Standing::Suspect => tell(Change::Cleared { node, life }),
            Standing::Down if before.is_up() => tell(Change::Down { node, life }),
            Standing::Left => tell(Change::Left { node, life }),
            _ => {}
        }
        self.resize();
    }

    /// How often news is told follows from the number of members.
    fn resize(&mut self) {
        let members = self.protocol.num_members() + 1;
        self.protocol.set_config(config(members)).expect("only what may be changed is changed");
    }

    fn read(&mut self, from: NodeId, bytes: &[u8], effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        if bytes.len() > PACKET_BYTES_MAX {
            return Err(Refusal::Malformed);
        }
        if !self.records.contains_key(&from) {
            return Err(Refusal::Stranger);
        }
        let (form, mut rest) = bytes.split_first().ok_or(Refusal::Malformed)?;
        match *form {
            PROTOCOL => {
                let length = usize::from(identity::get_u16(&mut rest)?);
                let (packet, facts) = rest.split_at_checked(length).ok_or(Refusal::Malformed)?;
                let (packet, mentioned) = self.believed(from, packet, effects)?;
                self.read_facts(facts, effects)?;
                self.run(|protocol, gathered| protocol.handle_data(&packet, gathered), effects);
                for node in mentioned {
                    self.look_at(node, effects);
                }
            }
            ACCUSED => {
                let id = identity::get_id(&mut rest)?;
                let incarnation = identity::get_u16(&mut rest)?;
                self.read_facts(rest, effects)?;
                self.refute(from, id, incarnation, effects);
            }
            ANSWER => {
                let id = identity::get_id(&mut rest)?;
                let incarnation = identity::get_u16(&mut rest)?;
                if id.node != from {
                    return Err(Refusal::Stranger);
                }
                self.believe_life(&id)?;
                self.read_facts(rest, effects)?;
                self.learn(Member::new(id, incarnation, State::Alive), effects);
            }
            FACTS => self.read_facts(rest, effects)?,
            _ => return Err(Refusal::Malformed),
        }
        Ok(())
    }

    fn believe_life(&self, id: &Id) -> Result<(), Refusal> {
        match self.records.get(&id.node) {
            Some(record) if id.life < record.life_min => Err(Refusal::PastLife),
            Some(_) => Ok(()),
            None => Err(Refusal::Stranger),
        }
    }

    /// A packet of the protocol without what it says of those that do not belong, or of lives that are over; and the nodes whose standing
    /// may have changed by it.
    fn believed(
        &mut self, from: NodeId, packet: &[u8], effects: &mut Vec<Effect>,
    ) -> Result<(Vec<u8>, Vec<NodeId>), Refusal> {
        let mut rest = packet;
        let header = Codec.decode_header(&mut rest)?;
        if header.src.node != from {
            return Err(Refusal::Stranger);
        }
        self.believe_life(&header.src)?;
        if let Message::PingReq { target: third, .. }
        | Message::IndirectPing { origin: third, .. }
        | Message::IndirectAck { target: third, .. }
        | Message::ForwardedAck { origin: third, .. } = &header.message
        {
            self.believe_life(third)?;
            if planted(Bug::NoIndirectProbes) {
                return Err(Refusal::Malformed);
            }
        }
        if header.message == Message::TurnUndead && planted(Bug::NeverReturns) {
            return Err(Refusal::Malformed);
        }
        let mut mentioned = Vec::new();
        let known = self.records.get(&from);
        if known.is_none_or(|record| record.standing != Standing::Alive || record.identity != Some(header.src)) {
            mentioned.push(from);
        }
        if rest.is_empty() {
            return Ok((packet.to_vec(), mentioned));
        }
        let mut believed = packet[..packet.len() - rest.len()].to_vec();
        let count = identity::get_u16(&mut rest)?;
        let count_at = believed.len();
        believed.put_u16(0);
        let mut kept = 0u16;
        for _ in 0..count {
            let (start, before) = (rest, rest.len());
            let member = Codec.decode_member(&mut rest)?;
            let id = *member.id();
            if id.node == self.me() {
                let own = *self.protocol.identity();
                if id.life > own.life {
                    effects.push(Effect::Tell(Change::Usurped { life: id.life }));
                }
                // What is said of an earlier identity of this node is known to be in the past.
                if id != own || (member.state() == State::Down && planted(Bug::NeverReturns)) {
                    continue;
                }
            } else if self.believe_life(&id).is_err() && !planted(Bug::StrangersBelieved) {
                continue;
            }
            let known = self.records.get(&id.node);
            if known.is_some_and(|record| {
                record.identity != Some(id) || record.standing != Standing::Alive || member.state() != State::Alive
            }) {
                mentioned.push(id.node);
            }
            believed.extend_from_slice(&start[..before - rest.len()]);
            kept += 1;
        }
        if rest.has_remaining() {
            return Err(Refusal::Malformed);
        }
        believed[count_at..count_at + 2].copy_from_slice(&kept.to_be_bytes());
        mentioned.sort_unstable();
        mentioned.dedup();
        Ok((believed, mentioned))
    }

    fn learn(&mut self, member: Member<Id>, effects: &mut Vec<Effect>) {
        let node = member.id().node;
        self.run(|protocol, gathered| protocol.apply_many(core::iter::once(member), true, gathered), effects);
        self.look_at(node, effects);
    }

    /// Somebody suspects this node, or one of its earlier identities.
    fn refute(&mut self, from: NodeId, id: Id, incarnation: u16, effects: &mut Vec<Effect>) {
        let own = *self.protocol.identity();
        if id == own && incarnation >= self.incarnation && incarnation < u16::MAX {
            let suspected = Member::new(own, incarnation, State::Suspect);
            self.run(|protocol, gathered| protocol.apply_many(core::iter::once(suspected), true, gathered), effects);
            self.incarnation = self.incarnation.max(incarnation + 1);
        }
        let packet = self.about(ANSWER, *self.protocol.identity(), self.incarnation);
        self.send(from, packet, effects);
    }

    fn about(&mut self, form: u8, id: Id, incarnation: u16) -> Vec<u8> {
        let mut packet = Vec::new();
        packet.put_u8(form);
        identity::put_id(&id, &mut packet);
        packet.put_u16(incarnation);
        packet.put_u8(0);
        packet
    }

    /// Tells those that this node suspects, until they have answered or are judged.
    fn tell_accused(&mut self, effects: &mut Vec<Effect>) {
        let open: Vec<(Id, u16)> = self.accusations.values().map(|open| (open.id, open.incarnation)).collect();
        for (id, incarnation) in open {
            let known = self.protocol.iter_membership_state().find(|member| member.id().node == id.node);
            let known = known.map(|member| (*member.id(), member.incarnation(), member.state()));
            if known == Some((id, incarnation, State::Suspect)) {
                if !planted(Bug::AccusedNotTold) {
                    let packet = self.about(ACCUSED, id, incarnation);
                    self.send(id.node, packet, effects);
                }
                continue;
            }
            self.accusations.remove(&id.node);
            let ours =
                |timer: &Timer<Id>| matches!(timer, Timer::ChangeSuspectToDown { member_id, .. } if *member_id == id);
            self.agenda.entries.retain(|_, due| !matches!(due, Due::Protocol(timer) if ours(timer)));
            if known.is_some_and(|(later, _, state)| later.life == id.life && state != State::Down)
                && let Some(record) = self.records.get_mut(&id.node)
            {
                self.counts.cleared += 1;
                record.misjudged = (record.misjudged + 1).min(MISJUDGED_MAX);
            }
            self.look_at(id.node, effects);
        }
        if !self.accusations.is_empty() {
            self.agenda.add(self.now.after(NOTE_PERIOD_NS), Due::Notes);
        }
    }

    /// Speaks to some of those that belong but are not alive.
    fn reach(&mut self, effects: &mut Vec<Effect>) {
        self.agenda.add(self.now.after(REACH_NS), Due::Reach);
        let absent: Vec<NodeId> =
            self.records.iter().filter(|(_, record)| !record.standing.is_up()).map(|(node, _)| *node).collect();
        if absent.is_empty() || planted(Bug::DownNotReached) {
            return;
        }
        // All that are alive together speak to each absent one about three times in a period, however many they are.
        let present = self.records.len() - absent.len() + 1;
        if self.dice.below(present) >= 3 * absent.len() {
            return;
        }
        let first = self.dice.below(absent.len());
        for at in 0..REACH_MEMBERS.min(absent.len()) {
            self.announce_to(absent[(first + at) % absent.len()], effects);
        }
    }

    fn announce_to(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        let known = self.records.get(&node).and_then(|record| record.identity);
        let id = known.unwrap_or(Id { node, life: 0, renewal: 0 });
        self.run(|protocol, gathered| protocol.announce(id, gathered), effects);
    }

    fn linked(&mut self, node: NodeId, life: u64, effects: &mut Vec<Effect>) {
        let Some(record) = self.records.get(&node) else { return };
        let is_known = record.standing.is_up() && record.identity.is_some_and(|id| id.life >= life);
        if !is_known && life >= record.life_min {
            self.announce_to(node, effects);
        }
    }

    /// A link that broke is a reason to suspect, as a silence is.
    fn unlinked(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        if self.records.get(&node).is_none_or(|record| record.standing != Standing::Alive) {
            return;
        }
        let known = self.protocol.iter_members().find(|member| member.id().node == node);
        let Some((id, incarnation)) = known.map(|member| (*member.id(), member.incarnation())) else { return };
        if planted(Bug::UnlinkedIsDown) {
            return self.learn(Member::new(id, incarnation, State::Down), effects);
        }
        self.learn(Member::new(id, incarnation, State::Suspect), effects);
        self.judge(id, incarnation);
    }

    /// This node sees to it that a suspicion ends one way or the other.
    fn judge(&mut self, id: Id, incarnation: u16) {
        let timer = Timer::ChangeSuspectToDown { member_id: id, incarnation, token: self.token };
        self.schedule(timer, SUSPICION_NS);
    }

    /// Takes over the suspicions whose judge has gone: it died, or was itself called down and began anew.
    fn take_over(&mut self) {
        let is_open = |node: &NodeId, record: &Record| {
            record.standing == Standing::Suspect
                && self.now.since(record.since) > UNJUDGED_NS
                && !self.accusations.contains_key(node)
        };
        let open = self.records.iter().filter(|(node, record)| is_open(node, record)).map(|(node, _)| *node);
        for node in open.collect::<Vec<_>>() {
            let known = self.protocol.iter_members().find(|member| member.id().node == node);
            if let Some(member) = known.filter(|member| member.state() == State::Suspect) {
                self.judge(*member.id(), member.incarnation());
            }
        }
    }

    fn belong(&mut self, all: &[Belonging], effects: &mut Vec<Effect>) {
        let me = self.me();
        let all = all.iter().filter(|one| one.node != me).take(MEMBERS_MAX);
        let mut gone: BTreeSet<NodeId> = self.records.keys().copied().collect();
        let mut ended = Vec::new();
        for one in all {
            gone.remove(&one.node);
            let record = self.records.entry(one.node).or_insert_with(|| Record {
                key: one.key,
                addresses: [].into(),
                life_min: one.life_min,
                identity: None,
                standing: Standing::Unknown,
                since: self.now,
                misjudged: 0,
                facts: None,
            });
            record.addresses = one.addresses.as_slice().into();
            record.life_min = record.life_min.max(one.life_min);
            if record.key != one.key {
                // The number was given to another machine: nothing that was heard before is true of it.
                (record.key, record.life_min, record.facts) = (one.key, one.life_min, None);
                ended.push(one.node);
            } else if record.identity.is_some_and(|id| id.life < record.life_min) {
                ended.push(one.node);
            }
        }
        for node in ended {
            self.end(node, effects);
        }
        for node in gone {
            if planted(Bug::RemovedIsKept) {
                continue;
            }
            self.end(node, effects);
            self.records.remove(&node);
            self.hot.retain(|(_, hot)| *hot != node);
        }
    }

    /// The life of the node that was known is over.
    fn end(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        self.accusations.remove(&node);
        self.hot.retain(|(_, hot)| *hot != node);
        if let Some(record) = self.records.get_mut(&node) {
            record.facts = None;
            if let Some(id) = record.identity.take() {
                (record.standing, record.since, record.misjudged) = (Standing::Unknown, self.now, 0);
                effects.push(Effect::Tell(Change::Over { node, life: id.life }));
            }
        }
        let known = self.protocol.iter_membership_state().find(|member| member.id().node == node);
        let Some(id) = known.map(|member| *member.id()) else { return };
        let down = Member::down(id);
        let forget = |protocol: &mut Protocol, gathered: &mut Gathered| {
            protocol.apply_many(core::iter::once(down), false, &mut *gathered)?;
            protocol.handle_timer(Timer::RemoveDown(id), &mut *gathered)
        };
        self.run(forget, effects);
        self.resize();
    }

    fn leave(&mut self, effects: &mut Vec<Effect>) {
        // That it goes must be told of one, too, that has said nothing else.
        self.own.facts.get_or_insert_with(Facts::unknown).intake = Intake::Leaving;
        self.own.told_at = Time(0);
        self.publish();
        let up: Vec<NodeId> =
            self.records.iter().filter(|(_, record)| record.standing.is_up()).map(|(node, _)| *node).collect();
        // In a small system all are told, in a large one enough to tell the others.
        for at in 0..up.len().min(8) {
            let stride = up.len().div_ceil(8);
            self.send_facts(up[at * stride % up.len()], effects);
        }
        self.run(|protocol, gathered| protocol.leave_cluster(gathered), effects);
        self.left = true;
    }

    // Facts.

    /// Tells the own facts if they are worth it.
    fn publish(&mut self) {
        let unseen = planted(Bug::UnseenTold).then(Facts::unknown);
        let Some(facts) = self.own.facts.as_ref().or(unseen.as_ref()) else { return };
        let since = self.now.since(self.own.told_at);
        let is_leaving = facts.intake == Intake::Leaving;
        let gap = FACTS_GAP_NS.max(FACTS_GAP_PER_MEMBER_NS * self.records.len() as u64);
        let is_worth = self.own.told.as_ref().is_none_or(|told| {
            let draining = told.intake != facts.intake;
            draining || is_leaving || since >= REFRESH_NS.max(gap) || since >= gap && told.differs_enough(facts)
        });
        if is_worth {
            self.own.told = Some(facts.clone());
            self.own.told_at = self.now;
            self.own.serial += 1;
            self.warm(self.me());
        }
    }

    /// The facts of the node are to be told from now on.
    fn warm(&mut self, node: NodeId) {
        self.hot.retain(|(_, hot)| *hot != node);
        self.hot.insert((0, node));
    }

    fn read_facts(&mut self, mut bytes: &[u8], effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        let buf = &mut bytes;
        if !buf.has_remaining() {
            return Err(Refusal::Malformed);
        }
        for _ in 0..buf.get_u8() {
            if buf.remaining() < 16 {
                return Err(Refusal::Malformed);
            }
            let (node, life, serial) = (NodeId(buf.get_u16()), buf.get_u64(), buf.get_u32());
            let length = usize::from(buf.get_u16());
            let (facts, rest) = buf.split_at_checked(length).ok_or(Refusal::Malformed)?;
            *buf = rest;
            self.keep_facts(node, life, serial, facts, effects)?;
        }
        if buf.has_remaining() { Err(Refusal::Malformed) } else { Ok(()) }
    }

    fn keep_facts(
        &mut self, node: NodeId, life: u64, serial: u32, bytes: &[u8], effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let facts = Facts::decode(bytes).map_err(|_| Refusal::Malformed)?;
        let Some(record) = self.records.get_mut(&node) else { return Ok(()) };
        let kept = record.facts.as_ref().map_or((0, 0), |kept| (kept.life, kept.serial));
        if life < record.life_min
            || (kept >= (life, serial) && !planted(Bug::OlderFactsReplace))
            || kept == (life, serial)
        {
            return Ok(());
        }
        let leaving = facts.intake == Intake::Leaving;
        record.facts = Some(Kept { life, serial, bytes: bytes.into(), leaving });
        effects.push(Effect::Tell(Change::Facts { node }));
        if !planted(Bug::FactsToldOnce) {
            self.warm(node);
        }
        if leaving
            && let Some(id) = self.records.get(&node).and_then(|record| record.identity)
            && id.life == life
        {
            self.learn(Member::down(id), effects);
        }
        Ok(())
    }

    /// Appends facts to a packet: the new ones that were told least, and if the packet has no other purpose, some of all in turn.
    fn add_facts(&mut self, packet: &mut Vec<u8>, only_hot: bool) {
        let tell_max = if planted(Bug::FactsToldOnce) { 1 } else { 2 + 2 * bits(self.records.len() + 1) };
        let mut chosen: Vec<NodeId> = Vec::new();
        let count_at = packet.len();
        packet.put_u8(0);
        for (told, node) in self.hot.iter().take(SPREAD_FACTS).copied().collect::<Vec<_>>() {
            if !self.put_facts(packet, node) {
                break;
            }
            self.hot.remove(&(told, node));
            if told + 1 < tell_max {
                self.hot.insert((told + 1, node));
            }
            chosen.push(node);
        }
        if !only_hot && !planted(Bug::FactsToldOnce) {
            let after = self.records.range((core::ops::Bound::Excluded(self.turn), core::ops::Bound::Unbounded));
            let next: Vec<NodeId> = after
                .chain(self.records.iter())
                .map(|(node, _)| *node)
                .take(SPREAD_FACTS)
                .filter(|node| !chosen.contains(node))
                .collect();
            for node in next {
                self.turn = node;
                if self.put_facts(packet, node) {
                    chosen.push(node);
                }
            }
            let me = self.me();
            if !chosen.contains(&me) && self.put_facts(packet, me) {
                chosen.push(me);
            }
        }
        chosen.sort_unstable();
        packet[count_at] = chosen.len() as u8;
    }

    /// False if they do not fit, or there are none.
    fn put_facts(&self, packet: &mut Vec<u8>, node: NodeId) -> bool {
        let own;
        let (life, serial, bytes): (u64, u32, &[u8]) = if node == self.me() {
            let Some(told) = &self.own.told else { return false };
            own = told.encode();
            (self.life(), self.own.serial, &own)
        } else {
            let Some(kept) = self.records.get(&node).and_then(|record| record.facts.as_ref()) else { return false };
            (kept.life, kept.serial, &kept.bytes)
        };
        if packet.len() + 16 + bytes.len() > PACKET_BYTES_MAX {
            return false;
        }
        packet.put_u16(node.0);
        packet.put_u64(life);
        packet.put_u32(serial);
        packet.put_u16(bytes.len() as u16);
        packet.extend_from_slice(bytes);
        true
    }

    fn spread(&mut self, effects: &mut Vec<Effect>) {
        self.agenda.add(self.now.after(SPREAD_NS), Due::Spread);
        self.take_over();
        self.publish();
        let up = self.records.iter().filter(|(_, record)| record.standing.is_up()).map(|(node, _)| *node);
        let up: Vec<NodeId> = up.collect();
        if !up.is_empty() {
            let to = up[self.dice.below(up.len())];
            self.send_facts(to, effects);
        }
    }

    fn send_facts(&mut self, to: NodeId, effects: &mut Vec<Effect>) {
        let mut packet = Vec::new();
        packet.put_u8(FACTS);
        self.add_facts(&mut packet, false);
        self.send(to, packet, effects);
    }

    fn send(&mut self, to: NodeId, packet: Vec<u8>, effects: &mut Vec<Effect>) {
        assert!(packet.len() <= PACKET_BYTES_MAX, "packets are filled with a look at their bound");
        self.counts.packets_sent += 1;
        self.counts.bytes_sent += packet.len() as u64;
        effects.push(Effect::Send { to, packet });
    }
}

impl Record {
    fn view(&self, node: NodeId) -> View<'_> {
        View {
            node,
            key: self.key,
            addresses: &self.addresses,
            standing: self.standing,
            life: self.identity.map(|id| id.life),
            since: self.since,
            misjudged: self.misjudged,
        }
    }
}

/// How many bits a number has: the rounds in which news reaches so many.
fn bits(members: usize) -> u8 {
    (usize::BITS - members.leading_zeros()) as u8
}

fn config(members: usize) -> foca::Config {
    let periodic = |frequency, members| {
        let num_members = NonZeroUsize::new(members).expect("it is a constant that is not zero");
        Some(PeriodicParams { frequency: Duration::from_nanos(frequency), num_members })
    };
    foca::Config {
        probe_period: Duration::from_nanos(PROBE_PERIOD_NS),
        probe_rtt: Duration::from_nanos(PROBE_DIRECT_NS),
        num_indirect_probes: NonZeroUsize::new(3).expect("three is not zero"),
        max_transmissions: NonZeroU8::new(6 + bits(members)).expect("six and more is not zero"),
        suspect_to_down_after: Duration::from_nanos(SUSPICION_NS),
        // Who is down is remembered as long as it belongs: that is what bounds the memory.
        remove_down_after: None,
        max_packet_size: NonZeroUsize::new(PROTOCOL_BYTES_MAX).expect("it is a constant that is not zero"),
        notify_down_members: true,
        periodic_announce: periodic(ANNOUNCE_NS, 1),
        // `Members::reach` does it, also for those that were never heard of, and at a rate that does not grow.
        periodic_announce_to_down_members: None,
        periodic_gossip: periodic(GOSSIP_NS, GOSSIP_MEMBERS),
    }
}
