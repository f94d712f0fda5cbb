//! One function, understood: its resume points and what a frame holds at each.
//!
//! The operand stack is followed symbolically: an entry that is still a copy of a local, or a constant, is not saved but
//! made again. Every other entry below a resume point is kept in a local of its own, its *slot*.

use super::calls::{Calls, Reach, Target};
use super::emit::{PACKED_POINTS_MAX, PACKED_WORDS_MAX, Shape};
use super::share::{self, Part};
use super::source::{Kind as ValueKind, Source, kind};
use crate::error::RewriteError;
use crate::planted::{Bug, planted};
use wasmparser::{
    Catch, FuncToValidate, FuncValidatorAllocations, FunctionBody, Operator, ValType, ValidatorResources,
};

pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Before the first instruction: the parameters are saved.
    Entry,
    /// At a loop header, before the loop's first instruction.
    Loop,
    /// In a call; `below` operand-stack entries are under its arguments.
    Call { below: u32 },
    /// In a host call, in the shim around the import: its arguments are saved.
    Host,
}

/// How an operand-stack entry is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recipe {
    Slot,
    Local(u32),
    /// The constant instruction at this index.
    Constant(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Place {
    Local(u32),
    /// The slot of the operand-stack entry at this depth.
    Slot(u32),
}

#[derive(Debug)]
pub(super) struct Point {
    pub id: u32,
    /// Index of the instruction; unused for Entry.
    pub at: usize,
    pub kind: Kind,
    /// What a frame holds, in this order.
    pub saved: Vec<(Place, ValType)>,
    /// The operand stack, from the bottom: all of it for a loop, what is below the arguments for a call.
    pub stack: Vec<(ValType, Recipe)>,
    /// For each entry of the stack, the instruction that made it.
    pub makers: Vec<u32>,
    /// The first of the parts that store its frame (see share.rs); NONE if the frame is small and a save helper stores it.
    pub part: u32,
}

fn value_order(ty: ValType) -> u8 {
    match ty {
        ValType::I32 => 0,
        ValType::I64 => 1,
        ValType::F32 => 2,
        ValType::F64 => 3,
        ValType::V128 => 4,
        ValType::Ref(_) if kind(ty) == ValueKind::Function => 5,
        ValType::Ref(_) => 6,
    }
}

/// Bytes that a value takes in a frame.
pub(super) fn value_size(ty: ValType, exception_size: u32) -> u32 {
    match ty {
        ValType::I32 | ValType::F32 => 4,
        ValType::I64 | ValType::F64 => 8,
        ValType::V128 => 16,
        ValType::Ref(_) if kind(ty) == ValueKind::Exception => exception_size,
        ValType::Ref(_) => 4,
    }
}

impl Point {
    pub fn size(&self, exception_size: u32) -> u32 {
        self.saved.iter().map(|(_, ty)| value_size(*ty, exception_size)).sum()
    }
}

/// A block, or a call that is a resume point, as the operand stack is before it.
#[derive(Debug, Default)]
pub(super) struct Site {
    pub stack: Vec<ValType>,
    pub parameters: Vec<ValType>,
    pub results: Vec<ValType>,
}

pub(super) struct Plan<'a> {
    pub function: u32,
    pub results: Vec<ValType>,
    /// Parameters first.
    pub locals: Vec<ValType>,
    pub parameters: usize,
    pub ops: Vec<Operator<'a>>,
    /// Where each instruction starts in the module; one more for the end.
    pub offsets: Vec<usize>,
    /// Instructions that are reachable as validation sees it.
    pub keep: Vec<bool>,
    /// Height of the operand stack before each instruction, and once it has taken its operands.
    pub height: Vec<u32>,
    pub low: Vec<u32>,
    /// For the start of a block: its end, and its else or NONE.
    pub end_of: Vec<u32>,
    pub else_of: Vec<u32>,
    site_at: Vec<u32>,
    sites: Vec<Site>,
    point_at: Vec<u32>,
    pub points: Vec<Point>,
    /// What stores the frames that are not small; parents come first.
    pub parts: Vec<Part>,
    /// How many points are at instructions before this one.
    pub points_before: Vec<u32>,
    pub entry: Option<usize>,
    /// Loops that no continuation holds a copy of (see emit.rs), by instruction index, in order.
    pub large_loops: Vec<usize>,
    /// Those of them that the function itself can begin with; the others have loop functions.
    pub entered: Option<Entered>,
}

/// Large loops, each inside of the one before, that the function can begin with.
#[derive(Debug)]
pub(super) struct Entered {
    /// Indices of the loops' instructions, from the outermost.
    pub loops: Vec<usize>,
    /// The same with the blocks that are around them.
    pub path: Vec<usize>,
}

pub(super) fn is_block(op: &Operator) -> bool {
    matches!(op, Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::TryTable { .. })
}

/// A loop of more bytes than this is compiled once more with the program, so that no continuation has to compile it.
pub(super) const LARGE_LOOP_BYTES: usize = 8192;

/// More values than this cannot be the parameters of a function (the limit of WebAssembly is 1000).
pub(super) const PARAMETERS_MAX: usize = 900;

impl<'a> Plan<'a> {
    pub fn site(&self, at: usize) -> &Site {
        &self.sites[self.site_at[at] as usize]
    }

    pub fn point(&self, at: usize) -> Option<&Point> {
        self.point_index(at).map(|index| &self.points[index])
    }

    pub fn point_index(&self, at: usize) -> Option<usize> {
        let index = self.point_at[at];
        (index != NONE).then_some(index as usize)
    }

    /// The point with this id, if a frame can be of it.
    pub fn stops_at(&self, id: u32) -> Option<&Point> {
        let index = id.checked_sub(self.points.first()?.id)? as usize;
        let point = self.points.get(index)?;
        (point.kind == Kind::Entry || self.point_at[point.at] != NONE).then_some(point)
    }

    /// Is there a resume point inside the block that starts here?
    pub fn holds_point(&self, at: usize) -> bool {
        self.points_before[self.end_of[at] as usize] > self.points_before[at]
    }

    /// Reads and validates one function. `first_id` numbers its points, as `calls` says which calls may unwind.
    pub fn new(
        source: &Source<'a>, calls: &Calls, function: FuncToValidate<ValidatorResources>, body: &FunctionBody<'a>,
        first_id: u32,
    ) -> Result<Plan<'a>, RewriteError> {
        let index = function.index;
        let signature = source.signature(index);
        let mut plan = Plan::empty(index, signature.params().to_vec(), signature.results().to_vec());
        let mut stack = Stack::default();
        let mut next_id = first_id;
        if calls.entry_poll[index as usize] {
            plan.entry = Some(0);
            plan.points.push(Point {
                id: next_id,
                at: 0,
                kind: Kind::Entry,
                saved: vec![],
                stack: vec![],
                makers: vec![],
                part: NONE,
            });
            next_id += 1;
        }

        let mut validator = function.into_validator(FuncValidatorAllocations::default());
        let mut reader = body.get_binary_reader();
        validator.read_locals(&mut reader)?;
        for local in plan.parameters as u32..validator.len_locals() {
            let ty = validator.get_local_type(local).expect("the index is below the number of locals");
            plan.locals.push(source.in_module(ty));
        }
        let mut operators = wasmparser::OperatorsReader::new(reader);
        let mut reach = Reach::new();
        let mut open: Vec<usize> = vec![];
        while !operators.eof() {
            let offset = operators.original_position();
            let op = operators.read()?;
            let at = plan.ops.len();
            let height = validator.operand_stack_height();
            let keep = reach.step(&op);
            plan.offsets.push(offset);
            plan.keep.push(keep);
            plan.height.push(height);
            plan.end_of.push(NONE);
            plan.else_of.push(NONE);
            plan.site_at.push(NONE);
            plan.point_at.push(NONE);
            plan.points_before.push(plan.points.len() as u32);

            let (pops, pushes) = op.operator_arity(&validator).unwrap_or((0, 0));
            plan.low.push(height.saturating_sub(pops));
            let mut types = vec![];
            if keep && (is_block(&op) || is_call(&op)) {
                for depth in (0..height as usize).rev() {
                    types.push(match validator.get_operand_type(depth) {
                        Some(Some(ty)) => source.in_module(ty),
                        // Only unreachable code has operands of unknown type, and that is not kept.
                        _ => ValType::I32,
                    });
                }
            }
            validator.op(offset, &op)?;
            stack.at = at as u32;

            match &op {
                op if is_block(op) => {
                    open.push(at);
                    if keep {
                        let ty = match op {
                            Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => {
                                *blockty
                            }
                            Operator::TryTable { try_table } => try_table.ty,
                            _ => unreachable!("is_block lists just these"),
                        };
                        let (parameters, results) = source.block_type(ty);
                        let condition = matches!(op, Operator::If { .. }) as u32;
                        stack.truncate(height - condition);
                        stack.opaque(parameters.len() as u32);
                        if matches!(op, Operator::Loop { .. }) {
                            plan.add_point(at, next_id, Kind::Loop, &types, &stack);
                            next_id += 1;
                        }
                        plan.add_site(at, types, parameters, results);
                    }
                }
                Operator::Else => {
                    if let Some(start) = open.last() {
                        plan.else_of[*start] = at as u32;
                        if keep {
                            let site = plan.site(*start);
                            let base = site.stack.len() - 1 - site.parameters.len();
                            let parameters = site.parameters.len() as u32;
                            stack.truncate(base as u32);
                            stack.push_values(parameters);
                        }
                    }
                }
                Operator::End => {
                    if let Some(start) = open.pop() {
                        plan.end_of[start] = at as u32;
                        if keep {
                            let condition = matches!(plan.ops[start], Operator::If { .. }) as usize;
                            let site = plan.site(start);
                            let base = site.stack.len() - condition - site.parameters.len();
                            let results = site.results.len() as u32;
                            stack.truncate(base as u32);
                            stack.push_values(results);
                        }
                    }
                }
                _ if !keep => {}
                Operator::LocalGet { local_index } => stack.push(Recipe::Local(*local_index)),
                Operator::I32Const { .. }
                | Operator::I64Const { .. }
                | Operator::F32Const { .. }
                | Operator::F64Const { .. } => stack.push(Recipe::Constant(at as u32)),
                Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => {
                    stack.truncate(height - 1);
                    stack.forget_local(*local_index);
                    stack.push_values(pushes);
                }
                op if is_call(op) => {
                    let target = match op {
                        Operator::Call { function_index } => Target::Function(*function_index),
                        Operator::CallIndirect { type_index, .. } | Operator::CallRef { type_index } => {
                            Target::Type(*type_index)
                        }
                        _ => unreachable!("is_call lists just these"),
                    };
                    let below = height - pops;
                    stack.truncate(below);
                    if calls.may(target) {
                        plan.add_point(at, next_id, Kind::Call { below }, &types[..below as usize], &stack);
                        next_id += 1;
                        let ty = match target {
                            Target::Function(function) => source.signature(function),
                            Target::Type(ty) => source.function_type(ty),
                        };
                        plan.add_site(at, types, ty.params().to_vec(), ty.results().to_vec());
                    }
                    stack.push_values(pushes);
                }
                _ => {
                    stack.truncate(height.saturating_sub(pops));
                    stack.push_values(pushes);
                }
            }
            plan.ops.push(op);
        }
        operators.finish()?;
        plan.offsets.push(body.range().end);
        plan.elide_tail_calls();
        plan.demote_in_loops();
        Ok(plan)
    }

    /// A function without code, for the shim around an import.
    pub fn empty(function: u32, parameters: Vec<ValType>, results: Vec<ValType>) -> Plan<'a> {
        Plan {
            function,
            results,
            parameters: parameters.len(),
            locals: parameters,
            ops: vec![],
            offsets: vec![],
            keep: vec![],
            height: vec![],
            low: vec![],
            end_of: vec![],
            else_of: vec![],
            site_at: vec![],
            sites: vec![],
            point_at: vec![],
            points: vec![],
            parts: vec![],
            points_before: vec![],
            entry: None,
            large_loops: vec![],
            entered: None,
        }
    }

    fn add_site(&mut self, at: usize, stack: Vec<ValType>, parameters: Vec<ValType>, results: Vec<ValType>) {
        self.site_at[at] = self.sites.len() as u32;
        self.sites.push(Site { stack, parameters, results });
    }

    fn add_point(&mut self, at: usize, id: u32, kind: Kind, types: &[ValType], stack: &Stack) {
        self.point_at[at] = self.points.len() as u32;
        let makers = stack.makers[..types.len()].to_vec();
        let stack = types.iter().copied().zip(stack.entries.iter().copied()).collect();
        self.points.push(Point { id, at, kind, saved: vec![], stack, makers, part: NONE });
    }

    /// A call whose results are the function's own, with nothing to do in between, needs no frame: its callee's
    /// continuation returns to our caller's.
    fn elide_tail_calls(&mut self) {
        let mut start_of = vec![NONE; self.ops.len()];
        let mut open = vec![];
        let mut inside_try = vec![false; self.ops.len()];
        let mut tries = 0;
        for at in 0..self.ops.len() {
            inside_try[at] = tries > 0;
            match &self.ops[at] {
                op if is_block(op) => {
                    open.push(at);
                    tries += matches!(op, Operator::TryTable { .. }) as u32;
                }
                Operator::End => {
                    if let Some(start) = open.pop() {
                        start_of[at] = start as u32;
                        tries -= matches!(self.ops[start], Operator::TryTable { .. }) as u32;
                    }
                }
                _ => {}
            }
        }
        for index in 0..self.points.len() {
            let Kind::Call { below } = self.points[index].kind else {
                continue;
            };
            let call = self.points[index].at;
            if inside_try[call] && !planted(Bug::FrameLeftOut) || self.site(call).results != self.results {
                continue;
            }
            let mut at = call + 1;
            let elided = loop {
                match &self.ops[at] {
                    Operator::Return => break true,
                    Operator::Else => {
                        // The arm before the else goes on behind the end.
                        let mut depth = 0;
                        loop {
                            at += 1;
                            match &self.ops[at] {
                                op if is_block(op) => depth += 1,
                                Operator::End if depth == 0 => break,
                                Operator::End => depth -= 1,
                                _ => {}
                            }
                        }
                    }
                    Operator::End => {
                        let start = start_of[at];
                        if start == NONE {
                            break below == 0;
                        }
                        let start = start as usize;
                        let condition = matches!(self.ops[start], Operator::If { .. }) as usize;
                        let site = self.site(start);
                        if site.stack.len() - condition - site.parameters.len() != below as usize {
                            break false;
                        }
                        at += 1;
                    }
                    _ => break false,
                }
            };
            if elided {
                self.point_at[call] = NONE;
            }
        }
    }

    /// A stack entry that copies a local, below a loop that assigns the local, is no copy in the loop's later rounds.
    fn demote_in_loops(&mut self) {
        let mut loops: Vec<(usize, usize)> = vec![];
        for at in 0..self.ops.len() {
            if self.keep[at] && matches!(self.ops[at], Operator::Loop { .. }) {
                loops.push((at, self.end_of[at] as usize));
            }
        }
        for (start, end) in loops.into_iter().filter(|_| !planted(Bug::StaleCopy)) {
            let site = self.site(start);
            let base = site.stack.len() - site.parameters.len();
            if base == 0 {
                continue;
            }
            let mut assigned = vec![false; self.locals.len()];
            for op in &self.ops[start..end] {
                if let Operator::LocalSet { local_index } | Operator::LocalTee { local_index } = op {
                    assigned[*local_index as usize] = true;
                }
            }
            for point in self.points.iter_mut().filter(|p| p.kind != Kind::Entry && p.at >= start && p.at < end) {
                for (_, recipe) in point.stack.iter_mut().take(base) {
                    if matches!(recipe, Recipe::Local(local) if assigned[*local as usize]) {
                        *recipe = Recipe::Slot;
                    }
                }
            }
        }
    }

    /// Fills in what each point saves, once liveness is known, and which loops are large.
    pub fn finish(&mut self, source: &Source) -> Result<(), RewriteError> {
        let live = super::liveness::live_locals(self);
        for (index, point) in self.points.iter_mut().enumerate() {
            let mut locals =
                if point.kind == Kind::Entry { (0..self.parameters as u32).collect() } else { live[index].clone() };
            for (_, recipe) in &point.stack {
                if let Recipe::Local(local) = recipe {
                    locals.push(*local);
                }
            }
            locals.sort_unstable();
            locals.dedup();
            point.saved = locals.into_iter().map(|l| (Place::Local(l), self.locals[l as usize])).collect();
            for (depth, (ty, recipe)) in point.stack.iter().enumerate() {
                if *recipe == Recipe::Slot {
                    point.saved.push((Place::Slot(depth as u32), *ty));
                }
            }
            // By type, so that many frames have the same shape and share a save helper.
            point.saved.sort_by_key(|(_, ty)| value_order(*ty));
            if planted(Bug::LiveValueDropped) {
                point.saved.pop();
            }
        }
        let unsupported =
            |construct: String| RewriteError::Unsupported { function: source.name(self.function), construct };
        for point in &self.points {
            let elided = matches!(point.kind, Kind::Call { .. }) && self.point_at[point.at] == NONE;
            if elided {
                continue;
            }
            if let Some((_, ty)) = point.saved.iter().find(|(_, ty)| kind(*ty) == ValueKind::Opaque) {
                let place = match point.kind {
                    Kind::Entry => "at its entry".to_string(),
                    Kind::Loop => format!("across the loop at byte {}", self.offsets[point.at]),
                    _ => format!("across the call at byte {}", self.offsets[point.at]),
                };
                return Err(unsupported(format!("a reference of type {ty} is live {place}")));
            }
            if point.size(super::EXCEPTION_SIZE_MAX) > super::FRAME_SIZE_MAX {
                return Err(unsupported(format!("a frame of more than {} bytes", super::FRAME_SIZE_MAX)));
            }
            if point.kind == Kind::Loop
                && point.saved.len() <= PARAMETERS_MAX
                && self.offsets[self.end_of[point.at] as usize] - self.offsets[point.at] > LARGE_LOOP_BYTES
            {
                self.large_loops.push(point.at);
            }
        }
        if !self.points.is_empty() {
            let not_null = |ty: &ValType| matches!(ty, ValType::Ref(r) if !r.is_nullable());
            if self.results.iter().any(not_null) {
                return Err(unsupported("it returns a reference that cannot be null".into()));
            }
            if self.locals[self.parameters..].iter().any(not_null) {
                return Err(unsupported("it has a local of a reference type that cannot be null".into()));
            }
        }
        let is_large = |point: &Point| !Shape::of(&point.saved).fits_helper();
        let large: Vec<usize> = self
            .points
            .iter()
            .enumerate()
            .filter(|(_, point)| self.stops_at(point.id).is_some() && is_large(point))
            .map(|(index, _)| index)
            .collect();
        let fits = |index: &usize| self.points[*index].size(super::EXCEPTION_SIZE_MAX) / 4 < PACKED_WORDS_MAX;
        if !large.is_empty() && large.iter().all(fits) && self.points.len() < PACKED_POINTS_MAX {
            share::share(self, &large);
        }
        self.entered = self.choose_entered();
        Ok(())
    }
}

impl Plan<'_> {
    /// The blocks around an instruction, from the outermost.
    pub fn blocks_around(&self, at: usize) -> Vec<usize> {
        let mut around = vec![];
        for (index, op) in self.ops[..at].iter().enumerate() {
            if is_block(op) {
                around.push(index);
            } else if matches!(op, Operator::End) {
                around.pop();
            }
        }
        around
    }

    /// Large loops with nothing around them but plain blocks and one another: those that spare the most loop functions.
    fn choose_entered(&self) -> Option<Entered> {
        let default = |ty: &ValType| !matches!(ty, ValType::Ref(reference) if !reference.is_nullable());
        if !self.locals[..self.parameters].iter().all(default) {
            return None;
        }
        let is_large_loop = |at: &usize| self.large_loops.binary_search(at).is_ok();
        let plain =
            |at: &usize| matches!(self.ops[*at], Operator::Block { .. }) && self.site(*at).parameters.is_empty();
        let size = |at: &usize| self.offsets[self.end_of[*at] as usize] - self.offsets[*at];
        let candidates = self.large_loops.iter().filter_map(|at| {
            let mut path = self.blocks_around(*at);
            path.push(*at);
            let loops: Vec<usize> = path.iter().copied().filter(is_large_loop).collect();
            // Only where nothing is on the operand stack can values be loaded on the way in.
            let fits = path.iter().all(|at| is_large_loop(at) || plain(at))
                && (loops.len() == 1 || self.site(*at).stack.is_empty());
            fits.then_some(Entered { loops, path })
        });
        candidates.max_by_key(|entered| entered.loops.iter().map(size).sum::<usize>())
    }
}

fn is_call(op: &Operator) -> bool {
    matches!(op, Operator::Call { .. } | Operator::CallIndirect { .. } | Operator::CallRef { .. })
}

/// Where the handlers of a `try_table` lead.
pub(super) fn catch_label(catch: &Catch) -> u32 {
    match catch {
        Catch::One { label, .. } | Catch::OneRef { label, .. } | Catch::All { label } | Catch::AllRef { label } => {
            *label
        }
    }
}

/// The operand stack as recipes.
#[derive(Default)]
struct Stack {
    entries: Vec<Recipe>,
    /// The instruction that made each entry.
    makers: Vec<u32>,
    /// The instruction that is looked at.
    at: u32,
}

impl Stack {
    fn truncate(&mut self, height: u32) {
        // After unreachable code the followed stack may be lower than the validator's; what is missing is a value.
        self.entries.resize(height as usize, Recipe::Slot);
        self.makers.resize(height as usize, self.at);
    }

    fn push(&mut self, recipe: Recipe) {
        self.entries.push(recipe);
        self.makers.push(self.at);
    }

    fn push_values(&mut self, count: u32) {
        let height = self.entries.len() as u32 + count;
        self.truncate(height);
    }

    /// The topmost entries are joined with others and are no copies any more.
    fn opaque(&mut self, count: u32) {
        let from = self.entries.len() - count as usize;
        self.entries[from..].fill(Recipe::Slot);
        self.makers[from..].fill(self.at);
    }

    fn forget_local(&mut self, local: u32) {
        for entry in &mut self.entries {
            if *entry == Recipe::Local(local) {
                *entry = Recipe::Slot;
            }
        }
    }
}
