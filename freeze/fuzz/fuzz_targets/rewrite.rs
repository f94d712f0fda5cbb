//! Any bytes into the rewriter.
#![no_main]

#[path = "../../tests/suite/mod.rs"]
mod suite;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    suite::fuzz::rewrite(bytes);
});
