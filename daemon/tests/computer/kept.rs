//! What must hold of checkpoints beside the files, each as a story. A story panics where it is not so.

use super::*;
use daemon::files::{KeepAsk, KeepError, KeepTold, Whereabouts};
use daemon::keep::{Cut, Cutter, Store, Whole};
use drivers::chunks::{ChunkError, ChunkName};

const RECORDS: &[u8] = b"k/c/";

/// One checkpoint that is being made at a node.
struct Draft {
    shared: Shared,
    number: u64,
    /// One chunk, counted from the first, is forgotten.
    forgets: Option<usize>,
    put: Mutex<usize>,
}

impl Draft {
    fn new(shared: Shared, number: u64) -> Draft {
        Draft { shared, number, forgets: None, put: Mutex::new(0) }
    }
}

fn soon() -> Instant {
    Instant::now() + LONG / 2
}

impl Store for Draft {
    fn put(&self, mut chunks: Vec<(ChunkName, Vec<u8>)>) -> Result<(), String> {
        let mut put = self.put.lock().unwrap();
        if let Some(at) = self.forgets.and_then(|forgets| forgets.checked_sub(*put)).filter(|at| *at < chunks.len()) {
            chunks.remove(at);
        }
        *put += chunks.len();
        let ask = KeepAsk::Put { draft: self.number, chunks };
        let deadline = soon();
        loop {
            match self.shared.keep(&ask, deadline) {
                // Whoever makes a checkpoint begins anew.
                Err(KeepError::Failed(why)) if why.contains("no other node") && Instant::now() < deadline => {}
                told => return told.map(drop).map_err(|error| error.to_string()),
            }
        }
    }

    fn get(&self, name: &ChunkName) -> Result<Arc<[u8]>, ChunkError> {
        self.shared.kept_chunk(name)
    }
}

/// Cuts bytes as if they were a process.
fn cut(draft: &Draft, memory: &[u8], before: Option<&Cut>) -> (Cut, ChunkName) {
    let mut cutter = Cutter::new(draft);
    let memory = cutter.blob(memory, before.map(|before| &before.memories[0]), |_| true).unwrap();
    let cut = Cut { memories: vec![memory], ..Cut::default() };
    let root = cutter.seal(&cut, before).unwrap();
    (cut, root)
}

fn commit(draft: &Draft, key: &str, root: ChunkName, remove: &[&str]) -> Result<KeepTold, KeepError> {
    let ask = KeepAsk::Commit {
        draft: draft.number,
        key: key.into(),
        value: [&root.0[..], b"more"].concat(),
        unchanged: vec![],
        remove: remove.iter().map(|key| key.as_bytes().to_vec()).collect(),
    };
    draft.shared.keep(&ask, soon())
}

fn is_whole(shared: &Shared, root: ChunkName, memory: &[u8]) -> bool {
    let draft = Draft::new(shared.clone(), 0);
    let Ok(whole) = Whole::open(&draft, root) else { return false };
    let Ok(cut) = whole.cut() else { return false };
    let units = memory.chunks(services::checkpoints::UNIT_BYTES);
    cut.memories[0].bytes == memory.len() as u64
        && units.zip(&cut.memories[0].names).all(|(unit, name)| match name {
            Some(name) => shared.kept_chunk(name).is_ok_and(|bytes| *bytes == *unit),
            None => unit.iter().all(|byte| *byte == 0),
        })
}

fn records(computer: &Computer) -> usize {
    computer.memory.state.lock().unwrap().records.keys().filter(|key| key.starts_with(RECORDS)).count()
}

pub fn half_a_checkpoint_is_never_recorded() {
    let computer = Computer::of(2);
    let memory = pattern(700_000, 1);
    let whole = Draft::new(computer.node(computer.others()[0]), 1);
    let (_, root) = cut(&whole, &memory, None);
    let count = *whole.put.lock().unwrap();
    for forgets in 0..count {
        let other = pattern(700_000, 2 + forgets as u64);
        let half = Draft { forgets: Some(forgets), ..Draft::new(whole.shared.clone(), 100 + forgets as u64) };
        let (_, root) = cut(&half, &other, None);
        match commit(&half, "half", root, &[]) {
            Ok(KeepTold::Incomplete(1)) | Err(KeepError::Failed(_)) => {}
            other => panic!("without chunk {forgets} of {count}: {other:?}"),
        }
        assert_eq!(records(&computer), 0);
    }
    assert_eq!(commit(&whole, "whole", root, &[]), Ok(KeepTold::Done));
    assert!(is_whole(&whole.shared, root, &memory));
    // What was never put here is not taken for kept either.
    let nothing = Draft::new(whole.shared.clone(), 9);
    assert_eq!(commit(&nothing, "other", root, &[]), Err(KeepError::HolderChanged));
}

pub fn a_checkpoint_survives_any_one_node_and_goes_when_it_is_removed() {
    let computer = Computer::of(3);
    let holder = computer.holder();
    let maker = Draft::new(computer.node(computer.others()[0]), 1);
    let memory = pattern(900_000, 1);
    let (before, first) = cut(&maker, &memory, None);
    assert_eq!(commit(&maker, "1", first, &[]), Ok(KeepTold::Done));
    let mut changed = memory.clone();
    changed[300_000] ^= 1;
    let draft = Draft::new(maker.shared.clone(), 2);
    let (_, second) = cut(&draft, &changed, Some(&before));
    assert!(*draft.put.lock().unwrap() <= 3, "a unit, a list and a root are new");
    assert_eq!(commit(&draft, "2", second, &[]), Ok(KeepTold::Done));
    computer.kill(holder);
    let new = computer.holder();
    let told = |root| {
        let look = KeepAsk::Look { root, verify: true };
        match computer.node(new).keep(&look, soon()) {
            Ok(KeepTold::Looked(Whereabouts { missing, at, chunks })) => (missing, at.len(), chunks),
            other => panic!("{other:?}"),
        }
    };
    // Whatever the new holder finds and tidies up, what is kept stays, and has two copies again.
    until("two copies again", || {
        let view = computer.node(new).view();
        view.copies.is_some_and(|copies| copies.thin == 0 && copies.chunks >= 15)
    });
    for (_, shared) in computer.all() {
        assert!(is_whole(&shared, first, &memory) && is_whole(&shared, second, &changed));
    }
    assert_eq!((told(first).0, told(second).0), (0, 0));
    let remove = |key: &str| computer.node(new).keep(&KeepAsk::Remove { keys: vec![key.into()] }, soon());
    assert_eq!(remove("1"), Ok(KeepTold::Done));
    assert!(is_whole(&computer.node(new), second, &changed), "what both had is still there");
    assert_eq!(remove("2"), Ok(KeepTold::Done));
    until("all chunks to be gone", || computer.all().iter().all(|(node, _)| computer.chunks(*node) == 0));
}

pub fn a_draft_lasts_until_its_node_is_gone() {
    let computer = Computer::of(3);
    let maker = computer.others()[0];
    let draft = Draft::new(computer.node(maker), 1);
    let memory = pattern(500_000, 1);
    let (_, root) = cut(&draft, &memory, None);
    // Files come and go, and scans look at everything, meanwhile.
    let mut files = computer.session(computer.others()[1]);
    for round in 0..3 {
        put(&mut files, "file", &pattern(200_000, round)).unwrap();
        files.unlink(OpenId(0), "file").unwrap();
        let scanned = Instant::now();
        until("a scan", || scanned.elapsed() > OPTIONS.scan_every * 2);
    }
    assert_eq!(commit(&draft, "1", root, &[]), Ok(KeepTold::Done));
    assert!(is_whole(&draft.shared, root, &memory));
    let other = Draft::new(computer.node(maker), 2);
    cut(&other, &pattern(500_000, 2), None);
    drop((draft, other));
    computer.kill(maker);
    let remove = KeepAsk::Remove { keys: vec![b"1".to_vec()] };
    assert_eq!(computer.node(computer.holder()).keep(&remove, soon()), Ok(KeepTold::Done));
    until("all chunks to be gone", || computer.all().iter().all(|(node, _)| computer.chunks(*node) == 0));
}

pub fn a_checkpoint_is_recorded_once_whatever_is_lost_on_the_way() {
    let computer = Computer::of(2);
    let shared = computer.node(computer.others()[0]);
    computer.lose_answers(7, Some(3));
    for number in 1..12u64 {
        let draft = Draft::new(shared.clone(), number);
        let memory = pattern(300_000, number);
        let (_, root) = cut(&draft, &memory, None);
        let before = format!("{}", number - 1);
        assert_eq!(commit(&draft, &number.to_string(), root, &[&before]), Ok(KeepTold::Done));
        computer.lose_answers(number, Some(3));
    }
    computer.lose_answers(0, None);
    assert_eq!(records(&computer), 1, "each replaced the one before");
    let remove = KeepAsk::Remove { keys: vec![b"11".to_vec()] };
    assert_eq!(shared.keep(&remove, soon()), Ok(KeepTold::Done));
    until("all chunks to be gone", || computer.all().iter().all(|(node, _)| computer.chunks(*node) == 0));
}

pub fn on_a_full_disk_nothing_is_half_kept() {
    let mut options = OPTIONS;
    options.tree.chunks.spare_bytes = u64::MAX / 4;
    let computer = Computer::with(1, options);
    computer.holder();
    let draft = Draft::new(computer.node(NodeId(1)), 1);
    let refused = draft.put(vec![(ChunkName::of(b"content"), b"content".to_vec())]);
    assert!(refused.as_ref().is_err_and(|why| why.contains("is full")), "{refused:?}");
    assert_eq!((records(&computer), computer.chunks(NodeId(1))), (0, 0));
}
