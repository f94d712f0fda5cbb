//! Random programs, stopped at every n-th poll.
#![no_main]

#[path = "../../tests/suite/mod.rs"]
mod suite;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    suite::fuzz::hops(bytes);
});
