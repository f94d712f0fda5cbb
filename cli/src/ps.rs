//! `una ps`: the programs that una runs for this user, in the daemon and in processes of their own.

use crate::control::{self, Description, Reply, Request};
use crate::failure::{Result, printable, quoted};
use crate::{freeze, json, node, print};
use clap::Args;
use daemon::node::{End, Kind, MountOrder, Pid, ProcessView, State, Stay, Waits};
use daemon::protocol;
use drivers::clock::now_ms;
use serde::Serialize;

/// List the running programs
///
/// Those that were started without a daemon have the process number of Linux, and run until their own una ends.
#[derive(Args)]
pub struct Ps {
    /// List those that ended lately and the parts of the system too
    #[arg(short, long)]
    all: bool,

    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct List {
    processes: Vec<Process>,
    /// Nodes that did not say what runs there.
    missing: Vec<Missing>,
}

/// A node that did not answer.
#[derive(Serialize)]
pub struct Missing {
    pub node: u16,
    pub name: String,
    pub why: String,
}

#[derive(Serialize)]
#[serde(tag = "where", rename_all = "kebab-case")]
enum Process {
    /// In the daemon.
    Node(InNode),
    /// In a process of its own.
    Private(Private),
}

#[derive(Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum Private {
    Running(Description),
    /// It is there, but does not answer: it may be stopped.
    Silent {
        pid: u32,
        why: String,
    },
}

/// A process of the daemon, as scripts see it.
#[derive(Serialize)]
pub struct InNode {
    state: &'static str,
    pid: Pid,
    parent: Option<Pid>,
    name: String,
    arguments: Vec<String>,
    program: String,
    kind: Kind,
    /// In the state `waiting`.
    waits_for: Option<&'static str>,
    /// The number of the node that it is on.
    node: u16,
    /// In the state `ended`.
    end: Option<End>,
    started_ms: u64,
    cpu_ns: u64,
    memory_bytes: u64,
    handles: u32,
    output_bytes: u64,
    mounts: Vec<MountOrder>,
    /// How often it was begun, the first time not counted.
    incarnation: u32,
    /// Of which process it is a clone.
    forked_from: Option<Pid>,
    /// What it is to the owner of the machine that it is on.
    stay: Stay,
}

impl From<ProcessView> for InNode {
    fn from(view: ProcessView) -> InNode {
        let (state, waits_for, end) = match view.state {
            State::Starting => ("starting", None, None),
            State::Ready => ("ready", None, None),
            State::Running => ("running", None, None),
            State::Waiting(waits) => ("waiting", Some(waits_for(waits)), None),
            State::Stopped => ("stopped", None, None),
            State::Lost => ("lost", None, None),
            State::Ended(end) => ("ended", None, Some(end)),
        };
        InNode {
            state,
            waits_for,
            end,
            pid: view.pid,
            node: view.node,
            parent: view.parent,
            name: view.name,
            arguments: view.args,
            program: view.program,
            kind: view.kind,
            started_ms: view.started_ms,
            cpu_ns: view.cpu_ns,
            memory_bytes: view.memory_bytes,
            handles: view.handles,
            output_bytes: view.output_bytes,
            mounts: view.mounts,
            incarnation: view.incarnation,
            forked_from: view.lineage.from,
            stay: view.stay,
        }
    }
}

/// What a process waits for, in a word.
fn waits_for(waits: Waits) -> &'static str {
    match waits {
        Waits::Sleep => "sleep",
        Waits::Receive => "receive",
        Waits::Send => "send",
        Waits::Call => "call",
        Waits::Child => "child",
        Waits::Pipe => "pipe",
        Waits::Node => "node",
    }
}

/// How a process is, in a word or two.
pub fn describe_state(view: &ProcessView) -> String {
    match &view.state {
        State::Starting => "starting".into(),
        State::Ready => "ready".into(),
        State::Running => "running".into(),
        State::Waiting(waits) => waits_for(*waits).into(),
        State::Stopped if view.stay == Stay::Paused => "paused".into(),
        State::Stopped => "stopped".into(),
        State::Lost => "lost".into(),
        State::Ended(end) => node::describe_end(end),
    }
}

/// The processes of all nodes, and the nodes that did not say.
pub fn in_system(
    connection: &mut protocol::client::Connection, ended: bool,
) -> Result<(Vec<ProcessView>, Vec<Missing>)> {
    connection.send(&protocol::Request::Processes { ended }).map_err(node::failed)?;
    let (mut views, mut missing) = (vec![], vec![]);
    loop {
        match connection.reply().map_err(node::failed)? {
            protocol::Reply::Process(view) => views.push(view),
            protocol::Reply::Missing { node, name, why } => missing.push(Missing { node, name, why }),
            protocol::Reply::Done => return Ok((views, missing)),
            other => return Err(node::unexpected(&other)),
        }
    }
}

impl Ps {
    pub fn execute(self) -> Result<u8> {
        let mut rows = vec![];
        let mut processes = vec![];
        let mut missing = vec![];
        let mut many_nodes = false;
        if let Some(mut connection) = node::find()? {
            let (views, silent) = in_system(&mut connection, self.all)?;
            many_nodes = !silent.is_empty() || views.windows(2).any(|pair| pair[0].node != pair[1].node);
            missing = silent;
            for view in views.into_iter().filter(|view| self.all || view.kind == Kind::Program) {
                rows.push(node_row(&view));
                processes.push(Process::Node(view.into()));
            }
        }
        for private in private()? {
            rows.push(private_row(&private));
            processes.push(Process::Private(private));
        }
        let list = List { processes, missing };
        let text = match self.json {
            true => json::text("una.ps/1", &list),
            false if rows.is_empty() => "no programs are running; start one: una run PROG\n".into(),
            false => table(rows, many_nodes),
        };
        print(&text)?;
        if !self.json {
            for Missing { name, why, .. } in &list.missing {
                eprintln!("{}", printable(&format!("{name} does not say what runs there: {why}")));
            }
        }
        Ok(0)
    }
}

fn private() -> Result<Vec<Private>> {
    let mut processes = vec![];
    for pid in control::running()? {
        let asked = control::connect(pid).and_then(|found| found.map(|c| c.ask(&Request::Describe)).transpose());
        processes.push(match asked {
            Ok(None) => continue,
            Ok(Some(Reply::Process(description))) => Private::Running(description),
            Ok(Some(other)) => Private::Silent { pid, why: format!("it answered something else: {other:?}") },
            // It ended between the two looks.
            Err(_) if control::connect(pid).is_ok_and(|found| found.is_none()) => continue,
            Err(failure) => Private::Silent { pid, why: failure.to_lines().0 },
        });
    }
    Ok(processes)
}

const TITLES: [&str; 8] = ["PID", "NODE", "NAME", "STATE", "UP", "CPU", "MEMORY", "COMMAND"];

type Row = [String; 8];

fn node_row(view: &ProcessView) -> Row {
    [
        view.pid.to_string(),
        format!("n{}", view.node),
        view.name.clone(),
        match view.incarnation {
            0 => describe_state(view),
            1 => format!("{}, begun again", describe_state(view)),
            times => format!("{}, begun again {times} times", describe_state(view)),
        },
        duration(now_ms().saturating_sub(view.started_ms)),
        cpu(view.cpu_ns),
        freeze::size(view.memory_bytes),
        command(&view.args),
    ]
}

fn private_row(process: &Private) -> Row {
    match process {
        Private::Running(Description { pid, name, arguments, engine, started_ms, .. }) => [
            pid.to_string(),
            "-".into(),
            name.clone(),
            format!("private, {engine}"),
            duration(now_ms().saturating_sub(*started_ms)),
            "-".into(),
            "-".into(),
            command(arguments),
        ],
        Private::Silent { pid, why } => {
            let unknown = || "?".to_string();
            [
                pid.to_string(),
                "-".into(),
                unknown(),
                "private".into(),
                unknown(),
                unknown(),
                unknown(),
                format!("({why})"),
            ]
        }
    }
}

fn command(arguments: &[String]) -> String {
    arguments.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// On a system of one node nobody wants to read where a process is.
fn table(rows: Vec<Row>, many_nodes: bool) -> String {
    const NODE: usize = 1;
    let shown = |row: &[String; 8]| {
        let cells = row.iter().enumerate().filter(|(column, _)| many_nodes || *column != NODE);
        cells.map(|(_, cell)| cell.clone()).collect::<Vec<_>>()
    };
    let titles = shown(&TITLES.map(String::from));
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    crate::nodes::table(&titles, rows.iter().map(shown).collect())
}

/// Processor time.
pub fn cpu(ns: u64) -> String {
    match ns {
        0..100_000_000_000 => format!("{:.2}s", ns as f64 / 1e9),
        _ => duration(ns / 1_000_000),
    }
}

pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}
