//! See `protocol` in tests/fuzz/targets.rs.
#![no_main]
#![allow(dead_code, reason = "each target uses its own part")]

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    targets::protocol(bytes);
});
