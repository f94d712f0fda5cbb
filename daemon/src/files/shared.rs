//! One node's part in the files of the whole computer: holds the tree if it falls to it, knows who does if not, and keeps copies
//! of content for whoever it is. Knows no wire, and no more of the coordinator than its trait.
//!
//! The one idea: whoever gets `h/files` loads the tree from the coordinator and decides everything under its lock; the others ask
//! it. Nobody hands anything over: what the last holder acknowledged is at the coordinator and on two disks.

use super::complaints::Complaints;
use super::copies::{Among, Copies, Known, Scanned};
use super::hold::{Hold, Holder, Where};
use super::kept::{Drafts, KeepAsk, KeepError, KeepTold, Kept};
use super::ledger::{EPOCH, HOLDER, Ledger, number};
use super::living::Living;
use super::outside::{FilesNetwork, Reply, Service};
use super::planted::{Bug, planted};
use super::request::{Asked, Told};
use super::serve::Served;
use super::session::{Lasting, SharedFiles};
use super::shelf::Shelf;
use super::tree::{SessionKey, Tree, TreeError, TreeOptions, TreeView};
use super::workers::Workers;
use abi::encoding::{Reader, Writer};
use abi::errno::Errno;
use abi::ids::NodeId;
use drivers::chunks::{ChunkError, ChunkName, Chunks, Swept};
use drivers::coordinator::{
    Action, Compare, Coordinator, Failure, KeyRange, LeaseId, Range, Record, Transaction, Watch, WatchEvent,
};
use drivers::facts::Facts;
use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One question to the coordinator about who holds the tree.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
/// Who could not load the tree, or has just let it go, leaves it to others for so long.
const REST: Duration = Duration::from_secs(5);

/// What the files of one node may do.
#[derive(Clone, Copy, Debug)]
pub struct SharedOptions {
    pub tree: TreeOptions,
    /// On how many disks content is before it counts as stored, if there are so many nodes.
    pub copies: usize,
    /// The lease of the holder: after its death the tree is nobody's for so long.
    pub lease: Duration,
    /// How long a program's call waits for a holder. Then: [`Errno::TimedOut`].
    pub patience: Duration,
    /// How long a new holder waits for those who had something open that has no name any more.
    pub grace: Duration,
    /// How often nodes are asked what content they have.
    pub scan_every: Duration,
}

impl SharedOptions {
    pub const NORMAL: SharedOptions = SharedOptions {
        tree: TreeOptions::NORMAL,
        copies: 2,
        lease: Duration::from_millis(1000),
        patience: Duration::from_secs(15),
        grace: Duration::from_secs(20),
        scan_every: Duration::from_secs(60),
    };
}

/// What there is, for people who look.
#[derive(Clone, Debug)]
pub struct SharedView {
    pub holder: Option<NodeId>,
    pub epoch: Option<u64>,
    /// The tree, if it is held here.
    pub tree: Option<TreeView>,
    /// Sessions of other nodes that are served here.
    pub sessions: usize,
    /// What the last look at all copies found, if the tree is held here: `thin` chunks are on fewer disks than they should be.
    pub copies: Option<Scanned>,
    /// How many disks content should be on, and can be on now.
    pub copies_wanted: usize,
    pub copies_possible: usize,
    pub complaints: Vec<String>,
}

/// The files of the whole computer, as one node has them. Clones are the same.
#[derive(Clone)]
pub struct Shared {
    owner: Arc<Owner>,
}

struct Owner {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
}

pub(super) struct Inner {
    pub me: NodeId,
    /// Tells this start of the node from every other.
    token: u64,
    directory: PathBuf,
    pub options: SharedOptions,
    pub(super) coordinator: Arc<dyn Coordinator>,
    pub network: Arc<dyn FilesNetwork>,
    pub living: Arc<Living>,
    pub chunks: Arc<Chunks>,
    shelf: Shelf,
    pub hold: Arc<Hold>,
    pub(super) served: Served,
    pub(super) drafts: Drafts,
    /// Sessions of this node.
    local: Mutex<BTreeSet<SessionKey>>,
    files_workers: Workers,
    chunk_workers: Workers,
    scanned: Mutex<Option<Scanned>>,
    pub complaints: Complaints,
    errands: Mutex<Errands>,
    called: Condvar,
}

/// What the two threads are to do before their time.
#[derive(Default)]
struct Errands {
    ends: bool,
    /// Something may have happened to `h/files`.
    look: bool,
    scan: bool,
    /// Until then the tree is left to others.
    rest_until: Option<Instant>,
    let_go: bool,
}

fn of_io(directory: &Path) -> impl Fn(std::io::Error) -> TreeError + '_ {
    move |error| TreeError::Directory { directory: directory.into(), error }
}

impl Shared {
    pub fn start(
        directory: &Path, me: NodeId, coordinator: Arc<dyn Coordinator>, network: Arc<dyn FilesNetwork>,
    ) -> Result<Shared, TreeError> {
        Shared::start_with(directory, me, coordinator, network, SharedOptions::NORMAL)
    }

    /// Returns at once; whoever wants a file waits until there is a holder.
    pub fn start_with(
        directory: &Path, me: NodeId, coordinator: Arc<dyn Coordinator>, network: Arc<dyn FilesNetwork>,
        options: SharedOptions,
    ) -> Result<Shared, TreeError> {
        let fail = of_io(directory);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(&fail)?;
        let chunks = Arc::new(Chunks::open(&directory.join("chunks"), options.tree.chunks)?);
        // Which of them are needed, the holder knows; here only what was never finished is removed.
        chunks.sweep(|_| true)?;
        let shelf = Shelf::open(chunks.clone(), directory).map_err(&fail)?;
        let inner = Arc::new(Inner {
            me,
            token: random().map_err(&fail)?,
            directory: directory.into(),
            options,
            coordinator,
            network,
            living: Arc::new(Living::default()),
            chunks,
            shelf,
            hold: Arc::new(Hold::new()),
            served: Served::new(),
            drafts: Drafts::default(),
            local: Mutex::new(BTreeSet::new()),
            files_workers: Workers::new("una-files"),
            chunk_workers: Workers::new("una-chunks"),
            scanned: Mutex::new(None),
            complaints: Complaints::default(),
            errands: Mutex::new(Errands::default()),
            called: Condvar::new(),
        });
        let spawn = |name: &str, run: fn(&Arc<Inner>)| {
            let inner = inner.clone();
            std::thread::Builder::new().name(name.into()).spawn(move || run(&inner)).map_err(&fail)
        };
        let threads = vec![spawn("una-holder", Inner::see_to_the_holder)?, spawn("una-copies", Inner::see_to_copies)?];
        Ok(Shared { owner: Arc::new(Owner { inner, threads }) })
    }

    /// One view of the tree, with numbers of its own for what is open. What it has open when it is dropped is closed.
    pub fn session(&self) -> SharedFiles {
        SharedFiles::new(self.owner.inner.clone())
    }

    /// The view of a process that goes on elsewhere when its node is lost: each change that it makes is made once, whoever asks for it.
    pub fn lasting_session(&self, session: Lasting) -> SharedFiles {
        SharedFiles::lasting(self.owner.inner.clone(), session)
    }

    /// Nobody goes on for it.
    pub fn end_session(&self, session: Lasting) {
        SharedFiles::lasting(self.owner.inner.clone(), session).end_for_good();
    }

    /// Answers what another node asks. Returns at once.
    pub fn asked(&self, from: NodeId, service: Service, body: Vec<u8>, reply: Reply) {
        let inner = self.owner.inner.clone();
        let workers = match service {
            Service::Files => &self.owner.inner.files_workers,
            Service::Chunks | Service::Kept => &self.owner.inner.chunk_workers,
        };
        let reply = Arc::new(Mutex::new(Some(reply)));
        let later = reply.clone();
        let give = move |reply: &Mutex<Option<Reply>>, answer| {
            if let Some(reply) = reply.lock().expect("nothing panics while it takes the reply").take() {
                reply(answer);
            }
        };
        let work = workers.work(Box::new(move || {
            let answer = match service {
                Service::Files => Ok(inner.answer(from, &body)),
                Service::Chunks => inner.shelf.asked(&body),
                Service::Kept => match KeepAsk::read(&body) {
                    Ok(ask) => Ok(inner.answer_keep(from, ask).write()),
                    Err(_) => Err("the request cannot be read".into()),
                },
            };
            give(&later, answer);
        }));
        if work.is_err() {
            give(&reply, Err("this node has too much to do: ask again later".into()));
        }
    }

    /// These nodes are there now, as far as anybody knows; whether this one is among them does not matter.
    pub fn members(&self, living: &[NodeId]) {
        let inner = &self.owner.inner;
        let others: Vec<NodeId> = living.iter().copied().filter(|node| *node != inner.me).collect();
        if inner.living.set(others.clone()) {
            let tree = inner.hold.tree();
            inner.served.keep_only(&others, tree.as_ref());
            inner.drafts.keep_only(inner.me, &others);
            inner.call(|errands| (errands.look, errands.scan) = (true, true));
        }
    }

    /// Asks whoever holds the tree about what is kept beside it, until the deadline.
    pub fn keep(&self, ask: &KeepAsk, deadline: Instant) -> Result<KeepTold, KeepError> {
        self.owner.inner.keep(ask, deadline)
    }

    /// A chunk of what is kept, from this disk or from whoever has it whole.
    pub fn kept_chunk(&self, name: &ChunkName) -> Result<Arc<[u8]>, ChunkError> {
        self.owner.inner.kept_chunk(name)
    }

    /// Makes everything durable that is decided here, and looks after all copies.
    pub fn flush(&self) -> Result<(), Errno> {
        self.owner.inner.hold.tree().map_or(Ok(()), |tree| tree.flush())
    }

    /// Does this node decide about the tree now?
    pub fn is_holder(&self) -> bool {
        self.owner.inner.hold.here().is_some()
    }

    /// Leaves the tree to another node, if there is one that can have it.
    pub fn let_go(&self) {
        self.owner.inner.call(|errands| errands.let_go = true);
    }

    pub fn view(&self) -> SharedView {
        let inner = &self.owner.inner;
        let (holder, epoch) = match &*inner.hold.lock() {
            Holder::Nobody => (None, None),
            Holder::Other { node, epoch } => (Some(*node), Some(*epoch)),
            Holder::Mine { epoch, .. } => (Some(inner.me), Some(*epoch)),
        };
        let tree = inner.hold.tree().map(|tree| tree.view());
        let mut complaints = inner.complaints.all();
        if let Some(tree) = &tree {
            complaints
                .extend(tree.complaints.iter().filter(|one| !complaints.contains(one)).cloned().collect::<Vec<_>>());
        }
        SharedView {
            holder,
            epoch,
            copies: tree
                .is_some()
                .then(|| *inner.scanned.lock().expect("nothing panics while it holds the count"))
                .flatten(),
            tree,
            sessions: inner.served.count(),
            copies_wanted: inner.options.copies,
            copies_possible: inner.options.copies.min(1 + inner.living.others().len()),
            complaints,
        }
    }

    /// Panics if an invariant of the tree does not hold, if it is held here.
    pub fn check(&self) {
        if let Some(tree) = self.owner.inner.hold.tree() {
            tree.check();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.inner.call(|errands| errands.ends = true);
        self.inner.living.wake();
        for thread in self.threads.drain(..) {
            // It ends by itself, and its panic would have been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// Numbers that nobody else has.
pub(super) fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Who `h/files` says holds the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Name {
    node: NodeId,
    epoch: u64,
    token: u64,
}

impl Name {
    fn write(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u32(u32::from(self.node.0)).u64(self.epoch).u64(self.token);
        to.finish()
    }

    fn read(value: &[u8]) -> Option<Name> {
        let mut from = Reader::new(value);
        let node = NodeId(u16::try_from(from.u32().ok()?).ok()?);
        let (epoch, token) = (from.u64().ok()?, from.u64().ok()?);
        from.finish().ok()?;
        Some(Name { node, epoch, token })
    }
}

/// This node's hold at the coordinator.
struct Lease {
    id: LeaseId,
    epoch: u64,
    /// Until then it has not been renewed since.
    until: Instant,
}

/// Being asked.
impl Inner {
    fn answer(&self, from: NodeId, body: &[u8]) -> Vec<u8> {
        let told = match Asked::read(body) {
            Err(_) => Told::Failed(Errno::Proto),
            Ok(asked) => match self.hold.here() {
                Some((epoch, tree)) if epoch == asked.epoch => {
                    self.served.answer(&self.hold, epoch, &tree, from, asked)
                }
                _ => Told::NotHolder,
            },
        };
        told.write()
    }

    pub fn remember_session(&self, key: SessionKey) {
        self.local.lock().expect("nothing panics while it holds the sessions").insert(key);
    }

    pub fn forget_session(&self, key: &SessionKey) {
        self.local.lock().expect("nothing panics while it holds the sessions").remove(key);
    }

    fn is_session(&self, key: &SessionKey) -> bool {
        self.served.has(key) || self.local.lock().expect("nothing panics while it holds the sessions").contains(key)
    }

    fn call(&self, say: impl FnOnce(&mut Errands)) {
        say(&mut self.errands.lock().expect("nothing panics while it holds the errands"));
        self.called.notify_all();
    }

    /// What is known of the holder may be wrong.
    pub fn look_again(&self) {
        self.call(|errands| errands.look = true);
    }

    fn ends(&self) -> bool {
        self.errands.lock().expect("nothing panics while it holds the errands").ends
    }

    /// Waits until there is something to do, or for this time.
    fn wait(&self, most: Duration, take: impl Fn(&mut Errands) -> bool) {
        let until = Instant::now() + most;
        let mut errands = self.errands.lock().expect("nothing panics while it holds the errands");
        while !errands.ends && !take(&mut errands) {
            let Some(rest) = until.checked_duration_since(Instant::now()) else { return };
            errands = self.called.wait_timeout(errands, rest).expect("nothing panics while it holds the errands").0;
        }
    }
}

/// Holding.
impl Inner {
    fn see_to_the_holder(self: &Arc<Inner>) {
        let mut lease: Option<Lease> = None;
        let mut watch: Option<Watch> = None;
        let mut missing_since: Option<Instant> = None;
        let mut looked_at = Instant::now();
        while !self.ends() {
            if watch.is_none() {
                watch = self.watch();
            }
            match &mut lease {
                Some(own) => {
                    if !self.renew(own) {
                        lease = None;
                        missing_since = None;
                    }
                }
                None => lease = self.look(&mut missing_since),
            }
            if self.take_let_go()
                && let Some(own) = lease.take()
            {
                self.give_up(&own, "it was asked to let go");
            }
            let pause = match (&lease, missing_since, &watch) {
                (Some(_), ..) => self.options.lease * 3 / 10,
                (None, Some(_), _) | (None, None, None) => self.options.lease / 10,
                // The watch tells; this is for the case that it has stopped without a word.
                (None, None, Some(_)) => self.options.lease * 2,
            };
            // Not oftener than that, whoever calls: a look costs the coordinator something.
            let least = Duration::from_millis(20).saturating_sub(looked_at.elapsed());
            if !least.is_zero() {
                std::thread::sleep(least);
            }
            self.wait(pause, |errands| std::mem::take(&mut errands.look) || errands.let_go);
            looked_at = Instant::now();
        }
        drop(watch);
        if let Some(own) = lease.take() {
            self.give_up(&own, "this node ends");
        }
        drop(self.hold.set(Holder::Nobody));
    }

    fn take_let_go(&self) -> bool {
        std::mem::take(&mut self.errands.lock().expect("nothing panics while it holds the errands").let_go)
    }

    /// Has this thread look as soon as `h/files` changes.
    fn watch(self: &Arc<Inner>) -> Option<Watch> {
        let deadline = Instant::now() + LOOK_PATIENCE;
        let found = self.coordinator.range(Range::key(HOLDER), deadline).ok()?;
        let inner: Weak<Inner> = Arc::downgrade(self);
        let sink = move |_: WatchEvent| {
            if let Some(inner) = inner.upgrade() {
                inner.look_again();
            }
        };
        self.coordinator.watch(KeyRange::one(HOLDER), found.revision.next(), Box::new(sink)).ok()
    }

    /// The part of a lease in which its holder believes.
    fn believed(&self, asked_at: Instant) -> Instant {
        asked_at + self.options.lease / 4 * 3
    }

    /// Gives whether this is still the holder.
    fn renew(&self, own: &mut Lease) -> bool {
        let asked_at = Instant::now();
        let why = match self.coordinator.keep_alive(own.id, asked_at + self.options.lease / 3) {
            Ok(_) => {
                own.until = self.believed(asked_at);
                self.hold.update(own.epoch, |until, _| *until = own.until);
                String::new()
            }
            Err(Failure::NoLease { .. }) => match self.retake(own) {
                Ok(true) => String::new(),
                Ok(false) => {
                    self.lose("another node took over while this one did not renew its lease");
                    return false;
                }
                Err(why) => why.to_string(),
            },
            Err(why) => why.to_string(),
        };
        if self.hold.is_lost(own.epoch) {
            // It could not load the tree.
            self.revoke(own.id);
            return false;
        }
        if Instant::now() > own.until + self.options.patience / 2 {
            self.complaints.add(format!("the files are nobody's: {} lost its hold, and {why}", self.me));
            self.lose(&why);
            return false;
        }
        true
    }

    /// After the lease ran out: the same holder goes on, if nobody else was holder meanwhile.
    fn retake(&self, own: &mut Lease) -> Result<bool, Failure> {
        let name = Name { node: self.me, epoch: own.epoch, token: self.token };
        let asked_at = Instant::now();
        let deadline = asked_at + self.options.lease / 2;
        let id = self.coordinator.grant(self.options.lease, deadline)?;
        let transaction = Transaction::new()
            .when(Compare::missing(HOLDER))
            .when(Compare::value(EPOCH, own.epoch.to_be_bytes()))
            .then(Action::put_leased(HOLDER, name.write(), id))
            .otherwise(Action::get(HOLDER))
            .otherwise(Action::get(EPOCH));
        let committed = self.coordinator.transact(transaction, deadline)?;
        if committed.succeeded {
            (own.id, own.until) = (id, self.believed(asked_at));
            self.hold.update(own.epoch, |until, _| *until = own.until);
            return Ok(true);
        }
        self.revoke(id);
        let record = |action: usize| committed.found(action).and_then(|found| found.records.first());
        match record(0) {
            // An attempt whose answer was lost.
            Some(record) if Name::read(&record.value) == Some(name) => {
                own.id = record.lease.unwrap_or(own.id);
                Ok(true)
            }
            Some(_) => Ok(false),
            None => Ok(record(1).and_then(|record| number(&record.value)) == Some(own.epoch)),
        }
    }

    fn revoke(&self, id: LeaseId) {
        // If that does not arrive, it ends by itself.
        let _ = self.coordinator.revoke(id, Instant::now() + self.options.lease / 2);
    }

    /// This is not the holder any more.
    fn lose(&self, why: &str) {
        if let Holder::Mine { tree: Some(tree), .. } = self.hold.set(Holder::Nobody) {
            tree.lose(why);
            self.served.clear();
            self.drafts.clear();
        }
        *self.scanned.lock().expect("nothing panics while it holds the count") = None;
        self.look_again();
    }

    /// Makes durable what there is, and lets others take over at once.
    fn give_up(&self, own: &Lease, why: &str) {
        if let Some(tree) = self.hold.tree() {
            // By another thread: it may wait for a coordinator that cannot be reached, until the tree is lost below.
            let (give, get) = std::sync::mpsc::sync_channel(1);
            let flushes = std::thread::Builder::new().name("una-flush".into()).spawn(move || {
                // Nobody hears it who has stopped waiting.
                let _ = give.send(tree.flush());
            });
            let flushed =
                flushes.map_err(|_| Errno::Again).and_then(|_| get.recv_timeout(REST).unwrap_or(Err(Errno::TimedOut)));
            if let Err(errno) = flushed {
                self.complaints
                    .add(format!("not everything could be made durable before the tree was let go: {errno}"));
            }
        }
        self.call(|errands| errands.rest_until = Some(Instant::now() + REST));
        self.lose(why);
        self.revoke(own.id);
    }

    /// Looks who holds the tree, and takes it if nobody does.
    fn look(self: &Arc<Inner>, missing_since: &mut Option<Instant>) -> Option<Lease> {
        let deadline = Instant::now() + LOOK_PATIENCE;
        // Not as one transaction, which would be written to disks: whoever takes the tree compares both.
        let value = |key: &[u8]| -> Result<Option<Record>, Failure> {
            Ok(self.coordinator.range(Range::key(key), deadline)?.records.into_iter().next())
        };
        let look = || -> Result<(Option<Record>, Option<Record>), Failure> { Ok((value(HOLDER)?, value(EPOCH)?)) };
        let (holder, last) = match look() {
            Ok(found) => found,
            Err(error) => {
                // Who was known to hold the tree may still do so.
                self.complaints.add(format!("who holds the files cannot be found out: {error}"));
                return None;
            }
        };
        let last = last.and_then(|record| number(&record.value));
        let name = holder.as_ref().and_then(|record| Name::read(&record.value));
        match (&holder, name) {
            (Some(_), Some(name)) if name.node != self.me => {
                *missing_since = None;
                let is_news = !matches!(&*self.hold.lock(), Holder::Other { epoch, .. } if *epoch == name.epoch);
                if is_news {
                    drop(self.hold.set(Holder::Other { node: name.node, epoch: name.epoch }));
                }
                None
            }
            // Of an earlier start of this node, which is over; or of an attempt that was given up.
            (Some(record), _) => self.take(Some(record), last),
            (None, _) => {
                let is_known = matches!(&*self.hold.lock(), Holder::Other { .. });
                if is_known {
                    drop(self.hold.set(Holder::Nobody));
                }
                let since = *missing_since.get_or_insert_with(Instant::now);
                let rests = self.errands.lock().expect("nothing panics while it holds the errands").rest_until;
                if rests.is_some_and(|until| Instant::now() < until) && !self.living.others().is_empty() {
                    return None;
                }
                if since.elapsed() < self.leaves_it_to_others() {
                    return None;
                }
                self.take(None, last)
            }
        }
    }

    /// Those who keep the facts are nearer to them.
    fn leaves_it_to_others(&self) -> Duration {
        let is_voter = self.coordinator.status().voters.iter().any(|voter| voter.id == u64::from(self.me.0));
        if is_voter || self.living.others().is_empty() { Duration::ZERO } else { self.options.lease / 2 }
    }

    fn take(self: &Arc<Inner>, before: Option<&Record>, last: Option<u64>) -> Option<Lease> {
        let epoch = last.unwrap_or(0) + 1;
        let name = Name { node: self.me, epoch, token: self.token };
        let asked_at = Instant::now();
        let deadline = asked_at + self.options.lease / 2;
        let id = match self.coordinator.grant(self.options.lease, deadline) {
            Ok(id) => id,
            Err(error) => {
                self.complaints.add(format!("the files cannot be held: {error}"));
                return None;
            }
        };
        let transaction = Transaction::new()
            .when(match before {
                Some(record) => Compare::unchanged(HOLDER, record.modified),
                None => Compare::missing(HOLDER),
            })
            .when(match last {
                Some(last) => Compare::value(EPOCH, last.to_be_bytes()),
                None => Compare::missing(EPOCH),
            })
            .then(Action::put_leased(HOLDER, name.write(), id))
            .then(Action::put(EPOCH, epoch.to_be_bytes()));
        match self.coordinator.transact(transaction, deadline) {
            Ok(committed) if committed.succeeded => {}
            // Somebody was quicker; or it is not known, and the next look finds it and begins anew.
            _ => {
                self.revoke(id);
                return None;
            }
        }
        let until = self.believed(asked_at);
        drop(self.hold.set(Holder::Mine { epoch, until, tree: None }));
        let inner = self.clone();
        let loads = std::thread::Builder::new().name("una-load".into()).spawn(move || inner.load(epoch));
        if let Err(error) = loads {
            self.complaints.add(format!("the tree cannot be loaded: {error}"));
            self.lose("the tree cannot be loaded");
        }
        Some(Lease { id, epoch, until })
    }

    /// Reads the tree of which this node has become the holder.
    fn load(self: &Arc<Inner>, epoch: u64) {
        match self.load_tree(epoch) {
            Ok(tree) => {
                self.hold.update(epoch, |_, place| *place = Some(tree));
                self.call(|errands| errands.scan = true);
            }
            Err(error) if self.hold.is_lost(epoch) => drop(error),
            Err(error) => {
                self.complaints.add(format!("the tree cannot be loaded: {error}"));
                self.call(|errands| {
                    errands.rest_until = Some(Instant::now() + REST);
                    errands.look = true;
                });
                self.lose("the tree cannot be loaded");
            }
        }
    }

    fn load_tree(self: &Arc<Inner>, epoch: u64) -> Result<Tree, TreeError> {
        self.shelf.hear(epoch).map_err(|what| TreeError::Damaged { directory: self.directory.clone(), what })?;
        let hold = Arc::downgrade(&self.hold);
        let is_lost = move || hold.upgrade().is_none_or(|hold| hold.is_lost(epoch));
        let ledger = Ledger::new(self.coordinator.clone(), epoch, Box::new(is_lost));
        let last = ledger.last()?;
        let facts = Facts::kept(Box::new(ledger), last);
        let hold = Arc::downgrade(&self.hold);
        let among = Among {
            epoch,
            copies: if planted(Bug::OneCopyIsEnough) { 1 } else { self.options.copies },
            network: self.network.clone(),
            living: self.living.clone(),
            is_held: Box::new(move || hold.upgrade().is_some_and(|hold| hold.is_held(epoch))),
            complaints: self.complaints.clone(),
            known: Mutex::new(Known::default()),
        };
        let content = |_: &services::files::Files| Ok((Copies::among(self.chunks.clone(), among), Swept::default()));
        let beside = (self.complaints.clone(), Kept::default());
        let tree = Tree::begin(facts, &self.directory, self.options.tree, beside, content)?;
        if planted(Bug::NoGrace) {
            tree.forget_absent(|_| false);
        }
        Ok(tree)
    }
}

/// Copies.
impl Inner {
    fn see_to_copies(self: &Arc<Inner>) {
        let mut scanned_as = None;
        let mut grace: Option<(u64, Instant)> = None;
        while !self.ends() {
            let pause = if grace.is_some() { self.options.grace / 10 } else { self.options.scan_every };
            self.wait(pause.min(self.options.scan_every), |errands| std::mem::take(&mut errands.scan));
            let Some((epoch, tree)) = self.hold.here() else {
                (scanned_as, grace) = (None, None);
                continue;
            };
            if scanned_as != Some(epoch) {
                grace = Some((epoch, Instant::now() + self.options.grace));
            }
            scanned_as = Some(epoch);
            if let Some((of, until)) = grace
                && of == epoch
                && Instant::now() >= until
            {
                grace = None;
                tree.forget_absent(|key| self.is_session(key));
            }
            self.load_kept(&tree);
            match tree.copies().scan(|| tree.needed(), |name| tree.needs(name)) {
                Ok(scanned) => {
                    *self.scanned.lock().expect("nothing panics while it holds the count") = Some(scanned);
                    if scanned.thin > 0 {
                        self.complaints.add(format!("{} chunks are on too few disks", scanned.thin));
                    }
                }
                Err(error) => self.complaints.add(error.to_string()),
            }
        }
    }
}

impl Hold {
    /// The tree, if it is held here and loaded.
    pub fn here(&self) -> Option<(u64, Tree)> {
        match &*self.lock() {
            Holder::Mine { epoch, tree: Some(tree), .. } => Some((*epoch, tree.clone())),
            _ => None,
        }
    }

    pub fn tree(&self) -> Option<Tree> {
        self.here().map(|(_, tree)| tree)
    }

    /// Is it known that this is not the holder any more?
    pub fn is_over(&self, node: NodeId, epoch: u64) -> bool {
        !matches!(&*self.lock(), Holder::Other { node: other, epoch: now } if *other == node && *now == epoch)
    }
}

/// Whom a session turns to.
impl Inner {
    pub fn find(&self, deadline: Instant) -> Result<Where, Errno> {
        self.look_again();
        self.hold.find(deadline).ok_or_else(|| {
            self.complaints.add("no node holds the files: is the coordinator without a majority?".into());
            Errno::TimedOut
        })
    }
}
