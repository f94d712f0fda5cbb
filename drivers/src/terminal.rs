//! The standard streams of the host process, or any other file descriptor, as streams of bytes. Knows no process and never waits.
//!
//! The one idea: a descriptor that is shared with the shell must not be made non-blocking, since that would change it for
//! everybody; so each call asks for what it can have at once. Pipes and sockets take that wish per call (RWF_NOWAIT); terminals
//! do not, so they are polled first and given little at a time.

use crate::errno;
use abi::errno::Errno;
use abi::file::{Direction, Readiness, Source, Stat, Stream, StreamKind};
use abi::wasi::Filetype;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::FileType;
use rustix::io::ReadWriteFlags;
use std::io::{self, IoSlice, IoSliceMut};

/// What a pipe or terminal that says it has room takes without waiting: POSIX's smallest PIPE_BUF.
const CERTAIN_BYTES: usize = 512;

/// Says "at the current position" to preadv2 and pwritev2.
const CURRENT: u64 = u64::MAX;

pub struct HostStream {
    file: OwnedFd,
    kind: StreamKind,
    /// Does it take RWF_NOWAIT? Assumed until it refuses.
    takes_nowait: bool,
}

impl HostStream {
    pub fn new(file: OwnedFd) -> io::Result<HostStream> {
        let kind = match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::CharacterDevice if rustix::termios::isatty(&file) => StreamKind::Terminal,
            FileType::RegularFile => StreamKind::File,
            FileType::Fifo => StreamKind::Pipe,
            FileType::Socket => StreamKind::Socket,
            _ => StreamKind::Device,
        };
        let takes_nowait = matches!(kind, StreamKind::Pipe | StreamKind::Socket);
        Ok(HostStream { file, kind, takes_nowait })
    }

    pub fn standard_input() -> io::Result<HostStream> {
        HostStream::new(io::stdin().as_fd().try_clone_to_owned()?)
    }

    pub fn standard_output() -> io::Result<HostStream> {
        HostStream::new(io::stdout().as_fd().try_clone_to_owned()?)
    }

    pub fn standard_error() -> io::Result<HostStream> {
        HostStream::new(io::stderr().as_fd().try_clone_to_owned()?)
    }

    fn poll(&self, flags: PollFlags) -> Result<PollFlags, Errno> {
        let mut entry = [PollFd::new(&self.file, flags)];
        loop {
            match poll(&mut entry, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                Ok(_) => return Ok(entry[0].revents()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(errno::of(error)),
            }
        }
    }
}

impl Stream for HostStream {
    fn kind(&self) -> StreamKind {
        self.kind
    }

    fn stat(&self) -> Result<Stat, Errno> {
        let stat = rustix::fs::fstat(&self.file).map_err(errno::of)?;
        let time = |seconds: i64, nanoseconds: u64| {
            u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanoseconds)
        };
        Ok(Stat {
            device: stat.st_dev,
            inode: stat.st_ino,
            kind: match self.kind {
                StreamKind::Terminal | StreamKind::Device => Filetype::CharacterDevice,
                StreamKind::File => Filetype::RegularFile,
                StreamKind::Pipe => Filetype::Unknown,
                StreamKind::Socket => Filetype::SocketStream,
            },
            links: stat.st_nlink as u64,
            size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
            accessed_ns: time(stat.st_atime, stat.st_atime_nsec as u64),
            modified_ns: time(stat.st_mtime, stat.st_mtime_nsec as u64),
            changed_ns: time(stat.st_ctime, stat.st_ctime_nsec as u64),
            born_ns: None,
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let result = if self.takes_nowait {
                rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(buffer)], CURRENT, ReadWriteFlags::NOWAIT)
            } else if self.kind != StreamKind::File
                && !self.poll(PollFlags::IN)?.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
            {
                return Err(Errno::Again);
            } else {
                rustix::io::read(&self.file, &mut *buffer)
            };
            match result {
                Err(rustix::io::Errno::OPNOTSUPP) if self.takes_nowait => self.takes_nowait = false,
                Err(rustix::io::Errno::INTR) => {}
                // A terminal whose other end is gone is at its end.
                Err(rustix::io::Errno::IO) if self.kind == StreamKind::Terminal => return Ok(0),
                result => return result.map_err(errno::of),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            let result = if self.takes_nowait {
                rustix::io::pwritev2(&self.file, &[IoSlice::new(bytes)], CURRENT, ReadWriteFlags::NOWAIT)
            } else if !matches!(self.kind, StreamKind::File | StreamKind::Device) {
                if !self.poll(PollFlags::OUT)?.intersects(PollFlags::OUT | PollFlags::HUP | PollFlags::ERR) {
                    return Err(Errno::Again);
                }
                rustix::io::write(&self.file, &bytes[..bytes.len().min(CERTAIN_BYTES)])
            } else {
                rustix::io::write(&self.file, bytes)
            };
            match result {
                Err(rustix::io::Errno::OPNOTSUPP) if self.takes_nowait => self.takes_nowait = false,
                Err(rustix::io::Errno::INTR) => {}
                result => return result.map_err(errno::of),
            }
        }
    }

    fn readiness(&self, direction: Direction) -> Result<Readiness, Errno> {
        let wanted = match direction {
            Direction::Read => PollFlags::IN,
            Direction::Write => PollFlags::OUT,
        };
        let found = self.poll(wanted)?;
        if !found.intersects(wanted | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return Ok(Readiness::Blocked);
        }
        let bytes = match direction {
            Direction::Read => rustix::io::ioctl_fionread(&self.file).unwrap_or(0),
            Direction::Write => 0,
        };
        Ok(Readiness::Ready { bytes, hangup: found.contains(PollFlags::HUP) })
    }

    fn source(&self) -> Source {
        Source(self.file.as_raw_fd() as u64)
    }

    fn may_read_ahead(&self) -> bool {
        match self.kind {
            // Reading from a terminal in the background would stop the whole process.
            StreamKind::Terminal => {
                rustix::termios::tcgetpgrp(&self.file).is_ok_and(|group| group == rustix::process::getpgrp())
            }
            // A device has no end and keeps nothing for anyone.
            StreamKind::Device => false,
            StreamKind::File | StreamKind::Pipe | StreamKind::Socket => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;

    #[test]
    fn a_pipe_says_again_and_ends() {
        let (reader, writer) = pipe().unwrap();
        let (mut reader, mut writer) = (HostStream::new(reader).unwrap(), HostStream::new(writer).unwrap());
        assert_eq!((reader.kind(), writer.kind()), (StreamKind::Pipe, StreamKind::Pipe));
        let mut buffer = [0; 8];
        assert_eq!(reader.read(&mut buffer), Err(Errno::Again));
        assert_eq!(reader.readiness(Direction::Read), Ok(Readiness::Blocked));
        assert_eq!(writer.write(b"hello"), Ok(5));
        assert_eq!(reader.readiness(Direction::Read), Ok(Readiness::Ready { bytes: 5, hangup: false }));
        assert_eq!(reader.read(&mut buffer[..3]), Ok(3));
        assert_eq!(&buffer[..3], b"hel");
        drop(writer);
        assert_eq!(reader.readiness(Direction::Read), Ok(Readiness::Ready { bytes: 2, hangup: true }));
        assert_eq!(reader.read(&mut buffer), Ok(2));
        assert_eq!(reader.read(&mut buffer), Ok(0));
    }

    #[test]
    fn a_full_pipe_takes_what_it_has_room_for() {
        for takes_nowait in [true, false] {
            let (reader, writer) = pipe().unwrap();
            let (mut reader, mut writer) = (HostStream::new(reader).unwrap(), HostStream::new(writer).unwrap());
            writer.takes_nowait = takes_nowait;
            let bytes = vec![7u8; 1 << 22];
            let mut written = 0;
            let error = loop {
                match writer.write(&bytes) {
                    Ok(more) => written += more,
                    Err(error) => break error,
                }
            };
            assert_eq!(error, Errno::Again);
            assert_eq!(writer.readiness(Direction::Write), Ok(Readiness::Blocked));
            assert!(written >= 4096 && written < bytes.len(), "{written}");
            let mut buffer = vec![0u8; 1 << 22];
            let mut read = 0;
            while let Ok(more) = reader.read(&mut buffer[read..]) {
                read += more;
            }
            assert_eq!(read, written);
            drop(reader);
            assert_eq!(writer.write(b"x"), Err(Errno::Pipe));
            assert!(matches!(writer.readiness(Direction::Write), Ok(Readiness::Ready { .. })));
        }
    }

    #[test]
    fn sharing_a_descriptor_leaves_it_as_it_was() {
        let (reader, _writer) = pipe().unwrap();
        let shared = reader.try_clone().unwrap();
        let mut stream = HostStream::new(reader).unwrap();
        assert_eq!(stream.read(&mut [0; 1]), Err(Errno::Again));
        let flags = rustix::fs::fcntl_getfl(&shared).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    }

    #[test]
    fn files_and_devices_never_wait() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"abc").unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let mut stream = HostStream::new(file.into()).unwrap();
        assert_eq!(stream.kind(), StreamKind::File);
        assert_eq!(stream.stat().map(|stat| (stat.size_bytes, stat.kind)), Ok((3, Filetype::RegularFile)));
        let mut buffer = [0; 8];
        assert_eq!(stream.read(&mut buffer), Ok(3));
        assert_eq!(stream.read(&mut buffer), Ok(0));
        assert!(stream.may_read_ahead());
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut null = HostStream::new(null.into()).unwrap();
        assert_eq!((null.kind(), null.may_read_ahead()), (StreamKind::Device, false));
        assert_eq!(null.read(&mut buffer), Ok(0));
    }
}
