//! The programs whose WebAssembly is kept in the repository, so that the first command of the README needs no C compiler. Knows
//! how they are made from their sources, nothing of what they do.

use crate::Outcome;
use crate::step::step;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(clap::Args)]
pub struct Arguments {
    /// Change nothing, but say whether the programs are what their sources give
    #[arg(long)]
    pub check: bool,
}

struct Program {
    source: &'static str,
    wasm: &'static str,
    compiler: Compiler,
}

enum Compiler {
    /// Debian's clang, by the script `programs/compile`.
    Clang,
    /// The clang in the PyPI package `ziglang`, with the standard exceptions that setjmp needs and Debian's cannot give.
    Zig,
}

const PROGRAMS: [Program; 3] = [
    Program { source: "programs/raytracer/raytracer.c", wasm: "programs/raytracer.wasm", compiler: Compiler::Clang },
    Program { source: "programs/counter.c", wasm: "programs/counter.wasm", compiler: Compiler::Clang },
    Program { source: "programs/tests/jumps.c", wasm: "programs/tests/jumps.wasm", compiler: Compiler::Zig },
];

/// What the kept programs were compiled with; another version gives other bytes.
const ZIG: &str = "ziglang==0.17.0";

pub fn run(arguments: &Arguments) -> Outcome {
    let root = crate::root();
    let made = root.join("target/programs/made");
    std::fs::create_dir_all(&made)?;
    let mut differing = vec![];
    for program in &PROGRAMS {
        let kept = root.join(program.wasm);
        let fresh = made.join(kept.file_name().expect("each program has a file name"));
        program.compile(&root, &fresh)?;
        let fresh = std::fs::read(fresh)?;
        if std::fs::read(&kept).is_ok_and(|kept| kept == fresh) {
            eprintln!("{}: is what its source gives, {} bytes", program.wasm, fresh.len());
        } else if arguments.check {
            differing.push(program.wasm);
        } else {
            std::fs::write(&kept, &fresh)?;
            eprintln!("{}: written, {} bytes", program.wasm, fresh.len());
        }
    }
    if !differing.is_empty() {
        let names = differing.join(", ");
        return Err(format!("{names}: not what the source gives; `cargo xtask programs` writes it anew").into());
    }
    Ok(())
}

impl Program {
    fn compile(&self, root: &Path, wasm: &Path) -> Outcome {
        let source = root.join(self.source);
        match self.compiler {
            Compiler::Clang => {
                let mut compile = Command::new(root.join("programs/compile"));
                step(compile.arg(source).arg(wasm), "it is a script of this repository")
            }
            Compiler::Zig => {
                let mut compile = Command::new(python_with(root, ZIG)?);
                compile.args(["-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s"]);
                compile.args(["-mcpu=generic+exception_handling", "-mllvm", "-wasm-enable-sjlj"]);
                compile.args(["-mllvm", "-wasm-use-legacy-eh=false"]);
                step(compile.arg(source).arg("-o").arg(wasm), "Debian's package python3 has it")
            }
        }
    }
}

/// A Python that has this package, in an environment of its own.
fn python_with(root: &Path, package: &str) -> Outcome<PathBuf> {
    let environment = root.join("target/programs/python-environment");
    let python = environment.join("bin/python");
    let advice = "Debian's packages python3 and python3-venv have it";
    if !python.exists() {
        step(Command::new("python3").args(["-m", "venv"]).arg(&environment), advice)?;
    }
    let mut install = Command::new(&python);
    step(install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]), advice)?;
    Ok(python)
}
