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
//! Revisions begin anew. Leases keep their numbers, if they have keys.

use super::{
    ACTIONS_MAX, Action, Compare, Coordinator, Failure, KeyRange, LeaseAct, LeaseId, Order, Range, Record,
    TRANSACTION_BYTES_MAX, Transaction, With, waited,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The key that stops all who do not ask for it. It lies before all others.
pub const FENCE: &[u8] = b"\0fence";

/// What the fence says. In the store it is text: `moving ID`, `filling ID`, `moved ID TO`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fence {
    /// The facts here are being copied.
    Moving { id: u64 },
    /// Facts are being copied to here.
    Filling { id: u64 },
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
            (Some("filling"), Some(id), None) => Fence::Filling { id },
            (Some("moved"), Some(id), Some(to)) => Fence::Moved { id, to: to.into() },
            _ => Fence::Foreign,
        }
    }

    pub fn text(&self) -> String {
        match self {
            Fence::Moving { id } => format!("moving {id}"),
            Fence::Filling { id } => format!("filling {id}"),
            Fence::Moved { id, to } => format!("moved {id} {to}"),
            Fence::Foreign => "foreign".into(),
        }
    }

    /// What who stops at it is told.
    pub fn refusal(&self) -> Failure {
        match self {
            Fence::Moving { .. } => Failure::unavailable("the facts are being moved to another coordinator"),
            Fence::Filling { .. } => Failure::unavailable("the facts are still being moved here"),
            Fence::Moved { id, to } => Failure::Moved { to: to.clone(), id: *id },
            Fence::Foreign => Failure::unavailable("there is a fence that this una does not know"),
        }
    }
}

/// How long the old one refuses changes after whoever moved it has died.
const LEASE: Duration = Duration::from_secs(20);
/// How often that lease is renewed.
const RENEW_AFTER: Duration = Duration::from_secs(5);
/// How long one step waits.
const STEP_WAIT: Duration = Duration::from_secs(15);

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
    pub keys: u64,
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
            return Ok(Move { id, keys: 0 });
        }
        Some(fence) => return Err(fence.refusal()),
        None => {}
    }
    let lease = from.grant(LEASE, soon())?;
    let moving = Moving { from, to, id: lease.0, lease, renewed: Instant::now() };
    let result = moving.run(name, step);
    if !matches!(result, Ok(_) | Err(Failure::Moved { .. } | Failure::Unknown { .. })) {
        // The old one need not wait for the end of the lease. If this fails, it waits.
        let fence = moving_fence(lease.0);
        let _ = from.transact(Transaction::of(vec![Action::delete(FENCE)]).when(Compare::value(FENCE, fence)), soon());
        let _ = from.revoke(lease, soon());
    }
    result
}

/// Opens the new one, for who was told by the old one that the facts have moved there in this move. It may be open already.
pub fn follow(to: &dyn Coordinator, id: u64) -> Result<(), Failure> {
    let fence = Fence::Filling { id }.text();
    again(|| to.transact(Transaction::of(vec![Action::delete(FENCE)]).when(Compare::value(FENCE, &fence)), soon()))?;
    match fence_of(to)? {
        None => Ok(()),
        Some(fence) => Err(fence.refusal()),
    }
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

/// The records from a key on, but for the fence, and where to go on.
fn page(it: &dyn Coordinator, after: &[u8]) -> Result<(Vec<Record>, Option<Vec<u8>>), Failure> {
    let range = KeyRange { from: after.into(), to: None };
    let found = it.range(Range::of(range), soon())?;
    let next = found.more.then(|| found.records.last().map(|record| [&record.key, &[0][..]].concat())).flatten();
    Ok((found.records.into_iter().filter(|record| *record.key != *FENCE).collect(), next))
}

struct Moving<'a> {
    from: &'a dyn Coordinator,
    to: &'a dyn Coordinator,
    id: u64,
    lease: LeaseId,
    renewed: Instant,
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
        self.empty()?;
        step(Step::Emptied)?;
        let keys = self.copy()?;
        step(Step::Copied { keys })?;
        self.compare()?;
        step(Step::Compared { keys })?;
        self.switch(name)?;
        step(Step::Switched)?;
        follow(self.to, id)?;
        step(Step::Opened)?;
        Ok(Move { id, keys })
    }

    /// Renews the lease of the fence, if it is time.
    fn renew(&mut self) -> Result<(), Failure> {
        if self.renewed.elapsed() > RENEW_AFTER {
            let asked = Instant::now();
            self.from.keep_alive(self.lease, soon())?;
            self.renewed = asked;
        }
        Ok(())
    }

    fn filling(&self) -> Compare {
        Compare::value(FENCE, Fence::Filling { id: self.id }.text())
    }

    /// Puts a fence around the new one, and removes what an earlier move left there.
    fn empty(&mut self) -> Result<(), Failure> {
        let filling = Fence::Filling { id: self.id }.text();
        let is_new = match fence_of(self.to)? {
            None => true,
            // It never was opened, and whoever filled it finds another fence now.
            Some(Fence::Filling { .. }) => false,
            Some(fence) => return Err(fence.refusal()),
        };
        if is_new && !page(self.to, &[0])?.0.is_empty() {
            return Err(Failure::Refused {
                why: "there are facts at the new coordinator already: name an empty one".into(),
            });
        }
        let order = if is_new { Order::Equal } else { Order::Greater };
        let fence = Transaction::new()
            .when(Compare::new(FENCE, order, With::Version(0)))
            .then(Action::put(FENCE, &filling))
            .otherwise(Action::get(FENCE));
        let done = again(|| self.to.transact(fence.clone(), soon()))?;
        if !done.succeeded && fence_of(self.to)? != Some(Fence::Filling { id: self.id }) {
            return Err(Failure::unavailable("somebody else has begun to use the new coordinator"));
        }
        let behind = [FENCE, &[0]].concat();
        for keys in [KeyRange::between([0], FENCE), KeyRange { from: behind.into(), to: None }] {
            self.renew()?;
            self.fill(vec![Action::Delete(keys)])?;
        }
        Ok(())
    }

    /// Does something at the new one, that can be done twice.
    fn fill(&self, actions: Vec<Action>) -> Result<(), Failure> {
        let transaction = Transaction::of(actions).when(self.filling());
        match again(|| self.to.transact(transaction.clone(), soon()))?.succeeded {
            true => Ok(()),
            false => Err(Failure::unavailable("somebody else has begun to fill the new coordinator")),
        }
    }

    fn copy(&mut self) -> Result<u64, Failure> {
        let mut leases: BTreeMap<LeaseId, bool> = BTreeMap::new();
        let mut keys = 0;
        let mut next = Some(vec![0]);
        while let Some(after) = next {
            let (records, more) = page(self.from, &after)?;
            let (mut batch, mut bytes) = (vec![], 0);
            for record in records {
                self.renew()?;
                if let Some(lease) = record.lease
                    && !leases.contains_key(&lease)
                {
                    leases.insert(lease, self.copy_lease(lease)?);
                }
                // A lease that ended a moment ago takes its keys along.
                if record.lease.is_some_and(|lease| !leases[&lease]) {
                    continue;
                }
                let size = record.key.len() + record.value.len();
                if batch.len() + 1 >= ACTIONS_MAX || bytes + size > TRANSACTION_BYTES_MAX / 2 {
                    self.fill(std::mem::take(&mut batch))?;
                    bytes = 0;
                }
                bytes += size;
                keys += 1;
                batch.push(Action::Put { key: record.key, value: record.value, lease: record.lease });
            }
            if !batch.is_empty() {
                self.fill(batch)?;
            }
            next = more;
        }
        Ok(keys)
    }

    /// Makes the same lease at the new one. Says whether it is still there at the old one.
    fn copy_lease(&self, lease: LeaseId) -> Result<bool, Failure> {
        let ttl = match self.from.keep_alive(lease, soon()) {
            Ok(ttl) => ttl,
            Err(Failure::NoLease { .. }) => return Ok(false),
            Err(failure) => return Err(failure),
        };
        let grant = || waited(|done| self.to.lease(LeaseAct::Grant { ttl, id: Some(lease) }, soon(), done));
        match again(grant) {
            Ok(_) => Ok(true),
            // Of an earlier try.
            Err(Failure::LeaseTaken { .. }) => Ok(true),
            Err(failure) => Err(failure),
        }
    }

    /// Whether the new one has what the old one has, and nothing else.
    fn compare(&mut self) -> Result<(), Failure> {
        let (mut old, mut new) = (Pages::new(self.from), Pages::new(self.to));
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
    page: std::vec::IntoIter<Record>,
    next: Option<Vec<u8>>,
}

impl Pages<'_> {
    fn new(it: &dyn Coordinator) -> Pages<'_> {
        Pages { it, page: vec![].into_iter(), next: Some(vec![0]) }
    }

    fn next(&mut self) -> Result<Option<Record>, Failure> {
        loop {
            if let Some(record) = self.page.next() {
                return Ok(Some(record));
            }
            let Some(next) = self.next.take() else {
                return Ok(None);
            };
            let (records, more) = page(self.it, &next)?;
            self.page = records.into_iter();
            self.next = more;
        }
    }
}
