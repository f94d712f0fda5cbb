//! How fast a stopped kernel continues, and how fast it runs then.
//!
//! The one idea: a continued process whose flag is set stops again at its first poll, so the time of `thaw` and of that short run is
//! the time that continuing takes (the memory's pages are filled in between, outside the measured time).

use super::freeze::{Contest, ms_since, store, thread_ms};
use super::host::Host;
use super::programs::{Kernel, Workshop};
use super::report::Spread;
use super::steady::Steady;
use super::stopping::{Delays, Stopped, stop_after};
use crate::Outcome;
use freeze::{Exit, Map, Pages, Program};
use std::collections::BTreeMap;
use std::time::Instant;
use wasmtime::{Linker, Module, Store};

/// Places where each kernel is stopped to be continued.
const PLACES: usize = 8;

/// How a kernel continued.
pub struct Continuing {
    /// Its continuations were compiled already.
    pub ready_ms: Spread,
    /// They were in the continuation store.
    pub stored_ms: Spread,
    /// They had to be compiled.
    pub cold_ms: Spread,
    /// Loading the compiled program from a file, which comes before it in a new process.
    pub load_ms: Spread,
    /// Time of the rest of a run in continuations to the time of the same rest uninterrupted.
    pub after: Spread,
}

pub fn measure(
    contest: &Contest, kernel: &Kernel, steady: &Steady, workshop: &Workshop, rounds: u32,
) -> Outcome<Continuing> {
    let length = steady.length();
    let directory = workshop.directory().join("continuations");
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir_all(&directory)?;
    let program = &contest.program;
    let compiled = workshop.directory().join("continued.compiled");
    std::fs::write(&compiled, program.module().serialize()?)?;
    let map = program.map().to_bytes();
    let fresh = || Program::from_parts(program.wasm().clone(), program.map().clone(), program.module().clone());

    let (mut ready, mut stored, mut loaded, mut cold) = (vec![], vec![], vec![], vec![]);
    let delays = Delays::between(length.mul_f64(0.4), length.mul_f64(0.9));
    for delay in delays.take(PLACES) {
        let Some(stopped) = stop_after(contest, kernel, delay)? else { continue };
        let image = Image::of(stopped)?;
        cold.push(image.continued(kernel, &fresh(), contest.linker())?);
        let filled = fresh().with_continuation_store(&directory);
        image.continued(kernel, &filled, contest.linker())?;
        ready.push(image.continued(kernel, &filled, contest.linker())?);
        stored.push(image.continued(kernel, &fresh().with_continuation_store(&directory), contest.linker())?);
        let start = Instant::now();
        // SAFETY: the file was written above from a module of this engine.
        let module = unsafe { Module::deserialize_file(program.module().engine(), &compiled) }?;
        let read = Map::from_bytes(&map).ok_or("the map cannot be read back")?;
        std::hint::black_box(Program::from_parts(program.wasm().clone(), read, module));
        loaded.push(ms_since(start));
    }
    Ok(Continuing {
        ready_ms: Spread::of(&ready),
        stored_ms: Spread::of(&stored),
        cold_ms: Spread::of(&cold),
        load_ms: Spread::of(&loaded),
        after: after(contest, kernel, steady, rounds)?,
    })
}

/// A stopped process: its image without pages, and the pages.
struct Image {
    bytes: Vec<u8>,
    memories: Vec<Vec<u8>>,
    output: Vec<u8>,
}

impl Image {
    fn of(stopped: Stopped) -> Outcome<Image> {
        let Stopped { mut store, process, .. } = stopped;
        let bytes = process.capture(&mut store, Vec::new(), Pages::LeftOut, BTreeMap::new())?;
        let mut memories = vec![];
        while let Some(memory) = process.memory(&mut store, memories.len() as u32) {
            memories.push(memory.data(&store).to_vec());
        }
        Ok(Image { bytes, memories, output: std::mem::take(&mut store.data_mut().output) })
    }

    /// How long it takes until it runs again, in milliseconds.
    fn continued(&self, kernel: &Kernel, program: &Program, linker: &Linker<Host>) -> Outcome<f64> {
        let start = Instant::now();
        let mut store: Store<Host> = store(program.module().engine(), kernel);
        let mut process = program.thaw(&mut store, linker, &self.bytes[..])?.process;
        let thawed = ms_since(start);
        for (index, content) in self.memories.iter().enumerate() {
            let memory = process.memory(&mut store, index as u32).ok_or("a thawed process lacks a memory")?;
            memory.data_mut(&mut store).copy_from_slice(content);
        }
        store.data_mut().output = self.output.clone();
        process.freeze_request().set();
        let start = Instant::now();
        let exit = process.resume(&mut store, &mut []);
        let resumed = ms_since(start);
        match store.data().ended(exit)? {
            Some(Exit::Frozen) => Ok(thawed + resumed),
            _ => Err(format!("{}: a continued process ended although its flag was set", kernel.name).into()),
        }
    }
}

/// The rest of a run in continuations against the same rest of an uninterrupted run, taken in turns.
fn after(contest: &Contest, kernel: &Kernel, steady: &Steady, rounds: u32) -> Outcome<Spread> {
    let (mut ratios, length) = (vec![], steady.length());
    for delay in Delays::between(length.mul_f64(0.4), length.mul_f64(0.6)).take(rounds as usize) {
        let mut whole = store(contest.program.module().engine(), kernel);
        let mut process = contest.program.instantiate(&mut whole, contest.linker())?;
        let start = thread_ms();
        let exit = process.call(&mut whole, "_start", &[], &mut []);
        let uninterrupted = thread_ms() - start;
        whole.data().ended(exit)?;

        let Some(stopped) = stop_after(contest, kernel, delay)? else { continue };
        let Stopped { mut store, mut process, ran_ms, .. } = stopped;
        // The flag is still set, so this makes the continuations and comes back.
        let exit = process.resume(&mut store, &mut []);
        if store.data().ended(exit)? != Some(Exit::Frozen) {
            return Err(format!("{}: a continued process ended although its flag was set", kernel.name).into());
        }
        process.freeze_request().clear();
        let start = thread_ms();
        let exit = process.resume(&mut store, &mut []);
        let rest = thread_ms() - start;
        store.data().ended(exit)?;
        if store.data().output != steady.output {
            return Err(
                format!("{}: a continued run printed something else than an uninterrupted one", kernel.name).into()
            );
        }
        ratios.push(rest / (uninterrupted - ran_ms));
    }
    Ok(Spread::of(&ratios))
}
