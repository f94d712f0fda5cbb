//! Content on more than one disk: where copies of a chunk are, and that there are enough. Knows no names and no pages; what is
//! needed, the tree says.
//!
//! The one idea: only the holder of the tree says what is put and what is removed, and each time it says as which holder (its
//! *epoch*) and in which order. A node does what the newest holder it has heard of says, and nothing that was said before what
//! it did last. So neither a holder that has lost the tree nor a message that was long under way can remove what is needed.
//!
//! ```text
//!   put(chunk)    ──► this disk: synced ─┐
//!                 ──► another's: synced ─┴──► Pinned ──► a fact says that it is needed ──► unpinned
//!   scan()        each node says what it has ──► too few copies: one more is put; needed by nobody: removed
//! ```

use super::complaints::Complaints;
use super::living::Living;
use super::outside::{FilesNetwork, Service};
use super::shelf::{ChunkAsk, Inventory};
use abi::ids::NodeId;
use drivers::chunks::{self, ChunkError, ChunkName, Chunks};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Bytes of chunks in one request.
const PUT_BYTES_MAX: usize = 4 << 20;
/// Whoever stores content waits so long for others to take their copies.
const PUT_PATIENCE: Duration = Duration::from_secs(10);
/// One request to one node.
const ASK_PATIENCE: Duration = Duration::from_secs(5);
/// Before all others are asked again.
const PAUSE: Duration = Duration::from_millis(20);
/// Chunks that are copied or removed with one request by a scan.
const SCAN_AT_ONCE: usize = 64;

/// Clones are the same content.
#[derive(Clone)]
pub(super) struct Copies(Arc<Inner>);

struct Inner {
    here: Arc<Chunks>,
    among: Option<Among>,
}

/// The other nodes, as one holder sees them.
pub(super) struct Among {
    pub epoch: u64,
    /// How many disks every chunk is to be on, if there are so many.
    pub copies: usize,
    pub network: Arc<dyn FilesNetwork>,
    pub living: Arc<Living>,
    /// May this holder still say anything?
    pub is_held: Box<dyn Fn() -> bool + Send + Sync>,
    pub complaints: Complaints,
    pub known: Mutex<Known>,
}

/// Invariants: `at` names others only, each because it said so to this holder; what is pinned is not removed anywhere.
#[derive(Default)]
pub(super) struct Known {
    at: HashMap<ChunkName, Vec<NodeId>>,
    pins: HashMap<ChunkName, u32>,
    /// Rises with everything that is said.
    order: u64,
    /// What others took while they are asked what they have.
    taken: Option<HashSet<(ChunkName, NodeId)>>,
}

/// What a scan found, after it did what it could.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Scanned {
    pub chunks: u64,
    /// Chunks with fewer copies than they should have.
    pub thin: u64,
    /// Chunks that nobody could be found to have.
    pub missing: u64,
    pub copied: u64,
    pub removed: u64,
}

/// Keeps chunks from being removed until the caller has said elsewhere that they are needed.
#[must_use]
pub(super) struct Pinned {
    copies: Copies,
    names: Vec<ChunkName>,
    _here: chunks::Pinned,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let Some(among) = &self.copies.0.among else { return };
        among.unpin(&self.names);
    }
}

impl Among {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics while it holds what is known of copies")
    }

    fn pin(&self, names: &[ChunkName]) {
        let mut known = self.known();
        names.iter().for_each(|name| *known.pins.entry(*name).or_insert(0) += 1);
    }

    fn unpin(&self, names: &[ChunkName]) {
        let mut known = self.known();
        for name in names {
            let pins = known.pins.get_mut(name).expect("what is unpinned was pinned");
            *pins -= 1;
            if *pins == 0 {
                known.pins.remove(name);
            }
        }
    }

    fn ask(&self, to: NodeId, ask: &ChunkAsk) -> Result<Vec<u8>, String> {
        let deadline = Instant::now() + ASK_PATIENCE;
        self.network.ask(to, Service::Chunks, &ask.write(), deadline).map_err(|error| error.to_string())
    }

    /// How many others are to have each chunk.
    fn others_wanted(&self, living: &[NodeId]) -> usize {
        (self.copies.max(1) - 1).min(living.len())
    }

    /// Sees to it that enough others have these chunks on their disks.
    fn spread(&self, all: &[(ChunkName, &[u8])]) -> Result<(), ChunkError> {
        let deadline = Instant::now() + PUT_PATIENCE;
        let mut refused: HashMap<NodeId, String> = HashMap::new();
        loop {
            let living = self.living.others();
            let wanted = self.others_wanted(&living);
            let mut for_node: BTreeMap<NodeId, Vec<(ChunkName, &[u8])>> = BTreeMap::new();
            let mut is_short = false;
            {
                let known = self.known();
                for (name, bytes) in all {
                    let have = known.living_with(name, &living);
                    let missing = wanted.saturating_sub(have.len());
                    let others = by_rank(name, living.clone()).into_iter();
                    let mut found = 0;
                    for node in others.filter(|node| !have.contains(node) && !refused.contains_key(node)).take(missing)
                    {
                        for_node.entry(node).or_default().push((*name, *bytes));
                        found += 1;
                    }
                    is_short |= found < missing;
                }
            }
            if for_node.is_empty() && !is_short {
                return Ok(());
            }
            for (node, chunks) in for_node {
                if let Err(why) = self.put_at(node, &chunks) {
                    refused.insert(node, why);
                }
            }
            if !is_short && refused.is_empty() {
                continue;
            }
            if Instant::now() > deadline || !(self.is_held)() {
                let whys: Vec<String> = refused.iter().map(|(node, why)| format!("{node}: {why}")).collect();
                let what = format!("no other node stores a copy: {}", whys.join("; "));
                let error = io::Error::new(io::ErrorKind::TimedOut, what);
                return Err(ChunkError::Io { file: PathBuf::from("a copy elsewhere"), error });
            }
            if is_short {
                refused.clear();
                self.living.wait(PAUSE);
            }
        }
    }

    fn put_at(&self, node: NodeId, chunks: &[(ChunkName, &[u8])]) -> Result<(), String> {
        let mut rest = chunks;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(_, content): &&(ChunkName, &[u8])| {
                bytes += content.len() + 64;
                bytes <= PUT_BYTES_MAX
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            let order = self.known().next();
            let ask = ChunkAsk::Put {
                epoch: self.epoch,
                order,
                chunks: now.iter().map(|(name, bytes)| (*name, bytes.to_vec())).collect(),
            };
            self.ask(node, &ask)?;
            let mut known = self.known();
            now.iter().for_each(|(name, _)| known.took(*name, node));
            rest = later;
        }
        Ok(())
    }

    fn fetch(&self, name: &ChunkName) -> Option<Arc<[u8]>> {
        let living = self.living.others();
        let mut candidates = self.known().living_with(name, &living);
        candidates.extend(by_rank(name, living));
        fetch(&*self.network, name, &candidates)
    }
}

/// A chunk from the first of these nodes that has it whole.
pub(super) fn fetch(network: &dyn FilesNetwork, name: &ChunkName, candidates: &[NodeId]) -> Option<Arc<[u8]>> {
    let mut asked = HashSet::new();
    for node in candidates.iter().filter(|node| asked.insert(**node)) {
        let deadline = Instant::now() + ASK_PATIENCE;
        let Ok(answer) = network.ask(*node, Service::Chunks, &ChunkAsk::Get { name: *name }.write(), deadline) else {
            continue;
        };
        // What another says is looked at, whatever it looked at itself.
        if ChunkName::of(&answer) == *name {
            return Some(answer.into());
        }
    }
    None
}

impl Known {
    fn next(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    fn took(&mut self, name: ChunkName, node: NodeId) {
        let at = self.at.entry(name).or_default();
        if !at.contains(&node) {
            at.push(node);
        }
        if let Some(taken) = &mut self.taken {
            taken.insert((name, node));
        }
    }

    fn living_with(&self, name: &ChunkName, living: &[NodeId]) -> Vec<NodeId> {
        self.at.get(name).map_or(vec![], |at| at.iter().copied().filter(|node| living.contains(node)).collect())
    }
}

/// Nodes in the order in which they are to have a chunk: rendezvous hashing (Thaler and Ravishankar), so that who comes or goes
/// moves only its own share.
pub(super) fn by_rank(name: &ChunkName, mut nodes: Vec<NodeId>) -> Vec<NodeId> {
    let part = u64::from_le_bytes(name.0[..8].try_into().expect("a hash has eight bytes"));
    nodes.sort_by_cached_key(|node| {
        // The finaliser of splitmix64 by Vigna.
        let mut mixed = part ^ u64::from(node.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    });
    nodes
}

impl Copies {
    /// On this disk alone.
    pub fn alone(here: Arc<Chunks>) -> Copies {
        Copies(Arc::new(Inner { here, among: None }))
    }

    pub fn among(here: Arc<Chunks>, among: Among) -> Copies {
        Copies(Arc::new(Inner { here, among: Some(among) }))
    }

    pub fn get(&self, name: &ChunkName) -> Result<Arc<[u8]>, ChunkError> {
        let here = self.0.here.get(name);
        let (Err(error), Some(among)) = (&here, &self.0.among) else { return here };
        let is_damaged = match error {
            ChunkError::Missing { .. } => false,
            ChunkError::Damaged { .. } => true,
            _ => return here,
        };
        let Some(bytes) = among.fetch(name) else { return here };
        if is_damaged {
            among.complaints.add(format!("{error}; it was replaced by the copy of another node"));
            if let Err(error) = self.0.here.replace(name, &bytes) {
                among.complaints.add(error.to_string());
            }
        }
        self.0.here.keep(*name, bytes.clone());
        Ok(bytes)
    }

    /// Who is known to have it.
    pub fn whereabouts(&self, name: &ChunkName, me: NodeId, living: &[NodeId]) -> Vec<NodeId> {
        let here = self.0.here.has(name).then_some(me);
        let there = self.0.among.as_ref().map(|among| among.known().living_with(name, living));
        here.into_iter().chain(there.into_iter().flatten()).collect()
    }

    /// Looks whether it can be read from a disk, whatever is in memory.
    pub fn read_again(&self, name: &ChunkName) -> Result<(), ChunkError> {
        self.0.here.forget(name);
        self.get(name).map(drop)
    }

    pub fn has_room(&self, bytes: u64) -> Result<(), ChunkError> {
        self.0.here.has_room(bytes)
    }

    pub fn keep(&self, name: ChunkName, bytes: Arc<[u8]>) {
        self.0.here.keep(name, bytes);
    }

    pub fn tidy(&self) -> Result<(), ChunkError> {
        self.0.here.tidy()
    }

    pub fn cached_bytes(&self) -> usize {
        self.0.here.cached_bytes()
    }

    /// Returns when these chunks are on as many disks as they are to be.
    pub fn put(&self, all: &[(ChunkName, &[u8])]) -> Result<Pinned, ChunkError> {
        let names: Vec<ChunkName> = all.iter().map(|(name, _)| *name).collect();
        let Some(among) = &self.0.among else {
            return Ok(Pinned { copies: self.clone(), names, _here: self.0.here.put(all)? });
        };
        among.pin(&names);
        let stored = match among.living.others().is_empty() || among.copies < 2 {
            true => self.0.here.put(all),
            false => std::thread::scope(|scope| {
                let others = scope.spawn(|| among.spread(all));
                let here = self.0.here.put(all);
                let others = others.join().expect("spreading does not panic");
                here.and_then(|here| others.map(|()| here))
            }),
        };
        match stored {
            Ok(here) => Ok(Pinned { copies: self.clone(), names, _here: here }),
            Err(error) => {
                among.unpin(&names);
                Err(error)
            }
        }
    }

    /// Removes chunks wherever they are, but for those that somebody is writing or that are needed after all.
    pub fn remove(&self, names: &[ChunkName], is_needed: impl Fn(&ChunkName) -> bool) -> Result<(), ChunkError> {
        let mut result = Ok(());
        for name in names {
            if self.0.among.as_ref().is_some_and(|among| among.known().pins.contains_key(name)) {
                continue;
            }
            if let Err(error) = self.0.here.remove(name, || is_needed(name)) {
                result = Err(error);
            }
        }
        let Some(among) = &self.0.among else { return result };
        let mut at: BTreeMap<NodeId, Vec<ChunkName>> = BTreeMap::new();
        for name in names {
            for node in among.known().at.get(name).cloned().unwrap_or_default() {
                at.entry(node).or_default().push(*name);
            }
        }
        for (node, names) in at {
            among.remove_at(node, &names, &is_needed);
        }
        result
    }
}

impl Among {
    /// Has another remove what is not needed. What it does not do now, a scan finds again.
    fn remove_at(&self, node: NodeId, names: &[ChunkName], is_needed: &dyn Fn(&ChunkName) -> bool) -> u64 {
        let (order, names) = {
            // Under the lock: whoever puts one of these from here on does not believe that it is there, and says so later.
            let mut known = self.known();
            let names: Vec<ChunkName> =
                names.iter().filter(|name| !known.pins.contains_key(name) && !is_needed(name)).copied().collect();
            for name in &names {
                if let Some(at) = known.at.get_mut(name) {
                    at.retain(|other| *other != node);
                    if at.is_empty() {
                        known.at.remove(name);
                    }
                }
            }
            (known.next(), names)
        };
        if names.is_empty() || !(self.is_held)() {
            return 0;
        }
        let count = names.len() as u64;
        match self.ask(node, &ChunkAsk::Remove { epoch: self.epoch, order, names }) {
            Ok(_) => count,
            Err(_) => 0,
        }
    }

    /// All that another has.
    fn inventory(&self, node: NodeId) -> Result<HashSet<ChunkName>, String> {
        let mut all = HashSet::new();
        let mut from = Some(0);
        while let Some(first) = from {
            let answer = self.ask(node, &ChunkAsk::Inventory { epoch: self.epoch, first })?;
            let Inventory { names, next } =
                Inventory::read(&answer).map_err(|_| format!("{node} says what cannot be read"))?;
            all.extend(names);
            from = next;
        }
        Ok(all)
    }
}

/// Having enough copies, and none too many of what nobody needs.
impl Copies {
    /// Asks every node what it has, and does what is to be done about it. `needed`: all that is needed now.
    pub fn scan(
        &self, needed: impl Fn() -> Vec<ChunkName>, is_needed: impl Fn(&ChunkName) -> bool,
    ) -> Result<Scanned, ChunkError> {
        let Some(among) = &self.0.among else { return Ok(Scanned::default()) };
        among.known().taken = Some(HashSet::new());
        let living = among.living.others();
        let mut have: BTreeMap<NodeId, HashSet<ChunkName>> = BTreeMap::new();
        for node in &living {
            match among.inventory(*node) {
                Ok(names) => drop(have.insert(*node, names)),
                Err(why) => among.complaints.add(format!("{node} does not say which content it has: {why}")),
            }
        }
        let here: HashSet<ChunkName> = self.0.here.inventory(0, usize::MAX)?.0.into_iter().collect();
        {
            let mut known = among.known();
            let taken = known.taken.take().unwrap_or_default();
            known.at.retain(|name, at| {
                at.retain(|node| {
                    living.contains(node)
                        && have.get(node).is_none_or(|had| had.contains(name) || taken.contains(&(*name, *node)))
                });
                !at.is_empty()
            });
            for (node, names) in &have {
                names.iter().for_each(|name| known.took(*name, *node));
            }
        }
        let mut scanned = Scanned::default();
        for some in needed().chunks(SCAN_AT_ONCE) {
            self.repair(among, some, &is_needed, &mut scanned);
            if !(among.is_held)() {
                return Ok(scanned);
            }
        }
        let garbage = |names: &HashSet<ChunkName>| -> Vec<ChunkName> {
            names.iter().filter(|name| !is_needed(name)).copied().collect()
        };
        for (node, names) in &have {
            for some in garbage(names).chunks(SCAN_AT_ONCE) {
                scanned.removed += among.remove_at(*node, some, &is_needed);
            }
        }
        for name in garbage(&here) {
            if !among.known().pins.contains_key(&name)
                && let chunks::Removal::Removed { .. } = self.0.here.remove(&name, || is_needed(&name))?
            {
                scanned.removed += 1;
            }
        }
        Ok(scanned)
    }

    /// Makes copies of those that have too few.
    fn repair(
        &self, among: &Among, names: &[ChunkName], is_needed: &impl Fn(&ChunkName) -> bool, scanned: &mut Scanned,
    ) {
        let living = among.living.others();
        let wanted = among.others_wanted(&living);
        let mut thin: Vec<(ChunkName, Arc<[u8]>)> = vec![];
        for name in names {
            scanned.chunks += 1;
            let elsewhere = among.known().living_with(name, &living).len();
            if self.0.here.has(name) && elsewhere >= wanted {
                continue;
            }
            match self.get(name) {
                Ok(bytes) => thin.push((*name, bytes)),
                // It went meanwhile.
                Err(_) if !is_needed(name) => {}
                Err(error) => {
                    among.complaints.add(error.to_string());
                    scanned.missing += 1;
                    scanned.thin += 1;
                }
            }
        }
        if thin.is_empty() {
            return;
        }
        let all: Vec<(ChunkName, &[u8])> = thin.iter().map(|(name, bytes)| (*name, &**bytes)).collect();
        match self.put(&all) {
            Ok(_pinned) => scanned.copied += all.len() as u64,
            Err(error) => {
                among.complaints.add(error.to_string());
                scanned.thin += all.len() as u64;
            }
        }
    }
}
