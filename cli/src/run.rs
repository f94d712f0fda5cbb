//! `una run`: runs a program to its end, or until it is frozen: in this user's daemon if one is up, else in this process. Knows what
//! both ways need of the command line.

use crate::control::Description;
use crate::failure::{Failure, Result, status};
use crate::image_file;
use crate::job::{Job, World};
use crate::limits::{self, LimitArguments, seconds};
use crate::mounts::{self, MountArgument};
use crate::node;
use crate::program::{self, EngineArgument, Found, Freezing};
use crate::session::{self, Input, Typing};
use clap::{Args, ValueEnum};
use daemon::node::{Pid, Stdio};
use daemon::protocol::client::Connection;
use daemon::protocol::{self, Follow, Lasting, Placement, Request, Restart, Until, WhenGone};
use daemon::system::view::Wish;
use drivers::clock::now_ms;
use engine::wasi;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Run a WebAssembly program
///
/// If una is up, the program runs there: others see it in una ps, it goes on when this terminal is closed, and ctrl-P ctrl-Q detaches
/// from it. Else it runs in this process, and sees of files only what --mount gives it. It can be frozen into a file from another
/// terminal: una freeze PID FILE.
#[derive(Args)]
#[command(after_long_help = crate::EXIT_STATUS)]
pub struct Run {
    /// Start it, print its number and return: it runs on in the daemon
    #[arg(short, long, conflicts_with_all = PRIVATE)]
    detach: bool,

    /// With -d, keep its standard input open for `una attach`
    #[arg(short, long, requires = "detach")]
    interactive: bool,

    /// With -d, print JSON for scripts
    #[arg(long, requires = "detach")]
    json: bool,

    /// Hand on every key at once and without an echo, for programs that draw on the screen
    #[arg(long, conflicts_with = "detach")]
    keys: bool,

    /// Kill the program if this una is gone before it ends
    #[arg(long, conflicts_with = "detach")]
    leash: bool,

    /// Run in this process, even if a daemon is up
    #[arg(long, conflicts_with = "LimitArguments")]
    private: bool,

    #[command(flatten)]
    limits: LimitArguments,

    /// Run it on this node and no other, by name or number
    #[arg(long, value_name = "NODE", conflicts_with_all = PRIVATE)]
    on: Option<String>,

    /// Run it where this process is, if it fits there
    #[arg(long, value_name = "PID", conflicts_with_all = PRIVATE)]
    near: Option<Pid>,

    /// Run it where the fewest programs of the same name are
    #[arg(long, conflicts_with_all = PRIVATE)]
    spread: bool,

    /// Begin it again when it ends: never, when it fails, or always; on another node if its own is lost. Killed by hand it stays so
    #[arg(long, value_enum, value_name = "WHEN", conflicts_with_all = PRIVATE)]
    restart: Option<RestartArgument>,

    /// If its node is lost, let it go on on another one from where it was, as if nothing had been. It may print, read what is typed, use
    /// the files of the system, and serve and call others by the names of ports, but have no children or pipes; what it prints is shown
    /// once it is safe, some milliseconds later
    #[arg(long, conflicts_with_all = PRIVATE)]
    durable: bool,

    /// With --durable, how often it is kept: going on elsewhere takes so much longer at most
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds, requires = "durable")]
    every: Duration,

    /// Let the program use a directory of this machine, as /path; :ro keeps it from writing there
    #[arg(long = "mount", value_name = "HOST=/path[:ro]")]
    mounts: Vec<MountArgument>,

    /// Set an environment variable of the program; without =VALUE, hand on that of una
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    environment: Vec<String>,

    /// On ctrl-Z (SIGTSTP), freeze the program into this file and end; runs in this process
    #[arg(long, value_name = "FILE", conflicts_with_all = ["unfreezable", "LimitArguments"])]
    image: Option<PathBuf>,

    /// What executes the program; the daemon runs native code only
    #[arg(long, value_enum, default_value = "native")]
    engine: EngineArgument,

    /// Give results that are not numbers the same bits on every processor (floating-point loops take 3 to 5 times as long); runs in
    /// this process
    #[arg(long, conflicts_with = "LimitArguments")]
    canonical_nans: bool,

    /// Run the program as it is, so that it cannot be frozen; runs in this process
    #[arg(long, conflicts_with = "LimitArguments")]
    unfreezable: bool,

    /// What `una ps` calls it; the file's name if not given
    #[arg(long)]
    name: Option<String>,

    // One list: what follows the program's name is the program's, even if it looks like an option of una.
    /// The program, a .wasm file or the name of a fetched one (una fetch), and what it is given
    #[arg(value_name = "PROG [ARGS]", required = true, trailing_var_arg = true)]
    words: Vec<OsString>,
}

/// What only a process of its own can do.
const PRIVATE: [&str; 4] = ["private", "image", "canonical_nans", "unfreezable"];

/// When a process is begun again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum RestartArgument {
    No,
    OnFailure,
    Always,
}

impl From<RestartArgument> for Restart {
    fn from(argument: RestartArgument) -> Restart {
        match argument {
            RestartArgument::No => Restart::No,
            RestartArgument::OnFailure => Restart::OnFailure,
            RestartArgument::Always => Restart::Always,
        }
    }
}

impl Run {
    pub fn execute(self) -> Result<u8> {
        let private = self.private
            || self.image.is_some()
            || self.canonical_nans
            || self.unfreezable
            || self.engine == EngineArgument::Pulley;
        let places = self.on.is_some() || self.near.is_some() || self.spread;
        let lasting = Lasting {
            restart: self.restart.map_or(Restart::No, Restart::from),
            durable_every_ms: self.durable.then_some(self.every.as_millis() as u64),
        };
        let needs_daemon = places || lasting.is_wanted() || self.detach || self.limits.are_any();
        let of_daemon = || format!("-d, {}, --on, --near, --spread, --restart and --durable", limits::OPTIONS);
        let connection =
            if private { None } else { node::find().map_err(|failure| failure.with_status(status::UNA))? };
        match connection {
            Some(connection) => self.run_in(connection, lasting),
            None if needs_daemon && private => {
                Err(Failure::new(status::UNA, "cannot run the program in this process with what is for the daemon")
                    .because(format!("--engine pulley runs it in this process; {} are for the daemon", of_daemon()))
                    .help("leave one of them away"))
            }
            None if needs_daemon => Err(Failure::new(status::UNA, "no daemon of una is running")
                .because(format!("{} need one", of_daemon()))
                .help("start it: una up -d")),
            None => self.run_here(),
        }
    }

    /// In the daemon.
    fn run_in(self, mut connection: Connection, lasting: Lasting) -> Result<u8> {
        let (named, arguments) = self.words.split_first().expect("the command line has at least the program");
        let mounts = mounts::resolve(&self.mounts)?;
        let environment = self.environment.iter().map(|word| variable(word)).collect::<Result<Vec<_>>>()?;
        let Found { id, path, argument: first } = program::find(Path::new(named))?;
        let name = self.name.unwrap_or_else(|| first.trim_end_matches(".wasm").to_string());
        let arguments = std::iter::once(Ok(first)).chain(arguments.iter().map(|argument| text(argument)));
        let arguments = arguments.collect::<Result<Vec<_>>>()?;
        let follow = (!self.detach).then_some(Follow {
            from: protocol::Origin::Start,
            until: Until::End,
            input: true,
            lossless: true,
            when_gone: if self.leash { WhenGone::Kill } else { WhenGone::RunOn },
        });
        let stdio = Stdio {
            input: !self.detach || self.interactive,
            input_is_terminal: !self.detach && std::io::stdin().is_terminal(),
            output_is_terminal: !self.detach && std::io::stdout().is_terminal(),
            lossless: !self.detach,
            held: false,
            session: 0,
        };
        let limits = self.limits.limits();
        let wish = Wish { on: self.on, near: self.near, spread: self.spread };
        let place = Placement { mounts, limits, stdio, follow, wish, decided: None };
        let run = protocol::Run { program: id.id(), name, arguments, environment, place, lasting };
        connection.send(&Request::Run(run)).map_err(|error| node::failed(error).with_status(status::UNA))?;
        let pid = session::started(&mut connection, &path, || id.wasm(&path), None)?;
        if self.detach {
            return session::told_started("una.run/1", pid, self.json);
        }
        let typing = if self.keys { Typing::Keys } else { Typing::Lines };
        session::follow(connection, pid, Some(Input { typing }))
    }

    /// In this process.
    fn run_here(self) -> Result<u8> {
        let (named, arguments) = self.words.split_first().expect("the command line has at least the program");
        let Found { id, path: program_path, argument: file_name } = program::find(Path::new(named))?;
        let program_path = program_path.as_path();
        let wasm = id.wasm(program_path)?;
        let image = self.image.as_deref().map(image_file::choose).transpose()?;
        let mounts = mounts::open(&self.mounts)?;
        let environment = self.environment.iter().map(|word| variable(word)).collect::<Result<Vec<_>>>()?;
        let engine = program::engine(self.engine, self.canonical_nans)?;
        let freezing = if self.unfreezable { Freezing::Impossible } else { Freezing::Possible };
        let program = program::load(&engine, wasm, program_path, freezing)?;

        let name = self.name.unwrap_or_else(|| file_name.trim_end_matches(".wasm").to_string());
        let arguments = std::iter::once(Ok(file_name)).chain(arguments.iter().map(|argument| text(argument)));
        let arguments = arguments.collect::<Result<Vec<_>>>()?;
        let description = Description {
            pid: std::process::id(),
            name: name.clone(),
            arguments: arguments.clone(),
            program: program.hash().to_hex().to_string(),
            engine: self.engine.name().into(),
            freezable: program.is_freezable(),
            started_ms: now_ms(),
            mounts: mounts::describe(&mounts),
        };
        let World { stdin, stdout, stderr, clock, entropy, waiter } = World::of_this_process()?;
        let setup =
            wasi::Setup { args: arguments, env: environment, mounts, stdin, stdout, stderr, clock, entropy, waiter };
        let process = engine.start(&program, &name, setup).map_err(|error| {
            Failure::new(status::NOT_RUNNABLE, format!("cannot run {}", program_path.display())).because(error)
        })?;
        Job { process, description, image }.run()
    }
}

/// Programs are given text: WASI says nothing of other bytes, and languages trap on them.
fn text(argument: &OsStr) -> Result<String> {
    argument.to_str().map(str::to_string).ok_or_else(|| {
        Failure::new(status::UNA, format!("the argument {argument:?} is not UTF-8"))
            .because("WebAssembly programs take text only")
            .help("give it in UTF-8, or in a file")
    })
}

fn variable(word: &str) -> Result<(String, String)> {
    if let Some((name, value)) = word.split_once('=') {
        return Ok((name.into(), value.into()));
    }
    let value = std::env::var_os(word).ok_or_else(|| {
        Failure::new(status::UNA, format!("there is no environment variable {word} to hand on"))
            .help(format!("give it a value: --env {word}=VALUE"))
    })?;
    Ok((word.into(), text(&value)?))
}
