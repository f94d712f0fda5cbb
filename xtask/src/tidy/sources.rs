//! Rules for single files: what they begin with, what is not written in them, how long their lines are.

use super::{Complaint, File};

/// No line of Rust is longer, in characters, but where a string makes it so.
const LINE_MAX: usize = 140;

/// A name that says nothing of what is in the file.
const EMPTY_NAMES: [&str; 7] = ["utils", "util", "common", "helpers", "helper", "misc", "manager"];

/// Crates in which nothing of an operating system can be named.
pub const WITHOUT_STD: [&str; 3] = ["abi", "kernel", "services"];

pub fn check(file: &File) -> Vec<Complaint> {
    let mut complaints = names(file);
    complaints.extend(words(file));
    if file.path.ends_with(".rs") {
        complaints.extend(beginning(file));
        complaints.extend(lines(file));
        complaints.extend(without_std(file));
    }
    complaints
}

fn names(file: &File) -> Vec<Complaint> {
    let parts = file.path.split('/').map(|part| part.split('.').next().expect("a split has at least one part"));
    let empty = parts.filter(|part| EMPTY_NAMES.contains(part));
    empty.map(|part| Complaint::new(&file.path, format!("`{part}` does not say what this is"))).collect()
}

/// What the repository does not speak of: machines of the people who wrote it, and anything but the project.
fn words(file: &File) -> Vec<Complaint> {
    // Put together here, so that this file does not break the rule. `/tmp/` may be a path that a program sees.
    let paths = ["/work/main", "/work/shared", "/root/", "/home/user/", "/Users/"].map(String::from);
    let said =
        [["assis", "tant"], ["chat", "bot"], ["Clau", "de"], ["Open", "AI"], ["Anthro", "pic"], ["co-auth", "ored"]];
    let said = said.map(|parts| parts.concat().to_lowercase());
    let hosts =
        [["pypi.", "org"], ["npmjs.", "com"], ["npmjs.", "org"], ["static.crates.", "io"]].map(|parts| parts.concat());
    let mut complaints = vec![];
    // The words' own home, and the lists that tools write.
    if ["Cargo.lock", "package-lock.json"].contains(&file.name()) || file.path == "xtask/src/tidy/sources.rs" {
        return complaints;
    }
    for (number, line) in file.text.lines().enumerate() {
        let lower = line.to_lowercase();
        for word in paths.iter().filter(|word| line.contains(word.as_str())) {
            complaints.push(Complaint::line(file, number, format!("`{word}` is a path of somebody's machine")));
        }
        for word in said.iter().chain(&hosts).filter(|word| lower.contains(word.as_str())) {
            complaints.push(Complaint::line(
                file,
                number,
                format!("`{word}`: the repository speaks of the project alone"),
            ));
        }
    }
    complaints
}

fn beginning(file: &File) -> Option<Complaint> {
    let first = file.text.lines().find(|line| !line.starts_with("#!["));
    match first {
        Some(line) if line.starts_with("//! ") => None,
        _ => Some(Complaint::new(
            format!("{}:1", file.path),
            "a file begins with `//!`: what it is, and what it does not know",
        )),
    }
}

fn lines(file: &File) -> Vec<Complaint> {
    let mut complaints = vec![];
    let is_test = file.path.contains("/tests/") || file.path.ends_with("/tests.rs");
    let lines: Vec<&str> = file.text.lines().collect();
    // The tests of a file stand at its end.
    let tests = lines.iter().position(|line| line.trim() == "#[cfg(test)]").unwrap_or(lines.len());
    for (number, line) in lines.iter().enumerate() {
        let length = line.chars().count();
        if length > LINE_MAX && !line.contains('"') {
            complaints.push(Complaint::line(file, number, format!("{length} characters, more than {LINE_MAX}")));
        }
        let code = code_of(line);
        if !is_test && number < tests {
            for (call, instead) in [
                (concat!(".unw", "rap()"), "`expect(\"why this cannot fail\")`, or an error that says what to do"),
                (concat!("to", "do!("), "code that works"),
                (concat!("unimpl", "emented!("), "code that works"),
                (concat!("db", "g!("), "nothing"),
            ] {
                if code.contains(call) {
                    complaints.push(Complaint::line(file, number, format!("`{call}`: write {instead}")));
                }
            }
        }
        let opens_unsafe = code.contains(concat!("unsafe", " {")) || code.contains(concat!("unsafe", " impl"));
        if opens_unsafe && !is_explained(&lines, number) {
            complaints.push(Complaint::line(
                file,
                number,
                "`unsafe` without a comment `// SAFETY:` that says why it is sound",
            ));
        }
    }
    complaints
}

/// Is there a SAFETY comment on the line, or right above the statement that it belongs to?
fn is_explained(lines: &[&str], number: usize) -> bool {
    if lines[number].contains("// SAFETY:") {
        return true;
    }
    let above = lines[..number].iter().rev().take(8);
    // Back to the end of the statement before it.
    let is_own = |line: &&&str| line.trim_start().starts_with("//") || !code_of(line).trim_end().ends_with([';', '}']);
    let own = above.take_while(is_own);
    own.into_iter().any(|line| line.contains("// SAFETY:"))
}

/// A line without its comment. A `//` in a string counts as a comment, which hides code rather than inventing some.
fn code_of(line: &str) -> &str {
    line.split("//").next().expect("a split has at least one part")
}

/// Crates without the standard library say so, and do not ask for it by the back door.
fn without_std(file: &File) -> Vec<Complaint> {
    let mut complaints = vec![];
    let Some(name) = WITHOUT_STD.iter().find(|name| file.path.starts_with(&format!("{name}/src/"))) else {
        return complaints;
    };
    if file.path == format!("{name}/src/lib.rs") && !file.text.lines().any(|line| line.trim() == "#![no_std]") {
        complaints.push(Complaint::new(&file.path, format!("the crate {name} must say `#![no_std]`")));
    }
    let tests = file.text.lines().position(|line| line.trim() == "#[cfg(test)]").unwrap_or(usize::MAX);
    for (number, line) in file.text.lines().enumerate().take_while(|(number, _)| *number < tests) {
        let code = code_of(line);
        if code.contains("extern crate std") || code.contains("std::") {
            complaints.push(Complaint::line(
                file,
                number,
                format!("{name} has no clock, file, thread or socket: no `std`"),
            ));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn broken(path: &str, text: &str, expect: &[&str]) {
        let found: Vec<String> = check(&File { path: path.into(), text: text.into() })
            .into_iter()
            .map(|c| format!("{} {}", c.place, c.what))
            .collect();
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for (found, expect) in found.iter().zip(expect) {
            assert!(found.contains(expect), "{found:?} does not say {expect:?}");
        }
    }

    #[test]
    fn a_good_file_is_left_alone() {
        broken("engine/src/x.rs", "//! A file.\n\nfn f() {\n    g(); // .unwrap() is not for us\n}\n", &[]);
        broken("engine/src/x.rs", "//! A file.\n#[cfg(test)]\nmod tests {\n    fn f() { x.unwrap() }\n}\n", &[]);
        broken("engine/tests/x.rs", "//! A test.\nfn f() { x.unwrap() }\n", &[]);
    }

    #[test]
    fn each_rule_finds_its_breach() {
        broken("engine/src/utils.rs", "//! Things.\n", &["`utils`"]);
        broken("engine/src/common/x.rs", "//! Things.\n", &["`common`"]);
        broken("engine/src/x.rs", "use y;\n", &["x.rs:1 a file begins with"]);
        broken("engine/src/x.rs", "//! X.\nfn f() { x.unwrap() }\n", &["x.rs:2 `.unwrap()`"]);
        broken("engine/src/x.rs", &format!("//! X.\n// {}\n", "x".repeat(LINE_MAX)), &["x.rs:2 143 characters"]);
        broken("engine/src/x.rs", "//! X.\nfn f() {\n    unsafe { g() }\n}\n", &["x.rs:3 `unsafe`"]);
        broken("docs/x.md", "Written with the help of an assistant.\n", &["the project alone"]);
        broken("docs/x.md", "See /work/main/README.md.\n", &["somebody's machine"]);
        broken("kernel/src/lib.rs", "//! The kernel.\n", &["must say `#![no_std]`"]);
        broken("kernel/src/x.rs", "//! X.\nuse std::time::Instant;\n", &["x.rs:2 kernel has no clock"]);
    }

    #[test]
    fn a_safety_comment_may_stand_above_a_long_statement() {
        let above =
            "//! X.\nfn f() {\n    // SAFETY: it is\n    // so.\n    let a = b(\n        unsafe { g() },\n    );\n}\n";
        broken("engine/src/x.rs", above, &[]);
        let of_another = "//! X.\nfn f() {\n    // SAFETY: it is so.\n    h();\n    unsafe { g() }\n}\n";
        broken("engine/src/x.rs", of_another, &["x.rs:5 `unsafe`"]);
    }
}
