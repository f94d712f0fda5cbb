//! Arguments, environment, clocks, random numbers; and that no call believes its arguments.

use super::*;
use crate::wasi::process::raise;
use crate::wasi::{Exit, SetupError};

#[test]
fn arguments_and_environment_are_given() {
    let mut guest = World::new().guest();
    guest.call(|system, memory| system.args_sizes_get(memory, 0, 4)).unwrap();
    assert_eq!((guest.u32(0), guest.u32(4)), (3, 5 + 1 + 5));
    guest.call(|system, memory| system.args_get(memory, 64, 200)).unwrap();
    assert_eq!([guest.u32(64), guest.u32(68), guest.u32(72)], [200, 205, 206]);
    assert_eq!(guest.bytes(200, 12), b"prog\0\0\xc3\xa4rg\0\xaa");
    guest.call(|system, memory| system.environ_sizes_get(memory, 0, 4)).unwrap();
    assert_eq!((guest.u32(0), guest.u32(4)), (2, 6 + 7));
    guest.call(|system, memory| system.environ_get(memory, 64, 200)).unwrap();
    assert_eq!(guest.bytes(guest.u32(68), 7), b"EMPTY=\0");
    // Up to the last byte, and no further.
    let end = guest.memory.len() as u32;
    guest.call(|system, memory| system.args_get(memory, 64, end - 11)).unwrap();
    for (pointers, buffer) in [(64, end - 10), (end - 11, 64), (u32::MAX, 64), (64, u32::MAX)] {
        assert_eq!(guest.call(|system, memory| system.args_get(memory, pointers, buffer)), Err(Errno::Fault));
    }
    assert_eq!(guest.call(|system, memory| system.args_sizes_get(memory, 0, end - 3)), Err(Errno::Fault));
    assert_eq!(guest.call(|system, memory| system.environ_sizes_get(memory, end, 0)), Err(Errno::Fault));
    assert_eq!(guest.call(|system, memory| system.environ_get(memory, end, 0)), Err(Errno::Fault));
}

#[test]
fn what_cannot_be_given_is_refused() {
    let world = World::new();
    let check = |change: fn(&mut Setup), expected: SetupError| {
        let mut setup = world.setup();
        change(&mut setup);
        assert_eq!(System::new(setup).err(), Some(expected));
    };
    check(|setup| setup.args[1] = "a\0b".into(), SetupError::Argument { index: 1 });
    check(|setup| setup.env.push(("A=B".into(), "".into())), SetupError::Variable { name: "A=B".into() });
    check(|setup| setup.env.push(("".into(), "".into())), SetupError::Variable { name: "".into() });
    check(|setup| setup.env.push(("N".into(), "\0".into())), SetupError::Variable { name: "N".into() });
    check(|setup| setup.args.push("x".repeat(1 << 24)), SetupError::TooLong { bytes: (1 << 24) + 49 });
    check(|setup| setup.mounts[1].guest = "/data".into(), SetupError::MountedTwice { guest: "/data".into() });
}

#[test]
fn clocks_tell_the_processs_own_time() {
    let world = World::new();
    let mut guest = world.guest();
    let time = |guest: &mut Guest, id| {
        guest.call(|system, memory| system.clock_time_get(memory, id, 0, RESULT)).map(|()| guest.u64(RESULT))
    };
    assert_eq!(time(&mut guest, 0), Ok(DATE_NS + 5_000));
    assert_eq!(time(&mut guest, 1), Ok(1_000_000_000));
    assert_eq!((time(&mut guest, 2), time(&mut guest, 3)), (Ok(0), Ok(0)));
    world.script.time.pass(100);
    assert_eq!(time(&mut guest, 0), Ok(DATE_NS + 5_100));
    assert_eq!(time(&mut guest, 1), Ok(1_000_000_100));
    assert_eq!((time(&mut guest, 2), time(&mut guest, 3)), (Ok(50), Ok(50)));
    assert_eq!(time(&mut guest, 4), Err(Errno::Inval));
    for (id, resolution) in
        [(0, Ok(1)), (1, Ok(1)), (2, Ok(2)), (3, Ok(3)), (4, Err(Errno::Inval)), (u32::MAX, Err(Errno::Inval))]
    {
        let answer = guest.call(|system, memory| system.clock_res_get(memory, id, RESULT));
        assert_eq!(answer.map(|()| guest.u64(RESULT)), resolution, "{id}");
    }
    let end = guest.memory.len() as u32;
    assert_eq!(guest.call(|system, memory| system.clock_time_get(memory, 0, 0, end - 7)), Err(Errno::Fault));
    assert_eq!(guest.call(|system, memory| system.clock_res_get(memory, 0, end - 7)), Err(Errno::Fault));
}

#[test]
fn random_numbers_fill_exactly_the_buffer() {
    let mut guest = World::new().guest();
    guest.call(|system, memory| system.random_get(memory, BUFFER, 5)).unwrap();
    assert_eq!(guest.bytes(BUFFER - 1, 7), [0xaa, 1, 2, 3, 4, 5, 0xaa]);
    guest.call(|system, memory| system.random_get(memory, 65536, 0)).unwrap();
    assert_eq!(guest.call(|system, memory| system.random_get(memory, 65530, 7)), Err(Errno::Fault));
    guest.call(|system, memory| system.sched_yield(memory)).unwrap();
}

#[test]
fn signals_do_what_they_do_by_default() {
    for signal in [0, 16, 17, 22, 27] {
        assert_eq!(raise(signal), Ok(Ok(())), "{signal}");
    }
    for signal in [1, 2, 6, 9, 15, 30] {
        assert_eq!(raise(signal), Ok(Err(Exit(128 + signal))), "{signal}");
    }
    for signal in 18..22 {
        assert_eq!(raise(signal), Err(Errno::NotSup), "{signal}");
    }
    assert_eq!((raise(31), raise(256), raise(u32::MAX)), (Err(Errno::Inval), Err(Errno::Inval), Err(Errno::Inval)));
}

/// Every call that names a descriptor, with that descriptor and otherwise harmless arguments.
#[allow(clippy::type_complexity)]
fn calls_with(fd: u32) -> Vec<(&'static str, Box<dyn Fn(&mut System, &mut Memory) -> Result<Progress, Errno>>)> {
    macro_rules! calls {
        ($($name:ident($($argument:expr),*);)*) => {
            vec![$((
                stringify!($name),
                Box::new(move |system: &mut System, memory: &mut Memory| {
                    system.$name(memory, $($argument),*).map(Progress::from)
                }),
            ),)*]
        };
    }
    calls! {
        fd_advise(fd, 0, 1, 0);
        fd_allocate(fd, 0, 1);
        fd_close(fd);
        fd_datasync(fd);
        fd_fdstat_get(fd, RESULT);
        fd_fdstat_set_flags(fd, 0);
        fd_fdstat_set_rights(fd, 0, 0);
        fd_filestat_get(fd, RESULT);
        fd_filestat_set_size(fd, 3);
        fd_filestat_set_times(fd, 1, 1, 5);
        fd_pread(fd, ARRAY, 1, 0, RESULT);
        fd_prestat_get(fd, RESULT);
        fd_prestat_dir_name(fd, BUFFER, 100);
        fd_pwrite(fd, ARRAY, 1, 0, RESULT);
        fd_read(fd, ARRAY, 1, RESULT);
        fd_readdir(fd, BUFFER, 100, 0, RESULT);
        fd_renumber(fd, 0);
        fd_renumber(0, fd);
        fd_seek(fd, 1, 0, RESULT);
        fd_sync(fd);
        fd_tell(fd, RESULT);
        fd_write(fd, ARRAY, 1, RESULT);
        path_create_directory(fd, TEXT, 3);
        path_filestat_get(fd, 0, TEXT, 3, RESULT);
        path_filestat_set_times(fd, 0, TEXT, 3, 0, 0, 0);
        path_link(fd, 0, TEXT, 3, DATA, TEXT, 3);
        path_link(DATA, 0, TEXT, 3, fd, TEXT, 3);
        path_open(fd, 0, TEXT, 3, CREAT, 2, 0, 0, RESULT);
        path_readlink(fd, TEXT, 3, BUFFER, 10, RESULT);
        path_remove_directory(fd, TEXT, 3);
        path_rename(fd, TEXT, 3, DATA, TEXT, 3);
        path_rename(DATA, TEXT, 3, fd, TEXT, 3);
        path_symlink(TEXT, 3, fd, TEXT, 3);
        path_unlink_file(fd, TEXT, 3);
        sock_accept(fd, 0, RESULT);
        sock_recv(fd, ARRAY, 1, 0, RESULT, RESULT);
        sock_send(fd, ARRAY, 1, 0, RESULT);
        sock_shutdown(fd, 1);
    }
}

#[test]
fn a_descriptor_that_is_not_open_is_a_bad_one() {
    for fd in [5, 77, 1 << 16, i32::MAX as u32, u32::MAX] {
        for (name, call) in calls_with(fd) {
            let mut guest = World::new().guest();
            guest.buffers(&[(BUFFER, 4)]);
            guest.text("abc");
            let answer = call(&mut guest.system, &mut Memory::new(&mut guest.memory));
            assert_eq!(answer, Err(Errno::BadF), "{name} {fd}");
        }
    }
}

/// What each call says of a descriptor of the wrong kind.
#[test]
fn the_kind_of_a_descriptor_comes_before_its_rights() {
    let world = World::new();
    std::fs::write(world.path("abc"), "content").unwrap();
    let kinds: [(&str, fn(&str) -> Option<Errno>); 3] = [
        ("a stream", |name| match name {
            "fd_advise" | "fd_allocate" | "fd_pread" | "fd_pwrite" | "fd_seek" | "fd_tell" => Some(Errno::SPipe),
            "fd_filestat_set_size" | "fd_datasync" | "fd_sync" => Some(Errno::Inval),
            "fd_filestat_set_times" => Some(Errno::NotCapable),
            "fd_prestat_get" | "fd_prestat_dir_name" => Some(Errno::BadF),
            "fd_readdir" => Some(Errno::NotDir),
            name if name.starts_with("path_") => Some(Errno::NotDir),
            name if name.starts_with("sock_") => Some(Errno::NotSock),
            _ => None,
        }),
        ("a file", |name| match name {
            "fd_prestat_get" | "fd_prestat_dir_name" => Some(Errno::BadF),
            "fd_readdir" => Some(Errno::NotDir),
            name if name.starts_with("path_") => Some(Errno::NotDir),
            name if name.starts_with("sock_") => Some(Errno::NotSock),
            _ => None,
        }),
        ("a directory", |name| match name {
            "fd_advise"
            | "fd_allocate"
            | "fd_filestat_set_size"
            | "fd_pread"
            | "fd_pwrite"
            | "fd_read"
            | "fd_seek"
            | "fd_tell"
            | "fd_write" => Some(Errno::IsDir),
            name if name.starts_with("sock_") => Some(Errno::NotSock),
            // What is to be removed is a file.
            "path_remove_directory" => Some(Errno::NotDir),
            _ => None,
        }),
    ];
    let calls = calls_with(0).len();
    for (kind, expected) in kinds {
        for index in 0..calls {
            let mut guest = world.guest();
            let fd = match kind {
                "a stream" => 1,
                "a file" => guest.open(DATA, "abc", 0, READ_WRITE).unwrap(),
                _ => DATA,
            };
            let (name, call) = calls_with(fd).swap_remove(index);
            guest.buffers(&[(BUFFER, 4)]);
            guest.text("abc");
            let answer = call(&mut guest.system, &mut Memory::new(&mut guest.memory));
            match expected(name) {
                Some(expected) => assert_eq!(answer, Err(expected), "{name} on {kind}"),
                None => assert!(
                    !matches!(answer, Err(Errno::NotDir | Errno::IsDir | Errno::SPipe | Errno::NotSock)),
                    "{name} on {kind}: {answer:?}"
                ),
            }
        }
        std::fs::write(world.path("abc"), "content").unwrap();
    }
}

/// A descriptor that has every right but one cannot do what needs that one, and nothing else changes.
#[test]
fn every_right_is_asked_for() {
    let needed: &[(&str, Rights)] = &[
        ("fd_advise", Rights::FD_ADVISE),
        ("fd_allocate", Rights::FD_ALLOCATE),
        ("fd_datasync", Rights::FD_DATASYNC),
        ("fd_fdstat_set_flags", Rights::FD_FDSTAT_SET_FLAGS),
        ("fd_filestat_get", Rights::FD_FILESTAT_GET),
        ("fd_filestat_set_size", Rights::FD_FILESTAT_SET_SIZE),
        ("fd_filestat_set_times", Rights::FD_FILESTAT_SET_TIMES),
        ("fd_pread", Rights::FD_READ),
        ("fd_pread", Rights::FD_SEEK),
        ("fd_pwrite", Rights::FD_WRITE),
        ("fd_pwrite", Rights::FD_SEEK),
        ("fd_read", Rights::FD_READ),
        ("fd_seek", Rights::FD_SEEK),
        ("fd_sync", Rights::FD_SYNC),
        ("fd_write", Rights::FD_WRITE),
    ];
    let on_directories: &[(&str, Rights)] = &[
        ("fd_readdir", Rights::FD_READDIR),
        ("path_create_directory", Rights::PATH_CREATE_DIRECTORY),
        ("path_filestat_get", Rights::PATH_FILESTAT_GET),
        ("path_filestat_set_times", Rights::PATH_FILESTAT_SET_TIMES),
        ("path_link", Rights::PATH_LINK_SOURCE | Rights::PATH_LINK_TARGET),
        ("path_open", Rights::PATH_OPEN),
        ("path_open", Rights::PATH_CREATE_FILE),
        ("path_readlink", Rights::PATH_READLINK),
        ("path_remove_directory", Rights::PATH_REMOVE_DIRECTORY),
        ("path_rename", Rights::PATH_RENAME_SOURCE | Rights::PATH_RENAME_TARGET),
        ("path_symlink", Rights::PATH_SYMLINK),
        ("path_unlink_file", Rights::PATH_UNLINK_FILE),
    ];
    let world = World::new();
    for (needed, directory) in [(needed, false), (on_directories, true)] {
        for (name, right) in needed {
            for index in 0..calls_with(0).len() {
                let mut guest = world.guest();
                std::fs::write(world.path("file"), "content").unwrap();
                let fd = match directory {
                    false => guest.open(DATA, "file", 0, READ_WRITE).unwrap(),
                    true => OTHER,
                };
                let (call_name, call) = calls_with(fd).swap_remove(index);
                if call_name != *name {
                    continue;
                }
                let (_, _, rights, inheriting) = guest.fdstat(fd).unwrap();
                let (rights, inheriting) = (Rights::from_raw(rights).unwrap(), Rights::from_raw(inheriting).unwrap());
                assert!(rights.contains(*right), "{name}");
                guest.set_rights(fd, rights & !*right, inheriting).unwrap();
                guest.buffers(&[(BUFFER, 4)]);
                guest.text("abc");
                let answer = call(&mut guest.system, &mut Memory::new(&mut guest.memory));
                assert_eq!(answer, Err(Errno::NotCapable), "{name} without {right:?}");
                assert_eq!(content(world.path("file")), "content", "{name}");
            }
        }
    }
    assert_eq!(std::fs::read_dir(world.directory.path().join("other")).unwrap().count(), 0);
}

/// To ask for a file's position, one of two rights is enough.
#[test]
fn telling_is_less_than_seeking() {
    let world = World::new();
    std::fs::write(world.path("file"), "content").unwrap();
    let mut guest = world.guest();
    for (rights, tells, stays, moves) in [
        (Rights::FD_TELL, Ok(0), Ok(0), Err(Errno::NotCapable)),
        (Rights::FD_SEEK, Ok(0), Ok(0), Ok(1)),
        (Rights::NONE, Err(Errno::NotCapable), Err(Errno::NotCapable), Err(Errno::NotCapable)),
    ] {
        let fd = guest.open(DATA, "file", 0, rights).unwrap();
        assert_eq!(guest.tell(fd), tells, "{rights:?}");
        assert_eq!(guest.seek(fd, 0, 1), stays, "{rights:?}");
        assert_eq!(guest.seek(fd, 1, 1), moves, "{rights:?}");
    }
}

#[test]
fn flags_that_mean_nothing_are_refused() {
    let world = World::new();
    std::fs::write(world.path("abc"), "content").unwrap();
    let mut guest = world.guest();
    let fd = guest.open(DATA, "abc", 0, READ_WRITE).unwrap();
    let (text, length) = guest.text("abc");
    macro_rules! refused {
        ($($name:ident($($argument:expr),*);)*) => {
            $(assert_eq!(
                guest.call(|system, memory| system.$name(memory, $($argument),*).map(|_| ())),
                Err(Errno::Inval),
                "{}", stringify!($name($($argument),*))
            );)*
        };
    }
    refused! {
        fd_advise(fd, 0, 0, 6);
        fd_advise(fd, 0, 0, 256);
        fd_advise(fd, u64::MAX, 0, 0);
        fd_advise(fd, 0, 1 << 63, 0);
        fd_allocate(fd, 0, 0);
        fd_fdstat_set_flags(fd, 32);
        fd_fdstat_set_flags(fd, 0x10000);
        fd_filestat_set_size(fd, 1 << 63);
        fd_filestat_set_times(fd, 0, 0, 3);
        fd_filestat_set_times(fd, 0, 0, 12);
        fd_filestat_set_times(fd, 0, 0, 16);
        fd_filestat_set_times(fd, 0, 0, 0x10001);
        fd_pread(fd, ARRAY, 0, 1 << 63, RESULT);
        fd_pwrite(fd, ARRAY, 0, u64::MAX, RESULT);
        fd_seek(fd, 0, 3, RESULT);
        fd_seek(fd, 0, 256, RESULT);
        fd_seek(fd, -1, 0, RESULT);
        fd_seek(fd, i64::MIN, 2, RESULT);
        path_filestat_get(DATA, 2, text, length, RESULT);
        path_filestat_set_times(DATA, 2, text, length, 0, 0, 0);
        path_filestat_set_times(DATA, 0, text, length, 0, 0, 3);
        path_link(DATA, 1, text, length, DATA, text, length);
        path_link(DATA, 4, text, length, DATA, text, length);
        path_open(DATA, 2, text, length, 0, 0, 0, 0, RESULT);
        path_open(DATA, 0, text, length, 16, 0, 0, 0, RESULT);
        path_open(DATA, 0, text, length, 0, 1 << 30, 0, 0, RESULT);
        path_open(DATA, 0, text, length, 0, 0, 1 << 63, 0, RESULT);
        path_open(DATA, 0, text, length, 0, 0, 0, 32, RESULT);
        path_open(DATA, 0, text, length, CREAT | DIRECTORY, 0, 0, 0, RESULT);
        sock_accept(1, 32, RESULT);
        sock_recv(1, ARRAY, 0, 4, RESULT, RESULT);
        sock_send(1, ARRAY, 0, 1, RESULT);
        sock_shutdown(1, 4);
    }
    assert_eq!(guest.call(|system, memory| system.fd_allocate(memory, fd, 1 << 62, 1 << 63)), Err(Errno::FBig));
    assert_eq!(guest.call(|system, memory| system.fd_seek(memory, fd, i64::MAX, 2, RESULT)), Err(Errno::Overflow));
    assert_eq!(content(world.path("abc")), "content");
}

/// Bad addresses are faults, and calls that they are given to have no effect.
#[test]
fn bad_addresses_are_faults_without_effects() {
    let world = World::new();
    std::fs::write(world.path("abc"), "content").unwrap();
    let mut guest = world.guest();
    let fd = guest.open(DATA, "abc", 0, READ_WRITE).unwrap();
    let end = guest.memory.len() as u32;
    world.input.lock().unwrap().input.extend(b"input");
    guest.buffers(&[(BUFFER, 4)]);
    guest.text("abc");
    macro_rules! faults {
        ($($name:ident($($argument:expr),*);)*) => {
            $(assert_eq!(
                guest.call(|system, memory| system.$name(memory, $($argument),*).map(|_| ())),
                Err(Errno::Fault),
                "{}", stringify!($name($($argument),*))
            );)*
        };
    }
    faults! {
        fd_fdstat_get(fd, end - 23);
        fd_filestat_get(fd, end - 63);
        fd_pread(fd, ARRAY, 1, 0, end - 3);
        fd_pread(fd, end - 7, 1, 0, RESULT);
        fd_prestat_get(DATA, end - 7);
        fd_prestat_dir_name(DATA, end - 4, 5);
        fd_pwrite(fd, ARRAY, 1, 0, end - 3);
        fd_pwrite(fd, u32::MAX, 1, 0, RESULT);
        fd_read(fd, ARRAY, 1, u32::MAX);
        fd_read(fd, ARRAY, 1 << 29, RESULT);
        fd_read(0, ARRAY, 1, end);
        fd_read(0, ARRAY, u32::MAX, RESULT);
        fd_readdir(DATA, end - 99, 100, 0, RESULT);
        fd_readdir(DATA, BUFFER, 100, 0, end - 3);
        fd_seek(fd, 1, 0, end - 7);
        fd_tell(fd, end - 7);
        fd_write(fd, ARRAY, 1, end - 3);
        fd_write(1, ARRAY, 1, end - 3);
        fd_write(1, ARRAY, 0x2000_0000, RESULT);
        path_create_directory(DATA, end - 2, 3);
        path_filestat_get(DATA, 0, TEXT, 3, end - 63);
        path_filestat_get(DATA, 0, u32::MAX, u32::MAX, RESULT);
        path_filestat_set_times(DATA, 0, end, 1, 0, 0, 5);
        path_link(DATA, 0, end, 1, DATA, TEXT, 3);
        path_link(DATA, 0, TEXT, 3, DATA, end, 1);
        path_open(DATA, 0, TEXT, 3, TRUNC, 0, 0, 0, end - 3);
        path_open(DATA, 0, TEXT, u32::MAX, CREAT, 0, 0, 0, RESULT);
        path_readlink(DATA, TEXT, 3, end - 9, 10, RESULT);
        path_readlink(DATA, TEXT, 3, BUFFER, 10, end - 3);
        path_readlink(DATA, end, 3, BUFFER, 10, RESULT);
        path_remove_directory(DATA, end, 1);
        path_rename(DATA, TEXT, 3, DATA, end, 1);
        path_rename(DATA, end, 1, DATA, TEXT, 3);
        path_symlink(end, 1, DATA, TEXT, 3);
        path_symlink(TEXT, 3, DATA, end, 1);
        path_unlink_file(DATA, end, 1);
        poll_oneoff(end - 47, BUFFER, 1, RESULT);
        poll_oneoff(BUFFER, end - 31, 1, RESULT);
        poll_oneoff(BUFFER, BUFFER, 1, end - 3);
        poll_oneoff(BUFFER, BUFFER, 1 << 16, RESULT);
    }
    // A buffer of the array, rather than the array.
    guest.buffers(&[(BUFFER, 2), (end - 3, 4)]);
    faults! {
        fd_pread(fd, ARRAY, 2, 0, RESULT);
        fd_pwrite(fd, ARRAY, 2, 0, RESULT);
        fd_read(fd, ARRAY, 2, RESULT);
        fd_read(0, ARRAY, 2, RESULT);
        fd_write(fd, ARRAY, 2, RESULT);
        fd_write(1, ARRAY, 2, RESULT);
    }
    assert_eq!(guest.tell(fd), Ok(0));
    assert_eq!(guest.read(0, 100), Ok(b"input".to_vec()));
    assert_eq!(content(world.path("abc")), "content");
    assert_eq!(std::fs::read_dir(world.path("")).unwrap().count(), 1);
    assert!(world.output().is_empty());
    assert!(guest.system.table.get(fd + 1).is_err());
}

/// A generator of numbers that a hostile program might use, the same ones every time.
struct Hostile(u64);

impl Hostile {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn number(&mut self) -> u64 {
        match self.next() % 12 {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << 31,
            3 => (1 << 16) - self.next() % 70,
            4 => 1 << (self.next() % 64),
            5..=7 => self.next() % 9,
            8 => TEXT as u64,
            9 => ARRAY as u64,
            10 => self.next() % (1 << 16),
            _ => self.next(),
        }
    }
}

/// Whatever the arguments and the memory: an answer, and no panic.
#[test]
fn no_arguments_make_a_call_panic() {
    let world = World::new();
    world.output.lock().unwrap().room = 100_000;
    let mut hostile = Hostile(1);
    let mut answers = std::collections::BTreeMap::new();
    let mut guest = world.guest();
    for round in 0..120_000 {
        if round % 500 == 0 {
            guest = world.guest();
            guest.open(DATA, "abc", CREAT, READ_WRITE).unwrap();
            let _ = guest.create_directory(DATA, "dir");
            guest.open(DATA, "dir", DIRECTORY, Rights::ALL & !READ_WRITE | Rights::FD_READDIR).unwrap();
            guest.memory.iter_mut().for_each(|byte| *byte = hostile.number() as u8);
            guest.text(["abc", "dir", "../x", "dir/../..", "/abc", "a\0b", "\u{e4}"][hostile.next() as usize % 7]);
            guest.buffers(&[(BUFFER, 10), (hostile.number() as u32, hostile.number() as u32), (BUFFER, 3)]);
        }
        let mut n = || hostile.number();
        macro_rules! any_of {
            ($which:expr; $($index:literal $name:ident($($ty:ty),*);)*) => {
                match $which {
                    $($index => {
                        #[allow(clippy::useless_conversion)]
                        let answer = guest.call(|system, memory| system.$name(memory, $((n() as $ty).into()),*).map(|_| ()));
                        (stringify!($name), answer)
                    })*
                    _ => unreachable!("there are as many"),
                }
            };
        }
        // Sizes are kept small where they would cost real disk.
        let (name, answer) = any_of! { round % 42;
            0 args_get(u32, u32);
            1 args_sizes_get(u32, u32);
            2 environ_get(u32, u32);
            3 environ_sizes_get(u32, u32);
            4 clock_res_get(u32, u32);
            5 clock_time_get(u32, u64, u32);
            6 fd_advise(u32, u64, u64, u32);
            7 fd_allocate(u32, u8, u8);
            8 fd_close(u32);
            9 fd_datasync(u32);
            10 fd_fdstat_get(u32, u32);
            11 fd_fdstat_set_flags(u32, u32);
            12 fd_fdstat_set_rights(u32, u64, u64);
            13 fd_filestat_get(u32, u32);
            14 fd_filestat_set_size(u32, u64);
            15 fd_filestat_set_times(u32, u64, u64, u32);
            16 fd_pread(u32, u32, u32, u64, u32);
            17 fd_prestat_get(u32, u32);
            18 fd_prestat_dir_name(u32, u32, u32);
            19 fd_pwrite(u32, u32, u32, u64, u32);
            20 fd_read(u32, u32, u32, u32);
            21 fd_readdir(u32, u32, u32, u64, u32);
            22 fd_renumber(u32, u32);
            23 fd_seek(u32, i64, u32, u32);
            24 fd_sync(u32);
            25 fd_tell(u32, u32);
            26 fd_write(u32, u32, u32, u32);
            27 path_create_directory(u32, u32, u32);
            28 path_filestat_get(u32, u32, u32, u32, u32);
            29 path_filestat_set_times(u32, u32, u32, u32, u64, u64, u32);
            30 path_link(u32, u32, u32, u32, u32, u32, u32);
            31 path_open(u32, u32, u32, u32, u32, u64, u64, u32, u32);
            32 path_readlink(u32, u32, u32, u32, u32, u32);
            33 path_remove_directory(u32, u32, u32);
            34 path_rename(u32, u32, u32, u32, u32, u32);
            35 path_symlink(u32, u32, u32, u32, u32);
            36 path_unlink_file(u32, u32, u32);
            37 poll_oneoff(u32, u32, u32, u32);
            38 random_get(u32, u32);
            39 sock_accept(u32, u32, u32);
            40 sock_recv(u32, u32, u32, u32, u32, u32);
            41 sock_send(u32, u32, u32, u32, u32);
        };
        *answers.entry((name, answer.err())).or_insert(0) += 1;
    }
    // The arguments were not so wild that everything failed at once.
    assert!(answers.len() > 150, "{answers:?}");
    assert_eq!(std::fs::read_dir(world.directory.path()).unwrap().count(), 2);
}
