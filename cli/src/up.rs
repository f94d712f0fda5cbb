//! `una up`: this process, or one in the background, is the user's node.

use crate::failure::{Failure, Result, quoted, status};
use crate::program::EngineArgument;
use crate::{directories, json, lend, node, print};
use clap::Args;
use daemon::node::{Node, NodeError, NodeOptions};
use daemon::protocol::place::{self, ClaimError, Holder};
use daemon::protocol::{Reply, Request};
use daemon::server::Server;
use daemon::system::lend::Lend;
use daemon::system::{self, RecordError, StartError, System, SystemOptions};
use drivers::wire::WireError;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The last line that a daemon in the background says to who started it.
const READY: &str = "ready";

/// Start the node of this user
///
/// Programs then run in it, survive the terminal they were started from, see one tree of files and one space of names, and are seen by
/// una ps and una top. It ends on ctrl-C, una down or SIGTERM; files and names are there again when it starts the next time.
#[derive(Args)]
pub struct Up {
    /// Run in the background
    #[arg(short, long)]
    detach: bool,

    /// With -d, print JSON for scripts
    #[arg(long, requires = "detach")]
    json: bool,

    /// How many threads run programs; one for each processor if not given
    #[arg(long, value_name = "COUNT")]
    workers: Option<u16>,

    /// What executes programs
    #[arg(long, value_enum, default_value = "native")]
    engine: EngineArgument,

    /// Where other nodes reach this one; a port that is free is taken if none is given
    #[arg(long, value_name = "ADDRESS[:PORT]", default_value = "0.0.0.0", value_parser = address, conflicts_with = "alone")]
    listen: SocketAddr,

    /// Listen for nobody: a system of one machine that others cannot join
    #[arg(long)]
    alone: bool,

    /// What this node is called, when it begins a system; the machine's name if not given
    #[arg(long)]
    name: Option<String>,

    /// When nobody has heard this node for so many seconds the others give up on it: what they wait for on it ends, and so does all
    /// that is on it when it is back. For machines that are always on; without it they wait until it is back, or removed
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "alone")]
    lost_after: Option<u64>,

    /// When this machine runs what others want to run: always, or idle, or idle:10m: while its owner has been away for so long;
    /// as it was said last if not given, and always at first
    #[arg(long, value_name = "WHEN", value_parser = lend::terms)]
    lend: Option<Lend>,

    /// This process was started by `una up -d`
    #[arg(long, hide = true)]
    in_background: bool,
}

/// An address, with or without a port.
pub fn address(text: &str) -> std::result::Result<SocketAddr, String> {
    let alone = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0));
    alone.or_else(|_| text.parse()).map_err(|_| "expected an address, for example 192.168.1.5 or 0.0.0.0:7862".into())
}

/// How long the ticket is good for that is shown at the start.
const TICKET_LASTS: Duration = Duration::from_secs(3600);
/// How long a start waits for its system before it goes on without having heard it.
const SYSTEM_PATIENCE: Duration = Duration::from_secs(1);
/// How long it waits for facts that somebody decides about and that must come, on a machine however busy.
const KNOWN_PATIENCE: Duration = Duration::from_secs(20);

impl Up {
    /// For a machine that has just joined.
    pub fn after_join(
        detach: bool, listen: SocketAddr, workers: Option<u16>, engine: EngineArgument, lend: Option<Lend>,
    ) -> Up {
        let (name, lost_after) = (None, None);
        Up { detach, json: false, workers, engine, listen, alone: false, name, lost_after, lend, in_background: false }
    }

    pub fn execute(self) -> Result<u8> {
        if self.detach { self.start() } else { self.be() }
    }

    /// Is the node, until it is told to end.
    fn be(&self) -> Result<u8> {
        if self.in_background {
            // A session of its own: what happens to the terminal is nothing to it. It is no leader of a group, so this works.
            let _ = rustix::process::setsid();
        }
        open_many_files();
        let library = directories::data()?.join("programs");
        let data = directories::node()?;
        if let Some(aside) = system::put_aside_if_left(&data).map_err(cannot_start)? {
            print(&format!("what it knew of the system that it left is in {}\n", quoted(&aside.to_string_lossy())))?;
        }
        let socket = directories::runtime()?.join("node.sock");
        let (claim, listener) = place::claim(&data, &socket).map_err(|error| unclaimed(error, &data))?;
        // Before the node is there, so that no signal finds it half up.
        let (stop, stopped) = mpsc::channel();
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(cannot_start)?;
        let ask = stop.clone();
        let listen = move || {
            for (times, _) in signals.forever().enumerate() {
                if times > 0 {
                    // Who asks twice does not want to wait.
                    std::process::exit(status::FAILED.into());
                }
                let _ = ask.send(());
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(listen).map_err(cannot_start)?;
        let system = SystemOptions {
            data: data.clone(),
            library: library.clone(),
            listen: (!self.alone).then_some(self.listen),
            name: self.name.clone().unwrap_or_else(drivers::host::name),
            lost_after_s: self.lost_after.unwrap_or(0),
            lend: self.lend,
        };
        let system = System::start(&system).map_err(|error| not_in_system(error, &data))?;
        let options = NodeOptions {
            node: system.me(),
            life: system.life(),
            files: Some(system.files()),
            names: Some(system.names()),
            others: Some(std::sync::Arc::new(system.clone())),
            data: data.clone(),
            cache: directories::cache().ok(),
            workers: self.workers,
            target: self.engine.target(),
            canonical_nans: false,
        };
        let started = Node::start(&options).map_err(|error| not_started(error, &data))?;
        system.serve(started.clone());
        let status = started.status();
        let is_writable = system.wait_writable(SYSTEM_PATIENCE);
        if is_writable {
            system.wait_known(KNOWN_PATIENCE);
        }
        system.wait_heard(SYSTEM_PATIENCE);
        let ticket = match is_writable {
            true if !self.alone => system.ticket(TICKET_LASTS).ok(),
            _ => None,
        };
        let home = std::env::var("HOME").unwrap_or_default();
        let shown = |path: &Path| match path.strip_prefix(&home) {
            Ok(inside) if !home.is_empty() => format!("~/{}", inside.display()),
            _ => path.display().to_string(),
        };
        let how_to_end = if self.in_background { "una down" } else { "ctrl-C, or una down" };
        print(&format!(
            "una {} is up: {}, process {}\n\
             \x20 data    {}\n\
             \x20 run     una run PROG.wasm          una fetch python, then: una run python -c 'print(1)'\n\
             \x20 look    una top    una ps    una logs -f PID    una status\n\
             \x20 grow    {}\n\
             \x20 end     {how_to_end}\n",
            env!("CARGO_PKG_VERSION"),
            plural(status.processors, "processor"),
            std::process::id(),
            shown(&data),
            match &ticket {
                Some((ticket, _)) => format!("una join {ticket}    on another machine, within the hour"),
                None if self.alone => "it listens for nobody: una up without --alone lets others join".into(),
                None => "una ticket, when enough nodes of the system are up".into(),
            },
        ))?;
        if self.in_background {
            print(&format!("{READY}\n"))?;
            // Who started it may be gone from now on.
            let null = File::options().write(true).open("/dev/null").map_err(cannot_start)?;
            rustix::stdio::dup2_stdout(&null).map_err(|error| cannot_start(error.into()))?;
        }
        let (halted, of_system, ask) = (started.clone(), system.clone(), stop.clone());
        let watch = move || {
            while !halted.wait_halted(Duration::from_millis(500)) && !of_system.is_over() {}
            let _ = ask.send(());
        };
        std::thread::Builder::new().name("watch".into()).spawn(watch).map_err(cannot_start)?;
        let server = Server::new(started.clone(), system.clone(), &library);
        server.serve(listener, stopped, stop);
        if !self.in_background {
            print("una is going down\n")?;
        }
        let by_itself = started.wait_halted(Duration::ZERO);
        let is_over = system.is_over();
        system.going_down();
        let flushed = started.shutdown();
        server.close();
        system.shutdown();
        drop(claim);
        if is_over {
            return begin_anew();
        }
        if let Err(error) = flushed {
            return Err(Failure::new(status::FAILED, "not all that programs wrote is on the disk")
                .because(error)
                .help("what had been synced is; see whether the disk is full or broken: una doctor"));
        }
        if by_itself {
            return Err(Failure::new(status::FAILED, "the node stopped by itself")
                .because("one of its services cannot go on")
                .help("start it again: una up; if that fails too: una doctor"));
        }
        Ok(0)
    }

    /// Starts a node in the background and waits until it is ready.
    fn start(&self) -> Result<u8> {
        let data = directories::node()?;
        std::fs::create_dir_all(&data).map_err(cannot_start)?;
        let log_path = data.join("daemon.log");
        let mut log = File::options();
        let mut log = log.create(true).append(true).read(true).mode(0o600).open(&log_path).map_err(cannot_start)?;
        let written = log.seek(std::io::SeekFrom::End(0)).map_err(cannot_start)?;
        let una = std::env::current_exe().map_err(cannot_start)?;
        let mut command = Command::new(una);
        command.args(["up", "--in-background"]);
        if let Some(workers) = self.workers {
            command.arg("--workers").arg(workers.to_string());
        }
        command.args(["--engine", self.engine.name()]);
        if let Some(name) = &self.name {
            command.arg("--name").arg(name);
        }
        if let Some(seconds) = self.lost_after {
            command.arg("--lost-after").arg(seconds.to_string());
        }
        if let Some(lend) = self.lend {
            command.args(["--lend", &lend::argument(lend)]);
        }
        match self.alone {
            true => command.arg("--alone"),
            false => command.arg("--listen").arg(self.listen.to_string()),
        };
        // Errors are for people, who read them here if it fails now, and in the file if it fails later.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone().map_err(cannot_start)?);
        // It keeps no directory busy.
        let mut child = command.current_dir("/").spawn().map_err(cannot_start)?;
        let out = child.stdout.take().expect("it was asked for a line above");
        for line in BufReader::new(out).lines().map_while(std::result::Result::ok) {
            match (line == READY, self.json) {
                (true, true) => {
                    let status = match node::connect()?.ask(&Request::Status).map_err(node::failed)? {
                        Reply::Status(status) => status,
                        other => return Err(node::unexpected(&other)),
                    };
                    let told = serde_json::json!({ "status": status, "data": data.to_string_lossy() });
                    print(&json::text("una.up/1", &told))?;
                    return Ok(0);
                }
                (true, false) => return Ok(0),
                (false, true) => {}
                (false, false) => print(&format!("{line}\n"))?,
            }
        }
        let _ = child.wait();
        let mut said = String::new();
        let _ = log.seek(std::io::SeekFrom::Start(written)).and_then(|_| log.read_to_string(&mut said));
        if said.trim().is_empty() {
            return Err(Failure::new(status::FAILED, "the daemon ended before it was ready")
                .help(format!("see what it said: cat {}", quoted(&log_path.to_string_lossy()))));
        }
        // It said all there is to say.
        eprint!("{said}");
        Ok(status::FAILED)
    }
}

/// This life of the node is over: the next one begins, in a process that is as this one was at its start.
fn begin_anew() -> Result<u8> {
    use std::os::unix::process::CommandExt;
    eprintln!("una: nobody heard this node for as long as it may be silent, so it begins anew");
    let una = std::env::current_exe().map_err(cannot_start)?;
    Err(cannot_start(Command::new(una).args(std::env::args_os().skip(1)).exec()))
}

/// The usual limit is for programs that serve one user's one task. Where it cannot be raised, less is served at once.
fn open_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn plural(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn cannot_start(error: std::io::Error) -> Failure {
    Failure::new(status::FAILED, "cannot start").because(error)
}

fn unclaimed(error: ClaimError, data: &Path) -> Failure {
    let failure = Failure::new(status::FAILED, "una is up already");
    match error {
        ClaimError::Taken(Some(Holder { pid, version, .. })) => failure
            .because(format!("process {pid} (una {version}) has {}", data.display()))
            .help("look at it: una top; end it: una down"),
        ClaimError::Taken(None) => failure
            .because(format!("another process has just taken {}", data.display()))
            .help("wait a moment and look at it: una top"),
        error @ ClaimError::Io { .. } => {
            let help = match &error {
                ClaimError::Io { error, .. } if error.kind() == std::io::ErrorKind::StorageFull => {
                    "make room on that disk"
                }
                _ => "see what is wrong: una doctor",
            };
            Failure::new(status::FAILED, "cannot start").because(error).help(help)
        }
    }
}

fn not_in_system(error: StartError, data: &Path) -> Failure {
    let failure = Failure::new(status::FAILED, "the node cannot take its place in its system");
    let help = match &error {
        StartError::Wire(WireError::Listen { .. }) => {
            "let it choose a port: una up without --listen, or with an address only".into()
        }
        StartError::Record(RecordError::Damaged { .. }) | StartError::Facts(_) | StartError::Identity(_) => format!(
            "restore {} from a backup; or put it away and join again with a ticket: mv {} {}.damaged",
            data.display(),
            quoted(&data.to_string_lossy()),
            quoted(&data.to_string_lossy())
        ),
        _ => "see what is wrong: una doctor".into(),
    };
    failure.because(error).help(help)
}

fn not_started(error: NodeError, data: &Path) -> Failure {
    let failure = Failure::new(status::FAILED, "the node cannot start");
    let help = match &error {
        NodeError::Directory { error, .. } if error.kind() == std::io::ErrorKind::StorageFull => {
            "make room on that disk, then: una up".into()
        }
        NodeError::Damaged => format!(
            "restore {} from a backup; or put it away, which forgets files and names: mv {} {}.damaged",
            data.display(),
            quoted(&data.to_string_lossy()),
            quoted(&data.to_string_lossy())
        ),
        _ => "see what is wrong: una doctor".into(),
    };
    failure.because(error).help(help)
}

/// End the node of this user
///
/// Its programs end; what they wrote to una's files is kept. Returns when all is on the disk.
#[derive(Args)]
pub struct Down {
    /// Print JSON for scripts
    #[arg(long)]
    pub json: bool,
}

/// How long a node may take to end: its disk may be slow.
const DOWN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

impl Down {
    pub fn execute(self) -> Result<u8> {
        let data = directories::node()?;
        let holder = match place::find(&data).map_err(cannot_look)? {
            place::Found::Nothing => {
                return self.tell(None);
            }
            place::Found::Node(holder, _) => holder,
            place::Found::Silent(Some(holder), _) => holder,
            place::Found::Silent(None, _) => {
                return Err(node::no_daemon().because("it is starting"));
            }
        };
        let asked = node::connect().and_then(|mut connection| connection.ask(&Request::Down).map_err(node::failed));
        if !matches!(asked, Ok(Reply::Done)) {
            // Another version, or one that hangs: every version ends on this signal.
            let pid = rustix::process::Pid::from_raw(holder.pid as i32);
            let sent = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
            if !matches!(sent, Some(Ok(()))) {
                return Err(asked.err().unwrap_or_else(node::no_daemon));
            }
        }
        wait_ended(&data, holder.pid)?;
        self.tell(Some(holder.pid))
    }

    /// `ended`: the process that was the node.
    fn tell(&self, ended: Option<u32>) -> Result<u8> {
        print(&match (self.json, ended) {
            (true, _) => json::text("una.down/1", &serde_json::json!({ "ended": ended })),
            (false, Some(_)) => "una is down\n".into(),
            (false, None) => "una is not up\n".into(),
        })?;
        Ok(0)
    }
}

/// A daemon that was asked to end has ended: its directory is free, and all is on the disk.
pub fn wait_ended(data: &Path, pid: u32) -> Result<()> {
    let start = std::time::Instant::now();
    while place::is_held(data).map_err(cannot_look)? {
        if start.elapsed() > DOWN_TIMEOUT {
            return Err(Failure::new(status::FAILED, "the daemon does not end")
                .because(format!("process {pid} was asked {} seconds ago", DOWN_TIMEOUT.as_secs()))
                .help(format!("end it by force: kill -9 {pid} (what it acknowledged is on the disk)")));
        }
        // The end of another process: there is nothing to wait on but the lock itself.
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(())
}

fn cannot_look(error: std::io::Error) -> Failure {
    Failure::new(status::FAILED, "cannot look for the daemon").because(error)
}
