//! Pipes: bounded streams of bytes between processes. This file knows nothing of what the bytes mean.
//!
//! The one idea: a pipe keeps the pieces that were written, as they are; a long write lies in the writer's hands and moves
//! in as room appears, before anything of the next writer.

use crate::Kernel;
use crate::handles::{Object, Right};
use crate::limits::PIPE_BYTES_MAX;
use crate::planted::{Bug, planted};
use crate::process::{Process, State, Waiting};
use crate::schedule::Next;
use crate::table::Key;
use abi::call::{CreateError, Outcome, ReadError, Wait, WriteCause, WriteError};
use abi::ids::{HandleId, PipeId};
use abi::limits::Limit;
use abi::message::{Bytes, INLINE_BYTES_MAX, MESSAGE_BYTES_MAX};
use abi::rights::Rights;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// One pipe.
///
/// Invariants: `bytes` counts what lies in `pieces`, none of which is empty, and is at most `bytes_max`; if a reader waits
/// then there is nothing to read and somebody who could write; if a writer waits then there is no room and somebody who
/// could read; `handles`, `readers` and `writers` count the rights there are, and `handles` is not zero.
pub struct Pipe {
    pub(crate) id: PipeId,
    pub(crate) maker: Key<Process>,
    bytes_max: u32,
    pieces: VecDeque<Bytes>,
    bytes: u32,
    pub(crate) handles: u32,
    pub(crate) readers: u32,
    pub(crate) writers: u32,
    pub(crate) reading: VecDeque<Key<Process>>,
    pub(crate) writing: VecDeque<Key<Process>>,
}

impl Pipe {
    pub fn new(id: PipeId, maker: Key<Process>, bytes_max: u32) -> Pipe {
        Pipe {
            id,
            maker,
            bytes_max,
            pieces: VecDeque::new(),
            bytes: 0,
            handles: 0,
            readers: 0,
            writers: 0,
            reading: VecDeque::new(),
            writing: VecDeque::new(),
        }
    }

    /// All that lies in it.
    pub fn take_pieces(&mut self) -> Vec<Bytes> {
        self.bytes = 0;
        core::mem::take(&mut self.pieces).into()
    }

    /// Pieces that fit, none of which is empty.
    pub fn put_pieces(&mut self, pieces: &[Bytes]) {
        self.bytes += pieces.iter().map(|piece| piece.len() as u32).sum::<u32>();
        self.pieces.extend(pieces.iter().cloned());
    }

    pub fn retain(&mut self, rights: Rights) {
        self.handles += 1;
        self.readers += u32::from(rights.contains(Rights::READ));
        self.writers += u32::from(rights.contains(Rights::WRITE));
    }

    pub fn bytes_max(&self) -> u32 {
        self.bytes_max
    }

    fn room(&self) -> usize {
        (self.bytes_max - self.bytes) as usize
    }

    /// Adds what fits of these bytes: what is left.
    fn add(&mut self, bytes: Bytes) -> Bytes {
        let fitting = bytes.len().min(self.room());
        let (front, rest) = bytes.split(fitting);
        if front.is_empty() {
            return rest;
        }
        self.bytes += front.len() as u32;
        match self.pieces.back_mut() {
            // Many short writes would else cost a piece each.
            Some(last) if last.len() + front.len() <= INLINE_BYTES_MAX => {
                let mut joined = [0; INLINE_BYTES_MAX];
                joined[..last.len()].copy_from_slice(last);
                joined[last.len()..last.len() + front.len()].copy_from_slice(&front);
                *last = Bytes::new(&joined[..last.len() + front.len()]);
            }
            _ => self.pieces.push_back(front),
        }
        rest
    }

    /// Takes one piece, or the beginning of it.
    fn take(&mut self, bytes_max: u32) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        let wanted = piece.len().min(bytes_max as usize);
        let (front, rest) = piece.split(wanted);
        if !rest.is_empty() {
            self.pieces.push_front(rest);
        }
        self.bytes -= front.len() as u32;
        Some(front)
    }

    pub fn check(&self) {
        assert_eq!(
            self.pieces.iter().map(|piece| piece.len() as u32).sum::<u32>(),
            self.bytes,
            "{:?} miscounts",
            self.id
        );
        assert!(self.bytes <= self.bytes_max, "{:?} holds more than it may", self.id);
        assert!(self.pieces.iter().all(|piece| !piece.is_empty()), "{:?} holds an empty piece", self.id);
        if !self.reading.is_empty() {
            assert!(self.bytes == 0 && self.writers > 0, "a reader of {:?} sleeps for nothing", self.id);
            assert!(self.writing.is_empty(), "a reader and a writer of {:?} both sleep", self.id);
        }
        if !self.writing.is_empty() {
            assert!(self.room() == 0 && self.readers > 0, "a writer of {:?} sleeps for nothing", self.id);
        }
        assert!(self.handles > 0, "{:?} lives without a handle", self.id);
    }
}

/// System calls.
impl Kernel {
    pub(crate) fn create_pipe(&mut self, me: Key<Process>, bytes_max: u32) -> Outcome {
        Outcome::PipeCreated(self.new_pipe(me, bytes_max))
    }

    fn new_pipe(&mut self, me: Key<Process>, bytes_max: u32) -> Result<HandleId, CreateError> {
        if bytes_max == 0 || bytes_max > PIPE_BYTES_MAX {
            return Err(CreateError::Options);
        }
        let node_full = self.pipes.is_full();
        let process = &mut self.processes[me];
        let buffer_bytes = process.used.buffer_bytes + u64::from(bytes_max);
        let limit = if process.used.pipes >= process.limits.pipes_max {
            Some(Limit::Pipes)
        } else if buffer_bytes > process.limits.buffer_bytes_max {
            Some(Limit::BufferBytes)
        } else if process.handles.room() == 0 {
            Some(Limit::Handles)
        } else if node_full {
            Some(Limit::NodePipes)
        } else {
            None
        };
        if let Some(limit) = limit {
            return Err(CreateError::Limit(limit));
        }
        process.used.pipes += 1;
        process.used.buffer_bytes = buffer_bytes;
        let pipe = Pipe::new(PipeId::new(self.node, self.serial()), me, bytes_max);
        let key = self.pipes.insert(pipe).expect("there is room, as was just seen");
        let right = Right::all(Object::Pipe(key));
        self.retain(&right);
        Ok(self.processes[me].handles.insert(right))
    }

    pub(crate) fn read(&mut self, me: Key<Process>, handle: HandleId, bytes_max: u32, wait: Wait) -> Next {
        let give = |result| Next::Return(Outcome::Read(result));
        let key = match self.find_pipe(me, handle, Rights::READ) {
            Ok(key) => key,
            Err(error) => {
                return match self.foreign(me, handle, Rights::READ) {
                    Some(import) => self.read_abroad(me, import, bytes_max, wait),
                    None => give(Err(ReadError::Handle(error))),
                };
            }
        };
        if bytes_max == 0 {
            return give(Ok(Bytes::EMPTY));
        }
        let pipe = &mut self.pipes[key];
        if let Some(bytes) = pipe.take(bytes_max) {
            self.move_pipe(key);
            return give(Ok(bytes));
        }
        if pipe.writers == 0 {
            return give(Ok(Bytes::EMPTY));
        }
        if !self.may_wait(wait) {
            return give(Err(if wait == Wait::No { ReadError::Empty } else { ReadError::Expired }));
        }
        self.pipes[key].reading.push_back(me);
        self.block(me, Waiting::Read { pipe: key, bytes_max }, wait)
    }

    pub(crate) fn write(&mut self, me: Key<Process>, handle: HandleId, bytes: Bytes, wait: Wait) -> Next {
        let refuse = |written, cause| Next::Return(Outcome::Written(Err(WriteError { written, cause })));
        let key = match self.find_pipe(me, handle, Rights::WRITE) {
            Ok(key) => key,
            Err(error) => {
                return match self.foreign(me, handle, Rights::WRITE) {
                    Some(import) => self.write_abroad(me, import, bytes, wait),
                    None => refuse(0, WriteCause::Handle(error)),
                };
            }
        };
        if bytes.len() > MESSAGE_BYTES_MAX {
            return refuse(0, WriteCause::TooLong);
        }
        let all = bytes.len() as u32;
        let pipe = &mut self.pipes[key];
        if pipe.readers == 0 {
            return refuse(0, WriteCause::NoReaders);
        }
        let mut rest = bytes;
        // Readers that wait take what is in and so make room for more.
        while self.pipes[key].writing.is_empty() && !rest.is_empty() && self.pipes[key].room() > 0 {
            rest = self.pipes[key].add(rest);
            self.feed_readers(key);
        }
        if rest.is_empty() {
            return Next::Return(Outcome::Written(Ok(())));
        }
        let written = all - rest.len() as u32;
        if !self.may_wait(wait) {
            return refuse(written, if wait == Wait::No { WriteCause::Full } else { WriteCause::Expired });
        }
        self.pipes[key].writing.push_back(me);
        self.block(me, Waiting::Write { pipe: key, rest: Box::new(rest), written }, wait)
    }
}

/// The flow.
impl Kernel {
    fn feed_readers(&mut self, key: Key<Pipe>) {
        loop {
            let pipe = &mut self.pipes[key];
            let Some(reader) = pipe.reading.front().copied() else {
                return;
            };
            let State::Waiting { waiting: Waiting::Read { bytes_max, .. }, .. } = self.processes[reader].state else {
                unreachable!("who stands among the readers of a pipe reads")
            };
            let Some(bytes) = pipe.take(bytes_max) else {
                return;
            };
            pipe.reading.pop_front();
            self.wake(reader, Outcome::Read(Ok(bytes)));
        }
    }

    /// Lets waiting writers put in what fits, and waiting readers take what there is, until neither can.
    pub(crate) fn move_pipe(&mut self, key: Key<Pipe>) {
        loop {
            self.feed_readers(key);
            let pipe = &mut self.pipes[key];
            let Some(writer) = pipe.writing.front().copied() else {
                return;
            };
            if pipe.room() == 0 {
                return;
            }
            let State::Waiting { waiting: Waiting::Write { rest, written, .. }, .. } =
                &mut self.processes[writer].state
            else {
                unreachable!("who stands among the writers of a pipe writes")
            };
            let before = rest.len();
            **rest = pipe.add(core::mem::take(rest));
            *written += (before - rest.len()) as u32;
            if rest.is_empty() {
                pipe.writing.pop_front();
                self.wake(writer, Outcome::Written(Ok(())));
            } else if planted(Bug::PipeMixesWrites) {
                pipe.writing.rotate_left(1);
            }
        }
    }

    pub(crate) fn release_pipe(&mut self, key: Key<Pipe>, rights: Rights) {
        let pipe = &mut self.pipes[key];
        pipe.handles -= 1;
        pipe.readers -= u32::from(rights.contains(Rights::READ));
        pipe.writers -= u32::from(rights.contains(Rights::WRITE));
        if pipe.writers == 0 {
            for reader in core::mem::take(&mut pipe.reading) {
                self.wake(reader, Outcome::Read(Ok(Bytes::EMPTY)));
            }
        }
        let pipe = &mut self.pipes[key];
        if pipe.readers == 0 {
            let writers: Vec<_> = core::mem::take(&mut pipe.writing).into();
            for writer in writers {
                let State::Waiting { waiting: Waiting::Write { written, .. }, .. } = self.processes[writer].state
                else {
                    unreachable!("who stands among the writers of a pipe writes")
                };
                let error = WriteError { written, cause: WriteCause::NoReaders };
                self.wake(writer, Outcome::Written(Err(error)));
            }
        }
        if self.pipes[key].handles == 0 {
            let pipe = self.pipes.remove(key).expect("it was just seen");
            if let Some(maker) = self.processes.get_mut(pipe.maker)
                && !matches!(maker.state, State::Exited { .. })
            {
                maker.used.pipes -= 1;
                maker.used.buffer_bytes -= u64::from(pipe.bytes_max);
            }
        }
    }
}
