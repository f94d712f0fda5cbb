//! Cause before effect, whatever clocks show; nothing lost, nothing twice, whatever order answers come in.

use super::*;
use abi::ids::{ProcessId, ProgramId};
use abi::process::{Exit, Fault};
use alloc::vec;

struct Luck(u64);

impl Luck {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

fn number(number: u64) -> Kind {
    Kind::SystemStarted { life: number }
}

/// Nodes with clocks of their own tell one another things. Beside the logs, each node carries how many events of every node it knows of:
/// whatever an event could have been caused by.
#[test]
fn causes_come_before_effects() {
    for seed in 0..200 {
        let mut luck = Luck(seed);
        let skews: Vec<u64> = (0..4).map(|_| luck.below(50_000)).collect();
        let mut logs: Vec<Log> = (0..4).map(|node| Log::new(NodeId(node + 1), 1, Stamp::ZERO)).collect();
        let mut known = [[0u64; 4]; 4];
        let mut causes: BTreeMap<(NodeId, u64), [u64; 4]> = BTreeMap::new();
        let mut merger = Merger::new();
        let mut out = Vec::new();
        (1..=4).for_each(|node| merger.follow(NodeId(node), Position::default()));
        for step in 0..300 {
            let wall = |node: usize| WallMs(1_000_000 + step / 3 + skews[node]);
            let (from, to) = (luck.below(4) as usize, luck.below(4) as usize);
            if luck.below(2) == 0 {
                causes.insert((NodeId(from as u16 + 1), known[from][from]), known[from]);
                known[from][from] += 1;
                logs[from].record(wall(from), number(step));
            } else if from != to {
                let stamp = logs[from].stamp(wall(from));
                logs[to].heard(wall(to), NodeId(from as u16 + 1), stamp);
                let heard = known[from];
                for (mine, theirs) in known[to].iter_mut().zip(heard) {
                    *mine = (*mine).max(theirs);
                }
            }
            if luck.below(4) == 0 {
                let asked = luck.below(4) as usize;
                let position = merger.positions().nth(asked).expect("all four are followed").1;
                let batch = logs[asked].from(wall(asked), position);
                let batch = Batch::decode(&batch.encode()).expect("what is written is read");
                merger.take(batch.clone(), &mut out);
                // An answer that comes a second time.
                merger.take(batch, &mut out);
            }
        }
        logs.iter().for_each(Log::check);
        let positions: Vec<_> = merger.positions().collect();
        for (node, position) in positions {
            let batch = logs[usize::from(node.0) - 1].from(WallMs(2_000_000), position);
            merger.take(batch, &mut out);
        }
        assert_eq!(out.len(), causes.len(), "seed {seed}: each event comes once");
        let mut seen = [0u64; 4];
        for merged in &out {
            let Merged::Event(event) = merged else { panic!("seed {seed}: nothing is late here: {merged:?}") };
            let node = usize::from(event.node.0) - 1;
            assert_eq!(event.at.serial, seen[node], "seed {seed}: a node's own events keep their order");
            let causes = causes[&(event.node, event.at.serial)];
            assert!(
                (0..4).all(|other| seen[other] >= causes[other]),
                "seed {seed}: {event:?} comes before what caused it"
            );
            seen[node] += 1;
        }
    }
}

#[test]
fn a_message_orders_two_nodes_whose_clocks_do_not() {
    let (mut ahead, mut behind) = (Log::new(NodeId(1), 1, Stamp::ZERO), Log::new(NodeId(2), 1, Stamp::ZERO));
    let cause = ahead.record(WallMs(60_000), number(1));
    let stamp = ahead.stamp(WallMs(60_000));
    behind.heard(WallMs(1000), NodeId(1), stamp);
    assert!(behind.record(WallMs(1001), number(2)) > cause);
}

#[test]
fn a_wrong_clock_is_said_once() {
    let mut log = Log::new(NodeId(1), 1, Stamp::ZERO);
    let ahead = Stamp::at(WallMs(9_000_000));
    for _ in 0..3 {
        log.heard(WallMs(1000), NodeId(2), ahead);
    }
    let batch = log.from(WallMs(1000), Position::default());
    assert_eq!(batch.events.len(), 1);
    assert_eq!(batch.events[0].kind, Kind::ClockAhead { node: NodeId(2), by_ms: 8_999_000 });
    log.heard(WallMs(1000), NodeId(3), ahead);
    let kinds: Vec<Kind> = log.from(WallMs(1000), batch.next).events.into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [Kind::ClockBehind { by_ms: 8_999_000 }]);
}

#[test]
fn a_ring_says_what_it_has_lost() {
    let mut log = Log::new(NodeId(1), 7, Stamp::ZERO);
    let lost = 10;
    for count in 0..EVENTS_MAX as u64 + lost {
        log.record(WallMs(1), number(count));
    }
    let first = log.from(WallMs(1), Position { life: 6, serial: 99 });
    assert_eq!((first.missed, first.events.len()), (lost, BATCH_EVENTS_MAX));
    assert_eq!(first.events[0].kind, number(lost));
    assert_eq!(first.complete, first.events.last().unwrap().stamp, "there is more");
    let tail = log.tail(3);
    let last = log.from(WallMs(1), tail);
    assert_eq!((last.events.len(), last.next), (3, log.end()));
    assert!(last.complete > last.events[2].stamp);
    assert_eq!(log.from(WallMs(1), Position { life: 7, serial: u64::MAX }).events, []);
    log.check();
}

#[test]
fn a_merger_waits_for_everyone_but_the_lost() {
    let mut logs = [Log::new(NodeId(1), 1, Stamp::ZERO), Log::new(NodeId(2), 1, Stamp::ZERO)];
    let mut merger = Merger::new();
    let mut out = vec![];
    merger.follow(NodeId(1), Position::default());
    merger.follow(NodeId(2), Position::default());
    logs[0].record(WallMs(10), number(1));
    logs[1].record(WallMs(5), number(2));
    merger.take(logs[0].from(WallMs(10), Position::default()), &mut out);
    assert_eq!(out, [], "the other may have something earlier");
    merger.lost(NodeId(2), &mut out);
    assert_eq!(out.len(), 1);
    merger.follow(NodeId(2), Position::default());
    merger.take(logs[1].from(WallMs(11), Position::default()), &mut out);
    assert!(matches!(&out[1], Merged::Late(event) if event.kind == number(2)));
}

#[test]
fn every_kind_is_read_as_it_was_written() {
    let process = ProcessId::new(NodeId(3), 41);
    let kinds = vec![
        number(5),
        Kind::NodeJoined { node: NodeId(2), name: "laptop".into() },
        Kind::ProcessStarted { process, program: ProgramId([7; 32]) },
        Kind::ProcessEnded { process, ending: Ending(Exit::Code(3)) },
        Kind::ProcessEnded { process, ending: Ending(Exit::Faulted(Fault::MalformedSelect)) },
        Kind::VotersChanged { voters: vec![NodeId(1), NodeId(2), NodeId(5)] },
        Kind::QuorumRegained {},
        Kind::JoinRefused { from: "10.0.0.7:4000".into(), why: "the ticket was used".into() },
    ];
    let events: Vec<Event> = (0..)
        .zip(kinds)
        .map(|(serial, kind)| Event {
            stamp: Stamp::from_bits(serial + 1),
            node: NodeId(1),
            at: Position { life: 1, serial },
            kind,
        })
        .collect();
    let next = Position { life: 1, serial: 8 };
    let batch = Batch { node: NodeId(1), events, missed: 0, next, complete: Stamp::from_bits(9) };
    let bytes = batch.encode();
    assert_eq!(Batch::decode(&bytes).as_ref(), Ok(&batch));
    for cut in 0..bytes.len() {
        assert!(Batch::decode(&bytes[..cut]).is_err());
    }
    let lines: Vec<alloc::string::String> = batch.events.iter().map(|event| alloc::format!("{}", event.kind)).collect();
    assert_eq!(lines[1], "n2 (laptop) joined");
    assert_eq!(lines[3], "3.41 ended: exit 3");
    assert_eq!(lines[5], "the coordinator's voters are n1 n2 n5");
    assert_eq!(batch.events[3].kind.fields()[0], ("process", Field::Process(process)));
    let names: BTreeSet<&str> = Kind::NAMES.iter().copied().collect();
    assert_eq!(names.len(), Kind::NAMES.len(), "a name names one kind");
}

#[test]
fn words_are_cut_between_letters() {
    let long = "ä".repeat(TEXT_BYTES_MAX);
    assert_eq!(Text::from(long.as_str()).as_str().len(), TEXT_BYTES_MAX);
    let odd = alloc::format!("x{long}");
    assert_eq!(Text::from(odd).as_str().len(), TEXT_BYTES_MAX - 1);
}
