//! What is seen of processes that outlive their nodes, from outside: of the one that is durable each line and each answer once, whatever
//! incarnation they came from; of the one that has effects at once never two incarnations at a time.

use super::{Violation, ensure};
use crate::durable::Program;
use services::durable::claims::Home;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Observer {
    /// What the durable one printed, by the incarnation that began from the beginning.
    lines: BTreeMap<u32, Vec<u64>>,
    /// What each request of each client was answered: since when, and its number among all.
    answers: BTreeMap<(u32, u64), (u32, u64)>,
    counted: BTreeSet<(u32, u64)>,
    /// The last incarnation that had an effect, and where.
    effects: Option<(u32, Home)>,
    /// What was seen since all is well.
    served: BTreeMap<u32, u64>,
    has_effects: bool,
    seen: usize,
    is_healed: bool,
}

impl Observer {
    /// How much was seen.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// A line of the durable process is seen. They count from 1.
    pub fn printed(&mut self, since: u32, number: u64, line: u64) -> Result<(), Violation> {
        self.seen += 1;
        let lines = self.lines.entry(since).or_default();
        let next = lines.len() as u64 + 1;
        ensure!(number <= next, "line {number} is seen, and {next} was not yet");
        match lines.get(number as usize - 1) {
            None => lines.push(line),
            Some(before) => {
                ensure!(*before == line, "line {number} was {before:016x} and is {line:016x} now: two pasts were seen")
            }
        }
        Ok(())
    }

    pub fn answered(&mut self, client: u32, request: u64, since: u32, count: u64) -> Result<(), Violation> {
        self.seen += 1;
        match self.answers.get(&(client, request)) {
            // It ended meanwhile, and began from its beginning: that is another process.
            Some((of, _)) if *of != since => {}
            Some((_, before)) => ensure!(
                *before == count,
                "request {request} of client {client} counted as number {before}, and then as {count}"
            ),
            None => {
                self.answers.insert((client, request), (since, count));
                let is_new = self.counted.insert((since, count));
                ensure!(is_new, "two requests counted as number {count}");
                if self.is_healed {
                    *self.served.entry(client).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    /// The process that is not durable does something.
    pub fn has_effect(&mut self, incarnation: u32, home: Home, now: u64) -> Result<(), Violation> {
        self.seen += 1;
        self.has_effects |= self.is_healed;
        if let Some((last, at)) = self.effects {
            ensure!(
                incarnation > last || (incarnation, home) == (last, at),
                "at {now} ms incarnation {incarnation} at {home:?} has an effect, after incarnation {last} had one at {at:?}"
            );
        }
        self.effects = Some((incarnation, home));
        Ok(())
    }

    /// From now on nothing goes wrong any more.
    pub fn healed(&mut self) {
        self.is_healed = true;
    }

    pub fn is_served_again(&self, clients: u32) -> bool {
        let enough = |client: u32| self.served.get(&client).is_some_and(|count| *count >= 3);
        self.has_effects && (1..=clients).all(enough)
    }

    pub fn finish(&self, clients: u32, since: u32, program: &Program) -> Result<(), Violation> {
        ensure!(self.is_served_again(clients), "it does not go on, though a majority lives: {:?}", self.served);
        let own = self.answers.iter().filter(|(_, (of, _))| *of == since);
        let mut answered = 0;
        for ((client, request), (_, count)) in own {
            answered += 1;
            let known = program.last.get(client);
            ensure!(
                known.is_some_and(|(last, _)| last >= request) && program.counted >= *count,
                "request {request} of client {client} was answered with {count}, and the process knows {known:?} of {}",
                program.counted
            );
        }
        // Each client has at most one request under way.
        ensure!(
            program.counted <= answered + u64::from(clients) * 2,
            "{} requests counted, and {answered} were made and answered",
            program.counted
        );
        let seen = self.lines.get(&since).map_or(0, Vec::len) as u64;
        ensure!(seen <= program.printed, "{seen} lines were seen of {}", program.printed);
        Ok(())
    }
}
