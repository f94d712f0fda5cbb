//! What the holder of the tree does for sessions of other nodes. Knows no network: a request comes in, an answer goes out.
//!
//! The one idea: a session is one [`TreeFiles`], and does one thing at a time. The last answer is kept, so that whoever did not get
//! it asks again and gets the same.

use super::hold::{Confirmed, Hold};
use super::planted::{Bug, planted};
use super::request::{Act, Asked, Part, Told};
use super::tree::{SessionKey, Tree, TreeFiles};
use abi::errno::Errno;
use abi::file::{Durable, FileSystem, OpenId};
use abi::ids::NodeId;
use abi::wasi::Advice;
use drivers::chunks::ChunkName;
use services::files::Stretch;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

/// Bytes of content in one answer.
pub(super) const READ_BYTES_MAX: usize = 4 << 20;
/// Less than that of a chunk is not worth another question.
const CHUNK_PART_MIN: usize = 16 << 10;
/// An act that is asked for again while it is being done is waited for so long.
const WORK_PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);
/// Of all nodes. Then: [`Errno::NFile`].
const SESSIONS_MAX: usize = 1 << 16;
/// The number under which a session ends that lasts.
pub(super) const FOR_GOOD: u64 = u64::MAX;

pub(super) struct Served {
    sessions: Mutex<BTreeMap<(NodeId, SessionKey), Arc<Mutex<Seat>>>>,
}

/// One session of another node.
struct Seat {
    epoch: u64,
    files: TreeFiles,
    /// What is asked with a lower number was long under way: whoever asked it has gone on.
    least: u64,
    answered: Option<(u64, Told)>,
}

impl Served {
    pub fn new() -> Served {
        Served { sessions: Mutex::new(BTreeMap::new()) }
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<(NodeId, SessionKey), Arc<Mutex<Seat>>>> {
        self.sessions.lock().expect("nothing panics while it holds the sessions")
    }

    pub fn has(&self, key: &SessionKey) -> bool {
        self.sessions().keys().any(|(_, other)| other == key)
    }

    /// The tree is somebody else's now.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.sessions());
        drop(all);
    }

    /// Whoever is at none of these nodes is gone. What he was answered last is remembered, should he come back.
    pub fn keep_only(&self, nodes: &[NodeId], tree: Option<&Tree>) {
        let mut gone = vec![];
        self.sessions().retain(|(node, key), seat| {
            let stays = nodes.contains(node);
            if !stays {
                gone.push((*key, seat.clone()));
            }
            stays
        });
        for (key, seat) in gone {
            if let Some(tree) = tree {
                tree.remember(key, seat.lock().expect("a session does not panic").files.done());
            }
        }
    }

    pub fn count(&self) -> usize {
        self.sessions().len()
    }

    /// Is a later incarnation of the same one here?
    fn is_superseded(&self, key: &SessionKey) -> bool {
        key.lasts() && self.sessions().keys().any(|(_, other)| key.comes_before(other))
    }

    /// Earlier incarnations of this one ask for nothing any more.
    pub fn supersede(&self, key: &SessionKey) {
        if !key.lasts() {
            return;
        }
        let mut sessions = self.sessions();
        let earlier: Vec<_> = sessions.keys().filter(|(_, other)| other.comes_before(key)).copied().collect();
        let gone: Vec<_> = earlier.iter().filter_map(|place| sessions.remove(place)).collect();
        drop(sessions);
        drop(gone);
    }

    /// Does what is asked, once.
    pub fn answer(&self, hold: &Hold, epoch: u64, tree: &Tree, from: NodeId, asked: Asked) -> Told {
        let Asked { session, number, act, .. } = asked;
        let place = (from, session);
        match act {
            Act::Claim(held) => {
                let before = self.sessions().get(&place).cloned();
                if let Some(before) = before {
                    let Ok(seat) = before.try_lock() else { return Told::Working };
                    // It sits here already, and has gone on since this was asked.
                    if seat.epoch == epoch && seat.answered.as_ref().is_some_and(|(last, _)| *last >= number) {
                        return Told::Claimed { lost: vec![] };
                    }
                }
                if self.is_superseded(&session) {
                    return Told::Failed(Errno::Stale);
                }
                let (files, lost) = tree.claim(session, &held);
                if hold.confirm(epoch) == Confirmed::Lost {
                    return Told::NotHolder;
                }
                let seat = Arc::new(Mutex::new(Seat { epoch, files, least: number, answered: None }));
                let mut sessions = self.sessions();
                if sessions.len() >= SESSIONS_MAX && !sessions.contains_key(&place) {
                    return Told::Failed(Errno::NFile);
                }
                let before = sessions.insert(place, seat);
                drop(sessions);
                // What it had open is open again before it is closed here.
                drop(before);
                self.supersede(&session);
                Told::Claimed { lost }
            }
            Act::End => {
                let seat = self.sessions().remove(&place);
                let done = seat.and_then(|seat| seat.lock().expect("a session does not panic").files.done());
                // Of one that lasts the next incarnation asks what it was answered.
                if done.is_some() && !session.lasts() || number == FOR_GOOD {
                    tree.forget(session);
                }
                Told::Done
            }
            act => {
                let seat = self.sessions().get(&place).cloned();
                let Some(seat) = seat else { return Told::Unclaimed };
                // Whoever asks again while it is being done does not take up a thread for long.
                let until = Instant::now() + WORK_PATIENCE;
                let mut seat = loop {
                    match seat.try_lock() {
                        Ok(seat) => break seat,
                        Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(PAUSE),
                        Err(TryLockError::WouldBlock) => return Told::Working,
                        Err(TryLockError::Poisoned(_)) => panic!("a session does not panic"),
                    }
                };
                if seat.epoch != epoch {
                    return Told::Unclaimed;
                }
                match &seat.answered {
                    _ if planted(Bug::AskedAgainIsNew) => {}
                    Some((last, told)) if *last == number => return told.clone(),
                    _ if number < seat.least => return Told::Failed(Errno::Stale),
                    _ => {}
                }
                seat.files.asks((!planted(Bug::AskedAgainIsNew)).then_some((session, number)));
                let told = do_it(&mut seat.files, tree, act);
                if told == Told::Failed(Errno::OwnerDead) || hold.confirm(epoch) == Confirmed::Lost {
                    return Told::NotHolder;
                }
                seat.answered = Some((number, told.clone()));
                seat.least = seat.least.max(number);
                told
            }
        }
    }
}

fn do_it(files: &mut TreeFiles, tree: &Tree, act: Act) -> Told {
    match try_it(files, tree, act) {
        Ok(told) => told,
        Err(errno) => Told::Failed(errno),
    }
}

fn opened(files: &TreeFiles, id: OpenId, kind: abi::wasi::Filetype) -> Result<Told, Errno> {
    Ok(Told::Opened { id, kind, inode: files.held(id)?.inode })
}

fn try_it(files: &mut TreeFiles, tree: &Tree, act: Act) -> Result<Told, Errno> {
    let done = |()| Told::Done;
    match act {
        Act::Claim(_) | Act::End => unreachable!("it was just looked at"),
        Act::Open { directory, path, how } => {
            let new = files.open(directory, &path, &how)?;
            opened(files, new.id, new.kind)
        }
        Act::Duplicate(id) => {
            let kind = files.stat(id)?.kind;
            let id = files.duplicate(id)?;
            opened(files, id, kind)
        }
        Act::Close(id) => {
            files.close(id);
            Ok(Told::Done)
        }
        Act::Read { file, offset, count, whatever } => {
            let count = (count as usize).min(READ_BYTES_MAX);
            let stretches =
                if whatever { files.all_stretches(file, offset, count) } else { files.stretches(file, offset, count) };
            Ok(Told::Content(stretches?.into_iter().map(|stretch| part(tree, stretch)).collect()))
        }
        Act::Write { file, offset, bytes } => {
            let count = files.write_at(file, &bytes, offset)? as u64;
            Ok(Told::Written { count, end: offset.saturating_add(count) })
        }
        Act::Append { file, bytes } => {
            files.append(file, &bytes).map(|(count, end)| Told::Written { count: count as u64, end })
        }
        Act::AppendAt { file, bytes, end } => {
            let count = files.append_at(file, &bytes, end)? as u64;
            Ok(Told::Written { count, end: end.saturating_add(count) })
        }
        Act::Stat(id) => files.stat(id).map(Told::Stat),
        Act::SetSize { file, size_bytes } => files.set_size(file, size_bytes).map(done),
        Act::SetTimes { id, times } => files.set_times(id, times).map(done),
        Act::Allocate { file, offset, length } => files.allocate(file, offset, length).map(done),
        Act::Advise(id) => files.advise(id, 0, 0, Advice::Normal).map(done),
        Act::Sync(id) => files.sync(id, Durable::Everything).map(done),
        Act::List(id) => files.list(id).map(Told::Entries),
        Act::StatAt { directory, path, last_link } => files.stat_at(directory, &path, last_link).map(Told::Stat),
        Act::SetTimesAt { directory, path, last_link, times } => {
            files.set_times_at(directory, &path, last_link, times).map(done)
        }
        Act::CreateDirectory { directory, path } => files.create_directory(directory, &path).map(done),
        Act::RemoveDirectory { directory, path } => files.remove_directory(directory, &path).map(done),
        Act::Unlink { directory, path } => files.unlink(directory, &path).map(done),
        Act::Rename { from, to } => files.rename((from.0, &from.1), (to.0, &to.1)).map(done),
        Act::Link { from, to } => files.link((from.0, &from.1), (to.0, &to.1)).map(done),
        Act::Symlink { content, directory, path } => files.symlink(&content, directory, &path).map(done),
        Act::ReadLink { directory, path } => files.read_link(directory, &path).map(Told::Text),
        Act::Locate(id) => files.locate(id).map(Told::Place),
        Act::OrphanFile => {
            let id = files.orphan_file(&[])?;
            opened(files, id, abi::wasi::Filetype::RegularFile)
        }
        Act::OrphanDirectory => {
            let id = files.orphan_directory()?;
            opened(files, id, abi::wasi::Filetype::Directory)
        }
    }
}

fn part(tree: &Tree, stretch: Stretch) -> Part {
    match stretch {
        Stretch::Zeros { bytes } => Part::Zeros { bytes: bytes as u64 },
        Stretch::Bytes { bytes, from, to } => Part::Bytes(bytes[from..to].to_vec()),
        Stretch::Inline { bytes, from, to } => Part::Bytes(bytes[from..to].to_vec()),
        Stretch::Chunk { hash, from, to } => {
            let name = ChunkName(hash.0);
            match (to - from < CHUNK_PART_MIN).then(|| tree.copies().get(&name)) {
                Some(Ok(bytes)) if bytes.len() >= to => Part::Bytes(bytes[from..to].to_vec()),
                _ => Part::Chunk { name, from: from as u32, to: to as u32 },
            }
        }
    }
}
