//! Puts modules together: the rewritten one, and the one that holds continuations.

use super::calls::{self, Calls, Scan, Target};
use super::emit::{self, Body, Fix, Helper, Layout, Shape, encoded, patch};
use super::plan::{PARAMETERS_MAX, Plan, value_size};
use super::source::{Kind as ValueKind, Source, kind};
use super::{EXCEPTION_SIZE_MAX, Frame, Functions, Map, Options, PointId, Poll, Rewritten};
use crate::error::RewriteError;
use crate::planted::{Bug, planted};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use wasm_encoder::reencode::{Reencode, RoundtripReencoder};
use wasm_encoder::{
    BranchHint, BranchHints, CodeSection, ConstExpr, Encode, EntityType, ExportKind, ExportSection, FunctionSection,
    GlobalSection, GlobalType, HeapType, ImportSection, Instruction, MemArg, MemorySection, MemoryType, Module,
    RawSection, RefType, TableSection, TableType, TypeSection,
};
use wasmparser::ValType;

/// Everything that freezing adds to a module is exported under names with this prefix.
const PREFIX: &str = "freeze:";

/// Lets indices of imported functions mean their shims.
struct ToShims {
    imported_functions: u32,
    functions: u32,
}

impl Reencode for ToShims {
    type Error = std::convert::Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, wasm_encoder::reencode::Error<Self::Error>> {
        Ok(if function < self.imported_functions { self.functions + function } else { function })
    }
}

fn encoding<E: std::fmt::Debug>(error: E) -> RewriteError {
    RewriteError::UnsupportedModule { construct: format!("it cannot be written again: {error:?}") }
}

/// Types added behind those of the original module.
struct Types<'s, 'a> {
    source: &'s Source<'a>,
    added: Vec<(Vec<ValType>, Vec<ValType>)>,
    known: HashMap<(Vec<ValType>, Vec<ValType>), u32>,
}

impl<'s, 'a> Types<'s, 'a> {
    fn new(source: &'s Source<'a>) -> Self {
        Types { source, added: vec![], known: HashMap::new() }
    }

    fn index(&mut self, parameters: &[ValType], results: &[ValType]) -> u32 {
        let key = (parameters.to_vec(), results.to_vec());
        if let Some(index) = self.known.get(&key) {
            return *index;
        }
        let index = (self.source.types.len() + self.added.len()) as u32;
        self.added.push(key.clone());
        self.known.insert(key, index);
        index
    }

    fn section(&self) -> Result<TypeSection, RewriteError> {
        let mut section = TypeSection::new();
        if let Some(original) = &self.source.types_section {
            RoundtripReencoder.parse_type_section(&mut section, original.clone()).map_err(encoding)?;
        }
        for (parameters, results) in &self.added {
            section.ty().function(parameters.iter().map(|ty| encoded(*ty)), results.iter().map(|ty| encoded(*ty)));
        }
        Ok(section)
    }
}

/// What `freeze` needs of a module beyond its code, computed the same way when it is rewritten and when it is continued.
fn layout(source: &Source, dropped_data: &[u32], dropped_elements: &[u32], options: &Options) -> Layout {
    let mut next = source.globals.len() as u32;
    let mut global = || {
        next += 1;
        next - 1
    };
    let payload = |parameters: &&[ValType]| parameters.iter().map(|ty| value_size(*ty, 0)).sum::<u32>();
    Layout {
        imported_functions: source.imported_functions,
        functions: source.functions(),
        frames_memory: source.memories.len() as u32,
        flag_memory: source.memories.len() as u32 + 1,
        top_global: global(),
        unwinding_global: global(),
        references_top_global: global(),
        entering_global: global(),
        countdown_global: if options.poll == Poll::Countdown { global() } else { 0 },
        references_table: source.tables.len() as u32,
        continuations_table: source.tables.len() as u32 + 1,
        exception_size: 4 + source.tag_parameters().iter().map(payload).max().unwrap_or(0),
        dropped_data: dropped_data.iter().map(|segment| (*segment, global())).collect(),
        dropped_elements: dropped_elements.iter().map(|segment| (*segment, global())).collect(),
        dispatched: BTreeMap::new(),
    }
}

/// The globals that freezing adds, in the order of their indices: (export name, type, initial value).
fn added_globals(layout: &Layout, options: &Options) -> Vec<(String, wasm_encoder::ValType, ConstExpr)> {
    let i32 = wasm_encoder::ValType::I32;
    let mut globals = vec![
        ("top".to_string(), i32, ConstExpr::i32_const(super::FRAMES_BASE as i32)),
        ("unwinding".to_string(), i32, ConstExpr::i32_const(0)),
        ("references-top".to_string(), i32, ConstExpr::i32_const(0)),
        ("entering".to_string(), i32, ConstExpr::i32_const(0)),
    ];
    if options.poll == Poll::Countdown {
        globals.push(("countdown".to_string(), wasm_encoder::ValType::I64, ConstExpr::i64_const(0)));
    }
    for segment in layout.dropped_data.keys() {
        globals.push((format!("dropped-data{segment}"), i32, ConstExpr::i32_const(0)));
    }
    for segment in layout.dropped_elements.keys() {
        globals.push((format!("dropped-elem{segment}"), i32, ConstExpr::i32_const(0)));
    }
    globals
}

fn frames_memory() -> MemoryType {
    let minimum = (super::FRAME_SIZE_MAX as u64 + 65536) / 65536 + 4;
    // One page less than four gigabytes, so that its size in bytes can be computed in 32 bits.
    MemoryType { minimum, maximum: Some(65535), memory64: false, shared: false, page_size_log2: None }
}

fn flag_memory(options: &Options) -> MemoryType {
    let shared = options.poll == Poll::Flag;
    MemoryType { minimum: 1, maximum: Some(1), memory64: false, shared, page_size_log2: None }
}

fn references_table() -> TableType {
    TableType { element_type: RefType::FUNCREF, table64: false, minimum: 0, maximum: None, shared: false }
}

fn helper_name(helper: &Helper) -> String {
    match helper {
        Helper::Save(Shape(letters)) => format!("{PREFIX}save-{letters}"),
        Helper::Seal => format!("{PREFIX}seal"),
        Helper::SaveException => format!("{PREFIX}save-exception"),
        Helper::LoadException => format!("{PREFIX}load-exception"),
        Helper::DropData(segment) => format!("{PREFIX}drop-data{segment}"),
        Helper::DropElement(segment) => format!("{PREFIX}drop-elem{segment}"),
        Helper::InitMemory(segment, memory) => format!("{PREFIX}init-memory{segment}-{memory}"),
        Helper::InitTable(segment, table) => format!("{PREFIX}init-table{segment}-{table}"),
    }
}

fn helper_type(helper: &Helper, source: &Source) -> (Vec<ValType>, Vec<ValType>) {
    let exception = ValType::Ref(wasmparser::RefType::EXNREF);
    let address = |wide: bool| if wide { ValType::I64 } else { ValType::I32 };
    match helper {
        Helper::Save(shape) => (shape.parameters(), vec![ValType::I32]),
        Helper::Seal => (vec![ValType::I32, ValType::I32], vec![ValType::I32]),
        Helper::SaveException => (vec![ValType::I32, exception], vec![]),
        Helper::LoadException => (vec![ValType::I32], vec![exception]),
        Helper::DropData(_) | Helper::DropElement(_) => (vec![], vec![]),
        Helper::InitMemory(_, memory) => {
            (vec![address(source.memories[*memory as usize].memory64), ValType::I32, ValType::I32], vec![])
        }
        Helper::InitTable(_, table) => {
            (vec![address(source.tables[*table as usize].table64), ValType::I32, ValType::I32], vec![])
        }
    }
}

/// Does the helper name nothing that only the rewritten module has? Then a module of continuations has a copy.
fn is_portable(helper: &Helper) -> bool {
    matches!(helper, Helper::Save(_) | Helper::Seal | Helper::SaveException | Helper::LoadException)
}

fn helper_body(helper: &Helper, source: &Source, layout: &Layout) -> Body {
    let mut body = Body::default();
    match helper {
        Helper::Save(shape) => emit::save_helper(&mut body, shape, layout),
        Helper::Seal => emit::seal_helper(&mut body, layout),
        Helper::SaveException => save_exception(&mut body, source, layout),
        Helper::LoadException => load_exception(&mut body, source, layout),
        Helper::DropData(segment) => {
            body.op(&Instruction::DataDrop(*segment));
            body.op(&Instruction::I32Const(1));
            body.op(&Instruction::GlobalSet(layout.dropped_data[segment]));
        }
        Helper::DropElement(segment) => {
            body.op(&Instruction::ElemDrop(*segment));
            body.op(&Instruction::I32Const(1));
            body.op(&Instruction::GlobalSet(layout.dropped_elements[segment]));
        }
        Helper::InitMemory(data_index, mem) => {
            (0..3).for_each(|parameter| body.op(&Instruction::LocalGet(parameter)));
            body.op(&Instruction::MemoryInit { mem: *mem, data_index: *data_index });
        }
        Helper::InitTable(elem_index, table) => {
            (0..3).for_each(|parameter| body.op(&Instruction::LocalGet(parameter)));
            body.op(&Instruction::TableInit { elem_index: *elem_index, table: *table });
        }
    }
    body.op(&Instruction::End);
    body
}

fn frame_arg(layout: &Layout, offset: u32) -> MemArg {
    MemArg { offset: offset as u64, align: 0, memory_index: layout.frames_memory }
}

/// Takes an exception apart: throws it to a handler for each tag, which stores the tag (from 1; 0 is null) and the payload.
/// That the exception's identity is lost cannot be observed.
fn save_exception(body: &mut Body, source: &Source, layout: &Layout) {
    let tags = source.tag_parameters();
    // Locals behind the two parameters: one for each value of the largest payload of each type.
    let mut locals: Vec<ValType> = vec![];
    body.op(&Instruction::LocalGet(1));
    body.op(&Instruction::RefIsNull);
    body.op(&Instruction::If(wasm_encoder::BlockType::Empty));
    body.op(&Instruction::LocalGet(0));
    body.op(&Instruction::I32Const(0));
    body.op(&Instruction::I32Store(frame_arg(layout, 0)));
    body.op(&Instruction::Return);
    body.op(&Instruction::End);
    body.op(&Instruction::Block(wasm_encoder::BlockType::Empty));
    for parameters in tags.iter().rev() {
        body.code.push(0x02);
        body.fix_type(&[], parameters);
    }
    let mut catches: Vec<wasm_encoder::Catch> =
        (0..tags.len() as u32).map(|tag| wasm_encoder::Catch::One { tag, label: tag }).collect();
    catches.push(wasm_encoder::Catch::All { label: tags.len() as u32 });
    body.op(&Instruction::TryTable(wasm_encoder::BlockType::Empty, catches.into()));
    body.op(&Instruction::LocalGet(1));
    body.op(&Instruction::ThrowRef);
    body.op(&Instruction::End);
    body.op(&Instruction::Unreachable);
    for (tag, parameters) in tags.iter().enumerate() {
        body.op(&Instruction::End);
        let first = 2 + locals.len() as u32;
        locals.extend_from_slice(parameters);
        for index in (0..parameters.len() as u32).rev() {
            body.op(&Instruction::LocalSet(first + index));
        }
        body.op(&Instruction::LocalGet(0));
        body.op(&Instruction::I32Const(tag as i32 + 1));
        body.op(&Instruction::I32Store(frame_arg(layout, 0)));
        let mut offset = 4;
        for (index, ty) in parameters.iter().enumerate().skip(planted(Bug::PayloadLost) as usize) {
            body.op(&Instruction::LocalGet(0));
            body.op(&Instruction::LocalGet(first + index as u32));
            let arg = frame_arg(layout, offset);
            body.op(&match ty {
                ValType::I32 => Instruction::I32Store(arg),
                ValType::I64 => Instruction::I64Store(arg),
                ValType::F32 => Instruction::F32Store(arg),
                ValType::F64 => Instruction::F64Store(arg),
                ValType::V128 => Instruction::V128Store(arg),
                ValType::Ref(_) => unreachable!("exceptions with references are refused"),
            });
            offset += value_size(*ty, 0);
        }
        body.op(&Instruction::Return);
    }
    body.op(&Instruction::End);
    // An exception with a tag that the program does not know.
    body.op(&Instruction::Unreachable);
    body.locals = locals;
}

fn load_exception(body: &mut Body, source: &Source, layout: &Layout) {
    let exception = wasmparser::RefType::EXNREF;
    body.locals = vec![ValType::Ref(exception)];
    for (tag, parameters) in source.tag_parameters().iter().enumerate() {
        body.op(&Instruction::LocalGet(0));
        body.op(&Instruction::I32Load(frame_arg(layout, 0)));
        body.op(&Instruction::I32Const(tag as i32 + 1));
        body.op(&Instruction::I32Eq);
        body.op(&Instruction::If(wasm_encoder::BlockType::Empty));
        let caught: Vec<ValType> = parameters.iter().copied().chain([ValType::Ref(exception.as_non_null())]).collect();
        body.code.push(0x02);
        body.fix_type(&[], &caught);
        let catch = wasm_encoder::Catch::OneRef { tag: tag as u32, label: 0 };
        body.op(&Instruction::TryTable(wasm_encoder::BlockType::Empty, vec![catch].into()));
        let mut offset = 4;
        for ty in parameters.iter() {
            body.op(&Instruction::LocalGet(0));
            let arg = frame_arg(layout, offset);
            body.op(&match ty {
                ValType::I32 => Instruction::I32Load(arg),
                ValType::I64 => Instruction::I64Load(arg),
                ValType::F32 => Instruction::F32Load(arg),
                ValType::F64 => Instruction::F64Load(arg),
                ValType::V128 => Instruction::V128Load(arg),
                ValType::Ref(_) => unreachable!("exceptions with references are refused"),
            });
            offset += value_size(*ty, 0);
        }
        body.op(&Instruction::Throw(tag as u32));
        body.op(&Instruction::End);
        body.op(&Instruction::Unreachable);
        body.op(&Instruction::End);
        body.op(&Instruction::LocalSet(1));
        parameters.iter().for_each(|_| body.op(&Instruction::Drop));
        body.op(&Instruction::LocalGet(1));
        body.op(&Instruction::Return);
        body.op(&Instruction::End);
    }
    body.op(&Instruction::RefNull(RefType::EXNREF.heap_type));
}

/// One function after rewriting.
struct Rewriting<'a> {
    body: Form<'a>,
    loops: Vec<LoopFunction>,
    /// Can it begin with one of its loops?
    is_entered: bool,
    saves_references: bool,
    helpers: BTreeSet<Helper>,
}

enum Form<'a> {
    Untouched(&'a [u8]),
    Written(Body),
}

struct LoopFunction {
    id: u32,
    parameters: Vec<ValType>,
    results: Vec<ValType>,
    body: Body,
}

fn refuse_module(source: &Source, scans: &[Scan]) -> Result<(), RewriteError> {
    let refuse = |construct: String| Err(RewriteError::UnsupportedModule { construct });
    if let Some(index) = source.memories.iter().position(|memory| memory.shared) {
        return refuse(format!("memory {index} is shared between threads"));
    }
    if let Some(index) = source.globals.iter().position(|g| {
        // A global that always holds the same value needs no saving.
        g.mutable && (kind(g.content_type) == ValueKind::Opaque || kind(g.content_type) == ValueKind::Exception)
    }) {
        let ty = source.globals[index].content_type;
        return refuse(format!("global {index} is a variable of type {ty}"));
    }
    let leads_to_aggregate = |ty: ValType| {
        use wasmparser::AbstractHeapType::{Any, Array, Eq, Extern, Struct};
        let ValType::Ref(reference) = ty else {
            return false;
        };
        match reference.heap_type() {
            wasmparser::HeapType::Abstract { ty, .. } => {
                matches!(ty, Any | Eq | Struct | Array | Extern)
            }
            wasmparser::HeapType::Concrete(index) | wasmparser::HeapType::Exact(index) => {
                index.as_module_index().is_none_or(|index| source.types[index as usize].is_none())
            }
        }
    };
    if source.writable_aggregates {
        if let Some(index) = source.globals.iter().position(|global| leads_to_aggregate(global.content_type)) {
            return refuse(format!("global {index} refers to a struct or array, whose contents an image cannot hold"));
        }
        if let Some(index) = source.tables.iter().position(|table| leads_to_aggregate(ValType::Ref(table.element_type)))
        {
            return refuse(format!("table {index} refers to structs or arrays, whose contents an image cannot hold"));
        }
    }
    for scan in scans {
        for table in &scan.written_tables {
            let ty = source.tables[*table as usize].element_type;
            if kind(ValType::Ref(ty)) != ValueKind::Function {
                return refuse(format!("table {table}, of type {ty}, is changed by the program"));
            }
        }
    }
    for export in source.exports_section.clone().into_iter().flatten() {
        let export = export?;
        if export.name.starts_with(PREFIX) {
            return refuse(format!("it exports `{}` already: it has been rewritten before", export.name));
        }
    }
    Ok(())
}

pub(super) fn rewrite(wasm: &[u8], options: &Options) -> Result<Rewritten, RewriteError> {
    let mut source = Source::parse(wasm)?;
    let bodies = std::mem::take(&mut source.bodies);
    let imported = source.imported_functions;
    // The operators are read before they are validated, so errors of their form come from here.
    let scans: Vec<Scan> =
        all_or_first_error(bodies.par_iter().map(|(_, body)| calls::scan(body, imported)).collect())?;
    for (index, scan) in scans.iter().enumerate() {
        if let Some(construct) = &scan.unsupported {
            let function = source.name(imported + index as u32);
            return Err(RewriteError::Unsupported { function, construct: construct.clone() });
        }
    }
    check_indices(&source, &scans)?;
    refuse_module(&source, &scans)?;
    let calls = calls::analyse(&source, &scans, options.entry == super::Entry::Every)?;
    let referable: Vec<u32> = calls::referable(&source, &scans)?.into_iter().collect();
    let all = |set: fn(&Scan) -> &BTreeSet<u32>| -> Vec<u32> {
        scans.iter().flat_map(|scan| set(scan).iter().copied()).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let droppable_data = all(|scan| &scan.dropped_data);
    let droppable_elem = all(|scan| &scan.dropped_elements);
    let layout = layout(&source, &droppable_data, &droppable_elem, options);

    let mut first_points = vec![];
    let mut next = 0u32;
    for (index, scan) in scans.iter().enumerate() {
        first_points.push(next);
        let may = |site: &&Option<Target>| site.is_none_or(|target| calls.may(target));
        next += calls.entry_poll[imported as usize + index] as u32 + scan.sites.iter().filter(may).count() as u32;
    }
    first_points.push(next);
    first_points.push(next + imported);

    let indexed: Vec<_> = bodies.into_iter().enumerate().collect();
    let results: Vec<Result<Rewriting, RewriteError>> = indexed
        .into_par_iter()
        .map(|(index, (function, body))| {
            let points = first_points[index + 1] - first_points[index];
            one_function(&source, &calls, &layout, options, function, &body, first_points[index], points, &scans[index])
        })
        .collect();
    let rewritten = all_or_first_error(results)?;

    let written: BTreeSet<u32> = scans.iter().flat_map(|scan| scan.written_tables.iter().copied()).collect();
    let mut map = Map {
        options: options.clone(),
        program: blake3::hash(wasm).into(),
        memories: (0..source.memories.len()).map(|index| (index as u32) < source.imported_memories).collect(),
        filled: filled(&source)?,
        globals: source
            .globals
            .iter()
            .enumerate()
            .filter(|(_, global)| global.mutable && !planted(Bug::GlobalsLost))
            .map(|(index, global)| (index as u32, global.content_type))
            .collect(),
        tables: written.into_iter().filter(|_| !planted(Bug::TableWritesLost)).collect(),
        referable,
        droppable_data,
        droppable_elem,
        has_reference_slots: rewritten.iter().any(|function| function.saves_references),
        functions: Functions { first_points, dispatched: vec![], calls },
    };
    let mut called = callable(&source, &scans, &map);
    let indexed = rewritten.iter().enumerate().filter(|(_, function)| function.is_entered);
    called.extend(indexed.map(|(index, _)| imported + index as u32));
    map.functions.dispatched = dispatched(&source, &map.referable, &called);
    called.extend(&map.referable);
    called.retain(|function| !map.functions.dispatched[*function as usize]);
    let wasm = assemble(&source, &scans, &map, &layout, &called, rewritten)?;
    Ok(Rewritten { wasm, map })
}

/// Where a new instance has something in its memories.
fn filled(source: &Source) -> Result<Vec<(u32, u64, u64)>, RewriteError> {
    let mut filled: Vec<(u32, u64, u64)> = (0..source.imported_memories).map(|memory| (memory, 0, u64::MAX)).collect();
    let Some(range) = source.data_section.clone() else {
        return Ok(filled);
    };
    let reader = wasmparser::BinaryReader::new(&source.wasm[range.clone()], range.start);
    for segment in wasmparser::DataSectionReader::new(reader)? {
        let segment = segment?;
        let wasmparser::DataKind::Active { memory_index, offset_expr } = segment.kind else {
            continue;
        };
        let mut ops = offset_expr.get_operators_reader();
        let place = match (ops.read()?, ops.read()?) {
            (wasmparser::Operator::I32Const { value }, wasmparser::Operator::End) => Some(value as u32 as u64),
            (wasmparser::Operator::I64Const { value }, wasmparser::Operator::End) => Some(value as u64),
            _ => None,
        };
        filled.push(match place {
            Some(start) => (memory_index, start, segment.data.len() as u64),
            None => (memory_index, 0, u64::MAX),
        });
    }
    Ok(filled)
}

/// Which error is reported must not depend on which thread was first: that a module is invalid comes before that a function of
/// it is unsupported, and then the lowest function.
fn all_or_first_error<T>(results: Vec<Result<T, RewriteError>>) -> Result<Vec<T>, RewriteError> {
    let is_invalid = |result: &Result<T, RewriteError>| matches!(result, Err(RewriteError::Invalid { .. }));
    match results.iter().position(is_invalid) {
        Some(invalid) => results.into_iter().skip(invalid).take(1).collect(),
        None => results.into_iter().collect(),
    }
}

/// Bodies are scanned before they are validated: what the analysis indexes with must be in range.
fn check_indices(source: &Source, scans: &[Scan]) -> Result<(), RewriteError> {
    let target = |target: &Target| match target {
        Target::Function(function) => *function < source.functions(),
        Target::Type(ty) => source.types.get(*ty as usize).is_some_and(Option::is_some),
    };
    let good = |scan: &Scan| {
        scan.sites.iter().flatten().chain(&scan.tail_calls).all(target)
            && scan.references.iter().all(|function| *function < source.functions())
            && scan.written_tables.iter().all(|table| (*table as usize) < source.tables.len())
            && scan.table_inits.iter().all(|(_, table)| (*table as usize) < source.tables.len())
            && scan.memory_inits.iter().all(|(_, memory)| (*memory as usize) < source.memories.len())
    };
    match scans.iter().position(|scan| !good(scan)) {
        None => Ok(()),
        Some(index) => Err(RewriteError::Invalid {
            message: format!("function {} names something that is not there", source.imported_functions + index as u32),
            offset: 0,
        }),
    }
}

#[allow(clippy::too_many_arguments, reason = "called in one place, from a closure that holds all of these")]
fn one_function<'a>(
    source: &Source<'a>, calls: &Calls, layout: &Layout, options: &Options,
    function: wasmparser::FuncToValidate<wasmparser::ValidatorResources>, body: &wasmparser::FunctionBody<'a>,
    first_point: u32, points: u32, scan: &Scan,
) -> Result<Rewriting<'a>, RewriteError> {
    if points == 0 {
        function.into_validator(Default::default()).validate(body)?;
        let form = if scan.touched {
            Form::Written(emit::touched(body, source.wasm, layout)?)
        } else {
            Form::Untouched(body.as_bytes())
        };
        return Ok(Rewriting {
            body: form,
            loops: vec![],
            is_entered: false,
            saves_references: false,
            helpers: BTreeSet::new(),
        });
    }
    let mut plan = Plan::new(source, calls, function, body, first_point)?;
    if scan.arrays_from_segments && plan.points.iter().any(|point| point.kind != super::plan::Kind::Entry) {
        let construct = "it fills an array from a segment".to_string();
        return Err(RewriteError::Unsupported { function: source.name(plan.function), construct });
    }
    assert_eq!(plan.points.len(), points as usize, "the scan and the plan count the same resume points");
    plan.finish(source)?;
    refuse_exceptions(source, &plan, layout)?;
    let entered: &[usize] = plan.entered.as_ref().map_or(&[], |entered| &entered.loops);
    let loops = plan
        .large_loops
        .iter()
        .filter(|at| !entered.contains(at))
        .map(|at| {
            let point = plan.point(*at).expect("a large loop has a resume point");
            LoopFunction {
                id: point.id,
                parameters: point.saved.iter().map(|(_, ty)| *ty).collect(),
                results: plan.results.clone(),
                body: emit::loop_function(&plan, *at, source.wasm, layout, options),
            }
        })
        .collect();
    let saves_references =
        plan.points.iter().any(|point| point.saved.iter().any(|(_, ty)| kind(*ty) == ValueKind::Function));
    let body = Form::Written(emit::function(&plan, source.wasm, layout, options));
    let stops = plan.points.iter().filter(|point| plan.stops_at(point.id).is_some());
    let helpers = stops.flat_map(emit::helpers).collect();
    Ok(Rewriting { body, loops, is_entered: plan.entered.is_some(), saves_references, helpers })
}

fn refuse_exceptions(source: &Source, plan: &Plan, layout: &Layout) -> Result<(), RewriteError> {
    let holds = |ty: &ValType| kind(*ty) == ValueKind::Exception;
    if !plan.points.iter().any(|point| point.saved.iter().any(|(_, ty)| holds(ty))) {
        return Ok(());
    }
    let construct = if layout.exception_size > EXCEPTION_SIZE_MAX {
        "an exception with a large payload is live where it can stop".to_string()
    } else if source.tag_parameters().iter().flat_map(|p| p.iter()).any(|ty| kind(*ty) != ValueKind::Number) {
        "an exception that may hold a reference is live where it can stop".to_string()
    } else {
        return Ok(());
    };
    Err(RewriteError::Unsupported { function: source.name(plan.function), construct })
}

/// Writes a body with all its indices known: returns the bytes, and where its cold branches are in them.
fn settle(mut body: Body, types: &mut Types, mut index: impl FnMut(&Fix) -> u32) -> (Vec<u8>, Vec<u32>) {
    for (at, fix) in &body.fixes {
        let value = match fix {
            Fix::Type(key) => {
                let (parameters, results) = &body.types[*key as usize];
                types.index(parameters, results)
            }
            fix => index(fix),
        };
        patch(&mut body.code, *at, value);
    }
    let mut groups: Vec<(u32, ValType)> = vec![];
    for ty in &body.locals {
        match groups.last_mut() {
            Some((count, last)) if last == ty => *count += 1,
            _ => groups.push((1, *ty)),
        }
    }
    let mut bytes = vec![];
    (groups.len() as u32).encode(&mut bytes);
    for (count, ty) in groups {
        count.encode(&mut bytes);
        encoded(ty).encode(&mut bytes);
    }
    let start = bytes.len() as u32;
    bytes.extend_from_slice(&body.code);
    (bytes, body.cold.into_iter().map(|at| at + start).collect())
}

/// Functions that continuations may call: what functions with resume points call.
fn callable(source: &Source, scans: &[Scan], map: &Map) -> BTreeSet<u32> {
    let mut found: BTreeSet<u32> = (0..source.imported_functions).collect();
    for (index, scan) in scans.iter().enumerate() {
        if map.functions.first_points[index] == map.functions.first_points[index + 1] {
            continue;
        }
        let function = source.imported_functions + index as u32;
        if map.functions.calls.entry_poll[function as usize] {
            found.insert(function);
        }
        for target in scan.sites.iter().flatten().chain(&scan.tail_calls) {
            if let Target::Function(function) = target {
                found.insert(*function);
            }
        }
    }
    found
}

/// A dispatcher calls one of several functions of a type, by a number that follows the arguments. Continuations call through it:
/// to export each function would cost more code than many of them have, since an engine compiles a way in from outside for each.
struct Dispatcher {
    ty: u32,
    functions: Vec<u32>,
}

/// No dispatcher has more functions, so that each compiles in a moment, beside others.
const DISPATCHED_MAX: usize = 512;

fn dispatchers(source: &Source, map: &Map) -> Vec<Dispatcher> {
    let mut of_type: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (function, _) in map.functions.dispatched.iter().enumerate().filter(|(_, dispatched)| **dispatched) {
        of_type.entry(source.function_types[function]).or_default().push(function as u32);
    }
    let parts = of_type.iter().flat_map(|(ty, functions)| functions.chunks(DISPATCHED_MAX).map(|part| (*ty, part)));
    parts.map(|(ty, functions)| Dispatcher { ty, functions: functions.to_vec() }).collect()
}

/// Which of the functions that continuations may call do not have an export of their own, by function index.
fn dispatched(source: &Source, referable: &[u32], called: &BTreeSet<u32>) -> Vec<bool> {
    let mut of_type: HashMap<u32, u32> = HashMap::new();
    let mut dispatched = vec![false; source.functions() as usize];
    for function in called.iter().filter(|function| **function >= source.imported_functions) {
        let ty = source.function_types[*function as usize];
        if referable.binary_search(function).is_err() && source.function_type(ty).params().len() < PARAMETERS_MAX {
            dispatched[*function as usize] = true;
            *of_type.entry(ty).or_default() += 1;
        }
    }
    for (function, dispatched) in dispatched.iter_mut().enumerate() {
        // One function alone is better exported.
        *dispatched &= of_type.get(&source.function_types[function]).is_some_and(|count| *count > 1);
    }
    dispatched
}

fn dispatcher_type(source: &Source, dispatcher: &Dispatcher) -> (Vec<ValType>, Vec<ValType>) {
    let ty = source.function_type(dispatcher.ty);
    (ty.params().iter().copied().chain([ValType::I32]).collect(), ty.results().to_vec())
}

fn dispatcher_body(source: &Source, dispatcher: &Dispatcher) -> Body {
    let mut body = Body::default();
    let parameters = source.function_type(dispatcher.ty).params().len() as u32;
    let last = dispatcher.functions.len() as u32 - 1;
    (0..=last).for_each(|_| body.op(&Instruction::Block(wasm_encoder::BlockType::Empty)));
    body.op(&Instruction::LocalGet(parameters));
    body.op(&Instruction::BrTable((0..last).collect::<Vec<u32>>().into(), last));
    for function in &dispatcher.functions {
        body.op(&Instruction::End);
        (0..parameters).for_each(|parameter| body.op(&Instruction::LocalGet(parameter)));
        body.op(&Instruction::ReturnCall(*function));
    }
    body.op(&Instruction::End);
    body
}

fn assemble(
    source: &Source, scans: &[Scan], map: &Map, layout: &Layout, exported: &BTreeSet<u32>, rewritten: Vec<Rewriting>,
) -> Result<Vec<u8>, RewriteError> {
    let mut types = Types::new(source);
    let options = &map.options;
    let mut code = CodeSection::new();
    let mut hints = BranchHints::new();
    let mut function_types: Vec<u32> = vec![];
    let mut names: Vec<(u32, String)> = vec![];
    let mut to_shims = ToShims { imported_functions: source.imported_functions, functions: source.functions() };

    // Helpers come behind the shims, loop functions behind the helpers.
    let mut helpers: BTreeSet<Helper> = BTreeSet::new();
    helpers.extend(map.droppable_data.iter().map(|segment| Helper::DropData(*segment)));
    helpers.extend(map.droppable_elem.iter().map(|segment| Helper::DropElement(*segment)));
    for scan in scans {
        helpers.extend(scan.memory_inits.iter().map(|(segment, memory)| Helper::InitMemory(*segment, *memory)));
        helpers.extend(scan.table_inits.iter().map(|(segment, table)| Helper::InitTable(*segment, *table)));
    }
    helpers.extend(rewritten.iter().flat_map(|function| function.helpers.iter().cloned()));
    for import in 0..source.imported_functions {
        let (parameters, results) = (source.signature(import).params(), source.signature(import).results());
        if emit::interruptible(parameters, results) {
            helpers.extend(emit::helpers(&emit::host_point(0, parameters)));
        }
    }
    let first_helper = source.functions() + source.imported_functions;
    let helper_index: BTreeMap<Helper, u32> =
        helpers.iter().enumerate().map(|(index, helper)| (helper.clone(), first_helper + index as u32)).collect();
    let first_loop = first_helper + helpers.len() as u32;
    let mut loop_index: BTreeMap<u32, u32> = BTreeMap::new();
    for function in &rewritten {
        for loop_function in &function.loops {
            loop_index.insert(loop_function.id, first_loop + loop_index.len() as u32);
        }
    }
    let resolve = |fix: &Fix| match fix {
        Fix::Loop(id) => loop_index[id],
        Fix::Helper(helper) => helper_index[helper],
        Fix::Type(_) | Fix::Function(_) | Fix::Dispatcher(_) | Fix::Reference(_) => {
            unreachable!("only continuations name these")
        }
    };

    let mut loops = vec![];
    let mut write = |code: &mut CodeSection, types: &mut Types, function: u32, body: Body| {
        let (bytes, cold) = settle(body, types, resolve);
        code.raw(&bytes);
        if !cold.is_empty() {
            let hint = |at| BranchHint { branch_func_offset: at, branch_hint_value: 0 };
            hints.function_hints(function, cold.into_iter().map(hint));
        }
    };
    for (index, function) in rewritten.into_iter().enumerate() {
        match function.body {
            Form::Untouched(bytes) => {
                code.raw(bytes);
            }
            Form::Written(body) => write(&mut code, &mut types, source.imported_functions + index as u32, body),
        }
        loops.extend(function.loops);
    }
    let shim_points = map.functions.first_points[map.functions.first_points.len() - 2];
    for import in 0..source.imported_functions {
        let signature = source.signature(import);
        let body = emit::shim(import, shim_points + import, signature.params(), signature.results(), layout, options);
        function_types.push(source.function_types[import as usize]);
        names.push((source.functions() + import, format!("{PREFIX}import{import}")));
        write(&mut code, &mut types, source.functions() + import, body);
    }
    for (helper, index) in &helper_index {
        let (parameters, results) = helper_type(helper, source);
        function_types.push(types.index(&parameters, &results));
        names.push((*index, helper_name(helper)));
        write(&mut code, &mut types, *index, helper_body(helper, source, layout));
    }
    for loop_function in loops {
        let index = loop_index[&loop_function.id];
        function_types.push(types.index(&loop_function.parameters, &loop_function.results));
        names.push((index, format!("{PREFIX}loop{}", loop_function.id)));
        write(&mut code, &mut types, index, loop_function.body);
    }
    let dispatchers = dispatchers(source, map);
    let first_dispatcher = first_loop + loop_index.len() as u32;
    for (number, dispatcher) in dispatchers.iter().enumerate() {
        let (parameters, results) = dispatcher_type(source, dispatcher);
        function_types.push(types.index(&parameters, &results));
        names.push((first_dispatcher + number as u32, format!("{PREFIX}call{number}")));
        write(&mut code, &mut types, first_dispatcher + number as u32, dispatcher_body(source, dispatcher));
    }

    let mut module = Module::new();
    module.section(&types.section()?);
    if let Some(section) = &source.imports_section {
        let mut out = ImportSection::new();
        RoundtripReencoder.parse_import_section(&mut out, section.clone()).map_err(encoding)?;
        module.section(&out);
    }
    let mut section = FunctionSection::new();
    if let Some(original) = &source.functions_section {
        RoundtripReencoder.parse_function_section(&mut section, original.clone()).map_err(encoding)?;
    }
    function_types.iter().for_each(|ty| {
        section.function(*ty);
    });
    module.section(&section);

    let mut section = TableSection::new();
    if let Some(original) = &source.tables_section {
        to_shims.parse_table_section(&mut section, original.clone()).map_err(encoding)?;
    }
    section.table(references_table());
    module.section(&section);

    let mut section = MemorySection::new();
    if let Some(original) = &source.memories_section {
        RoundtripReencoder.parse_memory_section(&mut section, original.clone()).map_err(encoding)?;
    }
    section.memory(frames_memory());
    if options.poll != Poll::Countdown {
        section.memory(flag_memory(options));
    }
    module.section(&section);

    if let Some(original) = &source.tags_section {
        let mut section = wasm_encoder::TagSection::new();
        RoundtripReencoder.parse_tag_section(&mut section, original.clone()).map_err(encoding)?;
        module.section(&section);
    }

    let mut section = GlobalSection::new();
    if let Some(original) = &source.globals_section {
        to_shims.parse_global_section(&mut section, original.clone()).map_err(encoding)?;
    }
    let added = added_globals(layout, options);
    for (_, val_type, init) in &added {
        section.global(GlobalType { val_type: *val_type, mutable: true, shared: false }, init);
    }
    let references: BTreeSet<u32> = scans.iter().flat_map(|scan| scan.references.iter().copied()).collect();
    for function in &references {
        let shim = to_shims.function_index(*function).map_err(encoding)?;
        section.global(reference_global(source, *function), &ConstExpr::ref_func(shim));
    }
    module.section(&section);

    let mut section = ExportSection::new();
    if let Some(original) = &source.exports_section {
        to_shims.parse_export_section(&mut section, original.clone()).map_err(encoding)?;
    }
    let mut export = |name: String, kind: ExportKind, index: u32| {
        section.export(&format!("{PREFIX}{name}"), kind, index);
    };
    export("frames".into(), ExportKind::Memory, layout.frames_memory);
    if options.poll != Poll::Countdown {
        export("flag".into(), ExportKind::Memory, layout.flag_memory);
    }
    export("references".into(), ExportKind::Table, layout.references_table);
    let first_added = source.globals.len() as u32;
    for (index, (name, ..)) in added.iter().enumerate() {
        export(name.clone(), ExportKind::Global, first_added + index as u32);
    }
    for (index, function) in references.iter().enumerate() {
        export(format!("ref{function}"), ExportKind::Global, first_added + (added.len() + index) as u32);
    }
    for index in 0..source.memories.len() as u32 {
        export(format!("m{index}"), ExportKind::Memory, index);
    }
    for index in 0..source.globals.len() as u32 {
        export(format!("g{index}"), ExportKind::Global, index);
    }
    for index in 0..source.tables.len() as u32 {
        export(format!("t{index}"), ExportKind::Table, index);
    }
    for index in 0..source.tags.len() as u32 {
        export(format!("e{index}"), ExportKind::Tag, index);
    }
    for function in exported {
        let shim = to_shims.function_index(*function).map_err(encoding)?;
        export(format!("f{function}"), ExportKind::Func, shim);
    }
    for number in 0..dispatchers.len() as u32 {
        export(format!("call{number}"), ExportKind::Func, first_dispatcher + number);
    }
    for (helper, index) in helper_index.iter().filter(|(helper, _)| !is_portable(helper)) {
        export(helper_name(helper)[PREFIX.len()..].to_string(), ExportKind::Func, *index);
    }
    for (id, index) in &loop_index {
        export(format!("l{id}"), ExportKind::Func, *index);
    }
    if let Some(start) = source.start {
        let shim = to_shims.function_index(start).map_err(encoding)?;
        export("start".into(), ExportKind::Func, shim);
    }
    module.section(&section);

    if let Some(original) = &source.elements_section {
        let mut section = wasm_encoder::ElementSection::new();
        to_shims.parse_element_section(&mut section, original.clone()).map_err(encoding)?;
        module.section(&section);
    }
    if let Some(count) = source.data_count {
        module.section(&wasm_encoder::DataCountSection { count });
    }
    if !hints.is_empty() {
        module.section(&hints);
    }
    module.section(&code);
    if let Some(range) = &source.data_section {
        module.section(&RawSection { id: 11, data: &source.wasm[range.clone()] });
    }
    if let Some(section) = name_section(source, &names)? {
        module.section(&section);
    }
    for (name, data) in &source.customs {
        module.section(&wasm_encoder::CustomSection { name: (*name).into(), data: (*data).into() });
    }
    Ok(module.finish())
}

fn reference_global(source: &Source, function: u32) -> GlobalType {
    let heap_type = HeapType::Concrete(source.function_types[function as usize]);
    let val_type = wasm_encoder::ValType::Ref(RefType { nullable: false, heap_type });
    GlobalType { val_type, mutable: false, shared: false }
}

/// The original's names and those of the added functions. Labels are dropped: added blocks shift them.
fn name_section(
    source: &Source, added: &[(u32, String)],
) -> Result<Option<wasm_encoder::CustomSection<'static>>, RewriteError> {
    let Some(reader) = &source.names else {
        return Ok(None);
    };
    const FUNCTIONS: u8 = 1;
    const LABELS: u8 = 3;
    let mut data = vec![];
    let mut bytes = wasmparser::BinaryReader::new(&source.wasm[reader.range()], 0);
    let mut functions = wasm_encoder::NameMap::new();
    let mut subsections: BTreeMap<u8, &[u8]> = BTreeMap::new();
    // Names are only for people: a section that is damaged is left out.
    while !bytes.eof() {
        let Ok(id) = bytes.read_u8() else {
            return Ok(None);
        };
        let Ok(size) = bytes.read_var_u32() else {
            return Ok(None);
        };
        let Ok(content) = bytes.read_bytes(size as usize) else {
            return Ok(None);
        };
        subsections.insert(id, content);
    }
    if let Some(content) = subsections.get(&FUNCTIONS) {
        let Ok(map) = wasmparser::NameMap::new(wasmparser::BinaryReader::new(content, 0)) else {
            return Ok(None);
        };
        for naming in map {
            let Ok(naming) = naming else { return Ok(None) };
            functions.append(naming.index, naming.name);
        }
    }
    for (index, name) in added {
        functions.append(*index, name);
    }
    let mut section = |id: u8, content: &[u8]| {
        data.push(id);
        content.encode(&mut data);
    };
    if let Some(content) = subsections.get(&0) {
        section(0, content);
    }
    let mut content = vec![];
    functions.encode(&mut content);
    section(FUNCTIONS, &content);
    for (id, content) in subsections.range(FUNCTIONS + 1..) {
        if *id != LABELS {
            section(*id, content);
        }
    }
    Ok(Some(wasm_encoder::CustomSection { name: "name".into(), data: data.into() }))
}

// Continuing.

/// Which function a point belongs to: its index, and its first point; imported functions stand for their shims.
fn owner(map: &Map, imported: u32, point: PointId) -> Option<(u32, u32)> {
    let first = &map.functions.first_points;
    let (shims, end) = (first[first.len() - 2], first[first.len() - 1]);
    if point.0 >= end {
        return None;
    }
    if point.0 >= shims {
        return Some((point.0 - shims, point.0));
    }
    let defined = first.partition_point(|first| *first <= point.0) - 1;
    // Functions without points share their first point with the next one; partition_point found the last of them.
    Some((imported + defined as u32, first[defined]))
}

/// Is the map one of this module? Its parts come from a cache or a peer.
fn check_map(map: &Map, source: &Source) -> Result<(), String> {
    let functions = source.functions() as usize;
    let defined = functions - source.imported_functions as usize;
    let calls = &map.functions.calls;
    let fits = map.functions.first_points.len() == defined + 2
        && map.functions.first_points.is_sorted()
        && map.functions.dispatched.len() == functions
        && calls.may_unwind.len() == functions
        && calls.entry_poll.len() == functions
        && calls.type_may_unwind.len() == source.types.len();
    if fits { Ok(()) } else { Err("the map is of another module".to_string()) }
}

/// Finds out about resume points from the original module: parses it once, and each function once.
pub(crate) struct Analyst<'a> {
    map: &'a Map,
    source: Source<'a>,
    layout: Layout,
    bodies: HashMap<u32, (wasmparser::FuncToValidate<wasmparser::ValidatorResources>, wasmparser::FunctionBody<'a>)>,
    plans: HashMap<u32, Plan<'a>>,
}

/// A resume point as who continues it sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PointInfo {
    /// Bytes of its values in a frame.
    pub size: u32,
    pub function: u32,
    pub results: Vec<ValType>,
    pub is_host_call: bool,
}

impl<'a> Analyst<'a> {
    pub fn new(map: &'a Map, wasm: &'a [u8]) -> Result<Analyst<'a>, RewriteError> {
        let mut source = Source::parse(wasm)?;
        check_map(map, &source).map_err(|construct| RewriteError::UnsupportedModule { construct })?;
        let mut layout = layout(&source, &map.droppable_data, &map.droppable_elem, &map.options);
        for (number, dispatcher) in dispatchers(&source, map).into_iter().enumerate() {
            let functions = dispatcher.functions.into_iter().enumerate();
            layout.dispatched.extend(functions.map(|(index, function)| (function, (number as u32, index as u32))));
        }
        let bodies = std::mem::take(&mut source.bodies).into_iter().map(|(f, body)| (f.index, (f, body))).collect();
        Ok(Analyst { map, source, layout, bodies, plans: HashMap::new() })
    }

    /// The function of a point, understood; imported functions have no plan.
    fn understand(&mut self, point: PointId) -> Result<u32, RewriteError> {
        let no_point = || no_point(point);
        let imported = self.source.imported_functions;
        let (function, first) = owner(self.map, imported, point).ok_or_else(no_point)?;
        if let Some((to_validate, body)) = self.bodies.remove(&function) {
            let mut plan = Plan::new(&self.source, &self.map.functions.calls, to_validate, &body, first)?;
            plan.finish(&self.source)?;
            self.plans.insert(function, plan);
        }
        let signature = self.source.signature(function);
        let stops = if function < imported {
            emit::interruptible(signature.params(), signature.results())
        } else {
            self.plans[&function].stops_at(point.0).is_some()
        };
        if stops { Ok(function) } else { Err(no_point()) }
    }

    pub fn info(&mut self, point: PointId) -> Result<PointInfo, RewriteError> {
        let function = self.understand(point)?;
        let is_host_call = function < self.source.imported_functions;
        let signature = self.source.signature(function);
        let size = if is_host_call {
            emit::host_point(point.0, signature.params()).size(self.layout.exception_size)
        } else {
            let found = self.plans[&function].stops_at(point.0).expect("understood: it stops there");
            found.size(self.layout.exception_size)
        };
        Ok(PointInfo { size, function, results: signature.results().to_vec(), is_host_call })
    }

    /// A module with the continuations of these points.
    pub fn continuations(&mut self, points: &BTreeSet<PointId>) -> Result<Vec<u8>, RewriteError> {
        for point in points {
            self.understand(*point)?;
        }
        continuation_module(self, points)
    }
}

fn no_point(point: PointId) -> RewriteError {
    RewriteError::UnsupportedModule { construct: format!("nothing can stop at point {}", point.0) }
}

pub(super) fn frames(map: &Map, wasm: &[u8], bytes: &[u8]) -> Result<Vec<Frame>, String> {
    let mut analyst = Analyst::new(map, wasm).map_err(|error| error.to_string())?;
    walk(bytes, |point| analyst.info(point).map_err(|error| error.to_string()))
}

/// Walks frame bytes from the outermost frame in.
pub(crate) fn walk<E: From<String>>(
    bytes: &[u8], mut info: impl FnMut(PointId) -> Result<PointInfo, E>,
) -> Result<Vec<Frame>, E> {
    let mut frames = vec![];
    let mut end = bytes.len();
    while end > 0 {
        let id = end.checked_sub(4).ok_or_else(|| "the outermost bytes are no frame".to_string())?;
        let point = PointId(u32::from_le_bytes(bytes[id..end].try_into().expect("four bytes")));
        let PointInfo { size, function, results, is_host_call } = info(point)?;
        let cut = || format!("the frame of point {} is cut", point.0);
        let start = id.checked_sub(size as usize).ok_or_else(cut)?;
        let host_call = is_host_call.then(|| (function, results.clone()));
        frames.push(Frame { point, values: start..id, function, results, host_call });
        end = start;
    }
    Ok(frames)
}

pub(super) fn continuations(map: &Map, wasm: &[u8], points: &[PointId]) -> Result<Vec<u8>, RewriteError> {
    Analyst::new(map, wasm)?.continuations(&points.iter().copied().collect())
}

fn continuation_module(analyst: &Analyst, points: &BTreeSet<PointId>) -> Result<Vec<u8>, RewriteError> {
    let Analyst { map, source, layout, plans, .. } = analyst;
    let options = &map.options;
    let mut bodies: Vec<(PointId, Vec<ValType>, Body)> = vec![];
    for point in points.iter().copied() {
        let (function, _) = owner(map, source.imported_functions, point).ok_or_else(|| no_point(point))?;
        let signature = source.signature(function);
        let body = if function < source.imported_functions {
            emit::shim_continuation(function, point.0, signature.params(), signature.results(), layout, options)
        } else {
            let plan = &plans[&function];
            let found = plan.stops_at(point.0).expect("understood: it stops there");
            emit::continuation(plan, found, source.wasm, layout, options)
        };
        bodies.push((point, signature.results().to_vec(), body));
    }

    // Everything the bodies name is imported, in the order in which it is met, but for helpers that can be copied.
    let mut functions: Vec<&Fix> = vec![];
    let mut references: Vec<u32> = vec![];
    let mut copied: BTreeSet<Helper> = BTreeSet::new();
    let mut function_index: BTreeMap<&Fix, u32> = BTreeMap::new();
    for (_, fix) in bodies.iter().flat_map(|(_, _, body)| &body.fixes) {
        match fix {
            Fix::Type(_) => {}
            Fix::Reference(function) => {
                if !references.contains(function) {
                    references.push(*function);
                }
            }
            Fix::Helper(helper) if is_portable(helper) => {
                copied.insert(helper.clone());
            }
            fix => {
                let next = functions.len() as u32;
                function_index.entry(fix).or_insert_with(|| {
                    functions.push(fix);
                    next
                });
            }
        }
    }
    let added = added_globals(layout, options);
    let first_reference = (source.globals.len() + added.len()) as u32;
    let mut function_index: BTreeMap<Fix, u32> =
        function_index.into_iter().map(|(fix, index)| (fix.clone(), index)).collect();
    let functions: Vec<Fix> = functions.into_iter().cloned().collect();
    let first_copied = (functions.len() + bodies.len()) as u32;
    for (number, helper) in copied.iter().enumerate() {
        function_index.insert(Fix::Helper(helper.clone()), first_copied + number as u32);
    }
    let dispatchers = dispatchers(source, map);

    let mut types = Types::new(source);
    let mut imports = ImportSection::new();
    let mut import = |name: String, ty: EntityType| {
        imports.import("freeze", &name, ty);
    };
    for fix in &functions {
        let (name, ty) = match fix {
            Fix::Function(function) => (format!("{PREFIX}f{function}"), source.function_types[*function as usize]),
            Fix::Dispatcher(number) => {
                let (parameters, results) = dispatcher_type(source, &dispatchers[*number as usize]);
                (format!("{PREFIX}call{number}"), types.index(&parameters, &results))
            }
            Fix::Loop(id) => {
                let (function, _) = owner(map, source.imported_functions, PointId(*id)).expect("a plan named it");
                let plan = &plans[&function];
                let point = plan.stops_at(*id).expect("a plan named it");
                let parameters: Vec<ValType> = point.saved.iter().map(|(_, ty)| *ty).collect();
                (format!("{PREFIX}l{id}"), types.index(&parameters, &plan.results))
            }
            Fix::Helper(helper) => {
                let (parameters, results) = helper_type(helper, source);
                (helper_name(helper), types.index(&parameters, &results))
            }
            Fix::Type(_) | Fix::Reference(_) => unreachable!("these are not functions"),
        };
        import(name, EntityType::Function(ty));
    }
    for (index, table) in source.tables.iter().enumerate() {
        let ty = RoundtripReencoder.table_type(*table).map_err(encoding)?;
        import(format!("{PREFIX}t{index}"), EntityType::Table(ty));
    }
    import(format!("{PREFIX}references"), EntityType::Table(references_table()));
    import("conts".to_string(), EntityType::Table(references_table()));
    for (index, memory) in source.memories.iter().enumerate() {
        let ty = RoundtripReencoder.memory_type(*memory).map_err(encoding)?;
        import(format!("{PREFIX}m{index}"), EntityType::Memory(ty));
    }
    import(format!("{PREFIX}frames"), EntityType::Memory(frames_memory()));
    if options.poll != Poll::Countdown {
        import(format!("{PREFIX}flag"), EntityType::Memory(flag_memory(options)));
    }
    for (index, global) in source.globals.iter().enumerate() {
        let ty = RoundtripReencoder.global_type(*global).map_err(encoding)?;
        import(format!("{PREFIX}g{index}"), EntityType::Global(ty));
    }
    for (name, val_type, _) in &added {
        let ty = GlobalType { val_type: *val_type, mutable: true, shared: false };
        import(format!("{PREFIX}{name}"), EntityType::Global(ty));
    }
    for function in &references {
        import(format!("{PREFIX}ref{function}"), EntityType::Global(reference_global(source, *function)));
    }
    for (index, ty) in source.tags.iter().enumerate() {
        let ty = wasm_encoder::TagType { kind: wasm_encoder::TagKind::Exception, func_type_idx: *ty };
        import(format!("{PREFIX}e{index}"), EntityType::Tag(ty));
    }

    let mut section = FunctionSection::new();
    let mut exports = ExportSection::new();
    let mut code = CodeSection::new();
    let mut hints = BranchHints::new();
    let mut write = |types: &mut Types, index: u32, parameters: &[ValType], results: &[ValType], body: Body| {
        section.function(types.index(parameters, results));
        let (bytes, cold) = settle(body, types, |fix| match fix {
            Fix::Reference(function) => {
                let position = references.iter().position(|f| f == function).expect("collected above");
                first_reference + position as u32
            }
            fix => function_index[fix],
        });
        code.raw(&bytes);
        if !cold.is_empty() {
            let hint = |at| BranchHint { branch_func_offset: at, branch_hint_value: 0 };
            hints.function_hints(index, cold.into_iter().map(hint));
        }
    };
    for (index, (point, results, body)) in bodies.into_iter().enumerate() {
        let index = (functions.len() + index) as u32;
        exports.export(&format!("c{}", point.0), ExportKind::Func, index);
        write(&mut types, index, &[], &results, body);
    }
    for (number, helper) in copied.iter().enumerate() {
        let (parameters, results) = helper_type(helper, source);
        let body = helper_body(helper, source, layout);
        write(&mut types, first_copied + number as u32, &parameters, &results, body);
    }
    let mut module = Module::new();
    module.section(&types.section()?);
    module.section(&imports);
    module.section(&section);
    module.section(&exports);
    if !hints.is_empty() {
        module.section(&hints);
    }
    module.section(&code);
    Ok(module.finish())
}
