//! Facts that move to another coordinator and back, while clients work, hold leases and watch; and whether what they saw can have been.
//!
//! The one idea: each of these takes two stores, whichever they are, and says in words what was wrong, so that it serves twice: nothing may
//! be wrong, and with a bug planted something must be.

use super::nemesis::{Found, Work};
use super::network::Cluster;
use super::random::Random;
use drivers::coordinator::current::Current;
use drivers::coordinator::moved::{Step, follow, left_for, move_to, redirect};
use drivers::coordinator::{
    Action, Compare, Coordinator, Failure, KeyRange, LeaseAct, LeaseId, Range, Revision, Transaction, Watch, WatchEvent,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub type Store = Arc<dyn Coordinator>;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn said(failure: Failure) -> String {
    failure.to_string()
}

fn put(it: &dyn Coordinator, key: &str, value: &str) -> Result<Revision, Failure> {
    it.transact(Transaction::of(vec![Action::put(key, value)]), soon()).map(|committed| committed.revision)
}

fn keys(it: &dyn Coordinator) -> Result<Vec<(String, String)>, String> {
    let found = it.range(Range::prefix("w/"), soon()).map_err(said)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(found.records.iter().map(|record| (text(&record.key), text(&record.value))).collect())
}

/// All that a watch of `w/` says.
fn watched(it: &dyn Coordinator) -> Result<(Watch, Receiver<WatchEvent>), String> {
    let (give, get) = channel();
    let from = it.range(Range::prefix("w/"), soon()).map_err(said)?.revision.next();
    let watch = it.watch(KeyRange::prefix("w/"), from, Box::new(move |event| drop(give.send(event)))).map_err(said)?;
    Ok((watch, get))
}

/// A watch of a store that the facts have left may end, and says nothing else.
fn only_ended(events: &Receiver<WatchEvent>) -> Found {
    match events.recv_timeout(Duration::from_secs(30)) {
        Ok(WatchEvent::Ended(Failure::Compacted { .. })) => {}
        other => return Err(format!("a watch of what was left is told {other:?}")),
    }
    match events.recv_timeout(Duration::from_millis(50)) {
        Err(_) => Ok(()),
        Ok(event) => Err(format!("a watch of what was left is told {event:?} after its end")),
    }
}

/// Where facts were and are no more, nothing is read, watched, changed or renewed; not even while they come back, and are half there.
pub fn what_was_left_is_not_believed(a: &Store, b: &Store) -> Found {
    let lease = a.grant(Duration::from_secs(60), soon()).map_err(said)?;
    put(&**a, "w/1", "old").map_err(said)?;
    put(&**a, "w/2", "old").map_err(said)?;
    a.transact(Transaction::of(vec![Action::put_leased("w/leased", "", lease)]), soon()).map_err(said)?;
    let (_at_a, told_a) = watched(&**a)?;
    let mut names = [("a", a), ("b", b)];
    let mut watches = vec![];
    for round in 0..3 {
        let [(from_name, from), (to_name, to)] = names;
        let is_back = round > 0;
        let expected = keys(&**from)?;
        let mut wrong = None;
        let look = |step: Step| -> Found {
            if matches!(step, Step::Opened) {
                return Ok(());
            }
            let is_refused = |what: &str, result: Result<(), Failure>| match result {
                Err(Failure::Moved { to, .. }) if is_back && to == from_name => Ok(()),
                Err(Failure::Unavailable { .. }) if !is_back => Ok(()),
                other => Err(format!("round {round}, {step:?}: {to_name} is asked for {what} and says {other:?}")),
            };
            // Of what was never used, nobody knows yet that it will be.
            if is_back || !matches!(step, Step::Fenced) {
                is_refused("a read", to.range(Range::prefix("w/"), soon()).map(drop))?;
                is_refused("an old read", to.range(Range::prefix("w/").stale(), soon()).map(drop))?;
                is_refused("a change", put(&**to, "w/3", "wrong").map(drop))?;
                let no_lease = |result: Result<Duration, Failure>| match result {
                    Err(Failure::NoLease { .. }) if !is_back => Err(Failure::unavailable("it was never there")),
                    other => other.map(drop),
                };
                is_refused("a renewal", no_lease(to.keep_alive(lease, soon())))?;
            }
            // Until the switch the old one keeps its leases, and from then on does not.
            match (from.keep_alive(lease, soon()), step) {
                (Err(Failure::Moved { to, .. }), Step::Switched) if to == to_name => Ok(()),
                (Ok(_), Step::Fenced | Step::Emptied | Step::Copied { .. } | Step::Compared { .. }) => Ok(()),
                (other, _) => Err(format!("round {round}, {step:?}: {from_name} renews a lease: {other:?}")),
            }
        };
        move_to(&**from, &**to, to_name, &mut |step| {
            if let Err(what) = look(step) {
                wrong.get_or_insert(what);
            }
            Ok(())
        })
        .map_err(said)?;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        for (what, result) in [
            ("a read", from.range(Range::prefix("w/"), soon()).map(drop)),
            ("an old read", from.range(Range::prefix("w/").stale(), soon()).map(drop)),
            ("a renewal", from.keep_alive(lease, soon()).map(drop)),
            ("the end of a lease", from.revoke(lease, soon())),
        ] {
            if !matches!(result, Err(Failure::Moved { .. })) {
                return Err(format!("{from_name} was left and is asked for {what}: {result:?}"));
            }
        }
        if keys(&**to)? != expected {
            return Err(format!("round {round}: {to_name} has {:?}, and should have {expected:?}", keys(&**to)?));
        }
        to.keep_alive(lease, soon())
            .map_err(|failure| format!("round {round}: the lease did not come along: {failure}"))?;
        // What happens there is what the other one lacks.
        to.transact(Transaction::of(vec![Action::Delete(KeyRange::one(format!("w/{}", round + 1)))]), soon())
            .map_err(said)?;
        put(&**to, &format!("w/new {round}"), "new").map_err(said)?;
        watches.push(watched(&**to)?);
        names.reverse();
    }
    // What happened there while facts were filled in, and behind the fence, is nothing that happened.
    only_ended(&told_a)?;
    only_ended(&watches[0].1)?;
    if let Ok(WatchEvent::Changed { changes, .. }) = watches[1].1.try_recv() {
        return Err(format!("a watch of what was left is told {changes:?}"));
    }
    // The last one is of where the facts are.
    let last = watches.last().expect("there were three rounds");
    let [(_, it), _] = names;
    put(&**it, "w/last", "").map_err(said)?;
    match last.1.recv_timeout(Duration::from_secs(30)) {
        Ok(WatchEvent::Changed { changes, .. }) if &**changes[0].key() == b"w/last" => Ok(()),
        other => Err(format!("a watch of where the facts are is told {other:?}")),
    }
}

/// While a holder of a lease can believe in it, nobody else gets what it holds: also if it renewed the lease at the old store in the last
/// moment, and whoever moved the facts died behind the switch, and nobody came for longer than the lease lasts at the new one.
pub fn leases_outlast_a_move(a: &Store, b: &Store) -> Found {
    let ttl = Duration::from_secs(2);
    let lease = a.grant(ttl, soon()).map_err(said)?;
    a.transact(Transaction::of(vec![Action::put_leased("w/lock", "", lease)]), soon()).map_err(said)?;
    let mut believed = None;
    let died = Failure::unknown("who moves died");
    let result = move_to(&**a, &**b, "b", &mut |step| match step {
        Step::Compared { .. } => {
            // The longer this takes, the longer ago the new one renewed the lease.
            std::thread::sleep(ttl * 6 / 10);
            let asked = Instant::now();
            let renewed = a.keep_alive(lease, soon())?;
            believed = Some(asked + renewed);
            Ok(())
        }
        Step::Switched => Err(died.clone()),
        _ => Ok(()),
    });
    let (Err(failure), Some(believed)) = (result, believed) else {
        return Err("the move was not stopped where it should be".into());
    };
    let Some((id, _)) = left_for(&**a).map_err(said)? else {
        // It took so long that the new one's lease would have ended: the move gave up, as it should.
        return if failure == died { Err("the facts are still there".into()) } else { Ok(()) };
    };
    std::thread::sleep(ttl / 2);
    follow(&**b, id).map_err(said)?;
    let take = Transaction::new().when(Compare::missing("w/lock")).then(Action::put("w/lock", "mine"));
    let until = soon();
    loop {
        if b.transact(take.clone(), soon()).map_err(said)?.succeeded {
            break;
        }
        if Instant::now() > until {
            return Err("the lease never ends".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let early = believed.saturating_duration_since(Instant::now());
    if early.is_zero() { Ok(()) } else { Err(format!("its holder believes in the lease for another {early:?}")) }
}

/// A lease that is about to end where the facts were before lives as long as it should when they come back.
pub fn leases_come_back(a: &Store, b: &Store) -> Found {
    let ttl = Duration::from_secs(4);
    let lease = a.grant(ttl, soon()).map_err(said)?;
    a.transact(Transaction::of(vec![Action::put_leased("w/held", "", lease)]), soon()).map_err(said)?;
    for (from, to, name) in [(a, b, "b"), (b, a, "a")] {
        std::thread::sleep(ttl / 4);
        from.keep_alive(lease, soon()).map_err(said)?;
        move_to(&**from, &**to, name, &mut |_| Ok(())).map_err(said)?;
    }
    let asked = Instant::now();
    a.keep_alive(lease, soon()).map_err(|failure| format!("it came back without its lease: {failure}"))?;
    while asked.elapsed() < ttl * 9 / 10 {
        if keys(&**a)?.is_empty() && asked.elapsed() < ttl {
            return Err(format!("a lease of {ttl:?} ended {:?} after it was renewed", asked.elapsed()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // One that was granted here anew has another number than those that came along.
    let other = a.grant(ttl, soon()).map_err(said)?;
    if other == lease { Err(format!("{lease} was given twice")) } else { Ok(()) }
}

/// Moves facts back and forth between the raft of a cluster and another store, and stops now and then at any step. Gives how often they
/// arrived.
fn wander(nodes: &dyn Fn() -> Option<Store>, other: &Store, seed: u64, done: &AtomicBool) -> u64 {
    let mut random = Random::new(seed);
    let mut arrived = 0;
    while !done.load(Ordering::Relaxed) {
        let Some(raft) = nodes() else { continue };
        let is_home = matches!(left_for(&*raft), Ok(None));
        let (from, to, name) = if is_home { (&raft, other, "other") } else { (other, &raft, "raft") };
        // Who is stopped may clean up, or not: then nothing is changed until the lease of the fence has ended, so that is rare.
        let stop = random.below(9);
        let leaves = random.once_in(6);
        let mut steps = 0;
        let result = move_to(&**from, &**to, name, &mut |step| {
            steps += 1;
            if steps != stop {
                return Ok(());
            }
            let is_behind = matches!(step, Step::Switched | Step::Opened);
            Err(if leaves || is_behind { Failure::unknown("it died") } else { Failure::unavailable("it was stopped") })
        });
        arrived += u64::from(result.is_ok());
        std::thread::sleep(Duration::from_millis(random.below(400)));
    }
    arrived
}

/// Clients work at any node while the facts move back and forth, and nodes and the other store are killed: one order explains all.
pub fn answers_fit_one_order_across_moves(seed: u64, other: &Store, hurt: &(dyn Fn() + Sync)) -> Found {
    let voters = 3;
    let cluster = Mutex::new(Cluster::of_voters(seed, voters));
    cluster.lock().unwrap().start(4).unwrap();
    let done = AtomicBool::new(false);
    let work = Work::new(seed, 3);
    // A node that starts again begins with its own raft, as a daemon does.
    let opened: Mutex<Vec<(Store, Current)>> = Mutex::default();
    let current = |node: u16| -> Option<Current> {
        let raft: Store = cluster.lock().unwrap().running(node)?;
        let mut opened = opened.lock().unwrap();
        if let Some((_, current)) = opened.iter().find(|(known, _)| Arc::ptr_eq(known, &raft)) {
            return Some(current.clone());
        }
        let (home, other) = (raft.clone(), other.clone());
        let open = move |name: &str| Ok(if name == "raft" { home.clone() } else { other.clone() });
        let current = Current::new(raft.clone(), Box::new(open));
        opened.push((raft, current.clone()));
        Some(current)
    };
    let arrived = std::thread::scope(|scope| {
        let nemesis = scope.spawn(|| super::nemesis::torment(&cluster, seed ^ 1, voters, &done, true));
        let hurting = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                hurt();
            }
        });
        let mover = scope.spawn(|| {
            let any = || cluster.lock().unwrap().running(1).map(|raft| raft as Store);
            wander(&any, other, seed ^ 2, &done)
        });
        let working: Vec<_> = (0..4)
            .map(|client| {
                let (work, current) = (&work, &current);
                scope.spawn(move || {
                    work.client(client, 60, &|random| {
                        current(1 + random.below(4) as u16).map(|current| Arc::new(current) as Store)
                    });
                })
            })
            .collect();
        working.into_iter().for_each(|client| client.join().unwrap());
        done.store(true, Ordering::Relaxed);
        nemesis.join().unwrap();
        hurting.join().unwrap();
        mover.join().unwrap()
    });
    println!("seed {seed}: the facts arrived {arrived} times");
    let until = soon() + Duration::from_secs(30);
    loop {
        // What was left in the middle of a move ends, and then all answer.
        let node = current(1).ok_or("a node is gone")?;
        if put(&node, "end", "").is_ok() {
            return work.judge(&node);
        }
        if Instant::now() > until {
            return Err(format!("seed {seed}: nobody answers in the end"));
        }
    }
}

/// Who was away follows wherever the facts went, and asks where it began if the place that it knows is gone.
pub fn who_was_away_finds_the_facts(
    home: &Store, middle: &Store, last: &Store, lose_middle: &mut dyn FnMut(),
) -> Found {
    put(&**home, "w/1", "").map_err(said)?;
    let open = |home: &Store, middle: &Store, last: &Store| {
        let (home, middle, last) = (home.clone(), middle.clone(), last.clone());
        move |name: &str| match name {
            "home" => Ok(home.clone()),
            "middle" => Ok(middle.clone()),
            "last" => Ok(last.clone()),
            other => Err(Failure::Refused { why: format!("nobody is called {other}") }),
        }
    };
    let begin = || Current::new(home.clone(), Box::new(open(home, middle, last)));
    let finds = |who: &str, current: &Current, moves: u64| {
        let until = soon();
        loop {
            let found = keys(current);
            match &found {
                Ok(found) if found.len() == 1 && current.moves() >= moves => return Ok(()),
                _ if Instant::now() > until => {
                    return Err(format!("{who} has followed {} moves and finds {found:?}", current.moves()));
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    };
    let (away, early) = (begin(), begin());
    let (late, middling) = (begin(), begin());
    let moved = move_to(&**home, &**middle, "middle", &mut |_| Ok(())).map_err(said)?;
    finds("one who was there", &early, 1)?;
    finds("one who will be in the middle", &middling, 1)?;
    let further = move_to(&**middle, &**last, "last", &mut |_| Ok(())).map_err(said)?;
    finds("one who begins now", &begin(), 1)?;
    if away.moves() > 2 || moved.id == 0 {
        return Err("who was away did something".into());
    }
    redirect(&**home, "last", further.id).map_err(said)?;
    // The place in between is needed by nobody any more.
    lose_middle();
    finds("one who begins later", &begin(), 1)?;
    finds("one who was away", &away, 1)?;
    finds("one who knew the place that is lost", &middling, 1)?;
    move_to(&**last, &**home, "home", &mut |_| Ok(())).map_err(said)?;
    finds("one who begins when they are back", &begin(), 0)?;
    for (who, current) in [("one who was there", &early), ("one who was away", &away), ("a late one", &late)] {
        finds(who, current, 0)?;
        put(current, "w/1", "again").map_err(said)?;
    }
    if keys(&**home)? == [("w/1".to_string(), "again".to_string())] {
        Ok(())
    } else {
        Err(format!("home has {:?}", keys(&**home)?))
    }
}

/// Leases of others that share a store have no numbers in common with these.
pub fn leases_of_others_are_not_ours(mine: &Store, theirs: &Store) -> Found {
    for it in [mine, theirs] {
        let grant = LeaseAct::Grant { ttl: Duration::from_secs(60), id: Some(LeaseId(7)) };
        let (give, get) = channel();
        it.lease(grant, soon(), Box::new(move |result| drop(give.send(result))));
        get.recv_timeout(Duration::from_secs(30)).map_err(|error| error.to_string())?.map_err(said)?;
    }
    theirs.revoke(LeaseId(7), soon()).map_err(said)?;
    mine.keep_alive(LeaseId(7), soon()).map_err(|failure| format!("somebody else's lease was ours: {failure}"))?;
    Ok(())
}
