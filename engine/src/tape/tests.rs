//! A tape written, cut, told again and told wrongly, by its own face and through files and worlds. Knows no program.

use super::*;
use abi::file::*;
use abi::wasi::{Clockid, Filetype};
use std::cell::Cell;
use std::sync::atomic::AtomicU64;

fn tape(mark: Mark, told: Told) -> Tape {
    Tape::new(mark, told, Arc::default(), Box::new(|| {}))
}

fn number(tape: &Tape, tag: Tag, ask: impl FnOnce() -> u64) -> u64 {
    let write = |value: &u64, to: &mut Writer| {
        to.u64(*value);
    };
    tape.told(tag, u64::MAX, write, |from| from.u64(), ask)
}

/// All that is to be written, as it would be.
fn pieces(tape: &Tape, most: usize) -> Vec<Piece> {
    let mut all = vec![];
    tape.hurry();
    while let Some(mut piece) = tape.wait(Duration::ZERO) {
        piece.bytes.truncate(most);
        tape.is_kept(&piece);
        tape.hurry();
        all.push(piece);
    }
    all
}

#[test]
fn what_was_told_is_told_again_and_then_asked_on() {
    let first = tape(Mark::default(), Told::default());
    first.begin();
    for value in 0..100 {
        assert_eq!(number(&first, Tag::Random, || value), value);
    }
    let whole = pieces(&first, usize::MAX);
    let told = Told::of(0, whole).unwrap();
    assert_eq!((told.end, first.safe()), (first.end(), first.end()));
    let lived = Arc::new(AtomicBool::new(false));
    let lives = lived.clone();
    let again = Tape::new(Mark::default(), told, Arc::default(), Box::new(move || lives.store(true, Ordering::SeqCst)));
    again.begin();
    for value in 0..100 {
        assert!(again.is_again());
        assert_eq!(number(&again, Tag::Random, || panic!("nobody is asked")), value);
        assert!(!lived.load(Ordering::SeqCst));
    }
    assert_eq!(number(&again, Tag::Random, || 1000), 1000);
    assert!(!again.is_again() && lived.load(Ordering::SeqCst));
    // It goes on where the first ended.
    let more = pieces(&again, usize::MAX);
    assert_eq!((more[0].at, more[0].is_fresh), (first.end(), true));
}

/// Killed at any moment: whatever was written down by then, whole records are told again, and what comes after is put behind them.
#[test]
fn a_tape_goes_on_wherever_it_was_cut_off() {
    let script: Vec<u64> = (0..40).map(|value| value * 1_000).collect();
    let live = tape(Mark::default(), Told::default());
    live.begin();
    script.iter().for_each(|value| assert_eq!(number(&live, Tag::Random, || *value), *value));
    let whole = pieces(&live, usize::MAX).remove(0);
    for cut in 0..=whole.bytes.len() {
        let mut kept = vec![];
        if cut > 0 {
            kept.push(Piece { bytes: whole.bytes[..cut].to_vec(), ..whole });
        }
        let mut heard = vec![];
        // The second life is cut off as well, in the middle of a record.
        for (life, most) in [(1u64, 13), (2, usize::MAX)] {
            let told = Told::of(0, kept.clone()).unwrap();
            assert_eq!(told.end, kept.iter().map(|piece| piece.bytes.len() as u64).sum::<u64>());
            let next = tape(Mark::default(), told);
            next.begin();
            heard.clear();
            (0..50).for_each(|at| heard.push(number(&next, Tag::Random, || life * 1_000_000 + at)));
            let mut written = pieces(&next, most);
            written.truncate(if life == 1 { 1 } else { usize::MAX });
            kept.extend(written);
        }
        let again = tape(Mark::default(), Told::of(0, kept).unwrap());
        again.begin();
        for (at, value) in heard.iter().enumerate() {
            assert_eq!(number(&again, Tag::Random, || panic!("all is there")), *value, "cut at {cut}, answer {at}");
        }
        let of_first = heard.iter().take_while(|value| **value < 1_000_000).count();
        assert_eq!(of_first, cut / 10, "cut at {cut}");
    }
}

#[test]
fn what_lies_before_a_checkpoint_is_left_out_and_a_gap_is_noticed() {
    let live = tape(Mark::default(), Told::default());
    live.begin();
    let mut marks = vec![];
    for value in 0..20 {
        marks.push(live.mark().position);
        number(&live, Tag::Random, || value);
    }
    let parts = pieces(&live, 37);
    assert!(parts.len() > 3);
    for (value, mark) in marks.iter().enumerate() {
        let again = tape(Mark { position: *mark, ..Mark::default() }, Told::of(*mark, parts.clone()).unwrap());
        again.begin();
        (value as u64..20).for_each(|value| assert_eq!(number(&again, Tag::Random, || panic!("it is there")), value));
    }
    for missing in 0..parts.len() - 1 {
        let mut rest = parts.clone();
        rest.remove(missing);
        assert!(matches!(Told::of(0, rest), Err(Gap::Missing { .. })), "without piece {missing}");
    }
}

/// Whatever is made of a tape, it is read as whole records or refused, and never with a panic.
#[test]
fn a_tape_of_any_bytes_is_read_or_refused() {
    let mut random = 0x1234_5678_9abc_def1u64;
    for round in 0..20_000u64 {
        let mut bytes = vec![];
        for _ in 0..random % 40 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            bytes.push(if round % 2 == 0 { random as u8 } else { random as u8 % 12 });
        }
        random = random.wrapping_add(round) | 1;
        let Ok(told) = Told::of(0, [Piece { at: 0, is_fresh: true, bytes }]) else { continue };
        let again = tape(Mark::default(), told);
        again.begin();
        for _ in 0..8 {
            number(&again, Tag::Random, || 1);
        }
    }
}

#[test]
fn another_question_than_before_is_noticed_and_nothing_counts_after_it() {
    let live = tape(Mark::default(), Told::default());
    live.begin();
    number(&live, Tag::Random, || 1);
    number(&live, Tag::Realtime, || 2);
    number(&live, Tag::Random, || 3);
    let again = tape(Mark::default(), Told::of(0, pieces(&live, usize::MAX)).unwrap());
    again.begin();
    assert_eq!(number(&again, Tag::Random, || panic!("it is there")), 1);
    assert_eq!(number(&again, Tag::Random, || panic!("nobody is asked")), u64::MAX);
    assert!(again.differs().unwrap().contains("Random"));
    assert_eq!(number(&again, Tag::Realtime, || panic!("nobody is asked")), u64::MAX);
}

#[test]
fn who_stands_aside_tells_nothing() {
    let live = tape(Mark::default(), Told::default());
    assert_eq!(number(&live, Tag::Random, || 5), 5);
    live.begin();
    live.stand_aside();
    number(&live, Tag::Random, || 6);
    live.go_on();
    assert_eq!(live.end(), 0);
    number(&live, Tag::Random, || 7);
    assert!(live.end() > 0);
}

/// A clock of which the test says what it shows.
struct Shown(Arc<AtomicU64>);

impl Clock for Shown {
    fn realtime_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn cputime_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst) / 2
    }

    fn resolution_ns(&self, _: Clockid) -> u64 {
        1
    }
}

/// The process's own time goes on, on machines whose clocks have nothing to do with one another, and is the same when it is told again.
#[test]
fn time_goes_on_on_another_machine() {
    let (here, there) = (Arc::new(AtomicU64::new(5_000)), Arc::new(AtomicU64::new(77)));
    let live = tape(Mark::default(), Told::default());
    let clock = live.clock(Box::new(Shown(here.clone())));
    assert_eq!(clock.monotonic_ns(), 0, "when it is made");
    live.begin();
    let read = |clock: &dyn Clock, by: &AtomicU64, more: u64| {
        by.fetch_add(more, Ordering::SeqCst);
        clock.monotonic_ns()
    };
    let before: Vec<u64> = (0..5).map(|_| read(&*clock, &here, 100)).collect();
    here.fetch_add(30, Ordering::SeqCst);
    live.stand_aside();
    let saved = clock.monotonic_ns();
    assert_eq!(saved, before[4] + 30);
    let mark = live.mark();
    assert_eq!((mark.monotonic_ns, mark.position), (saved, live.end()));
    live.go_on();
    let after: Vec<u64> = (0..5).map(|_| read(&*clock, &here, 100)).collect();
    assert!(after[0] > saved && after.is_sorted());

    let told = Told::of(mark.position, pieces(&live, usize::MAX)).unwrap();
    let again = tape(mark, told);
    let clock = again.clock(Box::new(Shown(there.clone())));
    assert_eq!(clock.monotonic_ns(), saved, "where it was saved");
    again.begin();
    let same: Vec<u64> = (0..5).map(|_| clock.monotonic_ns()).collect();
    assert_eq!(same, after);
    assert_eq!(read(&*clock, &there, 10), after[4], "from where it stopped");
    assert_eq!(read(&*clock, &there, 10), after[4] + 10);
}

/// Counts what it is asked for.
struct Counting(Cell<u8>);

impl Entropy for Counting {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Errno> {
        self.0.set(self.0.get() + 1);
        buffer.fill(self.0.get());
        Ok(())
    }
}

#[test]
fn long_answers_come_in_parts() {
    let live = tape(Mark::default(), Told::default());
    let mut entropy = live.entropy(Box::new(Counting(Cell::new(0))));
    live.begin();
    let mut first = vec![0; ANSWER_BYTES_MAX * 2 + 10];
    entropy.fill(&mut first).unwrap();
    assert_eq!((first[0], first[ANSWER_BYTES_MAX], first[ANSWER_BYTES_MAX * 2]), (1, 2, 3));
    let all = pieces(&live, usize::MAX);
    assert!(all.iter().all(|piece| piece.bytes.len() <= PIECE_BYTES_MAX));
    let again = tape(Mark::default(), Told::of(0, all).unwrap());
    let mut entropy = again.entropy(Box::new(Counting(Cell::new(100))));
    again.begin();
    let mut second = vec![0; first.len()];
    entropy.fill(&mut second).unwrap();
    assert_eq!(first, second);
}

/// Files of which a test says when whoever asks for them dies. Makes changes by their numbers, each once.
#[derive(Default)]
struct Disk {
    files: std::collections::BTreeMap<String, Vec<u8>>,
    /// The last change that was made, and what it opened.
    done: Option<(u64, Option<String>)>,
    asks: Option<u64>,
    /// So many acts from now whoever asks dies: before it is done, or after.
    dies_in: Option<(u32, bool)>,
    is_dead: bool,
    changes: u32,
}

#[derive(Clone)]
struct View {
    disk: Arc<Mutex<Disk>>,
    open: Vec<String>,
}

impl View {
    fn act<T>(&self, act: impl FnOnce(&mut Disk) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut disk = self.disk.lock().unwrap();
        let dies = match &mut disk.dies_in {
            Some((0, after)) => Some(*after),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        if disk.is_dead || dies == Some(false) {
            disk.is_dead = true;
            return Err(Errno::OwnerDead);
        }
        let answer = act(&mut disk);
        if dies == Some(true) {
            disk.is_dead = true;
            return Err(Errno::OwnerDead);
        }
        answer
    }

    fn change(&self, opened: Option<&str>, act: impl FnOnce(&mut Disk) -> Result<(), Errno>) -> Result<(), Errno> {
        self.act(|disk| {
            let number = disk.asks.take().expect("a change has a number");
            if disk.done.as_ref().is_some_and(|(done, _)| *done == number) {
                return Ok(());
            }
            act(disk)?;
            disk.changes += 1;
            disk.done = Some((number, opened.map(String::from)));
            Ok(())
        })
    }

    fn hold(&mut self, name: &str) -> OpenId {
        self.open.push(name.into());
        OpenId(self.open.len() as u64)
    }

    fn name(&self, id: OpenId) -> String {
        self.open[id.0 as usize - 1].clone()
    }
}

impl FileSystem for View {
    fn root(&self) -> OpenId {
        OpenId(0)
    }

    fn open(&mut self, _: OpenId, path: &str, how: &Open) -> Result<Opened, Errno> {
        match how.existence {
            Existence::Required => self.act(|disk| disk.files.get(path).map(drop).ok_or(Errno::NoEnt))?,
            _ => self.change(Some(path), |disk| match disk.files.contains_key(path) {
                true if how.existence == Existence::CreatedNew => Err(Errno::Exist),
                _ => {
                    disk.files.entry(path.into()).or_default();
                    Ok(())
                }
            })?,
        }
        Ok(Opened { id: self.hold(path), kind: Filetype::RegularFile })
    }

    fn duplicate(&mut self, id: OpenId) -> Result<OpenId, Errno> {
        let name = self.name(id);
        Ok(self.hold(&name))
    }

    fn close(&mut self, _: OpenId) {}

    fn read_at(&mut self, file: OpenId, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let name = self.name(file);
        self.act(|disk| {
            let content = &disk.files[&name];
            let rest = content.get(offset as usize..).unwrap_or(&[]);
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        })
    }

    fn write_at(&mut self, file: OpenId, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
        let name = self.name(file);
        self.act(|disk| {
            let content = disk.files.get_mut(&name).ok_or(Errno::Stale)?;
            let end = offset as usize + bytes.len();
            content.resize(content.len().max(end), 0);
            content[offset as usize..end].copy_from_slice(bytes);
            Ok(bytes.len())
        })
    }

    fn append(&mut self, _: OpenId, _: &[u8]) -> Result<(usize, u64), Errno> {
        unreachable!("where it ends is asked for before")
    }

    fn stat(&mut self, id: OpenId) -> Result<Stat, Errno> {
        let name = self.name(id);
        let size_bytes = self.act(|disk| Ok(disk.files.get(&name).ok_or(Errno::Stale)?.len() as u64))?;
        Ok(Stat {
            device: 0,
            inode: 1,
            kind: Filetype::RegularFile,
            links: 1,
            size_bytes,
            accessed_ns: 0,
            modified_ns: 0,
            changed_ns: 0,
            born_ns: None,
        })
    }

    fn sync(&mut self, _: OpenId, _: Durable) -> Result<(), Errno> {
        self.act(|_| Ok(()))
    }

    fn unlink(&mut self, _: OpenId, path: &str) -> Result<(), Errno> {
        self.change(None, |disk| disk.files.remove(path).map(drop).ok_or(Errno::NoEnt))
    }

    fn rename(&mut self, from: (OpenId, &str), to: (OpenId, &str)) -> Result<(), Errno> {
        self.change(None, |disk| {
            let content = disk.files.remove(from.1).ok_or(Errno::NoEnt)?;
            disk.files.insert(to.1.into(), content);
            Ok(())
        })
    }

    fn content(&mut self, file: OpenId, _: u64) -> Result<Vec<u8>, Errno> {
        let name = self.name(file);
        self.act(|disk| Ok(disk.files[&name].clone()))
    }

    fn is_change(&mut self, number: u64) {
        self.disk.lock().unwrap().asks = Some(number);
    }

    fn token(&mut self, id: OpenId) -> Option<Vec<u8>> {
        Some(self.name(id).into_bytes())
    }

    fn adopt(&mut self, token: &[u8]) -> Result<OpenId, Errno> {
        let name = String::from_utf8(token.to_vec()).unwrap();
        self.act(|disk| disk.files.get(&name).map(drop).ok_or(Errno::Stale))?;
        Ok(self.hold(&name))
    }

    fn set_size(&mut self, _: OpenId, _: u64) -> Result<(), Errno> {
        unreachable!()
    }

    fn set_times(&mut self, _: OpenId, _: SetTimes) -> Result<(), Errno> {
        unreachable!()
    }

    fn allocate(&mut self, _: OpenId, _: u64, _: u64) -> Result<(), Errno> {
        unreachable!()
    }

    fn advise(&mut self, _: OpenId, _: u64, _: u64, _: abi::wasi::Advice) -> Result<(), Errno> {
        unreachable!()
    }

    fn list(&mut self, _: OpenId) -> Result<Vec<Entry>, Errno> {
        unreachable!()
    }

    fn stat_at(&mut self, _: OpenId, _: &str, _: LastLink) -> Result<Stat, Errno> {
        unreachable!()
    }

    fn set_times_at(&mut self, _: OpenId, _: &str, _: LastLink, _: SetTimes) -> Result<(), Errno> {
        unreachable!()
    }

    fn create_directory(&mut self, _: OpenId, _: &str) -> Result<(), Errno> {
        unreachable!()
    }

    fn remove_directory(&mut self, _: OpenId, _: &str) -> Result<(), Errno> {
        unreachable!()
    }

    fn link(&mut self, _: (OpenId, &str), _: (OpenId, &str)) -> Result<(), Errno> {
        unreachable!()
    }

    fn symlink(&mut self, _: &str, _: OpenId, _: &str) -> Result<(), Errno> {
        unreachable!()
    }

    fn read_link(&mut self, _: OpenId, _: &str) -> Result<String, Errno> {
        unreachable!()
    }

    fn locate(&mut self, _: OpenId) -> Result<Place, Errno> {
        unreachable!()
    }

    fn orphan_file(&mut self, _: &[u8]) -> Result<OpenId, Errno> {
        unreachable!()
    }

    fn orphan_directory(&mut self) -> Result<OpenId, Errno> {
        unreachable!()
    }
}

/// Draws numbers, appends each to a file, writes the last over another one, reads that again, and makes, renames and removes a third.
fn keep_books(tape: &Tape, files: &mut TapedFiles, draw: &mut dyn FnMut() -> u64) -> Result<Vec<u64>, Errno> {
    let how = |existence| Open {
        last_link: LastLink::Itself,
        existence,
        kind: Kind::Any,
        access: Access::ReadWrite,
        truncate: false,
    };
    let book = files.open(OpenId(0), "book", &how(Existence::Created))?.id;
    let last = files.open(OpenId(0), "last", &how(Existence::CreatedNew))?.id;
    let mut drawn = vec![];
    for round in 0..4 {
        let value = number(tape, Tag::Random, &mut *draw);
        files.append(book, &value.to_le_bytes())?;
        files.write_at(last, &value.to_le_bytes(), 0)?;
        let mut again = [0; 8];
        files.read_at(last, &mut again, 0)?;
        assert_eq!(u64::from_le_bytes(again), value);
        let made = files.open(OpenId(0), "made", &how(Existence::CreatedNew))?.id;
        files.close(made);
        if round % 2 == 0 {
            files.rename((OpenId(0), "made"), (OpenId(0), "named"))?;
            files.unlink(OpenId(0), "named")?;
        } else {
            files.unlink(OpenId(0), "made")?;
        }
        drawn.push(value);
    }
    Ok(drawn)
}

/// Whoever dies at whatever act, before it is done or after, the next life goes on, and each change is made once.
#[test]
fn a_change_is_made_once_wherever_one_dies() {
    let mut deaths = 0;
    for dies_in in 0.. {
        let mut finished = 0;
        for after in [false, true] {
            let disk = Arc::new(Mutex::new(Disk { dies_in: Some((dies_in, after)), ..Disk::default() }));
            let mut kept: Vec<Piece> = vec![];
            let mut seed = 100;
            let drawn = loop {
                let told = Told::of(0, kept.clone()).unwrap();
                let tape = tape(Mark::default(), told);
                tape.begin();
                let mut files = TapedFiles::new(&tape, Box::new(View { disk: disk.clone(), open: vec![] }));
                let over = AtomicBool::new(false);
                let result = std::thread::scope(|scope| {
                    let keeps = scope.spawn(|| {
                        let mut more = vec![];
                        while !over.load(Ordering::SeqCst) {
                            let Some(piece) = tape.wait(Duration::from_millis(1)) else { continue };
                            // What one who is dead was told is nowhere.
                            if disk.lock().unwrap().is_dead {
                                break;
                            }
                            tape.is_kept(&piece);
                            more.push(piece);
                        }
                        more
                    });
                    let mut draw = || {
                        seed += 1;
                        seed
                    };
                    let result = keep_books(&tape, &mut files, &mut draw);
                    over.store(true, Ordering::SeqCst);
                    kept.extend(keeps.join().unwrap());
                    result
                });
                assert_eq!(tape.differs(), None);
                let mut disk = disk.lock().unwrap();
                match result {
                    Ok(drawn) => break drawn,
                    Err(errno) => assert_eq!((errno, disk.is_dead), (Errno::OwnerDead, true), "at {dies_in}"),
                }
                deaths += 1;
                // Later lives live.
                (disk.is_dead, disk.dies_in, disk.asks) = (false, None, None);
            };
            let disk = disk.lock().unwrap();
            finished += u32::from(disk.dies_in.is_some());
            let book: Vec<u8> = drawn.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(disk.files["book"], book, "died at act {dies_in}, after it was done: {after}");
            assert_eq!(disk.files["last"], drawn[3].to_le_bytes());
            assert_eq!((disk.files.len(), disk.changes), (2, 2 + 4 + 2 + 4), "died at act {dies_in}");
        }
        // In both nobody died any more: that was all.
        if finished == 2 {
            break;
        }
    }
    assert!(deaths > 60, "{deaths}");
}
