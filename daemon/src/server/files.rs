//! The node's tree for clients: `ls`, `cat`, `cp`, `rm`, `mkdir`, `mv` of the command line. Knows paths and the file system's words;
//! not where files are kept.
//!
//! Paths begin with `/`. A last link is looked at as itself when it is listed, removed or renamed, and followed when it is read or
//! written.

use super::{Done, Session, Undone};
use crate::files::READING;
use crate::node::Output;
use crate::protocol::{self, Entry, FileKind, PIECE_BYTES_MAX, Reason, Reply};
use abi::errno::Errno;
use abi::file::{Access, Durable, Existence, FileSystem, Kind, LastLink, Open, OpenId, Stat};
use abi::wasi::Filetype;
use std::io::Read;

/// How deep a tree may be that is removed as a whole.
const DEPTH_MAX: usize = 256;

const DIRECTORY: Open = Open { kind: Kind::Directory, last_link: LastLink::Itself, ..READING };

const WRITING: Open = Open { existence: Existence::Created, access: Access::Write, truncate: true, ..READING };

impl Session<'_> {
    fn files(&mut self) -> &mut dyn FileSystem {
        self.files.get_or_insert_with(|| self.shared.node.files()).as_mut()
    }

    pub(super) fn list(&mut self, path: &str) -> Done {
        let inside = relative(path)?;
        let files = self.files();
        let failed = |error| file_error(error, path);
        let found = stat_of(files, inside).map_err(failed)?;
        let mut entries = vec![];
        if found.kind == Filetype::Directory {
            let opened = opened(files, inside, &DIRECTORY).map_err(failed)?;
            let names = files.list(opened).map_err(failed);
            for entry in names.into_iter().flatten().filter(|entry| entry.name != "." && entry.name != "..") {
                // It may have gone meanwhile.
                if let Ok(stat) = files.stat_at(opened, &entry.name, LastLink::Itself) {
                    entries.push(entry_of(entry.name, &stat));
                }
            }
            close(files, opened);
        } else {
            entries.push(entry_of(path.into(), &found));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            self.reply(&Reply::Entry(entry))?;
        }
        self.done()
    }

    pub(super) fn look(&mut self, path: &str) -> Done {
        let inside = relative(path)?;
        let found = stat_of(self.files(), inside).map_err(|error| file_error(error, path))?;
        Ok(self.reply(&Reply::Entry(entry_of(path.into(), &found)))?)
    }

    pub(super) fn read_file(&mut self, path: &str) -> Done {
        let inside = relative(path)?;
        let failed = |error| file_error(error, path);
        let files = self.files();
        let file = opened(files, inside, &READING).map_err(failed)?;
        let stat = files.stat(file).map_err(failed)?;
        if stat.kind == Filetype::Directory {
            close(files, file);
            return Err(failed(Errno::IsDir));
        }
        self.reply(&Reply::Entry(entry_of(path.into(), &stat)))?;
        let mut buffer = vec![0; PIECE_BYTES_MAX];
        let mut offset = 0;
        let sent = loop {
            match self.files().read_at(file, &mut buffer, offset) {
                Ok(0) => break protocol::write_end(&mut self.to).map_err(Undone::from),
                Ok(length) => {
                    offset += length as u64;
                    if let Err(error) = protocol::write_bytes(&mut self.to, Output::Out, &buffer[..length]) {
                        break Err(error.into());
                    }
                }
                // In the place of the end, so that nobody takes a part for the whole.
                Err(error) => break Err(failed(error)),
            }
        };
        close(self.files(), file);
        sent
    }

    pub(super) fn write_file(&mut self, path: &str) -> Done {
        let failed = |error| file_error(error, path);
        let opened = relative(path).and_then(|inside| opened(self.files(), inside, &WRITING).map_err(failed));
        let file = match opened {
            Ok(file) => file,
            Err(refused) => {
                // The file is on its way; it must not be taken for a request.
                self.content().skip()?;
                return Err(refused);
            }
        };
        let written = self.fill_file(file, path);
        let synced = match written {
            Ok(()) => self.files().sync(file, Durable::Everything).map_err(failed),
            refused => refused,
        };
        close(self.files(), file);
        synced?;
        self.done()
    }

    /// Reads all that the client sends, also what cannot be written any more.
    fn fill_file(&mut self, file: OpenId, path: &str) -> Done {
        self.files.get_or_insert_with(|| self.shared.node.files());
        let files = self.files.as_mut().expect("made a line above");
        let mut content = protocol::Content::new(&mut self.from);
        let mut buffer = vec![0; PIECE_BYTES_MAX];
        let mut offset = 0;
        let mut failure = None;
        loop {
            let length = content.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            let mut rest = &buffer[..length];
            while !rest.is_empty() && failure.is_none() {
                match files.write_at(file, rest, offset) {
                    Ok(0) => failure = Some(Errno::Io),
                    Ok(taken) => {
                        offset += taken as u64;
                        rest = &rest[taken..];
                    }
                    Err(error) => failure = Some(error),
                }
            }
        }
        match failure {
            Some(error) => Err(file_error(error, path)),
            None => Ok(()),
        }
    }

    pub(super) fn make_directory(&mut self, path: &str, parents: bool) -> Done {
        let inside = relative(path)?;
        let files = self.files();
        let root = files.root();
        if parents {
            let mut at = 0;
            while let Some(next) = inside[at..].find('/') {
                let parent = &inside[..at + next];
                at += next + 1;
                match files.create_directory(root, parent) {
                    Ok(()) | Err(Errno::Exist) => {}
                    Err(error) => return Err(file_error(error, &format!("/{parent}"))),
                }
            }
        }
        match files.create_directory(root, inside) {
            Ok(()) => {}
            Err(Errno::Exist)
                if parents && stat_of(files, inside).is_ok_and(|stat| stat.kind == Filetype::Directory) => {}
            Err(error) => return Err(file_error(error, path)),
        }
        self.done()
    }

    pub(super) fn remove(&mut self, path: &str, recursive: bool) -> Done {
        let inside = relative(path)?;
        let files = self.files();
        let failed = |error| file_error(error, path);
        let found = stat_of(files, inside).map_err(failed)?;
        let root = files.root();
        match (found.kind, recursive) {
            (Filetype::Directory, true) => remove_tree(files, inside, 0)?,
            (Filetype::Directory, false) => files.remove_directory(root, inside).map_err(failed)?,
            _ => files.unlink(root, inside).map_err(failed)?,
        }
        self.done()
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> Done {
        let (old, new) = (relative(from)?, relative(to)?);
        let files = self.files();
        let root = files.root();
        // As `mv` does: into a directory, under its own name.
        let new = match stat_of(files, new) {
            Ok(stat) if stat.kind == Filetype::Directory && !new.is_empty() => {
                format!("{new}/{}", old.rsplit('/').next().unwrap_or_default())
            }
            _ => new.to_string(),
        };
        files.rename((root, old), (root, &new)).map_err(|error| file_error(error, from))?;
        self.done()
    }
}

fn remove_tree(files: &mut dyn FileSystem, path: &str, depth: usize) -> Done {
    let failed = |error| file_error(error, &format!("/{path}"));
    if depth > DEPTH_MAX {
        return Err(failed(Errno::Loop));
    }
    let root = files.root();
    let directory = opened(files, path, &DIRECTORY).map_err(failed)?;
    let names = files.list(directory).map_err(failed);
    close(files, directory);
    for entry in names?.into_iter().filter(|entry| entry.name != "." && entry.name != "..") {
        let inner = if path.is_empty() { entry.name } else { format!("{path}/{}", entry.name) };
        match entry.kind {
            Filetype::Directory => remove_tree(files, &inner, depth + 1)?,
            _ => files.unlink(root, &inner).map_err(|error| file_error(error, &format!("/{inner}")))?,
        }
    }
    if path.is_empty() {
        return Ok(());
    }
    files.remove_directory(root, path).map_err(failed)
}

/// A client's path from the root. Without its leading slash it would be relative to something that a client does not have.
fn relative(path: &str) -> Done<&str> {
    if path.contains('\0') {
        return Err(Undone::new(Reason::File, "a path cannot have a zero byte in it"));
    }
    match path.strip_prefix('/') {
        Some(inside) => Ok(inside.trim_matches('/')),
        None => Err(Undone::new(Reason::File, format!("{path}: paths in una's tree begin with /"))),
    }
}

fn stat_of(files: &mut dyn FileSystem, inside: &str) -> Result<Stat, Errno> {
    let root = files.root();
    match inside {
        "" => files.stat(root),
        inside => files.stat_at(root, inside, LastLink::Itself),
    }
}

fn opened(files: &mut dyn FileSystem, inside: &str, how: &Open) -> Result<OpenId, Errno> {
    let root = files.root();
    match inside {
        "" => Ok(root),
        inside => files.open(root, inside, how).map(|opened| opened.id),
    }
}

fn close(files: &mut dyn FileSystem, id: OpenId) {
    if id != files.root() {
        files.close(id);
    }
}

fn entry_of(name: String, stat: &Stat) -> Entry {
    let kind = match stat.kind {
        Filetype::RegularFile => FileKind::File,
        Filetype::Directory => FileKind::Directory,
        Filetype::SymbolicLink => FileKind::Link,
        _ => FileKind::Other,
    };
    Entry { name, kind, size_bytes: stat.size_bytes, modified_ns: stat.modified_ns }
}

fn file_error(error: Errno, path: &str) -> Undone {
    if error == Errno::TimedOut {
        let why = "the node that decides about files was not heard in time, or too few are up to say which one that is";
        return Undone::new(Reason::Unreachable, format!("{path}: {why}"));
    }
    let reason = match error {
        Errno::NoEnt => Reason::NotFound,
        Errno::NoSpc | Errno::DQuot => Reason::DiskFull,
        _ => Reason::File,
    };
    Undone::new(reason, format!("{path}: {error}"))
}
