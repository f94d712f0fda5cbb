//! What travels from one process to another: bytes, and rights. This file knows nothing of queues or of who may send.
//!
//! The one idea: short content lies in the message itself, long content is shared and never copied on its way.

use crate::ids::{CallId, HandleId, ProcessId};
use crate::process::Exit;
use crate::rights::Rights;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

/// The most bytes one message carries. What is longer goes in parts, through a pipe, or as a segment.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The most handles one message carries.
pub const MESSAGE_HANDLES_MAX: usize = 8;
/// Content up to this length lies in the message itself: no allocation. More would make every message longer to move about.
pub const INLINE_BYTES_MAX: usize = 46;

/// Immutable bytes that are cheap to pass on.
#[derive(Clone)]
pub struct Bytes(Form);

#[derive(Clone)]
enum Form {
    Inline { length: u8, content: [u8; INLINE_BYTES_MAX] },
    Shared { all: Arc<[u8]>, start: u32, end: u32 },
}

impl Bytes {
    pub const EMPTY: Bytes = Bytes(Form::Inline { length: 0, content: [0; INLINE_BYTES_MAX] });

    /// Copies the content, once. Content longer than 4 GiB is a fault of the caller.
    pub fn new(content: &[u8]) -> Bytes {
        if content.len() > INLINE_BYTES_MAX {
            return Bytes::shared(content.into());
        }
        let mut inline = [0; INLINE_BYTES_MAX];
        inline[..content.len()].copy_from_slice(content);
        Bytes(Form::Inline { length: content.len() as u8, content: inline })
    }

    /// Shares content that lies in memory already.
    pub fn shared(all: Arc<[u8]>) -> Bytes {
        let end = u32::try_from(all.len()).expect("one buffer is shorter than 4 GiB");
        Bytes(Form::Shared { all, start: 0, end })
    }

    /// The bytes before and from `at` on, without copying what is shared. `at` must not lie behind the end.
    pub fn split(self, at: usize) -> (Bytes, Bytes) {
        assert!(at <= self.len(), "bytes are split within their length");
        match self.0 {
            Form::Inline { length, content } => {
                (Bytes::new(&content[..at]), Bytes::new(&content[at..usize::from(length)]))
            }
            Form::Shared { all, start, end } => {
                let middle = start + at as u32;
                let front = Bytes(Form::Shared { all: all.clone(), start, end: middle });
                (front, Bytes(Form::Shared { all, start: middle, end }))
            }
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Form::Inline { length, content } => &content[..usize::from(*length)],
            Form::Shared { all, start, end } => &all[*start as usize..*end as usize],
        }
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Bytes) -> bool {
        **self == **other
    }
}

impl Eq for Bytes {}

impl Default for Bytes {
    fn default() -> Bytes {
        Bytes::EMPTY
    }
}

impl From<&[u8]> for Bytes {
    fn from(content: &[u8]) -> Bytes {
        Bytes::new(content)
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(content: Vec<u8>) -> Bytes {
        if content.len() <= INLINE_BYTES_MAX { Bytes::new(&content) } else { Bytes::shared(content.into()) }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        const SHOWN_MAX: usize = 48;
        write!(f, "\"{}\"", self[..self.len().min(SHOWN_MAX)].escape_ascii())?;
        if self.len() > SHOWN_MAX { write!(f, "... {} bytes", self.len()) } else { Ok(()) }
    }
}

/// Whether the sender keeps its handle.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TransferMode {
    /// The handle leaves the sender's table at the moment the message is accepted, and not before: a send that fails moves
    /// nothing.
    Move,
    Copy,
}

/// One handle in a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Transfer {
    pub handle: HandleId,
    /// What the receiver shall be able to do: the same or less than the sender can.
    pub rights: Rights,
    pub mode: TransferMode,
}

/// What a process sends. At most [`MESSAGE_BYTES_MAX`] bytes and [`MESSAGE_HANDLES_MAX`] handles.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Message {
    pub bytes: Bytes,
    pub handles: Box<[Transfer]>,
}

impl Message {
    pub fn of(bytes: &[u8]) -> Message {
        Message { bytes: Bytes::new(bytes), handles: Box::default() }
    }
}

/// A number on a handle to a port that the port's owner put there: each message sent through the handle carries it, so one
/// port can serve many things. Zero is no badge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Badge(pub u64);

/// What a process takes out of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    Message(Delivery),
    Notice(Notice),
}

/// A message as its receiver sees it: the handles are its own now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    pub bytes: Bytes,
    pub handles: Box<[HandleId]>,
    pub sender: ProcessId,
    pub badge: Badge,
    /// The sender waits for an answer.
    pub call: Option<Answerable>,
}

/// How to answer a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answerable {
    /// The same for each retry of one call.
    pub id: CallId,
    /// Lets the holder answer once. Closing it tells the caller that no answer will come.
    pub reply: HandleId,
}

/// An answer as the caller sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub bytes: Bytes,
    pub handles: Box<[HandleId]>,
}

/// Where a notice shall go. The handle must hold the right to receive: nobody's queue is filled by others' notices. Whoever
/// receives from the port gets it; after the end of the process that asked for it, nobody does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notify {
    pub port: HandleId,
    /// Comes back in the notice.
    pub token: u64,
}

/// What the kernel tells a process by a message. Each has its place in the queue reserved when it was asked for, so none is
/// ever lost to a full queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    pub token: u64,
    pub event: NoticeEvent,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoticeEvent {
    /// A watched process ended. All that it sent before comes before this.
    Exited {
        process: ProcessId,
        exit: Exit,
    },
    /// A watched port has no receiver any more.
    PortClosed,
    /// Nobody waits for the answer to a watched call any more: work on it can stop.
    CallerGone(CallId),
    /// The time came.
    Timer,
    Journal(crate::device::JournalResult),
}
