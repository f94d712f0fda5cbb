//! A stream of bytes between two nodes, for plain threads: blocking, with a bound on what is on its way. Knows no link's making.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Instant;

/// One end of a stream. Dropping the last clone closes it.
pub struct Stream {}

impl Stream {
    /// Another handle to the same end: one thread may read while another writes.
    pub fn try_clone(&self) -> io::Result<Stream> {
        unimplemented!()
    }

    /// `Write`: the other end reads to the end of what was written, then 0. `Both`: both ends fail from now on.
    pub fn shutdown(&self, _how: Shutdown) -> io::Result<()> {
        unimplemented!()
    }

    /// When reading and writing give up, with `TimedOut`. `None` waits as long as the link lives.
    pub fn set_deadline(&self, _deadline: Option<Instant>) {
        unimplemented!()
    }
}

impl Read for Stream {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        unimplemented!()
    }
}

impl Write for Stream {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        unimplemented!()
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
