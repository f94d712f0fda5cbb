//! Programs by their hash: what makes an image of a few kilobytes enough to continue a process on the machine that it was
//! frozen on. Some have names, beside them:
//!
//! ```text
//!   DIRECTORY/HASH.wasm    DIRECTORY/../names/NAME: JSON of the hash and the length
//! ```
//! Knows files; not what a program is.

use crate::error::LibraryError;
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const NAME_MAX: usize = 64;

/// A directory of programs, each under the BLAKE3 of its bytes. Nothing in it is ever removed by itself, since an image may
/// need it years later.
pub struct Library {
    directory: PathBuf,
    names: PathBuf,
}

/// What is kept under a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Named {
    /// BLAKE3 of the program, in hexadecimal.
    pub hash: String,
    pub bytes: u64,
}

/// Could this be the name of a program?
pub fn is_name(word: &str) -> bool {
    !word.is_empty()
        && word.len() <= NAME_MAX
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

impl Library {
    /// The directory is made when the first program is kept.
    pub fn new(directory: &Path) -> Library {
        Library { directory: directory.into(), names: directory.with_file_name("names") }
    }

    /// Where the program of this hash is, or would be.
    pub fn path(&self, program: &blake3::Hash) -> PathBuf {
        self.directory.join(format!("{}.wasm", program.to_hex()))
    }

    /// `None` if it is not there.
    pub fn find(&self, program: &blake3::Hash) -> Result<Option<Vec<u8>>, LibraryError> {
        let path = self.path(program);
        match std::fs::read(&path) {
            Ok(wasm) if blake3::hash(&wasm) == *program => Ok(Some(wasm)),
            Ok(_) => Err(LibraryError::Damaged { path }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LibraryError::Io { path, error }),
        }
    }

    /// The program of this name, if it is here.
    pub fn named(&self, name: &str) -> Option<(Named, PathBuf)> {
        let json = std::fs::read(self.names.join(Some(name).filter(|name| is_name(name))?)).ok()?;
        let named: Named = serde_json::from_slice(&json).ok()?;
        let path = self.path(&blake3::Hash::from_hex(&named.hash).ok()?);
        let is_there = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == named.bytes);
        is_there.then_some((named, path))
    }

    /// Keeps a program under a name, in the place of another one. When this returns, both are on the disk.
    pub fn keep_named(&self, name: &str, wasm: &[u8]) -> Result<(), LibraryError> {
        self.keep(wasm)?;
        let named = Named { hash: blake3::hash(wasm).to_hex().to_string(), bytes: wasm.len() as u64 };
        let json = serde_json::to_vec(&named).expect("plain data");
        put(&self.names, &self.names.join(name), &json)
    }

    /// Keeps a program. When this returns, it is on the disk.
    pub fn keep(&self, wasm: &[u8]) -> Result<(), LibraryError> {
        let path = self.path(&blake3::hash(wasm));
        // The length stands for the content: a whole file was renamed to this name, and `find` looks closer.
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == wasm.len() as u64) {
            return Ok(());
        }
        put(&self.directory, &path, wasm)
    }
}

/// Makes a whole file, or none.
fn put(directory: &Path, path: &Path, content: &[u8]) -> Result<(), LibraryError> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{number}.new", std::process::id()));
    let write = || {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        LibraryError::Io { path: path.into(), error }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_its_hash_and_checked() {
        let directory = tempfile::tempdir().unwrap();
        let library = Library::new(&directory.path().join("una/programs"));
        let hash = blake3::hash(b"program");
        assert!(library.find(&hash).unwrap().is_none());
        library.keep(b"program").unwrap();
        library.keep(b"program").unwrap();
        assert_eq!(library.find(&hash).unwrap().unwrap(), b"program");
        std::fs::write(library.path(&hash), b"progrbm").unwrap();
        assert!(matches!(library.find(&hash), Err(LibraryError::Damaged { .. })));
        assert_eq!(std::fs::read_dir(directory.path().join("una/programs")).unwrap().count(), 1);
    }

    #[test]
    fn a_program_is_found_by_its_name_while_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let library = Library::new(&directory.path().join("una/programs"));
        assert_eq!(library.named("words"), None);
        library.keep_named("words", b"one").unwrap();
        library.keep_named("words", b"other").unwrap();
        let (named, path) = library.named("words").unwrap();
        assert_eq!((named.bytes, path), (5, library.path(&blake3::hash(b"other"))));
        for name in ["", "../names/words", "../x", ".", "a b", "a.wasm"] {
            assert!(!is_name(name) && library.named(name).is_none(), "{name}");
        }
        assert!(is_name("python") && is_name("a-b_9"));
        std::fs::remove_file(library.path(&blake3::hash(b"other"))).unwrap();
        assert_eq!(library.named("words"), None);
    }
}
