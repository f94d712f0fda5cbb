//! Chunks on the disk: what was put is there, twice the same is there once, and damage is named.

use abi::errno::Errno;
use drivers::chunks::{ChunkError, ChunkName, ChunkOptions, Chunks, Removal};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// So that everything comes from the disk.
const UNCACHED: ChunkOptions = ChunkOptions { cache_bytes_max: 0, ..ChunkOptions::NORMAL };

fn chunk(number: u32) -> Vec<u8> {
    (0..10_000).map(|index: u32| (index.wrapping_mul(2_654_435_761).wrapping_add(number) >> 11) as u8).collect()
}

fn found(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for above in fs::read_dir(directory).unwrap() {
        found.extend(fs::read_dir(above.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    found
}

fn put(chunks: &Chunks, all: &[Vec<u8>]) -> Result<Vec<ChunkName>, ChunkError> {
    let named: Vec<(ChunkName, &[u8])> = all.iter().map(|bytes| (ChunkName::of(bytes), bytes.as_slice())).collect();
    drop(chunks.put(&named)?);
    Ok(named.into_iter().map(|(name, _)| name).collect())
}

#[test]
fn what_was_put_is_there_once() {
    let place = tempfile::tempdir().unwrap();
    let all: Vec<Vec<u8>> = (0..100).map(chunk).collect();
    let chunks = Chunks::open(place.path(), UNCACHED).unwrap();
    let names = put(&chunks, &all).unwrap();
    put(&chunks, &[all[0].clone(), all[1].clone(), all[0].clone()]).unwrap();
    assert_eq!(found(place.path()).len(), 100, "and nothing unfinished");
    drop(chunks);
    let chunks = Chunks::open(place.path(), UNCACHED).unwrap();
    for (name, bytes) in names.iter().zip(&all) {
        assert_eq!(&*chunks.get(name).unwrap(), bytes.as_slice());
    }
    let swept = chunks.sweep(|name| names[..60].contains(name)).unwrap();
    assert_eq!((swept.kept, swept.removed, swept.removed_bytes), (60, 40, 400_000));
    assert!(matches!(chunks.get(&names[70]), Err(ChunkError::Missing { .. })));
    assert!(chunks.get(&names[0]).is_ok());
}

#[test]
fn damage_is_named() {
    let place = tempfile::tempdir().unwrap();
    let chunks = Chunks::open(place.path(), UNCACHED).unwrap();
    let names = put(&chunks, &[chunk(1), chunk(2)]).unwrap();
    let hex: String = names[0].0.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = place.path().join(&hex[..2]).join(&hex[2..]);
    let whole = fs::read(&file).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    for bytes in [flipped(0), flipped(9_999), whole[..5000].to_vec(), vec![], [whole.clone(), vec![0]].concat()] {
        fs::write(&file, bytes).unwrap();
        let error = chunks.get(&names[0]).unwrap_err();
        assert!(matches!(&error, ChunkError::Damaged { file: named } if *named == file), "{error:?}");
        assert!(error.to_string().contains(&file.display().to_string()));
        assert_eq!(error.errno(), Errno::Io);
    }
    assert!(chunks.get(&names[1]).is_ok());
    fs::write(&file, whole).unwrap();
    assert!(chunks.get(&names[0]).is_ok());
}

#[test]
fn without_room_nothing_is_put() {
    let place = tempfile::tempdir().unwrap();
    let chunks = Chunks::open(place.path(), ChunkOptions { spare_bytes: 1 << 60, ..UNCACHED }).unwrap();
    let error = put(&chunks, &[chunk(1)]).unwrap_err();
    assert!(matches!(error, ChunkError::DiskFull { .. }), "{error:?}");
    assert_eq!(error.errno(), Errno::NoSpc);
    assert_eq!(found(place.path()).len(), 0);
}

/// One puts and another removes the same chunks: whoever holds what it put finds it there.
#[test]
fn what_is_held_is_not_removed() {
    let place = tempfile::tempdir().unwrap();
    let chunks = Chunks::open(place.path(), UNCACHED).unwrap();
    let all: Vec<Vec<u8>> = (0..4).map(chunk).collect();
    let named: Vec<(ChunkName, &[u8])> = all.iter().map(|bytes| (ChunkName::of(bytes), bytes.as_slice())).collect();
    let (removed, needed) = (AtomicU64::new(0), AtomicU64::new(0));
    // Until both have been seen: how often is chance, what is seen is not.
    let seen = || removed.load(Ordering::Relaxed) > 2 && needed.load(Ordering::Relaxed) > 2;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !seen() {
                for (name, _) in &named {
                    match chunks.remove(name, || false).unwrap() {
                        Removal::Removed { bytes } => {
                            assert_eq!(bytes, 10_000);
                            removed.fetch_add(1, Ordering::Relaxed);
                        }
                        Removal::Needed => drop(needed.fetch_add(1, Ordering::Relaxed)),
                        Removal::NotThere => {}
                    }
                }
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !seen() {
                    let held = chunks.put(&named).unwrap();
                    for (name, bytes) in &named {
                        // Whoever waits with it in hand is what the other is to see.
                        std::thread::yield_now();
                        assert_eq!(&*chunks.get(name).unwrap(), *bytes);
                    }
                    drop(held);
                }
            });
        }
    });
    put(&chunks, &all).unwrap();
    assert_eq!(chunks.remove(&named[0].0, || true).unwrap(), Removal::Needed);
}
