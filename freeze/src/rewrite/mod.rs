//! Wasm in, wasm out: makes a module stoppable at loop headers, cycle entries and calls.

use crate::error::RewriteError;
use wasmparser::ValType;

/// Changes whenever the same input may give other output; an image is pinned to it.
pub const VERSION: u32 = 1;

/// How a rewritten program learns that it should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Poll {
    /// A byte per poll in the shared memory `freeze:flag`, written by any thread.
    Flag,
    /// The mutable i64 global `freeze:countdown` falls by one at each poll and stops the program when it
    /// reaches zero: slow and exact, for tests.
    Countdown,
}

/// Which function entries poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Entry {
    /// Enough of them to break every cycle of calls.
    Cycles,
    /// All, so that a test can stop at more places.
    Every,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Options {
    pub poll: Poll,
    pub entry: Entry,
}

impl Default for Options {
    fn default() -> Self {
        Options { poll: Poll::Flag, entry: Entry::Cycles }
    }
}

/// A rewritten module. `wasm` has the same imports and exports as the original, plus exports whose names start
/// with `freeze:`; it has no start section: who instantiates it calls the export `freeze:start` if there is one
/// (a continued process must not).
pub struct Rewritten {
    pub wasm: Vec<u8>,
    pub map: Map,
}

/// What is known of a rewritten program beside its code: enough to continue a stopped process
/// without analysing the whole program again. Serializable; kept beside the compiled code.
///
/// Exports of the rewritten module that the process runtime uses:
/// ```text
/// freeze:flag        (memory 1 1 shared)    Poll::Flag: every byte nonzero = stop
/// freeze:countdown   (global mut i64)       Poll::Countdown
/// freeze:frames      (memory)               the frames of a stopped process, from FRAMES_BASE up to freeze:top
/// freeze:top         (global mut i32)       FRAMES_BASE while running; end of the frames when stopped
/// freeze:unwinding   (global mut i32)       1 while the stack is being unwound; the host resets it to 0
/// freeze:references  (table funcref)        if has_reference_slots: funcrefs held by frames (frames hold the index)
/// freeze:references-top (global mut i32)    entries used in freeze:references, from 0
/// freeze:start       (func)                 the original start function, if any
/// freeze:m<i> g<i> t<i> e<i> f<i>           memories, globals, tables, tags, functions by original index
///                                           (functions: those that can be a funcref or that continuations call)
/// freeze:drop-data<i> drop-elem<i> (func)   drop a passive segment, for each i in droppable_*
/// freeze:dropped-data<i> dropped-elem<i> (global mut i32) 1 once dropped
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    pub options: Options,
    /// BLAKE3 of the original module.
    pub program: [u8; 32],
    /// Per memory (original index): is it imported?
    pub memories: Vec<bool>,
    /// Globals to save: (index, type), mutable ones that the module defines or imports.
    pub globals: Vec<(u32, ValType)>,
    /// Tables that the program can change or that are exported, thus to be saved.
    pub tables: Vec<u32>,
    /// Functions that a funcref can point to, exported as `freeze:f<i>`.
    pub referable: Vec<u32>,
    pub droppable_data: Vec<u32>,
    pub droppable_elem: Vec<u32>,
    pub has_reference_slots: bool,
    pub(crate) functions: Functions,
}

/// First byte of `freeze:frames` that frames use.
pub const FRAMES_BASE: u32 = 64;

/// The analysis results that continuations are made from.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Functions {}

/// Names one resume point of a program; stable for one module, options and rewriter version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointId(pub u32);

/// One frame of a stopped stack.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub point: PointId,
    /// Where its values are, as a range of the frame bytes (the 4-byte point id that follows them is not in it).
    pub values: std::ops::Range<usize>,
    pub function: u32,
    /// Results of the function, which its continuation returns.
    pub results: Vec<ValType>,
    /// For the frame of an interrupted host call: the imported function's index and its results.
    pub host_call: Option<(u32, Vec<ValType>)>,
}

pub fn rewrite(_wasm: &[u8], _options: &Options) -> Result<Rewritten, RewriteError> {
    todo!()
}

impl Map {
    pub fn to_bytes(&self) -> Vec<u8> {
        todo!()
    }
    /// None if the bytes are not a map of this rewriter version.
    pub fn from_bytes(_bytes: &[u8]) -> Option<Map> {
        todo!()
    }
    /// Walks the frames of a stopped stack; the result is outermost first. Layout of the bytes: innermost frame first
    /// (it was saved first), each one its values (i32, f32, funcref slot: 4 bytes; i64, f64: 8; v128, exnref: 16; no
    /// padding), then its point id (u32, little-endian). `wasm` is the original module. An error says what does not fit.
    pub fn frames(&self, _wasm: &[u8], _bytes: &[u8]) -> Result<Vec<Frame>, String> {
        todo!()
    }
    /// A module with the continuations of `points`: exports one function per point, `c<id>`: () -> the results of
    /// the point's function. Imports, all from module `freeze`: `conts` (table funcref, min 0, no max: continuations by
    /// slot, made by the host) and whatever else it needs under the export names of the rewritten module's instance.
    ///
    /// Protocol of continuing:
    /// 1. put the frame bytes into `freeze:frames` from FRAMES_BASE on, each frame's point id replaced by the slot in
    ///    `conts` where its continuation is (frames of one point share a slot); grow the memory first where needed;
    /// 2. set `freeze:top` to FRAMES_BASE + length - 4: just below the slot number of the outermost frame;
    /// 3. call the outermost frame's continuation. Each continuation lowers `freeze:top` by the size of its values and
    ///    loads them; one that stopped in a call lowers it by 4 more, reads the slot there, and calls `conts[slot]`.
    ///    When the innermost one runs, `freeze:top` is FRAMES_BASE again.
    /// The results of a host call that arrived meanwhile are handed over by filling the slot of the innermost frame (if it
    /// is a `host_call`) with a function `() -> results` and cutting the values of that frame from the bytes.
    pub fn continuations(&self, _wasm: &[u8], _points: &[PointId]) -> Result<Vec<u8>, RewriteError> {
        todo!()
    }
}
