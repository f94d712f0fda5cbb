//! Each file in `scenarios/` happens as it says. `UNA_BLESS=1` writes what really happens into the files instead, to be read
//! with care.

use std::path::Path;

#[test]
fn scenarios_happen_as_they_say() {
    let bless = std::env::var_os("UNA_BLESS").is_some();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 8, "the scenarios are missing");
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let happened = sim::scenario::play(&text).unwrap_or_else(|problem| panic!("{}: {problem}", file.display()));
        if happened == text {
            continue;
        }
        if bless {
            std::fs::write(&file, &happened).unwrap();
            continue;
        }
        let differs = text.lines().zip(happened.lines()).position(|(one, other)| one != other);
        let line = differs.unwrap_or(text.lines().count().min(happened.lines().count()));
        let at = |text: &str| text.lines().nth(line).unwrap_or("(the end)").to_string();
        wrong.push(format!("{}:{}: should be `{}` and is `{}`", file.display(), line + 1, at(&text), at(&happened)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
