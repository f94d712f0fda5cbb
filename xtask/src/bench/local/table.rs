//! Figures of one node as people and programs read them. Knows nothing of how they were taken.

use super::compare::{Goal, Ratio, Row};
use crate::bench::report::{Spread, Table};
use serde_json::{Value, json};

/// A table of all comparisons, then what was wanted beside what was found.
pub fn text(rows: &[Row], loads: &[f64]) -> String {
    let mut table = Table::new(&["comparison", "unit", "una", "beside", "takes", "una to it", "best to best"]);
    for row in rows {
        let ours = spread(&row.sides[0].1);
        for (place, (name, figures)) in row.sides.iter().enumerate().skip(usize::from(row.sides.len() > 1)) {
            let is_alone = row.sides.len() == 1;
            let ratio = row.ratios.get(place.wrapping_sub(1));
            table.0.push(vec![
                if place <= 1 { row.what.clone() } else { String::new() },
                if place <= 1 { row.unit.into() } else { String::new() },
                if place <= 1 { ours.clone() } else { String::new() },
                if is_alone { "-".into() } else { name.to_string() },
                if is_alone { "-".into() } else { spread(figures) },
                ratio.map_or("-".into(), |ratio| spread(&ratio.rounds)),
                ratio.map_or("-".into(), |ratio| short(ratio.best)),
            ]);
        }
    }
    let mut goals = Table::new(&["goal", "wanted", "found", "met"]);
    for row in rows {
        let Some(goal) = row.goal else { continue };
        let Judged { wanted, found, met } = judge(row, goal);
        goals.0.push(vec![row.what.clone(), wanted, found, if met { "yes" } else { "no" }.into()]);
    }
    let goals = if goals.0.len() > 1 { format!("Goals\n\n{goals}\n") } else { String::new() };
    let loads: Vec<String> = loads.iter().map(|load| format!("{load:.1}")).collect();
    format!(
        "{goals}Medians (least-most) of figures taken in turns\n\n{table}\nLoad of the machine before and after each part: {}\n",
        loads.join(", ")
    )
}

/// An object for each row, then one of the machine.
pub fn json(rows: &[Row], loads: &[f64]) -> serde_json::Result<String> {
    let spread = |spread: &Spread| json!({ "median": spread.median, "min": spread.min, "max": spread.max });
    let mut all: Vec<Value> = vec![];
    for row in rows {
        let mut sides = vec![];
        for (place, (name, figures)) in row.sides.iter().enumerate() {
            let ratio = place.checked_sub(1).and_then(|place| row.ratios.get(place));
            let mut side = spread(figures);
            side["name"] = (*name).into();
            if let Some(Ratio { rounds, best }) = ratio {
                side["una_to_it"] = spread(rounds);
                side["una_to_it_best"] = (*best).into();
            }
            sides.push(side);
        }
        let goal = row.goal.map(|goal| {
            let Judged { wanted, found, met } = judge(row, goal);
            json!({ "wanted": wanted, "found": found, "met": met })
        });
        all.push(json!({ "what": row.what, "unit": row.unit, "sides": sides, "goal": goal }));
    }
    all.push(json!({ "what": "load of the machine", "loads": loads }));
    serde_json::to_string_pretty(&all)
}

struct Judged {
    wanted: String,
    found: String,
    met: bool,
}

fn judge(row: &Row, goal: Goal) -> Judged {
    let (ours, unit) = (row.sides[0].1.median, row.unit);
    let ratio = row.ratios.first().map_or(f64::NAN, |ratio| ratio.rounds.median);
    let other = row.sides.get(1).map_or("", |(name, _)| name);
    let (sign, wanted, found, met, of) = match goal {
        Goal::AtMost(wanted) => ("<=", wanted, ours, ours <= wanted, unit.to_string()),
        Goal::AtLeast(wanted) => (">=", wanted, ours, ours >= wanted, unit.to_string()),
        Goal::RatioAtMost(wanted) => ("<=", wanted, ratio, ratio <= wanted, format!("x {other}")),
        Goal::RatioAtLeast(wanted) => (">=", wanted, ratio, ratio >= wanted, format!("x {other}")),
    };
    Judged { wanted: format!("{sign} {} {of}", short(wanted)), found: short(found), met }
}

fn spread(Spread { median, min, max }: &Spread) -> String {
    if min == max { short(*median) } else { format!("{} ({}-{})", short(*median), short(*min), short(*max)) }
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: f64, theirs: f64, goal: Goal) -> Row {
        let of = |value| Spread::of(&[value]);
        let ratios = vec![Ratio { rounds: of(ours / theirs), best: ours / theirs }];
        Row {
            what: "x".into(),
            unit: "ns",
            sides: vec![("una", of(ours)), ("other", of(theirs))],
            ratios,
            goal: Some(goal),
        }
    }

    #[test]
    fn a_goal_is_met_or_not() {
        let met = |ours, theirs, goal| judge(&row(ours, theirs, goal), goal).met;
        assert!(met(5.0, 6.0, Goal::RatioAtMost(1.0)));
        assert!(!met(7.0, 6.0, Goal::RatioAtMost(1.0)));
        assert!(met(4.0, 6.0, Goal::RatioAtLeast(0.5)));
        assert!(!met(2.0, 6.0, Goal::RatioAtLeast(0.5)));
        assert!(met(5.0, 1.0, Goal::AtMost(5.0)));
        assert!(!met(5.1, 1.0, Goal::AtMost(5.0)));
        assert!(!met(4.9, 1.0, Goal::AtLeast(5.0)));
        // What was not measured is not met.
        assert!(!met(f64::NAN, 1.0, Goal::AtMost(5.0)));
    }

    #[test]
    fn a_lost_comparison_is_shown_like_a_won_one() {
        let text = text(&[row(12.0, 6.0, Goal::RatioAtMost(1.0))], &[0.5]);
        assert!(text.contains("| x    | <= 1.00 x other |  2.00 |  no |"), "{text}");
        assert!(text.contains("|  other |  6.00 |      2.00 |         2.00 |"), "{text}");
        assert!(text.ends_with("each part: 0.5\n"), "{text}");
    }
}
