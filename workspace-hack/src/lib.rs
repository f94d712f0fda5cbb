//! Nothing. The features in this crate's Cargo.toml are why it is there: cargo compiles a dependency again for every set of
//! features it meets, and without this crate `cargo run`, `cargo xtask` and each `cargo test -p` would all have their own
//! wasmtime, minutes each. `cargo xtask tidy` checks that the list is long enough.
#![no_std]
