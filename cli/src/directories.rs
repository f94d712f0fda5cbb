//! Where una keeps what it keeps, by the XDG rules. Hands out only directories that belong to the user alone.

use crate::failure::{Failure, Result, status};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// For compiled code and compiled continuations, which can be made again.
pub fn cache() -> Result<PathBuf> {
    private(&home("XDG_CACHE_HOME", ".cache")?.join("una"), Links::Followed)
}

/// For programs that images need, and what was granted to frozen processes.
pub fn data() -> Result<PathBuf> {
    private(&home("XDG_DATA_HOME", ".local/share")?.join("una"), Links::Followed)
}

/// For what the daemon keeps. Made by the daemon; who only looks for one makes nothing.
pub fn node() -> Result<PathBuf> {
    Ok(home("XDG_DATA_HOME", ".local/share")?.join("una/node"))
}

/// For the sockets of running programs. Emptied by the system when the user logs out or the machine starts.
pub fn runtime() -> Result<PathBuf> {
    match absolute("XDG_RUNTIME_DIR") {
        Some(directory) => private(&directory.join("una"), Links::Refused),
        None => private(Path::new(&format!("/tmp/una-{}", rustix::process::geteuid().as_raw())), Links::Refused),
    }
}

/// May the directory itself be a symbolic link? Not where others can make one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    Followed,
    Refused,
}

/// A relative path in these variables is to be ignored.
fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn home(variable: &str, below_home: &str) -> Result<PathBuf> {
    if let Some(path) = absolute(variable) {
        return Ok(path);
    }
    absolute("HOME").map(|home| home.join(below_home)).ok_or_else(|| {
        Failure::new(status::UNA, "there is no home directory")
            .because(format!("neither ${variable} nor $HOME is set"))
            .help(format!("set HOME, or {variable} to a directory of yours"))
    })
}

fn private(path: &Path, links: Links) -> Result<PathBuf> {
    let shown = path.display();
    let failure = |why: String| Failure::new(status::UNA, format!("cannot use the directory {shown}")).because(why);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| failure(error.to_string()))?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(failure(error.to_string()));
        }
        _ => {}
    }
    let metadata = match links {
        Links::Followed => std::fs::metadata(path),
        Links::Refused => std::fs::symlink_metadata(path),
    };
    let metadata = metadata.map_err(|error| failure(error.to_string()))?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if !metadata.is_dir() {
        return Err(failure("it is not a directory".into()).help(format!("remove it: rm {shown}")));
    }
    if owner != rustix::process::geteuid().as_raw() {
        return Err(failure(format!("it belongs to user {owner}, who could put anything there")));
    }
    if mode & 0o022 != 0 {
        return Err(failure(format!("others can write to it (mode {mode:o})")).help(format!("chmod 700 {shown}")));
    }
    Ok(path.into())
}
