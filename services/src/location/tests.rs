//! Processes move about on nodes that die, over a network that loses things; whoever asks finds them.

use super::*;
use alloc::collections::BTreeSet;
use alloc::vec;

struct Luck(u64);

impl Luck {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

/// Some nodes and where the processes truly are.
struct World {
    nodes: BTreeMap<NodeId, Location>,
    lives: BTreeMap<NodeId, u64>,
    truth: BTreeMap<ProcessId, Place>,
    now: Time,
    luck: Luck,
    lost_in: u64,
    sent: usize,
    found: BTreeMap<Ticket, Option<Place>>,
}

impl World {
    fn new(count: u16, seed: u64, lost_in: u64) -> World {
        let lives = (1..=count).map(|node| (NodeId(node), 1)).collect();
        let nodes = (1..=count).map(|node| (NodeId(node), Location::new(NodeId(node), 1))).collect();
        let now = Time(0);
        let mut world = World {
            nodes,
            lives,
            truth: BTreeMap::new(),
            now,
            luck: Luck(seed),
            lost_in,
            sent: 0,
            found: BTreeMap::new(),
        };
        world.members();
        world
    }

    fn members(&mut self) {
        let members: Vec<(NodeId, u64)> = self.lives.iter().map(|(node, life)| (*node, *life)).collect();
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        nodes.into_iter().for_each(|node| self.step(node, Input::Members(&members)));
    }

    /// One step, and all messages that follow from it.
    fn step(&mut self, node: NodeId, input: Input) {
        let mut effects = vec![];
        self.nodes.get_mut(&node).unwrap().step(self.now, input, &mut effects);
        let mut coming: VecDeque<(NodeId, Effect)> = effects.into_iter().map(|effect| (node, effect)).collect();
        while let Some((from, effect)) = coming.pop_front() {
            match effect {
                Effect::Found { ticket, place, .. } => {
                    assert!(self.found.insert(ticket, place).is_none(), "a question is answered once");
                }
                Effect::Send { to, packet } => {
                    self.sent += 1;
                    if self.lost_in > 0 && self.luck.below(self.lost_in) == 0 {
                        continue;
                    }
                    let Some(target) = self.nodes.get_mut(&to) else { continue };
                    let mut effects = vec![];
                    target.step(self.now, Input::Packet { from, bytes: &packet }, &mut effects);
                    target.check();
                    coming.extend(effects.into_iter().map(|effect| (to, effect)));
                }
            }
        }
        self.nodes[&node].check();
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 4 {
            self.now = self.now.after(250_000_000);
            let due = |node: &Location| node.wake().is_some_and(|wake| wake <= self.now);
            let due: Vec<NodeId> = self.nodes.iter().filter(|(_, node)| due(node)).map(|(node, _)| *node).collect();
            due.into_iter().for_each(|node| self.step(node, Input::Tick));
        }
    }

    fn born(&mut self, process: ProcessId) {
        self.truth.insert(process, Place { moves: 0, node: process.born() });
        self.step(process.born(), Input::Here { process, moves: 0 });
    }

    fn moves(&mut self, process: ProcessId, to: NodeId) {
        let from = self.truth[&process];
        let moves = from.moves + 1;
        self.truth.insert(process, Place { moves, node: to });
        self.step(from.node, Input::MovedAway { process, to, moves });
        self.step(to, Input::Here { process, moves });
    }

    fn dies(&mut self, node: NodeId) {
        self.nodes.remove(&node);
        self.lives.remove(&node);
        self.truth.retain(|_, place| place.node != node);
        self.members();
    }

    /// Asks until the answer is true, as somebody does who goes there and finds it gone.
    fn finds(&mut self, by: NodeId, process: ProcessId) -> (Option<Place>, usize) {
        for attempt in 1..=8 {
            let ticket = Ticket(self.found.len() as u64);
            self.step(by, Input::Where { process, ticket, silent: None });
            self.pass(2);
            let place = *self.found.get(&ticket).expect("every question is answered in time");
            let Some(place) = place else {
                if !self.truth.contains_key(&process) || attempt == 8 {
                    return (None, attempt);
                }
                continue;
            };
            if self.truth.get(&process) == Some(&place) {
                return (Some(place), attempt);
            }
            // It goes there, and is told where it went, or that it is not known there.
            self.step(by, Input::Stale { process, place });
        }
        (None, 9)
    }
}

#[test]
fn a_process_that_never_moved_costs_nothing() {
    let mut world = World::new(5, 1, 0);
    let process = ProcessId::new(NodeId(3), 7);
    world.born(process);
    assert_eq!(world.sent, 0, "nobody is told of a birth");
    assert_eq!(world.finds(NodeId(1), process).0, Some(Place { moves: 0, node: NodeId(3) }));
    let asked = world.sent;
    assert_eq!(asked, 2, "a question and an answer");
    world.finds(NodeId(1), process);
    assert_eq!(world.sent, asked, "the second time it is known");
}

#[test]
fn whoever_asks_finds_what_moved_also_after_deaths() {
    for seed in 0..60 {
        let mut world = World::new(7, seed, if seed % 2 == 0 { 0 } else { 8 });
        let processes: Vec<ProcessId> =
            (0..20).map(|serial| ProcessId::new(NodeId(1 + serial % 7), serial.into())).collect();
        processes.iter().for_each(|process| world.born(*process));
        for round in 0..30 {
            let process = processes[world.luck.below(20) as usize];
            let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
            let to = nodes[world.luck.below(nodes.len() as u64) as usize];
            if world.truth.get(&process).is_some_and(|place| place.node != to) {
                world.moves(process, to);
            }
            if round == 10 || round == 20 {
                world.dies(to);
            }
        }
        world.pass(20);
        let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
        for process in &processes {
            let by = nodes[world.luck.below(nodes.len() as u64) as usize];
            let expected = world.truth.get(process).copied();
            let (found, attempts) = world.finds(by, *process);
            assert_eq!(found, expected, "seed {seed}: {by} looks for {process}, {attempts} attempts");
            assert!(world.lost_in > 0 || attempts <= 6, "seed {seed}: {attempts} attempts without loss");
        }
    }
}

#[test]
fn only_entries_of_who_came_or_went_change_their_keeper() {
    let members: Vec<NodeId> = (1..=100).map(NodeId).collect();
    let processes: Vec<ProcessId> = (0..10_000).map(|serial| ProcessId::new(NodeId(1), serial)).collect();
    let keepers = |members: &[NodeId]| -> Vec<NodeId> {
        processes.iter().map(|process| keeper(*process, members.iter().copied()).unwrap()).collect()
    };
    let before = keepers(&members);
    let fewer: Vec<NodeId> = members.iter().copied().filter(|node| *node != NodeId(50)).collect();
    let after = keepers(&fewer);
    for (before, after) in before.iter().zip(&after) {
        assert!(before == after || *before == NodeId(50));
    }
    let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
    before.iter().for_each(|node| *load.entry(*node).or_default() += 1);
    let most = load.values().max().unwrap();
    assert!(*most < 160 && load.len() == 100, "each keeps about a hundredth; the most is {most}");
    assert_eq!(keeper(processes[0], []), None);
}

#[test]
fn a_keeper_that_starts_again_is_told_again() {
    let mut world = World::new(4, 3, 0);
    let born = NodeId(1);
    let process = (0..)
        .map(|serial| ProcessId::new(born, serial))
        .find(|process| keeper(*process, (1..=4).map(NodeId)) == Some(NodeId(4)))
        .unwrap();
    world.born(process);
    world.moves(process, NodeId(2));
    world.nodes.insert(NodeId(4), Location::new(NodeId(4), 2));
    world.lives.insert(NodeId(4), 2);
    world.members();
    world.nodes.insert(NodeId(1), Location::new(NodeId(1), 2));
    world.lives.insert(NodeId(1), 2);
    world.members();
    world.pass(3);
    assert_eq!(world.finds(NodeId(3), process).0, Some(Place { moves: 1, node: NodeId(2) }));
}

/// A machine that stood still is not heard for a while, and notices nothing of it itself.
#[test]
fn what_runs_on_a_node_that_is_not_heard_is_found_again_when_it_is() {
    for silent in [NodeId(2), NodeId(3)] {
        let mut world = World::new(5, 3, 0);
        let process = ProcessId::new(NodeId(1), 5);
        world.born(process);
        world.moves(process, NodeId(2));
        world.pass(3);
        let everyone: Vec<(NodeId, u64)> = world.lives.clone().into_iter().collect();
        let heard: Vec<(NodeId, u64)> = everyone.iter().copied().filter(|(node, _)| *node != silent).collect();
        let others = [1, 3, 4, 5].map(NodeId).into_iter().filter(|node| *node != silent);
        for members in [&heard, &everyone] {
            others.clone().for_each(|node| world.step(node, Input::Members(members)));
            world.pass(3);
            let place = Some(Place { moves: 1, node: NodeId(2) });
            others.clone().for_each(|by| assert_eq!(world.finds(by, process).0, place, "{by} with {members:?}"));
        }
    }
}

/// Whoever looked for it before it moved goes where it was, and learns from there.
#[test]
fn who_was_misled_knows_better_afterwards() {
    let mut world = World::new(5, 3, 0);
    let process = ProcessId::new(NodeId(1), 5);
    world.born(process);
    world.finds(NodeId(4), process);
    world.moves(process, NodeId(2));
    let hint = |world: &World| world.nodes[&NodeId(4)].known(process).map(|place| place.node);
    assert_eq!(hint(&world), Some(NodeId(1)), "it has not heard of the move");
    world.step(NodeId(1), Input::Misled { process, by: NodeId(4) });
    assert_eq!(hint(&world), Some(NodeId(2)));
    // What comes late changes nothing any more, and what was not asked for is not kept.
    let late = Message::Answer { process, place: Some(Place { moves: 0, node: NodeId(1) }) }.encode();
    world.step(NodeId(4), Input::Packet { from: NodeId(1), bytes: &late });
    assert_eq!(hint(&world), Some(NodeId(2)));
    world.step(NodeId(1), Input::Misled { process, by: NodeId(5) });
    assert_eq!(world.nodes[&NodeId(5)].known(process), None);
}

/// A node knew the process where it was before, and that node has died since.
#[test]
fn an_old_place_on_a_dead_node_does_not_hide_where_it_is() {
    let mut world = World::new(5, 3, 0);
    let process = ProcessId::new(NodeId(1), 5);
    world.born(process);
    world.finds(NodeId(4), process);
    world.moves(process, NodeId(2));
    world.dies(NodeId(1));
    world.pass(3);
    let ticket = Ticket(1000);
    world.step(NodeId(4), Input::Where { process, ticket, silent: None });
    world.pass(3);
    assert_eq!(world.found[&ticket], Some(Place { moves: 1, node: NodeId(2) }), "at the first time of asking");
}

/// Its node has just died, and it was taken up elsewhere before that is known of the node. Whoever does not reach the node asks others, and
/// does not wait for those that it does not reach either.
#[test]
fn what_was_taken_up_is_found_before_its_node_is_known_to_be_dead() {
    let born = NodeId(1);
    for dead in [NodeId(1), NodeId(2)] {
        let mut world = World::new(5, 3, 0);
        let is_kept_elsewhere = |process: &ProcessId| keeper(*process, (1..=5).map(NodeId)) == Some(NodeId(5));
        let process = (0..).map(|serial| ProcessId::new(born, serial)).find(is_kept_elsewhere).unwrap();
        world.born(process);
        if dead != born {
            world.moves(process, dead);
        }
        world.finds(NodeId(4), process);
        world.nodes.remove(&dead);
        world.step(NodeId(3), Input::Here { process, moves: 1 << 16 });
        let ticket = Ticket(1000);
        let there = Some(Place { moves: 1 << 16, node: NodeId(3) });
        world.step(NodeId(4), Input::Where { process, ticket, silent: Some(dead) });
        world.step(NodeId(4), Input::Unreached { node: dead });
        assert_eq!(world.found.get(&ticket), Some(&there), "{dead} is dead, and no time has passed");
        // And if nobody knows better, it is said to be where it was: that node may be reached again.
        world.step(NodeId(3), Input::Ended { process });
        let ticket = Ticket(1001);
        world.step(NodeId(4), Input::Where { process, ticket, silent: Some(NodeId(3)) });
        world.step(NodeId(4), Input::Unreached { node: dead });
        world.pass(3);
        assert_eq!(world.found.get(&ticket), Some(&there));
    }
}

/// What was told by an earlier life of a node is forgotten with it; what the later one told is not, in whichever order all that comes.
#[test]
fn what_ended_with_its_node_is_forgotten_and_what_came_later_is_not() {
    let mut keeper = Location::new(NodeId(1), 1);
    let mut effects = vec![];
    let members = [(NodeId(1), 1), (NodeId(2), 7)];
    let is_kept_here = |process: &ProcessId| super::keeper(*process, members.map(|(node, _)| node)) == Some(NodeId(1));
    let mut processes = (0..).map(|serial| ProcessId::new(NodeId(9), serial)).filter(is_kept_here);
    let (old, new) = (processes.next().unwrap(), processes.next().unwrap());
    let tell = |process, life| Message::Tell { process, moves: 1, life }.encode();
    let kept = |keeper: &Location, process| keeper.entries.contains_key(&process);
    keeper.step(Time(1), Input::Members(&[(NodeId(1), 1)]), &mut effects);
    keeper.step(Time(1), Input::Packet { from: NodeId(2), bytes: &tell(old, 6) }, &mut effects);
    keeper.step(Time(1), Input::Packet { from: NodeId(2), bytes: &tell(new, 7) }, &mut effects);
    assert!(kept(&keeper, old) && kept(&keeper, new));
    keeper.step(Time(2), Input::Members(&members), &mut effects);
    assert_eq!((kept(&keeper, old), kept(&keeper, new)), (false, true));
    keeper.step(Time(3), Input::Members(&[(NodeId(1), 1)]), &mut effects);
    keeper.step(Time(3), Input::Packet { from: NodeId(2), bytes: &tell(new, 7) }, &mut effects);
    keeper.step(Time(3), Input::Removed { node: NodeId(2) }, &mut effects);
    assert!(!kept(&keeper, new), "nothing is on what is no member");
}

/// A node that starts may hear of the others before it is told of itself.
#[test]
fn a_keeper_that_is_not_among_the_members_yet_keeps_what_it_is_told() {
    let members = [(NodeId(1), 1), (NodeId(2), 2), (NodeId(3), 3)];
    let is_kept_here = |process: &ProcessId| super::keeper(*process, members.map(|(node, _)| node)) == Some(NodeId(3));
    let process = (0..).map(|serial| ProcessId::new(NodeId(3), serial)).find(is_kept_here).unwrap();
    let mut keeper = Location::new(NodeId(3), 3);
    let mut effects = vec![];
    let place = Place { moves: 5, node: NodeId(2) };
    let tell = Message::Tell { process, moves: 5, life: 2 }.encode();
    keeper.step(Time(1), Input::Packet { from: NodeId(2), bytes: &tell }, &mut effects);
    keeper.step(Time(1), Input::Members(&members[..2]), &mut effects);
    keeper.step(Time(2), Input::Members(&members), &mut effects);
    assert_eq!(keeper.known(process), Some(place));
}

/// Whoever knew a process on a node that has begun a new life since does not look for it there.
#[test]
fn places_in_lives_that_are_over_are_forgotten() {
    let mut world = World::new(3, 3, 0);
    let born = NodeId(3);
    let is_kept_there = |process: &ProcessId| keeper(*process, (1..=3).map(NodeId)) == Some(born);
    let process = (0..).map(|serial| ProcessId::new(born, serial)).find(is_kept_there).unwrap();
    world.born(process);
    assert_eq!(world.finds(NodeId(1), process), (Some(Place { moves: 0, node: born }), 1));
    world.nodes.insert(born, Location::new(born, 2));
    world.lives.insert(born, 2);
    let there = Place { moves: 1 << 16, node: NodeId(2) };
    world.truth.insert(process, there);
    world.step(NodeId(2), Input::Here { process, moves: 1 << 16 });
    world.members();
    world.pass(3);
    for by in [1, 2, 3].map(NodeId) {
        assert_eq!(world.finds(by, process), (Some(there), 1), "{by}");
    }
}

#[test]
fn what_ended_is_found_nowhere() {
    let mut world = World::new(4, 3, 0);
    let process = ProcessId::new(NodeId(1), 5);
    world.born(process);
    world.moves(process, NodeId(2));
    world.truth.remove(&process);
    world.step(NodeId(2), Input::Ended { process });
    assert_eq!(world.finds(NodeId(3), process).0, None);
}

#[test]
fn tables_keep_their_bounds() {
    let mut recent = Recent::new(10);
    for serial in 0..1000 {
        let process = ProcessId::new(NodeId(1), serial % 30);
        recent.put(process, Place { moves: serial as u32, node: NodeId(2) });
        assert!(recent.places.len() <= 10 && recent.order.len() <= 20);
    }
    let kept: BTreeSet<u64> = recent.places.keys().map(|process| process.serial()).collect();
    assert!(kept.contains(&(999 % 30)));
}

#[test]
fn messages_survive_the_way_and_cut_ones_are_refused() {
    let process = ProcessId::new(NodeId(9), 77);
    let place = Some(Place { moves: 3, node: NodeId(2) });
    for message in [
        Message::Tell { process, moves: 1, life: 4 },
        Message::Kept { process, moves: 1 },
        Message::Forget { process, moves: 1 },
        Message::Ask { process },
        Message::Answer { process, place },
        Message::Answer { process, place: None },
    ] {
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Ok(message));
        for cut in 0..bytes.len() {
            assert!(Message::decode(&bytes[..cut]).is_err());
        }
    }
}
