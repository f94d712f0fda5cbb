//! The programs that are measured: where they come from and how they are made. Knows nothing of measuring.
//!
//! The one idea: sources are in `bench/`, compiled by the system's clang, or fetched by name and checked by hash; what was made
//! stays in `target/bench` and is made anew when what it was made of changes.

use crate::Outcome;
use crate::step::{cargo, output};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program and what it is given to do.
pub struct Kernel {
    pub name: String,
    /// Several kernels may run one program.
    pub program: &'static str,
    pub arguments: Vec<String>,
}

/// The kernels of one program; the sizes make each run about 0.1 s long.
const C_KERNELS: [(&str, &str); 6] =
    [("fib", "36"), ("sha256", "240000"), ("matmul", "25"), ("nbody", "1200000"), ("vm", "600000"), ("core", "900")];
const LUA_KERNELS: [(&str, &str); 3] = [("fib", "27"), ("table", "300000"), ("nbody", "60000")];
const PYTHON_KERNELS: [&str; 6] = ["startup", "fib", "floats", "containers", "json", "sha256"];

/// All kernels in the order of the table.
pub fn kernels() -> Outcome<Vec<Kernel>> {
    let root = crate::root();
    let mut kernels = vec![];
    for (name, size) in C_KERNELS {
        kernels.push(Kernel { name: name.into(), program: name, arguments: vec![name.into(), size.into()] });
    }
    for (script, size) in LUA_KERNELS {
        let text = read(&root.join(format!("bench/lua/{script}.lua")))?;
        let arguments = vec!["lua".into(), text, size.into()];
        kernels.push(Kernel { name: format!("lua-{script}"), program: "lua", arguments });
    }
    for script in PYTHON_KERNELS {
        let text = read(&root.join(format!("bench/python/{script}.py")))?;
        let arguments = vec!["python".into(), "-c".into(), text];
        kernels.push(Kernel { name: format!("python-{script}"), program: "python", arguments });
    }
    Ok(kernels)
}

fn read(path: &Path) -> Outcome<String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Makes programs.
pub struct Workshop {
    made: PathBuf,
}

impl Workshop {
    pub fn new() -> Outcome<Workshop> {
        let made = crate::root().join("target/bench");
        std::fs::create_dir_all(&made)?;
        Ok(Workshop { made })
    }

    pub fn directory(&self) -> &Path {
        &self.made
    }

    /// The program of this name as wasm.
    pub fn program(&self, name: &str) -> Outcome<Vec<u8>> {
        let path = match name {
            "lua" => self.lua()?,
            "python" => self.python()?,
            _ => self.clang(name, &[crate::root().join(format!("bench/kernels/{name}.c"))], &[])?,
        };
        Ok(std::fs::read(path)?)
    }

    fn clang(&self, name: &str, sources: &[PathBuf], options: &[String]) -> Outcome<PathBuf> {
        let wasm = self.made.join(format!("{name}.wasm"));
        let made = std::fs::metadata(&wasm).and_then(|found| found.modified());
        let changed = |source: &PathBuf| std::fs::metadata(source).and_then(|found| found.modified());
        let mut fresh = made.is_ok();
        for source in sources {
            let changed = changed(source).map_err(|error| format!("{}: {error}", source.display()))?;
            fresh &= made.as_ref().is_ok_and(|made| *made > changed);
        }
        if fresh {
            return Ok(wasm);
        }
        let mut command = Command::new("clang");
        command.args(["--target=wasm32-wasi", "--sysroot=/usr", "-isystem", "/usr/include/wasm32-wasi", "-O2"]);
        command.arg("-Wl,-z,stack-size=1048576").args(options).args(sources).arg("-lm").arg("-o").arg(&wasm);
        output(&mut command, "Debian's packages clang lld wasi-libc libclang-rt-14-dev-wasm32 have it")?;
        Ok(wasm)
    }

    /// Lua 5.4 from the sources that the crate `lua-src` carries.
    fn lua(&self) -> Outcome<PathBuf> {
        let sources = self.lua_sources()?;
        let mut files = vec![crate::root().join("bench/lua/main.c")];
        for entry in std::fs::read_dir(&sources)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // Libraries that need an operating system are left out, with those that name them.
            let left_out = ["liolib.c", "loslib.c", "loadlib.c", "linit.c", "ldblib.c", "lcorolib.c", "lutf8lib.c"];
            if name.ends_with(".c") && !left_out.contains(&name.as_str()) {
                files.push(path);
            }
        }
        files.sort();
        let include = |path: PathBuf| format!("-I{}", path.display());
        let options = [
            include(crate::root().join("bench/lua/include")),
            include(sources),
            "-DLUAI_THROW(L,c)=abort()".into(),
            "-DLUAI_TRY(L,c,a)={ a }".into(),
            "-Dluai_jmpbuf=int".into(),
            "-D_WASI_EMULATED_SIGNAL".into(),
            "-lwasi-emulated-signal".into(),
        ];
        self.clang("lua", &files, &options)
    }

    fn lua_sources(&self) -> Outcome<PathBuf> {
        let metadata = output(cargo().args(["metadata", "--format-version", "1"]), "cargo comes with Rust")?;
        let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
        let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
        let package = packages.iter().find(|package| package["name"] == "lua-src");
        let manifest = package.and_then(|package| package["manifest_path"].as_str());
        let directory = Path::new(manifest.ok_or("Cargo.lock has no lua-src")?).with_file_name("");
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("lua-5.4") {
                return Ok(entry.path());
            }
        }
        Err(format!("{} carries no Lua 5.4", directory.display()).into())
    }

    /// CPython 3.12 for WASI, as `cargo xtask fetch` gets it.
    fn python(&self) -> Outcome<PathBuf> {
        let advice = "it is this program";
        output(Command::new(std::env::current_exe()?).args(["fetch", "python"]), advice)?;
        Ok(crate::root().join("target/programs/python.wasm"))
    }
}
