//! What the fuzzer calls with bytes of its own making, as plain functions, so that tests can call them with bytes of theirs.

use super::chains;
use super::random::{self, Numbers};
use freeze::image::{State, Value, Writer};
use freeze::{Exit, ImageError, Map, Options, Pages, ProgramError};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use wasmtime::{Engine, Linker, Store, Val};

/// What became of an input; the tests look at whether all of this happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Refused,
    Accepted,
    /// A hostile image was thawed and ran, to whatever end.
    Ran,
    /// The bytes make no input of this kind.
    Nothing,
}

/// Any bytes into the rewriter: it never panics, and what it gives is valid and always the same.
///
/// The bytes are a module as they are, and the recipe of one that is then damaged in a few places.
pub fn rewrite(bytes: &[u8]) -> Fate {
    let _ = Map::from_bytes(bytes);
    let mut fate = rewrite_module(bytes);
    if let Some((damage, recipe)) = bytes.split_first_chunk::<8>()
        && let Some(mut wasm) = random::program(recipe)
    {
        let mut numbers = Numbers(u64::from_le_bytes(*damage));
        for _ in 0..numbers.below(4) {
            let at = numbers.below(wasm.len() as u64) as usize;
            wasm[at] ^= 1 << numbers.below(8);
        }
        fate = fate.max(rewrite_module(&wasm));
    }
    fate
}

fn rewrite_module(wasm: &[u8]) -> Fate {
    let mut fate = Fate::Refused;
    for options in [Options::default(), chains::COUNTDOWN] {
        let Ok(rewritten) = freeze::rewrite(wasm, &options) else { continue };
        fate = Fate::Accepted;
        let mut validator = wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all());
        validator.validate_all(&rewritten.wasm).expect("a rewritten module is valid");
        let map = rewritten.map.to_bytes();
        assert_eq!(Map::from_bytes(&map).as_ref(), Some(&rewritten.map), "a map comes back as it was");
        let again = freeze::rewrite(wasm, &options).expect("it was accepted just now");
        assert!(again.wasm == rewritten.wasm && again.map == rewritten.map, "the same module gives the same bytes");
    }
    fate
}

/// A random program, stopped at every n-th poll: it does what it does uninterrupted.
pub fn hops(bytes: &[u8]) -> Fate {
    static ENGINE: OnceLock<[Engine; 1]> = OnceLock::new();
    let Some(([every, seed], recipe)) = bytes.split_first_chunk::<2>() else { return Fate::Nothing };
    let Some(wasm) = random::program(recipe) else { return Fate::Nothing };
    let mut counts = random::Counts::default();
    let engines = ENGINE.get_or_init(|| [random::engine(None)]);
    let distances = [*every as i64 % 32 + 1];
    random::check(engines, &wasm, *seed as u64, &distances, &mut counts)
        .unwrap_or_else(|difference| panic!("{difference}"));
    if counts.hops > 0 { Fate::Ran } else { Fate::Accepted }
}

/// A program with something of everything that an image holds.
const PROGRAM: &str = r#"(module
    (type $f (func (param i32) (result i32)))
    (memory (export "memory") 2 4) (data $d "abcdefgh")
    (table $t 4 8 funcref) (elem $e func $add $mul)
    (tag $x (param i32 i64))
    (global $n (mut i32) (i32.const 0)) (global $v (mut v128) (v128.const i32x4 1 2 3 4)) (global $r (mut funcref) (ref.null func))
    (func $add (type $f) (loop) (i32.add (local.get 0) (global.get $n)))
    (func $mul (type $f) (loop) (i32.mul (local.get 0) (i32.const 3)))
    (func $deep (param $k i32) (param $g funcref) (result i32) (local $x exnref)
      (if (i32.eqz (local.get $k)) (then (loop) (return (i32.const 1))))
      (block $h (result exnref) (try_table (catch_all_ref $h) (throw $x (local.get $k) (i64.const 5))) (unreachable))
      (local.set $x)
      (i32.add (local.get $k) (call $deep (i32.sub (local.get $k) (i32.const 1)) (local.get $g)))
      (table.set $t (i32.const 3) (local.get $g))
      (global.set $n (i32.add (global.get $n) (ref.is_null (local.get $x)))))
    (func (export "run") (result i32) (local $i i32) (local $s i32)
      (table.init $t $e (i32.const 0) (i32.const 0) (i32.const 2)) (elem.drop $e)
      (memory.init $d (i32.const 70000) (i32.const 0) (i32.const 8)) (data.drop $d)
      (global.set $r (ref.func $mul))
      (loop $l
        (global.set $n (i32.add (global.get $n) (i32.const 1)))
        (local.set $s (i32.add (local.get $s) (call $deep (i32.const 3) (ref.func $add))))
        (local.set $s (call_indirect $t (type $f) (local.get $s) (i32.and (local.get $i) (i32.const 1))))
        (i32.store (i32.mul (local.get $i) (i32.const 1000)) (local.get $s))
        (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 40))))
      (i32.add (local.get $s) (i32.load8_u (i32.const 70003)))))"#;

struct Frozen {
    engine: Engine,
    program: freeze::Program,
    /// Some stops of one run, as state, memory and image.
    stops: Vec<(State, Vec<u8>, Vec<u8>)>,
}

fn frozen() -> &'static Frozen {
    static FROZEN: OnceLock<Frozen> = OnceLock::new();
    FROZEN.get_or_init(|| {
        let mut config = wasmtime::Config::new();
        freeze::configure(&mut config).consume_fuel(true);
        let engine = Engine::new(&config).unwrap();
        let program = chains::program(&engine, PROGRAM, &chains::COUNTDOWN);
        let mut store = Store::new(&engine, ());
        store.set_fuel(10_000_000).unwrap();
        let mut process = program.instantiate(&mut store, &Linker::new(&engine)).unwrap();
        process.set_countdown(&mut store, 1).unwrap();
        let mut exit = process.call(&mut store, "run", &[], &mut [Val::I32(0)]).unwrap();
        let mut stops = vec![];
        for countdown in [4, 6, 3, 5, 9, 23, 80] {
            assert_eq!(exit, Exit::Frozen);
            let attachments = BTreeMap::from([("name".to_string(), b"content".to_vec())]);
            let state = process.state(&mut store, attachments.clone()).unwrap();
            let memory = process.memory(&mut store, 0).unwrap().data(&store).to_vec();
            let image = process.capture(&mut store, vec![], Pages::Included, attachments).unwrap();
            stops.push((state, memory, image));
            process.set_countdown(&mut store, countdown).unwrap();
            exit = process.resume(&mut store, &mut [Val::I32(0)]).unwrap();
        }
        Frozen { engine, program, stops }
    })
}

/// Thaws and continues; `Err` if it is not an image of the program. Never a panic, whatever the image says.
fn thaw(image: &[u8]) -> Result<Fate, ProgramError> {
    let Frozen { engine, program, .. } = frozen();
    let mut store = Store::new(engine, ());
    store.set_fuel(1_000_000).unwrap();
    let mut process = program.thaw(&mut store, &Linker::new(engine), image)?.process;
    process.set_countdown(&mut store, 1000).unwrap();
    let mut results = [Val::I32(0)];
    if let Ok(Exit::Frozen) = process.resume(&mut store, &mut results) {
        let _ = process.capture(&mut store, vec![], Pages::Included, BTreeMap::new());
    }
    Ok(Fate::Ran)
}

/// Bytes as an image, an image with damage, and an image whose parts are each whole but that lies.
pub fn image(bytes: &[u8]) -> Fate {
    let Some((kind, rest)) = bytes.split_first() else { return Fate::Nothing };
    let mut numbers = Numbers(rest.iter().fold(7, |sum: u64, byte| sum.wrapping_mul(0x100_0000_01b3) ^ *byte as u64));
    let stops = &frozen().stops;
    let (state, memory, image) = &stops[numbers.below(stops.len() as u64) as usize];
    match kind % 3 {
        0 => fate(thaw(rest)),
        1 => {
            let mut damaged = image.clone();
            for piece in rest.chunks(3) {
                let at = numbers.below(damaged.len() as u64) as usize;
                match piece {
                    [0, ..] => damaged.truncate(at.max(1)),
                    [1, ..] => drop(damaged.remove(at)),
                    [2, byte, ..] => damaged.insert(at, *byte),
                    [_, byte, ..] => damaged[at] ^= byte,
                    _ => {}
                }
            }
            if damaged.starts_with(image) {
                // Nothing was changed, or only what comes behind the image.
                return fate(thaw(&damaged));
            }
            match thaw(&damaged) {
                Err(ProgramError::Image(_)) => Fate::Refused,
                other => panic!("damage was not noticed: {other:?}"),
            }
        }
        _ => {
            let mut lie = state.clone();
            rest.chunks(6).for_each(|piece| tell_a_lie(&mut lie, piece));
            let mut writer = Writer::new(vec![], &lie).unwrap();
            if rest.len() % 2 == 0 {
                writer.memory(0, numbers.below(140_000), &memory[..numbers.below(9000) as usize]).unwrap();
            }
            fate(thaw(&writer.finish().unwrap()))
        }
    }
}

fn fate(result: Result<Fate, ProgramError>) -> Fate {
    match result {
        Ok(fate) => fate,
        Err(ProgramError::Image(ImageError::Read(error))) => panic!("the bytes can be read: {error}"),
        Err(_) => Fate::Refused,
    }
}

/// Changes the state in one place, as six bytes say.
fn tell_a_lie(state: &mut State, piece: &[u8]) {
    let mut bytes = [0; 6];
    bytes[..piece.len()].copy_from_slice(piece);
    let [what, where_to, value @ ..] = bytes;
    let value = u32::from_le_bytes(value);
    let at = |length: usize| (length > 0).then(|| where_to as usize % length.max(1));
    match what % 10 {
        0 => {
            if let Some(at) = at(state.globals.len()) {
                state.globals[at].1 = match value % 4 {
                    0 => Value::I32(value),
                    1 => Value::Function(Some(value)),
                    2 => Value::V128(value as u128 * 3),
                    _ => Value::Function(None),
                };
            }
        }
        1 => {
            if let Some(at) = at(state.globals.len()) {
                state.globals[at].0 = value % 8;
            }
        }
        2 => state.tables.push((value % 3, vec![None; where_to as usize])),
        3 => {
            if let Some((_, entries)) = state.tables.first_mut()
                && let Some(at) = at(entries.len())
            {
                entries[at] = Some(value % 9);
            }
        }
        4 => state.references.push(Some(value % 5)),
        5 => drop(state.references.pop()),
        6 => state.dropped_data.push(value % 3),
        7 => state.memories[0] = (value as u64) << (where_to % 20),
        8 => {
            if let Some(at) = at(state.frames.len()) {
                state.frames[at] ^= value as u8;
            }
        }
        _ => {
            let (from, to) = (where_to as usize, where_to as usize + value as usize % 16);
            if let Some(range) = state.frames.get(from..to).map(<[u8]>::to_vec) {
                state.frames.extend(range);
            }
        }
    }
}
