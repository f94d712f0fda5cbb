use super::*;
use abi::file::{Clock, Entropy};
use abi::wasi::Clockid;
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
