//! Tables: what the nodes are, what is wanted, what is said.

use super::*;
use alloc::string::ToString;
use alloc::vec;

const MIB: u64 = 1 << 20;
const PROGRAM: ProgramId = ProgramId([9; 32]);

/// An idle node with four processors and 8 GiB, of which 4 are free.
fn node(number: u16) -> Candidate {
    let facts = Facts {
        processors: 4,
        memory_bytes: 8192 * MIB,
        memory_free_bytes: 4096 * MIB,
        engine: EngineHash(1),
        profile: Profile::Pool,
        ..Facts::unknown()
    };
    let promised = Promised::default();
    Candidate {
        node: NodeId(number),
        standing: Standing::Alive,
        draining: false,
        facts: Some(facts),
        promised,
        against: None,
    }
}

fn with(number: u16, change: impl FnOnce(&mut Facts)) -> Candidate {
    let mut candidate = node(number);
    change(candidate.facts.as_mut().unwrap());
    candidate
}

fn order() -> Order {
    Order {
        program: PROGRAM,
        memory_bytes: 64 * MIB,
        hint: Hint::Anywhere,
        asked_on: Some(NodeId(1)),
        data: Data::default(),
    }
}

/// Whatever the order of the candidates, the same is said.
fn check(order: &Order, candidates: &[Candidate], expected: &[&str]) {
    let mut turned = candidates.to_vec();
    for _ in 0..candidates.len().max(1) {
        let decision = place(order, &turned);
        let mut lines = decision.lines();
        if let Err(nowhere) = &decision.chosen {
            lines.insert(0, nowhere.to_string());
        }
        assert_eq!(lines, expected);
        if !turned.is_empty() {
            turned.rotate_left(1);
        }
    }
}

#[test]
fn all_else_being_equal_it_stays_where_it_was_asked_for() {
    let order = Order { asked_on: Some(NodeId(2)), ..order() };
    check(
        &order,
        &[node(1), node(2)],
        &[
            "n2 chosen: load 0.25 a processor with it, compiling 400 ms",
            "n1 could, at a cost of 400 ms against 400 ms: load 0.25 a processor with it, compiling 400 ms",
        ],
    );
}

#[test]
fn the_less_loaded_node_wins() {
    check(
        &order(),
        &[with(1, |facts| facts.load_hundredths = 1240), with(2, |facts| facts.load_hundredths = 160)],
        &[
            "n2 chosen over n1 for its load (0 ms against 2350 ms): load 0.65 a processor with it, compiling 400 ms",
            "n1 could, at a cost of 2750 ms against 400 ms: load 3.35 a processor with it, load 2350 ms, compiling 400 ms",
        ],
    );
}

#[test]
fn what_was_promised_counts_before_the_node_says_so() {
    let mut busy = node(1);
    busy.promised = Promised { memory_bytes: 100 * MIB, processes: 8 };
    check(
        &order(),
        &[busy, node(2)],
        &[
            "n2 chosen over n1 for its load (0 ms against 1250 ms): load 0.25 a processor with it, compiling 400 ms",
            "n1 could, at a cost of 1650 ms against 400 ms: load 2.25 a processor with it, load 1250 ms, compiling 400 ms",
        ],
    );
    let mut full = node(1);
    full.promised.memory_bytes = 3570 * MIB;
    check(
        &order(),
        &[full],
        &[
            "no node has room: it would fit on n1 if 50 MiB more were free there",
            "n1 has no room: 64 MiB wanted, 14 MiB free of 8192 MiB",
        ],
    );
}

#[test]
fn code_that_lies_ready_and_data_pull() {
    let ready = |facts: &mut Facts| facts.programs = vec![ProgramMark::from(&PROGRAM)];
    let other = |facts: &mut Facts| facts.engine = EngineHash(2);
    check(
        &order(),
        &[with(1, other), with(2, ready), node(3)],
        &[
            "n2 chosen over n3 for its compiling (0 ms against 20 ms): load 0.25 a processor with it",
            "n3 could, at a cost of 20 ms against 0 ms: load 0.25 a processor with it, compiling 20 ms",
            "n1 could, at a cost of 400 ms against 0 ms: load 0.25 a processor with it, compiling 400 ms",
        ],
    );
    // Two copies of one file, of which one node has a half: whoever has all of it reads nothing from others.
    let data = Data { bytes: 320 * MIB, at: vec![(NodeId(3), 320 * MIB), (NodeId(2), 160 * MIB)] };
    check(
        &Order { data, ..order() },
        &[node(1), with(2, ready), node(3)],
        &[
            "n3 chosen over n2 for its fetching data (0 ms against 1500 ms): load 0.25 a processor with it, compiling 20 ms",
            "n2 could, at a cost of 1500 ms against 20 ms: load 0.25 a processor with it, fetching data 1500 ms (160 MiB are on other nodes)",
            "n1 could, at a cost of 3020 ms against 20 ms: load 0.25 a processor with it, compiling 20 ms, fetching data 3000 ms (320 MiB are on other nodes)",
        ],
    );
    // What one has said of itself too often is no reason to believe that it has more than there is.
    let data = Data { bytes: 16 * MIB, at: vec![(NodeId(1), u64::MAX)] };
    let decision = place(&Order { data, ..order() }, &[node(1), node(2)]);
    assert_eq!(decision.chosen, Ok(NodeId(1)));
}

#[test]
fn hints_are_followed() {
    let process = ProcessId::new(NodeId(3), 8);
    let near = Order { hint: Hint::Near { process, node: NodeId(3) }, ..order() };
    assert_eq!(place(&near, &[node(1), node(3)]).chosen, Ok(NodeId(3)));
    // Near is a wish: a loaded node is not worth it.
    let loaded = with(3, |facts| facts.load_hundredths = 1000);
    assert_eq!(place(&near, &[node(1), loaded]).chosen, Ok(NodeId(1)));
    let group = vec![(NodeId(1), 1), (NodeId(2), 2)];
    let spread = Order { hint: Hint::Spread(group), ..order() };
    assert_eq!(place(&spread, &[node(1), node(2), node(3)]).chosen, Ok(NodeId(3)));
    assert_eq!(place(&spread, &[node(1), node(2)]).chosen, Ok(NodeId(1)));
    let on = Order { hint: Hint::On(NodeId(2)), ..order() };
    check(
        &on,
        &[node(1), with(2, |facts| facts.load_hundredths = 9000)],
        &[
            "n2 chosen: load 22.75 a processor with it, load 21750 ms, compiling 400 ms",
            "n1 was not asked for: --on n2",
        ],
    );
    check(&on, &[node(1)], &["there is no node n2: `una nodes` lists them", "n1 was not asked for: --on n2"]);
}

#[test]
fn each_node_that_cannot_says_why() {
    let standing = |number, standing| Candidate { standing, ..node(number) };
    check(
        &order(),
        &[
            Candidate { against: Some(Against::DidNotTakeIt), ..node(1) },
            standing(2, Standing::Down),
            standing(3, Standing::Unknown),
            Candidate { facts: None, ..node(4) },
            Candidate { draining: true, ..node(5) },
            with(6, |facts| facts.intake = Intake::Draining),
            with(7, |facts| facts.intake = Intake::Leaving),
            with(8, |facts| facts.intake = Intake::OwnerPresent),
            standing(9, Standing::Left),
            Candidate { against: Some(Against::LostIt), ..node(10) },
            Candidate { against: Some(Against::LostIt), ..standing(11, Standing::Down) },
        ],
        &[
            "no node takes processes now",
            "n1 was asked to take it up and has not: una events says why",
            "n2 is down",
            "n3 has not been heard of since this node started",
            "n4 has not said yet what it has",
            "n5 is being emptied",
            "n6 is being emptied",
            "n7 said goodbye",
            "n8 is lent only while its owner is away, who is there now",
            "n9 said goodbye",
            "n10 has lost it, and takes it up when it starts again",
            "n11 is down",
        ],
    );
}

#[test]
fn an_owner_may_use_their_own_machine() {
    let own = with(1, |facts| (facts.intake, facts.profile) = (Intake::OwnerPresent, Profile::Workstation));
    assert_eq!(place(&order(), &[own.clone(), node(2)]).chosen, Ok(NodeId(1)));
    let elsewhere = Order { asked_on: Some(NodeId(2)), ..order() };
    assert_eq!(place(&elsewhere, &[own.clone(), node(2)]).chosen, Ok(NodeId(2)));
    // What has to leave was asked for by nobody.
    let leaves = Order { asked_on: None, ..order() };
    assert_eq!(place(&leaves, &[own.clone(), node(2)]).chosen, Ok(NodeId(2)));
    assert_eq!(place(&leaves, core::slice::from_ref(&own)).chosen, Err(Nowhere::NobodyTakes));
    let named = Order { hint: Hint::On(NodeId(1)), ..elsewhere };
    assert_eq!(place(&named, &[own]).chosen, Ok(NodeId(1)));
}

#[test]
fn what_fits_nowhere_says_what_would_help() {
    let large = Order { memory_bytes: 5000 * MIB, ..order() };
    check(
        &large,
        &[node(1), with(2, |facts| facts.memory_free_bytes = 1024 * MIB)],
        &[
            "no node has room: it would fit on n1 if 1416 MiB more were free there",
            "n1 has no room: 5000 MiB wanted, 3584 MiB free of 8192 MiB",
            "n2 has no room: 5000 MiB wanted, 512 MiB free of 8192 MiB",
        ],
    );
    let huge = Order { memory_bytes: 20_000 * MIB, ..order() };
    check(
        &huge,
        &[node(1)],
        &[
            "no machine of this system is large enough: 19 GiB wanted, the largest has 7680 MiB; ask for less with --mem, \
         or join a larger machine",
            "n1 has no room: 19 GiB wanted, 3584 MiB free of 8192 MiB",
        ],
    );
    let on = Order { hint: Hint::On(NodeId(1)), ..large };
    assert_eq!(place(&on, &[node(1)]).chosen, Err(Nowhere::AskedFor(NodeId(1))));
    assert_eq!(place(&order(), &[]).chosen, Err(Nowhere::NobodyTakes));
}

/// Among many nodes of all kinds: nobody who is ruled out is chosen, and nobody cheaper is passed over.
#[test]
fn the_cheapest_that_can_is_chosen() {
    let mut luck = 7u64;
    let mut below = |bound: u64| {
        luck = luck.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (luck >> 33) % bound
    };
    for _ in 0..500 {
        let count = 1 + below(9) as u16;
        let mut candidates = vec![];
        for number in 1..=count {
            let mut candidate = with(number, |facts| {
                facts.load_hundredths = below(900) as u32;
                facts.processors = below(5) as u16;
                facts.memory_free_bytes = below(8192) * MIB;
            });
            candidate.draining = below(6) == 0;
            candidates.push(candidate);
        }
        let order = Order { memory_bytes: below(4000) * MIB, asked_on: Some(NodeId(1 + below(9) as u16)), ..order() };
        let decision = place(&order, &candidates);
        assert_eq!(decision.verdicts.len(), candidates.len(), "each node is spoken of");
        for (node, verdict) in &decision.verdicts {
            match verdict {
                Verdict::Chosen { .. } => assert_eq!(decision.chosen, Ok(*node)),
                Verdict::Dearer { cost, than } => assert!(cost.total_ms() >= *than),
                Verdict::Ruled(_) => assert_ne!(decision.chosen, Ok(*node)),
            }
        }
        let able = decision.verdicts.iter().any(|(_, verdict)| !matches!(verdict, Verdict::Ruled(_)));
        assert_eq!(able, decision.chosen.is_ok());
    }
}
