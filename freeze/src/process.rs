//! A running instance: call, be asked to stop, capture, continue.
//!
//! The shape (bodies are to be written):
use crate::{error::*, rewrite::*};
use wasmtime::{AsContextMut, Caller, Engine, Instance, Linker, Module, Val};

/// A rewritten, compiled program with its map and its continuation cache. Cheap to clone.
#[derive(Clone)]
pub struct Program {}

/// One instance of a program.
pub struct Process {}

/// Asks a process to stop, from any thread; cheap to clone. It outlives the process without harm.
#[derive(Clone)]
pub struct FreezeRequest {}

/// How a call or a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Returned,
    /// The stack is unwound and saved; capture it, or continue it.
    Frozen,
}

impl Program {
    pub fn new(_engine: &Engine, _wasm: &[u8], _options: &Options) -> Result<Program, ProgramError> {
        todo!()
    }
    /// From parts that were made before, e.g. read from a cache.
    pub fn from_parts(_wasm: std::sync::Arc<[u8]>, _map: Map, _module: Module) -> Program {
        todo!()
    }
    pub fn module(&self) -> &Module {
        todo!()
    }
    pub fn instantiate<T: 'static>(
        &self,
        _store: impl AsContextMut<Data = T>,
        _linker: &Linker<T>,
    ) -> Result<Process, wasmtime::Error> {
        todo!()
    }
}

impl Process {
    pub fn instance(&self) -> Instance {
        todo!()
    }
    pub fn freeze_request(&self) -> FreezeRequest {
        todo!()
    }
    pub fn call(
        &mut self,
        _store: impl AsContextMut,
        _export: &str,
        _arguments: &[Val],
        _results: &mut [Val],
    ) -> Result<Exit, wasmtime::Error> {
        todo!()
    }
    /// Continues a frozen process where it stopped, in this instance.
    pub fn resume(&mut self, _store: impl AsContextMut, _results: &mut [Val]) -> Result<Exit, wasmtime::Error> {
        todo!()
    }
}

impl FreezeRequest {
    pub fn set(&self) {}
    pub fn clear(&self) {}
}

/// For a host function that waits: says that its call is to be unwound and issued again with the same arguments on
/// continuation. The host function then returns any values at once.
pub fn interrupt<T: 'static>(_caller: &mut Caller<'_, T>) -> Result<(), wasmtime::Error> {
    todo!()
}
