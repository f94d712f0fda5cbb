//! How a node becomes a member: a ticket that one node gives, and the talk in which another spends it. Knows the coordinator and the
//! wire's visits; not what members do.
//!
//! ```text
//!   a member                               the newcomer
//!   a secret, kept as `t/HASH`  ─ ticket ─►  una join una1...
//!                               ◄─ visit ──  secret, name, addresses          both have proved their keys by now
//!   one transaction: the ticket is unspent -> spent by this key, and a record of the new member
//!                               ── answer ─► its number, and whom to know
//! ```
//! The transaction is what makes a ticket good for one node only, whichever members are asked at once. Asked again by the same key, which
//! may have lost the answer, it gives the same answer.

use super::member::{self, Member};
use super::record::{Peer, Record};
use abi::ids::{NodeId, NodeKey};
use drivers::clock::now_ms;
use drivers::coordinator::{Action, Compare, Coordinator, Failure, Range, Transaction};
use drivers::wire::ticket::Ticket;
use drivers::wire::{Hello, Identity, NoClock, OpenError, Wire};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the talk may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// A request or an answer with the most members there are.
pub const BYTES_MAX: u64 = 1 << 20;
/// How often a transaction is tried that others got in the way of.
const ATTEMPTS_MAX: usize = 16;

/// What a ticket is to the coordinator.
#[derive(Serialize, Deserialize)]
struct Issued {
    expires_ms: u64,
    /// The key of the node that spent it.
    spent_by: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub struct JoinRequest {
    /// In hexadecimal.
    pub secret: String,
    pub name: String,
    pub addresses: Vec<String>,
    pub version: String,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum JoinAnswer {
    Accepted { system: String, system_name: String, number: u16, name: String, peers: Vec<Peer> },
    Refused { why: String },
}

fn ticket_key(secret: &[u8]) -> Vec<u8> {
    format!("t/{}", blake3::hash(secret).to_hex()).into_bytes()
}

/// Makes a secret known to the coordinator, for so long.
pub fn issue(coordinator: &dyn Coordinator, secret: &[u8], lasts: Duration, deadline: Instant) -> Result<u64, Failure> {
    let lease_lasts = lasts.clamp(drivers::coordinator::TTL_MIN, drivers::coordinator::TTL_MAX);
    let lease = coordinator.grant(lease_lasts, deadline)?;
    let expires_ms = now_ms() + lasts.as_millis() as u64;
    let issued = Issued { expires_ms, spent_by: None };
    let value = serde_json::to_vec(&issued).expect("plain data");
    let put = Action::put_leased(ticket_key(secret), value, lease);
    coordinator.transact(Transaction::of(vec![put]), deadline)?;
    Ok(expires_ms)
}

/// Takes a newcomer in, or says why not.
pub fn admit(
    coordinator: &dyn Coordinator, record: &Record, stranger: NodeKey, request: &JoinRequest, deadline: Instant,
) -> JoinAnswer {
    match try_admit(coordinator, stranger, request, deadline) {
        Ok((number, name)) => {
            let peers = match member::all(coordinator, deadline) {
                Ok(members) => members
                    .iter()
                    .filter(|(other, _)| **other != number)
                    .map(|(number, member)| member.peer(*number))
                    .collect(),
                Err(_) => record.peers.clone(),
            };
            let (system, system_name) = (record.system.clone(), record.system_name.clone());
            JoinAnswer::Accepted { system, system_name, number: number.0, name, peers }
        }
        Err(why) => JoinAnswer::Refused { why },
    }
}

fn try_admit(
    coordinator: &dyn Coordinator, stranger: NodeKey, request: &JoinRequest, deadline: Instant,
) -> Result<(NodeId, String), String> {
    let secret: [u8; 16] = super::record::hex(&request.secret).ok_or("this is no ticket's secret")?;
    let key = ticket_key(&secret);
    let no_facts = |failure: Failure| format!("the system cannot take anybody in at the moment: {failure}");
    for _ in 0..ATTEMPTS_MAX {
        let found = coordinator.range(Range::key(&key), deadline).map_err(no_facts)?;
        let Some(ticket) = found.records.first() else {
            return Err("the ticket is not one of this system, or has expired: get another one with una ticket".into());
        };
        let issued: Issued = serde_json::from_slice(&ticket.value).map_err(|error| error.to_string())?;
        let members = member::all(coordinator, deadline).map_err(no_facts)?;
        let own = stranger.to_string();
        if let Some(spent_by) = &issued.spent_by {
            // It may have missed the answer.
            let known = members.iter().find(|(_, member)| member.key == own);
            return match known {
                Some((number, member)) if *spent_by == own => Ok((*number, member.name.clone())),
                _ => {
                    Err("the ticket was used already: a ticket is for one node, get another one with una ticket".into())
                }
            };
        }
        if issued.expires_ms < now_ms() {
            return Err("the ticket has expired: get another one with una ticket".into());
        }
        if let Some((number, member)) = members.iter().find(|(_, member)| member.key == own) {
            return Err(format!("it is a member already, as {} ({number}): start it with una up", member.name));
        }
        let counter = coordinator.range(Range::key(member::NEXT), deadline).map_err(no_facts)?;
        let (next, counted) = match counter.records.first() {
            Some(record) => (member::read_next(&record.value)?, record.modified),
            None => return Err("the system has no first member: its facts are damaged".into()),
        };
        let name = member::free_name(&members, &request.name);
        let newcomer = Member {
            key: own.clone(),
            name: name.clone(),
            addresses: request.addresses.clone(),
            draining: false,
            leaving: false,
            joined_ms: now_ms(),
            lost_after_s: 0,
            given_up: false,
            life: 0,
        };
        let spent = serde_json::to_vec(&Issued { spent_by: Some(own), ..issued }).expect("plain data");
        let put_ticket = match ticket.lease {
            Some(lease) => Action::put_leased(&key, spent, lease),
            None => Action::put(&key, spent),
        };
        let transaction = Transaction::new()
            .when(Compare::unchanged(&key, ticket.modified))
            .when(Compare::unchanged(member::NEXT, counted))
            .when(Compare::missing(member::key(next)))
            .then(put_ticket)
            .then(Action::put(member::NEXT, (next.0 + 1).to_string()))
            .then(Action::put(member::key(next), newcomer.to_bytes()));
        match coordinator.transact(transaction, deadline) {
            Ok(committed) if committed.succeeded => return Ok((next, name)),
            // Somebody else was faster, or it is not known: look again.
            Ok(_) | Err(Failure::Unknown { .. }) => {}
            Err(failure) => return Err(no_facts(failure)),
        }
    }
    Err("too many nodes join at once: try again".into())
}

/// Why this machine did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Ticket(#[from] drivers::wire::ticket::TicketError),
    #[error(transparent)]
    Record(#[from] super::RecordError),
    #[error(transparent)]
    Identity(#[from] drivers::wire::IdentityError),
    #[error(transparent)]
    Wire(#[from] drivers::wire::WireError),
    #[error("this machine is a node of another system already, {name} ({nodes} nodes)")]
    MemberAlready { name: String, nodes: usize },
    #[error("a daemon of una runs here, or is just ending")]
    Running,
    #[error("no node of that system was reached: {0}")]
    Unreached(OpenError),
    /// Nobody was there who could have said so.
    #[error("no node of that system was reached: {error}; by this machine's clock the ticket expired {} ago", ago(*since_ms))]
    UnreachedInTime { since_ms: u64, error: OpenError },
    #[error("the node that was asked went away: {0}")]
    Gone(std::io::Error),
    #[error("{0}")]
    Refused(String),
    #[error("{} cannot be put aside: {error}", path.display())]
    Aside { path: PathBuf, error: std::io::Error },
}

fn ago(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..120 => format!("{seconds} seconds"),
        seconds @ 120..7200 => format!("{} minutes", seconds / 60),
        seconds => format!("{} hours", seconds / 3600),
    }
}

/// What a machine is after it joined.
#[derive(Debug)]
pub struct Joined {
    pub system_name: String,
    pub number: NodeId,
    pub name: String,
    pub nodes: usize,
    /// Where what this machine was before is now.
    pub aside: Option<PathBuf>,
}

/// Spends a ticket: this machine, whose node does not run, is a member afterwards and can be started as one.
///
/// Whether the ticket is still good is the issuer's to say, whose clock alone decides.
///
/// The key that joined is on the disk before it is shown to anybody, so that a crash at any point leaves a machine that can
/// try again with the same ticket.
pub fn join(data: &Path, ticket: &str, name: &str) -> Result<Joined, JoinError> {
    let ticket: Ticket = ticket.trim().parse()?;
    if crate::protocol::place::is_held(data).unwrap_or(false) {
        return Err(JoinError::Running);
    }
    // What is left of a system that this machine left is in nobody's way.
    if !data.join(super::LEFT).exists()
        && let Some(record) = Record::read(data)?
        && (!record.peers.is_empty() || record.number() != crate::node::FIRST_NODE)
    {
        return Err(JoinError::MemberAlready { name: record.system_name.clone(), nodes: record.peers.len() + 1 });
    }
    // Made beside what is there, which stays as it is until the answer has come.
    let mut newcomer = data.file_name().unwrap_or_default().to_os_string();
    newcomer.push(".joining");
    let newcomer = data.with_file_name(newcomer);
    let key_file = newcomer.join("identity");
    std::fs::create_dir_all(&newcomer).map_err(|error| JoinError::Aside { path: newcomer.clone(), error })?;
    let identity = Identity::load_or_make(&key_file)?;
    let hello = Hello {
        system: None,
        node: None,
        life: 0,
        name: name.into(),
        version: crate::protocol::version().into(),
        addresses: vec![],
    };
    let wire = Wire::start(identity, hello, &[], Arc::new(Deaf), Arc::new(NoClock))?;
    let deadline = Instant::now() + TIMEOUT;
    let visited = wire.visit(ticket.issuer, &ticket.addresses, b"join", deadline);
    let (_, mut stream) = visited.map_err(|error| match (error, now_ms()) {
        (OpenError::Refused(why), _) => JoinError::Refused(why),
        (error, now) if ticket.is_expired(now / 1000) => {
            JoinError::UnreachedInTime { since_ms: now - ticket.expires * 1000, error }
        }
        (error, _) => JoinError::Unreached(error),
    })?;
    stream.set_deadline(Some(deadline));
    let secret: String = ticket.secret.iter().map(|byte| format!("{byte:02x}")).collect();
    // Where this node listens it tells once it does.
    let addresses = vec![];
    let request = JoinRequest { secret, name: name.into(), addresses, version: crate::protocol::version().into() };
    let talk = |stream: &mut drivers::wire::Stream| {
        stream.write_all(&serde_json::to_vec(&request)?)?;
        stream.shutdown(Shutdown::Write)?;
        let mut body = vec![];
        stream.take(BYTES_MAX).read_to_end(&mut body)?;
        Ok(serde_json::from_slice::<JoinAnswer>(&body)?)
    };
    let answer = talk(&mut stream).map_err(JoinError::Gone)?;
    wire.stop();
    let JoinAnswer::Accepted { system, system_name, number, name, peers } = answer else {
        let JoinAnswer::Refused { why } = answer else { unreachable!("an answer is one of two") };
        return Err(JoinError::Refused(why));
    };
    let nodes = peers.len() + 1;
    let record = Record::of_member(&system, &system_name, NodeId(number), &name, peers);
    record.write(&newcomer)?;
    let moved = |path: &Path| {
        let path = path.to_path_buf();
        move |error| JoinError::Aside { path, error }
    };
    let aside = match data.exists() {
        true => Some(super::put_aside(data).map_err(moved(data))?),
        false => None,
    };
    std::fs::rename(&newcomer, data).map_err(moved(&newcomer))?;
    Ok(Joined { system_name, number: NodeId(number), name, nodes, aside })
}

/// A newcomer only asks.
struct Deaf;

impl drivers::wire::Receiver for Deaf {
    fn linked(&self, _: NodeKey, _: &Hello) {}
    fn unlinked(&self, _: NodeKey, _: &drivers::wire::Unlinked) {}
    fn arrived(&self, _: NodeKey, _: drivers::wire::Class, _: &[u8]) {}
    fn asked(&self, _: NodeKey, _: drivers::wire::Service, _: Vec<u8>, _: drivers::wire::Answer) {}
    fn opened(&self, _: NodeKey, _: drivers::wire::Service, _: Vec<u8>, _: drivers::wire::Stream) {}
    fn visited(&self, _: NodeKey, _: &Hello, _: SocketAddr, _: Vec<u8>, _: drivers::wire::Stream) {}
    fn room(&self, _: NodeKey, _: drivers::wire::Class) {}
}
