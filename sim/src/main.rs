//! `una-sim [SEED | --seeds N [--from SEED]] [--run NAME]`: plays seeds and says what broke.

use sim::runs::{self, Run};
use std::process::ExitCode;

const USAGE: &str = "\
usage: una-sim [SEED | --seeds N [--from SEED]] [--run actors|names|shares|torn|cluster|ways|wide|stored|durable|members]
  SEED       plays one seed twice, compares the two histories, and shows the end of a failure
  --seeds N  plays N seeds (300), from --from (0) on, until one fails
  --run      plays only this run of each seed";

struct Wanted {
    seeds: std::ops::Range<u64>,
    runs: Vec<Run>,
    twice: bool,
}

fn main() -> ExitCode {
    let wanted = match read_arguments(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(problem) => {
            eprintln!("una-sim: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // A broken invariant is reported with its seed; the hook's own text would say it twice.
    std::panic::set_hook(Box::new(|info| {
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            eprintln!("{info}\n{}", std::backtrace::Backtrace::force_capture());
        }
    }));
    let (mut steps, mut records) = (0, 0);
    for seed in wanted.seeds.clone() {
        for run in &wanted.runs {
            let report = match runs::play(*run, seed) {
                Ok(report) => report,
                Err(failure) => {
                    eprintln!("{failure}\nsee it again: cargo run --release -p una-sim --bin una-sim -- {seed}");
                    return ExitCode::FAILURE;
                }
            };
            if wanted.twice {
                let again = runs::play(*run, seed).map(|again| again.hash).ok();
                println!("seed {seed} {run:?}: {} steps, history {:016x}", report.steps, report.hash);
                if again != Some(report.hash) {
                    eprintln!("seed {seed} {run:?} gave another history the second time");
                    return ExitCode::FAILURE;
                }
            }
            steps += report.steps;
            records += report.records;
        }
    }
    println!("{} seeds, {steps} steps, {records} system calls and outcomes: all in order", wanted.seeds.count());
    ExitCode::SUCCESS
}

fn read_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let (mut seed, mut count, mut from, mut runs) = (None, None, 0, runs::PLAYED.to_vec());
    while let Some(argument) = arguments.next() {
        let mut number = |name: &str| {
            let text = arguments.next().ok_or(format!("{name} wants a number"))?;
            text.parse::<u64>().map_err(|_| format!("{name} wants a number, not `{text}`"))
        };
        match argument.as_str() {
            "--seeds" => count = Some(number("--seeds")?),
            "--from" => from = number("--from")?,
            "--run" => {
                let name = arguments.next().unwrap_or_default();
                let known = runs::PLAYED.into_iter().find(|run| format!("{run:?}").eq_ignore_ascii_case(&name));
                runs = vec![known.ok_or(format!("there is no run `{name}`"))?];
            }
            text => seed = Some(text.parse::<u64>().map_err(|_| format!("`{text}` is no seed"))?),
        }
    }
    match (seed, count) {
        (Some(_), Some(_)) => Err("give one seed or --seeds, not both".into()),
        (Some(seed), None) => Ok(Wanted { seeds: seed..seed + 1, runs, twice: true }),
        (None, count) => Ok(Wanted { seeds: from..from + count.unwrap_or(300), runs, twice: false }),
    }
}
