//! Programs by their hash: what makes an image of a few kilobytes enough to continue a process on the machine that it was
//! frozen on. Knows files; not what a program is.

use crate::error::LibraryError;
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A directory of programs, each under the BLAKE3 of its bytes. Nothing in it is ever removed by itself, since an image may
/// need it years later.
pub struct Library {
    directory: PathBuf,
}

impl Library {
    /// The directory is made when the first program is kept.
    pub fn new(directory: &Path) -> Library {
        Library { directory: directory.into() }
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

    /// Keeps a program. When this returns, it is on the disk.
    pub fn keep(&self, wasm: &[u8]) -> Result<(), LibraryError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = self.path(&blake3::hash(wasm));
        // The length stands for the content: a whole file was renamed to this name, and `find` looks closer.
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == wasm.len() as u64) {
            return Ok(());
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{number}.new", std::process::id()));
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(wasm)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(|error| {
            let _ = std::fs::remove_file(&temporary);
            LibraryError::Io { path, error }
        })
    }
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
}
