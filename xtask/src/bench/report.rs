//! Figures as people and programs read them. Knows nothing of how they were taken.

use super::continuing::Continuing;
use super::freeze::Making;
use super::steady::Steady;
use super::stopping::{Deep, Stops};
use serde_json::{Map, Value};
use std::fmt::Write;

/// A median with the extremes around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of no values at all: not a number.
    pub fn of(values: &[f64]) -> Spread {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 0 && middle > 0 { (at(middle - 1) + at(middle)) / 2.0 } else { at(middle) };
        Spread { median, min: at(0), max: at(values.len().saturating_sub(1)) }
    }
}

/// What was found out about one kernel.
pub struct Row {
    pub kernel: String,
    pub program: &'static str,
    pub making: Making,
    pub steady: Steady,
    pub stops: Stops,
    pub continuing: Continuing,
}

const RIVALS: [&str; 4] = ["freeze", "epoch", "fuel", "asyncify"];

/// The geometric mean of a variant's medians, if every kernel has one.
fn mean(rows: &[Row], variant: &str) -> Option<f64> {
    let mut logarithms = 0.0;
    for row in rows {
        logarithms += row.steady.ratios.get(variant)?.median.ln();
    }
    Some((logarithms / rows.len() as f64).exp())
}

/// An array of flat rows, one for each kernel, then one of the geometric means and one of the deep stack. A figure `x` that was
/// taken several times has its extremes beside it as `x_min` and `x_max`.
pub fn json(rows: &[Row], deep: Option<&Deep>) -> serde_json::Result<String> {
    let mut all = vec![];
    for row in rows {
        let mut object = Object::of(&row.kernel);
        object.number("plain_ms", row.steady.plain_ms);
        for rival in RIVALS {
            match row.steady.ratios.get(rival) {
                Some(ratio) => object.spread(rival, *ratio),
                None => drop(object.0.insert(rival.into(), Value::Null)),
            }
        }
        let Row { making, stops, continuing, .. } = row;
        object.number("wasm_size", making.wasm);
        object.number("code_size", making.code);
        object.spread("compile", making.compile);
        object.number("plain_compile_ms", making.plain_compile_ms);
        object.number("rewrite_ms", making.rewrite_ms);
        object.spread("unwound_us", stops.unwound_us);
        object.number("unwound_us_p99", stops.unwound_p99_us);
        object.spread("continue_ready_ms", continuing.ready_ms);
        object.spread("continue_stored_ms", continuing.stored_ms);
        object.spread("continue_cold_ms", continuing.cold_ms);
        object.spread("load_ms", continuing.load_ms);
        object.spread("after", continuing.after);
        all.push(Value::Object(object.0));
    }
    let mut means = Object::of("geometric mean");
    for rival in RIVALS {
        means.number(rival, mean(rows, rival).unwrap_or(f64::NAN));
    }
    all.push(Value::Object(means.0));
    if let Some(deep) = deep {
        let mut object = Object::of("deep");
        object.number("frames", deep.frames as f64);
        object.number("image_bytes", deep.image_bytes as f64);
        object.spread("unwound_ms", deep.unwound_ms);
        object.spread("image_ms", deep.image_ms);
        object.spread("captured_ms", deep.captured_ms);
        all.push(Value::Object(object.0));
    }
    serde_json::to_string_pretty(&all)
}

struct Object(Map<String, Value>);

impl Object {
    fn of(kernel: &str) -> Object {
        Object(Map::from_iter([("kernel".to_string(), kernel.into())]))
    }

    /// What is not a number becomes null.
    fn number(&mut self, name: &str, value: f64) {
        self.0.insert(name.into(), ((value * 1e4).round() / 1e4).into());
    }

    fn spread(&mut self, name: &str, spread: Spread) {
        self.number(name, spread.median);
        self.number(&format!("{name}_min"), spread.min);
        self.number(&format!("{name}_max"), spread.max);
    }
}

/// Tables in Markdown.
pub fn table(rows: &[Row], deep: Option<&Deep>) -> String {
    let ratio = |ratio: Option<&Spread>| match ratio {
        Some(Spread { median, min, max }) => format!("{median:.3} ({min:.2}-{max:.2})"),
        None => "-".into(),
    };
    let mut speed = Table::new(&["kernel", "plain ms", "freeze", "epoch", "fuel", "asyncify"]);
    for row in rows {
        let mut cells = vec![row.kernel.clone(), format!("{:.1}", row.steady.plain_ms)];
        cells.extend(RIVALS.map(|rival| ratio(row.steady.ratios.get(rival))));
        speed.0.push(cells);
    }
    let mut cells = vec!["geometric mean".to_string(), String::new()];
    cells.extend(RIVALS.map(|rival| mean(rows, rival).map_or("-".into(), |mean| format!("{mean:.3}"))));
    speed.0.push(cells);

    let mut making = Table::new(&["program", "wasm", "machine code", "compile CPU", "plain compile ms", "rewrite ms"]);
    for group in rows.chunk_by(|one, other| one.program == other.program) {
        let Making { wasm, code, compile, rewrite_ms, plain_compile_ms } = &group[0].making;
        let (wasm, code, compile) = (format!("{wasm:.2}"), format!("{code:.2}"), ratio(Some(compile)));
        let name = group[0].program.to_string();
        making.0.push(vec![name, wasm, code, compile, format!("{plain_compile_ms:.0}"), format!("{rewrite_ms:.1}")]);
    }

    let span = |Spread { median, min, max }: &Spread| format!("{median:.2} ({min:.2}-{max:.2})");
    let mut moving = Table::new(&[
        "kernel",
        "unwound us p50",
        "p99",
        "continue ms: ready",
        "stored",
        "cold",
        "load ms",
        "speed after",
    ]);
    for Row { kernel, stops, continuing, .. } in rows {
        moving.0.push(vec![
            kernel.clone(),
            format!("{:.0}", stops.unwound_us.median),
            format!("{:.0}", stops.unwound_p99_us),
            span(&continuing.ready_ms),
            span(&continuing.stored_ms),
            span(&continuing.cold_ms),
            span(&continuing.load_ms),
            ratio(Some(&continuing.after)),
        ]);
    }

    let mut text = format!(
        "Speed: time to that of plain code, medians (least-most)\n\n{speed}\nMaking: size and time to those of plain code\n\n{making}\n\
         Stopping and continuing\n\n{moving}"
    );
    if let Some(Deep { frames, unwound_ms, image_ms, captured_ms, image_bytes }) = deep {
        let _ = writeln!(
            text,
            "\n{frames} frames: unwound in {} ms, written as an image of {image_bytes} bytes (memory pages aside) in {} ms, together {} ms",
            span(unwound_ms),
            span(image_ms),
            span(captured_ms),
        );
    }
    text
}

/// Rows of cells, the first one names the columns.
struct Table(Vec<Vec<String>>);

impl Table {
    fn new(columns: &[&str]) -> Table {
        Table(vec![columns.iter().map(|name| name.to_string()).collect()])
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| self.0.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.0[0].len()).map(width).collect();
        for (number, row) in self.0.iter().enumerate() {
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                if column == 0 { write!(f, "| {cell:<width$} |")? } else { write!(f, " {cell:>width$} |")? }
            }
            writeln!(f)?;
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let line = "-".repeat(*width);
                    if column == 0 { write!(f, "| {line} |")? } else { write!(f, " {}: |", &line[1..])? }
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_median_and_the_extremes() {
        let spread = |values: &[f64]| (Spread::of(values).median, Spread::of(values).min, Spread::of(values).max);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (2.0, 1.0, 3.0));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), (2.5, 1.0, 4.0));
        assert_eq!(spread(&[7.0]), (7.0, 7.0, 7.0));
        assert!(Spread::of(&[]).median.is_nan());
    }
}
