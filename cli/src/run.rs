//! `una run`: runs a program to its end, or until it is frozen.

use crate::control::Description;
use crate::failure::{Failure, Result, status};
use crate::image_file;
use crate::job::{self, Job, World};
use crate::mounts::{self, MountArgument};
use crate::program::{self, EngineArgument, Freezing};
use clap::Args;
use engine::wasi;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Run a WebAssembly program
///
/// The program has standard input, output and error, clocks and random numbers; of files it sees only what --mount gives it.
/// It can be frozen into a file from another terminal: una freeze PID FILE.
#[derive(Args)]
#[command(after_long_help = crate::EXIT_STATUS)]
pub struct Run {
    /// Let the program use a directory of this machine, as /path; :ro keeps it from writing there
    #[arg(long = "mount", value_name = "HOST=/path[:ro]")]
    mounts: Vec<MountArgument>,

    /// Set an environment variable of the program; without =VALUE, hand on that of una
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    environment: Vec<String>,

    /// On ctrl-Z (SIGTSTP), freeze the program into this file and end
    #[arg(long, value_name = "FILE", conflicts_with = "unfreezable")]
    image: Option<PathBuf>,

    /// What executes the program
    #[arg(long, value_enum, default_value = "native")]
    engine: EngineArgument,

    /// Give results that are not numbers the same bits on every processor (floating-point loops take 3 to 5 times as long)
    #[arg(long)]
    canonical_nans: bool,

    /// Run the program as it is, so that it cannot be frozen
    #[arg(long)]
    unfreezable: bool,

    /// What `una ps` calls it; the file's name if not given
    #[arg(long)]
    name: Option<String>,

    // One list: what follows the program's name is the program's, even if it looks like an option of una.
    /// The program, a .wasm file, and what it is given
    #[arg(value_name = "PROG [ARGS]", required = true, trailing_var_arg = true)]
    words: Vec<OsString>,
}

impl Run {
    pub fn execute(self) -> Result<u8> {
        let (program_path, arguments) = self.words.split_first().expect("the command line has at least the program");
        let program_path = Path::new(program_path);
        let wasm = program::read(program_path)?;
        let image = self.image.as_deref().map(image_file::choose).transpose()?;
        let mounts = mounts::open(&self.mounts)?;
        let environment = self.environment.iter().map(|word| variable(word)).collect::<Result<Vec<_>>>()?;
        let engine = program::engine(self.engine, self.canonical_nans)?;
        let freezing = if self.unfreezable { Freezing::Impossible } else { Freezing::Possible };
        let program = program::load(&engine, wasm, program_path, freezing)?;

        let file_name = program_path.file_name().unwrap_or(program_path.as_os_str()).to_string_lossy().into_owned();
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
            started_ms: job::now_ms(),
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
