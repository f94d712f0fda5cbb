//! `una nodes`, `status`, `ticket`, `join`, `leave`, `drain`, `remove`, `why`, `events`, `coordinator`: the whole computer and its nodes.
//! Knows what is asked and how it is shown; the daemon does it.

use crate::failure::{Failure, Result, printable, quoted, status};
use crate::program::EngineArgument;
use crate::{directories, freeze, json, lend, limits, node, print, ps, up};
use clap::{Args, Subcommand};
use daemon::node::Pid;
use daemon::protocol::{Reply, Request, place};
use daemon::system::lend::Lend;
use daemon::system::view::{EventView, Lends, NodeLine, NodeState, Occasion, Role, SystemView, WhyView};
use daemon::system::{self, JoinError};
use drivers::clock::now_ms;
use std::io::IsTerminal;
use std::time::Duration;

fn system_view() -> Result<SystemView> {
    match node::connect()?.ask(&Request::System).map_err(node::failed)? {
        Reply::System(view) => Ok(view),
        other => Err(node::unexpected(&other)),
    }
}

/// List the nodes of the system
#[derive(Args)]
pub struct Nodes {
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

impl Nodes {
    pub fn execute(self) -> Result<u8> {
        let view = system_view()?;
        if self.json {
            print(&json::text("una.nodes/1", &view))?;
            return Ok(0);
        }
        let titles = ["NODE", "NAME", "STATE", "ROLE", "CPUS", "LOAD", "MEMORY", "PROCS", "RTT", "ADDRESS"];
        let rows = view.nodes.iter().map(|line| node_row(line, view.me)).collect();
        print(&table(&titles, rows))?;
        Ok(0)
    }
}

fn node_row(line: &NodeLine, me: u16) -> Vec<String> {
    let facts = |show: &dyn Fn(&system::view::Facts) -> String| line.facts.as_ref().map_or("-".into(), show);
    let here = if line.number == me { " (here)" } else { "" };
    vec![
        format!("n{}", line.number),
        format!("{}{here}", line.name),
        node_state(line),
        role(line.role).into(),
        facts(&|facts| facts.processors.to_string()),
        facts(&|facts| format!("{:.1}", facts.load)),
        facts(&|facts| {
            format!(
                "{} of {}",
                freeze::size(facts.memory_bytes - facts.memory_free_bytes.min(facts.memory_bytes)),
                freeze::size(facts.memory_bytes)
            )
        }),
        facts(&|facts| facts.processes.to_string()),
        line.round_trip_us.map_or("-".into(), |us| format!("{:.1}ms", us as f64 / 1000.0)),
        line.addresses.first().cloned().unwrap_or_else(|| "-".into()),
    ]
}

fn node_state(line: &NodeLine) -> String {
    let state = match line.state {
        NodeState::Up => "up",
        NodeState::Suspect => "suspect",
        NodeState::Down => "down",
        NodeState::Left => "ended",
    };
    let lends = line.facts.as_ref().filter(|_| line.state == NodeState::Up).and_then(lends);
    let draining = line.draining.then_some("draining");
    [Some(state), draining, lends].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// How a machine is lent that has its times, in a word or two.
pub fn lends(facts: &system::view::Facts) -> Option<&'static str> {
    match facts.lends {
        Lends::Always => None,
        Lends::OwnerAway => Some("lent"),
        Lends::OwnerHere => Some("owner there"),
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Voter => "voter",
        Role::Standby => "standby",
        Role::None => "-",
    }
}

pub fn table(titles: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut rows: Vec<Vec<String>> =
        std::iter::once(titles.iter().map(|title| title.to_string()).collect()).chain(rows).collect();
    rows.iter_mut().flatten().for_each(|cell| *cell = printable(cell));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Show how the system is, and what it can survive right now
#[derive(Args)]
pub struct Status {
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

impl Status {
    pub fn execute(self) -> Result<u8> {
        let view = system_view()?;
        if self.json {
            print(&json::text("una.status/1", &view))?;
            return Ok(0);
        }
        print(&describe(&view, std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()))?;
        Ok(0)
    }
}

fn describe(view: &SystemView, colours: bool) -> String {
    let paint = |code: &str, text: String| {
        if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
    };
    let up = view.nodes.iter().filter(|line| line.state == NodeState::Up).count();
    let name = |number: u16| {
        let line = view.nodes.iter().find(|line| line.number == number);
        line.map_or_else(|| format!("n{number}"), |line| printable(&line.name))
    };
    let names = |numbers: &[u16]| numbers.iter().map(|number| name(*number)).collect::<Vec<_>>().join(", ");
    let coordinator = &view.coordinator;
    let mut text = format!(
        "system   {}, {} of {} nodes up; this is {}\n",
        printable(&view.name),
        up,
        view.nodes.len(),
        name(view.me)
    );
    text += "survives ";
    text += &match (coordinator.writable, view.survives) {
        (false, _) => paint("31", "nothing: too few nodes are up to decide anything".into()),
        (true, 0) if view.nodes.len() == 1 => paint("33", "no loss: it is one machine; add others: una ticket".into()),
        (true, 0) if view.nodes.len() == 2 && !coordinator.voters.is_empty() => paint(
            "33",
            format!("the loss of whichever does not vote; facts are decided by {} alone", names(&coordinator.voters)),
        ),
        (true, 0) => paint("33", "no further loss".into()),
        (true, 1) => paint("32", "the loss of any one node".into()),
        (true, count) => paint("32", format!("the loss of any {count} nodes")),
    };
    text.push('\n');
    let leader = coordinator.leader.map_or("nobody".into(), name);
    text += &match coordinator.kind.as_str() {
        "raft" => format!("facts    raft: {leader} leads; voters {}", names(&coordinator.voters)),
        other => format!("facts    {other}: kept outside, by those who run it"),
    };
    if !coordinator.standbys.is_empty() {
        text += &format!("; standby {}", names(&coordinator.standbys));
    }
    if let Some(why) = &coordinator.why_not {
        text += &paint("31", format!("; no changes: {}", printable(why)));
    }
    text.push('\n');
    if let Some(holder) = view.files.holder {
        text += &format!("files    {} decides; {} copies", name(holder), view.files.copies);
        if view.files.under_replicated > 0 {
            text += &paint("33", format!("; {} pieces have too few", view.files.under_replicated));
        }
        text.push('\n');
    }
    if view.lending.lend != Lend::Always {
        text += &format!("lent     {}\n", lend::describe(&view.lending).replace('\n', "\n       "));
    }
    for complaint in &view.complaints {
        text += &format!("{} {}\n", paint("33", "look".into()), printable(complaint));
    }
    text
}

/// Print a line that makes another machine a node of this system
///
/// The ticket in it is good for one machine and for a while. Whoever has it can join: send it as you would a password.
#[derive(Args)]
pub struct Ticket {
    /// How long it can be used, for example 10m or 24h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = limits::duration)]
    lasts: Duration,

    /// Print the ticket alone
    #[arg(short, long)]
    quiet: bool,

    /// Print JSON for scripts
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

impl Ticket {
    pub fn execute(self) -> Result<u8> {
        let request = Request::Ticket { lasts_s: self.lasts.as_secs() };
        match node::connect()?.ask(&request).map_err(node::failed)? {
            Reply::Ticket { ticket, expires_ms } if self.json => {
                let told = serde_json::json!({ "ticket": ticket, "expires_ms": expires_ms });
                print(&json::text("una.ticket/1", &told))?;
            }
            Reply::Ticket { ticket, .. } if self.quiet => print(&format!("{ticket}\n"))?,
            Reply::Ticket { ticket, .. } => print(&format!("una join {ticket}\n"))?,
            other => return Err(node::unexpected(&other)),
        }
        Ok(0)
    }
}

/// Make this machine a node of the system that the ticket is from
///
/// Get a ticket on any node of it: una ticket. What this machine's una knew before is put aside, not deleted.
#[derive(Args)]
pub struct Join {
    #[arg(value_name = "TICKET")]
    ticket: String,

    /// What this node is called; the machine's name if not given
    #[arg(long)]
    name: Option<String>,

    /// Stay in the foreground
    #[arg(long)]
    foreground: bool,

    /// Where other nodes reach this one; a port that is free is taken if none is given
    #[arg(long, value_name = "ADDRESS[:PORT]", default_value = "0.0.0.0", value_parser = up::address)]
    listen: std::net::SocketAddr,

    /// How many threads run programs; one for each processor if not given
    #[arg(long, value_name = "COUNT")]
    workers: Option<u16>,

    /// When this machine runs what others want to run: always, idle, or idle:10m (una lend --help)
    #[arg(long, value_name = "WHEN", value_parser = lend::terms)]
    lend: Option<Lend>,

    /// What executes programs
    #[arg(long, value_enum, default_value = "native")]
    engine: EngineArgument,
}

impl Join {
    pub fn execute(self) -> Result<u8> {
        let data = directories::node()?;
        // Tell of a bad ticket before anything is touched.
        let parsed = self.ticket.trim().parse::<drivers::wire::ticket::Ticket>();
        parsed.map_err(|error| not_joined(JoinError::Ticket(error)))?;
        make_room()?;
        let name = self.name.clone().unwrap_or_else(drivers::host::name);
        let joined = system::join(&data, &self.ticket, &name).map_err(not_joined)?;
        print(&format!(
            "joined {}: this is {} (n{}), the system has {} nodes\n",
            printable(&joined.system_name),
            printable(&joined.name),
            joined.number.0,
            joined.nodes
        ))?;
        if let Some(aside) = &joined.aside {
            print(&format!(
                "what this machine had as a system of its own is in {}\n",
                quoted(&aside.to_string_lossy())
            ))?;
        }
        up::Up::after_join(!self.foreground, self.listen, self.workers, self.engine, self.lend).execute()
    }
}

/// A node that runs here as a system of its own, with no programs, makes room by itself.
fn make_room() -> Result<()> {
    let Some(mut connection) = node::find()? else {
        return Ok(());
    };
    let view = match connection.ask(&Request::System).map_err(node::failed)? {
        Reply::System(view) => view,
        other => return Err(node::unexpected(&other)),
    };
    let failure = Failure::new(status::FAILED, "this machine is a node already");
    if view.nodes.len() > 1 {
        return Err(failure
            .because(format!("it is {} of {}, which has {} nodes", view.me, view.name, view.nodes.len()))
            .help("leave that system first: una leave"));
    }
    let programs = view.nodes.iter().filter_map(|line| line.facts.as_ref()).map(|facts| facts.processes).sum::<u32>();
    if programs > 0 {
        return Err(failure
            .because(format!("{programs} programs run here, which would end"))
            .help("end them, or let them end: una ps; then join again"));
    }
    up::Down { json: false }.execute().map(|_| ())
}

fn not_joined(error: JoinError) -> Failure {
    let failure = Failure::new(status::FAILED, "this machine did not join");
    match error {
        error @ JoinError::UnreachedInTime { .. } => {
            failure.because(error).help("get a new ticket on a node of that system: una ticket")
        }
        error @ JoinError::MemberAlready { .. } => {
            failure.because(error).help("leave that system first: una up -d && una leave")
        }
        error @ JoinError::Unreached(_) => {
            failure.because(error).help("see that the machines reach each other, and that una is up there: una status")
        }
        error @ JoinError::Running => failure.because(error).help("end it, or wait a moment: una down"),
        error @ JoinError::Aside { .. } => {
            failure.because(error).help("see whether the disk is full or the directory another's")
        }
        error => failure.because(error),
    }
}

/// Take this machine out of its system
///
/// Its programs end. The facts and files of the system stay with the other nodes.
#[derive(Args)]
pub struct Leave {}

impl Leave {
    pub fn execute(self) -> Result<u8> {
        let data = directories::node()?;
        let holder = match place::find(&data) {
            Ok(place::Found::Node(holder, _)) => Some(holder),
            _ => None,
        };
        node::order(&Request::Leave)?;
        if let Some(holder) = holder {
            up::wait_ended(&data, holder.pid)?;
        }
        print("this machine is no node of the system any more\n")?;
        Ok(0)
    }
}

/// Take a node out of the system that will not come back
#[derive(Args)]
pub struct Remove {
    /// Its name or number
    #[arg(value_name = "NODE")]
    node: String,
}

impl Remove {
    pub fn execute(self) -> Result<u8> {
        node::order(&Request::RemoveNode { node: self.node })?;
        Ok(0)
    }
}

/// Say why a process is where it is, on no node, or was refused a place
#[derive(Args)]
pub struct Why {
    /// A process, or the name of what could be placed nowhere
    #[arg(value_name = "PID|NAME")]
    what: String,

    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

impl Why {
    pub fn execute(self) -> Result<u8> {
        let (request, what) = match self.what.parse::<Pid>() {
            Ok(pid) => (Request::Why { pid }, format!("process {pid}")),
            Err(_) => (Request::WhyNotPlaced { name: self.what.clone() }, quoted(&self.what)),
        };
        let why = match node::connect()?.ask(&request).map_err(node::failed)? {
            Reply::Why(why) => why,
            other => return Err(node::unexpected(&other)),
        };
        if self.json {
            print(&json::text("una.why/1", &why))?;
            return Ok(0);
        }
        print(&format!("{}\n{}", printable(&why_line(&what, &why)), why_table(&why)))?;
        Ok(0)
    }
}

/// What was decided, for what, and when.
fn why_line(what: &str, why: &WhyView) -> String {
    let name = |number: u16| {
        let node = why.nodes.iter().find(|node| node.number == number);
        node.map_or_else(|| format!("n{number}"), |node| node.name.clone())
    };
    let ago = ps::duration(now_ms().saturating_sub(why.at_ms));
    let to = match (why.chosen, why.occasion) {
        (Some(to), Occasion::OnNoNode { .. }) => format!("{} is to take it up", name(to)),
        (None, Occasion::OnNoNode { .. }) => "no other can take it up now".into(),
        (Some(to), _) => format!("on {}", name(to)),
        (None, _) => "placed nowhere".into(),
    };
    match why.occasion {
        Occasion::OnNoNode { from } => format!("{what} is on no node: {} has lost it, and {to}", name(from)),
        Occasion::Begun if why.chosen.is_none() => format!("{what} could be placed nowhere {ago} ago"),
        Occasion::Begun => format!("{what}: {to}, since it began {ago} ago"),
        Occasion::Moved { from } => {
            format!("{what}: {to}, since somebody moved it there from {} {ago} ago", name(from))
        }
        Occasion::Drained { from } => format!("{what}: {to}, since {} was emptied {ago} ago", name(from)),
        Occasion::OwnerReturned { from } => {
            format!("{what}: {to}, since the owner of {} returned {ago} ago", name(from))
        }
        Occasion::Followed { with, from } => {
            format!("{what}: {to}, since it went after process {with} from {} {ago} ago", name(from))
        }
        Occasion::TakenUp { from } => format!("{what}: {to}, since {} was lost {ago} ago", name(from)),
    }
}

fn why_table(why: &WhyView) -> String {
    let row = |node: &system::view::WhyNode| {
        vec![
            // What is said of all of them together.
            if node.number == 0 { String::new() } else { format!("n{}", node.number) },
            node.name.clone(),
            if node.chosen { "chosen".into() } else { "-".into() },
            node.reason.clone(),
        ]
    };
    let rest = match why.left_out {
        0 => String::new(),
        count => format!("and {count} more\n"),
    };
    table(&["NODE", "NAME", "", "BECAUSE"], why.nodes.iter().map(row).collect()) + &rest
}

/// Show what happened in the whole computer, in an order that every node agrees on
#[derive(Args)]
pub struct Events {
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,

    /// Only what came after this event, by its position
    #[arg(long, value_name = "POSITION")]
    after: Option<String>,

    /// Print JSON for scripts, a line for each event
    #[arg(long)]
    json: bool,
}

impl Events {
    pub fn execute(self) -> Result<u8> {
        let mut connection = node::connect()?;
        connection.send(&Request::Events { after: self.after, follow: self.follow }).map_err(node::failed)?;
        loop {
            match connection.reply().map_err(node::failed)? {
                Reply::Event(event) if self.json => {
                    print(&(serde_json::to_string(&event).expect("an event is plain data") + "\n"))?;
                }
                Reply::Event(event) => print(&event_line(&event))?,
                Reply::Done => return Ok(0),
                other => return Err(node::unexpected(&other)),
            }
        }
    }
}

fn event_line(event: &EventView) -> String {
    let (seconds, ms) = (event.at_ms / 1000 % 86400, event.at_ms % 1000);
    let time = format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{time}  n{:<3} {}\n", event.node, printable(&event.text))
}

/// The store of the system's facts
#[derive(Args)]
pub struct Coordinator {
    #[command(subcommand)]
    act: CoordinatorAct,
}

#[derive(Subcommand)]
enum CoordinatorAct {
    /// Copy all facts to another store and go on with that one
    Move {
        /// raft for una's own, or etcd://HOST:PORT[,HOST:PORT...]
        #[arg(value_name = "WHERE")]
        to: String,
    },
}

impl Coordinator {
    pub fn execute(self) -> Result<u8> {
        let CoordinatorAct::Move { to } = self.act;
        match node::connect()?.ask(&Request::MoveCoordinator { to: to.clone() }).map_err(node::failed)? {
            Reply::FactsKept { copied: Some(count) } => print(&format!("{count} facts moved to {}\n", quoted(&to)))?,
            Reply::FactsKept { copied: None } => print(&format!("the facts are at {} already\n", quoted(&to)))?,
            other => return Err(node::unexpected(&other)),
        }
        Ok(0)
    }
}
