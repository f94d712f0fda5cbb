//! `hello, world` from the order to the end of it: inside of a node's process, and as a whole command beside the shortest programs that the
//! system has.

use super::compare::{Better, Goal, Row, compare};
use super::house::{House, Library, SOON, order};
use super::{Asked, Side};
use crate::Outcome;
use crate::step::{cargo, output};
use daemon::node::{End, Node, Piece};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const RUNS: u32 = 5;
const GOAL_MS: f64 = 5.0;
const TEXT: &str = "hello, world\n";

pub fn measure(house: &House, asked: Asked) -> Outcome<Vec<Row>> {
    let wasm = house.program("hello", Library::C)?;
    let node = house.node("hello", 2)?;
    let program = node.load(wasm, &mut |_| {})?;
    let python = || command(Command::new(python()).args(["-c", "pass"]), "");
    let nothing = || command(&mut Command::new("/bin/true"), "");
    let sides = vec![
        Side::new("una, in the node's process", || timed(|| inside(&node, &program))),
        Side::new("/bin/true", || timed(nothing)),
        Side::new("python3 -c pass", || timed(python)),
    ];
    let mut rows = vec![compare("hello, world", "ms", Better::Less, asked.rounds, sides)?];
    // What it held is thrown away.
    let _ = node.shutdown();
    let una = Una::up(house)?;
    let sides = vec![
        Side::new("una run, una is up", || timed(|| una.hello())),
        Side::new("/bin/true", || timed(nothing)),
        Side::new("python3 -c pass", || timed(python)),
    ];
    rows.push(
        compare("hello, world, the whole command", "ms", Better::Less, asked.rounds, sides)?
            .wanted(Goal::AtMost(GOAL_MS)),
    );
    una.down()?;
    let sides = vec![
        Side::new("una run, alone", || timed(|| una.hello())),
        Side::new("/bin/true", || timed(nothing)),
        Side::new("python3 -c pass", || timed(python)),
    ];
    rows.push(compare("hello, world, the whole command", "ms", Better::Less, asked.rounds, sides)?);
    Ok(rows)
}

/// The system's own, if it has one: what comes first in `PATH` may be a script that looks for others.
fn python() -> &'static str {
    let own = "/usr/bin/python3";
    if Path::new(own).exists() { own } else { "python3" }
}

/// Milliseconds for one.
fn timed(run: impl Fn() -> Outcome) -> Outcome<f64> {
    let start = Instant::now();
    for _ in 0..RUNS {
        run()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e3 / f64::from(RUNS))
}

fn inside(node: &Node, program: &engine::Program) -> Outcome {
    let started = node.run(order(program, &["hello"]))?;
    match node.wait(started.pid, SOON)? {
        Some(End::Exited(0)) => {}
        end => return Err(format!("it ended so: {end:?}").into()),
    }
    match started.console.read(0, 4096, Duration::ZERO) {
        Piece::Bytes { bytes, .. } if bytes == TEXT.as_bytes() => Ok(()),
        other => Err(format!("it wrote {other:?}").into()),
    }
}

fn command(command: &mut Command, wanted: &str) -> Outcome {
    let said = output(command, "it is a part of what is measured")?;
    if said == wanted { Ok(()) } else { Err(format!("it wrote {said:?}").into()) }
}

/// The command line, in a house of its own.
struct Una {
    binary: PathBuf,
    house: PathBuf,
}

impl Una {
    fn up(house: &House) -> Outcome<Una> {
        output(cargo().args(["build", "--release", "--quiet", "--bin", "una"]), "cargo comes with Rust")?;
        let una = Una { binary: crate::target().join("release/una"), house: house.directory().join("home") };
        std::fs::create_dir_all(&una.house)?;
        output(una.command().args(["up", "-d"]), "it was just built")?;
        // It compiles the program for the first time.
        una.hello()?;
        Ok(una)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("HOME", &self.house).current_dir(&self.house);
        for name in ["XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"] {
            command.env(name, &self.house);
        }
        command
    }

    fn hello(&self) -> Outcome {
        command(self.command().arg("run").arg(self.house.with_file_name("hello.wasm")), TEXT)
    }

    fn down(&self) -> Outcome {
        output(self.command().arg("down"), "it was just built").map(drop)
    }
}

impl Drop for Una {
    fn drop(&mut self) {
        // Usually it is down already.
        let _ = output(self.command().arg("down"), "it was just built");
    }
}
