//! Where a node is found: one file in its data directory that is locked while it lives and says where its socket is. Knows files;
//! not what a node does.
//!
//! ```text
//!   DATA/node.lock    locked by the daemon; JSON: its process id, version and socket
//! ```
//! A lock is gone with its process, however that ended, so nothing needs to be cleaned up by hand after a crash. That the file
//! itself names the socket lets every login find the node, whatever its runtime directory is.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The process that has a node's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    pub version: String,
    pub socket: PathBuf,
}

/// Why this process cannot be the node's.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Without a holder, it is starting and has not yet said who it is.
    #[error("another daemon has it")]
    Taken(Option<Holder>),
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// The node's data and address belong to this process until this is dropped.
pub struct Claim {
    file: File,
    socket: PathBuf,
}

fn lock_path(data: &Path) -> PathBuf {
    data.join("node.lock")
}

/// Takes the data directory and listens on the socket. A socket that a dead daemon left is replaced.
pub fn claim(data: &Path, socket: &Path) -> Result<(Claim, UnixListener), ClaimError> {
    let path = lock_path(data);
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |error| ClaimError::Io { path, error }
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(failed(data))?;
    let file = File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
    let mut file = file.map_err(failed(&path))?;
    if let Err(error) = lock(&file) {
        return Err(match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::PermissionDenied => ClaimError::Taken(read(&mut file)),
            _ => failed(&path)(error),
        });
    }
    // The lock says that nobody listens there any more.
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(socket)(error)),
        _ => {}
    }
    let listener = at_short_path(socket, |short| UnixListener::bind(short)).map_err(failed(socket))?;
    let holder = Holder { pid: std::process::id(), version: super::version().into(), socket: socket.into() };
    let json = serde_json::to_vec(&holder).map_err(|error| failed(&path)(error.into()))?;
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&json)
    };
    write(&mut file).map_err(failed(&path))?;
    Ok((Claim { file, socket: socket.into() }, listener))
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        let _ = self.file.set_len(0);
    }
}

/// What a client finds.
#[derive(Debug)]
pub enum Found {
    /// No node runs. What is left of one that was killed is harmless.
    Nothing,
    Node(Holder, UnixStream),
    /// A process has the node's data, but does not answer: it is starting, stopping or stuck.
    Silent(Option<Holder>, io::Error),
}

pub fn find(data: &Path) -> io::Result<Found> {
    let mut file = match File::open(lock_path(data)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let holder = read(&mut file);
    let connected = match &holder {
        Some(holder) => at_short_path(&holder.socket, |short| UnixStream::connect(short)),
        None => Err(ErrorKind::NotConnected.into()),
    };
    match (holder, connected) {
        (Some(holder), Ok(stream)) => Ok(Found::Node(holder, stream)),
        (holder, Err(error)) if is_locked(&file)? => Ok(Found::Silent(holder, error)),
        _ => Ok(Found::Nothing),
    }
}

/// Does any process have the node's data?
pub fn is_held(data: &Path) -> io::Result<bool> {
    match File::open(lock_path(data)) {
        Ok(file) => is_locked(&file),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn read(file: &mut File) -> Option<Holder> {
    let mut json = vec![];
    // What a process id, a version and a path may take at most.
    file.take(16 << 10).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}

/// A lock of the open file, so that a thread of this process that looks at the file cannot lose it.
fn lock_of(kind: i32) -> libc::flock {
    // SAFETY: a structure of integers, for which zero is a value: the whole file, from its start.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

fn lock(file: &File) -> io::Result<()> {
    let lock = lock_of(libc::F_WRLCK);
    // SAFETY: an open descriptor, and a structure that the call only reads.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Asks without locking, so that asking never gets in a starting daemon's way.
fn is_locked(file: &File) -> io::Result<bool> {
    let mut lock = lock_of(libc::F_RDLCK);
    // SAFETY: an open descriptor, and a structure that the call reads and writes.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) } {
        0 => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A socket's path may have 107 bytes only; through an open directory any path is short enough.
fn at_short_path<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() < 100 {
        return act(path);
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let directory = File::open(directory)?;
    act(&PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_nothing_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let (data, socket) = (directory.path().join("data"), directory.path().join("socket"));
        assert!(matches!(find(&data).unwrap(), Found::Nothing));
        let (first, listener) = claim(&data, &socket).unwrap();
        match claim(&data, &socket) {
            Err(ClaimError::Taken(Some(holder))) => assert_eq!(holder.pid, std::process::id()),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("two daemons"),
        }
        assert!(matches!(find(&data).unwrap(), Found::Node(..)));
        // It has the lock and does not listen any more.
        drop(listener);
        assert!(matches!(find(&data).unwrap(), Found::Silent(Some(_), _)));
        drop(first);
        assert!(!socket.exists() && !is_held(&data).unwrap());
        assert!(matches!(find(&data).unwrap(), Found::Nothing));
    }

    /// What a daemon that was killed leaves: a socket that nobody listens on, and a file that says it is there.
    #[test]
    fn a_stale_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        // Deeper than the path of a socket may be long.
        let deep = directory.path().join("d".repeat(150));
        std::fs::create_dir(&deep).unwrap();
        let (data, socket) = (directory.path().join("data"), deep.join("socket"));
        let (claim_of_the_dead, listener) = claim(&data, &socket).unwrap();
        let file = std::fs::read(lock_path(&data)).unwrap();
        drop((claim_of_the_dead, listener));
        drop(at_short_path(&socket, |short| UnixListener::bind(short)).unwrap());
        std::fs::write(lock_path(&data), file).unwrap();
        assert!(socket.exists());
        assert!(matches!(find(&data).unwrap(), Found::Nothing));
        let (_claim, _listener) = claim(&data, &socket).unwrap();
        assert!(matches!(find(&data).unwrap(), Found::Node(..)));
    }
}
