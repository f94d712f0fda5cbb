//! Links between nodes over real sockets, and over a network that is cut, dark, slow and wrong. See `wire/node.rs` for the nodes and
//! `wire/relay.rs` for the network.

#[path = "wire/node.rs"]
mod node;
#[path = "wire/relay.rs"]
mod relay;

use abi::ids::NodeKey;
use drivers::wire::ticket::Ticket;
use drivers::wire::{
    Answer, Ask, AskError, Class, Hello, Identity, LinkState, OpenError, PROTOCOL, Receiver, Refusal, RefusedBy,
    SendError, Service, Stream, Unlinked, Versions, limits,
};
use node::{DROPS, ECHO, Event, FAILS, HELD, Node, SIZED, Ticks, hello, pair, soon, until};
use relay::{Relay, Weather};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Two that are linked over a network that can be made bad. The first reaches out.
fn apart() -> (Node, Node, Relay) {
    let relay = Relay::new();
    let told = Hello { addresses: vec![relay.address], ..hello("b") };
    let listen: SocketAddr = free_address();
    let b = Node::with(Identity::make().unwrap(), told, &[listen]);
    relay.lead_to(listen);
    let a = Node::with(Identity::make().unwrap(), hello("a"), &[]);
    b.wire.admit(a.key, &[]);
    a.wire.admit(b.key, &[relay.address]);
    a.record.linked(b.key);
    b.record.linked(a.key);
    (a, b, relay)
}

/// Nobody else takes it: ports are given out in turn, and the next tests are many.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn messages_go_both_ways_in_order() {
    let (a, b) = pair();
    for (from, to) in [(&a, &b), (&b, &a)] {
        for class in [Class::Control, Class::Call, Class::Page, Class::Bulk] {
            for number in 0..1000u32 {
                until("a place in the queue", || from.wire.send(to.key, class, &number.to_le_bytes()).is_ok());
            }
        }
        for class in [Class::Control, Class::Call, Class::Page, Class::Bulk] {
            to.record.wait("messages", |held| (held.counts[class as usize] == 1000).then_some(()));
            let expect: Vec<Vec<u8>> = (0..1000u32).map(|number| number.to_le_bytes().into()).collect();
            assert_eq!(to.record.messages(class), expect);
        }
        let longest = vec![9; limits::MESSAGE_BYTES];
        assert_eq!(from.wire.send(to.key, Class::Call, &longest), Ok(()));
        assert_eq!(from.wire.send(to.key, Class::Call, &[&longest[..], b"."].concat()), Err(SendError::TooLong));
        to.record.wait("the longest message", |held| {
            held.events.contains(&Event::Arrived(Class::Call, longest.clone())).then_some(())
        });
    }
}

#[test]
fn each_is_told_what_the_other_says_of_itself() {
    let (a, b) = pair();
    let told = |node: &Node, of: &Node| {
        node.record.wait("a hello", |held| {
            held.events.iter().find_map(|event| match event {
                Event::Linked(key, hello) if *key == of.key => Some(hello.clone()),
                _ => None,
            })
        })
    };
    assert_eq!(told(&a, &b), Hello { addresses: b.wire.addresses(), ..hello("b") });
    assert_eq!(told(&b, &a), Hello { addresses: a.wire.addresses(), ..hello("a") });
    until("a round trip", || {
        a.wire.links().iter().any(|view| matches!(view.state, LinkState::Linked { rtt, .. } if rtt > Duration::ZERO))
    });
}

#[test]
fn who_is_asked_answers() {
    let (a, b) = pair();
    assert_eq!(a.ask(&b, ECHO, b"hello"), Ok(b"hello".to_vec()));
    assert_eq!(b.ask(&a, ECHO, b""), Ok(vec![]));
    assert_eq!(a.ask(&b, FAILS, b""), Err(AskError::Failed("no such thing".into())));
    assert_eq!(a.ask(&b, DROPS, b""), Err(AskError::Failed("nobody there answers this".into())));
    for length in [limits::FRAME_BYTES - 4, limits::FRAME_BYTES - 3, limits::FRAME_BYTES, limits::BODY_BYTES] {
        let body: Vec<u8> = (0..length).map(|place| (place / 251) as u8).collect();
        for class in [Class::Control, Class::Call, Class::Page, Class::Bulk] {
            let ask = Ask { service: ECHO, class, body: &body, deadline: soon() };
            assert!(a.wire.ask_and_wait(b.key, ask) == Ok(body.clone()), "{length} {class:?}");
        }
    }
    assert_eq!(a.ask(&b, ECHO, &vec![0; limits::BODY_BYTES + 1]), Err(AskError::TooLong));
    assert!(matches!(a.ask(&b, SIZED, &(limits::BODY_BYTES as u32 + 1).to_le_bytes()), Err(AskError::Failed(_))));
    assert_eq!(a.ask(&Node::new("c"), ECHO, b""), Err(AskError::Unlinked));
}

#[test]
fn nobody_waits_longer_than_they_want_and_late_answers_do_no_harm() {
    let (a, b) = pair();
    for round in 0..20u8 {
        let ask = Ask {
            service: HELD,
            class: Class::Call,
            body: &[round],
            deadline: Instant::now() + Duration::from_millis(20),
        };
        assert_eq!(a.wire.ask_and_wait(b.key, ask), Err(AskError::Late));
        let (answer, body) = b.record.wait("a request", |held| held.answers.pop_front());
        assert_eq!(body, [round]);
        answer.give(Ok(vec![round]));
        assert_eq!(a.ask(&b, ECHO, &[round]), Ok(vec![round]));
    }
    assert!(a.is_linked(&b) && b.is_linked(&a));
    assert!(a.record.held.lock().unwrap().events.len() == 1, "nothing but the link has happened");
}

#[test]
fn ten_thousand_requests_at_once_are_all_answered_and_more_are_refused() {
    let (a, b) = pair();
    let (answered, done) = mpsc::channel();
    let ask = |service, number: u32| {
        let (answered, body) = (answered.clone(), number.to_le_bytes());
        let ask = Ask { service, class: Class::Call, body: &body, deadline: soon() };
        a.wire.ask(b.key, ask, Box::new(move |answer| answered.send((number, answer)).unwrap()));
    };
    (0..10_000).for_each(|number| ask(ECHO, number));
    let mut seen = vec![false; 10_000];
    for _ in 0..10_000 {
        let (number, answer) = done.recv_timeout(node::PATIENCE).unwrap();
        assert_eq!(answer, Ok(number.to_le_bytes().to_vec()));
        assert!(!std::mem::replace(&mut seen[number as usize], true));
    }
    // Of those that stay unanswered there may be so many and no more.
    (0..limits::ASKS_MAX as u32 + 10).for_each(|number| ask(HELD, number));
    let mut busy: Vec<u32> = Vec::new();
    for _ in 0..10 {
        let (number, answer) = done.recv_timeout(node::PATIENCE).unwrap();
        assert_eq!(answer, Err(AskError::Busy));
        busy.push(number);
    }
    busy.sort();
    assert_eq!(busy, (limits::ASKS_MAX as u32..limits::ASKS_MAX as u32 + 10).collect::<Vec<_>>());
    b.record.wait("all requests", |held| (held.answers.len() == limits::ASKS_MAX).then_some(()));
    let answers = std::mem::take(&mut b.record.held.lock().unwrap().answers);
    answers.into_iter().for_each(|(answer, body)| answer.give(Ok(body)));
    for _ in 0..limits::ASKS_MAX {
        let (number, answer) = done.recv_timeout(node::PATIENCE).unwrap();
        assert_eq!(answer, Ok(number.to_le_bytes().to_vec()));
    }
}

#[test]
fn long_requests_are_bounded_by_their_bytes() {
    let (a, b) = pair();
    let (answered, done) = mpsc::channel();
    let body = vec![3; limits::BODY_BYTES];
    let fit = limits::ASK_BYTES_MAX / limits::BODY_BYTES;
    for _ in 0..fit + 2 {
        let answered = answered.clone();
        let ask = Ask { service: HELD, class: Class::Bulk, body: &body, deadline: soon() };
        a.wire.ask(b.key, ask, Box::new(move |answer| answered.send(answer).unwrap()));
    }
    for _ in 0..2 {
        assert_eq!(done.recv_timeout(node::PATIENCE), Ok(Err(AskError::Busy)));
    }
    for _ in 0..fit {
        let (answer, found) = b.record.wait("a long request", |held| held.answers.pop_front());
        assert!(found == body);
        answer.give(Ok(vec![1]));
        assert_eq!(done.recv_timeout(node::PATIENCE), Ok(Ok(vec![1])));
    }
}

#[test]
fn a_request_whose_link_breaks_is_lost_and_one_without_a_link_never_left() {
    let (a, b, relay) = apart();
    let (answered, done) = mpsc::channel();
    let ask = Ask { service: HELD, class: Class::Call, body: b"x", deadline: soon() };
    a.wire.ask(b.key, ask, Box::new(move |answer| answered.send(answer).unwrap()));
    let held = b.record.wait("a request", |held| held.answers.pop_front());
    relay.weather(Weather::Closed);
    relay.cut();
    assert!(matches!(done.recv_timeout(node::PATIENCE).unwrap(), Err(AskError::Lost(_))));
    a.record.unlinked(b.key);
    assert_eq!(a.ask(&b, ECHO, b""), Err(AskError::Unlinked));
    // An answer to a request of a link that is gone goes nowhere, on the next link neither.
    relay.weather(Weather::Fair);
    a.record.linked(b.key);
    held.0.give(Ok(b"late".to_vec()));
    assert_eq!(a.ask(&b, ECHO, b"again"), Ok(b"again".to_vec()));
}

#[test]
fn another_key_at_the_address_is_not_linked() {
    let (a, b, c) = (Node::new("a"), Node::new("b"), Node::new("c"));
    // At c's address sits b.
    b.wire.admit(a.key, &[]);
    a.wire.admit(c.key, &b.wire.addresses());
    until("an attempt", || {
        a.wire.links().iter().any(
            |view| matches!(&view.state, LinkState::Trying { last, .. } if last.contains("another node answers there")),
        )
    });
    assert!(a.record.held.lock().unwrap().events.is_empty() && b.record.held.lock().unwrap().events.is_empty());
}

#[test]
fn refusals_are_known_at_both_ends() {
    let check = |of_a: &dyn Fn(&Node, &Node), hello_of_b: Hello, by_b: Refusal, at_a: Refusal| {
        let a = Node::new("a");
        let b = Node::with(Identity::make().unwrap(), hello_of_b, &["127.0.0.1:0".parse().unwrap()]);
        of_a(&a, &b);
        a.admit(&b);
        assert_eq!(b.record.refused(a.key), (RefusedBy::Us, by_b));
        assert_eq!(a.record.refused(b.key), (RefusedBy::Them, at_a));
        assert!(!a.is_linked(&b) && !b.is_linked(&a));
    };
    check(&|_, _| {}, hello("b"), Refusal::Unknown, Refusal::Unknown);
    let why = Refusal::Dismissed("it was stolen".into());
    check(&|a, b| b.wire.dismiss(a.key, "it was stolen"), hello("b"), why.clone(), why);
    let other = |ours: &str, theirs: &str| Refusal::OtherSystem { ours: ours.into(), theirs: theirs.into() };
    let admit = |a: &Node, b: &Node| b.wire.admit(a.key, &[]);
    check(
        &admit,
        Hello { system: Some([2; 16]), ..hello("b") },
        other("02020202", "01010101"),
        other("01010101", "02020202"),
    );
    check(&admit, Hello { system: None, ..hello("b") }, other("none yet", "01010101"), other("01010101", "none yet"));
}

/// Whichever of the two reaches out; and on a visit.
#[test]
fn another_protocol_is_refused_and_the_reason_known_at_both_ends() {
    let ours = PROTOCOL.to_string();
    let refusal = |ours: &str, theirs: &str| Refusal::OtherProtocol { ours: ours.into(), theirs: theirs.into() };
    for (versions, theirs) in [
        (Versions { first: PROTOCOL + 1, last: PROTOCOL + 4 }, format!("{} to {}", PROTOCOL + 1, PROTOCOL + 4)),
        (Versions { first: PROTOCOL - 1, last: PROTOCOL - 1 }, (PROTOCOL - 1).to_string()),
    ] {
        for other_reaches_out in [false, true] {
            let (a, b) = (Node::new("a"), Node::speaking(versions, "b"));
            let (out, met) = if other_reaches_out { (&b, &a) } else { (&a, &b) };
            met.wire.admit(out.key, &[]);
            out.admit(met);
            assert_eq!(met.record.refused(out.key).0, RefusedBy::Us);
            assert_eq!(out.record.refused(met.key).0, RefusedBy::Them);
            assert_eq!(a.record.refused(b.key).1, refusal(&ours, &theirs));
            assert_eq!(b.record.refused(a.key).1, refusal(&theirs, &ours));
            assert!(!a.is_linked(&b) && !b.is_linked(&a));
            let visited = a.wire.visit(b.key, &b.wire.addresses(), b"join", soon());
            assert!(matches!(&visited, Err(OpenError::Refused(why)) if *why == refusal(&ours, &theirs).to_string()));
        }
    }
    // Some version in common is enough.
    let (a, b) = (Node::new("a"), Node::speaking(Versions { first: PROTOCOL - 1, last: PROTOCOL + 1 }, "b"));
    b.wire.admit(a.key, &[]);
    a.admit(&b);
    a.record.linked(b.key);
}

/// Who hears of something has heard, before that, of a stamp from after it.
#[test]
fn stamps_go_with_all_that_is_sent() {
    let (a, b) = pair();
    for class in [Class::Control, Class::Call, Class::Page, Class::Bulk] {
        let sent = a.ticks().forward();
        a.wire.send(b.key, class, b"x").unwrap();
        let heard = b.record.wait("a message", |held| (held.counts[class as usize] > 0).then_some(held.at));
        assert!(heard > sent, "{class:?}");

        let sent = a.ticks().forward();
        let (done, answered) = mpsc::channel();
        let (ticks, ask) = (a.record.ticks.clone(), Ask { service: HELD, class, body: b"x", deadline: soon() });
        a.wire.ask(b.key, ask, Box::new(move |_| done.send(ticks.now()).unwrap()));
        let ((answer, _), heard) =
            b.record.wait("a request", |held| held.answers.pop_front().map(|answer| (answer, held.at)));
        assert!(heard > sent, "{class:?}");
        let sent = b.ticks().forward();
        answer.give(Ok(vec![]));
        assert!(answered.recv_timeout(node::PATIENCE).unwrap() > sent, "{class:?}");
    }

    let sent = a.ticks().forward();
    let mut near = a.wire.open(b.key, HELD, b"", soon()).unwrap();
    let ((mut far, _), heard) =
        b.record.wait("a stream", |held| held.streams.pop_front().map(|stream| (stream, held.at)));
    assert!(heard > sent);
    // Its clock was put forward when it took the stream.
    assert!(a.ticks().now() > sent + Ticks::FORWARD);
    let sent = a.ticks().forward();
    near.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
    assert!(b.ticks().now() > sent);
    // Who may write on has heard of whoever read.
    let much = vec![7; 2 * limits::WINDOW_BYTES_FAR as usize];
    let sent = std::thread::scope(|scope| {
        let writing = scope.spawn(|| near.write_all(&much));
        let mut part = vec![0; much.len() / 2];
        far.read_exact(&mut part).unwrap();
        let sent = b.ticks().forward();
        far.read_exact(&mut part).unwrap();
        writing.join().unwrap().unwrap();
        sent
    });
    assert!(a.ticks().now() > sent);
    let sent = a.ticks().forward();
    near.shutdown(Shutdown::Write).unwrap();
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
    assert!(b.ticks().now() > sent);
    let sent = b.ticks().forward();
    drop(far);
    near.read(&mut [0]).unwrap_err();
    assert!(a.ticks().now() > sent);
    let sent = a.ticks().forward();
    assert!(matches!(a.wire.open(b.key, FAILS, b"", soon()), Err(OpenError::Refused(_))));
    assert!(a.ticks().now() > sent + Ticks::FORWARD);
    let sent = b.ticks().forward();
    b.wire.dismiss(a.key, "enough");
    a.record.unlinked(b.key);
    assert!(a.ticks().now() > sent);
}

/// A stranger's clock counts for nothing.
#[test]
fn visits_carry_no_stamps() {
    let (host, guest) = (Node::new("host"), Node::new("guest"));
    guest.ticks().forward();
    let (_, mut near) = guest.wire.visit(host.key, &host.wire.addresses(), b"", soon()).unwrap();
    near.write_all(b"x").unwrap();
    host.record.stream().0.read_exact(&mut [0]).unwrap();
    assert_eq!((host.ticks().now(), guest.ticks().now()), (0, Ticks::FORWARD));
}

#[test]
fn an_older_life_is_refused() {
    let (a, b) = pair();
    // The same key, with an older life: the disk of the machine was restored from a copy, say.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("identity");
    let c = Node::with(Identity::load_or_make(&file).unwrap(), Hello { life: 5, ..hello("c") }, &[]);
    b.wire.admit(c.key, &[]);
    c.admit(&b);
    c.record.linked(b.key);
    let copy = Node::with(Identity::load_or_make(&file).unwrap(), Hello { life: 4, ..hello("c") }, &[]);
    copy.admit(&b);
    let refusal = Refusal::OldLife { theirs: 4, known: 5 };
    assert_eq!(copy.record.refused(b.key), (RefusedBy::Them, refusal));
    assert!(c.is_linked(&b) && a.is_linked(&b));
    // A newer one takes its place at once, though the old one has not said goodbye.
    let newer = Node::with(Identity::load_or_make(&file).unwrap(), Hello { life: 6, ..hello("c") }, &[]);
    newer.admit(&b);
    newer.record.linked(b.key);
    assert_eq!(c.record.unlinked(b.key), Unlinked::Told("the other node made a new link".into()));
    assert_eq!(newer.ask(&b, ECHO, b"6"), Ok(vec![b'6']));
}

#[test]
fn who_is_dismissed_is_told_why() {
    let (a, b) = pair();
    b.wire.dismiss(a.key, "its disk is failing");
    assert_eq!(a.record.unlinked(b.key), Unlinked::Told("dismissed: its disk is failing".into()));
    assert_eq!(b.record.unlinked(a.key), Unlinked::Dismissed("its disk is failing".into()));
    assert_eq!(b.wire.send(a.key, Class::Call, b""), Err(SendError::Unlinked));
    assert_eq!(a.record.refused(b.key), (RefusedBy::Them, Refusal::Dismissed("its disk is failing".into())));
    b.admit(&a);
    b.record.linked(a.key);
    a.record.linked(b.key);
}

#[test]
fn a_link_is_made_again_after_every_cut_and_no_message_comes_twice() {
    let (a, b, relay) = apart();
    let mut next = 0u32;
    for round in 0..30 {
        // Until some have come through, so that each cut comes in the middle of traffic. What was sent over a link that is cut
        // already, and does not know it, is lost.
        let arrived = || b.record.held.lock().unwrap().counts[Class::Call as usize];
        let enough = arrived() + 20 + round;
        until("messages over a new link", || {
            match a.wire.send(b.key, Class::Call, &next.to_le_bytes()) {
                Ok(()) => next += 1,
                Err(SendError::Full | SendError::Unlinked) => std::thread::yield_now(),
                Err(SendError::TooLong) => unreachable!(),
            }
            arrived() >= enough
        });
        relay.cut();
    }
    let last = |node: &Node| {
        let messages = node.record.messages(Class::Call);
        messages.iter().map(|message| u32::from_le_bytes(message[..].try_into().unwrap())).collect::<Vec<u32>>()
    };
    until("a message over the last link", || {
        let _ = a.wire.send(b.key, Class::Call, &u32::MAX.to_le_bytes());
        last(&b).last() == Some(&u32::MAX)
    });
    let mut arrived = last(&b);
    arrived.retain(|number| *number != u32::MAX);
    // Some are lost; those that came are in order, so none came twice.
    assert!(arrived.is_sorted_by(|one, next| one < next), "{arrived:?}");
    assert!(arrived.len() >= 30 * 20, "{}", arrived.len());
}

#[test]
fn a_cut_cable_is_noticed_at_both_ends() {
    let (a, b, relay) = apart();
    let begun = Instant::now();
    relay.weather(Weather::Dark);
    assert!(matches!(a.record.unlinked(b.key), Unlinked::Silent { .. }));
    assert!(matches!(b.record.unlinked(a.key), Unlinked::Silent { .. }));
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(1400), "a short silence is no cut: {took:?}");
    relay.cut();
    relay.weather(Weather::Fair);
    a.record.linked(b.key);
    b.record.linked(a.key);
    assert_eq!(a.ask(&b, ECHO, b"back"), Ok(b"back".to_vec()));
    // That is no closed port.
    let is_closed = |event: &Event| matches!(event, Event::Closed(..));
    assert!(!a.record.held.lock().unwrap().events.iter().any(is_closed));
}

#[test]
fn whose_port_is_closed_is_known_to_have_gone_with_that_life() {
    // Whichever of the two reached out.
    for gone in 0..2 {
        let (a, b) = pair();
        let (gone, left) = if gone == 0 { (a, b) } else { (b, a) };
        gone.wire.stop();
        left.record.unlinked(gone.key);
        let life = left.record.wait("a closed port", |held| {
            held.events.iter().find_map(|event| match event {
                Event::Closed(peer, life) if *peer == gone.key => Some(*life),
                _ => None,
            })
        });
        assert_eq!(life, 1);
    }
}

#[test]
fn a_slow_network_is_no_cut_cable() {
    let (a, b, relay) = apart();
    relay.weather(Weather::Slow(Duration::from_millis(120)));
    for round in 0..20 {
        assert_eq!(a.ask(&b, ECHO, &[round]), Ok(vec![round]));
    }
    assert!(a.record.held.lock().unwrap().events.iter().all(|event| !matches!(event, Event::Unlinked(..))));
    until("its length is known", || {
        let far = |view: &drivers::wire::LinkView| matches!(view.state, LinkState::Linked { rtt, .. } if rtt > Duration::from_millis(100));
        a.wire.links().iter().any(far) && b.wire.links().iter().any(far)
    });
}

#[test]
fn a_node_that_comes_back_elsewhere_is_found_and_finds_us() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("identity");
    let start = |life| {
        let told = Hello { life, ..hello("b") };
        Node::with(Identity::load_or_make(&file).unwrap(), told, &["127.0.0.1:0".parse().unwrap()])
    };
    let a = Node::new("a");
    let b = start(1);
    let key = b.key;
    b.wire.admit(a.key, &[]);
    a.admit(&b);
    a.record.linked(key);
    b.wire.stop();
    assert_eq!(a.record.unlinked(key), Unlinked::Told("this node is stopping".into()));
    // It listens elsewhere now; it knows where a is, and a learns where it is.
    let b = start(2);
    b.admit(&a);
    a.record.linked(key);
    let b_at = b.wire.addresses();
    let views = a.wire.links();
    assert!(views[0].addresses.contains(&b_at[0]), "{views:?}");
    assert_eq!(a.ask(&b, ECHO, b"there"), Ok(b"there".to_vec()));
}

#[test]
fn when_both_reach_out_at_once_there_is_one_link() {
    for round in 0..100 {
        let (a, b) = (Node::new("a"), Node::new("b"));
        let (at_a, at_b) = (a.wire.addresses(), b.wire.addresses());
        std::thread::scope(|scope| {
            scope.spawn(|| a.wire.admit(b.key, &at_b));
            scope.spawn(|| b.wire.admit(a.key, &at_a));
        });
        a.record.linked(b.key);
        b.record.linked(a.key);
        assert_eq!(a.ask(&b, ECHO, &[round]), Ok(vec![round]));
        assert_eq!(b.ask(&a, ECHO, &[round]), Ok(vec![round]));
        let links = |node: &Node| {
            let held = node.record.held.lock().unwrap();
            held.events.iter().filter(|event| matches!(event, Event::Linked(..) | Event::Unlinked(..))).count()
        };
        assert_eq!((links(&a), links(&b)), (1, 1), "round {round}: {:?}", a.record.held.lock().unwrap().events);
    }
}

#[test]
fn a_full_queue_says_so_and_says_when_there_is_room() {
    let (a, b, relay) = apart();
    relay.weather(Weather::Slow(Duration::from_millis(5)));
    b.record.held.lock().unwrap().only_count = true;
    let message = vec![5; 10_000];
    for class in [Class::Call, Class::Bulk] {
        let mut sent = 0u64;
        while a.wire.send(b.key, class, &message).is_ok() {
            sent += 1;
            assert!(sent < 100_000, "no bound");
        }
        assert_eq!(a.wire.send(b.key, class, &message), Err(SendError::Full));
        a.record.wait("room", |held| held.events.contains(&Event::Room(class)).then_some(()));
        assert_eq!(a.wire.send(b.key, class, &message), Ok(()));
        b.record.wait("all messages", |held| (held.counts[class as usize] == sent + 1).then_some(()));
    }
}

#[test]
fn control_passes_while_bulk_and_calls_are_full() {
    let (a, b, relay) = apart();
    b.record.held.lock().unwrap().only_count = true;
    relay.weather(Weather::Held);
    let message = vec![5; 60_000];
    let mut sent = [0; 4];
    loop {
        let before = sent;
        for class in [Class::Call, Class::Page, Class::Bulk] {
            while a.wire.send(b.key, class, &message).is_ok() {
                sent[class as usize] += 1;
            }
        }
        // What is between the two takes no more either.
        if sent == before {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // All three queues are full: behind them a message of control waits for nothing that was queued before it.
    assert_eq!(a.wire.send(b.key, Class::Control, b"now"), Ok(()));
    relay.weather(Weather::Fair);
    b.record.wait("all", |held| (held.counts[1..] == sent[1..] && held.counts[0] == 1).then_some(()));
    let counts = b.record.held.lock().unwrap().counts_at_control.unwrap();
    assert!(counts[1] < sent[1], "{counts:?} {sent:?}");
}

#[test]
fn streams_carry_much_and_hold_little() {
    let (a, b) = pair();
    const BYTES: usize = 100 << 20;
    let mut writer = a.wire.open(b.key, HELD, b"what it is", soon()).unwrap();
    let (mut reader, head) = b.record.stream();
    assert_eq!(head, b"what it is");
    let before = memory();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let writing = std::thread::spawn(move || {
        let piece: Vec<u8> = (0..1 << 20).map(|place: u32| (place / 7) as u8).collect();
        for _ in 0..BYTES >> 20 {
            writer.write_all(&piece).unwrap();
            counter.fetch_add(piece.len(), Ordering::Relaxed);
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    // Nobody reads: the writer stops at its bound.
    until("the writer goes on", || sent.load(Ordering::Relaxed) > 0 || reader_has(&mut reader));
    let (mut bytes, mut read) = (vec![0; 300_000], 0usize);
    let mut ahead_max = 0;
    loop {
        let got = reader.read(&mut bytes).unwrap();
        if got == 0 {
            break;
        }
        for (place, byte) in bytes[..got].iter().enumerate() {
            assert!(*byte == (((read + place) & ((1 << 20) - 1)) / 7) as u8);
        }
        read += got;
        ahead_max = ahead_max.max(sent.load(Ordering::Relaxed).saturating_sub(read));
    }
    writing.join().unwrap();
    assert_eq!(read, BYTES);
    // A window at the reader, and a queue at the writer.
    assert!(ahead_max <= 2 << 20, "{ahead_max} bytes were ahead of the reader");
    let grown = memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more than before");
}

fn reader_has(_: &mut Stream) -> bool {
    true
}

/// Of this process, in bytes.
fn memory() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn many_streams_at_once_echo() {
    let (a, b) = pair();
    std::thread::scope(|scope| {
        for number in 0..20u8 {
            let (from, to) = if number % 2 == 0 { (&a, &b) } else { (&b, &a) };
            scope.spawn(move || {
                let stream = from.wire.open(to.key, ECHO, b"", soon()).unwrap();
                let mut reader = stream.try_clone().unwrap();
                let bytes: Vec<u8> = (0..3_000_000u32).map(|place| (place % 253) as u8 ^ number).collect();
                let expect = bytes.clone();
                let reading = std::thread::spawn(move || {
                    let mut found = Vec::new();
                    reader.read_to_end(&mut found).unwrap();
                    found
                });
                (&stream).write_all(&bytes).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                assert!(reading.join().unwrap() == expect);
            });
        }
    });
}

#[test]
fn one_way_of_a_stream_ends_without_the_other() {
    let (a, b) = pair();
    let mut one = a.wire.open(b.key, HELD, b"", soon()).unwrap();
    let (mut other, _) = b.record.stream();
    one.write_all(b"question").unwrap();
    one.shutdown(Shutdown::Write).unwrap();
    assert_eq!(one.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    let mut text = String::new();
    other.read_to_string(&mut text).unwrap();
    assert_eq!(text, "question");
    other.write_all(b"answer").unwrap();
    other.shutdown(Shutdown::Write).unwrap();
    drop(other);
    text.clear();
    one.read_to_string(&mut text).unwrap();
    assert_eq!(text, "answer");
}

#[test]
fn a_stream_that_is_cut_short_is_never_taken_for_whole() {
    let (a, b, relay) = apart();
    // Dropped without an end.
    let mut one = a.wire.open(b.key, HELD, b"", soon()).unwrap();
    let (mut other, _) = b.record.stream();
    one.write_all(b"half").unwrap();
    drop(one);
    let mut bytes = Vec::new();
    assert_eq!(other.read_to_end(&mut bytes).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(bytes, b"half");
    until("its writer is told", || other.write(b"x").is_err());
    // The link breaks.
    let mut one = a.wire.open(b.key, HELD, b"", soon()).unwrap();
    let (mut other, _) = b.record.stream();
    one.write_all(b"half").unwrap();
    other.read_exact(&mut [0; 4]).unwrap();
    relay.cut();
    assert_eq!(other.read(&mut [0; 4]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(one.read(&mut [0; 4]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(one.write(b"more").unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

#[test]
fn a_stream_is_taken_by_whoever_writes_all_and_goes_at_once() {
    let (a, b) = pair();
    for length in [0, 1, 1000] {
        let mut read = vec![];
        a.wire.open(b.key, SIZED, &u32::to_le_bytes(length), soon()).unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, vec![7; length as usize]);
    }
    let mut one = a.wire.open(b.key, SIZED, &u32::to_le_bytes(0), soon()).unwrap();
    assert_eq!(one.write(b"too late").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_stream_can_be_refused_shut_and_waited_for_in_vain() {
    let (a, b) = pair();
    let refused = a.wire.open(b.key, FAILS, b"", soon()).unwrap_err();
    assert_eq!(refused, OpenError::Refused("not today".into()));
    assert!(matches!(a.wire.open(b.key, DROPS, b"", soon()), Err(OpenError::Refused(_))));
    assert_eq!(a.wire.open(b.key, ECHO, &vec![0; limits::HEAD_BYTES + 1], soon()).unwrap_err(), OpenError::TooLong);
    let mut one = a.wire.open(b.key, HELD, b"", soon()).unwrap();
    let (other, _) = b.record.stream();
    one.set_deadline(Some(Instant::now() + Duration::from_millis(20)));
    assert_eq!(one.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::TimedOut);
    // Nobody reads: it is full at some time.
    one.set_deadline(Some(Instant::now() + Duration::from_millis(200)));
    let failed = loop {
        if let Err(error) = one.write(&[0; 100_000]) {
            break error;
        }
    };
    assert_eq!(failed.kind(), ErrorKind::TimedOut);
    // Who waits is woken by the end.
    one.set_deadline(None);
    let mut waiting = one.try_clone().unwrap();
    let waits = std::thread::spawn(move || {
        loop {
            if let Err(error) = waiting.write(&[0; 100_000]) {
                break error.kind();
            }
        }
    });
    one.shutdown(Shutdown::Both).unwrap();
    assert_eq!(waits.join().unwrap(), ErrorKind::BrokenPipe);
    drop(other);
    assert_eq!(a.ask(&b, ECHO, b"still there"), Ok(b"still there".to_vec()));
}

#[test]
fn there_are_so_many_streams_and_places_are_given_back() {
    let (a, b) = pair();
    for _ in 0..3 {
        let mut open = Vec::new();
        loop {
            match a.wire.open(b.key, HELD, b"", soon()) {
                Ok(stream) => open.push(stream),
                Err(error) => break assert_eq!(error, OpenError::Busy),
            }
        }
        assert_eq!(open.len(), limits::STREAMS_MAX / 2);
        drop(open);
        b.record.held.lock().unwrap().streams.clear();
        until("a place", || match a.wire.open(b.key, HELD, b"", soon()) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error, OpenError::Busy);
                false
            }
        });
        b.record.held.lock().unwrap().streams.clear();
    }
    assert!(a.is_linked(&b));
}

#[test]
fn a_stranger_visits_with_a_ticket() {
    let (issuer, stranger) = (Node::new("issuer"), Node::new("stranger"));
    let ticket = Ticket { issuer: issuer.key, secret: [7; 16], expires: u64::MAX, addresses: issuer.wire.addresses() };
    let ticket: Ticket = ticket.to_string().parse().unwrap();
    let (told, mut stream) = stranger.wire.visit(ticket.issuer, &ticket.addresses, &ticket.secret, soon()).unwrap();
    assert_eq!(told, Hello { addresses: issuer.wire.addresses(), ..hello("issuer") });
    let (mut theirs, head) = issuer.record.stream();
    assert_eq!(head, [7; 16]);
    assert!(issuer.record.held.lock().unwrap().events.contains(&Event::Visited(stranger.key, vec![7; 16])));
    stream.write_all(b"who am I?").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    theirs.read_to_string(&mut text).unwrap();
    assert_eq!(text, "who am I?");
    theirs.write_all(b"the second").unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    drop(theirs);
    text.clear();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "the second");
    drop(stream);
    // It is no member for that.
    assert!(!issuer.is_linked(&stranger));
    assert_eq!(issuer.wire.send(stranger.key, Class::Call, b""), Err(SendError::Unlinked));
    // Another key than the ticket's is not talked to.
    let other = Node::new("other");
    let visited = stranger.wire.visit(other.key, &ticket.addresses, b"", soon());
    assert!(matches!(&visited, Err(OpenError::Unreachable(why)) if why.contains("another node")), "{visited:?}");
    let nowhere = stranger.wire.visit(issuer.key, &[free_address()], b"", soon());
    assert!(matches!(nowhere, Err(OpenError::Unreachable(_))));
}

#[test]
fn visits_are_bounded_and_end() {
    let (host, guest) = (Node::new("host"), Node::new("guest"));
    let mut visits = Vec::new();
    for _ in 0..limits::VISITS_MAX {
        visits.push(guest.wire.visit(host.key, &host.wire.addresses(), b"", soon()).unwrap());
    }
    let refused = guest.wire.visit(host.key, &host.wire.addresses(), b"", soon());
    assert!(matches!(refused, Err(OpenError::Refused(_))), "{refused:?}");
    drop(visits);
    host.record.held.lock().unwrap().streams.clear();
    until("a place", || guest.wire.visit(host.key, &host.wire.addresses(), b"", soon()).is_ok());
}

#[test]
fn bytes_from_strangers_cost_nobody_anything() {
    let (a, b) = pair();
    let at = b.wire.addresses()[0];
    let mut junk: Vec<Vec<u8>> =
        vec![vec![], vec![0; 100_000], b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0x16, 3, 1, 0xff, 0xff]];
    // Something like the beginning of TLS, with random bytes in it.
    let mut random = 1u64;
    for length in [1, 50, 500, 20_000] {
        let bytes = (0..length).map(|_| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) as u8
        });
        junk.push([0x16, 3, 3, (length >> 8) as u8, length as u8].into_iter().chain(bytes).collect());
    }
    for bytes in &junk {
        let mut socket = TcpStream::connect(at).unwrap();
        let _ = socket.write_all(bytes);
        let _ = socket.shutdown(Shutdown::Write);
        // It is sent away.
        socket.set_read_timeout(Some(node::PATIENCE)).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    }
    // Those who say nothing at all are bounded; the others go on.
    let silent: Vec<TcpStream> =
        (0..limits::STRANGERS_MAX_PER_ADDRESS * 2).map(|_| TcpStream::connect(at).unwrap()).collect();
    assert_eq!(a.ask(&b, ECHO, b"here"), Ok(b"here".to_vec()));
    drop(silent);
    let c = Node::new("c");
    b.wire.admit(c.key, &[]);
    c.admit(&b);
    c.record.linked(b.key);
    assert!(a.is_linked(&b));
}

#[test]
fn a_byte_that_changes_on_the_way_ends_the_link_and_is_never_delivered() {
    let (a, b, relay) = apart();
    let body = [1; 3000];
    let ask = |deadline| a.wire.ask_and_wait(b.key, Ask { service: ECHO, class: Class::Call, body: &body, deadline });
    for place in [0, 3, 5, 50, 300, 700, 900, 1500, 3000] {
        for weather in [Weather::Flip(place), Weather::Cut(place)] {
            let before = relay.connections();
            relay.weather(weather);
            relay.cut();
            until("an attempt", || relay.connections() > before);
            // In the handshake it is noticed by TLS, and later by TLS as well: what comes through is whole.
            for _ in 0..20 {
                if let Ok(answer) = ask(Instant::now() + Duration::from_millis(50)) {
                    assert!(answer == body, "{place}");
                }
            }
            relay.weather(Weather::Fair);
            until("a link that works", || ask(soon()) == Ok(body.to_vec()));
        }
    }
}

#[test]
fn examined_bytes_never_panic() {
    struct Nobody;
    impl Receiver for Nobody {
        fn linked(&self, _: NodeKey, _: &Hello) {}
        fn unlinked(&self, _: NodeKey, _: &Unlinked) {}
        fn arrived(&self, _: NodeKey, _: Class, _: &[u8]) {}
        fn asked(&self, _: NodeKey, service: Service, body: Vec<u8>, answer: Answer) {
            if service == ECHO {
                answer.give(Ok(body));
            }
        }
        fn opened(&self, _: NodeKey, _: Service, _: Vec<u8>, stream: Stream) {
            // Nothing here may wait.
            stream.set_deadline(Some(Instant::now()));
            let _ = (&stream).write(b"x");
        }
        fn visited(&self, _: NodeKey, _: &Hello, _: SocketAddr, _: Vec<u8>, _: Stream) {}
        fn room(&self, _: NodeKey, _: Class) {}
    }
    let mut random = 7u64;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % below
    };
    for _ in 0..100_000 {
        // Frames that are nearly right get further than noise.
        let mut bytes = vec![next(8) as u8];
        for _ in 0..next(12) {
            let length = next(9);
            let lane = if bytes[0] & 2 == 0 { 0 } else { 2 };
            bytes.extend([next(21) as u8, (lane + next(2)) as u8, next(6) as u8, 0]);
            bytes.extend((length as u32).to_le_bytes());
            bytes.extend((next(4) as u32).to_le_bytes());
            bytes.extend((0..length).map(|_| next(3) as u8));
        }
        drivers::wire::examine(&bytes, Arc::new(Nobody));
    }
}

#[test]
fn a_wire_that_stops_leaves_nothing_and_calls_nobody() {
    let (a, b) = pair();
    let (answered, done) = mpsc::channel();
    let ask = Ask { service: HELD, class: Class::Call, body: b"", deadline: soon() };
    a.wire.ask(b.key, ask, Box::new(move |answer| answered.send(answer).unwrap()));
    let _held = b.record.wait("a request", |held| held.answers.pop_front());
    let mut stream = a.wire.open(b.key, HELD, b"", soon()).unwrap();
    a.wire.stop();
    assert_eq!(done.try_recv(), Ok(Err(AskError::Lost(Unlinked::Stopping))));
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(a.record.unlinked(b.key), Unlinked::Stopping);
    assert_eq!(b.record.unlinked(a.key), Unlinked::Told("this node is stopping".into()));
    assert_eq!(a.ask(&b, ECHO, b""), Err(AskError::Unlinked));
    assert_eq!(a.wire.send(b.key, Class::Call, b""), Err(SendError::Unlinked));
    // Its port is free again.
    let at = a.wire.addresses()[0];
    until("the port is free", || std::net::TcpListener::bind(at).is_ok());
}

#[test]
fn what_a_node_says_of_itself_can_change() {
    let (a, b) = pair();
    a.wire.introduce(Hello { system: Some([9; 16]), life: 2, ..hello("a") });
    assert!(matches!(b.record.refused(a.key).1, Refusal::OtherSystem { .. }));
    b.wire.introduce(Hello { system: Some([9; 16]), ..hello("b") });
    a.record.linked(b.key);
    b.record.linked(a.key);
    assert_eq!(a.ask(&b, ECHO, b"us"), Ok(b"us".to_vec()));
}
