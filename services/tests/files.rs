//! The tree of files against a model, under seeds. `tests/files/world.rs` says what can happen.

#[path = "files/world.rs"]
mod world;

#[test]
fn whatever_happens_what_is_safe_is_there() {
    for seed in 0..2000 {
        if let Err(what) = world::play(seed, 250) {
            panic!("seed {seed}: {what}");
        }
    }
}
