//! Tests of WASI: a process's state with a made-up memory, streams, clock and waiting, over a real directory of the host.
//!
//! Nothing here sleeps: time passes when somebody waits, and what comes meanwhile is written down before.

mod calls;
mod files;
mod guests;
mod paths;
mod saved;
mod waiting;

use super::memory::{Memory, read_u32, read_u64};
use super::{Progress, Resume, Setup, System};
use abi::errno::Errno;
use abi::file::*;
use abi::wasi::{Clockid, Filetype, Rights};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What happens while a process waits.
#[derive(Debug, Clone)]
enum Event {
    Input(&'static [u8]),
    InputEnds,
    /// The output has room for so many bytes more.
    Room(usize),
    Time(u64),
    Interrupt,
}

/// One stream's other end.
#[derive(Debug)]
struct Far {
    kind: StreamKind,
    input: VecDeque<u8>,
    ended: bool,
    output: Vec<u8>,
    room: usize,
    may_read_ahead: bool,
}

impl Far {
    fn new(kind: StreamKind) -> Arc<Mutex<Far>> {
        let (input, output) = Default::default();
        Arc::new(Mutex::new(Far { kind, input, ended: false, output, room: usize::MAX, may_read_ahead: true }))
    }
}

#[derive(Clone)]
struct Near {
    far: Arc<Mutex<Far>>,
    source: Source,
}

impl Stream for Near {
    fn kind(&self) -> StreamKind {
        self.far.lock().unwrap().kind
    }

    fn stat(&self) -> Result<Stat, Errno> {
        let kind = match self.kind() {
            StreamKind::Terminal | StreamKind::Device => Filetype::CharacterDevice,
            StreamKind::File => Filetype::RegularFile,
            StreamKind::Pipe => Filetype::Unknown,
            StreamKind::Socket => Filetype::SocketStream,
        };
        let (device, inode, links, size_bytes, accessed_ns, modified_ns, changed_ns) = (1, 2, 3, 4, 5, 6, 7);
        Ok(Stat { device, inode, kind, links, size_bytes, accessed_ns, modified_ns, changed_ns, born_ns: None })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut far = self.far.lock().unwrap();
        if far.input.is_empty() && !far.ended {
            return Err(Errno::Again);
        }
        let read = buffer.len().min(far.input.len());
        buffer.iter_mut().zip(far.input.drain(..read)).for_each(|(to, from)| *to = from);
        Ok(read)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut far = self.far.lock().unwrap();
        if far.ended {
            return Err(Errno::Pipe);
        }
        let written = bytes.len().min(far.room);
        if written == 0 && !bytes.is_empty() {
            return Err(Errno::Again);
        }
        far.room -= if far.room == usize::MAX { 0 } else { written };
        far.output.extend_from_slice(&bytes[..written]);
        Ok(written)
    }

    fn readiness(&self, direction: Direction) -> Result<Readiness, Errno> {
        let far = self.far.lock().unwrap();
        let (ready, bytes) = match direction {
            Direction::Read => (!far.input.is_empty() || far.ended, far.input.len() as u64),
            Direction::Write => (far.room > 0, 0),
        };
        Ok(if ready { Readiness::Ready { bytes, hangup: far.ended } } else { Readiness::Blocked })
    }

    fn source(&self) -> Source {
        self.source
    }

    fn may_read_ahead(&self) -> bool {
        self.far.lock().unwrap().may_read_ahead
    }
}

/// Two clocks that pass when somebody waits.
#[derive(Clone)]
struct Time {
    monotonic_ns: Arc<AtomicU64>,
    /// How far the date is ahead of the monotonic clock.
    date_ns: u64,
}

impl Time {
    fn pass(&self, ns: u64) {
        self.monotonic_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

const DATE_NS: u64 = 1_700_000_000_000_000_000;

impl Clock for Time {
    fn realtime_ns(&self) -> u64 {
        self.date_ns + self.monotonic_ns()
    }

    fn monotonic_ns(&self) -> u64 {
        self.monotonic_ns.load(Ordering::Relaxed)
    }

    fn cputime_ns(&self) -> u64 {
        self.monotonic_ns() / 2
    }

    fn resolution_ns(&self, clock: Clockid) -> u64 {
        clock.raw().into()
    }
}

struct Counting(u8);

impl Entropy for Counting {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Errno> {
        for byte in buffer {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
        Ok(())
    }
}

/// What was waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Waited {
    interests: Vec<Interest>,
    timeout_ns: Option<u64>,
}

#[derive(Clone)]
struct Script {
    events: Arc<Mutex<VecDeque<Event>>>,
    waited: Arc<Mutex<Vec<Waited>>>,
    time: Time,
    input: Arc<Mutex<Far>>,
    output: Arc<Mutex<Far>>,
    /// What an interruption calls besides.
    stopper: Arc<Mutex<Option<crate::Stopper>>>,
}

impl Waiter for Script {
    fn wait(&mut self, interests: &[Interest], timeout_ns: Option<u64>) -> Result<Wake, Errno> {
        self.waited.lock().unwrap().push(Waited { interests: interests.to_vec(), timeout_ns });
        match (self.events.lock().unwrap().pop_front(), timeout_ns) {
            (Some(Event::Input(bytes)), _) => self.input.lock().unwrap().input.extend(bytes),
            (Some(Event::InputEnds), _) => self.input.lock().unwrap().ended = true,
            (Some(Event::Room(bytes)), _) => self.output.lock().unwrap().room += bytes,
            (Some(Event::Time(ns)), _) => self.time.pass(ns),
            (Some(Event::Interrupt), _) => {
                if let Some(stopper) = &*self.stopper.lock().unwrap() {
                    stopper.freeze().unwrap();
                }
                return Ok(Wake::Interrupted);
            }
            (None, Some(timeout_ns)) => self.time.pass(timeout_ns),
            (None, None) => panic!("this would wait for ever"),
        }
        Ok(Wake::Perhaps)
    }

    fn interrupt(&self) -> Arc<dyn Interrupt> {
        struct Nothing;
        impl Interrupt for Nothing {
            fn raise(&self) {}
            fn lower(&self) {}
        }
        Arc::new(Nothing)
    }
}

/// Everything around a process.
struct World {
    directory: tempfile::TempDir,
    input: Arc<Mutex<Far>>,
    output: Arc<Mutex<Far>>,
    error: Arc<Mutex<Far>>,
    script: Script,
}

impl World {
    fn new() -> World {
        let time = Time { monotonic_ns: Arc::new(AtomicU64::new(5_000)), date_ns: DATE_NS };
        let (input, output, error) =
            (Far::new(StreamKind::Pipe), Far::new(StreamKind::Pipe), Far::new(StreamKind::Terminal));
        let script = Script {
            events: Default::default(),
            waited: Default::default(),
            time,
            input: input.clone(),
            output: output.clone(),
            stopper: Default::default(),
        };
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("data")).unwrap();
        std::fs::create_dir(directory.path().join("other")).unwrap();
        World { directory, input, output, error, script }
    }

    /// A path below what the program sees as `/data`.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("data").join(name)
    }

    fn mounts(&self) -> Vec<Mount> {
        let mount = |guest: &str, name: &str| {
            let host = self.directory.path().join(name);
            let files = Box::new(drivers::HostDirectory::open(&host).unwrap());
            Mount { guest: guest.into(), host: name.into(), read_only: false, files }
        };
        vec![mount("/data", "data"), mount("other", "other")]
    }

    fn setup(&self) -> Setup {
        let Resume { mounts, stdin, stdout, stderr, clock, entropy, waiter } = self.resume();
        let args = vec!["prog".into(), "".into(), "\u{e4}rg".into()];
        let env = vec![("A".into(), "1=2".into()), ("EMPTY".into(), "".into())];
        Setup { args, env, mounts, stdin, stdout, stderr, clock, entropy, waiter }
    }

    fn resume(&self) -> Resume {
        let near = |far: &Arc<Mutex<Far>>, source| Box::new(Near { far: far.clone(), source: Source(source) });
        Resume {
            mounts: self.mounts(),
            stdin: near(&self.input, 10),
            stdout: near(&self.output, 11),
            stderr: near(&self.error, 12),
            clock: Box::new(self.script.time.clone()),
            entropy: Box::new(Counting(0)),
            waiter: Box::new(self.script.clone()),
        }
    }

    fn guest(&self) -> Guest {
        Guest { system: System::new(self.setup()).unwrap(), memory: vec![0xaa; 1 << 16] }
    }

    fn then(&self, events: &[Event]) {
        self.script.events.lock().unwrap().extend(events.iter().cloned());
    }

    fn waited(&self) -> Vec<Waited> {
        std::mem::take(&mut self.script.waited.lock().unwrap())
    }

    fn output(&self) -> Vec<u8> {
        std::mem::take(&mut self.output.lock().unwrap().output)
    }
}

/// A process without a program: its state, and memory to call with.
///
/// Layout: results at 0..64, buffer arrays at 64..128, strings and buffers from 128 and from 16384.
struct Guest {
    system: System,
    memory: Vec<u8>,
}

/// How a call ended that may wait.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Answered(Result<(), Errno>),
    /// A freeze was asked for.
    Interrupted,
}

const RESULT: u32 = 0;
const ARRAY: u32 = 64;
const TEXT: u32 = 128;
const TEXT2: u32 = 8192;
const BUFFER: u32 = 16384;

impl Guest {
    fn call(&mut self, call: impl FnOnce(&mut System, &mut Memory) -> Result<(), Errno>) -> Result<(), Errno> {
        call(&mut self.system, &mut Memory::new(&mut self.memory))
    }

    /// As `link` does it.
    fn issue(&mut self, call: impl Fn(&mut System, &mut Memory) -> Result<Progress, Errno>) -> Ended {
        loop {
            let wait = match call(&mut self.system, &mut Memory::new(&mut self.memory)) {
                Ok(Progress::Done) => return Ended::Answered(Ok(())),
                Err(errno) => return Ended::Answered(Err(errno)),
                Ok(Progress::Wait(wait)) => wait,
            };
            match self.system.wait(&wait) {
                Ok(Wake::Perhaps) => {}
                Ok(Wake::Interrupted) => return Ended::Interrupted,
                Err(errno) => return Ended::Answered(Err(errno)),
            }
        }
    }

    fn put(&mut self, address: u32, bytes: &[u8]) {
        self.memory[address as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn text(&mut self, text: &str) -> (u32, u32) {
        self.put(TEXT, text.as_bytes());
        (TEXT, text.len() as u32)
    }

    fn text2(&mut self, text: &str) -> (u32, u32) {
        self.put(TEXT2, text.as_bytes());
        (TEXT2, text.len() as u32)
    }

    fn bytes(&self, address: u32, length: u32) -> &[u8] {
        &self.memory[address as usize..][..length as usize]
    }

    fn u32(&self, address: u32) -> u32 {
        read_u32(&self.memory, address as usize)
    }

    fn u64(&self, address: u32) -> u64 {
        read_u64(&self.memory, address as usize)
    }

    fn buffers(&mut self, buffers: &[(u32, u32)]) -> (u32, u32) {
        for (index, (address, length)) in buffers.iter().enumerate() {
            self.put(ARRAY + 8 * index as u32, &address.to_le_bytes());
            self.put(ARRAY + 8 * index as u32 + 4, &length.to_le_bytes());
        }
        (ARRAY, buffers.len() as u32)
    }

    // The calls that tests make most.

    fn open(&mut self, fd: u32, path: &str, oflags: u32, rights: Rights) -> Result<u32, Errno> {
        self.open_with(fd, 0, path, oflags, rights, rights, 0)
    }

    #[allow(clippy::too_many_arguments)]
    fn open_with(
        &mut self, fd: u32, lookup: u32, path: &str, oflags: u32, rights: Rights, inheriting: Rights, fdflags: u32,
    ) -> Result<u32, Errno> {
        let (path, length) = self.text(path);
        let (rights, inheriting) = (rights.raw(), inheriting.raw());
        self.call(|system, memory| {
            system.path_open(memory, fd, lookup, path, length, oflags, rights, inheriting, fdflags, RESULT)
        })?;
        Ok(self.u32(RESULT))
    }

    fn close(&mut self, fd: u32) -> Result<(), Errno> {
        self.call(|system, memory| system.fd_close(memory, fd))
    }

    fn read(&mut self, fd: u32, length: u32) -> Result<Vec<u8>, Errno> {
        let (iovs, count) = self.buffers(&[(BUFFER, length)]);
        match self.issue(|system, memory| system.fd_read(memory, fd, iovs, count, RESULT)) {
            Ended::Answered(answer) => answer.map(|()| self.bytes(BUFFER, self.u32(RESULT)).to_vec()),
            Ended::Interrupted => panic!("interrupted"),
        }
    }

    fn write(&mut self, fd: u32, bytes: &[u8]) -> Result<u32, Errno> {
        self.put(BUFFER, bytes);
        let (iovs, count) = self.buffers(&[(BUFFER, bytes.len() as u32)]);
        match self.issue(|system, memory| system.fd_write(memory, fd, iovs, count, RESULT)) {
            Ended::Answered(answer) => answer.map(|()| self.u32(RESULT)),
            Ended::Interrupted => panic!("interrupted"),
        }
    }

    fn pread(&mut self, fd: u32, length: u32, offset: u64) -> Result<Vec<u8>, Errno> {
        let (iovs, count) = self.buffers(&[(BUFFER, length)]);
        self.call(|system, memory| system.fd_pread(memory, fd, iovs, count, offset, RESULT))?;
        Ok(self.bytes(BUFFER, self.u32(RESULT)).to_vec())
    }

    fn pwrite(&mut self, fd: u32, bytes: &[u8], offset: u64) -> Result<u32, Errno> {
        self.put(BUFFER, bytes);
        let (iovs, count) = self.buffers(&[(BUFFER, bytes.len() as u32)]);
        self.call(|system, memory| system.fd_pwrite(memory, fd, iovs, count, offset, RESULT))?;
        Ok(self.u32(RESULT))
    }

    fn seek(&mut self, fd: u32, delta: i64, whence: u32) -> Result<u64, Errno> {
        self.call(|system, memory| system.fd_seek(memory, fd, delta, whence, RESULT))?;
        Ok(self.u64(RESULT))
    }

    fn tell(&mut self, fd: u32) -> Result<u64, Errno> {
        self.call(|system, memory| system.fd_tell(memory, fd, RESULT))?;
        Ok(self.u64(RESULT))
    }

    /// Filetype, flags, rights, inheriting rights.
    fn fdstat(&mut self, fd: u32) -> Result<(u8, u16, u64, u64), Errno> {
        self.call(|system, memory| system.fd_fdstat_get(memory, fd, RESULT))?;
        let flags = u16::from_le_bytes(self.bytes(RESULT + 2, 2).try_into().unwrap());
        Ok((self.memory[RESULT as usize], flags, self.u64(RESULT + 8), self.u64(RESULT + 16)))
    }

    /// The size from `fd_filestat_get`.
    fn size(&mut self, fd: u32) -> Result<u64, Errno> {
        self.call(|system, memory| system.fd_filestat_get(memory, fd, RESULT))?;
        Ok(self.u64(RESULT + 32))
    }

    fn set_rights(&mut self, fd: u32, rights: Rights, inheriting: Rights) -> Result<(), Errno> {
        self.call(|system, memory| system.fd_fdstat_set_rights(memory, fd, rights.raw(), inheriting.raw()))
    }

    fn set_flags(&mut self, fd: u32, flags: u32) -> Result<(), Errno> {
        self.call(|system, memory| system.fd_fdstat_set_flags(memory, fd, flags))
    }

    fn renumber(&mut self, from: u32, to: u32) -> Result<(), Errno> {
        self.call(|system, memory| system.fd_renumber(memory, from, to))
    }

    /// Whole entries found from a cookie on, as (cookie of the next, name), and how much of the room was used.
    fn readdir(&mut self, fd: u32, room: u32, cookie: u64) -> Result<(Vec<(u64, String)>, u32), Errno> {
        self.call(|system, memory| system.fd_readdir(memory, fd, BUFFER, room, cookie, RESULT))?;
        let used = self.u32(RESULT);
        let mut bytes = self.bytes(BUFFER, used);
        let mut entries = vec![];
        while bytes.len() >= 24 {
            let length = read_u32(bytes, 16) as usize;
            let Some(name) = bytes.get(24..24 + length) else { break };
            entries.push((read_u64(bytes, 0), String::from_utf8(name.to_vec()).unwrap()));
            bytes = &bytes[24 + length..];
        }
        Ok((entries, used))
    }

    /// Calls that take one path.
    fn create_directory(&mut self, fd: u32, path: &str) -> Result<(), Errno> {
        let (path, length) = self.text(path);
        self.call(|system, memory| system.path_create_directory(memory, fd, path, length))
    }

    fn remove_directory(&mut self, fd: u32, path: &str) -> Result<(), Errno> {
        let (path, length) = self.text(path);
        self.call(|system, memory| system.path_remove_directory(memory, fd, path, length))
    }

    fn unlink(&mut self, fd: u32, path: &str) -> Result<(), Errno> {
        let (path, length) = self.text(path);
        self.call(|system, memory| system.path_unlink_file(memory, fd, path, length))
    }

    /// And two.
    fn rename(&mut self, fd: u32, from: &str, to_fd: u32, to: &str) -> Result<(), Errno> {
        let ((from, from_length), (to, to_length)) = (self.text(from), self.text2(to));
        self.call(|system, memory| system.path_rename(memory, fd, from, from_length, to_fd, to, to_length))
    }

    fn link(&mut self, fd: u32, lookup: u32, from: &str, to_fd: u32, to: &str) -> Result<(), Errno> {
        let ((from, from_length), (to, to_length)) = (self.text(from), self.text2(to));
        self.call(|system, memory| system.path_link(memory, fd, lookup, from, from_length, to_fd, to, to_length))
    }

    fn symlink(&mut self, content: &str, fd: u32, path: &str) -> Result<(), Errno> {
        let ((content, content_length), (path, length)) = (self.text(content), self.text2(path));
        self.call(|system, memory| system.path_symlink(memory, content, content_length, fd, path, length))
    }

    fn read_link(&mut self, fd: u32, path: &str, room: u32) -> Result<String, Errno> {
        let (path, length) = self.text(path);
        self.call(|system, memory| system.path_readlink(memory, fd, path, length, BUFFER, room, RESULT))?;
        Ok(String::from_utf8(self.bytes(BUFFER, self.u32(RESULT)).to_vec()).unwrap())
    }

    /// Inode, filetype, size.
    fn stat(&mut self, fd: u32, lookup: u32, path: &str) -> Result<(u64, u8, u64), Errno> {
        let (path, length) = self.text(path);
        self.call(|system, memory| system.path_filestat_get(memory, fd, lookup, path, length, RESULT))?;
        Ok((self.u64(RESULT + 8), self.memory[RESULT as usize + 16], self.u64(RESULT + 32)))
    }
}

fn content(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Descriptors of the mounts.
const DATA: u32 = 3;
const OTHER: u32 = 4;

const CREAT: u32 = 1;
const DIRECTORY: u32 = 2;
const EXCL: u32 = 4;
const TRUNC: u32 = 8;
const FOLLOW: u32 = 1;
const READ_WRITE: Rights = super::table::FILE_RIGHTS;
const READ_ONLY: Rights = Rights::FD_READ.union(Rights::FD_SEEK).union(Rights::FD_TELL);
