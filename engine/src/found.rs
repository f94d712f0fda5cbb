//! Calls of ports that were found by a name which lasts: they are asked again, wherever the name leads by then. Knows system calls; not who
//! keeps such names, nor which program calls.
//!
//! The one idea: a durable process goes on after the loss of its node, and remembers whose calls it has answered. So for whoever calls it
//! nothing is over when its port closes: the name is looked up again, and the same call is made again under the number that it had, until
//! its deadline. A node that only sleeps closes nothing; so it is looked now and then whether the name has moved on.
//!
//! ```text
//!   look up ──► begin the call ──► wait ──► answered
//!      ▲              │             │
//!      └── the port has closed, or the name leads elsewhere by now: the same number
//! ```

use crate::fiber::{SystemCalls, ask};
use abi::call::{CallError, Deadline, EndCallError, HandleError, Outcome, Reached, SystemCall, Wait};
use abi::ids::{HandleId, Time};
use abi::interface::names;
use abi::message::{Answer, Bytes, Message};

/// What a message begins with that is sent, and not called for: it is answered with nothing when it is safe. Sixteen bytes drawn at random,
/// so that no request begins with them by chance.
pub const SENT: [u8; 16] =
    [0xb7, 0x1e, 0x0c, 0x5a, 0x93, 0xd4, 0x4f, 0x28, 0xa6, 0x61, 0xfb, 0x07, 0xce, 0x3d, 0x82, 0x59];

/// By which each process sends to the service `names`.
pub(crate) const NAMES: HandleId = HandleId(1);
/// How often it is looked whether a name has moved on while its port is silent.
const LOOK_NS: u64 = 50_000_000;
/// After so many looks without an answer it is asked anew: it may have moved on so lately that the way to it was an old one.
const LOOKS_MAX: u32 = 20;
/// How often it is looked whether a name has moved on that was found to lead nowhere.
const PAUSE_NS: u64 = 10_000_000;
/// After so many of these it is looked up again although it has not moved on as far as is known; at first, and at most. Whoever is asked
/// for a port of a node that is lost waits for that node.
const PAUSES_FIRST: u32 = 5;
const PAUSES_MAX: u32 = 160;
/// A server that takes a call and gives it up so often, and lives on, does not want to answer.
const ABANDONED_MAX: u32 = 3;
/// Before a port is tried again that is full.
const FULL_NS: u64 = 1_000_000;
/// How long the service `names` may take.
const NAMES_NS: u64 = 30_000_000_000;

/// Content that is sent to a port, and not called for.
pub fn as_sent(bytes: &[u8]) -> Bytes {
    [&SENT, bytes].concat().into()
}

/// How far such a call is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Afoot {
    /// The number that it has, once it was made.
    pub sequence: Option<u64>,
    /// It is made, and this collects its answer.
    pub call: Option<HandleId>,
    /// Where the name leads, as far as is known.
    pub port: Option<HandleId>,
    /// Since when it leads there.
    pub tide: Option<u64>,
}

/// What came of it.
pub(crate) enum Came {
    Answer(Answer),
    Failed(CallError),
    /// Perhaps somebody wants the process to stop. What was done is in the [`Afoot`], to go on with.
    Interrupted,
}

/// A name that was looked up.
pub(crate) enum LookedUp {
    Port { handle: HandleId, sequence: u64 },
    Failed(names::Failure),
    Interrupted,
}

async fn close(kernel: &mut dyn SystemCalls, handle: Option<HandleId>) {
    if let Some(handle) = handle {
        // It may have ended by itself.
        let _ = ask(kernel, SystemCall::Close { handle }).await;
    }
}

/// Sleeps so long. False: something else has happened first.
async fn pause(kernel: &mut dyn SystemCalls, ns: u64, at: Option<Time>) -> bool {
    let then = kernel.now().after(ns);
    let until = at.map_or(then, |at| at.min(then));
    ask(kernel, SystemCall::Sleep { until }).await == Outcome::Slept(Ok(()))
}

/// Looks a name up once. The number that this call had is one of the process's own, and nothing else has it.
pub(crate) async fn look_up(kernel: &mut dyn SystemCalls, path: &str) -> LookedUp {
    let at = kernel.now().after(NAMES_NS);
    let begun = loop {
        let message = Message { bytes: names::Request::Lookup { path: path.into() }.encode(), handles: Box::default() };
        let call = SystemCall::BeginCall { port: NAMES, message, deadline: Deadline::at(at) };
        match ask(kernel, call).await {
            Outcome::CallBegun(Ok(begun)) => break begun,
            Outcome::CallBegun(Err(CallError::Full)) => {
                if !pause(kernel, FULL_NS, None).await {
                    return LookedUp::Interrupted;
                }
            }
            _ => return LookedUp::Failed(names::Failure::Busy),
        }
    };
    match ask(kernel, SystemCall::EndCall { call: begun.call, wait: Wait::Until(at) }).await {
        Outcome::CallEnded(Ok(answer)) => {
            let decoded = names::Answer::decode(&answer.bytes);
            match (decoded, answer.handles.first()) {
                (Ok(names::Answer::Port), Some(handle)) => LookedUp::Port { handle: *handle, sequence: begun.sequence },
                (Ok(names::Answer::Failed(failure)), _) => LookedUp::Failed(failure),
                // It is something else.
                (Ok(_), _) => LookedUp::Failed(names::Failure::IsADirectory),
                (Err(_), _) => LookedUp::Failed(names::Failure::Malformed),
            }
        }
        Outcome::CallEnded(Err(EndCallError::Interrupted)) => {
            close(kernel, Some(begun.call)).await;
            LookedUp::Interrupted
        }
        Outcome::CallEnded(Err(EndCallError::NotYet)) => {
            close(kernel, Some(begun.call)).await;
            LookedUp::Failed(names::Failure::Busy)
        }
        _ => LookedUp::Failed(names::Failure::Busy),
    }
}

/// Looks up a name that lasts, or that will be there again in a moment because it lasts.
pub(crate) async fn look_up_patiently(kernel: &mut dyn SystemCalls, path: &str) -> LookedUp {
    let at = kernel.now().after(NAMES_NS);
    let mut pauses = PAUSES_FIRST;
    loop {
        let tide = kernel.tide(path);
        match look_up(kernel, path).await {
            LookedUp::Failed(names::Failure::NotFound | names::Failure::Unreachable | names::Failure::Undecided)
                if tide.is_some() && kernel.now() < at => {}
            looked_up => return looked_up,
        }
        if !moves_on(kernel, path, tide, Some(at), &mut pauses).await {
            return LookedUp::Interrupted;
        }
    }
}

/// Waits a while, or until a name leads elsewhere. False: something else has happened first.
async fn moves_on(
    kernel: &mut dyn SystemCalls, path: &str, tide: Option<u64>, at: Option<Time>, pauses: &mut u32,
) -> bool {
    let most = std::mem::replace(pauses, (*pauses * 2).min(PAUSES_MAX));
    for _ in 0..most {
        if kernel.tide(path) != tide || is_over(kernel, at) {
            return true;
        }
        if !pause(kernel, PAUSE_NS, at).await {
            return false;
        }
    }
    true
}

/// Makes a call until it is answered, its deadline has come, or its name does not last any more.
pub(crate) async fn pursue(
    kernel: &mut dyn SystemCalls, path: &str, bytes: &Bytes, at: Option<Time>, afoot: &mut Afoot,
) -> Came {
    let (mut pauses, mut looks, mut abandoned) = (PAUSES_FIRST, 0, 0);
    loop {
        if let Some(call) = afoot.call {
            let then = kernel.now().after(LOOK_NS);
            let wait = Wait::Until(at.map_or(then, |at| at.min(then)));
            match ask(kernel, SystemCall::EndCall { call, wait }).await {
                Outcome::CallEnded(Ok(answer)) => {
                    afoot.call = None;
                    return Came::Answer(answer);
                }
                Outcome::CallEnded(Err(EndCallError::NotYet))
                    if kernel.tide(path) == afoot.tide && !is_over(kernel, at) && looks < LOOKS_MAX =>
                {
                    looks += 1;
                }
                Outcome::CallEnded(Err(EndCallError::Interrupted)) => return Came::Interrupted,
                Outcome::CallEnded(Err(EndCallError::NotYet)) => {
                    afoot.call = None;
                    close(kernel, Some(call)).await;
                    close(kernel, afoot.port.take()).await;
                }
                Outcome::CallEnded(Err(EndCallError::Failed(error))) => {
                    afoot.call = None;
                    let is_same = kernel.tide(path) == afoot.tide;
                    let is_abandoned = matches!(error, CallError::Abandoned { .. });
                    abandoned = if is_same && is_abandoned { abandoned + 1 } else { 0 };
                    if !is_lost(&error) || abandoned >= ABANDONED_MAX {
                        return Came::Failed(error);
                    }
                    close(kernel, afoot.port.take()).await;
                }
                // The handle is not one any more: as if it was lost.
                _ => afoot.call = None,
            }
            continue;
        }
        if is_over(kernel, at) {
            return Came::Failed(CallError::Expired(reached(afoot)));
        }
        let Some(port) = afoot.port else {
            let tide = kernel.tide(path);
            // The first time it may have been looked up just now.
            if afoot.tide.is_some() && afoot.tide == tide && !moves_on(kernel, path, tide, at, &mut pauses).await {
                return Came::Interrupted;
            }
            afoot.tide = kernel.tide(path);
            match look_up(kernel, path).await {
                LookedUp::Port { handle, .. } => afoot.port = Some(handle),
                LookedUp::Interrupted => return Came::Interrupted,
                LookedUp::Failed(_) if afoot.tide.is_some() => {}
                // It is bound by nobody who lasts.
                LookedUp::Failed(_) => {
                    return Came::Failed(match afoot.sequence {
                        Some(sequence) => CallError::Abandoned { sequence },
                        None => CallError::PortClosed,
                    });
                }
            }
            continue;
        };
        let message = Message { bytes: bytes.clone(), handles: Box::default() };
        let deadline = Deadline { at, again: afoot.sequence };
        match ask(kernel, SystemCall::BeginCall { port, message, deadline }).await {
            Outcome::CallBegun(Ok(begun)) => {
                looks = 0;
                afoot.sequence = Some(begun.sequence);
                afoot.call = Some(begun.call);
            }
            Outcome::CallBegun(Err(CallError::Full)) => {
                if !pause(kernel, FULL_NS, at).await {
                    return Came::Interrupted;
                }
            }
            Outcome::CallBegun(Err(error)) if is_lost(&error) => close(kernel, afoot.port.take()).await,
            Outcome::CallBegun(Err(error)) => return Came::Failed(error),
            _ => return Came::Failed(CallError::PortClosed),
        }
    }
}

fn is_over(kernel: &mut dyn SystemCalls, at: Option<Time>) -> bool {
    at.is_some_and(|at| at <= kernel.now())
}

fn reached(afoot: &Afoot) -> Reached {
    afoot.sequence.map_or(Reached::Nobody, |sequence| Reached::Server { sequence })
}

/// Is it the port that is gone, and not the call that is refused?
fn is_lost(error: &CallError) -> bool {
    matches!(
        error,
        CallError::PortClosed
            | CallError::Abandoned { .. }
            | CallError::Interrupted(_)
            | CallError::Handle(HandleError::Bad | HandleError::Ended | HandleError::Unreachable)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoChild;
    use crate::una::{Child, Newborn};
    use abi::call::Begun;
    use abi::ids::ProcessId;
    use std::collections::VecDeque;
    use std::task::{Context, Poll, Waker};

    /// Calls that were made: under which number, and at which port.
    #[derive(Default)]
    struct Script {
        now: u64,
        tide: Option<u64>,
        /// What becomes of calls, in turn; then they are silent.
        ends: VecDeque<Result<&'static [u8], CallError>>,
        /// When the tide turns.
        turns: VecDeque<(u64, Option<u64>)>,
        made: Vec<(Option<u64>, HandleId)>,
        calls: u32,
        lookups: u32,
    }

    impl SystemCalls for Script {
        fn now(&self) -> Time {
            Time(self.now)
        }

        fn call(&mut self, call: SystemCall) -> Poll<Outcome> {
            self.calls += 1;
            let begun = |call, sequence| Outcome::CallBegun(Ok(Begun { call: HandleId(call), sequence }));
            Poll::Ready(match call {
                SystemCall::Sleep { until } => {
                    self.pass(until);
                    Outcome::Slept(Ok(()))
                }
                SystemCall::Close { .. } => Outcome::Closed(Ok(())),
                SystemCall::BeginCall { port: NAMES, .. } => {
                    self.lookups += 1;
                    begun(1000, u64::from(self.calls))
                }
                SystemCall::EndCall { call: HandleId(1000), .. } => {
                    let (bytes, handles) = (names::Answer::Port.encode(), Box::new([HandleId(100 + self.lookups)]));
                    Outcome::CallEnded(Ok(Answer { bytes, handles }))
                }
                SystemCall::BeginCall { port, deadline, .. } => {
                    self.made.push((deadline.again, port));
                    begun(2000, deadline.again.unwrap_or(77))
                }
                SystemCall::EndCall { wait, .. } => Outcome::CallEnded(match (self.ends.pop_front(), wait) {
                    (Some(Ok(bytes)), _) => Ok(Answer { bytes: Bytes::new(bytes), handles: Box::default() }),
                    (Some(Err(error)), _) => Err(EndCallError::Failed(error)),
                    (None, Wait::Until(at)) => {
                        self.pass(at);
                        Err(EndCallError::NotYet)
                    }
                    (None, _) => panic!("it would wait for ever"),
                }),
                other => panic!("{other:?}"),
            })
        }

        fn outcome(&mut self) -> Outcome {
            unreachable!("it answers at once")
        }

        fn child(&mut self, _: Child) -> Result<Newborn, NoChild> {
            Err(NoChild)
        }

        fn place(&mut self, _: &str) -> Result<(), crate::una::Code> {
            Err(crate::una::Code::Service)
        }

        fn placed(&mut self, _: ProcessId, _: &str) {}

        fn tide(&self, _: &str) -> Option<u64> {
            self.tide
        }
    }

    impl Script {
        fn pass(&mut self, until: Time) {
            self.now = self.now.max(until.0);
            while let Some((at, tide)) = self.turns.front().copied()
                && at <= self.now
            {
                self.tide = tide;
                self.turns.pop_front();
            }
        }

        fn pursue(&mut self, at: Option<u64>) -> Result<Vec<u8>, CallError> {
            let mut afoot = Afoot { port: Some(HandleId(9)), tide: self.tide, ..Afoot::default() };
            let bytes = Bytes::new(b"asked");
            let pursued = pursue(self, "/port/a", &bytes, at.map(Time), &mut afoot);
            match std::pin::pin!(pursued).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Came::Answer(answer)) => Ok(answer.bytes.to_vec()),
                Poll::Ready(Came::Failed(error)) => Err(error),
                Poll::Ready(Came::Interrupted) | Poll::Pending => panic!("nobody stops it"),
            }
        }
    }

    use std::future::Future;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_call_is_made_again_under_its_number_when_its_name_moves_on() {
        // It is silent, and after a while it is somewhere else, where it is answered.
        let turns = VecDeque::from([(SECOND / 2, Some(2))]);
        let mut script = Script { tide: Some(1), turns, ..Script::default() };
        assert_eq!(script.pursue(Some(SECOND / 2)), Err(CallError::Expired(Reached::Server { sequence: 77 })));
        let turns = VecDeque::from([(SECOND / 2, Some(2))]);
        let ends =
            VecDeque::from([Err(CallError::PortClosed), Err(CallError::Abandoned { sequence: 77 }), Ok(&b"yes"[..])]);
        let mut script = Script { tide: Some(1), turns, ends, ..Script::default() };
        assert_eq!(script.pursue(None), Ok(b"yes".to_vec()));
        let again = |port| (Some(77), HandleId(port));
        assert_eq!(script.made, [(None, HandleId(9)), again(101), again(102)]);
    }

    #[test]
    fn one_that_is_silent_is_asked_anew() {
        let mut script = Script { tide: Some(1), ..Script::default() };
        assert_eq!(script.pursue(Some(5 * SECOND)), Err(CallError::Expired(Reached::Server { sequence: 77 })));
        assert!((3..=5).contains(&script.made.len()), "{:?}", script.made);
        assert!(script.made[1..].iter().all(|(again, _)| *again == Some(77)));
    }

    #[test]
    fn who_does_not_want_to_answer_is_not_asked_for_ever() {
        let ends = (0..9).map(|_| Err(CallError::Abandoned { sequence: 77 })).collect();
        let mut script = Script { tide: Some(1), ends, ..Script::default() };
        assert_eq!(script.pursue(None), Err(CallError::Abandoned { sequence: 77 }));
        assert_eq!(script.made.len(), ABANDONED_MAX as usize);
        // What is refused is told at once.
        let mut script = Script { tide: Some(1), ends: VecDeque::from([Err(CallError::TooLong)]), ..Script::default() };
        assert_eq!(script.pursue(None), Err(CallError::TooLong));
    }
}
