//! Files of a node's tree beside the same in a directory of the system.

use super::compare::{Better, Goal, Row, compare};
use super::house::House;
use super::{Asked, Side};
use crate::Outcome;
use abi::errno::Errno;
use abi::file::{Access, Durable, Existence, FileSystem, Kind, LastLink, Open};
use daemon::files::Tree;
use drivers::HostDirectory;
use std::time::{Duration, Instant};

const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 32;
const CALLERS: usize = 16;
/// How long one measurement of small files takes.
const SLICE: Duration = Duration::from_millis(300);

const READ: Open = Open {
    last_link: LastLink::Target,
    existence: Existence::Required,
    kind: Kind::Any,
    access: Access::Read,
    truncate: false,
};
const CREATE: Open = Open { existence: Existence::Created, access: Access::ReadWrite, ..READ };

pub fn measure(house: &House, asked: Asked) -> Outcome<Vec<Row>> {
    let directory = house.directory().join("files");
    std::fs::create_dir_all(directory.join("host"))?;
    let tree = Tree::open(&directory.join("tree"))?;
    let host = HostDirectory::open(&directory.join("host"))?;
    drop(host);
    let host = || HostDirectory::open(&directory.join("host")).expect("the directory that was just opened");
    let rounds = asked.rounds.min(7);
    let both =
        |tree_takes: &dyn Fn() -> Result<f64, Errno>, host_takes: &dyn Fn() -> Result<f64, Errno>, what: &str, unit| {
            let wrong = |error: Errno| format!("{error:?}").into();
            let settled = rustix::fs::sync;
            let sides = vec![
                // What one leaves behind is not to be paid for by the next.
                Side::new("una's tree", || (settled(), tree_takes().map_err(wrong)).1),
                Side::new("host directory", || (settled(), host_takes().map_err(wrong)).1),
            ];
            compare(what, unit, Better::More, rounds, sides)
        };
    Ok(vec![
        both(&|| write(&mut tree.session()), &|| write(&mut host()), "write 32 MiB and sync", "MiB/s")?,
        both(&|| read(&mut tree.session()), &|| read(&mut host()), "read 1 MiB at a time", "MiB/s")?
            .wanted(Goal::RatioAtLeast(0.5)),
        both(
            &|| small(&|| tree.session()),
            &|| small(&host),
            "create and unlink, 16 callers, host not synced",
            "acts/s",
        )?
        .wanted(Goal::AtLeast(5000.0)),
        both(
            &|| written(&|| tree.session()),
            &|| written(&host),
            "create, write 1 KiB, sync, unlink, 16 callers",
            "files/s",
        )?,
    ])
}

fn write(files: &mut dyn FileSystem) -> Result<f64, Errno> {
    let file = files.open(files.root(), "large", &Open { truncate: true, ..CREATE })?.id;
    // No two pages are alike, or the tree would keep them once.
    let mut random = Instant::now().elapsed().as_nanos() as u64 | 1;
    let mut block = vec![0; BLOCK];
    let mut taken = Duration::ZERO;
    for at in 0..BLOCKS {
        for word in block.chunks_exact_mut(8) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&random.to_le_bytes());
        }
        let start = Instant::now();
        let mut written = 0;
        while written < BLOCK {
            written += files.write_at(file, &block[written..], (at * BLOCK + written) as u64)?;
        }
        taken += start.elapsed();
    }
    let start = Instant::now();
    files.sync(file, Durable::Content)?;
    taken += start.elapsed();
    files.close(file);
    Ok(BLOCKS as f64 / taken.as_secs_f64())
}

fn read(files: &mut dyn FileSystem) -> Result<f64, Errno> {
    const TIMES: usize = 4;
    let file = files.open(files.root(), "large", &READ)?.id;
    let mut block = vec![0; BLOCK];
    let start = Instant::now();
    for at in (0..BLOCKS).cycle().take(TIMES * BLOCKS) {
        let mut done = 0;
        while done < BLOCK {
            done += files.read_at(file, &mut block[done..], (at * BLOCK + done) as u64)?;
        }
    }
    let taken = start.elapsed();
    files.close(file);
    Ok((TIMES * BLOCKS) as f64 / taken.as_secs_f64())
}

/// What all callers together do in a second.
fn by_callers<F: FileSystem>(
    files: &(dyn Fn() -> F + Sync), act: impl Fn(&mut F, &str) -> Result<u64, Errno> + Sync,
) -> Result<f64, Errno> {
    let start = Instant::now();
    let act = &act;
    let one = |caller: usize| {
        let mut files = files();
        let root = files.root();
        let directory = format!("caller{caller}");
        match files.create_directory(root, &directory) {
            Ok(()) | Err(Errno::Exist) => {}
            Err(error) => return Err(error),
        }
        let mut count = 0;
        for number in 0.. {
            if start.elapsed() > SLICE {
                break;
            }
            count += act(&mut files, &format!("{directory}/{number}"))?;
        }
        Ok(count)
    };
    let counts: Result<Vec<u64>, Errno> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|caller| scope.spawn(move || one(caller))).collect();
        callers.into_iter().map(|caller| caller.join().expect("a caller gives its error")).collect()
    });
    Ok(counts?.iter().sum::<u64>() as f64 / start.elapsed().as_secs_f64())
}

fn small<F: FileSystem>(files: &(dyn Fn() -> F + Sync)) -> Result<f64, Errno> {
    by_callers(files, |files, name| {
        let root = files.root();
        let file = files.open(root, name, &CREATE)?.id;
        files.close(file);
        files.unlink(root, name)?;
        Ok(2)
    })
}

fn written<F: FileSystem>(files: &(dyn Fn() -> F + Sync)) -> Result<f64, Errno> {
    by_callers(files, |files, name| {
        let root = files.root();
        let file = files.open(root, name, &CREATE)?.id;
        files.write_at(file, &[7; 1024], 0)?;
        files.sync(file, Durable::Everything)?;
        files.close(file);
        files.unlink(root, name)?;
        Ok(1)
    })
}
