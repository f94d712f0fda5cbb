//! Stops a running WebAssembly program anywhere, saves it as bytes and continues it elsewhere.
//!
//! The crate knows wasmtime and nothing of una. It has three parts:
//!
//! ```text
//!   rewrite   wasm in, wasm out: polls, pads, and the map that says where a program can stop
//!   process   a running instance: call, be asked to stop, capture, continue
//!   image     the stopped process as bytes
//! ```
pub mod error;
pub mod image;
#[doc(hidden)]
pub mod planted;
pub mod process;
pub mod rewrite;

pub use error::{CaptureError, ImageError, LostError, ProgramError, RewriteError};
pub use image::Pages;
pub use process::{Exit, FreezeRequest, Process, Program, Thawed, interrupt};
pub use rewrite::{Entry, Frame, Map, Options, PointId, Poll, Rewritten, VERSION, rewrite};

/// Sets what a rewritten program needs of the engine; everything else is the caller's choice.
///
/// Two engines whose configurations differ otherwise (optimisation, target, Pulley) may exchange images,
/// except that floating-point NaN payloads follow the processor unless `cranelift_nan_canonicalization`
/// is on in both (2.7-4.6 times slower on floating-point loops), and relaxed SIMD is deterministic always.
pub fn configure(config: &mut wasmtime::Config) -> &mut wasmtime::Config {
    config
        .shared_memory(true)
        .wasm_branch_hinting(true)
        .wasm_threads(true)
        .wasm_simd(true)
        .wasm_multi_memory(true)
        .wasm_tail_call(true)
        .wasm_function_references(true)
        .wasm_exceptions(true)
        .wasm_relaxed_simd(true)
        .relaxed_simd_deterministic(true)
}

/// [`configure`] for wasmtime's portable interpreter, which stands in for any processor. It has no shared memories and no atomic
/// instructions; a freeze request reaches a program there by the engine's epoch, see [`Process::listen`].
pub fn configure_pulley(config: &mut wasmtime::Config) -> Result<&mut wasmtime::Config, wasmtime::Error> {
    configure(config).target("pulley64")?;
    Ok(config.shared_memory(false).wasm_threads(false).epoch_interruption(true))
}
