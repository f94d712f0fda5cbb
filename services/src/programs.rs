//! The service `programs`: which programs the system knows, as `abi::interface::programs` describes it. This file knows
//! nothing of where modules lie or how they are compiled.
//!
//! The one idea: a record is named by the hash of what it is about, so it is written once and never changed.

use crate::ledger::{self, HELD_BACK_MAX, JOURNAL_TOKEN, Ledger, LedgerError};
use crate::names::give_up;
use crate::once::{Done, Standing};
use crate::{FIRST_GRANT, Input, OWN_PORT, Service};
use abi::call::{Outcome, SystemCall};
use abi::device::JournalResult;
use abi::encoding::{Malformed, Reader, Writer};
use abi::ids::{CallId, HandleId, ProcessId, ProgramId, Time};
use abi::interface::programs::{Answer, Failure, LIST_RECORDS_MAX, Record, Request};
use abi::message::{Answerable, Delivery, Message, Notice, NoticeEvent, Received};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;

/// The most programs known. Then: [`Failure::Full`].
pub const PROGRAMS_MAX: usize = 1 << 20;

/// The service.
///
/// Invariants: `records` holds what the ledger's records say, in their order.
pub struct Programs {
    state: State,
    records: BTreeMap<ProgramId, Record>,
    done: Done,
}

enum State {
    Loading { ledger: Option<Ledger>, waiting: Vec<Delivery> },
    Serving { ledger: Ledger },
}

/// A change as the ledger keeps it.
enum Change {
    Register(Record),
    Forget(ProgramId),
    /// From compaction: only who did what last.
    Remember,
}

impl Default for Programs {
    fn default() -> Programs {
        Programs::new()
    }
}

impl Programs {
    pub fn new() -> Programs {
        let state = State::Loading { ledger: None, waiting: Vec::new() };
        Programs { state, records: BTreeMap::new(), done: Done::default() }
    }
}

impl Service for Programs {
    fn port(&self) -> HandleId {
        OWN_PORT
    }

    fn step(&mut self, _: Time, input: Input, calls: &mut Vec<SystemCall>) {
        match input {
            Input::Begun => {
                let State::Loading { ledger, .. } = &mut self.state else { unreachable!("a process begins once") };
                *ledger = Some(Ledger::open(FIRST_GRANT, OWN_PORT, calls));
            }
            Input::Received(Received::Message(delivery)) => match &mut self.state {
                State::Loading { waiting, .. } if waiting.len() < HELD_BACK_MAX => waiting.push(delivery),
                State::Serving { ledger } if ledger.takes_more() => self.request(delivery, calls),
                _ => refuse(delivery, Failure::Busy, calls),
            },
            Input::Received(Received::Notice(Notice { token: JOURNAL_TOKEN, event: NoticeEvent::Journal(result) })) => {
                self.journal(result, calls)
            }
            Input::Received(Received::Notice(_)) => {}
            Input::Outcome(Outcome::JournalAsked(Err(_))) => {
                calls.push(SystemCall::Exit { code: crate::exit::MISPLACED })
            }
            Input::Outcome(_) => {}
        }
    }

    fn check(&self) {
        if let State::Serving { ledger } = &self.state {
            ledger.check();
        }
    }
}

/// Answers at once, whatever else is held back: nothing was looked at.
fn refuse(delivery: Delivery, failure: Failure, calls: &mut Vec<SystemCall>) {
    calls.extend(delivery.handles.iter().map(|handle| SystemCall::Close { handle: *handle }));
    if let Some(Answerable { reply, .. }) = delivery.call {
        let message = Message { bytes: Answer::Failed(failure).encode(), handles: Box::default() };
        calls.push(SystemCall::Reply { reply, message });
    }
}

impl Programs {
    fn journal(&mut self, result: JournalResult, calls: &mut Vec<SystemCall>) {
        let outcome = match (&mut self.state, result) {
            (State::Loading { .. }, JournalResult::Loaded(all)) => self.load(&all, calls),
            (State::Loading { .. }, JournalResult::Failed(failure)) => Err(LedgerError::Device(failure)),
            (State::Loading { .. }, _) => unreachable!("nothing else was asked of the journal yet"),
            (State::Serving { ledger }, result) => ledger.done(&result, calls),
        };
        if let Err(error) = outcome {
            calls.push(give_up(error));
            return;
        }
        if let State::Serving { ledger } = &mut self.state
            && ledger.wants_compaction()
        {
            let records = self.records.values().map(|record| Change::Register(*record).encode(None));
            let done = self.done.iter().map(|call| Change::Remember.encode(Some(call)));
            ledger.compact(records.chain(done), calls);
        }
    }

    fn load(&mut self, all: &[u8], calls: &mut Vec<SystemCall>) -> Result<(), LedgerError> {
        let replay = ledger::replay(all)?;
        for record in &replay.records {
            let (call, change) = Change::decode(record).map_err(|Malformed { .. }| LedgerError::Damaged)?;
            self.apply(change).map_err(|_| LedgerError::Damaged)?;
            if let Some(call) = call {
                self.done.remember(call);
            }
        }
        let State::Loading { ledger, waiting } = &mut self.state else { unreachable!("the journal is loaded once") };
        let mut ledger = ledger.take().expect("the ledger was opened at the beginning");
        let waiting = core::mem::take(waiting);
        ledger.adopt(all, &replay, calls);
        self.state = State::Serving { ledger };
        waiting.into_iter().for_each(|delivery| self.request(delivery, calls));
        Ok(())
    }

    fn request(&mut self, delivery: Delivery, calls: &mut Vec<SystemCall>) {
        let request = match (Request::decode(&delivery.bytes), delivery.handles.is_empty()) {
            (Ok(request), true) => request,
            _ => return refuse(delivery, Failure::Malformed, calls),
        };
        let Some(to) = delivery.call else { return };
        let answer = match request {
            Request::Find(program) => {
                self.records.get(&program).map_or(Answer::Failed(Failure::NotFound), |record| Answer::Found(*record))
            }
            Request::List { after, records_max } => self.list(after, records_max.min(LIST_RECORDS_MAX)),
            Request::Register(record) => self.change(to, Change::Register(record), calls),
            Request::Forget(program) => self.change(to, Change::Forget(program), calls),
        };
        let State::Serving { ledger } = &mut self.state else { unreachable!("nothing is answered before the load") };
        let message = Message { bytes: answer.encode(), handles: Box::default() };
        ledger.when_safe(SystemCall::Reply { reply: to.reply, message }, calls);
    }

    fn list(&self, after: Option<ProgramId>, records_max: u32) -> Answer {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.records.range((from, Bound::Unbounded));
        let records = rest.by_ref().take(records_max as usize).map(|(_, record)| *record).collect();
        Answer::Records { records, more: rest.next().is_some() }
    }

    fn change(&mut self, to: Answerable, change: Change, calls: &mut Vec<SystemCall>) -> Answer {
        match self.done.standing(to.id) {
            Standing::Done => return Answer::Done,
            Standing::Forgotten => return Answer::Failed(Failure::Forgotten),
            Standing::New => {}
        }
        let record = change.encode(Some(to.id));
        if let Err(failure) = self.apply(change) {
            return Answer::Failed(failure);
        }
        self.done.remember(to.id);
        let State::Serving { ledger } = &mut self.state else { unreachable!("nothing is changed before the load") };
        ledger.append(&record, calls);
        Answer::Done
    }

    /// A failure changes nothing.
    fn apply(&mut self, change: Change) -> Result<(), Failure> {
        match change {
            Change::Register(record) => match self.records.get(&record.program) {
                Some(known) if *known != record => Err(Failure::Contradiction),
                None if self.records.len() >= PROGRAMS_MAX => Err(Failure::Full),
                _ => {
                    self.records.insert(record.program, record);
                    Ok(())
                }
            },
            Change::Forget(program) => self.records.remove(&program).map(|_| ()).ok_or(Failure::NotFound),
            Change::Remember => Ok(()),
        }
    }
}

impl Change {
    fn encode(&self, call: Option<CallId>) -> Vec<u8> {
        let mut to = Writer::default();
        match call {
            None => to.u8(0),
            Some(call) => to.u8(1).u64(call.caller.to_bits()).u64(call.sequence),
        };
        match self {
            Change::Register(record) => record.write(to.u8(0)),
            Change::Forget(program) => {
                to.u8(1).raw(&program.0);
            }
            Change::Remember => {
                to.u8(2);
            }
        }
        to.finish()
    }

    fn decode(bytes: &[u8]) -> Result<(Option<CallId>, Change), Malformed> {
        let mut from = Reader::new(bytes);
        let call = match from.u8()? {
            0 => None,
            1 => Some(CallId { caller: ProcessId::from_bits(from.u64()?), sequence: from.u64()? }),
            _ => return Err(from.malformed()),
        };
        let change = match from.u8()? {
            0 => Change::Register(Record::read(&mut from)?),
            1 => Change::Forget(ProgramId(from.raw(32)?.try_into().expect("32 bytes were taken"))),
            2 => Change::Remember,
            _ => return Err(from.malformed()),
        };
        from.finish()?;
        Ok((call, change))
    }
}
