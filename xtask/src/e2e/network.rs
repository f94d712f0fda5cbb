//! Machines that are network namespaces, on one bridge; what can be done to their cables. It knows nothing of what runs on them.
//!
//! The one idea: everything is inside of namespaces whose names begin with our process number, the bridge too; taking those away takes
//! everything away, and what a run that was killed left behind is recognised by the next.

use crate::Outcome;
use crate::step::output;
use std::process::Command;

const NAME: &str = "una-e2e-";
/// The bridge's own address.
const HUB: &str = "10.77.0.254";

pub struct Network {
    count: usize,
    prefix: String,
}

/// Says what is missing on this machine.
pub fn needed() -> Outcome {
    if output(Command::new("id").arg("-u"), "coreutils has it")?.trim() != "0" {
        return Err("network namespaces are made by root: run it as root".into());
    }
    output(Command::new("ip").args(["netns", "list"]), "Debian has it in iproute2, Fedora in iproute")?;
    output(Command::new("nft").arg("--version"), "Debian and Fedora have it in nftables")?;
    Ok(())
}

/// The names of all namespaces of this machine.
pub fn namespaces() -> Outcome<Vec<String>> {
    let listed = output(Command::new("ip").args(["netns", "list"]), "Debian has it in iproute2")?;
    Ok(listed.lines().filter_map(|line| line.split_whitespace().next()).map(String::from).collect())
}

/// Takes away what runs that were killed have left.
pub fn sweep() -> Outcome {
    for name in namespaces()? {
        let process = name.strip_prefix(NAME).and_then(|rest| rest.split('-').next());
        let is_left = process.is_some_and(|process| !std::path::Path::new("/proc").join(process).exists());
        if is_left {
            remove(&name);
        }
    }
    Ok(())
}

/// Ends what runs in a namespace, and takes it away.
fn remove(name: &str) {
    let listed = output(Command::new("ip").args(["netns", "pids", name]), "").unwrap_or_default();
    for process in listed.split_whitespace() {
        let _ = output(Command::new("kill").args(["-9", process]), "");
    }
    let _ = output(Command::new("ip").args(["netns", "del", name]), "");
}

impl Network {
    /// Machines 1 to `count`, all on one bridge.
    pub fn new(count: usize) -> Outcome<Network> {
        static SERIAL: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let prefix = format!("{NAME}{}-{serial}-", std::process::id());
        // From here on whatever was made is taken away if the rest fails.
        let network = Network { count, prefix };
        let hub = network.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge", "up"])?;
        ip(&["-n", &hub, "address", "add", &format!("{HUB}/24"), "dev", "bridge"])?;
        for machine in 1..=count {
            let (name, port) = (network.name(machine), format!("port{machine}"));
            ip(&["netns", "add", &name])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            ip(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            ip(&["-n", &hub, "link", "set", &port, "master", "bridge", "up"])?;
            ip(&["-n", &name, "address", "add", &format!("{}/24", address(machine)), "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
            network.nft(machine, "add table inet una")?;
            network.nft(machine, "add chain inet una arriving { type filter hook input priority 0 ; }")?;
        }
        Ok(network)
    }

    pub fn prefix(&self) -> String {
        self.prefix.clone()
    }

    fn hub(&self) -> String {
        format!("{}hub", self.prefix)
    }

    fn name(&self, machine: usize) -> String {
        format!("{}n{machine}", self.prefix)
    }

    /// A command that runs on a machine; its process is the program's own.
    pub fn on(&self, machine: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(machine)]).arg(program);
        command
    }

    /// A command that runs where the bridge is.
    pub fn on_hub(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.hub()]).arg(program);
        command
    }

    /// What others send to this port of the machine goes to the bridge instead. Gives where a relay must listen, and whereto it goes on.
    pub fn through_hub(&self, machine: usize, port: u16) -> Outcome<(String, String)> {
        let listen = format!("{HUB}:{}", 9000 + machine);
        for from in (1..=self.count).filter(|from| *from != machine) {
            // A table that is there already is not made again.
            self.nft(from, "add table ip una_relay")?;
            self.nft(from, "add chain ip una_relay leaving { type nat hook output priority -100 ; }")?;
            let rule = format!(
                "add rule ip una_relay leaving ip daddr {} tcp dport {port} dnat to {listen}",
                address(machine)
            );
            self.nft(from, &rule)?;
        }
        Ok((listen, format!("{}:{port}", address(machine))))
    }

    fn nft(&self, machine: usize, words: &str) -> Outcome {
        let mut command = self.on(machine, "nft");
        output(command.arg(words), "Debian and Fedora have it in nftables").map(drop)
    }

    /// What `from` sends does not reach `to` any more. The other way it does.
    pub fn cut(&self, from: usize, to: usize) -> Outcome {
        self.nft(to, &format!("add rule inet una arriving ip saddr {} drop", address(from)))
    }

    /// Neither hears the other.
    pub fn cut_both(&self, one: usize, other: usize) -> Outcome {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// The machine hears nobody and is heard by nobody.
    pub fn cut_off(&self, machine: usize) -> Outcome {
        (1..=self.count).filter(|other| *other != machine).try_for_each(|other| self.cut_both(machine, other))
    }

    /// Of all that reaches the machine, so many of a hundred packets are lost.
    pub fn lose(&self, machine: usize, percent: u32) -> Outcome {
        self.nft(machine, &format!("add rule inet una arriving iif eth0 numgen random mod 100 < {percent} drop"))
    }

    /// Another address than before, as if another router had given it; what it had is nobody's. Cuts do not know of it.
    pub fn renumber(&self, machine: usize) -> Outcome {
        let name = self.name(machine);
        let change =
            |verb: &str, address: String| ip(&["-n", &name, "address", verb, &format!("{address}/24"), "dev", "eth0"]);
        // In this order: with the first address of a network Linux takes all others of it away.
        change("delete", address(machine))?;
        change("add", renumbered(machine))
    }

    /// All cuts and losses are over.
    pub fn heal(&self) -> Outcome {
        (1..=self.count).try_for_each(|machine| self.nft(machine, "flush chain inet una arriving"))
    }

    /// Does an answer come back when `to` is asked by `from`?
    pub fn hears(&self, from: usize, to: usize) -> Outcome<bool> {
        let mut asking = self.on(from, "python3");
        asking.args(["-c", ECHO_CLIENT, &address(to)]);
        let mut serving = self.on(to, "python3");
        serving.args(["-c", ECHO_SERVER, &address(to)]).stdout(std::process::Stdio::piped());
        with_server(&mut serving, || Ok(asking.output()?.status.success()))
    }

    /// Does a packet of `from` reach `to`, whether or not an answer could come back?
    pub fn arrives(&self, from: usize, to: usize) -> Outcome<bool> {
        let mut serving = self.on(to, "python3");
        serving.args(["-c", ONE_PACKET, &address(to)]).stdout(std::process::Stdio::piped());
        let mut sending = self.on(from, "python3");
        sending.args(["-c", SEND_PACKETS, &address(to)]);
        let mut server = serving.spawn()?;
        sending.output()?;
        Ok(server.wait()?.success())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        (1..=self.count).for_each(|machine| remove(&self.name(machine)));
        remove(&self.hub());
    }
}

pub fn address(machine: usize) -> String {
    format!("10.77.0.{machine}")
}

/// Where a machine is after [`Network::renumber`].
pub fn renumbered(machine: usize) -> String {
    format!("10.77.0.{}", 100 + machine)
}

fn ip(words: &[&str]) -> Outcome {
    output(Command::new("ip").args(words), "Debian has it in iproute2").map(drop)
}

/// Starts it, waits for its first line, does something, and ends it.
fn with_server<T>(serving: &mut Command, act: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    use std::io::BufRead;
    let mut server = serving.spawn()?;
    let mut line = String::new();
    let stdout = server.stdout.take().ok_or("its output is a pipe")?;
    let read = std::io::BufReader::new(stdout).read_line(&mut line);
    let outcome = read.map_err(Into::into).and_then(|_| act());
    server.kill()?;
    server.wait()?;
    outcome
}

const ECHO_SERVER: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 7)); print('up', flush=True)
while True:
    data, who = s.recvfrom(100); s.sendto(data, who)
";

const ECHO_CLIENT: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.2)
for _ in range(4):
    try:
        s.sendto(b'?', (sys.argv[1], 7)); s.recvfrom(100); sys.exit(0)
    except OSError: pass
sys.exit(1)
";

const ONE_PACKET: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 8)); s.settimeout(3)
try: s.recvfrom(100)
except OSError: sys.exit(1)
";

const SEND_PACKETS: &str = "
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(20):
    try: s.sendto(b'!', (sys.argv[1], 8))
    except OSError: pass
    time.sleep(0.05)
";
