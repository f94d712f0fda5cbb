//! What arrives from other nodes, handed to whom it is for. Knows who is meant by what; does nothing itself that takes long, since
//! it is called on the wire's threads: what may take long is done by a few threads of its own, whose queue is bounded.

use super::elsewhere::About;
use super::supervise::Because;
use super::view::WhyView;
use super::{Inner, System, elsewhere, join, moving, own_processes, programs, rebind, service};
use crate::files;
use crate::node::{Heard, Pid};
use abi::ids::{NodeId, NodeKey, PortId};
use drivers::wire::{Answer, Class, Hello, Receiver, Refusal, RefusedBy, Service, Stream, Unlinked};
use serde::{Deserialize, Serialize};
use services::events::{Kind, Position};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::mpsc::{Receiver as Queue, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

/// Questions that wait for a thread. More are refused.
const QUESTIONS_MAX: usize = 256;
const THREADS: usize = 2;
/// Newcomers that are spoken to at once. Others are sent away, and try again.
const VISITORS_MAX: usize = 8;

/// What one node asks another.
#[derive(Serialize, Deserialize, Debug)]
#[serde(tag = "question", rename_all = "kebab-case")]
pub enum Question {
    /// Answer: JSON of process views.
    Processes { ended: bool },
    /// Answer: JSON of whether that process lives there, if it is in that life of it.
    Lives { pid: crate::node::Pid, life: u64 },
    /// A process has lost its node, or is handed over by it: let it go on there. Answered at once.
    TakeUp { pid: crate::node::Pid, because: Because, why: Option<WhyView> },
    /// Answer: JSON of why that process was put there, or of nothing.
    Why { pid: Pid },
    /// Answer: JSON of why the last that is called so could be placed nowhere, or of nothing.
    NotPlaced { name: String },
    /// Answer: JSON of the program that is called so there, or of nothing.
    Named { name: String },
    /// Answer: JSON of how far the node is that empties itself.
    Emptying,
    /// Answer: as [`elsewhere::answer`] gives it.
    Process { pid: Pid, about: About },
    /// The port of this number, which `from` bound to that name by that claim, has moved to the node that is asked: let it take the name
    /// over.
    Follow { path: String, from: u16, life: u64, serial: u64, port: u64 },
    /// This node's events from there on. Answer: a batch of `services::events`.
    Events { life: u64, serial: u64 },
}

type Work = Box<dyn FnOnce(&Arc<Inner>) + Send>;

#[derive(Default)]
pub struct Ears {
    inner: OnceLock<Weak<Inner>>,
    work: OnceLock<SyncSender<Work>>,
    visitors: Arc<Mutex<usize>>,
    /// Which start of each linked node it is.
    lives: Mutex<BTreeMap<NodeKey, u64>>,
}

impl Ears {
    /// From now on what arrives is for this one. Before, nothing is.
    pub fn listen_for(&self, inner: &Arc<Inner>) {
        let _ = self.inner.set(Arc::downgrade(inner));
        let (give, take) = sync_channel(QUESTIONS_MAX);
        let _ = self.work.set(give);
        let take = Arc::new(Mutex::new(take));
        for number in 0..THREADS {
            let (take, inner) = (take.clone(), Arc::downgrade(inner));
            let named = std::thread::Builder::new().name(format!("una-ask-{number}"));
            // Without threads questions are refused, as when there are too many.
            let _ = named.spawn(move || work(&take, &inner));
        }
    }

    fn lives(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeKey, u64>> {
        self.lives.lock().expect("nothing panics while it holds this lock")
    }

    fn inner(&self) -> Option<Arc<Inner>> {
        self.inner.get()?.upgrade()
    }

    fn question(&self, body: Vec<u8>, answer: Answer) {
        let question: Question = match serde_json::from_slice(&body) {
            Ok(question) => question,
            Err(error) => {
                return answer.give(Err(format!("a question that cannot be read: {error}")));
            }
        };
        let work: Work = Box::new(move |inner| answer.give(reply(inner, question)));
        // Dropped, the asker is told that nobody answers.
        let _ = self.work.get().map(|queue| queue.try_send(work));
    }
}

fn work(queue: &Mutex<Queue<Work>>, inner: &Weak<Inner>) {
    loop {
        let work = queue.lock().expect("nothing panics while it holds this lock").recv();
        match (work, inner.upgrade()) {
            (Ok(work), Some(inner)) => work(&inner),
            _ => return,
        }
    }
}

fn reply(inner: &Arc<Inner>, question: Question) -> Result<Vec<u8>, String> {
    match question {
        Question::Processes { ended } => {
            let views = inner.node.get().map(|node| own_processes(node, ended)).unwrap_or_default();
            serde_json::to_vec(&views).map_err(|error| error.to_string())
        }
        Question::Lives { pid, life } => serde_json::to_vec(&inner.lives(pid, life)).map_err(|error| error.to_string()),
        Question::TakeUp { pid, because, why } => {
            inner.take_up_soon(pid, because, why)?;
            Ok(vec![])
        }
        Question::Why { pid } => serde_json::to_vec(&inner.whys.of(pid)).map_err(|error| error.to_string()),
        Question::NotPlaced { name } => {
            serde_json::to_vec(&inner.whys.not_placed(&name)).map_err(|error| error.to_string())
        }
        Question::Named { name } => {
            serde_json::to_vec(&inner.library.named(&name).map(|(named, _)| named)).map_err(|error| error.to_string())
        }
        Question::Emptying => {
            let emptying = System(inner.clone()).emptying(&inner.me.to_string()).map_err(|error| error.to_string())?;
            serde_json::to_vec(&emptying).map_err(|error| error.to_string())
        }
        Question::Follow { path, from, life, serial, port } => match inner.node.get() {
            Some(node) => {
                let (from, port) = (NodeId(from), PortId::from_bits(port));
                rebind::follow(node, &path, from, life, serial, port).map(|()| vec![])
            }
            None => Err("the node is only starting".into()),
        },
        Question::Process { pid, about } => match inner.node.get() {
            Some(node) => Ok(elsewhere::answer(node, pid, about)),
            None => Err("the node is only starting".into()),
        },
        Question::Events { life, serial } => Ok(inner.chronicle.batch(Position { life, serial }).encode()),
    }
}

fn reply_of(answer: Answer) -> files::Reply {
    Box::new(move |reply| answer.give(reply))
}

impl Receiver for Ears {
    fn linked(&self, peer: NodeKey, hello: &Hello) {
        self.lives().insert(peer, hello.life);
        let Some(inner) = self.inner() else { return };
        // Of whom nothing is known yet, it is told when it is.
        if let Some(number) = inner.directory.number_of(peer) {
            inner.linked(number, hello.life);
        }
    }

    fn unlinked(&self, peer: NodeKey, _why: &Unlinked) {
        let Some(inner) = self.inner() else { return };
        if let Some(number) = inner.directory.number_of(peer) {
            inner.health.unlinked(number);
            if let Some(node) = inner.node.get() {
                node.heard(number, Heard::Unlinked);
            }
        }
    }

    fn arrived(&self, peer: NodeKey, class: Class, message: &[u8]) {
        let Some(inner) = self.inner() else { return };
        let Some(number) = inner.directory.number_of(peer) else { return };
        match class {
            Class::Control => inner.health.arrived(&inner, number, message),
            Class::Call => {
                let life = self.lives().get(&peer).copied();
                if let (Some(node), Some(life)) = (inner.node.get(), life) {
                    node.heard(number, Heard::Arrived { life, packet: message.into() });
                }
            }
            // Nothing is sent so.
            Class::Page | Class::Bulk => {}
        }
    }

    fn asked(&self, peer: NodeKey, to: Service, body: Vec<u8>, answer: Answer) {
        let Some(inner) = self.inner() else { return };
        let Some(number) = inner.directory.number_of(peer) else {
            return answer.give(Err("who asks has no number here yet".into()));
        };
        match to {
            service::COORDINATOR => inner.raft.asked(number, body, Box::new(move |reply| answer.give(Ok(reply)))),
            service::SYSTEM => self.question(body, answer),
            service::LOCATION => {
                inner.whereabouts(services::location::Input::Packet { from: number, bytes: &body });
                answer.give(Ok(vec![]));
            }
            service::FILES => inner.files.asked(number, files::Service::Files, body, reply_of(answer)),
            service::CHUNKS => inner.files.asked(number, files::Service::Chunks, body, reply_of(answer)),
            service::KEPT => inner.files.asked(number, files::Service::Kept, body, reply_of(answer)),
            other => answer.give(Err(format!("nobody answers for {other} here"))),
        }
    }

    fn opened(&self, peer: NodeKey, purpose: Service, head: Vec<u8>, stream: Stream) {
        let Some(inner) = self.inner() else { return };
        if purpose == service::PROGRAMS {
            return programs::lend(&inner, &head, stream);
        }
        if purpose == service::MOVES {
            if let Some(from) = inner.directory.number_of(peer) {
                moving::arrived(&inner, from, &head, stream);
            }
            return;
        }
        if purpose == service::COMMANDS
            && let Some(act) = inner.on_commands.get()
        {
            let Some(from) = inner.directory.number_of(peer) else { return };
            act(from, &head, stream);
        }
    }

    fn visited(&self, stranger: NodeKey, _hello: &Hello, _from: SocketAddr, _head: Vec<u8>, stream: Stream) {
        let Some(inner) = self.inner() else { return };
        let visitors = self.visitors.clone();
        {
            let mut count = visitors.lock().expect("nothing panics while it counts");
            if *count >= VISITORS_MAX {
                return;
            }
            *count += 1;
        }
        let leave = visitors.clone();
        let talk = move || {
            // What goes wrong ends the talk; the newcomer is told by its end.
            let _ = receive(&inner, stranger, stream);
            *visitors.lock().expect("nothing panics while it counts") -= 1;
        };
        if std::thread::Builder::new().name("una-visitor".into()).spawn(talk).is_err() {
            *leave.lock().expect("nothing panics while it counts") -= 1;
        }
    }

    fn room(&self, _peer: NodeKey, _class: Class) {}

    fn closed(&self, peer: NodeKey, life: u64) {
        let Some(inner) = self.inner() else { return };
        let number = inner.directory.number_of(peer);
        if let Some(number) = number.filter(|number| inner.noticed.closed(*number, life)) {
            inner.raft.ended(number);
        }
    }

    fn refused(&self, peer: NodeKey, by: RefusedBy, why: &Refusal) {
        let Some(inner) = self.inner() else { return };
        // Whoever is no member is not missed.
        if let Some(number) = inner.directory.number_of(peer) {
            inner.unlinkable.refused(number, by, why.clone());
        }
    }
}

/// The member's side of the talk with a newcomer.
fn receive(inner: &Arc<Inner>, stranger: NodeKey, mut stream: Stream) -> std::io::Result<()> {
    let deadline = Instant::now() + join::TIMEOUT;
    stream.set_deadline(Some(deadline));
    let mut body = vec![];
    (&mut stream).take(join::BYTES_MAX).read_to_end(&mut body)?;
    // Not locked while the coordinator is asked, which tells of its changes to who wants the record.
    let record = inner.record().clone();
    let answer = match serde_json::from_slice(&body) {
        Ok(request) => join::admit(&inner.facts, &record, stranger, &request, deadline),
        Err(error) => join::JoinAnswer::Refused { why: format!("a request that cannot be read: {error}") },
    };
    if let join::JoinAnswer::Refused { why } = &answer {
        let (from, why) = (stranger.to_string()[..8].into(), why.as_str().into());
        inner.chronicle.record(Kind::JoinRefused { from, why });
    }
    stream.write_all(&serde_json::to_vec(&answer)?)?;
    stream.shutdown(Shutdown::Write)
}
