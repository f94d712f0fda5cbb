//! The bar that something shows which takes long, to people only: on a terminal, and only if they have waited already. Knows how bars look;
//! of what is done, only how a program is loaded, which several commands do.

use engine::{Phase, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_millis(200);

/// What is counted, and how it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    Parts,
    Bytes,
    Processes,
}

impl Scale {
    fn template(self) -> &'static str {
        match self {
            Scale::Parts => "{msg} {wide_bar} {percent:>3} %  {elapsed}",
            Scale::Bytes => "{msg} {wide_bar} {bytes} of {total_bytes}  {elapsed}",
            Scale::Processes => "{msg} {wide_bar} {pos} of {len} processes  {elapsed}",
        }
    }
}

/// Gone when it is dropped.
pub struct Bar {
    scale: Scale,
    start: Instant,
    bar: Option<ProgressBar>,
    is_terminal: bool,
}

impl Bar {
    pub fn new(scale: Scale) -> Bar {
        Bar { scale, start: Instant::now(), bar: None, is_terminal: std::io::stderr().is_terminal() }
    }

    pub fn draw(&mut self, message: String, done: u64, total: u64) {
        if !self.is_terminal || (self.bar.is_none() && self.start.elapsed() < PATIENCE) {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template(self.scale.template());
            bar.set_style(style.expect("the template is right: a test draws it").progress_chars("━━ "));
            bar
        });
        bar.set_message(message);
        bar.set_length(total);
        bar.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A program that is being loaded.
pub struct Loading {
    name: String,
    bar: Bar,
}

impl Loading {
    pub fn new(name: &str) -> Loading {
        Loading { name: name.into(), bar: Bar::new(Scale::Parts) }
    }

    pub fn tell(&mut self, progress: Progress) {
        let doing = match progress.phase {
            Phase::Waiting => "waiting for another una that compiles",
            Phase::Rewriting => "rewriting",
            Phase::Compiling => "compiling",
        };
        self.bar.draw(format!("{doing} {}", self.name), progress.done, progress.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_can_be_drawn() {
        for scale in [Scale::Parts, Scale::Bytes, Scale::Processes] {
            assert!(ProgressStyle::with_template(scale.template()).is_ok());
        }
    }
}
