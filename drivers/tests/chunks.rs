//! Chunks on the disk: what was put is there, twice the same is there once, and damage is named.

use abi::errno::Errno;
use drivers::chunks::{ChunkError, ChunkName, ChunkOptions, Chunks, Removal};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// So that everything comes from the disk.
const UNCACHED: ChunkOptions = ChunkOptions { cache_bytes_max: 0, ..ChunkOptions::NORMAL };

fn open(place: &tempfile::TempDir, options: ChunkOptions) -> Arc<Chunks> {
    Arc::new(Chunks::open(place.path(), options).unwrap())
}

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

fn put(chunks: &Arc<Chunks>, all: &[Vec<u8>]) -> Result<Vec<ChunkName>, ChunkError> {
    let named: Vec<(ChunkName, &[u8])> = all.iter().map(|bytes| (ChunkName::of(bytes), bytes.as_slice())).collect();
    drop(chunks.put(&named)?);
    Ok(named.into_iter().map(|(name, _)| name).collect())
}

#[test]
fn what_was_put_is_there_once() {
    let place = tempfile::tempdir().unwrap();
    let all: Vec<Vec<u8>> = (0..100).map(chunk).collect();
    let chunks = open(&place, UNCACHED);
    let names = put(&chunks, &all).unwrap();
    put(&chunks, &[all[0].clone(), all[1].clone(), all[0].clone()]).unwrap();
    assert_eq!(found(place.path()).len(), 1, "all in one file, and nothing unfinished");
    assert!(names.iter().all(|name| chunks.has(name)));
    drop(chunks);
    let chunks = open(&place, UNCACHED);
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
    let chunks = open(&place, UNCACHED);
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
    let chunks = open(&place, ChunkOptions { spare_bytes: 1 << 60, ..UNCACHED });
    let error = put(&chunks, &[chunk(1)]).unwrap_err();
    assert!(matches!(error, ChunkError::DiskFull { .. }), "{error:?}");
    assert_eq!(error.errno(), Errno::NoSpc);
    assert_eq!(found(place.path()).len(), 0);
}

/// One puts and another removes the same chunks: whoever holds what it put finds it there.
#[test]
fn what_is_held_is_not_removed() {
    hold_and_remove(4);
}

#[test]
fn what_is_held_in_packs_is_not_removed() {
    hold_and_remove(20);
}

fn hold_and_remove(count: u32) {
    let place = tempfile::tempdir().unwrap();
    let chunks = open(&place, UNCACHED);
    let all: Vec<Vec<u8>> = (0..count).map(chunk).collect();
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
                            chunks.tidy().unwrap();
                        }
                        Removal::Needed => drop(needed.fetch_add(1, Ordering::Relaxed)),
                        Removal::NotThere => {}
                    }
                    // The lock is not fair: those who put must get it too.
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        });
        for pause_ms in [7, 15] {
            let (chunks, named, seen) = (&chunks, &named, &seen);
            scope.spawn(move || {
                while !seen() {
                    let held = chunks.put(named).unwrap();
                    for (name, bytes) in named {
                        // Whoever waits with it in hand is what the other is to see.
                        std::thread::yield_now();
                        assert_eq!(&*chunks.get(name).unwrap(), *bytes);
                    }
                    drop(held);
                    // So that there are moments in which nobody holds them.
                    std::thread::sleep(Duration::from_millis(pause_ms));
                }
            });
        }
    });
    put(&chunks, &all).unwrap();
    assert_eq!(chunks.remove(&named[0].0, || true).unwrap(), Removal::Needed);
}

#[test]
fn what_left_a_pack_gives_its_room_back() {
    let place = tempfile::tempdir().unwrap();
    let all: Vec<Vec<u8>> = (0..40).map(chunk).collect();
    let size = || found(place.path()).iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>();
    {
        let chunks = open(&place, UNCACHED);
        let names = put(&chunks, &all).unwrap();
        for name in &names[..25] {
            assert_eq!(chunks.remove(name, || false).unwrap(), Removal::Removed { bytes: 10_000 });
            assert_eq!(chunks.remove(name, || false).unwrap(), Removal::NotThere);
        }
        assert!(size() > 400_000);
        chunks.tidy().unwrap();
        assert!((150_000..160_000).contains(&size()), "{}", size());
        for (name, bytes) in names.iter().zip(&all).skip(25) {
            assert_eq!(&*chunks.get(name).unwrap(), bytes.as_slice());
        }
        assert_eq!(chunks.inventory(0, usize::MAX).unwrap().0.len(), 15);
        // What was there is not written again, what was not is.
        put(&chunks, &all).unwrap();
        assert!((400_000..420_000).contains(&size()), "{}", size());
    }
    let chunks = open(&place, UNCACHED);
    assert_eq!(chunks.sweep(|_| true).unwrap().kept, 40);
    for bytes in &all {
        assert_eq!(&*chunks.get(&ChunkName::of(bytes)).unwrap(), bytes.as_slice());
        chunks.remove(&ChunkName::of(bytes), || false).unwrap();
    }
    assert_eq!(size(), 0, "with the last chunk its pack goes");
}

#[test]
fn damage_to_a_pack_is_named_and_hurts_only_what_it_hit() {
    let place = tempfile::tempdir().unwrap();
    let all: Vec<Vec<u8>> = (0..10).map(chunk).collect();
    let names = put(&open(&place, UNCACHED), &all).unwrap();
    let file = place.path().join("packs/1");
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[25_000] ^= 1;
    fs::write(&file, &flipped).unwrap();
    let chunks = open(&place, UNCACHED);
    for (index, name) in names.iter().enumerate() {
        match chunks.get(name) {
            Err(ChunkError::Damaged { file: named }) => assert!(index == 2 && named == file),
            Ok(bytes) => assert!(index != 2 && *bytes == *all[index]),
            Err(error) => panic!("{error}"),
        }
    }
    chunks.replace(&names[2], &all[2]).unwrap();
    assert_eq!(&*chunks.get(&names[2]).unwrap(), all[2].as_slice());
    drop(chunks);
    // Whatever is wrong with an index, nothing that it says is believed.
    for length in [0, 10, 100_000, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(matches!(open(&place, UNCACHED).get(&names[0]), Err(ChunkError::Missing { .. })), "{length}");
    }
    for at in whole.len() - 44..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write(&file, &flipped).unwrap();
        assert!(matches!(open(&place, UNCACHED).get(&names[0]), Err(ChunkError::Missing { .. })), "{at}");
    }
}
