//! Wasm in, wasm out: makes a module stoppable at loop headers, cycle entries and calls.

mod calls;
mod emit;
mod liveness;
pub(crate) mod output;
mod plan;
mod share;
mod source;

use crate::error::RewriteError;
use wasmparser::ValType;

/// Changes whenever the same input may give other output; an image is pinned to it.
pub const VERSION: u32 = 6;

/// How a rewritten program learns that it should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Poll {
    /// A byte per poll in the shared memory `freeze:flag`, written by any thread.
    Flag,
    /// The same in a memory that is not shared, written by the running thread: for engines that have no shared memories, as
    /// Pulley. See [`Process::listen`](crate::Process::listen). Images do not tell it from `Flag`.
    LocalFlag,
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

impl Options {
    /// What programs are rewritten with by default on this engine.
    pub fn for_engine(engine: &wasmtime::Engine) -> Options {
        let poll = if engine.is_pulley() { Poll::LocalFlag } else { Poll::Flag };
        Options { poll, ..Options::default() }
    }

    /// The options as images know them: what makes no difference to frames is left out.
    pub(crate) fn in_images(&self) -> Options {
        let poll = if self.poll == Poll::LocalFlag { Poll::Flag } else { self.poll };
        Options { poll, ..self.clone() }
    }
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
/// freeze:flag        (memory 1 1 shared)    Poll::Flag, LocalFlag (not shared): every byte nonzero = stop
/// freeze:countdown   (global mut i64)       Poll::Countdown
/// freeze:frames      (memory)               the frames of a stopped process, from FRAMES_BASE up to freeze:top
/// freeze:top         (global mut i32)       FRAMES_BASE while running; end of the frames when stopped
/// freeze:unwinding   (global mut i32)       1 while the stack is being unwound; the host resets it to 0
/// freeze:references  (table funcref)        if has_reference_slots: funcrefs held by frames (frames hold the index)
/// freeze:references-top (global mut i32)    entries used in freeze:references, from 0
/// freeze:start       (func)                 the original start function, if any
/// freeze:m<i> g<i> t<i> e<i> f<i>           memories, globals, tables, tags, functions by original index
///                                           (functions: those that can be a funcref, and some that continuations call)
/// freeze:call<n>     (func)                 calls one of several functions of a type: what else continuations call
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
    /// What is in the memories of a new instance: (memory, first byte, bytes), by active data segments; all of an imported memory
    /// and of one with a segment whose place is not a constant.
    pub filled: Vec<(u32, u64, u64)>,
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

/// The word of `freeze:frames` that says which imported function (from 1) makes a stopped stack one that cannot be continued,
/// because frames of the program lie below the host's. With HOST_REFUSES: because its call cannot be issued again.
pub(crate) const HOST_WORD: u32 = 0;
pub(crate) const HOST_REFUSES: u32 = 1 << 31;

/// A word of `freeze:frames` that is written and never read.
const PROBED_WORD: u32 = 4;

/// No frame is larger than this; the frame memory always has room for one more.
pub(crate) const FRAME_SIZE_MAX: u32 = 1 << 20;

/// No exception taken apart is larger than this: its tag, then its payload.
const EXCEPTION_SIZE_MAX: u32 = 260;

/// The analysis results that continuations are made from.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Functions {
    /// The first point of each function the module defines, then the first point of the shims (one for each import), then
    /// the number of points.
    first_points: Vec<u32>,
    /// By function index: do continuations call it through a dispatcher?
    dispatched: Vec<bool>,
    calls: calls::Calls,
}

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

/// Makes a module stoppable. The same module, options and [`VERSION`] give the same bytes.
pub fn rewrite(wasm: &[u8], options: &Options) -> Result<Rewritten, RewriteError> {
    output::rewrite(wasm, options)
}

impl Map {
    /// The map as bytes, to be kept beside the rewritten module; little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer(vec![]);
        out.u32(VERSION);
        out.u32(match self.options.poll {
            Poll::Flag => 0,
            Poll::Countdown => 1,
            Poll::LocalFlag => 2,
        });
        out.u32(match self.options.entry {
            Entry::Cycles => 0,
            Entry::Every => 1,
        });
        out.0.extend_from_slice(&self.program);
        out.bits(&self.memories);
        out.u32(self.filled.len() as u32);
        for (memory, start, bytes) in &self.filled {
            out.u32(*memory);
            out.u64(*start);
            out.u64(*bytes);
        }
        out.list(&self.globals.iter().map(|(index, _)| *index).collect::<Vec<_>>());
        for (_, ty) in &self.globals {
            out.u32(global_type_code(*ty));
        }
        out.list(&self.tables);
        out.list(&self.referable);
        out.list(&self.droppable_data);
        out.list(&self.droppable_elem);
        out.u32(self.has_reference_slots as u32);
        out.list(&self.functions.first_points);
        out.bits(&self.functions.dispatched);
        out.bits(&self.functions.calls.may_unwind);
        out.bits(&self.functions.calls.entry_poll);
        out.bits(&self.functions.calls.type_may_unwind);
        out.0
    }

    /// `None` if the bytes are not a map of this rewriter version.
    pub fn from_bytes(bytes: &[u8]) -> Option<Map> {
        let mut input = Reader(bytes);
        if input.u32()? != VERSION {
            return None;
        }
        let poll = match input.u32()? {
            0 => Poll::Flag,
            1 => Poll::Countdown,
            2 => Poll::LocalFlag,
            _ => return None,
        };
        let entry = match input.u32()? {
            0 => Entry::Cycles,
            1 => Entry::Every,
            _ => return None,
        };
        let program = input.take(32)?.try_into().ok()?;
        let memories = input.bits()?;
        let mut filled = vec![];
        for _ in 0..input.u32()? {
            filled.push((input.u32()?, input.u64()?, input.u64()?));
        }
        let mut globals = vec![];
        for index in input.list()? {
            globals.push((index, ValType::I32));
        }
        for global in &mut globals {
            global.1 = global_type_of_code(input.u32()?)?;
        }
        let map = Map {
            options: Options { poll, entry },
            program,
            memories,
            filled,
            globals,
            tables: input.list()?,
            referable: input.list()?,
            droppable_data: input.list()?,
            droppable_elem: input.list()?,
            has_reference_slots: input.u32()? != 0,
            functions: Functions {
                first_points: input.list()?,
                dispatched: input.bits()?,
                calls: calls::Calls {
                    may_unwind: input.bits()?,
                    entry_poll: input.bits()?,
                    type_may_unwind: input.bits()?,
                },
            },
        };
        input.0.is_empty().then_some(map)
    }

    /// Does the program poll when this function (by its original index) is entered?
    pub fn polls_at_entry(&self, function: u32) -> bool {
        self.functions.calls.entry_poll.get(function as usize).is_some_and(|polls| *polls)
    }

    /// Walks the frames of a stopped stack; the result is outermost first. Layout of the bytes: innermost frame first
    /// (it was saved first), each one its values (i32, f32, funcref slot: 4 bytes; i64, f64: 8; v128, exnref: 16; no
    /// padding), then its point id (u32, little-endian). `wasm` is the original module. An error says what does not fit.
    pub fn frames(&self, wasm: &[u8], bytes: &[u8]) -> Result<Vec<Frame>, String> {
        output::frames(self, wasm, bytes)
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
    ///
    /// The results of a host call that arrived meanwhile are handed over by filling the slot of the innermost frame (if it
    /// is a `host_call`) with a function `() -> results` and cutting the values of that frame from the bytes.
    pub fn continuations(&self, wasm: &[u8], points: &[PointId]) -> Result<Vec<u8>, RewriteError> {
        output::continuations(self, wasm, points)
    }
}

/// Globals that can be saved have one of these types.
fn global_type_code(ty: ValType) -> u32 {
    match ty {
        ValType::I32 => 0,
        ValType::I64 => 1,
        ValType::F32 => 2,
        ValType::F64 => 3,
        ValType::V128 => 4,
        ValType::Ref(_) => 5,
    }
}

fn global_type_of_code(code: u32) -> Option<ValType> {
    Some(match code {
        0 => ValType::I32,
        1 => ValType::I64,
        2 => ValType::F32,
        3 => ValType::F64,
        4 => ValType::V128,
        5 => ValType::Ref(wasmparser::RefType::FUNCREF),
        _ => return None,
    })
}

/// Types that a host can name, as they are kept beside compiled continuations.
pub(crate) fn code_of_type(ty: ValType) -> Option<u32> {
    match ty {
        ValType::Ref(reference) if reference == wasmparser::RefType::EXTERNREF => Some(6),
        ValType::Ref(reference) if reference != wasmparser::RefType::FUNCREF => None,
        ty => Some(global_type_code(ty)),
    }
}

pub(crate) fn type_of_code(code: u32) -> Option<ValType> {
    match code {
        6 => Some(ValType::EXTERNREF),
        code => global_type_of_code(code),
    }
}

/// Little-endian words and lists of them.
pub(crate) struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn list(&mut self, values: &[u32]) {
        self.u32(values.len() as u32);
        for value in values {
            self.u32(*value);
        }
    }
    fn bits(&mut self, values: &[bool]) {
        self.u32(values.len() as u32);
        for chunk in values.chunks(8) {
            self.0.push(chunk.iter().enumerate().fold(0, |byte, (bit, value)| byte | (*value as u8) << bit));
        }
    }
}

/// What [`Writer`] wrote; `None` where it ends early.
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }
    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
    pub fn list(&mut self) -> Option<Vec<u32>> {
        let count = self.u32()? as usize;
        let bytes = self.take(count.checked_mul(4)?)?;
        Some(bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().expect("chunks of four"))).collect())
    }
    fn bits(&mut self) -> Option<Vec<bool>> {
        let count = self.u32()? as usize;
        let bytes = self.take(count.div_ceil(8))?;
        Some((0..count).map(|index| bytes[index / 8] >> (index % 8) & 1 != 0).collect())
    }
}
