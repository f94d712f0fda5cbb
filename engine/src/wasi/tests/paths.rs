//! Names: making, moving, removing, linking, and what is wrong with them.

use super::*;

#[test]
fn paths_stay_below_their_directory() {
    let world = World::new();
    std::fs::create_dir_all(world.path("dir/nested")).unwrap();
    std::fs::write(world.path("dir/nested/file"), "content").unwrap();
    std::fs::write(world.directory.path().join("secret"), "secret").unwrap();
    let mut guest = world.guest();
    let open = |guest: &mut Guest, path: &str| guest.open(DATA, path, 0, Rights::NONE).map(|fd| guest.close(fd));
    assert_eq!(open(&mut guest, "dir/.//nested/../../dir/nested/../nested///./file"), Ok(Ok(())));
    for (path, expected) in [
        ("/dir/nested/file", Errno::NotCapable),
        ("dir/nested/../../../secret", Errno::NotCapable),
        ("../secret", Errno::NotCapable),
        ("..", Errno::NotCapable),
        ("/", Errno::NotCapable),
        ("dir/nested/file\0", Errno::Inval),
        ("dir/nested/file/", Errno::NotDir),
        ("dir/nested/file///", Errno::NotDir),
        ("dir/none", Errno::NoEnt),
        ("none/file", Errno::NoEnt),
        ("", Errno::NoEnt),
    ] {
        assert_eq!(open(&mut guest, path).map(|_| ()), Err(expected), "{path:?}");
    }
    for path in ["dir/nested/", "dir/nested///", ".", "./", "dir/.."] {
        assert_eq!(open(&mut guest, path), Ok(Ok(())), "{path}");
    }
    guest.put(TEXT, b"\xff\xfe");
    let bad = guest.call(|system, memory| system.path_open(memory, DATA, 0, TEXT, 2, 0, 0, 0, 0, RESULT));
    assert_eq!(bad, Err(Errno::IlSeq));
    let long = "x/".repeat(2049);
    assert_eq!(open(&mut guest, &long).map(|_| ()), Err(Errno::NameTooLong));
    // A directory opened on the way down is a top of its own.
    let all = Rights::ALL;
    let dir = guest.open(DATA, "dir/nested", DIRECTORY, all & !READ_WRITE).unwrap();
    assert_eq!(guest.open(dir, "../nested/file", 0, Rights::NONE), Err(Errno::NotCapable));
    assert_eq!(guest.open(dir, "file", 0, Rights::NONE).map(|_| ()), Ok(()));
}

#[test]
fn files_are_made_as_asked() {
    let world = World::new();
    let mut guest = world.guest();
    assert_eq!(guest.open(DATA, "file", EXCL, READ_ONLY), Err(Errno::NoEnt));
    let fd = guest.open(DATA, "file", CREAT | EXCL, READ_WRITE).unwrap();
    guest.write(fd, b"content").unwrap();
    assert_eq!(guest.open(DATA, "file", CREAT | EXCL, READ_WRITE), Err(Errno::Exist));
    assert_eq!(guest.open(DATA, "file", CREAT | EXCL | TRUNC, READ_WRITE), Err(Errno::Exist));
    assert_eq!(content(world.path("file")), "content");
    let fd = guest.open(DATA, "file", CREAT, READ_WRITE).unwrap();
    assert_eq!(guest.read(fd, 10), Ok(b"content".to_vec()));
    assert_eq!(guest.open(DATA, "file", DIRECTORY, Rights::NONE), Err(Errno::NotDir));
    let fd = guest.open(DATA, "file", CREAT | TRUNC, READ_WRITE).unwrap();
    assert_eq!((guest.read(fd, 10), guest.size(fd)), (Ok(vec![]), Ok(0)));
    let fd = guest.open(DATA, "file", 0, Rights::NONE).unwrap();
    assert_eq!(guest.open(fd, "file", CREAT, READ_WRITE), Err(Errno::NotDir));
}

#[test]
fn directories_are_made_and_removed() {
    let world = World::new();
    let mut guest = world.guest();
    guest.create_directory(DATA, "dir").unwrap();
    assert_eq!(guest.create_directory(DATA, "dir"), Err(Errno::Exist));
    assert_eq!(guest.create_directory(DATA, "none/dir"), Err(Errno::NoEnt));
    guest.create_directory(DATA, "dir/nested/").unwrap();
    assert_eq!(guest.stat(DATA, 0, "dir/nested").map(|stat| stat.1), Ok(3));
    assert_eq!(guest.remove_directory(DATA, "dir"), Err(Errno::NotEmpty));
    assert_eq!(guest.unlink(DATA, "dir"), Err(Errno::IsDir));
    assert_eq!(guest.unlink(DATA, "dir/"), Err(Errno::IsDir));
    guest.remove_directory(DATA, "dir/nested/").unwrap();
    guest.open(DATA, "dir/file", CREAT, READ_WRITE).unwrap();
    assert_eq!(guest.remove_directory(DATA, "dir/file"), Err(Errno::NotDir));
    assert_eq!(guest.remove_directory(DATA, "dir/file/"), Err(Errno::NotDir));
    assert_eq!(guest.unlink(DATA, "dir/file/"), Err(Errno::NotDir));
    guest.unlink(DATA, "dir/file").unwrap();
    assert_eq!(guest.unlink(DATA, "dir/file"), Err(Errno::NoEnt));
    assert_eq!(guest.remove_directory(DATA, "."), Err(Errno::Inval));
    guest.remove_directory(DATA, "dir").unwrap();
    assert_eq!(guest.remove_directory(DATA, "dir"), Err(Errno::NoEnt));
}

#[test]
fn names_are_moved_within_a_mount() {
    let world = World::new();
    let mut guest = world.guest();
    guest.create_directory(DATA, "dir").unwrap();
    guest.create_directory(DATA, "empty").unwrap();
    guest.open(DATA, "file", CREAT, READ_WRITE).unwrap();
    guest.open(DATA, "dir/inner", CREAT, READ_WRITE).unwrap();
    assert_eq!(guest.rename(DATA, "file", DATA, "dir"), Err(Errno::IsDir));
    assert_eq!(guest.rename(DATA, "empty", DATA, "file"), Err(Errno::NotDir));
    assert_eq!(guest.rename(DATA, "empty", DATA, "dir"), Err(Errno::NotEmpty));
    assert_eq!(guest.rename(DATA, "dir", DATA, "dir/below"), Err(Errno::Inval));
    assert_eq!(guest.rename(DATA, "none", DATA, "new"), Err(Errno::NoEnt));
    assert_eq!(guest.rename(DATA, "file", OTHER, "file"), Err(Errno::XDev));
    guest.rename(DATA, "dir/", DATA, "empty/").unwrap();
    guest.rename(DATA, "file", DATA, "empty/inner").unwrap();
    assert_eq!(guest.stat(DATA, 0, "file"), Err(Errno::NoEnt));
    let rights = Rights::ALL & !READ_WRITE;
    let (from, to) = (guest.open(DATA, "empty", 0, rights).unwrap(), guest.open(DATA, ".", 0, rights).unwrap());
    guest.rename(from, "inner", to, "out").unwrap();
    assert_eq!(guest.stat(DATA, 0, "out").map(|stat| stat.1), Ok(4));
}

#[test]
fn links_are_made_and_looked_at() {
    let world = World::new();
    let mut guest = world.guest();
    let fd = guest.open(DATA, "file", CREAT, READ_WRITE).unwrap();
    guest.write(fd, b"content").unwrap();
    guest.create_directory(DATA, "dir").unwrap();
    guest.link(DATA, 0, "file", DATA, "dir/hard").unwrap();
    assert_eq!(guest.stat(DATA, 0, "file"), guest.stat(DATA, 0, "dir/hard"));
    assert_eq!(guest.link(DATA, 0, "file", DATA, "dir/hard"), Err(Errno::Exist));
    assert_eq!(guest.link(DATA, 0, "file", DATA, "file"), Err(Errno::Exist));
    assert_eq!(guest.link(DATA, 0, "dir", DATA, "dir2"), Err(Errno::Perm));
    assert_eq!(guest.link(DATA, 0, "file", DATA, "new/"), Err(Errno::NoEnt));
    assert_eq!(guest.link(DATA, 0, "file", OTHER, "file"), Err(Errno::XDev));
    assert_eq!(guest.link(DATA, FOLLOW, "file", DATA, "new"), Err(Errno::Inval));

    guest.symlink("file", DATA, "link").unwrap();
    assert_eq!(guest.symlink("file", DATA, "link"), Err(Errno::Exist));
    assert_eq!(guest.symlink("file", DATA, "new/"), Err(Errno::NoEnt));
    assert_eq!(guest.symlink("file", DATA, "dir/"), Err(Errno::Exist));
    assert_eq!(guest.symlink("/", DATA, "top"), Err(Errno::NotCapable));
    assert_eq!(guest.symlink("", DATA, "nothing"), Err(Errno::NoEnt));
    assert_eq!(guest.read_link(DATA, "link", 10), Ok("file".into()));
    assert_eq!(guest.read_link(DATA, "link", 2), Ok("fi".into()));
    assert_eq!(guest.bytes(BUFFER, 4), b"file", "only what fits is written");
    assert_eq!(guest.read_link(DATA, "file", 10), Err(Errno::Inval));
    assert_eq!(guest.stat(DATA, 0, "link").map(|stat| (stat.1, stat.2)), Ok((7, 4)));
    assert_eq!(guest.stat(DATA, FOLLOW, "link").map(|stat| (stat.1, stat.2)), Ok((4, 7)));
    assert_eq!(guest.open(DATA, "link", 0, READ_ONLY), Err(Errno::Loop));
    assert_eq!(guest.open_with(DATA, FOLLOW, "link", DIRECTORY, READ_ONLY, Rights::NONE, 0), Err(Errno::NotDir));
    let fd = guest.open_with(DATA, FOLLOW, "link", 0, READ_ONLY, Rights::NONE, 0).unwrap();
    assert_eq!(guest.read(fd, 10), Ok(b"content".to_vec()));
    guest.symlink("loop", DATA, "loop").unwrap();
    for lookup in [0, FOLLOW] {
        assert_eq!(guest.open_with(DATA, lookup, "loop", 0, READ_ONLY, Rights::NONE, 0), Err(Errno::Loop));
    }
    guest.link(DATA, 0, "loop", DATA, "loop2").unwrap();
    assert_eq!(guest.read_link(DATA, "loop2", 10), Ok("loop".into()));
    guest.unlink(DATA, "loop").unwrap();
    // Out of the tree: a name like any other, and a way nowhere.
    guest.symlink("../secret", DATA, "out").unwrap();
    assert_eq!(guest.read_link(DATA, "out", 20), Ok("../secret".into()));
    assert_eq!(guest.stat(DATA, FOLLOW, "out"), Err(Errno::NotCapable));
    assert_eq!(guest.open_with(DATA, FOLLOW, "out", CREAT, READ_WRITE, Rights::NONE, 0), Err(Errno::NotCapable));
}

#[test]
fn times_are_set_by_name() {
    use std::os::unix::fs::MetadataExt;
    let world = World::new();
    std::fs::write(world.path("file"), "content").unwrap();
    let mut guest = world.guest();
    guest.symlink("file", DATA, "link").unwrap();
    let set = |guest: &mut Guest, lookup, path: &str, accessed, modified, flags| {
        let (path, length) = guest.text(path);
        guest.call(|system, memory| {
            system.path_filestat_set_times(memory, DATA, lookup, path, length, accessed, modified, flags)
        })
    };
    set(&mut guest, 0, "file", 1, 2_000_000_003, 5).unwrap();
    let times = |name: &str| {
        let metadata = std::fs::symlink_metadata(world.path(name)).unwrap();
        (metadata.atime(), metadata.atime_nsec(), metadata.mtime(), metadata.mtime_nsec())
    };
    assert_eq!(times("file"), (0, 1, 2, 3));
    set(&mut guest, 0, "link", 0, 7, 4).unwrap();
    assert_eq!(times("file"), (0, 1, 2, 3));
    assert_eq!((times("link").2, times("link").3), (0, 7));
    set(&mut guest, FOLLOW, "link", 9, 9, 1).unwrap();
    assert_eq!(times("file"), (0, 9, 2, 3));
    set(&mut guest, FOLLOW, "link", 9, 9, 8).unwrap();
    assert!(times("file").2 > 1_500_000_000);
    assert_eq!(set(&mut guest, 0, "none", 0, 0, 1), Err(Errno::NoEnt));
    assert_eq!(set(&mut guest, 0, "../secret", 0, 0, 1), Err(Errno::NotCapable));
}

#[test]
fn a_read_only_mount_says_so() {
    let world = World::new();
    std::fs::write(world.path("file"), "content").unwrap();
    let mut setup = world.setup();
    let files = drivers::HostDirectory::open_read_only(&world.path("")).unwrap();
    setup.mounts[0] = Mount { guest: "/data".into(), host: "data".into(), read_only: true, files: Box::new(files) };
    let mut guest = Guest { system: System::new(setup).unwrap(), memory: vec![0; 1 << 16] };
    let fd = guest.open(DATA, "file", CREAT, READ_ONLY).unwrap();
    assert_eq!(guest.read(fd, 10), Ok(b"content".to_vec()));
    assert_eq!(guest.open(DATA, "file", 0, READ_WRITE), Err(Errno::RoFs));
    assert_eq!(guest.open(DATA, "file", TRUNC, READ_ONLY), Err(Errno::RoFs));
    assert_eq!(guest.open(DATA, "new", CREAT, READ_ONLY), Err(Errno::RoFs));
    assert_eq!(guest.unlink(DATA, "file"), Err(Errno::RoFs));
    assert_eq!(guest.create_directory(DATA, "new"), Err(Errno::RoFs));
    assert_eq!(guest.rename(DATA, "file", DATA, "new"), Err(Errno::RoFs));
    assert_eq!(content(world.path("file")), "content");
}
