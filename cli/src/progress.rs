//! The bar that a long load shows, to people only: on a terminal, and only if they have waited already.

use engine::{Phase, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_millis(200);

pub struct Bar {
    name: String,
    start: Instant,
    bar: Option<ProgressBar>,
    is_terminal: bool,
}

impl Bar {
    pub fn new(name: &str) -> Bar {
        Bar { name: name.into(), start: Instant::now(), bar: None, is_terminal: std::io::stderr().is_terminal() }
    }

    pub fn tell(&mut self, progress: Progress) {
        if !self.is_terminal || (self.bar.is_none() && self.start.elapsed() < PATIENCE) {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(progress.total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} %  {elapsed}");
            bar.set_style(style.expect("the template is right: a test draws it").progress_chars("━━ "));
            bar
        });
        let doing = match progress.phase {
            Phase::Waiting => "waiting for another una that compiles",
            Phase::Rewriting => "rewriting",
            Phase::Compiling => "compiling",
        };
        bar.set_message(format!("{doing} {}", self.name));
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
