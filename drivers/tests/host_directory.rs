//! A mounted host directory: nothing leads out of it, whatever the host does in it meanwhile. What it has in common with other trees is
//! tried over all of them, in `daemon/tests/files.rs`.

use abi::errno::Errno;
use abi::file::*;
use abi::wasi::Filetype;
use drivers::HostDirectory;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A directory to mount, with a secret beside it.
struct Place {
    top: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("mounted/sub")).unwrap();
        fs::create_dir(top.path().join("outside")).unwrap();
        fs::write(top.path().join("outside/secret"), "secret").unwrap();
        fs::write(top.path().join("mounted/file"), "content").unwrap();
        fs::write(top.path().join("mounted/sub/file"), "inner").unwrap();
        Place { top }
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.top.path().join("mounted").join(path)
    }

    fn outside(&self, path: &str) -> PathBuf {
        self.top.path().join("outside").join(path)
    }

    fn mount(&self) -> HostDirectory {
        HostDirectory::open(&self.inside("")).unwrap()
    }

    fn mount_read_only(&self) -> HostDirectory {
        HostDirectory::open_read_only(&self.inside("")).unwrap()
    }
}

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

fn read(files: &mut HostDirectory, path: &str) -> Result<Vec<u8>, Errno> {
    let file = files.open(files.root(), path, &READ)?.id;
    let mut buffer = vec![0; 100];
    let read = files.read_at(file, &mut buffer, 0)?;
    files.close(file);
    buffer.truncate(read);
    Ok(buffer)
}

/// Everything that can be done with a path, and what it answers.
fn every_call(files: &mut HostDirectory, path: &str) -> Vec<(&'static str, Result<(), Errno>)> {
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

/// Paths that name something outside. All of them fail, and outside nothing changes.
#[test]
fn no_path_leads_out() {
    let place = Place::new();
    let outside = place.outside("secret");
    symlink("../outside", place.inside("up")).unwrap();
    symlink(place.outside(""), place.inside("absolute")).unwrap();
    symlink("/", place.inside("top")).unwrap();
    symlink("chain2", place.inside("chain1")).unwrap();
    symlink("sub/../up", place.inside("chain2")).unwrap();
    symlink("/proc/self/root", place.inside("magic")).unwrap();
    symlink("/proc/self/cwd", place.inside("cwd")).unwrap();
    symlink("..", place.inside("sub/back")).unwrap();
    let absolute = outside.to_str().unwrap();
    let paths = [
        "../outside/secret".to_string(),
        "../outside/new".to_string(),
        "sub/../../outside/secret".into(),
        "./sub/./.././../outside/secret".into(),
        "sub/back/../outside/secret".into(),
        "up/secret".into(),
        "up/new".into(),
        "absolute/secret".into(),
        "chain1/secret".into(),
        "chain1/./new".into(),
        format!("top{absolute}"),
        format!("magic{absolute}"),
        "cwd/Cargo.toml".into(),
        absolute.into(),
        "/etc/passwd".into(),
        "..".into(),
        "sub/../..".into(),
        "../".into(),
        "/".into(),
    ];
    let mut files = place.mount();
    for path in &paths {
        for (call, answer) in every_call(&mut files, path) {
            assert_eq!(answer, Err(Errno::NotCapable), "{call} {path}");
        }
    }
    let listing: Vec<_> = fs::read_dir(place.outside("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(listing, ["secret"]);
    assert_eq!(fs::read_to_string(&outside).unwrap(), "secret");
    assert_ne!(fs::metadata(&outside).unwrap().mtime(), 0);
    assert_eq!(fs::read_to_string(place.inside("sub/file")).unwrap(), "inner");
}

/// Links whose last name leads out: the link itself may be looked at, renamed and removed; what it names may not be reached.
#[test]
fn a_link_out_is_only_a_link() {
    let place = Place::new();
    let mut files = place.mount();
    let root = files.root();
    for (name, content) in
        [("up", "../outside/secret".to_string()), ("abs", place.outside("secret").to_str().unwrap().into())]
    {
        symlink(&content, place.inside(name)).unwrap();
        for how in [READ, WRITE, CREATE, Open { truncate: true, ..WRITE }] {
            assert_eq!(files.open(root, name, &how), Err(Errno::NotCapable), "{name} {how:?}");
            let how = Open { last_link: LastLink::Itself, ..how };
            assert_eq!(files.open(root, name, &how), Err(Errno::Loop), "{name} {how:?}");
        }
        assert_eq!(files.stat_at(root, name, LastLink::Target), Err(Errno::NotCapable));
        assert_eq!(files.set_times_at(root, name, LastLink::Target, NOW), Err(Errno::NotCapable));
        assert_eq!(files.stat_at(root, name, LastLink::Itself).unwrap().kind, Filetype::SymbolicLink);
        assert_eq!(files.read_link(root, name), Ok(content.clone()));
        // A new name for the link is a name for the link.
        files.link((root, name), (root, "second")).unwrap();
        assert_eq!(files.read_link(root, "second"), Ok(content.clone()));
        files.unlink(root, "second").unwrap();
        files.rename((root, name), (root, "renamed")).unwrap();
        files.unlink(root, "renamed").unwrap();
    }
    // Making a file through a link that dangles outside makes nothing there.
    symlink("../outside/new", place.inside("dangling")).unwrap();
    assert_eq!(files.open(root, "dangling", &CREATE), Err(Errno::NotCapable));
    assert!(!place.outside("new").exists());
    assert_eq!(fs::read_to_string(place.outside("secret")).unwrap(), "secret");
    assert_eq!(files.symlink("/etc", root, "made"), Err(Errno::NotCapable));
}

#[test]
fn a_directory_that_is_open_leads_nowhere_when_it_is_moved_out() {
    let place = Place::new();
    let mut files = place.mount();
    let sub = files.open(files.root(), "sub", &READ).unwrap().id;
    assert_eq!(files.open(sub, "../file", &READ), Err(Errno::NotCapable));
    fs::rename(place.inside("sub"), place.outside("sub")).unwrap();
    assert_eq!(files.open(sub, "../secret", &READ), Err(Errno::NotCapable));
    assert_eq!(files.stat_at(sub, "..", LastLink::Itself), Err(Errno::NotCapable));
    let Ok(abi::file::Place::Elsewhere(name)) = files.locate(sub) else { panic!("it is outside") };
    assert_eq!(Path::new(&name), place.outside("sub").canonicalize().unwrap());
}

/// Somebody swaps a directory and a link out of the tree as fast as he can, while files below that name are opened.
#[test]
fn a_swap_at_the_wrong_moment_leads_nowhere() {
    let place = Place::new();
    fs::create_dir(place.inside("swapped")).unwrap();
    fs::write(place.inside("swapped/secret"), "public").unwrap();
    symlink("../outside", place.inside("link")).unwrap();
    let (swapped, link) = (place.inside("swapped"), place.inside("link"));
    let done = AtomicBool::new(false);
    /// Ends the swapping also when the test fails.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (mut opened, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let _done = Done(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &swapped, rustix::fs::CWD, &link, flags).unwrap();
            }
        });
        let mut files = place.mount();
        let root = files.root();
        // Until both have been seen often: how often is chance, what is seen is not.
        while opened < 500 || refused < 500 {
            match read(&mut files, "swapped/secret") {
                Ok(content) => {
                    assert_eq!(content, b"public");
                    opened += 1;
                }
                Err(error) => {
                    assert_eq!(error, Errno::NotCapable);
                    refused += 1;
                }
            }
            let _ = files.open(root, "swapped/new", &CREATE).map(|opened| files.close(opened.id));
            let _ = files.unlink(root, "swapped/new");
            let _ = files.create_directory(root, "swapped/directory");
            let _ = files.rename((root, "swapped/directory"), (root, "swapped/other"));
            let _ = files.remove_directory(root, "swapped/other");
        }
    });
    let listing: Vec<_> = fs::read_dir(place.outside("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(listing, ["secret"]);
}

#[test]
fn a_read_only_directory_refuses_every_change() {
    let place = Place::new();
    symlink("file", place.inside("link")).unwrap();
    let before = fs::metadata(place.inside("file")).unwrap().mtime_nsec();
    let mut files = place.mount_read_only();
    let root = files.root();
    assert_eq!(read(&mut files, "file"), Ok(b"content".to_vec()));
    assert_eq!(files.open(root, "file", &WRITE), Err(Errno::RoFs));
    assert_eq!(files.open(root, "file", &Open { truncate: true, ..READ }), Err(Errno::RoFs));
    assert_eq!(files.open(root, "file", &Open { existence: Existence::CreatedNew, ..WRITE }), Err(Errno::Exist));
    assert_eq!(files.open(root, "new", &CREATE), Err(Errno::RoFs));
    assert_eq!(files.open(root, "new", &Open { existence: Existence::Created, ..READ }), Err(Errno::RoFs));
    assert_eq!(files.open(root, "new", &WRITE), Err(Errno::NoEnt));
    assert_eq!(files.open(root, "sub", &WRITE), Err(Errno::IsDir));
    assert!(files.open(root, "file", &Open { existence: Existence::Created, ..READ }).is_ok());
    let file = files.open(root, "file", &READ).unwrap().id;
    let refusals = [
        files.set_size(file, 0),
        files.set_times(file, NOW),
        files.allocate(file, 0, 1),
        files.set_times_at(root, "file", LastLink::Target, NOW),
        files.create_directory(root, "new"),
        files.remove_directory(root, "sub"),
        files.unlink(root, "file"),
        files.rename((root, "file"), (root, "new")),
        files.link((root, "file"), (root, "new")),
        files.symlink("file", root, "new"),
    ];
    assert_eq!(refusals, [Err(Errno::RoFs); 10]);
    assert_eq!(files.write_at(file, b"x", 0), Err(Errno::BadF));
    assert_eq!(files.append(file, b"x"), Err(Errno::BadF));
    assert_eq!(files.read_link(root, "link"), Ok("file".into()));
    assert_eq!(files.list(root).unwrap().len(), 5);
    // A file without a name is nowhere, and so no change.
    let orphan = files.orphan_file(b"orphan").unwrap();
    assert_eq!(files.stat(orphan).map(|stat| (stat.size_bytes, stat.links)), Ok((6, 0)));
    assert_eq!(fs::metadata(place.inside("file")).unwrap().mtime_nsec(), before);
    assert_eq!(fs::read_dir(place.inside("")).unwrap().count(), 3);
}

#[test]
fn a_file_that_nobody_may_write_is_read_by_whoever_would_have_made_it() {
    let place = Place::new();
    let mut files = place.mount();
    let mut permissions = fs::metadata(place.inside("file")).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o444);
    fs::set_permissions(place.inside("file"), permissions).unwrap();
    assert!(files.open(files.root(), "file", &Open { existence: Existence::Created, ..READ }).is_ok());
    assert_eq!(fs::read(place.inside("file")).unwrap(), b"content");
}

#[test]
fn a_pipe_in_the_tree_makes_nobody_wait() {
    let place = Place::new();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, place.inside("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(fs::metadata(place.inside("pipe")).unwrap().file_type().is_fifo());
    let mut files = place.mount();
    assert_eq!(files.open(files.root(), "pipe", &READ), Err(Errno::NotSup));
    assert_eq!(files.stat_at(files.root(), "pipe", LastLink::Itself).unwrap().kind, Filetype::Unknown);
}

#[test]
fn content_is_what_the_host_sees_and_changes() {
    let place = Place::new();
    let mut files = place.mount();
    let file = files.open(files.root(), "file", &WRITE).unwrap().id;
    fs::write(place.inside("file"), "longer content").unwrap();
    assert_eq!(files.append(file, b"!"), Ok((1, 15)));
    assert_eq!(fs::read_to_string(place.inside("file")).unwrap(), "longer content!");
    let (stat, metadata) = (files.stat(file).unwrap(), fs::metadata(place.inside("file")).unwrap());
    assert_eq!((stat.device, stat.inode, stat.links), (metadata.dev(), metadata.ino(), 1));
}

#[test]
fn a_listing_is_whole_and_keeps_what_is_above_to_itself() {
    let place = Place::new();
    symlink("file", place.inside("link")).unwrap();
    fs::write(place.inside("na\u{ef}ve"), "").unwrap();
    fs::write(place.inside("").join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff")), "")
        .unwrap();
    let mut files = place.mount();
    let entries = files.list(files.root()).unwrap();
    let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names[..2], [".", ".."]);
    let mut names = names[2..].to_vec();
    names.sort();
    assert_eq!(names, ["file", "link", "na\u{ef}ve", "sub"]);
    let root = fs::metadata(place.inside("")).unwrap().ino();
    assert_eq!((entries[0].inode, entries[1].inode), (root, root));
    let kind = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap().kind;
    assert_eq!(
        (kind("file"), kind("link"), kind("sub")),
        (Filetype::RegularFile, Filetype::SymbolicLink, Filetype::Directory)
    );
    let sub = files.open(files.root(), "sub", &READ).unwrap().id;
    assert_eq!(files.list(sub).unwrap()[1].inode, root);
    let file = files.open(files.root(), "file", &READ).unwrap().id;
    assert_eq!(files.list(file), Err(Errno::NotDir));
}

#[test]
fn what_is_open_is_found_again() {
    let place = Place::new();
    let mut files = place.mount();
    let root = files.root();
    let path = |path: &str| Ok(abi::file::Place::Path(path.into()));
    assert_eq!(files.locate(root), path(""));
    let file = files.open(root, "file", &WRITE).unwrap().id;
    let sub = files.open(root, "sub", &READ).unwrap().id;
    assert_eq!((files.locate(file), files.locate(sub)), (path("file"), path("sub")));
    let top = files.open(root, "sub/..", &READ).unwrap().id;
    assert_eq!(files.locate(top), path(""));
    // Wherever they are moved, and by whom.
    fs::rename(place.inside("file"), place.inside("sub/renamed")).unwrap();
    files.rename((root, "sub"), (root, "moved (deleted)")).unwrap();
    assert_eq!(files.locate(file), path("moved (deleted)/renamed"));
    assert_eq!(files.locate(sub), path("moved (deleted)"));
    // Another file in its old place is not it.
    fs::write(place.inside("file"), "other").unwrap();
    assert_eq!(files.locate(file), path("moved (deleted)/renamed"));
    fs::rename(place.inside("moved (deleted)/renamed"), place.outside("file")).unwrap();
    assert!(matches!(files.locate(file), Ok(abi::file::Place::Elsewhere(_))));
    fs::rename(place.outside("file"), place.inside("back")).unwrap();
    assert_eq!(files.locate(file), path("back"));
    // A second name keeps it alive, but is not known.
    files.link((root, "back"), (root, "second")).unwrap();
    files.unlink(root, "back").unwrap();
    assert!(matches!(files.locate(file), Ok(abi::file::Place::Elsewhere(_))));
    files.unlink(root, "second").unwrap();
    // This is what Linux calls it now.
    fs::write(place.inside("back (deleted)"), "another").unwrap();
    let Ok(abi::file::Place::Unlinked(name)) = files.locate(file) else { panic!("it has no name") };
    assert_eq!(
        Path::new(&name),
        place.inside("back").canonicalize().unwrap_or(fs::canonicalize(place.inside("")).unwrap().join("back"))
    );
    fs::remove_dir_all(place.inside("moved (deleted)")).unwrap();
    assert!(matches!(files.locate(sub), Ok(abi::file::Place::Unlinked(_))));
    assert_eq!(files.list(sub).map(|entries| entries.len()), Ok(2));
}
