//! Which directories a frozen process may have again without being given them anew. An image is only bytes, and could come from
//! anyone: that it names a directory gives it no right to it. But what this user froze on this machine may have again what
//! it had. So each image that is written is remembered here by the hash of all of it, with its directories.

use crate::control::Mounted;
use crate::directories;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// When more are remembered, the oldest are forgotten: their images ask for `--mount` again.
const GRANTS_MAX: usize = 1000;

#[derive(Serialize, Deserialize)]
struct Grant {
    mounts: Vec<Mounted>,
}

/// Remembers what an image's process had.
pub fn record(image: &blake3::Hash, mounts: &[Mounted]) -> std::io::Result<()> {
    if mounts.is_empty() {
        return Ok(());
    }
    let directory = directory()?;
    let path = directory.join(format!("{}.json", image.to_hex()));
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    serde_json::to_writer(&mut file, &Grant { mounts: mounts.to_vec() })?;
    std::fs::rename(&temporary, &path)?;
    forget_oldest(&directory)
}

/// What the process of this image file had, if this user froze it here.
pub fn of_image(image: &Path) -> std::io::Result<Option<Vec<Mounted>>> {
    let mut hasher = blake3::Hasher::new();
    let mut file = std::fs::File::open(image)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => hasher.update(&buffer[..length]),
        };
    }
    let path = directory()?.join(format!("{}.json", hasher.finalize().to_hex()));
    match std::fs::read(path) {
        Ok(json) => Ok(serde_json::from_slice::<Grant>(&json).ok().map(|grant| grant.mounts)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn directory() -> std::io::Result<PathBuf> {
    let directory = directories::data().map_err(|failure| std::io::Error::other(failure.to_lines().0))?.join("grants");
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn forget_oldest(directory: &Path) -> std::io::Result<()> {
    let mut grants = vec![];
    for entry in std::fs::read_dir(directory)?.flatten() {
        grants.push((entry.metadata()?.modified()?, entry.path()));
    }
    grants.sort();
    let too_many = grants.len().saturating_sub(GRANTS_MAX);
    grants.iter().take(too_many).try_for_each(|(_, path)| std::fs::remove_file(path))
}
