//! A server by its tape, whose node dies at every act: its clients, and whom it calls itself, must see each call once. Knows no kernel but
//! one that answers at once, and no program but one of five calls.

use super::*;
use crate::NoChild;
use crate::tape::{Mark, Piece, Told};
use crate::una::{Child, Newborn};
use abi::call::{Begun, EndCallError};
use abi::message::{Transfer, TransferMode};
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const CLIENTS: u64 = 2;
const CALLS: u64 = 3;

/// What outlives a node: clients, another server, and what they saw.
#[derive(Default)]
struct World {
    lives: u64,
    acts: usize,
    /// At this act, before it or after it.
    dies_in: Option<(usize, bool)>,
    is_dead: bool,
    interrupted: Arc<AtomicBool>,
    /// What each client was answered, in the order of its calls.
    answers: [Vec<u64>; CLIENTS as usize],
    /// What the other server did, and the answer to the last call of each number.
    books: Vec<u64>,
    booked: BTreeMap<u64, u64>,
    /// Does the other server's name last?
    lasts: bool,
    // Of one life.
    given: Vec<CallId>,
    held: Vec<(u64, CallId, Option<Bytes>)>,
    known: BTreeMap<ProcessId, Known>,
    bound: Option<Result<(), names::Failure>>,
    calls_made: u64,
    calls: BTreeMap<u32, Answer>,
}

fn client(number: u64) -> ProcessId {
    ProcessId::new(NodeId(1), 100 + number)
}

impl World {
    fn begin_life(&mut self) {
        self.lives += 1;
        (self.is_dead, self.acts, self.interrupted) = (false, 0, Arc::default());
        (self.given, self.held, self.known, self.calls) = (vec![], vec![], BTreeMap::new(), BTreeMap::new());
        (self.bound, self.calls_made) = (None, self.lives << 32);
    }

    fn die(&mut self) {
        self.is_dead = true;
        self.interrupted.store(true, Ordering::SeqCst);
    }

    /// Something that can be the last that is done.
    fn act<T>(&mut self, void: T, act: impl FnOnce(&mut World) -> T) -> T {
        if self.is_dead {
            return void;
        }
        let dies = self.dies_in.filter(|(at, _)| *at == self.acts);
        self.acts += 1;
        match dies {
            None => act(self),
            Some((_, after)) => {
                if after {
                    act(self);
                }
                self.dies_in = None;
                self.die();
                void
            }
        }
    }

    fn answer(&mut self, call: CallId, bytes: &[u8]) {
        let answers = &mut self.answers[(call.caller.serial() - 100) as usize];
        let value = u64::from_le_bytes(bytes.try_into().unwrap());
        match call.sequence.cmp(&(answers.len() as u64 + 1)) {
            std::cmp::Ordering::Equal => answers.push(value),
            // Said again, it is the same.
            std::cmp::Ordering::Less => assert_eq!(answers[call.sequence as usize - 1], value),
            std::cmp::Ordering::Greater => panic!("an answer to a call that was not made"),
        }
    }

    /// Clients see what is safe.
    fn show(&mut self, safe: u64) {
        while let Some((at, call, _)) = self.held.first().cloned()
            && at <= safe
            && !self.is_dead
        {
            let (_, _, bytes) = self.held.remove(0);
            self.act((), |world| world.answer(call, &bytes.unwrap()));
        }
    }
}

#[derive(Clone)]
struct Node(Arc<Mutex<World>>);

impl Harbour for Node {
    fn open(&self, _: Vec<Berth>, known: Vec<(ProcessId, Known)>) {
        self.0.lock().unwrap().known = known.into_iter().collect();
    }

    fn create(&self, _: u32, _: PortOptions) {}

    fn close(&self, _: u32) {}

    fn take(&self, ports: &[u32]) -> Option<(usize, Arrival)> {
        assert_eq!(ports.len(), 1);
        let mut world = self.0.lock().unwrap();
        for number in 0..CLIENTS {
            let sequence = world.answers[number as usize].len() as u64 + 1;
            let call = CallId { caller: client(number), sequence };
            if sequence > CALLS || world.given.contains(&call) {
                continue;
            }
            match world.known.get(&call.caller).cloned() {
                // As a caller that asks again.
                Some(known) if known.sequence == sequence => match known.standing {
                    Standing::Answered(bytes) => world.act((), |world| world.answer(call, &bytes)),
                    Standing::Taken => world.given.push(call),
                    Standing::Abandoned => panic!("nothing was abandoned"),
                },
                _ => {
                    let taken = world.act(None, |world| {
                        world.given.push(call);
                        Some(call)
                    });
                    let bytes = Bytes::new(&(number * 1000 + sequence).to_le_bytes());
                    return taken
                        .map(|call| (0, Arrival { bytes, sender: call.caller, call: Some(call), is_sent: false }));
                }
            }
        }
        None
    }

    fn status(&self, _: u32) -> PortStatus {
        PortStatus::default()
    }

    fn answer(&self, call: CallId, answer: Option<Bytes>, at: u64) {
        self.0.lock().unwrap().held.push((at, call, answer));
    }

    fn forget(&self, _: ProcessId, _: Option<Known>) {}

    fn name(&self, _: &str, bind: Option<(u32, names::Existing)>) {
        assert!(bind.is_some());
        self.0.lock().unwrap().act((), |world| world.bound = Some(Ok(())));
    }

    fn named(&self, _: &str) -> Option<Result<(), names::Failure>> {
        self.0.lock().unwrap().bound.take()
    }
}

/// The other server's port, and calls that were begun.
const BOOKS: HandleId = HandleId(1 << 20);

impl SystemCalls for Node {
    fn now(&self) -> Time {
        Time(5)
    }

    fn call(&mut self, call: SystemCall) -> Poll<Outcome> {
        let mut world = self.0.lock().unwrap();
        let world = &mut *world;
        let begun = |world: &mut World, answer: Answer, sequence: u64| {
            let call = HandleId((2 << 20) + world.calls.len() as u32);
            world.calls.insert(call.0, answer);
            Outcome::CallBegun(Ok(Begun { call, sequence }))
        };
        let book = |world: &mut World, bytes: &[u8]| {
            world.books.push(u64::from_le_bytes(bytes.try_into().unwrap()));
            let count = world.books.len() as u64;
            (count, Answer { bytes: Bytes::new(&count.to_le_bytes()), handles: Box::default() })
        };
        Poll::Ready(match call {
            SystemCall::Sleep { .. } => {
                std::thread::sleep(Duration::from_micros(20));
                Outcome::Slept(Ok(()))
            }
            SystemCall::Close { .. } => Outcome::Closed(Ok(())),
            SystemCall::BeginCall { port: NAMES, .. } => {
                world.calls_made += 1;
                let answer = Answer { bytes: names::Answer::Port.encode(), handles: Box::new([BOOKS]) };
                let sequence = world.calls_made;
                begun(world, answer, sequence)
            }
            SystemCall::BeginCall { port: BOOKS, message, deadline } => {
                let sequence = deadline.again.expect("it has a number before it is made");
                assert!(sequence <= world.calls_made, "the kernel knows no such call");
                let answer = world.act(None, |world| {
                    Some(match world.booked.get(&sequence) {
                        Some(count) => Answer { bytes: Bytes::new(&count.to_le_bytes()), handles: Box::default() },
                        None => {
                            let (count, answer) = book(world, &message.bytes);
                            world.booked.insert(sequence, count);
                            answer
                        }
                    })
                });
                match answer {
                    Some(answer) => begun(world, answer, sequence),
                    None => Outcome::CallBegun(Err(CallError::Limit(Limit::NodeCalls))),
                }
            }
            SystemCall::Call { port: BOOKS, message, .. } => {
                let answer = world.act(None, |world| Some(book(world, &message.bytes).1));
                Outcome::Called(answer.ok_or(CallError::Interrupted(Reached::Nobody)))
            }
            SystemCall::EndCall { .. } if world.is_dead => Outcome::CallEnded(Err(EndCallError::Interrupted)),
            SystemCall::EndCall { call, .. } => Outcome::CallEnded(Ok(world.calls[&call.0].clone())),
            other => panic!("{other:?}"),
        })
    }

    fn outcome(&mut self) -> Outcome {
        unreachable!("it answers at once")
    }

    fn child(&mut self, _: Child) -> Result<Newborn, NoChild> {
        Err(NoChild)
    }

    fn place(&mut self, _: &str) -> Result<(), crate::una::Code> {
        Err(crate::una::Code::Service)
    }

    fn placed(&mut self, _: ProcessId, _: &str) {}

    fn tide(&self, _: &str) -> Option<u64> {
        self.0.lock().unwrap().lasts.then_some(1)
    }
}

/// The program, between two of its calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Server {
    next: u8,
    port: HandleId,
    books: HandleId,
    reply: HandleId,
    sum: u64,
    booked: u64,
    rounds: u64,
}

const BEGINS: Server = Server {
    next: 0,
    port: HandleId::NONE,
    books: HandleId::NONE,
    reply: HandleId::NONE,
    sum: 0,
    booked: 0,
    rounds: 0,
};

fn at_once<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("everything is answered at once"),
    }
}

impl Server {
    /// Makes its next call. `None`: it is put off.
    fn step(&mut self, ports: &mut Ports, node: &mut Node) -> Option<()> {
        let mut call = |call| at_once(ports.call(node, call));
        let named = |request: names::Request, port: Option<HandleId>| {
            let give = |handle| Transfer { handle, rights: Rights::SENDER, mode: TransferMode::Copy };
            let message = Message { bytes: request.encode(), handles: port.map(give).into_iter().collect() };
            SystemCall::Call { port: NAMES, message, deadline: abi::call::Deadline::NONE }
        };
        self.next = match self.next {
            0 => match call(SystemCall::CreatePort(PortOptions::buffered(4))) {
                Outcome::PortCreated(Ok(port)) => {
                    self.port = port;
                    1
                }
                other => panic!("{other:?}"),
            },
            1 => {
                let existing = names::Existing::Refuse;
                let bind = names::Request::BindPort { path: "/port/sums".into(), existing };
                match call(named(bind, Some(self.port))) {
                    Outcome::Called(Ok(answer)) => {
                        assert_eq!(names::Answer::decode(&answer.bytes), Ok(names::Answer::Done));
                        2
                    }
                    Outcome::Called(Err(CallError::Interrupted(_))) => return None,
                    other => panic!("{other:?}"),
                }
            }
            2 => match call(named(names::Request::Lookup { path: "/port/books".into() }, None)) {
                Outcome::Called(Ok(answer)) => {
                    self.books = answer.handles[0];
                    3
                }
                Outcome::Called(Err(CallError::Interrupted(_))) => return None,
                other => panic!("{other:?}"),
            },
            3 => match call(SystemCall::Receive { port: self.port, wait: Wait::Forever }) {
                Outcome::Received(Ok(Received::Message(delivery))) => {
                    self.sum += u64::from_le_bytes((*delivery.bytes).try_into().unwrap());
                    self.reply = delivery.call.unwrap().reply;
                    4
                }
                Outcome::Received(Err(ReceiveError::Interrupted)) => return None,
                other => panic!("{other:?}"),
            },
            4 => {
                let message = Message::of(&self.sum.to_le_bytes());
                let deadline = abi::call::Deadline::NONE;
                match call(SystemCall::Call { port: self.books, message, deadline }) {
                    Outcome::Called(Ok(answer)) => {
                        self.booked = u64::from_le_bytes((*answer.bytes).try_into().unwrap());
                        5
                    }
                    // Whether it was booked is not known.
                    Outcome::Called(Err(CallError::Abandoned { .. })) => {
                        self.booked = 0;
                        5
                    }
                    Outcome::Called(Err(CallError::Interrupted(_) | CallError::Limit(_))) => return None,
                    other => panic!("{other:?}"),
                }
            }
            _ => {
                let message = Message::of(&(self.sum << 8 | self.booked).to_le_bytes());
                assert_eq!(call(SystemCall::Reply { reply: self.reply, message }), Outcome::Replied(Ok(())));
                self.rounds += 1;
                3
            }
        };
        Some(())
    }
}

/// A state that was kept.
#[derive(Clone)]
struct Saved {
    server: Server,
    table: Option<Vec<u8>>,
    mark: Mark,
}

/// Lives until all clients have their answers, whatever dies when. A state is kept after every so many calls. Gives what the world saw.
fn live(dies_in: (usize, bool), lasts: bool, keep_every: u64) -> (World, bool) {
    let world = World { dies_in: Some(dies_in), lasts, ..World::default() };
    let node = Node(Arc::new(Mutex::new(world)));
    let mut kept: Vec<Piece> = vec![];
    let mut saved = Saved { server: BEGINS, table: None, mark: Mark::default() };
    loop {
        let interrupted = {
            let mut world = node.0.lock().unwrap();
            world.begin_life();
            world.interrupted.clone()
        };
        let told = Told::of(saved.mark.position, kept.clone()).unwrap();
        let tape = Tape::new(saved.mark, told, interrupted, Box::new(|| {}));
        tape.begin();
        let mut ports = Ports::new(&tape, Arc::new(node.clone()));
        if let Some(table) = &saved.table {
            ports.restore(table, Time(5)).unwrap();
        }
        let (mut server, mut mine, over) = (saved.server, node.clone(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let keeps = scope.spawn(|| {
                let mut more = vec![];
                loop {
                    node.0.lock().unwrap().show(tape.safe());
                    if over.load(Ordering::SeqCst) {
                        return more;
                    }
                    tape.hurry();
                    let Some(piece) = tape.wait(Duration::from_millis(1)) else { continue };
                    // What one who is dead was told is nowhere.
                    if node.0.lock().unwrap().is_dead {
                        return more;
                    }
                    tape.is_kept(&piece);
                    more.push(piece);
                }
            });
            let mut steps = 0;
            let mut states = vec![];
            while server.rounds < CLIENTS * CALLS && server.step(&mut ports, &mut mine).is_some() {
                steps += 1;
                if steps % keep_every == 0 && tape.has_caught_up() {
                    states.push(Saved { server, table: ports.save(Time(5)), mark: tape.mark() });
                }
            }
            if server.rounds == CLIENTS * CALLS {
                // Those who were answered before ask again.
                while !node.0.lock().unwrap().is_dead
                    && node.0.lock().unwrap().answers.iter().any(|answers| answers.len() < CALLS as usize)
                {
                    ports.next(Tag::PortState);
                    assert_eq!(node.take(&[2]), None, "a call came twice");
                }
            }
            over.store(true, Ordering::SeqCst);
            kept.extend(keeps.join().unwrap());
            // A state counts when all that was told before is safe.
            let safe = tape.safe();
            if let Some(state) = states.into_iter().rfind(|state| state.mark.position <= safe) {
                saved = state;
            }
        });
        assert_eq!(tape.differs(), None);
        let mut world = node.0.lock().unwrap();
        if !world.is_dead {
            let never_died = world.dies_in.is_some();
            return (std::mem::take(&mut *world), never_died);
        }
    }
}

#[test]
fn each_call_counts_once_wherever_its_node_dies() {
    let mut deaths = 0;
    for keep_every in [1000, 4] {
        for dies_in in 0.. {
            let mut finished = 0;
            for after in [false, true] {
                let (world, never_died) = live((dies_in, after), true, keep_every);
                let at = format!("died at act {dies_in}, after it was done: {after}");
                let mut answers: Vec<u64> = world.answers.concat();
                answers.sort_unstable();
                // Each was booked once, in the order in which they were taken, and answered with what came of it.
                let booked = world.books.iter().enumerate();
                let expected: Vec<u64> = booked.map(|(index, sum)| sum << 8 | (index as u64 + 1)).collect();
                assert_eq!(answers, expected, "{at}");
                let all: u64 = (0..CLIENTS).flat_map(|one| (1..=CALLS).map(move |call| one * 1000 + call)).sum();
                assert_eq!(world.books.last(), Some(&all), "{at}");
                finished += u32::from(never_died);
                deaths += u32::from(!never_died);
            }
            if finished == 2 {
                break;
            }
        }
    }
    assert!(deaths > 60, "{deaths}");
}

/// Whoever does not remember is not asked twice.
#[test]
fn a_call_of_somebody_who_does_not_last_is_made_once_or_not_known() {
    for dies_in in 0.. {
        let mut finished = 0;
        for after in [false, true] {
            let (world, never_died) = live((dies_in, after), false, 1000);
            let mut books = world.books.clone();
            books.dedup();
            assert_eq!(books, world.books, "something was booked twice");
            let known = world.answers.concat().iter().filter(|answer| **answer & 0xff != 0).count();
            assert!(known + 1 >= (CLIENTS * CALLS) as usize && books.len() >= known, "{known} {books:?}");
            finished += u32::from(never_died);
        }
        if finished == 2 {
            break;
        }
    }
}

#[test]
fn a_table_is_saved_and_restored_and_nothing_else_is_believed() {
    let node = Node(Arc::default());
    let tape = Tape::new(Mark::default(), Told::default(), Arc::default(), Box::new(|| {}));
    let mut ports = Ports::new(&tape, Arc::new(node.clone()));
    assert_eq!(ports.save(Time(0)), None);
    let call = CallId { caller: client(1), sequence: 7 };
    let options = PortOptions::buffered(3);
    ports.table.add(Held::Port { options, names: vec!["/port/a".into(), "/port/b".into()] });
    ports.table.add(Held::Found { path: "/port/c".into() });
    ports.table.add(Held::Answer { call });
    ports.table.add(Held::Timer { port: 2, token: 9, at: Some(Time(70)) });
    ports.table.add(Held::Timer { port: 2, token: 9, at: None });
    ports.table.know(call, Standing::Taken);
    ports.table.know(CallId { caller: client(2), sequence: 8 }, Standing::Answered(Bytes::new(b"answer")));
    ports.table.know(CallId { caller: client(3), sequence: 9 }, Standing::Abandoned);
    ports.table.errand = Some(Errand { sequence: 11, lasts: true });
    let saved = ports.save(Time(50)).unwrap();
    let mut other = Ports::new(&tape, Arc::new(node));
    other.restore(&saved, Time(1000)).unwrap();
    assert_eq!(other.table.held.get(&5), Some(&Held::Timer { port: 2, token: 9, at: Some(Time(1020)) }));
    assert_eq!(other.save(Time(1000)), Some(saved.clone()));
    assert_eq!(other.table.answer_bytes, 6);
    for length in 0..saved.len() {
        assert!(Table::read(&saved[..length], Time(0)).is_err());
    }
    for place in 0..saved.len() {
        let mut flipped = saved.clone();
        flipped[place] ^= 0xff;
        // Whatever it says then, it must not panic.
        let _ = Table::read(&flipped, Time(0));
    }
}

#[test]
fn what_is_known_of_callers_is_bounded() {
    let mut table = Table { next: 2, held: BTreeMap::new(), known: BTreeMap::new(), answer_bytes: 0, errand: None };
    let mut told = vec![];
    for number in 0..40 {
        let call = CallId { caller: client(number), sequence: 1 };
        table.know(call, Standing::Answered(vec![0; 1 << 20].into()));
        table.forget_most(call.caller, &mut |caller, known| told.push((caller, known.map(|known| known.standing))));
    }
    assert_eq!(table.answer_bytes, ANSWER_BYTES_MAX);
    assert_eq!(table.known.len(), 40);
    assert_eq!((told.len(), told[0].clone()), (24, (client(0), Some(Standing::Abandoned))));
    // An answer that comes late does not hide a later call.
    table.know(CallId { caller: client(39), sequence: 5 }, Standing::Taken);
    table.know(CallId { caller: client(39), sequence: 4 }, Standing::Answered(Bytes::EMPTY));
    assert_eq!(table.known[&client(39)], Known { sequence: 5, standing: Standing::Taken });
    assert_eq!(table.answer_bytes, ANSWER_BYTES_MAX - (1 << 20));
}
