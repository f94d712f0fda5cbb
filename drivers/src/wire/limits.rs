//! The wire's bounds, in one place. Knows nothing else.

use std::time::Duration;

/// A message, and a page, is one frame.
pub const MESSAGE_BYTES: usize = 64 << 10;

/// A frame's payload: a page, with the number that stands before it in an answer. Nothing urgent waits behind more than one.
pub const FRAME_BYTES: usize = MESSAGE_BYTES + 4;

/// Messages of one class that wait to be sent. More are refused ([`super::SendError::Full`]).
pub const QUEUE_BYTES: usize = 256 << 10;

/// The body of a request, and of an answer. Longer ones are refused: use a stream.
pub const BODY_BYTES: usize = 8 << 20;

/// Requests to one peer that have no answer yet, and their bodies together. More are refused ([`super::AskError::Busy`]).
pub const ASKS_MAX: usize = 16 << 10;
pub const ASK_BYTES_MAX: usize = 64 << 20;

/// What of answers to one peer waits to be sent. Beyond it requests are answered with [`super::AskError::Busy`].
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What a stream begins with.
pub const HEAD_BYTES: usize = 32 << 10;

/// Streams to one peer, both directions together. More are refused ([`super::OpenError::Busy`]).
pub const STREAMS_MAX: usize = 256;

/// What one end of a stream may send ahead of the other's reading: near the product of bandwidth and delay, no more.
pub const WINDOW_BYTES: u32 = 512 << 10;
pub const WINDOW_BYTES_FAR: u32 = 4 << 20;

/// From this on a path is long: a larger window, and congestion control that does not take loss for congestion.
pub const FAR: Duration = Duration::from_millis(5);

/// Housekeeping frames that a peer does not take off us. Beyond it the link ends.
pub const HOUSEKEEPING_BYTES: usize = 256 << 10;

/// How often each end makes sure that the other hears it, and after how many such times without a sign a link is broken.
pub const TICK: Duration = Duration::from_millis(700);
pub const SILENT_TICKS: u32 = 3;

/// A handshake that takes longer is given up.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// Connections that have not yet proved a key, in all and from one address. More are dropped.
pub const STRANGERS_MAX: usize = 256;
pub const STRANGERS_MAX_PER_ADDRESS: usize = 32;

/// Visits at one time, and how long one may take. More are refused, longer ones end.
pub const VISITS_MAX: usize = 16;
pub const VISIT: Duration = Duration::from_secs(60);

/// Keys that are remembered as dismissed, with the reason. The others are just unknown.
pub const DISMISSED_MAX: usize = 4096;

/// Addresses that are remembered for one peer; the oldest is forgotten.
pub const ADDRESSES_MAX: usize = 16;

/// Where a peer may be by what is heard on the network; tried after its addresses, never instead of them.
pub const HINTS_MAX: usize = 4;

/// Pauses between attempts to link: doubled from the first to the last, with a random half.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(50);
pub const BACKOFF_LAST: Duration = Duration::from_secs(5);

/// The next address of a peer is tried when the one before has not answered for so long; the first that answers is taken.
pub const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Words of a reason that cross the wire.
pub const WHY_BYTES: usize = 1 << 10;

/// The machine's name and version in a hello.
pub const NAME_BYTES: usize = 256;
