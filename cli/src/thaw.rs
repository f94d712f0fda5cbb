//! `una thaw`: continues a frozen program, in this user's daemon if one is up, else in this process.

use crate::control::{Description, Mounted};
use crate::failure::{Failure, Result, quoted, status};
use crate::job::{Job, World};
use crate::limits::{self, LimitArguments};
use crate::mounts::{self, MountArgument};
use crate::program::{self, EngineArgument, Freezing};
use crate::session::{self, Input, Typing};
use crate::{directories, grants, image_file, node};
use clap::Args;
use daemon::node::Stdio;
use daemon::protocol::client::Connection;
use daemon::protocol::{self, Follow, Placement, Request, Until, WhenGone};
use drivers::clock::now_ms;
use engine::{Image, Library, ThawError, wasi};
use freeze::ImageError;
use std::fs::File;
use std::io::{BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Continue a frozen program
///
/// It goes on where it stopped, with its files, its place in them, and the input that it had not read. What you froze on this
/// machine has its directories again; what came from elsewhere gets those that you give it with --mount. What una run allowed it to
/// use (--mem and others) it may use again, as far as it has not yet; here that can be said anew.
#[derive(Args)]
#[command(after_long_help = crate::EXIT_STATUS)]
pub struct Thaw {
    /// Give the program another directory for the one that it had at /path
    #[arg(long = "mount", value_name = "HOST=/path[:ro]")]
    mounts: Vec<MountArgument>,

    /// What executes the program; it need not be what executed it before
    #[arg(long, value_enum, default_value = "native")]
    engine: EngineArgument,

    /// The program's own file, if una does not find it
    #[arg(long, value_name = "PROG")]
    program: Option<PathBuf>,

    /// Start it, print its number and return: it runs on in the daemon
    #[arg(short, long, conflicts_with_all = ["private", "next_image"])]
    detach: bool,

    /// With -d, keep its standard input open for `una attach`
    #[arg(short, long, requires = "detach")]
    interactive: bool,

    /// With -d, print JSON for scripts
    #[arg(long, requires = "detach")]
    json: bool,

    #[command(flatten)]
    limits: LimitArguments,

    /// Run in this process, even if a daemon is up
    #[arg(long, conflicts_with = "LimitArguments")]
    private: bool,

    /// On ctrl-Z (SIGTSTP), freeze the program into this file again and end; runs in this process
    #[arg(long = "image", value_name = "FILE", conflicts_with = "LimitArguments")]
    next_image: Option<PathBuf>,

    /// The image: what `una freeze` or ctrl-Z made
    #[arg(value_name = "FILE")]
    image: PathBuf,
}

impl Thaw {
    pub fn execute(self) -> Result<u8> {
        let image = open(&self.image).map_err(|failure| failure.with_status(status::UNA))?;
        let next_image = self.next_image.as_deref().map(image_file::choose).transpose()?;
        let refused = |error: ThawError| refused(&self.image, error);
        let facts = image.facts().map_err(refused)?;
        let saved = wasi::Saved::read(image.system().map_err(refused)?).map_err(|error| refused(error.into()))?;
        let arguments = self.mounts(&saved)?;
        let (wasm, path) = self.wasm(&image)?;
        let private =
            self.private || self.next_image.is_some() || self.engine == EngineArgument::Pulley || facts.canonical_nans;
        let connection =
            if private { None } else { node::find().map_err(|failure| failure.with_status(status::UNA))? };
        match connection {
            Some(connection) => {
                return self.thaw_in(connection, &arguments, facts.name, &wasm, &path);
            }
            None if self.detach => {
                let why = if private { "this image needs a process of its own" } else { "no daemon of una is running" };
                let failure = Failure::new(status::UNA, "cannot continue it with -d").because(why);
                return Err(failure.help(if private { "leave -d away" } else { "start one: una up -d" }));
            }
            None if self.limits.are_any() || (image.limits().is_some() && !private) => {
                let why = format!("only the daemon holds it to what it may use ({})", limits::OPTIONS);
                let failure = Failure::new(status::UNA, format!("cannot continue {}", self.image.display()));
                return Err(failure.because(why).help("start one: una up -d; or without bounds: una thaw --private"));
            }
            None => {}
        }
        let mut mounts = mounts::open(&arguments)?;
        mounts.extend(absent(&saved, &arguments)?);
        let engine = program::engine(self.engine, facts.canonical_nans)?;
        let program = program::load(&engine, wasm, &path, Freezing::Possible)?;
        let description = Description {
            pid: std::process::id(),
            name: facts.name,
            arguments: saved.args.clone(),
            program: program.hash().to_hex().to_string(),
            engine: self.engine.name().into(),
            freezable: true,
            started_ms: now_ms(),
            mounts: mounts::describe(&mounts),
        };
        let World { stdin, stdout, stderr, clock, entropy, waiter } = World::of_this_process()?;
        let resume = wasi::Resume { mounts, stdin, stdout, stderr, clock, entropy, waiter };
        let process = engine.thaw_image(&program, image, resume).map_err(refused)?;
        Job { process, description, image: next_image }.run()
    }

    /// What the process had, from where the command line says, or from where it was if the user froze it here.
    fn mounts(&self, saved: &wasi::Saved) -> Result<Vec<MountArgument>> {
        let cannot = || Failure::new(status::UNA, format!("cannot continue {}", self.image.display()));
        let had: Vec<Mounted> = had(saved).into_iter().filter(|had| !is_unas_own(had)).collect();
        if let Some(extra) = self.mounts.iter().find(|given| !had.iter().any(|had| had.guest == given.guest)) {
            let had: Vec<&str> = had.iter().map(|had| had.guest.as_str()).collect();
            let had = if had.is_empty() { "none".into() } else { had.join(", ") };
            return Err(cannot()
                .because(format!("the program had no directory at {}; it had: {had}", extra.guest))
                .help("leave that --mount away: a program cannot get new directories while it is frozen"));
        }
        let mut arguments = self.mounts.clone();
        let missing: Vec<&Mounted> =
            had.iter().filter(|had| !self.mounts.iter().any(|given| given.guest == had.guest)).collect();
        if !missing.is_empty() {
            let granted = grants::of_image(&self.image).ok().flatten().unwrap_or_default();
            let mut needed = vec![];
            for had in missing {
                let Mounted { guest, host, read_only } = had.clone();
                let wanted = MountArgument { host, guest, read_only };
                if granted.contains(had) { arguments.push(wanted) } else { needed.push(wanted) }
            }
            if !needed.is_empty() {
                let list: Vec<String> = needed.iter().map(MountArgument::to_string).collect();
                let line = format!("una thaw {} {}", list.join(" "), quoted(&self.image.to_string_lossy()));
                let guests: Vec<&str> = needed.iter().map(|mount| mount.guest.as_str()).collect();
                return Err(cannot()
                    .because(format!(
                        "the program had directories ({}), and was not frozen by you on this machine",
                        guests.join(", ")
                    ))
                    .help(format!("say which directories it may have, for example those that it had: {line}")));
            }
        }
        Ok(arguments)
    }

    /// In the daemon, which is sent the image.
    fn thaw_in(
        &self, mut connection: Connection, mounts: &[MountArgument], name: String, wasm: &Arc<[u8]>, path: &Path,
    ) -> Result<u8> {
        let follow = (!self.detach).then_some(Follow {
            from: protocol::Origin::Start,
            until: Until::End,
            input: true,
            lossless: true,
            when_gone: WhenGone::RunOn,
        });
        let stdio = Stdio {
            input: !self.detach || self.interactive,
            input_is_terminal: !self.detach && std::io::stdin().is_terminal(),
            output_is_terminal: !self.detach && std::io::stdout().is_terminal(),
            lossless: !self.detach,
            held: false,
            session: 0,
        };
        let place = Placement {
            mounts: mounts::resolve(mounts)?,
            limits: self.limits.limits(),
            stdio,
            follow,
            wish: Default::default(),
            decided: None,
        };
        let request = Request::Thaw(protocol::Thaw { program: session::program_id(wasm), name, place });
        connection.send(&request).map_err(|error| node::failed(error).with_status(status::UNA))?;
        let mut image = File::open(&self.image).map_err(|error| {
            Failure::new(status::UNA, format!("cannot read {}", self.image.display())).because(error)
        })?;
        let pid = session::started(&mut connection, path, || Ok(wasm.clone()), Some(&mut image))?;
        if self.detach {
            return session::told_started("una.thaw/1", pid, self.json);
        }
        session::follow(connection, pid, Some(Input { typing: Typing::Lines }))
    }

    /// The program's bytes, and what to call it in messages.
    fn wasm(&self, image: &Image<impl Read>) -> Result<(Arc<[u8]>, PathBuf)> {
        let hash = image.program_hash();
        if let Some(path) = &self.program {
            let wasm = program::read(path)?;
            if blake3::hash(&wasm) != hash {
                return Err(Failure::new(status::UNA, format!("cannot continue {}", self.image.display()))
                    .because(format!("it was made by another program than {}", path.display()))
                    .help(format!("find the file whose BLAKE3 is {hash}: `una inspect` tells its name")));
            }
            return Ok((wasm, path.clone()));
        }
        find_program(image, &self.image)
    }
}

/// Is it a part of una's own tree, which every process of a daemon has?
fn is_unas_own(mounted: &Mounted) -> bool {
    mounted.host.starts_with("una:")
}

/// In the place of una's own tree, without a daemon: directories with nothing in them. A program that has something of that tree open
/// is refused by whoever restores it.
fn absent(saved: &wasi::Saved, given: &[MountArgument]) -> Result<Vec<abi::file::Mount>> {
    let needed = had(saved).into_iter().filter(is_unas_own);
    let needed: Vec<Mounted> = needed.filter(|had| !given.iter().any(|given| given.guest == had.guest)).collect();
    if needed.is_empty() {
        return Ok(vec![]);
    }
    let empty = directories::data()?.join("empty");
    let failure = |error: std::io::Error| {
        Failure::new(status::UNA, format!("cannot use the directory {}", empty.display())).because(error)
    };
    std::fs::create_dir_all(&empty).map_err(failure)?;
    let mount = |had: Mounted| -> Result<abi::file::Mount> {
        let files = Box::new(drivers::HostDirectory::open_read_only(&empty).map_err(failure)?);
        Ok(abi::file::Mount { guest: had.guest, host: "nothing".into(), read_only: true, files })
    };
    needed.into_iter().map(mount).collect()
}

/// The directories that a process had.
pub fn had(saved: &wasi::Saved) -> Vec<Mounted> {
    let mounts = saved.mounts.iter();
    mounts.map(|m| Mounted { guest: m.guest.clone(), host: m.host.clone(), read_only: m.read_only }).collect()
}

/// The program from the image, or from what this user froze before.
pub fn find_program(image: &Image<impl Read>, path: &Path) -> Result<(Arc<[u8]>, PathBuf)> {
    let hash = image.program_hash();
    let failure = || Failure::new(status::UNA, format!("cannot continue {}", path.display()));
    if let Some(wasm) = image.program() {
        if blake3::hash(wasm) != hash {
            return Err(failure().because("the program in it is another one than it says"));
        }
        return Ok((wasm.into(), path.into()));
    }
    let help = format!("name the program's file: una thaw --program PROG.wasm {}", quoted(&path.to_string_lossy()));
    let data = directories::data().map_err(|why| failure().because(why.to_lines().0).help(&help))?;
    let library = Library::new(&data.join("programs"));
    match library.find(&hash) {
        Ok(Some(wasm)) => Ok((wasm.into(), library.path(&hash))),
        Ok(None) => Err(failure().because(format!("its program (BLAKE3 {hash}) is not on this machine")).help(help)),
        Err(error) => Err(failure().because(error).help(help)),
    }
}

/// Opens an image up to the contents of its memory.
pub fn open(path: &Path) -> Result<Image<BufReader<File>>> {
    let failure = || Failure::new(status::FAILED, format!("cannot read {}", path.display()));
    let file = File::open(path).map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let failure = failure().because(error);
        if missing {
            failure.help("images are made by `una freeze PID FILE` and `una run --image FILE`")
        } else {
            failure
        }
    })?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(failure().because("it is a directory"));
    }
    Image::open(BufReader::with_capacity(1 << 20, file)).map_err(|error| {
        let help = image_help(&error);
        help.into_iter().fold(failure().because(error), Failure::help)
    })
}

fn image_help(error: &ImageError) -> Option<&'static str> {
    Some(match error {
        ImageError::NotAnImage => {
            "images are made by `una freeze PID FILE` and `una run --image FILE`; programs are run by `una run`"
        }
        ImageError::Version { .. } | ImageError::OtherRewriter { .. } => {
            "continue it with the version of una that made it"
        }
        ImageError::Truncated { .. } | ImageError::Damaged { .. } => "get the file again; this copy of it is not whole",
        _ => return None,
    })
}

fn refused(path: &Path, error: ThawError) -> Failure {
    let failure = Failure::new(status::UNA, format!("cannot continue {}", path.display()));
    match error {
        ThawError::Image(error) => {
            let help = image_help(&error);
            help.into_iter().fold(failure.because(error), Failure::help)
        }
        error => failure.because(error),
    }
}
