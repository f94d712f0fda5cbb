//! `cargo xtask bench local`: one node as a small computer, side by side with what others offer: messages and processes against Erlang,
//! starts against plain wasmtime and the system's own programs, files against the directory that they are in. Knows which
//! comparisons there are and what was wanted; not how a figure is taken or shown.
//!
//! The one idea: both sides of a comparison wait at the same time and take turns, so that what disturbs the machine disturbs both; each
//! looks at the clock itself, so that asking costs neither anything.

pub(super) mod compare;
mod echo;
mod erlang;
mod files;
mod hello;
mod house;
mod idle;
mod messages;
mod plain;
mod spawns;
pub(super) mod table;

use super::{chosen, show};
use crate::Outcome;
use compare::{Row, Side};

#[derive(clap::Args)]
pub struct Arguments {
    /// Print rows of figures as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// How often both sides of each comparison take their turn
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these: messages, spawns, idle, hello, echo, files; or one case of them, as messages/call-1 (of one worker) or spawns/many
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// What is to be measured of a part.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub rounds: u32,
    /// Only this case, if the part has cases.
    pub case: Option<&'a str>,
}

impl Asked<'_> {
    pub fn wants(&self, case: &str) -> bool {
        self.case.is_none_or(|wanted| wanted == case)
    }
}

type Part = fn(&house::House, Asked) -> Outcome<Vec<Row>>;

const PARTS: [(&str, Part); 6] = [
    ("messages", messages::measure),
    ("spawns", spawns::measure),
    ("idle", idle::measure),
    ("hello", hello::measure),
    ("echo", echo::measure),
    ("files", files::measure),
];

pub fn run(arguments: &Arguments) -> Outcome {
    let (part, case) = match arguments.only.as_deref() {
        Some(only) => only.split_once('/').map_or((Some(only), None), |(part, case)| (Some(part), Some(case))),
        None => (None, None),
    };
    let chosen = chosen(&PARTS, part)?;
    let house = house::House::new()?;
    let mut rows = vec![];
    let load =
        || std::fs::read_to_string("/proc/loadavg").ok().and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    let mut loads: Vec<f64> = load().into_iter().collect();
    for (name, measure) in chosen {
        eprintln!("{name}: measuring");
        rows.extend(measure(&house, Asked { rounds: arguments.rounds, case })?);
        loads.extend(load());
    }
    let text = match arguments.json {
        true => table::json(&rows, &loads)?,
        false => table::text(&rows, &loads),
    };
    show(&text)
}
