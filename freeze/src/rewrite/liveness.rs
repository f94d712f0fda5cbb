//! Which locals are live at each resume point: backward data flow over the structured code, to a fixed point over loops.

use super::plan::{Kind, NONE, Plan, catch_label};
use crate::planted::{Bug, planted};
use wasmparser::Operator;

/// A set of locals.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn empty(locals: usize) -> Set {
        Set(vec![0; locals.div_ceil(64)])
    }
    fn insert(&mut self, local: u32) {
        self.0[local as usize / 64] |= 1 << (local % 64);
    }
    fn remove(&mut self, local: u32) {
        self.0[local as usize / 64] &= !(1 << (local % 64));
    }
    fn join(&mut self, other: &Set) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }
    fn clear(&mut self) {
        self.0.fill(0);
    }
    fn copy(&mut self, other: &Set) {
        self.0.copy_from_slice(&other.0);
    }
    fn list(&self) -> Vec<u32> {
        let mut list = vec![];
        for (index, word) in self.0.iter().enumerate() {
            let mut word = *word;
            while word != 0 {
                list.push(index as u32 * 64 + word.trailing_zeros());
                word &= word - 1;
            }
        }
        list
    }
}

/// An enclosing block, as seen walking backwards.
struct Open {
    start: usize,
    /// What is live behind its end.
    behind: Set,
    /// What is live at the start of its else arm, once passed.
    otherwise: Option<Set>,
}

struct Flow {
    open: Vec<Open>,
    /// What is live at the header of each loop, by instruction; of the round before.
    headers: std::collections::HashMap<usize, Set>,
}

impl Flow {
    /// What is live where a branch to this label goes; `None` means the function's end, where nothing is.
    fn at_label<'s>(&'s self, plan: &Plan, depth: usize) -> Option<&'s Set> {
        let open = self.open.len().checked_sub(1 + depth).map(|index| &self.open[index])?;
        match plan.ops[open.start] {
            Operator::Loop { .. } => self.headers.get(&open.start),
            _ => Some(&open.behind),
        }
    }

    fn join_label(&self, plan: &Plan, depth: u32, live: &mut Set) {
        if let Some(set) = self.at_label(plan, depth as usize) {
            live.join(set);
        }
    }

    /// An instruction that may throw reaches the handlers of all enclosing `try_table`s.
    fn join_handlers(&self, plan: &Plan, live: &mut Set) {
        for (index, open) in self.open.iter().enumerate() {
            if let Operator::TryTable { try_table } = &plan.ops[open.start] {
                let inner = self.open.len() - index;
                for catch in &try_table.catches {
                    self.join_label(plan, inner as u32 + catch_label(catch), live);
                }
            }
        }
    }
}

/// Live locals by point (index into `plan.points`); empty for entry points.
pub(super) fn live_locals(plan: &Plan) -> Vec<Vec<u32>> {
    let mut found = vec![vec![]; plan.points.len()];
    if plan.points.iter().all(|point| point.kind == Kind::Entry) {
        return found;
    }
    let mut start_of = vec![NONE; plan.ops.len()];
    let mut has_loop = false;
    for (start, end) in plan.end_of.iter().enumerate() {
        if *end != NONE {
            start_of[*end as usize] = start as u32;
            has_loop |= matches!(plan.ops[start], Operator::Loop { .. });
        }
    }
    let mut flow = Flow { open: vec![], headers: Default::default() };
    loop {
        let changed = pass(plan, &start_of, &mut flow, &mut found);
        if !changed || !has_loop {
            return found;
        }
    }
}

fn pass(plan: &Plan, start_of: &[u32], flow: &mut Flow, found: &mut [Vec<u32>]) -> bool {
    let mut changed = false;
    let mut live = Set::empty(plan.locals.len());
    flow.open.clear();
    for at in (0..plan.ops.len()).rev() {
        // Code that cannot be reached uses nothing; its blocks are left out together with their ends.
        if !plan.keep[at] {
            continue;
        }
        match &plan.ops[at] {
            Operator::End if start_of[at] != NONE => {
                let start = start_of[at] as usize;
                flow.open.push(Open { start, behind: live.clone(), otherwise: None });
            }
            Operator::Else => {
                let open = flow.open.last_mut().expect("an else is inside its if");
                open.otherwise = Some(live.clone());
                live.copy(&open.behind);
            }
            Operator::If { .. } => {
                let open = flow.open.pop().expect("blocks nest");
                live.join(open.otherwise.as_ref().unwrap_or(&open.behind));
            }
            Operator::Block { .. } | Operator::TryTable { .. } => {
                flow.open.pop();
            }
            Operator::Loop { .. } => {
                flow.open.pop();
                if let Some(index) = plan.point_index(at) {
                    found[index] = live.list();
                }
                let known = flow.headers.entry(at).or_insert_with(|| Set::empty(plan.locals.len()));
                if *known != live {
                    known.copy(&live);
                    changed = true;
                }
            }
            Operator::Br { relative_depth } => {
                live.clear();
                flow.join_label(plan, *relative_depth, &mut live);
            }
            Operator::BrIf { relative_depth }
            | Operator::BrOnNull { relative_depth }
            | Operator::BrOnNonNull { relative_depth }
            | Operator::BrOnCast { relative_depth, .. }
            | Operator::BrOnCastFail { relative_depth, .. } => flow.join_label(plan, *relative_depth, &mut live),
            Operator::BrTable { targets } => {
                live.clear();
                flow.join_label(plan, targets.default(), &mut live);
                for target in targets.targets() {
                    flow.join_label(plan, target.expect("validated before"), &mut live);
                }
            }
            Operator::Return
            | Operator::Unreachable
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::ReturnCallRef { .. } => live.clear(),
            Operator::Throw { .. } | Operator::ThrowRef => {
                live.clear();
                flow.join_handlers(plan, &mut live);
            }
            Operator::LocalGet { local_index } => live.insert(*local_index),
            Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => live.remove(*local_index),
            Operator::Call { .. } | Operator::CallIndirect { .. } | Operator::CallRef { .. } => {
                if !planted(Bug::HandlersForgotten) {
                    flow.join_handlers(plan, &mut live);
                }
                if let Some(index) = plan.point_index(at) {
                    found[index] = live.list();
                }
            }
            _ => {}
        }
    }
    changed
}
