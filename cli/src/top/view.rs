//! What `una top` looks like, from 40 columns and 8 lines on. Knows the model and the cells of a screen.

use super::model::{Mode, Model, Order, Row, Sample};
use crate::failure::printable;
use crate::{freeze, nodes, ps};
use daemon::node::{Kind, State};
use daemon::system::view::{NodeLine, NodeState};
use drivers::clock::now_ms;
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Paragraph, Table, TableState};
use std::fmt::Write as _;

/// Colours of the terminal's own sixteen, so that they suit whatever the user has chosen.
#[derive(Clone, Copy)]
struct Palette {
    coloured: bool,
}

impl Palette {
    fn of(self, colour: Color) -> Style {
        if self.coloured { Style::new().fg(colour) } else { Style::new() }
    }

    fn faint(self) -> Style {
        if self.coloured { Style::new().fg(Color::DarkGray) } else { Style::new() }
    }

    /// From calm to busy.
    fn load(self, share: f64) -> Style {
        self.of(match share {
            ..0.6 => Color::Green,
            ..0.85 => Color::Yellow,
            _ => Color::Red,
        })
    }

    fn state(self, state: &State) -> Style {
        match state {
            State::Running => self.of(Color::Green),
            State::Ready | State::Starting => self.of(Color::Yellow),
            State::Waiting(_) => Style::new(),
            State::Stopped => self.of(Color::Magenta),
            State::Lost => self.of(Color::Red),
            State::Ended(_) => self.faint(),
        }
    }
}

pub fn draw(frame: &mut Frame, model: &mut Model, coloured: bool) {
    let palette = Palette { coloured };
    let lines = node_lines(model, palette, frame.area());
    let [title, load, memory, nodes, _, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(lines.len() as u16),
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(title_line(model, palette, title.width), title);
    frame.render_widget(load_line(model, palette, load.width), load);
    frame.render_widget(memory_line(model, palette, memory.width), memory);
    frame.render_widget(Paragraph::new(lines), nodes);
    // The heading takes one line of it.
    model.page = usize::from(body.height.saturating_sub(1)).max(1);
    match &model.mode {
        Mode::Output { pid, name, text, back } => {
            let title = format!(" output of {pid} {} ", printable(name));
            output(frame, body, &title, text, *back, palette);
        }
        _ => list(frame, body, model, palette),
    }
    frame.render_widget(foot_line(model, palette), foot);
    match &model.mode {
        Mode::Help => help(frame, palette),
        Mode::AskKill(pid, name) => {
            let lines = vec![
                Line::from(format!("Kill process {pid} ({})?", printable(name))),
                Line::from(vec![Span::styled("y", palette.of(Color::Red)), Span::raw(" yes    any other key: no")]),
            ];
            popup(frame, " kill ", lines, palette);
        }
        Mode::AskMove { pid, name, to } => {
            let ask = format!("Move process {pid} ({}) to the node ", printable(name));
            let lines = vec![
                Line::from(vec![
                    Span::raw(ask),
                    Span::raw(printable(to)),
                    Span::styled("▏", palette.of(Color::Yellow)),
                ]),
                Line::styled("its name or number; Enter moves it, Esc does not", palette.faint()),
            ];
            popup(frame, " move ", lines, palette);
        }
        _ => {}
    }
}

fn title_line(model: &Model, palette: Palette, width: u16) -> Line<'static> {
    let name = Span::styled("una", palette.of(Color::Cyan).add_modifier(Modifier::BOLD));
    let Some(sample) = &model.sample else {
        return Line::from(vec![name, Span::raw("  looking ...")]);
    };
    let node = &sample.node;
    let mut left = format!(" {}  up {}", sample.version, ps::duration(node.uptime_ms));
    if sample.is_of_many() {
        let up = sample.nodes.iter().filter(|line| line.state == NodeState::Up).count();
        left += &format!("  {up} of {} nodes", sample.nodes.len());
    }
    let right = match sample.is_of_many() {
        false => format!("{} processes  {} running  {} ready", node.processes, node.running, node.ready),
        true => {
            let programs = || sample.processes.iter().filter(|view| view.kind == Kind::Program);
            let living = programs().filter(|view| !matches!(view.state, State::Ended(_))).count();
            let running = programs().filter(|view| matches!(view.state, State::Running)).count();
            format!("{living} processes  {running} running")
        }
    };
    let used = 3 + left.len() + right.len();
    let gap = " ".repeat(usize::from(width).saturating_sub(used).max(2));
    Line::from(vec![name, Span::raw(left), Span::raw(gap), Span::raw(right)])
}

/// Columns of a bar, from its label to its value.
fn bar_width(width: u16) -> usize {
    usize::from(width).saturating_sub(30).clamp(8, 40)
}

fn load_line(model: &Model, palette: Palette, width: u16) -> Line<'static> {
    let load = model.load();
    let columns = bar_width(width);
    let mut spans = vec![Span::raw("cpu "), bar(load, columns, palette.load(load))];
    spans.extend([rest(load, columns, palette), Span::raw(format!(" {:>4.0} %", load * 100.0))]);
    let processors = model.sample.as_ref().map_or(0, Sample::processors);
    let left = usize::from(width).saturating_sub(columns + 12);
    // History from here to the edge, if there is room for more than a few moments.
    if left > 14 {
        let label = format!("  of {processors}  ");
        let columns = left.saturating_sub(label.len());
        spans.push(Span::styled(label, palette.faint()));
        spans.push(Span::styled(sparkline(model.history.iter().copied(), columns), palette.of(Color::Cyan)));
    }
    Line::from(spans)
}

fn memory_line(model: &Model, palette: Palette, width: u16) -> Line<'static> {
    let (used, all) = model.sample.as_ref().map_or((0, 0), Sample::memory);
    let share = if all == 0 { 0.0 } else { (used as f64 / all as f64).min(1.0) };
    let columns = bar_width(width);
    let shown = format!(" {} of {}", freeze::size(used), freeze::size(all));
    Line::from(vec![
        Span::raw("mem "),
        bar(share, columns, palette.load(share)),
        rest(share, columns, palette),
        Span::raw(shown),
    ])
}

/// A line for each node, if there are several and there is room. Those that are not heard come first, then the busiest.
fn node_lines(model: &Model, palette: Palette, area: Rect) -> Vec<Line<'static>> {
    let Some(sample) = model.sample.as_ref().filter(|sample| sample.is_of_many()) else {
        return vec![];
    };
    let room = usize::from(area.height.saturating_sub(8)) / 2;
    let busy =
        |line: &NodeLine| line.facts.as_ref().map_or(2.0, |facts| facts.load / f64::from(facts.processors.max(1)));
    let mut nodes: Vec<&NodeLine> = sample.nodes.iter().collect();
    if nodes.len() > room {
        nodes.sort_by(|a, b| busy(b).total_cmp(&busy(a)));
    }
    let shown = if nodes.len() > room { room.saturating_sub(1) } else { nodes.len() };
    let hidden = nodes.len() - shown;
    let width = nodes.iter().map(|line| line.name.chars().count()).max().unwrap_or(0).min(16);
    let noted = nodes.iter().map(|line| notes(line, sample.me, palette).iter().map(Span::width).sum::<usize>());
    let columns = usize::from(area.width).saturating_sub(width + 50 + noted.max().unwrap_or(0)).clamp(6, 30);
    let mut lines: Vec<Line> =
        nodes[..shown].iter().map(|line| node_line(line, sample.me, width, columns, palette)).collect();
    if hidden > 0 && room > 0 {
        lines.push(Line::styled(format!("    and {hidden} more: una nodes"), palette.faint()));
    }
    lines
}

/// What there is to know about a node beside how busy it is.
fn notes(line: &NodeLine, me: u16, palette: Palette) -> Vec<Span<'static>> {
    let lends = line.facts.as_ref().filter(|_| line.state == NodeState::Up).and_then(nodes::lends);
    let draining = line.draining.then(|| Span::styled("  draining", palette.of(Color::Yellow)));
    let lends = lends.map(|lends| Span::styled(format!("  {lends}"), palette.of(Color::Magenta)));
    let here = (line.number == me).then(|| Span::styled("  here", palette.faint()));
    [draining, lends, here].into_iter().flatten().collect()
}

fn node_line(line: &NodeLine, me: u16, width: usize, columns: usize, palette: Palette) -> Line<'static> {
    let name: String = printable(&line.name).chars().take(width).collect();
    let number = Span::styled(format!("n{:<3}", line.number), palette.of(Color::Cyan));
    let mut spans = vec![number, Span::raw(format!("{name:<width$} "))];
    let said = match (&line.facts, line.state) {
        (Some(facts), NodeState::Up) => {
            let processors = f64::from(facts.processors.max(1));
            let load = (facts.load / processors).min(1.0);
            let used = facts.memory_bytes.saturating_sub(facts.memory_free_bytes);
            spans.extend([bar(load, columns, palette.load(load)), rest(load, columns, palette)]);
            let of = format!(" {:>4.1} of {}", facts.load, facts.processors);
            format!(
                "{of}  {} of {}  {} processes",
                freeze::size(used),
                freeze::size(facts.memory_bytes),
                facts.processes
            )
        }
        (_, NodeState::Up) => "up".into(),
        (_, NodeState::Suspect) => "does not answer".into(),
        (_, NodeState::Down) => "down".into(),
        (_, NodeState::Left) => "ended".into(),
    };
    let style = if line.state == NodeState::Up { Style::new() } else { palette.of(Color::Red) };
    spans.push(Span::styled(said, style));
    spans.extend(notes(line, me, palette));
    Line::from(spans)
}

/// The full part of a bar, to an eighth of a column.
fn bar(share: f64, columns: usize, style: Style) -> Span<'static> {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * columns as f64 * 8.0).round() as usize;
    Span::styled("█".repeat(eighths / 8) + PARTS[eighths % 8], style)
}

fn rest(share: f64, columns: usize, palette: Palette) -> Span<'static> {
    let eighths = (share.clamp(0.0, 1.0) * columns as f64 * 8.0).round() as usize;
    Span::styled("·".repeat(columns - eighths.div_ceil(8)), palette.faint())
}

/// The newest values, from 0 to 1, the last at the right.
fn sparkline(values: impl ExactSizeIterator<Item = f64>, columns: usize) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let skip = values.len().saturating_sub(columns);
    let padding = columns.saturating_sub(values.len());
    let level = |value: f64| LEVELS[((value.clamp(0.0, 1.0) * 7.0).round() as usize).min(7)];
    " ".repeat(padding) + &values.skip(skip).map(level).collect::<String>()
}

fn list(frame: &mut Frame, area: Rect, model: &Model, palette: Palette) {
    if model.rows.is_empty() {
        let text = match (model.lost, model.filter.is_empty()) {
            (true, _) => "The daemon has ended. This goes on when it is up again: una up -d",
            (_, true) => "Nothing runs. In another terminal: una run PROG.wasm",
            (_, false) => "No process matches the filter.",
        };
        return frame.render_widget(Paragraph::new(text).style(palette.faint()), area);
    }
    let heading = |title: &str, order: Option<Order>| {
        let chosen = order == Some(model.order);
        let arrow = match (chosen, model.reversed) {
            (false, _) => "",
            (true, false) => "▾",
            (true, true) => "▴",
        };
        let style = palette.of(Color::Cyan);
        let style = if chosen { style.add_modifier(Modifier::BOLD) } else { style };
        Span::styled(format!("{title}{arrow}"), style)
    };
    let right = |span: Span<'static>| Line::from(span).right_aligned();
    let is_of_many = model.sample.as_ref().is_some_and(Sample::is_of_many);
    // Where there is one node nobody is told which.
    let row_of = |mut cells: Vec<Line<'static>>| {
        if !is_of_many {
            cells.remove(1);
        }
        ratatui::widgets::Row::new(cells)
    };
    let headings = row_of(vec![
        right(heading("PID", Some(Order::Pid))),
        heading("NODE", None).into(),
        heading("NAME", Some(Order::Name)).into(),
        heading("STATE", None).into(),
        right(heading("CPU%", Some(Order::Cpu))),
        right(heading("TIME", None)),
        right(heading("MEMORY", Some(Order::Memory))),
        right(heading("UP", Some(Order::Started))),
        heading("COMMAND", None).into(),
    ]);
    let row = |Row { view, share }: &Row| {
        let faint = if matches!(view.state, State::Ended(_)) { palette.faint() } else { Style::new() };
        let share_style = if *share < 0.005 { palette.faint() } else { palette.load(*share) };
        let up = ps::duration(now_ms().saturating_sub(view.started_ms));
        row_of(vec![
            right(Span::raw(view.pid.to_string())),
            Span::styled(format!("n{}", view.node), palette.of(Color::Cyan)).into(),
            Span::styled(printable(&view.name), faint.add_modifier(Modifier::BOLD)).into(),
            Span::styled(ps::describe_state(view), palette.state(&view.state)).into(),
            right(Span::styled(format!("{:.1}", share * 100.0), share_style)),
            right(Span::raw(ps::cpu(view.cpu_ns))),
            right(Span::raw(freeze::size(view.memory_bytes))),
            right(Span::raw(up)),
            Span::styled(printable(&view.args.join(" ")), palette.faint()).into(),
        ])
    };
    let name = model.rows.iter().map(|row| row.view.name.chars().count()).max().unwrap_or(4).clamp(5, 16);
    let pid = model.rows.iter().map(|row| row.view.pid.to_string().len()).max().unwrap_or(0).clamp(5, 12);
    let mut widths = vec![
        Constraint::Length(pid as u16),
        Constraint::Length(4),
        Constraint::Length(name as u16),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Min(4),
    ];
    if !is_of_many {
        widths.remove(1);
    }
    let table = Table::new(model.rows.iter().map(row), widths)
        .header(headings)
        .column_spacing(1)
        .row_highlight_style(Style::new().fg(Color::Reset).add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(model.selected);
    frame.render_stateful_widget(table, area, &mut state);
}

fn output(frame: &mut Frame, area: Rect, title: &str, text: &str, back: usize, palette: Palette) {
    let block =
        Block::bordered().border_type(BorderType::Rounded).border_style(palette.faint()).title(title.to_string());
    let room = usize::from(area.height.saturating_sub(2));
    let lines: Vec<&str> = text.lines().collect();
    let end = lines.len().saturating_sub(back).max(room.min(lines.len()));
    let shown: Vec<Line> =
        lines[end.saturating_sub(room)..end].iter().map(|line| Line::from(printable(line))).collect();
    let shown = if lines.is_empty() {
        vec![Line::styled("It has printed nothing, or nothing of it is kept.", palette.faint())]
    } else {
        shown
    };
    frame.render_widget(Paragraph::new(shown).block(block), area);
}

fn foot_line(model: &Model, palette: Palette) -> Line<'static> {
    if let Mode::Filter = model.mode {
        return Line::from(vec![
            Span::styled("/", palette.of(Color::Yellow)),
            Span::raw(printable(&model.filter)),
            Span::styled("▏", palette.of(Color::Yellow)),
            Span::styled("  Enter keeps it, Esc drops it", palette.faint()),
        ]);
    }
    if model.lost {
        return Line::styled("the daemon is not there; waiting for it   q quits", palette.of(Color::Red));
    }
    if let Some(word) = model.word() {
        return Line::styled(printable(word), palette.of(Color::Yellow));
    }
    let keys: &[(&str, &str)] = match &model.mode {
        Mode::Output { .. } => &[("↑↓ PgUp PgDn", "scroll"), ("Esc", "back")],
        _ => &[
            ("/", "filter"),
            ("cmpnur", "sort"),
            ("k", "kill"),
            ("s", "stop"),
            ("v", "move"),
            ("⏎", "output"),
            ("a", "all"),
            ("?", "keys"),
            ("q", "quit"),
        ],
    };
    let mut spans = vec![];
    if !model.filter.is_empty() {
        let filter = format!("[{}] ", printable(&model.filter));
        spans.push(Span::styled(filter, palette.of(Color::Yellow)));
    }
    for (key, what) in keys {
        spans.push(Span::styled(key.to_string(), palette.of(Color::Cyan).add_modifier(Modifier::BOLD)));
        spans.push(Span::styled(format!(" {what}  "), palette.faint()));
    }
    Line::from(spans)
}

fn help(frame: &mut Frame, palette: Palette) {
    let keys = [
        ("↑ ↓ PgUp PgDn Home End", "choose a process"),
        ("c  m  p  n  u", "order by cpu, memory, pid, name, start"),
        ("r", "turn the order"),
        ("/", "show only what has this in its name or command"),
        ("a", "show what ended and the parts of the system too"),
        ("Enter", "what it printed"),
        ("k", "kill it (asks first)"),
        ("s", "stop it, or let it run on"),
        ("v", "move it to another node"),
        ("q  Esc", "quit"),
    ];
    let line = |(key, what): (&'static str, &'static str)| {
        Line::from(vec![Span::styled(format!("{key:<24}"), palette.of(Color::Cyan)), Span::raw(what)])
    };
    popup(frame, " keys ", keys.map(line).into(), palette);
}

fn popup(frame: &mut Frame, title: &str, lines: Vec<Line<'static>>, palette: Palette) {
    let whole = frame.area();
    let width = lines.iter().map(Line::width).max().unwrap_or(0) as u16 + 4;
    let (width, height) = (width.min(whole.width), (lines.len() as u16 + 2).min(whole.height));
    let area = Rect { x: whole.x + (whole.width - width) / 2, y: whole.y + (whole.height - height) / 2, width, height };
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(palette.of(Color::Cyan))
        .title(title.to_string())
        .padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// Without a screen: one look, for a file or another program.
pub fn plain(model: &Model) -> String {
    let mut text = String::new();
    if let Some(sample) = &model.sample {
        let node = &sample.node;
        let _ = writeln!(
            text,
            "una {}  up {}  {} processes  {} running  {} ready  cpu {:.0} % of {}  mem {} of {}",
            sample.version,
            ps::duration(node.uptime_ms),
            node.processes,
            node.running,
            node.ready,
            model.load() * 100.0,
            sample.processors(),
            freeze::size(sample.memory().0),
            freeze::size(sample.memory().1),
        );
        for line in sample.nodes.iter().filter(|_| sample.is_of_many()) {
            let shown = node_line(line, sample.me, 16, 8, Palette { coloured: false });
            let text_of = shown.spans.iter().map(|span| span.content.as_ref());
            let _ = writeln!(text, "{}", text_of.collect::<String>().trim_end());
        }
    }
    let _ = writeln!(
        text,
        "{:>6} {:<5} {:<16} {:<10} {:>6} {:>9} {:>10} {:>7} COMMAND",
        "PID", "NODE", "NAME", "STATE", "CPU%", "TIME", "MEMORY", "UP"
    );
    for Row { view, share } in &model.rows {
        let _ = writeln!(
            text,
            "{:>6} {:<5} {:<16} {:<10} {:>6.1} {:>9} {:>10} {:>7} {}",
            view.pid,
            format!("n{}", view.node),
            printable(&view.name),
            ps::describe_state(view),
            share * 100.0,
            ps::cpu(view.cpu_ns),
            freeze::size(view.memory_bytes),
            ps::duration(now_ms().saturating_sub(view.started_ms)),
            printable(&view.args.join(" ")),
        );
    }
    text
}

/// A drawn screen as text, with the colours as terminals understand them.
pub fn as_text(buffer: &Buffer) -> String {
    let mut text = String::new();
    let area = buffer.area;
    for y in area.top()..area.bottom() {
        let mut last = Style::reset();
        for x in area.left()..area.right() {
            let cell = &buffer[(x, y)];
            let style = cell.style();
            if style != last {
                text += "\x1b[0";
                if style.add_modifier.contains(Modifier::BOLD) {
                    text += ";1";
                }
                if style.add_modifier.contains(Modifier::REVERSED) {
                    text += ";7";
                }
                if let Some(code) = style.fg.and_then(code_of) {
                    let _ = write!(text, ";{code}");
                }
                text += "m";
                last = style;
            }
            text += cell.symbol();
        }
        text += "\x1b[0m\n";
    }
    text
}

fn code_of(colour: Color) -> Option<u8> {
    Some(match colour {
        Color::Red => 31,
        Color::Green => 32,
        Color::Yellow => 33,
        Color::Magenta => 35,
        Color::Cyan => 36,
        Color::DarkGray => 90,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{model, of_many};
    use super::super::model::{Key, Model};
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen(model: &mut Model, columns: u16, lines: u16, coloured: bool) -> (String, Buffer) {
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
        terminal.draw(|frame| draw(frame, model, coloured)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..columns).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        ((0..lines).map(line).collect::<Vec<_>>().join("\n"), buffer)
    }

    #[test]
    fn everything_is_there_at_80_by_24() {
        let (text, _) = screen(&mut model(), 80, 24, true);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("una 0.1.0  up 1h02m") && lines[0].trim_end().ends_with("2 running  1 ready"),
            "{text}"
        );
        assert!(
            lines[1].contains("cpu █") && lines[1].contains("75 %") && lines[1].trim_end().ends_with('▆'),
            "{text}"
        );
        assert!(lines[2].contains("314.6 MB of 4.3 GB"), "{text}");
        for title in ["PID", "NAME", "STATE", "CPU%▾", "TIME", "MEMORY", "UP", "COMMAND"] {
            assert!(lines[4].contains(title), "{title} in {text}");
        }
        assert!(lines[5].contains("13 raytracer running    100.0"), "{text}");
        assert!(lines[6].contains("14 python    stopped     50.0"), "{text}");
        assert!(lines[7].contains("12 crawler   sleep        0.0"), "{text}");
        assert!(lines[23].contains("k kill") && lines[23].contains("q quit"), "{text}");
    }

    #[test]
    fn each_node_has_a_line() {
        let (text, _) = screen(&mut of_many(), 80, 24, true);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("2 of 3 nodes") && lines[0].trim_end().ends_with("3 processes  1 running"), "{text}");
        assert!(lines[1].contains("of 4"), "{text}");
        assert!(lines[2].contains("12.9 GB of 17.2 GB"), "{text}");
        assert!(lines[3].starts_with("n1  box1 █") && lines[3].contains("1.5 of 2"), "{text}");
        assert!(lines[3].trim_end().ends_with("3 processes  here"), "{text}");
        assert!(lines[4].trim_end().ends_with("3 processes  owner there"), "{text}");
        assert!(lines[5].starts_with("n3  box3 down"), "{text}");
        assert!(lines[7].contains("PID NODE NAME"), "{text}");
        assert!(text.contains("   12 n2   crawler"), "{text}");
        // With little room the one that is missing is what matters.
        let (text, _) = screen(&mut of_many(), 80, 12, true);
        assert!(text.contains("n3  box3 down") && text.contains("and 2 more"), "{text}");
    }

    #[test]
    fn where_to_is_asked() {
        let mut model = of_many();
        for key in ['v', 'n', '2'] {
            model.press(Key::Letter(key));
        }
        let (text, _) = screen(&mut model, 80, 24, true);
        assert!(text.contains("to the node n2▏"), "{text}");
    }

    #[test]
    fn small_and_large_screens_are_drawn() {
        for (columns, lines) in [(1, 1), (20, 5), (40, 8), (300, 100)] {
            screen(&mut model(), columns, lines, true);
            screen(&mut of_many(), columns, lines, true);
            screen(&mut Model::new(), columns, lines, true);
            let mut asking = model();
            asking.press(Key::Letter('k'));
            screen(&mut asking, columns, lines, true);
        }
    }

    #[test]
    fn without_colours_there_are_none() {
        let mut model = model();
        for key in ["k", "n", "?", "x", "/"] {
            model.press(Key::Letter(key.chars().next().unwrap()));
            let (_, buffer) = screen(&mut model, 80, 24, false);
            assert!(
                buffer.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset),
                "after {key}"
            );
        }
    }

    #[test]
    fn questions_are_asked_in_the_middle() {
        let mut model = model();
        model.press(Key::Letter('k'));
        let (text, _) = screen(&mut model, 80, 24, true);
        assert!(text.contains("Kill process 13 (raytracer)?") && text.contains("any other key: no"), "{text}");
    }

    #[test]
    fn output_is_shown_from_its_end() {
        let mut model = model();
        model.press(Key::Enter);
        model.show_output((0..100).map(|i| format!("line {i} \x1b[31m\n")).collect());
        let (text, _) = screen(&mut model, 80, 24, true);
        assert!(
            text.contains("output of 13 raytracer") && text.contains("line 99 ") && !text.contains("line 50 "),
            "{text}"
        );
        assert!(text.contains(r"\u{1b}[31m"), "what a program prints cannot play with the screen");
        model.press(Key::First);
        let (text, _) = screen(&mut model, 80, 24, true);
        assert!(text.contains("line 0 ") && !text.contains("line 99 "), "{text}");
    }

    #[test]
    fn bars_and_history() {
        assert_eq!(bar(0.5, 10, Style::new()).content, "█████");
        assert_eq!(bar(0.56, 10, Style::new()).content, "█████▋");
        assert_eq!(sparkline([0.0, 0.5, 1.0].into_iter(), 5), "  ▁▅█");
        assert_eq!(sparkline([0.0, 0.5, 1.0].into_iter(), 2), "▅█");
    }
}
