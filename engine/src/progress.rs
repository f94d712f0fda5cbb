//! How far a long compile is. Knows wasmtime's log and nothing else of the compiler.
//!
//! wasmtime tells per function only those who cache functions one by one, which costs compile time. But it logs each function
//! that it has compiled, and a logger that counts costs nothing that can be measured: this is that logger.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, Once, RwLock};
use std::time::Duration;
use wasmparser::{Parser, Payload, TypeRef};

/// What a load is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Another process compiles the same program.
    Waiting,
    Rewriting,
    Compiling,
}

/// Told again and again during a load that takes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// Bytes of the program's code that are finished.
    pub done: u64,
    pub total: u64,
}

/// How often a compile's progress is told.
const TICK: Duration = Duration::from_millis(50);

/// Who logs, and what: "`wasm[0]::function[12]::name` compiled in 3ms".
const LOGGER: &str = "wasmtime_internal_cranelift::compiler";
const FUNCTION: &str = "::function[";
const COMPILED: &str = "compiled in";

/// The module that is being compiled: one at a time.
static CURRENT: RwLock<Option<Bodies>> = RwLock::new(None);

/// Held while a compile is watched. Compiling is parallel in itself.
static TURN: Mutex<()> = Mutex::new(());

/// Sizes of a module's function bodies, to weigh each function by.
struct Bodies {
    imported: u32,
    sizes: Vec<u64>,
    done: AtomicU64,
}

/// Does `compile`, which compiles this module, and tells `progress` of it.
pub(crate) fn watch<T: Send>(wasm: &[u8], progress: &mut dyn FnMut(Progress), compile: impl FnOnce() -> T + Send) -> T {
    static LOGGING: Once = Once::new();
    LOGGING.call_once(|| {
        // A program with another logger goes without counting.
        let _ = log::set_logger(&Counter);
    });
    let turn = TURN.lock().expect("no code panics while it holds this lock but that of a failed assertion");
    let bodies = Bodies::of(wasm);
    let total: u64 = bodies.sizes.iter().sum();
    let set = |bodies| *CURRENT.write().expect("the logger does not panic") = bodies;
    set(Some(bodies));
    log::set_max_level(log::LevelFilter::Debug);
    let mut tell = |done| progress(Progress { phase: Phase::Compiling, done, total });
    let result = std::thread::scope(|scope| {
        let (finished, wait) = mpsc::channel::<()>();
        let compiling = scope.spawn(move || {
            let result = compile();
            drop(finished);
            result
        });
        tell(0);
        while wait.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            let current = CURRENT.read().expect("the logger does not panic");
            tell(current.as_ref().map_or(0, |bodies| bodies.done.load(Ordering::Relaxed)));
        }
        compiling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    log::set_max_level(log::LevelFilter::Off);
    set(None);
    drop(turn);
    tell(total);
    result
}

impl Bodies {
    /// Of a valid module; of any other, as far as it is one.
    fn of(wasm: &[u8]) -> Bodies {
        let mut bodies = Bodies { imported: 0, sizes: vec![], done: AtomicU64::new(0) };
        for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
            match payload {
                Payload::ImportSection(section) => {
                    let functions = section.into_imports().map_while(Result::ok);
                    let functions =
                        functions.filter(|import| matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)));
                    bodies.imported = functions.count() as u32;
                }
                Payload::CodeSectionEntry(body) => bodies.sizes.push(body.range().len() as u64),
                _ => {}
            }
        }
        bodies
    }

    fn compiled(&self, message: &str) {
        if let Some(function) = function_of(message)
            && let Some(size) = function.checked_sub(self.imported).and_then(|index| self.sizes.get(index as usize))
        {
            self.done.fetch_add(*size, Ordering::Relaxed);
        }
    }
}

/// The function that the log says has been compiled.
fn function_of(message: &str) -> Option<u32> {
    if !message.contains(COMPILED) {
        return None;
    }
    let number = &message[message.find(FUNCTION)? + FUNCTION.len()..];
    number[..number.find(']')?].parse().ok()
}

struct Counter;

impl log::Log for Counter {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.target() == LOGGER && metadata.level() == log::Level::Debug
    }
    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata())
            && let Some(bodies) = &*CURRENT.read().expect("the logger does not panic")
        {
            bodies.compiled(&record.args().to_string());
        }
    }
    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_compile_is_counted() {
        let functions: String = (0..200).map(|i| format!("(func $f{i} (result i32) (i32.const {i}))")).collect();
        let wasm = wat::parse_str(format!("(module (import \"a\" \"b\" (func)) {functions})")).unwrap();
        let engine = wasmtime::Engine::default();
        let mut counted = 0;
        let mut told = vec![];
        watch(&wasm, &mut |progress| told.push(progress), || {
            let module = wasmtime::Module::new(&engine, &wasm).unwrap();
            counted = CURRENT.read().unwrap().as_ref().unwrap().done.load(Ordering::Relaxed);
            module
        });
        let total = told[0].total;
        assert!(total >= 800, "{total}");
        assert_eq!(counted, total, "wasmtime's log tells of every function");
        assert_eq!(told.last().unwrap().done, total);
        assert!(told.is_sorted_by_key(|progress| progress.done));
    }
}
