//! Moving the facts from one coordinator to another, so that at every moment exactly one of them takes changes. It does not know
//! how either keeps them.
//!
//! The one idea: one key is a fence. While it is there, both implementations refuse every transaction that does not itself ask
//! for it, and the one transaction that turns the fence of the old one from "is being moved" into "has moved" is the switch.
//!
//! ```text
//!                       the old one                          the new one
//!   1 the fence goes up moving 7, with a lease: refuses      empty
//!   2 it is filled      refuses                              filling 7: refuses
//!   3 it is compared    refuses                              refuses
//!   4 the switch        moved 7 to ...: refuses for ever     refuses, until somebody comes from the old one
//!   5 it is opened      refuses                              takes changes
//! ```
//! Who moves may stop anywhere. Before 4 the lease ends, and the old one takes changes again; after it, whoever is told
//! [`Failure::Moved`] by the old one opens the new one with [`follow`].
//!
//! **Back again.** Where the facts once were, there are old ones behind a fence that says where they went. While new ones are filled in,
//! the fence goes on saying that too: who begins to ask there must find the facts, and the move may come to nothing. Nobody reads or
//! watches what is behind it.
//!
//! **Leases** keep their numbers, if they have keys. Holders renew theirs at the old one until the switch, whoever moves the facts renews
//! them at the new one, and whoever opens that renews each once more before, which is after all that any holder can have renewed at the
//! old one. A lease that has ended at the new one meanwhile is waited for, as long as a holder can still believe in it. Revisions begin
//! anew.

use super::planted::{Bug, planted};
use super::{
    ACTIONS_MAX, Action, Compare, Coordinator, Failure, KeyRange, LeaseAct, LeaseId, Order, Range, Record,
    TRANSACTION_BYTES_MAX, Transaction, VALUE_BYTES_MAX, With, waited,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// The key that stops all who do not ask for it. It lies before all others.
pub const FENCE: &[u8] = b"\0fence";
/// The key that says which move filled this store last, and which leases it brought. It is put when the filling begins, and again behind
/// all that is filled in, so that its revision tells what was filled in from what came later.
pub const FILLED: &[u8] = b"\0filled";

/// What the fence says. In the store it is text: `moving ID`, `filling ID`, `filling ID was ID TO`, `moved ID TO`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fence {
    /// The facts here are being copied.
    Moving { id: u64 },
    /// Facts are being copied to here. They were here before, and left in that move for that place.
    Filling { id: u64, was: Option<(u64, String)> },
    /// They are there now.
    Moved { id: u64, to: String },
    /// Nothing that this una knows.
    Foreign,
}

impl Fence {
    pub fn of(record: &Record) -> Fence {
        let text = String::from_utf8_lossy(&record.value);
        let mut words = text.splitn(3, ' ');
        let kind = words.next();
        let id = words.next().and_then(|id| id.parse().ok());
        match (kind, id, words.next()) {
            (Some("moving"), Some(id), None) => Fence::Moving { id },
            (Some("filling"), Some(id), None) => Fence::Filling { id, was: None },
            (Some("filling"), Some(id), Some(rest)) => match left(rest) {
                Some(was) => Fence::Filling { id, was: Some(was) },
                None => Fence::Foreign,
            },
            (Some("moved"), Some(id), Some(to)) => Fence::Moved { id, to: to.into() },
            _ => Fence::Foreign,
        }
    }

    pub fn text(&self) -> String {
        match self {
            Fence::Moving { id } => format!("moving {id}"),
            Fence::Filling { id, was: None } => format!("filling {id}"),
            Fence::Filling { id, was: Some((left, to)) } => format!("filling {id} was {left} {to}"),
            Fence::Moved { id, to } => format!("moved {id} {to}"),
            Fence::Foreign => "foreign".into(),
        }
    }

    /// What who stops at it is told.
    pub fn refusal(&self) -> Failure {
        match self {
            Fence::Moving { .. } => Failure::unavailable("the facts are being moved to another coordinator"),
            Fence::Filling { was: None, .. } => Failure::unavailable("the facts are still being moved here"),
            // They are where they went, until the move back is done; then that one says so.
            Fence::Filling { was: Some((id, to)), .. } | Fence::Moved { id, to } => {
                Failure::Moved { to: to.clone(), id: *id }
            }
            Fence::Foreign => Failure::unavailable("there is a fence that this una does not know"),
        }
    }

    /// Whether what is behind it is not what is true now.
    pub fn hides(&self) -> bool {
        !matches!(self, Fence::Moving { .. })
    }
}

/// The rest of a fence: `was ID TO`.
fn left(rest: &str) -> Option<(u64, String)> {
    let (id, to) = rest.strip_prefix("was ")?.split_once(' ')?;
    Some((id.parse().ok()?, to.into()))
}

/// How long the old one refuses changes after whoever moved it has died.
const LEASE: Duration = Duration::from_secs(20);
/// How often that lease is renewed.
const RENEW_AFTER: Duration = Duration::from_secs(5);
/// How long one step waits.
const STEP_WAIT: Duration = Duration::from_secs(15);
/// How long whoever opens the new one waits at most for a lease that has ended there. Before the switch its last renewal there was not
/// longer ago than the fence's lease lasts, give or take what a change of leaders adds to that.
const ENDED_WAIT: Duration = Duration::from_secs(60);

/// What has just been done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Fenced,
    Emptied,
    /// So many keys are there.
    Copied {
        keys: u64,
    },
    Compared {
        keys: u64,
    },
    Switched,
    Opened,
}

/// How many keys were moved, as which move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    pub id: u64,
    /// `None`: they were there already.
    pub keys: Option<u64>,
}

/// Moves all facts. `name` is what clients of the old one are told: where the new one is. After each step `step` is told, and may
/// stop it by a failure. Called again, it goes on, or says that it was done.
pub fn move_to(
    from: &dyn Coordinator, to: &dyn Coordinator, name: &str, step: &mut dyn FnMut(Step) -> Result<(), Failure>,
) -> Result<Move, Failure> {
    match fence_of(from)? {
        // Another time it was stopped after the switch.
        Some(Fence::Moved { id, to: moved }) if moved == name => {
            follow(to, id)?;
            step(Step::Opened)?;
            return Ok(Move { id, keys: None });
        }
        Some(fence) => return Err(fence.refusal()),
        None => {}
    }
    // What cannot be reached is found out before anybody has to wait.
    fence_of(to)?;
    let lease = from.grant(LEASE, soon())?;
    let carried = Carried { id: lease.0, ..Carried::default() };
    let moving = Moving { from, to, id: lease.0, lease, renewed: Instant::now(), carried };
    let result = moving.run(name, step);
    let is_done = matches!(result, Ok(Move { keys: Some(_), .. }));
    if !is_done && !matches!(result, Err(Failure::Moved { .. } | Failure::Unknown { .. })) {
        // The old one need not wait for the end of the lease. If this fails, it waits.
        let fence = moving_fence(lease.0);
        let _ = from.transact(Transaction::of(vec![Action::delete(FENCE)]).when(Compare::value(FENCE, fence)), soon());
        let _ = from.revoke(lease, soon());
    }
    result
}

/// Opens the new one, for who was told by the old one that the facts have moved there in this move. It may be open already. That they have
/// moved on is [`Failure::Moved`].
pub fn follow(to: &dyn Coordinator, id: u64) -> Result<(), Failure> {
    let (fence, filled) = behind(to)?;
    match &fence {
        Some(there @ Fence::Filling { id: filling, .. }) if *filling == id => open(to, id, there, filled),
        // It was opened, and somebody has begun to move the facts away again.
        None | Some(Fence::Moving { .. }) => Ok(()),
        Some(fence) => Err(fence.refusal()),
    }
}

/// Renews all leases that came along, and takes the fence away.
fn open(to: &dyn Coordinator, id: u64, fence: &Fence, filled: Option<Record>) -> Result<(), Failure> {
    let mut carried = Carried { id, ..Carried::default() };
    if let Some(filled) = filled {
        carried.read(&filled.value)?;
    }
    // Until then a holder of a lease that has ended here may believe in it.
    let mut until = Instant::now();
    loop {
        if !planted(Bug::MoveForgetsLeases)
            && let Some(ended) = carried.renew_all(to)?
        {
            until = until.max(Instant::now() + ended.min(ENDED_WAIT));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let shortest = carried.leases.values().map(|lease| lease.ttl / 3).min().unwrap_or(left);
        std::thread::sleep(left.min(shortest));
    }
    let text = fence.text();
    again(|| to.transact(Transaction::of(vec![Action::delete(FENCE)]).when(Compare::value(FENCE, &text)), soon()))?;
    // Somebody else may have opened it, too; or found that this move came to nothing, which the old one would have said.
    match fence_of(to)? {
        None | Some(Fence::Moving { .. }) => Ok(()),
        Some(fence) => Err(fence.refusal()),
    }
}

/// Whether somebody is moving the facts away from there at the moment.
pub fn is_moving(it: &dyn Coordinator) -> Result<bool, Failure> {
    Ok(matches!(fence_of(it)?, Some(Fence::Moving { .. })))
}

/// Where the facts are, as one says that once had them: `None` if it has them now.
pub fn left_for(it: &dyn Coordinator) -> Result<Option<(u64, String)>, Failure> {
    match fence_of(it)? {
        None | Some(Fence::Moving { .. }) => Ok(None),
        Some(Fence::Moved { id, to } | Fence::Filling { was: Some((id, to)), .. }) => Ok(Some((id, to))),
        Some(fence) => Err(fence.refusal()),
    }
}

/// Has one that once had the facts say where they are now, so that who begins to ask there does not depend on places in between.
pub fn redirect(it: &dyn Coordinator, to: &str, id: u64) -> Result<(), Failure> {
    let fence = match fence_of(it)? {
        Some(fence @ (Fence::Moved { .. } | Fence::Filling { was: Some(_), .. })) => fence,
        _ => return Ok(()),
    };
    let moved = Fence::Moved { id, to: to.into() };
    if fence == moved {
        return Ok(());
    }
    let point = Transaction::of(vec![Action::put(FENCE, moved.text())]).when(Compare::value(FENCE, fence.text()));
    again(|| it.transact(point.clone(), soon())).map(drop)
}

fn soon() -> Instant {
    Instant::now() + STEP_WAIT
}

fn moving_fence(id: u64) -> String {
    Fence::Moving { id }.text()
}

/// Does again what can be done twice, if nobody knows whether it was done.
fn again<T>(act: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut result = act();
    for _ in 0..5 {
        if !matches!(result, Err(Failure::Unknown { .. })) {
            break;
        }
        result = act();
    }
    result
}

/// The fence, even of one that has moved: whoever asks for it in a comparison is let through.
fn fence_of(it: &dyn Coordinator) -> Result<Option<Fence>, Failure> {
    let look = Transaction::new().when(Compare::exists(FENCE)).then(Action::get(FENCE));
    let committed = again(|| it.transact(look.clone(), soon()))?;
    Ok(committed.found(0).and_then(|found| found.records.first()).map(Fence::of))
}

/// The fence, and what is known of the last filling, as they are at one moment.
fn behind(it: &dyn Coordinator) -> Result<(Option<Fence>, Option<Record>), Failure> {
    let look = Transaction::new().when(Compare::exists(FENCE)).then(Action::get(FENCE)).then(Action::get(FILLED));
    let committed = again(|| it.transact(look.clone(), soon()))?;
    let first = |action| committed.found(action).and_then(|found| found.records.first()).cloned();
    Ok((first(0).as_ref().map(Fence::of), first(1)))
}

/// Records, and where to go on behind them.
type Page = (Vec<Record>, Option<Vec<u8>>);

/// The records from a key on, but for those that moving itself keeps, behind a fence that says this.
fn page(it: &dyn Coordinator, fence: &str, after: &[u8]) -> Result<Page, Failure> {
    let mut range = Range::of(KeyRange { from: after.into(), to: None });
    let committed = loop {
        let look = Transaction::new().when(Compare::value(FENCE, fence)).then(Action::Get(range.clone()));
        match again(|| it.transact(look.clone(), soon())) {
            // Fewer at once, then.
            Err(Failure::TooLarge { .. }) if range.limit != 1 => {
                range.limit = if range.limit == 0 { PAGE_RECORDS } else { (range.limit / 4).max(1) };
            }
            other => break other?,
        }
    };
    let Some(found) = committed.found(0).filter(|_| committed.succeeded) else {
        return Err(Failure::unavailable("moving took longer than its lease: try again"));
    };
    let next = found.more.then(|| found.records.last().map(|record| [&record.key, &[0][..]].concat())).flatten();
    let facts = found.records.iter().filter(|record| ![FENCE, FILLED].contains(&&*record.key));
    Ok((facts.cloned().collect(), next))
}

/// Records that are asked for at once, after all that fit were too many.
const PAGE_RECORDS: usize = 64;

/// A lease that is at the new one too.
#[derive(Clone, Copy)]
struct Along {
    ttl: Duration,
    /// When it was asked for that its time begin anew there.
    renewed: Instant,
}

/// Leases that a move brings along.
#[derive(Default)]
struct Carried {
    id: u64,
    leases: BTreeMap<LeaseId, Along>,
}

impl Carried {
    /// As it is written down beside what is filled in: the move, then a lease and its milliseconds in each line.
    fn text(&self) -> Result<String, Failure> {
        let mut text = format!("{}\n", self.id);
        for (lease, along) in &self.leases {
            writeln!(text, "{} {}", lease.0, along.ttl.as_millis()).expect("memory takes all");
        }
        if text.len() > VALUE_BYTES_MAX {
            let what = "bytes of leases that are moved".into();
            return Err(Failure::TooLarge { what, size: text.len(), size_max: VALUE_BYTES_MAX });
        }
        Ok(text)
    }

    fn read(&mut self, text: &[u8]) -> Result<(), Failure> {
        let strange = || Failure::unavailable("what was written down of the move cannot be read: move the facts again");
        let text = std::str::from_utf8(text).map_err(|_| strange())?;
        let mut lines = text.lines();
        if lines.next().and_then(|id| id.parse().ok()) != Some(self.id) {
            return Err(strange());
        }
        let renewed = Instant::now();
        for line in lines {
            let (lease, ttl_ms) = line.split_once(' ').ok_or_else(strange)?;
            let (lease, ttl_ms) = (lease.parse().map_err(|_| strange())?, ttl_ms.parse().map_err(|_| strange())?);
            self.leases.insert(LeaseId(lease), Along { ttl: Duration::from_millis(ttl_ms), renewed });
        }
        Ok(())
    }

    /// Gives all of them their whole time anew, and forgets those that have ended. Gives the longest time of such a one.
    fn renew_all(&mut self, to: &dyn Coordinator) -> Result<Option<Duration>, Failure> {
        self.renew(to, |_| true)
    }

    /// The same for those for which it is time.
    fn renew_due(&mut self, to: &dyn Coordinator) -> Result<Option<Duration>, Failure> {
        self.renew(to, |along| along.renewed.elapsed() > (along.ttl / 3).min(RENEW_AFTER))
    }

    fn renew(&mut self, to: &dyn Coordinator, is_due: fn(&Along) -> bool) -> Result<Option<Duration>, Failure> {
        let mut ended: Vec<(LeaseId, Duration)> = vec![];
        for (lease, along) in self.leases.iter_mut().filter(|(_, along)| is_due(along)) {
            let asked = Instant::now();
            match carry(to, *lease, self.id) {
                Ok(()) => along.renewed = asked,
                Err(Failure::NoLease { .. }) => ended.push((*lease, along.ttl)),
                Err(failure) => return Err(failure),
            }
        }
        for (lease, _) in &ended {
            self.leases.remove(lease);
        }
        Ok(ended.iter().map(|(_, ttl)| *ttl).max())
    }
}

/// Renews a lease behind the fence of a move.
fn carry(to: &dyn Coordinator, lease: LeaseId, id: u64) -> Result<(), Failure> {
    again(|| waited(|done| to.lease(LeaseAct::Carry { lease, id }, soon(), done))).map(drop)
}

struct Moving<'a> {
    from: &'a dyn Coordinator,
    to: &'a dyn Coordinator,
    id: u64,
    lease: LeaseId,
    renewed: Instant,
    carried: Carried,
}

/// What became of the new one when it was looked at.
enum Emptied {
    /// It can be filled, and its fence says this.
    Ready(Fence),
    /// It is the old one.
    Same,
}

impl Moving<'_> {
    fn run(mut self, name: &str, step: &mut dyn FnMut(Step) -> Result<(), Failure>) -> Result<Move, Failure> {
        let id = self.id;
        let moving = moving_fence(id);
        let up = Transaction::new()
            .when(Compare::missing(FENCE))
            .then(Action::put_leased(FENCE, &moving, self.lease))
            .otherwise(Action::get(FENCE));
        let up = again(|| self.from.transact(up.clone(), soon()))?;
        if !up.succeeded {
            match up.found(0).and_then(|found| found.records.first()).map(Fence::of) {
                // It is up: the first answer was lost.
                Some(Fence::Moving { id: there }) if there == id => {}
                Some(fence) => return Err(fence.refusal()),
                None => return Err(Failure::unavailable("the fence went away")),
            }
        }
        step(Step::Fenced)?;
        let Emptied::Ready(fence) = self.empty()? else {
            return Ok(Move { id, keys: None });
        };
        let fence = fence.text();
        step(Step::Emptied)?;
        let keys = self.copy(&fence)?;
        step(Step::Copied { keys })?;
        self.compare(&fence)?;
        step(Step::Compared { keys })?;
        // From here on whoever comes from the old one can go on without us.
        let leases = self.carried.text()?;
        self.fill(&fence, vec![Action::put(FILLED, leases)])?;
        self.renew()?;
        self.switch(name)?;
        step(Step::Switched)?;
        follow(self.to, id)?;
        step(Step::Opened)?;
        Ok(Move { id, keys: Some(keys) })
    }

    /// Renews what it is time for: first the leases that came along, then that of the fence. So while the fence is up, they are.
    fn renew(&mut self) -> Result<(), Failure> {
        if self.carried.renew_due(self.to)?.is_some() {
            return Err(Failure::unavailable("moving took longer than a lease that was moved: try again"));
        }
        if self.renewed.elapsed() > RENEW_AFTER {
            let asked = Instant::now();
            self.from.keep_alive(self.lease, soon())?;
            self.renewed = asked;
        }
        Ok(())
    }

    /// Puts a fence around the new one, and removes what an earlier move, or an earlier time, left there.
    fn empty(&mut self) -> Result<Emptied, Failure> {
        let there = fence_of(self.to)?;
        let (was, order) = match &there {
            // The fence that we put around the old one.
            Some(Fence::Moving { id }) if *id == self.id => return Ok(Emptied::Same),
            None => {
                if !self.to.range(Range::of(KeyRange::all()).limit(1), soon())?.records.is_empty() {
                    return Err(Failure::Refused {
                        why: "there are facts at the new coordinator already: name an empty one".into(),
                    });
                }
                (None, Compare::missing(FENCE))
            }
            // It never was opened, and whoever filled it finds another fence now.
            Some(fence @ Fence::Filling { was, .. }) => (was.clone(), Compare::value(FENCE, fence.text())),
            // They were there before, and come back.
            Some(fence @ Fence::Moved { id, to }) => (Some((*id, to.clone())), Compare::value(FENCE, fence.text())),
            Some(fence) => return Err(fence.refusal()),
        };
        let filling = Fence::Filling { id: self.id, was };
        let fence = Transaction::new()
            .when(order)
            .then(Action::put(FENCE, filling.text()))
            .then(Action::put(FILLED, self.carried.text()?))
            .otherwise(Action::get(FENCE));
        let done = again(|| self.to.transact(fence.clone(), soon()))?;
        if !done.succeeded && fence_of(self.to)?.as_ref() != Some(&filling) {
            return Err(Failure::unavailable("somebody else has begun to use the new coordinator"));
        }
        let after = |key: &[u8]| [key, &[0]].concat();
        for keys in [
            KeyRange::between([0], FENCE),
            KeyRange::between(after(FENCE), FILLED),
            KeyRange { from: after(FILLED).into(), to: None },
        ] {
            self.renew()?;
            self.fill(&filling.text(), vec![Action::Delete(keys)])?;
        }
        Ok(Emptied::Ready(filling))
    }

    /// Does something at the new one, that can be done twice.
    fn fill(&self, fence: &str, actions: Vec<Action>) -> Result<(), Failure> {
        let transaction = Transaction::of(actions).when(Compare::value(FENCE, fence));
        match again(|| self.to.transact(transaction.clone(), soon()))?.succeeded {
            true => Ok(()),
            false => Err(Failure::unavailable("somebody else has begun to fill the new coordinator")),
        }
    }

    fn copy(&mut self, fence: &str) -> Result<u64, Failure> {
        let mut ended: BTreeSet<LeaseId> = BTreeSet::new();
        let mut keys = 0;
        let mut next = Some(vec![0]);
        while let Some(after) = next {
            let (records, more) = page(self.from, &moving_fence(self.id), &after)?;
            let (mut batch, mut bytes) = (vec![], 0);
            for record in records {
                self.renew()?;
                if let Some(lease) = record.lease
                    && !self.carried.leases.contains_key(&lease)
                    && !ended.contains(&lease)
                    && !self.copy_lease(lease)?
                {
                    ended.insert(lease);
                }
                // A lease that ended a moment ago takes its keys along.
                if record.lease.is_some_and(|lease| ended.contains(&lease)) {
                    continue;
                }
                let size = record.key.len() + record.value.len();
                if batch.len() + 1 >= ACTIONS_MAX || bytes + size > TRANSACTION_BYTES_MAX / 2 {
                    self.fill(fence, std::mem::take(&mut batch))?;
                    bytes = 0;
                }
                bytes += size;
                keys += 1;
                batch.push(Action::Put { key: record.key, value: record.value, lease: record.lease });
            }
            if !batch.is_empty() {
                self.fill(fence, batch)?;
            }
            next = more;
        }
        Ok(keys)
    }

    /// Makes the same lease at the new one. Says whether it is still there at the old one.
    fn copy_lease(&mut self, lease: LeaseId) -> Result<bool, Failure> {
        let ttl = match self.from.keep_alive(lease, soon()) {
            Ok(ttl) => ttl,
            Err(Failure::NoLease { .. }) => return Ok(false),
            Err(failure) => return Err(failure),
        };
        let renewed = Instant::now();
        let grant = || waited(|done| self.to.lease(LeaseAct::Grant { ttl, id: Some(lease) }, soon(), done));
        let mut granted = again(grant).map(drop);
        if matches!(granted, Err(Failure::LeaseTaken { .. })) {
            // Of an earlier try, or of the time when the facts were here before: it may be about to end.
            granted = match carry(self.to, lease, self.id) {
                Err(Failure::NoLease { .. }) => again(grant).map(drop),
                other => other,
            };
        }
        granted?;
        self.carried.leases.insert(lease, Along { ttl, renewed });
        Ok(true)
    }

    /// Whether the new one has what the old one has, and nothing else.
    fn compare(&mut self, fence: &str) -> Result<(), Failure> {
        let moving = moving_fence(self.id);
        let (mut old, mut new) = (Pages::new(self.from, &moving), Pages::new(self.to, fence));
        loop {
            self.renew()?;
            let (ours, theirs) = (old.next()?, new.next()?);
            let is_same = match (&ours, &theirs) {
                (None, None) => return Ok(()),
                (Some(ours), Some(theirs)) => {
                    (&ours.key, &ours.value, ours.lease) == (&theirs.key, &theirs.value, theirs.lease)
                }
                _ => false,
            };
            if !is_same {
                let what = ours.or(theirs).map_or_else(String::new, |record| record.key.escape_ascii().to_string());
                return Err(Failure::unavailable(format!("the copy is not the same at {what}: try again")));
            }
        }
    }

    fn switch(&mut self, name: &str) -> Result<(), Failure> {
        let moved = Fence::Moved { id: self.id, to: name.into() };
        let switch = Transaction::of(vec![Action::put(FENCE, moved.text())])
            .when(Compare::value(FENCE, moving_fence(self.id)))
            .when(Compare::new(FENCE, Order::Equal, With::Lease(Some(self.lease))));
        let result = self.from.transact(switch, soon());
        if result.as_ref().is_ok_and(|committed| committed.succeeded) {
            return Ok(());
        }
        // Not known, or not done: the fence says which. It may be asked until it answers, for nobody else changes it.
        match fence_of(self.from) {
            Ok(Some(fence)) if fence == moved => Ok(()),
            Ok(_) => Err(Failure::unavailable(
                "moving took longer than its lease, and the old coordinator goes on: try again",
            )),
            Err(_) => {
                Err(Failure::unknown("whether the facts have moved is not known: move them again, and it will be"))
            }
        }
    }
}

/// Record after record.
struct Pages<'a> {
    it: &'a dyn Coordinator,
    fence: &'a str,
    page: std::vec::IntoIter<Record>,
    next: Option<Vec<u8>>,
}

impl<'a> Pages<'a> {
    fn new(it: &'a dyn Coordinator, fence: &'a str) -> Pages<'a> {
        Pages { it, fence, page: vec![].into_iter(), next: Some(vec![0]) }
    }

    fn next(&mut self) -> Result<Option<Record>, Failure> {
        loop {
            if let Some(record) = self.page.next() {
                return Ok(Some(record));
            }
            let Some(next) = self.next.take() else {
                return Ok(None);
            };
            let (records, more) = page(self.it, self.fence, &next)?;
            self.page = records.into_iter();
            self.next = more;
        }
    }
}
