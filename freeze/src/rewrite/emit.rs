//! Writes function bodies: the rewritten function, the continuation of a frame, and the loop functions.
//!
//! ```text
//!   rewritten function            continuation of a point            loop function of a large loop L
//!   block for each PAD            load the frame                     parameters are the frame of L's header
//!     block $body                 block for each PAD                 the same as a continuation of L's header,
//!       ...                         block $body                      but the way back into an outer large
//!       loop                          for each enclosing block,      loop is a tail call of that one's
//!         if the flag is set          from outermost: open it        loop function
//!           id = ..; br PAD           the code behind the point
//!         call                      end
//!         if unwinding              return
//!           id = ..; br PAD       end
//!         ...                     PADS, TAIL
//!     end
//!     return
//!   end
//!   PADS, TAIL
//! ```
//! A PAD stores a frame and says that the stack is being unwound. Small frames are handed to a save helper: points that save the same
//! values share a pad and tell it their id. Larger frames are stored by the parts of a tree (see share.rs), which the points enter
//! where they differ and leave together at its roots. So a point costs little more than its check. The way to a pad is hinted cold.
//! The TAIL, once per function, keeps the frame memory large enough for the next frame and returns zeros.
//!
//! A continuation starts in the middle of loops. A small enclosing loop is written twice: the rest of the interrupted round,
//! then the whole loop for the rounds that follow ("peeled"). Code that the rest cannot reach is left out. For a large loop the
//! second part was compiled with the program. Where there are only blocks around the loop, the function itself can begin with
//! it: the continuation stores a frame of the loop's header, sets `entering` and tail-calls the function, which loads the frame
//! and skips what is in front of the loop. So it can with a large loop inside of that one, and so on; each has a number that
//! `entering` tells. Other large loops have a loop function.

use super::plan::{Entered, Kind, NONE, Place, Plan, Point, Recipe, catch_label, is_block, value_size};
use super::source::{Kind as ValueKind, kind};
use super::{FRAME_SIZE_MAX, FRAMES_BASE, HOST_REFUSES, HOST_WORD, Options, PROBED_WORD, Poll};
use crate::planted::{Bug, planted};
use std::collections::{BTreeMap, HashMap};
use wasm_encoder::reencode::{Reencode, RoundtripReencoder};
use wasm_encoder::{BlockType, Encode, Instruction, MemArg};
use wasmparser::{Catch, Operator, ValType};

/// Where the additions stand in the index spaces; the same in the rewritten module and in a module of continuations.
#[derive(Debug, Clone, Default)]
pub(super) struct Layout {
    pub imported_functions: u32,
    pub functions: u32,
    pub frames_memory: u32,
    pub flag_memory: u32,
    pub top_global: u32,
    pub unwinding_global: u32,
    pub entering_global: u32,
    pub countdown_global: u32,
    pub references_top_global: u32,
    pub references_table: u32,
    pub continuations_table: u32,
    pub exception_size: u32,
    /// Globals that say whether a segment was dropped, by segment.
    pub dropped_data: BTreeMap<u32, u32>,
    pub dropped_elements: BTreeMap<u32, u32>,
    /// For continuations: functions that they call through a dispatcher: its number, and the function's number there.
    pub dispatched: BTreeMap<u32, (u32, u32)>,
}

/// An index that is known only when the module is put together. Written as five bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fix {
    /// By index into the body's own list of types.
    Type(u32),
    /// The loop function for the loop with this point id.
    Loop(u32),
    /// A function of the original module that has an export, as a continuation sees it.
    Function(u32),
    /// See [`Layout::dispatched`].
    Dispatcher(u32),
    /// The global that holds a reference to a function of the original module.
    Reference(u32),
    Helper(Helper),
}

/// Functions that the rewritten module offers to its continuations and pads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Helper {
    /// Stores a frame with values of these types.
    Save(Shape),
    /// Ends a frame whose values are stored.
    Seal,
    SaveException,
    LoadException,
    DropData(u32),
    DropElement(u32),
    /// (segment, memory)
    InitMemory(u32, u32),
    /// (segment, table)
    InitTable(u32, u32),
}

/// The types of a frame's values, one letter each: i l f d v for the numbers, r for a reference's slot, x for an exception.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape(pub String);

impl Shape {
    pub fn of(saved: &[(Place, ValType)]) -> Shape {
        let letter = |ty: ValType| match (kind(ty), ty) {
            (ValueKind::Function, _) => 'r',
            (ValueKind::Exception, _) => 'x',
            (_, ValType::I32) => 'i',
            (_, ValType::I64) => 'l',
            (_, ValType::F32) => 'f',
            (_, ValType::F64) => 'd',
            (_, ValType::V128) => 'v',
            (_, ValType::Ref(_)) => {
                unreachable!("opaque references are refused when the plan is finished")
            }
        };
        Shape(saved.iter().map(|(_, ty)| letter(*ty)).collect())
    }

    /// Is calling a save helper less code than storing in place? As long as its arguments are in registers.
    pub fn fits_helper(&self) -> bool {
        self.0.chars().filter(|letter| "ilr".contains(*letter)).count() <= 2 && self.0.len() <= 4
    }

    /// What the save helper takes: the values but for exceptions, which are stored by their own helper, and the point's id.
    pub fn parameters(&self) -> Vec<ValType> {
        let parameter = |letter| match letter {
            'l' => Some(ValType::I64),
            'f' => Some(ValType::F32),
            'd' => Some(ValType::F64),
            'v' => Some(ValType::V128),
            'x' => None,
            _ => Some(ValType::I32),
        };
        self.0.chars().filter_map(parameter).chain([ValType::I32]).collect()
    }
}

/// The helpers that a pad or a continuation of this point calls.
pub(super) fn helpers(point: &Point) -> Vec<Helper> {
    let shape = Shape::of(&point.saved);
    let exception = shape.0.contains('x');
    let mut helpers = match (point.part, shape.fits_helper()) {
        (_, true) => vec![Helper::Save(shape)],
        (NONE, false) => vec![Helper::Save(Shape::default())],
        // A way to a loop that the function begins with stores its frame in one piece.
        (_, false) => vec![Helper::Seal, Helper::Save(Shape::default())],
    };
    if exception {
        helpers.extend([Helper::SaveException, Helper::LoadException]);
    }
    helpers
}

/// The save helper: returns whether there is no room for one more frame behind this one. A leaf function without a stack frame
/// of its own, so that the engine does not check the stack's limit at its entry, and a stack that is nearly full can still be
/// unwound.
pub(super) fn save_helper(body: &mut Body, shape: &Shape, layout: &Layout) {
    let id = shape.parameters().len() as u32 - 1;
    let top = Instruction::GlobalGet(layout.top_global);
    let arg = |offset: u32| MemArg { offset: offset as u64, align: 0, memory_index: layout.frames_memory };
    let mut offset = 0;
    let mut parameter = 0;
    for letter in shape.0.chars() {
        if letter == 'x' {
            offset += layout.exception_size;
            continue;
        }
        body.op(&top);
        body.op(&Instruction::LocalGet(parameter));
        parameter += 1;
        let (store, size) = match letter {
            'l' => (Instruction::I64Store(arg(offset)), 8),
            'f' => (Instruction::F32Store(arg(offset)), 4),
            'd' => (Instruction::F64Store(arg(offset)), 8),
            'v' if planted(Bug::HalfVector) => (Instruction::V128Store64Lane { memarg: arg(offset), lane: 0 }, 16),
            'v' => (Instruction::V128Store(arg(offset)), 16),
            _ => (Instruction::I32Store(arg(offset)), 4),
        };
        body.op(&store);
        offset += size;
    }
    body.op(&top);
    body.op(&Instruction::LocalGet(id));
    body.op(&Instruction::I32Store(arg(offset)));
    body.op(&top);
    body.op(&Instruction::I32Const(offset as i32 + 4));
    body.op(&Instruction::I32Add);
    end_frame(body, layout);
}

/// The helper for frames whose values are stored already: its parameters are the id of the function's first point and what
/// [`Emitter::cold_pad`] makes of the rest of the id and the frame's size. In all else it is as a save helper.
pub(super) fn seal_helper(body: &mut Body, layout: &Layout) {
    let end = |body: &mut Body| {
        body.op(&Instruction::LocalGet(1));
        body.op(&Instruction::I32Const(PACKED_WORDS_MAX as i32 - 1));
        body.op(&Instruction::I32And);
        body.op(&Instruction::I32Const(2));
        body.op(&Instruction::I32Shl);
        body.op(&Instruction::GlobalGet(layout.top_global));
        body.op(&Instruction::I32Add);
    };
    end(body);
    body.op(&Instruction::LocalGet(0));
    body.op(&Instruction::LocalGet(1));
    body.op(&Instruction::I32Const(PACKED_WORDS_MAX.trailing_zeros() as i32));
    body.op(&Instruction::I32ShrU);
    body.op(&Instruction::I32Add);
    body.op(&Instruction::I32Store(MemArg { offset: 0, align: 0, memory_index: layout.frames_memory }));
    end(body);
    body.op(&Instruction::I32Const(4));
    body.op(&Instruction::I32Add);
    end_frame(body, layout);
}

/// Frames of fewer words than this, in functions of fewer points, tell the seal helper their size and their point in one number.
pub(super) const PACKED_WORDS_MAX: u32 = 1 << 12;
pub(super) const PACKED_POINTS_MAX: usize = 1 << 20;

/// The end of a save helper; where the frame ends is on the stack.
fn end_frame(body: &mut Body, layout: &Layout) {
    body.op(&Instruction::GlobalSet(layout.top_global));
    body.op(&Instruction::I32Const(1));
    body.op(&Instruction::GlobalSet(layout.unwinding_global));
    body.op(&Instruction::MemorySize(layout.frames_memory));
    body.op(&Instruction::I32Const(16));
    body.op(&Instruction::I32Shl);
    body.op(&Instruction::GlobalGet(layout.top_global));
    body.op(&Instruction::I32Sub);
    body.op(&Instruction::I32Const(FRAME_SIZE_MAX as i32 + 65536));
    body.op(&Instruction::I32LtU);
}

/// The instruction that stores a saved value; references are stored as the number of their slot.
fn store(ty: ValType, arg: MemArg) -> Instruction<'static> {
    match ty {
        ValType::I64 => Instruction::I64Store(arg),
        ValType::F32 => Instruction::F32Store(arg),
        ValType::F64 => Instruction::F64Store(arg),
        ValType::V128 => Instruction::V128Store(arg),
        ValType::I32 | ValType::Ref(_) => Instruction::I32Store(arg),
    }
}

/// A function body, but for its fixes.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub locals: Vec<ValType>,
    pub code: Vec<u8>,
    /// Offsets in `code` of `if`s that are hardly ever taken.
    pub cold: Vec<u32>,
    pub fixes: Vec<(usize, Fix)>,
    /// The types that fixes of kind Type mean.
    pub types: Vec<(Vec<ValType>, Vec<ValType>)>,
}

impl Body {
    pub fn op(&mut self, instruction: &Instruction) {
        instruction.encode(&mut self.code);
    }

    fn fix(&mut self, fix: Fix) {
        self.fixes.push((self.code.len(), fix));
        self.code.extend([0x80, 0x80, 0x80, 0x80, 0x00]);
    }

    pub fn fix_type(&mut self, parameters: &[ValType], results: &[ValType]) {
        let key = self.types.len() as u32;
        self.types.push((parameters.to_vec(), results.to_vec()));
        self.fix(Fix::Type(key));
    }

    pub fn call(&mut self, fix: Fix) {
        self.code.push(0x10);
        self.fix(fix);
    }

    fn tail_call(&mut self, fix: Fix) {
        self.code.push(0x12);
        self.fix(fix);
    }
}

/// Overwrites a five-byte placeholder.
pub(super) fn patch(code: &mut [u8], at: usize, value: u32) {
    for (index, byte) in code[at..at + 5].iter_mut().enumerate() {
        *byte = (value >> (7 * index)) as u8 & 0x7f | if index < 4 { 0x80 } else { 0 };
    }
}

pub(super) fn encoded(ty: ValType) -> wasm_encoder::ValType {
    RoundtripReencoder.val_type(ty).expect("every validated type can be encoded")
}

/// Which module the body is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Module {
    Program,
    Continuation,
}

/// The label of the block around a function's code, counted from the outside as if nothing were between it and the function.
const BODY: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Plain,
    /// A block around the point of a continuation; its beginning is left out.
    Path,
    /// A loop around the point; branches to it go to a block whose end begins the next round.
    PathLoop {
        exit: u32,
    },
}

struct Open {
    /// The output label that a branch to this block goes to, counted from the outside.
    label: u32,
    base: u32,
    water: u32,
    /// Instruction index of its start; the function's own block has none.
    start: Option<usize>,
    role: Role,
    targeted: bool,
    /// Could its start be reached? (For the else arm.)
    entered: bool,
    /// Does the arm before the else fall through?
    arm_falls: bool,
}

struct Emitter<'p, 'a> {
    plan: &'p Plan<'a>,
    wasm: &'a [u8],
    layout: &'p Layout,
    options: &'p Options,
    module: Module,
    body: Body,
    /// The index of the first local that is not a parameter.
    first_local: u32,
    /// Added to the index of each local of the function.
    shift: u32,
    depth: u32,
    open: Vec<Open>,
    /// This many operand-stack entries from the bottom are in their slots.
    water: u32,
    slots: HashMap<(u32, ValType), u32>,
    frame: Option<u32>,
    /// What the frames of each pad with a save helper hold: points that save the same share one. Pads are written behind the body.
    pads: Vec<Vec<(Place, ValType)>>,
    pad_of: HashMap<Vec<(Place, ValType)>, u32>,
    /// Which of the plan's parts are gone through.
    parts: Vec<bool>,
    /// The local that tells a pad or the end of parts which point it is.
    id: Option<u32>,
    polls: u32,
    live: bool,
    /// Go over to the loop function when a large loop is met, except for this one.
    cut: bool,
    uncut: Option<usize>,
    /// What is left of the way to the loop that the function may begin with; while there is something, a block is open whose end
    /// is in front of the first of these, and the local says whether to skip it.
    way: &'p [usize],
    entering: u32,
}

/// The rewritten form of a function that has resume points.
pub(super) fn function<'a>(plan: &Plan<'a>, wasm: &'a [u8], layout: &Layout, options: &Options) -> Body {
    let mut e = Emitter::new(plan, wasm, layout, options, Module::Program);
    e.body.locals = plan.locals[plan.parameters..].to_vec();
    e.first_local = plan.parameters as u32;
    e.enclosed(|e| {
        if let Some(entered) = &plan.entered {
            e.may_enter(entered);
        }
        if let Some(index) = plan.entry.filter(|_| !planted(Bug::EntryPollMissing)) {
            e.poll(&plan.points[index]);
        }
        e.range(0, plan.ops.len());
    });
    e.body
}

/// The loop function of a large loop: its parameters are what a frame at the loop's header holds.
pub(super) fn loop_function<'a>(
    plan: &Plan<'a>, at: usize, wasm: &'a [u8], layout: &Layout, options: &Options,
) -> Body {
    let point = plan.point(at).expect("a large loop has a resume point");
    let mut e = Emitter::new(plan, wasm, layout, options, Module::Program);
    e.shift = point.saved.len() as u32;
    e.first_local = e.shift;
    e.body.locals = plan.locals.clone();
    for (index, (place, ty)) in point.saved.iter().enumerate() {
        e.body.op(&Instruction::LocalGet(index as u32));
        let local = e.local_of(*place, *ty);
        e.body.op(&Instruction::LocalSet(local));
    }
    e.fill_slots(point);
    e.cut = true;
    e.enclosed(|e| e.rest_of(point));
    e.body
}

/// The continuation of a frame at `point`: takes nothing, returns the function's results.
pub(super) fn continuation<'a>(
    plan: &Plan<'a>, point: &Point, wasm: &'a [u8], layout: &Layout, options: &Options,
) -> Body {
    let mut e = Emitter::new(plan, wasm, layout, options, Module::Continuation);
    e.body.locals = plan.locals.clone();
    e.load_frame(point);
    if point.kind == Kind::Entry {
        for parameter in 0..plan.parameters as u32 {
            e.body.op(&Instruction::LocalGet(parameter));
        }
        e.call_program(plan.function, Body::tail_call);
        e.body.op(&Instruction::End);
        return e.body;
    }
    e.fill_slots(point);
    if point.kind == Kind::Loop && plan.large_loops.contains(&point.at) {
        e.go_to_loop_function(point);
        e.body.op(&Instruction::End);
        return e.body;
    }
    e.cut = true;
    e.enclosed(|e| e.rest_of(point));
    e.body
}

/// The shim around an imported function: calls it, and saves the arguments if the host interrupted the call.
pub(super) fn shim(
    import: u32, id: u32, parameters: &[ValType], results: &[ValType], layout: &Layout, options: &Options,
) -> Body {
    let plan = empty_plan(import, parameters, results);
    let mut e = Emitter::new(&plan, &[], layout, options, Module::Program);
    e.first_local = parameters.len() as u32;
    let call = |e: &mut Emitter| {
        for parameter in 0..parameters.len() as u32 {
            e.body.op(&Instruction::LocalGet(parameter));
        }
        e.body.op(&Instruction::Call(import));
    };
    if interruptible(parameters, results) {
        e.enclosed(|e| {
            call(e);
            e.check_unwinding(&host_point(id, parameters));
        });
    } else {
        call(&mut e);
        e.body.op(&Instruction::GlobalGet(layout.unwinding_global));
        e.open_typed(0x04, &[], &[]);
        e.name_host((import + 1) | HOST_REFUSES);
        e.body.op(&Instruction::Unreachable);
        e.close();
        e.body.op(&Instruction::End);
    }
    e.body
}

/// The continuation of an interrupted host call: issues it again.
pub(super) fn shim_continuation(
    import: u32, id: u32, parameters: &[ValType], results: &[ValType], layout: &Layout, options: &Options,
) -> Body {
    let plan = empty_plan(import, parameters, results);
    let point = host_point(id, parameters);
    let mut e = Emitter::new(&plan, &[], layout, options, Module::Continuation);
    e.body.locals = parameters.to_vec();
    e.load_frame(&point);
    if planted(Bug::HostArgumentChanged) && parameters.first() == Some(&ValType::I32) {
        e.body.op(&Instruction::I32Const(-77));
        e.body.op(&Instruction::LocalSet(0));
    }
    for parameter in 0..parameters.len() as u32 {
        e.body.op(&Instruction::LocalGet(parameter));
    }
    e.body.tail_call(Fix::Function(import));
    e.body.op(&Instruction::End);
    e.body
}

/// Can a call of an imported function of this type be issued again? (One that cannot, and that the host interrupts all the
/// same, traps.)
pub(super) fn interruptible(parameters: &[ValType], results: &[ValType]) -> bool {
    parameters.iter().all(|ty| matches!(kind(*ty), ValueKind::Number | ValueKind::Function))
        && !results.iter().any(|ty| matches!(ty, ValType::Ref(reference) if !reference.is_nullable()))
}

pub(super) fn host_point(id: u32, parameters: &[ValType]) -> Point {
    let saved = parameters.iter().enumerate().map(|(local, ty)| (Place::Local(local as u32), *ty)).collect();
    Point { id, at: 0, kind: Kind::Host, saved, stack: vec![], makers: vec![], part: NONE }
}

fn empty_plan<'a>(function: u32, parameters: &[ValType], results: &[ValType]) -> Plan<'a> {
    Plan::empty(function, parameters.to_vec(), results.to_vec())
}

/// The body of a function without resume points whose indices must change all the same.
pub(super) fn touched<'a>(
    body: &wasmparser::FunctionBody<'a>, wasm: &'a [u8], layout: &Layout,
) -> Result<Body, wasmparser::BinaryReaderError> {
    let mut out = Body::default();
    for group in body.get_locals_reader()? {
        let (count, ty) = group?;
        out.locals.extend(std::iter::repeat_n(ty, count as usize));
    }
    let mut reader = body.get_operators_reader()?;
    while !reader.eof() {
        let from = reader.original_position();
        let op = reader.read()?;
        if !index_op(&mut out, &op, layout) {
            out.code.extend_from_slice(&wasm[from..reader.original_position()]);
        }
    }
    Ok(out)
}

/// Writes an instruction of the program that names something that has moved; false if it is not such a one.
fn index_op(body: &mut Body, op: &Operator, layout: &Layout) -> bool {
    let moved = |function: u32| {
        if function < layout.imported_functions { layout.functions + function } else { function }
    };
    match *op {
        Operator::Call { function_index } if function_index < layout.imported_functions => {
            body.op(&Instruction::Call(moved(function_index)));
        }
        Operator::ReturnCall { function_index } if function_index < layout.imported_functions => {
            body.op(&Instruction::ReturnCall(moved(function_index)));
        }
        Operator::RefFunc { function_index } if function_index < layout.imported_functions => {
            body.op(&Instruction::RefFunc(moved(function_index)));
        }
        Operator::DataDrop { data_index } => {
            body.op(&Instruction::DataDrop(data_index));
            body.op(&Instruction::I32Const(!planted(Bug::DroppedDataBack) as i32));
            body.op(&Instruction::GlobalSet(layout.dropped_data[&data_index]));
        }
        Operator::ElemDrop { elem_index } => {
            body.op(&Instruction::ElemDrop(elem_index));
            body.op(&Instruction::I32Const(!planted(Bug::DroppedElementsBack) as i32));
            body.op(&Instruction::GlobalSet(layout.dropped_elements[&elem_index]));
        }
        _ => return false,
    }
    true
}

impl<'p, 'a> Emitter<'p, 'a> {
    fn new(plan: &'p Plan<'a>, wasm: &'a [u8], layout: &'p Layout, options: &'p Options, module: Module) -> Self {
        Emitter {
            plan,
            wasm,
            layout,
            options,
            module,
            body: Body::default(),
            first_local: 0,
            shift: 0,
            depth: 1,
            open: vec![],
            water: 0,
            slots: HashMap::new(),
            frame: None,
            pads: vec![],
            pad_of: HashMap::new(),
            parts: vec![false; plan.parts.len()],
            id: None,
            polls: 0,
            live: true,
            cut: false,
            uncut: None,
            way: &[],
            entering: 0,
        }
    }

    // Labels.

    fn open_block(&mut self, instruction: &Instruction) -> u32 {
        self.body.op(instruction);
        self.depth += 1;
        self.depth - 1
    }

    /// Opens a block, of the given kind (0x02 block, 0x03 loop, 0x04 if), from `parameters` to `results`.
    fn open_typed(&mut self, opcode: u8, parameters: &[ValType], results: &[ValType]) -> u32 {
        self.body.code.push(opcode);
        match (parameters, results) {
            ([], []) => self.body.code.push(0x40),
            ([], [result]) => encoded(*result).encode(&mut self.body.code),
            _ => self.body.fix_type(parameters, results),
        }
        self.depth += 1;
        self.depth - 1
    }

    fn close(&mut self) {
        self.body.op(&Instruction::End);
        self.depth -= 1;
    }

    fn relative(&self, label: u32) -> u32 {
        self.depth - 1 - label
    }

    /// The output's relative depth for a branch of the original to `depth`.
    fn branch(&mut self, depth: u32) -> u32 {
        let index = self.open.len() - 1 - depth as usize;
        self.open[index].targeted = true;
        self.relative(self.open[index].label)
    }

    // Locals.

    fn add_local(&mut self, ty: ValType) -> u32 {
        self.body.locals.push(ty);
        self.first_local + self.body.locals.len() as u32 - 1
    }

    fn slot(&mut self, depth: u32, ty: ValType) -> u32 {
        if let Some(local) = self.slots.get(&(depth, ty)) {
            return *local;
        }
        let nullable = match ty {
            ValType::Ref(reference) => ValType::Ref(reference.nullable()),
            ty => ty,
        };
        let local = self.add_local(nullable);
        self.slots.insert((depth, ty), local);
        local
    }

    fn local_of(&mut self, place: Place, ty: ValType) -> u32 {
        match place {
            Place::Local(local) => self.shift + local,
            Place::Slot(depth) => self.slot(depth, ty),
        }
    }

    fn id_local(&mut self) -> u32 {
        match self.id {
            Some(local) => local,
            None => {
                let local = self.add_local(ValType::I32);
                self.id = Some(local);
                local
            }
        }
    }

    fn frame_local(&mut self) -> u32 {
        match self.frame {
            Some(local) => local,
            None => {
                let local = self.add_local(ValType::I32);
                self.frame = Some(local);
                local
            }
        }
    }

    // The operand stack and its slots.

    fn push_slots(&mut self, types: &[ValType], from: u32, to: u32) {
        for depth in from..to {
            let ty = types[depth as usize];
            let slot = self.slot(depth, ty);
            self.body.op(&Instruction::LocalGet(slot));
            if matches!(ty, ValType::Ref(reference) if !reference.is_nullable()) {
                self.body.op(&Instruction::RefAsNonNull);
            }
        }
    }

    /// Puts the entries from `from` up into their slots; the whole stack stays as it was.
    fn spill(&mut self, types: &[ValType], from: u32) {
        let height = types.len() as u32;
        for depth in (from..height).rev() {
            let slot = self.slot(depth, types[depth as usize]);
            self.body.op(&Instruction::LocalSet(slot));
        }
        self.push_slots(types, from, height);
    }

    /// After a frame is loaded: entries that were not saved get their slots from what they copy.
    fn fill_slots(&mut self, point: &Point) {
        for (depth, (ty, recipe)) in point.stack.iter().enumerate() {
            match recipe {
                Recipe::Slot => continue,
                Recipe::Local(local) => self.body.op(&Instruction::LocalGet(self.shift + local)),
                Recipe::Constant(at) => self.copy(*at as usize),
            }
            let slot = self.slot(depth as u32, *ty);
            self.body.op(&Instruction::LocalSet(slot));
        }
    }

    /// The instruction as it stands in the original.
    fn copy(&mut self, at: usize) {
        let bytes = &self.wasm[self.plan.offsets[at]..self.plan.offsets[at + 1]];
        self.body.code.extend_from_slice(bytes);
    }

    // Frames.

    fn memory(&self, offset: u32) -> MemArg {
        MemArg { offset: offset as u64, align: 0, memory_index: self.layout.frames_memory }
    }

    /// Stores a frame with these values, and the point's id from its local; leaves on the stack whether there is no room for
    /// one more frame.
    fn pad(&mut self, saved: &[(Place, ValType)]) {
        let shape = Shape::of(saved);
        if !shape.fits_helper() {
            self.store_values(saved, 0);
            let top = self.layout.top_global;
            self.body.op(&Instruction::GlobalGet(top));
            self.body.op(&Instruction::I32Const(self.size_of(saved) as i32));
            self.body.op(&Instruction::I32Add);
            self.body.op(&Instruction::GlobalSet(top));
            let id = self.id_local();
            self.body.op(&Instruction::LocalGet(id));
            self.helper(Helper::Save(Shape::default()));
            return;
        }
        let mut offset = 0;
        for (place, ty) in saved {
            let local = self.local_of(*place, *ty);
            match kind(*ty) {
                ValueKind::Function => self.save_reference(local),
                ValueKind::Exception => self.save_exception(local, offset),
                _ => self.body.op(&Instruction::LocalGet(local)),
            }
            offset += value_size(*ty, self.layout.exception_size);
        }
        let id = self.id_local();
        self.body.op(&Instruction::LocalGet(id));
        self.helper(Helper::Save(shape));
    }

    fn size_of(&self, values: &[(Place, ValType)]) -> u32 {
        values.iter().map(|(_, ty)| value_size(*ty, self.layout.exception_size)).sum()
    }

    /// Stores these values, the first of them this far behind the top of the frames.
    fn store_values(&mut self, values: &[(Place, ValType)], mut offset: u32) {
        for (place, ty) in values {
            let local = self.local_of(*place, *ty);
            if kind(*ty) == ValueKind::Exception {
                self.save_exception(local, offset);
            } else {
                self.body.op(&Instruction::GlobalGet(self.layout.top_global));
                match kind(*ty) {
                    ValueKind::Function => self.save_reference(local),
                    _ => self.body.op(&Instruction::LocalGet(local)),
                }
                self.body.op(&store(*ty, self.memory(offset)));
            }
            offset += value_size(*ty, self.layout.exception_size);
        }
    }

    fn save_exception(&mut self, local: u32, offset: u32) {
        self.body.op(&Instruction::GlobalGet(self.layout.top_global));
        self.body.op(&Instruction::I32Const(offset as i32));
        self.body.op(&Instruction::I32Add);
        self.body.op(&Instruction::LocalGet(local));
        self.helper(Helper::SaveException);
    }

    /// Puts a function reference into the table of references; leaves its slot number on the stack.
    fn save_reference(&mut self, local: u32) {
        let (table, top) = (self.layout.references_table, self.layout.references_top_global);
        self.body.op(&Instruction::GlobalGet(top));
        self.body.op(&Instruction::TableSize(table));
        self.body.op(&Instruction::I32GeU);
        self.open_typed(0x04, &[], &[]);
        self.body.op(&Instruction::RefNull(wasm_encoder::HeapType::FUNC));
        self.body.op(&Instruction::I32Const(64));
        self.body.op(&Instruction::TableGrow(table));
        self.body.op(&Instruction::Drop);
        self.close();
        self.body.op(&Instruction::GlobalGet(top));
        self.body.op(&Instruction::LocalGet(local));
        self.body.op(&Instruction::TableSet(table));
        self.body.op(&Instruction::GlobalGet(top));
        self.body.op(&Instruction::GlobalGet(top));
        self.body.op(&Instruction::I32Const(1));
        self.body.op(&Instruction::I32Add);
        self.body.op(&Instruction::GlobalSet(top));
    }

    /// In a continuation: calls a function of the program; the arguments are on the stack.
    fn call_program(&mut self, function: u32, call: fn(&mut Body, Fix)) {
        match self.layout.dispatched.get(&function) {
            Some((dispatcher, number)) => {
                let number = number.saturating_sub(planted(Bug::WrongFunctionDispatched) as u32);
                self.body.op(&Instruction::I32Const(number as i32));
                call(&mut self.body, Fix::Dispatcher(*dispatcher));
            }
            None => call(&mut self.body, Fix::Function(function)),
        }
    }

    fn helper(&mut self, helper: Helper) {
        self.body.call(Fix::Helper(helper));
    }

    fn load_frame(&mut self, point: &Point) {
        let size = point.size(self.layout.exception_size) + 4 * planted(Bug::FrameTooLarge) as u32;
        self.lower_top(size);
        self.load_values(point, |_| true);
    }

    /// Takes this many bytes from the top of the frames; where they begin is in the local for it.
    fn lower_top(&mut self, size: u32) {
        let frame = self.frame_local();
        self.body.op(&Instruction::GlobalGet(self.layout.top_global));
        self.body.op(&Instruction::I32Const(size as i32));
        self.body.op(&Instruction::I32Sub);
        self.body.op(&Instruction::LocalTee(frame));
        self.body.op(&Instruction::GlobalSet(self.layout.top_global));
    }

    /// Loads those values of a frame that are asked for.
    fn load_values(&mut self, point: &Point, wanted: impl Fn(Place) -> bool) {
        let frame = self.frame_local();
        let mut offset = 0;
        let mut saved = point.saved.clone();
        if planted(Bug::LoadedInWrongOrder) && saved.len() > 1 && saved[0].1 == saved[1].1 {
            saved.swap(0, 1);
        }
        for (place, ty) in &saved {
            let at = offset;
            offset += value_size(*ty, self.layout.exception_size);
            if !wanted(*place) {
                continue;
            }
            let local = self.local_of(*place, *ty);
            let arg = self.memory(at);
            self.body.op(&Instruction::LocalGet(frame));
            match kind(*ty) {
                ValueKind::Function => {
                    self.body.op(&Instruction::I32Load(arg));
                    if planted(Bug::WrongReferenceSlot) {
                        self.body.op(&Instruction::I32Const(1));
                        self.body.op(&Instruction::I32Sub);
                    }
                    self.body.op(&Instruction::TableGet(self.layout.references_table));
                }
                ValueKind::Exception => {
                    self.body.op(&Instruction::I32Const(at as i32));
                    self.body.op(&Instruction::I32Add);
                    self.helper(Helper::LoadException);
                }
                _ => self.body.op(&match ty {
                    ValType::I32 => Instruction::I32Load(arg),
                    ValType::I64 => Instruction::I64Load(arg),
                    ValType::F32 => Instruction::F32Load(arg),
                    ValType::F64 => Instruction::F64Load(arg),
                    ValType::V128 => Instruction::V128Load(arg),
                    ValType::Ref(_) => {
                        unreachable!("opaque references are refused when the plan is finished")
                    }
                }),
            }
            self.body.op(&Instruction::LocalSet(local));
        }
    }

    fn loop_point(&self, at: usize) -> &'p Point {
        self.plan.point(at).expect("a large loop has a resume point")
    }

    /// At the beginning of a function that may begin with a loop.
    fn may_enter(&mut self, entered: &'p Entered) {
        self.entering = self.add_local(ValType::I32);
        self.body.op(&Instruction::GlobalGet(self.layout.entering_global));
        self.body.op(&Instruction::LocalTee(self.entering));
        self.body.cold.push(self.body.code.len() as u32);
        self.open_typed(0x04, &[], &[]);
        self.body.op(&Instruction::I32Const(0));
        self.body.op(&Instruction::GlobalSet(self.layout.entering_global));
        for (index, at) in entered.loops.iter().enumerate() {
            let point = self.loop_point(*at);
            self.if_entering(entered, 0, index);
            // Above the values is the point's id, which is known.
            self.lower_top(point.size(self.layout.exception_size) + 4);
            self.load_on_way(entered, 0, index);
            self.fill_slots(point);
            self.close();
        }
        self.close();
        self.way = &entered.path;
        self.skip();
    }

    /// Opens the block for when the function begins with the loop at this place of the list, and not with another from `from` on.
    fn if_entering(&mut self, entered: &Entered, from: usize, index: usize) {
        if from + 1 == entered.loops.len() {
            self.open_typed(0x02, &[], &[]);
            return;
        }
        self.body.op(&Instruction::LocalGet(self.entering));
        self.body.op(&Instruction::I32Const(index as i32 + 1));
        self.body.op(&Instruction::I32Eq);
        self.open_typed(0x04, &[], &[]);
    }

    /// On the way to the loop number `index`, in front of the loop number `level`: loads what is live there and was not live further
    /// out. What is loaded later than at the beginning is not carried round the loops outside.
    fn load_on_way(&mut self, entered: &Entered, level: usize, index: usize) {
        let live_at = |number: usize, place: Place| {
            self.loop_point(entered.loops[number]).saved.iter().any(|(saved, _)| *saved == place)
        };
        let wanted: Vec<Place> = self.loop_point(entered.loops[index]).saved.iter().map(|(place, _)| *place).collect();
        let wanted: Vec<Place> = wanted
            .into_iter()
            .filter(|place| live_at(level, *place) && !(0..level).any(|n| live_at(n, *place)))
            .collect();
        self.load_values(self.loop_point(entered.loops[index]), |place| wanted.contains(&place));
    }

    /// Opens the block that is skipped when the function begins with a loop.
    fn skip(&mut self) {
        self.open_typed(0x02, &[], &[]);
        self.body.op(&Instruction::LocalGet(self.entering));
        self.body.op(&Instruction::BrIf(0));
    }

    /// The same inside of a loop on the way to one further in.
    fn skip_in_loop(&mut self, entered: &Entered, at: usize) {
        let level = entered.loops.iter().position(|outer| *outer == at).expect("only large loops are on the way") + 1;
        self.open_typed(0x02, &[], &[]);
        self.body.op(&Instruction::LocalGet(self.entering));
        self.body.cold.push(self.body.code.len() as u32);
        self.open_typed(0x04, &[], &[]);
        let frame = self.frame_local();
        self.body.op(&Instruction::GlobalGet(self.layout.top_global));
        self.body.op(&Instruction::LocalSet(frame));
        for index in level..entered.loops.len() {
            self.if_entering(entered, level, index);
            self.load_on_way(entered, level, index);
            self.close();
        }
        self.body.op(&Instruction::Br(1));
        self.close();
        // That it is zero here, so that the compiler need not keep it, is for the compiler to see.
        self.body.op(&Instruction::I32Const(0));
        self.body.op(&Instruction::LocalSet(self.entering));
    }

    /// In front of a loop that the function may begin with: if it does, nothing further is skipped.
    fn enter(&mut self, entered: &Entered, at: usize) {
        let number = entered.loops.iter().position(|entered| *entered == at).expect("only large loops are entered") + 1;
        self.body.op(&Instruction::I32Const(0));
        if number < entered.loops.len() {
            self.body.op(&Instruction::LocalGet(self.entering));
            self.body.op(&Instruction::LocalGet(self.entering));
            self.body.op(&Instruction::I32Const(number as i32));
            self.body.op(&Instruction::I32Eq);
            self.body.op(&Instruction::Select);
        }
        self.body.op(&Instruction::LocalSet(self.entering));
    }

    /// In front of the next block on the way to the loop: what is on the stack comes from the slots, whether they were filled in
    /// the skipped part or from a frame.
    fn arrive(&mut self, types: &[ValType]) {
        let height = types.len() as u32;
        let base = self.open.last().map_or(0, |open| open.base);
        for depth in (base..height).rev() {
            let slot = self.slot(depth, types[depth as usize]);
            self.body.op(&Instruction::LocalSet(slot));
        }
        self.close();
        self.live = true;
        self.push_slots(types, base, height);
        self.water = height;
    }

    /// Pushes what a frame at the header of a large loop holds and tail-calls its loop function, or the function itself.
    fn go_to_loop_function(&mut self, point: &Point) {
        let entered = self.plan.entered.as_ref();
        if let Some(number) = entered.and_then(|entered| entered.loops.iter().position(|at| *at == point.at)) {
            let id = self.id_local();
            self.body.op(&Instruction::I32Const(point.id as i32));
            self.body.op(&Instruction::LocalSet(id));
            self.pad(&point.saved);
            // Where the continuation's own frame was there is room for this one, and nothing is unwound.
            self.body.op(&Instruction::Drop);
            self.body.op(&Instruction::I32Const(0));
            self.body.op(&Instruction::GlobalSet(self.layout.unwinding_global));
            let number = if planted(Bug::WrongLoopEntered) { 1 } else { number + 1 };
            self.body.op(&Instruction::I32Const(number as i32));
            self.body.op(&Instruction::GlobalSet(self.layout.entering_global));
            self.zeros(&self.plan.locals[..self.plan.parameters]);
            match self.module {
                Module::Program => self.body.op(&Instruction::ReturnCall(self.plan.function)),
                Module::Continuation => self.call_program(self.plan.function, Body::tail_call),
            }
            self.live = false;
            return;
        }
        for (place, ty) in &point.saved {
            let local = self.local_of(*place, *ty);
            self.body.op(&Instruction::LocalGet(local));
            if matches!(ty, ValType::Ref(reference) if !reference.is_nullable()) {
                self.body.op(&Instruction::RefAsNonNull);
            }
        }
        self.body.tail_call(Fix::Loop(point.id));
        self.live = false;
    }

    // Polls and checks.

    fn poll(&mut self, point: &Point) {
        if planted(Bug::NestedPollMissing) && self.open.len() > 2 {
            return;
        }
        match self.options.poll {
            Poll::Flag | Poll::LocalFlag => {
                let memory = self.layout.flag_memory;
                let arg = MemArg { offset: (self.polls % 65536) as u64, align: 0, memory_index: memory };
                self.body.op(&Instruction::I32Const(0));
                // Each poll of a function reads another byte, so that no load can be merged with an earlier one; a function
                // with more polls than bytes reads them atomically, which no compiler merges. (A local flag is written during
                // calls of the host only, and across those no compiler merges anything.)
                let distinct = self.polls < 65536 || self.options.poll == Poll::LocalFlag;
                self.body.op(&if distinct { Instruction::I32Load8U(arg) } else { Instruction::I32AtomicLoad8U(arg) });
                self.polls += 1;
            }
            Poll::Countdown => {
                let countdown = self.layout.countdown_global;
                self.body.op(&Instruction::GlobalGet(countdown));
                self.body.op(&Instruction::I64Const(1));
                self.body.op(&Instruction::I64Sub);
                self.body.op(&Instruction::GlobalSet(countdown));
                self.body.op(&Instruction::GlobalGet(countdown));
                self.body.op(&Instruction::I64Eqz);
            }
        }
        self.cold_pad(point);
    }

    fn check_unwinding(&mut self, point: &Point) {
        self.body.op(&Instruction::GlobalGet(self.layout.unwinding_global));
        self.cold_pad(point);
    }

    fn cold_pad(&mut self, point: &Point) {
        // Behind the body come the parts, the last one first, then the end of frames that they store, then the pads in the order
        // of their first use.
        let parts = self.plan.parts.len() as u32;
        let place = if point.part == NONE {
            let next = self.pads.len() as u32;
            let pad = *self.pad_of.entry(point.saved.clone()).or_insert(next);
            if pad == next {
                self.pads.push(point.saved.clone());
            }
            pad + parts + (parts > 0) as u32
        } else {
            parts - 1 - point.part
        };
        self.body.cold.push(self.body.code.len() as u32);
        self.open_typed(0x04, &[], &[]);
        if point.kind == Kind::Host {
            self.body.op(&Instruction::GlobalGet(self.layout.top_global));
            self.body.op(&Instruction::I32Const(FRAMES_BASE as i32));
            self.body.op(&Instruction::I32Ne);
            self.open_typed(0x04, &[], &[]);
            self.name_host(self.plan.function + 1);
            self.close();
        }
        let mut id = point.id;
        if point.part != NONE {
            let rest = point.id - self.plan.points[0].id;
            id = rest * PACKED_WORDS_MAX + point.size(self.layout.exception_size) / 4;
            let mut part = point.part;
            while part != NONE && !std::mem::replace(&mut self.parts[part as usize], true) {
                part = self.plan.parts[part as usize].parent;
            }
        }
        // Inside of the block: an argument of a branch is made in front of the branch, where it would cost a register.
        let local = self.id_local();
        self.body.op(&Instruction::I32Const(id as i32));
        self.body.op(&Instruction::LocalSet(local));
        self.cold_branch(self.relative(BODY) + 1 + place);
        self.close();
    }

    /// Branches from a pad to a block that only pads come to: in a form that can carry the hint that it is cold.
    fn cold_branch(&mut self, depth: u32) {
        self.body.op(&Instruction::I32Const(1));
        self.body.cold.push(self.body.code.len() as u32);
        self.body.op(&Instruction::BrIf(depth));
        self.body.op(&Instruction::Unreachable);
    }

    fn name_host(&mut self, host: u32) {
        self.body.op(&Instruction::I32Const(0));
        self.body.op(&Instruction::I32Const(host as i32));
        let arg = self.memory(HOST_WORD);
        self.body.op(&Instruction::I32Store(arg));
    }

    /// Writes the blocks around what `inside` writes, the pads and the end of the function.
    fn enclosed(&mut self, inside: impl FnOnce(&mut Self)) {
        let results = self.plan.results.clone();
        let before = self.body.code.len();
        let fixes = self.body.fixes.len();
        self.depth = BODY + 1;
        self.open.push(Open {
            label: BODY,
            base: 0,
            water: 0,
            start: None,
            role: Role::Plain,
            targeted: false,
            entered: true,
            arm_falls: false,
        });
        inside(self);
        // A shim has no instructions and thus no end of its own; other bodies have written theirs.
        if !self.open.is_empty() {
            self.open.clear();
            self.close();
        }
        // How many pads there are is known only now: the blocks that lead to them are put in front.
        let behind = self.body.code.split_off(before);
        let behind_fixes = self.body.fixes.split_off(fixes);
        let pads = std::mem::take(&mut self.pads);
        let plan = self.plan;
        let used = self.parts.iter().zip(&plan.parts).filter(|(used, _)| **used).map(|(_, part)| &part.values);
        if pads.iter().chain(used).flatten().any(|(_, ty)| kind(*ty) == ValueKind::Exception) {
            // The helper that takes an exception apart has a stack frame. A stack without room for it overflows here, at the
            // entry, as it may anywhere, and not when it is unwound. Null is stored as a zero in a word that nobody reads.
            self.body.op(&Instruction::I32Const(PROBED_WORD as i32));
            self.body.op(&Instruction::RefNull(wasm_encoder::RefType::EXNREF.heap_type));
            self.helper(Helper::SaveException);
        }
        let parts = plan.parts.len() as u32;
        let blocks = pads.len() as u32 + parts + (parts > 0) as u32;
        if blocks > 0 {
            self.body.op(&Instruction::Block(BlockType::Result(wasm_encoder::ValType::I32)));
        }
        (0..blocks).for_each(|_| self.body.op(&Instruction::Block(BlockType::Empty)));
        self.depth = BODY;
        self.open_typed(0x02, &[], &results);
        let moved = self.body.code.len() - before;
        self.body.code.extend(behind);
        self.body.fixes.extend(behind_fixes.into_iter().map(|(at, fix)| (at + moved, fix)));
        self.body.cold.iter_mut().for_each(|at| *at += moved as u32);
        // Body and tail return in one place, so that registers are restored by one piece of code.
        let returning = Instruction::Br(if blocks > 0 { blocks + 1 } else { 0 });
        self.body.op(if self.live { &returning } else { &Instruction::Unreachable });
        for index in (0..parts).rev() {
            self.body.op(&Instruction::End);
            if self.parts[index as usize] {
                self.part(index);
            }
        }
        if parts > 0 {
            self.body.op(&Instruction::End);
            let id = self.id_local();
            self.body.op(&Instruction::I32Const(plan.points[0].id as i32));
            self.body.op(&Instruction::LocalGet(id));
            self.helper(Helper::Seal);
            self.cold_branch(pads.len() as u32);
        }
        for (index, pad) in pads.iter().enumerate() {
            self.body.op(&Instruction::End);
            self.pad(pad);
            self.cold_branch((pads.len() - 1 - index) as u32);
        }
        if blocks > 0 {
            self.body.op(&Instruction::End);
            self.grow_frames();
        }
        self.zeros(&results);
        self.body.op(&Instruction::End);
    }

    /// Stores one of the plan's parts and goes on with its parent, whose block is further out.
    fn part(&mut self, index: u32) {
        let plan = self.plan;
        let part = &plan.parts[index as usize];
        let mut offset = 0;
        let mut above = part.parent;
        while above != NONE {
            offset += self.size_of(&plan.parts[above as usize].values);
            above = plan.parts[above as usize].parent;
        }
        self.store_values(&part.values, offset);
        let last = part.parent == NONE || planted(Bug::SharedPartLeftOut);
        let further = if last { index } else { index - 1 - part.parent };
        self.cold_branch(further);
    }

    fn zeros(&mut self, types: &[ValType]) {
        for ty in types {
            self.body.op(&match ty {
                ValType::I32 => Instruction::I32Const(0),
                ValType::I64 => Instruction::I64Const(0),
                ValType::F32 => Instruction::F32Const(0f32.into()),
                ValType::F64 => Instruction::F64Const(0f64.into()),
                ValType::V128 => Instruction::V128Const(0),
                ValType::Ref(reference) => Instruction::RefNull(
                    RoundtripReencoder.heap_type(reference.heap_type()).expect("every validated type can be encoded"),
                ),
            });
        }
    }

    /// Makes room for the next frame, whatever it is, if the stack says that there is none. Growing is a call of the runtime,
    /// which has stack of its own; a helper function that calls it could overflow the stack that is being unwound.
    fn grow_frames(&mut self) {
        self.body.cold.push(self.body.code.len() as u32);
        self.open_typed(0x04, &[], &[]);
        self.body.op(&Instruction::I32Const(64));
        self.body.op(&Instruction::MemoryGrow(self.layout.frames_memory));
        self.body.op(&Instruction::Drop);
        self.close();
    }

    // Code.

    /// From the middle of the function: opens the blocks around the point and writes what follows it.
    fn rest_of(&mut self, point: &Point) {
        let plan = self.plan;
        let path = plan.blocks_around(point.at);
        let mut pushed = 0;
        for start in path {
            let site = plan.site(start);
            let op = &plan.ops[start];
            let condition = matches!(op, Operator::If { .. }) as u32;
            let base = site.stack.len() as u32 - condition - site.parameters.len() as u32;
            self.push_slots(&site.stack, pushed, base);
            pushed = base;
            let (label, role) = match op {
                Operator::Loop { .. } => {
                    let exit = self.open_typed(0x02, &[], &site.results);
                    (self.open_typed(0x02, &[], &site.parameters), Role::PathLoop { exit })
                }
                Operator::TryTable { try_table } => {
                    let catches = self.catches(&try_table.catches);
                    self.body.code.push(0x1f);
                    match &site.results[..] {
                        [] => self.body.code.push(0x40),
                        [result] => encoded(*result).encode(&mut self.body.code),
                        results => self.body.fix_type(&[], results),
                    }
                    catches[..].encode(&mut self.body.code);
                    self.depth += 1;
                    (self.depth - 1, Role::Path)
                }
                _ => (self.open_typed(0x02, &[], &site.results), Role::Path),
            };
            self.open.push(Open {
                label,
                base,
                water: base,
                start: Some(start),
                role,
                targeted: false,
                entered: true,
                arm_falls: false,
            });
        }
        let types: Vec<ValType> = point.stack.iter().map(|(ty, _)| *ty).collect();
        let height = types.len() as u32;
        self.push_slots(&types, pushed, height);
        self.water = height;
        match point.kind {
            Kind::Loop => {
                self.uncut = Some(point.at);
                self.range(point.at, plan.ops.len());
            }
            Kind::Call { .. } => {
                let results = plan.site(point.at).results.clone();
                self.call_next_frame(&results);
                self.check_unwinding(point);
                self.range(point.at + 1, plan.ops.len());
            }
            Kind::Entry | Kind::Host => {
                unreachable!("their continuations are calls of the whole function")
            }
        }
    }

    /// Calls the continuation of the next inner frame.
    fn call_next_frame(&mut self, results: &[ValType]) {
        let top = self.layout.top_global;
        let frame = self.frame_local();
        self.body.op(&Instruction::GlobalGet(top));
        self.body.op(&Instruction::I32Const(4));
        self.body.op(&Instruction::I32Sub);
        self.body.op(&Instruction::LocalTee(frame));
        self.body.op(&Instruction::GlobalSet(top));
        self.body.op(&Instruction::LocalGet(frame));
        let arg = self.memory(0);
        self.body.op(&Instruction::I32Load(arg));
        self.body.code.push(0x11);
        self.body.fix_type(&[], results);
        self.layout.continuations_table.encode(&mut self.body.code);
    }

    fn catches(&mut self, catches: &[Catch]) -> Vec<wasm_encoder::Catch> {
        catches
            .iter()
            .map(|catch| {
                // Labels of a try_table are counted from outside of it.
                let label = self.branch(catch_label(catch));
                match *catch {
                    Catch::One { tag, .. } => wasm_encoder::Catch::One { tag, label },
                    Catch::OneRef { tag, .. } => wasm_encoder::Catch::OneRef { tag, label },
                    Catch::All { .. } => wasm_encoder::Catch::All { label },
                    Catch::AllRef { .. } => wasm_encoder::Catch::AllRef { label },
                }
            })
            .collect()
    }

    /// Writes the instructions from `at` up to `stop`; the ends of blocks opened outside are among them.
    fn range(&mut self, mut at: usize, stop: usize) {
        let plan = self.plan;
        while at < stop {
            if !plan.keep[at] {
                at += 1;
                continue;
            }
            // (A loop that the function may begin with is reached in any case.)
            if !self.live && self.way.is_empty() && !matches!(plan.ops[at], Operator::End | Operator::Else) {
                // Nothing reaches this: go to where the enclosing block ends or its other arm begins.
                at = match self.open.last().and_then(|open| open.start) {
                    Some(start) => {
                        let (end, other) = (plan.end_of[start] as usize, plan.else_of[start] as usize);
                        if other != NONE as usize && at < other { other } else { end }
                    }
                    None => plan.ops.len() - 1,
                };
                continue;
            }
            at = self.instruction(at);
        }
    }

    /// Writes one instruction, or a block's beginning or end; returns which comes next.
    fn instruction(&mut self, at: usize) -> usize {
        let plan = self.plan;
        let op = &plan.ops[at];
        match op {
            op if is_block(op) => return self.begin(at, op),
            Operator::Else => return self.otherwise(at),
            Operator::End => {
                self.end();
                return at + 1;
            }
            Operator::Br { relative_depth } => {
                let label = self.branch(*relative_depth);
                self.body.op(&Instruction::Br(label));
                self.live = false;
            }
            Operator::BrIf { relative_depth } => {
                let label = self.branch(*relative_depth);
                self.body.op(&Instruction::BrIf(label));
            }
            Operator::BrOnNull { relative_depth } => {
                let label = self.branch(*relative_depth);
                self.body.op(&Instruction::BrOnNull(label));
            }
            Operator::BrOnNonNull { relative_depth } => {
                let label = self.branch(*relative_depth);
                self.body.op(&Instruction::BrOnNonNull(label));
            }
            Operator::BrOnCast { relative_depth, from_ref_type, to_ref_type }
            | Operator::BrOnCastFail { relative_depth, from_ref_type, to_ref_type } => {
                let relative_depth = self.branch(*relative_depth);
                let encoded = |ty| RoundtripReencoder.ref_type(ty).expect("every validated type can be encoded");
                let (from_ref_type, to_ref_type) = (encoded(*from_ref_type), encoded(*to_ref_type));
                self.body.op(&match op {
                    Operator::BrOnCast { .. } => Instruction::BrOnCast { relative_depth, from_ref_type, to_ref_type },
                    _ => Instruction::BrOnCastFail { relative_depth, from_ref_type, to_ref_type },
                });
            }
            Operator::BrTable { targets } => {
                let labels: Vec<u32> =
                    targets.targets().map(|target| self.branch(target.expect("validated before"))).collect();
                let default = self.branch(targets.default());
                self.body.op(&Instruction::BrTable(labels.into(), default));
                self.live = false;
            }
            Operator::Return | Operator::Unreachable | Operator::Throw { .. } | Operator::ThrowRef => {
                self.copy(at);
                self.live = false;
            }
            Operator::ReturnCall { function_index } => {
                match self.module {
                    Module::Program => self.program_op(at),
                    Module::Continuation => self.call_program(*function_index, Body::tail_call),
                }
                self.live = false;
            }
            Operator::ReturnCallIndirect { .. } | Operator::ReturnCallRef { .. } => {
                self.copy(at);
                self.live = false;
            }
            Operator::Call { .. } | Operator::CallIndirect { .. } | Operator::CallRef { .. } => {
                self.call(at, op);
            }
            Operator::LocalGet { local_index } if self.shift > 0 => {
                self.body.op(&Instruction::LocalGet(self.shift + local_index));
            }
            Operator::LocalSet { local_index } if self.shift > 0 => {
                self.body.op(&Instruction::LocalSet(self.shift + local_index));
            }
            Operator::LocalTee { local_index } if self.shift > 0 => {
                self.body.op(&Instruction::LocalTee(self.shift + local_index));
            }
            Operator::RefFunc { function_index } if self.module == Module::Continuation => {
                self.body.code.push(0x23);
                self.body.fix(Fix::Reference(*function_index));
            }
            Operator::DataDrop { data_index } if self.module == Module::Continuation => {
                self.helper(Helper::DropData(*data_index));
            }
            Operator::ElemDrop { elem_index } if self.module == Module::Continuation => {
                self.helper(Helper::DropElement(*elem_index));
            }
            Operator::MemoryInit { data_index, mem } if self.module == Module::Continuation => {
                self.helper(Helper::InitMemory(*data_index, *mem));
            }
            Operator::TableInit { elem_index, table } if self.module == Module::Continuation => {
                self.helper(Helper::InitTable(*elem_index, *table));
            }
            _ => self.program_op(at),
        }
        self.water = self.water.min(plan.low[at]);
        at + 1
    }

    fn program_op(&mut self, at: usize) {
        if self.module == Module::Continuation || !index_op(&mut self.body, &self.plan.ops[at], self.layout) {
            self.copy(at);
        }
    }

    fn call(&mut self, at: usize, op: &Operator) {
        let plan = self.plan;
        let point = plan.point(at);
        if let Some(Point { kind: Kind::Call { below }, .. }) = point {
            let types = &plan.site(at).stack;
            if *below > self.water {
                self.spill(types, self.water + planted(Bug::WaterTooHigh) as u32);
                self.water = *below;
            }
        }
        match op {
            Operator::Call { function_index } if self.module == Module::Continuation => {
                self.call_program(*function_index, Body::call);
            }
            _ => self.program_op(at),
        }
        if let Some(point) = point.filter(|_| !planted(Bug::CheckAfterCallMissing)) {
            self.check_unwinding(point);
        }
    }

    fn begin(&mut self, at: usize, op: &Operator) -> usize {
        let plan = self.plan;
        let site = plan.site(at);
        let height = site.stack.len() as u32;
        let condition = matches!(op, Operator::If { .. }) as u32;
        let base = height - condition - site.parameters.len() as u32;
        let is_loop = matches!(op, Operator::Loop { .. });
        let on_way = self.way.first() == Some(&at);
        if on_way {
            self.way = &self.way[1..];
            self.arrive(&site.stack);
            if let Some(entered) = plan.entered.as_ref().filter(|entered| is_loop && entered.loops.len() > 1) {
                self.enter(entered, at);
            }
        }
        if plan.holds_point(at) || (is_loop && plan.point(at).is_some()) {
            if height > self.water {
                self.spill(&site.stack, self.water);
                self.water = height;
            }
            if is_loop && self.cut && self.uncut != Some(at) && plan.large_loops.contains(&at) {
                let point = plan.point(at).expect("a large loop has a resume point");
                self.go_to_loop_function(point);
                return plan.end_of[at] as usize + 1;
            }
        }
        let water = self.water.min(base);
        let label = match op {
            Operator::TryTable { try_table } => {
                let ty = RoundtripReencoder.block_type(try_table.ty).expect("every validated type can be encoded");
                let catches = self.catches(&try_table.catches);
                self.open_block(&Instruction::TryTable(ty, catches.into()))
            }
            Operator::Block { blockty } => {
                let ty = RoundtripReencoder.block_type(*blockty).expect("every validated type can be encoded");
                self.open_block(&Instruction::Block(ty))
            }
            Operator::Loop { blockty } => {
                let ty = RoundtripReencoder.block_type(*blockty).expect("every validated type can be encoded");
                self.open_block(&Instruction::Loop(ty))
            }
            Operator::If { blockty } => {
                let ty: BlockType =
                    RoundtripReencoder.block_type(*blockty).expect("every validated type can be encoded");
                self.open_block(&Instruction::If(ty))
            }
            _ => unreachable!("is_block lists just these"),
        };
        self.open.push(Open {
            label,
            base,
            water,
            start: Some(at),
            role: Role::Plain,
            targeted: false,
            entered: true,
            arm_falls: false,
        });
        self.water = water;
        if on_way && !self.way.is_empty() {
            match plan.entered.as_ref().filter(|_| is_loop) {
                Some(entered) => self.skip_in_loop(entered, at),
                None => self.skip(),
            }
        }
        if is_loop && let Some(point) = plan.point(at) {
            // The loop's parameters differ from round to round, so they go into their slots inside the loop.
            if base < height {
                self.spill(&site.stack, base);
                self.water = height;
            }
            self.poll(point);
        }
        at + 1
    }

    fn otherwise(&mut self, at: usize) -> usize {
        let plan = self.plan;
        let open = self.open.last_mut().expect("an else is inside its if");
        let start = open.start.expect("an else is inside its if");
        if open.role == Role::Path {
            // The point is in the first arm: the other one is not part of the rest.
            return plan.end_of[start] as usize;
        }
        open.arm_falls = self.live;
        self.water = open.water;
        self.live = open.entered;
        self.body.op(&Instruction::Else);
        at + 1
    }

    fn end(&mut self) {
        let plan = self.plan;
        let open = self.open.pop().expect("blocks nest");
        match open.role {
            Role::Plain | Role::Path => {
                let without_else = open.role == Role::Plain
                    && open.start.is_some_and(|start| {
                        matches!(plan.ops[start], Operator::If { .. }) && plan.else_of[start] == NONE
                    });
                let is_loop = open.role == Role::Plain
                    && open.start.is_some_and(|start| matches!(plan.ops[start], Operator::Loop { .. }));
                self.close();
                self.live |= open.arm_falls || without_else || (open.targeted && !is_loop);
            }
            Role::PathLoop { exit } => {
                let start = open.start.expect("a loop has a start");
                let fell = self.live;
                if fell && !planted(Bug::PeeledLoopGoesOn) {
                    let exit = self.relative(exit);
                    self.body.op(&Instruction::Br(exit));
                }
                self.close();
                self.water = open.base;
                self.live = open.targeted;
                if open.targeted {
                    let site = plan.site(start);
                    if plan.large_loops.contains(&start) {
                        self.spill(&site.stack, open.base);
                        let point = plan.point(start).expect("a large loop has a resume point");
                        self.go_to_loop_function(point);
                    } else {
                        self.range(start, plan.end_of[start] as usize + 1);
                    }
                } else {
                    self.body.op(&Instruction::Unreachable);
                }
                self.close();
                self.live |= fell;
            }
        }
        self.water = open.water.min(open.base);
        if !self.open.is_empty() && !self.live {
            self.body.op(&Instruction::Unreachable);
        }
    }
}
