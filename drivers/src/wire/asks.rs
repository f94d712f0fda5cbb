//! Requests of one link that are not over: those this node has made, and those it was asked. Knows no socket; nothing happens here but
//! that the tables change.
//!
//! The one idea: every request that left gets exactly one answer, even one that nobody waits for any more. So both ends count the same,
//! both know the bounds, and an end that goes over one, or uses a number twice, has broken the rules.
//!
//! ```text
//!   asker   Open ── deadline ──► Cancelled ── whatever answer ──► gone          Open ── answer ──► gone
//!   asked   Arriving ── last frame ──► Asked ── given, or cancelled ──► gone
//! ```

use super::frame::{Header, Outcome, number};
use super::limits::{ANSWER_BYTES_MAX, ASK_BYTES_MAX, ASKS_MAX, BODY_BYTES};
use super::{AskError, Class, Done, Service, Violation};
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// What this node has asked.
///
/// Invariants: `bytes` is the sum over the bodies of `open`; `arriving` over the promised lengths of answers that are not whole;
/// `deadlines` has exactly those of `open` that somebody waits for.
#[derive(Default)]
pub struct Asking {
    last: u32,
    open: HashMap<u32, Open>,
    deadlines: BTreeSet<(Instant, u32)>,
    bytes: usize,
    arriving: usize,
    over: bool,
}

struct Open {
    /// Taken when nobody waits any more.
    done: Option<Done>,
    deadline: Instant,
    class: Class,
    bytes: usize,
    answer: Option<Arriving>,
}

/// A body of which not all frames are here.
struct Arriving {
    outcome: Outcome,
    total: usize,
    bytes: Vec<u8>,
}

/// What is to be called, with what.
pub type Finished = Option<(Done, Result<Vec<u8>, AskError>)>;

impl Asking {
    /// A number for a request. It comes back when it cannot be made.
    pub fn begin(
        &mut self, class: Class, bytes: usize, deadline: Instant, done: Done,
    ) -> Result<u32, (Done, AskError)> {
        if self.over {
            return Err((done, AskError::Unlinked));
        }
        if self.open.len() >= ASKS_MAX || self.bytes + bytes > ASK_BYTES_MAX {
            return Err((done, AskError::Busy));
        }
        // Some number is free: there are far fewer requests than numbers.
        let id = loop {
            self.last = self.last.wrapping_add(1);
            if !self.open.contains_key(&self.last) {
                break self.last;
            }
        };
        self.bytes += bytes;
        self.deadlines.insert((deadline, id));
        self.open.insert(id, Open { done: Some(done), deadline, class, bytes, answer: None });
        Ok(id)
    }

    /// When somebody has waited long enough.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Whoever has waited long enough, with the class and number of the request, which is to be cancelled.
    pub fn late(&mut self, now: Instant) -> Vec<(Class, u32, Done)> {
        let mut late = Vec::new();
        while let Some((deadline, id)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let open = self.open.get_mut(&id).expect("deadlines are of what is open");
            late.push((open.class, id, open.done.take().expect("somebody waits for it")));
        }
        late
    }

    /// A request of which nothing was sent is over without an answer.
    pub fn forget(&mut self, id: u32) {
        if let Some(open) = self.open.remove(&id) {
            self.bytes -= open.bytes;
        }
    }

    pub fn answer(&mut self, header: Header, payload: &[u8]) -> Result<Finished, Violation> {
        let outcome = Outcome::of(header.detail)?;
        let (total, part) = number(payload)?;
        let total = total as usize;
        let open = self.open.get_mut(&header.id).ok_or(Violation::BadId(header.id))?;
        if open.answer.is_some() || open.class != header.class || part.len() > total {
            return Err(Violation::OutOfPlace("an answer"));
        }
        if total > BODY_BYTES || self.arriving + total > ANSWER_BYTES_MAX {
            return Err(Violation::TooMuch("answers"));
        }
        self.arriving += total;
        open.answer = Some(Arriving { outcome, total, bytes: Vec::new() });
        self.more(header, part)
    }

    pub fn more(&mut self, header: Header, part: &[u8]) -> Result<Finished, Violation> {
        let open = self.open.get_mut(&header.id).ok_or(Violation::BadId(header.id))?;
        let answer = open.answer.as_mut().ok_or(Violation::OutOfPlace("more of an answer"))?;
        answer.add(part)?;
        if answer.bytes.len() < answer.total {
            return Ok(None);
        }
        let open = self.open.remove(&header.id).expect("it was there");
        let answer = open.answer.expect("it was there");
        self.bytes -= open.bytes;
        self.arriving -= answer.total;
        let Some(done) = open.done else { return Ok(None) };
        self.deadlines.remove(&(open.deadline, header.id));
        let result = match answer.outcome {
            Outcome::Done => Ok(answer.bytes),
            Outcome::Failed => Err(AskError::Failed(String::from_utf8_lossy(&answer.bytes).into())),
            Outcome::Busy => Err(AskError::Busy),
            Outcome::Cancelled => return Err(Violation::OutOfPlace("a request was cancelled that was not")),
        };
        Ok(Some((done, result)))
    }

    /// The link is gone: whoever waits gets no answer.
    pub fn end(&mut self) -> Vec<(u32, Class, Done)> {
        self.over = true;
        self.deadlines.clear();
        (self.bytes, self.arriving) = (0, 0);
        // In the order in which they were made, so that nothing depends on how a table is built.
        let mut open: Vec<(u32, Open)> = self.open.drain().collect();
        open.sort_by_key(|(id, _)| *id);
        open.into_iter().filter_map(|(id, open)| Some((id, open.class, open.done?))).collect()
    }

    pub fn check(&self) {
        assert_eq!(self.bytes, self.open.values().map(|open| open.bytes).sum::<usize>());
        let arriving = self.open.values().flat_map(|open| &open.answer).map(|answer| answer.total);
        assert_eq!(self.arriving, arriving.sum::<usize>());
        assert_eq!(self.deadlines.len(), self.open.values().filter(|open| open.done.is_some()).count());
    }
}

impl Arriving {
    fn add(&mut self, part: &[u8]) -> Result<(), Violation> {
        if self.bytes.len() + part.len() > self.total || (part.is_empty() && self.total > 0) {
            return Err(Violation::OutOfPlace("a body's part"));
        }
        self.bytes.extend(part);
        Ok(())
    }
}

/// What this node was asked.
///
/// Invariants: `bytes` is the sum over the promised lengths in `open`.
#[derive(Default)]
pub struct Serving {
    open: HashMap<u32, Asked>,
    bytes: usize,
    /// Tells requests apart that have had the same number.
    serial: u64,
}

struct Asked {
    service: Service,
    class: Class,
    serial: u64,
    bytes: usize,
    /// Until it is whole.
    arriving: Option<Arriving>,
}

/// A request that is here, whole.
pub struct Whole {
    pub service: Service,
    pub class: Class,
    pub serial: u64,
    pub body: Vec<u8>,
}

impl Serving {
    pub fn ask(&mut self, header: Header, payload: &[u8]) -> Result<Option<Whole>, Violation> {
        let (total, part) = number(payload)?;
        let total = total as usize;
        if self.open.contains_key(&header.id) {
            return Err(Violation::BadId(header.id));
        }
        if total > BODY_BYTES || self.open.len() >= ASKS_MAX || self.bytes + total > ASK_BYTES_MAX {
            return Err(Violation::TooMuch("requests"));
        }
        self.bytes += total;
        self.serial += 1;
        let arriving = Some(Arriving { outcome: Outcome::Done, total, bytes: Vec::new() });
        let service = Service(header.detail);
        self.open
            .insert(header.id, Asked { service, class: header.class, serial: self.serial, bytes: total, arriving });
        self.more(header, part)
    }

    pub fn more(&mut self, header: Header, part: &[u8]) -> Result<Option<Whole>, Violation> {
        let asked = self.open.get_mut(&header.id).ok_or(Violation::BadId(header.id))?;
        let arriving = asked.arriving.as_mut().ok_or(Violation::OutOfPlace("more of a request"))?;
        arriving.add(part)?;
        if arriving.bytes.len() < arriving.total {
            return Ok(None);
        }
        let body = asked.arriving.take().expect("it was there").bytes;
        Ok(Some(Whole { service: asked.service, class: asked.class, serial: asked.serial, body }))
    }

    /// Nobody waits for it any more. `true`: it is not answered yet, so that it is to be answered now. A request that is answered
    /// already is not known any more, which is no fault of whoever cancels.
    pub fn cancel(&mut self, id: u32) -> bool {
        self.remove(id)
    }

    /// Whether the answer may be sent: it is the first, and nobody has cancelled the request.
    pub fn answered(&mut self, id: u32, serial: u64) -> bool {
        self.open.get(&id).is_some_and(|asked| asked.serial == serial) && self.remove(id)
    }

    fn remove(&mut self, id: u32) -> bool {
        let removed = self.open.remove(&id);
        self.bytes -= removed.as_ref().map_or(0, |asked| asked.bytes);
        removed.is_some()
    }

    pub fn check(&self) {
        assert_eq!(self.bytes, self.open.values().map(|asked| asked.bytes).sum::<usize>());
    }
}
