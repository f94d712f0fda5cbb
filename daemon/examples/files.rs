//! Measures the tree of a node beside a directory of the host: reading and writing 1 MiB at a time, and making and removing small
//! files, with one caller and with sixteen. Everything is interleaved, so that a busy moment hits all alike; medians, and the
//! least and the most. What the disk itself can do stands beside it: a write of 4 KiB and its sync.
//!
//! `cargo run --release -p una-daemon --example files [DIRECTORY]`

use abi::file::{Access, Durable, Existence, FileSystem, Kind, LastLink, Open};
use daemon::files::{Tree, TreeOptions};
use drivers::HostDirectory;
use drivers::chunks::ChunkOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const ROUNDS: usize = 7;
const FILE_BYTES: usize = 32 << 20;
const BLOCK: usize = 1 << 20;
/// How long one measurement of small files takes.
const SLICE: Duration = Duration::from_millis(500);

const READ: Open = Open {
    last_link: LastLink::Target,
    existence: Existence::Required,
    kind: Kind::Any,
    access: Access::Read,
    truncate: false,
};
const CREATE: Open = Open { existence: Existence::Created, access: Access::ReadWrite, ..READ };

/// What one thing measured, in its unit.
struct Measured {
    what: &'static str,
    unit: &'static str,
    values: Vec<f64>,
}

fn main() {
    let place =
        std::env::args().nth(1).map_or_else(|| tempfile::tempdir().map(|top| top.keep()), |path| Ok(path.into()));
    let place = place.expect("a directory for what is measured");
    std::fs::create_dir_all(place.join("host")).expect("a directory to measure in");
    let tree = Tree::open(&place.join("tree")).expect("a tree");
    let chunks = ChunkOptions { cache_bytes_max: 0, ..ChunkOptions::NORMAL };
    let uncached =
        Tree::open_with(&place.join("uncached"), TreeOptions { chunks, ..TreeOptions::NORMAL }).expect("a tree");
    let host = || HostDirectory::open(&place.join("host")).expect("the directory that was just made");
    let mut all: Vec<Measured> = vec![];
    let mut note =
        |what: &'static str, unit: &'static str, value: f64| match all.iter_mut().find(|one| one.what == what) {
            Some(one) => one.values.push(value),
            None => all.push(Measured { what, unit, values: vec![value] }),
        };
    for round in 0..ROUNDS {
        // What was left behind by one is not to be paid for by the next: the disk does it before the clock runs.
        let settled = || rustix::fs::sync();
        settled();
        note("write 32 MiB and sync, host", "MiB/s", write(&mut host(), round as u8));
        settled();
        note("write 32 MiB and sync, tree", "MiB/s", write(&mut tree.session(), round as u8));
        write(&mut uncached.session(), round as u8);
        note("read 1 MiB at a time, host", "MiB/s", read(&mut host()));
        settled();
        note("read 1 MiB at a time, tree", "MiB/s", read(&mut tree.session()));
        settled();
        note("read 1 MiB at a time, tree without cache", "MiB/s", read(&mut uncached.session()));
        settled();
        note("write 4 KiB and sync, raw", "1/s", raw(&place.join("raw")));
        settled();
        note("make and remove, host, not synced, 1 caller", "1/s", small(1, &host));
        settled();
        note("make and remove, tree, 1 caller", "1/s", small(1, &|| tree.session()));
        settled();
        note("make and remove, tree, 16 callers", "1/s", small(16, &|| tree.session()));
        settled();
        note("make, write 1 KiB, close, tree, 16 callers", "1/s", written(16, &|| tree.session()));
        settled();
        note("make, write 1 KiB, sync, host, 16 callers", "1/s", written(16, &host));
    }
    println!("{:<48} {:>10} {:>10} {:>10}", "", "median", "least", "most");
    for Measured { what, unit, values } in &mut all {
        values.sort_by(f64::total_cmp);
        let (least, most) = (values[0], values[values.len() - 1]);
        println!("{what:<48} {:>10.0} {least:>10.0} {most:>10.0} {unit}", values[values.len() / 2]);
    }
    let view = tree.view();
    println!("{:.1} changes shared a sync", view.changes as f64 / view.commits as f64);
    drop((tree, uncached));
    let begun = Instant::now();
    Tree::open(&place.join("tree")).expect("the tree again").check();
    println!("opening it again and checking it: {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    std::fs::remove_dir_all(&place).expect("nobody uses it any more");
}

fn write(files: &mut dyn FileSystem, salt: u8) -> f64 {
    let block: Vec<u8> = (0..BLOCK).map(|index| (index >> 7) as u8 ^ (index as u8).wrapping_mul(salt)).collect();
    let file = files.open(files.root(), "large", &Open { truncate: true, ..CREATE }).expect("a file").id;
    let begun = Instant::now();
    for at in (0..FILE_BYTES).step_by(BLOCK) {
        let mut block = block.clone();
        block[..8].copy_from_slice(&(at as u64 + 1 + salt as u64).to_le_bytes());
        for page in block.chunks_mut(65_536).enumerate() {
            page.1[8] = page.0 as u8;
            page.1[9] = (at >> 20) as u8;
        }
        let written = files.write_at(file, &block, at as u64).expect("room");
        assert_eq!(written, BLOCK);
    }
    files.sync(file, Durable::Content).expect("a disk");
    let taken = begun.elapsed();
    files.close(file);
    (FILE_BYTES >> 20) as f64 / taken.as_secs_f64()
}

fn read(files: &mut dyn FileSystem) -> f64 {
    let file = files.open(files.root(), "large", &READ).expect("the file that was written").id;
    let mut block = vec![0; BLOCK];
    let begun = Instant::now();
    for _ in 0..4 {
        for at in (0..FILE_BYTES).step_by(BLOCK) {
            assert_eq!(files.read_at(file, &mut block, at as u64), Ok(BLOCK));
        }
    }
    let taken = begun.elapsed();
    files.close(file);
    ((4 * FILE_BYTES) >> 20) as f64 / taken.as_secs_f64()
}

fn raw(path: &Path) -> f64 {
    let file = std::fs::File::create(path).expect("a file");
    let block = [7; 4096];
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < SLICE {
        file.write_all_at(&block, count % 256 * 4096).expect("room");
        file.sync_data().expect("a disk");
        count += 1;
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Acts per second, of all callers together.
fn by_callers<F: FileSystem>(
    callers: usize, files: &(dyn Fn() -> F + Sync), act: impl Fn(&mut F, &str) -> u64 + Sync,
) -> f64 {
    let begun = Instant::now();
    let count: u64 = std::thread::scope(|scope| {
        let act = &act;
        let workers: Vec<_> = (0..callers)
            .map(|caller| {
                scope.spawn(move || {
                    let mut files = files();
                    let root = files.root();
                    let directory = format!("caller{caller}");
                    let _ = files.create_directory(root, &directory);
                    let mut count = 0;
                    let mut number = 0;
                    while begun.elapsed() < SLICE {
                        count += act(&mut files, &format!("{directory}/{number}"));
                        number += 1;
                    }
                    count
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no caller fails")).sum()
    });
    count as f64 / begun.elapsed().as_secs_f64()
}

fn small<F: FileSystem>(callers: usize, files: &(dyn Fn() -> F + Sync)) -> f64 {
    by_callers(callers, files, |files, name| {
        let root = files.root();
        let file = files.open(root, name, &CREATE).expect("room").id;
        files.close(file);
        files.unlink(root, name).expect("the file that was made");
        2
    })
}

fn written<F: FileSystem>(callers: usize, files: &(dyn Fn() -> F + Sync)) -> f64 {
    by_callers(callers, files, |files, name| {
        let root = files.root();
        let file = files.open(root, name, &CREATE).expect("room").id;
        files.write_at(file, &[7; 1024], 0).expect("room");
        files.sync(file, Durable::Everything).expect("a disk");
        files.close(file);
        files.unlink(root, name).expect("the file that was made");
        1
    })
}
