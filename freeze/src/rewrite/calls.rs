//! Who calls whom: which functions may unwind, and where cycles of calls are broken by an entry poll.
//!
//! A function may unwind if it polls, or calls something that may. Calls through tables go to every function
//! that a reference can point to and that has the signature. A cycle of calls needs an entry poll only if one can go round it
//! without passing a loop.

use super::source::{Kind, Source, kind};
use crate::error::RewriteError;
use crate::planted::{Bug, planted};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use wasmparser::{ElementItems, ExternalKind, FuncType, FunctionBody, Operator, ValType};

/// Whom a call may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Function(u32),
    /// Any referable function of this type.
    Type(u32),
}

/// What one look through a function body finds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Reachable loops and calls in order; `None` is a loop.
    pub sites: Vec<Option<Target>>,
    pub tail_calls: Vec<Target>,
    /// Whom it may call before it has passed a poll in a loop of its own.
    pub unpolled: BTreeSet<Target>,
    /// Functions named by `ref.func`.
    pub references: Vec<u32>,
    pub written_tables: BTreeSet<u32>,
    pub dropped_data: BTreeSet<u32>,
    pub dropped_elements: BTreeSet<u32>,
    /// (segment, memory) of `memory.init`; (segment, table) of `table.init`.
    pub memory_inits: BTreeSet<(u32, u32)>,
    pub table_inits: BTreeSet<(u32, u32)>,
    /// A GC array is made or filled from a segment, which a continuation cannot name.
    pub arrays_from_segments: bool,
    /// Something names a function or drops a segment, so the body cannot be copied as it is.
    pub touched: bool,
    pub unsupported: Option<String>,
}

/// Follows which instructions validation holds reachable.
#[derive(Default)]
pub(super) struct Reach {
    /// Per open block: was it entered reachably?
    blocks: Vec<bool>,
    live: bool,
}

impl Reach {
    pub fn new() -> Reach {
        Reach { blocks: vec![true], live: true }
    }

    /// Is this instruction, the next one of the body, to be kept? (The end of a block is, if the block is.)
    pub fn step(&mut self, op: &Operator) -> bool {
        match op {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                self.blocks.push(self.live);
                self.live
            }
            Operator::Else => {
                let entered = *self.blocks.last().unwrap_or(&false);
                self.live = entered;
                entered
            }
            Operator::End => {
                let entered = self.blocks.pop().unwrap_or(false);
                self.live = entered;
                entered
            }
            Operator::Br { .. }
            | Operator::BrTable { .. }
            | Operator::Return
            | Operator::Unreachable
            | Operator::Throw { .. }
            | Operator::ThrowRef
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::ReturnCallRef { .. } => std::mem::replace(&mut self.live, false),
            _ => self.live,
        }
    }
}

/// Follows whether every way to an instruction has passed a loop, and thus a poll: forward data flow, which needs one pass since
/// what holds at a loop's header when it is entered holds in all its rounds.
struct Passed {
    blocks: Vec<PassedBlock>,
    now: bool,
}

struct PassedBlock {
    is_loop: bool,
    /// At its start; for the way past an `if` without an else, and for the else.
    at_start: bool,
    is_if: bool,
    /// On all ways to its end that were seen so far; `None` if there was none.
    at_end: Option<bool>,
}

impl Passed {
    fn new() -> Passed {
        Passed { blocks: vec![PassedBlock { is_loop: false, at_start: false, is_if: false, at_end: None }], now: false }
    }

    fn arrive(&mut self, depth: u32) {
        let now = self.now;
        // The body is not validated yet: a label may lead nowhere.
        let Some(index) = self.blocks.len().checked_sub(1 + depth as usize) else { return };
        let block = &mut self.blocks[index];
        if !block.is_loop {
            block.at_end = Some(block.at_end.unwrap_or(true) && now);
        }
    }

    fn step(&mut self, op: &Operator, reachable: bool, reachable_behind: bool) {
        let open = |passed: &mut Passed, is_loop: bool, is_if: bool| {
            passed.blocks.push(PassedBlock { is_loop, at_start: passed.now, is_if, at_end: None });
        };
        match op {
            Operator::Block { .. } => open(self, false, false),
            Operator::If { .. } => open(self, false, true),
            Operator::Loop { .. } => {
                open(self, true, false);
                self.now = true;
            }
            Operator::TryTable { try_table } => {
                try_table.catches.iter().for_each(|catch| self.arrive(super::plan::catch_label(catch)));
                open(self, false, false);
            }
            Operator::Else => {
                if reachable_behind {
                    self.arrive(0);
                }
                if let Some(block) = self.blocks.last_mut() {
                    self.now = block.at_start;
                    block.is_if = false;
                }
            }
            Operator::End => {
                if let Some(block) = self.blocks.last_mut() {
                    if block.is_loop {
                        block.at_end = reachable_behind.then_some(self.now);
                    } else if reachable_behind {
                        self.arrive(0);
                    }
                }
                if let Some(block) = self.blocks.pop() {
                    let past = if block.is_if { block.at_start } else { true };
                    self.now = block.at_end.unwrap_or(true) && past;
                }
            }
            _ if !reachable => {}
            Operator::Br { relative_depth }
            | Operator::BrIf { relative_depth }
            | Operator::BrOnNull { relative_depth }
            | Operator::BrOnNonNull { relative_depth }
            | Operator::BrOnCast { relative_depth, .. }
            | Operator::BrOnCastFail { relative_depth, .. } => self.arrive(*relative_depth),
            Operator::BrTable { targets } => {
                self.arrive(targets.default());
                targets.targets().flatten().for_each(|depth| self.arrive(depth));
            }
            _ => {}
        }
    }
}

/// Whom an instruction calls, if it is a call.
fn target(op: &Operator) -> Option<Target> {
    match *op {
        Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
            Some(Target::Function(function_index))
        }
        Operator::CallIndirect { type_index, .. }
        | Operator::CallRef { type_index }
        | Operator::ReturnCallIndirect { type_index, .. }
        | Operator::ReturnCallRef { type_index } => Some(Target::Type(type_index)),
        _ => None,
    }
}

pub(super) fn scan(body: &FunctionBody, imported_functions: u32) -> Result<Scan, RewriteError> {
    let mut scan = Scan::default();
    let mut reach = Reach::new();
    let mut passed = Passed::new();
    for op in body.get_operators_reader()? {
        let op = op?;
        let live = reach.live;
        let reachable = reach.step(&op);
        passed.step(&op, reachable, live);
        if reachable && !passed.now {
            scan.unpolled.extend(target(&op));
        }
        match op {
            Operator::Loop { .. } if reachable => scan.sites.push(None),
            Operator::Call { function_index } => {
                scan.touched |= function_index < imported_functions;
                if reachable {
                    scan.sites.push(target(&op));
                }
            }
            Operator::CallIndirect { .. } | Operator::CallRef { .. } if reachable => scan.sites.push(target(&op)),
            Operator::ReturnCall { function_index } => {
                scan.touched |= function_index < imported_functions;
                scan.tail_calls.extend(target(&op));
            }
            Operator::ReturnCallIndirect { .. } | Operator::ReturnCallRef { .. } => scan.tail_calls.extend(target(&op)),
            Operator::RefFunc { function_index } => {
                scan.touched |= function_index < imported_functions;
                scan.references.push(function_index);
            }
            Operator::TableSet { table }
            | Operator::TableGrow { table }
            | Operator::TableFill { table }
            | Operator::TableCopy { dst_table: table, .. } => {
                scan.written_tables.insert(table);
            }
            Operator::TableInit { elem_index, table } => {
                scan.written_tables.insert(table);
                scan.table_inits.insert((elem_index, table));
            }
            Operator::MemoryInit { data_index, mem } => {
                scan.memory_inits.insert((data_index, mem));
            }
            Operator::ArrayNewData { .. }
            | Operator::ArrayNewElem { .. }
            | Operator::ArrayInitData { .. }
            | Operator::ArrayInitElem { .. } => scan.arrays_from_segments = true,
            Operator::DataDrop { data_index } => {
                scan.touched = true;
                scan.dropped_data.insert(data_index);
            }
            Operator::ElemDrop { elem_index } => {
                scan.touched = true;
                scan.dropped_elements.insert(elem_index);
            }
            Operator::Try { .. }
            | Operator::Catch { .. }
            | Operator::CatchAll
            | Operator::Rethrow { .. }
            | Operator::Delegate { .. } => {
                scan.unsupported.get_or_insert_with(|| "it uses the legacy exception instructions".into());
            }
            _ => {}
        }
    }
    Ok(scan)
}

/// The result for the whole module.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Calls {
    /// By function index, imported ones included (they always may).
    pub may_unwind: Vec<bool>,
    /// By function index: does its entry poll?
    pub entry_poll: Vec<bool>,
    /// By type index: may a call through a reference of this type unwind?
    pub type_may_unwind: Vec<bool>,
}

impl Calls {
    pub fn may(&self, target: Target) -> bool {
        match target {
            Target::Function(function) => self.may_unwind[function as usize],
            Target::Type(ty) => self.type_may_unwind[ty as usize] && !planted(Bug::IndirectCallsTrusted),
        }
    }
}

/// Functions that a reference can point to: named by an element segment, a global, an export or `ref.func`.
pub(super) fn referable(source: &Source, scans: &[Scan]) -> Result<BTreeSet<u32>, RewriteError> {
    let mut found: BTreeSet<u32> = scans.iter().flat_map(|scan| scan.references.iter().copied()).collect();
    let expression = |ops: wasmparser::ConstExpr, found: &mut BTreeSet<u32>| -> Result<(), RewriteError> {
        for op in ops.get_operators_reader() {
            if let Operator::RefFunc { function_index } = op? {
                found.insert(function_index);
            }
        }
        Ok(())
    };
    for element in source.elements_section.clone().into_iter().flatten() {
        match element?.items {
            ElementItems::Functions(functions) => {
                for function in functions {
                    found.insert(function?);
                }
            }
            ElementItems::Expressions(_, expressions) => {
                for item in expressions {
                    expression(item?, &mut found)?;
                }
            }
        }
    }
    for global in source.globals_section.clone().into_iter().flatten() {
        expression(global?.init_expr, &mut found)?;
    }
    for table in source.tables_section.clone().into_iter().flatten() {
        if let wasmparser::TableInit::Expr(init) = table?.init {
            expression(init, &mut found)?;
        }
    }
    for export in source.exports_section.clone().into_iter().flatten() {
        let export = export?;
        if matches!(export.kind, ExternalKind::Func | ExternalKind::FuncExact) {
            found.insert(export.index);
        }
    }
    Ok(found)
}

/// Nodes of the call graph: functions, then signature classes.
struct Graph {
    edges: Vec<Vec<u32>>,
    functions: usize,
    class_of_type: Vec<u32>,
}

fn classes(source: &Source) -> (Vec<u32>, usize) {
    #[derive(PartialEq, Eq, Hash)]
    enum Class {
        Exact(Vec<ValType>, Vec<ValType>),
        Arity(usize, usize),
    }
    let class = |ty: &FuncType| {
        let concrete = |t: &ValType| matches!(t, ValType::Ref(r) if r.type_index().is_some());
        if source.subtyping || ty.params().iter().chain(ty.results()).any(concrete) {
            Class::Arity(ty.params().len(), ty.results().len())
        } else {
            Class::Exact(ty.params().to_vec(), ty.results().to_vec())
        }
    };
    let mut known: HashMap<Class, u32> = HashMap::new();
    let mut of_type = vec![u32::MAX; source.types.len()];
    for (index, ty) in source.types.iter().enumerate() {
        if let Some(ty) = ty {
            let next = known.len() as u32;
            of_type[index] = *known.entry(class(ty)).or_insert(next);
        }
    }
    let count = known.len();
    (of_type, count)
}

pub(super) fn analyse(source: &Source, scans: &[Scan], every_entry: bool) -> Result<Calls, RewriteError> {
    let functions = source.functions() as usize;
    let imported = source.imported_functions as usize;
    let (class_of_type, class_count) = classes(source);
    let node = |target: Target, class_of_type: &[u32]| match target {
        Target::Function(function) => function,
        Target::Type(ty) => functions as u32 + class_of_type[ty as usize],
    };
    let mut edges: Vec<Vec<u32>> = vec![vec![]; functions + class_count];
    for (index, scan) in scans.iter().enumerate() {
        let mut to: Vec<u32> =
            scan.sites.iter().flatten().chain(&scan.tail_calls).map(|target| node(*target, &class_of_type)).collect();
        to.sort_unstable();
        to.dedup();
        edges[imported + index] = to;
    }
    for function in referable(source, scans)? {
        let class = class_of_type[source.function_types[function as usize] as usize];
        edges[functions + class as usize].push(function);
    }
    let mut graph = Graph { edges, functions, class_of_type };

    let mut entry_poll = vec![false; functions];
    if every_entry {
        for (function, polls) in entry_poll.iter_mut().enumerate().skip(imported) {
            // Parameters that no frame can hold would make the whole function unsupported.
            *polls = source.signature(function as u32).params().iter().all(|ty| kind(*ty) != Kind::Opaque);
        }
    } else {
        let all = std::mem::take(&mut graph.edges);
        graph.edges = all.clone();
        for (index, scan) in scans.iter().enumerate() {
            let to = scan.unpolled.iter().map(|target| node(*target, &graph.class_of_type)).collect();
            graph.edges[imported + index] = to;
        }
        break_cycles(&graph, imported, &mut entry_poll);
        graph.edges = all;
    }
    let polls = |function: usize| {
        function < imported || entry_poll[function] || scans[function - imported].sites.iter().any(Option::is_none)
    };
    let mut callers: Vec<Vec<u32>> = vec![vec![]; graph.edges.len()];
    for (from, to) in graph.edges.iter().enumerate() {
        for to in to {
            callers[*to as usize].push(from as u32);
        }
    }
    let mut may = vec![false; graph.edges.len()];
    let mut work: Vec<u32> = (0..functions).filter(|f| polls(*f)).map(|f| f as u32).collect();
    for function in &work {
        may[*function as usize] = true;
    }
    while let Some(node) = work.pop() {
        for caller in &callers[node as usize] {
            if !std::mem::replace(&mut may[*caller as usize], true) {
                work.push(*caller);
            }
        }
    }
    let type_may_unwind =
        graph.class_of_type.iter().map(|class| *class != u32::MAX && may[graph.functions + *class as usize]).collect();
    may.truncate(functions);
    Ok(Calls { may_unwind: may, entry_poll, type_may_unwind })
}

/// Chooses functions so that every cycle of calls goes through one: strongly connected components, the best
/// connected functions of each removed, until none is left (a feedback vertex set, greedily).
fn break_cycles(graph: &Graph, imported: usize, chosen: &mut [bool]) {
    let mut removed = vec![false; graph.edges.len()];
    let mut todo: Vec<Vec<u32>> = vec![(0..graph.edges.len() as u32).collect()];
    while let Some(nodes) = todo.pop() {
        for component in components(graph, &removed, &nodes) {
            let alone = component.len() == 1;
            if alone && !graph.edges[component[0] as usize].contains(&component[0]) {
                continue;
            }
            let members: BTreeSet<u32> = component.iter().copied().collect();
            let mut entering: BTreeMap<u32, usize> = BTreeMap::new();
            for from in &component {
                for to in graph.edges[*from as usize].iter().filter(|to| members.contains(to)) {
                    *entering.entry(*to).or_default() += 1;
                }
            }
            let weight = |node: u32| {
                let leaving = graph.edges[node as usize].iter().filter(|to| members.contains(to)).count();
                entering.get(&node).copied().unwrap_or(0) * leaving
            };
            let is_function = |node: &u32| (*node as usize) < graph.functions && *node as usize >= imported;
            let mut candidates: Vec<(usize, u32)> =
                component.iter().copied().filter(is_function).map(|node| (weight(node), node)).collect();
            candidates.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
            // Large components lose several at once, or this would be quadratic; a few entry polls too many do no harm.
            for (_, node) in candidates.iter().take(1 + component.len() / 256) {
                removed[*node as usize] = true;
                chosen[*node as usize] = true;
            }
            todo.push(component);
        }
    }
}

/// Strongly connected components of the nodes that are left (Tarjan, without recursion).
fn components(graph: &Graph, removed: &[bool], nodes: &[u32]) -> Vec<Vec<u32>> {
    const UNSEEN: u32 = u32::MAX;
    let mut member = vec![false; graph.edges.len()];
    for node in nodes {
        member[*node as usize] = !removed[*node as usize];
    }
    let mut order = vec![UNSEEN; graph.edges.len()];
    let mut low = vec![0u32; graph.edges.len()];
    let mut on_stack = vec![false; graph.edges.len()];
    let mut stack: Vec<u32> = vec![];
    let mut next = 0;
    let mut found = vec![];
    for root in nodes {
        if !member[*root as usize] || order[*root as usize] != UNSEEN {
            continue;
        }
        let mut visit: Vec<(u32, usize)> = vec![(*root, 0)];
        while let Some((node, edge)) = visit.last_mut() {
            let at = *node as usize;
            if *edge == 0 {
                order[at] = next;
                low[at] = next;
                next += 1;
                stack.push(*node);
                on_stack[at] = true;
            }
            if let Some(to) = graph.edges[at].get(*edge) {
                *edge += 1;
                let to = *to as usize;
                if member[to] && order[to] == UNSEEN {
                    visit.push((to as u32, 0));
                } else if member[to] && on_stack[to] {
                    low[at] = low[at].min(order[to]);
                }
                continue;
            }
            visit.pop();
            if let Some((parent, _)) = visit.last() {
                low[*parent as usize] = low[*parent as usize].min(low[at]);
            }
            if low[at] == order[at] {
                let mut component = vec![];
                loop {
                    let member = stack.pop().expect("the root of a component is on the stack");
                    on_stack[member as usize] = false;
                    component.push(member);
                    if member as usize == at {
                        break;
                    }
                }
                found.push(component);
            }
        }
    }
    found
}
