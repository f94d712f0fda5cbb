//! Everything in the crate `una`, one case a run: the first argument says which. Ends with 0 if all was as it should be, else it panics.

use std::io::{Read, Write};
use std::time::Duration;
use una::{names, select, Command, Deadline, Error, Event, Exit, Grant, Handle, Message, Overflow, Pipe, Port};
use una::{PortOptions, Process, Received, Rights};

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn this<'a>(what: &str) -> Command<'a> {
    Command::this().arg("sdk.wasm").arg(what).env("A", "b")
}

fn message(received: Received) -> Message {
    match received {
        Received::Message(message) => message,
        Received::Notice(notice) => panic!("{:?}", notice),
    }
}

fn ends(process: &Process, exit: Exit) {
    assert_eq!(process.wait(soon()), Ok(exit));
}

/// A child: adds one to each byte until nobody can call any more.
fn serve() {
    let port = Port::from_handle(Handle::inherited(0));
    loop {
        match port.receive(Deadline::Never) {
            Ok(received) => {
                let Message { bytes, caller, mut handles, .. } = message(received);
                let answer: Vec<u8> = bytes.iter().map(|byte| byte + 1).collect();
                let mut back: Vec<Grant> = handles.drain(..).map(Grant::Move).collect();
                caller.expect("it is a call").reply_with(&answer, &mut back).unwrap();
                assert!(back.is_empty());
            }
            Err(Error::NoSenders) => std::process::exit(7),
            Err(error) => panic!("{}", error),
        }
    }
}

fn calls() {
    let port = Port::new(PortOptions::default()).unwrap();
    let server = this("serve").grant(Grant::Copy(port.handle(), Rights::RECEIVE)).spawn().unwrap();
    let sending = Port::from_handle(port.handle().duplicate(Rights::SEND).unwrap());
    drop(port);
    for _ in 0..300 {
        assert_eq!(sending.call(b"abc", soon()).unwrap().bytes, b"bcd");
    }
    // An answer that is longer than this crate's first buffer.
    let answer = sending.call(&[1; 50_000], soon()).unwrap();
    assert_eq!(answer.bytes, [2; 50_000]);
    // A handle there and back.
    let pipe = Pipe::new(100).unwrap();
    let mut grants = vec![Grant::Move(pipe.into_handle())];
    let answer = sending.call_with(b"", &mut grants, soon()).unwrap();
    assert!(grants.is_empty() && answer.handles.len() == 1);
    let pipe = Pipe::from_handle(answer.handles.into_iter().next().unwrap());
    pipe.write_until(b"x", Deadline::Now).unwrap();
    assert_eq!(pipe.read_until(&mut [0; 9], Deadline::Now), Ok(1));
    drop(sending);
    ends(&server, Exit::Code(7));
}

fn ports() {
    let port = Port::new(PortOptions { messages_max: 2, bytes_max: 20_000, overflow: Overflow::Wait }).unwrap();
    assert_eq!(port.receive(Deadline::Now), Err(Error::Empty));
    assert_eq!(port.receive(Deadline::after(Duration::from_millis(5))), Err(Error::Expired));
    let badged = port.badge(99, Rights::SEND).unwrap();
    assert_eq!(badged.handle().rights(), Ok(Rights::SEND));
    assert!(port.handle().rights().unwrap().contain(Rights::SEND | Rights::RECEIVE | Rights::BADGE));
    assert_eq!(badged.receive(Deadline::Now), Err(Error::LacksRights));
    assert_eq!(badged.handle().duplicate(Rights::SEND), Err(Error::LacksRights));
    let copied = port.badge(1, Rights::SEND | Rights::COPY).unwrap();
    assert_eq!(copied.handle().duplicate(Rights::SEND | Rights::RECEIVE), Err(Error::Amplified));
    badged.send(b"first", Deadline::Now).unwrap();
    port.send(&[5; 10_000], Deadline::Now).unwrap();
    assert_eq!(port.send(b"third", Deadline::Now), Err(Error::Full));
    assert_eq!(port.send(b"third", Deadline::after(Duration::from_millis(3))), Err(Error::Expired));
    port.send_unreliable(b"lost").unwrap();
    let status = port.status().unwrap();
    assert_eq!((status.messages, status.bytes, status.dropped), (2, 10_005, 1));
    let first = message(port.receive(soon()).unwrap());
    assert_eq!((first.bytes.as_slice(), first.badge, first.caller), (&b"first"[..], 99, None));

    let dropping = PortOptions { overflow: Overflow::Drop, messages_max: 1, ..PortOptions::default() };
    let other = Port::new(dropping).unwrap();
    // The long one, which does not fit at first.
    let (index, long) = select(&[&other, &port], Deadline::Never).unwrap();
    assert_eq!((index, message(long).bytes.len()), (1, 10_000));
    let _timer = other.timer(Deadline::after(Duration::from_millis(3)), 1234).unwrap();
    match select(&[&port, &other], soon()).unwrap() {
        (1, Received::Notice(notice)) => assert_eq!((notice.token, notice.event), (1234, Event::Timer)),
        received => panic!("{:?}", received),
    }
    assert_eq!(select(&[], Deadline::Now), Err(Error::Options));

    // What fails moves nothing.
    let mut grants = vec![Grant::Move(other.into_handle())];
    assert_eq!(port.send_with(&[0; 30_000], &mut grants, Deadline::Now), Err(Error::TooLong));
    assert_eq!(grants.len(), 1);
    port.send_with(b"with", &mut grants, Deadline::Now).unwrap();
    assert!(grants.is_empty());
    let with = message(port.receive(Deadline::Now).unwrap());
    let other = Port::from_handle(with.handles.into_iter().next().unwrap());
    other.send(b"x", Deadline::Now).unwrap();

    // Rendezvous: nobody receives, so nobody can send.
    let meeting = Port::new(PortOptions { messages_max: 0, ..PortOptions::default() }).unwrap();
    assert_eq!(meeting.send(b"x", Deadline::Now), Err(Error::Full));
    // A dropped handle is closed: its sender learns of it.
    let sending = Port::from_handle(meeting.handle().duplicate(Rights::SEND).unwrap());
    drop(meeting);
    assert_eq!(sending.send(b"x", Deadline::Now), Err(Error::Closed));
}

fn pipes() {
    let pipe = Pipe::new(2048).unwrap();
    let mut reading = Pipe::from_handle(pipe.handle().duplicate(Rights::READ).unwrap());
    let child = this("write").grant(Grant::Copy(pipe.handle(), Rights::WRITE)).spawn().unwrap();
    drop(pipe);
    let mut all = vec![];
    reading.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 300_000);
    assert!(all.iter().enumerate().all(|(at, byte)| *byte == (at / 1000) as u8));
    ends(&child, Exit::Code(0));
}

fn write() {
    let mut pipe = Pipe::from_handle(Handle::inherited(0));
    for round in 0..300u32 {
        pipe.write_all(&[round as u8; 1000]).unwrap();
    }
}

fn named() {
    assert_eq!(names::lookup("/port/sdk"), Err(Error::NotFound));
    assert_eq!(names::lookup("sdk"), Err(Error::BadName));
    let port = Port::new(PortOptions::default()).unwrap();
    names::bind("/port/sdk", &port).unwrap();
    assert_eq!(names::bind("/port/sdk", &port), Err(Error::Exists));
    names::rebind("/port/sdk", &port).unwrap();
    let child = this("find").spawn().unwrap();
    let found = message(port.receive(soon()).unwrap());
    assert_eq!((found.bytes.as_slice(), found.sender != 0), (&b"found"[..], true));
    ends(&child, Exit::Code(0));
    names::unbind("/port/sdk").unwrap();
    assert_eq!(names::lookup("/port/sdk"), Err(Error::NotFound));
}

fn processes() {
    let port = Port::new(PortOptions::default()).unwrap();
    let spinning = this("spin").spawn().unwrap();
    assert_eq!(spinning.wait(Deadline::after(Duration::from_millis(20))), Err(Error::Expired));
    spinning.hold().unwrap();
    spinning.release().unwrap();
    let _watch = spinning.handle().watch(&port, 5).unwrap();
    spinning.kill().unwrap();
    match port.receive(soon()).unwrap() {
        Received::Notice(notice) => {
            assert_eq!(notice.token, 5);
            assert!(matches!(notice.event, Event::Exited { exit: Exit::Killed, .. }));
        }
        received => panic!("{:?}", received),
    }
    ends(&spinning, Exit::Killed);
    assert_eq!(spinning.kill(), Err(Error::Ended));
    ends(&this("exit").spawn().unwrap(), Exit::Code(42));
    ends(&this("panic").spawn().unwrap(), Exit::Faulted);
    let program = std::fs::File::open("/programs/sdk.wasm").unwrap();
    let other = Command::file(&program).arg("x").arg("exit").spawn().unwrap();
    assert!(other.pid() > spinning.pid());
    ends(&other, Exit::Code(42));
    let wrong = std::fs::File::open("/programs/not.wasm").unwrap();
    assert_eq!(Command::file(&wrong).arg("x").spawn(), Err(Error::Program));
    assert_eq!(this("a\0b").spawn(), Err(Error::Options));
    // Of one node alone, all places that are not named are here.
    ends(&this("exit").spread().spawn().unwrap(), Exit::Code(42));
    ends(&this("exit").near("1.1").spawn().unwrap(), Exit::Code(42));
    assert_eq!(this("exit").on("attic").spawn(), Err(Error::NotFound));
}

fn main() {
    match std::env::args().nth(1).expect("an argument says which case").as_str() {
        "calls" => calls(),
        "ports" => ports(),
        "pipes" => pipes(),
        "names" => named(),
        "processes" => processes(),
        "serve" => serve(),
        "write" => write(),
        "find" => names::lookup("/port/sdk").unwrap().send(b"found", soon()).unwrap(),
        "spin" => loop {
            std::hint::spin_loop();
        },
        "exit" => std::process::exit(if std::env::var("A").map_or(true, |a| a == "b") { 42 } else { 1 }),
        "panic" => panic!("as it was asked to"),
        "without a node" => {
            assert_eq!(Port::new(PortOptions::default()), Err(Error::NoNode));
        }
        unknown => panic!("no case {}", unknown),
    }
}
