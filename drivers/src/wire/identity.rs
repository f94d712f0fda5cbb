//! Who this node is: an Ed25519 key in a file. Knows no network.
//!
//! The one idea: the key is made once and never changes, so it must not be lost to a crash, given to another user of the machine, or
//! quietly replaced by a new one when its file is damaged.
//!
//! ```text
//!   "una identity 1\n"   PKCS #8 (RFC 8410)   first 8 bytes of the BLAKE3 hash of what stands before
//! ```

use abi::ids::NodeKey;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const FORMAT: &[u8] = b"una identity 1\n";
const CHECK_BYTES: usize = 8;
/// No key's file is longer.
const FILE_BYTES_MAX: u64 = 4096;

/// A key pair. It proves who a node is when links are made, and does nothing else.
pub struct Identity {
    pub(super) key: NodeKey,
    pub(super) pkcs8: Vec<u8>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{file} holds this node's key and is damaged: restore it from a copy; a new key would be a new node")]
    Damaged { file: PathBuf },
    #[error("{file} holds this node's key and other users may read it (mode {mode:o}): run `chmod 600 {file}`")]
    Exposed { file: PathBuf, mode: u32 },
    #[error("{file} may not be read or written: give it to the user that runs una")]
    Denied { file: PathBuf },
    #[error("{file}: {error}")]
    Io { file: PathBuf, error: std::io::Error },
    #[error("this machine gives no random numbers")]
    NoEntropy,
}

impl Identity {
    /// Takes the key from the file, or makes one and writes it there. When this returns, the key is on the disk.
    pub fn load_or_make(path: &Path) -> Result<Identity, IdentityError> {
        if let Some(identity) = Identity::load(path)? {
            return Ok(identity);
        }
        let made = Identity::make()?;
        made.store(path).map_err(|error| refused(path, error))?;
        // Whoever came first with the same file has won, and the key is theirs.
        Identity::load(path)?.ok_or_else(|| IdentityError::Damaged { file: path.into() })
    }

    /// A key of this process alone.
    pub fn make() -> Result<Identity, IdentityError> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| IdentityError::NoEntropy)?;
        Identity::of_pkcs8(pkcs8.as_ref()).ok_or(IdentityError::NoEntropy)
    }

    pub fn key(&self) -> NodeKey {
        self.key
    }

    pub(super) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    fn of_pkcs8(pkcs8: &[u8]) -> Option<Identity> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).ok()?;
        Some(Identity { key: NodeKey(pair.public_key().as_ref().try_into().ok()?), pkcs8: pkcs8.into() })
    }

    fn load(path: &Path) -> Result<Option<Identity>, IdentityError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(path, error)),
        };
        let mode = file.metadata().map_err(|error| refused(path, error))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { file: path.into(), mode });
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| refused(path, error))?;
        let damaged = || IdentityError::Damaged { file: path.into() };
        let content = bytes.len().checked_sub(CHECK_BYTES).ok_or_else(damaged)?;
        let (content, check) = bytes.split_at(content);
        if blake3::hash(content).as_bytes()[..CHECK_BYTES] != *check {
            return Err(damaged());
        }
        let pkcs8 = content.strip_prefix(FORMAT).ok_or_else(damaged)?;
        Identity::of_pkcs8(pkcs8).map(Some).ok_or_else(damaged)
    }

    /// The file appears whole or not at all, and an older one is never written over.
    fn store(&self, path: &Path) -> std::io::Result<()> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut tag = [0; 8];
        SystemRandom::new()
            .fill(&mut tag)
            .map_err(|_| std::io::Error::other("this machine gives no random numbers"))?;
        let draft = path.with_extension(format!("draft-{:016x}", u64::from_le_bytes(tag)));
        let mut content = [FORMAT, &self.pkcs8].concat();
        let check = blake3::hash(&content);
        content.extend(&check.as_bytes()[..CHECK_BYTES]);
        let written =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft).and_then(|mut file| {
                file.write_all(&content)?;
                file.sync_all()?;
                match std::fs::hard_link(&draft, path) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
                    other => other,
                }
            });
        std::fs::remove_file(&draft)?;
        written?;
        File::open(directory)?.sync_all()
    }
}

fn refused(file: &Path, error: std::io::Error) -> IdentityError {
    let file = file.to_path_buf();
    match error.kind() {
        ErrorKind::PermissionDenied => IdentityError::Denied { file },
        _ => IdentityError::Io { file, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_stays_the_same_and_is_nobody_elses() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys/identity");
        let made = Identity::load_or_make(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Identity::load_or_make(&path).unwrap().key(), made.key());
        assert_ne!(Identity::make().unwrap().key(), made.key());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn who_makes_it_at_the_same_time_gets_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        let first = Identity::make().unwrap();
        first.store(&path).unwrap();
        Identity::make().unwrap().store(&path).unwrap();
        assert_eq!(Identity::load_or_make(&path).unwrap().key(), first.key());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        Identity::load_or_make(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(matches!(Identity::load_or_make(&path), Err(IdentityError::Damaged { .. })), "{length}");
            let mut flipped = whole.clone();
            flipped[length] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            assert!(matches!(Identity::load_or_make(&path), Err(IdentityError::Damaged { .. })), "{length}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        Identity::load_or_make(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Identity::load_or_make(&path), Err(IdentityError::Exposed { mode: 0o640, .. })));
    }
}
