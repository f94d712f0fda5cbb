//! Runs scripts of the official test suite on wasmtime, directive by directive, and says what happened at each. Knows nothing
//! of which scripts there are or what they ought to say.
//!
//! A script runs in one of three ways: as it is, rewritten, or rewritten and stopped again and again; each time it is captured
//! and goes on in a fresh store. Instances that are linked to each other share memories and tables, so they must share a store:
//! they form an *island*. An island of one instance can be stopped; one of several is rewritten all the same but never asked to
//! stop, because a call from one instance into another cannot be part of one program's image.

use freeze::{Exit, Options, Pages, Process, Program, ProgramError, RewriteError};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use wasmtime::{
    AnyRef, Caller, Engine, Error, Extern, ExternRef, Global, GlobalType, Instance, Linker, Memory, MemoryType, Module,
    Mutability, Ref, RefType, SharedMemory, Store, Table, TableType, ThrownException, Trap, V128, Val, ValType,
};
use wast::core::{NanPattern, V128Pattern, WastArgCore, WastRetCore};
use wast::{QuoteWat, Wast, WastArg, WastDirective, WastExecute, WastInvoke, WastRet};

/// How the modules of a script are run.
#[derive(Debug, Clone)]
pub enum Way {
    Plain,
    Rewritten(Options),
    /// Stopped at each `every`-th poll, counted over all of an instance's calls; and once in each host call.
    Stopping {
        options: Options,
        every: i64,
    },
}

/// What happened at one directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub line: usize,
    /// Did what the script asserts come true?
    pub holds: bool,
    pub outcome: String,
}

#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub calls: usize,
    /// Calls of an instance that is alone on its island.
    pub stoppable_calls: usize,
    /// Calls that were stopped at least once.
    pub stopped_calls: usize,
    pub hops: usize,
    /// Host calls that were interrupted and issued again.
    pub interrupted: usize,
    /// Modules that cannot be frozen and ran as they are: construct, with numbers left out.
    pub refused: BTreeMap<String, usize>,
}

#[derive(Debug, Default)]
pub struct Report {
    pub verdicts: Vec<Verdict>,
    pub counts: Counts,
    /// Which instances (by the order of instantiation) share a store.
    pub islands: Islands,
}

/// A partition of a script's instances; `spectest` with its memory and table is one more, the last.
#[derive(Debug, Default, Clone)]
pub struct Islands {
    parent: Vec<usize>,
    spectest: BTreeSet<usize>,
}

impl Islands {
    fn of(&mut self, instance: usize) -> usize {
        while self.parent.len() <= instance {
            self.parent.push(self.parent.len());
        }
        let mut root = instance;
        while self.parent[root] != root {
            root = self.parent[root];
        }
        root
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.of(a), self.of(b));
        self.parent[a.max(b)] = a.min(b);
    }

    fn uses_spectest(&mut self, instance: usize) {
        self.of(instance);
        if let Some(other) = self.spectest.first().copied() {
            self.join(instance, other);
        }
        self.spectest.insert(instance);
    }

    fn is_alone(&mut self, instance: usize) -> bool {
        let root = self.of(instance);
        (0..self.parent.len()).filter(|other| self.of(*other) == root).count() == 1
    }
}

/// After this many stops in one call the distance between stops doubles every few stops, so that a call of any length ends.
const STOPS_AT_ONE_DISTANCE: u32 = 48;
const STOPS_PER_DOUBLING: u32 = 6;

/// What instances see of the host.
#[derive(Default)]
pub struct Host {
    printed: Vec<String>,
    /// Interrupt each host call once before it is answered?
    interrupts: bool,
    again: bool,
    interrupted: usize,
}

/// The compiled modules of one script, kept for several runs of it.
#[derive(Default)]
pub struct Compiled {
    known: HashMap<(usize, bool, Vec<u8>), Result<Form, Rejected>>,
}

#[derive(Clone)]
enum Form {
    Plain(Module),
    Program(Program),
}

#[derive(Clone)]
struct Rejected {
    message: String,
}

enum Running {
    Plain(Instance),
    Process(Box<Process>),
}

impl Running {
    fn instance(&self) -> Instance {
        match self {
            Running::Plain(instance) => *instance,
            Running::Process(process) => process.instance(),
        }
    }
}

struct Island {
    store: Store<Host>,
    /// Objects of `spectest` that live in this store, made when first imported.
    spectest: HashMap<String, Extern>,
}

struct Slot {
    island: usize,
    running: Running,
    /// Which form of it runs, by engine, so that it can go on on another one.
    wasm: Vec<u8>,
    hops: usize,
}

struct Run<'e> {
    engines: &'e [Engine],
    linkers: Vec<Linker<Host>>,
    way: &'e Way,
    compiled: &'e mut Compiled,
    islands: Islands,
    /// Islands are known only after the plain run, which has all in one store.
    known_islands: Option<Islands>,
    stores: HashMap<usize, Island>,
    slots: HashMap<usize, Slot>,
    instances: usize,
    current: Option<usize>,
    named: HashMap<String, usize>,
    registered: HashMap<String, usize>,
    definitions: HashMap<String, Vec<u8>>,
    definition: Option<Vec<u8>>,
    counts: Counts,
}

/// Lets an engine accept whatever a script of the suite may use.
pub fn accept_all(config: &mut wasmtime::Config) -> &mut wasmtime::Config {
    freeze::configure(config)
        .wasm_gc(true)
        .wasm_reference_types(true)
        .wasm_bulk_memory(true)
        .wasm_multi_value(true)
        .wasm_memory64(true)
        .wasm_extended_const(true)
        .wasm_custom_page_sizes(true)
        .wasm_wide_arithmetic(true)
        .parallel_compilation(false)
}

/// Runs a script. The first engine is the one that instances start on; stopped ones go round all of them. `islands` come from
/// the report of a plain run.
pub fn run(
    text: &str, engines: &[Engine], way: &Way, compiled: &mut Compiled, islands: Option<&Islands>,
) -> Result<Report, wast::Error> {
    let mut lexer = wast::lexer::Lexer::new(text);
    lexer.allow_confusing_unicode(true);
    let buffer = wast::parser::ParseBuffer::new_with_lexer(lexer)?;
    let script: Wast = wast::parser::parse(&buffer)?;
    let mut run = Run {
        engines,
        linkers: engines.iter().map(prints).collect(),
        way,
        compiled,
        islands: Islands::default(),
        known_islands: islands.cloned(),
        stores: HashMap::new(),
        slots: HashMap::new(),
        instances: 0,
        current: None,
        named: HashMap::new(),
        registered: HashMap::new(),
        definitions: HashMap::new(),
        definition: None,
        counts: Counts::default(),
    };
    let mut verdicts = vec![];
    for directive in script.directives {
        let line = directive.span().linecol_in(text).0 + 1;
        let (holds, outcome) = run.directive(directive);
        verdicts.push(Verdict { line, holds, outcome });
    }
    run.counts.interrupted = run.stores.values().map(|island| island.store.data().interrupted).sum();
    Ok(Report { verdicts, counts: run.counts, islands: run.islands })
}

/// The functions of `spectest`.
fn prints(engine: &Engine) -> Linker<Host> {
    let mut linker: Linker<Host> = Linker::new(engine);
    linker.allow_shadowing(true);
    fn print(caller: &mut Caller<'_, Host>, what: String) -> Result<(), Error> {
        let host = caller.data_mut();
        if host.interrupts && !host.again {
            host.again = true;
            host.interrupted += 1;
            return freeze::interrupt(caller);
        }
        host.again = false;
        host.printed.push(what);
        Ok(())
    }
    let define = |linker: &mut Linker<Host>| -> Result<(), Error> {
        linker.func_wrap("spectest", "print", |mut c: Caller<'_, Host>| print(&mut c, String::new()))?;
        linker.func_wrap("spectest", "print_i32", |mut c: Caller<'_, Host>, a: i32| print(&mut c, format!("{a}")))?;
        linker.func_wrap("spectest", "print_i64", |mut c: Caller<'_, Host>, a: i64| print(&mut c, format!("{a}")))?;
        linker.func_wrap("spectest", "print_f32", |mut c: Caller<'_, Host>, a: f32| print(&mut c, format!("{a}")))?;
        linker.func_wrap("spectest", "print_f64", |mut c: Caller<'_, Host>, a: f64| print(&mut c, format!("{a}")))?;
        linker.func_wrap("spectest", "print_i32_f32", |mut c: Caller<'_, Host>, a: i32, b: f32| {
            print(&mut c, format!("{a} {b}"))
        })?;
        linker.func_wrap("spectest", "print_f64_f64", |mut c: Caller<'_, Host>, a: f64, b: f64| {
            print(&mut c, format!("{a} {b}"))
        })?;
        Ok(())
    };
    define(&mut linker).expect("each name is defined once");
    linker
}

/// Memories, tables and globals of `spectest` live in a store; `None` if there is no such thing or it is a function.
fn spectest_object(store: &mut Store<Host>, name: &str) -> Option<Extern> {
    let mut global = |ty: ValType, value: Val| {
        let ty = GlobalType::new(ty, Mutability::Const);
        Some(Global::new(&mut *store, ty, value).expect("the value is of the type").into())
    };
    match name {
        "global_i32" => global(ValType::I32, Val::I32(666)),
        "global_i64" => global(ValType::I64, Val::I64(666)),
        "global_f32" => global(ValType::F32, Val::F32(666.6f32.to_bits())),
        "global_f64" => global(ValType::F64, Val::F64(666.6f64.to_bits())),
        "table" => {
            let ty = TableType::new(RefType::FUNCREF, 10, Some(20));
            Some(Table::new(store, ty, Ref::Func(None)).expect("a small table").into())
        }
        "table64" => {
            let ty = TableType::new64(RefType::FUNCREF, 10, Some(20));
            Some(Table::new(store, ty, Ref::Func(None)).expect("a small table").into())
        }
        "memory" => Some(Memory::new(store, MemoryType::new(1, Some(2))).expect("a small memory").into()),
        "shared_memory" => {
            Some(SharedMemory::new(store.engine(), MemoryType::shared(1, 2)).expect("a small memory").into())
        }
        _ => None,
    }
}

/// How something ended that is neither a value nor a refusal.
fn failure(error: &Error) -> String {
    match error.downcast_ref::<Trap>() {
        Some(trap) => format!("trap: {trap}"),
        None if error.is::<ThrownException>() => "exception".to_string(),
        None => format!("error: {error:#}"),
    }
}

/// The construct of a refusal, with its numbers left out.
fn construct(error: &RewriteError) -> String {
    let construct = match error {
        RewriteError::Invalid { message, .. } => message,
        RewriteError::Unsupported { construct, .. } | RewriteError::UnsupportedModule { construct } => construct,
    };
    let mut text = String::new();
    for word in construct.split(' ') {
        let number = word.trim_end_matches(',').parse::<u64>().is_ok();
        text.push_str(if text.is_empty() { "" } else { " " });
        text.push_str(if number { "#" } else { word });
    }
    text
}

impl Run<'_> {
    fn directive(&mut self, directive: WastDirective) -> (bool, String) {
        match directive {
            WastDirective::Module(mut module) => {
                let name = module.name().map(|id| id.name().to_string());
                let wasm = match module.encode() {
                    Ok(wasm) => wasm,
                    Err(_) => return (false, "malformed text".into()),
                };
                self.definition = Some(wasm.clone());
                if let Some(name) = &name {
                    self.definitions.insert(name.clone(), wasm.clone());
                }
                let outcome = self.instantiate(name, wasm);
                (outcome == "instantiated", outcome)
            }
            WastDirective::ModuleDefinition(mut module) => {
                let name = module.name().map(|id| id.name().to_string());
                let wasm = match module.encode() {
                    Ok(wasm) => wasm,
                    Err(_) => return (false, "malformed text".into()),
                };
                self.definition = Some(wasm.clone());
                if let Some(name) = name {
                    self.definitions.insert(name, wasm.clone());
                }
                match self.compile(0, &wasm) {
                    Ok(_) => (true, "accepted".into()),
                    Err(_) => (false, "rejected".into()),
                }
            }
            WastDirective::ModuleInstance { instance, module, .. } => {
                let wasm = match module {
                    Some(id) => self.definitions.get(id.name()).cloned(),
                    None => self.definition.clone(),
                };
                let Some(wasm) = wasm else { return (false, "no such module".into()) };
                let outcome = self.instantiate(instance.map(|id| id.name().to_string()), wasm);
                (outcome == "instantiated", outcome)
            }
            WastDirective::AssertMalformed { module, .. }
            | WastDirective::AssertInvalid { module, .. }
            | WastDirective::AssertInvalidCustom { module, .. }
            | WastDirective::AssertMalformedCustom { module, .. } => self.assert_rejected(module),
            WastDirective::Register { name, module, .. } => {
                let instance = match module {
                    Some(id) => self.named.get(id.name()).copied(),
                    None => self.current,
                };
                match instance {
                    Some(instance) => {
                        self.registered.insert(name.to_string(), instance);
                        (true, "registered".into())
                    }
                    None => (false, "no such instance".into()),
                }
            }
            WastDirective::Invoke(invoke) => match self.invoke(&invoke, &[]) {
                Ok((outcome, _)) => (true, outcome),
                Err(outcome) => (false, outcome),
            },
            WastDirective::AssertReturn { exec, results, .. } => match self.execute(exec, &results) {
                Ok((outcome, matches)) => (matches, outcome),
                Err(outcome) => (false, outcome),
            },
            WastDirective::AssertTrap { exec, .. } => match self.execute(exec, &[]) {
                Ok((outcome, _)) => (false, outcome),
                Err(outcome) => (outcome.starts_with("trap: "), outcome),
            },
            WastDirective::AssertExhaustion { call, .. } => match self.invoke(&call, &[]) {
                Ok((outcome, _)) => (false, outcome),
                Err(outcome) => (outcome == format!("trap: {}", Trap::StackOverflow), outcome),
            },
            WastDirective::AssertException { exec, .. } => match self.execute(exec, &[]) {
                Ok((outcome, _)) => (false, outcome),
                Err(outcome) => (outcome == "exception", outcome),
            },
            WastDirective::AssertUnlinkable { module, .. } => {
                let mut module = QuoteWat::Wat(module);
                match module.encode() {
                    Ok(wasm) => {
                        let outcome = self.instantiate_apart(wasm);
                        (outcome == "unlinkable", outcome)
                    }
                    Err(_) => (false, "malformed text".into()),
                }
            }
            // No file of the suite has these; should one appear, it does not hold and is noticed.
            WastDirective::AssertSuspension { .. } | WastDirective::Thread(_) | WastDirective::Wait { .. } => {
                (false, "not run".into())
            }
        }
    }

    fn assert_rejected(&mut self, mut module: QuoteWat) -> (bool, String) {
        match module.encode() {
            Err(_) => (true, "rejected".into()),
            Ok(wasm) => match self.compile(0, &wasm) {
                Ok(_) => (false, "accepted".into()),
                Err(_) => (true, "rejected".into()),
            },
        }
    }

    fn execute(&mut self, exec: WastExecute, expected: &[WastRet]) -> Result<(String, bool), String> {
        match exec {
            WastExecute::Invoke(invoke) => self.invoke(&invoke, expected),
            WastExecute::Wat(module) => {
                let wasm = QuoteWat::Wat(module).encode().map_err(|_| "malformed text".to_string())?;
                match self.instantiate_apart(wasm) {
                    outcome if outcome == "instantiated" => Ok((outcome, expected.is_empty())),
                    outcome => Err(outcome),
                }
            }
            WastExecute::Get { module, global, .. } => {
                let slot = self.slot(module.map(|id| id.name().to_string())).ok_or("no such instance")?;
                let Slot { island, running, .. } = &self.slots[&slot];
                let store = &mut self.stores.get_mut(island).expect("a slot's island exists").store;
                let global = running.instance().get_global(&mut *store, global).ok_or("no such global")?;
                let value = global.get(&mut *store);
                Ok(judge(store, &[value], expected))
            }
        }
    }

    fn slot(&self, name: Option<String>) -> Option<usize> {
        match name {
            Some(name) => self.named.get(&name).copied(),
            None => self.current,
        }
    }

    /// The module in the form that this way of running asks for.
    fn compile(&mut self, engine: usize, wasm: &[u8]) -> Result<Form, Rejected> {
        let rewritten = !matches!(self.way, Way::Plain);
        let key = (engine, rewritten, wasm.to_vec());
        if let Some(known) = self.compiled.known.get(&key) {
            return known.clone();
        }
        let engine = &self.engines[engine];
        let plain = || match Module::new(engine, wasm) {
            Ok(module) => Ok(Form::Plain(module)),
            Err(error) => Err(Rejected { message: format!("{error:#}") }),
        };
        let form = match self.way {
            Way::Plain => plain(),
            Way::Rewritten(options) | Way::Stopping { options, .. } => match Program::new(engine, wasm, options) {
                Ok(program) => Ok(Form::Program(program)),
                Err(ProgramError::Rewrite(RewriteError::Invalid { message, .. })) => Err(Rejected { message }),
                Err(ProgramError::Rewrite(error)) => {
                    let form = plain();
                    if form.is_ok() {
                        *self.counts.refused.entry(construct(&error)).or_default() += 1;
                    }
                    form
                }
                Err(error) => Err(Rejected { message: error.to_string() }),
            },
        };
        self.compiled.known.insert(key, form.clone());
        form
    }

    /// Instantiates a module that later directives speak of.
    fn instantiate(&mut self, name: Option<String>, wasm: Vec<u8>) -> String {
        let index = self.instances;
        let outcome = self.instantiate_apart(wasm);
        if outcome == "instantiated" {
            self.current = Some(index);
            if let Some(name) = name {
                self.named.insert(name, index);
            }
        }
        outcome
    }

    fn instantiate_apart(&mut self, wasm: Vec<u8>) -> String {
        let index = self.instances;
        self.instances += 1;
        let form = match self.compile(0, &wasm) {
            Ok(form) => form,
            Err(_) => return "rejected".into(),
        };
        let module = match &form {
            Form::Plain(module) => module.clone(),
            Form::Program(program) => program.module().clone(),
        };
        let island = match &mut self.known_islands {
            Some(islands) => islands.of(index),
            None => 0,
        };
        self.islands.of(index);
        let mut linker = self.linkers[0].clone();
        let engine = &self.engines[0];
        let interrupts = matches!(self.way, Way::Stopping { .. })
            && self.known_islands.as_mut().is_some_and(|islands| islands.is_alone(index));
        let stored = self.stores.entry(island).or_insert_with(|| Island {
            store: Store::new(engine, Host { interrupts, ..Host::default() }),
            spectest: HashMap::new(),
        });
        for import in module.imports() {
            let item = if import.module() == "spectest" {
                let item = match stored.spectest.get(import.name()) {
                    Some(item) => Some(item.clone()),
                    None => spectest_object(&mut stored.store, import.name()),
                };
                if let Some(item) = &item {
                    if !matches!(item, Extern::Global(_)) {
                        self.islands.uses_spectest(index);
                    }
                    stored.spectest.insert(import.name().to_string(), item.clone());
                }
                item
            } else if let Some(from) = self.registered.get(import.module()).copied() {
                self.islands.join(index, from);
                let slot = &self.slots[&from];
                if slot.island != island {
                    return "linked to an instance that was not expected".into();
                }
                slot.running.instance().get_export(&mut stored.store, import.name())
            } else {
                None
            };
            if let Some(item) = item {
                linker
                    .define(&stored.store, import.module(), import.name(), item)
                    .expect("what the linker has may be replaced");
            }
        }
        let running = match &form {
            Form::Plain(module) => linker.instantiate(&mut stored.store, module).map(Running::Plain),
            Form::Program(program) => {
                program.instantiate(&mut stored.store, &linker).map(|process| Running::Process(Box::new(process)))
            }
        };
        let running = match running {
            Ok(running) => running,
            Err(error) => match failure(&error) {
                // Neither a trap nor an exception: an import did not fit.
                outcome if outcome.starts_with("error: ") => return "unlinkable".into(),
                outcome => return outcome,
            },
        };
        self.slots.insert(index, Slot { island, running, wasm, hops: 0 });
        if let Form::Program(_) = form
            && let Err(error) = self.drive(index, &mut [], |process, store, _| process.start(store))
        {
            return failure(&error);
        }
        "instantiated".into()
    }

    fn invoke(&mut self, invoke: &WastInvoke, expected: &[WastRet]) -> Result<(String, bool), String> {
        let index = self.slot(invoke.module.map(|id| id.name().to_string())).ok_or("no such instance")?;
        let Slot { island, running, .. } = &self.slots[&index];
        let store = &mut self.stores.get_mut(island).expect("a slot's island exists").store;
        let function = running.instance().get_func(&mut *store, invoke.name).ok_or("no such function")?;
        let ty = function.ty(&*store);
        if ty.params().len() != invoke.args.len() {
            return Err("the arguments are not those of the function".into());
        }
        let mut arguments = vec![];
        for (argument, ty) in invoke.args.iter().zip(ty.params()) {
            arguments.push(value_of(store, argument, &ty)?);
        }
        let mut results = vec![Val::I32(0); ty.results().len()];
        self.counts.calls += 1;
        let outcome = if matches!(running, Running::Plain(_)) {
            function.call(&mut *store, &arguments, &mut results)
        } else {
            self.drive(index, &mut results, |process, store, results| {
                process.call(store, invoke.name, &arguments, results)
            })
        };
        outcome.map_err(|error| failure(&error))?;
        let store = &mut self.stores.get_mut(&self.slots[&index].island).expect("a slot's island exists").store;
        let printed = std::mem::take(&mut store.data_mut().printed);
        let (mut outcome, matches) = judge(store, &results, expected);
        if !printed.is_empty() {
            outcome.push_str(&format!(", printed {printed:?}"));
        }
        Ok((outcome, matches))
    }

    /// Begins a call and carries it to its end, over as many stops as the way of running asks for.
    fn drive(
        &mut self, index: usize, results: &mut [Val],
        begin: impl FnOnce(&mut Process, &mut Store<Host>, &mut [Val]) -> Result<Exit, Error>,
    ) -> Result<(), Error> {
        let alone = self.known_islands.as_mut().is_some_and(|islands| islands.is_alone(index));
        let every = match self.way {
            Way::Stopping { every, .. } if alone => *every,
            _ => {
                let slot = self.slots.get_mut(&index).expect("the caller names a slot");
                let Running::Process(process) = &mut slot.running else { unreachable!("the caller has looked") };
                let store = &mut self.stores.get_mut(&slot.island).expect("a slot's island exists").store;
                return match begin(process, store, results)? {
                    Exit::Returned => Ok(()),
                    Exit::Frozen => Err(Error::msg("it stopped though nobody asked")),
                };
            }
        };
        let wasm = self.slots[&index].wasm.clone();
        let mut programs = vec![];
        for engine in 0..self.engines.len() {
            match self.compile(engine, &wasm) {
                Ok(Form::Program(program)) => programs.push(program),
                _ => return Err(Error::msg("one engine takes the program and another does not")),
            }
        }
        let slot = self.slots.get_mut(&index).expect("the caller names a slot");
        let Running::Process(process) = &mut slot.running else { unreachable!("the caller has looked") };
        let stored = self.stores.get_mut(&slot.island).expect("a slot's island exists");
        self.counts.stoppable_calls += 1;
        // What is left of the distance carries over from call to call.
        let left = countdown(process, &mut stored.store);
        if left <= 0 || left > every {
            process.set_countdown(&mut stored.store, every)?;
        }
        let mut exit = begin(process, &mut stored.store, results)?;
        let mut stops = 0;
        while exit == Exit::Frozen {
            stops += 1;
            self.counts.stopped_calls += (stops == 1) as usize;
            self.counts.hops += 1;
            slot.hops += 1;
            let doublings = stops.max(STOPS_AT_ONE_DISTANCE).abs_diff(STOPS_AT_ONE_DISTANCE) / STOPS_PER_DOUBLING;
            let left = countdown(process, &mut stored.store);
            // After a stop at a poll, the first poll is that one again; a host call that is issued again polls nothing.
            let next = if left == 0 { (every << doublings) + 1 } else { left };
            if slot.hops % 5 != 4 {
                let image = process.capture(&mut stored.store, vec![], Pages::Included, BTreeMap::new())?;
                let to = slot.hops % programs.len();
                let host = std::mem::take(stored.store.data_mut());
                let mut store = Store::new(&self.engines[to], host);
                let mut linker = self.linkers[to].clone();
                stored.spectest.clear();
                for import in programs[to].module().imports().filter(|import| import.module() == "spectest") {
                    if let Some(item) = spectest_object(&mut store, import.name()) {
                        linker.define(&store, "spectest", import.name(), item.clone())?;
                        stored.spectest.insert(import.name().to_string(), item);
                    }
                }
                **process = programs[to].thaw(&mut store, &linker, &image[..])?.process;
                stored.store = store;
            }
            process.set_countdown(&mut stored.store, next)?;
            exit = process.resume(&mut stored.store, results)?;
        }
        Ok(())
    }
}

fn countdown(process: &Process, store: &mut Store<Host>) -> i64 {
    let global = process.instance().get_global(&mut *store, "freeze:countdown").expect("rewritten with a countdown");
    global.get(store).unwrap_i64()
}

// Values.

fn value_of(store: &mut Store<Host>, argument: &WastArg, ty: &ValType) -> Result<Val, String> {
    let WastArg::Core(argument) = argument else { return Err("a component's value".into()) };
    Ok(match argument {
        WastArgCore::I32(value) => Val::I32(*value),
        WastArgCore::I64(value) => Val::I64(*value),
        WastArgCore::F32(value) => Val::F32(value.bits),
        WastArgCore::F64(value) => Val::F64(value.bits),
        WastArgCore::V128(value) => Val::V128(u128::from_le_bytes(value.to_le_bytes()).into()),
        WastArgCore::RefNull(_) => match ty {
            ValType::Ref(ty) => Val::null_ref(ty.heap_type()),
            _ => return Err("null for a number".into()),
        },
        WastArgCore::RefExtern(value) => {
            Val::ExternRef(Some(ExternRef::new(&mut *store, *value).map_err(|error| failure(&error))?))
        }
        WastArgCore::RefHost(value) => {
            let value = ExternRef::new(&mut *store, *value).map_err(|error| failure(&error))?;
            Val::AnyRef(Some(AnyRef::convert_extern(&mut *store, value).map_err(|error| failure(&error))?))
        }
    })
}

/// The values as text, and whether they are what is expected. NaNs are all the same in the text.
fn judge(store: &mut Store<Host>, values: &[Val], expected: &[WastRet]) -> (String, bool) {
    let mut texts = vec![];
    let mut matches = values.len() == expected.len();
    for (index, value) in values.iter().enumerate() {
        let expected = match expected.get(index) {
            Some(WastRet::Core(expected)) => Some(expected),
            _ => None,
        };
        texts.push(text_of(store, value, expected));
        matches &= expected.is_some_and(|expected| is(store, value, expected));
    }
    (format!("returned [{}]", texts.join(", ")), matches)
}

fn text_of(store: &mut Store<Host>, value: &Val, expected: Option<&WastRetCore>) -> String {
    match value {
        Val::I32(value) => format!("i32 {value}"),
        Val::I64(value) => format!("i64 {value}"),
        Val::F32(bits) if f32::from_bits(*bits).is_nan() => "f32 nan".into(),
        Val::F32(bits) => format!("f32 {bits:#x}"),
        Val::F64(bits) if f64::from_bits(*bits).is_nan() => "f64 nan".into(),
        Val::F64(bits) => format!("f64 {bits:#x}"),
        Val::V128(value) => {
            let mut lanes = value.as_u128().to_le_bytes();
            if expected.is_some_and(|expected| has_lanes(expected, |p| matches!(p, V128Pattern::F32x4(_)))) {
                for lane in lanes.chunks_exact_mut(4) {
                    if f32::from_le_bytes(lane.try_into().expect("four bytes")).is_nan() {
                        lane.copy_from_slice(&f32::NAN.to_le_bytes());
                    }
                }
            }
            if expected.is_some_and(|expected| has_lanes(expected, |p| matches!(p, V128Pattern::F64x2(_)))) {
                for lane in lanes.chunks_exact_mut(8) {
                    if f64::from_le_bytes(lane.try_into().expect("eight bytes")).is_nan() {
                        lane.copy_from_slice(&f64::NAN.to_le_bytes());
                    }
                }
            }
            format!("v128 {:#x}", u128::from_le_bytes(lanes))
        }
        Val::FuncRef(None) | Val::ExternRef(None) | Val::AnyRef(None) | Val::ExnRef(None) | Val::ContRef(None) => {
            "null".into()
        }
        Val::FuncRef(Some(_)) => "a function".into(),
        Val::ExternRef(Some(reference)) => match reference.data(&*store) {
            Ok(Some(data)) => format!("extern {:?}", data.downcast_ref::<u32>()),
            _ => "extern".into(),
        },
        Val::AnyRef(Some(reference)) => match reference.as_i31(&*store) {
            Ok(Some(number)) => format!("i31 {}", number.get_i32()),
            _ if reference.is_struct(&*store).unwrap_or(false) => "a struct".into(),
            _ if reference.is_array(&*store).unwrap_or(false) => "an array".into(),
            _ => "any".into(),
        },
        Val::ExnRef(Some(_)) => "an exception".into(),
        Val::ContRef(Some(_)) => "a continuation".into(),
    }
}

fn has_lanes(expected: &WastRetCore, of: fn(&V128Pattern) -> bool) -> bool {
    match expected {
        WastRetCore::V128(pattern) => of(pattern),
        WastRetCore::Either(cases) => cases.iter().any(|case| has_lanes(case, of)),
        _ => false,
    }
}

fn is_f32(bits: u32, pattern: &NanPattern<wast::token::F32>) -> bool {
    match pattern {
        NanPattern::CanonicalNan => bits & 0x7fff_ffff == 0x7fc0_0000,
        NanPattern::ArithmeticNan => bits & 0x7fc0_0000 == 0x7fc0_0000,
        NanPattern::Value(value) => bits == value.bits,
    }
}

fn is_f64(bits: u64, pattern: &NanPattern<wast::token::F64>) -> bool {
    match pattern {
        NanPattern::CanonicalNan => bits & 0x7fff_ffff_ffff_ffff == 0x7ff8_0000_0000_0000,
        NanPattern::ArithmeticNan => bits & 0x7ff8_0000_0000_0000 == 0x7ff8_0000_0000_0000,
        NanPattern::Value(value) => bits == value.bits,
    }
}

fn is_v128(value: V128, pattern: &V128Pattern) -> bool {
    let bytes = value.as_u128().to_le_bytes();
    let lane32 = |lane: usize| u32::from_le_bytes(bytes[lane * 4..][..4].try_into().expect("four bytes"));
    let lane64 = |lane: usize| u64::from_le_bytes(bytes[lane * 8..][..8].try_into().expect("eight bytes"));
    match pattern {
        V128Pattern::I8x16(lanes) => lanes.iter().zip(bytes).all(|(lane, byte)| *lane as u8 == byte),
        V128Pattern::I16x8(lanes) => {
            lanes.iter().zip(bytes.chunks_exact(2)).all(|(lane, bytes)| lane.to_le_bytes() == *bytes)
        }
        V128Pattern::I32x4(lanes) => lanes.iter().enumerate().all(|(at, lane)| *lane as u32 == lane32(at)),
        V128Pattern::I64x2(lanes) => lanes.iter().enumerate().all(|(at, lane)| *lane as u64 == lane64(at)),
        V128Pattern::F32x4(lanes) => lanes.iter().enumerate().all(|(at, lane)| is_f32(lane32(at), lane)),
        V128Pattern::F64x2(lanes) => lanes.iter().enumerate().all(|(at, lane)| is_f64(lane64(at), lane)),
    }
}

fn is(store: &mut Store<Host>, value: &Val, expected: &WastRetCore) -> bool {
    let data = |store: &Store<Host>, reference: &ExternRef| match reference.data(store) {
        Ok(Some(data)) => data.downcast_ref::<u32>().copied(),
        _ => None,
    };
    match (value, expected) {
        (value, WastRetCore::Either(cases)) => cases.iter().any(|case| is(store, value, case)),
        (Val::I32(value), WastRetCore::I32(expected)) => value == expected,
        (Val::I64(value), WastRetCore::I64(expected)) => value == expected,
        (Val::F32(bits), WastRetCore::F32(expected)) => is_f32(*bits, expected),
        (Val::F64(bits), WastRetCore::F64(expected)) => is_f64(*bits, expected),
        (Val::V128(value), WastRetCore::V128(expected)) => is_v128(*value, expected),
        (
            Val::FuncRef(None) | Val::ExternRef(None) | Val::AnyRef(None) | Val::ExnRef(None) | Val::ContRef(None),
            WastRetCore::RefNull(_),
        ) => true,
        (Val::ExternRef(Some(_)), WastRetCore::RefExtern(None)) => true,
        (Val::ExternRef(Some(reference)), WastRetCore::RefExtern(Some(expected))) => {
            data(store, reference) == Some(*expected)
        }
        (Val::AnyRef(Some(reference)), WastRetCore::RefHost(expected)) => {
            let outside = ExternRef::convert_any(&mut *store, *reference);
            outside.is_ok_and(|reference| data(store, &reference) == Some(*expected))
        }
        (Val::FuncRef(Some(_)), WastRetCore::RefFunc(_)) => true,
        (Val::AnyRef(Some(_)), WastRetCore::RefAny) => true,
        (Val::AnyRef(Some(reference)), WastRetCore::RefEq) => reference.is_eqref(&*store).unwrap_or(false),
        (Val::AnyRef(Some(reference)), WastRetCore::RefArray) => reference.is_array(&*store).unwrap_or(false),
        (Val::AnyRef(Some(reference)), WastRetCore::RefStruct) => reference.is_struct(&*store).unwrap_or(false),
        (Val::AnyRef(Some(reference)), WastRetCore::RefI31) => reference.is_i31(&*store).unwrap_or(false),
        _ => false,
    }
}
