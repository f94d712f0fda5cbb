//! How fast a running kernel stops: from the moment that another thread sets the flag until the stack is unwound and saved.

use super::freeze::{Contest, ms_since, store, thread_ms};
use super::host::Host;
use super::programs::Kernel;
use super::report::Spread;
use super::steady::Steady;
use crate::Outcome;
use freeze::{Exit, Pages, Process};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use wasmtime::Store;

/// A process that was stopped in a kernel.
pub struct Stopped {
    pub store: Store<Host>,
    pub process: Process,
    /// From the beginning of the run to the end of unwinding, in processor time.
    pub ran_ms: f64,
    /// From setting the flag to the end of unwinding.
    pub unwinding: Duration,
}

/// Starts a kernel and has another thread stop it after `delay`; nothing if it ended before.
pub fn stop_after(contest: &Contest, kernel: &Kernel, delay: Duration) -> Outcome<Option<Stopped>> {
    let mut store = store(contest.program.module().engine(), kernel);
    let mut process = contest.program.instantiate(&mut store, contest.linker())?;
    let request = process.freeze_request();
    let used = thread_ms();
    let (result, returned, set) = std::thread::scope(|scope| {
        let begun = Instant::now();
        // It spins instead of sleeping: waking up takes longer than what is measured.
        let setter = scope.spawn(move || {
            while begun.elapsed() < delay {
                std::hint::spin_loop();
            }
            let now = Instant::now();
            request.set();
            now
        });
        let result = process.call(&mut store, "_start", &[], &mut []);
        let returned = Instant::now();
        (result, (returned, thread_ms() - used), setter.join())
    });
    let (returned, ran_ms) = returned;
    let set = set.map_err(|_| "the thread that sets the flag failed")?;
    if store.data().ended(result)? != Some(Exit::Frozen) {
        return Ok(None);
    }
    Ok(Some(Stopped { store, process, ran_ms, unwinding: returned - set }))
}

/// A sequence of times between nothing and `most`, the same in every run of the benchmark.
pub struct Delays {
    seed: u64,
    least: Duration,
    most: Duration,
}

impl Delays {
    pub fn between(least: Duration, most: Duration) -> Delays {
        Delays { seed: 0x9e37_79b9_7f4a_7c15, least, most }
    }
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let part = (self.seed >> 11) as f64 / (1u64 << 53) as f64;
        Some(self.least + (self.most - self.least).mul_f64(part))
    }
}

/// How fast a kernel stopped.
pub struct Stops {
    pub unwound_us: Spread,
    pub unwound_p99_us: f64,
}

/// Stops a kernel `stops` times at random.
pub fn measure(contest: &Contest, kernel: &Kernel, steady: &Steady, stops: u32) -> Outcome<Stops> {
    let length = steady.length();
    let mut latencies = vec![];
    for delay in Delays::between(Duration::from_micros(50), length.mul_f64(0.95)).take(stops as usize) {
        if let Some(stopped) = stop_after(contest, kernel, delay)? {
            latencies.push(stopped.unwinding.as_secs_f64() * 1e6);
        }
    }
    Ok(Stops { unwound_us: Spread::of(&latencies), unwound_p99_us: percentile(&latencies, 0.99) })
}

fn percentile(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(((values.len() as f64 - 1.0) * part).round() as usize).copied().unwrap_or(f64::NAN)
}

/// A stack of ten thousand frames and more.
pub struct Deep {
    pub frames: usize,
    pub unwound_ms: Spread,
    /// Everything but the memory's pages written as an image into a buffer.
    pub image_ms: Spread,
    /// Both for the same stop.
    pub captured_ms: Spread,
    pub image_bytes: usize,
}

/// Stops a kernel that has gone deep and works there.
pub fn deep(contest: &Contest, kernel: &Kernel, stops: u32) -> Outcome<Deep> {
    const FRAMES: usize = 10_000;
    let (mut unwound, mut image, mut both, mut frames, mut image_bytes) = (vec![], vec![], vec![], 0, 0);
    let delays = Delays::between(Duration::from_millis(2), Duration::from_millis(20));
    for delay in delays.take(stops as usize) {
        let Some(stopped) = stop_after(contest, kernel, delay)? else { continue };
        let Stopped { mut store, process, unwinding, .. } = stopped;
        let start = Instant::now();
        let image_size = process.capture(&mut store, Vec::new(), Pages::LeftOut, BTreeMap::new())?.len();
        let captured = ms_since(start);
        let depth = process.frames(&mut store)?.len();
        if depth < FRAMES {
            // A busy machine had it wait, and it was still on its way down.
            continue;
        }
        (frames, image_bytes) = (depth, image_size);
        let unwinding = unwinding.as_secs_f64() * 1e3;
        unwound.push(unwinding);
        image.push(captured);
        both.push(unwinding + captured);
    }
    if both.is_empty() {
        return Err(format!("the deep kernel never had {FRAMES} frames when it was stopped").into());
    }
    let (unwound_ms, image_ms, captured_ms) = (Spread::of(&unwound), Spread::of(&image), Spread::of(&both));
    Ok(Deep { frames, unwound_ms, image_ms, captured_ms, image_bytes })
}
