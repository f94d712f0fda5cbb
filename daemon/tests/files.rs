//! The tree of a node behaves as a directory of the host does, and keeps what it promised: across restarts, kills, full disks and
//! damage.

mod computer;

use abi::errno::Errno;
use abi::file::*;
use abi::wasi::{Advice, Filetype};
use daemon::files::{Tree, TreeError, TreeOptions};
use drivers::HostDirectory;
use drivers::chunks::ChunkOptions;
use drivers::facts::FactsError;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

const READ: Open = Open {
    last_link: LastLink::Target,
    existence: Existence::Required,
    kind: Kind::Any,
    access: Access::Read,
    truncate: false,
};
const WRITE: Open = Open { access: Access::ReadWrite, ..READ };
const CREATE: Open = Open { existence: Existence::Created, ..WRITE };
const NOW: SetTimes = SetTimes { accessed: SetTime::Now, modified: SetTime::At(1) };

type Files<'a> = &'a mut dyn FileSystem;

/// Does a check with a directory of the host, with a tree on one disk, with that of a computer of two nodes at the one that holds
/// it, and at the other, each with the same few files in it.
fn with_all(check: impl Fn(Files)) {
    let top = tempfile::tempdir().unwrap();
    fs::create_dir(top.path().join("mounted")).unwrap();
    let mut host = HostDirectory::open(&top.path().join("mounted")).unwrap();
    let tree = Tree::open(&top.path().join("tree")).unwrap();
    let mut session = tree.session();
    let (one, two) = (computer::Computer::of(2), computer::Computer::of(2));
    let mut holder = one.session(one.holder());
    let mut other = two.session(two.others()[0]);
    for files in [&mut host as Files, &mut session, &mut holder, &mut other] {
        write(files, "file", b"content");
        files.create_directory(files.root(), "sub").unwrap();
        write(files, "sub/file", b"inner");
        check(files);
    }
    tree.check();
    drop((session, holder, other));
    drop(tree);
    for computer in [one, two] {
        computer.node(computer.holder()).check();
    }
    // Whatever was done to it, it can be opened again.
    Tree::open(&top.path().join("tree")).unwrap().check();
}

fn write(files: Files, path: &str, content: &[u8]) {
    let file = files.open(files.root(), path, &Open { truncate: true, ..CREATE }).unwrap().id;
    let mut rest = content;
    let mut at = 0;
    while !rest.is_empty() {
        let written = files.write_at(file, rest, at).unwrap();
        at += written as u64;
        rest = &rest[written..];
    }
    files.sync(file, Durable::Everything).unwrap();
    files.close(file);
}

fn read(files: Files, path: &str) -> Result<Vec<u8>, Errno> {
    let file = files.open(files.root(), path, &READ)?.id;
    let content = files.content(file, u64::MAX);
    files.close(file);
    content
}

fn names(files: Files, path: &str) -> Vec<String> {
    let directory = files.open(files.root(), path, &READ).unwrap().id;
    let mut names: Vec<String> = files.list(directory).unwrap().into_iter().map(|entry| entry.name).collect();
    files.close(directory);
    assert_eq!(names[..2], [".", ".."]);
    names.drain(..2);
    names.sort();
    names
}

/// Everything that can be done with a path, and what it answers.
fn every_call(files: Files, path: &str) -> Vec<(&'static str, Result<(), Errno>)> {
    let root = files.root();
    let mut open = |name, how: Open| (name, files.open(root, path, &how).map(|_| ()));
    let mut answers = vec![
        open("open to read", READ),
        open("open to read, not following", Open { last_link: LastLink::Itself, ..READ }),
        open("open to write", WRITE),
        open("open to write alone", Open { access: Access::Write, ..READ }),
        open("open and empty", Open { truncate: true, ..WRITE }),
        open("open or make", CREATE),
        open("make", Open { existence: Existence::CreatedNew, ..WRITE }),
        open("make to read", Open { existence: Existence::CreatedNew, ..READ }),
        open("open a directory", Open { kind: Kind::Directory, ..READ }),
    ];
    answers.extend([
        ("stat", files.stat_at(root, path, LastLink::Target).map(|_| ())),
        ("set times", files.set_times_at(root, path, LastLink::Target, NOW)),
        ("create directory", files.create_directory(root, path)),
        ("symlink", files.symlink("x", root, path)),
        ("link to", files.link((root, "file"), (root, path))),
        ("rename to", files.rename((root, "sub/file"), (root, path))),
        ("link from", files.link((root, path), (root, "linked"))),
        ("rename from", files.rename((root, path), (root, "renamed"))),
        ("read link", files.read_link(root, path).map(|_| ())),
        ("unlink", files.unlink(root, path)),
        ("remove directory", files.remove_directory(root, path)),
    ]);
    answers
}

#[test]
fn no_path_leads_out() {
    with_all(|files| {
        let root = files.root();
        for (name, content) in [
            ("up", "../outside"),
            ("chain1", "chain2"),
            ("chain2", "sub/../up"),
            ("sub/back", ".."),
            ("far", "sub/back/../x"),
        ] {
            files.symlink(content, root, name).unwrap();
        }
        for path in [
            "../outside/secret",
            "../outside/new",
            "sub/../../outside/secret",
            "./sub/./.././../outside/secret",
            "sub/back/../outside/secret",
            "up/secret",
            "up/new",
            "chain1/secret",
            "chain1/./new",
            "far/x",
            "/etc/passwd",
            "..",
            "sub/../..",
            "../",
            "/",
        ] {
            for (call, answer) in every_call(files, path) {
                assert_eq!(answer, Err(Errno::NotCapable), "{call} {path}");
            }
        }
        let sub = files.open(root, "sub", &READ).unwrap().id;
        assert_eq!(files.open(sub, "../file", &READ), Err(Errno::NotCapable));
        assert_eq!(files.stat_at(sub, "..", LastLink::Itself), Err(Errno::NotCapable));
        assert_eq!(files.open(sub, "back/file", &READ), Err(Errno::NotCapable));
        assert_eq!(names(files, "."), ["chain1", "chain2", "far", "file", "sub", "up"]);
        assert_eq!(read(files, "sub/file"), Ok(b"inner".to_vec()));
    });
}

#[test]
fn a_link_out_is_only_a_link() {
    with_all(|files| {
        let root = files.root();
        let content = "../outside/secret";
        files.symlink(content, root, "up").unwrap();
        for how in [READ, WRITE, CREATE, Open { truncate: true, ..WRITE }] {
            assert_eq!(files.open(root, "up", &how), Err(Errno::NotCapable), "{how:?}");
            let how = Open { last_link: LastLink::Itself, ..how };
            assert_eq!(files.open(root, "up", &how), Err(Errno::Loop), "{how:?}");
        }
        assert_eq!(files.stat_at(root, "up", LastLink::Target), Err(Errno::NotCapable));
        assert_eq!(files.set_times_at(root, "up", LastLink::Target, NOW), Err(Errno::NotCapable));
        let stat = files.stat_at(root, "up", LastLink::Itself).unwrap();
        assert_eq!((stat.kind, stat.size_bytes), (Filetype::SymbolicLink, content.len() as u64));
        files.link((root, "up"), (root, "second")).unwrap();
        assert_eq!(files.read_link(root, "second"), Ok(content.into()));
        files.unlink(root, "second").unwrap();
        files.rename((root, "up"), (root, "renamed")).unwrap();
        assert_eq!(files.read_link(root, "renamed"), Ok(content.into()));
        files.unlink(root, "renamed").unwrap();
        assert_eq!(files.symlink("/etc", root, "made"), Err(Errno::NotCapable));
        assert_eq!(files.read_link(root, "file"), Err(Errno::Inval));
    });
}

/// What the public test suite of WASI asks of names that end in slashes.
#[test]
fn trailing_slashes_mean_directories() {
    with_all(|files| {
        let root = files.root();
        assert_eq!(files.open(root, "file/", &READ), Err(Errno::NotDir));
        assert_eq!(files.open(root, "sub///", &READ).map(|opened| opened.kind), Ok(Filetype::Directory));
        assert_eq!(files.unlink(root, "file/"), Err(Errno::NotDir));
        assert_eq!(files.unlink(root, "sub"), Err(Errno::IsDir));
        assert_eq!(files.unlink(root, "sub/"), Err(Errno::IsDir));
        assert_eq!(files.remove_directory(root, "file"), Err(Errno::NotDir));
        assert_eq!(files.remove_directory(root, "file/"), Err(Errno::NotDir));
        assert_eq!(files.remove_directory(root, "sub"), Err(Errno::NotEmpty));
        assert_eq!(files.create_directory(root, "new/"), Ok(()));
        assert_eq!(files.rename((root, "new/"), (root, "other/")), Ok(()));
        assert_eq!(files.rename((root, "file/"), (root, "other2")), Err(Errno::NotDir));
        assert_eq!(files.remove_directory(root, "other/"), Ok(()));
        assert_eq!(files.symlink("file", root, "made/"), Err(Errno::NoEnt));
        assert_eq!(files.symlink("file", root, "sub/"), Err(Errno::Exist));
        assert_eq!(files.symlink("file", root, "file/"), Err(Errno::NotDir));
        assert_eq!(files.link((root, "file"), (root, "made/")), Err(Errno::NoEnt));
        assert_eq!(files.link((root, "sub"), (root, "made")), Err(Errno::Perm));
    });
}

#[test]
fn files_are_opened_as_asked() {
    with_all(|files| {
        let root = files.root();
        for (name, content) in
            [("directory-link", "sub"), ("file-link", "file"), ("loop", "loop"), ("dangling", "made")]
        {
            files.symlink(content, root, name).unwrap();
        }
        let itself = Open { last_link: LastLink::Itself, ..READ };
        let directory = Open { kind: Kind::Directory, ..READ };
        for (path, how, expected) in [
            ("loop", READ, Err(Errno::Loop)),
            ("loop", itself, Err(Errno::Loop)),
            ("file-link", itself, Err(Errno::Loop)),
            ("directory-link", Open { kind: Kind::Directory, ..itself }, Err(Errno::NotDir)),
            ("directory-link", directory, Ok(Filetype::Directory)),
            ("file-link", directory, Err(Errno::NotDir)),
            ("file-link", READ, Ok(Filetype::RegularFile)),
            ("file", directory, Err(Errno::NotDir)),
            ("file/x", READ, Err(Errno::NotDir)),
            ("none", READ, Err(Errno::NoEnt)),
            ("none/x", CREATE, Err(Errno::NoEnt)),
            ("", READ, Err(Errno::NoEnt)),
            ("sub", WRITE, Err(Errno::IsDir)),
            ("sub", Open { kind: Kind::Directory, ..WRITE }, Err(Errno::IsDir)),
            ("sub", Open { truncate: true, ..READ }, Err(Errno::IsDir)),
            ("sub", CREATE, Err(Errno::IsDir)),
            (".", directory, Ok(Filetype::Directory)),
            ("file", Open { existence: Existence::CreatedNew, ..WRITE }, Err(Errno::Exist)),
            ("dangling", READ, Err(Errno::NoEnt)),
            ("dangling", Open { existence: Existence::CreatedNew, ..WRITE }, Err(Errno::Exist)),
            ("dangling", CREATE, Ok(Filetype::RegularFile)),
            ("new", Open { existence: Existence::Created, ..READ }, Ok(Filetype::RegularFile)),
            ("fresh", Open { existence: Existence::CreatedNew, ..READ }, Ok(Filetype::RegularFile)),
        ] {
            let opened = files.open(root, path, &how).map(|opened| opened.kind);
            assert_eq!(opened, expected, "{path} {how:?}");
        }
        assert!(read(files, "made").is_ok());
        assert_eq!(files.open(root, &"x".repeat(300), &READ), Err(Errno::NameTooLong));
        assert_eq!(files.open(root, &"x/".repeat(3000), &READ), Err(Errno::NameTooLong));
        assert_eq!(files.open(OpenId(99), "file", &READ), Err(Errno::BadF));
    });
}

#[test]
fn content_is_read_written_and_appended() {
    with_all(|files| {
        let root = files.root();
        let file = files.open(root, "file", &WRITE).unwrap().id;
        let mut buffer = [0; 4];
        assert_eq!((files.read_at(file, &mut buffer, 5), &buffer), (Ok(2), b"nt\0\0"));
        assert_eq!(files.read_at(file, &mut buffer, 7), Ok(0));
        assert_eq!(files.read_at(file, &mut buffer, u64::MAX), Err(Errno::Inval));
        assert_eq!(files.write_at(file, b"CON", 0), Ok(3));
        assert_eq!(files.append(file, b"--"), Ok((2, 9)));
        let second = files.open(root, "file", &Open { truncate: true, ..WRITE }).unwrap().id;
        assert_eq!(files.write_at(second, b"longer content", 0), Ok(14));
        assert_eq!(files.append(file, b"!"), Ok((1, 15)));
        assert_eq!(read(files, "file"), Ok(b"longer content!".to_vec()));
        files.set_size(file, 3).unwrap();
        files.allocate(file, 2, 8).unwrap();
        assert_eq!(files.allocate(file, 2, 0), Err(Errno::Inval));
        assert_eq!(files.allocate(file, 1 << 62, 1 << 62), Err(Errno::FBig));
        assert_eq!(read(files, "file"), Ok(b"lon\0\0\0\0\0\0\0".to_vec()));
        files.advise(file, 0, 10, Advice::Sequential).unwrap();
        files.sync(file, Durable::Content).unwrap();
        files.sync(root, Durable::Everything).unwrap();
        files.set_times(file, SetTimes { accessed: SetTime::Keep, modified: SetTime::At(5_000_000_007) }).unwrap();
        let stat = files.stat(file).unwrap();
        assert_eq!((stat.modified_ns, stat.links, stat.size_bytes), (5_000_000_007, 1, 10));
        assert!(stat.accessed_ns > 5_000_000_007 && stat.born_ns.is_some_and(|born_ns| born_ns > 5_000_000_007));
        let times = SetTimes { accessed: SetTime::At(3), modified: SetTime::Keep };
        files.set_times_at(root, "file", LastLink::Itself, times).unwrap();
        assert_eq!(files.stat(file).map(|stat| (stat.accessed_ns, stat.modified_ns)), Ok((3, 5_000_000_007)));
        for (how, path) in [(READ, "file"), (Open { access: Access::Write, ..READ }, "file")] {
            let one = files.open(root, path, &how).unwrap().id;
            let can_read = files.read_at(one, &mut buffer, 0).is_ok();
            assert_eq!(can_read, how.access == Access::Read);
            let written = files.write_at(one, b"x", 0);
            assert_eq!(written, if can_read { Err(Errno::BadF) } else { Ok(1) });
            assert_eq!(files.append(one, b"x").is_err(), can_read);
            assert_eq!(files.set_size(one, 10), if can_read { Err(Errno::Inval) } else { Ok(()) });
        }
        let sub = files.open(root, "sub", &READ).unwrap().id;
        assert_eq!(files.read_at(sub, &mut buffer, 0), Err(Errno::IsDir));
        assert_eq!(files.write_at(sub, b"x", 0), Err(Errno::IsDir));
        assert_eq!(files.list(file), Err(Errno::NotDir));
        assert_eq!(files.stat_at(file, "x", LastLink::Itself), Err(Errno::NotDir));
        files.close(file);
        assert_eq!(files.stat(file), Err(Errno::BadF));
        files.close(root);
        assert!(files.stat(root).is_ok());
    });
}

#[test]
fn large_content_is_what_was_written() {
    with_all(|files| {
        let root = files.root();
        let mut expected = vec![];
        let file = files.open(root, "large", &CREATE).unwrap().id;
        let mut number = 1u64;
        for round in 0..60u64 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (offset, count) = ((number >> 20) % 700_000, (number >> 45) % 200_000);
            let bytes: Vec<u8> = (0..count).map(|index| (index ^ round) as u8).collect();
            let end = (offset + count) as usize;
            if expected.len() < end {
                expected.resize(end, 0);
            }
            expected[offset as usize..end].copy_from_slice(&bytes);
            assert_eq!(files.write_at(file, &bytes, offset), Ok(count as usize));
            match round % 7 {
                2 => files.sync(file, Durable::Everything).unwrap(),
                5 => {
                    let size = (number >> 33) % expected.len() as u64;
                    files.set_size(file, size).unwrap();
                    expected.truncate(size as usize);
                }
                _ => {}
            }
            let mut part = vec![0; 150_000];
            let from = (number >> 28) % 500_000;
            let read = files.read_at(file, &mut part, from).unwrap();
            let there = expected.get(from as usize..).unwrap_or_default();
            assert!(part[..read] == there[..there.len().min(150_000)], "round {round}");
        }
        assert!(files.content(file, u64::MAX).unwrap() == expected);
    });
}

#[test]
fn what_is_open_is_found_again() {
    with_all(|files| {
        let root = files.root();
        let path = |path: &str| Ok(Place::Path(path.into()));
        assert_eq!(files.locate(root), path(""));
        let file = files.open(root, "file", &WRITE).unwrap().id;
        let sub = files.open(root, "sub", &READ).unwrap().id;
        assert_eq!((files.locate(file), files.locate(sub)), (path("file"), path("sub")));
        let top = files.open(root, "sub/..", &READ).unwrap().id;
        assert_eq!(files.locate(top), path(""));
        files.rename((root, "file"), (root, "sub/renamed")).unwrap();
        files.rename((root, "sub"), (root, "moved (deleted)")).unwrap();
        assert_eq!(files.locate(file), path("moved (deleted)/renamed"));
        assert_eq!(files.locate(sub), path("moved (deleted)"));
        write(files, "file", b"other");
        assert_eq!(files.locate(file), path("moved (deleted)/renamed"));
        files.rename((sub, "renamed"), (root, "back")).unwrap();
        files.unlink(root, "back").unwrap();
        let Ok(Place::Unlinked(name)) = files.locate(file) else { panic!("it has no name") };
        assert!(name.ends_with("back"), "{name}");
        // It lives until it is closed.
        assert_eq!(files.append(file, b"!"), Ok((1, 8)));
        assert_eq!(files.stat(file).map(|stat| (stat.links, stat.size_bytes)), Ok((0, 8)));
        files.sync(file, Durable::Everything).unwrap();
        assert_eq!(files.content(file, 8), Ok(b"content!".to_vec()));
        files.unlink(sub, "file").unwrap();
        files.remove_directory(root, "moved (deleted)").unwrap();
        assert!(matches!(files.locate(sub), Ok(Place::Unlinked(_))));
        assert_eq!(files.list(sub).map(|entries| entries.len()), Ok(2));
        assert_eq!(files.create_directory(sub, "x"), Err(Errno::NoEnt));
        assert_eq!(files.open(sub, "x", &CREATE), Err(Errno::NoEnt));
    });
}

#[test]
fn files_without_names_are_made_and_read() {
    with_all(|files| {
        let root = files.root();
        let orphan = files.orphan_file(b"orphan").unwrap();
        assert!(matches!(files.locate(orphan), Ok(Place::Unlinked(_))));
        assert_eq!(files.append(orphan, b"!"), Ok((1, 7)));
        assert_eq!(files.content(orphan, 7), Ok(b"orphan!".to_vec()));
        assert_eq!(files.content(orphan, 6), Err(Errno::FBig));
        let second = files.duplicate(orphan).unwrap();
        files.close(orphan);
        assert_eq!(files.content(second, 100), Ok(b"orphan!".to_vec()));
        let file = files.open(root, "file", &Open { access: Access::Write, ..READ }).unwrap().id;
        assert_eq!(files.read_at(file, &mut [0; 4], 0), Err(Errno::BadF));
        assert_eq!(files.content(file, 100), Ok(b"content".to_vec()));
        let directory = files.orphan_directory().unwrap();
        assert_eq!(files.list(directory).map(|entries| entries.len()), Ok(2));
        assert!(matches!(files.locate(directory), Ok(Place::Unlinked(_))));
        assert_eq!(files.create_directory(directory, "x"), Err(Errno::NoEnt));
        assert_eq!(files.open(directory, "../..", &READ), Err(Errno::NotCapable));
    });
}

#[test]
fn renaming_follows_posix() {
    with_all(|files| {
        let root = files.root();
        files.create_directory(root, "empty").unwrap();
        files.create_directory(root, "sub/deep").unwrap();
        files.link((root, "file"), (root, "second")).unwrap();
        let mut rename = |from: &str, to: &str| files.rename((root, from), (root, to));
        assert_eq!(rename("none", "x"), Err(Errno::NoEnt));
        assert_eq!(rename("file", "none/x"), Err(Errno::NoEnt));
        assert_eq!(rename("sub", "sub/deep/x"), Err(Errno::Inval));
        assert_eq!(rename("sub", "sub/x"), Err(Errno::Inval));
        assert_eq!(rename("file", "sub"), Err(Errno::IsDir));
        assert_eq!(rename("sub", "file"), Err(Errno::NotDir));
        assert_eq!(rename("empty", "sub"), Err(Errno::NotEmpty));
        assert_eq!(rename("sub/file", "sub"), Err(Errno::NotEmpty));
        assert_eq!(rename("file", "file"), Ok(()));
        assert_eq!(rename("sub", "sub"), Ok(()));
        // Two names of one file: nothing happens.
        assert_eq!(rename("file", "second"), Ok(()));
        assert_eq!(rename("sub", "empty"), Ok(()));
        assert_eq!(rename("file", "empty/file"), Ok(()));
        assert_eq!(names(files, "."), ["empty", "second"]);
        assert_eq!(names(files, "empty"), ["deep", "file"]);
        assert_eq!(read(files, "empty/file"), Ok(b"content".to_vec()));
        assert_eq!(files.stat_at(root, "second", LastLink::Target).unwrap().links, 2);
        let deep = files.open(root, "empty/deep", &READ).unwrap().id;
        let above = files.stat_at(root, "empty", LastLink::Target).unwrap().inode;
        assert_eq!(files.list(deep).unwrap()[1].inode, above);
    });
}

/// Random calls give the same answers in a directory of the host and in a tree, and leave the same behind.
#[test]
fn random_calls_are_answered_as_the_host_does() {
    for seed in 0..15 {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("mounted")).unwrap();
        let mut host = HostDirectory::open(&top.path().join("mounted")).unwrap();
        let tree = Tree::open(&top.path().join("tree")).unwrap();
        let mut session = tree.session();
        let mut number: u64 = seed * 7919 + 1;
        let mut random = move |below: u64| {
            number = u64::wrapping_mul(number, 6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (number >> 33) % below
        };
        for step in 0..120 {
            let mut path = || {
                let parts = ["a", "b", "c", "d", "a", "b", "c", ".."];
                let count = 1 + random(3);
                let parts: Vec<&str> = (0..count).map(|_| parts[random(8) as usize]).collect();
                parts.join("/")
            };
            let (one, two) = (path(), path());
            let (choice, size) = (random(16), random(3) * 3000);
            let does = |files: Files| -> String {
                let root = files.root();
                match choice {
                    0..4 => {
                        let opened = files.open(root, &one, &CREATE);
                        if let Ok(opened) = opened {
                            files.write_at(opened.id, &vec![step as u8; size as usize], 0).unwrap();
                            files.close(opened.id);
                        }
                        format!("create {one}: {:?}", opened.map(|opened| opened.kind))
                    }
                    4 | 5 => format!("mkdir {one}: {:?}", files.create_directory(root, &one)),
                    6 | 7 => format!("symlink {two} {one}: {:?}", files.symlink(&two, root, &one)),
                    8 => format!("unlink {one}: {:?}", files.unlink(root, &one)),
                    9 => format!("rmdir {one}: {:?}", files.remove_directory(root, &one)),
                    10 | 11 => format!("rename {one} {two}: {:?}", files.rename((root, &one), (root, &two))),
                    12 => format!("link {one} {two}: {:?}", files.link((root, &one), (root, &two))),
                    13 => format!("read {one}: {:?}", read(files, &one).map(|content| content.len())),
                    14 => format!("readlink {one}: {:?}", files.read_link(root, &one)),
                    _ => {
                        let stat = files.stat_at(root, &one, LastLink::Target);
                        // Directories count links and bytes as each file system likes.
                        let shown = stat.map(|stat| match stat.kind {
                            Filetype::Directory => (stat.kind, 0, 0),
                            kind => (kind, stat.links, stat.size_bytes),
                        });
                        format!("stat {one}: {shown:?}")
                    }
                }
            };
            assert_eq!(does(&mut session), does(&mut host), "seed {seed} step {step}: the tree, then the host");
        }
        assert_eq!(dump(&mut session), dump(&mut host), "seed {seed}");
        let expected = dump(&mut session);
        tree.check();
        drop(session);
        drop(tree);
        let tree = Tree::open(&top.path().join("tree")).unwrap();
        assert_eq!(dump(&mut tree.session()), expected, "seed {seed} after a restart");
    }
}

/// All of a tree: kinds and content by path.
fn dump(files: Files) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut at = vec![String::from(".")];
    while let Some(directory) = at.pop() {
        let open = files.open(files.root(), &directory, &READ).unwrap().id;
        for entry in files.list(open).unwrap().split_off(2) {
            let path = format!("{directory}/{}", entry.name);
            let shown = match entry.kind {
                Filetype::Directory => {
                    at.push(path.clone());
                    "directory".into()
                }
                Filetype::SymbolicLink => format!("to {}", files.read_link(open, &entry.name).unwrap()),
                _ => {
                    let content = read(files, &path).unwrap();
                    let links = files.stat_at(open, &entry.name, LastLink::Itself).unwrap().links;
                    format!("{links} {} {:?}", content.len(), content.first())
                }
            };
            found.insert(path, shown);
        }
        files.close(open);
    }
    found
}

fn pattern(count: usize, salt: u64) -> Vec<u8> {
    (0..count as u64)
        .map(|index| (index.wrapping_mul(0x9e37_79b9).wrapping_add(salt * 0x77_7777) >> 15) as u8)
        .collect()
}

fn chunk_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for above in fs::read_dir(directory.join("chunks")).unwrap() {
        found.extend(fs::read_dir(above.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    found
}

#[test]
fn a_restart_finds_everything() {
    let top = tempfile::tempdir().unwrap();
    let large = pattern(300_000, 1);
    let (stat, device) = {
        let tree = Tree::open(top.path()).unwrap();
        let mut files = tree.session();
        let root = files.root();
        files.create_directory(root, "a").unwrap();
        files.create_directory(root, "a/b").unwrap();
        files.symlink("../large", root, "a/link").unwrap();
        write(&mut files, "large", &large);
        write(&mut files, "small", b"small");
        files.link((root, "small"), (root, "a/b/second")).unwrap();
        // Not synced by hand: ending does it.
        let open = files.open(root, "open", &CREATE).unwrap().id;
        files.write_at(open, b"open", 100_000).unwrap();
        let gone = files.open(root, "gone", &CREATE).unwrap().id;
        files.write_at(gone, &large, 0).unwrap();
        files.sync(gone, Durable::Content).unwrap();
        files.unlink(root, "gone").unwrap();
        assert_eq!(files.content(gone, u64::MAX).map(|content| content.len()), Ok(300_000));
        let times = SetTimes { accessed: SetTime::At(5), modified: SetTime::At(6) };
        files.set_times_at(root, "large", LastLink::Target, times).unwrap();
        (files.stat_at(root, "large", LastLink::Target).unwrap(), files.stat(root).unwrap().device)
    };
    let tree = Tree::open(top.path()).unwrap();
    tree.check();
    let mut files = tree.session();
    let root = files.root();
    assert_eq!(files.stat_at(root, "large", LastLink::Target), Ok(stat));
    assert_eq!(files.stat(root).map(|stat| stat.device), Ok(device));
    assert_eq!(read(&mut files, "a/link"), Err(Errno::NoEnt).or(read(&mut files, "large")));
    assert!(read(&mut files, "large").unwrap() == large);
    assert_eq!(read(&mut files, "a/b/second"), Ok(b"small".to_vec()));
    assert_eq!(files.stat_at(root, "small", LastLink::Target).unwrap().links, 2);
    assert_eq!(
        read(&mut files, "open").map(|content| (content.len(), content[100_000..].to_vec())),
        Ok((100_004, b"open".to_vec()))
    );
    assert_eq!(names(&mut files, "."), ["a", "large", "open", "small"]);
    assert!(!fs::metadata(top.path()).unwrap().permissions().readonly());
}

#[test]
fn chunks_that_nobody_needs_are_removed() {
    let top = tempfile::tempdir().unwrap();
    let tree = Tree::open(top.path()).unwrap();
    let mut files = tree.session();
    for salt in 0..50 {
        write(&mut files, "file", &pattern(220_000, salt));
    }
    write(&mut files, "same", &pattern(220_000, 49));
    tree.flush().unwrap();
    assert_eq!(chunk_files(top.path()).len(), 4, "four pages, whoever has them");
    files.unlink(files.root(), "file").unwrap();
    assert!(read(&mut files, "same").unwrap() == pattern(220_000, 49));
    files.unlink(files.root(), "same").unwrap();
    tree.flush().unwrap();
    assert_eq!(chunk_files(top.path()).len(), 0);
    write(&mut files, "kept", &pattern(100_000, 7));
    drop(files);
    drop(tree);
    // What a crash left behind.
    fs::write(top.path().join("chunks/tmp/17"), "half").unwrap();
    fs::write(top.path().join("chunks/ab").join("0".repeat(62)), "nobody's").unwrap();
    let tree = Tree::open(top.path()).unwrap();
    let swept = tree.view().swept;
    assert_eq!((swept.kept, swept.removed, swept.removed_bytes), (2, 2, 12));
    assert_eq!(chunk_files(top.path()).len(), 2);
    assert!(read(&mut tree.session(), "kept").unwrap() == pattern(100_000, 7));
}

#[test]
fn damage_is_named_and_hurts_only_what_it_hit() {
    let top = tempfile::tempdir().unwrap();
    {
        let tree = Tree::open(top.path()).unwrap();
        let mut files = tree.session();
        write(&mut files, "hit", &pattern(65_536, 1));
        write(&mut files, "well", b"well");
    }
    let chunk = chunk_files(top.path()).remove(0);
    let mut bytes = fs::read(&chunk).unwrap();
    bytes[1000] ^= 4;
    fs::write(&chunk, &bytes).unwrap();
    {
        let tree = Tree::open(top.path()).unwrap();
        let mut files = tree.session();
        assert_eq!(read(&mut files, "hit"), Err(Errno::Io));
        assert_eq!(read(&mut files, "well"), Ok(b"well".to_vec()));
        let complaints = tree.view().complaints;
        assert!(complaints[0].contains(&chunk.display().to_string()), "{complaints:?}");
        assert!(complaints[0].contains("damaged"), "{complaints:?}");
        // What would rest on the damaged bytes is not written; what replaces them all is.
        let file = files.open(files.root(), "hit", &WRITE).unwrap().id;
        assert_eq!(files.write_at(file, b"x", 5), Err(Errno::Io));
        assert_eq!(files.write_at(file, &pattern(65_536, 2), 0), Ok(65_536));
        files.close(file);
        assert!(read(&mut files, "hit").unwrap() == pattern(65_536, 2));
    }
    for chunk in chunk_files(top.path()) {
        fs::remove_file(chunk).unwrap();
    }
    let tree = Tree::open(top.path()).unwrap();
    assert_eq!(read(&mut tree.session(), "hit"), Err(Errno::Io));
    assert!(tree.view().complaints[0].contains("missing"));
}

#[test]
fn damaged_facts_are_refused_with_the_reason() {
    let top = tempfile::tempdir().unwrap();
    {
        let tree = Tree::open(&top.path().join("whole")).unwrap();
        let mut files = tree.session();
        for index in 0..100 {
            write(&mut files, &format!("file{index}"), b"content");
        }
    }
    let whole = fs::read(top.path().join("whole/facts.redb")).unwrap();
    let opened = |bytes: &[u8]| {
        let directory = top.path().join("damaged");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("facts.redb"), bytes).unwrap();
        Tree::open(&directory).map(|tree| tree.view().inodes)
    };
    assert_eq!(opened(&whole).unwrap(), 101);
    for length in [1, 9, 100, 4096, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        let Err(error) = opened(&whole[..length]) else { panic!("{length} bytes of {} were a tree", whole.len()) };
        assert!(matches!(error, TreeError::Facts(FactsError::Damaged { .. })), "{length}: {error:?}");
        assert!(error.to_string().contains("facts.redb"), "{error}");
    }
    // Anything but a panic, and no tree that is not one.
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        if let Err(error) = opened(&bytes) {
            assert!(error.to_string().contains("damaged"), "{at}: {error}");
        }
    }
}

#[test]
fn a_tree_is_one_node_s() {
    let top = tempfile::tempdir().unwrap();
    let tree = Tree::open(top.path()).unwrap();
    let Err(error) = Tree::open(top.path()) else { panic!("it was opened twice") };
    assert!(matches!(error, TreeError::Facts(FactsError::Locked { .. })), "{error:?}");
    assert!(error.to_string().contains("another process"), "{error}");
    drop(tree);
    assert!(Tree::open(top.path()).is_ok());
}

#[test]
fn many_threads_share_the_tree() {
    let top = tempfile::tempdir().unwrap();
    let tree = Tree::open(top.path()).unwrap();
    write(&mut tree.session(), "shared", &[0; 130_000]);
    write(&mut tree.session(), "log", b"");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Readers see one write or another, and never a mixture, while chunks come and go under them.
        for _ in 0..2 {
            scope.spawn(|| {
                let mut files = tree.session();
                while !done.load(Ordering::Relaxed) {
                    let content = read(&mut files, "shared").unwrap();
                    assert_eq!(content.len(), 130_000);
                    assert!(content.iter().all(|byte| *byte == content[0]), "two writes are mixed");
                }
            });
        }
        let workers: Vec<_> = (0..8u8)
            .map(|worker| {
                let tree = &tree;
                scope.spawn(move || {
                    let mut files = tree.session();
                    let root = files.root();
                    let log = files.open(root, "log", &WRITE).unwrap().id;
                    let shared = files.open(root, "shared", &WRITE).unwrap().id;
                    for round in 0..30u8 {
                        let name = format!("{worker}-{round}");
                        write(&mut files, &name, &pattern(5000, round as u64));
                        files.rename((root, &name), (root, &format!("{worker}-last"))).unwrap();
                        assert_eq!(files.append(log, &[b'a' + worker; 100]).unwrap().0, 100);
                        assert_eq!(files.write_at(shared, &vec![worker * 30 + round; 130_000], 0), Ok(130_000));
                        if round % 5 == 0 {
                            files.sync(shared, Durable::Content).unwrap();
                        }
                    }
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    tree.check();
    let mut files = tree.session();
    let log = read(&mut files, "log").unwrap();
    assert_eq!(log.len(), 8 * 30 * 100);
    for line in log.chunks(100) {
        assert!(line.iter().all(|byte| *byte == line[0]), "two lines are mixed");
    }
    assert_eq!(names(&mut files, ".").len(), 10);
    let view = tree.view();
    assert!(view.complaints.is_empty(), "{:?}", view.complaints);
    drop(files);
    drop(tree);
    let tree = Tree::open(top.path()).unwrap();
    for worker in 0..8 {
        assert!(read(&mut tree.session(), &format!("{worker}-last")).unwrap() == pattern(5000, 29));
    }
}

/// A file is written anew again and again, and what was in it before is thrown away at once, while others read it from the disk.
#[test]
fn readers_find_their_chunks_while_others_go() {
    let top = tempfile::tempdir().unwrap();
    let chunks = ChunkOptions { cache_bytes_max: 0, ..ChunkOptions::NORMAL };
    let tree = Tree::open_with(top.path(), TreeOptions { chunks, ..TreeOptions::NORMAL }).unwrap();
    write(&mut tree.session(), "shared", &[0; 130_000]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut files = tree.session();
                    let file = files.open(files.root(), "shared", &READ).unwrap().id;
                    let mut content = vec![0; 130_000];
                    while !done.load(Ordering::Relaxed) {
                        assert_eq!(files.read_at(file, &mut content, 0), Ok(130_000));
                        assert!(content.iter().all(|byte| *byte == content[0]), "two writes are mixed");
                    }
                })
            })
            .collect();
        let mut files = tree.session();
        let file = files.open(files.root(), "shared", &WRITE).unwrap().id;
        for round in 0..400u32 {
            assert_eq!(files.write_at(file, &vec![round as u8; 130_000], 0), Ok(130_000));
            files.sync(file, Durable::Content).unwrap();
            tree.flush().unwrap();
            if readers.iter().any(|reader| reader.is_finished()) {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(readers.into_iter().map(|reader| reader.join()).all(|result| result.is_ok()));
    });
    tree.check();
}

#[test]
fn what_is_only_in_memory_has_a_bound() {
    let top = tempfile::tempdir().unwrap();
    let tree = Tree::open_with(top.path(), TreeOptions { dirty_bytes_max: 1 << 20, ..TreeOptions::NORMAL }).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..3u64 {
            let tree = &tree;
            scope.spawn(move || {
                let mut files = tree.session();
                let root = files.root();
                let file = files.open(root, &format!("{worker}"), &CREATE).unwrap().id;
                if worker == 0 {
                    // What has no name is not recorded, but must get out of memory all the same.
                    files.unlink(root, "0").unwrap();
                }
                let content = pattern(6 << 20, worker);
                for (index, part) in content.chunks(100_000).enumerate() {
                    assert_eq!(files.append(file, part).unwrap().0, part.len());
                    let dirty_bytes = tree.view().dirty_bytes;
                    assert!(dirty_bytes <= (1 << 20) + 3 * 200_000, "{dirty_bytes} at {index}");
                }
                assert!(files.content(file, u64::MAX).unwrap() == content);
            });
        }
    });
    tree.check();
    drop(tree);
    let tree = Tree::open(top.path()).unwrap();
    for worker in 1..3 {
        assert!(read(&mut tree.session(), &format!("{worker}")).unwrap() == pattern(6 << 20, worker));
    }
}

#[test]
fn appends_do_not_meet() {
    let top = tempfile::tempdir().unwrap();
    let tree = Tree::open(top.path()).unwrap();
    write(&mut tree.session(), "log", b"");
    std::thread::scope(|scope| {
        for worker in 0..4u8 {
            let tree = &tree;
            scope.spawn(move || {
                let mut files = tree.session();
                let log = files.open(files.root(), "log", &WRITE).unwrap().id;
                for _ in 0..20_000 {
                    assert_eq!(files.append(log, &[b'a' + worker; 10]).unwrap().0, 10);
                }
            });
        }
    });
    let log = read(&mut tree.session(), "log").unwrap();
    for worker in 0..4u8 {
        let lines = log.chunks(10).filter(|line| **line == [b'a' + worker; 10]).count();
        assert_eq!(lines, 20_000, "lines of {worker} are lost or mixed");
    }
}

#[test]
fn a_disk_without_room_refuses_content_and_lets_it_be_removed() {
    let top = tempfile::tempdir().unwrap();
    write(&mut Tree::open(top.path()).unwrap().session(), "old", &pattern(100_000, 1));
    let chunks = ChunkOptions { spare_bytes: 1 << 60, ..ChunkOptions::NORMAL };
    let tree = Tree::open_with(top.path(), TreeOptions { chunks, ..TreeOptions::NORMAL }).unwrap();
    let mut files = tree.session();
    let root = files.root();
    let file = files.open(root, "old", &WRITE).unwrap().id;
    assert_eq!(files.write_at(file, b"x", 0), Err(Errno::NoSpc));
    assert_eq!(files.allocate(file, 0, 100), Err(Errno::NoSpc));
    assert!(read(&mut files, "old").unwrap() == pattern(100_000, 1));
    files.unlink(root, "old").unwrap();
    assert!(tree.view().complaints[0].contains("full"));
}

/// Runs one of the ignored tests below in a process of its own, which may be limited or killed.
fn child(name: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .env("UNA_TEST_DIRECTORY", directory);
    command.stdin(Stdio::null());
    command
}

fn child_directory() -> Option<PathBuf> {
    std::env::var_os("UNA_TEST_DIRECTORY").map(PathBuf::from)
}

#[test]
fn a_full_disk_takes_back_what_it_cannot_keep() {
    let top = tempfile::tempdir().unwrap();
    let output = child("child_fills_the_disk", top.path()).output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("it was full"));
}

/// Files of the process may not grow beyond a bound: facts cannot be written, then they can again.
#[test]
#[ignore = "run by a_full_disk_takes_back_what_it_cannot_keep"]
fn child_fills_the_disk() {
    let Some(directory) = child_directory() else { return };
    let tree = Tree::open(&directory).unwrap();
    let mut files = tree.session();
    let root = files.root();
    let limit = |bytes: u64| {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the structure is whole and outlives the call; the signal is only ignored.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        }
    };
    let length = fs::metadata(directory.join("facts.redb")).unwrap().len();
    limit(length);
    let mut made = vec![];
    let name = |index: usize| format!("{index:05}-{}", "x".repeat(200));
    let refused = (0..100_000).find_map(|index| match files.create_directory(root, &name(index)) {
        Ok(()) => {
            made.push(name(index));
            None
        }
        Err(errno) => Some((index, errno)),
    });
    let (index, errno) = refused.expect("the file did not grow");
    assert_eq!(errno, Errno::NoSpc);
    println!("{:?}", tree.view().complaints);
    // Nothing of what was refused can be seen, and what was not can.
    assert_eq!(files.stat_at(root, &name(index), LastLink::Itself), Err(Errno::NoEnt));
    assert_eq!(names(&mut files, "."), made);
    tree.check();
    println!("it was full after {index}");
    limit(libc::RLIM_INFINITY);
    files.create_directory(root, &name(index)).unwrap();
    made.push(name(index));
    assert_eq!(names(&mut files, "."), made);
    tree.check();
    drop(files);
    drop(tree);
    let tree = Tree::open(&directory).unwrap();
    assert_eq!(names(&mut tree.session(), "."), made);
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let top = tempfile::tempdir().unwrap();
    drop(Tree::open(&top.path().join("tree")).unwrap());
    fs::set_permissions(top.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let facts = top.path().join("tree/facts.redb");
    fs::set_permissions(top.path().join("tree"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(&facts, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let output = child("child_may_not", top.path()).output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("may not be read"));
}

#[test]
#[ignore = "run by a_directory_of_somebody_else_is_refused"]
fn child_may_not() {
    let Some(directory) = child_directory() else { return };
    // SAFETY: changes who this process is, and nothing else runs in it. It fails for who is nobody special already.
    unsafe { libc::setresuid(65534, 65534, 65534) };
    let Err(error) = Tree::open(&directory.join("tree")) else { panic!("it was opened") };
    assert!(matches!(error, TreeError::Facts(FactsError::Denied { .. })), "{error:?}");
    println!("{error}");
    let Err(error) = Tree::open(&directory.join("tree/other")) else { panic!("it was made") };
    assert!(matches!(error, TreeError::Directory { .. }), "{error:?}");
}

/// A process is killed at any moment while it works and says what was acknowledged. All of that is there afterwards.
#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    let top = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..25u64 {
        let mut process = child("child_works_until_killed", top.path())
            .env("UNA_TEST_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // By how much was said, and not by time; where in the next act it is then, is chance.
        let until = (round * 37) % 120 + 1;
        let mut said = vec![];
        while said.len() < until as usize {
            let line = lines.next().expect("it works until it is killed").unwrap();
            said.extend(line.split_once("> ").map(|(_, line)| line.to_string()));
        }
        process.kill().unwrap();
        process.wait().unwrap();
        // What it had said before it was killed, and nobody had read yet.
        said.extend(lines.map_while(Result::ok).filter_map(|line| Some(line.split_once("> ")?.1.to_string())));
        acknowledged += said.len();
        judge(top.path(), round, &said);
    }
    assert!(acknowledged > 1000, "{acknowledged}");
}

/// Works with four threads, each in a directory of its own, and says what it does and what is done.
#[test]
#[ignore = "run by a_kill_loses_nothing_that_was_acknowledged"]
fn child_works_until_killed() {
    let Some(directory) = child_directory() else { return };
    let round: u64 = std::env::var("UNA_TEST_ROUND").unwrap().parse().unwrap();
    let tree = Tree::open(&directory).unwrap();
    let say = |text: String| {
        // One write per line, so that a line is whole or not there.
        let mut out = std::io::stdout().lock();
        out.write_all(format!("> {text}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    };
    std::thread::scope(|scope| {
        for worker in 0..4u64 {
            let (tree, say) = (&tree, &say);
            scope.spawn(move || {
                let mut files = tree.session();
                let root = files.root();
                let top = format!("{round}-{worker}");
                files.create_directory(root, &top).unwrap();
                say(format!("mkdir {top}"));
                let content = files.open(root, &format!("{top}/content"), &CREATE).unwrap().id;
                let size = [3000, 70_000, 200_000, 10][worker as usize];
                for step in 0..u64::MAX {
                    let name = format!("{top}/{step}");
                    let file = files.open(root, &name, &CREATE).unwrap().id;
                    say(format!("create {name}"));
                    files.close(file);
                    // All of it changes, and then it is made durable.
                    files.write_at(content, &pattern(size, step), 0).unwrap();
                    say(format!("write {top} {step}"));
                    files.sync(content, Durable::Content).unwrap();
                    say(format!("sync {top} {step}"));
                    match step % 3 {
                        0 => {
                            say(format!("renaming {name}"));
                            files.rename((root, &name), (root, &format!("{name}-renamed"))).unwrap();
                            say(format!("rename {name}"));
                        }
                        1 => {
                            say(format!("unlinking {name}"));
                            files.unlink(root, &name).unwrap();
                            say(format!("unlink {name}"));
                        }
                        _ => {}
                    }
                }
            });
        }
    });
}

/// Looks whether what was said is so.
fn judge(directory: &Path, round: u64, said: &[String]) {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Is {
        There,
        Renamed,
        Gone,
        ThereOrRenamed,
        ThereOrGone,
    }
    let tree = Tree::open(directory).unwrap();
    tree.check();
    let mut files = tree.session();
    let root = files.root();
    let mut is: BTreeMap<String, Is> = BTreeMap::new();
    let mut written: BTreeMap<String, (Option<u64>, Option<u64>)> = BTreeMap::new();
    for line in said {
        let words: Vec<&str> = line.split(' ').collect();
        let name = words[1].to_string();
        match words[0] {
            "mkdir" => drop(written.insert(name, (None, None))),
            "create" => drop(is.insert(name, Is::There)),
            "renaming" => drop(is.insert(name, Is::ThereOrRenamed)),
            "rename" => drop(is.insert(name, Is::Renamed)),
            "unlinking" => drop(is.insert(name, Is::ThereOrGone)),
            "unlink" => drop(is.insert(name, Is::Gone)),
            "write" => written.get_mut(&name).unwrap().0 = Some(words[2].parse().unwrap()),
            "sync" => written.get_mut(&name).unwrap().1 = Some(words[2].parse().unwrap()),
            other => panic!("{other}"),
        }
    }
    for (name, is) in &is {
        let mut exists = |name: &str| files.stat_at(root, name, LastLink::Itself).is_ok();
        let found = match (exists(name), exists(&format!("{name}-renamed"))) {
            (true, false) => Is::There,
            (false, true) => Is::Renamed,
            (false, false) => Is::Gone,
            (true, true) => panic!("{name} is renamed by half"),
        };
        let may = match is {
            Is::ThereOrRenamed => [Is::There, Is::Renamed],
            Is::ThereOrGone => [Is::There, Is::Gone],
            _ => [*is, *is],
        };
        assert!(may.contains(&found), "round {round}: {name} ought to be {is:?} and is {found:?}");
    }
    for (top, (_, synced)) in &written {
        let worker: usize = top.rsplit('-').next().unwrap().parse().unwrap();
        let size = [3000, 70_000, 200_000, 10][worker];
        let Ok(content) = read(&mut files, &format!("{top}/content")) else {
            assert_eq!(*synced, None, "round {round}: {top}/content is gone");
            continue;
        };
        if content.is_empty() {
            assert_eq!(*synced, None, "round {round}: {top}/content is empty");
            continue;
        }
        // What was synced last, or what was just being synced: whole, and nothing older.
        let first = synced.unwrap_or(0);
        let is_one = (first..first + 3).any(|step| content == pattern(size, step));
        assert!(
            is_one,
            "round {round}: {top}/content is neither what was synced nor what was being synced ({synced:?})"
        );
    }
}
