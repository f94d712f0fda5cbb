//! Which parts of their frames the points of a function store with the same code. Knows plans; does not write code.
//!
//! A function with many points has mostly the same values live at them, in the same assignments. What a group of points has in
//! common is a *part*, which is stored by one piece of code that all of them go through; parts form a tree:
//!
//! ```text
//!   point 1: a b c d          part 0: a b  <---  part 1: c d    point 1
//!   point 2: a b e                         <---  part 2: e      points 2 and 3
//!   point 3: a b e
//! ```
//! A frame begins with what the root of its way through the tree holds. Sharing is by value and not by name: two points at which a
//! local holds different values would need as much code to bring them to one place as to store them. That values are taken
//! for the same is a guess about what the engine's compiler will find; being wrong makes code larger, never wrong.

use super::plan::{NONE, Place, Plan, catch_label, is_block};
use std::collections::{BTreeMap, BinaryHeap};
use wasmparser::{Operator, ValType};

/// Values that one piece of code stores; it goes on with its parent.
#[derive(Debug)]
pub(super) struct Part {
    /// A part with a lower index, or NONE.
    pub parent: u32,
    pub values: Vec<(Place, ValType)>,
}

/// About what storing one value and what having one more part cost, in bytes of machine code.
const VALUE_COST: usize = 6;
const PART_COST: usize = 30;

/// Beyond this many steps the assignments of a function's locals are not followed, and all of a local's are taken for one.
const STEPS_MAX: usize = 100_000_000;

/// Gives each of these points a part, and its saved values the order in which its parts hold them.
pub(super) fn share(plan: &mut Plan, points: &[usize]) {
    let assignments = assignments(plan);
    // Values are numbered in the order of places, so that the outcome depends on nothing else.
    let mut known: BTreeMap<(Place, u32), ValType> = BTreeMap::new();
    for point in points {
        for ((place, ty), assignment) in plan.points[*point].saved.iter().zip(&assignments[*point]) {
            known.insert((*place, *assignment), *ty);
        }
    }
    let number: BTreeMap<(Place, u32), u32> = known.keys().zip(0..).map(|(value, number)| (*value, number)).collect();
    let values: Vec<(Place, ValType)> = known.into_iter().map(|((place, _), ty)| (place, ty)).collect();
    let sets = points.iter().map(|point| {
        let saved = plan.points[*point].saved.iter().zip(&assignments[*point]);
        let mut set: Vec<u32> = saved.map(|((place, _), assignment)| number[&(*place, *assignment)]).collect();
        set.sort_unstable();
        set
    });
    let (parts, part_of) = Tree::parts_of(sets.collect(), values.len());
    let values_of = |part: Vec<u32>| part.into_iter().map(|value| values[value as usize]).collect();
    plan.parts = parts.into_iter().map(|(parent, part)| Part { parent, values: values_of(part) }).collect();
    for (index, part) in points.iter().zip(part_of) {
        let mut saved = vec![];
        let mut at = part;
        while at != NONE {
            saved.push(&plan.parts[at as usize].values[..]);
            at = plan.parts[at as usize].parent;
        }
        saved.reverse();
        plan.points[*index].saved = saved.concat();
        plan.points[*index].part = part;
    }
}

/// Sets made into a tree of parts: each set is what the parts on a way from a root hold.
struct Tree {
    /// What is left of each set when the parts that were chosen for it are taken away.
    left: Vec<Vec<u32>>,
    parts: Vec<(u32, Vec<u32>)>,
    part_of: Vec<u32>,
    /// Which sets hold each value; emptied after use.
    holders: Vec<Vec<usize>>,
}

impl Tree {
    /// The parts, and which of them each set ends with. The members of sets are below `values`; no set is empty.
    fn parts_of(sets: Vec<Vec<u32>>, values: usize) -> (Vec<(u32, Vec<u32>)>, Vec<u32>) {
        let all = (0..sets.len()).collect();
        let mut tree =
            Tree { part_of: vec![NONE; sets.len()], left: sets, parts: vec![], holders: vec![vec![]; values] };
        let mut work: Vec<(u32, Vec<usize>)> = vec![(NONE, all)];
        while let Some((parent, sets)) = work.pop() {
            tree.split(parent, sets, &mut work);
        }
        (tree.parts, tree.part_of)
    }

    fn add(&mut self, parent: u32, values: Vec<u32>) -> u32 {
        self.parts.push((parent, values));
        self.parts.len() as u32 - 1
    }

    /// Below `parent`: the value that most sets hold makes a part of what those have in common, and so on with the others.
    fn split(&mut self, parent: u32, sets: Vec<usize>, work: &mut Vec<(u32, Vec<usize>)>) {
        let mut here = vec![false; self.left.len()];
        for set in &sets {
            here[*set] = true;
            for value in &self.left[*set] {
                self.holders[*value as usize].push(*set);
            }
        }
        let held: Vec<u32> = {
            let mut held: Vec<u32> = sets.iter().flat_map(|set| self.left[*set].iter().copied()).collect();
            held.sort_unstable();
            held.dedup();
            held
        };
        let entry = |value: u32, count: usize| (count, std::cmp::Reverse(value));
        let mut most: BinaryHeap<_> =
            held.iter().map(|value| entry(*value, self.holders[*value as usize].len())).collect();
        while let Some((count, std::cmp::Reverse(value))) = most.pop() {
            let mut group = std::mem::take(&mut self.holders[value as usize]);
            group.retain(|set| here[*set]);
            if group.len() < 2 {
                continue;
            }
            if group.len() < count {
                most.push(entry(value, group.len()));
                self.holders[value as usize] = group;
                continue;
            }
            let mut common = self.left[group[0]].clone();
            for set in &group[1..] {
                common.retain(|value| self.left[*set].binary_search(value).is_ok());
            }
            let ending = group.iter().filter(|set| self.left[**set].len() == common.len()).count();
            if (group.len() - 1) * common.len() * VALUE_COST + ending * PART_COST <= PART_COST {
                continue;
            }
            let part = self.add(parent, common.clone());
            for set in &group {
                here[*set] = false;
                self.left[*set].retain(|value| common.binary_search(value).is_err());
                self.part_of[*set] = part;
            }
            group.retain(|set| !self.left[*set].is_empty());
            if !group.is_empty() {
                work.push((part, group));
            }
        }
        for set in sets.into_iter().filter(|set| here[*set]) {
            let values = std::mem::take(&mut self.left[set]);
            self.part_of[set] = self.add(parent, values);
        }
        held.into_iter().for_each(|value| self.holders[value as usize].clear());
    }
}

/// For each point and each of its saved values, which assignment the value comes from: the number of an instruction, or of the
/// end or the loop where several meet.
fn assignments(plan: &Plan) -> Vec<Vec<u32>> {
    let mut found: Vec<Vec<u32>> = plan.points.iter().map(|point| vec![0; point.saved.len()]).collect();
    for (point, found) in plan.points.iter().zip(&mut found) {
        for ((place, _), found) in point.saved.iter().zip(found) {
            if let Place::Slot(depth) = place {
                *found = point.makers[*depth as usize];
            }
        }
    }
    let branches =
        plan.ops.iter().filter(|op| is_block(op) || matches!(op, Operator::Br { .. } | Operator::BrIf { .. }));
    if branches.count().saturating_mul(plan.locals.len()) > STEPS_MAX {
        return found;
    }
    let mut assigned = assigned_in_loops(plan).into_iter();
    // 0 is what a local has at the beginning; the instruction at index n counts as n + 1.
    let mut now: Option<Vec<u32>> = Some(vec![0; plan.locals.len()]);
    let mut open: Vec<Block> = vec![Block { start: NONE as usize, end: NONE, at_start: None, at_end: None }];
    for (at, op) in plan.ops.iter().enumerate().filter(|(at, _)| plan.keep[*at]) {
        match op {
            op if is_block(op) => {
                if let Operator::Loop { .. } = op {
                    let assigned = assigned.next().expect("one list for each loop");
                    if let Some(now) = &mut now {
                        assigned.iter().for_each(|local| now[*local as usize] = at as u32 + 1);
                    }
                }
                if let Operator::TryTable { try_table } = op {
                    for catch in &try_table.catches {
                        Block::arrive(&mut open, catch_label(catch), &now);
                    }
                }
                let at_start = matches!(op, Operator::If { .. }).then(|| now.clone()).flatten();
                open.push(Block { start: at, end: plan.end_of[at] + 1, at_start, at_end: None });
            }
            Operator::Else => {
                Block::arrive(&mut open, 0, &now);
                now = open.last_mut().expect("an else is inside its if").at_start.take();
            }
            Operator::End => {
                if let Some(Block { at_start: Some(_), .. }) = open.last() {
                    // There was no else: the way past the if.
                    let past = open.last_mut().expect("looked at just now").at_start.take();
                    Block::arrive(&mut open, 0, &past);
                }
                let is_loop =
                    |block: &Block| plan.ops.get(block.start).is_some_and(|op| matches!(op, Operator::Loop { .. }));
                if !open.last().is_some_and(is_loop) {
                    Block::arrive(&mut open, 0, &now);
                    now = open.last_mut().and_then(|block| block.at_end.take());
                }
                open.pop();
            }
            Operator::Br { relative_depth } => {
                Block::arrive(&mut open, *relative_depth, &now);
                now = None;
            }
            Operator::BrIf { relative_depth }
            | Operator::BrOnNull { relative_depth }
            | Operator::BrOnNonNull { relative_depth }
            | Operator::BrOnCast { relative_depth, .. }
            | Operator::BrOnCastFail { relative_depth, .. } => Block::arrive(&mut open, *relative_depth, &now),
            Operator::BrTable { targets } => {
                let mut depths: Vec<u32> = targets.targets().flatten().chain([targets.default()]).collect();
                depths.sort_unstable();
                depths.dedup();
                depths.into_iter().for_each(|depth| Block::arrive(&mut open, depth, &now));
                now = None;
            }
            Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => {
                if let Some(now) = &mut now {
                    now[*local_index as usize] = at as u32 + 1;
                }
            }
            _ => {}
        }
        if let (Some(index), Some(now)) = (plan.point_index(at), &now) {
            let point = &plan.points[index];
            for ((place, _), found) in point.saved.iter().zip(&mut found[index]) {
                if let Place::Local(local) = place {
                    *found = now[*local as usize];
                }
            }
        }
    }
    found
}

/// A block that the walk is inside of.
struct Block {
    start: usize,
    /// One more than the index of its end.
    end: u32,
    /// For an `if` until its else.
    at_start: Option<Vec<u32>>,
    at_end: Option<Vec<u32>>,
}

impl Block {
    /// A branch to the block at this depth. (What arrives at a loop says nothing: its header was dealt with.)
    fn arrive(open: &mut [Block], depth: u32, now: &Option<Vec<u32>>) {
        let Some(now) = now else { return };
        let index = open.len() - 1 - depth as usize;
        let block = &mut open[index];
        match &mut block.at_end {
            None => block.at_end = Some(now.clone()),
            Some(known) => {
                for (known, _) in known.iter_mut().zip(now).filter(|(known, now)| known != now) {
                    *known = block.end;
                }
            }
        }
    }
}

/// The locals that each loop assigns, in the order of the loops.
fn assigned_in_loops(plan: &Plan) -> Vec<Vec<u32>> {
    let mut lists: Vec<Vec<u32>> = vec![];
    let mut open: Vec<Option<usize>> = vec![];
    for (_, op) in plan.ops.iter().enumerate().filter(|(at, _)| plan.keep[*at]) {
        match op {
            Operator::Loop { .. } => {
                open.push(Some(lists.len()));
                lists.push(vec![]);
            }
            op if is_block(op) => open.push(None),
            Operator::End => {
                let inner = open.pop().flatten();
                let outer = open.iter().rev().find_map(|block| *block);
                if let Some(inner) = inner {
                    lists[inner].sort_unstable();
                    lists[inner].dedup();
                    if let Some(outer) = outer {
                        let assigned = lists[inner].clone();
                        lists[outer].extend(assigned);
                    }
                }
            }
            Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => {
                if let Some(innermost) = open.iter().rev().find_map(|block| *block) {
                    lists[innermost].push(*local_index);
                }
            }
            _ => {}
        }
    }
    lists
}
