//! Calls that wait: what they wait for, what ends it, and that being issued again changes nothing.

use super::*;
use crate::wasi::Pending;

impl Guest {
    /// Puts subscriptions at `BUFFER`: the events will be at `BUFFER + 4096`.
    fn subscribe(&mut self, subscriptions: &[Subscription]) -> u32 {
        for (index, subscription) in subscriptions.iter().enumerate() {
            let mut bytes = [0xaa; 48];
            bytes[..8].copy_from_slice(&(1000 + index as u64).to_le_bytes());
            match *subscription {
                Subscription::Timeout { id, timeout_ns, flags } => {
                    bytes[8] = 0;
                    bytes[16..20].copy_from_slice(&id.to_le_bytes());
                    bytes[24..32].copy_from_slice(&timeout_ns.to_le_bytes());
                    bytes[40..42].copy_from_slice(&flags.to_le_bytes());
                }
                Subscription::Read(fd) | Subscription::Write(fd) | Subscription::Unknown(fd) => {
                    bytes[8] = match subscription {
                        Subscription::Read(_) => 1,
                        Subscription::Write(_) => 2,
                        _ => 3,
                    };
                    bytes[16..20].copy_from_slice(&fd.to_le_bytes());
                }
            }
            self.put(BUFFER + 48 * index as u32, &bytes);
        }
        subscriptions.len() as u32
    }

    /// Events as (user data, error, type, bytes, flags).
    fn events(&self) -> Vec<(u64, u16, u8, u64, u16)> {
        let event = |index| {
            let at = EVENTS + 32 * index;
            let error = u16::from_le_bytes(self.bytes(at + 8, 2).try_into().unwrap());
            let flags = u16::from_le_bytes(self.bytes(at + 24, 2).try_into().unwrap());
            (self.u64(at), error, self.memory[at as usize + 10], self.u64(at + 16), flags)
        };
        (0..self.u32(RESULT)).map(event).collect()
    }

    fn poll(&mut self, subscriptions: &[Subscription]) -> Result<Vec<(u64, u16, u8, u64, u16)>, Errno> {
        let count = self.subscribe(subscriptions);
        match self.issue(|system, memory| system.poll_oneoff(memory, BUFFER, EVENTS, count, RESULT)) {
            Ended::Answered(answer) => answer.map(|()| self.events()),
            Ended::Interrupted => panic!("interrupted"),
        }
    }
}

const EVENTS: u32 = BUFFER + 4096;

#[derive(Clone, Copy)]
enum Subscription {
    Timeout { id: u32, timeout_ns: u64, flags: u16 },
    Read(u32),
    Write(u32),
    Unknown(u32),
}

use Subscription::*;

fn interest(source: u64, direction: Direction) -> Interest {
    Interest { source: Source(source), direction }
}

#[test]
fn reading_waits_until_there_is_something() {
    let world = World::new();
    let mut guest = world.guest();
    world.then(&[Event::Time(5), Event::Input(b"hello"), Event::Input(b" world"), Event::InputEnds]);
    assert_eq!(guest.read(0, 100), Ok(b"hello".to_vec()));
    let waited = Waited { interests: vec![interest(10, Direction::Read)], timeout_ns: None };
    assert_eq!(world.waited(), [waited.clone(), waited]);
    assert_eq!(guest.read(0, 3), Ok(b" wo".to_vec()));
    assert_eq!(guest.read(0, 100), Ok(b"rld".to_vec()));
    assert_eq!(guest.read(0, 100), Ok(vec![]));
    assert_eq!(guest.read(0, 100), Ok(vec![]));
}

/// What fills the first buffer exactly is not kept back, or lost, because there is nothing for the second.
#[test]
fn reading_does_not_wait_for_more_than_something() {
    let world = World::new();
    let mut guest = world.guest();
    world.input.lock().unwrap().input.extend(b"abc");
    let (iovs, count) = guest.buffers(&[(BUFFER, 3), (BUFFER + 3, 3)]);
    let read = guest.issue(|system, memory| system.fd_read(memory, 0, iovs, count, RESULT));
    assert_eq!((read, guest.u32(RESULT)), (Ended::Answered(Ok(())), 3));
    assert_eq!(guest.bytes(BUFFER, 3), b"abc");
    assert!(world.waited().is_empty());
}

#[test]
fn who_will_not_wait_is_told_to_come_again() {
    let world = World::new();
    let mut guest = world.guest();
    guest.set_flags(0, 4).unwrap();
    assert_eq!(guest.read(0, 100), Err(Errno::Again));
    world.input.lock().unwrap().input.extend(b"x");
    assert_eq!(guest.read(0, 100), Ok(b"x".to_vec()));
    guest.set_flags(1, 4).unwrap();
    world.output.lock().unwrap().room = 3;
    assert_eq!(guest.write(1, b"hello"), Ok(3));
    assert_eq!(guest.write(1, b"hello"), Err(Errno::Again));
    assert!(world.waited().is_empty());
    world.output.lock().unwrap().ended = true;
    assert_eq!(guest.write(1, b"hello"), Err(Errno::Pipe));
}

#[test]
fn writing_waits_until_all_is_written() {
    let world = World::new();
    let mut guest = world.guest();
    world.output.lock().unwrap().room = 2;
    world.then(&[Event::Room(1), Event::Time(5), Event::Room(4), Event::Room(100)]);
    guest.put(BUFFER, b"hello world");
    let (iovs, count) = guest.buffers(&[(BUFFER, 5), (0, 0), (BUFFER + 5, 6)]);
    let written = guest.issue(|system, memory| system.fd_write(memory, 1, iovs, count, RESULT));
    assert_eq!((written, guest.u32(RESULT)), (Ended::Answered(Ok(())), 11));
    assert_eq!(world.output(), b"hello world");
    assert_eq!(world.waited().len(), 4);
    assert_eq!(guest.system.pending, None);
    // Somebody stops listening in the middle: first it is said what was written.
    world.output.lock().unwrap().room = 2;
    world.then(&[Event::Interrupt]);
    let (iovs, count) = guest.buffers(&[(BUFFER, 5)]);
    let written = guest.issue(|system, memory| system.fd_write(memory, 1, iovs, count, RESULT));
    assert_eq!(written, Ended::Interrupted);
    world.output.lock().unwrap().ended = true;
    let written = guest.issue(|system, memory| system.fd_write(memory, 1, iovs, count, RESULT));
    assert_eq!((written, guest.u32(RESULT)), (Ended::Answered(Ok(())), 2));
    assert_eq!(guest.write(1, b"hello"), Err(Errno::Pipe));
    // The terminal has room and is another stream.
    assert_eq!(guest.write(2, b"error"), Ok(5));
    assert_eq!(world.error.lock().unwrap().output, b"error");
}

#[test]
fn an_interrupted_call_is_issued_again_as_if_nothing_had_been() {
    let world = World::new();
    let mut guest = world.guest();
    world.output.lock().unwrap().room = 3;
    world.then(&[Event::Interrupt, Event::Room(2), Event::Interrupt, Event::Room(usize::MAX >> 1)]);
    guest.put(BUFFER, b"hello world");
    let (iovs, count) = guest.buffers(&[(BUFFER, 11)]);
    for _ in 0..2 {
        let written = guest.issue(|system, memory| system.fd_write(memory, 1, iovs, count, RESULT));
        assert_eq!(written, Ended::Interrupted);
    }
    let written = guest.issue(|system, memory| system.fd_write(memory, 1, iovs, count, RESULT));
    assert_eq!((written, guest.u32(RESULT)), (Ended::Answered(Ok(())), 11));
    assert_eq!(world.output(), b"hello world");
    world.then(&[Event::Interrupt, Event::Input(b"x")]);
    let (iovs, count) = guest.buffers(&[(BUFFER, 11)]);
    let read = |guest: &mut Guest| guest.issue(|system, memory| system.fd_read(memory, 0, iovs, count, RESULT));
    assert_eq!(read(&mut guest), Ended::Interrupted);
    assert_eq!(read(&mut guest), Ended::Answered(Ok(())));
    assert_eq!((guest.u32(RESULT), guest.memory[BUFFER as usize]), (1, b'x'));
}

#[test]
fn a_timeout_lasts_as_long_as_it_says() {
    let world = World::new();
    let mut guest = world.guest();
    for (id, timeout_ns, flags) in [(1, 700, 0), (0, 700, 0), (1, 1_000_002_100, 1), (0, DATE_NS + 5_000 + 2_800, 1)] {
        let events = guest.poll(&[Timeout { id, timeout_ns, flags }]);
        assert_eq!(events, Ok(vec![(1000, 0, 0, 0, 0)]));
        assert_eq!(world.waited(), [Waited { interests: vec![], timeout_ns: Some(700) }]);
    }
    // What is past is there at once.
    for (id, timeout_ns, flags) in [(1, 0, 0), (1, 5, 1), (0, 5, 1), (1, 1_000_002_800, 1)] {
        assert_eq!(guest.poll(&[Timeout { id, timeout_ns, flags }]).map(|events| events.len()), Ok(1));
    }
    assert!(world.waited().is_empty());
    // The first of several; those that come together come together.
    let clock = |timeout_ns| Timeout { id: 1, timeout_ns, flags: 0 };
    let events = guest.poll(&[clock(300), clock(100), clock(200), clock(100), clock(400)]).unwrap();
    assert_eq!(events.iter().map(|event| event.0).collect::<Vec<_>>(), [1001, 1003]);
    assert_eq!(world.waited(), [Waited { interests: vec![], timeout_ns: Some(100) }]);
    // Longer than any clock will go.
    world.then(&[Event::Input(b"x")]);
    assert_eq!(guest.poll(&[clock(u64::MAX), Read(0)]).map(|events| events[0].0), Ok(1001));
    // The date is set forward while somebody waits for it.
    world.then(&[Event::Time(10)]);
    let events = guest.poll(&[Timeout { id: 0, timeout_ns: world.script.time.realtime_ns() + 10, flags: 1 }]);
    assert_eq!(events.map(|events| events.len()), Ok(1));
}

#[test]
fn whatever_comes_first_ends_the_wait() {
    let world = World::new();
    std::fs::write(world.path("file"), "content").unwrap();
    let mut guest = world.guest();
    let file = guest.open(DATA, "file", 0, READ_WRITE).unwrap();
    guest.seek(file, 2, 0).unwrap();
    let clock = Timeout { id: 1, timeout_ns: 100, flags: 0 };
    world.output.lock().unwrap().room = 0;
    world.then(&[Event::Time(40), Event::Input(b"abc")]);
    assert_eq!(guest.poll(&[clock, Read(0), Write(1)]), Ok(vec![(1001, 0, 1, 3, 0)]));
    let interests = vec![interest(10, Direction::Read), interest(11, Direction::Write)];
    let waited = |timeout_ns| Waited { interests: interests.clone(), timeout_ns: Some(timeout_ns) };
    assert_eq!(world.waited(), [waited(100), waited(60)]);
    world.then(&[Event::Room(1)]);
    guest.read(0, 3).unwrap();
    assert_eq!(guest.poll(&[clock, Read(0), Write(1)]), Ok(vec![(1002, 0, 2, 0, 0)]));
    world.output.lock().unwrap().room = 0;
    assert_eq!(guest.poll(&[clock, Read(0), Write(1)]), Ok(vec![(1000, 0, 0, 0, 0)]));
    // Files are always ready, and a stream that has ended says so.
    world.input.lock().unwrap().ended = true;
    let events = guest.poll(&[clock, Read(file), Write(file), Read(0), Write(2)]);
    assert_eq!(events, Ok(vec![(1001, 0, 1, 5, 0), (1002, 0, 2, 0, 0), (1003, 0, 1, 0, 1), (1004, 0, 2, 0, 0)]));
}

#[test]
fn a_subscription_that_is_wrong_is_an_event() {
    let world = World::new();
    std::fs::write(world.path("file"), "content").unwrap();
    let mut guest = world.guest();
    let blind = guest.open(DATA, "file", 0, Rights::FD_READ).unwrap();
    let deaf = guest.open(DATA, "file", 0, Rights::POLL_FD_READWRITE).unwrap();
    let (badf, inval, notsup, notcapable) = (8, 28, 58, 76);
    let clock = |id, flags| Timeout { id, timeout_ns: 5, flags };
    let events = guest.poll(&[
        Read(99),
        Write(u32::MAX),
        Unknown(0),
        clock(4, 0),
        clock(1, 2),
        clock(2, 0),
        clock(3, 1),
        Read(blind),
        Read(deaf),
        Write(deaf),
        Read(1),
        Write(0),
        Read(DATA),
        clock(1, 0),
    ]);
    let errors: Vec<_> = events.unwrap().into_iter().map(|event| (event.0 - 1000, event.1, event.2)).collect();
    let expected = [
        (0, badf, 1),
        (1, badf, 2),
        (2, inval, 3),
        (3, inval, 0),
        (4, inval, 0),
        (5, notsup, 0),
        (6, notsup, 0),
        (7, notcapable, 1),
        (8, notcapable, 1),
        (9, notcapable, 2),
        (10, notcapable, 1),
        (11, notcapable, 2),
        (12, notcapable, 1),
    ];
    assert_eq!(errors, expected);
    assert!(world.waited().is_empty());
    let refused = |guest: &mut Guest, count| {
        guest.issue(|system, memory| system.poll_oneoff(memory, BUFFER, EVENTS, count, RESULT))
    };
    assert_eq!(refused(&mut guest, 0), Ended::Answered(Err(Errno::Inval)));
    guest.memory.resize(8 << 20, 0);
    assert_eq!(refused(&mut guest, (1 << 16) + 1), Ended::Answered(Err(Errno::Inval)));
}

/// A sleep that is interrupted goes on with what was left of it, and a new one begins anew.
#[test]
fn an_interrupted_timeout_does_not_begin_anew() {
    let world = World::new();
    let mut guest = world.guest();
    let clock = Timeout { id: 1, timeout_ns: 1000, flags: 0 };
    world.then(&[Event::Time(300), Event::Interrupt]);
    let count = guest.subscribe(&[clock, Read(0)]);
    let poll =
        |guest: &mut Guest| guest.issue(|system, memory| system.poll_oneoff(memory, BUFFER, EVENTS, count, RESULT));
    assert_eq!(poll(&mut guest), Ended::Interrupted);
    assert!(matches!(guest.system.pending, Some(Pending::Poll { .. })));
    world.script.time.pass(200);
    world.waited();
    assert_eq!(poll(&mut guest), Ended::Answered(Ok(())));
    assert_eq!(world.waited()[0].timeout_ns, Some(500));
    assert_eq!(guest.events(), [(1000, 0, 0, 0, 0)]);
    assert_eq!(poll(&mut guest), Ended::Answered(Ok(())));
    assert_eq!(world.waited()[0].timeout_ns, Some(1000));
    // Another call than the one that was interrupted has its own time.
    world.then(&[Event::Time(300), Event::Interrupt]);
    assert_eq!(poll(&mut guest), Ended::Interrupted);
    world.waited();
    let other = guest.issue(|system, memory| system.poll_oneoff(memory, BUFFER, EVENTS, 1, RESULT));
    assert_eq!((other, world.waited()[0].timeout_ns), (Ended::Answered(Ok(())), Some(1000)));
}
