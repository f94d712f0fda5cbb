//! The benchmark of the crate `freeze`: every kernel as plain code, rewritten, and as its rivals have it. Knows nothing of how a
//! figure is taken (see `steady`, `stopping`, `continuing`) or shown (`report`).
//!
//! The one idea: all variants of a program live in one process and take turns, so that what disturbs the machine disturbs all.

use super::host::{self, Host};
use super::programs::{self, Kernel, Workshop};
use super::report::{self, Row, Spread};
use super::{asyncify, continuing, steady, stopping};
use crate::Outcome;
use freeze::{Options, Program};
use rustix::time::{ClockId, clock_gettime};
use std::time::Instant;
use wasmtime::{Config, Engine, Linker, Module, Store};

#[derive(clap::Args)]
pub struct Arguments {
    /// Print rows of figures as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// How often each variant of a kernel runs
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only kernels whose name begins like this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// How many stops at random times are measured for each kernel
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    stops: u32,
}

/// One way of compiling a program.
pub struct Variant {
    pub name: &'static str,
    pub module: Module,
    pub linker: Linker<Host>,
}

/// Deep recursion must be possible in every variant.
const STACK_BYTES: usize = 8 << 20;

fn engine(change: impl FnOnce(&mut Config) -> &mut Config) -> Outcome<Engine> {
    let mut config = Config::new();
    ::freeze::configure(&mut config).max_wasm_stack(STACK_BYTES).async_stack_size(2 * STACK_BYTES);
    change(&mut config);
    Ok(Engine::new(&config)?)
}

/// One program in all variants, and its rewritten form as a [`Program`].
pub struct Contest {
    /// Plain first, rewritten second.
    pub variants: Vec<Variant>,
    pub program: Program,
}

impl Contest {
    pub fn linker(&self) -> &Linker<Host> {
        &self.variants[1].linker
    }
}

/// What the rewriter makes of a program before it runs. Ratios to plain.
#[derive(Clone, Copy)]
pub struct Making {
    /// Without custom sections.
    pub wasm: f64,
    /// Machine code.
    pub code: f64,
    /// Processor time.
    pub compile: Spread,
    pub rewrite_ms: f64,
    pub plain_compile_ms: f64,
}

/// A store in which a kernel is about to run.
pub fn store(engine: &Engine, kernel: &Kernel) -> Store<Host> {
    let mut store = Store::new(engine, Host::new(&kernel.arguments));
    // Neither ever runs out; an engine without them refuses the one and ignores the other.
    let _ = store.set_fuel(u64::MAX);
    store.set_epoch_deadline(u64::MAX / 2);
    store
}

pub fn run(arguments: &Arguments) -> Outcome {
    let workshop = Workshop::new()?;
    let mut kernels = programs::kernels()?;
    let only = arguments.only.as_deref().unwrap_or_default();
    let names: Vec<&str> = kernels.iter().map(|kernel| kernel.name.as_str()).collect();
    let unknown = format!("no kernel is named {only}; there are {} {DEEP}", names.join(" "));
    kernels.retain(|kernel| kernel.name.starts_with(only));
    let goes_deep = DEEP.starts_with(only);
    if kernels.is_empty() && !goes_deep {
        return Err(unknown.into());
    }
    let mut rows: Vec<Row> = vec![];
    for group in kernels.chunk_by(|one, other| one.program == other.program) {
        let name = group[0].program;
        eprintln!("{name}: compiling");
        let (contest, making) = contest(&workshop, name, arguments.rounds.min(3))?;
        for kernel in group {
            eprintln!("{}: running", kernel.name);
            let steady = steady::measure(&contest, kernel, arguments.rounds)?;
            let stops = stopping::measure(&contest, kernel, &steady, arguments.stops)?;
            let continuing = continuing::measure(&contest, kernel, &steady, &workshop, arguments.rounds)?;
            rows.push(Row { kernel: kernel.name.clone(), program: name, making, steady, stops, continuing });
        }
    }
    let deep = goes_deep.then(|| deep(&workshop, arguments)).transpose()?;
    let text = match arguments.json {
        true => report::json(&rows, deep.as_ref())?,
        false => report::table(&rows, deep.as_ref()),
    };
    super::show(&text)
}

/// The kernel that goes ten thousand calls deep; it is stopped, not timed.
const DEEP: &str = "deep";

fn deep(workshop: &Workshop, arguments: &Arguments) -> Outcome<stopping::Deep> {
    eprintln!("{DEEP}: running");
    let (contest, _) = contest(workshop, DEEP, 1)?;
    let kernel =
        Kernel { name: DEEP.into(), program: DEEP, arguments: [DEEP, "10000", "1000000000"].map(String::from).into() };
    stopping::deep(&contest, &kernel, arguments.stops)
}

/// Compiles a program in every variant.
fn contest(workshop: &Workshop, name: &str, rounds: u32) -> Outcome<(Contest, Making)> {
    let wasm = workshop.program(name)?;
    let plain = engine(|config| config)?;
    let rewritten_engine = engine(|config| config)?;
    let (mut rewritten, mut rewriting) = (None, vec![]);
    for _ in 0..rounds {
        let start = process_ms();
        rewritten = Some(::freeze::rewrite(&wasm, &Options::default())?);
        rewriting.push(process_ms() - start);
    }
    let rewritten = rewritten.ok_or("at least one round was asked for")?;
    let (mut modules, mut ratios, mut compiling) = (None, vec![], vec![]);
    for _ in 0..rounds {
        let start = process_ms();
        let one = Module::new(&plain, &wasm)?;
        let between = process_ms();
        let other = Module::new(&rewritten_engine, &rewritten.wasm)?;
        compiling.push(between - start);
        ratios.push((process_ms() - between) / (between - start));
        modules = Some((one, other));
    }
    let (one, other) = modules.ok_or("at least one round was asked for")?;
    let making = Making {
        wasm: size(&rewritten.wasm)? as f64 / size(&wasm)? as f64,
        code: other.text().len() as f64 / one.text().len() as f64,
        compile: Spread::of(&ratios),
        rewrite_ms: Spread::of(&rewriting).median,
        plain_compile_ms: Spread::of(&compiling).median,
    };
    let mut variants = vec![
        variant("plain", one)?,
        variant("freeze", other.clone())?,
        variant("epoch", Module::new(&engine(|config| config.epoch_interruption(true))?, &wasm)?)?,
        variant("fuel", Module::new(&engine(|config| config.consume_fuel(true))?, &wasm)?)?,
    ];
    if let Some(wasm) = asyncify::rival(&wasm, &rewritten.map, workshop.directory(), name)? {
        variants.push(variant("asyncify", Module::new(&plain, &wasm)?)?);
    }
    let program = Program::from_parts(wasm.into(), rewritten.map, other);
    Ok((Contest { variants, program }, making))
}

fn variant(name: &'static str, module: Module) -> Outcome<Variant> {
    let linker = host::linker(&module)?;
    Ok(Variant { name, module, linker })
}

/// Bytes of a module without its custom sections.
fn size(wasm: &[u8]) -> Outcome<usize> {
    let mut total = 0;
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        if let Some((id, range)) = payload?.as_section() {
            total += if id == 0 { 0 } else { range.len() };
        }
    }
    Ok(total)
}

/// Processor time that this process has used so far.
fn process_ms() -> f64 {
    clock_ms(ClockId::ProcessCPUTime)
}

/// Processor time that this thread has used so far: what a kernel takes, whoever else wants the processor.
pub fn thread_ms() -> f64 {
    clock_ms(ClockId::ThreadCPUTime)
}

fn clock_ms(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

pub fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
