//! `cargo xtask cluster N`: N nodes of one system on this machine, to play with. Knows how una is started; each node has directories of
//! its own below `target/cluster`, and a script there by which it is spoken to.

use crate::Outcome;
use crate::step::{cargo, output, step};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Arguments {
    /// How many nodes
    #[arg(default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    nodes: u16,

    /// End the nodes and forget what they knew
    #[arg(long)]
    down: bool,
}

pub fn play(arguments: &Arguments) -> Outcome {
    let place = crate::root().join("target/cluster");
    end(&place)?;
    if arguments.down {
        return Ok(());
    }
    start(&place, arguments.nodes, &build()?, &[])?;
    let shown = place.strip_prefix(std::env::current_dir()?).unwrap_or(&place).display().to_string();
    let last = arguments.nodes;
    println!("{} nodes are one computer. Speak to any of them:", arguments.nodes);
    println!("  {shown}/n1 status        {shown}/n{last} nodes        {shown}/n{last} ps");
    println!("  {shown}/n1 run --on n{last}-box programs/raytracer.wasm");
    println!("  {shown}/n1 down          and see what the others say; {shown}/n1 up -d brings it back");
    println!("  cargo xtask cluster --down ends them all");
    Ok(())
}

/// Compiles una, and gives where it is.
pub fn build() -> Outcome<PathBuf> {
    step(cargo().args(["build", "--release", "--locked", "-p", "una-cli"]), "cargo comes with Rust")?;
    Ok(crate::target().join("release/una"))
}

/// Starts so many nodes of one system below `place`, each with a script there by which it is spoken to, and `n1-box`, `n2-box`, ... for a
/// name. Every una that a script starts has these words of the environment.
pub fn start(place: &Path, nodes: u16, una: &Path, environment: &[(&str, &str)]) -> Outcome {
    for number in 1..=nodes {
        script(place, number, una, environment)?;
    }
    speak(place, 1, &["up", "-d", "--listen", "127.0.0.1", "--name", "n1-box"])?;
    for number in 2..=nodes {
        let ticket = speak(place, 1, &["ticket", "-q"])?;
        let name = format!("n{number}-box");
        speak(place, number, &["join", ticket.trim(), "--listen", "127.0.0.1", "--name", &name])?;
    }
    // The first ones hear of the last a moment after it hears of them.
    let until = Instant::now() + Duration::from_secs(20);
    while nodes > 1 && Instant::now() < until {
        let said: Vec<String> = (1..=nodes).map(|node| speak(place, node, &["nodes"])).collect::<Outcome<_>>()?;
        if said.iter().all(|said| said.matches(" up ").count() == usize::from(nodes)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The process of Linux that a node is.
pub fn daemon(place: &Path, number: u16) -> Outcome<u32> {
    let lock = place.join(format!("homes/{number}/.local/share/una/node/node.lock"));
    let text = fs::read_to_string(&lock).map_err(|error| format!("{}: {error}", lock.display()))?;
    let lock: serde_json::Value = serde_json::from_str(&text)?;
    Ok(lock["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).ok_or("a lock names who has it")?)
}

/// Ends a node without a word.
pub fn kill(place: &Path, number: u16) -> Outcome {
    let daemon = daemon(place, number)?.to_string();
    output(Command::new("kill").args(["-9", &daemon]), "kill is part of every system")?;
    Ok(())
}

/// Starts a program on one of the nodes by the first, with these words behind `una run -d`. Gives its number.
pub fn begin(place: &Path, words: &[&str]) -> Outcome<String> {
    let said = speak(place, 1, &[&["run", "-d"], words].concat())?;
    let pid = said.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    Ok(pid.ok_or_else(|| format!("una run said {said}"))?.into())
}

fn script_of(place: &Path, number: u16) -> PathBuf {
    place.join(format!("n{number}"))
}

fn script(place: &Path, number: u16, una: &Path, environment: &[(&str, &str)]) -> Outcome {
    let home = place.join(format!("homes/{number}"));
    let run = home.join("run");
    fs::create_dir_all(&run)?;
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700))?;
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let (home, run, una) = (quoted(&home), quoted(&run), quoted(una));
    let words: String = environment.iter().map(|(name, value)| format!("{name}='{value}' ")).collect();
    let text = format!(
        "#!/bin/sh\n{words}HOME={home} XDG_RUNTIME_DIR={run} XDG_DATA_HOME= XDG_CACHE_HOME= exec {una} \"$@\"\n"
    );
    let mut file =
        fs::File::options().write(true).create(true).truncate(true).mode(0o755).open(script_of(place, number))?;
    Ok(file.write_all(text.as_bytes())?)
}

/// What the node's una says to these words, if it does them.
pub fn speak(place: &Path, number: u16, words: &[&str]) -> Outcome<String> {
    let done = Command::new(script_of(place, number)).args(words).output()?;
    if !done.status.success() {
        return Err(format!("n{number}: una {}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Those of an earlier time, if there are any.
pub fn end(place: &Path) -> Outcome {
    for number in 1..=16 {
        if script_of(place, number).exists() {
            // One that does not run is as good as ended.
            let _ = speak(place, number, &["down"]);
        }
    }
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
