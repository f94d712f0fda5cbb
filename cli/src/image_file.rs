//! Image files: written so that there is a whole one or none, whenever the machine or the process stops. Knows files; not what is
//! in an image but its first bytes.

use crate::failure::{Failure, status};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// An image file as it was written.
pub struct Written {
    pub bytes: u64,
    pub hash: blake3::Hash,
}

/// Why a file will not be written over.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("it is a directory")]
    Directory,
    #[error("there is a file of this name that is no image")]
    NotAnImage,
    #[error("its directory {}: {error}", directory.display())]
    NoDirectory { directory: PathBuf, error: std::io::Error },
}

/// A file to freeze into, checked and made absolute.
pub fn choose(path: &Path) -> Result<PathBuf, Failure> {
    let what = || Failure::new(status::UNA, format!("cannot freeze into {}", path.display()));
    check(path).map_err(|error| {
        let help = match error {
            Unfit::NotAnImage => "choose another name, or remove that file",
            Unfit::Directory => "add a file name to it",
            Unfit::NoDirectory { .. } => "make the directory, or choose another",
        };
        what().because(error).help(help)
    })?;
    std::path::absolute(path).map_err(|error| what().because(error))
}

/// Could an image be put here? Told before the program runs, or stops, for nothing.
fn check(path: &Path) -> Result<(), Unfit> {
    let directory = directory_of(path);
    match std::fs::metadata(&directory) {
        Err(error) => return Err(Unfit::NoDirectory { directory, error }),
        Ok(metadata) if !metadata.is_dir() => {
            return Err(Unfit::NoDirectory { directory, error: ErrorKind::NotADirectory.into() });
        }
        Ok(_) => {}
    }
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(Unfit::Directory),
        Ok(metadata) if metadata.is_file() && metadata.len() == 0 => Ok(()),
        Ok(_) => {
            let mut start = [0; freeze::image::MAGIC.len()];
            let is_image = File::open(path).and_then(|mut file| file.read_exact(&mut start));
            if is_image.is_ok() && start == freeze::image::MAGIC { Ok(()) } else { Err(Unfit::NotAnImage) }
        }
        Err(_) => Ok(()),
    }
}

/// Writes a file by `fill`, puts it on the disk and then in the place of what was there. `before_naming` is called with the
/// file written but not visible yet. After an error nothing has changed.
pub fn write<E: From<std::io::Error>>(
    path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    before_naming: impl FnOnce(&Written) -> Result<(), E>,
) -> Result<Written, E> {
    let directory = directory_of(path);
    let mut unnamed = Unnamed::create(&directory, path)?;
    let mut out =
        BufWriter::with_capacity(1 << 20, Hashing { file: &unnamed.file, hasher: blake3::Hasher::new(), bytes: 0 });
    fill(&mut out)?;
    let Hashing { hasher, bytes, .. } = out.into_inner().map_err(|error| error.into_error())?;
    let written = Written { bytes, hash: hasher.finalize() };
    unnamed.file.sync_all()?;
    before_naming(&written)?;
    unnamed.name(path)?;
    File::open(&directory)?.sync_all()?;
    Ok(written)
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.into(),
        _ => ".".into(),
    }
}

/// A file on its way to its name. If the process is killed before it has one, nothing is left of it, where the file system
/// knows files without names; elsewhere a hidden file with the process id in its name.
struct Unnamed {
    file: File,
    temporary: PathBuf,
    has_name: bool,
}

impl Unnamed {
    fn create(directory: &Path, path: &Path) -> std::io::Result<Unnamed> {
        let name = path.file_name().ok_or(ErrorKind::IsADirectory)?.to_string_lossy();
        let temporary = directory.join(format!(".{name}.{}.new", std::process::id()));
        // What a memory holds is nobody else's business.
        let mode = Mode::RUSR | Mode::WUSR;
        match rustix::fs::open(directory, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
            Ok(file) => Ok(Unnamed { file: file.into(), temporary, has_name: false }),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::NOENT) => {
                let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::open(&temporary, flags, mode)?;
                Ok(Unnamed { file: file.into(), temporary, has_name: true })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn name(&mut self, path: &Path) -> std::io::Result<()> {
        if !self.has_name {
            use std::os::fd::AsRawFd;
            // A file gets its first name by a link, which replaces nothing; only renaming replaces.
            let _ = std::fs::remove_file(&self.temporary);
            let source = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            rustix::fs::linkat(CWD, source, CWD, &self.temporary, AtFlags::SYMLINK_FOLLOW)?;
            self.has_name = true;
        }
        std::fs::rename(&self.temporary, path)?;
        self.has_name = false;
        Ok(())
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if self.has_name {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

struct Hashing<'a> {
    file: &'a File,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
