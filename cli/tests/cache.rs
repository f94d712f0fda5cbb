//! Compiled code on disk: used, checked, made again, and trusted only where nobody else can write.

mod house;

use house::{House, programs};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

fn entries(house: &House) -> Vec<PathBuf> {
    let names = house.list("home/.cache/una/code");
    names.iter().map(|name| house.path("home/.cache/una/code").join(name)).collect()
}

#[test]
fn a_program_is_compiled_once() {
    let house = House::new();
    house.program("hello.wasm", &programs::hello());
    house.done(&["run", "hello.wasm"]).expect(0, "hello\n");
    let [entry] = &entries(&house)[..] else { panic!("{:?}", entries(&house)) };
    let made = std::fs::metadata(entry).unwrap();
    assert_eq!(made.mode() & 0o777, 0o600);
    house.done(&["run", "hello.wasm"]).expect(0, "hello\n");
    assert_eq!(std::fs::metadata(entry).unwrap().ino(), made.ino(), "it was not made again");
    // Other settings, other code.
    house.done(&["run", "--unfreezable", "hello.wasm"]).expect(0, "hello\n");
    house.done(&["run", "--engine", "pulley", "hello.wasm"]).expect(0, "hello\n");
    house.done(&["run", "--canonical-nans", "hello.wasm"]).expect(0, "hello\n");
    assert_eq!(entries(&house).len(), 4);
}

#[test]
fn a_damaged_entry_is_made_again() {
    let house = House::new();
    house.program("hello.wasm", &programs::hello());
    house.done(&["run", "hello.wasm"]).expect(0, "hello\n");
    let entry = entries(&house).remove(0);
    let whole = std::fs::read(&entry).unwrap();
    let damages: [fn(&mut Vec<u8>); 5] = [
        |bytes| bytes.clear(),
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.fill(0),
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        },
        |bytes| bytes.extend_from_slice(&[0; 100]),
    ];
    for damage in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        std::fs::write(&entry, bytes).unwrap();
        house.done(&["run", "hello.wasm"]).expect(0, "hello\n");
        assert_eq!(std::fs::read(&entry).unwrap(), whole, "it is whole again, and the same code");
    }
}

#[test]
fn many_start_the_same_program_at_once() {
    let house = House::new();
    house.program("hello.wasm", &programs::hello());
    let started: Vec<_> = (0..8).map(|_| house.una(&["run", "hello.wasm"]).spawn().unwrap()).collect();
    for child in started {
        house::Done::from(child.wait_with_output().unwrap()).expect(0, "hello\n");
    }
    let entries = entries(&house);
    assert!(entries.len() == 1 && entries[0].extension().unwrap() == "code", "{entries:?}");
}

/// Who can write there could have anything run as this user.
#[test]
fn a_directory_that_others_can_write_to_is_not_used() {
    let house = House::new();
    house.program("hello.wasm", &programs::hello());
    house.done(&["run", "hello.wasm"]).expect(0, "hello\n");
    for directory in ["home/.cache/una", "home/.cache/una/code"] {
        let path = house.path(directory);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o757)).unwrap();
        let done = house.done(&["run", "hello.wasm"]);
        done.expect(0, "hello\n");
        assert!(done.err.contains("compiled code is not kept") && done.err.contains("757"), "{}", done.err);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    house.done(&["run", "hello.wasm"]).expect(0, "hello\n");
    if house::is_root() {
        // What belongs to somebody else, likewise.
        std::os::unix::fs::chown(house.path("home/.cache/una"), Some(12345), None).unwrap();
        let done = house.done(&["run", "hello.wasm"]);
        done.expect(0, "hello\n");
        assert!(done.err.contains("belongs to user 12345"), "{}", done.err);
    }
}

#[test]
fn without_a_home_it_runs_all_the_same() {
    let house = House::new();
    house.program("hello.wasm", &programs::hello());
    let output = house.una(&["run", "hello.wasm"]).env_remove("HOME").output().unwrap();
    let done = house::Done::from(output);
    done.expect(0, "hello\n");
    assert!(done.err.contains("neither $XDG_CACHE_HOME nor $HOME is set"), "{}", done.err);
}
