//! A daemon under load that is killed at random moments comes back by `una up` alone, and nothing that it had acknowledged is lost. Knows
//! una as its users do: commands, signals.
//!
//! Programs on the node make, write, rename and remove files and say of each act that it is done; what they had said by the moment of the
//! kill is compared with what is there afterwards (`guests/keeper.c`).

mod house;

use house::{Done, House, Running, until};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::thread::JoinHandle;
use std::time::Duration;

const KEEPERS: usize = 3;

/// A program that works on the node, as a client of it: what it has said, until the daemon is no more.
struct Keeper {
    client: Child,
    said: JoinHandle<String>,
}

struct Killed {
    house: House,
    daemon: Option<Running>,
}

impl Killed {
    fn new() -> Killed {
        let house = House::new();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut compile = Command::new(root.join("../programs/compile"));
        let said = compile.arg(root.join("tests/guests/keeper.c")).arg(house.path("keeper.wasm")).output().unwrap();
        assert!(
            said.status.success(),
            "`cargo xtask setup` installs compilers\n{}",
            String::from_utf8_lossy(&said.stderr)
        );
        let mut killed = Killed { house, daemon: None };
        killed.up();
        killed
    }

    fn up(&mut self) {
        let mut daemon = self.house.start(&["up"]);
        while !daemon.line().contains("end ") {}
        self.daemon = Some(daemon);
    }

    fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.child.kill().unwrap();
        daemon.child.wait().unwrap();
    }

    fn keeper(&self, directory: &str) -> Keeper {
        let mut client = self.house.una(&["run", "keeper.wasm", directory]).spawn().unwrap();
        let mut lines = BufReader::new(client.stdout.take().unwrap());
        let said = std::thread::spawn(move || {
            let mut said = String::new();
            loop {
                let mut line = String::new();
                // Half a line was not said.
                match lines.read_line(&mut line) {
                    Ok(_) if line.ends_with('\n') => said.push_str(&line),
                    _ => return said,
                }
            }
        });
        Keeper { client, said }
    }

    #[track_caller]
    fn check(&self, directory: &str, said: &str) -> usize {
        let done: Done = self.house.done_with(&["run", "keeper.wasm", "check", directory], said);
        assert_eq!(done.status, 0, "{directory}: {}{}\nit had said:\n{said}", done.out, done.err);
        done.out.split_whitespace().next().unwrap().parse().unwrap()
    }
}

fn killed_at_random(rounds: u32) {
    let mut at = Killed::new();
    let mut chance = 0x9e37_79b9_7f4a_7c15u64;
    let mut all: Vec<(String, String)> = vec![];
    let mut acknowledged = 0;
    for round in 0..rounds {
        let names: Vec<String> = (0..KEEPERS).map(|keeper| format!("/round-{round}-{keeper}")).collect();
        let keepers: Vec<Keeper> = names.iter().map(|name| at.keeper(name)).collect();
        // Once one of them works it may come at any moment.
        until("a keeper", || (at.house.done(&["ls", &names[0]]).status == 0).then_some(()));
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_micros(chance >> 44));
        at.kill();
        for (name, Keeper { mut client, said }) in names.into_iter().zip(keepers) {
            client.wait().unwrap();
            let said = said.join().unwrap();
            assert!(!said.contains("failed"), "{said}");
            all.push((name, said));
        }
        at.up();
        for (name, said) in &all[all.len() - KEEPERS..] {
            if !said.is_empty() {
                acknowledged += at.check(name, said);
            }
        }
    }
    // What was kept once is kept for ever.
    for (name, said) in &all {
        if !said.is_empty() {
            at.check(name, said);
        }
    }
    println!("{rounds} kills, {acknowledged} acts were acknowledged");
    assert!(acknowledged > 20 * rounds as usize, "only {acknowledged} acts were acknowledged in {rounds} rounds");
    at.house.done(&["down"]).expect(0, "una is down\n");
}

#[test]
fn a_few_kills_lose_nothing() {
    killed_at_random(5);
}

#[test]
#[ignore = "takes minutes: for the nightly run"]
fn a_hundred_kills_lose_nothing() {
    killed_at_random(100);
}
