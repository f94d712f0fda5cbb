//! `una man`: the manual pages.

use crate::failure::{Failure, Result, status};
use clap::{Args, CommandFactory};
use std::path::PathBuf;

/// Write the manual pages into a directory
///
/// For one user: una man ~/.local/share/man/man1
#[derive(Args)]
pub struct Man {
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Man {
    pub fn execute(self) -> Result<u8> {
        let failure = |error: std::io::Error| {
            Failure::new(status::FAILED, format!("cannot write manual pages to {}", self.directory.display()))
                .because(error)
        };
        std::fs::create_dir_all(&self.directory).map_err(failure)?;
        let command = crate::CommandLine::command().disable_help_subcommand(true);
        clap_mangen::generate_to(command, &self.directory).map_err(failure)?;
        Ok(0)
    }
}
