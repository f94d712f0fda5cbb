//! `cargo xtask bench`: measures, side by side with what others offer. Each benchmark is a file of its own.

mod asyncify;
mod cluster;
mod continuing;
mod criu;
mod forking;
mod freeze;
mod host;
mod keeping;
mod local;
mod moving;
mod programs;
mod report;
mod steady;
mod stopping;

use crate::Outcome;
use std::io::Write;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(clap::Subcommand)]
enum Benchmark {
    /// What being stoppable costs a program: speed, size, compile time; how fast it stops and continues
    Freeze(freeze::Arguments),
    /// One node: messages, processes, memory, starts, echo, files; beside Erlang, wasmtime and Linux
    Local(local::Arguments),
    /// Several nodes: the wire between them, beside plain TCP and Erlang's
    Cluster(cluster::Arguments),
    /// Pages of a process: followed, missing, moved
    Move(moving::Arguments),
    /// Clones of a process: how soon they run, and what they take up
    Fork(forking::Arguments),
    /// Checkpoints, and what it costs to be durable
    Keep(keeping::Arguments),
}

pub fn run(arguments: Arguments) -> Outcome {
    match arguments.benchmark {
        Benchmark::Freeze(arguments) => freeze::run(&arguments),
        Benchmark::Local(arguments) => local::run(&arguments),
        Benchmark::Cluster(arguments) => cluster::run(&arguments),
        Benchmark::Move(arguments) => moving::run(&arguments),
        Benchmark::Fork(arguments) => forking::run(&arguments),
        Benchmark::Keep(arguments) => keeping::run(&arguments),
    }
}

/// The parts of a benchmark that are wanted: all, or one.
fn chosen<T: Copy>(parts: &[(&'static str, T)], only: Option<&str>) -> Outcome<Vec<(&'static str, T)>> {
    let chosen: Vec<_> = parts.iter().copied().filter(|(name, _)| only.is_none_or(|only| only == *name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
        return Err(format!("there is no part {}; there are {}", only.unwrap_or_default(), names.join(", ")).into());
    }
    Ok(chosen)
}

/// What was found out, for whoever asked.
fn show(text: &str) -> Outcome {
    std::io::stdout().write_all(format!("{}\n", text.trim_end()).as_bytes())?;
    Ok(())
}
