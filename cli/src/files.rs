//! `una ls`, `cat`, `cp`, `rm`, `mkdir`, `mv`: files in una's tree. Knows paths on both sides; the daemon has the files.
//!
//! In these commands a path is one in una's tree: `/data/x`. Only `cp` speaks of both sides: there `una:/data/x` is in una's tree and
//! every other path is on this machine, as `scp` and `docker cp` have it. The others take `una:` too.

use crate::failure::{Failure, Result, printable, quoted, status};
use crate::{json, moving, node, print};
use clap::Args;
use daemon::protocol::client::{AskError, Connection};
use daemon::protocol::{Entry, FileKind, Reason, Reply, Request};
use serde::Serialize;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// How deep a directory may be that is copied as a whole.
const DEPTH_MAX: usize = 256;

/// List a directory of una's tree
#[derive(Args)]
pub struct Ls {
    /// One a line, with kind, size and time
    #[arg(short, long)]
    long: bool,

    /// Print JSON for scripts
    #[arg(long)]
    json: bool,

    #[arg(value_name = "PATH", default_value = "/")]
    path: String,
}

#[derive(Serialize)]
struct List {
    path: String,
    entries: Vec<Entry>,
}

impl Ls {
    pub fn execute(self) -> Result<u8> {
        let path = inside(&self.path);
        let entries = listed(&mut node::connect()?, &path)?;
        if self.json {
            print(&json::text("una.ls/1", &List { path, entries }))?;
            return Ok(0);
        }
        let mut text = String::new();
        for Entry { name, kind, size_bytes, modified_ns } in &entries {
            let (letter, suffix) = match kind {
                FileKind::File => ('-', ""),
                FileKind::Directory => ('d', "/"),
                FileKind::Link => ('l', "@"),
                FileKind::Other => ('?', ""),
            };
            if self.long {
                text += &format!("{letter} {size_bytes:>12} {} ", date(*modified_ns));
            }
            text += &format!("{}{suffix}\n", printable(name));
        }
        print(&text)?;
        Ok(0)
    }
}

/// Print files of una's tree
#[derive(Args)]
pub struct Cat {
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
}

impl Cat {
    pub fn execute(self) -> Result<u8> {
        let mut connection = node::connect()?;
        for path in &self.paths {
            let mut out = std::io::stdout().lock();
            match fetch(&mut connection, &inside(path), &mut out) {
                Err(Unfetched::Write(error)) if error.kind() == ErrorKind::BrokenPipe => {
                    return Ok(status::PIPE);
                }
                Err(error) => return Err(error.told("standard output")),
                Ok(()) => {}
            }
        }
        Ok(0)
    }
}

/// Copy files between this machine and una's tree
///
/// una:/PATH is in una's tree; any other path is on this machine, and - is standard input or output.
/// For example: una cp data.csv una:/data/    una cp una:/out.txt .    una cp -r una:/results results
#[derive(Args)]
pub struct Cp {
    /// Copy directories with all that is in them
    #[arg(short, long)]
    recursive: bool,

    #[arg(value_name = "FROM... TO", required = true, num_args = 2..)]
    paths: Vec<String>,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq)]
enum Side {
    Una(String),
    Host(PathBuf),
    /// Standard input or output.
    Stream,
}

fn side(word: &str) -> Side {
    match word.strip_prefix("una:") {
        Some(_) => Side::Una(inside(word)),
        None if word == "-" => Side::Stream,
        None => Side::Host(word.into()),
    }
}

impl Cp {
    pub fn execute(self) -> Result<u8> {
        let (to, from) = self.paths.split_last().expect("the command line has at least two");
        let mut connection = node::connect()?;
        let to = side(to);
        let several = from.len() > 1;
        for word in from {
            let from = side(word);
            let into = match &to {
                Side::Una(path) => is_directory(&mut connection, path)?,
                Side::Host(path) => path.is_dir(),
                Side::Stream => false,
            };
            if several && !into {
                return Err(Failure::new(status::FAILED, "cannot copy several files to one")
                    .help("name a directory that exists as the last path"));
            }
            let to = if into { to.inside(&from)? } else { to.clone() };
            self.copy(&mut connection, &from, &to, 0)?;
        }
        Ok(0)
    }

    fn copy(&self, connection: &mut Connection, from: &Side, to: &Side, depth: usize) -> Result<()> {
        let failure = |why: &str| Failure::new(status::FAILED, format!("cannot copy {}", from.shown())).because(why);
        if depth > DEPTH_MAX {
            return Err(failure("directories are too deep in each other"));
        }
        let is_directory = match from {
            Side::Una(path) => is_directory(connection, path)?,
            Side::Host(path) => path.is_dir(),
            Side::Stream => false,
        };
        if is_directory && !self.recursive {
            return Err(failure("it is a directory").help("copy it with all that is in it: una cp -r"));
        }
        match (from, to) {
            (Side::Host(_) | Side::Stream, Side::Host(_) | Side::Stream) => Err(failure("both are on this machine")
                .help("write una: before the path that is in una's tree, for example: una cp data.csv una:/data.csv")),
            (from, to) if is_directory => {
                let names = match from {
                    Side::Una(path) => listed(connection, path)?.into_iter().map(|entry| entry.name).collect(),
                    Side::Host(path) => names(path)?,
                    Side::Stream => vec![],
                };
                match to {
                    Side::Una(path) => {
                        order(connection, &Request::MakeDirectory { path: path.clone(), parents: true })?;
                    }
                    Side::Host(path) => std::fs::create_dir_all(path).map_err(|error| host_failure(path, error))?,
                    Side::Stream => return Err(failure("a directory cannot be printed")),
                }
                for name in names {
                    self.copy(connection, &from.child(&name), &to.child(&name), depth + 1)?;
                }
                Ok(())
            }
            (Side::Una(from), Side::Host(to)) => receive(connection, from, to),
            (Side::Una(from), Side::Stream) => {
                let mut out = std::io::stdout().lock();
                fetch(connection, from, &mut out).map_err(|error| error.told("standard output"))
            }
            (Side::Host(from), Side::Una(to)) => {
                let mut file = File::open(from).map_err(|error| host_failure(from, error))?;
                send(connection, &mut file, to)
            }
            (Side::Stream, Side::Una(to)) => send(connection, &mut std::io::stdin().lock(), to),
            (Side::Una(from), Side::Una(to)) => {
                // On a connection of its own, since this one is busy with the other half.
                let mut writing = node::connect()?;
                writing.send(&Request::Write { path: to.clone() }).map_err(node::failed)?;
                connection.send(&Request::Read { path: from.clone() }).map_err(node::failed)?;
                match connection.reply().map_err(node::failed)? {
                    Reply::Entry(_) => {}
                    other => return Err(node::unexpected(&other)),
                }
                let sent = writing.send_content(&mut connection.content());
                sent.map_err(|error| failure(&error.to_string()))?;
                finish(&mut writing)
            }
        }
    }
}

impl Side {
    fn shown(&self) -> String {
        match self {
            Side::Una(path) => format!("una:{path}"),
            Side::Host(path) => path.display().to_string(),
            Side::Stream => "-".into(),
        }
    }

    fn child(&self, name: &str) -> Side {
        match self {
            Side::Una(path) => Side::Una(format!("{}/{name}", path.trim_end_matches('/'))),
            Side::Host(path) => Side::Host(path.join(name)),
            Side::Stream => Side::Stream,
        }
    }

    /// In this directory, under the name that it has elsewhere.
    fn inside(&self, from: &Side) -> Result<Side> {
        let failure = || Failure::new(status::FAILED, format!("{} has no name to be copied under", from.shown()));
        let name = match from {
            Side::Una(path) => path.rsplit('/').find(|part| !part.is_empty()).map(String::from),
            // `.` and `..` are names of something after all.
            Side::Host(path) => {
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                path.file_name().map(|name| name.to_string_lossy().into_owned())
            }
            Side::Stream => None,
        };
        Ok(self.child(&name.ok_or_else(failure)?))
    }
}

/// Remove files and directories of una's tree
#[derive(Args)]
pub struct Rm {
    /// Remove directories with all that is in them
    #[arg(short, long)]
    recursive: bool,

    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
}

impl Rm {
    pub fn execute(self) -> Result<u8> {
        let mut connection = node::connect()?;
        for path in &self.paths {
            let request = Request::Remove { path: inside(path), recursive: self.recursive };
            order(&mut connection, &request).map_err(|failure| match self.recursive {
                false if failure.to_string().contains("not empty") => {
                    failure.help(format!("with all that is in it: una rm -r {}", quoted(path)))
                }
                _ => failure,
            })?;
        }
        Ok(0)
    }
}

/// Make directories in una's tree
#[derive(Args)]
pub struct Mkdir {
    /// Make those above it too, and do not mind if it is there
    #[arg(short, long)]
    parents: bool,

    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
}

impl Mkdir {
    pub fn execute(self) -> Result<u8> {
        let mut connection = node::connect()?;
        for path in &self.paths {
            order(&mut connection, &Request::MakeDirectory { path: inside(path), parents: self.parents })?;
        }
        Ok(0)
    }
}

/// Rename or move a file or directory of una's tree, or a process to another node: una mv PID NODE
#[derive(Args)]
pub struct Mv {
    #[arg(value_name = "FROM")]
    from: String,

    /// A new name, or a directory to move it into
    #[arg(value_name = "TO")]
    to: String,
}

impl Mv {
    pub fn execute(self) -> Result<u8> {
        let mut connection = node::connect()?;
        if let Ok(pid) = self.from.parse()
            && is_absent(&mut connection, &inside(&self.from))?
        {
            return moving::Move::new(pid, self.to).execute();
        }
        order(&mut connection, &Request::Rename { from: inside(&self.from), to: inside(&self.to) })?;
        Ok(0)
    }
}

/// The path in una's tree that a word means: always from the top.
fn inside(word: &str) -> String {
    let path = word.strip_prefix("una:").unwrap_or(word);
    let path = path.trim_end_matches('/');
    if path.starts_with('/') { path.into() } else { format!("/{path}") }
}

fn order(connection: &mut Connection, request: &Request) -> Result<()> {
    match connection.ask(request).map_err(node::failed)? {
        Reply::Done => Ok(()),
        other => Err(node::unexpected(&other)),
    }
}

fn is_absent(connection: &mut Connection, path: &str) -> Result<bool> {
    match connection.ask(&Request::Look { path: path.into() }) {
        Ok(Reply::Entry(_)) => Ok(false),
        Ok(other) => Err(node::unexpected(&other)),
        Err(AskError::Refused(refusal)) if refusal.reason == Reason::NotFound => Ok(true),
        Err(error) => Err(node::failed(error)),
    }
}

fn is_directory(connection: &mut Connection, path: &str) -> Result<bool> {
    match connection.ask(&Request::Look { path: path.into() }) {
        Ok(Reply::Entry(entry)) => Ok(entry.kind == FileKind::Directory),
        Ok(other) => Err(node::unexpected(&other)),
        Err(AskError::Refused(refusal)) if refusal.reason == Reason::NotFound => Ok(false),
        Err(error) => Err(node::failed(error)),
    }
}

fn listed(connection: &mut Connection, path: &str) -> Result<Vec<Entry>> {
    connection.send(&Request::List { path: path.into() }).map_err(node::failed)?;
    let mut entries = vec![];
    loop {
        match connection.reply().map_err(node::failed)? {
            Reply::Entry(entry) => entries.push(entry),
            Reply::Done => return Ok(entries),
            other => return Err(node::unexpected(&other)),
        }
    }
}

/// Why a file did not come.
enum Unfetched {
    Una(Failure),
    Write(std::io::Error),
}

impl Unfetched {
    fn told(self, to: &str) -> Failure {
        match self {
            Unfetched::Una(failure) => failure,
            Unfetched::Write(error) => Failure::new(status::FAILED, format!("cannot write {to}")).because(error),
        }
    }
}

fn fetch(connection: &mut Connection, path: &str, to: &mut dyn Write) -> std::result::Result<(), Unfetched> {
    let una = |error| Unfetched::Una(node::failed(error));
    match connection.ask(&Request::Read { path: path.into() }).map_err(una)? {
        Reply::Entry(_) => {}
        other => return Err(Unfetched::Una(node::unexpected(&other))),
    }
    let mut content = connection.content();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = content.read(&mut buffer).map_err(|error| {
            Unfetched::Una(Failure::new(status::FAILED, format!("cannot read {path}")).because(error))
        })?;
        if length == 0 {
            return to.flush().map_err(Unfetched::Write);
        }
        to.write_all(&buffer[..length]).map_err(Unfetched::Write)?;
    }
}

/// A file of una's to this machine: whole or not at all.
fn receive(connection: &mut Connection, from: &str, to: &Path) -> Result<()> {
    let name = to.file_name().ok_or_else(|| host_failure(to, ErrorKind::IsADirectory.into()))?;
    let new = to.with_file_name(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    let mut file = File::create(&new).map_err(|error| host_failure(to, error))?;
    let fetched = fetch(connection, from, &mut file).map_err(|error| error.told(&to.display().to_string()));
    let placed = fetched.and_then(|()| std::fs::rename(&new, to).map_err(|error| host_failure(to, error)));
    if placed.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    placed
}

fn send(connection: &mut Connection, from: &mut dyn Read, to: &str) -> Result<()> {
    connection.send(&Request::Write { path: to.into() }).map_err(node::failed)?;
    // If it is refused meanwhile, the reason is the reply.
    if let Err(error) = connection.send_content(from)
        && error.kind() != ErrorKind::BrokenPipe
    {
        return Err(Failure::new(status::FAILED, format!("cannot copy to una:{to}")).because(error));
    }
    finish(connection)
}

fn finish(connection: &mut Connection) -> Result<()> {
    match connection.reply().map_err(node::failed)? {
        Reply::Done => Ok(()),
        other => Err(node::unexpected(&other)),
    }
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory).map_err(|error| host_failure(directory, error))?;
    let mut names = vec![];
    for entry in entries {
        let name = entry.map_err(|error| host_failure(directory, error))?.file_name();
        names.push(name.into_string().map_err(|name| {
            Failure::new(status::FAILED, format!("cannot copy {}", directory.join(&name).display()))
                .because("its name is not UTF-8, which names in una's tree are")
                .help("give it another name, then copy again")
        })?);
    }
    names.sort();
    Ok(names)
}

fn host_failure(path: &Path, error: std::io::Error) -> Failure {
    let full = error.kind() == ErrorKind::StorageFull;
    let failure = Failure::new(status::FAILED, format!("cannot copy {}", path.display())).because(error);
    if full { failure.help("make room on that disk") } else { failure }
}

/// Like `2026-11-25 16:47`, in UTC: what the tree was written in may be on any machine.
fn date(ns: u64) -> String {
    let minutes = ns / 60_000_000_000;
    let (days, minute) = ((minutes / 1440) as i64, minutes % 1440);
    // Days to a date by Howard Hinnant's algorithm, from the year 0 in eras of 400 years that begin in March.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", minute / 60, minute % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_both_sides() {
        assert_eq!(side("una:/a/b/"), Side::Una("/a/b".into()));
        assert_eq!(side("una:a"), Side::Una("/a".into()));
        assert_eq!(side("una:"), Side::Una("/".into()));
        assert_eq!((side("/a"), side("-")), (Side::Host("/a".into()), Side::Stream));
        assert_eq!(inside("/"), "/");
        assert_eq!(side("una:/").child("x"), Side::Una("/x".into()));
    }

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01 00:00");
        assert_eq!(date(1_709_210_096_000_000_000), "2024-02-29 12:34");
        assert_eq!(date(4_102_444_799_000_000_000), "2099-12-31 23:59");
    }
}
