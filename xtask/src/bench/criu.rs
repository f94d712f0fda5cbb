//! The program that `bench move --only nodes` moves, stopped and continued on one machine by CRIU, which does this for processes of Linux.
//! Knows CRIU's command line, and that many kernels do not let it work: then the table says why.

use super::moving::{HOT, House, SOON, compiled, directory, line, most};
use super::report::Table;
use crate::Outcome;
use crate::step::output;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What is saved stays in memory, so that no disk is measured.
const IMAGES: &str = "/dev/shm/una-bench-criu";

pub fn beside(_: &House, rounds: u32, table: &mut Table) -> Outcome {
    if let Err(why) = works() {
        table.0.push(vec!["CRIU: dump and restore".into(), "-".into(), "-".into(), format!("not measured: {why}")]);
        return Ok(());
    }
    let program = native()?;
    for (mib, hot) in HOT {
        let (mut still, mut whole) = (vec![], vec![]);
        for _ in 0..rounds {
            let (stood, took) = once(&program, mib, hot)?;
            still.push(stood);
            whole.push(took);
        }
        let bytes = (mib as usize) << 20;
        let what = |what: &str| format!("CRIU, dump and restore here: {what}, {hot} hot pages");
        line(table, &what("standing still, by the program's own look at the clock"), bytes, "ms", &still);
        line(table, &what("both commands"), bytes, "ms", &whole);
    }
    Ok(())
}

/// Whether it can do anything here; if not, what it says first.
fn works() -> Result<(), String> {
    let check = Command::new("criu").arg("check").output();
    let check = check.map_err(|error| format!("criu cannot be started ({error}): Debian has it in criu"))?;
    if check.status.success() {
        return Ok(());
    }
    let said = [check.stderr, check.stdout].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let errors = said.lines().filter_map(|line| line.strip_prefix("Error ")?.split_once("): ").map(|(_, text)| text));
    // That a child of its own ended is no reason.
    let first = errors.filter(|text| !text.starts_with("exited")).next();
    Err(format!("criu check fails: {}", first.unwrap_or("it does not say why")))
}

/// The program for this machine.
fn native() -> Outcome<PathBuf> {
    // Beside its WebAssembly.
    compiled("hot")?;
    let program = directory().join("hot");
    let mut command = Command::new("clang");
    command.args(["-O2", "-o"]).arg(&program).arg(crate::root().join("bench/move/hot.c"));
    output(&mut command, "cargo xtask setup installs clang")?;
    Ok(program)
}

/// How long it stood still, by its own clock, and how long that took by ours; in milliseconds.
fn once(program: &Path, mib: u32, hot: u32) -> Outcome<(f64, f64)> {
    let images = Path::new(IMAGES);
    let _ = std::fs::remove_dir_all(images);
    std::fs::create_dir_all(images)?;
    let printed = directory().join("hot.txt");
    let mut child = start(program, mib, hot, &printed)?;
    let pid = child.id().to_string();
    let told = (|| {
        let before = lines(&printed, 3)?.len();
        let begun = Instant::now();
        criu(images, &["dump", "--tree", &pid])?;
        // Its number is free again only then.
        child.wait()?;
        criu(images, &["restore", "--restore-detached"])?;
        let took = begun.elapsed().as_secs_f64() * 1e3;
        Ok((most(&lines(&printed, before + 2)?[before..]), took))
    })();
    // What was restored is no child of ours any more.
    let _ = output(Command::new("kill").args(["-9", &pid]), "");
    let _ = child.wait();
    std::fs::remove_dir_all(images)?;
    told
}

fn start(program: &Path, mib: u32, hot: u32, printed: &Path) -> Outcome<Child> {
    let mut command = Command::new("setsid");
    // No terminal and no session of ours, which would have to be saved too.
    command.arg(program).args([mib.to_string(), hot.to_string()]);
    let out = File::create(printed)?;
    Ok(command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out).spawn()?)
}

fn criu(images: &Path, words: &[&str]) -> Outcome {
    let mut command = Command::new("criu");
    output(command.args(words).arg("--images-dir").arg(images), "Debian has it in criu").map(drop)
}

/// What it has printed, in microseconds, as soon as that is so many lines.
fn lines(printed: &Path, count: usize) -> Outcome<Vec<f64>> {
    let until = Instant::now() + SOON;
    loop {
        let said = std::fs::read_to_string(printed)?;
        let told: Vec<f64> = said.lines().filter_map(|line| line.parse().ok()).collect();
        if told.len() >= count {
            return Ok(told);
        }
        if Instant::now() > until {
            return Err(format!("the program has not printed {count} lines").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
