//! Which tests are run when. Knows their names, not what they test.
//!
//! A test that takes too long for every change is marked `#[ignore]`, with the reason; `nightly` runs those as well.

use crate::Outcome;
use crate::step::{cargo, step};
use std::process::Command;

const CARGO: &str = "cargo comes with Rust";
const CLIPPY: &str = "`rustup component add clippy` gives it";

/// How long each fuzz target runs at night, in seconds.
const FUZZ_SECONDS: u32 = 1200;

pub fn ci() -> Outcome {
    crate::setup::run()?;
    crate::tidy::run()?;
    crate::fetch::one("python")?;
    test()?;
    crate::e2e::sample()
}

/// One build of everything, in the one profile, then every test; last, the tests of the tests.
pub fn test() -> Outcome {
    step(cargo().args(["test", "--release", "--locked", "--workspace", "--no-fail-fast"]), CARGO)?;
    planted(&PLANTED)
}

/// Bugs planted on purpose, each of which its suite must catch: in the freezer and in the tree of files.
const PLANTED: [(&str, &str); 2] = [("freeze", "planted"), ("una-services", "files_planted")];
/// And those for which several nodes must live and die: in the coordinator and in the files of many nodes.
const PLANTED_AT_NIGHT: [(&str, &str); 2] = [("una-drivers", "coordinator_planted"), ("una-daemon", "files_planted")];

/// How much more of what is random is tried at night: each suite says what its variable means.
const MORE_AT_NIGHT: [(&str, &str); 4] =
    [("UNA_NIGHTLY", "1"), ("UNA_SMITH_PROGRAMS", "20000"), ("UNA_FUZZ_INPUTS", "20"), ("UNA_SEEDS", "20")];

/// Builds of their own, since nobody else can have these bugs.
fn planted(suites: &[(&str, &str)]) -> Outcome {
    for (package, test) in suites {
        step(
            cargo().args(["test", "--release", "--locked", "-p", package, "--features", "planted", "--test", test]),
            CARGO,
        )?;
    }
    Ok(())
}

pub fn nightly() -> Outcome {
    crate::setup::run()?;
    crate::tidy::run()?;
    step(
        cargo().args(["clippy", "--release", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        CLIPPY,
    )?;
    crate::programs::run(&crate::programs::Arguments { check: true })?;
    crate::fetch::all()?;
    let mut tests = cargo();
    tests.args(["test", "--release", "--locked", "--workspace", "--no-fail-fast", "--", "--include-ignored"]);
    step(tests.envs(MORE_AT_NIGHT), CARGO)?;
    planted(&PLANTED)?;
    planted(&PLANTED_AT_NIGHT)?;
    crate::e2e::all()?;
    fuzz()
}

/// Crates whose directory `fuzz` holds targets.
const FUZZED: [&str; 2] = ["freeze", "daemon"];

/// Each fuzz target for a while. The instrumentation is an unstable option of the compiler, which the variable lets a stable one take; no
/// sanitizer, since those want a standard library of their own.
fn fuzz() -> Outcome {
    for package in FUZZED {
        let directory = crate::root().join(package);
        let mut targets = vec![];
        for entry in std::fs::read_dir(directory.join("fuzz/fuzz_targets"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                targets.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
            }
        }
        targets.sort();
        for target in targets {
            let mut fuzz = Command::new("cargo");
            fuzz.args([
                "fuzz",
                "run",
                "--sanitizer",
                "none",
                &target,
                "--",
                &format!("-max_total_time={FUZZ_SECONDS}"),
            ]);
            fuzz.env("RUSTC_BOOTSTRAP", "1").current_dir(&directory);
            let advice = "`cargo install cargo-fuzz` gives it";
            step(&mut fuzz, advice).map_err(|error| format!("{error}; {advice}"))?;
        }
    }
    Ok(())
}
