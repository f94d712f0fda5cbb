//! How one una speaks to another that runs a program: one request and its replies over a Unix socket named after the process.
//! Knows the wire; not what freezing is.
//!
//! ```text
//!   every message:  length u32 (little-endian, at most MESSAGE_BYTES_MAX)   JSON
//!   una freeze:     freeze  ->         <- working (each second)  <- working ...  <- frozen | refused
//!   una ps:         describe ->        <- process
//! ```
//! Only the same user (or root) is heard. Whatever arrives on the socket, the program runs on undisturbed: each connection has its
//! own thread, at most [`CONNECTIONS_MAX`] of them, and must say what it wants within [`REQUEST_TIMEOUT`].

use crate::directories;
use crate::failure::{Failure, Result, status};
use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Of this protocol. Another number is refused.
pub const VERSION: u32 = 1;

const MESSAGE_BYTES_MAX: u32 = 64 << 10;
const CONNECTIONS_MAX: usize = 16;

/// How long a connection may take to say what it wants, and to take its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a process that is being frozen says that it still is.
const WORKING_INTERVAL: Duration = Duration::from_secs(1);

/// How long a client waits for any sign of life.
const SILENCE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    Describe,
    Freeze(Freeze),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Absolute: the two processes need not stand in the same directory.
    pub image: PathBuf,
    pub with_program: bool,
    pub afterwards: Afterwards,
}

/// What becomes of a process when its image is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Afterwards {
    End,
    RunOn,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    Process(Description),
    Working,
    Frozen { bytes: u64 },
    Refused { why: String, help: Option<String> },
}

/// A running program, as `una ps` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    pub pid: u32,
    pub name: String,
    pub arguments: Vec<String>,
    /// BLAKE3 of the program, in hexadecimal.
    pub program: String,
    pub engine: String,
    pub freezable: bool,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    pub mounts: Vec<Mounted>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    pub guest: String,
    pub host: String,
    pub read_only: bool,
}

/// Who answers requests. What it returns is the answer; until then the client is told that work goes on.
pub trait Answerer: Send + Sync + 'static {
    fn answer(&self, request: Request, working: &mut dyn FnMut()) -> Answer;
}

pub struct Answer {
    pub reply: Reply,
    /// Dropped when the reply has been sent, or cannot be.
    pub sent: Option<mpsc::Sender<()>>,
}

/// This process's socket; gone when dropped.
pub struct Socket {
    path: PathBuf,
}

/// Listens for requests until the process ends.
pub fn listen(answerer: Arc<dyn Answerer>) -> Result<Socket> {
    let directory = directories::runtime()?;
    let path = directory.join(format!("{}.sock", std::process::id()));
    let failure = |error: std::io::Error| {
        Failure::new(status::UNA, format!("cannot listen on {}", path.display())).because(error)
    };
    // A file of this name is of a dead process that had this number before.
    let _ = std::fs::remove_file(&path);
    let listener = at_short_path(&path, |short| UnixListener::bind(short)).map_err(failure)?;
    let listening = std::thread::Builder::new().name("control".into());
    listening.spawn(move || accept(&listener, &answerer)).map_err(failure)?;
    Ok(Socket { path })
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, answerer: &Arc<dyn Answerer>) {
    let connections = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors: they come back as programs close files.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        if !is_same_user(&stream) || connections.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            continue;
        }
        let (answerer, connections) = (answerer.clone(), connections.clone());
        connections.fetch_add(1, Ordering::Relaxed);
        let serving = std::thread::Builder::new().name("control connection".into()).stack_size(256 << 10);
        let count = connections.clone();
        let served = serving.spawn(move || {
            serve(stream, &*answerer);
            connections.fetch_sub(1, Ordering::Relaxed);
        });
        if served.is_err() {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn is_same_user(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == own || peer.uid.is_root())
}

fn serve(mut stream: UnixStream, answerer: &dyn Answerer) {
    let timeouts = stream.set_read_timeout(Some(REQUEST_TIMEOUT)).and(stream.set_write_timeout(Some(REQUEST_TIMEOUT)));
    if timeouts.is_err() {
        return;
    }
    let answer = match receive::<Request>(&mut stream) {
        Ok(request) => {
            let mut working = || {
                let _ = send(&mut stream, &Reply::Working);
            };
            answerer.answer(request, &mut working)
        }
        Err(error) => {
            Answer { reply: Reply::Refused { why: format!("not a request: {error}"), help: None }, sent: None }
        }
    };
    let _ = send(&mut stream, &answer.reply);
    drop(answer.sent);
}

/// Calls `wait` until it gives something, and says now and then that work goes on.
pub fn wait_working<T>(mut wait: impl FnMut(Duration) -> Option<T>, working: &mut dyn FnMut()) -> T {
    loop {
        if let Some(result) = wait(WORKING_INTERVAL) {
            return result;
        }
        working();
    }
}

fn send<T: Serialize>(stream: &mut impl Write, content: &T) -> std::io::Result<()> {
    let json = serde_json::to_vec(&Envelope { version: VERSION, content })?;
    let length = u32::try_from(json.len()).ok().filter(|length| *length <= MESSAGE_BYTES_MAX);
    let length = length.ok_or_else(|| std::io::Error::other("the message is too long"))?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(&json);
    stream.write_all(&bytes)
}

fn receive<T: DeserializeOwned>(stream: &mut impl Read) -> std::io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MESSAGE_BYTES_MAX {
        return Err(std::io::Error::other(format!("a message of {length} bytes; {MESSAGE_BYTES_MAX} are allowed")));
    }
    let mut json = vec![0; length as usize];
    stream.read_exact(&mut json)?;
    // The version first: the rest may look different in another one.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_slice(&json)?;
    if version != VERSION {
        return Err(std::io::Error::other(format!("protocol version {version}; this is version {VERSION}")));
    }
    Ok(serde_json::from_slice::<Envelope<T>>(&json)?.content)
}

/// A socket's path may have 107 bytes only; through an open directory any path is short enough.
fn at_short_path<T>(
    path: &std::path::Path, act: impl FnOnce(&std::path::Path) -> std::io::Result<T>,
) -> std::io::Result<T> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let directory = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    act(&short)
}

// The client's side.

/// A connection to a running program.
pub struct Connection {
    stream: UnixStream,
    pid: u32,
}

/// Connects to the una of this process id. `None`: there is none.
pub fn connect(pid: u32) -> Result<Option<Connection>> {
    let path = directories::runtime()?.join(format!("{pid}.sock"));
    let failure = |error: std::io::Error| {
        Failure::new(status::FAILED, format!("cannot reach process {pid}"))
            .because(format!("{}: {error}", path.display()))
    };
    let stream = match at_short_path(&path, |short| UnixStream::connect(short)) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            // Its process was killed and could not remove it.
            let _ = std::fs::remove_file(&path);
            return Ok(None);
        }
        Err(error) => return Err(failure(error)),
    };
    if is_stopped(pid) {
        return Err(Failure::new(status::FAILED, format!("cannot reach process {pid}"))
            .because("it is stopped (by ctrl-Z or a signal)")
            .help(format!("let it run on: fg, or kill -CONT {pid}")));
    }
    let timeouts = stream.set_read_timeout(Some(SILENCE_MAX)).and(stream.set_write_timeout(Some(SILENCE_MAX)));
    timeouts.map_err(failure)?;
    Ok(Some(Connection { stream, pid }))
}

/// Who is stopped answers nobody, so nobody should wait for it.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

impl Connection {
    /// Sends the request and waits for its answer, which never is `Working`.
    pub fn ask(mut self, request: &Request) -> Result<Reply> {
        let pid = self.pid;
        let failure = |error: std::io::Error| {
            let failure = Failure::new(status::FAILED, format!("process {pid} gave no answer"));
            match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => failure
                    .because(format!("nothing was heard of it for {} seconds", SILENCE_MAX.as_secs()))
                    .help(format!("if it is stopped, let it run on: kill -CONT {pid}")),
                ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                    failure.because("it ended meanwhile")
                }
                _ => failure.because(error),
            }
        };
        send(&mut self.stream, request).map_err(failure)?;
        loop {
            match receive(&mut self.stream).map_err(failure)? {
                Reply::Working => {}
                reply => return Ok(reply),
            }
        }
    }
}

/// The process ids of the user's running programs, in order. Some may have died meanwhile.
pub fn running() -> Result<Vec<u32>> {
    let directory = directories::runtime()?;
    let entries = std::fs::read_dir(&directory)
        .map_err(|error| Failure::new(status::FAILED, format!("cannot read {}", directory.display())).because(error))?;
    let pid = |entry: std::fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".sock")?.parse().ok();
    let mut pids: Vec<u32> = entries.flatten().filter_map(pid).collect();
    pids.sort_unstable();
    Ok(pids)
}
