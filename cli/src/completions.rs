//! `una completions`: what a shell needs to complete una's command lines.

use crate::failure::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print shell completions
///
/// For bash: una completions bash > ~/.local/share/bash-completion/completions/una
#[derive(Args)]
pub struct Completions {
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub fn execute(self) -> Result<u8> {
        let mut script = vec![];
        clap_complete::generate(self.shell, &mut crate::CommandLine::command(), "una", &mut script);
        crate::print(&String::from_utf8_lossy(&script))?;
        Ok(0)
    }
}
