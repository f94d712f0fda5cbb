//! Reading, writing, positions, flags, rights, directories: what is done with open files.

use super::*;
use abi::wasi::Fdflags;

const APPEND: u32 = Fdflags::APPEND.raw() as u32;

#[test]
fn content_is_read_and_written_where_the_position_is() {
    let world = World::new();
    let mut guest = world.guest();
    let fd = guest.open(DATA, "file", CREAT, READ_WRITE).unwrap();
    assert_eq!(fd, 5);
    assert_eq!(guest.write(fd, b"hello world"), Ok(11));
    assert_eq!((guest.tell(fd), guest.size(fd)), (Ok(11), Ok(11)));
    assert_eq!(guest.read(fd, 10), Ok(vec![]));
    assert_eq!(guest.seek(fd, 2, 0), Ok(2));
    assert_eq!(guest.seek(fd, -5, 2), Ok(6));
    assert_eq!(guest.read(fd, 3), Ok(b"wor".to_vec()));
    assert_eq!(guest.seek(fd, -9, 1), Ok(0));
    assert_eq!(guest.seek(fd, -1, 1), Err(Errno::Inval));
    assert_eq!(guest.tell(fd), Ok(0));
    assert_eq!(guest.pread(fd, 5, 6), Ok(b"world".to_vec()));
    assert_eq!(guest.pwrite(fd, b"W", 6), Ok(1));
    assert_eq!(guest.tell(fd), Ok(0));
    assert_eq!(guest.seek(fd, 20, 0), Ok(20));
    assert_eq!(guest.write(fd, b"!"), Ok(1));
    assert_eq!(content(world.path("file")), "hello World\0\0\0\0\0\0\0\0\0!");
    guest.call(|system, memory| system.fd_filestat_set_size(memory, fd, 5)).unwrap();
    assert_eq!((guest.size(fd), guest.tell(fd)), (Ok(5), Ok(21)));
    guest.call(|system, memory| system.fd_allocate(memory, fd, 3, 5)).unwrap();
    assert_eq!(content(world.path("file")), "hello\0\0\0");
    guest.call(|system, memory| system.fd_allocate(memory, fd, 1, 1)).unwrap();
    assert_eq!(guest.size(fd), Ok(8));
    guest.call(|system, memory| system.fd_advise(memory, fd, 1, 3, 1)).unwrap();
    guest.call(|system, memory| system.fd_sync(memory, fd)).unwrap();
    guest.call(|system, memory| system.fd_datasync(memory, fd)).unwrap();
    let closed = guest.system.table.file(fd, Rights::NONE, Errno::BadF).unwrap().at;
    guest.close(fd).unwrap();
    assert_eq!(guest.close(fd), Err(Errno::BadF));
    assert_eq!(guest.system.files(closed).stat(closed.id), Err(Errno::BadF));
}

#[test]
fn several_buffers_are_one_stream_of_bytes() {
    let world = World::new();
    let mut guest = world.guest();
    let fd = guest.open(DATA, "file", CREAT, READ_WRITE).unwrap();
    guest.put(BUFFER, b"abcdefghij");
    let (iovs, count) = guest.buffers(&[(BUFFER, 3), (0, 0), (BUFFER + 5, 5), (BUFFER, 1)]);
    assert_eq!(guest.issue(|system, memory| system.fd_write(memory, fd, iovs, count, RESULT)), Ended::Answered(Ok(())));
    assert_eq!(guest.u32(RESULT), 9);
    assert_eq!(content(world.path("file")), "abcfghija");
    guest.put(BUFFER, &[b'-'; 40]);
    let (iovs, count) = guest.buffers(&[(BUFFER, 2), (BUFFER + 10, 4), (0, 0), (BUFFER + 20, 10), (BUFFER + 35, 2)]);
    guest.call(|system, memory| system.fd_pread(memory, fd, iovs, count, 1, RESULT)).unwrap();
    assert_eq!(guest.u32(RESULT), 8);
    assert_eq!(guest.bytes(BUFFER, 30), b"bc--------fghi------ja--------");
    // More buffers than are looked at: less is read, and that is said.
    for index in 0..2000u32 {
        guest.put(BUFFER + 8 * index, &(BUFFER + 20000).to_le_bytes());
        guest.put(BUFFER + 8 * index + 4, &1u32.to_le_bytes());
    }
    guest.call(|system, memory| system.fd_filestat_set_size(memory, fd, 5000)).unwrap();
    guest.call(|system, memory| system.fd_pread(memory, fd, BUFFER, 2000, 0, RESULT)).unwrap();
    assert_eq!(guest.u32(RESULT), 1024);
    // No buffers at all.
    assert_eq!(guest.issue(|system, memory| system.fd_read(memory, fd, 0, 0, RESULT)), Ended::Answered(Ok(())));
    assert_eq!(guest.u32(RESULT), 0);
    assert_eq!(guest.write(fd, b""), Ok(0));
}

#[test]
fn appending_is_at_the_end_whoever_writes() {
    let world = World::new();
    let mut guest = world.guest();
    let fd = guest.open_with(DATA, 0, "file", CREAT, READ_WRITE, Rights::NONE, APPEND).unwrap();
    assert_eq!(guest.fdstat(fd).map(|stat| stat.1), Ok(1));
    guest.write(fd, b"aa").unwrap();
    guest.seek(fd, 0, 0).unwrap();
    std::fs::write(world.path("file"), "xxxxx").unwrap();
    guest.put(BUFFER, b"bcd");
    let (iovs, count) = guest.buffers(&[(BUFFER, 1), (BUFFER + 1, 2)]);
    guest.issue(|system, memory| system.fd_write(memory, fd, iovs, count, RESULT));
    assert_eq!((guest.u32(RESULT), guest.tell(fd)), (3, Ok(8)));
    assert_eq!(guest.pwrite(fd, b"P", 0), Ok(1));
    assert_eq!(content(world.path("file")), "Pxxxxbcd");
    assert_eq!(guest.tell(fd), Ok(8));
    assert_eq!((guest.seek(fd, 2, 0), guest.write(fd, b"")), (Ok(2), Ok(0)));
    assert_eq!(guest.tell(fd), Ok(2));
    // And no longer.
    guest.set_flags(fd, 0).unwrap();
    guest.write(fd, b"Q").unwrap();
    assert_eq!(content(world.path("file")), "PxQxxbcd");
    guest.set_flags(fd, 1).unwrap();
    guest.write(fd, b"R").unwrap();
    assert_eq!(content(world.path("file")), "PxQxxbcdR");
    for flags in [2, 8, 16, 31] {
        guest.set_flags(fd, flags).unwrap();
        assert_eq!(guest.fdstat(fd).map(|stat| stat.1 as u32), Ok(flags));
        guest.write(fd, b"S").unwrap();
    }
}

#[test]
fn what_is_opened_has_what_was_asked_for_and_can_be() {
    let world = World::new();
    std::fs::create_dir(world.path("dir")).unwrap();
    std::fs::write(world.path("file"), "content").unwrap();
    let mut guest = world.guest();
    let (kind, flags, rights, inheriting) = guest.fdstat(DATA).unwrap();
    assert_eq!((kind, flags), (3, 0));
    // What libraries ask a directory for, and what it must not have.
    let (rights, inheriting) = (Rights::from_raw(rights).unwrap(), Rights::from_raw(inheriting).unwrap());
    assert!(!rights.intersects(Rights::FD_FILESTAT_SET_SIZE | Rights::FD_SEEK | Rights::FD_READ | Rights::FD_WRITE));
    assert!(inheriting.contains(rights | READ_WRITE));
    let root = guest.open_with(DATA, 0, ".", DIRECTORY, rights, inheriting, 0).unwrap();
    assert_eq!(guest.fdstat(root), guest.fdstat(DATA));
    let file = guest.open_with(root, 0, "file", 0, rights | READ_WRITE, inheriting, 4).unwrap();
    assert_eq!(guest.fdstat(file), Ok((4, 4, READ_WRITE.raw(), READ_WRITE.raw())));
    let file = guest.open_with(root, 0, "file", 0, Rights::FD_READ | Rights::PATH_OPEN, Rights::FD_SEEK, 0).unwrap();
    assert_eq!(guest.fdstat(file), Ok((4, 0, 2, 4)));
    let dir =
        guest.open_with(root, 0, "dir", DIRECTORY, Rights::FD_READ | Rights::FD_SEEK, Rights::PATH_OPEN, 0).unwrap();
    assert_eq!(guest.fdstat(dir), Ok((3, 0, 0, 1 << 13)));
    assert_eq!(guest.open(root, "dir", DIRECTORY, Rights::FD_READ | Rights::FD_WRITE), Err(Errno::IsDir));
    assert_eq!(guest.open(root, ".", 0, Rights::FD_WRITE), Err(Errno::IsDir));
    assert!(guest.open_with(DATA, 0, ".", 0, Rights::NONE, Rights::NONE, 4).is_ok());
    assert_eq!(guest.open(dir, "x", 0, Rights::NONE), Err(Errno::NotCapable));
}

/// Rights are passed on, and never more than there were.
#[test]
fn rights_only_become_less() {
    let world = World::new();
    std::fs::create_dir_all(world.path("dir/dir")).unwrap();
    std::fs::write(world.path("dir/file"), "content").unwrap();
    let mut guest = world.guest();
    let own = Rights::PATH_OPEN | Rights::FD_READDIR;
    let passed = Rights::PATH_OPEN | Rights::FD_READ;
    let dir = guest.open_with(DATA, 0, "dir", DIRECTORY, own, passed, 0).unwrap();
    assert_eq!(guest.fdstat(dir).map(|stat| (stat.2, stat.3)), Ok((own.raw(), passed.raw())));
    for (path, rights, inheriting, expected) in [
        ("file", Rights::FD_READ, Rights::NONE, None),
        ("file", Rights::NONE, Rights::FD_READ, None),
        ("file", Rights::FD_READ | Rights::FD_WRITE, Rights::NONE, Some(Errno::NotCapable)),
        ("file", Rights::NONE, Rights::FD_WRITE, Some(Errno::NotCapable)),
        ("dir", Rights::FD_READDIR, Rights::NONE, Some(Errno::NotCapable)),
        ("dir", Rights::PATH_OPEN, passed, None),
        ("none", Rights::FD_WRITE, Rights::NONE, Some(Errno::NotCapable)),
    ] {
        let opened = guest.open_with(dir, 0, path, 0, rights, inheriting, 0);
        assert_eq!(opened.err(), expected, "{path} {rights:?} {inheriting:?}");
    }
    assert_eq!(guest.open(dir, "new", CREAT, Rights::NONE), Err(Errno::NotCapable));
    assert_eq!(guest.open(dir, "file", TRUNC, Rights::NONE), Err(Errno::NotCapable));
    for fdflags in [2, 8, 16] {
        let opened = guest.open_with(dir, 0, "file", 0, Rights::FD_READ, Rights::NONE, fdflags);
        assert_eq!(opened, Err(Errno::NotCapable), "{fdflags}");
    }
    assert!(guest.open_with(DATA, 0, "dir/file", 0, Rights::FD_READ, Rights::NONE, 31).is_ok());
    assert_eq!(guest.set_rights(dir, own | Rights::FD_SYNC, passed), Err(Errno::NotCapable));
    assert_eq!(guest.set_rights(dir, own, passed | Rights::FD_SYNC), Err(Errno::NotCapable));
    let unknown = guest.call(|system, memory| system.fd_fdstat_set_rights(memory, dir, 1 << 40, 0));
    assert_eq!(unknown, Err(Errno::NotCapable));
    guest.set_rights(dir, Rights::PATH_OPEN, Rights::NONE).unwrap();
    assert_eq!(guest.open(dir, "file", 0, Rights::FD_READ), Err(Errno::NotCapable));
    assert_eq!(guest.set_rights(dir, own, passed), Err(Errno::NotCapable));
    assert_eq!(content(world.path("dir/file")), "content");
}

#[test]
fn a_file_may_be_emptied_by_who_may_not_write_it() {
    let world = World::new();
    std::fs::write(world.path("file"), "content").unwrap();
    let mut guest = world.guest();
    let fd = guest.open(DATA, "file", TRUNC, Rights::NONE).unwrap();
    assert_eq!(content(world.path("file")), "");
    assert_eq!(guest.write(fd, b"x"), Err(Errno::NotCapable));
    let fd = guest.open(DATA, "made", CREAT, Rights::FD_READ).unwrap();
    assert_eq!((guest.read(fd, 1), guest.write(fd, b"x")), (Ok(vec![]), Err(Errno::NotCapable)));
    let fd = guest.open(DATA, "file", 0, Rights::FD_WRITE).unwrap();
    assert_eq!((guest.read(fd, 1), guest.write(fd, b"x")), (Err(Errno::NotCapable), Ok(1)));
}

#[test]
fn descriptors_are_renumbered_and_reused() {
    let world = World::new();
    let mut guest = world.guest();
    let (a, b) = (guest.open(DATA, "a", CREAT, READ_WRITE).unwrap(), guest.open(DATA, "b", CREAT, READ_ONLY).unwrap());
    assert_eq!((a, b), (5, 6));
    guest.write(a, b"aaa").unwrap();
    let stat = guest.fdstat(a);
    let replaced = guest.system.table.file(b, Rights::NONE, Errno::BadF).unwrap().at;
    guest.renumber(a, b).unwrap();
    assert_eq!(guest.system.files(replaced).stat(replaced.id), Err(Errno::BadF));
    assert_eq!((guest.fdstat(b), guest.tell(b)), (stat, Ok(3)));
    assert_eq!(guest.close(a), Err(Errno::BadF));
    assert_eq!(guest.renumber(b, a), Err(Errno::BadF));
    assert_eq!(guest.renumber(a, b), Err(Errno::BadF));
    guest.renumber(b, b).unwrap();
    assert_eq!(guest.write(b, b"b"), Ok(1));
    assert_eq!(content(world.path("a")), "aaab");
    assert_eq!(guest.open(DATA, "c", CREAT, READ_WRITE), Ok(a));
    // Streams too, and preopened directories, which then are none any more.
    guest.renumber(1, a).unwrap();
    assert_eq!((guest.write(1, b"x"), guest.write(a, b"out")), (Err(Errno::BadF), Ok(3)));
    assert_eq!(world.output(), b"out");
    let dir = guest.open(OTHER, ".", DIRECTORY, Rights::FD_READDIR | Rights::PATH_OPEN).unwrap();
    assert_eq!(dir, 1);
    guest.renumber(dir, DATA).unwrap();
    assert_eq!(guest.call(|system, memory| system.fd_prestat_get(memory, DATA, RESULT)), Err(Errno::BadF));
    assert_eq!(guest.open(DATA, "a", 0, Rights::NONE), Err(Errno::NoEnt));
    guest.close(OTHER).unwrap();
    assert_eq!(guest.call(|system, memory| system.fd_prestat_get(memory, OTHER, RESULT)), Err(Errno::BadF));
}

#[test]
fn preopened_directories_have_names() {
    let mut guest = World::new().guest();
    for (fd, name) in [(DATA, "/data"), (OTHER, "other")] {
        guest.call(|system, memory| system.fd_prestat_get(memory, fd, RESULT)).unwrap();
        assert_eq!((guest.memory[0], guest.u32(4)), (0, 5));
        guest.put(BUFFER, b"------");
        guest.call(|system, memory| system.fd_prestat_dir_name(memory, fd, BUFFER, 6)).unwrap();
        assert_eq!(guest.bytes(BUFFER, 6), format!("{name}-").as_bytes());
        let short = guest.call(|system, memory| system.fd_prestat_dir_name(memory, fd, BUFFER, 4));
        assert_eq!(short, Err(Errno::NameTooLong));
    }
    for fd in [0, 1, 2, 5] {
        assert_eq!(guest.call(|system, memory| system.fd_prestat_get(memory, fd, RESULT)), Err(Errno::BadF), "{fd}");
    }
}

#[test]
fn attributes_are_those_of_the_file() {
    use std::os::unix::fs::MetadataExt;
    let world = World::new();
    std::fs::write(world.path("file"), "content").unwrap();
    std::fs::hard_link(world.path("file"), world.path("link")).unwrap();
    let mut guest = world.guest();
    let fd = guest.open(DATA, "file", 0, READ_WRITE).unwrap();
    guest.call(|system, memory| system.fd_filestat_set_times(memory, fd, 7, 1_000_000_009, 5)).unwrap();
    let metadata = std::fs::metadata(world.path("file")).unwrap();
    guest.call(|system, memory| system.fd_filestat_get(memory, fd, RESULT)).unwrap();
    let fields: Vec<u64> = [0, 8, 24, 32, 40, 48].map(|offset| guest.u64(offset)).to_vec();
    assert_eq!(fields, [metadata.dev(), metadata.ino(), 2, 7, 7, 1_000_000_009]);
    assert_eq!(guest.memory[16], 4);
    let changed_ns = metadata.ctime() as u64 * 1_000_000_000 + metadata.ctime_nsec() as u64;
    assert_eq!(guest.u64(56), changed_ns);
    // Only what is asked for changes, and "now" is now.
    guest.call(|system, memory| system.fd_filestat_set_times(memory, fd, 99, 99, 0)).unwrap();
    guest.call(|system, memory| system.fd_filestat_set_times(memory, fd, 99, 99, 2)).unwrap();
    let metadata = std::fs::metadata(world.path("file")).unwrap();
    assert!(metadata.atime() > 1_500_000_000 && metadata.mtime() == 1);
    // Streams are what they are.
    for (fd, kind) in [(0, 0), (1, 0), (2, 2)] {
        assert_eq!(guest.size(fd), Ok(4));
        assert_eq!((guest.memory[16], guest.fdstat(fd).map(|stat| stat.0)), (kind, Ok(kind)), "{fd}");
    }
}

/// A library takes a character device that cannot seek for a terminal.
#[test]
fn a_terminal_is_told_from_other_devices() {
    let world = World::new();
    for (kind, is_terminal, filetype, seeks) in [
        (StreamKind::Terminal, true, 2, Err(Errno::SPipe)),
        (StreamKind::Device, false, 2, Ok(0)),
        (StreamKind::File, false, 4, Err(Errno::SPipe)),
        (StreamKind::Pipe, false, 0, Err(Errno::SPipe)),
        (StreamKind::Socket, false, 6, Err(Errno::SPipe)),
    ] {
        world.input.lock().unwrap().kind = kind;
        let mut guest = world.guest();
        let (found, _, rights, _) = guest.fdstat(0).unwrap();
        let positions = Rights::FD_SEEK | Rights::FD_TELL;
        let looks_so = found == 2 && rights & positions.raw() == 0;
        assert_eq!((found, looks_so), (filetype, is_terminal), "{kind:?}");
        assert_eq!((guest.seek(0, 5, 0), guest.tell(0)), (seeks, seeks), "{kind:?}");
    }
}

#[test]
fn directories_are_read_in_any_pieces() {
    let world = World::new();
    for index in 0..40 {
        std::fs::write(world.path(&format!("file-{index:02}-{}", "x".repeat(index))), "").unwrap();
    }
    let mut guest = world.guest();
    let (all, used) = guest.readdir(DATA, 40000, 0).unwrap();
    assert_eq!(all.len(), 42);
    assert_eq!((all[0].1.as_str(), all[1].1.as_str()), (".", ".."));
    assert_eq!(used as usize, all.iter().map(|(_, name)| 24 + name.len()).sum::<usize>());
    // The library's way: go on behind the last whole entry, until a read does not fill the room.
    for room in [72, 73, 100, 257, 5000] {
        let (mut names, mut cookie) = (vec![], 0);
        loop {
            let (entries, used) = guest.readdir(DATA, room, cookie).unwrap();
            assert!(used <= room);
            if let Some((next, _)) = entries.last() {
                cookie = *next;
            }
            let is_last = used < room;
            assert!(is_last || !entries.is_empty(), "room for one entry is enough");
            names.extend(entries);
            if is_last {
                break;
            }
        }
        assert_eq!(names, all, "{room}");
    }
    // A piece of a first entry, for who wants to know how much room it needs.
    let (entries, used) = guest.readdir(DATA, 20, 0).unwrap();
    assert_eq!((entries.len(), used, guest.u32(BUFFER + 16)), (0, 20, 1));
    assert_eq!(guest.readdir(DATA, 0, 0), Ok((vec![], 0)));
    assert_eq!(guest.readdir(DATA, 100, 42), Ok((vec![], 0)));
    assert_eq!(guest.readdir(DATA, 100, u64::MAX), Ok((vec![], 0)));
    // What an entry says of its file.
    guest.readdir(DATA, 24, 2).unwrap();
    let (next, inode, kind) = (guest.u64(BUFFER), guest.u64(BUFFER + 8), guest.memory[BUFFER as usize + 20]);
    assert_eq!((next, inode, kind), (3, guest.stat(DATA, 0, &all[2].1).unwrap().0, 4));
}

/// Who empties a directory while reading it, in pieces, removes everything; what is new is seen from the beginning.
#[test]
fn a_directory_that_changes_is_read_as_it_was() {
    let world = World::new();
    for index in 0..50 {
        std::fs::write(world.path(&format!("file-{index}")), "").unwrap();
    }
    let mut guest = world.guest();
    let mut cookie = 0;
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let (entries, used) = guest.readdir(DATA, 100, cookie).unwrap();
        for (next, name) in entries {
            cookie = next;
            assert!(seen.insert(name.clone()), "{name} twice");
            if name.starts_with("file") {
                guest.unlink(DATA, &name).unwrap();
                guest.open(DATA, &format!("new-{name}"), CREAT, READ_WRITE).and_then(|fd| guest.close(fd)).unwrap();
            }
        }
        if used < 100 {
            break;
        }
    }
    assert_eq!(seen.len(), 52);
    let (again, _) = guest.readdir(DATA, 40000, 0).unwrap();
    assert_eq!(again.iter().filter(|(_, name)| name.starts_with("new-")).count(), 50);
    assert_eq!(again.len(), 52);
}
