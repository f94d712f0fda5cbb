//! Images that are damaged, cut short, or something else: told apart, and never continued wrongly.

mod house;

use house::{House, programs};

#[test]
fn inspection_tells_what_is_open() {
    let house = House::new();
    house.write("d/in", "abcdef");
    house.program("files.wasm", &programs::files());
    let mut running = house.start(&["run", "--mount", "d=/d", "files.wasm"]);
    running.expect_line("ready");
    running.say(".");
    running.expect_line("abc");
    // Behind this line it waits for input.
    running.line();
    std::fs::remove_file(house.path("d/out")).unwrap();
    house.done(&["freeze", &running.pid(), "image"]);
    assert_eq!(running.end().status, 148);
    let json: serde_json::Value = serde_json::from_str(&house.done(&["inspect", "--json", "image"]).out).unwrap();
    let expected = serde_json::json!([
        { "number": 0, "what": "stream", "stream": "standard input" },
        { "number": 1, "what": "stream", "stream": "standard output" },
        { "number": 2, "what": "stream", "stream": "standard error" },
        { "number": 3, "what": "directory", "path": "/d/" },
        { "number": 4, "what": "file", "path": "/d/in", "offset_bytes": 3 },
        { "number": 5, "what": "file", "path": null, "offset_bytes": 3 },
    ]);
    assert_eq!(json["descriptors"], expected);
    let text = house.done(&["inspect", "image"]).out;
    assert!(text.contains("4 /d/in at byte 3") && text.contains("5 a removed file at byte 3"), "{text}");
}

/// A house with an image of a program that waits for input.
fn with_image() -> (House, Vec<u8>) {
    let house = House::new();
    house.program("cat.wasm", &programs::cat());
    let mut running = house.start(&["run", "cat.wasm"]);
    running.say("x\n");
    running.expect_line("x");
    let done = house.done(&["freeze", &running.pid(), "image"]);
    assert_eq!(done.status, 0, "{}", done.err);
    assert_eq!(running.end().status, 148);
    let image = std::fs::read(house.path("image")).unwrap();
    (house, image)
}

#[test]
fn what_is_no_image() {
    let house = House::new();
    house.write("image", "some text");
    for command in ["thaw", "inspect"] {
        let status = if command == "thaw" { 125 } else { 1 };
        house
            .done(&[command, "image"])
            .expect_error(status, &["cannot read image", "not an una image", "una freeze PID FILE"]);
        house
            .done(&[command, "absent"])
            .expect_error(status, &["cannot read absent", "No such file", "una freeze PID FILE"]);
        house.done(&[command, "."]).expect_error(status, &["it is a directory"]);
    }
    // A program is no image.
    house.program("hello.wasm", &programs::hello());
    house.done(&["thaw", "hello.wasm"]).expect_error(125, &["not an una image", "programs are run by `una run`"]);
}

#[test]
fn an_image_that_is_cut_short() {
    let (house, image) = with_image();
    let cuts = (0..image.len()).step_by(image.len() / 60 + 1).chain([image.len() - 1]);
    for cut in cuts {
        house.write("image", &image[..cut]);
        for command in ["thaw", "inspect"] {
            let done = house.done_with(&[command, "image"], "never read\n");
            assert_eq!(done.out, "", "cut at {cut}");
            let status = if command == "thaw" { 125 } else { 1 };
            done.expect_error(status, &[if cut < 8 { "not an una image" } else { "the image ends early" }]);
        }
    }
}

#[test]
fn an_image_with_a_flipped_bit() {
    let (house, image) = with_image();
    for at in (0..image.len()).step_by(image.len() / 120 + 1) {
        let mut damaged = image.clone();
        damaged[at] ^= 1 << (at % 8);
        house.write("image", &damaged);
        let done = house.done_with(&["thaw", "image"], "never read\n");
        assert_eq!((done.status, done.out.as_str()), (125, ""), "flipped at {at}: {}", done.err);
        done.expect_error(125, &["image"]);
    }
}

#[test]
fn inspection_tells_what_is_inside() {
    let house = House::new();
    house.write("d/in", "");
    house.program("count.wasm", &programs::counting(0, 1_000_000));
    let mut running = house.start(&[
        "run",
        "--mount",
        "d=/d:ro",
        "--env",
        "A=b c",
        "--name",
        "my count",
        "count.wasm",
        "an argument",
    ]);
    running.expect_line("0");
    house.done(&["freeze", &running.pid(), "image"]);
    assert_eq!(running.end().status, 148);
    let done = house.done(&["inspect", "image"]);
    assert_eq!(done.status, 0, "{}", done.err);
    for part in [
        "my count",
        "count.wasm 'an argument'",
        "'A=b c'",
        "/d (was ",
        "read only",
        "called from  count",
        "not in the image",
    ] {
        assert!(done.out.contains(part), "{part}: {}", done.out);
    }
    let json: serde_json::Value = serde_json::from_str(&house.done(&["inspect", "--json", "image"]).out).unwrap();
    assert_eq!(json["schema"], "una.inspect/1");
    assert_eq!(json["arguments"], serde_json::json!(["count.wasm", "an argument"]));
    assert_eq!(json["memories_bytes"], serde_json::json!([262_144]));
    let frames = json["frames"].as_array().unwrap();
    assert_eq!(frames[frames.len() - 2]["name"], "count");
    let hash = blake3::hash(&std::fs::read(house.path("count.wasm")).unwrap());
    assert_eq!(json["program"], hash.to_hex().as_str());
    // Without the program all is known but where it stopped.
    std::fs::remove_dir_all(house.path("home")).unwrap();
    let done = house.done(&["inspect", "image"]);
    assert!(
        done.status == 0 && done.out.contains("my count") && done.out.contains("unknown: "),
        "{}{}",
        done.out,
        done.err
    );
    let done = house.done(&["inspect", "--program", "count.wasm", "image"]);
    assert!(done.out.contains("called from  count"), "{}{}", done.out, done.err);
}
