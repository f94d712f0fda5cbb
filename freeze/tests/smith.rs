//! Random programs, stopped everywhere, do what they do when nobody stops them.
//!
//! `UNA_SMITH_SEED=N` replays one program and prints its text; `UNA_SMITH_PROGRAMS=N` runs more than the few of CI.

mod suite;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use suite::random::{Counts, check, engine, program_of_seed};

/// The number of programs in CI.
const PROGRAMS: u64 = 2000;

const DISTANCES: [i64; 4] = [1, 2, 3, 11];

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{value}`")))
}

#[test]
fn random_programs() {
    let native = [engine(None)];
    let both = [engine(None), engine(Some("pulley64"))];
    // Every eighth one goes to and fro between native code and Pulley.
    let run = |seed: u64, wasm: &[u8], counts: &mut Counts| {
        check(if seed % 8 == 7 { &both } else { &native }, wasm, seed, &DISTANCES, counts)
    };
    if let Some(seed) = setting("UNA_SMITH_SEED") {
        let wasm = program_of_seed(seed).expect("the seed makes a program");
        let mut counts = Counts::default();
        let result = run(seed, &wasm, &mut counts);
        println!("{}\n{counts:#?}", wat_of(&wasm));
        return result.unwrap();
    }
    let programs = setting("UNA_SMITH_PROGRAMS").unwrap_or(PROGRAMS);
    let next = AtomicU64::new(0);
    let total: Mutex<Counts> = Mutex::default();
    let failed: Mutex<Vec<String>> = Mutex::default();
    let worker = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= programs || failed.lock().unwrap().len() > 20 {
                return;
            }
            let Some(wasm) = program_of_seed(seed) else { continue };
            let mut counts = Counts::default();
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, &wasm, &mut counts)));
            if let Err(difference) = result.unwrap_or_else(|_| Err("a panic".into())) {
                let replay =
                    format!("UNA_SMITH_SEED={seed} cargo test --release -p freeze --test smith -- --nocapture");
                failed.lock().unwrap().push(format!("{difference}\n    replay: {replay}"));
            }
            total.lock().unwrap().add(&counts);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            std::thread::Builder::new().stack_size(32 << 20).spawn_scoped(scope, worker).unwrap();
        }
    });
    let total = total.into_inner().unwrap();
    println!("{total:#?}");
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} programs differ:\n{}", failed.len(), failed.join("\n"));
    assert!(total.programs as u64 >= programs / 2, "too many programs are refused");
    assert!(total.stopped as u64 >= programs / 3 && total.hops as u64 >= programs * 5);
    assert!(total.interrupted > 0 && total.completed > 0 && total.returned * 4 > total.calls);
}

fn wat_of(wasm: &[u8]) -> String {
    let path = std::env::temp_dir().join("una-smith.wasm");
    std::fs::write(&path, wasm).unwrap();
    format!("the program is in {}", path.display())
}
