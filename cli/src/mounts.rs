//! Directories of this machine that a program may use, as the command line names them: HOST=/path[:ro].

use crate::control::Mounted;
use crate::failure::{Failure, Result, quoted, status};
use abi::file::Mount;
use daemon::node::MountOrder;
use drivers::HostDirectory;
use std::path::Path;

/// One `--mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountArgument {
    pub host: String,
    pub guest: String,
    pub read_only: bool,
}

impl std::str::FromStr for MountArgument {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<MountArgument, String> {
        const FORM: &str = "expected HOST=/path or HOST=/path:ro, for example .=/ or data=/data:ro";
        // A host directory may have `=` in its name, so the last `=/` counts.
        let at = text.rfind("=/").ok_or(FORM)?;
        let (host, guest) = (&text[..at], &text[at + 1..]);
        let (guest, read_only) = match guest.strip_suffix(":ro") {
            Some(guest) => (guest, true),
            None => (guest, false),
        };
        if host.is_empty() {
            return Err(format!("no host directory; {FORM}"));
        }
        let guest = match guest.trim_end_matches('/') {
            "" => "/",
            guest => guest,
        };
        if guest.split('/').skip(1).any(|part| part == ".." || part == "." || (part.is_empty() && guest != "/")) {
            return Err(format!("the program's path {guest} must be a plain one, without `.`, `..` and `//`"));
        }
        Ok(MountArgument { host: host.into(), guest: guest.into(), read_only })
    }
}

impl std::fmt::Display for MountArgument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let suffix = if self.read_only { ":ro" } else { "" };
        write!(f, "--mount {}", quoted(&format!("{}={}{suffix}", self.host, self.guest)))
    }
}

/// For another process to open: checked here, where a mistake can be told in full.
pub fn resolve(arguments: &[MountArgument]) -> Result<Vec<MountOrder>> {
    let order = |mount: Mount| MountOrder { host: mount.host.into(), guest: mount.guest, read_only: mount.read_only };
    Ok(open(arguments)?.into_iter().map(order).collect())
}

/// Opens the directories. Their host paths are made absolute, so that they mean the same elsewhere.
pub fn open(arguments: &[MountArgument]) -> Result<Vec<Mount>> {
    let mut mounts: Vec<Mount> = vec![];
    for argument in arguments {
        let MountArgument { host, guest, read_only } = argument;
        let failure = || Failure::new(status::UNA, format!("cannot mount {host} at {guest}"));
        if mounts.iter().any(|mount| mount.guest == *guest) {
            return Err(failure()
                .because("another directory is mounted there")
                .help("give each --mount its own /path"));
        }
        let path = std::path::absolute(host).map_err(|error| failure().because(error))?;
        let opened = if *read_only { HostDirectory::open_read_only(&path) } else { HostDirectory::open(&path) };
        let files = opened.map_err(|error| {
            let failure = failure().because(&error);
            match error.kind() {
                std::io::ErrorKind::NotFound => failure.help(format!("make it: mkdir -p {}", quoted(host))),
                std::io::ErrorKind::NotADirectory => failure.help(match Path::new(host).parent() {
                    Some(parent) if parent != Path::new("") => {
                        format!(
                            "mount the directory that it is in: --mount {}={guest}",
                            quoted(&parent.to_string_lossy())
                        )
                    }
                    _ => format!("mount the directory that it is in: --mount .={guest}"),
                }),
                _ => failure,
            }
        })?;
        let host = path.to_string_lossy().into_owned();
        mounts.push(Mount { guest: guest.clone(), host, read_only: *read_only, files: Box::new(files) });
    }
    Ok(mounts)
}

pub fn describe(mounts: &[Mount]) -> Vec<Mounted> {
    let describe =
        |mount: &Mount| Mounted { guest: mount.guest.clone(), host: mount.host.clone(), read_only: mount.read_only };
    mounts.iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: std::result::Result<(&str, &str, bool), &str>) {
        match (text.parse::<MountArgument>(), expected) {
            (Ok(found), Ok((host, guest, read_only))) => {
                assert_eq!(found, MountArgument { host: host.into(), guest: guest.into(), read_only });
            }
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn mounts_are_read() {
        check(".=/", Ok((".", "/", false)));
        check("/home/x=/work/:ro", Ok(("/home/x", "/work", true)));
        check("a=/b=/c", Ok(("a=/b", "/c", false)));
        check("data", Err("expected HOST=/path"));
        check("data=relative", Err("expected HOST=/path"));
        check("=/x", Err("no host directory"));
        check("a=/x/../y", Err("must be a plain one"));
        check("a=/x//y", Err("must be a plain one"));
    }
}
