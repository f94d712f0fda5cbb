//! What a developer of una runs: `cargo xtask setup | ci | tidy | test | bench | ...`. Knows nothing of how una works; each
//! command is a file of its own.

mod bench;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A command either did what it says, or says what went wrong and what to do next.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Everything a developer of una runs", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, side by side with what others offer
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
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
