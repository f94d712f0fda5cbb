//! `una freeze`: stops a running program of this user into a file, wherever una runs it.

use crate::control::{self, Afterwards, Mounted, Reply, Request};
use crate::failure::{Failure, Result, status};
use crate::{grants, image_file, job, json, node};
use clap::Args;
use daemon::node::{FIRST_NODE, Pid, ProcessView};
use daemon::protocol::client::{AskError, Connection};
use daemon::protocol::{self, Reason};
use std::path::{Path, PathBuf};

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

    /// Print JSON for scripts
    #[arg(long)]
    json: bool,

    /// The process, as `una ps` shows it
    #[arg(value_name = "PID")]
    pid: Pid,

    /// Where it is put; an image that is there is replaced
    #[arg(value_name = "FILE")]
    image: PathBuf,
}

impl Freeze {
    pub fn execute(self) -> Result<u8> {
        let Freeze { pid, .. } = self;
        let image = image_file::choose(&self.image).map_err(|failure| failure.with_status(status::FAILED))?;
        let afterwards = if self.keep_running { Afterwards::RunOn } else { Afterwards::End };
        // The daemon's processes have small numbers, those of Linux are large: where both are possible the daemon's is meant.
        if let Some(mut connection) = node::find()? {
            match connection.ask(&protocol::Request::Process { pid }) {
                Ok(protocol::Reply::Process(_)) => {
                    return self.freeze_in(connection, &image, afterwards);
                }
                Err(AskError::Refused(refusal)) if refusal.reason == Reason::NoProcess => {}
                Ok(other) => return Err(node::unexpected(&other)),
                Err(error) => return Err(node::failed(error)),
            }
        }
        let of_linux = u32::try_from(pid.serial()).ok().filter(|_| pid.node() == FIRST_NODE);
        let connection = of_linux.map(control::connect).transpose()?.flatten().ok_or_else(|| not_running(pid))?;
        let request = control::Freeze { image: image.clone(), with_program: self.with_program, afterwards };
        match connection.ask(&Request::Freeze(request))? {
            Reply::Frozen { bytes } => self.tell(&image, bytes, afterwards),
            Reply::Refused { why, help } => {
                Err(help.into_iter().fold(Failure::new(status::FAILED, why), Failure::help))
            }
            other => Err(Failure::new(status::FAILED, format!("process {pid} answered something else: {other:?}"))),
        }
    }

    /// A process of the daemon, which sends the image here: the file is this user's, wherever the user may write.
    fn freeze_in(&self, mut connection: Connection, image: &Path, afterwards: Afterwards) -> Result<u8> {
        let pid = self.pid;
        let how = match afterwards {
            Afterwards::End => protocol::Afterwards::End,
            Afterwards::RunOn => protocol::Afterwards::RunOn,
        };
        let request = protocol::Request::Freeze { pid, with_program: self.with_program, afterwards: how };
        let view = match connection.ask(&request).map_err(node::failed)? {
            protocol::Reply::Process(view) => view,
            other => return Err(node::unexpected(&other)),
        };
        let mounts = mounted(&view);
        let failure = |error: std::io::Error| {
            let full = error.kind() == std::io::ErrorKind::StorageFull;
            let failure = Failure::new(status::FAILED, format!("process {pid} was not frozen")).because(error);
            if full { failure.help("make room, or choose a file on another disk") } else { failure }
        };
        let written = image_file::write(
            image,
            |out| std::io::copy(&mut connection.content(), out).map(|_| ()),
            |written| {
                // If this fails, the image is as good, and who thaws it has to say --mount.
                let _ = grants::record(&written.hash, &mounts);
                Ok(())
            },
        );
        // If it failed, the daemon learns it from the end of this connection, and the process runs on.
        let written = written.map_err(failure)?;
        connection.more(&protocol::More::Safe).map_err(node::failed)?;
        match connection.reply().map_err(node::failed)? {
            protocol::Reply::Done => self.tell(image, written.bytes, afterwards),
            other => Err(node::unexpected(&other)),
        }
    }

    fn tell(&self, image: &Path, bytes: u64, afterwards: Afterwards) -> Result<u8> {
        if self.json {
            let (image, runs_on) = (image.to_string_lossy(), afterwards == Afterwards::RunOn);
            let told = serde_json::json!({ "pid": self.pid, "image": image, "bytes": bytes, "runs_on": runs_on });
            crate::print(&json::text("una.freeze/1", &told))?;
            return Ok(0);
        }
        let size = size(bytes);
        let line = job::thaw_line(&self.image);
        let done = match afterwards {
            Afterwards::End => format!("frozen: {size}; go on with: {line}\n"),
            Afterwards::RunOn => {
                format!("saved: {size}, and runs on; to go on from here: {line}\n")
            }
        };
        crate::print(&done)?;
        Ok(0)
    }
}

/// The directories of this machine that a process has.
fn mounted(view: &ProcessView) -> Vec<Mounted> {
    let mounted = |mount: &daemon::node::MountOrder| Mounted {
        guest: mount.guest.clone(),
        host: mount.host.to_string_lossy().into_owned(),
        read_only: mount.read_only,
    };
    view.mounts.iter().map(mounted).collect()
}

fn not_running(pid: Pid) -> Failure {
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
