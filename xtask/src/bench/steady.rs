//! How fast a kernel runs in each variant when nobody stops it.

use super::freeze::{Contest, store, thread_ms};
use super::programs::Kernel;
use super::report::Spread;
use crate::Outcome;
use std::collections::BTreeMap;
use std::time::Duration;

/// How a kernel ran.
pub struct Steady {
    pub plain_ms: f64,
    /// Of each variant but plain, to plain.
    pub ratios: BTreeMap<&'static str, Spread>,
    /// The quickest run of each variant but plain, to the quickest plain one.
    pub best: BTreeMap<&'static str, f64>,
    /// What it prints.
    pub output: Vec<u8>,
}

impl Steady {
    /// About how long a run takes.
    pub fn length(&self) -> Duration {
        Duration::from_secs_f64(self.plain_ms / 1e3)
    }
}

/// Runs all variants in turn, `rounds` times; each round's times are compared with that round's plain one.
pub fn measure(contest: &Contest, kernel: &Kernel, rounds: u32) -> Outcome<Steady> {
    let variants = &contest.variants;
    let mut times: Vec<Vec<f64>> = vec![vec![]; variants.len()];
    let mut expected: Option<Vec<u8>> = None;
    // The first round warms up and is not counted. Who begins changes from round to round.
    for round in 0..rounds as usize + 1 {
        for turn in 0..variants.len() {
            let index = (turn + round) % variants.len();
            let variant = &variants[index];
            let mut store = store(variant.module.engine(), kernel);
            let instance = variant.linker.instantiate(&mut store, &variant.module)?;
            let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
            let begun = thread_ms();
            let result = start.call(&mut store, ());
            let time = thread_ms() - begun;
            store.data().ended(result)?;
            let output = std::mem::take(&mut store.data_mut().output);
            if expected.get_or_insert_with(|| output.clone()) != &output {
                return Err(format!("{}: {} and plain print different things", kernel.name, variant.name).into());
            }
            if round > 0 {
                times[index].push(time);
            }
        }
    }
    let ratio = |own: &Vec<f64>| {
        let ratios: Vec<f64> = own.iter().zip(&times[0]).map(|(own, plain)| own / plain).collect();
        Spread::of(&ratios)
    };
    let best = |own: &Vec<f64>| Spread::of(own).min / Spread::of(&times[0]).min;
    let rivals = || variants.iter().zip(&times).skip(1);
    Ok(Steady {
        plain_ms: Spread::of(&times[0]).median,
        ratios: rivals().map(|(variant, own)| (variant.name, ratio(own))).collect(),
        best: rivals().map(|(variant, own)| (variant.name, best(own))).collect(),
        output: expected.ok_or("at least one round was asked for")?,
    })
}
