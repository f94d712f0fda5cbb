//! The image of a process in parts: the state in one piece, the memories for themselves. Knows neither where parts are kept nor how they
//! are cut.
//!
//! The one idea: an image is a state and pieces of memory. Whoever keeps the memories another way, because most of them have not changed
//! since the last time, keeps the state alone and makes an image of both again when the process is to go on.

use crate::error::SaveError;
use crate::process::{Body, Process};
use freeze::ImageError;
use freeze::image::{Pages, Reader, State, Writer};
use std::io::{self, Read, Write};

impl Process {
    /// Writes the frozen process without its memories. The process stays as it is, whatever comes of this.
    pub fn save_state(&mut self, out: impl Write) -> Result<(), SaveError> {
        self.save_without_pages(out, false)
    }

    /// Shows each memory of the frozen process, the first one first.
    pub fn each_memory<E>(&mut self, mut show: impl FnMut(u32, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let Body::Freezable(process) = &self.body else { return Ok(()) };
        for index in 0.. {
            let Some(memory) = process.memory(&mut self.store, index) else { return Ok(()) };
            show(index, memory.data(&self.store))?;
        }
        Ok(())
    }
}

/// A state that [`Process::save_state`] wrote.
pub struct SavedState(State);

impl SavedState {
    pub fn read(bytes: impl Read) -> Result<SavedState, ImageError> {
        let mut reader = Reader::open(bytes)?;
        let state = reader.state().clone();
        match reader.piece()? {
            None => Ok(SavedState(state)),
            Some(_) => {
                Err(ImageError::Inconsistent { what: "there is memory in a state that should have none".into() })
            }
        }
    }

    /// How long each memory is.
    pub fn memories(&self) -> &[u64] {
        &self.0.memories
    }

    /// Begins a whole image of this state: what is not zero in the memories is to be added.
    pub fn image<W: Write>(&self, out: W) -> io::Result<WholeImage<W>> {
        let state = State { pages: Pages::Included, ..self.0.clone() };
        Ok(WholeImage(Writer::new(out, &state)?))
    }
}

/// An image that is being written.
pub struct WholeImage<W>(Writer<W>);

impl<W: Write> WholeImage<W> {
    pub fn memory(&mut self, memory: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.memory(memory, offset, bytes)
    }

    /// Without this it counts as truncated.
    pub fn finish(self) -> io::Result<W> {
        self.0.finish()
    }
}
