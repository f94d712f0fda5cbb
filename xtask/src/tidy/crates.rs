//! Rules for crates: who may depend on whom, under which licences, and with one set of features. Knows what cargo says of them.

use super::{Complaint, File};
use crate::Outcome;
use crate::step::{cargo, output};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Our crates by directory: which of our own crates each may depend on, and which crates of others that are kept to few places.
/// What only tests depend on is free.
const BORDERS: [(&str, &[&str], &[&str]); 12] = [
    ("abi", &[], &[]),
    ("planted", &[], &[]),
    ("kernel", &["abi", "planted"], &[]),
    ("services", &["abi", "planted"], &[]),
    ("freeze", &[], WASM),
    // Its `pages/linux.rs` alone touches Linux: memory is the processor's (docs/decisions/0019).
    ("engine", &["abi", "freeze", "workspace-hack"], &["libc", "wasm-encoder", "wasmparser", "wasmtime"]),
    ("drivers", &["abi", "planted"], LINUX),
    ("daemon", &["abi", "planted", "kernel", "services", "engine", "drivers", "workspace-hack"], LINUX),
    ("sim", &["abi", "kernel", "services", "engine", "freeze"], &[]),
    ("cli", &["abi", "freeze", "engine", "drivers", "daemon", "workspace-hack"], LINUX),
    (
        "xtask",
        &["abi", "freeze", "engine", "drivers", "daemon", "workspace-hack"],
        &["rustix", "wasmtime", "wasmparser", "wasm-encoder"],
    ),
    ("workspace-hack", &[], &["rustix"]),
];

/// Whoever has these touches the operating system.
const LINUX: &[&str] = &["cap-fs-ext", "cap-std", "libc", "rustix", "signal-hook"];

/// Whoever has these knows WebAssembly.
const WASM: &[&str] = &["wasm-encoder", "wasmparser", "wasmtime"];

/// Licences under which others' code may be part of what we ship.
const LICENCES: [&str; 13] = [
    "0BSD",
    "MPL-2.0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

pub fn check(files: &[File]) -> Outcome<Vec<Complaint>> {
    let advice = "cargo comes with Rust";
    let text = output(cargo().args(["metadata", "--format-version", "1", "--locked"]), advice)?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages: Vec<Package> = metadata["packages"].as_array().into_iter().flatten().map(package).collect();
    let mut complaints = borders(&packages);
    complaints.extend(licences(&packages, files));
    let mut chosen = BTreeMap::new();
    for (what, arguments) in [
        ("cargo run", ["--package", "una-cli", "--edges", "normal,build"].as_slice()),
        ("cargo xtask", &["--package", "xtask", "--edges", "normal,build"]),
        ("cargo test -p freeze", &["--package", "freeze", "--edges", "normal,build,dev"]),
        ("cargo test -p una-engine", &["--package", "una-engine", "--edges", "normal,build,dev"]),
        ("cargo test -p una-cli", &["--package", "una-cli", "--edges", "normal,build,dev"]),
        (EVERYTHING, &["--workspace", "--edges", "normal,build,dev"]),
        (WASMTIME, &["--package", "wasmtime", "--edges", "normal,build"]),
    ] {
        let mut tree = cargo();
        tree.args(["tree", "--locked", "--target", HOST, "--prefix", "none", "--format", "{p}|{f}"]).args(arguments);
        chosen.insert(what, features(&output(&mut tree, advice)?));
    }
    complaints.extend(one_wasmtime(&chosen));
    Ok(complaints)
}

/// A package as far as the rules go.
#[derive(Debug, Clone, Default)]
struct Package {
    name: String,
    /// For our own: its directory in the repository.
    directory: Option<String>,
    licence: String,
    description: String,
    /// Names of what it depends on, tests aside; directories for our own.
    dependencies: BTreeSet<String>,
}

fn package(value: &Value) -> Package {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_string();
    let directory =
        |path: &str| path.strip_prefix(crate::root().to_str()?)?.trim_matches('/').split('/').next().map(String::from);
    let dependencies = value["dependencies"].as_array().into_iter().flatten().filter(|one| one["kind"] != "dev");
    let name = |one: &Value| {
        let own = one["path"].as_str().and_then(directory);
        own.unwrap_or_else(|| one["name"].as_str().unwrap_or_default().to_string())
    };
    Package {
        name: text("name"),
        directory: value["source"].is_null().then(|| directory(&text("manifest_path"))).flatten(),
        licence: text("license"),
        description: text("description"),
        dependencies: dependencies.map(name).collect(),
    }
}

fn borders(packages: &[Package]) -> Vec<Complaint> {
    let mut complaints = vec![];
    let ours: BTreeSet<&str> = packages.iter().filter_map(|package| package.directory.as_deref()).collect();
    for package in packages {
        let Some(directory) = &package.directory else { continue };
        let place = format!("{directory}/Cargo.toml");
        let Some((_, own, kept)) = BORDERS.iter().find(|(name, _, _)| name == directory) else {
            complaints
                .push(Complaint::new(place, "a new crate: say in xtask/src/tidy/crates.rs what it may depend on"));
            continue;
        };
        for dependency in package.dependencies.iter().map(String::as_str) {
            let is_kept = LINUX.contains(&dependency) || WASM.contains(&dependency);
            if ours.contains(dependency) && !own.contains(&dependency) {
                complaints.push(Complaint::new(&place, format!("{directory} must not know {dependency}")));
            } else if is_kept && !kept.contains(&dependency) {
                complaints.push(Complaint::new(&place, format!("{directory} must not depend on {dependency}")));
            }
        }
    }
    complaints
}

fn licences(packages: &[Package], files: &[File]) -> Vec<Complaint> {
    let mut complaints = vec![];
    for package in packages {
        if let Some(directory) = &package.directory {
            let place = format!("{directory}/Cargo.toml");
            if package.licence != "Apache-2.0" {
                complaints.push(Complaint::new(&place, "una's own crates are Apache-2.0: `license.workspace = true`"));
            }
            if package.description.is_empty() {
                complaints.push(Complaint::new(&place, "a crate has a description"));
            }
        } else if !is_allowed(&package.licence) {
            let what = format!(
                "{} is licensed as `{}`, which is not in xtask/src/tidy/crates.rs",
                package.name, package.licence
            );
            complaints.push(Complaint::new("Cargo.lock", what));
        }
    }
    let text = files.iter().find(|file| file.path == "LICENSE");
    if !text.is_some_and(|file| file.text.contains("Apache License") && file.text.contains("Version 2.0, January 2004"))
    {
        complaints.push(Complaint::new("LICENSE", "the text of the Apache License 2.0 belongs here"));
    }
    complaints
}

/// Is there a way to fulfil the expression (`A OR B`, `A AND B`, `A/B`, brackets) with allowed licences?
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    // `A WITH E` is one licence.
    let words: Vec<&str> = expression.split_whitespace().collect();
    let mut rest = words.as_slice();
    either(&mut rest) == Some(true) && rest.is_empty()
}

/// `None` where the expression is not one.
fn either(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = both(words)?;
    while let ["OR", rest @ ..] = words {
        *words = rest;
        allowed |= both(words)?;
    }
    Some(allowed)
}

fn both(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = one(words)?;
    while let ["AND", rest @ ..] = words {
        *words = rest;
        allowed &= one(words)?;
    }
    Some(allowed)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    if *first == "(" {
        let allowed = either(words)?;
        let [")", rest @ ..] = words else { return None };
        *words = rest;
        return Some(allowed);
    }
    let name = match words {
        ["WITH", exception, rest @ ..] => {
            *words = rest;
            format!("{first} WITH {exception}")
        }
        _ => first.to_string(),
    };
    Some(LICENCES.contains(&name.as_str()))
}

const HOST: &str = "x86_64-unknown-linux-gnu";
const EVERYTHING: &str = "cargo test --workspace";
const WASMTIME: &str = "wasmtime and what it depends on";

/// Which features of each package are chosen.
fn features(tree: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut chosen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in tree.lines() {
        let line = line.trim_end_matches(" (*)");
        let Some((package, features)) = line.rsplit_once('|') else { continue };
        let package = package.trim_end_matches(" (proc-macro)");
        let features = features.trim_end_matches(" (*)").split(',').filter(|feature| !feature.is_empty());
        chosen.entry(package.into()).or_default().extend(features.map(String::from));
    }
    chosen
}

/// Every way to build must choose the same features of what wasmtime depends on, or it is compiled again for that way.
fn one_wasmtime(chosen: &BTreeMap<&str, BTreeMap<String, BTreeSet<String>>>) -> Vec<Complaint> {
    let (everything, wasmtime) = (&chosen[EVERYTHING], &chosen[WASMTIME]);
    let mut complaints = vec![];
    for (what, packages) in chosen.iter().filter(|(what, _)| ![EVERYTHING, WASMTIME].contains(*what)) {
        for (package, features) in packages.iter().filter(|(package, _)| wasmtime.contains_key(*package)) {
            let all = everything.get(package).cloned().unwrap_or_default();
            if *features != all {
                let missing = all.difference(features).cloned().collect::<Vec<_>>().join(", ");
                let what = format!("`{what}` would compile wasmtime again: ask for {package} with {missing} here");
                complaints.push(Complaint::new("workspace-hack/Cargo.toml", what));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(directory: &str, dependencies: &[&str]) -> Package {
        Package {
            name: format!("una-{directory}"),
            directory: Some(directory.into()),
            licence: "Apache-2.0".into(),
            description: "A crate.".into(),
            dependencies: dependencies.iter().map(|name| name.to_string()).collect(),
        }
    }

    #[test]
    fn borders_hold() {
        let check =
            |packages: &[Package]| borders(packages).into_iter().map(|complaint| complaint.what).collect::<Vec<_>>();
        let (abi, drivers) = (own("abi", &[]), own("drivers", &["abi", "rustix", "thiserror"]));
        assert!(check(&[abi.clone(), drivers.clone(), own("kernel", &["abi"])]).is_empty());
        assert_eq!(
            check(&[abi.clone(), drivers, own("kernel", &["abi", "drivers"])]),
            ["kernel must not know drivers"]
        );
        assert_eq!(check(&[abi.clone(), own("services", &["rustix"])]), ["services must not depend on rustix"]);
        assert_eq!(check(&[own("engine", &["wasmtime", "libc", "rustix"])]), ["engine must not depend on rustix"]);
        assert!(check(&[own("helpful", &[])])[0].starts_with("a new crate"));
    }

    #[test]
    fn licences_are_read_as_expressions() {
        for allowed in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
            assert!(is_allowed(allowed), "{allowed}");
        }
        assert!(is_allowed("Apache-2.0 WITH LLVM-exception OR GPL-2.0"));
        for refused in
            ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND AGPL-3.0", "MIT OR", "(MIT", "MIT) AND MIT"]
        {
            assert!(!is_allowed(refused), "{refused}");
        }
        let mut foreign = own("x", &[]);
        (foreign.directory, foreign.licence) = (None, "GPL-3.0".into());
        let license = File { path: "LICENSE".into(), text: "Apache License\nVersion 2.0, January 2004".into() };
        assert_eq!(licences(&[foreign], &[license]).len(), 1);
        assert_eq!(licences(&[], &[]).len(), 1);
    }

    #[test]
    fn a_second_set_of_features_is_noticed() {
        let wasmtime = features("wasmtime v1|std\nmemchr v2|\n");
        let everything = features("wasmtime v1|std\nmemchr v2|alloc,std\nother v1|x\n");
        let check = |run: &str| {
            let chosen = [("cargo run", features(run)), (EVERYTHING, everything.clone()), (WASMTIME, wasmtime.clone())];
            one_wasmtime(&chosen.into_iter().collect()).into_iter().map(|complaint| complaint.what).collect::<Vec<_>>()
        };
        assert!(check("wasmtime v1|std (*)\nmemchr v2|alloc,std\nother v1|\n").is_empty());
        let complaint = "`cargo run` would compile wasmtime again: ask for memchr v2 with alloc here";
        assert_eq!(check("wasmtime v1|std\nmemchr v2|std\n"), [complaint]);
    }
}
