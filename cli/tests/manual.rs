//! `una completions` and `una man`.

mod house;

use house::House;

#[test]
fn every_shell_and_every_command() {
    let house = House::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = house.done(&["completions", shell]);
        assert!(done.status == 0 && done.out.contains("una") && done.out.contains("thaw"), "{shell}: {}", done.err);
    }
    house.done(&["completions", "cmd"]).expect_error(2, &["cmd", "bash"]);
    house.done(&["man", "pages"]).expect(0, "");
    let pages = house.list("pages");
    for command in ["run", "freeze", "thaw", "ps", "inspect", "completions", "man"] {
        assert!(pages.contains(&format!("una-{command}.1")), "{pages:?}");
    }
    assert!(house.read("pages/una.1").contains("148") && house.read("pages/una-run.1").contains("148"));
    house.write("file", "");
    house.done(&["man", "file/pages"]).expect_error(1, &["cannot write manual pages to file/pages"]);
}
