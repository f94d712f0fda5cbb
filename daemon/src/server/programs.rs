//! The programs that clients run: kept on the disk by their hash, and the latest in memory, ready to start. Knows how a client
//! uploads one; not what a program is.

use super::{Done, Session, Undone};
use crate::protocol::{PROGRAM_BYTES_MAX, Phase, ProgramId, ProtocolError, Reason, Reply};
use engine::{Library, Program};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Mutex;

/// How many stay loaded: code of one that is asked for again need not be read and checked. The one that was not asked for longest goes.
const LOADED_MAX: usize = 64;

pub struct Programs {
    library: Library,
    /// The latest last.
    loaded: Mutex<Vec<Program>>,
}

impl Programs {
    pub fn new(library: &Path) -> Programs {
        Programs { library: Library::new(library), loaded: Mutex::new(vec![]) }
    }

    fn loaded(&self, hash: &blake3::Hash) -> Option<Program> {
        let mut loaded = self.loaded.lock().expect("nothing panics while it holds this lock");
        let at = loaded.iter().position(|program| program.hash() == *hash)?;
        let program = loaded.remove(at);
        loaded.push(program.clone());
        Some(program)
    }

    fn keep_loaded(&self, program: &Program) {
        let mut loaded = self.loaded.lock().expect("nothing panics while it holds this lock");
        if !loaded.iter().any(|known| known.hash() == program.hash()) {
            loaded.push(program.clone());
        }
        if loaded.len() > LOADED_MAX {
            loaded.remove(0);
        }
    }
}

impl Session<'_> {
    /// The program of this hash, from memory, the disk or the client.
    pub(super) fn program(&mut self, id: &ProgramId) -> Done<Program> {
        let programs = &self.shared.programs;
        let hash = blake3::Hash::from_hex(&id.hash)
            .map_err(|_| ProtocolError::Unreadable(format!("{:?} is not the hash of a program", id.hash)))?;
        if let Some(program) = programs.loaded(&hash) {
            return Ok(program);
        }
        // A damaged copy is as good as none: the client has a whole one.
        let wasm = match programs.library.find(&hash).ok().flatten() {
            Some(wasm) => wasm,
            None => match self.shared.system.program(&hash) {
                Some(wasm) => wasm,
                None => self.uploaded(id, &hash)?,
            },
        };
        let to = &mut self.to;
        let mut tell = |progress: engine::Progress| {
            let phase = match progress.phase {
                engine::Phase::Waiting => Phase::Waiting,
                engine::Phase::Rewriting => Phase::Rewriting,
                engine::Phase::Compiling => Phase::Compiling,
            };
            // Who has gone need not be told; what was compiled is kept for the next one.
            let reply = Reply::Loading { phase, done: progress.done, total: progress.total };
            let _ = crate::protocol::write_message(to, &reply);
        };
        let program = self.shared.node.load(wasm, &mut tell).map_err(|error| Undone::new(Reason::BadProgram, error))?;
        programs.keep_loaded(&program);
        Ok(program)
    }

    fn uploaded(&mut self, id: &ProgramId, hash: &blake3::Hash) -> Done<Vec<u8>> {
        if id.bytes > PROGRAM_BYTES_MAX {
            let (bytes, max) = (id.bytes as usize, PROGRAM_BYTES_MAX as usize);
            return Err(ProtocolError::TooLong { bytes, max }.into());
        }
        self.reply(&Reply::ProgramWanted)?;
        let mut wasm = vec![];
        let mut content = self.content();
        (&mut content).take(id.bytes).read_to_end(&mut wasm)?;
        content.skip()?;
        if blake3::hash(&wasm) != *hash {
            return Err(Undone::new(Reason::BadProgram, "the program changed while it was sent"));
        }
        let kept = self.shared.programs.library.keep(&wasm);
        kept.map_err(|error| {
            let full =
                matches!(&error, engine::LibraryError::Io { error, .. } if error.kind() == ErrorKind::StorageFull);
            let reason = if full { Reason::DiskFull } else { Reason::File };
            Undone::new(reason, format!("the program cannot be kept: {error}"))
        })?;
        Ok(wasm)
    }
}
