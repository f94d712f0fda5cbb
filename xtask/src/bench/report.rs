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
        let median =
            if values.len().is_multiple_of(2) && middle > 0 { (at(middle - 1) + at(middle)) / 2.0 } else { at(middle) };
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

/// The geometric mean of a variant's medians, if there are kernels and every one has it.
fn mean(rows: &[&Row], variant: &str) -> Option<f64> {
    if rows.is_empty() {
        return None;
    }
    let mut logarithms = 0.0;
    for row in rows {
        logarithms += row.steady.ratios.get(variant)?.median.ln();
    }
    Some((logarithms / rows.len() as f64).exp())
}

/// An array of flat rows, one for each kernel, then one of the geometric means and one of the deep stack. A figure `x` that was
/// taken several times has its extremes beside it as `x_min` and `x_max`; `x_best` compares the quickest run with the quickest plain one,
/// which is the least disturbed figure on a busy machine.
pub fn json(rows: &[Row], deep: Option<&Deep>) -> serde_json::Result<String> {
    let mut all = vec![];
    for row in rows {
        let mut object = Object::of(&row.kernel);
        object.number("plain_ms", row.steady.plain_ms);
        for rival in RIVALS {
            match row.steady.ratios.get(rival) {
                Some(ratio) => {
                    object.spread(rival, *ratio);
                    object.number(&format!("{rival}_best"), row.steady.best[rival]);
                }
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
    let every: Vec<&Row> = rows.iter().collect();
    for rival in RIVALS {
        means.number(rival, mean(&every, rival).unwrap_or(f64::NAN));
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
    let every: Vec<&Row> = rows.iter().collect();
    cells.extend(RIVALS.map(|rival| mean(&every, rival).map_or("-".into(), |mean| format!("{mean:.3}"))));
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
        "Goals\n\n{}\nSpeed: time to that of plain code, medians (least-most)\n\n{speed}\n\
         Making: size and time to those of plain code\n\n{making}\nStopping and continuing\n\n{moving}",
        goals(rows, deep),
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

/// What was wanted beside what was found. "Worst" is the worst median of all kernels or programs.
fn goals(rows: &[Row], deep: Option<&Deep>) -> Table {
    let is_python = |row: &&Row| row.program == "python";
    let mut table = Table::new(&["goal", "wanted", "found", "met"]);
    let mut goal = |name: &str, wanted: f64, found: Option<f64>| {
        let Some(found) = found else { return };
        let met = if found <= wanted { "yes" } else { "no" };
        table.0.push(vec![name.into(), format!("{wanted}"), format!("{found:.3}"), met.into()]);
    };
    let worst = |rows: &[&Row], figure: &dyn Fn(&Row) -> f64| rows.iter().map(|row| figure(row)).max_by(f64::total_cmp);
    let all: Vec<&Row> = rows.iter().collect();
    let (python, small): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(is_python);
    goal("time to plain, geometric mean", 1.05, mean(&all, "freeze"));
    goal("time to plain, CPython, geometric mean", 1.05, mean(&python, "freeze"));
    let above = |row: &Row| match (row.steady.ratios.get("freeze"), row.steady.ratios.get("epoch")) {
        (Some(freeze), Some(epoch)) => freeze.median / epoch.median,
        _ => f64::NAN,
    };
    goal("time to that with epochs, worst", 1.0, worst(&all, &above));
    goal("machine code to plain, worst", 1.6, worst(&all, &|row| row.making.code));
    goal("compile time to plain, worst", 1.3, worst(&all, &|row| row.making.compile.median));
    goal("10,000 frames captured, ms", 1.0, deep.map(|deep| deep.captured_ms.median));
    goal("flag to unwound, p50, worst, us", 100.0, worst(&all, &|row| row.stops.unwound_us.median));
    goal("continuing a small program, worst, ms", 1.0, worst(&small, &|row| row.continuing.stored_ms.median));
    goal("continuing CPython, worst, ms", 20.0, worst(&python, &|row| row.continuing.stored_ms.median));
    goal("time after continuing to before, worst", 1.03, worst(&all, &|row| row.continuing.after.median));
    table
}

/// Rows of cells, the first one names the columns.
pub struct Table(pub Vec<Vec<String>>);

impl Table {
    pub fn new(columns: &[&str]) -> Table {
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

    #[test]
    fn a_table_is_aligned() {
        let mut table = Table::new(&["name", "number"]);
        table.0.push(vec!["a long name".into(), "1".into()]);
        let expected = "| name        | number |\n| ----------- | -----: |\n| a long name |      1 |\n";
        assert_eq!(table.to_string(), expected);
    }

    fn row(program: &'static str, freeze: f64, epoch: f64, code: f64) -> Row {
        let spread = Spread::of(&[1.0]);
        Row {
            kernel: program.into(),
            program,
            making: Making { wasm: 1.0, code, compile: spread, rewrite_ms: 1.0, plain_compile_ms: 1.0 },
            steady: Steady {
                plain_ms: 1.0,
                ratios: [("freeze", Spread::of(&[freeze])), ("epoch", Spread::of(&[epoch]))].into(),
                best: Default::default(),
                output: vec![],
            },
            stops: Stops { unwound_us: spread, unwound_p99_us: 1.0 },
            continuing: Continuing {
                ready_ms: spread,
                stored_ms: spread,
                cold_ms: spread,
                load_ms: spread,
                after: spread,
            },
        }
    }

    #[test]
    fn a_goal_is_met_only_if_the_worst_kernel_meets_it() {
        let rows = [row("fib", 1.0, 1.3, 1.9), row("python", 1.21, 1.1, 1.5)];
        let goals = goals(&rows, None).0;
        let found = |name: &str| {
            goals.iter().find(|row| row[0].starts_with(name)).map(|row| (row[2].as_str(), row[3].as_str()))
        };
        assert_eq!(found("time to plain, geometric"), Some(("1.100", "no")));
        assert_eq!(found("time to plain, CPython"), Some(("1.210", "no")));
        assert_eq!(found("time to that with epochs"), Some(("1.100", "no")));
        assert_eq!(found("machine code"), Some(("1.900", "no")));
        assert_eq!(found("compile time"), Some(("1.000", "yes")));
        assert_eq!(found("10,000 frames"), None);
    }
}
