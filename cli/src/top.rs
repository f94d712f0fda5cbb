//! `una top`: the node and its processes, live. This file talks to the daemon and to the terminal; what is known stands in `model`, what
//! is seen in `view`, and neither of them knows where anything comes from.
//!
//! ```text
//!   daemon  --sample, each second-->  model  --draw-->  terminal
//!                                       ^
//!   keys    ----------------------------+---->  action  -->  daemon
//! ```

mod model;
mod view;

use crate::failure::{Failure, Result, status};
use crate::{moving, node, print, ps};
use clap::Args;
use daemon::node::Pid;
use daemon::protocol::client::{AskError, Connection};
use daemon::protocol::{Follow, Frame, Origin, Reply, Request, Until, WhenGone};
use model::{Action, Key, Model, Sample};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::IsTerminal;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Lines of a process's output that are looked at.
const LOG_LINES: u64 = 1000;

/// See all nodes and their processes live
///
/// Keys: arrows move, / filters, c m p n u sort, r turns the order, k kills, s stops and lets run on, v moves to
/// another node, Enter shows the output, a shows what ended and the parts of the system too, ? tells of the keys, q quits.
/// Without a terminal: prints one snapshot.
#[derive(Args)]
pub struct Top {
    /// How often it looks
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = crate::limits::seconds)]
    delay: Duration,

    /// Draw one screen of this size as text with colours, and end: for pictures
    #[arg(long, value_name = "COLUMNSxLINES", hide = true, value_parser = size)]
    draw: Option<(u16, u16)>,
}

fn size(text: &str) -> std::result::Result<(u16, u16), String> {
    let parsed = text.split_once('x').and_then(|(columns, lines)| Some((columns.parse().ok()?, lines.parse().ok()?)));
    parsed.ok_or_else(|| "expected a size, for example 80x24".into())
}

impl Top {
    pub fn execute(self) -> Result<u8> {
        let connection = node::connect()?;
        let coloured = std::env::var_os("NO_COLOR").is_none();
        match self.draw {
            Some((columns, lines)) => draw(connection, columns, lines),
            None if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() => snapshot(connection),
            None => live(connection, self.delay, coloured),
        }
    }
}

/// Two looks, because a share of the processor is something between two.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

fn snapshot(mut connection: Connection) -> Result<u8> {
    let mut model = Model::new();
    model.take(sample(&mut connection)?);
    std::thread::sleep(BETWEEN_LOOKS);
    model.take(sample(&mut connection)?);
    print(&view::plain(&model))?;
    Ok(0)
}

/// A screen with some history in it.
fn draw(mut connection: Connection, columns: u16, lines: u16) -> Result<u8> {
    const LOOKS: usize = 24;
    let mut model = Model::new();
    for _ in 0..LOOKS {
        model.take(sample(&mut connection)?);
        std::thread::sleep(BETWEEN_LOOKS);
    }
    let failure = |error: std::convert::Infallible| Failure::new(status::FAILED, "cannot draw").because(error);
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).map_err(failure)?;
    terminal.draw(|frame| view::draw(frame, &mut model, true)).map_err(failure)?;
    print(&view::as_text(terminal.backend().buffer()))?;
    Ok(0)
}

fn live(connection: Connection, delay: Duration, coloured: bool) -> Result<u8> {
    let mut terminal =
        ratatui::try_init().map_err(|error| Failure::new(status::FAILED, "cannot use this terminal").because(error))?;
    let done = look_on(&mut terminal, connection, delay, coloured);
    ratatui::restore();
    done
}

fn look_on(
    terminal: &mut ratatui::DefaultTerminal, connection: Connection, delay: Duration, coloured: bool,
) -> Result<u8> {
    let failure = |error: std::io::Error| Failure::new(status::FAILED, "cannot use this terminal").because(error);
    let mut model = Model::new();
    let mut connection = Some(connection);
    let mut next = Instant::now();
    // What is on its way, and tells what came of it.
    let (tell, told_later) = channel();
    loop {
        if Instant::now() >= next {
            next = Instant::now() + delay;
            look(&mut model, &mut connection);
        }
        while let Ok(word) = told_later.try_recv() {
            model.say(word);
        }
        terminal.draw(|frame| view::draw(frame, &mut model, coloured)).map_err(failure)?;
        if !event::poll(next.saturating_duration_since(Instant::now())).map_err(failure)? {
            continue;
        }
        let Some(key) = key_of(&event::read().map_err(failure)?) else {
            continue;
        };
        let (request, done) = match model.press(key) {
            Action::None => continue,
            Action::Leave => return Ok(0),
            Action::Look => {
                next = Instant::now();
                continue;
            }
            Action::Kill(pid) => (Request::Kill { pid }, format!("killed {pid}")),
            Action::Stop(pid) => (Request::Stop { pid }, format!("stopped {pid}")),
            Action::Cont(pid) => (Request::Cont { pid }, format!("{pid} runs on")),
            Action::Move(pid, to) => {
                model.say(format!("moving {pid} to {to} ..."));
                let tell = tell.clone();
                // A large process takes seconds, and the screen is not to stand still meanwhile.
                std::thread::spawn(move || {
                    // Whoever has left is not told.
                    let _ = tell.send(moving::quietly(pid, &to));
                });
                continue;
            }
        };
        model.say(told(&mut connection, &request, done));
        next = Instant::now();
    }
}

/// Takes a sample, and finds the daemon again if it was restarted.
fn look(model: &mut Model, connection: &mut Option<Connection>) {
    if connection.is_none() {
        *connection = node::find().ok().flatten();
    }
    let Some(open) = connection else {
        return model.lose();
    };
    let output = model.output_of().map(|pid| output(open, pid));
    match sample(open) {
        Ok(sample) => model.take(sample),
        Err(_) => {
            *connection = None;
            model.lose();
        }
    }
    if let Some(output) = output {
        model.show_output(output);
    }
}

fn sample(connection: &mut Connection) -> Result<Sample> {
    let status = match connection.ask(&Request::Status).map_err(node::failed)? {
        Reply::Status(status) => status,
        other => return Err(node::unexpected(&other)),
    };
    let system = match connection.ask(&Request::System).map_err(node::failed)? {
        Reply::System(system) => system,
        other => return Err(node::unexpected(&other)),
    };
    let (processes, _) = ps::in_system(connection, true)?;
    Ok(Sample {
        nodes: system.nodes,
        me: system.me,
        at: Instant::now(),
        version: status.version,
        node: status.node,
        processes,
        machine_memory: machine_memory(),
    })
}

/// Of the machine, which is the daemon's own: a node's socket is of its machine.
fn machine_memory() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

/// The end of what a process printed.
fn output(connection: &mut Connection, pid: Pid) -> String {
    let follow = Follow {
        from: Origin::Lines(LOG_LINES),
        until: Until::Now,
        input: false,
        lossless: false,
        when_gone: WhenGone::RunOn,
    };
    let read = |connection: &mut Connection| -> std::result::Result<Vec<u8>, AskError> {
        connection.ask(&Request::Attach { pid, follow })?;
        let mut bytes = vec![];
        loop {
            match connection.frame()? {
                Frame::Bytes(more) | Frame::Errors(more) => bytes.extend_from_slice(&more),
                frame => match frame.message::<Reply>()? {
                    Reply::Done => return Ok(bytes),
                    Reply::Refused(refusal) => return Err(AskError::Refused(refusal)),
                    _ => {}
                },
            }
        }
    };
    match read(connection) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => error.to_string(),
    }
}

/// What came of an order, in a line.
fn told(connection: &mut Option<Connection>, request: &Request, done: String) -> String {
    match connection.as_mut().map(|connection| connection.ask(request)) {
        Some(Ok(_)) => done,
        Some(Err(error)) => error.to_string(),
        None => "the daemon is not there".into(),
    }
}

fn key_of(event: &Event) -> Option<Key> {
    let Event::Key(key) = event else { return None };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    Some(match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        KeyCode::Char(c) => Key::Letter(c),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::First,
        KeyCode::End => Key::Last,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}
