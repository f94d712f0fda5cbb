//! `cargo xtask bench cluster`: several nodes as one computer, side by side with what others offer. Knows which comparisons there are; not
//! how a figure is taken or shown.
//!
//! The one idea is that of `bench local`: the sides take turns. Both ends of each side are processes of their own, and what is between
//! them is the network of this machine, so the figures are of the software and not of a cable.

mod acts;
mod calls;
mod far;
mod peers;
mod system;
mod wire;

use super::local::{compare::Row, table};
use super::{chosen, show};
use crate::Outcome;

#[derive(clap::Args)]
pub struct Arguments {
    /// Print rows of figures as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// How often all sides of each comparison take their turn
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these: wire, calls, spawns, joins, failover, idle
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Be the other end of a comparison: for the command itself
    #[arg(long, hide = true, num_args = 1.., value_name = "END")]
    far: Vec<String>,
}

type Part = fn(u32) -> Outcome<Vec<Row>>;

const PARTS: [(&str, Part); 6] = [
    ("wire", wire::measure),
    ("calls", calls::measure),
    ("spawns", acts::spawns),
    ("joins", acts::joins),
    ("failover", acts::failover),
    ("idle", acts::idle),
];

pub fn run(arguments: &Arguments) -> Outcome {
    if !arguments.far.is_empty() {
        return far::serve(&arguments.far);
    }
    let chosen = chosen(&PARTS, arguments.only.as_deref())?;
    let load =
        || std::fs::read_to_string("/proc/loadavg").ok().and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    let (mut rows, mut loads) = (vec![], Vec::from_iter(load()));
    for (name, measure) in chosen {
        eprintln!("{name}: measuring");
        rows.extend(measure(arguments.rounds)?);
        loads.extend(load());
    }
    let text = match arguments.json {
        true => table::json(&rows, &loads)?,
        false => table::text(&rows, &loads),
    };
    show(&text)
}

/// The figure at this share of all, in microseconds.
pub fn ranked(mut nanoseconds: Vec<u64>, share: f64) -> f64 {
    nanoseconds.sort_unstable();
    let place = ((nanoseconds.len() as f64 * share) as usize).min(nanoseconds.len().saturating_sub(1));
    nanoseconds.get(place).map_or(f64::NAN, |value| *value as f64 / 1000.0)
}

/// A peer that is not there is left out, and it is said why.
fn or_without<T>(part: &str, peer: Outcome<T>) -> Option<T> {
    peer.map_err(|error| eprintln!("{part}: left out: {error}")).ok()
}
