//! The Erlang system as a peer: one process of it, started once, that answers lines with lines. Knows nothing of what is asked.

use super::house::{House, per_one};
use crate::Outcome;
use crate::step::output;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub struct Erlang {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

const ADVICE: &str = "Debian's package erlang-base has it";

impl Erlang {
    /// With so many schedulers, as a node has workers; all else is as Erlang has it.
    pub fn start(house: &House, schedulers: u16) -> Outcome<Erlang> {
        let source = crate::root().join("bench/local/exchange.erl");
        output(Command::new("erlc").arg("-o").arg(house.directory()).arg(source), ADVICE)?;
        let mut command = Command::new("erl");
        command.arg("+S").arg(format!("{schedulers}:{schedulers}")).arg("-noshell").arg("-pa").arg(house.directory());
        command.args(["-s", "exchange", "main"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot start `erl`: {error}; {ADVICE}"))?;
        let questions = child.stdin.take().ok_or("a pipe was asked for")?;
        let answers = BufReader::new(child.stdout.take().ok_or("a pipe was asked for")?);
        Ok(Erlang { child, questions, answers })
    }

    pub fn ask(&mut self, line: &str) -> Outcome<String> {
        writeln!(self.questions, "{line}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(answer.trim_end().into())
    }

    /// Nanoseconds for one of `count`.
    pub fn time(&mut self, word: &str, count: u32) -> Outcome<f64> {
        per_one(&self.ask(&format!("{word} {count}"))?, count)
    }
}

impl Drop for Erlang {
    fn drop(&mut self) {
        // It only answers questions: nothing is lost.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
