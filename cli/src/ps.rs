//! `una ps`: the programs that una runs for this user.

use crate::control::{self, Description, Reply, Request};
use crate::failure::{Result, printable, quoted};
use crate::{job, print};
use clap::Args;
use serde::Serialize;

/// List the running programs
#[derive(Args)]
pub struct Ps {
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct List {
    /// Changes when a field changes its meaning or goes; new fields may come.
    schema: &'static str,
    processes: Vec<Process>,
}

#[derive(Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum Process {
    Running(Description),
    /// It is there, but does not answer: it may be stopped.
    Silent {
        pid: u32,
        why: String,
    },
}

impl Ps {
    pub fn execute(self) -> Result<u8> {
        let mut processes = vec![];
        for pid in control::running()? {
            let asked = control::connect(pid).and_then(|found| found.map(|c| c.ask(&Request::Describe)).transpose());
            processes.push(match asked {
                Ok(None) => continue,
                Ok(Some(Reply::Process(description))) => Process::Running(description),
                Ok(Some(other)) => Process::Silent { pid, why: format!("it answered something else: {other:?}") },
                // It ended between the two looks.
                Err(_) if control::connect(pid).is_ok_and(|found| found.is_none()) => continue,
                Err(failure) => Process::Silent { pid, why: failure.to_lines().0 },
            });
        }
        let list = List { schema: "una.ps/1", processes };
        let text = if self.json {
            serde_json::to_string_pretty(&list).expect("the list is plain data") + "\n"
        } else {
            table(&list.processes)
        };
        print(&text)?;
        Ok(0)
    }
}

fn table(processes: &[Process]) -> String {
    if processes.is_empty() {
        return "no programs are running; start one: una run PROG\n".into();
    }
    let mut rows = vec![["PID", "NAME", "UP", "ENGINE", "COMMAND"].map(String::from)];
    for process in processes {
        rows.push(match process {
            Process::Running(Description { pid, name, arguments, engine, started_ms, .. }) => {
                let command = arguments.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
                [
                    pid.to_string(),
                    name.clone(),
                    duration(job::now_ms().saturating_sub(*started_ms)),
                    engine.clone(),
                    command,
                ]
            }
            Process::Silent { pid, why } => [pid.to_string(), "?".into(), "?".into(), "?".into(), format!("({why})")],
        });
    }
    rows.iter_mut().flatten().for_each(|cell| *cell = printable(cell));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}
