//! Two or more sides of one comparison take turns. Knows nothing of what they do.

use crate::Outcome;
use crate::bench::report::Spread;
use std::time::Duration;

/// One side of a comparison: a name, and how it takes one figure.
pub struct Side<'a> {
    pub name: &'static str,
    pub take: Box<dyn FnMut() -> Outcome<f64> + 'a>,
}

impl<'a> Side<'a> {
    pub fn new(name: &'static str, take: impl FnMut() -> Outcome<f64> + 'a) -> Side<'a> {
        Side { name, take: Box::new(take) }
    }
}

/// What was found out. The first side is ours.
#[derive(Clone)]
pub struct Row {
    pub what: String,
    pub unit: &'static str,
    pub sides: Vec<(&'static str, Spread)>,
    /// Of our figure to each other's of the same round, in the order of `sides` without the first.
    pub ratios: Vec<Ratio>,
    pub goal: Option<Goal>,
}

#[derive(Clone, Copy)]
pub struct Ratio {
    pub rounds: Spread,
    /// Our best round to the other's best, which is the least disturbed figure on a busy machine.
    pub best: f64,
}

/// What is wanted of our side.
#[derive(Clone, Copy)]
pub enum Goal {
    /// The median is at most this.
    AtMost(f64),
    AtLeast(f64),
    /// The ratio to the first of the others is at most, or at least, this.
    RatioAtMost(f64),
    RatioAtLeast(f64),
}

/// Is a lower figure the better one?
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Less,
    More,
}

/// Each side takes one figure that does not count, and then one a round.
pub fn compare(what: &str, unit: &'static str, better: Better, rounds: u32, mut sides: Vec<Side>) -> Outcome<Row> {
    eprintln!("  {what}, {} sides, {rounds} rounds", sides.len());
    let mut figures = vec![vec![]; sides.len()];
    for round in 0..=rounds as usize {
        for turn in 0..sides.len() {
            let index = (round + turn) % sides.len();
            let side = &mut sides[index];
            let figure = (side.take)().map_err(|error| format!("{what}, {}: {error}", side.name))?;
            if round > 0 {
                figures[index].push(figure);
            }
            // Who has just worked looks around for more work for a while (Erlang's schedulers spin): the next one should not pay for it.
            std::thread::sleep(Duration::from_millis(3));
        }
    }
    let best = |figures: &[f64]| match better {
        Better::Less => figures.iter().copied().fold(f64::INFINITY, f64::min),
        Better::More => figures.iter().copied().fold(0.0, f64::max),
    };
    let ratios = figures[1..].iter().map(|other| {
        let rounds: Vec<f64> = figures[0].iter().zip(other).map(|(ours, theirs)| ours / theirs).collect();
        Ratio { rounds: Spread::of(&rounds), best: best(&figures[0]) / best(other) }
    });
    Ok(Row {
        what: what.into(),
        unit,
        ratios: ratios.collect(),
        sides: sides.iter().zip(&figures).map(|(side, figures)| (side.name, Spread::of(figures))).collect(),
        goal: None,
    })
}

impl Row {
    pub fn wanted(mut self, goal: Goal) -> Row {
        self.goal = Some(goal);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_take_turns_and_the_first_round_does_not_count() {
        let order = std::cell::RefCell::new(vec![]);
        let side = |name: &'static str, mut figure: f64| {
            let order = &order;
            Side::new(name, move || {
                order.borrow_mut().push(name);
                figure += 1.0;
                Ok(figure)
            })
        };
        let row = compare("x", "ns", Better::Less, 2, vec![side("a", 0.0), side("b", 100.0)]).unwrap();
        assert_eq!(*order.borrow(), ["a", "b", "b", "a", "a", "b"]);
        assert_eq!((row.sides[0].1.min, row.sides[0].1.max), (2.0, 3.0));
        assert_eq!(row.ratios[0].best, 2.0 / 102.0);
        assert_eq!(row.ratios[0].rounds.max, 3.0 / 103.0);
    }
}
