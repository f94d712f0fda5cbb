//! `cargo xtask sim`: plays seeds, or one seed again with its history. Knows only how to start `una-sim`.

use crate::Outcome;
use crate::step::{cargo, step};
use clap::Args;

#[derive(Args)]
pub struct Arguments {
    /// Play this seed again, and print what happened
    seed: Option<u64>,

    /// How many seeds to play, from 0
    #[arg(long, default_value_t = 1000, conflicts_with = "seed")]
    seeds: u64,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let mut run = cargo();
    run.args(["run", "--release", "--locked", "--quiet", "--package", "una-sim", "--bin", "una-sim", "--"]);
    match arguments.seed {
        Some(seed) => run.arg(seed.to_string()),
        None => run.args(["--seeds", &arguments.seeds.to_string()]),
    };
    step(&mut run, "cargo comes with Rust")
}
