//! A tree of files in a world that one seed decides: random acts, changes that become safe late or never, crashes between any
//! two of them, and a model that says what must be there. Knows no disk.

use abi::errno::Errno;
use abi::file::{Access, Existence, Kind, LastLink, Open, SetTime, SetTimes};
use abi::wasi::Filetype;
use services::files::*;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// splitmix64 by Vigna.
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

type Id = u64;
type Bytes = Arc<Vec<u8>>;

/// What the records say, as far as names go, and the content that was recorded.
#[derive(Clone, Debug)]
struct Facts {
    directories: BTreeMap<Id, BTreeMap<String, Id>>,
    links: BTreeMap<Id, String>,
    recorded: BTreeMap<Id, Bytes>,
    /// Files without a name that somebody has open.
    kept: BTreeSet<Id>,
}

/// Where a path ends in the model.
#[derive(Clone, PartialEq, Eq, Debug)]
enum End {
    Out,
    Nowhere,
    Missing(Id, String),
    Found(Id, String, Id),
    Directory(Id),
}

impl Facts {
    /// A walk by recursion over whole paths, unlike the one it judges.
    fn walk(&self, above: &[Id], path: &str, follow: bool, links: u32) -> (Vec<Id>, End) {
        if path.starts_with('/') {
            return (above.to_vec(), End::Out);
        }
        let (part, rest) = path.split_once('/').map_or((path, ""), |(part, rest)| (part, rest.trim_start_matches('/')));
        let slash = path.contains('/');
        let here = *above.last().expect("a walk is somewhere");
        if part == "." || part == ".." {
            let above = if part == "." { above } else { &above[..above.len() - 1] };
            if above.is_empty() {
                return (vec![], End::Out);
            }
            let here = *above.last().expect("it was just looked at");
            return if rest.is_empty() {
                (above.to_vec(), End::Directory(here))
            } else {
                self.walk(above, rest, follow, links)
            };
        }
        let Some(id) = self.directories.get(&here).and_then(|names| names.get(part)) else {
            let end = if rest.is_empty() { End::Missing(here, part.into()) } else { End::Nowhere };
            return (above.to_vec(), end);
        };
        if let Some(content) = self.links.get(id) {
            if rest.is_empty() && !follow {
                return (above.to_vec(), End::Found(here, part.into(), *id));
            }
            if links >= 40 {
                return (above.to_vec(), End::Nowhere);
            }
            let (at, end) = self.walk(above, content, true, links + 1);
            if rest.is_empty() {
                let is_file = matches!(&end, End::Found(_, _, id) if !self.directories.contains_key(id));
                return (at, if slash && is_file { End::Nowhere } else { end });
            }
            return match end {
                End::Out => (at, End::Out),
                End::Directory(_) => self.walk(&at, rest, follow, links + 1),
                End::Found(_, _, id) if self.directories.contains_key(&id) => {
                    self.walk(&[&at[..], &[id]].concat(), rest, follow, links + 1)
                }
                _ => (at, End::Nowhere),
            };
        }
        if rest.is_empty() && (!slash || self.directories.contains_key(id)) {
            return (above.to_vec(), End::Found(here, part.into(), *id));
        }
        if !self.directories.contains_key(id) {
            return (above.to_vec(), End::Nowhere);
        }
        self.walk(&[above, &[*id]].concat(), rest, follow, links)
    }

    fn end(&self, path: &str, follow: bool) -> End {
        self.walk(&[0], path, follow, 0).1
    }

    /// Would somebody who had it open find it after a restart?
    fn is_recorded(&self, id: Id) -> bool {
        self.names_of(id) > 0 || self.kept.contains(&id)
    }

    fn names_of(&self, id: Id) -> usize {
        self.directories.values().flat_map(|names| names.values()).filter(|one| **one == id).count()
    }
}

struct Held {
    open: OpenNumber,
    id: Id,
}

/// A capture under way, and what the file was when it was taken.
struct Flight {
    capture: Capture,
    id: Id,
    content: Bytes,
    recording: bool,
    undone: u64,
}

pub struct World {
    random: Random,
    files: Files,
    facts: Facts,
    now: BTreeMap<Id, Bytes>,
    next_id: Id,
    held: Vec<Held>,
    flights: Vec<Flight>,
    /// The safe records.
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    chunks: BTreeMap<ChunkHash, Arc<[u8]>>,
    /// What is not safe yet, and the model after each act.
    queue: Vec<(Sequence, Vec<Change>)>,
    history: Vec<(Sequence, Facts)>,
    safe: Sequence,
    /// Every inode that ever was, so that none is given twice; and what was ever safe, since the others were never told.
    inodes: BTreeMap<u64, Id>,
    told: BTreeSet<Id>,
    /// How often changes were taken back.
    undone: u64,
    time_ns: u64,
}

const LIMITS: Limits = Limits { names_max: 5, links_max: 3, file_bytes_max: 400_000, ..Limits::NORMAL };

fn content_hash(bytes: &[u8]) -> ChunkHash {
    // Any function without collisions among a few thousand chunks.
    let mut hash = [0; 32];
    for (index, part) in hash.chunks_mut(8).enumerate() {
        let mut hasher = DefaultHasher::new();
        (index, bytes).hash(&mut hasher);
        part.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    ChunkHash(hash)
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut changes = vec![];
        let files = Files::new(LIMITS, 7, 1, &mut changes);
        let disk = changes.iter().map(|change| (change.key(), change.value().unwrap())).collect();
        let facts = Facts {
            directories: [(0, BTreeMap::new())].into(),
            links: BTreeMap::new(),
            recorded: BTreeMap::new(),
            kept: BTreeSet::new(),
        };
        World {
            random: Random(seed),
            files,
            history: vec![(Sequence(0), facts.clone())],
            facts,
            now: BTreeMap::new(),
            next_id: 1,
            held: vec![],
            flights: vec![],
            disk,
            chunks: BTreeMap::new(),
            queue: vec![],
            safe: Sequence(0),
            inodes: [(1, 0)].into(),
            told: [0].into(),
            undone: 0,
            time_ns: 1,
        }
    }

    pub fn play(&mut self, steps: u32) {
        for _ in 0..steps {
            self.step();
            self.files.check();
        }
        self.compare();
        self.crash();
        self.compare();
    }

    fn step(&mut self) {
        self.time_ns += 1;
        match self.random.below(100) {
            0..14 => self.open(),
            14..20 => self.create_directory(),
            20..26 => self.symlink(),
            26..34 => self.unlink(),
            34..38 => self.remove_directory(),
            38..48 => self.rename(),
            48..52 => self.link(),
            52..64 => self.write(),
            64..68 => self.set_size(),
            68..71 => self.close(),
            71..76 => self.begin_flush(),
            76..82 => self.end_flush(),
            82..84 => self.set_times(),
            84..87 => self.look(),
            87..93 => self.make_safe(),
            93..95 => self.collect(),
            95..97 => self.undo(),
            97 => self.crash(),
            _ => self.compare_open(),
        }
    }

    fn path(&mut self) -> String {
        let mut path = String::new();
        for index in 0..1 + self.random.below(3) {
            if index > 0 {
                path.push('/');
            }
            let part = *self.random.pick(&["a", "b", "c", "d", "e", "f", "a", "b", "c", "..", "."]);
            path.push_str(part);
        }
        if self.random.below(12) == 0 {
            path.push('/');
        }
        path
    }

    /// What every act that may change names ends with.
    fn done<T: std::fmt::Debug>(&mut self, answer: Answer<T>, changes: Vec<Change>) -> Result<T, Errno> {
        if !changes.is_empty() {
            assert!(answer.result.is_ok());
            assert_eq!(answer.after, self.files.sequence());
            self.queue.push((answer.after, changes));
        }
        answer.result
    }

    /// A name of this was taken away.
    fn was_removed(&mut self, id: Id) {
        if self.facts.names_of(id) == 0 && self.held.iter().any(|held| held.id == id) {
            self.facts.kept.insert(id);
        }
    }

    /// The model has followed the last act.
    fn remember(&mut self) {
        if let Some((sequence, _)) = self.queue.last()
            && self.history.last().is_none_or(|(last, _)| last < sequence)
        {
            self.history.push((*sequence, self.facts.clone()));
        }
    }

    fn add(&mut self, directory: Id, name: &str) -> Id {
        let id = self.next_id;
        self.next_id += 1;
        self.facts.directories.get_mut(&directory).expect("it is a directory").insert(name.into(), id);
        id
    }

    fn know(&mut self, inode: u64, id: Id) {
        assert_eq!(*self.inodes.entry(inode).or_insert(id), id, "an inode was given twice");
    }

    fn open(&mut self) {
        if self.held.len() > 6 {
            return self.close();
        }
        let path = self.path();
        let existence = *self.random.pick(&[Existence::Required, Existence::Created, Existence::CreatedNew]);
        let truncate = self.random.below(8) == 0;
        let last_link = *self.random.pick(&[LastLink::Itself, LastLink::Target]);
        let how = Open { last_link, existence, kind: Kind::Any, access: Access::ReadWrite, truncate };
        let follow = existence != Existence::CreatedNew && (last_link == LastLink::Target || path.ends_with('/'));
        let end = self.facts.end(&path, follow);
        let mut changes = vec![];
        let answer = self.files.open(self.time_ns, ROOT_OPEN, &path, &how, &mut changes);
        let result = self.done(answer, changes);
        let Ok((open, kind)) = result else {
            assert!(
                !matches!(&end, End::Found(_, _, id) if existence != Existence::CreatedNew && self.now.contains_key(id)),
                "{path} could have been opened: {result:?}"
            );
            return;
        };
        assert_eq!(kind, Filetype::RegularFile);
        let id = match end {
            End::Found(_, _, id) if existence != Existence::CreatedNew => id,
            End::Missing(directory, name) if existence != Existence::Required => {
                let id = self.add(directory, &name);
                self.now.insert(id, Bytes::default());
                self.facts.recorded.insert(id, Bytes::default());
                id
            }
            end => panic!("{path} was opened, but is {end:?}"),
        };
        if truncate {
            self.now.insert(id, Bytes::default());
        }
        let inode = self.files.inode(open).unwrap().0.0;
        self.know(inode, id);
        self.held.push(Held { open, id });
        self.remember();
    }

    fn create_directory(&mut self) {
        let path = self.path();
        let end = self.facts.end(&path, false);
        let mut changes = vec![];
        let answer = self.files.create_directory(self.time_ns, ROOT_OPEN, &path, &mut changes);
        if self.done(answer, changes).is_ok() {
            let End::Missing(directory, name) = end else { panic!("{path} was made, but is {end:?}") };
            let id = self.add(directory, &name);
            self.facts.directories.insert(id, BTreeMap::new());
            self.remember();
        } else if let End::Missing(directory, _) = end {
            assert_eq!(self.facts.directories[&directory].len(), LIMITS.names_max, "{path} could have been made");
        }
    }

    fn symlink(&mut self) {
        let (path, content) = (self.path(), self.path());
        let end = self.facts.end(&path, false);
        let mut changes = vec![];
        let answer = self.files.symlink(self.time_ns, &content, ROOT_OPEN, &path, &mut changes);
        if self.done(answer, changes).is_ok() {
            let End::Missing(directory, name) = end else { panic!("{path} was made, but is {end:?}") };
            let id = self.add(directory, &name);
            self.facts.links.insert(id, content);
            self.remember();
        }
    }

    fn unlink(&mut self) {
        let path = self.path();
        let end = self.facts.end(&path, false);
        let mut changes = vec![];
        let answer = self.files.unlink(self.time_ns, ROOT_OPEN, &path, &mut changes);
        match (self.done(answer, changes), end) {
            (Ok(()), End::Found(directory, name, id)) => {
                assert!(!self.facts.directories.contains_key(&id));
                self.facts.directories.get_mut(&directory).unwrap().remove(&name);
                self.was_removed(id);
                self.remember();
            }
            (Ok(()), end) => panic!("{path} was removed, but is {end:?}"),
            (Err(error), End::Found(_, _, id)) => {
                assert!(self.facts.directories.contains_key(&id) || path.ends_with('/'), "{path}: {error}")
            }
            _ => {}
        }
    }

    fn remove_directory(&mut self) {
        let path = self.path();
        let end = self.facts.end(&path, false);
        let mut changes = vec![];
        let answer = self.files.remove_directory(self.time_ns, ROOT_OPEN, &path, &mut changes);
        let is_empty = |facts: &Facts, id| facts.directories.get(&id).is_some_and(|names| names.is_empty());
        match (self.done(answer, changes), end) {
            (Ok(()), End::Found(directory, name, id)) => {
                assert!(is_empty(&self.facts, id), "{path} was removed");
                self.facts.directories.get_mut(&directory).unwrap().remove(&name);
                self.remember();
            }
            (Ok(()), end) => panic!("{path} was removed, but is {end:?}"),
            (Err(error), End::Found(_, _, id)) => assert!(!is_empty(&self.facts, id), "{path}: {error}"),
            _ => {}
        }
    }

    fn rename(&mut self) {
        let (from, to) = (self.path(), self.path());
        let (source, target) = (self.facts.end(&from, false), self.facts.end(&to, false));
        let mut changes = vec![];
        let answer = self.files.rename(self.time_ns, (ROOT_OPEN, &from), (ROOT_OPEN, &to), &mut changes);
        let result = self.done(answer, changes);
        match (result, source, target) {
            (Ok(()), End::Found(old, old_name, id), End::Found(new, new_name, replaced)) => {
                if id == replaced {
                    return;
                }
                let directory = |id| self.facts.directories.get(&id).map(|names| names.is_empty());
                assert!(
                    matches!((directory(id), directory(replaced)), (None, None) | (Some(_), Some(true))),
                    "{from} replaced {to}"
                );
                self.facts.directories.get_mut(&old).unwrap().remove(&old_name);
                self.facts.directories.get_mut(&new).unwrap().insert(new_name, id);
                self.was_removed(replaced);
                self.remember();
            }
            (Ok(()), End::Found(old, old_name, id), End::Missing(new, new_name)) => {
                self.facts.directories.get_mut(&old).unwrap().remove(&old_name);
                self.facts.directories.get_mut(&new).unwrap().insert(new_name, id);
                self.remember();
            }
            (Ok(()), source, target) => panic!("{source:?} was renamed to {target:?}"),
            (Err(Errno::Inval), _, _) => {}
            (Err(error), End::Found(_, _, id), End::Missing(new, _)) => {
                let full = self.facts.directories[&new].len() == LIMITS.names_max;
                let slash = from.ends_with('/') || to.ends_with('/');
                assert!(full || (slash && !self.facts.directories.contains_key(&id)), "{from} to {to}: {error}");
            }
            _ => {}
        }
    }

    fn link(&mut self) {
        let (from, to) = (self.path(), self.path());
        let (source, target) = (self.facts.end(&from, false), self.facts.end(&to, false));
        let mut changes = vec![];
        let answer = self.files.link(self.time_ns, (ROOT_OPEN, &from), (ROOT_OPEN, &to), &mut changes);
        if self.done(answer, changes).is_ok() {
            let (End::Found(_, _, id), End::Missing(directory, name)) = (source, target) else {
                panic!("{from} was linked to {to}")
            };
            assert!(!self.facts.directories.contains_key(&id));
            self.facts.directories.get_mut(&directory).unwrap().insert(name, id);
            assert!(self.facts.names_of(id) <= LIMITS.links_max);
            self.remember();
        }
    }

    fn held(&mut self) -> Option<(OpenNumber, Id)> {
        let index = self.random.below(self.held.len().max(1) as u64) as usize;
        self.held.get(index).map(|held| (held.open, held.id))
    }

    fn write(&mut self) {
        let Some((open, id)) = self.held() else { return };
        let offset = *self.random.pick(&[0, 1, 100, 4000, 65_000, 65_536, 70_000, 131_072, 200_000]);
        let count = *self.random.pick(&[0, 1, 50, 3000, 4096, 5000, 65_536, 70_000]) as usize;
        let byte = self.random.number() as u8;
        let bytes: Vec<u8> = (0..count).map(|index| byte.wrapping_add((index / 7) as u8)).collect();
        let at = if self.random.below(4) == 0 { At::End } else { At::Offset(offset) };
        let mut supply = Supply::new();
        let written = loop {
            match self.files.write(self.time_ns, open, at, &bytes, &supply) {
                Err(WriteError::Wants(wants)) => {
                    for hash in wants {
                        let chunk = self.chunks.get(&hash).expect("a chunk that a file needs is lost").clone();
                        assert!(supply.insert(hash, chunk).is_none(), "a chunk was wanted twice");
                    }
                }
                other => break other,
            }
        };
        let content = Arc::make_mut(self.now.get_mut(&id).unwrap());
        let start = if at == At::End { content.len() } else { offset as usize };
        match written {
            Ok((count, end)) => {
                assert_eq!(end, (start + count) as u64);
                assert_eq!(count, bytes.len().min(LIMITS.file_bytes_max as usize - start));
                if content.len() < start + count {
                    content.resize(if count > 0 { start + count } else { content.len() }, 0);
                }
                if count > 0 {
                    content[start..start + count].copy_from_slice(&bytes[..count]);
                }
            }
            Err(error) => {
                assert_eq!(error, WriteError::Failed(Errno::FBig));
                assert_eq!(start as u64, LIMITS.file_bytes_max);
            }
        }
    }

    fn set_size(&mut self) {
        let Some((open, id)) = self.held() else { return };
        let size = *self.random.pick(&[0u64, 1, 60, 4096, 5000, 65_536, 65_600, 140_000]);
        self.files.set_size(self.time_ns, open, size).unwrap();
        Arc::make_mut(self.now.get_mut(&id).unwrap()).resize(size as usize, 0);
    }

    fn set_times(&mut self) {
        let path = self.path();
        let times = SetTimes { accessed: SetTime::Keep, modified: SetTime::At(self.random.below(1000)) };
        let mut changes = vec![];
        let answer = self.files.set_times_at(self.time_ns, ROOT_OPEN, &path, LastLink::Target, times, &mut changes);
        let _ = self.done(answer, changes);
        self.remember();
    }

    fn close(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let index = self.random.below(self.held.len() as u64) as usize;
        let held = self.held.swap_remove(index);
        let mut changes = vec![];
        let answer = self.files.close(held.open, &mut changes);
        self.done(answer, changes).unwrap();
        if self.held.iter().all(|other| other.id != held.id) && self.facts.kept.remove(&held.id) {
            self.remember();
        }
        assert!(self.files.stat(held.open).is_err());
    }

    /// Looks at a path. What is seen must be so too in what is safe when the answer may be told.
    fn look(&mut self) {
        let path = self.path();
        let end = self.facts.end(&path, true);
        let answer = self.files.stat_at(ROOT_OPEN, &path, LastLink::Target);
        assert!(answer.after <= self.files.sequence(), "an answer rests on what has not been done");
        let at = answer.after.max(self.safe);
        let (_, facts) =
            self.history.iter().rev().find(|(sequence, _)| *sequence <= at).expect("the beginning is there");
        assert_eq!(facts.end(&path, true), end, "{path} was told before it was safe");
        match (answer.result, end) {
            (Ok(stat), End::Found(_, _, id)) => {
                self.know(stat.inode, id);
                if let Some(content) = self.now.get(&id) {
                    assert_eq!(stat.size_bytes, content.len() as u64);
                    assert_eq!(stat.links as usize, self.facts.names_of(id));
                }
            }
            (Ok(stat), End::Directory(_)) => assert_eq!(stat.kind, Filetype::Directory),
            (Ok(_), end) => panic!("{path} was found, but is {end:?}"),
            (Err(error), End::Out) => assert_eq!(error, Errno::NotCapable, "{path}"),
            (Err(error), End::Found(..) | End::Directory(_)) => panic!("{path} was not found: {error}"),
            _ => {}
        }
    }

    fn begin_flush(&mut self) {
        let Some((open, id)) = self.held() else { return };
        let inode = self.files.inode(open).unwrap().0;
        let recording = self.random.below(4) > 0;
        let flush = if recording { self.files.capture(inode) } else { self.files.capture_dirty(inode) };
        match flush {
            Flush::Busy => assert!(self.flights.iter().any(|flight| flight.id == id)),
            Flush::Nothing(_) if recording && self.facts.is_recorded(id) => {
                assert_eq!(self.facts.recorded[&id], self.now[&id], "there was something to record")
            }
            Flush::Nothing(_) => {}
            Flush::Captured(capture) => {
                let content = self.now[&id].clone();
                let undone = self.undone;
                self.flights.push(Flight { capture, id, content, recording, undone });
            }
        }
    }

    fn end_flush(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        let index = self.random.below(self.flights.len() as u64) as usize;
        let Flight { capture, id, content, recording, undone } = self.flights.swap_remove(index);
        if self.random.below(6) == 0 {
            return self.files.flush_failed(capture);
        }
        let mut pieces = BTreeMap::new();
        for (index, captured) in &capture.pages {
            if let Captured::Bytes { bytes, .. } = captured {
                let piece = if bytes.len() <= INLINE_BYTES_MAX {
                    Piece::Inline(bytes.as_slice().into())
                } else {
                    let hash = content_hash(bytes);
                    self.chunks.insert(hash, bytes.as_slice().into());
                    Piece::Chunk { hash, used_bytes: bytes.len() as u32 }
                };
                pieces.insert(*index, piece);
            }
        }
        let mut changes = vec![];
        let answer = self.files.flushed(capture, &pieces, &mut changes);
        if let Err(errno) = self.done(answer, changes) {
            assert!(errno == Errno::Again && undone != self.undone, "{errno}");
            return;
        }
        if recording && self.facts.is_recorded(id) {
            self.facts.recorded.insert(id, content);
        }
        self.remember();
    }

    /// Some of the changes, in their order, become safe.
    fn make_safe(&mut self) {
        let count = self.random.below(self.queue.len() as u64 + 1) as usize;
        self.commit(count);
        self.files.safe(self.safe);
    }

    fn commit(&mut self, count: usize) {
        for (sequence, changes) in self.queue.drain(..count) {
            for change in changes {
                match change.value() {
                    Some(value) => drop(self.disk.insert(change.key(), value)),
                    None => drop(self.disk.remove(&change.key())),
                }
            }
            self.safe = sequence;
        }
        for (_, facts) in self.history.iter().filter(|(sequence, _)| *sequence <= self.safe) {
            self.told.extend(facts.directories.values().flat_map(|names| names.values()));
        }
        let keep =
            self.history.iter().rposition(|(sequence, _)| *sequence <= self.safe).expect("the beginning is there");
        self.history.drain(..keep);
    }

    /// Chunks that nobody needs are thrown away.
    fn collect(&mut self) {
        for hash in self.files.take_unneeded(usize::MAX) {
            assert!(!self.files.needs(&hash));
            self.chunks.remove(&hash);
        }
    }

    /// What is not safe cannot become so: it is taken back.
    fn undo(&mut self) {
        self.queue.clear();
        self.files.undo(self.safe);
        self.undone += 1;
        self.files.check();
        self.history.truncate(1);
        self.facts = self.history[0].1.clone();
        self.compare();
    }

    /// Everything that is not safe is gone, in the middle of anything.
    fn crash(&mut self) {
        let count = self.random.below(self.queue.len() as u64 + 1) as usize;
        self.commit(count);
        self.queue.clear();
        let held: Vec<(Inode, Id)> =
            self.held.drain(..).map(|held| (self.files.inode(held.open).unwrap().0, held.id)).collect();
        self.flights.clear();
        self.history.truncate(1);
        self.facts = self.history[0].1.clone();
        self.now = self.facts.recorded.clone();
        self.inodes.retain(|_, id| self.told.contains(id));
        let records = self.disk.iter().map(|(key, value)| Change::read(key, value).expect("a record can be read"));
        self.files = Files::replay(LIMITS, self.safe, records).expect("the records make a tree");
        self.files.check();
        if self.random.below(2) == 0 {
            // Some of those who had something open come back.
            for (inode, id) in held {
                if self.random.below(4) == 0 {
                    continue;
                }
                let is_there = self.facts.is_recorded(id);
                match self.files.reopen(inode, Access::ReadWrite) {
                    Ok(open) => self.held.push(Held { open, id }),
                    Err(error) => assert!(!is_there && error == Errno::Stale, "an open file is lost: {error}"),
                }
            }
        }
        let mut changes = vec![];
        let answer = self.files.forget_kept(&mut changes);
        self.done(answer, changes).unwrap();
        self.files.check();
        self.facts.kept.retain(|id| self.held.iter().any(|held| held.id == *id));
        self.remember();
        let needed: BTreeSet<_> = self.files.chunks_needed().copied().collect();
        self.chunks.retain(|hash, _| needed.contains(hash));
        self.compare();
    }

    fn gather(&self, stretches: Vec<Stretch>) -> Vec<u8> {
        let mut all = vec![];
        for stretch in stretches {
            match stretch {
                Stretch::Zeros { bytes } => all.resize(all.len() + bytes, 0),
                Stretch::Bytes { bytes, from, to } => all.extend_from_slice(&bytes[from..to]),
                Stretch::Inline { bytes, from, to } => all.extend_from_slice(&bytes[from..to]),
                Stretch::Chunk { hash, from, to } => {
                    all.extend_from_slice(&self.chunks.get(&hash).expect("a chunk that a file needs is lost")[from..to])
                }
            }
        }
        all
    }

    fn compare_open(&mut self) {
        for held in &self.held {
            let all = self.gather(self.files.read_all(held.open, u64::MAX).unwrap());
            assert!(all == **self.now[&held.id], "an open file has other content");
            let links = self.files.stat(held.open).unwrap().links;
            assert_eq!(links as usize, self.facts.names_of(held.id));
        }
    }

    /// The tree is what the model says, all of it.
    fn compare(&mut self) {
        self.compare_open();
        let mut at = vec![(0, ROOT_OPEN, String::new())];
        let how = Open {
            last_link: LastLink::Itself,
            existence: Existence::Required,
            kind: Kind::Any,
            access: Access::Read,
            truncate: false,
        };
        while let Some((id, open, path)) = at.pop() {
            let entries = self.files.list(open).result.unwrap();
            let names: Vec<&str> = entries[2..].iter().map(|entry| entry.name.as_str()).collect();
            let expected: Vec<&str> = self.facts.directories[&id].keys().map(String::as_str).collect();
            assert_eq!(names, expected, "in {path}");
            for entry in &entries[2..] {
                let (id, path) = (self.facts.directories[&id][&entry.name], format!("{path}/{}", entry.name));
                self.know(entry.inode, id);
                if let Some(content) = self.facts.links.get(&id) {
                    assert_eq!(self.files.read_link(open, &entry.name).result.as_ref(), Ok(content), "{path}");
                    continue;
                }
                let opened = self.files.open(0, open, &entry.name, &how, &mut vec![]).result.unwrap();
                if entry.kind == Filetype::Directory {
                    at.push((id, opened.0, path));
                    continue;
                }
                let all = self.gather(self.files.read(opened.0, 0, usize::MAX).unwrap());
                assert!(all == **self.now[&id], "{path} has other content");
                assert_eq!(self.files.close(opened.0, &mut vec![]).result, Ok(()));
            }
            assert_eq!(self.files.close(open, &mut vec![]).result, Ok(()));
        }
    }
}

/// One seed, and what was wrong with it.
pub fn play(seed: u64, steps: u32) -> Result<(), String> {
    let outcome = std::panic::catch_unwind(|| World::new(seed).play(steps));
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default()
    })
}
