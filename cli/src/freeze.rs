//! `una freeze`: stops a running program of this user into a file.

use crate::control::{self, Afterwards, Reply, Request};
use crate::failure::{Failure, Result, status};
use crate::{image_file, job};
use clap::Args;
use std::path::PathBuf;

/// Freeze a running program into a file
///
/// The program is stopped wherever it is, saved, and ended when the file is safe on the disk: it goes on with una thaw FILE.
#[derive(Args)]
pub struct Freeze {
    /// Save it and let it run on: a checkpoint
    #[arg(long)]
    keep_running: bool,

    /// Put the program's code into the file, so that the file is enough to continue it on another machine
    #[arg(long)]
    with_program: bool,

    /// The process, as `una ps` or `ps` shows it
    #[arg(value_name = "PID")]
    pid: u32,

    /// Where it is put; an image that is there is replaced
    #[arg(value_name = "FILE")]
    image: PathBuf,
}

impl Freeze {
    pub fn execute(self) -> Result<u8> {
        let Freeze { pid, .. } = self;
        let image = image_file::choose(&self.image).map_err(|failure| failure.with_status(status::FAILED))?;
        let connection = control::connect(pid)?.ok_or_else(|| not_running(pid))?;
        let afterwards = if self.keep_running { Afterwards::RunOn } else { Afterwards::End };
        let request = control::Freeze { image, with_program: self.with_program, afterwards };
        match connection.ask(&Request::Freeze(request))? {
            Reply::Frozen { bytes } => {
                let size = size(bytes);
                let line = job::thaw_line(&self.image);
                let done = match afterwards {
                    Afterwards::End => format!("frozen: {size}; go on with: {line}\n"),
                    Afterwards::RunOn => format!("saved: {size}, and runs on; to go on from here: {line}\n"),
                };
                crate::print(&done)?;
                Ok(0)
            }
            Reply::Refused { why, help } => {
                Err(help.into_iter().fold(Failure::new(status::FAILED, why), Failure::help))
            }
            other => Err(Failure::new(status::FAILED, format!("process {pid} answered something else: {other:?}"))),
        }
    }
}

fn not_running(pid: u32) -> Failure {
    let failure = Failure::new(status::FAILED, format!("process {pid} is not a program that una runs for you"));
    let exists = std::path::Path::new(&format!("/proc/{pid}")).exists();
    let failure = if exists {
        failure.because("it does not listen for una")
    } else {
        failure.because("there is no such process")
    };
    failure.help("see which there are: una ps")
}

/// For people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
