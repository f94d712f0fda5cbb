//! `una freeze` and `una thaw`: a program goes on in another process as if nothing had been.

mod house;

use house::{House, Running, exists, programs};

/// Freezes a running program; gives what it printed since the last line that was read.
fn freeze(house: &House, running: Running, image: &str, options: &[&str]) -> String {
    let pid = running.pid();
    let mut words = vec!["freeze"];
    words.extend_from_slice(options);
    words.extend_from_slice(&[&pid, image]);
    let done = house.done(&words);
    assert_eq!(done.status, 0, "{}", done.err);
    assert!(done.out.contains(&format!("una thaw {image}")), "{}", done.out);
    let ended = running.end();
    assert_eq!(ended.status, 148, "{}", ended.err);
    ended.out
}

#[test]
fn a_computation_goes_on_where_it_stopped() {
    let house = House::new();
    house.program("count.wasm", &programs::counting(2000, 20_000));
    for (first, second) in [("native", "native"), ("native", "pulley"), ("pulley", "native")] {
        let mut running = house.start(&["run", "--engine", first, "count.wasm"]);
        running.expect_line("0");
        let mut out = "0\n".to_string();
        out += &freeze(&house, running, "image", &[]);
        // A chain: frozen again, twice, and continued.
        for _ in 0..2 {
            // Where this machine is slow to freeze it may be at its end, and would say nothing any more.
            if out.ends_with("\n1999\n") {
                break;
            }
            let mut running = house.start(&["thaw", "--engine", second, "image"]);
            out += &(running.line() + "\n");
            out += &freeze(&house, running, "image", &[]);
        }
        let done = house.done(&["thaw", "--engine", first, "image"]);
        assert_eq!(done.status, 0, "{}", done.err);
        out += &done.out;
        let expected: String = (0..2000).map(|i| format!("{i}\n")).collect();
        assert_eq!(out, expected, "{first}, {second}");
    }
}

#[test]
fn files_and_directories_keep_their_places() {
    for engine in ["native", "pulley"] {
        let house = House::new();
        house.write("d/in", "abcdefghijklmno");
        for name in ["x", "y"] {
            house.write(&format!("d/{name}"), "");
        }
        house.program("files.wasm", &programs::files());
        let mut running = house.start(&["run", "--mount", "d=/d", "files.wasm"]);
        running.expect_line("ready");
        let mut names = vec![];
        let step = |running: &mut Running, names: &mut Vec<String>, expected: &str| {
            running.say(".");
            running.expect_line(expected);
            names.push(running.line());
        };
        step(&mut running, &mut names, "abc");
        step(&mut running, &mut names, "def");
        // It waits for input now, or is about to.
        assert_eq!(freeze(&house, running, "image", &[]), "");
        let mut running = house.start(&["thaw", "--engine", engine, "image"]);
        step(&mut running, &mut names, "ghi");
        assert_eq!(freeze(&house, running, "image", &[]), "");
        // Somewhere else, by name.
        std::fs::rename(house.path("d"), house.path("e")).unwrap();
        let mut running = house.start(&["thaw", "--mount", "e=/d", "image"]);
        step(&mut running, &mut names, "jkl");
        step(&mut running, &mut names, "mno");
        running.end().expect(0, "");
        assert_eq!(house.read("e/out"), "abcdefghijklmno");
        names.sort();
        // `.`, `..`, and three of the four files, each once.
        assert_eq!(names.len(), 5);
        names.dedup();
        assert_eq!(names.len(), 5);
        assert!(names.contains(&".".into()) && names.contains(&"..".into()));
    }
}

#[test]
fn unread_input_is_not_lost() {
    let house = House::new();
    house.write("d/x", "");
    house.program("busy.wasm", &programs::busy_before_reading());
    let mut running = house.start(&["run", "--mount", "d=/d", "busy.wasm"]);
    running.expect_line("busy");
    running.say("said before\n");
    assert_eq!(freeze(&house, running, "image", &[]), "");
    house.write("d/go", "");
    house.done_with(&["thaw", "image"], "said after\n").expect(0, "said before\nsaid after\n");
    // An image can be continued any number of times.
    house.done_with(&["thaw", "image"], "otherwise\n").expect(0, "said before\notherwise\n");
}

#[test]
fn a_checkpoint_leaves_the_program_running() {
    let house = House::new();
    house.program("cat.wasm", &programs::cat());
    let mut running = house.start(&["run", "cat.wasm"]);
    running.say("one\n");
    running.expect_line("one");
    let done = house.done(&["freeze", "--keep-running", &running.pid(), "image"]);
    assert!(done.status == 0 && done.out.contains("runs on"), "{}{}", done.out, done.err);
    running.say("two\n");
    running.expect_line("two");
    running.end().expect(0, "");
    house.done_with(&["thaw", "image"], "three\n").expect(0, "three\n");
}

#[test]
fn the_program_is_found_or_asked_for() {
    let house = House::new();
    let program = house.program("cat.wasm", &programs::cat());
    let mut running = house.start(&["run", "cat.wasm"]);
    running.say("x\n");
    running.expect_line("x");
    house.done(&["freeze", "--keep-running", "--with-program", &running.pid(), "whole"]);
    freeze(&house, running, "image", &[]);
    // The file that it was run from is not needed any more.
    let wasm = std::fs::read(&program).unwrap();
    std::fs::remove_file(&program).unwrap();
    house.done_with(&["thaw", "image"], "y\n").expect(0, "y\n");
    // On another machine it is not there, unless it is in the image.
    std::fs::remove_dir_all(house.path("home")).unwrap();
    let hash = blake3::hash(&wasm).to_hex().to_string();
    house
        .done(&["thaw", "image"])
        .expect_error(125, &[&hash, "not on this machine", "una thaw --program PROG.wasm image"]);
    house.done_with(&["thaw", "whole"], "z\n").expect(0, "z\n");
    house.write("again.wasm", &wasm);
    house.done_with(&["thaw", "--program", "again.wasm", "image"], "z\n").expect(0, "z\n");
    house.program("other.wasm", &programs::hello());
    house
        .done(&["thaw", "--program", "other.wasm", "image"])
        .expect_error(125, &["another program than other.wasm", &hash]);
}

/// An image that came from elsewhere gets no directory that it names itself.
#[test]
fn directories_are_granted_not_claimed() {
    let house = House::new();
    house.write("d/in", "abcdef");
    house.program("files.wasm", &programs::files());
    let mut running = house.start(&["run", "--mount", "d=/d", "files.wasm"]);
    running.expect_line("ready");
    freeze(&house, running, "image", &["--with-program"]);
    // Another user, or another machine: nothing is remembered.
    std::fs::remove_dir_all(house.path("home")).unwrap();
    let host = std::fs::canonicalize(house.path("d")).unwrap();
    let line = format!("una thaw --mount {}=/d image", host.display());
    house.done(&["thaw", "image"]).expect_error(125, &["had directories (/d)", &line]);
    let done = house.done(&["thaw", "--mount", "d=/elsewhere", "image"]);
    done.expect_error(125, &["had no directory at /elsewhere", "it had: /d"]);
    let done = house.done_with(&["thaw", "--mount", "d=/d", "image"], ".");
    assert_eq!((done.status, done.out.starts_with("abc\n")), (0, true), "{}", done.err);
    // The file that was open is gone.
    std::fs::remove_file(house.path("d/in")).unwrap();
    house.done(&["thaw", "--mount", "d=/d", "image"]).expect_error(125, &["`/d/in`", "not there any more"]);
}

#[test]
fn what_cannot_be_frozen_says_so_and_runs_on() {
    let house = House::new();
    house.program("cat.wasm", &programs::cat());
    let mut running = house.start(&["run", "--unfreezable", "cat.wasm"]);
    running.say("x\n");
    running.expect_line("x");
    house.done(&["freeze", &running.pid(), "image"]).expect_error(1, &["not freezable", "without --unfreezable"]);
    running.say("y\n");
    running.expect_line("y");
    running.end().expect(0, "");
    assert!(!exists(&house.path("image")));
}

#[test]
fn places_where_no_image_can_be() {
    let house = House::new();
    house.program("cat.wasm", &programs::cat());
    house.write("notes.txt", "my notes");
    house.write("directory/x", "");
    let mut running = house.start(&["run", "cat.wasm"]);
    running.say("x\n");
    running.expect_line("x");
    let pid = running.pid();
    house
        .done(&["freeze", &pid, "notes.txt"])
        .expect_error(1, &["a file of this name that is no image", "choose another name"]);
    assert_eq!(house.read("notes.txt"), "my notes");
    house.done(&["freeze", &pid, "directory"]).expect_error(1, &["it is a directory"]);
    house.done(&["freeze", &pid, "absent/image"]).expect_error(1, &["No such file or directory", "make the directory"]);
    house
        .done(&["run", "--image", "notes.txt", "cat.wasm"])
        .expect_error(125, &["a file of this name that is no image"]);
    if !house::is_root() {
        house.done(&["freeze", &pid, "/image"]).expect_error(1, &["Permission denied"]);
    }
    running.say("y\n");
    running.expect_line("y");
    running.end().expect(0, "");
}

#[test]
fn processes_that_are_not_there() {
    let house = House::new();
    house.done(&["freeze", "4194305", "image"]).expect_error(1, &["there is no such process", "una ps"]);
    house.done(&["freeze", "1", "image"]).expect_error(1, &["process 1", "una ps"]);
    house.done(&["freeze", "one", "image"]).expect_error(2, &["one"]);
}

/// A freeze that comes too late, or while another one is under way, is answered, and the image is that of one of them.
#[test]
fn two_freezes_at_once() {
    let house = House::new();
    house.program("count.wasm", &programs::counting(0, 1_000_000));
    for _ in 0..5 {
        let mut running = house.start(&["run", "count.wasm"]);
        running.expect_line("0");
        let pid = running.pid();
        let asked: Vec<_> = ["a", "b"].map(|image| house.una(&["freeze", &pid, image]).spawn().unwrap()).into();
        let done: Vec<house::Done> = asked.into_iter().map(|child| child.wait_with_output().unwrap().into()).collect();
        let successes = done.iter().filter(|done| done.status == 0).count();
        assert_eq!(successes, 1, "{}\n{}", done[0].err, done[1].err);
        for (done, image) in done.iter().zip(["a", "b"]) {
            assert_eq!(done.status == 0, exists(&house.path(image)));
            if done.status != 0 {
                let said = [
                    "being frozen already",
                    "has ended",
                    "ended meanwhile",
                    "not a program that una runs",
                    "no answer",
                ];
                assert!(said.iter().any(|said| done.err.contains(said)), "{}", done.err);
            }
        }
        assert_eq!(running.end().status, 148);
        for image in ["a", "b"] {
            let _ = std::fs::remove_file(house.path(image));
        }
    }
}

/// Killed at any moment of a freeze, a process leaves no image or a whole one, and nothing else.
#[test]
fn killed_while_freezing() {
    let house = House::new();
    // Thirty megabytes of memory that is not zero.
    let program = programs::program(
        r#"(data (i32.const 1024) "ready\n")
           (func (export "_start")
             (drop (memory.grow (i32.const 480)))
             (memory.fill (i32.const 4096) (i32.const 7) (i32.const 30000000))
             (call $write (i32.const 1) (i32.const 1024) (i32.const 6))
             (loop $for_ever (br $for_ever)))"#,
    );
    house.program("big.wasm", &program);
    let (mut whole, mut none) = (0, 0);
    for round in 0..12 {
        std::fs::create_dir(house.path("images")).unwrap();
        let mut running = house.start(&["run", "big.wasm"]);
        running.expect_line("ready");
        let pid = running.pid();
        let before = written_bytes(&pid);
        let mut freezing = house.una(&["freeze", &pid, "images/image"]).spawn().unwrap();
        // From before it begins to after its end.
        house::until("the image to grow", || {
            let enough = written_bytes(&pid) >= before + round * 3_000_000;
            (enough || freezing.try_wait().unwrap().is_some()).then_some(())
        });
        running.child.kill().unwrap();
        freezing.wait().unwrap();
        running.child.wait().unwrap();
        match &house.list("images")[..] {
            [] => none += 1,
            [only] if only == "image" => {
                whole += 1;
                let done = house.done(&["inspect", "images/image"]);
                assert_eq!(done.status, 0, "{}", done.err);
            }
            other => panic!("{other:?}"),
        }
        std::fs::remove_dir_all(house.path("images")).unwrap();
    }
    println!("{whole} whole, {none} without");
    assert!(none > 0, "none was killed in time");
}

/// What a process has written so far, to whatever.
fn written_bytes(pid: &str) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok()).unwrap_or(0)
}

/// A disk that is full while an image is written: the program goes on, and no part of an image is left.
#[test]
fn a_full_disk() {
    if !house::is_root() {
        eprintln!("skipped: a small file system of its own can be mounted by root only");
        return;
    }
    let house = House::new();
    std::fs::create_dir(house.path("small")).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "none"])
        .arg(house.path("small"))
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no file system can be mounted here");
        return;
    }
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg(&self.0).status();
        }
    }
    let _unmount = Unmount(house.path("small"));
    let program = programs::program(
        r#"(func (export "_start") (local $n i32)
             (memory.fill (i32.const 8192) (i32.const 7) (i32.const 200000))
             (loop $next
               (local.set $n (call $read (i32.const 0) (i32.const 4096) (i32.const 4096)))
               (if (i32.eqz (local.get $n)) (then (return)))
               (call $write (i32.const 1) (i32.const 4096) (local.get $n))
               (br $next)))"#,
    );
    house.program("big.wasm", &program);
    let mut running = house.start(&["run", "big.wasm"]);
    running.say("one\n");
    running.expect_line("one");
    for _ in 0..2 {
        let done = house.done(&["freeze", &running.pid(), "small/image"]);
        done.expect_error(1, &["cannot freeze into", "No space left on device", "another disk"]);
        assert_eq!(house.list("small"), [""; 0]);
    }
    running.say("two\n");
    running.expect_line("two");
    // With room it can be frozen after all.
    assert_eq!(freeze(&house, running, "image", &[]), "");
    house.done_with(&["thaw", "image"], "three\n").expect(0, "three\n");
}
