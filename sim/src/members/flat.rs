//! What one node pays for membership, against how many nodes there are.
//!
//! The one idea: every node in the system is real here, and what each sends is counted while nothing but ordinary life goes on: nodes ask
//! one another, and each has something new to say of itself now and then. A cost that grows with the number of nodes shows at once.

use crate::checkers::Violation;
use crate::members::world::{SECOND, World};
use abi::ids::NodeId;
use services::members::Standing;

/// How long all this is counted.
const COUNTED_NS: u64 = 5 * SECOND;

/// The cost with so many nodes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Row {
    pub nodes: usize,
    /// Until every node saw every other one alive, from a start in which each knew of three.
    pub found_s: f64,
    /// Packets and bytes that a node sends in a second: on average, and the node that sends most.
    pub packets: f64,
    pub packets_max: f64,
    pub bytes: f64,
    pub bytes_max: f64,
    /// Until a loss of power was noticed: by half of the nodes, and by all.
    pub half_s: f64,
    pub all_s: f64,
    /// What a node keeps.
    pub kept_bytes: usize,
}

pub const HEADER: &str =
    "   nodes   found   packets/s    max    bytes/s     max   noticed by half   by all   kept bytes";

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(
            f,
            "{:>8} {:>5.1} s {:>11.1} {:>6.1} {:>10.0} {:>7.0} {:>15.2} s {:>6.2} s {:>12}",
            self.nodes,
            self.found_s,
            self.packets,
            self.packets_max,
            self.bytes,
            self.bytes_max,
            self.half_s,
            self.all_s,
            self.kept_bytes
        )
    }
}

fn all_found(world: &World) -> bool {
    let up = |view: services::members::View| view.standing == Standing::Alive;
    world.nodes.values().all(|node| node.members.as_ref().is_none_or(|members| members.all().all(up)))
}

/// Plays a system of so many nodes.
pub fn measure(nodes: usize, seed: u64) -> Result<Row, Violation> {
    let mut world = World::new(seed);
    (world.links, world.checked) = (false, nodes <= 10);
    let numbers: Vec<NodeId> = (1..=nodes as u16).map(NodeId).collect();
    numbers.iter().for_each(|number| world.add(*number));
    world.belong(numbers.iter().copied());
    for number in &numbers {
        world.start(*number)?;
    }
    for number in &numbers {
        for _ in 0..3 {
            let other = *world.random.pick(&numbers).expect("there are some");
            if other != *number {
                world.link(*number, other);
            }
        }
    }
    let start = world.now;
    while !all_found(&world) {
        world.run_for(SECOND / 10)?;
        if world.now.since(start) > 120 * SECOND {
            return Err(Violation(format!("{nodes} nodes have not found one another in two minutes")));
        }
    }
    let found_s = world.now.since(start) as f64 / SECOND as f64;
    // What was news at the beginning is told by then.
    live(&mut world, &numbers, 5 * SECOND)?;
    let before = counts(&world);
    live(&mut world, &numbers, COUNTED_NS)?;
    let seconds = COUNTED_NS as f64 / SECOND as f64;
    let sent: Vec<(f64, f64)> = counts(&world)
        .iter()
        .zip(&before)
        .map(|(after, before)| ((after.0 - before.0) as f64 / seconds, (after.1 - before.1) as f64 / seconds))
        .collect();
    let kept_bytes =
        world.nodes.values().filter_map(|node| node.members.as_ref()).map(|members| members.footprint()).max();
    let mean = |of: fn(&(f64, f64)) -> f64| sent.iter().map(of).sum::<f64>() / sent.len() as f64;
    let most = |of: fn(&(f64, f64)) -> f64| sent.iter().map(of).fold(0.0, f64::max);
    // Last, one loses power.
    let lost = numbers[nodes / 2];
    world.kill(lost, true);
    let died = world.now;
    let (mut half_s, mut all_s) = (None, None);
    while all_s.is_none() {
        world.run_for(SECOND / 50)?;
        let since = world.now.since(died) as f64 / SECOND as f64;
        let members = world.nodes.values().filter_map(|node| node.members.as_ref());
        let noticed = members.filter(|members| members.get(lost).is_some_and(|view| !view.standing.is_up())).count();
        if noticed * 2 >= nodes - 1 {
            half_s.get_or_insert(since);
        }
        if noticed == nodes - 1 {
            all_s = Some(since);
        }
        if since > 30.0 {
            return Err(Violation(format!("of {nodes} nodes {noticed} have noticed a death after 30 seconds")));
        }
    }
    Ok(Row {
        nodes,
        found_s,
        packets: mean(|sent| sent.0),
        packets_max: most(|sent| sent.0),
        bytes: mean(|sent| sent.1),
        bytes_max: most(|sent| sent.1),
        half_s: half_s.unwrap_or_default(),
        all_s: all_s.unwrap_or_default(),
        kept_bytes: kept_bytes.unwrap_or_default(),
    })
}

/// Every node has something new to say about every two seconds.
fn live(world: &mut World, numbers: &[NodeId], length: u64) -> Result<(), Violation> {
    let end = world.now.after(length);
    let gap = 2 * SECOND / numbers.len() as u64;
    while world.now < end {
        world.run_for(gap)?;
        let node = *world.random.pick(numbers).expect("there are some");
        let mut facts = world.node(node).facts.clone();
        facts.load_hundredths = world.random.below(800) as u32;
        facts.processes += 1;
        world.set_facts(node, facts)?;
    }
    Ok(())
}

fn counts(world: &World) -> Vec<(u64, u64)> {
    let counts = world.nodes.values().filter_map(|node| node.members.as_ref()).map(|members| members.counts());
    counts.map(|counts| (counts.packets_sent, counts.bytes_sent)).collect()
}
