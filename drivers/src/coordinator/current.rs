//! The coordinator that has the facts now, whichever that is. It does not know how to move them.
//!
//! The one idea: whoever is told that the facts have moved follows, opens the new one, and asks again there; nothing was done at the
//! old one, so nothing is done twice. Those who ask here notice nothing but a pause, and those who watch read again, as after any
//! history that is no longer kept: revisions begin anew.
//!
//! Who was away while the facts moved more than once goes from one place to the next. If the place that it knows is there no more, it asks
//! where it began: that one says where they are now, or has them again.

use super::moved::{FENCE, Fence, follow, left_for};
use super::{
    Change, Committed, Coordinator, Done, Failure, Found, KeyRange, LeaseAct, Leased, Range, Revision, Sink, Status,
    Transaction, Watch, WatchEvent,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Opens a coordinator by the name that a move gave it.
pub type Opener = Box<dyn Fn(&str) -> Result<Arc<dyn Coordinator>, Failure> + Send + Sync>;

/// How many moves one question follows: they are rare, and in a circle they would have no end.
const MOVES_MAX: u32 = 8;
/// How often one who reaches no coordinator asks where it began.
const LOOK_AFTER: Duration = Duration::from_secs(2);

/// A coordinator that follows the facts. Clones are the same one.
#[derive(Clone)]
pub struct Current(Arc<Inside>);

struct Inside {
    open: Opener,
    /// Where it began.
    home: Arc<dyn Coordinator>,
    /// When it last asked there.
    looked: Mutex<Option<Instant>>,
    now: Mutex<Now>,
    /// One at a time follows.
    following: Mutex<()>,
}

/// Invariants: all `watches` are at `it`.
struct Now {
    it: Arc<dyn Coordinator>,
    /// What a move calls it. `None`: it is the one with which this began.
    name: Option<String>,
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
        let now = Now { it: first.clone(), name: None, moves: 0, watches: BTreeMap::new(), next: 0, guard: None };
        let current = Current(Arc::new(Inside {
            open,
            home: first,
            looked: Mutex::new(None),
            now: Mutex::new(now),
            following: Mutex::new(()),
        }));
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
        // What was before, the first question finds out.
        let guard = it.watch(KeyRange::one(FENCE), it.status().revision.next(), sink).ok();
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
        let (mut to, mut id) = (to.to_string(), id);
        for _ in 0..MOVES_MAX {
            let new = (self.0.open)(&to)?;
            match follow(&*new, id) {
                Ok(()) => {
                    self.change_to(new, Some(to));
                    return Ok(());
                }
                Err(Failure::Moved { to: further, id: later }) => (to, id) = (further, later),
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::unavailable("the facts moved again and again meanwhile"))
    }

    /// Goes on with this one. Only who follows calls it.
    fn change_to(&self, new: Arc<dyn Coordinator>, name: Option<String>) {
        let (left, it, watches) = {
            let mut now = self.now();
            now.moves += 1;
            now.name = name;
            (now.guard.take(), std::mem::replace(&mut now.it, new.clone()), std::mem::take(&mut now.watches))
        };
        drop(left);
        let revision = new.status().revision;
        for watching in watches.into_values() {
            let sink = watching.sink.lock().expect("nothing panics while it holds a sink").take();
            if let Some(mut sink) = sink {
                sink(WatchEvent::Ended(Failure::Compacted { revision }));
            }
        }
        drop(it);
        self.guard();
    }

    /// Asks where it began where the facts are, on a thread of its own and not too often: the one that is known does not answer.
    fn look_home(&self) {
        let moves = {
            let now = self.now();
            // It was followed by its name, too, if the facts came back there.
            if now.moves == 0 || Arc::ptr_eq(&now.it, &self.0.home) {
                return;
            }
            now.moves
        };
        {
            let mut looked = self.0.looked.lock().expect("nothing panics while it holds this lock");
            if looked.is_some_and(|looked| looked.elapsed() < LOOK_AFTER) {
                return;
            }
            *looked = Some(Instant::now());
        }
        let current = self.clone();
        std::thread::spawn(move || match left_for(&*current.0.home) {
            Ok(Some((id, to))) if current.now().name.as_ref() != Some(&to) => drop(current.follow(moves, &to, id)),
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => {
                let _one = current.0.following.lock().expect("nothing panics while it follows");
                if current.now().moves == moves {
                    current.change_to(current.0.home.clone(), None);
                }
            }
        });
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
                other => {
                    if matches!(other, Err(Failure::Unavailable { .. })) {
                        current.look_home();
                    }
                    done(other);
                }
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
            let is_last = matches!(event, WatchEvent::Ended(_));
            let mut telling = telling.lock().expect("nothing panics while it holds a sink");
            if let Some(sink) = &mut *telling {
                sink(event);
            }
            // What has moved ends it too, and may have been first or not.
            if is_last {
                telling.take();
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
