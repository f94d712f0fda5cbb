//! Programs and their compiled code from other nodes: what one has compiled, another of the same kind need not. Knows streams; not what
//! code is.
//!
//! ```text
//!   asks      {"wasm": HASH}  or  {"code": NAME}      as the head of a stream
//!   answers   the file, and the end of the stream; a stream that is dropped without its end is no answer
//! ```
//! Those that ran the program lately, as they say of themselves, are asked first. Wasm is checked by its hash; code by its checksum, which
//! protects from damage only: a member of the system is trusted to have compiled what it says, as it is trusted with the files.

use super::ears::Question;
use super::{Inner, System, service};
use abi::ids::{NodeId, NodeKey, ProgramId};
use drivers::wire::Stream;
use engine::library::is_name;
use engine::{Elsewhere, LibraryError, Named};
use serde::{Deserialize, Serialize};
use services::members::ProgramMark;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::Shutdown;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Compiling takes seconds to minutes; a node that does not answer is not worth waiting for.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
const COPY_TIMEOUT: Duration = Duration::from_secs(120);
/// How many nodes are asked.
const ASKED_MAX: usize = 4;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Wanted {
    Wasm(String),
    Code(String),
}

/// The other nodes as this node's engine sees them.
pub struct Others(pub Weak<Inner>);

impl Elsewhere for Others {
    fn code(&self, program: &blake3::Hash, name: &str) -> Option<Box<dyn Read>> {
        let inner = self.0.upgrade()?;
        let own = inner.node.get()?.engine().compatibility();
        let fits = |inner: &Inner, node| inner.health.soft(node).is_some_and(|(_, facts)| facts.engine.0 == own);
        let (_, stream) = fetch(&inner, None, program, &Wanted::Code(name.into()), fits)?;
        Some(Box::new(stream))
    }
}

impl System {
    /// Has the program that is called so on another node here, under that name. False: none has one.
    pub fn bring(&self, name: &str) -> Result<bool, LibraryError> {
        if !is_name(name) {
            return Ok(false);
        }
        let answers = self.0.ask_all(&Question::Named { name: name.into() });
        let read = |(node, answer): (NodeId, Result<Vec<u8>, String>)| {
            let named: Named = serde_json::from_slice::<Option<Named>>(&answer.ok()?).ok()??;
            Some((node, blake3::Hash::from_hex(&named.hash).ok()?))
        };
        // Of two that differ, the first node's.
        let mut all = answers.into_iter().filter_map(read);
        match all.find_map(|(node, hash)| self.program_from(Some(node), &hash)) {
            Some(wasm) => self.0.library.keep_named(name, &wasm).map(|()| true),
            None => Ok(false),
        }
    }

    /// A program by its hash, from another node that has it; it is kept here then.
    pub fn program(&self, hash: &blake3::Hash) -> Option<Vec<u8>> {
        self.program_from(None, hash)
    }

    /// The same; a node that is known to have it is asked first.
    fn program_from(&self, node: Option<NodeId>, hash: &blake3::Hash) -> Option<Vec<u8>> {
        let wanted = Wanted::Wasm(hash.to_hex().to_string());
        let (size, stream) = fetch(&self.0, node, hash, &wanted, |_, _| true)?;
        let mut wasm = vec![];
        stream.take(crate::protocol::PROGRAM_BYTES_MAX.min(size)).read_to_end(&mut wasm).ok()?;
        if blake3::hash(&wasm) != *hash {
            return None;
        }
        // Not to keep it costs a way to the other node the next time.
        let _ = self.0.library.keep(&wasm);
        Some(wasm)
    }
}

fn fetch(
    inner: &Inner, first: Option<NodeId>, program: &blake3::Hash, wanted: &Wanted,
    fits: impl Fn(&Inner, NodeId) -> bool,
) -> Option<(u64, Stream)> {
    let mark = ProgramMark::from(&ProgramId(*program.as_bytes()));
    let mut others: Vec<(bool, NodeId, NodeKey)> = inner
        .others()
        .into_iter()
        .filter(|(node, _)| inner.health.is_up(*node) && fits(inner, *node))
        .map(|(node, key)| {
            let has =
                Some(node) == first || inner.health.soft(node).is_some_and(|(_, facts)| facts.programs.contains(&mark));
            (!has, node, key)
        })
        .collect();
    others.sort();
    let head = serde_json::to_vec(wanted).expect("plain data");
    others.into_iter().take(ASKED_MAX).find_map(|(_, _, key)| {
        let opened = inner.wire.open(key, service::PROGRAMS, &head, Instant::now() + OPEN_TIMEOUT);
        let mut stream = opened.ok()?;
        stream.set_deadline(Some(Instant::now() + COPY_TIMEOUT));
        let mut size = [0; 8];
        stream.read_exact(&mut size).ok()?;
        Some((u64::from_le_bytes(size), stream))
    })
}

/// Answers another node; what is not here is answered by the end of the stream.
pub fn lend(inner: &Arc<Inner>, head: &[u8], stream: Stream) {
    let Ok(wanted) = serde_json::from_slice::<Wanted>(head) else { return };
    let inner = inner.clone();
    let lend = move || {
        let file = match wanted {
            Wanted::Wasm(hash) => {
                let hash = blake3::Hash::from_hex(hash).ok()?;
                std::fs::File::open(inner.library.path(&hash)).ok()?
            }
            Wanted::Code(name) => inner.node.get()?.engine().lend(&name)?,
        };
        send(file, stream).ok()
    };
    // Without a thread the other node goes on by itself.
    let _ = std::thread::Builder::new().name("una-lend".into()).spawn(move || {
        let _ = lend();
    });
}

fn send(mut file: std::fs::File, mut stream: Stream) -> io::Result<()> {
    use std::io::Write;
    stream.set_deadline(Some(Instant::now() + COPY_TIMEOUT));
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(0))?;
    stream.write_all(&size.to_le_bytes())?;
    io::copy(&mut file.take(size), &mut stream)?;
    stream.shutdown(Shutdown::Write)
}
