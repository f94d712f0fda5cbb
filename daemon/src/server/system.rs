//! Requests about the whole computer: its nodes, tickets, events. Knows the protocol and what a system can be asked.

use super::{Done, LOOK_INTERVAL, Session, Undone};
use crate::protocol::{Reason, Reply, Request};
use crate::system::{NoWhy, SystemError};
use std::time::Duration;

/// A ticket is a lease, and a ticket that lasts longer would be a key under the door mat.
const TICKET_MAX: Duration = drivers::coordinator::TTL_MAX;

/// How often a node that empties itself is asked how far it is, and how often it must have said that nothing is left.
const EMPTYING_INTERVAL: Duration = Duration::from_millis(150);
const SETTLED_LOOKS: u32 = 3;
/// So often it is looked whether nothing goes through an empty node any more; then who waits is told that it does.
const THROUGH_LOOKS: u32 = 200;

impl Session<'_> {
    pub(super) fn answer_of_system(&mut self, request: Request) -> Done {
        let system = self.shared.system.clone();
        match request {
            Request::System => Ok(self.reply(&Reply::System(system.view()))?),
            Request::Ticket { lasts_s } => {
                let (ticket, expires_ms) =
                    system.ticket(Duration::from_secs(lasts_s).min(TICKET_MAX)).map_err(undone)?;
                Ok(self.reply(&Reply::Ticket { ticket, expires_ms })?)
            }
            Request::Drain { node, drain } => system.drain(&node, drain).map_err(undone).and_then(|()| self.done()),
            Request::Lending => Ok(self.reply(&Reply::Lending(system.lending()))?),
            Request::Lend { lend } => match system.lend(lend) {
                Ok(()) => Ok(self.reply(&Reply::Lending(system.lending()))?),
                Err(error) => Err(Undone::new(Reason::NotRun, error)),
            },
            Request::Emptied { node } => self.emptied(&node),
            Request::RemoveNode { node } => system.remove(&node).map_err(undone).and_then(|()| self.done()),
            Request::Leave => {
                system.leave().map_err(undone)?;
                self.down()
            }
            Request::Why { pid } => match system.why(pid) {
                Ok(why) => Ok(self.reply(&Reply::Why(why))?),
                Err(unknown @ NoWhy::NoProcess(_)) => Err(Undone::new(Reason::NoProcess, unknown)),
                Err(unknown) => Err(Undone::new(Reason::NotFound, unknown)),
            },
            Request::WhyNotPlaced { name } => match system.why_not_placed(&name) {
                Ok(why) => Ok(self.reply(&Reply::Why(why))?),
                Err(unknown) => Err(Undone::new(Reason::NotFound, unknown)),
            },
            Request::Bring { name } => match system.bring(&name) {
                Ok(true) => self.done(),
                Ok(false) => Err(Undone::new(Reason::NotFound, format!("no node has a program called {name}"))),
                Err(error) => Err(Undone::new(Reason::File, error)),
            },
            Request::Events { after, follow } => self.events(after, follow),
            Request::MoveCoordinator { to } => {
                let copied = system.move_coordinator(&to, || self.still_working().is_ok()).map_err(undone)?;
                Ok(self.reply(&Reply::FactsKept { copied })?)
            }
            other => Err(Undone::new(Reason::Protocol, format!("{other:?} is answered elsewhere"))),
        }
    }

    fn emptied(&mut self, node: &str) -> Done {
        let mut settled = 0;
        loop {
            let emptying = self.shared.system.emptying(node).map_err(undone)?;
            // Between two rounds of the node's own nothing is left for a moment.
            settled = if emptying.left == 0 { settled + 1 } else { 0 };
            let free = emptying.through == 0 || settled > THROUGH_LOOKS;
            if settled > SETTLED_LOOKS && free {
                let (moved, stuck) = (emptying.moved, emptying.stuck.into_iter().collect());
                return Ok(self.reply(&Reply::Emptied { moved, stuck, through: emptying.through })?);
            }
            self.still_working()?;
            self.reply(&Reply::Emptying { moved: emptying.moved, left: emptying.left })?;
            std::thread::sleep(EMPTYING_INTERVAL);
        }
    }

    fn events(&mut self, after: Option<String>, follow: bool) -> Done {
        let Some(mut follower) = self.shared.system.follow_events(after.as_deref()) else {
            return Err(Undone::new(
                Reason::NotFound,
                "that is not the position of an event: una events --json shows them",
            ));
        };
        loop {
            for event in follower.look() {
                self.reply(&Reply::Event(event))?;
            }
            if !follow {
                return self.done();
            }
            self.still_working()?;
            self.shared.system.wait_event(LOOK_INTERVAL);
        }
    }
}

pub(super) fn undone(error: SystemError) -> Undone {
    let reason = match &error {
        SystemError::NoNode(_) => Reason::NoNode,
        SystemError::NoQuorum(_) => Reason::NoQuorum,
        SystemError::Refused(_) => Reason::NotRun,
    };
    Undone::new(reason, error)
}
