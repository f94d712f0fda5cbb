//! The service `names` alone, at a disk that tears, without a kernel. It knows nothing of order between clients: there is
//! one, that asks one thing after the other.
//!
//! The one idea: after a crash the tree must be what it was after some number of the changes, at least those that were
//! acknowledged, in their order; it must be the same after the next start; and the last change that was acknowledged, asked
//! for again, must be answered as done and not be done again.

use crate::checkers::{Violation, ensure};
use crate::disk::Disk;
use crate::history::HistoryHash;
use crate::random::Random;
use crate::runs::Report;
use crate::tree::Tree;
use abi::call::{Outcome, SystemCall};
use abi::device::JournalResult;
use abi::ids::{CallId, HandleId, NodeId, ProcessId, Time};
use abi::interface::names::{Answer, Existing, Request};
use abi::message::{Answerable, Badge, Delivery, Notice, NoticeEvent, Received};
use services::names::Names;
use services::{Input, Service};
use std::collections::{BTreeMap, VecDeque};

const LIVES: u64 = 6;

/// The service and its surroundings.
struct Stand {
    service: Names,
    disk: Disk<u64>,
    random: Random,
    calls: VecDeque<SystemCall>,
    /// By the right to answer.
    answers: BTreeMap<HandleId, Answer>,
    sequence: u64,
    hash: HistoryHash,
    steps: u64,
    exited: Option<u32>,
}

impl Stand {
    fn step(&mut self, input: Input) {
        self.steps += 1;
        self.hash.add(&input);
        let mut calls = Vec::new();
        self.service.step(Time(0), input, &mut calls);
        self.service.check();
        self.calls.extend(calls);
        while let Some(call) = self.calls.pop_front() {
            match call {
                SystemCall::Journal { work, notify, .. } => self.disk.ask(notify.token, work),
                SystemCall::Reply { reply, message } => {
                    let answer = Answer::decode(&message.bytes).expect("the service answers as its interface says");
                    self.answers.insert(reply, answer);
                }
                SystemCall::Exit { code } => self.exited = Some(code),
                call => panic!("the service wants {call:?} for what has no handles"),
            }
        }
    }

    /// Does one work of the disk, if there is any.
    fn work(&mut self) -> bool {
        let Some((token, result)) = self.disk.work(false, &mut self.random) else { return false };
        if self.exited.is_none() {
            self.notice(token, result);
        }
        true
    }

    fn notice(&mut self, token: u64, result: JournalResult) {
        self.step(Input::Received(Received::Notice(Notice { token, event: NoticeEvent::Journal(result) })));
    }

    fn settle(&mut self) {
        while self.work() {}
    }

    fn start(&mut self) {
        self.service = Names::new();
        self.answers.clear();
        self.step(Input::Begun);
        self.step(Input::Outcome(Outcome::JournalAsked(Ok(()))));
    }

    fn ask(&mut self, request: &Request, sequence: u64) -> HandleId {
        self.sequence = self.sequence.max(sequence);
        let reply = HandleId(1000 + self.steps as u32);
        let caller = ProcessId::new(NodeId(1), 5);
        let id = CallId { caller, sequence };
        self.step(Input::Received(Received::Message(Delivery {
            bytes: request.encode(),
            handles: Box::default(),
            sender: caller,
            badge: Badge(0),
            call: Some(Answerable { id, reply }),
        })));
        reply
    }

    fn request(&mut self) -> Request {
        let paths = ["/a", "/b", "/c", "/a/x", "/b/x"];
        let mut path = || paths[self.random.below(5) as usize].to_string();
        let (one, other) = (path(), path());
        match self.random.below(8) {
            0..2 => Request::MakeDirectory { path: one },
            2..6 => {
                let length = if self.random.once_in(3) { 4000 } else { 1 + self.random.below(40) as usize };
                let record = vec![self.random.number() as u8; length];
                Request::Bind { path: one, record, existing: Existing::Replace }
            }
            6 => Request::Unbind { path: one },
            _ => Request::Rename { from: one, to: other },
        }
    }

    /// Everything that the service says is there.
    fn tree(&mut self) -> Result<Vec<(String, Answer)>, Violation> {
        let mut seen = Vec::new();
        let mut open = vec!["/".to_string()];
        while let Some(path) = open.pop() {
            let list = Request::List { path: path.clone(), after: String::new(), names_max: 100 };
            let listed = self.answer_to(&list)?;
            let Answer::Names { names, .. } = &listed else { return Err(Violation(format!("{path}: {listed:?}"))) };
            for (name, _) in names {
                let below = format!("{}/{name}", path.trim_end_matches('/'));
                let found = self.answer_to(&Request::Lookup { path: below.clone() })?;
                if found == Answer::Directory {
                    open.push(below.clone());
                }
                seen.push((below, found));
            }
        }
        seen.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(seen)
    }

    fn answer_to(&mut self, request: &Request) -> Result<Answer, Violation> {
        let reply = self.ask(request, self.sequence + 1);
        self.settle();
        ensure!(self.exited.is_none(), "the service ended with {:?}", self.exited);
        self.answers.remove(&reply).ok_or(Violation(format!("no answer to {request:?}")))
    }
}

/// What the reference says is there.
fn expected(tree: &Tree) -> Vec<(String, Answer)> {
    let mut tree = tree.clone();
    let mut seen = Vec::new();
    let mut open = vec!["/".to_string()];
    while let Some(path) = open.pop() {
        let list = Request::List { path: path.clone(), after: String::new(), names_max: 100 };
        let Answer::Names { names, .. } = tree.apply(&list) else { unreachable!("only directories are listed") };
        for (name, _) in names {
            let below = format!("{}/{name}", path.trim_end_matches('/'));
            let found = tree.apply(&Request::Lookup { path: below.clone() });
            if found == Answer::Directory {
                open.push(below.clone());
            }
            seen.push((below, found));
        }
    }
    seen.sort_by(|one, other| one.0.cmp(&other.0));
    seen
}

pub fn play(seed: u64) -> Result<Report, Violation> {
    let mut stand = Stand {
        service: Names::new(),
        disk: Disk::default(),
        random: Random::new(seed ^ 0x70c4),
        calls: VecDeque::new(),
        answers: BTreeMap::new(),
        sequence: 0,
        hash: HistoryHash::default(),
        steps: 0,
        exited: None,
    };
    let mut certain = Tree::default();
    stand.start();
    stand.settle();
    for life in 0..LIVES {
        // What the tree is after each change that was asked for, and how many of them were acknowledged.
        let mut trees = vec![certain.clone()];
        let mut asked: Vec<(HandleId, Request, u64)> = Vec::new();
        let mut acknowledged = 0;
        for _ in 0..stand.random.below(30) {
            let (request, sequence) = (stand.request(), stand.sequence + 1);
            let reply = stand.ask(&request, sequence);
            let mut tree = trees.last().expect("it begins with one").clone();
            tree.apply(&request);
            trees.push(tree);
            asked.push((reply, request, sequence));
            for _ in 0..stand.random.below(4) {
                stand.work();
            }
            acknowledged =
                asked.iter().rposition(|(reply, ..)| stand.answers.contains_key(reply)).map_or(0, |last| last + 1);
        }
        // The last one that was a change and is known to be one, with what the tree was right after it.
        let mut last = None;
        for (index, (reply, request, sequence)) in asked.iter().enumerate().take(acknowledged) {
            if stand.answers.get(reply) == Some(&Answer::Done) {
                last = Some((index, request.clone(), *sequence));
            }
        }
        // The disk is asked to do what it was asked for, or the machine stops as it is.
        if stand.random.once_in(4) {
            stand.settle();
        }
        let by_power = !stand.random.once_in(4);
        if by_power {
            stand.disk.crash(&mut stand.random);
        } else {
            while stand.disk.work(false, &mut stand.random).is_some() {}
        }
        stand.start();
        stand.settle();
        let found = stand.tree()?;
        let fits = (acknowledged..trees.len()).find(|count| expected(&trees[*count]) == found);
        let Some(count) = fits else {
            return Err(Violation(format!(
                "life {life}: after {acknowledged} acknowledged of {} changes the tree is {found:?}",
                asked.len()
            )));
        };
        certain = trees[count].clone();
        // A later change may have been done too; then this one cannot be asked again.
        if let Some((_, request, sequence)) = last
            && asked.iter().skip(acknowledged).all(|(_, request, _)| matches!(request, Request::Lookup { .. }))
        {
            let reply = stand.ask(&request, sequence);
            stand.settle();
            let answer = stand.answers.get(&reply).cloned();
            ensure!(answer == Some(Answer::Done), "asked again, {request:?} is answered {answer:?}");
            ensure!(stand.tree()? == found, "asked again, {request:?} was done again");
        }
        stand.disk.crash(&mut stand.random);
        stand.start();
        stand.settle();
        let again = stand.tree()?;
        ensure!(again == found, "life {life}: the tree was {found:?} and after the next start is {again:?}");
    }
    Ok(Report { steps: stand.steps, records: 0, hash: stand.hash.value() })
}
