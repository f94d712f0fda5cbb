//! The program `una`: reads the command line and hands it to the file of the command. Knows no command's work.

mod checkpoint;
mod completions;
mod control;
mod demo;
mod directories;
mod doctor;
mod failure;
mod fetch;
mod files;
mod fork;
mod freeze;
mod grants;
mod image_file;
mod inspect;
mod job;
mod json;
mod lend;
mod limits;
mod man;
mod mounts;
mod moving;
mod node;
mod nodes;
mod ports;
mod processes;
mod program;
mod progress;
mod ps;
mod restore;
mod run;
mod session;
mod thaw;
mod top;
mod up;

use clap::{Parser, Subcommand};
use failure::{Result, status};
use std::ffi::OsStr;
use std::process::ExitCode;

/// The status each kind of end has, for people and scripts.
const EXIT_STATUS: &str = "Exit status of `una run`, `una thaw`, `una attach` and `una wait`:
  that of the program, or
  125  una could not do it; also a wrong command line
  126  the program was found and cannot run
  127  the program was not found
  130  ctrl-C killed it
  134  the program trapped
  137  the program was killed
  141  nobody reads its output any more
  148  the program was frozen into an image
  152  the program used all its processor time
Exit status of the other commands:
  0 done    1 failed    2 wrong command line";

/// Runs WebAssembly programs that can be stopped anywhere, saved, and continued elsewhere.
#[derive(Parser)]
#[command(name = "una", version, after_long_help = EXIT_STATUS, infer_subcommands = false)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(up::Up),
    Down(up::Down),
    Ticket(nodes::Ticket),
    Join(nodes::Join),
    Nodes(nodes::Nodes),
    Status(nodes::Status),
    Drain(moving::Drain),
    Lend(lend::LendCommand),
    Remove(nodes::Remove),
    Leave(nodes::Leave),
    Run(run::Run),
    Ps(ps::Ps),
    Top(top::Top),
    Why(nodes::Why),
    Events(nodes::Events),
    Logs(processes::Logs),
    Attach(processes::Attach),
    Kill(processes::Kill),
    Stop(processes::Stop),
    Cont(processes::Cont),
    Wait(processes::Wait),
    Freeze(freeze::Freeze),
    Move(moving::Move),
    Fork(fork::Fork),
    Thaw(thaw::Thaw),
    Checkpoint(checkpoint::Checkpoint),
    Checkpoints(checkpoint::Checkpoints),
    Restore(restore::Restore),
    Undo(restore::Undo),
    Inspect(inspect::Inspect),
    Ls(files::Ls),
    Cat(files::Cat),
    Cp(files::Cp),
    Rm(files::Rm),
    Mkdir(files::Mkdir),
    Mv(files::Mv),
    Send(ports::Send),
    Recv(ports::Receive),
    Fetch(fetch::Fetch),
    Coordinator(nodes::Coordinator),
    Demo(demo::Demo),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
    Man(man::Man),
}

fn main() -> ExitCode {
    failure::install();
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => return usage(&error),
    };
    let done = match command_line.command {
        Command::Up(command) => command.execute(),
        Command::Down(command) => command.execute(),
        Command::Ticket(command) => command.execute(),
        Command::Join(command) => command.execute(),
        Command::Nodes(command) => command.execute(),
        Command::Status(command) => command.execute(),
        Command::Drain(command) => command.execute(),
        Command::Lend(command) => command.execute(),
        Command::Remove(command) => command.execute(),
        Command::Leave(command) => command.execute(),
        Command::Run(command) => command.execute(),
        Command::Ps(command) => command.execute(),
        Command::Top(command) => command.execute(),
        Command::Why(command) => command.execute(),
        Command::Events(command) => command.execute(),
        Command::Logs(command) => command.execute(),
        Command::Attach(command) => command.execute(),
        Command::Kill(command) => command.execute(),
        Command::Stop(command) => command.execute(),
        Command::Cont(command) => command.execute(),
        Command::Wait(command) => command.execute(),
        Command::Freeze(command) => command.execute(),
        Command::Move(command) => command.execute(),
        Command::Fork(command) => command.execute(),
        Command::Thaw(command) => command.execute(),
        Command::Checkpoint(command) => command.execute(),
        Command::Checkpoints(command) => command.execute(),
        Command::Restore(command) => command.execute(),
        Command::Undo(command) => command.execute(),
        Command::Inspect(command) => command.execute(),
        Command::Ls(command) => command.execute(),
        Command::Cat(command) => command.execute(),
        Command::Cp(command) => command.execute(),
        Command::Rm(command) => command.execute(),
        Command::Mkdir(command) => command.execute(),
        Command::Mv(command) => command.execute(),
        Command::Send(command) => command.execute(),
        Command::Recv(command) => command.execute(),
        Command::Fetch(command) => command.execute(),
        Command::Coordinator(command) => command.execute(),
        Command::Demo(command) => command.execute(),
        Command::Doctor(command) => command.execute(),
        Command::Completions(command) => command.execute(),
        Command::Man(command) => command.execute(),
    };
    match done {
        Ok(status) => status.into(),
        Err(failure) => {
            let status = failure.status;
            failure.print();
            status.into()
        }
    }
}

/// Help that was asked for, or a wrong command line.
fn usage(error: &clap::Error) -> ExitCode {
    // A closed standard output is no reason to complain.
    let _ = error.print();
    let runs = std::env::args_os().nth(1).is_some_and(|command| command == OsStr::new("run") || command == "thaw");
    match (error.exit_code(), runs) {
        (0, _) => ExitCode::SUCCESS,
        // The program's own status may be 2.
        (_, true) => status::UNA.into(),
        (_, false) => status::USAGE.into(),
    }
}

/// Prints for people and scripts. Who closed the other end has read enough.
fn print(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(failure::Failure::new(status::FAILED, "cannot write to standard output").because(error))
        }
        _ => Ok(()),
    }
}
