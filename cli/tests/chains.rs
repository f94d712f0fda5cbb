//! Programs that are frozen again and again at random times, each time continued by a process of its own, must end as if nothing
//! had happened. Knows una only as its users do: the command line, signals, files.
//!
//! ```text
//!   una run --image I PROG ---> SIGTSTP ---> una thaw --image I I ---> una freeze PID I ---> una thaw ... ---> the end
//!   output:  aaaaaaaaaa                  +   aaabbbbbbb            +                      +  bbbbcc        ==  that of one run
//! ```
//! When a freeze hits is a matter of chance, what comes out is not: a freeze that comes too late is not counted, and the chain is
//! begun anew with the next seed until there were enough.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{PipeReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What `una run` and `una thaw` exit with when the program was frozen.
const FROZEN: i32 = 148;

/// Freezes of each program that every change is tested with; see the table in programs/tests/README.md.
const FREEZES: u32 = 1000;
const FREEZES_ACROSS_ENGINES: u32 = 100;

/// The same at night.
const FREEZES_AT_NIGHT: u32 = 10_000;
const FREEZES_ACROSS_ENGINES_AT_NIGHT: u32 = 1000;

/// Longer than anything here takes, for the case that something hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// A program and what it is given.
#[derive(Clone, Copy)]
struct Guest {
    name: &'static str,
    origin: Origin,
    arguments: &'static [&'static str],
    environment: &'static [&'static str],
    input: Input,
    files: Files,
    /// Where it sees its directory.
    mount: &'static str,
}

#[derive(Clone, Copy)]
enum Origin {
    /// A C program in programs/tests, compiled with these options.
    C(&'static [&'static str]),
    /// A Rust program there.
    Rust,
    /// A Go program there.
    Go,
    /// One in programs/tests that is kept compiled, since it needs another compiler than Debian's.
    Kept,
    /// One that `cargo xtask fetch` fetched.
    Published,
}

#[derive(Clone, Copy, PartialEq)]
enum Input {
    None,
    /// Lines, which come slowly.
    Lines,
}

#[derive(Clone, Copy)]
enum Files {
    None,
    /// A directory of its own.
    Data,
    /// The same, with one file in it.
    Given {
        name: &'static str,
        content: fn() -> String,
    },
}

const fn guest(name: &'static str) -> Guest {
    let origin = Origin::C(&[]);
    Guest { name, origin, arguments: &[], environment: &[], input: Input::None, files: Files::None, mount: "/data" }
}

impl Guest {
    /// A Go program brings two to five megabytes of run-time system: fewer freezes of it are as much work.
    fn part_of(&self, freezes: u32) -> u32 {
        match self.origin {
            Origin::Go => freezes / 4,
            _ => freezes,
        }
    }
}

const RECURSION: Guest = guest("recursion");
const POINTERS: Guest = guest("pointers");
const SORTING: Guest = guest("sorting");
const HEAP: Guest = guest("heap");
const FLOATS: Guest = guest("floats");
const LANES: Guest = Guest { origin: Origin::C(&["-msimd128"]), ..guest("lanes") };
const JUMPS: Guest = Guest { origin: Origin::Kept, ..guest("jumps") };
const PRINTING: Guest = guest("printing");
const SLEEPING: Guest = guest("sleeping");
const READING: Guest = Guest { input: Input::Lines, ..guest("reading") };
const FILES: Guest = Guest { arguments: &["/data"], files: Files::Data, ..guest("files") };
const FOLDER: Guest = Guest { arguments: &["/data"], files: Files::Data, ..guest("folder") };
const COLLECTIONS: Guest = Guest { origin: Origin::Rust, ..guest("collections") };
const NOTES: Guest = Guest {
    origin: Origin::Rust,
    arguments: &["/data"],
    environment: &["A=b"],
    input: Input::Lines,
    files: Files::Data,
    ..guest("notes")
};
const CHANNELS: Guest = Guest { origin: Origin::Go, ..guest("channels") };
const LETTERS: Guest = Guest { name: "letters", origin: Origin::Go, ..NOTES };

const PYTHON: Guest = Guest {
    origin: Origin::Published,
    arguments: &["-c", include_str!("../../programs/published/chain.py")],
    environment: &["PYTHONHASHSEED=0"],
    input: Input::Lines,
    files: Files::Data,
    ..guest("python")
};
const ESBUILD: Guest = Guest {
    origin: Origin::Published,
    arguments: &["/input.js", "--bundle", "--minify", "--sourcemap=inline"],
    files: Files::Given { name: "input.js", content: javascript },
    // It looks into every directory above its input.
    mount: "/",
    ..guest("esbuild")
};
const RESVG: Guest = Guest {
    origin: Origin::Published,
    arguments: &["/data/input.svg", "/data/output.png", "--zoom", "4"],
    files: Files::Given { name: "input.svg", content: picture },
    ..guest("resvg")
};

const GCC: Guest = Guest {
    origin: Origin::Published,
    arguments: &["-quiet", "-O2", "/data/input.cc", "-o", "/data/output.s"],
    files: Files::Given { name: "input.cc", content: templates },
    ..guest("gcc-avr")
};

/// 69 MB of C++, with exceptions.
const YOSYS: Guest = Guest {
    origin: Origin::Published,
    arguments: &["-q", "-p", SYNTHESIS],
    files: Files::Given { name: "input.v", content: multiplier },
    ..guest("yosys")
};
const SYNTHESIS: &str = "read_verilog /data/input.v; proc; opt -full; alumacc; share; booth; opt; simplemap; opt -full; \
                         write_json /data/output.json; stat";

/// Enough for a synthesizer of circuits to do.
fn multiplier() -> String {
    "module multiplier(input clock, input [47:0] a, b, output reg [95:0] product);\n\
     always @(posedge clock) product <= a * b + (a ^ b);\nendmodule\n"
        .into()
}

/// Enough for a compiler to do.
fn templates() -> String {
    let mut source = String::from(
        "template <int N> struct F { static constexpr long v = N * F<N - 1>::v % 1000003 + N; };\n\
         template <> struct F<0> { static constexpr long v = 1; };\n\
         template <class T, int N> struct Row { T at[N]; T sum() const { T s = 0; for (T x : at) s += x; return s; } };\n",
    );
    for number in 1..120 {
        source += &format!(
            "long f{number}(const Row<long, {number}> &row, int n) {{\n  long s = F<{number}>::v;\n  for (int i = 0; i < n; i++) \
             switch ((i * s + {number}) % 7) {{ case 0: s += row.sum(); break; case 3: s ^= i << 3; break; default: s -= i; }}\n  \
             return s;\n}}\n"
        );
    }
    source
}

/// Enough for a bundler to do.
fn javascript() -> String {
    let function = |number: usize| {
        format!(
            "export async function name{number}({{ first, second = {number} }}, ...others) {{\n  const inner = (value) => \
             value?.length ?? others.map((other) => `${{other}} ${{first ** 2}}`);\n  for await (const one of second) \
             {{ if (inner(one)) return class Local {{ static #hidden = one; get it() {{ return Local.#hidden; }} }}; }}\n}}\n"
        )
    };
    let calls = (0..2000).map(|number| format!("console.log(name{number}({{ first: {number} }}));\n"));
    (0..2000).map(function).chain(calls).collect()
}

/// Enough for a renderer to do.
fn picture() -> String {
    let mut svg = String::from("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"300\" height=\"200\">");
    svg += "<filter id=\"soft\"><feGaussianBlur stdDeviation=\"3\"/></filter>";
    for number in 0..300 {
        let (x, y, colour) = (number * 37 % 300, number * 61 % 200, number * 4099 % 0xff_ffff);
        svg +=
            &format!("<path d=\"M{x} {y} q 40 {} 80 0 t 30 30\" stroke=\"#{colour:06x}\" fill=\"none\" ", number % 70);
        svg += if number % 50 == 0 { "filter=\"url(#soft)\"/>" } else { "opacity=\"0.7\"/>" };
    }
    svg + "</svg>"
}

macro_rules! chains {
    ($($test:ident: $guest:expr),* $(,)?) => {
        mod often {
            use super::*;
            $(#[test] fn $test() { freeze_often(&$guest, $guest.part_of(FREEZES), &[Engine::Native]); })*
        }
        mod across_engines {
            use super::*;
            $(#[test] fn $test() { freeze_often(&$guest, $guest.part_of(FREEZES_ACROSS_ENGINES), &[Engine::Native, Engine::Pulley]); })*
        }
        mod at_night {
            use super::*;
            $(
                #[test]
                #[ignore = "takes minutes: for the nightly run"]
                fn $test() {
                    freeze_often(&$guest, FREEZES_AT_NIGHT, &[Engine::Native]);
                    freeze_often(&$guest, FREEZES_ACROSS_ENGINES_AT_NIGHT, &[Engine::Native, Engine::Pulley]);
                }
            )*
        }
    };
}

chains! {
    recursion: RECURSION,
    pointers: POINTERS,
    sorting: SORTING,
    heap: HEAP,
    floats: FLOATS,
    lanes: LANES,
    jumps: JUMPS,
    printing: PRINTING,
    sleeping: SLEEPING,
    reading: READING,
    files: FILES,
    folder: FOLDER,
    collections: COLLECTIONS,
    notes: NOTES,
    channels: CHANNELS,
    letters: LETTERS,
}

/// Programs that others publish. Not run for every change: they are fetched first, and take long to compile.
mod published_at_night {
    use super::*;

    #[test]
    #[ignore = "needs `cargo xtask fetch`"]
    fn python() {
        freeze_often(&PYTHON, 1000, &[Engine::Native]);
        freeze_often(&PYTHON, 60, &[Engine::Native, Engine::Pulley]);
    }

    #[test]
    #[ignore = "needs `cargo xtask fetch`"]
    fn esbuild() {
        freeze_often(&ESBUILD, 300, &[Engine::Native]);
    }

    #[test]
    #[ignore = "needs `cargo xtask fetch`"]
    fn gcc() {
        freeze_often(&GCC, 300, &[Engine::Native]);
    }

    #[test]
    #[ignore = "needs `cargo xtask fetch`"]
    fn yosys() {
        freeze_often(&YOSYS, 100, &[Engine::Native]);
    }

    #[test]
    #[ignore = "needs `cargo xtask fetch`"]
    fn resvg() {
        freeze_often(&RESVG, 300, &[Engine::Native]);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Engine {
    Native,
    Pulley,
}

impl Engine {
    fn option(self) -> &'static str {
        match self {
            Engine::Native => "--engine=native",
            Engine::Pulley => "--engine=pulley",
        }
    }
}

/// All that a program leaves behind.
#[derive(PartialEq)]
struct Outcome {
    status: i32,
    stdout: Vec<u8>,
    /// Content by path below the directory that it was given.
    files: BTreeMap<String, Vec<u8>>,
}

fn freeze_often(guest: &Guest, freezes: u32, engines: &[Engine]) {
    let program = compiled(guest);
    let expected = {
        let place = Place::new(guest);
        let mut child = place.start(Command::new(una()).args(place.run_arguments(&program, guest)));
        let status = child.wait_patiently();
        let said = std::fs::read_to_string(place.directory.path().join("stderr")).unwrap_or_default();
        assert_eq!(status, 0, "the uninterrupted run of {} failed: {said}", guest.name);
        place.outcome(status)
    };
    let left = expected.files.values().map(Vec::len).sum::<usize>();
    assert!(expected.stdout.len() + left > 200, "the uninterrupted run said too little to compare with");

    let (mut done, mut longest, mut fruitless) = (0, 0, 0);
    let mut seed = 0;
    while done < freezes {
        seed += 1;
        let hops = chain(&program, guest, engines, seed, freezes - done, &expected);
        fruitless = if hops == 0 { fruitless + 1 } else { 0 };
        assert!(fruitless < 50, "{}: no freeze comes in time any more, after {done}", guest.name);
        done += hops;
        longest = longest.max(hops);
    }
    println!("{}: {done} freezes in {seed} chains, the longest of {longest}", guest.name);
}

/// Freezes one run of the program up to `most` times; says how often it did.
fn chain(program: &Path, guest: &Guest, engines: &[Engine], seed: u64, most: u32, expected: &Outcome) -> u32 {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let place = Place::new(guest);
    let image = place.directory.path().join("image");
    let mut freezes = 0;
    let mut command = Command::new(una());
    command.args(["run", "--image"]).arg(&image).args(&place.run_arguments(program, guest)[1..]);
    let mut child = place.start(&mut command);
    let status = loop {
        // Short slices, so that a run of half a second is frozen a hundred times; the shortest end before the first step.
        let slice = Duration::from_micros(chance.below(6000));
        let by_command = chance.below(10) == 0;
        let status =
            if freezes == most { child.wait_patiently() } else { child.freeze_after(slice, by_command, &image) };
        if status != FROZEN {
            break status;
        }
        freezes += 1;
        let engine = engines[freezes as usize % engines.len()];
        let mut command = Command::new(una());
        command.args(["thaw", engine.option(), "--image"]).arg(&image).arg(&image);
        child = place.start(&mut command);
    };
    let outcome = place.outcome(status);
    if outcome != *expected {
        let kept = place.directory.keep();
        let said = std::fs::read_to_string(kept.join("stderr")).unwrap_or_default();
        panic!(
            "{} came out differently after {freezes} freezes with seed {seed}; see {}\nstatus {status}, {}\nstandard error:\n{said}",
            guest.name,
            kept.display(),
            difference(&expected.stdout, &outcome.stdout),
        );
    }
    freezes
}

fn difference(expected: &[u8], found: &[u8]) -> String {
    let (expected, found) = (String::from_utf8_lossy(expected), String::from_utf8_lossy(found));
    let mut lines = expected.lines().zip(found.lines()).enumerate();
    match lines.find(|(_, (a, b))| a != b) {
        Some((number, (a, b))) => format!("first different line {}:\n  expected {a}\n  found    {b}", number + 1),
        None => format!("{} lines expected, {} found", expected.lines().count(), found.lines().count()),
    }
}

/// Where one run lives: its directories, its output so far, its input.
struct Place {
    directory: tempfile::TempDir,
    stdout: File,
    stderr: File,
    input: Option<PipeReader>,
}

impl Place {
    fn new(guest: &Guest) -> Place {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let data = directory.path().join("data");
        std::fs::create_dir(&data).expect("the directory is new");
        if let Files::Given { name, content } = guest.files {
            std::fs::write(data.join(name), content()).expect("there is room for a file");
        }
        let open = |name| {
            let options = File::options().create_new(true).append(true).open(directory.path().join(name));
            options.expect("the directory is new")
        };
        let input = (guest.input == Input::Lines).then(slow_lines);
        Place { stdout: open("stdout"), stderr: open("stderr"), input, directory }
    }

    fn run_arguments(&self, program: &Path, guest: &Guest) -> Vec<std::ffi::OsString> {
        let mut arguments = vec!["run".into()];
        if !matches!(guest.files, Files::None) {
            let mut mount = self.directory.path().join("data").into_os_string();
            mount.push("=");
            mount.push(guest.mount);
            arguments.extend(["--mount".into(), mount]);
        }
        arguments.extend(guest.environment.iter().flat_map(|variable| ["--env".into(), variable.into()]));
        arguments.push(program.into());
        arguments.extend(guest.arguments.iter().map(|argument| argument.into()));
        arguments
    }

    /// Every process of a chain reads from one pipe and writes to the end of one file.
    fn start(&self, command: &mut Command) -> Running {
        let clone = |file: &File| file.try_clone().expect("a descriptor can be had");
        let input = self.input.as_ref().map(|pipe| pipe.try_clone().expect("a descriptor can be had"));
        command.stdin(input.map_or(Stdio::null(), Stdio::from)).stdout(clone(&self.stdout)).stderr(clone(&self.stderr));
        Running(environment(command).spawn().expect("una can be started"))
    }

    fn outcome(&self, status: i32) -> Outcome {
        let stdout = std::fs::read(self.directory.path().join("stdout")).expect("it was written");
        let mut files = BTreeMap::new();
        let mut directories = vec![self.directory.path().join("data")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("it is there") {
                let path = entry.expect("it can be read").path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    let name =
                        path.strip_prefix(self.directory.path()).expect("it is below").to_string_lossy().into_owned();
                    files.insert(name, std::fs::read(path).expect("it can be read"));
                }
            }
        }
        Outcome { status, stdout, files }
    }
}

/// A process that runs una.
struct Running(Child);

impl Running {
    fn wait_patiently(&mut self) -> i32 {
        self.wait_until(|_| false).expect("nothing else was waited for")
    }

    /// Lets the program run for a while, then freezes it. Gives the process's exit status, whatever came first.
    fn freeze_after(&mut self, slice: Duration, by_command: bool, image: &Path) -> i32 {
        // Before una listens for SIGTSTP, the signal would stop the process as it stops any other.
        if let Some(status) = self.wait_until(Running::listens) {
            return status;
        }
        std::thread::sleep(slice);
        let pid = self.0.id();
        if by_command {
            let mut freeze = Command::new(una());
            // It fails if the program has ended, which the status of the program shows.
            let freeze = environment(freeze.arg("freeze").arg(pid.to_string()).arg(image));
            freeze.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("una can be started");
        } else {
            // Not yet waited for, so the number is still that of this process.
            let pid = rustix::process::Pid::from_child(&self.0);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TSTP);
        }
        self.wait_patiently()
    }

    /// Until it has ended, which gives its exit status, or something else is so.
    fn wait_until(&mut self, other: impl Fn(&Running) -> bool) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("it is our child") {
                return Some(status.code().unwrap_or_else(|| panic!("una was killed: {status}")));
            }
            if other(self) {
                return None;
            }
            assert!(start.elapsed() < PATIENCE, "una does not end");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Does the process catch SIGTSTP?
    fn listens(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).map(str::trim);
        let caught = caught.and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
        caught >> (rustix::process::Signal::TSTP.as_raw() - 1) & 1 == 1
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

fn una() -> &'static str {
    env!("CARGO_BIN_EXE_una")
}

/// One user for all tests, who has nothing but what the tests gave him.
fn environment(command: &mut Command) -> &mut Command {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    let home = HOME.get_or_init(|| {
        // A short path: sockets have at most 107 characters.
        let home = std::env::temp_dir().join(format!("una-chains-{}", std::process::id()));
        std::fs::create_dir_all(&home).expect("there is room for a directory");
        home
    });
    command.env_clear().env("HOME", home).env("XDG_RUNTIME_DIR", home)
}

/// The program's WebAssembly.
fn compiled(guest: &Guest) -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in the project");
    let sources = project.join("programs");
    let (ending, options): (_, &[&str]) = match guest.origin {
        Origin::C(options) => ("c", options),
        Origin::Rust => ("rs", &[]),
        Origin::Go => ("go", &[]),
        Origin::Kept => return sources.join("tests").join(guest.name).with_extension("wasm"),
        Origin::Published => {
            let program = project.join("target/programs").join(guest.name).with_extension("wasm");
            assert!(program.exists(), "{} is not there: cargo xtask fetch {}", program.display(), guest.name);
            return program;
        }
    };
    let made = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (program, new) =
        (made.join(guest.name).with_extension("wasm"), made.join(format!("{}-{}", guest.name, std::process::id())));
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut compile = Command::new(sources.join("compile"));
    compile.arg(sources.join("tests").join(guest.name).with_extension(ending)).arg(&new).args(options);
    let output = compile.output().expect("the script is in the repository");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "cannot compile {}; `cargo xtask setup` installs the compiler\n{said}",
        guest.name
    );
    std::fs::rename(new, &program).expect("both are in one directory");
    program
}

/// A pipe into which lines trickle.
fn slow_lines() -> PipeReader {
    let (reader, mut writer) = std::io::pipe().expect("a pipe can be had");
    std::thread::spawn(move || {
        let mut chance = Chance(0x2545_f491_4f6c_dd1d);
        let mut text = vec![];
        for line in 0..400 {
            writeln!(text, "line {line} {}", "lorem ipsum ".repeat(chance.below(20) as usize))
                .expect("memory takes it");
        }
        text.extend_from_slice(b"raw\n0123456ABCDEFG7654321GFEDCBAxyzXYZ0the last line has no end");
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            let length = rest.len().min(1 + chance.below(150) as usize);
            // When every reader is gone, the test has failed for another reason.
            if writer.write_all(&rest[..length]).is_err() {
                return;
            }
            rest = &rest[length..];
            std::thread::sleep(Duration::from_micros(chance.below(4000)));
        }
    });
    reader
}

/// Xorshift; never zero.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}
