//! The service `registrar`: by which the ports of this node are found from others by their names, and those of others from here. It does
//! not know how the nodes agree about who has which name, nor any network: for what takes time there is a [`Desk`].
//!
//! The one idea: neither the service `names` nor this one ever waits. What `names` asks goes to the desk; what comes back, a port of
//! another node among it, comes as a message from those who work there and goes on to `names`. And the ports that this node has claimed
//! lie here, so that another node's registrar, which comes through the door, gets them without asking anybody.
//!
//! ```text
//!   names ── Ask ──►  registrar  ── Work ──►  desk, seekers        ── facts, other nodes
//!         ◄─ Told ──     │  ▲    ◄─ Tell ──
//!                        ▼  └── Fetch, through the door, from other nodes' seekers
//!                     the ports that were claimed
//! ```

pub mod planted;

use crate::{FIRST_GRANT, Input, OWN_PORT, Service};
use abi::call::{Outcome, SendError, SendMode, SystemCall, Wait};
use abi::ids::{HandleId, PortId, Time};
use abi::interface::names::{Existing, Failure};
use abi::interface::registrar::{Ask, DOOR, Fetch, Told};
use abi::message::{Bytes, Delivery, Message, Notice, NoticeEvent, Notify, Received, Transfer, TransferMode};
use abi::rights::Rights;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

/// The network, by which the door is opened.
const NETWORK: HandleId = FIRST_GRANT;
/// What `names` could not take is offered again after this.
const AGAIN_NS: u64 = 5_000_000;
const AGAIN: u64 = 1;
/// What waits for room at `names`. It asks for no more than it waits for, so more comes only of changes elsewhere: then all that was found
/// is forgotten instead.
const TELLING_MAX: usize = 4096;

/// What takes time, for those who may wait. Whatever comes of it comes back as [`Ask::Tell`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// Nothing is claimed any more.
    Begin,
    Claim {
        serial: u64,
        path: String,
        existing: Existing,
        port: PortId,
    },
    Release {
        serial: u64,
        path: String,
    },
    Unbind {
        serial: u64,
        path: String,
    },
    Find {
        serial: u64,
        path: String,
    },
    List {
        serial: u64,
        path: String,
        after: String,
        names_max: u32,
    },
}

/// Where work is left. It is done in any order.
pub trait Desk {
    /// False if there is too much already.
    fn leave(&mut self, work: Work) -> bool;
}

/// The service.
///
/// Invariant: while something is told, it is the first of `telling`.
pub struct Registrar<D> {
    desk: D,
    names: Option<HandleId>,
    /// By their serials. One that takes another's place may be under way while the other still holds.
    claims: BTreeMap<u64, Claim>,
    telling: VecDeque<(Told, Box<[HandleId]>)>,
    /// The first of them is on its way, or will be when the time comes.
    is_telling: bool,
    timer: Option<HandleId>,
}

struct Claim {
    path: String,
    port: HandleId,
}

impl<D: Desk> Registrar<D> {
    pub fn new(desk: D) -> Registrar<D> {
        Registrar {
            desk,
            names: None,
            claims: BTreeMap::new(),
            telling: VecDeque::new(),
            is_telling: false,
            timer: None,
        }
    }
}

impl<D: Desk> Service for Registrar<D> {
    fn port(&self) -> HandleId {
        OWN_PORT
    }

    fn step(&mut self, now: Time, input: Input, calls: &mut Vec<SystemCall>) {
        match input {
            Input::Begun => calls.push(SystemCall::MakeBadge { port: OWN_PORT, badge: DOOR, rights: Rights::SENDER }),
            Input::Outcome(Outcome::Badged(Ok(door))) => {
                calls.push(SystemCall::OpenDoor { network: NETWORK, port: door });
            }
            Input::Outcome(Outcome::Badged(Err(_)) | Outcome::DoorOpened(Err(_))) => {
                calls.push(SystemCall::Exit { code: crate::exit::MISPLACED });
            }
            Input::Outcome(Outcome::Sent(sent)) => self.told(now, sent, calls),
            Input::Outcome(Outcome::TimerSet(timer)) => match timer {
                Ok(timer) => self.timer = Some(timer),
                // Without room for a timer it is offered again with whatever comes next.
                Err(_) => self.is_telling = false,
            },
            Input::Outcome(_) => {}
            Input::Received(Received::Notice(Notice { token: AGAIN, event: NoticeEvent::Timer })) => {
                calls.extend(self.timer.take().map(|handle| SystemCall::Close { handle }));
                self.tell_next(calls);
            }
            Input::Received(Received::Notice(_)) => {}
            Input::Received(Received::Message(delivery)) => self.received(delivery, calls),
        }
    }

    fn check(&self) {
        assert!(self.telling.len() <= 2 * TELLING_MAX, "more is told than was asked");
        assert!(self.is_telling || self.telling.is_empty() || self.names.is_none(), "something is never told");
    }
}

fn close_all(handles: &[HandleId], calls: &mut Vec<SystemCall>) {
    calls.extend(handles.iter().map(|handle| SystemCall::Close { handle: *handle }));
}

impl<D: Desk> Registrar<D> {
    fn received(&mut self, delivery: Delivery, calls: &mut Vec<SystemCall>) {
        let Delivery { bytes, handles, call, badge, .. } = delivery;
        if let Some(answerable) = call {
            close_all(&handles, calls);
            let claimed = Fetch::decode(&bytes).ok().and_then(|fetch| {
                self.claims.get(&fetch.serial).filter(|claim| claim.path == fetch.path).map(|claim| claim.port)
            });
            let copy = |handle| Transfer { handle, rights: Rights::SENDER, mode: TransferMode::Copy };
            let message = Message { bytes: Bytes::EMPTY, handles: claimed.map(copy).into_iter().collect() };
            return calls.push(SystemCall::Reply { reply: answerable.reply, message });
        }
        // Other nodes only fetch.
        let ask = Ask::decode(&bytes).ok().filter(|_| badge != DOOR);
        let (work, serial) = match (ask, &*handles) {
            (Some(Ask::Begin), [names]) => {
                calls.extend(self.names.replace(*names).map(|handle| SystemCall::Close { handle }));
                let claims = core::mem::take(&mut self.claims);
                calls.extend(claims.into_values().map(|claim| SystemCall::Close { handle: claim.port }));
                // What was asked by those who ended is answered to nobody.
                for (_, handles) in core::mem::take(&mut self.telling) {
                    close_all(&handles, calls);
                }
                (Work::Begin, None)
            }
            (Some(Ask::Claim { serial, path, existing, port }), [handle]) => {
                self.claims.insert(serial, Claim { path: path.clone(), port: *handle });
                (Work::Claim { serial, path, existing, port }, Some(serial))
            }
            (Some(Ask::Release { serial }), []) => match self.drop_claim(serial, calls) {
                Some(path) => (Work::Release { serial, path }, Some(serial)),
                // It was lost.
                None => return self.tell(Told::Settled { serial, failure: None }, Box::default(), calls),
            },
            (Some(Ask::Unbind { serial, path }), []) => (Work::Unbind { serial, path }, Some(serial)),
            (Some(Ask::Find { serial, path }), []) => (Work::Find { serial, path }, Some(serial)),
            (Some(Ask::List { serial, path, after, names_max }), []) => {
                (Work::List { serial, path, after, names_max }, Some(serial))
            }
            (Some(Ask::Tell(told)), _) => return self.tell(told, handles, calls),
            _ => return close_all(&handles, calls),
        };
        if !self.desk.leave(work)
            && let Some(serial) = serial
        {
            self.tell(Told::Settled { serial, failure: Some(Failure::Busy) }, Box::default(), calls);
        }
    }

    fn drop_claim(&mut self, serial: u64, calls: &mut Vec<SystemCall>) -> Option<String> {
        let Claim { path, port } = self.claims.remove(&serial)?;
        calls.push(SystemCall::Close { handle: port });
        Some(path)
    }

    fn tell(&mut self, told: Told, handles: Box<[HandleId]>, calls: &mut Vec<SystemCall>) {
        // A claim that was refused or lost is none.
        if let Told::Settled { serial, failure: Some(_) } | Told::Lost { serial } = &told {
            self.drop_claim(*serial, calls);
        }
        let may_be_forgotten = matches!(told, Told::Changed { .. } | Told::AllChanged);
        if may_be_forgotten && self.telling.len() >= TELLING_MAX {
            self.telling.retain(|(told, _)| !matches!(told, Told::Changed { .. } | Told::AllChanged));
            self.telling.push_back((Told::AllChanged, Box::default()));
        } else {
            self.telling.push_back((told, handles));
        }
        if !self.is_telling {
            self.tell_next(calls);
        }
    }

    fn tell_next(&mut self, calls: &mut Vec<SystemCall>) {
        let (Some(names), Some((told, handles))) = (self.names, self.telling.front()) else {
            self.is_telling = false;
            return;
        };
        self.is_telling = true;
        let transfer =
            |handle: &HandleId| Transfer { handle: *handle, rights: Rights::SENDER, mode: TransferMode::Move };
        let message = Message { bytes: told.encode(), handles: handles.iter().map(transfer).collect() };
        calls.push(SystemCall::Send { port: names, message, mode: SendMode::Reliable(Wait::No) });
    }

    fn told(&mut self, now: Time, sent: Result<(), SendError>, calls: &mut Vec<SystemCall>) {
        match sent {
            // It is not waited for, since `names` may wait for room here.
            Err(SendError::Full | SendError::Expired | SendError::Interrupted) => {
                let notify = Notify { port: OWN_PORT, token: AGAIN };
                calls.push(SystemCall::SetTimer { at: now.after(AGAIN_NS), notify });
            }
            Ok(()) => {
                self.telling.pop_front();
                self.tell_next(calls);
            }
            // What cannot be sent at all, a port that is gone for example, is as good as not found.
            Err(_) => {
                let failed = self.telling.pop_front();
                if let Some((Told::Found { serial }, handles)) = failed {
                    close_all(&handles, calls);
                    let failure = Some(Failure::NotFound);
                    self.telling.push_front((Told::Settled { serial, failure }, Box::default()));
                }
                self.tell_next(calls);
            }
        }
    }
}
