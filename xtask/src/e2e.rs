//! `cargo xtask e2e cluster` and `cargo xtask e2e move`: real daemons on machines of their own, which are network namespaces on one bridge,
//! and everything that can happen to machines and cables. It knows `una` by its command line alone.
//!
//! The one idea: a scenario is a function that reads as what happens, and every wait in it is for something to become true. It needs
//! root, `ip` (iproute2), `nft` (nftables) and for clocks that jump libfaketime.
//!
//! ```text
//!   network   namespaces, cables, cuts, loss     node     a daemon and its commands
//!   relay     delay and reordering, by ourselves  cluster, moving  the scenarios, with steps, thousand, kills, lending
//!   enduring  programs that go on until they are told
//! ```

mod cluster;
mod enduring;
mod kills;
mod lending;
mod moving;
mod network;
mod node;
mod relay;
mod steps;
mod thousand;

pub use node::FAKETIME;

use crate::Outcome;
use clap::{Args, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Many machines: joining, dying, being cut off, coming back
    Cluster(Cluster),
    /// Processes that go from machine to machine, and machines that die meanwhile
    Move(Cluster),
    /// What the scenarios rest on, tried by itself: namespaces, cuts, loss, the relay
    Smoke,
    /// Hand connections on, late: what the scenarios start where the bridge is
    #[command(hide = true)]
    Relay { listen: SocketAddr, target: SocketAddr, least_ms: u64, most_ms: u64 },
}

#[derive(Args)]
struct Cluster {
    /// Only scenarios whose names contain one of these words
    names: Vec<String>,

    /// Print the names of the scenarios
    #[arg(long)]
    list: bool,

    /// Those as well that take too long for every change
    #[arg(long)]
    all: bool,

    /// The una to try; the one in the target directory, or UNA, if not given
    #[arg(long)]
    una: Option<PathBuf>,

    /// Leave what the nodes wrote where it is, and say where
    #[arg(long)]
    keep: bool,
}

pub fn run(arguments: Arguments) -> Outcome {
    match arguments.what {
        What::Cluster(arguments) => play_chosen(cluster::ALL, &arguments),
        What::Move(arguments) => play_chosen(moving::ALL, &arguments),
        What::Smoke => {
            network::needed()?;
            network::sweep()?;
            smoke()
        }
        What::Relay { listen, target, least_ms, most_ms } => {
            let delays = relay::Delays { least: Duration::from_millis(least_ms), most: Duration::from_millis(most_ms) };
            let _relay = relay::Relay::start(listen, target, delays)?;
            loop {
                std::thread::park();
            }
        }
    }
}

/// What is run for every change. Where nobody may make namespaces it says so, and is not run; if CI is set, that is a failure.
pub fn sample() -> Outcome {
    play_unless_impossible(false)
}

/// All of it, for the night.
pub fn all() -> Outcome {
    play_unless_impossible(true)
}

fn play_unless_impossible(all: bool) -> Outcome {
    if let Err(why) = network::needed() {
        if std::env::var_os("CI").is_some() {
            return Err(why);
        }
        eprintln!("e2e: not run: {why}");
        return Ok(());
    }
    network::sweep()?;
    smoke()?;
    let chosen = Cluster { names: vec![], list: false, all, una: None, keep: false };
    play_chosen(cluster::ALL, &chosen)?;
    play_chosen(moving::ALL, &chosen)
}

/// Whether a scenario is run for every change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    Always,
    Nightly,
}

/// Something that happens, and what must be true of it.
pub struct Scenario {
    pub name: &'static str,
    pub when: When,
    pub play: fn(&node::Setting) -> Outcome,
}

fn play_chosen(all: &[Scenario], arguments: &Cluster) -> Outcome {
    let wanted = |scenario: &&Scenario| match arguments.names.as_slice() {
        [] => arguments.all || scenario.when == When::Always,
        names => names.iter().any(|name| scenario.name.contains(name.as_str())),
    };
    let scenarios: Vec<&Scenario> = all.iter().filter(wanted).collect();
    if arguments.list {
        all.iter().for_each(|scenario| println!("{}", scenario.name));
        return Ok(());
    }
    if scenarios.is_empty() {
        return Err("no scenario has such a name: see --list".into());
    }
    network::needed()?;
    network::sweep()?;
    let una = una(arguments.una.clone())?;
    let mut failed = vec![];
    for scenario in &scenarios {
        let begun = Instant::now();
        let setting = node::Setting { una: una.clone(), keep: arguments.keep };
        // A scenario that panics has failed like any other; its machines are taken down as it unwinds.
        let outcome = std::panic::catch_unwind(|| (scenario.play)(&setting));
        let outcome = outcome.unwrap_or_else(|_| Err("it panicked".into()));
        let seconds = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => println!("ok      {:<28} {seconds:>6.1} s", scenario.name),
            Err(error) => {
                println!("FAILED  {:<28} {seconds:>6.1} s\n{error}", scenario.name);
                failed.push(scenario.name);
            }
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("{} of {} scenarios failed: {}", failed.len(), scenarios.len(), failed.join(", ")).into())
    }
}

fn una(given: Option<PathBuf>) -> Outcome<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("una");
    let una = given.or_else(|| std::env::var_os("UNA").map(PathBuf::from)).unwrap_or(beside);
    if una.is_file() {
        Ok(una.canonicalize()?)
    } else {
        Err(format!("{} is not there: cargo build --release -p una-cli", una.display()).into())
    }
}

/// No event that a scenario waits for takes longer, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `look` finds what is waited for; says what it saw last if it does not come.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> Outcome<T> {
    let begun = Instant::now();
    loop {
        let seen = match look() {
            Ok(found) => return Ok(found),
            Err(seen) => seen,
        };
        if begun.elapsed() > PATIENCE {
            return Err(format!("waited {} s for: {what}\nseen last: {seen}", PATIENCE.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Tries the network by itself, with plain processes.
fn smoke() -> Outcome {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    let network = network::Network::new(3)?;
    let hears = |from: usize, to: usize| network.hears(from, to);
    for (from, to) in [(1, 2), (2, 3), (3, 1)] {
        check(hears(from, to)?, &format!("n{from} is heard by n{to}"))?;
    }
    network.cut(1, 2)?;
    check(!hears(1, 2)?, "what n1 sends does not reach n2 after a cut one way")?;
    check(network.arrives(2, 1)?, "what n2 sends reaches n1")?;
    check(hears(1, 3)? && hears(2, 3)?, "others are not cut off")?;
    network.heal()?;
    check(hears(1, 2)?, "n1 is heard again")?;
    network.lose(2, 99)?;
    check(!hears(1, 2)? || !hears(1, 2)?, "almost nothing arrives where almost all is lost")?;
    network.heal()?;
    // The relay: everything arrives, in order within a connection, and later.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let target = listener.local_addr()?;
    let delay = Duration::from_millis(80);
    let relay = relay::Relay::start("127.0.0.1:0".parse()?, target, relay::Delays { least: delay, most: delay * 2 })?;
    let server = std::thread::spawn(move || -> std::io::Result<Vec<u8>> {
        let (mut stream, _) = listener.accept()?;
        let mut all = vec![];
        stream.read_to_end(&mut all)?;
        stream.write_all(b"done")?;
        Ok(all)
    });
    let begun = Instant::now();
    let mut stream = TcpStream::connect(relay.address())?;
    let sent: Vec<u8> = (0..300_000u32).map(|byte| byte as u8).collect();
    stream.write_all(&sent)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = vec![];
    stream.read_to_end(&mut answer)?;
    let received = server.join().map_err(|_| "the server of the smoke test panicked")??;
    check(received == sent && answer == b"done", "a relay hands everything on, in order")?;
    check(begun.elapsed() >= 2 * delay, "a relay takes its time both ways")?;
    drop(relay);
    let prefix = network.prefix();
    drop(network);
    let left = network::namespaces()?.into_iter().filter(|name| name.starts_with(&prefix)).count();
    check(left == 0, "nothing is left of a network")?;
    println!("ok      the network of the scenarios");
    Ok(())
}

fn check(is_so: bool, what: &str) -> Outcome {
    if is_so { Ok(()) } else { Err(format!("not true: {what}").into()) }
}
