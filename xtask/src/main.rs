//! What a developer of una runs: `cargo xtask setup | ci | tidy | test | bench | ...`. Knows nothing of how una works; each
//! command is a file of its own.

mod bench;
mod cluster;
mod e2e;
mod fetch;
mod pictures;
mod programs;
mod setup;
mod sim;
mod step;
mod suites;
mod tidy;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// A command either did what it says, or says what went wrong and what to do next.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Everything a developer of una runs", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the tests need beside Rust: compilers of C, Rust and Go for WebAssembly
    Setup,
    /// Check the rules that no compiler checks: borders between crates, words, links, licences
    Tidy,
    /// Run every test that is quick enough to be run often
    Test,
    /// What is run for every change: setup, tidy, test
    Ci,
    /// What takes longer: full-length chains, fuzzing, programs from the registries
    Nightly,
    /// Compile the programs whose WebAssembly is kept in the repository
    Programs(programs::Arguments),
    /// Fetch WebAssembly programs that others publish, checked by hash, into target/programs
    Fetch(fetch::Arguments),
    /// Make the pictures in the documents from what una prints
    Pictures,
    /// Play the kernel and the services in a world that one seed decides; a failure is replayed by its seed
    Sim(sim::Arguments),
    /// Start several nodes of one system on this machine, to play with
    Cluster(cluster::Arguments),
    /// Try real daemons on machines of their own: network namespaces, as root
    E2e(e2e::Arguments),
    /// Measure, side by side with what others offer
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Setup => setup::run(),
        Command::Cluster(arguments) => cluster::play(&arguments),
        Command::Tidy => tidy::run(),
        Command::Test => suites::test(),
        Command::Ci => suites::ci(),
        Command::Nightly => suites::nightly(),
        Command::Programs(arguments) => programs::run(&arguments),
        Command::Fetch(arguments) => fetch::run(&arguments),
        Command::Pictures => pictures::run(),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::E2e(arguments) => e2e::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The project's directory.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ is a directory of the project").to_path_buf()
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
