//! How long somebody who types waits for an echo while others compute, beside the same without them, and beside `cat` among
//! programs of the system itself that compute.

use super::Asked;
use super::compare::{Goal, Row};
use super::house::{Guest, House, Library, order};
use crate::Outcome;
use crate::bench::report::Spread;
use daemon::node::Pid;
use rustix::process::{Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const HOGS: usize = 4;
const WORKERS: u16 = 2;
/// Keys pressed by each in a round.
const KEYS: u32 = 40;

pub fn measure(house: &House, asked: Asked) -> Outcome<Vec<Row>> {
    let node = house.node("echo", WORKERS)?;
    let echo = node.load(house.program("echo", Library::None)?, &mut |_| {})?;
    let spin = node.load(house.program("spin", Library::None)?, &mut |_| {})?;
    let mut guest = Guest::start(&node, &echo, &["echo"])?;
    let hogs: Vec<Pid> = (0..HOGS).map(|_| Ok(node.run(order(&spin, &["spin"]))?.pid)).collect::<Outcome<_>>()?;
    let mut native = Native::start()?;
    let (mut calm, mut among_hogs, mut of_system) = (vec![], vec![], vec![]);
    let mut pause = Pause(1);
    for _ in 0..asked.rounds {
        hogs.iter().try_for_each(|pid| node.cont(*pid))?;
        keys(&mut among_hogs, &mut pause, || guest.ask("k").map(drop))?;
        hogs.iter().try_for_each(|pid| node.stop(*pid))?;
        keys(&mut calm, &mut pause, || guest.ask("k").map(drop))?;
        native.signal(Signal::CONT)?;
        keys(&mut of_system, &mut pause, || native.ask())?;
        native.signal(Signal::STOP)?;
    }
    // What it held is thrown away.
    let _ = node.shutdown();
    let rows = [("p50", 0.5), ("p99", 0.99), ("most", 1.0)].map(|(name, share)| {
        let of = |times: &[f64]| Spread::of(&[quantile(times, share)]);
        Row {
            what: format!("echo, {name}"),
            unit: "ms",
            sides: vec![
                ("una, 4 hogs on 2 workers", of(&among_hogs)),
                ("una, no hogs", of(&calm)),
                ("cat, 4 hogs of Linux", of(&of_system)),
            ],
            ratios: vec![],
            goal: (name == "p99").then_some(Goal::AtMost(10.0)),
        }
    });
    Ok(rows.into())
}

/// Presses keys at odd moments.
fn keys(times: &mut Vec<f64>, pause: &mut Pause, mut press: impl FnMut() -> Outcome) -> Outcome {
    for _ in 0..KEYS {
        std::thread::sleep(pause.next());
        let start = Instant::now();
        press()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

fn quantile(times: &[f64], share: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let index = (times.len() as f64 * share).ceil() as usize;
    times.get(index.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// From 1 to 6 ms, so that keys fall anywhere in others' slices.
struct Pause(u64);

impl Pause {
    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_micros(1000 + (self.0 >> 33) % 5000)
    }
}

/// The same with programs of the system.
struct Native {
    hogs: Vec<Child>,
    cat: Child,
    keys: ChildStdin,
    echoes: BufReader<ChildStdout>,
}

impl Native {
    fn start() -> Outcome<Native> {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let keys = cat.stdin.take().ok_or("a pipe was asked for")?;
        let echoes = BufReader::new(cat.stdout.take().ok_or("a pipe was asked for")?);
        let mut native = Native { hogs: vec![], cat, keys, echoes };
        for _ in 0..HOGS {
            native.hogs.push(Command::new("sh").args(["-c", "while :; do :; done"]).spawn()?);
        }
        native.signal(Signal::STOP)?;
        Ok(native)
    }

    fn signal(&self, signal: Signal) -> Outcome {
        for hog in &self.hogs {
            kill_process(rustix::process::Pid::from_child(hog), signal)?;
        }
        Ok(())
    }

    fn ask(&mut self) -> Outcome {
        self.keys.write_all(b"k\n")?;
        let mut line = String::new();
        self.echoes.read_line(&mut line)?;
        if line == "k\n" { Ok(()) } else { Err("cat gave something else".into()) }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // They only waste time.
        for child in self.hogs.iter_mut().chain([&mut self.cat]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let times: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| quantile(&times, share)), [100.0, 198.0, 200.0]);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
