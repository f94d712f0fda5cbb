//! Random programs: what a program does must not depend on whether, where and how often it is stopped.
//!
//! A program is made by wasm-smith from bytes, with fuel of its own so that it ends. It is run as it is, then rewritten, then
//! rewritten and stopped at every n-th poll and in some of its host calls; each time it goes on in a fresh store. All that can be
//! seen of it afterwards must be the same: results, traps, host calls, globals, memories, tables.

use arbitrary::Unstructured;
use freeze::{Entry, Exit, Options, Pages, Poll, Process, Program, ProgramError, RewriteError};
use std::collections::{BTreeMap, HashMap};
use wasmtime::{
    Caller, Engine, Error, Extern, ExternType, Func, Global, GlobalType, Linker, Memory, MemoryType, Module,
    Mutability, Ref, RefType, Store, Table, TableType, Tag, TagType, ThrownException, Trap, Val, ValType,
};

/// Polls and calls that a program may make before its own fuel ends it.
const FUEL: u32 = 600;

/// After this many stops in one call the distance doubles now and then: the late part of a long call is met all the same.
const STOPS_AT_ONE_DISTANCE: u32 = 40;
const STOPS_PER_DOUBLING: u32 = 8;

/// No more functions of one program are called.
const CALLS_MAX: usize = 12;

/// Numbers from a seed (splitmix64).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(length).collect()
    }
}

/// An engine that also ends a program whose own fuel has been tampered with.
pub fn watched_engine() -> Engine {
    let mut config = wasmtime::Config::new();
    super::wast::accept_all(&mut config).cranelift_nan_canonicalization(true).consume_fuel(true);
    Engine::new(&config).unwrap()
}

pub fn engine(target: Option<&str>) -> Engine {
    let mut config = wasmtime::Config::new();
    // With canonical NaNs every bit of every value is determined.
    super::wast::accept_all(&mut config).cranelift_nan_canonicalization(true);
    if let Some(target) = target {
        config.target(target).unwrap().wasm_threads(false);
    }
    Engine::new(&config).unwrap()
}

/// The imports that a random program may use.
const IMPORTS: &str = r#"(module
    (import "host" "one" (func (param i32) (result i32)))
    (import "host" "two" (func (param i64 f64) (result i64)))
    (import "host" "pair" (func (result i32 f32)))
    (import "host" "none" (func))
    (import "host" "vector" (func (param v128) (result v128)))
    (import "host" "tag" (tag (param i32)))
    (import "host" "global" (global (mut i64)))
    (import "host" "memory" (memory 1 3))
    (import "host" "table" (table 4 16 funcref)))"#;

/// A program from bytes; the first of them choose what it may use. `None` if the bytes do not make one.
pub fn program(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut input = Unstructured::new(bytes);
    let choices: u32 = input.arbitrary().ok()?;
    let chosen = |bit: u32| choices >> bit & 1 != 0;
    // Externrefs that live across calls make a program one that cannot be frozen, so most do without references.
    let references = chosen(0) && chosen(1);
    let config = wasm_smith::Config {
        available_imports: chosen(2).then(|| wat::parse_str(IMPORTS).unwrap()),
        allow_floats: chosen(3) || chosen(4),
        bulk_memory_enabled: true,
        disallow_traps: chosen(5) || chosen(6),
        exceptions_enabled: chosen(7),
        export_everything: true,
        gc_enabled: references && chosen(8) && chosen(9) && chosen(10),
        custom_page_sizes_enabled: chosen(11) && chosen(12),
        max_data_segments: 4,
        max_element_segments: 4,
        max_elements: 8,
        max_funcs: 8,
        min_funcs: 2,
        max_globals: 8,
        max_imports: if chosen(2) { 6 } else { 0 },
        max_instructions: 40 + (choices >> 24) as usize,
        max_memories: 1 + chosen(13) as usize * 2,
        max_memory32_bytes: 3 << 16,
        max_memory64_bytes: 3 << 16,
        memory_max_size_required: true,
        memory64_enabled: chosen(14) && chosen(15),
        memory_offset_choices: wasm_smith::MemoryOffsetChoices(95, 4, 1),
        max_table_elements: 16,
        table_max_size_required: true,
        max_tables: 3,
        max_tags: 4,
        max_type_size: 200,
        multi_value_enabled: chosen(16) || chosen(17),
        reference_types_enabled: references,
        relaxed_simd_enabled: chosen(18) && chosen(19),
        simd_enabled: chosen(18),
        tail_call_enabled: chosen(20),
        threads_enabled: false,
        wide_arithmetic_enabled: chosen(21) && chosen(22),
        ..wasm_smith::Config::default()
    };
    let mut module = wasm_smith::Module::new(config, &mut input).ok()?;
    module.ensure_termination(FUEL).ok()?;
    Some(module.to_bytes())
}

/// The program of a seed. Lengths differ, so that small programs are among them. In every third one all loops are large ones,
/// which the rewriter treats in a way of its own.
pub fn program_of_seed(seed: u64) -> Option<Vec<u8>> {
    let mut numbers = Numbers(seed);
    let length = 64 << numbers.below(7);
    let wasm = program(&numbers.bytes(length))?;
    Some(if seed % 3 == 1 { with_large_loops(&wasm) } else { wasm })
}

/// The same program with many instructions that do nothing at the beginning of each loop.
fn with_large_loops(wasm: &[u8]) -> Vec<u8> {
    const NOP: u8 = 0x01;
    let mut module = wasm_encoder::Module::new();
    let mut code = wasm_encoder::CodeSection::new();
    let mut functions = 0;
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        match payload.unwrap() {
            wasmparser::Payload::CodeSectionEntry(body) => {
                let mut bytes = wasm[body.range().start..].to_vec();
                bytes.truncate(body.range().len());
                let mut operators = body.get_operators_reader().unwrap();
                let mut loops = vec![];
                while !operators.eof() {
                    if let wasmparser::Operator::Loop { .. } = operators.read().unwrap() {
                        loops.push(operators.original_position() - body.range().start);
                    }
                }
                for at in loops.into_iter().rev() {
                    bytes.splice(at..at, [NOP; 9000]);
                }
                code.raw(&bytes);
                if code.len() == functions {
                    module.section(&code);
                }
            }
            wasmparser::Payload::CodeSectionStart { count, .. } => functions = count,
            payload => {
                if let Some((id, range)) = payload.as_section() {
                    module.section(&wasm_encoder::RawSection { id, data: &wasm[range] });
                }
            }
        }
    }
    module.finish()
}

/// All that can be seen of a program's run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Outcome {
    /// What each call gave, and the host calls.
    events: Vec<String>,
    state: Vec<String>,
}

#[derive(Debug, Default, Clone)]
pub struct Counts {
    pub programs: usize,
    /// Programs that were stopped at least once.
    pub stopped: usize,
    pub hops: usize,
    pub interrupted: usize,
    pub completed: usize,
    pub calls: usize,
    pub returned: usize,
    pub refused: BTreeMap<String, usize>,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.programs += other.programs;
        self.stopped += other.stopped;
        self.hops += other.hops;
        self.interrupted += other.interrupted;
        self.completed += other.completed;
        self.calls += other.calls;
        self.returned += other.returned;
        for (construct, count) in &other.refused {
            *self.refused.entry(construct.clone()).or_default() += count;
        }
    }
}

#[derive(Default)]
struct Host {
    events: Vec<String>,
    calls: u64,
    interrupts: bool,
    again: bool,
    interrupted: usize,
    completed: usize,
    /// Results of an interrupted call that are handed over instead of issuing it again.
    arrived: Option<Vec<Val>>,
}

fn linker(engine: &Engine, imports: &Module) -> Linker<Host> {
    let mut linker: Linker<Host> = Linker::new(engine);
    for import in imports.imports() {
        let ExternType::Func(ty) = import.ty() else { continue };
        let name = import.name().to_string();
        let types: Vec<ValType> = ty.results().collect();
        // The types are numbers, so they mean the same on every engine.
        let ty = wasmtime::FuncType::new(engine, ty.params(), ty.results());
        let call = move |mut caller: Caller<'_, Host>, parameters: &[Val], results: &mut [Val]| -> Result<(), Error> {
            for (result, ty) in results.iter_mut().zip(&types) {
                *result = Val::default_for_ty(ty).expect("the imports have numbers only");
            }
            let host = caller.data_mut();
            let interrupt = host.interrupts && !host.again && host.calls % 3 != 2;
            let arrives = interrupt && host.calls % 3 == 1;
            if interrupt && !arrives {
                host.again = true;
                host.interrupted += 1;
                return freeze::interrupt(&mut caller);
            }
            host.again = false;
            host.calls += 1;
            let arguments: Vec<String> = parameters.iter().map(bits).collect();
            host.events.push(format!("{name}({})", arguments.join(", ")));
            let values: Vec<Val> = types.iter().map(|ty| host_value(ty, host.calls)).collect();
            if arrives {
                host.completed += 1;
                host.arrived = Some(values);
                return freeze::interrupt(&mut caller);
            }
            results.copy_from_slice(&values);
            Ok(())
        };
        linker.func_new("host", import.name(), ty, call).unwrap();
    }
    linker
}

/// What the host answers to its nth call.
fn host_value(ty: &ValType, calls: u64) -> Val {
    match ty {
        ValType::I32 => Val::I32((calls * 7) as i32 - 3),
        ValType::I64 => Val::I64((calls * 11) as i64 - 5),
        ValType::F32 => Val::F32((calls as f32 * 0.5).to_bits()),
        ValType::F64 => Val::F64((calls as f64 * 0.25).to_bits()),
        ValType::V128 => Val::V128((calls as u128 * 0x1_0000_0003).into()),
        ValType::Ref(_) => unreachable!("the imports have numbers only"),
    }
}

fn new_store(engine: &Engine, host: Host) -> Store<Host> {
    let mut store = Store::new(engine, host);
    // Only an engine that watches has fuel.
    let _ = store.set_fuel(5_000_000);
    store
}

/// Defines the host's global, memory, table and tag in this store.
fn define_objects(linker: &mut Linker<Host>, store: &mut Store<Host>) {
    linker.allow_shadowing(true);
    let global = Global::new(&mut *store, GlobalType::new(ValType::I64, Mutability::Var), Val::I64(42)).unwrap();
    let memory = Memory::new(&mut *store, MemoryType::new(1, Some(3))).unwrap();
    let table = Table::new(&mut *store, TableType::new(RefType::FUNCREF, 4, Some(16)), Ref::Func(None)).unwrap();
    let tag = TagType::new(wasmtime::FuncType::new(store.engine(), [ValType::I32], []));
    let tag = Tag::new(&mut *store, &tag).unwrap();
    linker.define(&*store, "host", "global", global).unwrap();
    linker.define(&*store, "host", "memory", memory).unwrap();
    linker.define(&*store, "host", "table", table).unwrap();
    linker.define(&*store, "host", "tag", tag).unwrap();
}

/// A value as text; the same text means the same bits.
fn bits(value: &Val) -> String {
    match value {
        Val::I32(value) => format!("{value}"),
        Val::I64(value) => format!("{value}"),
        Val::F32(bits) => format!("{bits:#x}f"),
        Val::F64(bits) => format!("{bits:#x}d"),
        Val::V128(value) => format!("{:#x}v", value.as_u128()),
        Val::FuncRef(value) => if value.is_some() { "func" } else { "null" }.into(),
        Val::ExternRef(value) => if value.is_some() { "extern" } else { "null" }.into(),
        Val::AnyRef(value) => if value.is_some() { "any" } else { "null" }.into(),
        Val::ExnRef(value) => if value.is_some() { "exn" } else { "null" }.into(),
        Val::ContRef(value) => if value.is_some() { "cont" } else { "null" }.into(),
    }
}

fn failure(error: &Error) -> String {
    match error.downcast_ref::<Trap>() {
        Some(trap) => format!("trap: {trap}"),
        None if error.is::<ThrownException>() => "exception".to_string(),
        None => format!("error: {error:#}"),
    }
}

fn argument(ty: &ValType, numbers: &mut Numbers) -> Option<Val> {
    let word = numbers.next();
    // Small numbers lead somewhere more often.
    let number = if word & 3 == 0 { numbers.next() } else { numbers.below(20) };
    Some(match ty {
        ValType::I32 => Val::I32(number as i32),
        ValType::I64 => Val::I64(number as i64),
        ValType::F32 => Val::F32((number as f32 * 0.75).to_bits()),
        ValType::F64 => Val::F64((number as f64 * 0.75).to_bits()),
        ValType::V128 => Val::V128((number as u128 | (word as u128) << 64).into()),
        ValType::Ref(ty) if ty.is_nullable() => Val::null_ref(ty.heap_type()),
        ValType::Ref(_) => return None,
    })
}

/// The functions to call, with their arguments; the same ones for every run.
fn calls(module: &Module, seed: u64) -> Vec<(String, Vec<Val>, usize)> {
    let mut numbers = Numbers(seed ^ 0x5eed);
    let mut found = vec![];
    for export in module.exports() {
        let ExternType::Func(ty) = export.ty() else { continue };
        let arguments: Option<Vec<Val>> = ty.params().map(|ty| argument(&ty, &mut numbers)).collect();
        let Some(arguments) = arguments else { continue };
        if found.len() < CALLS_MAX && !export.name().starts_with("freeze:") {
            found.push((export.name().to_string(), arguments, ty.results().len()));
        }
    }
    found
}

/// Globals, memories and tables, by the names of the original's exports.
fn observe(
    module: &Module, mut export: impl FnMut(&mut Store<Host>, &str) -> Extern, store: &mut Store<Host>,
) -> Vec<String> {
    let mut functions: HashMap<usize, String> = HashMap::new();
    for name in module.exports().filter(|e| matches!(e.ty(), ExternType::Func(_))).map(|e| e.name().to_string()) {
        let function = export(store, &name).into_func().unwrap();
        functions.entry(function.to_raw(&mut *store) as usize).or_insert(name);
    }
    let named = |store: &mut Store<Host>, function: Option<Func>| match function {
        None => "null".to_string(),
        Some(function) => functions.get(&(function.to_raw(&mut *store) as usize)).cloned().unwrap_or("another".into()),
    };
    let mut seen = vec![];
    for name in module.exports().map(|export| export.name().to_string()) {
        match export(store, &name) {
            Extern::Global(global) => {
                let text = match global.get(&mut *store) {
                    Val::FuncRef(function) => named(store, function),
                    value => bits(&value),
                };
                seen.push(format!("global {name:?} {text}"));
            }
            Extern::Memory(memory) => {
                let data = memory.data(&*store);
                seen.push(format!("memory {name:?} {} {}", data.len(), blake3::hash(data)));
            }
            Extern::Table(table) => {
                let mut entries = vec![];
                for entry in 0..table.size(&*store) {
                    entries.push(match table.get(&mut *store, entry) {
                        Some(Ref::Func(function)) => named(store, function),
                        Some(other) => if other.is_null() { "null" } else { "reference" }.into(),
                        None => "nothing".into(),
                    });
                }
                seen.push(format!("table {name:?} {entries:?}"));
            }
            _ => {}
        }
    }
    seen
}

fn plain(engine: &Engine, module: &Module, seed: u64) -> Outcome {
    let mut store = new_store(engine, Host::default());
    let mut linker = linker(engine, module);
    define_objects(&mut linker, &mut store);
    let mut outcome = Outcome::default();
    let instance = match linker.instantiate(&mut store, module) {
        Ok(instance) => instance,
        Err(error) => {
            outcome.events = std::mem::take(&mut store.data_mut().events);
            outcome.events.push(failure(&error));
            return outcome;
        }
    };
    for (name, arguments, results) in calls(module, seed) {
        let mut results = vec![Val::I32(0); results];
        let function = instance.get_func(&mut store, &name).unwrap();
        let event = match function.call(&mut store, &arguments, &mut results) {
            Ok(()) => format!("returned {:?}", results.iter().map(bits).collect::<Vec<_>>()),
            Err(error) => failure(&error),
        };
        store.data_mut().events.push(event);
    }
    outcome.events = std::mem::take(&mut store.data_mut().events);
    let export = |store: &mut Store<Host>, name: &str| instance.get_export(store, name).unwrap();
    outcome.state = observe(module, export, &mut store);
    outcome
}

/// A run that is stopped at every `every`-th poll (zero: never), going round the programs, one for each engine.
struct Chain<'e> {
    engines: &'e [Engine],
    programs: &'e [Program],
    linkers: Vec<Linker<Host>>,
    store: Store<Host>,
    process: Process,
    every: i64,
    hops: usize,
}

impl Chain<'_> {
    fn run_on(&mut self, mut exit: Exit, results: &mut [Val]) -> Result<(), Error> {
        let mut stops = 0u32;
        while exit == Exit::Frozen {
            stops += 1;
            self.hops += 1;
            if let Some(values) = self.store.data_mut().arrived.take() {
                self.process.complete_host_call(&mut self.store, &values)?;
            } else if self.hops % 5 != 4 {
                self.hop()?;
            }
            let doublings = (stops.saturating_sub(STOPS_AT_ONE_DISTANCE) / STOPS_PER_DOUBLING).min(40);
            // After a stop at a poll, the first poll is that one again.
            self.process
                .set_countdown(&mut self.store, if self.every == 0 { 0 } else { (self.every << doublings) + 1 })?;
            exit = self.process.resume(&mut self.store, results)?;
        }
        Ok(())
    }

    /// Into an image, and out of it in a fresh store.
    fn hop(&mut self) -> Result<(), Error> {
        let image = self.process.capture(&mut self.store, vec![], Pages::Included, BTreeMap::new())?;
        let to = self.hops % self.programs.len();
        let host = std::mem::take(self.store.data_mut());
        self.store = new_store(&self.engines[to], host);
        define_objects(&mut self.linkers[to], &mut self.store);
        self.process = self.programs[to].thaw(&mut self.store, &self.linkers[to], &image[..])?.process;
        Ok(())
    }

    fn call(&mut self, name: &str, arguments: &[Val], results: &mut [Val]) -> Result<(), Error> {
        self.process.set_countdown(&mut self.store, self.every)?;
        let exit = self.process.call(&mut self.store, name, arguments, results)?;
        self.run_on(exit, results)
    }
}

fn chain(
    engines: &[Engine], original: &Module, programs: &[Program], seed: u64, every: i64, counts: &mut Counts,
) -> Outcome {
    let mut linkers: Vec<Linker<Host>> = engines.iter().map(|engine| linker(engine, original)).collect();
    let mut store = new_store(&engines[0], Host { interrupts: every != 0, ..Host::default() });
    define_objects(&mut linkers[0], &mut store);
    let mut outcome = Outcome::default();
    let process = match programs[0].instantiate(&mut store, &linkers[0]) {
        Ok(process) => process,
        Err(error) => {
            outcome.events.push(failure(&error));
            return outcome;
        }
    };
    let mut chain = Chain { engines, programs, linkers, store, process, every, hops: 0 };
    let counted = programs[0].map().options.poll == Poll::Countdown;
    let started = (|| {
        if counted {
            chain.process.set_countdown(&mut chain.store, every)?;
        }
        let exit = chain.process.start(&mut chain.store)?;
        chain.run_on(exit, &mut [])
    })();
    if let Err(error) = started {
        outcome.events = std::mem::take(&mut chain.store.data_mut().events);
        outcome.events.push(failure(&error));
        return outcome;
    }
    for (name, arguments, results) in calls(original, seed) {
        let mut results = vec![Val::I32(0); results];
        let end = match counted {
            true => chain.call(&name, &arguments, &mut results),
            false => chain.process.call(&mut chain.store, &name, &arguments, &mut results).map(|_| ()),
        };
        counts.calls += 1;
        counts.returned += end.is_ok() as usize;
        let event = match end {
            Ok(()) => format!("returned {:?}", results.iter().map(bits).collect::<Vec<_>>()),
            Err(error) => failure(&error),
        };
        chain.store.data_mut().events.push(event);
        chain.store.data_mut().again = false;
        chain.store.data_mut().arrived = None;
    }
    let host = std::mem::take(chain.store.data_mut());
    outcome.events = host.events;
    counts.interrupted += host.interrupted;
    counts.completed += host.completed;
    counts.hops += chain.hops;
    let instance = chain.process.instance();
    let export = |store: &mut Store<Host>, name: &str| instance.get_export(store, name).unwrap();
    outcome.state = observe(original, export, &mut chain.store);
    outcome
}

/// Where two outcomes differ first.
fn difference(expected: &Outcome, found: &Outcome) -> String {
    let pairs = [(&expected.events, &found.events), (&expected.state, &found.state)];
    for (expected, found) in pairs {
        for index in 0..expected.len().max(found.len()) {
            let (expected, found) = (expected.get(index), found.get(index));
            if expected != found {
                return format!("at {index}: {found:?} instead of {expected:?}");
            }
        }
    }
    "nowhere".into()
}

/// Runs a program in all ways; an error says how one of them differs. `distances` are numbers of polls between stops.
pub fn check(engines: &[Engine], wasm: &[u8], seed: u64, distances: &[i64], counts: &mut Counts) -> Result<(), String> {
    let engine = &engines[0];
    let module = Module::new(engine, wasm).map_err(|error| format!("wasmtime does not take the program: {error:#}"))?;
    let mut programs: HashMap<(Poll, Entry), Vec<Program>> = HashMap::new();
    for options in [
        Options { poll: Poll::Flag, entry: Entry::Cycles },
        Options { poll: Poll::Countdown, entry: Entry::Cycles },
        Options { poll: Poll::Countdown, entry: Entry::Every },
    ] {
        let engines = if options.poll == Poll::Flag { &engines[..1] } else { engines };
        for engine in engines {
            match Program::new(engine, wasm, &options) {
                Ok(program) => programs.entry((options.poll, options.entry)).or_default().push(program),
                Err(ProgramError::Rewrite(
                    RewriteError::Unsupported { construct, .. } | RewriteError::UnsupportedModule { construct },
                )) => {
                    let words =
                        construct.split(' ').filter(|word| !word.ends_with(|c: char| c.is_ascii_digit() || c == ','));
                    *counts.refused.entry(words.collect::<Vec<_>>().join(" ")).or_default() += 1;
                    return Ok(());
                }
                Err(error) => return Err(format!("{options:?}: {error}")),
            }
        }
    }
    let expected = plain(engine, &module, seed);
    counts.programs += 1;
    let hops = counts.hops;
    let mut compare = |programs: &[Program], entry: Entry, every: i64| {
        let found = chain(&engines[..programs.len()], &module, programs, seed, every, counts);
        if found == expected {
            return Ok(());
        }
        Err(format!("entry {entry:?}, stopped at every poll {every}: {}", difference(&expected, &found)))
    };
    compare(&programs[&(Poll::Flag, Entry::Cycles)], Entry::Cycles, 0)?;
    for every in distances {
        compare(&programs[&(Poll::Countdown, Entry::Every)], Entry::Every, *every)?;
        compare(&programs[&(Poll::Countdown, Entry::Cycles)], Entry::Cycles, *every)?;
    }
    counts.stopped += (counts.hops > hops) as usize;
    Ok(())
}
