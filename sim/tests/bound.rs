//! Names of ports on three nodes: what all see in the end, and what was answered until then.

#[path = "bound/world.rs"]
mod world;

use abi::ids::NodeId;
use abi::interface::names::{Answer as NamesAnswer, Existing, Failure, Request};
use abi::interface::registrar::{Ask, DOOR, Fetch, Told};
use abi::message::Badge;
use world::{Asked, NODES, World, play};

#[test]
fn all_nodes_see_the_same_and_what_is_true() {
    for seed in 0..400 {
        let mut world = World::new(seed);
        let mut ports = 0;
        let mut binds: Vec<(u64, usize, String)> = vec![];
        for round in 0..6 {
            for _ in 0..1 + world.luck.below(12) {
                let node = world.luck.below(NODES);
                let path = format!("/port/{}", world.luck.below(3));
                match world.luck.below(7) {
                    // The port has moved there: the name follows, or means something else by then.
                    6 => {
                        let Some(fact) = world.facts.get(&path).cloned() else { continue };
                        let Some(port) = world.look(fact.node, &path) else { continue };
                        let Some(fact) = world.facts.get(&path).cloned().filter(|now| now.stamp == fact.stamp) else {
                            continue;
                        };
                        let from = NodeId(fact.node as u16);
                        let existing = Existing::Follow { node: from, life: 1, serial: fact.serial };
                        if node != fact.node {
                            world.ask(node, Request::BindPort { path, existing }, Some(port));
                        }
                    }
                    0 | 1 => {
                        ports += 1;
                        let existing = if world.luck.below(3) == 0 { Existing::Replace } else { Existing::Refuse };
                        let call = world.ask(node, Request::BindPort { path: path.clone(), existing }, Some(ports));
                        binds.push((call, ports, path));
                    }
                    2 => drop(world.ask(node, Request::Unbind { path }, None)),
                    3 if ports > 0 => {
                        let port = 1 + world.luck.below(ports);
                        world.close(port);
                    }
                    _ => drop(world.ask(node, Request::Lookup { path }, None)),
                }
                for _ in 0..world.luck.below(12) {
                    world.step();
                }
            }
            world.settle();
            assert!(world.asked.is_empty(), "seed {seed}: something is never answered");
            for path in ["/port/0", "/port/1", "/port/2"] {
                let seen: Vec<Option<usize>> = (0..NODES).map(|node| world.look(node, path)).collect();
                assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}, {round}: {path} is {seen:?}");
                assert_eq!(world.facts.contains_key(path), seen[0].is_some(), "seed {seed}, {round}: {path}");
                if let Some(port) = seen[0] {
                    assert!(!world.closed.contains(&port), "seed {seed}: a closed port is found");
                    let bound = binds.iter().find(|(_, bound, _)| *bound == port).expect("it was bound");
                    let (answer, _) = &world.answers[&bound.0];
                    assert!(bound.2 == path && *answer == NamesAnswer::Done, "seed {seed}: {answer:?}");
                }
            }
            let expected: Vec<String> = world.facts.keys().map(|path| path["/port/".len()..].to_string()).collect();
            for node in 0..NODES {
                assert_eq!(world.list(node, 1 + round), expected, "seed {seed}");
            }
        }
    }
}

#[test]
fn a_name_is_bound_once_and_found_without_asking_again() {
    let mut world = World::new(1);
    let bind = |world: &mut World, node, port| {
        let request = Request::BindPort { path: "/port/0".into(), existing: Existing::Refuse };
        let call = world.ask(node, request, Some(port));
        world.settle();
        world.answers.remove(&call).unwrap().0
    };
    assert_eq!(bind(&mut world, 0, 1), NamesAnswer::Done);
    assert_eq!(bind(&mut world, 1, 2), NamesAnswer::Failed(Failure::Exists));
    assert_eq!(world.look(2, "/port/0"), Some(1));
    let before = world.calls;
    assert_eq!(world.look(2, "/port/0"), Some(1));
    assert_eq!(world.calls, before + 1, "only the test asked");
    world.close(1);
    world.settle();
    assert_eq!(world.look(2, "/port/0"), None);
    assert_eq!(bind(&mut world, 1, 2), NamesAnswer::Done);
    assert_eq!((0..NODES).map(|node| world.look(node, "/port/0")).collect::<Vec<_>>(), [Some(2); NODES]);
}

/// Programs have ways to `names` too, and other nodes one to the registrar.
#[test]
fn nobody_else_is_taken_for_the_registrar() {
    let mut world = World::new(1);
    let request = Request::BindPort { path: "/port/0".into(), existing: Existing::Refuse };
    world.ask(0, request, Some(1));
    world.settle();
    let serial = world.facts["/port/0"].serial;
    world.deliver(0, Told::Lost { serial }.encode(), &[], Badge(0), None);
    world.deliver(1, Ask::Tell(Told::Lost { serial }).encode(), &[], DOOR, None);
    world.deliver(1, Ask::Release { serial }.encode(), &[], DOOR, None);
    world.settle();
    assert_eq!(world.look(0, "/port/0"), Some(1));
    assert_eq!(world.look(1, "/port/0"), Some(1));
    // A claim of another number is not given.
    world.calls += 1;
    world.asked.insert(world.calls, Asked::Fetch { node: 1, serial: 0, path: "/port/0".into(), stamp: 0 });
    let fetch = Fetch { serial: serial + 1, path: "/port/0".into() }.encode();
    world.deliver(1, fetch, &[], DOOR, Some(world.calls));
    world.settle();
}

#[test]
fn what_nodes_say_of_names_fits_one_order() {
    let wrong: Vec<(u64, String)> = (0..400).filter_map(|seed| Some((seed, play(seed).err()?))).collect();
    if let Some((seed, what)) = wrong.first() {
        let seeds: Vec<u64> = wrong.iter().map(|(seed, _)| *seed).collect();
        panic!("seeds {seeds:?}; {seed}: {what}");
    }
}
