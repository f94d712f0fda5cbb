//! Where what is measured lives: programs made from `bench/local`, nodes with directories of their own, and programs that answer
//! questions. Knows nothing of what is asked.

use crate::Outcome;
use crate::step::output;
use daemon::node::{Console, Node, NodeOptions, Order, Output, Piece, ProcessLimits, Started, Stdio};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// For an answer, on a machine however busy.
pub const SOON: Duration = Duration::from_secs(120);

pub struct House {
    directory: PathBuf,
}

/// Is a program linked with the C library?
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Library {
    C,
    None,
}

impl House {
    pub fn new() -> Outcome<House> {
        let directory = crate::root().join("target/bench/local");
        if directory.exists() {
            std::fs::remove_dir_all(&directory)?;
        }
        std::fs::create_dir_all(&directory)?;
        Ok(House { directory })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `bench/local/NAME.c` as wasm.
    pub fn program(&self, name: &str, library: Library) -> Outcome<Vec<u8>> {
        let wasm = self.directory.join(format!("{name}.wasm"));
        let mut command = Command::new("clang");
        command.args(["--target=wasm32-wasi", "--sysroot=/usr", "-isystem", "/usr/include/wasm32-wasi", "-O2", "-I"]);
        command.arg(crate::root().join("sdk")).arg(crate::root().join(format!("bench/local/{name}.c")));
        if library == Library::None {
            command.args(["-nostdlib", "-Wl,-z,stack-size=8192"]);
        }
        output(command.arg("-o").arg(&wasm), "cargo xtask setup installs what compiles C to WebAssembly")?;
        Ok(std::fs::read(wasm)?)
    }

    pub fn node(&self, name: &str, workers: u16) -> Outcome<Node> {
        Ok(Node::start(&NodeOptions {
            data: self.directory.join(name),
            cache: None,
            workers: Some(workers),
            target: engine::Target::Native,
            ..NodeOptions::default()
        })?)
    }
}

/// An order to run this program; the name comes first among the arguments.
pub fn order(program: &engine::Program, args: &[&str]) -> Order {
    Order {
        program: program.clone(),
        name: args[0].into(),
        args: args.iter().map(|arg| arg.to_string()).collect(),
        env: vec![],
        mounts: vec![],
        limits: ProcessLimits::default(),
        stdio: Stdio { input: true, ..Stdio::default() },
    }
}

/// A program on a node that answers each line with a line.
pub struct Guest {
    console: Console,
    at: u64,
}

impl Guest {
    pub fn start(node: &Node, program: &engine::Program, args: &[&str]) -> Outcome<Guest> {
        let Started { console, .. } = node.run(order(program, args))?;
        Ok(Guest { console, at: 0 })
    }

    pub fn ask(&mut self, line: &str) -> Outcome<String> {
        let line = format!("{line}\n");
        if self.console.write(line.as_bytes(), SOON) != line.len() {
            return Err("the program does not read".into());
        }
        let mut answer = String::new();
        while !answer.ends_with('\n') {
            match self.console.read(self.at, 4096, SOON) {
                Piece::Bytes { bytes, next, stream: Output::Out, .. } => {
                    answer.push_str(&String::from_utf8_lossy(&bytes));
                    self.at = next;
                }
                other => return Err(format!("instead of an answer: {other:?}").into()),
            }
        }
        Ok(answer.trim_end().into())
    }

    /// Nanoseconds for one of `count`.
    pub fn time(&mut self, word: &str, count: u32) -> Outcome<f64> {
        per_one(&self.ask(&format!("{word} {count}"))?, count)
    }
}

/// A total, as text, for each of `count`.
pub fn per_one(answer: &str, count: u32) -> Outcome<f64> {
    let total: f64 = answer.parse().map_err(|_| format!("`{answer}` instead of a number"))?;
    Ok(total / f64::from(count))
}
