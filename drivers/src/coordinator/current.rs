//! The coordinator that has the facts now, whichever that is. It does not know how to move them.
//!
//! The one idea: whoever is told that the facts have moved follows, opens the new one, and asks again there; nothing was done at the
//! old one, so nothing is done twice. Those who ask here notice nothing but a pause, and those who watch read again, as after any
//! history that is no longer kept: revisions begin anew.

use super::moved::{FENCE, Fence, follow};
use super::{
    Change, Committed, Coordinator, Done, Failure, Found, KeyRange, LeaseAct, Leased, Range, Revision, Sink, Status,
    Transaction, Watch, WatchEvent,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// Opens a coordinator by the name that a move gave it.
pub type Opener = Box<dyn Fn(&str) -> Result<Arc<dyn Coordinator>, Failure> + Send + Sync>;

/// How many moves one question follows: they are rare, and in a circle they would have no end.
const MOVES_MAX: u32 = 4;

/// A coordinator that follows the facts. Clones are the same one.
#[derive(Clone)]
pub struct Current(Arc<Inside>);

struct Inside {
    open: Opener,
    now: Mutex<Now>,
    /// One at a time follows.
    following: Mutex<()>,
}

/// Invariants: all `watches` are at `it`.
struct Now {
    it: Arc<dyn Coordinator>,
    /// How many moves were followed.
    moves: u64,
    watches: BTreeMap<u64, Watching>,
    next: u64,
    /// Watches the fence.
    guard: Option<Watch>,
}

struct Watching {
    sink: SharedSink,
    _watch: Option<Watch>,
}

/// Whoever takes it out tells the last event.
type SharedSink = Arc<Mutex<Option<Sink>>>;

impl Current {
    /// Begins with this one. It may have been left already: the first question finds that out.
    pub fn new(first: Arc<dyn Coordinator>, open: Opener) -> Current {
        let now = Now { it: first, moves: 0, watches: BTreeMap::new(), next: 0, guard: None };
        let current = Current(Arc::new(Inside { open, now: Mutex::new(now), following: Mutex::new(()) }));
        current.guard();
        current
    }

    /// The one that has the facts now.
    pub fn it(&self) -> Arc<dyn Coordinator> {
        self.now().it.clone()
    }

    /// How many moves were followed so far.
    pub fn moves(&self) -> u64 {
        self.now().moves
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.now.lock().expect("nothing panics while it holds the coordinator")
    }

    /// Watches the fence, so that watches end even if nobody asks anything.
    fn guard(&self) {
        let (it, moves) = {
            let now = self.now();
            (now.it.clone(), now.moves)
        };
        let weak = Arc::downgrade(&self.0);
        let sink: Sink = Box::new(move |event| {
            let WatchEvent::Changed { changes, .. } = event else { return };
            for change in changes {
                if let Change::Put(record) = change
                    && let Fence::Moved { id, to } = Fence::of(&record)
                    && let Some(inside) = weak.upgrade()
                {
                    // It asks and waits, which this thread must not.
                    std::thread::spawn(move || drop(Current(inside).follow(moves, &to, id)));
                }
            }
        });
        // From the first revision that is still kept: what is compacted, the first question finds out.
        let guard = it.watch(KeyRange::one(FENCE), it.status().revision, sink).ok();
        let mut now = self.now();
        if now.moves == moves {
            now.guard = guard;
        }
    }

    /// Goes where the facts have moved to, if nobody has since so many moves.
    fn follow(&self, moves: u64, to: &str, id: u64) -> Result<(), Failure> {
        let _one = self.0.following.lock().expect("nothing panics while it follows");
        if self.now().moves != moves {
            return Ok(());
        }
        let new = (self.0.open)(to)?;
        follow(&*new, id)?;
        let (left, watches) = {
            let mut now = self.now();
            now.moves += 1;
            let watches = std::mem::take(&mut now.watches);
            (now.guard.take(), (std::mem::replace(&mut now.it, new.clone()), watches))
        };
        drop(left);
        let revision = new.status().revision;
        for watching in watches.1.into_values() {
            let sink = watching.sink.lock().expect("nothing panics while it holds a sink").take();
            if let Some(mut sink) = sink {
                sink(WatchEvent::Ended(Failure::Compacted { revision }));
            }
        }
        self.guard();
        Ok(())
    }

    /// Asks the one that has the facts; if they have moved, goes there and asks again.
    fn ask<T: Send + 'static>(&self, ask: Asking<T>, deadline: Instant, done: Done<T>, left: u32) {
        let (it, moves) = {
            let now = self.now();
            (now.it.clone(), now.moves)
        };
        let current = self.clone();
        let again = ask.clone();
        ask(
            &*it,
            Box::new(move |result| match result {
                Err(Failure::Moved { to, id }) if left > 0 && Instant::now() < deadline => {
                    std::thread::spawn(move || match current.follow(moves, &to, id) {
                        Ok(()) => current.ask(again, deadline, done, left - 1),
                        // Of what was asked, nothing was done, whatever became of the opening.
                        Err(failure) => done(Err(Failure::unavailable(failure))),
                    });
                }
                other => done(other),
            }),
        );
    }
}

/// A question that can be asked of another one again.
type Asking<T> = Arc<dyn Fn(&dyn Coordinator, Done<T>) + Send + Sync>;

impl Coordinator for Current {
    fn submit(&self, transaction: Transaction, deadline: Instant, done: Done<Committed>) {
        let ask = Arc::new(move |it: &dyn Coordinator, done| it.submit(transaction.clone(), deadline, done));
        self.ask(ask, deadline, done, MOVES_MAX);
    }

    fn find(&self, range: Range, deadline: Instant, done: Done<Found>) {
        let ask = Arc::new(move |it: &dyn Coordinator, done| it.find(range.clone(), deadline, done));
        self.ask(ask, deadline, done, MOVES_MAX);
    }

    fn lease(&self, act: LeaseAct, deadline: Instant, done: Done<Leased>) {
        let ask = Arc::new(move |it: &dyn Coordinator, done| it.lease(act.clone(), deadline, done));
        self.ask(ask, deadline, done, MOVES_MAX);
    }

    fn watch(&self, keys: KeyRange, from: Revision, sink: Sink) -> Result<Watch, Failure> {
        let sink: SharedSink = Arc::new(Mutex::new(Some(sink)));
        let telling = sink.clone();
        let tell: Sink = Box::new(move |event| {
            if let Some(sink) = &mut *telling.lock().expect("nothing panics while it holds a sink") {
                sink(event);
            }
        });
        // Known before it begins, so that a move in between ends it too.
        let (it, number) = {
            let mut now = self.now();
            now.next += 1;
            let number = now.next;
            now.watches.insert(number, Watching { sink, _watch: None });
            (now.it.clone(), number)
        };
        let watch = it.watch(keys, from, tell);
        let mut now = self.now();
        match watch {
            Ok(watch) => {
                if let Some(watching) = now.watches.get_mut(&number) {
                    watching._watch = Some(watch);
                }
            }
            Err(failure) => {
                now.watches.remove(&number);
                return Err(failure);
            }
        }
        let weak = Arc::downgrade(&self.0);
        Ok(Watch::new(move || {
            if let Some(inside) = weak.upgrade() {
                let gone = Current(inside).now().watches.remove(&number);
                drop(gone);
            }
        }))
    }

    fn status(&self) -> Status {
        self.it().status()
    }
}
