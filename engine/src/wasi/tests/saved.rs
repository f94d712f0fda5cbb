//! The state as bytes: what survives, what is noticed, and that no bytes make it panic.

use super::*;
use crate::wasi::save::{ORPHAN_BYTES_MAX, UNREAD_BYTES_MAX};
use crate::wasi::{Pending, RestoreError, SaveError, Saved, SetupError};

/// Like `unwrap_err`, for a state that cannot be shown.
fn error_of(restored: Result<System, RestoreError>) -> RestoreError {
    match restored {
        Ok(_) => panic!("it was restored"),
        Err(error) => error,
    }
}

impl World {
    /// The same process, as another one would continue it.
    fn reborn(&self, guest: &mut Guest) -> Guest {
        let bytes = guest.system.save().unwrap();
        Guest { system: System::restore(&bytes, self.resume()).unwrap(), memory: guest.memory.clone() }
    }
}

#[test]
fn a_process_keeps_what_it_was_given() {
    let world = World::new();
    let mut guest = world.guest();
    world.script.time.pass(700);
    let bytes = guest.system.save().unwrap();
    let saved = Saved::read(&bytes).unwrap();
    assert_eq!(saved.args, ["prog", "", "\u{e4}rg"]);
    assert_eq!(saved.env, ["A=1=2", "EMPTY="]);
    let mounts: Vec<_> =
        saved.mounts.iter().map(|mount| (mount.guest.as_str(), mount.host.as_str(), mount.read_only)).collect();
    assert_eq!(mounts, [("/data", "data", false), ("other", "other", false)]);
    // On a host whose clocks began at another time: the process's clocks go on, the date is the date.
    let mut resume = world.resume();
    let time = Time { monotonic_ns: Arc::new(AtomicU64::new(3)), date_ns: 1_800_000_000_000_000_000 };
    resume.clock = Box::new(time.clone());
    let mut guest = Guest { system: System::restore(&bytes, resume).unwrap(), memory: guest.memory };
    assert_eq!(guest.system.args(), ["prog", "", "\u{e4}rg"]);
    let now = |guest: &mut Guest, id| {
        guest.call(|system, memory| system.clock_time_get(memory, id, 0, RESULT)).unwrap();
        guest.u64(RESULT)
    };
    assert_eq!(now(&mut guest, 1), 1_000_000_700);
    assert_eq!(now(&mut guest, 2), 350);
    assert_eq!(now(&mut guest, 0), 1_800_000_000_000_000_003);
    time.pass(100);
    assert_eq!((now(&mut guest, 1), now(&mut guest, 3)), (1_000_000_800, 400));
}

#[test]
fn open_files_go_on_where_they_were() {
    let world = World::new();
    std::fs::create_dir_all(world.path("dir/nested")).unwrap();
    std::fs::write(world.path("dir/file"), "0123456789").unwrap();
    let mut guest = world.guest();
    let dir = guest.open_with(DATA, 0, "dir", DIRECTORY, Rights::ALL & !READ_WRITE, Rights::ALL, 0).unwrap();
    let file = guest.open(dir, "file", 0, READ_WRITE).unwrap();
    let made = guest.open_with(dir, 0, "made", CREAT | EXCL | TRUNC, Rights::FD_WRITE, Rights::NONE, 1 | 4).unwrap();
    let other = guest.open(OTHER, "other", CREAT, READ_WRITE).unwrap();
    let top = guest.open(DATA, ".", DIRECTORY, Rights::FD_READDIR).unwrap();
    let moved = guest.open(dir, "file", 0, READ_ONLY).unwrap();
    guest.read(file, 4).unwrap();
    guest.write(made, b"made").unwrap();
    guest.write(other, b"other").unwrap();
    guest.renumber(other, 1).unwrap();
    guest.renumber(2, moved).unwrap();
    let stats: Vec<_> = (0..12).map(|fd| guest.fdstat(fd)).collect();
    for _ in 0..3 {
        guest = world.reborn(&mut guest);
        assert_eq!((0..12).map(|fd| guest.fdstat(fd)).collect::<Vec<_>>(), stats);
    }
    assert_eq!((guest.tell(file), guest.read(file, 3)), (Ok(4), Ok(b"456".to_vec())));
    // It was made and emptied once, and is not again.
    guest.write(made, b"!").unwrap();
    assert_eq!(content(world.path("dir/made")), "made!");
    guest.write(1, b"!").unwrap();
    assert_eq!(content(world.directory.path().join("other/other")), "other!");
    guest.write(moved, b"error").unwrap();
    assert_eq!(world.error.lock().unwrap().output, b"error");
    assert_eq!(guest.call(|system, memory| system.fd_prestat_get(memory, DATA, RESULT)), Ok(()));
    assert_eq!(guest.call(|system, memory| system.fd_prestat_get(memory, top, RESULT)), Err(Errno::BadF));
    assert_eq!(guest.readdir(top, 1000, 0).map(|(entries, _)| entries.len()), Ok(3));
    assert_eq!(guest.stat(dir, 0, "nested").map(|stat| stat.1), Ok(3));
    assert_eq!(guest.open(dir, "file", 0, READ_ONLY), Ok(2));
}

#[test]
fn a_file_is_followed_wherever_it_was_moved_before() {
    let world = World::new();
    let mut guest = world.guest();
    let file = guest.open(DATA, "file", CREAT, READ_WRITE).unwrap();
    guest.write(file, b"content").unwrap();
    guest.create_directory(DATA, "dir").unwrap();
    guest.rename(DATA, "file", DATA, "dir/renamed").unwrap();
    std::fs::rename(world.path("dir"), world.path("moved")).unwrap();
    std::fs::write(world.path("file"), "another").unwrap();
    let mut guest = world.reborn(&mut guest);
    assert_eq!(guest.pread(file, 10, 0), Ok(b"content".to_vec()));
}

#[test]
fn a_directory_is_read_on_without_skipping_or_repeating() {
    let world = World::new();
    for index in 0..60 {
        std::fs::write(world.path(&format!("file-{index}")), "").unwrap();
    }
    let mut guest = world.guest();
    let dir = guest.open(DATA, ".", DIRECTORY, Rights::FD_READDIR).unwrap();
    for fd in [DATA, dir] {
        let (all, _) = guest.readdir(fd, 40000, 0).unwrap();
        let (mut seen, mut cookie) = (vec![], 0);
        for round in 0.. {
            let (entries, used) = guest.readdir(fd, 200, cookie).unwrap();
            if let Some((next, _)) = entries.last() {
                cookie = *next;
            }
            seen.extend(entries);
            if used < 200 {
                break;
            }
            // Meanwhile somebody removes what was seen and what will be, and makes new files.
            let _ = std::fs::remove_file(world.path(&format!("file-{round}")));
            let _ = std::fs::remove_file(world.path(&format!("file-{}", 59 - round)));
            std::fs::write(world.path(&format!("new-{round}")), "").unwrap();
            guest = world.reborn(&mut guest);
        }
        assert_eq!(seen, all);
    }
}

#[test]
fn files_without_names_travel_along() {
    let world = World::new();
    let mut guest = world.guest();
    let large = vec![b'x'; ORPHAN_BYTES_MAX as usize];
    let file = guest.open(DATA, "file", CREAT, READ_WRITE).unwrap();
    let writer = guest.open(DATA, "file", 0, Rights::FD_WRITE).unwrap();
    let alone = guest.open(DATA, "alone", CREAT, Rights::FD_WRITE).unwrap();
    let big = guest.open(DATA, "big", CREAT, READ_WRITE).unwrap();
    guest.create_directory(DATA, "dir").unwrap();
    let dir = guest.open(DATA, "dir", DIRECTORY, Rights::FD_READDIR | Rights::PATH_OPEN).unwrap();
    guest.write(file, b"content").unwrap();
    guest.write(alone, b"alone").unwrap();
    std::fs::write(world.path("big"), &large).unwrap();
    for name in ["file", "alone", "big"] {
        guest.unlink(DATA, name).unwrap();
    }
    guest.remove_directory(DATA, "dir").unwrap();
    std::fs::write(world.path("file"), "another").unwrap();
    for round in 0..3u8 {
        guest = world.reborn(&mut guest);
        // Two descriptors of one file still are.
        assert_eq!(guest.write(writer, &[b'0' + round]), Ok(1));
        let digits = round as usize + 1;
        let expected = [&b"012"[..digits], &b"content"[digits..]].concat();
        assert_eq!(guest.pread(file, 100, 0), Ok(expected));
        assert_eq!((guest.tell(file), guest.size(big)), (Ok(7), Ok(ORPHAN_BYTES_MAX)));
        assert_eq!(guest.readdir(dir, 1000, 0).map(|(entries, _)| entries.len()), Ok(2));
        assert_eq!(guest.open(dir, "x", 0, Rights::NONE), Err(Errno::NoEnt));
    }
    assert_eq!(guest.write(alone, b"!"), Ok(1));
    assert_eq!(guest.set_rights(alone, Rights::FD_WRITE, Rights::NONE), Ok(()));
    assert_eq!(std::fs::read_dir(world.path("")).unwrap().count(), 1);
    assert_eq!(content(world.path("file")), "another");
    // One byte more is too much, and nothing is lost by having tried.
    guest.call(|system, memory| system.fd_filestat_set_size(memory, big, ORPHAN_BYTES_MAX + 1)).unwrap();
    let Err(SaveError::OrphanTooLarge { fd, .. }) = guest.system.save() else { panic!("it is too large") };
    assert_eq!(fd, big);
    assert_eq!(guest.size(big), Ok(ORPHAN_BYTES_MAX + 1));
    guest.close(big).unwrap();
    assert!(guest.system.save().is_ok());
}

#[test]
fn what_cannot_be_found_again_is_named() {
    let world = World::new();
    let mut guest = world.guest();
    guest.create_directory(DATA, "dir").unwrap();
    let file = guest.open(DATA, "dir/file", CREAT, READ_WRITE).unwrap();
    guest.write(file, b"content").unwrap();
    let dir = guest.open(DATA, "dir", DIRECTORY, Rights::FD_READDIR).unwrap();
    let bytes = guest.system.save().unwrap();
    let restore = || System::restore(&bytes, world.resume());
    let (path, directory) = ("/data/dir/file".to_string(), "/data/dir".to_string());

    std::fs::rename(world.path("dir/file"), world.path("dir/renamed")).unwrap();
    assert_eq!(error_of(restore()), RestoreError::Vanished { fd: file, path: path.clone() });
    std::fs::write(world.path("dir/file"), "content").unwrap();
    assert_eq!(error_of(restore()), RestoreError::Replaced { fd: file, path: path.clone() });
    std::fs::remove_file(world.path("dir/file")).unwrap();
    std::fs::create_dir(world.path("dir/file")).unwrap();
    assert_eq!(error_of(restore()), RestoreError::Replaced { fd: file, path: path.clone() });
    std::fs::remove_dir(world.path("dir/file")).unwrap();
    std::os::unix::fs::symlink("renamed", world.path("dir/file")).unwrap();
    assert_eq!(error_of(restore()), RestoreError::Replaced { fd: file, path: path.clone() });
    std::fs::remove_file(world.path("dir/file")).unwrap();
    std::fs::rename(world.path("dir/renamed"), world.path("dir/file")).unwrap();
    assert!(restore().is_ok());

    std::fs::rename(world.path("dir"), world.path("moved")).unwrap();
    assert_eq!(error_of(restore()), RestoreError::Vanished { fd: file, path: path.clone() });
    std::fs::create_dir(world.path("dir")).unwrap();
    std::fs::rename(world.path("moved/file"), world.path("dir/file")).unwrap();
    assert_eq!(error_of(restore()), RestoreError::Replaced { fd: dir, path: directory });
    std::fs::remove_file(world.path("dir/file")).unwrap();
    std::fs::remove_dir(world.path("dir")).unwrap();
    std::fs::write(world.path("dir"), "").unwrap();
    assert_eq!(error_of(restore()), RestoreError::Vanished { fd: file, path: path.clone() });

    // Another directory that is mounted on purpose has other files of the same names.
    std::fs::create_dir_all(world.directory.path().join("copy/dir")).unwrap();
    std::fs::write(world.directory.path().join("copy/dir/file"), "copied!").unwrap();
    let mut resume = world.resume();
    let files = drivers::HostDirectory::open(&world.directory.path().join("copy")).unwrap();
    resume.mounts[0] = Mount { guest: "/data".into(), host: "copy".into(), read_only: false, files: Box::new(files) };
    let mut copied = Guest { system: System::restore(&bytes, resume).unwrap(), memory: guest.memory.clone() };
    assert_eq!((copied.tell(file), copied.pread(file, 10, 0)), (Ok(7), Ok(b"copied!".to_vec())));
    // But not if they are not what they must be.
    let mut resume = world.resume();
    let files = drivers::HostDirectory::open_read_only(&world.directory.path().join("copy")).unwrap();
    resume.mounts[0] = Mount { guest: "/data".into(), host: "copy".into(), read_only: true, files: Box::new(files) };
    let errno = Errno::RoFs;
    assert_eq!(error_of(System::restore(&bytes, resume)), RestoreError::Unavailable { fd: file, path, errno });

    let mut resume = world.resume();
    resume.mounts.remove(1);
    let missing = RestoreError::MountMissing { guest: "other".into(), host: "other".into() };
    assert!(missing.to_string().contains("--mount HOST=other"));
    assert_eq!(error_of(System::restore(&bytes, resume)), missing);
}

#[test]
fn what_will_not_be_found_again_is_not_saved() {
    let world = World::new();
    let mut guest = world.guest();
    let file = guest.open(DATA, "file", CREAT, READ_WRITE).unwrap();
    std::fs::rename(world.path("file"), world.directory.path().join("outside")).unwrap();
    let Err(SaveError::Elsewhere { fd, name, guest: mount }) = guest.system.save() else { panic!("it is outside") };
    assert_eq!((fd, mount.as_str()), (file, "/data"));
    assert!(name.ends_with("/outside"), "{name}");
    guest.close(file).unwrap();
    assert!(guest.system.save().is_ok());
}

#[test]
fn unread_input_is_read_first() {
    let world = World::new();
    let mut guest = world.guest();
    world.input.lock().unwrap().input.extend(b"first line\nsecond");
    assert_eq!(guest.read(0, 6), Ok(b"first ".to_vec()));
    let mut guest = world.reborn(&mut guest);
    world.input.lock().unwrap().input.extend(b" and new");
    assert_eq!(guest.read(0, 5), Ok(b"line\n".to_vec()));
    let mut guest = world.reborn(&mut guest);
    assert_eq!(guest.read(0, 100), Ok(b"second and new".to_vec()));
    world.then(&[Event::Input(b"newer")]);
    assert_eq!(guest.read(0, 100), Ok(b"newer".to_vec()));
    // Who goes on in the same process has lost nothing either; and an end stays an end.
    world.input.lock().unwrap().input.extend(b"last");
    world.input.lock().unwrap().ended = true;
    let bytes = guest.system.save().unwrap();
    assert_eq!((guest.read(0, 100), guest.read(0, 100)), (Ok(b"last".to_vec()), Ok(vec![])));
    *world.input.lock().unwrap() = Far {
        input: b"of another process".iter().copied().collect(),
        ..Arc::into_inner(Far::new(StreamKind::Pipe)).unwrap().into_inner().unwrap()
    };
    let mut guest = Guest { system: System::restore(&bytes, world.resume()).unwrap(), memory: guest.memory };
    assert_eq!((guest.read(0, 100), guest.read(0, 100)), (Ok(b"last".to_vec()), Ok(vec![])));
    let mut guest = world.reborn(&mut guest);
    assert_eq!(guest.read(0, 100), Ok(vec![]));
}

#[test]
fn input_is_taken_only_from_what_would_lose_it() {
    let world = World::new();
    let check = |kind, may_read_ahead, ended, bytes: usize, expected: Result<(usize, bool), SaveError>| {
        let mut guest = world.guest();
        let input = std::iter::repeat_n(b'x', bytes).collect();
        *world.input.lock().unwrap() = Far { kind, input, ended, output: vec![], room: 0, may_read_ahead };
        let taken = guest.system.save().map(|_| (guest.system.unread.bytes.len(), guest.system.unread.ended));
        assert_eq!(taken, expected, "{kind:?} {may_read_ahead} {ended} {bytes}");
    };
    check(StreamKind::Pipe, true, false, 70_000, Ok((70_000, false)));
    check(StreamKind::Pipe, true, true, 3, Ok((3, true)));
    check(StreamKind::File, true, true, 3, Ok((3, true)));
    check(StreamKind::File, true, true, UNREAD_BYTES_MAX, Ok((UNREAD_BYTES_MAX, true)));
    check(StreamKind::File, true, true, UNREAD_BYTES_MAX + 1, Err(SaveError::UnreadTooLarge));
    check(StreamKind::Device, false, true, 3, Ok((0, false)));
    check(StreamKind::Terminal, false, false, 3, Ok((0, false)));
    check(StreamKind::Terminal, true, true, 3, Ok((3, false)));
    // A pipe that somebody fills as fast as it is read has no end to be waited for.
    check(StreamKind::Pipe, true, true, 5 << 20, Ok(((1 << 20) + (1 << 16), false)));
    let mut guest = world.guest();
    guest.close(0).unwrap();
    guest.system.save().unwrap();
    assert!(guest.system.unread.bytes.is_empty());
}

#[test]
fn a_call_that_waits_goes_on_in_another_process() {
    let world = World::new();
    let mut guest = world.guest();
    // A sleep of 1000 of which 300 are over.
    let mut subscription = [0; 48];
    subscription[16] = 1;
    subscription[24..26].copy_from_slice(&1000u16.to_le_bytes());
    guest.put(BUFFER, &subscription);
    world.then(&[Event::Time(300), Event::Interrupt]);
    let poll = |guest: &mut Guest| guest.issue(|system, memory| system.poll_oneoff(memory, BUFFER, TEXT, 1, RESULT));
    assert_eq!(poll(&mut guest), Ended::Interrupted);
    let bytes = guest.system.save().unwrap();
    world.waited();
    let mut resume = world.resume();
    resume.clock = Box::new(Time { monotonic_ns: Arc::new(AtomicU64::new(77)), date_ns: 0 });
    let mut guest = Guest { system: System::restore(&bytes, resume).unwrap(), memory: guest.memory };
    world.then(&[Event::Interrupt]);
    assert_eq!(poll(&mut guest), Ended::Interrupted);
    assert_eq!(world.waited()[0].timeout_ns, Some(700));
    // A write that is half done.
    let mut guest = world.guest();
    world.output.lock().unwrap().room = 4;
    world.then(&[Event::Interrupt]);
    guest.put(BUFFER, b"hello world");
    let (iovs, count) = guest.buffers(&[(BUFFER, 11)]);
    let write = |guest: &mut Guest| guest.issue(|system, memory| system.fd_write(memory, 1, iovs, count, RESULT));
    assert_eq!(write(&mut guest), Ended::Interrupted);
    let mut guest = world.reborn(&mut guest);
    assert_eq!(guest.system.pending, Some(Pending::Write { fd: 1, iovs, count, written: 4 }));
    world.output.lock().unwrap().room = 100;
    assert_eq!((write(&mut guest), guest.u32(RESULT)), (Ended::Answered(Ok(())), 11));
    assert_eq!(world.output(), b"hello world");
}

/// A state with something of everything.
fn rich(world: &World) -> Vec<u8> {
    let mut guest = world.guest();
    std::fs::create_dir_all(world.path("dir")).unwrap();
    std::fs::write(world.path("file"), "content").unwrap();
    let file = guest.open(DATA, "file", 0, READ_WRITE).unwrap();
    guest.read(file, 3).unwrap();
    let orphan = guest.open(DATA, "orphan", CREAT, READ_WRITE).unwrap();
    guest.write(orphan, b"orphan").unwrap();
    guest.open(DATA, "orphan", 0, READ_ONLY).unwrap();
    guest.unlink(DATA, "orphan").unwrap();
    guest.open(DATA, "dir", DIRECTORY, Rights::FD_READDIR).unwrap();
    guest.readdir(DATA, 100, 0).unwrap();
    world.input.lock().unwrap().input.extend(b"unread");
    guest.put(BUFFER, &[0; 96]);
    guest.put(BUFFER + 16, &[1]);
    guest.put(BUFFER + 24, &[100]);
    guest.put(BUFFER + 48 + 8, &[1]);
    world.then(&[Event::Interrupt]);
    // The second subscription is for descriptor 0, which has input: take it away for a moment.
    let input = std::mem::take(&mut world.input.lock().unwrap().input);
    let polled = guest.issue(|system, memory| system.poll_oneoff(memory, BUFFER, TEXT, 2, RESULT));
    assert_eq!(polled, Ended::Interrupted);
    world.input.lock().unwrap().input = input;
    guest.system.save().unwrap()
}

#[test]
fn every_cut_and_every_changed_byte_is_noticed() {
    let world = World::new();
    let bytes = rich(&world);
    assert!(System::restore(&bytes, world.resume()).is_ok());
    assert_eq!(Saved::read(&bytes).map(|saved| saved.mounts.len()), Ok(2));
    for length in 0..bytes.len() {
        let cut = &bytes[..length];
        assert!(matches!(error_of(System::restore(cut, world.resume())), RestoreError::Damaged { .. }), "{length}");
        assert!(Saved::read(cut).is_err(), "{length}");
    }
    for index in 0..bytes.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[index] ^= change;
            let error = error_of(System::restore(&changed, world.resume()));
            let is_version = (8..12).contains(&index);
            match error {
                RestoreError::UnknownVersion { .. } if is_version => {}
                RestoreError::Damaged { .. } if !is_version => {}
                error => panic!("{index}: {error}"),
            }
        }
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(error_of(System::restore(&longer, world.resume())), RestoreError::Damaged { .. }));
}

/// Somebody who means harm gives it a right checksum: an error or a state, but no panic and no memory without end.
#[test]
fn no_state_makes_it_panic() {
    let world = World::new();
    let bytes = rich(&world);
    let content = &bytes[..bytes.len() - 32];
    let sealed = |content: &[u8]| [content, blake3::hash(content).as_bytes()].concat();
    assert_eq!(sealed(content), bytes);
    let (mut restored, mut refused) = (0, 0);
    let mut try_it = |content: &[u8]| match System::restore(&sealed(content), world.resume()) {
        Ok(mut system) => {
            // What it gave can be used and saved.
            let mut memory = vec![0; 1 << 16];
            for fd in 0..12 {
                let _ = system.fd_filestat_get(&mut Memory::new(&mut memory), fd, 0);
                let _ = system.fd_readdir(&mut Memory::new(&mut memory), fd, 0, 1000, 0, 2000);
                let _ = system.fd_read(&mut Memory::new(&mut memory), fd, 0, 0, 0);
            }
            let _ = system.save();
            restored += 1;
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            refused += 1;
        }
    };
    for length in 12..content.len() {
        try_it(&content[..length]);
    }
    for index in 12..content.len() {
        for change in [1, 0x10, 0xff] {
            let mut changed = content.to_vec();
            changed[index] ^= change;
            try_it(&changed);
        }
        let mut changed = content.to_vec();
        let end = (index + 4).min(content.len());
        changed[index..end].fill(0xff);
        try_it(&changed);
    }
    assert!(restored > 50 && refused > 500, "{restored} restored, {refused} refused");
}

#[test]
fn a_state_of_another_kind_is_refused_with_the_reason() {
    let world = World::new();
    let bytes = world.guest().system.save().unwrap();
    let content = &bytes[..bytes.len() - 32];
    let sealed = |content: &[u8]| [content, blake3::hash(content).as_bytes()].concat();
    let check = |bytes: &[u8], expected| assert_eq!(error_of(System::restore(bytes, world.resume())), expected);
    check(b"", RestoreError::Damaged { what: "it is cut off" });
    check(&[b'x'; 100], RestoreError::Damaged { what: "it does not begin as it should" });
    let mut newer = content.to_vec();
    newer[8] = 2;
    check(&sealed(&newer), RestoreError::UnknownVersion { version: 2 });
    let misfit = "its parts do not fit together";
    check(&sealed(&[content, &[0]].concat()), RestoreError::Damaged { what: misfit });
    // A file whose position no file can have.
    let rich = rich(&world);
    let mut far = rich[..rich.len() - 32].to_vec();
    let file = [1, 0, 0, 0, 0, Filetype::RegularFile.raw(), 3, 0, 0, 0, 0, 0, 0, 0];
    let at = far.windows(file.len()).position(|window| window == file).unwrap();
    far[at + 13] = 0x80;
    check(&sealed(&far), RestoreError::Damaged { what: misfit });
    let mut nul = content.to_vec();
    let at = nul.windows(4).position(|window| window == b"prog").unwrap();
    nul[at] = 0;
    check(&sealed(&nul), RestoreError::Setup(SetupError::Argument { index: 0 }));
}
